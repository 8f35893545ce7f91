-- What each table of a workspace must carry, by trigger function.
CREATE FUNCTION crm._expected_triggers(OUT "table" text, OUT function text, OUT triggers integer)
RETURNS SETOF record LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT t.name, f.name, f.triggers
FROM (VALUES
    ('touch', 1, '{account,contact,lead,opportunity,activity,reminder,setting,member,team}'::text[]),
    ('audit', 2, '{account,contact,lead,opportunity,activity,external_reference,setting,member,team,team_member,share,pipeline,stage,stage_transition,stage_rule,exchange_rate,duplicate_rule,match_model}'),
    ('append_only', 1, '{audit_log,audit_seal,duplicate_log}'),
    ('stage_guard', 2, '{lead,opportunity}'),
    ('stage_history', 2, '{lead,opportunity}'),
    ('stage_config', 1, '{pipeline,stage,stage_transition,stage_rule}'),
    ('stage_changed', 2, '{pipeline,stage,stage_transition,stage_rule}'),
    ('canonicalize', 1, '{account,contact,lead,opportunity,member}'),
    ('check_duplicates', 2, '{account,contact,lead}'),
    ('duplicate_rule_changed', 2, '{duplicate_rule}'),
    ('duplicate_rule_config', 1, '{duplicate_rule}'),
    ('access_changed', 2, '{member,team,team_member,share,setting,token_key}'),
    ('refuse_cycle', 1, '{member,team,account}'),
    ('check_time_zone', 1, '{member,calendar}'),
    ('refuse_transfer', 1, '{account,contact,lead,opportunity,activity,reminder}'),
    ('hand_over', 1, '{account,contact,lead,opportunity,activity}'),
    ('reminder_wake', 1, '{reminder}'),
    ('reminder_recurrence', 1, '{reminder}'),
    ('reminder_activity', 2, '{activity}'),
    ('event_closed', 1, '{event}')
) AS f (name, triggers, tables), unnest(f.tables) AS t (name)
$$;

COMMENT ON FUNCTION crm._expected_triggers() IS
'Tables of a workspace and the functions, of crm or of the workspace, that must be among their triggers, with how many triggers each.';

CREATE FUNCTION crm._foreign_keys_without_index(schema oid, OUT conname name, OUT conrelid oid, OUT conkey smallint[])
RETURNS SETOF record LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT k.conname, k.conrelid, k.conkey
FROM pg_constraint AS k
WHERE k.contype = 'f'
  AND k.connamespace = schema
  AND k.conparentid = 0
  AND NOT EXISTS (SELECT FROM pg_index AS i
                  WHERE i.indrelid = k.conrelid
                    AND i.indisvalid
                    AND (i.indpred IS NULL
                         OR pg_get_expr(i.indpred, i.indrelid)
                            = (SELECT format('(%I IS NOT NULL)', a.attname) FROM pg_attribute AS a
                               WHERE a.attrelid = k.conrelid AND a.attnum = k.conkey[1] AND cardinality(k.conkey) = 1))
                    -- the key's columns, in any order, are the index's first
                    AND (SELECT array_agg(c ORDER BY c) FROM unnest(k.conkey) AS c)
                        = (SELECT array_agg(c ORDER BY c)
                           FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS u (c, position)
                           WHERE u.position <= cardinality(k.conkey)))
$$;

COMMENT ON FUNCTION crm._foreign_keys_without_index(oid) IS
'Foreign keys of a schema whose columns are not the first of any valid index over all rows, or all where the column is not NULL.';

