CREATE FUNCTION crm.merge_records(workspace regnamespace, kind text, survivor text, losers text[], dry_run boolean DEFAULT false, run_id bigint DEFAULT NULL)
RETURNS bigint LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'crm_merge_records'
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
SET intervalstyle = postgres
SET extra_float_digits = 3
SET bytea_output = hex;

COMMENT ON FUNCTION crm.merge_records(regnamespace, text, text, text[], boolean, bigint) IS
'Merges records of a kind (a table of the workspace, or the qualified name of any table with a primary key of one column) into the survivor: fields by the workspace''s merge_rule, every foreign key and registered link re-pointed, conflicting rows folded together, losers kept as tombstones. Ids are the text of the primary key. Returns the number of the merge in the workspace''s merge_log; null with dry_run. run_id says of which run of many merges it is part: the number of the run''s first merge, 0 for that one itself. The caller needs SELECT, UPDATE and DELETE on the table and must see and be allowed to change every record under row-level security. Errors: P0002 for a record that is not there or not to be changed, 55000 for one that was merged before, RMM01 if somebody else has to agree, 22023 for a record named twice or merged with itself, 42P01, 42809 and 0A000 for kinds that cannot be merged, 27000 if a trigger suppressed or reverted a change.';

CREATE FUNCTION crm.merge_preview(workspace regnamespace, kind text, survivor text, losers text[],
    OUT table_name text, OUT column_name text, OUT rows bigint, OUT conflicts bigint, OUT totals jsonb, OUT note text)
RETURNS SETOF record LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'crm_merge_preview'
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
SET intervalstyle = postgres
SET extra_float_digits = 3
SET bytea_output = hex;

COMMENT ON FUNCTION crm.merge_preview(regnamespace, text, text, text[]) IS
'What crm.merge_records() would do. Runs the merge and takes it back, so that triggers and constraints have their say; the records stay locked only meanwhile.';

CREATE FUNCTION crm._preview_record(workspace regnamespace, kind text, survivor text, losers text[]) RETURNS jsonb
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'crm_preview_record'
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
SET intervalstyle = postgres
SET extra_float_digits = 3
SET bytea_output = hex;

COMMENT ON FUNCTION crm._preview_record(regnamespace, text, text, text[]) IS
'Runs a merge and takes it back: {"record": the survivor after it, "fields": provenance as in merge_log, "records": [{"id", "image"}] before it}. Values are the text output of their type.';

CREATE FUNCTION crm.unmerge(workspace regnamespace, merge_id bigint,
    OUT table_name text, OUT record jsonb, OUT field text, OUT merged text, OUT kept text, OUT note text)
RETURNS SETOF record LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'crm_unmerge'
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
SET intervalstyle = postgres
SET extra_float_digits = 3
SET bytea_output = hex;

COMMENT ON FUNCTION crm.unmerge(regnamespace, bigint) IS
'Undoes a merge of the workspace. BEFORE triggers do not run for rows that get back exactly what they had; constraints are checked and AFTER triggers fire. Returns each value edited since the merge, which is kept. A later merge that removed a row this one needs must be undone first; the error names it. Errors: P0002 for a merge that is not there, 55000 for one that is undone already or cannot be, 42501 for records the caller may not have back, 23xxx if a value was given to another record meanwhile.';

CREATE FUNCTION crm._is_merging() RETURNS boolean
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'crm_is_merging';
COMMENT ON FUNCTION crm._is_merging() IS
'Does a merge, or the undoing of one, write at the moment? For triggers that follow what people do, which are not to follow what merging does: it moves by itself what refers to its records, and what triggers change it could not undo.';

