-- Who the session acts for.

CREATE FUNCTION crm.member_id(workspace regnamespace) RETURNS bigint
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_member_id_sql';

COMMENT ON FUNCTION crm.member_id(regnamespace) IS
'The id of the active member of a workspace that this session acts for: the one named by crm.token, or by crm.member, or the one whose login_role is session_user. NULL: nobody. A token or setting that names another workspace is nobody here.';

CREATE FUNCTION crm.access_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_access_changed';

COMMENT ON FUNCTION crm.access_changed() IS
'Trigger of the tables that say who may see what: makes every session look again at its next statement.';

CREATE FUNCTION crm._scopes_built() RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'crm_scopes_built';

COMMENT ON FUNCTION crm._scopes_built() IS
'How often this session computed what a member may see.';

-- The rule, for policies: what the session's member may do with a record, by its
-- owner, hierarchy, teams and shares.  STABLE and never IMMUTABLE: the answer is
-- another one for the next person on the same connection.

CREATE FUNCTION crm._can_support(internal) RETURNS internal
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'crm_can_support';
COMMENT ON FUNCTION crm._can_support(internal) IS
'Planner support of can_read(), can_edit(), can_assign() and can_delete(): replaces the rule by tests that suit who asks.';

CREATE FUNCTION crm._owner_support(internal) RETURNS internal
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'crm_owner_support';
COMMENT ON FUNCTION crm._owner_support(internal) IS
'Planner support of _owner_in_scope(): selectivity and index condition.';

CREATE FUNCTION crm._record_support(internal) RETURNS internal
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'crm_record_support';
COMMENT ON FUNCTION crm._record_support(internal) IS
'Planner support of _record_in_scope(): selectivity and index condition.';

CREATE FUNCTION crm._rowless_support(internal) RETURNS internal
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'crm_rowless_support';
COMMENT ON FUNCTION crm._rowless_support(internal) IS
'Planner support of _all_in_scope() and _unowned_in_scope(): selectivity.';

CREATE FUNCTION crm.can_read(workspace regnamespace, kind text, owner_id bigint, id bigint) RETURNS boolean
LANGUAGE C STABLE PARALLEL SAFE SUPPORT crm._can_support AS 'MODULE_PATHNAME', 'crm_can_read';
COMMENT ON FUNCTION crm.can_read(regnamespace, text, bigint, bigint) IS
'May the session''s member read the record with this owner (NULL: none) and id? Own records, those of everyone below, of teammates if the team allows, those shared, and those without an owner if the workspace allows.';

CREATE FUNCTION crm.can_edit(workspace regnamespace, kind text, owner_id bigint, id bigint) RETURNS boolean
LANGUAGE C STABLE PARALLEL SAFE SUPPORT crm._can_support AS 'MODULE_PATHNAME', 'crm_can_edit';
COMMENT ON FUNCTION crm.can_edit(regnamespace, text, bigint, bigint) IS
'May the session''s member edit the record with this owner (NULL: none) and id? Whoever may edit may read.';

CREATE FUNCTION crm.can_assign(workspace regnamespace, owner_id bigint) RETURNS boolean
LANGUAGE C STABLE PARALLEL SAFE SUPPORT crm._can_support AS 'MODULE_PATHNAME', 'crm_can_assign';
COMMENT ON FUNCTION crm.can_assign(regnamespace, bigint) IS
'May the session''s member give a record to this owner (NULL: none)? To those whose records one may edit.';

CREATE FUNCTION crm.can_delete(workspace regnamespace, owner_id bigint) RETURNS boolean
LANGUAGE C STABLE PARALLEL SAFE SUPPORT crm._can_support AS 'MODULE_PATHNAME', 'crm_can_delete';
COMMENT ON FUNCTION crm.can_delete(regnamespace, bigint) IS
'Does the session''s member have the owner''s rights over records of this owner: to delete, transfer and share them? Over one''s own and those of everyone below.';

-- What the planner puts in the rule's place.  Level is read, edit or own.

CREATE FUNCTION crm._owner_in_scope(workspace regnamespace, level text, unshared_kind text, owner_id bigint) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE SUPPORT crm._owner_support AS 'MODULE_PATHNAME', 'crm_owner_in_scope';
COMMENT ON FUNCTION crm._owner_in_scope(regnamespace, text, text, bigint) IS
'Is the level open to the session''s member by the record''s owner? Errors (serialization_failure) if records of unshared_kind are shared with the member: the plan was made for somebody else. Empty unshared_kind: no such check.';

CREATE FUNCTION crm._unowned_in_scope(workspace regnamespace, level text) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE SUPPORT crm._rowless_support AS 'MODULE_PATHNAME', 'crm_unowned_in_scope';
COMMENT ON FUNCTION crm._unowned_in_scope(regnamespace, text) IS
'Is the level open to the session''s member for records without an owner?';

CREATE FUNCTION crm._record_in_scope(workspace regnamespace, level text, kind text, id bigint) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE SUPPORT crm._record_support AS 'MODULE_PATHNAME', 'crm_record_in_scope';
COMMENT ON FUNCTION crm._record_in_scope(regnamespace, text, text, bigint) IS
'Is the level open to the session''s member because this record was shared?';

CREATE FUNCTION crm._all_in_scope(workspace regnamespace, level text) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE SUPPORT crm._rowless_support AS 'MODULE_PATHNAME', 'crm_all_in_scope';
COMMENT ON FUNCTION crm._all_in_scope(regnamespace, text) IS
'Is the level open to the session''s member for every record? False for nobody, and an error (serialization_failure) for anybody else it is not: the plan was made for somebody else.';

CREATE FUNCTION crm._scope_owners(workspace regnamespace, level text, unshared_kind text) RETURNS bigint[]
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_scope_owners';
COMMENT ON FUNCTION crm._scope_owners(regnamespace, text, text) IS
'The owners whose records are open to the session''s member, for index searches.';

CREATE FUNCTION crm._scope_records(workspace regnamespace, level text, kind text) RETURNS bigint[]
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_scope_records';
COMMENT ON FUNCTION crm._scope_records(regnamespace, text, text) IS
'The records of a kind that were shared with the session''s member, for index searches.';
