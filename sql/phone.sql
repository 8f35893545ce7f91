-- crm.phone: E.164 numbers with extensions, from any usual spelling.
\set SHOW_CONTEXT never
CREATE ROLE regress_phone_user;
CREATE SCHEMA regress_phone AUTHORIZATION regress_phone_user;
GRANT USAGE ON SCHEMA crm TO regress_phone_user;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_phone_user;
SET search_path = regress_phone, crm;
SET ROLE regress_phone_user;

-- international spellings need no setting
SHOW crm.default_region;
SELECT v AS input, phone(v), phone(phone(v)::text) = phone(v) AS settled
FROM (VALUES
    ('+8613800138000'), ('+86 138 0013 8000'), ('＋８６ １３８－００１３－８０００'), ('(+86)138-0013-8000'),
    ('+86—10—12345678 转 123'), ('+86 (010) 12345678 分机１２３'), ('tel:+1-202-555-0123;ext=5'),
    ('+1 202.555.0123 x5'), ('+1 (202) 555-0123 Ext. 5'), ('+1 202 555 0123 #0005'), ('+44 (0)20 7946 0958'),
    ('+39 06 1234 5678'), ('+٨٦ ١٣٨ ٠٠١٣ ٨٠٠٠'), ('+800 1234 5678')
) AS t (v);
-- what shows nothing comes along from address books, and goes
SELECT phone(E'\u202A+86 138 0013 8000\u202C');

-- fails: a national number and no region
SELECT '138 0013 8000'::phone;

-- with a region, given or set
SELECT v AS input, r AS region, phone(v, r)
FROM (VALUES
    ('13800138000', 'CN'), ('010-12345678', 'cn'), ('0086 138 0013 8000', 'CN'), ('86-13800138000', 'CN'),
    ('400-820-8888', 'CN'), ('（０２０）８７６５４３２１', 'CN'), ('0171/1234567', 'DE'), ('06 1234 5678', 'IT'), ('(202) 555-0123', 'US'),
    ('011 86 138 0013 8000', 'US'), ('+86 138 0013 8000', 'US'), ('2123 4567', 'HK')
) AS t (v, r);
SET crm.default_region = 'cn';
SHOW crm.default_region;
SELECT '138 0013 8000'::phone, '138 0013 8000'::text::phone, phone('138 0013 8000');
SET crm.default_region = 'XK';

-- fails: no such country
SET crm.default_region = 'UK';
SET crm.default_region = 'China';
SET crm.default_region = '86';
SELECT phone('138 0013 8000', 'ZZ');
SELECT phone('138 0013 8000', '');
SELECT phone('138 0013 8000', repeat('C', 1000000));

-- fails: what is not a number
SET crm.default_region = 'CN';
SELECT ''::phone;
SELECT '+'::phone;
SELECT 'abc'::phone;
SELECT '12'::phone;
SELECT '138 0013'::phone;
SELECT '8765 4321'::phone;
SELECT '+86 138 0013 8000 0000'::phone;
SELECT '+999 1234 5678'::phone;
SELECT '13800138000 call after six'::phone;
SELECT '13800138000/13900139000'::phone;
SELECT '13800138000、13900139000'::phone;
SELECT '13800138000, 13900139000'::phone;
SELECT '+8613800138000 +8613900139000'::phone;
SELECT '010-12345678转'::phone;
SELECT '010-12345678转123转4'::phone;
SELECT '+1 202 555 0123 ext 123456789012345678901'::phone;
SELECT '1-800-FLOWERS'::phone;
SELECT phone('5550123', 'US');
SELECT phone(repeat('1', 1000000));
SELECT phone(repeat('转', 300000));

-- the canonical form is accepted by its syntax, even in ranges nobody has assigned
RESET crm.default_region;
SELECT '+999123'::phone, '+123456789012345'::phone, '+999123;ext=12345678901234567890'::phone;
-- fails: outside that syntax
SELECT '+12'::phone;
SELECT '+1234567890123456'::phone;
SELECT '+0123456789'::phone;
SELECT '+8613800138000;ext='::phone;
SELECT '+8613800138000;ext=123456789012345678901'::phone;

-- accessors
SELECT p, phone_region(p), phone_national(p), phone_international(p), phone_extension(p), phone_is_valid(p)
FROM (VALUES ('+8613800138000'::phone), ('+12025550123;ext=5'), ('+442079460958'), ('+80012345678'), ('+999123'), ('+85221234567')) AS t (p);
SELECT phone(NULL), phone(NULL, 'CN'), phone('1', NULL), phone_region(NULL), phone_national(NULL);

-- comparing and indexing are by bytes
CREATE TABLE line (id int, number phone UNIQUE);
INSERT INTO line VALUES (1, '+86 138 0013 8000'), (2, '+8613800138000;ext=1'), (3, '+1 202 555 0123'), (4, NULL);
INSERT INTO line VALUES (5, '(+86)13800138000');  -- fails: it is there already
SELECT id FROM line WHERE number = '+86 138 00138000';
SELECT id FROM line ORDER BY number;
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM line WHERE number = '+8613800138000';
RESET enable_seqscan;
CREATE INDEX ON line USING hash (number);
SELECT amvalidate(oid) FROM pg_opclass WHERE opcintype = 'crm.phone'::regtype ORDER BY opcmethod;
SELECT number::text LIKE '+86%' AS chinese, count(*) FROM line GROUP BY 1 ORDER BY 1;
SELECT phone_send('+12025550123');

RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA regress_phone CASCADE;
DROP OWNED BY regress_phone_user;
DROP ROLE regress_phone_user;
