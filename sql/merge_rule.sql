-- Survivorship: which value a field has after a merge, by the rows of merge_rule.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_merge_rule_owner;
GRANT CREATE ON DATABASE contrib_regression TO regress_merge_rule_owner;
SELECT crm.grant_toolkit('regress_merge_rule_owner');
SET ROLE regress_merge_rule_owner;
SELECT crm.create_workspace('regress_merge_rule');
CREATE SCHEMA regress_merge_rule_user;
CREATE TABLE regress_merge_rule_user.thing (
    id integer PRIMARY KEY,
    fill text, keep text, recent text, complete text, first text, long text,
    high numeric, low date, total integer, tags text[], list text, doc jsonb, items jsonb, notes text, trust text, known text,
    street text, city text, postcode text, amount numeric, currency text,
    origin text, at timestamptz, updated_at timestamptz NOT NULL,
    CHECK (high IS NULL OR high < 1000),
    doubled integer GENERATED ALWAYS AS (total * 2) STORED
);
INSERT INTO regress_merge_rule.merge_rule (kind, field, strategy, separator, source_field, sources)
SELECT 'regress_merge_rule_user.thing', r.*
FROM (VALUES ('keep', 'survivor', NULL, NULL, NULL::text[]), ('recent', 'most_recent', NULL, NULL, NULL), ('complete', 'most_complete', NULL, NULL, NULL),
             ('first', 'first_non_null', NULL, NULL, NULL), ('long', 'longest', NULL, NULL, NULL), ('high', 'max', NULL, NULL, NULL),
             ('low', 'min', NULL, NULL, NULL), ('total', 'sum', NULL, NULL, NULL), ('tags', 'union', NULL, NULL, NULL),
             ('list', 'union', ',', NULL, NULL), ('doc', 'union', NULL, NULL, NULL), ('items', 'union', NULL, NULL, NULL),
             ('notes', 'concat', ' | ', NULL, NULL), ('trust', 'trusted', NULL, 'origin', '{erp,web}'), ('known', 'trusted', NULL, NULL, '{sap}')) AS r;
INSERT INTO regress_merge_rule.external_reference (kind, record_id, system, external_id) VALUES ('regress_merge_rule_user.thing', 3, 'sap', 'x');
INSERT INTO regress_merge_rule_user.thing VALUES
    (1, NULL, NULL, 'old', 'few', '', 'ab', 5, '2024-05-01', 1, '{a,b}', 'x, y', '{"a": 1}', '[1,2]', 'one', 'web 1', 'k1', NULL, 'Bonn', NULL, 10, NULL, 'web', NULL, '2024-01-01'),
    (2, 'f2', 'k2', 'new', NULL, NULL, 'abcd', 900, '2024-04-01', 10, '{b,c}', 'y,z', '{"a": 2, "b": 3}', '[2,3]', 'two', 'other', NULL, 'Other St', 'Berlin', '10115', NULL, 'USD', 'list', NULL, '2024-03-01'),
    (3, 'f3', NULL, 'middle', 'many', 'third', 'abc', 50, NULL, NULL, NULL, NULL, NULL, NULL, 'one', 'erp 3', 'k3', 'Main St', 'BONN', '53111', 11, 'EUR', 'erp', '2024-01-01', '2024-02-01');
SELECT regress_merge_rule.merge_records('regress_merge_rule_user.thing', '1', '{2,3}') AS merge_id \gset
\x on
SELECT * FROM regress_merge_rule_user.thing;
\x off
SELECT f.key, f.value ->> 'strategy' AS strategy, f.value -> 'from' AS "from"
FROM regress_merge_rule.merge_log, jsonb_each(fields) AS f ORDER BY f.key COLLATE "C";
SELECT * FROM regress_merge_rule.unmerge(:merge_id);
SELECT id, fill, long, total, doubled FROM regress_merge_rule_user.thing ORDER BY id;

-- * applies to what has no row of its own; the more specific row counts
INSERT INTO regress_merge_rule.merge_rule (kind, field, strategy) VALUES ('regress_merge_rule_user.thing', '*', 'survivor');
SELECT regress_merge_rule.merge_records('regress_merge_rule_user.thing', '1', '{2,3}') AS merge_id \gset
SELECT fill, recent, street, origin FROM regress_merge_rule_user.thing;
SELECT * FROM regress_merge_rule.unmerge(:merge_id);
DELETE FROM regress_merge_rule.merge_rule WHERE kind = 'regress_merge_rule_user.thing';

