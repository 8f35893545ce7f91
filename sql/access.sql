-- What each member may read, edit and delete is what an independent computation
-- over hierarchy, teams, shares and owners says, whatever the plan.
-- CRM_SEED=n in the environment makes another random company.
\set SHOW_CONTEXT never
\set seed 20261122
\getenv seed CRM_SEED
SET client_min_messages = warning;
SELECT crm.create_workspace('regress_access');
CREATE ROLE regress_access_gateway LOGIN;
CREATE ROLE regress_access_nobody LOGIN;
SELECT crm.grant_access('regress_access', 'regress_access_gateway', 'gateway');
SELECT crm.grant_access('regress_access', 'regress_access_nobody', 'app');
RESET client_min_messages;

-- A random company: a few ids far away from the others, which no bitmap holds, and
-- a circle of managers, which a trigger would refuse.
SET search_path = regress_access;
SELECT setseed(:seed % 1000000 / 1000000.0) IS NULL AS seeded;
ALTER TABLE member DISABLE TRIGGER crm_refuse_cycle;
INSERT INTO member (id, name, manager_id, access, active)
SELECT i, 'member ' || i, CASE WHEN i > 3 AND random() < 0.95 THEN 1 + floor(random() * least(i - 1, 40))::bigint END,
       CASE WHEN i = 50 THEN 'all' WHEN i = 51 THEN 'read_all' ELSE 'standard' END, random() < 0.95
FROM generate_series(1, 60) AS i;
INSERT INTO member (id, name, manager_id)
SELECT 9000000000000000000 + i * 1000000000::bigint, 'far member ' || i, 1 + i FROM generate_series(1, 4) AS i;
UPDATE member SET manager_id = 9000000001000000000 WHERE id = 9000000002000000000;
UPDATE member SET manager_id = 9000000002000000000 WHERE id = 9000000001000000000;
ALTER TABLE member ENABLE TRIGGER crm_refuse_cycle;
INSERT INTO team (id, name, parent_id, record_access)
SELECT i, 'team ' || i, CASE WHEN i > 3 THEN 1 + floor(random() * (i - 1))::bigint END,
       (ARRAY['none', 'read', 'edit'])[1 + floor(random() * 3)::integer]
FROM generate_series(1, 12) AS i;
INSERT INTO team_member (team_id, member_id)
SELECT DISTINCT 1 + floor(random() * 12)::bigint, m.id FROM member AS m, generate_series(1, 2) WHERE random() < 0.4;
INSERT INTO account (id, name, owner_id)
SELECT i, 'account ' || i,
       CASE WHEN random() < 0.95 THEN (SELECT m.id FROM member AS m WHERE i > 0 ORDER BY random() LIMIT 1) END
FROM generate_series(1, 600) AS i;
INSERT INTO share (kind, record_id, member_id, team_id, access, expires_at)
SELECT s.kind, s.record_id, CASE WHEN s.member THEN s.member_id END, CASE WHEN NOT s.member THEN s.team_id END, s.access, s.expires_at
FROM (SELECT CASE WHEN random() < 0.8 THEN 'account' ELSE 'contact' END AS kind, 1 + floor(random() * 600)::bigint AS record_id,
             random() < 0.7 AS member, (SELECT m.id FROM member AS m WHERE i > 0 ORDER BY random() LIMIT 1) AS member_id,
             1 + floor(random() * 12)::bigint AS team_id, CASE WHEN random() < 0.5 THEN 'read' ELSE 'edit' END AS access,
             CASE WHEN random() < 0.3 THEN '2001-01-01'::timestamptz WHEN random() < 0.3 THEN '2999-01-01'::timestamptz END AS expires_at
      FROM generate_series(1, 200) AS i) AS s
ON CONFLICT DO NOTHING;
ANALYZE;

-- The rule, in another way: every pair of members and every pair of a member and a
-- team, closed; then a level for every member and account.
CREATE TABLE regress_access.expected AS
WITH RECURSIVE
manages (upper, lower) AS (
    SELECT m.manager_id, m.id FROM member AS m WHERE m.manager_id IS NOT NULL
    UNION
    SELECT a.upper, m.id FROM manages AS a JOIN member AS m ON m.manager_id = a.lower),
part_of (part, whole) AS (
    SELECT t.id, t.id FROM team AS t
    UNION
    SELECT p.part, t.parent_id FROM part_of AS p JOIN team AS t ON t.id = p.whole WHERE t.parent_id IS NOT NULL),
belongs (member_id, team_id) AS (
    SELECT DISTINCT tm.member_id, p.whole FROM team_member AS tm JOIN part_of AS p ON p.part = tm.team_id),
