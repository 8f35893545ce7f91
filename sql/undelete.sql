-- A deleted record comes back from the audit log, with what went with it, for whoever might have deleted it.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_undelete_owner;
CREATE ROLE regress_undelete_mia LOGIN;
CREATE ROLE regress_undelete_rui LOGIN;
CREATE ROLE regress_undelete_rosa LOGIN;
CREATE ROLE regress_undelete_clerk;
GRANT CREATE ON DATABASE contrib_regression TO regress_undelete_owner;
SELECT crm.grant_toolkit('regress_undelete_owner');
SET ROLE regress_undelete_owner;
SELECT crm.create_workspace('regress_undelete');
SET search_path = regress_undelete, public;
SELECT crm.grant_access('regress_undelete', 'regress_undelete_mia', 'app'), crm.grant_access('regress_undelete', 'regress_undelete_rui', 'app'),
       crm.grant_access('regress_undelete', 'regress_undelete_rosa', 'app');
INSERT INTO member (id, name, manager_id, login_role) VALUES (1, 'Mia', NULL, 'regress_undelete_mia'), (2, 'Rui', 1, 'regress_undelete_rui'), (3, 'Rosa', 1, 'regress_undelete_rosa');
INSERT INTO account (id, name, phone, city, owner_id, created_at) VALUES (1, 'Acme', '+49 30 901820', 'Berlin', 2, '2025-01-01'), (2, 'Beta', NULL, NULL, 3, '2025-01-01');
UPDATE account SET city = 'Bonn' WHERE id = 1;
INSERT INTO contact (id, account_id, full_name, national_id, owner_id) VALUES (1, 1, 'Eve', '123', 2), (2, 1, 'Fay', NULL, 3);
INSERT INTO opportunity (id, account_id, contact_id, name, amount, currency, owner_id) VALUES (1, 1, 1, 'Printers', 1000, 'EUR', 2);
UPDATE opportunity SET stage = (SELECT s.name FROM stage AS s WHERE s.pipeline = 'sales' ORDER BY s.position OFFSET 1 LIMIT 1);
INSERT INTO external_reference (kind, record_id, system, external_id) VALUES ('account', 1, 'sap', 'A1');
CREATE TEMP TABLE before AS SELECT to_jsonb(a) - '{updated_at,row_version}'::text[] AS account, a.row_version FROM account AS a WHERE id = 1;
CREATE TEMP TABLE before_opportunity AS SELECT to_jsonb(o) - '{updated_at,row_version}'::text[] AS opportunity FROM opportunity AS o;

-- the owner of the account deletes it, with a contact of his; what he may not delete he takes off it
SET SESSION AUTHORIZATION regress_undelete_mia;
BEGIN;
UPDATE contact SET account_id = NULL WHERE id = 2;
DELETE FROM opportunity WHERE id = 1;
DELETE FROM contact WHERE id = 1;
DELETE FROM account WHERE id = 1;
COMMIT;

-- what can come back, for whom
SELECT kind, id, name, owner_id, deleted_by_name, deleted_at <= now() AS before_now, children FROM deleted_record ORDER BY kind;
SET SESSION AUTHORIZATION regress_undelete_rui;
SELECT kind, id, name, owner_id, deleted_by_name, children FROM deleted_record ORDER BY kind;
SET SESSION AUTHORIZATION regress_undelete_rosa;
SELECT * FROM deleted_record;
SELECT deleted_with('account', 1);
-- fails: for her there is no such record, nor one that never was
SELECT * FROM undelete('account', 1);
SELECT * FROM undelete('account', 1, dry_run => true);
SELECT * FROM undelete('account', 99);
-- fails: neither log nor plan are hers to read
SELECT * FROM audit_log;
SELECT * FROM crm._undelete_plan('regress_undelete', 'account', '1', 'regress_undelete_mia'::regrole);

