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
SELECT behind, lag > interval '0' AS lagging, attempts FROM event_lag;
SELECT ack_events('mailer', (SELECT max(id) FROM event));
SELECT count(*) FROM read_events('mailer');
SELECT behind, lag, attempts FROM event_lag;
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
SELECT name, behind FROM event_lag ORDER BY name;

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
SET ROLE regress_event_app;
-- fails: the feed is not for applications, which have the inbox
SELECT * FROM read_events('mailer');
SELECT ack_events('mailer', 1);
SET ROLE regress_event_owner;

SET client_min_messages = warning;
DROP SCHEMA regress_ev CASCADE;
RESET ROLE;
DROP OWNED BY regress_event_owner, regress_event_app;
DROP ROLE regress_event_owner, regress_event_app;