CREATE FUNCTION crm._doctor_workspace(workspace oid, OUT severity text, OUT "check" text, OUT detail text, OUT hint text)
RETURNS SETOF record LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
WITH me AS (
    SELECT n.oid, n.nspname, n.nspowner FROM pg_namespace AS n WHERE n.oid = workspace
), business AS (
    SELECT c.oid, c.relname, c.relrowsecurity
    FROM crm._access_list() AS l
    JOIN pg_class AS c ON c.relname = l.name AND c.relnamespace = workspace AND c.relkind IN ('r', 'p')
    WHERE l.class = 'table' AND l.app LIKE '%INSERT%'
)
SELECT 'error', 'role above the rules',
       format('role %s has access "%s" but %s', a.role, a.kind,
              CASE WHEN r.rolsuper THEN 'is a superuser'
                   WHEN r.rolbypassrls THEN 'has BYPASSRLS'
                   ELSE 'belongs to the role that owns the workspace' END || ', so row-level security does not hold it'),
       'Give applications a role of their own, without SUPERUSER and BYPASSRLS, that does not belong to the owner.'
FROM crm.access(workspace) AS a
JOIN pg_roles AS r ON r.oid = a.role
CROSS JOIN me
WHERE a.kind <> 'auditor'
  AND (r.rolsuper OR r.rolbypassrls OR pg_has_role(r.oid, me.nspowner, 'MEMBER'))
UNION ALL
SELECT 'error', 'row-level security off',
       format('table %s %s', b.oid::regclass,
              CASE WHEN NOT b.relrowsecurity THEN 'has row-level security disabled: every application sees every record'
                   ELSE 'has no policy: no application sees any record' END),
       format('Run SELECT crm.upgrade_workspace(%L).', me.nspname)
FROM business AS b
CROSS JOIN me
WHERE NOT b.relrowsecurity OR NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = b.oid)
UNION ALL
SELECT 'error', 'policy missing',
       format('table %s has records, but no policy named %s', t.tgrelid::regclass, e.name),
       format('Run SELECT crm.upgrade_workspace(%L), or crm.protect() again for a table of your own.', me.nspname)
FROM pg_trigger AS t
JOIN pg_class AS c ON c.oid = t.tgrelid AND c.relnamespace = workspace
CROSS JOIN unnest('{crm_read,crm_insert,crm_update,crm_delete}'::text[]) AS e (name)
CROSS JOIN me
WHERE t.tgfoid = 'crm.refuse_transfer()'::regprocedure
  AND EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = t.tgrelid)
  AND NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = t.tgrelid AND p.polname = e.name)
UNION ALL
SELECT 'error', 'policy above the rules',
       format('policy %I of table %s lets everybody %s every row', p.polname, p.polrelid::regclass,
              CASE p.polcmd WHEN 'r' THEN 'read' WHEN 'w' THEN 'change' WHEN 'd' THEN 'delete' ELSE 'read and write' END),
       format('Run DROP POLICY %I ON %s; policies that only restrict are AS RESTRICTIVE.', p.polname, p.polrelid::regclass)
FROM pg_policy AS p
JOIN pg_class AS c ON c.oid = p.polrelid
WHERE c.relnamespace = workspace AND p.polpermissive AND pg_get_expr(p.polqual, p.polrelid) = 'true'
UNION ALL
SELECT 'warning', 'object missing',
       format('%s %I.%I is gone', CASE l.class WHEN 'table' THEN 'table or view' ELSE l.class END, me.nspname, l.name),
       format('Run SELECT crm.upgrade_workspace(%L).', me.nspname)
FROM crm._access_list() AS l
CROSS JOIN me
WHERE CASE l.class WHEN 'table' THEN NOT EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = workspace AND c.relname = l.name)
                   WHEN 'function' THEN NOT EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = workspace AND p.proname = l.name)
                   ELSE false END
UNION ALL
SELECT 'warning', 'autovacuum off',
       format('autovacuum is switched off for table %s', c.oid::regclass),
       format('Run ALTER TABLE %s RESET (autovacuum_enabled).', c.oid::regclass)