SET SESSION AUTHORIZATION regress_undelete_rui;
SELECT * FROM undelete('account', 1, dry_run => true);
SELECT count(*) FROM account WHERE id = 1;
-- Fay is Rosa's, so the link stays as it is
SELECT * FROM undelete('account', 1);
-- fails: it is there
SELECT * FROM undelete('account', 1);
SELECT kind, id FROM deleted_record;
SET SESSION AUTHORIZATION DEFAULT;
SET ROLE regress_undelete_owner;
SELECT to_jsonb(a) - '{updated_at,row_version}'::text[] = b.account AS same, a.row_version - b.row_version AS versions, a.updated_at > a.created_at AS touched
FROM account AS a, before AS b WHERE a.id = 1;
SELECT to_jsonb(o) - '{updated_at,row_version}'::text[] = b.opportunity AS same FROM opportunity AS o, before_opportunity AS b;
SELECT id, account_id, full_name, national_id FROM contact ORDER BY id;
SELECT count(*) AS moves FROM stage_history WHERE kind = 'opportunity';
SELECT external_id FROM external_reference WHERE kind = 'account' AND record_id = 1;
SELECT operation, kind, record_id, member_id, login_role FROM audit_log WHERE operation = 'UNDELETE' ORDER BY kind;

-- of a chain made and broken more than once, the last state counts
UPDATE contact SET account_id = 1 WHERE id = 2;
SET SESSION AUTHORIZATION regress_undelete_mia;
BEGIN;
UPDATE opportunity SET account_id = NULL, contact_id = NULL;
UPDATE contact SET account_id = NULL;
DELETE FROM account WHERE id = 1;
COMMIT;
-- meanwhile somebody sets one of the links otherwise, and a contact goes
UPDATE contact SET account_id = 2 WHERE id = 2;
DELETE FROM contact WHERE id = 1;
SELECT * FROM undelete('account', 1);
SELECT id, account_id FROM contact ORDER BY id;
SELECT * FROM undelete('contact', 1);

-- something that was merged was not deleted; what refers to it follows it
SELECT merge_records('account', 2, ARRAY[1]) AS merge_id \gset
DELETE FROM contact WHERE id = 1;
SELECT unmerge(:merge_id);
DELETE FROM opportunity;
DELETE FROM contact WHERE id = 2;
INSERT INTO account (id, name, owner_id) VALUES (5, 'Gamma', 2);
INSERT INTO contact (id, account_id, full_name, owner_id) VALUES (5, 5, 'Gus', 2);
DELETE FROM contact WHERE id = 5;
SELECT merge_records('account', 2, ARRAY[5]) AS merge_id \gset
-- fails
SELECT * FROM undelete('account', 5);
SELECT count(*) FROM deleted_record WHERE kind = 'account';
SELECT * FROM undelete('contact', 5);
SELECT account_id FROM contact WHERE id = 5;

-- a name too long for the log
INSERT INTO lead (id, company, full_name, owner_id) VALUES (1, 'Long', repeat('x', 70000), 2);
DELETE FROM lead;
SELECT name FROM deleted_record WHERE kind = 'lead';
SELECT * FROM undelete('lead', 1);
SELECT company, full_name FROM lead;

-- fails: what it refers to is gone as well
INSERT INTO account (id, name, owner_id) VALUES (6, 'Delta', 2);
INSERT INTO contact (id, account_id, full_name, owner_id) VALUES (6, 6, 'Hal', 2);
DELETE FROM contact WHERE id = 6;
DELETE FROM account WHERE id = 6;
SELECT * FROM undelete('contact', 6);
SELECT * FROM undelete('account', 6);
SELECT * FROM undelete('contact', 6);

