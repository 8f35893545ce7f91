-- Service levels: clocks that count only the time that counts, warn before it is over, and say so when it is.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
CREATE ROLE regress_sla_owner;
CREATE ROLE regress_sla_rep;
CREATE ROLE regress_sla_other;
GRANT CREATE ON DATABASE contrib_regression TO regress_sla_owner;
GRANT USAGE ON SCHEMA crm, crm_test TO regress_sla_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_sla_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm_test TO regress_sla_owner;
SET ROLE regress_sla_owner;
SELECT crm.create_workspace('regress_sla');
SELECT crm.grant_access('regress_sla', r, 'app') FROM unnest('{regress_sla_rep,regress_sla_other}'::name[]) AS r;
SET search_path = regress_sla;
INSERT INTO member (id, name, manager_id, login_role) VALUES (1, 'Max', NULL, NULL), (2, 'Rita', 1, 'regress_sla_rep'), (3, 'Otto', NULL, 'regress_sla_other');

CREATE FUNCTION at(t timestamptz) RETURNS text LANGUAGE sql AS $$
    SELECT to_char(crm_test.shift_clock(t + interval '10 ms' - clock_timestamp()), 'Dy HH24:MI') $$;
CREATE FUNCTION fire(t timestamptz) RETURNS bigint LANGUAGE sql AS $$ SELECT at(t); SELECT crm.run_due() $$;
CREATE VIEW told AS SELECT m.name AS member, e.title, e.record_id, e.payload - 'due_at' - 'owner_id' AS payload FROM event AS e JOIN member AS m ON m.id = e.member_id ORDER BY e.id;
-- the test's clock runs on between statements
CREATE VIEW clock AS
SELECT policy, record_id, state, make_interval(mins => round(extract(epoch FROM used) / 60)::integer) AS used, date_trunc('minute', due_at) AS due_at, date_trunc('minute', breached_at) AS breached_at, met_at IS NOT NULL AS met
FROM sla_status ORDER BY policy, record_id;

-- a table of the user's own
CREATE TABLE ticket (id bigint PRIMARY KEY, subject text, priority int DEFAULT 2, waiting boolean NOT NULL DEFAULT false, answered boolean NOT NULL DEFAULT false,
                     solved boolean NOT NULL DEFAULT false, owner_id bigint, created_at timestamptz DEFAULT now());
SELECT crm.protect('ticket', 'ticket');
GRANT SELECT, INSERT, UPDATE, DELETE ON ticket TO regress_sla_rep, regress_sla_other;
SELECT at('2027-03-01 10:00+00');
-- what is older than the policy counts from then
INSERT INTO ticket (id, subject, owner_id, created_at) VALUES (1, 'old', 2, now() - interval '1 year'), (2, 'solved', 2, now());
UPDATE ticket SET solved = true, answered = true WHERE id = 2;
INSERT INTO sla_policy (kind, name, target, met_when) VALUES ('ticket', 'First response', '48 hours', 'answered');
INSERT INTO sla_policy (kind, name, condition, target, calendar, met_when, pause_when, warn_percent)
VALUES ('ticket', 'Resolution', 'priority <= 2', '16 hours', 'standard', 'new.solved', 'waiting', '{75}');
SELECT * FROM clock;
SELECT title, member_id, date_trunc('minute', due_at) AS due_at FROM reminder ORDER BY due_at, title;

