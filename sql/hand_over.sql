-- What the owner of a record planned about it is the next owner's, whoever hands it over and how.
\set SHOW_CONTEXT never
\pset format unaligned
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE ROLE regress_hand_over_app;
SELECT crm.create_workspace('regress_hand_over');
SELECT crm.grant_access('regress_hand_over', 'regress_hand_over_app', 'gateway');
SET search_path = regress_hand_over;
INSERT INTO member (id, name, manager_id) VALUES (1, 'Max', NULL), (2, 'Ann', 1), (3, 'Bob', 1), (4, 'Cleo', 1);
INSERT INTO account (id, name, owner_id) VALUES (1, 'Acme', 2), (2, 'Beta', 2), (3, 'Gamma', NULL);
INSERT INTO contact (id, full_name, account_id, owner_id) VALUES (1, 'Eve', 1, 2);
INSERT INTO lead (id, company, owner_id) VALUES (1, 'Delta', 2);
INSERT INTO opportunity (id, name, account_id, owner_id) VALUES (1, 'Printers', 1, 2);
CREATE TABLE project (id bigint PRIMARY KEY, name text, owner_id bigint REFERENCES member);
SELECT crm.protect('project', 'project');
INSERT INTO project VALUES (1, 'Roof', 2);
INSERT INTO activity (id, subject, due_at, account_id, contact_id, lead_id, opportunity_id, owner_id, completed_at) VALUES
    (1, 'visit', '2100-01-01', 1, NULL, NULL, NULL, 2, NULL),
    (2, 'call Eve', '2100-01-01', 1, 1, NULL, NULL, 2, NULL),
    (3, 'send the offer', NULL, 1, 1, NULL, 1, 2, NULL),
    (4, 'qualify', '2100-01-01', NULL, NULL, 1, NULL, 2, NULL),
    (5, 'done', '2000-01-01', 1, NULL, NULL, NULL, 2, '2000-01-01'),
    (6, 'what Cleo does', '2100-01-01', 1, NULL, NULL, NULL, 4, NULL),
    (7, 'of another', '2100-01-01', 2, NULL, NULL, NULL, 2, NULL),
    (8, 'dentist', '2100-01-01', NULL, NULL, NULL, NULL, 2, NULL);
INSERT INTO reminder (member_id, due_at, title, kind, record_id, payload, recurrence) VALUES
    (2, '2100-01-01', 'look at the contract', 'account', 1, NULL, NULL),
    (2, '2100-01-01', 'monthly call', 'account', 1, NULL, 'FREQ=MONTHLY'),
    (2, '2100-01-01', 'my own', 'account', 1, '{"personal": true}', NULL),
    (4, '2100-01-01', 'what Cleo wants', 'account', 1, NULL, NULL),
    (2, '2100-01-01', 'about the visit', 'activity', 1, NULL, NULL),
    (2, '2100-01-01', 'about nothing', NULL, NULL, NULL, NULL),
    (2, '2100-01-01', 'the roof', 'project', 1, '[1]', NULL),
    (2, '2000-01-01', 'fired', 'account', 1, '{"channel": "mail"}', NULL),
    (2, '2000-01-01', 'fired, my own', 'account', 1, '{"personal": true}', NULL),
    (4, '2000-01-01', 'fired for Cleo', 'account', 1, NULL, NULL),
    (2, '2000-01-01', 'seen to', 'account', 1, NULL, NULL),
    (2, '2000-01-01', 'nobody called', 'account', 1, '{"escalation": "idle", "level": 1}', NULL);
SELECT crm.run_due() AS fired;
UPDATE event SET state = 'acknowledged' WHERE title = 'seen to';

