-- What two records weigh: reasons that add up, and a scan that may stop early but never differs.
\set SHOW_CONTEXT never
-- customers are entered as they come
SET client_min_messages = warning;
CREATE ROLE regress_match_score_owner;
CREATE ROLE regress_match_score_app;
GRANT CREATE ON DATABASE contrib_regression TO regress_match_score_owner;
SELECT crm.grant_toolkit('regress_match_score_owner');
SET ROLE regress_match_score_owner;
SELECT crm.create_workspace('regress_match_score');
RESET client_min_messages;

SELECT round(score::numeric, 2) AS score, reasons
FROM crm.compare_records('regress_match_score.account',
    '{"name": "Acme Trading GmbH", "phone": "030 901820", "description": "red"}', '{"name": "ACME Trading AG", "phone": "+49 30 901820"}');
SELECT reasons FROM crm.compare_records('regress_match_score.contact',
    '{"full_name": "Allen, Bob", "birth_date": "1971-05-24"}', '{"given_name": "Robert", "family_name": "Allen", "birth_date": "1971-06-24"}');
SELECT reasons FROM crm.compare_records('regress_match_score.account', '{}', '{"name": "Acme"}');

-- Two names of firms: sisters, branches, branches whose mark got lost, abbreviations, the same words in other order.
CREATE FUNCTION pg_temp.names(a text, b text) RETURNS text LANGUAGE sql AS $$
SELECT string_agg(r ->> 'field' || ' ' || (r ->> 'level'), ', ') FROM crm.compare_records('regress_match_score.account', jsonb_build_object('name', a), jsonb_build_object('name', b)) AS c,
       jsonb_array_elements(c.reasons) AS r WHERE r ->> 'field' <> 'prior' $$;
-- unaligned, since psql's versions differ in how wide characters without width are
\pset format unaligned
SELECT a, b, pg_temp.names(a, b), pg_temp.names(a, b) = pg_temp.names(b, a) AS both_ways FROM (VALUES
    ('Mangual Plumbing Ltd', 'Mangual Dental Ltd'), ('昆明莱菲尔商贸有限公司', '昆明莱菲尔餐饮有限公司'), ('昆明莱菲尔商贸有限公司', '昆明莱菲尔贸易有限公司'),
    ('Ritz-Carlton Cafe (Buckhead)', 'Ritz-Carlton Dining Room (Buckhead)'), ('Mangual Trading GmbH', 'Mangual Trading AG'), ('华黎建材有限公司', '华黎建材有限责任公司'),
    ('上海华黎建材有限公司', '上海华黎建材有限公司第一分公司'), ('上海华黎建材有限公司第二分公司', '上海华黎建材有限公司第一分公司'),
    ('陕西志泽人力资源有限公司城西分公司', '陕西志泽人力资源有限公司城东分公司'), ('湖南神舟防水有限公司贵阳分公司', '湖南神舟防水有限公司贵阳分公司分店'),
    ('中国工商银行股份有限公司天津宾西路支行', '中国工商银行股份有限公司天津宾西路'), ('上海中央化学有限公司宁波办事处', '上海中央化学有限公司宁办事处'),
    ('Zenith Bakery Ltd Berlin Branch', 'Zenith Bakery Ltd'),
    ('上汽集团', '上海汽车集团股份有限公司'), ('上汽集团', '上海石化股份有限公司'), ('山东药玻', '山东省药用玻璃股份有限公司'), ('IBM', 'International Business Machines Corp'), ('IBM', 'Independent Bakers of Ohio'),
    ('Huawei Technologies Co., Ltd.', '华为技术有限公司'), ('Hua Wei', '華為技術有限公司'), ('Bank of China', '中国银行股份有限公司'), ('Weiming', '华为技术有限公司'),
    ('上海伟测半导体', '上海偉測半導體'), ('上海伟测半导体', '上海纬侧半导体'), ('', 'Acme'), ('X', 'Y'), ('😀', '😀😀'), (U&'\202E\05D0\05D1\05D2 abc', U&'abc \05D0\05D1\05D2'),
    ('Media Stretch Inc.', 'Stretch Media Inc.'), ('Zenith', 'Zenit')) AS n (a, b);
