-- Scanning a table for duplicates: pairs, clusters that do not chain, decisions that stay.
\set SHOW_CONTEXT never
-- customers are entered as they come
SET client_min_messages = warning;
CREATE ROLE regress_match_scan_owner;
GRANT CREATE ON DATABASE contrib_regression TO regress_match_scan_owner;
SELECT crm.grant_toolkit('regress_match_scan_owner');
CREATE ROLE regress_match_scan_app;
SET ROLE regress_match_scan_owner;
SELECT crm.create_workspace('regress_match_scan');
RESET client_min_messages;

INSERT INTO regress_match_scan.account (id, name, phone, email, uscc, street, city, postcode) VALUES
 (1, '南京三瑞拍卖有限公司', '025-52524900', NULL, '9132010477126002XJ', '南京市秦淮区瞻园路9号四层-A39、A40', '南京', '210001'),
 (2, '叁瑞拍卖有限公司', '+86 02552524900', NULL, NULL, '南京市秦淮区瞻园路', '南京', '210001'),
 (3, '三瑞', '025-52524900', NULL, NULL, NULL, '南京', '210001'),
 (4, '南京三瑞拍卖有限公司城西分公司', '13800138000', NULL, '913201047712600111', '南京市秦淮区瞻园路9号四层-A39、A40', '南京', '210001'),
 (11, 'Mangual & Swida GmbH', '076 287 3650', 'm.dixon@mangualswida.example.com', '934243163', '7034 Fairweather Park Loop', 'Anchorage', '99518'),
 (12, 'Mangual & Sqida', '0762873650', NULL, NULL, '7034 Fairweather Park Loop', 'Anchorage', '99518'),
 (13, 'Mangual Foods Ltd', '076 287 3650', 'info@mangualswida.example.com', '934243999', '7034 Fairweather Park Loop', 'Anchorage', '99518'),
 (21, 'Pelikan Bakery', NULL, 'tara@pelikan.example.org', NULL, NULL, 'Juneau', NULL),
 (22, 'Pelican Bakery Inc', NULL, 'tara@pelikan.example.org', NULL, NULL, 'Juneau', NULL);
INSERT INTO regress_match_scan.account (id, name, city, postcode) SELECT 1000 + i, md5(i::text) || ' ' || md5((i * 7)::text), 'Town ' || i % 17, i % 17 FROM generate_series(1, 300) AS i;

SELECT regress_match_scan.scan_duplicates('account');
SELECT left_id, right_id, state, score > 0.5 AS likely FROM regress_match_scan.duplicate_pair ORDER BY left_id, right_id;
SELECT cluster_id, array_agg(record_id ORDER BY record_id) AS records FROM regress_match_scan.duplicate_cluster GROUP BY cluster_id ORDER BY cluster_id;
SELECT count(*) FROM regress_match_scan.duplicate_pair AS p
WHERE abs((SELECT sum((r ->> 'weight')::float8) FROM jsonb_array_elements(p.reasons) AS r) - log(2, greatest(p.score / greatest(1 - p.score, 1e-7), 1e-7)::numeric)::float8) > 0.5 AND p.score < 0.999;

-- again: nothing moves
CREATE TEMPORARY TABLE before AS SELECT id, kind, left_id, right_id, score FROM regress_match_scan.duplicate_pair;
SELECT regress_match_scan.scan_duplicates('account');
SELECT count(*) FROM (SELECT id, kind, left_id, right_id, score FROM regress_match_scan.duplicate_pair EXCEPT TABLE before) AS moved;

-- told apart: the pair stays decided and its records do not share a cluster
UPDATE regress_match_scan.duplicate_pair SET state = 'not_duplicate', decided_at = '2026-01-01' WHERE left_id = 21;
UPDATE regress_match_scan.duplicate_pair SET state = 'ignored' WHERE left_id = 11;
UPDATE regress_match_scan.duplicate_cluster SET state = 'ignored' WHERE cluster_id = 1;
SELECT regress_match_scan.scan_duplicates('account');
SELECT left_id, right_id, state FROM regress_match_scan.duplicate_pair ORDER BY left_id, right_id;
SELECT cluster_id, state, array_agg(record_id ORDER BY record_id) AS records FROM regress_match_scan.duplicate_cluster GROUP BY cluster_id, state ORDER BY cluster_id;

-- a record that changed or went takes its open pairs along
UPDATE regress_match_scan.account SET name = 'Something else entirely', phone = NULL, street = NULL, postcode = NULL WHERE id = 2;
DELETE FROM regress_match_scan.account WHERE id = 12;
SELECT regress_match_scan.scan_duplicates('account');
SELECT left_id, right_id, state FROM regress_match_scan.duplicate_pair ORDER BY left_id, right_id;
SELECT cluster_id, state, array_agg(record_id ORDER BY record_id) AS records FROM regress_match_scan.duplicate_cluster GROUP BY cluster_id, state ORDER BY cluster_id;

