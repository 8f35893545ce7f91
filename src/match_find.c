/*
 * match_find.c
 *		Which rows of a table mean the same as a given record?
 *
 * The search runs in two steps.  A matching query (match_gin.c) over the
 * rarest keys of the record brings candidates from the index; then the
 * candidates' own columns are scored.  The rows are fetched by an ordinary
 * query as the caller, so privileges and row security hold.
 *
 * The query is chosen by the learned frequencies: keys so rare that all their
 * rows can be scored suffice alone; commoner ones must come in twos or threes;
 * what is commoner still plays no part in the search, only in the score.
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
#include "match.h"
#include "workspace.h"

#define MAX_RESULTS	   1000
#define MAX_CANDIDATES 2000 /* rows scored for one record */
#define EVIDENCE_BITS  3.0	/* a row with less evidence than this is not reported */

#define QUERY_THRESHOLD 6
#define QUERY_KEYS		64

/* How many rows the keys of each tier may bring; see crm_find_query(). */
typedef struct Effort
{
	double exact;  /* rows of one identifier */
	double alone;  /* all rows of keys that suffice alone */
	double pair;   /* ... of which two are needed */
	double triple; /* ... of which three are needed */
} Effort;

/* First a quick look; only if it finds nothing convincing, a thorough one. */
static const Effort efforts[] = {{100, 40, 250, 250}, {400, 60, 800, 2500}};

#define CONVINCING 0.7 /* of the evidence that the record itself would give */

/* What is prepared for a table, until its definition changes. */
typedef struct FindPlan
{
	Oid relid; /* hash key */
	bool valid;
	SPIPlanPtr plan;
	MatchColumns *columns;
	MemoryContext context;
} FindPlan;

typedef struct Candidate
{
	double bits;
	int row; /* in the SPI result */
} Candidate;

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
	CacheRegisterRelcacheCallback(crm_find_invalidate, (Datum) 0);
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

/* SQL of the index's expression. */
static char *
crm_index_expression(Relation rel, Oid indexid)
{
	Relation index = index_open(indexid, AccessShareLock);
	char *sql = deparse_expression(
		linitial(RelationGetIndexExpressions(index)),
		deparse_context_for(RelationGetRelationName(rel), RelationGetRelid(rel)), false, false);

	index_close(index, NoLock);
	return sql;
}

static FindPlan *
crm_find_plan(Oid relid)
{
	FindPlan *entry;
	bool found;
	Relation rel;
	StringInfoData sql;
	Oid argtypes[1] = {INT4ARRAYOID};
	SPIPlanPtr plan;
	MemoryContext old, context;
	MatchColumns *columns;

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

		initStringInfo(&sql);
		appendStringInfo(&sql, "SELECT %s::pg_catalog.text",
						 quote_identifier(crm_match_key_column(rel)));
		for (int i = 0; i < columns->ncolumns; i++)
			appendStringInfo(&sql, ", %s", quote_identifier(columns->name[i]));
		appendStringInfo(&sql, " FROM ONLY %s WHERE %s OPERATOR(crm.@@) $1",
						 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
													RelationGetRelationName(rel)),
						 crm_index_expression(rel, columns->indexid));
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

typedef struct RankedKey
{
	double rows; /* how many rows have it, as far as known */
	uint32 hash;
	bool exact;
} RankedKey;

static int
crm_cmp_ranked(const void *a, const void *b)
{
	const RankedKey *x = a, *y = b;

	if (x->rows != y->rows)
		return x->rows < y->rows ? -1 : 1;
	return x->hash < y->hash ? -1 : x->hash > y->hash;
}

/*
 * The matching query for a record: an int4 array, NULL if the record has no
 * key at all.  *truncated tells that a key so common was left out that rows
 * agreeing in it alone are not found.
 */
