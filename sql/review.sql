-- People decide about what a scan found: each sees and decides what is theirs.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_review_owner;
CREATE ROLE regress_review_rep LOGIN;
CREATE ROLE regress_review_peer LOGIN;
CREATE ROLE regress_review_bi LOGIN;
GRANT CREATE ON DATABASE contrib_regression TO regress_review_owner;
SELECT crm.grant_toolkit('regress_review_owner');
SET ROLE regress_review_owner;
SELECT crm.create_workspace('regress_review');
SELECT crm.grant_access('regress_review', 'regress_review_rep', 'app');
SELECT crm.grant_access('regress_review', 'regress_review_peer', 'app');
SELECT crm.grant_access('regress_review', 'regress_review_bi', 'report');
UPDATE regress_review.setting SET value = 'none' WHERE name = 'unowned_access';
INSERT INTO regress_review.member (id, name, login_role, access) VALUES (1, 'Boss', NULL, 'standard'), (4, 'Reader', 'regress_review_bi', 'read_all');
INSERT INTO regress_review.member (id, name, login_role, manager_id) VALUES (2, 'Rep', 'regress_review_rep', 1), (3, 'Peer', 'regress_review_peer', 1);
INSERT INTO regress_review.account (id, name, phone, city, owner_id) VALUES
    (1, 'Northwind Traders Ltd', '+442079460123', NULL, 2), (2, 'Northwind Traders Limited', '+442079460123', 'London', 2), (3, 'NORTHWIND TRADERS', '+442079460123', 'London', 2),
    (4, 'Contoso Machinery GmbH', '+493012345678', 'Berlin', 2), (5, 'Contoso Machinery', '+493012345678', NULL, 3),
    (6, 'Fabrikam Instruments', '+33142685300', 'Paris', 2), (7, 'Fabrikam Instruments SA', '+33142685300', 'Paris', 2),
    (8, 'Tailspin Logistics BV', '+31201234567', 'Delft', 3), (9, 'Tailspin Logistics', '+31201234567', NULL, 3),
    (10, 'Adatum Consulting', NULL, 'Oslo', 2);
INSERT INTO regress_review.contact (id, account_id, full_name, owner_id) VALUES (1, 2, 'Eve Adams', 2), (2, 3, 'Fay Ball', 2);
SELECT regress_review.scan_duplicates('account') > 0 AS found;

-- the queue: pairs side by side, with nothing but what differs; the peer's are not the rep's
SET SESSION AUTHORIZATION regress_review_rep;
SELECT left_id, right_id, left_name, right_name, differences, may_decide FROM regress_review.duplicate_review ORDER BY left_id, right_id;
SELECT DISTINCT jsonb_typeof(reasons) AS reasons, score BETWEEN 0.5 AND 1 AS score FROM regress_review.duplicate_review;
RESET SESSION AUTHORIZATION;
-- shared to read: seen, not decided
SET ROLE regress_review_owner;
INSERT INTO regress_review.share (kind, record_id, member_id, access) VALUES ('account', 5, 2, 'read');
SET SESSION AUTHORIZATION regress_review_rep;
SELECT left_id, right_id, may_decide FROM regress_review.duplicate_review WHERE left_id = 4;
SELECT pair_id AS contoso FROM regress_review.duplicate_review WHERE left_id = 4 \gset
-- fails: may see but not change both; may not even see
SELECT regress_review.decide_pair(:contoso, 'not_duplicate');
SELECT regress_review.decide_pair(:contoso, 'merge');
UPDATE regress_review.duplicate_review SET decision = 'ignore' WHERE pair_id = :contoso;
RESET SESSION AUTHORIZATION;
SELECT id AS tailspin FROM regress_review.duplicate_pair WHERE left_id = 8 \gset
SET SESSION AUTHORIZATION regress_review_rep;
SELECT regress_review.decide_pair(:tailspin, 'ignore');
-- fails: decisions there are; a pair is not merged by saying so; the survivor is one of the two
SELECT pair_id AS fabrikam FROM regress_review.duplicate_review WHERE left_id = 6 \gset
SELECT regress_review.decide_pair(:fabrikam, 'perhaps');
SELECT regress_review.decide_pair(:fabrikam, NULL);
-- the same, to be merged some other time; taken back
UPDATE regress_review.duplicate_review SET decision = 'duplicate' WHERE pair_id = :fabrikam;
SELECT state, decided_by IS NOT NULL AS decided FROM regress_review.duplicate_pair WHERE id = :fabrikam;
SELECT regress_review.decide_pair(:fabrikam, 'open');
SELECT regress_review.decide_pair(0, 'merge');
SELECT regress_review.decide_pair(:fabrikam, 'merge', 10);
UPDATE regress_review.duplicate_pair SET state = 'merged' WHERE id = :fabrikam;
UPDATE regress_review.duplicate_review SET score = 1 WHERE pair_id = :fabrikam;

