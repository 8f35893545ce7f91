-- Monday morning: what is overdue, what is for today and this week, and which customers nobody plans to see.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
CREATE ROLE regress_agenda_owner;
CREATE ROLE regress_agenda_max;
CREATE ROLE regress_agenda_rita;
GRANT CREATE ON DATABASE contrib_regression TO regress_agenda_owner;
GRANT USAGE ON SCHEMA crm, crm_test TO regress_agenda_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_agenda_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm_test TO regress_agenda_owner;
SET ROLE regress_agenda_owner;
SELECT crm.create_workspace('regress_agenda');
SELECT crm.grant_access('regress_agenda', r, 'app') FROM unnest('{regress_agenda_max,regress_agenda_rita}'::name[]) AS r;
SET search_path = regress_agenda;
INSERT INTO member (id, name, manager_id, login_role, time_zone) VALUES
    (1, 'Max', NULL, 'regress_agenda_max', 'UTC'), (2, 'Rita', 1, 'regress_agenda_rita', 'Asia/Shanghai'), (3, 'Other', NULL, NULL, 'UTC');
-- Monday, 8 o'clock in Shanghai; still Sunday midnight in Greenwich
SELECT crm_test.shift_clock(timestamptz '2027-02-01 00:00:10+00' - clock_timestamp()) IS NOT NULL AS monday;
INSERT INTO account (id, name, owner_id) VALUES (1, 'Acme', 2), (2, 'Forgotten', 2), (3, 'Of another', 3);
INSERT INTO opportunity (id, name, account_id, owner_id) VALUES (1, 'Deal', 1, 2), (2, 'Lost deal', 1, 2);
UPDATE opportunity SET stage = 'lost', lost_reason = 'price' WHERE id = 2;
INSERT INTO lead (id, company, owner_id) VALUES (1, 'Prospect', 2);
INSERT INTO contact (id, given_name, family_name, owner_id) VALUES (1, 'Li', 'Lei', 2);
CREATE TABLE boat (id bigint PRIMARY KEY, name text, owner_id bigint);
SELECT crm.protect('boat', 'boat');
GRANT SELECT ON boat TO regress_agenda_rita;
INSERT INTO boat VALUES (1, 'Albatross', 2), (2, 'Hers not', 3);
INSERT INTO activity (id, subject, account_id, opportunity_id, owner_id, due_at, completed_at) VALUES
    (1, 'last visit', 1, NULL, 2, '2027-01-10 09:00+00', '2027-01-10 10:00+00'),
    (2, 'call that was forgotten', 1, NULL, 2, '2027-01-28 09:00+00', NULL),
    (3, 'send the offer', 1, 1, 2, '2027-02-01 09:00+00', NULL),
    (4, 'no date', 1, NULL, 2, NULL, NULL),
    (5, 'not hers', 3, NULL, 3, '2027-02-01 09:00+00', NULL);
INSERT INTO reminder (member_id, due_at, title, kind, record_id) VALUES
    (2, '2027-01-31 23:00+00', 'fired in the night', 'account', 1), (2, '2027-01-31 23:00+00', 'on board', 'boat', 1),
    (2, '2027-01-31 23:00+00', 'not hers to see', 'account', 3), (2, '2027-01-31 23:00+00', 'nor on board', 'boat', 2),
    (2, '2027-02-01 15:59+00', 'before midnight of hers', NULL, NULL), (2, '2027-02-01 16:01+00', 'after it', NULL, NULL),
    (2, '2027-02-07 15:00+00', 'Sunday', 'lead', 1), (2, '2027-02-07 17:00+00', 'Monday in Shanghai', NULL, NULL), (2, '2027-03-01 00:00+00', 'next month', NULL, NULL),
    (2, '2027-02-01 09:00+00', 'of the activity', 'activity', 3),
    (1, '2027-02-02 09:00+00', 'review with Rita', NULL, NULL);
SELECT crm.run_due();
RESET ROLE;
SET SESSION AUTHORIZATION regress_agenda_rita;
SET search_path = regress_agenda;
SELECT period, at, source, title, kind, record_id, name FROM agenda WHERE member_id = me() ORDER BY at;
-- what a record is called is for who may see it
SELECT record_name('account', 1), record_name('account', 3), record_name('account', -1), record_name('lead', 1), record_name('opportunity', 2), record_name('activity', 1),
       record_name('contact', 1), record_name('boat', 1), record_name('unicorn', 1), record_name(NULL, 1);
SELECT title, name FROM inbox ORDER BY id;
SELECT count(DISTINCT member_id) FROM agenda;
-- planned, overdue, and the customers for whom nothing is planned
SELECT kind, name, owner, last_at, next_at, overdue FROM follow_up ORDER BY kind, record_id;
SELECT kind, name FROM follow_up WHERE owner_id = me() AND next_at IS NULL;
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_agenda_max;
-- a manager: by person
SELECT member, period, count(*) FROM agenda GROUP BY member, period ORDER BY 1, 2;
SELECT owner, count(*) FILTER (WHERE overdue) AS overdue, count(*) FILTER (WHERE next_at IS NULL) AS nothing_planned FROM follow_up GROUP BY owner ORDER BY 1;
RESET SESSION AUTHORIZATION;
SELECT crm_test.shift_clock('0') <= clock_timestamp() AS unshifted;
SET client_min_messages = warning;
DROP SCHEMA regress_agenda CASCADE;
DROP OWNED BY regress_agenda_owner, regress_agenda_max, regress_agenda_rita;
DROP ROLE regress_agenda_owner, regress_agenda_max, regress_agenda_rita;