static ArrayType *
crm_find_query(const MatchKey *keys, int nkeys, const MatchStats *stats, double table_rows,
			   const Effort *effort, bool *truncated)
{
	RankedKey ranked[MATCH_MAX_KEYS];
	Datum out[1 + 2 * QUERY_KEYS];
	int n = 0, taken = 0;
	double total = 0, rows = Max(crm_match_rows(stats), 1.0);
	double growth = crm_match_rows(stats) > 0 ? Max(table_rows / rows, 1.0) : 1.0;

	*truncated = false;
	for (int i = 0; i < nkeys; i++)
	{
		ranked[i].hash = keys[i].hash;
		ranked[i].exact = keys[i].strength == MATCH_KEY_IDENTIFIER;
		if (crm_match_rows(stats) > 0)
			ranked[i].rows = crm_match_count(stats, keys[i].hash) * growth;
		else
			ranked[i].rows = table_rows * exp2(-(double) keys[i].default_bits / MATCH_BITS_SCALE);
	}
	if (nkeys > 1)
		qsort(ranked, nkeys, sizeof(RankedKey), crm_cmp_ranked);

	out[n++] = Int32GetDatum(QUERY_THRESHOLD);
	for (int i = 0; i < nkeys && taken < QUERY_KEYS; i++)
	{
		int weight;

		if (ranked[i].exact && ranked[i].rows <= effort->exact)
			weight = QUERY_THRESHOLD;
		else
		{
			total += ranked[i].rows;
			if (total <= effort->alone)
				weight = QUERY_THRESHOLD;
			else if (total <= effort->pair || taken < 2)
				weight = QUERY_THRESHOLD / 2;
			else if (total <= effort->triple || taken < 3)
				weight = QUERY_THRESHOLD / 3;
			else
			{
				*truncated = *truncated || ranked[i].exact;
				continue;
			}
		}
		out[n++] = Int32GetDatum((int32) ranked[i].hash);
		out[n++] = Int32GetDatum(weight);
		taken++;
	}
	if (taken == 0)
		return NULL;
	/* A record of one or two common keys: what it has must be enough. */
	{
		int sum = 0;

		for (int i = 2; i < n; i += 2)
			sum += DatumGetInt32(out[i]);
		if (sum < QUERY_THRESHOLD)
			out[0] = Int32GetDatum(sum);
	}
	return construct_array(out, n, INT4OID, sizeof(int32), true, TYPALIGN_INT);
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

/* Features of a fetched row, of the fields that the searched record has too. */
static MatchRecord *
crm_candidate(HeapTuple row, TupleDesc desc, const MatchColumns *columns, uint32 roles,
			  MatchScratch *scratch, const MatchStats *stats)
{
	MatchValue values[MATCH_NROLES] = {0};
	MatchRecord *record;

	for (int c = 0; c < columns->ncolumns; c++)
	{
		bool isnull;
		Datum datum;
		MatchValue value;

		if ((roles & (1u << columns->role[c])) == 0)
			continue;
		datum = heap_getattr(row, c + 2, desc, &isnull);
		if (!isnull && crm_match_value(datum, columns->type[c], &value))
			values[columns->role[c]] = value;
	}
	record = crm_match_record(values, scratch, NULL, NULL);
	crm_match_weigh(record, stats);
	return record;
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

static int
crm_cmp_candidate(const void *a, const void *b)
{
	const Candidate *x = a, *y = b;

	if (x->bits != y->bits)
		return x->bits > y->bits ? -1 : 1;
	return x->row - y->row;
}

/*
 * Enough evidence, or an identifier that agrees: half the table may share it,
 * and then it is no evidence, but whoever asks for it wants to see it.
 */
static bool
crm_worth_reporting(const MatchScore *score)
{
	static const MatchLevel identifiers[] = {NAME_EQUAL,  PERSON_EQUAL, PHONE_EQUAL,
											 EMAIL_EQUAL, TAX_ID_EQUAL, NATIONAL_ID_EQUAL};
	double evidence = score->bits - score->weight[FIELD_PRIOR];

	for (int i = 0; i < (int) lengthof(identifiers); i++)
		if (score->level[crm_match_level_field(identifiers[i])] == identifiers[i] &&
			evidence > -EVIDENCE_BITS)
			return true;
	return evidence >= EVIDENCE_BITS;
}

/*
 * Scores every fetched row; returns the best, ordered.  Works in a scratch
 * context that is reset for each row.
 */
static Candidate *
crm_rank(const MatchRecord *record, const FindPlan *plan, MatchScratch *scratch,
		 const MatchStats *stats, const MatchScorer *scorer, uint32 roles, const char *self, int *n)
{
	SPITupleTable *rows = SPI_tuptable;
	Candidate *result = palloc(sizeof(Candidate) * Max(SPI_processed, 1));
	MemoryContext row_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match candidate", ALLOCSET_DEFAULT_SIZES);
	MatchScore score;

	*n = 0;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);
		MatchRecord *other;

		CHECK_FOR_INTERRUPTS();
		other = crm_candidate(rows->vals[i], rows->tupdesc, plan->columns, roles, scratch, stats);
		crm_match_score(scorer, record, other, &score);
		if (crm_worth_reporting(&score))
		{
			bool isnull;
			Datum id = heap_getattr(rows->vals[i], 1, rows->tupdesc, &isnull);

			if (self == NULL || isnull || strcmp(TextDatumGetCString(id), self) != 0)
			{
				result[*n].bits = score.bits;
				result[(*n)++].row = (int) i;
			}
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	MemoryContextDelete(row_context);
	qsort(result, *n, sizeof(Candidate), crm_cmp_candidate);
	return result;
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
	MatchScratch *scratch;
	MatchValue values[MATCH_NROLES] = {0};
	MatchRecord *record;
	const MatchKey *keys;
	int nkeys, n;
	bool truncated = false;
	uint32 roles;
	Candidate *best = NULL;
	MatchScorer scorer;
	MatchScore score;
	double enough;
	Relation rel;
	double table_rows;

	if (max_results < 1 || max_results > MAX_RESULTS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("max_results must be between 1 and %d", MAX_RESULTS)));
	InitMaterializedSRF(fcinfo, 0);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	rel = try_relation_open(relid, AccessShareLock);
	if (rel == NULL || (rel->rd_rel->relkind != RELKIND_RELATION))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("relation with OID %u is not a table", relid)));
	table_rows = Max(rel->rd_rel->reltuples, 1000.0);
	relation_close(rel, NoLock);

	plan = crm_find_plan(relid);
	crm_match_json_values(json, plan->columns, values);
	roles = crm_comparable(values);
	scratch = crm_match_scratch();
	record = crm_match_record(values, scratch, &keys, &nkeys);
	stats = crm_match_stats(relid);
	crm_match_weigh(record, stats);
	crm_match_scorer(&scorer, crm_match_model(relid), crm_match_rows(stats));
	n = 0;
	if (nkeys > 0)
	{
		MatchKey *own_keys = palloc(sizeof(MatchKey) * nkeys);
		Relation key_rel = table_open(relid, AccessShareLock);
		char *self = crm_json_id(json, crm_match_key_column(key_rel));

		table_close(key_rel, NoLock);
		memcpy(own_keys, keys, sizeof(MatchKey) * nkeys);
		crm_match_score(&scorer, record, record, &score);
		enough = CONVINCING * (score.bits - score.weight[FIELD_PRIOR]) + score.weight[FIELD_PRIOR];
		for (int i = 0; i < (int) lengthof(efforts); i++)
		{
			Datum arg = PointerGetDatum(
				crm_find_query(own_keys, nkeys, stats, table_rows, &efforts[i], &truncated));

			if (SPI_execute_plan(plan->plan, &arg, NULL, true, MAX_CANDIDATES) != SPI_OK_SELECT)
				elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(SPI_result));
			truncated = truncated || SPI_processed == MAX_CANDIDATES;
			best = crm_rank(record, plan, scratch, stats, &scorer, roles, self, &n);
			if (n > 0 && best[0].bits >= enough)
				break;
		}
	}
	for (int i = 0; i < Min(n, max_results); i++)
	{
		HeapTuple row = SPI_tuptable->vals[best[i].row];
		MatchRecord *match =
			crm_candidate(row, SPI_tuptable->tupdesc, plan->columns, roles, scratch, stats);
		Datum out[3];
		bool nulls[3] = {false, false, false};

		crm_match_score(&scorer, record, match, &score);
		out[0] = heap_getattr(row, 1, SPI_tuptable->tupdesc, &nulls[0]);
		out[1] = Float4GetDatum((float4) crm_match_probability(score.bits));
		out[2] = JsonbPGetDatum(crm_match_reasons(&score, truncated));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, out, nulls);
	}
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
