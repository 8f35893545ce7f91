-- Merges that a rule reserves for somebody: refused to others, asked for, approved or refused.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_approval_owner;
CREATE ROLE regress_approval_rep LOGIN;
CREATE ROLE regress_approval_peer LOGIN;
CREATE ROLE regress_approval_boss LOGIN;
CREATE ROLE regress_approval_admin LOGIN;
GRANT CREATE ON DATABASE contrib_regression TO regress_approval_owner;
SELECT crm.grant_toolkit('regress_approval_owner');
SET ROLE regress_approval_owner;
SELECT crm.create_workspace('regress_approval');
DO $$
DECLARE
    person text;
BEGIN
    FOREACH person IN ARRAY ARRAY['rep', 'peer', 'boss', 'admin'] LOOP
        PERFORM crm.grant_access('regress_approval', 'regress_approval_' || person, 'app');
    END LOOP;
END
$$;
UPDATE regress_approval.setting SET value = 'none' WHERE name = 'unowned_access';
INSERT INTO regress_approval.member (id, name, login_role, access, manager_id) VALUES
    (1, 'Boss', 'regress_approval_boss', 'standard', NULL), (2, 'Rep', 'regress_approval_rep', 'standard', 1),
    (3, 'Peer', 'regress_approval_peer', 'standard', 1), (4, 'Admin', 'regress_approval_admin', 'all', NULL);
INSERT INTO regress_approval.account (id, name, owner_id) VALUES (1, 'Acme', 2), (2, 'Acme Ltd', 2), (3, 'Acme GmbH', 3), (4, 'Acme SA', 2), (5, 'Acme Inc', 2);
INSERT INTO regress_approval.opportunity (account_id, name, amount, currency) VALUES (5, 'big', 1000000, 'EUR');
INSERT INTO regress_approval.share (kind, record_id, member_id, access) VALUES ('account', 3, 2, 'edit');
INSERT INTO regress_approval.merge_approval_rule (kind, name, condition, approver) VALUES
    ('account', 'records of several owners', 'old.owner_id IS DISTINCT FROM new.owner_id', 'owner'),
    ('account', 'money at stake', 'EXISTS (SELECT FROM regress_approval.opportunity AS o WHERE o.account_id = old.id AND o.amount >= 100000)', 'administrator');
-- fails: rules about what there is not
INSERT INTO regress_approval.merge_approval_rule (kind, name, condition) VALUES ('account', 'wrong', 'old.colour = 1');
INSERT INTO regress_approval.merge_approval_rule (kind, name) VALUES ('nothing', 'wrong');
INSERT INTO regress_approval.merge_approval_rule (kind, name, approver) VALUES ('account', 'wrong', 'anybody');

SET SESSION AUTHORIZATION regress_approval_rep;
-- what no rule is about is merged as ever
SELECT regress_approval.merge_records('account', 1, '{2}') IS NOT NULL AS merged;
-- fails: the rep may edit all of them, but one is the peer's; a dry run says so
SELECT regress_approval.merge_records('account', 1, '{4,3}');
SELECT note FROM regress_approval.merge_preview('account', 1, '{3}');
SELECT regress_approval.merge_records('account', 1, '{5}');
-- fails: nobody makes rules but the owner of the workspace; who asks must see the records
INSERT INTO regress_approval.merge_approval_rule (kind, name) VALUES ('contact', 'mine');
INSERT INTO regress_approval.merge_request (kind, survivor_id, loser_ids) VALUES ('account', '1', '{99}');
INSERT INTO regress_approval.merge_request (kind, survivor_id, loser_ids) VALUES ('account', '1', '{1}');
INSERT INTO regress_approval.merge_request (kind, survivor_id, loser_ids, requested_by) VALUES ('account', '1', '{3}', 3);

INSERT INTO regress_approval.merge_request (kind, survivor_id, loser_ids, reason) VALUES ('account', '1', '{3}', 'same house'), ('account', '1', '{5}', 'same firm'), ('account', '1', '{4}', 'never mind');
UPDATE regress_approval.merge_request SET state = 'withdrawn' WHERE loser_ids = '{4}';
-- fails: one's own wish is not one's own command; decided is decided
UPDATE regress_approval.merge_request SET state = 'approved' WHERE loser_ids = '{3}';
UPDATE regress_approval.merge_request SET state = 'refused' WHERE loser_ids = '{3}';
UPDATE regress_approval.merge_request SET state = 'approved' WHERE loser_ids = '{4}';

-- the peer owns one record, sees nothing of the request and cannot decide it; the boss can
SET SESSION AUTHORIZATION regress_approval_peer;
SELECT count(*) FROM regress_approval.merge_request;
SET SESSION AUTHORIZATION regress_approval_boss;
SELECT kind, survivor_id, loser_ids, reason, state, requested_by FROM regress_approval.merge_request ORDER BY id;
SELECT title, kind FROM regress_approval.reminder ORDER BY id;
UPDATE regress_approval.merge_request SET state = 'approved', note = 'thank you' WHERE loser_ids = '{3}';
-- fails: too big for the boss
UPDATE regress_approval.merge_request SET state = 'approved' WHERE loser_ids = '{5}';
SET SESSION AUTHORIZATION regress_approval_admin;
UPDATE regress_approval.merge_request SET state = 'refused', note = 'two firms' WHERE loser_ids = '{5}';
SET SESSION AUTHORIZATION regress_approval_rep;
SELECT loser_ids, state, decided_by, note, merge_id IS NOT NULL AS merged FROM regress_approval.merge_request ORDER BY id;
SELECT regress_approval.resolve('account', 3) AS three, regress_approval.resolve('account', 5) AS five;

-- a merge of many leaves alone what needs approval
RESET SESSION AUTHORIZATION;
SET ROLE regress_approval_owner;
INSERT INTO regress_approval.duplicate_pair (kind, left_id, right_id, score) VALUES ('account', 1, 5, 0.99);
INSERT INTO regress_approval.duplicate_cluster (kind, cluster_id, record_id) VALUES ('account', 1, 1), ('account', 1, 5);
SET SESSION AUTHORIZATION regress_approval_rep;
SELECT merge_id, note FROM regress_approval.merge_clusters('account', 0.9);
-- the owner of the workspace, who is nobody in it, is held to no rule
RESET SESSION AUTHORIZATION;
SET ROLE regress_approval_owner;
SELECT regress_approval.merge_records('account', 1, '{5}') IS NOT NULL AS merged;

RESET ROLE;
DROP SCHEMA regress_approval CASCADE;
DROP OWNED BY regress_approval_owner, regress_approval_rep, regress_approval_peer, regress_approval_boss, regress_approval_admin;
DROP ROLE regress_approval_owner, regress_approval_rep, regress_approval_peer, regress_approval_boss, regress_approval_admin;