-- later: out of sight, and back when its time has come
UPDATE regress_review.duplicate_review SET decision = 'later', later_until = now() + interval '1 hour' WHERE pair_id = :fabrikam;
SELECT count(*) FROM regress_review.duplicate_review WHERE pair_id = :fabrikam;
UPDATE regress_review.duplicate_pair SET later_until = now() WHERE id = :fabrikam;
SELECT count(*) FROM regress_review.duplicate_review WHERE pair_id = :fabrikam;

-- a plain UPDATE of the pair decides too; who and when is not for the statement to say
UPDATE regress_review.duplicate_pair SET state = 'ignored', decided_by = 1, decided_at = '2000-01-01' WHERE id = :fabrikam;
SELECT state, decided_by, decided_at > now() - interval '1 hour' AS now FROM regress_review.duplicate_pair WHERE id = :fabrikam;
UPDATE regress_review.duplicate_pair SET decided_by = 1 WHERE id = :fabrikam;
UPDATE regress_review.duplicate_pair SET state = 'open' WHERE id = :fabrikam;
SELECT state, decided_by, decided_at FROM regress_review.duplicate_pair WHERE id = :fabrikam;
UPDATE regress_review.duplicate_review SET decision = 'not_duplicate' WHERE pair_id = :fabrikam;
SELECT state, decided_by FROM regress_review.duplicate_pair WHERE id = :fabrikam;

-- a cluster: what would become of it, field by field and table by table
SELECT DISTINCT cluster_id FROM regress_review.duplicate_review WHERE left_id = 1;
SELECT * FROM regress_review.cluster_members('account', 1);
SELECT field, value, sources, strategy, choices FROM regress_review.preview_cluster('account', 1) WHERE value IS NOT NULL AND field NOT IN ('created_at', 'updated_at');
SELECT p.table_name, p.column_name, p.rows FROM regress_review.cluster_members('account', 1) AS c, regress_review.merge_preview('account', c.survivor, c.losers) AS p;
-- fails: no such cluster
SELECT * FROM regress_review.preview_cluster('account', 99);

-- the whole queue in one statement: overlapping pairs are merged once
BEGIN;
UPDATE regress_review.duplicate_review SET decision = 'merge' WHERE may_decide AND left_id IN (1, 2);
SELECT id, name, city FROM regress_review.account WHERE id <= 3;
SELECT left_id, right_id, state FROM regress_review.duplicate_pair WHERE left_id <= 3 ORDER BY 1, 2;
SELECT kind, survivor_id, loser_ids, merged_by_name, is_undone FROM regress_review.report_merge ORDER BY id;
ROLLBACK;
-- the other one stays if the person says so
BEGIN;
UPDATE regress_review.duplicate_review SET decision = 'merge', survivor_id = right_id WHERE left_id = 1 AND right_id = 3;
SELECT id FROM regress_review.account WHERE id IN (1, 3);
ROLLBACK;
SELECT regress_review.merge_cluster('account', 1) IS NOT NULL AS merged;
SELECT id, city FROM regress_review.account WHERE id <= 3;
-- fails: merged already
SELECT regress_review.merge_cluster('account', 1);
RESET SESSION AUTHORIZATION;

