-- crm.uscc: unified social credit codes with their check character (GB 32100-2015).
\set SHOW_CONTEXT never
CREATE ROLE regress_uscc_user;
CREATE SCHEMA regress_uscc AUTHORIZATION regress_uscc_user;
GRANT USAGE ON SCHEMA crm TO regress_uscc_user;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_uscc_user;
SET search_path = regress_uscc, crm;
SET ROLE regress_uscc_user;

SELECT v AS input, uscc(v)
FROM (VALUES
    ('91350100M000100Y43'), ('91350100m000100y43'), ('９１３５０１００Ｍ０００１００Ｙ４３'),
    (' 9135 0100-M000 100Y-43 '), ('91441426MA4UPHE70T'), ('92360406MA3798EE37')
) AS t (v);

-- fails
SELECT ''::uscc;
SELECT '91350100M000100Y4'::uscc;
SELECT '91350100M000100Y433'::uscc;
SELECT '91350100M000100Y44'::uscc;
SELECT '91350100M00O100Y43'::uscc;
SELECT '91350100M000100Y4*'::uscc;
SELECT '9135010AM000100Y43'::uscc;
SELECT '321281000109294'::uscc;
SELECT '统一社会信用代码'::uscc;
SELECT uscc(repeat('9', 1000000));

-- every single mistyped character and every swap of neighbours is noticed
CREATE FUNCTION refused(v text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM crm.uscc(v);
    RETURN false;
EXCEPTION WHEN invalid_text_representation THEN
    RETURN true;
END $$;
WITH code AS (SELECT '91350100M000100Y43' AS c)
SELECT count(*) AS typed, count(*) FILTER (WHERE refused(overlay(c PLACING a FROM i FOR 1))) AS refused
FROM code, generate_series(1, 18) AS i, regexp_split_to_table('0123456789ABCDEFGHJKLMNPQRTUWXY', '') AS a
WHERE substr(c, i, 1) <> a;
WITH code AS (SELECT '91350100M000100Y43' AS c)
SELECT count(*) AS swapped, count(*) FILTER (WHERE refused(overlay(c PLACING reverse(substr(c, i, 2)) FROM i FOR 2))) AS refused
FROM code, generate_series(1, 17) AS i
WHERE substr(c, i, 1) <> substr(c, i + 1, 1);

SELECT uscc_authority(u), uscc_category(u), uscc_region(u), uscc_organization(u)
FROM (VALUES ('91350100M000100Y43'::uscc)) AS t (u);
SELECT uscc(NULL), uscc_region(NULL);

CREATE TABLE company (id int, code uscc UNIQUE);
INSERT INTO company VALUES (1, '91350100M000100Y43'), (2, '91441426MA4UPHE70T');
INSERT INTO company VALUES (3, '91350100m000100y43');  -- fails: it is there already
SELECT id FROM company WHERE code = '91350100 m000100y43';
SELECT id FROM company WHERE code > '91350100M000100Y43';
CREATE INDEX ON company USING hash (code);
SELECT amvalidate(oid) FROM pg_opclass WHERE opcintype = 'crm.uscc'::regtype ORDER BY opcmethod;
SELECT code::text FROM company WHERE id = 1;
SELECT uscc_send('91350100M000100Y43');

RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA regress_uscc CASCADE;
DROP OWNED BY regress_uscc_user;
DROP ROLE regress_uscc_user;
