-- @version 1

SELECT crm._create_match_model(n.nspname) FROM pg_catalog.pg_namespace AS n WHERE n.oid OPERATOR(pg_catalog.=) @workspace_literal@::regnamespace;

-- @repeatable

SELECT crm.enable_audit((@workspace_literal@ || '.match_model')::regclass, 'match_model');

CREATE OR REPLACE FUNCTION @workspace@.add_match_model(kind text)
RETURNS bigint LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm.add_match_model(crm._match_table(@workspace_literal@::regnamespace, kind)) $$;
COMMENT ON FUNCTION @workspace@.add_match_model(text) IS
'Copies what levels of agreement weigh for a kind at present to a new version in match_model, to be edited there and put to use by use_match_model(); returns its number. For the owner of the workspace.';

CREATE OR REPLACE FUNCTION @workspace@.use_match_model(kind text, version bigint)
RETURNS void LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm.use_match_model(crm._match_table(@workspace_literal@::regnamespace, kind), version) $$;
COMMENT ON FUNCTION @workspace@.use_match_model(text, bigint) IS
'From now on records of a kind are compared with this version of match_model; NULL: with what crm brings along. Scans and look-ups to come follow; pairs found before keep their scores until the next scan. For the owner of the workspace.';

CREATE OR REPLACE FUNCTION @workspace@.learn_matching(kind text, max_rows integer DEFAULT 200000, seed integer DEFAULT 1)
RETURNS bigint LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm.learn_matching(crm._match_table(@workspace_literal@::regnamespace, kind), max_rows, seed) $$;
COMMENT ON FUNCTION @workspace@.learn_matching(text, integer, integer) IS
'Learns from the records of a kind what levels of agreement weigh there, without labelled pairs; writes a new version to match_model and returns its number. It is not put to use until use_match_model() is called. max_rows (100 to 10,000,000) is how many records are looked at; the same records and seed give the same weights. For the owner of the workspace.';

CREATE OR REPLACE VIEW @workspace@.duplicate_label WITH (security_invoker) AS
SELECT p.kind, p.left_id, p.right_id, p.state <> 'not_duplicate' AS same, p.decided_by, p.decided_at, l.id AS merge_id
FROM @workspace@.duplicate_pair AS p
LEFT JOIN @workspace@.merge_log AS l
  ON p.state = 'merged' AND l.kind = p.kind AND l.survivor_id IN (p.left_id::text, p.right_id::text) AND l.undone_at IS NULL AND l.run_id IS NULL
  AND CASE l.survivor_id WHEN p.left_id::text THEN p.right_id ELSE p.left_id END::text = ANY (l.loser_ids)
WHERE p.state IN ('duplicate', 'not_duplicate') OR l.id IS NOT NULL;
COMMENT ON VIEW @workspace@.duplicate_label IS 'Pairs that people decided, as labels for match_eval() and for training elsewhere: those said to be duplicate or not_duplicate, and those merged one by one; merges of whole runs are decisions of a threshold and not among them. Of merges, each sees their own and those of everyone below.';
COMMENT ON COLUMN @workspace@.duplicate_label.kind IS 'Kind of the records.';
COMMENT ON COLUMN @workspace@.duplicate_label.left_id IS 'The record with the lower id.';
COMMENT ON COLUMN @workspace@.duplicate_label.right_id IS 'The record with the higher id.';
COMMENT ON COLUMN @workspace@.duplicate_label.same IS 'True if they are the same.';
COMMENT ON COLUMN @workspace@.duplicate_label.decided_by IS 'Member who decided; NULL: nobody known.';
COMMENT ON COLUMN @workspace@.duplicate_label.decided_at IS 'When.';
COMMENT ON COLUMN @workspace@.duplicate_label.merge_id IS 'The merge that made them one record: the other is in merged_record; NULL: both are there.';

CREATE OR REPLACE FUNCTION @workspace@.match_eval(kind text, labels regclass DEFAULT NULL, version bigint DEFAULT NULL,
    OUT threshold real, OUT pairs bigint, OUT right_pairs bigint, OUT "precision" real, OUT recall real, OUT f1 real, OUT proposed boolean)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass := crm._match_table(@workspace_literal@::regnamespace, match_eval.kind);
    decided record;
BEGIN
    IF labels IS NOT NULL THEN
        RETURN QUERY SELECT e.* FROM crm.match_eval(relation, labels, version) AS e;
        RETURN;
    END IF;
    -- Records that were merged are compared as they were before: what went, and the survivor without what it took over.
    WITH side AS (
        SELECT row_number() OVER () AS pair, d.same, d.merge_id, ARRAY[d.left_id, d.right_id]::text[] AS ids
        FROM @workspace@.duplicate_label AS d
        WHERE d.kind = match_eval.kind),
    image AS (
        SELECT s.pair, u.place, u.id, s.same, s.merge_id, coalesce(
                   (SELECT c.before FROM @workspace@.merge_change AS c
                    WHERE c.key = jsonb_build_object('id', u.id) AND c.merge_id = s.merge_id AND c.operation = 'settle'),
                   (SELECT r.record FROM @workspace@.merged_record AS r WHERE r.kind = match_eval.kind AND r.record_id = u.id AND r.merge_id = s.merge_id)) AS record
        FROM side AS s, unnest(s.ids) WITH ORDINALITY AS u (id, place)),
    keyed AS (
        SELECT i.pair, i.place, i.same, i.record, CASE WHEN i.record IS NULL THEN i.id ELSE i.id || ' before merge ' || i.merge_id END AS key FROM image AS i)
    SELECT coalesce(array_agg(k.key ORDER BY k.pair) FILTER (WHERE k.place = 1), '{}') AS left_ids,
           coalesce(array_agg(k.key ORDER BY k.pair) FILTER (WHERE k.place = 2), '{}') AS right_ids,
           coalesce(array_agg(k.same ORDER BY k.pair) FILTER (WHERE k.place = 1), '{}') AS same,
           jsonb_object_agg(k.key, k.record) FILTER (WHERE k.record IS NOT NULL) AS records
    INTO decided FROM keyed AS k;
    RETURN QUERY SELECT e.* FROM crm.match_eval(relation, decided.left_ids, decided.right_ids, decided.same, version, decided.records) AS e;
END
$$;
COMMENT ON FUNCTION @workspace@.match_eval(text, regclass, bigint) IS
'How well pairs of records of a kind are told apart: precision, recall and F1 (0 to 1) for each threshold (probability), and a proposed one. labels is a table or view with columns left_id, right_id and same (boolean); NULL takes what people decided: the pairs of duplicate_label that the caller sees, merged records as they were before; those that the caller may not read are left out, with a notice. version is that of a matching model, in use or not; 0 what crm brings along, NULL the one in use.';
