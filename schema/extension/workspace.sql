CREATE FUNCTION crm._in_extension_script() RETURNS boolean
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_in_extension_script';

COMMENT ON FUNCTION crm._in_extension_script() IS
'True while CREATE EXTENSION or ALTER EXTENSION UPDATE runs a script, where every new object would become a member.';

CREATE FUNCTION crm.is_workspace(schema regnamespace) RETURNS boolean
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_is_workspace_sql';

COMMENT ON FUNCTION crm.is_workspace(regnamespace) IS
'True if the schema is a crm workspace: it has a crm_meta table carrying the marker trigger.';

CREATE FUNCTION crm._workspace_schema(workspace name) RETURNS oid
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_workspace_schema';

COMMENT ON FUNCTION crm._workspace_schema(name) IS
'The schema of the workspace of a name. Error: 3F000 if there is no such workspace.';

CREATE FUNCTION crm.meta_guard() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_meta_guard';

COMMENT ON FUNCTION crm.meta_guard() IS
'Marks the schema of its table as a crm workspace and refuses to remove the row that holds its version.';

CREATE FUNCTION crm.workspaces(OUT workspace regnamespace, OUT owner regrole, OUT schema_version integer, OUT current_version integer)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r record;
BEGIN
    SELECT max(d.version) INTO current_version FROM crm._workspace_ddl() AS d;
    FOR r IN
        SELECT n.oid, n.nspname, n.nspowner, c.oid AS meta
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relname = 'crm_meta'
          AND c.relkind = 'r'
          AND EXISTS (SELECT FROM pg_trigger AS t
                      WHERE t.tgrelid = c.oid AND t.tgfoid = 'crm.meta_guard()'::regprocedure)
        ORDER BY n.nspname
    LOOP
        workspace := r.oid;
        owner := r.nspowner;
        schema_version := NULL;
        IF has_schema_privilege(r.oid, 'USAGE') AND has_table_privilege(r.meta, 'SELECT') THEN
            EXECUTE format('SELECT m.schema_version FROM %I.crm_meta AS m', r.nspname) INTO schema_version;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm.workspaces() IS
'The workspaces of this database: schema, owner, schema version (NULL if the caller may not read it) and the version this extension brings them to.';

CREATE FUNCTION crm._execute_as_owner(workspace oid, ddl text) RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_execute_as_owner';

COMMENT ON FUNCTION crm._execute_as_owner(oid, text) IS
'Runs DDL as the owner of a schema, as a security-restricted operation. The caller must be a member of that role.';

CREATE FUNCTION crm._execute_as_role(role oid, ddl text) RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_execute_as_role';

COMMENT ON FUNCTION crm._execute_as_role(oid, text) IS
'Runs DDL as another role, as a security-restricted operation. Only for superusers.';

CREATE FUNCTION crm.create_workspace(workspace name) RETURNS regnamespace
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
    existing oid;
BEGIN
    IF crm._in_extension_script() THEN
        RAISE EXCEPTION 'crm.create_workspace() cannot run inside an extension script'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'The tables would become members of the extension and be lost by pg_dump.';
    END IF;
    IF workspace = '' OR workspace LIKE 'pg\_%' OR workspace = 'information_schema' THEN
        RAISE EXCEPTION 'schema name "%" is reserved', workspace
            USING ERRCODE = 'reserved_name',
                  HINT = 'Name the workspace after the organisation or team that uses it.';
    END IF;
    -- Of two who create the same name at once, the second sees what the first made.
    PERFORM pg_advisory_xact_lock('crm.create_workspace(name)'::regprocedure::oid::integer, hashtext(workspace));
    existing := (SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = workspace);
    IF workspace = 'crm'
       OR EXISTS (SELECT FROM pg_extension AS e WHERE e.extnamespace = existing AND workspace <> 'public')
       OR EXISTS (SELECT FROM pg_depend AS d
                  WHERE d.classid = 'pg_namespace'::regclass AND d.objid = existing AND d.deptype = 'e') THEN
        RAISE EXCEPTION 'schema "%" belongs to an extension', workspace
            USING ERRCODE = 'reserved_name',
                  DETAIL = 'A workspace holds data and lives in a schema of its own.',
                  HINT = 'Choose another name.';
    END IF;

    IF existing IS NULL THEN
        EXECUTE format('CREATE SCHEMA %I', workspace);
    ELSIF crm.is_workspace(existing) THEN
        RAISE EXCEPTION 'workspace "%" already exists', workspace
            USING ERRCODE = 'duplicate_schema',
                  HINT = format('To bring it to the current version, run SELECT crm.upgrade_workspace(%L).', workspace);
    ELSIF EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = existing)
       OR EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = existing) THEN
        RAISE EXCEPTION 'schema "%" is not empty', workspace
            USING ERRCODE = 'duplicate_schema',
                  HINT = 'A workspace is created in a new schema or in an empty one that you own.';
    ELSIF NOT pg_has_role((SELECT n.nspowner FROM pg_namespace AS n WHERE n.oid = existing), 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of schema %', workspace
            USING ERRCODE = 'insufficient_privilege';
    END IF;

    EXECUTE format(
        'CREATE TABLE %1$I.crm_meta (
             one boolean PRIMARY KEY DEFAULT true CONSTRAINT crm_meta_one_row CHECK (one),
             schema_version integer NOT NULL,
             created_at timestamptz NOT NULL DEFAULT now()
         );
         INSERT INTO %1$I.crm_meta (schema_version) VALUES (0);
         CREATE TRIGGER crm_workspace BEFORE DELETE OR TRUNCATE ON %1$I.crm_meta
             FOR EACH STATEMENT EXECUTE FUNCTION crm.meta_guard();',
        workspace);
    PERFORM crm.upgrade_workspace(workspace);
    RETURN (SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = workspace);
