/*
 * match_gin.c
 *		The keys of a row, and the GIN operator class that finds rows by a
 *		weighted sum of keys.
 *
 * The query is an int4 array: a threshold, then pairs of key and weight.  A row
 * satisfies it when the weights of the keys it has add up to the threshold.
 * Searches for a record do not use it: they read the posting lists of the index
 * themselves (match_posting.c), because they need the sums.
 *
 * Everything here is safe below a row security barrier: no error and no side
 * effect depends on the values of a row.
 */
#include "postgres.h"

#include "access/gin.h"
#include "access/stratnum.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat.h"
#include "crm.h"
#include "match.h"

typedef struct KeysState
{
	int nroles;
	MatchRole role[MATCH_NROLES];
	Oid type[MATCH_NROLES];
	MatchScratch *scratch;
	MemoryContext scratch_context;
} KeysState;

static KeysState *
crm_keys_state(FunctionCallInfo fcinfo)
{
	KeysState *state;
	char *model;
	MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

	state = palloc0(sizeof(KeysState));
	model = text_to_cstring(PG_GETARG_TEXT_PP(0));
	state->nroles = crm_match_check_model(model, PG_NARGS() - 1, state->role);
	for (int i = 0; i < state->nroles; i++)
	{
		state->type[i] = get_fn_expr_argtype(fcinfo->flinfo, i + 1);
		crm_match_check_type(state->type[i]);
		state->type[i] = getBaseType(state->type[i]);
	}
	state->scratch = crm_match_scratch();
	state->scratch_context =
		AllocSetContextCreate(fcinfo->flinfo->fn_mcxt, "crm match keys", ALLOCSET_SMALL_SIZES);
	fcinfo->flinfo->fn_extra = state;
	MemoryContextSwitchTo(old);
	return state;
}

PG_FUNCTION_INFO_V1(crm_match_keys_sql);
Datum
crm_match_keys_sql(PG_FUNCTION_ARGS)
{
	KeysState *state = fcinfo->flinfo->fn_extra;
	MatchValue values[MATCH_NROLES] = {0};
	const MatchKey *keys;
	int nkeys;
	ArrayType *result;
	MemoryContext old;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (get_fn_expr_variadic(fcinfo->flinfo))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("crm.match_keys() takes its values one by one, not as a VARIADIC array")));
	if (state == NULL)
		state = crm_keys_state(fcinfo);

	old = MemoryContextSwitchTo(state->scratch_context);
	for (int i = 0; i < state->nroles; i++)
		if (!PG_ARGISNULL(i + 1))
		{
			MatchValue value;

			if (crm_match_value(PG_GETARG_DATUM(i + 1), state->type[i], &value))
				values[state->role[i]] = value;
		}
	keys = crm_match_record_keys(values, state->scratch, &nkeys);
	MemoryContextSwitchTo(old);

	result = (ArrayType *) palloc(ARR_OVERHEAD_NONULLS(1) + nkeys * sizeof(int32));
	SET_VARSIZE(result, ARR_OVERHEAD_NONULLS(1) + nkeys * sizeof(int32));
	result->ndim = nkeys > 0 ? 1 : 0;
	result->dataoffset = 0;
	result->elemtype = INT4OID;
	if (nkeys > 0)
	{
		ARR_DIMS(result)[0] = nkeys;
		ARR_LBOUND(result)[0] = 1;
	}
	else
		SET_VARSIZE(result, ARR_OVERHEAD_NONULLS(0));
	for (int i = 0; i < nkeys; i++)
		((int32 *) ARR_DATA_PTR(result))[i] = (int32) keys[i].hash;
	MemoryContextReset(state->scratch_context);
	PG_RETURN_ARRAYTYPE_P(result);
}

/* Elements of an int4 array without nulls; anything else is an error of the caller. */
static int32 *
crm_int4_array(ArrayType *array, int *n)
{
	if (ARR_ELEMTYPE(array) != INT4OID || array_contains_nulls(array))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("matching keys must not contain nulls")));
	*n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	return (int32 *) ARR_DATA_PTR(array);
}

typedef struct GinQuery
{
	int32 threshold;
	int n;
	int32 weight[FLEXIBLE_ARRAY_MEMBER];
} GinQuery;

