/*
 * match_find.c
 *		Which rows of a table mean the same as a given record?
 *
 * The search (match_search.c) reads index and table by itself; an ordinary query,
 * as the caller, says which of its candidates the caller may see, before they are
 * scored.  So privileges and row security hold.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "crm.h"
#include "invalidation.h"
#include "match.h"
#include "match_search.h"
#include "workspace.h"

#define MAX_RESULTS 1000

/* What is prepared for a table, until its definition changes. */
typedef struct FindPlan
{
	Oid relid; /* hash key */
	bool valid;
	SPIPlanPtr plan;
	MatchColumns *columns;
	AttrNumber key; /* the single column of the primary key */
	MemoryContext context;
} FindPlan;

static HTAB *plan_cache = NULL;
static MemoryContext plan_context = NULL;

static void
crm_find_invalidate(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	FindPlan *entry;

	if (OidIsValid(relid))
	{
		entry = hash_search(plan_cache, &relid, HASH_FIND, NULL);
		if (entry != NULL)
			entry->valid = false;
		return;
	}
	hash_seq_init(&seq, plan_cache);
	while ((entry = hash_seq_search(&seq)) != NULL)
		entry->valid = false;
}

static void
crm_find_init(void)
{
	HASHCTL ctl = {0};

	if (plan_cache != NULL)
		return;
	plan_context = AllocSetContextCreate(TopMemoryContext, "crm match plans", ALLOCSET_SMALL_SIZES);
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(FindPlan);
	ctl.hcxt = plan_context;
	plan_cache = hash_create("crm match plans", 8, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	crm_register_relcache_callback(crm_find_invalidate, (Datum) 0);
}

/* Name of the single column of the primary key. */
char *
crm_match_key_column(Relation rel)
{
	List *indexes = RelationGetIndexList(rel);
	char *result = NULL;
	ListCell *lc;

	foreach (lc, indexes)
	{
		HeapTuple tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index index;

		if (!HeapTupleIsValid(tuple))
			continue;
		index = (Form_pg_index) GETSTRUCT(tuple);
		if (index->indisprimary && index->indnkeyatts == 1)
			result = get_attname(RelationGetRelid(rel), index->indkey.values[0], false);
		ReleaseSysCache(tuple);
	}
	if (result == NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table \"%s\" has no primary key of one column",
							   RelationGetRelationName(rel)),
						errhint("Matches are reported by that key.")));
	return result;
}

/*
 * The query by which a search asks which of some rows the caller may see.  It
 * names every column that is compared, so that privileges on them are checked.
 */
static FindPlan *
crm_find_plan(Oid relid)
{
	FindPlan *entry;
	bool found;
	Relation rel;
	StringInfoData sql;
	Oid argtypes[1] = {TIDARRAYOID};
	SPIPlanPtr plan;
	MemoryContext old, context;
	MatchColumns *columns;
	char *key;

	crm_find_init();
	entry = hash_search(plan_cache, &relid, HASH_ENTER, &found);
	if (!found)
	{
		entry->valid = false;
		entry->plan = NULL;
		entry->context = NULL;
	}
	if (entry->valid)
		return entry;
	if (entry->plan != NULL)
		SPI_freeplan(entry->plan);
	entry->plan = NULL;
	if (entry->context != NULL)
		MemoryContextDelete(entry->context);
	entry->context = NULL;
	entry->valid = true; /* an invalidation from here on counts */

	PG_TRY();
	{
		rel = table_open(relid, AccessShareLock);
		context = AllocSetContextCreate(plan_context, "crm match plan", ALLOCSET_SMALL_SIZES);
		entry->context = context;
		old = MemoryContextSwitchTo(context);
		columns = crm_match_columns(rel, false);
		MemoryContextSwitchTo(old);

		key = crm_match_key_column(rel);
		entry->key = get_attnum(relid, key);
		initStringInfo(&sql);
		appendStringInfo(&sql, "SELECT ctid, %s", quote_identifier(key));
		for (int i = 0; i < columns->ncolumns; i++)
			appendStringInfo(&sql, ", %s", quote_identifier(columns->name[i]));
		appendStringInfo(&sql,
						 " FROM ONLY %s WHERE ctid OPERATOR(pg_catalog.=) "
						 "ANY ($1::pg_catalog.tid[])",
						 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
													RelationGetRelationName(rel)));
		table_close(rel, NoLock);
		plan = SPI_prepare_cursor(sql.data, 1, argtypes, CURSOR_OPT_GENERIC_PLAN);
		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		entry->plan = plan;
		entry->columns = columns;
	}
	PG_CATCH();
	{
		entry->valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	return entry;
}