-- the id was given away
DELETE FROM contact WHERE id = 6;
DELETE FROM account WHERE id = 6;
SET SESSION AUTHORIZATION DEFAULT;
INSERT INTO regress_undelete.account (id, name, owner_id) VALUES (6, 'Epsilon', 3);
SET SESSION AUTHORIZATION regress_undelete_rui;
-- fails, and tells Rui nothing of Rosa's
SELECT * FROM undelete('account', 6);
SET SESSION AUTHORIZATION regress_undelete_mia;
-- fails
SELECT * FROM undelete('account', 6);

-- duplicate rules on undelete: block, override, record; a hidden twin stays hidden, by unmerge() too
SET SESSION AUTHORIZATION DEFAULT;
SET ROLE regress_undelete_owner;
INSERT INTO account (id, name, phone, owner_id) VALUES (10, 'Initech', '+39 02 1234567', 2);
SET SESSION AUTHORIZATION regress_undelete_rui;
DELETE FROM account WHERE id = 10;
SET SESSION AUTHORIZATION DEFAULT;
SET ROLE regress_undelete_owner;
INSERT INTO account (id, name, phone, owner_id) VALUES (11, 'Initech', '+39 02 1234567', 3);
INSERT INTO duplicate_rule (kind, name, action, events, allow_override) VALUES ('account', 'no twins', 'block', '{undelete}', true);
SET SESSION AUTHORIZATION regress_undelete_rui;
-- fails
SELECT * FROM undelete('account', 10);
SET SESSION AUTHORIZATION regress_undelete_mia;
-- fails: she sees it
SELECT * FROM undelete('account', 10, dry_run => true);
SET SESSION AUTHORIZATION regress_undelete_rui;
BEGIN;
SET LOCAL crm.duplicate_override = 'another branch';
SELECT * FROM undelete('account', 10);
COMMIT;
SET SESSION AUTHORIZATION DEFAULT;
SET ROLE regress_undelete_owner;
SELECT event, kind, record_id, reason, member_id FROM duplicate_log WHERE event = 'override';
-- what a trigger inserts meanwhile is no undelete
CREATE FUNCTION note_account() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO regress_undelete.activity (type, subject, account_id) VALUES ('note', 'new', new.id); RETURN NULL; END $$;
CREATE TRIGGER note_account AFTER INSERT ON account FOR EACH ROW EXECUTE FUNCTION note_account();
UPDATE duplicate_rule SET action = 'record';
SET SESSION AUTHORIZATION regress_undelete_rui;
DELETE FROM account WHERE id = 10;
SELECT * FROM undelete('account', 10);
SET SESSION AUTHORIZATION DEFAULT;
SET ROLE regress_undelete_owner;
SELECT kind, left_id, right_id, state FROM duplicate_pair;
SELECT kind, operation FROM audit_log WHERE (kind, record_id) IN (SELECT 'activity', max(id) FROM activity UNION ALL SELECT 'account', 10) ORDER BY id DESC LIMIT 2;
DROP TRIGGER note_account ON account;
DELETE FROM activity;
UPDATE duplicate_rule SET active = false;
INSERT INTO account (id, name, phone, owner_id) VALUES (12, 'Initech SpA', '+39 02 1234567', 2);
SET SESSION AUTHORIZATION regress_undelete_rui;
SELECT merge_records('account', 10, ARRAY[12]) AS merge_id \gset
SET SESSION AUTHORIZATION DEFAULT;
SET ROLE regress_undelete_owner;
INSERT INTO duplicate_pair (kind, left_id, right_id, score, state) VALUES ('account', 10, 12, 0.9, 'not_duplicate') ON CONFLICT (kind, left_id, right_id) DO UPDATE SET state = 'not_duplicate';
UPDATE duplicate_rule SET active = true, action = 'block';
SET SESSION AUTHORIZATION regress_undelete_rui;
-- fails: and does not say which
SELECT * FROM unmerge(:merge_id);

