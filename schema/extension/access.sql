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

-- Tokens.

CREATE FUNCTION crm._token_signature(secret bytea, content text) RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_token_signature';
COMMENT ON FUNCTION crm._token_signature(bytea, text) IS
'HMAC-SHA-256 (RFC 2104) of the text in UTF-8.';

CREATE FUNCTION crm._token_secret() RETURNS bytea
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
RETURN uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
COMMENT ON FUNCTION crm._token_secret() IS
'A new secret of 48 bytes, 366 of its bits from the server''s strong random source.';

CREATE FUNCTION crm._base64url(data bytea) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN translate(encode(data, 'base64'), E'+/=\n', '-_');
COMMENT ON FUNCTION crm._base64url(bytea) IS
'Unpadded base64url (RFC 4648 section 5).';

CREATE FUNCTION crm.issue_token(workspace regnamespace, member_id bigint, lifetime interval DEFAULT '15 minutes', role name DEFAULT NULL)
RETURNS text LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    secret bytea;
    content text;
BEGIN
    IF workspace IS NULL OR member_id IS NULL OR lifetime IS NULL THEN
        RAISE EXCEPTION 'workspace, member and lifetime must not be null'
            USING ERRCODE = 'null_value_not_allowed';
    ELSIF lifetime <= interval '0' OR lifetime > interval '30 days' THEN
        RAISE EXCEPTION 'lifetime of a token must be between 0 and 30 days'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF NOT crm.is_workspace(workspace) THEN
        RAISE EXCEPTION 'schema "%" is not a crm workspace', workspace
            USING ERRCODE = 'invalid_schema_name';
    END IF;
    EXECUTE format('SELECT k.secret FROM %s.token_key AS k ORDER BY k.id DESC LIMIT 1', workspace) INTO secret;
    IF secret IS NULL THEN
        RAISE EXCEPTION 'workspace "%" has no key to sign tokens with', workspace
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'The owner of the workspace makes one with crm.rotate_token_key().';
    END IF;
    content := crm._base64url(convert_to('{"alg":"HS256","typ":"JWT"}', 'UTF8')) || '.'
               || crm._base64url(convert_to(jsonb_strip_nulls(jsonb_build_object(
                      'sub', (SELECT n.nspname FROM pg_namespace AS n WHERE n.oid = workspace) || '/' || member_id,
                      'aud', current_database(),
                      'iat', floor(extract(epoch FROM statement_timestamp())),
                      'exp', ceil(extract(epoch FROM statement_timestamp() + lifetime)),
                      'role', role))::text, 'UTF8'));
    RETURN content || '.' || crm._base64url(crm._token_signature(secret, content));
END
$$;
COMMENT ON FUNCTION crm.issue_token(regnamespace, bigint, interval, name) IS
'A signed token for crm.token: the session that sets it acts for the member until lifetime is over (at most 30 days); with role, only a session with that user or current role. For the owner of the workspace, who alone reads the key.';

CREATE FUNCTION crm.rotate_token_key(workspace regnamespace, keep_previous boolean DEFAULT false)
RETURNS void LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('DELETE FROM %1$s.token_key AS k WHERE NOT $1 OR k.id < (SELECT max(l.id) FROM %1$s.token_key AS l)', workspace)
    USING keep_previous;
    EXECUTE format('INSERT INTO %s.token_key (secret) VALUES (crm._token_secret())', workspace);
END
$$;
COMMENT ON FUNCTION crm.rotate_token_key(regnamespace, boolean) IS
'Makes a new key to sign tokens with. Tokens signed with earlier keys are no longer good, but for those of the last one if keep_previous is true. For the owner of the workspace, and after a database was copied.';

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

CREATE FUNCTION crm.can_read_all(workspace regnamespace) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_can_read_all';
COMMENT ON FUNCTION crm.can_read_all(regnamespace) IS
'May the session''s member read every record? Those with access read_all or all.';

CREATE FUNCTION crm.is_administrator(workspace regnamespace) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_is_administrator';
COMMENT ON FUNCTION crm.is_administrator(regnamespace) IS
'May the session''s member do everything in the workspace? Those with access all.';

CREATE FUNCTION crm._record_tables_read() RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'crm_record_tables_read';
COMMENT ON FUNCTION crm._record_tables_read() IS
'How often this session looked up in the catalogs which table has the records of a kind: tests watch it.';

