/*
 * audit_row.c
 *		What the audit log says about a row: which columns changed, their values
 *		as jsonb, the record's key.
 *
 * Objects are written in jsonb's binary form at once.  An AuditRow has its
 * columns in the order of an object's keys, which are known, unique and sorted
 * before the first row comes, so the parse state, the sort and the second copy
 * of JsonbValueToJsonb() are not needed.  The form: a header with the number of
 * pairs, a JEntry a key, a JEntry a value, then keys and values themselves,
 * numbers and containers at multiples of four bytes.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/rel.h"

#include "audit.h"
#include "compat.h"

/* A value longer than this is recorded by its length and SHA-256. */
#define AUDIT_MAX_VALUE 65536

/*
 * Arguments after the kind: log=schema.table, and mask=column for each column
 * whose values the log must not show.
 */
char *
crm_audit_option(const char *argument, const char *name)
{
	size_t len = strlen(name);

	if (strncmp(argument, name, len) == 0 && argument[len] == '=')
		return pstrdup(argument + len + 1);
	return NULL;
}

/* True if crm.touch() keeps the column: its change says nothing the other columns do not. */
static bool
crm_audit_touched(Relation rel, const char *column)
{
	if (rel->trigdesc == NULL ||
		(strcmp(column, "updated_at") != 0 && strcmp(column, "row_version") != 0))
		return false;
	for (int i = 0; i < rel->trigdesc->numtriggers; i++)
	{
		Oid function = rel->trigdesc->triggers[i].tgfoid;
		char *name = get_func_name(function);

		if (name != NULL && strcmp(name, "touch") == 0 &&
			get_func_namespace(function) == get_namespace_oid("crm", true))
			return true;
	}
	return false;
}

/* The order of keys in a jsonb object. */
static int
crm_compare_columns(const void *a, const void *b)
{
	const AuditColumn *x = a;
	const AuditColumn *y = b;

	if (x->name_len != y->name_len)
		return x->name_len > y->name_len ? 1 : -1;
	return memcmp(x->name, y->name, x->name_len);
}

/* Allocates in the current context, which must live as long as the row's entry. */
void
crm_audit_load_row(AuditRow *row, Relation rel, Trigger *trigger)
{
	TupleDesc desc = RelationGetDescr(rel);
	Bitmapset *key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);

	row->columns = palloc0(sizeof(AuditColumn) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		AuditColumn *column = &row->columns[row->ncolumns];
		FuncExpr *call;

		if (att->attisdropped)
			continue;
		column->attnum = att->attnum;
		column->name = pstrdup(NameStr(att->attname));
		column->name_len = strlen(column->name);
		column->type = getBaseType(att->atttypid);
		column->len = att->attlen;
		column->byval = att->attbyval;
		column->stored = !att->attgenerated;
		column->compared = column->stored && !crm_audit_touched(rel, column->name);
		for (int j = 1; j < trigger->tgnargs; j++)
		{
			char *mask = crm_audit_option(trigger->tgargs[j], "mask");

			if (mask != NULL && strcmp(mask, column->name) == 0)
				column->masked = true;
		}

		/* to_jsonb(anyelement) learns its argument's type from the call's expression. */
		call = makeFuncExpr(
			F_TO_JSONB, JSONBOID,
			list_make1(makeNullConst(att->atttypid, att->atttypmod, att->attcollation)), InvalidOid,
			InvalidOid, COERCE_EXPLICIT_CALL);
		fmgr_info_cxt(F_TO_JSONB, &column->to_jsonb, CurrentMemoryContext);
		fmgr_info_set_expr((Node *) call, &column->to_jsonb);

		if (bms_is_member(att->attnum - FirstLowInvalidHeapAttributeNumber, key))
		{
			column->key = true;
			row->nkey++;
		}
		row->ncolumns++;
	}
	qsort(row->columns, row->ncolumns, sizeof(AuditColumn), crm_compare_columns);
	for (int i = 0; i < row->ncolumns; i++)
	{
		AuditColumn *column = &row->columns[i];

		if (column->key && row->nkey == 1 &&
			(column->type == INT8OID || column->type == INT4OID || column->type == INT2OID))
			row->integer_key = column;
	}
}

AuditValues
crm_audit_deform(HeapTuple tuple, TupleDesc desc)
{
	AuditValues result;

	result.values = palloc(sizeof(Datum) * desc->natts);
	result.nulls = palloc(sizeof(bool) * desc->natts);
	heap_deform_tuple(tuple, desc, result.values, result.nulls);
	return result;
}

/* Compares stored forms first, so that a long value that nobody touched is not read. */
static bool
crm_audit_same(const AuditColumn *column, Datum a, Datum b)
{
	if (column->byval)
		return a == b;
	if (column->len == -1 && VARSIZE_ANY(DatumGetPointer(a)) == VARSIZE_ANY(DatumGetPointer(b)) &&
		memcmp(DatumGetPointer(a), DatumGetPointer(b), VARSIZE_ANY(DatumGetPointer(a))) == 0)
		return true;
	return datum_image_eq(a, b, column->byval, column->len);
}

