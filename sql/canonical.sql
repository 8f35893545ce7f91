-- crm.canonicalize(): text columns in canonical form, whoever writes them.
\set SHOW_CONTEXT never
SET crm.strict_input = on;
CREATE ROLE regress_canonical_user;
CREATE SCHEMA regress_canonical AUTHORIZATION regress_canonical_user;
GRANT USAGE ON SCHEMA crm TO regress_canonical_user;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_canonical_user;
CREATE FUNCTION regress_canonical.rebuilds() RETURNS bigint LANGUAGE C AS '$libdir/crm', 'crm_canonicalize_rebuilds';
SET search_path = regress_canonical;
SET ROLE regress_canonical_user;

CREATE TABLE person (
    id int PRIMARY KEY,
    name text, phone text, mail text, code text, host text, site text, country text, currency text,
    given_name text, family_name text, full_name text
) WITH (autovacuum_enabled = false); -- an analyze would make the plan anew
CREATE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON person
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize(
        'name=name', 'phone=phone', 'mail=email', 'code=uscc', 'host=domain', 'site=website', 'country=country',
        'currency=currency', 'given_name=name', 'family_name=name', 'full_name=name',
        'full_name=given_name,family_name');

-- each kind
INSERT INTO person (id, name, phone, mail, code, host, site, country, currency)
VALUES (1, E'  北京\u3000百度\n 网讯  ', '010 1234 5678 转 5', ' Ann@Example.COM ', '91350100m000100y43', 'Example.ORG', 'HTTPS://WWW.例子.CN:443/', ' cn ', 'cny')
RETURNING name, phone, mail, code, host, site, country, currency;

-- names keep their spelling; only composition, white space and what cannot be seen change
INSERT INTO person (id, name) VALUES
    (10, 'McDonald''s  Ｃｏｍｐａｎｙ'), (11, U&'Ame\0301lie'), (12, U&'\200Bx\202Ay\00ADz\0007'),
    (14, U&'\1112\1161\11AB'), (15, E'\t\n '), (16, '')
RETURNING id, name, length(name);

-- but a zero width non-joiner spells a word
INSERT INTO person (id, name) VALUES (13, U&'\0646\0645\06CC\200C\062E\0648\0627\0647\0645') RETURNING length(name);

-- websites and domains
INSERT INTO person (id, site, host) VALUES
    (20, 'www.Example.com', 'example.com'), (21, 'http://example.com:80', NULL), (22, 'http://Example.com:8080/Path?Q=A#F', NULL),
    (23, 'https://example.com./', '例子。中国')
RETURNING id, site, host;

-- national numbers are those of the row's country, else of crm.default_region
INSERT INTO person (id, phone, country) VALUES (30, '(202) 555-0123', 'us'), (31, '2123 4567', 'HK'), (32, '+44 20 7946 0958', 'CN')
RETURNING id, phone, country;
SET crm.default_region = 'CN';
INSERT INTO person (id, phone, country) VALUES (33, '138 0013 8000', NULL), (34, '(202) 555-0123', 'US') RETURNING id, phone;
RESET crm.default_region;
INSERT INTO person (id, phone) VALUES (35, '138 0013 8000');  -- fails: which country?

-- full names
INSERT INTO person (id, given_name, family_name, full_name) VALUES
    (40, '小明', '王', NULL), (41, 'Ann', 'Lee', ''), (42, NULL, 'Lee', NULL), (43, 'Ann', NULL, NULL),
    (44, '民秀', '김', NULL), (45, 'Xiaoming', '王', NULL), (46, 'Ann', 'Lee', 'Dr. Ann Lee'), (47, NULL, NULL, NULL),
    (48, ' ', '王', NULL)
RETURNING id, full_name;
-- a name made from its parts follows them; one that was written does not
UPDATE person SET family_name = 'Smith' WHERE id IN (41, 42, 46) RETURNING id, full_name;
UPDATE person SET full_name = NULL WHERE id = 46 RETURNING full_name;
UPDATE person SET given_name = NULL, family_name = NULL WHERE id = 41 RETURNING full_name;