FROM pg_class AS c
CROSS JOIN LATERAL pg_options_to_table(c.reloptions) AS o
WHERE c.relnamespace = workspace AND o.option_name = 'autovacuum_enabled' AND o.option_value IN ('false', 'off', '0', 'no')
UNION ALL
SELECT 'error', 'trigger missing',
       CASE WHEN x.found = 0 THEN format('table %s has no trigger of %s()', c.oid::regclass, p.oid::regproc)
            ELSE format('table %s has only %s of the %s triggers of %s()', c.oid::regclass, x.found, e.triggers, p.oid::regproc) END,
       format('Run SELECT crm.upgrade_workspace(%L).', me.nspname)
FROM crm._expected_triggers() AS e
JOIN pg_class AS c ON c.relname = e."table" AND c.relnamespace = workspace
JOIN pg_proc AS p ON p.proname = e.function AND p.pronamespace IN ('crm'::regnamespace, workspace)
CROSS JOIN LATERAL (SELECT count(*) AS found FROM pg_trigger AS t WHERE t.tgrelid = c.oid AND t.tgfoid = p.oid) AS x
CROSS JOIN me
WHERE x.found < e.triggers
UNION ALL
SELECT CASE t.tgenabled WHEN 'D' THEN 'error' ELSE 'warning' END, 'trigger disabled',
       format('trigger %I of table %s %s', t.tgname, t.tgrelid::regclass,
              CASE t.tgenabled WHEN 'D' THEN 'is disabled' ELSE 'fires only when session_replication_role is replica' END),
       format('Run ALTER TABLE %s ENABLE TRIGGER %I.', t.tgrelid::regclass, t.tgname)
FROM pg_trigger AS t
JOIN pg_class AS c ON c.oid = t.tgrelid
JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE c.relnamespace = workspace
  AND p.pronamespace IN ('crm'::regnamespace, workspace)
  AND t.tgenabled IN ('D', 'R')
UNION ALL
SELECT 'warning', 'foreign key without index',
       format('foreign key %I of table %s has no index: deleting or changing what it refers to scans the table', k.conname, k.conrelid::regclass),
       format('Run CREATE INDEX ON %s (%s).', k.conrelid::regclass,
              (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.position)
               FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, position)
               JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.attnum))
FROM crm._foreign_keys_without_index(workspace) AS k
UNION ALL
SELECT 'error', 'index not valid',
       format('index %s of table %s is not valid: nothing is found by it', i.indexrelid::regclass, i.indrelid::regclass),
       format('Run REINDEX INDEX CONCURRENTLY %s, or drop it.', i.indexrelid::regclass)
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indrelid
WHERE c.relnamespace = workspace
  AND NOT i.indisvalid
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS b WHERE b.index_relid = i.indexrelid)
UNION ALL
SELECT 'error', 'no matching index',
       format('table %s has no valid index on crm.match_keys(): its duplicates are not found, and duplicate rules refuse every write', c.oid::regclass),
       format('Run CREATE INDEX CONCURRENTLY ON %s USING crm_match (crm.match_keys(...)), with the columns that tell who a record is.', c.oid::regclass)
FROM pg_class AS c
WHERE c.oid IN (SELECT t.tgrelid FROM pg_trigger AS t WHERE t.tgfoid = 'crm.check_duplicates()'::regprocedure)
  AND c.relnamespace = workspace
  AND NOT EXISTS (SELECT FROM pg_index AS i
                  JOIN pg_opclass AS o ON o.oid = i.indclass[0]
                  WHERE i.indrelid = c.oid AND i.indisvalid AND o.opcname = 'match_ops' AND o.opcnamespace = 'crm'::regnamespace)
UNION ALL
SELECT 'warning', 'old matching statistics',
       format('how common names and numbers in table %s are was learned on %s of %s rows, of which as many as half have changed since: scores rest on what is no more',
              s.rel, s.analyzed_at::date, s.rows),
       format('Run SELECT crm.analyze_matching(%L), or scan for duplicates.', s.rel::text)
