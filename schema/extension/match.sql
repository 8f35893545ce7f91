CREATE FUNCTION crm.match_keys(roles text, VARIADIC "values" "any") RETURNS integer[]
LANGUAGE C IMMUTABLE LEAKPROOF PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'crm_match_keys_sql';

COMMENT ON FUNCTION crm.match_keys(text, "any") IS
'The keys under which a record is found by crm.find_matches(). roles says what each value is, separated by commas: company, given_name, family_name, full_name, phone, email, tax_id, website, street, city, region, postcode, country, birth_date, national_id. Values are text or, for birth_date, date; NULL is blank. Of a value the first 4096 bytes are read. Errors: 22023 for an unknown or repeated role or another number of values than roles, 42804 for a value of another type. The keys never change, whatever the locale, the settings or the version of ICU.';

-- Restricted: what this session has put off for an index, its parallel workers cannot see.
CREATE FUNCTION crm._match_satisfies(integer[], integer[]) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL RESTRICTED COST 10 AS 'MODULE_PATHNAME', 'crm_match_satisfies';

COMMENT ON FUNCTION crm._match_satisfies(integer[], integer[]) IS
'Implements the operator crm.@@.';

CREATE FUNCTION crm._match_selectivity(internal, oid, internal, integer) RETURNS double precision
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_match_selectivity';

COMMENT ON FUNCTION crm._match_selectivity(internal, oid, internal, integer) IS
'Restriction estimator of crm.@@: a matching query is made to find few rows.';

CREATE OPERATOR crm.@@ (
    LEFTARG = integer[], RIGHTARG = integer[],
    FUNCTION = crm._match_satisfies, RESTRICT = crm._match_selectivity
);

COMMENT ON OPERATOR crm.@@ (integer[], integer[]) IS
'Keys satisfy a matching query: a threshold (1 to 1000) followed by pairs of key and weight (1 to 1000). True if the weights of the keys present add up to the threshold.';

CREATE FUNCTION crm._match_compare(integer, integer) RETURNS integer
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'btint4cmp';

COMMENT ON FUNCTION crm._match_compare(integer, integer) IS
'Order of matching keys inside a crm.match_ops index.';

CREATE FUNCTION crm._match_extract_value(integer[], internal) RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_match_extract_value';
COMMENT ON FUNCTION crm._match_extract_value(integer[], internal) IS 'GIN support of crm.match_ops.';

CREATE FUNCTION crm._match_extract_query(integer[], internal, smallint, internal, internal, internal, internal) RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_match_extract_query';
COMMENT ON FUNCTION crm._match_extract_query(integer[], internal, smallint, internal, internal, internal, internal) IS 'GIN support of crm.match_ops.';

CREATE FUNCTION crm._match_consistent(internal, smallint, integer[], integer, internal, internal, internal, internal) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_match_consistent';
COMMENT ON FUNCTION crm._match_consistent(internal, smallint, integer[], integer, internal, internal, internal, internal) IS 'GIN support of crm.match_ops.';

CREATE FUNCTION crm._match_tri_consistent(internal, smallint, integer[], integer, internal, internal, internal) RETURNS "char"
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_match_tri_consistent';
COMMENT ON FUNCTION crm._match_tri_consistent(internal, smallint, integer[], integer, internal, internal, internal) IS 'GIN support of crm.match_ops.';

CREATE OPERATOR FAMILY crm.match_ops USING gin;
COMMENT ON OPERATOR FAMILY crm.match_ops USING gin IS 'Finding records by a weighted sum of matching keys.';

CREATE OPERATOR CLASS crm.match_ops FOR TYPE integer[] USING gin FAMILY crm.match_ops AS
    OPERATOR 1 crm.@@ (integer[], integer[]),
    FUNCTION 1 crm._match_compare(integer, integer),
    FUNCTION 2 crm._match_extract_value(integer[], internal),
    FUNCTION 3 crm._match_extract_query(integer[], internal, smallint, internal, internal, internal, internal),
    FUNCTION 4 crm._match_consistent(internal, smallint, integer[], integer, internal, internal, internal, internal),
    FUNCTION 6 crm._match_tri_consistent(internal, smallint, integer[], integer, internal, internal, internal),
    STORAGE integer;
COMMENT ON OPERATOR CLASS crm.match_ops USING gin IS
'For indexes on crm.match_keys(...) that enter every row at once. Create them WITH (fastupdate = off): a search reads the list of pending entries whole.';

