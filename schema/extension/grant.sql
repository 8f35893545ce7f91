-- Deny by default: nothing of the toolkit is for PUBLIC.  The installer and the
-- database's owner may use all of it, and grant_toolkit() and grant_access() pass
-- parts of it on.
--
-- The grants themselves are the memory: the privilege to read column "app" of a
-- workspace's view access_kind marks a role as an application of that workspace.  So
-- nothing goes stale when a role is renamed or dropped, and pg_dump carries it.

-- One line an object: what an application, a reporting tool and an auditor may do
-- with it.  A gateway is an application.  An object a workspace does not have (any
-- more) is passed over; immutable functions of crm need no line, everybody gets them.
CREATE FUNCTION crm._access_list(OUT class text, OUT name text, OUT app text, OUT report text, OUT auditor text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT * FROM (VALUES
    -- functions of schema crm, by name
    ('toolkit', 'is_workspace', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'workspaces', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'phone', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'phone_region', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'phone_national', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'phone_international', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'phone_is_valid', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'email_display', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'registrable_domain', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'guarded_tables', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'next_stages', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'merge_records', 'EXECUTE', NULL, NULL),
    ('toolkit', 'merge_preview', 'EXECUTE', NULL, NULL),
    ('toolkit', 'merge_clusters', 'EXECUTE', NULL, NULL),
    ('toolkit', 'merge_all_clusters', 'EXECUTE', NULL, NULL),
    ('toolkit', '_merge_cluster', 'EXECUTE', NULL, NULL),
    ('toolkit', '_open_clusters', 'EXECUTE', NULL, NULL),
    ('toolkit', '_check_cluster_arguments', 'EXECUTE', NULL, NULL),
    ('toolkit', 'unmerge', 'EXECUTE', NULL, NULL),
    ('toolkit', 'unmerge_all', 'EXECUTE', NULL, NULL),
    ('toolkit', 'undelete', 'EXECUTE', NULL, NULL),
    ('toolkit', '_called_by_owner', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_caller', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'preview_record', 'EXECUTE', NULL, NULL),
    ('toolkit', '_preview_record', 'EXECUTE', NULL, NULL),
    ('toolkit', '_may_approve_merge', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'decide_pair', 'EXECUTE', NULL, NULL),
    ('toolkit', 'cluster_members', 'EXECUTE', NULL, NULL),
    ('toolkit', '_fullest_record', 'EXECUTE', NULL, NULL),
    ('toolkit', '_kind_table', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_pair_sides', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_record_table', 'EXECUTE', NULL, NULL),
    ('toolkit', '_record_tables', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_record_in_reach', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_record_name', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_claim', 'EXECUTE', NULL, NULL),
    ('toolkit', '_claim_next', 'EXECUTE', NULL, NULL),
    ('toolkit', '_import_columns', 'EXECUTE', NULL, NULL),
    ('toolkit', '_convert_lead', 'EXECUTE', NULL, NULL),
    ('toolkit', '_convert_match', 'EXECUTE', NULL, NULL),
    ('toolkit', '_convert_insert', 'EXECUTE', NULL, NULL),
    ('toolkit', 'audit_verify', NULL, NULL, 'EXECUTE'),
    ('toolkit', '_workspace_schema', NULL, NULL, 'EXECUTE'),
    ('toolkit', '_audit_digest', NULL, NULL, 'EXECUTE'),
    ('toolkit', '_audit_verify', NULL, NULL, 'EXECUTE'),
    ('toolkit', '_audit_verify_as_owner', NULL, NULL, 'EXECUTE'),
    ('toolkit', 'member_id', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'can_read', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'can_edit', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'can_assign', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'can_delete', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'can_read_all', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'is_administrator', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_owner_in_scope', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_unowned_in_scope', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_record_in_scope', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_all_in_scope', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_scope_owners', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_scope_records', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'now', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_check_pipeline', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_check_period', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_sla_elapsed', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_wall_clock', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_why_not', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_event_items', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_when', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'business_add', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'business_add_days', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'business_between', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'business_open', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'next_occurrence', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'occurrences', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'icalendar_time', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'icalendar_recurrence', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'icalendar_time_zone', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'find_matches', 'EXECUTE', NULL, NULL),
    ('toolkit', 'find_duplicates', 'EXECUTE', NULL, NULL),
    ('toolkit', 'compare_records', 'EXECUTE', NULL, NULL),
    ('toolkit', '_compare_records', 'EXECUTE', NULL, NULL),
    ('toolkit', 'match_levels', 'EXECUTE', NULL, NULL),
    ('toolkit', 'match_eval', 'EXECUTE', NULL, NULL),
    ('toolkit', '_match_bits', 'EXECUTE', NULL, NULL),
    ('toolkit', '_match_table', 'EXECUTE', NULL, NULL),
    ('toolkit', 'check_duplicate', 'EXECUTE', NULL, NULL),
    ('toolkit', '_check_duplicate', 'EXECUTE', NULL, NULL),
    ('toolkit', 'find_or_create', 'EXECUTE', NULL, NULL),
    ('toolkit', '_claim_duplicate', 'EXECUTE', NULL, NULL),

    -- tables and views of the workspace
    ('table', 'crm_meta', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'account', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', 'SELECT (id)'),
    ('table', 'contact', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', 'SELECT (id)'),
    ('table', 'lead', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', 'SELECT (id)'),
    ('table', 'opportunity', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', 'SELECT (id)'),
    ('table', 'activity', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', 'SELECT (id)'),
    ('table', 'external_reference', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'lead_source', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'activity_type', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'setting', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'calendar', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'calendar_hours', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'calendar_day', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'reminder', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', 'SELECT (id)'),
    ('table', 'escalation_rule', 'SELECT', 'SELECT', NULL),
    ('table', 'escalation_level', 'SELECT', 'SELECT', NULL),
    ('table', 'stage_task', 'SELECT', 'SELECT', NULL),
    ('table', 'escalation', 'SELECT', 'SELECT', NULL),
    ('table', 'event', 'SELECT, UPDATE (state, handled_at, snoozed_until)', 'SELECT', NULL),
    ('table', 'inbox', 'SELECT', NULL, NULL),
    ('table', 'event_consumer', 'SELECT, DELETE', NULL, NULL),
    ('table', 'event_failure', 'SELECT', NULL, NULL),
    ('table', 'event_lag', 'SELECT', 'SELECT', NULL),
    ('table', 'attention_rule', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'sla_policy', 'SELECT', 'SELECT', NULL),
    ('table', 'sla_clock', 'SELECT', 'SELECT', NULL),
    ('table', 'sla_status', 'SELECT', 'SELECT', NULL),
    ('table', 'agenda', 'SELECT', 'SELECT', NULL),
    ('table', 'follow_up', 'SELECT', 'SELECT', NULL),
    ('table', 'absence', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'follower', 'SELECT', 'SELECT', NULL),
    ('table', 'event_hold', 'SELECT', 'SELECT', NULL),
    ('table', 'team', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'member', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'team_member', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'share', 'SELECT', 'SELECT', NULL),
    ('table', 'pipeline', 'SELECT', 'SELECT', NULL),
    ('table', 'duplicate_pair', 'SELECT, UPDATE (state, decided_by, decided_at, later_until)', 'SELECT', NULL),
    ('table', 'duplicate_cluster', 'SELECT', 'SELECT', NULL),
    ('table', 'duplicate_scan', NULL, 'SELECT', NULL),
    ('table', 'merge_rule', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'merge_link', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'merge_log', 'SELECT (id, kind, table_schema, table_name, survivor_id, loser_ids, merged_at, merged_by, run_id, undone_at, undone_by)',
     'SELECT (id, kind, survivor_id, loser_ids, merged_at, merged_by, run_id, undone_at, undone_by)', 'SELECT'),
    ('table', 'merge_approval_rule', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'merge_request', 'SELECT, INSERT (kind, survivor_id, loser_ids, reason), UPDATE (state, note)', 'SELECT', 'SELECT'),
    ('table', 'report_merge', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'duplicate_review', 'SELECT, UPDATE (decision, survivor_id, later_until)', 'SELECT', NULL),
    ('table', 'duplicate_label', 'SELECT', 'SELECT', NULL),
    ('table', 'duplicate_rate', 'SELECT', 'SELECT', NULL),
    ('table', 'report_duplicate_rate', 'SELECT', 'SELECT', NULL),
    ('function', 'decide_pair', 'EXECUTE', NULL, NULL),
    ('function', 'cluster_members', 'EXECUTE', NULL, NULL),
    ('function', 'preview_record', 'EXECUTE', NULL, NULL),
    ('function', 'preview_cluster', 'EXECUTE', NULL, NULL),
    ('function', 'merge_cluster', 'EXECUTE', NULL, NULL),
    ('function', 'merge_all_clusters', 'EXECUTE', NULL, NULL),
    ('function', 'unmerge_all', 'EXECUTE', NULL, NULL),
    ('function', 'merge_records', 'EXECUTE', NULL, NULL),
    ('function', 'merge_preview', 'EXECUTE', NULL, NULL),
    ('function', 'merge_clusters', 'EXECUTE', NULL, NULL),
    ('function', 'unmerge', 'EXECUTE', NULL, NULL),
    ('function', 'undelete', 'EXECUTE', NULL, NULL),
    ('function', 'deleted_with', 'EXECUTE', 'EXECUTE', NULL),
    ('table', 'deleted_record', 'SELECT', 'SELECT', NULL),
    ('function', 'resolve', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('function', 'merged_ids', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('table', 'stage', 'SELECT', 'SELECT', NULL),
    ('table', 'stage_transition', 'SELECT', 'SELECT', NULL),
    ('table', 'stage_rule', 'SELECT', 'SELECT', NULL),
    ('table', 'duplicate_rule', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'duplicate_log', NULL, NULL, 'SELECT'),
    ('table', 'stage_history', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'exchange_rate', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'report_account', 'SELECT', 'SELECT', NULL),
    ('table', 'report_opportunity', 'SELECT', 'SELECT', NULL),
    ('table', 'report_activity', 'SELECT', 'SELECT', NULL),
    ('table', 'report_stage_duration', 'SELECT', 'SELECT', NULL),
    ('table', 'report_calendar', 'SELECT', 'SELECT', NULL),
    ('table', 'audit_log', NULL, NULL, 'SELECT'),
    ('table', 'audit_seal', NULL, NULL, 'SELECT'),

    -- functions of the workspace, by name
    ('function', 'funnel', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'pipeline_bridge', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'claim', 'EXECUTE', NULL, NULL),
    ('function', 'claim_next', 'EXECUTE', NULL, NULL),
    ('function', 'import_records', 'EXECUTE', NULL, NULL),
    ('function', 'convert_lead', 'EXECUTE', NULL, NULL),
    ('function', 'record_name', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'me', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('function', 'next_stages', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'calendar_of', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'business_add', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'business_add_days', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'business_between', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'business_open', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'follow', 'EXECUTE', NULL, NULL),
    ('function', 'unfollow', 'EXECUTE', NULL, NULL),
    ('function', 'why_not', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'acknowledge', 'EXECUTE', NULL, NULL),
    ('function', 'snooze', 'EXECUTE', NULL, NULL),
    ('function', 'read_events', 'EXECUTE', NULL, NULL),
    ('function', 'ack_events', 'EXECUTE', NULL, NULL),
    ('function', 'fail_event', 'EXECUTE', NULL, NULL),
    ('function', 'retry_events', 'EXECUTE', NULL, NULL),
    ('function', 'event_consumer_lag', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'calendar_feed', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'can', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'transfer', 'EXECUTE', NULL, NULL),
    ('function', 'share_record', 'EXECUTE', NULL, NULL),
    ('function', 'unshare', 'EXECUTE', NULL, NULL),
    ('function', 'find_duplicates', 'EXECUTE', NULL, NULL),
    ('function', 'check_duplicate', 'EXECUTE', NULL, NULL),
    ('function', 'find_or_create', 'EXECUTE', NULL, NULL)
) AS list (class, name, app, report, auditor)
$$;

COMMENT ON FUNCTION crm._access_list() IS
'What crm.grant_access() grants, one row an object: class (toolkit: function of schema crm; table and function: of the workspace), name, and the privileges of each kind of role (NULL: none).';

CREATE FUNCTION crm._access_privileges(kinds text[], OUT class text, OUT name text, OUT privileges text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT DISTINCT l.class, l.name, k.privileges
FROM crm._access_list() AS l
CROSS JOIN LATERAL (VALUES ('app', l.app), ('gateway', l.app), ('report', l.report), ('auditor', l.auditor)) AS k (kind, privileges)
WHERE k.kind = ANY (kinds) AND k.privileges IS NOT NULL
ORDER BY l.class, l.name, k.privileges
$$;

COMMENT ON FUNCTION crm._access_privileges(text[]) IS
'The privileges of roles of the given kinds, one row an object and privilege list.';

CREATE FUNCTION crm.access(workspace regnamespace DEFAULT NULL, OUT schema regnamespace, OUT role regrole, OUT kind text)
RETURNS SETOF record LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT c.relnamespace::regnamespace, x.grantee::regrole, a.attname::text
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
CROSS JOIN LATERAL aclexplode(a.attacl) AS x
WHERE c.relname = 'access_kind'
  AND c.relkind = 'v'
  AND (access.workspace IS NULL OR c.relnamespace = access.workspace)
  AND crm.is_workspace(c.relnamespace)
  AND x.privilege_type = 'SELECT'
  AND x.grantee <> 0
GROUP BY 1, 2, 3
ORDER BY c.relnamespace::regnamespace::text, x.grantee::regrole::text, 3
$$;

COMMENT ON FUNCTION crm.access(regnamespace) IS
'Who was given access by crm.grant_access(): workspace, role and kind. NULL lists all workspaces of this database.';

CREATE FUNCTION crm._toolkit_functions() RETURNS SETOF regprocedure
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT d.objid::regprocedure
FROM pg_depend AS d
WHERE d.classid = 'pg_proc'::regclass
  AND d.deptype = 'e'
  AND d.refclassid = 'pg_extension'::regclass
  AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'crm')
$$;

COMMENT ON FUNCTION crm._toolkit_functions() IS
'The functions that belong to the extension.';

-- The owner of the functions is the one grantor.  Whoever restores a dump without
-- being superuser becomes the grantor of what it grants; that is put right here.
CREATE FUNCTION crm._sync_toolkit(role oid, whole boolean) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kinds text[] := (SELECT array_agg(DISTINCT a.kind) FROM crm.access() AS a WHERE a.role = _sync_toolkit.role);
    gain text;
    loss text;
    other record;
BEGIN
    SELECT string_agg(f.signature, ', ') FILTER (WHERE f.wanted AND NOT f.held),
           string_agg(f.signature, ', ') FILTER (WHERE f.held AND NOT f.wanted)
    INTO gain, loss
    FROM (SELECT p.oid::regprocedure::text AS signature,
                 EXISTS (SELECT FROM aclexplode(p.proacl) AS x WHERE x.grantee = _sync_toolkit.role AND x.grantor = p.proowner) AS held,
                 CASE WHEN whole THEN p.proname NOT IN ('grant_toolkit', 'revoke_toolkit')
                      ELSE kinds IS NOT NULL
                           AND (p.provolatile = 'i'
                                OR p.proname IN (SELECT l.name FROM crm._access_privileges(kinds) AS l WHERE l.class = 'toolkit'))
                 END AS wanted
          FROM crm._toolkit_functions() AS t
          JOIN pg_proc AS p ON p.oid = t
          ORDER BY 1) AS f;

    IF gain IS NOT NULL THEN
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %I', gain, pg_get_userbyid(role));
    END IF;
    IF loss IS NOT NULL THEN
        EXECUTE format('REVOKE EXECUTE ON ROUTINE %s FROM %I', loss, pg_get_userbyid(role));
    END IF;
    FOR other IN
        SELECT x.grantor, string_agg(p.oid::regprocedure::text, ', ') AS signatures
        FROM crm._toolkit_functions() AS t
        JOIN pg_proc AS p ON p.oid = t
        CROSS JOIN LATERAL aclexplode(p.proacl) AS x
        WHERE x.grantee = _sync_toolkit.role AND x.grantor <> p.proowner
        GROUP BY x.grantor
    LOOP
        PERFORM crm._execute_as_role(other.grantor, format('REVOKE EXECUTE ON ROUTINE %s FROM %I', other.signatures, pg_get_userbyid(role)));
    END LOOP;
    EXECUTE format(CASE WHEN whole OR kinds IS NOT NULL THEN 'GRANT USAGE ON SCHEMA crm TO %I'
                        ELSE 'REVOKE USAGE ON SCHEMA crm FROM %I' END, pg_get_userbyid(role));
END
$$;

COMMENT ON FUNCTION crm._sync_toolkit(oid, boolean) IS
'Makes a role''s privileges on schema crm those of its kinds in all workspaces, or the whole toolkit, whoever granted them before. Must run as the owner of the functions.';

CREATE FUNCTION crm._grant_toolkit(role oid, workspace oid) RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_grant_toolkit_for_workspace';

COMMENT ON FUNCTION crm._grant_toolkit(oid, oid) IS
'Brings a role''s privileges on the toolkit in line with its access, as the owner of the toolkit. The caller must own the workspace.';

CREATE FUNCTION crm._holds_toolkit(role oid) RETURNS boolean
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT EXISTS (SELECT FROM pg_proc AS p, aclexplode(p.proacl) AS x
               WHERE p.oid = 'crm.create_workspace(name)'::regprocedure AND x.grantee = role)
$$;

COMMENT ON FUNCTION crm._holds_toolkit(oid) IS
'True if the role itself was given the whole toolkit.';

CREATE FUNCTION crm.grant_toolkit(role name) RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_grant_toolkit';

COMMENT ON FUNCTION crm.grant_toolkit(name) IS
'Lets a role use the whole toolkit: create and own workspaces (it also needs CREATE on the database) and put crm''s triggers and indexes on its own tables. Only for the owner of the database or of the extension.';

CREATE FUNCTION crm.revoke_toolkit(role name) RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_revoke_toolkit';

COMMENT ON FUNCTION crm.revoke_toolkit(name) IS
'Takes back what crm.grant_toolkit() gave; access to workspaces stays. Only for the owner of the database or of the extension.';

CREATE FUNCTION crm._workspace_privileges(verb text, workspace name, role name, kinds text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    preposition text := CASE verb WHEN 'GRANT' THEN 'TO' ELSE 'FROM' END;
    item record;
    routines text;
BEGIN
    FOR item IN SELECT * FROM crm._access_privileges(kinds) AS p WHERE p.class <> 'toolkit' LOOP
        IF item.class = 'table' THEN
            IF to_regclass(format('%I.%I', workspace, item.name)) IS NOT NULL THEN
                EXECUTE format('%s %s ON TABLE %I.%I %s %I', verb, item.privileges, workspace, item.name, preposition, role);
            END IF;
        ELSE
            SELECT string_agg(p.oid::regprocedure::text, ', ') INTO routines
            FROM pg_proc AS p
            JOIN pg_namespace AS n ON n.oid = p.pronamespace
            WHERE n.nspname = workspace AND p.proname = item.name;
            IF routines IS NOT NULL THEN
                EXECUTE format('%s %s ON ROUTINE %s %s %I', verb, item.privileges, routines, preposition, role);
            END IF;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._workspace_privileges(text, name, name, text[]) IS
'Grants or revokes (verb) the privileges of the given kinds on the objects of a workspace.';

CREATE FUNCTION crm._check_access_arguments(workspace name, role name, kind text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema_oid oid;
BEGIN
    IF workspace IS NULL OR role IS NULL OR kind IS NULL THEN
        RAISE EXCEPTION 'workspace, role and kind must not be null'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    schema_oid := crm._workspace_schema(workspace);
    IF NOT pg_has_role((SELECT n.nspowner FROM pg_namespace AS n WHERE n.oid = schema_oid), 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of workspace %', workspace
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = role) THEN
        RAISE EXCEPTION 'role "%" does not exist', role
            USING ERRCODE = 'undefined_object';
    END IF;
    IF kind NOT IN ('app', 'report', 'gateway', 'auditor') THEN
        RAISE EXCEPTION 'unrecognized kind of access: "%"', kind
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'The kinds are app, report, gateway and auditor.';
    END IF;
END
$$;

COMMENT ON FUNCTION crm._check_access_arguments(name, name, text) IS
'Errors unless the schema is a workspace that the caller owns, the role exists and the kind is known.';

CREATE FUNCTION crm.grant_access(workspace name, role name, kind text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM crm._check_access_arguments(workspace, role, kind);
    IF kind <> 'auditor'
       AND EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = role AND (r.rolsuper OR r.rolbypassrls)) THEN
        RAISE WARNING 'role "%" bypasses row-level security and sees every record', role
            USING HINT = 'Give applications a role without SUPERUSER and BYPASSRLS.';
    END IF;
    IF kind = 'gateway' AND NOT has_parameter_privilege(role, 'crm.member', 'SET') THEN
        BEGIN
            EXECUTE format('GRANT SET ON PARAMETER crm.member TO %I', role);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE EXCEPTION 'permission denied to make role "%" a gateway', role
                USING ERRCODE = 'insufficient_privilege',
                      DETAIL = 'A gateway names the member it acts for in crm.member, which it must be allowed to set.',
                      HINT = format('Ask a superuser to run GRANT SET ON PARAMETER crm.member TO %I, then try again.', role);
        END;
    END IF;

    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', workspace, role);
    EXECUTE format('GRANT SELECT (%I) ON %I.access_kind TO %I', kind, workspace, role);
    PERFORM crm._workspace_privileges('GRANT', workspace, role, ARRAY[kind]);
    PERFORM crm._grant_toolkit(r.oid, n.oid)
    FROM pg_roles AS r, pg_namespace AS n
    WHERE r.rolname = role AND n.nspname = workspace;
END
$$;

COMMENT ON FUNCTION crm.grant_access(name, name, text) IS
'Gives a role access to a workspace: app reads and writes the business tables, report reads them, gateway is an app that may say which member it acts for (SET crm.member), auditor reads the audit log; row-level security applies to all. Tables and functions that crm did not make are not touched. Privileges on functions of crm that a role with access has by other ways are replaced. Granting again changes nothing; upgrade_workspace() extends the grant to new objects. The caller must own the workspace; gateway also needs the right to grant SET ON PARAMETER crm.member.';

CREATE FUNCTION crm.revoke_access(workspace name, role name, kind text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    remaining text[];
BEGIN
    PERFORM crm._check_access_arguments(workspace, role, kind);
    EXECUTE format('REVOKE SELECT (%I) ON %I.access_kind FROM %I', kind, workspace, role);
    remaining := (SELECT array_agg(a.kind)
                  FROM crm.access((SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = workspace)) AS a
                  WHERE a.role = (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = revoke_access.role));
    PERFORM crm._workspace_privileges('REVOKE', workspace, role, ARRAY[kind]);
    IF remaining IS NULL THEN
        EXECUTE format('REVOKE USAGE ON SCHEMA %I FROM %I', workspace, role);
    ELSE
        PERFORM crm._workspace_privileges('GRANT', workspace, role, remaining);
    END IF;
    PERFORM crm._grant_toolkit(r.oid, n.oid)
    FROM pg_roles AS r, pg_namespace AS n
    WHERE r.rolname = role AND n.nspname = workspace;
    IF kind = 'gateway' AND has_parameter_privilege(role, 'crm.member', 'SET') THEN
        RAISE NOTICE 'role "%" may still set crm.member', role
            USING HINT = format('If no other workspace of this cluster needs it, run REVOKE SET ON PARAMETER crm.member FROM %I.', role);
    END IF;
END
$$;

COMMENT ON FUNCTION crm.revoke_access(name, name, text) IS
'Takes back what crm.grant_access() gave; what another kind of the role includes stays. The right to set crm.member belongs to the whole cluster and is left, with a notice. The caller must own the workspace.';

CREATE FUNCTION crm._regrant(workspace name) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema_oid oid := (SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = workspace);
    holder record;
BEGIN
    FOR holder IN
        SELECT a.role, array_agg(a.kind) AS kinds FROM crm.access(schema_oid) AS a GROUP BY a.role
    LOOP
        PERFORM crm._workspace_privileges('GRANT', workspace, pg_get_userbyid(holder.role), holder.kinds);
        PERFORM crm._grant_toolkit(holder.role, schema_oid);
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._regrant(name) IS
'Extends every grant_access() of a workspace to objects that an upgrade added.';

GRANT USAGE ON SCHEMA crm TO pg_database_owner;
REVOKE ALL ON ALL ROUTINES IN SCHEMA crm FROM PUBLIC;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA crm TO @extowner@, pg_database_owner WITH GRANT OPTION;
