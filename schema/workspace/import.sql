-- @repeatable

CREATE OR REPLACE FUNCTION @workspace@.import_records(kind text, source regclass, system text DEFAULT NULL, dry_run boolean DEFAULT false,
    OUT line bigint, OUT id bigint, OUT outcome text, OUT field text, OUT code text, OUT message text, OUT detail text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET crm.import = on
AS $$
#variable_conflict use_variable
DECLARE
    rel regclass;
    id_column name;
    owner_column name;
    missing text;
    ambiguous bigint;
    insertion text;
    known_as text;
    constraint_name text;
    col record;
BEGIN
    IF kind IS NULL OR source IS NULL OR dry_run IS NULL THEN
        RAISE EXCEPTION 'kind and source must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF dry_run THEN
        BEGIN
            RETURN QUERY SELECT r.* FROM @workspace@.import_records(kind, source, system, false) AS r;
            RAISE EXCEPTION USING ERRCODE = 'RMI00', MESSAGE = 'dry run';
        EXCEPTION WHEN SQLSTATE 'RMI00' THEN
            RETURN;
        END;
    END IF;

    SELECT r.rel, r.id_column, r.owner_column INTO rel, id_column, owner_column FROM crm._record_table(@workspace_literal@::regnamespace, kind) AS r;
    missing := CASE WHEN NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = source AND a.attname = 'line' AND NOT a.attisdropped) THEN 'line'
                    WHEN system IS NOT NULL
                         AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = source AND a.attname = 'external_id' AND NOT a.attisdropped) THEN 'external_id' END;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION '% has no column "%"', source, missing
            USING ERRCODE = 'undefined_column',
                  HINT = CASE missing WHEN 'line' THEN 'Number the rows: line bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY.'
                                      ELSE 'It is the identifier of the record in the other system.' END;
    END IF;
    EXECUTE format('SELECT min(l.line) FROM (SELECT s.line FROM %s AS s GROUP BY s.line HAVING count(*) > 1) AS l', source) INTO ambiguous;
    IF ambiguous IS NOT NULL THEN
        RAISE EXCEPTION 'line % of % is there more than once', ambiguous, source USING ERRCODE = 'cardinality_violation';
    END IF;
    SELECT format('INSERT INTO %s (%s) SELECT %s FROM %s AS s WHERE s.line = $1 RETURNING %I', rel,
                  string_agg(quote_ident(c.name), ', '), string_agg(c.value, ', '), source, id_column)
    INTO insertion
    FROM crm._import_columns(rel, source) AS c;

    FOR line IN EXECUTE format('SELECT s.line FROM %s AS s WHERE s.line IS NOT NULL ORDER BY s.line', source) LOOP
        id := NULL;
        field := NULL;
        code := NULL;
        message := NULL;
        detail := NULL;
        BEGIN
            IF system IS NOT NULL THEN
                EXECUTE format('SELECT nullif(btrim(s.external_id::text), '''') FROM %s AS s WHERE s.line = $1', source) INTO known_as USING line;
                IF known_as IS NULL THEN
                    RAISE EXCEPTION 'external_id is blank' USING ERRCODE = 'not_null_violation', COLUMN = 'external_id';
                END IF;
                SELECT x.record_id INTO id FROM @workspace@.external_reference AS x
                WHERE x.system = import_records.system AND x.kind = import_records.kind AND x.external_id = known_as;
            END IF;
            outcome := 'known';
            IF id IS NULL THEN
                EXECUTE insertion INTO id USING line;
                IF system IS NOT NULL THEN
                    INSERT INTO @workspace@.external_reference (system, kind, external_id, record_id)
                    VALUES (import_records.system, import_records.kind, known_as, import_records.id);
                END IF;
                outcome := 'stored';
            END IF;
        EXCEPTION
            -- Not the fault of the line.
            WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error OR internal_error THEN
                RAISE;
            WHEN OTHERS THEN
                id := NULL;
                outcome := 'failed';
                GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
                                        field = COLUMN_NAME, constraint_name = CONSTRAINT_NAME;
                field := coalesce(nullif(field, ''), (SELECT a.attname FROM pg_constraint AS k
                                                      JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
                                                      WHERE k.conrelid = rel AND k.conname = constraint_name AND cardinality(k.conkey) = 1));
                detail := nullif(detail, '');
                -- Row-level security says no more than that it refuses.
                IF code = '42501' AND has_table_privilege(rel, 'INSERT') AND crm.member_id(@workspace_literal@::regnamespace) IS NOT NULL
                   AND EXISTS (SELECT FROM crm._import_columns(rel, source) AS c WHERE c.name = owner_column) THEN
                    field := owner_column;
                    detail := 'Records may be given to those whose records one may edit.';
                END IF;
        END;
        -- Which values cannot be read, all of them.
        IF field IS NULL AND code LIKE '22%' THEN
            FOR col IN SELECT c.name, c.value FROM crm._import_columns(rel, source) AS c LOOP
                BEGIN
                    EXECUTE format('SELECT %s FROM %s AS s WHERE s.line = $1', col.value, source) USING line;
                EXCEPTION WHEN data_exception THEN
                    IF field IS NULL THEN
                        field := col.name;
                        message := SQLERRM;
                    ELSE
                        detail := concat_ws(E'\n', detail, format('%s: %s', col.name, SQLERRM));
                    END IF;
                END;
            END LOOP;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION @workspace@.import_records(text, regclass, text, boolean) IS
'Stores the rows of a table or view as records of a kind, in the order of its column line, which numbers them, with the caller''s rights and under all rules; its other columns have the names of the kind''s. Blanks are left to the default. Each line is stored whole or not at all and has a row in the result: outcome stored, failed (field, code, the SQLSTATE, message and detail say why) or known. With system, external_id is the record''s identifier there; a line whose record came in before is known, so that an import can be run again. dry_run: nothing is stored. Errors: 22023 for an unknown kind, 42703 for a column that is missing or unknown, 21000 if a line is there twice, 22004.';
