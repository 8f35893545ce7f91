-- Nobody acts on a record: its owner hears of it, then those above, until somebody does.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
CREATE ROLE regress_escalation_owner;
CREATE ROLE regress_escalation_rep;
GRANT CREATE ON DATABASE contrib_regression TO regress_escalation_owner;
GRANT USAGE ON SCHEMA crm TO regress_escalation_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_escalation_owner;
GRANT USAGE ON SCHEMA crm_test TO regress_escalation_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm_test TO regress_escalation_owner;
SET ROLE regress_escalation_owner;
SELECT crm.create_workspace('regress_esc');
SELECT crm.grant_access('regress_esc', 'regress_escalation_rep', 'app');
SET search_path = regress_esc;
INSERT INTO member (id, name, manager_id, login_role) VALUES
    (1, 'Dora Director', NULL, NULL), (2, 'Max Manager', 1, NULL), (3, 'Rita Rep', 2, 'regress_escalation_rep'), (4, 'Ada Admin', NULL, NULL);
UPDATE member SET access = 'all' WHERE id = 4;

-- what fired since last asked
CREATE FUNCTION days(n numeric) RETURNS text LANGUAGE sql AS $$
    SELECT 'day ' || n FROM crm_test.shift_clock(n * interval '1 day' + interval '1 minute') $$;
CREATE VIEW fired AS
SELECT m.name AS member, e.title, e.kind, e.record_id, e.payload - 'since' AS payload FROM event AS e JOIN member AS m ON m.id = e.member_id ORDER BY e.id;

-- existing records are covered from the time of the rule, closed ones not
INSERT INTO opportunity (id, name, owner_id, amount, created_at) VALUES (1, 'Old', 3, 10, now() - interval '1 year');
INSERT INTO opportunity (id, name, owner_id, amount) VALUES (2, 'Lost', 3, 10);
UPDATE opportunity SET stage = 'lost', lost_reason = 'price' WHERE id = 2;
INSERT INTO escalation_rule (id, kind, name) VALUES (1, 'opportunity', 'No follow-up');
INSERT INTO escalation_level (rule_id, level, after, audience, title) VALUES
    (1, 1, '3 days', '{owner}', 'No follow-up for 3 days'),
    (1, 2, '5 days', '{owner,manager}', 'No follow-up for 5 days'),
    (1, 3, '7 days', '{manager^2}', NULL);
SELECT r.kind, r.record_id, r.member_id, r.title, r.due_at - e.clock_at AS after, e.level FROM reminder AS r JOIN escalation AS e ON e.id = r.escalation_id;

-- three days: the owner; five: the manager, too; seven: the director
SELECT days(2), crm.run_due();
SELECT days(3), crm.run_due();
SELECT * FROM fired;
SELECT days(5), crm.run_due();
SELECT * FROM fired OFFSET 1;
SELECT level, escalated_at - clock_at AS after FROM (SELECT level, date_trunc('day', escalated_at) AS escalated_at, date_trunc('day', clock_at) AS clock_at FROM escalation) AS e;
SELECT days(7), crm.run_due();
SELECT * FROM fired OFFSET 3;
-- and then nothing more
SELECT days(30), crm.run_due();
SELECT count(*) FROM reminder;
SELECT level FROM escalation;

-- an activity starts the clock anew
INSERT INTO activity (type, subject, opportunity_id, owner_id) VALUES ('call', 'asked how it goes', 1, 3);
SELECT level, r.due_at - e.clock_at AS after, e.clock_at > now() + interval '29 days' AS restarted FROM reminder AS r JOIN escalation AS e ON e.id = r.escalation_id;
-- and takes the warnings out of all inboxes, with the reason
SELECT e.member_id, e.payload ->> 'level' AS level, e.state, regexp_replace(w.reason, 'at .* \+00', 'at …') AS reason FROM event AS e, why_not(e.id) AS w ORDER BY e.id;
SELECT days(32), crm.run_due();
-- what is only planned does not, until it is done
INSERT INTO activity (subject, opportunity_id, owner_id, due_at) VALUES ('call again', 1, 3, crm.now() + interval '10 days');
SELECT clock_at < now() + interval '31 days' AS unchanged FROM escalation;
UPDATE activity SET completed_at = crm.now() WHERE subject = 'call again';
SELECT clock_at > now() + interval '31 days' AS restarted FROM escalation;
-- another stage does; another change does not
SELECT days(34);
UPDATE opportunity SET amount = 20 WHERE id = 1;
SELECT clock_at > now() + interval '33 days' AS restarted FROM escalation;
UPDATE opportunity SET stage = 'proposal' WHERE id = 1;
SELECT clock_at > now() + interval '33 days' AS restarted FROM escalation;
-- closing stops it, reopening starts it
BEGIN;
UPDATE opportunity SET stage = 'lost', lost_reason = 'price' WHERE id = 1;
SELECT count(*) FROM escalation;
SELECT count(*) FROM reminder;
ROLLBACK;
BEGIN;
DELETE FROM activity;
DELETE FROM opportunity WHERE id = 1;
SELECT count(*) FROM reminder;
ROLLBACK;