-- a thousand rows of the same name and phone end, as does an empty table
INSERT INTO regress_match_scan.contact (full_name, phone, birth_date) SELECT 'Jo Public', '+44 20 7946 0018', '2000-01-01' FROM generate_series(1, 1000);
SELECT regress_match_scan.scan_duplicates('contact') >= 0;
SELECT regress_match_scan.scan_duplicates('lead');

-- said to be the same: in one cluster whatever the score, unless others told them apart
INSERT INTO regress_match_scan.duplicate_pair (kind, left_id, right_id, score, state) VALUES
 ('account', 1001, 1002, 0, 'duplicate'), ('account', 1002, 1003, 0, 'duplicate'), ('account', 1001, 1003, 0, 'not_duplicate'),
 ('account', 1, 1004, 0, 'duplicate');
SELECT regress_match_scan.scan_duplicates('account');
SELECT left_id, right_id, state, score FROM regress_match_scan.duplicate_pair WHERE right_id > 1000 ORDER BY left_id, right_id;
SELECT cluster_id, array_agg(record_id ORDER BY record_id) AS records FROM regress_match_scan.duplicate_cluster GROUP BY cluster_id ORDER BY cluster_id;

-- the same result by one process and by several, however the records are shared out
SET min_parallel_table_scan_size = 0;
INSERT INTO regress_match_scan.lead (company, phone, city)
SELECT 'Company ' || md5((i % 1500)::text) || CASE i % 7 WHEN 0 THEN ' Ltd' WHEN 1 THEN ' GmbH' WHEN 2 THEN 'x' ELSE '' END,
       CASE WHEN i % 5 > 0 THEN '030 9' || 100000 + (i % 1700) END, 'Town ' || i % 9
FROM generate_series(1, 4000) AS i;
CREATE FUNCTION pg_temp.result() RETURNS text LANGUAGE sql AS $$
SELECT (SELECT count(*) || ' ' || md5(string_agg(format('%s %s %s %s', left_id, right_id, score, reasons), ',' ORDER BY left_id, right_id)) FROM regress_match_scan.duplicate_pair WHERE kind = 'lead')
    || (SELECT count(*) || ' ' || md5(string_agg(format('%s %s', cluster_id, record_id), ',' ORDER BY cluster_id, record_id)) FROM regress_match_scan.duplicate_cluster WHERE kind = 'lead') $$;
