-- Who is this already?  A lookup by anything that is known of a company or person.
\set SHOW_CONTEXT never
-- customers are entered as they come
SET client_min_messages = warning;
SELECT crm.create_workspace('regress_match');
RESET client_min_messages;
CREATE ROLE regress_match_app LOGIN;
INSERT INTO regress_match.member (name, login_role) VALUES ('App', 'regress_match_app');
GRANT USAGE ON SCHEMA crm, regress_match TO regress_match_app;
GRANT SELECT ON regress_match.account, regress_match.contact, regress_match.lead TO regress_match_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm, regress_match TO regress_match_app;

INSERT INTO regress_match.account (id, name, phone, email, uscc, website, street, city, postcode) VALUES
 (1, '上海伟测半导体科技股份有限公司', '021-58958216', NULL, '91310115MA1H9P3C6U', NULL, '东胜路38号A区1栋', '上海', '201201'),
 (2, '北京天地科技有限公司', '010-84262701', NULL, NULL, NULL, '和平里青年沟东路5号', '北京', '100013'),
 (3, '上海大地科技有限公司', NULL, NULL, NULL, NULL, '真南路5008号', '上海', NULL),
 (4, 'Wasserstraßen- und Schifffahrtsamt Elbe-Nordsee', '+49 4852 8850', 'info@wsa.example.de', NULL, NULL, 'Alte Zentrale 4', 'Brunsbüttel', '25541'),
 (5, 'Acme Trading GmbH', '+49 30 901820', 'office@acme-trading.example.com', NULL, 'https://www.acme-trading.example.com/en', 'Chausseestraße 12', 'Berlin', '10115'),
 (6, 'Acme Trading GmbH Zweigniederlassung West', NULL, NULL, NULL, NULL, 'Chausseestraße 12', 'Berlin', '10115'),
 (7, 'Zenith Bakery Ltd', '020 7946 0018', 'jo@gmail.com', NULL, NULL, NULL, 'London', NULL);
INSERT INTO regress_match.account (id, name, city) SELECT 1000 + i, format('Customer %s of %s', md5(i::text), i), 'Town ' || i % 17 FROM generate_series(1, 500) AS i;
INSERT INTO regress_match.contact (id, given_name, family_name, full_name, birth_date, phone, email, city) VALUES
 (1, 'Robert', 'Allen', NULL, '1971-05-24', NULL, 'roberta25@smith.example.net', 'London'),
 (2, NULL, NULL, '王凤林', NULL, '13207618335', NULL, '菏泽');
INSERT INTO regress_match.contact (id, given_name, family_name, city) SELECT 1000 + i, substr(md5(i::text), 1, 6), substr(md5((-i)::text), 1, 8), 'Town ' || i % 7 FROM generate_series(1, 300) AS i;
INSERT INTO regress_match.lead (id, company, full_name, email) VALUES (1, 'Initech SpA', 'Bill Lumbergh', 'bill@initech.example.it');

CREATE FUNCTION pg_temp.look(kind text, record jsonb) RETURNS TABLE (id bigint, likely boolean, reasons text, adds_up boolean) LANGUAGE sql AS $$
SELECT d.id, d.score > 0.01,
       (SELECT string_agg(r ->> 'field' || ' ' || (r ->> 'level'), ', ' ORDER BY n) FROM jsonb_array_elements(d.reasons) WITH ORDINALITY AS e (r, n) WHERE r ->> 'field' <> 'prior'),
       abs((SELECT sum((r ->> 'weight')::float8) FROM jsonb_array_elements(d.reasons) AS r) - log(2, (d.score / (1 - d.score))::numeric)::float8) < 0.1
FROM regress_match.find_duplicates(kind, record, 2) AS d WHERE d.score < 0.9999 $$;

