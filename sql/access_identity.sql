-- A session acts for the member its login role or a trusted gateway names, and for nobody else.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_access_identity_ann LOGIN;
CREATE ROLE regress_access_identity_bob LOGIN;
CREATE ROLE regress_access_identity_gateway LOGIN;
GRANT SET ON PARAMETER crm.member TO regress_access_identity_gateway;
SELECT crm.create_workspace('regress_access_identity');
SELECT crm.create_workspace('regress_access_identity2');
GRANT USAGE ON SCHEMA crm, regress_access_identity, regress_access_identity2 TO PUBLIC;
GRANT EXECUTE ON FUNCTION crm.member_id(regnamespace), regress_access_identity.me(), regress_access_identity2.me() TO PUBLIC;
INSERT INTO regress_access_identity.member (id, name, login_role)
VALUES (41, 'Ann', 'regress_access_identity_ann'), (42, 'Ben', NULL);
INSERT INTO regress_access_identity2.member (id, name) VALUES (42, 'Bea');
RESET client_min_messages;

-- nobody
SELECT regress_access_identity.me(), regress_access_identity2.me();

-- the login role, whatever the current role is
SET SESSION AUTHORIZATION regress_access_identity_ann;
SELECT regress_access_identity.me(), regress_access_identity2.me();
RESET SESSION AUTHORIZATION;
SET ROLE regress_access_identity_ann;
SELECT regress_access_identity.me(), regress_access_identity2.me();
RESET ROLE;

-- a gateway says for whom; member 42 of one workspace is nobody in the other
SET SESSION AUTHORIZATION regress_access_identity_gateway;
SET crm.member = 'regress_access_identity/42';
SELECT regress_access_identity.me(), regress_access_identity2.me();
BEGIN;
SET LOCAL crm.member = 'regress_access_identity2/42';
SELECT regress_access_identity.me(), regress_access_identity2.me();
ROLLBACK;
SELECT regress_access_identity.me(), regress_access_identity2.me();
RESET crm.member;
SELECT regress_access_identity.me(), regress_access_identity2.me();
SET crm.member = 'regress_access_identity/43';
SELECT regress_access_identity.me();

-- fails: not a workspace and an id
SET crm.member = '42';
SET crm.member = 'regress_access_identity/';
SET crm.member = '/42';
SET crm.member = 'regress_access_identity/0';
SET crm.member = 'regress_access_identity/-1';
SET crm.member = 'regress_access_identity/9223372036854775808';
DO $$
BEGIN
    PERFORM set_config('crm.member', repeat('x', 1000000) || '/1', false);
EXCEPTION WHEN invalid_parameter_value THEN
    RAISE NOTICE 'too long';
END
$$;
SET crm.member = 'regress_access_identity/9223372036854775807';
SELECT regress_access_identity.me();

-- fails: an ordinary role says who it is, in any way
SET SESSION AUTHORIZATION regress_access_identity_bob;
SELECT regress_access_identity.me();
SET crm.member = 'regress_access_identity/42';
BEGIN;
SET LOCAL crm.member = 'regress_access_identity/42';
ROLLBACK;
SELECT set_config('crm.member', 'regress_access_identity/42', true);
UPDATE pg_settings SET setting = 'regress_access_identity/42' WHERE name = 'crm.member';
ALTER ROLE regress_access_identity_bob SET crm.member = 'regress_access_identity/42';
ALTER DATABASE contrib_regression SET crm.member = 'regress_access_identity/42';
CREATE FUNCTION pg_temp.as_ben() RETURNS bigint LANGUAGE plpgsql SET crm.member = 'regress_access_identity/42'
AS 'BEGIN RETURN regress_access_identity.me(); END';
SET crm.other = '1';
RESET crm.member;
RESET ALL;
DISCARD ALL;
SELECT regress_access_identity.me();

-- a change of the directory counts at the next statement, and is forgotten when rolled back
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_access_identity_ann;
SELECT regress_access_identity.me();
RESET SESSION AUTHORIZATION;
BEGIN;
UPDATE regress_access_identity.member SET login_role = 'regress_access_identity_bob' WHERE id = 42;
UPDATE regress_access_identity.member SET active = false WHERE id = 41;
SET LOCAL SESSION AUTHORIZATION regress_access_identity_bob;
SELECT regress_access_identity.me();
SET LOCAL SESSION AUTHORIZATION regress_access_identity_ann;
SELECT regress_access_identity.me();
ROLLBACK;
SET SESSION AUTHORIZATION regress_access_identity_ann;
SELECT regress_access_identity.me();
SET SESSION AUTHORIZATION regress_access_identity_bob;
SELECT regress_access_identity.me();
RESET SESSION AUTHORIZATION;
BEGIN;
SAVEPOINT s;
UPDATE regress_access_identity.member SET active = false WHERE id = 41;
SET LOCAL SESSION AUTHORIZATION regress_access_identity_ann;
SELECT regress_access_identity.me();
ROLLBACK TO s;
SET LOCAL SESSION AUTHORIZATION regress_access_identity_ann;
SELECT regress_access_identity.me();
COMMIT;

-- a renamed workspace, and a renamed role
ALTER SCHEMA regress_access_identity RENAME TO regress_access_identity3;
SET crm.member = 'regress_access_identity3/42';
SELECT regress_access_identity3.me();
SET crm.member = 'regress_access_identity/42';
SELECT regress_access_identity3.me();
RESET crm.member;
ALTER ROLE regress_access_identity_ann RENAME TO regress_access_identity_anna;
SET SESSION AUTHORIZATION regress_access_identity_anna;
SELECT regress_access_identity3.me();
RESET SESSION AUTHORIZATION;

-- fails: not a workspace
SELECT crm.member_id('public');
SELECT crm.member_id('pg_catalog');
SELECT crm.member_id(NULL);

SET client_min_messages = warning;
DROP SCHEMA regress_access_identity3 CASCADE;
DROP SCHEMA regress_access_identity2 CASCADE;
REVOKE USAGE ON SCHEMA crm FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION crm.member_id(regnamespace) FROM PUBLIC;
REVOKE SET ON PARAMETER crm.member FROM regress_access_identity_gateway;
DROP ROLE regress_access_identity_anna, regress_access_identity_bob, regress_access_identity_gateway;
