-- Converting a lead makes or finds its account and contact, in one transaction.
\set SHOW_CONTEXT never
\pset format unaligned
SET client_min_messages = warning;
SET datestyle = 'ISO';
CREATE ROLE regress_convert_app;
SELECT crm.create_workspace('regress_convert');
SELECT crm.grant_access('regress_convert', 'regress_convert_app', 'app');
SET search_path = regress_convert;
INSERT INTO member (id, name) VALUES (1, 'Ann'), (2, 'Bob');
ALTER TABLE lead ADD COLUMN segment text;
ALTER TABLE account ADD COLUMN segment text;
ALTER TABLE contact ADD COLUMN segment integer;
INSERT INTO account (id, name, city, owner_id) VALUES (100, 'Siemens Healthineers AG', 'Erlangen', 1);
INSERT INTO contact (id, account_id, full_name, email, owner_id) VALUES (200, 100, 'Erika Mustermann', 'erika@siemens-healthineers.example', 1);
ALTER TABLE account ALTER id RESTART 101;
ALTER TABLE contact ALTER id RESTART 201;
INSERT INTO lead (id, company, given_name, family_name, full_name, email, phone, city, segment, source, description, owner_id) VALUES
    (1, 'Nordwind Logistik GmbH', 'Jens', 'Petersen', 'Jens Petersen', 'jens@nordwind.example', '+49 40 1234567', 'Hamburg', 'B', 'event', 'Met at the fair.', 1),
    (2, 'Siemens Healthineers AG', NULL, NULL, 'Erika Mustermann', 'erika@siemens-healthineers.example', NULL, 'Erlangen', NULL, NULL, NULL, 1),
    (3, NULL, NULL, NULL, 'Lone Wolf', NULL, NULL, NULL, NULL, NULL, NULL, 1),
    (4, 'Only a Company Ltd', NULL, NULL, NULL, 'info@only.example', NULL, NULL, NULL, NULL, NULL, 1),
    (5, 'Bobs Secret Inc', NULL, NULL, 'Someone', NULL, NULL, NULL, NULL, NULL, NULL, 2),
    (6, 'Siemens Healthineers AG', NULL, NULL, 'Max Neu', NULL, NULL, 'Erlangen', NULL, NULL, NULL, 1),
    (7, 'Rollback & Sons', NULL, NULL, 'Rolf Back', NULL, NULL, NULL, NULL, NULL, NULL, 1);
INSERT INTO activity (id, subject, lead_id, owner_id) VALUES (1, 'Call', 1, 1), (2, 'Visit', 1, 1);

SET crm.member = 'regress_convert/1';
SET ROLE regress_convert_app;
-- everything new: columns of the same name and type go along, users' own too
SELECT * FROM convert_lead(1, 'First shipment', 5000, 'EUR', '2030-06-30');
SELECT name, city, phone, email, segment, owner_id FROM account WHERE id = 101;
SELECT full_name, account_id, phone, email, city, description, segment, owner_id FROM contact WHERE id = 201;
SELECT name, account_id, contact_id, amount, currency, close_date, source, pipeline, stage, owner_id FROM opportunity;
SELECT id, lead_id, account_id, contact_id, opportunity_id FROM activity ORDER BY id;
SELECT stage, converted_at >= created_at AS converted, converted_account_id, converted_contact_id, converted_opportunity_id FROM lead WHERE id = 1;
-- who is there already is found, not made again
SELECT * FROM convert_lead(2);
-- unless one says otherwise
SELECT * FROM convert_lead(6, match => false);
SELECT * FROM convert_lead(3);
SELECT * FROM convert_lead(4, into_contact => 200);
SELECT name, email FROM account WHERE name LIKE 'Only%';
-- fails: twice, unseen, ambiguous
SELECT * FROM convert_lead(1);
SELECT * FROM convert_lead(5);
SELECT * FROM convert_lead(NULL);
SELECT * FROM convert_lead(7, into_account => 4711);
SELECT * FROM convert_lead(7, into_contact => 4711);
-- fails whole: nothing is left of it
SELECT * FROM convert_lead(7, 'Deal', 1, 'nonsense');
SELECT count(*) FROM account WHERE name LIKE 'Rollback%';
SELECT converted_at IS NULL AS open FROM lead WHERE id = 7;
RESET ROLE;
INSERT INTO lead (id, company, full_name, city, owner_id) VALUES (8, 'Siemens Healthineers AG', 'Nobody New', 'Erlangen', 1);
SET ROLE regress_convert_app;
SELECT * FROM convert_lead(8);
SELECT * FROM convert_lead(8, into_account => 100);
RESET ROLE;

RESET crm.member;
RESET search_path;
DROP SCHEMA regress_convert CASCADE;
DROP OWNED BY regress_convert_app;
DROP ROLE regress_convert_app;