CREATE FUNCTION crm.match_index_handler(internal) RETURNS index_am_handler
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_match_index_handler';
COMMENT ON FUNCTION crm.match_index_handler(internal) IS 'Handler of access method crm_match.';

CREATE ACCESS METHOD crm_match TYPE INDEX HANDLER crm.match_index_handler;
COMMENT ON ACCESS METHOD crm_match IS
'Matching indexes: GIN that enters the keys of a transaction''s new rows together, in the order of the index, before the transaction commits or its own session reads the index. Until then they take up to maintenance_work_mem of memory for each index.';

CREATE OPERATOR FAMILY crm.match_ops USING crm_match;
COMMENT ON OPERATOR FAMILY crm.match_ops USING crm_match IS 'Finding records by a weighted sum of matching keys.';

CREATE OPERATOR CLASS crm.match_ops DEFAULT FOR TYPE integer[] USING crm_match FAMILY crm.match_ops AS
    OPERATOR 1 crm.@@ (integer[], integer[]),
    FUNCTION 1 crm._match_compare(integer, integer),
    FUNCTION 2 crm._match_extract_value(integer[], internal),
    FUNCTION 3 crm._match_extract_query(integer[], internal, smallint, internal, internal, internal, internal),
    FUNCTION 4 crm._match_consistent(internal, smallint, integer[], integer, internal, internal, internal, internal),
    FUNCTION 6 crm._match_tri_consistent(internal, smallint, integer[], integer, internal, internal, internal),
    STORAGE integer;
COMMENT ON OPERATOR CLASS crm.match_ops USING crm_match IS
'For indexes on crm.match_keys(...): CREATE INDEX ON customer USING crm_match (crm.match_keys(''company,phone'', name, phone)).';

CREATE FUNCTION crm.find_matches(relation regclass, record jsonb, max_results integer DEFAULT 10, OUT id text, OUT score real, OUT reasons jsonb)
RETURNS SETOF record LANGUAGE C STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'crm_find_matches';

COMMENT ON FUNCTION crm.find_matches(regclass, jsonb, integer) IS
'Rows of a table that may mean the same as a record, best first: primary key as text, probability (0 to 1) and reasons. The table needs an index on crm.match_keys(...) and a primary key of one column. record has the table''s column names; other columns than those of the index are ignored, and a record with the value of the primary key does not find itself. reasons is an array of {field, level, weight}; the weights, in bits, add up to log2(score / (1 - score)), and a last entry {"field": "search", "level": "truncated"} says that rows agreeing in something very common alone were not looked at. Reads as the caller, under row security. Errors: 22023 for max_results outside 1 to 1000 or a record that is no object of strings and numbers, 42703 for a field that is no column, 55000 without index.';

CREATE FUNCTION crm._match_table(workspace regnamespace, kind text) RETURNS regclass
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_match_table';

COMMENT ON FUNCTION crm._match_table(regnamespace, text) IS
'The table of a workspace that holds the records of a kind; an error if they cannot be matched.';

CREATE FUNCTION crm.find_duplicates(workspace regnamespace, kind text, record jsonb, max_results integer DEFAULT 10, OUT id bigint, OUT score real, OUT reasons jsonb)
RETURNS SETOF record LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT m.id::bigint, m.score, m.reasons FROM crm.find_matches(crm._match_table(workspace, kind), record, max_results) AS m $$;

COMMENT ON FUNCTION crm.find_duplicates(regnamespace, text, jsonb, integer) IS
'crm.find_matches() on the table of a workspace that holds the records of a kind: account, contact, lead or any table of the workspace with an index on crm.match_keys(...).';

CREATE FUNCTION crm._compare_records(relation regclass, record jsonb, other jsonb, needed double precision, OUT score real, OUT reasons jsonb, OUT bits double precision, OUT quick double precision)
LANGUAGE C STABLE STRICT
AS 'MODULE_PATHNAME', 'crm_compare_records';

COMMENT ON FUNCTION crm._compare_records(regclass, jsonb, jsonb, double precision) IS
'Implements crm.compare_records(); bits is the log-odds of the score, and quick the same as a scan computes it that needs so many: minus infinity where bits are fewer.';

CREATE FUNCTION crm.compare_records(relation regclass, record jsonb, other jsonb, OUT score real, OUT reasons jsonb)
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT c.score, c.reasons FROM crm._compare_records(relation, record, other, '-Infinity') AS c $$;

