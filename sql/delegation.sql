-- Who is reminded when somebody is away, has left, or follows a record; and what is too late.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
CREATE ROLE regress_delegation_owner;
CREATE ROLE regress_delegation_rita;
CREATE ROLE regress_delegation_dirk;
GRANT CREATE ON DATABASE contrib_regression TO regress_delegation_owner;
GRANT USAGE ON SCHEMA crm, crm_test TO regress_delegation_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_delegation_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm_test TO regress_delegation_owner;
SET ROLE regress_delegation_owner;
SELECT crm.create_workspace('regress_del');
SELECT crm.grant_access('regress_del', r, 'app') FROM unnest('{regress_delegation_rita,regress_delegation_dirk}'::name[]) AS r;
SET search_path = regress_del;
INSERT INTO member (id, name, manager_id, login_role) VALUES
    (1, 'Max', NULL, NULL), (2, 'Rita', 1, 'regress_delegation_rita'), (3, 'Dirk', 1, 'regress_delegation_dirk'), (4, 'Dora', 1, NULL), (5, 'Gone', 1, NULL), (6, 'Lone', NULL, NULL);
CREATE FUNCTION fire(at timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM crm_test.shift_clock(at + interval '1 second' - clock_timestamp());
    RETURN crm.run_due();
END $$;
CREATE VIEW what AS
SELECT m.name AS member, e.title, e.state, e.payload, w.reason FROM event AS e JOIN member AS m ON m.id = e.member_id CROSS JOIN LATERAL why_not(e.id) AS w ORDER BY e.id;
CREATE FUNCTION remind(member_id bigint, due_at timestamptz, title text, kind text DEFAULT NULL, record_id bigint DEFAULT NULL, payload jsonb DEFAULT NULL) RETURNS void
BEGIN ATOMIC INSERT INTO reminder (member_id, due_at, title, kind, record_id, payload) VALUES (remind.member_id, remind.due_at, remind.title, remind.kind, remind.record_id, remind.payload); END;

-- a member says who stands in; others do not
RESET ROLE;
SET SESSION AUTHORIZATION regress_delegation_rita;
SET search_path = regress_del;
INSERT INTO absence (delegate_id, starts_at, ends_at, note) VALUES (3, '2027-05-03', '2027-05-10', 'holidays');
INSERT INTO absence (member_id, delegate_id, ends_at) VALUES (3, 2, '2027-05-04');
RESET SESSION AUTHORIZATION;
SET ROLE regress_delegation_owner;
SELECT remind(2, '2027-05-02 09:00+00', 'before'), remind(2, '2027-05-04 09:00+00', 'during', NULL, NULL, '{"a": 1}'), remind(2, '2027-05-10 00:00+00', 'after');
SELECT fire('2027-05-02 09:00+00'), fire('2027-05-04 09:00+00'), fire('2027-05-10 00:00+00');
SELECT * FROM what;
-- who stands in closes it for both
RESET ROLE;
SET SESSION AUTHORIZATION regress_delegation_dirk;
SET search_path = regress_del;
SELECT title, payload, items FROM inbox;
SELECT acknowledge(id) FROM inbox;
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_delegation_rita;
SELECT e.title, e.state, w.reason LIKE 'It was acknowledged at%, with event%' AS told FROM event AS e, why_not(e.id) AS w WHERE e.title = 'during';
RESET SESSION AUTHORIZATION;
SET ROLE regress_delegation_owner;
DELETE FROM event;

-- also: both have it
INSERT INTO absence (member_id, delegate_id, starts_at, ends_at, mode) VALUES (2, 3, '2027-05-11', '2027-05-12', 'also');
SELECT remind(2, '2027-05-11 09:00+00', 'for both'), fire('2027-05-11 09:00+00');
SELECT member, title, state, payload FROM what;
DELETE FROM event;
-- chains: Rita's Dirk is away, too
INSERT INTO absence (member_id, delegate_id, starts_at, ends_at) VALUES (2, 3, '2027-05-13', '2027-05-14'), (3, 4, '2027-05-13', '2027-05-14');
SELECT remind(2, '2027-05-13 09:00+00', 'chain'), fire('2027-05-13 09:00+00');
SELECT member, title, state, reason FROM what;
DELETE FROM event;
-- in a circle: the manager, and without one who there is
UPDATE absence SET delegate_id = 2 WHERE delegate_id = 4;
SELECT remind(2, '2027-05-13 10:00+00', 'circle'), fire('2027-05-13 10:00+00');
SELECT member, title, state FROM what;
DELETE FROM event;
INSERT INTO absence (member_id, delegate_id, starts_at, ends_at) VALUES (1, 2, '2027-05-13', '2027-05-14');
SELECT remind(2, '2027-05-13 11:00+00', 'nobody is there'), fire('2027-05-13 11:00+00');
SELECT member, title, state FROM what;
UPDATE setting SET value = '6' WHERE name = 'escalation_fallback';
SELECT remind(2, '2027-05-13 12:00+00', 'the last resort'), fire('2027-05-13 12:00+00');
SELECT member, title, state FROM what WHERE title = 'the last resort';
DELETE FROM event;

-- who has left is not reminded, but somebody is
UPDATE member SET active = false WHERE id = 5;
INSERT INTO reminder (member_id, due_at, title, recurrence) VALUES (5, '2027-05-20 09:00+00', 'renew the contract', 'FREQ=YEARLY');
SELECT fire('2027-05-20 09:00+00');
SELECT member, title, state, reason FROM what;
DELETE FROM event; DELETE FROM reminder;

-- escalations go the same way; whoever is told anyway is told once
INSERT INTO opportunity (id, name, owner_id) VALUES (1, 'Deal', 2);
INSERT INTO escalation_rule (id, kind, name) VALUES (1, 'opportunity', 'No follow-up');
INSERT INTO escalation_level (rule_id, level, after, audience) VALUES (1, 1, '1 day', '{owner,manager}');
INSERT INTO absence (member_id, delegate_id, starts_at, ends_at) VALUES (2, 1, '2027-05-21', '2027-05-30');
SELECT fire('2027-05-22 09:00+00');
SELECT member, title, state, reason FROM what;
DELETE FROM event; DELETE FROM escalation_rule; DELETE FROM absence;

-- followers, as long as they may see the record
INSERT INTO account (id, name, owner_id) VALUES (1, 'Key', 2), (2, 'Hidden', 4);
RESET ROLE;
SET SESSION AUTHORIZATION regress_delegation_dirk;
-- fails: not visible; no such kind
SELECT follow('account', 1);
SELECT follow('unicorn', 1);
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_delegation_rita;
SELECT share_record('account', 1, member_id => 3) > 0 AS shared;
SELECT follow('account', 1, 3), follow('account', 1, 3);
SELECT follow('account', 1, 4);
-- fails: not hers to say
SELECT follow('account', 2, 3);
INSERT INTO follower (kind, record_id, member_id) VALUES ('account', 2, 2);
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_delegation_dirk;
SELECT kind, record_id, member_id FROM follower;
-- fails: he may read only
SELECT follow('account', 1, 2);
SELECT unfollow('account', 1, 4);
RESET SESSION AUTHORIZATION;
SET ROLE regress_delegation_owner;
SELECT remind(2, '2027-06-01 09:00+00', 'visit them', 'account', 1), fire('2027-06-01 09:00+00');
-- Dora follows but may not see it
SELECT member, title, state, payload FROM what;
DELETE FROM event;
RESET ROLE;
SET SESSION AUTHORIZATION regress_delegation_rita;
SELECT unshare('account', 1, member_id => 3);
RESET SESSION AUTHORIZATION;
SET ROLE regress_delegation_owner;
SELECT remind(2, '2027-06-02 09:00+00', 'visit them again', 'account', 1), fire('2027-06-02 09:00+00');
SELECT member, title, state FROM what;
DELETE FROM event;
RESET ROLE;
SET SESSION AUTHORIZATION regress_delegation_dirk;
SELECT unfollow('account', 1), unfollow('account', 1);
RESET SESSION AUTHORIZATION;
SET ROLE regress_delegation_owner;
-- the deputy's own rules about attention apply to what comes for another
INSERT INTO absence (member_id, delegate_id, starts_at, ends_at) VALUES (2, 3, '2027-06-03', '2027-06-04');
INSERT INTO attention_rule (name, member_id, quiet_from, quiet_to) VALUES ('Night', 3, '20:00', '08:00');
SELECT remind(2, '2027-06-03 06:00+00', 'early'), fire('2027-06-03 06:00+00');
SELECT member, title, state, reason FROM what;
SELECT fire('2027-06-03 08:00+00');
SELECT member, title, state FROM what WHERE title = 'early';
DELETE FROM event; DELETE FROM attention_rule; DELETE FROM absence;

-- too late: skipped, with the reason, and the next occurrence is on time
INSERT INTO reminder (member_id, due_at, title, catch_up, max_late) VALUES (2, '2027-06-10 09:00+00', 'the meeting begins', 'skip', '15 minutes'), (2, '2027-06-10 11:55+00', 'lunch', 'skip', '15 minutes');
INSERT INTO reminder (member_id, due_at, title, catch_up, max_late, recurrence) VALUES (2, '2027-06-09 09:00+00', 'stand-up', 'skip', '1 hour', 'FREQ=DAILY');
INSERT INTO reminder (member_id, due_at, title) VALUES (2, '2027-06-10 09:00+00', 'fires late and says so');
SELECT fire('2027-06-10 12:00+00');
SELECT title, state, reason FROM what;
SELECT title, due_at FROM reminder;
SELECT fire('2027-06-11 09:00+00');
SELECT title, state FROM what WHERE title = 'stand-up';
-- days were missed, and today's is not too late: that one is told
SELECT fire('2027-06-15 09:05+00');
SELECT e.title, e.state, e.due_at, e.missed, date_trunc('minute', e.fired_at - e.due_at) AS late FROM event AS e WHERE e.title = 'stand-up' ORDER BY e.id DESC LIMIT 1;
-- who stands in is told, too, how many were missed
DELETE FROM reminder; DELETE FROM event;
INSERT INTO reminder (member_id, due_at, title, recurrence) VALUES (2, '2027-06-16 09:00+00', 'report', 'FREQ=DAILY');
INSERT INTO absence (member_id, delegate_id, starts_at, ends_at) VALUES (2, 3, '2027-06-18', '2027-06-20');
SELECT fire('2027-06-18 10:00+00');
SELECT member_id, title, missed FROM event ORDER BY id;
DELETE FROM reminder; DELETE FROM event; DELETE FROM absence;
-- fails
\set VERBOSITY terse
INSERT INTO reminder (member_id, due_at, title, catch_up) VALUES (2, now(), 'x', 'skip');
INSERT INTO reminder (member_id, due_at, title, max_late) VALUES (2, now(), 'x', '1 hour');
INSERT INTO reminder (member_id, due_at, title, catch_up, max_late, payload) VALUES (2, now(), 'x', 'skip', '1 hour', '[]');
INSERT INTO absence (member_id, delegate_id, ends_at) VALUES (2, 2, '2028-01-01');
INSERT INTO absence (member_id, delegate_id, ends_at) VALUES (2, 3, '2020-01-01');
INSERT INTO absence (member_id, delegate_id, ends_at) VALUES (2, 3, '2028-01-01'), (2, 4, '2028-01-01');

RESET ROLE;
SELECT crm_test.shift_clock('0') <= clock_timestamp() AS unshifted;
SET client_min_messages = warning;
DROP SCHEMA regress_del CASCADE;
DROP OWNED BY regress_delegation_owner, regress_delegation_rita, regress_delegation_dirk;
DROP ROLE regress_delegation_owner, regress_delegation_rita, regress_delegation_dirk;
