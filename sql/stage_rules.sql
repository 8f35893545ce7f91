-- Rules are checked when written, compiled once, and current in every session.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_stage_rules;
CREATE ROLE regress_stage_rules_app;
GRANT CREATE ON DATABASE contrib_regression TO regress_stage_rules;
GRANT USAGE ON SCHEMA crm, crm_test TO regress_stage_rules;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_stage_rules WITH GRANT OPTION;
SET ROLE regress_stage_rules;
SELECT crm.create_workspace('regress_stage_rules');
SET search_path = regress_stage_rules, pg_catalog;
INSERT INTO opportunity (id, name, amount) SELECT i, 'Deal ' || i, i FROM generate_series(1, 100) AS i;

-- fails: what cannot be a rule, when it is written
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', 'amout > 1');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', 'amount >');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', '');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', 'amount');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', 'true; DROP TABLE opportunity');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', 'true FROM opportunity');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', 'true, false');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', 'true AS x');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', 'true UNION SELECT false');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', 'EXISTS (SELECT FROM account)');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', 'count(*) > 1');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', 'generate_series(1, 9) > 1');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', '$1');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', 'new.ctid IS NULL');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'r', 'no_such_function(new.amount)');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'nowhere', 'r', 'true');
UPDATE stage SET required_fields = '{amount, colour}' WHERE pipeline = 'sales' AND name = 'won';
UPDATE stage SET required_fields = '{ctid}' WHERE pipeline = 'sales' AND name = 'won';
UPDATE stage_transition SET guard = 'nix' WHERE from_stage = 'qualification' AND to_stage = 'proposal';
UPDATE pipeline SET kind = 'lead', is_default = false WHERE name = 'sales';
DO $$
BEGIN
    PERFORM crm._check_stage_expression('opportunity', 'regress_stage_rules', repeat('(', 1000000));
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING '%', left(SQLERRM, 16);
END
$$;
SELECT crm._check_stage_expression('opportunity', 'pg_catalog', 'true');

-- a session compiles the rules of a table once
CREATE VIEW rebuilds AS SELECT crm_test.stage_rebuilds() AS n;
UPDATE opportunity SET description = 'x' WHERE id = 1;
SELECT n AS start FROM rebuilds \gset
DO $$
BEGIN
    FOR i IN 1 .. 1000 LOOP
        UPDATE opportunity SET stage = 'proposal' WHERE id = 2;
        UPDATE opportunity SET stage = 'qualification' WHERE id = 2;
    END LOOP;
END
$$;
SELECT n - :start AS rebuilds_by_2000_updates FROM rebuilds;
SELECT count(*) AS moves FROM stage_history WHERE kind = 'opportunity' AND record_id = 2;

-- and once more for each change, which counts at once
INSERT INTO stage_rule (pipeline, stage, name, expression, message) VALUES ('sales', 'proposal', 'size', 'new.amount >= 50', 'Proposals start at 50.');
UPDATE opportunity SET stage = 'proposal' WHERE id = 3;  -- fails
UPDATE opportunity SET stage = 'proposal' WHERE id = 53;
SELECT n - :start AS rebuilds FROM rebuilds;
UPDATE stage_rule SET expression = 'amount >= 5' WHERE name = 'size';
UPDATE opportunity SET stage = 'proposal' WHERE id = 3;  -- fails
UPDATE opportunity SET stage = 'proposal' WHERE id = 6;
SELECT n - :start AS rebuilds FROM rebuilds;
-- switched off and on
UPDATE stage_rule SET active = false WHERE name = 'size';
UPDATE opportunity SET stage = 'proposal' WHERE id = 3;
UPDATE opportunity SET stage = 'qualification' WHERE id = 3;
UPDATE stage_rule SET active = true WHERE name = 'size';
UPDATE opportunity SET stage = 'proposal' WHERE id = 3;  -- fails