CREATE FUNCTION crm._record_in_reach(workspace regnamespace, kind text, id bigint, level text) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'crm_record_in_reach';
COMMENT ON FUNCTION crm._record_in_reach(regnamespace, text, bigint, text) IS
'May the caller read (level read) or change (level edit) the record of a kind, in a table of the workspace? False also where there is none. Policies of tables whose rows belong to records ask it.';

-- Policies.

CREATE FUNCTION crm.refuse_transfer() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'permission denied to change the owner of % %', TG_ARGV[0], to_jsonb(OLD) ->> TG_ARGV[2]
        USING ERRCODE = 'insufficient_privilege', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = TG_ARGV[1],
              DETAIL = 'An owner may be changed by whoever has the owner''s rights over the record, to a member whose records they may edit.',
              HINT = 'To give a record to anyone else, use the function transfer() of the workspace.';
END
$$;
COMMENT ON FUNCTION crm.refuse_transfer() IS
'Trigger of protect(): its WHEN clause tells which changes of the owner are refused. Arguments: kind, owner column, id column.';

CREATE FUNCTION crm._protect(table_name regclass, kind text, owner_column name, id_column name, workspace regnamespace)
RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
    ws regnamespace := coalesce(workspace, (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = table_name));
    missing name;
    rule text;
    assign text;
    own text;
    hand_over regprocedure;
BEGIN
    IF table_name IS NULL OR kind IS NULL OR owner_column IS NULL OR id_column IS NULL THEN
        RAISE EXCEPTION 'table, kind and columns must not be null'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- A longer one makes every look at the table slow: it is an argument of its triggers.
    IF octet_length(kind) > 512 THEN
        RAISE EXCEPTION 'name of a kind of record is too long' USING ERRCODE = 'name_too_long';
    END IF;
    IF NOT crm.is_workspace(ws) THEN
        RAISE EXCEPTION 'schema "%" is not a crm workspace', ws
            USING ERRCODE = 'invalid_schema_name',
                  HINT = 'Name the workspace whose members use the table.';
    END IF;
    SELECT w.name INTO missing
    FROM unnest(ARRAY[owner_column, id_column]) AS w (name)
    WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                      WHERE a.attrelid = table_name AND a.attname = w.name AND a.atttypid = 'bigint'::regtype AND NOT a.attisdropped);
    IF FOUND THEN
        RAISE EXCEPTION 'table "%" has no column "%" of type bigint', table_name, missing
            USING ERRCODE = 'undefined_column';
    END IF;

    rule := format('%L::regnamespace, %L, %I, %I)', ws, kind, owner_column, id_column);
    own := format('crm.can_delete(%L::regnamespace, ', ws);
    assign := format('crm.can_assign(%L::regnamespace, ', ws);
    EXECUTE format('DROP POLICY IF EXISTS crm_read ON %1$s;
                    DROP POLICY IF EXISTS crm_insert ON %1$s;
                    DROP POLICY IF EXISTS crm_update ON %1$s;
                    DROP POLICY IF EXISTS crm_delete ON %1$s;
                    CREATE POLICY crm_read ON %1$s FOR SELECT USING (crm.can_read(%2$s);
                    CREATE POLICY crm_insert ON %1$s FOR INSERT WITH CHECK (%3$s %6$I));
                    CREATE POLICY crm_update ON %1$s FOR UPDATE USING (crm.can_edit(%2$s) WITH CHECK (crm.can_edit(%2$s);
                    CREATE POLICY crm_delete ON %1$s FOR DELETE USING (%4$s %6$I));
                    ALTER TABLE %1$s ENABLE ROW LEVEL SECURITY;
                    CREATE OR REPLACE TRIGGER crm_refuse_transfer BEFORE UPDATE OF %6$I ON %1$s FOR EACH ROW
                        WHEN (OLD.%6$I IS DISTINCT FROM NEW.%6$I
                              AND row_security_active(%5$L::regclass::oid)
                              AND NOT ((%4$s OLD.%6$I) OR OLD.%6$I IS NULL AND %3$s OLD.%6$I)) AND %3$s NEW.%6$I)))
                        EXECUTE FUNCTION crm.refuse_transfer(%7$L, %6$L, %8$L)',
                   table_name, rule, assign, own, table_name, owner_column, kind, id_column);
    -- It writes with the rights of the workspace's owner, so only they attach it.
    hand_over := to_regprocedure(format('%s.hand_over()', ws));
    IF has_function_privilege(hand_over, 'EXECUTE') AND table_name <> to_regclass(format('%s.reminder', ws)) THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER crm_hand_over AFTER UPDATE OF %2$I ON %1$s FOR EACH ROW
                            WHEN (OLD.%2$I <> NEW.%2$I) EXECUTE FUNCTION %3$s.hand_over(%4$L, %2$L, %5$L)',
                       table_name, owner_column, ws, kind, id_column);
    END IF;