-- what was deleted with it by statements of their own is for whoever might have deleted that
SET SESSION AUTHORIZATION DEFAULT;
SET ROLE regress_undelete_owner;
INSERT INTO account (id, name, owner_id) VALUES (20, 'Twenty', 2);
INSERT INTO contact (id, account_id, full_name, owner_id) VALUES (20, 20, 'His', 2), (21, 20, 'Hers', 3);
SET SESSION AUTHORIZATION regress_undelete_mia;
BEGIN;
DELETE FROM contact WHERE account_id = 20;
DELETE FROM account WHERE id = 20;
COMMIT;
SELECT children FROM deleted_record WHERE kind = 'account' AND id = 20;
SET SESSION AUTHORIZATION regress_undelete_rui;
SELECT children FROM deleted_record WHERE kind = 'account' AND id = 20;
SELECT * FROM undelete('account', 20);
SET SESSION AUTHORIZATION regress_undelete_rosa;
SELECT kind, id, name FROM deleted_record ORDER BY kind, id;
SELECT * FROM undelete('contact', 21);

-- tables of one's own
SET SESSION AUTHORIZATION DEFAULT;
SET ROLE regress_undelete_owner;
SET search_path = regress_undelete, public;
CREATE SCHEMA regress_undelete_own;
SET search_path = regress_undelete_own;
CREATE TABLE supplier (no integer PRIMARY KEY, "Firm name" text NOT NULL, code text UNIQUE, tags text[], terms jsonb, price numeric, span int4range, doc bytea, at timestamptz, secret text,
                       twice numeric GENERATED ALWAYS AS (price * 2) STORED, EXCLUDE USING gist (span WITH &&), UNIQUE (no, code));
CREATE TABLE site (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, supplier integer REFERENCES supplier ON DELETE CASCADE, town text, above bigint REFERENCES site ON DELETE CASCADE);
CREATE TABLE visit (site bigint REFERENCES site ON DELETE CASCADE, day date, note text, PRIMARY KEY (site, day)) PARTITION BY RANGE (day);
CREATE TABLE visit_2025 PARTITION OF visit FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE invoice (number text PRIMARY KEY, supplier integer DEFAULT 0 REFERENCES supplier ON DELETE SET NULL, code text, kept text DEFAULT 'x',
                      FOREIGN KEY (supplier, code) REFERENCES supplier (no, code) ON DELETE SET NULL (code));
