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
    SELECT coalesce(array_agg(p.left_id::text), '{}') AS left_ids, coalesce(array_agg(p.right_id::text), '{}') AS right_ids, coalesce(array_agg(p.state = 'merged'), '{}') AS same
    INTO decided FROM @workspace@.duplicate_pair AS p WHERE p.kind = match_eval.kind AND p.state IN ('merged', 'not_duplicate');
    RETURN QUERY SELECT e.* FROM crm.match_eval(relation, decided.left_ids, decided.right_ids, decided.same, version) AS e;
END
$$;
COMMENT ON FUNCTION @workspace@.match_eval(text, regclass, bigint) IS
'How well pairs of records of a kind are told apart: precision, recall and F1 (0 to 1) for each threshold (probability), and a proposed one. labels is a table or view with columns left_id, right_id and same (boolean); NULL takes what people decided in duplicate_pair, merged or not_duplicate, of records that are still there. version is that of a matching model, in use or not; 0 what crm brings along, NULL the one in use.';
