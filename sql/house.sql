-- The rules of the house, checked over everything the extension installs and a workspace holds.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT crm.create_workspace('regress_house');

-- every object of the toolkit and every column of a workspace has a comment: none
SELECT pg_describe_object(d.classid, d.objid, 0)
FROM pg_depend AS d
WHERE d.refclassid = 'pg_extension'::regclass
  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'crm')
  AND d.deptype = 'e'
  AND obj_description(d.objid, d.classid::regclass::name) IS NULL
  AND d.classid NOT IN ('pg_cast'::regclass, 'pg_opfamily'::regclass)
  AND NOT EXISTS (SELECT FROM pg_type AS t WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid AND t.typelem <> 0)
ORDER BY 1;
SELECT c.relname, a.attname
FROM pg_class AS c
LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
WHERE c.relnamespace = 'regress_house'::regnamespace
  AND c.relkind IN ('r', 'p', 'v', 'm')
  AND (a.attnum IS NOT NULL OR obj_description(c.oid, 'pg_class') IS NULL)
ORDER BY 1, 2;
SELECT p.oid::regprocedure FROM pg_proc AS p
WHERE p.pronamespace = 'regress_house'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
-- every table has a primary key of one bigint column "id": only what has one row by design has not
SELECT c.relname
FROM pg_class AS c
WHERE c.relnamespace = 'regress_house'::regnamespace AND c.relkind IN ('r', 'p')
  AND NOT EXISTS (SELECT FROM pg_index AS i
                  JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
                  WHERE i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1
                    AND a.attname = 'id' AND a.atttypid = 'bigint'::regtype AND a.attidentity <> '')
ORDER BY 1;
-- no column has a type of an extension, nor an enum: none
SELECT c.relname, a.attname, a.atttypid::regtype
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type AS t ON t.oid = a.atttypid
WHERE c.relnamespace = 'regress_house'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND t.typnamespace <> 'pg_catalog'::regnamespace;
-- every foreign key has an index: none
SELECT conname, conrelid::regclass FROM crm._foreign_keys_without_index('regress_house'::regnamespace);
-- every function that runs with other rights than its caller's pins its search_path: none
SELECT p.oid::regprocedure FROM pg_proc AS p
WHERE p.pronamespace IN ('crm'::regnamespace, 'regress_house'::regnamespace) AND p.prosecdef
  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c WHERE c = 'search_path=pg_catalog, pg_temp');

-- nothing is found wrong with a new workspace: none
SELECT severity, "check", detail FROM crm.doctor() WHERE workspace = 'regress_house'::regnamespace;

DROP SCHEMA regress_house CASCADE;
