-- A reminder that is due becomes exactly one event.
\set SHOW_CONTEXT never
CREATE ROLE regress_reminder_owner;
CREATE ROLE regress_reminder_ann;
CREATE ROLE regress_reminder_nobody;
GRANT CREATE ON DATABASE contrib_regression TO regress_reminder_owner;
GRANT USAGE ON SCHEMA crm TO regress_reminder_owner, regress_reminder_nobody;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_reminder_owner;
GRANT EXECUTE ON FUNCTION crm.run_due(bigint, regnamespace) TO regress_reminder_nobody;
SET ROLE regress_reminder_owner;
SELECT crm.create_workspace('regress_rem');
SELECT crm.grant_access('regress_rem', 'regress_reminder_ann', 'app');
SET search_path = regress_rem;
INSERT INTO member (id, name, login_role) VALUES (1, 'Ann', 'regress_reminder_ann'), (2, 'Bob', NULL);

-- three columns suffice; nothing fires before it is due
INSERT INTO reminder (member_id, due_at, title) VALUES (1, crm.now() + interval '1 hour', 'later');
INSERT INTO reminder (member_id, due_at, title, kind, record_id, payload)
VALUES (1, '2020-01-01 09:00+00', 'first', 'account', 7, '{"a": 1}'), (2, '2020-01-01 10:00+00', 'second', NULL, NULL, NULL);
SELECT crm.run_due();
SELECT member_id, title, due_at, fired_at > due_at AS late, kind, record_id, payload, state FROM event ORDER BY id;
SELECT title FROM reminder;
SELECT crm.run_due();

-- the clock decides
RESET ROLE;
SELECT crm_test.shift_clock('1 hour') > clock_timestamp() AS shifted;
SELECT crm.now() - clock_timestamp() > '59 minutes' AS shifted;
SET ROLE regress_reminder_owner;
SELECT crm.run_due();
SELECT title, fired_at - due_at < '1 minute' AS on_time FROM event ORDER BY id DESC LIMIT 1;
RESET ROLE;
SELECT crm_test.shift_clock('0') <= clock_timestamp() AS unshifted;
SET ROLE regress_reminder_owner;

-- at most so many, in the order they are due, in one transaction with the caller's
INSERT INTO reminder (member_id, due_at, title) SELECT 1, timestamptz '2021-01-01+00' + i * interval '1 minute', 'n' || i FROM generate_series(10, 1, -1) AS i;
BEGIN;
SELECT crm.run_due(3);
SELECT crm.run_due(4, 'regress_rem');
ROLLBACK;
SELECT count(*) FROM reminder;
SELECT crm.run_due(0);
SELECT crm.run_due(7);
SELECT string_agg(title, ' ' ORDER BY id) FROM event WHERE title LIKE 'n%';
SELECT crm.run_due();
SELECT bool_and(e.id > e.previous AND e.due_at >= e.previous_due) AS in_order
FROM (SELECT id, due_at, lag(id) OVER w AS previous, lag(due_at) OVER w AS previous_due FROM event WHERE title LIKE 'n%' WINDOW w AS (ORDER BY id)) AS e;

-- thousands at one and the same moment, in batches
RESET ROLE;
SET crm.batch_size = 100;
SET ROLE regress_reminder_owner;
INSERT INTO reminder (id, member_id, due_at, title) OVERRIDING SYSTEM VALUE SELECT i, 1 + abs(i) % 2, '2022-01-01+00', 'spike' FROM generate_series(-500, 1999) AS i WHERE i NOT BETWEEN 1 AND 20;
SELECT crm.run_due();
SELECT count(*), count(DISTINCT reminder_id) FROM event WHERE title = 'spike';
SELECT count(*) FROM reminder;
RESET ROLE;
RESET crm.batch_size;
SET ROLE regress_reminder_owner;

