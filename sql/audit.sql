-- The audit log says who changed what, when and through which client, and nobody edits it.
\set SHOW_CONTEXT never
\pset format unaligned
SET client_min_messages = warning;
SET application_name = 'regress/audit';
CREATE ROLE regress_audit_owner;
CREATE ROLE regress_audit_app;
CREATE ROLE regress_audit_auditor;
CREATE ROLE regress_audit_other;
GRANT CREATE ON DATABASE contrib_regression TO regress_audit_owner, regress_audit_other;
SELECT crm.grant_toolkit('regress_audit_owner'), crm.grant_toolkit('regress_audit_other');
SET ROLE regress_audit_owner;
SELECT crm.create_workspace('regress_audit');
SELECT crm.grant_access('regress_audit', 'regress_audit_app', 'app'), crm.grant_access('regress_audit', 'regress_audit_auditor', 'auditor');
SET search_path = regress_audit, pg_catalog;
INSERT INTO member (id, name, login_role) VALUES (7, 'Ann', session_user);

-- one row a change: all columns of a new or deleted record, the changed ones of an update
INSERT INTO account (id, name, city, parent_id) VALUES (1, 'Acme', 'Berlin', NULL);
UPDATE account SET city = 'Bonn', region = 'NRW' WHERE id = 1;
UPDATE account SET city = 'Bonn', name = name WHERE id = 1;
UPDATE account SET region = NULL WHERE id = 1;
INSERT INTO account (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = 'Acme AG';
MERGE INTO account AS a USING (VALUES (1, 'Köln')) AS n (id, city) ON a.id = n.id WHEN MATCHED THEN UPDATE SET city = n.city;
COPY account (id, name) FROM stdin;
2	Beta
\.
DO $$ BEGIN UPDATE regress_audit.account SET website = 'https://beta.example' WHERE id = 2; END $$;
WITH gone AS (DELETE FROM account WHERE id = 1 RETURNING *) SELECT id FROM gone;
SELECT statement, operation, kind, record_id, member_id, role, application,
       old - '{created_at,updated_at}'::text[] AS old, new - 'created_at' AS new
FROM audit_log WHERE kind = 'account' ORDER BY id;
SELECT bool_and(l.login_role = session_user) AS login, bool_and(l.clock_at >= l.changed_at) AS clock,
       bool_and(l.table_name = 'regress_audit.account') AS "table", count(DISTINCT session) AS sessions
FROM audit_log AS l WHERE l.kind = 'account';
-- one transaction, one number; what is rolled back leaves nothing
BEGIN;
UPDATE account SET city = 'Kiel' WHERE id = 2;
SAVEPOINT s;
UPDATE account SET city = 'Ulm' WHERE id = 2;
ROLLBACK TO s;
INSERT INTO contact (id, full_name, national_id) VALUES (1, 'Zhang San', '110101199003070134');
COMMIT;
SELECT count(*), count(DISTINCT transaction_id) FROM (SELECT * FROM audit_log ORDER BY id DESC LIMIT 2) AS last;
-- a masked column shows that it changed, and no more
UPDATE contact SET national_id = '110101199003070135', job_title = 'CEO' WHERE id = 1;
SELECT old, new FROM audit_log WHERE kind = 'contact' ORDER BY id DESC LIMIT 1;
TRUNCATE external_reference;
SELECT operation, record_id, old, new FROM audit_log WHERE kind = 'external_reference';

-- fails: nobody edits the log, not even its owner
UPDATE audit_log SET member_id = 8;
DELETE FROM audit_log;
TRUNCATE audit_log;
DELETE FROM audit_log WHERE false;
RESET ROLE;
SET ROLE regress_audit_app;
SELECT count(*) FROM audit_log;
INSERT INTO audit_log (changed_at, clock_at, transaction_id, operation, kind, table_name) VALUES (now(), now(), 1, 'INSERT', 'account', 'x');
ALTER TABLE audit_log DISABLE TRIGGER crm_append_only;
RESET ROLE;
SET ROLE regress_audit_auditor;
SELECT count(*) > 5 AS readable FROM audit_log;
DELETE FROM audit_log;
SELECT name FROM account;

-- a table of the user's own, with types of every sort, columns added and dropped
RESET ROLE;
SET ROLE regress_audit_owner;
CREATE DOMAIN price AS numeric(10,2);
CREATE TABLE gear (
    a text, gone int, b uuid, p price, d date, ts timestamptz, j json, jb jsonb, arr text[], f float8, ok boolean,
    raw bytea, n smallint, big text, secret text, twice int GENERATED ALWAYS AS (n * 2) STORED,
    PRIMARY KEY (b, a));
ALTER TABLE gear DROP COLUMN gone;
SELECT crm.enable_audit('gear', mask => '{secret}');
SET timezone = 'UTC';
INSERT INTO gear VALUES ('k', '00000000-0000-0000-0000-000000000001', 12.5, '2026-01-02', '2026-01-02 03:04:05+00', '{"x": [1]}', '[true]',
                         '{a,NULL}', 'NaN', true, '\x00ff', 3, repeat('x', 70000), 'hush');
ALTER TABLE gear ADD COLUMN "Odd ""name" text;
UPDATE gear SET "Odd ""name" = 'x', arr = '{}', p = -0.01, j = '3', big = big || 'y';
UPDATE gear SET j = NULL, ts = 'infinity', raw = decode(repeat('00', 70000), 'hex'), secret = 'sh';
UPDATE gear SET big = big, n = n;
UPDATE gear SET big = repeat('x', 70000) || 'y';
DELETE FROM gear;
SELECT operation, record_id, record_key, old, new FROM audit_log WHERE kind = 'gear' ORDER BY id;

-- no primary key: an update shows the whole row, so that one can tell which it was
CREATE TABLE heap (a int, b int);
SELECT crm.enable_audit('heap', 'pile');
INSERT INTO heap VALUES (1, 1);
UPDATE heap SET b = 2;
UPDATE heap SET b = 2;
SELECT operation, record_id, record_key, old, new FROM audit_log WHERE kind = 'pile' ORDER BY id;

-- partitions are logged as their table, also when a row moves
CREATE TABLE part (id bigint, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE SCHEMA regress_audit_elsewhere;
CREATE TABLE regress_audit_elsewhere.part_eu (region text, id bigint, PRIMARY KEY (id, region));
ALTER TABLE part ATTACH PARTITION regress_audit_elsewhere.part_eu FOR VALUES IN ('eu');
CREATE TABLE part_rest PARTITION OF part DEFAULT;
SELECT crm.enable_audit('part');
INSERT INTO part VALUES (1, 'eu'), (2, 'us');
UPDATE part SET region = 'cn' WHERE id = 1;
INSERT INTO regress_audit_elsewhere.part_eu (id, region) VALUES (3, 'eu');
SELECT operation, table_name, old, new FROM audit_log WHERE kind = 'part' ORDER BY id;

RESET ROLE;
-- what is known of a trigger is looked up once, and again after DDL
CREATE TEMP TABLE rebuilds AS SELECT crm_test.audit_rebuilds() AS n;
UPDATE heap SET b = 3;
UPDATE heap SET b = 4;
SELECT crm_test.audit_rebuilds() - n AS rebuilt FROM rebuilds;
ALTER TABLE heap ADD COLUMN c int DEFAULT 5;
UPDATE heap SET b = 5;
UPDATE heap SET b = 6;
SELECT crm_test.audit_rebuilds() - n AS rebuilt FROM rebuilds;

SET ROLE regress_audit_owner;
-- the log may have columns and triggers of its owner's own; they run as the owner
ALTER TABLE audit_log ADD COLUMN note text DEFAULT 'noted';
CREATE TABLE seen (who text, b int);
CREATE FUNCTION on_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO regress_audit.seen VALUES (current_user, NULL);
    RETURN NULL;
END $$;
CREATE TRIGGER on_log AFTER INSERT ON audit_log FOR EACH ROW WHEN (NEW.kind = 'pile') EXECUTE FUNCTION on_log();
GRANT INSERT ON heap TO regress_audit_app;
SET ROLE regress_audit_app;
INSERT INTO heap VALUES (9, 9);
RESET ROLE;
SET ROLE regress_audit_owner;
SELECT l.role, l.note, s.who FROM audit_log AS l, seen AS s WHERE l.kind = 'pile' ORDER BY l.id DESC LIMIT 1;
-- an audited table written by the log's own trigger, even one that invalidates as it goes
SELECT crm.enable_audit('seen');
CREATE OR REPLACE FUNCTION on_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'COMMENT ON TABLE regress_audit.heap IS ''x''';
    EXECUTE 'ALTER TABLE regress_audit.seen ADD COLUMN c' || NEW.id || ' int';
    INSERT INTO regress_audit.seen VALUES (current_user, NULL);
    INSERT INTO regress_audit.heap SELECT 100 WHERE NEW.new ->> 'a' = '10';
    RETURN NULL;
END $$;
INSERT INTO heap VALUES (10, 10);
SELECT kind, new - 'who' AS new FROM audit_log WHERE kind IN ('pile', 'seen') ORDER BY id DESC LIMIT 4;
DROP TRIGGER on_log ON audit_log;
-- fails: the log refuses, so the change is refused
ALTER TABLE audit_log ADD CONSTRAINT no_thirteen CHECK (new ->> 'a' <> '13');
\set VERBOSITY terse
INSERT INTO heap VALUES (13, 0);
\set VERBOSITY default
INSERT INTO heap VALUES (14, 0);
ALTER TABLE audit_log DROP CONSTRAINT no_thirteen;

-- names follow a renamed schema
ALTER SCHEMA regress_audit RENAME TO "Regress audit 2";
UPDATE "Regress audit 2".heap SET b = 5 WHERE a = 14;
ALTER SCHEMA "Regress audit 2" RENAME TO regress_audit;
UPDATE heap SET b = 6 WHERE a = 14;
SELECT table_name FROM audit_log WHERE kind = 'pile' ORDER BY id DESC LIMIT 2;

-- fails: nobody writes to another's log through a table of their own
RESET ROLE;
GRANT USAGE ON SCHEMA regress_audit TO regress_audit_other;
SET ROLE regress_audit_other;
CREATE SCHEMA regress_audit_other;
CREATE TABLE regress_audit_other.own (id int PRIMARY KEY);
SELECT crm.enable_audit('regress_audit_other.own');
SELECT crm.enable_audit('regress_audit_other.own', audit_log => 'regress_audit.audit_log');
INSERT INTO regress_audit_other.own VALUES (1);
RESET ROLE;
SET ROLE regress_audit_owner;
GRANT INSERT ON audit_log TO regress_audit_other;
SET ROLE regress_audit_other;
INSERT INTO regress_audit_other.own VALUES (1);
SELECT crm.disable_audit('regress_audit_other.own');
INSERT INTO regress_audit_other.own VALUES (2);
-- fails: arguments
SELECT crm.enable_audit('regress_audit.account');
SELECT crm.enable_audit('regress_audit_other.own', '', audit_log => 'regress_audit.audit_log');
SELECT crm.enable_audit('regress_audit_other.own', mask => '{nope}', audit_log => 'regress_audit.audit_log');
CREATE TRIGGER bad AFTER INSERT ON regress_audit_other.own FOR EACH ROW EXECUTE FUNCTION crm.audit();
INSERT INTO regress_audit_other.own VALUES (3);
CREATE OR REPLACE TRIGGER bad AFTER INSERT ON regress_audit_other.own FOR EACH ROW EXECUTE FUNCTION crm.audit('own', 'log=no.where');
INSERT INTO regress_audit_other.own VALUES (3);
CREATE OR REPLACE TRIGGER bad AFTER INSERT ON regress_audit_other.own FOR EACH ROW EXECUTE FUNCTION crm.audit('own', 'log=regress_audit_other.own');
INSERT INTO regress_audit_other.own VALUES (3);
CREATE OR REPLACE TRIGGER bad BEFORE INSERT ON regress_audit_other.own FOR EACH ROW EXECUTE FUNCTION crm.audit('own');
INSERT INTO regress_audit_other.own VALUES (3);

-- seals: what is sealed cannot be changed unnoticed
RESET ROLE;
SET ROLE regress_audit_owner;
SELECT crm.seal_audit('regress_audit') = count(*) AS all_sealed FROM audit_log;
SELECT crm.seal_audit('regress_audit');
UPDATE account SET city = 'Trier' WHERE id = 2;
UPDATE account SET city = 'Worms' WHERE id = 2;
SELECT crm.seal_audit('regress_audit', 1);
SELECT intact, detail FROM crm.audit_verify('regress_audit') ORDER BY seal_id;
SET timezone = 'Asia/Shanghai';
SET ROLE regress_audit_auditor;
SELECT bool_and(intact) FROM crm.audit_verify('regress_audit');
SET ROLE regress_audit_owner;
UPDATE audit_seal SET row_count = 0;
DELETE FROM audit_seal;
TRUNCATE audit_seal;
BEGIN;
ALTER TABLE audit_log DISABLE TRIGGER crm_append_only;
UPDATE audit_log SET member_id = 8 WHERE id = (SELECT min(id) FROM audit_log);
SELECT intact, detail FROM crm.audit_verify('regress_audit') ORDER BY seal_id;
ROLLBACK;
BEGIN;
ALTER TABLE audit_log DISABLE TRIGGER crm_append_only;
DELETE FROM audit_log WHERE id = (SELECT min(id) FROM audit_log);
SELECT intact, detail FROM crm.audit_verify('regress_audit') ORDER BY seal_id;
ROLLBACK;
BEGIN;
ALTER TABLE audit_seal DISABLE TRIGGER crm_append_only;
UPDATE audit_seal SET digest = repeat('0', 64) WHERE id = (SELECT min(id) FROM audit_seal);
SELECT intact, detail FROM crm.audit_verify('regress_audit') ORDER BY seal_id;
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT crm.seal_audit('regress_audit');
ROLLBACK;
SELECT crm.seal_audit('public');
SELECT crm.seal_audit('regress_audit', 0);
SELECT * FROM crm.audit_verify('public');

RESET ROLE;
RESET search_path;
RESET timezone;
DROP SCHEMA regress_audit, regress_audit_elsewhere, regress_audit_other CASCADE;
DROP TABLE rebuilds;
DROP OWNED BY regress_audit_owner, regress_audit_app, regress_audit_auditor, regress_audit_other;
DROP ROLE regress_audit_owner, regress_audit_app, regress_audit_auditor, regress_audit_other;
