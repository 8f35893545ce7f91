-- The event feed: in order, at least once, and exactly once for a consumer that acknowledges in its transaction.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
CREATE ROLE regress_event_owner;
CREATE ROLE regress_event_app;
GRANT CREATE ON DATABASE contrib_regression TO regress_event_owner;
GRANT USAGE ON SCHEMA crm TO regress_event_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_event_owner;
SET ROLE regress_event_owner;
SELECT crm.create_workspace('regress_ev');
SELECT crm.grant_access('regress_ev', 'regress_event_app', 'app');
SET search_path = regress_ev;
INSERT INTO member (id, name) VALUES (1, 'Ann'), (2, 'Bob');
INSERT INTO reminder (member_id, due_at, title) SELECT 1 + i % 2, timestamptz '2020-01-01 00:00+00' + i * interval '1 minute', 'e' || i FROM generate_series(1, 5) AS i;
SELECT * FROM read_events('mailer');
SELECT crm.run_due();

-- given again until acknowledged
SELECT title, member_id, due_at, state, attempt FROM read_events('mailer', 2);
SELECT title, attempt FROM read_events('mailer', 3);
SELECT title, attempt FROM read_events('mailer', 3);
SELECT ack_events('mailer', (SELECT id FROM event WHERE title = 'e2'));
SELECT title, attempt FROM read_events('mailer');
SELECT title, attempt FROM read_events('mailer', 1);
SELECT events_behind, seconds_behind > 0 AS lagging, oldest_id = (SELECT id FROM event WHERE title = 'e3') AS oldest, attempts FROM event_lag;
SELECT ack_events('mailer', (SELECT max(id) FROM event));
SELECT count(*) FROM read_events('mailer');
SELECT events_behind, seconds_behind, oldest_id, attempts FROM event_lag;
-- acknowledging what is done already does nothing
SELECT ack_events('mailer', 1);

-- a rolled back acknowledgement did not happen; consumers do not disturb each other
INSERT INTO reminder (member_id, due_at, title) VALUES (1, '2020-02-01', 'e6');
SELECT crm.run_due();
BEGIN;
SELECT ack_events('mailer', max(id)) FROM read_events('mailer');
ROLLBACK;
SELECT title FROM read_events('mailer');
SELECT count(*) FROM read_events('exporter');
SELECT name, events_behind FROM event_lag ORDER BY name;

-- events that were deleted leave no hole to stumble over
DELETE FROM event WHERE title IN ('e1', 'e3');
SELECT string_agg(title, ' ') FROM read_events('exporter');
SELECT ack_events('exporter', max(id)) FROM event;

-- fails: what was not given, who never read, and nothing
SELECT ack_events('mailer', 1000000);
SELECT ack_events('nobody', 1);
SELECT * FROM read_events('mailer', 0);
\set VERBOSITY terse
SELECT * FROM read_events('');
\set VERBOSITY default
SELECT count(*) FROM read_events(NULL);

-- what cannot be processed is set aside for this consumer with the reason; the rest goes on
INSERT INTO reminder (member_id, due_at, title) SELECT 1 + i % 2, timestamptz '2020-03-01 00:00+00' + i * interval '1 minute', 'f' || i FROM generate_series(1, 5) AS i;
SELECT crm.run_due();
SELECT ack_events('mailer', max(id)) FROM read_events('mailer') WHERE title = 'e6';
SELECT string_agg(title, ' ') FROM read_events('mailer', 3);
SELECT fail_event('mailer', (SELECT id FROM event WHERE title = 'f2'), 'mailbox full');
SELECT string_agg(title, ' ') FROM read_events('mailer');
SELECT ack_events('mailer', (SELECT max(id) FROM event));
SELECT events_behind, events_set_aside FROM event_lag WHERE name = 'mailer';
SELECT e.title, f.state, f.attempts, f.reason FROM event_failure AS f JOIN event AS e ON e.id = f.event_id;
SELECT string_agg(title, ' ') FROM read_events('exporter');
-- retried it is given once, ahead of new ones; acknowledged it is done, not acknowledged it stays aside
INSERT INTO reminder (member_id, due_at, title) VALUES (1, '2020-04-01', 'g1'), (2, '2020-04-02', 'g2');
SELECT crm.run_due();
SELECT retry_events('mailer');
SELECT title, attempt FROM read_events('mailer', 2);
SELECT title, attempt FROM read_events('mailer', 2);
SELECT state, attempts FROM event_failure;
SELECT retry_events('mailer', (SELECT id FROM event WHERE title = 'f2')), retry_events('mailer', (SELECT id FROM event WHERE title = 'f3'));
SELECT title, attempt FROM read_events('mailer', 1);
SELECT ack_events('mailer', (SELECT id FROM event WHERE title = 'f2'));
SELECT count(*) FROM event_failure;
SELECT title, attempt FROM read_events('mailer', 2);
SELECT ack_events('mailer', (SELECT max(id) FROM event));

