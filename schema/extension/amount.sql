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
