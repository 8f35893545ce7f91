-- Business tables keep their own bookkeeping: row_version, updated_at, and refusal of stale updates.
\set SHOW_CONTEXT never
SET crm.strict_input = on;
\pset format unaligned
SET client_min_messages = warning;
SELECT crm.create_workspace('regress_record');
SET search_path = regress_record;

INSERT INTO account (id, name, created_at, updated_at) VALUES (1, 'Acme', '2020-01-01', '2020-01-01');
SELECT row_version, updated_at = '2020-01-01' AS as_imported FROM account;

-- a change counts, whoever makes it; an update that changes nothing does not
UPDATE account SET city = 'Berlin' WHERE id = 1;
SELECT row_version, updated_at > '2021-01-01' AS is_now FROM account;
UPDATE account SET updated_at = '2020-01-01' WHERE id = 1;
SELECT row_version, updated_at > '2021-01-01' AS is_now FROM account;
BEGIN;
SELECT updated_at AS before FROM account \gset
UPDATE account SET city = 'Berlin', name = name WHERE id = 1;
SELECT row_version, updated_at = :'before' AS untouched FROM account;
COMMIT;

-- optimistic locking: the version that was read, or the next one
UPDATE account SET city = 'Bonn', row_version = 3 WHERE id = 1;
UPDATE account SET city = 'Köln', row_version = row_version + 1 WHERE id = 1 AND row_version = 4;
UPDATE account SET row_version = row_version + 1 WHERE id = 1;
UPDATE account SET row_version = NULL, city = 'Kiel' WHERE id = 1;
SELECT city, row_version FROM account;
-- fails: someone else was faster
\set VERBOSITY sqlstate
UPDATE account SET city = 'Mainz', row_version = 5 WHERE id = 1;
\set VERBOSITY default
UPDATE account SET city = 'Mainz', row_version = 5 WHERE id = 1;
-- fails: a version that never was
UPDATE account SET city = 'Mainz', row_version = 9 WHERE id = 1;
MERGE INTO account AS a USING (VALUES (1, 'Mainz', 2)) AS n (id, city, v) ON a.id = n.id
WHEN MATCHED THEN UPDATE SET city = n.city, row_version = n.v;
INSERT INTO account (id, name, row_version) VALUES (1, 'Acme', 2) ON CONFLICT (id) DO UPDATE SET row_version = excluded.row_version;
SELECT city, row_version FROM account;

-- no account is below itself, however long the way, whoever writes and in one statement;
-- a circle made while the trigger was off is no fault of those below it
CREATE ROLE regress_record_rep;
SELECT crm.grant_access('regress_record', 'regress_record_rep', 'app');
INSERT INTO member (id, name, login_role, access) VALUES (1, 'Rep', 'regress_record_rep', 'all');
SET SESSION AUTHORIZATION regress_record_rep;
INSERT INTO account (id, name, parent_id) VALUES (11, 'Holding', NULL), (12, 'Sub', 11), (13, 'Branch', 12);
UPDATE account SET parent_id = 13 WHERE id = 11;
UPDATE account SET parent_id = CASE id WHEN 11 THEN 12 END WHERE id IN (11, 12);
INSERT INTO account (id, name, parent_id) VALUES (14, 'A', 16), (15, 'B', 14), (16, 'C', 15);
UPDATE account SET parent_id = 1 WHERE id = 11;
RESET SESSION AUTHORIZATION;
SELECT id, parent_id FROM account WHERE id > 10 ORDER BY id;
ALTER TABLE account DISABLE TRIGGER crm_refuse_cycle;
INSERT INTO account (id, name, parent_id) VALUES (21, 'X', 22), (22, 'Y', 23), (23, 'Z', 21);
ALTER TABLE account ENABLE TRIGGER crm_refuse_cycle;
INSERT INTO account (id, name, parent_id) VALUES (24, 'V', 22), (25, 'W', 24);
UPDATE account SET parent_id = 11 WHERE id = 21;
UPDATE account SET parent_id = 25 WHERE id = 22;