-- the person's inbox
DELETE FROM event WHERE title = 'spike';
RESET ROLE;
SET SESSION AUTHORIZATION regress_reminder_ann;
SELECT title FROM inbox WHERE title NOT LIKE 'n%' ORDER BY id;
SELECT acknowledge(id) FROM inbox WHERE title = 'first';
SELECT snooze(id, '2999-01-01+00') > 0 AS snoozed FROM inbox WHERE title = 'later';
SELECT count(*) FROM inbox WHERE title NOT LIKE 'n%';
-- acknowledging twice does nothing
SELECT acknowledge(id) FROM event WHERE title = 'first';
-- fails: it is no longer open
SELECT snooze(id, '2999-01-01+00') FROM event WHERE title = 'first';
-- fails: no such event, no such time
SELECT acknowledge(-1);
SELECT snooze(-1, '2999-01-01+00');
SELECT snooze(1, 'infinity');
SELECT snooze(1, '2023-01-01+00');
-- fails: events are written by firing only
INSERT INTO event (reminder_id, member_id, due_at, fired_at, title) VALUES (1, 1, now(), now(), 'forged');
DELETE FROM event;
UPDATE event SET title = 'forged';
-- fails: firing is for the owner
SELECT crm.run_due();
RESET SESSION AUTHORIZATION;
SET ROLE regress_reminder_owner;
SELECT state, handled_at IS NOT NULL AS handled, snoozed_until FROM event WHERE title IN ('first', 'later') ORDER BY id;
UPDATE reminder SET due_at = '2023-01-01+00' WHERE snoozed_event_id IS NOT NULL;
SELECT crm.run_due();
SELECT e.title, e.state, r.state AS before FROM event AS e, event AS r WHERE e.title = 'later' AND r.title = 'later' AND e.id > r.id;

-- fails: bad reminders
\set VERBOSITY terse
INSERT INTO reminder (member_id, due_at, title) VALUES (1, 'infinity', 'never');
INSERT INTO reminder (member_id, due_at, title) VALUES (1, '-infinity', 'always');
INSERT INTO reminder (member_id, due_at, title) VALUES (99, now(), 'nobody');
INSERT INTO reminder (member_id, due_at, title, kind) VALUES (1, now(), 'half a record', 'account');
\set VERBOSITY default
INSERT INTO reminder (member_id, due_at, title, kind, record_id) VALUES (1, now(), 'misspelled', 'acount', 7);
INSERT INTO reminder (member_id, due_at, title, kind, record_id) VALUES (1, now(), 'misspelled', 'regress_rem.acount', 7);
-- any row of any table
CREATE TABLE invoice (id bigint);
INSERT INTO reminder (member_id, due_at, title, kind, record_id) VALUES (1, '2999-01-01', 'a kind', 'invoice', 7), (1, '2999-01-01', 'a table', 'regress_rem.invoice', 7), (1, '2999-01-01', 'elsewhere', 'pg_catalog.pg_class', 1259);
UPDATE reminder SET kind = 'invoices' WHERE title = 'a kind';
DELETE FROM reminder WHERE due_at = '2999-01-01';
-- the ends of time
INSERT INTO reminder (member_id, due_at, title) VALUES (1, '4713-01-01 00:00:00+00 BC', 'ancient'), (1, '294276-12-31 23:59:59+00', 'last');
SELECT crm.run_due();
DELETE FROM reminder WHERE title = 'last';

-- fails: bad arguments, and who may not
SELECT crm.run_due(-1);
SELECT crm.run_due(1, 'public');
SET ROLE regress_reminder_nobody;
SELECT crm.run_due();
SELECT crm.run_due(1, 'regress_rem');
SET ROLE regress_reminder_owner;
BEGIN READ ONLY;
SELECT crm.run_due();
ROLLBACK;

-- firing runs as the owner, with a search_path nobody can play with, and no setting outlives it
CREATE TABLE seen (who text, path text);
CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO regress_rem.seen VALUES (current_user, current_setting('search_path'));
    PERFORM set_config('work_mem', '77kB', false);
    RETURN NULL;
END $$;
CREATE TRIGGER spy AFTER INSERT ON event FOR EACH ROW EXECUTE FUNCTION spy();
INSERT INTO reminder (member_id, due_at, title) VALUES (1, '2020-01-01', 'spied');
RESET ROLE;
SELECT crm.run_due();
SELECT current_setting('work_mem') <> '77kB' AS unchanged, current_user = session_user AS oneself;
TABLE regress_rem.seen;
DROP TRIGGER spy ON regress_rem.event;

-- a reminder with a failure waits until somebody clears it
INSERT INTO regress_rem.reminder (member_id, due_at, title, failed_at, failure) VALUES (1, '2020-01-01', 'failed', now(), 'P0001: no');
SELECT crm.run_due();
UPDATE regress_rem.reminder SET failed_at = NULL;
SELECT crm.run_due();

