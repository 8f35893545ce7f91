CREATE FUNCTION crm._check_encoding() RETURNS void
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'crm_check_encoding';

COMMENT ON FUNCTION crm._check_encoding() IS
'Errors unless the database encoding is UTF8.';

SELECT crm._check_encoding();
