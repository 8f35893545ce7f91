-- crm.doctor() finds what would make a promise untrue, and nothing in a healthy workspace.
\set SHOW_CONTEXT never
\pset format unaligned
SET client_min_messages = warning;
CREATE ROLE regress_doctor_owner;
CREATE ROLE regress_doctor_app;
GRANT CREATE ON DATABASE contrib_regression TO regress_doctor_owner;
SELECT crm.grant_toolkit('regress_doctor_owner');
SET ROLE regress_doctor_owner;
SELECT crm.create_workspace('Regress doctor');
SELECT crm.grant_access('Regress doctor', 'regress_doctor_app', 'app');
SET search_path = "Regress doctor", pg_catalog;
CREATE VIEW pg_temp.all_findings AS
SELECT severity, "check", detail, hint FROM crm.doctor() WHERE workspace = '"Regress doctor"'::regnamespace;
CREATE TABLE pg_temp.before AS SELECT * FROM pg_temp.all_findings;
CREATE VIEW pg_temp.findings AS
TABLE pg_temp.all_findings EXCEPT TABLE pg_temp.before ORDER BY 2, 3;

BEGIN;
ALTER TABLE account DISABLE ROW LEVEL SECURITY;
SELECT * FROM pg_temp.all_findings WHERE detail LIKE '%.account %';
ROLLBACK;
BEGIN;
ALTER TABLE contact ENABLE ROW LEVEL SECURITY;
SELECT format('DROP POLICY %I ON contact', polname) FROM pg_policy WHERE polrelid = 'contact'::regclass ORDER BY polname \gexec
SELECT * FROM pg_temp.findings;
ROLLBACK;
BEGIN;
DROP TRIGGER crm_touch ON lead;
DROP TRIGGER crm_append_only ON audit_log;
ALTER TABLE opportunity DISABLE TRIGGER crm_audit;
ALTER TABLE opportunity ENABLE REPLICA TRIGGER crm_touch;
ALTER TABLE activity ENABLE ALWAYS TRIGGER crm_audit;
SELECT * FROM pg_temp.findings;
-- an upgrade brings back what is missing, and leaves what somebody switched
SELECT crm.upgrade_workspace('Regress doctor') = schema_version AS upgraded FROM crm_meta;
SELECT "check", detail FROM pg_temp.findings;
SELECT tgenabled FROM pg_trigger WHERE tgrelid = 'activity'::regclass AND tgname = 'crm_audit';
ROLLBACK;
BEGIN;
CREATE TABLE extra (id int PRIMARY KEY, account_id bigint REFERENCES account, a text, b text, UNIQUE (a, b));
CREATE TABLE more (id int PRIMARY KEY, x text, y text, FOREIGN KEY (x, y) REFERENCES extra (a, b));
CREATE INDEX ON more (y, x);
SELECT * FROM pg_temp.findings;
CREATE INDEX ON extra (account_id) WHERE account_id > 5;
SELECT count(*) FROM pg_temp.findings;
CREATE INDEX ON extra (account_id, id) WHERE account_id IS NOT NULL;
SELECT count(*) FROM pg_temp.findings;
ROLLBACK;
BEGIN;
CREATE VIEW everybody AS SELECT * FROM account;
SELECT count(*) FROM pg_temp.findings;
GRANT SELECT ON everybody TO regress_doctor_app;
SELECT * FROM pg_temp.findings;
ALTER VIEW everybody SET (security_invoker = on);
SELECT count(*) FROM pg_temp.findings;
ROLLBACK;
BEGIN;
CREATE FUNCTION danger() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
SELECT * FROM pg_temp.findings;
ROLLBACK;
BEGIN;
UPDATE crm_meta SET schema_version = 0;
SELECT "check", detail = format('workspace "Regress doctor" has version 0, this extension brings version %s', max(version)), hint
FROM pg_temp.findings, crm._workspace_ddl() GROUP BY "check", detail, hint;
-- fails: made by a newer crm
UPDATE crm_meta SET schema_version = 1000000;
\set VERBOSITY sqlstate
SELECT crm.upgrade_workspace('Regress doctor');
\set VERBOSITY default
ROLLBACK;

