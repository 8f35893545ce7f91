-- A log takes rows directly while nothing of it needs the executor, and honours whatever its owner adds.
\set SHOW_CONTEXT never
\pset format unaligned
SET client_min_messages = warning;
CREATE ROLE regress_audit_log_owner;
CREATE ROLE regress_audit_log_tenant;
GRANT CREATE ON DATABASE contrib_regression TO regress_audit_log_owner, regress_audit_log_tenant;
SELECT crm.grant_toolkit('regress_audit_log_owner'), crm.grant_toolkit('regress_audit_log_tenant');
CREATE SCHEMA regress_audit_log AUTHORIZATION regress_audit_log_owner;
SET ROLE regress_audit_log_owner;
SET search_path = regress_audit_log, pg_catalog;
SELECT crm.create_workspace('regress_audit_log_ws');
CREATE TABLE audit_log (LIKE regress_audit_log_ws.audit_log INCLUDING ALL);
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT crm.enable_audit('t');
RESET ROLE;
GRANT USAGE ON SCHEMA crm_test TO regress_audit_log_owner;
GRANT EXECUTE ON FUNCTION crm_test.audit_rows_direct() TO regress_audit_log_owner;
SET ROLE regress_audit_log_owner;
CREATE TEMP TABLE mark (n bigint);
INSERT INTO mark VALUES (0);
-- how the rows since the last call were written
CREATE FUNCTION pg_temp.how(OUT direct bigint, OUT logged bigint) LANGUAGE plpgsql AS $$
DECLARE
    now_direct bigint := crm_test.audit_rows_direct();
BEGIN
    direct := now_direct - (SELECT n FROM mark);
    logged := (SELECT count(*) FROM regress_audit_log.audit_log WHERE xmin::text = (SELECT xmin::text FROM regress_audit_log.audit_log ORDER BY id DESC LIMIT 1));
    UPDATE mark SET n = now_direct;
END $$;
SELECT direct >= 0 AS started FROM pg_temp.how();

INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 500) AS i;
SELECT * FROM pg_temp.how();
COPY t FROM stdin;
1001	x
1002	y
\.
SELECT * FROM pg_temp.how();
UPDATE t SET v = v || '!' WHERE id <= 3;
SELECT * FROM pg_temp.how();
-- each index finds what the heap holds, and ids are in order
SET enable_seqscan = off;
SELECT count(*) FROM audit_log WHERE record_id BETWEEN 1 AND 500 AND kind = 't';
SELECT count(*) FROM audit_log WHERE id > 0;
SELECT count(*) FROM audit_log WHERE changed_at > '2000-01-01';
RESET enable_seqscan;
SELECT count(*), count(DISTINCT id) = count(*) AS distinct_ids, bool_and(new ->> 'v' IS NOT NULL) AS has_new FROM audit_log;
SELECT record_id, old, new FROM audit_log WHERE operation = 'UPDATE' ORDER BY id;

-- a rolled back savepoint takes its rows along; cursors, exceptions and nested triggers do not disturb
BEGIN;
INSERT INTO t VALUES (2001, 'kept');
SAVEPOINT a;
INSERT INTO t VALUES (2002, 'gone');
ALTER TABLE audit_log ADD COLUMN gone int;
INSERT INTO t VALUES (2003, 'gone');
ROLLBACK TO a;
INSERT INTO t VALUES (2004, 'kept');
DECLARE c CURSOR FOR SELECT * FROM t WHERE id > 2000 ORDER BY id;
FETCH 1 FROM c;
DO $$
BEGIN
    UPDATE regress_audit_log.t SET v = 'moved' WHERE id = 2001;
    BEGIN
        INSERT INTO regress_audit_log.t VALUES (2005, 'gone');
        PERFORM 1 / 0;
    EXCEPTION WHEN division_by_zero THEN
        NULL;
    END;