END
$$;
COMMENT ON FUNCTION crm._protect(regclass, text, name, name, regnamespace) IS
'What crm.protect() does to the table itself. Errors: 42622 if the kind is longer than 512 bytes.';

CREATE FUNCTION crm._trigger_arguments(tgargs bytea) RETURNS text[]
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_trigger_arguments';
COMMENT ON FUNCTION crm._trigger_arguments(bytea) IS
'The arguments of a trigger, from pg_trigger.tgargs.';

-- The table a kind of record is in: the one that protect() was given.  Found by the
-- trigger and by the policies' dependency on the workspace, so that nothing is
-- stored that a rename would make wrong.
CREATE FUNCTION crm._record_tables(workspace regnamespace, OUT kind text, OUT rel regclass, OUT owner_column name, OUT id_column name)
RETURNS SETOF record LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT a.args[1], t.tgrelid, a.args[2], a.args[3]
FROM pg_trigger AS t
CROSS JOIN LATERAL crm._trigger_arguments(t.tgargs) AS a (args)
WHERE t.tgfoid = 'crm.refuse_transfer()'::regprocedure
  AND NOT t.tgisinternal
  AND EXISTS (SELECT FROM pg_policy AS p
              JOIN pg_depend AS d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
              WHERE p.polrelid = t.tgrelid AND p.polname = 'crm_read'
                AND d.refclassid = 'pg_namespace'::regclass AND d.refobjid = workspace)
$$;
COMMENT ON FUNCTION crm._record_tables(regnamespace) IS
'The kinds of records of a workspace and their tables, as given to protect().';