-- a warning that was snoozed comes back, unless somebody has acted
BEGIN;
SELECT days(39.5), crm.run_due();
SELECT snooze(id, crm.now() + interval '1 day') > 0 AS snoozed FROM event WHERE state = 'new' AND member_id = 3 AND payload ->> 'level' = '2' ORDER BY id DESC LIMIT 1;
SAVEPOINT s;
SELECT days(40.7), crm.run_due();
SELECT e.title, e.state FROM event AS e WHERE e.payload ? 'snoozed_event' ORDER BY id DESC LIMIT 1;
ROLLBACK TO s;
SELECT days(40);
INSERT INTO activity (type, subject, opportunity_id, owner_id) VALUES ('call', 'rang them', 1, 3);
SELECT days(40.7), crm.run_due();
SELECT e.title, e.state, w.reason FROM event AS e, why_not(e.id) AS w WHERE e.payload ? 'snoozed_event' ORDER BY e.id DESC LIMIT 1;
ROLLBACK;

-- acting settles what is held as well; a warning with which other events are shown stays for them
BEGIN;
DELETE FROM event;
UPDATE escalation_level SET audience = '{owner}';
INSERT INTO attention_rule (name, member_id, once_within) VALUES ('One a record', 3, '30 days');
SELECT days(34.5);
INSERT INTO opportunity (id, name, owner_id) VALUES (9, 'Another', 3);
SELECT days(38), crm.run_due();
SELECT days(40), crm.run_due();
INSERT INTO reminder (member_id, due_at, title, kind, record_id) VALUES (3, crm.now(), 'they wait for the offer', 'opportunity', 9);
SELECT crm.run_due();
CREATE VIEW shown AS SELECT e.record_id, e.title, e.state, h.reason, h.shown_with IS NOT NULL AS shown_with FROM event AS e LEFT JOIN event_hold AS h ON h.event_id = e.id ORDER BY e.record_id, e.id;
TABLE shown;
INSERT INTO activity (type, subject, opportunity_id, owner_id) VALUES ('call', 'rang them', 1, 3), ('call', 'rang them', 9, 3);
TABLE shown;
-- a rule that rests settles nothing: nobody acted
SELECT days(43), crm.run_due();
UPDATE escalation_rule SET active = false;
SELECT title, state FROM event WHERE record_id = 1 ORDER BY id;
ROLLBACK;

-- after an outage only the highest level that has passed, which says what was skipped
SELECT days(44), crm.run_due();
SELECT * FROM fired OFFSET 4;

-- a new owner, a manager who left, a rep without manager: decided when it happens
INSERT INTO member (id, name, manager_id, active) VALUES (5, 'Gone', 1, false), (6, 'Lone', NULL, true), (7, 'Under Gone', 5, true);
INSERT INTO opportunity (id, name, owner_id) VALUES (10, 'of one who left', 5), (11, 'of one without manager', 6), (12, 'of nobody', NULL), (13, 'under one who left', 7);
UPDATE opportunity SET owner_id = 7 WHERE id = 1;
SELECT record_id, member_id FROM reminder ORDER BY 1;
SELECT days(50), crm.run_due();
SELECT member, record_id, payload ->> 'level' AS level FROM fired WHERE record_id >= 10 ORDER BY record_id, member;
-- the fallback of the workspace comes before its administrators
UPDATE setting SET value = '6' WHERE name = 'escalation_fallback';
SELECT days(52), crm.run_due();
SELECT member, record_id, payload ->> 'level' AS level FROM fired WHERE record_id >= 10 AND payload ->> 'level' = '3' ORDER BY record_id, member;

