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