END $$;
FETCH 1 FROM c;
UPDATE t SET v = 'last' WHERE CURRENT OF c;
COMMIT;
SELECT operation, record_id, new ->> 'v' AS v FROM audit_log WHERE record_id > 2000 ORDER BY id;
CREATE TABLE child (id int PRIMARY KEY, t_id int REFERENCES t ON DELETE CASCADE);
SELECT crm.enable_audit('child');
CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO regress_audit_log.child VALUES (NEW.id * 10, NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER a_follow AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION follow();
INSERT INTO t VALUES (3001, 'a'), (3002, 'b');
DELETE FROM t WHERE id = 3001;
SELECT operation, kind, record_id FROM audit_log WHERE record_id IN (3001, 3002, 30010, 30020) ORDER BY kind, record_id, id;
DROP TRIGGER a_follow ON t;

-- triggers that fire between the rows of a statement see all rows before theirs; what they roll back takes no row of others along
CREATE TABLE looked (id int, rows bigint, own bigint);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        BEGIN
            PERFORM count(*) FROM regress_audit_log.audit_log;
        EXCEPTION WHEN undefined_table THEN NULL;
        END;
        UPDATE regress_audit_log.t SET v = 'changed again' WHERE id = NEW.id;
        IF NEW.id % 2 = 1 THEN RAISE division_by_zero; END IF;
    EXCEPTION WHEN division_by_zero THEN NULL;
    END;
    INSERT INTO regress_audit_log.looked
    SELECT NEW.id, count(DISTINCT record_id), count(*) FILTER (WHERE record_id = NEW.id) FROM regress_audit_log.audit_log WHERE record_id BETWEEN 3101 AND 3199;
    RETURN NULL;
END $$;
CREATE TRIGGER zz_look AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION look();
INSERT INTO t SELECT i, 'new' FROM generate_series(3101, 3105) AS i;
COPY t FROM stdin;
3106	copied
3107	copied
\.
SELECT * FROM looked ORDER BY id;
SELECT record_id, string_agg(operation, ' ' ORDER BY id) FROM audit_log WHERE record_id BETWEEN 3101 AND 3199 GROUP BY 1 ORDER BY 1;
SET enable_seqscan = off;
SELECT count(*), count(DISTINCT id) FROM audit_log WHERE record_id BETWEEN 3101 AND 3199;
RESET enable_seqscan;
DROP TRIGGER zz_look ON t;
-- a trigger that changes the log while rows are on their way to it, and rows for two logs in turns
CREATE FUNCTION extend() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id = 3202 THEN ALTER TABLE regress_audit_log.audit_log ADD COLUMN midway int DEFAULT 7; END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER zz_extend AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION extend();
CREATE TRIGGER crm_audit_too AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION crm.audit('other', 'log=regress_audit_log_ws.audit_log');
INSERT INTO t SELECT i, 'new' FROM generate_series(3201, 3204) AS i;
SELECT record_id, kind, midway FROM audit_log WHERE record_id BETWEEN 3201 AND 3299 ORDER BY id;
SELECT record_id, kind FROM regress_audit_log_ws.audit_log WHERE record_id BETWEEN 3201 AND 3299 ORDER BY id;
DROP TRIGGER zz_extend ON t;
DROP TRIGGER crm_audit_too ON t;
ALTER TABLE audit_log DROP COLUMN midway;
-- a procedure that commits, and a constraint trigger that fires at the end of the transaction
DO $$
BEGIN
    FOR i IN 3301..3303 LOOP
        INSERT INTO regress_audit_log.t VALUES (i, 'new');
        IF i = 3302 THEN ROLLBACK; ELSE COMMIT; END IF;
    END LOOP;
END $$;
CREATE CONSTRAINT TRIGGER crm_audit_later AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION crm.audit('later');
INSERT INTO t VALUES (3304, 'new'), (3305, 'new');
DROP TRIGGER crm_audit_later ON t;
SELECT record_id, kind FROM audit_log WHERE record_id BETWEEN 3301 AND 3399 ORDER BY id;

-- a partitioned table, values of 1 MB that move to the log's digest, and many columns
CREATE TABLE part (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE part_a PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_b (v text, id int NOT NULL);
ALTER TABLE part ATTACH PARTITION part_b FOR VALUES FROM (10) TO (20);
SELECT crm.enable_audit('part');
SELECT crm_test.audit_rows_direct() IS NOT NULL AS marked FROM pg_temp.how();
INSERT INTO part VALUES (1, 'a'), (11, 'b'), (2, repeat('x', 1048576)), (3, repeat('y', 60000));
UPDATE part SET id = id + 10 WHERE id = 2;
SELECT * FROM pg_temp.how();
SELECT operation, table_name, record_id, left(old ->> 'v', 80) AS old, left(new ->> 'v', 80) AS new, length(new ->> 'v') AS length
FROM audit_log WHERE kind = 'part' ORDER BY id;
DO $$
BEGIN
    EXECUTE 'CREATE TABLE regress_audit_log.wide (id int PRIMARY KEY, ' || (SELECT string_agg(format('%I %s', repeat('c', 1 + i % 9) || i,
        (ARRAY['text', 'int', 'numeric', 'boolean', 'jsonb', 'timestamptz', 'smallint', 'uuid', 'int[]'])[1 + i % 9]), ', ') FROM generate_series(1, 200) AS i) || ')';
    PERFORM crm.enable_audit('regress_audit_log.wide');
    EXECUTE 'INSERT INTO regress_audit_log.wide VALUES (1, ' || (SELECT string_agg(
        (ARRAY['''tëxt''', '-7', '''NaN''', 'true', '''{"a": [1, {"b": "c"}], "d": null}''', '''2026-01-02 03:04:05.678+00''', '32767',
               '''00000000-0000-0000-0000-00000000000f''', '''{1,NULL}'''])[1 + i % 9], ', ') FROM generate_series(1, 200) AS i) || ')';
END $$;
UPDATE wide SET cc1 = 1, ccc2 = 1e20, ccc11 = 0.10, ccc20 = 'Infinity', ccccc4 = '"scalar"', ccccc13 = 'null', ccccc22 = '3.50', ccccc31 = '[]', cccc3 = false;
-- what is logged is what to_jsonb() says, also after a text round trip that checks the binary form
SELECT bool_and(l.new::text::jsonb = l.new) AS sound,
       count(*) AS columns, bool_and(e.value = l.new -> e.key) AS found
FROM audit_log AS l, jsonb_each(l.new) AS e WHERE l.kind = 'wide' AND l.operation = 'INSERT';
SELECT old, new FROM audit_log WHERE kind = 'wide' AND operation = 'UPDATE';
SELECT l.new - 'ccccc13' = (SELECT jsonb_object_agg(e.key, e.value) FROM jsonb_each(to_jsonb(w)) AS e WHERE l.new ? e.key AND e.key <> 'ccccc13') AS same
FROM audit_log AS l, wide AS w WHERE l.kind = 'wide' AND l.operation = 'UPDATE';
SELECT * FROM pg_temp.how();

-- the log extended: columns with constant defaults, dropped columns and more indexes are still direct
ALTER TABLE audit_log ADD COLUMN note text DEFAULT 'noted' NOT NULL, ADD COLUMN empty int, ADD COLUMN dropped text DEFAULT 'x';
INSERT INTO t VALUES (4001, 'a');
ALTER TABLE audit_log DROP COLUMN dropped;
INSERT INTO t VALUES (4002, 'a');
CREATE INDEX by_member ON audit_log (member_id, note);
CREATE INDEX by_new ON audit_log USING gin (new);
INSERT INTO t VALUES (4003, 'findme');
SELECT direct FROM pg_temp.how();
SET enable_seqscan = off;
SELECT record_id, note, empty FROM audit_log WHERE new @> '{"v": "findme"}';
SELECT count(*) FROM audit_log WHERE member_id IS NULL AND note = 'noted' AND record_id > 4000;
RESET enable_seqscan;
-- fails: a unique index of the owner's own, through the direct path
ALTER TABLE audit_log ADD COLUMN only_one int DEFAULT 1;
DELETE FROM audit_log;
CREATE UNIQUE INDEX once ON audit_log (only_one);
INSERT INTO t VALUES (4004, 'a');
\set VERBOSITY terse
INSERT INTO t VALUES (4005, 'a');
\set VERBOSITY default
DROP INDEX once;
SELECT direct FROM pg_temp.how();
-- each of these needs the executor; without it the log is written directly again
BEGIN;
ALTER TABLE audit_log ADD COLUMN at timestamptz DEFAULT clock_timestamp();
INSERT INTO t VALUES (5001, 'volatile default');
SELECT direct FROM pg_temp.how();
SELECT at IS NOT NULL AS filled FROM audit_log WHERE record_id = 5001;
ROLLBACK;
BEGIN;
ALTER TABLE audit_log ADD COLUMN upper text GENERATED ALWAYS AS (upper(new ->> 'v')) STORED;
INSERT INTO t VALUES (5002, 'generated');
SELECT direct FROM pg_temp.how();
SELECT upper FROM audit_log WHERE record_id = 5002;
ROLLBACK;
BEGIN;
CREATE INDEX ON audit_log ((new ->> 'v'));
INSERT INTO t VALUES (5003, 'expression index');
SELECT direct FROM pg_temp.how();
SET LOCAL enable_seqscan = off;
SELECT record_id FROM audit_log WHERE new ->> 'v' = 'expression index';
ROLLBACK;
BEGIN;
ALTER TABLE audit_log ALTER COLUMN application TYPE varchar(3) USING left(application, 3);
SET LOCAL application_name = 'abc';
INSERT INTO t VALUES (5004, 'another type');
SELECT direct FROM pg_temp.how();
SELECT application FROM audit_log WHERE record_id = 5004;
ROLLBACK;
BEGIN;
CREATE TABLE copied (LIKE audit_log);
CREATE RULE also AS ON INSERT TO audit_log DO ALSO INSERT INTO regress_audit_log.copied (changed_at, clock_at, transaction_id, operation, kind, table_name, record_id, note, id)
    VALUES (NEW.changed_at, NEW.clock_at, 0, 'RULE', 'x', 'x', NEW.record_id, 'x', 0);
INSERT INTO t VALUES (5005, 'rule');
SELECT direct FROM pg_temp.how();
SELECT operation, record_id FROM copied;
ROLLBACK;
BEGIN;
ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON audit_log FOR INSERT WITH CHECK (kind <> 't');
-- fails: the owner's own policy
INSERT INTO t VALUES (5006, 'policy');
ROLLBACK;
SELECT direct FROM pg_temp.how();
BEGIN;
ALTER TABLE audit_log ALTER COLUMN member_id SET NOT NULL;
ROLLBACK;
ALTER TABLE audit_log ADD COLUMN must int;
ALTER TABLE audit_log ADD CONSTRAINT must_not CHECK (must IS NULL OR must > 0);
INSERT INTO t VALUES (5007, 'constraint');
SELECT direct FROM pg_temp.how();
ALTER TABLE audit_log DROP CONSTRAINT must_not;
UPDATE t SET v = 'x' WHERE id = 5007;
SELECT direct FROM pg_temp.how();
-- fails: a row the log refuses
CREATE TABLE strict_log (LIKE audit_log INCLUDING ALL);
ALTER TABLE strict_log ALTER COLUMN member_id SET NOT NULL;
CREATE TABLE strict (id int PRIMARY KEY);
SELECT crm.enable_audit('strict', audit_log => 'strict_log');
\set VERBOSITY sqlstate
INSERT INTO strict VALUES (1);
\set VERBOSITY default
SELECT count(*) FROM strict;
-- a trigger of the log's own fires, as the owner, from the first row after it was made
CREATE TABLE seen (record_id bigint, who text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO regress_audit_log.seen VALUES (NEW.record_id, current_user);
    RETURN NEW;
END $$;
CREATE TRIGGER see BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION see();
INSERT INTO t VALUES (6001, 'a');
SELECT direct FROM pg_temp.how();
DROP TRIGGER see ON audit_log;
INSERT INTO t VALUES (6002, 'a');
SELECT direct FROM pg_temp.how();
SELECT * FROM seen;
-- a log that is partitioned
ALTER TABLE audit_log RENAME TO old_log;
CREATE TABLE audit_log (LIKE old_log INCLUDING DEFAULTS INCLUDING IDENTITY) PARTITION BY LIST (kind);
CREATE SEQUENCE log_id;
ALTER TABLE audit_log ALTER COLUMN id DROP IDENTITY IF EXISTS, ALTER COLUMN id SET DEFAULT nextval('regress_audit_log.log_id');
CREATE TABLE audit_log_t PARTITION OF audit_log FOR VALUES IN ('t');
INSERT INTO t VALUES (7001, 'a');
SELECT direct FROM pg_temp.how();
SELECT tableoid::regclass, record_id FROM audit_log;

-- a superuser who seals a tenant's log lends the tenant no rights
RESET ROLE;
SET ROLE regress_audit_log_tenant;
SELECT crm.create_workspace('regress_audit_log_tenant');
CREATE TABLE regress_audit_log_tenant.acted (who text, super boolean);
CREATE FUNCTION regress_audit_log_tenant.act() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO regress_audit_log_tenant.acted VALUES (current_user, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user));
    RETURN NEW;
END $$;
CREATE TRIGGER act BEFORE INSERT OR UPDATE ON regress_audit_log_tenant.audit_seal FOR EACH ROW EXECUTE FUNCTION regress_audit_log_tenant.act();
CREATE CONSTRAINT TRIGGER act_later AFTER INSERT ON regress_audit_log_tenant.audit_seal DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION regress_audit_log_tenant.act();
INSERT INTO regress_audit_log_tenant.account (name) VALUES ('Acme');
RESET ROLE;
SELECT crm.seal_audit('regress_audit_log_tenant') > 0 AS sealed;
SELECT DISTINCT who, super FROM regress_audit_log_tenant.acted;
SELECT count(*) FROM regress_audit_log_tenant.acted;
-- ... nor one who verifies it, whatever stands where the tables were, now or at the end of the transaction
SELECT bool_and(intact) AS intact FROM crm.audit_verify('regress_audit_log_tenant');
SET ROLE regress_audit_log_tenant;
TRUNCATE regress_audit_log_tenant.acted;
CREATE FUNCTION regress_audit_log_tenant.spy(text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO regress_audit_log_tenant.acted VALUES (current_user, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user));
    RETURN $1;
END $$;
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON regress_audit_log_tenant.acted DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.who IS NOT NULL AND pg_trigger_depth() = 0) EXECUTE FUNCTION regress_audit_log_tenant.act();
ALTER TABLE regress_audit_log_tenant.audit_seal RENAME TO seal;
CREATE VIEW regress_audit_log_tenant.audit_seal AS SELECT id, last_id, row_count, regress_audit_log_tenant.spy(digest) AS digest FROM regress_audit_log_tenant.seal;
RESET ROLE;
SELECT bool_and(intact) AS intact FROM crm.audit_verify('regress_audit_log_tenant');
SELECT DISTINCT who, super FROM regress_audit_log_tenant.acted;
-- fails: another role without rights of its own
SET ROLE regress_audit_log_owner;
SELECT crm.seal_audit('regress_audit_log_tenant');
SELECT * FROM crm.audit_verify('regress_audit_log_tenant');

RESET ROLE;
RESET search_path;
DROP TABLE mark;
DROP SCHEMA regress_audit_log, regress_audit_log_ws, regress_audit_log_tenant CASCADE;
DROP OWNED BY regress_audit_log_owner, regress_audit_log_tenant;
DROP ROLE regress_audit_log_owner, regress_audit_log_tenant;
