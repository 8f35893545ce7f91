-- A workspace is ordinary tables owned by the person who creates it.
\set SHOW_CONTEXT never
CREATE ROLE regress_workspace_owner;
GRANT CREATE ON DATABASE contrib_regression TO regress_workspace_owner;
SELECT crm.grant_toolkit('regress_workspace_owner');
SET ROLE regress_workspace_owner;

SELECT crm.create_workspace('regress_ws');
SELECT workspace, owner, schema_version = current_version AS current FROM crm.workspaces() WHERE workspace::text = 'regress_ws';

-- what a row needs has a default
INSERT INTO regress_ws.member (name) VALUES ('Ann');
INSERT INTO regress_ws.account (name) VALUES ('Acme');

-- fails: names that are taken or reserved
SELECT crm.create_workspace('regress_ws');
SELECT crm.create_workspace('crm');
SELECT crm.create_workspace('pg_sales');
SELECT crm.create_workspace('public');
SELECT crm.upgrade_workspace('public');

-- fails: the marker stays
DELETE FROM regress_ws.crm_meta;
TRUNCATE regress_ws.crm_meta;

-- upgrading again changes nothing
SELECT crm.upgrade_workspace('regress_ws') = schema_version AS same FROM regress_ws.crm_meta;

-- any name a schema can have: quotes, blanks, Unicode, 63 bytes
SELECT crm.create_workspace('My "CRM" 客户');
SELECT crm.create_workspace(repeat('w', 63)::name) = repeat('w', 63)::regnamespace AS created;
INSERT INTO "My ""CRM"" 客户".account (name) VALUES ('Acme');
UPDATE "My ""CRM"" 客户".account SET name = 'Acme AG';
SELECT operation, table_name FROM "My ""CRM"" 客户".audit_log ORDER BY id;
SELECT crm.upgrade_workspace('My "CRM" 客户') > 0 AS upgraded;

-- fails: schemas that hold something else, or belong to someone or something else
SELECT crm.create_workspace('');
SELECT crm.create_workspace('information_schema');
SELECT crm.create_workspace('crm_test');
CREATE SCHEMA regress_ws_taken CREATE TABLE t (id int);
SELECT crm.create_workspace('regress_ws_taken');
RESET ROLE;
CREATE SCHEMA regress_ws_empty;
SET ROLE regress_workspace_owner;
SELECT crm.create_workspace('regress_ws_empty');
-- an empty schema of one's own will do
DROP TABLE regress_ws_taken.t;
SELECT crm.create_workspace('regress_ws_taken');

-- after a schema is renamed, an upgrade repairs what holds its name
ALTER SCHEMA regress_ws RENAME TO regress_ws2;
SELECT crm.upgrade_workspace('regress_ws2') > 0 AS upgraded;
-- none: everything that names a schema names the new one
SELECT p.oid::regprocedure FROM pg_proc AS p
WHERE p.pronamespace = 'regress_ws2'::regnamespace AND pg_get_functiondef(p.oid) ~ 'regress_ws[^2_]';
SELECT count(*) FROM regress_ws2.account;

RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA regress_ws2, regress_ws_taken, regress_ws_empty, "My ""CRM"" 客户" CASCADE;
SELECT format('DROP SCHEMA %I CASCADE', repeat('w', 63)) \gexec
DROP OWNED BY regress_workspace_owner;
DROP ROLE regress_workspace_owner;
