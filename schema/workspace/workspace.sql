-- @version 1

COMMENT ON TABLE @workspace@.crm_meta IS 'Marks this schema as a crm workspace and holds its schema version. One row, never removed.';
COMMENT ON COLUMN @workspace@.crm_meta.one IS 'Always true: the table has one row.';
COMMENT ON COLUMN @workspace@.crm_meta.schema_version IS 'Version of the workspace''s tables; crm.upgrade_workspace() raises it.';
COMMENT ON COLUMN @workspace@.crm_meta.created_at IS 'When the workspace was created.';

-- @repeatable

CREATE OR REPLACE VIEW @workspace@.access_kind WITH (security_invoker) AS
SELECT true AS app, true AS report, true AS gateway, true AS auditor;
COMMENT ON VIEW @workspace@.access_kind IS 'Marks the roles of this workspace: who may read a column of it was given that kind of access by crm.grant_access().';
COMMENT ON COLUMN @workspace@.access_kind.app IS 'Readable by applications.';
COMMENT ON COLUMN @workspace@.access_kind.report IS 'Readable by reporting tools.';
COMMENT ON COLUMN @workspace@.access_kind.gateway IS 'Readable by gateways: applications that name the member they act for.';
COMMENT ON COLUMN @workspace@.access_kind.auditor IS 'Readable by auditors.';