FROM crm._old_statistics(workspace::regnamespace) AS s
UNION ALL
SELECT 'error', 'owner',
       format('%s not to the owner of the workspace, %s: what the database does there itself fails or has other rights',
              CASE WHEN count(*) = 1 THEN format('%s belongs to %s,', min(o.name), o.owner)
                   ELSE format('%s and %s more belong to %s,', min(o.name), count(*) - 1, o.owner) END, me.nspowner::regrole),
       format('Run ALTER %s OWNER TO %s%s.', (array_agg(upper(o.what) || substr(o.name, length(o.what) + 1) ORDER BY o.name))[1], me.nspowner::regrole,
              CASE WHEN count(*) > 1 THEN format(' and so on, or ALTER SCHEMA %I OWNER TO %s', me.nspname, o.owner) END)
FROM me
CROSS JOIN LATERAL (
    SELECT w.what, format('%s %s', w.what, c.oid::regclass) AS name, c.relowner::regrole AS owner
    FROM pg_class AS c
    CROSS JOIN LATERAL (SELECT CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END AS what) AS w
    JOIN crm._access_list() AS l ON l.class = 'table' AND l.name = c.relname
    WHERE c.relnamespace = workspace AND c.relowner <> me.nspowner
    UNION ALL
    SELECT 'function', format('function %s', p.oid::regprocedure), p.proowner::regrole
    FROM pg_proc AS p
    WHERE p.pronamespace = workspace AND p.prosecdef AND p.proowner <> me.nspowner) AS o
GROUP BY o.owner, me.nspowner, me.nspname
UNION ALL
SELECT 'error', 'privilege too many',
       format('%s may %s', CASE x.grantee WHEN 0 THEN 'everybody' ELSE 'role ' || x.grantee::regrole END,
              CASE WHEN x.privilege_type = 'SELECT' THEN 'read ' ELSE lower(x.privilege_type) || ' in ' END || c.oid::regclass),
       format('Run REVOKE %s ON %s FROM %s.', x.privilege_type, c.oid::regclass, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END)
FROM pg_class AS c
CROSS JOIN LATERAL aclexplode(c.relacl) AS x
CROSS JOIN me
WHERE c.relnamespace = workspace
  AND c.relkind IN ('r', 'p')
  AND x.grantee <> c.relowner
  AND (x.grantee = 0
       -- What only the database writes, and the secrets, whoever the role is.
       OR c.relname = 'token_key'
       OR c.relname IN ('audit_log', 'audit_seal', 'duplicate_log', 'stage_history', 'merge_change', 'merged_record') AND x.privilege_type <> 'SELECT'
       OR c.relname = 'event' AND x.privilege_type IN ('INSERT', 'TRUNCATE'))
UNION ALL
SELECT 'error', 'privilege too many',
       format('everybody may execute %s, which has the rights of its owner', p.oid::regprocedure),
       format('Run REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC.', p.oid::regprocedure)
FROM pg_proc AS p
WHERE p.pronamespace = workspace
  AND p.prosecdef
  AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS x WHERE x.grantee = 0)
UNION ALL
SELECT 'error', 'view above the rules',
       format('view %s can be read by role %s but is not security_invoker: it shows every record', c.oid::regclass, a.role),
       format('Run ALTER VIEW %s SET (security_invoker = true).', c.oid::regclass)
FROM pg_class AS c
CROSS JOIN (SELECT DISTINCT a.role FROM crm.access(workspace) AS a) AS a
WHERE c.relnamespace = workspace
  AND c.relkind = 'v'
  -- It reads the log, which they may not, through a view that says who sees which row.
  AND c.relname <> 'deleted_record'
  AND has_table_privilege(a.role, c.oid, 'SELECT')
  AND NOT EXISTS (SELECT FROM pg_options_to_table(c.reloptions) AS o
                  WHERE o.option_name = 'security_invoker' AND o.option_value IN ('true', 'on', '1', 'yes'))
  AND NOT pg_has_role(a.role, c.relowner, 'MEMBER')