SET SESSION AUTHORIZATION regress_match_app;
-- by one thing each: a damaged, traditional, romanised, short or homophone name
SELECT * FROM pg_temp.look('account', '{"name": "上海伟测半导体科技有限公司"}');
SELECT * FROM pg_temp.look('account', '{"name": "上海偉測半導體科技股份有限公司"}');
SELECT * FROM pg_temp.look('account', '{"name": "伟测半导体"}');
SELECT * FROM pg_temp.look('account', '{"name": "上海纬侧半导体科技"}');
SELECT * FROM pg_temp.look('account', '{"name": "Wasserstrassen und Schiffahrtsamt Elbe Nordsee"}');
SELECT * FROM pg_temp.look('account', '{"name": "ACME TRADING gmbh"}');
-- by identifiers
SELECT * FROM pg_temp.look('account', '{"phone": "+86 21 5895 8216"}');
SELECT * FROM pg_temp.look('account', '{"uscc": "91310115ma1h9p3c6u"}');
SELECT * FROM pg_temp.look('account', '{"email": "sales@acme-trading.example.com"}');
SELECT * FROM pg_temp.look('account', '{"website": "acme-trading.example.com"}');
-- a free-mail provider is nobody's domain
SELECT * FROM pg_temp.look('account', '{"email": "someone.else@gmail.com"}');
-- persons: names swapped, one slip, a near date, one field for both names
SELECT * FROM pg_temp.look('contact', '{"given_name": "Allen", "family_name": "Robert", "birth_date": "1971-06-24"}');
SELECT * FROM pg_temp.look('contact', '{"given_name": "Robert", "family_name": "Alen"}');
SELECT * FROM pg_temp.look('contact', '{"full_name": "Allen, Robert"}');
SELECT * FROM pg_temp.look('contact', '{"full_name": "王鳳林"}');
SELECT * FROM pg_temp.look('lead', '{"company": "Initech", "full_name": "Lumbergh, William"}');

-- a record does not find itself; columns that are not compared are ignored; numbers are text
SELECT id FROM regress_match.find_duplicates('account', '{"id": 1, "name": "上海伟测半导体科技股份有限公司"}');
SELECT id FROM regress_match.find_duplicates('account', '{"phone": 2158958216, "description": {"r": 1}}');

-- nothing to go by
SELECT id FROM regress_match.find_duplicates('account', '{}');
SELECT id FROM regress_match.find_duplicates('account', '{"name": "", "phone": "x", "email": "@", "website": "://"}');
SELECT id FROM regress_match.find_duplicates('account', '{"name": "😀😀", "phone": null}');
SELECT id FROM regress_match.find_duplicates('account', jsonb_build_object('name', 'x'));
SELECT id FROM regress_match.find_duplicates('account', jsonb_build_object('name', repeat('上海伟测', 100000), 'street', repeat('a ', 500000)));
SELECT id FROM regress_match.find_duplicates('account', jsonb_build_object('name', U&'\202E\05D0\05D1\05D2 abc \202C\0645\062D\0645\062F'));
SELECT id FROM regress_match.find_duplicates(NULL, '{}');

-- fails: wrong arguments
SELECT * FROM regress_match.find_duplicates('account', '[]');
SELECT * FROM regress_match.find_duplicates('account', '{"name": ["a"]}');
SELECT * FROM regress_match.find_duplicates('account', '{"name": true}');
-- ... fields that are no columns: misspelt, dropped, the system's
SELECT * FROM regress_match.find_duplicates('account', '{"nmae": "Acme Trading", "phone": "030 901820"}');
SELECT * FROM regress_match.find_duplicates('contact', '{"Given_Name": "Robert"}');
SELECT * FROM regress_match.find_duplicates('account', '{"name": "Acme Trading", "ctid": "(0,1)"}');
SELECT * FROM regress_match.find_duplicates('account', jsonb_build_object(repeat('name', 50), 'x'));
SELECT * FROM crm.compare_records('regress_match.account', '{"name": "Acme"}', '{"nom": "Acme"}');
SELECT * FROM regress_match.find_duplicates('account', '{}', 0);
SELECT * FROM regress_match.find_duplicates('account', '{}', -1);
SELECT * FROM regress_match.find_duplicates('account', '{}', 1001);
SELECT * FROM regress_match.find_duplicates('invoice', '{}');
SELECT * FROM regress_match.find_duplicates('member', '{}');
SELECT * FROM crm.find_duplicates('public', 'account', '{}');
-- fails: no privilege on the table, which find_duplicates reads as the caller
RESET SESSION AUTHORIZATION;
REVOKE SELECT ON regress_match.lead FROM regress_match_app;
SET SESSION AUTHORIZATION regress_match_app;
SELECT * FROM regress_match.find_duplicates('lead', '{"company": "Initech"}');
RESET SESSION AUTHORIZATION;

