-- Temporary tables: searched, compared and held to rules as others are; no kind of a workspace.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_match_temporary_owner;
GRANT CREATE ON DATABASE contrib_regression TO regress_match_temporary_owner;
SELECT crm.grant_toolkit('regress_match_temporary_owner');
SET ROLE regress_match_temporary_owner;
SELECT crm.create_workspace('regress_match_temporary');
RESET client_min_messages;

CREATE TEMP TABLE supplier (id bigint PRIMARY KEY, firm text, telephone text);
CREATE INDEX supplier_match ON supplier USING crm_match (crm.match_keys('company,phone', firm, telephone));
INSERT INTO supplier VALUES (1, 'Hermanos García S.A.', '+34 91 123 45 67'), (2, 'Hermanos Garcia', NULL), (3, 'Swida Pelikan GmbH', NULL);
SELECT id FROM crm.find_matches('supplier', '{"firm": "hermanos garcia"}') ORDER BY id;
SELECT score > 0.5 AS same FROM crm.compare_records('supplier', '{"firm": "Hermanos Garcia", "telephone": "911234567"}', '{"firm": "Hermanos García SA", "telephone": "+34 911234567"}');
SELECT threshold IS NOT NULL AS proposed, f1 FROM crm.match_eval('supplier', '{1,1}', '{2,3}', '{t,f}') WHERE proposed;
-- statistics and models go into temporary tables, too
SELECT crm.analyze_matching('supplier');
SELECT relation, rows FROM pg_temp.match_statistics;
SELECT crm.add_match_model('supplier');
SELECT count(*) > 0 AS weights FROM pg_temp.match_model WHERE relation = 'supplier';

-- a table that goes, or is emptied, when the transaction commits: what was put off for its index goes with it
BEGIN;
CREATE TEMP TABLE passing (id bigint PRIMARY KEY, firm text) ON COMMIT DROP;
CREATE INDEX ON passing USING crm_match (crm.match_keys('company', firm));
INSERT INTO passing VALUES (1, 'Hermanos Garcia'), (2, 'Swida Pelikan');
SELECT id FROM crm.find_matches('passing', '{"firm": "Hermanos García"}');
INSERT INTO passing VALUES (3, 'Hermanos Garcia SA');
COMMIT;
CREATE TEMP TABLE emptied (id bigint PRIMARY KEY, firm text) ON COMMIT DELETE ROWS;
CREATE INDEX ON emptied USING crm_match (crm.match_keys('company', firm));
BEGIN;
INSERT INTO emptied VALUES (1, 'Hermanos Garcia');
SELECT id FROM crm.find_matches('emptied', '{"firm": "Hermanos García"}');
COMMIT;
SELECT id FROM crm.find_matches('emptied', '{"firm": "Hermanos García"}');
BEGIN;
INSERT INTO emptied VALUES (2, 'Hermanos Garcia');
SELECT id FROM crm.find_matches('emptied', '{"firm": "Hermanos García"}');
COMMIT;

-- they are no kinds of a workspace
SELECT * FROM regress_match_temporary.find_duplicates('supplier', '{"firm": "hermanos garcia"}');
SELECT regress_match_temporary.scan_duplicates('supplier');
INSERT INTO regress_match_temporary.duplicate_rule (kind, name, action) VALUES ('supplier', 'no twins', 'block');
-- and one of the same name does not stand before the kind's table
CREATE TEMP TABLE account (id bigint PRIMARY KEY, name text);
CREATE INDEX ON account USING crm_match (crm.match_keys('company', name));
INSERT INTO account VALUES (1, 'Zenith Works'), (2, 'Zenith Works');
SELECT count(*) FROM regress_match_temporary.find_duplicates('account', '{"name": "Zenith Works"}');
SELECT regress_match_temporary.scan_duplicates('account');
DROP TABLE account;

-- rules hold them if asked to
\set VERBOSITY sqlstate
SELECT crm.guard_duplicates('supplier');
\set VERBOSITY default
SELECT crm.guard_duplicates('supplier', workspace => 'regress_match_temporary');
INSERT INTO regress_match_temporary.duplicate_rule (kind, name, action, threshold) VALUES ('supplier', 'no twins', 'block', 0.3);
INSERT INTO supplier VALUES (4, 'Hermanos García', '+34 91 123 45 67');
INSERT INTO supplier VALUES (5, 'Zenith Works', NULL);
SELECT id FROM supplier ORDER BY id;
-- nor is there a temporary workspace
SELECT crm.create_workspace('pg_temp');

RESET ROLE;
SET client_min_messages = warning;
DROP TABLE supplier, emptied;
DROP SCHEMA regress_match_temporary CASCADE;
SELECT crm.revoke_toolkit('regress_match_temporary_owner');
DROP OWNED BY regress_match_temporary_owner;
DROP ROLE regress_match_temporary_owner;