CREATE TABLE remark (supplier integer REFERENCES supplier ON DELETE CASCADE, text text);
SELECT crm.enable_audit(t, audit_log => 'regress_undelete.audit_log', mask => m)
FROM (VALUES ('supplier'::regclass, '{secret}'::name[]), ('site', '{}'), ('visit', '{}'), ('invoice', '{}')) AS v (t, m);
INSERT INTO supplier VALUES (1, 'Paper', 'p', '{a,"b c",NULL}', '{"masked": false, "x": [1, null]}', 1.50, '[1,5)', '\x00ff', '2025-02-03 04:05:06.789+00', 'hush');
INSERT INTO site (supplier, town) VALUES (1, 'Bonn'), (1, 'Kiel');
INSERT INTO site (above, town) VALUES (1, 'Bonn, yard');
INSERT INTO visit VALUES (1, '2025-05-05', 'first'), (3, '2025-05-06', 'yard');
INSERT INTO invoice VALUES ('i1', 1, 'p'), ('i2', 1, NULL), ('i3', NULL, NULL);
INSERT INTO remark VALUES (1, 'lost');
SELECT md5(string_agg(s::text, '')) AS suppliers FROM (SELECT no, "Firm name", code, tags, terms, price, span, doc, at, twice FROM supplier) AS s \gset
SELECT md5(string_agg(s::text, '' ORDER BY s)) AS sites FROM site AS s \gset
SELECT md5(string_agg(v::text, '' ORDER BY v)) AS visits FROM visit AS v \gset
SELECT md5(string_agg(i::text, '' ORDER BY i)) AS invoices FROM invoice AS i \gset
DELETE FROM supplier;
SELECT (SELECT count(*) FROM site) AS sites, (SELECT count(*) FROM visit) AS visits;
SET SESSION AUTHORIZATION DEFAULT;
GRANT USAGE ON SCHEMA regress_undelete_own, regress_undelete, crm TO regress_undelete_clerk;
GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA regress_undelete_own TO regress_undelete_clerk;
GRANT EXECUTE ON FUNCTION regress_undelete.undelete(text, bigint, boolean), crm.undelete(regnamespace, text, text, boolean) TO regress_undelete_clerk;
SET search_path = regress_undelete_own;
SET ROLE regress_undelete_clerk;
-- fails: no right to insert
SELECT * FROM regress_undelete.undelete('regress_undelete_own.supplier', 1);
SET ROLE regress_undelete_owner;
GRANT INSERT, DELETE ON supplier TO regress_undelete_clerk;
ALTER TABLE supplier ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON supplier USING (true);
SET ROLE regress_undelete_clerk;
-- fails: policies that nobody can ask
SELECT * FROM regress_undelete.undelete('regress_undelete_own.supplier', 1);
SET ROLE regress_undelete_owner;
ALTER TABLE supplier DISABLE ROW LEVEL SECURITY;
SET ROLE regress_undelete_clerk;
-- settings of the session do not change what comes back
SET timezone = 'Asia/Shanghai';
SET datestyle = 'German';
SELECT * FROM regress_undelete.undelete('regress_undelete_own.supplier', 1);
RESET datestyle;
RESET timezone;
SET ROLE regress_undelete_owner;
SELECT md5(string_agg(s::text, '')) = :'suppliers' AS suppliers FROM (SELECT no, "Firm name", code, tags, terms, price, span, doc, at, twice FROM supplier) AS s;
SELECT md5(string_agg(s::text, '' ORDER BY s)) = :'sites' AS sites FROM site AS s;
SELECT md5(string_agg(v::text, '' ORDER BY v)) = :'visits' AS visits FROM visit AS v;
SELECT md5(string_agg(i::text, '' ORDER BY i)) = :'invoices' AS invoices FROM invoice AS i;

-- columns dropped and added since; a value that must be there and is not in the log
UPDATE supplier SET secret = 'hush';
DELETE FROM supplier;
ALTER TABLE supplier DROP COLUMN terms, ADD COLUMN rating integer NOT NULL DEFAULT 3, ADD COLUMN remark text DEFAULT 'none';
SELECT field, note FROM regress_undelete.undelete('regress_undelete_own.supplier', 1) WHERE note IS NOT NULL;
SELECT no, rating, remark, secret, twice FROM supplier;
UPDATE supplier SET secret = 'hush';
DELETE FROM supplier;
ALTER TABLE supplier ALTER COLUMN secret SET NOT NULL;
-- fails
SELECT * FROM regress_undelete.undelete('regress_undelete_own.supplier', 1);
ALTER TABLE supplier ALTER COLUMN secret DROP NOT NULL;
INSERT INTO supplier (no, "Firm name", code) VALUES (2, 'Pens', 'p');
-- fails: names what is in the way, of unique and exclusion constraints
SELECT * FROM regress_undelete.undelete('regress_undelete_own.supplier', 1);
UPDATE supplier SET code = 'q', span = '[4,9)';
SELECT * FROM regress_undelete.undelete('regress_undelete_own.supplier', 1);
UPDATE supplier SET span = NULL;
-- once it is audited no more, the log still tells of before
SELECT crm.disable_audit('supplier');
SELECT count(*) FROM regress_undelete.undelete('regress_undelete_own.supplier', 1) WHERE restored;
CREATE TABLE plain (id bigint PRIMARY KEY);
-- fails: no log; no such kind; key of several columns; nulls
SELECT * FROM regress_undelete.undelete('regress_undelete_own.plain', 1);
SELECT * FROM regress_undelete.undelete('nope', 1);
SELECT * FROM regress_undelete.undelete('regress_undelete_own.visit', 1);
SELECT * FROM regress_undelete.undelete(NULL, 1);
SELECT * FROM regress_undelete.undelete('account', NULL::bigint);
-- a row of a truncated table is not in the log
INSERT INTO invoice VALUES ('i9', NULL);
TRUNCATE invoice;
-- fails
SELECT * FROM regress_undelete.undelete('regress_undelete_own.invoice', 'i9'::text);