/* Sets changed[] for the columns that differ; true if any does. */
bool
crm_audit_compare(const AuditRow *row, AuditValues old, AuditValues new, bool *changed)
{
	bool any = false;

	for (int i = 0; i < row->ncolumns; i++)
	{
		const AuditColumn *column = &row->columns[i];
		int position = column->attnum - 1;

		changed[i] = false;
		if (!column->compared)
			continue;
		changed[i] = old.nulls[position] != new.nulls[position] ||
					 (!old.nulls[position] &&
					  !crm_audit_same(column, old.values[position], new.values[position]));
		any |= changed[i];
	}
	return any;
}

static void
crm_push_string(JsonbParseState **state, JsonbIteratorToken token, char *value, int len)
{
	JsonbValue v;

	v.type = jbvString;
	v.val.string.val = value;
	v.val.string.len = len;
	pushJsonbValue(state, token, &v);
}

/* A long value stands in the log as {"bytes": n, "sha256": "..."}. */
static Jsonb *
crm_audit_digest(Datum value)
{
	struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);
	int len = VARSIZE_ANY_EXHDR(bytes);
	uint8 digest[PG_SHA256_DIGEST_LENGTH];
	char hex[PG_SHA256_DIGEST_LENGTH * 2];
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);
	JsonbParseState *state = NULL;
	JsonbValue v;

	if (pg_cryptohash_init(ctx) < 0 ||
		pg_cryptohash_update(ctx, (const uint8 *) VARDATA_ANY(bytes), len) < 0 ||
		pg_cryptohash_final(ctx, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute SHA-256: %s", pg_cryptohash_error(ctx));
	pg_cryptohash_free(ctx);
	hex_encode((char *) digest, PG_SHA256_DIGEST_LENGTH, hex);

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	crm_push_string(&state, WJB_KEY, "bytes", 5);
	v.type = jbvNumeric;
	v.val.numeric = int64_to_numeric(len);
	pushJsonbValue(&state, WJB_VALUE, &v);
	crm_push_string(&state, WJB_KEY, "sha256", 6);
	crm_push_string(&state, WJB_VALUE, hex, sizeof(hex));
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* A masked value stands in the log as {"masked": true}. */
static Jsonb *
crm_audit_mask(void)
{
	JsonbParseState *state = NULL;
	JsonbValue v;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	crm_push_string(&state, WJB_KEY, "masked", 6);
	v.type = jbvBool;
	v.val.boolean = true;
	pushJsonbValue(&state, WJB_VALUE, &v);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* Each of the following appends a value and returns its JEntry, with the length and not yet an
 * offset. */

/* Appends what must begin at a multiple of four bytes; the length includes the gap before. */
static JEntry
crm_append_aligned(StringInfo buffer, JEntry type, const void *data, int len)
{
	int gap = INTALIGN(buffer->len) - buffer->len;

	appendBinaryStringInfo(buffer, "\0\0\0", gap);
	appendBinaryStringInfo(buffer, data, len);
	return type | (gap + len);
}

static JEntry
crm_append_string(StringInfo buffer, const char *data, int len)
{
	appendBinaryStringInfo(buffer, data, len);
	return JENTRY_ISSTRING | len;
}

static JEntry
crm_append_numeric(StringInfo buffer, Numeric number)
{
	return crm_append_aligned(buffer, JENTRY_ISNUMERIC, number, VARSIZE(number));
}

static JEntry
crm_append_jsonb(StringInfo buffer, Jsonb *jsonb)
{
	JsonbIterator *it;
	JsonbValue v;

	if (!JB_ROOT_IS_SCALAR(jsonb))
		return crm_append_aligned(buffer, JENTRY_ISCONTAINER, &jsonb->root,
								  VARSIZE(jsonb) - VARHDRSZ);

	it = JsonbIteratorInit(&jsonb->root);
	(void) JsonbIteratorNext(&it, &v, true); /* the array a scalar is kept in */
	(void) JsonbIteratorNext(&it, &v, true);
	switch (v.type)
	{
		case jbvNull:
			return JENTRY_ISNULL;
		case jbvBool:
			return v.val.boolean ? JENTRY_ISBOOL_TRUE : JENTRY_ISBOOL_FALSE;
		case jbvNumeric:
			return crm_append_numeric(buffer, v.val.numeric);
		case jbvString:
			return crm_append_string(buffer, v.val.string.val, v.val.string.len);
		default:
			elog(ERROR, "unexpected jsonb scalar type %d", (int) v.type);
	}
	return 0;
}

/* As to_jsonb() has it, without the way through text where that is short. */
static JEntry
crm_append_value(StringInfo buffer, AuditColumn *column, Datum value)
{
	if (column->masked)
		return crm_append_jsonb(buffer, crm_audit_mask());
	if (column->len == -1 && toast_raw_datum_size(value) - VARHDRSZ > AUDIT_MAX_VALUE)
		return crm_append_jsonb(buffer, crm_audit_digest(value));

	switch (column->type)
	{
		case TEXTOID:
		case VARCHAROID:
		{
			text *t = DatumGetTextPP(value);

			return crm_append_string(buffer, VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t));
		}
		case BOOLOID:
			return DatumGetBool(value) ? JENTRY_ISBOOL_TRUE : JENTRY_ISBOOL_FALSE;
		case INT2OID:
			return crm_append_numeric(buffer, int64_to_numeric(DatumGetInt16(value)));
		case INT4OID:
			return crm_append_numeric(buffer, int64_to_numeric(DatumGetInt32(value)));
		case INT8OID:
			return crm_append_numeric(buffer, int64_to_numeric(DatumGetInt64(value)));
		case NUMERICOID:
		{
			Numeric number = DatumGetNumeric(value);

			/* JSON has no number for the others: to_jsonb() makes them strings. */
			if (!numeric_is_nan(number) && !numeric_is_inf(number))
				return crm_append_numeric(buffer, number);
			break;
		}
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		{
			char text[MAXDATELEN + 1];

			JsonEncodeDateTime(text, value, column->type, NULL);
			return crm_append_string(buffer, text, strlen(text));
		}
		case JSONBOID:
			return crm_append_jsonb(buffer, DatumGetJsonbP(value));
		default:
			break;
	}
	return crm_append_jsonb(buffer, DatumGetJsonbP(FunctionCall1(&column->to_jsonb, value)));
}

/* Puts the JEntry of child i in its place; every so many hold the end's offset, not the length. */
static void
crm_set_entry(StringInfo buffer, int i, JEntry entry, int start)
{
	int end = buffer->len - start;

	if (end > JENTRY_OFFLENMASK)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("a record's columns take more than %d bytes in the audit log",
							   JENTRY_OFFLENMASK)));
	if (i % JB_OFFSET_STRIDE == 0)
		entry = (entry & JENTRY_TYPEMASK) | end | JENTRY_HAS_OFF;
	memcpy(buffer->data + offsetof(Jsonb, root.children) + sizeof(JEntry) * i, &entry,
		   sizeof(entry));
}

