-- What levels of agreement weigh, as rows: versions, activation, faults, and sessions that follow.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_match_model_owner;
CREATE ROLE regress_match_model_app;
GRANT CREATE ON DATABASE contrib_regression TO regress_match_model_owner;
SELECT crm.grant_toolkit('regress_match_model_owner');
SET ROLE regress_match_model_owner;
SELECT crm.create_workspace('regress_match_model');
RESET client_min_messages;
CREATE FUNCTION pg_temp.phone_weight() RETURNS text LANGUAGE sql AS
$$ SELECT r ->> 'weight' FROM crm.compare_records('regress_match_model.account', '{"phone": "030 901820"}', '{"phone": "030 557711"}') AS c, jsonb_array_elements(c.reasons) AS r WHERE r ->> 'field' = 'phone' $$;

-- what crm brings along: every level has a weight, once
SELECT count(*) > 40 AS levels, count(*) = count(DISTINCT (field, level)) AS once, bool_and(weight BETWEEN -100 AND 100 AND rarity BETWEEN 0 AND 2) AS storable FROM crm.match_levels();
SELECT * FROM crm.match_levels() WHERE field = 'phone';
SELECT pg_temp.phone_weight();

-- one row replaces one level, at once and for this table only
INSERT INTO regress_match_model.match_model (relation, field, level, weight, active) VALUES ('account', 'phone', 'different', -4.25, true);
SELECT pg_temp.phone_weight();
SELECT 'account' AS kind, * FROM crm.match_levels('regress_match_model.account') EXCEPT SELECT 'account', * FROM crm.match_levels()
UNION ALL (SELECT 'lead', * FROM crm.match_levels('regress_match_model.lead') EXCEPT SELECT 'lead', * FROM crm.match_levels());
-- a copy to edit, put to use, and back
SELECT regress_match_model.add_match_model('account');
UPDATE regress_match_model.match_model SET weight = 3 WHERE relation = 'account' AND version = 2 AND field = 'phone' AND level = 'different';
SELECT pg_temp.phone_weight();
SELECT regress_match_model.use_match_model('account', 2);
SELECT version, active, count(*) = (SELECT count(*) FROM crm.match_levels()) AS "all" FROM regress_match_model.match_model GROUP BY 1, 2 ORDER BY 1, 2;
SELECT pg_temp.phone_weight();
SELECT regress_match_model.use_match_model('account', NULL);
SELECT pg_temp.phone_weight();
-- it is followed by look-ups and scans
INSERT INTO regress_match_model.account (id, name, phone) VALUES (1, 'Zenith Bakery', '030 901820'), (2, 'Zenith Bakery Ltd', '030 557711');
SELECT regress_match_model.use_match_model('account', 1);
SELECT reasons @> '[{"field": "phone", "weight": -4.25}]' AS follows FROM regress_match_model.find_duplicates('account', '{"name": "Zenith Bakery", "phone": "030 557711"}') WHERE id = 1;
SELECT regress_match_model.scan_duplicates('account', 0.0001);
SELECT reasons @> '[{"field": "phone", "weight": -4.25}]' AS follows FROM regress_match_model.duplicate_pair;

-- a session reads a model once, and again when its rows change, go or are truncated
SELECT pg_temp.phone_weight() AS read \gset
SELECT crm._match_model_loads() AS loads \gset
SELECT pg_temp.phone_weight(), pg_temp.phone_weight();
SELECT crm._match_model_loads() - :loads AS loads;
INSERT INTO regress_match_model.match_model (relation, field, level, weight) VALUES ('nothing', 'phone', 'different', 1);
SELECT pg_temp.phone_weight(), crm._match_model_loads() - :loads AS loads;
UPDATE regress_match_model.match_model SET weight = -5 WHERE version = 1 AND relation = 'account';
SELECT pg_temp.phone_weight();
SELECT crm._match_model_loads() - :loads AS loads;
BEGIN;
DELETE FROM regress_match_model.match_model WHERE version = 1;
SELECT pg_temp.phone_weight();
ROLLBACK;
SELECT pg_temp.phone_weight();
BEGIN;
TRUNCATE regress_match_model.match_model;
SELECT pg_temp.phone_weight();
ROLLBACK;
SELECT pg_temp.phone_weight();
-- weights of any size keep reasons and score in step, and a scan equal to a look-up: none
UPDATE regress_match_model.match_model SET active = false;
INSERT INTO regress_match_model.match_model (relation, version, field, level, weight, rarity, active)
SELECT 'account', 9, field, level, hashtext(field || level) % 2000 / 100.0, (hashtext(level || field) & 255) / 128.0, true FROM crm.match_levels();
SELECT a.n, b.n, c.* FROM (SELECT i AS n, jsonb_build_object('name', (ARRAY['Acme Trading GmbH', 'Acme Tradign', 'Acme AG', '浦发银行', '浦东发展银行'])[i % 5 + 1],
    'phone', (ARRAY['030 901820', '030 901821', '13800138000'])[i % 3 + 1], 'city', (ARRAY['Berlin', 'Bern', 'Berlim', '上海'])[i % 4 + 1], 'email', (ARRAY['a@acme.example.com', 'a@gmail.com'])[i % 2 + 1]) AS r FROM generate_series(1, 60) AS i) AS a,
  (SELECT i AS n, jsonb_build_object('name', (ARRAY['Acme Trading GmbH', 'Acme Tradign', 'Acme AG', '浦发银行', '浦东发展银行'])[i % 5 + 1],
    'phone', (ARRAY['030 901820', '030 901821', '13800138000'])[i % 3 + 1], 'city', (ARRAY['Berlin', 'Bern', 'Berlim', '上海'])[i % 4 + 1], 'email', (ARRAY['a@acme.example.com', 'a@gmail.com'])[i % 2 + 1]) AS r FROM generate_series(1, 60) AS i) AS b,
  LATERAL crm._compare_records('regress_match_model.account', a.r, b.r, 1) AS c