-- values of every sort, whatever the settings when they were deleted
SET SESSION AUTHORIZATION DEFAULT;
CREATE EXTENSION hstore SCHEMA regress_undelete_own;
SET ROLE regress_undelete_owner;
CREATE TYPE place AS (street text, no integer);
CREATE TABLE value (id bigint PRIMARY KEY, at place, ats place[], h hstore, j jsonb, n numeric, f float8, i interval, ts timestamp, tz timestamptz, c char(5), b bit(3), tv tsvector, p point, mr int4multirange, matrix text[], ip inet, phone crm.phone, amount crm.amount);
SELECT crm.enable_audit('value', audit_log => 'regress_undelete.audit_log');
INSERT INTO value VALUES (1, ROW('x, "y"', 3), ARRAY[ROW('a', 1), NULL]::place[], E'k=>v, z=>NULL, "q\\"\\\\x"=>"l\n"', '{"x": [1, {"y": null}]}', 'Infinity', 'NaN', '1 mon 2 days 03:00:00.5', 'infinity',
    '-infinity', 'ab', B'101', 'fat:1A cat:2', '(1.5,2)', '{[1,3),[5,7)}', '{{a,b},{c,NULL}}', '10.0.0.1/8', '+49 30 901820', '10.50 EUR');
SELECT v::text AS before FROM value AS v \gset
SET intervalstyle = iso_8601;
SET datestyle = 'German';
DELETE FROM value;
RESET intervalstyle;
SELECT * FROM regress_undelete.undelete('regress_undelete_own.value', 1);
RESET datestyle;
SELECT v::text = :'before' AS same FROM value AS v;

-- a partition's BEFORE trigger changes nothing; rows that refer to each other; equal rows without a key
CREATE TABLE stamped (id bigint GENERATED ALWAYS AS IDENTITY, n integer, note text, PRIMARY KEY (id)) PARTITION BY HASH (id);
CREATE TABLE stamped_0 PARTITION OF stamped FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.note := concat(new.note, '*'); RETURN new; END $$;
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON stamped FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TABLE this (id bigint PRIMARY KEY, that bigint);
CREATE TABLE that (id bigint PRIMARY KEY, this bigint REFERENCES this ON DELETE CASCADE);
ALTER TABLE this ADD FOREIGN KEY (that) REFERENCES that ON DELETE CASCADE;
CREATE TABLE mark (that bigint REFERENCES that ON DELETE CASCADE, word text);
SELECT crm.enable_audit(t, audit_log => 'regress_undelete.audit_log') FROM unnest('{stamped,this,that,mark}'::regclass[]) AS t;
INSERT INTO stamped (n, note) VALUES (1, 'a');
DELETE FROM stamped;
ALTER TABLE stamped ADD COLUMN kind text NOT NULL DEFAULT 'old';
SELECT * FROM regress_undelete.undelete('regress_undelete_own.stamped', 1);
SELECT * FROM stamped;
-- rows that move to another partition when their reference is set to NULL are not deleted
CREATE TABLE spread (this bigint REFERENCES this ON DELETE SET NULL, n integer) PARTITION BY HASH (this);
CREATE TABLE spread_0 PARTITION OF spread FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE spread_1 PARTITION OF spread FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT crm.enable_audit('spread', audit_log => 'regress_undelete.audit_log');
INSERT INTO this SELECT i, NULL FROM generate_series(11, 18) AS i;
INSERT INTO spread SELECT id, id FROM this;
DELETE FROM this;
SELECT count(*) FILTER (WHERE restored) AS restored, count(*) FILTER (WHERE note ~ 'partition') AS noted
FROM generate_series(11, 18) AS i, regress_undelete.undelete('regress_undelete_own.this', i);
SELECT count(*), count(this) FROM spread;
DELETE FROM this;
INSERT INTO this VALUES (1, NULL);
INSERT INTO that VALUES (1, 1);
UPDATE this SET that = 1;
INSERT INTO this VALUES (2, 1);
INSERT INTO mark VALUES (1, 'same'), (1, 'same'), (1, 'other');
DELETE FROM this WHERE id = 1;
SELECT count(*) FROM this;
SELECT * FROM regress_undelete.undelete('regress_undelete_own.this', 1);
SELECT * FROM this ORDER BY id;
SELECT * FROM mark ORDER BY word;
-- a link of rows that nothing tells apart is not set again, and that is said
CREATE TABLE loose (that bigint REFERENCES that ON DELETE SET NULL);
SELECT crm.enable_audit('loose', audit_log => 'regress_undelete.audit_log');
INSERT INTO loose VALUES (1), (1), (NULL);
DELETE FROM that;
SELECT * FROM regress_undelete.undelete('regress_undelete_own.that', 1) WHERE table_name ~ 'loose';
SELECT count(that) FROM loose;