CREATE FUNCTION crm._merge_order(target regclass, images jsonb[]) RETURNS integer[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stamp text;
BEGIN
    -- Most recent first; without a time stamp the order of the call stands.
    SELECT a.attname INTO stamp
    FROM pg_attribute AS a
    WHERE a.attrelid = target AND NOT a.attisdropped AND a.attname IN ('updated_at', 'modified_at', 'created_at')
      AND a.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype)
    ORDER BY CASE a.attname WHEN 'updated_at' THEN 1 WHEN 'modified_at' THEN 2 ELSE 3 END
    LIMIT 1;
    RETURN (SELECT ARRAY[array_agg(r.recency ORDER BY r.ord), array_agg(r.filled ORDER BY r.ord)]
            FROM (SELECT o.ord,
                         (row_number() OVER (ORDER BY (o.image ->> stamp)::timestamptz DESC NULLS LAST, o.ord))::integer AS recency,
                         (SELECT count(*) FROM jsonb_each_text(o.image) AS f WHERE btrim(f.value) <> '')::integer AS filled
                  FROM unnest(images) WITH ORDINALITY AS o (image, ord)) AS r);
END
$$;

COMMENT ON FUNCTION crm._merge_order(regclass, jsonb[]) IS
'Two lists, an element for each record image: its rank by recency (1 is the newest), and its number of filled fields.';

CREATE FUNCTION crm._survivorship(target regclass, key text[], images jsonb[], ids text[], rules jsonb, sources jsonb, ranks integer[])
RETURNS jsonb LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    column_ record;
    rule record;
    recency integer[] := ARRAY(SELECT unnest(ranks[1:1]));
    filled integer[] := ARRAY(SELECT unnest(ranks[2:2]));
    candidates integer[];   -- records with a value, the preferred first
    given text[];           -- and these values
    chosen integer[];
    blocks jsonb := '{}';   -- block -> the record it comes from
    fields text[];          -- of the block
    block_image jsonb;
    value text;
    result_set jsonb := '{}';
    result_fields jsonb := '{}';
