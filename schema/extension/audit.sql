CREATE FUNCTION crm.audit() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_audit';

COMMENT ON FUNCTION crm.audit() IS
'Trigger after insert, update or delete for each row, or after truncate, of any table: writes one row to the audit log unless nothing changed. Arguments: kind of record; then optionally log=schema.table (default: audit_log in the table''s schema) and mask=column for each column whose values must not show. The table''s owner needs INSERT on the log. Values longer than 64 kB are logged as length and SHA-256. crm.enable_audit() creates the triggers.';

CREATE FUNCTION crm.append_only() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_append_only';

COMMENT ON FUNCTION crm.append_only() IS
'Trigger before update, delete or truncate: refuses, whoever asks (SQLSTATE 55000).';

CREATE FUNCTION crm.enable_audit("table" regclass, kind text DEFAULT NULL, audit_log regclass DEFAULT NULL, mask name[] DEFAULT '{}') RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    arguments text;
    missing text;
    schema_oid oid := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = "table");
BEGIN
    IF "table" IS NULL THEN
        RAISE EXCEPTION 'table must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    kind := coalesce(kind, (SELECT c.relname FROM pg_class AS c WHERE c.oid = "table"));
    IF kind = '' THEN
        RAISE EXCEPTION 'kind of record must not be empty' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT m INTO missing
    FROM unnest(mask) AS m
    WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                      WHERE a.attrelid = "table" AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = m)
    LIMIT 1;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'column "%" of relation "%" does not exist', missing, "table"
            USING ERRCODE = 'undefined_column';
    END IF;
    IF audit_log IS NULL AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = schema_oid AND c.relname = 'audit_log') THEN
        RAISE EXCEPTION 'schema "%" has no audit log', schema_oid::regnamespace
            USING ERRCODE = 'undefined_table',
                  HINT = 'Name one: crm.enable_audit(..., audit_log => ''sales.audit_log''). A new one is made with CREATE TABLE ... (LIKE sales.audit_log INCLUDING ALL).';
    END IF;

    arguments := (SELECT string_agg(quote_literal(argument), ', ' ORDER BY ordinal)
                  FROM (SELECT kind, 0
                        UNION ALL
                        SELECT 'log=' || audit_log::text, 1 WHERE audit_log IS NOT NULL
                        UNION ALL
                        SELECT 'mask=' || m, 2 FROM unnest(mask) AS m) AS list (argument, ordinal));
    EXECUTE format('CREATE OR REPLACE TRIGGER crm_audit AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION crm.audit(%s)',
                   "table", arguments);
    EXECUTE format('CREATE OR REPLACE TRIGGER crm_audit_truncate AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION crm.audit(%s)',
                   "table", arguments);
END
$$;

COMMENT ON FUNCTION crm.enable_audit(regclass, text, regclass, name[]) IS
'Audits a table from now on: creates the triggers crm_audit and crm_audit_truncate, or replaces them. kind defaults to the table''s name, audit_log to audit_log in its schema; mask names columns whose values are logged as {"masked": true}. The caller must own the table, whose owner needs INSERT on the log. For a partitioned table, truncating one partition by itself is not logged.';

CREATE FUNCTION crm.disable_audit("table" regclass) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    trigger_name name;
BEGIN
    FOR trigger_name IN
        SELECT t.tgname FROM pg_trigger AS t WHERE t.tgrelid = "table" AND t.tgfoid = 'crm.audit()'::regprocedure AND NOT t.tgisinternal
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', trigger_name, "table");
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm.disable_audit(regclass) IS
'Stops auditing a table; what was logged stays. For a table of a workspace, upgrade_workspace() starts it again. The caller must own the table.';