CREATE FUNCTION crm._policy(rel regclass, name name, command text, using_rule text, check_rule text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    EXECUTE format('DROP POLICY IF EXISTS %I ON %s', name, rel);
    EXECUTE format('CREATE POLICY %I ON %s FOR %s', name, rel, command)
            || coalesce(' USING (' || using_rule || ')', '') || coalesce(' WITH CHECK (' || check_rule || ')', '');
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', rel);
END
$$;
COMMENT ON FUNCTION crm._policy(regclass, name, text, text, text) IS
'Makes a row-level security policy anew and enables row-level security on its table.';

CREATE FUNCTION crm._policy_write(rel regclass, rule text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- None for ALL: reading has a rule of its own, and would be asked this one as well.
    SELECT crm._policy(rel, 'crm_insert', 'INSERT', NULL, rule);
    SELECT crm._policy(rel, 'crm_update', 'UPDATE', rule, rule);
    SELECT crm._policy(rel, 'crm_delete', 'DELETE', rule, NULL);
END;
COMMENT ON FUNCTION crm._policy_write(regclass, text) IS
'Makes the row-level security policies anew by which a table is written.';

CREATE FUNCTION crm._record_rule(workspace regnamespace, rel name, reference name, level text) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
RETURN format('crm._record_in_reach(%1$L::regnamespace, %2$I.kind, %2$I.%3$I, %4$L)', workspace, rel, reference, level);
COMMENT ON FUNCTION crm._record_rule(regnamespace, name, name, text) IS
'The text of a rule for rows of a table that refer to a record by the columns kind and reference: the record is visible (read) or may be edited (edit).';

CREATE FUNCTION crm._protect_references(workspace regnamespace) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    everything text := format('(SELECT crm.can_read_all(%L::regnamespace) OR has_column_privilege(%L::regclass, ''auditor'', ''SELECT''))',
                                workspace, workspace || '.access_kind');
    rel regclass;
    item record;
    pair text;
BEGIN
    -- What belongs to a record is as visible as the record.
    FOR item IN
        SELECT c.oid::regclass AS rel, w.name, w.writable
        FROM (VALUES ('stage_history', false), ('external_reference', true), ('duplicate_cluster', true),
                     ('escalation', false)) AS w (name, writable)
        JOIN pg_class AS c ON c.relname = w.name AND c.relnamespace = workspace
    LOOP
        PERFORM crm._policy(item.rel, 'crm_read', 'SELECT', format('%s OR %s', everything, crm._record_rule(workspace, item.name, 'record_id', 'read')), NULL);
        IF item.writable THEN
            PERFORM crm._policy_write(item.rel, crm._record_rule(workspace, item.name, 'record_id', 'edit'));
        END IF;
    END LOOP;
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'duplicate_pair' AND c.relnamespace = workspace LOOP
        pair := format('(%s) AND (%s)', crm._record_rule(workspace, 'duplicate_pair', 'left_id', 'read'),
                       crm._record_rule(workspace, 'duplicate_pair', 'right_id', 'read'));
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', pair, NULL);
        PERFORM crm._policy_write(rel, format('(%s) AND (%s)', crm._record_rule(workspace, 'duplicate_pair', 'left_id', 'edit'),
                                              crm._record_rule(workspace, 'duplicate_pair', 'right_id', 'edit')));
    END LOOP;
    IF to_regclass(format('%s.duplicate_review', workspace)) IS NOT NULL THEN
        PERFORM crm._create_review(workspace);
    END IF;
END
$$;
COMMENT ON FUNCTION crm._protect_references(regnamespace) IS
'Makes the policies anew of the tables of a workspace whose rows belong to records, which depend on the kinds of records there are.';

CREATE FUNCTION crm.protect(table_name regclass, kind text, owner_column name DEFAULT 'owner_id', id_column name DEFAULT 'id', workspace regnamespace DEFAULT NULL)
RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM crm._protect(table_name, kind, owner_column, id_column, workspace);
    -- What belongs to records of a new kind is seen by those who see the records.
    IF EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE c.oid = table_name AND pg_has_role(n.nspowner, 'USAGE') AND crm.is_workspace(n.oid)) THEN
        PERFORM crm._protect_references((SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = table_name));
    END IF;
END
$$;
COMMENT ON FUNCTION crm.protect(regclass, text, name, name, regnamespace) IS
'Puts the access rules of a workspace (default: the table''s schema) on a table: row-level security policies by the owner, a bigint column that holds a member''s id, and by shares of the kind. Running it again makes them anew. The caller must own the table; where that is not the workspace''s owner, what was planned about a record does not follow a new owner.';

CREATE FUNCTION crm._protect_workspace(workspace regnamespace) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ws text := format('%L::regnamespace', workspace);
    member text := format('crm.member_id(%s) IS NOT NULL', ws);
    administrator text := format('crm.is_administrator(%s)', ws);
    everything text := format('(SELECT crm.can_read_all(%s) OR has_column_privilege(%L::regclass, ''auditor'', ''SELECT''))',
                                ws, workspace || '.access_kind');
    rel regclass;
    item record;
    pair text;
BEGIN
    -- Records have owners.
    FOR item IN
        SELECT c.oid::regclass AS rel, c.relname AS kind, w.owner_column
        FROM (VALUES ('account', 'owner_id'), ('contact', 'owner_id'), ('lead', 'owner_id'), ('opportunity', 'owner_id'),
                     ('activity', 'owner_id'), ('reminder', 'member_id')) AS w (name, owner_column)
        JOIN pg_class AS c ON c.relname = w.name AND c.relnamespace = workspace
    LOOP
        PERFORM crm._protect(item.rel, item.kind, item.owner_column, 'id', workspace);
    END LOOP;

    PERFORM crm._protect_references(workspace);

    -- An inbox is its member's; those above read along.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'event' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', format('crm.can_delete(%s, member_id)', ws), NULL);
        PERFORM crm._policy(rel, 'crm_update', 'UPDATE', format('member_id = crm.member_id(%s)', ws),
                            format('member_id = crm.member_id(%s)', ws));
        PERFORM crm._policy(rel, 'crm_delete', 'DELETE', format('member_id = crm.member_id(%s)', ws), NULL);
    END LOOP;

    -- So is what a system reads for its member.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'event_consumer' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_own', 'ALL', format('member_id = crm.member_id(%s)', ws), format('member_id = crm.member_id(%s)', ws));
    END LOOP;
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'event_failure' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', format('consumer_id IN (SELECT c.id FROM %s.event_consumer AS c)', workspace), NULL);
    END LOOP;

    -- Why its member was not told is for who may read the event.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'event_hold' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', format('crm.can_delete(%s, member_id)', ws), NULL);
    END LOOP;

    -- Members say when they are away, and their managers for them; everybody sees who stands in.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'absence' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', member, NULL);
        pair := format('crm.can_delete(%s, member_id)', ws);
        PERFORM crm._policy(rel, 'crm_write', 'ALL', pair, pair);
    END LOOP;
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'follower' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', format('%s OR crm.can_delete(%s, member_id) OR %s', everything, ws,
                                                              crm._record_rule(workspace, 'follower', 'record_id', 'read')), NULL);
    END LOOP;

    -- Members say for themselves when they want to be left alone; conditions, which
    -- run as the owner, are the owner's.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'attention_rule' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', member, NULL);
        pair := format('condition IS NULL AND (%s OR member_id = crm.member_id(%s) AND position >= 1000)', administrator, ws);
        PERFORM crm._policy(rel, 'crm_write', 'ALL', pair, pair);
    END LOOP;

    -- A clock is as visible as its record, also one of a table elsewhere.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'sla_clock' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', format('%s OR crm.can_read(%s, kind, owner_id, record_id)', everything, ws), NULL);
    END LOOP;

    -- A share is its parties'.
    rel := format('%s.share', workspace)::regclass;
    PERFORM crm._policy(rel, 'crm_read', 'SELECT',
                        format('%1$s OR member_id = crm.member_id(%2$s) OR crm.can_delete(%2$s, granted_by)
                                OR team_id IN (SELECT tm.team_id FROM %3$s.team_member AS tm WHERE tm.member_id = crm.member_id(%2$s))
                                OR %4$s',
                               everything, ws, workspace, crm._record_rule(workspace, 'share', 'record_id', 'edit')), NULL);
    PERFORM crm._policy(rel, 'crm_write', 'ALL', administrator, administrator);

    -- Bookkeeping is for auditors and those who read everything; the database writes it.
    FOR rel IN
        SELECT c.oid FROM pg_class AS c
        WHERE c.relnamespace = workspace AND c.relkind IN ('r', 'p')
          AND c.relname IN ('audit_log', 'audit_seal', 'merge_change', 'merged_record', 'duplicate_log')
    LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', everything, NULL);
    END LOOP;

    -- One's own merges, and those of everyone below, to undo them.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'merge_log' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', format('%s OR crm.can_delete(%s, merged_by)', everything, ws), NULL);
    END LOOP;

    -- Whoever asks for a merge, those above, and who may agree.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'merge_request' AND c.relnamespace = workspace LOOP
        pair := format('%1$s OR crm.can_delete(%2$s, requested_by) OR crm._may_approve_merge(%2$s, kind, loser_ids || survivor_id, ''owner'')', everything, ws);
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', pair, NULL);
        PERFORM crm._policy(rel, 'crm_insert', 'INSERT', NULL, format('requested_by = crm.member_id(%s)', ws));
        PERFORM crm._policy(rel, 'crm_update', 'UPDATE', pair, 'true');
    END LOOP;

    -- The secrets are for the owner alone.
    EXECUTE format('ALTER TABLE %s.token_key ENABLE ROW LEVEL SECURITY', workspace);

    -- Every other table that roles are given: members read it, administrators maintain it.
    FOR rel IN
        SELECT c.oid
        FROM pg_class AS c
        JOIN crm._access_list() AS l ON l.class = 'table' AND l.name = c.relname
        WHERE c.relnamespace = workspace AND c.relkind IN ('r', 'p') AND c.relname <> 'crm_meta'
          AND (NOT c.relrowsecurity
               OR EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND p.polname = 'crm_member_read'))
    LOOP
        PERFORM crm._policy(rel, 'crm_member_read', 'SELECT', member, NULL);
        PERFORM crm._policy(rel, 'crm_administrator_write', 'ALL', administrator, administrator);
    END LOOP;
