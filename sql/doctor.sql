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

-- roles that row-level security does not hold
RESET ROLE;
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
RESET ROLE;
SELECT crm.upgrade_workspace('Regress doctor') > 0 AS upgraded;
SELECT * FROM "Regress doctor".whoami;

RESET search_path;
DROP VIEW pg_temp.findings, pg_temp.all_findings;
DROP TABLE pg_temp.before;
DROP SCHEMA "Regress doctor", regress_doctor_trap CASCADE;
DROP OWNED BY regress_doctor_owner, regress_doctor_app;
DROP ROLE regress_doctor_owner, regress_doctor_app;