COMMENT ON FUNCTION crm.compare_records(regclass, jsonb, jsonb) IS
'Do two records mean the same? The probability (0 to 1) and its reasons, as crm.find_matches() would give them. relation is a table with a matching index, whose column names both records have; neither needs to be stored. The caller needs SELECT on the table. Errors: 22023 for a record that is no object of strings and numbers, 42703 for a field that is no column.';

CREATE FUNCTION crm._analyze_matching(relation regclass, OUT rows bigint, OUT keys bytea)
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_analyze_matching';

COMMENT ON FUNCTION crm._analyze_matching(regclass) IS
'Reads a table and counts its matching keys: the number of rows, and pairs of key and count, four bytes each, of what occurs more than once.';

CREATE FUNCTION crm.match_statistics_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_match_statistics_changed';

COMMENT ON FUNCTION crm.match_statistics_changed() IS
'Trigger after each row of a match_statistics table: tells all sessions to load the statistics anew.';

CREATE FUNCTION crm._match_statistics_loads() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_match_statistics_loads';

COMMENT ON FUNCTION crm._match_statistics_loads() IS
'How often this session has loaded matching statistics.';

CREATE FUNCTION crm._rows_changed(relation regclass) RETURNS bigint
LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
RETURN pg_stat_get_tuples_inserted(relation) + pg_stat_get_tuples_updated(relation) + pg_stat_get_tuples_deleted(relation)
       + pg_stat_get_xact_tuples_inserted(relation) + pg_stat_get_xact_tuples_updated(relation) + pg_stat_get_xact_tuples_deleted(relation);

COMMENT ON FUNCTION crm._rows_changed(regclass) IS
'Rows of a table that were inserted, updated and deleted so far, as the server counts them (track_counts); it starts from 0 again after a crash and pg_stat_reset().';

CREATE FUNCTION crm._create_match_statistics(schema name) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    EXECUTE format($ddl$
        CREATE TABLE IF NOT EXISTS %1$I.match_statistics (
            id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
            relation text NOT NULL,
            version bigint NOT NULL,
            rows bigint NOT NULL,
            keys bytea NOT NULL,
            changes bigint NOT NULL DEFAULT 0,
            analyzed_at timestamptz NOT NULL DEFAULT now(),
            UNIQUE (relation, version)
        );
        COMMENT ON TABLE %1$I.match_statistics IS 'How common names, phones and other values are in tables of this schema: what finding duplicates has learned from them. crm.analyze_matching() adds a version.';
        COMMENT ON COLUMN %1$I.match_statistics.id IS 'Identifier.';
        COMMENT ON COLUMN %1$I.match_statistics.relation IS 'Name of the table in this schema.';
        COMMENT ON COLUMN %1$I.match_statistics.version IS 'Counts up with each analysis; the highest is used.';
        COMMENT ON COLUMN %1$I.match_statistics.rows IS 'Rows that were read.';
        COMMENT ON COLUMN %1$I.match_statistics.keys IS 'Keys that occur more than once, ascending, each with its count: four bytes each.';
        COMMENT ON COLUMN %1$I.match_statistics.changes IS 'Rows that had been inserted, updated and deleted by then, as the server counted: crm.doctor() tells when half as many again have changed since.';
        COMMENT ON COLUMN %1$I.match_statistics.analyzed_at IS 'When the table was read.';
        ALTER TABLE %1$I.match_statistics ALTER COLUMN keys SET STORAGE EXTERNAL;
        CREATE OR REPLACE TRIGGER match_statistics_changed AFTER INSERT OR UPDATE OR DELETE ON %1$I.match_statistics
            FOR EACH ROW EXECUTE FUNCTION crm.match_statistics_changed();
        $ddl$, schema);
END
$$;

COMMENT ON FUNCTION crm._create_match_statistics(name) IS
'Creates the table match_statistics in a schema unless it has one.';