-- the rate, as of each scan and on demand, against the marks; BI reads it, reps do not write it
SET ROLE regress_review_owner;
SELECT regress_review.measure_duplicates('account');
SELECT kind, records, duplicates, clusters, open_pairs, percent, change, warning_percent, alarm_percent, status, is_latest FROM regress_review.report_duplicate_rate ORDER BY id;
UPDATE regress_review.setting SET value = '0.3' WHERE name = 'duplicate_rate_alarm';
SET SESSION AUTHORIZATION regress_review_bi;
SELECT percent, status FROM regress_review.report_duplicate_rate ORDER BY id;
SELECT kind, survivor_id, losers, merged_by_name FROM regress_review.report_merge;
SELECT count(*) > 0 AS reads_queue FROM regress_review.duplicate_review;
-- fails: reports do not decide
UPDATE regress_review.duplicate_review SET decision = 'merge';
SET SESSION AUTHORIZATION regress_review_rep;
SELECT regress_review.measure_duplicates('account');

-- a merge of many: one run, each cluster by itself, undone as one
RESET SESSION AUTHORIZATION;
SET ROLE regress_review_owner;
INSERT INTO regress_review.account (id, name, phone, owner_id)
SELECT 100 + 2 * i + j, n, '+49305' || i || '5000' || i || '1', 2
FROM unnest('{Litware Stores,Woodgrove Bank,Trey Research,Lucerne Publishing,Humongous Insurance}'::text[]) WITH ORDINALITY AS f (n, i), generate_series(0, 1) AS j;
INSERT INTO regress_review.contact (id, account_id, full_name, owner_id) VALUES (50, 107, 'Gil Cole', 2);
SELECT regress_review.scan_duplicates('account') > 0 AS found;
SELECT md5(string_agg(a::text, ',' ORDER BY id)) AS before FROM (SELECT id, name, phone, city, owner_id FROM regress_review.account WHERE id >= 100) AS a \gset
SET SESSION AUTHORIZATION regress_review_rep;
SELECT cluster_id, survivor, losers, note FROM regress_review.merge_clusters('account', 0.9, 2);
-- fails: it commits, so not in a transaction that is not its own
BEGIN;
CALL regress_review.merge_all_clusters('account', 0.9);
ROLLBACK;
SET client_min_messages = info;
CALL regress_review.merge_all_clusters('account', 0.9);
CALL regress_review.merge_all_clusters('account', 0.9);
-- fails: no probability, no kind
CALL regress_review.merge_all_clusters('account', 1.5);
CALL regress_review.merge_all_clusters('nothing', 0.5);
SET client_min_messages = warning;
SELECT run_id = min(id) OVER (PARTITION BY run_id) AS numbered_by_first, count(*) OVER (PARTITION BY run_id) AS merges, survivor_id FROM regress_review.report_merge WHERE run_id IS NOT NULL ORDER BY id;
UPDATE regress_review.contact SET account_id = 10 WHERE id = 50;
SELECT undone, count(*), min(field) AS field, min(kept) AS kept FROM regress_review.unmerge_all(ARRAY(SELECT id FROM regress_review.report_merge WHERE merged_by_name = 'Rep' AND merged_on = current_date AND run_id IS NOT NULL)) GROUP BY 1;
RESET SESSION AUTHORIZATION;
SELECT md5(string_agg(a::text, ',' ORDER BY id)) = :'before' AS exact FROM (SELECT id, name, phone, city, owner_id FROM regress_review.account WHERE id >= 100) AS a;
-- what cannot be undone is told, and does not stop the rest
SELECT merge_id IS NULL AS nothing, undone, note FROM regress_review.unmerge_all('{}');
SELECT undone, note FROM regress_review.unmerge_all('{0}');
SELECT undone, split_part(note, ' ', 1) || ' ... ' || split_part(note, ' has ', 2) AS note FROM regress_review.unmerge_all(ARRAY(SELECT id FROM regress_review.merge_log WHERE run_id IS NOT NULL LIMIT 1));

