-- Names: keys that depend on no locale and no ICU version, and how alike two names are.
\set SHOW_CONTEXT never
CREATE ROLE regress_name_user;
GRANT USAGE ON SCHEMA crm TO regress_name_user;
GRANT EXECUTE ON FUNCTION crm.name_key(text), crm.name_similarity(text, text), crm.name_parts(text) TO regress_name_user;
SET ROLE regress_name_user;

-- Equal keys within a line: scripts, width, case, legal forms, marks, order of legal form.
SELECT line, count(DISTINCT crm.name_key(n)) AS keys, min(crm.name_key(n)) AS key
FROM (VALUES
    (1, ARRAY['上海伟测半导体科技股份有限公司', '上海偉測半導體科技股份有限公司', '上海伟测半导体科技有限责任公司', '上海 伟测半导体科技']),
    (2, ARRAY['重庆长安汽车股份有限公司', '重慶長安汽車股份公司', 'Chong Qing Chang An Qi Che']),
    (3, ARRAY['Deutsche Bank AG', 'DEUTSCHE BANK AKTIENGESELLSCHAFT', 'Ｄｅｕｔｓｃｈｅ　Ｂａｎｋ', 'deutsche bank a.g.', 'Deutsche  Bank, A G']),
    (4, ARRAY['Müller & Söhne GmbH & Co. KG', 'MULLER UND SOHNE', E'Mu\u0308ller and So\u0308hne GmbH']),
    (5, ARRAY['Budimex Sp. z o.o.', 'Budimex sp z oo', 'BUDIMEX SP. Z O. O.', 'Budimex S.A.']),
    (6, ARRAY['ООО «Ромашка»', 'Ромашка, ООО', 'ромашка', 'Romashka', 'О.О.О. Ромашка']),
    (7, ARRAY['Сергей', E'Серге\u0438\u0306', 'Sergey']),
    (8, ARRAY['㈱日立製作所', '（株）日立製作所', '日立製作所株式会社', '株式会社日立製作所', '日立製作所']),
    (9, ARRAY['삼성전자(주)', '㈜삼성전자', '주식회사 삼성전자', '삼성전자주식회사', 'Samseongjeonja', E'\u1109\u1161\u11B7\u1109\u1165\u11BC\u110C\u1165\u11AB\u110C\u1161']),
    (10, ARRAY['ガス', 'がす', 'ｶﾞｽ', E'カ\u3099ス', 'gasu']),
    (11, ARRAY['とうきょう', 'トーキョー', 'Tokyo', 'Tōkyō']),
    (12, ARRAY['Γιώργος Παπαδόπουλος', 'ΓΙΩΡΓΟΣ ΠΑΠΑΔΟΠΟΥΛΟΣ', 'Giorgos Papadopoulos']),
    (13, ARRAY['Ørsted A/S', 'Orsted AS', 'ORSTED A.S.']),
    (14, ARRAY['Weiß Straßenbau', 'WEISS STRASSENBAU', 'WEIẞ STRAẞENBAU GmbH']),
    (15, ARRAY['AT&T Inc.', 'AT & T', 'at and t incorporated', 'ＡＴ＆Ｔ']),
    (16, ARRAY['O''Brien', 'O’Brien', 'OBrien Ltd']),
    (17, ARRAY['Société Générale S.A.', 'SOCIETE GENERALE', E'Socie\u0301te\u0301 Ge\u0301ne\u0301rale SA']),
    (18, ARRAY['İstanbul', 'Istanbul', 'ıstanbul', 'istanbul A.Ş.']),
    (19, ARRAY['Łódź', 'Lodz', 'ŁÓDŹ']),
    (20, ARRAY['Acme Mfg. Co., Ltd.', 'ACME MANUFACTURING LIMITED', 'Acme Manufacturing Pvt. Ltd.']),
    (21, ARRAY['١٢٣', '123', '１２３', '①②③']),
    (22, ARRAY[E'Zero\u200Bwidth', E'\u202EZerowidth', E'Zero\u00ADwidth'])
) AS v (line, names), unnest(v.names) AS n
GROUP BY line ORDER BY line;

-- Legal forms are left out only in their places, and never leave nothing.
SELECT n AS name, crm.name_key(n) FROM unnest(ARRAY[
    'Ltd', 'GmbH & Co. KG', 'S.A.', 'Sp. z o.o.', 'ООО', '有限公司', '（株）', '주식회사',
    'Salt Lake', 'Agfa', 'Incorporated Design', 'The Limited Edition', 'Coco', 'Space X', 'Me Too', 'IP Telecom', 'Creative Ad',
    'Foo Ltd (UK)', 'UG Foo UG (haftungsbeschränkt)', 'Bank of Scotland plc, Leeds',
    '欧', '爱美欧', '萨', '中国电信股份有限公司平远分公司', '茂林园艺限有责任公司', '人人公司']) WITH ORDINALITY AS u (n, i) ORDER BY i;

-- Readings: places and words, surnames only where a person's name begins.
SELECT n AS name, crm.name_key(n) FROM unnest(ARRAY[
    '厦门', '高楼大厦', '重庆银行', '重型机械', '长沙', '董事长', '音乐', '快乐', '闵行区', '旅行社', '六安', '番禺',
    '单田芳', '名单', '曾国藩', '仇英', '解晓东', '区志航', '查良镛', '查良鏞', '朴树', '解放碑火锅', '曾经理', '呂布', '女媧']) WITH ORDINALITY AS u (n, i) ORDER BY i;