-- a rule with a condition, and by a column
DELETE FROM escalation_rule;
SELECT count(*) FROM escalation, reminder;
INSERT INTO escalation_rule (id, kind, name, condition, clock_column, starts_at)
VALUES (2, 'opportunity', 'Past its close date', 'amount >= 1000 AND new.stage <> ''qualification''', 'close_date', '-infinity');
INSERT INTO escalation_level (rule_id, level, after) VALUES (2, 1, '1 day');
INSERT INTO opportunity (id, name, owner_id, amount, close_date) VALUES (20, 'Big', 3, 1000, '2020-03-01'), (21, 'Small', 3, 10, '2020-03-01'), (22, 'No date', 3, 1000, NULL);
SELECT count(*) FROM escalation;
UPDATE opportunity SET stage = 'proposal' WHERE id >= 20;
SELECT record_id, due_at FROM reminder;
UPDATE opportunity SET close_date = '2020-04-01' WHERE id >= 21;
UPDATE opportunity SET amount = 2000 WHERE id = 21;
SELECT record_id, due_at FROM reminder ORDER BY 1;
SELECT crm.run_due();
SELECT member, title, record_id FROM fired WHERE title LIKE 'Past%';
-- a changed record is nothing new; another date is
UPDATE opportunity SET amount = 3000 WHERE id = 20;
SELECT count(*) FROM reminder;
UPDATE opportunity SET close_date = '2020-03-05' WHERE id = 20;
SELECT record_id, due_at FROM reminder;

-- levels that change, and a rule that rests
UPDATE escalation_level SET after = '2 days';
SELECT due_at FROM reminder;
UPDATE escalation_rule SET active = false;
SELECT count(*) FROM escalation, reminder;
UPDATE escalation_rule SET active = true, clock_column = NULL, condition = NULL, kind = 'account';
SELECT count(*) FROM escalation;
INSERT INTO account (id, name, owner_id, created_at) VALUES (1, 'Acme', 3, '2020-01-01');
SELECT e.kind, e.record_id, e.clock_at = r.starts_at AS from_the_rule FROM escalation AS e JOIN escalation_rule AS r ON r.id = e.rule_id;

-- a member sees the escalation of a record, and cannot silence it
RESET ROLE;
SET SESSION AUTHORIZATION regress_escalation_rep;
SET search_path = regress_esc;
SELECT kind, record_id, level FROM escalation;
UPDATE reminder SET due_at = 'tomorrow' WHERE escalation_id IS NOT NULL;
DELETE FROM reminder;
-- fails: nor forge one, nor change the rules
INSERT INTO reminder (member_id, due_at, title, escalation_id) SELECT 3, now(), 'forged', id FROM escalation;
UPDATE escalation SET level = 9;
UPDATE escalation_rule SET active = false;
INSERT INTO reminder (member_id, due_at, title) VALUES (NULL, now(), 'for nobody');
-- without a member it is for oneself
INSERT INTO reminder (due_at, title) VALUES ('2099-01-01', 'for me') RETURNING member_id;
DELETE FROM reminder WHERE title = 'for me';
-- what a member does counts, whoever may write escalations
INSERT INTO activity (type, subject, account_id) VALUES ('visit', 'was there', 1);
RESET SESSION AUTHORIZATION;
SET ROLE regress_escalation_owner;
SELECT count(*) FROM reminder;
SELECT e.clock_at > r.starts_at AS restarted FROM escalation AS e JOIN escalation_rule AS r ON r.id = e.rule_id;

-- fails: rules that cannot be
\set VERBOSITY terse
INSERT INTO escalation_rule (kind, name) VALUES ('invoice', 'x');
INSERT INTO escalation_rule (kind, name, condition) VALUES ('account', 'x', 'no_such_column > 1');
INSERT INTO escalation_rule (kind, name, condition) VALUES ('account', 'x', 'true) OR (true');
INSERT INTO escalation_rule (kind, name, condition) VALUES ('account', 'x', 'EXISTS (SELECT FROM member)');
\set VERBOSITY sqlstate
INSERT INTO escalation_rule (kind, name, condition) VALUES ('account', 'x', 'old.name = name');
\set VERBOSITY terse
INSERT INTO escalation_rule (kind, name, clock_column) VALUES ('account', 'x', 'name');
INSERT INTO escalation_rule (kind, name, clock_column) VALUES ('account', 'x', 'nothing');
INSERT INTO escalation_rule (kind, name, starts_at) VALUES ('account', 'x', 'infinity');
INSERT INTO escalation_level (rule_id, level, after) VALUES (2, 2, '1 day');
INSERT INTO escalation_level (rule_id, level, after) VALUES (2, 0, '1 hour');
INSERT INTO escalation_level (rule_id, level, after, audience) VALUES (2, 2, '3 days', '{boss}');
INSERT INTO escalation_level (rule_id, level, after, audience) VALUES (2, 2, '3 days', '{}');
INSERT INTO escalation_level (rule_id, level, after, audience) VALUES (2, 2, '3 days', '{owner,NULL}');
\set VERBOSITY default

