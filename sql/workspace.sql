-- A workspace is ordinary tables owned by the person who creates it.
\set SHOW_CONTEXT never
CREATE ROLE regress_workspace_owner;
GRANT CREATE ON DATABASE contrib_regression TO regress_workspace_owner;
GRANT USAGE ON SCHEMA crm TO regress_workspace_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_workspace_owner;
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

RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA regress_ws CASCADE;
DROP OWNED BY regress_workspace_owner;
DROP ROLE regress_workspace_owner;
