-- A record moves only as its pipeline's rules allow, whoever writes and however.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_stage_owner;
CREATE ROLE regress_stage_app;
GRANT CREATE ON DATABASE contrib_regression TO regress_stage_owner;
GRANT USAGE ON SCHEMA crm TO regress_stage_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_stage_owner WITH GRANT OPTION;
SET ROLE regress_stage_owner;
SELECT crm.create_workspace('regress_stage');
SET search_path = regress_stage, pg_catalog;

-- the rules that come with a workspace compile
SELECT crm._check_stage_rules('regress_stage', 'opportunity'), crm._check_stage_rules('regress_stage', 'lead');
SELECT relation, kind FROM crm.guarded_tables('regress_stage') ORDER BY kind;

-- a new record lands in the initial stage of the kind's default pipeline
INSERT INTO opportunity (name) VALUES ('Roof') RETURNING id, pipeline, stage, closed_at;
INSERT INTO lead (company) VALUES ('Acme') RETURNING pipeline, stage;

-- fails: every fault of the move in one error
UPDATE opportunity SET stage = 'won' WHERE id = 1;
UPDATE opportunity SET stage = 'negotiation' WHERE id = 1;
UPDATE opportunity SET stage = 'proposal' WHERE id = 1;
DO $$
DECLARE
    state text; message text; detail text; hint text; schema_name text; table_name text; column_name text;
BEGIN
    UPDATE opportunity SET stage = 'won' WHERE id = 1;
EXCEPTION WHEN SQLSTATE 'RMS01' THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT, schema_name = SCHEMA_NAME, table_name = TABLE_NAME, column_name = COLUMN_NAME;
    RAISE WARNING '% | % | % | % | %.%.%', state, message, detail, hint, schema_name, table_name, column_name
        USING ERRCODE = 'RMS01';
END
$$;

-- what is missing can be asked for first
SELECT stage, allowed, jsonb_pretty(missing) AS missing FROM next_stages('opportunity', 1);

-- moves that are allowed, and what they stamp
UPDATE opportunity SET stage = 'proposal', amount = 500 WHERE id = 1 RETURNING stage;
UPDATE opportunity SET stage = 'qualification' WHERE id = 1 RETURNING stage;
UPDATE opportunity SET stage = 'proposal' WHERE id = 1 RETURNING stage;
-- fails: a blank is no reason
UPDATE opportunity SET stage = 'lost', lost_reason = '  ' WHERE id = 1;
UPDATE opportunity SET stage = 'lost', lost_reason = 'price' WHERE id = 1 RETURNING stage, closed_at IS NOT NULL AS closed;
-- fails: closed is closed
UPDATE opportunity SET stage = 'qualification' WHERE id = 1;
SELECT count(*) AS moves FROM next_stages('opportunity', 1);
-- until a rule lets it reopen; the closing time is cleared
INSERT INTO stage_transition (pipeline, from_stage, to_stage, guard, message, hint)
VALUES ('sales', 'lost', 'qualification', 'old.closed_at > now() - interval ''90 days''',
        'A deal can be reopened within 90 days.', 'Create a new opportunity.');
UPDATE opportunity SET closed_at = '2020-01-01' WHERE id = 1;
UPDATE opportunity SET stage = 'qualification' WHERE id = 1;  -- fails: too long ago
UPDATE opportunity SET closed_at = now() WHERE id = 1;
UPDATE opportunity SET stage = 'qualification' WHERE id = 1 RETURNING stage, closed_at;

-- a statement may give the closing time itself
UPDATE opportunity SET stage = 'lost', closed_at = '2026-01-02 03:04:05+00' WHERE id = 1 RETURNING closed_at AT TIME ZONE 'UTC' AS closed_at_utc;

-- history was written with each move
SELECT record_id, from_stage, stage, type, duration >= '0' AS timed FROM stage_history WHERE kind = 'opportunity' ORDER BY id;

-- fails: unknown stages and pipelines are told apart from forbidden ones
UPDATE opportunity SET stage = 'wn' WHERE id = 1;
UPDATE opportunity SET stage = NULL WHERE id = 1;
UPDATE opportunity SET pipeline = 'lead', stage = 'new' WHERE id = 1;
INSERT INTO opportunity (name, pipeline) VALUES ('x', 'nowhere');
INSERT INTO opportunity (name, stage) VALUES ('x', repeat('y', 1000000));
INSERT INTO opportunity (name, stage) VALUES ('x', '');
-- fails: an empty pipeline falls back on the default, whose stages are others
UPDATE lead SET pipeline = NULL, stage = 'proposal';

-- the same move meets the same error by every road
INSERT INTO opportunity (id, name, amount) VALUES (100, 'Bridge', 1);
CREATE FUNCTION move(record bigint, to_stage text) RETURNS void LANGUAGE plpgsql AS
$$ BEGIN UPDATE opportunity SET stage = to_stage WHERE id = record; END $$;
UPDATE opportunity SET stage = 'won' WHERE id = 100;
SELECT move(100, 'won');
MERGE INTO opportunity AS o USING (VALUES (100, 'won')) AS v (id, stage) ON o.id = v.id
    WHEN MATCHED THEN UPDATE SET stage = v.stage;
INSERT INTO opportunity (id, name, stage) VALUES (100, 'Bridge', 'won')
    ON CONFLICT (id) DO UPDATE SET stage = excluded.stage;