-- dates that some clients cannot read are refused, above all infinity
\set VERBOSITY terse
INSERT INTO opportunity (account_id, name, close_date) VALUES (1, 'Deal', 'infinity');
INSERT INTO opportunity (account_id, name, close_date) VALUES (1, 'Deal', '20261-12-31');
INSERT INTO opportunity (account_id, name, close_date) VALUES (1, 'Deal', '0044-03-15 BC');
INSERT INTO contact (full_name, birth_date) VALUES ('Methuselah', '-infinity');
INSERT INTO activity (subject, due_at) VALUES ('Never', 'infinity');
INSERT INTO activity (subject, completed_at) VALUES ('Always', '-infinity');
INSERT INTO share (kind, record_id, member_id, expires_at) VALUES ('account', 1, 1, 'infinity');
INSERT INTO exchange_rate (currency, rate, valid_from) VALUES ('EUR', 1, '-infinity');
\set VERBOSITY default
INSERT INTO opportunity (account_id, name, close_date) VALUES (1, 'Deal', '9999-12-31'), (1, 'Old', '0001-01-01');

-- any table can carry the trigger
CREATE TABLE own (id int, junk int, row_version bigint DEFAULT 9223372036854775807, big text);
ALTER TABLE own DROP COLUMN junk;
CREATE TRIGGER touch BEFORE UPDATE ON own FOR EACH ROW EXECUTE FUNCTION crm.touch();
INSERT INTO own (id, big) VALUES (1, repeat('x', 100000));
UPDATE own SET id = 1;
UPDATE own SET id = 2;
ALTER TABLE own ADD COLUMN more int, ADD COLUMN twice int GENERATED ALWAYS AS (id * 2) STORED;
UPDATE own SET more = NULL;
SELECT row_version, twice FROM own;
UPDATE own SET big = repeat('y', 100000);
SELECT row_version, length(big) FROM own;
CREATE TABLE only_time (id int, updated_at timestamptz);
CREATE TRIGGER touch BEFORE UPDATE ON only_time FOR EACH ROW EXECUTE FUNCTION crm.touch();
INSERT INTO only_time VALUES (1);
UPDATE only_time SET id = 1;
SELECT updated_at IS NULL AS untouched FROM only_time;
UPDATE only_time SET id = 2;
SELECT updated_at > '2021-01-01' AS is_now, updated_at IS NULL AS untouched FROM only_time;

-- fails: nothing to maintain, or of a type we cannot
CREATE TABLE neither (id int);
CREATE TRIGGER touch BEFORE UPDATE ON neither FOR EACH ROW EXECUTE FUNCTION crm.touch();
INSERT INTO neither VALUES (1);
UPDATE neither SET id = 2;
ALTER TABLE neither ADD COLUMN row_version text;
UPDATE neither SET id = 2;
-- fails: not before update for each row
CREATE TRIGGER touch_insert BEFORE INSERT ON neither FOR EACH ROW EXECUTE FUNCTION crm.touch();
INSERT INTO neither VALUES (2);

-- fails: records nobody could find again
\set VERBOSITY terse
INSERT INTO account (name) VALUES (' ');
INSERT INTO account (id, name, parent_id) VALUES (2, 'Ouroboros', 2);
INSERT INTO contact (city) VALUES ('Berlin');
INSERT INTO lead (city) VALUES ('Berlin');
INSERT INTO opportunity (name, amount, currency) VALUES ('Deal', 1, 'dollars');
INSERT INTO activity (subject) VALUES ('');
INSERT INTO activity (subject, type) VALUES ('Lunch', 'lunch');
\set VERBOSITY default
-- picklists are tables
INSERT INTO activity_type (name) VALUES ('lunch');
INSERT INTO activity (subject, type) VALUES ('Lunch', 'lunch');
UPDATE activity_type SET name = 'business lunch' WHERE name = 'lunch';
SELECT subject, type FROM activity;

-- every business table is touched: none
SELECT c.relname
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'row_version'
WHERE c.relnamespace = 'regress_record'::regnamespace
  AND c.relname <> 'own' AND c.relname <> 'neither'
  AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = c.oid AND t.tgfoid = 'crm.touch()'::regprocedure AND t.tgenabled = 'O');

-- fails: an amount that makes every sum unknown
\set VERBOSITY terse
INSERT INTO opportunity (name, amount) VALUES ('No number', 'NaN');
\set VERBOSITY default
RESET search_path;
DROP SCHEMA regress_record CASCADE;
DROP OWNED BY regress_record_rep;
DROP ROLE regress_record_rep;
