-- A signed token says who a session acts for; nothing that is not one does.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_access_token_app LOGIN;
CREATE ROLE regress_access_token_ann LOGIN;
CREATE ROLE regress_access_token_other;
GRANT regress_access_token_other TO regress_access_token_app;
SELECT crm.create_workspace('regress_access_token');
SELECT crm.create_workspace('regress_access_token2');
SELECT crm.grant_access(w, r, 'app') FROM unnest('{regress_access_token,regress_access_token2}'::name[]) AS w,
    unnest('{regress_access_token_app,regress_access_token_ann,regress_access_token_other}'::name[]) AS r;
INSERT INTO regress_access_token.member (id, name, login_role) VALUES (41, 'Ann', 'regress_access_token_ann'), (42, 'Ben', NULL);
INSERT INTO regress_access_token2.member (id, name) VALUES (42, 'Bea');

-- any library can make one
CREATE FUNCTION pg_temp.token(claims text, header text DEFAULT '{"alg":"HS256"}', workspace text DEFAULT 'regress_access_token') RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    secret bytea;
    content text := crm._base64url(convert_to(header, 'UTF8')) || '.' || crm._base64url(convert_to(claims, 'UTF8'));
BEGIN
    EXECUTE format('SELECT secret FROM %I.token_key', workspace) INTO secret;
    RETURN content || '.' || crm._base64url(crm._token_signature(secret, content));
END
$$;
-- the signature is HMAC-SHA-256: RFC 4231, test case 2
SELECT crm._token_signature('Jefe', 'what do ya want for nothing?');
SELECT crm.issue_token('regress_access_token', 42) AS good,
       crm.issue_token('regress_access_token', 42, '1 hour', 'regress_access_token_app') AS good_app,
       crm.issue_token('regress_access_token', 42, '1 hour', 'regress_access_token_other') AS good_other,
       crm.issue_token('regress_access_token2', 42) AS good2,
       crm.issue_token('regress_access_token', 43) AS missing,
       pg_temp.token('{"sub":"regress_access_token/42","aud":"contrib_regression","exp":4000000000}') AS own,
       pg_temp.token('{"sub":"regress_access_token/42","aud":"contrib_regression","exp":1000000000}') AS expired,
       pg_temp.token('{"sub":"regress_access_token/42","aud":"contrib_regression","exp":4000000000,"nbf":3900000000}') AS early,
       pg_temp.token('{"sub":"regress_access_token/42","aud":"contrib_regression","exp":4000000000000}') AS milliseconds,
       pg_temp.token('{"sub":"regress_access_token/42","aud":"contrib_regression","exp":"4000000000"}') AS text_time,
       pg_temp.token('{"sub":"regress_access_token/42","aud":"contrib_regression"}') AS endless,
       pg_temp.token('{"sub":"regress_access_token/42","aud":"postgres","exp":4000000000}') AS other_database,
       pg_temp.token('{"sub":"regress_access_token/42","aud":"contrib_regression","exp":4000000000}', '{"alg":"none"}') AS no_algorithm,
       pg_temp.token('{"sub":"regress_access_token/42","aud":"contrib_regression","exp":4000000000}', '{}') AS no_header,
       pg_temp.token('{"sub":"regress_access_token/42","aud":"contrib_regression","exp":4000000000}', workspace => 'regress_access_token2') AS other_key,
       pg_temp.token('{"sub":"42","aud":"contrib_regression","exp":4000000000}') AS no_workspace,
       pg_temp.token('{"sub":42,"aud":"contrib_regression","exp":4000000000}') AS number,
       pg_temp.token('["sub"]') AS no_object,
       pg_temp.token('{"sub":"regress_access_token/42"') AS no_json
\gset
INSERT INTO regress_access_token.account (name, owner_id) VALUES ('Ann''s', 41), ('Ben''s', 42);
RESET client_min_messages;

SET SESSION AUTHORIZATION regress_access_token_app;
BEGIN;
SELECT set_config('crm.token', :'good', true) AS hidden;
SELECT regress_access_token.me(), regress_access_token2.me();
SELECT name FROM regress_access_token.account;
-- another one, and then the other workspace
SELECT set_config('crm.token', :'good2', true) AS hidden;
SELECT regress_access_token.me(), regress_access_token2.me();
COMMIT;
SELECT regress_access_token.me();
SELECT set_config('crm.token', :'own', false) AS hidden;
SELECT regress_access_token.me();
-- it is not shown, lest it be copied
SHOW crm.token;
SELECT set_config('crm.token', :'missing', false) AS hidden;
SELECT regress_access_token.me();
SELECT set_config('crm.token', :'good_app', false) AS hidden;
SELECT regress_access_token.me();
-- fails: it is for another role, until that one is set
SELECT set_config('crm.token', :'good_other', false) AS hidden;
SELECT regress_access_token.me();
SET ROLE regress_access_token_other;
SELECT regress_access_token.me();
RESET ROLE;
SELECT regress_access_token.me();