-- policies: one that is gone, one that lets everybody in, one that only restricts
BEGIN;
DROP POLICY crm_read ON account;
CREATE POLICY everybody ON contact USING (true);
CREATE POLICY nobody ON lead AS RESTRICTIVE USING (true);
SELECT * FROM pg_temp.findings;
ROLLBACK;
-- of two triggers of a function one is gone; triggers of the workspace's own functions count as well
BEGIN;
DROP TRIGGER zz_stage_guard ON opportunity;
DROP TRIGGER zz_wake ON reminder;
ALTER TABLE activity DISABLE TRIGGER reminder_update;
SELECT * FROM pg_temp.findings;
ROLLBACK;
-- indexes
BEGIN;
INSERT INTO account (name) SELECT 'Firm ' || i FROM generate_series(1, 100) AS i;
SELECT crm.analyze_matching('account');
UPDATE account SET city = 'Bonn' WHERE id <= (SELECT min(id) + 49 FROM account);
SELECT * FROM pg_temp.findings;
UPDATE account SET city = 'Berlin' WHERE id = (SELECT min(id) FROM account);
SELECT severity, "check", regexp_replace(detail, ' on [-0-9]+ ', ' on ... ') AS detail, hint FROM pg_temp.findings;
SELECT crm.analyze_matching('account');
SELECT * FROM pg_temp.findings;
ROLLBACK;
BEGIN;
DROP INDEX account_match;
SELECT * FROM pg_temp.findings;
ROLLBACK;
-- what an upgrade makes anew, and what it does not
BEGIN;
ALTER TABLE account DROP COLUMN industry CASCADE;
DROP FUNCTION snooze(bigint, timestamptz);
SELECT * FROM pg_temp.findings;
ROLLBACK;
BEGIN;
ALTER TABLE event SET (autovacuum_enabled = off);
SELECT * FROM pg_temp.findings;
ROLLBACK;
-- privileges
BEGIN;
GRANT SELECT ON account, token_key TO PUBLIC;
GRANT SELECT, DELETE ON audit_log TO regress_doctor_app;
GRANT EXECUTE ON FUNCTION transfer(text, bigint[], bigint), me() TO PUBLIC;
SELECT * FROM pg_temp.findings;
ROLLBACK;
-- rules that worked when they were written
BEGIN;
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'won', 'sourced', 'new.source IS NOT NULL');
INSERT INTO duplicate_rule (kind, name, action, condition) VALUES ('account', 'twins', 'warn', 'new.industry IS NOT NULL');
INSERT INTO escalation_rule (kind, name, condition) VALUES ('account', 'idle', 'industry IS NOT NULL');
INSERT INTO attention_rule (name, kind, condition, delivery) VALUES ('key', 'account', 'industry = ''x''', 'at once');
INSERT INTO sla_policy (kind, name, target, met_when) VALUES ('account', 'fast', '1 hour', 'industry IS NOT NULL');
SELECT count(*) FROM pg_temp.findings;
ALTER TABLE account DROP COLUMN industry CASCADE;
ALTER TABLE opportunity DROP COLUMN source CASCADE;
SELECT * FROM pg_temp.findings WHERE "check" = 'rule does not work';
ROLLBACK;
BEGIN;
UPDATE pipeline SET is_default = false WHERE kind = 'lead';
UPDATE stage SET is_initial = false WHERE pipeline = 'sales';
SELECT * FROM pg_temp.findings;
ROLLBACK;
-- people
BEGIN;
INSERT INTO member (name, login_role) VALUES ('Ann', 'regress_doctor_gone'), ('Bob', 'regress_doctor_owner'), ('Cleo', 'regress_doctor_app');
INSERT INTO member (name, login_role, active) VALUES ('Dan', 'regress_doctor_left', false);
SELECT * FROM pg_temp.findings;
ROLLBACK;
-- reminders
BEGIN;
INSERT INTO member (id, name) VALUES (900, 'Ann');
INSERT INTO reminder (member_id, due_at, title) VALUES (900, '2020-01-01 12:00+00', 'late'), (900, now(), 'now'), (900, '2020-01-01', 'faulty'), (900, '2020-01-01', 'faulty');
UPDATE reminder SET failed_at = now(), failure = 'P0001: no' WHERE title = 'faulty';
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO';
SELECT * FROM pg_temp.findings;
ROLLBACK;

-- roles that row-level security does not hold
RESET ROLE;
-- owners: of one thing, of nearly all
BEGIN;
ALTER TABLE account OWNER TO regress_doctor_app;
SELECT "check", detail, hint FROM pg_temp.findings WHERE "check" = 'owner';
ROLLBACK;
BEGIN;
CREATE ROLE regress_doctor_next;
ALTER SCHEMA "Regress doctor" OWNER TO regress_doctor_next;
SELECT detail LIKE '% more belong to %' AS many, hint LIKE '%, or ALTER SCHEMA "Regress doctor" OWNER TO regress_doctor_owner.' AS hint,
       CASE WHEN detail NOT LIKE '% more belong to %' THEN detail END AS detail
