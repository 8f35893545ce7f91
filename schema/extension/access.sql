CREATE FUNCTION crm.member_id(workspace regnamespace) RETURNS bigint
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_member_id_sql';

COMMENT ON FUNCTION crm.member_id(regnamespace) IS
'The id of the active member of a workspace that this session acts for: the one named by crm.token, or by crm.member, or the one whose login_role is session_user. NULL: nobody. A token or setting that names another workspace is nobody here.';

CREATE FUNCTION crm.access_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_access_changed';

COMMENT ON FUNCTION crm.access_changed() IS
'Trigger of the tables that say who may see what: makes every session look again at its next statement.';