\pset format aligned
-- ... and found by each other
INSERT INTO regress_match_score.account (id, name) VALUES (1, 'International Business Machines Corp'), (2, '华为技术有限公司'), (3, 'Huawei Marine Ltd'), (4, 'NATO'), (5, '上海汽车集团股份有限公司');
INSERT INTO regress_match_score.account (id, name) SELECT 100 + i, initcap(translate(md5(i::text), '0123456789', 'ghijklmnop')) || ' ' || initcap(translate(md5((-i)::text), '0123456789', 'ghijklmnop')) FROM generate_series(1, 200) AS i;
SELECT q.name, (SELECT array_agg(d.id ORDER BY d.id) FROM regress_match_score.find_duplicates('account', jsonb_build_object('name', q.name)) AS d) AS found
FROM (VALUES ('IBM'), ('Huawei Technologies'), ('華為'), ('North Atlantic Treaty Organization'), ('上汽集团')) AS q (name);
-- persons: initials, short forms, names in either order and script
SELECT a, b, (SELECT r ->> 'level' FROM crm.compare_records('regress_match_score.contact', jsonb_build_object('full_name', a), jsonb_build_object('full_name', b)) AS c, jsonb_array_elements(c.reasons) AS r WHERE r ->> 'field' = 'person') AS level
FROM (VALUES ('R. Allen', 'Robert Allen'), ('Bob Allen', 'Robert Allen'), ('Allen Robert', 'Robert Allen'), ('王凤林', '王鳳林'), ('王凤林', 'Wang Fenglin'), ('王凤林', 'Fenglin Wang'), ('王凤林', '汪风霖'), ('', 'Robert'), ('😀', 'Robert Allen'), ('Robert Allen', 'Ann Miller')) AS n (a, b);
-- given names: one of two, shortened, two short forms of one; brother and sister; syllables in Han, of which brothers share one
SELECT a, b, (SELECT r ->> 'level' FROM crm.compare_records('regress_match_score.contact', jsonb_build_object('given_name', a), jsonb_build_object('given_name', b)) AS c, jsonb_array_elements(c.reasons) AS r WHERE r ->> 'field' = 'person') AS level
FROM (VALUES ('Anna Maria', 'Anna'), ('Maria', 'Anna-Maria'), ('Doug', 'Douglas'), ('Bob', 'Rob'), ('Dr. Bob', 'Robert'), ('Paul', 'Paula'), ('Martha', 'Martin'), ('Ivan', 'Rebecca'),
    ('建国', '建军'), ('建国', '國建'), ('建国', '建帼'), ('建国', '剑郭'), ('建国', '国'), ('军', '国'), ('成', '陈'), ('成', '程'), ('建国', '伟民'), ('志林', '子宁')) AS n (a, b);
-- Sr, Jr and III tell apart who is called alike; titles say nothing
SELECT a, b, (SELECT string_agg(r ->> 'field' || ' ' || (r ->> 'level'), ', ') FROM crm.compare_records('regress_match_score.contact', jsonb_build_object('full_name', a), jsonb_build_object('full_name', b)) AS c, jsonb_array_elements(c.reasons) AS r WHERE r ->> 'field' <> 'prior') AS levels
FROM (VALUES ('John Smith Jr.', 'John Smith Sr.'), ('Smith Jr, John', 'John Smith II'), ('John Smith III', 'Mr John Smith'), ('Prof. Dr. John Smith', 'Smith, John'), ('Junior Smith', 'Junior Smith'), ('Dr', 'Jr')) AS n (a, b);
-- one house is not one customer: firms of a group, a branch, a family; who only moved a letter is
SELECT kind, a ->> what AS a, b ->> what AS b, (SELECT score > 0.5 FROM crm.compare_records(('regress_match_score.' || kind)::regclass, a || house, b || house)) AS same
FROM (VALUES ('account', 'name', '{"phone": "+49 30 901820", "street": "12 Mill Lane", "postcode": "10115"}'::jsonb, '{"name": "Pendale & Lamden Consulting"}'::jsonb, '{"name": "Pendale & Lamden Software"}'::jsonb),
    ('account', 'name', '{"phone": "+49 30 901820", "street": "12 Mill Lane", "postcode": "10115"}', '{"name": "Pendale & Lamden Consulting"}', '{"name": "Pendale & Lamdne Consutling"}'),
    ('account', 'name', '{"phone": "+49 30 901820", "street": "12 Mill Lane", "postcode": "10115"}', '{"name": "Pendale & Lamden Ind. Ltd"}', '{"name": "Pendale & Lamden Industries Ltd"}'),
    ('account', 'name', '{"phone": "0411 8231234", "street": "城东街567号"}', '{"name": "靖边县靖银石油开发有限责任公司"}', '{"name": "靖边县靖银石油开发有限责任公司北京分公司"}'),
    ('contact', 'given_name', '{"family_name": "Clarke", "phone": "+44 20 79460018", "street": "12 Mill Lane", "postcode": "E1 6AN"}', '{"given_name": "Ivan"}', '{"given_name": "Rebecca"}'),
    ('contact', 'given_name', '{"family_name": "Clarke", "phone": "+44 20 79460018", "street": "12 Mill Lane", "postcode": "E1 6AN"}', '{"given_name": "Rebecca"}', '{"given_name": "Rebcca"}')) AS h (kind, what, house, a, b);
