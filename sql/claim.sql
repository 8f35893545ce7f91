-- Records without an owner are for whoever claims them first.
\set SHOW_CONTEXT never
\pset format unaligned
SET client_min_messages = warning;
CREATE ROLE regress_claim_app;
SELECT crm.create_workspace('regress_claim');
SELECT crm.grant_access('regress_claim', 'regress_claim_app', 'app');
SET search_path = regress_claim;
INSERT INTO member (id, name) VALUES (1, 'Ann'), (2, 'Bob');
INSERT INTO lead (id, company, owner_id) SELECT i, 'Lead ' || i, CASE WHEN i = 9 THEN 2 END FROM generate_series(1, 9) AS i;
INSERT INTO account (id, name) VALUES (1, 'Acme');

SET crm.member = 'regress_claim/1';
SET ROLE regress_claim_app;
SELECT * FROM claim('lead', 1);
SELECT id, owner_id FROM lead WHERE id = 1;
-- each reason not to
SELECT * FROM claim('lead', 1);
SELECT * FROM claim('lead', 100);
SELECT * FROM claim('lead', NULL);
RESET ROLE;
SET crm.member = 'regress_claim/2';
SET ROLE regress_claim_app;
SELECT * FROM claim('lead', 1);
SELECT * FROM claim('account', 1);
-- the oldest first, as many as there are
SELECT * FROM claim_next('lead');
SELECT count(*), min(c), max(c) FROM claim_next('lead', 4) AS c;
SELECT count(*), min(c), max(c) FROM claim_next('lead', 1000) AS c;
SELECT count(*) FROM claim_next('lead');
-- fails: arguments
SELECT * FROM claim('leads', 1);
SELECT * FROM claim(NULL, 1);
SELECT * FROM claim_next('lead', 0);
SELECT * FROM claim_next('lead', NULL);
SELECT * FROM claim_next('nothing');
RESET ROLE;

-- where unowned records may only be read, they cannot be claimed
RESET crm.member;
INSERT INTO lead (id, company) VALUES (20, 'Late');
SET crm.member = 'regress_claim/2';
UPDATE setting SET value = 'read' WHERE name = 'unowned_access';
SET ROLE regress_claim_app;
SELECT * FROM claim('lead', 20);
SELECT * FROM claim_next('lead');
RESET ROLE;
UPDATE setting SET value = 'none' WHERE name = 'unowned_access';
SET ROLE regress_claim_app;
SELECT * FROM claim('lead', 20);
RESET ROLE;
-- nobody claims nothing
RESET crm.member;
SET ROLE regress_claim_app;
SELECT * FROM claim('lead', 20);
SELECT * FROM claim_next('lead');
RESET ROLE;
SELECT count(*) FILTER (WHERE owner_id IS NULL) AS free, count(*) FILTER (WHERE owner_id = 1) AS ann, count(*) FILTER (WHERE owner_id = 2) AS bob FROM lead;

RESET search_path;
DROP SCHEMA regress_claim CASCADE;
DROP OWNED BY regress_claim_app;
DROP ROLE regress_claim_app;
