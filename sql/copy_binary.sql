-- What COPY writes in the binary format it reads back, and it reads nothing else.
\set SHOW_CONTEXT never
CREATE SCHEMA regress_copy_binary;
SET search_path = regress_copy_binary, crm;
\getenv directory PG_ABS_BUILDDIR
\set file :directory '/crm_copy_binary.data'

CREATE TABLE original (id int, mail email, number phone, code uscc, price amount);
INSERT INTO original VALUES
    (1, 'Ann@例子.中国', '+86 138 0013 8000 ext 5', '91350100M000100Y43', '1234.50 CNY'),
    (2, '"a b"@example.com', '+999123', '91441426MA4UPHE70T', '-0.000001 USD'),
    (3, NULL, NULL, NULL, NULL),
    (4, email(repeat('a', 64) || '@example.com'), '+123456789012345;ext=12345678901234567890', NULL,
     amount(repeat('9', 5000) || '.' || repeat('1', 2000) || ' XAU'));
CREATE TABLE restored (LIKE original);
COPY original TO STDOUT (FORMAT binary) \g :file
\set read '\\copy restored FROM ' :'file' ' (FORMAT binary)'
:read
SELECT count(*) FROM restored;
SELECT * FROM original EXCEPT SELECT * FROM restored;
SELECT o.price::text = r.price::text AS same_digits FROM original AS o JOIN restored AS r USING (id) ORDER BY id;

-- fails: another version of the format, and values that the text format would refuse
CREATE TABLE mail (v email);
CREATE TABLE number (v phone);
CREATE TABLE code (v uscc);
CREATE TABLE price (v amount);
\set read_mail '\\copy mail FROM ' :'file' ' (FORMAT binary)'
\set read_number '\\copy number FROM ' :'file' ' (FORMAT binary)'
\set read_code '\\copy code FROM ' :'file' ' (FORMAT binary)'
\set read_price '\\copy price FROM ' :'file' ' (FORMAT binary)'
COPY (SELECT '\x02'::bytea || 'ann@example.com') TO STDOUT (FORMAT binary) \g :file
:read_mail
:read_number
:read_code
:read_price
COPY (SELECT '\x01'::bytea || 'ann@example') TO STDOUT (FORMAT binary) \g :file
:read_mail
:read_number
:read_code
:read_price
COPY (SELECT '\x01'::bytea) TO STDOUT (FORMAT binary) \g :file
:read_mail
:read_number
:read_code
:read_price
COPY (SELECT ''::bytea) TO STDOUT (FORMAT binary) \g :file
:read_mail
COPY (SELECT '\x01ff40612e6263'::bytea) TO STDOUT (FORMAT binary) \g :file
:read_mail
-- NaN, and a number that is cut off
COPY (SELECT '\x01'::bytea || 'CNY' || numeric_send('NaN')) TO STDOUT (FORMAT binary) \g :file
:read_price
COPY (SELECT '\x01'::bytea || 'CNY' || '\x0002'::bytea) TO STDOUT (FORMAT binary) \g :file
:read_price
COPY (SELECT '\x01'::bytea || 'cny' || numeric_send(1)) TO STDOUT (FORMAT binary) \g :file
:read_price
COPY (SELECT '\x01'::bytea || 'CNY' || numeric_send(1) || '\x00'::bytea) TO STDOUT (FORMAT binary) \g :file
:read_price
SELECT (SELECT count(*) FROM mail) + (SELECT count(*) FROM number) + (SELECT count(*) FROM code) + (SELECT count(*) FROM price) AS rows;

SET client_min_messages = warning;
DROP SCHEMA regress_copy_binary CASCADE;