-- with max_attempts: of several given twice in vain the one at fault is found by giving each alone
UPDATE event_consumer SET max_attempts = 4 WHERE name = 'mailer';
INSERT INTO reminder (member_id, due_at, title) SELECT 1, timestamptz '2020-05-01 00:00+00' + i * interval '1 minute', 'p' || i FROM generate_series(1, 4) AS i;
SELECT crm.run_due();
SELECT string_agg(title, ' ') FROM read_events('mailer');
SELECT string_agg(title, ' ') FROM read_events('mailer');
SELECT title, attempt FROM read_events('mailer');
SELECT ack_events('mailer', (SELECT id FROM event WHERE title = 'p1'));
SELECT title, attempt FROM read_events('mailer');
SELECT title, attempt FROM read_events('mailer');
SELECT title, attempt FROM read_events('mailer');
SELECT e.title, f.reason FROM event_failure AS f JOIN event AS e ON e.id = f.event_id;
SELECT ack_events('mailer', (SELECT id FROM event WHERE title = 'p3'));
SELECT title, attempt FROM read_events('mailer');
SELECT ack_events('mailer', (SELECT id FROM event WHERE title = 'p4'));
SELECT events_behind, attempts, events_set_aside FROM event_lag WHERE name = 'mailer';

-- one that is given one kind only moves past the others
CREATE TABLE ticket (id bigint PRIMARY KEY);
INSERT INTO event_consumer (name, kinds) VALUES ('tickets', '{ticket}');
INSERT INTO reminder (member_id, due_at, title, kind, record_id) VALUES (1, '2020-06-01', 'k1', 'ticket', 1), (1, '2020-06-02', 'k2', 'account', 1);
SELECT crm.run_due();
SELECT events_behind FROM event_lag WHERE name = 'tickets';
SELECT ack_events('tickets', max(id)) FROM read_events('tickets') WHERE title = 'k1';
SELECT count(*) FROM read_events('tickets');
SELECT acked_id = (SELECT max(id) FROM event) AS past FROM event_lag WHERE name = 'tickets';

-- what attention rules hold back is given once it is released, before the event that released it
INSERT INTO attention_rule (name, member_id, quiet_from, quiet_to)
SELECT 'asleep', 1, (crm.now() - interval '1 hour')::time, (crm.now() + interval '1 hour')::time;
INSERT INTO reminder (member_id, due_at, title) VALUES (1, '2020-07-01', 'h1'), (1, '2020-07-02', 'h2'), (2, '2020-07-03', 'h3');
SELECT crm.run_due();
SELECT ack_events('mailer', max(id)) FROM read_events('mailer') WHERE title LIKE 'k%';
SELECT title, state FROM read_events('mailer');
SELECT ack_events('mailer', (SELECT max(id) FROM event));
SELECT events_behind FROM event_lag WHERE name = 'mailer';
RESET ROLE;
SELECT crm_test.shift_clock(interval '2 hours') IS NOT NULL AS shifted;
SET ROLE regress_event_owner;
INSERT INTO reminder (member_id, due_at, title) VALUES (2, '2020-07-04', 'h4');
SELECT crm.run_due();
SELECT title, state, attempt FROM read_events('mailer', 2);
SELECT title, attempt FROM read_events('mailer', 2);
SELECT fail_event('mailer', (SELECT id FROM event WHERE title = 'h2'), 'mailbox full');
SELECT string_agg(title, ' ') FROM read_events('mailer');
SELECT ack_events('mailer', (SELECT max(id) FROM event));
SELECT retry_events('mailer', (SELECT id FROM event WHERE title = 'h2'));
SELECT string_agg(title, ' ') FROM read_events('mailer');
SELECT ack_events('mailer', (SELECT id FROM event WHERE title = 'h2'));
SELECT count(*) FROM read_events('mailer');
RESET ROLE;
SELECT crm_test.shift_clock(interval '0') IS NOT NULL AS clock;
SET ROLE regress_event_owner;
DELETE FROM event WHERE title LIKE 'h%' OR payload ? 'crm_digest';