void
crm_match_json_values(Jsonb *record, const MatchColumns *columns, MatchValue values[MATCH_NROLES])
{
	if (!JB_ROOT_IS_OBJECT(record))
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the record to match must be a JSON object"),
			 errhint("For example: {\"name\": \"Acme Ltd\", \"phone\": \"+44 20 7946 0018\"}.")));
	for (int i = 0; i < columns->ncolumns; i++)
	{
		JsonbValue found;
		JsonbValue *value = getKeyJsonValueFromContainer(&record->root, columns->name[i],
														 strlen(columns->name[i]), &found);
		Datum text;
		MatchValue out;

		if (value == NULL || value->type == jbvNull)
			continue;
		if (value->type == jbvString)
			text = PointerGetDatum(cstring_to_text_with_len(
				value->val.string.val, Min(value->val.string.len, MATCH_MAX_VALUE)));
		else if (value->type == jbvNumeric)
			text = DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)),
			text = PointerGetDatum(cstring_to_text(DatumGetCString(text)));
		else
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("field \"%s\" of the record to match must be a string or a number",
							columns->name[i])));
		if (crm_match_value(text, TEXTOID, &out))
			values[columns->role[i]] = out;
	}
}

void
crm_match_json_check(Jsonb *record, const MatchColumns *columns)
{
	JsonbIterator *it = JsonbIteratorInit(&record->root);
	JsonbIteratorToken token;
	JsonbValue v;

	if (!JB_ROOT_IS_OBJECT(record))
		return; /* told by crm_match_json_values() */
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		StringInfoData known;
		char *field;

		if (token != WJB_KEY)
			continue;
		field = pnstrdup(v.val.string.val, v.val.string.len);
		if (get_attnum(columns->relid, field) > 0)
			continue;
		initStringInfo(&known);
		for (int i = 0; i < columns->ncolumns; i++)
			appendStringInfo(&known, "%s%s", i > 0 ? ", " : "", columns->name[i]);
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("column \"%s\" of relation \"%s\" does not exist", field,
							   get_rel_name(columns->relid)),
						errhint("Fields that are compared are %s.", known.data)));
	}
}