BEGIN
    FOR column_ IN
        SELECT a.attname::text AS name, a.atttypid AS typid, format_type(a.atttypid, a.atttypmod) AS type, t.typcategory
        FROM pg_attribute AS a
        JOIN pg_type AS t ON t.oid = a.atttypid
        WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
          AND NOT a.attname = ANY (key)
        ORDER BY a.attnum
    LOOP
        SELECT r.field, r.strategy, r.block, r.separator, r.source_field, r.sources INTO rule
        FROM jsonb_to_recordset(rules) AS r (kind text, field text, strategy text, block text, separator text, source_field text, sources text[])
        WHERE r.field IN (column_.name, '*')
        ORDER BY r.field = '*', r.kind = '*'
        LIMIT 1;
        rule.strategy := coalesce(rule.strategy, 'fill');
        -- Housekeeping of the survivor stays its own.
        IF column_.name IN ('created_at', 'updated_at', 'row_version') AND coalesce(rule.field, '*') = '*' THEN
            CONTINUE;
        END IF;

        -- Taken apart once: looking up the i-th image goes through all before it.
        SELECT array_agg(o.i ORDER BY o.preference, o.i), array_agg(o.v ORDER BY o.preference, o.i)
        INTO candidates, given
        FROM (SELECT m.i::integer, m.image ->> column_.name AS v,
                     CASE rule.strategy
                         WHEN 'fill' THEN CASE WHEN m.i = 1 THEN 0 ELSE recency[m.i] END
                         WHEN 'most_recent' THEN recency[m.i]
                         WHEN 'most_complete' THEN -filled[m.i]
                         WHEN 'longest' THEN -length(m.image ->> column_.name)
                         WHEN 'trusted' THEN coalesce(
                             (SELECT min(array_position(rule.sources, s.source))
                              FROM jsonb_array_elements_text(
                                  CASE WHEN rule.source_field IS NULL THEN coalesce(sources -> m.id, '[]')
                                       ELSE jsonb_build_array(m.image ->> rule.source_field) END) AS s (source)),
                             cardinality(rule.sources) + 1)
                         ELSE m.i END AS preference
              FROM unnest(images, ids) WITH ORDINALITY AS m (image, id, i)) AS o
        WHERE btrim(o.v) <> ''
          AND NOT (o.v IN ('{}', '[]') AND (column_.typcategory = 'A' OR column_.typid IN ('json'::regtype, 'jsonb'::regtype)));

        IF rule.strategy = 'survivor' OR candidates IS NULL THEN
            CONTINUE;
        END IF;
        chosen := candidates[1:1];
        value := given[1];

        IF rule.block IS NOT NULL THEN
            SELECT array_agg(DISTINCT r.field) INTO fields
            FROM jsonb_to_recordset(rules) AS r (kind text, field text, block text)
            WHERE r.block = rule.block;
            -- The block's record: by the strategy, looking at the whole block at once.
            IF NOT blocks ? rule.block THEN
                SELECT blocks || jsonb_build_object(rule.block, b.i) INTO blocks
                FROM (SELECT m.i, (SELECT count(*) FROM unnest(fields) AS g (field) WHERE btrim(m.image ->> g.field) <> '') AS parts
                      FROM unnest(images) WITH ORDINALITY AS m (image, i)) AS b
                WHERE b.parts > 0
                ORDER BY CASE rule.strategy
                             WHEN 'fill' THEN CASE WHEN b.i = 1 THEN -1000000 ELSE -b.parts END
                             WHEN 'most_complete' THEN -b.parts
                             WHEN 'most_recent' THEN recency[b.i]
                             ELSE array_position(candidates, b.i::integer) END NULLS LAST,
                         recency[b.i]
                LIMIT 1;
            END IF;
            chosen := ARRAY[(blocks ->> rule.block)::integer];
            block_image := images[chosen[1]];
            value := block_image ->> column_.name;
            IF coalesce(btrim(value), '') = '' THEN
                -- A blank in the block is filled from a record whose block agrees in another field and contradicts none.
                SELECT ARRAY[c.i], c.v INTO chosen, value
                FROM unnest(candidates, given) WITH ORDINALITY AS c (i, v, ord)
                JOIN unnest(images) WITH ORDINALITY AS m (image, i) ON m.i = c.i
                CROSS JOIN LATERAL (
                    SELECT bool_and(lower(btrim(m.image ->> g.field)) = lower(btrim(block_image ->> g.field))) AS agrees
                    FROM unnest(fields) AS g (field)
                    WHERE btrim(m.image ->> g.field) <> '' AND btrim(block_image ->> g.field) <> '') AS compared
                WHERE compared.agrees
                ORDER BY c.ord
                LIMIT 1;
                IF NOT FOUND THEN
                    chosen := ARRAY[(blocks ->> rule.block)::integer];
                    value := block_image ->> column_.name;
                END IF;
            END IF;
        ELSIF rule.strategy IN ('max', 'min', 'sum') THEN
            -- An amount has the currency with which another rule makes it a block.
            IF (SELECT count(DISTINCT images[c] ->> 'currency') FROM unnest(candidates) AS c) > 1
               AND EXISTS (SELECT FROM jsonb_to_recordset(rules) AS a (field text, block text)
                           JOIN jsonb_to_recordset(rules) AS b (field text, block text) USING (block)
                           WHERE a.field = column_.name AND b.field = 'currency' AND column_.name <> 'currency') THEN
                result_fields := result_fields || jsonb_build_object(column_.name, jsonb_build_object(
                    'strategy', rule.strategy,
                    'refused', format('There is no %s of values in %s.', rule.strategy,
                                      (SELECT string_agg(DISTINCT images[c] ->> 'currency', ' and ') FROM unnest(candidates) AS c))));
                CONTINUE;
            END IF;
            BEGIN
                EXECUTE format('SELECT (%s(v.v::%s))::%2$s::text FROM unnest($1) AS v (v)', rule.strategy, column_.type)
                INTO value
                USING given;
            EXCEPTION WHEN undefined_function THEN
                RAISE EXCEPTION 'merge strategy "%" cannot be used for column "%"', rule.strategy, column_.name
                    USING ERRCODE = 'datatype_mismatch',
                          DETAIL = format('There is no %s of values of type %s.', rule.strategy, column_.type),
                          HINT = 'Change the row of merge_rule.';
            END;
            chosen := CASE WHEN rule.strategy = 'sum' THEN candidates
                           ELSE ARRAY[candidates[array_position(given, value)]] END;
        ELSIF rule.strategy = 'concat' AND column_.typcategory = 'S' THEN
            SELECT string_agg(d.v, coalesce(rule.separator, E'\n') ORDER BY d.first)
            INTO value
            FROM (SELECT c.v, min(c.ord) AS first FROM unnest(given) WITH ORDINALITY AS c (v, ord) GROUP BY c.v) AS d;
            chosen := candidates;
        ELSIF rule.strategy = 'union' THEN
            IF column_.typcategory = 'A' THEN
                EXECUTE format(
                    'SELECT (array_agg(d.e ORDER BY d.list, d.place))::%1$s::text
                     FROM (SELECT DISTINCT ON (e.e) e.e, v.ord AS list, e.ord AS place
                           FROM unnest($1) WITH ORDINALITY AS v (v, ord), unnest(v.v::%1$s) WITH ORDINALITY AS e (e, ord)
                           ORDER BY e.e, v.ord, e.ord) AS d', column_.type)
                INTO value
                USING given;
            ELSIF column_.typid = 'jsonb'::regtype THEN
                IF (SELECT bool_and(jsonb_typeof(c.v::jsonb) = 'object') FROM unnest(given) AS c (v)) THEN
                    SELECT jsonb_object_agg(d.key, d.value)::text INTO value
                    FROM (SELECT DISTINCT ON (e.key) e.key, e.value
                          FROM unnest(given) WITH ORDINALITY AS c (v, ord),
                               jsonb_each(c.v::jsonb) AS e
                          ORDER BY e.key, c.ord) AS d;
                ELSIF (SELECT bool_and(jsonb_typeof(c.v::jsonb) = 'array') FROM unnest(given) AS c (v)) THEN
                    SELECT jsonb_agg(d.value ORDER BY d.ord, d.place)::text INTO value
                    FROM (SELECT DISTINCT ON (e.value) e.value, c.ord, e.place
                          FROM unnest(given) WITH ORDINALITY AS c (v, ord),
                               jsonb_array_elements(c.v::jsonb) WITH ORDINALITY AS e (value, place)
                          ORDER BY e.value, c.ord, e.place) AS d;
                END IF;
            ELSIF column_.typcategory = 'S' THEN
                SELECT string_agg(d.v, coalesce(rule.separator, ';') ORDER BY d.ord, d.place) INTO value
                FROM (SELECT DISTINCT ON (btrim(e.v)) btrim(e.v) AS v, c.ord, e.place
                      FROM unnest(given) WITH ORDINALITY AS c (v, ord),
                           unnest(string_to_array(c.v, coalesce(rule.separator, ';'))) WITH ORDINALITY AS e (v, place)
                      WHERE btrim(e.v) <> ''
                      ORDER BY btrim(e.v), c.ord, e.place) AS d;
            END IF;
            chosen := candidates;
        END IF;

        IF value IS DISTINCT FROM images[1] ->> column_.name THEN
            result_set := result_set || jsonb_build_object(column_.name, value);
            result_fields := result_fields || jsonb_build_object(column_.name, jsonb_build_object(
                'strategy', rule.strategy,
                'from', (SELECT jsonb_agg(n.id ORDER BY c.ord)
                         FROM unnest(chosen) WITH ORDINALITY AS c (i, ord) JOIN unnest(ids) WITH ORDINALITY AS n (id, i) ON n.i = c.i)));
        END IF;
    END LOOP;
    RETURN jsonb_build_object('set', result_set, 'fields', result_fields);
END
$$;

COMMENT ON FUNCTION crm._survivorship(regclass, text[], jsonb[], text[], jsonb, jsonb, integer[]) IS
'The survivor''s new values and where they come from. Takes the table, its key columns, images of the records (the survivor first), their ids, the rows of merge_rule that apply, the systems each record is known in, and what crm._merge_order() says of the images. Typed comparisons run as the caller, the table''s owner.';

CREATE FUNCTION crm._merge_begin_escalations(workspace regnamespace, kind text, survivor text, losers text[]) RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    result jsonb;
    about text := '';
BEGIN
    -- Activities that are merged may begin the clocks of what they are about anew.
    IF kind = 'activity' THEN
        SELECT coalesce(string_agg(format(' OR e.kind = %L AND e.record_id IN (SELECT a.%I FROM %s.activity AS a WHERE a.id = ANY ($2::bigint[]))',
                                          left(c.attname, -3), c.attname, workspace), ''), '') INTO about
        FROM pg_attribute AS c
        WHERE c.attrelid = format('%s.activity', workspace)::regclass AND c.attname ~ '_id$' AND NOT c.attisdropped;
    END IF;
    EXECUTE format('SELECT jsonb_agg(jsonb_build_object(''escalation'', to_jsonb(e), ''reminder'', to_jsonb(r)) ORDER BY e.id)
                    FROM %1$s.escalation AS e
                    LEFT JOIN %1$s.reminder AS r ON r.escalation_id = e.id
                    WHERE e.kind = $1 AND e.record_id = ANY ($2::bigint[])%2$s', workspace, about)
    INTO result USING kind, losers || survivor;
    -- With the records they end; their reminders are not to be taken along first.
    IF result IS NOT NULL THEN
        EXECUTE format('DELETE FROM %s.escalation AS e WHERE e.kind = $1 AND e.record_id = ANY ($2::bigint[])', workspace) USING kind, losers;
    END IF;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._merge_begin_escalations(regnamespace, text, text, text[]) IS
'Ends the escalations of records that a merge removes; returns where they and all others stood that the merge may change, with the reminders that wait for the next step. NULL: nowhere.';

CREATE FUNCTION crm._merge_end_escalations(workspace regnamespace, before jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    result jsonb;
BEGIN
    EXECUTE format('SELECT jsonb_build_object(''before'', $1, ''after'', coalesce(jsonb_agg(to_jsonb(e)), ''[]''))
                    FROM %s.escalation AS e
                    WHERE (e.rule_id, e.record_id) IN (SELECT (b.value #>> ''{escalation,rule_id}'')::bigint, (b.value #>> ''{escalation,record_id}'')::bigint
                                                       FROM jsonb_array_elements($1) AS b)', workspace)
    INTO result USING before;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._merge_end_escalations(regnamespace, jsonb) IS
'What merge_log keeps of escalations: where they stood before the merge and after it.';

CREATE FUNCTION crm._unmerge_escalations(workspace regnamespace, escalations jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
BEGIN
    -- Unless somebody acted meanwhile, time goes on from where it stood.
    FOR item IN EXECUTE format(
        'SELECT now.id, b.value -> ''escalation'' AS escalation, nullif(b.value -> ''reminder'', ''null'') AS reminder
         FROM jsonb_array_elements($1 -> ''before'') AS b
         JOIN %1$s.escalation AS now ON now.rule_id = (b.value #>> ''{escalation,rule_id}'')::bigint
                                    AND now.record_id = (b.value #>> ''{escalation,record_id}'')::bigint
         LEFT JOIN jsonb_array_elements($1 -> ''after'') AS a
           ON a.value -> ''rule_id'' = b.value #> ''{escalation,rule_id}'' AND a.value -> ''record_id'' = b.value #> ''{escalation,record_id}''
         WHERE CASE WHEN a.value IS NOT NULL THEN a.value = to_jsonb(now)
                    ELSE now.clock_at <= (b.value #>> ''{escalation,clock_at}'')::timestamptz END
         ORDER BY now.id', workspace) USING escalations
    LOOP
        EXECUTE format('DELETE FROM %s.escalation AS e WHERE e.id = $1', workspace) USING item.id;
        EXECUTE format('INSERT INTO %1$s.escalation SELECT e.* FROM jsonb_populate_record(NULL::%1$s.escalation, $1) AS e', workspace)
        USING item.escalation;
        IF item.reminder IS NOT NULL THEN
            EXECUTE format('INSERT INTO %1$s.reminder SELECT r.* FROM jsonb_populate_record(NULL::%1$s.reminder, $1) AS r', workspace)
            USING item.reminder;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._unmerge_escalations(regnamespace, jsonb) IS
'Puts escalations back to where _merge_begin_escalations() found them, but for those that began anew since.';

CREATE FUNCTION crm._merge_cluster(workspace regnamespace, kind text, cluster_id bigint, threshold real, run_id bigint,
    OUT merge_id bigint, OUT survivor bigint, OUT losers bigint[], OUT note text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    members bigint[];
BEGIN
    -- Sure is a cluster whose weakest pair is, and in which nobody has doubts.
    EXECUTE format(
        'WITH member AS (SELECT c.record_id, c.state FROM %1$s.duplicate_cluster AS c WHERE c.kind = $1 AND c.cluster_id = $2),
              pair AS (SELECT p.left_id, p.right_id, p.score, p.state FROM %1$s.duplicate_pair AS p
                       WHERE p.kind = $1 AND p.left_id IN (SELECT m.record_id FROM member AS m) AND p.right_id IN (SELECT m.record_id FROM member AS m))
         SELECT (SELECT array_agg(m.record_id ORDER BY m.record_id) FROM member AS m),
                CASE WHEN (SELECT count(*) < 2 OR bool_or(m.state <> ''open'') FROM member AS m) THEN ''it is not open any more''
                     WHEN count(*) = 0 THEN ''no pair of it is known''
                     WHEN bool_or(p.state <> ''open'') THEN ''a pair of it was decided''
                     WHEN min(p.score) < $3 THEN ''below the threshold''
                     WHEN (SELECT count(DISTINCT r.id) FROM pair AS q, unnest(ARRAY[q.left_id, q.right_id]) AS r (id)) < (SELECT count(*) FROM member)
                     THEN ''a record of it is in no pair'' END
         FROM pair AS p', workspace)
    INTO members, note USING kind, cluster_id, threshold;
    IF note IS NOT NULL THEN
        RETURN;
    END IF;
    survivor := crm._fullest_record(workspace, kind, members);
    losers := array_remove(members, survivor);
    BEGIN
        merge_id := crm.merge_records(workspace, kind, survivor::text, losers::text[], false, run_id);
    EXCEPTION
        WHEN serialization_failure OR deadlock_detected THEN
            RAISE;
        WHEN OTHERS THEN
            note := SQLERRM;
    END;
END
$$;

COMMENT ON FUNCTION crm._merge_cluster(regnamespace, text, bigint, real, bigint) IS
'Merges one cluster as part of a run if its weakest pair has at least the threshold; otherwise note says why not.';

CREATE FUNCTION crm._check_cluster_arguments(workspace regnamespace, kind text, threshold real) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF workspace IS NULL OR kind IS NULL OR threshold IS NULL THEN
        RAISE EXCEPTION 'workspace, kind and threshold must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF NOT threshold BETWEEN 0 AND 1 THEN
        RAISE EXCEPTION 'threshold must be between 0 and 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM crm._kind_table(workspace, kind);
END
$$;

COMMENT ON FUNCTION crm._check_cluster_arguments(regnamespace, text, real) IS
'Errors unless the kind is known and the threshold is a probability.';

CREATE FUNCTION crm._open_clusters(workspace regnamespace, kind text) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT c.cluster_id FROM %s.duplicate_cluster AS c WHERE c.kind = $1
                                 GROUP BY c.cluster_id HAVING count(*) > 1 AND bool_and(c.state = ''open'')
                                 ORDER BY c.cluster_id', workspace) USING kind;
END
$$;

COMMENT ON FUNCTION crm._open_clusters(regnamespace, text) IS
'The clusters of a kind that are open, as the caller sees them.';

CREATE FUNCTION crm.merge_clusters(workspace regnamespace, kind text, threshold real, max_merges integer DEFAULT NULL,
    OUT cluster_id bigint, OUT merge_id bigint, OUT survivor bigint, OUT losers bigint[], OUT note text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run_id bigint := 0;
    merges integer := 0;
BEGIN
    PERFORM crm._check_cluster_arguments(workspace, kind, threshold);
    FOR cluster_id IN SELECT c FROM crm._open_clusters(workspace, kind) AS c LOOP
        EXIT WHEN merges >= max_merges;
        SELECT m.merge_id, m.survivor, m.losers, m.note INTO merge_id, survivor, losers, note
        FROM crm._merge_cluster(workspace, kind, cluster_id, threshold, run_id) AS m;
        IF merge_id IS NOT NULL THEN
            merges := merges + 1;
            run_id := CASE run_id WHEN 0 THEN merge_id ELSE run_id END;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm.merge_clusters(regnamespace, text, real, integer) IS
'Merges each open cluster of a kind whose weakest pair has at least the given score (0 to 1) into its fullest record, in one transaction and as one run; no more than max_merges (NULL: all). Returns a row a cluster: the merge, or in note why it was left alone; one that fails does not stop the others. The caller must see duplicate_pair and duplicate_cluster and be allowed to merge the records.';

-- Names are qualified where this procedure has no search path of its own: one that
-- commits cannot have settings.
CREATE PROCEDURE crm.merge_all_clusters(workspace regnamespace, kind text, threshold real)
LANGUAGE plpgsql
AS $$
DECLARE
    clusters bigint[];
    cluster_id bigint;
    merged record;
    run_id bigint := 0;
    merges integer := 0;
    left_alone integer := 0;
BEGIN
    PERFORM crm._check_cluster_arguments(workspace, kind, threshold);
    SELECT pg_catalog.array_agg(c) INTO clusters FROM crm._open_clusters(workspace, kind) AS c;
    FOREACH cluster_id IN ARRAY coalesce(clusters, '{}'::pg_catalog.int8[]) LOOP
        SELECT m.merge_id, m.note INTO merged FROM crm._merge_cluster(workspace, kind, cluster_id, threshold, run_id) AS m;
        IF merged.merge_id IS NULL THEN
            left_alone := left_alone OPERATOR(pg_catalog.+) 1;
        ELSE
            merges := merges OPERATOR(pg_catalog.+) 1;
            IF run_id OPERATOR(pg_catalog.=) 0 THEN
                run_id := merged.merge_id;
            END IF;
            COMMIT;
        END IF;
    END LOOP;
    RAISE INFO '% clusters merged, % left alone', merges, left_alone
        USING DETAIL = CASE WHEN merges OPERATOR(pg_catalog.>) 0 THEN pg_catalog.format('The run has number %s.', run_id) ELSE 'There is no run.' END;
END
$$;

COMMENT ON PROCEDURE crm.merge_all_clusters(regnamespace, text, real) IS
'The same as crm.merge_clusters(), each cluster in a transaction of its own: others wait no longer than for one merge, what was merged stays if the call is cancelled or the server stops, and calling again goes on with the rest. merge_log shows how far it is. Not inside a transaction block.';

CREATE FUNCTION crm.unmerge_all(workspace regnamespace, merge_ids bigint[],
    OUT merge_id bigint, OUT undone boolean, OUT table_name text, OUT record jsonb, OUT field text, OUT merged text, OUT kept text, OUT note text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    edits jsonb;
BEGIN
    IF workspace IS NULL OR merge_ids IS NULL THEN
        RAISE EXCEPTION 'workspace and merge_ids must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- The latest first, so that chains come apart.
    FOR merge_id IN SELECT DISTINCT i FROM unnest(merge_ids) AS i WHERE i IS NOT NULL ORDER BY i DESC LOOP
        table_name := NULL; record := NULL; field := NULL; merged := NULL; kept := NULL; note := NULL; edits := NULL;
        BEGIN
            SELECT jsonb_agg(to_jsonb(u)) INTO edits FROM crm.unmerge(workspace, merge_id) AS u;
            undone := true;
        EXCEPTION
            WHEN serialization_failure OR deadlock_detected THEN
                RAISE;
            WHEN OTHERS THEN
                undone := false;
                note := SQLERRM;
        END;
        IF edits IS NULL THEN
            RETURN NEXT;
        ELSE
            RETURN QUERY
            SELECT merge_id, true, e.table_name, e.record, e.field, e.merged, e.kept, e.note
            FROM jsonb_to_recordset(edits) AS e (table_name text, record jsonb, field text, merged text, kept text, note text);
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm.unmerge_all(regnamespace, bigint[]) IS
'Undoes several merges, the latest first. One row for each: undone, with every edit since the merge that was kept as a row of its own; or not undone, and in note why not, which does not stop the others.';
