CREATE FUNCTION crm.stage_guard() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_stage_guard';

COMMENT ON FUNCTION crm.stage_guard() IS
'Row trigger that holds a table to its pipeline''s rules; crm.guard_stages() attaches it. BEFORE INSERT OR UPDATE it fills in pipeline, stage and closing time and refuses moves the rules do not allow (SQLSTATE RMS01; unknown stages and pipelines RMS02), AFTER INSERT it refuses starts. Arguments: kind, then option=value with options stage, pipeline, id, closed_at (column names; empty: none) and workspace.';

CREATE FUNCTION crm.stage_history() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_stage_history';

COMMENT ON FUNCTION crm.stage_history() IS
'AFTER INSERT OR UPDATE row trigger that writes a move to the workspace''s stage_history, as the owner of the workspace. Same arguments as crm.stage_guard().';

CREATE FUNCTION crm.stage_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_stage_changed';

COMMENT ON FUNCTION crm.stage_changed() IS
'Trigger of the tables that hold stage rules: makes every session compile the rules anew, and carries the renaming of a stage into stage_history.';

CREATE FUNCTION crm._check_stage_expression(relation regclass, workspace regnamespace, expression text) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_check_stage_expression';

COMMENT ON FUNCTION crm._check_stage_expression(regclass, regnamespace, text) IS
'Errors unless the text is a boolean expression over old and new rows of the relation that a stage rule can have. Without a relation only the syntax is checked.';

CREATE FUNCTION crm._check_stage_field(relation regclass, field text) RETURNS void
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'crm_check_stage_field';

COMMENT ON FUNCTION crm._check_stage_field(regclass, text) IS
'Errors unless the relation has a column that a stage can require.';

CREATE FUNCTION crm.guarded_tables(workspace regnamespace, OUT relation regclass, OUT kind text)
RETURNS SETOF record LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_guarded_tables';

COMMENT ON FUNCTION crm.guarded_tables(regnamespace) IS
'The tables whose stages a workspace''s rules guard, and the kind of their records.';

CREATE FUNCTION crm.next_stages(workspace regnamespace, kind text, id bigint, OUT stage text, OUT allowed boolean, OUT missing jsonb)
RETURNS SETOF record LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_next_stages';

COMMENT ON FUNCTION crm.next_stages(regnamespace, text, bigint) IS
'The moves a record has from where it stands within its pipeline, in order of position: stage, whether it is allowed now, and what is missing. Evaluated by the code of the guard, as the caller and on what the caller can see: no row for an invisible record.';

