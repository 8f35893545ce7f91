-- The history of moves: as visible as the record, written whatever has been made of its table.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_stage_history_ann;
CREATE ROLE regress_stage_history_bob;
CREATE ROLE regress_stage_history_bi;
SELECT crm.create_workspace('regress_stage_history');
SELECT crm.grant_access('regress_stage_history', 'regress_stage_history_ann', 'app'),
       crm.grant_access('regress_stage_history', 'regress_stage_history_bob', 'app'),
       crm.grant_access('regress_stage_history', 'regress_stage_history_bi', 'report');
SET search_path = regress_stage_history, pg_catalog;
INSERT INTO member (id, name, login_role) VALUES (1, 'Ann', 'regress_stage_history_ann'), (2, 'Bob', 'regress_stage_history_bob');
INSERT INTO member (id, name, manager_id) VALUES (3, 'Cy', 1);
INSERT INTO opportunity (id, name, amount, owner_id) VALUES (1, 'Ann''s', 1, 1), (2, 'Bob''s', 1, 2), (3, 'Cy''s', 1, 3);
INSERT INTO lead (id, company, owner_id) VALUES (1, 'Acme', 1), (2, 'Beta', 2);

-- an application sees the history of what its member sees, and adds to it by moving only
SET SESSION AUTHORIZATION regress_stage_history_ann;
UPDATE opportunity SET stage = 'proposal' WHERE id IN (1, 2, 3);
SELECT kind, record_id, from_stage, stage, member_id FROM stage_history ORDER BY id;
SELECT stage, reached FROM funnel('sales') WHERE reached > 0;
INSERT INTO stage_history (kind, record_id, pipeline, stage, type, changed_at) VALUES ('opportunity', 1, 'sales', 'won', 'won', now());  -- fails
UPDATE stage_history SET stage = 'won';  -- fails
SET SESSION AUTHORIZATION regress_stage_history_bob;
SELECT kind, record_id, from_stage, stage, member_id FROM stage_history ORDER BY id;
SELECT stage, reached FROM funnel('sales') WHERE reached > 0;
-- a report, too; without a member it sees nothing
SET SESSION AUTHORIZATION regress_stage_history_bi;
SELECT count(*) FROM stage_history;
SELECT count(*) FROM funnel('sales') WHERE reached > 0;  -- fails
RESET SESSION AUTHORIZATION;
SET crm.member = 'regress_stage_history/2';
SET ROLE regress_stage_history_bi;
SELECT kind, record_id, from_stage, stage FROM stage_history ORDER BY id;
SELECT record_id, stage, is_current FROM report_stage_duration ORDER BY id;
UPDATE stage_history SET stage = 'won';  -- fails
RESET ROLE;
RESET crm.member;
-- a record that is shared shows its history; one that is taken away does not
INSERT INTO share (kind, record_id, member_id) VALUES ('opportunity', 1, 2);
SET SESSION AUTHORIZATION regress_stage_history_bob;
SELECT record_id, stage FROM stage_history WHERE kind = 'opportunity' ORDER BY id;
RESET SESSION AUTHORIZATION;
DELETE FROM share;
SET SESSION AUTHORIZATION regress_stage_history_bob;
SELECT record_id, stage FROM stage_history WHERE kind = 'opportunity' ORDER BY id;
RESET SESSION AUTHORIZATION;

-- the history outlives the member who made it
UPDATE opportunity SET owner_id = 2 WHERE owner_id = 1;
UPDATE lead SET owner_id = 2 WHERE owner_id = 1;
UPDATE member SET manager_id = NULL;
DELETE FROM member WHERE id = 1;
SELECT DISTINCT member_id FROM stage_history WHERE from_stage IS NOT NULL;

-- triggers, defaults, generated columns and rules of the history have their say
ALTER TABLE stage_history ADD COLUMN weekday integer GENERATED ALWAYS AS (extract(isodow FROM changed_at AT TIME ZONE 'UTC')) STORED,
    ADD COLUMN written_by text DEFAULT current_user, ADD COLUMN remark text;