-- fails: all faults of a row in one error, with table, column, value and hint
INSERT INTO person (id, phone, mail, code, host, site, country, currency)
VALUES (50, '12', 'ann@', '91350100M000100Y44', 'exa mple', 'ftp://example.com', 'China', '￥');
INSERT INTO person (id, mail) VALUES (51, 'ann lee@example.com');
INSERT INTO person (id, site) VALUES (52, 'http://ann@example.com/');
INSERT INTO person (id, site) VALUES (53, 'http://example.com:99999');
INSERT INTO person (id, mail) VALUES (54, repeat('x', 1000000));
DO $$
DECLARE
    s text;
    t text;
    c text;
BEGIN
    INSERT INTO regress_canonical.person (id, mail) VALUES (55, 'ann');
EXCEPTION WHEN invalid_text_representation THEN
    GET STACKED DIAGNOSTICS s = SCHEMA_NAME, t = TABLE_NAME, c = COLUMN_NAME;
    RAISE INFO 'schema %, table %, column %', s, t, c;
END $$;

-- the default keeps what cannot be parsed, trimmed
RESET crm.strict_input;
SHOW crm.strict_input;
INSERT INTO person (id, phone, mail, code, country) VALUES (60, '  see  reception ', ' none', '321281000109294', 'China')
RETURNING phone, mail, code, country;
SET crm.strict_input = on;
-- and such a value stands until it is changed itself
UPDATE person SET name = 'Reception' WHERE id = 60 RETURNING phone, mail;
UPDATE person SET mail = 'nobody' WHERE id = 60;  -- fails
UPDATE person SET mail = 'Nobody@example.com' WHERE id = 60 RETURNING mail;
UPDATE person SET phone = '' WHERE id = 60 RETURNING phone;

-- COPY, INSERT ... ON CONFLICT and MERGE meet the same rule
COPY person (id, mail) FROM stdin;
70	Ann@Example.NET
\.
INSERT INTO person (id, mail) VALUES (70, 'BOB@Example.NET') ON CONFLICT (id) DO UPDATE SET mail = excluded.mail RETURNING mail;
MERGE INTO person USING (VALUES (70)) AS v (id) ON person.id = v.id WHEN MATCHED THEN UPDATE SET mail = 'Eve@Example.NET';
SELECT mail FROM person WHERE id = 70;

-- the plan is made once, and again only when the table changes
SELECT rebuilds() AS before \gset
INSERT INTO person (id, mail) SELECT g, 'A' || g || '@Example.com' FROM generate_series(100, 200) AS g;
UPDATE person SET mail = upper(mail) WHERE id >= 100;
SELECT rebuilds() - :before AS rebuilt;
SELECT count(*) FROM person WHERE id >= 100 AND mail = 'a' || id || '@example.com';
ALTER TABLE person DROP COLUMN name CASCADE;
INSERT INTO person (id) VALUES (300);  -- fails: the trigger names a column that is gone
CREATE OR REPLACE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON person
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('mail=email', 'fax=phone');
INSERT INTO person (id) VALUES (300);  -- fails: the trigger names a column that is not yet there
ALTER TABLE person ADD COLUMN fax text;
SELECT rebuilds() AS before \gset
INSERT INTO person (id, mail, fax) VALUES (300, 'A@B.CD', '+1 (202) 555-0123') RETURNING mail, fax;
INSERT INTO person (id, mail, fax) VALUES (301, 'A@B.CD', '+1 (202) 555-0123') RETURNING mail, fax;
ALTER TABLE person RENAME COLUMN fax TO telefax;
CREATE OR REPLACE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON person
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('mail=email', 'telefax=phone');
UPDATE person SET telefax = '+1 202 555 0124' WHERE id = 301 RETURNING telefax;
SELECT rebuilds() - :before AS rebuilt;

-- lengths, padding and domains are kept
CREATE DOMAIN short_name AS varchar(10) CHECK (VALUE <> 'nobody');
CREATE TABLE typed (id int, phone varchar(14), country char(2), currency char(3), name short_name);
CREATE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON typed
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('phone=phone', 'country=country', 'currency=currency', 'name=name');
INSERT INTO typed VALUES (1, '138 0013 8000', 'cn', 'cny', ' Ann  Lee') RETURNING *;
INSERT INTO typed VALUES (2, '10 12345678x12', 'cn', NULL, NULL);  -- fails: too long in canonical form
INSERT INTO typed VALUES (3, NULL, NULL, NULL, ' nobody ');  -- fails: the domain
INSERT INTO typed VALUES (4, NULL, 'c', NULL, NULL);  -- fails
UPDATE typed SET country = '' RETURNING country, country IS NULL AS is_null;

