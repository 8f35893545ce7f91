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