grants (member_id, account_id, level) AS (
    SELECT a.owner_id, a.id, 3 FROM account AS a
    UNION ALL
    SELECT h.upper, a.id, 3 FROM account AS a JOIN manages AS h ON h.lower = a.owner_id
    UNION ALL
    SELECT me.member_id, a.id, CASE t.record_access WHEN 'edit' THEN 2 ELSE 1 END
    FROM account AS a
    JOIN belongs AS mate ON mate.member_id = a.owner_id
    JOIN team AS t ON t.id = mate.team_id AND t.record_access <> 'none'
    JOIN belongs AS me ON me.team_id = t.id
    UNION ALL
    SELECT s.member_id, s.record_id, CASE s.access WHEN 'edit' THEN 2 ELSE 1 END
    FROM share AS s WHERE s.kind = 'account' AND s.member_id IS NOT NULL AND s.expires_at > now() IS NOT FALSE
    UNION ALL
    SELECT me.member_id, s.record_id, CASE s.access WHEN 'edit' THEN 2 ELSE 1 END
    FROM share AS s JOIN belongs AS me ON me.team_id = s.team_id WHERE s.kind = 'account' AND s.expires_at > now() IS NOT FALSE
    UNION ALL
    SELECT m.id, a.id, 2 FROM member AS m, account AS a WHERE a.owner_id IS NULL
    UNION ALL
    SELECT m.id, a.id, CASE m.access WHEN 'all' THEN 3 ELSE 1 END FROM member AS m, account AS a WHERE m.access <> 'standard')
SELECT m.id AS member_id,
       array_agg(DISTINCT g.account_id ORDER BY g.account_id) FILTER (WHERE g.level >= 1) AS read,
       array_agg(DISTINCT g.account_id ORDER BY g.account_id) FILTER (WHERE g.level >= 2) AS edit,
       array_agg(DISTINCT g.account_id ORDER BY g.account_id) FILTER (WHERE g.level >= 3) AS own
FROM member AS m LEFT JOIN grants AS g ON g.member_id = m.id AND m.active
GROUP BY m.id;
CREATE TABLE regress_access.seen (how text, member_id bigint, read bigint[], edit bigint[], own bigint[]);
GRANT SELECT, INSERT ON regress_access.seen TO regress_access_gateway;
GRANT SELECT (member_id) ON regress_access.expected TO regress_access_gateway;