-- partitions with columns in another order, and an inherited dropped column
CREATE TABLE parted (id int, mail text) PARTITION BY RANGE (id);
CREATE TABLE part1 (gone int, mail text, id int);
ALTER TABLE part1 DROP COLUMN gone;
ALTER TABLE parted ATTACH PARTITION part1 FOR VALUES FROM (0) TO (10);
CREATE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON parted
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('mail=email');
INSERT INTO parted VALUES (1, 'Ann@Example.com') RETURNING *;

-- fails: wrong arguments, columns and events
CREATE TABLE wrong (id int, mail text, number int, mails text[], twice text GENERATED ALWAYS AS (mail || mail) STORED);
CREATE TRIGGER t BEFORE INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('mail');
INSERT INTO wrong (id) VALUES (1);
CREATE OR REPLACE TRIGGER t BEFORE INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('mail=e-mail');
INSERT INTO wrong (id) VALUES (1);
CREATE OR REPLACE TRIGGER t BEFORE INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('number=phone');
INSERT INTO wrong (id) VALUES (1);
CREATE OR REPLACE TRIGGER t BEFORE INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('mails=email');
INSERT INTO wrong (id) VALUES (1);
CREATE OR REPLACE TRIGGER t BEFORE INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('twice=email');
INSERT INTO wrong (id) VALUES (1);
CREATE OR REPLACE TRIGGER t BEFORE INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('mail=mail,id');
INSERT INTO wrong (id) VALUES (1);
CREATE OR REPLACE TRIGGER t AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('mail=email');
INSERT INTO wrong (id) VALUES (1);
CREATE OR REPLACE TRIGGER t BEFORE INSERT ON wrong EXECUTE FUNCTION crm.canonicalize('mail=email');
INSERT INTO wrong (id) VALUES (1);
SELECT crm.canonicalize();
-- no arguments, nothing to do
DROP TRIGGER t ON wrong;
CREATE TRIGGER t BEFORE INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION crm.canonicalize();
INSERT INTO wrong (id, mail) VALUES (1, 'A') RETURNING id, mail;
RESET ROLE;

-- a workspace carries the triggers
GRANT CREATE ON DATABASE contrib_regression TO regress_canonical_user;
SET ROLE regress_canonical_user;
SELECT crm.create_workspace('regress_canonical_ws');
SET search_path = regress_canonical_ws;
INSERT INTO member (name, email, phone) VALUES (' Ann  Lee ', 'Ann@Example.com', '+86 138 0013 8000') RETURNING name, email, phone;
INSERT INTO account (name, phone, email, uscc, website, country)
VALUES ('Acme', '138 0013 8000', 'Info@Acme.CN', '91350100m000100y43', 'WWW.Acme.CN', 'cn') RETURNING name, phone, email, uscc, website, country;
INSERT INTO contact (given_name, family_name, email) VALUES ('小明', '王', 'W@Acme.CN') RETURNING full_name, email;
INSERT INTO lead (company, given_name, family_name, phone) VALUES (' Acme  Ltd ', 'Ann', 'Lee', '+1 202 555 0123') RETURNING company, full_name, phone;
INSERT INTO opportunity (name, currency) VALUES ('  Big  deal ', 'cny') RETURNING name, currency;

-- whoever may read the workspace may use the types
RESET ROLE;
CREATE ROLE regress_canonical_report;
SET ROLE regress_canonical_user;
SELECT crm.grant_access('regress_canonical_ws', 'regress_canonical_report', 'report');
SET ROLE regress_canonical_report;
SELECT crm.phone_national('+8613800138000'), crm.phone('138 0013 8000', 'CN'), crm.registrable_domain('ann@mail.example.com'),
       crm.email('Ann@Example.com'), crm.amount(1, 'CNY') OPERATOR(crm.+) '2 CNY'::crm.amount,
       (SELECT crm.sum(a) FROM (VALUES ('1 CNY'::crm.amount), ('2 CNY')) AS v (a));
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA regress_canonical, regress_canonical_ws CASCADE;
DROP OWNED BY regress_canonical_user, regress_canonical_report;
DROP ROLE regress_canonical_user, regress_canonical_report;