-- fails: nothing is due before the last follow-up, and a year is a year
UPDATE escalation_level SET after = '-1 day' WHERE rule_id = 2;
\set VERBOSITY terse
INSERT INTO escalation_rule (kind, name, yearly) VALUES ('contact', 'x', true);
\set VERBOSITY default

-- before a date of the record, and when a day returns, by the clock of the owner
BEGIN;
DELETE FROM escalation_rule;
DELETE FROM event;
UPDATE member SET time_zone = 'Asia/Shanghai' WHERE id = 3;
SELECT crm_test.shift_clock(timestamptz '2027-02-01 12:00+00' - clock_timestamp()) > '2027-02-01 11:59+00' AS shifted;
INSERT INTO escalation_rule (id, kind, name, clock_column, yearly) VALUES
    (10, 'opportunity', 'Closing', 'close_date', false), (11, 'contact', 'Birthday', 'birth_date', true);
INSERT INTO escalation_level (rule_id, level, after, title) VALUES
    (10, 1, '-30 days', 'closes in a month'), (10, 2, '-7 days', 'closes in a week'), (11, 1, '-7 days', 'birthday soon'), (11, 2, '9 hours', 'birthday');
INSERT INTO opportunity (id, name, owner_id, close_date) VALUES (30, 'Renewal', 3, '2027-04-01'), (31, 'Past', 3, '2027-01-01');
-- the column of another table may hold any date
ALTER TABLE contact DROP CONSTRAINT contact_birth_date_range;
INSERT INTO contact (id, full_name, owner_id, birth_date) VALUES
    (1, 'Leap', 3, '2000-02-29'), (2, 'New Year', 3, '1990-01-01'), (3, 'Passed by', 3, '1980-02-01'), (4, 'Unknown', 3, NULL), (5, 'Far', 3, '5874897-12-31'), (6, 'Never', 3, 'infinity');
SELECT kind, record_id, due_at FROM reminder ORDER BY due_at;
-- the years pass
DO $$
BEGIN
    FOR day IN 0 .. 800 LOOP
        PERFORM crm_test.shift_clock(timestamptz '2027-02-01 12:00+00' + day * interval '1 day' - clock_timestamp());
        PERFORM crm.run_due();
        -- touching a record changes nothing
        UPDATE contact SET description = 'day ' || day;
    END LOOP;
END
$$;
SELECT title, kind, record_id, due_at, fired_at - due_at < '1 day' AS soon FROM event ORDER BY id;
-- after years of sleep each day returns once
DELETE FROM event;
SELECT crm_test.shift_clock(timestamptz '2035-02-28 12:00+00' - clock_timestamp()) > '2035-02-28 11:59+00' AS shifted;
SELECT crm.run_due(), crm.run_due();
SELECT title, record_id, due_at FROM event ORDER BY id;
SELECT record_id, due_at FROM reminder WHERE kind = 'contact' ORDER BY due_at;
-- another day
UPDATE contact SET birth_date = '1990-06-01' WHERE id = 2;
SELECT record_id, due_at FROM reminder WHERE kind = 'contact' ORDER BY due_at;
ROLLBACK;
SELECT days(60);

