-- Deleted records brought back from the audit log.

CREATE FUNCTION crm._audit_of(rel regclass, OUT kind text, OUT log regclass)
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT a.args[1],
       coalesce((SELECT to_regclass(substr(o, 5)) FROM unnest(a.args[2:]) AS o WHERE o LIKE 'log=%' LIMIT 1),
                to_regclass(format('%I.audit_log', n.nspname)))
FROM pg_trigger AS t
JOIN pg_class AS c ON c.oid = t.tgrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL crm._trigger_arguments(t.tgargs) AS a (args)
-- One that fires for each deleted row.
WHERE t.tgrelid = rel AND t.tgfoid = 'crm.audit()'::regprocedure AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 9 = 9
LIMIT 1
$$;
COMMENT ON FUNCTION crm._audit_of(regclass) IS
'The kind under which rows deleted from a table are logged, and the log; NULL if they are not.';

-- Whether a role may have a row back is decided before it is there, so that no
-- constraint it breaks tells of a row that the role may not know.
CREATE FUNCTION crm._may_undelete(workspace regnamespace, rel regclass, role oid, OUT may text, OUT owner_column name)
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE WHEN NOT (has_table_privilege(role, c.oid, 'INSERT') AND has_table_privilege(role, c.oid, 'DELETE')) THEN 'none'
            WHEN NOT c.relrowsecurity OR r.rolsuper OR r.rolbypassrls
                 OR pg_has_role(role, c.relowner, 'USAGE') AND NOT c.relforcerowsecurity THEN 'all'
            WHEN t.owner_column IS NULL THEN 'none'
            ELSE 'owned' END,
       t.owner_column
FROM pg_class AS c
JOIN pg_roles AS r ON r.oid = role
LEFT JOIN crm._record_tables(workspace) AS t ON t.rel = c.oid
WHERE c.oid = _may_undelete.rel
$$;
COMMENT ON FUNCTION crm._may_undelete(regnamespace, regclass, oid) IS
'Which deleted rows of a table a role may have back: none, all, or, under protect(), those of owners over whose records the session''s member has the owner''s rights (owned).';

CREATE FUNCTION crm._undelete_images(workspace regnamespace, rel regclass, images jsonb[],
    OUT columns text, OUT image jsonb, OUT lost text[], OUT ord bigint)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    writable name[];
    required name[];   -- of these: those that must have a value
    touched boolean;
    cast_ jsonb;       -- column -> its type, of types that have a cast to JSON of their own, which the log used
    reference record;
    survivor record;
    missing text;
    item text;
