-- Access is granted by kind, remembered by the grants themselves, and extended by upgrades.
\set SHOW_CONTEXT never
\pset format unaligned
SET client_min_messages = warning;
CREATE ROLE regress_grant_owner;
CREATE ROLE regress_grant_app;
CREATE ROLE "Regress Grant Report";
CREATE ROLE regress_grant_gateway;
CREATE ROLE regress_grant_auditor;
CREATE ROLE regress_grant_stranger;
GRANT CREATE ON DATABASE contrib_regression TO regress_grant_owner;

-- fails: the toolkit is not for everybody
SET ROLE regress_grant_owner;
SELECT crm.create_workspace('Regress "Grant"');
RESET ROLE;
SELECT crm.grant_toolkit('regress_grant_owner');
SELECT crm.grant_toolkit('regress_grant_owner');
-- fails: unknown role
SELECT crm.grant_toolkit('regress_grant_missing');

SET ROLE regress_grant_owner;
SELECT crm.create_workspace('Regress "Grant"');
-- fails: whoever has the toolkit cannot pass it on
SELECT crm.grant_toolkit('regress_grant_app');

CREATE TABLE "Regress ""Grant""".own_table (id bigint PRIMARY KEY);
SELECT crm.grant_access('Regress "Grant"', 'regress_grant_app', 'app');
SELECT crm.grant_access('Regress "Grant"', 'Regress Grant Report', 'report');
SELECT crm.grant_access('Regress "Grant"', 'regress_grant_auditor', 'auditor');
-- granting again changes nothing
SELECT crm.grant_access('Regress "Grant"', 'regress_grant_app', 'app');
SELECT * FROM crm.access('"Regress ""Grant"""');

-- fails: bad arguments, each named
SELECT crm.grant_access('regress_grant_missing', 'regress_grant_app', 'app');
SELECT crm.grant_access('Regress "Grant"', 'regress_grant_missing', 'app');
SELECT crm.grant_access('Regress "Grant"', 'public', 'app');
SELECT crm.grant_access('Regress "Grant"', 'regress_grant_app', 'apple');
SELECT crm.grant_access('Regress "Grant"', 'regress_grant_app', NULL);
SELECT crm.revoke_access('Regress "Grant"', 'regress_grant_app', '');

-- fails: crm.member decides who one is in every workspace of the cluster; only a superuser hands it out
SELECT crm.grant_access('Regress "Grant"', 'regress_grant_gateway', 'gateway');
SELECT has_schema_privilege('regress_grant_gateway', 'Regress "Grant"', 'USAGE') AS granted;
RESET ROLE;
SELECT crm.grant_access('Regress "Grant"', 'regress_grant_gateway', 'gateway');
SELECT has_parameter_privilege('regress_grant_gateway', 'crm.member', 'SET') AS may_set_member;
-- once a superuser has, the owner can do the rest
SET ROLE regress_grant_owner;
SELECT crm.grant_access('Regress "Grant"', 'regress_grant_gateway', 'gateway');

-- what each kind may do; tables of the user's own are left alone
SELECT r.rolname, t.name,
       concat_ws(' ', CASE WHEN has_table_privilege(r.rolname, c.oid, 'SELECT') THEN 'select' END,
                 CASE WHEN has_table_privilege(r.rolname, c.oid, 'INSERT') THEN 'insert' END,
                 CASE WHEN has_table_privilege(r.rolname, c.oid, 'UPDATE') THEN 'update' END,
                 CASE WHEN has_table_privilege(r.rolname, c.oid, 'DELETE') THEN 'delete' END,
                 CASE WHEN has_table_privilege(r.rolname, c.oid, 'TRUNCATE, REFERENCES, TRIGGER') THEN 'more' END) AS may
FROM (VALUES ('account'), ('lead_source'), ('own_table')) AS t (name)
JOIN pg_class AS c ON c.relname = t.name
JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = 'Regress "Grant"'
CROSS JOIN pg_roles AS r
WHERE r.rolname IN ('regress_grant_app', 'Regress Grant Report', 'regress_grant_gateway', 'regress_grant_auditor', 'regress_grant_stranger')
ORDER BY t.name, r.rolname COLLATE "C";

