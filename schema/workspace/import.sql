-- @repeatable

CREATE OR REPLACE FUNCTION @workspace@.import_records(kind text, source regclass, system text DEFAULT NULL, dry_run boolean DEFAULT false,
    OUT line bigint, OUT id bigint, OUT outcome text, OUT field text, OUT code text, OUT message text, OUT detail text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT r.* FROM crm._import_records(@workspace_literal@::regnamespace, kind, source, system, dry_run) AS r $$;
COMMENT ON FUNCTION @workspace@.import_records(text, regclass, text, boolean) IS
'Stores the rows of a table or view as records of a kind, in the order of its column line, which numbers them, with the caller''s rights and under all rules; its other columns have the names of the kind''s. Blanks are left to the default. Each line is stored whole or not at all and has a row in the result: outcome stored, failed (field, code, the SQLSTATE, message and detail say why) or known. With system, external_id is the record''s identifier there; a line whose record came in before is known, so that an import can be run again. dry_run: nothing is stored. Errors: 22023 for an unknown kind, 42703 for a column that is missing or unknown, 21000 if a line is there twice, 22004.';