WITH moved AS (UPDATE opportunity SET stage = 'won' WHERE id = 100 RETURNING id) SELECT * FROM moved;
PREPARE move_it AS UPDATE opportunity SET stage = $2 WHERE id = $1;
EXECUTE move_it (100, 'won');
-- and a record that starts where none may
INSERT INTO opportunity (id, name, stage, amount) VALUES (101, 'Bridge', 'won', 1);
COPY opportunity (id, name, stage, amount) FROM stdin;
101	Bridge	won	1
\.
MERGE INTO opportunity AS o USING (VALUES (101, 'won')) AS v (id, stage) ON o.id = v.id
    WHEN NOT MATCHED THEN INSERT (id, name, stage, amount) VALUES (101, 'Bridge', 'won', 1);
-- an upsert is judged by what it does, not by the row it proposes
INSERT INTO opportunity (id, name, stage) VALUES (100, 'Bridge', 'proposal')
    ON CONFLICT (id) DO UPDATE SET stage = excluded.stage RETURNING id, stage;
COPY opportunity (id, name) FROM stdin;
102	Tunnel
\.
SELECT id, pipeline, stage FROM opportunity WHERE id > 100;
SELECT from_stage, stage FROM stage_history WHERE record_id = 100 ORDER BY id;

-- several rows: one that may not move stops the statement
UPDATE opportunity SET stage = 'negotiation', close_date = '2026-12-31' WHERE id IN (100, 102);

-- another pipeline: a move like any other
INSERT INTO pipeline (name, kind) VALUES ('partner', 'opportunity');
INSERT INTO stage (pipeline, name, position, is_initial) VALUES ('partner', 'intro', 1, true), ('partner', 'signed', 2, false);
INSERT INTO opportunity (name, pipeline) VALUES ('Resale', 'partner') RETURNING pipeline, stage;
UPDATE opportunity SET pipeline = 'partner', stage = 'intro' WHERE id = 102;  -- fails: no transition
INSERT INTO stage_transition (pipeline, from_stage, to_pipeline, to_stage) VALUES ('sales', 'qualification', 'partner', 'intro');
UPDATE opportunity SET pipeline = 'partner', stage = 'signed' WHERE id = 102;  -- fails: not that stage
UPDATE opportunity SET pipeline = 'partner', stage = 'intro' WHERE id = 102 RETURNING pipeline, stage;
SELECT from_pipeline, from_stage, pipeline, stage FROM stage_history WHERE record_id = 102 ORDER BY id;
-- fails: kinds do not mix
INSERT INTO stage_transition (pipeline, from_stage, to_pipeline, to_stage) VALUES ('sales', 'qualification', 'lead', 'new');

-- renaming a stage or pipeline moves nothing, and the history follows
SELECT count(*) AS before FROM stage_history \gset
UPDATE stage SET name = 'offer' WHERE pipeline = 'sales' AND name = 'proposal';
UPDATE pipeline SET name = 'direct' WHERE name = 'sales';
SELECT pipeline, stage, count(*) FROM opportunity GROUP BY 1, 2 ORDER BY 1, 2;
SELECT from_pipeline, from_stage, pipeline, stage FROM stage_history WHERE record_id = 100 ORDER BY id;
SELECT count(*) - :before AS added FROM stage_history;
UPDATE opportunity SET stage = 'negotiation', close_date = '2026-12-31' WHERE id = 100 RETURNING stage;
UPDATE opportunity SET stage = 'proposal' WHERE id = 100;  -- fails: the old name is gone

-- an application role moves records, but neither the rules nor the history are its own
RESET ROLE;
SELECT crm.grant_access('regress_stage', 'regress_stage_app', 'app');
INSERT INTO member (name, login_role) VALUES ('Ann', 'regress_stage_app');
SET SESSION AUTHORIZATION regress_stage_app;
INSERT INTO opportunity (name, amount, owner_id) VALUES ('Mine', 1, regress_stage.me()) RETURNING stage;
UPDATE opportunity SET stage = 'offer' WHERE name = 'Mine' RETURNING stage;
UPDATE opportunity SET stage = 'won' WHERE name = 'Mine';  -- fails: no transition
SELECT stage, allowed FROM next_stages('opportunity', (SELECT id FROM opportunity WHERE name = 'Mine'));
-- fails: no privilege
INSERT INTO stage_transition (pipeline, from_stage, to_stage) VALUES ('direct', 'offer', 'won');
UPDATE stage SET required_fields = '{}';
INSERT INTO stage_history (kind, record_id, pipeline, stage, type, changed_at) VALUES ('opportunity', 1, 'direct', 'won', 'won', now());
DELETE FROM stage_history;
RESET SESSION AUTHORIZATION;
SELECT h.from_stage, h.stage, m.name AS by FROM stage_history AS h LEFT JOIN member AS m ON m.id = h.member_id
WHERE h.record_id = (SELECT o.id FROM opportunity AS o WHERE o.name = 'Mine') ORDER BY h.id;

-- every history is a path: it starts once, and each row goes on where the last ended
SELECT count(*) AS broken FROM (
    SELECT h.from_pipeline, h.from_stage,
           lag(h.pipeline) OVER w AS last_pipeline, lag(h.stage) OVER w AS last_stage
    FROM stage_history AS h WINDOW w AS (PARTITION BY h.kind, h.record_id ORDER BY h.id)) AS p
WHERE (p.from_pipeline, p.from_stage) IS DISTINCT FROM (p.last_pipeline, p.last_stage);
SELECT count(*) AS elsewhere FROM opportunity AS o
WHERE (o.pipeline, o.stage) IS DISTINCT FROM (
    SELECT ROW (h.pipeline, h.stage) FROM stage_history AS h
    WHERE h.kind = 'opportunity' AND h.record_id = o.id ORDER BY h.id DESC LIMIT 1);

DROP SCHEMA regress_stage CASCADE;
DROP OWNED BY regress_stage_owner, regress_stage_app;
DROP ROLE regress_stage_owner, regress_stage_app;