-- row security holds: the same question, two answers
ALTER TABLE regress_match.contact ENABLE ROW LEVEL SECURITY;
CREATE POLICY regress_match_some ON regress_match.contact AS RESTRICTIVE TO regress_match_app USING (city <> 'London');
SELECT count(*) FROM regress_match.find_duplicates('contact', '{"given_name": "Robert", "family_name": "Allen"}');
SET SESSION AUTHORIZATION regress_match_app;
SELECT count(*) FROM regress_match.find_duplicates('contact', '{"given_name": "Robert", "family_name": "Allen"}');
SELECT id FROM regress_match.find_duplicates('contact', '{"full_name": "王凤林"}');
RESET SESSION AUTHORIZATION;

-- statistics are learned from the table, one version after the other, and loaded once by each session
SELECT crm.analyze_matching('regress_match.account');
SELECT crm.analyze_matching('regress_match.account');
SELECT crm.analyze_matching('regress_match.account');
SELECT relation, version, rows, length(keys) > 1000 AS keys FROM regress_match.match_statistics ORDER BY version;
SELECT id FROM regress_match.find_duplicates('account', '{"name": "上海伟测半导体"}', 1);
SELECT crm._match_statistics_loads() AS loads \gset
SELECT id FROM regress_match.find_duplicates('account', '{"name": "上海伟测半导体"}', 1);
SELECT crm._match_statistics_loads() - :loads AS loads;
DELETE FROM regress_match.match_statistics WHERE version = 2;
SELECT id FROM regress_match.find_duplicates('account', '{"name": "上海伟测半导体"}', 1);
SELECT crm._match_statistics_loads() - :loads AS loads;
-- fails: for the owner only
SET SESSION AUTHORIZATION regress_match_app;
SELECT crm.analyze_matching('regress_match.account');
RESET SESSION AUTHORIZATION;

-- any table can be searched; the index says what its columns mean
CREATE TABLE regress_match.supplier (no integer PRIMARY KEY, junk text, firma varchar(200), tel text, born date);
INSERT INTO regress_match.supplier VALUES (7, 'x', 'Sociedad Anónima Hermanos García', '+34 91 123 45 67', '2001-01-01'), (8, 'y', 'Другая фирма ООО', NULL, NULL);
-- fails: no index yet
SELECT * FROM crm.find_matches('regress_match.supplier', '{"firma": "hermanos garcia"}');
CREATE INDEX ON regress_match.supplier USING crm_match (crm.match_keys('company,phone', firma, tel));
SELECT id FROM crm.find_matches('regress_match.supplier', '{"firma": "hermanos garcia"}');
ALTER TABLE regress_match.supplier DROP COLUMN junk;
ALTER TABLE regress_match.supplier RENAME COLUMN firma TO company_name;
SELECT id FROM crm.find_matches('regress_match.supplier', '{"company_name": "Drugaya firma"}');
SELECT crm.analyze_matching('regress_match.supplier');
-- fails: a dropped column takes its index with it
ALTER TABLE regress_match.supplier DROP COLUMN tel;
SELECT * FROM crm.find_matches('regress_match.supplier', '{"company_name": "x"}');
-- fails: roles and values do not fit
CREATE INDEX ON regress_match.supplier USING crm_match (crm.match_keys('company,fax', company_name, company_name));
CREATE INDEX ON regress_match.supplier USING crm_match (crm.match_keys('company,company', company_name, company_name));
CREATE INDEX ON regress_match.supplier USING crm_match (crm.match_keys('company,phone', company_name));
INSERT INTO regress_match.supplier VALUES (9, 'z');
SELECT crm.match_keys('company', no) FROM regress_match.supplier;
SELECT crm.match_keys('company', VARIADIC ARRAY['x']);
SELECT * FROM crm.find_matches('pg_class', '{}');
SELECT * FROM crm.find_matches('pg_tables', '{}');