SET ROLE regress_grant_app;
SELECT count(*) >= 1 AS ok FROM crm.workspaces();
-- fails: applications do not change the workspace
SELECT crm.upgrade_workspace('Regress "Grant"');
CREATE TABLE "Regress ""Grant""".t (id int);
SET ROLE regress_grant_stranger;
-- fails: no access at all
SELECT count(*) FROM "Regress ""Grant""".account;
SELECT crm.name_key('x');

-- an upgrade extends the grants to what it brings
SET ROLE regress_grant_owner;
REVOKE ALL ON "Regress ""Grant""".account FROM regress_grant_app;
SELECT crm.upgrade_workspace('Regress "Grant"') >= 1 AS upgraded;
SELECT has_table_privilege('regress_grant_app', '"Regress ""Grant""".account', 'SELECT, INSERT') AS again;

-- a role keeps its access under a new name
RESET ROLE;
ALTER ROLE regress_grant_app RENAME TO regress_grant_app2;
SET ROLE regress_grant_owner;
SELECT role, kind FROM crm.access('"Regress ""Grant"""') WHERE kind = 'app';

-- taking back one kind leaves what the other includes
SELECT crm.grant_access('Regress "Grant"', 'regress_grant_app2', 'report');
SELECT crm.revoke_access('Regress "Grant"', 'regress_grant_app2', 'app');
SELECT has_table_privilege('regress_grant_app2', '"Regress ""Grant""".account', 'SELECT') AS "select",
       has_table_privilege('regress_grant_app2', '"Regress ""Grant""".account', 'INSERT') AS "insert";
SELECT crm.revoke_access('Regress "Grant"', 'regress_grant_app2', 'report');
SELECT has_table_privilege('regress_grant_app2', '"Regress ""Grant""".account', 'SELECT') AS "select",
       has_schema_privilege('regress_grant_app2', 'Regress "Grant"', 'USAGE') AS workspace,
       has_schema_privilege('regress_grant_app2', 'crm', 'USAGE') AS toolkit;
SET client_min_messages = notice;
SELECT crm.revoke_access('Regress "Grant"', 'regress_grant_gateway', 'gateway');
SET client_min_messages = warning;

-- a role that row-level security does not hold is worth a warning
RESET ROLE;
ALTER ROLE regress_grant_app2 BYPASSRLS;
SELECT crm.grant_access('Regress "Grant"', 'regress_grant_app2', 'app');

-- every object of the lists exists in a new workspace: none
SELECT l.class, l.name
FROM crm._access_list() AS l
WHERE NOT CASE l.class
              WHEN 'toolkit' THEN EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = 'crm'::regnamespace AND p.proname = l.name)
              WHEN 'function' THEN EXISTS (SELECT FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
                                           WHERE n.nspname = 'Regress "Grant"' AND p.proname = l.name)
              WHEN 'table' THEN to_regclass(format('"Regress ""Grant""".%I', l.name)) IS NOT NULL
              ELSE false
          END;

-- nothing is for PUBLIC, in the toolkit and in a workspace: none
SELECT p.oid::regprocedure
FROM pg_proc AS p
JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname IN ('crm', 'Regress "Grant"')
  AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS x WHERE x.grantee = 0);
SELECT c.oid::regclass
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('crm', 'Regress "Grant"')
  AND EXISTS (SELECT FROM aclexplode(c.relacl) AS x WHERE x.grantee = 0);
SELECT n.nspname
FROM pg_namespace AS n
WHERE n.nspname IN ('crm', 'Regress "Grant"')
  AND EXISTS (SELECT FROM aclexplode(n.nspacl) AS x WHERE x.grantee = 0);

SELECT crm.revoke_toolkit('regress_grant_owner');
SELECT has_schema_privilege('regress_grant_owner', 'crm', 'USAGE') AS toolkit;

DROP SCHEMA "Regress ""Grant""" CASCADE;
REVOKE SET ON PARAMETER crm.member FROM regress_grant_gateway;
DROP OWNED BY regress_grant_owner, regress_grant_app2, "Regress Grant Report", regress_grant_gateway, regress_grant_auditor;
DROP ROLE regress_grant_owner, regress_grant_app2, "Regress Grant Report", regress_grant_gateway, regress_grant_auditor, regress_grant_stranger;