-- warnings to the owner, the breach to the manager, too; nothing twice
SELECT fire('2027-03-02 09:59+00'), fire('2027-03-02 10:01+00');
SELECT * FROM told;
-- the customer is waited for: the clock stands, over night and a weekend
SELECT at('2027-03-02 11:00+00');
UPDATE ticket SET waiting = true WHERE id = 1;
SELECT * FROM clock WHERE policy = 'Resolution';
SELECT count(*) FROM reminder WHERE title = 'Resolution';
SELECT fire('2027-03-03 11:00+00');
SELECT * FROM told OFFSET 1;
SELECT at('2027-03-08 16:00+00');
UPDATE ticket SET waiting = false, answered = true WHERE id = 1;
SELECT * FROM clock;
-- 16 hours less 9: 2 on Monday, 5 on Tuesday
SELECT title, date_trunc('minute', due_at) AS due_at FROM reminder;
SELECT fire('2027-03-09 10:31+00');
SELECT * FROM told OFFSET 3;
-- a holiday moves what is running, at once
INSERT INTO calendar_day (calendar_id, day, name) SELECT id, '2027-03-09', 'holiday' FROM calendar;
SELECT * FROM clock WHERE policy = 'Resolution' AND state = 'running';
DELETE FROM calendar_day;
UPDATE calendar_hours SET closes = '17:00' WHERE closes = '18:00' AND weekday = 2;
SELECT * FROM clock WHERE policy = 'Resolution' AND state = 'running';
UPDATE calendar_hours SET closes = '18:00' WHERE closes = '17:00';
-- nobody fires for a while: the breach has its own time, and the skipped warning is named
UPDATE sla_policy SET warn_percent = '{75,95}' WHERE name = 'Resolution';
SELECT fire('2027-03-10 12:00+00');
SELECT * FROM told OFFSET 4;
SELECT at('2027-03-11 10:00+00');
SELECT title, member_id FROM event WHERE state = 'new' ORDER BY id;
UPDATE ticket SET solved = true WHERE id = 1;
SELECT * FROM clock;
SELECT count(*) FROM reminder;
-- warnings leave the inboxes, with the reason; a breach stays
SELECT e.title, e.member_id, e.state, regexp_replace(w.reason, 'at .* \+00', 'at …') AS reason FROM event AS e, why_not(e.id) AS w WHERE e.title NOT LIKE '%over' ORDER BY e.id;
SELECT title, member_id FROM event WHERE state = 'new' ORDER BY id;
-- met too late although nothing had fired: the clock knows
INSERT INTO ticket (id, owner_id) VALUES (3, 2);
SELECT at('2027-03-14 10:00+00');
UPDATE ticket SET answered = true WHERE id = 3;
SELECT policy, state, used, breached_at FROM clock WHERE record_id = 3;
SELECT crm.run_due();
-- reopened: it goes on where it stood
UPDATE ticket SET solved = true WHERE id = 3;
SELECT at('2027-03-15 10:00+00');
UPDATE ticket SET solved = false WHERE id = 3;
SELECT policy, state, used, due_at, met FROM clock WHERE record_id = 3 AND policy = 'Resolution';
-- out of scope, back, gone
UPDATE ticket SET priority = 3 WHERE id = 3;
SELECT policy, state FROM clock WHERE record_id = 3;
UPDATE ticket SET priority = 1 WHERE id = 3;
SELECT policy, state FROM clock WHERE record_id = 3;
DELETE FROM ticket WHERE id = 3;
SELECT policy, state, met FROM clock WHERE record_id = 3;
SELECT count(*) FROM reminder;

-- first response by an activity; what is only planned is none
INSERT INTO sla_policy (kind, name, target, met_by_activity, warn_percent) VALUES ('lead', 'Answer leads', '2 days', true, '{}');
SELECT target FROM sla_policy WHERE name = 'Answer leads';
INSERT INTO lead (id, company, owner_id) VALUES (1, 'Asks', 2), (2, 'Asks, too', NULL);
INSERT INTO activity (subject, lead_id, due_at) VALUES ('call them', 1, crm.now() + interval '1 day');
SELECT record_id, state FROM clock WHERE policy = 'Answer leads';
UPDATE activity SET completed_at = crm.now();
SELECT record_id, state, met FROM clock WHERE policy = 'Answer leads';
-- nobody owns it and there is no fallback but those with access all: somebody hears of it
UPDATE member SET access = 'all' WHERE id = 3;
SELECT fire('2027-03-17 10:01+00');
SELECT member, title, record_id FROM told OFFSET 7;