-- fails: whatever is not a good token, at the statement that needs to know
CREATE FUNCTION pg_temp.try(token text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    PERFORM set_config('crm.token', token, false);
    RETURN regress_access_token.me();
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN format('%s %s: %s', SQLSTATE, SQLERRM, detail);
END
$$;
SELECT pg_temp.try(:'expired');
SELECT pg_temp.try(:'early');
SELECT pg_temp.try(:'milliseconds');
SELECT pg_temp.try(:'text_time');
SELECT pg_temp.try(:'endless');
SELECT pg_temp.try(:'other_database');
SELECT pg_temp.try(:'no_algorithm');
SELECT pg_temp.try(:'no_header');
SELECT pg_temp.try(:'other_key');
SELECT pg_temp.try(:'no_workspace');
SELECT pg_temp.try(:'number');
SELECT pg_temp.try(:'no_object');
SELECT pg_temp.try(:'no_json') ~ '^22P02';
-- a changed character anywhere
SELECT count(*) FILTER (WHERE t.result = '42') AS accepted, count(*) > 100 AS many
FROM (SELECT pg_temp.try(overlay(:'own' PLACING CASE substr(:'own', i, 1) WHEN 'A' THEN 'B' ELSE 'A' END FROM i FOR 1)) AS result
      FROM generate_series(1, length(:'own')) AS i) AS t;
-- a missing one, an added one, none
SELECT pg_temp.try(left(:'own', -1)), pg_temp.try(:'own' || 'A'), pg_temp.try(:'own' || '='), pg_temp.try(:'own' || '.A');
SELECT pg_temp.try('x'), pg_temp.try('..'), pg_temp.try('.'), pg_temp.try(repeat('A', 8000)), pg_temp.try(repeat('A.', 3)), pg_temp.try(repeat('x', 1000000));
SELECT pg_temp.try(E'\u4e2d.\u6587.x'), pg_temp.try(split_part(:'own', '.', 1) || '.' || split_part(:'own', '.', 2) || '.');
-- the headers of another, the claims of another
SELECT pg_temp.try(split_part(:'own', '.', 1) || '.' || split_part(:'missing', '.', 2) || '.' || split_part(:'own', '.', 3));
SELECT pg_temp.try(''), pg_temp.try(:'own');
-- fails: who cannot read the key signs nothing
SELECT crm.issue_token('regress_access_token', 42);
SELECT * FROM regress_access_token.token_key;
RESET SESSION AUTHORIZATION;

-- fails: Ann logs in as herself and acts for nobody else
SET SESSION AUTHORIZATION regress_access_token_ann;
SELECT set_config('crm.token', :'own', false) AS hidden;
SELECT regress_access_token.me();
RESET crm.token;
SELECT regress_access_token.me();
RESET SESSION AUTHORIZATION;

-- an inactive member is nobody, token or not; a new key ends all tokens, or all but the last key's
UPDATE regress_access_token.member SET active = false WHERE id = 42;
SET SESSION AUTHORIZATION regress_access_token_app;
SELECT set_config('crm.token', :'own', false) AS hidden;
SELECT regress_access_token.me();
RESET SESSION AUTHORIZATION;
UPDATE regress_access_token.member SET active = true WHERE id = 42;
SELECT regress_access_token.me();
SELECT crm.rotate_token_key('regress_access_token', true);
SELECT regress_access_token.me();
SELECT crm.rotate_token_key('regress_access_token');
SELECT regress_access_token.me();
RESET crm.token;

-- fails: lifetimes, workspaces
SELECT crm.issue_token('regress_access_token', 42, '0');
SELECT crm.issue_token('regress_access_token', 42, '31 days');
SELECT crm.issue_token('public', 42);
SELECT crm.issue_token('regress_access_token', NULL);

SET client_min_messages = warning;
DROP SCHEMA regress_access_token CASCADE;
DROP SCHEMA regress_access_token2 CASCADE;
DROP OWNED BY regress_access_token_app, regress_access_token_ann, regress_access_token_other;
DROP ROLE regress_access_token_app, regress_access_token_ann, regress_access_token_other;