WHERE CASE WHEN c.quick = '-Infinity' THEN c.bits >= 1 ELSE c.quick <> c.bits END
   OR abs((SELECT sum((e ->> 'weight')::float8) FROM jsonb_array_elements(c.reasons) AS e) - c.bits) > 0.06 LIMIT 3;

-- fails: no such thing
INSERT INTO regress_match_model.match_model (relation, field, level, weight) VALUES ('account', 'fax', 'equal', 1);
INSERT INTO regress_match_model.match_model (relation, field, level, weight) VALUES ('account', 'phone', 'sounds equal', 1);
UPDATE regress_match_model.match_model SET level = 'slip' WHERE field = 'phone';
\set VERBOSITY terse
INSERT INTO regress_match_model.match_model (relation, version, field, level, weight) VALUES ('account', 5, 'phone', 'equal', 'NaN');
INSERT INTO regress_match_model.match_model (relation, version, field, level, weight) VALUES ('account', 5, 'phone', 'equal', 1000);
INSERT INTO regress_match_model.match_model (relation, version, field, level, weight, rarity) VALUES ('account', 5, 'phone', 'equal', 1, -1);
INSERT INTO regress_match_model.match_model (relation, version, field, level, weight) VALUES ('account', 0, 'phone', 'equal', 1);
INSERT INTO regress_match_model.match_model (relation, field, level, weight) VALUES (NULL, 'phone', 'equal', 1);
INSERT INTO regress_match_model.match_model (relation, version, field, level, weight, active) VALUES ('account', 5, 'phone', 'equal', 1, true);
\set VERBOSITY default
SELECT regress_match_model.use_match_model('account', 77);
SELECT regress_match_model.use_match_model('invoice', 1);
-- fails: for the owner only
RESET ROLE;
GRANT USAGE ON SCHEMA crm, regress_match_model TO regress_match_model_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm, regress_match_model TO regress_match_model_app;
SET ROLE regress_match_model_app;
SELECT regress_match_model.use_match_model('account', 1);
SELECT regress_match_model.add_match_model('account');
SELECT * FROM regress_match_model.match_model;
RESET ROLE;

-- a table of one's own
SET ROLE regress_match_model_owner;
CREATE SCHEMA regress_match_model_2;
CREATE TABLE regress_match_model_2.supplier (no integer PRIMARY KEY, firm text);
CREATE INDEX ON regress_match_model_2.supplier USING crm_match (crm.match_keys('company', firm));
-- fails: no model yet
SELECT crm.use_match_model('regress_match_model_2.supplier', 1);
SELECT crm.use_match_model('regress_match_model_2.supplier', NULL);
SELECT crm.add_match_model('regress_match_model_2.supplier');
UPDATE regress_match_model_2.match_model SET weight = -2.5 WHERE field = 'name' AND level = 'equal';
SELECT crm.use_match_model('regress_match_model_2.supplier', 1);
SELECT field, level, weight FROM crm.match_levels('regress_match_model_2.supplier') EXCEPT SELECT field, level, weight FROM crm.match_levels();
-- rows that a dump of another release or a dropped constraint let in are passed over
ALTER TABLE regress_match_model_2.match_model DISABLE TRIGGER match_model_check;
ALTER TABLE regress_match_model_2.match_model DROP CONSTRAINT match_model_weight_bits;
UPDATE regress_match_model_2.match_model SET weight = 'NaN' WHERE field = 'phone' AND level = 'equal';
UPDATE regress_match_model_2.match_model SET level = 'equal in 2031' WHERE field = 'email' AND level = 'equal';
SELECT field, level, weight FROM crm.match_levels('regress_match_model_2.supplier') EXCEPT SELECT field, level, weight FROM crm.match_levels();
-- a table of that name that is not ours is left alone, and so is a dropped one
ALTER TABLE regress_match_model_2.match_model DROP COLUMN rarity;
SELECT count(*) FROM (SELECT * FROM crm.match_levels('regress_match_model_2.supplier') EXCEPT SELECT * FROM crm.match_levels()) AS d;
DROP TABLE regress_match_model_2.match_model;
SELECT count(*) FROM (SELECT * FROM crm.match_levels('regress_match_model_2.supplier') EXCEPT SELECT * FROM crm.match_levels()) AS d;
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA regress_match_model, regress_match_model_2 CASCADE;
SELECT crm.revoke_toolkit('regress_match_model_owner');
DROP OWNED BY regress_match_model_owner, regress_match_model_app;
DROP ROLE regress_match_model_owner, regress_match_model_app;
