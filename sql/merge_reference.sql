-- Whatever refers to a merged record follows it, and comes back: references nobody expects, of tables that
-- belong to others, and of thousands of records at once. What cannot follow stops the merge before anything is lost.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_merge_ref_owner;
CREATE ROLE regress_merge_ref_other;
CREATE ROLE regress_merge_ref_app LOGIN;
GRANT CREATE ON DATABASE contrib_regression TO regress_merge_ref_owner, regress_merge_ref_other;
SELECT crm.grant_toolkit('regress_merge_ref_owner');
SET ROLE regress_merge_ref_owner;
SELECT crm.create_workspace('regress_merge_ref');
SELECT crm.grant_access('regress_merge_ref', 'regress_merge_ref_app', 'app');
INSERT INTO regress_merge_ref.member (id, name, access, login_role) VALUES (1, 'Ann', 'all', 'regress_merge_ref_app');
CREATE SCHEMA regress_merge_ref_user;

-- the state of all tables but the logs; for the superuser, who sees every table
RESET ROLE;
CREATE FUNCTION regress_merge_ref_user.state() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    rel regclass;
    h text;
    result text := '';
BEGIN
    FOR rel IN SELECT c.oid FROM pg_class AS c
               WHERE c.relnamespace::regnamespace::text LIKE 'regress\_merge\_ref%' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
                 AND c.relname NOT IN ('audit_log', 'audit_seal', 'merge_log', 'merge_change', 'duplicate_pair')
               ORDER BY c.oid::regclass::text LOOP
        EXECUTE format('SELECT count(*) || md5(coalesce(string_agg(x::text, E''\n'' ORDER BY x::text), '''')) FROM %s AS x', rel) INTO h;
        result := result || rel::text || ' ' || h || E'\n';
    END LOOP;
    RETURN result;
END
$$;
SET ROLE regress_merge_ref_owner;

-- a tree by a key of two columns, whose survivor hangs below two of its losers
CREATE TABLE regress_merge_ref_user.unit (id integer PRIMARY KEY, region text NOT NULL, parent integer, UNIQUE (id, region),
    FOREIGN KEY (parent, region) REFERENCES regress_merge_ref_user.unit (id, region) ON DELETE CASCADE);
INSERT INTO regress_merge_ref_user.unit VALUES (1, 'eu', NULL), (2, 'eu', 1), (3, 'eu', 2), (4, 'eu', 3), (5, 'eu', 4), (6, 'eu', 2);
RESET ROLE;
SELECT regress_merge_ref_user.state() AS before \gset
SET ROLE regress_merge_ref_owner;
SELECT regress_merge_ref.merge_records('regress_merge_ref_user.unit', '4', '{2,3}') AS merge_id \gset
SELECT * FROM regress_merge_ref_user.unit ORDER BY id;
SELECT fields FROM regress_merge_ref.merge_log WHERE id = :merge_id;
SELECT * FROM regress_merge_ref.unmerge(:merge_id);
RESET ROLE;
SELECT regress_merge_ref_user.state() = :'before' AS exact;
SET ROLE regress_merge_ref_owner;

-- uniqueness that no plain index of the table shows: over a generated column, under a collation of
-- the index's own, within one partition, deferred to the end of the transaction
CREATE TABLE regress_merge_ref_user.thing (id integer PRIMARY KEY, name text);
CREATE COLLATION regress_merge_ref_user.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE regress_merge_ref_user.made (id integer PRIMARY KEY, thing integer REFERENCES regress_merge_ref_user.thing, word text, n integer,
    label text GENERATED ALWAYS AS (thing || '/' || word) STORED UNIQUE);
CREATE TABLE regress_merge_ref_user.cased (id integer PRIMARY KEY, thing integer REFERENCES regress_merge_ref_user.thing, word text COLLATE "C", n integer);
CREATE UNIQUE INDEX ON regress_merge_ref_user.cased (thing, word COLLATE regress_merge_ref_user.any_case);
CREATE TABLE regress_merge_ref_user.parted (thing integer REFERENCES regress_merge_ref_user.thing, year integer, word text, n integer) PARTITION BY LIST (year);
CREATE TABLE regress_merge_ref_user.parted_1 PARTITION OF regress_merge_ref_user.parted FOR VALUES IN (2024);
CREATE TABLE regress_merge_ref_user.parted_2 PARTITION OF regress_merge_ref_user.parted FOR VALUES IN (2025);
CREATE UNIQUE INDEX ON regress_merge_ref_user.parted_2 (thing, word);
CREATE TABLE regress_merge_ref_user.moving (thing integer REFERENCES regress_merge_ref_user.thing, word text, n integer) PARTITION BY HASH (thing);
CREATE TABLE regress_merge_ref_user.moving_0 PARTITION OF regress_merge_ref_user.moving FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE regress_merge_ref_user.moving_1 PARTITION OF regress_merge_ref_user.moving FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE UNIQUE INDEX ON regress_merge_ref_user.moving_0 (word);
CREATE UNIQUE INDEX ON regress_merge_ref_user.moving_1 (word);
CREATE TABLE regress_merge_ref_user.later (id integer PRIMARY KEY, thing integer REFERENCES regress_merge_ref_user.thing DEFERRABLE INITIALLY DEFERRED, word text,
    UNIQUE (thing, word) DEFERRABLE INITIALLY DEFERRED);
INSERT INTO regress_merge_ref_user.thing VALUES (1, NULL), (2, 'two'), (3, 'three');
INSERT INTO regress_merge_ref_user.made (id, thing, word, n) VALUES (1, 1, 'a', NULL), (2, 2, 'a', 2), (3, 3, 'a', 3), (4, 3, 'b', 4);
INSERT INTO regress_merge_ref_user.cased VALUES (1, 1, 'a', NULL), (2, 2, 'A', 2), (3, 3, 'b', 3);
INSERT INTO regress_merge_ref_user.parted VALUES (1, 2024, 'a', 1), (2, 2024, 'a', 2), (1, 2025, 'a', NULL), (2, 2025, 'a', 4), (3, 2025, 'b', 5);
INSERT INTO regress_merge_ref_user.moving SELECT t, 'word', t FROM (SELECT min(i) AS t FROM generate_series(1, 3) AS i GROUP BY satisfies_hash_partition('regress_merge_ref_user.moving'::regclass, 2, 0, i)) AS x;
INSERT INTO regress_merge_ref_user.later VALUES (1, 1, 'a'), (2, 2, 'a'), (3, 3, 'a');
RESET ROLE;
SELECT regress_merge_ref_user.state() AS before \gset
SET ROLE regress_merge_ref_owner;
SELECT regress_merge_ref.merge_records('regress_merge_ref_user.thing', '1', '{2,3}') AS merge_id \gset
SELECT * FROM regress_merge_ref_user.made ORDER BY id;
SELECT * FROM regress_merge_ref_user.cased ORDER BY id;
SELECT * FROM regress_merge_ref_user.parted ORDER BY year, word, n;
SELECT thing, word FROM regress_merge_ref_user.moving;
SELECT * FROM regress_merge_ref_user.later;
SELECT * FROM regress_merge_ref.unmerge(:merge_id);
RESET ROLE;
SELECT regress_merge_ref_user.state() = :'before' AS exact;
SET ROLE regress_merge_ref_owner;

-- keys of domains and enums, a partitioned table of records, MATCH FULL
CREATE DOMAIN regress_merge_ref_user.code AS text CHECK (VALUE ~ '^[A-Z]+$');
CREATE TYPE regress_merge_ref_user.grade AS ENUM ('high', 'low', 'none');
CREATE TABLE regress_merge_ref_user.coded (id regress_merge_ref_user.code PRIMARY KEY, grade regress_merge_ref_user.grade UNIQUE, UNIQUE (id, grade));
CREATE TABLE regress_merge_ref_user.use (code regress_merge_ref_user.code REFERENCES regress_merge_ref_user.coded, grade regress_merge_ref_user.grade, PRIMARY KEY (code, grade));
CREATE TABLE regress_merge_ref_user.full_use (n integer PRIMARY KEY, code regress_merge_ref_user.code, grade regress_merge_ref_user.grade,
    FOREIGN KEY (code, grade) REFERENCES regress_merge_ref_user.coded (id, grade) MATCH FULL);
INSERT INTO regress_merge_ref_user.coded VALUES ('A', 'high'), ('B', 'low'), ('C', NULL);
INSERT INTO regress_merge_ref_user.use VALUES ('A', 'low'), ('B', 'low'), ('B', 'none'), ('C', 'none');
INSERT INTO regress_merge_ref_user.full_use VALUES (1, 'A', 'high'), (2, 'B', 'low'), (3, NULL, NULL);
CREATE TABLE regress_merge_ref_user.spread (id bigint PRIMARY KEY, name text) PARTITION BY HASH (id);
CREATE TABLE regress_merge_ref_user.spread_0 PARTITION OF regress_merge_ref_user.spread FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE regress_merge_ref_user.spread_1 PARTITION OF regress_merge_ref_user.spread FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE regress_merge_ref_user.of_spread (n integer PRIMARY KEY, spread bigint REFERENCES regress_merge_ref_user.spread ON DELETE SET NULL);
INSERT INTO regress_merge_ref_user.spread VALUES (1, NULL), (2, 'two'), (3, 'three'), (4, 'four');
INSERT INTO regress_merge_ref_user.of_spread SELECT i, 1 + i % 4 FROM generate_series(1, 8) AS i;
RESET ROLE;
SELECT regress_merge_ref_user.state() AS before \gset
SET ROLE regress_merge_ref_owner;
SELECT regress_merge_ref.merge_records('regress_merge_ref_user.coded', 'A', '{B,C}') AS first \gset
SELECT regress_merge_ref.merge_records('regress_merge_ref_user.spread', '1', '{2,3,4}') AS second \gset
SELECT * FROM regress_merge_ref_user.coded;
SELECT * FROM regress_merge_ref_user.use ORDER BY grade;
SELECT * FROM regress_merge_ref_user.full_use ORDER BY n;
SELECT * FROM regress_merge_ref_user.spread;
SELECT spread, count(*) FROM regress_merge_ref_user.of_spread GROUP BY 1;
SELECT * FROM regress_merge_ref.unmerge(:second);
SELECT * FROM regress_merge_ref.unmerge(:first);
RESET ROLE;
SELECT regress_merge_ref_user.state() = :'before' AS exact;

-- a table of somebody else, in a schema of theirs, that hides its rows even from its owner: it
-- follows all the same, for a person who may not so much as read it
GRANT USAGE ON SCHEMA regress_merge_ref TO regress_merge_ref_other;
GRANT REFERENCES ON regress_merge_ref.account TO regress_merge_ref_other;
SET ROLE regress_merge_ref_other;
CREATE SCHEMA regress_merge_ref_other;
CREATE TABLE regress_merge_ref_other.invoice (n integer PRIMARY KEY, account_id bigint REFERENCES regress_merge_ref.account, by_whom text, old_ids bigint[]);
ALTER TABLE regress_merge_ref_other.invoice ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE FUNCTION regress_merge_ref_other.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.by_whom := current_user;
    RETURN NEW;
END $$;
CREATE TRIGGER note BEFORE UPDATE ON regress_merge_ref_other.invoice FOR EACH ROW EXECUTE FUNCTION regress_merge_ref_other.note();
RESET ROLE;
INSERT INTO regress_merge_ref.account (id, name, owner_id) VALUES (1, 'one', 1), (2, 'two', 1), (3, 'three', 1);
INSERT INTO regress_merge_ref_other.invoice VALUES (1, 1, NULL, '{1}'), (2, 2, NULL, '{2}');
CREATE TABLE regress_merge_ref_other.credit (account_id bigint UNIQUE REFERENCES regress_merge_ref.account, days integer, note text);
ALTER TABLE regress_merge_ref_other.credit OWNER TO regress_merge_ref_other;
INSERT INTO regress_merge_ref_other.credit VALUES (1, NULL, 'slow'), (2, 30, NULL);
SELECT regress_merge_ref_user.state() AS before \gset
SET SESSION AUTHORIZATION regress_merge_ref_app;
-- fails: not theirs to read
SELECT * FROM regress_merge_ref_other.invoice;
SELECT regress_merge_ref.merge_records('account', 1, '{2}') AS merge_id \gset
RESET SESSION AUTHORIZATION;
-- lists of ids are no references
SELECT * FROM regress_merge_ref_other.invoice ORDER BY n;
-- two rows of theirs are one
SELECT * FROM regress_merge_ref_other.credit;
SET SESSION AUTHORIZATION regress_merge_ref_app;
SELECT * FROM regress_merge_ref.unmerge(:merge_id);
RESET SESSION AUTHORIZATION;
SELECT regress_merge_ref_user.state() = :'before' AS exact;

-- fails: its owner refuses the change
SET ROLE regress_merge_ref_other;
CREATE FUNCTION regress_merge_ref_other.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'invoices are final';
END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON regress_merge_ref_other.invoice FOR EACH ROW EXECUTE FUNCTION regress_merge_ref_other.refuse();
SET SESSION AUTHORIZATION regress_merge_ref_app;
SELECT regress_merge_ref.merge_records('account', 1, '{2}');
SELECT * FROM regress_merge_ref.merge_preview('account', 1, '{2}');
RESET SESSION AUTHORIZATION;
SELECT regress_merge_ref_user.state() = :'before' AS unchanged;
DROP TABLE regress_merge_ref_other.invoice, regress_merge_ref_other.credit;

-- fails: a reference by a generated column cannot be re-pointed, and its rows are not to go with the loser
SET ROLE regress_merge_ref_owner;
CREATE TABLE regress_merge_ref_user.document (n integer PRIMARY KEY, body jsonb,
    account_id bigint GENERATED ALWAYS AS ((body ->> 'account')::bigint) STORED REFERENCES regress_merge_ref.account ON DELETE CASCADE);
INSERT INTO regress_merge_ref_user.document VALUES (1, '{"account": 3}');
SELECT regress_merge_ref.merge_records('account', 1, '{3}');
SELECT count(*) FROM regress_merge_ref_user.document;
UPDATE regress_merge_ref_user.document SET body = '{"account": 1}';
SELECT regress_merge_ref.merge_records('account', 1, '{3}') AS merge_id \gset
SELECT * FROM regress_merge_ref.unmerge(:merge_id);
DROP TABLE regress_merge_ref_user.document;

-- thousands at once: what refers to them meets in one place, is folded by the hundred, and all of it comes back
CREATE TABLE regress_merge_ref_user.many (id integer PRIMARY KEY, name text, parent integer REFERENCES regress_merge_ref_user.many);
CREATE TABLE regress_merge_ref_user.of_many (many integer REFERENCES regress_merge_ref_user.many, sku text, pieces integer, UNIQUE (many, sku));
INSERT INTO regress_merge_ref_user.many SELECT i, 'n' || i, CASE WHEN i BETWEEN 2 AND 500 THEN i - 1 END FROM generate_series(1, 3000) AS i;
INSERT INTO regress_merge_ref_user.of_many SELECT i, 's' || i % 10, 1 FROM generate_series(1, 3000) AS i;
INSERT INTO regress_merge_ref.merge_rule (kind, field, strategy) VALUES ('regress_merge_ref_user.of_many', 'pieces', 'sum'), ('regress_merge_ref_user.many', 'name', 'concat');
RESET ROLE;
SELECT regress_merge_ref_user.state() AS before \gset
SET ROLE regress_merge_ref_owner;
SELECT regress_merge_ref.merge_records('regress_merge_ref_user.many', '500', (SELECT array_agg(i::text) FROM generate_series(1, 2999) AS i WHERE i <> 500)) AS merge_id \gset
SELECT id, length(name), parent FROM regress_merge_ref_user.many;
SELECT many, count(*), sum(pieces) FROM regress_merge_ref_user.of_many GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM regress_merge_ref.merged_record WHERE kind = 'regress_merge_ref_user.many' AND survivor_id = '500';
SELECT * FROM regress_merge_ref.unmerge(:merge_id);
RESET ROLE;
SELECT regress_merge_ref_user.state() = :'before' AS exact;
SET ROLE regress_merge_ref_owner;
-- fails: one of thousands is named twice, or is not there
SELECT regress_merge_ref.merge_records('regress_merge_ref_user.many', '1', (SELECT array_agg((2 + i % 2500)::text) FROM generate_series(1, 2501) AS i));
SELECT regress_merge_ref.merge_records('regress_merge_ref_user.many', '1', (SELECT array_agg(i::text) FROM generate_series(2, 3001) AS i));

RESET ROLE;
DROP SCHEMA regress_merge_ref, regress_merge_ref_user, regress_merge_ref_other CASCADE;
DROP OWNED BY regress_merge_ref_owner, regress_merge_ref_other, regress_merge_ref_app;
DROP ROLE regress_merge_ref_owner, regress_merge_ref_other, regress_merge_ref_app;