-- a hundred thousand rows of one name and telephone number: an answer that says it is not the whole one
CREATE TABLE regress_match.crowd (id bigint PRIMARY KEY, name text, phone text);
INSERT INTO regress_match.crowd SELECT i, 'Jo Public Ltd', '+442079460018' FROM generate_series(1, 100000) AS i;
CREATE INDEX ON regress_match.crowd USING crm_match (crm.match_keys('company,phone', name, phone));
ANALYZE regress_match.crowd;
SELECT crm.analyze_matching('regress_match.crowd');
SELECT count(*), bool_and(reasons @> '[{"field": "search", "level": "truncated"}]') AS truncated
FROM crm.find_matches('regress_match.crowd', '{"name": "Jo Public", "phone": "020 7946 0018"}');
-- nothing found is not the whole answer either
SELECT * FROM crm.find_matches('regress_match.crowd', '{"name": "Quite Another", "phone": "020 7946 0018"}');
SELECT * FROM crm.find_matches('regress_match.crowd', '{"name": "Quite Another"}');
-- one of them is not lost in the crowd
UPDATE regress_match.crowd SET name = 'Jo Publicly Special Ltd' WHERE id = 5;
SELECT id FROM crm.find_matches('regress_match.crowd', '{"name": "Jo Publicly Special", "phone": "020 7946 0018"}', 1);
-- nor is the one that a person may see, though the others are looked at first
ALTER TABLE regress_match.crowd ENABLE ROW LEVEL SECURITY;
CREATE POLICY regress_match_one ON regress_match.crowd TO regress_match_app USING (id IN (700, 99999));
GRANT SELECT ON regress_match.crowd TO regress_match_app;
SET SESSION AUTHORIZATION regress_match_app;
SELECT id, reasons @> '[{"field": "search", "level": "truncated"}]' AS truncated
FROM crm.find_matches('regress_match.crowd', '{"name": "Jo Public", "phone": "020 7946 0018"}');
RESET SESSION AUTHORIZATION;
-- fails: canceled
SET statement_timeout = '20ms';
SELECT crm.analyze_matching('regress_match.crowd');
RESET statement_timeout;

-- a row is found whatever became of it: updated in place, moved, not yet in the index's tree, vacuumed
CREATE TABLE regress_match.moving (id bigint PRIMARY KEY, name text, note text) WITH (fillfactor = 50);
CREATE INDEX moving_match ON regress_match.moving USING gin (crm.match_keys('company', name) crm.match_ops);
INSERT INTO regress_match.moving SELECT i, format('Firm %s', md5(i::text)) FROM generate_series(1, 50) AS i;
INSERT INTO regress_match.moving VALUES (100, 'Zenith Bakery Ltd'), (101, 'Zenith Brewery Ltd');
SELECT id FROM crm.find_matches('regress_match.moving', '{"name": "zenith bakery"}', 1);
UPDATE regress_match.moving SET note = 'a' WHERE id = 100;
UPDATE regress_match.moving SET note = 'b' WHERE id = 100;
SELECT id FROM crm.find_matches('regress_match.moving', '{"name": "zenith bakery"}', 1);
SELECT gin_clean_pending_list('regress_match.moving_match') > 0 AS cleaned;
SELECT id FROM crm.find_matches('regress_match.moving', '{"name": "zenith bakery"}', 1);
UPDATE regress_match.moving SET name = 'Quite Another' WHERE id = 100;
SELECT id FROM crm.find_matches('regress_match.moving', '{"name": "zenith bakery"}', 1);
DELETE FROM regress_match.moving WHERE id = 101;
SELECT id FROM crm.find_matches('regress_match.moving', '{"name": "zenith bakery"}', 1);
VACUUM regress_match.moving;
INSERT INTO regress_match.moving VALUES (102, 'Zenith Bakeries');
SELECT id FROM crm.find_matches('regress_match.moving', '{"name": "zenith bakery"}', 1);

