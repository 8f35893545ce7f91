-- Duplicate rules over statements of many rows: with workers the same as without.
\set SHOW_CONTEXT never
\set VERBOSITY terse
SET client_min_messages = warning;
SELECT crm.create_workspace('regress_duplicate_bulk');
CREATE ROLE regress_duplicate_bulk_ann;
SELECT crm.grant_access('regress_duplicate_bulk', 'regress_duplicate_bulk_ann', 'app');
GRANT USAGE ON SCHEMA crm_test TO regress_duplicate_bulk_ann;
SET search_path = regress_duplicate_bulk, pg_catalog;
CREATE TABLE supplier (no int PRIMARY KEY, firm text, tel text, city text);
CREATE INDEX supplier_match ON supplier USING crm_match (crm.match_keys('company,phone,city', firm, tel, city));
SELECT crm.guard_duplicates('supplier');
GRANT SELECT, INSERT, UPDATE ON supplier TO regress_duplicate_bulk_ann;
-- every hundredth row is a damaged copy of one before it, every thousandth of one that is there
CREATE VIEW bulk AS
SELECT i AS no, initcap(translate(md5(CASE WHEN i % 1000 = 7 THEN 1 - i / 1000 WHEN i % 100 = 0 THEN i - 50 ELSE i END::text), '0123456789', 'ghijklmnop'))
                || CASE WHEN i % 100 = 0 OR i % 1000 = 7 THEN ' Inc' ELSE ' Incorporated' END AS firm,
       '+1 212 555 ' || lpad((CASE WHEN i % 1000 = 7 THEN 1 - i / 1000 WHEN i % 100 = 0 THEN i - 50 ELSE i END % 10000)::text, 4, '0') AS tel, 'New York' AS city
FROM generate_series(1, 12000) AS i;
GRANT SELECT ON bulk TO regress_duplicate_bulk_ann;
INSERT INTO supplier SELECT -i, initcap(translate(md5((-i)::text), '0123456789', 'ghijklmnop')) || ' Incorporated', '+1 212 555 ' || lpad((-i % 10000)::text, 4, '0'), 'New York'
FROM generate_series(0, 20) AS i;
SELECT crm.analyze_matching('supplier');
INSERT INTO duplicate_rule (kind, name, action) VALUES ('supplier', 'once', 'record');

CREATE FUNCTION pairs() RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = regress_duplicate_bulk, pg_catalog AS $$
    SELECT count(*) || ' pairs ' || coalesce(md5(string_agg(format('%s %s %s %s', left_id, right_id, score, reasons), ',' ORDER BY left_id, right_id)), '')
    FROM duplicate_pair WHERE kind = 'supplier'
$$;
-- What comes of a statement, which is undone, by so many workers.
CREATE FUNCTION outcome(statement text, workers int) RETURNS text LANGUAGE plpgsql SET search_path = regress_duplicate_bulk, pg_catalog AS $$
DECLARE
    detail text; hint text;
BEGIN
    PERFORM set_config('max_parallel_maintenance_workers', workers::text, true);
    EXECUTE statement;
    RAISE EXCEPTION USING ERRCODE = 'RB000', MESSAGE = pairs();
