-- Duplicate rules: a row that means the same as another is blocked, warned of or recorded.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT crm.create_workspace('regress_duplicate_rule');
CREATE ROLE regress_duplicate_rule_ann LOGIN;
CREATE ROLE regress_duplicate_rule_bob LOGIN;
SELECT crm.grant_access('regress_duplicate_rule', 'regress_duplicate_rule_ann', 'app');
SELECT crm.grant_access('regress_duplicate_rule', 'regress_duplicate_rule_bob', 'app');
SET search_path = regress_duplicate_rule, pg_catalog;
INSERT INTO setting (name, value) VALUES ('unowned_access', 'none') ON CONFLICT (name) DO UPDATE SET value = excluded.value;
INSERT INTO member (id, name, manager_id, login_role, active) VALUES
 (1, 'Mia', NULL, NULL, true), (2, 'Ann', 1, 'regress_duplicate_rule_ann', true),
 (3, 'Bob', NULL, 'regress_duplicate_rule_bob', true), (4, 'Eve', 1, NULL, false);
INSERT INTO team (id, name) VALUES (1, 'North');
INSERT INTO team_member (team_id, member_id) VALUES (1, 2);
INSERT INTO account (id, name, phone, city, owner_id) VALUES
 (1, 'Acme Trading GmbH', '+49 30 901820', 'Berlin', 2),
 (2, 'Zenith Bakery Ltd', '+44 20 7946 0018', 'London', NULL),
 (3, '上海伟测半导体科技股份有限公司', '+86 21 5895 8216', '上海', 4),
 (4, 'Initech SpA', '+39 02 1234567', 'Milano', 3);
ALTER TABLE account ALTER id RESTART WITH 5000;

-- no rule: everything is stored, and the rules were read once
INSERT INTO account (id, name, phone, city) VALUES (90, 'Acme Trading GmbH', '+49 30 901820', 'Berlin');
SELECT crm._duplicate_rule_rebuilds() AS rebuilds \gset
INSERT INTO account (id, name) SELECT 1000 + i, 'Company ' || md5(i::text) FROM generate_series(1, 100) AS i;
UPDATE account SET description = 'x' WHERE id > 1000;
SELECT crm._duplicate_rule_rebuilds() - :rebuilds AS rebuilds;
DELETE FROM account WHERE id = 90;

-- block
\set VERBOSITY terse
INSERT INTO duplicate_rule (kind, name, action) VALUES ('account', 'no twins', 'block');
-- fails: the same customer, damaged; the error names the one there is
INSERT INTO account (name, phone) VALUES ('ACME Trading', '+49 30 901820');
\echo :LAST_ERROR_SQLSTATE
-- fails: by its Chinese name in traditional characters
INSERT INTO account (name, phone) VALUES ('上海偉測半導體科技股份有限公司', '+86 21 5895 8216');
-- fields of the error that programs read
DO $$
DECLARE
    named text; broken text; hint text; detail text;
BEGIN
    INSERT INTO account (name, phone) VALUES ('ACME Trading', '+49 30 901820');
