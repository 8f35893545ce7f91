-- Merging and undoing what was not foreseen: odd names, kinds that are none, tables that change in between.
-- A clear error or a defined result; nothing is lost.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_merge_fault_owner;
GRANT CREATE ON DATABASE contrib_regression TO regress_merge_fault_owner;
SELECT crm.grant_toolkit('regress_merge_fault_owner');
SET ROLE regress_merge_fault_owner;
SELECT crm.create_workspace('regress_merge_fault');
CREATE SCHEMA regress_merge_fault_user;

-- names that are emoji, one letter, a million letters, written in both directions, made of marks alone
INSERT INTO regress_merge_fault.merge_rule (kind, field, strategy) VALUES ('account', 'name', 'concat');
INSERT INTO regress_merge_fault.account (id, name) VALUES (1, '😀'), (2, 'x'), (3, repeat('上海伟测 ', 200000)), (4, U&'\202E\05D0\05D1\05D2 abc \202C\0645\062D\0645\062F'), (5, U&'\0301'), (6, E'a\tb\nc'), (7, '"\{};--''');
INSERT INTO regress_merge_fault.contact (id, account_id, full_name) SELECT i, i, name FROM regress_merge_fault.account, LATERAL (SELECT id AS i) AS x;
SELECT md5(string_agg(a::text, ',' ORDER BY id)) AS before FROM regress_merge_fault.account AS a \gset
SELECT regress_merge_fault.merge_records('account', 1, '{2,3,4,5,6,7}') AS merge_id \gset
SELECT length(name), (SELECT count(*) FROM regress_merge_fault.contact WHERE account_id = 1) AS contacts FROM regress_merge_fault.account;
SELECT count(*) FROM regress_merge_fault.merge_preview('account', 1, '{99}');
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
SELECT md5(string_agg(a::text, ',' ORDER BY id)) = :'before' AS exact, (SELECT count(*) FROM regress_merge_fault.contact WHERE account_id = id) FROM regress_merge_fault.account AS a;
-- the same in a scan, and as a cluster
SELECT regress_merge_fault.scan_duplicates('account') AS pairs;

-- fails: kinds that are none: a view, a sequence, a partition, something of the system, the log itself
CREATE MATERIALIZED VIEW regress_merge_fault_user.copy AS SELECT id, name FROM regress_merge_fault.account;
SELECT regress_merge_fault.merge_records('report_account', 1, '{2}');
SELECT regress_merge_fault.merge_records('account_id_seq', 1, '{2}');
SELECT regress_merge_fault.merge_records('regress_merge_fault_user.copy', 1, '{2}');
SELECT regress_merge_fault.merge_records('pg_catalog.pg_class', 1259, '{1249}');
SELECT regress_merge_fault.merge_records('merge_log', 1, '{1}');
SELECT regress_merge_fault.merge_records('', 1, '{2}');
SELECT regress_merge_fault.merge_records(repeat('x', 100), 1, '{2}');
SELECT regress_merge_fault.merge_records('a.b.c.d', 1, '{2}');
SELECT regress_merge_fault.merge_records('regress_merge_fault_user.', 1, '{2}');
-- fails: across kinds: an id is that of a record of the kind named
INSERT INTO regress_merge_fault.lead (id, company) VALUES (500, 'Lead');
SELECT regress_merge_fault.merge_records('account', 1, '{500}');
SELECT regress_merge_fault.merge_records('lead', 500, '{1}');
INSERT INTO regress_merge_fault.merge_request (kind, survivor_id, loser_ids) VALUES ('account', '1', '{500}');
INSERT INTO regress_merge_fault.duplicate_pair (id, kind, left_id, right_id, score) VALUES (1000, 'account', 1, 500, 1);
SELECT regress_merge_fault.decide_pair(1000, 'merge');
DELETE FROM regress_merge_fault.duplicate_pair;
-- fails: itself, one that was merged, one of several is not there; nothing is left of the others
SELECT regress_merge_fault.merge_records('account', 1, '{2,1}');
SELECT regress_merge_fault.merge_records('account', 1, '{2}') AS merge_id \gset
SELECT regress_merge_fault.merge_records('account', 3, '{4,2,5}');
SELECT regress_merge_fault.merge_records('account', 2, '{4}');
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
SELECT count(*), (SELECT count(*) FROM regress_merge_fault.merged_record) AS merged FROM regress_merge_fault.account;