END
$$;
COMMENT ON FUNCTION crm._protect_workspace(regnamespace) IS
'Makes the policies of the tables that crm made in a workspace anew, and none on others.';

-- Cycles in a tree.

CREATE FUNCTION crm.refuse_cycle() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_refuse_cycle';
COMMENT ON FUNCTION crm.refuse_cycle() IS
'AFTER ROW trigger that refuses (check_violation) a row that is its own ancestor, also where two sessions make one together: whoever moves a row waits for others who have moved one of the same table. Who inserts rows waits for nobody, for which the column needs its foreign key. Argument: the column that refers to column id, an integer, of the row above.';

-- What the functions can(), transfer(), share_record() and unshare() of a workspace
-- do.  They run as the workspace's owner and ask themselves what the session's
-- member may do.

-- Who calls a SECURITY DEFINER function is whom SET ROLE named, or who logged in.
CREATE FUNCTION crm._caller() RETURNS oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = CASE current_setting('role') WHEN 'none' THEN session_user::text ELSE current_setting('role') END);
COMMENT ON FUNCTION crm._caller() IS
'The role of the session as seen from outside SECURITY DEFINER functions.';

CREATE FUNCTION crm._called_by_owner(workspace regnamespace) RETURNS boolean
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT crm.member_id(workspace) IS NULL
       AND coalesce((SELECT pg_has_role(crm._caller(), n.nspowner, 'USAGE')
                     FROM pg_namespace AS n WHERE n.oid = workspace), false)
