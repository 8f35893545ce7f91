-- @version 1

COMMENT ON TABLE @workspace@.crm_meta IS 'Marks this schema as a crm workspace and holds its schema version. One row, never removed.';
COMMENT ON COLUMN @workspace@.crm_meta.one IS 'Always true: the table has one row.';
COMMENT ON COLUMN @workspace@.crm_meta.schema_version IS 'Version of the workspace''s tables; crm.upgrade_workspace() raises it.';
COMMENT ON COLUMN @workspace@.crm_meta.created_at IS 'When the workspace was created.';