-- a person sees the clocks of visible records, and neither moves nor forges one
INSERT INTO ticket (id, owner_id) VALUES (4, 2);
UPDATE member SET access = 'standard' WHERE id = 3;
RESET ROLE;
SET SESSION AUTHORIZATION regress_sla_rep;
SET search_path = regress_sla;
SELECT policy, record_id, state, left_over > '15 hours' AS time_left, percent FROM sla_status WHERE state = 'running' ORDER BY 1, 2;
DELETE FROM reminder;
UPDATE reminder SET due_at = 'tomorrow';
SELECT count(*) FROM reminder;
UPDATE sla_clock SET state = 'met';
INSERT INTO sla_policy (kind, name, target, met_when) VALUES ('ticket', 'x', '1 hour', 'true');
-- what anybody who may edit the record does counts
UPDATE ticket SET answered = true WHERE id = 4;
SELECT policy, state FROM sla_status WHERE record_id = 4 ORDER BY 1;
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_sla_other;
SELECT count(*) FROM regress_sla.sla_status;
RESET SESSION AUTHORIZATION;
SET ROLE regress_sla_owner;
UPDATE sla_policy SET active = false WHERE name = 'Resolution';
SELECT policy, state FROM clock WHERE record_id = 4;

-- fails: policies that make no sense
INSERT INTO sla_policy (kind, name, target, met_when) VALUES ('ticket', 'x', '1 hour', 'no_column');
INSERT INTO sla_policy (kind, name, target, met_when) VALUES ('unicorn', 'x', '1 hour', 'true');
INSERT INTO sla_policy (kind, name, target, calendar, met_when) VALUES ('ticket', 'x', '2 days', 'standard', 'solved');
INSERT INTO sla_policy (kind, name, target, met_by_activity) VALUES ('ticket', 'x', '1 hour', true);
UPDATE sla_policy SET kind = 'lead' WHERE name = 'Resolution';
\set VERBOSITY terse
INSERT INTO sla_policy (kind, name, target) VALUES ('ticket', 'x', '1 hour');
INSERT INTO sla_policy (kind, name, target, met_when) VALUES ('ticket', 'x', '-1 hour', 'true');
INSERT INTO sla_policy (kind, name, target, met_when, warn_percent) VALUES ('ticket', 'x', '1 hour', 'true', '{100}');
INSERT INTO sla_policy (kind, name, target, met_when, audience) VALUES ('ticket', 'x', '1 hour', 'true', '{everybody}');
DELETE FROM sla_policy;
\set VERBOSITY default

-- pauses at random over the change to summer time, with breaks, a holiday and a worked
-- Saturday: counted is what a walk over the minutes counts
INSERT INTO calendar (id, name, time_zone) VALUES (50, 'Berlin', 'Europe/Berlin');
INSERT INTO calendar_hours (calendar_id, weekday, opens, closes)
SELECT 50, d, h.opens, h.closes FROM generate_series(1, 5) AS d, (VALUES (time '00:00', time '05:30'), ('09:00', '12:15'), ('13:00', '18:45')) AS h (opens, closes);
INSERT INTO calendar_hours (calendar_id, weekday, opens, closes) VALUES (50, 7, '01:00', '06:00');
INSERT INTO calendar_day (calendar_id, day, weekday) VALUES (50, '2027-03-26', NULL), (50, '2027-03-27', 5);
CREATE FUNCTION walk(a timestamptz, b timestamptz) RETURNS interval LANGUAGE sql AS $$
SELECT count(*) * interval '1 minute'
FROM generate_series(a, b - interval '1 minute', '1 minute') AS m
CROSS JOIN LATERAL (SELECT m AT TIME ZONE 'Europe/Berlin' AS wall) AS w
LEFT JOIN calendar_day AS d ON d.calendar_id = 50 AND d.day = wall::date
JOIN calendar_hours AS h ON h.calendar_id = 50 AND h.opens <= wall::time AND wall::time < h.closes
    AND h.weekday = CASE WHEN d.id IS NULL THEN extract(isodow FROM wall) ELSE d.weekday END $$;