SET max_parallel_maintenance_workers = 0;
SELECT regress_match_scan.scan_duplicates('lead') > 1000 AS many;
SELECT pg_temp.result() AS alone \gset
SELECT workers FROM regress_match_scan.duplicate_scan WHERE kind = 'lead' ORDER BY id DESC LIMIT 1;
SET max_parallel_maintenance_workers = 1;
DELETE FROM regress_match_scan.duplicate_pair WHERE kind = 'lead';
SELECT regress_match_scan.scan_duplicates('lead', whole => true) > 1000 AS many;
SELECT pg_temp.result() = :'alone' AS same;
SET max_parallel_maintenance_workers = 4;
DELETE FROM regress_match_scan.duplicate_cluster WHERE kind = 'lead';
SELECT regress_match_scan.scan_duplicates('lead', whole => true) > 1000 AS many;
SELECT pg_temp.result() = :'alone' AS same;
-- a scan of what changed comes to the result of a whole one: rows new, changed, gone; decisions, new and taken back
UPDATE regress_match_scan.lead SET company = company || 'y' WHERE id % 50 = 3;
UPDATE regress_match_scan.lead SET phone = '030 9' || 100000 + id % 40 WHERE id % 100 = 7;
UPDATE regress_match_scan.lead SET source = NULL WHERE id % 100 = 9;
DELETE FROM regress_match_scan.lead WHERE id % 70 = 11;
INSERT INTO regress_match_scan.lead (id, company, phone, city) SELECT 50000 + id, company, phone, 'Town' FROM regress_match_scan.lead WHERE id % 90 = 13;
UPDATE regress_match_scan.duplicate_pair SET state = 'not_duplicate' WHERE kind = 'lead' AND left_id % 40 = 1;
UPDATE regress_match_scan.duplicate_pair SET state = 'ignored' WHERE kind = 'lead' AND left_id % 40 = 2;
INSERT INTO regress_match_scan.duplicate_pair (kind, left_id, right_id, score, state)
SELECT 'lead', id, id + 5, 0, 'duplicate' FROM regress_match_scan.lead WHERE id % 200 = 25 ON CONFLICT (kind, left_id, right_id) DO UPDATE SET state = 'duplicate';
SELECT regress_match_scan.scan_duplicates('lead') AS pairs \gset
SELECT pg_temp.result() AS changes \gset
SELECT whole, rows_read BETWEEN 100 AND 399 AS some FROM regress_match_scan.duplicate_scan WHERE kind = 'lead' ORDER BY id DESC LIMIT 1;
SELECT regress_match_scan.scan_duplicates('lead', whole => true) = :pairs AS same;
SELECT pg_temp.result() = :'changes' AS same, :'changes' <> :'alone' AS other;
UPDATE regress_match_scan.duplicate_pair SET state = 'open' WHERE kind = 'lead' AND left_id % 40 = 1;
UPDATE regress_match_scan.duplicate_pair SET state = 'open' WHERE kind = 'lead' AND state = 'duplicate';
UPDATE regress_match_scan.lead SET city = 'Town' WHERE id = 21;
SET max_parallel_maintenance_workers = 0;
SELECT regress_match_scan.scan_duplicates('lead') AS pairs \gset
SELECT pg_temp.result() AS changes \gset
SELECT whole, rows_read FROM regress_match_scan.duplicate_scan WHERE kind = 'lead' ORDER BY id DESC LIMIT 1;
SELECT regress_match_scan.scan_duplicates('lead', whole => true) = :pairs AS same;
SELECT pg_temp.result() = :'changes' AS same;
-- nothing changed: nothing is read or written; very much, or emptied results: the whole table is
SELECT regress_match_scan.scan_duplicates('lead') = :pairs AS same;
SELECT whole, rows_read, pg_temp.result() = :'changes' AS same FROM regress_match_scan.duplicate_scan WHERE kind = 'lead' ORDER BY id DESC LIMIT 1;
TRUNCATE regress_match_scan.duplicate_pair;
SELECT regress_match_scan.scan_duplicates('lead') > 1000 AS many;
SELECT whole FROM regress_match_scan.duplicate_scan WHERE kind = 'lead' ORDER BY id DESC LIMIT 1;
UPDATE regress_match_scan.lead SET source = NULL WHERE id % 5 = 0;
SELECT regress_match_scan.scan_duplicates('lead') > 1000 AS many;
SELECT whole FROM regress_match_scan.duplicate_scan WHERE kind = 'lead' ORDER BY id DESC LIMIT 1;
SELECT pg_temp.result() AS alone \gset
SET max_parallel_maintenance_workers = 2;
-- nothing runs any more
SELECT * FROM crm.scan_progress();
-- fails: records in pairs take more memory than is allowed, alone and with workers
SET crm.scan_memory = '16MB';
INSERT INTO regress_match_scan.lead (company, phone) SELECT md5((i / 2)::text) || ' ' || md5((-i / 2)::text), '030 9' || 100000 + i / 2 FROM generate_series(1, 24000) AS i;
\set VERBOSITY sqlstate
SELECT regress_match_scan.scan_duplicates('lead', whole => true);
SET max_parallel_maintenance_workers = 0;
SELECT regress_match_scan.scan_duplicates('lead', whole => true);
\set VERBOSITY default
RESET crm.scan_memory;
SELECT pg_temp.result() = :'alone' AS same;

-- a row that was written very often is no crowd
INSERT INTO regress_match_scan.account (id, name, phone) VALUES (2001, 'Rewritten Often Ltd', '030 7770001');
SELECT regress_match_scan.scan_duplicates('account') > 0 AS some;
DO $$BEGIN FOR i IN 1..400 LOOP UPDATE regress_match_scan.account SET city = 'Town ' || i % 2 WHERE id = 2001; END LOOP; END$$;
INSERT INTO regress_match_scan.account (id, name, phone) VALUES (2002, 'Rewriten Oftn', '030 7770001');
SELECT regress_match_scan.scan_duplicates('account') > 0 AS some;
SELECT p.left_id, p.right_id, s.whole FROM regress_match_scan.duplicate_pair AS p, (SELECT whole FROM regress_match_scan.duplicate_scan WHERE kind = 'account' ORDER BY id DESC LIMIT 1) AS s WHERE p.kind = 'account' AND p.left_id = 2001;