-- twins, father and son of one name, brothers, a couple with one address; and one person whose date is wrong, who has an identity number, a short form, another address
SELECT a, b, (SELECT score > 0.5 FROM crm.compare_records('regress_match_score.contact', house || a, house || b)) AS same
FROM (VALUES ('{"family_name": "Clarke", "phone": "+44 20 79460018", "street": "12 Mill Lane", "postcode": "E1 6AN"}'::jsonb), ('{"family_name": "王", "phone": "010-84262701", "street": "青年路5号2单元", "postcode": "100013"}')) AS f (house),
  (VALUES ('{"given_name": "Ivan", "birth_date": "1971-05-24"}'::jsonb, '{"given_name": "Rebecca", "birth_date": "1971-05-24"}'::jsonb), ('{"given_name": "Ivan", "birth_date": "1971-05-24"}', '{"given_name": "Ivan", "birth_date": "1998-11-03"}'),
    ('{"given_name": "Ivan Jr"}', '{"given_name": "Ivan Sr"}'), ('{"given_name": "Ivan", "email": "the.clarkes@gmail.com"}', '{"given_name": "Rebecca", "email": "the.clarkes@gmail.com"}'), ('{"given_name": "Martha"}', '{"given_name": "Martin"}'),
    ('{"given_name": "建国", "birth_date": "1971-05-24"}', '{"given_name": "建军", "birth_date": "1974-02-11"}'), ('{"given_name": "军"}', '{"given_name": "国"}'), ('{"given_name": "建国", "birth_date": "1971-05-24"}', '{"given_name": "建军", "birth_date": "1971-05-24"}'),
    ('{"given_name": "Ivan", "birth_date": "1971-05-24"}', '{"given_name": "Ivan", "birth_date": "1971-06-24"}'), ('{"given_name": "Rebecca", "birth_date": "1971-05-24"}', '{"given_name": "Becky", "birth_date": "1971-05-24"}'),
    ('{"given_name": "Ivan", "birth_date": "1971-05-24", "email": "ivan.clarke@gmail.com"}', '{"given_name": "Ivan", "birth_date": "1998-11-03", "email": "ivan.clarke@gmail.com"}'),
    ('{"given_name": "Ivan", "birth_date": "1971-05-24", "national_id": "6988048"}', '{"given_name": "Rebecca", "birth_date": "1971-05-24", "national_id": "6988048"}'), ('{"given_name": "建国"}', '{"given_name": "剑帼"}'),
    ('{"given_name": "建国", "birth_date": "1971-05-24"}', '{"given_name": "建军", "birth_date": "1971-05-24", "phone": null, "street": "和平里东路12号", "email": "wjg@qq.com"}')) AS p (a, b)
