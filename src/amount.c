/*
 * amount.c
 *		Type crm.amount: a number and the currency it is in.
 *
 * A value is the three letters of its currency followed by a numeric without its
 * length word.  All arithmetic is numeric's; what is added here is that it stays
 * within one currency.  NaN and infinity are not amounts.
 *
 * Order: by currency, then by number.  An index needs a total order, so the
 * comparison operators are defined between currencies too; sum, min and max
 * are not.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "amount.h"
#include "compat.h"
#include "fault.h"

#define AMOUNT_WIRE_VERSION 1

typedef struct Amount
{
	const char *currency; /* CRM_CURRENCY_LENGTH letters, not terminated */
	Numeric number;
} Amount;

static Amount
crm_amount_read(struct varlena *value)
{
	Amount amount;
	size_t len = VARSIZE_ANY_EXHDR(value) - CRM_CURRENCY_LENGTH;
	struct varlena *number = palloc(VARHDRSZ + len);

	/* numeric wants its digits aligned, and a length word of its own */
	SET_VARSIZE(number, VARHDRSZ + len);
	memcpy(VARDATA(number), VARDATA_ANY(value) + CRM_CURRENCY_LENGTH, len);
	amount.currency = VARDATA_ANY(value);
	amount.number = (Numeric) number;
	return amount;
}

#define PG_GETARG_AMOUNT(n) crm_amount_read((struct varlena *) PG_GETARG_VARLENA_PP(n))

static Datum
crm_amount_make(const char *currency, Datum number)
{
	Numeric num = DatumGetNumeric(number);
	size_t len = VARSIZE_ANY_EXHDR(num);
	struct varlena *value = palloc(VARHDRSZ + CRM_CURRENCY_LENGTH + len);

	SET_VARSIZE(value, VARHDRSZ + CRM_CURRENCY_LENGTH + len);
	memcpy(VARDATA(value), currency, CRM_CURRENCY_LENGTH);
	memcpy(VARDATA(value) + CRM_CURRENCY_LENGTH, VARDATA_ANY(num), len);
	return PointerGetDatum(value);
}

static void
crm_check_finite(Numeric number)
{
	if (numeric_is_nan(number) || numeric_is_inf(number))
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						errmsg("an amount must be a finite number")));
}

static void
crm_check_same_currency(const Amount *a, const Amount *b, const char *verb)
{
	if (memcmp(a->currency, b->currency, CRM_CURRENCY_LENGTH) != 0)
		ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
						errmsg("cannot %s amounts in different currencies", verb),
						errdetail("One is in %.*s, the other in %.*s.", CRM_CURRENCY_LENGTH,
								  a->currency, CRM_CURRENCY_LENGTH, b->currency),
						errhint("Convert one of them first, or group by crm.amount_currency().")));
}

/* Parses text; on a soft error returns 0. */
static Datum
crm_amount_parse_text(const char *value, size_t len, struct Node *escontext)
{
	char *digits = palloc(len + 1);
	char currency[CRM_CURRENCY_LENGTH + 1];
	CrmFault fault;
	Datum number;

	if (!crm_amount_parse(value, len, digits, currency, &fault))
	{
		crm_input_error(escontext, "crm.amount", value, len, &fault);
		return (Datum) 0;
	}
	if (!DirectInputFunctionCallSafe(numeric_in, digits, InvalidOid, -1, escontext, &number))
		return (Datum) 0;
	return crm_amount_make(currency, number);
}

PG_FUNCTION_INFO_V1(crm_amount_in);
Datum
crm_amount_in(PG_FUNCTION_ARGS)
{
	char *value = PG_GETARG_CSTRING(0);
	Datum amount = crm_amount_parse_text(value, strlen(value), CRM_ESCONTEXT(fcinfo));

	if (amount == (Datum) 0)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(amount);
}