-- The bytes that are hashed: a JSON array of the row's columns, times as
-- microseconds, so that no setting changes them.
CREATE FUNCTION crm._audit_digest(workspace name, after_id bigint, last_id bigint, previous bytea, OUT row_count bigint, OUT digest bytea)
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format(
        'SELECT count(*),
                sha256($3 || coalesce(string_agg(sha256(convert_to(jsonb_build_array(
                    l.id, (extract(epoch FROM l.changed_at) * 1000000)::bigint, (extract(epoch FROM l.clock_at) * 1000000)::bigint,
                    l.transaction_id, l.member_id, l.login_role, l.role, l.application, l.client, l.session, l.statement,
                    l.operation, l.kind, l.table_name, l.record_id, l.record_key, l.old, l.new)::text, ''UTF8'')),
                    '''' ORDER BY l.id), ''''))
         FROM %I.audit_log AS l
         WHERE l.id > $1 AND l.id <= $2', workspace)
    INTO row_count, digest
    USING after_id, last_id, previous;
END
$$;

COMMENT ON FUNCTION crm._audit_digest(name, bigint, bigint, bytea) IS
'Number of rows of the audit log in a range of ids, and SHA-256 over the previous seal and the SHA-256 of each row in turn.';

CREATE FUNCTION crm._next_transaction() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_next_transaction';

COMMENT ON FUNCTION crm._next_transaction() IS
'The number the next transaction that writes will get: all that wrote so far have a smaller one.';

-- A snapshot lists what runs below its xmax.  From there up to the horizon anything
-- may be running, but for the caller's own transaction, which the snapshot leaves out.
CREATE FUNCTION crm._transactions_ended(horizon bigint) RETURNS boolean
LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT NOT EXISTS (SELECT FROM pg_snapshot_xip(s.snapshot) AS x WHERE x::text::bigint < horizon)
       AND horizon - s.xmax - (s.own >= s.xmax AND s.own < horizon)::integer <= 0
FROM (SELECT pg_current_snapshot() AS snapshot,
             pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xmax,
             coalesce(pg_current_xact_id_if_assigned()::text::bigint, 0) AS own) AS s
$$;

COMMENT ON FUNCTION crm._transactions_ended(bigint) IS
'True if every transaction with a number below this one has ended, the caller''s own aside.';

CREATE FUNCTION crm._seal_audit(workspace name, max_rows integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema_oid oid := (SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = workspace);
    previous record;
    pending record;
    row_count bigint;
    digest bytea;
    newest bigint;
    sealed bigint := 0;
BEGIN
    PERFORM pg_advisory_xact_lock('crm.seal_audit(name,integer)'::regprocedure::oid::integer, schema_oid::integer);

    -- A seal is first opened, with the newest id given out so far and the first
    -- transaction yet to come, and closed once all earlier transactions have ended:
    -- then no row up to that id can still appear.
    FOR step IN 1..2 LOOP
        EXECUTE format('SELECT s.* FROM %I.audit_seal AS s WHERE s.digest IS NULL ORDER BY s.id LIMIT 1', workspace) INTO pending;
        IF pending.id IS NULL THEN
            EXECUTE format('SELECT coalesce(max(s.last_id), 0) AS last_id FROM %I.audit_seal AS s', workspace) INTO previous;
            EXECUTE format('SELECT max(w.id) FROM (SELECT l.id FROM %I.audit_log AS l WHERE l.id > $1 ORDER BY l.id LIMIT $2) AS w', workspace)
                INTO newest USING previous.last_id, max_rows;
            EXIT WHEN newest IS NULL;
            EXECUTE format('INSERT INTO %I.audit_seal (last_id, horizon) VALUES ($1, $2) RETURNING *', workspace)
                INTO pending USING newest, crm._next_transaction();
        END IF;
        -- A horizon from the future was set in the cluster this database was dumped from: all its transactions have ended.
        EXIT WHEN pending.horizon <= crm._next_transaction() AND NOT crm._transactions_ended(pending.horizon);
        EXECUTE format('SELECT coalesce(max(s.last_id), 0) AS last_id, coalesce(decode((array_agg(s.digest ORDER BY s.id DESC))[1], ''hex''), '''') AS digest
                        FROM %I.audit_seal AS s WHERE s.id < $1', workspace)
            INTO previous USING pending.id;
        SELECT d.row_count, d.digest INTO row_count, digest
        FROM crm._audit_digest(workspace, previous.last_id, pending.last_id, previous.digest) AS d;
        EXECUTE format('UPDATE %I.audit_seal SET row_count = $2, digest = encode($3, ''hex''), sealed_at = clock_timestamp() WHERE id = $1', workspace)
            USING pending.id, row_count, digest;
        sealed := sealed + row_count;
    END LOOP;
    RETURN sealed;
END
$$;

COMMENT ON FUNCTION crm._seal_audit(name, integer) IS
'What crm.seal_audit() does once its arguments are checked and the workspace''s owner acts.';

CREATE FUNCTION crm._seal_audit_as_owner(schema oid, workspace name, max_rows integer) RETURNS bigint
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_seal_audit_as_owner';

COMMENT ON FUNCTION crm._seal_audit_as_owner(oid, name, integer) IS
'Calls crm._seal_audit() as the owner of the schema where the caller is a member of that role, so that the owner''s triggers do not run with the rights of a superuser; otherwise as the caller.';

CREATE FUNCTION crm.seal_audit(workspace name, max_rows integer DEFAULT 1000000) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema_oid oid := crm._workspace_schema(workspace);
BEGIN
    IF max_rows < 1 OR max_rows > 10000000 THEN
        RAISE EXCEPTION 'max_rows must be between 1 and 10000000' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'crm.seal_audit() must run in a READ COMMITTED transaction'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'It must see which transactions have ended while it runs.';
    END IF;
    RETURN crm._seal_audit_as_owner(schema_oid, workspace, max_rows);
END
$$;

COMMENT ON FUNCTION crm.seal_audit(name, integer) IS
'Seals the audit log of a workspace: writes a SHA-256 over the rows since the last seal, chained to that seal, into audit_seal. Rows that a transaction still running might yet precede wait for a later call. It runs as the workspace''s owner when a member of that role or a superuser calls it. Run it regularly, in a READ COMMITTED transaction of its own; at most max_rows rows a seal and two seals a call. Returns the number of rows sealed.';

CREATE FUNCTION crm._audit_verify(workspace name) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    seal record;
    after_id bigint := 0;
    previous bytea := '';
    found record;
    intact boolean;
    result jsonb := '[]';
BEGIN
    FOR seal IN EXECUTE format('SELECT s.id::bigint, s.last_id::bigint, s.row_count::bigint, s.digest::text
                                FROM %I.audit_seal AS s WHERE s.digest IS NOT NULL ORDER BY s.id', workspace) LOOP
        SELECT d.row_count, d.digest INTO found
        FROM crm._audit_digest(workspace, after_id, seal.last_id, previous) AS d;
        intact := encode(found.digest, 'hex') = seal.digest;
        result := result || jsonb_build_object(
            'seal_id', seal.id, 'last_id', seal.last_id, 'row_count', found.row_count, 'intact', intact,
            'detail', CASE WHEN intact THEN NULL
                           WHEN found.row_count < seal.row_count THEN format('%s of %s rows are missing', seal.row_count - found.row_count, seal.row_count)
                           WHEN found.row_count > seal.row_count THEN format('%s rows were added', found.row_count - seal.row_count)
                           ELSE 'a row or the seal was changed' END);
        after_id := seal.last_id;
        previous := decode(seal.digest, 'hex');
    END LOOP;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._audit_verify(name) IS
'What crm.audit_verify() does once its argument is checked and the workspace''s owner acts: an array of its rows.';

CREATE FUNCTION crm._audit_verify_as_owner(schema oid, workspace name) RETURNS jsonb
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_audit_verify_as_owner';

COMMENT ON FUNCTION crm._audit_verify_as_owner(oid, name) IS
'Calls crm._audit_verify() as the owner of the schema where the caller is a member of that role, so that what the owner has put in place of the tables does not run with the rights of a superuser; otherwise as the caller.';

CREATE FUNCTION crm.audit_verify(workspace name, OUT seal_id bigint, OUT last_id bigint, OUT row_count bigint, OUT intact boolean, OUT detail text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema_oid oid := crm._workspace_schema(workspace);
BEGIN
    RETURN QUERY SELECT r.* FROM jsonb_to_recordset(crm._audit_verify_as_owner(schema_oid, workspace))
                     AS r (seal_id bigint, last_id bigint, row_count bigint, intact boolean, detail text);
END
$$;

COMMENT ON FUNCTION crm.audit_verify(name) IS
'Recomputes every seal of a workspace''s audit log, one row a seal: intact is false where sealed rows were changed, added or removed. Someone who can rewrite both the log and its seals is found out only by comparing the newest digest with a copy kept elsewhere. It runs as the workspace''s owner when a member of that role or a superuser calls it, and otherwise as the caller, who must be able to read the log. Error: 3F000 for a schema that is no workspace.';
