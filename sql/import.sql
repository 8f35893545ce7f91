-- An import stores each line whole or says what is wrong with it, and can be run again.
\set SHOW_CONTEXT never
\pset format unaligned
\pset null '~'
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE ROLE regress_import_app;
SELECT crm.create_workspace('regress_import');
SELECT crm.grant_access('regress_import', 'regress_import_app', 'gateway');
SET search_path = regress_import;
INSERT INTO member (id, name, email) VALUES (1, 'Ann', 'ann@example.com'), (2, 'Bob', 'bob@example.com');
INSERT INTO duplicate_rule (kind, name, action, events) VALUES ('account', 'no twins', 'block', '{import}');
ALTER TABLE account ADD COLUMN revenue numeric(12,2), ADD COLUMN code varchar(3), ADD COLUMN score integer GENERATED ALWAYS AS (length(name)) STORED;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.name = 'Refused' THEN RAISE 'not this one' USING ERRCODE = 'RZ001'; END IF; RETURN new; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON account FOR EACH ROW EXECUTE FUNCTION refuse();
GRANT CREATE ON SCHEMA regress_import TO regress_import_app;

SET ROLE regress_import_app;
SET crm.member = 'regress_import/1';
CREATE TABLE dirty (line bigint PRIMARY KEY, no text, firm text, tel text, since text, rep text, worth text, short text);
INSERT INTO dirty VALUES
    (1, 'K1', '  Acme Trading GmbH ', '+49 30 901820', '24.12.2019', 'ann@example.com', '1000.50', 'abc'),
    (2, 'K2', '   ', '', '', '', '', ''),
    (3, 'K3', 'Bad date', '', '31.02.2021', '', '', ''),
    (4, 'K4', 'Gone rep', '', '', 'left@example.com', '', ''),
    (5, 'K5', 'ACME Trading', '+49 30 901820', '', '', '', ''),
    (6, 'K6', 'Bad number', '', '', '', '12,5', ''),
    (7, 'K7', 'Bad both', '', 'soon', '', 'much', ''),
    (8, 'K8', 'Too long', '', '', '', '', 'abcd'),
    (9, '', 'No number', '', '', '', '', ''),
    (10, 'K1', 'Same number', '', '', '', '', ''),
    (11, 'K11', 'Refused', '', '', '', '', ''),
    (12, 'K12', 'Of another', '', '', 'bob@example.com', '', ''),
    (13, 'K13', 'Plain', NULL, NULL, NULL, NULL, NULL);
CREATE VIEW dirty_account AS
SELECT d.line, d.no AS external_id, d.firm AS name, d.tel AS phone, to_date(nullif(d.since, ''), 'DD.MM.YYYY')::timestamptz AS created_at,
       CASE WHEN d.rep <> '' THEN coalesce((SELECT m.id FROM member AS m WHERE m.email = d.rep), 0) END AS owner_id, d.worth AS revenue, d.short AS code
FROM dirty AS d;
-- nothing is stored
SELECT count(*), count(*) FILTER (WHERE outcome = 'stored') AS stored FROM import_records('account', 'dirty_account', 'old crm', dry_run => true);
SELECT count(*) FROM account;
SELECT line, id IS NOT NULL AS id, outcome, field, code, message, CASE WHEN code <> 'RMD01' THEN detail END AS detail FROM import_records('account', 'dirty_account', 'old crm');
SELECT name, phone, created_at::date = '2019-12-24' AS old, owner_id, revenue, code FROM account ORDER BY id;
SELECT x.system, x.kind, x.external_id, a.name FROM external_reference AS x JOIN account AS a ON a.id = x.record_id ORDER BY x.id;
-- again, with two lines mended and one record changed and one merged since
UPDATE dirty SET firm = 'Mended' WHERE line = 2;
UPDATE dirty SET since = '28.02.2021' WHERE line = 3;
UPDATE account SET name = 'Acme Worldwide' WHERE phone = '+4930901820';
SELECT merge_records('account', (SELECT id FROM account WHERE name = 'Acme Worldwide'), ARRAY[(SELECT id FROM account WHERE name = 'Plain')]) > 0 AS merged;
CREATE TEMPORARY TABLE result AS SELECT * FROM import_records('account', 'dirty_account', 'old crm');
SELECT r.line, r.outcome, a.name FROM result AS r JOIN account AS a ON a.id = r.id ORDER BY r.line;
SELECT count(*) FROM import_records('account', 'dirty_account', 'old crm') WHERE outcome = 'stored';
SELECT count(*) FROM account;
-- stages are held to, and without a system nothing is remembered
CREATE TEMPORARY TABLE deal (line int, name text, stage text, amount text, close_date text);
INSERT INTO deal VALUES (1, 'one', '', '1e3', '2030-01-31'), (2, 'two', 'nowhere', '', ''), (3, 'three', 'won', '', ''), (NULL, 'no line', '', '', ''), (4, 'four', 'qualification', '', '31.1.2030');
SELECT line, outcome, field, code, message FROM import_records('opportunity', 'deal');
SELECT name, stage, amount, close_date, owner_id FROM opportunity ORDER BY id;
SELECT count(*) FROM external_reference WHERE kind = 'opportunity';
-- the import is one transaction, and sets nothing for afterwards
SHOW crm.import;

\set VERBOSITY terse
-- fails: a column that is none, generated, or missing; a line twice; no such kind; nulls
CREATE TEMPORARY TABLE wrong (line int, nmae text);
SELECT * FROM import_records('account', 'wrong');
CREATE TEMPORARY TABLE generated (line int, name text, score int);
SELECT * FROM import_records('account', 'generated');
CREATE TEMPORARY TABLE identity (line int, id int, name text);
SELECT * FROM import_records('account', 'identity');
CREATE TEMPORARY TABLE unnumbered (name text);
SELECT * FROM import_records('account', 'unnumbered');
SELECT * FROM import_records('account', 'deal', 'old crm');
INSERT INTO deal VALUES (1, 'one', '', '', '');
SELECT * FROM import_records('opportunity', 'deal');
SELECT * FROM import_records('nothing', 'deal');
SELECT * FROM import_records('account', NULL);
-- fails: what is no fault of a line ends the import
RESET ROLE;
CREATE FUNCTION exhaust() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no room' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER exhaust BEFORE INSERT ON lead FOR EACH ROW EXECUTE FUNCTION exhaust();
SET ROLE regress_import_app;
CREATE TEMPORARY TABLE person AS SELECT 1 AS line, 'Eve' AS full_name;
SELECT * FROM import_records('lead', 'person');
-- fails: not for those who may not write, line by line
RESET ROLE;
REVOKE INSERT ON contact FROM regress_import_app;
SET ROLE regress_import_app;
SELECT * FROM import_records('contact', 'person');
\set VERBOSITY default

RESET ROLE;
RESET crm.member;
RESET search_path;
DROP SCHEMA regress_import CASCADE;
DROP OWNED BY regress_import_app;
DROP ROLE regress_import_app;
