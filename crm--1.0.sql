/* crm--1.0.sql: assembled from schema/ by "make"; edit the pieces, not this file. */
\echo Use "CREATE EXTENSION crm CASCADE" to load this file. \quit

---------------------------------------------------------------------
-- crm
---------------------------------------------------------------------

CREATE FUNCTION crm._check_encoding() RETURNS void
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'crm_check_encoding';

COMMENT ON FUNCTION crm._check_encoding() IS
'Errors unless the database encoding is UTF8.';

SELECT crm._check_encoding();

---------------------------------------------------------------------
-- email
---------------------------------------------------------------------

CREATE TYPE crm.email;
COMMENT ON TYPE crm.email IS
'An e-mail address (RFC 5322 addr-spec, UTF-8 allowed; at most 64 octets before the @ and 254 in all). Canonical form: local part in lower case and NFC, quoted only where needed; domain in lower case, international labels as A-labels (UTS #46). Compares and sorts as its text.';

CREATE FUNCTION crm.email_in(cstring) RETURNS crm.email
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_email_in';
COMMENT ON FUNCTION crm.email_in(cstring) IS 'Text input.';

CREATE FUNCTION crm.email_out(crm.email) RETURNS cstring
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_email_out';
COMMENT ON FUNCTION crm.email_out(crm.email) IS 'Text output.';

CREATE FUNCTION crm.email_recv(internal) RETURNS crm.email
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_email_recv';
COMMENT ON FUNCTION crm.email_recv(internal) IS 'Binary input: a version byte (1), then the text.';

CREATE FUNCTION crm.email_send(crm.email) RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_email_send';
COMMENT ON FUNCTION crm.email_send(crm.email) IS 'Binary output: a version byte (1), then the text.';

CREATE TYPE crm.email (
    INPUT = crm.email_in, OUTPUT = crm.email_out, RECEIVE = crm.email_recv, SEND = crm.email_send,
    LIKE = pg_catalog.text, CATEGORY = 'S',
    COLLATABLE = true
);

CREATE FUNCTION crm.email(text) RETURNS crm.email
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_email_from_text';
COMMENT ON FUNCTION crm.email(text) IS
'Parses an e-mail address into its canonical form: the domain in lower-case ASCII, the rest as it is. Error: 22P02 for what is no address; the message says why.';

-- To text only where it is asked for or assigned: were the cast implicit, a query
-- without crm in its search_path would silently compare text with text.
CREATE CAST (crm.email AS text) WITHOUT FUNCTION AS ASSIGNMENT;
COMMENT ON CAST (crm.email AS text) IS 'The canonical text.';
CREATE CAST (text AS crm.email) WITH FUNCTION crm.email(text) AS ASSIGNMENT;
COMMENT ON CAST (text AS crm.email) IS 'Parses as text input does.';

CREATE FUNCTION crm.email_eq(crm.email, crm.email) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'texteq';
COMMENT ON FUNCTION crm.email_eq(crm.email, crm.email) IS 'Implementation of the = operator.';

CREATE FUNCTION crm.email_ne(crm.email, crm.email) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'textne';
COMMENT ON FUNCTION crm.email_ne(crm.email, crm.email) IS 'Implementation of the <> operator.';

CREATE FUNCTION crm.email_lt(crm.email, crm.email) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'text_lt';
COMMENT ON FUNCTION crm.email_lt(crm.email, crm.email) IS 'Implementation of the < operator.';

CREATE FUNCTION crm.email_le(crm.email, crm.email) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'text_le';
COMMENT ON FUNCTION crm.email_le(crm.email, crm.email) IS 'Implementation of the <= operator.';

CREATE FUNCTION crm.email_gt(crm.email, crm.email) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'text_gt';
COMMENT ON FUNCTION crm.email_gt(crm.email, crm.email) IS 'Implementation of the > operator.';

CREATE FUNCTION crm.email_ge(crm.email, crm.email) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'text_ge';
COMMENT ON FUNCTION crm.email_ge(crm.email, crm.email) IS 'Implementation of the >= operator.';

CREATE FUNCTION crm.email_cmp(crm.email, crm.email) RETURNS integer
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'bttextcmp';
COMMENT ON FUNCTION crm.email_cmp(crm.email, crm.email) IS 'Less, equal or greater: negative, zero or positive.';

CREATE FUNCTION crm.email_hash(crm.email) RETURNS integer
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'hashtext';
COMMENT ON FUNCTION crm.email_hash(crm.email) IS 'Hash value.';

CREATE FUNCTION crm.email_hash(crm.email, bigint) RETURNS bigint
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'hashtextextended';
COMMENT ON FUNCTION crm.email_hash(crm.email, bigint) IS 'Hash value with a seed.';

CREATE FUNCTION crm.email_sortsupport(internal) RETURNS void
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'bttextsortsupport';
COMMENT ON FUNCTION crm.email_sortsupport(internal) IS 'Sort support.';

CREATE FUNCTION crm.email_equalimage(oid) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'btvarstrequalimage';
COMMENT ON FUNCTION crm.email_equalimage(oid) IS 'Whether equal values are the same bytes, so that an index may deduplicate them.';

CREATE OPERATOR crm.= (
    LEFTARG = crm.email, RIGHTARG = crm.email, FUNCTION = crm.email_eq,
    COMMUTATOR = OPERATOR(crm.=), NEGATOR = OPERATOR(crm.<>), RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES
);
COMMENT ON OPERATOR crm.= (crm.email, crm.email) IS 'Equal.';

CREATE OPERATOR crm.<> (
    LEFTARG = crm.email, RIGHTARG = crm.email, FUNCTION = crm.email_ne,
    COMMUTATOR = OPERATOR(crm.<>), NEGATOR = OPERATOR(crm.=), RESTRICT = neqsel, JOIN = neqjoinsel
);
COMMENT ON OPERATOR crm.<> (crm.email, crm.email) IS 'Not equal.';

CREATE OPERATOR crm.< (
    LEFTARG = crm.email, RIGHTARG = crm.email, FUNCTION = crm.email_lt,
    COMMUTATOR = OPERATOR(crm.>), NEGATOR = OPERATOR(crm.>=), RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);
COMMENT ON OPERATOR crm.< (crm.email, crm.email) IS 'Less than.';

CREATE OPERATOR crm.<= (
    LEFTARG = crm.email, RIGHTARG = crm.email, FUNCTION = crm.email_le,
    COMMUTATOR = OPERATOR(crm.>=), NEGATOR = OPERATOR(crm.>), RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);
COMMENT ON OPERATOR crm.<= (crm.email, crm.email) IS 'Less than or equal.';

CREATE OPERATOR crm.> (
    LEFTARG = crm.email, RIGHTARG = crm.email, FUNCTION = crm.email_gt,
    COMMUTATOR = OPERATOR(crm.<), NEGATOR = OPERATOR(crm.<=), RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);
COMMENT ON OPERATOR crm.> (crm.email, crm.email) IS 'Greater than.';

CREATE OPERATOR crm.>= (
    LEFTARG = crm.email, RIGHTARG = crm.email, FUNCTION = crm.email_ge,
    COMMUTATOR = OPERATOR(crm.<=), NEGATOR = OPERATOR(crm.<), RESTRICT = scalargesel, JOIN = scalargejoinsel
);
COMMENT ON OPERATOR crm.>= (crm.email, crm.email) IS 'Greater than or equal.';

CREATE OPERATOR CLASS crm.email_ops DEFAULT FOR TYPE crm.email USING btree AS
    OPERATOR 1 crm.<,
    OPERATOR 2 crm.<=,
    OPERATOR 3 crm.=,
    OPERATOR 4 crm.>=,
    OPERATOR 5 crm.>,
    FUNCTION 1 crm.email_cmp(crm.email, crm.email),
    FUNCTION 2 crm.email_sortsupport(internal),
    FUNCTION 4 crm.email_equalimage(oid);
COMMENT ON OPERATOR CLASS crm.email_ops USING btree IS 'Order of crm.email.';
COMMENT ON OPERATOR FAMILY crm.email_ops USING btree IS 'Order of crm.email.';

CREATE OPERATOR CLASS crm.email_ops DEFAULT FOR TYPE crm.email USING hash AS
    OPERATOR 1 crm.=,
    FUNCTION 1 crm.email_hash(crm.email),
    FUNCTION 2 crm.email_hash(crm.email, bigint);
COMMENT ON OPERATOR CLASS crm.email_ops USING hash IS 'Hashing of crm.email.';
COMMENT ON OPERATOR FAMILY crm.email_ops USING hash IS 'Hashing of crm.email.';

CREATE FUNCTION crm.email_domain(crm.email) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_email_domain';
COMMENT ON FUNCTION crm.email_domain(crm.email) IS
'The domain of an address in its canonical ASCII form.';

CREATE FUNCTION crm.email_display(crm.email) RETURNS text
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_email_display';
COMMENT ON FUNCTION crm.email_display(crm.email) IS
'The address with an international domain in its own script, for people to read.';

CREATE FUNCTION crm.registrable_domain(text) RETURNS text
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_registrable_domain';
COMMENT ON FUNCTION crm.registrable_domain(text) IS
'The registrable domain of an e-mail address, host name or URL: one label more than its public suffix (publicsuffix.org, through libpsl), in ASCII lower case. NULL for a public suffix, an IP address and anything that has no domain name. The list ages with the installed libpsl, so the function is not immutable.';

---------------------------------------------------------------------
-- phone
---------------------------------------------------------------------

CREATE TYPE crm.phone;
COMMENT ON TYPE crm.phone IS
'A telephone number in E.164 form, with its extension as in RFC 3966: +8613800138000, +12025550123;ext=5. 3 to 15 digits, extension up to 20. Any usual spelling is accepted; a national number needs the setting crm.default_region. Text in canonical form is accepted by its syntax alone, whatever the installed numbering plans know. Compares by bytes.';

CREATE FUNCTION crm.phone_in(cstring) RETURNS crm.phone
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_phone_in';
COMMENT ON FUNCTION crm.phone_in(cstring) IS 'Text input.';

CREATE FUNCTION crm.phone_out(crm.phone) RETURNS cstring
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_phone_out';
COMMENT ON FUNCTION crm.phone_out(crm.phone) IS 'Text output.';

CREATE FUNCTION crm.phone_recv(internal) RETURNS crm.phone
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_phone_recv';
COMMENT ON FUNCTION crm.phone_recv(internal) IS 'Binary input: a version byte (1), then the text.';

CREATE FUNCTION crm.phone_send(crm.phone) RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_phone_send';
COMMENT ON FUNCTION crm.phone_send(crm.phone) IS 'Binary output: a version byte (1), then the text.';

CREATE TYPE crm.phone (
    INPUT = crm.phone_in, OUTPUT = crm.phone_out, RECEIVE = crm.phone_recv, SEND = crm.phone_send,
    LIKE = pg_catalog.text, CATEGORY = 'S'
);

CREATE FUNCTION crm.phone(text) RETURNS crm.phone
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_phone_from_text';
COMMENT ON FUNCTION crm.phone(text) IS
'Parses a telephone number into its canonical form (E.164, with an extension if there is one); a national number is read as one of crm.default_region. Error: 22P02 for what is no number, or a national one while no region is set.';

-- To text only where it is asked for or assigned: were the cast implicit, a query
-- without crm in its search_path would silently compare text with text.
CREATE CAST (crm.phone AS text) WITHOUT FUNCTION AS ASSIGNMENT;
COMMENT ON CAST (crm.phone AS text) IS 'The canonical text.';
CREATE CAST (text AS crm.phone) WITH FUNCTION crm.phone(text) AS ASSIGNMENT;
COMMENT ON CAST (text AS crm.phone) IS 'Parses as text input does.';

CREATE FUNCTION crm.phone_eq(crm.phone, crm.phone) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'byteaeq';
COMMENT ON FUNCTION crm.phone_eq(crm.phone, crm.phone) IS 'Implementation of the = operator.';

CREATE FUNCTION crm.phone_ne(crm.phone, crm.phone) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'byteane';
COMMENT ON FUNCTION crm.phone_ne(crm.phone, crm.phone) IS 'Implementation of the <> operator.';

CREATE FUNCTION crm.phone_lt(crm.phone, crm.phone) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'bytealt';
COMMENT ON FUNCTION crm.phone_lt(crm.phone, crm.phone) IS 'Implementation of the < operator.';

CREATE FUNCTION crm.phone_le(crm.phone, crm.phone) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'byteale';
COMMENT ON FUNCTION crm.phone_le(crm.phone, crm.phone) IS 'Implementation of the <= operator.';

CREATE FUNCTION crm.phone_gt(crm.phone, crm.phone) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'byteagt';
COMMENT ON FUNCTION crm.phone_gt(crm.phone, crm.phone) IS 'Implementation of the > operator.';

CREATE FUNCTION crm.phone_ge(crm.phone, crm.phone) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'byteage';
COMMENT ON FUNCTION crm.phone_ge(crm.phone, crm.phone) IS 'Implementation of the >= operator.';

CREATE FUNCTION crm.phone_cmp(crm.phone, crm.phone) RETURNS integer
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'byteacmp';
COMMENT ON FUNCTION crm.phone_cmp(crm.phone, crm.phone) IS 'Less, equal or greater: negative, zero or positive.';

CREATE FUNCTION crm.phone_hash(crm.phone) RETURNS integer
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'hashvarlena';
COMMENT ON FUNCTION crm.phone_hash(crm.phone) IS 'Hash value.';

CREATE FUNCTION crm.phone_hash(crm.phone, bigint) RETURNS bigint
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'hashvarlenaextended';
COMMENT ON FUNCTION crm.phone_hash(crm.phone, bigint) IS 'Hash value with a seed.';

CREATE FUNCTION crm.phone_sortsupport(internal) RETURNS void
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'bytea_sortsupport';
COMMENT ON FUNCTION crm.phone_sortsupport(internal) IS 'Sort support.';

CREATE FUNCTION crm.phone_equalimage(oid) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'btequalimage';
COMMENT ON FUNCTION crm.phone_equalimage(oid) IS 'Whether equal values are the same bytes, so that an index may deduplicate them.';

CREATE OPERATOR crm.= (
    LEFTARG = crm.phone, RIGHTARG = crm.phone, FUNCTION = crm.phone_eq,
    COMMUTATOR = OPERATOR(crm.=), NEGATOR = OPERATOR(crm.<>), RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES
);
COMMENT ON OPERATOR crm.= (crm.phone, crm.phone) IS 'Equal.';

CREATE OPERATOR crm.<> (
    LEFTARG = crm.phone, RIGHTARG = crm.phone, FUNCTION = crm.phone_ne,
    COMMUTATOR = OPERATOR(crm.<>), NEGATOR = OPERATOR(crm.=), RESTRICT = neqsel, JOIN = neqjoinsel
);
COMMENT ON OPERATOR crm.<> (crm.phone, crm.phone) IS 'Not equal.';

CREATE OPERATOR crm.< (
    LEFTARG = crm.phone, RIGHTARG = crm.phone, FUNCTION = crm.phone_lt,
    COMMUTATOR = OPERATOR(crm.>), NEGATOR = OPERATOR(crm.>=), RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);
COMMENT ON OPERATOR crm.< (crm.phone, crm.phone) IS 'Less than.';

CREATE OPERATOR crm.<= (
    LEFTARG = crm.phone, RIGHTARG = crm.phone, FUNCTION = crm.phone_le,
    COMMUTATOR = OPERATOR(crm.>=), NEGATOR = OPERATOR(crm.>), RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);
COMMENT ON OPERATOR crm.<= (crm.phone, crm.phone) IS 'Less than or equal.';

CREATE OPERATOR crm.> (
    LEFTARG = crm.phone, RIGHTARG = crm.phone, FUNCTION = crm.phone_gt,
    COMMUTATOR = OPERATOR(crm.<), NEGATOR = OPERATOR(crm.<=), RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);
COMMENT ON OPERATOR crm.> (crm.phone, crm.phone) IS 'Greater than.';

CREATE OPERATOR crm.>= (
    LEFTARG = crm.phone, RIGHTARG = crm.phone, FUNCTION = crm.phone_ge,
    COMMUTATOR = OPERATOR(crm.<=), NEGATOR = OPERATOR(crm.<), RESTRICT = scalargesel, JOIN = scalargejoinsel
);
COMMENT ON OPERATOR crm.>= (crm.phone, crm.phone) IS 'Greater than or equal.';

CREATE OPERATOR CLASS crm.phone_ops DEFAULT FOR TYPE crm.phone USING btree AS
    OPERATOR 1 crm.<,
    OPERATOR 2 crm.<=,
    OPERATOR 3 crm.=,
    OPERATOR 4 crm.>=,
    OPERATOR 5 crm.>,
    FUNCTION 1 crm.phone_cmp(crm.phone, crm.phone),
    FUNCTION 2 crm.phone_sortsupport(internal),
    FUNCTION 4 crm.phone_equalimage(oid);
COMMENT ON OPERATOR CLASS crm.phone_ops USING btree IS 'Order of crm.phone.';
COMMENT ON OPERATOR FAMILY crm.phone_ops USING btree IS 'Order of crm.phone.';

CREATE OPERATOR CLASS crm.phone_ops DEFAULT FOR TYPE crm.phone USING hash AS
    OPERATOR 1 crm.=,
    FUNCTION 1 crm.phone_hash(crm.phone),
    FUNCTION 2 crm.phone_hash(crm.phone, bigint);
COMMENT ON OPERATOR CLASS crm.phone_ops USING hash IS 'Hashing of crm.phone.';
COMMENT ON OPERATOR FAMILY crm.phone_ops USING hash IS 'Hashing of crm.phone.';

CREATE FUNCTION crm.phone(number text, region text) RETURNS crm.phone
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'crm_phone_from_region';
COMMENT ON FUNCTION crm.phone(text, text) IS
'Parses a telephone number into its canonical form (E.164); a national number is read as one of the region, a two-letter code of ISO 3166. Errors: 22P02 for what is no number, 22023 for a region that is none.';

CREATE FUNCTION crm.phone_region(crm.phone) RETURNS text
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'crm_phone_region';
COMMENT ON FUNCTION crm.phone_region(crm.phone) IS
'Two-letter code (ISO 3166) of the country the number belongs to; NULL if it belongs to none or the installed numbering plans do not know it.';

CREATE FUNCTION crm.phone_national(crm.phone) RETURNS text
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'crm_phone_national';
COMMENT ON FUNCTION crm.phone_national(crm.phone) IS
'The number as people in its country write it, for display; the stored form if the installed numbering plans do not know it.';

CREATE FUNCTION crm.phone_international(crm.phone) RETURNS text
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'crm_phone_international';
COMMENT ON FUNCTION crm.phone_international(crm.phone) IS
'The number as people abroad write it, for display; the stored form if the installed numbering plans do not know it.';

CREATE FUNCTION crm.phone_extension(crm.phone) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_phone_extension';
COMMENT ON FUNCTION crm.phone_extension(crm.phone) IS
'The digits of the extension; NULL if there is none.';

CREATE FUNCTION crm.phone_is_valid(crm.phone) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'crm_phone_is_valid';
COMMENT ON FUNCTION crm.phone_is_valid(crm.phone) IS
'True if the number lies in a range its country has assigned, as far as the installed numbering plans know.';

---------------------------------------------------------------------
-- uscc
---------------------------------------------------------------------

CREATE TYPE crm.uscc;
COMMENT ON TYPE crm.uscc IS
'A unified social credit code of the People''s Republic of China (GB 32100-2015): 18 digits and capital letters, the last a check character. Lower-case and full-width input, spaces and hyphens are accepted. Compares by bytes.';

CREATE FUNCTION crm.uscc_in(cstring) RETURNS crm.uscc
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_uscc_in';
COMMENT ON FUNCTION crm.uscc_in(cstring) IS 'Text input.';

CREATE FUNCTION crm.uscc_out(crm.uscc) RETURNS cstring
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_uscc_out';
COMMENT ON FUNCTION crm.uscc_out(crm.uscc) IS 'Text output.';

CREATE FUNCTION crm.uscc_recv(internal) RETURNS crm.uscc
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_uscc_recv';
COMMENT ON FUNCTION crm.uscc_recv(internal) IS 'Binary input: a version byte (1), then the text.';

CREATE FUNCTION crm.uscc_send(crm.uscc) RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_uscc_send';
COMMENT ON FUNCTION crm.uscc_send(crm.uscc) IS 'Binary output: a version byte (1), then the text.';

CREATE TYPE crm.uscc (
    INPUT = crm.uscc_in, OUTPUT = crm.uscc_out, RECEIVE = crm.uscc_recv, SEND = crm.uscc_send,
    LIKE = pg_catalog.text, CATEGORY = 'S'
);

CREATE FUNCTION crm.uscc(text) RETURNS crm.uscc
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_uscc_from_text';
COMMENT ON FUNCTION crm.uscc(text) IS
'Parses a unified social credit code (GB 32100-2015) into its canonical form, 18 capitals and digits. Error: 22P02 for another length, other characters or a wrong check digit.';

-- To text only where it is asked for or assigned: were the cast implicit, a query
-- without crm in its search_path would silently compare text with text.
CREATE CAST (crm.uscc AS text) WITHOUT FUNCTION AS ASSIGNMENT;
COMMENT ON CAST (crm.uscc AS text) IS 'The canonical text.';
CREATE CAST (text AS crm.uscc) WITH FUNCTION crm.uscc(text) AS ASSIGNMENT;
COMMENT ON CAST (text AS crm.uscc) IS 'Parses as text input does.';

CREATE FUNCTION crm.uscc_eq(crm.uscc, crm.uscc) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'byteaeq';
COMMENT ON FUNCTION crm.uscc_eq(crm.uscc, crm.uscc) IS 'Implementation of the = operator.';

CREATE FUNCTION crm.uscc_ne(crm.uscc, crm.uscc) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'byteane';
COMMENT ON FUNCTION crm.uscc_ne(crm.uscc, crm.uscc) IS 'Implementation of the <> operator.';

CREATE FUNCTION crm.uscc_lt(crm.uscc, crm.uscc) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'bytealt';
COMMENT ON FUNCTION crm.uscc_lt(crm.uscc, crm.uscc) IS 'Implementation of the < operator.';

CREATE FUNCTION crm.uscc_le(crm.uscc, crm.uscc) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'byteale';
COMMENT ON FUNCTION crm.uscc_le(crm.uscc, crm.uscc) IS 'Implementation of the <= operator.';

CREATE FUNCTION crm.uscc_gt(crm.uscc, crm.uscc) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'byteagt';
COMMENT ON FUNCTION crm.uscc_gt(crm.uscc, crm.uscc) IS 'Implementation of the > operator.';

CREATE FUNCTION crm.uscc_ge(crm.uscc, crm.uscc) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'byteage';
COMMENT ON FUNCTION crm.uscc_ge(crm.uscc, crm.uscc) IS 'Implementation of the >= operator.';

CREATE FUNCTION crm.uscc_cmp(crm.uscc, crm.uscc) RETURNS integer
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'byteacmp';
COMMENT ON FUNCTION crm.uscc_cmp(crm.uscc, crm.uscc) IS 'Less, equal or greater: negative, zero or positive.';

CREATE FUNCTION crm.uscc_hash(crm.uscc) RETURNS integer
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'hashvarlena';
COMMENT ON FUNCTION crm.uscc_hash(crm.uscc) IS 'Hash value.';

CREATE FUNCTION crm.uscc_hash(crm.uscc, bigint) RETURNS bigint
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'hashvarlenaextended';
COMMENT ON FUNCTION crm.uscc_hash(crm.uscc, bigint) IS 'Hash value with a seed.';

CREATE FUNCTION crm.uscc_sortsupport(internal) RETURNS void
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'bytea_sortsupport';
COMMENT ON FUNCTION crm.uscc_sortsupport(internal) IS 'Sort support.';

CREATE FUNCTION crm.uscc_equalimage(oid) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'btequalimage';
COMMENT ON FUNCTION crm.uscc_equalimage(oid) IS 'Whether equal values are the same bytes, so that an index may deduplicate them.';

CREATE OPERATOR crm.= (
    LEFTARG = crm.uscc, RIGHTARG = crm.uscc, FUNCTION = crm.uscc_eq,
    COMMUTATOR = OPERATOR(crm.=), NEGATOR = OPERATOR(crm.<>), RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES
);
COMMENT ON OPERATOR crm.= (crm.uscc, crm.uscc) IS 'Equal.';

CREATE OPERATOR crm.<> (
    LEFTARG = crm.uscc, RIGHTARG = crm.uscc, FUNCTION = crm.uscc_ne,
    COMMUTATOR = OPERATOR(crm.<>), NEGATOR = OPERATOR(crm.=), RESTRICT = neqsel, JOIN = neqjoinsel
);
COMMENT ON OPERATOR crm.<> (crm.uscc, crm.uscc) IS 'Not equal.';

CREATE OPERATOR crm.< (
    LEFTARG = crm.uscc, RIGHTARG = crm.uscc, FUNCTION = crm.uscc_lt,
    COMMUTATOR = OPERATOR(crm.>), NEGATOR = OPERATOR(crm.>=), RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);
COMMENT ON OPERATOR crm.< (crm.uscc, crm.uscc) IS 'Less than.';

CREATE OPERATOR crm.<= (
    LEFTARG = crm.uscc, RIGHTARG = crm.uscc, FUNCTION = crm.uscc_le,
    COMMUTATOR = OPERATOR(crm.>=), NEGATOR = OPERATOR(crm.>), RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);
COMMENT ON OPERATOR crm.<= (crm.uscc, crm.uscc) IS 'Less than or equal.';

CREATE OPERATOR crm.> (
    LEFTARG = crm.uscc, RIGHTARG = crm.uscc, FUNCTION = crm.uscc_gt,
    COMMUTATOR = OPERATOR(crm.<), NEGATOR = OPERATOR(crm.<=), RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);
COMMENT ON OPERATOR crm.> (crm.uscc, crm.uscc) IS 'Greater than.';

CREATE OPERATOR crm.>= (
    LEFTARG = crm.uscc, RIGHTARG = crm.uscc, FUNCTION = crm.uscc_ge,
    COMMUTATOR = OPERATOR(crm.<=), NEGATOR = OPERATOR(crm.<), RESTRICT = scalargesel, JOIN = scalargejoinsel
);
COMMENT ON OPERATOR crm.>= (crm.uscc, crm.uscc) IS 'Greater than or equal.';

CREATE OPERATOR CLASS crm.uscc_ops DEFAULT FOR TYPE crm.uscc USING btree AS
    OPERATOR 1 crm.<,
    OPERATOR 2 crm.<=,
    OPERATOR 3 crm.=,
    OPERATOR 4 crm.>=,
    OPERATOR 5 crm.>,
    FUNCTION 1 crm.uscc_cmp(crm.uscc, crm.uscc),
    FUNCTION 2 crm.uscc_sortsupport(internal),
    FUNCTION 4 crm.uscc_equalimage(oid);
COMMENT ON OPERATOR CLASS crm.uscc_ops USING btree IS 'Order of crm.uscc.';
COMMENT ON OPERATOR FAMILY crm.uscc_ops USING btree IS 'Order of crm.uscc.';

CREATE OPERATOR CLASS crm.uscc_ops DEFAULT FOR TYPE crm.uscc USING hash AS
    OPERATOR 1 crm.=,
    FUNCTION 1 crm.uscc_hash(crm.uscc),
    FUNCTION 2 crm.uscc_hash(crm.uscc, bigint);
COMMENT ON OPERATOR CLASS crm.uscc_ops USING hash IS 'Hashing of crm.uscc.';
COMMENT ON OPERATOR FAMILY crm.uscc_ops USING hash IS 'Hashing of crm.uscc.';

CREATE FUNCTION crm.uscc_authority(crm.uscc) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_uscc_authority';
COMMENT ON FUNCTION crm.uscc_authority(crm.uscc) IS
'Character 1: the authority that registered the organisation, for example 9 for market regulation, 5 for civil affairs, 1 for the offices of organisation and staffing.';

CREATE FUNCTION crm.uscc_category(crm.uscc) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_uscc_category';
COMMENT ON FUNCTION crm.uscc_category(crm.uscc) IS
'Character 2: the kind of organisation within its authority, for example 91 enterprise, 92 sole proprietor, 93 farmers'' cooperative.';

CREATE FUNCTION crm.uscc_region(crm.uscc) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_uscc_region';
COMMENT ON FUNCTION crm.uscc_region(crm.uscc) IS
'Characters 3 to 8: the administrative division of the registering authority (GB/T 2260), 100000 for the national level.';

CREATE FUNCTION crm.uscc_organization(crm.uscc) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_uscc_organization';
COMMENT ON FUNCTION crm.uscc_organization(crm.uscc) IS
'Characters 9 to 17: the organisation code (GB 11714).';

---------------------------------------------------------------------
-- amount
---------------------------------------------------------------------

CREATE TYPE crm.amount;
COMMENT ON TYPE crm.amount IS
'An amount of money: a finite number and the three letters of its currency (ISO 4217), 1234.50 CNY. Arithmetic stays in one currency; mixing raises an error (22000). Order is by currency, then by number. The digits after the point are kept as given and compare by value.';

CREATE FUNCTION crm.amount_in(cstring) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_in';
COMMENT ON FUNCTION crm.amount_in(cstring) IS 'Text input.';

CREATE FUNCTION crm.amount_out(crm.amount) RETURNS cstring
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_out';
COMMENT ON FUNCTION crm.amount_out(crm.amount) IS 'Text output.';

CREATE FUNCTION crm.amount_recv(internal) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_recv';
COMMENT ON FUNCTION crm.amount_recv(internal) IS
'Binary input: a version byte (1), the three letters of the currency, then the binary format of numeric.';

CREATE FUNCTION crm.amount_send(crm.amount) RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_send';
COMMENT ON FUNCTION crm.amount_send(crm.amount) IS
'Binary output: a version byte (1), the three letters of the currency, then the binary format of numeric.';

CREATE TYPE crm.amount (
    INPUT = crm.amount_in, OUTPUT = crm.amount_out, RECEIVE = crm.amount_recv, SEND = crm.amount_send,
    INTERNALLENGTH = VARIABLE, STORAGE = main
);

CREATE FUNCTION crm.amount(text) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_from_text';
COMMENT ON FUNCTION crm.amount(text) IS
'Parses an amount: a number with a decimal point and no separators, and a currency code after or before it.';

CREATE FUNCTION crm.amount(value numeric, currency text) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_construct';
COMMENT ON FUNCTION crm.amount(numeric, text) IS
'The amount of a finite number in a currency (ISO 4217).';

CREATE FUNCTION crm.amount_text(crm.amount) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_to_text';
COMMENT ON FUNCTION crm.amount_text(crm.amount) IS 'The amount as text, as it is output.';

CREATE CAST (crm.amount AS text) WITH FUNCTION crm.amount_text(crm.amount) AS ASSIGNMENT;
COMMENT ON CAST (crm.amount AS text) IS 'As text output does.';
CREATE CAST (text AS crm.amount) WITH FUNCTION crm.amount(text) AS ASSIGNMENT;
COMMENT ON CAST (text AS crm.amount) IS 'Parses as text input does.';

CREATE FUNCTION crm.amount_eq(crm.amount, crm.amount) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_eq';
COMMENT ON FUNCTION crm.amount_eq(crm.amount, crm.amount) IS 'Implementation of the = operator.';

CREATE FUNCTION crm.amount_ne(crm.amount, crm.amount) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_ne';
COMMENT ON FUNCTION crm.amount_ne(crm.amount, crm.amount) IS 'Implementation of the <> operator.';

CREATE FUNCTION crm.amount_lt(crm.amount, crm.amount) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_lt';
COMMENT ON FUNCTION crm.amount_lt(crm.amount, crm.amount) IS 'Implementation of the < operator.';

CREATE FUNCTION crm.amount_le(crm.amount, crm.amount) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_le';
COMMENT ON FUNCTION crm.amount_le(crm.amount, crm.amount) IS 'Implementation of the <= operator.';

CREATE FUNCTION crm.amount_gt(crm.amount, crm.amount) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_gt';
COMMENT ON FUNCTION crm.amount_gt(crm.amount, crm.amount) IS 'Implementation of the > operator.';

CREATE FUNCTION crm.amount_ge(crm.amount, crm.amount) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_ge';
COMMENT ON FUNCTION crm.amount_ge(crm.amount, crm.amount) IS 'Implementation of the >= operator.';

CREATE FUNCTION crm.amount_cmp(crm.amount, crm.amount) RETURNS integer
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_cmp';
COMMENT ON FUNCTION crm.amount_cmp(crm.amount, crm.amount) IS 'Less, equal or greater: negative, zero or positive.';

CREATE FUNCTION crm.amount_hash(crm.amount) RETURNS integer
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_hash';
COMMENT ON FUNCTION crm.amount_hash(crm.amount) IS 'Hash value.';

CREATE FUNCTION crm.amount_hash(crm.amount, bigint) RETURNS bigint
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_hash_extended';
COMMENT ON FUNCTION crm.amount_hash(crm.amount, bigint) IS 'Hash value with a seed.';

CREATE OPERATOR crm.= (
    LEFTARG = crm.amount, RIGHTARG = crm.amount, FUNCTION = crm.amount_eq,
    COMMUTATOR = OPERATOR(crm.=), NEGATOR = OPERATOR(crm.<>), RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES
);
COMMENT ON OPERATOR crm.= (crm.amount, crm.amount) IS 'Equal. Amounts in different currencies are ordered by currency.';

CREATE OPERATOR crm.<> (
    LEFTARG = crm.amount, RIGHTARG = crm.amount, FUNCTION = crm.amount_ne,
    COMMUTATOR = OPERATOR(crm.<>), NEGATOR = OPERATOR(crm.=), RESTRICT = neqsel, JOIN = neqjoinsel
);
COMMENT ON OPERATOR crm.<> (crm.amount, crm.amount) IS 'Not equal. Amounts in different currencies are ordered by currency.';

CREATE OPERATOR crm.< (
    LEFTARG = crm.amount, RIGHTARG = crm.amount, FUNCTION = crm.amount_lt,
    COMMUTATOR = OPERATOR(crm.>), NEGATOR = OPERATOR(crm.>=), RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);
COMMENT ON OPERATOR crm.< (crm.amount, crm.amount) IS 'Less than. Amounts in different currencies are ordered by currency.';

CREATE OPERATOR crm.<= (
    LEFTARG = crm.amount, RIGHTARG = crm.amount, FUNCTION = crm.amount_le,
    COMMUTATOR = OPERATOR(crm.>=), NEGATOR = OPERATOR(crm.>), RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);
COMMENT ON OPERATOR crm.<= (crm.amount, crm.amount) IS 'Less than or equal. Amounts in different currencies are ordered by currency.';

CREATE OPERATOR crm.> (
    LEFTARG = crm.amount, RIGHTARG = crm.amount, FUNCTION = crm.amount_gt,
    COMMUTATOR = OPERATOR(crm.<), NEGATOR = OPERATOR(crm.<=), RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);
COMMENT ON OPERATOR crm.> (crm.amount, crm.amount) IS 'Greater than. Amounts in different currencies are ordered by currency.';

CREATE OPERATOR crm.>= (
    LEFTARG = crm.amount, RIGHTARG = crm.amount, FUNCTION = crm.amount_ge,
    COMMUTATOR = OPERATOR(crm.<=), NEGATOR = OPERATOR(crm.<), RESTRICT = scalargesel, JOIN = scalargejoinsel
);
COMMENT ON OPERATOR crm.>= (crm.amount, crm.amount) IS 'Greater than or equal. Amounts in different currencies are ordered by currency.';

CREATE OPERATOR CLASS crm.amount_ops DEFAULT FOR TYPE crm.amount USING btree AS
    OPERATOR 1 crm.<,
    OPERATOR 2 crm.<=,
    OPERATOR 3 crm.=,
    OPERATOR 4 crm.>=,
    OPERATOR 5 crm.>,
    FUNCTION 1 crm.amount_cmp(crm.amount, crm.amount);
COMMENT ON OPERATOR CLASS crm.amount_ops USING btree IS 'Order of crm.amount.';
COMMENT ON OPERATOR FAMILY crm.amount_ops USING btree IS 'Order of crm.amount.';

CREATE OPERATOR CLASS crm.amount_ops DEFAULT FOR TYPE crm.amount USING hash AS
    OPERATOR 1 crm.=,
    FUNCTION 1 crm.amount_hash(crm.amount),
    FUNCTION 2 crm.amount_hash(crm.amount, bigint);
COMMENT ON OPERATOR CLASS crm.amount_ops USING hash IS 'Hashing of crm.amount.';
COMMENT ON OPERATOR FAMILY crm.amount_ops USING hash IS 'Hashing of crm.amount.';

CREATE FUNCTION crm.amount_value(crm.amount) RETURNS numeric
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_value';
COMMENT ON FUNCTION crm.amount_value(crm.amount) IS 'The number without its currency.';

CREATE FUNCTION crm.amount_currency(crm.amount) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_currency';
COMMENT ON FUNCTION crm.amount_currency(crm.amount) IS 'The three letters of the currency (ISO 4217).';

CREATE FUNCTION crm.amount_add(crm.amount, crm.amount) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_add';
COMMENT ON FUNCTION crm.amount_add(crm.amount, crm.amount) IS 'The sum of two amounts in one currency. Errors: 22000 for two currencies, 22003 for a sum that is out of range.';

CREATE FUNCTION crm.amount_subtract(crm.amount, crm.amount) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_subtract';
COMMENT ON FUNCTION crm.amount_subtract(crm.amount, crm.amount) IS 'The difference of two amounts in one currency. Errors: 22000 for two currencies, 22003 out of range.';

CREATE FUNCTION crm.amount_multiply(crm.amount, numeric) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_multiply';
COMMENT ON FUNCTION crm.amount_multiply(crm.amount, numeric) IS 'An amount times a finite number, not rounded.';

CREATE FUNCTION crm.amount_multiply(numeric, crm.amount) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_multiply_left';
COMMENT ON FUNCTION crm.amount_multiply(numeric, crm.amount) IS 'A finite number times an amount, not rounded.';

CREATE FUNCTION crm.amount_divide(crm.amount, numeric) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_divide';
COMMENT ON FUNCTION crm.amount_divide(crm.amount, numeric) IS 'An amount divided by a finite number, with the digits numeric gives. Errors: 22012 for 0, 22003 for infinity, NaN or a result out of range.';

CREATE FUNCTION crm.amount_divide(crm.amount, crm.amount) RETURNS numeric
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_ratio';
COMMENT ON FUNCTION crm.amount_divide(crm.amount, crm.amount) IS 'The ratio of two amounts in one currency. Errors: 22000 for two currencies, 22012 if the second is 0.';

CREATE FUNCTION crm.amount_negate(crm.amount) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_negate';
COMMENT ON FUNCTION crm.amount_negate(crm.amount) IS 'The amount with the other sign.';

CREATE FUNCTION crm.amount_abs(crm.amount) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_abs';
COMMENT ON FUNCTION crm.amount_abs(crm.amount) IS 'The amount without its sign.';

CREATE FUNCTION crm.amount_round(crm.amount, integer) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_round';
COMMENT ON FUNCTION crm.amount_round(crm.amount, integer) IS 'The amount rounded to so many digits after the point, halves away from zero.';

CREATE OPERATOR crm.+ (LEFTARG = crm.amount, RIGHTARG = crm.amount, FUNCTION = crm.amount_add, COMMUTATOR = OPERATOR(crm.+));
COMMENT ON OPERATOR crm.+ (crm.amount, crm.amount) IS 'Sum; both in one currency.';
CREATE OPERATOR crm.- (LEFTARG = crm.amount, RIGHTARG = crm.amount, FUNCTION = crm.amount_subtract);
COMMENT ON OPERATOR crm.- (crm.amount, crm.amount) IS 'Difference; both in one currency.';
CREATE OPERATOR crm.- (RIGHTARG = crm.amount, FUNCTION = crm.amount_negate);
COMMENT ON OPERATOR crm.- (NONE, crm.amount) IS 'The other sign.';
CREATE OPERATOR crm.* (LEFTARG = crm.amount, RIGHTARG = numeric, FUNCTION = crm.amount_multiply, COMMUTATOR = OPERATOR(crm.*));
COMMENT ON OPERATOR crm.* (crm.amount, numeric) IS 'Product with a number.';
CREATE OPERATOR crm.* (LEFTARG = numeric, RIGHTARG = crm.amount, FUNCTION = crm.amount_multiply, COMMUTATOR = OPERATOR(crm.*));
COMMENT ON OPERATOR crm.* (numeric, crm.amount) IS 'Product with a number.';
CREATE OPERATOR crm./ (LEFTARG = crm.amount, RIGHTARG = numeric, FUNCTION = crm.amount_divide);
COMMENT ON OPERATOR crm./ (crm.amount, numeric) IS 'Quotient by a number.';
CREATE OPERATOR crm./ (LEFTARG = crm.amount, RIGHTARG = crm.amount, FUNCTION = crm.amount_divide);
COMMENT ON OPERATOR crm./ (crm.amount, crm.amount) IS 'Ratio; both in one currency.';

CREATE FUNCTION crm.amount_smaller(crm.amount, crm.amount) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_smaller';
COMMENT ON FUNCTION crm.amount_smaller(crm.amount, crm.amount) IS 'The smaller of two amounts in one currency.';

CREATE FUNCTION crm.amount_larger(crm.amount, crm.amount) RETURNS crm.amount
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_amount_larger';
COMMENT ON FUNCTION crm.amount_larger(crm.amount, crm.amount) IS 'The larger of two amounts in one currency.';

-- No SORTOP for min and max: an index would answer across currencies without an error.
CREATE AGGREGATE crm.sum(crm.amount) (SFUNC = crm.amount_add, STYPE = crm.amount, COMBINEFUNC = crm.amount_add, PARALLEL = safe);
COMMENT ON AGGREGATE crm.sum(crm.amount) IS 'The sum of amounts in one currency; NULL for no rows. Error: 22000 for several currencies: group by crm.amount_currency().';
CREATE AGGREGATE crm.min(crm.amount) (SFUNC = crm.amount_smaller, STYPE = crm.amount, COMBINEFUNC = crm.amount_smaller, PARALLEL = safe);
COMMENT ON AGGREGATE crm.min(crm.amount) IS 'The smallest of amounts in one currency; NULL for no rows. Error: 22000 for several currencies.';
CREATE AGGREGATE crm.max(crm.amount) (SFUNC = crm.amount_larger, STYPE = crm.amount, COMBINEFUNC = crm.amount_larger, PARALLEL = safe);
COMMENT ON AGGREGATE crm.max(crm.amount) IS 'The largest of amounts in one currency; NULL for no rows. Error: 22000 for several currencies.';

---------------------------------------------------------------------
-- name
---------------------------------------------------------------------

CREATE FUNCTION crm.name_key(name text) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10
AS 'MODULE_PATHNAME', 'crm_name_key_sql';

COMMENT ON FUNCTION crm.name_key(text) IS
'Matching key of a person''s or company''s name: ASCII words in lower case joined by single spaces, legal forms left out. A Han character is its pinyin syllable without tone; other scripts are romanised. At most 2,047 bytes; empty only if the name has no letter, digit or symbol. The same in every database, locale and ICU version.';

CREATE FUNCTION crm.name_similarity(a text, b text) RETURNS real
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 50
AS 'MODULE_PATHNAME', 'crm_name_similarity_sql';

COMMENT ON FUNCTION crm.name_similarity(text, text) IS
'How alike two names are, from 0 to 1; 1 if their keys are equal, 0 if either key is empty. Symmetric. Words that many firms share (regions, industries, groups) weigh less, legal forms nothing.';

CREATE FUNCTION crm.name_parts(name text, OUT ordinal integer, OUT part text, OUT kind text, OUT script text)
RETURNS SETOF record
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 50 ROWS 8
AS 'MODULE_PATHNAME', 'crm_name_parts';

COMMENT ON FUNCTION crm.name_parts(text) IS
'Explains a name key: one row for each token in order, its ASCII spelling, its kind (core, legal_form, branch, region, group, industry) and the script it was written in (latin, digits, han, kana, hangul, cyrillic, greek, other).';

---------------------------------------------------------------------
-- canonical
---------------------------------------------------------------------

CREATE FUNCTION crm.canonicalize() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_canonicalize';
COMMENT ON FUNCTION crm.canonicalize() IS
'Trigger BEFORE INSERT OR UPDATE, FOR EACH ROW: brings columns of type text, character varying and character into canonical form. Arguments ''column=kind'' with kind name, phone, email, uscc, domain, website, country or currency, and ''full_name=given_name,family_name'' for a name composed where it is null. An empty value becomes null. On UPDATE only columns whose value changes are looked at. National telephone numbers are read as those of the row''s country, else of crm.default_region. Text that cannot be parsed is kept, trimmed; with crm.strict_input on, all faults of a row are one error (22P02).';

---------------------------------------------------------------------
-- The workspace's DDL (schema/workspace), as data
---------------------------------------------------------------------

CREATE FUNCTION crm._workspace_ddl(OUT version integer, OUT topic text, OUT ddl text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $_workspace_ddl_$
SELECT * FROM (VALUES
(1::integer, 'workspace', $_ddl_$

COMMENT ON TABLE @workspace@.crm_meta IS 'Marks this schema as a crm workspace and holds its schema version. One row, never removed.';
COMMENT ON COLUMN @workspace@.crm_meta.one IS 'Always true: the table has one row.';
COMMENT ON COLUMN @workspace@.crm_meta.schema_version IS 'Version of the workspace''s tables; crm.upgrade_workspace() raises it.';
COMMENT ON COLUMN @workspace@.crm_meta.created_at IS 'When the workspace was created.';

$_ddl_$),
(NULL::integer, 'workspace', $_ddl_$

CREATE OR REPLACE VIEW @workspace@.access_kind WITH (security_invoker) AS
SELECT true AS app, true AS report, true AS gateway, true AS auditor;
COMMENT ON VIEW @workspace@.access_kind IS 'Marks the roles of this workspace: who may read a column of it was given that kind of access by crm.grant_access().';
COMMENT ON COLUMN @workspace@.access_kind.app IS 'Readable by applications.';
COMMENT ON COLUMN @workspace@.access_kind.report IS 'Readable by reporting tools.';
COMMENT ON COLUMN @workspace@.access_kind.gateway IS 'Readable by gateways: applications that name the member they act for.';
COMMENT ON COLUMN @workspace@.access_kind.auditor IS 'Readable by auditors.';
$_ddl_$),
(1::integer, 'access', $_ddl_$

CREATE TABLE @workspace@.team (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    parent_id bigint REFERENCES @workspace@.team,
    record_access text NOT NULL DEFAULT 'none' CONSTRAINT team_record_access_known CHECK (record_access IN ('none', 'read', 'edit')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    row_version integer NOT NULL DEFAULT 1
);
CREATE INDEX ON @workspace@.team (parent_id);
COMMENT ON TABLE @workspace@.team IS 'A group of members. A team includes the members of the teams below it.';
COMMENT ON COLUMN @workspace@.team.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.team.name IS 'Name of the team.';
COMMENT ON COLUMN @workspace@.team.created_at IS 'When the row was inserted; may be given on import.';
COMMENT ON COLUMN @workspace@.team.updated_at IS 'Start of the transaction that last changed the row; kept by crm.touch().';
COMMENT ON COLUMN @workspace@.team.row_version IS 'Starts at 1 and grows by 1 with each change; see crm.touch().';
COMMENT ON COLUMN @workspace@.team.parent_id IS 'The team this one is part of.';
COMMENT ON COLUMN @workspace@.team.record_access IS 'What members of the team may do with each other''s records: none, read or edit.';

CREATE TABLE @workspace@.member (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    email text,
    phone text,
    manager_id bigint REFERENCES @workspace@.member,
    login_role text UNIQUE,
    access text NOT NULL DEFAULT 'standard' CONSTRAINT member_access_known CHECK (access IN ('standard', 'read_all', 'all')),
    active boolean NOT NULL DEFAULT true,
    time_zone text NOT NULL DEFAULT 'UTC',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    row_version integer NOT NULL DEFAULT 1
);
CREATE INDEX ON @workspace@.member (manager_id);
-- Asked for each batch of events.
CREATE INDEX ON @workspace@.member (id) WHERE NOT active;
COMMENT ON TABLE @workspace@.member IS 'A person who works in this workspace and owns records.';
COMMENT ON COLUMN @workspace@.member.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.member.name IS 'Name as colleagues know it.';
COMMENT ON COLUMN @workspace@.member.email IS 'E-mail address, canonical form.';
COMMENT ON COLUMN @workspace@.member.phone IS 'Telephone number, E.164 once recognised.';
COMMENT ON COLUMN @workspace@.member.created_at IS 'When the row was inserted; may be given on import.';
COMMENT ON COLUMN @workspace@.member.updated_at IS 'Start of the transaction that last changed the row; kept by crm.touch().';
COMMENT ON COLUMN @workspace@.member.row_version IS 'Starts at 1 and grows by 1 with each change; see crm.touch().';
COMMENT ON COLUMN @workspace@.member.manager_id IS 'The member this one reports to, who sees and edits all records of this one and of everyone below.';
COMMENT ON COLUMN @workspace@.member.login_role IS 'The role this person logs in with. Compared with session_user, so that SET ROLE and SECURITY DEFINER do not change who one is.';
COMMENT ON COLUMN @workspace@.member.access IS 'standard: by ownership, hierarchy, team and share; read_all: also reads every record; all: reads and edits every record and maintains members, teams, picklists, calendars, exchange rates and settings.';
COMMENT ON COLUMN @workspace@.member.active IS 'False: the person is nobody and sees nothing, at once; the manager keeps access to the records.';
COMMENT ON COLUMN @workspace@.member.time_zone IS 'IANA name of the time zone this person works in.';

CREATE TABLE @workspace@.team_member (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    team_id bigint NOT NULL REFERENCES @workspace@.team ON DELETE CASCADE,
    member_id bigint NOT NULL REFERENCES @workspace@.member ON DELETE CASCADE,
    UNIQUE (team_id, member_id)
);
CREATE INDEX ON @workspace@.team_member (member_id);
COMMENT ON TABLE @workspace@.team_member IS 'Who belongs to which team.';
COMMENT ON COLUMN @workspace@.team_member.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.team_member.team_id IS 'The team.';
COMMENT ON COLUMN @workspace@.team_member.member_id IS 'The member who belongs to it.';

CREATE TABLE @workspace@.share (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    record_id bigint NOT NULL,
    member_id bigint REFERENCES @workspace@.member ON DELETE CASCADE,
    team_id bigint REFERENCES @workspace@.team ON DELETE CASCADE,
    access text NOT NULL DEFAULT 'read' CONSTRAINT share_access_known CHECK (access IN ('read', 'edit')),
    expires_at timestamptz CONSTRAINT share_expires_at_finite CHECK (isfinite(expires_at)),
    granted_by bigint REFERENCES @workspace@.member ON DELETE SET NULL,
    reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT share_with_member_or_team CHECK (num_nonnulls(member_id, team_id) = 1),
    UNIQUE (kind, record_id, member_id),
    UNIQUE (kind, record_id, team_id)
);
CREATE INDEX ON @workspace@.share (member_id);
CREATE INDEX ON @workspace@.share (team_id);
CREATE INDEX ON @workspace@.share (granted_by);
COMMENT ON TABLE @workspace@.share IS 'One record opened to a member or a team beyond ownership, hierarchy and team. Written by share_record() and unshare().';
COMMENT ON COLUMN @workspace@.share.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.share.record_id IS 'The record.';
COMMENT ON COLUMN @workspace@.share.member_id IS 'The member it is opened to; NULL: a team.';
COMMENT ON COLUMN @workspace@.share.team_id IS 'The team it is opened to; NULL: a member.';
COMMENT ON COLUMN @workspace@.share.granted_by IS 'The member who shared it.';
COMMENT ON COLUMN @workspace@.share.reason IS 'Why, as free text.';
COMMENT ON COLUMN @workspace@.share.created_at IS 'When it was shared.';
COMMENT ON COLUMN @workspace@.share.kind IS 'Kind of the record: account, contact, lead, opportunity, activity, or a kind of your own.';
COMMENT ON COLUMN @workspace@.share.access IS 'read, or edit, which includes read.';
COMMENT ON COLUMN @workspace@.share.expires_at IS 'The share ends then; NULL: never.';

CREATE TABLE @workspace@.token_key (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    secret bytea NOT NULL CONSTRAINT token_key_length CHECK (octet_length(secret) BETWEEN 32 AND 64),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE @workspace@.token_key IS 'Secrets that sign and verify crm.token. Only the owner of the workspace reads them; a token is good as long as its key is here.';
COMMENT ON COLUMN @workspace@.token_key.id IS 'Identifier, which a token names.';
COMMENT ON COLUMN @workspace@.token_key.created_at IS 'When the key was made.';
COMMENT ON COLUMN @workspace@.token_key.secret IS 'HMAC-SHA-256 key, 32 to 64 bytes.';
INSERT INTO @workspace@.token_key (secret) VALUES (crm._token_secret());

$_ddl_$),
(NULL::integer, 'access', $_ddl_$

CREATE OR REPLACE FUNCTION @workspace@.me() RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN crm.member_id(@workspace_literal@::regnamespace);
COMMENT ON FUNCTION @workspace@.me() IS 'The id of the member this session acts for; NULL: nobody.';

-- Whatever says who may see what makes every session look again, replicated changes too.
DO $crm$
DECLARE
    rel text;
BEGIN
    FOREACH rel IN ARRAY ARRAY['member', 'team', 'team_member', 'share', 'setting', 'token_key'] LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER crm_access_changed AFTER INSERT OR UPDATE OR DELETE ON %1$s.%2$I
                            FOR EACH ROW EXECUTE FUNCTION crm.access_changed();
                        CREATE OR REPLACE TRIGGER crm_access_truncated AFTER TRUNCATE ON %1$s.%2$I
                            FOR EACH STATEMENT EXECUTE FUNCTION crm.access_changed();
                        ALTER TABLE %1$s.%2$I ENABLE ALWAYS TRIGGER crm_access_changed,
                                              ENABLE ALWAYS TRIGGER crm_access_truncated',
                       @workspace_literal@, rel);
    END LOOP;
END
$crm$;

CREATE OR REPLACE TRIGGER crm_refuse_cycle AFTER INSERT OR UPDATE OF manager_id, id ON @workspace@.member
FOR EACH ROW WHEN (NEW.manager_id IS NOT NULL) EXECUTE FUNCTION crm.refuse_cycle('manager_id');
CREATE OR REPLACE TRIGGER crm_refuse_cycle AFTER INSERT OR UPDATE OF parent_id, id ON @workspace@.team
FOR EACH ROW WHEN (NEW.parent_id IS NOT NULL) EXECUTE FUNCTION crm.refuse_cycle('parent_id');

CREATE OR REPLACE FUNCTION @workspace@.can(member_id bigint, action text, kind text, id bigint,
                                           OUT allowed boolean, OUT reason text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT c.allowed, c.reason FROM crm._can(@workspace_literal@::regnamespace, member_id, action, kind, id) AS c;
END;
COMMENT ON FUNCTION @workspace@.can(bigint, text, text, bigint) IS
'May a member read, edit, delete, transfer or share a record, and why? Members ask about themselves and everyone below them, those with access read_all or all, and the workspace''s owner, about anybody. A record that is hidden and one that does not exist have the same answer.';

CREATE OR REPLACE FUNCTION @workspace@.transfer(kind text, ids bigint[], to_member bigint) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN crm._transfer(@workspace_literal@::regnamespace, kind, ids, to_member);
COMMENT ON FUNCTION @workspace@.transfer(text, bigint[], bigint) IS
'Gives records to another active member: one''s own, those of everyone below, and unowned ones one may edit. What their owners had planned about them goes along, see hand_over(). All or none; returns how many.';

CREATE OR REPLACE FUNCTION @workspace@.share_record(kind text, id bigint, member_id bigint DEFAULT NULL, team_id bigint DEFAULT NULL,
                                                    access text DEFAULT 'read', expires_at timestamptz DEFAULT NULL, reason text DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN crm._share_record(@workspace_literal@::regnamespace, kind, id, member_id, team_id, access, expires_at, reason);
COMMENT ON FUNCTION @workspace@.share_record(text, bigint, bigint, bigint, text, timestamptz, text) IS
'Opens one record to a member or a team, to read or to edit, until expires_at (NULL: for good). For whoever has the owner''s rights over it. Sharing again replaces the share. Returns its id.';

CREATE OR REPLACE FUNCTION @workspace@.unshare(kind text, id bigint, member_id bigint DEFAULT NULL, team_id bigint DEFAULT NULL) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN crm._unshare(@workspace_literal@::regnamespace, kind, id, member_id, team_id);
COMMENT ON FUNCTION @workspace@.unshare(text, bigint, bigint, bigint) IS
'Ends a share: for whoever has the owner''s rights over the record, granted the share, or was granted it. False if there was none.';

-- What the owner of a record has planned about it is the next owner's: whoever hands
-- a record over, by transfer() or by an update, hands over the work.
CREATE OR REPLACE FUNCTION @workspace@.hand_over() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    moved_kind text := tg_argv[0];
    moved_id bigint := to_jsonb(new) ->> tg_argv[2];
    old_owner bigint := to_jsonb(old) ->> tg_argv[1];
    new_owner bigint := to_jsonb(new) ->> tg_argv[1];
BEGIN
    -- Merging moves what refers to the records by itself, and takes it back.
    IF crm._is_merging() THEN
        RETURN NULL;
    END IF;
    -- An activity belongs to one of its records: opportunity, lead, contact, account.
    CASE moved_kind
    WHEN 'account' THEN
        UPDATE @workspace@.activity AS a SET owner_id = new_owner
        WHERE a.account_id = moved_id AND num_nonnulls(a.contact_id, a.lead_id, a.opportunity_id) = 0 AND a.owner_id = old_owner AND a.completed_at IS NULL;
    WHEN 'contact' THEN
        UPDATE @workspace@.activity AS a SET owner_id = new_owner
        WHERE a.contact_id = moved_id AND num_nonnulls(a.lead_id, a.opportunity_id) = 0 AND a.owner_id = old_owner AND a.completed_at IS NULL;
    WHEN 'lead' THEN
        UPDATE @workspace@.activity AS a SET owner_id = new_owner
        WHERE a.lead_id = moved_id AND a.opportunity_id IS NULL AND a.owner_id = old_owner AND a.completed_at IS NULL;
    WHEN 'opportunity' THEN
        UPDATE @workspace@.activity AS a SET owner_id = new_owner
        WHERE a.opportunity_id = moved_id AND a.owner_id = old_owner AND a.completed_at IS NULL;
    ELSE
        NULL;
    END CASE;
    UPDATE @workspace@.reminder AS r SET member_id = new_owner
    WHERE r.kind = moved_kind AND r.record_id = moved_id AND r.member_id = old_owner AND r.escalation_id IS NULL
      AND NOT coalesce(r.payload @> '{"personal": true}', false);
    -- Afterwards, for the update may have waited for one that fired: what is open in
    -- the old owner's inbox is reminded of anew, so that feeds and attention rules
    -- of the new owner have it, too.  What ladders and clocks said is not: they go on.
    WITH open AS (
        UPDATE @workspace@.event AS e SET state = 'snoozed', handled_at = crm.now(), snoozed_until = crm.now()
        WHERE e.kind = moved_kind AND e.record_id = moved_id AND e.member_id = old_owner AND e.state IN ('new', 'seen')
          AND NOT coalesce(e.payload @> '{"personal": true}' OR e.payload ?| '{escalation,sla}', false)
        RETURNING e.id, e.title, e.kind, e.record_id, e.payload)
    INSERT INTO @workspace@.reminder (member_id, due_at, title, kind, record_id, payload, snoozed_event_id)
    SELECT new_owner, crm.now(), o.title, o.kind, o.record_id,
           CASE WHEN o.payload IS NULL OR jsonb_typeof(o.payload) = 'object' THEN coalesce(o.payload, '{}') || jsonb_build_object('from', old_owner) ELSE o.payload END, o.id
    FROM open AS o
    ORDER BY o.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.hand_over() IS
'Row trigger of tables with protect(), after a record got another owner: open activities about it and reminders of it that were the old owner''s become the new owner''s, and open events in the old owner''s inbox, but for those of escalations and service levels, are closed there and fire for the new owner. An activity about several records goes with one: the opportunity, else the lead, contact, account. What has "personal": true in its payload stays, as does all that others planned, and while records are merged everything. Arguments: kind, owner column, id column.';

REVOKE EXECUTE ON FUNCTION @workspace@.me(), @workspace@.can(bigint, text, text, bigint),
    @workspace@.transfer(text, bigint[], bigint),
    @workspace@.share_record(text, bigint, bigint, bigint, text, timestamptz, text),
    @workspace@.unshare(text, bigint, bigint, bigint), @workspace@.hand_over() FROM PUBLIC;

SELECT crm._protect_workspace(@workspace_literal@::regnamespace);
$_ddl_$),
(1::integer, 'stage', $_ddl_$

CREATE TABLE @workspace@.pipeline (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    kind text NOT NULL DEFAULT 'opportunity',
    is_default boolean NOT NULL DEFAULT false,
    description text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX pipeline_one_default ON @workspace@.pipeline (kind) WHERE is_default;
COMMENT ON TABLE @workspace@.pipeline IS 'A named sequence of stages that records of one kind move through.';
COMMENT ON COLUMN @workspace@.pipeline.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.pipeline.description IS 'Free text.';
COMMENT ON COLUMN @workspace@.pipeline.created_at IS 'When the row was inserted.';
COMMENT ON COLUMN @workspace@.pipeline.name IS 'Name, as in the column "pipeline" of the records.';
COMMENT ON COLUMN @workspace@.pipeline.kind IS 'Kind of record: opportunity, lead, or the kind a table was given in crm.guard_stages().';
COMMENT ON COLUMN @workspace@.pipeline.is_default IS 'The pipeline of a new record that names none; one for each kind.';

CREATE TABLE @workspace@.stage (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    pipeline text NOT NULL REFERENCES @workspace@.pipeline (name) ON UPDATE CASCADE ON DELETE CASCADE,
    name text NOT NULL,
    position integer NOT NULL,
    type text NOT NULL DEFAULT 'open' CONSTRAINT stage_type_known CHECK (type IN ('open', 'won', 'lost')),
    is_initial boolean NOT NULL DEFAULT false,
    probability numeric(5,2) CONSTRAINT stage_probability_percent CHECK (probability BETWEEN 0 AND 100),
    required_fields text[] NOT NULL DEFAULT '{}',
    description text,
    UNIQUE (pipeline, name)
);
COMMENT ON TABLE @workspace@.stage IS 'A stage of a pipeline.';
COMMENT ON COLUMN @workspace@.stage.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.stage.pipeline IS 'The pipeline it belongs to.';
COMMENT ON COLUMN @workspace@.stage.name IS 'Name, as in the column "stage" of the records.';
COMMENT ON COLUMN @workspace@.stage.description IS 'Free text.';
COMMENT ON COLUMN @workspace@.stage.position IS 'Order in the pipeline, lowest first.';
COMMENT ON COLUMN @workspace@.stage.type IS 'open, won or lost. Entering a won or lost stage stamps the record''s closed_at, reopening clears it.';
COMMENT ON COLUMN @workspace@.stage.is_initial IS 'A record may be created in this stage; the first such stage is where a record lands that names none.';
COMMENT ON COLUMN @workspace@.stage.probability IS 'Chance of winning from here, in percent.';
COMMENT ON COLUMN @workspace@.stage.required_fields IS 'Columns that must be filled (not NULL, not blank) when a record enters the stage.';

CREATE TABLE @workspace@.stage_transition (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    pipeline text NOT NULL,
    from_stage text NOT NULL,
    to_pipeline text NOT NULL,
    to_stage text NOT NULL,
    guard text,
    message text,
    hint text,
    CONSTRAINT stage_transition_key UNIQUE (pipeline, from_stage, to_pipeline, to_stage),
    CONSTRAINT stage_transition_moves CHECK ((pipeline, from_stage) <> (to_pipeline, to_stage)),
    FOREIGN KEY (pipeline, from_stage) REFERENCES @workspace@.stage (pipeline, name) ON UPDATE CASCADE ON DELETE CASCADE,
    FOREIGN KEY (to_pipeline, to_stage) REFERENCES @workspace@.stage (pipeline, name) ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE INDEX ON @workspace@.stage_transition (to_pipeline, to_stage);
COMMENT ON TABLE @workspace@.stage_transition IS 'A move that is allowed. Whatever has no row here is refused.';
COMMENT ON COLUMN @workspace@.stage_transition.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.stage_transition.pipeline IS 'The pipeline the move starts in.';
COMMENT ON COLUMN @workspace@.stage_transition.from_stage IS 'The stage it starts in.';
COMMENT ON COLUMN @workspace@.stage_transition.to_stage IS 'The stage it leads to.';
COMMENT ON COLUMN @workspace@.stage_transition.to_pipeline IS 'Pipeline the move leads to; that of from_stage unless given.';
COMMENT ON COLUMN @workspace@.stage_transition.guard IS 'Boolean SQL expression over old and new that must be true, written as in the WHEN clause of a trigger; a bare column means the new row.';
COMMENT ON COLUMN @workspace@.stage_transition.message IS 'What a person is told when the guard is not met; by default the expression.';
COMMENT ON COLUMN @workspace@.stage_transition.hint IS 'What to do about it.';

CREATE TABLE @workspace@.stage_rule (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    pipeline text NOT NULL,
    stage text NOT NULL,
    applies_on text NOT NULL DEFAULT 'entry' CONSTRAINT stage_rule_applies_on_known CHECK (applies_on IN ('entry', 'exit')),
    name text NOT NULL,
    expression text NOT NULL,
    message text,
    hint text,
    active boolean NOT NULL DEFAULT true,
    CONSTRAINT stage_rule_key UNIQUE (pipeline, stage, name),
    FOREIGN KEY (pipeline, stage) REFERENCES @workspace@.stage (pipeline, name) ON UPDATE CASCADE ON DELETE CASCADE
);
COMMENT ON TABLE @workspace@.stage_rule IS 'Entry and exit criteria of a stage: every one must be true for a record to enter or leave it.';
COMMENT ON COLUMN @workspace@.stage_rule.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.stage_rule.pipeline IS 'The pipeline of the stage.';
COMMENT ON COLUMN @workspace@.stage_rule.stage IS 'The stage it guards.';
COMMENT ON COLUMN @workspace@.stage_rule.name IS 'Name of the criterion, as errors give it.';
COMMENT ON COLUMN @workspace@.stage_rule.applies_on IS 'entry or exit.';
COMMENT ON COLUMN @workspace@.stage_rule.expression IS 'Boolean SQL expression over old and new, written as in the WHEN clause of a trigger; a bare column means the new row. NULL counts as not met.';
COMMENT ON COLUMN @workspace@.stage_rule.message IS 'What a person is told when the criterion is not met; by default the expression.';
COMMENT ON COLUMN @workspace@.stage_rule.hint IS 'What to do about it.';
COMMENT ON COLUMN @workspace@.stage_rule.active IS 'False switches the criterion off.';

CREATE TABLE @workspace@.stage_history (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    record_id bigint NOT NULL,
    from_pipeline text,
    from_stage text,
    pipeline text NOT NULL,
    stage text NOT NULL,
    type text NOT NULL,
    changed_at timestamptz NOT NULL,
    duration interval,
    member_id bigint
);
CREATE INDEX stage_history_record ON @workspace@.stage_history (kind, record_id, id);
CREATE INDEX ON @workspace@.stage_history (pipeline, stage, changed_at);
COMMENT ON TABLE @workspace@.stage_history IS 'Every entry of a record into a stage, written by the database with the move itself. Renaming a stage renames it here.';
COMMENT ON COLUMN @workspace@.stage_history.id IS 'Identifier; in order of the moves of a record.';
COMMENT ON COLUMN @workspace@.stage_history.kind IS 'Kind of record, as in crm.guard_stages().';
COMMENT ON COLUMN @workspace@.stage_history.record_id IS 'The record; its history outlives it.';
COMMENT ON COLUMN @workspace@.stage_history.from_pipeline IS 'Pipeline before the move; NULL for a new record.';
COMMENT ON COLUMN @workspace@.stage_history.from_stage IS 'Stage before the move; NULL for a new record.';
COMMENT ON COLUMN @workspace@.stage_history.pipeline IS 'Pipeline after the move.';
COMMENT ON COLUMN @workspace@.stage_history.stage IS 'Stage after the move.';
COMMENT ON COLUMN @workspace@.stage_history.type IS 'Type of that stage at the time: open, won or lost.';
COMMENT ON COLUMN @workspace@.stage_history.changed_at IS 'When the record moved. Rows of one record are in order of id.';
COMMENT ON COLUMN @workspace@.stage_history.duration IS 'How long the record had stood in from_stage; NULL if that is not known.';
COMMENT ON COLUMN @workspace@.stage_history.member_id IS 'The member who moved it; NULL if the session was nobody. Not a foreign key: the history outlives the member, and no move waits for another one''s lock on the member.';

INSERT INTO @workspace@.pipeline (name, kind, is_default, description) VALUES
    ('sales', 'opportunity', true, 'From first interest to a signed contract.'),
    ('lead', 'lead', true, 'From a name to someone worth selling to.');
INSERT INTO @workspace@.stage (pipeline, name, position, type, is_initial, probability, required_fields) VALUES
    ('sales', 'qualification', 10, 'open', true, 10, '{}'),
    ('sales', 'proposal', 20, 'open', false, 40, '{amount}'),
    ('sales', 'negotiation', 30, 'open', false, 70, '{amount,close_date}'),
    ('sales', 'won', 40, 'won', false, 100, '{amount}'),
    ('sales', 'lost', 50, 'lost', false, 0, '{lost_reason}'),
    ('lead', 'new', 10, 'open', true, NULL, '{}'),
    ('lead', 'contacted', 20, 'open', false, NULL, '{}'),
    ('lead', 'qualified', 30, 'open', false, NULL, '{}'),
    ('lead', 'converted', 40, 'won', false, NULL, '{converted_at}'),
    ('lead', 'disqualified', 50, 'lost', false, NULL, '{}');
INSERT INTO @workspace@.stage_transition (pipeline, from_stage, to_pipeline, to_stage) VALUES
    ('sales', 'qualification', 'sales', 'proposal'),
    ('sales', 'qualification', 'sales', 'lost'),
    ('sales', 'proposal', 'sales', 'negotiation'),
    ('sales', 'proposal', 'sales', 'qualification'),
    ('sales', 'proposal', 'sales', 'lost'),
    ('sales', 'negotiation', 'sales', 'won'),
    ('sales', 'negotiation', 'sales', 'proposal'),
    ('sales', 'negotiation', 'sales', 'lost'),
    ('lead', 'new', 'lead', 'contacted'),
    ('lead', 'new', 'lead', 'qualified'),
    ('lead', 'new', 'lead', 'converted'),
    ('lead', 'new', 'lead', 'disqualified'),
    ('lead', 'contacted', 'lead', 'new'),
    ('lead', 'contacted', 'lead', 'qualified'),
    ('lead', 'contacted', 'lead', 'converted'),
    ('lead', 'contacted', 'lead', 'disqualified'),
    ('lead', 'qualified', 'lead', 'contacted'),
    ('lead', 'qualified', 'lead', 'converted'),
    ('lead', 'qualified', 'lead', 'disqualified'),
    ('lead', 'disqualified', 'lead', 'new');

$_ddl_$),
(NULL::integer, 'stage', $_ddl_$

-- What the rules say is checked as it is written, and every session is told.
CREATE OR REPLACE TRIGGER stage_config BEFORE UPDATE OF kind ON @workspace@.pipeline
    FOR EACH ROW EXECUTE FUNCTION crm.stage_config('pipeline');
CREATE OR REPLACE TRIGGER stage_config BEFORE INSERT OR UPDATE ON @workspace@.stage
    FOR EACH ROW EXECUTE FUNCTION crm.stage_config('stage');
CREATE OR REPLACE TRIGGER stage_config BEFORE INSERT OR UPDATE ON @workspace@.stage_transition
    FOR EACH ROW EXECUTE FUNCTION crm.stage_config('transition');
CREATE OR REPLACE TRIGGER stage_config BEFORE INSERT OR UPDATE ON @workspace@.stage_rule
    FOR EACH ROW EXECUTE FUNCTION crm.stage_config('rule');

CREATE OR REPLACE TRIGGER stage_changed AFTER INSERT OR UPDATE OR DELETE ON @workspace@.pipeline
    FOR EACH ROW EXECUTE FUNCTION crm.stage_changed();
CREATE OR REPLACE TRIGGER stage_changed AFTER INSERT OR UPDATE OR DELETE ON @workspace@.stage
    FOR EACH ROW EXECUTE FUNCTION crm.stage_changed('stage');
CREATE OR REPLACE TRIGGER stage_changed AFTER INSERT OR UPDATE OR DELETE ON @workspace@.stage_transition
    FOR EACH ROW EXECUTE FUNCTION crm.stage_changed();
CREATE OR REPLACE TRIGGER stage_changed AFTER INSERT OR UPDATE OR DELETE ON @workspace@.stage_rule
    FOR EACH ROW EXECUTE FUNCTION crm.stage_changed();
CREATE OR REPLACE TRIGGER stage_truncated AFTER TRUNCATE ON @workspace@.pipeline
    FOR EACH STATEMENT EXECUTE FUNCTION crm.stage_changed();
CREATE OR REPLACE TRIGGER stage_truncated AFTER TRUNCATE ON @workspace@.stage
    FOR EACH STATEMENT EXECUTE FUNCTION crm.stage_changed();
CREATE OR REPLACE TRIGGER stage_truncated AFTER TRUNCATE ON @workspace@.stage_transition
    FOR EACH STATEMENT EXECUTE FUNCTION crm.stage_changed();
CREATE OR REPLACE TRIGGER stage_truncated AFTER TRUNCATE ON @workspace@.stage_rule
    FOR EACH STATEMENT EXECUTE FUNCTION crm.stage_changed();

-- Sessions must hear of rules that arrive by replication, too.
ALTER TABLE @workspace@.pipeline ENABLE ALWAYS TRIGGER stage_changed;
ALTER TABLE @workspace@.stage ENABLE ALWAYS TRIGGER stage_changed;
ALTER TABLE @workspace@.stage_transition ENABLE ALWAYS TRIGGER stage_changed;
ALTER TABLE @workspace@.stage_rule ENABLE ALWAYS TRIGGER stage_changed;
ALTER TABLE @workspace@.pipeline ENABLE ALWAYS TRIGGER stage_truncated;
ALTER TABLE @workspace@.stage ENABLE ALWAYS TRIGGER stage_truncated;
ALTER TABLE @workspace@.stage_transition ENABLE ALWAYS TRIGGER stage_truncated;
ALTER TABLE @workspace@.stage_rule ENABLE ALWAYS TRIGGER stage_truncated;

SELECT crm.guard_stages(@workspace_literal@ || '.opportunity', 'opportunity');
SELECT crm.guard_stages(@workspace_literal@ || '.lead', 'lead');

CREATE OR REPLACE FUNCTION @workspace@.next_stages(kind text, id bigint, OUT stage text, OUT allowed boolean, OUT missing jsonb)
RETURNS SETOF record LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT n.stage, n.allowed, n.missing FROM crm.next_stages(@workspace_literal@::regnamespace, kind, id) AS n $$;
COMMENT ON FUNCTION @workspace@.next_stages(text, bigint) IS
'The moves a record has from where it stands, in order: stage, whether it is allowed now, and what is missing: [{type, rule, field, message, hint}]. No row if the caller cannot see the record.';
$_ddl_$),
(1::integer, 'record', $_ddl_$

CREATE TABLE @workspace@.account (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL CONSTRAINT account_name_not_blank CHECK (btrim(name) <> ''),
    parent_id bigint REFERENCES @workspace@.account CONSTRAINT account_not_its_own_parent CHECK (parent_id <> id),
    phone text,
    email text,
    uscc text,
    website text,
    street text,
    city text,
    region text,
    postcode text,
    country text,
    industry text,
    description text,
    owner_id bigint DEFAULT crm.member_id(@workspace_literal@::regnamespace) REFERENCES @workspace@.member,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    row_version integer NOT NULL DEFAULT 1
);
CREATE INDEX ON @workspace@.account (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX ON @workspace@.account (owner_id);
COMMENT ON TABLE @workspace@.account IS 'A customer or prospect: a company or other organisation.';
COMMENT ON COLUMN @workspace@.account.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.account.name IS 'Name of the company or organisation.';
COMMENT ON COLUMN @workspace@.account.parent_id IS 'The account this one belongs to, as a subsidiary or branch. No account is below itself.';
COMMENT ON COLUMN @workspace@.account.phone IS 'Telephone number, E.164 once recognised.';
COMMENT ON COLUMN @workspace@.account.email IS 'E-mail address, canonical form.';
COMMENT ON COLUMN @workspace@.account.uscc IS 'Unified social credit code of a Chinese organisation, 18 characters, GB 32100-2015.';
COMMENT ON COLUMN @workspace@.account.website IS 'Address of the web site.';
COMMENT ON COLUMN @workspace@.account.street IS 'Street and number; may have several lines.';
COMMENT ON COLUMN @workspace@.account.city IS 'City or town.';
COMMENT ON COLUMN @workspace@.account.region IS 'State, province or other first-level division.';
COMMENT ON COLUMN @workspace@.account.postcode IS 'Postal code.';
COMMENT ON COLUMN @workspace@.account.country IS 'Country, ISO 3166-1 alpha-2 code preferred.';
COMMENT ON COLUMN @workspace@.account.industry IS 'Line of business.';
COMMENT ON COLUMN @workspace@.account.description IS 'Free text.';
COMMENT ON COLUMN @workspace@.account.owner_id IS 'The member responsible; NULL: nobody yet, in the pool for members to claim.';
COMMENT ON COLUMN @workspace@.account.created_at IS 'When the row was inserted; may be given on import.';
COMMENT ON COLUMN @workspace@.account.updated_at IS 'Start of the transaction that last changed the row; kept by crm.touch().';
COMMENT ON COLUMN @workspace@.account.row_version IS 'Starts at 1 and grows by 1 with each change. Send it back with an update to have it refused (SQLSTATE 40001) when someone else changed the record in between.';

CREATE TABLE @workspace@.contact (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    account_id bigint REFERENCES @workspace@.account,
    given_name text,
    family_name text,
    full_name text,
    job_title text,
    birth_date date CONSTRAINT contact_birth_date_range CHECK (birth_date >= '0001-01-01' AND birth_date <= '9999-12-31'),
    national_id text,
    phone text,
    email text,
    street text,
    city text,
    region text,
    postcode text,
    country text,
    description text,
    owner_id bigint DEFAULT crm.member_id(@workspace_literal@::regnamespace) REFERENCES @workspace@.member,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    row_version integer NOT NULL DEFAULT 1,
    CONSTRAINT contact_is_somebody CHECK (num_nonnulls(full_name, given_name, family_name, email, phone, national_id, birth_date, street) > 0)
);
CREATE INDEX ON @workspace@.contact (account_id);
CREATE INDEX ON @workspace@.contact (owner_id);
COMMENT ON TABLE @workspace@.contact IS 'A person, usually at an account.';
COMMENT ON COLUMN @workspace@.contact.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.contact.account_id IS 'The account the person works for.';
COMMENT ON COLUMN @workspace@.contact.given_name IS 'Given name.';
COMMENT ON COLUMN @workspace@.contact.family_name IS 'Family name.';
COMMENT ON COLUMN @workspace@.contact.full_name IS 'Name as it is written, family name first where that is the custom.';
COMMENT ON COLUMN @workspace@.contact.job_title IS 'Position held.';
COMMENT ON COLUMN @workspace@.contact.birth_date IS 'Date of birth, of the years 1 to 9999, which every client can read.';
COMMENT ON COLUMN @workspace@.contact.national_id IS 'Number of the identity card or passport; masked in the audit log.';
COMMENT ON COLUMN @workspace@.contact.phone IS 'Telephone number, E.164 once recognised.';
COMMENT ON COLUMN @workspace@.contact.email IS 'E-mail address, canonical form.';
COMMENT ON COLUMN @workspace@.contact.street IS 'Street and number; may have several lines.';
COMMENT ON COLUMN @workspace@.contact.city IS 'City or town.';
COMMENT ON COLUMN @workspace@.contact.region IS 'State, province or other first-level division.';
COMMENT ON COLUMN @workspace@.contact.postcode IS 'Postal code.';
COMMENT ON COLUMN @workspace@.contact.country IS 'Country, ISO 3166-1 alpha-2 code preferred.';
COMMENT ON COLUMN @workspace@.contact.description IS 'Free text.';
COMMENT ON COLUMN @workspace@.contact.owner_id IS 'The member responsible; NULL: nobody yet, in the pool for members to claim.';
COMMENT ON COLUMN @workspace@.contact.created_at IS 'When the row was inserted; may be given on import.';
COMMENT ON COLUMN @workspace@.contact.updated_at IS 'Start of the transaction that last changed the row; kept by crm.touch().';
COMMENT ON COLUMN @workspace@.contact.row_version IS 'Starts at 1 and grows by 1 with each change. Send it back with an update to have it refused (SQLSTATE 40001) when someone else changed the record in between.';

CREATE TABLE @workspace@.lead_source (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    active boolean NOT NULL DEFAULT true
);
COMMENT ON TABLE @workspace@.lead_source IS 'Picklist: where leads and opportunities come from. Add your own; renaming one renames it in every record.';
COMMENT ON COLUMN @workspace@.lead_source.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.lead_source.name IS 'The value, as records hold it.';
COMMENT ON COLUMN @workspace@.lead_source.active IS 'False: no longer offered for new records.';
INSERT INTO @workspace@.lead_source (name) VALUES
    ('website'), ('referral'), ('event'), ('campaign'), ('cold call'), ('partner'), ('import'), ('other');

CREATE TABLE @workspace@.lead (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    company text,
    given_name text,
    family_name text,
    full_name text,
    job_title text,
    phone text,
    email text,
    website text,
    street text,
    city text,
    region text,
    postcode text,
    country text,
    source text REFERENCES @workspace@.lead_source (name) ON UPDATE CASCADE,
    pipeline text,
    stage text,
    description text,
    converted_at timestamptz,
    converted_account_id bigint REFERENCES @workspace@.account,
    converted_contact_id bigint REFERENCES @workspace@.contact,
    converted_opportunity_id bigint,
    owner_id bigint DEFAULT crm.member_id(@workspace_literal@::regnamespace) REFERENCES @workspace@.member,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    row_version integer NOT NULL DEFAULT 1,
    FOREIGN KEY (pipeline, stage) REFERENCES @workspace@.stage (pipeline, name) ON UPDATE CASCADE,
    CONSTRAINT lead_is_somebody CHECK (num_nonnulls(company, full_name, given_name, family_name, email, phone) > 0)
);
CREATE INDEX ON @workspace@.lead (owner_id);
CREATE INDEX ON @workspace@.lead (source);
CREATE INDEX ON @workspace@.lead (pipeline, stage);
CREATE INDEX ON @workspace@.lead (converted_account_id) WHERE converted_account_id IS NOT NULL;
CREATE INDEX ON @workspace@.lead (converted_contact_id) WHERE converted_contact_id IS NOT NULL;
CREATE INDEX ON @workspace@.lead (converted_opportunity_id) WHERE converted_opportunity_id IS NOT NULL;
COMMENT ON TABLE @workspace@.lead IS 'A person or company that may become a customer, before anyone has qualified it.';
COMMENT ON COLUMN @workspace@.lead.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.lead.company IS 'Name of the company, as given.';
COMMENT ON COLUMN @workspace@.lead.given_name IS 'Given name.';
COMMENT ON COLUMN @workspace@.lead.family_name IS 'Family name.';
COMMENT ON COLUMN @workspace@.lead.full_name IS 'Name as it is written, family name first where that is the custom.';
COMMENT ON COLUMN @workspace@.lead.job_title IS 'Position held.';
COMMENT ON COLUMN @workspace@.lead.phone IS 'Telephone number, E.164 once recognised.';
COMMENT ON COLUMN @workspace@.lead.email IS 'E-mail address, canonical form.';
COMMENT ON COLUMN @workspace@.lead.website IS 'Address of the web site.';
COMMENT ON COLUMN @workspace@.lead.street IS 'Street and number; may have several lines.';
COMMENT ON COLUMN @workspace@.lead.city IS 'City or town.';
COMMENT ON COLUMN @workspace@.lead.region IS 'State, province or other first-level division.';
COMMENT ON COLUMN @workspace@.lead.postcode IS 'Postal code.';
COMMENT ON COLUMN @workspace@.lead.country IS 'Country, ISO 3166-1 alpha-2 code preferred.';
COMMENT ON COLUMN @workspace@.lead.source IS 'Where it came from, one of lead_source.';
COMMENT ON COLUMN @workspace@.lead.pipeline IS 'The pipeline it moves through; NULL: none.';
COMMENT ON COLUMN @workspace@.lead.stage IS 'Its stage in that pipeline; change it to move the record.';
COMMENT ON COLUMN @workspace@.lead.description IS 'Free text.';
COMMENT ON COLUMN @workspace@.lead.converted_at IS 'When convert_lead() made it a customer; NULL: not yet.';
COMMENT ON COLUMN @workspace@.lead.converted_account_id IS 'The account it became.';
COMMENT ON COLUMN @workspace@.lead.converted_contact_id IS 'The contact it became.';
COMMENT ON COLUMN @workspace@.lead.converted_opportunity_id IS 'The opportunity it became, if any.';
COMMENT ON COLUMN @workspace@.lead.owner_id IS 'The member responsible; NULL: nobody yet, in the pool for members to claim.';
COMMENT ON COLUMN @workspace@.lead.created_at IS 'When the row was inserted; may be given on import.';
COMMENT ON COLUMN @workspace@.lead.updated_at IS 'Start of the transaction that last changed the row; kept by crm.touch().';
COMMENT ON COLUMN @workspace@.lead.row_version IS 'Starts at 1 and grows by 1 with each change. Send it back with an update to have it refused (SQLSTATE 40001) when someone else changed the record in between.';

CREATE TABLE @workspace@.opportunity (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    account_id bigint REFERENCES @workspace@.account,
    contact_id bigint REFERENCES @workspace@.contact,
    name text NOT NULL CONSTRAINT opportunity_name_not_blank CHECK (btrim(name) <> ''),
    pipeline text,
    stage text,
    amount numeric(18,2) CONSTRAINT opportunity_amount_is_number CHECK (amount <> 'NaN'),
    currency text CONSTRAINT opportunity_currency_code CHECK (currency ~ '^[A-Z]{3}$'),
    close_date date CONSTRAINT opportunity_close_date_range CHECK (close_date >= '0001-01-01' AND close_date <= '9999-12-31'),
    source text REFERENCES @workspace@.lead_source (name) ON UPDATE CASCADE,
    lost_reason text,
    description text,
    closed_at timestamptz CONSTRAINT opportunity_closed_at_finite CHECK (isfinite(closed_at)),
    owner_id bigint DEFAULT crm.member_id(@workspace_literal@::regnamespace) REFERENCES @workspace@.member,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    row_version integer NOT NULL DEFAULT 1,
    FOREIGN KEY (pipeline, stage) REFERENCES @workspace@.stage (pipeline, name) ON UPDATE CASCADE
);
CREATE INDEX ON @workspace@.opportunity (account_id);
CREATE INDEX ON @workspace@.opportunity (contact_id);
CREATE INDEX ON @workspace@.opportunity (pipeline, stage);
CREATE INDEX ON @workspace@.opportunity (source);
CREATE INDEX ON @workspace@.opportunity (owner_id);
COMMENT ON TABLE @workspace@.opportunity IS 'A possible sale, moving through the stages of a pipeline.';
COMMENT ON COLUMN @workspace@.opportunity.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.opportunity.account_id IS 'The customer.';
COMMENT ON COLUMN @workspace@.opportunity.contact_id IS 'The main person on the customers side.';
COMMENT ON COLUMN @workspace@.opportunity.name IS 'What is to be sold, in a line.';
COMMENT ON COLUMN @workspace@.opportunity.pipeline IS 'The pipeline it moves through; NULL: none.';
COMMENT ON COLUMN @workspace@.opportunity.stage IS 'Its stage in that pipeline; change it to move the record.';
COMMENT ON COLUMN @workspace@.opportunity.amount IS 'Expected value, in currency.';
COMMENT ON COLUMN @workspace@.opportunity.currency IS 'ISO 4217 code of the currency; NULL: the reporting currency.';
COMMENT ON COLUMN @workspace@.opportunity.close_date IS 'When it is expected to close, in the years 1 to 9999, which every client can read; NULL: not known.';
COMMENT ON COLUMN @workspace@.opportunity.source IS 'Where it came from, one of lead_source.';
COMMENT ON COLUMN @workspace@.opportunity.lost_reason IS 'Why it was lost.';
COMMENT ON COLUMN @workspace@.opportunity.description IS 'Free text.';
COMMENT ON COLUMN @workspace@.opportunity.closed_at IS 'When it reached a won or lost stage.';
COMMENT ON COLUMN @workspace@.opportunity.owner_id IS 'The member responsible; NULL: nobody yet, in the pool for members to claim.';
COMMENT ON COLUMN @workspace@.opportunity.created_at IS 'When the row was inserted; may be given on import.';
COMMENT ON COLUMN @workspace@.opportunity.updated_at IS 'Start of the transaction that last changed the row; kept by crm.touch().';
COMMENT ON COLUMN @workspace@.opportunity.row_version IS 'Starts at 1 and grows by 1 with each change. Send it back with an update to have it refused (SQLSTATE 40001) when someone else changed the record in between.';

ALTER TABLE @workspace@.lead ADD FOREIGN KEY (converted_opportunity_id) REFERENCES @workspace@.opportunity;

CREATE TABLE @workspace@.activity_type (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    active boolean NOT NULL DEFAULT true
);
COMMENT ON TABLE @workspace@.activity_type IS 'Picklist: kinds of activities. Add your own; renaming one renames it in every activity.';
COMMENT ON COLUMN @workspace@.activity_type.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.activity_type.name IS 'The value, as activities hold it.';
COMMENT ON COLUMN @workspace@.activity_type.active IS 'False: no longer offered for new activities.';
INSERT INTO @workspace@.activity_type (name) VALUES ('task'), ('call'), ('meeting'), ('email'), ('note'), ('visit');

CREATE TABLE @workspace@.activity (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    type text NOT NULL DEFAULT 'task' REFERENCES @workspace@.activity_type (name) ON UPDATE CASCADE,
    subject text NOT NULL CONSTRAINT activity_subject_not_blank CHECK (btrim(subject) <> ''),
    body text,
    due_at timestamptz CONSTRAINT activity_due_at_finite CHECK (isfinite(due_at)),
    completed_at timestamptz CONSTRAINT activity_completed_at_finite CHECK (isfinite(completed_at)),
    account_id bigint REFERENCES @workspace@.account,
    contact_id bigint REFERENCES @workspace@.contact,
    lead_id bigint REFERENCES @workspace@.lead,
    opportunity_id bigint REFERENCES @workspace@.opportunity,
    owner_id bigint DEFAULT crm.member_id(@workspace_literal@::regnamespace) REFERENCES @workspace@.member,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    row_version integer NOT NULL DEFAULT 1
);
CREATE INDEX ON @workspace@.activity (type);
CREATE INDEX ON @workspace@.activity (account_id) WHERE account_id IS NOT NULL;
CREATE INDEX ON @workspace@.activity (contact_id) WHERE contact_id IS NOT NULL;
CREATE INDEX ON @workspace@.activity (lead_id) WHERE lead_id IS NOT NULL;
CREATE INDEX ON @workspace@.activity (opportunity_id) WHERE opportunity_id IS NOT NULL;
CREATE INDEX ON @workspace@.activity (owner_id);
COMMENT ON TABLE @workspace@.activity IS 'Something done or to be done for a customer: a task, call, meeting, e-mail, note or visit.';
COMMENT ON COLUMN @workspace@.activity.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.activity.type IS 'What it is, one of activity_type.';
COMMENT ON COLUMN @workspace@.activity.subject IS 'What it is about, in a line.';
COMMENT ON COLUMN @workspace@.activity.body IS 'Text of the note or e-mail, minutes of the call or meeting.';
COMMENT ON COLUMN @workspace@.activity.due_at IS 'When a task is due, or a meeting, call or visit starts.';
COMMENT ON COLUMN @workspace@.activity.completed_at IS 'When it was done; NULL: still open.';
COMMENT ON COLUMN @workspace@.activity.account_id IS 'The account it concerns.';
COMMENT ON COLUMN @workspace@.activity.contact_id IS 'The contact it concerns.';
COMMENT ON COLUMN @workspace@.activity.lead_id IS 'The lead it concerns.';
COMMENT ON COLUMN @workspace@.activity.opportunity_id IS 'The opportunity it concerns.';
COMMENT ON COLUMN @workspace@.activity.owner_id IS 'The member responsible; NULL: nobody yet, in the pool for members to claim.';
COMMENT ON COLUMN @workspace@.activity.created_at IS 'When the row was inserted; may be given on import.';
COMMENT ON COLUMN @workspace@.activity.updated_at IS 'Start of the transaction that last changed the row; kept by crm.touch().';
COMMENT ON COLUMN @workspace@.activity.row_version IS 'Starts at 1 and grows by 1 with each change. Send it back with an update to have it refused (SQLSTATE 40001) when someone else changed the record in between.';

CREATE TABLE @workspace@.external_reference (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    record_id bigint NOT NULL,
    system text NOT NULL CONSTRAINT external_reference_system_not_blank CHECK (btrim(system) <> ''),
    external_id text NOT NULL CONSTRAINT external_reference_id_not_blank CHECK (btrim(external_id) <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (system, kind, external_id)
);
CREATE INDEX ON @workspace@.external_reference (kind, record_id);
COMMENT ON TABLE @workspace@.external_reference IS 'The identifier of a record in another system.';
COMMENT ON COLUMN @workspace@.external_reference.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.external_reference.kind IS 'Kind of record: account, contact, lead, opportunity, activity, or one of your own.';
COMMENT ON COLUMN @workspace@.external_reference.record_id IS 'The record in this workspace.';
COMMENT ON COLUMN @workspace@.external_reference.system IS 'Name of the other system.';
COMMENT ON COLUMN @workspace@.external_reference.external_id IS 'Its identifier there.';
COMMENT ON COLUMN @workspace@.external_reference.created_at IS 'When the row was inserted.';

CREATE TABLE @workspace@.setting (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    value text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    row_version integer NOT NULL DEFAULT 1,
    CONSTRAINT setting_reporting_currency CHECK (name <> 'reporting_currency' OR value ~ '^[A-Z]{3}$'),
    CONSTRAINT setting_unowned_access CHECK (name <> 'unowned_access' OR value IN ('none', 'read', 'edit'))
);
COMMENT ON TABLE @workspace@.setting IS 'Settings of this workspace, one a row.';
INSERT INTO @workspace@.setting (name, value) VALUES ('reporting_currency', NULL), ('unowned_access', 'edit');
COMMENT ON COLUMN @workspace@.setting.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.setting.name IS 'Name of the setting. reporting_currency: ISO 4217 code of the currency reports convert to; unowned_access: what every active member may do with records without an owner, none, read or edit, which includes claiming them; escalation_fallback: id of the member who hears of escalations for whom there is nobody else; calendar: name of the calendar of members whose teams name none; duplicate_checks_per_minute, duplicate_rate_warning, duplicate_rate_alarm: see the documentation of duplicate rules and of review; event_retention: how long events are kept that everybody is done with, such as 90 days, NULL: for good.';
COMMENT ON COLUMN @workspace@.setting.value IS 'Its value; NULL: not set.';
COMMENT ON COLUMN @workspace@.setting.created_at IS 'When the row was inserted; may be given on import.';
COMMENT ON COLUMN @workspace@.setting.updated_at IS 'Start of the transaction that last changed the row; kept by crm.touch().';
COMMENT ON COLUMN @workspace@.setting.row_version IS 'Starts at 1 and grows by 1 with each change. Send it back with an update to have it refused (SQLSTATE 40001) when someone else changed the record in between.';

$_ddl_$),
(NULL::integer, 'record', $_ddl_$

CREATE OR REPLACE TRIGGER crm_refuse_cycle AFTER INSERT OR UPDATE OF parent_id, id ON @workspace@.account
    FOR EACH ROW WHEN (NEW.parent_id IS NOT NULL) EXECUTE FUNCTION crm.refuse_cycle('parent_id');
CREATE OR REPLACE TRIGGER crm_touch BEFORE UPDATE ON @workspace@.account
    FOR EACH ROW EXECUTE FUNCTION crm.touch();
CREATE OR REPLACE TRIGGER crm_touch BEFORE UPDATE ON @workspace@.contact
    FOR EACH ROW EXECUTE FUNCTION crm.touch();
CREATE OR REPLACE TRIGGER crm_touch BEFORE UPDATE ON @workspace@.lead
    FOR EACH ROW EXECUTE FUNCTION crm.touch();
CREATE OR REPLACE TRIGGER crm_touch BEFORE UPDATE ON @workspace@.opportunity
    FOR EACH ROW EXECUTE FUNCTION crm.touch();
CREATE OR REPLACE TRIGGER crm_touch BEFORE UPDATE ON @workspace@.activity
    FOR EACH ROW EXECUTE FUNCTION crm.touch();
CREATE OR REPLACE TRIGGER crm_touch BEFORE UPDATE ON @workspace@.setting
    FOR EACH ROW EXECUTE FUNCTION crm.touch();
CREATE OR REPLACE TRIGGER crm_touch BEFORE UPDATE ON @workspace@.member
    FOR EACH ROW EXECUTE FUNCTION crm.touch();
CREATE OR REPLACE TRIGGER crm_touch BEFORE UPDATE ON @workspace@.team
    FOR EACH ROW EXECUTE FUNCTION crm.touch();

CREATE OR REPLACE FUNCTION @workspace@.claim(kind text, id bigint, OUT claimed boolean, OUT reason text)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT c.claimed, c.reason FROM crm._claim(@workspace_literal@::regnamespace, kind, id) AS c $$;
COMMENT ON FUNCTION @workspace@.claim(text, bigint) IS
'Takes a record that has no owner. Of many who try at once exactly one gets it and nobody waits. claimed is false, and reason says why, where it has an owner, is being changed by someone else, does not exist or is not visible, or may not be edited.';

CREATE OR REPLACE FUNCTION @workspace@.claim_next(kind text, max_records integer DEFAULT 1)
RETURNS SETOF bigint LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT c FROM crm._claim_next(@workspace_literal@::regnamespace, kind, max_records) AS c $$;
COMMENT ON FUNCTION @workspace@.claim_next(text, integer) IS
'Takes the oldest records that have no owner, 1 to 1000, passing over those that someone else is taking at the same moment. Returns their ids; none if there is nothing to take.';

CREATE OR REPLACE FUNCTION @workspace@.record_name(kind text, id bigint) RETURNS text
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name text;
BEGIN
    CASE kind
        WHEN 'account' THEN
            SELECT r.name INTO name FROM @workspace@.account AS r WHERE r.id = record_name.id;
        WHEN 'contact' THEN
            SELECT coalesce(r.full_name, concat_ws(' ', r.given_name, r.family_name)) INTO name FROM @workspace@.contact AS r WHERE r.id = record_name.id;
        WHEN 'lead' THEN
            SELECT coalesce(r.company, r.full_name, concat_ws(' ', r.given_name, r.family_name)) INTO name FROM @workspace@.lead AS r WHERE r.id = record_name.id;
        WHEN 'opportunity' THEN
            SELECT r.name INTO name FROM @workspace@.opportunity AS r WHERE r.id = record_name.id;
        WHEN 'activity' THEN
            SELECT r.subject INTO name FROM @workspace@.activity AS r WHERE r.id = record_name.id;
        ELSE
            name := crm._record_name(@workspace_literal@::regnamespace, kind, id);
    END CASE;
    RETURN name;
END
$$;
COMMENT ON FUNCTION @workspace@.record_name(text, bigint) IS
'What people call a record, with the caller''s rights: NULL for one that the caller may not see, that is gone, or of a kind there is not.';

CREATE OR REPLACE FUNCTION @workspace@.convert_lead(lead_id bigint, opportunity_name text DEFAULT NULL, amount numeric DEFAULT NULL,
    currency text DEFAULT NULL, close_date date DEFAULT NULL, into_account bigint DEFAULT NULL, into_contact bigint DEFAULT NULL,
    match boolean DEFAULT true, OUT account_id bigint, OUT contact_id bigint, OUT opportunity_id bigint)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT c.account_id, c.contact_id, c.opportunity_id
FROM crm._convert_lead(@workspace_literal@::regnamespace, lead_id, opportunity_name, amount, currency, close_date, into_account, into_contact, match) AS c
$$;
COMMENT ON FUNCTION @workspace@.convert_lead(bigint, text, numeric, text, date, bigint, bigint, boolean) IS
'Makes a lead a customer, in one transaction and with the caller''s rights: the account and contact it already is (probability at least 0.95; match => false never looks), or new ones; an opportunity if opportunity_name is given; its activities go along; the lead moves to the won stage of its pipeline and remembers what it became. into_account and into_contact choose instead. Columns of the same name, users'' own included, are carried over. Errors: P0002 if the lead, account or contact cannot be seen, 55000 if it was converted before, 21000 if it matches several.';
$_ddl_$),
(NULL::integer, 'canonical', $_ddl_$

-- Triggers fire in the order of their names: this one first, so that all others
-- see canonical values.
CREATE OR REPLACE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON @workspace@.member
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('name=name', 'email=email', 'phone=phone');

CREATE OR REPLACE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON @workspace@.account
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize(
        'name=name', 'phone=phone', 'email=email', 'uscc=uscc', 'website=website', 'country=country');

CREATE OR REPLACE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON @workspace@.contact
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize(
        'given_name=name', 'family_name=name', 'full_name=name', 'full_name=given_name,family_name',
        'phone=phone', 'email=email', 'country=country');

CREATE OR REPLACE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON @workspace@.lead
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize(
        'company=name', 'given_name=name', 'family_name=name', 'full_name=name',
        'full_name=given_name,family_name', 'phone=phone', 'email=email', 'website=website', 'country=country');

CREATE OR REPLACE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON @workspace@.opportunity
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('name=name', 'currency=currency');
$_ddl_$),
(1::integer, 'audit', $_ddl_$

CREATE TABLE @workspace@.audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    clock_at timestamptz NOT NULL,
    transaction_id bigint NOT NULL,
    member_id bigint,
    login_role text,
    role text,
    application text,
    client text,
    session text,
    statement text,
    operation text NOT NULL,
    kind text NOT NULL,
    table_name text NOT NULL,
    record_id bigint,
    record_key jsonb,
    old jsonb,
    new jsonb
);
CREATE INDEX ON @workspace@.audit_log (record_id, kind);
-- What a transaction did is looked up by its time (undelete): small ranges, and those
-- of today as well, which only autosummarize keeps from being read as a whole.
CREATE INDEX ON @workspace@.audit_log USING brin (changed_at) WITH (pages_per_range = 32, autosummarize = on);
COMMENT ON TABLE @workspace@.audit_log IS 'Who changed what, when and through which client. Written by the trigger crm.audit() alone, and append-only.';
COMMENT ON COLUMN @workspace@.audit_log.id IS 'Order of writing.';
COMMENT ON COLUMN @workspace@.audit_log.changed_at IS 'Start of the transaction, as in the record''s updated_at.';
COMMENT ON COLUMN @workspace@.audit_log.clock_at IS 'The moment of the change.';
COMMENT ON COLUMN @workspace@.audit_log.transaction_id IS 'The transaction: changes that share it were made together.';
COMMENT ON COLUMN @workspace@.audit_log.member_id IS 'The member who acted; NULL: nobody known. Not a foreign key, so that the log outlives the member.';
COMMENT ON COLUMN @workspace@.audit_log.login_role IS 'The role that logged in.';
COMMENT ON COLUMN @workspace@.audit_log.role IS 'The role in force, after SET ROLE and inside SECURITY DEFINER functions.';
COMMENT ON COLUMN @workspace@.audit_log.application IS 'The client''s application_name.';
COMMENT ON COLUMN @workspace@.audit_log.client IS 'The client''s IP address; NULL: a unix socket or a background process.';
COMMENT ON COLUMN @workspace@.audit_log.session IS 'The session, as %c in the server log.';
COMMENT ON COLUMN @workspace@.audit_log.statement IS 'Command of the client''s statement: UPDATE, COPY, MERGE, SELECT for a function call, and so on.';
COMMENT ON COLUMN @workspace@.audit_log.operation IS 'INSERT, UPDATE, DELETE, TRUNCATE, or UNDELETE for a row that undelete() brought back.';
COMMENT ON COLUMN @workspace@.audit_log.kind IS 'Kind of record.';
COMMENT ON COLUMN @workspace@.audit_log.table_name IS 'The table at that time, with its schema.';
COMMENT ON COLUMN @workspace@.audit_log.record_id IS 'The record, where its primary key is one integer.';
COMMENT ON COLUMN @workspace@.audit_log.record_key IS 'The primary key, where it is anything else.';
COMMENT ON COLUMN @workspace@.audit_log.old IS 'Columns before: those that changed, or all that were not NULL of a deleted record.';
COMMENT ON COLUMN @workspace@.audit_log.new IS 'Columns after: those that changed, or all that are not NULL of a new record.';

CREATE TABLE @workspace@.audit_seal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    last_id bigint NOT NULL UNIQUE,
    horizon bigint NOT NULL,
    row_count bigint,
    digest text,
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sealed_at timestamptz,
    CONSTRAINT audit_seal_is_whole CHECK (num_nulls(row_count, digest, sealed_at) IN (0, 3))
);
COMMENT ON TABLE @workspace@.audit_seal IS 'Seals over the audit log, written by crm.seal_audit() and checked by crm.audit_verify().';
COMMENT ON COLUMN @workspace@.audit_seal.id IS 'Order of the seals.';
COMMENT ON COLUMN @workspace@.audit_seal.last_id IS 'The seal covers the rows of audit_log after those of the seal before, up to this id.';
COMMENT ON COLUMN @workspace@.audit_seal.horizon IS 'The seal can be closed when all transactions before this one have ended.';
COMMENT ON COLUMN @workspace@.audit_seal.row_count IS 'Rows covered; NULL: still open.';
COMMENT ON COLUMN @workspace@.audit_seal.digest IS 'SHA-256 in hex over the digest before and the SHA-256 of each row; NULL: still open.';
COMMENT ON COLUMN @workspace@.audit_seal.opened_at IS 'When the seal was opened.';
COMMENT ON COLUMN @workspace@.audit_seal.sealed_at IS 'When the seal was closed.';

$_ddl_$),
(NULL::integer, 'audit', $_ddl_$

CREATE OR REPLACE TRIGGER crm_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON @workspace@.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION crm.append_only();
CREATE OR REPLACE TRIGGER crm_append_only BEFORE UPDATE OR DELETE ON @workspace@.audit_seal
    FOR EACH ROW WHEN (OLD.digest IS NOT NULL) EXECUTE FUNCTION crm.append_only();
CREATE OR REPLACE TRIGGER crm_append_only_truncate BEFORE TRUNCATE ON @workspace@.audit_seal
    FOR EACH STATEMENT EXECUTE FUNCTION crm.append_only();

SELECT crm.enable_audit((@workspace_literal@ || '.account')::regclass, 'account');
SELECT crm.enable_audit((@workspace_literal@ || '.contact')::regclass, 'contact', mask => '{national_id}');
SELECT crm.enable_audit((@workspace_literal@ || '.lead')::regclass, 'lead');
SELECT crm.enable_audit((@workspace_literal@ || '.opportunity')::regclass, 'opportunity');
SELECT crm.enable_audit((@workspace_literal@ || '.activity')::regclass, 'activity');
SELECT crm.enable_audit((@workspace_literal@ || '.external_reference')::regclass, 'external_reference');
SELECT crm.enable_audit((@workspace_literal@ || '.setting')::regclass, 'setting');
SELECT crm.enable_audit((@workspace_literal@ || '.member')::regclass, 'member');
SELECT crm.enable_audit((@workspace_literal@ || '.team')::regclass, 'team');
SELECT crm.enable_audit((@workspace_literal@ || '.team_member')::regclass, 'team_member');
SELECT crm.enable_audit((@workspace_literal@ || '.share')::regclass, 'share');
SELECT crm.enable_audit((@workspace_literal@ || '.pipeline')::regclass, 'pipeline');
SELECT crm.enable_audit((@workspace_literal@ || '.stage')::regclass, 'stage');
SELECT crm.enable_audit((@workspace_literal@ || '.stage_transition')::regclass, 'stage_transition');
SELECT crm.enable_audit((@workspace_literal@ || '.stage_rule')::regclass, 'stage_rule');
SELECT crm.enable_audit((@workspace_literal@ || '.exchange_rate')::regclass, 'exchange_rate');
$_ddl_$),
(1::integer, 'match', $_ddl_$

SELECT crm._create_match_statistics(n.nspname) FROM pg_catalog.pg_namespace AS n WHERE n.oid OPERATOR(pg_catalog.=) @workspace_literal@::regnamespace;

CREATE INDEX account_match ON @workspace@.account USING crm_match (
    crm.match_keys('company,phone,email,tax_id,website,street,city,region,postcode,country',
                   name, phone, email, uscc, website, street, city, region, postcode, country));
CREATE INDEX contact_match ON @workspace@.contact USING crm_match (
    crm.match_keys('given_name,family_name,full_name,birth_date,national_id,phone,email,street,city,region,postcode,country',
                   given_name, family_name, full_name, birth_date, national_id, phone, email, street, city, region, postcode, country));
CREATE INDEX lead_match ON @workspace@.lead USING crm_match (
    crm.match_keys('company,given_name,family_name,full_name,phone,email,website,street,city,region,postcode,country',
                   company, given_name, family_name, full_name, phone, email, website, street, city, region, postcode, country));

CREATE TABLE @workspace@.duplicate_pair (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    left_id bigint NOT NULL,
    right_id bigint NOT NULL,
    score real NOT NULL,
    reasons jsonb NOT NULL DEFAULT '[]',
    state text NOT NULL DEFAULT 'open' CONSTRAINT duplicate_pair_state_known CHECK (state IN ('open', 'duplicate', 'merged', 'not_duplicate', 'ignored')),
    decided_by bigint REFERENCES @workspace@.member ON DELETE SET NULL,
    decided_at timestamptz,
    later_until timestamptz CONSTRAINT duplicate_pair_later_until_finite CHECK (isfinite(later_until)),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT duplicate_pair_ordered CHECK (left_id < right_id),
    CONSTRAINT duplicate_pair_score_probability CHECK (score BETWEEN 0 AND 1),
    UNIQUE (left_id, right_id, kind)
);
CREATE INDEX ON @workspace@.duplicate_pair (right_id, kind);
-- The queue, best first: a page of it ends long before the pairs do.
CREATE INDEX ON @workspace@.duplicate_pair (score) WHERE state = 'open';
CREATE INDEX ON @workspace@.duplicate_pair (decided_by) WHERE decided_by IS NOT NULL;
COMMENT ON TABLE @workspace@.duplicate_pair IS 'Two records of a kind that may mean the same, and what was decided about them.';
COMMENT ON COLUMN @workspace@.duplicate_pair.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.duplicate_pair.kind IS 'Kind of both records: account, contact, lead or the name of another table of the workspace.';
COMMENT ON COLUMN @workspace@.duplicate_pair.left_id IS 'The record with the lower id.';
COMMENT ON COLUMN @workspace@.duplicate_pair.right_id IS 'The record with the higher id.';
COMMENT ON COLUMN @workspace@.duplicate_pair.score IS 'Probability, 0 to 1, that both mean the same; 0 if the last scan did not find them alike.';
COMMENT ON COLUMN @workspace@.duplicate_pair.reasons IS 'Array of {field, level, weight}; the weights, in bits, add up to the log-odds of the score.';
COMMENT ON COLUMN @workspace@.duplicate_pair.state IS 'open: not decided; duplicate: the same, in one cluster whatever the score; merged; not_duplicate: never again in one cluster; ignored: not to be shown.';
COMMENT ON COLUMN @workspace@.duplicate_pair.decided_by IS 'Who decided.';
COMMENT ON COLUMN @workspace@.duplicate_pair.decided_at IS 'When it was decided.';
COMMENT ON COLUMN @workspace@.duplicate_pair.later_until IS 'An open pair put off: it is not shown for review before.';
COMMENT ON COLUMN @workspace@.duplicate_pair.created_at IS 'When a scan found the pair first.';

CREATE TABLE @workspace@.duplicate_cluster (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    cluster_id bigint NOT NULL,
    record_id bigint NOT NULL,
    state text NOT NULL DEFAULT 'open' CONSTRAINT duplicate_cluster_state_known CHECK (state IN ('open', 'merged', 'not_duplicate', 'ignored')),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (record_id, kind)
);
CREATE INDEX ON @workspace@.duplicate_cluster (cluster_id, kind);
COMMENT ON TABLE @workspace@.duplicate_cluster IS 'Groups of two or more records that mean the same, one row a record.';
COMMENT ON COLUMN @workspace@.duplicate_cluster.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.duplicate_cluster.kind IS 'Kind of the records.';
COMMENT ON COLUMN @workspace@.duplicate_cluster.cluster_id IS 'The lowest id of the records in the cluster.';
COMMENT ON COLUMN @workspace@.duplicate_cluster.record_id IS 'A record of the cluster.';
COMMENT ON COLUMN @workspace@.duplicate_cluster.state IS 'open, merged, not_duplicate or ignored.';
COMMENT ON COLUMN @workspace@.duplicate_cluster.created_at IS 'When a scan put the record here.';

CREATE TABLE @workspace@.duplicate_scan (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    whole boolean NOT NULL,
    rows bigint NOT NULL,
    rows_read bigint NOT NULL,
    pairs bigint NOT NULL,
    clustered bigint NOT NULL,
    crowded_keys bigint NOT NULL,
    crowded_pieces bigint NOT NULL,
    threshold real NOT NULL,
    workers integer NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    basis bigint NOT NULL,
    seen bigint NOT NULL,
    writer bigint NOT NULL
);
CREATE INDEX ON @workspace@.duplicate_scan (kind, id);
COMMENT ON TABLE @workspace@.duplicate_scan IS 'Scans for duplicates that were done, one row a scan.';
COMMENT ON COLUMN @workspace@.duplicate_scan.id IS 'Identifier, ascending.';
COMMENT ON COLUMN @workspace@.duplicate_scan.kind IS 'Kind of the records.';
COMMENT ON COLUMN @workspace@.duplicate_scan.whole IS 'True if all records were compared, false if only what changed since the scan before.';
COMMENT ON COLUMN @workspace@.duplicate_scan.rows IS 'Records the table had.';
COMMENT ON COLUMN @workspace@.duplicate_scan.rows_read IS 'Records that were compared with the others.';
COMMENT ON COLUMN @workspace@.duplicate_scan.pairs IS 'Pairs of records that mean the same, afterwards.';
COMMENT ON COLUMN @workspace@.duplicate_scan.clustered IS 'Records in clusters, afterwards.';
COMMENT ON COLUMN @workspace@.duplicate_scan.crowded_keys IS 'Identifiers of the records compared that more than 200 records share: nobody was compared for having one of them in common.';
COMMENT ON COLUMN @workspace@.duplicate_scan.crowded_pieces IS 'Pieces of names of the records compared that more than 50 records share: nobody was compared for having some of them in common.';
COMMENT ON COLUMN @workspace@.duplicate_scan.threshold IS 'Probability from which a pair was reported.';
COMMENT ON COLUMN @workspace@.duplicate_scan.workers IS 'Parallel workers that helped.';
COMMENT ON COLUMN @workspace@.duplicate_scan.started_at IS 'When the scan began.';
COMMENT ON COLUMN @workspace@.duplicate_scan.finished_at IS 'When everything had been written.';
COMMENT ON COLUMN @workspace@.duplicate_scan.basis IS 'Hash of all that the result rests on: statistics, model, columns, threshold. The next scan compares only changes while it is the same.';
COMMENT ON COLUMN @workspace@.duplicate_scan.seen IS 'Transactions before this one had ended: the next scan need not look at what they wrote.';

COMMENT ON COLUMN @workspace@.duplicate_scan.writer IS 'The transaction that wrote the pairs found: what others wrote since are decisions.';

$_ddl_$),
(NULL::integer, 'match', $_ddl_$

CREATE OR REPLACE FUNCTION @workspace@.find_duplicates(kind text, record jsonb, max_results integer DEFAULT 10, OUT id bigint, OUT score real, OUT reasons jsonb)
RETURNS SETOF record LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT d.id, d.score, d.reasons FROM crm.find_duplicates(@workspace_literal@::regnamespace, kind, record, max_results) AS d $$;
COMMENT ON FUNCTION @workspace@.find_duplicates(text, jsonb, integer) IS
'Who is this already? Records of a kind (account, contact, lead) that may mean the same as the given one, best first, among those the caller may see: id, probability (0 to 1) and reasons whose weights in bits add up to its log-odds. record has the column names of the kind''s table, for example {"name": "Acme Ltd", "phone": "+44 20 7946 0018"}; columns that are not compared are ignored. max_results is 1 to 1000. Errors: 22023 for another number, an unknown kind, or a record that is no JSON object; 42703 for a field that is no column; 55000 for a table without a matching index.';

CREATE OR REPLACE FUNCTION @workspace@.scan_duplicates(kind text, threshold real DEFAULT NULL, whole boolean DEFAULT false)
RETURNS bigint LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm.scan_duplicates(@workspace_literal@::regnamespace, kind, threshold, whole) $$;
COMMENT ON FUNCTION @workspace@.scan_duplicates(text, real, boolean) IS
'Compares the records of a kind (account, contact, lead) and writes what means the same to duplicate_pair and duplicate_cluster: all of them the first time, then what changed since, unless whole is true. threshold is the probability from which a pair is reported; NULL takes the default. Returns the number of pairs. For the owner of the workspace. Errors: 22023 for a threshold that is no probability or an unknown kind, 55P03 while another scan of the kind runs, 53400 beyond crm.scan_memory, 42501.';
$_ddl_$),
(1::integer, 'match_model', $_ddl_$

SELECT crm._create_match_model(n.nspname) FROM pg_catalog.pg_namespace AS n WHERE n.oid OPERATOR(pg_catalog.=) @workspace_literal@::regnamespace;

$_ddl_$),
(NULL::integer, 'match_model', $_ddl_$

SELECT crm.enable_audit((@workspace_literal@ || '.match_model')::regclass, 'match_model');

CREATE OR REPLACE FUNCTION @workspace@.add_match_model(kind text)
RETURNS bigint LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm.add_match_model(crm._match_table(@workspace_literal@::regnamespace, kind)) $$;
COMMENT ON FUNCTION @workspace@.add_match_model(text) IS
'Copies what levels of agreement weigh for a kind at present to a new version in match_model, to be edited there and put to use by use_match_model(); returns its number. For the owner of the workspace.';

CREATE OR REPLACE FUNCTION @workspace@.use_match_model(kind text, version bigint)
RETURNS void LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm.use_match_model(crm._match_table(@workspace_literal@::regnamespace, kind), version) $$;
COMMENT ON FUNCTION @workspace@.use_match_model(text, bigint) IS
'From now on records of a kind are compared with this version of match_model; NULL: with what crm brings along. Scans and look-ups to come follow; pairs found before keep their scores until the next scan. For the owner of the workspace.';

CREATE OR REPLACE FUNCTION @workspace@.learn_matching(kind text, max_rows integer DEFAULT 200000, seed integer DEFAULT 1)
RETURNS bigint LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm.learn_matching(crm._match_table(@workspace_literal@::regnamespace, kind), max_rows, seed) $$;
COMMENT ON FUNCTION @workspace@.learn_matching(text, integer, integer) IS
'Learns from the records of a kind what levels of agreement weigh there, without labelled pairs; writes a new version to match_model and returns its number. It is not put to use until use_match_model() is called. max_rows (100 to 10,000,000) is how many records are looked at; the same records and seed give the same weights. For the owner of the workspace.';

CREATE OR REPLACE VIEW @workspace@.duplicate_label WITH (security_invoker) AS
SELECT p.kind, p.left_id, p.right_id, p.state <> 'not_duplicate' AS same, p.decided_by, p.decided_at, l.id AS merge_id
FROM @workspace@.duplicate_pair AS p
LEFT JOIN @workspace@.merge_log AS l
  ON p.state = 'merged' AND l.kind = p.kind AND l.survivor_id IN (p.left_id::text, p.right_id::text) AND l.undone_at IS NULL AND l.run_id IS NULL
  AND CASE l.survivor_id WHEN p.left_id::text THEN p.right_id ELSE p.left_id END::text = ANY (l.loser_ids)
WHERE p.state IN ('duplicate', 'not_duplicate') OR l.id IS NOT NULL;
COMMENT ON VIEW @workspace@.duplicate_label IS 'Pairs that people decided, as labels for match_eval() and for training elsewhere: those said to be duplicate or not_duplicate, and those merged one by one; merges of whole runs are decisions of a threshold and not among them. Of merges, each sees their own and those of everyone below.';
COMMENT ON COLUMN @workspace@.duplicate_label.kind IS 'Kind of the records.';
COMMENT ON COLUMN @workspace@.duplicate_label.left_id IS 'The record with the lower id.';
COMMENT ON COLUMN @workspace@.duplicate_label.right_id IS 'The record with the higher id.';
COMMENT ON COLUMN @workspace@.duplicate_label.same IS 'True if they are the same.';
COMMENT ON COLUMN @workspace@.duplicate_label.decided_by IS 'Member who decided; NULL: nobody known.';
COMMENT ON COLUMN @workspace@.duplicate_label.decided_at IS 'When.';
COMMENT ON COLUMN @workspace@.duplicate_label.merge_id IS 'The merge that made them one record: the other is in merged_record; NULL: both are there.';

CREATE OR REPLACE FUNCTION @workspace@.match_eval(kind text, labels regclass DEFAULT NULL, version bigint DEFAULT NULL,
    OUT threshold real, OUT pairs bigint, OUT right_pairs bigint, OUT "precision" real, OUT recall real, OUT f1 real, OUT proposed boolean)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass := crm._match_table(@workspace_literal@::regnamespace, match_eval.kind);
    decided record;
BEGIN
    IF labels IS NOT NULL THEN
        RETURN QUERY SELECT e.* FROM crm.match_eval(relation, labels, version) AS e;
        RETURN;
    END IF;
    -- Records that were merged are compared as they were before: what went, and the survivor without what it took over.
    WITH side AS (
        SELECT row_number() OVER () AS pair, d.same, d.merge_id, ARRAY[d.left_id, d.right_id]::text[] AS ids
        FROM @workspace@.duplicate_label AS d
        WHERE d.kind = match_eval.kind),
    image AS (
        SELECT s.pair, u.place, u.id, s.same, s.merge_id, coalesce(
                   (SELECT c.before FROM @workspace@.merge_change AS c
                    WHERE c.key = jsonb_build_object('id', u.id) AND c.merge_id = s.merge_id AND c.operation = 'settle'),
                   (SELECT r.record FROM @workspace@.merged_record AS r WHERE r.kind = match_eval.kind AND r.record_id = u.id AND r.merge_id = s.merge_id)) AS record
        FROM side AS s, unnest(s.ids) WITH ORDINALITY AS u (id, place)),
    keyed AS (
        SELECT i.pair, i.place, i.same, i.record, CASE WHEN i.record IS NULL THEN i.id ELSE i.id || ' before merge ' || i.merge_id END AS key FROM image AS i)
    SELECT coalesce(array_agg(k.key ORDER BY k.pair) FILTER (WHERE k.place = 1), '{}') AS left_ids,
           coalesce(array_agg(k.key ORDER BY k.pair) FILTER (WHERE k.place = 2), '{}') AS right_ids,
           coalesce(array_agg(k.same ORDER BY k.pair) FILTER (WHERE k.place = 1), '{}') AS same,
           jsonb_object_agg(k.key, k.record) FILTER (WHERE k.record IS NOT NULL) AS records
    INTO decided FROM keyed AS k;
    RETURN QUERY SELECT e.* FROM crm.match_eval(relation, decided.left_ids, decided.right_ids, decided.same, version, decided.records) AS e;
END
$$;
COMMENT ON FUNCTION @workspace@.match_eval(text, regclass, bigint) IS
'How well pairs of records of a kind are told apart: precision, recall and F1 (0 to 1) for each threshold (probability), and a proposed one. labels is a table or view with columns left_id, right_id and same (boolean); NULL takes what people decided: the pairs of duplicate_label that the caller sees, merged records as they were before; those that the caller may not read are left out, with a notice. version is that of a matching model, in use or not; 0 what crm brings along, NULL the one in use.';
$_ddl_$),
(1::integer, 'duplicate_rule', $_ddl_$

CREATE TABLE @workspace@.duplicate_rule (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    name text NOT NULL CONSTRAINT duplicate_rule_name_not_blank CHECK (btrim(name) <> ''),
    action text NOT NULL DEFAULT 'warn' CONSTRAINT duplicate_rule_action_known CHECK (action IN ('block', 'warn', 'record')),
    threshold real NOT NULL DEFAULT 0.9 CONSTRAINT duplicate_rule_threshold_probability CHECK (threshold > 0 AND threshold <= 1),
    events text[] NOT NULL DEFAULT '{insert,update,import}'
        CONSTRAINT duplicate_rule_events_known CHECK (events <@ '{insert,update,import,undelete}' AND array_position(events, NULL) IS NULL),
    update_fields text[],
    condition text,
    scope text NOT NULL DEFAULT 'all' CONSTRAINT duplicate_rule_scope_known CHECK (scope IN ('all', 'visible')),
    allow_override boolean NOT NULL DEFAULT false,
    active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (kind, name)
);
COMMENT ON TABLE @workspace@.duplicate_rule IS 'What happens when a record is written that means the same as another.';
COMMENT ON COLUMN @workspace@.duplicate_rule.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.duplicate_rule.kind IS 'Kind of record: account, contact, lead, or the kind a table was given in crm.guard_duplicates().';
COMMENT ON COLUMN @workspace@.duplicate_rule.name IS 'Name of the rule, as messages give it.';
COMMENT ON COLUMN @workspace@.duplicate_rule.action IS 'block refuses the row (SQLSTATE RMD01), record writes a row of duplicate_pair for later review, warn does so and raises a warning (RMD02). All active rules are applied.';
COMMENT ON COLUMN @workspace@.duplicate_rule.threshold IS 'Probability, above 0 and up to 1, from which two records are taken for the same.';
COMMENT ON COLUMN @workspace@.duplicate_rule.events IS 'When the rule is applied: insert, update, import (rows that COPY brings or a session inserts under crm.import), undelete (rows that come back: undelete() or unmerge() brings them, or an update makes the condition true that was not, whichever columns it changes).';
COMMENT ON COLUMN @workspace@.duplicate_rule.update_fields IS 'Columns whose change makes an update count; NULL: those that are compared.';
COMMENT ON COLUMN @workspace@.duplicate_rule.condition IS 'Boolean SQL expression over old and new (all NULL on insert) that must be true for the rule to be applied, written as in the WHEN clause of a trigger; a bare column means the new row. NULL: always.';
COMMENT ON COLUMN @workspace@.duplicate_rule.scope IS 'all: compare with every record; visible: only with those that the person who writes can see.';
COMMENT ON COLUMN @workspace@.duplicate_rule.allow_override IS 'A blocked row may be stored nevertheless by whoever gives a reason in crm.duplicate_override; duplicate_log keeps it.';
COMMENT ON COLUMN @workspace@.duplicate_rule.active IS 'False switches the rule off.';
COMMENT ON COLUMN @workspace@.duplicate_rule.created_at IS 'When the row was inserted.';

CREATE TABLE @workspace@.duplicate_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event text NOT NULL CONSTRAINT duplicate_log_event_known CHECK (event IN ('override', 'check')),
    kind text NOT NULL,
    record_id bigint,
    rule text,
    matches bigint[] NOT NULL,
    reason text,
    member_id bigint,
    login_role text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON @workspace@.duplicate_log (kind, record_id);
CREATE INDEX ON @workspace@.duplicate_log (created_at);
COMMENT ON TABLE @workspace@.duplicate_log IS 'Who stored a record although a duplicate rule blocked it, and who asked for duplicates among records hidden from them. Append-only.';
COMMENT ON COLUMN @workspace@.duplicate_log.id IS 'Order of writing.';
COMMENT ON COLUMN @workspace@.duplicate_log.event IS 'override: stored in spite of a rule; check: a call of check_duplicate().';
COMMENT ON COLUMN @workspace@.duplicate_log.kind IS 'Kind of record.';
COMMENT ON COLUMN @workspace@.duplicate_log.record_id IS 'The record that was stored; NULL for a check.';
COMMENT ON COLUMN @workspace@.duplicate_log.rule IS 'Name of the rule that was overridden.';
COMMENT ON COLUMN @workspace@.duplicate_log.matches IS 'The records that mean the same.';
COMMENT ON COLUMN @workspace@.duplicate_log.reason IS 'The reason given in crm.duplicate_override, at most 1000 bytes.';
COMMENT ON COLUMN @workspace@.duplicate_log.member_id IS 'The member who acted; NULL: nobody known. Not a foreign key, so that the log outlives the member.';
COMMENT ON COLUMN @workspace@.duplicate_log.login_role IS 'The role that logged in.';
COMMENT ON COLUMN @workspace@.duplicate_log.created_at IS 'When it happened.';

INSERT INTO @workspace@.setting (name, value) VALUES ('duplicate_checks_per_minute', '20');

$_ddl_$),
(NULL::integer, 'duplicate_rule', $_ddl_$

CREATE OR REPLACE TRIGGER duplicate_rule_config BEFORE INSERT OR UPDATE ON @workspace@.duplicate_rule
    FOR EACH ROW EXECUTE FUNCTION crm.duplicate_rule_config();
CREATE OR REPLACE TRIGGER duplicate_rule_changed AFTER INSERT OR UPDATE OR DELETE ON @workspace@.duplicate_rule
    FOR EACH ROW EXECUTE FUNCTION crm.duplicate_rule_changed();
CREATE OR REPLACE TRIGGER duplicate_rule_truncated AFTER TRUNCATE ON @workspace@.duplicate_rule
    FOR EACH STATEMENT EXECUTE FUNCTION crm.duplicate_rule_changed();
-- Sessions must hear of rules that arrive by replication, too.
ALTER TABLE @workspace@.duplicate_rule ENABLE ALWAYS TRIGGER duplicate_rule_changed;
ALTER TABLE @workspace@.duplicate_rule ENABLE ALWAYS TRIGGER duplicate_rule_truncated;

CREATE OR REPLACE TRIGGER crm_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON @workspace@.duplicate_log
    FOR EACH STATEMENT EXECUTE FUNCTION crm.append_only();
SELECT crm.enable_audit((@workspace_literal@ || '.duplicate_rule')::regclass, 'duplicate_rule');

SELECT crm.guard_duplicates((@workspace_literal@ || '.account')::regclass);
SELECT crm.guard_duplicates((@workspace_literal@ || '.contact')::regclass);
SELECT crm.guard_duplicates((@workspace_literal@ || '.lead')::regclass);

CREATE OR REPLACE FUNCTION @workspace@.check_duplicate(kind text, record jsonb,
    OUT visible boolean, OUT id bigint, OUT score real, OUT team text, OUT claim_state text, OUT next_step text)
RETURNS SETOF record LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT c.visible, c.id, c.score, c.team, c.claim_state, c.next_step FROM crm.check_duplicate(@workspace_literal@::regnamespace, kind, record) AS c $$;
COMMENT ON FUNCTION @workspace@.check_duplicate(text, jsonb) IS
'Would this record be a duplicate? One row for each record that means the same, also of those hidden from the caller: of these only the owner''s teams, the claim state (owned, unowned, owned by a member who has left) and the next step are told. Every call is logged, and limited by setting duplicate_checks_per_minute.';

CREATE OR REPLACE FUNCTION @workspace@.find_or_create(kind text, record jsonb, threshold real DEFAULT NULL, OUT id bigint, OUT created boolean, OUT score real)
RETURNS record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT c.id, c.created, c.score FROM crm.find_or_create(@workspace_literal@::regnamespace, kind, record, threshold) AS c $$;
COMMENT ON FUNCTION @workspace@.find_or_create(text, jsonb, real) IS
'The record of a kind that means the same, or a new one made of the given fields: its id, whether it is new, and how probable it is that it means the same. threshold is the least probability; NULL takes that of the blocking rules, 0.9 without. Race-free.';
$_ddl_$),
(1::integer, 'merge', $_ddl_$

CREATE TABLE @workspace@.merge_rule (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    field text NOT NULL,
    strategy text NOT NULL CONSTRAINT merge_rule_strategy_known
        CHECK (strategy IN ('fill', 'survivor', 'most_recent', 'most_complete', 'first_non_null', 'longest',
                            'max', 'min', 'sum', 'union', 'concat', 'trusted')),
    block text,
    separator text,
    source_field text,
    sources text[],
    UNIQUE (kind, field),
    CONSTRAINT merge_rule_sources CHECK ((strategy = 'trusted') = (sources IS NOT NULL)),
    CONSTRAINT merge_rule_block CHECK (block IS NULL OR strategy IN ('fill', 'survivor', 'most_recent', 'most_complete', 'trusted'))
);
COMMENT ON TABLE @workspace@.merge_rule IS 'Which record''s value a field has after a merge. The most specific row counts: (kind, field), then (*, field), then (kind, *), then (*, *); without any, fill.';
COMMENT ON COLUMN @workspace@.merge_rule.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.merge_rule.kind IS 'account, contact, lead, ..., the qualified name of a table outside the workspace, or * for all. Also rules the rows of other tables that a merge folds into one because a unique constraint allows only one.';
COMMENT ON COLUMN @workspace@.merge_rule.field IS 'Name of a column, or * for all.';
COMMENT ON COLUMN @workspace@.merge_rule.strategy IS 'fill: the survivor''s value, if blank the most recent other; survivor: the survivor''s even if blank; most_recent; most_complete: from the record with most fields filled; first_non_null: in the order the merge names the records; longest; max, min, sum; union: arrays, jsonb objects and separated lists; concat: distinct texts joined; trusted: from the source named first in sources.';
COMMENT ON COLUMN @workspace@.merge_rule.block IS 'Fields of one block come from one record, never mixed from contradicting ones.';
COMMENT ON COLUMN @workspace@.merge_rule.separator IS 'Between the texts of concat (a line break if null) and of union (; if null).';
COMMENT ON COLUMN @workspace@.merge_rule.source_field IS 'For trusted: the column that names a record''s source; if null, the systems in external_reference are the sources.';
COMMENT ON COLUMN @workspace@.merge_rule.sources IS 'For trusted: sources, the most trusted first.';
INSERT INTO @workspace@.merge_rule (kind, field, strategy, block) VALUES
    ('*', 'street', 'fill', 'address'),
    ('*', 'city', 'fill', 'address'),
    ('*', 'region', 'fill', 'address'),
    ('*', 'postcode', 'fill', 'address'),
    ('*', 'country', 'fill', 'address'),
    ('*', 'amount', 'fill', 'amount'),
    ('*', 'currency', 'fill', 'amount'),
    ('*', 'pipeline', 'fill', 'stage'),
    ('*', 'stage', 'fill', 'stage'),
    ('opportunity', 'closed_at', 'fill', 'stage'),
    ('opportunity', 'lost_reason', 'fill', 'stage'),
    ('lead', 'converted_at', 'fill', 'stage'),
    ('lead', 'converted_account_id', 'fill', 'stage'),
    ('lead', 'converted_contact_id', 'fill', 'stage'),
    ('lead', 'converted_opportunity_id', 'fill', 'stage'),
    ('activity', 'completed_at', 'survivor', NULL),
    -- Of two shares with one person the wider one stays: edit sorts before read.
    ('share', 'access', 'min', NULL);

CREATE TABLE @workspace@.merge_link (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    table_name text NOT NULL,
    kind_column text NOT NULL DEFAULT 'kind',
    id_column text NOT NULL DEFAULT 'record_id',
    move boolean NOT NULL DEFAULT true,
    UNIQUE (table_name, kind_column, id_column)
);
COMMENT ON TABLE @workspace@.merge_link IS 'Tables that refer to records by kind and id, without a foreign key. Tables of the workspace with columns kind and record_id need no row here unless they are to be left alone.';
COMMENT ON COLUMN @workspace@.merge_link.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.merge_link.table_name IS 'The table; qualified if it is outside the workspace.';
COMMENT ON COLUMN @workspace@.merge_link.kind_column IS 'Column with the kind.';
COMMENT ON COLUMN @workspace@.merge_link.id_column IS 'Column with the id of the record.';
COMMENT ON COLUMN @workspace@.merge_link.move IS 'False: a merge leaves the rows as they are; resolve() finds the record they mean.';
INSERT INTO @workspace@.merge_link (table_name, move) VALUES
    ('audit_log', false),
    -- Each record went its own way through the stages, and reports count it once.
    ('stage_history', false),
    ('merged_record', false),
    ('duplicate_cluster', false);

CREATE TABLE @workspace@.merge_log (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    table_schema text,
    table_name text NOT NULL,
    survivor_id text NOT NULL,
    loser_ids text[] NOT NULL,
    merged_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    merged_by bigint,
    merged_role text NOT NULL,
    fields jsonb NOT NULL DEFAULT '{}',
    effects jsonb NOT NULL DEFAULT '[]',
    escalations jsonb,
    run_id bigint,
    undone_at timestamptz,
    undone_by bigint,
    undone_role text,
    kept jsonb
);
CREATE INDEX ON @workspace@.merge_log (kind, survivor_id);
CREATE INDEX ON @workspace@.merge_log (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX ON @workspace@.merge_log (merged_at);
COMMENT ON TABLE @workspace@.merge_log IS 'One row a merge, undone or not. Written by merge_records() and unmerge() only.';
COMMENT ON COLUMN @workspace@.merge_log.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.merge_log.kind IS 'Kind of the records: a table of the workspace, or the qualified name of another.';
COMMENT ON COLUMN @workspace@.merge_log.table_schema IS 'Schema of their table; null: the workspace.';
COMMENT ON COLUMN @workspace@.merge_log.table_name IS 'Their table.';
COMMENT ON COLUMN @workspace@.merge_log.survivor_id IS 'The record that stayed.';
COMMENT ON COLUMN @workspace@.merge_log.loser_ids IS 'The records that went into it.';
COMMENT ON COLUMN @workspace@.merge_log.merged_at IS 'When.';
COMMENT ON COLUMN @workspace@.merge_log.merged_by IS 'Member who merged; null: nobody known.';
COMMENT ON COLUMN @workspace@.merge_log.merged_role IS 'Database role that merged.';
COMMENT ON COLUMN @workspace@.merge_log.fields IS 'Provenance: for each field that did not simply stay, the strategy, the records its value came from, and a reason if a value could not be taken.';
COMMENT ON COLUMN @workspace@.merge_log.effects IS 'Rows re-pointed and folded, by table and column, as merge_preview() shows them.';
COMMENT ON COLUMN @workspace@.merge_log.escalations IS 'Where the records, and what merged activities are about, stood under the escalation rules before and after the merge; NULL: under none.';
COMMENT ON COLUMN @workspace@.merge_log.run_id IS 'The run of many merges it was part of: the number of the run''s first merge; NULL: none.';
COMMENT ON COLUMN @workspace@.merge_log.undone_at IS 'When unmerge() undid it; null: it stands.';
COMMENT ON COLUMN @workspace@.merge_log.undone_by IS 'Member who undid it.';
COMMENT ON COLUMN @workspace@.merge_log.undone_role IS 'Database role that undid it.';
COMMENT ON COLUMN @workspace@.merge_log.kept IS 'What unmerge() reported: values edited since the merge, which it kept.';

CREATE TABLE @workspace@.merge_change (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    merge_id bigint NOT NULL REFERENCES @workspace@.merge_log ON DELETE CASCADE,
    position integer NOT NULL,
    table_schema text,
    table_name text NOT NULL,
    operation text NOT NULL CONSTRAINT merge_change_operation_known CHECK (operation IN ('update', 'delete', 'settle')),
    key jsonb NOT NULL,
    before jsonb NOT NULL,
    after jsonb
);
CREATE INDEX ON @workspace@.merge_change (merge_id, position);
CREATE INDEX ON @workspace@.merge_change USING hash (key);
COMMENT ON TABLE @workspace@.merge_change IS 'Every row a merge changed, so that unmerge() can put it back. Values are the text output of their type.';
COMMENT ON COLUMN @workspace@.merge_change.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.merge_change.merge_id IS 'The merge.';
COMMENT ON COLUMN @workspace@.merge_change.position IS 'Order of the statements; unmerge() goes backwards.';
COMMENT ON COLUMN @workspace@.merge_change.table_schema IS 'Schema of the table; null: the workspace.';
COMMENT ON COLUMN @workspace@.merge_change.table_name IS 'Table of the row.';
COMMENT ON COLUMN @workspace@.merge_change.operation IS 'update or delete, done by the merge; settle: the row of a merged record before the merge began and after it ended.';
COMMENT ON COLUMN @workspace@.merge_change.key IS 'Primary key of the row after the change; the whole row if it has none.';
COMMENT ON COLUMN @workspace@.merge_change.before IS 'The columns that changed, before; the whole row for delete and settle.';
COMMENT ON COLUMN @workspace@.merge_change.after IS 'The columns that changed, after; null for delete.';

CREATE TABLE @workspace@.merged_record (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    record_id text NOT NULL,
    survivor_id text NOT NULL,
    merge_id bigint NOT NULL REFERENCES @workspace@.merge_log ON DELETE CASCADE,
    merged_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    record jsonb NOT NULL,
    UNIQUE (kind, record_id)
);
CREATE INDEX ON @workspace@.merged_record (merge_id);
CREATE INDEX ON @workspace@.merged_record (kind, survivor_id);
COMMENT ON TABLE @workspace@.merged_record IS 'Tombstones: the records that merges removed, whose ids still resolve.';
COMMENT ON COLUMN @workspace@.merged_record.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.merged_record.kind IS 'Kind of the record.';
COMMENT ON COLUMN @workspace@.merged_record.record_id IS 'Its id.';
COMMENT ON COLUMN @workspace@.merged_record.survivor_id IS 'The record it went into, which may have been merged in turn.';
COMMENT ON COLUMN @workspace@.merged_record.merge_id IS 'The merge that removed it.';
COMMENT ON COLUMN @workspace@.merged_record.merged_at IS 'When.';
COMMENT ON COLUMN @workspace@.merged_record.record IS 'The record as it was: text output of each column.';

$_ddl_$),
(NULL::integer, 'merge', $_ddl_$

CREATE OR REPLACE FUNCTION @workspace@.merge_records(kind text, survivor bigint, losers bigint[], dry_run boolean DEFAULT false)
RETURNS bigint LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm.merge_records(@workspace_literal@::regnamespace, kind, survivor::text, losers::text[], dry_run) $$;
COMMENT ON FUNCTION @workspace@.merge_records(text, bigint, bigint[], boolean) IS
'Merges records of one kind into the survivor and returns the number of the merge, which unmerge() takes. The caller must be allowed to see and change every record. With dry_run nothing changes, the effects are shown as notices, and the result is null. Any number of losers. Errors: P0002 for a record that is not there or not to be changed, 55000 for one that was merged before, RMM01 if somebody else has to agree, 22023 for a record named twice or merged with itself.';

CREATE OR REPLACE FUNCTION @workspace@.merge_records(kind text, survivor text, losers text[], dry_run boolean DEFAULT false)
RETURNS bigint LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm.merge_records(@workspace_literal@::regnamespace, kind, survivor, losers, dry_run) $$;
COMMENT ON FUNCTION @workspace@.merge_records(text, text, text[], boolean) IS
'merge_records() for tables whose primary key is not a number: ids are given as text.';

CREATE OR REPLACE FUNCTION @workspace@.merge_preview(kind text, survivor bigint, losers bigint[],
    OUT table_name text, OUT column_name text, OUT rows bigint, OUT conflicts bigint, OUT totals jsonb, OUT note text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM crm.merge_preview(@workspace_literal@::regnamespace, kind, survivor::text, losers::text[]) $$;
COMMENT ON FUNCTION @workspace@.merge_preview(text, bigint, bigint[]) IS
'What merge_records() would do, without doing it: rows to be re-pointed by table and column, those among them to be folded into another because of a unique constraint, and the totals that move with them; then the fields of the survivor that would change.';

CREATE OR REPLACE FUNCTION @workspace@.merge_preview(kind text, survivor text, losers text[],
    OUT table_name text, OUT column_name text, OUT rows bigint, OUT conflicts bigint, OUT totals jsonb, OUT note text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM crm.merge_preview(@workspace_literal@::regnamespace, kind, survivor, losers) $$;
COMMENT ON FUNCTION @workspace@.merge_preview(text, text, text[]) IS
'merge_preview() for tables whose primary key is not a number: ids are given as text.';

CREATE OR REPLACE FUNCTION @workspace@.unmerge(merge_id bigint,
    OUT table_name text, OUT record jsonb, OUT field text, OUT merged text, OUT kept text, OUT note text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM crm.unmerge(@workspace_literal@::regnamespace, merge_id) $$;
COMMENT ON FUNCTION @workspace@.unmerge(bigint) IS
'Undoes a merge. Fields not edited since get back exactly what they had; each edited one keeps its value and is returned. No row means that the merge left no trace. Errors: P0002 for a merge that is not there, 55000 for one that is undone already or stands below another, which the message names.';

CREATE OR REPLACE FUNCTION @workspace@.unmerge_all(merge_ids bigint[],
    OUT merge_id bigint, OUT undone boolean, OUT table_name text, OUT record jsonb, OUT field text, OUT merged text, OUT kept text, OUT note text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM crm.unmerge_all(@workspace_literal@::regnamespace, merge_ids) $$;
COMMENT ON FUNCTION @workspace@.unmerge_all(bigint[]) IS
'Undoes several merges, the latest first: those of a run, of a person, of a day, as report_merge lists them. One row for each: undone, with every edit since the merge that was kept as a row of its own; or not undone, and in note why not.';

CREATE OR REPLACE FUNCTION @workspace@.merge_clusters(kind text, threshold real, max_merges integer DEFAULT NULL,
    OUT cluster_id bigint, OUT merge_id bigint, OUT survivor bigint, OUT losers bigint[], OUT note text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM crm.merge_clusters(@workspace_literal@::regnamespace, kind, threshold, max_merges) $$;
COMMENT ON FUNCTION @workspace@.merge_clusters(text, real, integer) IS
'Merges each open cluster that scan_duplicates() found whose weakest pair has at least the given score, 0 to 1, into its fullest record, in one transaction; no more than max_merges (NULL: all). Returns a row a cluster: the merge, or in note why it was left alone.';

CREATE OR REPLACE PROCEDURE @workspace@.merge_all_clusters(kind text, threshold real)
LANGUAGE plpgsql
AS $$
BEGIN
    CALL crm.merge_all_clusters(@workspace_literal@::pg_catalog.regnamespace, kind, threshold);
END
$$;
COMMENT ON PROCEDURE @workspace@.merge_all_clusters(text, real) IS
'Like merge_clusters(), each cluster in a transaction of its own: for many. Cancelled, it keeps what it has done; called again, it goes on. Not inside a transaction block.';

CREATE OR REPLACE VIEW @workspace@.report_merge WITH (security_invoker) AS
SELECT l.id, l.kind, l.survivor_id, l.loser_ids, cardinality(l.loser_ids) AS losers, l.merged_at, l.merged_at::date AS merged_on,
       l.merged_by, m.name AS merged_by_name, l.run_id, l.undone_at IS NOT NULL AS is_undone, l.undone_at, l.undone_by, u.name AS undone_by_name
FROM @workspace@.merge_log AS l
LEFT JOIN @workspace@.member AS m ON m.id = l.merged_by
LEFT JOIN @workspace@.member AS u ON u.id = l.undone_by;
COMMENT ON VIEW @workspace@.report_merge IS 'Merges, one a row: what went into what, by whom, when, and whether it was undone. Members see their own and those of everyone below.';
COMMENT ON COLUMN @workspace@.report_merge.id IS 'Number of the merge, which unmerge() takes.';
COMMENT ON COLUMN @workspace@.report_merge.kind IS 'Kind of record.';
COMMENT ON COLUMN @workspace@.report_merge.survivor_id IS 'The record that stayed.';
COMMENT ON COLUMN @workspace@.report_merge.loser_ids IS 'The records that went into it.';
COMMENT ON COLUMN @workspace@.report_merge.losers IS 'How many.';
COMMENT ON COLUMN @workspace@.report_merge.merged_at IS 'When.';
COMMENT ON COLUMN @workspace@.report_merge.merged_on IS 'Day of merged_at in the session''s time zone.';
COMMENT ON COLUMN @workspace@.report_merge.merged_by IS 'Member who merged; NULL: nobody known.';
COMMENT ON COLUMN @workspace@.report_merge.merged_by_name IS 'Name of that member.';
COMMENT ON COLUMN @workspace@.report_merge.run_id IS 'The run of merge_clusters() or merge_all_clusters() it was part of; NULL: none.';
COMMENT ON COLUMN @workspace@.report_merge.is_undone IS 'True if it was undone.';
COMMENT ON COLUMN @workspace@.report_merge.undone_at IS 'When it was undone.';
COMMENT ON COLUMN @workspace@.report_merge.undone_by IS 'Member who undid it.';
COMMENT ON COLUMN @workspace@.report_merge.undone_by_name IS 'Name of that member.';

CREATE OR REPLACE FUNCTION @workspace@.resolve(kind text, id text)
RETURNS text LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT crm._kind_table(@workspace_literal@::regnamespace, kind);
WITH RECURSIVE chain (id, depth) AS (
    SELECT resolve.id, 0
    UNION
    SELECT m.survivor_id, c.depth + 1
    FROM chain AS c
    JOIN @workspace@.merged_record AS m ON m.kind = resolve.kind AND m.record_id = c.id
)
SELECT c.id FROM chain AS c ORDER BY c.depth DESC LIMIT 1
$$;
COMMENT ON FUNCTION @workspace@.resolve(text, text) IS
'The record an id stands for today: the id itself, or the record it was merged into, through any number of merges. Error: 42P01 for an unknown kind.';

CREATE OR REPLACE FUNCTION @workspace@.resolve(kind text, id bigint)
RETURNS bigint LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT @workspace@.resolve(kind, id::text)::bigint $$;
COMMENT ON FUNCTION @workspace@.resolve(text, bigint) IS
'The record an id stands for today: the id itself, or the record it was merged into, through any number of merges. Error: 42P01 for an unknown kind.';

CREATE OR REPLACE FUNCTION @workspace@.merged_ids(kind text, id bigint)
RETURNS SETOF bigint LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT crm._kind_table(@workspace_literal@::regnamespace, kind);
WITH RECURSIVE gone (id) AS (
    SELECT merged_ids.id
    UNION
    SELECT m.record_id::bigint
    FROM gone AS g
    JOIN @workspace@.merged_record AS m ON m.kind = merged_ids.kind AND m.survivor_id = g.id::text
)
SELECT g.id FROM gone AS g ORDER BY g.id
$$;
COMMENT ON FUNCTION @workspace@.merged_ids(text, bigint) IS
'All ids that stand for a record: its own, and those of the records merged into it, through any number of merges. For logs that keep the ids they were written with: WHERE record_id IN (SELECT merged_ids(''account'', 17)). Error: 42P01 for an unknown kind.';

REVOKE EXECUTE ON FUNCTION @workspace@.resolve(text, text), @workspace@.merged_ids(text, bigint) FROM PUBLIC;
$_ddl_$),
(1::integer, 'merge_approval', $_ddl_$

CREATE TABLE @workspace@.merge_approval_rule (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    name text NOT NULL CONSTRAINT merge_approval_rule_name_not_blank CHECK (btrim(name) <> ''),
    condition text,
    approver text NOT NULL DEFAULT 'owner' CONSTRAINT merge_approval_rule_approver_known CHECK (approver IN ('owner', 'administrator')),
    active boolean NOT NULL DEFAULT true,
    UNIQUE (kind, name)
);
COMMENT ON TABLE @workspace@.merge_approval_rule IS 'Merges that not everybody who may edit the records may make alone. Without a row here there are none.';
COMMENT ON COLUMN @workspace@.merge_approval_rule.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.merge_approval_rule.kind IS 'Kind of the records: account, contact, ..., or the qualified name of a table outside the workspace.';
COMMENT ON COLUMN @workspace@.merge_approval_rule.name IS 'Name of the rule, as errors give it.';
COMMENT ON COLUMN @workspace@.merge_approval_rule.condition IS 'Boolean SQL expression over old, a record that would go, and new, the one that would stay: the merges it is true for need approval. Runs with the rights of the workspace''s owner. NULL: all.';
COMMENT ON COLUMN @workspace@.merge_approval_rule.approver IS 'Who may agree, and so merges without asking: owner, whoever has the owner''s rights over every record of the merge (who owns them all, or manages those who do); administrator, members with access all, who may always.';
COMMENT ON COLUMN @workspace@.merge_approval_rule.active IS 'False switches the rule off.';

CREATE TABLE @workspace@.merge_request (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    survivor_id text NOT NULL,
    loser_ids text[] NOT NULL,
    reason text,
    state text NOT NULL DEFAULT 'open' CONSTRAINT merge_request_state_known CHECK (state IN ('open', 'approved', 'refused', 'withdrawn')),
    requested_by bigint REFERENCES @workspace@.member ON DELETE SET NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decided_by bigint REFERENCES @workspace@.member ON DELETE SET NULL,
    decided_at timestamptz,
    note text,
    merge_id bigint REFERENCES @workspace@.merge_log ON DELETE SET NULL
);
CREATE INDEX ON @workspace@.merge_request (requested_by);
CREATE INDEX ON @workspace@.merge_request (decided_by);
CREATE INDEX ON @workspace@.merge_request (merge_id);
CREATE INDEX ON @workspace@.merge_request (requested_at) WHERE state = 'open';
COMMENT ON TABLE @workspace@.merge_request IS 'Merges somebody asks for. INSERT asks; UPDATE ... SET state = ''approved'' agrees and merges, ''refused'' does not, ''withdrawn'' takes it back.';
COMMENT ON COLUMN @workspace@.merge_request.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.merge_request.kind IS 'Kind of the records.';
COMMENT ON COLUMN @workspace@.merge_request.survivor_id IS 'The record that would stay.';
COMMENT ON COLUMN @workspace@.merge_request.loser_ids IS 'The records that would go into it.';
COMMENT ON COLUMN @workspace@.merge_request.reason IS 'Why, for those who decide.';
COMMENT ON COLUMN @workspace@.merge_request.state IS 'open, approved, refused or withdrawn.';
COMMENT ON COLUMN @workspace@.merge_request.requested_by IS 'Who asked; kept by the database.';
COMMENT ON COLUMN @workspace@.merge_request.requested_at IS 'When; kept by the database.';
COMMENT ON COLUMN @workspace@.merge_request.decided_by IS 'Who decided; kept by the database.';
COMMENT ON COLUMN @workspace@.merge_request.decided_at IS 'When; kept by the database.';
COMMENT ON COLUMN @workspace@.merge_request.note IS 'What whoever decided wants to say.';
COMMENT ON COLUMN @workspace@.merge_request.merge_id IS 'The merge it became.';

$_ddl_$),
(NULL::integer, 'merge_approval', $_ddl_$

CREATE OR REPLACE TRIGGER merge_approval_config BEFORE INSERT OR UPDATE ON @workspace@.merge_approval_rule
    FOR EACH ROW EXECUTE FUNCTION crm.merge_approval_config();
CREATE OR REPLACE TRIGGER merge_request_changed BEFORE INSERT OR UPDATE ON @workspace@.merge_request
    FOR EACH ROW EXECUTE FUNCTION crm.merge_request_changed();

CREATE OR REPLACE FUNCTION @workspace@.merge_request_notify() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owners bigint[];
    t record;
BEGIN
    SELECT r.rel, r.owner_column, r.id_column INTO t FROM crm._record_tables(@workspace_literal@::regnamespace) AS r WHERE r.kind = NEW.kind;
    IF t.rel IS NOT NULL THEN
        EXECUTE format('SELECT array_agg(DISTINCT r.%I) FROM %s AS r WHERE r.%I::text = ANY ($1)', t.owner_column, t.rel, t.id_column)
        INTO owners USING NEW.loser_ids || NEW.survivor_id;
    END IF;
    INSERT INTO @workspace@.reminder (member_id, due_at, title, kind, record_id)
    SELECT m.id, crm.now(), format('Merge request %s awaits a decision', NEW.id), 'merge_request', NEW.id
    FROM @workspace@.member AS m
    WHERE m.active AND m.id IS DISTINCT FROM NEW.requested_by
      AND (m.access = 'all' OR owners = ARRAY[m.id] OR m.id IN (SELECT o.manager_id FROM @workspace@.member AS o WHERE o.id = ANY (owners)));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.merge_request_notify() IS 'Trigger of merge_request: reminds those who manage the owners of the records, the owner if it is one, and administrators.';
REVOKE EXECUTE ON FUNCTION @workspace@.merge_request_notify() FROM PUBLIC;
CREATE OR REPLACE TRIGGER merge_request_notify AFTER INSERT ON @workspace@.merge_request
    FOR EACH ROW EXECUTE FUNCTION @workspace@.merge_request_notify();
$_ddl_$),
(1::integer, 'review', $_ddl_$

CREATE TABLE @workspace@.duplicate_rate (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    records bigint NOT NULL,
    duplicates bigint NOT NULL,
    clusters bigint NOT NULL,
    open_pairs bigint NOT NULL,
    rate real NOT NULL GENERATED ALWAYS AS (CASE WHEN records > 0 THEN duplicates::real / records ELSE 0 END) STORED
);
CREATE INDEX ON @workspace@.duplicate_rate (kind, measured_at);
COMMENT ON TABLE @workspace@.duplicate_rate IS 'How many duplicates there were: one row for each kind and scan. Keep it: it is the history.';
COMMENT ON COLUMN @workspace@.duplicate_rate.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.duplicate_rate.kind IS 'Kind of record.';
COMMENT ON COLUMN @workspace@.duplicate_rate.measured_at IS 'When.';
COMMENT ON COLUMN @workspace@.duplicate_rate.records IS 'Records of the kind.';
COMMENT ON COLUMN @workspace@.duplicate_rate.duplicates IS 'Records that are there once too often: of each open cluster all but one.';
COMMENT ON COLUMN @workspace@.duplicate_rate.clusters IS 'Open clusters.';
COMMENT ON COLUMN @workspace@.duplicate_rate.open_pairs IS 'Pairs nobody has decided about.';
COMMENT ON COLUMN @workspace@.duplicate_rate.rate IS 'duplicates / records, 0 to 1.';

INSERT INTO @workspace@.setting (name, value) VALUES ('duplicate_rate_warning', '0.02'), ('duplicate_rate_alarm', '0.15');

$_ddl_$),
(NULL::integer, 'review', $_ddl_$

CREATE OR REPLACE TRIGGER duplicate_decision BEFORE UPDATE OF state, decided_by, decided_at ON @workspace@.duplicate_pair
    FOR EACH ROW EXECUTE FUNCTION crm.duplicate_decision();

SELECT crm._create_review(@workspace_literal@::regnamespace);
COMMENT ON VIEW @workspace@.duplicate_review IS 'The queue of those who clean up: pairs that a scan or a rule found and nobody has decided about, side by side. UPDATE its column decision to decide: UPDATE duplicate_review SET decision = ''not_duplicate'' WHERE pair_id = 17. One sees the pairs both of whose records one sees.';
COMMENT ON COLUMN @workspace@.duplicate_review.pair_id IS 'The row of duplicate_pair.';
COMMENT ON COLUMN @workspace@.duplicate_review.kind IS 'Kind of both records.';
COMMENT ON COLUMN @workspace@.duplicate_review.score IS 'Probability, 0 to 1, that both mean the same.';
COMMENT ON COLUMN @workspace@.duplicate_review.left_id IS 'The record with the lower id.';
COMMENT ON COLUMN @workspace@.duplicate_review.right_id IS 'The other one.';
COMMENT ON COLUMN @workspace@.duplicate_review.left_name IS 'What the one is called.';
COMMENT ON COLUMN @workspace@.duplicate_review.right_name IS 'What the other is called.';
COMMENT ON COLUMN @workspace@.duplicate_review.differences IS 'The fields in which they differ, and only those: {field: [left value, right value]}.';
COMMENT ON COLUMN @workspace@.duplicate_review.reasons IS 'Why they may be the same: array of {field, level, weight}, weights in bits.';
COMMENT ON COLUMN @workspace@.duplicate_review.cluster_id IS 'The open cluster the left record is in, for preview_cluster() and merge_cluster(); NULL: none.';
COMMENT ON COLUMN @workspace@.duplicate_review.may_decide IS 'True if the reader may change both records.';
COMMENT ON COLUMN @workspace@.duplicate_review.created_at IS 'When the pair was found.';
COMMENT ON COLUMN @workspace@.duplicate_review.decision IS 'To be set: merge, duplicate, not_duplicate, ignore or later. NULL when read.';
COMMENT ON COLUMN @workspace@.duplicate_review.survivor_id IS 'To be set with merge: the record that stays; NULL: the one with more fields filled. NULL when read.';
COMMENT ON COLUMN @workspace@.duplicate_review.later_until IS 'To be set with later: when the pair shows again; NULL: in 7 days. NULL when read.';
CREATE OR REPLACE TRIGGER review_decision INSTEAD OF UPDATE ON @workspace@.duplicate_review
    FOR EACH ROW EXECUTE FUNCTION crm.review_decision();

CREATE OR REPLACE FUNCTION @workspace@.decide_pair(pair_id bigint, decision text, survivor bigint DEFAULT NULL, later_until timestamptz DEFAULT NULL)
RETURNS bigint LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm.decide_pair(@workspace_literal@::regnamespace, pair_id, decision, survivor, later_until) $$;
COMMENT ON FUNCTION @workspace@.decide_pair(bigint, text, bigint, timestamptz) IS
'Decides about a pair of duplicate_pair: merge (into survivor, or the record with more fields filled), duplicate (the same, to be merged later), not_duplicate, ignore, later (hidden until later_until, or for 7 days) or open (undecided again). Returns the number of the merge. The caller must be allowed to change both records. Errors: P0002 for a pair that is not there or not to be seen, 42501, 22023 for an unknown decision, 55000 for a pair that was merged.';

CREATE OR REPLACE FUNCTION @workspace@.cluster_members(kind text, cluster_id bigint, OUT survivor bigint, OUT losers bigint[])
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT m.survivor, m.losers FROM crm.cluster_members(@workspace_literal@::regnamespace, kind, cluster_id) AS m $$;
COMMENT ON FUNCTION @workspace@.cluster_members(text, bigint) IS
'The records of an open cluster as merge_clusters() would merge them: the one with most fields filled survives.';

CREATE OR REPLACE FUNCTION @workspace@.preview_record(kind text, survivor bigint, losers bigint[],
    OUT field text, OUT value text, OUT sources text[], OUT strategy text, OUT choices jsonb, OUT refused text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM crm.preview_record(@workspace_literal@::regnamespace, kind, survivor::text, losers::text[]) $$;
COMMENT ON FUNCTION @workspace@.preview_record(text, bigint, bigint[]) IS
'What the record would look like that merge_records() makes, a row a field: its value, the records it comes from, the strategy if it did not simply stay, what each record has, and why a value could not be taken.';

CREATE OR REPLACE FUNCTION @workspace@.preview_record(kind text, survivor text, losers text[],
    OUT field text, OUT value text, OUT sources text[], OUT strategy text, OUT choices jsonb, OUT refused text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM crm.preview_record(@workspace_literal@::regnamespace, kind, survivor, losers) $$;
COMMENT ON FUNCTION @workspace@.preview_record(text, text, text[]) IS
'preview_record() for tables whose primary key is not a number: ids are given as text.';

CREATE OR REPLACE FUNCTION @workspace@.preview_cluster(kind text, cluster_id bigint,
    OUT field text, OUT value text, OUT sources text[], OUT strategy text, OUT choices jsonb, OUT refused text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT p.*
FROM crm.cluster_members(@workspace_literal@::regnamespace, kind, cluster_id) AS m,
     crm.preview_record(@workspace_literal@::regnamespace, kind, m.survivor::text, m.losers::text[]) AS p
$$;
COMMENT ON FUNCTION @workspace@.preview_cluster(text, bigint) IS
'preview_record() of a cluster: what merge_cluster() would make of it.';

CREATE OR REPLACE FUNCTION @workspace@.merge_cluster(kind text, cluster_id bigint)
RETURNS bigint LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT crm.merge_records(@workspace_literal@::regnamespace, kind, m.survivor::text, m.losers::text[])
FROM crm.cluster_members(@workspace_literal@::regnamespace, kind, cluster_id) AS m
$$;
COMMENT ON FUNCTION @workspace@.merge_cluster(text, bigint) IS
'Merges an open cluster into the record with most fields filled; returns the number of the merge.';

CREATE OR REPLACE FUNCTION @workspace@.measure_duplicates(kind text) RETURNS real
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm._measure_duplicates(@workspace_literal@::regnamespace, kind) $$;
COMMENT ON FUNCTION @workspace@.measure_duplicates(text) IS
'Adds a row to duplicate_rate, as every scan does: how many records of a kind are there once too often by what the last scan found and people decided since. Returns the share, 0 to 1. For the owner of the workspace.';
REVOKE EXECUTE ON FUNCTION @workspace@.measure_duplicates(text) FROM PUBLIC;

CREATE OR REPLACE VIEW @workspace@.report_duplicate_rate WITH (security_invoker) AS
SELECT r.id, r.kind, r.measured_at, r.measured_at::date AS measured_on, r.records, r.duplicates, r.clusters, r.open_pairs,
       round((r.rate * 100)::numeric, 2) AS percent,
       round(((r.rate - lag(r.rate) OVER (PARTITION BY r.kind ORDER BY r.measured_at, r.id)) * 100)::numeric, 2) AS change,
       w.warning AS warning_percent, w.alarm AS alarm_percent,
       CASE WHEN r.rate * 100 > w.alarm THEN 'alarm' WHEN r.rate * 100 > w.warning THEN 'warning' ELSE 'good' END AS status,
       lead(r.id) OVER (PARTITION BY r.kind ORDER BY r.measured_at, r.id) IS NULL AS is_latest
FROM @workspace@.duplicate_rate AS r
CROSS JOIN (SELECT max(s.value::numeric * 100) FILTER (WHERE s.name = 'duplicate_rate_warning') AS warning,
                   max(s.value::numeric * 100) FILTER (WHERE s.name = 'duplicate_rate_alarm') AS alarm
            FROM @workspace@.setting AS s WHERE s.name IN ('duplicate_rate_warning', 'duplicate_rate_alarm')) AS w;
COMMENT ON VIEW @workspace@.report_duplicate_rate IS 'The rate of duplicates over time against two marks, one row for each kind and measurement. The marks are the settings duplicate_rate_warning (0.02) and duplicate_rate_alarm (0.15).';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.id IS 'The row of duplicate_rate.';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.kind IS 'Kind of record.';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.measured_at IS 'When it was measured.';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.measured_on IS 'Day of measured_at in the session''s time zone.';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.records IS 'Records of the kind.';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.duplicates IS 'Records that are there once too often.';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.clusters IS 'Groups of records that mean the same.';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.open_pairs IS 'Pairs nobody has decided about.';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.percent IS 'Duplicates in percent of the records.';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.change IS 'Change against the measurement before, in points of percent.';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.warning_percent IS 'Above this the status is warning.';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.alarm_percent IS 'Above this the status is alarm.';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.status IS 'good, warning or alarm.';
COMMENT ON COLUMN @workspace@.report_duplicate_rate.is_latest IS 'True for the latest measurement of the kind.';

$_ddl_$),
(1::integer, 'calendar', $_ddl_$

CREATE TABLE @workspace@.calendar (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CONSTRAINT calendar_name_length CHECK (octet_length(name) BETWEEN 1 AND 63),
    time_zone text NOT NULL DEFAULT 'UTC'
);
COMMENT ON TABLE @workspace@.calendar IS 'Working time of a team or place: a week of hours and the days that differ from it.';
COMMENT ON COLUMN @workspace@.calendar.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.calendar.name IS 'Name by which functions know it; at most 63 bytes.';
COMMENT ON COLUMN @workspace@.calendar.time_zone IS 'IANA time zone of its hours.';

CREATE TABLE @workspace@.calendar_hours (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    calendar_id bigint NOT NULL REFERENCES @workspace@.calendar ON DELETE CASCADE,
    weekday integer NOT NULL CONSTRAINT calendar_hours_weekday CHECK (weekday BETWEEN 1 AND 7),
    opens time(0) NOT NULL,
    closes time(0) NOT NULL,
    CONSTRAINT calendar_hours_order CHECK (opens < closes),
    CONSTRAINT calendar_hours_apart EXCLUDE USING gist (
        calendar_id WITH =, weekday WITH =,
        int4range(extract(epoch FROM opens)::integer, extract(epoch FROM closes)::integer) WITH &&)
);
COMMENT ON TABLE @workspace@.calendar_hours IS 'Working hours of a week: a row for each stretch between breaks.';
COMMENT ON COLUMN @workspace@.calendar_hours.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.calendar_hours.calendar_id IS 'The calendar.';
COMMENT ON COLUMN @workspace@.calendar_hours.weekday IS 'Day of the week by ISO 8601: 1 is Monday, 7 Sunday.';
COMMENT ON COLUMN @workspace@.calendar_hours.opens IS 'Begin, on the wall clock.';
COMMENT ON COLUMN @workspace@.calendar_hours.closes IS 'End, on the wall clock, at most 24:00.';

CREATE TABLE @workspace@.calendar_day (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    calendar_id bigint NOT NULL REFERENCES @workspace@.calendar ON DELETE CASCADE,
    day date NOT NULL CONSTRAINT calendar_day_finite CHECK (day BETWEEN '1900-01-01' AND '2199-12-31'),
    weekday integer CONSTRAINT calendar_day_weekday CHECK (weekday BETWEEN 1 AND 7),
    name text,
    UNIQUE (calendar_id, day)
);
COMMENT ON TABLE @workspace@.calendar_day IS 'Days that do not follow the week: holidays, and days worked in exchange for others.';
COMMENT ON COLUMN @workspace@.calendar_day.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.calendar_day.calendar_id IS 'The calendar.';
COMMENT ON COLUMN @workspace@.calendar_day.day IS 'The day, from 1900 to 2199.';
COMMENT ON COLUMN @workspace@.calendar_day.weekday IS 'It has the hours of this day of the week (1 is Monday); NULL: it is a holiday.';
COMMENT ON COLUMN @workspace@.calendar_day.name IS 'What people call it.';

WITH c AS (INSERT INTO @workspace@.calendar (name) VALUES ('standard') RETURNING id)
INSERT INTO @workspace@.calendar_hours (calendar_id, weekday, opens, closes)
SELECT c.id, d.weekday, h.opens, h.closes
FROM c, generate_series(1, 5) AS d (weekday), (VALUES (time '09:00', time '12:00'), ('13:00', '18:00')) AS h (opens, closes);

ALTER TABLE @workspace@.team ADD COLUMN calendar text REFERENCES @workspace@.calendar (name) ON UPDATE CASCADE;
CREATE INDEX ON @workspace@.team (calendar);
COMMENT ON COLUMN @workspace@.team.calendar IS 'Working time of its members; NULL: that of the team above, and of the topmost that of the setting "calendar".';
INSERT INTO @workspace@.setting (name, value) VALUES ('calendar', NULL);

$_ddl_$),
(NULL::integer, 'calendar', $_ddl_$

CREATE OR REPLACE FUNCTION @workspace@.calendar_of(member_id bigint DEFAULT @workspace@.me()) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
WITH RECURSIVE up (team_id, calendar, parent_id, height) AS (
    SELECT t.id, t.calendar, t.parent_id, 0 FROM @workspace@.team_member AS tm JOIN @workspace@.team AS t ON t.id = tm.team_id
    WHERE tm.member_id = calendar_of.member_id
    UNION ALL
    SELECT t.id, t.calendar, t.parent_id, u.height + 1 FROM up AS u JOIN @workspace@.team AS t ON t.id = u.parent_id
    WHERE u.calendar IS NULL AND u.height < 100)
SELECT coalesce(
    (SELECT u.calendar FROM up AS u WHERE u.calendar IS NOT NULL ORDER BY u.height, u.team_id LIMIT 1),
    (SELECT c.name FROM @workspace@.calendar AS c LEFT JOIN @workspace@.setting AS s ON s.name = 'calendar' AND s.value = c.name ORDER BY s.id, c.id LIMIT 1))
$$;
COMMENT ON FUNCTION @workspace@.calendar_of(bigint) IS
'Name of the calendar by which a member, by default the session''s, works: that of the nearest team, from the member''s own upwards, that names one, of several as near that with the least id; else the one that the setting "calendar" names, else the first there is. Also for a member who is unknown. NULL: there is no calendar. For everybody with access to the workspace.';
REVOKE EXECUTE ON FUNCTION @workspace@.calendar_of(bigint) FROM PUBLIC;

CREATE OR REPLACE TRIGGER check_time_zone BEFORE INSERT OR UPDATE OF time_zone ON @workspace@.calendar
    FOR EACH ROW EXECUTE FUNCTION crm.check_time_zone();
CREATE OR REPLACE TRIGGER check_time_zone BEFORE INSERT OR UPDATE OF time_zone ON @workspace@.member
    FOR EACH ROW EXECUTE FUNCTION crm.check_time_zone();
CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @workspace@.calendar
    FOR EACH STATEMENT EXECUTE FUNCTION crm.calendar_changed();
CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @workspace@.calendar_hours
    FOR EACH STATEMENT EXECUTE FUNCTION crm.calendar_changed();
CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @workspace@.calendar_day
    FOR EACH STATEMENT EXECUTE FUNCTION crm.calendar_changed();

CREATE OR REPLACE FUNCTION @workspace@.business_between(from_time timestamptz, to_time timestamptz, calendar text DEFAULT @workspace@.calendar_of()) RETURNS interval
LANGUAGE sql STABLE STRICT
RETURN crm.business_between(@workspace_literal@::regnamespace, from_time, to_time, calendar);
COMMENT ON FUNCTION @workspace@.business_between(timestamptz, timestamptz, text) IS
'Working time from one instant to another, in hours and smaller units; negative if the second is earlier. The calendar is that of the session''s member if none is named.';

CREATE OR REPLACE FUNCTION @workspace@.business_add(start_time timestamptz, amount interval, calendar text DEFAULT @workspace@.calendar_of()) RETURNS timestamptz
LANGUAGE sql STABLE STRICT
RETURN crm.business_add(@workspace_literal@::regnamespace, start_time, amount, calendar);
COMMENT ON FUNCTION @workspace@.business_add(timestamptz, interval, text) IS
'The instant by which so much working time, in hours or smaller units, has passed; a negative amount goes back. The calendar is that of the session''s member if none is named.';

CREATE OR REPLACE FUNCTION @workspace@.business_add_days(start_time timestamptz, days integer, calendar text DEFAULT @workspace@.calendar_of()) RETURNS timestamptz
LANGUAGE sql STABLE STRICT
RETURN crm.business_add_days(@workspace_literal@::regnamespace, start_time, days, calendar);
COMMENT ON FUNCTION @workspace@.business_add_days(timestamptz, integer, text) IS
'The same time of day so many working days later, or earlier if days is negative. The calendar is that of the session''s member if none is named.';

CREATE OR REPLACE FUNCTION @workspace@.business_open(at_time timestamptz, calendar text DEFAULT @workspace@.calendar_of()) RETURNS boolean
LANGUAGE sql STABLE STRICT
RETURN crm.business_open(@workspace_literal@::regnamespace, at_time, calendar);
COMMENT ON FUNCTION @workspace@.business_open(timestamptz, text) IS 'Whether an instant lies in working hours. The calendar is that of the session''s member if none is named.';
$_ddl_$),
(1::integer, 'reminder', $_ddl_$

-- Pending reminders only: a row leaves when it fires or is deleted.
CREATE TABLE @workspace@.reminder (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    member_id bigint NOT NULL REFERENCES @workspace@.member,
    due_at timestamptz NOT NULL CONSTRAINT reminder_due_at_finite CHECK (isfinite(due_at)),
    title text NOT NULL,
    kind text,
    record_id bigint,
    payload jsonb,
    recurrence text CONSTRAINT reminder_recurrence_valid CHECK (recurrence IS NULL OR crm.recurrence(recurrence) IS NOT NULL),
    time_zone text,
    starts_at timestamp,
    occurs_at timestamptz,
    catch_up text NOT NULL DEFAULT 'once' CONSTRAINT reminder_catch_up_known CHECK (catch_up IN ('once', 'all', 'skip')),
    max_late interval CONSTRAINT reminder_max_late_positive CHECK (max_late > interval '0'),
    snoozed_event_id bigint,
    failed_at timestamptz,
    failure text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT reminder_recurrence_whole CHECK (recurrence IS NULL OR (time_zone IS NOT NULL AND starts_at IS NOT NULL AND occurs_at IS NOT NULL)),
    CONSTRAINT reminder_skip CHECK ((catch_up = 'skip') = (max_late IS NOT NULL)),
    CONSTRAINT reminder_kind_with_record_id CHECK ((kind IS NULL) = (record_id IS NULL))
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 10000);
CREATE INDEX reminder_due ON @workspace@.reminder (due_at, id) WHERE failed_at IS NULL;
CREATE INDEX reminder_set_aside ON @workspace@.reminder (failed_at) WHERE failed_at IS NOT NULL;
CREATE INDEX ON @workspace@.reminder (member_id, due_at);
CREATE INDEX ON @workspace@.reminder (kind, record_id) WHERE record_id IS NOT NULL;
COMMENT ON TABLE @workspace@.reminder IS 'What a member is to be reminded of. A row waits here until it is due; then it becomes a row of event.';
COMMENT ON COLUMN @workspace@.reminder.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.reminder.member_id IS 'Who is reminded; by default the session''s member.';
COMMENT ON COLUMN @workspace@.reminder.due_at IS 'When. A time in the past fires at once. Finite.';
COMMENT ON COLUMN @workspace@.reminder.title IS 'What the member reads.';
COMMENT ON COLUMN @workspace@.reminder.kind IS 'Kind of the record it is about, such as account, or the table that holds it, as in public.invoice; NULL if it is about none.';
COMMENT ON COLUMN @workspace@.reminder.record_id IS 'The record it is about. The reminder fires even if the record is gone, unless it is an activity: once that is completed or deleted, there is nothing to remind of.';
COMMENT ON COLUMN @workspace@.reminder.payload IS 'Anything an application wants to find in the event.';
COMMENT ON COLUMN @workspace@.reminder.recurrence IS 'Rule of RFC 5545 by which it recurs, see crm.recurrence(); NULL: once.';
COMMENT ON COLUMN @workspace@.reminder.time_zone IS 'IANA time zone by whose clock it recurs; default: the member''s.';
COMMENT ON COLUMN @workspace@.reminder.starts_at IS 'Start of the rule on that clock; default: due_at.';
COMMENT ON COLUMN @workspace@.reminder.occurs_at IS 'When the rule says this occurrence is; due_at differs from it if somebody moved the occurrence.';
COMMENT ON COLUMN @workspace@.reminder.catch_up IS 'What becomes of occurrences missed while nothing fired: once, one event for all of them; all, an event each; skip, as once, but an event does not come into the inbox if the last occurrence is longer ago than max_late. Of a reminder that does not recur: once and all, it fires late; skip, the same.';
COMMENT ON COLUMN @workspace@.reminder.max_late IS 'With catch_up skip: how late is too late. The event is written all the same, with state skipped.';
COMMENT ON COLUMN @workspace@.reminder.snoozed_event_id IS 'The event whose snoozing made this reminder. Old events may be gone.';
COMMENT ON COLUMN @workspace@.reminder.failed_at IS 'When firing it failed for a reason of its own, such as a trigger that raised an error. It is not tried again until this is set to NULL.';
COMMENT ON COLUMN @workspace@.reminder.failure IS 'Why firing it failed: SQLSTATE and message.';
COMMENT ON COLUMN @workspace@.reminder.created_at IS 'When it was written.';

-- Inbox and outbox in one: written once when a reminder fires.  Rows are appended
-- under a lock, so that ids become visible in their order; nobody else inserts.
-- member_id has no foreign key: the reminder's held until this transaction, and a
-- second check for each row would cost more than the rest of firing.
CREATE TABLE @workspace@.event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reminder_id bigint NOT NULL,
    member_id bigint NOT NULL,
    due_at timestamptz NOT NULL,
    fired_at timestamptz NOT NULL,
    title text NOT NULL,
    kind text,
    record_id bigint,
    payload jsonb,
    state text NOT NULL DEFAULT 'new' CONSTRAINT event_state_known CHECK (state IN ('new', 'seen', 'acknowledged', 'snoozed', 'held', 'skipped')),
    handled_at timestamptz,
    snoozed_until timestamptz,
    missed integer NOT NULL DEFAULT 0
);
CREATE INDEX event_inbox ON @workspace@.event (member_id, id) WHERE state IN ('new', 'seen');
CREATE INDEX ON @workspace@.event (kind, record_id) WHERE record_id IS NOT NULL;
COMMENT ON TABLE @workspace@.event IS 'Reminders that fired: each member''s inbox, and the feed for other systems. A reminder has exactly one event for each time it is due. A row becomes visible only after all rows with lesser ids.';
COMMENT ON COLUMN @workspace@.event.id IS 'Identifier, in order of firing.';
COMMENT ON COLUMN @workspace@.event.reminder_id IS 'Identifier the reminder had.';
COMMENT ON COLUMN @workspace@.event.member_id IS 'Who is reminded.';
COMMENT ON COLUMN @workspace@.event.due_at IS 'When the reminder was due.';
COMMENT ON COLUMN @workspace@.event.fired_at IS 'When it fired. fired_at - due_at is how late it was.';
COMMENT ON COLUMN @workspace@.event.title IS 'What the member reads.';
COMMENT ON COLUMN @workspace@.event.kind IS 'Kind of the record it is about, or NULL.';
COMMENT ON COLUMN @workspace@.event.record_id IS 'The record it is about, or NULL.';
COMMENT ON COLUMN @workspace@.event.payload IS 'As in the reminder.';
COMMENT ON COLUMN @workspace@.event.state IS 'new, seen, acknowledged, snoozed, held or skipped. new and seen are open: they are in the inbox. held waits for its time or is shown with another event, skipped was too late: event_hold says why.';
COMMENT ON COLUMN @workspace@.event.handled_at IS 'When it was acknowledged or snoozed.';
COMMENT ON COLUMN @workspace@.event.snoozed_until IS 'When the reminder made by snoozing it is due.';
COMMENT ON COLUMN @workspace@.event.missed IS 'Of a reminder that recurs, and was to catch up once: how many more occurrences came due until it fired, which this event stands for, too. 10000: so many or more.';

-- Where the reminders are to fire: a copy of this row in another database says that
-- they are not to fire there.
CREATE TABLE @workspace@.reminder_home (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    database_id bigint NOT NULL,
    system_id bigint NOT NULL,
    table_id bigint NOT NULL,
    written_xid bigint NOT NULL,
    adopted_at timestamptz NOT NULL DEFAULT now(),
    adopted_by text NOT NULL
);
COMMENT ON TABLE @workspace@.reminder_home IS 'The database in which the reminders of this workspace fire. After a restore or copy they fire once crm.scheduler_adopt() was called, which leaves one row.';
COMMENT ON COLUMN @workspace@.reminder_home.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.reminder_home.database_id IS 'OID of the database.';
COMMENT ON COLUMN @workspace@.reminder_home.system_id IS 'System identifier of its cluster.';
COMMENT ON COLUMN @workspace@.reminder_home.table_id IS 'OID of this table.';
COMMENT ON COLUMN @workspace@.reminder_home.written_xid IS 'Transaction that wrote this row, equal to its xmin. With table_id it knows a cluster again after pg_upgrade.';
COMMENT ON COLUMN @workspace@.reminder_home.adopted_at IS 'When the workspace was created or adopted.';
COMMENT ON COLUMN @workspace@.reminder_home.adopted_by IS 'Who did.';
INSERT INTO @workspace@.reminder_home (database_id, system_id, table_id, written_xid, adopted_by)
SELECT h.*, session_user FROM crm._reminder_home((@workspace_literal@ || '.reminder_home')::regclass) AS h;

$_ddl_$),
(NULL::integer, 'reminder', $_ddl_$

CREATE OR REPLACE FUNCTION @workspace@.reminder_recurrence() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    new.time_zone := coalesce(new.time_zone, (SELECT m.time_zone FROM @workspace@.member AS m WHERE m.id = new.member_id), 'UTC');
    IF tg_op = 'INSERT' OR new.starts_at IS NULL THEN
        new.starts_at := coalesce(new.starts_at, new.due_at AT TIME ZONE new.time_zone);
    END IF;
    new.occurs_at := new.due_at;
    -- A rule that cannot be evaluated is refused here, not when it is due.
    PERFORM crm.next_occurrence(new.recurrence, new.starts_at, new.time_zone, new.due_at);
    RETURN new;
END
$$;
COMMENT ON FUNCTION @workspace@.reminder_recurrence() IS 'Fills in what a recurring reminder needs: time zone, start of the rule, and when it occurs.';

-- A kind misspelled would be noticed when followers and rules are not.
CREATE OR REPLACE FUNCTION @workspace@.reminder_kind() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- What waits for its next time may have lost its table.
    IF new.escalation_id IS NULL AND new.snoozed_event_id IS NULL
       AND NOT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                       WHERE c.relname = new.kind AND n.nspname = @workspace_literal@
                          OR c.relname = split_part(new.kind, '.', 2) AND n.nspname = split_part(new.kind, '.', 1))
       AND NOT EXISTS (SELECT FROM crm._record_tables(@workspace_literal@::regnamespace) AS t WHERE t.kind = new.kind) THEN
        RAISE EXCEPTION 'unrecognized kind of record: "%"', new.kind
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A kind is one of account, contact, lead, opportunity and activity, another that crm.protect() was told of, or a table, with its schema.';
    END IF;
    RETURN new;
END
$$;
COMMENT ON FUNCTION @workspace@.reminder_kind() IS 'Refuses a reminder about a kind of record that there is not.';

CREATE OR REPLACE TRIGGER kind BEFORE INSERT OR UPDATE OF kind ON @workspace@.reminder
    FOR EACH ROW WHEN (new.kind NOT IN ('account', 'contact', 'lead', 'opportunity', 'activity')) EXECUTE FUNCTION @workspace@.reminder_kind();

CREATE OR REPLACE TRIGGER recurrence BEFORE INSERT OR UPDATE OF recurrence, starts_at, time_zone ON @workspace@.reminder
    FOR EACH ROW WHEN (new.recurrence IS NOT NULL) EXECUTE FUNCTION @workspace@.reminder_recurrence();

CREATE OR REPLACE FUNCTION @workspace@.reminder_max_late() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF jsonb_typeof(new.payload) <> 'object' THEN
        RAISE EXCEPTION 'payload of a reminder with max_late must be an object'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    new.payload := coalesce(new.payload, '{}') || jsonb_build_object('skip_after', new.max_late);
    RETURN new;
END
$$;
COMMENT ON FUNCTION @workspace@.reminder_max_late() IS 'Puts max_late into the payload, so that the event has it.';

CREATE OR REPLACE TRIGGER max_late BEFORE INSERT OR UPDATE OF max_late, payload ON @workspace@.reminder
    FOR EACH ROW WHEN (new.max_late IS NOT NULL) EXECUTE FUNCTION @workspace@.reminder_max_late();

ALTER TABLE @workspace@.reminder ALTER COLUMN member_id SET DEFAULT @workspace@.me();

-- Who did the task early is not to be reminded of it; who moved it, at the new time.
CREATE OR REPLACE FUNCTION @workspace@.reminder_activity() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF crm._is_merging() THEN
        RETURN NULL;
    ELSIF tg_op = 'DELETE' OR new.completed_at IS NOT NULL AND old.completed_at IS NULL THEN
        DELETE FROM @workspace@.reminder AS r WHERE r.kind = 'activity' AND r.record_id = old.id AND r.recurrence IS NULL AND r.escalation_id IS NULL;
        -- Afterwards: the delete may have waited for one that fired.
        UPDATE @workspace@.event AS e SET state = 'acknowledged', handled_at = crm.now()
        WHERE e.kind = 'activity' AND e.record_id = old.id AND e.state IN ('new', 'seen', 'held');
        RETURN NULL;
    END IF;
    UPDATE @workspace@.reminder AS r
    SET due_at = r.due_at + CASE WHEN isfinite(old.due_at) AND isfinite(new.due_at) THEN new.due_at - old.due_at ELSE interval '0' END
    WHERE r.kind = 'activity' AND r.record_id = new.id AND r.recurrence IS NULL AND r.escalation_id IS NULL;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.reminder_activity() IS 'Row trigger of activity: once it is completed or deleted, reminders about it end and open events about it are acknowledged; when it is moved they move as far. Reminders that recur are left alone, and all while records are merged.';

CREATE OR REPLACE TRIGGER reminder_update AFTER UPDATE OF completed_at, due_at ON @workspace@.activity
    FOR EACH ROW WHEN (old.completed_at IS NULL AND new.completed_at IS NOT NULL OR old.due_at IS DISTINCT FROM new.due_at)
    EXECUTE FUNCTION @workspace@.reminder_activity();
CREATE OR REPLACE TRIGGER reminder_delete AFTER DELETE ON @workspace@.activity
    FOR EACH ROW EXECUTE FUNCTION @workspace@.reminder_activity();

-- Named to run last: it must see the due time that is stored.
CREATE OR REPLACE TRIGGER zz_wake BEFORE INSERT OR UPDATE OF due_at, failed_at ON @workspace@.reminder
    FOR EACH ROW EXECUTE FUNCTION crm.reminder_wake();

CREATE OR REPLACE FUNCTION @workspace@.acknowledge(event_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    current text;
BEGIN
    SELECT e.state INTO current FROM @workspace@.event AS e WHERE e.id = event_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'event % does not exist', event_id
            USING ERRCODE = 'no_data_found',
                  HINT = 'Or it is not yours to change.';
    END IF;
    IF current IN ('new', 'seen') THEN
        UPDATE @workspace@.event SET state = 'acknowledged', handled_at = crm.now() WHERE id = event_id;
    END IF;
END
$$;
COMMENT ON FUNCTION @workspace@.acknowledge(bigint) IS
'Takes an event out of the inbox. Does nothing if it was acknowledged or snoozed already; an event that does not exist or that the caller may not change is an error (P0002).';

CREATE OR REPLACE FUNCTION @workspace@.snooze(event_id bigint, until timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    e @workspace@.event;
    reminder_id bigint;
BEGIN
    IF NOT isfinite(until) OR until <= crm.now() THEN
        RAISE EXCEPTION 'cannot snooze until %', until
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = CASE WHEN isfinite(until) THEN 'That is past.' ELSE 'That never comes.' END,
                  HINT = 'To be rid of an event, acknowledge it.';
    END IF;
    SELECT * INTO e FROM @workspace@.event AS v WHERE v.id = event_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'event % does not exist', event_id
            USING ERRCODE = 'no_data_found',
                  HINT = 'Or it is not yours to change.';
    END IF;
    IF e.state NOT IN ('new', 'seen') THEN
        RAISE EXCEPTION 'event % is %', event_id, e.state
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'Only an open event can be snoozed.';
    END IF;
    UPDATE @workspace@.event SET state = 'snoozed', handled_at = crm.now(), snoozed_until = until WHERE id = event_id;
    INSERT INTO @workspace@.reminder (member_id, due_at, title, kind, record_id, payload, snoozed_event_id)
    VALUES (e.member_id, until, e.title, e.kind, e.record_id,
            -- Nothing but the person's own wish decides when it comes back.
            CASE WHEN e.payload IS NULL OR jsonb_typeof(e.payload) = 'object'
                 THEN coalesce(e.payload - 'crm_digest', '{}') || jsonb_strip_nulls(jsonb_build_object('snoozed_event', e.id, 'items', crm._event_items(@workspace_literal@::regnamespace, e.id)))
                 ELSE e.payload END, e.id)
    RETURNING id INTO reminder_id;
    RETURN reminder_id;
END
$$;
COMMENT ON FUNCTION @workspace@.snooze(bigint, timestamptz) IS
'Takes an open event out of the inbox and reminds of it again at the given time. Returns the id of the new reminder. An event that does not exist or that the caller may not change (P0002), one that is not open (55000) and a time that is past or infinite (22023) are errors.';
$_ddl_$),
(1::integer, 'escalation', $_ddl_$

CREATE TABLE @workspace@.escalation_rule (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    name text NOT NULL UNIQUE CONSTRAINT escalation_rule_name_not_blank CHECK (btrim(name) <> ''),
    condition text,
    clock_column text,
    yearly boolean NOT NULL DEFAULT false,
    working_time boolean NOT NULL DEFAULT false,
    calendar text REFERENCES @workspace@.calendar (name) ON UPDATE CASCADE,
    active boolean NOT NULL DEFAULT true,
    starts_at timestamptz NOT NULL DEFAULT crm.now() CONSTRAINT escalation_rule_starts CHECK (starts_at < 'infinity'),
    CONSTRAINT escalation_rule_yearly CHECK (clock_column IS NOT NULL OR NOT yearly),
    CONSTRAINT escalation_rule_calendar CHECK (working_time OR calendar IS NULL),
    CONSTRAINT escalation_rule_days CHECK (NOT (working_time AND yearly))
);
CREATE INDEX ON @workspace@.escalation_rule (calendar);
COMMENT ON TABLE @workspace@.escalation_rule IS 'When nobody acts on a record: which records, and from when the time is counted. Its levels say who hears of it and when.';
COMMENT ON COLUMN @workspace@.escalation_rule.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.escalation_rule.kind IS 'Kind of record: account, contact, lead, opportunity, activity, or one of your own that crm.protect() knows.';
COMMENT ON COLUMN @workspace@.escalation_rule.name IS 'Name, also the title of events whose level has none.';
COMMENT ON COLUMN @workspace@.escalation_rule.condition IS 'Boolean SQL expression over the columns of the record, without subqueries: only records that meet it; NULL: all. Closed records never escalate.';
COMMENT ON COLUMN @workspace@.escalation_rule.clock_column IS 'Date or time column from which is counted; a date begins at 0:00 in the time zone of the record''s owner. NULL: the last follow-up, that is the latest of creation, activities and moves to another stage.';
COMMENT ON COLUMN @workspace@.escalation_rule.yearly IS 'True: the day in clock_column, a birthday say, returns every year; 29 February on the 28th in a common year.';
COMMENT ON COLUMN @workspace@.escalation_rule.working_time IS 'True: levels count working days and hours; set by calendar.';
COMMENT ON COLUMN @workspace@.escalation_rule.calendar IS 'By which calendar; NULL: by that of the record''s owner, see calendar_of().';
COMMENT ON COLUMN @workspace@.escalation_rule.active IS 'False: nothing escalates by it. Made true again, it starts anew unless starts_at is set in the same statement.';
COMMENT ON COLUMN @workspace@.escalation_rule.starts_at IS 'Time before is not counted, so that a new rule does not report all old silence at once, and dates before in clock_column are left out; -infinity: all count.';

CREATE TABLE @workspace@.escalation_level (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    rule_id bigint NOT NULL REFERENCES @workspace@.escalation_rule ON DELETE CASCADE,
    level integer NOT NULL CONSTRAINT escalation_level_positive CHECK (level > 0),
    after interval NOT NULL CONSTRAINT escalation_level_after CHECK (after BETWEEN interval '-100 years' AND interval '100 years'),
    audience text[] NOT NULL DEFAULT '{owner}' CONSTRAINT escalation_level_audience
        CHECK (array_to_string(audience, ',', '') ~ '^(owner|manager(\^[1-9])?|(member|team):[1-9][0-9]{0,17})(,(owner|manager(\^[1-9])?|(member|team):[1-9][0-9]{0,17}))*$'),
    title text,
    UNIQUE (rule_id, level)
);
COMMENT ON TABLE @workspace@.escalation_level IS 'A rung of an escalation rule. A higher level must come later.';
COMMENT ON COLUMN @workspace@.escalation_level.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.escalation_level.rule_id IS 'The rule.';
COMMENT ON COLUMN @workspace@.escalation_level.level IS 'Its number, from 1.';
COMMENT ON COLUMN @workspace@.escalation_level.after IS 'How long after the clock started, or, if the rule has a clock_column, before (negative); a day has 24 hours or, in working time, is the same time of day a working day on, and there are no months. At most 100 years; in a yearly rule less than 365 days.';
COMMENT ON COLUMN @workspace@.escalation_level.audience IS 'Who is told, each member once: owner, manager (of the owner), manager^2 (theirs) to manager^9, member:ID, team:ID (all its members). Resolved when it happens.';
COMMENT ON COLUMN @workspace@.escalation_level.title IS 'What they read; NULL: the name of the rule.';

CREATE TABLE @workspace@.escalation (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    rule_id bigint NOT NULL REFERENCES @workspace@.escalation_rule ON DELETE CASCADE,
    kind text NOT NULL,
    record_id bigint NOT NULL,
    clock_at timestamptz NOT NULL,
    level integer NOT NULL DEFAULT 0,
    escalated_at timestamptz,
    calendar text REFERENCES @workspace@.calendar (name) ON UPDATE CASCADE ON DELETE SET NULL,
    UNIQUE (rule_id, record_id)
);
CREATE INDEX ON @workspace@.escalation (calendar) WHERE calendar IS NOT NULL;
CREATE INDEX ON @workspace@.escalation (kind, record_id);
COMMENT ON TABLE @workspace@.escalation IS 'Where each open record stands under each active rule. Kept by the database.';
COMMENT ON COLUMN @workspace@.escalation.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.escalation.rule_id IS 'The rule.';
COMMENT ON COLUMN @workspace@.escalation.kind IS 'Kind of the record.';
COMMENT ON COLUMN @workspace@.escalation.record_id IS 'The record.';
COMMENT ON COLUMN @workspace@.escalation.clock_at IS 'From when is counted.';
COMMENT ON COLUMN @workspace@.escalation.level IS 'The level reached; 0: none.';
COMMENT ON COLUMN @workspace@.escalation.escalated_at IS 'When it was reached.';
COMMENT ON COLUMN @workspace@.escalation.calendar IS 'The calendar by which its levels are counted; NULL: all time counts.';

CREATE TABLE @workspace@.stage_task (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    pipeline text NOT NULL,
    stage text NOT NULL,
    subject text NOT NULL CONSTRAINT stage_task_subject_not_blank CHECK (btrim(subject) <> ''),
    body text,
    type text NOT NULL DEFAULT 'task' REFERENCES @workspace@.activity_type (name) ON UPDATE CASCADE,
    after interval CONSTRAINT stage_task_after CHECK (after BETWEEN interval '0' AND interval '100 years'),
    working_time boolean NOT NULL DEFAULT false,
    active boolean NOT NULL DEFAULT true,
    UNIQUE (pipeline, stage, subject),
    FOREIGN KEY (pipeline, stage) REFERENCES @workspace@.stage (pipeline, name) ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE INDEX ON @workspace@.stage_task (type);
COMMENT ON TABLE @workspace@.stage_task IS 'Tasks that a record is given when it enters a stage.';
COMMENT ON COLUMN @workspace@.stage_task.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.stage_task.pipeline IS 'The pipeline of the stage.';
COMMENT ON COLUMN @workspace@.stage_task.stage IS 'The stage.';
COMMENT ON COLUMN @workspace@.stage_task.subject IS 'Subject of the activity.';
COMMENT ON COLUMN @workspace@.stage_task.body IS 'Its text.';
COMMENT ON COLUMN @workspace@.stage_task.type IS 'Its type, one of activity_type.';
COMMENT ON COLUMN @workspace@.stage_task.after IS 'How long after the record enters the stage it is due, and its owner is reminded; a day has 24 hours. NULL: it has no date. At most 100 years.';
COMMENT ON COLUMN @workspace@.stage_task.working_time IS 'True: working days and hours are counted, by the calendar of the record''s owner.';
COMMENT ON COLUMN @workspace@.stage_task.active IS 'False: no more of it.';

-- An escalation waits as a reminder; whom it reaches is decided when it fires.
ALTER TABLE @workspace@.reminder
    ADD COLUMN escalation_id bigint REFERENCES @workspace@.escalation ON DELETE CASCADE,
    ALTER COLUMN member_id DROP NOT NULL,
    ADD CONSTRAINT reminder_for_somebody CHECK (member_id IS NOT NULL OR escalation_id IS NOT NULL);
CREATE UNIQUE INDEX reminder_escalation ON @workspace@.reminder (escalation_id) WHERE escalation_id IS NOT NULL;
COMMENT ON COLUMN @workspace@.reminder.member_id IS 'Who is reminded, by default the session''s member; of an escalation, who owns the record.';
COMMENT ON COLUMN @workspace@.reminder.escalation_id IS 'The escalation that takes its next step when this is due; NULL: an ordinary reminder.';

INSERT INTO @workspace@.setting (name, value) VALUES ('escalation_fallback', NULL);
INSERT INTO @workspace@.merge_link (table_name, move) VALUES ('escalation', false);

$_ddl_$),
(NULL::integer, 'escalation', $_ddl_$

CREATE OR REPLACE FUNCTION @workspace@.escalation_next(escalation_id bigint, fired_at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
RETURN (SELECT CASE WHEN e.rule_id IS NULL THEN crm._sla_next(@workspace_literal@::regnamespace, e.id, fired_at)
                    ELSE crm._escalation_next(@workspace_literal@::regnamespace, e.id, fired_at) END
        FROM @workspace@.escalation AS e WHERE e.id = escalation_id);
COMMENT ON FUNCTION @workspace@.escalation_next(bigint, timestamptz) IS 'When the next level of an escalation is due that is not due yet; NULL if there is none. Called by the firing.';

CREATE OR REPLACE FUNCTION @workspace@.escalate(escalation_id bigint, fired_at timestamptz, OUT member_id bigint, OUT title text, OUT payload jsonb)
RETURNS SETOF record LANGUAGE sql VOLATILE STRICT ROWS 2
SET search_path = pg_catalog, pg_temp
AS $$
SELECT t.member_id, t.title, t.payload
FROM @workspace@.escalation AS e
CROSS JOIN LATERAL crm._escalate(@workspace_literal@::regnamespace, e.id, fired_at) AS t
WHERE e.id = escalation_id AND e.rule_id IS NOT NULL
UNION ALL
SELECT t.member_id, t.title, t.payload
FROM @workspace@.escalation AS e
CROSS JOIN LATERAL crm._sla_escalate(@workspace_literal@::regnamespace, e.id, fired_at) AS t
WHERE e.id = escalation_id AND e.rule_id IS NULL
$$;
COMMENT ON FUNCTION @workspace@.escalate(bigint, timestamptz) IS 'Raises an escalation to the highest level that is due and says whom to tell what. Called by the firing.';

CREATE OR REPLACE FUNCTION @workspace@.escalation_record() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ids bigint[];
BEGIN
    IF NOT EXISTS (SELECT FROM @workspace@.escalation_rule AS r WHERE r.kind = tg_argv[0] AND r.active) THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT array_agg(DISTINCT c.%I) FROM changed AS c', tg_argv[1]) INTO ids;
    IF ids IS NOT NULL THEN
        PERFORM crm._sync_escalations(@workspace_literal@::regnamespace, tg_argv[0], ids);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.escalation_record() IS 'Statement trigger of tables with escalation rules, over transition table "changed": starts and ends escalations with the records. Arguments: kind and id column.';

CREATE OR REPLACE FUNCTION @workspace@.escalation_activity() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT r.kind, array_agg(DISTINCT (to_jsonb(c) ->> (r.kind || '_id'))::bigint) AS ids
        FROM (SELECT DISTINCT e.kind FROM @workspace@.escalation_rule AS e WHERE e.active AND e.clock_column IS NULL) AS r
        JOIN changed AS c ON to_jsonb(c) ->> (r.kind || '_id') IS NOT NULL
        GROUP BY r.kind ORDER BY r.kind
    LOOP
        PERFORM crm._sync_escalations(@workspace_literal@::regnamespace, item.kind, item.ids);
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.escalation_activity() IS 'Statement trigger of activity, over transition table "changed": what is done for a record starts its clock anew.';

CREATE OR REPLACE FUNCTION @workspace@.escalation_rule_check() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rel regclass;
BEGIN
    IF tg_op = 'UPDATE' AND new.active AND NOT old.active AND new.starts_at = old.starts_at THEN
        new.starts_at := crm.now();
    END IF;
    new.working_time := new.working_time OR new.calendar IS NOT NULL;
    -- A rule about a table that is gone can still be ended.
    IF new.active THEN
        SELECT t.rel INTO rel FROM crm._record_table(@workspace_literal@::regnamespace, new.kind) AS t;
    END IF;
    IF rel IS NOT NULL AND new.condition IS NOT NULL THEN
        PERFORM crm._check_stage_expression(rel, @workspace_literal@::regnamespace, new.condition);
    END IF;
    IF rel IS NOT NULL AND new.clock_column IS NOT NULL
       AND NOT EXISTS (SELECT FROM pg_attribute AS a
                       WHERE a.attrelid = rel AND a.attname = new.clock_column AND NOT a.attisdropped
                         AND a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)) THEN
        RAISE EXCEPTION 'table "%" has no column "%" of a date or time type', rel, new.clock_column
            USING ERRCODE = 'undefined_column';
    END IF;
    EXECUTE crm._escalation_query(@workspace_literal@::regnamespace, new.kind, new.condition, new.clock_column, new.yearly, new.id, new.working_time, new.calendar) || ' LIMIT 0';
    RETURN new;
END
$$;
COMMENT ON FUNCTION @workspace@.escalation_rule_check() IS 'Refuses an escalation rule that could not be evaluated, and starts one anew that is made active.';

CREATE OR REPLACE FUNCTION @workspace@.escalation_rule_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF tg_op = 'UPDATE' AND new.kind <> old.kind THEN
        DELETE FROM @workspace@.escalation AS e WHERE e.rule_id = new.id;
    END IF;
    PERFORM crm._watch_records(@workspace_literal@::regnamespace, new.kind, 'escalation');
    PERFORM crm._sync_escalations(@workspace_literal@::regnamespace, new.kind, NULL, new.id);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.escalation_rule_changed() IS 'Brings escalations in line with a rule that was written or changed, and gives its table the triggers it needs.';

CREATE OR REPLACE FUNCTION @workspace@.stage_task_enter() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    owner bigint;
    task @workspace@.stage_task;
BEGIN
    IF NOT EXISTS (SELECT FROM @workspace@.stage_task AS s WHERE s.pipeline = new.pipeline AND s.stage = new.stage AND s.active) THEN
        RETURN NULL;
    END IF;
    SELECT r.* INTO t FROM crm._record_tables(@workspace_literal@::regnamespace) AS r
    WHERE r.kind = new.kind
      AND EXISTS (SELECT FROM pg_attribute AS a
                  WHERE a.attrelid = format('%I.activity', @workspace_literal@)::regclass AND a.attname = new.kind || '_id' AND NOT a.attisdropped);
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT r.%I FROM %s AS r WHERE r.%I = $1', t.owner_column, t.rel, t.id_column) INTO owner USING new.record_id;
    FOR task IN SELECT s.* FROM @workspace@.stage_task AS s WHERE s.pipeline = new.pipeline AND s.stage = new.stage AND s.active ORDER BY s.id LOOP
        -- What is still open from an earlier visit is not given twice.
        EXECUTE format('WITH given AS (
                            INSERT INTO %2$I.activity (type, subject, body, due_at, owner_id, %1$I)
                            SELECT $1, $2, $3, crm._escalation_due($9, $8, $4, $5), $6, $7
                            WHERE NOT EXISTS (SELECT FROM %2$I.activity AS a
                                              WHERE a.%1$I = $7 AND a.subject = $2 AND a.completed_at IS NULL)
                            RETURNING id, owner_id, due_at, subject)
                        INSERT INTO %2$I.reminder (member_id, due_at, title, kind, record_id)
                        SELECT g.owner_id, g.due_at, g.subject, ''activity'', g.id FROM given AS g
                        WHERE g.owner_id IS NOT NULL AND g.due_at IS NOT NULL', new.kind || '_id', @workspace_literal@)
        USING task.type, task.subject, task.body, new.changed_at, task.after, owner, new.record_id, CASE WHEN task.working_time THEN @workspace@.calendar_of(owner) END, @workspace_literal@::regnamespace;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.stage_task_enter() IS 'Gives a record that enters a stage the tasks of that stage, owned by its owner, who is reminded when they are due.';

CREATE OR REPLACE FUNCTION @workspace@.stage_task_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A history without tasks carries no trigger and pays nothing.
    IF NOT EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = format('%I.stage_history', @workspace_literal@)::regclass AND g.tgname = 'stage_task_enter') THEN
        CREATE TRIGGER stage_task_enter AFTER INSERT ON @workspace@.stage_history
            FOR EACH ROW EXECUTE FUNCTION @workspace@.stage_task_enter();
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.stage_task_changed() IS 'Lets entering a stage give tasks, once there are any.';

CREATE OR REPLACE TRIGGER task_changed AFTER INSERT ON @workspace@.stage_task
    FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.stage_task_changed();

CREATE OR REPLACE TRIGGER rule_check BEFORE INSERT OR UPDATE ON @workspace@.escalation_rule
    FOR EACH ROW EXECUTE FUNCTION @workspace@.escalation_rule_check();
CREATE OR REPLACE TRIGGER rule_changed AFTER INSERT OR UPDATE ON @workspace@.escalation_rule
    FOR EACH ROW EXECUTE FUNCTION @workspace@.escalation_rule_changed();

CREATE OR REPLACE FUNCTION @workspace@.escalation_level_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wrong @workspace@.escalation_level;
BEGIN
    SELECT l.* INTO wrong
    FROM @workspace@.escalation_level AS l
    JOIN @workspace@.escalation_level AS h ON h.rule_id = l.rule_id AND h.level > l.level AND h.after <= l.after
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'escalation level % does not come before the levels above it', wrong.level
            USING ERRCODE = 'check_violation',
                  DETAIL = format('A level above it is due as early or earlier than %s.', wrong.after);
    END IF;
    SELECT l.* INTO wrong
    FROM @workspace@.escalation_level AS l
    JOIN @workspace@.escalation_rule AS r ON r.id = l.rule_id
    WHERE r.clock_column IS NULL AND l.after <= interval '0'
       OR r.yearly AND NOT (l.after > interval '-365 days' AND l.after < interval '365 days')
    LIMIT 1;
    IF NOT FOUND THEN
        SELECT l.* INTO wrong FROM @workspace@.escalation_level AS l JOIN @workspace@.escalation_rule AS r ON r.id = l.rule_id
        WHERE r.working_time AND extract(year FROM l.after) * 12 + extract(month FROM l.after) <> 0 LIMIT 1;
    END IF;
    IF FOUND THEN
        RAISE EXCEPTION 'escalation level % cannot be due % after the clock starts', wrong.level, wrong.after
            USING ERRCODE = 'check_violation',
                  DETAIL = 'Only a rule with a clock_column can have levels before it, a yearly one has them within 365 days, and working time is counted in days and smaller units.';
    END IF;
    PERFORM crm._sync_escalations(@workspace_literal@::regnamespace, r.kind, NULL, r.id)
    FROM @workspace@.escalation_rule AS r
    WHERE r.id IN (SELECT c.rule_id FROM changed AS c);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.escalation_level_changed() IS 'Refuses levels out of order, and brings escalations in line with levels that were written, changed or deleted.';

CREATE OR REPLACE TRIGGER level_insert AFTER INSERT ON @workspace@.escalation_level
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.escalation_level_changed();
CREATE OR REPLACE TRIGGER level_update AFTER UPDATE ON @workspace@.escalation_level
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.escalation_level_changed();
CREATE OR REPLACE TRIGGER level_delete AFTER DELETE ON @workspace@.escalation_level
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.escalation_level_changed();

-- What follows the working time of teams, when teams, their members or calendars change.
CREATE OR REPLACE FUNCTION @workspace@.escalation_calendar() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM @workspace@.escalation_rule AS r WHERE r.working_time AND r.active) THEN
        RETURN NULL;
    END IF;
    PERFORM crm._sync_escalations(@workspace_literal@::regnamespace, m.kind, m.ids, m.rule_id)
    FROM (WITH works AS MATERIALIZED (
              SELECT coalesce(o.member_id, 0) AS owner_id, @workspace@.calendar_of(o.member_id) AS calendar
              FROM (SELECT DISTINCT d.member_id FROM @workspace@.reminder AS d WHERE d.escalation_id IS NOT NULL) AS o)
          SELECT r.id AS rule_id, r.kind, array_agg(e.record_id ORDER BY e.record_id) AS ids
          FROM @workspace@.escalation_rule AS r
          JOIN @workspace@.escalation AS e ON e.rule_id = r.id
          LEFT JOIN @workspace@.reminder AS d ON d.escalation_id = e.id
          LEFT JOIN works AS w ON w.owner_id = coalesce(d.member_id, 0)
          WHERE r.working_time AND r.active AND (tg_argv[0] = 'hours' OR r.calendar IS NULL AND (d.id IS NULL OR w.calendar IS DISTINCT FROM e.calendar))
          GROUP BY r.id, r.kind ORDER BY r.id) AS m;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.escalation_calendar() IS 'Statement trigger of calendars (argument hours) and of what says who works by which (teams): computes anew when levels counted in working time are due.';

-- Named to run after "changed", which makes the session read its calendars anew.
CREATE OR REPLACE TRIGGER escalation AFTER UPDATE ON @workspace@.calendar
    FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.escalation_calendar('hours');
CREATE OR REPLACE TRIGGER escalation AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @workspace@.calendar_hours
    FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.escalation_calendar('hours');
CREATE OR REPLACE TRIGGER escalation AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @workspace@.calendar_day
    FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.escalation_calendar('hours');
CREATE OR REPLACE TRIGGER escalation AFTER UPDATE OF calendar, parent_id ON @workspace@.team
    FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.escalation_calendar('teams');
CREATE OR REPLACE TRIGGER escalation AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @workspace@.team_member
    FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.escalation_calendar('teams');
CREATE OR REPLACE TRIGGER escalation AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @workspace@.setting
    FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.escalation_calendar('teams');

-- Nobody silences an escalation by moving or deleting its reminder, nor forges one.
DROP POLICY IF EXISTS crm_escalation_insert ON @workspace@.reminder;
CREATE POLICY crm_escalation_insert ON @workspace@.reminder AS RESTRICTIVE FOR INSERT WITH CHECK (escalation_id IS NULL);
DROP POLICY IF EXISTS crm_escalation_update ON @workspace@.reminder;
CREATE POLICY crm_escalation_update ON @workspace@.reminder AS RESTRICTIVE FOR UPDATE USING (escalation_id IS NULL);
DROP POLICY IF EXISTS crm_escalation_delete ON @workspace@.reminder;
CREATE POLICY crm_escalation_delete ON @workspace@.reminder AS RESTRICTIVE FOR DELETE USING (escalation_id IS NULL);
$_ddl_$),
(1::integer, 'sla', $_ddl_$

CREATE TABLE @workspace@.sla_policy (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    name text NOT NULL UNIQUE CONSTRAINT sla_policy_name_not_blank CHECK (btrim(name) <> ''),
    condition text,
    target interval NOT NULL CONSTRAINT sla_policy_target CHECK (target > interval '0' AND target <= interval '10 years'),
    working_time boolean NOT NULL DEFAULT false,
    calendar text REFERENCES @workspace@.calendar (name) ON UPDATE CASCADE,
    met_when text,
    met_by_activity boolean NOT NULL DEFAULT false,
    pause_when text,
    warn_percent integer[] NOT NULL DEFAULT '{50,75,90}'
        CONSTRAINT sla_policy_warn_percent CHECK (array_position(warn_percent, NULL) IS NULL AND 0 < ALL (warn_percent) AND 100 > ALL (warn_percent)),
    audience text[] NOT NULL DEFAULT '{owner}' CONSTRAINT sla_policy_audience
        CHECK (array_to_string(audience, ',', '') ~ '^(owner|manager(\^[1-9])?|(member|team):[1-9][0-9]{0,17})(,(owner|manager(\^[1-9])?|(member|team):[1-9][0-9]{0,17}))*$'),
    breach_audience text[] NOT NULL DEFAULT '{owner,manager}' CONSTRAINT sla_policy_breach_audience
        CHECK (array_to_string(breach_audience, ',', '') ~ '^(owner|manager(\^[1-9])?|(member|team):[1-9][0-9]{0,17})(,(owner|manager(\^[1-9])?|(member|team):[1-9][0-9]{0,17}))*$'),
    active boolean NOT NULL DEFAULT true,
    starts_at timestamptz NOT NULL DEFAULT crm.now() CONSTRAINT sla_policy_starts CHECK (starts_at < 'infinity'),
    CONSTRAINT sla_policy_calendar CHECK (working_time OR calendar IS NULL),
    CONSTRAINT sla_policy_can_be_met CHECK (met_when IS NOT NULL OR met_by_activity)
);
CREATE INDEX ON @workspace@.sla_policy (calendar);
COMMENT ON TABLE @workspace@.sla_policy IS 'Service levels: how soon what must have happened to which records.';
COMMENT ON COLUMN @workspace@.sla_policy.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.sla_policy.kind IS 'Kind of record: account, contact, lead, opportunity, activity, or one of your own that crm.protect() knows.';
COMMENT ON COLUMN @workspace@.sla_policy.name IS 'Name, as events give it.';
COMMENT ON COLUMN @workspace@.sla_policy.condition IS 'Boolean SQL expression over the columns of the record, without subqueries: the clock is there while it is true; NULL: for all records.';
COMMENT ON COLUMN @workspace@.sla_policy.target IS 'How much time there is. Stored in hours; in working time it must be given in hours or smaller units. At most 10 years.';
COMMENT ON COLUMN @workspace@.sla_policy.working_time IS 'True: only working time counts; by calendar, or, if that is NULL, by the calendar of the record''s owner, see calendar_of(). Set by calendar.';
COMMENT ON COLUMN @workspace@.sla_policy.calendar IS 'Only working time by this calendar counts, whoever owns the record.';
COMMENT ON COLUMN @workspace@.sla_policy.met_when IS 'Expression: when true, the level is met and the clock stops. Not true any more (a case reopened), it goes on.';
COMMENT ON COLUMN @workspace@.sla_policy.met_by_activity IS 'True: an activity done for the record after the clock started meets it, too: a first response.';
COMMENT ON COLUMN @workspace@.sla_policy.pause_when IS 'Expression: while true, the clock stands (waiting for the customer).';
COMMENT ON COLUMN @workspace@.sla_policy.warn_percent IS 'After which shares of the time, in percent, somebody is warned; {}: never.';
COMMENT ON COLUMN @workspace@.sla_policy.audience IS 'Who is warned, as in escalation_level.';
COMMENT ON COLUMN @workspace@.sla_policy.breach_audience IS 'Who is told that the time is over.';
COMMENT ON COLUMN @workspace@.sla_policy.active IS 'False: its clocks have ended.';
COMMENT ON COLUMN @workspace@.sla_policy.starts_at IS 'Time before is not counted, so that a new policy does not break at once for all that is old; -infinity: all counts.';

CREATE TABLE @workspace@.sla_clock (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    policy_id bigint NOT NULL REFERENCES @workspace@.sla_policy,
    kind text NOT NULL,
    record_id bigint NOT NULL,
    owner_id bigint,
    state text NOT NULL CONSTRAINT sla_clock_state_known CHECK (state IN ('running', 'paused', 'met', 'ended')),
    started_at timestamptz NOT NULL,
    running_since timestamptz,
    elapsed interval NOT NULL DEFAULT '0',
    target interval NOT NULL,
    calendar text REFERENCES @workspace@.calendar (name) ON UPDATE CASCADE ON DELETE SET NULL,
    due_at timestamptz,
    breached_at timestamptz,
    met_at timestamptz,
    ended_at timestamptz,
    UNIQUE (policy_id, record_id),
    CONSTRAINT sla_clock_runs CHECK ((state = 'running') = (running_since IS NOT NULL))
);
CREATE INDEX ON @workspace@.sla_clock (kind, record_id);
CREATE INDEX ON @workspace@.sla_clock (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX ON @workspace@.sla_clock (calendar) WHERE calendar IS NOT NULL;
COMMENT ON TABLE @workspace@.sla_clock IS 'The clock of each record under each policy, also of those that were met. Kept by the database.';
COMMENT ON COLUMN @workspace@.sla_clock.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.sla_clock.policy_id IS 'The policy.';
COMMENT ON COLUMN @workspace@.sla_clock.kind IS 'Kind of the record.';
COMMENT ON COLUMN @workspace@.sla_clock.record_id IS 'The record; its clocks outlive it.';
COMMENT ON COLUMN @workspace@.sla_clock.owner_id IS 'The record''s owner.';
COMMENT ON COLUMN @workspace@.sla_clock.state IS 'running, paused, met, or ended (the record is gone, or no longer meets the condition).';
COMMENT ON COLUMN @workspace@.sla_clock.started_at IS 'When it began to count.';
COMMENT ON COLUMN @workspace@.sla_clock.running_since IS 'Since when it runs without a stop and by one calendar; NULL: it stands.';
COMMENT ON COLUMN @workspace@.sla_clock.elapsed IS 'Time counted before running_since, to the microsecond.';
COMMENT ON COLUMN @workspace@.sla_clock.target IS 'How much time there is, or was.';
COMMENT ON COLUMN @workspace@.sla_clock.calendar IS 'The calendar whose working time it has counted since it last ran on; NULL: all time.';
COMMENT ON COLUMN @workspace@.sla_clock.due_at IS 'When the time is over if it goes on like this; NULL while it stands.';
COMMENT ON COLUMN @workspace@.sla_clock.breached_at IS 'When the time was over; NULL: in time. Never taken back.';
COMMENT ON COLUMN @workspace@.sla_clock.met_at IS 'When it was met.';
COMMENT ON COLUMN @workspace@.sla_clock.ended_at IS 'When it ended without being met.';

-- A running clock waits as an escalation, whose levels are percent.
ALTER TABLE @workspace@.escalation
    ALTER COLUMN rule_id DROP NOT NULL,
    ADD COLUMN sla_clock_id bigint UNIQUE REFERENCES @workspace@.sla_clock ON DELETE CASCADE,
    ADD CONSTRAINT escalation_of_rule_or_clock CHECK (num_nonnulls(rule_id, sla_clock_id) = 1);
COMMENT ON COLUMN @workspace@.escalation.rule_id IS 'The rule; NULL: it is an SLA clock.';
COMMENT ON COLUMN @workspace@.escalation.sla_clock_id IS 'The SLA clock whose warnings it brings; then level is the share of the time, in percent.';
INSERT INTO @workspace@.merge_link (table_name, move) VALUES ('sla_clock', false);

$_ddl_$),
(NULL::integer, 'sla', $_ddl_$

CREATE OR REPLACE FUNCTION @workspace@.sla_record() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ids bigint[];
BEGIN
    IF NOT EXISTS (SELECT FROM @workspace@.sla_policy AS p WHERE p.kind = tg_argv[0] AND p.active) THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT array_agg(DISTINCT c.%I) FROM changed AS c', tg_argv[1]) INTO ids;
    IF ids IS NOT NULL THEN
        PERFORM crm._sync_sla(@workspace_literal@::regnamespace, tg_argv[0], ids, tg_op = 'INSERT');
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.sla_record() IS 'Statement trigger of tables with SLA policies, over transition table "changed": starts, pauses, resumes and stops clocks with the records. Arguments: kind and id column.';

CREATE OR REPLACE FUNCTION @workspace@.sla_activity() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT r.kind, array_agg(DISTINCT (to_jsonb(c) ->> (r.kind || '_id'))::bigint) AS ids
        FROM (SELECT DISTINCT p.kind FROM @workspace@.sla_policy AS p WHERE p.active AND p.met_by_activity) AS r
        JOIN changed AS c ON to_jsonb(c) ->> (r.kind || '_id') IS NOT NULL
        GROUP BY r.kind ORDER BY r.kind
    LOOP
        PERFORM crm._sync_sla(@workspace_literal@::regnamespace, item.kind, item.ids, false);
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.sla_activity() IS 'Statement trigger of activity, over transition table "changed": what is done for a record may be the response that was due.';

CREATE OR REPLACE FUNCTION @workspace@.sla_policy_check() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rel regclass;
    expression text;
BEGIN
    IF tg_op = 'UPDATE' AND (new.kind <> old.kind OR new.id <> old.id) THEN
        RAISE EXCEPTION 'the kind of SLA policy "%" cannot be changed', old.name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Set active to false and write a new policy.';
    END IF;
    IF new.calendar IS NOT NULL OR new.working_time THEN
        -- Refuses days: a working day is not 24 hours.
        PERFORM crm.business_add(@workspace_literal@::regnamespace, crm.now(), new.target, coalesce(new.calendar, @workspace@.calendar_of(NULL)));
        new.working_time := true;
    END IF;
    new.target := make_interval(secs => extract(epoch FROM new.target)::double precision);
    IF new.active THEN
        SELECT t.rel INTO rel FROM crm._record_table(@workspace_literal@::regnamespace, new.kind) AS t;
    END IF;
    FOREACH expression IN ARRAY ARRAY[new.condition, new.met_when, new.pause_when] LOOP
        IF rel IS NOT NULL AND expression IS NOT NULL THEN
            PERFORM crm._check_stage_expression(rel, @workspace_literal@::regnamespace, expression);
        END IF;
    END LOOP;
    IF new.met_by_activity
       AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = format('%I.activity', @workspace_literal@)::regclass AND a.attname = new.kind || '_id' AND NOT a.attisdropped) THEN
        RAISE EXCEPTION 'activities have no column "%"', new.kind || '_id'
            USING ERRCODE = 'undefined_column',
                  HINT = 'Say in met_when when the level is met.';
    END IF;
    RETURN new;
END
$$;
COMMENT ON FUNCTION @workspace@.sla_policy_check() IS 'Refuses an SLA policy that could not be evaluated, and stores its target in hours.';

CREATE OR REPLACE FUNCTION @workspace@.sla_policy_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE crm._sla_query(@workspace_literal@::regnamespace, new.id) || ' LIMIT 0';
    PERFORM crm._watch_records(@workspace_literal@::regnamespace, new.kind, 'sla');
    PERFORM crm._sync_sla(@workspace_literal@::regnamespace, new.kind, NULL, tg_op = 'INSERT', new.id, true);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.sla_policy_changed() IS 'Brings clocks in line with a policy that was written or changed, and gives its table the triggers it needs.';

CREATE OR REPLACE TRIGGER policy_check BEFORE INSERT OR UPDATE ON @workspace@.sla_policy
    FOR EACH ROW EXECUTE FUNCTION @workspace@.sla_policy_check();
CREATE OR REPLACE TRIGGER policy_changed AFTER INSERT OR UPDATE ON @workspace@.sla_policy
    FOR EACH ROW EXECUTE FUNCTION @workspace@.sla_policy_changed();

CREATE OR REPLACE FUNCTION @workspace@.sla_calendar() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM @workspace@.sla_policy AS p WHERE p.working_time AND p.active) THEN
        RETURN NULL;
    END IF;
    PERFORM crm._sync_sla(@workspace_literal@::regnamespace, m.kind, m.ids, false, m.id)
    FROM (WITH works AS MATERIALIZED (
              SELECT coalesce(o.owner_id, 0) AS owner_id, @workspace@.calendar_of(o.owner_id) AS calendar
              FROM (SELECT DISTINCT c.owner_id FROM @workspace@.sla_clock AS c WHERE c.state = 'running') AS o)
          SELECT p.id, p.kind, array_agg(c.record_id ORDER BY c.record_id) AS ids
          FROM @workspace@.sla_policy AS p
          JOIN @workspace@.sla_clock AS c ON c.policy_id = p.id AND c.state = 'running'
          JOIN works AS w ON w.owner_id = coalesce(c.owner_id, 0)
          WHERE p.working_time AND p.active AND (tg_argv[0] = 'hours' OR p.calendar IS NULL AND w.calendar IS DISTINCT FROM c.calendar)
          GROUP BY p.id, p.kind ORDER BY p.id) AS m;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.sla_calendar() IS 'Statement trigger of calendars (argument hours) and of what says who works by which (teams): computes anew when the time of running clocks is over.';

-- Named to run after "changed", which makes the session read its calendars anew.
CREATE OR REPLACE TRIGGER sla AFTER UPDATE ON @workspace@.calendar
    FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.sla_calendar('hours');
CREATE OR REPLACE TRIGGER sla AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @workspace@.calendar_hours
    FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.sla_calendar('hours');
CREATE OR REPLACE TRIGGER sla AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @workspace@.calendar_day
    FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.sla_calendar('hours');
CREATE OR REPLACE TRIGGER sla AFTER UPDATE OF calendar, parent_id ON @workspace@.team
    FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.sla_calendar('teams');
CREATE OR REPLACE TRIGGER sla AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @workspace@.team_member
    FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.sla_calendar('teams');
CREATE OR REPLACE TRIGGER sla AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @workspace@.setting
    FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.sla_calendar('teams');

CREATE OR REPLACE VIEW @workspace@.sla_status WITH (security_invoker) AS
SELECT c.id, p.name AS policy, c.kind, c.record_id, c.state, c.started_at, t.used, c.target - t.used AS left_over,
       round(100 * extract(epoch FROM t.used) / extract(epoch FROM c.target), 1) AS percent,
       c.due_at, coalesce(c.breached_at, CASE WHEN t.used > c.target THEN c.due_at END) AS breached_at, c.met_at, c.ended_at
FROM @workspace@.sla_clock AS c
JOIN @workspace@.sla_policy AS p ON p.id = c.policy_id
CROSS JOIN LATERAL (SELECT c.elapsed + CASE WHEN c.state = 'running' THEN crm._sla_elapsed(@workspace_literal@::regnamespace, c.calendar, c.running_since, crm.now())
                                            ELSE interval '0' END) AS t (used);
COMMENT ON VIEW @workspace@.sla_status IS 'SLA clocks as they stand now, of the records the reader may see.';
COMMENT ON COLUMN @workspace@.sla_status.id IS 'The clock.';
COMMENT ON COLUMN @workspace@.sla_status.policy IS 'Name of the policy.';
COMMENT ON COLUMN @workspace@.sla_status.kind IS 'Kind of the record.';
COMMENT ON COLUMN @workspace@.sla_status.record_id IS 'The record.';
COMMENT ON COLUMN @workspace@.sla_status.state IS 'running, paused, met or ended.';
COMMENT ON COLUMN @workspace@.sla_status.started_at IS 'When it began to count.';
COMMENT ON COLUMN @workspace@.sla_status.used IS 'Time counted until now, in hours: working time if the policy has a calendar.';
COMMENT ON COLUMN @workspace@.sla_status.left_over IS 'Time left; negative: over.';
COMMENT ON COLUMN @workspace@.sla_status.percent IS 'Share of the time that is used, in percent.';
COMMENT ON COLUMN @workspace@.sla_status.due_at IS 'When the time is over if it goes on like this; NULL while it stands.';
COMMENT ON COLUMN @workspace@.sla_status.breached_at IS 'When the time was over; NULL: in time until now.';
COMMENT ON COLUMN @workspace@.sla_status.met_at IS 'When it was met.';
COMMENT ON COLUMN @workspace@.sla_status.ended_at IS 'When it ended without being met.';
$_ddl_$),
(1::integer, 'attention', $_ddl_$

CREATE TABLE @workspace@.attention_rule (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL CONSTRAINT attention_rule_name_not_blank CHECK (btrim(name) <> ''),
    position integer NOT NULL DEFAULT 1000,
    member_id bigint REFERENCES @workspace@.member ON DELETE CASCADE,
    team_id bigint REFERENCES @workspace@.team ON DELETE CASCADE,
    kind text,
    condition text,
    delivery text CONSTRAINT attention_rule_delivery_known CHECK (delivery IN ('at once', 'digest')),
    quiet_from time,
    quiet_to time,
    calendar text REFERENCES @workspace@.calendar (name) ON UPDATE CASCADE,
    per_hour integer CONSTRAINT attention_rule_per_hour CHECK (per_hour >= 0),
    per_day integer CONSTRAINT attention_rule_per_day CHECK (per_day >= 0),
    once_within interval CONSTRAINT attention_rule_once_within CHECK (once_within > interval '0' AND once_within <= interval '1 year'),
    digest_at time[] CONSTRAINT attention_rule_digest_at CHECK (cardinality(digest_at) >= 1 AND cardinality(digest_at) <= 24 AND array_position(digest_at, NULL) IS NULL),
    active boolean NOT NULL DEFAULT true,
    CONSTRAINT attention_rule_whom CHECK (num_nonnulls(member_id, team_id) <= 1),
    CONSTRAINT attention_rule_condition_of_kind CHECK (condition IS NULL OR kind IS NOT NULL),
    CONSTRAINT attention_rule_quiet CHECK ((quiet_from IS NULL) = (quiet_to IS NULL) AND num_nonnulls(quiet_from, calendar) <= 1)
);
CREATE INDEX ON @workspace@.attention_rule (member_id);
CREATE INDEX ON @workspace@.attention_rule (team_id);
CREATE INDEX ON @workspace@.attention_rule (calendar);
COMMENT ON TABLE @workspace@.attention_rule IS 'How much of a person''s attention events may take. Of the rules that apply to an event, each column is taken from the first, by position and id, in which it is not NULL.';
COMMENT ON COLUMN @workspace@.attention_rule.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.attention_rule.name IS 'Name, as why_not() gives it.';
COMMENT ON COLUMN @workspace@.attention_rule.position IS 'Rules are asked in this order. Members write their own at 1000 or later.';
COMMENT ON COLUMN @workspace@.attention_rule.member_id IS 'For events of this member; NULL, and no team: of all.';
COMMENT ON COLUMN @workspace@.attention_rule.team_id IS 'For events of members of this team or one below it.';
COMMENT ON COLUMN @workspace@.attention_rule.kind IS 'For events about a record of this kind, or about one that refers to such a record by a column KIND_id; NULL: for all events.';
COMMENT ON COLUMN @workspace@.attention_rule.condition IS 'Boolean SQL expression over the columns of that record, without subqueries, as in an escalation rule.';
COMMENT ON COLUMN @workspace@.attention_rule.delivery IS 'at once: nothing holds the event; digest: it waits for the next digest.';
COMMENT ON COLUMN @workspace@.attention_rule.quiet_from IS 'Quiet hours begin, on the clock of the member''s time zone; equal to quiet_to: there are none. A member''s own add to those of other rules, unless these say that there are none.';
COMMENT ON COLUMN @workspace@.attention_rule.quiet_to IS 'Quiet hours end; before quiet_from: on the next day.';
COMMENT ON COLUMN @workspace@.attention_rule.calendar IS 'Instead of quiet_from and quiet_to: all time that is not working time by this calendar is quiet.';
COMMENT ON COLUMN @workspace@.attention_rule.per_hour IS 'Shown only while the member was shown fewer events in this hour of the member''s clock; others wait for a digest.';
COMMENT ON COLUMN @workspace@.attention_rule.per_day IS 'The same for the day of the member''s clock.';
COMMENT ON COLUMN @workspace@.attention_rule.once_within IS 'At most one event about one record in this time: a later one is shown with the first while that is open, and when the time is over once that was acknowledged. At most a year.';
COMMENT ON COLUMN @workspace@.attention_rule.digest_at IS 'Times of the member''s day at which digests come. NULL: what exceeds a budget comes when the next hour or day begins.';
COMMENT ON COLUMN @workspace@.attention_rule.active IS 'False: it does not apply.';

CREATE TABLE @workspace@.event_hold (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    event_id bigint NOT NULL UNIQUE REFERENCES @workspace@.event ON DELETE CASCADE,
    member_id bigint NOT NULL,
    reason text NOT NULL CONSTRAINT event_hold_reason_known
        CHECK (reason IN ('quiet hours', 'digest', 'budget', 'frequency', 'merged', 'delegated', 'too late', 'settled')),
    detail jsonb NOT NULL DEFAULT '{}',
    held_at timestamptz NOT NULL,
    until timestamptz,
    shown_at timestamptz,
    shown_with bigint
);
CREATE INDEX ON @workspace@.event_hold (member_id, until) WHERE until IS NOT NULL;
CREATE INDEX ON @workspace@.event_hold (shown_with) WHERE shown_with IS NOT NULL;
COMMENT ON TABLE @workspace@.event_hold IS 'Why events did not come into the inbox when they fired, and what became of them. Kept when they are shown.';
COMMENT ON COLUMN @workspace@.event_hold.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.event_hold.event_id IS 'The event.';
COMMENT ON COLUMN @workspace@.event_hold.member_id IS 'Whose it is.';
COMMENT ON COLUMN @workspace@.event_hold.reason IS 'quiet hours, digest, budget, frequency, merged (with an open event about the same record), delegated (to who stands in), too late (for a reminder with catch_up skip), settled (somebody acted on the record).';
COMMENT ON COLUMN @workspace@.event_hold.detail IS 'The reason as data: rule, its name, and what it said.';
COMMENT ON COLUMN @workspace@.event_hold.held_at IS 'When it was held.';
COMMENT ON COLUMN @workspace@.event_hold.until IS 'When it will be looked at again; NULL: it is not waiting.';
COMMENT ON COLUMN @workspace@.event_hold.shown_at IS 'When it came into the inbox, by itself or in a digest.';
COMMENT ON COLUMN @workspace@.event_hold.shown_with IS 'The event in which it is shown: a digest, the one it was merged with, or that of who stands in. It is closed with that one.';

CREATE TABLE @workspace@.attention_spent (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    member_id bigint NOT NULL,
    hour timestamp NOT NULL,
    shown integer NOT NULL,
    UNIQUE (member_id, hour)
);
COMMENT ON TABLE @workspace@.attention_spent IS 'How many events members were shown lately. Kept by the database while there are rules.';
COMMENT ON COLUMN @workspace@.attention_spent.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.attention_spent.member_id IS 'The member.';
COMMENT ON COLUMN @workspace@.attention_spent.hour IS 'Begin of the hour, on the clock of the member''s time zone.';
COMMENT ON COLUMN @workspace@.attention_spent.shown IS 'Events that came into the inbox in it; a digest is one.';

$_ddl_$),
(NULL::integer, 'attention', $_ddl_$

/*
 * One statement a batch.  Candidates are the events just written and those held
 * events that a reminder of ours, fired in this batch, releases.  The rules that
 * apply to each are found; events with the same rules share a policy.  Then, in
 * this order: urgent ones and those nothing is said about are shown; digest; quiet
 * hours; one event a record; budgets.  A budget is a ceiling on all that the person
 * is shown, so who may exceed it most is ranked first.
 */
CREATE OR REPLACE FUNCTION @workspace@.hold_events(first_id bigint, last_id bigint, fired_at timestamptz, bare boolean) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
-- Plans are kept, and made while tables may be empty: only ones that use indexes stay
-- good, and OFFSET 0 leaves none but the primary key for a range of ids.
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    late bigint[];
    snoozed bigint[];
    candidates bigint[];
    matched_events bigint[];
    matched_rules bigint[];
    horizon interval := nullif(current_setting('crm.catch_up_horizon'), '-1')::interval;
BEGIN
    -- A million reminders without payload, and nobody who wants to be left alone, are not looked at.
    IF NOT bare OR horizon IS NOT NULL THEN
        SELECT array_agg(e.id) FILTER (WHERE e.payload ? 'skip_after' OR e.fired_at - e.due_at > horizon),
               array_agg(e.id) FILTER (WHERE e.payload ? 'snoozed_event')
        INTO late, snoozed
        FROM @workspace@.event AS e WHERE e.id BETWEEN first_id AND last_id;
    END IF;
    IF late IS NOT NULL THEN
        WITH skipped AS (
            UPDATE @workspace@.event AS e SET state = 'skipped', handled_at = hold_events.fired_at
            WHERE e.id = ANY (late)
              AND (e.payload ? 'skip_after' AND e.fired_at - e.due_at > (e.payload ->> 'skip_after')::interval
                   -- Escalations and service levels say how things are, others how they were.
                   OR e.fired_at - e.due_at > horizon AND e.missed = 0 AND NOT coalesce(e.payload ?| '{escalation,sla,crm_digest}' OR e.payload @> '{"urgent": true}', false))
            RETURNING e.id, e.member_id, e.payload -> 'skip_after' AS skip_after, e.fired_at - e.due_at > horizon AS beyond)
        INSERT INTO @workspace@.event_hold (event_id, member_id, reason, detail, held_at)
        SELECT s.id, s.member_id, 'too late', CASE WHEN s.beyond THEN jsonb_build_object('max_late', horizon, 'setting', 'crm.catch_up_horizon') ELSE jsonb_build_object('max_late', s.skip_after) END,
               hold_events.fired_at FROM skipped AS s;
    END IF;
    IF snoozed IS NOT NULL THEN
        -- What somebody was warned of, and snoozed, may be done by now.
        WITH settled AS (
            UPDATE @workspace@.event AS e SET state = 'skipped', handled_at = hold_events.fired_at
            WHERE e.id = ANY (snoozed) AND e.state = 'new'
              AND (EXISTS (SELECT FROM @workspace@.escalation_rule AS r
                           WHERE r.name = e.payload ->> 'escalation' AND r.kind = e.kind AND NOT r.yearly
                             -- Started anew it is at level 0.
                             AND NOT EXISTS (SELECT FROM @workspace@.escalation AS x
                                             WHERE x.rule_id = r.id AND x.record_id = e.record_id AND to_jsonb(x.level) >= e.payload -> 'level'))
                   OR EXISTS (SELECT FROM @workspace@.sla_policy AS p JOIN @workspace@.sla_clock AS c ON c.policy_id = p.id
                              WHERE p.name = e.payload ->> 'sla' AND c.kind = e.kind AND c.record_id = e.record_id AND c.state IN ('met', 'ended')))
            RETURNING e.id, e.member_id)
        INSERT INTO @workspace@.event_hold (event_id, member_id, reason, detail, held_at)
        SELECT s.id, s.member_id, 'settled', '{"snoozed": true}', hold_events.fired_at FROM settled AS s;
    END IF;
    last_id := @workspace@.delegate_events(first_id, last_id, fired_at);
    IF NOT EXISTS (SELECT FROM @workspace@.attention_rule AS r WHERE r.active) AND NOT EXISTS (SELECT FROM @workspace@.event_hold AS h WHERE h.until IS NOT NULL) THEN
        RETURN;
    END IF;
    candidates := ARRAY(
        SELECT e.id FROM (SELECT b.id, b.state, b.payload FROM @workspace@.event AS b WHERE b.id BETWEEN first_id AND last_id OFFSET 0) AS e
        WHERE e.state = 'new' AND NOT coalesce(e.payload ? 'crm_digest', false)
        UNION ALL
        SELECT DISTINCT e.id
        FROM @workspace@.event AS c
        JOIN @workspace@.event_hold AS h ON h.member_id = c.member_id AND h.until <= hold_events.fired_at AND h.reason IN ('quiet hours', 'frequency')
        JOIN @workspace@.event AS e ON e.id = h.event_id AND e.state = 'held'
        WHERE c.id BETWEEN first_id AND last_id AND c.payload ? 'crm_digest');
    SELECT m.events, m.rules INTO matched_events, matched_rules FROM crm._attention_matches(@workspace_literal@::regnamespace, candidates) AS m;
    -- Few events are not worth planning for, many are.
    IF cardinality(candidates) >= 200 THEN
        PERFORM set_config('plan_cache_mode', 'force_custom_plan', true), set_config('enable_seqscan', 'on', true);
    END IF;

    WITH RECURSIVE
    carrier AS MATERIALIZED (
        SELECT e.id, e.member_id FROM @workspace@.event AS e WHERE e.id BETWEEN first_id AND last_id AND e.payload ? 'crm_digest'),
    -- Firing waits for nobody: an event that a person is changing just now is left for later.
    waited AS MATERIALIZED (
        SELECT h.event_id, h.member_id, h.reason, e.title, e.kind, e.record_id, e.due_at
        FROM @workspace@.event_hold AS h
        JOIN @workspace@.event AS e ON e.id = h.event_id AND e.state = 'held'
        WHERE h.member_id IN (SELECT c.member_id FROM carrier AS c) AND h.until <= hold_events.fired_at
        FOR UPDATE OF e SKIP LOCKED),
    released AS MATERIALIZED (
        SELECT w.*, (SELECT max(c.id) FROM carrier AS c WHERE c.member_id = w.member_id) AS carrier_id FROM waited AS w),
    candidate AS MATERIALIZED (
        SELECT e.id, e.member_id, e.kind, e.record_id, e.due_at, r.carrier_id,
               r.event_id IS NULL AND coalesce(e.payload @> '{"urgent": true}' OR e.payload ? 'snoozed_event', false) AS urgent
        FROM unnest(candidates) AS u
        JOIN @workspace@.event AS e ON e.id = u
        LEFT JOIN released AS r ON r.event_id = e.id
        WHERE e.id BETWEEN first_id AND last_id OR r.event_id IS NOT NULL),
    person AS MATERIALIZED (
        SELECT p.member_id, m.time_zone, w.wall,
               coalesce((SELECT s.shown FROM @workspace@.attention_spent AS s WHERE s.member_id = p.member_id AND s.hour = date_trunc('hour', w.wall)), 0) AS this_hour,
               coalesce((SELECT sum(s.shown) FROM @workspace@.attention_spent AS s
                         WHERE s.member_id = p.member_id AND s.hour >= date_trunc('day', w.wall) AND s.hour < date_trunc('day', w.wall) + interval '1 day'), 0) AS this_day
        FROM (SELECT c.member_id FROM candidate AS c UNION SELECT c.member_id FROM carrier AS c) AS p
        LEFT JOIN @workspace@.member AS m ON m.id = p.member_id
        CROSS JOIN LATERAL crm._wall_clock(hold_events.fired_at, m.time_zone) AS w (wall)),
    team_below (rule_id, team_id) AS (
        SELECT r.id, r.team_id FROM @workspace@.attention_rule AS r WHERE r.active AND r.team_id IS NOT NULL
        UNION
        SELECT b.rule_id, t.id FROM team_below AS b JOIN @workspace@.team AS t ON t.parent_id = b.team_id),
    scope AS MATERIALIZED (
        SELECT p.member_id, r.id AS rule_id, r.kind
        FROM person AS p
        JOIN @workspace@.attention_rule AS r ON r.active
         AND (r.member_id = p.member_id
              OR r.member_id IS NULL
                 AND (r.team_id IS NULL
                      OR EXISTS (SELECT FROM team_below AS b JOIN @workspace@.team_member AS tm ON tm.team_id = b.team_id
                                 WHERE b.rule_id = r.id AND tm.member_id = p.member_id)))),
    matched (event_id, rule_id) AS (
        SELECT c.id, s.rule_id FROM candidate AS c JOIN scope AS s ON s.member_id = c.member_id AND s.kind IS NULL WHERE NOT c.urgent
        UNION ALL
        SELECT c.id, s.rule_id FROM unnest(matched_events, matched_rules) AS m (event_id, rule_id)
        JOIN candidate AS c ON c.id = m.event_id AND NOT c.urgent
        JOIN scope AS s ON s.member_id = c.member_id AND s.rule_id = m.rule_id),
    rules AS (
        SELECT m.event_id, array_agg(m.rule_id ORDER BY r.position, r.id) AS ids
        FROM matched AS m JOIN @workspace@.attention_rule AS r ON r.id = m.rule_id GROUP BY m.event_id),
    policy AS MATERIALIZED (
        SELECT d.ids, a.*, delivery.delivery, quiet.quiet_from, quiet.quiet_to, quiet.calendar,
               crm._opens_at(@workspace_literal@::regnamespace, hold_events.fired_at, quiet.calendar) AS opens_at,
               own.quiet_from AS own_from, own.quiet_to AS own_to,
               CASE WHEN own.calendar IS NOT NULL THEN crm._opens_at(@workspace_literal@::regnamespace, hold_events.fired_at, own.calendar) END AS own_opens_at,
               hour.per_hour, day.per_day, once.once_within, digest.digest_at
        FROM (SELECT DISTINCT r.ids FROM rules AS r) AS d
        CROSS JOIN LATERAL (
            SELECT (array_agg(r.id ORDER BY r.position, r.id) FILTER (WHERE r.delivery IS NOT NULL))[1] AS delivery_rule,
                   (array_agg(r.id ORDER BY r.position, r.id) FILTER (WHERE num_nonnulls(r.quiet_from, r.calendar) > 0))[1] AS quiet_rule,
                   (array_agg(r.id ORDER BY r.position, r.id) FILTER (WHERE num_nonnulls(r.quiet_from, r.calendar) > 0 AND r.member_id IS NOT NULL AND r.position >= 1000))[1] AS own_quiet_rule,
                   (array_agg(r.id ORDER BY r.position, r.id) FILTER (WHERE r.per_hour IS NOT NULL))[1] AS hour_rule,
                   (array_agg(r.id ORDER BY r.position, r.id) FILTER (WHERE r.per_day IS NOT NULL))[1] AS day_rule,
                   (array_agg(r.id ORDER BY r.position, r.id) FILTER (WHERE r.once_within IS NOT NULL))[1] AS once_rule,
                   (array_agg(r.id ORDER BY r.position, r.id) FILTER (WHERE r.digest_at IS NOT NULL))[1] AS digest_rule
            FROM @workspace@.attention_rule AS r WHERE r.id = ANY (d.ids)) AS a
        LEFT JOIN @workspace@.attention_rule AS delivery ON delivery.id = a.delivery_rule
        LEFT JOIN @workspace@.attention_rule AS quiet ON quiet.id = a.quiet_rule
        LEFT JOIN @workspace@.attention_rule AS own ON own.id = a.own_quiet_rule
        LEFT JOIN @workspace@.attention_rule AS hour ON hour.id = a.hour_rule
        LEFT JOIN @workspace@.attention_rule AS day ON day.id = a.day_rule
        LEFT JOIN @workspace@.attention_rule AS once ON once.id = a.once_rule
        LEFT JOIN @workspace@.attention_rule AS digest ON digest.id = a.digest_rule),
    -- What the time of day says, once for each person and policy.
    moment AS MATERIALIZED (
        SELECT p.member_id, p.time_zone, y.*, q.reason AS held_for,
               CASE q.reason WHEN 'digest' THEN crm._instant(n.day, p.time_zone)
                             WHEN 'quiet hours' THEN coalesce(y.opens_at, crm._instant(n.quiet, p.time_zone), n.own_quiet) END AS held_until,
               CASE WHEN num_nonnulls(y.opens_at, n.quiet) > 0 THEN y.quiet_rule ELSE y.own_quiet_rule END AS held_by,
               crm._instant(coalesce(crm._quiet_until(n.hour, y.quiet_from, y.quiet_to), n.hour), p.time_zone) AS hour_until,
               crm._instant(coalesce(crm._quiet_until(n.day, y.quiet_from, y.quiet_to), n.day), p.time_zone) AS day_until,
               CASE WHEN y.delivery IS DISTINCT FROM 'at once'
                    THEN LEAST(y.per_hour - p.this_hour, y.per_day - p.this_day) END AS left_over,
               y.per_day - p.this_day AS left_today
        FROM (SELECT DISTINCT c.member_id, r.ids FROM rules AS r JOIN candidate AS c ON c.id = r.event_id) AS d
        JOIN person AS p ON p.member_id = d.member_id
        JOIN policy AS y ON y.ids = d.ids
        CROSS JOIN LATERAL (
            SELECT coalesce(w.digest, date_trunc('hour', p.wall) + interval '1 hour') AS hour, coalesce(w.digest, date_trunc('day', p.wall) + interval '1 day') AS day,
                   crm._quiet_until(p.wall, y.quiet_from, y.quiet_to) AS quiet,
                   -- One's own add to those of the house, unless it says that there are none.
                   CASE WHEN y.quiet_from = y.quiet_to THEN NULL
                        ELSE coalesce(y.own_opens_at, crm._instant(crm._quiet_until(p.wall, y.own_from, y.own_to), p.time_zone)) END AS own_quiet
            FROM (SELECT crm._next_time(p.wall, y.digest_at) AS digest OFFSET 0) AS w) AS n
        CROSS JOIN LATERAL (
            SELECT CASE WHEN y.delivery = 'at once' THEN NULL
                        WHEN y.delivery = 'digest' THEN 'digest'
                        WHEN num_nonnulls(y.opens_at, n.quiet, n.own_quiet) > 0 THEN 'quiet hours' END AS reason) AS q),
    timed AS MATERIALIZED (
        SELECT c.*, m.time_zone, m.per_hour, m.per_day, m.hour_rule, m.day_rule, m.once_rule, m.digest_at, m.held_by AS quiet_rule, m.delivery_rule,
               CASE WHEN m.delivery = 'at once' OR c.record_id IS NULL THEN NULL ELSE m.once_within END AS once_within,
               m.held_for, m.held_until, m.hour_until, m.day_until, m.left_over, m.left_today
        FROM candidate AS c
        LEFT JOIN rules AS r ON r.event_id = c.id
        LEFT JOIN moment AS m ON m.member_id = c.member_id AND m.ids = r.ids),
    -- One event a record: the first of the batch leads, unless one was shown before.
    subject AS MATERIALIZED (
        SELECT t.member_id, t.kind, t.record_id, min(t.id) AS lead_id, max(t.once_within) AS once_within
        FROM timed AS t WHERE t.held_for IS NULL AND t.once_within IS NOT NULL
        GROUP BY t.member_id, t.kind, t.record_id),
    earlier AS MATERIALIZED (
        SELECT s.*, l.id AS open_id, l.shown_at AS earlier_at
        FROM subject AS s
        LEFT JOIN LATERAL (
            SELECT CASE WHEN e.state IN ('new', 'seen') THEN e.id END AS id, coalesce(h.shown_at, e.fired_at) AS shown_at
            FROM @workspace@.event AS e
            LEFT JOIN @workspace@.event_hold AS h ON h.event_id = e.id
            WHERE e.kind = s.kind AND e.record_id = s.record_id AND e.member_id = s.member_id AND e.id < first_id
              AND e.state <> 'held' AND (h.id IS NULL OR h.shown_at IS NOT NULL)
              AND coalesce(h.shown_at, e.fired_at) > hold_events.fired_at - s.once_within
            -- Locked, so that nobody closes it before what is merged with it can be seen.
            ORDER BY e.state IN ('new', 'seen') DESC, coalesce(h.shown_at, e.fired_at) DESC LIMIT 1 FOR UPDATE OF e SKIP LOCKED) AS l ON true),
    -- Who may be shown something, in the order of what they may still be shown.
    ranked AS MATERIALIZED (
        SELECT t.id, row_number() OVER (PARTITION BY t.member_id ORDER BY t.left_over DESC NULLS FIRST, t.due_at, t.id) AS place
        FROM timed AS t
        LEFT JOIN earlier AS s ON t.once_within IS NOT NULL AND s.member_id = t.member_id AND s.kind = t.kind AND s.record_id = t.record_id
        WHERE t.held_for IS NULL AND (s.lead_id IS NULL OR s.lead_id = t.id AND s.earlier_at IS NULL)),
    judged AS MATERIALIZED (
        SELECT t.*, s.lead_id, s.open_id, s.earlier_at, k.place,
               CASE WHEN t.held_for IS NOT NULL THEN t.held_for
                    WHEN s.open_id IS NOT NULL THEN 'merged'
                    WHEN s.earlier_at IS NOT NULL THEN 'frequency'
                    WHEN k.place > t.left_over THEN 'budget'
                    WHEN s.lead_id <> t.id THEN 'merged' END AS reason
        FROM timed AS t
        LEFT JOIN earlier AS s ON t.held_for IS NULL AND t.once_within IS NOT NULL AND s.member_id = t.member_id AND s.kind = t.kind AND s.record_id = t.record_id
        LEFT JOIN ranked AS k ON k.id = coalesce(s.lead_id, t.id)),
    outcome AS MATERIALIZED (
        SELECT j.id AS event_id, j.member_id, j.carrier_id, j.reason,
               CASE WHEN j.reason = 'merged' THEN coalesce(j.open_id, j.lead_id) END AS shown_with,
               CASE j.reason WHEN 'frequency' THEN j.earlier_at + j.once_within
                             WHEN 'budget' THEN CASE WHEN o.day THEN j.day_until ELSE j.hour_until END
                             WHEN 'merged' THEN NULL
                             ELSE j.held_until END AS until,
               CASE j.reason WHEN 'digest' THEN jsonb_build_object('rule', d.name, 'digest_at', j.digest_at)
                             WHEN 'quiet hours' THEN jsonb_strip_nulls(jsonb_build_object('rule', q.name, 'from', q.quiet_from, 'to', q.quiet_to, 'calendar', q.calendar,
                                                                                          'time_zone', CASE WHEN q.calendar IS NULL THEN j.time_zone END))
                             WHEN 'budget' THEN jsonb_strip_nulls(jsonb_build_object('rule', b.name, 'per_day', CASE WHEN o.day THEN j.per_day END, 'per_hour', CASE WHEN NOT o.day THEN j.per_hour END))
                             ELSE jsonb_build_object('rule', n.name, 'once_within', j.once_within) END AS detail
        FROM judged AS j
        CROSS JOIN LATERAL (SELECT coalesce(j.place > j.left_today, false) AS day) AS o
        LEFT JOIN @workspace@.attention_rule AS d ON d.id = j.delivery_rule
        LEFT JOIN @workspace@.attention_rule AS q ON q.id = j.quiet_rule
        LEFT JOIN @workspace@.attention_rule AS b ON b.id = CASE WHEN o.day THEN j.day_rule ELSE j.hour_rule END
        LEFT JOIN @workspace@.attention_rule AS n ON n.id = j.once_rule),
    tally AS MATERIALIZED (
        SELECT o.member_id, count(*) FILTER (WHERE o.reason IS NULL) AS shown, min(o.until) FILTER (WHERE o.reason IS NOT NULL) AS until
        FROM outcome AS o GROUP BY o.member_id),
    held AS (
        INSERT INTO @workspace@.event_hold (event_id, member_id, reason, detail, held_at, until, shown_with)
        SELECT o.event_id, o.member_id, o.reason, o.detail, hold_events.fired_at, o.until, o.shown_with FROM outcome AS o WHERE o.reason IS NOT NULL ORDER BY o.event_id
        ON CONFLICT (event_id) DO UPDATE SET reason = excluded.reason, detail = excluded.detail, until = excluded.until, shown_with = excluded.shown_with),
    shown AS (
        UPDATE @workspace@.event_hold AS h SET until = NULL, shown_at = hold_events.fired_at
        FROM outcome AS o WHERE o.reason IS NULL AND o.carrier_id IS NOT NULL AND h.event_id = o.event_id),
    -- Digests.
    listed AS MATERIALIZED (
        SELECT r.carrier_id, r.event_id, r.title, r.kind, r.record_id, r.due_at
        FROM released AS r WHERE r.reason IN ('digest', 'budget')),
    listed_held AS (
        UPDATE @workspace@.event_hold AS h SET until = NULL, shown_at = hold_events.fired_at, shown_with = l.carrier_id
        FROM listed AS l WHERE h.event_id = l.event_id),
    written AS (
        UPDATE @workspace@.event AS e
        SET state = w.state, title = coalesce(w.title, e.title), payload = coalesce(w.payload, e.payload),
            handled_at = CASE w.state WHEN 'acknowledged' THEN hold_events.fired_at END
        FROM (SELECT o.event_id, CASE WHEN o.reason IS NULL THEN 'new' ELSE 'held' END AS state, NULL::text AS title, NULL::jsonb AS payload
              FROM outcome AS o WHERE (o.reason IS NULL) = (o.carrier_id IS NOT NULL)
              UNION ALL
              SELECT c.id, CASE WHEN l.n > 0 THEN 'new' ELSE 'acknowledged' END,
                     CASE l.n WHEN 0 THEN NULL WHEN 1 THEN l.title ELSE format('%s reminders', l.n) END,
                     jsonb_strip_nulls(jsonb_build_object('crm_digest', true, 'items', l.items,
                         'released', (SELECT jsonb_agg(o.event_id ORDER BY o.event_id) FROM outcome AS o WHERE o.carrier_id = c.id AND o.reason IS NULL)))
              FROM carrier AS c
              CROSS JOIN LATERAL (
                  SELECT count(*) AS n, min(l.title) AS title,
                         jsonb_agg(jsonb_build_object('event', l.event_id, 'title', l.title, 'kind', l.kind, 'record_id', l.record_id, 'due_at', l.due_at) ORDER BY l.due_at, l.event_id) AS items
                  FROM listed AS l WHERE l.carrier_id = c.id) AS l) AS w
        WHERE e.id = w.event_id),
    spent AS (
        INSERT INTO @workspace@.attention_spent AS s (member_id, hour, shown)
        SELECT p.member_id, date_trunc('hour', p.wall), n.shown
        FROM person AS p
        LEFT JOIN tally AS t ON t.member_id = p.member_id
        LEFT JOIN (SELECT c.member_id, count(DISTINCT c.id) AS shown FROM listed AS l JOIN carrier AS c ON c.id = l.carrier_id GROUP BY c.member_id) AS d ON d.member_id = p.member_id
        CROSS JOIN LATERAL (SELECT coalesce(t.shown, 0) + coalesce(d.shown, 0) AS shown) AS n
        WHERE n.shown > 0 ORDER BY p.member_id
        ON CONFLICT (member_id, hour) DO UPDATE SET shown = s.shown + excluded.shown),
    forgotten AS (
        DELETE FROM @workspace@.attention_spent AS s USING person AS p WHERE s.member_id = p.member_id AND s.hour < p.wall - interval '3 days')
    -- One reminder of ours a member, for what is first to be looked at again.
    INSERT INTO @workspace@.reminder (member_id, due_at, title, payload)
    SELECT p.member_id, n.until, 'Reminders that were held', '{"crm_digest": true}'
    FROM person AS p
    LEFT JOIN tally AS t ON t.member_id = p.member_id
    CROSS JOIN LATERAL (
        SELECT LEAST(t.until, (SELECT h.until FROM @workspace@.event_hold AS h
                               WHERE h.member_id = p.member_id AND h.until IS NOT NULL AND NOT EXISTS (SELECT FROM released AS r WHERE r.event_id = h.event_id)
                               ORDER BY h.until LIMIT 1)) AS until) AS u
    CROSS JOIN LATERAL (SELECT CASE WHEN u.until <= hold_events.fired_at THEN hold_events.fired_at + interval '10 s' ELSE u.until END AS until) AS n
    WHERE n.until IS NOT NULL
      AND NOT EXISTS (SELECT FROM @workspace@.reminder AS r
                      WHERE r.member_id = p.member_id AND r.due_at <= n.until AND r.payload ? 'crm_digest' AND r.failed_at IS NULL);
END
$$;
COMMENT ON FUNCTION @workspace@.hold_events(bigint, bigint, timestamptz, boolean) IS
'Called by the firing for each batch of events it wrote, of which none has a payload if it is bare: holds those that attention rules do not let through now, and shows those whose time has come.';

CREATE OR REPLACE FUNCTION @workspace@.attention_rule_check() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rel regclass;
BEGIN
    IF new.kind IS NULL THEN
        RETURN new;
    END IF;
    SELECT t.rel INTO rel FROM crm._record_table(@workspace_literal@::regnamespace, new.kind) AS t;
    IF new.condition IS NOT NULL THEN
        PERFORM crm._check_stage_expression(rel, @workspace_literal@::regnamespace, new.condition);
        EXECUTE format('SELECT FROM %s AS new WHERE (%s) LIMIT 0', rel, new.condition);
    END IF;
    RETURN new;
END
$$;
COMMENT ON FUNCTION @workspace@.attention_rule_check() IS 'Refuses an attention rule that could not be evaluated.';
CREATE OR REPLACE TRIGGER rule_check BEFORE INSERT OR UPDATE OF kind, condition ON @workspace@.attention_rule
    FOR EACH ROW EXECUTE FUNCTION @workspace@.attention_rule_check();

CREATE OR REPLACE FUNCTION @workspace@.event_closed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    closed bigint[];
BEGIN
    -- What a person closed while it was held waits no longer.
    UPDATE @workspace@.event_hold AS h SET until = NULL
    WHERE h.event_id = ANY (ARRAY(SELECT c.id FROM changed AS c WHERE c.state <> 'held')) AND h.until IS NOT NULL;
    closed := ARRAY(SELECT c.id FROM changed AS c WHERE c.state IN ('acknowledged', 'snoozed'));
    IF EXISTS (SELECT FROM @workspace@.event_hold AS h WHERE h.shown_with = ANY (closed)) THEN
        UPDATE @workspace@.event AS e SET state = c.state, handled_at = c.handled_at, snoozed_until = c.snoozed_until
        FROM @workspace@.event_hold AS h
        JOIN changed AS c ON c.id = h.shown_with
        WHERE e.id = h.event_id AND e.state = 'held' AND h.shown_with = ANY (closed);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION @workspace@.event_closed() IS 'Statement trigger of event, over transition table "changed": closes the events that were shown with one that was closed.';
CREATE OR REPLACE TRIGGER closed AFTER UPDATE ON @workspace@.event
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION @workspace@.event_closed();

CREATE OR REPLACE VIEW @workspace@.inbox WITH (security_invoker) AS
SELECT e.id, e.due_at, e.fired_at, e.title, e.kind, e.record_id, e.payload, e.state,
    e.fired_at - e.due_at AS late,
    coalesce(crm._event_items(@workspace_literal@::regnamespace, e.id), e.payload -> 'items') AS items,
    e.missed,
    @workspace@.record_name(e.kind, e.record_id) AS name
FROM @workspace@.event AS e
WHERE e.member_id = (SELECT @workspace@.me()) AND e.state IN ('new', 'seen');
COMMENT ON VIEW @workspace@.inbox IS 'The open events of the member this session acts for.';
COMMENT ON COLUMN @workspace@.inbox.id IS 'The event.';
COMMENT ON COLUMN @workspace@.inbox.due_at IS 'When it was due.';
COMMENT ON COLUMN @workspace@.inbox.fired_at IS 'When it fired.';
COMMENT ON COLUMN @workspace@.inbox.title IS 'What it is about, in a line.';
COMMENT ON COLUMN @workspace@.inbox.kind IS 'Kind of the record it concerns.';
COMMENT ON COLUMN @workspace@.inbox.record_id IS 'The record it concerns.';
COMMENT ON COLUMN @workspace@.inbox.payload IS 'What else the reminder carried.';
COMMENT ON COLUMN @workspace@.inbox.state IS 'State of the event.';
COMMENT ON COLUMN @workspace@.inbox.late IS 'How long after it was due it fired.';
COMMENT ON COLUMN @workspace@.inbox.items IS 'The events that are shown with it: what a digest lists, or what was merged with it; closing it closes them. NULL: none.';
COMMENT ON COLUMN @workspace@.inbox.missed IS 'How many more occurrences of the reminder, missed while nothing fired, it stands for.';
COMMENT ON COLUMN @workspace@.inbox.name IS 'What that record is called; NULL: it is about none, or about one that the reader may not see.';

CREATE OR REPLACE FUNCTION @workspace@.why_not(event_id bigint DEFAULT NULL, reminder_id bigint DEFAULT NULL, OUT reason text, OUT detail jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT w.reason, w.detail FROM crm._why_not(@workspace_literal@::regnamespace, event_id, reminder_id) AS w $$;
COMMENT ON FUNCTION @workspace@.why_not(bigint, bigint) IS
'Why an event is not in its member''s inbox, or is there: in words, and as data. Or why a reminder has not fired yet: reminder_id => id. With the caller''s rights: what cannot be seen and what does not exist have the same answer. Neither or both arguments are an error (22023).';

-- Nobody moves or deletes the reminder that shows what is held, nor forges one.
DROP POLICY IF EXISTS crm_attention_insert ON @workspace@.reminder;
CREATE POLICY crm_attention_insert ON @workspace@.reminder AS RESTRICTIVE FOR INSERT WITH CHECK (payload IS NULL OR NOT payload ? 'crm_digest');
DROP POLICY IF EXISTS crm_attention_update ON @workspace@.reminder;
CREATE POLICY crm_attention_update ON @workspace@.reminder AS RESTRICTIVE FOR UPDATE USING (payload IS NULL OR NOT payload ? 'crm_digest');
DROP POLICY IF EXISTS crm_attention_delete ON @workspace@.reminder;
CREATE POLICY crm_attention_delete ON @workspace@.reminder AS RESTRICTIVE FOR DELETE USING (payload IS NULL OR NOT payload ? 'crm_digest');
$_ddl_$),
(1::integer, 'delegation', $_ddl_$

CREATE TABLE @workspace@.absence (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    member_id bigint NOT NULL REFERENCES @workspace@.member ON DELETE CASCADE,
    delegate_id bigint NOT NULL REFERENCES @workspace@.member ON DELETE CASCADE,
    starts_at timestamptz NOT NULL DEFAULT crm.now(),
    ends_at timestamptz NOT NULL,
    mode text NOT NULL DEFAULT 'instead' CONSTRAINT absence_mode_known CHECK (mode IN ('instead', 'also')),
    note text,
    CONSTRAINT absence_order CHECK (starts_at < ends_at),
    CONSTRAINT absence_of_another CHECK (delegate_id <> member_id),
    CONSTRAINT absence_once EXCLUDE USING gist (member_id WITH =, tstzrange(starts_at, ends_at) WITH &&)
);
CREATE INDEX ON @workspace@.absence (member_id);
CREATE INDEX ON @workspace@.absence (delegate_id);
COMMENT ON TABLE @workspace@.absence IS 'When a member is away, and who is reminded then. One absence at a time.';
COMMENT ON COLUMN @workspace@.absence.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.absence.member_id IS 'Who is away; by default the session''s member.';
COMMENT ON COLUMN @workspace@.absence.delegate_id IS 'Who stands in. If that one is away, too, who stands in there, and so on.';
COMMENT ON COLUMN @workspace@.absence.starts_at IS 'From when.';
COMMENT ON COLUMN @workspace@.absence.ends_at IS 'Until when, exclusive.';
COMMENT ON COLUMN @workspace@.absence.mode IS 'instead: who stands in has the events in the inbox, the member finds them closed there; also: both have them.';
COMMENT ON COLUMN @workspace@.absence.note IS 'Free text.';

CREATE TABLE @workspace@.follower (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    record_id bigint NOT NULL,
    member_id bigint NOT NULL REFERENCES @workspace@.member ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (kind, record_id, member_id)
);
CREATE INDEX ON @workspace@.follower (member_id);
COMMENT ON TABLE @workspace@.follower IS 'Who follows a record beside its owner: events about it come to them, too, while they may see it. Written by follow() and unfollow().';
COMMENT ON COLUMN @workspace@.follower.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.follower.kind IS 'Kind of the record.';
COMMENT ON COLUMN @workspace@.follower.record_id IS 'The record.';
COMMENT ON COLUMN @workspace@.follower.member_id IS 'Who follows it.';
COMMENT ON COLUMN @workspace@.follower.created_at IS 'Since when.';

$_ddl_$),
(NULL::integer, 'delegation', $_ddl_$

ALTER TABLE @workspace@.absence ALTER COLUMN member_id SET DEFAULT @workspace@.me();

CREATE OR REPLACE FUNCTION @workspace@.follow(kind text, id bigint, member_id bigint DEFAULT NULL) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm._follow(@workspace_literal@::regnamespace, kind, id, member_id) $$;
COMMENT ON FUNCTION @workspace@.follow(text, bigint, bigint) IS
'Lets a member (NULL: oneself) follow a record: events about it come to them, too. Oneself any record one may read, others those one may edit. Following twice does nothing. Errors: P0002 if the record cannot be seen, 42501, 22023 for an unknown kind.';

CREATE OR REPLACE FUNCTION @workspace@.unfollow(kind text, id bigint, member_id bigint DEFAULT NULL) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN crm._unfollow(@workspace_literal@::regnamespace, kind, id, member_id);
COMMENT ON FUNCTION @workspace@.unfollow(text, bigint, bigint) IS
'Ends following a record, for oneself (NULL) or, with the right to edit it, for others. False if the member did not follow it.';
REVOKE EXECUTE ON FUNCTION @workspace@.follow(text, bigint, bigint), @workspace@.unfollow(text, bigint, bigint) FROM PUBLIC;

CREATE OR REPLACE FUNCTION @workspace@.delegate_events(first_id bigint, last_id bigint, fired_at timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
-- As in hold_events().
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    newest bigint := last_id;
BEGIN
    IF NOT EXISTS (SELECT FROM @workspace@.absence AS a WHERE a.starts_at <= delegate_events.fired_at AND a.ends_at > delegate_events.fired_at)
       AND NOT (EXISTS (SELECT FROM @workspace@.follower)
                AND EXISTS (SELECT FROM (SELECT b.kind, b.record_id FROM @workspace@.event AS b WHERE b.id BETWEEN first_id AND last_id OFFSET 0) AS e
                            JOIN @workspace@.follower AS f ON f.kind = e.kind AND f.record_id = e.record_id))
       AND NOT (EXISTS (SELECT FROM @workspace@.member AS m WHERE NOT m.active)
                AND EXISTS (SELECT FROM (SELECT b.member_id FROM @workspace@.event AS b WHERE b.id BETWEEN first_id AND last_id OFFSET 0) AS e
                            JOIN @workspace@.member AS m ON m.id = e.member_id AND NOT m.active)) THEN
        RETURN last_id;
    END IF;
    IF last_id - first_id >= 200 THEN
        PERFORM set_config('plan_cache_mode', 'force_custom_plan', true), set_config('enable_seqscan', 'on', true);
    END IF;
    WITH batch AS MATERIALIZED (
        SELECT e.id, e.reminder_id, e.member_id, e.due_at, e.title, e.kind, e.record_id, e.payload, e.missed
        FROM (SELECT b.* FROM @workspace@.event AS b WHERE b.id BETWEEN first_id AND last_id OFFSET 0) AS e
        WHERE e.state = 'new' AND NOT coalesce(e.payload ? 'crm_digest', false)),
    away AS MATERIALIZED (
        SELECT d.member_id, coalesce(a.mode, 'instead') = 'instead' AS instead,
               CASE WHEN m.active THEN format('%s is away until %s', m.name, crm._when(a.ends_at)) ELSE format('%s has left', m.name) END AS why,
               crm._deputy(@workspace_literal@::regnamespace, d.member_id, delegate_events.fired_at) AS deputy_id
        FROM (SELECT DISTINCT b.member_id FROM batch AS b) AS d
        JOIN @workspace@.member AS m ON m.id = d.member_id
        LEFT JOIN @workspace@.absence AS a ON a.member_id = d.member_id AND a.starts_at <= delegate_events.fired_at AND a.ends_at > delegate_events.fired_at
        WHERE a.id IS NOT NULL OR NOT m.active),
    -- A follower may see a record by its owner, which is asked once for each of both, or by a share.
    followed AS MATERIALIZED (
        SELECT b.id AS event_id, b.kind, b.record_id, f.member_id
        FROM batch AS b
        JOIN @workspace@.follower AS f ON f.kind = b.kind AND f.record_id = b.record_id AND f.member_id <> b.member_id
        JOIN @workspace@.member AS m ON m.id = f.member_id AND m.active),
    owned AS MATERIALIZED (
        SELECT o.kind, o.id, o.owner_id
        FROM crm._record_owners(@workspace_literal@::regnamespace, (SELECT array_agg(DISTINCT f.kind) FROM followed AS f),
                                (SELECT array_agg(DISTINCT f.record_id) FROM followed AS f)) AS o),
    reader AS MATERIALIZED (
        SELECT d.member_id, d.owner_id
        FROM (SELECT DISTINCT f.member_id, o.owner_id FROM followed AS f JOIN owned AS o ON o.kind = f.kind AND o.id = f.record_id) AS d
        WHERE EXISTS (SELECT FROM crm._access_path(@workspace_literal@::regnamespace, d.member_id, NULL, NULL, d.owner_id))),
    wanted AS MATERIALIZED (
        SELECT b.id AS event_id, a.deputy_id AS member_id, a.instead, a.why, jsonb_build_object('for', b.member_id) AS mark
        FROM batch AS b JOIN away AS a ON a.member_id = b.member_id
        WHERE a.deputy_id <> b.member_id
        UNION ALL
        SELECT f.event_id, f.member_id, false, NULL, '{"following": true}'
        FROM followed AS f
        JOIN owned AS o ON o.kind = f.kind AND o.id = f.record_id
        WHERE EXISTS (SELECT FROM reader AS r WHERE r.member_id = f.member_id AND r.owner_id IS NOT DISTINCT FROM o.owner_id)
           OR EXISTS (SELECT FROM @workspace@.share AS s WHERE s.kind = f.kind AND s.record_id = f.record_id)
              AND EXISTS (SELECT FROM crm._access_path(@workspace_literal@::regnamespace, f.member_id, f.kind, f.record_id, o.owner_id))),
    copied AS (
        INSERT INTO @workspace@.event (reminder_id, member_id, due_at, fired_at, title, kind, record_id, missed, payload)
        SELECT n.reminder_id, n.member_id, n.due_at, delegate_events.fired_at, n.title, n.kind, n.record_id, n.missed,
               CASE WHEN n.payload IS NULL OR jsonb_typeof(n.payload) = 'object' THEN coalesce(n.payload, '{}') || n.mark ELSE n.payload END
        FROM (SELECT DISTINCT ON (b.reminder_id, w.member_id) b.id, b.reminder_id, w.member_id, b.due_at, b.title, b.kind, b.record_id, b.payload, b.missed, w.mark
              FROM wanted AS w JOIN batch AS b ON b.id = w.event_id
              -- Who is told anyway is not told twice.
              WHERE NOT EXISTS (SELECT FROM batch AS o WHERE o.reminder_id = b.reminder_id AND o.member_id = w.member_id)
              ORDER BY b.reminder_id, w.member_id, w.instead DESC, b.id) AS n
        ORDER BY n.due_at, n.reminder_id, n.member_id
        RETURNING id, reminder_id, member_id),
    told AS (
        SELECT c.id, c.reminder_id, c.member_id FROM copied AS c UNION ALL SELECT b.id, b.reminder_id, b.member_id FROM batch AS b),
    held AS (
        INSERT INTO @workspace@.event_hold (event_id, member_id, reason, detail, held_at, shown_at, shown_with)
        SELECT b.id, b.member_id, 'delegated', jsonb_build_object('why', w.why, 'to', w.member_id), delegate_events.fired_at, delegate_events.fired_at, t.id
        FROM wanted AS w
        JOIN batch AS b ON b.id = w.event_id
        JOIN told AS t ON t.reminder_id = b.reminder_id AND t.member_id = w.member_id
        WHERE w.instead ORDER BY b.id),
    closed AS (
        UPDATE @workspace@.event AS e SET state = 'held' FROM wanted AS w WHERE e.id = w.event_id AND w.instead)
    SELECT GREATEST(last_id, max(c.id)) INTO newest FROM copied AS c;
    RETURN newest;
END
$$;
COMMENT ON FUNCTION @workspace@.delegate_events(bigint, bigint, timestamptz) IS
'Called by hold_events() for a batch of events: gives those of members who are away, or have left, to who stands in, and those about followed records to their followers. Returns the last event of the batch, copies included.';
$_ddl_$),
(NULL::integer, 'agenda', $_ddl_$

CREATE OR REPLACE VIEW @workspace@.agenda WITH (security_invoker) AS
SELECT i.member_id, m.name AS member,
       CASE WHEN i.at < crm.now() THEN 'overdue'
            WHEN w.wall::date = t.today::date THEN 'today'
            WHEN date_trunc('week', w.wall) = date_trunc('week', t.today) THEN 'this week'
            WHEN date_trunc('week', w.wall) = date_trunc('week', t.today) + interval '7 days' THEN 'next week'
            ELSE 'later' END AS period,
       i.at, i.source, i.source_id, i.title, i.kind, i.record_id,
       @workspace@.record_name(i.kind, i.record_id) AS name
FROM (SELECT a.owner_id AS member_id, a.due_at AS at, 'activity' AS source, a.id AS source_id, a.subject AS title,
             CASE WHEN a.opportunity_id IS NOT NULL THEN 'opportunity' WHEN a.lead_id IS NOT NULL THEN 'lead'
                  WHEN a.contact_id IS NOT NULL THEN 'contact' WHEN a.account_id IS NOT NULL THEN 'account' END AS kind,
             coalesce(a.opportunity_id, a.lead_id, a.contact_id, a.account_id) AS record_id
      FROM @workspace@.activity AS a
      WHERE a.completed_at IS NULL AND a.due_at IS NOT NULL AND a.owner_id IS NOT NULL
      UNION ALL
      SELECT r.member_id, r.due_at, 'reminder' AS source, r.id, r.title, r.kind, r.record_id
      FROM @workspace@.reminder AS r
      WHERE r.escalation_id IS NULL AND r.kind IS DISTINCT FROM 'activity' AND NOT coalesce(r.payload ? 'crm_digest', false)
      UNION ALL
      SELECT e.member_id, e.due_at, 'event' AS source, e.id, e.title, e.kind, e.record_id
      FROM @workspace@.event AS e
      WHERE e.state IN ('new', 'seen') AND e.kind IS DISTINCT FROM 'activity') AS i
JOIN @workspace@.member AS m ON m.id = i.member_id
CROSS JOIN LATERAL crm._wall_clock(i.at, m.time_zone) AS w (wall)
CROSS JOIN LATERAL crm._wall_clock(crm.now(), m.time_zone) AS t (today);
COMMENT ON VIEW @workspace@.agenda IS 'What members have to do: open activities with a date, reminders to come, and the open events of the inbox, of the reader and everyone below. A reminder or event about an activity is that activity.';
COMMENT ON COLUMN @workspace@.agenda.member_id IS 'Who has to do it.';
COMMENT ON COLUMN @workspace@.agenda.member IS 'That member''s name.';
COMMENT ON COLUMN @workspace@.agenda.period IS 'overdue, today, this week, next week or later, on the clock of the member''s time zone; weeks begin on Monday.';
COMMENT ON COLUMN @workspace@.agenda.at IS 'When it is, or was, due.';
COMMENT ON COLUMN @workspace@.agenda.source IS 'activity, reminder or event.';
COMMENT ON COLUMN @workspace@.agenda.source_id IS 'Its id in that table.';
COMMENT ON COLUMN @workspace@.agenda.title IS 'What it is about, in a line.';
COMMENT ON COLUMN @workspace@.agenda.kind IS 'Kind of the record it is about; NULL: none.';
COMMENT ON COLUMN @workspace@.agenda.record_id IS 'The record it is about.';
COMMENT ON COLUMN @workspace@.agenda.name IS 'What that record is called; NULL: it is about none, or about one that the reader may not see.';

CREATE OR REPLACE VIEW @workspace@.follow_up WITH (security_invoker) AS
SELECT r.kind, r.record_id, r.name, r.owner_id, m.name AS owner, r.last_at, LEAST(r.planned_at, n.due_at) AS next_at,
       coalesce(LEAST(r.planned_at, n.due_at) < crm.now(), false) AS overdue
FROM (SELECT 'account' AS kind, a.id AS record_id, a.name, a.owner_id, f.*
      FROM @workspace@.account AS a
      CROSS JOIN LATERAL (SELECT max(x.completed_at), min(x.due_at) FILTER (WHERE x.completed_at IS NULL) FROM @workspace@.activity AS x WHERE x.account_id = a.id) AS f (last_at, planned_at)
      UNION ALL
      SELECT 'contact' AS kind, c.id, coalesce(c.full_name, concat_ws(' ', c.given_name, c.family_name)) AS name, c.owner_id, f.*
      FROM @workspace@.contact AS c
      CROSS JOIN LATERAL (SELECT max(x.completed_at), min(x.due_at) FILTER (WHERE x.completed_at IS NULL) FROM @workspace@.activity AS x WHERE x.contact_id = c.id) AS f
      UNION ALL
      SELECT 'lead' AS kind, l.id, coalesce(l.company, l.full_name, concat_ws(' ', l.given_name, l.family_name)), l.owner_id, f.*
      FROM @workspace@.lead AS l
      CROSS JOIN LATERAL (SELECT max(x.completed_at), min(x.due_at) FILTER (WHERE x.completed_at IS NULL) FROM @workspace@.activity AS x WHERE x.lead_id = l.id) AS f
      WHERE l.converted_at IS NULL
        AND NOT EXISTS (SELECT FROM @workspace@.stage AS s WHERE s.pipeline = l.pipeline AND s.name = l.stage AND s.type <> 'open')
      UNION ALL
      SELECT 'opportunity' AS kind, o.id, o.name, o.owner_id, f.*
      FROM @workspace@.opportunity AS o
      CROSS JOIN LATERAL (SELECT max(x.completed_at), min(x.due_at) FILTER (WHERE x.completed_at IS NULL) FROM @workspace@.activity AS x WHERE x.opportunity_id = o.id) AS f
      WHERE o.closed_at IS NULL) AS r
LEFT JOIN @workspace@.member AS m ON m.id = r.owner_id
CROSS JOIN LATERAL (SELECT min(p.due_at) AS due_at FROM @workspace@.reminder AS p
                    WHERE p.kind = r.kind AND p.record_id = r.record_id AND p.escalation_id IS NULL) AS n;
COMMENT ON VIEW @workspace@.follow_up IS 'When each open record was last followed up, and when it will be next: its next planned activity, or a reminder about it that the reader may see.';
COMMENT ON COLUMN @workspace@.follow_up.kind IS 'account, contact, lead or opportunity.';
COMMENT ON COLUMN @workspace@.follow_up.record_id IS 'The record; converted and closed ones are left out.';
COMMENT ON COLUMN @workspace@.follow_up.name IS 'What it is called.';
COMMENT ON COLUMN @workspace@.follow_up.owner_id IS 'Who is responsible; NULL: nobody.';
COMMENT ON COLUMN @workspace@.follow_up.owner IS 'That member''s name.';
COMMENT ON COLUMN @workspace@.follow_up.last_at IS 'When an activity for it was last completed; NULL: never.';
COMMENT ON COLUMN @workspace@.follow_up.next_at IS 'When something is planned for it next, or should have been done; NULL: nothing is.';
COMMENT ON COLUMN @workspace@.follow_up.overdue IS 'True: that time is past.';
$_ddl_$),
(1::integer, 'event', $_ddl_$

CREATE TABLE @workspace@.event_consumer (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL CONSTRAINT event_consumer_named CHECK (name <> ''),
    member_id bigint REFERENCES @workspace@.member ON DELETE CASCADE,
    whole_feed boolean NOT NULL DEFAULT false,
    kinds text[],
    max_attempts integer CONSTRAINT event_consumer_max_attempts CHECK (max_attempts >= 3),
    acked_id bigint NOT NULL DEFAULT 0,
    delivered_id bigint NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    read_at timestamptz,
    acked_at timestamptz,
    UNIQUE NULLS NOT DISTINCT (member_id, name),
    CONSTRAINT event_consumer_order CHECK (acked_id <= delivered_id)
);
COMMENT ON TABLE @workspace@.event_consumer IS 'Systems that read events, what each is given, and how far each has come.';
COMMENT ON COLUMN @workspace@.event_consumer.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.event_consumer.name IS 'Name by which the system reads; the owner and each member have names of their own.';
COMMENT ON COLUMN @workspace@.event_consumer.member_id IS 'The member it acts for, who is given his own events; NULL: the workspace''s owner, who is given all.';
COMMENT ON COLUMN @workspace@.event_consumer.whole_feed IS 'True: all events, though it acts for a member. For services such as a mailer; only the owner grants it.';
COMMENT ON COLUMN @workspace@.event_consumer.kinds IS 'Only events about records of these kinds; NULL: all events.';
COMMENT ON COLUMN @workspace@.event_consumer.max_attempts IS 'An event that was given so often and never acknowledged is set aside; at least 3. NULL: never, it is given until it is acknowledged.';
COMMENT ON COLUMN @workspace@.event_consumer.acked_id IS 'The last event it is done with; 0: none.';
COMMENT ON COLUMN @workspace@.event_consumer.delivered_id IS 'The last event it was given; 0: none.';
COMMENT ON COLUMN @workspace@.event_consumer.attempts IS 'How often the event after acked_id has been given to it.';
COMMENT ON COLUMN @workspace@.event_consumer.read_at IS 'When it last read.';
COMMENT ON COLUMN @workspace@.event_consumer.acked_at IS 'When it last acknowledged.';

CREATE TABLE @workspace@.event_failure (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    consumer_id bigint NOT NULL REFERENCES @workspace@.event_consumer ON DELETE CASCADE,
    event_id bigint NOT NULL,
    state text NOT NULL DEFAULT 'set aside' CONSTRAINT event_failure_state_known CHECK (state IN ('set aside', 'retry', 'given')),
    attempts integer NOT NULL,
    reason text NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT crm.now(),
    UNIQUE (consumer_id, event_id)
);
COMMENT ON TABLE @workspace@.event_failure IS 'Events that a consumer could not process. It goes on with the others; a row leaves when the event is retried and acknowledged, or is deleted.';
COMMENT ON COLUMN @workspace@.event_failure.id IS 'Identifier.';
COMMENT ON COLUMN @workspace@.event_failure.consumer_id IS 'The consumer.';
COMMENT ON COLUMN @workspace@.event_failure.event_id IS 'The event.';
COMMENT ON COLUMN @workspace@.event_failure.state IS 'set aside: not given again; retry: given once more with the next read; given: that happened, and is waiting for its acknowledgement.';
COMMENT ON COLUMN @workspace@.event_failure.attempts IS 'How often the event has been given to it.';
COMMENT ON COLUMN @workspace@.event_failure.reason IS 'Why it failed, in the consumer''s words.';
COMMENT ON COLUMN @workspace@.event_failure.failed_at IS 'When it was set aside.';

INSERT INTO @workspace@.setting (name, value) VALUES ('event_retention', '1 year');
ALTER TABLE @workspace@.setting ADD CONSTRAINT setting_event_retention CHECK (name <> 'event_retention' OR value ~ '^[1-9][0-9]{0,4} (day|month|year)s?$');

$_ddl_$),
(NULL::integer, 'event', $_ddl_$

CREATE OR REPLACE FUNCTION @workspace@.event_consumer_take(consumer text, OUT taken @workspace@.event_consumer)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me bigint := crm.member_id(@workspace_literal@::regnamespace);
BEGIN
    IF me IS NULL AND NOT crm._called_by_owner(@workspace_literal@::regnamespace) THEN
        RAISE EXCEPTION 'permission denied to read events'
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'Events are for members, and for the owner of the workspace in a session that acts for no member.';
    END IF;
    -- Sessions of one consumer take turns, so that each knows what the others were given.
    SELECT * INTO taken FROM @workspace@.event_consumer AS v
    WHERE v.name = consumer AND v.member_id IS NOT DISTINCT FROM me FOR UPDATE;
END
$$;
COMMENT ON FUNCTION @workspace@.event_consumer_take(text) IS 'The caller''s consumer of this name, locked; NULL if there is none.';

CREATE OR REPLACE FUNCTION @workspace@.event_consumer_open(consumer @workspace@.event_consumer) RETURNS SETOF @workspace@.event
LANGUAGE sql STABLE
-- Without a search_path of its own, so that it becomes part of the query that calls it.
AS $$
    SELECT e.* FROM @workspace@.event AS e
    WHERE e.id > consumer.acked_id AND (consumer.member_id IS NULL OR consumer.whole_feed OR e.member_id = consumer.member_id)
      AND (consumer.kinds IS NULL OR e.kind = ANY (consumer.kinds) OR e.payload ? 'crm_digest')
      AND e.state NOT IN ('held', 'skipped')
      AND NOT EXISTS (SELECT FROM @workspace@.event_failure AS f WHERE f.consumer_id = consumer.id AND f.event_id = e.id)
      AND NOT EXISTS (SELECT FROM @workspace@.event_hold AS h WHERE h.event_id = e.id AND h.shown_at IS NOT NULL AND h.shown_with IS NULL)
$$;
COMMENT ON FUNCTION @workspace@.event_consumer_open(@workspace@.event_consumer) IS
'The events that a consumer is to be given and has not acknowledged. Not those that attention rules hold back: they come with the event that releases them.';

CREATE OR REPLACE FUNCTION @workspace@.read_events(
    consumer text, max integer DEFAULT 100,
    OUT id bigint, OUT reminder_id bigint, OUT member_id bigint, OUT due_at timestamptz, OUT fired_at timestamptz, OUT title text,
    OUT kind text, OUT record_id bigint, OUT payload jsonb, OUT state text, OUT attempt integer,
    OUT late interval, OUT missed integer)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER ROWS 100
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c @workspace@.event_consumer := @workspace@.event_consumer_take(consumer);
    newest bigint;
    poison bigint;
    last bigint;
    room integer := max;
BEGIN
    IF max < 1 THEN
        RAISE EXCEPTION 'number of events to read must be positive'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF c.id IS NULL THEN
        INSERT INTO @workspace@.event_consumer (name, member_id)
        VALUES (consumer, crm.member_id(@workspace_literal@::regnamespace)) ON CONFLICT DO NOTHING;
        c := @workspace@.event_consumer_take(consumer);
    END IF;
    -- Asked before the events: what is not among them later was not for this consumer.
    SELECT v.id INTO newest FROM @workspace@.event AS v ORDER BY v.id DESC LIMIT 1;
    UPDATE @workspace@.event_failure AS f SET state = 'set aside' WHERE f.consumer_id = c.id AND f.state = 'given';

    IF c.attempts >= c.max_attempts THEN
        SELECT e.id INTO poison FROM @workspace@.event_consumer_open(c) AS e WHERE e.id <= c.delivered_id ORDER BY e.id LIMIT 1;
        IF FOUND THEN
            INSERT INTO @workspace@.event_failure (consumer_id, event_id, attempts, reason)
            VALUES (c.id, poison, c.attempts, format('Given %s times and never acknowledged.', c.attempts));
            c.acked_id := poison;
        END IF;
        c.attempts := CASE WHEN poison < c.delivered_id THEN 2 ELSE 0 END;
    END IF;
    -- Of several given twice in vain, one is at fault: each is given alone now.
    IF c.max_attempts IS NOT NULL AND c.attempts >= 2 THEN
        room := 1;
    ELSE
        FOR id, reminder_id, member_id, due_at, fired_at, title, kind, record_id, payload, state, missed, attempt IN
            WITH again AS (
                UPDATE @workspace@.event_failure AS f SET state = 'given', attempts = f.attempts + 1
                WHERE f.id IN (SELECT w.id FROM @workspace@.event_failure AS w JOIN @workspace@.event AS v ON v.id = w.event_id
                               WHERE w.consumer_id = c.id AND w.state = 'retry' AND w.event_id <= c.acked_id
                               ORDER BY w.event_id LIMIT max)
                RETURNING f.event_id, f.attempts)
            SELECT e.id, e.reminder_id, e.member_id, e.due_at, e.fired_at, e.title, e.kind, e.record_id, e.payload, e.state, e.missed, a.attempts
            FROM again AS a JOIN @workspace@.event AS e ON e.id = a.event_id ORDER BY e.id
        LOOP
            room := room - 1;
            late := fired_at - due_at;
            RETURN NEXT;
        END LOOP;
    END IF;

    FOR id, reminder_id, member_id, due_at, fired_at, title, kind, record_id, payload, state, missed, last IN
        -- What was held and is released comes with the event that releases it, just before.
        SELECT e.id, e.reminder_id, e.member_id, e.due_at, e.fired_at, e.title, e.kind, e.record_id, e.payload, e.state, e.missed, b.id
        FROM (SELECT o.* FROM @workspace@.event_consumer_open(c) AS o ORDER BY o.id LIMIT room) AS b
        CROSS JOIN LATERAL (
            SELECT b.* UNION ALL
            SELECT v.* FROM jsonb_array_elements_text(CASE WHEN b.payload ? 'crm_digest' AND jsonb_typeof(b.payload -> 'released') = 'array' THEN b.payload -> 'released' ELSE '[]' END) AS r (id)
            JOIN @workspace@.event AS v ON v.id = r.id::bigint AND v.member_id = b.member_id AND v.state <> 'held' AND (c.kinds IS NULL OR v.kind = ANY (c.kinds))
            JOIN @workspace@.event_hold AS h ON h.event_id = v.id AND h.shown_at IS NOT NULL
            WHERE NOT EXISTS (SELECT FROM @workspace@.event_failure AS f WHERE f.consumer_id = c.id AND f.event_id = v.id)) AS e
        ORDER BY b.id, e.id
    LOOP
        attempt := CASE WHEN last <= c.delivered_id THEN greatest(c.attempts, 1) + 1 ELSE 1 END;
        late := fired_at - due_at;
        RETURN NEXT;
    END LOOP;
    IF last IS NULL AND room > 0 THEN
        c.acked_id := greatest(c.acked_id, newest);
    END IF;
    UPDATE @workspace@.event_consumer AS v
    SET acked_id = c.acked_id, delivered_id = greatest(v.delivered_id, c.acked_id, last),
        attempts = CASE WHEN last IS NOT NULL THEN c.attempts + 1 WHEN room > 0 THEN 0 ELSE c.attempts END,
        read_at = crm.now()
    WHERE v.id = c.id;
END
$$;
COMMENT ON FUNCTION @workspace@.read_events(text, integer) IS
'The next events of a consumer, in order, at most max: first those to be retried, then those after the last one it acknowledged, so they come again until it does. What attention rules hold back is not given; once released it is given just before the event that released it, beyond max. A session that acts for a member is given that member''s events, or what the owner registered in event_consumer; the workspace''s owner is given all. A name that is new begins with the oldest event. attempt is 1 when an event is given for the first time; for one given before, how often the oldest open event has been given, at least 2. With max_attempts, events given twice in vain are given one by one, so that the one at fault is set aside alone. late is how long after it was due an event fired; missed, how many more occurrences of a recurring reminder it stands for. Sessions that read under one name take turns: the second waits for the first one''s transaction. max below 1 is an error (22023), a session that acts for nobody 42501.';

CREATE OR REPLACE FUNCTION @workspace@.event_consumer_given(consumer text, event_id bigint, OUT taken @workspace@.event_consumer)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    taken := @workspace@.event_consumer_take(consumer);
    IF taken.id IS NULL THEN
        RAISE EXCEPTION 'event consumer "%" does not exist', consumer
            USING ERRCODE = 'no_data_found',
                  HINT = 'A consumer exists once it has read.';
    END IF;
    IF event_id > taken.delivered_id THEN
        RAISE EXCEPTION 'event % was not delivered to consumer "%"', event_id, consumer
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('The last event it was given is %s.', taken.delivered_id);
    END IF;
END
$$;
COMMENT ON FUNCTION @workspace@.event_consumer_given(text, bigint) IS
'The caller''s consumer of this name, locked. One that does not exist (P0002) and an event it was not given yet (22023) are errors.';

CREATE OR REPLACE FUNCTION @workspace@.ack_events(consumer text, upto bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c @workspace@.event_consumer := @workspace@.event_consumer_given(consumer, upto);
    retried bigint;
    acked bigint;
BEGIN
    DELETE FROM @workspace@.event_failure AS f WHERE f.consumer_id = c.id AND f.state = 'given' AND f.event_id <= upto;
    GET DIAGNOSTICS retried = ROW_COUNT;
    SELECT count(*) INTO acked FROM @workspace@.event_consumer_open(c) AS e WHERE e.id <= upto;
    UPDATE @workspace@.event_consumer AS v
    SET acked_id = greatest(v.acked_id, upto), acked_at = crm.now(),
        attempts = CASE WHEN upto <= v.acked_id THEN v.attempts
                        WHEN upto = v.delivered_id THEN 0
                        WHEN v.max_attempts IS NULL THEN 1
                        ELSE least(v.attempts, 2) END
    WHERE v.id = c.id;
    RETURN retried + acked;
END
$$;
COMMENT ON FUNCTION @workspace@.ack_events(text, bigint) IS
'The consumer is done with all events up to this id that it was given, except those set aside, and is not given them again. Returns how many that were; 0 if it had said so before. An id it was not given (22023) and a name that never read (P0002) are errors.';

CREATE OR REPLACE FUNCTION @workspace@.fail_event(consumer text, event_id bigint, reason text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c @workspace@.event_consumer := @workspace@.event_consumer_given(consumer, event_id);
BEGIN
    IF NOT EXISTS (SELECT FROM @workspace@.event AS e
                   WHERE e.id = event_id AND (c.member_id IS NULL OR c.whole_feed OR e.member_id = c.member_id)
                     AND (c.kinds IS NULL OR e.kind = ANY (c.kinds))) THEN
        RAISE EXCEPTION 'event % does not exist', event_id
            USING ERRCODE = 'no_data_found',
                  HINT = 'Or it is not for this consumer.';
    END IF;
    INSERT INTO @workspace@.event_failure AS f (consumer_id, event_id, attempts, reason)
    VALUES (c.id, event_id, greatest(c.attempts, 1), reason)
    ON CONFLICT ON CONSTRAINT event_failure_consumer_id_event_id_key
    DO UPDATE SET state = 'set aside', reason = excluded.reason, failed_at = excluded.failed_at;
    -- The others are not at fault.
    UPDATE @workspace@.event_consumer AS v SET attempts = least(v.attempts, 1) WHERE v.id = c.id;
END
$$;
COMMENT ON FUNCTION @workspace@.fail_event(text, bigint, text) IS
'Sets an event that the consumer was given aside for it, with the reason; it is not given again until retry_events() says so, and the consumer goes on with the others. Other consumers are not concerned. An event that it was not given (22023) or that does not exist (P0002) and a name that never read (P0002) are errors.';

CREATE OR REPLACE FUNCTION @workspace@.retry_events(consumer text, event_id bigint DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c @workspace@.event_consumer := @workspace@.event_consumer_given(consumer, 0);
    retried bigint;
BEGIN
    UPDATE @workspace@.event_failure AS f SET state = 'retry'
    WHERE f.consumer_id = c.id AND f.state <> 'retry' AND (retry_events.event_id IS NULL OR f.event_id = retry_events.event_id);
    GET DIAGNOSTICS retried = ROW_COUNT;
    RETURN retried;
END
$$;
COMMENT ON FUNCTION @workspace@.retry_events(text, bigint) IS
'An event set aside for the consumer, or all of them (NULL), is given to it once more, ahead of new ones. Acknowledged, it is done; if not, it stays set aside. Returns how many. A name that never read is an error (P0002).';

CREATE OR REPLACE FUNCTION @workspace@.purge_events(older_than interval DEFAULT '90 days', max_events integer DEFAULT 10000, with_open boolean DEFAULT false) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    cutoff timestamptz := crm.now() - older_than;
    passed bigint;
    e record;
    gone bigint[] := '{}';
BEGIN
    IF max_events < 1 OR older_than < interval '0' THEN
        RAISE EXCEPTION 'number of events to delete must be positive, and their age not negative'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT min(c.acked_id) INTO passed FROM @workspace@.event_consumer AS c
    WHERE c.member_id IS NULL OR c.whole_feed OR c.read_at > cutoff;
    -- Ids are in the order of fired_at, so the first young one ends the search.
    FOR e IN
        SELECT v.id, v.fired_at, v.state FROM @workspace@.event AS v WHERE v.id <= coalesce(passed, 9223372036854775807) ORDER BY v.id
    LOOP
        EXIT WHEN e.fired_at >= cutoff OR cardinality(gone) >= max_events;
        CONTINUE WHEN NOT (with_open OR e.state IN ('acknowledged', 'snoozed', 'skipped'))
            OR EXISTS (SELECT FROM @workspace@.event_failure AS f WHERE f.event_id = e.id);
        gone := gone || e.id;
    END LOOP;
    DELETE FROM @workspace@.event AS v WHERE v.id = ANY (gone);
    RETURN cardinality(gone);
END
$$;
COMMENT ON FUNCTION @workspace@.purge_events(interval, integer, boolean) IS
'Deletes the oldest events that fired longer ago than older_than, at most max_events, and returns how many; call it again while that is more than 0. Kept are events that a consumer has not acknowledged or has set aside, and, unless with_open, those nobody has acknowledged or snoozed. A member''s own consumer that has not read for so long holds nothing. For the workspace''s owner. max_events below 1 and a negative age are errors (22023).';

CREATE OR REPLACE FUNCTION @workspace@.retain_events(after_id bigint, max_events integer, OUT deleted bigint, OUT looked_at bigint)
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    cutoff timestamptz := crm.now() - (SELECT s.value::interval FROM @workspace@.setting AS s WHERE s.name = 'event_retention');
BEGIN
    deleted := 0;
    IF cutoff IS NULL THEN
        RETURN;
    END IF;
    WITH batch AS MATERIALIZED (
        SELECT e.id, e.fired_at, e.state FROM @workspace@.event AS e WHERE e.id > after_id ORDER BY e.id LIMIT max_events),
    old AS MATERIALIZED (
        SELECT b.id FROM batch AS b
        WHERE b.fired_at < cutoff AND b.state IN ('acknowledged', 'snoozed', 'skipped')
          AND b.id <= ALL (SELECT c.acked_id FROM @workspace@.event_consumer AS c WHERE c.member_id IS NULL OR c.whole_feed OR c.read_at > cutoff)
          AND NOT EXISTS (SELECT FROM @workspace@.event_failure AS f WHERE f.event_id = b.id)),
    -- What somebody is changing just now is left for the next time.
    free AS MATERIALIZED (
        SELECT e.id FROM @workspace@.event AS e WHERE e.id IN (SELECT o.id FROM old AS o) FOR UPDATE SKIP LOCKED),
    gone AS (
        DELETE FROM @workspace@.event AS e USING free AS f WHERE e.id = f.id RETURNING e.id)
    -- Ids are in the order of fired_at: a young event ends the round.
    SELECT (SELECT count(*) FROM gone),
           CASE WHEN count(*) = max_events AND max(b.fired_at) < cutoff THEN max(b.id) END
    INTO deleted, looked_at FROM batch AS b;
END
$$;
COMMENT ON FUNCTION @workspace@.retain_events(bigint, integer) IS
'Of the max_events events after an id, deletes those that the setting event_retention lets go: fired longer ago, acknowledged, snoozed or skipped, and neither open nor set aside for any consumer. Returns how many, and the last id it looked at, NULL when there are no more that are old enough. Called by the scheduler, step by step.';

CREATE OR REPLACE FUNCTION @workspace@.event_consumer_lag(
    OUT name text, OUT member_id bigint, OUT kinds text[], OUT events_behind bigint, OUT seconds_behind numeric, OUT oldest_id bigint,
    OUT attempts integer, OUT events_set_aside bigint, OUT acked_id bigint, OUT delivered_id bigint, OUT read_at timestamptz, OUT acked_at timestamptz)
RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
SELECT c.name, c.member_id, c.kinds, b.events,
    CASE WHEN b.events = 0 THEN 0 ELSE round(extract(epoch FROM crm.now() - b.fired_at), 3) END, b.oldest_id,
    c.attempts, (SELECT count(*) FROM @workspace@.event_failure AS f WHERE f.consumer_id = c.id),
    c.acked_id, c.delivered_id, c.read_at, c.acked_at
FROM @workspace@.event_consumer AS c
CROSS JOIN LATERAL (
    SELECT count(*) AS events, min(e.id) AS oldest_id, min(e.fired_at) AS fired_at
    FROM @workspace@.event_consumer_open(c) AS e) AS b
WHERE c.member_id = crm.member_id(@workspace_literal@::regnamespace)
   OR crm.can_read_all(@workspace_literal@::regnamespace) OR crm._called_by_owner(@workspace_literal@::regnamespace)
$$;
COMMENT ON FUNCTION @workspace@.event_consumer_lag() IS
'What view event_lag shows: the consumers of the session''s member; all of them for members with access read_all or all and for the workspace''s owner.';

CREATE OR REPLACE VIEW @workspace@.event_lag WITH (security_invoker) AS
SELECT l.name, l.member_id, l.kinds, l.events_behind, l.seconds_behind, l.oldest_id, l.attempts, l.events_set_aside,
    l.acked_id, l.delivered_id, l.read_at, l.acked_at
FROM @workspace@.event_consumer_lag() AS l;
COMMENT ON VIEW @workspace@.event_lag IS 'How far consumers are behind. Members see their own; those with access read_all or all, and the owner, all.';
COMMENT ON COLUMN @workspace@.event_lag.name IS 'The consumer.';
COMMENT ON COLUMN @workspace@.event_lag.member_id IS 'The member it acts for; NULL: the workspace''s owner.';
COMMENT ON COLUMN @workspace@.event_lag.kinds IS 'Kinds of records whose events it is given; NULL: all.';
COMMENT ON COLUMN @workspace@.event_lag.events_behind IS 'Number of events it has neither acknowledged nor set aside.';
COMMENT ON COLUMN @workspace@.event_lag.seconds_behind IS 'Seconds since the oldest of them fired; 0: there is none.';
COMMENT ON COLUMN @workspace@.event_lag.oldest_id IS 'The oldest of them; NULL: there is none.';
COMMENT ON COLUMN @workspace@.event_lag.attempts IS 'How often that one has been given to it.';
COMMENT ON COLUMN @workspace@.event_lag.events_set_aside IS 'Number of events it could not process; see event_failure.';
COMMENT ON COLUMN @workspace@.event_lag.acked_id IS 'The last event it is done with; 0: none.';
COMMENT ON COLUMN @workspace@.event_lag.delivered_id IS 'The last event it was given; 0: none.';
COMMENT ON COLUMN @workspace@.event_lag.read_at IS 'When it last read.';
COMMENT ON COLUMN @workspace@.event_lag.acked_at IS 'When it last acknowledged.';
$_ddl_$),
(1::integer, 'icalendar', $_ddl_$

-- What an editor of calendars must be able to tell: whether a reminder changed, and when.
ALTER TABLE @workspace@.reminder
    ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN row_version integer NOT NULL DEFAULT 1;
COMMENT ON COLUMN @workspace@.reminder.updated_at IS 'Start of the transaction that last changed what a calendar shows of it; kept by crm.touch().';
COMMENT ON COLUMN @workspace@.reminder.row_version IS 'Starts at 1 and grows by 1 with each such change; see crm.touch(). Escalations, which no calendar shows, keep theirs.';

$_ddl_$),
(NULL::integer, 'icalendar', $_ddl_$

CREATE OR REPLACE TRIGGER crm_touch BEFORE UPDATE ON @workspace@.reminder FOR EACH ROW
    WHEN (new.escalation_id IS NULL
          AND (new.due_at IS DISTINCT FROM old.due_at OR new.title IS DISTINCT FROM old.title OR new.recurrence IS DISTINCT FROM old.recurrence
               OR new.time_zone IS DISTINCT FROM old.time_zone OR new.starts_at IS DISTINCT FROM old.starts_at))
    EXECUTE FUNCTION crm.touch();

CREATE OR REPLACE FUNCTION @workspace@.calendar_feed(member_id bigint DEFAULT NULL) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me bigint := coalesce(calendar_feed.member_id, @workspace@.me());
    person @workspace@.member;
    host text := '@' || (SELECT to_hex((extract(epoch FROM m.created_at) * 1000000)::bigint) FROM @workspace@.crm_meta AS m) || '.crm';
    zones text;
    items text;
BEGIN
    SELECT m.* INTO person FROM @workspace@.member AS m WHERE m.id = me;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'member % does not exist', coalesce(me::text, '(none)')
            USING ERRCODE = 'no_data_found',
                  HINT = 'The session must act for a member who may see this one; without an argument the feed is his own.';
    END IF;

    WITH activity AS (
        SELECT a.*, CASE WHEN a.type IN ('call', 'meeting', 'visit') AND crm.icalendar_time('DTSTART', a.due_at) <> '' THEN 'VEVENT' ELSE 'VTODO' END AS component
        -- A call or note without a date was logged, not planned.
        FROM @workspace@.activity AS a WHERE a.owner_id = me AND a.completed_at IS NULL AND (a.due_at IS NOT NULL OR a.type = 'task')
    ), pending AS (
        -- due_at differs from occurs_at where somebody moved an occurrence; the first
        -- one need not be one of the rule.
        SELECT r.*, r.occurs_at IS NOT NULL AND r.occurs_at IS NOT DISTINCT FROM
                        crm.next_occurrence(r.recurrence, r.starts_at, r.time_zone, r.occurs_at - interval '1 microsecond') AS by_rule
        FROM @workspace@.reminder AS r
        WHERE r.member_id = me AND r.escalation_id IS NULL AND r.failed_at IS NULL
          AND NOT (r.kind IS NOT DISTINCT FROM 'activity' AND r.recurrence IS NULL
                   AND EXISTS (SELECT FROM activity AS a WHERE a.id = r.record_id))
    ), item AS (
        SELECT a.component, 'activity-' || a.id AS uid, NULL::text AS variant, a.updated_at AS stamp, a.row_version - 1 AS sequence, a.created_at,
            crm.icalendar_time(CASE a.component WHEN 'VEVENT' THEN 'DTSTART' ELSE 'DUE' END, a.due_at) AS times,
            a.subject AS title, a.type AS category, a.body,
            (SELECT coalesce(string_agg(crm.icalendar_property('BEGIN', 'VALARM') || crm.icalendar_time('TRIGGER;VALUE=DATE-TIME', r.due_at)
                                        || crm.icalendar_property('ACTION', 'DISPLAY') || crm.icalendar_text('DESCRIPTION', r.title)
                                        || crm.icalendar_property('END', 'VALARM'), '' ORDER BY r.due_at, r.id), '')
             FROM @workspace@.reminder AS r
             WHERE r.kind = 'activity' AND r.record_id = a.id AND r.member_id = me AND r.recurrence IS NULL AND r.failed_at IS NULL
               AND r.escalation_id IS NULL AND isfinite(r.due_at)) AS alarm
        FROM activity AS a
        UNION ALL
        SELECT 'VTODO', 'reminder-' || p.id || CASE WHEN p.by_rule OR p.recurrence IS NULL THEN '' ELSE '-first' END,
            CASE WHEN p.by_rule THEN crm.icalendar_time('RECURRENCE-ID', p.occurs_at, p.time_zone) END, p.updated_at, p.row_version - 1, p.created_at,
            crm.icalendar_time('DUE', p.due_at), p.title, p.kind, NULL,
            crm.icalendar_property('BEGIN', 'VALARM') || crm.icalendar_time('TRIGGER;VALUE=DATE-TIME', p.due_at)
            || crm.icalendar_property('ACTION', 'DISPLAY') || crm.icalendar_text('DESCRIPTION', p.title) || crm.icalendar_property('END', 'VALARM')
        FROM pending AS p
        WHERE p.recurrence IS NULL OR NOT p.by_rule OR p.due_at <> p.occurs_at
        UNION ALL
        SELECT 'VTODO', 'reminder-' || p.id, NULL, p.updated_at, p.row_version - 1, p.created_at,
            -- A to-do that recurs must end after it starts.
            l.recurrence || crm.icalendar_property('DURATION', 'PT1S'), p.title, p.kind, NULL,
            crm.icalendar_property('BEGIN', 'VALARM') || crm.icalendar_property('TRIGGER', 'PT0S')
            || crm.icalendar_property('ACTION', 'DISPLAY') || crm.icalendar_text('DESCRIPTION', p.title) || crm.icalendar_property('END', 'VALARM')
        FROM pending AS p
        CROSS JOIN LATERAL (SELECT crm.icalendar_recurrence(p.recurrence, p.starts_at, p.time_zone, p.occurs_at) AS recurrence) AS l
        WHERE l.recurrence IS NOT NULL
        UNION ALL
        SELECT 'VTODO', 'event-' || e.id, NULL, e.fired_at, 0, e.fired_at, crm.icalendar_time('DUE', e.due_at), e.title, e.kind, NULL, ''
        FROM @workspace@.event AS e
        WHERE e.member_id = me AND e.state IN ('new', 'seen')
    )
    SELECT string_agg(
               crm.icalendar_property('BEGIN', i.component) || crm.icalendar_property('UID', i.uid || host) || coalesce(i.variant, '')
               || crm.icalendar_time('DTSTAMP', i.stamp) || crm.icalendar_time('LAST-MODIFIED', i.stamp) || crm.icalendar_time('CREATED', i.created_at)
               || crm.icalendar_property('SEQUENCE', i.sequence::text) || i.times || crm.icalendar_text('SUMMARY', i.title)
               || crm.icalendar_text('DESCRIPTION', i.body) || crm.icalendar_text('CATEGORIES', i.category)
               || crm.icalendar_property('STATUS', CASE i.component WHEN 'VEVENT' THEN 'CONFIRMED' ELSE 'NEEDS-ACTION' END)
               || i.alarm || crm.icalendar_property('END', i.component),
               '' ORDER BY i.uid, i.variant IS NOT NULL)
    INTO items FROM item AS i;

    SELECT string_agg(crm.icalendar_time_zone(z.time_zone, z.since, greatest(z.until, crm.now()) + interval '10 years'), '' ORDER BY z.time_zone)
    INTO zones
    FROM (SELECT r.time_zone, min(r.occurs_at) AS since, max(r.occurs_at) AS until FROM @workspace@.reminder AS r
          WHERE r.member_id = me AND r.recurrence IS NOT NULL AND r.failed_at IS NULL AND r.escalation_id IS NULL
          GROUP BY r.time_zone) AS z;

    RETURN crm.icalendar_property('BEGIN', 'VCALENDAR') || crm.icalendar_property('VERSION', '2.0') || crm.icalendar_property('PRODID', '-//crm//PostgreSQL//EN')
        || crm.icalendar_property('CALSCALE', 'GREGORIAN')
        || crm.icalendar_text('NAME', person.name) || crm.icalendar_text('X-WR-CALNAME', person.name)
        || crm.icalendar_property('REFRESH-INTERVAL;VALUE=DURATION', 'PT15M')
        || coalesce(zones, '') || coalesce(items, '') || crm.icalendar_property('END', 'VCALENDAR');
END
$$;
COMMENT ON FUNCTION @workspace@.calendar_feed(bigint) IS
'A member''s calendar as text/calendar (RFC 5545): open activities (calls, meetings and visits with a time are VEVENT, the rest VTODO), pending reminders and the inbox (VTODO), with alarms and recurrence. NULL, the default: the member the session acts for. It holds what the caller may see of it. Changes only when what it shows changes. A member that does not exist is an error (P0002).';
$_ddl_$),
(NULL::integer, 'import', $_ddl_$

CREATE OR REPLACE FUNCTION @workspace@.import_records(kind text, source regclass, system text DEFAULT NULL, dry_run boolean DEFAULT false,
    OUT line bigint, OUT id bigint, OUT outcome text, OUT field text, OUT code text, OUT message text, OUT detail text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET crm.import = on
AS $$
#variable_conflict use_variable
DECLARE
    rel regclass;
    id_column name;
    owner_column name;
    missing text;
    ambiguous bigint;
    insertion text;
    known_as text;
    constraint_name text;
    col record;
BEGIN
    IF kind IS NULL OR source IS NULL OR dry_run IS NULL THEN
        RAISE EXCEPTION 'kind and source must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF dry_run THEN
        BEGIN
            RETURN QUERY SELECT r.* FROM @workspace@.import_records(kind, source, system, false) AS r;
            RAISE EXCEPTION USING ERRCODE = 'RMI00', MESSAGE = 'dry run';
        EXCEPTION WHEN SQLSTATE 'RMI00' THEN
            RETURN;
        END;
    END IF;

    SELECT r.rel, r.id_column, r.owner_column INTO rel, id_column, owner_column FROM crm._record_table(@workspace_literal@::regnamespace, kind) AS r;
    missing := CASE WHEN NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = source AND a.attname = 'line' AND NOT a.attisdropped) THEN 'line'
                    WHEN system IS NOT NULL
                         AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = source AND a.attname = 'external_id' AND NOT a.attisdropped) THEN 'external_id' END;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION '% has no column "%"', source, missing
            USING ERRCODE = 'undefined_column',
                  HINT = CASE missing WHEN 'line' THEN 'Number the rows: line bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY.'
                                      ELSE 'It is the identifier of the record in the other system.' END;
    END IF;
    EXECUTE format('SELECT min(l.line) FROM (SELECT s.line FROM %s AS s GROUP BY s.line HAVING count(*) > 1) AS l', source) INTO ambiguous;
    IF ambiguous IS NOT NULL THEN
        RAISE EXCEPTION 'line % of % is there more than once', ambiguous, source USING ERRCODE = 'cardinality_violation';
    END IF;
    SELECT format('INSERT INTO %s (%s) SELECT %s FROM %s AS s WHERE s.line = $1 RETURNING %I', rel,
                  string_agg(quote_ident(c.name), ', '), string_agg(c.value, ', '), source, id_column)
    INTO insertion
    FROM crm._import_columns(rel, source) AS c;

    FOR line IN EXECUTE format('SELECT s.line FROM %s AS s WHERE s.line IS NOT NULL ORDER BY s.line', source) LOOP
        id := NULL;
        field := NULL;
        code := NULL;
        message := NULL;
        detail := NULL;
        BEGIN
            IF system IS NOT NULL THEN
                EXECUTE format('SELECT nullif(btrim(s.external_id::text), '''') FROM %s AS s WHERE s.line = $1', source) INTO known_as USING line;
                IF known_as IS NULL THEN
                    RAISE EXCEPTION 'external_id is blank' USING ERRCODE = 'not_null_violation', COLUMN = 'external_id';
                END IF;
                SELECT x.record_id INTO id FROM @workspace@.external_reference AS x
                WHERE x.system = import_records.system AND x.kind = import_records.kind AND x.external_id = known_as;
            END IF;
            outcome := 'known';
            IF id IS NULL THEN
                EXECUTE insertion INTO id USING line;
                IF system IS NOT NULL THEN
                    INSERT INTO @workspace@.external_reference (system, kind, external_id, record_id)
                    VALUES (import_records.system, import_records.kind, known_as, import_records.id);
                END IF;
                outcome := 'stored';
            END IF;
        EXCEPTION
            -- Not the fault of the line.
            WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error OR internal_error THEN
                RAISE;
            WHEN OTHERS THEN
                id := NULL;
                outcome := 'failed';
                GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
                                        field = COLUMN_NAME, constraint_name = CONSTRAINT_NAME;
                field := coalesce(nullif(field, ''), (SELECT a.attname FROM pg_constraint AS k
                                                      JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
                                                      WHERE k.conrelid = rel AND k.conname = constraint_name AND cardinality(k.conkey) = 1));
                detail := nullif(detail, '');
                -- Row-level security says no more than that it refuses.
                IF code = '42501' AND has_table_privilege(rel, 'INSERT') AND crm.member_id(@workspace_literal@::regnamespace) IS NOT NULL
                   AND EXISTS (SELECT FROM crm._import_columns(rel, source) AS c WHERE c.name = owner_column) THEN
                    field := owner_column;
                    detail := 'Records may be given to those whose records one may edit.';
                END IF;
        END;
        -- Which values cannot be read, all of them.
        IF field IS NULL AND code LIKE '22%' THEN
            FOR col IN SELECT c.name, c.value FROM crm._import_columns(rel, source) AS c LOOP
                BEGIN
                    EXECUTE format('SELECT %s FROM %s AS s WHERE s.line = $1', col.value, source) USING line;
                EXCEPTION WHEN data_exception THEN
                    IF field IS NULL THEN
                        field := col.name;
                        message := SQLERRM;
                    ELSE
                        detail := concat_ws(E'\n', detail, format('%s: %s', col.name, SQLERRM));
                    END IF;
                END;
            END LOOP;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION @workspace@.import_records(text, regclass, text, boolean) IS
'Stores the rows of a table or view as records of a kind, in the order of its column line, which numbers them, with the caller''s rights and under all rules; its other columns have the names of the kind''s. Blanks are left to the default. Each line is stored whole or not at all and has a row in the result: outcome stored, failed (field, code, the SQLSTATE, message and detail say why) or known. With system, external_id is the record''s identifier there; a line whose record came in before is known, so that an import can be run again. dry_run: nothing is stored. Errors: 22023 for an unknown kind, 42703 for a column that is missing or unknown, 21000 if a line is there twice, 22004.';
$_ddl_$),
(NULL::integer, 'undelete', $_ddl_$

CREATE OR REPLACE FUNCTION @workspace@.undelete(kind text, id bigint, dry_run boolean DEFAULT false,
    OUT table_name text, OUT record jsonb, OUT restored boolean, OUT field text, OUT note text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM crm.undelete(@workspace_literal@::regnamespace, kind, id::text, dry_run) $$;
COMMENT ON FUNCTION @workspace@.undelete(text, bigint, boolean) IS
'Brings back a deleted record, with what was deleted or unlinked with it, for whoever might have deleted it. One row for each record that is back and each link set again, and with restored false for what is not. With dry_run nothing changes. Errors: P0002 for a deletion that is not in the audit log or not yours, 55000 for a record that is there or was merged, 23505 and 23503 where another record stands in the way, RMD01 by a duplicate rule.';

CREATE OR REPLACE FUNCTION @workspace@.undelete(kind text, id text, dry_run boolean DEFAULT false,
    OUT table_name text, OUT record jsonb, OUT restored boolean, OUT field text, OUT note text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM crm.undelete(@workspace_literal@::regnamespace, kind, id, dry_run) $$;
COMMENT ON FUNCTION @workspace@.undelete(text, text, boolean) IS
'undelete() for tables whose primary key is not a number: the id is given as text.';

CREATE OR REPLACE FUNCTION @workspace@.deleted_with(kind text, id bigint) RETURNS bigint
LANGUAGE sql STABLE STRICT COST 10000 SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT nullif(count(*), 0) - 1
FROM crm._record_tables(@workspace_literal@::regnamespace) AS t
CROSS JOIN LATERAL crm._undelete_plan(@workspace_literal@::regnamespace, t.rel, deleted_with.id::text, crm._caller()) AS p
WHERE t.kind = deleted_with.kind AND p.operation = 'insert'
$$;
COMMENT ON FUNCTION @workspace@.deleted_with(text, bigint) IS
'How many other records undelete() would bring back with one; NULL if it would not bring back that one.';

-- Who may see which row is decided before anything that a query adds; how many
-- records would come back is computed above, for the rows that are shown.
CREATE OR REPLACE VIEW @workspace@._deleted_record WITH (security_barrier = true) AS
SELECT l.kind, l.record_id AS id,
       -- What the log does not hold is an object there.
       (SELECT crm._record_name(jsonb_object_agg(e.key, e.value)) FROM jsonb_each(l.old) AS e WHERE jsonb_typeof(e.value) = 'string') AS name,
       (l.old ->> t.owner_column)::bigint AS owner_id,
       l.changed_at AS deleted_at, l.member_id AS deleted_by, m.name AS deleted_by_name
FROM @workspace@.audit_log AS l
JOIN crm._record_tables(@workspace_literal@::regnamespace) AS t ON t.kind = l.kind
LEFT JOIN @workspace@.member AS m ON m.id = l.member_id
WHERE l.operation = 'DELETE'
  AND (crm.can_delete(@workspace_literal@::regnamespace, (l.old ->> t.owner_column)::bigint)
       OR (SELECT crm._called_by_owner(@workspace_literal@::regnamespace)))
  AND NOT EXISTS (SELECT FROM @workspace@.audit_log AS later WHERE later.record_id = l.record_id AND later.kind = l.kind AND later.id > l.id)
  AND NOT EXISTS (SELECT FROM @workspace@.merged_record AS g WHERE g.kind = l.kind AND g.record_id = l.record_id::text);
COMMENT ON VIEW @workspace@._deleted_record IS 'What deleted_record shows, but for the number of records that would come back. For nobody but that view.';

CREATE OR REPLACE VIEW @workspace@.deleted_record AS
SELECT d.kind, d.id, d.name, d.owner_id, d.deleted_at, d.deleted_by, d.deleted_by_name, @workspace@.deleted_with(d.kind, d.id) AS children
FROM @workspace@._deleted_record AS d;
COMMENT ON VIEW @workspace@.deleted_record IS 'Deleted records that undelete() can bring back, one a row, for whoever has the owner''s rights over them as they were. Of kinds of records (tables with protect()) that are audited in this workspace.';
COMMENT ON COLUMN @workspace@._deleted_record.kind IS 'Kind of record.';
COMMENT ON COLUMN @workspace@._deleted_record.id IS 'Its id, which it will have again.';
COMMENT ON COLUMN @workspace@._deleted_record.name IS 'What people called it.';
COMMENT ON COLUMN @workspace@._deleted_record.owner_id IS 'Its owner when it was deleted; NULL: nobody.';
COMMENT ON COLUMN @workspace@._deleted_record.deleted_at IS 'When: the start of that transaction.';
COMMENT ON COLUMN @workspace@._deleted_record.deleted_by IS 'Member who deleted it; NULL: nobody known.';
COMMENT ON COLUMN @workspace@._deleted_record.deleted_by_name IS 'Name of that member.';
COMMENT ON COLUMN @workspace@.deleted_record.kind IS 'Kind of record.';
COMMENT ON COLUMN @workspace@.deleted_record.id IS 'Its id, which it will have again.';
COMMENT ON COLUMN @workspace@.deleted_record.name IS 'What people called it.';
COMMENT ON COLUMN @workspace@.deleted_record.owner_id IS 'Its owner when it was deleted; NULL: nobody.';
COMMENT ON COLUMN @workspace@.deleted_record.deleted_at IS 'When: the start of that transaction.';
COMMENT ON COLUMN @workspace@.deleted_record.deleted_by IS 'Member who deleted it; NULL: nobody known.';
COMMENT ON COLUMN @workspace@.deleted_record.deleted_by_name IS 'Name of that member.';
COMMENT ON COLUMN @workspace@.deleted_record.children IS 'How many other records would come back with it; computed for the rows that are shown.';

REVOKE EXECUTE ON FUNCTION @workspace@.deleted_with(text, bigint) FROM PUBLIC;
$_ddl_$),
(1::integer, 'report', $_ddl_$

CREATE TABLE @workspace@.exchange_rate (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    currency text NOT NULL CONSTRAINT exchange_rate_currency_code CHECK (currency ~ '^[A-Z]{3}$'),
    valid_from date NOT NULL CONSTRAINT exchange_rate_valid_from_range CHECK (valid_from >= '0001-01-01' AND valid_from <= '9999-12-31'),
    rate numeric NOT NULL CONSTRAINT exchange_rate_positive CHECK (rate > 0 AND rate < 'Infinity'),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (currency, valid_from)
);
COMMENT ON TABLE @workspace@.exchange_rate IS 'What currencies are worth in the reporting currency, for reports.';
COMMENT ON COLUMN @workspace@.exchange_rate.id IS 'Identifier, never reused.';
COMMENT ON COLUMN @workspace@.exchange_rate.currency IS 'ISO 4217 code.';
COMMENT ON COLUMN @workspace@.exchange_rate.valid_from IS 'First day of the rate; it holds until the next.';
COMMENT ON COLUMN @workspace@.exchange_rate.rate IS 'Units of the reporting currency for one unit of this one.';
COMMENT ON COLUMN @workspace@.exchange_rate.created_at IS 'When the row was inserted.';

$_ddl_$),
(NULL::integer, 'report', $_ddl_$

-- For BI tools: plain types, every column explained, and row-level security as for
-- the tables.  Columns are only ever added, at the end.

CREATE OR REPLACE VIEW @workspace@.report_opportunity WITH (security_invoker) AS
SELECT o.id, o.name, o.account_id, a.name AS account_name, o.contact_id, c.full_name AS contact_name,
       o.pipeline, o.stage, s.position AS stage_position, s.type AS stage_type, s.probability,
       o.amount, coalesce(o.currency, rc.value) AS currency,
       (o.amount * x.factor)::numeric(18,2) AS reporting_amount,
       (o.amount * x.factor * s.probability / 100)::numeric(18,2) AS weighted_amount,
       rc.value AS reporting_currency,
       o.close_date, o.closed_at, o.closed_at::date AS closed_on, o.source, o.lost_reason,
       o.owner_id, m.name AS owner_name, o.created_at, o.created_at::date AS created_on, o.updated_at
FROM @workspace@.opportunity AS o
LEFT JOIN @workspace@.setting AS rc ON rc.name = 'reporting_currency'
LEFT JOIN @workspace@.account AS a ON a.id = o.account_id
LEFT JOIN @workspace@.contact AS c ON c.id = o.contact_id
LEFT JOIN @workspace@.stage AS s ON s.pipeline = o.pipeline AND s.name = o.stage
LEFT JOIN @workspace@.member AS m ON m.id = o.owner_id
CROSS JOIN LATERAL (SELECT CASE WHEN coalesce(o.currency, rc.value) = rc.value THEN 1
                                ELSE (SELECT r.rate FROM @workspace@.exchange_rate AS r
                                      WHERE r.currency = o.currency AND r.valid_from <= coalesce(o.closed_at::date, current_date)
                                      ORDER BY r.valid_from DESC LIMIT 1)
                           END AS factor) AS x;
COMMENT ON VIEW @workspace@.report_opportunity IS 'Opportunities, one a row, with amounts in their own and in the reporting currency.';
COMMENT ON COLUMN @workspace@.report_opportunity.id IS 'The opportunity.';
COMMENT ON COLUMN @workspace@.report_opportunity.name IS 'What is to be sold.';
COMMENT ON COLUMN @workspace@.report_opportunity.account_id IS 'The customer.';
COMMENT ON COLUMN @workspace@.report_opportunity.account_name IS 'Name of the customer; NULL if the reader may not see it.';
COMMENT ON COLUMN @workspace@.report_opportunity.contact_id IS 'The main person on the customer''s side.';
COMMENT ON COLUMN @workspace@.report_opportunity.contact_name IS 'Name of that person; NULL if the reader may not see it.';
COMMENT ON COLUMN @workspace@.report_opportunity.pipeline IS 'The pipeline it moves through.';
COMMENT ON COLUMN @workspace@.report_opportunity.stage IS 'Its stage.';
COMMENT ON COLUMN @workspace@.report_opportunity.stage_position IS 'Order of the stage in the pipeline, lowest first.';
COMMENT ON COLUMN @workspace@.report_opportunity.stage_type IS 'open, won or lost.';
COMMENT ON COLUMN @workspace@.report_opportunity.probability IS 'Chance of winning from that stage, in percent.';
COMMENT ON COLUMN @workspace@.report_opportunity.amount IS 'Expected value, in currency.';
COMMENT ON COLUMN @workspace@.report_opportunity.currency IS 'ISO 4217 code of the currency of amount.';
COMMENT ON COLUMN @workspace@.report_opportunity.reporting_amount IS 'Amount in the reporting currency, at the rate of the day it was closed, or today''s while it is open; NULL where no rate is known.';
COMMENT ON COLUMN @workspace@.report_opportunity.weighted_amount IS 'reporting_amount times probability.';
COMMENT ON COLUMN @workspace@.report_opportunity.reporting_currency IS 'The setting reporting_currency; NULL: not set, and amounts are not converted.';
COMMENT ON COLUMN @workspace@.report_opportunity.close_date IS 'When it is expected to close.';
COMMENT ON COLUMN @workspace@.report_opportunity.closed_at IS 'When it was won or lost; NULL: still open.';
COMMENT ON COLUMN @workspace@.report_opportunity.closed_on IS 'Day of closed_at in the session''s time zone.';
COMMENT ON COLUMN @workspace@.report_opportunity.source IS 'Where it came from.';
COMMENT ON COLUMN @workspace@.report_opportunity.lost_reason IS 'Why it was lost.';
COMMENT ON COLUMN @workspace@.report_opportunity.owner_id IS 'The member responsible.';
COMMENT ON COLUMN @workspace@.report_opportunity.owner_name IS 'Name of that member.';
COMMENT ON COLUMN @workspace@.report_opportunity.created_at IS 'When it was created.';
COMMENT ON COLUMN @workspace@.report_opportunity.created_on IS 'Day of created_at in the session''s time zone.';
COMMENT ON COLUMN @workspace@.report_opportunity.updated_at IS 'When it last changed.';

CREATE OR REPLACE VIEW @workspace@.report_account WITH (security_invoker) AS
SELECT a.id, a.name, a.parent_id, p.name AS parent_name, a.uscc, a.industry, a.website, a.phone, a.email,
       a.street, a.city, a.region, a.postcode, a.country, a.owner_id, m.name AS owner_name,
       (SELECT count(*) FROM @workspace@.contact AS c WHERE c.account_id = a.id) AS contacts,
       (SELECT count(*) FROM @workspace@.report_opportunity AS o WHERE o.account_id = a.id AND o.stage_type = 'open') AS open_opportunities,
       (SELECT sum(o.reporting_amount) FROM @workspace@.report_opportunity AS o WHERE o.account_id = a.id AND o.stage_type = 'open')::numeric(18,2) AS open_amount,
       (SELECT count(*) FROM @workspace@.report_opportunity AS o WHERE o.account_id = a.id AND o.stage_type = 'won') AS won_opportunities,
       (SELECT sum(o.reporting_amount) FROM @workspace@.report_opportunity AS o WHERE o.account_id = a.id AND o.stage_type = 'won')::numeric(18,2) AS won_amount,
       (SELECT max(v.completed_at) FROM @workspace@.activity AS v WHERE v.account_id = a.id) AS last_activity_at,
       (SELECT count(*) FROM @workspace@.activity AS v WHERE v.account_id = a.id AND v.completed_at IS NULL) AS open_activities,
       a.created_at, a.created_at::date AS created_on, a.updated_at
FROM @workspace@.account AS a
LEFT JOIN @workspace@.account AS p ON p.id = a.parent_id
LEFT JOIN @workspace@.member AS m ON m.id = a.owner_id;
COMMENT ON VIEW @workspace@.report_account IS 'Accounts, one a row, with what is open, won and done. Sums are over what the reader may see.';
COMMENT ON COLUMN @workspace@.report_account.id IS 'The account.';
COMMENT ON COLUMN @workspace@.report_account.name IS 'Name of the company or organisation.';
COMMENT ON COLUMN @workspace@.report_account.parent_id IS 'The account it belongs to.';
COMMENT ON COLUMN @workspace@.report_account.parent_name IS 'Name of that account.';
COMMENT ON COLUMN @workspace@.report_account.uscc IS 'Unified social credit code.';
COMMENT ON COLUMN @workspace@.report_account.industry IS 'Line of business.';
COMMENT ON COLUMN @workspace@.report_account.website IS 'Address of the web site.';
COMMENT ON COLUMN @workspace@.report_account.phone IS 'Telephone number.';
COMMENT ON COLUMN @workspace@.report_account.email IS 'E-mail address.';
COMMENT ON COLUMN @workspace@.report_account.street IS 'Street and number.';
COMMENT ON COLUMN @workspace@.report_account.city IS 'City or town.';
COMMENT ON COLUMN @workspace@.report_account.region IS 'State or province.';
COMMENT ON COLUMN @workspace@.report_account.postcode IS 'Postal code.';
COMMENT ON COLUMN @workspace@.report_account.country IS 'Country.';
COMMENT ON COLUMN @workspace@.report_account.owner_id IS 'The member responsible.';
COMMENT ON COLUMN @workspace@.report_account.owner_name IS 'Name of that member.';
COMMENT ON COLUMN @workspace@.report_account.contacts IS 'Number of contacts.';
COMMENT ON COLUMN @workspace@.report_account.open_opportunities IS 'Number of opportunities neither won nor lost.';
COMMENT ON COLUMN @workspace@.report_account.open_amount IS 'Their amount, in the reporting currency; those without a rate are left out.';
COMMENT ON COLUMN @workspace@.report_account.won_opportunities IS 'Number of opportunities won.';
COMMENT ON COLUMN @workspace@.report_account.won_amount IS 'Their amount, in the reporting currency; those without a rate are left out.';
COMMENT ON COLUMN @workspace@.report_account.last_activity_at IS 'When the last activity was completed.';
COMMENT ON COLUMN @workspace@.report_account.open_activities IS 'Number of activities not completed.';
COMMENT ON COLUMN @workspace@.report_account.created_at IS 'When it was created.';
COMMENT ON COLUMN @workspace@.report_account.created_on IS 'Day of created_at in the session''s time zone.';
COMMENT ON COLUMN @workspace@.report_account.updated_at IS 'When it last changed.';

CREATE OR REPLACE VIEW @workspace@.report_activity WITH (security_invoker) AS
SELECT v.id, v.type, v.subject, v.due_at, v.due_at::date AS due_on, v.completed_at, v.completed_at::date AS completed_on,
       CASE WHEN v.completed_at IS NOT NULL THEN 'done' WHEN v.due_at < now() THEN 'overdue' ELSE 'open' END AS state,
       v.account_id, a.name AS account_name, v.contact_id, c.full_name AS contact_name, v.lead_id, v.opportunity_id, o.name AS opportunity_name,
       v.owner_id, m.name AS owner_name, v.created_at, v.created_at::date AS created_on
FROM @workspace@.activity AS v
LEFT JOIN @workspace@.account AS a ON a.id = v.account_id
LEFT JOIN @workspace@.contact AS c ON c.id = v.contact_id
LEFT JOIN @workspace@.opportunity AS o ON o.id = v.opportunity_id
LEFT JOIN @workspace@.member AS m ON m.id = v.owner_id;
COMMENT ON VIEW @workspace@.report_activity IS 'Activities, one a row.';
COMMENT ON COLUMN @workspace@.report_activity.id IS 'The activity.';
COMMENT ON COLUMN @workspace@.report_activity.type IS 'task, call, meeting, email, note, visit or one of your own.';
COMMENT ON COLUMN @workspace@.report_activity.subject IS 'What it is about.';
COMMENT ON COLUMN @workspace@.report_activity.due_at IS 'When it is due or starts.';
COMMENT ON COLUMN @workspace@.report_activity.due_on IS 'Day of due_at in the session''s time zone.';
COMMENT ON COLUMN @workspace@.report_activity.completed_at IS 'When it was done.';
COMMENT ON COLUMN @workspace@.report_activity.completed_on IS 'Day of completed_at in the session''s time zone.';
COMMENT ON COLUMN @workspace@.report_activity.state IS 'done, overdue or open.';
COMMENT ON COLUMN @workspace@.report_activity.account_id IS 'The account it concerns.';
COMMENT ON COLUMN @workspace@.report_activity.account_name IS 'Name of that account; NULL if the reader may not see it.';
COMMENT ON COLUMN @workspace@.report_activity.contact_id IS 'The contact it concerns.';
COMMENT ON COLUMN @workspace@.report_activity.contact_name IS 'Name of that contact; NULL if the reader may not see it.';
COMMENT ON COLUMN @workspace@.report_activity.lead_id IS 'The lead it concerns.';
COMMENT ON COLUMN @workspace@.report_activity.opportunity_id IS 'The opportunity it concerns.';
COMMENT ON COLUMN @workspace@.report_activity.opportunity_name IS 'Name of that opportunity; NULL if the reader may not see it.';
COMMENT ON COLUMN @workspace@.report_activity.owner_id IS 'The member responsible.';
COMMENT ON COLUMN @workspace@.report_activity.owner_name IS 'Name of that member.';
COMMENT ON COLUMN @workspace@.report_activity.created_at IS 'When it was created.';
COMMENT ON COLUMN @workspace@.report_activity.created_on IS 'Day of created_at in the session''s time zone.';

CREATE OR REPLACE VIEW @workspace@.report_stage_duration WITH (security_invoker) AS
SELECT h.id, h.kind, h.record_id, h.pipeline, h.stage, h.type AS stage_type, h.changed_at AS entered_at, h.left_at,
       h.next_pipeline, h.next_stage, h.left_at IS NULL AS is_current,
       (extract(epoch FROM coalesce(h.left_at, now()) - h.changed_at) / 86400)::numeric(18,2) AS days,
       h.member_id, m.name AS member_name
FROM (SELECT w.*, lead(w.changed_at) OVER record AS left_at, lead(w.pipeline) OVER record AS next_pipeline, lead(w.stage) OVER record AS next_stage
      FROM @workspace@.stage_history AS w
      WINDOW record AS (PARTITION BY w.kind, w.record_id ORDER BY w.id)) AS h
LEFT JOIN @workspace@.member AS m ON m.id = h.member_id;
COMMENT ON VIEW @workspace@.report_stage_duration IS 'Each stay of a record in a stage, one a row: when it came, when it went and where to.';
COMMENT ON COLUMN @workspace@.report_stage_duration.id IS 'The row of stage_history that began the stay.';
COMMENT ON COLUMN @workspace@.report_stage_duration.kind IS 'Kind of record.';
COMMENT ON COLUMN @workspace@.report_stage_duration.record_id IS 'The record.';
COMMENT ON COLUMN @workspace@.report_stage_duration.pipeline IS 'The pipeline.';
COMMENT ON COLUMN @workspace@.report_stage_duration.stage IS 'The stage.';
COMMENT ON COLUMN @workspace@.report_stage_duration.stage_type IS 'Type of the stage at the time: open, won or lost.';
COMMENT ON COLUMN @workspace@.report_stage_duration.entered_at IS 'When the record came into the stage.';
COMMENT ON COLUMN @workspace@.report_stage_duration.left_at IS 'When it left; NULL: it is there still, or was deleted.';
COMMENT ON COLUMN @workspace@.report_stage_duration.next_pipeline IS 'Pipeline it went to.';
COMMENT ON COLUMN @workspace@.report_stage_duration.next_stage IS 'Stage it went to.';
COMMENT ON COLUMN @workspace@.report_stage_duration.is_current IS 'True if it has not left.';
COMMENT ON COLUMN @workspace@.report_stage_duration.days IS 'Length of the stay in days, to now if it has not left.';
COMMENT ON COLUMN @workspace@.report_stage_duration.member_id IS 'The member who brought it there.';
COMMENT ON COLUMN @workspace@.report_stage_duration.member_name IS 'Name of that member.';

CREATE OR REPLACE VIEW @workspace@.report_calendar WITH (security_invoker) AS
SELECT d.day::date AS day, extract(isoyear FROM d.day)::integer AS iso_year, extract(week FROM d.day)::integer AS iso_week,
       extract(isodow FROM d.day)::integer AS iso_weekday, to_char(d.day, 'FMDay') AS weekday_name, extract(isodow FROM d.day) > 5 AS is_weekend,
       extract(year FROM d.day)::integer AS year, extract(quarter FROM d.day)::integer AS quarter, extract(month FROM d.day)::integer AS month,
       to_char(d.day, 'FMMonth') AS month_name, extract(day FROM d.day)::integer AS day_of_month,
       to_char(d.day, 'YYYY-MM') AS year_month, to_char(d.day, 'YYYY"Q"Q') AS year_quarter,
       date_trunc('month', d.day)::date AS first_of_month, (date_trunc('month', d.day) + interval '1 month - 1 day')::date AS last_of_month
FROM generate_series(date_trunc('year', current_date::timestamp) - interval '20 years',
                     date_trunc('year', current_date::timestamp) + interval '11 years - 1 day', interval '1 day') AS d (day);
COMMENT ON VIEW @workspace@.report_calendar IS 'Days, one a row, from 20 years back to the end of the year 10 years ahead: the date dimension to join the days of other views with.';
COMMENT ON COLUMN @workspace@.report_calendar.day IS 'The day.';
COMMENT ON COLUMN @workspace@.report_calendar.iso_year IS 'Year of the ISO week.';
COMMENT ON COLUMN @workspace@.report_calendar.iso_week IS 'ISO 8601 week, 1 to 53.';
COMMENT ON COLUMN @workspace@.report_calendar.iso_weekday IS '1 Monday to 7 Sunday.';
COMMENT ON COLUMN @workspace@.report_calendar.weekday_name IS 'English name of the weekday.';
COMMENT ON COLUMN @workspace@.report_calendar.is_weekend IS 'True for Saturday and Sunday.';
COMMENT ON COLUMN @workspace@.report_calendar.year IS 'Year.';
COMMENT ON COLUMN @workspace@.report_calendar.quarter IS '1 to 4.';
COMMENT ON COLUMN @workspace@.report_calendar.month IS '1 to 12.';
COMMENT ON COLUMN @workspace@.report_calendar.month_name IS 'English name of the month.';
COMMENT ON COLUMN @workspace@.report_calendar.day_of_month IS '1 to 31.';
COMMENT ON COLUMN @workspace@.report_calendar.year_month IS 'Such as 2026-03.';
COMMENT ON COLUMN @workspace@.report_calendar.year_quarter IS 'Such as 2026Q1.';
COMMENT ON COLUMN @workspace@.report_calendar.first_of_month IS 'First day of the month.';
COMMENT ON COLUMN @workspace@.report_calendar.last_of_month IS 'Last day of the month.';

-- A cohort: the records that first entered the pipeline in the period.  A record has
-- reached a stage if it was ever in it or in one beyond it that is not lost, so that
-- a skipped stage does not look like a loss; the way there and back counts once.
CREATE OR REPLACE FUNCTION @workspace@.funnel(pipeline text, since date DEFAULT NULL, until date DEFAULT NULL,
    OUT stage text, OUT "position" integer, OUT type text, OUT reached bigint, OUT percent_of_all numeric, OUT percent_of_previous numeric,
    OUT lost_from bigint, OUT standing bigint, OUT median_days numeric)
RETURNS SETOF record LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT crm._check_pipeline(@workspace_literal@::regnamespace, pipeline), crm._check_period(since, until);
WITH history AS (
    SELECT h.record_id, h.stage, h.changed_at, lead(h.changed_at) OVER w AS left_at, lead(h.id) OVER w IS NULL AS is_last,
           lag(h.stage) OVER w AS came_from, first_value(h.changed_at) OVER w AS first_at
    FROM @workspace@.stage_history AS h
    WHERE h.pipeline = funnel.pipeline AND h.kind = (SELECT p.kind FROM @workspace@.pipeline AS p WHERE p.name = funnel.pipeline)
      AND EXISTS (SELECT FROM @workspace@.stage AS s WHERE s.pipeline = h.pipeline AND s.name = h.stage)
    WINDOW w AS (PARTITION BY h.record_id ORDER BY h.id)
), cohort AS MATERIALIZED (
    SELECT h.*, s.position, s.type
    FROM history AS h
    JOIN @workspace@.stage AS s ON s.pipeline = funnel.pipeline AND s.name = h.stage
    WHERE (since IS NULL OR h.first_at >= since::timestamptz) AND (until IS NULL OR h.first_at < until::timestamptz)
), furthest AS (
    SELECT f.position, count(*) AS records
    FROM (SELECT max(c.position) FILTER (WHERE c.type <> 'lost') AS position FROM cohort AS c GROUP BY c.record_id) AS f
    GROUP BY f.position
), standing AS (
    SELECT c.stage, count(*) AS records FROM cohort AS c WHERE c.is_last GROUP BY c.stage
), lost AS (
    SELECT c.came_from AS stage, count(*) AS records FROM cohort AS c WHERE c.type = 'lost' AND c.is_last GROUP BY c.came_from
), spent AS (
    SELECT t.stage, percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM t.stay) / 86400.0) AS median_days
    FROM (SELECT c.stage, sum(c.left_at - c.changed_at) AS stay FROM cohort AS c WHERE c.left_at IS NOT NULL GROUP BY c.stage, c.record_id) AS t
    GROUP BY t.stage
), counted AS (
    SELECT s.name, s.position, s.type,
           coalesce(CASE WHEN s.type = 'lost' THEN h.records ELSE (SELECT sum(f.records)::bigint FROM furthest AS f WHERE f.position >= s.position) END, 0) AS reached,
           coalesce(l.records, 0) AS lost_from, coalesce(h.records, 0) AS standing, t.median_days
    FROM @workspace@.stage AS s
    LEFT JOIN standing AS h ON h.stage = s.name
    LEFT JOIN lost AS l ON l.stage = s.name
    LEFT JOIN spent AS t ON t.stage = s.name
    WHERE s.pipeline = funnel.pipeline
)
SELECT c.name, c.position, c.type, c.reached,
       round(100.0 * c.reached / nullif((SELECT sum(f.records) FROM furthest AS f), 0), 1),
       CASE WHEN c.type <> 'lost' THEN round(100.0 * c.reached / nullif(lag(c.reached) OVER (PARTITION BY c.type = 'lost' ORDER BY c.position, c.name), 0), 1) END,
       c.lost_from, c.standing, round(c.median_days::numeric, 2)
FROM counted AS c
ORDER BY c.position, c.name
$$;
COMMENT ON FUNCTION @workspace@.funnel(text, date, date) IS
'What became of the records that first entered a pipeline on or after since and before until (NULL: no limit; days in the session''s time zone), stage by stage: how many reached it or a stage beyond it, in percent of all and of those in the stage before, how many were lost from it, stand in it now, and the median of days spent in it. Of a lost stage reached counts those that stand there. Over the records the caller may see. Errors: RMS02 if there is no such pipeline, 22004 without one, 22023 if the period ends before it begins.';

-- The state of each record at both moments decides where it is counted, once, so
-- that opening + new + reopened + moved in - won - lost - moved out = closing.
CREATE OR REPLACE FUNCTION @workspace@.pipeline_bridge(since timestamptz, until timestamptz, pipeline text DEFAULT NULL,
    OUT step text, OUT opportunities bigint, OUT amount numeric)
RETURNS SETOF record LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT crm._check_pipeline(@workspace_literal@::regnamespace, pipeline) WHERE pipeline IS NOT NULL;
SELECT crm._check_period(since, until, true);
WITH last AS (
    SELECT h.record_id, max(h.id) FILTER (WHERE h.changed_at < since) AS before, max(h.id) FILTER (WHERE h.changed_at < until) AS after
    FROM @workspace@.stage_history AS h
    WHERE h.kind = 'opportunity' AND h.changed_at < until
    GROUP BY h.record_id
), state AS (
    SELECT l.before IS NOT NULL AS known,
           CASE WHEN pipeline_bridge.pipeline IS NULL OR b.pipeline = pipeline_bridge.pipeline THEN b.type END AS before,
           CASE WHEN pipeline_bridge.pipeline IS NULL OR a.pipeline = pipeline_bridge.pipeline THEN a.type END AS after,
           count(*) AS opportunities, sum(o.reporting_amount) AS amount
    FROM @workspace@.report_opportunity AS o
    JOIN last AS l ON l.record_id = o.id
    LEFT JOIN @workspace@.stage_history AS b ON b.id = l.before
    LEFT JOIN @workspace@.stage_history AS a ON a.id = l.after
    GROUP BY 1, 2, 3
)
SELECT b.step, coalesce(sum(s.opportunities), 0)::bigint, coalesce(sum(s.amount), 0)::numeric(18,2)
FROM (VALUES ('opening', 1), ('new', 2), ('moved in', 3), ('reopened', 4), ('won', 5), ('lost', 6), ('moved out', 7), ('closing', 8)) AS b (step, ordinal)
LEFT JOIN state AS s ON CASE b.step
    WHEN 'opening' THEN s.before = 'open'
    WHEN 'new' THEN s.before IS NULL AND NOT s.known AND s.after IS NOT NULL
    WHEN 'moved in' THEN s.before IS NULL AND s.known AND s.after IS NOT NULL
    WHEN 'reopened' THEN s.before <> 'open' AND s.after <> s.before
    WHEN 'won' THEN s.after = 'won' AND s.before IS DISTINCT FROM 'won'
    WHEN 'lost' THEN s.after = 'lost' AND s.before IS DISTINCT FROM 'lost'
    WHEN 'moved out' THEN s.before = 'open' AND s.after IS NULL
    ELSE s.after = 'open' END
GROUP BY b.step, b.ordinal
ORDER BY b.ordinal
$$;
COMMENT ON FUNCTION @workspace@.pipeline_bridge(timestamptz, timestamptz, text) IS
'How the open opportunities of one moment became those of another, of one pipeline or all (NULL): opening + new + moved in + reopened - won - lost - moved out = closing, in number and in amount. Amounts are today''s, in the reporting currency; those without a rate count as 0. Over the opportunities the caller may see; deleted ones are left out. Errors: RMS02 if there is no such pipeline, 22004 if a moment is NULL, 22023 if the second is before the first.';
$_ddl_$)
) AS ddl (version, topic, ddl)
$_workspace_ddl_$;

COMMENT ON FUNCTION crm._workspace_ddl() IS
'The DDL of a workspace, in order: version NULL runs on every upgrade, the others once. @workspace@ stands for the quoted schema name.';

---------------------------------------------------------------------
-- workspace
---------------------------------------------------------------------

CREATE FUNCTION crm._in_extension_script() RETURNS boolean
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_in_extension_script';

COMMENT ON FUNCTION crm._in_extension_script() IS
'True while CREATE EXTENSION or ALTER EXTENSION UPDATE runs a script, where every new object would become a member.';

CREATE FUNCTION crm.is_workspace(schema regnamespace) RETURNS boolean
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_is_workspace_sql';

COMMENT ON FUNCTION crm.is_workspace(regnamespace) IS
'True if the schema is a crm workspace: it has a crm_meta table carrying the marker trigger.';

CREATE FUNCTION crm._workspace_schema(workspace name) RETURNS oid
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_workspace_schema';

COMMENT ON FUNCTION crm._workspace_schema(name) IS
'The schema of the workspace of a name. Error: 3F000 if there is no such workspace.';

CREATE FUNCTION crm.meta_guard() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_meta_guard';

COMMENT ON FUNCTION crm.meta_guard() IS
'Marks the schema of its table as a crm workspace and refuses to remove the row that holds its version.';

CREATE FUNCTION crm.workspaces(OUT workspace regnamespace, OUT owner regrole, OUT schema_version integer, OUT current_version integer)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r record;
BEGIN
    SELECT max(d.version) INTO current_version FROM crm._workspace_ddl() AS d;
    FOR r IN
        SELECT n.oid, n.nspname, n.nspowner, c.oid AS meta
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relname = 'crm_meta'
          AND c.relkind = 'r'
          AND EXISTS (SELECT FROM pg_trigger AS t
                      WHERE t.tgrelid = c.oid AND t.tgfoid = 'crm.meta_guard()'::regprocedure)
        ORDER BY n.nspname
    LOOP
        workspace := r.oid;
        owner := r.nspowner;
        schema_version := NULL;
        IF has_schema_privilege(r.oid, 'USAGE') AND has_table_privilege(r.meta, 'SELECT') THEN
            EXECUTE format('SELECT m.schema_version FROM %I.crm_meta AS m', r.nspname) INTO schema_version;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm.workspaces() IS
'The workspaces of this database: schema, owner, schema version (NULL if the caller may not read it) and the version this extension brings them to.';

CREATE FUNCTION crm._execute_as_owner(workspace oid, ddl text) RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_execute_as_owner';

COMMENT ON FUNCTION crm._execute_as_owner(oid, text) IS
'Runs DDL as the owner of a schema, as a security-restricted operation. The caller must be a member of that role.';

CREATE FUNCTION crm._execute_as_role(role oid, ddl text) RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_execute_as_role';

COMMENT ON FUNCTION crm._execute_as_role(oid, text) IS
'Runs DDL as another role, as a security-restricted operation. Only for superusers.';

CREATE FUNCTION crm.create_workspace(workspace name) RETURNS regnamespace
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
    existing oid;
BEGIN
    IF crm._in_extension_script() THEN
        RAISE EXCEPTION 'crm.create_workspace() cannot run inside an extension script'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'The tables would become members of the extension and be lost by pg_dump.';
    END IF;
    IF workspace = '' OR workspace LIKE 'pg\_%' OR workspace = 'information_schema' THEN
        RAISE EXCEPTION 'schema name "%" is reserved', workspace
            USING ERRCODE = 'reserved_name',
                  HINT = 'Name the workspace after the organisation or team that uses it.';
    END IF;
    -- Of two who create the same name at once, the second sees what the first made.
    PERFORM pg_advisory_xact_lock('crm.create_workspace(name)'::regprocedure::oid::integer, hashtext(workspace));
    existing := (SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = workspace);
    IF workspace = 'crm'
       OR EXISTS (SELECT FROM pg_extension AS e WHERE e.extnamespace = existing AND workspace <> 'public')
       OR EXISTS (SELECT FROM pg_depend AS d
                  WHERE d.classid = 'pg_namespace'::regclass AND d.objid = existing AND d.deptype = 'e') THEN
        RAISE EXCEPTION 'schema "%" belongs to an extension', workspace
            USING ERRCODE = 'reserved_name',
                  DETAIL = 'A workspace holds data and lives in a schema of its own.',
                  HINT = 'Choose another name.';
    END IF;

    IF existing IS NULL THEN
        EXECUTE format('CREATE SCHEMA %I', workspace);
    ELSIF crm.is_workspace(existing) THEN
        RAISE EXCEPTION 'workspace "%" already exists', workspace
            USING ERRCODE = 'duplicate_schema',
                  HINT = format('To bring it to the current version, run SELECT crm.upgrade_workspace(%L).', workspace);
    ELSIF EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = existing)
       OR EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = existing) THEN
        RAISE EXCEPTION 'schema "%" is not empty', workspace
            USING ERRCODE = 'duplicate_schema',
                  HINT = 'A workspace is created in a new schema or in an empty one that you own.';
    ELSIF NOT pg_has_role((SELECT n.nspowner FROM pg_namespace AS n WHERE n.oid = existing), 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of schema %', workspace
            USING ERRCODE = 'insufficient_privilege';
    END IF;

    EXECUTE format(
        'CREATE TABLE %1$I.crm_meta (
             one boolean PRIMARY KEY DEFAULT true CONSTRAINT crm_meta_one_row CHECK (one),
             schema_version integer NOT NULL,
             created_at timestamptz NOT NULL DEFAULT now()
         );
         INSERT INTO %1$I.crm_meta (schema_version) VALUES (0);
         CREATE TRIGGER crm_workspace BEFORE DELETE OR TRUNCATE ON %1$I.crm_meta
             FOR EACH STATEMENT EXECUTE FUNCTION crm.meta_guard();',
        workspace);
    PERFORM crm.upgrade_workspace(workspace);
    RETURN (SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = workspace);
END
$$;

COMMENT ON FUNCTION crm.create_workspace(name) IS
'Creates a workspace: a schema of ordinary tables owned by the caller, who needs CREATE on the database. Refuses reserved schemas, schemas of extensions and schemas that are not empty. Returns the schema.';

CREATE FUNCTION crm.upgrade_workspace(workspace name) RETURNS integer
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
    schema_oid oid;
    current integer;
    newest integer := (SELECT max(d.version) FROM crm._workspace_ddl() AS d);
    step record;
    functions oid[];
    added text;
    trigger_states text;
BEGIN
    IF crm._in_extension_script() THEN
        RAISE EXCEPTION 'crm.upgrade_workspace() cannot run inside an extension script'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Run it after ALTER EXTENSION crm UPDATE.';
    END IF;
    schema_oid := crm._workspace_schema(workspace);
    IF NOT pg_has_role((SELECT n.nspowner FROM pg_namespace AS n WHERE n.oid = schema_oid), 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of workspace %', workspace
            USING ERRCODE = 'insufficient_privilege';
    END IF;

    PERFORM pg_advisory_xact_lock('crm.upgrade_workspace(name)'::regprocedure::oid::integer, schema_oid::integer);
    EXECUTE format('SELECT m.schema_version FROM %I.crm_meta AS m FOR UPDATE', workspace) INTO current;
    IF current > newest THEN
        RAISE EXCEPTION 'workspace "%" has version %, but this extension knows only version %', workspace, current, newest
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Run ALTER EXTENSION crm UPDATE, or install the crm that made the workspace.';
    END IF;

    -- CREATE OR REPLACE TRIGGER enables; what somebody has set otherwise, for
    -- replication say, is put back.  CREATE FUNCTION lets PUBLIC execute; what an
    -- upgrade adds is for those who are granted it.
    SELECT string_agg(format('ALTER TABLE %s %s TRIGGER %I', t.tgrelid::regclass,
                             CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE REPLICA' END,
                             t.tgname), '; ')
    INTO trigger_states
    FROM pg_trigger AS t
    JOIN pg_class AS c ON c.oid = t.tgrelid
    WHERE c.relnamespace = schema_oid AND t.tgenabled <> 'O' AND NOT t.tgisinternal;
    functions := ARRAY(SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = schema_oid);

    FOR step IN
        SELECT d.version, d.topic, d.ddl
        FROM crm._workspace_ddl() WITH ORDINALITY AS d (version, topic, ddl, ordinal)
        WHERE d.version IS NULL OR d.version > current
        ORDER BY d.version NULLS LAST, d.ordinal
    LOOP
        PERFORM crm._execute_as_owner(schema_oid,
            replace(replace(step.ddl, '@workspace_literal@', quote_literal(quote_ident(workspace))),
                    '@workspace@', quote_ident(workspace)));
    END LOOP;

    SELECT string_agg(p.oid::regprocedure::text, ', ') INTO added
    FROM pg_proc AS p
    WHERE p.pronamespace = schema_oid AND NOT p.oid = ANY (functions);
    PERFORM crm._execute_as_owner(schema_oid, concat_ws('; ',
        trigger_states,
        'REVOKE ALL ON ROUTINE ' || added || ' FROM PUBLIC',
        format('UPDATE %I.crm_meta SET schema_version = %s', workspace, newest)));
    PERFORM crm._regrant(workspace);
    RETURN newest;
END
$$;

COMMENT ON FUNCTION crm.upgrade_workspace(name) IS
'Brings a workspace to the version of this extension in the caller''s transaction: pending migrations once each, then views, functions, triggers and policies anew. Also repairs them after ALTER SCHEMA ... RENAME. The caller must be a member of the role that owns the schema. Returns the schema version.';

---------------------------------------------------------------------
-- access
---------------------------------------------------------------------

-- Who the session acts for.

CREATE FUNCTION crm.member_id(workspace regnamespace) RETURNS bigint
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_member_id_sql';

COMMENT ON FUNCTION crm.member_id(regnamespace) IS
'The id of the active member of a workspace that this session acts for: the one named by crm.token, or by crm.member, or the one whose login_role is session_user. NULL: nobody. A token or setting that names another workspace is nobody here.';

CREATE FUNCTION crm.access_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_access_changed';

COMMENT ON FUNCTION crm.access_changed() IS
'Trigger of the tables that say who may see what: makes every session look again at its next statement.';

CREATE FUNCTION crm._scopes_built() RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'crm_scopes_built';

COMMENT ON FUNCTION crm._scopes_built() IS
'How often this session computed what a member may see.';

-- Tokens.

CREATE FUNCTION crm._token_signature(secret bytea, content text) RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_token_signature';
COMMENT ON FUNCTION crm._token_signature(bytea, text) IS
'HMAC-SHA-256 (RFC 2104) of the text in UTF-8.';

CREATE FUNCTION crm._token_secret() RETURNS bytea
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
RETURN uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
COMMENT ON FUNCTION crm._token_secret() IS
'A new secret of 48 bytes, 366 of its bits from the server''s strong random source.';

CREATE FUNCTION crm._base64url(data bytea) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN translate(encode(data, 'base64'), E'+/=\n', '-_');
COMMENT ON FUNCTION crm._base64url(bytea) IS
'Unpadded base64url (RFC 4648 section 5).';

CREATE FUNCTION crm.issue_token(workspace regnamespace, member_id bigint, lifetime interval DEFAULT '15 minutes', role name DEFAULT NULL)
RETURNS text LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    secret bytea;
    content text;
BEGIN
    IF workspace IS NULL OR member_id IS NULL OR lifetime IS NULL THEN
        RAISE EXCEPTION 'workspace, member and lifetime must not be null'
            USING ERRCODE = 'null_value_not_allowed';
    ELSIF lifetime <= interval '0' OR lifetime > interval '30 days' THEN
        RAISE EXCEPTION 'lifetime of a token must be between 0 and 30 days'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF NOT crm.is_workspace(workspace) THEN
        RAISE EXCEPTION 'schema "%" is not a crm workspace', workspace
            USING ERRCODE = 'invalid_schema_name';
    END IF;
    EXECUTE format('SELECT k.secret FROM %s.token_key AS k ORDER BY k.id DESC LIMIT 1', workspace) INTO secret;
    IF secret IS NULL THEN
        RAISE EXCEPTION 'workspace "%" has no key to sign tokens with', workspace
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'The owner of the workspace makes one with crm.rotate_token_key().';
    END IF;
    content := crm._base64url(convert_to('{"alg":"HS256","typ":"JWT"}', 'UTF8')) || '.'
               || crm._base64url(convert_to(jsonb_strip_nulls(jsonb_build_object(
                      'sub', (SELECT n.nspname FROM pg_namespace AS n WHERE n.oid = workspace) || '/' || member_id,
                      'aud', current_database(),
                      'iat', floor(extract(epoch FROM statement_timestamp())),
                      'exp', ceil(extract(epoch FROM statement_timestamp() + lifetime)),
                      'role', role))::text, 'UTF8'));
    RETURN content || '.' || crm._base64url(crm._token_signature(secret, content));
END
$$;
COMMENT ON FUNCTION crm.issue_token(regnamespace, bigint, interval, name) IS
'A signed token for crm.token: the session that sets it acts for the member until lifetime is over (at most 30 days); with role, only a session with that user or current role. For the owner of the workspace, who alone reads the key.';

CREATE FUNCTION crm.rotate_token_key(workspace regnamespace, keep_previous boolean DEFAULT false)
RETURNS void LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('DELETE FROM %1$s.token_key AS k WHERE NOT $1 OR k.id < (SELECT max(l.id) FROM %1$s.token_key AS l)', workspace)
    USING keep_previous;
    EXECUTE format('INSERT INTO %s.token_key (secret) VALUES (crm._token_secret())', workspace);
END
$$;
COMMENT ON FUNCTION crm.rotate_token_key(regnamespace, boolean) IS
'Makes a new key to sign tokens with. Tokens signed with earlier keys are no longer good, but for those of the last one if keep_previous is true. For the owner of the workspace, and after a database was copied.';

-- The rule, for policies: what the session's member may do with a record, by its
-- owner, hierarchy, teams and shares.  STABLE and never IMMUTABLE: the answer is
-- another one for the next person on the same connection.

CREATE FUNCTION crm._can_support(internal) RETURNS internal
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'crm_can_support';
COMMENT ON FUNCTION crm._can_support(internal) IS
'Planner support of can_read(), can_edit(), can_assign() and can_delete(): replaces the rule by tests that suit who asks.';

CREATE FUNCTION crm._owner_support(internal) RETURNS internal
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'crm_owner_support';
COMMENT ON FUNCTION crm._owner_support(internal) IS
'Planner support of _owner_in_scope(): selectivity and index condition.';

CREATE FUNCTION crm._record_support(internal) RETURNS internal
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'crm_record_support';
COMMENT ON FUNCTION crm._record_support(internal) IS
'Planner support of _record_in_scope(): selectivity and index condition.';

CREATE FUNCTION crm._rowless_support(internal) RETURNS internal
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'crm_rowless_support';
COMMENT ON FUNCTION crm._rowless_support(internal) IS
'Planner support of _all_in_scope() and _unowned_in_scope(): selectivity.';

CREATE FUNCTION crm.can_read(workspace regnamespace, kind text, owner_id bigint, id bigint) RETURNS boolean
LANGUAGE C STABLE PARALLEL SAFE SUPPORT crm._can_support AS 'MODULE_PATHNAME', 'crm_can_read';
COMMENT ON FUNCTION crm.can_read(regnamespace, text, bigint, bigint) IS
'May the session''s member read the record with this owner (NULL: none) and id? Own records, those of everyone below, of teammates if the team allows, those shared, and those without an owner if the workspace allows.';

CREATE FUNCTION crm.can_edit(workspace regnamespace, kind text, owner_id bigint, id bigint) RETURNS boolean
LANGUAGE C STABLE PARALLEL SAFE SUPPORT crm._can_support AS 'MODULE_PATHNAME', 'crm_can_edit';
COMMENT ON FUNCTION crm.can_edit(regnamespace, text, bigint, bigint) IS
'May the session''s member edit the record with this owner (NULL: none) and id? Whoever may edit may read.';

CREATE FUNCTION crm.can_assign(workspace regnamespace, owner_id bigint) RETURNS boolean
LANGUAGE C STABLE PARALLEL SAFE SUPPORT crm._can_support AS 'MODULE_PATHNAME', 'crm_can_assign';
COMMENT ON FUNCTION crm.can_assign(regnamespace, bigint) IS
'May the session''s member give a record to this owner (NULL: none)? To those whose records one may edit.';

CREATE FUNCTION crm.can_delete(workspace regnamespace, owner_id bigint) RETURNS boolean
LANGUAGE C STABLE PARALLEL SAFE SUPPORT crm._can_support AS 'MODULE_PATHNAME', 'crm_can_delete';
COMMENT ON FUNCTION crm.can_delete(regnamespace, bigint) IS
'Does the session''s member have the owner''s rights over records of this owner: to delete, transfer and share them? Over one''s own and those of everyone below.';

-- What the planner puts in the rule's place.  Level is read, edit or own.

CREATE FUNCTION crm._owner_in_scope(workspace regnamespace, level text, unshared_kind text, owner_id bigint) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE SUPPORT crm._owner_support AS 'MODULE_PATHNAME', 'crm_owner_in_scope';
COMMENT ON FUNCTION crm._owner_in_scope(regnamespace, text, text, bigint) IS
'Is the level open to the session''s member by the record''s owner? Errors (serialization_failure) if records of unshared_kind are shared with the member: the plan was made for somebody else. Empty unshared_kind: no such check.';

CREATE FUNCTION crm._unowned_in_scope(workspace regnamespace, level text) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE SUPPORT crm._rowless_support AS 'MODULE_PATHNAME', 'crm_unowned_in_scope';
COMMENT ON FUNCTION crm._unowned_in_scope(regnamespace, text) IS
'Is the level open to the session''s member for records without an owner?';

CREATE FUNCTION crm._record_in_scope(workspace regnamespace, level text, kind text, id bigint) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE SUPPORT crm._record_support AS 'MODULE_PATHNAME', 'crm_record_in_scope';
COMMENT ON FUNCTION crm._record_in_scope(regnamespace, text, text, bigint) IS
'Is the level open to the session''s member because this record was shared?';

CREATE FUNCTION crm._all_in_scope(workspace regnamespace, level text) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE SUPPORT crm._rowless_support AS 'MODULE_PATHNAME', 'crm_all_in_scope';
COMMENT ON FUNCTION crm._all_in_scope(regnamespace, text) IS
'Is the level open to the session''s member for every record? False for nobody, and an error (serialization_failure) for anybody else it is not: the plan was made for somebody else.';

CREATE FUNCTION crm._scope_owners(workspace regnamespace, level text, unshared_kind text) RETURNS bigint[]
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_scope_owners';
COMMENT ON FUNCTION crm._scope_owners(regnamespace, text, text) IS
'The owners whose records are open to the session''s member, for index searches.';

CREATE FUNCTION crm._scope_records(workspace regnamespace, level text, kind text) RETURNS bigint[]
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_scope_records';
COMMENT ON FUNCTION crm._scope_records(regnamespace, text, text) IS
'The records of a kind that were shared with the session''s member, for index searches.';

CREATE FUNCTION crm.can_read_all(workspace regnamespace) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_can_read_all';
COMMENT ON FUNCTION crm.can_read_all(regnamespace) IS
'May the session''s member read every record? Those with access read_all or all.';

CREATE FUNCTION crm.is_administrator(workspace regnamespace) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_is_administrator';
COMMENT ON FUNCTION crm.is_administrator(regnamespace) IS
'May the session''s member do everything in the workspace? Those with access all.';

CREATE FUNCTION crm._record_tables_read() RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'crm_record_tables_read';
COMMENT ON FUNCTION crm._record_tables_read() IS
'How often this session looked up in the catalogs which table has the records of a kind: tests watch it.';

CREATE FUNCTION crm._record_in_reach(workspace regnamespace, kind text, id bigint, level text) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'crm_record_in_reach';
COMMENT ON FUNCTION crm._record_in_reach(regnamespace, text, bigint, text) IS
'May the caller read (level read) or change (level edit) the record of a kind, in a table of the workspace? False also where there is none. Policies of tables whose rows belong to records ask it.';

-- Policies.

CREATE FUNCTION crm.refuse_transfer() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'permission denied to change the owner of % %', TG_ARGV[0], to_jsonb(OLD) ->> TG_ARGV[2]
        USING ERRCODE = 'insufficient_privilege', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = TG_ARGV[1],
              DETAIL = 'An owner may be changed by whoever has the owner''s rights over the record, to a member whose records they may edit.',
              HINT = 'To give a record to anyone else, use the function transfer() of the workspace.';
END
$$;
COMMENT ON FUNCTION crm.refuse_transfer() IS
'Trigger of protect(): its WHEN clause tells which changes of the owner are refused. Arguments: kind, owner column, id column.';

CREATE FUNCTION crm._protect(table_name regclass, kind text, owner_column name, id_column name, workspace regnamespace)
RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
    ws regnamespace := coalesce(workspace, (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = table_name));
    missing name;
    rule text;
    assign text;
    own text;
    hand_over regprocedure;
BEGIN
    IF table_name IS NULL OR kind IS NULL OR owner_column IS NULL OR id_column IS NULL THEN
        RAISE EXCEPTION 'table, kind and columns must not be null'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- A longer one makes every look at the table slow: it is an argument of its triggers.
    IF octet_length(kind) > 512 THEN
        RAISE EXCEPTION 'name of a kind of record is too long' USING ERRCODE = 'name_too_long';
    END IF;
    IF NOT crm.is_workspace(ws) THEN
        RAISE EXCEPTION 'schema "%" is not a crm workspace', ws
            USING ERRCODE = 'invalid_schema_name',
                  HINT = 'Name the workspace whose members use the table.';
    END IF;
    SELECT w.name INTO missing
    FROM unnest(ARRAY[owner_column, id_column]) AS w (name)
    WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                      WHERE a.attrelid = table_name AND a.attname = w.name AND a.atttypid = 'bigint'::regtype AND NOT a.attisdropped);
    IF FOUND THEN
        RAISE EXCEPTION 'table "%" has no column "%" of type bigint', table_name, missing
            USING ERRCODE = 'undefined_column';
    END IF;

    rule := format('%L::regnamespace, %L, %I, %I)', ws, kind, owner_column, id_column);
    own := format('crm.can_delete(%L::regnamespace, ', ws);
    assign := format('crm.can_assign(%L::regnamespace, ', ws);
    EXECUTE format('DROP POLICY IF EXISTS crm_read ON %1$s;
                    DROP POLICY IF EXISTS crm_insert ON %1$s;
                    DROP POLICY IF EXISTS crm_update ON %1$s;
                    DROP POLICY IF EXISTS crm_delete ON %1$s;
                    CREATE POLICY crm_read ON %1$s FOR SELECT USING (crm.can_read(%2$s);
                    CREATE POLICY crm_insert ON %1$s FOR INSERT WITH CHECK (%3$s %6$I));
                    CREATE POLICY crm_update ON %1$s FOR UPDATE USING (crm.can_edit(%2$s) WITH CHECK (crm.can_edit(%2$s);
                    CREATE POLICY crm_delete ON %1$s FOR DELETE USING (%4$s %6$I));
                    ALTER TABLE %1$s ENABLE ROW LEVEL SECURITY;
                    CREATE OR REPLACE TRIGGER crm_refuse_transfer BEFORE UPDATE OF %6$I ON %1$s FOR EACH ROW
                        WHEN (OLD.%6$I IS DISTINCT FROM NEW.%6$I
                              AND row_security_active(%5$L::regclass::oid)
                              AND NOT ((%4$s OLD.%6$I) OR OLD.%6$I IS NULL AND %3$s OLD.%6$I)) AND %3$s NEW.%6$I)))
                        EXECUTE FUNCTION crm.refuse_transfer(%7$L, %6$L, %8$L)',
                   table_name, rule, assign, own, table_name, owner_column, kind, id_column);
    -- It writes with the rights of the workspace's owner, so only they attach it.
    hand_over := to_regprocedure(format('%s.hand_over()', ws));
    IF has_function_privilege(hand_over, 'EXECUTE') AND table_name <> to_regclass(format('%s.reminder', ws)) THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER crm_hand_over AFTER UPDATE OF %2$I ON %1$s FOR EACH ROW
                            WHEN (OLD.%2$I <> NEW.%2$I) EXECUTE FUNCTION %3$s.hand_over(%4$L, %2$L, %5$L)',
                       table_name, owner_column, ws, kind, id_column);
    END IF;
END
$$;
COMMENT ON FUNCTION crm._protect(regclass, text, name, name, regnamespace) IS
'What crm.protect() does to the table itself. Errors: 42622 if the kind is longer than 512 bytes.';

CREATE FUNCTION crm._trigger_arguments(tgargs bytea) RETURNS text[]
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_trigger_arguments';
COMMENT ON FUNCTION crm._trigger_arguments(bytea) IS
'The arguments of a trigger, from pg_trigger.tgargs.';

-- The table a kind of record is in: the one that protect() was given.  Found by the
-- trigger and by the policies' dependency on the workspace, so that nothing is
-- stored that a rename would make wrong.
CREATE FUNCTION crm._record_tables(workspace regnamespace, OUT kind text, OUT rel regclass, OUT owner_column name, OUT id_column name)
RETURNS SETOF record LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT a.args[1], t.tgrelid, a.args[2], a.args[3]
FROM pg_trigger AS t
CROSS JOIN LATERAL crm._trigger_arguments(t.tgargs) AS a (args)
WHERE t.tgfoid = 'crm.refuse_transfer()'::regprocedure
  AND NOT t.tgisinternal
  AND EXISTS (SELECT FROM pg_policy AS p
              JOIN pg_depend AS d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
              WHERE p.polrelid = t.tgrelid AND p.polname = 'crm_read'
                AND d.refclassid = 'pg_namespace'::regclass AND d.refobjid = workspace)
$$;
COMMENT ON FUNCTION crm._record_tables(regnamespace) IS
'The kinds of records of a workspace and their tables, as given to protect().';

CREATE FUNCTION crm._policy(rel regclass, name name, command text, using_rule text, check_rule text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    EXECUTE format('DROP POLICY IF EXISTS %I ON %s', name, rel);
    EXECUTE format('CREATE POLICY %I ON %s FOR %s', name, rel, command)
            || coalesce(' USING (' || using_rule || ')', '') || coalesce(' WITH CHECK (' || check_rule || ')', '');
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', rel);
END
$$;
COMMENT ON FUNCTION crm._policy(regclass, name, text, text, text) IS
'Makes a row-level security policy anew and enables row-level security on its table.';

CREATE FUNCTION crm._policy_write(rel regclass, rule text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- None for ALL: reading has a rule of its own, and would be asked this one as well.
    SELECT crm._policy(rel, 'crm_insert', 'INSERT', NULL, rule);
    SELECT crm._policy(rel, 'crm_update', 'UPDATE', rule, rule);
    SELECT crm._policy(rel, 'crm_delete', 'DELETE', rule, NULL);
END;
COMMENT ON FUNCTION crm._policy_write(regclass, text) IS
'Makes the row-level security policies anew by which a table is written.';

CREATE FUNCTION crm._record_rule(workspace regnamespace, rel name, reference name, level text) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
RETURN format('crm._record_in_reach(%1$L::regnamespace, %2$I.kind, %2$I.%3$I, %4$L)', workspace, rel, reference, level);
COMMENT ON FUNCTION crm._record_rule(regnamespace, name, name, text) IS
'The text of a rule for rows of a table that refer to a record by the columns kind and reference: the record is visible (read) or may be edited (edit).';

CREATE FUNCTION crm._protect_references(workspace regnamespace) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    everything text := format('(SELECT crm.can_read_all(%L::regnamespace) OR has_column_privilege(%L::regclass, ''auditor'', ''SELECT''))',
                                workspace, workspace || '.access_kind');
    rel regclass;
    item record;
    pair text;
BEGIN
    -- What belongs to a record is as visible as the record.
    FOR item IN
        SELECT c.oid::regclass AS rel, w.name, w.writable
        FROM (VALUES ('stage_history', false), ('external_reference', true), ('duplicate_cluster', true),
                     ('escalation', false)) AS w (name, writable)
        JOIN pg_class AS c ON c.relname = w.name AND c.relnamespace = workspace
    LOOP
        PERFORM crm._policy(item.rel, 'crm_read', 'SELECT', format('%s OR %s', everything, crm._record_rule(workspace, item.name, 'record_id', 'read')), NULL);
        IF item.writable THEN
            PERFORM crm._policy_write(item.rel, crm._record_rule(workspace, item.name, 'record_id', 'edit'));
        END IF;
    END LOOP;
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'duplicate_pair' AND c.relnamespace = workspace LOOP
        pair := format('(%s) AND (%s)', crm._record_rule(workspace, 'duplicate_pair', 'left_id', 'read'),
                       crm._record_rule(workspace, 'duplicate_pair', 'right_id', 'read'));
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', pair, NULL);
        PERFORM crm._policy_write(rel, format('(%s) AND (%s)', crm._record_rule(workspace, 'duplicate_pair', 'left_id', 'edit'),
                                              crm._record_rule(workspace, 'duplicate_pair', 'right_id', 'edit')));
    END LOOP;
    IF to_regclass(format('%s.duplicate_review', workspace)) IS NOT NULL THEN
        PERFORM crm._create_review(workspace);
    END IF;
END
$$;
COMMENT ON FUNCTION crm._protect_references(regnamespace) IS
'Makes the policies anew of the tables of a workspace whose rows belong to records, which depend on the kinds of records there are.';

CREATE FUNCTION crm.protect(table_name regclass, kind text, owner_column name DEFAULT 'owner_id', id_column name DEFAULT 'id', workspace regnamespace DEFAULT NULL)
RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM crm._protect(table_name, kind, owner_column, id_column, workspace);
    -- What belongs to records of a new kind is seen by those who see the records.
    IF EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE c.oid = table_name AND pg_has_role(n.nspowner, 'USAGE') AND crm.is_workspace(n.oid)) THEN
        PERFORM crm._protect_references((SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = table_name));
    END IF;
END
$$;
COMMENT ON FUNCTION crm.protect(regclass, text, name, name, regnamespace) IS
'Puts the access rules of a workspace (default: the table''s schema) on a table: row-level security policies by the owner, a bigint column that holds a member''s id, and by shares of the kind. Running it again makes them anew. The caller must own the table; where that is not the workspace''s owner, what was planned about a record does not follow a new owner.';

CREATE FUNCTION crm._protect_workspace(workspace regnamespace) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ws text := format('%L::regnamespace', workspace);
    member text := format('crm.member_id(%s) IS NOT NULL', ws);
    administrator text := format('crm.is_administrator(%s)', ws);
    everything text := format('(SELECT crm.can_read_all(%s) OR has_column_privilege(%L::regclass, ''auditor'', ''SELECT''))',
                                ws, workspace || '.access_kind');
    rel regclass;
    item record;
    pair text;
BEGIN
    -- Records have owners.
    FOR item IN
        SELECT c.oid::regclass AS rel, c.relname AS kind, w.owner_column
        FROM (VALUES ('account', 'owner_id'), ('contact', 'owner_id'), ('lead', 'owner_id'), ('opportunity', 'owner_id'),
                     ('activity', 'owner_id'), ('reminder', 'member_id')) AS w (name, owner_column)
        JOIN pg_class AS c ON c.relname = w.name AND c.relnamespace = workspace
    LOOP
        PERFORM crm._protect(item.rel, item.kind, item.owner_column, 'id', workspace);
    END LOOP;

    PERFORM crm._protect_references(workspace);

    -- An inbox is its member's; those above read along.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'event' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', format('crm.can_delete(%s, member_id)', ws), NULL);
        PERFORM crm._policy(rel, 'crm_update', 'UPDATE', format('member_id = crm.member_id(%s)', ws),
                            format('member_id = crm.member_id(%s)', ws));
        PERFORM crm._policy(rel, 'crm_delete', 'DELETE', format('member_id = crm.member_id(%s)', ws), NULL);
    END LOOP;

    -- So is what a system reads for its member.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'event_consumer' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_own', 'ALL', format('member_id = crm.member_id(%s)', ws), format('member_id = crm.member_id(%s)', ws));
    END LOOP;
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'event_failure' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', format('consumer_id IN (SELECT c.id FROM %s.event_consumer AS c)', workspace), NULL);
    END LOOP;

    -- Why its member was not told is for who may read the event.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'event_hold' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', format('crm.can_delete(%s, member_id)', ws), NULL);
    END LOOP;

    -- Members say when they are away, and their managers for them; everybody sees who stands in.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'absence' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', member, NULL);
        pair := format('crm.can_delete(%s, member_id)', ws);
        PERFORM crm._policy(rel, 'crm_write', 'ALL', pair, pair);
    END LOOP;
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'follower' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', format('%s OR crm.can_delete(%s, member_id) OR %s', everything, ws,
                                                              crm._record_rule(workspace, 'follower', 'record_id', 'read')), NULL);
    END LOOP;

    -- Members say for themselves when they want to be left alone; conditions, which
    -- run as the owner, are the owner's.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'attention_rule' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', member, NULL);
        pair := format('condition IS NULL AND (%s OR member_id = crm.member_id(%s) AND position >= 1000)', administrator, ws);
        PERFORM crm._policy(rel, 'crm_write', 'ALL', pair, pair);
    END LOOP;

    -- A clock is as visible as its record, also one of a table elsewhere.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'sla_clock' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', format('%s OR crm.can_read(%s, kind, owner_id, record_id)', everything, ws), NULL);
    END LOOP;

    -- A share is its parties'.
    rel := format('%s.share', workspace)::regclass;
    PERFORM crm._policy(rel, 'crm_read', 'SELECT',
                        format('%1$s OR member_id = crm.member_id(%2$s) OR crm.can_delete(%2$s, granted_by)
                                OR team_id IN (SELECT tm.team_id FROM %3$s.team_member AS tm WHERE tm.member_id = crm.member_id(%2$s))
                                OR %4$s',
                               everything, ws, workspace, crm._record_rule(workspace, 'share', 'record_id', 'edit')), NULL);
    PERFORM crm._policy(rel, 'crm_write', 'ALL', administrator, administrator);

    -- Bookkeeping is for auditors and those who read everything; the database writes it.
    FOR rel IN
        SELECT c.oid FROM pg_class AS c
        WHERE c.relnamespace = workspace AND c.relkind IN ('r', 'p')
          AND c.relname IN ('audit_log', 'audit_seal', 'merge_change', 'merged_record', 'duplicate_log')
    LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', everything, NULL);
    END LOOP;

    -- One's own merges, and those of everyone below, to undo them.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'merge_log' AND c.relnamespace = workspace LOOP
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', format('%s OR crm.can_delete(%s, merged_by)', everything, ws), NULL);
    END LOOP;

    -- Whoever asks for a merge, those above, and who may agree.
    FOR rel IN SELECT c.oid FROM pg_class AS c WHERE c.relname = 'merge_request' AND c.relnamespace = workspace LOOP
        pair := format('%1$s OR crm.can_delete(%2$s, requested_by) OR crm._may_approve_merge(%2$s, kind, loser_ids || survivor_id, ''owner'')', everything, ws);
        PERFORM crm._policy(rel, 'crm_read', 'SELECT', pair, NULL);
        PERFORM crm._policy(rel, 'crm_insert', 'INSERT', NULL, format('requested_by = crm.member_id(%s)', ws));
        PERFORM crm._policy(rel, 'crm_update', 'UPDATE', pair, 'true');
    END LOOP;

    -- The secrets are for the owner alone.
    EXECUTE format('ALTER TABLE %s.token_key ENABLE ROW LEVEL SECURITY', workspace);

    -- Every other table that roles are given: members read it, administrators maintain it.
    FOR rel IN
        SELECT c.oid
        FROM pg_class AS c
        JOIN crm._access_list() AS l ON l.class = 'table' AND l.name = c.relname
        WHERE c.relnamespace = workspace AND c.relkind IN ('r', 'p') AND c.relname <> 'crm_meta'
          AND (NOT c.relrowsecurity
               OR EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND p.polname = 'crm_member_read'))
    LOOP
        PERFORM crm._policy(rel, 'crm_member_read', 'SELECT', member, NULL);
        PERFORM crm._policy(rel, 'crm_administrator_write', 'ALL', administrator, administrator);
    END LOOP;
END
$$;
COMMENT ON FUNCTION crm._protect_workspace(regnamespace) IS
'Makes the policies of the tables that crm made in a workspace anew, and none on others.';

-- Cycles in a tree.

CREATE FUNCTION crm.refuse_cycle() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_refuse_cycle';
COMMENT ON FUNCTION crm.refuse_cycle() IS
'AFTER ROW trigger that refuses (check_violation) a row that is its own ancestor, also where two sessions make one together: whoever moves a row waits for others who have moved one of the same table. Who inserts rows waits for nobody, for which the column needs its foreign key. Argument: the column that refers to column id, an integer, of the row above.';

-- What the functions can(), transfer(), share_record() and unshare() of a workspace
-- do.  They run as the workspace's owner and ask themselves what the session's
-- member may do.

-- Who calls a SECURITY DEFINER function is whom SET ROLE named, or who logged in.
CREATE FUNCTION crm._caller() RETURNS oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = CASE current_setting('role') WHEN 'none' THEN session_user::text ELSE current_setting('role') END);
COMMENT ON FUNCTION crm._caller() IS
'The role of the session as seen from outside SECURITY DEFINER functions.';

CREATE FUNCTION crm._called_by_owner(workspace regnamespace) RETURNS boolean
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT crm.member_id(workspace) IS NULL
       AND coalesce((SELECT pg_has_role(crm._caller(), n.nspowner, 'USAGE')
                     FROM pg_namespace AS n WHERE n.oid = workspace), false)
$$;
COMMENT ON FUNCTION crm._called_by_owner(regnamespace) IS
'Whether the session acts for no member and is that of the workspace''s owner, or of a role that has the owner''s rights, seen from outside SECURITY DEFINER functions.';

CREATE FUNCTION crm._record_owner(workspace regnamespace, kind text, id bigint, OUT is_there boolean, OUT owner_id bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
BEGIN
    SELECT * INTO t FROM crm._record_tables(workspace) AS r WHERE r.kind = _record_owner.kind;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'unrecognized kind of record: "%"', kind
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Kinds of this workspace are %s.',
                                (SELECT string_agg(r.kind, ', ' ORDER BY r.kind) FROM crm._record_tables(workspace) AS r));
    END IF;
    EXECUTE format('SELECT true, r.%I FROM %s AS r WHERE r.%I = $1', t.owner_column, t.rel, t.id_column)
    INTO is_there, owner_id USING id;
    is_there := coalesce(is_there, false);
END
$$;
COMMENT ON FUNCTION crm._record_owner(regnamespace, text, bigint) IS
'Whether a record exists and who owns it. Errors if the kind is unknown.';

CREATE FUNCTION crm._access_path(workspace regnamespace, member_id bigint, kind text, id bigint, owner_id bigint,
                                 OUT level integer, OUT reason text)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE format($query$
        WITH RECURSIVE
        me AS (SELECT m.* FROM %1$s.member AS m WHERE m.id = $1),
        above (id, manager_id, depth) AS (
            SELECT m.id, m.manager_id, 0 FROM %1$s.member AS m WHERE m.id = $4 UNION
            SELECT m.id, m.manager_id, a.depth + 1 FROM above AS a JOIN %1$s.member AS m ON m.id = a.manager_id
            WHERE a.depth < 10000),
        my_team (id) AS (
            SELECT tm.team_id FROM %1$s.team_member AS tm WHERE tm.member_id = $1 UNION
            SELECT t.parent_id FROM my_team AS y JOIN %1$s.team AS t ON t.id = y.id WHERE t.parent_id IS NOT NULL),
        owner_team (id) AS (
            SELECT tm.team_id FROM %1$s.team_member AS tm WHERE tm.member_id = $4 UNION
            SELECT t.parent_id FROM owner_team AS y JOIN %1$s.team AS t ON t.id = y.id WHERE t.parent_id IS NOT NULL)
        SELECT p.level, p.reason FROM (
            SELECT 3, CASE WHEN m.id = $4 THEN 'owns it' ELSE NULL END FROM me AS m
            UNION ALL
            SELECT 3, format('manages the owner, %%s', o.name)
            FROM %1$s.member AS o WHERE o.id = $4 AND $1 <> $4 AND EXISTS (SELECT FROM above AS a WHERE a.id = $1)
            UNION ALL
            SELECT CASE m.access WHEN 'all' THEN 3 ELSE 1 END, format('has access %%s', m.access)
            FROM me AS m WHERE m.access IN ('all', 'read_all')
            UNION ALL
            SELECT CASE t.record_access WHEN 'edit' THEN 2 ELSE 1 END, format('is in team %%s with the owner', t.name)
            FROM %1$s.team AS t
            WHERE t.record_access IN ('read', 'edit')
              AND EXISTS (SELECT FROM my_team AS y WHERE y.id = t.id) AND EXISTS (SELECT FROM owner_team AS y WHERE y.id = t.id)
            UNION ALL
            SELECT CASE s.access WHEN 'edit' THEN 2 ELSE 1 END,
                   format('it is shared%%s%%s', ' with team ' || t.name, to_char(s.expires_at, '" until "YYYY-MM-DD HH24:MI TZH'))
            FROM %1$s.share AS s
            LEFT JOIN %1$s.team AS t ON t.id = s.team_id
            WHERE s.kind = $2 AND s.record_id = $3
              AND (s.member_id = $1 OR EXISTS (SELECT FROM my_team AS y WHERE y.id = s.team_id))
              AND (s.expires_at IS NULL OR s.expires_at > statement_timestamp())
            UNION ALL
            SELECT CASE s.value WHEN 'edit' THEN 2 ELSE 1 END, 'it has no owner'
            FROM %1$s.setting AS s
            WHERE s.name = 'unowned_access' AND s.value IN ('read', 'edit') AND $4 IS NULL) AS p (level, reason)
        WHERE p.reason IS NOT NULL AND EXISTS (SELECT FROM me AS m WHERE m.active)
        ORDER BY p.level DESC, p.reason$query$, workspace)
    USING member_id, kind, id, owner_id;
END
$$;
COMMENT ON FUNCTION crm._access_path(regnamespace, bigint, text, bigint, bigint) IS
'Every reason why a member has access to a record, best first: level 1 read, 2 edit, 3 owner''s rights. The rule once more, in SQL and for one record.';

CREATE FUNCTION crm._can(workspace regnamespace, member_id bigint, action text, kind text, id bigint,
                         OUT allowed boolean, OUT reason text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    needed integer := CASE action WHEN 'read' THEN 1 WHEN 'edit' THEN 2
                                  WHEN 'delete' THEN 3 WHEN 'transfer' THEN 3 WHEN 'share' THEN 3 END;
    rec record;
    best record;
    person record;
BEGIN
    IF needed IS NULL THEN
        RAISE EXCEPTION 'unrecognized action: "%"', action
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Actions are read, edit, delete, transfer and share.';
    END IF;
    IF (crm.can_delete(workspace, member_id) AND member_id IS NOT NULL OR crm.can_read_all(workspace)
        OR crm._called_by_owner(workspace)) IS NOT TRUE THEN
        RAISE EXCEPTION 'permission denied to ask what member % may do', member_id
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Members ask about themselves and everyone below them.';
    END IF;
    EXECUTE format('SELECT m.name, m.active FROM %s.member AS m WHERE m.id = $1', workspace) INTO person USING member_id;
    IF person.active IS NOT TRUE THEN
        allowed := false;
        reason := CASE WHEN person.name IS NULL THEN format('member %s does not exist', member_id)
                       ELSE format('%s is not active', person.name) END;
        RETURN;
    END IF;

    SELECT * INTO rec FROM crm._record_owner(workspace, kind, id) AS r;
    SELECT * INTO best FROM crm._access_path(workspace, member_id, kind, id, rec.owner_id) AS p LIMIT 1;
    -- Claiming is a transfer to oneself.
    IF action = 'transfer' AND rec.is_there AND rec.owner_id IS NULL THEN
        needed := 2;
    END IF;
    allowed := rec.is_there AND best.level >= needed;
    IF NOT rec.is_there OR best.level IS NULL THEN
        allowed := false;
        reason := format('%s %s does not exist or is not visible to %s', kind, id, person.name);
    ELSIF allowed THEN
        reason := format('%s: %s', person.name, best.reason);
    ELSE
        reason := format('%s may only %s: %s', person.name, (ARRAY['read', 'read and edit'])[best.level], best.reason);
    END IF;
END
$$;
COMMENT ON FUNCTION crm._can(regnamespace, bigint, text, text, bigint) IS
'What can() of a workspace does.';

CREATE FUNCTION crm._check_own(workspace regnamespace, action text, kind text, id bigint, unowned_too boolean) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rec record;
BEGIN
    SELECT * INTO rec FROM crm._record_owner(workspace, kind, id) AS r;
    IF rec.is_there AND (crm.can_delete(workspace, rec.owner_id)
                         OR unowned_too AND rec.owner_id IS NULL AND crm.can_assign(workspace, NULL)
                         OR crm._called_by_owner(workspace)) THEN
        RETURN;
    END IF;
    IF rec.is_there AND crm.can_read(workspace, kind, rec.owner_id, id) THEN
        RAISE EXCEPTION 'permission denied to % % %', action, kind, id
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'This is for the owner of the record and those above.';
    END IF;
    RAISE EXCEPTION '% % does not exist or is not visible', kind, id
        USING ERRCODE = 'no_data_found';
END
$$;
COMMENT ON FUNCTION crm._check_own(regnamespace, text, text, bigint, boolean) IS
'Errors unless the session''s member has the owner''s rights over the record, or the workspace''s owner asks. A hidden record and one that does not exist raise the same error.';

CREATE FUNCTION crm._check_member(workspace regnamespace, member_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    active boolean;
BEGIN
    EXECUTE format('SELECT m.active FROM %s.member AS m WHERE m.id = $1 FOR KEY SHARE', workspace) INTO active USING member_id;
    IF active IS NULL THEN
        RAISE EXCEPTION 'member % does not exist', member_id
            USING ERRCODE = 'no_data_found';
    ELSIF NOT active THEN
        RAISE EXCEPTION 'member % is not active', member_id
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$;
COMMENT ON FUNCTION crm._check_member(regnamespace, bigint) IS
'Errors unless the member exists and is active.';

CREATE FUNCTION crm._transfer(workspace regnamespace, kind text, ids bigint[], to_member bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    id bigint;
    moved bigint;
BEGIN
    IF ids IS NULL OR to_member IS NULL OR array_position(ids, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'records and member must not be null'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM crm._record_owner(workspace, kind, 0);
    PERFORM crm._check_member(workspace, to_member);
    SELECT * INTO t FROM crm._record_tables(workspace) AS r WHERE r.kind = _transfer.kind;
    -- In the order of ids, so that two transfers wait for each other instead of deadlocking.
    EXECUTE format('SELECT count(*) FROM (SELECT FROM %1$s AS r WHERE r.%2$I = ANY ($1) ORDER BY r.%2$I FOR NO KEY UPDATE) AS locked', t.rel, t.id_column)
    USING ids;
    FOR id IN SELECT DISTINCT i FROM unnest(ids) AS i ORDER BY i LOOP
        PERFORM crm._check_own(workspace, 'transfer', kind, id, true);
    END LOOP;
    EXECUTE format('UPDATE %s AS r SET %I = $2 WHERE r.%I = ANY ($1)', t.rel, t.owner_column, t.id_column)
    USING ids, to_member;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION crm._transfer(regnamespace, text, bigint[], bigint) IS
'What transfer() of a workspace does.';

CREATE FUNCTION crm._share_record(workspace regnamespace, kind text, id bigint, member_id bigint, team_id bigint,
                                  access text, expires_at timestamptz, reason text) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    share_id bigint;
BEGIN
    IF num_nonnulls(member_id, team_id) <> 1 THEN
        RAISE EXCEPTION 'a record is shared with either a member or a team'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF access IS NULL OR access NOT IN ('read', 'edit') THEN
        RAISE EXCEPTION 'unrecognized access: "%"', access
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A record is shared to read or to edit.';
    ELSIF expires_at <= statement_timestamp() THEN
        RAISE EXCEPTION 'a share cannot expire in the past'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM crm._check_own(workspace, 'share', kind, id, false);
    IF member_id IS NOT NULL THEN
        PERFORM crm._check_member(workspace, member_id);
    END IF;
    EXECUTE format('INSERT INTO %s.share AS s (kind, record_id, member_id, team_id, access, expires_at, granted_by, reason)
                    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                    ON CONFLICT (kind, record_id, %I) DO UPDATE
                    SET access = excluded.access, expires_at = excluded.expires_at, granted_by = excluded.granted_by, reason = excluded.reason
                    RETURNING s.id',
                   workspace, CASE WHEN member_id IS NULL THEN 'team_id' ELSE 'member_id' END)
    INTO share_id USING kind, id, member_id, team_id, access, expires_at, crm.member_id(workspace), reason;
    RETURN share_id;
END
$$;
COMMENT ON FUNCTION crm._share_record(regnamespace, text, bigint, bigint, bigint, text, timestamptz, text) IS
'What share_record() of a workspace does.';

CREATE FUNCTION crm._unshare(workspace regnamespace, kind text, id bigint, member_id bigint, team_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me bigint := crm.member_id(workspace);
    share record;
BEGIN
    IF num_nonnulls(member_id, team_id) <> 1 THEN
        RAISE EXCEPTION 'a record is shared with either a member or a team'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    EXECUTE format('SELECT s.id, s.granted_by, s.member_id FROM %s.share AS s
                    WHERE s.kind = $1 AND s.record_id = $2 AND (s.member_id = $3 OR s.team_id = $4) FOR UPDATE', workspace)
    INTO share USING kind, id, member_id, team_id;
    IF me IS NULL OR me NOT IN (coalesce(share.granted_by, 0), coalesce(share.member_id, 0)) THEN
        PERFORM crm._check_own(workspace, 'unshare', kind, id, false);
    END IF;
    EXECUTE format('DELETE FROM %s.share AS s WHERE s.id = $1', workspace) USING share.id;
    RETURN share.id IS NOT NULL;
END
$$;
COMMENT ON FUNCTION crm._unshare(regnamespace, text, bigint, bigint, bigint) IS
'What unshare() of a workspace does.';

---------------------------------------------------------------------
-- audit
---------------------------------------------------------------------

CREATE FUNCTION crm.audit() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_audit';

COMMENT ON FUNCTION crm.audit() IS
'Trigger after insert, update or delete for each row, or after truncate, of any table: writes one row to the audit log unless nothing changed. Arguments: kind of record; then optionally log=schema.table (default: audit_log in the table''s schema) and mask=column for each column whose values must not show. The table''s owner needs INSERT on the log. Values longer than 64 kB are logged as length and SHA-256. crm.enable_audit() creates the triggers.';

CREATE FUNCTION crm.append_only() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_append_only';

COMMENT ON FUNCTION crm.append_only() IS
'Trigger before update, delete or truncate: refuses, whoever asks (SQLSTATE 55000).';

CREATE FUNCTION crm.enable_audit("table" regclass, kind text DEFAULT NULL, audit_log regclass DEFAULT NULL, mask name[] DEFAULT '{}') RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    arguments text;
    missing text;
    schema_oid oid := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = "table");
BEGIN
    IF "table" IS NULL THEN
        RAISE EXCEPTION 'table must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    kind := coalesce(kind, (SELECT c.relname FROM pg_class AS c WHERE c.oid = "table"));
    IF kind = '' THEN
        RAISE EXCEPTION 'kind of record must not be empty' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT m INTO missing
    FROM unnest(mask) AS m
    WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                      WHERE a.attrelid = "table" AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = m)
    LIMIT 1;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'column "%" of relation "%" does not exist', missing, "table"
            USING ERRCODE = 'undefined_column';
    END IF;
    IF audit_log IS NULL AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = schema_oid AND c.relname = 'audit_log') THEN
        RAISE EXCEPTION 'schema "%" has no audit log', schema_oid::regnamespace
            USING ERRCODE = 'undefined_table',
                  HINT = 'Name one: crm.enable_audit(..., audit_log => ''sales.audit_log''). A new one is made with CREATE TABLE ... (LIKE sales.audit_log INCLUDING ALL).';
    END IF;

    arguments := (SELECT string_agg(quote_literal(argument), ', ' ORDER BY ordinal)
                  FROM (SELECT kind, 0
                        UNION ALL
                        SELECT 'log=' || audit_log::text, 1 WHERE audit_log IS NOT NULL
                        UNION ALL
                        SELECT 'mask=' || m, 2 FROM unnest(mask) AS m) AS list (argument, ordinal));
    EXECUTE format('CREATE OR REPLACE TRIGGER crm_audit AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION crm.audit(%s)',
                   "table", arguments);
    EXECUTE format('CREATE OR REPLACE TRIGGER crm_audit_truncate AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION crm.audit(%s)',
                   "table", arguments);
END
$$;

COMMENT ON FUNCTION crm.enable_audit(regclass, text, regclass, name[]) IS
'Audits a table from now on: creates the triggers crm_audit and crm_audit_truncate, or replaces them. kind defaults to the table''s name, audit_log to audit_log in its schema; mask names columns whose values are logged as {"masked": true}. The caller must own the table, whose owner needs INSERT on the log. For a partitioned table, truncating one partition by itself is not logged.';

CREATE FUNCTION crm.disable_audit("table" regclass) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    trigger_name name;
BEGIN
    FOR trigger_name IN
        SELECT t.tgname FROM pg_trigger AS t WHERE t.tgrelid = "table" AND t.tgfoid = 'crm.audit()'::regprocedure AND NOT t.tgisinternal
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', trigger_name, "table");
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm.disable_audit(regclass) IS
'Stops auditing a table; what was logged stays. For a table of a workspace, upgrade_workspace() starts it again. The caller must own the table.';

-- The bytes that are hashed: a JSON array of the row's columns, times as
-- microseconds, so that no setting changes them.
CREATE FUNCTION crm._audit_digest(workspace name, after_id bigint, last_id bigint, previous bytea, OUT row_count bigint, OUT digest bytea)
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format(
        'SELECT count(*),
                sha256($3 || coalesce(string_agg(sha256(convert_to(jsonb_build_array(
                    l.id, (extract(epoch FROM l.changed_at) * 1000000)::bigint, (extract(epoch FROM l.clock_at) * 1000000)::bigint,
                    l.transaction_id, l.member_id, l.login_role, l.role, l.application, l.client, l.session, l.statement,
                    l.operation, l.kind, l.table_name, l.record_id, l.record_key, l.old, l.new)::text, ''UTF8'')),
                    '''' ORDER BY l.id), ''''))
         FROM %I.audit_log AS l
         WHERE l.id > $1 AND l.id <= $2', workspace)
    INTO row_count, digest
    USING after_id, last_id, previous;
END
$$;

COMMENT ON FUNCTION crm._audit_digest(name, bigint, bigint, bytea) IS
'Number of rows of the audit log in a range of ids, and SHA-256 over the previous seal and the SHA-256 of each row in turn.';

CREATE FUNCTION crm._next_transaction() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_next_transaction';

COMMENT ON FUNCTION crm._next_transaction() IS
'The number the next transaction that writes will get: all that wrote so far have a smaller one.';

-- A snapshot lists what runs below its xmax.  From there up to the horizon anything
-- may be running, but for the caller's own transaction, which the snapshot leaves out.
CREATE FUNCTION crm._transactions_ended(horizon bigint) RETURNS boolean
LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT NOT EXISTS (SELECT FROM pg_snapshot_xip(s.snapshot) AS x WHERE x::text::bigint < horizon)
       AND horizon - s.xmax - (s.own >= s.xmax AND s.own < horizon)::integer <= 0
FROM (SELECT pg_current_snapshot() AS snapshot,
             pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xmax,
             coalesce(pg_current_xact_id_if_assigned()::text::bigint, 0) AS own) AS s
$$;

COMMENT ON FUNCTION crm._transactions_ended(bigint) IS
'True if every transaction with a number below this one has ended, the caller''s own aside.';

CREATE FUNCTION crm._seal_audit(workspace name, max_rows integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema_oid oid := (SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = workspace);
    previous record;
    pending record;
    row_count bigint;
    digest bytea;
    newest bigint;
    sealed bigint := 0;
BEGIN
    PERFORM pg_advisory_xact_lock('crm.seal_audit(name,integer)'::regprocedure::oid::integer, schema_oid::integer);

    -- A seal is first opened, with the newest id given out so far and the first
    -- transaction yet to come, and closed once all earlier transactions have ended:
    -- then no row up to that id can still appear.
    FOR step IN 1..2 LOOP
        EXECUTE format('SELECT s.* FROM %I.audit_seal AS s WHERE s.digest IS NULL ORDER BY s.id LIMIT 1', workspace) INTO pending;
        IF pending.id IS NULL THEN
            EXECUTE format('SELECT coalesce(max(s.last_id), 0) AS last_id FROM %I.audit_seal AS s', workspace) INTO previous;
            EXECUTE format('SELECT max(w.id) FROM (SELECT l.id FROM %I.audit_log AS l WHERE l.id > $1 ORDER BY l.id LIMIT $2) AS w', workspace)
                INTO newest USING previous.last_id, max_rows;
            EXIT WHEN newest IS NULL;
            EXECUTE format('INSERT INTO %I.audit_seal (last_id, horizon) VALUES ($1, $2) RETURNING *', workspace)
                INTO pending USING newest, crm._next_transaction();
        END IF;
        -- A horizon from the future was set in the cluster this database was dumped from: all its transactions have ended.
        EXIT WHEN pending.horizon <= crm._next_transaction() AND NOT crm._transactions_ended(pending.horizon);
        EXECUTE format('SELECT coalesce(max(s.last_id), 0) AS last_id, coalesce(decode((array_agg(s.digest ORDER BY s.id DESC))[1], ''hex''), '''') AS digest
                        FROM %I.audit_seal AS s WHERE s.id < $1', workspace)
            INTO previous USING pending.id;
        SELECT d.row_count, d.digest INTO row_count, digest
        FROM crm._audit_digest(workspace, previous.last_id, pending.last_id, previous.digest) AS d;
        EXECUTE format('UPDATE %I.audit_seal SET row_count = $2, digest = encode($3, ''hex''), sealed_at = clock_timestamp() WHERE id = $1', workspace)
            USING pending.id, row_count, digest;
        sealed := sealed + row_count;
    END LOOP;
    RETURN sealed;
END
$$;

COMMENT ON FUNCTION crm._seal_audit(name, integer) IS
'What crm.seal_audit() does once its arguments are checked and the workspace''s owner acts.';

CREATE FUNCTION crm._seal_audit_as_owner(schema oid, workspace name, max_rows integer) RETURNS bigint
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_seal_audit_as_owner';

COMMENT ON FUNCTION crm._seal_audit_as_owner(oid, name, integer) IS
'Calls crm._seal_audit() as the owner of the schema where the caller is a member of that role, so that the owner''s triggers do not run with the rights of a superuser; otherwise as the caller.';

CREATE FUNCTION crm.seal_audit(workspace name, max_rows integer DEFAULT 1000000) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema_oid oid := crm._workspace_schema(workspace);
BEGIN
    IF max_rows < 1 OR max_rows > 10000000 THEN
        RAISE EXCEPTION 'max_rows must be between 1 and 10000000' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'crm.seal_audit() must run in a READ COMMITTED transaction'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'It must see which transactions have ended while it runs.';
    END IF;
    RETURN crm._seal_audit_as_owner(schema_oid, workspace, max_rows);
END
$$;

COMMENT ON FUNCTION crm.seal_audit(name, integer) IS
'Seals the audit log of a workspace: writes a SHA-256 over the rows since the last seal, chained to that seal, into audit_seal. Rows that a transaction still running might yet precede wait for a later call. It runs as the workspace''s owner when a member of that role or a superuser calls it. Run it regularly, in a READ COMMITTED transaction of its own; at most max_rows rows a seal and two seals a call. Returns the number of rows sealed.';

CREATE FUNCTION crm._audit_verify(workspace name) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    seal record;
    after_id bigint := 0;
    previous bytea := '';
    found record;
    intact boolean;
    result jsonb := '[]';
BEGIN
    FOR seal IN EXECUTE format('SELECT s.id::bigint, s.last_id::bigint, s.row_count::bigint, s.digest::text
                                FROM %I.audit_seal AS s WHERE s.digest IS NOT NULL ORDER BY s.id', workspace) LOOP
        SELECT d.row_count, d.digest INTO found
        FROM crm._audit_digest(workspace, after_id, seal.last_id, previous) AS d;
        intact := encode(found.digest, 'hex') = seal.digest;
        result := result || jsonb_build_object(
            'seal_id', seal.id, 'last_id', seal.last_id, 'row_count', found.row_count, 'intact', intact,
            'detail', CASE WHEN intact THEN NULL
                           WHEN found.row_count < seal.row_count THEN format('%s of %s rows are missing', seal.row_count - found.row_count, seal.row_count)
                           WHEN found.row_count > seal.row_count THEN format('%s rows were added', found.row_count - seal.row_count)
                           ELSE 'a row or the seal was changed' END);
        after_id := seal.last_id;
        previous := decode(seal.digest, 'hex');
    END LOOP;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._audit_verify(name) IS
'What crm.audit_verify() does once its argument is checked and the workspace''s owner acts: an array of its rows.';

CREATE FUNCTION crm._audit_verify_as_owner(schema oid, workspace name) RETURNS jsonb
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_audit_verify_as_owner';

COMMENT ON FUNCTION crm._audit_verify_as_owner(oid, name) IS
'Calls crm._audit_verify() as the owner of the schema where the caller is a member of that role, so that what the owner has put in place of the tables does not run with the rights of a superuser; otherwise as the caller.';

CREATE FUNCTION crm.audit_verify(workspace name, OUT seal_id bigint, OUT last_id bigint, OUT row_count bigint, OUT intact boolean, OUT detail text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema_oid oid := crm._workspace_schema(workspace);
BEGIN
    RETURN QUERY SELECT r.* FROM jsonb_to_recordset(crm._audit_verify_as_owner(schema_oid, workspace))
                     AS r (seal_id bigint, last_id bigint, row_count bigint, intact boolean, detail text);
END
$$;

COMMENT ON FUNCTION crm.audit_verify(name) IS
'Recomputes every seal of a workspace''s audit log, one row a seal: intact is false where sealed rows were changed, added or removed. Someone who can rewrite both the log and its seals is found out only by comparing the newest digest with a copy kept elsewhere. It runs as the workspace''s owner when a member of that role or a superuser calls it, and otherwise as the caller, who must be able to read the log. Error: 3F000 for a schema that is no workspace.';

---------------------------------------------------------------------
-- stage
---------------------------------------------------------------------

CREATE FUNCTION crm.stage_guard() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_stage_guard';

COMMENT ON FUNCTION crm.stage_guard() IS
'Row trigger that holds a table to its pipeline''s rules; crm.guard_stages() attaches it. BEFORE INSERT OR UPDATE it fills in pipeline, stage and closing time and refuses moves the rules do not allow (SQLSTATE RMS01; unknown stages and pipelines RMS02), AFTER INSERT it refuses starts. Arguments: kind, then option=value with options stage, pipeline, id, closed_at (column names; empty: none) and workspace.';

CREATE FUNCTION crm.stage_history() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_stage_history';

COMMENT ON FUNCTION crm.stage_history() IS
'AFTER INSERT OR UPDATE row trigger that writes a move to the workspace''s stage_history, as the owner of the workspace. Same arguments as crm.stage_guard().';

CREATE FUNCTION crm.stage_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_stage_changed';

COMMENT ON FUNCTION crm.stage_changed() IS
'Trigger of the tables that hold stage rules: makes every session compile the rules anew, and carries the renaming of a stage into stage_history.';

CREATE FUNCTION crm._check_stage_expression(relation regclass, workspace regnamespace, expression text) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_check_stage_expression';

COMMENT ON FUNCTION crm._check_stage_expression(regclass, regnamespace, text) IS
'Errors unless the text is a boolean expression over old and new rows of the relation that a stage rule can have. Without a relation only the syntax is checked.';

CREATE FUNCTION crm._check_stage_field(relation regclass, field text) RETURNS void
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'crm_check_stage_field';

COMMENT ON FUNCTION crm._check_stage_field(regclass, text) IS
'Errors unless the relation has a column that a stage can require.';

CREATE FUNCTION crm.guarded_tables(workspace regnamespace, OUT relation regclass, OUT kind text)
RETURNS SETOF record LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_guarded_tables';

COMMENT ON FUNCTION crm.guarded_tables(regnamespace) IS
'The tables whose stages a workspace''s rules guard, and the kind of their records.';

CREATE FUNCTION crm.next_stages(workspace regnamespace, kind text, id bigint, OUT stage text, OUT allowed boolean, OUT missing jsonb)
RETURNS SETOF record LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_next_stages';

COMMENT ON FUNCTION crm.next_stages(regnamespace, text, bigint) IS
'The moves a record has from where it stands within its pipeline, in order of position: stage, whether it is allowed now, and what is missing. Evaluated by the code of the guard, as the caller and on what the caller can see: no row for an invisible record.';

CREATE FUNCTION crm._check_stage_rules(workspace regnamespace, kind text, pipeline text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rule record;
    guarded regclass;
    reason text;
    state text;
BEGIN
    FOR guarded IN SELECT g.relation FROM crm.guarded_tables(workspace) AS g WHERE g.kind = _check_stage_rules.kind LOOP
        FOR rule IN EXECUTE format(
            'SELECT format(''guard of the move from "%%s" to "%%s"'', t.from_stage, t.to_stage) AS name, t.guard AS expression, NULL AS field
             FROM %1$s.stage_transition AS t JOIN %1$s.pipeline AS p ON p.name = t.pipeline
             WHERE ($2 IS NULL AND p.kind = $1 OR p.name = $2) AND t.guard IS NOT NULL
             UNION ALL
             SELECT format(''rule "%%s" of stage "%%s"'', r.name, r.stage), r.expression, NULL
             FROM %1$s.stage_rule AS r JOIN %1$s.pipeline AS p ON p.name = r.pipeline
             WHERE ($2 IS NULL AND p.kind = $1 OR p.name = $2)
             UNION ALL
             SELECT format(''required field "%%s" of stage "%%s"'', f, s.name), NULL, f
             FROM %1$s.stage AS s JOIN %1$s.pipeline AS p ON p.name = s.pipeline, unnest(s.required_fields) AS f
             WHERE ($2 IS NULL AND p.kind = $1 OR p.name = $2)', workspace)
            USING kind, pipeline
        LOOP
            BEGIN
                IF rule.expression IS NOT NULL THEN
                    PERFORM crm._check_stage_expression(guarded, workspace, rule.expression);
                ELSE
                    PERFORM crm._check_stage_field(guarded, rule.field);
                END IF;
            EXCEPTION WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS reason = MESSAGE_TEXT, state = RETURNED_SQLSTATE;
                RAISE EXCEPTION '% is not valid for table %', rule.name, guarded
                    USING ERRCODE = state, DETAIL = reason;
            END;
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._check_stage_rules(regnamespace, text, text) IS
'Errors unless every stage rule of a kind (or of one of its pipelines) can be compiled for every table it guards.';

CREATE FUNCTION crm.stage_config() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    workspace regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = TG_RELID);
    what text;
    expression text;
    fields text[];
    record_kind text;
    to_kind text;
    guarded regclass;
    reason text;
    state text;
BEGIN
    CASE TG_ARGV[0]
    WHEN 'pipeline' THEN
        IF NEW.kind <> OLD.kind THEN
            EXECUTE format('SELECT crm._check_stage_rules($1, $2, p.name) FROM %s.pipeline AS p WHERE p.id = $3', workspace)
            USING workspace, NEW.kind, NEW.id;
        END IF;
        RETURN NEW;
    WHEN 'stage' THEN
        IF TG_OP = 'UPDATE' AND NEW.required_fields = OLD.required_fields AND NEW.pipeline = OLD.pipeline THEN
            RETURN NEW;
        END IF;
        fields := NEW.required_fields;
        what := format('required_fields of stage "%s"', NEW.name);
    WHEN 'transition' THEN
        NEW.to_pipeline := coalesce(NEW.to_pipeline, NEW.pipeline);
        IF TG_OP = 'UPDATE' AND NEW.guard IS NOT DISTINCT FROM OLD.guard
           AND NEW.pipeline = OLD.pipeline AND NEW.to_pipeline = OLD.to_pipeline THEN
            RETURN NEW;
        END IF;
        expression := NEW.guard;
        what := format('guard of the move from "%s" to "%s"', NEW.from_stage, NEW.to_stage);
    WHEN 'rule' THEN
        IF TG_OP = 'UPDATE' AND NEW.expression = OLD.expression AND NEW.pipeline = OLD.pipeline THEN
            RETURN NEW;
        END IF;
        expression := NEW.expression;
        what := format('rule "%s" of stage "%s"', NEW.name, NEW.stage);
    END CASE;

    -- A pipeline that does not exist is for the foreign key to refuse.
    EXECUTE format('SELECT p.kind FROM %s.pipeline AS p WHERE p.name = $1', workspace) INTO record_kind USING NEW.pipeline;
    IF TG_ARGV[0] = 'transition' THEN
        EXECUTE format('SELECT p.kind FROM %s.pipeline AS p WHERE p.name = $1', workspace) INTO to_kind USING NEW.to_pipeline;
        IF to_kind <> record_kind THEN
            RAISE EXCEPTION 'records of kind "%" cannot move to a pipeline for "%"', record_kind, to_kind
                USING ERRCODE = 'check_violation',
                      DETAIL = format('Pipeline "%s" is for "%s", pipeline "%s" for "%s".', NEW.pipeline, record_kind, NEW.to_pipeline, to_kind);
        END IF;
    END IF;

    BEGIN
        IF expression IS NOT NULL THEN
            PERFORM crm._check_stage_expression(NULL, workspace, expression);
        END IF;
        FOR guarded IN SELECT g.relation FROM crm.guarded_tables(workspace) AS g WHERE g.kind = record_kind LOOP
            IF expression IS NOT NULL THEN
                PERFORM crm._check_stage_expression(guarded, workspace, expression);
            END IF;
            PERFORM crm._check_stage_field(guarded, f) FROM unnest(fields) AS f;
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS reason = MESSAGE_TEXT, state = RETURNED_SQLSTATE;
        IF guarded IS NULL THEN
            RAISE EXCEPTION '% is not valid', what USING ERRCODE = state, DETAIL = reason;
        END IF;
        RAISE EXCEPTION '% is not valid for table %', what, guarded USING ERRCODE = state, DETAIL = reason;
    END;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION crm.stage_config() IS
'Trigger of the tables that hold stage rules: refuses an expression or required field that a table guarded by the rule cannot have. Argument: pipeline, stage, transition or rule.';

CREATE FUNCTION crm.guard_stages(
    relation regclass,
    kind text,
    stage_column name DEFAULT 'stage',
    pipeline_column name DEFAULT NULL,
    id_column name DEFAULT 'id',
    closed_at_column name DEFAULT NULL,
    history boolean DEFAULT true,
    workspace regnamespace DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
    own_schema regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = relation);
    options text := '';
    moves text;
    col name;
BEGIN
    IF relation IS NULL OR kind IS NULL OR stage_column IS NULL THEN
        RAISE EXCEPTION 'relation, kind and stage column must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    workspace := coalesce(workspace, own_schema);
    IF NOT crm.is_workspace(workspace) THEN
        RAISE EXCEPTION 'schema "%" is not a crm workspace', workspace
            USING ERRCODE = 'invalid_schema_name',
                  HINT = 'Name the workspace that holds the rules: crm.guard_stages(..., workspace => ''sales'').';
    END IF;

    pipeline_column := coalesce(pipeline_column, CASE WHEN EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = relation AND a.attname = 'pipeline' AND NOT a.attisdropped) THEN 'pipeline' ELSE '' END);
    closed_at_column := coalesce(closed_at_column, CASE WHEN EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = relation AND a.attname = 'closed_at' AND NOT a.attisdropped) THEN 'closed_at' ELSE '' END);
    FOREACH col IN ARRAY ARRAY[stage_column, pipeline_column, id_column, closed_at_column] LOOP
        IF col <> '' AND NOT EXISTS (SELECT FROM pg_attribute AS a
                                     WHERE a.attrelid = relation AND a.attname = col AND a.attnum > 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION 'column "%" of relation % does not exist', col, relation USING ERRCODE = 'undefined_column';
        END IF;
    END LOOP;

    options := format(', %L, %L, %L, %L', 'stage=' || stage_column, 'pipeline=' || pipeline_column,
                      'id=' || coalesce(id_column, ''), 'closed_at=' || closed_at_column);
    IF workspace <> own_schema THEN
        options := options || format(', %L', 'workspace=' || (SELECT n.nspname FROM pg_namespace AS n WHERE n.oid = workspace));
    END IF;
    moves := format('OLD.%1$I IS DISTINCT FROM NEW.%1$I', stage_column);
    IF pipeline_column <> '' THEN
        moves := moves || format(' OR OLD.%1$I IS DISTINCT FROM NEW.%1$I', pipeline_column);
    END IF;

    -- Triggers fire by name: the guard must see what the others have made of the row.
    EXECUTE format('CREATE OR REPLACE TRIGGER zz_stage_guard BEFORE INSERT OR UPDATE ON %s
                        FOR EACH ROW EXECUTE FUNCTION crm.stage_guard(%L%s)', relation, kind, options);
    EXECUTE format('CREATE OR REPLACE TRIGGER zz_stage_guard_insert AFTER INSERT ON %s
                        FOR EACH ROW EXECUTE FUNCTION crm.stage_guard(%L%s)', relation, kind, options);
    IF history THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER zz_stage_history_insert AFTER INSERT ON %s
                            FOR EACH ROW EXECUTE FUNCTION crm.stage_history(%L%s)', relation, kind, options);
        EXECUTE format('CREATE OR REPLACE TRIGGER zz_stage_history_update AFTER UPDATE ON %s
                            FOR EACH ROW WHEN (%s) EXECUTE FUNCTION crm.stage_history(%L%s)', relation, moves, kind, options);
    ELSE
        EXECUTE format('DROP TRIGGER IF EXISTS zz_stage_history_insert ON %1$s;
                        DROP TRIGGER IF EXISTS zz_stage_history_update ON %1$s', relation);
    END IF;
    PERFORM crm._check_stage_rules(workspace, kind);
END
$$;

COMMENT ON FUNCTION crm.guard_stages(regclass, text, name, name, name, name, boolean, regnamespace) IS
'Holds a table to the stage rules a workspace has for a kind of record, whatever client writes to it; run again to change the columns. The table may be anyone''s, in any schema; the caller needs to be able to create triggers on it. Columns: stage, pipeline (NULL: "pipeline" if there is one, else the kind''s default pipeline), id (an integer if history is kept), closed_at (NULL: "closed_at" if there is one). workspace: NULL means the table''s schema.';

---------------------------------------------------------------------
-- match
---------------------------------------------------------------------

CREATE FUNCTION crm.match_keys(roles text, VARIADIC "values" "any") RETURNS integer[]
LANGUAGE C IMMUTABLE LEAKPROOF PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'crm_match_keys_sql';

COMMENT ON FUNCTION crm.match_keys(text, "any") IS
'The keys under which a record is found by crm.find_matches(). roles says what each value is, separated by commas: company, given_name, family_name, full_name, phone, email, tax_id, website, street, city, region, postcode, country, birth_date, national_id. Values are text or, for birth_date, date; NULL is blank. Of a value the first 4096 bytes are read. Errors: 22023 for an unknown or repeated role or another number of values than roles, 42804 for a value of another type. The keys never change, whatever the locale, the settings or the version of ICU.';

-- Restricted: what this session has put off for an index, its parallel workers cannot see.
CREATE FUNCTION crm._match_satisfies(integer[], integer[]) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL RESTRICTED COST 10 AS 'MODULE_PATHNAME', 'crm_match_satisfies';

COMMENT ON FUNCTION crm._match_satisfies(integer[], integer[]) IS
'Implements the operator crm.@@.';

CREATE FUNCTION crm._match_selectivity(internal, oid, internal, integer) RETURNS double precision
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_match_selectivity';

COMMENT ON FUNCTION crm._match_selectivity(internal, oid, internal, integer) IS
'Restriction estimator of crm.@@: a matching query is made to find few rows.';

CREATE OPERATOR crm.@@ (
    LEFTARG = integer[], RIGHTARG = integer[],
    FUNCTION = crm._match_satisfies, RESTRICT = crm._match_selectivity
);

COMMENT ON OPERATOR crm.@@ (integer[], integer[]) IS
'Keys satisfy a matching query: a threshold (1 to 1000) followed by pairs of key and weight (1 to 1000). True if the weights of the keys present add up to the threshold.';

CREATE FUNCTION crm._match_compare(integer, integer) RETURNS integer
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'btint4cmp';

COMMENT ON FUNCTION crm._match_compare(integer, integer) IS
'Order of matching keys inside a crm.match_ops index.';

CREATE FUNCTION crm._match_extract_value(integer[], internal) RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_match_extract_value';
COMMENT ON FUNCTION crm._match_extract_value(integer[], internal) IS 'GIN support of crm.match_ops.';

CREATE FUNCTION crm._match_extract_query(integer[], internal, smallint, internal, internal, internal, internal) RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_match_extract_query';
COMMENT ON FUNCTION crm._match_extract_query(integer[], internal, smallint, internal, internal, internal, internal) IS 'GIN support of crm.match_ops.';

CREATE FUNCTION crm._match_consistent(internal, smallint, integer[], integer, internal, internal, internal, internal) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_match_consistent';
COMMENT ON FUNCTION crm._match_consistent(internal, smallint, integer[], integer, internal, internal, internal, internal) IS 'GIN support of crm.match_ops.';

CREATE FUNCTION crm._match_tri_consistent(internal, smallint, integer[], integer, internal, internal, internal) RETURNS "char"
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_match_tri_consistent';
COMMENT ON FUNCTION crm._match_tri_consistent(internal, smallint, integer[], integer, internal, internal, internal) IS 'GIN support of crm.match_ops.';

CREATE OPERATOR FAMILY crm.match_ops USING gin;
COMMENT ON OPERATOR FAMILY crm.match_ops USING gin IS 'Finding records by a weighted sum of matching keys.';

CREATE OPERATOR CLASS crm.match_ops FOR TYPE integer[] USING gin FAMILY crm.match_ops AS
    OPERATOR 1 crm.@@ (integer[], integer[]),
    FUNCTION 1 crm._match_compare(integer, integer),
    FUNCTION 2 crm._match_extract_value(integer[], internal),
    FUNCTION 3 crm._match_extract_query(integer[], internal, smallint, internal, internal, internal, internal),
    FUNCTION 4 crm._match_consistent(internal, smallint, integer[], integer, internal, internal, internal, internal),
    FUNCTION 6 crm._match_tri_consistent(internal, smallint, integer[], integer, internal, internal, internal),
    STORAGE integer;
COMMENT ON OPERATOR CLASS crm.match_ops USING gin IS
'For indexes on crm.match_keys(...) that enter every row at once. Create them WITH (fastupdate = off): a search reads the list of pending entries whole.';

CREATE FUNCTION crm.match_index_handler(internal) RETURNS index_am_handler
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_match_index_handler';
COMMENT ON FUNCTION crm.match_index_handler(internal) IS 'Handler of access method crm_match.';

CREATE ACCESS METHOD crm_match TYPE INDEX HANDLER crm.match_index_handler;
COMMENT ON ACCESS METHOD crm_match IS
'Matching indexes: GIN that enters the keys of a transaction''s new rows together, in the order of the index, before the transaction commits or its own session reads the index. Until then they take up to maintenance_work_mem of memory for each index.';

CREATE OPERATOR FAMILY crm.match_ops USING crm_match;
COMMENT ON OPERATOR FAMILY crm.match_ops USING crm_match IS 'Finding records by a weighted sum of matching keys.';

CREATE OPERATOR CLASS crm.match_ops DEFAULT FOR TYPE integer[] USING crm_match FAMILY crm.match_ops AS
    OPERATOR 1 crm.@@ (integer[], integer[]),
    FUNCTION 1 crm._match_compare(integer, integer),
    FUNCTION 2 crm._match_extract_value(integer[], internal),
    FUNCTION 3 crm._match_extract_query(integer[], internal, smallint, internal, internal, internal, internal),
    FUNCTION 4 crm._match_consistent(internal, smallint, integer[], integer, internal, internal, internal, internal),
    FUNCTION 6 crm._match_tri_consistent(internal, smallint, integer[], integer, internal, internal, internal),
    STORAGE integer;
COMMENT ON OPERATOR CLASS crm.match_ops USING crm_match IS
'For indexes on crm.match_keys(...): CREATE INDEX ON customer USING crm_match (crm.match_keys(''company,phone'', name, phone)).';

CREATE FUNCTION crm.find_matches(relation regclass, record jsonb, max_results integer DEFAULT 10, OUT id text, OUT score real, OUT reasons jsonb)
RETURNS SETOF record LANGUAGE C STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'crm_find_matches';

COMMENT ON FUNCTION crm.find_matches(regclass, jsonb, integer) IS
'Rows of a table that may mean the same as a record, best first: primary key as text, probability (0 to 1) and reasons. The table needs an index on crm.match_keys(...) and a primary key of one column. record has the table''s column names; other columns than those of the index are ignored, and a record with the value of the primary key does not find itself. reasons is an array of {field, level, weight}; the weights, in bits, add up to log2(score / (1 - score)), and a last entry {"field": "search", "level": "truncated"} says that rows agreeing in something very common alone were not looked at. Reads as the caller, under row security. Errors: 22023 for max_results outside 1 to 1000 or a record that is no object of strings and numbers, 42703 for a field that is no column, 55000 without index.';

CREATE FUNCTION crm._match_table(workspace regnamespace, kind text) RETURNS regclass
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_match_table';

COMMENT ON FUNCTION crm._match_table(regnamespace, text) IS
'The table of a workspace that holds the records of a kind; an error if they cannot be matched.';

CREATE FUNCTION crm.find_duplicates(workspace regnamespace, kind text, record jsonb, max_results integer DEFAULT 10, OUT id bigint, OUT score real, OUT reasons jsonb)
RETURNS SETOF record LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT m.id::bigint, m.score, m.reasons FROM crm.find_matches(crm._match_table(workspace, kind), record, max_results) AS m $$;

COMMENT ON FUNCTION crm.find_duplicates(regnamespace, text, jsonb, integer) IS
'crm.find_matches() on the table of a workspace that holds the records of a kind: account, contact, lead or any table of the workspace with an index on crm.match_keys(...).';

CREATE FUNCTION crm._compare_records(relation regclass, record jsonb, other jsonb, needed double precision, OUT score real, OUT reasons jsonb, OUT bits double precision, OUT quick double precision)
LANGUAGE C STABLE STRICT
AS 'MODULE_PATHNAME', 'crm_compare_records';

COMMENT ON FUNCTION crm._compare_records(regclass, jsonb, jsonb, double precision) IS
'Implements crm.compare_records(); bits is the log-odds of the score, and quick the same as a scan computes it that needs so many: minus infinity where bits are fewer.';

CREATE FUNCTION crm.compare_records(relation regclass, record jsonb, other jsonb, OUT score real, OUT reasons jsonb)
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT c.score, c.reasons FROM crm._compare_records(relation, record, other, '-Infinity') AS c $$;

COMMENT ON FUNCTION crm.compare_records(regclass, jsonb, jsonb) IS
'Do two records mean the same? The probability (0 to 1) and its reasons, as crm.find_matches() would give them. relation is a table with a matching index, whose column names both records have; neither needs to be stored. The caller needs SELECT on the table. Errors: 22023 for a record that is no object of strings and numbers, 42703 for a field that is no column.';

CREATE FUNCTION crm._analyze_matching(relation regclass, OUT rows bigint, OUT keys bytea)
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_analyze_matching';

COMMENT ON FUNCTION crm._analyze_matching(regclass) IS
'Reads a table and counts its matching keys: the number of rows, and pairs of key and count, four bytes each, of what occurs more than once.';

CREATE FUNCTION crm.match_statistics_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_match_statistics_changed';

COMMENT ON FUNCTION crm.match_statistics_changed() IS
'Trigger after each row of a match_statistics table: tells all sessions to load the statistics anew.';

CREATE FUNCTION crm._match_statistics_loads() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_match_statistics_loads';

COMMENT ON FUNCTION crm._match_statistics_loads() IS
'How often this session has loaded matching statistics.';

CREATE FUNCTION crm._rows_changed(relation regclass) RETURNS bigint
LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
RETURN pg_stat_get_tuples_inserted(relation) + pg_stat_get_tuples_updated(relation) + pg_stat_get_tuples_deleted(relation)
       + pg_stat_get_xact_tuples_inserted(relation) + pg_stat_get_xact_tuples_updated(relation) + pg_stat_get_xact_tuples_deleted(relation);

COMMENT ON FUNCTION crm._rows_changed(regclass) IS
'Rows of a table that were inserted, updated and deleted so far, as the server counts them (track_counts); it starts from 0 again after a crash and pg_stat_reset().';

CREATE FUNCTION crm._create_match_statistics(schema name) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    EXECUTE format($ddl$
        CREATE TABLE IF NOT EXISTS %1$I.match_statistics (
            id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
            relation text NOT NULL,
            version bigint NOT NULL,
            rows bigint NOT NULL,
            keys bytea NOT NULL,
            changes bigint NOT NULL DEFAULT 0,
            analyzed_at timestamptz NOT NULL DEFAULT now(),
            UNIQUE (relation, version)
        );
        COMMENT ON TABLE %1$I.match_statistics IS 'How common names, phones and other values are in tables of this schema: what finding duplicates has learned from them. crm.analyze_matching() adds a version.';
        COMMENT ON COLUMN %1$I.match_statistics.id IS 'Identifier.';
        COMMENT ON COLUMN %1$I.match_statistics.relation IS 'Name of the table in this schema.';
        COMMENT ON COLUMN %1$I.match_statistics.version IS 'Counts up with each analysis; the highest is used.';
        COMMENT ON COLUMN %1$I.match_statistics.rows IS 'Rows that were read.';
        COMMENT ON COLUMN %1$I.match_statistics.keys IS 'Keys that occur more than once, ascending, each with its count: four bytes each.';
        COMMENT ON COLUMN %1$I.match_statistics.changes IS 'Rows that had been inserted, updated and deleted by then, as the server counted: crm.doctor() tells when half as many again have changed since.';
        COMMENT ON COLUMN %1$I.match_statistics.analyzed_at IS 'When the table was read.';
        ALTER TABLE %1$I.match_statistics ALTER COLUMN keys SET STORAGE EXTERNAL;
        CREATE OR REPLACE TRIGGER match_statistics_changed AFTER INSERT OR UPDATE OR DELETE ON %1$I.match_statistics
            FOR EACH ROW EXECUTE FUNCTION crm.match_statistics_changed();
        $ddl$, schema);
END
$$;

COMMENT ON FUNCTION crm._create_match_statistics(name) IS
'Creates the table match_statistics in a schema unless it has one.';

CREATE FUNCTION crm._old_statistics(schema regnamespace, OUT rel regclass, OUT rows bigint, OUT analyzed_at timestamptz)
RETURNS SETOF record LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF has_table_privilege(to_regclass(format('%s.match_statistics', schema)), 'SELECT') THEN
        RETURN QUERY EXECUTE format(
            'SELECT s.rel, s.rows, s.analyzed_at
             FROM (SELECT DISTINCT ON (c.oid) c.oid::regclass AS rel, s.rows, s.analyzed_at, s.changes
                   FROM %s.match_statistics AS s JOIN pg_class AS c ON c.relname = s.relation AND c.relnamespace = $1
                   ORDER BY c.oid, s.version DESC) AS s
             WHERE crm._rows_changed(s.rel) - s.changes > s.rows / 2', schema) USING schema::oid;
    END IF;
END
$$;

COMMENT ON FUNCTION crm._old_statistics(regnamespace) IS
'Tables of a schema of which as many rows as half of those that matching statistics were learned from have changed since.';

CREATE FUNCTION crm.analyze_matching(relation regclass) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema name;
    relname name;
    current bigint;
BEGIN
    SELECT n.nspname, c.relname INTO schema, relname
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = relation AND pg_has_role(c.relowner, 'USAGE');
    IF schema IS NULL THEN
        RAISE EXCEPTION 'must be owner of table %', relation USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF to_regclass(format('%I.match_statistics', schema)) IS NULL THEN
        PERFORM crm._create_match_statistics(schema);
    END IF;
    PERFORM pg_advisory_xact_lock('crm.analyze_matching(regclass)'::regprocedure::oid::integer, relation::oid::integer);
    EXECUTE format('SELECT coalesce(max(s.version), 0) FROM %I.match_statistics AS s WHERE s.relation = $1', schema)
        INTO current USING relname;
    EXECUTE format('INSERT INTO %I.match_statistics (relation, version, rows, keys, changes) SELECT $1, $2, a.rows, a.keys, crm._rows_changed($3) FROM crm._analyze_matching($3) AS a', schema)
        USING relname, current + 1, relation;
    -- The version before stays, so that scores given with it can be understood.
    EXECUTE format('DELETE FROM %I.match_statistics AS s WHERE s.relation = $1 AND s.version < $2', schema)
        USING relname, current;
    RETURN current + 1;
END
$$;

COMMENT ON FUNCTION crm.analyze_matching(regclass) IS
'Learns how common each name, phone, address and other value is in a table with a matching index, as ANALYZE does for the planner: run it after loading and now and then afterwards. Stores a new version in table match_statistics of the same schema and keeps the one before; returns its number. Before the first run, matching works with assumptions. The caller must be a member of the role that owns the table.';

CREATE FUNCTION crm._scan_duplicates(workspace regnamespace, kind text, relation regclass, threshold real, whole boolean) RETURNS bigint
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'crm_scan_duplicates';

COMMENT ON FUNCTION crm._scan_duplicates(regnamespace, text, regclass, real, boolean) IS
'Implements crm.scan_duplicates().';

CREATE FUNCTION crm.scan_duplicates(workspace regnamespace, kind text, threshold real DEFAULT NULL, whole boolean DEFAULT false) RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm._scan_duplicates(workspace, kind, crm._match_table(workspace, kind), threshold, whole) $$;

COMMENT ON FUNCTION crm.scan_duplicates(regnamespace, text, real, boolean) IS
'Compares the records of a kind and writes pairs and clusters that mean the same to duplicate_pair and duplicate_cluster of the workspace; decisions made about them stay, pairs told apart (not_duplicate) never meet in one cluster, and pairs said to be the same (duplicate) are in one. threshold is the probability (between 0 and 1) from which a pair is reported; NULL takes the default, 0.5. The first scan reads the whole table; later ones only rows that changed since, unless whole is true, what the scores rest on is other than it was (threshold, statistics, model, columns), more than a tenth of the rows changed since the last scan of the whole table, or a key known as rare is shared by more than 300 records now. Returns the number of pairs. Works with up to max_parallel_maintenance_workers workers and at most crm.scan_memory of memory, in passes over parts of the table where that is little; crm.scan_progress() shows how far it is. The caller must be a member of the role that owns the workspace. Errors: 55P03 while another scan of the kind runs, 53400 when crm.scan_memory does not suffice for the records in pairs.';

CREATE FUNCTION crm.scan_progress(OUT pid integer, OUT workspace regnamespace, OUT kind text, OUT phase text, OUT done bigint, OUT total bigint, OUT workers integer, OUT started_at timestamptz)
RETURNS SETOF record LANGUAGE C VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'crm_scan_progress';

COMMENT ON FUNCTION crm.scan_progress() IS
'Scans for duplicates that run in this database, for owners of the workspace and members of pg_read_all_stats: the process, the phase (reading, sorting keys, linking keys, weighing, comparing, or reading changes, looking up, meeting and comparing changes, in passes of both kinds where memory is short, after counting and counting keys; then explaining, clustering, writing), how much of the phase is done of a total (rows, pairs or parts, by phase; the total of reading is an estimate), the parallel workers that help, and when the scan began.';

---------------------------------------------------------------------
-- match_model
---------------------------------------------------------------------

CREATE FUNCTION crm.match_model_check() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_match_model_check';

COMMENT ON FUNCTION crm.match_model_check() IS
'Trigger before a row of a match_model table is written: refuses (22023) a field that is not compared and a level that the field does not have.';

CREATE FUNCTION crm.match_model_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_match_model_changed';

COMMENT ON FUNCTION crm.match_model_changed() IS
'Trigger after each row of a match_model table: tells all sessions to read the model anew.';

CREATE FUNCTION crm._match_model_loads() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_match_model_loads';

COMMENT ON FUNCTION crm._match_model_loads() IS
'How often this session has read a match_model table.';

CREATE FUNCTION crm.match_levels(relation regclass DEFAULT NULL, OUT field text, OUT level text, OUT weight real, OUT rarity real)
RETURNS SETOF record LANGUAGE C STABLE
AS 'MODULE_PATHNAME', 'crm_match_levels';

COMMENT ON FUNCTION crm.match_levels(regclass) IS
'What each level of agreement in a field weighs when records of a table are compared: weight in bits, and the part of the evidence (how rare is what agrees, in bits) that is added to it. Without a table: what crm brings along.';

CREATE FUNCTION crm._create_match_model(schema name) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    EXECUTE format($ddl$
        CREATE TABLE IF NOT EXISTS %1$I.match_model (
            id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
            relation text NOT NULL,
            version bigint NOT NULL DEFAULT 1 CONSTRAINT match_model_version_positive CHECK (version > 0),
            field text NOT NULL,
            level text NOT NULL,
            weight real NOT NULL CONSTRAINT match_model_weight_bits CHECK (weight BETWEEN -100 AND 100),
            rarity real NOT NULL DEFAULT 0 CONSTRAINT match_model_rarity_share CHECK (rarity BETWEEN 0 AND 2),
            active boolean NOT NULL DEFAULT false,
            source text NOT NULL DEFAULT '',
            created_at timestamptz NOT NULL DEFAULT now(),
            UNIQUE (relation, version, field, level),
            -- Checked at the end of a statement, so that one statement can change the version in use.
            CONSTRAINT match_model_one_active EXCLUDE USING btree (relation WITH =, field WITH =, level WITH =) WHERE (active) DEFERRABLE
        );
        COMMENT ON TABLE %1$I.match_model IS 'What levels of agreement weigh when records of tables of this schema are compared. Active rows replace what crm brings along (crm.match_levels()); a level without one keeps it.';
        COMMENT ON COLUMN %1$I.match_model.id IS 'Identifier.';
        COMMENT ON COLUMN %1$I.match_model.relation IS 'Name of the table in this schema; in a workspace, the kind.';
        COMMENT ON COLUMN %1$I.match_model.version IS 'Rows of one version belong together; crm.use_match_model() makes one the active one.';
        COMMENT ON COLUMN %1$I.match_model.field IS 'Field, as in the reasons of a score.';
        COMMENT ON COLUMN %1$I.match_model.level IS 'Level of agreement in the field, as in the reasons of a score.';
        COMMENT ON COLUMN %1$I.match_model.weight IS 'Bits, -100 to 100: +1 makes a match twice as likely.';
        COMMENT ON COLUMN %1$I.match_model.rarity IS 'Part, 0 to 2, of the evidence in bits (how rare is what agrees) that is added to the weight.';
        COMMENT ON COLUMN %1$I.match_model.active IS 'In use. Of one level only one row can be.';
        COMMENT ON COLUMN %1$I.match_model.source IS 'Where the weight comes from.';
        COMMENT ON COLUMN %1$I.match_model.created_at IS 'When the row was inserted.';
        CREATE OR REPLACE TRIGGER match_model_check BEFORE INSERT OR UPDATE ON %1$I.match_model
            FOR EACH ROW EXECUTE FUNCTION crm.match_model_check();
        CREATE OR REPLACE TRIGGER match_model_changed AFTER INSERT OR UPDATE OR DELETE ON %1$I.match_model
            FOR EACH ROW EXECUTE FUNCTION crm.match_model_changed();
        -- Sessions must hear of rows that arrive by replication, too.
        ALTER TABLE %1$I.match_model ENABLE ALWAYS TRIGGER match_model_changed;
        $ddl$, schema);
END
$$;

COMMENT ON FUNCTION crm._create_match_model(name) IS
'Creates the table match_model in a schema unless it has one.';

CREATE FUNCTION crm._match_model_of(relation regclass, create_table boolean, OUT models text, OUT relname text)
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema name;
BEGIN
    SELECT n.nspname, c.relname INTO schema, relname
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = relation AND pg_has_role(c.relowner, 'USAGE');
    IF schema IS NULL THEN
        RAISE EXCEPTION 'must be owner of table %', relation USING ERRCODE = 'insufficient_privilege';
    END IF;
    models := format('%I.match_model', schema);
    IF to_regclass(models) IS NULL AND create_table THEN
        PERFORM crm._create_match_model(schema);
    END IF;
    PERFORM pg_advisory_xact_lock('crm.use_match_model(regclass, bigint)'::regprocedure::oid::integer, relation::oid::integer);
END
$$;

COMMENT ON FUNCTION crm._match_model_of(regclass, boolean) IS
'The match_model table and the name under which it keeps a table''s models, for the owner of that table; one transaction at a time changes them.';

CREATE FUNCTION crm.use_match_model(relation regclass, version bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place record;
    known boolean;
BEGIN
    IF relation IS NULL THEN
        RETURN;
    END IF;
    SELECT * INTO place FROM crm._match_model_of(relation, false);
    IF version IS NOT NULL THEN
        IF to_regclass(place.models) IS NOT NULL THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %s AS m WHERE m.relation = $1 AND m.version = $2)', place.models)
                INTO known USING place.relname, version;
        END IF;
        IF known IS NOT TRUE THEN
            RAISE EXCEPTION 'table % has no matching model of version %', relation, version
                USING ERRCODE = 'undefined_object', HINT = 'crm.add_match_model() and crm.learn_matching() write versions; NULL takes what crm brings along.';
        END IF;
    ELSIF to_regclass(place.models) IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('UPDATE %s AS m SET active = (m.version IS NOT DISTINCT FROM $2) WHERE m.relation = $1 AND m.active IS DISTINCT FROM (m.version IS NOT DISTINCT FROM $2)', place.models)
        USING place.relname, version;
END
$$;

COMMENT ON FUNCTION crm.use_match_model(regclass, bigint) IS
'From now on records of a table are compared with this version of its matching model, in all sessions once the transaction has committed; NULL: with what crm brings along. Errors: 42704 for an unknown version. The caller must be a member of the role that owns the table.';

CREATE FUNCTION crm.add_match_model(relation regclass) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place record;
    result bigint;
BEGIN
    SELECT * INTO place FROM crm._match_model_of(relation, true);
    EXECUTE format('SELECT coalesce(max(m.version), 0) + 1 FROM %s AS m WHERE m.relation = $1', place.models) INTO result USING place.relname;
    EXECUTE format('INSERT INTO %s (relation, version, field, level, weight, rarity, source) SELECT $1, $2, l.field, l.level, l.weight, l.rarity, ''copied'' FROM crm.match_levels($3) AS l', place.models)
        USING place.relname, result, relation;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm.add_match_model(regclass) IS
'Copies what levels of agreement weigh in a table at present to a new version in table match_model of the same schema, not in use until crm.use_match_model() is called; returns its number. The caller must be a member of the role that owns the table.';

CREATE FUNCTION crm._learn_matching(relation regclass, max_rows integer, seed integer, OUT field text, OUT level text, OUT weight real, OUT rarity real, OUT source text)
RETURNS SETOF record LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME', 'crm_learn_matching';

COMMENT ON FUNCTION crm._learn_matching(regclass, integer, integer) IS
'Implements crm.learn_matching(): what each level would weigh, and from how many pairs that was learned.';

CREATE FUNCTION crm.learn_matching(relation regclass, max_rows integer DEFAULT 200000, seed integer DEFAULT 1) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place record;
    result bigint;
BEGIN
    SELECT * INTO place FROM crm._match_model_of(relation, true);
    EXECUTE format('SELECT coalesce(max(m.version), 0) + 1 FROM %s AS m WHERE m.relation = $1', place.models) INTO result USING place.relname;
    EXECUTE format('INSERT INTO %s (relation, version, field, level, weight, rarity, source) SELECT $1, $2, l.field, l.level, l.weight, l.rarity, l.source FROM crm._learn_matching($3, $4, $5) AS l', place.models)
        USING place.relname, result, relation, max_rows, seed;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm.learn_matching(regclass, integer, integer) IS
'Learns from a table with a matching index what levels of agreement weigh there, by expectation maximisation, without any labelled pair; writes a new version to table match_model of the same schema and returns its number. It is not put to use until crm.use_match_model() is called; crm.match_eval() tells whether it is better. max_rows (100 to 10,000,000) is how many rows are looked at, chosen by a hash of their key and the seed: the same rows and seed give the same weights. Takes about a kilobyte of memory a row. Errors: 55000 if the table has too few duplicates to learn from, 22023 for max_rows out of range. The caller must be a member of the role that owns the table.';

CREATE FUNCTION crm._match_bits(relation regclass, keys text[], left_keys text[], right_keys text[], version bigint, records jsonb) RETURNS double precision[]
LANGUAGE C STABLE
AS 'MODULE_PATHNAME', 'crm_match_bits_of';

COMMENT ON FUNCTION crm._match_bits(regclass, text[], text[], text[], bigint, jsonb) IS
'Implements crm.match_eval(): the log-odds of pairs of records, NULL where one is not there. keys has each key of the table once, records those that are not from it.';

CREATE FUNCTION crm.match_eval(relation regclass, left_keys text[], right_keys text[], same boolean[], version bigint DEFAULT NULL, records jsonb DEFAULT NULL,
    OUT threshold real, OUT pairs bigint, OUT right_pairs bigint, OUT "precision" real, OUT recall real, OUT f1 real, OUT proposed boolean)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bits double precision[];
    labelled bigint;
    usable bigint;
BEGIN
    IF relation IS NULL OR left_keys IS NULL OR right_keys IS NULL OR same IS NULL THEN
        RETURN;
    END IF;
    IF cardinality(same) <> cardinality(left_keys) THEN
        RAISE EXCEPTION 'the arrays of labelled pairs must be of one length' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    bits := crm._match_bits(relation, ARRAY(SELECT DISTINCT k FROM unnest(left_keys || right_keys) AS u (k) WHERE k IS NOT NULL AND (records ? k) IS NOT TRUE), left_keys, right_keys, version, records);
    SELECT count(u.same), count(u.bits) FILTER (WHERE u.same IS NOT NULL) INTO labelled, usable FROM unnest(bits, match_eval.same) AS u (bits, same);
    IF usable < labelled THEN
        RAISE NOTICE '% of % labelled pairs name records that are not there and are left out', labelled - usable, labelled;
    END IF;
    IF usable > 0 AND (SELECT count(DISTINCT u.same) FROM unnest(bits, match_eval.same) AS u (bits, same) WHERE u.bits IS NOT NULL) < 2 THEN
        RAISE NOTICE 'all % labelled pairs are labelled alike, so no threshold is better than another', usable
            USING HINT = 'Label pairs that mean the same and pairs that do not, the doubtful ones above all.';
    END IF;
    RETURN QUERY
    WITH scored AS MATERIALIZED (
        SELECT u.bits, u.same FROM unnest(bits, match_eval.same) AS u (bits, same) WHERE u.bits IS NOT NULL AND u.same IS NOT NULL),
    total AS (SELECT count(*) FILTER (WHERE s.same) AS same FROM scored AS s),
    -- What would be found from each score on.
    cut AS (
        SELECT s.bits, lead(s.bits) OVER (ORDER BY s.bits DESC) AS next,
               count(*) FILTER (WHERE s.same) OVER (ORDER BY s.bits DESC) AS right_pairs, count(*) OVER (ORDER BY s.bits DESC) AS pairs
        FROM scored AS s),
    -- The best threshold; of equally good ones in the widest gap, which new records are least likely to cross, and there
    -- as near to even odds as 3 bits of distance to either side allow.
    best AS (
        SELECT CASE WHEN c.next IS NULL THEN c.bits - 1
                    ELSE least(greatest(0, c.next + least(3, (c.bits - c.next) / 2)), c.bits - least(3, (c.bits - c.next) / 2)) END AS bits
        FROM cut AS c, total AS t
        WHERE c.next IS DISTINCT FROM c.bits AND c.right_pairs > 0
        ORDER BY c.right_pairs::numeric / (c.pairs + t.same) DESC, c.bits - coalesce(c.next, c.bits - 1) DESC, c.bits
        LIMIT 1),
    threshold AS (
        SELECT log(2.0, g.p / (1 - g.p))::double precision AS bits, g.p::real AS p, false AS proposed
        FROM unnest(ARRAY[0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999]) AS g (p)
        UNION ALL
        SELECT b.bits, (1 / (1 + 2 ^ least(-b.bits, 100)))::real, true FROM best AS b)
    SELECT h.p, f.pairs, f.right_pairs, (f.right_pairs::float8 / nullif(f.pairs, 0))::real, (f.right_pairs::float8 / nullif(t.same, 0))::real,
           (2 * f.right_pairs::float8 / nullif(f.pairs + t.same, 0))::real, h.proposed
    FROM threshold AS h, total AS t,
         LATERAL (SELECT count(*) AS pairs, count(*) FILTER (WHERE s.same) AS right_pairs FROM scored AS s WHERE s.bits >= h.bits) AS f
    WHERE EXISTS (SELECT FROM scored)
    ORDER BY h.bits;
END
$$;

COMMENT ON FUNCTION crm.match_eval(regclass, text[], text[], boolean[], bigint, jsonb) IS
'How well labelled pairs of records are told apart. left_keys and right_keys are primary keys as text, same whether the pair means one thing (NULL: not labelled). records has those that are not in the table, such as merged ones: a JSON object of records, as crm.find_matches() takes them, by keys that left_keys and right_keys name. version is that of a matching model, in use or not; 0 what crm brings along, NULL the one in use. A row for each threshold (probability, 0 to 1): pairs at or above it, how many of them are right, precision, recall and F1 (0 to 1; NULL where nothing is divided); proposed marks the threshold of the best F1. Judges the comparison, not whether a search would have brought the pair up. Reads as the caller, who needs SELECT on the table. Errors: 22023 for arrays of different length or records that are none, 42704 for an unknown version.';

CREATE FUNCTION crm.match_eval(relation regclass, labels regclass, version bigint DEFAULT NULL,
    OUT threshold real, OUT pairs bigint, OUT right_pairs bigint, OUT "precision" real, OUT recall real, OUT f1 real, OUT proposed boolean)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    left_keys text[];
    right_keys text[];
    same boolean[];
BEGIN
    IF relation IS NULL OR labels IS NULL THEN
        RETURN;
    END IF;
    IF (SELECT count(*) FROM pg_attribute AS a WHERE a.attrelid = labels AND a.attname IN ('left_id', 'right_id', 'same') AND NOT a.attisdropped) < 3 THEN
        RAISE EXCEPTION 'labels "%" must have the columns left_id, right_id and same', labels
            USING ERRCODE = 'undefined_column',
                  HINT = 'A view can give your columns these names.';
    END IF;
    EXECUTE format('SELECT coalesce(array_agg(l.left_id::text), ''{}''), coalesce(array_agg(l.right_id::text), ''{}''), coalesce(array_agg(l.same), ''{}'') FROM %s AS l', labels)
        INTO left_keys, right_keys, same;
    RETURN QUERY SELECT e.* FROM crm.match_eval(relation, left_keys, right_keys, same, version) AS e;
END
$$;

COMMENT ON FUNCTION crm.match_eval(regclass, regclass, bigint) IS
'The same with labelled pairs from a table or view with columns left_id, right_id (primary keys) and same (boolean).';

---------------------------------------------------------------------
-- duplicate_rule
---------------------------------------------------------------------

-- What happens when a row is written that means the same as another.

CREATE FUNCTION crm.check_duplicates() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_check_duplicates';

COMMENT ON FUNCTION crm.check_duplicates() IS
'Trigger after each INSERT or UPDATE statement, with transition tables, that holds the statement''s rows to the duplicate rules of their kind. Arguments: the kind, and the workspace with the rules if that is not the table''s schema. crm.guard_duplicates() creates it. Errors: RMD01 if a rule blocks rows, of which the first 20 are told; the warning of a rule is RMD02. The last line of DETAIL of both is a JSON array with an object for each row: row (its number in the statement), record (its id), rule, action, override (allowed?), and matches (id and score of up to five records that the person can see) and more, or hidden with team, claim_state and next_step.';

CREATE FUNCTION crm.duplicate_rule_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_duplicate_rule_changed';

COMMENT ON FUNCTION crm.duplicate_rule_changed() IS
'Trigger after changes of table duplicate_rule: every session reads the rules again.';

CREATE FUNCTION crm._duplicate_rule_rebuilds() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_duplicate_rule_rebuilds';

COMMENT ON FUNCTION crm._duplicate_rule_rebuilds() IS
'How often this session has read the duplicate rules of a table.';

CREATE FUNCTION crm._check_duplicate_table(relation regclass) RETURNS void
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_check_duplicate_table';

COMMENT ON FUNCTION crm._check_duplicate_table(regclass) IS
'Errors unless the relation is a table with a matching index and a primary key of one integer column.';

CREATE FUNCTION crm._check_duplicate_condition(relation regclass, workspace regnamespace, condition text) RETURNS void
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_check_duplicate_condition';

COMMENT ON FUNCTION crm._check_duplicate_condition(regclass, regnamespace, text) IS
'Errors unless the condition of a duplicate rule can be parsed for the table.';

CREATE FUNCTION crm._duplicate_tables(workspace regnamespace, OUT kind text, OUT rel regclass)
RETURNS SETOF record LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT DISTINCT a.args[1], t.tgrelid::regclass
FROM pg_trigger AS t
JOIN pg_class AS c ON c.oid = t.tgrelid
CROSS JOIN LATERAL crm._trigger_arguments(t.tgargs) AS a (args)
WHERE t.tgfoid = 'crm.check_duplicates()'::regprocedure
  AND coalesce((SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = a.args[2]), c.relnamespace) = workspace
$$;

COMMENT ON FUNCTION crm._duplicate_tables(regnamespace) IS
'The kinds of records that duplicate rules of a workspace can be about, and their tables.';

CREATE FUNCTION crm.guard_duplicates(relation regclass, kind text DEFAULT NULL, workspace regnamespace DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
    own_schema regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = relation);
    arguments text;
BEGIN
    IF relation IS NULL THEN
        RAISE EXCEPTION 'relation must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    kind := coalesce(kind, (SELECT c.relname FROM pg_class AS c WHERE c.oid = relation));
    workspace := coalesce(workspace, own_schema);
    IF NOT crm.is_workspace(workspace) THEN
        RAISE EXCEPTION 'schema "%" is not a crm workspace', workspace
            USING ERRCODE = 'invalid_schema_name',
                  HINT = 'Name the workspace that holds the rules: crm.guard_duplicates(..., workspace => ''sales'').';
    END IF;
    PERFORM crm._check_duplicate_table(relation);
    arguments := quote_literal(kind);
    IF workspace <> own_schema THEN
        arguments := arguments || format(', %L', (SELECT n.nspname FROM pg_namespace AS n WHERE n.oid = workspace));
    END IF;
    EXECUTE format('CREATE OR REPLACE TRIGGER zz_check_duplicates_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows
                        FOR EACH STATEMENT EXECUTE FUNCTION crm.check_duplicates(%s)', relation, arguments);
    EXECUTE format('CREATE OR REPLACE TRIGGER zz_check_duplicates_update AFTER UPDATE ON %s REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
                        FOR EACH STATEMENT EXECUTE FUNCTION crm.check_duplicates(%s)', relation, arguments);
END
$$;

COMMENT ON FUNCTION crm.guard_duplicates(regclass, text, regnamespace) IS
'Holds a table to the duplicate rules a workspace has for a kind of record (NULL: the table''s name), whatever client writes to it. The table may be in any schema (workspace NULL: its own); it needs an index on crm.match_keys(...) and a primary key of one integer column, and the caller the right to create triggers on it.';

CREATE FUNCTION crm.duplicate_rule_config() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    workspace regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = TG_RELID);
    rel regclass;
    field text;
    guarded boolean := false;
BEGIN
    FOR rel IN SELECT t.rel FROM crm._duplicate_tables(workspace) AS t WHERE t.kind = NEW.kind LOOP
        guarded := true;
        IF NEW.condition IS NOT NULL THEN
            PERFORM crm._check_duplicate_condition(rel, workspace, NEW.condition);
        END IF;
        FOREACH field IN ARRAY coalesce(NEW.update_fields, '{}') LOOP
            IF NOT EXISTS (SELECT FROM pg_attribute AS a
                           WHERE a.attrelid = rel AND a.attname = field AND a.attnum > 0 AND NOT a.attisdropped) THEN
                RAISE EXCEPTION 'column "%" of relation % does not exist', field, rel USING ERRCODE = 'undefined_column';
            END IF;
        END LOOP;
    END LOOP;
    IF NOT guarded AND NEW.active THEN
        RAISE EXCEPTION 'records of kind "%" cannot have duplicate rules', NEW.kind
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('Kinds are %s.', (SELECT string_agg(DISTINCT t.kind, ', ' ORDER BY t.kind) FROM crm._duplicate_tables(workspace) AS t)),
                  HINT = 'SELECT crm.guard_duplicates(table) holds another table to rules.';
    END IF;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION crm.duplicate_rule_config() IS
'Trigger of table duplicate_rule: refuses a kind that no guarded table has, and a condition or field that its table cannot have.';

CREATE FUNCTION crm._duplicate_owner(workspace regnamespace, kind text, relation regclass, id bigint,
                                     OUT team text, OUT claim_state text, OUT next_step text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner_column name;
    id_column name;
    owner record;
BEGIN
    claim_state := 'unknown';
    next_step := 'Ask an administrator of the workspace.';
    SELECT t.owner_column, t.id_column INTO owner_column, id_column
    FROM crm._record_tables(workspace) AS t WHERE t.rel = relation;
    IF owner_column IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT r.%I AS id, m.active, b.name AS manager,
                           (SELECT string_agg(t.name, '', '' ORDER BY t.name) FROM %2$s.team_member AS tm JOIN %2$s.team AS t ON t.id = tm.team_id
                            WHERE tm.member_id = m.id) AS team
                    FROM %3$s AS r
                    LEFT JOIN %2$s.member AS m ON m.id = r.%1$I
                    LEFT JOIN %2$s.member AS b ON b.id = m.manager_id AND b.active
                    WHERE r.%4$I = $1', owner_column, workspace, relation, id_column)
        INTO owner USING id;
    team := owner.team;
    IF owner.id IS NULL THEN
        claim_state := 'unowned';
        next_step := 'Nobody owns it: ask an administrator of the workspace to give it to you.';
    ELSIF NOT owner.active THEN
        claim_state := 'owned by a member who has left';
        next_step := CASE WHEN owner.manager IS NULL THEN next_step
                          ELSE format('Ask %s, who managed its owner, to transfer it.', owner.manager) END;
    ELSE
        claim_state := 'owned';
        next_step := CASE WHEN owner.manager IS NULL THEN next_step
                          ELSE format('Ask %s, who manages its owner, for access.', owner.manager) END;
    END IF;
END
$$;

COMMENT ON FUNCTION crm._duplicate_owner(regnamespace, text, regclass, bigint) IS
'What may be told of a record to a person who cannot see it: the teams of its owner, whether it is owned, and where to turn.';

CREATE FUNCTION crm._check_duplicate(workspace regnamespace, kind text, record jsonb, relation regclass,
    OUT visible boolean, OUT id bigint, OUT score real, OUT team text, OUT claim_state text, OUT next_step text)
RETURNS SETOF record LANGUAGE C VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'crm_check_duplicate';

COMMENT ON FUNCTION crm._check_duplicate(regnamespace, text, jsonb, regclass) IS
'Implements crm.check_duplicate().';

CREATE FUNCTION crm.check_duplicate(workspace regnamespace, kind text, record jsonb,
    OUT visible boolean, OUT id bigint, OUT score real, OUT team text, OUT claim_state text, OUT next_step text)
RETURNS SETOF record LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT c.* FROM crm._check_duplicate(workspace, kind, record, crm._match_table(workspace, kind)) AS c $$;

COMMENT ON FUNCTION crm.check_duplicate(regnamespace, text, jsonb) IS
'Would a record be a duplicate? One row for each record that means the same with at least the lowest threshold of the kind''s active rules (0.9 without), whether the caller can see it or not. Of a record that is hidden from the caller only the owner''s teams, the claim state and the next step are told. Every call is written to duplicate_log and counts against setting duplicate_checks_per_minute of the workspace (NULL: no limit). The caller must be allowed to insert such records. Errors: 42501 otherwise, 42703 for a field that is no column, 53400 beyond the limit.';

CREATE FUNCTION crm._claim_duplicate(workspace regnamespace, kind text, record jsonb, relation regclass, threshold real, OUT id bigint, OUT score real)
RETURNS record LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'crm_claim_duplicate';

COMMENT ON FUNCTION crm._claim_duplicate(regnamespace, text, jsonb, regclass, real) IS
'For crm.find_or_create(): locks the record''s keys to the end of the transaction, as writing it does, and returns the record that means the same, if the caller can see one.';

CREATE FUNCTION crm.find_or_create(workspace regnamespace, kind text, record jsonb, threshold real DEFAULT NULL, OUT id bigint, OUT created boolean, OUT score real)
RETURNS record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rel regclass := crm._match_table(workspace, kind);
    fields text;
    key name;
BEGIN
    IF workspace IS NULL OR kind IS NULL OR record IS NULL THEN
        RAISE EXCEPTION 'workspace, kind and record must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT c.id, c.score INTO id, score FROM crm._claim_duplicate(workspace, kind, record, rel, threshold) AS c;
    created := id IS NULL;
    IF created THEN
        SELECT string_agg(quote_ident(f.name), ', ') INTO fields FROM jsonb_object_keys(record) AS f (name);
        SELECT a.attname INTO key FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = rel AND i.indisprimary;
        EXECUTE CASE WHEN fields IS NULL THEN format('INSERT INTO %s DEFAULT VALUES RETURNING %I', rel, key)
                     ELSE format('INSERT INTO %1$s (%2$s) SELECT %2$s FROM jsonb_populate_record(NULL::%1$s, $1) AS r RETURNING %3$I', rel, fields, key) END
            INTO id USING record;
    END IF;
END
$$;

COMMENT ON FUNCTION crm.find_or_create(regnamespace, text, jsonb, real) IS
'The record that means the same, or a new one: the best match that the caller can see with at least the given probability (NULL: the lowest threshold of the blocking rules of the kind, 0.9 without), else what INSERT of the record''s fields makes. Nobody else can store the same meanwhile. Returns the id, whether it is new, and the probability (NULL if new). A twin that is hidden from the caller is left to the rules: RMD01 if one blocks. Errors: 42703 if a field is no column; those of INSERT.';

---------------------------------------------------------------------
-- merge
---------------------------------------------------------------------

CREATE FUNCTION crm.merge_records(workspace regnamespace, kind text, survivor text, losers text[], dry_run boolean DEFAULT false, run_id bigint DEFAULT NULL)
RETURNS bigint LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'crm_merge_records'
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
SET intervalstyle = postgres
SET extra_float_digits = 3
SET bytea_output = hex;

COMMENT ON FUNCTION crm.merge_records(regnamespace, text, text, text[], boolean, bigint) IS
'Merges records of a kind (a table of the workspace, or the qualified name of any table with a primary key of one column) into the survivor: fields by the workspace''s merge_rule, every foreign key and registered link re-pointed, conflicting rows folded together, losers kept as tombstones. Ids are the text of the primary key. Returns the number of the merge in the workspace''s merge_log; null with dry_run. run_id says of which run of many merges it is part: the number of the run''s first merge, 0 for that one itself. The caller needs SELECT, UPDATE and DELETE on the table and must see and be allowed to change every record under row-level security. Errors: P0002 for a record that is not there or not to be changed, 55000 for one that was merged before, RMM01 if somebody else has to agree, 22023 for a record named twice or merged with itself, 42P01, 42809 and 0A000 for kinds that cannot be merged, 27000 if a trigger suppressed or reverted a change.';

CREATE FUNCTION crm.merge_preview(workspace regnamespace, kind text, survivor text, losers text[],
    OUT table_name text, OUT column_name text, OUT rows bigint, OUT conflicts bigint, OUT totals jsonb, OUT note text)
RETURNS SETOF record LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'crm_merge_preview'
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
SET intervalstyle = postgres
SET extra_float_digits = 3
SET bytea_output = hex;

COMMENT ON FUNCTION crm.merge_preview(regnamespace, text, text, text[]) IS
'What crm.merge_records() would do. Runs the merge and takes it back, so that triggers and constraints have their say; the records stay locked only meanwhile.';

CREATE FUNCTION crm._preview_record(workspace regnamespace, kind text, survivor text, losers text[]) RETURNS jsonb
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'crm_preview_record'
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
SET intervalstyle = postgres
SET extra_float_digits = 3
SET bytea_output = hex;

COMMENT ON FUNCTION crm._preview_record(regnamespace, text, text, text[]) IS
'Runs a merge and takes it back: {"record": the survivor after it, "fields": provenance as in merge_log, "records": [{"id", "image"}] before it}. Values are the text output of their type.';

CREATE FUNCTION crm.unmerge(workspace regnamespace, merge_id bigint,
    OUT table_name text, OUT record jsonb, OUT field text, OUT merged text, OUT kept text, OUT note text)
RETURNS SETOF record LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'crm_unmerge'
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
SET intervalstyle = postgres
SET extra_float_digits = 3
SET bytea_output = hex;

COMMENT ON FUNCTION crm.unmerge(regnamespace, bigint) IS
'Undoes a merge of the workspace. BEFORE triggers do not run for rows that get back exactly what they had; constraints are checked and AFTER triggers fire. Returns each value edited since the merge, which is kept. A later merge that removed a row this one needs must be undone first; the error names it. Errors: P0002 for a merge that is not there, 55000 for one that is undone already or cannot be, 42501 for records the caller may not have back, 23xxx if a value was given to another record meanwhile.';

CREATE FUNCTION crm._is_merging() RETURNS boolean
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'crm_is_merging';
COMMENT ON FUNCTION crm._is_merging() IS
'Does a merge, or the undoing of one, write at the moment? For triggers that follow what people do, which are not to follow what merging does: it moves by itself what refers to its records, and what triggers change it could not undo.';

CREATE FUNCTION crm._merge_order(target regclass, images jsonb[]) RETURNS integer[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stamp text;
BEGIN
    -- Most recent first; without a time stamp the order of the call stands.
    SELECT a.attname INTO stamp
    FROM pg_attribute AS a
    WHERE a.attrelid = target AND NOT a.attisdropped AND a.attname IN ('updated_at', 'modified_at', 'created_at')
      AND a.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype)
    ORDER BY CASE a.attname WHEN 'updated_at' THEN 1 WHEN 'modified_at' THEN 2 ELSE 3 END
    LIMIT 1;
    RETURN (SELECT ARRAY[array_agg(r.recency ORDER BY r.ord), array_agg(r.filled ORDER BY r.ord)]
            FROM (SELECT o.ord,
                         (row_number() OVER (ORDER BY (o.image ->> stamp)::timestamptz DESC NULLS LAST, o.ord))::integer AS recency,
                         (SELECT count(*) FROM jsonb_each_text(o.image) AS f WHERE btrim(f.value) <> '')::integer AS filled
                  FROM unnest(images) WITH ORDINALITY AS o (image, ord)) AS r);
END
$$;

COMMENT ON FUNCTION crm._merge_order(regclass, jsonb[]) IS
'Two lists, an element for each record image: its rank by recency (1 is the newest), and its number of filled fields.';

CREATE FUNCTION crm._survivorship(target regclass, key text[], images jsonb[], ids text[], rules jsonb, sources jsonb, ranks integer[])
RETURNS jsonb LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    column_ record;
    rule record;
    recency integer[] := ARRAY(SELECT unnest(ranks[1:1]));
    filled integer[] := ARRAY(SELECT unnest(ranks[2:2]));
    candidates integer[];   -- records with a value, the preferred first
    given text[];           -- and these values
    chosen integer[];
    blocks jsonb := '{}';   -- block -> the record it comes from
    fields text[];          -- of the block
    block_image jsonb;
    value text;
    result_set jsonb := '{}';
    result_fields jsonb := '{}';
BEGIN
    FOR column_ IN
        SELECT a.attname::text AS name, a.atttypid AS typid, format_type(a.atttypid, a.atttypmod) AS type, t.typcategory
        FROM pg_attribute AS a
        JOIN pg_type AS t ON t.oid = a.atttypid
        WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
          AND NOT a.attname = ANY (key)
        ORDER BY a.attnum
    LOOP
        SELECT r.field, r.strategy, r.block, r.separator, r.source_field, r.sources INTO rule
        FROM jsonb_to_recordset(rules) AS r (kind text, field text, strategy text, block text, separator text, source_field text, sources text[])
        WHERE r.field IN (column_.name, '*')
        ORDER BY r.field = '*', r.kind = '*'
        LIMIT 1;
        rule.strategy := coalesce(rule.strategy, 'fill');
        -- Housekeeping of the survivor stays its own.
        IF column_.name IN ('created_at', 'updated_at', 'row_version') AND coalesce(rule.field, '*') = '*' THEN
            CONTINUE;
        END IF;

        -- Taken apart once: looking up the i-th image goes through all before it.
        SELECT array_agg(o.i ORDER BY o.preference, o.i), array_agg(o.v ORDER BY o.preference, o.i)
        INTO candidates, given
        FROM (SELECT m.i::integer, m.image ->> column_.name AS v,
                     CASE rule.strategy
                         WHEN 'fill' THEN CASE WHEN m.i = 1 THEN 0 ELSE recency[m.i] END
                         WHEN 'most_recent' THEN recency[m.i]
                         WHEN 'most_complete' THEN -filled[m.i]
                         WHEN 'longest' THEN -length(m.image ->> column_.name)
                         WHEN 'trusted' THEN coalesce(
                             (SELECT min(array_position(rule.sources, s.source))
                              FROM jsonb_array_elements_text(
                                  CASE WHEN rule.source_field IS NULL THEN coalesce(sources -> m.id, '[]')
                                       ELSE jsonb_build_array(m.image ->> rule.source_field) END) AS s (source)),
                             cardinality(rule.sources) + 1)
                         ELSE m.i END AS preference
              FROM unnest(images, ids) WITH ORDINALITY AS m (image, id, i)) AS o
        WHERE btrim(o.v) <> ''
          AND NOT (o.v IN ('{}', '[]') AND (column_.typcategory = 'A' OR column_.typid IN ('json'::regtype, 'jsonb'::regtype)));

        IF rule.strategy = 'survivor' OR candidates IS NULL THEN
            CONTINUE;
        END IF;
        chosen := candidates[1:1];
        value := given[1];

        IF rule.block IS NOT NULL THEN
            SELECT array_agg(DISTINCT r.field) INTO fields
            FROM jsonb_to_recordset(rules) AS r (kind text, field text, block text)
            WHERE r.block = rule.block;
            -- The block's record: by the strategy, looking at the whole block at once.
            IF NOT blocks ? rule.block THEN
                SELECT blocks || jsonb_build_object(rule.block, b.i) INTO blocks
                FROM (SELECT m.i, (SELECT count(*) FROM unnest(fields) AS g (field) WHERE btrim(m.image ->> g.field) <> '') AS parts
                      FROM unnest(images) WITH ORDINALITY AS m (image, i)) AS b
                WHERE b.parts > 0
                ORDER BY CASE rule.strategy
                             WHEN 'fill' THEN CASE WHEN b.i = 1 THEN -1000000 ELSE -b.parts END
                             WHEN 'most_complete' THEN -b.parts
                             WHEN 'most_recent' THEN recency[b.i]
                             ELSE array_position(candidates, b.i::integer) END NULLS LAST,
                         recency[b.i]
                LIMIT 1;
            END IF;
            chosen := ARRAY[(blocks ->> rule.block)::integer];
            block_image := images[chosen[1]];
            value := block_image ->> column_.name;
            IF coalesce(btrim(value), '') = '' THEN
                -- A blank in the block is filled from a record whose block agrees in another field and contradicts none.
                SELECT ARRAY[c.i], c.v INTO chosen, value
                FROM unnest(candidates, given) WITH ORDINALITY AS c (i, v, ord)
                JOIN unnest(images) WITH ORDINALITY AS m (image, i) ON m.i = c.i
                CROSS JOIN LATERAL (
                    SELECT bool_and(lower(btrim(m.image ->> g.field)) = lower(btrim(block_image ->> g.field))) AS agrees
                    FROM unnest(fields) AS g (field)
                    WHERE btrim(m.image ->> g.field) <> '' AND btrim(block_image ->> g.field) <> '') AS compared
                WHERE compared.agrees
                ORDER BY c.ord
                LIMIT 1;
                IF NOT FOUND THEN
                    chosen := ARRAY[(blocks ->> rule.block)::integer];
                    value := block_image ->> column_.name;
                END IF;
            END IF;
        ELSIF rule.strategy IN ('max', 'min', 'sum') THEN
            -- An amount has the currency with which another rule makes it a block.
            IF (SELECT count(DISTINCT images[c] ->> 'currency') FROM unnest(candidates) AS c) > 1
               AND EXISTS (SELECT FROM jsonb_to_recordset(rules) AS a (field text, block text)
                           JOIN jsonb_to_recordset(rules) AS b (field text, block text) USING (block)
                           WHERE a.field = column_.name AND b.field = 'currency' AND column_.name <> 'currency') THEN
                result_fields := result_fields || jsonb_build_object(column_.name, jsonb_build_object(
                    'strategy', rule.strategy,
                    'refused', format('There is no %s of values in %s.', rule.strategy,
                                      (SELECT string_agg(DISTINCT images[c] ->> 'currency', ' and ') FROM unnest(candidates) AS c))));
                CONTINUE;
            END IF;
            BEGIN
                EXECUTE format('SELECT (%s(v.v::%s))::%2$s::text FROM unnest($1) AS v (v)', rule.strategy, column_.type)
                INTO value
                USING given;
            EXCEPTION WHEN undefined_function THEN
                RAISE EXCEPTION 'merge strategy "%" cannot be used for column "%"', rule.strategy, column_.name
                    USING ERRCODE = 'datatype_mismatch',
                          DETAIL = format('There is no %s of values of type %s.', rule.strategy, column_.type),
                          HINT = 'Change the row of merge_rule.';
            END;
            chosen := CASE WHEN rule.strategy = 'sum' THEN candidates
                           ELSE ARRAY[candidates[array_position(given, value)]] END;
        ELSIF rule.strategy = 'concat' AND column_.typcategory = 'S' THEN
            SELECT string_agg(d.v, coalesce(rule.separator, E'\n') ORDER BY d.first)
            INTO value
            FROM (SELECT c.v, min(c.ord) AS first FROM unnest(given) WITH ORDINALITY AS c (v, ord) GROUP BY c.v) AS d;
            chosen := candidates;
        ELSIF rule.strategy = 'union' THEN
            IF column_.typcategory = 'A' THEN
                EXECUTE format(
                    'SELECT (array_agg(d.e ORDER BY d.list, d.place))::%1$s::text
                     FROM (SELECT DISTINCT ON (e.e) e.e, v.ord AS list, e.ord AS place
                           FROM unnest($1) WITH ORDINALITY AS v (v, ord), unnest(v.v::%1$s) WITH ORDINALITY AS e (e, ord)
                           ORDER BY e.e, v.ord, e.ord) AS d', column_.type)
                INTO value
                USING given;
            ELSIF column_.typid = 'jsonb'::regtype THEN
                IF (SELECT bool_and(jsonb_typeof(c.v::jsonb) = 'object') FROM unnest(given) AS c (v)) THEN
                    SELECT jsonb_object_agg(d.key, d.value)::text INTO value
                    FROM (SELECT DISTINCT ON (e.key) e.key, e.value
                          FROM unnest(given) WITH ORDINALITY AS c (v, ord),
                               jsonb_each(c.v::jsonb) AS e
                          ORDER BY e.key, c.ord) AS d;
                ELSIF (SELECT bool_and(jsonb_typeof(c.v::jsonb) = 'array') FROM unnest(given) AS c (v)) THEN
                    SELECT jsonb_agg(d.value ORDER BY d.ord, d.place)::text INTO value
                    FROM (SELECT DISTINCT ON (e.value) e.value, c.ord, e.place
                          FROM unnest(given) WITH ORDINALITY AS c (v, ord),
                               jsonb_array_elements(c.v::jsonb) WITH ORDINALITY AS e (value, place)
                          ORDER BY e.value, c.ord, e.place) AS d;
                END IF;
            ELSIF column_.typcategory = 'S' THEN
                SELECT string_agg(d.v, coalesce(rule.separator, ';') ORDER BY d.ord, d.place) INTO value
                FROM (SELECT DISTINCT ON (btrim(e.v)) btrim(e.v) AS v, c.ord, e.place
                      FROM unnest(given) WITH ORDINALITY AS c (v, ord),
                           unnest(string_to_array(c.v, coalesce(rule.separator, ';'))) WITH ORDINALITY AS e (v, place)
                      WHERE btrim(e.v) <> ''
                      ORDER BY btrim(e.v), c.ord, e.place) AS d;
            END IF;
            chosen := candidates;
        END IF;

        IF value IS DISTINCT FROM images[1] ->> column_.name THEN
            result_set := result_set || jsonb_build_object(column_.name, value);
            result_fields := result_fields || jsonb_build_object(column_.name, jsonb_build_object(
                'strategy', rule.strategy,
                'from', (SELECT jsonb_agg(n.id ORDER BY c.ord)
                         FROM unnest(chosen) WITH ORDINALITY AS c (i, ord) JOIN unnest(ids) WITH ORDINALITY AS n (id, i) ON n.i = c.i)));
        END IF;
    END LOOP;
    RETURN jsonb_build_object('set', result_set, 'fields', result_fields);
END
$$;

COMMENT ON FUNCTION crm._survivorship(regclass, text[], jsonb[], text[], jsonb, jsonb, integer[]) IS
'The survivor''s new values and where they come from. Takes the table, its key columns, images of the records (the survivor first), their ids, the rows of merge_rule that apply, the systems each record is known in, and what crm._merge_order() says of the images. Typed comparisons run as the caller, the table''s owner.';

CREATE FUNCTION crm._merge_begin_escalations(workspace regnamespace, kind text, survivor text, losers text[]) RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    result jsonb;
    about text := '';
BEGIN
    -- Activities that are merged may begin the clocks of what they are about anew.
    IF kind = 'activity' THEN
        SELECT coalesce(string_agg(format(' OR e.kind = %L AND e.record_id IN (SELECT a.%I FROM %s.activity AS a WHERE a.id = ANY ($2::bigint[]))',
                                          left(c.attname, -3), c.attname, workspace), ''), '') INTO about
        FROM pg_attribute AS c
        WHERE c.attrelid = format('%s.activity', workspace)::regclass AND c.attname ~ '_id$' AND NOT c.attisdropped;
    END IF;
    EXECUTE format('SELECT jsonb_agg(jsonb_build_object(''escalation'', to_jsonb(e), ''reminder'', to_jsonb(r)) ORDER BY e.id)
                    FROM %1$s.escalation AS e
                    LEFT JOIN %1$s.reminder AS r ON r.escalation_id = e.id
                    WHERE e.kind = $1 AND e.record_id = ANY ($2::bigint[])%2$s', workspace, about)
    INTO result USING kind, losers || survivor;
    -- With the records they end; their reminders are not to be taken along first.
    IF result IS NOT NULL THEN
        EXECUTE format('DELETE FROM %s.escalation AS e WHERE e.kind = $1 AND e.record_id = ANY ($2::bigint[])', workspace) USING kind, losers;
    END IF;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._merge_begin_escalations(regnamespace, text, text, text[]) IS
'Ends the escalations of records that a merge removes; returns where they and all others stood that the merge may change, with the reminders that wait for the next step. NULL: nowhere.';

CREATE FUNCTION crm._merge_end_escalations(workspace regnamespace, before jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    result jsonb;
BEGIN
    EXECUTE format('SELECT jsonb_build_object(''before'', $1, ''after'', coalesce(jsonb_agg(to_jsonb(e)), ''[]''))
                    FROM %s.escalation AS e
                    WHERE (e.rule_id, e.record_id) IN (SELECT (b.value #>> ''{escalation,rule_id}'')::bigint, (b.value #>> ''{escalation,record_id}'')::bigint
                                                       FROM jsonb_array_elements($1) AS b)', workspace)
    INTO result USING before;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._merge_end_escalations(regnamespace, jsonb) IS
'What merge_log keeps of escalations: where they stood before the merge and after it.';

CREATE FUNCTION crm._unmerge_escalations(workspace regnamespace, escalations jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
BEGIN
    -- Unless somebody acted meanwhile, time goes on from where it stood.
    FOR item IN EXECUTE format(
        'SELECT now.id, b.value -> ''escalation'' AS escalation, nullif(b.value -> ''reminder'', ''null'') AS reminder
         FROM jsonb_array_elements($1 -> ''before'') AS b
         JOIN %1$s.escalation AS now ON now.rule_id = (b.value #>> ''{escalation,rule_id}'')::bigint
                                    AND now.record_id = (b.value #>> ''{escalation,record_id}'')::bigint
         LEFT JOIN jsonb_array_elements($1 -> ''after'') AS a
           ON a.value -> ''rule_id'' = b.value #> ''{escalation,rule_id}'' AND a.value -> ''record_id'' = b.value #> ''{escalation,record_id}''
         WHERE CASE WHEN a.value IS NOT NULL THEN a.value = to_jsonb(now)
                    ELSE now.clock_at <= (b.value #>> ''{escalation,clock_at}'')::timestamptz END
         ORDER BY now.id', workspace) USING escalations
    LOOP
        EXECUTE format('DELETE FROM %s.escalation AS e WHERE e.id = $1', workspace) USING item.id;
        EXECUTE format('INSERT INTO %1$s.escalation SELECT e.* FROM jsonb_populate_record(NULL::%1$s.escalation, $1) AS e', workspace)
        USING item.escalation;
        IF item.reminder IS NOT NULL THEN
            EXECUTE format('INSERT INTO %1$s.reminder SELECT r.* FROM jsonb_populate_record(NULL::%1$s.reminder, $1) AS r', workspace)
            USING item.reminder;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._unmerge_escalations(regnamespace, jsonb) IS
'Puts escalations back to where _merge_begin_escalations() found them, but for those that began anew since.';

CREATE FUNCTION crm._merge_cluster(workspace regnamespace, kind text, cluster_id bigint, threshold real, run_id bigint,
    OUT merge_id bigint, OUT survivor bigint, OUT losers bigint[], OUT note text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    members bigint[];
BEGIN
    -- Sure is a cluster whose weakest pair is, and in which nobody has doubts.
    EXECUTE format(
        'WITH member AS (SELECT c.record_id, c.state FROM %1$s.duplicate_cluster AS c WHERE c.kind = $1 AND c.cluster_id = $2),
              pair AS (SELECT p.left_id, p.right_id, p.score, p.state FROM %1$s.duplicate_pair AS p
                       WHERE p.kind = $1 AND p.left_id IN (SELECT m.record_id FROM member AS m) AND p.right_id IN (SELECT m.record_id FROM member AS m))
         SELECT (SELECT array_agg(m.record_id ORDER BY m.record_id) FROM member AS m),
                CASE WHEN (SELECT count(*) < 2 OR bool_or(m.state <> ''open'') FROM member AS m) THEN ''it is not open any more''
                     WHEN count(*) = 0 THEN ''no pair of it is known''
                     WHEN bool_or(p.state <> ''open'') THEN ''a pair of it was decided''
                     WHEN min(p.score) < $3 THEN ''below the threshold''
                     WHEN (SELECT count(DISTINCT r.id) FROM pair AS q, unnest(ARRAY[q.left_id, q.right_id]) AS r (id)) < (SELECT count(*) FROM member)
                     THEN ''a record of it is in no pair'' END
         FROM pair AS p', workspace)
    INTO members, note USING kind, cluster_id, threshold;
    IF note IS NOT NULL THEN
        RETURN;
    END IF;
    survivor := crm._fullest_record(workspace, kind, members);
    losers := array_remove(members, survivor);
    BEGIN
        merge_id := crm.merge_records(workspace, kind, survivor::text, losers::text[], false, run_id);
    EXCEPTION
        WHEN serialization_failure OR deadlock_detected THEN
            RAISE;
        WHEN OTHERS THEN
            note := SQLERRM;
    END;
END
$$;

COMMENT ON FUNCTION crm._merge_cluster(regnamespace, text, bigint, real, bigint) IS
'Merges one cluster as part of a run if its weakest pair has at least the threshold; otherwise note says why not.';

CREATE FUNCTION crm._check_cluster_arguments(workspace regnamespace, kind text, threshold real) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF workspace IS NULL OR kind IS NULL OR threshold IS NULL THEN
        RAISE EXCEPTION 'workspace, kind and threshold must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF NOT threshold BETWEEN 0 AND 1 THEN
        RAISE EXCEPTION 'threshold must be between 0 and 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM crm._kind_table(workspace, kind);
END
$$;

COMMENT ON FUNCTION crm._check_cluster_arguments(regnamespace, text, real) IS
'Errors unless the kind is known and the threshold is a probability.';

CREATE FUNCTION crm._open_clusters(workspace regnamespace, kind text) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT c.cluster_id FROM %s.duplicate_cluster AS c WHERE c.kind = $1
                                 GROUP BY c.cluster_id HAVING count(*) > 1 AND bool_and(c.state = ''open'')
                                 ORDER BY c.cluster_id', workspace) USING kind;
END
$$;

COMMENT ON FUNCTION crm._open_clusters(regnamespace, text) IS
'The clusters of a kind that are open, as the caller sees them.';

CREATE FUNCTION crm.merge_clusters(workspace regnamespace, kind text, threshold real, max_merges integer DEFAULT NULL,
    OUT cluster_id bigint, OUT merge_id bigint, OUT survivor bigint, OUT losers bigint[], OUT note text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run_id bigint := 0;
    merges integer := 0;
BEGIN
    PERFORM crm._check_cluster_arguments(workspace, kind, threshold);
    FOR cluster_id IN SELECT c FROM crm._open_clusters(workspace, kind) AS c LOOP
        EXIT WHEN merges >= max_merges;
        SELECT m.merge_id, m.survivor, m.losers, m.note INTO merge_id, survivor, losers, note
        FROM crm._merge_cluster(workspace, kind, cluster_id, threshold, run_id) AS m;
        IF merge_id IS NOT NULL THEN
            merges := merges + 1;
            run_id := CASE run_id WHEN 0 THEN merge_id ELSE run_id END;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm.merge_clusters(regnamespace, text, real, integer) IS
'Merges each open cluster of a kind whose weakest pair has at least the given score (0 to 1) into its fullest record, in one transaction and as one run; no more than max_merges (NULL: all). Returns a row a cluster: the merge, or in note why it was left alone; one that fails does not stop the others. The caller must see duplicate_pair and duplicate_cluster and be allowed to merge the records.';

-- Names are qualified where this procedure has no search path of its own: one that
-- commits cannot have settings.
CREATE PROCEDURE crm.merge_all_clusters(workspace regnamespace, kind text, threshold real)
LANGUAGE plpgsql
AS $$
DECLARE
    clusters bigint[];
    cluster_id bigint;
    merged record;
    run_id bigint := 0;
    merges integer := 0;
    left_alone integer := 0;
BEGIN
    PERFORM crm._check_cluster_arguments(workspace, kind, threshold);
    SELECT pg_catalog.array_agg(c) INTO clusters FROM crm._open_clusters(workspace, kind) AS c;
    FOREACH cluster_id IN ARRAY coalesce(clusters, '{}'::pg_catalog.int8[]) LOOP
        SELECT m.merge_id, m.note INTO merged FROM crm._merge_cluster(workspace, kind, cluster_id, threshold, run_id) AS m;
        IF merged.merge_id IS NULL THEN
            left_alone := left_alone OPERATOR(pg_catalog.+) 1;
        ELSE
            merges := merges OPERATOR(pg_catalog.+) 1;
            IF run_id OPERATOR(pg_catalog.=) 0 THEN
                run_id := merged.merge_id;
            END IF;
            COMMIT;
        END IF;
    END LOOP;
    RAISE INFO '% clusters merged, % left alone', merges, left_alone
        USING DETAIL = CASE WHEN merges OPERATOR(pg_catalog.>) 0 THEN pg_catalog.format('The run has number %s.', run_id) ELSE 'There is no run.' END;
END
$$;

COMMENT ON PROCEDURE crm.merge_all_clusters(regnamespace, text, real) IS
'The same as crm.merge_clusters(), each cluster in a transaction of its own: others wait no longer than for one merge, what was merged stays if the call is cancelled or the server stops, and calling again goes on with the rest. merge_log shows how far it is. Not inside a transaction block.';

CREATE FUNCTION crm.unmerge_all(workspace regnamespace, merge_ids bigint[],
    OUT merge_id bigint, OUT undone boolean, OUT table_name text, OUT record jsonb, OUT field text, OUT merged text, OUT kept text, OUT note text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    edits jsonb;
BEGIN
    IF workspace IS NULL OR merge_ids IS NULL THEN
        RAISE EXCEPTION 'workspace and merge_ids must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- The latest first, so that chains come apart.
    FOR merge_id IN SELECT DISTINCT i FROM unnest(merge_ids) AS i WHERE i IS NOT NULL ORDER BY i DESC LOOP
        table_name := NULL; record := NULL; field := NULL; merged := NULL; kept := NULL; note := NULL; edits := NULL;
        BEGIN
            SELECT jsonb_agg(to_jsonb(u)) INTO edits FROM crm.unmerge(workspace, merge_id) AS u;
            undone := true;
        EXCEPTION
            WHEN serialization_failure OR deadlock_detected THEN
                RAISE;
            WHEN OTHERS THEN
                undone := false;
                note := SQLERRM;
        END;
        IF edits IS NULL THEN
            RETURN NEXT;
        ELSE
            RETURN QUERY
            SELECT merge_id, true, e.table_name, e.record, e.field, e.merged, e.kept, e.note
            FROM jsonb_to_recordset(edits) AS e (table_name text, record jsonb, field text, merged text, kept text, note text);
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm.unmerge_all(regnamespace, bigint[]) IS
'Undoes several merges, the latest first. One row for each: undone, with every edit since the merge that was kept as a row of its own; or not undone, and in note why not, which does not stop the others.';

---------------------------------------------------------------------
-- merge_approval
---------------------------------------------------------------------

-- Merges that somebody has to agree to.

CREATE FUNCTION crm._may_approve_merge(workspace regnamespace, kind text, ids text[], approver text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    result boolean;
BEGIN
    IF crm.is_administrator(workspace) THEN
        RETURN true;
    END IF;
    SELECT r.rel, r.owner_column, r.id_column INTO t FROM crm._record_tables(workspace) AS r WHERE r.kind = _may_approve_merge.kind;
    IF approver = 'administrator' OR t.rel IS NULL OR NOT crm._are_integers(ids) THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT count(*) = cardinality($1) FROM %s AS t WHERE t.%I = ANY ($1::bigint[]) AND crm.can_delete($2, t.%I)', t.rel, t.id_column, t.owner_column)
    INTO result USING ids, workspace;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._may_approve_merge(regnamespace, text, text[], text) IS
'May the session''s member agree to a merge of these records? approver owner: who has the owner''s rights over every one of them; administrator, and in any case: members with access all.';

CREATE FUNCTION crm._are_integers(ids text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN NOT EXISTS (SELECT FROM unnest(ids) AS i WHERE i IS NULL OR i !~ '^-?[0-9]{1,18}$');

COMMENT ON FUNCTION crm._are_integers(text[]) IS 'Whether all texts are integers of at most 18 digits.';

CREATE FUNCTION crm._merge_approval_query(workspace regnamespace, kind text, condition text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record := crm._kind_table(workspace, kind);
BEGIN
    RETURN format('SELECT EXISTS (SELECT FROM %1$s AS new, %1$s AS old WHERE new.%2$I = $1::%3$s AND old.%2$I = ANY ($2::%3$s[]) AND (%4$s))',
                  t.rel, t.id_column, (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a WHERE a.attrelid = t.rel AND a.attname = t.id_column),
                  coalesce(condition, 'true'));
END
$$;

COMMENT ON FUNCTION crm._merge_approval_query(regnamespace, text, text) IS
'The query that says whether a rule of merge_approval_rule is about a merge of the survivor ($1) and losers ($2), as text.';

CREATE FUNCTION crm._merge_approval(workspace regnamespace, kind text, survivor text, losers text[]) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rule record;
    concerned boolean;
BEGIN
    FOR rule IN EXECUTE format('SELECT r.name, r.condition, r.approver FROM %s.merge_approval_rule AS r
                                WHERE r.kind = $1 AND r.active ORDER BY r.approver, r.id', workspace) USING kind
    LOOP
        EXECUTE crm._merge_approval_query(workspace, kind, rule.condition) INTO concerned USING survivor, losers;
        IF concerned AND NOT crm._may_approve_merge(workspace, kind, losers || survivor, rule.approver) THEN
            RETURN format('By rule "%s" %s has to agree.', rule.name,
                          CASE rule.approver WHEN 'owner' THEN 'whoever has the owner''s rights over every one of the records' ELSE 'an administrator of the workspace' END);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION crm._merge_approval(regnamespace, text, text, text[]) IS
'By which rule the session''s member may not merge these records without approval, as a sentence; NULL: by none. Must run as the workspace''s owner.';

CREATE FUNCTION crm.merge_approval_config() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE 'SELECT FROM (' || crm._merge_approval_query((SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = TG_RELID), NEW.kind, NEW.condition) || ') AS q LIMIT 0'
    USING NULL::text, NULL::text[];
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION crm.merge_approval_config() IS
'Trigger of table merge_approval_rule: refuses a kind that does not exist and a condition that its table cannot have.';

CREATE FUNCTION crm.merge_request_changed() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    workspace regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = TG_RELID);
    ids text[] := NEW.loser_ids || NEW.survivor_id;
    t record;
    seen bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        t := crm._kind_table(workspace, NEW.kind);
        EXECUTE format('SELECT count(*) FROM %s AS t WHERE t.%I::text = ANY ($1)', t.rel, t.id_column) INTO seen USING ids;
        IF seen <> (SELECT count(DISTINCT i) FROM unnest(ids) AS i) OR seen <> cardinality(ids) OR seen < 2 THEN
            RAISE EXCEPTION 'cannot request to merge these records of kind "%"', NEW.kind
                USING ERRCODE = 'no_data_found',
                      DETAIL = 'One of them does not exist or is not visible, or is named twice.';
        END IF;
        NEW.requested_by := crm.member_id(workspace);
        NEW.requested_at := clock_timestamp();
        NEW.state := 'open';
        RETURN NEW;
    END IF;
    IF NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    IF OLD.state <> 'open' THEN
        RAISE EXCEPTION 'merge request % has been decided', OLD.id
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('It is %s.', OLD.state);
    END IF;
    IF NEW.state = 'approved' THEN
        -- Whoever agrees merges: their rights count, and a rule they may not decide stops them.
        NEW.merge_id := crm.merge_records(workspace, OLD.kind, OLD.survivor_id, OLD.loser_ids);
    ELSIF NEW.state = 'refused' AND NOT crm._may_approve_merge(workspace, OLD.kind, ids, 'owner')
          OR NEW.state = 'withdrawn' AND OLD.requested_by IS DISTINCT FROM crm.member_id(workspace) THEN
        RAISE EXCEPTION 'permission denied to decide about merge request %', OLD.id
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'It is withdrawn by whoever made it, and refused by who may agree to it.';
    END IF;
    NEW.decided_by := crm.member_id(workspace);
    NEW.decided_at := clock_timestamp();
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION crm.merge_request_changed() IS
'Trigger of table merge_request: who asks must see the records; setting state approved merges them as the person who does it.';

---------------------------------------------------------------------
-- review
---------------------------------------------------------------------

-- People decide about what a scan found.

CREATE FUNCTION crm._kind_table(workspace regnamespace, kind text, OUT rel regclass, OUT id_column name)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT c.oid, a.attname INTO rel, id_column
    FROM pg_class AS c
    JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
    WHERE c.oid = coalesce((SELECT w.oid FROM pg_class AS w WHERE w.relnamespace = workspace AND w.relname = kind), to_regclass(kind));
    IF rel IS NULL THEN
        RAISE EXCEPTION 'kind "%" does not exist', kind
            USING ERRCODE = 'undefined_table',
                  HINT = 'A kind is a table of the workspace, such as account, or the qualified name of another table, with a primary key of one column.';
    END IF;
END
$$;

COMMENT ON FUNCTION crm._kind_table(regnamespace, text) IS
'The table of a kind, one of the workspace or the qualified name of another, and the column of its primary key.';

CREATE FUNCTION crm._record_name(record jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN coalesce(nullif(btrim(record ->> 'name'), ''), nullif(btrim(record ->> 'full_name'), ''),
                nullif(concat_ws(' ', nullif(btrim(record ->> 'given_name'), ''), nullif(btrim(record ->> 'family_name'), '')), ''),
                nullif(btrim(record ->> 'company'), ''), nullif(btrim(record ->> 'subject'), ''), nullif(btrim(record ->> 'email'), ''));

COMMENT ON FUNCTION crm._record_name(jsonb) IS
'What people call a record: the first of name, full_name, given_name and family_name, company, subject and email that is filled.';

CREATE FUNCTION crm._record_name(workspace regnamespace, kind text, id bigint) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    name text;
BEGIN
    SELECT r.rel, r.id_column INTO t FROM crm._record_tables(workspace) AS r WHERE r.kind = _record_name.kind;
    IF FOUND THEN
        EXECUTE format('SELECT crm._record_name(to_jsonb(r)) FROM %s AS r WHERE r.%I = $1', t.rel, t.id_column) INTO name USING id;
    END IF;
    RETURN name;
END
$$;

COMMENT ON FUNCTION crm._record_name(regnamespace, text, bigint) IS
'What people call a record of any kind, with the caller''s rights; NULL if it cannot be seen.';

CREATE FUNCTION crm._pair_sides(workspace regnamespace, kind text, left_id bigint, right_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE COST 10000
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    sides jsonb[];
BEGIN
    -- The pairs of a table that was dropped stay until somebody deletes them.
    IF to_regclass(format('%s.%I', workspace, kind)) IS NULL AND strpos(kind, '.') = 0 THEN
        RETURN NULL;
    END IF;
    t := crm._kind_table(workspace, kind);
    EXECUTE format('SELECT ARRAY[to_jsonb(l), to_jsonb(r)] FROM %1$s AS l, %1$s AS r WHERE l.%2$I = $1 AND r.%2$I = $2', t.rel, t.id_column)
    INTO sides USING left_id, right_id;
    RETURN jsonb_build_object(
        'left', crm._record_name(sides[1]),
        'right', crm._record_name(sides[2]),
        'differences', (SELECT coalesce(jsonb_object_agg(f.key, jsonb_build_array(f.value, sides[2] -> f.key)), '{}')
                        FROM jsonb_each(sides[1]) AS f
                        WHERE coalesce(btrim(f.value #>> '{}'), '') IS DISTINCT FROM coalesce(btrim(sides[2] ->> f.key), '')
                          AND f.key NOT IN (t.id_column, 'created_at', 'updated_at', 'row_version')));
END
$$;

COMMENT ON FUNCTION crm._pair_sides(regnamespace, text, bigint, bigint) IS
'Two records side by side, as the caller may see them: {"left": name, "right": name, "differences": {field: [left value, right value]}}.';

CREATE FUNCTION crm._fullest_record(workspace regnamespace, kind text, ids bigint[]) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record := crm._kind_table(workspace, kind);
    result bigint;
BEGIN
    EXECUTE format('SELECT t.%2$I FROM %1$s AS t WHERE t.%2$I = ANY ($1)
                    ORDER BY (SELECT count(*) FROM jsonb_each_text(to_jsonb(t)) AS f WHERE btrim(f.value) <> '''') DESC, t.%2$I
                    LIMIT 1', t.rel, t.id_column) INTO result USING ids;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._fullest_record(regnamespace, text, bigint[]) IS
'The record with the most fields filled, among equals the oldest (lowest id): into which the others are merged unless somebody says otherwise.';

CREATE FUNCTION crm.cluster_members(workspace regnamespace, kind text, cluster_id bigint, OUT survivor bigint, OUT losers bigint[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    members bigint[];
BEGIN
    EXECUTE format('SELECT array_agg(c.record_id ORDER BY c.record_id) FROM %s.duplicate_cluster AS c
                    WHERE c.kind = $1 AND c.cluster_id = $2 AND c.state = ''open''', workspace)
    INTO members USING kind, cluster_id;
    IF members IS NULL THEN
        RAISE EXCEPTION 'there is no open cluster % of kind "%"', cluster_id, kind
            USING ERRCODE = 'no_data_found',
                  DETAIL = 'There is none, it was merged, or you may not see its records.';
    END IF;
    survivor := crm._fullest_record(workspace, kind, members);
    losers := array_remove(members, survivor);
END
$$;

COMMENT ON FUNCTION crm.cluster_members(regnamespace, text, bigint) IS
'The records of an open cluster as merge_clusters() would merge them: the fullest survives.';

-- What a decision by UPDATE of duplicate_pair leaves behind.
CREATE FUNCTION crm.duplicate_decision() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    workspace regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = TG_RELID);
BEGIN
    -- Merging and scanning write as the owner of the table, who is trusted to say who decided.
    IF pg_has_role((SELECT c.relowner FROM pg_class AS c WHERE c.oid = TG_RELID), 'USAGE') THEN
        IF NEW.state <> OLD.state AND NEW.decided_at IS NOT DISTINCT FROM OLD.decided_at THEN
            NEW.decided_at := CASE WHEN NEW.state <> 'open' THEN clock_timestamp() END;
            NEW.decided_by := CASE WHEN NEW.state <> 'open' THEN coalesce(crm.member_id(workspace), NEW.decided_by) END;
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.state = 'merged' AND OLD.state <> 'merged' THEN
        RAISE EXCEPTION 'pair % is not merged by saying so', OLD.id
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'Its state becomes merged when its records are.',
                  HINT = format('UPDATE %s.duplicate_review SET decision = ''merge'' WHERE pair_id = %s, or use merge_records().', workspace, OLD.id);
    END IF;
    NEW.decided_by := CASE WHEN NEW.state = OLD.state THEN OLD.decided_by WHEN NEW.state <> 'open' THEN crm.member_id(workspace) END;
    NEW.decided_at := CASE WHEN NEW.state = OLD.state THEN OLD.decided_at WHEN NEW.state <> 'open' THEN clock_timestamp() END;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION crm.duplicate_decision() IS
'Trigger of table duplicate_pair: notes who decided and when, whatever the statement says, and lets nobody but a merge call a pair merged.';

CREATE FUNCTION crm.decide_pair(workspace regnamespace, pair_id bigint, decision text, survivor bigint DEFAULT NULL, later_until timestamptz DEFAULT NULL)
RETURNS bigint LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pair record;
    merge_id bigint;
    changed bigint;
BEGIN
    IF workspace IS NULL OR pair_id IS NULL OR decision IS NULL THEN
        RAISE EXCEPTION 'workspace, pair and decision must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF decision NOT IN ('merge', 'duplicate', 'not_duplicate', 'ignore', 'later', 'open') THEN
        RAISE EXCEPTION 'unrecognized decision: "%"', decision
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Decisions are merge, duplicate, not_duplicate, ignore, later and open.';
    END IF;
    EXECUTE format('SELECT p.kind, p.left_id, p.right_id, p.state FROM %s.duplicate_pair AS p WHERE p.id = $1', workspace) INTO pair USING pair_id;
    IF pair.kind IS NULL THEN
        RAISE EXCEPTION 'pair % does not exist', pair_id
            USING ERRCODE = 'no_data_found', DETAIL = 'There is no such pair, or you may not see both of its records.';
    END IF;
    IF decision = 'merge' THEN
        IF pair.state = 'merged' THEN
            RETURN NULL;
        END IF;
        survivor := coalesce(survivor, crm._fullest_record(workspace, pair.kind, ARRAY[pair.left_id, pair.right_id]), pair.left_id);
        IF survivor NOT IN (pair.left_id, pair.right_id) THEN
            RAISE EXCEPTION '% % is not in pair %', pair.kind, survivor, pair_id USING ERRCODE = 'invalid_parameter_value';
        END IF;
        RETURN crm.merge_records(workspace, pair.kind, survivor::text,
                                 ARRAY[CASE survivor WHEN pair.left_id THEN pair.right_id ELSE pair.left_id END]::text[], false);
    END IF;
    EXECUTE format('UPDATE %s.duplicate_pair AS p SET state = $2, later_until = $3 WHERE p.id = $1 AND p.state <> ''merged''', workspace)
    USING pair_id, CASE WHEN decision IN ('duplicate', 'not_duplicate') THEN decision WHEN decision = 'ignore' THEN 'ignored' ELSE 'open' END,
          CASE decision WHEN 'later' THEN coalesce(later_until, clock_timestamp() + interval '7 days') END;
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF changed = 0 THEN
        EXECUTE format('SELECT p.state FROM %s.duplicate_pair AS p WHERE p.id = $1', workspace) INTO pair.state USING pair_id;
        IF pair.state IS NOT NULL AND pair.state <> 'merged' THEN
            RAISE EXCEPTION 'permission denied to decide about pair %', pair_id
                USING ERRCODE = 'insufficient_privilege',
                      DETAIL = format('You may not change both %s %s and %s.', pair.kind, pair.left_id, pair.right_id);
        END IF;
        RAISE EXCEPTION 'pair % has been merged', pair_id
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'unmerge() tells its records apart again.';
    END IF;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION crm.decide_pair(regnamespace, bigint, text, bigint, timestamptz) IS
'Decides about a pair of duplicate_pair: merge (into survivor, or the fullest), duplicate (the same, to be merged some other time), not_duplicate, ignore, later (hidden until later_until, or for 7 days) or open (undecided again). Returns the number of the merge, NULL for other decisions and for a pair that is merged already. The caller must be allowed to change both records.';

CREATE FUNCTION crm.review_decision() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    workspace regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = TG_RELID);
    undecided boolean;
BEGIN
    -- The same statement may have decided it with another pair of the same records.
    EXECUTE format('SELECT EXISTS (SELECT FROM %s.duplicate_pair AS p WHERE p.id = $1 AND p.state = ''open'')', workspace)
    INTO undecided USING OLD.pair_id;
    IF NOT undecided THEN
        RETURN NULL;
    END IF;
    IF NEW.decision IS NULL AND (NEW.survivor_id IS NOT NULL OR NEW.later_until IS NOT NULL) THEN
        RAISE EXCEPTION 'nothing is decided about pair %', OLD.pair_id
            USING ERRCODE = 'null_value_not_allowed',
                  DETAIL = 'survivor_id and later_until only go with a decision.',
                  HINT = format('Set decision as well: %s.', CASE WHEN NEW.survivor_id IS NOT NULL THEN 'merge' ELSE 'later' END);
    END IF;
    IF NEW.decision IS NOT NULL THEN
        PERFORM crm.decide_pair(workspace, OLD.pair_id, NEW.decision, NEW.survivor_id, NEW.later_until);
    END IF;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION crm.review_decision() IS
'Trigger instead of UPDATE of view duplicate_review: does what column decision says.';

CREATE FUNCTION crm._create_review(workspace regnamespace) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    EXECUTE format($view$
        CREATE OR REPLACE VIEW %1$s.duplicate_review WITH (security_invoker) AS
        SELECT p.id AS pair_id, p.kind, p.score, p.left_id, p.right_id, p.sides ->> 'left' AS left_name, p.sides ->> 'right' AS right_name,
               p.sides -> 'differences' AS differences, p.reasons, p.cluster_id, p.may_decide, p.created_at,
               NULL::text AS decision, NULL::bigint AS survivor_id, NULL::timestamptz AS later_until
        FROM (SELECT duplicate_pair.*,
                     (SELECT c.cluster_id FROM %1$s.duplicate_cluster AS c
                      WHERE c.kind = duplicate_pair.kind AND c.record_id = duplicate_pair.left_id AND c.state = 'open') AS cluster_id,
                     coalesce((%3$s) AND (%4$s), false) OR pg_has_role(%2$L, 'USAGE') AS may_decide,
                     crm._pair_sides(%5$L::regnamespace, duplicate_pair.kind, duplicate_pair.left_id, duplicate_pair.right_id) AS sides
              FROM %1$s.duplicate_pair
              WHERE duplicate_pair.state = 'open' AND (duplicate_pair.later_until IS NULL OR duplicate_pair.later_until <= now())) AS p
        $view$, workspace, (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace AS n WHERE n.oid = workspace),
        crm._record_rule(workspace, 'duplicate_pair', 'left_id', 'edit'), crm._record_rule(workspace, 'duplicate_pair', 'right_id', 'edit'), workspace);
END
$$;

COMMENT ON FUNCTION crm._create_review(regnamespace) IS
'Makes view duplicate_review of a workspace anew: who may decide about a pair depends on the kinds of records there are.';

CREATE FUNCTION crm.preview_record(workspace regnamespace, kind text, survivor text, losers text[],
    OUT field text, OUT value text, OUT sources text[], OUT strategy text, OUT choices jsonb, OUT refused text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
WITH dry AS MATERIALIZED (SELECT crm._preview_record(workspace, kind, survivor, losers) AS run)
SELECT f.key, f.value,
       CASE WHEN p.rule ->> 'refused' IS NOT NULL OR p.rule -> 'from' IS NULL THEN ARRAY[survivor]
            ELSE ARRAY(SELECT jsonb_array_elements_text(p.rule -> 'from')) END,
       p.rule ->> 'strategy', c.choices, p.rule ->> 'refused'
FROM dry
CROSS JOIN LATERAL jsonb_each_text(dry.run -> 'record') WITH ORDINALITY AS f (key, value, place)
CROSS JOIN LATERAL (SELECT dry.run -> 'fields' -> f.key AS rule) AS p
CROSS JOIN LATERAL (SELECT jsonb_object_agg(r.record ->> 'id', r.record -> 'image' -> f.key)
                           FILTER (WHERE btrim(r.record -> 'image' ->> f.key) <> '') AS choices
                    FROM jsonb_array_elements(dry.run -> 'records') AS r (record)) AS c
LEFT JOIN pg_attribute AS a ON a.attrelid = (crm._kind_table(workspace, kind)).rel AND a.attname = f.key
ORDER BY a.attnum, f.place
$$;

COMMENT ON FUNCTION crm.preview_record(regnamespace, text, text, text[]) IS
'What the record would look like that crm.merge_records() makes, a row a field: its value, the records it comes from, the strategy if it did not simply stay, what each record has that has something, and why a value could not be taken. Runs the merge and takes it back.';

CREATE FUNCTION crm._measure_duplicates(workspace regnamespace, kind text) RETURNS real
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record := crm._kind_table(workspace, kind);
    result real;
BEGIN
    EXECUTE format('INSERT INTO %1$s.duplicate_rate (kind, records, duplicates, clusters, open_pairs)
                    SELECT $1, (SELECT count(*) FROM %2$s), coalesce(sum(c.members - 1), 0), count(*),
                           (SELECT count(*) FROM %1$s.duplicate_pair AS p WHERE p.kind = $1 AND p.state = ''open'')
                    FROM (SELECT count(*) AS members FROM %1$s.duplicate_cluster AS d
                          WHERE d.kind = $1 AND d.state = ''open'' GROUP BY d.cluster_id HAVING count(*) > 1) AS c
                    RETURNING rate', workspace, t.rel) INTO result USING kind;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._measure_duplicates(regnamespace, text) IS
'Adds a row to duplicate_rate: how many records of a kind are there once too often by what the last scan found and people decided since. Returns the share, 0 to 1.';

---------------------------------------------------------------------
-- calendar
---------------------------------------------------------------------

CREATE FUNCTION crm.calendar_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_calendar_changed';

COMMENT ON FUNCTION crm.calendar_changed() IS
'Statement trigger of a workspace''s calendar tables: tells every session, when the change commits, to read its calendars again.';

CREATE FUNCTION crm.business_between(workspace regnamespace, from_time timestamptz, to_time timestamptz, calendar text) RETURNS interval
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_business_between';

COMMENT ON FUNCTION crm.business_between(regnamespace, timestamptz, timestamptz, text) IS
'Working time from one instant to another by a calendar of the workspace, in hours and smaller units; negative if the second is earlier.';

CREATE FUNCTION crm.business_add(workspace regnamespace, start_time timestamptz, amount interval, calendar text) RETURNS timestamptz
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_business_add';

COMMENT ON FUNCTION crm.business_add(regnamespace, timestamptz, interval, text) IS
'The earliest instant by which so much working time has passed; if amount is negative, the latest one from which so much passes until start_time. amount has no days or months (22023). Working time is known from 1900 to 2199 (22008).';

CREATE FUNCTION crm.business_add_days(workspace regnamespace, start_time timestamptz, days integer, calendar text) RETURNS timestamptz
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_business_add_days';

COMMENT ON FUNCTION crm.business_add_days(regnamespace, timestamptz, integer, text) IS
'The same time of day so many days with working hours later, or earlier if days is negative.';

CREATE FUNCTION crm.business_open(workspace regnamespace, at_time timestamptz, calendar text) RETURNS boolean
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_business_open';

COMMENT ON FUNCTION crm.business_open(regnamespace, timestamptz, text) IS
'Whether an instant lies in working hours, from the opening on and before the closing.';

CREATE FUNCTION crm._record_calendar(workspace regnamespace, working_time boolean, calendar text, owner_column name) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN calendar IS NOT NULL THEN format('%L::text', calendar)
            WHEN working_time THEN format('%s.calendar_of(new.%I)', workspace, owner_column)
            ELSE 'NULL::text' END;

COMMENT ON FUNCTION crm._record_calendar(regnamespace, boolean, text, name) IS
'SQL text: the calendar by which a rule counts time for record "new": its own, else, if it counts working time, that of the record''s owner; NULL if all time counts.';

CREATE FUNCTION crm.check_time_zone() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM now() AT TIME ZONE new.time_zone;
    RETURN new;
EXCEPTION WHEN invalid_parameter_value THEN
    RAISE EXCEPTION 'time zone "%" not recognized', new.time_zone
        USING ERRCODE = 'invalid_parameter_value', SCHEMA = tg_table_schema, TABLE = tg_table_name, COLUMN = 'time_zone',
              HINT = 'Names are like Europe/Berlin; pg_timezone_names lists them.';
END
$$;

COMMENT ON FUNCTION crm.check_time_zone() IS
'Row trigger of tables with a column time_zone: refuses a zone that this server does not know (22023).';

---------------------------------------------------------------------
-- recurrence
---------------------------------------------------------------------

CREATE FUNCTION crm.recurrence(rule text) RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_recurrence';

COMMENT ON FUNCTION crm.recurrence(text) IS
'The recurrence rule, or an error (22023) that says what is wrong with it. A rule is an RRULE value of RFC 5545, such as FREQ=MONTHLY;BYDAY=-1FR, and may be followed by lines EXDATE:... and RDATE:... of local times such as 20261231T090000, of UTC times with a Z, or of dates. COUNT and INTERVAL are at most 1,000,000, a rule at most 8,192 bytes.';

CREATE FUNCTION crm.next_occurrence(rule text, starts_at timestamp, time_zone text, after timestamptz) RETURNS timestamptz
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_next_occurrence';

COMMENT ON FUNCTION crm.next_occurrence(text, timestamp, text, timestamptz) IS
'The first occurrence of a recurrence rule after an instant; NULL if there is none. The rule begins at starts_at, a wall-clock time in the IANA time zone, and keeps to the wall clock: a time that a transition skips occurs as much later, one that comes twice occurs the first time. Occurrences end with the year 9999; a rule that yields nothing in 1,000,000 periods is an error (54000).';

CREATE FUNCTION crm.occurrences(rule text, starts_at timestamp, time_zone text DEFAULT 'UTC', after timestamptz DEFAULT '-infinity', max integer DEFAULT 100) RETURNS SETOF timestamptz
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_occurrences';

COMMENT ON FUNCTION crm.occurrences(text, timestamp, text, timestamptz, integer) IS
'The first max (0 to 100000) occurrences of a recurrence rule after an instant, as crm.next_occurrence() finds them one by one.';

CREATE FUNCTION crm._count_occurrences(rule text, starts_at timestamp, time_zone text, after timestamptz, upto timestamptz) RETURNS integer
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_count_occurrences';

COMMENT ON FUNCTION crm._count_occurrences(text, timestamp, text, timestamptz, timestamptz) IS
'How many occurrences of a recurrence rule lie after one instant and not after another; 10000 if there are more.';

---------------------------------------------------------------------
-- icalendar
---------------------------------------------------------------------

CREATE FUNCTION crm.icalendar_property(name text, value text) RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_icalendar_property';

COMMENT ON FUNCTION crm.icalendar_property(text, text) IS
'A content line of iCalendar (RFC 5545), name:value, folded to 75 octets between characters and ended by CRLF; parameters belong to the name. The value is taken as it is, except that control characters other than the tab are left out. NULL: an empty string.';

CREATE FUNCTION crm.icalendar_text(name text, value text) RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_icalendar_text';

COMMENT ON FUNCTION crm.icalendar_text(text, text) IS
'The same for values of type TEXT, which it escapes (RFC 5545, 3.3.11): backslash, semicolon and comma; line ends become \n. Use it for everything that people wrote.';

CREATE FUNCTION crm.icalendar_time(name text, value timestamptz, time_zone text DEFAULT 'UTC') RETURNS text
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_icalendar_time';

COMMENT ON FUNCTION crm.icalendar_time(text, timestamptz, text) IS
'The same for a point in time: in UTC, with a Z, or as wall-clock time of an IANA time zone, whose VTIMEZONE the calendar must have. Fractions of a second are cut off. NULL, infinity and years before 1 or after 9999: an empty string.';

CREATE FUNCTION crm.icalendar_recurrence(rule text, starts_at timestamp, time_zone text, since timestamptz) RETURNS text
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_icalendar_recurrence';

COMMENT ON FUNCTION crm.icalendar_recurrence(text, timestamp, text, timestamptz) IS
'What is left of a recurrence rule from an instant on, as properties of a component: DTSTART, RRULE, RDATE, EXDATE. DTSTART is the first time at or after the instant that the rule yields, COUNT what is left of it, UNTIL in UTC. NULL if nothing is left. Arguments and errors as in crm.next_occurrence().';

CREATE FUNCTION crm.icalendar_time_zone(time_zone text, since timestamptz, until timestamptz) RETURNS text
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_icalendar_time_zone';

COMMENT ON FUNCTION crm.icalendar_time_zone(text, timestamptz, timestamptz) IS
'The VTIMEZONE component of an IANA time zone, right for times from since until until, at most 100 years; an empty string for UTC. A name that is not one of a time zone is an error (22023).';

---------------------------------------------------------------------
-- reminder
---------------------------------------------------------------------

CREATE FUNCTION crm.now() RETURNS timestamptz
LANGUAGE C VOLATILE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_now_sql';

COMMENT ON FUNCTION crm.now() IS
'The clock by which reminders fire: the system''s time, as clock_timestamp() gives it.';

CREATE FUNCTION crm.reminder_wake() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_reminder_wake';

COMMENT ON FUNCTION crm.reminder_wake() IS
'Row trigger of a workspace''s reminder table: tells the scheduler, when the transaction commits, the least due time that was written.';

CREATE FUNCTION crm.run_due(max_events bigint DEFAULT NULL, workspace regnamespace DEFAULT NULL) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'crm_run_due';

COMMENT ON FUNCTION crm.run_due(bigint, regnamespace) IS
'Fires what is due, in the caller''s transaction: at most max_events reminders (NULL: all) of one workspace or of all workspaces of this database whose owner''s rights the caller has. Reminders locked by other transactions are left for later; another transaction that is firing is waited for. While the system''s clock, set far forward, is held, it is an error (55000). Returns the number of events written. Not needed while the scheduler runs.';

CREATE FUNCTION crm.scheduler_start() RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'crm_scheduler_start';

COMMENT ON FUNCTION crm.scheduler_start() IS
'Starts the scheduler of this cluster if crm is not in shared_preload_libraries, and returns "started" or "already running". Lasts until the server restarts; also tells a running scheduler to look at this database now.';

CREATE FUNCTION crm.scheduler_accept_clock() RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'crm_scheduler_accept_clock';

COMMENT ON FUNCTION crm.scheduler_accept_clock() IS
'Says that the system''s time is right after it was set forward by more than 15 minutes, so that firing goes on before crm.clock_hold has passed. Returns whether a step was held. For superusers and members of pg_signal_backend.';

CREATE FUNCTION crm._reminder_home(
    relation regclass, OUT database_id bigint, OUT system_id bigint, OUT table_id bigint, OUT written_xid bigint)
LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'crm_reminder_home';

COMMENT ON FUNCTION crm._reminder_home(regclass) IS
'What a workspace''s table reminder_home holds if its reminders are to fire in this database. The row must be written by the statement that calls this.';

CREATE FUNCTION crm._reminder_at_home(workspace regnamespace) RETURNS boolean
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_reminder_at_home_sql';

COMMENT ON FUNCTION crm._reminder_at_home(regnamespace) IS
'Whether a workspace''s reminders may fire in this database. False after it was restored or copied from another one, until it is adopted.';

CREATE FUNCTION crm.scheduler_adopt(workspace regnamespace DEFAULT NULL, catch_up text DEFAULT 'fire') RETURNS SETOF regnamespace
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    w regnamespace;
BEGIN
    IF catch_up IS NULL OR catch_up NOT IN ('fire', 'skip') THEN
        RAISE EXCEPTION 'unrecognized way to catch up: "%"', catch_up
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use fire or skip.';
    END IF;
    IF workspace IS NOT NULL AND NOT pg_has_role((SELECT n.nspowner FROM pg_namespace AS n WHERE n.oid = workspace), 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of workspace %', workspace
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    FOR w IN
        SELECT c.relnamespace::regnamespace
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relname = 'reminder_home' AND c.relkind = 'r' AND c.relnamespace = coalesce(workspace::oid, c.relnamespace)
          AND crm.is_workspace(c.relnamespace::regnamespace) AND pg_has_role(n.nspowner, 'USAGE')
        ORDER BY n.nspname
    LOOP
        CONTINUE WHEN crm._reminder_at_home(w);
        IF catch_up = 'skip' THEN
            EXECUTE format($sql$
                UPDATE %s.reminder AS r SET failed_at = crm.now(), failure = 'skipped: it was due before the workspace was adopted here'
                WHERE r.due_at <= crm.now() AND r.failed_at IS NULL$sql$, w);
        END IF;
        EXECUTE format('DELETE FROM %s.reminder_home', w);
        EXECUTE format('INSERT INTO %s.reminder_home (database_id, system_id, table_id, written_xid, adopted_by) '
                       'SELECT h.*, session_user FROM crm._reminder_home(%L) AS h', w, w || '.reminder_home');
        RETURN NEXT w;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm.scheduler_adopt(regnamespace, text) IS
'Lets the reminders of a workspace that was restored or copied from another database fire in this one; NULL: of all workspaces of which the caller has the owner''s rights. catch_up says what becomes of reminders that are due already: fire them, or skip them, which sets them aside (failed_at) with everything else they hold. Returns the workspaces adopted; one that is at home already is left alone. Only for a workspace''s owner (42501).';

CREATE FUNCTION crm.scheduler_status(
    OUT database name, OUT state text, OUT reason text, OUT pid integer, OUT next_due timestamptz, OUT backlog bigint,
    OUT oldest_due timestamptz, OUT set_aside bigint, OUT fired bigint, OUT batches bigint, OUT wakeups bigint,
    OUT p50 interval, OUT p95 interval, OUT p99 interval, OUT max_lateness interval, OUT lateness bigint[],
    OUT errors bigint, OUT error_at timestamptz, OUT error text, OUT mode text, OUT launcher_pid integer, OUT purged bigint)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'crm_scheduler_status';

COMMENT ON FUNCTION crm.scheduler_status() IS
'The scheduler, one row a database it knows; other databases than the current one are shown to members of pg_read_all_stats only. state, which reason explains: off, running, starting, idle (no worker is connected; the launcher starts one before next_due), waiting (for a free worker process), stopping (a command needs the database without connections), held (the clock was set far forward), quarantined (restored or copied from another database), backing off (the last worker failed). next_due: least due time the last worker knew. backlog, oldest_due, set_aside: reminders that are due and have not fired, the due time of the first of them, and those set aside by a failure; counted when asked, for the current database only, others have NULL. Counters start with the server. p50, p95, p99: upper bounds of lateness from the histogram. lateness[n] counts events written less than 2^(n-1) ms after they were due and not counted before, the last element all others. mode: preloaded, or dynamic if the scheduler does not outlive a restart of the server. purged: old events deleted, as the setting event_retention of their workspaces says.';

---------------------------------------------------------------------
-- escalation
---------------------------------------------------------------------

CREATE FUNCTION crm._escalation_due(clock_at timestamptz, after interval) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
RETURN timezone('UTC', timezone('UTC', clock_at) + after);

COMMENT ON FUNCTION crm._escalation_due(timestamptz, interval) IS
'When a level is due. A day has 24 hours, whatever the session''s time zone.';

CREATE FUNCTION crm._escalation_due(workspace regnamespace, calendar text, clock_at timestamptz, after interval) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    days integer := extract(day FROM after);
BEGIN
    IF calendar IS NULL THEN
        RETURN crm._escalation_due(clock_at, after);
    END IF;
    RETURN crm.business_add(workspace, CASE days WHEN 0 THEN clock_at ELSE crm.business_add_days(workspace, clock_at, days, calendar) END,
                            after - make_interval(days => days), calendar);
EXCEPTION WHEN datetime_field_overflow THEN
    -- A calendar that never comes so far is no reason to refuse the record.
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION crm._escalation_due(regnamespace, text, timestamptz, interval) IS
'When a level is due: working days, then hours, of a calendar, or days of 24 hours (NULL). NULL if never.';

CREATE FUNCTION crm._acted_at(at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE STRICT
SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN at = now() THEN crm.now() ELSE LEAST(at, crm.now()) END;

COMMENT ON FUNCTION crm._acted_at(timestamptz) IS
'A time in a record by the clock of reminders: the current transaction''s time is now, and nothing was done in the future.';

CREATE FUNCTION crm._escalation_query(workspace regnamespace, kind text, condition text, clock_column text, yearly boolean, rule_id bigint, working_time boolean, calendar text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    columns name[];
    clock text;
    zone text;
    terms text[] := '{}';
BEGIN
    SELECT * INTO t FROM crm._record_tables(workspace) AS r WHERE r.kind = _escalation_query.kind;
    IF NOT FOUND THEN
        -- The table is gone, and its records with it.
        RETURN 'SELECT NULL::bigint AS record_id, NULL::bigint AS owner_id, NULL::timestamptz AS clock_at, NULL::text AS calendar WHERE false';
    END IF;
    columns := ARRAY(SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = t.rel AND a.attnum > 0 AND NOT a.attisdropped);

    IF clock_column IS NULL THEN
        IF 'created_at' = ANY (columns) THEN
            terms := terms || 'crm._acted_at(new.created_at)'::text;
        END IF;
        IF EXISTS (SELECT FROM pg_attribute AS a
                   WHERE a.attrelid = format('%s.activity', workspace)::regclass AND a.attname = kind || '_id' AND NOT a.attisdropped) THEN
            -- What is planned for later is no follow-up yet.
            terms := terms || format('(SELECT max(crm._acted_at(coalesce(a.completed_at, a.created_at))) FROM %s.activity AS a
                                       WHERE a.%I = new.%I AND (a.completed_at IS NOT NULL OR a.due_at IS NULL OR a.due_at <= a.created_at))',
                                     workspace, kind || '_id', t.id_column);
        END IF;
        IF 'stage' = ANY (columns) THEN
            terms := terms || format('(SELECT max(h.changed_at) FROM %s.stage_history AS h WHERE h.kind = %L AND h.record_id = new.%I)',
                                     workspace, kind, t.id_column);
        END IF;
        clock := format('GREATEST(%s)', array_to_string(terms || '''-infinity'''::text, ', '));
    ELSE
        SELECT CASE a.atttypid WHEN 'timestamptz'::regtype THEN '%1$s' ELSE '(%1$s)::timestamp AT TIME ZONE %2$s' END INTO clock
        FROM pg_attribute AS a WHERE a.attrelid = t.rel AND a.attname = clock_column AND NOT a.attisdropped;
        zone := format('coalesce((SELECT m.time_zone FROM %s.member AS m WHERE m.id = new.%I), ''UTC'')', workspace, t.owner_column);
        IF yearly THEN
            -- The first return of the day whose last level is still to come.  29 February returns on the 28th in a common year.
            clock := format('(SELECT min(y.at) FROM (SELECT %s FROM generate_series(-1, 2) AS i) AS y (at)
                              WHERE crm._escalation_due(y.at, coalesce((SELECT max(l.after) FROM %s.escalation_level AS l WHERE l.rule_id = %s), ''0'')) > crm.now())',
                            format(clock, format('new.%1$I + make_interval(years => (extract(year FROM crm.now()) - extract(year FROM new.%1$I))::integer + i)', clock_column), zone),
                            workspace, coalesce(rule_id, 0));
        ELSE
            clock := format(clock, format('new.%I', clock_column), zone);
        END IF;
        -- A date nobody can compute with is no reason to refuse the record.
        clock := format('CASE WHEN new.%I BETWEEN ''0001-01-01'' AND ''9999-12-31'' THEN %s END', clock_column, clock);
    END IF;

    terms := ARRAY(SELECT format('new.%I IS NULL', c) FROM unnest(columns) AS c
                   WHERE c IN ('closed_at', 'converted_at') OR c = 'completed_at' AND kind = 'activity');
    IF 'stage' = ANY (columns) AND 'pipeline' = ANY (columns) THEN
        terms := terms || format('NOT EXISTS (SELECT FROM %s.stage AS s WHERE s.pipeline = new.pipeline AND s.name = new.stage AND s.type <> ''open'')', workspace);
    END IF;
    IF condition IS NOT NULL THEN
        terms := terms || ('(' || condition || ')');
    END IF;
    RETURN format('SELECT new.%I AS record_id, new.%I AS owner_id, %s AS clock_at, %s AS calendar FROM %s AS new', t.id_column, t.owner_column, clock,
                  crm._record_calendar(workspace, working_time, calendar, t.owner_column), t.rel)
           || ' WHERE ' || array_to_string(terms || 'true'::text, ' AND ');
END
$$;

COMMENT ON FUNCTION crm._escalation_query(regnamespace, text, text, text, boolean, bigint, boolean, text) IS
'The query for the open records of a kind that meet a condition: record_id, owner_id, clock_at (NULL if the clock column is), calendar (NULL: all time counts).';

CREATE FUNCTION crm._escalation_next(workspace regnamespace, escalation_id bigint, fired_at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    e record;
    next_due timestamptz;
BEGIN
    EXECUTE format('SELECT e.record_id, r.id, r.kind, r.condition, r.clock_column, r.yearly,
                           (SELECT min(d.at) FROM %1$s.escalation_level AS l CROSS JOIN LATERAL crm._escalation_due($3, e.calendar, e.clock_at, l.after) AS d (at)
                            WHERE l.rule_id = e.rule_id AND l.level > e.level AND d.at > $2) AS next_due
                    FROM %1$s.escalation AS e JOIN %1$s.escalation_rule AS r ON r.id = e.rule_id WHERE e.id = $1', workspace)
    INTO e USING escalation_id, fired_at, workspace;
    IF e.next_due IS NOT NULL OR NOT e.yearly THEN
        RETURN e.next_due;
    END IF;
    EXECUTE format('SELECT min(crm._escalation_due(s.clock_at, l.after)) FROM (%s) AS s, %s.escalation_level AS l
                    WHERE s.record_id = $1 AND l.rule_id = $2',
                   crm._escalation_query(workspace, e.kind, e.condition, e.clock_column, e.yearly, e.id, false, NULL), workspace)
    INTO next_due USING e.record_id, e.id;
    RETURN next_due;
END
$$;

COMMENT ON FUNCTION crm._escalation_next(regnamespace, bigint, timestamptz) IS
'When the next level of an escalation is due that is not due yet, of a yearly rule maybe next year''s; NULL if there is none.';

CREATE FUNCTION crm._sync_escalations(workspace regnamespace, kind text, ids bigint[] DEFAULT NULL, only_rule bigint DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r record;
    scope text;
    warned bigint[];
BEGIN
    FOR r IN EXECUTE format('SELECT e.id, e.condition, e.clock_column, e.yearly, e.active, e.starts_at, e.name, e.working_time, e.calendar FROM %s.escalation_rule AS e
                             WHERE e.kind = $1 AND ($2 IS NULL OR e.id = $2) ORDER BY e.id', workspace)
             USING kind, only_rule
    LOOP
        scope := crm._escalation_query(workspace, kind, r.condition, r.clock_column, r.yearly, r.id, r.working_time, r.calendar);
        -- Firing locks the reminder before the escalation; so must we.
        EXECUTE format('SELECT count(*) FROM (SELECT FROM %1$s.reminder AS r JOIN %1$s.escalation AS e ON e.id = r.escalation_id
                        WHERE e.rule_id = $1 AND ($2 IS NULL OR e.record_id = ANY ($2)) ORDER BY r.id FOR UPDATE OF r) AS l', workspace)
        USING r.id, ids;
        EXECUTE format('SELECT array_agg(e.record_id) FROM %s.escalation AS e WHERE e.rule_id = $1 AND e.record_id = ANY ($2) AND e.level > 0', workspace)
        INTO warned USING r.id, ids;

        EXECUTE format('WITH scope AS MATERIALIZED (
                            SELECT s.record_id, CASE WHEN $5 THEN GREATEST(s.clock_at, $4) ELSE s.clock_at END AS clock_at, s.calendar FROM (%1$s) AS s
                            WHERE $6 AND isfinite(s.clock_at) AND ($5 OR s.clock_at >= $4) AND ($2 IS NULL OR s.record_id = ANY ($2))),
                        ended AS (
                            DELETE FROM %2$s.escalation AS e
                            WHERE e.rule_id = $1 AND ($2 IS NULL OR e.record_id = ANY ($2))
                              AND NOT EXISTS (SELECT FROM scope AS s WHERE s.record_id = e.record_id))
                        INSERT INTO %2$s.escalation AS e (rule_id, kind, record_id, clock_at, calendar)
                        SELECT $1, $3, s.record_id, s.clock_at, s.calendar FROM scope AS s ORDER BY s.record_id
                        ON CONFLICT (rule_id, record_id) DO UPDATE SET clock_at = excluded.clock_at, level = 0, escalated_at = NULL, calendar = excluded.calendar
                        WHERE CASE WHEN $5 THEN excluded.clock_at > e.clock_at
                                   -- Another year of the same day is for the firing to begin.
                                   WHEN $7 THEN timezone(''UTC'', excluded.clock_at) - timezone(''UTC'', e.clock_at) NOT BETWEEN ''365 days'' AND ''366 days''
                                                AND excluded.clock_at <> e.clock_at
                                   ELSE excluded.clock_at <> e.clock_at END', scope, workspace)
        USING r.id, ids, kind, r.starts_at, r.clock_column IS NULL, r.active, r.yearly;
        IF warned IS NOT NULL AND NOT r.yearly THEN
            -- Started anew an escalation is at level 0, ended it is gone.
            EXECUTE format('SELECT array_agg(w) FROM unnest($2) AS w
                            WHERE NOT EXISTS (SELECT FROM %s.escalation AS e WHERE e.rule_id = $1 AND e.record_id = w AND e.level > 0)', workspace)
            INTO warned USING r.id, warned;
            PERFORM crm._settle_events(workspace, 'escalation', r.name, kind, warned);
        END IF;

        EXECUTE format('WITH scope AS (%1$s),
                        next AS MATERIALIZED (
                            SELECT e.id, e.record_id, s.owner_id, e.calendar AS counted_by, s.calendar, n.due_at
                            FROM %2$s.escalation AS e
                            JOIN scope AS s ON s.record_id = e.record_id
                            LEFT JOIN LATERAL (SELECT crm._escalation_due($5, s.calendar, e.clock_at, l.after) AS due_at
                                               FROM %2$s.escalation_level AS l
                                               WHERE l.rule_id = e.rule_id AND l.level > e.level
                                               ORDER BY l.after LIMIT 1) AS n ON true
                            WHERE e.rule_id = $1 AND ($2 IS NULL OR e.record_id = ANY ($2))),
                        counted AS (
                            UPDATE %2$s.escalation AS e SET calendar = n.calendar FROM next AS n WHERE e.id = n.id AND n.counted_by IS DISTINCT FROM n.calendar),
                        gone AS (
                            DELETE FROM %2$s.reminder AS r USING next AS n WHERE r.escalation_id = n.id AND n.due_at IS NULL)
                        INSERT INTO %2$s.reminder AS r (escalation_id, member_id, due_at, title, kind, record_id)
                        SELECT n.id, n.owner_id, n.due_at, $4, $3, n.record_id
                        FROM next AS n WHERE n.due_at IS NOT NULL ORDER BY n.record_id
                        ON CONFLICT (escalation_id) WHERE escalation_id IS NOT NULL
                        DO UPDATE SET member_id = excluded.member_id, due_at = excluded.due_at, title = excluded.title, failed_at = NULL, failure = NULL
                        WHERE (r.member_id, r.due_at, r.title) IS DISTINCT FROM (excluded.member_id, excluded.due_at, excluded.title)',
                       scope, workspace)
        USING r.id, ids, kind, r.name, workspace;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._sync_escalations(regnamespace, text, bigint[], bigint) IS
'Makes the escalations of records of a kind (NULL: of all), under one rule (NULL: under each), and their pending reminders what rules and records say; warnings about records that somebody acted on are settled. Must run as the workspace''s owner.';

CREATE FUNCTION crm._escalation_members(workspace regnamespace, owner_id bigint, audience text) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    steps integer;
    who bigint;
BEGIN
    IF audience LIKE 'member:%' THEN
        RETURN QUERY EXECUTE format('SELECT m.id FROM %s.member AS m WHERE m.id = $1 AND m.active', workspace) USING substr(audience, 8)::bigint;
    ELSIF audience LIKE 'team:%' THEN
        RETURN QUERY EXECUTE format('WITH RECURSIVE below (id) AS (
                                         SELECT $1 UNION SELECT t.id FROM below AS b JOIN %1$s.team AS t ON t.parent_id = b.id)
                                     SELECT DISTINCT m.id FROM below AS b JOIN %1$s.team_member AS tm ON tm.team_id = b.id
                                     JOIN %1$s.member AS m ON m.id = tm.member_id AND m.active', workspace) USING substr(audience, 6)::bigint;
    ELSIF owner_id IS NOT NULL THEN
        -- The first active member at that height or above it; else the highest below it.
        steps := CASE audience WHEN 'owner' THEN 0 WHEN 'manager' THEN 1 ELSE substr(audience, 9)::integer END;
        EXECUTE format('WITH RECURSIVE line (id, manager_id, active, height) AS (
                            SELECT m.id, m.manager_id, m.active, 0 FROM %1$s.member AS m WHERE m.id = $1
                            UNION ALL
                            SELECT m.id, m.manager_id, m.active, l.height + 1 FROM line AS l JOIN %1$s.member AS m ON m.id = l.manager_id
                            WHERE l.height < 100)
                        SELECT l.id FROM line AS l WHERE l.active AND (l.height > 0 OR $2 = 0)
                        ORDER BY l.height < $2, abs(l.height - $2) LIMIT 1', workspace)
        INTO who USING owner_id, steps;
        IF who IS NOT NULL THEN
            RETURN NEXT who;
        END IF;
    END IF;
END
$$;

COMMENT ON FUNCTION crm._escalation_members(regnamespace, bigint, text) IS
'The active members an audience (owner, manager, manager^2 …, member:ID, team:ID) means today for a record of this owner; none if there is nobody.';

CREATE FUNCTION crm._audience(workspace regnamespace, owner_id bigint, audience text[]) RETURNS bigint[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    members bigint[] := '{}';
    part text;
BEGIN
    FOREACH part IN ARRAY audience LOOP
        members := members || ARRAY(SELECT m FROM crm._escalation_members(workspace, owner_id, part) AS m WHERE m <> ALL (members) ORDER BY m);
    END LOOP;
    -- Nobody is no answer: somebody must hear of it.
    IF members = '{}' THEN
        members := ARRAY(SELECT m FROM crm._escalation_members(workspace, owner_id, 'manager') AS m);
    END IF;
    IF members = '{}' THEN
        EXECUTE format('SELECT array_agg(m.id) FROM %1$s.setting AS s JOIN %1$s.member AS m ON m.id::text = s.value AND m.active
                        WHERE s.name = ''escalation_fallback''', workspace) INTO members;
    END IF;
    IF coalesce(members, '{}') = '{}' THEN
        EXECUTE format('SELECT array_agg(m.id ORDER BY m.id) FROM %s.member AS m WHERE m.active AND m.access = ''all''', workspace) INTO members;
    END IF;
    RETURN coalesce(members, '{}');
END
$$;

COMMENT ON FUNCTION crm._audience(regnamespace, bigint, text[]) IS
'The active members to be told something about a record of this owner; if there are none, the owner''s manager, then the member named by the setting escalation_fallback, then all with access all.';

CREATE FUNCTION crm._escalate(workspace regnamespace, escalation_id bigint, fired_at timestamptz, OUT member_id bigint, OUT title text, OUT payload jsonb)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    e record;
    record_owner bigint;
    members bigint[];
    skipped integer[];
    found_record boolean;
    next_clock timestamptz;
BEGIN
    EXECUTE format('SELECT e.rule_id, e.record_id, e.clock_at, e.level AS reached, r.name AS rule, r.kind, r.condition, r.clock_column, r.yearly, l.*
                    FROM %1$s.escalation AS e
                    JOIN %1$s.escalation_rule AS r ON r.id = e.rule_id AND r.active
                    CROSS JOIN LATERAL (SELECT l.level, l.after, l.audience, l.title FROM %1$s.escalation_level AS l
                                        WHERE l.rule_id = e.rule_id AND l.level > e.level AND crm._escalation_due($3, e.calendar, e.clock_at, l.after) <= $2
                                        ORDER BY l.level DESC LIMIT 1) AS l
                    WHERE e.id = $1 FOR UPDATE OF e', workspace)
    INTO e USING escalation_id, fired_at, workspace;
    IF e.level IS NULL THEN
        RETURN;
    END IF;
    -- A record that changed unnoticed, by replication say, may be closed by now.
    EXECUTE format('SELECT true, s.owner_id, s.clock_at FROM (%s) AS s WHERE s.record_id = $1',
                   crm._escalation_query(workspace, e.kind, e.condition, e.clock_column, e.yearly, e.rule_id, false, NULL))
    INTO found_record, record_owner, next_clock USING e.record_id;
    IF found_record IS NULL THEN
        RETURN;
    END IF;

    EXECUTE format('SELECT coalesce(array_agg(l.level ORDER BY l.level), ''{}'') FROM %s.escalation_level AS l
                    WHERE l.rule_id = $1 AND l.level > $2 AND l.level < $3', workspace)
    INTO skipped USING e.rule_id, e.reached, e.level;
    EXECUTE format('UPDATE %1$s.escalation AS x
                    SET level = CASE WHEN w.over THEN 0 ELSE $2 END, clock_at = CASE WHEN w.over THEN $4 ELSE x.clock_at END, escalated_at = $3
                    FROM (SELECT $5 AND NOT EXISTS (SELECT FROM %1$s.escalation_level AS l WHERE l.rule_id = $6 AND l.level > $2) AS over) AS w
                    WHERE x.id = $1', workspace)
    USING escalation_id, e.level, fired_at, next_clock, e.yearly, e.rule_id;

    members := crm._audience(workspace, record_owner, e.audience);
    title := coalesce(e.title, e.rule);
    payload := jsonb_build_object('escalation', e.rule, 'level', e.level, 'since', e.clock_at, 'owner_id', record_owner)
               || CASE WHEN skipped = '{}' THEN '{}' ELSE jsonb_build_object('skipped', to_jsonb(skipped)) END;
    FOREACH member_id IN ARRAY members LOOP
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._escalate(regnamespace, bigint, timestamptz) IS
'Raises an escalation to the highest level that is due and says whom to tell what. Nobody if the record is no longer open, its rule inactive, or no member could be told.';

-- Tables that no rule is about carry no trigger and pay nothing.
CREATE FUNCTION crm._watch_records(workspace regnamespace, kind text, topic text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    event text;
BEGIN
    FOR t IN
        SELECT r.rel, topic || '_record' AS name, format('%L, %L', r.kind, r.id_column) AS args
        FROM crm._record_tables(workspace) AS r WHERE r.kind = _watch_records.kind
        UNION ALL
        SELECT format('%s.activity', workspace)::regclass, topic || '_activity', ''
    LOOP
        FOREACH event IN ARRAY ARRAY['insert', 'update', 'delete'] LOOP
            CONTINUE WHEN t.name = topic || '_activity' AND event = 'delete'
                OR EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = t.rel AND g.tgname = t.name || '_' || event);
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s REFERENCING %s TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION %s.%I(%s)',
                           t.name || '_' || event, event, t.rel, CASE event WHEN 'delete' THEN 'OLD' ELSE 'NEW' END, workspace, t.name, t.args);
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._watch_records(regnamespace, text, text) IS
'Gives the table of a kind, and activity, the statement triggers of a topic (functions TOPIC_record and TOPIC_activity of the workspace), once there is a rule about it. Must run as the workspace''s owner.';

---------------------------------------------------------------------
-- sla
---------------------------------------------------------------------

CREATE FUNCTION crm._sla_elapsed(workspace regnamespace, calendar text, from_time timestamptz, to_time timestamptz) RETURNS interval
LANGUAGE sql STABLE
RETURN CASE WHEN calendar IS NULL THEN make_interval(secs => extract(epoch FROM to_time - from_time)::double precision)
            ELSE crm.business_between(workspace, from_time, to_time, calendar) END;

COMMENT ON FUNCTION crm._sla_elapsed(regnamespace, text, timestamptz, timestamptz) IS
'Time from one instant to another in hours and smaller units: working time by a calendar, or all of it (NULL).';

CREATE FUNCTION crm._sla_due(workspace regnamespace, calendar text, running_since timestamptz, amount interval) RETURNS timestamptz
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF amount <= interval '0' THEN
        RETURN running_since;
    END IF;
    RETURN CASE calendar WHEN '' THEN running_since + amount ELSE crm.business_add(workspace, running_since, amount, calendar) END;
EXCEPTION WHEN datetime_field_overflow THEN
    -- A calendar that never comes so far is no reason to refuse the record.
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION crm._sla_due(regnamespace, text, timestamptz, interval) IS
'When so much time has passed since a clock runs, by a calendar or, if it is empty, by the clock; NULL if never.';

CREATE FUNCTION crm._sla_query(workspace regnamespace, policy_id bigint) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p record;
    t record;
    met text;
BEGIN
    EXECUTE format('SELECT p.* FROM %s.sla_policy AS p WHERE p.id = $1', workspace) INTO p USING policy_id;
    SELECT * INTO t FROM crm._record_tables(workspace) AS r WHERE r.kind = p.kind;
    IF NOT FOUND THEN
        -- The table is gone, and its records with it.
        RETURN 'SELECT NULL::bigint AS record_id, NULL::bigint AS owner_id, NULL::timestamptz AS created_at, NULL::text AS state, NULL::text AS calendar WHERE false';
    END IF;
    met := format('(%s) IS TRUE', coalesce(p.met_when, 'false'));
    IF p.met_by_activity THEN
        -- What is planned for later is no answer yet.
        met := met || format(' OR EXISTS (SELECT FROM %1$s.activity AS a
                                          WHERE a.%2$I = new.%3$I AND (a.completed_at IS NOT NULL OR a.due_at IS NULL OR a.due_at <= a.created_at)
                                            AND crm._acted_at(coalesce(a.completed_at, a.created_at)) >= coalesce(
                                                (SELECT c.started_at FROM %1$s.sla_clock AS c WHERE c.policy_id = %4$s AND c.record_id = new.%3$I), ''-infinity''))',
                             workspace, p.kind || '_id', t.id_column, p.id);
    END IF;
    RETURN format('SELECT new.%I AS record_id, new.%I AS owner_id, %s AS created_at,
                          CASE WHEN NOT %L OR (%s) IS NOT TRUE THEN ''ended'' WHEN %s THEN ''met'' WHEN (%s) IS TRUE THEN ''paused'' ELSE ''running'' END AS state, %s AS calendar
                   FROM %s AS new',
                  t.id_column, t.owner_column,
                  CASE WHEN EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = t.rel AND a.attname = 'created_at'
                                                                    AND a.atttypid = 'timestamptz'::regtype AND NOT a.attisdropped)
                       THEN 'crm._acted_at(new.created_at)' ELSE 'NULL::timestamptz' END,
                  p.active, coalesce(p.condition, 'true'), met, coalesce(p.pause_when, 'false'),
                  crm._record_calendar(workspace, p.working_time, p.calendar, t.owner_column), t.rel);
END
$$;

COMMENT ON FUNCTION crm._sla_query(regnamespace, bigint) IS
'The query for what state the clock of a policy should be in for each record: record_id, owner_id, created_at, state, calendar (NULL: all time counts).';

CREATE FUNCTION crm._sync_sla(workspace regnamespace, kind text, ids bigint[], from_creation boolean, only_policy bigint DEFAULT NULL, recount boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p record;
    at timestamptz := crm.now();
    done bigint[];
BEGIN
    FOR p IN EXECUTE format('SELECT p.* FROM %s.sla_policy AS p WHERE p.kind = $1 AND ($2 IS NULL OR p.id = $2) ORDER BY p.id', workspace)
             USING kind, only_policy
    LOOP
        -- Firing locks the reminder before the clock; so must we.
        EXECUTE format('SELECT count(*) FROM (SELECT FROM %1$s.reminder AS r JOIN %1$s.escalation AS e ON e.id = r.escalation_id JOIN %1$s.sla_clock AS c ON c.id = e.sla_clock_id
                        WHERE c.policy_id = $1 AND ($2 IS NULL OR c.record_id = ANY ($2)) ORDER BY r.id FOR UPDATE OF r) AS l', workspace)
        USING p.id, ids;

        -- The state a clock should have, and the time it has counted when it stops.
        EXECUTE format('WITH scope AS MATERIALIZED (SELECT s.* FROM (%1$s) AS s WHERE $2 IS NULL OR s.record_id = ANY ($2)),
                        changed AS (
                            UPDATE %2$s.sla_clock AS c
                            SET state = w.state,
                                elapsed = CASE WHEN c.state = ''running'' AND NOT w.recount THEN c.elapsed + crm._sla_elapsed($3, c.calendar, c.running_since, $5) ELSE c.elapsed END,
                                running_since = CASE WHEN w.recount THEN c.running_since WHEN w.state = ''running'' THEN $5 END,
                                calendar = w.calendar,
                                met_at = CASE w.state WHEN ''met'' THEN $5 END,
                                ended_at = CASE w.state WHEN ''ended'' THEN $5 END,
                                due_at = NULL,
                                -- Whether it was late is for the clock to say, not for whoever looks first.
                                breached_at = coalesce(c.breached_at, CASE WHEN c.due_at < $5 AND NOT w.recount THEN c.due_at END)
                            FROM (SELECT k.id, coalesce(s.state, ''ended'') AS state, s.calendar, $4 AND k.state = ''running'' AND s.state = ''running'' AS recount
                                  FROM %2$s.sla_clock AS k LEFT JOIN scope AS s ON s.record_id = k.record_id
                                  WHERE k.policy_id = $1 AND ($2 IS NULL OR k.record_id = ANY ($2))) AS w
                            WHERE c.id = w.id AND CASE WHEN c.state = w.state THEN c.state = ''running'' AND c.calendar IS DISTINCT FROM w.calendar
                                                       ELSE NOT (c.state = ''met'' AND w.state = ''ended'') END)
                        INSERT INTO %2$s.sla_clock (policy_id, kind, record_id, owner_id, state, target, started_at, running_since, calendar)
                        SELECT $1, $6, s.record_id, s.owner_id, s.state, $9, b.at, CASE s.state WHEN ''running'' THEN b.at END, s.calendar
                        FROM scope AS s
                        CROSS JOIN LATERAL (SELECT CASE WHEN $7 THEN coalesce(GREATEST(s.created_at, $8), $5) ELSE $5 END AS at) AS b
                        WHERE s.state IN (''running'', ''paused'')
                        ORDER BY s.record_id
                        ON CONFLICT (policy_id, record_id) DO NOTHING', crm._sla_query(workspace, p.id), workspace)
        USING p.id, ids, workspace, recount, at, kind, from_creation, p.starts_at, p.target;

        -- When it runs out, and when somebody is told next.
        EXECUTE format('WITH due AS MATERIALIZED (
                            SELECT c.id, s.owner_id, crm._sla_due($3, coalesce(c.calendar, ''''), c.running_since, $4 - c.elapsed) AS due_at,
                                   CASE WHEN c.state IN (''running'', ''paused'') THEN $4 ELSE c.target END AS target
                            FROM %1$s.sla_clock AS c
                            JOIN (%2$s) AS s ON s.record_id = c.record_id
                            WHERE c.policy_id = $1 AND ($2 IS NULL OR c.record_id = ANY ($2)))
                        UPDATE %1$s.sla_clock AS c
                        SET due_at = d.due_at, target = d.target, owner_id = d.owner_id
                        FROM due AS d
                        WHERE c.id = d.id AND (c.due_at, c.target, c.owner_id) IS DISTINCT FROM (d.due_at, d.target, d.owner_id)', workspace, crm._sla_query(workspace, p.id))
        USING p.id, ids, workspace, p.target;
        EXECUTE format('INSERT INTO %1$s.escalation (sla_clock_id, kind, record_id, clock_at)
                        SELECT c.id, c.kind, c.record_id, c.started_at FROM %1$s.sla_clock AS c
                        WHERE c.policy_id = $1 AND ($2 IS NULL OR c.record_id = ANY ($2)) AND c.state = ''running''
                        ORDER BY c.record_id ON CONFLICT (sla_clock_id) DO NOTHING', workspace)
        USING p.id, ids;
        EXECUTE format('WITH scope AS (%1$s),
                        next AS MATERIALIZED (
                            SELECT e.id, c.record_id, s.owner_id, n.due_at
                            FROM %2$s.sla_clock AS c
                            JOIN %2$s.escalation AS e ON e.sla_clock_id = c.id
                            LEFT JOIN scope AS s ON s.record_id = c.record_id
                            CROSS JOIN LATERAL (
                                -- A breach is told even of a clock that was stopped before anybody was.
                                SELECT CASE WHEN c.state <> ''ended'' AND c.breached_at IS NOT NULL AND e.level < 100 THEN c.breached_at
                                            WHEN c.state = ''running'' THEN
                                                (SELECT min(crm._sla_due($5, coalesce(c.calendar, ''''), c.running_since, c.target * v / 100 - c.elapsed)) FROM unnest($6 || 100) AS v WHERE v > e.level)
                                       END AS due_at) AS n
                            WHERE c.policy_id = $1 AND ($2 IS NULL OR c.record_id = ANY ($2))),
                        gone AS (
                            DELETE FROM %2$s.reminder AS r USING next AS n WHERE r.escalation_id = n.id AND n.due_at IS NULL)
                        INSERT INTO %2$s.reminder AS r (escalation_id, member_id, due_at, title, kind, record_id)
                        SELECT n.id, n.owner_id, n.due_at, $4, $3, n.record_id
                        FROM next AS n WHERE n.due_at IS NOT NULL ORDER BY n.record_id
                        ON CONFLICT (escalation_id) WHERE escalation_id IS NOT NULL
                        DO UPDATE SET member_id = excluded.member_id, due_at = excluded.due_at, title = excluded.title, failed_at = NULL, failure = NULL
                        WHERE (r.member_id, r.due_at, r.title) IS DISTINCT FROM (excluded.member_id, excluded.due_at, excluded.title)',
                       crm._sla_query(workspace, p.id), workspace)
        USING p.id, ids, kind, p.name, workspace, p.warn_percent;
        EXECUTE format('SELECT array_agg(c.record_id) FROM %1$s.sla_clock AS c JOIN %1$s.escalation AS e ON e.sla_clock_id = c.id
                        WHERE c.policy_id = $1 AND c.record_id = ANY ($2) AND c.state IN (''met'', ''ended'') AND e.level > 0', workspace)
        INTO done USING p.id, ids;
        PERFORM crm._settle_events(workspace, 'sla', p.name, kind, done);
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._sync_sla(regnamespace, text, bigint[], boolean, bigint, boolean) IS
'Makes the clocks of records of a kind (NULL: of all), under one policy (NULL: under each), and their pending reminders what policies, records and calendars say; warnings of clocks that are met or ended are settled. A clock that begins counts from the record''s creation if from_creation, else from now. Running clocks that come to count by another calendar keep what they have counted, or, with recount, count by it since they last started to run. Must run as the workspace''s owner.';

CREATE FUNCTION crm._sla_next(workspace regnamespace, escalation_id bigint, fired_at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    next_due timestamptz;
BEGIN
    EXECUTE format('SELECT min(d.at)
                    FROM %1$s.escalation AS e
                    JOIN %1$s.sla_clock AS c ON c.id = e.sla_clock_id AND c.state = ''running''
                    JOIN %1$s.sla_policy AS p ON p.id = c.policy_id
                    CROSS JOIN LATERAL unnest(p.warn_percent || 100) AS v
                    CROSS JOIN LATERAL crm._sla_due($3, coalesce(c.calendar, ''''), c.running_since, c.target * v / 100 - c.elapsed) AS d (at)
                    WHERE e.id = $1 AND v > e.level AND d.at > $2', workspace)
    INTO next_due USING escalation_id, fired_at, workspace;
    RETURN next_due;
END
$$;

COMMENT ON FUNCTION crm._sla_next(regnamespace, bigint, timestamptz) IS
'When the next share of a clock''s time is used up that is not yet; NULL if there is none.';

CREATE FUNCTION crm._sla_escalate(workspace regnamespace, escalation_id bigint, fired_at timestamptz, OUT member_id bigint, OUT title text, OUT payload jsonb)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c record;
    s record;
    share integer;
    skipped integer[];
BEGIN
    EXECUTE format('SELECT c.*, e.level, p.name, p.warn_percent, p.audience, p.breach_audience
                    FROM %1$s.escalation AS e
                    JOIN %1$s.sla_clock AS c ON c.id = e.sla_clock_id AND (c.state = ''running'' OR c.state <> ''ended'' AND c.breached_at IS NOT NULL AND e.level < 100)
                    JOIN %1$s.sla_policy AS p ON p.id = c.policy_id AND p.active
                    WHERE e.id = $1 FOR UPDATE OF e, c', workspace)
    INTO c USING escalation_id;
    IF c.id IS NULL THEN
        RETURN;
    END IF;
    -- A record that changed unnoticed, by replication say, may be answered by now.
    EXECUTE format('SELECT s.state, s.owner_id FROM (%s) AS s WHERE s.record_id = $1', crm._sla_query(workspace, c.policy_id)) INTO s USING c.record_id;
    IF s.state IS NULL OR c.state = 'running' AND s.state <> 'running' THEN
        RETURN;
    END IF;
    SELECT max(v), array_agg(v ORDER BY v) INTO share, skipped
    FROM unnest(c.warn_percent || 100) AS v
    WHERE v > c.level
      AND (c.state <> 'running' OR crm._sla_due(workspace, coalesce(c.calendar, ''), c.running_since, c.target * v / 100 - c.elapsed) <= fired_at);
    IF share IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('UPDATE %s.escalation AS e SET level = $2, escalated_at = $3 WHERE e.id = $1', workspace) USING escalation_id, share, fired_at;
    IF share >= 100 THEN
        EXECUTE format('UPDATE %s.sla_clock AS c SET breached_at = coalesce(c.breached_at, c.due_at) WHERE c.id = $1', workspace) USING c.id;
    END IF;
    title := CASE WHEN share >= 100 THEN format('%s: the time is over', c.name) ELSE format('%s: %s %% of the time is used', c.name, share) END;
    payload := jsonb_strip_nulls(jsonb_build_object('sla', c.name, 'percent', share, 'due_at', coalesce(c.breached_at, c.due_at), 'owner_id', s.owner_id,
                   'skipped', nullif(to_jsonb(array_remove(skipped, share)), '[]'), 'urgent', nullif(share >= 100, false)));
    FOREACH member_id IN ARRAY crm._audience(workspace, s.owner_id, CASE WHEN share >= 100 THEN c.breach_audience ELSE c.audience END) LOOP
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._sla_escalate(regnamespace, bigint, timestamptz) IS
'Notes that a share of a clock''s time is used up, or all of it, and says whom to tell what. Nobody if the clock no longer runs.';

---------------------------------------------------------------------
-- attention
---------------------------------------------------------------------

CREATE FUNCTION crm._wall_clock(at timestamptz, time_zone text) RETURNS timestamp
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN at AT TIME ZONE coalesce(time_zone, 'UTC');
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN at AT TIME ZONE 'UTC';
END
$$;

COMMENT ON FUNCTION crm._wall_clock(timestamptz, text) IS 'What the clock of a time zone shows at an instant; UTC for a zone that this server does not know.';

CREATE FUNCTION crm._instant(wall timestamp, time_zone text) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN wall AT TIME ZONE coalesce(time_zone, 'UTC');
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN wall AT TIME ZONE 'UTC';
END
$$;

COMMENT ON FUNCTION crm._instant(timestamp, text) IS 'The instant at which the clock of a time zone shows a time; UTC for a zone that this server does not know.';

CREATE FUNCTION crm._quiet_until(wall timestamp, quiet_from time, quiet_to time) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN quiet_from IS NULL OR quiet_from = quiet_to THEN NULL
    WHEN quiet_from < quiet_to AND wall::time >= quiet_from AND wall::time < quiet_to THEN wall::date + quiet_to
    WHEN quiet_from > quiet_to AND wall::time < quiet_to THEN wall::date + quiet_to
    WHEN quiet_from > quiet_to AND wall::time >= quiet_from THEN wall::date + 1 + quiet_to
END;

COMMENT ON FUNCTION crm._quiet_until(timestamp, time, time) IS 'When the quiet hours end in which this time lies; NULL if it lies in none.';

CREATE FUNCTION crm._next_time(wall timestamp, times time[]) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
SET search_path = pg_catalog, pg_temp
RETURN (SELECT min(wall::date + d + t) FROM unnest(times) AS t, generate_series(0, 1) AS d WHERE wall::date + d + t > wall);

COMMENT ON FUNCTION crm._next_time(timestamp, time[]) IS 'When the first of these times of day comes after a time.';

CREATE FUNCTION crm._opens_at(workspace regnamespace, at timestamptz, calendar text) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF crm.business_open(workspace, at, calendar) THEN
        RETURN NULL;
    END IF;
    RETURN crm.business_add(workspace, at, '1 us', calendar) - interval '1 us';
EXCEPTION WHEN data_exception THEN
    -- A calendar without working hours keeps nothing back for ever.
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION crm._opens_at(regnamespace, timestamptz, text) IS 'When working time begins again; NULL if it is working time, or will never be.';

-- The record of a kind that an event is about: itself, or the one it refers to.
CREATE FUNCTION crm._record_of_kind(workspace regnamespace, kind text) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT format('CASE c.kind WHEN %L THEN c.record_id%s END', _record_of_kind.kind,
              string_agg(format(' WHEN %L THEN (SELECT r.%I FROM %s AS r WHERE r.%I = c.record_id)', t.kind, _record_of_kind.kind || '_id', t.rel, t.id_column),
                         '' ORDER BY t.kind))
FROM crm._record_tables(workspace) AS t
JOIN pg_attribute AS a ON a.attrelid = t.rel AND a.attname = _record_of_kind.kind || '_id' AND NOT a.attisdropped AND a.atttypid = 'bigint'::regtype
WHERE t.kind <> _record_of_kind.kind
$$;

COMMENT ON FUNCTION crm._record_of_kind(regnamespace, text) IS
'SQL text: the id of the record of a kind that row "c" with columns kind and record_id is about, directly or by a column KIND_id.';

CREATE FUNCTION crm._attention_matches(workspace regnamespace, event_ids bigint[], OUT events bigint[], OUT rules bigint[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    branches text[];
    branch text;
    query text := format('WITH candidate AS MATERIALIZED (SELECT e.id, e.kind, e.record_id FROM unnest($1) AS u JOIN %s.event AS e ON e.id = u)
                          SELECT array_agg(m.event_id), array_agg(m.rule_id) FROM (', workspace);
    some_events bigint[];
    some_rules bigint[];
    message text;
BEGIN
    EXECUTE format($query$
        SELECT array_agg(format('SELECT c.id AS event_id, %%s AS rule_id FROM candidate AS c WHERE EXISTS (SELECT FROM %%s AS new WHERE new.%%I = %%s AND (%%s))',
                                a.id, t.rel, t.id_column, crm._record_of_kind($1, a.kind), coalesce(a.condition, 'true')) ORDER BY a.id)
        FROM %s.attention_rule AS a
        JOIN crm._record_tables($1) AS t ON t.kind = a.kind
        WHERE a.active$query$, workspace)
    INTO branches USING workspace;
    IF branches IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        EXECUTE query || array_to_string(branches, ' UNION ALL ') || ') AS m' INTO events, rules USING event_ids;
    EXCEPTION WHEN data_exception OR syntax_error_or_access_rule_violation THEN
        -- A rule that fails holds nothing; nobody's reminder is lost for it.
        FOREACH branch IN ARRAY branches LOOP
            BEGIN
                EXECUTE query || branch || ') AS m' INTO some_events, some_rules USING event_ids;
                events := events || some_events;
                rules := rules || some_rules;
            EXCEPTION WHEN data_exception OR syntax_error_or_access_rule_violation THEN
                GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
                RAISE WARNING 'an attention rule of workspace "%" could not be applied: %', workspace, message
                    USING DETAIL = branch;
            END;
        END LOOP;
    END;
END
$$;

COMMENT ON FUNCTION crm._attention_matches(regnamespace, bigint[]) IS
'Which attention rules about a kind of record are met by which of these events, whoever they are for: two arrays of the same length, or NULLs. Must run as the workspace''s owner.';

CREATE FUNCTION crm._when(at timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE STRICT
SET search_path = pg_catalog, pg_temp
RETURN to_char(at, 'YYYY-MM-DD HH24:MI TZH');

COMMENT ON FUNCTION crm._when(timestamptz) IS 'A time as sentences give it.';

CREATE FUNCTION crm._hold_reason(reason text, detail jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE reason
    WHEN 'quiet hours' THEN CASE WHEN detail ? 'calendar' THEN format('it came outside the working time of calendar %s', detail ->> 'calendar')
                                 ELSE format('it came in quiet hours, %s to %s (%s)', detail ->> 'from', detail ->> 'to', detail ->> 'time_zone') END
    WHEN 'digest' THEN 'it is for digests'
    WHEN 'budget' THEN CASE WHEN detail ? 'per_day' THEN format('the budget of %s a day was used up', detail ->> 'per_day')
                            ELSE format('the budget of %s an hour was used up', detail ->> 'per_hour') END
    WHEN 'frequency' THEN format('another about the same record was handled less than %s before', detail ->> 'once_within')
    WHEN 'merged' THEN 'that one is about the same record'
    WHEN 'delegated' THEN coalesce(detail ->> 'why', 'someone stands in')
    WHEN 'settled' THEN 'somebody acted' || CASE WHEN detail ? 'snoozed' THEN ' while it was snoozed' ELSE '' END
    WHEN 'too late' THEN format('it was later than %s, and was to be skipped then', detail ->> 'max_late') || CASE WHEN detail ? 'setting' THEN format(' (%s)', detail ->> 'setting') ELSE '' END
END || CASE WHEN detail ? 'rule' THEN format(', rule "%s"', detail ->> 'rule') ELSE '' END
$$;

COMMENT ON FUNCTION crm._hold_reason(text, jsonb) IS 'The reason of a row of event_hold, in words.';

CREATE FUNCTION crm._settle_events(workspace regnamespace, topic text, name text, kind text, ids bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Merging is nobody's action, and can be undone.
    IF ids IS NULL OR crm._is_merging() THEN
        RETURN;
    END IF;
    -- Who closes one just now decides.  One that shows others stays for them; a breach stays as it is a fact.
    EXECUTE format('WITH told AS MATERIALIZED (
                        SELECT e.id, e.member_id FROM %1$s.event AS e
                        WHERE e.kind = $1 AND e.record_id = ANY ($2) AND e.state IN (''new'', ''seen'', ''held'') AND e.payload ->> $3 = $4
                          AND NOT e.payload @> ''{"percent": 100}''
                          AND NOT EXISTS (SELECT FROM %1$s.event_hold AS h JOIN %1$s.event AS o ON o.id = h.event_id AND o.state = ''held''
                                          WHERE h.shown_with = e.id AND o.payload ->> $3 IS DISTINCT FROM $4)
                        ORDER BY e.id FOR UPDATE OF e SKIP LOCKED),
                    settled AS (
                        UPDATE %1$s.event AS e SET state = ''skipped'', handled_at = $5 FROM told AS t WHERE e.id = t.id)
                    INSERT INTO %1$s.event_hold AS h (event_id, member_id, reason, held_at)
                    SELECT t.id, t.member_id, ''settled'', $5 FROM told AS t ORDER BY t.id
                    ON CONFLICT (event_id) DO UPDATE SET reason = excluded.reason, detail = excluded.detail, until = NULL, shown_with = NULL', workspace)
    USING kind, ids, topic, name, crm.now();
END
$$;

COMMENT ON FUNCTION crm._settle_events(regnamespace, text, text, text, bigint[]) IS
'Takes warnings about records that somebody acted on out of inboxes: those of the escalation rule or SLA policy of this name (topic escalation or sla), but breaches. Must run as the workspace''s owner.';

CREATE FUNCTION crm._why_not(workspace regnamespace, event_id bigint, reminder_id bigint, OUT reason text, OUT detail jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    e record;
    r record;
BEGIN
    IF num_nonnulls(event_id, reminder_id) <> 1 THEN
        RAISE EXCEPTION 'ask about either an event or a reminder'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF reminder_id IS NOT NULL THEN
        EXECUTE format('SELECT r.id, r.due_at, r.failed_at, r.failure, r.recurrence, r.snoozed_event_id FROM %s.reminder AS r WHERE r.id = $1', workspace)
        INTO r USING reminder_id;
        IF r.id IS NOT NULL THEN
            reason := CASE
                WHEN r.failed_at IS NOT NULL THEN format('Firing it failed at %s: %s. It is tried again once failed_at is NULL.', crm._when(r.failed_at), r.failure)
                WHEN r.due_at > crm.now() THEN format('It is not due before %s%s.', crm._when(r.due_at), CASE WHEN r.snoozed_event_id IS NOT NULL THEN ', as somebody snoozed it' ELSE '' END)
                ELSE format('It is due since %s and fires as soon as the scheduler, or crm.run_due(), gets to it; see crm.scheduler_status().', crm._when(r.due_at)) END;
            detail := jsonb_strip_nulls(jsonb_build_object('state', CASE WHEN r.failed_at IS NOT NULL THEN 'failed' WHEN r.due_at > crm.now() THEN 'pending' ELSE 'due' END,
                                                           'due_at', r.due_at, 'failure', r.failure, 'recurrence', r.recurrence, 'snoozed_event', r.snoozed_event_id));
            RETURN;
        END IF;
        EXECUTE format('SELECT max(v.id) FROM %s.event AS v WHERE v.reminder_id = $1', workspace) INTO event_id USING reminder_id;
        IF event_id IS NULL THEN
            reason := format('Reminder %s is not there: it never was, was deleted before it fired, or is not yours to see.', reminder_id);
            RETURN;
        END IF;
    END IF;

    EXECUTE format('SELECT v.*, m.name, h.reason, h.detail, h.held_at, h.until, h.shown_at, h.shown_with
                    FROM %1$s.event AS v
                    LEFT JOIN %1$s.member AS m ON m.id = v.member_id
                    LEFT JOIN %1$s.event_hold AS h ON h.event_id = v.id
                    WHERE v.id = $1', workspace)
    INTO e USING event_id;
    IF e.id IS NULL THEN
        reason := format('Event %s is not there: it never was, was deleted, or is not yours to see.', event_id);
        RETURN;
    END IF;
    reason := CASE
        WHEN e.state IN ('new', 'seen') THEN format('It is in the inbox of %s since %s', e.name, crm._when(coalesce(e.shown_at, e.fired_at)))
            || coalesce('; until then it was held: ' || crm._hold_reason(e.reason, e.detail), '') || '.'
        WHEN e.state = 'snoozed' THEN format('It was snoozed at %s until %s.', crm._when(e.handled_at), crm._when(e.snoozed_until))
        WHEN e.state = 'acknowledged' AND e.payload ? 'crm_digest' THEN 'It only let through events that were held.'
        WHEN e.state = 'acknowledged' THEN format('It was acknowledged at %s', crm._when(e.handled_at))
            || coalesce(', with event ' || e.shown_with, '') || '.'
        WHEN e.state = 'skipped' AND e.reason = 'settled' AND NOT e.detail ? 'snoozed' THEN format('It was settled at %s: %s.', crm._when(e.handled_at), crm._hold_reason(e.reason, e.detail))
        WHEN e.state = 'skipped' THEN format('It was skipped: %s.', crm._hold_reason(e.reason, e.detail))
        WHEN e.until IS NOT NULL THEN format('It is held until %s: %s.', crm._when(e.until), crm._hold_reason(e.reason, e.detail))
        WHEN e.shown_with IS NOT NULL THEN format('It is shown with event %s: %s.', e.shown_with, crm._hold_reason(e.reason, e.detail))
        ELSE 'It was held by an application.' END;
    detail := jsonb_strip_nulls(jsonb_build_object('event', e.id, 'reminder', e.reminder_id, 'member', e.member_id, 'state', e.state, 'due_at', e.due_at, 'fired_at', e.fired_at,
                  'late', e.fired_at - e.due_at, 'missed', nullif(e.missed, 0), 'held_for', e.reason, 'held_at', e.held_at, 'until', e.until, 'shown_at', e.shown_at, 'shown_with', e.shown_with,
                  'handled_at', e.handled_at, 'snoozed_until', e.snoozed_until)) || coalesce(e.detail, '{}');
END
$$;

COMMENT ON FUNCTION crm._why_not(regnamespace, bigint, bigint) IS 'What why_not() of a workspace does.';

CREATE FUNCTION crm._event_items(workspace regnamespace, event_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    items jsonb;
BEGIN
    EXECUTE format($query$
        SELECT jsonb_agg(jsonb_build_object('event', e.id, 'title', e.title, 'kind', e.kind, 'record_id', e.record_id, 'due_at', e.due_at) ORDER BY e.due_at, e.id)
        FROM %1$s.event_hold AS h JOIN %1$s.event AS e ON e.id = h.event_id
        WHERE h.shown_with = $1 AND h.reason <> 'delegated'$query$, workspace)
    INTO items USING event_id;
    RETURN items;
END
$$;

COMMENT ON FUNCTION crm._event_items(regnamespace, bigint) IS 'The events that are shown with an event; NULL: none.';

---------------------------------------------------------------------
-- delegation
---------------------------------------------------------------------

CREATE FUNCTION crm._deputy(workspace regnamespace, member_id bigint, at timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who bigint := member_id;
    path bigint[] := ARRAY[member_id];
    present boolean;
    next_id bigint;
BEGIN
    LOOP
        EXECUTE format('SELECT m.active, a.delegate_id FROM %1$s.member AS m
                        LEFT JOIN %1$s.absence AS a ON a.member_id = m.id AND a.starts_at <= $2 AND a.ends_at > $2
                        WHERE m.id = $1', workspace)
        INTO present, next_id USING who, at;
        IF present AND next_id IS NULL THEN
            RETURN who;
        END IF;
        EXIT WHEN next_id IS NULL OR next_id = ANY (path);
        path := path || next_id;
        who := next_id;
    END LOOP;
    -- The chain leads nowhere: the first above who is there, then those of last resort.
    EXECUTE format('WITH RECURSIVE above (id, manager_id, height) AS (
                        SELECT m.id, m.manager_id, 0 FROM %1$s.member AS m WHERE m.id = $1
                        UNION ALL
                        SELECT m.id, m.manager_id, a.height + 1 FROM above AS a JOIN %1$s.member AS m ON m.id = a.manager_id WHERE a.height < 100)
                    SELECT c.id
                    FROM (SELECT a.id, a.height FROM above AS a WHERE a.height > 0
                          UNION ALL
                          SELECT m.id, 1000 FROM %1$s.setting AS s JOIN %1$s.member AS m ON m.id::text = s.value WHERE s.name = ''escalation_fallback''
                          UNION ALL
                          SELECT m.id, 1001 FROM %1$s.member AS m WHERE m.access = ''all'') AS c
                    JOIN %1$s.member AS m ON m.id = c.id AND m.active
                    WHERE NOT EXISTS (SELECT FROM %1$s.absence AS b WHERE b.member_id = c.id AND b.starts_at <= $2 AND b.ends_at > $2)
                    ORDER BY c.height, c.id LIMIT 1', workspace)
    INTO next_id USING member_id, at;
    RETURN coalesce(next_id, member_id);
END
$$;

COMMENT ON FUNCTION crm._deputy(regnamespace, bigint, timestamptz) IS
'Who is reminded in place of a member at a time: the end of the chain of those who stand in. Where it comes back to somebody, or ends at one who has left: the first member above who is there, then the one named by the setting escalation_fallback, then one with access all; if there is nobody, the member itself.';

CREATE FUNCTION crm._record_owners(workspace regnamespace, kinds text[], ids bigint[], OUT kind text, OUT id bigint, OUT owner_id bigint)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    query text := (SELECT string_agg(format('SELECT %L, r.%I, r.%I FROM %s AS r WHERE r.%2$I = ANY ($1)', t.kind, t.id_column, t.owner_column, t.rel), ' UNION ALL ')
                   FROM crm._record_tables(workspace) AS t WHERE t.kind = ANY (kinds));
BEGIN
    IF query IS NOT NULL THEN
        RETURN QUERY EXECUTE query USING ids;
    END IF;
END
$$;

COMMENT ON FUNCTION crm._record_owners(regnamespace, text[], bigint[]) IS
'The owners of the records of these kinds that have one of these ids; kinds that are no more are passed over.';

CREATE FUNCTION crm._check_following(workspace regnamespace, kind text, id bigint, member_id bigint) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me bigint := crm.member_id(workspace);
    whom bigint := coalesce(member_id, me);
    rec record;
BEGIN
    SELECT * INTO rec FROM crm._record_owner(workspace, kind, id) AS r;
    IF NOT rec.is_there OR NOT (crm.can_read(workspace, kind, rec.owner_id, id) OR crm._called_by_owner(workspace)) THEN
        RAISE EXCEPTION '% % does not exist or is not visible', kind, id
            USING ERRCODE = 'no_data_found';
    END IF;
    IF whom IS NULL THEN
        RAISE EXCEPTION 'the session acts for no member'
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Name the member who follows.';
    END IF;
    IF whom IS DISTINCT FROM me AND NOT (crm.can_edit(workspace, kind, rec.owner_id, id) OR crm._called_by_owner(workspace)) THEN
        RAISE EXCEPTION 'permission denied to let member % follow % %', whom, kind, id
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'Who may edit a record decides who else follows it.';
    END IF;
    RETURN whom;
END
$$;

COMMENT ON FUNCTION crm._check_following(regnamespace, text, bigint, bigint) IS
'The member who is meant (NULL: the session''s), or an error unless the session may decide whether that member follows the record.';

CREATE FUNCTION crm._follow(workspace regnamespace, kind text, id bigint, member_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    whom bigint := crm._check_following(workspace, kind, id, member_id);
BEGIN
    PERFORM crm._check_member(workspace, whom);
    EXECUTE format('INSERT INTO %s.follower (kind, record_id, member_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING', workspace) USING kind, id, whom;
END
$$;

COMMENT ON FUNCTION crm._follow(regnamespace, text, bigint, bigint) IS 'What follow() of a workspace does.';

CREATE FUNCTION crm._unfollow(workspace regnamespace, kind text, id bigint, member_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    whom bigint := member_id;
    deleted bigint;
BEGIN
    -- Oneself at any time, also from what one may no longer see.
    IF whom IS NULL OR whom IS DISTINCT FROM crm.member_id(workspace) THEN
        whom := CASE WHEN whom IS NULL THEN crm.member_id(workspace) ELSE crm._check_following(workspace, kind, id, whom) END;
    END IF;
    EXECUTE format('WITH d AS (DELETE FROM %s.follower AS f WHERE f.kind = $1 AND f.record_id = $2 AND f.member_id = $3 RETURNING 1) SELECT count(*) FROM d', workspace)
    INTO deleted USING kind, id, whom;
    RETURN deleted > 0;
END
$$;

COMMENT ON FUNCTION crm._unfollow(regnamespace, text, bigint, bigint) IS 'What unfollow() of a workspace does.';

---------------------------------------------------------------------
-- record
---------------------------------------------------------------------

CREATE FUNCTION crm.touch() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_touch';

COMMENT ON FUNCTION crm.touch() IS
'Trigger before update for each row of any table: sets updated_at (timestamptz) to the transaction''s time and adds 1 to row_version (integer or bigint) when a row changes; a table may have one of the two. An update that sends a row_version other than the current or the next one was made from a stale copy and fails with SQLSTATE 40001.';

CREATE FUNCTION crm._record_table(workspace regnamespace, kind text, OUT rel regclass, OUT owner_column name, OUT id_column name)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT r.rel, r.owner_column, r.id_column INTO rel, owner_column, id_column
    FROM crm._record_tables(workspace) AS r WHERE r.kind = _record_table.kind;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'unrecognized kind of record: "%"', kind
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('The kinds are %s.', (SELECT string_agg(r.kind, ', ' ORDER BY r.kind) FROM crm._record_tables(workspace) AS r));
    END IF;
END
$$;

COMMENT ON FUNCTION crm._record_table(regnamespace, text) IS
'The table that holds a kind of record, with its owner and id columns; an error for a kind that has none.';

CREATE FUNCTION crm._claim(workspace regnamespace, kind text, id bigint, OUT claimed boolean, OUT reason text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me bigint := crm.member_id(workspace);
    t record;
    holder bigint;
    visible integer;
BEGIN
    SELECT * INTO t FROM crm._record_table(workspace, kind);
    claimed := false;
    IF me IS NULL THEN
        reason := 'this session acts for no member';
        RETURN;
    END IF;

    -- Row by row, so that of many who want one record one gets it and nobody waits.
    EXECUTE format('SELECT r.%I FROM %s AS r WHERE r.%I = $1', t.owner_column, t.rel, t.id_column) INTO holder USING id;
    GET DIAGNOSTICS visible = ROW_COUNT;
    IF visible = 0 THEN
        reason := 'there is no such record, or you may not see it';
    ELSIF holder = me THEN
        reason := 'it is yours already';
    ELSIF holder IS NOT NULL THEN
        reason := 'it has an owner';
    ELSIF NOT crm.can_edit(workspace, kind, NULL, id) THEN
        reason := 'you may not edit records without an owner';
    ELSE
        EXECUTE format('WITH free AS (SELECT r.%3$I AS id FROM %1$s AS r WHERE r.%3$I = $1 AND r.%2$I IS NULL FOR UPDATE SKIP LOCKED)
                        UPDATE %1$s AS r SET %2$I = $2 FROM free WHERE r.%3$I = free.id', t.rel, t.owner_column, t.id_column)
            USING id, me;
        GET DIAGNOSTICS visible = ROW_COUNT;
        claimed := visible > 0;
        reason := CASE WHEN NOT claimed THEN 'someone else is changing it at this moment' END;
    END IF;
END
$$;

COMMENT ON FUNCTION crm._claim(regnamespace, text, bigint) IS
'Does the work of claim() of a workspace.';

CREATE FUNCTION crm._claim_next(workspace regnamespace, kind text, max_records integer) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me bigint := crm.member_id(workspace);
    t record;
BEGIN
    SELECT * INTO t FROM crm._record_table(workspace, kind);
    IF max_records IS NULL OR max_records < 1 OR max_records > 1000 THEN
        RAISE EXCEPTION 'number of records must be between 1 and 1000'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF me IS NULL THEN
        RAISE EXCEPTION 'this session acts for no member'
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Log in as a role named in member.login_role, or through a gateway.';
    END IF;
    RETURN QUERY EXECUTE format(
        'WITH free AS (SELECT r.%3$I AS id FROM %1$s AS r
                       WHERE r.%2$I IS NULL AND crm.can_edit(%4$L::regnamespace, %5$L, NULL, r.%3$I)
                       ORDER BY r.%3$I LIMIT $1 FOR UPDATE SKIP LOCKED)
         UPDATE %1$s AS r SET %2$I = $2 FROM free WHERE r.%3$I = free.id RETURNING r.%3$I',
        t.rel, t.owner_column, t.id_column, workspace::text, kind)
        USING max_records, me;
END
$$;

COMMENT ON FUNCTION crm._claim_next(regnamespace, text, integer) IS
'Does the work of claim_next() of a workspace.';

-- A lead becomes what exists already where the record is certain to be the same,
-- and something new otherwise.  Columns that the two tables share by name are
-- carried over, those that users added included.

CREATE FUNCTION crm._convert_match(workspace regnamespace, kind text, record jsonb) RETURNS bigint
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    candidates bigint[];
BEGIN
    candidates := ARRAY(SELECT d.id FROM crm.find_duplicates(workspace, kind, record, 10) AS d WHERE d.score >= 0.95 ORDER BY d.score DESC);
    IF cardinality(candidates) > 1 THEN
        RAISE EXCEPTION 'the lead matches more than one %', kind
            USING ERRCODE = 'cardinality_violation',
                  DETAIL = format('It may be any of those with id %s.', array_to_string(candidates, ', ')),
                  HINT = format('Choose one with into_%s, or merge them first.', kind);
    END IF;
    RETURN candidates[1];
END
$$;

COMMENT ON FUNCTION crm._convert_match(regnamespace, text, jsonb) IS
'The one record of a kind that a lead is, with a probability of at least 0.95; NULL if there is none, an error if there are several.';

CREATE FUNCTION crm._convert_insert(workspace regnamespace, kind text, lead_id bigint, other jsonb, leave_out text[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source regclass := (SELECT format('%I.lead', n.nspname) FROM pg_namespace AS n WHERE n.oid = workspace);
    target regclass := (SELECT format('%I.%I', n.nspname, kind) FROM pg_namespace AS n WHERE n.oid = workspace);
    columns text;
    expressions text;
    result bigint;
BEGIN
    SELECT string_agg(quote_ident(w.name), ', ' ORDER BY w.name), string_agg(w.value, ', ' ORDER BY w.name)
    INTO columns, expressions
    FROM (SELECT e.key AS name, quote_literal(e.value) AS value
          FROM jsonb_each_text(other) AS e
          UNION ALL
          SELECT a.attname, quote_ident(a.attname)
          FROM pg_attribute AS a
          JOIN pg_attribute AS l ON l.attrelid = source AND l.attname = a.attname AND l.atttypid = a.atttypid AND l.attnum > 0 AND NOT l.attisdropped
          WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
            AND a.attgenerated = '' AND a.attidentity = ''
            AND a.attname <> ALL (ARRAY['id', 'created_at', 'updated_at', 'row_version', 'pipeline', 'stage'] || leave_out)
            AND NOT other ? a.attname) AS w;
    EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM %s WHERE id = $1 RETURNING id', target, columns, expressions, source)
        INTO result USING lead_id;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._convert_insert(regnamespace, text, bigint, jsonb, text[]) IS
'Inserts a record made of the columns it shares with a lead, except some, and of other values. Returns its id.';

CREATE FUNCTION crm._convert_lead(workspace regnamespace, lead_id bigint, opportunity_name text, amount numeric, currency text, close_date date,
                                  into_account bigint, into_contact bigint, match boolean,
                                  OUT account_id bigint, OUT contact_id bigint, OUT opportunity_id bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema_name text := (SELECT quote_ident(n.nspname) FROM pg_namespace AS n WHERE n.oid = workspace);
    lead record;
    -- Fields that a user may have dropped from the table are read as absent.
    fields jsonb;
    found boolean;
    person boolean;
    next_stage text;
BEGIN
    EXECUTE format('SELECT l.* FROM %s.lead AS l WHERE l.id = $1 FOR UPDATE', schema_name) INTO lead USING lead_id;
    IF lead.id IS NULL THEN
        RAISE EXCEPTION 'lead % does not exist, or you may not edit it', lead_id
            USING ERRCODE = 'no_data_found';
    END IF;
    IF lead.converted_at IS NOT NULL THEN
        RAISE EXCEPTION 'lead % has been converted already', lead_id
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = format('It became %s.', concat_ws(', ', 'account ' || lead.converted_account_id, 'contact ' || lead.converted_contact_id,
                                                             'opportunity ' || lead.converted_opportunity_id));
    END IF;
    fields := to_jsonb(lead);
    person := num_nonnulls(fields ->> 'full_name', fields ->> 'given_name', fields ->> 'family_name') > 0;

    IF into_account IS NOT NULL THEN
        EXECUTE format('SELECT true FROM %s.account AS a WHERE a.id = $1', schema_name) INTO found USING into_account;
        IF found IS NULL THEN
            RAISE EXCEPTION 'account % does not exist, or you may not see it', into_account
                USING ERRCODE = 'no_data_found';
        END IF;
        account_id := into_account;
    ELSIF (fields ->> 'company') IS NOT NULL THEN
        IF match THEN
            account_id := crm._convert_match(workspace, 'account', jsonb_strip_nulls(jsonb_build_object(
                'name', fields ->> 'company', 'website', fields ->> 'website', 'city', fields ->> 'city', 'region', fields ->> 'region', 'country', fields ->> 'country',
                'street', fields ->> 'street', 'postcode', fields ->> 'postcode')));
        END IF;
        IF account_id IS NULL THEN
            account_id := crm._convert_insert(workspace, 'account', lead_id, jsonb_build_object('name', fields ->> 'company'),
                                              CASE WHEN person THEN '{phone,email,description}'::text[] ELSE '{description}' END);
        END IF;
    END IF;

    IF into_contact IS NOT NULL THEN
        EXECUTE format('SELECT true FROM %s.contact AS c WHERE c.id = $1', schema_name) INTO found USING into_contact;
        IF found IS NULL THEN
            RAISE EXCEPTION 'contact % does not exist, or you may not see it', into_contact
                USING ERRCODE = 'no_data_found';
        END IF;
        contact_id := into_contact;
    ELSIF person OR (fields ->> 'company') IS NULL THEN
        IF match THEN
            contact_id := crm._convert_match(workspace, 'contact', jsonb_strip_nulls(jsonb_build_object(
                'full_name', fields ->> 'full_name', 'given_name', fields ->> 'given_name', 'family_name', fields ->> 'family_name',
                'phone', fields ->> 'phone', 'email', fields ->> 'email', 'street', fields ->> 'street', 'city', fields ->> 'city', 'postcode', fields ->> 'postcode')));
        END IF;
        IF contact_id IS NULL THEN
            contact_id := crm._convert_insert(workspace, 'contact', lead_id,
                                              jsonb_strip_nulls(jsonb_build_object('account_id', account_id)), '{}');
        END IF;
    END IF;

    IF opportunity_name IS NOT NULL THEN
        opportunity_id := crm._convert_insert(workspace, 'opportunity', lead_id,
            jsonb_strip_nulls(jsonb_build_object('name', opportunity_name, 'account_id', account_id, 'contact_id', contact_id,
                                                 'amount', amount, 'currency', currency, 'close_date', close_date)), '{description}');
    END IF;

    EXECUTE format('UPDATE %s.activity AS a
                    SET account_id = coalesce(a.account_id, $2), contact_id = coalesce(a.contact_id, $3), opportunity_id = coalesce(a.opportunity_id, $4)
                    WHERE a.lead_id = $1', schema_name)
        USING lead_id, account_id, contact_id, opportunity_id;
    EXECUTE format('SELECT s.name FROM %s.stage AS s WHERE s.pipeline = $1 AND s.type = ''won'' ORDER BY s.position, s.name LIMIT 1', schema_name)
        INTO next_stage USING lead.pipeline;
    EXECUTE format('UPDATE %s.lead SET converted_at = now(), converted_account_id = $2, converted_contact_id = $3, converted_opportunity_id = $4,
                           stage = coalesce($5, stage)
                    WHERE id = $1', schema_name)
        USING lead_id, account_id, contact_id, opportunity_id, next_stage;
END
$$;

COMMENT ON FUNCTION crm._convert_lead(regnamespace, bigint, text, numeric, text, date, bigint, bigint, boolean) IS
'Does the work of convert_lead() of a workspace.';

---------------------------------------------------------------------
-- import
---------------------------------------------------------------------

-- Records from a file: each line is stored or says why not, and those that were
-- stored are known again.

CREATE FUNCTION crm._import_columns(rel regclass, source regclass, OUT name name, OUT value text)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unknown text;
BEGIN
    SELECT s.attname INTO unknown
    FROM pg_attribute AS s
    LEFT JOIN pg_attribute AS a ON a.attrelid = rel AND a.attname = s.attname AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity = ''
    WHERE s.attrelid = source AND s.attnum > 0 AND NOT s.attisdropped AND s.attname NOT IN ('line', 'external_id') AND a.attname IS NULL
    ORDER BY s.attnum LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of % is none that can be written in %', unknown, source, rel
            USING ERRCODE = 'undefined_column',
                  HINT = 'Import from a view whose columns have the names of the table''s; the identifier that a record had elsewhere is external_id.';
    END IF;
    RETURN QUERY
    SELECT a.attname,
           format(CASE WHEN d.adbin IS NULL THEN '%s' ELSE 'coalesce(%s, %s)' END,
                  -- Values of other types come as text; a blank is none.
                  CASE WHEN s.atttypid = a.atttypid AND s.atttypid <> 'text'::regtype THEN format('s.%I', s.attname)
                       ELSE format('nullif(btrim(s.%I::text), '''')::%s', s.attname, format_type(a.atttypid, NULL)) END,
                  pg_get_expr(d.adbin, d.adrelid))
    FROM pg_attribute AS s
    JOIN pg_attribute AS a ON a.attrelid = rel AND a.attname = s.attname AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE s.attrelid = source AND s.attnum > 0 AND NOT s.attisdropped AND s.attname NOT IN ('line', 'external_id')
    ORDER BY s.attnum;
END
$$;
COMMENT ON FUNCTION crm._import_columns(regclass, regclass) IS
'The columns of a table that a source of an import fills, with the expression over its row "s" for each. Errors: 42703 if the source has a column that the table has not.';

---------------------------------------------------------------------
-- undelete
---------------------------------------------------------------------

-- Deleted records brought back from the audit log.

CREATE FUNCTION crm._audit_of(rel regclass, OUT kind text, OUT log regclass)
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT a.args[1],
       coalesce((SELECT to_regclass(substr(o, 5)) FROM unnest(a.args[2:]) AS o WHERE o LIKE 'log=%' LIMIT 1),
                to_regclass(format('%I.audit_log', n.nspname)))
FROM pg_trigger AS t
JOIN pg_class AS c ON c.oid = t.tgrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL crm._trigger_arguments(t.tgargs) AS a (args)
-- One that fires for each deleted row.
WHERE t.tgrelid = rel AND t.tgfoid = 'crm.audit()'::regprocedure AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 9 = 9
LIMIT 1
$$;
COMMENT ON FUNCTION crm._audit_of(regclass) IS
'The kind under which rows deleted from a table are logged, and the log; NULL if they are not.';

-- Whether a role may have a row back is decided before it is there, so that no
-- constraint it breaks tells of a row that the role may not know.
CREATE FUNCTION crm._may_undelete(workspace regnamespace, rel regclass, role oid, OUT may text, OUT owner_column name)
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE WHEN NOT (has_table_privilege(role, c.oid, 'INSERT') AND has_table_privilege(role, c.oid, 'DELETE')) THEN 'none'
            WHEN NOT c.relrowsecurity OR r.rolsuper OR r.rolbypassrls
                 OR pg_has_role(role, c.relowner, 'USAGE') AND NOT c.relforcerowsecurity THEN 'all'
            WHEN t.owner_column IS NULL THEN 'none'
            ELSE 'owned' END,
       t.owner_column
FROM pg_class AS c
JOIN pg_roles AS r ON r.oid = role
LEFT JOIN crm._record_tables(workspace) AS t ON t.rel = c.oid
WHERE c.oid = _may_undelete.rel
$$;
COMMENT ON FUNCTION crm._may_undelete(regnamespace, regclass, oid) IS
'Which deleted rows of a table a role may have back: none, all, or, under protect(), those of owners over whose records the session''s member has the owner''s rights (owned).';

CREATE FUNCTION crm._undelete_images(workspace regnamespace, rel regclass, images jsonb[],
    OUT columns text, OUT image jsonb, OUT lost text[], OUT ord bigint)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    writable name[];
    required name[];   -- of these: those that must have a value
    touched boolean;
    cast_ jsonb;       -- column -> its type, of types that have a cast to JSON of their own, which the log used
    reference record;
    survivor record;
    missing text;
    item text;
BEGIN
    SELECT array_agg(a.attname ORDER BY a.attnum), coalesce(array_agg(a.attname) FILTER (WHERE a.attnotnull), '{}')
    INTO writable, required
    FROM pg_attribute AS a
    WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
    SELECT coalesce(jsonb_object_agg(a.attname, t.typname), '{}') INTO cast_
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped AND t.oid >= 16384
      AND EXISTS (SELECT FROM pg_cast AS c WHERE c.castsource = t.oid AND c.casttarget = 'json'::regtype AND c.castmethod = 'f');
    touched := EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = rel AND t.tgfoid = 'crm.touch()'::regprocedure);

    -- What refers to a record that was merged since refers to the one it went into.
    FOR reference IN
        SELECT a.attname AS name,
               CASE WHEN c.relnamespace = workspace THEN c.relname ELSE f.confrelid::regclass::text END AS kind
        FROM pg_constraint AS f
        JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1]
        JOIN pg_class AS c ON c.oid = f.confrelid
        WHERE f.conrelid = rel AND f.contype = 'f' AND f.conparentid = 0 AND cardinality(f.conkey) = 1
    LOOP
        FOR survivor IN EXECUTE format(
            'SELECT m.record_id, %1$s.resolve(m.kind, m.record_id) AS id FROM %1$s.merged_record AS m
             WHERE m.kind = $1 AND m.record_id IN (SELECT i ->> $2 FROM unnest($3) AS i)', workspace)
            USING reference.kind, reference.name, images
        LOOP
            images := ARRAY(SELECT CASE WHEN i ->> reference.name = survivor.record_id
                                        THEN i || jsonb_build_object(reference.name, survivor.id) ELSE i END
                            FROM unnest(images) WITH ORDINALITY AS u (i, n) ORDER BY u.n);
        END LOOP;
    END LOOP;

    FOR image, ord IN SELECT u.i, u.n FROM unnest(images) WITH ORDINALITY AS u (i, n) ORDER BY u.n LOOP
        -- A value that the log does not hold stands there as an object of its own.
        lost := ARRAY(SELECT e.key FROM jsonb_each(image) AS e
                      WHERE jsonb_typeof(e.value) = 'object'
                        AND (coalesce(cast_ ->> e.key <> 'hstore', false) OR e.value = '{"masked": true}' OR e.value ?& '{bytes,sha256}' AND e.value - '{bytes,sha256}'::text[] = '{}')
                      ORDER BY e.key);
        SELECT l INTO missing FROM unnest(lost) AS l WHERE l = ANY (required);
        IF FOUND THEN
            RAISE EXCEPTION 'a row of "%" cannot be brought back', (SELECT c.relname FROM pg_class AS c WHERE c.oid = rel)
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = format('Column "%s" must have a value, and the audit log does not hold it.', missing);
        END IF;
        image := image - lost;
        FOR item IN SELECT e.key FROM jsonb_each_text(cast_) AS e WHERE e.value = 'hstore' AND jsonb_typeof(image -> e.key) = 'object' LOOP
            image := image || jsonb_build_object(item,
                (SELECT coalesce(string_agg('"' || regexp_replace(h.key, '(["\\])', '\\\1', 'g') || '"=>' || coalesce('"' || regexp_replace(h.value, '(["\\])', '\\\1', 'g') || '"', 'NULL'), ','), '')
                 FROM jsonb_each_text(image -> item) AS h));
        END LOOP;
        IF touched THEN
            image := image || jsonb_strip_nulls(jsonb_build_object(
                'updated_at', CASE WHEN 'updated_at' = ANY (writable) THEN now() END,
                'row_version', CASE WHEN 'row_version' = ANY (writable) THEN (image ->> 'row_version')::bigint + 1 END));
        END IF;
        columns := (SELECT string_agg(quote_ident(w), ', ' ORDER BY n) FROM unnest(writable) WITH ORDINALITY AS w (w, n)
                    WHERE image ? w OR NOT w = ANY (required));
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION crm._undelete_images(regnamespace, regclass, jsonb[]) IS
'Rows as the audit log has them, made ready to be inserted: the columns to write, the others having their defaults; the values; the columns whose values the log does not hold. Error: 55000 if one of these must have a value.';

CREATE FUNCTION crm._undelete_references(rels oid[],
    OUT rel regclass, OUT confrelid oid, OUT confdeltype "char", OUT moves boolean,
    OUT parent name[], OUT child name[], OUT cleared name[], OUT cleared_parent name[])
RETURNS SETOF record LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT f.conrelid, f.confrelid, f.confdeltype,
       f.confdeltype <> 'c' AND EXISTS (SELECT FROM pg_partitioned_table AS t WHERE t.partrelid = f.conrelid AND t.partattrs::smallint[] && f.conkey),
       p.names, c.names, s.names, s.parent
FROM pg_constraint AS f
CROSS JOIN LATERAL (SELECT array_agg(a.attname ORDER BY k.n) AS names FROM unnest(f.confkey) WITH ORDINALITY AS k (num, n)
                    JOIN pg_attribute AS a ON a.attrelid = f.confrelid AND a.attnum = k.num) AS p
CROSS JOIN LATERAL (SELECT array_agg(a.attname ORDER BY k.n) AS names FROM unnest(f.conkey) WITH ORDINALITY AS k (num, n)
                    JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.num) AS c
CROSS JOIN LATERAL (SELECT array_agg(b.c ORDER BY b.n) AS names, array_agg(b.p ORDER BY b.n) AS parent
                    FROM unnest(c.names, p.names, f.conkey) WITH ORDINALITY AS b (c, p, num, n)
                    WHERE cardinality(coalesce(f.confdelsetcols, '{}')) = 0 OR b.num = ANY (f.confdelsetcols)) AS s
WHERE f.contype = 'f' AND f.conparentid = 0 AND f.confrelid = ANY (rels)
ORDER BY f.confdeltype <> 'c', f.oid
$$;
COMMENT ON FUNCTION crm._undelete_references(oid[]) IS
'Foreign keys that refer to tables, those that delete first: the table, what it refers to, what a deletion does, whether that may move rows to another partition; the columns on both sides, and those of them that a deletion clears.';

CREATE FUNCTION crm._last_change(workspace regnamespace, target regclass, id text,
    OUT log_id bigint, OUT operation text, OUT old jsonb, OUT changed_at timestamptz, OUT transaction_id bigint, OUT record jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id_column name;
    integer_id boolean;
    audit record;
BEGIN
    SELECT a.attname, a.atttypid IN ('int8'::regtype, 'int4'::regtype, 'int2'::regtype) INTO id_column, integer_id
    FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = target AND i.indisprimary;
    SELECT * INTO audit FROM crm._audit_of(target);
    -- A table that is audited no more may have been.
    IF audit.log IS NULL THEN
        SELECT c.relname::text AS kind, to_regclass(format('%s.audit_log', workspace)) AS log INTO audit FROM pg_class AS c WHERE c.oid = target;
    END IF;
    EXECUTE format('SELECT l.id, l.operation, l.old, l.changed_at, l.transaction_id
                    FROM (SELECT * FROM %s AS l WHERE l.kind = $1 AND %s OFFSET 0) AS l ORDER BY l.id DESC LIMIT 1', audit.log,
                   CASE WHEN integer_id THEN 'l.record_id = $2::bigint' ELSE 'l.record_id IS NULL AND l.record_key ->> $3 = $2' END)
    INTO log_id, operation, old, changed_at, transaction_id USING audit.kind, id, id_column;
    IF log_id IS NULL AND (SELECT a.log FROM crm._audit_of(target) AS a) IS NULL THEN
        RAISE EXCEPTION 'deletions in "%" are not in an audit log', (SELECT c.relname FROM pg_class AS c WHERE c.oid = target)
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('SELECT crm.enable_audit(%L, audit_log => %L) logs them from now on.', target::text, workspace || '.audit_log');
    END IF;
    record := jsonb_build_object(id_column, CASE WHEN integer_id THEN to_jsonb(id::bigint) ELSE to_jsonb(id) END);
END
$$;
COMMENT ON FUNCTION crm._last_change(regnamespace, regclass, text) IS
'The last change of a record that is in the audit log, and its primary key; NULLs: none is. Error: 55000 if there is none and the table has no audit log.';

CREATE FUNCTION crm._undelete_plan(workspace regnamespace, target regclass, id text, role oid,
    OUT rel regclass, OUT operation text, OUT as_owner boolean, OUT record jsonb, OUT columns text, OUT image jsonb, OUT was jsonb, OUT note text)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    audit record;
    deletion record;
    right_ record;
    reference record;
    row_ record;
    ready record;
    level_rels oid[];       -- the rows that came last, as three lists
    level_records jsonb[];
    level_images jsonb[];
    next_rels oid[];
    next_records jsonb[];
    next_images jsonb[];
    seen bigint[];          -- of the log: rows taken
    keys jsonb[];
    hidden boolean;  -- were there rows that the role may not have back?
    keyless boolean; -- were there rows that referred to it and have no key?
    told text[] := '{}';
    written jsonb := '{}';  -- log -> what the transaction did to which kinds
BEGIN
    SELECT * INTO deletion FROM crm._last_change(workspace, target, id);
    SELECT * INTO right_ FROM crm._may_undelete(workspace, target, role);
    IF deletion.operation IS DISTINCT FROM 'DELETE' OR right_.may = 'none'
       OR right_.may = 'owned' AND NOT coalesce(crm.can_delete(workspace, (deletion.old ->> right_.owner_column)::bigint), false) THEN
        RETURN;
    END IF;

    seen := ARRAY[deletion.log_id];
    level_rels := ARRAY[target::oid];
    level_records := ARRAY[deletion.record];
    level_images := ARRAY[deletion.old];
    WHILE cardinality(level_rels) > 0 LOOP
        FOR rel IN SELECT DISTINCT u FROM unnest(level_rels) AS u ORDER BY u LOOP
            operation := 'note'; as_owner := NULL; record := NULL; image := NULL; was := NULL;
            note := 'the column is gone since';
            FOR columns IN
                SELECT DISTINCT k FROM unnest(level_rels, level_images) AS u (r, i), jsonb_object_keys(u.i) AS k
                WHERE u.r = rel AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = rel AND a.attname = k AND a.attnum > 0 AND NOT a.attisdropped)
                  AND NOT format('%s.%s', rel::oid, k) = ANY (told)
                ORDER BY k
            LOOP
                told := told || format('%s.%s', rel::oid, columns);
                RETURN NEXT;
            END LOOP;
            FOR ready IN
                SELECT i.columns, i.image, i.lost, l.record
                FROM (SELECT array_agg(u.i ORDER BY u.n) AS images, array_agg(u.k ORDER BY u.n) AS records
                      FROM unnest(level_rels, level_records, level_images) WITH ORDINALITY AS u (r, k, i, n) WHERE u.r = rel) AS g
                CROSS JOIN LATERAL crm._undelete_images(workspace, rel, g.images) AS i
                CROSS JOIN LATERAL (SELECT g.records[i.ord] AS record) AS l
                ORDER BY i.columns, i.ord
            LOOP
                operation := 'insert'; record := ready.record; columns := ready.columns; image := ready.image; note := NULL;
                RETURN NEXT;
                operation := 'note'; image := NULL; note := 'the audit log does not hold the value';
                FOREACH columns IN ARRAY ready.lost LOOP
                    RETURN NEXT;
                END LOOP;
            END LOOP;
        END LOOP;

        -- What the same transaction took away with these rows.
        next_rels := '{}'; next_records := '{}'; next_images := '{}';
        FOR reference IN
            SELECT * FROM crm._undelete_references(level_rels)
        LOOP
            rel := reference.rel; record := NULL; columns := NULL; image := NULL; was := NULL; as_owner := NULL;
            SELECT * INTO audit FROM crm._audit_of(rel);
            IF audit.log IS NULL THEN
                IF reference.confdeltype IN ('c', 'n', 'd') AND NOT rel::oid::text = ANY (told) THEN
                    told := told || rel::oid::text;
                    operation := 'note';
                    note := 'what went or changed with it is not known: the table has no audit log';
                    RETURN NEXT;
                END IF;
                CONTINUE;
            END IF;
            -- Most foreign keys have nothing to do with it.
            IF NOT written ? audit.log::text THEN
                EXECUTE format('SELECT $3 || jsonb_build_object($4, coalesce(jsonb_agg(DISTINCT l.kind), ''[]''))
                                FROM (SELECT l.kind, l.operation FROM %s AS l WHERE l.changed_at = $1 AND l.transaction_id = $2 OFFSET 0) AS l
                                WHERE l.operation IN (''DELETE'', ''UPDATE'')', audit.log)
                INTO written USING deletion.changed_at, deletion.transaction_id, written, audit.log::text;
            END IF;
            CONTINUE WHEN NOT written -> audit.log::text ? audit.kind;
            -- A row that moves to another partition is in the log as deleted and inserted.
            IF reference.moves THEN
                operation := 'note';
                note := 'what changed with it is not known: such rows move to another partition';
                RETURN NEXT;
                CONTINUE;
            END IF;
            SELECT * INTO right_ FROM crm._may_undelete(workspace, rel, role);

            hidden := false;
            keys := ARRAY(SELECT jsonb_agg(u.i -> p.name ORDER BY p.n)
                          FROM unnest(level_rels, level_images) WITH ORDINALITY AS u (r, i, n),
                               unnest(reference.parent) WITH ORDINALITY AS p (name, n)
                          WHERE u.r = reference.confrelid
                          GROUP BY u.n HAVING bool_and(u.i ? p.name));
            FOR row_ IN EXECUTE format(
                'SELECT DISTINCT ON (l.record_id, l.record_key, CASE WHEN num_nonnulls(l.record_id, l.record_key) = 0 THEN l.id END)
                        l.id, CASE WHEN l.record_id IS NULL THEN l.record_key ELSE jsonb_build_object($5, l.record_id) END AS record, l.old
                 FROM (SELECT * FROM %s AS l WHERE l.changed_at = $1 AND l.transaction_id = $2 OFFSET 0) AS l
                 WHERE l.operation = ''DELETE'' AND l.kind = $3
                   AND jsonb_build_array(%s) IN (SELECT unnest($4)) AND l.id NOT IN (SELECT unnest($6))
                 ORDER BY l.record_id, l.record_key, CASE WHEN num_nonnulls(l.record_id, l.record_key) = 0 THEN l.id END, l.id DESC',
                audit.log, (SELECT string_agg(format('l.old -> %L', c), ', ' ORDER BY n) FROM unnest(reference.child) WITH ORDINALITY AS c (c, n)))
                USING deletion.changed_at, deletion.transaction_id, audit.kind, keys, crm._integer_key(rel), seen
            LOOP
                IF reference.confdeltype = 'c' OR right_.may = 'all'
                   OR right_.may = 'owned' AND crm.can_delete(workspace, (row_.old ->> right_.owner_column)::bigint) THEN
                    seen := seen || row_.id;
                    next_rels := next_rels || rel::oid;
                    next_records := next_records || row_.record;
                    next_images := next_images || row_.old;
                ELSE
                    hidden := true;
                END IF;
            END LOOP;
            IF hidden THEN
                operation := 'note';
                note := 'others were deleted with it, and are not yours to bring back';
                RETURN NEXT;
            END IF;

            keys := ARRAY(SELECT jsonb_agg(u.i -> p.name ORDER BY p.n)
                          FROM unnest(level_rels, level_images) WITH ORDINALITY AS u (r, i, n),
                               unnest(reference.cleared_parent) WITH ORDINALITY AS p (name, n)
                          WHERE u.r = reference.confrelid
                          GROUP BY u.n HAVING bool_and(u.i ? p.name));
            operation := 'update';
            as_owner := reference.confdeltype IN ('n', 'd');
            note := NULL;
            columns := array_to_string(reference.cleared, ', ');
            keyless := false;
            FOR record, image, was IN EXECUTE format(
                'SELECT CASE WHEN l.record_id IS NULL THEN l.record_key ELSE jsonb_build_object($5, l.record_id) END, jsonb_build_object(%1$s), jsonb_build_object(%2$s)
                 FROM (SELECT * FROM %3$s AS l WHERE l.changed_at = $1 AND l.transaction_id = $2 OFFSET 0) AS l
                 WHERE l.operation = ''UPDATE'' AND l.kind = $3
                   AND jsonb_build_array(%4$s) IN (SELECT unnest($4)) AND ($6 OR jsonb_build_array(%5$s) <@ ''[null]'')
                 ORDER BY l.id', (SELECT string_agg(format('%1$L, l.old -> %1$L', c), ', ') FROM unnest(reference.cleared) AS c),
                (SELECT string_agg(format('%1$L, l.new -> %1$L', c), ', ') FROM unnest(reference.cleared) AS c),
                audit.log,
                (SELECT string_agg(format('l.old -> %L', c), ', ' ORDER BY n) FROM unnest(reference.cleared) WITH ORDINALITY AS c (c, n)),
                (SELECT string_agg(format('l.new -> %L', c), ', ') FROM unnest(reference.cleared) AS c))
                USING deletion.changed_at, deletion.transaction_id, audit.kind, keys, crm._integer_key(rel), as_owner
            LOOP
                IF record IS NULL THEN
                    keyless := true;
                ELSE
                    RETURN NEXT;
                END IF;
            END LOOP;
            IF keyless THEN
                operation := 'note'; record := NULL; image := NULL; was := NULL;
                note := 'rows that referred to it cannot be told apart: the table has no primary key';
                RETURN NEXT;
            END IF;
        END LOOP;
        level_rels := next_rels; level_records := next_records; level_images := next_images;
    END LOOP;
END
$$;
COMMENT ON FUNCTION crm._undelete_plan(regnamespace, regclass, text, oid) IS
'What undelete() of a record would do for a role: rows to insert, parents first, with their columns and values; rows to update, with the values to set where they still have those of was, as the owner of the table or as the role; and notes of what cannot come back. No row: no such deletion, or the role may not know of it. Run as the workspace''s owner. Error: 55000 if the table has no audit log.';

CREATE FUNCTION crm._integer_key(rel regclass) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
RETURN coalesce((SELECT a.attname FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                 WHERE i.indrelid = rel AND i.indisprimary), 'id');
COMMENT ON FUNCTION crm._integer_key(regclass) IS
'The column whose value the audit log has as record_id, in a table with a primary key of one integer column; id if it has none any more.';

CREATE FUNCTION crm.undelete(workspace regnamespace, kind text, id text, dry_run boolean DEFAULT false,
    OUT table_name text, OUT record jsonb, OUT restored boolean, OUT field text, OUT note text)
RETURNS SETOF record LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'crm_undelete'
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
SET intervalstyle = postgres
SET extra_float_digits = 3
SET bytea_output = hex;
COMMENT ON FUNCTION crm.undelete(regnamespace, text, text, boolean) IS
'Brings back a deleted record of a kind (a table of the workspace or of protect(), or the qualified name of any audited table with a primary key of one column) from the audit log, with what the same transaction deleted or unlinked because it referred to it. id is the text of the primary key. One row for each record that is back and each link set again, and with restored false for what is not. With dry_run nothing changes. The caller needs INSERT and DELETE on the table, the owner''s rights over the record where the table has protect(), and must see and be allowed to change what came back. Errors: P0002 for a deletion that is not in the log or not for the caller, 55000 for a record that is there or was merged and for a table without audit log, 23505, 23P01 and 23503 where another record stands in the way, RMD01 by a duplicate rule on undelete, 42P01 and 0A000 for kinds that cannot be.';

---------------------------------------------------------------------
-- report
---------------------------------------------------------------------

-- What reports are asked for is checked as what is written is: no rows would say that
-- nothing happened.

CREATE FUNCTION crm._check_pipeline(workspace regnamespace, pipeline text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known text[];
BEGIN
    IF pipeline IS NULL THEN
        RAISE EXCEPTION 'pipeline must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    EXECUTE format('SELECT array_agg(p.name ORDER BY p.name) FROM %s.pipeline AS p', workspace) INTO known;
    IF pipeline = ANY (known) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'pipeline "%" does not exist', pipeline
        USING ERRCODE = 'RMS02',
              DETAIL = format('Pipelines: %s.', coalesce((SELECT string_agg(format('"%s"', k), ', ') FROM unnest(known) AS k), 'none that you may see'));
END
$$;
COMMENT ON FUNCTION crm._check_pipeline(regnamespace, text) IS
'Errors unless the caller can see a pipeline of this name: RMS02, with those there are, and 22004 for NULL.';

CREATE FUNCTION crm._check_period(since timestamptz, until timestamptz, bounded boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF bounded AND (since IS NULL OR until IS NULL) THEN
        RAISE EXCEPTION 'beginning and end of the period must not be null' USING ERRCODE = 'null_value_not_allowed';
    ELSIF since > until THEN
        RAISE EXCEPTION 'the period ends before it begins'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is from %s to %s.', since, until);
    END IF;
END
$$;
COMMENT ON FUNCTION crm._check_period(timestamptz, timestamptz, boolean) IS
'Errors if a period ends before it begins (22023), or, with bounded, has no beginning or end (22004).';

---------------------------------------------------------------------
-- doctor
---------------------------------------------------------------------

-- What each table of a workspace must carry, by trigger function.
CREATE FUNCTION crm._expected_triggers(OUT "table" text, OUT function text, OUT triggers integer)
RETURNS SETOF record LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT t.name, f.name, f.triggers
FROM (VALUES
    ('touch', 1, '{account,contact,lead,opportunity,activity,reminder,setting,member,team}'::text[]),
    ('audit', 2, '{account,contact,lead,opportunity,activity,external_reference,setting,member,team,team_member,share,pipeline,stage,stage_transition,stage_rule,exchange_rate,duplicate_rule,match_model}'),
    ('append_only', 1, '{audit_log,audit_seal,duplicate_log}'),
    ('stage_guard', 2, '{lead,opportunity}'),
    ('stage_history', 2, '{lead,opportunity}'),
    ('stage_config', 1, '{pipeline,stage,stage_transition,stage_rule}'),
    ('stage_changed', 2, '{pipeline,stage,stage_transition,stage_rule}'),
    ('canonicalize', 1, '{account,contact,lead,opportunity,member}'),
    ('check_duplicates', 2, '{account,contact,lead}'),
    ('duplicate_rule_changed', 2, '{duplicate_rule}'),
    ('duplicate_rule_config', 1, '{duplicate_rule}'),
    ('access_changed', 2, '{member,team,team_member,share,setting,token_key}'),
    ('refuse_cycle', 1, '{member,team,account}'),
    ('check_time_zone', 1, '{member,calendar}'),
    ('refuse_transfer', 1, '{account,contact,lead,opportunity,activity,reminder}'),
    ('hand_over', 1, '{account,contact,lead,opportunity,activity}'),
    ('reminder_wake', 1, '{reminder}'),
    ('reminder_recurrence', 1, '{reminder}'),
    ('reminder_activity', 2, '{activity}'),
    ('event_closed', 1, '{event}')
) AS f (name, triggers, tables), unnest(f.tables) AS t (name)
$$;

COMMENT ON FUNCTION crm._expected_triggers() IS
'Tables of a workspace and the functions, of crm or of the workspace, that must be among their triggers, with how many triggers each.';

CREATE FUNCTION crm._foreign_keys_without_index(schema oid, OUT conname name, OUT conrelid oid, OUT conkey smallint[])
RETURNS SETOF record LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT k.conname, k.conrelid, k.conkey
FROM pg_constraint AS k
WHERE k.contype = 'f'
  AND k.connamespace = schema
  AND k.conparentid = 0
  AND NOT EXISTS (SELECT FROM pg_index AS i
                  WHERE i.indrelid = k.conrelid
                    AND i.indisvalid
                    AND (i.indpred IS NULL
                         OR pg_get_expr(i.indpred, i.indrelid)
                            = (SELECT format('(%I IS NOT NULL)', a.attname) FROM pg_attribute AS a
                               WHERE a.attrelid = k.conrelid AND a.attnum = k.conkey[1] AND cardinality(k.conkey) = 1))
                    -- the key's columns, in any order, are the index's first
                    AND (SELECT array_agg(c ORDER BY c) FROM unnest(k.conkey) AS c)
                        = (SELECT array_agg(c ORDER BY c)
                           FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS u (c, position)
                           WHERE u.position <= cardinality(k.conkey)))
$$;

COMMENT ON FUNCTION crm._foreign_keys_without_index(oid) IS
'Foreign keys of a schema whose columns are not the first of any valid index over all rows, or all where the column is not NULL.';

CREATE FUNCTION crm._doctor_workspace(workspace oid, OUT severity text, OUT "check" text, OUT detail text, OUT hint text)
RETURNS SETOF record LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
WITH me AS (
    SELECT n.oid, n.nspname, n.nspowner FROM pg_namespace AS n WHERE n.oid = workspace
), business AS (
    SELECT c.oid, c.relname, c.relrowsecurity
    FROM crm._access_list() AS l
    JOIN pg_class AS c ON c.relname = l.name AND c.relnamespace = workspace AND c.relkind IN ('r', 'p')
    WHERE l.class = 'table' AND l.app LIKE '%INSERT%'
)
SELECT 'error', 'role above the rules',
       format('role %s has access "%s" but %s', a.role, a.kind,
              CASE WHEN r.rolsuper THEN 'is a superuser'
                   WHEN r.rolbypassrls THEN 'has BYPASSRLS'
                   ELSE 'belongs to the role that owns the workspace' END || ', so row-level security does not hold it'),
       'Give applications a role of their own, without SUPERUSER and BYPASSRLS, that does not belong to the owner.'
FROM crm.access(workspace) AS a
JOIN pg_roles AS r ON r.oid = a.role
CROSS JOIN me
WHERE a.kind <> 'auditor'
  AND (r.rolsuper OR r.rolbypassrls OR pg_has_role(r.oid, me.nspowner, 'MEMBER'))
UNION ALL
SELECT 'error', 'row-level security off',
       format('table %s %s', b.oid::regclass,
              CASE WHEN NOT b.relrowsecurity THEN 'has row-level security disabled: every application sees every record'
                   ELSE 'has no policy: no application sees any record' END),
       format('Run SELECT crm.upgrade_workspace(%L).', me.nspname)
FROM business AS b
CROSS JOIN me
WHERE NOT b.relrowsecurity OR NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = b.oid)
UNION ALL
SELECT 'error', 'policy missing',
       format('table %s has records, but no policy named %s', t.tgrelid::regclass, e.name),
       format('Run SELECT crm.upgrade_workspace(%L), or crm.protect() again for a table of your own.', me.nspname)
FROM pg_trigger AS t
JOIN pg_class AS c ON c.oid = t.tgrelid AND c.relnamespace = workspace
CROSS JOIN unnest('{crm_read,crm_insert,crm_update,crm_delete}'::text[]) AS e (name)
CROSS JOIN me
WHERE t.tgfoid = 'crm.refuse_transfer()'::regprocedure
  AND EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = t.tgrelid)
  AND NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = t.tgrelid AND p.polname = e.name)
UNION ALL
SELECT 'error', 'policy above the rules',
       format('policy %I of table %s lets everybody %s every row', p.polname, p.polrelid::regclass,
              CASE p.polcmd WHEN 'r' THEN 'read' WHEN 'w' THEN 'change' WHEN 'd' THEN 'delete' ELSE 'read and write' END),
       format('Run DROP POLICY %I ON %s; policies that only restrict are AS RESTRICTIVE.', p.polname, p.polrelid::regclass)
FROM pg_policy AS p
JOIN pg_class AS c ON c.oid = p.polrelid
WHERE c.relnamespace = workspace AND p.polpermissive AND pg_get_expr(p.polqual, p.polrelid) = 'true'
UNION ALL
SELECT 'warning', 'object missing',
       format('%s %I.%I is gone', CASE l.class WHEN 'table' THEN 'table or view' ELSE l.class END, me.nspname, l.name),
       format('Run SELECT crm.upgrade_workspace(%L).', me.nspname)
FROM crm._access_list() AS l
CROSS JOIN me
WHERE CASE l.class WHEN 'table' THEN NOT EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = workspace AND c.relname = l.name)
                   WHEN 'function' THEN NOT EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = workspace AND p.proname = l.name)
                   ELSE false END
UNION ALL
SELECT 'warning', 'autovacuum off',
       format('autovacuum is switched off for table %s', c.oid::regclass),
       format('Run ALTER TABLE %s RESET (autovacuum_enabled).', c.oid::regclass)
FROM pg_class AS c
CROSS JOIN LATERAL pg_options_to_table(c.reloptions) AS o
WHERE c.relnamespace = workspace AND o.option_name = 'autovacuum_enabled' AND o.option_value IN ('false', 'off', '0', 'no')
UNION ALL
SELECT 'error', 'trigger missing',
       CASE WHEN x.found = 0 THEN format('table %s has no trigger of %s()', c.oid::regclass, p.oid::regproc)
            ELSE format('table %s has only %s of the %s triggers of %s()', c.oid::regclass, x.found, e.triggers, p.oid::regproc) END,
       format('Run SELECT crm.upgrade_workspace(%L).', me.nspname)
FROM crm._expected_triggers() AS e
JOIN pg_class AS c ON c.relname = e."table" AND c.relnamespace = workspace
JOIN pg_proc AS p ON p.proname = e.function AND p.pronamespace IN ('crm'::regnamespace, workspace)
CROSS JOIN LATERAL (SELECT count(*) AS found FROM pg_trigger AS t WHERE t.tgrelid = c.oid AND t.tgfoid = p.oid) AS x
CROSS JOIN me
WHERE x.found < e.triggers
UNION ALL
SELECT CASE t.tgenabled WHEN 'D' THEN 'error' ELSE 'warning' END, 'trigger disabled',
       format('trigger %I of table %s %s', t.tgname, t.tgrelid::regclass,
              CASE t.tgenabled WHEN 'D' THEN 'is disabled' ELSE 'fires only when session_replication_role is replica' END),
       format('Run ALTER TABLE %s ENABLE TRIGGER %I.', t.tgrelid::regclass, t.tgname)
FROM pg_trigger AS t
JOIN pg_class AS c ON c.oid = t.tgrelid
JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE c.relnamespace = workspace
  AND p.pronamespace IN ('crm'::regnamespace, workspace)
  AND t.tgenabled IN ('D', 'R')
UNION ALL
SELECT 'warning', 'foreign key without index',
       format('foreign key %I of table %s has no index: deleting or changing what it refers to scans the table', k.conname, k.conrelid::regclass),
       format('Run CREATE INDEX ON %s (%s).', k.conrelid::regclass,
              (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.position)
               FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, position)
               JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.attnum))
FROM crm._foreign_keys_without_index(workspace) AS k
UNION ALL
SELECT 'error', 'index not valid',
       format('index %s of table %s is not valid: nothing is found by it', i.indexrelid::regclass, i.indrelid::regclass),
       format('Run REINDEX INDEX CONCURRENTLY %s, or drop it.', i.indexrelid::regclass)
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indrelid
WHERE c.relnamespace = workspace
  AND NOT i.indisvalid
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS b WHERE b.index_relid = i.indexrelid)
UNION ALL
SELECT 'error', 'no matching index',
       format('table %s has no valid index on crm.match_keys(): its duplicates are not found, and duplicate rules refuse every write', c.oid::regclass),
       format('Run CREATE INDEX CONCURRENTLY ON %s USING crm_match (crm.match_keys(...)), with the columns that tell who a record is.', c.oid::regclass)
FROM pg_class AS c
WHERE c.oid IN (SELECT t.tgrelid FROM pg_trigger AS t WHERE t.tgfoid = 'crm.check_duplicates()'::regprocedure)
  AND c.relnamespace = workspace
  AND NOT EXISTS (SELECT FROM pg_index AS i
                  JOIN pg_opclass AS o ON o.oid = i.indclass[0]
                  WHERE i.indrelid = c.oid AND i.indisvalid AND o.opcname = 'match_ops' AND o.opcnamespace = 'crm'::regnamespace)
UNION ALL
SELECT 'warning', 'old matching statistics',
       format('how common names and numbers in table %s are was learned on %s of %s rows, of which as many as half have changed since: scores rest on what is no more',
              s.rel, s.analyzed_at::date, s.rows),
       format('Run SELECT crm.analyze_matching(%L), or scan for duplicates.', s.rel::text)
FROM crm._old_statistics(workspace::regnamespace) AS s
UNION ALL
SELECT 'error', 'owner',
       format('%s not to the owner of the workspace, %s: what the database does there itself fails or has other rights',
              CASE WHEN count(*) = 1 THEN format('%s belongs to %s,', min(o.name), o.owner)
                   ELSE format('%s and %s more belong to %s,', min(o.name), count(*) - 1, o.owner) END, me.nspowner::regrole),
       format('Run ALTER %s OWNER TO %s%s.', (array_agg(upper(o.what) || substr(o.name, length(o.what) + 1) ORDER BY o.name))[1], me.nspowner::regrole,
              CASE WHEN count(*) > 1 THEN format(' and so on, or ALTER SCHEMA %I OWNER TO %s', me.nspname, o.owner) END)
FROM me
CROSS JOIN LATERAL (
    SELECT w.what, format('%s %s', w.what, c.oid::regclass) AS name, c.relowner::regrole AS owner
    FROM pg_class AS c
    CROSS JOIN LATERAL (SELECT CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END AS what) AS w
    JOIN crm._access_list() AS l ON l.class = 'table' AND l.name = c.relname
    WHERE c.relnamespace = workspace AND c.relowner <> me.nspowner
    UNION ALL
    SELECT 'function', format('function %s', p.oid::regprocedure), p.proowner::regrole
    FROM pg_proc AS p
    WHERE p.pronamespace = workspace AND p.prosecdef AND p.proowner <> me.nspowner) AS o
GROUP BY o.owner, me.nspowner, me.nspname
UNION ALL
SELECT 'error', 'privilege too many',
       format('%s may %s', CASE x.grantee WHEN 0 THEN 'everybody' ELSE 'role ' || x.grantee::regrole END,
              CASE WHEN x.privilege_type = 'SELECT' THEN 'read ' ELSE lower(x.privilege_type) || ' in ' END || c.oid::regclass),
       format('Run REVOKE %s ON %s FROM %s.', x.privilege_type, c.oid::regclass, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END)
FROM pg_class AS c
CROSS JOIN LATERAL aclexplode(c.relacl) AS x
CROSS JOIN me
WHERE c.relnamespace = workspace
  AND c.relkind IN ('r', 'p')
  AND x.grantee <> c.relowner
  AND (x.grantee = 0
       -- What only the database writes, and the secrets, whoever the role is.
       OR c.relname = 'token_key'
       OR c.relname IN ('audit_log', 'audit_seal', 'duplicate_log', 'stage_history', 'merge_change', 'merged_record') AND x.privilege_type <> 'SELECT'
       OR c.relname = 'event' AND x.privilege_type IN ('INSERT', 'TRUNCATE'))
UNION ALL
SELECT 'error', 'privilege too many',
       format('everybody may execute %s, which has the rights of its owner', p.oid::regprocedure),
       format('Run REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC.', p.oid::regprocedure)
FROM pg_proc AS p
WHERE p.pronamespace = workspace
  AND p.prosecdef
  AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS x WHERE x.grantee = 0)
UNION ALL
SELECT 'error', 'view above the rules',
       format('view %s can be read by role %s but is not security_invoker: it shows every record', c.oid::regclass, a.role),
       format('Run ALTER VIEW %s SET (security_invoker = true).', c.oid::regclass)
FROM pg_class AS c
CROSS JOIN (SELECT DISTINCT a.role FROM crm.access(workspace) AS a) AS a
WHERE c.relnamespace = workspace
  AND c.relkind = 'v'
  -- It reads the log, which they may not, through a view that says who sees which row.
  AND c.relname <> 'deleted_record'
  AND has_table_privilege(a.role, c.oid, 'SELECT')
  AND NOT EXISTS (SELECT FROM pg_options_to_table(c.reloptions) AS o
                  WHERE o.option_name = 'security_invoker' AND o.option_value IN ('true', 'on', '1', 'yes'))
  AND NOT pg_has_role(a.role, c.relowner, 'MEMBER')
UNION ALL
SELECT 'error', 'search_path open',
       format('function %s is SECURITY DEFINER without a search_path of its own', p.oid::regprocedure),
       format('Run ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp, and qualify what it uses.', p.oid::regprocedure)
FROM pg_proc AS p
WHERE p.pronamespace = workspace
  AND p.prosecdef
  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c WHERE c LIKE 'search_path=%')
UNION ALL
SELECT 'error', 'quarantine',
       'no reminder fires: the workspace was restored or copied from another database',
       format('If its reminders are to fire here, run SELECT crm.scheduler_adopt(%L).', workspace::regnamespace)
WHERE NOT crm._reminder_at_home(workspace)
$$;

COMMENT ON FUNCTION crm._doctor_workspace(oid) IS
'The part of crm.doctor() about one workspace.';

-- What people wrote into rules and settings was checked then; columns, roles and
-- pipelines may have gone since.
CREATE FUNCTION crm._doctor_rules(workspace regnamespace, OUT severity text, OUT "check" text, OUT detail text, OUT hint text)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
BEGIN
    severity := 'error';
    "check" := 'rule does not work';
    FOR item IN SELECT DISTINCT g.kind FROM crm.guarded_tables(workspace) AS g ORDER BY g.kind LOOP
        BEGIN
            PERFORM crm._check_stage_rules(workspace, item.kind);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
            detail := format('stages of kind "%s": %s (%s)', item.kind, SQLERRM, detail);
            hint := 'Correct the rule, or bring back what it needs: moves that it governs fail.';
            RETURN NEXT;
        END;
    END LOOP;
    FOR item IN EXECUTE format($query$
        SELECT format('%%s "%%s"', r.what, r.name) AS title, r.what, r.expression, t.rel
        FROM (SELECT 'duplicate rule' AS what, r.name, r.kind, r.condition AS expression FROM %1$s.duplicate_rule AS r WHERE r.active
              UNION ALL SELECT 'escalation rule', r.name, r.kind, r.condition FROM %1$s.escalation_rule AS r WHERE r.active
              UNION ALL SELECT 'attention rule', r.name, r.kind, r.condition FROM %1$s.attention_rule AS r
              UNION ALL SELECT 'SLA policy', p.name, p.kind, e.expression
                        FROM %1$s.sla_policy AS p CROSS JOIN unnest(ARRAY[p.condition, p.met_when, p.pause_when]) AS e (expression) WHERE p.active) AS r
        JOIN crm._record_tables($1) AS t ON t.kind = r.kind
        WHERE r.expression IS NOT NULL
        ORDER BY 1$query$, workspace) USING workspace
    LOOP
        BEGIN
            IF item.what = 'duplicate rule' THEN
                PERFORM crm._check_duplicate_condition(item.rel, workspace, item.expression);
            ELSE
                PERFORM crm._check_stage_expression(item.rel, workspace, item.expression);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            detail := format('%s: %s', item.title, SQLERRM);
            hint := 'Correct the rule, or bring back what it needs.';
            RETURN NEXT;
        END;
    END LOOP;

    severity := 'warning';
    "check" := 'no way in';
    FOR item IN EXECUTE format($query$
        SELECT g.kind, p.name
        FROM (SELECT DISTINCT g.kind FROM crm.guarded_tables($1) AS g) AS g
        LEFT JOIN %1$s.pipeline AS p ON p.kind = g.kind AND p.is_default
        WHERE NOT EXISTS (SELECT FROM %1$s.stage AS s WHERE s.pipeline = p.name AND s.is_initial)
        ORDER BY 1$query$, workspace) USING workspace
    LOOP
        detail := CASE WHEN item.name IS NULL THEN format('kind "%s" has no default pipeline: a new record has to name one', item.kind)
                       ELSE format('pipeline "%s" has no initial stage: no record can begin in it', item.name) END;
        hint := CASE WHEN item.name IS NULL THEN format('Set is_default in %s.pipeline.', workspace) ELSE format('Set is_initial in %s.stage.', workspace) END;
        RETURN NEXT;
    END LOOP;

    "check" := 'login role';
    FOR item IN EXECUTE format($query$
        SELECT m.id, m.name, m.login_role, r.oid AS role
        FROM %1$s.member AS m
        LEFT JOIN pg_roles AS r ON r.rolname = m.login_role
        WHERE m.active AND m.login_role IS NOT NULL
          AND (r.oid IS NULL OR NOT has_schema_privilege(r.oid, $1::oid, 'USAGE'))
        ORDER BY m.id$query$, workspace) USING workspace
    LOOP
        detail := format('member %s, %s, has login_role %s, %s', item.id, item.name, quote_ident(item.login_role),
                         CASE WHEN item.role IS NULL THEN 'a role that does not exist' ELSE 'which has no access to the workspace' END);
        hint := CASE WHEN item.role IS NULL THEN 'Create the role, or correct the member: whoever creates a role of this name later is that member.'
                     ELSE format('Run SELECT crm.grant_access(%L, %L, ''app'').', workspace, item.login_role) END;
        RETURN NEXT;
    END LOOP;

    FOR item IN EXECUTE format('SELECT count(*) AS n, min(r.failure) AS failure FROM %s.reminder AS r WHERE r.failed_at IS NOT NULL HAVING count(*) > 0', workspace) LOOP
        "check" := 'reminders set aside';
        detail := format('%s reminders failed and do not fire; one of them: %s', item.n, item.failure);
        hint := format('Mend the cause, then UPDATE %s.reminder SET failed_at = NULL WHERE failed_at IS NOT NULL.', workspace);
        RETURN NEXT;
    END LOOP;
    FOR item IN EXECUTE format('SELECT count(*) AS n, min(r.due_at) AS due_at FROM %s.reminder AS r WHERE r.failed_at IS NULL AND r.due_at < crm.now() - interval ''5 minutes'' HAVING count(*) > 0', workspace) LOOP
        "check" := 'reminders overdue';
        detail := format('%s reminders are due and have not fired, the first since %s', item.n, item.due_at);
        hint := 'See state and reason in crm.scheduler_status().';
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._doctor_rules(regnamespace) IS
'The part of crm.doctor() about what is written in a workspace''s tables, for its owner.';

CREATE FUNCTION crm._doctor_rules_as_owner(workspace oid) RETURNS jsonb
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_doctor_rules_as_owner';

COMMENT ON FUNCTION crm._doctor_rules_as_owner(oid) IS
'The rows of crm._doctor_rules() as an array, found as the owner of the workspace where the caller is a member of that role, so that what the owner has put in place of tables does not run with the rights of a superuser.';

CREATE FUNCTION crm.doctor(OUT severity text, OUT workspace regnamespace, OUT "check" text, OUT detail text, OUT hint text)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    server integer := current_setting('server_version_num')::integer;
    -- The first minor versions without flaws through which a member could read
    -- records that row-level security hides.
    safe integer := CASE server / 10000 WHEN 15 THEN 150020 WHEN 16 THEN 160016 WHEN 17 THEN 170012 WHEN 18 THEN 180007 END;
    item record;
BEGIN
    IF server < safe THEN
        severity := 'error';
        "check" := 'server version';
        detail := format('PostgreSQL %s has known flaws in row-level security', current_setting('server_version'));
        hint := format('Install %s.%s or later.', safe / 10000, safe % 10000);
        RETURN NEXT;
    END IF;

    SELECT e.extversion, a.default_version INTO item
    FROM pg_extension AS e
    JOIN pg_available_extensions AS a ON a.name = e.extname
    WHERE e.extname = 'crm';
    IF item.extversion <> item.default_version THEN
        severity := 'warning';
        "check" := 'extension version';
        detail := format('version %s of crm is installed here, the server has %s', item.extversion, item.default_version);
        hint := 'Run ALTER EXTENSION crm UPDATE, then crm.upgrade_workspace() for each workspace.';
        RETURN NEXT;
    END IF;

    IF pg_has_role('pg_read_all_settings', 'USAGE') THEN
        IF NOT EXISTS (SELECT FROM regexp_split_to_table(current_setting('shared_preload_libraries'), ',') AS l
                       WHERE btrim(l, ' "') IN ('crm', '$libdir/crm')) THEN
            severity := 'notice';
            "check" := 'not preloaded';
            detail := 'shared_preload_libraries does not contain crm: after a restart of the server no reminder fires until somebody starts the scheduler';
            hint := 'Add crm to shared_preload_libraries and restart, or run SELECT crm.scheduler_start() after each restart.';
            RETURN NEXT;
        END IF;
    END IF;

    IF coalesce(current_setting('crm.default_region', true), '') = '' THEN
        severity := 'notice';
        "check" := 'default region';
        detail := 'crm.default_region is not set: telephone numbers without a country code are not recognised';
        hint := format('Run ALTER DATABASE %I SET crm.default_region = ''DE'', with the ISO 3166-1 code of your country.', current_database());
        RETURN NEXT;
    END IF;

    FOR item IN
        SELECT p.oid::regprocedure AS function
        FROM pg_proc AS p
        WHERE p.pronamespace = 'crm'::regnamespace
          AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS x WHERE x.grantee = 0)
        ORDER BY p.oid::regprocedure::text
    LOOP
        severity := 'error';
        "check" := 'public function';
        detail := format('everybody may execute %s', item.function);
        hint := format('Run REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC.', item.function);
        RETURN NEXT;
    END LOOP;

    FOR item IN SELECT w.* FROM crm.workspaces() AS w LOOP
        workspace := item.workspace;
        IF item.schema_version < item.current_version THEN
            severity := 'warning';
            "check" := 'workspace version';
            detail := format('workspace %s has version %s, this extension brings version %s', workspace, item.schema_version, item.current_version);
            hint := format('Run SELECT crm.upgrade_workspace(%L).', (SELECT n.nspname FROM pg_namespace AS n WHERE n.oid = workspace));
            RETURN NEXT;
        END IF;
        FOR severity, "check", detail, hint IN
            SELECT d.severity, d."check", d.detail, d.hint FROM crm._doctor_workspace(workspace) AS d ORDER BY d."check", d.detail
        LOOP
            RETURN NEXT;
        END LOOP;
        IF pg_has_role(item.owner, 'USAGE') AND item.schema_version = item.current_version THEN
            BEGIN
                FOR severity, "check", detail, hint IN
                    SELECT d.* FROM jsonb_to_recordset(crm._doctor_rules_as_owner(workspace)) AS d (severity text, "check" text, detail text, hint text)
                LOOP
                    RETURN NEXT;
                END LOOP;
            EXCEPTION WHEN OTHERS THEN
                severity := 'error';
                "check" := 'owner';
                detail := format('%s, who owns workspace %s, cannot read its rules: %s', item.owner, workspace, SQLERRM);
                hint := format('Where it is the toolkit that is not granted, run SELECT crm.grant_toolkit(%L).', item.owner::text);
                RETURN NEXT;
            END;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm.doctor() IS
'Looks for what makes a promise of crm untrue here: roles and views that row-level security does not hold, missing or disabled triggers and policies, indexes that are missing or not valid, privileges and owners other than they should be, rules that cannot be evaluated any more, members who cannot log in, reminders that do not fire, versions behind, settings. What is written in the tables of a workspace only its owner is told. One row a finding (severity error, warning or notice); no row means nothing was found. workspace is NULL for what concerns the whole database.';

---------------------------------------------------------------------
-- grant
---------------------------------------------------------------------

-- Deny by default: nothing of the toolkit is for PUBLIC.  The installer and the
-- database's owner may use all of it, and grant_toolkit() and grant_access() pass
-- parts of it on.
--
-- The grants themselves are the memory: the privilege to read column "app" of a
-- workspace's view access_kind marks a role as an application of that workspace.  So
-- nothing goes stale when a role is renamed or dropped, and pg_dump carries it.

-- One line an object: what an application, a reporting tool and an auditor may do
-- with it.  A gateway is an application.  An object a workspace does not have (any
-- more) is passed over; immutable functions of crm need no line, everybody gets them.
CREATE FUNCTION crm._access_list(OUT class text, OUT name text, OUT app text, OUT report text, OUT auditor text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT * FROM (VALUES
    -- functions of schema crm, by name
    ('toolkit', 'is_workspace', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'workspaces', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'phone', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'phone_region', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'phone_national', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'phone_international', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'phone_is_valid', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'email_display', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'registrable_domain', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'guarded_tables', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'next_stages', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'merge_records', 'EXECUTE', NULL, NULL),
    ('toolkit', 'merge_preview', 'EXECUTE', NULL, NULL),
    ('toolkit', 'merge_clusters', 'EXECUTE', NULL, NULL),
    ('toolkit', 'merge_all_clusters', 'EXECUTE', NULL, NULL),
    ('toolkit', '_merge_cluster', 'EXECUTE', NULL, NULL),
    ('toolkit', '_open_clusters', 'EXECUTE', NULL, NULL),
    ('toolkit', '_check_cluster_arguments', 'EXECUTE', NULL, NULL),
    ('toolkit', 'unmerge', 'EXECUTE', NULL, NULL),
    ('toolkit', 'unmerge_all', 'EXECUTE', NULL, NULL),
    ('toolkit', 'undelete', 'EXECUTE', NULL, NULL),
    ('toolkit', '_called_by_owner', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_caller', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'preview_record', 'EXECUTE', NULL, NULL),
    ('toolkit', '_preview_record', 'EXECUTE', NULL, NULL),
    ('toolkit', '_may_approve_merge', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'decide_pair', 'EXECUTE', NULL, NULL),
    ('toolkit', 'cluster_members', 'EXECUTE', NULL, NULL),
    ('toolkit', '_fullest_record', 'EXECUTE', NULL, NULL),
    ('toolkit', '_kind_table', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_pair_sides', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_record_table', 'EXECUTE', NULL, NULL),
    ('toolkit', '_record_tables', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_record_in_reach', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_record_name', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_claim', 'EXECUTE', NULL, NULL),
    ('toolkit', '_claim_next', 'EXECUTE', NULL, NULL),
    ('toolkit', '_import_columns', 'EXECUTE', NULL, NULL),
    ('toolkit', '_convert_lead', 'EXECUTE', NULL, NULL),
    ('toolkit', '_convert_match', 'EXECUTE', NULL, NULL),
    ('toolkit', '_convert_insert', 'EXECUTE', NULL, NULL),
    ('toolkit', 'audit_verify', NULL, NULL, 'EXECUTE'),
    ('toolkit', '_workspace_schema', NULL, NULL, 'EXECUTE'),
    ('toolkit', '_audit_digest', NULL, NULL, 'EXECUTE'),
    ('toolkit', '_audit_verify', NULL, NULL, 'EXECUTE'),
    ('toolkit', '_audit_verify_as_owner', NULL, NULL, 'EXECUTE'),
    ('toolkit', 'member_id', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'can_read', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'can_edit', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'can_assign', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'can_delete', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'can_read_all', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'is_administrator', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_owner_in_scope', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_unowned_in_scope', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_record_in_scope', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_all_in_scope', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_scope_owners', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', '_scope_records', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('toolkit', 'now', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_check_pipeline', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_check_period', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_sla_elapsed', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_wall_clock', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_why_not', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_event_items', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', '_when', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'business_add', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'business_add_days', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'business_between', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'business_open', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'next_occurrence', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'occurrences', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'icalendar_time', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'icalendar_recurrence', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'icalendar_time_zone', 'EXECUTE', 'EXECUTE', NULL),
    ('toolkit', 'find_matches', 'EXECUTE', NULL, NULL),
    ('toolkit', 'find_duplicates', 'EXECUTE', NULL, NULL),
    ('toolkit', 'compare_records', 'EXECUTE', NULL, NULL),
    ('toolkit', '_compare_records', 'EXECUTE', NULL, NULL),
    ('toolkit', 'match_levels', 'EXECUTE', NULL, NULL),
    ('toolkit', 'match_eval', 'EXECUTE', NULL, NULL),
    ('toolkit', '_match_bits', 'EXECUTE', NULL, NULL),
    ('toolkit', '_match_table', 'EXECUTE', NULL, NULL),
    ('toolkit', 'check_duplicate', 'EXECUTE', NULL, NULL),
    ('toolkit', '_check_duplicate', 'EXECUTE', NULL, NULL),
    ('toolkit', 'find_or_create', 'EXECUTE', NULL, NULL),
    ('toolkit', '_claim_duplicate', 'EXECUTE', NULL, NULL),

    -- tables and views of the workspace
    ('table', 'crm_meta', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'account', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', 'SELECT (id)'),
    ('table', 'contact', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', 'SELECT (id)'),
    ('table', 'lead', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', 'SELECT (id)'),
    ('table', 'opportunity', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', 'SELECT (id)'),
    ('table', 'activity', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', 'SELECT (id)'),
    ('table', 'external_reference', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'lead_source', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'activity_type', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'setting', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'calendar', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'calendar_hours', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'calendar_day', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'reminder', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', 'SELECT (id)'),
    ('table', 'escalation_rule', 'SELECT', 'SELECT', NULL),
    ('table', 'escalation_level', 'SELECT', 'SELECT', NULL),
    ('table', 'stage_task', 'SELECT', 'SELECT', NULL),
    ('table', 'escalation', 'SELECT', 'SELECT', NULL),
    ('table', 'event', 'SELECT, UPDATE (state, handled_at, snoozed_until)', 'SELECT', NULL),
    ('table', 'inbox', 'SELECT', NULL, NULL),
    ('table', 'event_consumer', 'SELECT, DELETE', NULL, NULL),
    ('table', 'event_failure', 'SELECT', NULL, NULL),
    ('table', 'event_lag', 'SELECT', 'SELECT', NULL),
    ('table', 'attention_rule', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'sla_policy', 'SELECT', 'SELECT', NULL),
    ('table', 'sla_clock', 'SELECT', 'SELECT', NULL),
    ('table', 'sla_status', 'SELECT', 'SELECT', NULL),
    ('table', 'agenda', 'SELECT', 'SELECT', NULL),
    ('table', 'follow_up', 'SELECT', 'SELECT', NULL),
    ('table', 'absence', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'follower', 'SELECT', 'SELECT', NULL),
    ('table', 'event_hold', 'SELECT', 'SELECT', NULL),
    ('table', 'team', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'member', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'team_member', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'share', 'SELECT', 'SELECT', NULL),
    ('table', 'pipeline', 'SELECT', 'SELECT', NULL),
    ('table', 'duplicate_pair', 'SELECT, UPDATE (state, decided_by, decided_at, later_until)', 'SELECT', NULL),
    ('table', 'duplicate_cluster', 'SELECT', 'SELECT', NULL),
    ('table', 'duplicate_scan', NULL, 'SELECT', NULL),
    ('table', 'merge_rule', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'merge_link', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'merge_log', 'SELECT (id, kind, table_schema, table_name, survivor_id, loser_ids, merged_at, merged_by, run_id, undone_at, undone_by)',
     'SELECT (id, kind, survivor_id, loser_ids, merged_at, merged_by, run_id, undone_at, undone_by)', 'SELECT'),
    ('table', 'merge_approval_rule', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'merge_request', 'SELECT, INSERT (kind, survivor_id, loser_ids, reason), UPDATE (state, note)', 'SELECT', 'SELECT'),
    ('table', 'report_merge', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'duplicate_review', 'SELECT, UPDATE (decision, survivor_id, later_until)', 'SELECT', NULL),
    ('table', 'duplicate_label', 'SELECT', 'SELECT', NULL),
    ('table', 'duplicate_rate', 'SELECT', 'SELECT', NULL),
    ('table', 'report_duplicate_rate', 'SELECT', 'SELECT', NULL),
    ('function', 'decide_pair', 'EXECUTE', NULL, NULL),
    ('function', 'cluster_members', 'EXECUTE', NULL, NULL),
    ('function', 'preview_record', 'EXECUTE', NULL, NULL),
    ('function', 'preview_cluster', 'EXECUTE', NULL, NULL),
    ('function', 'merge_cluster', 'EXECUTE', NULL, NULL),
    ('function', 'merge_all_clusters', 'EXECUTE', NULL, NULL),
    ('function', 'unmerge_all', 'EXECUTE', NULL, NULL),
    ('function', 'merge_records', 'EXECUTE', NULL, NULL),
    ('function', 'merge_preview', 'EXECUTE', NULL, NULL),
    ('function', 'merge_clusters', 'EXECUTE', NULL, NULL),
    ('function', 'unmerge', 'EXECUTE', NULL, NULL),
    ('function', 'undelete', 'EXECUTE', NULL, NULL),
    ('function', 'deleted_with', 'EXECUTE', 'EXECUTE', NULL),
    ('table', 'deleted_record', 'SELECT', 'SELECT', NULL),
    ('function', 'resolve', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('function', 'merged_ids', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('table', 'stage', 'SELECT', 'SELECT', NULL),
    ('table', 'stage_transition', 'SELECT', 'SELECT', NULL),
    ('table', 'stage_rule', 'SELECT', 'SELECT', NULL),
    ('table', 'duplicate_rule', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'duplicate_log', NULL, NULL, 'SELECT'),
    ('table', 'stage_history', 'SELECT', 'SELECT', 'SELECT'),
    ('table', 'exchange_rate', 'SELECT, INSERT, UPDATE, DELETE', 'SELECT', NULL),
    ('table', 'report_account', 'SELECT', 'SELECT', NULL),
    ('table', 'report_opportunity', 'SELECT', 'SELECT', NULL),
    ('table', 'report_activity', 'SELECT', 'SELECT', NULL),
    ('table', 'report_stage_duration', 'SELECT', 'SELECT', NULL),
    ('table', 'report_calendar', 'SELECT', 'SELECT', NULL),
    ('table', 'audit_log', NULL, NULL, 'SELECT'),
    ('table', 'audit_seal', NULL, NULL, 'SELECT'),

    -- functions of the workspace, by name
    ('function', 'funnel', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'pipeline_bridge', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'claim', 'EXECUTE', NULL, NULL),
    ('function', 'claim_next', 'EXECUTE', NULL, NULL),
    ('function', 'import_records', 'EXECUTE', NULL, NULL),
    ('function', 'convert_lead', 'EXECUTE', NULL, NULL),
    ('function', 'record_name', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'me', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
    ('function', 'next_stages', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'calendar_of', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'business_add', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'business_add_days', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'business_between', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'business_open', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'follow', 'EXECUTE', NULL, NULL),
    ('function', 'unfollow', 'EXECUTE', NULL, NULL),
    ('function', 'why_not', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'acknowledge', 'EXECUTE', NULL, NULL),
    ('function', 'snooze', 'EXECUTE', NULL, NULL),
    ('function', 'read_events', 'EXECUTE', NULL, NULL),
    ('function', 'ack_events', 'EXECUTE', NULL, NULL),
    ('function', 'fail_event', 'EXECUTE', NULL, NULL),
    ('function', 'retry_events', 'EXECUTE', NULL, NULL),
    ('function', 'event_consumer_lag', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'calendar_feed', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'can', 'EXECUTE', 'EXECUTE', NULL),
    ('function', 'transfer', 'EXECUTE', NULL, NULL),
    ('function', 'share_record', 'EXECUTE', NULL, NULL),
    ('function', 'unshare', 'EXECUTE', NULL, NULL),
    ('function', 'find_duplicates', 'EXECUTE', NULL, NULL),
    ('function', 'check_duplicate', 'EXECUTE', NULL, NULL),
    ('function', 'find_or_create', 'EXECUTE', NULL, NULL)
) AS list (class, name, app, report, auditor)
$$;

COMMENT ON FUNCTION crm._access_list() IS
'What crm.grant_access() grants, one row an object: class (toolkit: function of schema crm; table and function: of the workspace), name, and the privileges of each kind of role (NULL: none).';

CREATE FUNCTION crm._access_privileges(kinds text[], OUT class text, OUT name text, OUT privileges text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT DISTINCT l.class, l.name, k.privileges
FROM crm._access_list() AS l
CROSS JOIN LATERAL (VALUES ('app', l.app), ('gateway', l.app), ('report', l.report), ('auditor', l.auditor)) AS k (kind, privileges)
WHERE k.kind = ANY (kinds) AND k.privileges IS NOT NULL
ORDER BY l.class, l.name, k.privileges
$$;

COMMENT ON FUNCTION crm._access_privileges(text[]) IS
'The privileges of roles of the given kinds, one row an object and privilege list.';

CREATE FUNCTION crm.access(workspace regnamespace DEFAULT NULL, OUT schema regnamespace, OUT role regrole, OUT kind text)
RETURNS SETOF record LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT c.relnamespace::regnamespace, x.grantee::regrole, a.attname::text
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
CROSS JOIN LATERAL aclexplode(a.attacl) AS x
WHERE c.relname = 'access_kind'
  AND c.relkind = 'v'
  AND (access.workspace IS NULL OR c.relnamespace = access.workspace)
  AND crm.is_workspace(c.relnamespace)
  AND x.privilege_type = 'SELECT'
  AND x.grantee <> 0
GROUP BY 1, 2, 3
ORDER BY c.relnamespace::regnamespace::text, x.grantee::regrole::text, 3
$$;

COMMENT ON FUNCTION crm.access(regnamespace) IS
'Who was given access by crm.grant_access(): workspace, role and kind. NULL lists all workspaces of this database.';

CREATE FUNCTION crm._toolkit_functions() RETURNS SETOF regprocedure
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT d.objid::regprocedure
FROM pg_depend AS d
WHERE d.classid = 'pg_proc'::regclass
  AND d.deptype = 'e'
  AND d.refclassid = 'pg_extension'::regclass
  AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'crm')
$$;

COMMENT ON FUNCTION crm._toolkit_functions() IS
'The functions that belong to the extension.';

-- The owner of the functions is the one grantor.  Whoever restores a dump without
-- being superuser becomes the grantor of what it grants; that is put right here.
CREATE FUNCTION crm._sync_toolkit(role oid, whole boolean) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kinds text[] := (SELECT array_agg(DISTINCT a.kind) FROM crm.access() AS a WHERE a.role = _sync_toolkit.role);
    gain text;
    loss text;
    other record;
BEGIN
    SELECT string_agg(f.signature, ', ') FILTER (WHERE f.wanted AND NOT f.held),
           string_agg(f.signature, ', ') FILTER (WHERE f.held AND NOT f.wanted)
    INTO gain, loss
    FROM (SELECT p.oid::regprocedure::text AS signature,
                 EXISTS (SELECT FROM aclexplode(p.proacl) AS x WHERE x.grantee = _sync_toolkit.role AND x.grantor = p.proowner) AS held,
                 CASE WHEN whole THEN p.proname NOT IN ('grant_toolkit', 'revoke_toolkit')
                      ELSE kinds IS NOT NULL
                           AND (p.provolatile = 'i'
                                OR p.proname IN (SELECT l.name FROM crm._access_privileges(kinds) AS l WHERE l.class = 'toolkit'))
                 END AS wanted
          FROM crm._toolkit_functions() AS t
          JOIN pg_proc AS p ON p.oid = t
          ORDER BY 1) AS f;

    IF gain IS NOT NULL THEN
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %I', gain, pg_get_userbyid(role));
    END IF;
    IF loss IS NOT NULL THEN
        EXECUTE format('REVOKE EXECUTE ON ROUTINE %s FROM %I', loss, pg_get_userbyid(role));
    END IF;
    FOR other IN
        SELECT x.grantor, string_agg(p.oid::regprocedure::text, ', ') AS signatures
        FROM crm._toolkit_functions() AS t
        JOIN pg_proc AS p ON p.oid = t
        CROSS JOIN LATERAL aclexplode(p.proacl) AS x
        WHERE x.grantee = _sync_toolkit.role AND x.grantor <> p.proowner
        GROUP BY x.grantor
    LOOP
        PERFORM crm._execute_as_role(other.grantor, format('REVOKE EXECUTE ON ROUTINE %s FROM %I', other.signatures, pg_get_userbyid(role)));
    END LOOP;
    EXECUTE format(CASE WHEN whole OR kinds IS NOT NULL THEN 'GRANT USAGE ON SCHEMA crm TO %I'
                        ELSE 'REVOKE USAGE ON SCHEMA crm FROM %I' END, pg_get_userbyid(role));
END
$$;

COMMENT ON FUNCTION crm._sync_toolkit(oid, boolean) IS
'Makes a role''s privileges on schema crm those of its kinds in all workspaces, or the whole toolkit, whoever granted them before. Must run as the owner of the functions.';

CREATE FUNCTION crm._grant_toolkit(role oid, workspace oid) RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_grant_toolkit_for_workspace';

COMMENT ON FUNCTION crm._grant_toolkit(oid, oid) IS
'Brings a role''s privileges on the toolkit in line with its access, as the owner of the toolkit. The caller must own the workspace.';

CREATE FUNCTION crm._holds_toolkit(role oid) RETURNS boolean
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT EXISTS (SELECT FROM pg_proc AS p, aclexplode(p.proacl) AS x
               WHERE p.oid = 'crm.create_workspace(name)'::regprocedure AND x.grantee = role)
$$;

COMMENT ON FUNCTION crm._holds_toolkit(oid) IS
'True if the role itself was given the whole toolkit.';

CREATE FUNCTION crm.grant_toolkit(role name) RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_grant_toolkit';

COMMENT ON FUNCTION crm.grant_toolkit(name) IS
'Lets a role use the whole toolkit: create and own workspaces (it also needs CREATE on the database) and put crm''s triggers and indexes on its own tables. Only for the owner of the database or of the extension.';

CREATE FUNCTION crm.revoke_toolkit(role name) RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_revoke_toolkit';

COMMENT ON FUNCTION crm.revoke_toolkit(name) IS
'Takes back what crm.grant_toolkit() gave; access to workspaces stays. Only for the owner of the database or of the extension.';

CREATE FUNCTION crm._workspace_privileges(verb text, workspace name, role name, kinds text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    preposition text := CASE verb WHEN 'GRANT' THEN 'TO' ELSE 'FROM' END;
    item record;
    routines text;
BEGIN
    FOR item IN SELECT * FROM crm._access_privileges(kinds) AS p WHERE p.class <> 'toolkit' LOOP
        IF item.class = 'table' THEN
            IF to_regclass(format('%I.%I', workspace, item.name)) IS NOT NULL THEN
                EXECUTE format('%s %s ON TABLE %I.%I %s %I', verb, item.privileges, workspace, item.name, preposition, role);
            END IF;
        ELSE
            SELECT string_agg(p.oid::regprocedure::text, ', ') INTO routines
            FROM pg_proc AS p
            JOIN pg_namespace AS n ON n.oid = p.pronamespace
            WHERE n.nspname = workspace AND p.proname = item.name;
            IF routines IS NOT NULL THEN
                EXECUTE format('%s %s ON ROUTINE %s %s %I', verb, item.privileges, routines, preposition, role);
            END IF;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._workspace_privileges(text, name, name, text[]) IS
'Grants or revokes (verb) the privileges of the given kinds on the objects of a workspace.';

CREATE FUNCTION crm._check_access_arguments(workspace name, role name, kind text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema_oid oid;
BEGIN
    IF workspace IS NULL OR role IS NULL OR kind IS NULL THEN
        RAISE EXCEPTION 'workspace, role and kind must not be null'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    schema_oid := crm._workspace_schema(workspace);
    IF NOT pg_has_role((SELECT n.nspowner FROM pg_namespace AS n WHERE n.oid = schema_oid), 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of workspace %', workspace
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = role) THEN
        RAISE EXCEPTION 'role "%" does not exist', role
            USING ERRCODE = 'undefined_object';
    END IF;
    IF kind NOT IN ('app', 'report', 'gateway', 'auditor') THEN
        RAISE EXCEPTION 'unrecognized kind of access: "%"', kind
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'The kinds are app, report, gateway and auditor.';
    END IF;
END
$$;

COMMENT ON FUNCTION crm._check_access_arguments(name, name, text) IS
'Errors unless the schema is a workspace that the caller owns, the role exists and the kind is known.';

CREATE FUNCTION crm.grant_access(workspace name, role name, kind text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM crm._check_access_arguments(workspace, role, kind);
    IF kind <> 'auditor'
       AND EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = role AND (r.rolsuper OR r.rolbypassrls)) THEN
        RAISE WARNING 'role "%" bypasses row-level security and sees every record', role
            USING HINT = 'Give applications a role without SUPERUSER and BYPASSRLS.';
    END IF;
    IF kind = 'gateway' AND NOT has_parameter_privilege(role, 'crm.member', 'SET') THEN
        BEGIN
            EXECUTE format('GRANT SET ON PARAMETER crm.member TO %I', role);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE EXCEPTION 'permission denied to make role "%" a gateway', role
                USING ERRCODE = 'insufficient_privilege',
                      DETAIL = 'A gateway names the member it acts for in crm.member, which it must be allowed to set.',
                      HINT = format('Ask a superuser to run GRANT SET ON PARAMETER crm.member TO %I, then try again.', role);
        END;
    END IF;

    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', workspace, role);
    EXECUTE format('GRANT SELECT (%I) ON %I.access_kind TO %I', kind, workspace, role);
    PERFORM crm._workspace_privileges('GRANT', workspace, role, ARRAY[kind]);
    PERFORM crm._grant_toolkit(r.oid, n.oid)
    FROM pg_roles AS r, pg_namespace AS n
    WHERE r.rolname = role AND n.nspname = workspace;
END
$$;

COMMENT ON FUNCTION crm.grant_access(name, name, text) IS
'Gives a role access to a workspace: app reads and writes the business tables, report reads them, gateway is an app that may say which member it acts for (SET crm.member), auditor reads the audit log; row-level security applies to all. Tables and functions that crm did not make are not touched. Privileges on functions of crm that a role with access has by other ways are replaced. Granting again changes nothing; upgrade_workspace() extends the grant to new objects. The caller must own the workspace; gateway also needs the right to grant SET ON PARAMETER crm.member.';

CREATE FUNCTION crm.revoke_access(workspace name, role name, kind text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    remaining text[];
BEGIN
    PERFORM crm._check_access_arguments(workspace, role, kind);
    EXECUTE format('REVOKE SELECT (%I) ON %I.access_kind FROM %I', kind, workspace, role);
    remaining := (SELECT array_agg(a.kind)
                  FROM crm.access((SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = workspace)) AS a
                  WHERE a.role = (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = revoke_access.role));
    PERFORM crm._workspace_privileges('REVOKE', workspace, role, ARRAY[kind]);
    IF remaining IS NULL THEN
        EXECUTE format('REVOKE USAGE ON SCHEMA %I FROM %I', workspace, role);
    ELSE
        PERFORM crm._workspace_privileges('GRANT', workspace, role, remaining);
    END IF;
    PERFORM crm._grant_toolkit(r.oid, n.oid)
    FROM pg_roles AS r, pg_namespace AS n
    WHERE r.rolname = role AND n.nspname = workspace;
    IF kind = 'gateway' AND has_parameter_privilege(role, 'crm.member', 'SET') THEN
        RAISE NOTICE 'role "%" may still set crm.member', role
            USING HINT = format('If no other workspace of this cluster needs it, run REVOKE SET ON PARAMETER crm.member FROM %I.', role);
    END IF;
END
$$;

COMMENT ON FUNCTION crm.revoke_access(name, name, text) IS
'Takes back what crm.grant_access() gave; what another kind of the role includes stays. The right to set crm.member belongs to the whole cluster and is left, with a notice. The caller must own the workspace.';

CREATE FUNCTION crm._regrant(workspace name) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema_oid oid := (SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = workspace);
    holder record;
BEGIN
    FOR holder IN
        SELECT a.role, array_agg(a.kind) AS kinds FROM crm.access(schema_oid) AS a GROUP BY a.role
    LOOP
        PERFORM crm._workspace_privileges('GRANT', workspace, pg_get_userbyid(holder.role), holder.kinds);
        PERFORM crm._grant_toolkit(holder.role, schema_oid);
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._regrant(name) IS
'Extends every grant_access() of a workspace to objects that an upgrade added.';

GRANT USAGE ON SCHEMA crm TO pg_database_owner;
REVOKE ALL ON ALL ROUTINES IN SCHEMA crm FROM PUBLIC;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA crm TO @extowner@, pg_database_owner WITH GRANT OPTION;