PG_FUNCTION_INFO_V1(crm_amount_from_text);
Datum
crm_amount_from_text(PG_FUNCTION_ARGS)
{
	text *value = PG_GETARG_TEXT_PP(0);
	Datum amount =
		crm_amount_parse_text(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), CRM_ESCONTEXT(fcinfo));

	if (amount == (Datum) 0)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(amount);
}

static char *
crm_amount_show(const Amount *amount)
{
	return psprintf(
		"%s %.*s",
		DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(amount->number))),
		CRM_CURRENCY_LENGTH, amount->currency);
}

PG_FUNCTION_INFO_V1(crm_amount_out);
Datum
crm_amount_out(PG_FUNCTION_ARGS)
{
	Amount amount = PG_GETARG_AMOUNT(0);

	PG_RETURN_CSTRING(crm_amount_show(&amount));
}

PG_FUNCTION_INFO_V1(crm_amount_to_text);
Datum
crm_amount_to_text(PG_FUNCTION_ARGS)
{
	Amount amount = PG_GETARG_AMOUNT(0);

	PG_RETURN_TEXT_P(cstring_to_text(crm_amount_show(&amount)));
}

PG_FUNCTION_INFO_V1(crm_amount_recv);
Datum
crm_amount_recv(PG_FUNCTION_ARGS)
{
	StringInfo buf = (StringInfo) PG_GETARG_POINTER(0);
	int version = pq_getmsgbyte(buf);
	const char *currency;
	Datum number;

	crm_check_wire_version("crm.amount", version, AMOUNT_WIRE_VERSION);
	currency = pq_getmsgbytes(buf, CRM_CURRENCY_LENGTH);
	for (int i = 0; i < CRM_CURRENCY_LENGTH; i++)
		if (currency[i] < 'A' || currency[i] > 'Z')
			ereport(ERROR, (errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
							errmsg("invalid currency in external \"crm.amount\" value")));
	number = DirectFunctionCall3(numeric_recv, PointerGetDatum(buf), ObjectIdGetDatum(InvalidOid),
								 Int32GetDatum(-1));
	crm_check_finite(DatumGetNumeric(number));
	PG_RETURN_DATUM(crm_amount_make(currency, number));
}

PG_FUNCTION_INFO_V1(crm_amount_send);
Datum
crm_amount_send(PG_FUNCTION_ARGS)
{
	Amount amount = PG_GETARG_AMOUNT(0);
	bytea *number =
		DatumGetByteaPP(DirectFunctionCall1(numeric_send, NumericGetDatum(amount.number)));
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendbyte(&buf, AMOUNT_WIRE_VERSION);
	pq_sendbytes(&buf, amount.currency, CRM_CURRENCY_LENGTH);
	pq_sendbytes(&buf, VARDATA_ANY(number), VARSIZE_ANY_EXHDR(number));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

PG_FUNCTION_INFO_V1(crm_amount_construct);
Datum
crm_amount_construct(PG_FUNCTION_ARGS)
{
	Numeric number = PG_GETARG_NUMERIC(0);
	text *code = PG_GETARG_TEXT_PP(1);
	char currency[CRM_CURRENCY_LENGTH + 1];
	CrmFault fault;

	if (!crm_currency_parse(VARDATA_ANY(code), VARSIZE_ANY_EXHDR(code), currency, &fault))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid currency code \"%s\"",
							   crm_clip(VARDATA_ANY(code), VARSIZE_ANY_EXHDR(code))),
						errdetail("%s", fault.detail), errhint("%s", fault.hint)));
	crm_check_finite(number);
	PG_RETURN_DATUM(crm_amount_make(currency, NumericGetDatum(number)));
}

PG_FUNCTION_INFO_V1(crm_amount_value);
Datum
crm_amount_value(PG_FUNCTION_ARGS)
{
	Amount amount = PG_GETARG_AMOUNT(0);

	PG_RETURN_NUMERIC(amount.number);
}

PG_FUNCTION_INFO_V1(crm_amount_currency);
Datum
crm_amount_currency(PG_FUNCTION_ARGS)
{
	Amount amount = PG_GETARG_AMOUNT(0);

	PG_RETURN_TEXT_P(cstring_to_text_with_len(amount.currency, CRM_CURRENCY_LENGTH));
}