WHERE (house ->> 'family_name' = '王') = (a ->> 'given_name' ~ '[建军]');
SELECT b, (SELECT r ->> 'level' FROM crm.compare_records('regress_match_score.contact', '{"email": "h.nguyen12@example.org"}', jsonb_build_object('email', b)) AS c, jsonb_array_elements(c.reasons) AS r WHERE r ->> 'field' = 'email') AS level
FROM (VALUES ('h.nguyen47@example.com'), ('h.nguyne12@example.com'), ('hnguyen@example.com')) AS e (b);
-- a telephone number is the same with and without the prefixes of country and trunk; a full-width one, too
SELECT a, b, (SELECT r ->> 'level' FROM crm.compare_records('regress_match_score.account', jsonb_build_object('phone', a), jsonb_build_object('phone', b)) AS c, jsonb_array_elements(c.reasons) AS r WHERE r ->> 'field' = 'phone') AS level
FROM (VALUES ('+49 30 901820', '030/90 18 20'), ('0049 30 901820', '＋４９ (0)30 901820'), ('+44 (0)20 7946 0018', '020 7946 0018'), ('+1 650 253 0001', '(650) 253-0001'), ('+86 021 58958216', '021-58958216'), ('+86 138 0013 8000', '8613800138000'),
    ('+39 02 1234567', '02 1234567'), ('+353 1 678 9000', '01 6789000'), ('+49 30 901820', '+49 40 901820'), ('030 901820', '030 901821'), ('+49', '030 901820'), ('000000', '000000'), ('000001', '000001'), ('00 00 12', '+0')) AS p (a, b);
-- an office somewhere is a branch, the head office is the firm, a law office what it does; another business and legal form is another firm
SELECT a, b, pg_temp.names(a, b) FROM (VALUES ('Acme Trading GmbH', 'Acme Trading - Exeter Office'), ('Acme Trading', 'Acme Trading (Head Office)'), ('Miller Law Office', 'Miller Law Office Ltd'), ('Acme Exeter Office', 'Acme Exeter Office Inc'), ('Post Office', 'The Post Office')) AS n (a, b);
SELECT b, (SELECT score > 0.5 FROM crm.compare_records('regress_match_score.account', '{"name": "Filzen Dental Ltd", "phone": "01737 781880", "street": "31 Fox Drive"}', jsonb_build_object('name', b, 'phone', '01737 781880', 'street', '31 Fox Drive'))) AS same
FROM (VALUES ('Filzen Dental Travel Corp'), ('Filzen Dental Travel'), ('Filzen Dental Corp')) AS n (b);
-- found whatever letter of a short word is wrong, and when words run together
INSERT INTO regress_match_score.account (id, name) VALUES (11, 'Dani Textiles'), (12, 'Bulcora'), (13, 'Hilan'), (14, 'Crystal Holdings Trading');
SELECT q.name, (SELECT array_agg(d.id ORDER BY d.id) FROM regress_match_score.find_duplicates('account', jsonb_build_object('name', q.name)) AS d) AS found
FROM (VALUES ('Dabi Textiles'), ('Blucora'), ('Hilam'), ('Hlan'), ('CrystalHoldings Trading')) AS q (name);
-- a slip in an identity number, in the birth date and in both names: found by half of the number
INSERT INTO regress_match_score.contact (id, given_name, family_name, birth_date, national_id) VALUES (1, 'Nathan', 'Challenor', '1960-01-13', '2692439');
SELECT id FROM regress_match_score.find_duplicates('contact', '{"given_name": "Natahn", "family_name": "Challmenor", "birth_date": "1960-02-13", "national_id": "2692493"}');
DELETE FROM regress_match_score.account;
DELETE FROM regress_match_score.contact;
-- whatever agrees counts the less, the more records have it; and a blank counts nothing
BEGIN;
INSERT INTO regress_match_score.account (name, phone, email, website, street, city, postcode, uscc)
SELECT 'Common Trading', '030 4440000', 'info@common.example.com', 'www.common.example.com', 'Common Lane 1', 'Berlin', '10115', 'AB1234567' FROM generate_series(1, 500) AS i;
INSERT INTO regress_match_score.contact (given_name, family_name, birth_date, national_id, phone, email, street, city)
SELECT 'Ann', 'Smith', '1970-01-01', '000111222', '030 4440000', 'ann@gmail.com', 'Common Lane 1', 'Berlin' FROM generate_series(1, 500) AS i;
SELECT crm.analyze_matching('regress_match_score.account'), crm.analyze_matching('regress_match_score.contact');
SELECT kind, column_name, c.weight < r.weight - 1 AS common_counts_less, b.weight AS blank
FROM (VALUES ('account', 'name', 'Common Trading', 'Zenith Bakery'), ('account', 'phone', '030 4440000', '030 7654321'), ('account', 'email', 'info@common.example.com', 'info@rare.example.org'),
    ('account', 'website', 'common.example.com', 'rare.example.org'), ('account', 'street', 'Common Lane 1', 'Rare Road 77'), ('account', 'city', 'Berlin', 'Zwiesel'), ('account', 'postcode', '10115', '94227'), ('account', 'uscc', 'AB1234567', 'XY7654321'),
    ('contact', 'given_name', 'Ann', 'Xaviera'), ('contact', 'family_name', 'Smith', 'Zwetkow'), ('contact', 'birth_date', '1970-01-01', '1983-07-19'), ('contact', 'national_id', '000111222', '987654321'),
    ('contact', 'phone', '030 4440000', '030 7654321'), ('contact', 'email', 'ann@gmail.com', 'rare@gmail.com'), ('contact', 'street', 'Common Lane 1', 'Rare Road 77'), ('contact', 'city', 'Berlin', 'Zwiesel')) AS v (kind, column_name, common, rare),
  LATERAL (SELECT ('regress_match_score.' || kind)::regclass AS rel, jsonb_build_object(column_name, common) AS common, jsonb_build_object(column_name, rare) AS rare) AS j,
  LATERAL (SELECT sum((e ->> 'weight')::numeric) AS weight FROM jsonb_array_elements((crm.compare_records(j.rel, j.common, j.common)).reasons) AS e) AS c,
  LATERAL (SELECT sum((e ->> 'weight')::numeric) AS weight FROM jsonb_array_elements((crm.compare_records(j.rel, j.rare, j.rare)).reasons) AS e) AS r,
  LATERAL (SELECT count(*) AS weight FROM jsonb_array_elements((crm.compare_records(j.rel, j.rare, '{}')).reasons) AS e WHERE e ->> 'field' <> 'prior') AS b;