CREATE FUNCTION crm._check_stage_rules(workspace regnamespace, kind text, pipeline text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rule record;
    guarded regclass;
    reason text;
    state text;
BEGIN
    FOR guarded IN SELECT g.relation FROM crm.guarded_tables(workspace) AS g WHERE g.kind = _check_stage_rules.kind LOOP
        FOR rule IN EXECUTE format(
            'SELECT format(''guard of the move from "%%s" to "%%s"'', t.from_stage, t.to_stage) AS name, t.guard AS expression, NULL AS field
             FROM %1$s.stage_transition AS t JOIN %1$s.pipeline AS p ON p.name = t.pipeline
             WHERE ($2 IS NULL AND p.kind = $1 OR p.name = $2) AND t.guard IS NOT NULL
             UNION ALL
             SELECT format(''rule "%%s" of stage "%%s"'', r.name, r.stage), r.expression, NULL
             FROM %1$s.stage_rule AS r JOIN %1$s.pipeline AS p ON p.name = r.pipeline
             WHERE ($2 IS NULL AND p.kind = $1 OR p.name = $2)
             UNION ALL
             SELECT format(''required field "%%s" of stage "%%s"'', f, s.name), NULL, f
             FROM %1$s.stage AS s JOIN %1$s.pipeline AS p ON p.name = s.pipeline, unnest(s.required_fields) AS f
             WHERE ($2 IS NULL AND p.kind = $1 OR p.name = $2)', workspace)
            USING kind, pipeline
        LOOP
            BEGIN
                IF rule.expression IS NOT NULL THEN
                    PERFORM crm._check_stage_expression(guarded, workspace, rule.expression);
                ELSE
                    PERFORM crm._check_stage_field(guarded, rule.field);
                END IF;
            EXCEPTION WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS reason = MESSAGE_TEXT, state = RETURNED_SQLSTATE;
                RAISE EXCEPTION '% is not valid for table %', rule.name, guarded
                    USING ERRCODE = state, DETAIL = reason;
            END;
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._check_stage_rules(regnamespace, text, text) IS
'Errors unless every stage rule of a kind (or of one of its pipelines) can be compiled for every table it guards.';

CREATE FUNCTION crm.stage_config() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    workspace regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = TG_RELID);
    what text;
    expression text;
    fields text[];
    record_kind text;
    to_kind text;
    guarded regclass;
    reason text;
    state text;
BEGIN
    CASE TG_ARGV[0]
    WHEN 'pipeline' THEN
        IF NEW.kind <> OLD.kind THEN
            EXECUTE format('SELECT crm._check_stage_rules($1, $2, p.name) FROM %s.pipeline AS p WHERE p.id = $3', workspace)
            USING workspace, NEW.kind, NEW.id;
        END IF;
        RETURN NEW;
    WHEN 'stage' THEN
        IF TG_OP = 'UPDATE' AND NEW.required_fields = OLD.required_fields AND NEW.pipeline = OLD.pipeline THEN
            RETURN NEW;
        END IF;
        fields := NEW.required_fields;
        what := format('required_fields of stage "%s"', NEW.name);
    WHEN 'transition' THEN
        NEW.to_pipeline := coalesce(NEW.to_pipeline, NEW.pipeline);
        IF TG_OP = 'UPDATE' AND NEW.guard IS NOT DISTINCT FROM OLD.guard
           AND NEW.pipeline = OLD.pipeline AND NEW.to_pipeline = OLD.to_pipeline THEN
            RETURN NEW;
        END IF;
        expression := NEW.guard;
        what := format('guard of the move from "%s" to "%s"', NEW.from_stage, NEW.to_stage);
    WHEN 'rule' THEN
        IF TG_OP = 'UPDATE' AND NEW.expression = OLD.expression AND NEW.pipeline = OLD.pipeline THEN
            RETURN NEW;
        END IF;
        expression := NEW.expression;
        what := format('rule "%s" of stage "%s"', NEW.name, NEW.stage);
    END CASE;

    -- A pipeline that does not exist is for the foreign key to refuse.
    EXECUTE format('SELECT p.kind FROM %s.pipeline AS p WHERE p.name = $1', workspace) INTO record_kind USING NEW.pipeline;
    IF TG_ARGV[0] = 'transition' THEN
        EXECUTE format('SELECT p.kind FROM %s.pipeline AS p WHERE p.name = $1', workspace) INTO to_kind USING NEW.to_pipeline;
        IF to_kind <> record_kind THEN
            RAISE EXCEPTION 'records of kind "%" cannot move to a pipeline for "%"', record_kind, to_kind
                USING ERRCODE = 'check_violation',
                      DETAIL = format('Pipeline "%s" is for "%s", pipeline "%s" for "%s".', NEW.pipeline, record_kind, NEW.to_pipeline, to_kind);
        END IF;
    END IF;

    BEGIN
        IF expression IS NOT NULL THEN
            PERFORM crm._check_stage_expression(NULL, workspace, expression);
        END IF;
        FOR guarded IN SELECT g.relation FROM crm.guarded_tables(workspace) AS g WHERE g.kind = record_kind LOOP
            IF expression IS NOT NULL THEN
                PERFORM crm._check_stage_expression(guarded, workspace, expression);
            END IF;
            PERFORM crm._check_stage_field(guarded, f) FROM unnest(fields) AS f;
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS reason = MESSAGE_TEXT, state = RETURNED_SQLSTATE;
        IF guarded IS NULL THEN
            RAISE EXCEPTION '% is not valid', what USING ERRCODE = state, DETAIL = reason;
        END IF;
        RAISE EXCEPTION '% is not valid for table %', what, guarded USING ERRCODE = state, DETAIL = reason;
    END;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION crm.stage_config() IS
'Trigger of the tables that hold stage rules: refuses an expression or required field that a table guarded by the rule cannot have. Argument: pipeline, stage, transition or rule.';

CREATE FUNCTION crm.guard_stages(
    relation regclass,
    kind text,
    stage_column name DEFAULT 'stage',
    pipeline_column name DEFAULT NULL,
    id_column name DEFAULT 'id',
    closed_at_column name DEFAULT NULL,
    history boolean DEFAULT true,
    workspace regnamespace DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
    own_schema regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = relation);
    options text := '';
    moves text;
    col name;
BEGIN
    IF relation IS NULL OR kind IS NULL OR stage_column IS NULL THEN
        RAISE EXCEPTION 'relation, kind and stage column must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    workspace := coalesce(workspace, own_schema);
    IF NOT crm.is_workspace(workspace) THEN
        RAISE EXCEPTION 'schema "%" is not a crm workspace', workspace
            USING ERRCODE = 'invalid_schema_name',
                  HINT = 'Name the workspace that holds the rules: crm.guard_stages(..., workspace => ''sales'').';
    END IF;

    pipeline_column := coalesce(pipeline_column, CASE WHEN EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = relation AND a.attname = 'pipeline' AND NOT a.attisdropped) THEN 'pipeline' ELSE '' END);
    closed_at_column := coalesce(closed_at_column, CASE WHEN EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = relation AND a.attname = 'closed_at' AND NOT a.attisdropped) THEN 'closed_at' ELSE '' END);
    FOREACH col IN ARRAY ARRAY[stage_column, pipeline_column, id_column, closed_at_column] LOOP
        IF col <> '' AND NOT EXISTS (SELECT FROM pg_attribute AS a
                                     WHERE a.attrelid = relation AND a.attname = col AND a.attnum > 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION 'column "%" of relation % does not exist', col, relation USING ERRCODE = 'undefined_column';
        END IF;
    END LOOP;

    options := format(', %L, %L, %L, %L', 'stage=' || stage_column, 'pipeline=' || pipeline_column,
                      'id=' || coalesce(id_column, ''), 'closed_at=' || closed_at_column);
    IF workspace <> own_schema THEN
        options := options || format(', %L', 'workspace=' || (SELECT n.nspname FROM pg_namespace AS n WHERE n.oid = workspace));
    END IF;
    moves := format('OLD.%1$I IS DISTINCT FROM NEW.%1$I', stage_column);
    IF pipeline_column <> '' THEN
        moves := moves || format(' OR OLD.%1$I IS DISTINCT FROM NEW.%1$I', pipeline_column);
    END IF;

    -- Triggers fire by name: the guard must see what the others have made of the row.
    EXECUTE format('CREATE OR REPLACE TRIGGER zz_stage_guard BEFORE INSERT OR UPDATE ON %s
                        FOR EACH ROW EXECUTE FUNCTION crm.stage_guard(%L%s)', relation, kind, options);
    EXECUTE format('CREATE OR REPLACE TRIGGER zz_stage_guard_insert AFTER INSERT ON %s
                        FOR EACH ROW EXECUTE FUNCTION crm.stage_guard(%L%s)', relation, kind, options);
    IF history THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER zz_stage_history_insert AFTER INSERT ON %s
                            FOR EACH ROW EXECUTE FUNCTION crm.stage_history(%L%s)', relation, kind, options);
        EXECUTE format('CREATE OR REPLACE TRIGGER zz_stage_history_update AFTER UPDATE ON %s
                            FOR EACH ROW WHEN (%s) EXECUTE FUNCTION crm.stage_history(%L%s)', relation, moves, kind, options);
    ELSE
        EXECUTE format('DROP TRIGGER IF EXISTS zz_stage_history_insert ON %1$s;
                        DROP TRIGGER IF EXISTS zz_stage_history_update ON %1$s', relation);
    END IF;
    PERFORM crm._check_stage_rules(workspace, kind);
END
$$;

COMMENT ON FUNCTION crm.guard_stages(regclass, text, name, name, name, name, boolean, regnamespace) IS
'Holds a table to the stage rules a workspace has for a kind of record, whatever client writes to it; run again to change the columns. The table may be anyone''s, in any schema; the caller needs to be able to create triggers on it. Columns: stage, pipeline (NULL: "pipeline" if there is one, else the kind''s default pipeline), id (an integer if history is kept), closed_at (NULL: "closed_at" if there is one). workspace: NULL means the table''s schema.';