UNION ALL
SELECT 'error', 'search_path open',
       format('function %s is SECURITY DEFINER without a search_path of its own', p.oid::regprocedure),
       format('Run ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp, and qualify what it uses.', p.oid::regprocedure)
FROM pg_proc AS p
WHERE p.pronamespace = workspace
  AND p.prosecdef
  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c WHERE c LIKE 'search_path=%')
UNION ALL
SELECT 'error', 'quarantine',
       'no reminder fires: the workspace was restored or copied from another database',
       format('If its reminders are to fire here, run SELECT crm.scheduler_adopt(%L).', workspace::regnamespace)
WHERE NOT crm._reminder_at_home(workspace)
$$;

COMMENT ON FUNCTION crm._doctor_workspace(oid) IS
'The part of crm.doctor() about one workspace.';

-- What people wrote into rules and settings was checked then; columns, roles and
-- pipelines may have gone since.
CREATE FUNCTION crm._doctor_rules(workspace regnamespace, OUT severity text, OUT "check" text, OUT detail text, OUT hint text)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
BEGIN
    severity := 'error';
    "check" := 'rule does not work';
    FOR item IN SELECT DISTINCT g.kind FROM crm.guarded_tables(workspace) AS g ORDER BY g.kind LOOP
        BEGIN
            PERFORM crm._check_stage_rules(workspace, item.kind);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
            detail := format('stages of kind "%s": %s (%s)', item.kind, SQLERRM, detail);
            hint := 'Correct the rule, or bring back what it needs: moves that it governs fail.';
            RETURN NEXT;
        END;
    END LOOP;
    FOR item IN EXECUTE format($query$
        SELECT format('%%s "%%s"', r.what, r.name) AS title, r.what, r.expression, t.rel
        FROM (SELECT 'duplicate rule' AS what, r.name, r.kind, r.condition AS expression FROM %1$s.duplicate_rule AS r WHERE r.active
              UNION ALL SELECT 'escalation rule', r.name, r.kind, r.condition FROM %1$s.escalation_rule AS r WHERE r.active
              UNION ALL SELECT 'attention rule', r.name, r.kind, r.condition FROM %1$s.attention_rule AS r
              UNION ALL SELECT 'SLA policy', p.name, p.kind, e.expression
                        FROM %1$s.sla_policy AS p CROSS JOIN unnest(ARRAY[p.condition, p.met_when, p.pause_when]) AS e (expression) WHERE p.active) AS r
        JOIN crm._record_tables($1) AS t ON t.kind = r.kind
        WHERE r.expression IS NOT NULL
        ORDER BY 1$query$, workspace) USING workspace
    LOOP
        BEGIN
            IF item.what = 'duplicate rule' THEN
                PERFORM crm._check_duplicate_condition(item.rel, workspace, item.expression);
            ELSE
                PERFORM crm._check_stage_expression(item.rel, workspace, item.expression);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            detail := format('%s: %s', item.title, SQLERRM);
            hint := 'Correct the rule, or bring back what it needs.';
            RETURN NEXT;
        END;
    END LOOP;

    severity := 'warning';
    "check" := 'no way in';
    FOR item IN EXECUTE format($query$
        SELECT g.kind, p.name
        FROM (SELECT DISTINCT g.kind FROM crm.guarded_tables($1) AS g) AS g
        LEFT JOIN %1$s.pipeline AS p ON p.kind = g.kind AND p.is_default
        WHERE NOT EXISTS (SELECT FROM %1$s.stage AS s WHERE s.pipeline = p.name AND s.is_initial)
        ORDER BY 1$query$, workspace) USING workspace
    LOOP
        detail := CASE WHEN item.name IS NULL THEN format('kind "%s" has no default pipeline: a new record has to name one', item.kind)
                       ELSE format('pipeline "%s" has no initial stage: no record can begin in it', item.name) END;
        hint := CASE WHEN item.name IS NULL THEN format('Set is_default in %s.pipeline.', workspace) ELSE format('Set is_initial in %s.stage.', workspace) END;
        RETURN NEXT;
    END LOOP;

    "check" := 'login role';
    FOR item IN EXECUTE format($query$
        SELECT m.id, m.name, m.login_role, r.oid AS role
        FROM %1$s.member AS m
        LEFT JOIN pg_roles AS r ON r.rolname = m.login_role
        WHERE m.active AND m.login_role IS NOT NULL
          AND (r.oid IS NULL OR NOT has_schema_privilege(r.oid, $1::oid, 'USAGE'))
        ORDER BY m.id$query$, workspace) USING workspace
    LOOP
        detail := format('member %s, %s, has login_role %s, %s', item.id, item.name, quote_ident(item.login_role),
                         CASE WHEN item.role IS NULL THEN 'a role that does not exist' ELSE 'which has no access to the workspace' END);
        hint := CASE WHEN item.role IS NULL THEN 'Create the role, or correct the member: whoever creates a role of this name later is that member.'
                     ELSE format('Run SELECT crm.grant_access(%L, %L, ''app'').', workspace, item.login_role) END;
        RETURN NEXT;
    END LOOP;

    FOR item IN EXECUTE format('SELECT count(*) AS n, min(r.failure) AS failure FROM %s.reminder AS r WHERE r.failed_at IS NOT NULL HAVING count(*) > 0', workspace) LOOP
        "check" := 'reminders set aside';
        detail := format('%s reminders failed and do not fire; one of them: %s', item.n, item.failure);
        hint := format('Mend the cause, then UPDATE %s.reminder SET failed_at = NULL WHERE failed_at IS NOT NULL.', workspace);
        RETURN NEXT;
    END LOOP;
    FOR item IN EXECUTE format('SELECT count(*) AS n, min(r.due_at) AS due_at FROM %s.reminder AS r WHERE r.failed_at IS NULL AND r.due_at < crm.now() - interval ''5 minutes'' HAVING count(*) > 0', workspace) LOOP
        "check" := 'reminders overdue';
        detail := format('%s reminders are due and have not fired, the first since %s', item.n, item.due_at);
        hint := 'See state and reason in crm.scheduler_status().';
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._doctor_rules(regnamespace) IS
'The part of crm.doctor() about what is written in a workspace''s tables, for its owner.';