ROLLBACK;
-- fails: wrong arguments
SELECT crm.compare_records('regress_match_score.account', '[]', '{}');
SELECT crm.compare_records('regress_match_score.member', '{}', '{}');
SELECT crm.compare_records('pg_tables', '{}', '{}');
-- fails: how common a value is, is for those who may read the table
RESET ROLE;
GRANT USAGE ON SCHEMA crm, regress_match_score TO regress_match_score_app;
GRANT EXECUTE ON FUNCTION crm.compare_records, crm._compare_records TO regress_match_score_app;
SET ROLE regress_match_score_app;
SELECT crm.compare_records('regress_match_score.account', '{}', '{}');
RESET ROLE;
SET ROLE regress_match_score_owner;

-- Random records, made of few values so that they agree in parts.  psql -v seed=n repeats a run.
\if :{?seed} \else \set seed 4711 \endif
CREATE FUNCTION pg_temp.pick(seed text, VARIADIC choices text[]) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT choices[1 + abs(hashtext(seed)::bigint) % array_length(choices, 1)] $$;
CREATE TABLE regress_match_score.sample AS
SELECT i, jsonb_strip_nulls(jsonb_build_object(
    'name', pg_temp.pick(s || 'n', NULL, 'Acme Trading GmbH', 'ACME Tradign', 'Acme', 'Acme Trading AG', 'Acme Trading GmbH West Branch', 'Zenith Bakery', 'Zenit Bakery Ltd',
                         '上海伟测半导体科技股份有限公司', '伟测', '上海偉測半導體', '上海纬侧半导体科技有限公司', '上海伟测半导体科技有限公司分公司', '浦发银行', '上海浦东发展银行股份有限公司', 'X', '😀', 'Acme Dental Ltd', 'AT', 'American Trading', 'Acme Trading GmbH East Branch',
                         '上海伟测半导体餐饮有限公司第一分公司', '上海伟测半导体餐饮有限公司第二分公司', '上海伟测半导体餐饮有限公司浦东'),
    'phone', pg_temp.pick(s || 'p', NULL, '030 901820', '+49 30 901820', '030 901821', '030 910820', '13800138000', '5'),
    'email', pg_temp.pick(s || 'e', NULL, 'office@acme.example.com', 'sales@acme.example.com', 'office@gmail.com', 'o.ffice@gmail.com', 'offices@zenith.example.org'),
    'uscc', pg_temp.pick(s || 't', NULL, NULL, '91310115MA1H9P3C6U', '9132010477126002XJ', '91310115MA1H9P3C6', '934243163'),
    'street', pg_temp.pick(s || 's', NULL, 'Chausseestraße 12', 'Chausseestr. 12', 'Chausseestraße 14', '东胜路38号A区1栋', '东胜路38号', '12'),
    'city', pg_temp.pick(s || 'c', NULL, 'Berlin', 'Berlim', 'New York', 'New York City', '上海', '北京'),
    'postcode', pg_temp.pick(s || 'z', NULL, '10115', '10117', '201201'))) AS account,
  jsonb_strip_nulls(jsonb_build_object(
    'given_name', pg_temp.pick(s || 'g', NULL, 'Robert', 'Bob', 'R', 'Allen', 'Roberta', 'Rupert', 'Rob Jr', 'Robert Sr', 'Ann', 'Ann Mary', '凤林', '凤霖', '凤军', '军', repeat('long', 20) || 'x', repeat('long', 20) || 'y'),
    'family_name', pg_temp.pick(s || 'f', NULL, 'Allen', 'Alan', 'Robert', 'Ng', '王', '張', '章', repeat('long', 20)),
    'birth_date', pg_temp.pick(s || 'b', NULL, '1971-05-24', '1971-06-24', '1971-05-23', '1981-05-24', '1971-04-05', '1971-05-04', '2001-12-01'),
    'national_id', pg_temp.pick(s || 'i', NULL, '6988048', '6988084', '6988', '7364009'),
    'email', pg_temp.pick(s || 'e', NULL, 'bob.allen@acme.example.com', 'bob.allen@gmail.com', 'ann@acme.example.com'),
    'phone', pg_temp.pick(s || 'p', NULL, '13800138000', '13800138001', '030 901820'),
    'street', pg_temp.pick(s || 's', NULL, 'Chausseestraße 12', 'Chausseestr. 12', '东胜路38号A区1栋'),
    'city', pg_temp.pick(s || 'c', NULL, 'London', 'Londn', 'Paris'))) AS contact