-- a change that rolls back never was
BEGIN;
DELETE FROM stage_rule WHERE name = 'size';
UPDATE opportunity SET stage = 'proposal' WHERE id = 4;
ROLLBACK;
UPDATE opportunity SET stage = 'proposal' WHERE id = 4;  -- fails
BEGIN;
SAVEPOINT s;
UPDATE stage_rule SET expression = 'false' WHERE name = 'size';
ROLLBACK TO s;
UPDATE opportunity SET stage = 'proposal' WHERE id = 7;
COMMIT;
BEGIN;
TRUNCATE stage_rule;
UPDATE opportunity SET stage = 'proposal' WHERE id = 4;
ROLLBACK;
UPDATE opportunity SET stage = 'proposal' WHERE id = 4;  -- fails
-- rules written by replication or under session_replication_role are heard of too
RESET ROLE;
SET session_replication_role = replica;
UPDATE stage_rule SET expression = 'amount >= 4' WHERE name = 'size';
RESET session_replication_role;
SET ROLE regress_stage_rules;
UPDATE opportunity SET stage = 'proposal' WHERE id = 4;

-- NULL is not met; several criteria are all reported
DELETE FROM stage_rule;
INSERT INTO stage_rule (pipeline, stage, applies_on, name, expression, message, hint) VALUES
    ('sales', 'proposal', 'entry', 'dated', 'new.close_date > ''2026-01-01''', NULL, NULL),
    ('sales', 'proposal', 'entry', 'never', 'false', 'This never is.', 'Give up.'),
    ('sales', 'qualification', 'exit', 'grown', 'new.amount > old.amount', 'The amount must have grown.', NULL);
UPDATE opportunity SET stage = 'proposal' WHERE id = 10;
SELECT stage, allowed, jsonb_pretty(missing) AS missing FROM next_stages('opportunity', 10) WHERE stage = 'proposal';
DELETE FROM stage_rule;

-- fails: an error in a rule is no answer; it stays what it is, and its context names the rule
CREATE FUNCTION ratio(numeric) RETURNS numeric LANGUAGE sql AS 'SELECT 100 / ($1 - 10) FROM (VALUES (1)) AS v (x) WHERE x > 0';
INSERT INTO stage_rule (pipeline, stage, applies_on, name, expression) VALUES
    ('sales', 'proposal', 'entry', 'ratio', 'ratio(new.amount) IS NOT NULL'),
    ('sales', 'qualification', 'exit', 'number', 'coalesce(new.description, ''1'')::integer > 0');
UPDATE stage_transition SET guard = 'chr(new.id::integer - 9) <> ''x''' WHERE from_stage = 'qualification' AND to_stage = 'proposal';
\set SHOW_CONTEXT always
UPDATE opportunity SET stage = 'proposal' WHERE id = 10;
UPDATE opportunity SET stage = 'proposal', description = 'many' WHERE id = 11;
UPDATE opportunity SET stage = 'proposal' WHERE id = 9;
SELECT stage, allowed FROM next_stages('opportunity', 10);
-- what one move did not survive, the next ones do, in the same transaction and after it
DO $$
BEGIN
    FOR i IN 1 .. 50 LOOP
        BEGIN
            UPDATE opportunity SET stage = 'proposal' WHERE id IN (10 + i % 2);
            RAISE EXCEPTION 'moved' USING ERRCODE = 'ZZ001';
        EXCEPTION WHEN division_by_zero THEN
            IF i % 2 = 1 THEN RAISE; END IF;
        WHEN SQLSTATE 'ZZ001' THEN
            IF i % 2 = 0 THEN RAISE; END IF;
        END;
    END LOOP;
END
$$;
\set SHOW_CONTEXT never
UPDATE opportunity SET stage = 'proposal' WHERE id = 11 RETURNING stage;
UPDATE opportunity SET stage = 'qualification' WHERE id = 11 RETURNING stage;
UPDATE stage_transition SET guard = NULL WHERE from_stage = 'qualification' AND to_stage = 'proposal';
DELETE FROM stage_rule;

-- a rule sees the row as it will be, on INSERT with nothing before it
INSERT INTO stage_rule (pipeline, stage, name, expression)
VALUES ('sales', 'qualification', 'filled', 'old.id IS NULL AND old IS NULL AND new.stage = ''qualification'' AND new.pipeline = ''sales''');
INSERT INTO opportunity (id, name) VALUES (201, 'Late') RETURNING stage;
UPDATE stage_rule SET expression = 'new.stage IS NULL';
INSERT INTO opportunity (id, name) VALUES (202, 'Late') RETURNING stage;  -- fails
DELETE FROM stage_rule;
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'lost', 'stamped', 'closed_at > old.created_at');
UPDATE opportunity SET stage = 'lost', lost_reason = 'price' WHERE id = 11 RETURNING stage;
DELETE FROM stage_rule;