-- the fullest record is one of the losers: it gives every field that a rule for all says so of, and a block whole
INSERT INTO regress_merge_rule.merge_rule (kind, field, strategy) VALUES ('regress_merge_rule_user.thing', '*', 'most_complete');
INSERT INTO regress_merge_rule.merge_rule (kind, field, strategy, block)
SELECT 'regress_merge_rule_user.thing', f, 'most_complete', 'address' FROM unnest(ARRAY['street', 'city', 'postcode']) AS f;
SELECT regress_merge_rule.merge_records('regress_merge_rule_user.thing', '1', '{2,3}') AS merge_id \gset
SELECT complete, keep, street, city, postcode FROM regress_merge_rule_user.thing;
SELECT f.key, f.value ->> 'strategy' AS strategy, f.value -> 'from' AS "from" FROM regress_merge_rule.merge_log, jsonb_each(fields) AS f
WHERE id = :merge_id AND f.key IN ('complete', 'street', 'city', 'postcode') ORDER BY f.key COLLATE "C";
SELECT * FROM regress_merge_rule.unmerge(:merge_id);
DELETE FROM regress_merge_rule.merge_rule WHERE kind = 'regress_merge_rule_user.thing';

-- a value that a constraint or a trigger refuses is left out and noted
CREATE FUNCTION regress_merge_rule_user.no_berlin() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.city = 'Berlin' THEN
        RAISE EXCEPTION 'not Berlin';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER no_berlin BEFORE UPDATE ON regress_merge_rule_user.thing FOR EACH ROW EXECUTE FUNCTION regress_merge_rule_user.no_berlin();
INSERT INTO regress_merge_rule.merge_rule (kind, field, strategy) VALUES
    ('regress_merge_rule_user.thing', 'high', 'sum'), ('regress_merge_rule_user.thing', 'city', 'most_recent');
UPDATE regress_merge_rule_user.thing SET high = 990 WHERE id = 1;
SELECT regress_merge_rule.merge_records('regress_merge_rule_user.thing', '1', '{2}') AS merge_id \gset
SELECT fill, high, city FROM regress_merge_rule_user.thing WHERE id = 1;
SELECT f.key, f.value ->> 'refused' AS refused
FROM regress_merge_rule.merge_log, jsonb_each(fields) AS f WHERE id = :merge_id AND f.value ? 'refused' ORDER BY 1;
SELECT * FROM regress_merge_rule.unmerge(:merge_id);

-- amounts in two currencies have no sum
INSERT INTO regress_merge_rule.opportunity (id, name, amount, currency) VALUES (1, 'a', 100, 'EUR'), (2, 'b', 50, 'USD'), (3, 'c', 7, 'EUR');
INSERT INTO regress_merge_rule.merge_rule (kind, field, strategy) VALUES ('opportunity', 'amount', 'sum');
SELECT regress_merge_rule.merge_records('opportunity', 1, '{3}') AS merge_id \gset
SELECT amount, currency FROM regress_merge_rule.opportunity WHERE id = 1;
SELECT * FROM regress_merge_rule.unmerge(:merge_id);
SELECT regress_merge_rule.merge_records('opportunity', 1, '{2,3}') AS merge_id \gset
SELECT amount, currency FROM regress_merge_rule.opportunity WHERE id = 1;
SELECT fields -> 'amount' AS amount FROM regress_merge_rule.merge_log WHERE id = :merge_id;
SELECT * FROM regress_merge_rule.unmerge(:merge_id);

-- fails: a strategy the type does not have; a rule that makes no sense
INSERT INTO regress_merge_rule.merge_rule (kind, field, strategy) VALUES ('regress_merge_rule_user.thing', 'doc', 'sum');
SELECT regress_merge_rule.merge_records('regress_merge_rule_user.thing', '1', '{2}');
DELETE FROM regress_merge_rule.merge_rule WHERE field = 'doc';
INSERT INTO regress_merge_rule.merge_rule (kind, field, strategy) VALUES ('account', 'name', 'best');
INSERT INTO regress_merge_rule.merge_rule (kind, field, strategy) VALUES ('account', 'name', 'trusted');

-- fails: triggers that suppress or revert the merge; nothing has changed then
CREATE TABLE regress_merge_rule_user.part (id integer PRIMARY KEY, thing integer REFERENCES regress_merge_rule_user.thing);
INSERT INTO regress_merge_rule_user.part VALUES (1, 2);
CREATE FUNCTION regress_merge_rule_user.suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION regress_merge_rule_user.revert() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
CREATE TRIGGER t BEFORE UPDATE ON regress_merge_rule_user.part FOR EACH ROW EXECUTE FUNCTION regress_merge_rule_user.suppress();
SELECT regress_merge_rule.merge_records('regress_merge_rule_user.thing', '1', '{2}');
CREATE OR REPLACE TRIGGER t BEFORE UPDATE ON regress_merge_rule_user.part FOR EACH ROW EXECUTE FUNCTION regress_merge_rule_user.revert();
SELECT regress_merge_rule.merge_records('regress_merge_rule_user.thing', '1', '{2}');
DROP TRIGGER t ON regress_merge_rule_user.part;
CREATE TRIGGER t BEFORE DELETE ON regress_merge_rule_user.thing FOR EACH ROW EXECUTE FUNCTION regress_merge_rule_user.suppress();
SELECT regress_merge_rule.merge_records('regress_merge_rule_user.thing', '1', '{2}');
DROP TRIGGER t ON regress_merge_rule_user.thing;
SELECT id, thing FROM regress_merge_rule_user.part;

