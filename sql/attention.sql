-- No more than a person can attend to: what is held, why, and that it is shown in the end.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
CREATE ROLE regress_attention_owner;
CREATE ROLE regress_attention_ann;
CREATE ROLE regress_attention_bob;
GRANT CREATE ON DATABASE contrib_regression TO regress_attention_owner;
GRANT USAGE ON SCHEMA crm, crm_test TO regress_attention_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_attention_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm_test TO regress_attention_owner;
SET ROLE regress_attention_owner;
SELECT crm.create_workspace('regress_att');
SELECT crm.grant_access('regress_att', r, 'app') FROM unnest('{regress_attention_ann,regress_attention_bob}'::name[]) AS r;
SET search_path = regress_att;
INSERT INTO member (id, name, manager_id, login_role, time_zone) VALUES
    (2, 'Bob', NULL, 'regress_attention_bob', 'Asia/Shanghai'), (1, 'Ann', 2, 'regress_attention_ann', 'Europe/Berlin');
INSERT INTO team (id, name, parent_id) VALUES (1, 'Sales', NULL), (2, 'Inside sales', 1);
INSERT INTO team_member (team_id, member_id) VALUES (2, 1);
ALTER TABLE account ADD tier text;
INSERT INTO account (id, name, owner_id, tier) VALUES (1, 'Key', 1, 'key'), (2, 'Small', 1, 'C'), (3, 'Other', 1, 'B');
INSERT INTO opportunity (id, name, account_id, owner_id) VALUES (1, 'Key deal', 1, 1), (2, 'Small deal', 2, 1);