SELECT at('2027-03-22 00:00+00');
INSERT INTO sla_policy (kind, name, target, calendar, met_when, pause_when, warn_percent, starts_at) VALUES ('ticket', 'Walked', '1000 hours', 'Berlin', 'solved', 'waiting', '{}', '-infinity');
DELETE FROM ticket;
INSERT INTO ticket (id, owner_id) SELECT i, 2 FROM generate_series(101, 120) AS i;
CREATE TABLE truth (id bigint, elapsed interval NOT NULL DEFAULT '0');
INSERT INTO truth SELECT id FROM ticket;
SELECT setseed(0.7);
DO $$
DECLARE
    t timestamptz := '2027-03-22';
    u timestamptz;
BEGIN
    WHILE t < '2027-04-05' LOOP
        u := t + (1 + floor(random() * 900)) * interval '1 minute';
        UPDATE truth AS x SET elapsed = elapsed + walk(t, u) FROM ticket AS k WHERE k.id = x.id AND NOT k.waiting;
        PERFORM at(u);
        UPDATE ticket SET waiting = NOT waiting WHERE random() < 0.3;
        t := u;
    END LOOP;
END $$;
UPDATE ticket SET waiting = true;
SELECT count(*), count(*) FILTER (WHERE abs(extract(epoch FROM s.used - t.elapsed)) > 3) AS wrong, min(s.used) > '5 hours' AS counted
FROM truth AS t JOIN sla_status AS s ON s.record_id = t.id AND s.policy = 'Walked';
UPDATE ticket SET waiting = false;
-- and the time left, added to now, is when it is over
SELECT count(*) AS wrong FROM sla_status WHERE policy = 'Walked' AND state = 'running' AND abs(extract(epoch FROM business_between(crm.now(), due_at, 'Berlin') - left_over)) > 3;

-- many at once
INSERT INTO ticket (id, owner_id) SELECT i, 2 FROM generate_series(1001, 4000) AS i;
SELECT count(*) FROM sla_clock WHERE record_id > 1000 AND policy_id = (SELECT id FROM sla_policy WHERE name = 'Walked');
UPDATE ticket SET solved = true WHERE id > 1000;
SELECT state, count(*) FROM sla_clock WHERE record_id > 1000 GROUP BY 1 ORDER BY 1;