-- working days and hours, of the owner's team
BEGIN;
DELETE FROM escalation_rule;
INSERT INTO calendar (id, name, time_zone) VALUES (60, 'Shanghai', 'Asia/Shanghai');
INSERT INTO calendar_hours (calendar_id, weekday, opens, closes) SELECT 60, d, '09:00', '17:00' FROM generate_series(1, 5) AS d;
INSERT INTO team (id, name, calendar) VALUES (60, 'Asia', 'Shanghai');
INSERT INTO team_member (team_id, member_id) VALUES (60, 3);
ALTER TABLE account ADD since timestamptz;
INSERT INTO account (id, name, owner_id, since) VALUES (50, 'Chinese', 3, '2099-06-12 02:00+00'), (51, 'English', 2, '2099-06-12 10:00+00'), (52, 'Nobody''s', NULL, '2099-06-12 10:00+00');
INSERT INTO escalation_rule (id, kind, name, clock_column, working_time) VALUES (60, 'account', 'Working days', 'since', true);
INSERT INTO escalation_level (rule_id, level, after, audience) VALUES (60, 1, '-2 days', '{owner}'), (60, 2, '3 days', '{owner}'), (60, 3, '3 days 7 hours', '{manager}');
CREATE VIEW levels AS SELECT e.record_id, e.calendar, r.due_at, to_char(r.due_at, 'Dy') AS day FROM escalation AS e JOIN reminder AS r ON r.escalation_id = e.id WHERE e.rule_id = 60 ORDER BY 1;
SELECT * FROM levels;
-- the first level is over: Friday and three working days on
UPDATE escalation SET level = 1; UPDATE account SET owner_id = owner_id;
SELECT * FROM levels;
UPDATE escalation SET level = 2; UPDATE account SET owner_id = owner_id;
SELECT * FROM levels;
-- a holiday, another calendar of the team, another team, another owner, a calendar for all
INSERT INTO calendar_day (calendar_id, day) VALUES (60, '2099-06-15');
SELECT * FROM levels WHERE record_id = 50;
UPDATE team SET calendar = NULL;
SELECT * FROM levels WHERE record_id = 50;
UPDATE team SET calendar = 'Shanghai'; UPDATE team_member SET member_id = 2;
SELECT * FROM levels;
UPDATE account SET owner_id = 2 WHERE id = 50;
SELECT * FROM levels WHERE record_id = 50;
UPDATE escalation_rule SET calendar = 'standard' WHERE id = 60;
SELECT * FROM levels;
UPDATE escalation_rule SET calendar = NULL, working_time = false WHERE id = 60;
SELECT * FROM levels;
-- a calendar without hours never comes so far: no reminder, and no error for who writes the record
UPDATE escalation_rule SET working_time = true WHERE id = 60;
DELETE FROM calendar_hours WHERE calendar_id = 60;
SELECT * FROM levels;
-- the task of a stage, on the next working day
INSERT INTO calendar_hours (calendar_id, weekday, opens, closes) VALUES (60, 1, '10:00', '11:00'), (60, 3, '10:00', '11:00');
SELECT * FROM levels WHERE record_id < 52;
INSERT INTO stage_task (pipeline, stage, subject, after, working_time) VALUES ('sales', 'proposal', 'Send', '1 day 30 minutes', true);
INSERT INTO opportunity (id, name, owner_id, amount) VALUES (60, 'With a task', 2, 1);
UPDATE opportunity SET stage = 'proposal' WHERE id = 60;
SELECT business_between(h.changed_at, a.due_at, 'Shanghai') >= '30 minutes' AS counted, business_open(a.due_at - interval '1 s', 'Shanghai') AS in_working_time
FROM activity AS a, stage_history AS h WHERE a.opportunity_id = 60 AND h.record_id = 60 AND h.stage = 'proposal';
-- fails: what has no length in working time, and birthdays
SAVEPOINT s;
INSERT INTO escalation_level (rule_id, level, after) VALUES (60, 4, '1 month');
ROLLBACK TO s;
\set VERBOSITY terse
UPDATE escalation_rule SET yearly = true WHERE id = 60;
\set VERBOSITY default
ROLLBACK;

-- tasks of a stage: given once, to the owner, who is reminded
BEGIN;
INSERT INTO stage_task (pipeline, stage, subject, type, after) VALUES
    ('sales', 'proposal', 'Send the offer', 'task', '2 days'), ('sales', 'proposal', 'Read the file', 'note', NULL), ('sales', 'won', 'Celebrate', 'meeting', '1 hour');
