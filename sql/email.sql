-- crm.email: one canonical form for every spelling of an address.
\set SHOW_CONTEXT never
CREATE ROLE regress_email_user;
CREATE SCHEMA regress_email AUTHORIZATION regress_email_user;
GRANT USAGE ON SCHEMA crm TO regress_email_user;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_email_user;
SET search_path = regress_email, crm;
SET ROLE regress_email_user;

-- accepted, and what it becomes
SELECT v AS input, email(v), email(email(v)::text) = email(v) AS settled
FROM (VALUES
    ('ann@example.com'),
    ('Ann.Lee+CRM@Example.COM'),
    (E' \tann@example.com\u3000'),
    ('ａｎｎ＠ｅｘａｍｐｌｅ．ｃｏｍ'),
    ('"ann"@example.com'),
    ('"a b"@example.com'),
    ('"a\"b\\c"@example.com'),
    ('"a@b"@example.com'),
    ('".ann"@example.com'),
    ('!#$%&''*+-/=?^_`{|}~@example.com'),
    ('ann@xn--FSQU00A.xn--fiqs8s'),
    ('ann@例子。中国'),
    ('ann@BÜCHER.example'),
    ('ann@faß.de'),
    ('用户@例子.中国'),
    (E'Ame\u0301lie@example.fr'),
    (U&'\00C9lodie@example.fr'),
    ('ann@3com.com'),
    ('ann@a-b.c-d.museum')
) AS t (v);
-- what shows nothing comes along from address books, and goes
SELECT email(E'\u200Bann@example.com\u202C');

-- fails: what is not an address
SELECT ''::email;
SELECT '   '::email;
SELECT 'ann'::email;
SELECT '@example.com'::email;
SELECT 'ann@'::email;
SELECT 'ann@example'::email;
SELECT 'ann@exa mple.com'::email;
SELECT 'ann lee@example.com'::email;
SELECT 'ann..lee@example.com'::email;
SELECT '.ann@example.com'::email;
SELECT 'ann.@example.com'::email;
SELECT 'ann@.example.com'::email;
SELECT 'ann@example.com.'::email;
SELECT 'ann@-example.com'::email;
SELECT 'ann@exam_ple.com'::email;
SELECT 'ann@1.2.3.4'::email;
SELECT 'ann@[1.2.3.4]'::email;
SELECT 'Ann Lee <ann@example.com>'::email;
SELECT 'ann@example.com, bob@example.com'::email;
SELECT 'ann(home)@example.com'::email;
SELECT '"ann@example.com'::email;
SELECT '"ann"lee@example.com'::email;
SELECT 'ann@a..b'::email;
SELECT email(U&'ann\0007@example.com');
SELECT email(U&'ann@exa\0378mple.com');

-- lengths: 64 octets before the @, 63 in a label, 254 in all
SELECT length(email(repeat('a', 64) || '@example.com')::text);
SELECT email(repeat('a', 65) || '@example.com');  -- fails
SELECT length(email('a@' || repeat('b', 63) || '.com')::text);
SELECT email('a@' || repeat('b', 64) || '.com');  -- fails
SELECT length(email(repeat('a', 60) || '@' || repeat('b', 63) || '.' || repeat('c', 63) || '.' || repeat('d', 61) || '.com')::text);
SELECT email(repeat('a', 61) || '@' || repeat('b', 63) || '.' || repeat('c', 63) || '.' || repeat('d', 61) || '.com');  -- fails

-- fails: a value of a megabyte, shown clipped
SELECT email(repeat('x', 1000000));
SELECT email(repeat('名', 300000) || '@例子.中国');
SELECT email('a@' || repeat('例', 300000));

-- comparing, sorting, grouping, joining; an operand that is a literal is parsed
SELECT 'Ann@Example.com'::email = 'ann@example.com' AS same, 'a@b.cd'::email < 'b@b.cd' AS less,
       'a@b.cd'::email <> 'A@B.CD' AS differs;
CREATE TABLE person (id int, mail email UNIQUE);
INSERT INTO person VALUES (1, 'Ann@example.com'), (2, 'bob@example.com'), (3, NULL);
INSERT INTO person VALUES (4, 'ANN@EXAMPLE.COM');  -- fails: it is there already
SELECT id FROM person WHERE mail = 'ANN@example.com';
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM person WHERE mail = 'ANN@example.com';
RESET enable_seqscan;
SELECT id FROM person ORDER BY mail DESC NULLS LAST;
SELECT id FROM person ORDER BY mail COLLATE "C";
SELECT count(*) FROM person AS a JOIN person AS b USING (mail);
CREATE INDEX ON person USING hash (mail);
SELECT amvalidate(oid) FROM pg_opclass WHERE opcintype = 'crm.email'::regtype ORDER BY opcmethod;

-- casts go where they are asked for or assigned, never silently
SELECT 'Ann@example.com'::email::text, 'Ann@example.com'::text::email, lower('Ann@example.com'::email::text);
CREATE TABLE note (body text, mail email);
INSERT INTO note SELECT mail, mail::text FROM person WHERE id = 1;
SELECT * FROM note;
SELECT 'Ann@example.com'::email = 'Ann@example.com'::text;  -- fails: which of the two is meant?
-- fails: without crm in the search_path there is no operator, rather than a wrong one
SET search_path = regress_email;
SELECT id FROM person WHERE mail = 'ann@example.com';
SELECT id FROM person WHERE mail OPERATOR(crm.=) 'ANN@example.com';
SET search_path = regress_email, crm;

-- parts
SELECT email_domain('ann@Mail.Example.com'), email_domain('"a@b"@example.com'), email_display('用户@例子.中国'), email_display('a@xn--a.com');

-- registrable domains
SELECT v AS input, registrable_domain(v)
FROM (VALUES
    ('ann@mail.example.co.uk'), ('mail.example.com.cn'), ('https://user@www.Example.com:8080/a?b=c@d.org#e'),
    ('example.com.'), ('//example.com'), ('http://sub.例子.中国/'), ('foo.github.io'),
    ('co.uk'), ('github.io'), ('com'), ('192.168.0.1'), ('http://[::1]/'), ('localhost'), (''), ('ann@'), ('a b.com'),
    ('"a@b"@mail.example.org'), (repeat('x', 1000000))
) AS t (v);

-- NULL in, NULL out
SELECT email(NULL), email_domain(NULL), email_display(NULL), registrable_domain(NULL);

-- binary format: version byte, then the text
SELECT email_send('Ann@example.com');

RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA regress_email CASCADE;
DROP OWNED BY regress_email_user;
DROP ROLE regress_email_user;