-- dropped columns before, as holes in every table
CREATE TABLE regress_merge_fault_user.part (gone text, no integer PRIMARY KEY, gone2 text, name text, size integer, gone3 text);
CREATE TABLE regress_merge_fault_user.stock (gone integer, place text, part integer REFERENCES regress_merge_fault_user.part, gone2 text, pieces integer, UNIQUE (part, place));
ALTER TABLE regress_merge_fault_user.part DROP COLUMN gone, DROP COLUMN gone2, DROP COLUMN gone3;
ALTER TABLE regress_merge_fault_user.stock DROP COLUMN gone, DROP COLUMN gone2;
INSERT INTO regress_merge_fault.merge_rule (kind, field, strategy) VALUES ('regress_merge_fault_user.stock', 'pieces', 'sum');
INSERT INTO regress_merge_fault_user.part VALUES (1, NULL, NULL), (2, 'bolt', 5), (3, 'nut', 6);
INSERT INTO regress_merge_fault_user.stock VALUES ('A', 1, 1), ('A', 2, 2), ('B', 2, 3), ('B', 3, 4);
SELECT regress_merge_fault.merge_records('regress_merge_fault_user.part', '1', '{2,3}') AS merge_id \gset
SELECT * FROM regress_merge_fault_user.part;
SELECT * FROM regress_merge_fault_user.stock ORDER BY place;
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
SELECT * FROM regress_merge_fault_user.part ORDER BY no;
SELECT * FROM regress_merge_fault_user.stock ORDER BY place, part;
-- ... and columns that go, come, or change their type before the merge is undone: what is left of a row comes back
SELECT regress_merge_fault.merge_records('regress_merge_fault_user.part', '1', '{2,3}') AS merge_id \gset
ALTER TABLE regress_merge_fault_user.part DROP COLUMN size, ADD COLUMN note text NOT NULL DEFAULT 'new', ALTER COLUMN no TYPE bigint;
ALTER TABLE regress_merge_fault_user.stock ALTER COLUMN part TYPE bigint, ALTER COLUMN pieces TYPE numeric(5,1);
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
SELECT * FROM regress_merge_fault_user.part ORDER BY no;
SELECT * FROM regress_merge_fault_user.stock ORDER BY place, part;
-- fails: a column that is new and has no value for the rows that come back, a column they were found by, the table, its key
SELECT regress_merge_fault.merge_records('regress_merge_fault_user.part', '1', '{2,3}') AS merge_id \gset
BEGIN;
ALTER TABLE regress_merge_fault_user.part ADD COLUMN must text NOT NULL DEFAULT 'x';
ALTER TABLE regress_merge_fault_user.part ALTER COLUMN must DROP DEFAULT;
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
ROLLBACK;
BEGIN;
DROP TABLE regress_merge_fault_user.stock;
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
ROLLBACK;
BEGIN;
ALTER TABLE regress_merge_fault_user.stock RENAME TO store;
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
ROLLBACK;
BEGIN;
ALTER TABLE regress_merge_fault_user.stock DROP COLUMN part;
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
ROLLBACK;
BEGIN;
ALTER TABLE regress_merge_fault_user.part DROP CONSTRAINT part_pkey CASCADE;
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
ROLLBACK;
BEGIN;
ALTER TABLE regress_merge_fault_user.part ALTER COLUMN name TYPE date USING NULL;
\set SHOW_CONTEXT errors
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
\set SHOW_CONTEXT never
ROLLBACK;
BEGIN;
INSERT INTO regress_merge_fault_user.part (no) VALUES (2);
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
ROLLBACK;
BEGIN;
DELETE FROM regress_merge_fault_user.stock;
DELETE FROM regress_merge_fault_user.part;
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
ROLLBACK;
BEGIN;
TRUNCATE regress_merge_fault.merge_change;
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
ROLLBACK;
-- after all of which it can still be undone
SELECT * FROM regress_merge_fault.unmerge(:merge_id);
SELECT * FROM regress_merge_fault_user.part ORDER BY no;

RESET ROLE;
DROP SCHEMA regress_merge_fault, regress_merge_fault_user CASCADE;
DROP OWNED BY regress_merge_fault_owner;
DROP ROLE regress_merge_fault_owner;