DELETE FROM reminder;
INSERT INTO opportunity (id, name, owner_id, amount) VALUES (40, 'With tasks', 3, 1), (41, 'Of nobody', NULL, 1);
SELECT count(*) FROM activity WHERE opportunity_id >= 40;
RESET ROLE;
SET SESSION AUTHORIZATION regress_escalation_rep;
UPDATE opportunity SET stage = 'proposal' WHERE id >= 40;
UPDATE opportunity SET stage = 'qualification' WHERE id >= 40;
UPDATE opportunity SET stage = 'proposal' WHERE id >= 40;
RESET SESSION AUTHORIZATION;
SET ROLE regress_escalation_owner;
SELECT a.opportunity_id, a.type, a.subject, a.owner_id, a.due_at - h.changed_at AS after, r.member_id AS reminds, r.title
FROM activity AS a
LEFT JOIN reminder AS r ON r.kind = 'activity' AND r.record_id = a.id
LEFT JOIN LATERAL (SELECT min(h.changed_at) AS changed_at FROM stage_history AS h WHERE h.record_id = a.opportunity_id AND h.stage = 'proposal') AS h ON true
WHERE a.opportunity_id >= 40 ORDER BY 1, 3;
-- the reminder moves with the task, follows its owner, and goes with it
UPDATE activity SET due_at = due_at + interval '1 week', owner_id = 2 WHERE opportunity_id = 40 AND subject = 'Send the offer';
SELECT r.member_id, r.due_at - a.due_at AS after FROM activity AS a JOIN reminder AS r ON r.kind = 'activity' AND r.record_id = a.id;
INSERT INTO reminder (member_id, due_at, title, kind, record_id, recurrence) SELECT 3, a.due_at, 'recurs', 'activity', a.id, 'FREQ=DAILY' FROM activity AS a WHERE a.subject = 'Send the offer' AND a.opportunity_id = 40;
UPDATE activity SET subject = 'Send the offer' WHERE opportunity_id = 40 AND subject = 'Send the offer';
UPDATE activity SET completed_at = crm.now() WHERE opportunity_id = 40 AND subject = 'Send the offer';
SELECT title FROM reminder WHERE kind = 'activity';
DELETE FROM reminder WHERE kind = 'activity';
INSERT INTO reminder (member_id, due_at, title, kind, record_id) SELECT 3, crm.now(), 'deleted', 'activity', a.id FROM activity AS a WHERE a.opportunity_id = 41;
DELETE FROM activity WHERE opportunity_id = 41;
SELECT title FROM reminder WHERE kind = 'activity';
UPDATE activity SET completed_at = NULL, owner_id = 3 WHERE opportunity_id = 40;
-- what had fired leaves the inbox, and what was held is not shown, once the task is done
SAVEPOINT done;
UPDATE activity SET due_at = NULL WHERE opportunity_id = 40;
INSERT INTO reminder (member_id, due_at, title, kind, record_id) SELECT 3, crm.now(), a.subject, 'activity', a.id FROM activity AS a WHERE a.opportunity_id = 40;
SELECT crm.run_due() > 0 AS fired;
INSERT INTO attention_rule (name, delivery, digest_at) VALUES ('In digests', 'digest', '{08:30}');
INSERT INTO reminder (member_id, due_at, title, kind, record_id) SELECT 3, crm.now(), 'held', 'activity', a.id FROM activity AS a WHERE a.opportunity_id = 40;
SELECT crm.run_due() > 0 AS fired;
SELECT e.title, e.state FROM event AS e JOIN activity AS a ON a.id = e.record_id AND a.opportunity_id = 40 WHERE e.kind = 'activity' ORDER BY a.subject, e.id;
UPDATE activity SET completed_at = crm.now() WHERE opportunity_id = 40 AND subject = 'Send the offer';
SELECT e.title, e.state, e.handled_at IS NOT NULL AS handled FROM event AS e JOIN activity AS a ON a.id = e.record_id AND a.opportunity_id = 40 WHERE e.kind = 'activity' ORDER BY a.subject, e.id;
ROLLBACK TO done;
-- what was done is given again
UPDATE activity SET completed_at = crm.now() WHERE opportunity_id = 40;
UPDATE opportunity SET stage = 'qualification' WHERE id = 40;
UPDATE opportunity SET stage = 'proposal' WHERE id = 40;
SELECT subject, completed_at IS NOT NULL AS done FROM activity WHERE opportunity_id = 40 ORDER BY id;
ROLLBACK;

-- merging leaves one escalation, undoing it two
INSERT INTO account (id, name, owner_id) VALUES (2, 'Acme Inc', 3);
SELECT count(*) FROM reminder;
SELECT merge_records('account', 1, '{2}') AS merge \gset
SELECT record_id FROM reminder;
SELECT count(*) FROM unmerge(:merge);
SELECT record_id FROM reminder ORDER BY 1;

RESET ROLE;
SELECT crm_test.shift_clock('0') <= clock_timestamp() AS unshifted;
SET client_min_messages = warning;
DROP SCHEMA regress_esc CASCADE;
DROP OWNED BY regress_escalation_owner, regress_escalation_rep;
DROP ROLE regress_escalation_owner, regress_escalation_rep;
