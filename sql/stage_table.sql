-- Any table can be held to stage rules: a user's own, without a pipeline column, partitioned.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_stage_table;
GRANT CREATE ON DATABASE contrib_regression TO regress_stage_table;
GRANT USAGE ON SCHEMA crm TO regress_stage_table;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_stage_table WITH GRANT OPTION;
SET ROLE regress_stage_table;
SELECT crm.create_workspace('regress_stage_table');
CREATE SCHEMA regress_stage_own;
SET search_path = regress_stage_own, pg_catalog;

CREATE TABLE ticket (ticket_no integer PRIMARY KEY, subject text, status varchar(20), solution text, ended date);
INSERT INTO regress_stage_table.pipeline (name, kind, is_default) VALUES ('support', 'ticket', true);
INSERT INTO regress_stage_table.stage (pipeline, name, position, type, is_initial, required_fields) VALUES
    ('support', 'new', 1, 'open', true, '{}'),
    ('support', 'open', 2, 'open', true, '{}'),
    ('support', 'solved', 3, 'won', false, '{solution}'),
    ('support', 'rejected', 4, 'lost', false, '{}');
INSERT INTO regress_stage_table.stage_transition (pipeline, from_stage, to_stage) VALUES
    ('support', 'new', 'open'), ('support', 'open', 'solved'), ('support', 'new', 'rejected'), ('support', 'solved', 'open');
-- fails: which table, which workspace, which column, which rules
SELECT crm.guard_stages('ticket', 'ticket', 'status');
SELECT crm.guard_stages('ticket', 'ticket', 'state', workspace => 'regress_stage_table');
SELECT crm.guard_stages('ticket', NULL, 'status', workspace => 'regress_stage_table');
UPDATE regress_stage_table.stage SET required_fields = '{answer}' WHERE pipeline = 'support' AND name = 'solved';
SELECT crm.guard_stages('ticket', 'ticket', 'status', id_column => 'ticket_no', workspace => 'regress_stage_table');
UPDATE regress_stage_table.stage SET required_fields = '{solution}' WHERE pipeline = 'support' AND name = 'solved';
SELECT crm.guard_stages('ticket', 'ticket', 'status', id_column => 'ticket_no', closed_at_column => 'ended', workspace => 'regress_stage_table');
SELECT relation, kind FROM crm.guarded_tables('regress_stage_table') ORDER BY kind;

INSERT INTO ticket (ticket_no, subject) VALUES (1, 'It hurts') RETURNING status;
INSERT INTO ticket (ticket_no, subject, status) VALUES (2, 'It itches', 'open') RETURNING status;
INSERT INTO ticket (ticket_no, subject, status) VALUES (3, 'It is gone', 'solved');  -- fails
UPDATE ticket SET status = 'solved' WHERE ticket_no = 2;  -- fails
UPDATE ticket SET status = 'solved', solution = 'Ointment' WHERE ticket_no = 2 RETURNING status, ended IS NOT NULL AS ended;
UPDATE ticket SET status = 'open' WHERE ticket_no = 2 RETURNING status, ended;
SELECT stage, allowed FROM crm.next_stages('regress_stage_table', 'ticket', 1);
SELECT record_id, from_stage, pipeline, stage, type FROM regress_stage_table.stage_history WHERE kind = 'ticket' ORDER BY id;
SELECT * FROM crm.next_stages('regress_stage_table', 'ticket', 99);
SELECT * FROM crm.next_stages('regress_stage_table', 'unknown', 1);  -- fails
SELECT * FROM crm.next_stages('pg_catalog', 'ticket', 1);  -- fails

-- rows from before the guard stand where they stood, until they move
CREATE TABLE old_ticket (id bigint PRIMARY KEY, stage text, note text, solution text);
INSERT INTO old_ticket VALUES (101, NULL), (102, 'ancient'), (103, 'open');
SELECT crm.guard_stages('old_ticket', 'ticket', workspace => 'regress_stage_table');
UPDATE old_ticket SET note = 'kept';
UPDATE old_ticket SET stage = 'solved' WHERE id = 101;  -- fails: it starts like a new one
UPDATE old_ticket SET stage = 'open' WHERE id IN (101, 102);
UPDATE old_ticket SET stage = 'solved', solution = 'x' WHERE id = 103 RETURNING stage;
SELECT record_id, from_stage, stage FROM regress_stage_table.stage_history WHERE record_id > 100 ORDER BY record_id, id;