-- a renamed workspace, once repaired
ALTER SCHEMA regress_rem RENAME TO regress_rem2;
SELECT crm.upgrade_workspace('regress_rem2') > 0 AS repaired;
INSERT INTO regress_rem2.reminder (member_id, due_at, title) VALUES (1, '2020-01-01', 'renamed');
SELECT crm.run_due();
SELECT title FROM regress_rem2.event ORDER BY id DESC LIMIT 1;

-- fails: the trigger's place is the reminder table
CREATE TABLE regress_rem2.other (a int);
CREATE TRIGGER wake BEFORE INSERT ON regress_rem2.other FOR EACH ROW EXECUTE FUNCTION crm.reminder_wake();
INSERT INTO regress_rem2.other VALUES (1);
CREATE TRIGGER wake2 AFTER INSERT ON regress_rem2.other FOR EACH STATEMENT EXECUTE FUNCTION crm.reminder_wake();
DROP TRIGGER wake ON regress_rem2.other;
INSERT INTO regress_rem2.other VALUES (1);

SET client_min_messages = warning;
DROP SCHEMA regress_rem2 CASCADE;

-- the workspace is shown each batch before anybody hears of it
SET ROLE regress_reminder_owner;
SELECT crm.create_workspace('regress_rem');
SET search_path = regress_rem;
DROP FUNCTION hold_events(bigint, bigint, timestamptz, boolean) CASCADE;
ALTER TABLE event DROP CONSTRAINT IF EXISTS event_state_known;
CREATE FUNCTION hold_events(first_id bigint, last_id bigint, fired_at timestamptz, bare boolean) RETURNS void LANGUAGE sql
AS $$ UPDATE regress_rem.event AS e SET state = 'held' WHERE e.id BETWEEN first_id AND last_id AND e.fired_at = hold_events.fired_at AND e.title = 'hold' $$;
INSERT INTO member (id, name) VALUES (1, 'Ann');
INSERT INTO reminder (member_id, due_at, title) VALUES (1, '2020-01-01', 'hold'), (1, '2020-01-01', 'pass');
SELECT crm.run_due();
SELECT title, state FROM event ORDER BY id;
DROP FUNCTION hold_events(bigint, bigint, timestamptz, boolean);
INSERT INTO reminder (member_id, due_at, title) VALUES (1, '2020-01-01', 'hold'), (1, '2020-01-01', 'pass');
SELECT crm.run_due();
SELECT title, state FROM event WHERE id > 2 ORDER BY id;
-- a burst into a table that was empty when it was looked at: nothing reads its other
-- indexes from end to end for each batch, be there rules or not
RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA regress_rem CASCADE;
SET ROLE regress_reminder_owner;
SELECT crm.create_workspace('regress_rem');
INSERT INTO member (id, name) VALUES (1, 'Ann'), (2, 'Bob');
VACUUM ANALYZE event;
RESET ROLE;
SET crm.batch_size = 200;
SET ROLE regress_reminder_owner;
INSERT INTO reminder (member_id, due_at, title, payload) SELECT 1 + i % 2, '2020-01-01', 'burst', CASE i % 3 WHEN 0 THEN jsonb '{"a": 1}' END FROM generate_series(1, 2000) AS i;
SELECT crm.run_due();
INSERT INTO attention_rule (name, quiet_from, quiet_to) VALUES ('None', '00:00', '00:00');
INSERT INTO absence (member_id, delegate_id, ends_at, mode) VALUES (1, 2, '2999-01-01', 'also');
INSERT INTO account (id, name) VALUES (1, 'Acme');
INSERT INTO follower (kind, record_id, member_id) VALUES ('account', 1, 2);
UPDATE member SET active = false WHERE id = 2;
INSERT INTO reminder (member_id, due_at, title) SELECT 1 + i % 2, '2020-01-01', 'burst' FROM generate_series(1, 2000) AS i;
SELECT crm.run_due() > 0 AS fired;
SELECT pg_stat_force_next_flush();
SELECT i.indexrelname, i.idx_scan FROM pg_stat_user_indexes AS i WHERE i.relid = 'event'::regclass AND i.indexrelname <> 'event_pkey' ORDER BY 1;
RESET ROLE;
RESET crm.batch_size;
DROP SCHEMA regress_rem CASCADE;
DROP OWNED BY regress_reminder_owner, regress_reminder_ann, regress_reminder_nobody;
DROP ROLE regress_reminder_owner, regress_reminder_ann, regress_reminder_nobody;
