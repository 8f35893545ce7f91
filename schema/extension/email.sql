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
