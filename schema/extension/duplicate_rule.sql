-- What happens when a row is written that means the same as another.

CREATE FUNCTION crm.check_duplicates() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_check_duplicates';

COMMENT ON FUNCTION crm.check_duplicates() IS
'Trigger after each INSERT or UPDATE statement, with transition tables, that holds the statement''s rows to the duplicate rules of their kind. Arguments: the kind, and the workspace with the rules if that is not the table''s schema. crm.guard_duplicates() creates it. Errors: RMD01 if a rule blocks rows, of which the first 20 are told; the warning of a rule is RMD02. The last line of DETAIL of both is a JSON array with an object for each row: row (its number in the statement), record (its id), rule, action, override (allowed?), and matches (id and score of up to five records that the person can see) and more, or hidden with team, claim_state and next_step.';

CREATE FUNCTION crm.duplicate_rule_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_duplicate_rule_changed';

COMMENT ON FUNCTION crm.duplicate_rule_changed() IS
'Trigger after changes of table duplicate_rule: every session reads the rules again.';

CREATE FUNCTION crm._duplicate_rule_rebuilds() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_duplicate_rule_rebuilds';

COMMENT ON FUNCTION crm._duplicate_rule_rebuilds() IS
'How often this session has read the duplicate rules of a table.';

CREATE FUNCTION crm._check_duplicate_table(relation regclass) RETURNS void
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_check_duplicate_table';

COMMENT ON FUNCTION crm._check_duplicate_table(regclass) IS
'Errors unless the relation is a table with a matching index and a primary key of one integer column.';

CREATE FUNCTION crm._check_duplicate_condition(relation regclass, workspace regnamespace, condition text) RETURNS void
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_check_duplicate_condition';

COMMENT ON FUNCTION crm._check_duplicate_condition(regclass, regnamespace, text) IS
'Errors unless the condition of a duplicate rule can be parsed for the table.';

CREATE FUNCTION crm._duplicate_tables(workspace regnamespace, OUT kind text, OUT rel regclass)
RETURNS SETOF record LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT DISTINCT a.args[1], t.tgrelid::regclass
FROM pg_trigger AS t
JOIN pg_class AS c ON c.oid = t.tgrelid
CROSS JOIN LATERAL crm._trigger_arguments(t.tgargs) AS a (args)
WHERE t.tgfoid = 'crm.check_duplicates()'::regprocedure
  AND coalesce((SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = a.args[2]), c.relnamespace) = workspace
$$;

COMMENT ON FUNCTION crm._duplicate_tables(regnamespace) IS
'The kinds of records that duplicate rules of a workspace can be about, and their tables.';

CREATE FUNCTION crm.guard_duplicates(relation regclass, kind text DEFAULT NULL, workspace regnamespace DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
    own_schema regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = relation);
    arguments text;