BEGIN
    SELECT array_agg(a.attname ORDER BY a.attnum), coalesce(array_agg(a.attname) FILTER (WHERE a.attnotnull), '{}')
    INTO writable, required
    FROM pg_attribute AS a
    WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
    SELECT coalesce(jsonb_object_agg(a.attname, t.typname), '{}') INTO cast_
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped AND t.oid >= 16384
      AND EXISTS (SELECT FROM pg_cast AS c WHERE c.castsource = t.oid AND c.casttarget = 'json'::regtype AND c.castmethod = 'f');
    touched := EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = rel AND t.tgfoid = 'crm.touch()'::regprocedure);

    -- What refers to a record that was merged since refers to the one it went into.
    FOR reference IN
        SELECT a.attname AS name,
               CASE WHEN c.relnamespace = workspace THEN c.relname ELSE f.confrelid::regclass::text END AS kind
        FROM pg_constraint AS f
        JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1]
        JOIN pg_class AS c ON c.oid = f.confrelid
        WHERE f.conrelid = rel AND f.contype = 'f' AND f.conparentid = 0 AND cardinality(f.conkey) = 1
    LOOP
        FOR survivor IN EXECUTE format(
            'SELECT m.record_id, %1$s.resolve(m.kind, m.record_id) AS id FROM %1$s.merged_record AS m
             WHERE m.kind = $1 AND m.record_id IN (SELECT i ->> $2 FROM unnest($3) AS i)', workspace)
            USING reference.kind, reference.name, images
        LOOP
            images := ARRAY(SELECT CASE WHEN i ->> reference.name = survivor.record_id
                                        THEN i || jsonb_build_object(reference.name, survivor.id) ELSE i END
                            FROM unnest(images) WITH ORDINALITY AS u (i, n) ORDER BY u.n);
        END LOOP;
    END LOOP;

    FOR image, ord IN SELECT u.i, u.n FROM unnest(images) WITH ORDINALITY AS u (i, n) ORDER BY u.n LOOP
        -- A value that the log does not hold stands there as an object of its own.
        lost := ARRAY(SELECT e.key FROM jsonb_each(image) AS e
                      WHERE jsonb_typeof(e.value) = 'object'
                        AND (coalesce(cast_ ->> e.key <> 'hstore', false) OR e.value = '{"masked": true}' OR e.value ?& '{bytes,sha256}' AND e.value - '{bytes,sha256}'::text[] = '{}')
                      ORDER BY e.key);
        SELECT l INTO missing FROM unnest(lost) AS l WHERE l = ANY (required);
        IF FOUND THEN
            RAISE EXCEPTION 'a row of "%" cannot be brought back', (SELECT c.relname FROM pg_class AS c WHERE c.oid = rel)
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = format('Column "%s" must have a value, and the audit log does not hold it.', missing);
        END IF;
        image := image - lost;
        FOR item IN SELECT e.key FROM jsonb_each_text(cast_) AS e WHERE e.value = 'hstore' AND jsonb_typeof(image -> e.key) = 'object' LOOP
            image := image || jsonb_build_object(item,
                (SELECT coalesce(string_agg('"' || regexp_replace(h.key, '(["\\])', '\\\1', 'g') || '"=>' || coalesce('"' || regexp_replace(h.value, '(["\\])', '\\\1', 'g') || '"', 'NULL'), ','), '')
                 FROM jsonb_each_text(image -> item) AS h));
        END LOOP;
        IF touched THEN
            image := image || jsonb_strip_nulls(jsonb_build_object(
                'updated_at', CASE WHEN 'updated_at' = ANY (writable) THEN now() END,
                'row_version', CASE WHEN 'row_version' = ANY (writable) THEN (image ->> 'row_version')::bigint + 1 END));
        END IF;
        columns := (SELECT string_agg(quote_ident(w), ', ' ORDER BY n) FROM unnest(writable) WITH ORDINALITY AS w (w, n)
                    WHERE image ? w OR NOT w = ANY (required));
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION crm._undelete_images(regnamespace, regclass, jsonb[]) IS
'Rows as the audit log has them, made ready to be inserted: the columns to write, the others having their defaults; the values; the columns whose values the log does not hold. Error: 55000 if one of these must have a value.';

CREATE FUNCTION crm._undelete_references(rels oid[],
    OUT rel regclass, OUT confrelid oid, OUT confdeltype "char", OUT moves boolean,
    OUT parent name[], OUT child name[], OUT cleared name[], OUT cleared_parent name[])
RETURNS SETOF record LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT f.conrelid, f.confrelid, f.confdeltype,
       f.confdeltype <> 'c' AND EXISTS (SELECT FROM pg_partitioned_table AS t WHERE t.partrelid = f.conrelid AND t.partattrs::smallint[] && f.conkey),
       p.names, c.names, s.names, s.parent
FROM pg_constraint AS f
CROSS JOIN LATERAL (SELECT array_agg(a.attname ORDER BY k.n) AS names FROM unnest(f.confkey) WITH ORDINALITY AS k (num, n)
                    JOIN pg_attribute AS a ON a.attrelid = f.confrelid AND a.attnum = k.num) AS p
CROSS JOIN LATERAL (SELECT array_agg(a.attname ORDER BY k.n) AS names FROM unnest(f.conkey) WITH ORDINALITY AS k (num, n)
                    JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.num) AS c
CROSS JOIN LATERAL (SELECT array_agg(b.c ORDER BY b.n) AS names, array_agg(b.p ORDER BY b.n) AS parent
                    FROM unnest(c.names, p.names, f.conkey) WITH ORDINALITY AS b (c, p, num, n)
                    WHERE cardinality(coalesce(f.confdelsetcols, '{}')) = 0 OR b.num = ANY (f.confdelsetcols)) AS s
WHERE f.contype = 'f' AND f.conparentid = 0 AND f.confrelid = ANY (rels)
ORDER BY f.confdeltype <> 'c', f.oid
$$;
COMMENT ON FUNCTION crm._undelete_references(oid[]) IS
'Foreign keys that refer to tables, those that delete first: the table, what it refers to, what a deletion does, whether that may move rows to another partition; the columns on both sides, and those of them that a deletion clears.';

CREATE FUNCTION crm._last_change(workspace regnamespace, target regclass, id text,
    OUT log_id bigint, OUT operation text, OUT old jsonb, OUT changed_at timestamptz, OUT transaction_id bigint, OUT record jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id_column name;
    integer_id boolean;
    audit record;
BEGIN
    SELECT a.attname, a.atttypid IN ('int8'::regtype, 'int4'::regtype, 'int2'::regtype) INTO id_column, integer_id
    FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = target AND i.indisprimary;
    SELECT * INTO audit FROM crm._audit_of(target);
    -- A table that is audited no more may have been.
    IF audit.log IS NULL THEN
        SELECT c.relname::text AS kind, to_regclass(format('%s.audit_log', workspace)) AS log INTO audit FROM pg_class AS c WHERE c.oid = target;
    END IF;
    EXECUTE format('SELECT l.id, l.operation, l.old, l.changed_at, l.transaction_id
                    FROM (SELECT * FROM %s AS l WHERE l.kind = $1 AND %s OFFSET 0) AS l ORDER BY l.id DESC LIMIT 1', audit.log,
                   CASE WHEN integer_id THEN 'l.record_id = $2::bigint' ELSE 'l.record_id IS NULL AND l.record_key ->> $3 = $2' END)
    INTO log_id, operation, old, changed_at, transaction_id USING audit.kind, id, id_column;
    IF log_id IS NULL AND (SELECT a.log FROM crm._audit_of(target) AS a) IS NULL THEN
        RAISE EXCEPTION 'deletions in "%" are not in an audit log', (SELECT c.relname FROM pg_class AS c WHERE c.oid = target)
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('SELECT crm.enable_audit(%L, audit_log => %L) logs them from now on.', target::text, workspace || '.audit_log');
    END IF;
    record := jsonb_build_object(id_column, CASE WHEN integer_id THEN to_jsonb(id::bigint) ELSE to_jsonb(id) END);
END
$$;
COMMENT ON FUNCTION crm._last_change(regnamespace, regclass, text) IS
'The last change of a record that is in the audit log, and its primary key; NULLs: none is. Error: 55000 if there is none and the table has no audit log.';

CREATE FUNCTION crm._undelete_plan(workspace regnamespace, target regclass, id text, role oid,
    OUT rel regclass, OUT operation text, OUT as_owner boolean, OUT record jsonb, OUT columns text, OUT image jsonb, OUT was jsonb, OUT note text)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    audit record;
    deletion record;
    right_ record;
    reference record;
    row_ record;
    ready record;
    level_rels oid[];       -- the rows that came last, as three lists
    level_records jsonb[];
    level_images jsonb[];
    next_rels oid[];
    next_records jsonb[];
    next_images jsonb[];
    seen bigint[];          -- of the log: rows taken
    keys jsonb[];
    hidden boolean;  -- were there rows that the role may not have back?
    keyless boolean; -- were there rows that referred to it and have no key?
    told text[] := '{}';
    written jsonb := '{}';  -- log -> what the transaction did to which kinds
BEGIN
    SELECT * INTO deletion FROM crm._last_change(workspace, target, id);
    SELECT * INTO right_ FROM crm._may_undelete(workspace, target, role);
    IF deletion.operation IS DISTINCT FROM 'DELETE' OR right_.may = 'none'
       OR right_.may = 'owned' AND NOT coalesce(crm.can_delete(workspace, (deletion.old ->> right_.owner_column)::bigint), false) THEN
        RETURN;
    END IF;

    seen := ARRAY[deletion.log_id];
    level_rels := ARRAY[target::oid];
    level_records := ARRAY[deletion.record];
    level_images := ARRAY[deletion.old];
    WHILE cardinality(level_rels) > 0 LOOP
        FOR rel IN SELECT DISTINCT u FROM unnest(level_rels) AS u ORDER BY u LOOP
            operation := 'note'; as_owner := NULL; record := NULL; image := NULL; was := NULL;
            note := 'the column is gone since';
            FOR columns IN
                SELECT DISTINCT k FROM unnest(level_rels, level_images) AS u (r, i), jsonb_object_keys(u.i) AS k
                WHERE u.r = rel AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = rel AND a.attname = k AND a.attnum > 0 AND NOT a.attisdropped)
                  AND NOT format('%s.%s', rel::oid, k) = ANY (told)
                ORDER BY k
            LOOP
                told := told || format('%s.%s', rel::oid, columns);
                RETURN NEXT;
            END LOOP;
            FOR ready IN
                SELECT i.columns, i.image, i.lost, l.record
                FROM (SELECT array_agg(u.i ORDER BY u.n) AS images, array_agg(u.k ORDER BY u.n) AS records
                      FROM unnest(level_rels, level_records, level_images) WITH ORDINALITY AS u (r, k, i, n) WHERE u.r = rel) AS g
                CROSS JOIN LATERAL crm._undelete_images(workspace, rel, g.images) AS i
                CROSS JOIN LATERAL (SELECT g.records[i.ord] AS record) AS l
                ORDER BY i.columns, i.ord
            LOOP
                operation := 'insert'; record := ready.record; columns := ready.columns; image := ready.image; note := NULL;
                RETURN NEXT;
                operation := 'note'; image := NULL; note := 'the audit log does not hold the value';
                FOREACH columns IN ARRAY ready.lost LOOP
                    RETURN NEXT;
                END LOOP;
            END LOOP;
        END LOOP;

        -- What the same transaction took away with these rows.
        next_rels := '{}'; next_records := '{}'; next_images := '{}';
        FOR reference IN
            SELECT * FROM crm._undelete_references(level_rels)
        LOOP
            rel := reference.rel; record := NULL; columns := NULL; image := NULL; was := NULL; as_owner := NULL;
            SELECT * INTO audit FROM crm._audit_of(rel);
            IF audit.log IS NULL THEN
                IF reference.confdeltype IN ('c', 'n', 'd') AND NOT rel::oid::text = ANY (told) THEN
                    told := told || rel::oid::text;
                    operation := 'note';
                    note := 'what went or changed with it is not known: the table has no audit log';
                    RETURN NEXT;
                END IF;
                CONTINUE;
            END IF;
            -- Most foreign keys have nothing to do with it.
            IF NOT written ? audit.log::text THEN
                EXECUTE format('SELECT $3 || jsonb_build_object($4, coalesce(jsonb_agg(DISTINCT l.kind), ''[]''))
                                FROM (SELECT l.kind, l.operation FROM %s AS l WHERE l.changed_at = $1 AND l.transaction_id = $2 OFFSET 0) AS l
                                WHERE l.operation IN (''DELETE'', ''UPDATE'')', audit.log)
                INTO written USING deletion.changed_at, deletion.transaction_id, written, audit.log::text;
            END IF;
            CONTINUE WHEN NOT written -> audit.log::text ? audit.kind;
            -- A row that moves to another partition is in the log as deleted and inserted.
            IF reference.moves THEN
                operation := 'note';
                note := 'what changed with it is not known: such rows move to another partition';
                RETURN NEXT;
                CONTINUE;
            END IF;
            SELECT * INTO right_ FROM crm._may_undelete(workspace, rel, role);

            hidden := false;
            keys := ARRAY(SELECT jsonb_agg(u.i -> p.name ORDER BY p.n)
                          FROM unnest(level_rels, level_images) WITH ORDINALITY AS u (r, i, n),
                               unnest(reference.parent) WITH ORDINALITY AS p (name, n)
                          WHERE u.r = reference.confrelid
                          GROUP BY u.n HAVING bool_and(u.i ? p.name));
            FOR row_ IN EXECUTE format(
                'SELECT DISTINCT ON (l.record_id, l.record_key, CASE WHEN num_nonnulls(l.record_id, l.record_key) = 0 THEN l.id END)
                        l.id, CASE WHEN l.record_id IS NULL THEN l.record_key ELSE jsonb_build_object($5, l.record_id) END AS record, l.old
                 FROM (SELECT * FROM %s AS l WHERE l.changed_at = $1 AND l.transaction_id = $2 OFFSET 0) AS l
                 WHERE l.operation = ''DELETE'' AND l.kind = $3
                   AND jsonb_build_array(%s) IN (SELECT unnest($4)) AND l.id NOT IN (SELECT unnest($6))
                 ORDER BY l.record_id, l.record_key, CASE WHEN num_nonnulls(l.record_id, l.record_key) = 0 THEN l.id END, l.id DESC',
                audit.log, (SELECT string_agg(format('l.old -> %L', c), ', ' ORDER BY n) FROM unnest(reference.child) WITH ORDINALITY AS c (c, n)))
                USING deletion.changed_at, deletion.transaction_id, audit.kind, keys, crm._integer_key(rel), seen
            LOOP
                IF reference.confdeltype = 'c' OR right_.may = 'all'
                   OR right_.may = 'owned' AND crm.can_delete(workspace, (row_.old ->> right_.owner_column)::bigint) THEN
                    seen := seen || row_.id;
                    next_rels := next_rels || rel::oid;
                    next_records := next_records || row_.record;
                    next_images := next_images || row_.old;
                ELSE
                    hidden := true;
                END IF;
            END LOOP;
            IF hidden THEN
                operation := 'note';
                note := 'others were deleted with it, and are not yours to bring back';
                RETURN NEXT;
            END IF;

            keys := ARRAY(SELECT jsonb_agg(u.i -> p.name ORDER BY p.n)
                          FROM unnest(level_rels, level_images) WITH ORDINALITY AS u (r, i, n),
                               unnest(reference.cleared_parent) WITH ORDINALITY AS p (name, n)
                          WHERE u.r = reference.confrelid
                          GROUP BY u.n HAVING bool_and(u.i ? p.name));
            operation := 'update';
            as_owner := reference.confdeltype IN ('n', 'd');
            note := NULL;
            columns := array_to_string(reference.cleared, ', ');
            keyless := false;
            FOR record, image, was IN EXECUTE format(
                'SELECT CASE WHEN l.record_id IS NULL THEN l.record_key ELSE jsonb_build_object($5, l.record_id) END, jsonb_build_object(%1$s), jsonb_build_object(%2$s)
                 FROM (SELECT * FROM %3$s AS l WHERE l.changed_at = $1 AND l.transaction_id = $2 OFFSET 0) AS l
                 WHERE l.operation = ''UPDATE'' AND l.kind = $3
                   AND jsonb_build_array(%4$s) IN (SELECT unnest($4)) AND ($6 OR jsonb_build_array(%5$s) <@ ''[null]'')
                 ORDER BY l.id', (SELECT string_agg(format('%1$L, l.old -> %1$L', c), ', ') FROM unnest(reference.cleared) AS c),
                (SELECT string_agg(format('%1$L, l.new -> %1$L', c), ', ') FROM unnest(reference.cleared) AS c),
                audit.log,
                (SELECT string_agg(format('l.old -> %L', c), ', ' ORDER BY n) FROM unnest(reference.cleared) WITH ORDINALITY AS c (c, n)),
                (SELECT string_agg(format('l.new -> %L', c), ', ') FROM unnest(reference.cleared) AS c))
                USING deletion.changed_at, deletion.transaction_id, audit.kind, keys, crm._integer_key(rel), as_owner
            LOOP
                IF record IS NULL THEN
                    keyless := true;
                ELSE
                    RETURN NEXT;
                END IF;
            END LOOP;
            IF keyless THEN
                operation := 'note'; record := NULL; image := NULL; was := NULL;
                note := 'rows that referred to it cannot be told apart: the table has no primary key';
                RETURN NEXT;
            END IF;
        END LOOP;
        level_rels := next_rels; level_records := next_records; level_images := next_images;
    END LOOP;
END
$$;
COMMENT ON FUNCTION crm._undelete_plan(regnamespace, regclass, text, oid) IS
'What undelete() of a record would do for a role: rows to insert, parents first, with their columns and values; rows to update, with the values to set where they still have those of was, as the owner of the table or as the role; and notes of what cannot come back. No row: no such deletion, or the role may not know of it. Run as the workspace''s owner. Error: 55000 if the table has no audit log.';

CREATE FUNCTION crm._integer_key(rel regclass) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
RETURN coalesce((SELECT a.attname FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                 WHERE i.indrelid = rel AND i.indisprimary), 'id');
COMMENT ON FUNCTION crm._integer_key(regclass) IS
'The column whose value the audit log has as record_id, in a table with a primary key of one integer column; id if it has none any more.';

CREATE FUNCTION crm.undelete(workspace regnamespace, kind text, id text, dry_run boolean DEFAULT false,
    OUT table_name text, OUT record jsonb, OUT restored boolean, OUT field text, OUT note text)
RETURNS SETOF record LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'crm_undelete'
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
SET intervalstyle = postgres
SET extra_float_digits = 3
SET bytea_output = hex;
COMMENT ON FUNCTION crm.undelete(regnamespace, text, text, boolean) IS
'Brings back a deleted record of a kind (a table of the workspace or of protect(), or the qualified name of any audited table with a primary key of one column) from the audit log, with what the same transaction deleted or unlinked because it referred to it. id is the text of the primary key. One row for each record that is back and each link set again, and with restored false for what is not. With dry_run nothing changes. The caller needs INSERT and DELETE on the table, the owner''s rights over the record where the table has protect(), and must see and be allowed to change what came back. Errors: P0002 for a deletion that is not in the log or not for the caller, 55000 for a record that is there or was merged and for a table without audit log, 23505, 23P01 and 23503 where another record stands in the way, RMD01 by a duplicate rule on undelete, 42P01 and 0A000 for kinds that cannot be.';
