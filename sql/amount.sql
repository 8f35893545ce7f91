-- crm.amount: numbers that know their currency.
\set SHOW_CONTEXT never
CREATE ROLE regress_amount_user;
CREATE SCHEMA regress_amount AUTHORIZATION regress_amount_user;
GRANT USAGE ON SCHEMA crm TO regress_amount_user;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_amount_user;
SET search_path = regress_amount, crm;
SET ROLE regress_amount_user;

SELECT v AS input, amount(v), amount(amount(v)::text)::text = amount(v)::text AS settled
FROM (VALUES
    ('1234.50 CNY'), ('CNY 1234.50'), ('1234.50cny'), ('usd-5'), ('  +7  EUR '), ('−3.10 EUR'), ('.5 USD'), ('1. USD'),
    ('１２３４．５０　ＣＮＹ'), ('0 JPY'), ('-0.00 JPY'), ('00012.300 KWD'), ('123456789012345678901234567890.123456789 XAU')
) AS t (v);

-- fails
SELECT ''::amount;
SELECT '1234.50'::amount;
SELECT 'CNY'::amount;
SELECT '1234.50 RMBY'::amount;
SELECT '1234.50 元'::amount;
SELECT '¥1234.50'::amount;
SELECT '$5 USD'::amount;
SELECT '1,234.50 CNY'::amount;
SELECT '1.234,50 EUR'::amount;
SELECT '1''234.50 CHF'::amount;
SELECT '1.2.3 CNY'::amount;
SELECT '1e3 CNY'::amount;
SELECT '1 2 CNY'::amount;
SELECT '- CNY'::amount;
SELECT '--1 CNY'::amount;
SELECT '1 CNY USD'::amount;
SELECT 'CNY 1 CNY'::amount;
SELECT 'NaN CNY'::amount;
SELECT 'Infinity CNY'::amount;
SELECT '-inf CNY'::amount;
SELECT amount(repeat('9', 1000000) || ' CNY');
SELECT amount(repeat('x', 1000000));
SELECT length(amount(repeat('9', 100000) || '.' || repeat('9', 10000) || ' CNY')::text);

-- from its parts, and back
SELECT amount(1234.50, 'CNY'), amount(-1, 'usd'), amount_value('1234.50 CNY'), amount_currency('1234.50 CNY');
SELECT amount(1, 'RMBY');
SELECT amount(1, repeat('x', 1000000));
SELECT amount('NaN', 'CNY');
SELECT amount('-Infinity', 'CNY');
SELECT amount(NULL, 'CNY'), amount(1, NULL), amount(NULL), amount_value(NULL);

-- arithmetic in one currency
SELECT '1.10 CNY'::amount + '2.205 CNY' AS sum, '1 CNY'::amount - '2 CNY' AS difference, - '1 CNY'::amount AS negated,
       '1.50 CNY'::amount * 3 AS times, 0.13 * '100 CNY'::amount AS tax, '10 CNY'::amount / 4 AS share,
       '10 CNY'::amount / '4 CNY' AS ratio;
SELECT amount_abs('-1.50 CNY'), amount_round('2.345 CNY', 2), amount_round('-2.345 CNY', 2), amount_round('2345 CNY', -2);
-- fails: mixing
SELECT '1 CNY'::amount + '1 USD';
SELECT '1 CNY'::amount - '1 USD';
SELECT '1 CNY'::amount / '1 USD'::amount;
-- fails: what is no finite amount
SELECT '1 CNY'::amount / 0;
SELECT '1 CNY'::amount / '0 CNY'::amount;
SELECT '1 CNY'::amount * 'NaN'::numeric;
SELECT 'Infinity'::numeric * '1 CNY'::amount;
SELECT '1 CNY'::amount / 'Infinity'::numeric;
SELECT amount(repeat('9', 131072) || ' CNY') * 10;

-- order: by currency, then by value; equal values may be written with more digits
SELECT a, b, a < b AS lt, a <= b AS le, a = b AS eq, a <> b AS ne, a >= b AS ge, a > b AS gt,
       amount_cmp(a, b) AS cmp, amount_hash(a) = amount_hash(b) AS same_hash, amount_hash(a, 42) = amount_hash(b, 42) AS same_seeded_hash
FROM (VALUES
    ('1 CNY'::amount, '1.00 CNY'::amount), ('1 CNY', '2 CNY'), ('-1 CNY', '-2 CNY'), ('9 CNY', '1 USD'), ('1 CNY', '1 USD')
) AS t (a, b);
-- the plain hash is the low half of the hash with seed 0, as hash indexes and partitions need
SELECT bool_and(amount_hash(a)::bit(32) = substr(amount_hash(a, 0)::bit(64)::text, 33)::bit(32)) AS agree
FROM (VALUES ('0 CNY'::amount), ('1 CNY'), ('-1.50 CNY'), ('123456789.00 USD')) AS t (a);

CREATE TABLE price (id int, price amount);
INSERT INTO price VALUES (1, '10 CNY'), (2, '10.00 CNY'), (3, '9 USD'), (4, '-1 CNY'), (5, NULL);
CREATE INDEX ON price (price);
CREATE INDEX ON price USING hash (price);
SELECT id FROM price ORDER BY price, id;
SELECT price, count(*) FROM price GROUP BY price ORDER BY price;
SET enable_seqscan = off;
SELECT id FROM price WHERE price = '10.0 CNY' ORDER BY id;
SELECT id FROM price WHERE price >= '0 CNY' AND price < '0 CNZ' ORDER BY price, id;
RESET enable_seqscan;
SELECT amvalidate(oid) FROM pg_opclass WHERE opcintype = 'crm.amount'::regtype ORDER BY opcmethod;

-- aggregates stay in one currency
SELECT sum(price), min(price), max(price) FROM price WHERE amount_currency(price) = 'CNY';
SELECT amount_currency(price) AS currency, sum(price), sum(price) / count(*) AS average FROM price WHERE price IS NOT NULL GROUP BY 1 ORDER BY 1;
SELECT sum(price), min(price), max(price) FROM price WHERE false;
SELECT sum(price) FROM price;  -- fails
SELECT min(price) FROM price;  -- fails
SELECT max(price) FROM price;  -- fails
-- and in parallel
CREATE TABLE many AS SELECT amount(g, 'CNY') AS price FROM generate_series(1, 20000) AS g;
ALTER TABLE many SET (parallel_workers = 2);
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT sum(price), max(price) FROM many;
SELECT sum(price), max(price) FROM many;

SELECT amount_send('1.50 CNY');

RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA regress_amount CASCADE;
DROP OWNED BY regress_amount_user;
DROP ROLE regress_amount_user;
