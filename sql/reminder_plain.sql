-- Plain reminders fire without the executor where nobody extended the tables; whatever
-- somebody adds to them is honoured, and the events are the same either way.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_plain_owner;
GRANT CREATE ON DATABASE contrib_regression TO regress_plain_owner;
GRANT USAGE ON SCHEMA crm TO regress_plain_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_plain_owner;
SET ROLE regress_plain_owner;
SELECT crm.create_workspace('regress_plain');
SET search_path = regress_plain;
INSERT INTO member (id, name) VALUES (1, 'Ann'), (2, 'Bob');

-- fire(): how many events there were, and how many of them without the executor
RESET ROLE;
CREATE TABLE regress_plain.was (n bigint);
INSERT INTO regress_plain.was VALUES (crm_test.reminders_plain());
CREATE FUNCTION regress_plain.fire(OUT events bigint, OUT plain bigint) LANGUAGE plpgsql AS $$
BEGIN
    events := crm.run_due(workspace => 'regress_plain');
    plain := crm_test.reminders_plain() - (SELECT n FROM regress_plain.was);
    UPDATE regress_plain.was SET n = crm_test.reminders_plain();
END $$;

-- every column of a reminder arrives, long payloads too
INSERT INTO reminder (id, member_id, due_at, title) VALUES (101, 1, '2020-01-01+00', 'bare');
INSERT INTO reminder (id, member_id, due_at, title, kind, record_id, payload) VALUES (102, 2, '2020-01-02+00', 'full', 'account', 7, '{"a": [1, 2]}');
INSERT INTO reminder (id, member_id, due_at, title, payload)
SELECT 103, 1, '2020-01-03+00', 'long', jsonb_agg(md5(i::text)) FROM generate_series(1, 2000) AS i;
CREATE TABLE regress_plain.expected AS SELECT id, member_id, due_at, title, kind, record_id, payload FROM reminder;
SELECT * FROM fire();
SELECT count(*) AS same FROM event AS e JOIN expected AS x ON x.id = e.reminder_id
WHERE (e.member_id, e.due_at, e.title, e.kind, e.record_id, e.payload) IS NOT DISTINCT FROM (x.member_id, x.due_at, x.title, x.kind, x.record_id, x.payload)
  AND e.state = 'new' AND e.handled_at IS NULL AND e.fired_at > e.due_at;
SELECT count(*) FROM reminder;
-- and is found through every index
SET enable_seqscan = off;
SELECT title FROM event WHERE member_id = 2 AND state IN ('new', 'seen') ORDER BY id;
SELECT title FROM event WHERE kind = 'account' AND record_id = 7;
RESET enable_seqscan;

-- special reminders among them go by statement, in the same transaction
INSERT INTO reminder (member_id, due_at, title) SELECT 1, timestamptz '2020-01-01+00' + i * interval '1 h', 'n' || i FROM generate_series(1, 5) AS i;
INSERT INTO reminder (member_id, due_at, title, recurrence) VALUES (1, '2020-01-01 02:30+00', 'monthly', 'FREQ=MONTHLY');
SELECT * FROM fire();
SELECT title, due_at > now() AS waits_on FROM reminder;
DELETE FROM reminder;

-- several batches: each reminder once, ids in the order they were due
SET crm.batch_size = 7;
INSERT INTO reminder (member_id, due_at, title) SELECT 1, '2021-01-01+00', 'spike' FROM generate_series(1, 700);
INSERT INTO reminder (member_id, due_at, title, recurrence) SELECT 1, '2021-01-01+00', 'spike', 'FREQ=YEARLY;COUNT=1' FROM generate_series(1, 30);
SELECT * FROM fire();
SELECT count(*), count(DISTINCT reminder_id) FROM event WHERE title = 'spike';
SELECT count(*) FROM reminder;
RESET crm.batch_size;

-- what somebody adds to the tables is honoured
CREATE FUNCTION one(title text, OUT events bigint, OUT plain bigint) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO regress_plain.reminder (member_id, due_at, title) VALUES (1, '2020-01-01+00', one.title);
    SELECT f.events, f.plain INTO one.events, one.plain FROM regress_plain.fire() AS f;
END $$;
SELECT * FROM one('as made');
ALTER TABLE event ADD COLUMN channel text DEFAULT 'mail', ADD COLUMN note text;
SELECT * FROM one('constant default');
SELECT title, channel, note FROM event ORDER BY id DESC LIMIT 1;
ALTER TABLE event ADD COLUMN token uuid DEFAULT gen_random_uuid();
SELECT * FROM one('computed default');
SELECT title, token IS NOT NULL AS filled FROM event ORDER BY id DESC LIMIT 1;
ALTER TABLE event DROP COLUMN token, ADD COLUMN upper text GENERATED ALWAYS AS (upper(title)) STORED;
SELECT * FROM one('generated');
SELECT upper FROM event ORDER BY id DESC LIMIT 1;
ALTER TABLE event DROP COLUMN upper;
CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.note := 'marked'; RETURN new; END $$;
CREATE TRIGGER mark BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION mark();
SELECT * FROM one('trigger');
SELECT note FROM event ORDER BY id DESC LIMIT 1;
DROP TRIGGER mark ON event;
CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO regress_plain.was_deleted VALUES (old.title); RETURN NULL; END $$;
CREATE TABLE was_deleted (title text);
GRANT ALL ON was_deleted TO regress_plain_owner;
CREATE TRIGGER gone AFTER DELETE ON reminder FOR EACH ROW EXECUTE FUNCTION gone();
SELECT * FROM one('delete trigger');
TABLE was_deleted;
DROP TRIGGER gone ON reminder;
ALTER TABLE event ADD CONSTRAINT short CHECK (length(title) < 20), ADD CONSTRAINT once UNIQUE (reminder_id, due_at);
SELECT * FROM one('check and index');
-- fails: in the executor's own words
\set VERBOSITY terse
SELECT * FROM one('much longer than the constraint allows');
\set VERBOSITY default
ALTER TABLE event DROP CONSTRAINT short;
DELETE FROM reminder;
CREATE UNIQUE INDEX ON event (title) WHERE title = 'unique';
SELECT * FROM one('unique');
SELECT * FROM one('unique');
ALTER TABLE event DROP CONSTRAINT once, ADD CONSTRAINT once UNIQUE (reminder_id, due_at) DEFERRABLE;
SELECT * FROM one('deferrable');
ALTER TABLE event DROP CONSTRAINT once;
SELECT * FROM one('plain again');
-- another index in place of ours
DROP INDEX reminder_due;
CREATE INDEX reminder_due ON reminder (due_at DESC, id);
SELECT * FROM one('other index');
DROP INDEX reminder_due;
CREATE INDEX reminder_due ON reminder (due_at, id) WHERE failed_at IS NULL AND member_id = 2;
SELECT * FROM one('narrower index');
DROP INDEX reminder_due;
SELECT * FROM one('no index');
CREATE INDEX reminder_due ON reminder (due_at, id);
INSERT INTO reminder (member_id, due_at, title, failed_at) VALUES (1, '2020-01-01+00', 'set aside', now());
SELECT * FROM one('wider index');
SELECT title FROM reminder;
-- fails: row security binds the workspace's owner in another's table
RESET ROLE;
ALTER TABLE event OWNER TO CURRENT_USER;
GRANT ALL ON event TO regress_plain_owner;
SELECT * FROM one('another owner');

DROP SCHEMA regress_plain CASCADE;
DROP OWNED BY regress_plain_owner;
DROP ROLE regress_plain_owner;