-- what a unique or exclusion constraint would refuse is folded by the strategies declared for its table,
-- any number of rows into one, and comes apart again
CREATE TABLE regress_merge_rule_user.stock (id integer PRIMARY KEY, thing integer REFERENCES regress_merge_rule_user.thing, sku text, pieces integer, checked date, remark text, UNIQUE (thing, sku));
CREATE TABLE regress_merge_rule_user.stay (thing integer REFERENCES regress_merge_rule_user.thing, days int4range, guest text, EXCLUDE USING gist (thing WITH =, days WITH &&));
INSERT INTO regress_merge_rule.merge_rule (kind, field, strategy) VALUES
    ('regress_merge_rule_user.stock', 'pieces', 'sum'), ('regress_merge_rule_user.stock', 'checked', 'max'), ('regress_merge_rule_user.stock', 'remark', 'survivor');
INSERT INTO regress_merge_rule_user.stock VALUES (1, 1, 'bolt', 10, '2024-01-01', NULL), (2, 2, 'bolt', 5, '2024-03-01', 'two'), (3, 3, 'bolt', 2, '2024-02-01', 'three'), (4, 2, 'nut', 1, NULL, 'two'), (5, 3, 'nut', 3, NULL, 'three');
INSERT INTO regress_merge_rule_user.stay VALUES (1, '[1,5)', 'x'), (2, '[4,8)', 'y'), (3, '[7,9)', 'z'), (3, '[20,21)', 'w');
SELECT md5(concat((SELECT string_agg(s::text, ',' ORDER BY id) FROM regress_merge_rule_user.stock AS s), (SELECT string_agg(s::text, ',' ORDER BY thing, days) FROM regress_merge_rule_user.stay AS s))) AS before \gset
SELECT p.table_name, p.rows, p.conflicts FROM regress_merge_rule.merge_preview('regress_merge_rule_user.thing', '1', '{2,3}') AS p WHERE p.rows + p.conflicts > 1;
SELECT regress_merge_rule.merge_records('regress_merge_rule_user.thing', '1', '{2,3}') AS merge_id \gset
SELECT * FROM regress_merge_rule_user.stock ORDER BY id;
SELECT * FROM regress_merge_rule_user.stay ORDER BY days;
SELECT * FROM regress_merge_rule.unmerge(:merge_id);
SELECT md5(concat((SELECT string_agg(s::text, ',' ORDER BY id) FROM regress_merge_rule_user.stock AS s), (SELECT string_agg(s::text, ',' ORDER BY thing, days) FROM regress_merge_rule_user.stay AS s))) = :'before' AS exact;
DROP TABLE regress_merge_rule_user.stock, regress_merge_rule_user.stay;

-- a unique value moves to the survivor, and rows that refer to it by that value follow
CREATE TABLE regress_merge_rule_user.firm (id integer PRIMARY KEY, code text UNIQUE, name text);
CREATE TABLE regress_merge_rule_user.branch (n integer PRIMARY KEY, code text REFERENCES regress_merge_rule_user.firm (code));
CREATE TABLE regress_merge_rule_user.seal (n integer PRIMARY KEY, code text REFERENCES regress_merge_rule_user.firm (code) ON UPDATE CASCADE ON DELETE CASCADE);
INSERT INTO regress_merge_rule_user.firm VALUES (1, NULL, 'no code'), (2, 'B', 'two'), (3, 'C', 'three');
INSERT INTO regress_merge_rule_user.branch VALUES (1, 'B'), (2, 'C'), (3, 'B');
INSERT INTO regress_merge_rule_user.seal VALUES (1, 'B'), (2, 'C');
SELECT regress_merge_rule.merge_records('regress_merge_rule_user.firm', '2', '{3}') AS merge_id \gset
SELECT * FROM regress_merge_rule_user.firm ORDER BY id;
SELECT * FROM regress_merge_rule_user.branch ORDER BY n;
SELECT * FROM regress_merge_rule_user.seal ORDER BY n;
SELECT * FROM regress_merge_rule.unmerge(:merge_id);
SELECT regress_merge_rule.merge_records('regress_merge_rule_user.firm', '1', '{2,3}') AS merge_id \gset
SELECT * FROM regress_merge_rule_user.firm ORDER BY id;
SELECT * FROM regress_merge_rule_user.branch ORDER BY n;
SELECT * FROM regress_merge_rule_user.seal ORDER BY n;
SELECT * FROM regress_merge_rule.unmerge(:merge_id);
SELECT * FROM regress_merge_rule_user.firm ORDER BY id;
SELECT * FROM regress_merge_rule_user.branch ORDER BY n;
SELECT * FROM regress_merge_rule_user.seal ORDER BY n;

RESET ROLE;
DROP SCHEMA regress_merge_rule, regress_merge_rule_user CASCADE;
DROP OWNED BY regress_merge_rule_owner;
DROP ROLE regress_merge_rule_owner;