EXCEPTION WHEN SQLSTATE 'RMD01' THEN
    GET STACKED DIAGNOSTICS named = TABLE_NAME, broken = CONSTRAINT_NAME, hint = PG_EXCEPTION_HINT, detail = PG_EXCEPTION_DETAIL;
    RAISE WARNING 'table %, rule %, hint %', named, broken, hint;
    RAISE WARNING '%', regexp_replace(split_part(detail, E'\n', 1), '[01]\.\d{4}: .*\(', 'N: evidence (');
    -- the last line of DETAIL is JSON
    RAISE WARNING '%', (SELECT jsonb_agg(f #- '{record}' #- '{matches,0,score}') FROM jsonb_array_elements(split_part(detail, E'\n', 2)::jsonb) AS f);
END
$$;
-- another firm
INSERT INTO account (id, name, city) VALUES (5, 'Globex Corporation', 'Springfield');
-- the rules are read again once for a change, not for each row
SELECT crm._duplicate_rule_rebuilds() - :rebuilds AS rebuilds;
-- fails: rows of one statement see each other
INSERT INTO account (name, phone) VALUES ('Hooli Incorporated', '+1 650 253 0001'), ('Hooli Inc', '+1 650 253 0001');
COPY account (name, phone) FROM stdin;
Hooli Incorporated	+16502530001
Umbrella Corporation	+12125550123
Hooli Inc.	+16502530001
\.
-- fails: all rows that are refused are told at once, by their numbers
DO $$
DECLARE
    message text; detail text; hint text;
BEGIN
    INSERT INTO account (name, phone) VALUES ('Soylent Corporation', '+1 650 253 0002'), ('ACME Trading', '+49 30 901820'),
        ('Umbrella Corporation', '+1 212 555 0123'), ('Soylent Corp', '+1 650 253 0002'), ('Zenith Bakery', '+44 20 7946 0018');
EXCEPTION WHEN SQLSTATE 'RMD01' THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RAISE WARNING '% %', message, hint;
    RAISE WARNING '%', (SELECT string_agg(regexp_replace(l, '(means the same).*', '\1'), E'\n') FROM string_to_table(regexp_replace(detail, 'account 5\d+', 'account N', 'g'), E'\n') AS l WHERE l LIKE 'Row%');
    RAISE WARNING '%', (SELECT string_agg(concat_ws(' ', f -> 'row', f -> 'matches' -> 0 -> 'id' = '1'), ', ') FROM jsonb_array_elements(split_part(detail, E'\n', -1)::jsonb) AS f);
END
$$;
-- fails: of very many, the first twenty
INSERT INTO account (name, phone) SELECT 'Soylent Corporation', '+1 650 253 0002' FROM generate_series(1, 300);
-- all or nothing
SELECT count(*) FROM account WHERE name ~ 'Hooli|Umbrella';
-- fails: rows of one transaction see each other
BEGIN;
INSERT INTO account (name, phone) VALUES ('Hooli Incorporated', '+1 650 253 0001');
INSERT INTO account (name, phone) VALUES ('Hooli Inc', '+1 650 253 0001');
ROLLBACK;
-- a row that is only proposed is not refused, nor one that stays as it is
INSERT INTO account (id, name, phone) VALUES (1, 'Acme Trading GmbH', '+49 30 901820') ON CONFLICT DO NOTHING;
UPDATE account SET name = name, description = 'customer since 1999' WHERE id = 1;
-- fails: an update that makes a twin, in MERGE as well
UPDATE account SET name = 'Acme Trading', phone = '+49 30 901820' WHERE id = 5;
MERGE INTO account AS a USING (VALUES (5, 'Acme Trading', '+49 30 901820')) AS v (id, name, phone) ON a.id = v.id
    WHEN MATCHED THEN UPDATE SET name = v.name, phone = v.phone;
-- blanks, one letter and emoji are nobody's twin
INSERT INTO account (name) VALUES ('x'), ('x'), ('😀'), ('😀') RETURNING name;

-- events: COPY is an import, and a rule may leave updates alone
UPDATE duplicate_rule SET events = '{import}';
INSERT INTO account (id, name, phone) VALUES (20, 'Hooli Incorporated', '+1 650 253 0001');
UPDATE account SET phone = '+49 30 901820', name = 'Acme Trading' WHERE id = 20;
-- fails: COPY
COPY account (name, phone) FROM stdin;
ACME Trading	+4930901820
\.
-- fails: rows of a session that imports
BEGIN;
SET LOCAL crm.import = on;
INSERT INTO account (name, phone) VALUES ('ACME Trading', '+4930901820');
ROLLBACK;
DELETE FROM account WHERE id = 20;
-- watched columns
UPDATE duplicate_rule SET events = '{update}', update_fields = '{website}';
UPDATE account SET phone = '+49 30 901820', name = 'Acme Trading' WHERE id = 5;
-- fails: now it counts
UPDATE account SET website = 'https://globex.example.com' WHERE id = 5;
UPDATE account SET phone = NULL, name = 'Globex Corporation' WHERE id = 5;
UPDATE duplicate_rule SET events = '{insert,update,import}', update_fields = NULL;

-- a condition over old and new
UPDATE duplicate_rule SET condition = 'new.country = ''DE'' AND old.id IS NULL';
INSERT INTO account (id, name, phone, country) VALUES (21, 'ACME Trading', '+49 30 901820', 'AT');
-- fails: the condition holds
INSERT INTO account (id, name, phone, country) VALUES (22, 'ACME Trading', '+49 30 901820', 'DE');
DELETE FROM account WHERE id = 21;
-- fails: a condition that fails, with the rule it belongs to
\set VERBOSITY default
\set SHOW_CONTEXT always
UPDATE duplicate_rule SET condition = '1 / length(new.region) > 0';
INSERT INTO account (id, name, region) VALUES (22, 'Stark Industries', '');
\set SHOW_CONTEXT never
\set VERBOSITY terse
UPDATE duplicate_rule SET condition = NULL;
-- fails: a column that a rule watches is gone, then the rule is changed
ALTER TABLE account ADD COLUMN ticker text;
UPDATE duplicate_rule SET update_fields = '{ticker}';
ALTER TABLE account DROP COLUMN ticker;
INSERT INTO account (id, name) VALUES (22, 'Stark Industries');
UPDATE duplicate_rule SET update_fields = NULL;
-- fails: the same for its condition
ALTER TABLE account ADD COLUMN ticker text;
UPDATE duplicate_rule SET condition = 'new.ticker IS NULL';
ALTER TABLE account DROP COLUMN ticker;
INSERT INTO account (id, name) VALUES (22, 'Stark Industries');
UPDATE duplicate_rule SET condition = NULL;

-- fails: what cannot be a rule
INSERT INTO duplicate_rule (kind, name, condition) VALUES ('account', 'r', 'colour = 1');
INSERT INTO duplicate_rule (kind, name, condition) VALUES ('account', 'r', 'name');
INSERT INTO duplicate_rule (kind, name, condition) VALUES ('account', 'r', 'true; SELECT 1');
INSERT INTO duplicate_rule (kind, name, condition) VALUES ('account', 'r', 'EXISTS (SELECT FROM account)');
INSERT INTO duplicate_rule (kind, name, update_fields) VALUES ('account', 'r', '{colour}');
INSERT INTO duplicate_rule (kind, name) VALUES ('inbox', 'r');
INSERT INTO duplicate_rule (kind, name) VALUES (NULL, 'r');
INSERT INTO duplicate_rule (kind, name) VALUES ('account', ' ');
INSERT INTO duplicate_rule (kind, name, action) VALUES ('account', 'r', 'refuse');
INSERT INTO duplicate_rule (kind, name, threshold) VALUES ('account', 'r', 0);
INSERT INTO duplicate_rule (kind, name, threshold) VALUES ('account', 'r', 'NaN');
INSERT INTO duplicate_rule (kind, name, events) VALUES ('account', 'r', '{delete}');
INSERT INTO duplicate_rule (kind, name, events) VALUES ('account', 'r', '{NULL}');
INSERT INTO duplicate_rule (kind, name, scope) VALUES ('account', 'r', 'mine');

-- overrides: only where the rule allows, with a reason, logged
BEGIN;
SET LOCAL crm.duplicate_override = 'a branch of its own';
-- fails: not allowed
INSERT INTO account (id, name, phone) VALUES (23, 'ACME Trading', '+49 30 901820');
ROLLBACK;
UPDATE duplicate_rule SET allow_override = true;
-- fails: no reason
SET crm.duplicate_override = '   ';
INSERT INTO account (id, name, phone) VALUES (23, 'ACME Trading', '+49 30 901820');
RESET crm.duplicate_override;
BEGIN;
SET LOCAL crm.duplicate_override = ' a branch of its own';
INSERT INTO account (id, name, phone) VALUES (23, 'ACME Trading', '+49 30 901820');
COMMIT;
SELECT event, kind, record_id, rule, matches, reason FROM duplicate_log;
-- fails: the log is append-only
DELETE FROM duplicate_log;
UPDATE duplicate_rule SET allow_override = false;
-- what was told apart stays apart
-- fails: still a twin
UPDATE account SET city = 'Berlin' WHERE id = 23;
INSERT INTO duplicate_pair (kind, left_id, right_id, score, state) VALUES ('account', 1, 23, 0.9, 'not_duplicate');
UPDATE account SET city = 'Berlin' WHERE id = 23;
DELETE FROM account WHERE id = 23;

-- what the person may know: of a record they cannot see, where to turn
SET SESSION AUTHORIZATION regress_duplicate_rule_bob;
\set VERBOSITY default
-- fails: hidden, owned by Ann in team North, whom Mia manages
INSERT INTO account (name, phone) VALUES ('ACME Trading', '+49 30 901820');
-- fails: hidden, nobody's; hidden, of one who has left
INSERT INTO account (name, phone) VALUES ('Zenith Bakery', '+44 20 7946 0018');
INSERT INTO account (name, phone) VALUES ('上海伟测半导体', '+86 21 5895 8216');
-- fails: visible
\set VERBOSITY terse
INSERT INTO account (name, phone) VALUES ('Initech', '+39 02 1234567');
\set VERBOSITY default
-- the same before writing
SELECT * FROM check_duplicate('account', '{"name": "ACME Trading", "phone": "+49 30 901820"}');
SELECT * FROM check_duplicate('account', '{"name": "Zenith Bakery", "phone": "+44 20 7946 0018"}');
SELECT visible, id, score > 0.9 AS certain, team, claim_state, next_step FROM check_duplicate('account', '{"name": "Initech SpA", "phone": "+39 02 1234567"}');
SELECT * FROM check_duplicate('account', '{}');
-- fails: no records, no such kind, no such field; no privilege on the log
SELECT * FROM check_duplicate('account', '[]');
SELECT * FROM check_duplicate('inbox', '{}');
SELECT * FROM check_duplicate('account', '{"nmae": "ACME Trading"}');
SELECT * FROM duplicate_log;
SELECT * FROM crm._duplicate_owner('regress_duplicate_rule', 'account', 'account', 1);
RESET SESSION AUTHORIZATION;
SELECT event, matches, member_id, login_role FROM duplicate_log WHERE event = 'check' ORDER BY id;
-- rate limited, also where the transaction is rolled back
UPDATE setting SET value = '2' WHERE name = 'duplicate_checks_per_minute';
SET SESSION AUTHORIZATION regress_duplicate_rule_ann;
DO $$ BEGIN PERFORM check_duplicate('account', '{}'); RAISE EXCEPTION USING ERRCODE = 'XX001'; EXCEPTION WHEN SQLSTATE 'XX001' THEN NULL; END $$;
SELECT * FROM check_duplicate('account', '{}');
-- fails: two a minute
SELECT * FROM check_duplicate('account', '{}');
-- fails: and nothing more is told of hidden records
INSERT INTO account (name, phone) VALUES ('Zenith Bakery', '+44 20 7946 0018');
RESET SESSION AUTHORIZATION;
UPDATE setting SET value = NULL WHERE name = 'duplicate_checks_per_minute';

\set VERBOSITY terse
-- who may not write may not ask, not even about another table or workspace
CREATE ROLE regress_duplicate_rule_eve LOGIN;
SELECT crm.create_workspace('regress_duplicate_rule_two');
SELECT crm.grant_access('regress_duplicate_rule_two', 'regress_duplicate_rule_eve', 'app');
SELECT 'account'::regclass::oid AS account \gset
SET SESSION AUTHORIZATION regress_duplicate_rule_eve;
-- fails
SELECT * FROM crm.check_duplicate('regress_duplicate_rule', 'account', '{"name": "ACME Trading", "phone": "+49 30 901820"}');
SELECT * FROM crm._check_duplicate('regress_duplicate_rule_two', 'account', '{"name": "ACME Trading", "phone": "+49 30 901820"}', :account);
SELECT * FROM crm._claim_duplicate('regress_duplicate_rule_two', 'account', '{"name": "ACME Trading"}', :account, 0.9);
RESET SESSION AUTHORIZATION;
DROP SCHEMA regress_duplicate_rule_two CASCADE;
DROP OWNED BY regress_duplicate_rule_eve;
DROP ROLE regress_duplicate_rule_eve;

-- find or create: what the person can see is found, what is hidden is for the rule
SET SESSION AUTHORIZATION regress_duplicate_rule_bob;
SELECT id, created, score > 0.9 AS certain FROM find_or_create('account', '{"name": "Initech", "phone": "+39 02 1234567"}');
SELECT created, score FROM find_or_create('account', '{"name": "Tyrell Corporation", "phone": "+1 213 555 0100", "owner_id": 3}');
SELECT created, score > 0.9 AS certain FROM find_or_create('account', '{"name": "TYRELL Corp.", "phone": "+1 213 555 0100"}');
-- fails: hidden; no such column; no such kind; a threshold that is none
SELECT * FROM find_or_create('account', '{"name": "ACME Trading", "phone": "+49 30 901820"}');
SELECT * FROM find_or_create('account', '{"name": "Wonka Industries", "colour": "red"}');
SELECT * FROM find_or_create('inbox', '{}');
SELECT * FROM find_or_create('account', '{"name": "Initech"}', 'NaN');
SELECT * FROM find_or_create('account', NULL);
RESET SESSION AUTHORIZATION;
SELECT count(*) FROM account WHERE name ILIKE 'tyrell%';
DELETE FROM account WHERE name ILIKE 'tyrell%';

-- scope: only what the person can see
UPDATE duplicate_rule SET scope = 'visible';
SET SESSION AUTHORIZATION regress_duplicate_rule_bob;
INSERT INTO account (name, phone) VALUES ('ACME Trading', '+49 30 901820');
-- fails: visible
INSERT INTO account (name, phone) VALUES ('Initech', '+39 02 1234567');
RESET SESSION AUTHORIZATION;
DELETE FROM account WHERE name = 'ACME Trading';

-- warn: with the ids the person may see, at most twenty a statement; the pairs are recorded
UPDATE duplicate_rule SET action = 'warn', scope = 'all';
SET SESSION AUTHORIZATION regress_duplicate_rule_bob;
INSERT INTO account (id, name, phone) VALUES (30, 'Initech', '+39 02 1234567');
INSERT INTO account (id, name, phone) VALUES (31, 'ACME Trading', '+49 30 901820');
RESET SESSION AUTHORIZATION;
SELECT left_id, right_id, score > 0.9 AS certain, state FROM duplicate_pair WHERE right_id > 23 ORDER BY 1, 2;
INSERT INTO account (name, phone) SELECT 'Initech', '+39 02 1234567' FROM generate_series(1, 22);
DELETE FROM account WHERE id > 30;
DELETE FROM duplicate_pair WHERE right_id > 23;

-- record: an open pair, decisions stay
UPDATE duplicate_rule SET action = 'record';
INSERT INTO duplicate_pair (kind, left_id, right_id, score, state) VALUES ('account', 4, 30, 0.5, 'ignored');
INSERT INTO account (id, name, phone) VALUES (32, 'Initech', '+39 02 1234567');
UPDATE account SET city = 'Milano' WHERE id = 30;
SELECT kind, left_id, right_id, score > 0.9 AS certain, state FROM duplicate_pair ORDER BY 1, 2, 3;
DELETE FROM account WHERE id IN (30, 32);
DELETE FROM duplicate_pair;

-- all rules are applied, those that block first
INSERT INTO duplicate_rule (kind, name, action, condition) VALUES ('account', 'careful', 'block', 'new.city = ''Roma'''), ('account', 'loud', 'warn', NULL);
INSERT INTO account (id, name, phone) VALUES (33, 'Initech', '+39 02 1234567');
SELECT left_id, right_id FROM duplicate_pair;
-- fails: by the rule that blocks
INSERT INTO account (id, name, phone, city) VALUES (34, 'Initech', '+39 02 1234567', 'Roma');
DELETE FROM account WHERE id = 33;

-- a merge may join twins, and undoing it brings them back
DELETE FROM duplicate_rule WHERE name <> 'no twins';
UPDATE duplicate_rule SET action = 'block', active = false;
INSERT INTO account (id, name, phone) VALUES (35, 'Initech', '+39 02 1234567');
UPDATE duplicate_rule SET active = true;
SELECT merge_records('account', 4, ARRAY[35]::bigint[]) AS merge_id \gset
SELECT * FROM unmerge(:merge_id);
SELECT count(*) FROM account WHERE id IN (4, 35);
-- fails: a rule may hold those as well, unless they were told apart
UPDATE duplicate_rule SET active = false;
INSERT INTO account (id, name, phone) VALUES (36, 'Globex Corp', '+1 212 555 0199'), (37, 'Globex Corporation', '+1 212 555 0199');
UPDATE duplicate_rule SET active = true, events = '{undelete}';
SELECT merge_records('account', 36, ARRAY[37]::bigint[]) AS merge_id \gset
SELECT * FROM unmerge(:merge_id);
SELECT count(*) FROM account WHERE id IN (36, 37);
INSERT INTO duplicate_pair (kind, left_id, right_id, score, state) VALUES ('account', 36, 37, 0.9, 'not_duplicate')
    ON CONFLICT (kind, left_id, right_id) DO UPDATE SET state = 'not_duplicate';
SELECT * FROM unmerge(:merge_id);
SELECT count(*) FROM account WHERE id IN (36, 37);
DELETE FROM duplicate_rule;

-- a user's table, outside the workspace
CREATE SCHEMA regress_duplicate_rule_own;
CREATE TABLE regress_duplicate_rule_own.supplier (no integer PRIMARY KEY, firm text, tel varchar(40));
-- fails: no index
SELECT crm.guard_duplicates('regress_duplicate_rule_own.supplier', workspace => 'regress_duplicate_rule');
CREATE INDEX ON regress_duplicate_rule_own.supplier USING crm_match (crm.match_keys('company,phone', firm, tel));
-- fails: which workspace; not a kind yet
SELECT crm.guard_duplicates('regress_duplicate_rule_own.supplier');
INSERT INTO duplicate_rule (kind, name, action) VALUES ('supplier', 'once', 'block');
SELECT crm.guard_duplicates('regress_duplicate_rule_own.supplier', workspace => 'regress_duplicate_rule');
INSERT INTO duplicate_rule (kind, name, action) VALUES ('supplier', 'once', 'block');
INSERT INTO regress_duplicate_rule_own.supplier VALUES (1, 'Hermanos García S.A.', '+34 91 123 45 67');
-- fails: a twin
INSERT INTO regress_duplicate_rule_own.supplier VALUES (2, 'Hermanos Garcia', '+34 91 123 45 67');
-- a statement of many rows is searched in parts, more than memory has room for: its twins are found across them
SET work_mem = '64kB';
\set VERBOSITY default
DO $$
DECLARE
    message text; detail text;
BEGIN
    INSERT INTO regress_duplicate_rule_own.supplier
    SELECT i, CASE WHEN i IN (100, 5900) THEN 'Wayne Enterprises Gotham' ELSE 'S ' || md5(i::text) END, '+1 212 555 ' || CASE WHEN i IN (100, 5900) THEN 7000 ELSE i % 3 END
    FROM generate_series(100, 6000) AS i;
EXCEPTION WHEN SQLSTATE 'RMD01' THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RAISE WARNING '%: row %', message, split_part(detail, E'\n', -1)::jsonb #>> '{0,row}';
END
$$;
RESET work_mem;
-- thousands share a telephone number, and no one is anyone's twin; fails: one who is
INSERT INTO regress_duplicate_rule_own.supplier SELECT i, 'S ' || md5(i::text), '+1 212 555 7001' FROM generate_series(100, 2600) AS i;
\set VERBOSITY terse
INSERT INTO regress_duplicate_rule_own.supplier VALUES (9000, 'S ' || md5('777'), '+1 212 555 7001');
-- fails: in a crowd of equals anyone is a twin
ALTER TABLE regress_duplicate_rule_own.supplier DISABLE TRIGGER USER;
INSERT INTO regress_duplicate_rule_own.supplier SELECT i, 'Twin Brothers', '+1 212 555 7002' FROM generate_series(3000, 6000) AS i;
ALTER TABLE regress_duplicate_rule_own.supplier ENABLE TRIGGER USER;
INSERT INTO regress_duplicate_rule_own.supplier VALUES (9000, 'Twin Brothers', '+1 212 555 7002');
-- fails: a load of equals; and what it left behind in the index hides no twin from the next writer
INSERT INTO regress_duplicate_rule_own.supplier SELECT i, 'Twin Sisters', '+1 212 555 7003' FROM generate_series(10000, 13000) AS i;
INSERT INTO regress_duplicate_rule_own.supplier VALUES (9001, 'Twin Sisters', '+1 212 555 7003');
INSERT INTO regress_duplicate_rule_own.supplier VALUES (9002, 'Twin Sisters', '+1 212 555 7003');
-- of a load of equals that is recorded, each row's pairs with five before it
UPDATE duplicate_rule SET action = 'record' WHERE kind = 'supplier';
INSERT INTO regress_duplicate_rule_own.supplier SELECT i, 'Twin Cousins', '+1 212 555 7004' FROM generate_series(20000, 22999) AS i;
SELECT count(*), count(DISTINCT right_id) AS rows, max(n) AS most FROM (SELECT right_id, count(*) OVER (PARTITION BY right_id) AS n FROM duplicate_pair WHERE kind = 'supplier') AS p;
DELETE FROM duplicate_pair WHERE kind = 'supplier';
UPDATE duplicate_rule SET action = 'block' WHERE kind = 'supplier';
DELETE FROM regress_duplicate_rule_own.supplier WHERE no >= 100;
-- fails: a twin that still waits in the index's pending list
DROP INDEX regress_duplicate_rule_own.supplier_match_keys_idx;
CREATE INDEX ON regress_duplicate_rule_own.supplier USING gin (crm.match_keys('company,phone', firm, tel) crm.match_ops) WITH (fastupdate = on);
ALTER TABLE regress_duplicate_rule_own.supplier DISABLE TRIGGER USER;
INSERT INTO regress_duplicate_rule_own.supplier VALUES (10, 'Wayne Enterprises', '+1 212 555 7000');
ALTER TABLE regress_duplicate_rule_own.supplier ENABLE TRIGGER USER;
INSERT INTO regress_duplicate_rule_own.supplier VALUES (11, 'Wayne Enterprises Inc', '+1 212 555 7000');
-- fails: a view, a table without such a key, a trigger that was made by hand
CREATE VIEW regress_duplicate_rule_own.v AS SELECT * FROM regress_duplicate_rule_own.supplier;
SELECT crm.guard_duplicates('regress_duplicate_rule_own.v', workspace => 'regress_duplicate_rule');
SELECT crm.guard_duplicates('member');
CREATE TRIGGER t AFTER INSERT ON regress_duplicate_rule_own.supplier FOR EACH ROW EXECUTE FUNCTION crm.check_duplicates('supplier');
INSERT INTO regress_duplicate_rule_own.supplier VALUES (3, 'Other', NULL);
DROP TRIGGER t ON regress_duplicate_rule_own.supplier;
-- fails: the index is gone, then back
ALTER TABLE regress_duplicate_rule_own.supplier DROP COLUMN tel CASCADE;
INSERT INTO regress_duplicate_rule_own.supplier VALUES (3, 'Other');
CREATE INDEX ON regress_duplicate_rule_own.supplier USING crm_match (crm.match_keys('company', firm));
INSERT INTO regress_duplicate_rule_own.supplier VALUES (3, 'Other');

-- fails: a row that a rule does not apply to hides none of the same statement that it does apply to
DELETE FROM duplicate_rule;
INSERT INTO duplicate_rule (kind, name, action, condition) VALUES ('account', 'some', 'block', 'new.description IS NULL');
INSERT INTO account (name, phone, description) VALUES ('ACME Trading', '+49 30 901820', NULL), ('Free', '+1 212 555 9100', 'not asked');
UPDATE account SET name = CASE id WHEN 5 THEN 'Acme Trading' ELSE name END, phone = CASE id WHEN 5 THEN '+49 30 901820' ELSE phone END WHERE id IN (4, 5);
-- rows that come back: a soft delete is undone, a flag or a date set back, a condition of any kind comes true
DELETE FROM duplicate_rule;
ALTER TABLE account ADD archived_at timestamptz, ADD archived boolean NOT NULL DEFAULT false, ADD grade integer;
ALTER TABLE account DISABLE TRIGGER USER;
INSERT INTO account (id, name, phone, archived_at, archived, grade) VALUES
    (7000, 'Cyberdyne Systems', '+1 212 555 9001', NULL, false, 5), (7001, 'Cyberdyne Systems Inc', '+1 212 555 9001', now(), true, 1);
ALTER TABLE account ENABLE TRIGGER USER;
INSERT INTO duplicate_rule (kind, name, action, events, condition) VALUES ('account', 'in use', 'block', '{undelete}', 'new.archived_at IS NULL');
-- out of use it may be anything
UPDATE account SET name = 'Cyberdyne Systems', description = 'x' WHERE id = 7001;
-- fails: it comes back
UPDATE account SET archived_at = NULL WHERE id = 7001;
MERGE INTO account AS a USING (VALUES (7001)) AS v (id) ON a.id = v.id WHEN MATCHED THEN UPDATE SET archived_at = NULL, website = 'x.example.com';
INSERT INTO account (id, name) VALUES (7001, 'y') ON CONFLICT (id) DO UPDATE SET archived_at = NULL;
-- in use before and after: nothing comes back, and this rule is not on update
UPDATE account SET phone = '+1 212 555 9001', description = 'y' WHERE id = 7000;
-- fails: a flag; an expression over several columns; several rows at once, of which one comes back
UPDATE duplicate_rule SET condition = 'NOT new.archived';
UPDATE account SET archived = false WHERE id IN (7000, 7001);
UPDATE duplicate_rule SET condition = 'NOT new.archived OR new.grade > 3';
UPDATE account SET grade = 4 WHERE id = 7001;
-- unknown is not true, on either side
UPDATE account SET grade = NULL WHERE id = 7001;
-- without a condition nothing comes back by an update
UPDATE duplicate_rule SET condition = NULL;
UPDATE account SET archived = false, archived_at = NULL WHERE id = 7001;
-- twins that come back together: the later is to blame, or warned of
UPDATE account SET archived = true WHERE id IN (7000, 7001);
UPDATE duplicate_rule SET condition = 'NOT new.archived', action = 'record';
UPDATE account SET archived = false WHERE id IN (7000, 7001);
SELECT left_id, right_id, state FROM duplicate_pair WHERE left_id = 7000;
-- with other events in one rule: each row is judged once
UPDATE duplicate_rule SET events = '{insert,update,import,undelete}', action = 'block';
UPDATE account SET archived = true WHERE id = 7001;
-- fails: back; a new one; an update in use
UPDATE account SET archived = false, name = 'Cyberdyne Systems Inc' WHERE id = 7001;
INSERT INTO account (name, phone) VALUES ('Cyberdyne Systems', '+1 212 555 9001');
INSERT INTO account (id, name, phone) VALUES (7002, 'Tyrell Corporation', '+1 212 555 9002');
UPDATE account SET name = 'Cyberdyne Systems', phone = '+1 212 555 9001' WHERE id = 7002;
-- ... and one that is out of use from the start
INSERT INTO account (name, phone, archived) VALUES ('Cyberdyne Systems', '+1 212 555 9001', true);

-- fails: of a hidden record whose owner is in no team, too, what the person may know makes a sentence
DELETE FROM duplicate_rule;
INSERT INTO account (id, name, phone, owner_id) VALUES (7100, 'Stark Industries', '+1 212 555 9200', 1);
INSERT INTO duplicate_rule (kind, name, action) VALUES ('account', 'no twins', 'block');
SET SESSION AUTHORIZATION regress_duplicate_rule_bob;
\set VERBOSITY default
INSERT INTO account (id, name, phone) VALUES (7101, 'Stark Industries Inc', '+1 212 555 9200');
\set VERBOSITY terse
RESET SESSION AUTHORIZATION;

DROP SCHEMA regress_duplicate_rule_own CASCADE;
DROP SCHEMA regress_duplicate_rule CASCADE;
DROP OWNED BY regress_duplicate_rule_ann, regress_duplicate_rule_bob;
DROP ROLE regress_duplicate_rule_ann;
DROP ROLE regress_duplicate_rule_bob;
