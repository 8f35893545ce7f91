-- A matching index has every row that is committed, and for its own session every row, whatever the transaction did.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS crm CASCADE;
CREATE SCHEMA regress_match_index;
SET search_path = regress_match_index, public;
RESET client_min_messages;

CREATE TABLE firm (id bigint PRIMARY KEY, name text);
CREATE INDEX firm_match ON firm USING crm_match (crm.match_keys('company', name));
-- Rows that have the first key of a name, by the index; and whether the table says the same of each key of each row.
CREATE FUNCTION named(name text) RETURNS bigint[] LANGUAGE sql SET enable_seqscan = off AS
$$ SELECT array_agg(id ORDER BY id) FROM firm AS f WHERE crm.match_keys('company', f.name) OPERATOR(crm.@@) (SELECT ARRAY[1, k[1], 1] FROM crm.match_keys('company', named.name) AS k) $$;
CREATE FUNCTION entries() RETURNS TABLE (key integer, rows bigint[]) LANGUAGE sql SET enable_seqscan = off AS
$$ SELECT k.key, (SELECT array_agg(f.id ORDER BY f.id) FROM firm AS f WHERE crm.match_keys('company', f.name) OPERATOR(crm.@@) ARRAY[1, k.key, 1])
   FROM (SELECT DISTINCT u.key FROM firm AS f, unnest(crm.match_keys('company', f.name)) AS u (key)) AS k $$;
CREATE FUNCTION complete() RETURNS boolean LANGUAGE sql AS
$$ WITH in_table AS (SELECT u.key, array_agg(DISTINCT f.id ORDER BY f.id) AS rows FROM firm AS f, unnest(crm.match_keys('company', f.name)) AS u (key) GROUP BY 1),
        in_index AS (SELECT * FROM entries())
   SELECT NOT EXISTS (TABLE in_table EXCEPT TABLE in_index) AND NOT EXISTS (TABLE in_index EXCEPT TABLE in_table) $$;
EXPLAIN (COSTS OFF) SELECT id FROM firm AS f WHERE crm.match_keys('company', f.name) OPERATOR(crm.@@) ARRAY[1, 2, 1];

-- found by who wrote them, before the commit, and after it
BEGIN;
INSERT INTO firm VALUES (1, 'Zenith Bakery'), (2, 'Zenith Brewery'), (3, NULL), (4, '');
SELECT named('Zenith Bakery');
INSERT INTO firm VALUES (5, 'Zenith Bakery Ltd');
SELECT id FROM crm.find_matches('firm', '{"name": "zenith bakery"}', 3) ORDER BY 1;
UPDATE firm SET name = 'Quite Another' WHERE id = 1;
SELECT named('Quite Another'), named('Zenith Bakery');
COMMIT;
SELECT named('Quite Another'), named('Zenith Bakery'), complete();

-- what a subtransaction wrote is gone with it, and what was written around it is not
BEGIN;
INSERT INTO firm VALUES (10, 'Wayne Enterprises');
DO $$
BEGIN
    INSERT INTO firm VALUES (11, 'Wayne Foundation');
    BEGIN
        INSERT INTO firm VALUES (12, 'Stark Industries');
        BEGIN
            INSERT INTO firm VALUES (13, 'Stark Towers');
        EXCEPTION WHEN others THEN NULL;
        END;
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN NULL;
    END;
    BEGIN
        INSERT INTO firm VALUES (14, 'Acme Corporation');
    EXCEPTION WHEN others THEN NULL;
    END;
END $$;
INSERT INTO firm VALUES (15, 'Acme Products');
SAVEPOINT s;
INSERT INTO firm VALUES (16, 'Acme Rockets');
ROLLBACK TO s;
INSERT INTO firm VALUES (17, 'Acme Anvils');
COMMIT;
SELECT array_agg(id ORDER BY id) FROM firm WHERE id >= 10;
SELECT complete();
VACUUM firm;
SELECT complete();
-- what a reader within a subtransaction has entered stays, and is not entered for rows that are gone
BEGIN;
INSERT INTO firm VALUES (20, 'Umbrella Group');
DO $$
BEGIN
    INSERT INTO firm VALUES (21, 'Umbrella Chemicals');
    IF named('Umbrella Group') IS NULL THEN RAISE 'not found'; END IF;
    RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN NULL;
END $$;
COMMIT;
SELECT named('Umbrella Group'), complete();

-- rows that ON CONFLICT proposes
BEGIN;
INSERT INTO firm VALUES (20, 'Umbrella Twice'), (22, 'Umbrella Once') ON CONFLICT (id) DO NOTHING;
INSERT INTO firm VALUES (20, 'Umbrella Renamed'), (23, 'Umbrella New') ON CONFLICT (id) DO UPDATE SET name = excluded.name;
COMMIT;
SELECT named('Umbrella Renamed'), named('Umbrella Group'), complete();