CREATE FUNCTION crm._doctor_rules_as_owner(workspace oid) RETURNS jsonb
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_doctor_rules_as_owner';

COMMENT ON FUNCTION crm._doctor_rules_as_owner(oid) IS
'The rows of crm._doctor_rules() as an array, found as the owner of the workspace where the caller is a member of that role, so that what the owner has put in place of tables does not run with the rights of a superuser.';

CREATE FUNCTION crm.doctor(OUT severity text, OUT workspace regnamespace, OUT "check" text, OUT detail text, OUT hint text)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    server integer := current_setting('server_version_num')::integer;
    -- The first minor versions without flaws through which a member could read
    -- records that row-level security hides.
    safe integer := CASE server / 10000 WHEN 15 THEN 150020 WHEN 16 THEN 160016 WHEN 17 THEN 170012 WHEN 18 THEN 180007 END;
    item record;
BEGIN
    IF server < safe THEN
        severity := 'error';
        "check" := 'server version';
        detail := format('PostgreSQL %s has known flaws in row-level security', current_setting('server_version'));
        hint := format('Install %s.%s or later.', safe / 10000, safe % 10000);
        RETURN NEXT;
    END IF;

    SELECT e.extversion, a.default_version INTO item
    FROM pg_extension AS e
    JOIN pg_available_extensions AS a ON a.name = e.extname
    WHERE e.extname = 'crm';
    IF item.extversion <> item.default_version THEN
        severity := 'warning';
        "check" := 'extension version';
        detail := format('version %s of crm is installed here, the server has %s', item.extversion, item.default_version);
        hint := 'Run ALTER EXTENSION crm UPDATE, then crm.upgrade_workspace() for each workspace.';
        RETURN NEXT;
    END IF;

    IF pg_has_role('pg_read_all_settings', 'USAGE') THEN
        IF NOT EXISTS (SELECT FROM regexp_split_to_table(current_setting('shared_preload_libraries'), ',') AS l
                       WHERE btrim(l, ' "') IN ('crm', '$libdir/crm')) THEN
            severity := 'notice';
            "check" := 'not preloaded';
            detail := 'shared_preload_libraries does not contain crm: after a restart of the server no reminder fires until somebody starts the scheduler';
            hint := 'Add crm to shared_preload_libraries and restart, or run SELECT crm.scheduler_start() after each restart.';
            RETURN NEXT;
        END IF;
    END IF;

    IF coalesce(current_setting('crm.default_region', true), '') = '' THEN
        severity := 'notice';
        "check" := 'default region';
        detail := 'crm.default_region is not set: telephone numbers without a country code are not recognised';
        hint := format('Run ALTER DATABASE %I SET crm.default_region = ''DE'', with the ISO 3166-1 code of your country.', current_database());
        RETURN NEXT;
    END IF;

    FOR item IN
        SELECT p.oid::regprocedure AS function
        FROM pg_proc AS p
        WHERE p.pronamespace = 'crm'::regnamespace
          AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS x WHERE x.grantee = 0)
        ORDER BY p.oid::regprocedure::text
    LOOP
        severity := 'error';
        "check" := 'public function';
        detail := format('everybody may execute %s', item.function);
        hint := format('Run REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC.', item.function);
        RETURN NEXT;
    END LOOP;

    FOR item IN SELECT w.* FROM crm.workspaces() AS w LOOP
        workspace := item.workspace;
        IF item.schema_version < item.current_version THEN
            severity := 'warning';
            "check" := 'workspace version';
            detail := format('workspace %s has version %s, this extension brings version %s', workspace, item.schema_version, item.current_version);
            hint := format('Run SELECT crm.upgrade_workspace(%L).', (SELECT n.nspname FROM pg_namespace AS n WHERE n.oid = workspace));
            RETURN NEXT;
        END IF;
        FOR severity, "check", detail, hint IN
            SELECT d.severity, d."check", d.detail, d.hint FROM crm._doctor_workspace(workspace) AS d ORDER BY d."check", d.detail
        LOOP
            RETURN NEXT;
        END LOOP;
        IF pg_has_role(item.owner, 'USAGE') AND item.schema_version = item.current_version THEN
            BEGIN
                FOR severity, "check", detail, hint IN
                    SELECT d.* FROM jsonb_to_recordset(crm._doctor_rules_as_owner(workspace)) AS d (severity text, "check" text, detail text, hint text)
                LOOP
                    RETURN NEXT;
                END LOOP;
            EXCEPTION WHEN OTHERS THEN
                severity := 'error';
                "check" := 'owner';
                detail := format('%s, who owns workspace %s, cannot read its rules: %s', item.owner, workspace, SQLERRM);
                hint := format('Where it is the toolkit that is not granted, run SELECT crm.grant_toolkit(%L).', item.owner::text);
                RETURN NEXT;
            END;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm.doctor() IS
'Looks for what makes a promise of crm untrue here: roles and views that row-level security does not hold, missing or disabled triggers and policies, indexes that are missing or not valid, privileges and owners other than they should be, rules that cannot be evaluated any more, members who cannot log in, reminders that do not fire, versions behind, settings. What is written in the tables of a workspace only its owner is told. One row a finding (severity error, warning or notice); no row means nothing was found. workspace is NULL for what concerns the whole database.';