FROM (SELECT i, :'seed' || '/' || i || '/' AS s FROM generate_series(1, 250) AS i) AS r;
INSERT INTO regress_match_score.account (name, phone, email, uscc, street, city, postcode)
SELECT account ->> 'name', account ->> 'phone', account ->> 'email', account ->> 'uscc', account ->> 'street', account ->> 'city', account ->> 'postcode'
FROM regress_match_score.sample WHERE account ? 'name' AND i % 2 = 0;
SELECT crm.analyze_matching('regress_match_score.account');
-- what a scan computes is the log-odds of find_matches() to the bit, or nothing where they are too few: none, and both cases occur
CREATE TABLE regress_match_score.compared AS
SELECT kind, a.i AS i, b.i AS j, needed, c.bits, c.quick, c.reasons
FROM regress_match_score.sample AS a JOIN regress_match_score.sample AS b ON b.i > a.i AND (a.i + b.i) % 3 = 0,
     (VALUES ('account'), ('contact')) AS k (kind), (VALUES (-12.0), (0), (5.5)) AS n (needed),
     crm._compare_records(('regress_match_score.' || kind)::regclass, CASE kind WHEN 'account' THEN a.account ELSE a.contact END,
                          CASE kind WHEN 'account' THEN b.account ELSE b.contact END, needed) AS c;
SELECT :seed AS seed, * FROM regress_match_score.compared WHERE CASE WHEN quick = '-Infinity' THEN bits >= needed ELSE quick <> bits END LIMIT 3;
SELECT kind, needed, bool_or(quick = '-Infinity') AS stopped, bool_or(quick > needed) AS found
FROM regress_match_score.compared GROUP BY 1, 2 ORDER BY 1, 2;
-- and the reasons add up to it: none
SELECT :seed AS seed, * FROM regress_match_score.compared
WHERE abs((SELECT sum((r ->> 'weight')::float8) FROM jsonb_array_elements(reasons) AS r) - bits) > 0.06 LIMIT 3;

RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA regress_match_score CASCADE;
SELECT crm.revoke_toolkit('regress_match_score_owner');
DROP OWNED BY regress_match_score_owner, regress_match_score_app;
DROP ROLE regress_match_score_owner, regress_match_score_app;