-- What cannot be read keeps a name of its own; only punctuation has no key.
SELECT n AS name, crm.name_key(n) FROM unnest(ARRAY['', ' ', '-', '...', '！？', '😀', '☕ Café', '𠀀𠮷', 'ꆈ']) WITH ORDINALITY AS u (n, i) ORDER BY i;

SELECT * FROM crm.name_parts('上海伟测半导体(深圳)集团有限公司第2分公司');
SELECT * FROM crm.name_parts('Toll Group (Australia) Pty. Ltd.');
SELECT * FROM crm.name_parts('ООО Ромашка 삼성 ソニー Ούζο');

-- NULL in, NULL out.
SELECT crm.name_key(NULL) IS NULL AS key, crm.name_similarity(NULL, 'a') IS NULL AS similarity, count(*) AS parts
FROM crm.name_parts(NULL);

-- The key of a key is itself, over everything in Unicode.
SELECT count(*) AS codepoints,
       count(*) FILTER (WHERE crm.name_key(crm.name_key(chr(c))) <> crm.name_key(chr(c))) AS not_idempotent,
       count(*) FILTER (WHERE crm.name_key('acme ' || chr(c) || ' zulu') !~ '^[a-z0-9]+( [a-z0-9]+)*$') AS not_ascii,
       count(*) FILTER (WHERE crm.name_key(lower(chr(c)) || ' ltd') <> crm.name_key(chr(c) || ' Ltd') AND c < 128) AS case_matters
FROM generate_series(1, 1114111) AS c WHERE c NOT BETWEEN 55296 AND 57343;

-- Length is bounded, so is work: a key fits into an index entry whatever the name.
SELECT n, octet_length(crm.name_key(s)) <= 2047 AS bounded, crm.name_key(crm.name_key(s)) = crm.name_key(s) AS idempotent
FROM (VALUES
    ('one word', repeat('x', 1000000)), ('words', repeat('Acme ', 200000)), ('Han', repeat('龍', 350000)),
    ('dots', repeat('.', 1000000)), ('initials', repeat('a.', 500000)), ('parentheses', repeat('(', 1000000) || '株'),
    ('symbols', repeat('😀', 250000)), ('marks', 'a' || repeat(E'\u0301', 500000)), ('expanding', repeat('㍿', 300000)),
    ('abbreviations', repeat('intl ', 200000)), ('hangul', repeat('주', 300000)), ('sokuon', repeat('っ', 300000) || 'か')) AS v (n, s);
SELECT crm.name_similarity(repeat('Acme ', 200000), repeat('Acme Inc ', 100000)) BETWEEN 0 AND 1 AS bounded;

-- Similarity: 1 for equal keys, symmetric, high for the same firm, low for others with the same suffix.
SELECT a, b, crm.name_similarity(a, b) BETWEEN low AND high AS as_expected,
       crm.name_similarity(a, b) = crm.name_similarity(b, a) AS symmetric
FROM (VALUES
    ('上海偉測半導體科技股份有限公司', '上海伟测半导体科技有限公司', 1, 1),
    ('张伟', '章威', 1, 1),
    ('John Smith', 'Smith, John', 0.7, 0.99),
    ('伟测半导体', '上海伟测半导体科技股份有限公司', 0.6, 0.99),
    ('北京天地科技有限公司', '上海大地科技有限公司', 0, 0.599),
    ('四川恒正投资集团有限公司', '四川桂康酒业集团有限公司', 0, 0.5),
    ('王伟', '王芳', 0, 0.599),
    ('王经理', '王建国', 0.3, 0.8),
    ('Beerling Marine Pty Ltd', 'Garczynski Services Pty Ltd', 0, 0.2),
    ('Wangaratta Travel S.A.', 'Kerrington Travel SA', 0, 0.5),
    ('Kogarah nIternational Ltd', 'Kogarah International Limited', 0.8, 0.99),
    ('DeerPark Marketing', 'Deer Park Marketing Limitde', 0.7, 0.99),
    ('S. Ashbrook', 'Sharleen Ashbrook', 0.6, 0.99),
    ('Beijing Tiandi', '北京天地', 0.9, 0.99),
    ('Fund 1', 'Fund 2', 0, 0.6),
    ('Acme', '', 0, 0), ('...', '...', 0, 0)) AS v (a, b, low, high);

SELECT proname, provolatile, proisstrict, proparallel FROM pg_proc
WHERE pronamespace = 'crm'::regnamespace AND proname LIKE 'name\_%' ORDER BY proname;

-- An index on the key serves lookups.
RESET ROLE;
CREATE TEMPORARY TABLE firm (name text);
INSERT INTO firm SELECT 'Firm ' || i || ' Ltd' FROM generate_series(1, 2000) AS i;
CREATE INDEX ON firm (crm.name_key(name));
ANALYZE firm;
EXPLAIN (COSTS OFF) SELECT FROM firm WHERE crm.name_key(name) = crm.name_key('FIRM 77, LIMITED');
SELECT name FROM firm WHERE crm.name_key(name) = crm.name_key('FIRM 77, LIMITED');
DROP OWNED BY regress_name_user;
DROP ROLE regress_name_user;