-- the calendar of a member's team: the nearest that names one, else the workspace's
INSERT INTO calendar (id, name, time_zone) VALUES (60, 'Shanghai', 'Asia/Shanghai'), (61, 'Lisbon', 'Europe/Lisbon');
INSERT INTO calendar_hours (calendar_id, weekday, opens, closes) SELECT c, d, '09:00', '17:00' FROM generate_series(60, 61) AS c, generate_series(1, 5) AS d;
INSERT INTO team (id, name, parent_id, calendar) VALUES (1, 'World', NULL, NULL), (2, 'Asia', 1, 'Shanghai'), (3, 'China', 2, NULL), (4, 'Europe', 1, 'Lisbon');
INSERT INTO team_member (team_id, member_id) VALUES (3, 2), (1, 3);
SELECT calendar_of(2) AS china, calendar_of(3) AS world, calendar_of(1) AS no_team, calendar_of(NULL) AS nobody, calendar_of(-1) AS unknown;
UPDATE setting SET value = 'Lisbon' WHERE name = 'calendar';
SELECT calendar_of(2) AS china, calendar_of(3) AS world, calendar_of(NULL) AS nobody;
UPDATE setting SET value = 'no such' WHERE name = 'calendar';
SELECT calendar_of(3) AS first_there_is;
UPDATE setting SET value = NULL WHERE name = 'calendar';
INSERT INTO team_member (team_id, member_id) VALUES (4, 2);
SELECT calendar_of(2) AS of_two_the_nearer;
DELETE FROM team_member WHERE team_id = 4;
UPDATE calendar SET name = '上海' WHERE id = 60;
SELECT calendar_of(2) AS renamed;
RESET ROLE;
SET SESSION AUTHORIZATION regress_sla_rep;
SELECT calendar_of(), business_add('2027-06-07 02:00+00', '8 hours') AS monday_nine_to_five_there, business_open('2027-06-07 02:00+00');
RESET SESSION AUTHORIZATION;
SET ROLE regress_sla_owner;
-- clocks of one policy, each by its owner's team
DELETE FROM ticket;
UPDATE sla_policy SET active = false;
SELECT at('2027-06-07 02:00+00');
INSERT INTO sla_policy (kind, name, target, working_time, met_when, pause_when, warn_percent) VALUES ('ticket', 'By team', '8 hours', true, 'solved', 'waiting', '{}');
INSERT INTO ticket (id, owner_id) VALUES (1, 2), (2, 3), (3, NULL);
CREATE VIEW by_team AS SELECT c.record_id, c.calendar, k.used, k.due_at FROM clock AS k JOIN sla_policy AS p ON p.name = k.policy JOIN sla_clock AS c ON c.policy_id = p.id AND c.record_id = k.record_id WHERE k.policy = 'By team' AND c.state <> 'ended' ORDER BY 1;
SELECT * FROM by_team;
-- handed over: what was counted stays, from now on the other team's hours count
SELECT at('2027-06-07 05:00+00');
UPDATE ticket SET owner_id = 3 WHERE id = 1;
SELECT * FROM by_team;
SELECT at('2027-06-07 10:00+00');
SELECT * FROM by_team WHERE record_id = 1;
-- a team moves to other hours; a member changes the team; only the clocks they own move
UPDATE team SET calendar = 'Lisbon' WHERE id = 1;
SELECT * FROM by_team;
INSERT INTO ticket (id, owner_id) VALUES (4, 2);
UPDATE team_member SET team_id = 4 WHERE member_id = 2;
SELECT * FROM by_team WHERE record_id IN (2, 4);
UPDATE setting SET value = '上海' WHERE name = 'calendar';
SELECT * FROM by_team WHERE record_id = 3;
-- corrected hours, and a corrected policy, count anew what has run since the last stop
UPDATE calendar_hours SET opens = '08:00' WHERE calendar_id = 61;
SELECT * FROM by_team;
UPDATE sla_policy SET calendar = 'standard' WHERE name = 'By team';
SELECT * FROM by_team;
UPDATE sla_policy SET calendar = NULL WHERE name = 'By team';
SELECT * FROM by_team;
-- while it stands, nothing is counted by any calendar
SELECT at('2027-06-07 11:00+00');
UPDATE ticket SET waiting = true;
SELECT at('2027-06-08 11:00+00');
UPDATE team SET calendar = '上海' WHERE id IN (1, 4);
UPDATE ticket SET waiting = false;
SELECT * FROM by_team;
SELECT fire('2027-06-11 11:00+00');
SELECT record_id, title FROM told WHERE title LIKE 'By team%' ORDER BY record_id;
-- what was snoozed is not told again once it is solved
SELECT snooze(id, crm.now() + interval '1 hour') > 0 AS snoozed FROM event WHERE title = 'By team: the time is over' AND record_id IN (1, 2) AND member_id = 3 ORDER BY id;
UPDATE ticket SET solved = true WHERE id = 2;
SELECT fire('2027-06-11 13:00+00');
SELECT record_id, state FROM event WHERE payload ? 'snoozed_event' ORDER BY record_id;
-- fails: a calendar that is in use, and days
DELETE FROM calendar WHERE name = '上海';
INSERT INTO sla_policy (kind, name, target, working_time, met_when) VALUES ('ticket', 'x', '2 days', true, 'solved');

RESET ROLE;
SELECT crm_test.shift_clock('0') <= clock_timestamp() AS unshifted;
SET client_min_messages = warning;
DROP SCHEMA regress_sla CASCADE;
DROP OWNED BY regress_sla_owner, regress_sla_rep, regress_sla_other;
DROP ROLE regress_sla_owner, regress_sla_rep, regress_sla_other;