FROM pg_temp.findings WHERE "check" = 'owner' ORDER BY 1;
ROLLBACK;
-- an index that is not valid
BEGIN;
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'contact_match'::regclass;
SELECT * FROM pg_temp.findings;
ROLLBACK;
BEGIN;
GRANT regress_doctor_owner TO regress_doctor_app;
SELECT severity, "check", detail, hint FROM crm.doctor() WHERE detail LIKE '%regress_doctor%';
ROLLBACK;
BEGIN;
ALTER ROLE regress_doctor_app BYPASSRLS;
SELECT severity, "check", detail FROM crm.doctor() WHERE detail LIKE '%regress_doctor%';
ALTER ROLE regress_doctor_app SUPERUSER NOBYPASSRLS;
SELECT severity, "check", detail FROM crm.doctor() WHERE detail LIKE '%regress_doctor%';
ROLLBACK;
BEGIN;
GRANT EXECUTE ON FUNCTION crm.workspaces() TO PUBLIC;
SELECT severity, "check", detail, hint FROM crm.doctor() WHERE "check" = 'public function';
ROLLBACK;

-- the database as a whole
SELECT severity, "check", hint LIKE 'Run ALTER DATABASE contrib_regression SET crm.default_region%' AS hint
FROM crm.doctor() WHERE workspace IS NULL AND "check" = 'default region';
SET crm.default_region = 'DE';
SELECT count(*) FROM crm.doctor() WHERE "check" IN ('default region', 'not preloaded', 'extension version', 'public function');
RESET crm.default_region;

-- a view that calls itself crm_meta makes no workspace, and nobody reads it
SET ROLE regress_doctor_owner;
CREATE SCHEMA regress_doctor_trap;
CREATE FUNCTION regress_doctor_trap.spring() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'sprung'; END $$;
CREATE VIEW regress_doctor_trap.crm_meta AS SELECT regress_doctor_trap.spring() AS schema_version;
CREATE TRIGGER crm_workspace BEFORE DELETE ON regress_doctor_trap.crm_meta FOR EACH STATEMENT EXECUTE FUNCTION crm.meta_guard();
RESET ROLE;
SELECT count(*) FROM crm.workspaces() WHERE workspace = 'regress_doctor_trap'::regnamespace;
SELECT crm.upgrade_workspace('regress_doctor_trap');
-- what the owner put on a table does not run with a superuser's rights
SET ROLE regress_doctor_owner;
CREATE TABLE whoami (who text);
CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO "Regress doctor".whoami VALUES (current_user);
    BEGIN
        RESET ROLE;
    EXCEPTION WHEN insufficient_privilege THEN
        INSERT INTO "Regress doctor".whoami VALUES (SQLERRM);
    END;
    RETURN NEW;
END $$;
CREATE TRIGGER spy BEFORE UPDATE ON crm_meta FOR EACH ROW EXECUTE FUNCTION spy();
-- nor what the owner puts in place of one
CREATE FUNCTION look() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ BEGIN INSERT INTO "Regress doctor".whoami VALUES ('looked at as ' || current_user); RETURN true; END $$;
ALTER TABLE duplicate_rule RENAME TO real_rule;
CREATE VIEW duplicate_rule AS SELECT * FROM real_rule WHERE look();
INSERT INTO real_rule (kind, name, action) VALUES ('account', 'x', 'warn');
RESET ROLE;
SELECT count(*) > 0 AS ran FROM crm.doctor();
SET ROLE regress_doctor_owner;
DROP VIEW duplicate_rule;
ALTER TABLE real_rule RENAME TO duplicate_rule;
RESET ROLE;
SELECT crm.upgrade_workspace('Regress doctor') > 0 AS upgraded;
SELECT * FROM "Regress doctor".whoami;

RESET search_path;
DROP VIEW pg_temp.findings, pg_temp.all_findings;
DROP TABLE pg_temp.before;
DROP SCHEMA "Regress doctor", regress_doctor_trap CASCADE;
DROP OWNED BY regress_doctor_owner, regress_doctor_app;
DROP ROLE regress_doctor_owner, regress_doctor_app;