-- without history an id may be anything
CREATE TABLE note (id uuid PRIMARY KEY, stage text, solution text);
SELECT crm.guard_stages('note', 'ticket', workspace => 'regress_stage_table');
INSERT INTO note VALUES ('00000000-0000-0000-0000-000000000001');  -- fails
SELECT crm.guard_stages('note', 'ticket', history => false, workspace => 'regress_stage_table');
INSERT INTO note VALUES ('00000000-0000-0000-0000-000000000001') RETURNING stage;
UPDATE note SET stage = 'solved';  -- fails
-- fails: a stage that does not fit its column
CREATE TABLE narrow (id bigint, stage varchar(2), solution text);
SELECT crm.guard_stages('narrow', 'ticket', workspace => 'regress_stage_table');
INSERT INTO narrow VALUES (1);
CREATE TABLE numbered (id bigint, stage integer, solution text);
SELECT crm.guard_stages('numbered', 'ticket', workspace => 'regress_stage_table');
INSERT INTO numbered VALUES (1, 1);
-- fails: triggers made by hand, badly
CREATE TABLE hand (id bigint, stage text, solution text);
CREATE TRIGGER guard BEFORE INSERT ON hand FOR EACH ROW EXECUTE FUNCTION crm.stage_guard();
INSERT INTO hand VALUES (1);
CREATE OR REPLACE TRIGGER guard BEFORE INSERT ON hand FOR EACH ROW EXECUTE FUNCTION crm.stage_guard('ticket', 'colour=red');
INSERT INTO hand VALUES (1);
CREATE OR REPLACE TRIGGER guard BEFORE INSERT ON hand FOR EACH ROW EXECUTE FUNCTION crm.stage_guard('ticket');
INSERT INTO hand VALUES (1);
CREATE OR REPLACE TRIGGER guard BEFORE INSERT ON hand FOR EACH ROW EXECUTE FUNCTION crm.stage_guard('ticket', 'workspace=nowhere');
INSERT INTO hand VALUES (1);
DROP TRIGGER guard ON hand;
CREATE TRIGGER guard BEFORE INSERT ON hand FOR EACH STATEMENT EXECUTE FUNCTION crm.stage_guard('ticket');
INSERT INTO hand VALUES (1);
-- the BEFORE trigger alone judges new rows, too
DROP TRIGGER guard ON hand;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON hand FOR EACH ROW EXECUTE FUNCTION crm.stage_guard('ticket', 'workspace=regress_stage_table');
INSERT INTO hand VALUES (1) RETURNING stage;
INSERT INTO hand VALUES (2, 'solved', 'x');  -- fails

-- a kind that has no pipeline
SELECT crm.guard_stages('hand', 'widget', workspace => 'regress_stage_table');
DROP TRIGGER guard ON hand;
INSERT INTO hand VALUES (3);  -- fails

-- partitions: rows keep their stage when they change partition
CREATE TABLE job (id bigint, year integer, stage text, solution text) PARTITION BY LIST (year);
CREATE TABLE job_1 PARTITION OF job FOR VALUES IN (1);
CREATE TABLE job_2 (solution text, gone integer, stage text, id bigint, year integer);
ALTER TABLE job_2 DROP COLUMN gone;
ALTER TABLE job ATTACH PARTITION job_2 FOR VALUES IN (2);
SELECT crm.guard_stages('job', 'ticket', workspace => 'regress_stage_table');
INSERT INTO job (id, year) VALUES (10, 1), (11, 2) RETURNING id, stage;
INSERT INTO job (id, year, stage) VALUES (12, 1, 'solved');  -- fails
UPDATE job SET stage = 'open';
UPDATE job SET stage = 'solved';  -- fails
WITH moved AS (UPDATE job SET stage = 'solved', solution = 'y' RETURNING *) SELECT id, year, stage FROM moved ORDER BY id;
WITH moved AS (UPDATE job SET year = 3 - year RETURNING *) SELECT id, year, stage FROM moved ORDER BY id;
WITH moved AS (UPDATE job SET year = 3 - year, stage = 'open' RETURNING *) SELECT id, year, stage FROM moved ORDER BY id;
UPDATE job SET year = 3 - year, stage = 'rejected';  -- fails
SELECT record_id, from_stage, stage FROM regress_stage_table.stage_history WHERE record_id IN (10, 11) ORDER BY record_id, id;
SELECT stage, allowed FROM crm.next_stages('regress_stage_table', 'ticket', 1);

-- MERGE and upserts on partitions
CREATE TABLE task (id bigint, year integer, stage text, solution text, PRIMARY KEY (id, year)) PARTITION BY LIST (year);
CREATE TABLE task_1 PARTITION OF task FOR VALUES IN (1);
CREATE TABLE task_2 PARTITION OF task FOR VALUES IN (2);
SELECT crm.guard_stages('task', 'ticket', workspace => 'regress_stage_table');
MERGE INTO task AS t USING (VALUES (20, 1, 'new'), (21, 2, 'open')) AS v (id, year, stage) ON t.id = v.id
    WHEN NOT MATCHED THEN INSERT (id, year, stage) VALUES (v.id, v.year, v.stage);
