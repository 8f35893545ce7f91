CREATE FUNCTION crm.touch() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_touch';

COMMENT ON FUNCTION crm.touch() IS
'Trigger before update for each row of any table: sets updated_at (timestamptz) to the transaction''s time and adds 1 to row_version (integer or bigint) when a row changes; a table may have one of the two. An update that sends a row_version other than the current or the next one was made from a stale copy and fails with SQLSTATE 40001.';