static void
crm_check_query(const int32 *query, int n)
{
	bool ok = n >= 3 && n % 2 == 1 && query[0] > 0 && query[0] <= 1000;

	for (int i = 2; ok && i < n; i += 2)
		ok = query[i] > 0 && query[i] <= 1000;
	if (!ok)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid matching query"),
						errdetail("It is a threshold followed by pairs of key and weight, "
								  "threshold and weights between 1 and 1000.")));
}

PG_FUNCTION_INFO_V1(crm_match_satisfies);
Datum
crm_match_satisfies(PG_FUNCTION_ARGS)
{
	int nkeys, nquery;
	int32 *keys = crm_int4_array(PG_GETARG_ARRAYTYPE_P(0), &nkeys);
	int32 *query = crm_int4_array(PG_GETARG_ARRAYTYPE_P(1), &nquery);
	int32 sum = 0;

	crm_check_query(query, nquery);
	for (int i = 1; i < nquery; i += 2)
		for (int j = 0; j < nkeys; j++)
			if (keys[j] == query[i])
			{
				sum += query[i + 1];
				break;
			}
	PG_RETURN_BOOL(sum >= query[0]);
}

PG_FUNCTION_INFO_V1(crm_match_extract_value);
Datum
crm_match_extract_value(PG_FUNCTION_ARGS)
{
	int32 *n = (int32 *) PG_GETARG_POINTER(1);
	int nkeys;
	int32 *keys = crm_int4_array(PG_GETARG_ARRAYTYPE_P(0), &nkeys);
	Datum *entries = palloc(sizeof(Datum) * Max(nkeys, 1));

	for (int i = 0; i < nkeys; i++)
		entries[i] = Int32GetDatum(keys[i]);
	*n = nkeys;
	PG_RETURN_POINTER(entries);
}

PG_FUNCTION_INFO_V1(crm_match_extract_query);
Datum
crm_match_extract_query(PG_FUNCTION_ARGS)
{
	int32 *nentries = (int32 *) PG_GETARG_POINTER(1);
	Pointer **extra = (Pointer **) PG_GETARG_POINTER(4);
	int n, count;
	int32 *query = crm_int4_array(PG_GETARG_ARRAYTYPE_P(0), &n);
	Datum *entries;
	GinQuery *gin;

	crm_check_query(query, n);
	count = (n - 1) / 2;
	entries = palloc(sizeof(Datum) * count);
	gin = palloc(offsetof(GinQuery, weight) + sizeof(int32) * count);
	gin->threshold = query[0];
	gin->n = count;
	*extra = palloc(sizeof(Pointer) * count);
	for (int i = 0; i < count; i++)
	{
		entries[i] = Int32GetDatum(query[1 + 2 * i]);
		gin->weight[i] = query[2 + 2 * i];
		(*extra)[i] = (Pointer) gin;
	}
	*nentries = count;
	PG_RETURN_POINTER(entries);
}

PG_FUNCTION_INFO_V1(crm_match_consistent);
Datum
crm_match_consistent(PG_FUNCTION_ARGS)
{
	bool *check = (bool *) PG_GETARG_POINTER(0);
	GinQuery **extra = (GinQuery **) PG_GETARG_POINTER(4);
	bool *recheck = (bool *) PG_GETARG_POINTER(5);
	GinQuery *gin = extra[0];
	int32 sum = 0;

	for (int i = 0; i < gin->n; i++)
		if (check[i])
			sum += gin->weight[i];
	*recheck = false;
	PG_RETURN_BOOL(sum >= gin->threshold);
}

PG_FUNCTION_INFO_V1(crm_match_tri_consistent);
Datum
crm_match_tri_consistent(PG_FUNCTION_ARGS)
{
	GinTernaryValue *check = (GinTernaryValue *) PG_GETARG_POINTER(0);
	GinQuery **extra = (GinQuery **) PG_GETARG_POINTER(4);
	GinQuery *gin = extra[0];
	int32 least = 0, most = 0;

	for (int i = 0; i < gin->n; i++)
	{
		if (check[i] == GIN_TRUE)
			least += gin->weight[i];
		if (check[i] != GIN_FALSE)
			most += gin->weight[i];
	}
	PG_RETURN_GIN_TERNARY_VALUE(most < gin->threshold	  ? GIN_FALSE
								: least >= gin->threshold ? GIN_TRUE
														  : GIN_MAYBE);
}

/* A matching query is made to be selective; the planner must not think of a full scan. */
PG_FUNCTION_INFO_V1(crm_match_selectivity);
Datum
crm_match_selectivity(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(0.00002);
}
