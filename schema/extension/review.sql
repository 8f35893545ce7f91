-- People decide about what a scan found.

CREATE FUNCTION crm._kind_table(workspace regnamespace, kind text, OUT rel regclass, OUT id_column name)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT c.oid, a.attname INTO rel, id_column
    FROM pg_class AS c
    JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
    WHERE c.oid = coalesce((SELECT w.oid FROM pg_class AS w WHERE w.relnamespace = workspace AND w.relname = kind), to_regclass(kind));
    IF rel IS NULL THEN
        RAISE EXCEPTION 'kind "%" does not exist', kind
            USING ERRCODE = 'undefined_table',
                  HINT = 'A kind is a table of the workspace, such as account, or the qualified name of another table, with a primary key of one column.';
    END IF;
END
$$;

COMMENT ON FUNCTION crm._kind_table(regnamespace, text) IS
'The table of a kind, one of the workspace or the qualified name of another, and the column of its primary key.';

CREATE FUNCTION crm._record_name(record jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN coalesce(nullif(btrim(record ->> 'name'), ''), nullif(btrim(record ->> 'full_name'), ''),
                nullif(concat_ws(' ', nullif(btrim(record ->> 'given_name'), ''), nullif(btrim(record ->> 'family_name'), '')), ''),
                nullif(btrim(record ->> 'company'), ''), nullif(btrim(record ->> 'subject'), ''), nullif(btrim(record ->> 'email'), ''));

COMMENT ON FUNCTION crm._record_name(jsonb) IS
'What people call a record: the first of name, full_name, given_name and family_name, company, subject and email that is filled.';

CREATE FUNCTION crm._record_name(workspace regnamespace, kind text, id bigint) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    name text;
BEGIN
    SELECT r.rel, r.id_column INTO t FROM crm._record_tables(workspace) AS r WHERE r.kind = _record_name.kind;
    IF FOUND THEN
        EXECUTE format('SELECT crm._record_name(to_jsonb(r)) FROM %s AS r WHERE r.%I = $1', t.rel, t.id_column) INTO name USING id;
    END IF;
    RETURN name;
END
$$;

COMMENT ON FUNCTION crm._record_name(regnamespace, text, bigint) IS
'What people call a record of any kind, with the caller''s rights; NULL if it cannot be seen.';

CREATE FUNCTION crm._pair_sides(workspace regnamespace, kind text, left_id bigint, right_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE COST 10000
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    sides jsonb[];
BEGIN
    -- The pairs of a table that was dropped stay until somebody deletes them.
    IF to_regclass(format('%s.%I', workspace, kind)) IS NULL AND strpos(kind, '.') = 0 THEN
        RETURN NULL;
    END IF;
    t := crm._kind_table(workspace, kind);
    EXECUTE format('SELECT ARRAY[to_jsonb(l), to_jsonb(r)] FROM %1$s AS l, %1$s AS r WHERE l.%2$I = $1 AND r.%2$I = $2', t.rel, t.id_column)
    INTO sides USING left_id, right_id;
    RETURN jsonb_build_object(
        'left', crm._record_name(sides[1]),
        'right', crm._record_name(sides[2]),
        'differences', (SELECT coalesce(jsonb_object_agg(f.key, jsonb_build_array(f.value, sides[2] -> f.key)), '{}')
                        FROM jsonb_each(sides[1]) AS f
                        WHERE coalesce(btrim(f.value #>> '{}'), '') IS DISTINCT FROM coalesce(btrim(sides[2] ->> f.key), '')
                          AND f.key NOT IN (t.id_column, 'created_at', 'updated_at', 'row_version')));
END
$$;

COMMENT ON FUNCTION crm._pair_sides(regnamespace, text, bigint, bigint) IS
'Two records side by side, as the caller may see them: {"left": name, "right": name, "differences": {field: [left value, right value]}}.';

CREATE FUNCTION crm._fullest_record(workspace regnamespace, kind text, ids bigint[]) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record := crm._kind_table(workspace, kind);
    result bigint;
BEGIN
    EXECUTE format('SELECT t.%2$I FROM %1$s AS t WHERE t.%2$I = ANY ($1)
                    ORDER BY (SELECT count(*) FROM jsonb_each_text(to_jsonb(t)) AS f WHERE btrim(f.value) <> '''') DESC, t.%2$I
                    LIMIT 1', t.rel, t.id_column) INTO result USING ids;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._fullest_record(regnamespace, text, bigint[]) IS
'The record with the most fields filled, among equals the oldest (lowest id): into which the others are merged unless somebody says otherwise.';

CREATE FUNCTION crm.cluster_members(workspace regnamespace, kind text, cluster_id bigint, OUT survivor bigint, OUT losers bigint[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    members bigint[];
BEGIN
    EXECUTE format('SELECT array_agg(c.record_id ORDER BY c.record_id) FROM %s.duplicate_cluster AS c
                    WHERE c.kind = $1 AND c.cluster_id = $2 AND c.state = ''open''', workspace)
    INTO members USING kind, cluster_id;
    IF members IS NULL THEN
        RAISE EXCEPTION 'there is no open cluster % of kind "%"', cluster_id, kind
            USING ERRCODE = 'no_data_found',
                  DETAIL = 'There is none, it was merged, or you may not see its records.';
    END IF;
    survivor := crm._fullest_record(workspace, kind, members);
    losers := array_remove(members, survivor);
END
$$;

COMMENT ON FUNCTION crm.cluster_members(regnamespace, text, bigint) IS
'The records of an open cluster as merge_clusters() would merge them: the fullest survives.';

-- What a decision by UPDATE of duplicate_pair leaves behind.
CREATE FUNCTION crm.duplicate_decision() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    workspace regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = TG_RELID);
BEGIN
    -- Merging and scanning write as the owner of the table, who is trusted to say who decided.
    IF pg_has_role((SELECT c.relowner FROM pg_class AS c WHERE c.oid = TG_RELID), 'USAGE') THEN
        IF NEW.state <> OLD.state AND NEW.decided_at IS NOT DISTINCT FROM OLD.decided_at THEN
            NEW.decided_at := CASE WHEN NEW.state <> 'open' THEN clock_timestamp() END;
            NEW.decided_by := CASE WHEN NEW.state <> 'open' THEN coalesce(crm.member_id(workspace), NEW.decided_by) END;
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.state = 'merged' AND OLD.state <> 'merged' THEN
        RAISE EXCEPTION 'pair % is not merged by saying so', OLD.id
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'Its state becomes merged when its records are.',
                  HINT = format('UPDATE %s.duplicate_review SET decision = ''merge'' WHERE pair_id = %s, or use merge_records().', workspace, OLD.id);
    END IF;
    NEW.decided_by := CASE WHEN NEW.state = OLD.state THEN OLD.decided_by WHEN NEW.state <> 'open' THEN crm.member_id(workspace) END;
    NEW.decided_at := CASE WHEN NEW.state = OLD.state THEN OLD.decided_at WHEN NEW.state <> 'open' THEN clock_timestamp() END;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION crm.duplicate_decision() IS
'Trigger of table duplicate_pair: notes who decided and when, whatever the statement says, and lets nobody but a merge call a pair merged.';

CREATE FUNCTION crm.decide_pair(workspace regnamespace, pair_id bigint, decision text, survivor bigint DEFAULT NULL, later_until timestamptz DEFAULT NULL)
RETURNS bigint LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pair record;
    merge_id bigint;
    changed bigint;
BEGIN
    IF workspace IS NULL OR pair_id IS NULL OR decision IS NULL THEN
        RAISE EXCEPTION 'workspace, pair and decision must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF decision NOT IN ('merge', 'duplicate', 'not_duplicate', 'ignore', 'later', 'open') THEN
        RAISE EXCEPTION 'unrecognized decision: "%"', decision
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Decisions are merge, duplicate, not_duplicate, ignore, later and open.';
    END IF;
    EXECUTE format('SELECT p.kind, p.left_id, p.right_id, p.state FROM %s.duplicate_pair AS p WHERE p.id = $1', workspace) INTO pair USING pair_id;
    IF pair.kind IS NULL THEN
        RAISE EXCEPTION 'pair % does not exist', pair_id
            USING ERRCODE = 'no_data_found', DETAIL = 'There is no such pair, or you may not see both of its records.';
    END IF;
    IF decision = 'merge' THEN
        IF pair.state = 'merged' THEN
            RETURN NULL;
        END IF;
        survivor := coalesce(survivor, crm._fullest_record(workspace, pair.kind, ARRAY[pair.left_id, pair.right_id]), pair.left_id);
        IF survivor NOT IN (pair.left_id, pair.right_id) THEN
            RAISE EXCEPTION '% % is not in pair %', pair.kind, survivor, pair_id USING ERRCODE = 'invalid_parameter_value';
        END IF;
        RETURN crm.merge_records(workspace, pair.kind, survivor::text,
                                 ARRAY[CASE survivor WHEN pair.left_id THEN pair.right_id ELSE pair.left_id END]::text[], false);
    END IF;
    EXECUTE format('UPDATE %s.duplicate_pair AS p SET state = $2, later_until = $3 WHERE p.id = $1 AND p.state <> ''merged''', workspace)
    USING pair_id, CASE WHEN decision IN ('duplicate', 'not_duplicate') THEN decision WHEN decision = 'ignore' THEN 'ignored' ELSE 'open' END,
          CASE decision WHEN 'later' THEN coalesce(later_until, clock_timestamp() + interval '7 days') END;
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF changed = 0 THEN
        EXECUTE format('SELECT p.state FROM %s.duplicate_pair AS p WHERE p.id = $1', workspace) INTO pair.state USING pair_id;
        IF pair.state IS NOT NULL AND pair.state <> 'merged' THEN
            RAISE EXCEPTION 'permission denied to decide about pair %', pair_id
                USING ERRCODE = 'insufficient_privilege',
                      DETAIL = format('You may not change both %s %s and %s.', pair.kind, pair.left_id, pair.right_id);
        END IF;
        RAISE EXCEPTION 'pair % has been merged', pair_id
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'unmerge() tells its records apart again.';
    END IF;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION crm.decide_pair(regnamespace, bigint, text, bigint, timestamptz) IS
'Decides about a pair of duplicate_pair: merge (into survivor, or the fullest), duplicate (the same, to be merged some other time), not_duplicate, ignore, later (hidden until later_until, or for 7 days) or open (undecided again). Returns the number of the merge, NULL for other decisions and for a pair that is merged already. The caller must be allowed to change both records.';

CREATE FUNCTION crm.review_decision() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    workspace regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = TG_RELID);
    undecided boolean;
BEGIN
    -- The same statement may have decided it with another pair of the same records.
    EXECUTE format('SELECT EXISTS (SELECT FROM %s.duplicate_pair AS p WHERE p.id = $1 AND p.state = ''open'')', workspace)
    INTO undecided USING OLD.pair_id;
    IF NOT undecided THEN
        RETURN NULL;
    END IF;
    IF NEW.decision IS NULL AND (NEW.survivor_id IS NOT NULL OR NEW.later_until IS NOT NULL) THEN
        RAISE EXCEPTION 'nothing is decided about pair %', OLD.pair_id
            USING ERRCODE = 'null_value_not_allowed',
                  DETAIL = 'survivor_id and later_until only go with a decision.',
                  HINT = format('Set decision as well: %s.', CASE WHEN NEW.survivor_id IS NOT NULL THEN 'merge' ELSE 'later' END);
    END IF;
    IF NEW.decision IS NOT NULL THEN
        PERFORM crm.decide_pair(workspace, OLD.pair_id, NEW.decision, NEW.survivor_id, NEW.later_until);
    END IF;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION crm.review_decision() IS
'Trigger instead of UPDATE of view duplicate_review: does what column decision says.';

CREATE FUNCTION crm._create_review(workspace regnamespace) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    EXECUTE format($view$
        CREATE OR REPLACE VIEW %1$s.duplicate_review WITH (security_invoker) AS
        SELECT p.id AS pair_id, p.kind, p.score, p.left_id, p.right_id, p.sides ->> 'left' AS left_name, p.sides ->> 'right' AS right_name,
               p.sides -> 'differences' AS differences, p.reasons, p.cluster_id, p.may_decide, p.created_at,
               NULL::text AS decision, NULL::bigint AS survivor_id, NULL::timestamptz AS later_until
        FROM (SELECT duplicate_pair.*,
                     (SELECT c.cluster_id FROM %1$s.duplicate_cluster AS c
                      WHERE c.kind = duplicate_pair.kind AND c.record_id = duplicate_pair.left_id AND c.state = 'open') AS cluster_id,
                     coalesce((%3$s) AND (%4$s), false) OR pg_has_role(%2$L, 'USAGE') AS may_decide,
                     crm._pair_sides(%5$L::regnamespace, duplicate_pair.kind, duplicate_pair.left_id, duplicate_pair.right_id) AS sides
              FROM %1$s.duplicate_pair
              WHERE duplicate_pair.state = 'open' AND (duplicate_pair.later_until IS NULL OR duplicate_pair.later_until <= now())) AS p
        $view$, workspace, (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace AS n WHERE n.oid = workspace),
        crm._record_rule(workspace, 'duplicate_pair', 'left_id', 'edit'), crm._record_rule(workspace, 'duplicate_pair', 'right_id', 'edit'), workspace);
END
$$;

COMMENT ON FUNCTION crm._create_review(regnamespace) IS
'Makes view duplicate_review of a workspace anew: who may decide about a pair depends on the kinds of records there are.';

CREATE FUNCTION crm.preview_record(workspace regnamespace, kind text, survivor text, losers text[],
    OUT field text, OUT value text, OUT sources text[], OUT strategy text, OUT choices jsonb, OUT refused text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
WITH dry AS MATERIALIZED (SELECT crm._preview_record(workspace, kind, survivor, losers) AS run)
SELECT f.key, f.value,
       CASE WHEN p.rule ->> 'refused' IS NOT NULL OR p.rule -> 'from' IS NULL THEN ARRAY[survivor]
            ELSE ARRAY(SELECT jsonb_array_elements_text(p.rule -> 'from')) END,
       p.rule ->> 'strategy', c.choices, p.rule ->> 'refused'
FROM dry
CROSS JOIN LATERAL jsonb_each_text(dry.run -> 'record') WITH ORDINALITY AS f (key, value, place)
CROSS JOIN LATERAL (SELECT dry.run -> 'fields' -> f.key AS rule) AS p
CROSS JOIN LATERAL (SELECT jsonb_object_agg(r.record ->> 'id', r.record -> 'image' -> f.key)
                           FILTER (WHERE btrim(r.record -> 'image' ->> f.key) <> '') AS choices
                    FROM jsonb_array_elements(dry.run -> 'records') AS r (record)) AS c
LEFT JOIN pg_attribute AS a ON a.attrelid = (crm._kind_table(workspace, kind)).rel AND a.attname = f.key
ORDER BY a.attnum, f.place
$$;

COMMENT ON FUNCTION crm.preview_record(regnamespace, text, text, text[]) IS
'What the record would look like that crm.merge_records() makes, a row a field: its value, the records it comes from, the strategy if it did not simply stay, what each record has that has something, and why a value could not be taken. Runs the merge and takes it back.';

CREATE FUNCTION crm._measure_duplicates(workspace regnamespace, kind text) RETURNS real
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record := crm._kind_table(workspace, kind);
    result real;
BEGIN
    EXECUTE format('INSERT INTO %1$s.duplicate_rate (kind, records, duplicates, clusters, open_pairs)
                    SELECT $1, (SELECT count(*) FROM %2$s), coalesce(sum(c.members - 1), 0), count(*),
                           (SELECT count(*) FROM %1$s.duplicate_pair AS p WHERE p.kind = $1 AND p.state = ''open'')
                    FROM (SELECT count(*) AS members FROM %1$s.duplicate_cluster AS d
                          WHERE d.kind = $1 AND d.state = ''open'' GROUP BY d.cluster_id HAVING count(*) > 1) AS c
                    RETURNING rate', workspace, t.rel) INTO result USING kind;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._measure_duplicates(regnamespace, text) IS
'Adds a row to duplicate_rate: how many records of a kind are there once too often by what the last scan found and people decided since. Returns the share, 0 to 1.';
