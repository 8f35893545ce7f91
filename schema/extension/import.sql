-- Records from a file: each line is stored or says why not, and those that were
-- stored are known again.

CREATE FUNCTION crm._import_columns(rel regclass, source regclass, OUT name name, OUT value text)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unknown text;
BEGIN
    SELECT s.attname INTO unknown
    FROM pg_attribute AS s
    LEFT JOIN pg_attribute AS a ON a.attrelid = rel AND a.attname = s.attname AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity = ''
    WHERE s.attrelid = source AND s.attnum > 0 AND NOT s.attisdropped AND s.attname NOT IN ('line', 'external_id') AND a.attname IS NULL
    ORDER BY s.attnum LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of % is none that can be written in %', unknown, source, rel
            USING ERRCODE = 'undefined_column',
                  HINT = 'Import from a view whose columns have the names of the table''s; the identifier that a record had elsewhere is external_id.';
    END IF;
    RETURN QUERY
    SELECT a.attname,
           format(CASE WHEN d.adbin IS NULL THEN '%s' ELSE 'coalesce(%s, %s)' END,
                  -- Values of other types come as text; a blank is none.
                  CASE WHEN s.atttypid = a.atttypid AND s.atttypid <> 'text'::regtype THEN format('s.%I', s.attname)
                       ELSE format('nullif(btrim(s.%I::text), '''')::%s', s.attname, format_type(a.atttypid, NULL)) END,
                  pg_get_expr(d.adbin, d.adrelid))
    FROM pg_attribute AS s
    JOIN pg_attribute AS a ON a.attrelid = rel AND a.attname = s.attname AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE s.attrelid = source AND s.attnum > 0 AND NOT s.attisdropped AND s.attname NOT IN ('line', 'external_id')
    ORDER BY s.attnum;
END
$$;
COMMENT ON FUNCTION crm._import_columns(regclass, regclass) IS
'The columns of a table that a source of an import fills, with the expression over its row "s" for each. Errors: 42703 if the source has a column that the table has not.';

CREATE FUNCTION crm._import_records(workspace regnamespace, kind text, source regclass, system text, dry_run boolean,
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
    external_id text;
    constraint_name text;
    col record;
BEGIN
    IF kind IS NULL OR source IS NULL OR dry_run IS NULL THEN
        RAISE EXCEPTION 'kind and source must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF dry_run THEN
        BEGIN
            RETURN QUERY SELECT r.* FROM crm._import_records(workspace, kind, source, system, false) AS r;
            RAISE EXCEPTION USING ERRCODE = 'RMI00', MESSAGE = 'dry run';
        EXCEPTION WHEN SQLSTATE 'RMI00' THEN
            RETURN;
        END;
    END IF;

    SELECT r.rel, r.id_column, r.owner_column INTO rel, id_column, owner_column FROM crm._record_table(workspace, kind) AS r;
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
                EXECUTE format('SELECT nullif(btrim(s.external_id::text), '''') FROM %s AS s WHERE s.line = $1', source) INTO external_id USING line;
                IF external_id IS NULL THEN
                    RAISE EXCEPTION 'external_id is blank' USING ERRCODE = 'not_null_violation', COLUMN = 'external_id';
                END IF;
                EXECUTE format('SELECT x.record_id FROM %s.external_reference AS x WHERE x.system = $1 AND x.kind = $2 AND x.external_id = $3', workspace)
                INTO id USING system, kind, external_id;
            END IF;
            outcome := 'known';
            IF id IS NULL THEN
                EXECUTE insertion INTO id USING line;
                IF system IS NOT NULL THEN
                    EXECUTE format('INSERT INTO %s.external_reference (system, kind, external_id, record_id) VALUES ($1, $2, $3, $4)', workspace)
                    USING system, kind, external_id, id;
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
                IF code = '42501' AND has_table_privilege(rel, 'INSERT') AND crm.member_id(workspace) IS NOT NULL
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
COMMENT ON FUNCTION crm._import_records(regnamespace, text, regclass, text, boolean) IS
'What import_records() of a workspace does.';
