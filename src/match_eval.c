/*
 * match_eval.c
 *		Two given records compared, and how well known pairs are told apart.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "access/table.h"

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
				const MatchStats *stats)
{
	MatchValue values[MATCH_NROLES] = {0};
	MatchRecord *record;

	crm_match_json_values(json, columns, values);
	record = crm_match_record(values, scratch, NULL, NULL);
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
	MatchRecord *a, *b;
	TupleDesc desc;
	Datum values[4];
	bool nulls[4] = {false, false, false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	crm_match_scorer(&scorer, crm_match_model(relid), crm_match_rows(stats));
	a = crm_json_record(PG_GETARG_JSONB_P(1), columns, scratch, stats);
	b = crm_json_record(PG_GETARG_JSONB_P(2), columns, scratch, stats);
	crm_match_score(&scorer, a, b, &score);
	values[0] = Float4GetDatum((float4) crm_match_probability(score.bits));
	values[1] = JsonbPGetDatum(crm_match_reasons(&score, false));
	values[2] = Float8GetDatum(score.bits);
	values[3] = Float8GetDatum(crm_match_bits(&scorer, a, b, PG_GETARG_FLOAT8(3)));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
