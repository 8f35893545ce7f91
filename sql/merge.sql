-- A merge re-points every reference to the losers, and unmerge() is its exact inverse.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_merge_owner;
CREATE ROLE regress_merge_app LOGIN;
GRANT CREATE ON DATABASE contrib_regression TO regress_merge_owner;
SELECT crm.grant_toolkit('regress_merge_owner');
SET ROLE regress_merge_owner;
SELECT crm.create_workspace('regress_merge');
SELECT crm.grant_access('regress_merge', 'regress_merge_app', 'app');

-- the state of a schema: every row of every table but the logs
CREATE SCHEMA regress_merge_user;
CREATE FUNCTION regress_merge_user.state() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t record;
    h text;
    result text := '';
BEGIN
    FOR t IN
        SELECT c.oid::regclass AS rel
        FROM pg_class AS c
        WHERE c.relnamespace IN ('regress_merge'::regnamespace, 'regress_merge_user'::regnamespace)
          AND c.relkind = 'r'
          AND c.relname NOT IN ('audit_log', 'audit_seal', 'merge_log', 'merge_change', 'duplicate_pair', 'event')
        ORDER BY c.oid::regclass::text
    LOOP
        EXECUTE format('SELECT md5(coalesce(string_agg(x::text, E''\n'' ORDER BY x::text), '''')) FROM %s AS x', t.rel) INTO h;
        result := result || t.rel::text || ' ' || h || E'\n';
    END LOOP;
    RETURN result;
END
$$;

INSERT INTO regress_merge.member (id, name) VALUES (1, 'Ann'), (2, 'Ben');
INSERT INTO regress_merge.account (id, name, parent_id, phone, street, city, owner_id, created_at, updated_at) VALUES
    (1, 'Acme', NULL, NULL, NULL, NULL, 1, '2024-01-01', '2024-01-01'),
    (2, 'Acme Ltd', NULL, '+493012345678', 'Main St 1', 'Berlin', 2, '2024-01-02', '2024-01-02'),
    (3, 'ACME GmbH', 2, '+493087654321', NULL, 'Bonn', NULL, '2024-01-03', '2024-01-03'),
    (4, 'Acme Bonn', 3, NULL, NULL, NULL, NULL, '2024-01-04', '2024-01-04');
INSERT INTO regress_merge.contact (id, account_id, full_name) VALUES (1, 2, 'Eve'), (2, 3, 'Fay'), (3, 1, 'Gus');
INSERT INTO regress_merge.opportunity (id, account_id, name, amount, currency) VALUES (1, 2, 'big', 1000, 'EUR'), (2, 3, 'small', 10.50, 'EUR'), (3, 3, 'abroad', 7, 'USD'), (4, 2, 'somewhere', 1, NULL);
INSERT INTO regress_merge.activity (id, subject, account_id, contact_id) VALUES (1, 'call', 3, 2);
INSERT INTO regress_merge.lead (id, company, converted_account_id) VALUES (1, 'Acme', 2);
INSERT INTO regress_merge.external_reference (kind, record_id, system, external_id) VALUES ('account', 2, 'sap', 'A-2'), ('contact', 2, 'sap', 'C-2');
INSERT INTO regress_merge.share (kind, record_id, member_id, access) VALUES ('account', 1, 2, 'read'), ('account', 2, 2, 'edit'), ('account', 3, 2, 'read'), ('account', 3, 1, 'read');

SELECT regress_merge_user.state() AS before \gset

-- what it would do; nothing changes
SELECT * FROM regress_merge.merge_preview('account', 1, '{2,3}');
SELECT regress_merge.merge_records('account', 1, '{2,3}', dry_run => true);
SELECT regress_merge_user.state() = :'before' AS unchanged;

SELECT regress_merge.merge_records('account', 1, '{2,3}') AS merge_id \gset
SELECT id, name, parent_id, phone, street, city, owner_id FROM regress_merge.account ORDER BY id;
SELECT id, account_id FROM regress_merge.contact ORDER BY id;
SELECT id, account_id FROM regress_merge.opportunity ORDER BY id;
SELECT account_id, contact_id FROM regress_merge.activity;
SELECT converted_account_id FROM regress_merge.lead;
SELECT kind, record_id, external_id FROM regress_merge.external_reference ORDER BY id;
SELECT record_id, member_id, access FROM regress_merge.share ORDER BY member_id;
SELECT kind, survivor_id, loser_ids, fields FROM regress_merge.merge_log WHERE id = :merge_id;
SELECT regress_merge.resolve('account', 3), regress_merge.resolve('account', 1), regress_merge.resolve('contact', 3);
-- fails: of no kind, any id would stand for itself
SELECT regress_merge.resolve('acount', 3);
SELECT * FROM regress_merge.merged_ids('acount', 1);
SELECT record_id, survivor_id, record ->> 'name' AS name FROM regress_merge.merged_record WHERE kind = 'account' ORDER BY 1;

-- and back, to the last time stamp
SELECT * FROM regress_merge.unmerge(:merge_id);
SELECT regress_merge_user.state() = :'before' AS exact;
SELECT undone_at IS NOT NULL AS undone, kept FROM regress_merge.merge_log WHERE id = :merge_id;

-- fails: what cannot be merged or undone
SELECT regress_merge.merge_records('account', 1, '{1}');
SELECT regress_merge.merge_records('account', 1, '{2,2}');
SELECT regress_merge.merge_records('account', 1, '{2,NULL}');
SELECT regress_merge.merge_records('account', 1, '{}');
SELECT regress_merge.merge_records('account', 1, NULL);
SELECT regress_merge.merge_records('account', 1, '{99}');
SELECT regress_merge.merge_records('account', '1', '{x}');
SELECT regress_merge.merge_records('nothing', 1, '{2}');
SELECT regress_merge.merge_records('no.where', 1, '{2}');
SELECT regress_merge.merge_records('crm_meta', 'true', '{false}');
SELECT regress_merge.merge_records('access_kind', 1, '{2}');
SELECT crm.merge_records('regress_merge_user', 'account', '1', '{2}');
SELECT * FROM regress_merge.unmerge(0);
SELECT * FROM regress_merge.unmerge(NULL);
SELECT * FROM regress_merge.unmerge(:merge_id);
SELECT regress_merge_user.state() = :'before' AS unchanged;

-- edits after the merge are kept and reported, everything else goes back
SELECT regress_merge.merge_records('account', 1, '{2,3}') AS merge_id \gset
UPDATE regress_merge.account SET phone = '+493011111111' WHERE id = 1;
UPDATE regress_merge.contact SET account_id = 4 WHERE id = 2;
UPDATE regress_merge.contact SET job_title = 'CEO' WHERE id = 1;
DELETE FROM regress_merge.lead;
INSERT INTO regress_merge.contact (id, account_id, full_name) VALUES (4, 1, 'New');
SELECT table_name, record, field, merged, kept, note FROM regress_merge.unmerge(:merge_id);
SELECT id, name, parent_id, phone, street, city, owner_id FROM regress_merge.account ORDER BY id;
SELECT id, account_id, job_title FROM regress_merge.contact ORDER BY id;

-- chains: an id resolves through all of them, and they are undone in reverse
SELECT regress_merge_user.state() AS before \gset
SELECT regress_merge.merge_records('account', 1, '{2}') AS first \gset
SELECT regress_merge.merge_records('account', 3, '{1}') AS second \gset
SELECT regress_merge.resolve('account', 2);
-- fails: the blocker is named; the loser is gone
SELECT * FROM regress_merge.unmerge(:first);
SELECT regress_merge.merge_records('account', 3, '{2}');
SELECT * FROM regress_merge.unmerge(:second);
SELECT * FROM regress_merge.unmerge(:first);
SELECT regress_merge_user.state() = :'before' AS exact;

-- a tree: the survivor below one of its losers takes that one's place
INSERT INTO regress_merge.account (id, name, parent_id) VALUES (10, 'top', NULL), (11, 'loser', 10), (12, 'middle', 11), (13, 'survivor', 12);
SELECT regress_merge.merge_records('account', 13, '{11}') AS merge_id \gset
SELECT id, parent_id FROM regress_merge.account WHERE id >= 10 ORDER BY id;
SELECT * FROM regress_merge.unmerge(:merge_id);
SELECT id, parent_id FROM regress_merge.account WHERE id >= 10 ORDER BY id;

-- a user's own table, with tables of its own below
RESET ROLE;
SET ROLE regress_merge_owner;
CREATE TABLE regress_merge_user.vendor (
    code text PRIMARY KEY,
    region text NOT NULL,
    tags text[],
    notes json,
    credit numeric,
    label text GENERATED ALWAYS AS (code || '/' || region) STORED,
    UNIQUE (code, region)
);
CREATE TABLE regress_merge_user.item (vendor text NOT NULL, region text NOT NULL, sku text NOT NULL, price numeric,
    PRIMARY KEY (vendor, sku),
    FOREIGN KEY (vendor, region) REFERENCES regress_merge_user.vendor (code, region));
CREATE TABLE regress_merge_user.stock (vendor text, sku text, place text, pieces integer,
    FOREIGN KEY (vendor, sku) REFERENCES regress_merge_user.item (vendor, sku) ON DELETE CASCADE);
CREATE TABLE regress_merge_user.remark (about text, which text, body text);
INSERT INTO regress_merge.merge_link (table_name, kind_column, id_column) VALUES ('regress_merge_user.remark', 'about', 'which');
INSERT INTO regress_merge.merge_rule (kind, field, strategy) VALUES
    ('regress_merge_user.vendor', 'tags', 'union'),
    ('regress_merge_user.vendor', 'credit', 'sum');
INSERT INTO regress_merge_user.vendor (code, region, tags, notes, credit) VALUES
    ('A', 'eu', '{x,y}', NULL, 10), ('B', 'eu', '{y,z}', '{"a":  1}', 5.5), ('C', 'us', NULL, '{"c":1}', NULL);
INSERT INTO regress_merge_user.item VALUES ('A', 'eu', 's1', NULL), ('B', 'eu', 's1', 3), ('B', 'eu', 's2', 4), ('C', 'us', 's2', 5);
INSERT INTO regress_merge_user.stock VALUES ('B', 's1', 'p', 1), ('B', 's1', 'p', 1), ('C', 's2', 'q', 2), ('A', 's1', 'q', 7);
INSERT INTO regress_merge_user.remark VALUES ('regress_merge_user.vendor', 'C', 'late'), ('other', 'C', 'not ours');
SELECT regress_merge_user.state() AS before \gset
SELECT regress_merge.merge_records('regress_merge_user.vendor', 'A', '{B,C}') AS merge_id \gset
SELECT * FROM regress_merge_user.vendor;
SELECT * FROM regress_merge_user.item ORDER BY sku;
SELECT * FROM regress_merge_user.stock ORDER BY sku, place, pieces;
SELECT * FROM regress_merge_user.remark ORDER BY about;
SELECT * FROM regress_merge.unmerge(:merge_id);
SELECT regress_merge_user.state() = :'before' AS exact;

-- rows without a key that are equal, or differ only where the type has no equality,
-- each return to the record they came from, whichever partition they are in and
-- whatever the time zone is by then; one that was edited is reported and left
CREATE TABLE regress_merge_user.sight (code text REFERENCES regress_merge_user.vendor, place point, doc json, lasted interval, seen timestamptz);
INSERT INTO regress_merge_user.sight VALUES
    ('C', '(1,2)', '{"a": 1}', '30 days', '2024-07-01 12:00+00'), ('A', '(3,4)', '{"a": 1}', '30 days', '2024-07-01 12:00+00'),
    ('B', '(1,2)', '{"a":1}', '30 days', '2024-07-01 12:00+00'), ('B', '(1,2)', '{"a": 1}', '1 mon', '2024-07-01 12:00+00'),
    ('A', '(1,2)', NULL, '1 mon', '2024-07-01 12:00+00'), ('B', NULL, '{"a": 1}', '30 days', '2024-07-01 12:00+00');
CREATE TABLE regress_merge_user.parted (code text REFERENCES regress_merge_user.vendor, part integer, doc json) PARTITION BY LIST (part);
CREATE TABLE regress_merge_user.parted_1 PARTITION OF regress_merge_user.parted FOR VALUES IN (1);
CREATE TABLE regress_merge_user.parted_2 PARTITION OF regress_merge_user.parted FOR VALUES IN (2);
INSERT INTO regress_merge_user.parted VALUES ('B', 1, '[]'), ('B', 2, '[]');
SELECT regress_merge_user.state() AS before \gset
SELECT regress_merge.merge_records('regress_merge_user.vendor', 'A', '{B,C}') AS merge_id \gset
SET timezone = 'Asia/Shanghai';
SELECT * FROM regress_merge.unmerge(:merge_id);
RESET timezone;
SELECT regress_merge_user.state() = :'before' AS exact;
SELECT regress_merge.merge_records('regress_merge_user.vendor', 'A', '{B,C}') AS merge_id \gset
UPDATE regress_merge_user.sight SET place = '(9,9)' WHERE extract(month FROM lasted) = 1 AND doc IS NOT NULL;
SELECT table_name, field, record ->> 'lasted' AS lasted, note FROM regress_merge.unmerge(:merge_id);
SELECT code, place, doc, lasted FROM regress_merge_user.sight ORDER BY code, place::text, doc::text, lasted::text;
DROP TABLE regress_merge_user.sight, regress_merge_user.parted;

-- a record with time stamps merged in one time zone and restored in another
CREATE TABLE regress_merge_user.visit (id integer PRIMARY KEY, first timestamptz, scan bytea, updated_at timestamptz);
INSERT INTO regress_merge_user.visit VALUES (1, NULL, NULL, '2024-07-01 12:00+00'), (2, '2024-07-02 12:00+00', '\xff', '2024-07-02 12:00+00');
SELECT regress_merge_user.state() AS before \gset
SELECT regress_merge.merge_records('regress_merge_user.visit', '1', '{2}') AS merge_id \gset
SET timezone = 'Asia/Shanghai';
SET bytea_output = escape;
SELECT * FROM regress_merge.unmerge(:merge_id);
RESET timezone;
RESET bytea_output;
SELECT regress_merge_user.state() = :'before' AS exact;
DROP TABLE regress_merge_user.visit;
DELETE FROM regress_merge.duplicate_pair WHERE kind = 'regress_merge_user.visit';

-- what a scan found and people decided goes along, and comes back
INSERT INTO regress_merge.account (id, name, city) VALUES (20, 'Beta', NULL), (21, 'Beta', 'Rome'), (22, 'Beta', NULL), (23, 'Betamax', NULL), (24, 'Gamma', NULL), (25, 'Gamma', 'Oslo');
INSERT INTO regress_merge.duplicate_pair (kind, left_id, right_id, score, state) VALUES
    ('account', 20, 21, 0.99, 'open'), ('account', 21, 22, 0.98, 'open'), ('account', 20, 23, 0.6, 'open'), ('account', 21, 23, 0.7, 'not_duplicate'),
    ('account', 23, 24, 0.6, 'ignored'), ('account', 24, 25, 0.9, 'open'), ('contact', 20, 21, 0.9, 'open');
INSERT INTO regress_merge.duplicate_cluster (kind, cluster_id, record_id) VALUES
    ('account', 20, 20), ('account', 20, 21), ('account', 20, 22), ('account', 24, 24), ('account', 24, 25);
SELECT md5(string_agg(p::text, ',' ORDER BY id)) AS pairs FROM regress_merge.duplicate_pair AS p \gset
SELECT md5(string_agg(c::text, ',' ORDER BY id)) AS clusters FROM regress_merge.duplicate_cluster AS c \gset
SELECT regress_merge.merge_records('account', 20, '{21}') AS merge_id \gset
SELECT kind, left_id, right_id, state FROM regress_merge.duplicate_pair ORDER BY 1, 2, 3;
SELECT record_id, state FROM regress_merge.duplicate_cluster ORDER BY 1;
SELECT * FROM regress_merge.unmerge(:merge_id);
SELECT left_id, right_id, state FROM regress_merge.duplicate_pair WHERE state = 'not_duplicate' ORDER BY 1, 2;
UPDATE regress_merge.duplicate_pair SET state = 'open', decided_at = NULL WHERE left_id = 20 AND right_id = 21;
SELECT md5(string_agg(p::text, ',' ORDER BY id)) = :'pairs' AS pairs FROM regress_merge.duplicate_pair AS p;
SELECT md5(string_agg(c::text, ',' ORDER BY id)) = :'clusters' AS clusters FROM regress_merge.duplicate_cluster AS c;

-- whole clusters at once; the fullest record survives
SELECT cluster_id, survivor, losers, note FROM regress_merge.merge_clusters('account', 0.95);
SELECT cluster_id, survivor, losers, note FROM regress_merge.merge_clusters('account', 0.9);
SELECT record_id, state FROM regress_merge.duplicate_cluster ORDER BY 1;
-- fails: not a probability
SELECT * FROM regress_merge.merge_clusters('account', 2);

-- permission: who merges must see and be allowed to change every record, and what
-- refers to them follows whether they see it or not
RESET ROLE;
INSERT INTO regress_merge.member (id, name, login_role, manager_id) VALUES (10, 'Boss', NULL, NULL), (11, 'Rep', 'regress_merge_app', 10), (12, 'Peer', NULL, 10);
UPDATE regress_merge.setting SET value = 'none' WHERE name = 'unowned_access';
INSERT INTO regress_merge.account (id, name, owner_id) VALUES (30, 'mine', 11), (31, 'mine too', 11), (32, 'theirs', 12);
INSERT INTO regress_merge.contact (id, account_id, full_name, owner_id) VALUES (30, 31, 'Hidden', 12);
SET SESSION AUTHORIZATION regress_merge_app;
SELECT id FROM regress_merge.account ORDER BY id;
SELECT count(*) FROM regress_merge.contact WHERE id = 30;
-- fails: not theirs to change, not theirs to see
SELECT regress_merge.merge_records('account', 30, '{32}');
SELECT regress_merge.merge_records('account', 32, '{30}');
SELECT * FROM regress_merge.merge_preview('account', 30, '{32}');
SELECT regress_merge.merge_records('member', 10, '{12}');
SELECT * FROM regress_merge.merge_change;
SELECT record FROM regress_merge.merged_record;
SELECT regress_merge.merge_records('account', 30, '{31}') AS merge_id \gset
SELECT id, account_id FROM regress_merge.contact WHERE id = 30;
SELECT survivor_id, loser_ids, merged_by FROM regress_merge.merge_log WHERE id = :merge_id;
RESET SESSION AUTHORIZATION;
SELECT id, account_id FROM regress_merge.contact WHERE id = 30;
UPDATE regress_merge.account SET owner_id = 12 WHERE id = 30;
SET SESSION AUTHORIZATION regress_merge_app;
-- fails: the survivor is theirs no more
SELECT * FROM regress_merge.unmerge(:merge_id);
RESET SESSION AUTHORIZATION;
UPDATE regress_merge.account SET owner_id = 11 WHERE id = 30;
SET SESSION AUTHORIZATION regress_merge_app;
SELECT * FROM regress_merge.unmerge(:merge_id);
RESET SESSION AUTHORIZATION;
SELECT id, account_id FROM regress_merge.contact WHERE id = 30;
SELECT member_id, operation, kind, record_id FROM regress_merge.audit_log WHERE kind IN ('account', 'contact') AND member_id = 11 ORDER BY id;

RESET ROLE;
DROP SCHEMA regress_merge, regress_merge_user CASCADE;
DROP OWNED BY regress_merge_owner, regress_merge_app;
DROP ROLE regress_merge_owner, regress_merge_app;
