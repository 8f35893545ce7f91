-- Records of every standard kind, with all that a workspace hangs on them, are merged
-- and unmerged exactly: reminders, events, shares, external ids, stages, escalations.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_merge_ws_owner;
CREATE ROLE regress_merge_ws_boss LOGIN;
GRANT CREATE ON DATABASE contrib_regression TO regress_merge_ws_owner;
SELECT crm.grant_toolkit('regress_merge_ws_owner');
GRANT USAGE ON SCHEMA crm_test TO regress_merge_ws_owner;
GRANT EXECUTE ON FUNCTION crm_test.shift_clock(interval) TO regress_merge_ws_owner;
SET ROLE regress_merge_ws_owner;
SELECT crm.create_workspace('regress_merge_ws');
SELECT crm.grant_access('regress_merge_ws', 'regress_merge_ws_boss', 'app');

-- the state of every table but those that log
CREATE SCHEMA regress_merge_ws_user;
CREATE FUNCTION regress_merge_ws_user.state() RETURNS TABLE (rel name, content text) LANGUAGE plpgsql SET timezone = 'UTC' AS $$
BEGIN
    FOR rel IN
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = 'regress_merge_ws'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND c.relname NOT IN ('audit_log', 'audit_seal', 'merge_log', 'merge_change', 'duplicate_pair')
        ORDER BY c.relname
    LOOP
        EXECUTE format('SELECT count(*) || md5(coalesce(string_agg(x::text, E''\n'' ORDER BY x::text), '''')) FROM regress_merge_ws.%I AS x', rel) INTO content;
        RETURN NEXT;
    END LOOP;
END
$$;

-- rows that still name a merged record by kind and id, by table
CREATE FUNCTION regress_merge_ws_user.left_behind() RETURNS TABLE (rel name, rows bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR rel IN
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = 'regress_merge_ws'::regnamespace AND c.relkind = 'r' AND c.relname <> 'merged_record'
          AND 2 = (SELECT count(*) FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname IN ('kind', 'record_id'))
        ORDER BY c.relname
    LOOP
        EXECUTE format('SELECT count(*) FROM regress_merge_ws.%I AS x JOIN regress_merge_ws.merged_record AS m ON m.kind = x.kind AND m.record_id = x.record_id::text', rel) INTO rows;
        CONTINUE WHEN rows = 0;
        RETURN NEXT;
    END LOOP;
END
$$;

INSERT INTO regress_merge_ws.member (id, name, access, login_role) VALUES (1, 'Boss', 'all', 'regress_merge_ws_boss');
INSERT INTO regress_merge_ws.member (id, name, manager_id) VALUES (2, 'Rep', 1), (3, 'Peer', 1), (4, 'Left', 1);
INSERT INTO regress_merge_ws.escalation_rule (id, kind, name) VALUES (1, 'account', 'account silent'), (2, 'lead', 'lead silent'), (3, 'opportunity', 'deal silent');
INSERT INTO regress_merge_ws.escalation_level (rule_id, level, after, audience)
SELECT r.id, l, l * interval '3 days', ARRAY[(ARRAY['owner', 'manager'])[l]] FROM regress_merge_ws.escalation_rule AS r, generate_series(1, 2) AS l;

INSERT INTO regress_merge_ws.account (id, name, city, owner_id, parent_id) VALUES (1, 'Acme', NULL, 2, NULL), (2, 'Acme Ltd', 'Berlin', 2, 1), (3, 'ACME', 'Berlin', 3, 2);
INSERT INTO regress_merge_ws.contact (id, account_id, full_name, owner_id) SELECT i, 1 + i % 3, 'Contact ' || i, 2 FROM generate_series(1, 6) AS i;
INSERT INTO regress_merge_ws.lead (id, company, full_name, owner_id) SELECT i, 'Lead ' || i, 'Person ' || i, 2 FROM generate_series(1, 3) AS i;
INSERT INTO regress_merge_ws.opportunity (id, account_id, contact_id, name, amount, currency, close_date, owner_id)
SELECT i, 1 + i % 3, i, 'Deal ' || i, i * 100, 'EUR', '2030-01-01', 2 FROM generate_series(1, 6) AS i;
INSERT INTO regress_merge_ws.activity (id, subject, account_id, contact_id, opportunity_id, lead_id, owner_id, created_at)
SELECT i, 'call ' || i, 1 + i % 3, 1 + i % 6, 1 + i % 6, 1 + i % 3, 2, now() - interval '1 hour' FROM generate_series(1, 12) AS i;
-- a loser half-way through its pipeline, and one at the end of it
UPDATE regress_merge_ws.opportunity SET stage = 'proposal' WHERE id IN (2, 3);
UPDATE regress_merge_ws.opportunity SET stage = 'negotiation' WHERE id = 3;
UPDATE regress_merge_ws.opportunity SET stage = 'won' WHERE id = 3;
UPDATE regress_merge_ws.lead SET stage = 'qualified' WHERE id = 2;
INSERT INTO regress_merge_ws.reminder (member_id, due_at, title, kind, record_id)
SELECT 2, clock_timestamp() + d * interval '1 day', 'remember', k, r
FROM unnest(ARRAY['account', 'contact', 'lead', 'opportunity', 'activity']) AS k, generate_series(1, 3) AS r, unnest(ARRAY[-1, 100]) AS d;
INSERT INTO regress_merge_ws.share (kind, record_id, member_id, access)
SELECT k, r, m, (ARRAY['read', 'edit'])[1 + (r + m) % 2]
FROM unnest(ARRAY['account', 'contact', 'lead', 'opportunity', 'activity']) AS k, generate_series(1, 3) AS r, generate_series(2, 3) AS m;
INSERT INTO regress_merge_ws.external_reference (kind, record_id, system, external_id)
SELECT k, r, 'sap', k || r FROM unnest(ARRAY['account', 'contact', 'lead', 'opportunity', 'activity', 'member']) AS k, generate_series(1, 3) AS r;
-- a table somebody added, which says with kind and record_id what its rows are about
CREATE TABLE regress_merge_ws.attachment (kind text, record_id bigint, file text, PRIMARY KEY (kind, record_id, file));
INSERT INTO regress_merge_ws.attachment SELECT k, r, f FROM unnest(ARRAY['account', 'contact', 'lead', 'opportunity', 'activity']) AS k, generate_series(1, 3) AS r, unnest(ARRAY['logo.png', 'only of ' || r]) AS f;
-- stored in spite of a duplicate rule: an append-only log that names the record
INSERT INTO regress_merge_ws.duplicate_log (event, kind, record_id, rule, matches, reason) VALUES ('override', 'account', 2, 'no twins', '{1}', 'a branch');
-- the first level of every escalation is reached, and events lie in the inbox
SELECT crm_test.shift_clock('3 days 1 minute') IS NOT NULL AS shifted;
SELECT crm.run_due() > 0 AS fired;
SELECT rule_id, array_agg(DISTINCT level) AS levels FROM regress_merge_ws.escalation GROUP BY 1 ORDER BY 1;

CREATE TABLE regress_merge_ws_user.before AS SELECT * FROM regress_merge_ws_user.state();

-- each kind by itself: what stays behind are logs, and the way back is exact
SET SESSION AUTHORIZATION regress_merge_ws_boss;
SELECT regress_merge_ws.merge_records('account', 1, '{2,3}') AS merge_id \gset
RESET SESSION AUTHORIZATION;
SET ROLE regress_merge_ws_owner;
SELECT * FROM regress_merge_ws_user.left_behind();
SELECT rule_id, record_id, level FROM regress_merge_ws.escalation WHERE kind = 'account';
SELECT record_id, file FROM regress_merge_ws.attachment WHERE kind = 'account' ORDER BY 1, 2;
SET SESSION AUTHORIZATION regress_merge_ws_boss;
SELECT * FROM regress_merge_ws.unmerge(:merge_id);
RESET SESSION AUTHORIZATION;
SET ROLE regress_merge_ws_owner;
SELECT rel FROM regress_merge_ws_user.state() AS s JOIN regress_merge_ws_user.before AS b USING (rel) WHERE s.content <> b.content;

SET SESSION AUTHORIZATION regress_merge_ws_boss;
SELECT regress_merge_ws.merge_records('contact', 1, '{2,3}') AS merge_id \gset
RESET SESSION AUTHORIZATION;
SET ROLE regress_merge_ws_owner;
SELECT * FROM regress_merge_ws_user.left_behind();
SET SESSION AUTHORIZATION regress_merge_ws_boss;
SELECT * FROM regress_merge_ws.unmerge(:merge_id);
RESET SESSION AUTHORIZATION;
SET ROLE regress_merge_ws_owner;
SELECT rel FROM regress_merge_ws_user.state() AS s JOIN regress_merge_ws_user.before AS b USING (rel) WHERE s.content <> b.content;

SET SESSION AUTHORIZATION regress_merge_ws_boss;
SELECT regress_merge_ws.merge_records('lead', 1, '{2,3}') AS merge_id \gset
RESET SESSION AUTHORIZATION;
SET ROLE regress_merge_ws_owner;
SELECT * FROM regress_merge_ws_user.left_behind();
SET SESSION AUTHORIZATION regress_merge_ws_boss;
SELECT * FROM regress_merge_ws.unmerge(:merge_id);
RESET SESSION AUTHORIZATION;
SET ROLE regress_merge_ws_owner;
SELECT rel FROM regress_merge_ws_user.state() AS s JOIN regress_merge_ws_user.before AS b USING (rel) WHERE s.content <> b.content;

SET SESSION AUTHORIZATION regress_merge_ws_boss;
SELECT regress_merge_ws.merge_records('opportunity', 1, '{2,3}') AS merge_id \gset
RESET SESSION AUTHORIZATION;
SET ROLE regress_merge_ws_owner;
SELECT * FROM regress_merge_ws_user.left_behind();
SELECT stage, closed_at FROM regress_merge_ws.opportunity WHERE id = 1;   -- an open deal does not inherit the end of a won one
SELECT record_id, stage FROM regress_merge_ws.stage_history
WHERE kind = 'opportunity' AND record_id IN (SELECT regress_merge_ws.merged_ids('opportunity', 1)) ORDER BY id;
SET SESSION AUTHORIZATION regress_merge_ws_boss;
SELECT * FROM regress_merge_ws.unmerge(:merge_id);
RESET SESSION AUTHORIZATION;
SET ROLE regress_merge_ws_owner;
SELECT rel FROM regress_merge_ws_user.state() AS s JOIN regress_merge_ws_user.before AS b USING (rel) WHERE s.content <> b.content;

-- an activity; and a person who left, whose records a colleague takes over
SET SESSION AUTHORIZATION regress_merge_ws_boss;
SELECT regress_merge_ws.merge_records('activity', 1, '{2,3}') AS merge_id \gset
SELECT * FROM regress_merge_ws.unmerge(:merge_id);
SELECT regress_merge_ws.merge_records('member', 3, '{2}') AS merge_id \gset
SELECT count(*) FROM regress_merge_ws.account WHERE owner_id = 2;
SELECT * FROM regress_merge_ws.unmerge(:merge_id);
RESET SESSION AUTHORIZATION;
SET ROLE regress_merge_ws_owner;
SELECT rel FROM regress_merge_ws_user.state() AS s JOIN regress_merge_ws_user.before AS b USING (rel) WHERE s.content <> b.content;

-- one on top of the other, and back; ids of all of them resolve, and logs are found by them
SET SESSION AUTHORIZATION regress_merge_ws_boss;
SELECT regress_merge_ws.merge_records('account', 2, '{3}') AS first \gset
SELECT regress_merge_ws.merge_records('contact', 2, '{1,5}') AS second \gset
SELECT regress_merge_ws.merge_records('account', 1, '{2}') AS third \gset
SELECT regress_merge_ws.resolve('account', 3), array_agg(i) AS ids FROM regress_merge_ws.merged_ids('account', 1) AS i;
SELECT * FROM regress_merge_ws.unmerge(:third);
SELECT * FROM regress_merge_ws.unmerge(:second);
SELECT * FROM regress_merge_ws.unmerge(:first);
RESET SESSION AUTHORIZATION;
SET ROLE regress_merge_ws_owner;
SELECT rel FROM regress_merge_ws_user.state() AS s JOIN regress_merge_ws_user.before AS b USING (rel) WHERE s.content <> b.content;

-- somebody acts on the survivor meanwhile: its clock starts anew and is left alone
SET SESSION AUTHORIZATION regress_merge_ws_boss;
SELECT regress_merge_ws.merge_records('account', 1, '{2}') AS merge_id \gset
RESET SESSION AUTHORIZATION;
SET ROLE regress_merge_ws_owner;
INSERT INTO regress_merge_ws.activity (id, subject, account_id) VALUES (100, 'at last', 1);
SELECT record_id, level FROM regress_merge_ws.escalation WHERE kind = 'account' ORDER BY 1;
SELECT * FROM regress_merge_ws.unmerge(:merge_id);
SELECT record_id, level FROM regress_merge_ws.escalation WHERE kind = 'account' ORDER BY 1;

-- a colleague leaves and comes back: reminders about their tasks stay with whom they were for
INSERT INTO regress_merge_ws.activity (id, subject, owner_id) VALUES (101, 'call', 4);
INSERT INTO regress_merge_ws.reminder (id, member_id, due_at, title, kind, record_id)
VALUES (1001, 3, 'tomorrow', 'for the peer', 'activity', 101), (1002, 4, 'tomorrow', 'for who left', 'activity', 101);
SELECT regress_merge_ws.merge_records('member', 3, '{4}') AS merge_id \gset
SELECT id, member_id FROM regress_merge_ws.reminder WHERE id > 1000 ORDER BY 1;
SELECT * FROM regress_merge_ws.unmerge(:merge_id);
SELECT id, member_id FROM regress_merge_ws.reminder WHERE id > 1000 ORDER BY 1;

SELECT crm_test.shift_clock('0') IS NOT NULL AS unshifted;
RESET ROLE;
DROP SCHEMA regress_merge_ws, regress_merge_ws_user CASCADE;
DROP OWNED BY regress_merge_ws_owner, regress_merge_ws_boss;
DROP ROLE regress_merge_ws_owner, regress_merge_ws_boss;