END
$$;

COMMENT ON FUNCTION crm.create_workspace(name) IS
'Creates a workspace: a schema of ordinary tables owned by the caller, who needs CREATE on the database. Refuses reserved schemas, schemas of extensions and schemas that are not empty. Returns the schema.';

CREATE FUNCTION crm.upgrade_workspace(workspace name) RETURNS integer
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
    schema_oid oid;
    current integer;
    newest integer := (SELECT max(d.version) FROM crm._workspace_ddl() AS d);
    step record;
    functions oid[];
    added text;
    trigger_states text;
BEGIN
    IF crm._in_extension_script() THEN
        RAISE EXCEPTION 'crm.upgrade_workspace() cannot run inside an extension script'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Run it after ALTER EXTENSION crm UPDATE.';
    END IF;
    schema_oid := crm._workspace_schema(workspace);
    IF NOT pg_has_role((SELECT n.nspowner FROM pg_namespace AS n WHERE n.oid = schema_oid), 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of workspace %', workspace
            USING ERRCODE = 'insufficient_privilege';
    END IF;

    PERFORM pg_advisory_xact_lock('crm.upgrade_workspace(name)'::regprocedure::oid::integer, schema_oid::integer);
    EXECUTE format('SELECT m.schema_version FROM %I.crm_meta AS m FOR UPDATE', workspace) INTO current;
    IF current > newest THEN
        RAISE EXCEPTION 'workspace "%" has version %, but this extension knows only version %', workspace, current, newest
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Run ALTER EXTENSION crm UPDATE, or install the crm that made the workspace.';
    END IF;

    -- CREATE OR REPLACE TRIGGER enables; what somebody has set otherwise, for
    -- replication say, is put back.  CREATE FUNCTION lets PUBLIC execute; what an
    -- upgrade adds is for those who are granted it.
    SELECT string_agg(format('ALTER TABLE %s %s TRIGGER %I', t.tgrelid::regclass,
                             CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE REPLICA' END,
                             t.tgname), '; ')
    INTO trigger_states
    FROM pg_trigger AS t
    JOIN pg_class AS c ON c.oid = t.tgrelid
    WHERE c.relnamespace = schema_oid AND t.tgenabled <> 'O' AND NOT t.tgisinternal;
    functions := ARRAY(SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = schema_oid);

    FOR step IN
        SELECT d.version, d.topic, d.ddl
        FROM crm._workspace_ddl() WITH ORDINALITY AS d (version, topic, ddl, ordinal)
        WHERE d.version IS NULL OR d.version > current
        ORDER BY d.version NULLS LAST, d.ordinal
    LOOP
        PERFORM crm._execute_as_owner(schema_oid,
            replace(replace(step.ddl, '@workspace_literal@', quote_literal(quote_ident(workspace))),
                    '@workspace@', quote_ident(workspace)));
    END LOOP;

    SELECT string_agg(p.oid::regprocedure::text, ', ') INTO added
    FROM pg_proc AS p
    WHERE p.pronamespace = schema_oid AND NOT p.oid = ANY (functions);
    PERFORM crm._execute_as_owner(schema_oid, concat_ws('; ',
        trigger_states,
        'REVOKE ALL ON ROUTINE ' || added || ' FROM PUBLIC',
        format('UPDATE %I.crm_meta SET schema_version = %s', workspace, newest)));
    PERFORM crm._regrant(workspace);
    RETURN newest;
END
$$;

COMMENT ON FUNCTION crm.upgrade_workspace(name) IS
'Brings a workspace to the version of this extension in the caller''s transaction: pending migrations once each, then views, functions, triggers and policies anew. Also repairs them after ALTER SCHEMA ... RENAME. The caller must be a member of the role that owns the schema. Returns the schema version.';