-- What each sees: SELECT, SELECT FOR UPDATE (the rows an UPDATE would find), DELETE.
-- One session and the same cached plans for all of them.
CREATE FUNCTION regress_access.look(how text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    person bigint;
    r bigint[];
    e bigint[];
    o bigint[];
BEGIN
    FOR person IN SELECT x.member_id FROM regress_access.expected AS x ORDER BY x.member_id LOOP
        PERFORM set_config('crm.member', 'regress_access/' || person, true);
        r := (SELECT array_agg(a.id ORDER BY a.id) FROM regress_access.account AS a);
        e := (SELECT array_agg(a.id ORDER BY a.id) FROM (SELECT x.id FROM regress_access.account AS x FOR UPDATE) AS a);
        o := NULL;
        IF how = 'default' THEN BEGIN
            WITH gone AS (DELETE FROM regress_access.account RETURNING id)
            SELECT array_agg(g.id ORDER BY g.id) INTO o FROM gone AS g;
            RAISE EXCEPTION 'back' USING ERRCODE = 'RM999';
        EXCEPTION WHEN SQLSTATE 'RM999' THEN
        END; END IF;
        INSERT INTO regress_access.seen VALUES (how, person, r, e, o);
    END LOOP;
END
$$;
SET SESSION AUTHORIZATION regress_access_gateway;
SELECT regress_access.look('default');
SET enable_seqscan = off;
SELECT regress_access.look('index');
SET enable_seqscan = on;
SET enable_indexscan = off;
SET enable_bitmapscan = off;
SET enable_indexonlyscan = off;
SELECT regress_access.look('filter');
RESET enable_indexscan;
RESET enable_bitmapscan;
RESET enable_indexonlyscan;
SET plan_cache_mode = force_generic_plan;
SELECT regress_access.look('generic');
RESET plan_cache_mode;
RESET SESSION AUTHORIZATION;

SELECT how, count(*) FILTER (WHERE s.read IS DISTINCT FROM x.read) AS wrong_read,
       count(*) FILTER (WHERE s.edit IS DISTINCT FROM x.edit) AS wrong_edit,
       count(*) FILTER (WHERE s.own IS DISTINCT FROM x.own AND how = 'default') AS wrong_delete, count(*) AS members
FROM expected AS x JOIN seen AS s USING (member_id) GROUP BY how ORDER BY how;
SELECT how, x.member_id, :seed AS seed FROM expected AS x JOIN seen AS s USING (member_id)
WHERE (s.read, s.edit) IS DISTINCT FROM (x.read, x.edit);
-- the test tests: people see different things, by every way
SELECT count(DISTINCT x.read) > 20 AS read, count(DISTINCT x.edit) > 20 AS edit, count(DISTINCT x.own) > 10 AS own,
       bool_or(x.read IS NULL) AS inactive, bool_or(cardinality(x.read) = 600) AS "all" FROM expected AS x;

-- parallel workers find out themselves who they work for
SET SESSION AUTHORIZATION regress_access_gateway;
SET crm.member = 'regress_access/1';
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET enable_bitmapscan = off;
SET enable_indexscan = off;
SET max_parallel_workers_per_gather = 2;
SET parallel_leader_participation = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM regress_access.account WHERE name <> '';
CREATE TEMP TABLE parallel AS SELECT array_agg(a.id ORDER BY a.id) AS ids FROM regress_access.account AS a WHERE name <> '';
RESET ALL;
RESET SESSION AUTHORIZATION;
SET search_path = regress_access;
SELECT p.ids = x.read AS same FROM parallel AS p, expected AS x WHERE x.member_id = 1;
DROP TABLE parallel;

-- sales.can() explains by the same rule
SELECT count(*) FILTER (WHERE c.level <> CASE WHEN c.id = ANY (c.own) THEN 3 WHEN c.id = ANY (c.edit) THEN 2 WHEN c.id = ANY (c.read) THEN 1 ELSE 0 END) AS wrong,
       count(DISTINCT c.level) AS levels
FROM (SELECT x.*, a.id, coalesce((SELECT p.level FROM crm._access_path('regress_access', x.member_id, 'account', a.id, a.owner_id) AS p LIMIT 1), 0) AS level
      FROM expected AS x, account AS a WHERE a.id IN (1, 300) AND x.member_id % 2 = 0) AS c;

-- Nobody sees nothing, in every table that roles are given, and writes nothing.
INSERT INTO contact (family_name, owner_id) VALUES ('Doe', 1);
INSERT INTO lead (company, owner_id) VALUES ('Acme', 1);
INSERT INTO activity (subject, owner_id) VALUES ('call', 1);
INSERT INTO external_reference (kind, record_id, system, external_id) VALUES ('account', 1, 'erp', '1');
INSERT INTO reminder (member_id, due_at, title) VALUES (1, '2999-01-01', 'later');
SET SESSION AUTHORIZATION regress_access_nobody;
SELECT c.relname, (xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM regress_access.%I', c.relname), false, true, '')))[1]::text AS rows
FROM pg_class AS c
WHERE c.relnamespace = 'regress_access'::regnamespace AND c.relkind IN ('r', 'v', 'p') AND c.relname NOT IN ('expected', 'seen', 'report_calendar')
  AND has_table_privilege(c.oid, 'SELECT')
  AND (xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM regress_access.%I', c.relname), false, true, '')))[1]::text <> '0';
-- fails: nobody owns anything
INSERT INTO regress_access.account (name) VALUES ('mine');
INSERT INTO regress_access.account (name, owner_id) VALUES ('his', 1);
INSERT INTO regress_access.member (name) VALUES ('me');
UPDATE regress_access.account SET name = 'mine';
DELETE FROM regress_access.account;
SELECT * FROM regress_access.token_key;
SELECT regress_access.transfer('account', '{1}', 1);
SELECT regress_access.share_record('account', 1, 1);
SELECT regress_access.can(1, 'read', 'account', 1);
RESET SESSION AUTHORIZATION;
-- but an auditor, who is no member, reads the history
INSERT INTO opportunity (name, pipeline, owner_id) VALUES ('deal', 'sales', 1);
CREATE ROLE regress_access_auditor LOGIN;
SELECT crm.grant_access('regress_access', 'regress_access_auditor', 'auditor');
SET SESSION AUTHORIZATION regress_access_auditor;
SELECT count(*) > 0 AS history FROM regress_access.stage_history;
SELECT count(id) AS accounts FROM regress_access.account;
RESET SESSION AUTHORIZATION;
-- and no table that roles are given is without row security
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = 'regress_access'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relrowsecurity
  AND has_table_privilege('regress_access_nobody', c.oid, 'SELECT')
ORDER BY 1;

SET client_min_messages = warning;
DROP SCHEMA regress_access CASCADE;
DROP OWNED BY regress_access_gateway, regress_access_nobody, regress_access_auditor;
REVOKE SET ON PARAMETER crm.member FROM regress_access_gateway;
DROP ROLE regress_access_gateway, regress_access_nobody, regress_access_auditor;