-- a table with protect() is in the list under its kind
CREATE TABLE project (id bigint PRIMARY KEY, name text, owner_id bigint);
SELECT crm.protect('project', 'project', workspace => 'regress_undelete');
SELECT crm.enable_audit('project', 'project', 'regress_undelete.audit_log');
GRANT SELECT, INSERT, UPDATE, DELETE ON project TO regress_undelete_rui, regress_undelete_rosa;
GRANT USAGE ON SCHEMA regress_undelete_own TO regress_undelete_rui, regress_undelete_rosa;
INSERT INTO project VALUES (1, 'Bridge', 2), (2, 'Tunnel', 3);
SET SESSION AUTHORIZATION regress_undelete_rui;
DELETE FROM regress_undelete_own.project WHERE id = 1;
SELECT kind, id, name, children FROM regress_undelete.deleted_record WHERE kind = 'project';
SET SESSION AUTHORIZATION regress_undelete_rosa;
SELECT kind, id, name, children FROM regress_undelete.deleted_record WHERE kind = 'project';
-- fails
SELECT * FROM regress_undelete.undelete('project', 1);
SET SESSION AUTHORIZATION regress_undelete_rui;
SELECT * FROM regress_undelete.undelete('project', 1);

-- ten thousand children come back by few statements
SET SESSION AUTHORIZATION DEFAULT;
SET ROLE regress_undelete_owner;
SET search_path = regress_undelete_own;
INSERT INTO site (id, supplier, town) OVERRIDING SYSTEM VALUE SELECT i, 2, 'town ' || i FROM generate_series(1001, 11000) AS i;
SELECT crm.enable_audit('supplier', audit_log => 'regress_undelete.audit_log');
DELETE FROM supplier WHERE no = 2;
SELECT count(*) FILTER (WHERE restored) FROM regress_undelete.undelete('regress_undelete_own.supplier', 2);
SELECT count(*), count(DISTINCT town) FROM site WHERE supplier = 2;

SET SESSION AUTHORIZATION DEFAULT;
SET client_min_messages = error;
DROP SCHEMA regress_undelete, regress_undelete_own CASCADE;
DROP OWNED BY regress_undelete_owner, regress_undelete_mia, regress_undelete_rui, regress_undelete_rosa, regress_undelete_clerk CASCADE;
DROP ROLE regress_undelete_owner, regress_undelete_mia, regress_undelete_rui, regress_undelete_rosa, regress_undelete_clerk;
