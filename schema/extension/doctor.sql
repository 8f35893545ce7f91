-- What each table of a workspace must carry, by trigger function.
CREATE FUNCTION crm._expected_triggers(OUT "table" text, OUT function text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT t.name, f.name
FROM (VALUES
    ('touch', '{account,contact,lead,opportunity,activity,reminder,setting,member,team}'::text[]),
    ('audit', '{account,contact,lead,opportunity,activity,external_reference,setting,member,team,team_member,share,pipeline,stage,stage_transition,stage_rule,exchange_rate}'),
    ('append_only', '{audit_log,audit_seal,duplicate_log}'),
    ('stage_guard', '{lead,opportunity}'),
    ('canonicalize', '{account,contact,lead,member}'),
    ('check_duplicates', '{account,contact,lead}'),
    ('duplicate_rule_changed', '{duplicate_rule}'),
    ('access_changed', '{member,team,team_member,share}')
) AS f (name, tables), unnest(f.tables) AS t (name)
$$;

COMMENT ON FUNCTION crm._expected_triggers() IS
'Tables of a workspace and the functions of crm that must be among their triggers.';

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
SELECT 'error', 'trigger missing',
       format('table %s has no trigger of crm.%s()', c.oid::regclass, e.function),
       format('Run SELECT crm.upgrade_workspace(%L).', me.nspname)
FROM crm._expected_triggers() AS e
JOIN pg_class AS c ON c.relname = e."table" AND c.relnamespace = workspace
JOIN pg_proc AS p ON p.proname = e.function AND p.pronamespace = 'crm'::regnamespace
CROSS JOIN me
WHERE NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = c.oid AND t.tgfoid = p.oid)
UNION ALL
SELECT CASE t.tgenabled WHEN 'D' THEN 'error' ELSE 'warning' END, 'trigger disabled',
       format('trigger %I of table %s %s', t.tgname, t.tgrelid::regclass,
              CASE t.tgenabled WHEN 'D' THEN 'is disabled' ELSE 'fires only when session_replication_role is replica' END),
       format('Run ALTER TABLE %s ENABLE TRIGGER %I.', t.tgrelid::regclass, t.tgname)
FROM pg_trigger AS t
JOIN pg_class AS c ON c.oid = t.tgrelid
JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE c.relnamespace = workspace
  AND p.pronamespace = 'crm'::regnamespace
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
SELECT 'error', 'view above the rules',
       format('view %s can be read by role %s but is not security_invoker: it shows every record', c.oid::regclass, a.role),
       format('Run ALTER VIEW %s SET (security_invoker = true).', c.oid::regclass)
FROM pg_class AS c
CROSS JOIN (SELECT DISTINCT a.role FROM crm.access(workspace) AS a) AS a
WHERE c.relnamespace = workspace
  AND c.relkind = 'v'
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
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm.doctor() IS
'Looks for what makes a promise of crm untrue here: roles and views that row-level security does not hold, missing or disabled triggers and policies, foreign keys without an index, functions open to everybody, versions behind, settings. One row a finding (severity error, warning or notice); no row means nothing was found. workspace is NULL for what concerns the whole database.';