/* An operation of numeric on two amounts of one currency, giving a third. */
static Datum
crm_amount_combine(FunctionCallInfo fcinfo, PGFunction operation, const char *verb)
{
	Amount a = PG_GETARG_AMOUNT(0);
	Amount b = PG_GETARG_AMOUNT(1);

	crm_check_same_currency(&a, &b, verb);
	return crm_amount_make(a.currency, DirectFunctionCall2(operation, NumericGetDatum(a.number),
														   NumericGetDatum(b.number)));
}

PG_FUNCTION_INFO_V1(crm_amount_add);
Datum
crm_amount_add(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(crm_amount_combine(fcinfo, numeric_add, "add"));
}

PG_FUNCTION_INFO_V1(crm_amount_subtract);
Datum
crm_amount_subtract(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(crm_amount_combine(fcinfo, numeric_sub, "subtract"));
}

PG_FUNCTION_INFO_V1(crm_amount_smaller);
Datum
crm_amount_smaller(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(crm_amount_combine(fcinfo, numeric_smaller, "take the minimum of"));
}

PG_FUNCTION_INFO_V1(crm_amount_larger);
Datum
crm_amount_larger(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(crm_amount_combine(fcinfo, numeric_larger, "take the maximum of"));
}

/* An amount changed by a factor; numeric allows infinity there, an amount does not. */
static Datum
crm_amount_scale(const Amount *amount, Datum factor, PGFunction operation)
{
	Datum result;

	crm_check_finite(DatumGetNumeric(factor));
	result = DirectFunctionCall2(operation, NumericGetDatum(amount->number), factor);
	return crm_amount_make(amount->currency, result);
}

PG_FUNCTION_INFO_V1(crm_amount_multiply);
Datum
crm_amount_multiply(PG_FUNCTION_ARGS)
{
	Amount amount = PG_GETARG_AMOUNT(0);

	PG_RETURN_DATUM(crm_amount_scale(&amount, NumericGetDatum(PG_GETARG_NUMERIC(1)), numeric_mul));
}

PG_FUNCTION_INFO_V1(crm_amount_multiply_left);
Datum
crm_amount_multiply_left(PG_FUNCTION_ARGS)
{
	Amount amount = PG_GETARG_AMOUNT(1);

	PG_RETURN_DATUM(crm_amount_scale(&amount, NumericGetDatum(PG_GETARG_NUMERIC(0)), numeric_mul));
}

PG_FUNCTION_INFO_V1(crm_amount_divide);
Datum
crm_amount_divide(PG_FUNCTION_ARGS)
{
	Amount amount = PG_GETARG_AMOUNT(0);

	PG_RETURN_DATUM(crm_amount_scale(&amount, NumericGetDatum(PG_GETARG_NUMERIC(1)), numeric_div));
}

PG_FUNCTION_INFO_V1(crm_amount_ratio);
Datum
crm_amount_ratio(PG_FUNCTION_ARGS)
{
	Amount a = PG_GETARG_AMOUNT(0);
	Amount b = PG_GETARG_AMOUNT(1);

	crm_check_same_currency(&a, &b, "divide");
	PG_RETURN_DATUM(
		DirectFunctionCall2(numeric_div, NumericGetDatum(a.number), NumericGetDatum(b.number)));
}

PG_FUNCTION_INFO_V1(crm_amount_negate);
Datum
crm_amount_negate(PG_FUNCTION_ARGS)
{
	Amount amount = PG_GETARG_AMOUNT(0);

	PG_RETURN_DATUM(crm_amount_make(
		amount.currency, DirectFunctionCall1(numeric_uminus, NumericGetDatum(amount.number))));
}

PG_FUNCTION_INFO_V1(crm_amount_abs);
Datum
crm_amount_abs(PG_FUNCTION_ARGS)
{
	Amount amount = PG_GETARG_AMOUNT(0);

	PG_RETURN_DATUM(crm_amount_make(
		amount.currency, DirectFunctionCall1(numeric_abs, NumericGetDatum(amount.number))));
}