BEGIN
    IF relation IS NULL THEN
        RAISE EXCEPTION 'relation must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    kind := coalesce(kind, (SELECT c.relname FROM pg_class AS c WHERE c.oid = relation));
    workspace := coalesce(workspace, own_schema);
    IF NOT crm.is_workspace(workspace) THEN
        RAISE EXCEPTION 'schema "%" is not a crm workspace', workspace
            USING ERRCODE = 'invalid_schema_name',
                  HINT = 'Name the workspace that holds the rules: crm.guard_duplicates(..., workspace => ''sales'').';
    END IF;
    PERFORM crm._check_duplicate_table(relation);
    arguments := quote_literal(kind);
    IF workspace <> own_schema THEN
        arguments := arguments || format(', %L', (SELECT n.nspname FROM pg_namespace AS n WHERE n.oid = workspace));
    END IF;
    EXECUTE format('CREATE OR REPLACE TRIGGER zz_check_duplicates_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows
                        FOR EACH STATEMENT EXECUTE FUNCTION crm.check_duplicates(%s)', relation, arguments);
    EXECUTE format('CREATE OR REPLACE TRIGGER zz_check_duplicates_update AFTER UPDATE ON %s REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
                        FOR EACH STATEMENT EXECUTE FUNCTION crm.check_duplicates(%s)', relation, arguments);
END
$$;

COMMENT ON FUNCTION crm.guard_duplicates(regclass, text, regnamespace) IS
'Holds a table to the duplicate rules a workspace has for a kind of record (NULL: the table''s name), whatever client writes to it. The table may be in any schema (workspace NULL: its own); it needs an index on crm.match_keys(...) and a primary key of one integer column, and the caller the right to create triggers on it.';

CREATE FUNCTION crm.duplicate_rule_config() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    workspace regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = TG_RELID);
    rel regclass;
    field text;
    guarded boolean := false;
BEGIN
    FOR rel IN SELECT t.rel FROM crm._duplicate_tables(workspace) AS t WHERE t.kind = NEW.kind LOOP
        guarded := true;
        IF NEW.condition IS NOT NULL THEN
            PERFORM crm._check_duplicate_condition(rel, workspace, NEW.condition);
        END IF;
        FOREACH field IN ARRAY coalesce(NEW.update_fields, '{}') LOOP
            IF NOT EXISTS (SELECT FROM pg_attribute AS a
                           WHERE a.attrelid = rel AND a.attname = field AND a.attnum > 0 AND NOT a.attisdropped) THEN
                RAISE EXCEPTION 'column "%" of relation % does not exist', field, rel USING ERRCODE = 'undefined_column';
            END IF;
        END LOOP;
    END LOOP;
    IF NOT guarded AND NEW.active THEN
        RAISE EXCEPTION 'records of kind "%" cannot have duplicate rules', NEW.kind
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('Kinds are %s.', (SELECT string_agg(DISTINCT t.kind, ', ' ORDER BY t.kind) FROM crm._duplicate_tables(workspace) AS t)),
                  HINT = 'SELECT crm.guard_duplicates(table) holds another table to rules.';
    END IF;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION crm.duplicate_rule_config() IS
'Trigger of table duplicate_rule: refuses a kind that no guarded table has, and a condition or field that its table cannot have.';

CREATE FUNCTION crm._duplicate_owner(workspace regnamespace, kind text, relation regclass, id bigint,
                                     OUT team text, OUT claim_state text, OUT next_step text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner_column name;
    id_column name;
    owner record;
BEGIN
    claim_state := 'unknown';
    next_step := 'Ask an administrator of the workspace.';
    SELECT t.owner_column, t.id_column INTO owner_column, id_column
    FROM crm._record_tables(workspace) AS t WHERE t.rel = relation;
    IF owner_column IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT r.%I AS id, m.active, b.name AS manager,
                           (SELECT string_agg(t.name, '', '' ORDER BY t.name) FROM %2$s.team_member AS tm JOIN %2$s.team AS t ON t.id = tm.team_id
                            WHERE tm.member_id = m.id) AS team
                    FROM %3$s AS r
                    LEFT JOIN %2$s.member AS m ON m.id = r.%1$I
                    LEFT JOIN %2$s.member AS b ON b.id = m.manager_id AND b.active
                    WHERE r.%4$I = $1', owner_column, workspace, relation, id_column)
        INTO owner USING id;
    team := owner.team;
    IF owner.id IS NULL THEN
        claim_state := 'unowned';
        next_step := 'Nobody owns it: ask an administrator of the workspace to give it to you.';
    ELSIF NOT owner.active THEN
        claim_state := 'owned by a member who has left';
        next_step := CASE WHEN owner.manager IS NULL THEN next_step
                          ELSE format('Ask %s, who managed its owner, to transfer it.', owner.manager) END;
    ELSE
        claim_state := 'owned';
        next_step := CASE WHEN owner.manager IS NULL THEN next_step
                          ELSE format('Ask %s, who manages its owner, for access.', owner.manager) END;
    END IF;
END
$$;

COMMENT ON FUNCTION crm._duplicate_owner(regnamespace, text, regclass, bigint) IS
'What may be told of a record to a person who cannot see it: the teams of its owner, whether it is owned, and where to turn.';

CREATE FUNCTION crm._check_duplicate(workspace regnamespace, kind text, record jsonb, relation regclass,
    OUT visible boolean, OUT id bigint, OUT score real, OUT team text, OUT claim_state text, OUT next_step text)
RETURNS SETOF record LANGUAGE C VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'crm_check_duplicate';

COMMENT ON FUNCTION crm._check_duplicate(regnamespace, text, jsonb, regclass) IS
'Implements crm.check_duplicate().';

CREATE FUNCTION crm.check_duplicate(workspace regnamespace, kind text, record jsonb,
    OUT visible boolean, OUT id bigint, OUT score real, OUT team text, OUT claim_state text, OUT next_step text)
RETURNS SETOF record LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT c.* FROM crm._check_duplicate(workspace, kind, record, crm._match_table(workspace, kind)) AS c $$;

COMMENT ON FUNCTION crm.check_duplicate(regnamespace, text, jsonb) IS
'Would a record be a duplicate? One row for each record that means the same with at least the lowest threshold of the kind''s active rules (0.9 without), whether the caller can see it or not. Of a record that is hidden from the caller only the owner''s teams, the claim state and the next step are told. Every call is written to duplicate_log and counts against setting duplicate_checks_per_minute of the workspace (NULL: no limit). The caller must be allowed to insert such records. Errors: 42501 otherwise, 42703 for a field that is no column, 53400 beyond the limit.';

CREATE FUNCTION crm._claim_duplicate(workspace regnamespace, kind text, record jsonb, relation regclass, threshold real, OUT id bigint, OUT score real)
RETURNS record LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'crm_claim_duplicate';

COMMENT ON FUNCTION crm._claim_duplicate(regnamespace, text, jsonb, regclass, real) IS
'For crm.find_or_create(): locks the record''s keys to the end of the transaction, as writing it does, and returns the record that means the same, if the caller can see one.';

CREATE FUNCTION crm.find_or_create(workspace regnamespace, kind text, record jsonb, threshold real DEFAULT NULL, OUT id bigint, OUT created boolean, OUT score real)
RETURNS record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rel regclass := crm._match_table(workspace, kind);
    fields text;
    key name;
BEGIN
    IF workspace IS NULL OR kind IS NULL OR record IS NULL THEN
        RAISE EXCEPTION 'workspace, kind and record must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT c.id, c.score INTO id, score FROM crm._claim_duplicate(workspace, kind, record, rel, threshold) AS c;
    created := id IS NULL;
    IF created THEN
        SELECT string_agg(quote_ident(f.name), ', ') INTO fields FROM jsonb_object_keys(record) AS f (name);
        SELECT a.attname INTO key FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = rel AND i.indisprimary;
        EXECUTE CASE WHEN fields IS NULL THEN format('INSERT INTO %s DEFAULT VALUES RETURNING %I', rel, key)
                     ELSE format('INSERT INTO %1$s (%2$s) SELECT %2$s FROM jsonb_populate_record(NULL::%1$s, $1) AS r RETURNING %3$I', rel, fields, key) END
            INTO id USING record;
    END IF;
END
$$;

COMMENT ON FUNCTION crm.find_or_create(regnamespace, text, jsonb, real) IS
'The record that means the same, or a new one: the best match that the caller can see with at least the given probability (NULL: the lowest threshold of the blocking rules of the kind, 0.9 without), else what INSERT of the record''s fields makes. Nobody else can store the same meanwhile. Returns the id, whether it is new, and the probability (NULL if new). A twin that is hidden from the caller is left to the rules: RMD01 if one blocks. Errors: 42703 if a field is no column; those of INSERT.';