EXCEPTION
    WHEN SQLSTATE 'RB000' THEN RETURN SQLERRM;
    WHEN SQLSTATE 'RMD01' THEN
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        RETURN format('%s: %s %s', SQLERRM, md5(detail), hint);
END
$$;
-- Whether workers took part, and it came to the same.  They may come late: then again.
CREATE FUNCTION same(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    alone text := regress_duplicate_bulk.outcome(statement, 0);
    helped bigint := crm_test.duplicate_chunks_helped();
    result text;
BEGIN
    FOR attempt IN 1 .. 50 LOOP
        result := regress_duplicate_bulk.outcome(statement, 2);
        IF result IS DISTINCT FROM alone THEN
            RETURN format('alone: %s; helped: %s', alone, result);
        END IF;
        IF crm_test.duplicate_chunks_helped() > helped THEN
            RETURN 'the same, helped: ' || regexp_replace(result, '[0-9a-f]{32}', 'md5');
        END IF;
    END LOOP;
    RETURN 'no worker took part';
END
$$;
SET ROLE regress_duplicate_bulk_ann;
SELECT same('INSERT INTO supplier SELECT * FROM bulk');
-- no worker is to be had; too few rows for one; none may come
SELECT crm_test.duplicate_chunks_helped() AS before \gset
BEGIN;
SET LOCAL max_parallel_workers = 0;
SELECT regexp_replace(outcome('INSERT INTO supplier SELECT * FROM bulk', 2), '[0-9a-f]{32}', 'md5');
SELECT regexp_replace(outcome('INSERT INTO supplier SELECT * FROM bulk LIMIT 5000', 2), '[0-9a-f]{32}', 'md5');
ROLLBACK;
SELECT crm_test.duplicate_chunks_helped() - :before AS helped;
-- a spilled transition table; statistics learned by the statement itself; a table changed in this transaction
SET work_mem = '64kB';
SELECT same('INSERT INTO supplier SELECT * FROM bulk');
RESET work_mem;
RESET ROLE;
SELECT same($$WITH learned AS (SELECT crm.analyze_matching('supplier')) INSERT INTO supplier SELECT bulk.* FROM bulk, learned$$);
BEGIN;
ALTER TABLE supplier ADD COLUMN more text DEFAULT 'x', ALTER COLUMN city TYPE varchar(50);
ALTER TABLE supplier DROP COLUMN more;
SELECT same('INSERT INTO supplier SELECT * FROM bulk');
ROLLBACK;
-- in a transaction that sees what it wrote before, at every level
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO supplier SELECT no + 100000, firm, tel, city FROM bulk WHERE no BETWEEN 101 AND 110;
SELECT same('INSERT INTO supplier SELECT * FROM bulk');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SAVEPOINT s;
SELECT same('INSERT INTO supplier SELECT * FROM bulk');
ROLLBACK;
-- UPDATE and MERGE
UPDATE duplicate_rule SET active = false;
INSERT INTO supplier SELECT no, 'Firm ' || no, NULL, NULL FROM bulk WHERE no % 2 = 0 OR no > 1000;
UPDATE duplicate_rule SET active = true;
SELECT same('UPDATE supplier AS s SET firm = b.firm, tel = b.tel, city = b.city FROM bulk AS b WHERE b.no = s.no');
SELECT same('MERGE INTO supplier AS s USING bulk AS b ON b.no = s.no WHEN MATCHED THEN UPDATE SET firm = b.firm, tel = b.tel, city = b.city
             WHEN NOT MATCHED THEN INSERT VALUES (b.no, b.firm, b.tel, b.city)');
DELETE FROM supplier WHERE no > 0;
-- rows that rules say nothing of are between; several rules; a reason given
UPDATE duplicate_rule SET condition = 'new.no > 6000 AND new.no % 3 <> 0';
INSERT INTO duplicate_rule (kind, name, action, threshold, condition, allow_override) VALUES ('supplier', 'never', 'block', 0.99, 'new.no % 1000 = 700 OR new.no > 11990', true);
SELECT same('INSERT INTO supplier SELECT * FROM bulk');
BEGIN;
SET LOCAL crm.duplicate_override = 'because';
SELECT same('INSERT INTO supplier SELECT * FROM bulk');
ROLLBACK;
-- of nothing but twins the first are told; of those recorded, none is lost where many are found
DELETE FROM duplicate_rule WHERE name = 'never';
UPDATE duplicate_rule SET condition = NULL, action = 'block';
-- (what a refused statement leaves in the index comes first in crowded keys; so here it is always there)
SELECT outcome('INSERT INTO supplier SELECT i, ''Soylent Corporation'', ''+1 650 253 0002'', NULL FROM generate_series(1, 12000) AS i', 0) IS NOT NULL AS refused;
SELECT same('INSERT INTO supplier SELECT i, ''Soylent Corporation'', ''+1 650 253 0002'', NULL FROM generate_series(1, 12000) AS i');
UPDATE duplicate_rule SET action = 'record';
SELECT same('INSERT INTO supplier SELECT i, ''Soylent '' || translate(md5((i % 2000)::text), ''0123456789'', ''ghijklmnop''),
                    ''+1 650 253 '' || lpad((i % 2000)::text, 4, ''0''), NULL FROM generate_series(1, 12000) AS i');
-- a temporary table is looked up by its session alone
CREATE TEMP TABLE passing (no int PRIMARY KEY, firm text, tel text);
CREATE INDEX ON passing USING crm_match (crm.match_keys('company,phone', firm, tel));
SELECT crm.guard_duplicates('passing', workspace => 'regress_duplicate_bulk');
INSERT INTO duplicate_rule (kind, name, action) VALUES ('passing', 'once', 'block');
SELECT crm_test.duplicate_chunks_helped() AS before \gset
SELECT regexp_replace(outcome('INSERT INTO pg_temp.passing SELECT no, firm, tel FROM bulk', 2), '[0-9a-f]{32}', 'md5');
SELECT crm_test.duplicate_chunks_helped() - :before AS helped;
DROP TABLE passing;
DROP SCHEMA regress_duplicate_bulk CASCADE;
DROP OWNED BY regress_duplicate_bulk_ann;
DROP ROLE regress_duplicate_bulk_ann;
