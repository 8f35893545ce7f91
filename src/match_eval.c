/*
 * match_eval.c
 *		Two given records compared, and how well known pairs are told apart.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "crm.h"
#include "match.h"
#include "workspace.h"

/* How common a value is in a table is for those who may read the table. */
static MatchColumns *
crm_readable_columns(Oid relid)
{
	Relation rel = crm_table_open(relid, AccessShareLock);
	MatchColumns *columns;

	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, RelationGetRelationName(rel));
	columns = crm_match_columns(rel, false);
	table_close(rel, AccessShareLock);
	return columns;
}

static MatchRecord *
crm_json_record(Jsonb *json, const MatchColumns *columns, MatchScratch *scratch,
				const MatchStats *stats, MatchOutline outline)
{
	MatchValue values[MATCH_NROLES] = {0};
	MatchRecord *record;

	crm_match_json_values(json, columns, values);
	record = outline == OUTLINE_WHOLE ? crm_match_record(values, scratch, NULL, NULL)
									  : crm_match_outline(values, scratch, outline);
	crm_match_weigh(record, stats);
	return record;
}

/*
 * crm._compare_records(relation, a, b, needed) -> (score, reasons, bits, quick)
 *		quick is what a scan computes that needs so many bits.
 */
PG_FUNCTION_INFO_V1(crm_compare_records);
Datum
crm_compare_records(PG_FUNCTION_ARGS)
{
	Oid relid = PG_GETARG_OID(0);
	MatchColumns *columns = crm_readable_columns(relid);
	MatchStats *stats = crm_match_stats(relid);
	MatchScratch *scratch = crm_match_scratch();
	MatchScorer scorer;
	MatchScore score;
	MatchRecord *record[2];
	double needed = PG_GETARG_FLOAT8(3);
	bool may = true;
	TupleDesc desc;
	Datum values[4];
	bool nulls[4] = {false, false, false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	crm_match_scorer(&scorer, crm_match_model(relid), crm_match_rows(stats));
	crm_match_json_check(PG_GETARG_JSONB_P(1), columns);
	crm_match_json_check(PG_GETARG_JSONB_P(2), columns);
	for (int i = 0; i < 2; i++)
		record[i] =
			crm_json_record(PG_GETARG_JSONB_P(1 + i), columns, scratch, stats, OUTLINE_WHOLE);
	for (int i = 0; i < 4; i++)
	{
		MatchOutline kind = i < 2 ? OUTLINE_ID : OUTLINE_NAME;
		MatchRecord *outline =
			crm_json_record(PG_GETARG_JSONB_P(1 + i % 2), columns, scratch, stats, kind);

		may =
			may && crm_match_may(&scorer, i % 2 == 0 ? outline : record[0],
								 i % 2 == 0 ? record[1] : outline, record[1 - i % 2], kind, needed);
	}
	if (crm_match_tells(record[0], OUTLINE_ID))
		may = may &&
			  crm_match_may_numbers(
				  &scorer,
				  crm_json_record(PG_GETARG_JSONB_P(1), columns, scratch, stats, OUTLINE_NUMBERS),
				  crm_json_record(PG_GETARG_JSONB_P(2), columns, scratch, stats, OUTLINE_NUMBERS),
				  needed);
	crm_match_score(&scorer, record[0], record[1], &score);
	values[0] = Float4GetDatum((float4) crm_match_probability(score.bits));
	values[1] = JsonbPGetDatum(crm_match_reasons(&score, false));
	values[2] = Float8GetDatum(score.bits);
	values[3] =
		Float8GetDatum(may ? crm_match_bits(&scorer, record[0], record[1], needed) : -INFINITY);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

typedef struct KeyedRecord
{
	char *key;
	MatchRecord *record;
} KeyedRecord;

static int
crm_cmp_keyed(const void *a, const void *b)
{
	return strcmp(((const KeyedRecord *) a)->key, ((const KeyedRecord *) b)->key);
}

/* Appends the records of a JSON object, by their keys. */
static KeyedRecord *
crm_given_records(Jsonb *records, const MatchColumns *columns, const MatchStats *stats,
				  KeyedRecord *result, int *n)
{
	MatchScratch *scratch = crm_match_scratch();
	JsonbIterator *it = JsonbIteratorInit(&records->root);
	JsonbIteratorToken token;
	JsonbValue v;

	if (!JB_ROOT_IS_OBJECT(records))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("records must be a JSON object of records by their keys")));
	result =
		repalloc_huge(result, sizeof(KeyedRecord) * Max(*n + JsonContainerSize(&records->root), 1));
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		MatchRecord *record;

		CHECK_FOR_INTERRUPTS();
		if (token == WJB_KEY)
			result[*n].key = pnstrdup(v.val.string.val, v.val.string.len);
		if (token != WJB_VALUE)
			continue;
		record = crm_json_record(JsonbValueToJsonb(&v), columns, scratch, stats, OUTLINE_WHOLE);
		result[*n].record = palloc(record->size);
		memcpy(result[*n].record, record, record->size);
		(*n)++;
	}
	return result;
}

/*
 * The rows of a table with the given primary keys, as their caller may read them, and the
 * given records; by their keys.
 */