/* The value of field "id" as text, so that a stored record is not its own duplicate. */
static char *
crm_json_id(Jsonb *record, const char *field)
{
	JsonbValue found;
	JsonbValue *value = getKeyJsonValueFromContainer(&record->root, field, strlen(field), &found);

	if (value == NULL)
		return NULL;
	if (value->type == jbvString)
		return pnstrdup(value->val.string.val, value->val.string.len);
	if (value->type == jbvNumeric)
		return DatumGetCString(
			DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
	return NULL;
}

Jsonb *
crm_match_reasons(const MatchScore *score, bool truncated)
{
	StringInfoData json;
	const char *separator = "";

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	for (int i = 0; i < MATCH_NFIELDS; i++)
		if (score->level[i] != LEVEL_NONE)
		{
			appendStringInfo(&json, "%s{\"field\": \"%s\", \"level\": \"%s\", \"weight\": %.2f}",
							 separator, crm_match_field_name(i),
							 crm_match_level_name(score->level[i]), score->weight[i]);
			separator = ", ";
		}
	if (truncated)
		appendStringInfo(
			&json, "%s{\"field\": \"search\", \"level\": \"truncated\", \"weight\": 0}", separator);
	appendStringInfoChar(&json, ']');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/* Roles whose values can agree with those of the record. */
static uint32
crm_comparable(const MatchValue values[MATCH_NROLES])
{
	static const uint32 groups[] = {
		1u << MATCH_GIVEN_NAME | 1u << MATCH_FAMILY_NAME | 1u << MATCH_PERSON,
		1u << MATCH_EMAIL | 1u << MATCH_WEBSITE,
	};
	uint32 roles = 0;

	for (int i = 0; i < MATCH_NROLES; i++)
		if (values[i].data != NULL)
		{
			roles |= 1u << i;
			for (int g = 0; g < (int) lengthof(groups); g++)
				if ((groups[g] & (1u << i)) != 0)
					roles |= groups[g];
		}
	return roles;
}

/* Which rows the caller may see: MatchFilter of crm_find_matches(). */
static void
crm_find_visible(void *arg, ItemPointer tids, int n, bool *keep)
{
	const FindPlan *plan = arg;
	Datum *elements = palloc(sizeof(Datum) * Max(n, 1));
	Datum argument;

	for (int i = 0; i < n; i++)
	{
		elements[i] = PointerGetDatum(&tids[i]);
		keep[i] = false;
	}
	argument = PointerGetDatum(
		construct_array(elements, n, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT));
	if (SPI_execute_plan(plan->plan, &argument, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(SPI_result));
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool isnull;
		ItemPointer seen = (ItemPointer) DatumGetPointer(
			SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &isnull));

		for (int i = 0; i < n; i++)
			keep[i] = keep[i] || ItemPointerEquals(&tids[i], seen);
	}
	SPI_freetuptable(SPI_tuptable);
}

PG_FUNCTION_INFO_V1(crm_find_matches);
Datum
crm_find_matches(PG_FUNCTION_ARGS)
{
	Oid relid = PG_GETARG_OID(0);
	Jsonb *json = PG_GETARG_JSONB_P(1);
	int32 max_results = PG_GETARG_INT32(2);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	FindPlan *plan;
	MatchStats *stats;
	MatchValue values[MATCH_NROLES] = {0};
	MatchRecord *record;
	MatchQuery query;
	MatchSearch *search;
	MatchHit *hits;
	int nhits;
	bool truncated;
	MatchScorer scorer;
	Relation rel;
	FmgrInfo output;
	Oid function;
	bool varlena;

	if (max_results < 1 || max_results > MAX_RESULTS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("max_results must be between 1 and %d", MAX_RESULTS)));
	InitMaterializedSRF(fcinfo, 0);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	rel = try_relation_open(relid, AccessShareLock);
	if (rel == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation with OID %u does not exist", relid)));
	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("cannot search \"%s\" for matches", RelationGetRelationName(rel)),
						errdetail_relkind_not_supported(rel->rd_rel->relkind),
						rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE
							? errhint("Search its partitions one by one.")
							: 0));

	plan = crm_find_plan(relid);
	crm_match_json_check(json, plan->columns);
	crm_match_json_values(json, plan->columns, values);
	record = crm_match_record(values, crm_match_scratch(), &query.keys, &query.nkeys);
	stats = crm_match_stats(relid);
	crm_match_weigh(record, stats);
	crm_match_scorer(&scorer, crm_match_model(relid), crm_match_rows(stats));
	query.record = record;
	query.roles = crm_comparable(values);
	query.self =
		crm_json_id(json, NameStr(TupleDescAttr(RelationGetDescr(rel), plan->key - 1)->attname));
	query.wanted = max_results;

	search = crm_search_begin(rel, plan->columns, plan->key, &scorer, GetActiveSnapshot());
	/* Privileges are checked even if nothing is found. */
	crm_find_visible(plan, NULL, 0, NULL);
	hits = crm_search(search, &query, crm_find_visible, plan, &nhits, &truncated);
	/* There is no row to say so in its reasons. */
	if (nhits == 0 && truncated)
		ereport(NOTICE,
				(errmsg("not all records that share something with this one were looked at"),
				 errdetail("What it has in common with them is too common to be looked up by "
						   "itself, and none of those that were looked at is likely the same."),
				 errhint("Say more of the record.")));
	getTypeOutputInfo(TupleDescAttr(RelationGetDescr(rel), plan->key - 1)->atttypid, &function,
					  &varlena);
	fmgr_info(function, &output);
	for (int i = 0; i < nhits; i++)
	{
		Datum out[3];
		bool nulls[3] = {false, false, false};

		out[0] = CStringGetTextDatum(OutputFunctionCall(&output, hits[i].id));
		out[1] = Float4GetDatum((float4) crm_match_probability(hits[i].score.bits));
		out[2] = JsonbPGetDatum(crm_match_reasons(&hits[i].score, truncated));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, out, nulls);
	}
	crm_search_end(search);
	relation_close(rel, NoLock);
	SPI_finish();
	return (Datum) 0;
}

/* The table that holds the records of a kind in a workspace. */
PG_FUNCTION_INFO_V1(crm_match_table);
Datum
crm_match_table(PG_FUNCTION_ARGS)
{
	Oid workspace = PG_GETARG_OID(0);
	char *kind = text_to_cstring(PG_GETARG_TEXT_PP(1));
	Oid relid;
	Relation rel;
	bool ok;

	crm_check_workspace(workspace);
	relid = strlen(kind) < NAMEDATALEN ? get_relname_relid(kind, workspace) : InvalidOid;
	ok = OidIsValid(relid) && get_rel_relkind(relid) == RELKIND_RELATION;
	if (ok)
	{
		rel = table_open(relid, AccessShareLock);
		ok = crm_match_columns(rel, true) != NULL;
		table_close(rel, NoLock);
	}
	if (!ok)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("records of kind \"%s\" cannot be matched", kind),
						errdetail("Workspace \"%s\" has no table \"%s\" with a matching index.",
								  get_namespace_name(workspace), kind),
						errhint("Kinds are account, contact, lead and every table with an index on "
								"crm.match_keys(...).")));
	PG_RETURN_OID(relid);
}