UPDATE opportunity SET stage = 'qualification' WHERE id = 1;
SELECT from_stage, stage, weekday BETWEEN 1 AND 7 AS weekday, written_by = current_user AS by_owner, remark, duration >= '0' AS timed FROM stage_history ORDER BY id DESC LIMIT 1;
ALTER TABLE stage_history DROP COLUMN weekday, DROP COLUMN written_by;
CREATE FUNCTION remark() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.remark := 'from ' || coalesce(NEW.from_stage, 'nowhere'); RETURN NEW; END $$;
CREATE TRIGGER remark BEFORE INSERT ON stage_history FOR EACH ROW EXECUTE FUNCTION remark();
UPDATE opportunity SET stage = 'proposal' WHERE id = 1;
DROP TRIGGER remark ON stage_history;
UPDATE opportunity SET stage = 'qualification' WHERE id = 1;
CREATE RULE shout AS ON INSERT TO stage_history DO ALSO NOTIFY regress_stage_history;
UPDATE opportunity SET stage = 'proposal' WHERE id = 1;
DROP RULE shout ON stage_history;
ALTER TABLE stage_history FORCE ROW LEVEL SECURITY;
UPDATE opportunity SET stage = 'qualification' WHERE id = 1;
ALTER TABLE stage_history NO FORCE ROW LEVEL SECURITY;
SELECT from_stage, stage, remark FROM stage_history WHERE kind = 'opportunity' AND record_id = 1 ORDER BY id;
-- checks and indexes hold; fails: what they refuse
ALTER TABLE stage_history ADD CONSTRAINT never_lost CHECK (stage <> 'lost');
CREATE UNIQUE INDEX once ON stage_history (record_id, (upper(stage))) WHERE stage = 'negotiation';
\set VERBOSITY terse
UPDATE opportunity SET stage = 'lost', lost_reason = 'price' WHERE id = 2;
UPDATE opportunity SET stage = 'proposal', close_date = '2030-01-01' WHERE id = 2;
UPDATE opportunity SET stage = 'negotiation' WHERE id = 2;
UPDATE opportunity SET stage = 'proposal' WHERE id = 2;
UPDATE opportunity SET stage = 'negotiation' WHERE id = 2;
\set VERBOSITY default
DROP INDEX once;
-- fails: what the writer needs is gone
DROP INDEX stage_history_record;
UPDATE opportunity SET stage = 'negotiation' WHERE id = 2;
\set VERBOSITY default
CREATE INDEX stage_history_record ON stage_history (kind, record_id, id);
ALTER TABLE stage_history RENAME COLUMN duration TO stay;
UPDATE opportunity SET stage = 'negotiation' WHERE id = 2;
ALTER TABLE stage_history RENAME COLUMN stay TO duration;
UPDATE opportunity SET stage = 'negotiation' WHERE id = 2 RETURNING stage;
-- an identity that is always generated, columns of domains and other types
CREATE DOMAIN word AS text NOT NULL DEFAULT 'none';
ALTER TABLE stage_history ALTER COLUMN id SET GENERATED ALWAYS, ADD COLUMN remark2 word;
UPDATE opportunity SET stage = 'proposal' WHERE id = 2;
DROP DOMAIN word CASCADE;
DROP VIEW report_stage_duration;
ALTER TABLE stage_history ALTER COLUMN from_pipeline TYPE varchar(5);
UPDATE opportunity SET stage = 'negotiation' WHERE id = 2;
ALTER TABLE stage_history ALTER COLUMN from_pipeline TYPE text;
UPDATE opportunity SET stage = 'proposal' WHERE id = 2;
SELECT from_pipeline, from_stage, stage, type FROM stage_history WHERE kind = 'opportunity' AND record_id = 2 ORDER BY id;

DROP SCHEMA regress_stage_history CASCADE;
DROP OWNED BY regress_stage_history_ann, regress_stage_history_bob, regress_stage_history_bi;
DROP ROLE regress_stage_history_ann, regress_stage_history_bob, regress_stage_history_bi;
