-- Weights learned from a table, and how well labelled pairs are told apart.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_match_learn_owner;
CREATE ROLE regress_match_learn_app;
GRANT CREATE ON DATABASE contrib_regression TO regress_match_learn_owner;
SELECT crm.grant_toolkit('regress_match_learn_owner');
SET ROLE regress_match_learn_owner;
SELECT crm.create_workspace('regress_match_learn');
RESET client_min_messages;

-- fails: nothing to learn from
SELECT regress_match_learn.learn_matching('contact');
-- 400 persons, 300 of them twice.  The second record has another telephone number in half of the cases, another e-mail
-- address never, and a slip in the birth date in every sixth.  Strangers share nothing but cities.
INSERT INTO regress_match_learn.contact (id, given_name, family_name, birth_date, phone, email, city)
SELECT i, initcap(translate(md5('g' || i % 50), '0123456789', 'ghijklmnop')), initcap(translate(md5('f' || i), '0123456789', 'ghijklmnop')), date '1950-01-01' + i * 37,
       '+4930' || 1000000 + i * 7919, 'p' || md5('e' || i) || '@example.com', 'Town ' || i % 5
FROM generate_series(1, 400) AS i;
INSERT INTO regress_match_learn.contact (id, given_name, family_name, birth_date, phone, email, city)
SELECT 1000 + id, given_name, family_name, CASE WHEN id % 6 = 0 THEN birth_date + 1 ELSE birth_date END, CASE WHEN id % 2 = 0 THEN phone ELSE '+4989' || 2000000 + id * 104729 END, email, city
FROM regress_match_learn.contact WHERE id <= 300;

SELECT regress_match_learn.learn_matching('contact');
-- not applied by itself
SELECT bool_or(active) FROM regress_match_learn.match_model;
-- learned: another telephone number is no longer much against, another e-mail address more
SELECT m.field, m.level, m.weight > d.weight AS heavier, abs(m.weight - CASE m.field WHEN 'phone' THEN log(2, 0.5) ELSE -10 END) < 1 AS as_expected
FROM regress_match_learn.match_model AS m JOIN crm.match_levels() AS d USING (field, level)
WHERE (field, level) IN (('phone', 'different'), ('email', 'different')) ORDER BY 1;
SELECT count(*) FROM regress_match_learn.match_model WHERE source LIKE 'learned: %' AND source LIKE '% pairs';
-- the same rows in another order give the same weights, another seed nearly the same, a part of the rows too
CREATE TABLE regress_match_learn.moved (LIKE regress_match_learn.contact INCLUDING DEFAULTS);
INSERT INTO regress_match_learn.moved SELECT * FROM regress_match_learn.contact ORDER BY md5(id::text);
ALTER TABLE regress_match_learn.moved ADD PRIMARY KEY (id);
CREATE INDEX ON regress_match_learn.moved USING crm_match (crm.match_keys('given_name,family_name,birth_date,phone,email,city', given_name, family_name, birth_date, phone, email, city));
SELECT regress_match_learn.learn_matching('moved'), regress_match_learn.learn_matching('moved', seed => 2), regress_match_learn.learn_matching('contact', max_rows => 600);
SELECT count(*) FROM (SELECT field, level, weight, rarity FROM regress_match_learn.match_model WHERE relation = 'moved' AND version = 1
                      EXCEPT SELECT field, level, weight, rarity FROM regress_match_learn.match_model WHERE relation = 'contact' AND version = 1) AS d;
SELECT max(abs(x.weight - y.weight)) < 1 AS near FROM regress_match_learn.match_model AS x JOIN regress_match_learn.match_model AS y USING (relation, field, level)
WHERE relation = 'moved' AND x.version = 1 AND y.version = 2;
-- fails: wrong arguments
SELECT regress_match_learn.learn_matching('contact', 10);
SELECT regress_match_learn.learn_matching('invoice');