MERGE INTO task AS t USING (VALUES (22, 2, 'solved')) AS v (id, year, stage) ON t.id = v.id
    WHEN NOT MATCHED THEN INSERT (id, year, stage) VALUES (v.id, v.year, v.stage);  -- fails
MERGE INTO task AS t USING (VALUES (20, 1, 'solved')) AS v (id, year, stage) ON t.id = v.id
    WHEN MATCHED THEN UPDATE SET stage = v.stage, solution = 'x';  -- fails
MERGE INTO task AS t USING (VALUES (20, 'open'), (21, 'solved')) AS v (id, stage) ON t.id = v.id
    WHEN MATCHED THEN UPDATE SET stage = v.stage, solution = 'x', year = 3 - t.year;
SELECT tableoid::regclass, id, year, stage FROM task ORDER BY id;
INSERT INTO task (id, year, stage) VALUES (20, 2, 'open'), (23, 1, 'open')
    ON CONFLICT (id, year) DO UPDATE SET stage = 'solved', solution = 'y' RETURNING id, stage;
INSERT INTO task (id, year, stage) VALUES (23, 1, 'open') ON CONFLICT (id, year) DO UPDATE SET stage = 'rejected';  -- fails
INSERT INTO task (id, year, stage) VALUES (23, 1, 'rejected') ON CONFLICT (id, year) DO UPDATE SET stage = 'solved', solution = 'z';  -- fails: on a partition the proposal must be legal, too
INSERT INTO task (id, year) VALUES (23, 1) ON CONFLICT DO NOTHING RETURNING id;
SELECT record_id, from_stage, stage FROM regress_stage_table.stage_history WHERE record_id BETWEEN 20 AND 29 ORDER BY record_id, id;

-- constraints that wait for the end of the transaction: a move they undo was none
CREATE TABLE bill (id bigint PRIMARY KEY, seat integer UNIQUE DEFERRABLE INITIALLY DEFERRED, stage text, solution text,
                   parent bigint REFERENCES bill DEFERRABLE INITIALLY DEFERRED, UNIQUE (solution) DEFERRABLE INITIALLY DEFERRED);
SELECT crm.guard_stages('bill', 'ticket', workspace => 'regress_stage_table');
BEGIN;
INSERT INTO bill (id, stage, parent) VALUES (30, 'open', 31);
UPDATE bill SET stage = 'solved', solution = 's' WHERE id = 30;
INSERT INTO bill (id, stage) VALUES (31, 'open');
COMMIT;
BEGIN;
UPDATE bill SET stage = 'solved', solution = 's' WHERE id = 31;
COMMIT;  -- fails
BEGIN;
UPDATE bill SET stage = 'solved', solution = 't', parent = 32 WHERE id = 31;
SET CONSTRAINTS ALL IMMEDIATE;  -- fails
COMMIT;
UPDATE bill SET seat = id - 30;
BEGIN;
UPDATE bill SET seat = 1 - seat, stage = CASE stage WHEN 'open' THEN 'solved' ELSE 'open' END, solution = coalesce(solution, 'u');
COMMIT;
BEGIN;
UPDATE bill SET seat = 1, stage = CASE stage WHEN 'open' THEN 'solved' ELSE 'open' END;
COMMIT;  -- fails
SELECT id, stage FROM bill ORDER BY id;
SELECT record_id, from_stage, stage FROM regress_stage_table.stage_history WHERE record_id BETWEEN 30 AND 39 ORDER BY id;
-- a deferred trigger moves records, too
CREATE FUNCTION escalate() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN UPDATE bill SET stage = 'new' WHERE id = NEW.id; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER escalate AFTER INSERT ON bill DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION escalate();
BEGIN;
INSERT INTO bill (id, stage) VALUES (33, 'open');
COMMIT;  -- fails
SELECT count(*) FROM bill WHERE id = 33;

-- a trigger that fires earlier, by name, has its say first
CREATE FUNCTION assign() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF new.subject LIKE 'Urgent%' THEN new.status := 'solved'; END IF; RETURN new; END $$;
CREATE TRIGGER assign BEFORE INSERT OR UPDATE ON ticket FOR EACH ROW EXECUTE FUNCTION assign();
UPDATE ticket SET subject = 'Urgent: itch' WHERE ticket_no = 1;  -- fails, though the statement names no stage

DROP SCHEMA regress_stage_own CASCADE;
DROP SCHEMA regress_stage_table CASCADE;
RESET ROLE;
DROP OWNED BY regress_stage_table;
DROP ROLE regress_stage_table;