-- a table of one's own: it needs an id, a matching index and protect()
SET ROLE regress_review_owner;
CREATE TABLE regress_review.supplier (id bigint PRIMARY KEY, name text, telephone text, owner_id bigint REFERENCES regress_review.member);
CREATE TABLE regress_review.supply (supplier_id bigint REFERENCES regress_review.supplier, part text);
CREATE INDEX ON regress_review.supplier USING crm_match (crm.match_keys('company,phone', name, telephone));
SELECT crm.protect('regress_review.supplier', 'supplier');
GRANT SELECT, INSERT, UPDATE, DELETE ON regress_review.supplier TO regress_review_rep;
INSERT INTO regress_review.supplier VALUES (1, 'Proseware Steel', '+4940111222', 2), (2, 'Proseware Steel AG', '+4940111222', 2), (3, 'Wingtip Glass', '+4940333444', 3), (4, 'Wingtip Glass KG', '+4940333444', 3);
INSERT INTO regress_review.supply VALUES (2, 'beam');
SELECT regress_review.scan_duplicates('supplier') > 0 AS found;
SET SESSION AUTHORIZATION regress_review_rep;
SELECT kind, left_name, right_name, differences, may_decide FROM regress_review.duplicate_review WHERE kind = 'supplier';
SELECT field, value, sources FROM regress_review.preview_record('supplier', 1, '{2}');
UPDATE regress_review.duplicate_review SET decision = 'merge', survivor_id = left_id WHERE kind = 'supplier';
SELECT id, name FROM regress_review.supplier;
RESET SESSION AUTHORIZATION;
SELECT * FROM regress_review.supply;
SET ROLE regress_review_owner;
SELECT regress_review.scan_duplicates('supplier') > 0 AS found;
SELECT kind, records, duplicates, status FROM regress_review.report_duplicate_rate WHERE kind = 'supplier' ORDER BY id;

-- a survivor without a decision decides nothing
SET SESSION AUTHORIZATION regress_review_owner;
INSERT INTO regress_review.supplier VALUES (5, 'Coho Winery', '+4940555666', 2), (6, 'Coho Winery KG', '+4940555666', 2);
SELECT regress_review.scan_duplicates('supplier') > 1 AS found;
SET SESSION AUTHORIZATION regress_review_rep;
\set VERBOSITY sqlstate
UPDATE regress_review.duplicate_review SET survivor_id = left_id WHERE kind = 'supplier';
UPDATE regress_review.duplicate_review SET later_until = now() WHERE kind = 'supplier';
\set VERBOSITY default
-- and another, who may not read the table, is not disturbed by it
SET SESSION AUTHORIZATION regress_review_peer;
SELECT DISTINCT kind FROM regress_review.duplicate_pair;
SET SESSION AUTHORIZATION regress_review_rep;