static KeyedRecord *
crm_fetch_records(Oid relid, const MatchColumns *columns, Datum keys, Jsonb *records,
				  const MatchStats *stats, int *n)
{
	Relation rel = table_open(relid, AccessShareLock);
	char *key = crm_match_key_column(rel);
	MatchScratch *scratch = crm_match_scratch();
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext row_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match eval row", ALLOCSET_DEFAULT_SIZES);
	KeyedRecord *result;
	StringInfoData sql;
	Oid types[1] = {TEXTARRAYOID};
	SPITupleTable *rows;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s::pg_catalog.text", quote_identifier(key));
	for (int i = 0; i < columns->ncolumns; i++)
		appendStringInfo(&sql, ", %s", quote_identifier(columns->name[i]));
	appendStringInfo(&sql, " FROM ONLY %s WHERE %s OPERATOR(pg_catalog.=) ANY ($1::%s[])",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
												RelationGetRelationName(rel)),
					 quote_identifier(key),
					 format_type_be_qualified(get_atttype(relid, get_attnum(relid, key))));
	table_close(rel, NoLock);
	if (SPI_execute_with_args(sql.data, 1, types, &keys, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read labelled records");
	rows = SPI_tuptable;
	*n = (int) SPI_processed;
	result = palloc_extended(sizeof(KeyedRecord) * Max(SPI_processed, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < *n; i++)
	{
		MatchValue values[MATCH_NROLES] = {0};
		MatchRecord *record;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(row_context);
		for (int c = 0; c < columns->ncolumns; c++)
		{
			bool isnull;
			Datum datum = heap_getattr(rows->vals[i], c + 2, rows->tupdesc, &isnull);
			MatchValue value;

			if (!isnull && crm_match_value(datum, columns->type[c], &value))
				values[columns->role[c]] = value;
		}
		record = crm_match_record(values, scratch, NULL, NULL);
		crm_match_weigh(record, stats);
		result[i].key = MemoryContextStrdup(caller, SPI_getvalue(rows->vals[i], rows->tupdesc, 1));
		result[i].record = MemoryContextAlloc(caller, record->size);
		memcpy(result[i].record, record, record->size);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(row_context);
	}
	MemoryContextDelete(row_context);
	if (records != NULL)
		result = crm_given_records(records, columns, stats, result, n);
	qsort(result, *n, sizeof(KeyedRecord), crm_cmp_keyed);
	return result;
}

/*
 * crm._match_bits(relation, keys, left_keys, right_keys, version, records) -> bits
 *		Log-odds of each pair of records; NULL where one is not there.  keys has
 *		each key of the table once, records those that are not from it.
 */
PG_FUNCTION_INFO_V1(crm_match_bits_of);
Datum
crm_match_bits_of(PG_FUNCTION_ARGS)
{
	Oid relid;
	MatchColumns *columns;
	MatchStats *stats;
	MatchScorer scorer;
	KeyedRecord *known;
	Datum *side[2], *bits;
	bool *null[2], *unknown;
	int nside[2], n, dims[1], lbs[1] = {1};

	for (int i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			PG_RETURN_NULL();
	relid = PG_GETARG_OID(0);
	columns = crm_readable_columns(relid);
	stats = crm_match_stats(relid);
	for (int i = 0; i < 2; i++)
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(2 + i), TEXTOID, -1, false, TYPALIGN_INT, &side[i],
						  &null[i], &nside[i]);
	if (nside[0] != nside[1])
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the arrays of labelled pairs must be of one length")));
	if (nside[0] == 0)
		PG_RETURN_ARRAYTYPE_P(construct_empty_array(FLOAT8OID));
	if (PG_ARGISNULL(4))
		crm_match_scorer(&scorer, crm_match_model(relid), crm_match_rows(stats));
	else
	{
		MatchModel model;

		if (!crm_match_model_version(relid, PG_GETARG_INT64(4), &model))
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
							errmsg("table \"%s\" has no matching model of version " INT64_FORMAT,
								   get_rel_name(relid), PG_GETARG_INT64(4))));
		crm_match_scorer(&scorer, &model, crm_match_rows(stats));
	}
	bits = palloc_extended(sizeof(Datum) * nside[0], MCXT_ALLOC_HUGE);
	unknown = palloc_extended(sizeof(bool) * nside[0], MCXT_ALLOC_HUGE);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	known = crm_fetch_records(relid, columns, PG_GETARG_DATUM(1),
							  PG_ARGISNULL(5) ? NULL : PG_GETARG_JSONB_P(5), stats, &n);
	for (int i = 0; i < nside[0]; i++)
	{
		KeyedRecord *found[2] = {NULL, NULL};

		CHECK_FOR_INTERRUPTS();
		for (int s = 0; s < 2; s++)
			if (!null[s][i])
			{
				KeyedRecord want = {.key = TextDatumGetCString(side[s][i])};

				found[s] = bsearch(&want, known, n, sizeof(KeyedRecord), crm_cmp_keyed);
				pfree(want.key);
			}
		unknown[i] = found[0] == NULL || found[1] == NULL;
		if (!unknown[i])
			bits[i] = Float8GetDatum(
				crm_match_bits(&scorer, found[0]->record, found[1]->record, -INFINITY));
	}
	SPI_finish();
	dims[0] = nside[0];
	PG_RETURN_ARRAYTYPE_P(construct_md_array(bits, unknown, 1, dims, lbs, FLOAT8OID, 8,
											 FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