/* A jsonb object of the chosen columns. */
static Datum
crm_audit_chosen(AuditRow *row, AuditValues tuple, const bool *chosen, int n)
{
	int start = offsetof(Jsonb, root.children) + sizeof(JEntry) * 2 * n;
	StringInfoData buffer;
	Jsonb *result;
	int child = 0;

	initStringInfo(&buffer);
	enlargeStringInfo(&buffer, start + 512);
	buffer.len = start;
	for (int i = 0; i < row->ncolumns; i++)
	{
		if (chosen[i])
			crm_set_entry(
				&buffer, child++,
				crm_append_string(&buffer, row->columns[i].name, row->columns[i].name_len), start);
	}
	for (int i = 0; i < row->ncolumns; i++)
	{
		AuditColumn *column = &row->columns[i];
		int position = column->attnum - 1;

		if (chosen[i])
		{
			/* The entry says where the value ends, so that must be appended before. */
			JEntry entry = tuple.nulls[position]
							   ? JENTRY_ISNULL
							   : crm_append_value(&buffer, column, tuple.values[position]);

			crm_set_entry(&buffer, child++, entry, start);
		}
	}
	result = (Jsonb *) buffer.data;
	result->root.header = n | JB_FOBJECT;
	SET_VARSIZE(result, buffer.len);
	return JsonbPGetDatum(result);
}

/*
 * The row's columns that are not NULL, or for an update those that changed.  What
 * crm.touch() keeps is only of interest where the whole row is gone.
 */
Datum
crm_audit_object(AuditRow *row, AuditValues tuple, const bool *changed, bool whole)
{
	bool *chosen = palloc(sizeof(bool) * (row->ncolumns + 1));
	int n = 0;

	for (int i = 0; i < row->ncolumns; i++)
	{
		AuditColumn *column = &row->columns[i];

		chosen[i] = changed ? changed[i]
							: (whole ? column->stored : column->compared) &&
								  !tuple.nulls[column->attnum - 1];
		n += chosen[i];
	}
	return crm_audit_chosen(row, tuple, chosen, n);
}

/* The record's identity: record_id for one integer column, an object for any other primary key. */
void
crm_audit_key(AuditRow *row, AuditValues tuple, Datum *values, bool *nulls)
{
	if (row->integer_key != NULL)
	{
		int position = row->integer_key->attnum - 1;
		Datum value = tuple.values[position];

		nulls[AUDIT_RECORD_ID] = tuple.nulls[position];
		if (!tuple.nulls[position])
			values[AUDIT_RECORD_ID] =
				Int64GetDatum(row->integer_key->type == INT8OID	  ? DatumGetInt64(value)
							  : row->integer_key->type == INT4OID ? DatumGetInt32(value)
																  : DatumGetInt16(value));
	}
	else if (row->nkey > 0)
	{
		bool *chosen = palloc(sizeof(bool) * row->ncolumns);

		for (int i = 0; i < row->ncolumns; i++)
			chosen[i] = row->columns[i].key;
		values[AUDIT_RECORD_KEY] = crm_audit_chosen(row, tuple, chosen, row->nkey);
		nulls[AUDIT_RECORD_KEY] = false;
	}
}