-- the policies cost a call a row, not a subplan for each kind, of which the planner
-- would make a query that takes seconds to compile
CREATE FUNCTION pg_temp.plan_lines(query text, pattern text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE line text; n bigint := 0; BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP n := n + (line ~ pattern)::integer; END LOOP;
    RETURN n;
END $$;
SELECT pg_temp.plan_lines('SELECT * FROM regress_review.duplicate_review ORDER BY score DESC LIMIT 50', 'SubPlan [0-9]+$') < 3 AS few_subplans,
       pg_temp.plan_lines('SELECT * FROM regress_review.stage_history', 'SubPlan [0-9]+$') AS subplans;

-- and a page of a long queue is read in its order
SET enable_sort = off;
SELECT pg_temp.plan_lines('SELECT * FROM regress_review.duplicate_review WHERE kind = ''account'' ORDER BY score DESC LIMIT 50', 'Index Scan Backward using duplicate_pair_score_idx') AS in_order;
RESET enable_sort;

-- many pairs: the records in reach are read at once, and anew for whom the session acts for next
RESET SESSION AUTHORIZATION;
CREATE ROLE regress_review_gate LOGIN;
SELECT crm.grant_access('regress_review', 'regress_review_gate', 'gateway');
INSERT INTO regress_review.account (id, name, owner_id) SELECT 1000 + i, 'Firm ' || i, 2 + i / 2 % 2 FROM generate_series(0, 399) AS i;
INSERT INTO regress_review.duplicate_pair (kind, left_id, right_id, score) SELECT 'account', 1000 + i, 1001 + i, 0.9 FROM generate_series(0, 398) AS i;
SET SESSION AUTHORIZATION regress_review_gate;
DO $$
DECLARE
    c refcursor; pair record; seen bigint[]; met bigint;
BEGIN
    PERFORM set_config('crm.member', 'regress_review/2', true);
    OPEN c FOR SELECT p.left_id, p.right_id FROM regress_review.duplicate_pair AS p WHERE p.left_id >= 1000;
    FOR i IN 1..20 LOOP
        FETCH c INTO pair;
        seen := seen || pair.left_id || pair.right_id;
    END LOOP;
    PERFORM set_config('crm.member', 'regress_review/3', true);
    FETCH c INTO pair;
    WHILE FOUND LOOP
        met := pair.left_id;
        IF pair.left_id / 2 % 2 = 0 OR pair.right_id / 2 % 2 = 0 THEN RAISE EXCEPTION 'the peer was shown the rep''s %', pair; END IF;
        FETCH c INTO pair;
    END LOOP;
    RAISE WARNING '% records of the rep, then those of the peer up to %', cardinality(seen), met;
END $$;
SET crm.member = 'regress_review/2';
SELECT count(*) FROM regress_review.duplicate_pair WHERE left_id >= 1000;
-- more than a hash table may take are not
RESET SESSION AUTHORIZATION;
INSERT INTO regress_review.account (id, name, owner_id) SELECT 10000 + i, 'Firm', 2 FROM generate_series(1, 9000) AS i;
SET SESSION AUTHORIZATION regress_review_gate;
SET work_mem = '64kB';
SET hash_mem_multiplier = 1;
SELECT count(*) FROM regress_review.duplicate_pair WHERE left_id >= 1000;
RESET work_mem;
RESET hash_mem_multiplier;
RESET SESSION AUTHORIZATION;
DELETE FROM regress_review.duplicate_pair WHERE left_id >= 1000;

-- which table has the records of a kind is looked up once a session, and again when the table changes
RESET SESSION AUTHORIZATION;
GRANT EXECUTE ON FUNCTION crm._record_tables_read() TO regress_review_rep;
SET SESSION AUTHORIZATION regress_review_rep;
SELECT count(*) > 0 AS seen FROM regress_review.duplicate_pair WHERE kind = 'account';
SELECT crm._record_tables_read() AS read \gset
SELECT count(*) > 0 AS seen FROM regress_review.duplicate_pair WHERE kind = 'account';
SELECT crm._record_tables_read() - :read AS read;
SET SESSION AUTHORIZATION regress_review_owner;
ALTER TABLE regress_review.account RENAME owner_id TO belongs_to;
SELECT crm.protect('regress_review.account', 'account', 'belongs_to');
SET SESSION AUTHORIZATION regress_review_rep;
SELECT count(*) > 0 AS seen FROM regress_review.duplicate_pair WHERE kind = 'account';
SELECT crm._record_tables_read() - :read AS read;
-- a kind whose table was renamed or dropped takes nobody's pairs away but its own
SELECT count(*) AS accounts FROM regress_review.duplicate_pair WHERE kind = 'account' \gset
SELECT count(*) > 0 AS suppliers FROM regress_review.duplicate_pair WHERE kind = 'supplier';
SET SESSION AUTHORIZATION regress_review_owner;
ALTER TABLE regress_review.supplier RENAME TO vendor;
SET SESSION AUTHORIZATION regress_review_rep;
SELECT count(*) > 0 AS suppliers FROM regress_review.duplicate_pair WHERE kind = 'supplier';
SET SESSION AUTHORIZATION regress_review_owner;
DROP TABLE regress_review.supply, regress_review.vendor;
SET SESSION AUTHORIZATION regress_review_rep;
SELECT count(*) FILTER (WHERE kind = 'account') = :accounts AS accounts, count(*) FILTER (WHERE kind = 'supplier') AS suppliers FROM regress_review.duplicate_pair;
SET SESSION AUTHORIZATION regress_review_owner;
SELECT count(*) > 0 AS queue, count(*) FILTER (WHERE kind = 'supplier' AND left_name IS NULL) > 0 AS nameless FROM regress_review.duplicate_review;
RESET SESSION AUTHORIZATION;

RESET ROLE;
DROP SCHEMA regress_review CASCADE;
DROP OWNED BY regress_review_gate;
DROP ROLE regress_review_gate;
DROP OWNED BY regress_review_owner, regress_review_rep, regress_review_peer, regress_review_bi;
DROP ROLE regress_review_owner, regress_review_rep, regress_review_peer, regress_review_bi;
