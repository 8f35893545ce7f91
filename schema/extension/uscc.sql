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