-- members are given their own events, under names of their own; a service what the owner registered
UPDATE member SET login_role = 'regress_event_app' WHERE id = 2;
INSERT INTO event_consumer (name, member_id, whole_feed, kinds) VALUES ('sync', 2, true, '{account}');
RESET ROLE;
SET SESSION AUTHORIZATION regress_event_app;
SELECT title, attempt FROM read_events('mailer', 2);
SELECT string_agg(title, ' ') FROM read_events('mailer');
SELECT ack_events('mailer', max(id)) FROM inbox;
SELECT title FROM read_events('sync');
-- fails: an event of somebody else
SELECT fail_event('mailer', 1, 'x');
SELECT name, member_id, events_behind FROM event_lag ORDER BY name;
SELECT name, whole_feed FROM event_consumer ORDER BY name;
-- fails: widening what one is given, and deleting events
UPDATE event_consumer SET whole_feed = true;
SELECT purge_events();
RESET SESSION AUTHORIZATION;
UPDATE regress_ev.member SET active = false WHERE id = 2;
SET SESSION AUTHORIZATION regress_event_app;
-- fails: nobody reads
SELECT count(*) FROM read_events('mailer');
RESET SESSION AUTHORIZATION;
SET ROLE regress_event_owner;
SET search_path = regress_ev;

-- old events go when they are closed and every consumer is past them
UPDATE event SET fired_at = fired_at - interval '100 days' WHERE title LIKE 'e%' OR title LIKE 'f%' OR title LIKE 'g%' OR title LIKE 'p%';
UPDATE event SET state = 'acknowledged' WHERE title LIKE 'e%' OR title LIKE 'f%';
SELECT purge_events();
SELECT ack_events('exporter', max(id)) > 0 FROM read_events('exporter');
DELETE FROM event_consumer WHERE name = 'sync';
SELECT purge_events(max_events => 2), purge_events(), purge_events();
SELECT string_agg(title, ' ' ORDER BY id) FROM event;
-- a member's consumer that has not read for so long holds nothing
UPDATE event_consumer SET read_at = read_at - interval '100 days' WHERE member_id = 2;
-- open ones only if asked to; what is set aside stays until it is decided
SELECT purge_events(with_open => true);
SELECT string_agg(title, ' ' ORDER BY id) FROM event;
DELETE FROM event_failure;
SELECT purge_events(with_open => true), (SELECT count(*) FROM event);
SELECT string_agg(title, ' ') FROM read_events('mailer');

-- fails
SELECT fail_event('mailer', 1000000, 'x');
SELECT fail_event('nobody', 1, 'x');
SELECT retry_events('nobody');
SELECT purge_events(max_events => 0);
\set VERBOSITY terse
INSERT INTO event_consumer (name, max_attempts) VALUES ('hasty', 1);

\set VERBOSITY default
-- what the scheduler deletes, step by step: old, closed, and passed by every consumer
DELETE FROM event_consumer;
DELETE FROM event;
INSERT INTO reminder (member_id, due_at, title) SELECT 1, timestamptz '2020-01-01 00:00+00' + i * interval '1 minute', 'r' || i FROM generate_series(1, 8) AS i;
SELECT crm.run_due();
UPDATE event SET state = 'acknowledged' WHERE title <> 'r2';
UPDATE event SET fired_at = fired_at - interval '366 days' WHERE title < 'r7';
SELECT min(id) AS first FROM event \gset
SELECT deleted, looked_at - :first AS looked_at FROM retain_events(0, 0);
SELECT ack_events('exporter', :first + 4) FROM (SELECT count(*) FROM read_events('exporter')) AS r;
SELECT fail_event('exporter', :first + 3, 'no');
SELECT deleted, looked_at - :first AS looked_at FROM retain_events(0, 3);
SELECT deleted, looked_at FROM retain_events(:first + 2, 1000);
SELECT string_agg(title, ' ' ORDER BY id) FROM event;
SELECT ack_events('exporter', :first + 7);
UPDATE setting SET value = NULL WHERE name = 'event_retention';
SELECT deleted, looked_at FROM retain_events(0, 1000);
UPDATE setting SET value = '400 days' WHERE name = 'event_retention';
SELECT deleted, looked_at FROM retain_events(0, 1000);
UPDATE setting SET value = '1 year' WHERE name = 'event_retention';
SELECT deleted, looked_at FROM retain_events(0, 1000);
SELECT string_agg(title, ' ' ORDER BY id) FROM event;
-- fails: not a time
\set VERBOSITY terse
UPDATE setting SET value = 'soon' WHERE name = 'event_retention';

SET client_min_messages = warning;
DROP SCHEMA regress_ev CASCADE;
RESET ROLE;
DROP OWNED BY regress_event_owner, regress_event_app;
DROP ROLE regress_event_owner, regress_event_app;