SET ROLE regress_hand_over_app;
SET crm.member = 'regress_hand_over/1';
-- the account, with what is planned about it; what is about its contact and its opportunity is not
SELECT transfer('account', '{1}', 3);
SELECT id, subject, owner_id FROM activity ORDER BY id;
SELECT title, member_id FROM reminder WHERE title <> 'fired' ORDER BY id;
-- Ann's inbox is rid of it; Bob is reminded
SELECT title, member_id, state FROM event ORDER BY id;
RESET ROLE;
SELECT crm.run_due() AS fired;
SET ROLE regress_hand_over_app;
SET crm.member = 'regress_hand_over/3';
SELECT title, kind, record_id, payload FROM inbox;
SET crm.member = 'regress_hand_over/2';
SELECT title FROM inbox;
-- an update hands over as well, from a person to a person
SET crm.member = 'regress_hand_over/1';
UPDATE contact SET owner_id = 4 WHERE id = 1;
UPDATE opportunity SET owner_id = 4, description = 'hers' WHERE id = 1;
UPDATE lead SET owner_id = 3 WHERE id = 1;
UPDATE account SET owner_id = NULL WHERE id = 2;
UPDATE account SET owner_id = 3 WHERE id = 2;
UPDATE account SET owner_id = 3 WHERE id = 3;
SELECT transfer('project', '{1}', 3);
SELECT id, subject, owner_id FROM activity ORDER BY id;
SELECT title, member_id, payload FROM reminder ORDER BY id;
-- who may not, is told which field it is
SET crm.member = 'regress_hand_over/4';
DO $$
DECLARE
    s text;
    t text;
    c text;
BEGIN
    UPDATE regress_hand_over.contact SET owner_id = 2;
EXCEPTION WHEN insufficient_privilege THEN
    GET STACKED DIAGNOSTICS s = SCHEMA_NAME, t = TABLE_NAME, c = COLUMN_NAME;
    RAISE WARNING '%: % % % %', SQLERRM, SQLSTATE, s, t, c;
END $$;
SET crm.member = 'regress_hand_over/1';
-- what was about an activity goes with the activity
SELECT transfer('activity', '{1}', 4);
SELECT title, member_id FROM reminder WHERE kind = 'activity';
-- the audit log knows whose doing it was
RESET ROLE;
SELECT kind, record_id, member_id, old, new FROM audit_log WHERE operation = 'UPDATE' AND kind = 'activity' ORDER BY id;

-- a merge decides for itself, and is undone whole
INSERT INTO merge_rule (kind, field, strategy) VALUES ('account', 'owner_id', 'max');
INSERT INTO account (id, name, owner_id) VALUES (10, 'Zeta', 2), (11, 'Zeta', 4);
INSERT INTO reminder (member_id, due_at, title, kind, record_id) VALUES (2, '2100-01-01', 'Zeta', 'account', 10);
SELECT merge_records('account', 10, '{11}') > 0 AS merged;
SELECT a.owner_id, r.member_id FROM account AS a JOIN reminder AS r ON r.kind = 'account' AND r.record_id = a.id AND a.id = 10;
SELECT u.* FROM merge_log AS l, unmerge(l.id) AS u;
SELECT a.owner_id, r.member_id FROM account AS a JOIN reminder AS r ON r.kind = 'account' AND r.record_id = a.id AND a.id = 10;

-- a table of somebody else's is protected, but nothing is written on its behalf
CREATE ROLE regress_hand_over_other;
SELECT crm.grant_toolkit('regress_hand_over_other');
GRANT USAGE ON SCHEMA regress_hand_over TO regress_hand_over_other;
CREATE SCHEMA regress_hand_over_2 AUTHORIZATION regress_hand_over_other;
SET ROLE regress_hand_over_other;
CREATE TABLE regress_hand_over_2.car (id bigint PRIMARY KEY, owner_id bigint);
SELECT crm.protect('regress_hand_over_2.car', 'account', workspace => 'regress_hand_over');
-- fails: not for others
\set VERBOSITY terse
CREATE TRIGGER t AFTER UPDATE ON regress_hand_over_2.car FOR EACH ROW EXECUTE FUNCTION regress_hand_over.hand_over('account', 'owner_id', 'id');
\set VERBOSITY default
INSERT INTO regress_hand_over_2.car VALUES (1, 3);
UPDATE regress_hand_over_2.car SET owner_id = 2;
RESET ROLE;
SELECT count(*) FROM reminder WHERE kind = 'account' AND record_id = 1 AND member_id = 3;

RESET crm.member;
RESET search_path;
DROP SCHEMA regress_hand_over, regress_hand_over_2 CASCADE;
DROP OWNED BY regress_hand_over_app, regress_hand_over_other;
DROP ROLE regress_hand_over_app, regress_hand_over_other;