-- what is found does not change with the rows that have nothing to do with it nor with statistics, and scores do not jump
CREATE FUNCTION pg_temp.found() RETURNS TABLE (id text, score real) LANGUAGE sql AS $$
SELECT m.id, m.score FROM crm.find_matches('regress_match.moving', '{"name": "Zenith Bakery"}') AS m $$;
INSERT INTO regress_match.moving VALUES (103, 'Zenith Bakers'), (104, 'Zenith Bakery GmbH'), (105, 'Zenith'), (106, 'Bakery'), (107, 'Zentih Bakrey');
CREATE TEMP TABLE few AS SELECT * FROM pg_temp.found();
INSERT INTO regress_match.moving SELECT i, format('Company %s of %s', md5(i::text), md5((-i)::text)) FROM generate_series(1000, 5000) AS i;
SELECT count(*) AS found, max(abs(f.score - m.score)) < 0.00001 AS same_scores FROM few AS f FULL JOIN pg_temp.found() AS m USING (id);
SELECT crm.analyze_matching('regress_match.moving');
SELECT string_agg(id, ' ' ORDER BY id) AS found, max(abs(f.score - m.score)) < 0.05 AS near_scores FROM few AS f FULL JOIN pg_temp.found() AS m USING (id);

-- names that are hardly names are stored, indexed and looked up
INSERT INTO regress_match.moving VALUES (200, ''), (201, ' '), (202, 'x'), (203, '伟'), (204, '😀😀'), (205, U&'\202E\05D0\05D1\05D2 abc \202C\0645\062D\0645\062F'), (206, repeat('上海伟测 ', 200000)), (207, repeat('a', 1000000)), (208, repeat('ab ', 300000)), (209, U&'\0301\0301'), (210, '...'), (211, E'\u00A0\u3000');
SELECT n.id, (SELECT string_agg(m.id, ' ' ORDER BY m.id::int) FROM crm.find_matches('regress_match.moving', jsonb_build_object('id', 0, 'name', n.name)) AS m WHERE m.id::int = n.id) AS found
FROM regress_match.moving AS n WHERE n.id BETWEEN 200 AND 299 ORDER BY n.id;
-- and whatever bytes are asked for, there is an answer
SELECT count(*) AS asked, count(*) FILTER (WHERE found >= 0) AS answered
FROM (SELECT (SELECT count(*) FROM crm.find_matches('regress_match.moving', jsonb_build_object('name', (SELECT string_agg(chr(c), '') FROM (SELECT (ARRAY[32, 45, 97, 101, 122, 233, 8238, 1488, 1605, 19978, 20255, 28023, 30005, 65313, 128512, 769])[1 + (hashint4(i * 31 + j) & 15)] AS c FROM generate_series(1, 1 + i % 23) AS j) AS x)))) AS found
      FROM generate_series(1, 300) AS i) AS f;

-- the operator beneath: a threshold, then keys with weights
SELECT ARRAY[5, 7, 9] OPERATOR(crm.@@) ARRAY[3, 5, 2, 9, 1], ARRAY[5, 7] OPERATOR(crm.@@) ARRAY[3, 5, 2, 9, 1];
-- fails: no such query
SELECT ARRAY[5] OPERATOR(crm.@@) ARRAY[0, 5, 2];
SELECT ARRAY[5] OPERATOR(crm.@@) ARRAY[3, 5];
SELECT ARRAY[5] OPERATOR(crm.@@) ARRAY[3, 5, NULL];

SET client_min_messages = warning;
DROP SCHEMA regress_match CASCADE;
DROP OWNED BY regress_match_app;
DROP ROLE regress_match_app;