-- statements that change index or table before the commit
BEGIN;
INSERT INTO firm VALUES (30, 'Hooli Search');
REINDEX INDEX firm_match;
INSERT INTO firm VALUES (31, 'Hooli Box');
CLUSTER firm USING firm_pkey;
INSERT INTO firm VALUES (32, 'Hooli Phone');
SAVEPOINT s;
REINDEX INDEX firm_match;
INSERT INTO firm VALUES (33, 'Hooli Nucleus');
ROLLBACK TO s;
ALTER TABLE firm ADD COLUMN note text DEFAULT md5(random()::text);
INSERT INTO firm VALUES (34, 'Hooli Chat', 'x');
COMMIT;
SELECT named('Hooli Chat'), complete();
BEGIN;
INSERT INTO firm VALUES (40, 'Hooli Gone');
TRUNCATE firm;
INSERT INTO firm VALUES (41, 'Hooli Stays');
COMMIT;
SELECT named('Hooli Stays'), complete();
BEGIN;
INSERT INTO firm VALUES (42, 'Hooli Once More');
DROP INDEX firm_match;
INSERT INTO firm VALUES (43, 'Hooli Twice More');
CREATE INDEX firm_match ON firm USING crm_match (crm.match_keys('company', name));
INSERT INTO firm VALUES (44, 'Hooli Thrice More');
COMMIT;
SELECT complete();
BEGIN;
CREATE TABLE brief (name text);
CREATE INDEX ON brief USING crm_match (crm.match_keys('company', name));
INSERT INTO brief VALUES ('Hooli');
TRUNCATE brief;
INSERT INTO brief VALUES ('Hooli');
DROP TABLE brief;
COMMIT;

-- two-phase commit, and a procedure that commits
BEGIN;
INSERT INTO firm VALUES (50, 'Initech Software');
PREPARE TRANSACTION 'regress_match_index';
COMMIT PREPARED 'regress_match_index';
DO $$
BEGIN
    FOR i IN 51..55 LOOP
        INSERT INTO firm VALUES (i, 'Initech Software');
        IF i % 2 = 0 THEN COMMIT; ELSIF i = 53 THEN ROLLBACK; END IF;
    END LOOP;
END $$;
SELECT named('Initech Software'), complete();

-- more than memory has room for
SET maintenance_work_mem = '1MB';
INSERT INTO firm SELECT i, format('Firm %s of %s Street', i / 3, i % 1000) FROM generate_series(1000, 5999) AS i;
RESET maintenance_work_mem;
SELECT complete();
DELETE FROM firm WHERE id % 3 = 0;
VACUUM firm;
UPDATE firm SET name = name || ' Ltd' WHERE id % 3 = 1;
SELECT complete();
-- a key that very many rows of one statement have
TRUNCATE firm;
INSERT INTO firm SELECT i, 'Jo Public' FROM generate_series(1, 20000) AS i;
SELECT cardinality(named('Jo Public'));
-- built and rebuilt while others may write
DELETE FROM firm WHERE id > 50;
CREATE INDEX CONCURRENTLY firm_match_2 ON firm USING crm_match (crm.match_keys('company', name));
DROP INDEX firm_match;
INSERT INTO firm VALUES (60000, 'Vandelay Industries');
REINDEX INDEX CONCURRENTLY firm_match_2;
SELECT named('Vandelay Industries'), complete();
-- what no row could be entered in is refused when it is made, of an empty table too; text by another name is text
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION citext SCHEMA regress_match_index;
CREATE TABLE other (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "Na""me" citext, kinds text[], born date) PARTITION BY HASH (id);
CREATE TABLE other_0 PARTITION OF other FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE VIEW seen AS SELECT * FROM other_0;
CREATE INDEX ON other_0 USING crm_match (crm.match_keys('fax', "Na""me"));
CREATE INDEX ON other_0 USING crm_match (crm.match_keys('company,phone', "Na""me"));
CREATE INDEX ON other USING crm_match (crm.match_keys('company,phone', "Na""me", kinds));
CREATE INDEX ON other USING crm_match (crm.match_keys('company,birth_date', "Na""me", born));
INSERT INTO other ("Na""me") VALUES ('Zenith Bakery');
SELECT score > 0.5 AS found FROM crm.find_matches('other_0', '{"Na\"me": "ZENITH bakery"}');
-- fails: what is no table by itself
\set VERBOSITY default
SELECT * FROM crm.find_matches('other', '{"born": "2000-01-01"}');
SELECT * FROM crm.find_matches('seen', '{"born": "2000-01-01"}');
SELECT * FROM crm.find_matches(0, '{}');
RESET client_min_messages;
-- fails: several columns; another type; an index that is no matching index though it has the keys
CREATE INDEX ON firm USING crm_match (crm.match_keys('company', name), crm.match_keys('company', note));
CREATE INDEX ON firm USING crm_match (name);
DROP INDEX firm_match_2;
CREATE INDEX ON firm (crm.match_keys('company', name));
SELECT * FROM crm.find_matches('firm', '{"name": "Vandelay"}');

SET client_min_messages = warning;
DROP SCHEMA regress_match_index CASCADE;