$$;
COMMENT ON FUNCTION crm._called_by_owner(regnamespace) IS
'Whether the session acts for no member and is that of the workspace''s owner, or of a role that has the owner''s rights, seen from outside SECURITY DEFINER functions.';

CREATE FUNCTION crm._record_owner(workspace regnamespace, kind text, id bigint, OUT is_there boolean, OUT owner_id bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
BEGIN
    SELECT * INTO t FROM crm._record_tables(workspace) AS r WHERE r.kind = _record_owner.kind;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'unrecognized kind of record: "%"', kind
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Kinds of this workspace are %s.',
                                (SELECT string_agg(r.kind, ', ' ORDER BY r.kind) FROM crm._record_tables(workspace) AS r));
    END IF;
    EXECUTE format('SELECT true, r.%I FROM %s AS r WHERE r.%I = $1', t.owner_column, t.rel, t.id_column)
    INTO is_there, owner_id USING id;
    is_there := coalesce(is_there, false);
END
$$;
COMMENT ON FUNCTION crm._record_owner(regnamespace, text, bigint) IS
'Whether a record exists and who owns it. Errors if the kind is unknown.';

CREATE FUNCTION crm._access_path(workspace regnamespace, member_id bigint, kind text, id bigint, owner_id bigint,
                                 OUT level integer, OUT reason text)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE format($query$
        WITH RECURSIVE
        me AS (SELECT m.* FROM %1$s.member AS m WHERE m.id = $1),
        above (id, manager_id, depth) AS (
            SELECT m.id, m.manager_id, 0 FROM %1$s.member AS m WHERE m.id = $4 UNION
            SELECT m.id, m.manager_id, a.depth + 1 FROM above AS a JOIN %1$s.member AS m ON m.id = a.manager_id
            WHERE a.depth < 10000),
        my_team (id) AS (
            SELECT tm.team_id FROM %1$s.team_member AS tm WHERE tm.member_id = $1 UNION
            SELECT t.parent_id FROM my_team AS y JOIN %1$s.team AS t ON t.id = y.id WHERE t.parent_id IS NOT NULL),
        owner_team (id) AS (
            SELECT tm.team_id FROM %1$s.team_member AS tm WHERE tm.member_id = $4 UNION
            SELECT t.parent_id FROM owner_team AS y JOIN %1$s.team AS t ON t.id = y.id WHERE t.parent_id IS NOT NULL)
        SELECT p.level, p.reason FROM (
            SELECT 3, CASE WHEN m.id = $4 THEN 'owns it' ELSE NULL END FROM me AS m
            UNION ALL
            SELECT 3, format('manages the owner, %%s', o.name)
            FROM %1$s.member AS o WHERE o.id = $4 AND $1 <> $4 AND EXISTS (SELECT FROM above AS a WHERE a.id = $1)
            UNION ALL
            SELECT CASE m.access WHEN 'all' THEN 3 ELSE 1 END, format('has access %%s', m.access)
            FROM me AS m WHERE m.access IN ('all', 'read_all')
            UNION ALL
            SELECT CASE t.record_access WHEN 'edit' THEN 2 ELSE 1 END, format('is in team %%s with the owner', t.name)
            FROM %1$s.team AS t
            WHERE t.record_access IN ('read', 'edit')
              AND EXISTS (SELECT FROM my_team AS y WHERE y.id = t.id) AND EXISTS (SELECT FROM owner_team AS y WHERE y.id = t.id)
            UNION ALL
            SELECT CASE s.access WHEN 'edit' THEN 2 ELSE 1 END,
                   format('it is shared%%s%%s', ' with team ' || t.name, to_char(s.expires_at, '" until "YYYY-MM-DD HH24:MI TZH'))
            FROM %1$s.share AS s
            LEFT JOIN %1$s.team AS t ON t.id = s.team_id
            WHERE s.kind = $2 AND s.record_id = $3
              AND (s.member_id = $1 OR EXISTS (SELECT FROM my_team AS y WHERE y.id = s.team_id))
              AND (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
            UNION ALL
            SELECT CASE s.value WHEN 'edit' THEN 2 ELSE 1 END, 'it has no owner'
            FROM %1$s.setting AS s
            WHERE s.name = 'unowned_access' AND s.value IN ('read', 'edit') AND $4 IS NULL) AS p (level, reason)
        WHERE p.reason IS NOT NULL AND EXISTS (SELECT FROM me AS m WHERE m.active)
        ORDER BY p.level DESC, p.reason$query$, workspace)
    USING member_id, kind, id, owner_id;
END
$$;
COMMENT ON FUNCTION crm._access_path(regnamespace, bigint, text, bigint, bigint) IS
'Every reason why a member has access to a record, best first: level 1 read, 2 edit, 3 owner''s rights. The rule once more, in SQL and for one record.';

CREATE FUNCTION crm._can(workspace regnamespace, member_id bigint, action text, kind text, id bigint,
                         OUT allowed boolean, OUT reason text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    needed integer := CASE action WHEN 'read' THEN 1 WHEN 'edit' THEN 2
                                  WHEN 'delete' THEN 3 WHEN 'transfer' THEN 3 WHEN 'share' THEN 3 END;
    rec record;
    best record;
    person record;
BEGIN
    IF needed IS NULL THEN
        RAISE EXCEPTION 'unrecognized action: "%"', action
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Actions are read, edit, delete, transfer and share.';
    END IF;
    IF (crm.can_delete(workspace, member_id) AND member_id IS NOT NULL OR crm.can_read_all(workspace)
        OR crm._called_by_owner(workspace)) IS NOT TRUE THEN
        RAISE EXCEPTION 'permission denied to ask what member % may do', member_id
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Members ask about themselves and everyone below them.';
    END IF;
    EXECUTE format('SELECT m.name, m.active FROM %s.member AS m WHERE m.id = $1', workspace) INTO person USING member_id;
    IF person.active IS NOT TRUE THEN
        allowed := false;
        reason := CASE WHEN person.name IS NULL THEN format('member %s does not exist', member_id)
                       ELSE format('%s is not active', person.name) END;
        RETURN;
    END IF;

    SELECT * INTO rec FROM crm._record_owner(workspace, kind, id) AS r;
    SELECT * INTO best FROM crm._access_path(workspace, member_id, kind, id, rec.owner_id) AS p LIMIT 1;
    -- Claiming is a transfer to oneself.
    IF action = 'transfer' AND rec.is_there AND rec.owner_id IS NULL THEN
        needed := 2;
    END IF;
    allowed := rec.is_there AND best.level >= needed;
    IF NOT rec.is_there OR best.level IS NULL THEN
        allowed := false;
        reason := format('%s %s does not exist or is not visible to %s', kind, id, person.name);
    ELSIF allowed THEN
        reason := format('%s: %s', person.name, best.reason);
    ELSE
        reason := format('%s may only %s: %s', person.name, (ARRAY['read', 'read and edit'])[best.level], best.reason);
    END IF;
END
$$;
COMMENT ON FUNCTION crm._can(regnamespace, bigint, text, text, bigint) IS
'What can() of a workspace does.';

CREATE FUNCTION crm._check_own(workspace regnamespace, action text, kind text, id bigint, unowned_too boolean) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rec record;
BEGIN
    SELECT * INTO rec FROM crm._record_owner(workspace, kind, id) AS r;
    IF rec.is_there AND (crm.can_delete(workspace, rec.owner_id)
                         OR unowned_too AND rec.owner_id IS NULL AND crm.can_assign(workspace, NULL)
                         OR crm._called_by_owner(workspace)) THEN
        RETURN;
    END IF;
    IF rec.is_there AND crm.can_read(workspace, kind, rec.owner_id, id) THEN
        RAISE EXCEPTION 'permission denied to % % %', action, kind, id
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'This is for the owner of the record and those above.';
    END IF;
    RAISE EXCEPTION '% % does not exist or is not visible', kind, id
        USING ERRCODE = 'no_data_found';
END
$$;
COMMENT ON FUNCTION crm._check_own(regnamespace, text, text, bigint, boolean) IS
'Errors unless the session''s member has the owner''s rights over the record, or the workspace''s owner asks. A hidden record and one that does not exist raise the same error.';

CREATE FUNCTION crm._check_member(workspace regnamespace, member_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    active boolean;
BEGIN
    EXECUTE format('SELECT m.active FROM %s.member AS m WHERE m.id = $1 FOR KEY SHARE', workspace) INTO active USING member_id;
    IF active IS NULL THEN
        RAISE EXCEPTION 'member % does not exist', member_id
            USING ERRCODE = 'no_data_found';
    ELSIF NOT active THEN
        RAISE EXCEPTION 'member % is not active', member_id
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$;
COMMENT ON FUNCTION crm._check_member(regnamespace, bigint) IS
'Errors unless the member exists and is active.';

CREATE FUNCTION crm._transfer(workspace regnamespace, kind text, ids bigint[], to_member bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    id bigint;
    moved bigint;
BEGIN
    IF ids IS NULL OR to_member IS NULL OR array_position(ids, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'records and member must not be null'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM crm._record_owner(workspace, kind, 0);
    PERFORM crm._check_member(workspace, to_member);
    SELECT * INTO t FROM crm._record_tables(workspace) AS r WHERE r.kind = _transfer.kind;
    -- In the order of ids, so that two transfers wait for each other instead of deadlocking.
    EXECUTE format('SELECT count(*) FROM (SELECT FROM %1$s AS r WHERE r.%2$I = ANY ($1) ORDER BY r.%2$I FOR NO KEY UPDATE) AS locked', t.rel, t.id_column)
    USING ids;
    FOR id IN SELECT DISTINCT i FROM unnest(ids) AS i ORDER BY i LOOP
        PERFORM crm._check_own(workspace, 'transfer', kind, id, true);
    END LOOP;
    EXECUTE format('UPDATE %s AS r SET %I = $2 WHERE r.%I = ANY ($1)', t.rel, t.owner_column, t.id_column)
    USING ids, to_member;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION crm._transfer(regnamespace, text, bigint[], bigint) IS
'What transfer() of a workspace does.';

CREATE FUNCTION crm._share_record(workspace regnamespace, kind text, id bigint, member_id bigint, team_id bigint,
                                  access text, expires_at timestamptz, reason text) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    share_id bigint;
BEGIN
    IF num_nonnulls(member_id, team_id) <> 1 THEN
        RAISE EXCEPTION 'a record is shared with either a member or a team'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF access IS NULL OR access NOT IN ('read', 'edit') THEN
        RAISE EXCEPTION 'unrecognized access: "%"', access
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A record is shared to read or to edit.';
    ELSIF expires_at <= statement_timestamp() THEN
        RAISE EXCEPTION 'a share cannot expire in the past'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM crm._check_own(workspace, 'share', kind, id, false);
    IF member_id IS NOT NULL THEN
        PERFORM crm._check_member(workspace, member_id);
    END IF;
    EXECUTE format('INSERT INTO %s.share AS s (kind, record_id, member_id, team_id, access, expires_at, granted_by, reason)
                    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                    ON CONFLICT (kind, record_id, %I) DO UPDATE
                    SET access = excluded.access, expires_at = excluded.expires_at, granted_by = excluded.granted_by, reason = excluded.reason
                    RETURNING s.id',
                   workspace, CASE WHEN member_id IS NULL THEN 'team_id' ELSE 'member_id' END)
    INTO share_id USING kind, id, member_id, team_id, access, expires_at, crm.member_id(workspace), reason;
    RETURN share_id;
END
$$;
COMMENT ON FUNCTION crm._share_record(regnamespace, text, bigint, bigint, bigint, text, timestamptz, text) IS
'What share_record() of a workspace does.';

CREATE FUNCTION crm._unshare(workspace regnamespace, kind text, id bigint, member_id bigint, team_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me bigint := crm.member_id(workspace);
    share record;
BEGIN
    IF num_nonnulls(member_id, team_id) <> 1 THEN
        RAISE EXCEPTION 'a record is shared with either a member or a team'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    EXECUTE format('SELECT s.id, s.granted_by, s.member_id FROM %s.share AS s
                    WHERE s.kind = $1 AND s.record_id = $2 AND (s.member_id = $3 OR s.team_id = $4) FOR UPDATE', workspace)
    INTO share USING kind, id, member_id, team_id;
    IF me IS NULL OR me NOT IN (coalesce(share.granted_by, 0), coalesce(share.member_id, 0)) THEN
        PERFORM crm._check_own(workspace, 'unshare', kind, id, false);
    END IF;
    EXECUTE format('DELETE FROM %s.share AS s WHERE s.id = $1', workspace) USING share.id;
    RETURN share.id IS NOT NULL;
END
$$;
COMMENT ON FUNCTION crm._unshare(regnamespace, text, bigint, bigint, bigint) IS
'What unshare() of a workspace does.';