PG_FUNCTION_INFO_V1(crm_amount_round);
Datum
crm_amount_round(PG_FUNCTION_ARGS)
{
	Amount amount = PG_GETARG_AMOUNT(0);

	PG_RETURN_DATUM(crm_amount_make(
		amount.currency,
		DirectFunctionCall2(numeric_round, NumericGetDatum(amount.number), PG_GETARG_DATUM(1))));
}

static int
crm_amount_compare(FunctionCallInfo fcinfo)
{
	struct varlena *left = (struct varlena *) PG_GETARG_VARLENA_PP(0);
	struct varlena *right = (struct varlena *) PG_GETARG_VARLENA_PP(1);
	Amount a = crm_amount_read(left);
	Amount b = crm_amount_read(right);
	int order = memcmp(a.currency, b.currency, CRM_CURRENCY_LENGTH);

	if (order != 0)
		order = order < 0 ? -1 : 1;
	else
		order = DatumGetInt32(
			DirectFunctionCall2(numeric_cmp, NumericGetDatum(a.number), NumericGetDatum(b.number)));
	/* A comparison function must not leak: an index build calls it without end. */
	pfree(a.number);
	pfree(b.number);
	PG_FREE_IF_COPY(left, 0);
	PG_FREE_IF_COPY(right, 1);
	return order;
}

PG_FUNCTION_INFO_V1(crm_amount_cmp);
Datum
crm_amount_cmp(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(crm_amount_compare(fcinfo));
}

PG_FUNCTION_INFO_V1(crm_amount_eq);
Datum
crm_amount_eq(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(crm_amount_compare(fcinfo) == 0);
}

PG_FUNCTION_INFO_V1(crm_amount_ne);
Datum
crm_amount_ne(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(crm_amount_compare(fcinfo) != 0);
}

PG_FUNCTION_INFO_V1(crm_amount_lt);
Datum
crm_amount_lt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(crm_amount_compare(fcinfo) < 0);
}

PG_FUNCTION_INFO_V1(crm_amount_le);
Datum
crm_amount_le(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(crm_amount_compare(fcinfo) <= 0);
}

PG_FUNCTION_INFO_V1(crm_amount_gt);
Datum
crm_amount_gt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(crm_amount_compare(fcinfo) > 0);
}

PG_FUNCTION_INFO_V1(crm_amount_ge);
Datum
crm_amount_ge(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(crm_amount_compare(fcinfo) >= 0);
}

/*
 * Equal numbers may have different scales, so the number's hash is numeric's own.
 * The parts are combined by exclusive or, because the low half of the seeded hash
 * with seed 0 must be the plain hash.
 */
PG_FUNCTION_INFO_V1(crm_amount_hash);
Datum
crm_amount_hash(PG_FUNCTION_ARGS)
{
	Amount amount = PG_GETARG_AMOUNT(0);
	uint32 number =
		DatumGetUInt32(DirectFunctionCall1(hash_numeric, NumericGetDatum(amount.number)));
	uint32 currency = hash_bytes((const unsigned char *) amount.currency, CRM_CURRENCY_LENGTH);

	PG_RETURN_UINT32(number ^ currency);
}

PG_FUNCTION_INFO_V1(crm_amount_hash_extended);
Datum
crm_amount_hash_extended(PG_FUNCTION_ARGS)
{
	Amount amount = PG_GETARG_AMOUNT(0);
	uint64 seed = PG_GETARG_INT64(1);
	uint64 number = DatumGetUInt64(DirectFunctionCall2(
		hash_numeric_extended, NumericGetDatum(amount.number), Int64GetDatum((int64) seed)));
	uint64 currency =
		hash_bytes_extended((const unsigned char *) amount.currency, CRM_CURRENCY_LENGTH, seed);

	PG_RETURN_UINT64(number ^ currency);
}