-- functions: run as whoever moves, found by the workspace's path only, followed when they change
CREATE FUNCTION is_big(numeric) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN $1 >= 10; END $$;
CREATE FUNCTION who() RETURNS text LANGUAGE sql AS $$ SELECT current_user::text $$;
REVOKE ALL ON FUNCTION is_big(numeric), who() FROM PUBLIC;
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'big', 'is_big(amount)');
UPDATE opportunity SET stage = 'proposal' WHERE id = 12;
UPDATE opportunity SET stage = 'proposal' WHERE id = 5;  -- fails
CREATE OR REPLACE FUNCTION is_big(numeric) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN $1 >= 5; END $$;
UPDATE opportunity SET stage = 'proposal' WHERE id = 5;
CREATE SCHEMA regress_stage_evil;
CREATE FUNCTION regress_stage_evil.is_big(numeric) RETURNS boolean LANGUAGE sql AS 'SELECT true';
SET search_path = regress_stage_evil, regress_stage_rules, pg_catalog;
UPDATE opportunity SET stage = 'proposal' WHERE id = 1;  -- fails: not that function
SET search_path = regress_stage_rules, pg_catalog;
-- fails: the role that moves may not execute it, though this session has compiled it for another role
GRANT USAGE ON SCHEMA regress_stage_rules TO regress_stage_rules_app;
GRANT SELECT, UPDATE ON opportunity TO regress_stage_rules_app;
RESET ROLE;
ALTER ROLE regress_stage_rules_app BYPASSRLS;
SET ROLE regress_stage_rules_app;
UPDATE opportunity SET stage = 'proposal' WHERE id = 13;
SET ROLE regress_stage_rules;
GRANT EXECUTE ON FUNCTION is_big(numeric), who() TO regress_stage_rules_app;
SET ROLE regress_stage_rules_app;
UPDATE opportunity SET stage = 'proposal' WHERE id = 13 RETURNING stage;
SET ROLE regress_stage_rules;
UPDATE stage_rule SET expression = 'who() = ''regress_stage_rules_app''' WHERE name = 'big';
UPDATE opportunity SET stage = 'proposal' WHERE id = 14;  -- fails
SET ROLE regress_stage_rules_app;
UPDATE opportunity SET stage = 'proposal' WHERE id = 14 RETURNING stage;
SET ROLE regress_stage_rules;
-- a function that is gone stops the moves of its rule, not the others
UPDATE stage_rule SET expression = 'is_big(amount)' WHERE name = 'big';
DROP FUNCTION is_big(numeric);
UPDATE opportunity SET stage = 'proposal' WHERE id = 15;  -- fails
UPDATE opportunity SET stage = 'lost', lost_reason = 'x' WHERE id = 15 RETURNING stage;
CREATE FUNCTION is_big(numeric) RETURNS boolean LANGUAGE sql AS 'SELECT true';
UPDATE opportunity SET stage = 'proposal' WHERE id = 16 RETURNING stage;
DELETE FROM stage_rule;

-- a rule's function may move another record, and change the rules it runs under
CREATE FUNCTION move_next(bigint) RETURNS boolean LANGUAGE plpgsql AS
$$ BEGIN
    IF $1 < 63 THEN
        UPDATE opportunity SET stage = 'proposal' WHERE id = $1 + 1;
    ELSE
        UPDATE stage SET description = 'deep' WHERE name = 'proposal';
        UPDATE opportunity SET stage = 'proposal' WHERE id = 70;
    END IF;
    RETURN true;
END $$;
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES
    ('sales', 'proposal', 'domino', 'CASE WHEN id BETWEEN 60 AND 63 THEN move_next(id) ELSE true END AND amount = id');
UPDATE opportunity SET stage = 'proposal' WHERE id = 60;
SELECT id, stage FROM opportunity WHERE id BETWEEN 60 AND 70 AND stage = 'proposal' ORDER BY id;
DELETE FROM stage_rule;

-- a cancelled rule is cancelled, not a fault
CREATE FUNCTION forever() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN LOOP PERFORM 1; END LOOP; END $$;
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'forever', 'forever()');
SET statement_timeout = '100ms';
UPDATE opportunity SET stage = 'proposal' WHERE id = 20;
RESET statement_timeout;
DELETE FROM stage_rule;
UPDATE opportunity SET stage = 'proposal' WHERE id = 20 RETURNING stage;