CREATE FUNCTION crm._old_statistics(schema regnamespace, OUT rel regclass, OUT rows bigint, OUT analyzed_at timestamptz)
RETURNS SETOF record LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF has_table_privilege(to_regclass(format('%s.match_statistics', schema)), 'SELECT') THEN
        RETURN QUERY EXECUTE format(
            'SELECT s.rel, s.rows, s.analyzed_at
             FROM (SELECT DISTINCT ON (c.oid) c.oid::regclass AS rel, s.rows, s.analyzed_at, s.changes
                   FROM %s.match_statistics AS s JOIN pg_class AS c ON c.relname = s.relation AND c.relnamespace = $1
                   ORDER BY c.oid, s.version DESC) AS s
             WHERE crm._rows_changed(s.rel) - s.changes > s.rows / 2', schema) USING schema::oid;
    END IF;
END
$$;

COMMENT ON FUNCTION crm._old_statistics(regnamespace) IS
'Tables of a schema of which as many rows as half of those that matching statistics were learned from have changed since.';

CREATE FUNCTION crm.analyze_matching(relation regclass) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema name;
    relname name;
    current bigint;
BEGIN
    SELECT n.nspname, c.relname INTO schema, relname
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = relation AND pg_has_role(c.relowner, 'USAGE');
    IF schema IS NULL THEN
        RAISE EXCEPTION 'must be owner of table %', relation USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF to_regclass(format('%I.match_statistics', schema)) IS NULL THEN
        PERFORM crm._create_match_statistics(schema);
    END IF;
    PERFORM pg_advisory_xact_lock('crm.analyze_matching(regclass)'::regprocedure::oid::integer, relation::oid::integer);
    EXECUTE format('SELECT coalesce(max(s.version), 0) FROM %I.match_statistics AS s WHERE s.relation = $1', schema)
        INTO current USING relname;
    EXECUTE format('INSERT INTO %I.match_statistics (relation, version, rows, keys, changes) SELECT $1, $2, a.rows, a.keys, crm._rows_changed($3) FROM crm._analyze_matching($3) AS a', schema)
        USING relname, current + 1, relation;
    -- The version before stays, so that scores given with it can be understood.
    EXECUTE format('DELETE FROM %I.match_statistics AS s WHERE s.relation = $1 AND s.version < $2', schema)
        USING relname, current;
    RETURN current + 1;
END
$$;

COMMENT ON FUNCTION crm.analyze_matching(regclass) IS
'Learns how common each name, phone, address and other value is in a table with a matching index, as ANALYZE does for the planner: run it after loading and now and then afterwards. Stores a new version in table match_statistics of the same schema and keeps the one before; returns its number. Before the first run, matching works with assumptions. The caller must be a member of the role that owns the table.';

CREATE FUNCTION crm._scan_duplicates(workspace regnamespace, kind text, relation regclass, threshold real, whole boolean) RETURNS bigint
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'crm_scan_duplicates';

COMMENT ON FUNCTION crm._scan_duplicates(regnamespace, text, regclass, real, boolean) IS
'Implements crm.scan_duplicates().';

CREATE FUNCTION crm.scan_duplicates(workspace regnamespace, kind text, threshold real DEFAULT NULL, whole boolean DEFAULT false) RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm._scan_duplicates(workspace, kind, crm._match_table(workspace, kind), threshold, whole) $$;

COMMENT ON FUNCTION crm.scan_duplicates(regnamespace, text, real, boolean) IS
'Compares the records of a kind and writes pairs and clusters that mean the same to duplicate_pair and duplicate_cluster of the workspace; decisions made about them stay, pairs told apart (not_duplicate) never meet in one cluster, and pairs said to be the same (duplicate) are in one. threshold is the probability (between 0 and 1) from which a pair is reported; NULL takes the default, 0.5. The first scan reads the whole table; later ones only rows that changed since, unless whole is true, what the scores rest on is other than it was (threshold, statistics, model, columns), more than a tenth of the rows changed since the last scan of the whole table, or a key known as rare is shared by more than 300 records now. Returns the number of pairs. Works with up to max_parallel_maintenance_workers workers and at most crm.scan_memory of memory, in passes over parts of the table where that is little; crm.scan_progress() shows how far it is. The caller must be a member of the role that owns the workspace. Errors: 55P03 while another scan of the kind runs, 53400 when crm.scan_memory does not suffice for the records in pairs.';

CREATE FUNCTION crm.scan_progress(OUT pid integer, OUT workspace regnamespace, OUT kind text, OUT phase text, OUT done bigint, OUT total bigint, OUT workers integer, OUT started_at timestamptz)
RETURNS SETOF record LANGUAGE C VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'crm_scan_progress';

COMMENT ON FUNCTION crm.scan_progress() IS
'Scans for duplicates that run in this database, for owners of the workspace and members of pg_read_all_stats: the process, the phase (reading, sorting keys, linking keys, weighing, comparing, or reading changes, looking up, meeting and comparing changes, in passes of both kinds where memory is short, after counting and counting keys; then explaining, clustering, writing), how much of the phase is done of a total (rows, pairs or parts, by phase; the total of reading is an estimate), the parallel workers that help, and when the scan began.';