-- a cluster that somebody joins or leaves: the rows of the others stay as they are, but all are open
CREATE TEMPORARY TABLE member_before AS SELECT id, record_id, created_at FROM regress_match_scan.duplicate_cluster WHERE kind = 'account' AND cluster_id = 2001;
INSERT INTO regress_match_scan.account (id, name, phone) VALUES (2003, 'Rewritten Often', '030 7770001'), (2004, 'Rewritten Often Ltd', '030 7770001');
SELECT regress_match_scan.scan_duplicates('account') > 0 AS some;
SELECT c.record_id, c.state, c.created_at = b.created_at AS stayed FROM regress_match_scan.duplicate_cluster AS c LEFT JOIN member_before AS b USING (id) WHERE c.kind = 'account' AND c.cluster_id = 2001 ORDER BY 1;
TRUNCATE member_before;
INSERT INTO member_before SELECT id, record_id, created_at FROM regress_match_scan.duplicate_cluster WHERE kind = 'account' AND cluster_id = 2001;
UPDATE regress_match_scan.duplicate_cluster SET state = 'ignored' WHERE kind = 'account' AND record_id IN (2001, 2004);
DELETE FROM regress_match_scan.account WHERE id = 2002;
SELECT regress_match_scan.scan_duplicates('account') > 0 AS some;
SELECT c.record_id, c.state, c.created_at = b.created_at AS stayed FROM regress_match_scan.duplicate_cluster AS c LEFT JOIN member_before AS b USING (id) WHERE c.kind = 'account' AND c.cluster_id = 2001 ORDER BY 1;
DELETE FROM regress_match_scan.account WHERE id IN (2003, 2004);
INSERT INTO regress_match_scan.account (id, name, phone) VALUES (2002, 'Rewriten Oftn', '030 7770001');

-- like one of two that cannot be the same: it joins one of them, and nobody is chained
INSERT INTO regress_match_scan.account (id, name, phone, uscc) VALUES
 (3001, 'Zeta Bakery Ltd', '030 5550001', '91310115MA1H9P3C6U'), (3002, 'Zeta Bakery', '030 5550001', NULL), (3003, 'Zeta Bakery Ltd', '030 5550001', '914403001922038216');
SELECT regress_match_scan.scan_duplicates('account') > 0 AS some;
SELECT left_id, right_id FROM regress_match_scan.duplicate_pair WHERE left_id > 3000 AND kind = 'account' ORDER BY 1, 2;
SELECT array_agg(record_id ORDER BY record_id) AS records FROM regress_match_scan.duplicate_cluster WHERE record_id > 3000 AND kind = 'account' GROUP BY cluster_id ORDER BY 1;

-- the threshold is a probability
SELECT regress_match_scan.scan_duplicates('account', 0.999999) < (SELECT count(*) FROM before);
-- of a table filled anew with as many other rows the statistics are learned anew
SELECT max(version) AS version FROM regress_match_scan.match_statistics WHERE relation = 'account' \gset
SELECT count(*) AS rows FROM regress_match_scan.account \gset
SET client_min_messages = warning;
TRUNCATE regress_match_scan.account CASCADE;
INSERT INTO regress_match_scan.account (id, name, city) SELECT 10000 + i, md5((i % 20)::text) || ' ' || md5((i * 11)::text), 'Village ' || i % 3 FROM generate_series(1, :rows) AS i;
SELECT regress_match_scan.scan_duplicates('account') >= 0 AS scanned;
SELECT max(version) - :version AS learned FROM regress_match_scan.match_statistics WHERE relation = 'account';
SELECT regress_match_scan.scan_duplicates('account', whole => true) >= 0 AS scanned;
SELECT max(version) - :version AS learned FROM regress_match_scan.match_statistics WHERE relation = 'account';
TRUNCATE regress_match_scan.account CASCADE;
RESET client_min_messages;
INSERT INTO regress_match_scan.account (id, name, city) SELECT 20000 + i, md5((i * 5)::text), 'Hamlet ' || i % 5 FROM generate_series(1, :rows) AS i;
SELECT regress_match_scan.scan_duplicates('account') >= 0 AS scanned;
SELECT max(version) - :version AS learned FROM regress_match_scan.match_statistics WHERE relation = 'account';
-- fails: wrong arguments
SELECT regress_match_scan.scan_duplicates('account', 0);
SELECT regress_match_scan.scan_duplicates('account', 1.5);
SELECT regress_match_scan.scan_duplicates('account', 'NaN');
SELECT regress_match_scan.scan_duplicates('invoice');
SELECT regress_match_scan.scan_duplicates(NULL);
-- fails: only the workspace's owner sees everything
RESET ROLE;
GRANT USAGE ON SCHEMA crm, regress_match_scan TO regress_match_scan_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_match_scan_app;
GRANT EXECUTE ON FUNCTION regress_match_scan.scan_duplicates TO regress_match_scan_app;
SET ROLE regress_match_scan_app;
SELECT regress_match_scan.scan_duplicates('account');
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA regress_match_scan CASCADE;
SELECT crm.revoke_toolkit('regress_match_scan_owner');
DROP OWNED BY regress_match_scan_owner, regress_match_scan_app;
DROP ROLE regress_match_scan_owner, regress_match_scan_app;