-- evaluation: labelled pairs in a table
CREATE TABLE regress_match_learn.label (left_id bigint, right_id bigint, same boolean);
INSERT INTO regress_match_learn.label SELECT i, 1000 + i, true FROM generate_series(1, 100) AS i UNION ALL SELECT i, 1100 + i, false FROM generate_series(1, 100) AS i;
SELECT threshold, pairs, right_pairs, "precision", recall, f1 FROM regress_match_learn.match_eval('contact', 'regress_match_learn.label') WHERE threshold::text IN ('0.001', '0.5', '0.9999') AND NOT proposed;
SELECT pairs, right_pairs, f1, threshold BETWEEN 0.5 AND 0.9 AS sensible FROM regress_match_learn.match_eval('contact', 'regress_match_learn.label') WHERE proposed;
-- ... in arrays, with a version that is not in use, and with labels that are wrong, missing, or of records that are gone
SELECT pairs, right_pairs, "precision", recall, f1 FROM crm.match_eval('regress_match_learn.contact', '{1,2,3,4,5,999999}', '{1001,1002,1003,1104,1105,1}', '{t,t,f,f,NULL,t}', 1) WHERE proposed;
SELECT * FROM crm.match_eval('regress_match_learn.contact', '{}', '{}', '{}');
SELECT * FROM crm.match_eval('regress_match_learn.contact', '{1}', NULL, '{t}');
SELECT threshold, recall, f1 FROM crm.match_eval('regress_match_learn.contact', '{1}', '{2}', '{f}') WHERE threshold::text IN ('0.5');
-- a version changes what is found
INSERT INTO regress_match_learn.match_model (relation, version, field, level, weight) VALUES ('contact', 7, 'phone', 'different', -100);
SELECT e.version, m.recall FROM (VALUES (0), (7), (NULL)) AS e (version), regress_match_learn.match_eval('contact', 'regress_match_learn.label', e.version) AS m WHERE m.threshold::text = '0.5' AND NOT m.proposed;
-- ... and decisions of people serve as labels
SELECT regress_match_learn.scan_duplicates('contact') > 0;
SELECT * FROM regress_match_learn.match_eval('contact');
UPDATE regress_match_learn.duplicate_pair SET state = CASE WHEN left_id <= 3 THEN 'not_duplicate' WHEN left_id <= 30 THEN 'duplicate' ELSE 'ignored' END;
SELECT same, count(*) FROM regress_match_learn.duplicate_label GROUP BY 1;
SELECT pairs, right_pairs, recall FROM regress_match_learn.match_eval('contact') WHERE proposed;
-- ... and merges, of records as they were before: what the survivor took over makes them no more alike; those of a run are no decisions of people
BEGIN;
CREATE TABLE regress_match_learn.labelled AS SELECT p.left_id, p.right_id, true AS same FROM regress_match_learn.duplicate_pair AS p WHERE p.left_id BETWEEN 31 AND 40;
UPDATE regress_match_learn.contact SET phone = NULL WHERE id BETWEEN 31 AND 40;
CREATE TABLE regress_match_learn.before AS SELECT * FROM regress_match_learn.match_eval('contact', 'regress_match_learn.labelled');
UPDATE regress_match_learn.duplicate_pair SET state = 'open';
SELECT count(regress_match_learn.decide_pair(p.id, 'merge', p.left_id)) > 0 AS merged FROM regress_match_learn.duplicate_pair AS p WHERE p.left_id BETWEEN 31 AND 40 AND p.state = 'open';
SELECT count(*) FROM regress_match_learn.contact WHERE id BETWEEN 31 AND 40 AND phone IS NULL;
SELECT count(*) = (SELECT count(*) FROM regress_match_learn.labelled) AS labelled, bool_and(same) AS same, count(merge_id) = count(*) AS merged FROM regress_match_learn.duplicate_label;
SELECT count(*) FROM (TABLE regress_match_learn.before EXCEPT SELECT * FROM regress_match_learn.match_eval('contact')) AS other;
SELECT count(merge_id) > 0 AS merged FROM regress_match_learn.merge_clusters('contact', 0, 5);
SELECT count(*) = (SELECT count(*) FROM regress_match_learn.labelled) AS labelled FROM regress_match_learn.duplicate_label;
ROLLBACK;
-- fails: wrong arguments
SELECT * FROM crm.match_eval('regress_match_learn.contact', '{1}', '{2,3}', '{t,f}');
SELECT * FROM crm.match_eval('regress_match_learn.contact', '{1}', '{2}', '{t,f}');
SELECT * FROM crm.match_eval('regress_match_learn.contact', '{x}', '{2}', '{t}');
SELECT * FROM crm.match_eval('regress_match_learn.contact', '{1}', '{2}', '{t}', records => '[]');
SELECT * FROM crm.match_eval('regress_match_learn.contact', '{x}', '{2}', '{t}', records => '{"x": 1}');
SELECT * FROM regress_match_learn.match_eval('contact', 'regress_match_learn.label', 99);
SELECT * FROM regress_match_learn.match_eval('contact', 'regress_match_learn.member');
-- fails: learning is for the owner; evaluation for those who may read the table
RESET ROLE;
GRANT USAGE ON SCHEMA crm, regress_match_learn TO regress_match_learn_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm, regress_match_learn TO regress_match_learn_app;
SET ROLE regress_match_learn_app;
SELECT regress_match_learn.learn_matching('contact');
SELECT * FROM crm.match_eval('regress_match_learn.contact', '{1}', '{2}', '{t}');
RESET ROLE;
-- ... and of the rows that they see
GRANT SELECT ON regress_match_learn.contact TO regress_match_learn_app;
ALTER TABLE regress_match_learn.contact ENABLE ROW LEVEL SECURITY;
CREATE POLICY regress_match_learn_some ON regress_match_learn.contact AS RESTRICTIVE TO regress_match_learn_app USING (id <> 2);
CREATE POLICY regress_match_learn_all ON regress_match_learn.contact TO regress_match_learn_app USING (true);
SET ROLE regress_match_learn_app;
SELECT pairs FROM crm.match_eval('regress_match_learn.contact', '{1,2}', '{1001,1002}', '{t,t}') WHERE proposed;
RESET ROLE;
-- fails: canceled
SET ROLE regress_match_learn_owner;
SET statement_timeout = '10ms';
SELECT regress_match_learn.learn_matching('contact');
RESET statement_timeout;
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA regress_match_learn CASCADE;
SELECT crm.revoke_toolkit('regress_match_learn_owner');
DROP OWNED BY regress_match_learn_owner, regress_match_learn_app;
DROP ROLE regress_match_learn_owner, regress_match_learn_app;