-- columns come and go
ALTER TABLE opportunity ADD COLUMN budget_confirmed boolean;
UPDATE stage SET required_fields = '{amount,budget_confirmed}' WHERE name = 'proposal';
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'budget', 'budget_confirmed');
UPDATE opportunity SET stage = 'proposal' WHERE id = 21;  -- fails
UPDATE opportunity SET stage = 'proposal', budget_confirmed = true WHERE id = 21 RETURNING stage;
ALTER TABLE opportunity DROP COLUMN budget_confirmed;
UPDATE opportunity SET stage = 'proposal' WHERE id = 22;  -- fails: the rule is broken
UPDATE stage_rule SET active = false WHERE name = 'budget';
UPDATE opportunity SET stage = 'proposal' WHERE id = 22;  -- fails: the field is still required
UPDATE stage_rule SET active = true WHERE name = 'budget';
ALTER TABLE opportunity ADD COLUMN budget_confirmed text;
UPDATE opportunity SET stage = 'proposal', budget_confirmed = 'yes' WHERE id = 22 RETURNING stage;  -- fails: no boolean
SELECT stage, allowed FROM next_stages('opportunity', 22);  -- fails likewise
UPDATE opportunity SET stage = 'lost', lost_reason = 'x' WHERE id = 22 RETURNING stage;
DELETE FROM stage_rule;
UPDATE stage SET required_fields = '{amount}' WHERE name = 'proposal';
ALTER TABLE opportunity ADD COLUMN gross numeric GENERATED ALWAYS AS (amount * 1.2) STORED;
-- fails: a generated column is not there yet
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'gross', 'new.gross > 1');
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'gross', 'new IS NOT NULL');
UPDATE stage SET required_fields = '{gross}' WHERE name = 'proposal';
INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'gross', 'old.gross > 1');
UPDATE opportunity SET stage = 'proposal' WHERE id = 23 RETURNING stage;
ALTER TABLE opportunity RENAME COLUMN stage TO step;
UPDATE opportunity SET name = 'x' WHERE id = 24;  -- fails, and says what to do
SELECT crm.guard_stages('opportunity', 'opportunity', stage_column => 'step');
UPDATE opportunity SET step = 'won' WHERE id = 24;  -- fails
UPDATE opportunity SET step = 'proposal' WHERE id = 24 RETURNING step;

-- long texts: values a rule compares, expressions and messages
SELECT crm.guard_stages('opportunity', 'opportunity', stage_column => 'step');
INSERT INTO stage_rule (pipeline, stage, name, expression, message, hint) VALUES
    ('sales', 'proposal', 'long', 'length(description) = 1000000 AND length(old.description) = 999999 /*' || repeat('x', 1000000) || '*/', NULL, NULL),
    ('sales', 'proposal', 'said', 'description = ''' || repeat('值', 300000) || '''', repeat('m', 1000000), repeat('h', 1000000));
UPDATE opportunity SET description = repeat('y', 999999) WHERE id = 25;
DO $$
DECLARE
    detail text; hint text;
BEGIN
    UPDATE opportunity SET step = 'proposal', description = repeat('y', 999998) WHERE id = 25;
EXCEPTION WHEN SQLSTATE 'RMS01' THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RAISE WARNING '% | % characters of detail, % of hint', SQLERRM, length(detail), length(hint);
END
$$;
SELECT stage, allowed, length(missing ->> 0), length(missing -> 1 ->> 'message') FROM next_stages('opportunity', 25) WHERE stage = 'proposal';
DELETE FROM stage_rule WHERE name = 'said';
UPDATE opportunity SET step = 'proposal', description = repeat('y', 1000000) WHERE id = 25 RETURNING step;
DELETE FROM stage_rule;
-- fails: an expression too deep
DO $$
BEGIN
    INSERT INTO stage_rule (pipeline, stage, name, expression) VALUES ('sales', 'proposal', 'deep', repeat('NOT ', 250000) || 'true');
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING '% %', SQLSTATE, left(SQLERRM, 70);
END
$$;

DROP SCHEMA regress_stage_evil CASCADE;
DROP SCHEMA regress_stage_rules CASCADE;
RESET ROLE;
DROP OWNED BY regress_stage_rules, regress_stage_rules_app;
DROP ROLE regress_stage_rules, regress_stage_rules_app;