-- the clock of reminders, and what fires then
CREATE FUNCTION fire(at timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM crm_test.shift_clock(at + interval '1 second' - clock_timestamp());
    RETURN crm.run_due();
END $$;
CREATE VIEW what AS
SELECT e.id, m.name AS member, e.title, e.state, w.reason FROM event AS e JOIN member AS m ON m.id = e.member_id CROSS JOIN LATERAL why_not(e.id) AS w ORDER BY e.id;
CREATE FUNCTION remind(member_id bigint, due_at timestamptz, title text, kind text DEFAULT NULL, record_id bigint DEFAULT NULL, payload jsonb DEFAULT NULL) RETURNS void
BEGIN ATOMIC INSERT INTO reminder (member_id, due_at, title, kind, record_id, payload) VALUES (remind.member_id, remind.due_at, remind.title, remind.kind, remind.record_id, remind.payload); END;

-- without rules nothing is held
SELECT remind(1, '2027-01-12 01:00+00', 'at night');
SELECT fire('2027-01-12 01:00+00');
SELECT * FROM what;
DELETE FROM event;

-- by value of the customer, also of what belongs to it; the first rule that says something counts
INSERT INTO attention_rule (name, position, kind, condition, delivery) VALUES
    ('Key customers', 10, 'account', 'tier = ''key''', 'at once'), ('C customers', 20, 'account', 'new.tier = ''C''', 'digest');
INSERT INTO attention_rule (name, position, quiet_from, quiet_to, per_hour, per_day, once_within, digest_at) VALUES
    ('Everybody', 100, '22:00', '07:00', 4, 12, '1 day', '{13:00,08:30}');
SELECT remind(1, '2027-01-12 10:00+00', 'key deal', 'opportunity', 1), remind(1, '2027-01-12 10:00+00', 'small deal', 'opportunity', 2),
       remind(1, '2027-01-12 10:00+00', 'small', 'account', 2), remind(1, '2027-01-12 10:00+00', 'other', 'account', 3),
       remind(1, '2027-01-12 10:00+00', 'key again', 'account', 1);
-- budgets: four events this hour, whichever rule let them through
SELECT remind(1, '2027-01-12 10:01+00', 'fourth'), remind(1, '2027-01-12 10:02+00', 'urgent', NULL, NULL, '{"urgent": true}');
SELECT fire('2027-01-12 10:05+00');
SELECT * FROM what;
SELECT member_id, due_at, title FROM reminder;
-- the digest at 13:00 of Ann's clock lists what waited
SELECT fire('2027-01-12 12:00+00');
SELECT * FROM what OFFSET 1;
RESET ROLE;
SET SESSION AUTHORIZATION regress_attention_ann;
SET search_path = regress_att;
SELECT title, jsonb_path_query_array(items, '$[*].title') AS items FROM inbox ORDER BY id;
-- acknowledged, it takes what it lists with it
SELECT acknowledge(id) FROM inbox WHERE items IS NOT NULL;
SELECT title, state FROM event WHERE state <> 'new' ORDER BY id;
SELECT (SELECT reason FROM why_not(id)) LIKE 'It was acknowledged at ____-__-__ __:__ +00, with event %' AS told FROM event WHERE title = 'small';
RESET SESSION AUTHORIZATION;
SET ROLE regress_attention_owner;

-- quiet hours are those of each one's clock
SELECT remind(m, '2027-01-12 22:30+00', 'half past eleven or six, ' || m) FROM generate_series(1, 2) AS m;
SELECT remind(2, '2027-01-12 23:30+00', 'half past seven'), remind(2, '2027-01-12 16:00+00', 'midnight');
SELECT remind(1, '2027-01-12 22:30+00', i || ' of one deal', 'account', 3) FROM generate_series(1, 3) AS i;
SELECT remind(1, '2027-01-12 22:30+00', 'key customer at night', 'account', 1);
SELECT fire('2027-01-12 16:00+00'), fire('2027-01-12 23:30+00');
SELECT member, title, reason FROM what WHERE title ~ 'half past|one deal|night';
-- in the morning they come one by one, but those about one record together; "other" is still open
SELECT fire('2027-01-13 06:00+00');
SELECT member, title, reason FROM what WHERE title ~ 'half past|one deal|held';
RESET ROLE;
SET SESSION AUTHORIZATION regress_attention_ann;
SELECT title, jsonb_path_query_array(items, '$[*].title') AS items FROM inbox WHERE title = 'other';
SELECT acknowledge(id) FROM inbox WHERE title = 'other';
RESET SESSION AUTHORIZATION;
SET ROLE regress_attention_owner;
SELECT title, state FROM event WHERE title ~ 'one deal';
-- handled within the day: the next about it waits until the day is over
SELECT remind(1, '2027-01-13 08:00+00', 'once more', 'account', 3);
SELECT fire('2027-01-13 08:00+00');
SELECT title, reason FROM what WHERE title = 'once more';
SELECT fire('2027-01-13 10:06+00');
SELECT title, reason FROM what WHERE title = 'once more';

-- snoozed: the person's own wish, nothing holds it when it comes back, and it lists what it had
SELECT remind(1, '2027-01-13 11:00+00', 'and more', 'account', 3), fire('2027-01-13 11:00+00');
RESET ROLE;
SET SESSION AUTHORIZATION regress_attention_ann;
SELECT snooze(id, '2027-01-13 23:00+00') > 0 AS snoozed FROM inbox WHERE title = 'once more';
RESET SESSION AUTHORIZATION;
SET ROLE regress_attention_owner;
SELECT title, state FROM event WHERE title ~ 'more$';
SELECT remind(1, '2027-01-13 22:50+00', 'in the night'), fire('2027-01-13 23:00+00');
RESET ROLE;
SET SESSION AUTHORIZATION regress_attention_ann;
SELECT title, jsonb_path_query_array(items, '$[*].title') AS items, payload ? 'snoozed_event' AS snoozed FROM inbox WHERE title = 'once more';
-- the person may not touch what shows the held, nor forge it, nor release by hand what others hold
DELETE FROM reminder;
UPDATE reminder SET due_at = now();
INSERT INTO reminder (member_id, due_at, title, payload) VALUES (1, now(), 'forged', '{"crm_digest": true}');
UPDATE event_hold SET until = NULL;
SELECT title, due_at FROM reminder;
-- one's own rules come after those of the house, and have no condition
INSERT INTO attention_rule (name, member_id, quiet_from, quiet_to) VALUES ('Lunch', 1, '12:00', '13:00');
INSERT INTO attention_rule (name, member_id, position, delivery) VALUES ('All at once', 1, 1, 'at once');
INSERT INTO attention_rule (name, member_id, kind, condition, delivery) VALUES ('Mine', 1, 'account', 'true', 'at once');
INSERT INTO attention_rule (name, member_id, delivery) VALUES ('Bob''s', 2, 'digest');
UPDATE attention_rule SET active = false WHERE position < 1000;
SELECT name, active FROM attention_rule ORDER BY id;
-- a manager reads why those below were not told, not the reverse
RESET SESSION AUTHORIZATION;
SELECT DISTINCT member_id FROM event_hold ORDER BY 1;
SET SESSION AUTHORIZATION regress_attention_ann;
SELECT DISTINCT member_id FROM event_hold;
SELECT w.* FROM why_not((SELECT -1)) AS w;
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_attention_bob;
SELECT DISTINCT member_id FROM regress_att.event_hold ORDER BY 1;
RESET SESSION AUTHORIZATION;
SET ROLE regress_attention_owner;

-- a reminder that somebody expected
SELECT remind(1, '2027-02-01 09:00+00', 'next month');
SELECT w.reason, w.detail - 'due_at' AS detail FROM reminder AS r, why_not(reminder_id => r.id) AS w WHERE title = 'next month';
UPDATE reminder SET due_at = '2027-01-13 12:00+00' WHERE title = 'next month';
SELECT w.* FROM reminder AS r, why_not(reminder_id => r.id) AS w WHERE title = 'next month';
UPDATE reminder SET failed_at = '2027-01-13 12:00+00', failure = 'P0001: no' WHERE title = 'next month';
SELECT w.reason FROM reminder AS r, why_not(reminder_id => r.id) AS w WHERE title = 'next month';
DELETE FROM reminder WHERE title = 'next month' RETURNING (SELECT w.reason LIKE 'Reminder % is not there: it never was%' FROM why_not(reminder_id => -1) AS w) AS told;
SELECT w.reason LIKE 'It was acknowledged at%' AS of_its_event FROM event AS e, why_not(reminder_id => e.reminder_id) AS w WHERE e.title = 'other';
-- fails: one or the other
SELECT why_not();
SELECT why_not(1, 1);

-- teams, and the working time of a calendar
DELETE FROM attention_rule;
INSERT INTO attention_rule (name, team_id, calendar) VALUES ('Working time', 1, 'standard');
SELECT remind(m, '2027-01-15 19:00+00', 'Friday evening') FROM generate_series(1, 2) AS m;
SELECT fire('2027-01-15 19:00+00');
SELECT member, title, reason FROM what WHERE title ~ 'evening';
SELECT fire('2027-01-18 09:00+00');
SELECT member, title, reason FROM what WHERE title ~ 'evening';
-- a calendar that never opens, a time zone nobody knows, a condition that fails: nothing is lost
INSERT INTO calendar (name) VALUES ('never');
UPDATE attention_rule SET calendar = 'never';
INSERT INTO attention_rule (name, position, kind, condition, delivery) VALUES ('Broken', 1, 'account', '1 / (id - 3) > 0', 'digest'), ('Key', 2, 'account', 'tier = ''key''', 'at once');
UPDATE attention_rule SET digest_at = '{09:00}' WHERE name = 'Broken';
ALTER TABLE member DISABLE TRIGGER check_time_zone;
UPDATE member SET time_zone = 'Mars/Olympus' WHERE id = 1;
ALTER TABLE member ENABLE TRIGGER check_time_zone;
SELECT remind(1, '2027-01-19 03:00+00', 'broken rule', 'account', 3), remind(1, '2027-01-19 03:00+00', 'key', 'account', 1);
\set VERBOSITY terse
SELECT fire('2027-01-19 03:00+00');
\set VERBOSITY default
SELECT member, title, reason FROM what WHERE title IN ('broken rule', 'key');
-- fails: rules that make no sense
INSERT INTO attention_rule (name, kind, condition) VALUES ('x', 'account', 'no_column > 1');
INSERT INTO attention_rule (name, kind) VALUES ('x', 'unicorn');
\set VERBOSITY terse
INSERT INTO attention_rule (name, condition) VALUES ('x', 'true');
INSERT INTO attention_rule (name, quiet_from) VALUES ('x', '22:00');
INSERT INTO attention_rule (name, quiet_from, quiet_to, calendar) VALUES ('x', '22:00', '23:00', 'standard');
INSERT INTO attention_rule (name, per_day) VALUES ('x', -1);
INSERT INTO attention_rule (name, delivery) VALUES ('x', 'never');
INSERT INTO attention_rule (name, digest_at) VALUES ('x', '{}');
INSERT INTO attention_rule (name, once_within) VALUES ('x', '-1 day');
INSERT INTO attention_rule (name, member_id, team_id) VALUES ('x', 1, 1);
\set VERBOSITY default

-- one's own quiet hours add to those of the house, unless it says that there are none
DELETE FROM attention_rule;
UPDATE member SET time_zone = 'Europe/Berlin' WHERE id = 1;
INSERT INTO attention_rule (name, position, quiet_from, quiet_to) VALUES ('House', 100, '22:00', '07:00');
INSERT INTO attention_rule (name, position, kind, condition, quiet_from, quiet_to) VALUES ('Never quiet', 50, 'account', 'tier = ''key''', '00:00', '00:00');
INSERT INTO attention_rule (name, member_id, quiet_from, quiet_to) VALUES ('Lunch', 1, '12:00', '13:00');
SELECT remind(m, '2027-01-20 11:30+00', 'lunch of ' || m) FROM generate_series(1, 2) AS m;
SELECT remind(1, '2027-01-20 11:30+00', 'key at lunch', 'account', 1), fire('2027-01-20 11:30+00');
SELECT title, state, reason FROM what WHERE title ~ 'lunch';
SELECT fire('2027-01-20 12:00+00');
SELECT title, state FROM what WHERE title ~ 'lunch';
SELECT remind(1, '2027-01-21 01:00+00', 'lunch in the night'), fire('2027-01-21 01:00+00');
SELECT title, reason FROM what WHERE title ~ 'lunch in';
UPDATE attention_rule SET quiet_from = NULL, quiet_to = NULL, calendar = 'standard' WHERE name = 'Lunch';
SELECT remind(1, '2027-01-21 18:30+00', 'late lunch'), fire('2027-01-21 18:30+00');
SELECT title, reason FROM what WHERE title = 'late lunch';

-- at random for three weeks, hour by hour: every reminder has its event, and every
-- event is in the inbox, in a digest or with another in the end, within the budgets
DELETE FROM reminder; DELETE FROM event; DELETE FROM attention_rule; DELETE FROM attention_spent;
UPDATE member SET time_zone = 'America/New_York' WHERE id = 1;
INSERT INTO member (id, name, time_zone) SELECT i, 'M' || i, (ARRAY['Asia/Kathmandu', 'Europe/London', 'UTC'])[i % 3 + 1] FROM generate_series(3, 8) AS i;
INSERT INTO attention_rule (name, position, kind, condition, delivery) VALUES ('Key', 10, 'account', 'tier = ''key''', 'at once'), ('C', 20, 'account', 'tier = ''C''', 'digest');
INSERT INTO attention_rule (name, position, quiet_from, quiet_to, per_hour, per_day, once_within, digest_at) VALUES
    ('Everybody', 100, '20:00', '08:00', 2, 6, '12 hours', '{08:00,16:30}');
INSERT INTO attention_rule (name, position, member_id, per_hour, quiet_from, quiet_to) VALUES ('Zero', 50, 8, 0, '00:00', '00:00');
SELECT setseed(0.3);
INSERT INTO reminder (member_id, due_at, title, kind, record_id, payload)
SELECT 1 + floor(random() * 8), timestamptz '2027-03-10' + random() * interval '12 days', 'r' || i,
       CASE WHEN r < 0.7 THEN 'account' END, CASE WHEN r < 0.7 THEN 1 + floor(r * 10)::int % 3 END, CASE WHEN random() < 0.05 THEN '{"urgent": true}'::jsonb END
FROM (SELECT i, random() AS r FROM generate_series(1, 1500) AS i) AS s;
CREATE TABLE seen (event_id bigint, at timestamptz);
DO $$
DECLARE
    at timestamptz := '2027-03-10';
BEGIN
    WHILE at < '2027-03-31' LOOP
        PERFORM fire(at);
        INSERT INTO seen SELECT e.id, at FROM event AS e WHERE e.state = 'new' AND NOT EXISTS (SELECT FROM seen AS s WHERE s.event_id = e.id);
        -- people handle some of what they see
        UPDATE event SET state = 'acknowledged', handled_at = crm.now() WHERE state = 'new' AND id % 3 = 0;
        at := at + interval '30 minutes';
    END LOOP;
END $$;
SELECT count(*) AS events, count(DISTINCT reminder_id) AS reminders FROM event WHERE NOT coalesce(payload ? 'crm_digest', false);
SELECT count(*) AS waiting FROM event_hold WHERE until IS NOT NULL;
SELECT count(*) AS nowhere FROM event AS e LEFT JOIN event_hold AS h ON h.event_id = e.id WHERE e.state = 'held' AND h.shown_with IS NULL;
SELECT count(*) AS in_nothing_shown FROM event_hold AS h JOIN event AS e ON e.id = h.shown_with WHERE e.state = 'held';
SELECT reason, count(*) > 100 AS many FROM event_hold WHERE reason <> 'frequency' GROUP BY reason ORDER BY 1;
SELECT count(*) FROM reminder;
-- nothing but the urgent, key customers and digests in quiet hours or above the budget
CREATE VIEW shown AS
SELECT e.*, s.at AT TIME ZONE m.time_zone AS wall FROM seen AS s JOIN event AS e ON e.id = s.event_id JOIN member AS m ON m.id = e.member_id
WHERE NOT coalesce(e.payload ?| '{urgent,crm_digest}', false) AND NOT (e.kind IS NOT NULL AND e.record_id = 1);
SELECT count(*) AS in_quiet_hours FROM shown WHERE member_id <> 8 AND wall::time NOT BETWEEN '08:00' AND '20:00:01';
SELECT count(*) AS hours_above FROM (SELECT FROM shown GROUP BY member_id, date_trunc('hour', wall) HAVING count(*) > 2) AS x;
SELECT count(*) AS days_above FROM (SELECT FROM shown GROUP BY member_id, date_trunc('day', wall) HAVING count(*) > 6) AS x;
SELECT count(*) AS for_who_wants_none FROM shown WHERE member_id = 8;
SELECT count(*) > 100 AS shown_at_all FROM shown;

-- judging a batch needs no plan once it has its own, whatever the tables hold; rules need two small ones
CREATE PROCEDURE fire_one_by_one(n integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. n LOOP
        INSERT INTO reminder (member_id, due_at, title) VALUES (2, crm.now(), 'one of many');
        COMMIT;
        PERFORM crm.run_due();
        COMMIT;
    END LOOP;
END $$;
-- PostgreSQL 18 needs fewer.
CREATE PROCEDURE planned(n integer, most integer) LANGUAGE plpgsql AS $$
DECLARE
    before bigint;
    made bigint;
BEGIN
    CALL fire_one_by_one(20);
    before := crm_test.plans();
    CALL fire_one_by_one(n);
    made := crm_test.plans() - before;
    RAISE NOTICE '% plans', CASE WHEN made > most THEN made::text ELSE 'at most ' || most END;
END $$;
DELETE FROM attention_rule;
INSERT INTO reminder (member_id, due_at, title) SELECT 2, crm.now(), 'many' FROM generate_series(1, 30000);
SELECT crm.run_due();
ANALYZE event;
CALL planned(50, 1);
INSERT INTO attention_rule (name, quiet_from, quiet_to, per_day) VALUES ('Never', '00:00', '00:00', 100000);
CALL planned(50, 100);
SELECT count(*) FROM event WHERE title = 'one of many' AND state = 'new';

RESET ROLE;
SELECT crm_test.shift_clock('0') <= clock_timestamp() AS unshifted;
SET client_min_messages = warning;
DROP SCHEMA regress_att CASCADE;
DROP OWNED BY regress_attention_owner, regress_attention_ann, regress_attention_bob;
DROP ROLE regress_attention_owner, regress_attention_ann, regress_attention_bob;
