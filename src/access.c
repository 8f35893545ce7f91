/*
 * access.c
 *		The functions that policies call.
 *
 * A policy says crm.can_read(workspace, kind, owner_id, id).  That function
 * gives the answer for one row.  When a query is planned, its support function
 * (access_plan.c) puts tests in its place that suit whoever asks: of the owner,
 * of the record, or of nothing at all for those who see everything.  A plan may
 * be run later by another person.  Tests of the owner and the record look at
 * the person of the moment; where a plan left a test out because it was
 * needless for somebody, what is left fails rather than give a wrong answer to
 * somebody else ("stale plan" below).  In practice the plan is made anew first:
 * it depends on the tables rights are read from, and on crm.member and
 * crm.token through the plan cache.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/plancache.h"

#include "access_scope.h"
#include "compat.h"
#include "crm.h"

/* What a call site has found out, good while the epoch stays the same. */
typedef struct CrmCall
{
	uint64 epoch; /* 0: look again at every call */
	CrmScope *scope;
	CrmLevel level;
	bool all;
	const CrmIdSet *owners;
	const CrmIdSet *records; /* NULL: none shared */
} CrmCall;

static CrmLevel
crm_level_from_text(const text *value)
{
	char *level = text_to_cstring(value);

	if (strcmp(level, "read") == 0)
		return CRM_LEVEL_READ;
	if (strcmp(level, "edit") == 0)
		return CRM_LEVEL_EDIT;
	if (strcmp(level, "own") == 0)
		return CRM_LEVEL_OWN;
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("unrecognized access level: \"%s\"", level),
					errhint("Access levels are read, edit and own.")));
}

static void
crm_call_fill(CrmCall *call, Oid workspace, CrmLevel level, const char *kind)
{
	call->scope = crm_scope(workspace);
	call->epoch = crm_scope_is_current(call->scope) ? crm_access_epoch : 0;
	call->level = level;
	call->all = crm_scope_all(call->scope, level);
	call->owners = &call->scope->owners[level];
	call->records = kind ? crm_scope_shared(call->scope, level, kind) : NULL;
}

/* The call site's state, in fn_extra, and whether it is still good. */
static inline CrmCall *
crm_call_begin(FunctionCallInfo fcinfo, bool *valid)
{
	CrmCall *call = fcinfo->flinfo->fn_extra;

	if (likely(call != NULL && call->epoch == crm_access_epoch))
	{
		*valid = true;
		return call;
	}
	*valid = false;
	if (call == NULL)
	{
		call = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(CrmCall));
		fcinfo->flinfo->fn_extra = call;
	}
	return call;
}

/*
 * The first arguments decided the state: if they may change within the query,
 * it is found out at every call.
 */
static void
crm_call_end(FunctionCallInfo fcinfo, int nconst, CrmCall *call)
{
	for (int i = 0; i < nconst; i++)
	{
		if (!get_fn_expr_arg_stable(fcinfo->flinfo, i))
			call->epoch = 0;
	}
}

/* State of the internal functions (workspace, level [, kind ...]). */
static inline CrmCall *
crm_call_by_level(FunctionCallInfo fcinfo, bool has_kind)
{
	int nconst = has_kind ? 3 : 2;
	bool valid;
	CrmCall *call = crm_call_begin(fcinfo, &valid);

	if (unlikely(!valid))
	{
		crm_call_fill(call, PG_GETARG_OID(0), crm_level_from_text(PG_GETARG_TEXT_PP(1)),
					  has_kind ? text_to_cstring(PG_GETARG_TEXT_PP(2)) : NULL);
		crm_call_end(fcinfo, nconst, call);
	}
	return call;
}

static void
crm_stale_plan(void)
{
	ResetPlanCache();
	ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					errmsg("access rights changed while the statement was being executed"),
					errhint("Run the statement again.")));
}

/* The rule for one row: (workspace, kind, owner_id, id). */
static Datum
crm_can(FunctionCallInfo fcinfo, CrmLevel level)
{
	bool valid;
	CrmCall *call;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_BOOL(false);
	call = crm_call_begin(fcinfo, &valid);
	if (!valid)
	{
		crm_call_fill(call, PG_GETARG_OID(0), level, text_to_cstring(PG_GETARG_TEXT_PP(1)));
		crm_call_end(fcinfo, 2, call);
	}
	if (call->all)
		PG_RETURN_BOOL(true);
	if (PG_ARGISNULL(2) ? call->scope->unowned[level]
						: crm_id_set_contains(call->owners, PG_GETARG_INT64(2)))
		PG_RETURN_BOOL(true);
	PG_RETURN_BOOL(call->records != NULL && !PG_ARGISNULL(3) &&
				   crm_id_set_contains(call->records, PG_GETARG_INT64(3)));
}

PG_FUNCTION_INFO_V1(crm_can_read);
Datum
crm_can_read(PG_FUNCTION_ARGS)
{
	return crm_can(fcinfo, CRM_LEVEL_READ);
}

PG_FUNCTION_INFO_V1(crm_can_edit);
Datum
crm_can_edit(PG_FUNCTION_ARGS)
{
	return crm_can(fcinfo, CRM_LEVEL_EDIT);
}

/* The rule without shares: (workspace, owner_id). */
static Datum
crm_can_owner(FunctionCallInfo fcinfo, CrmLevel level)
{
	bool valid;
	CrmCall *call;

	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	call = crm_call_begin(fcinfo, &valid);
	if (!valid)
	{
		crm_call_fill(call, PG_GETARG_OID(0), level, NULL);
		crm_call_end(fcinfo, 1, call);
	}
	PG_RETURN_BOOL(call->all ||
				   (PG_ARGISNULL(1) ? call->scope->unowned[level]
									: crm_id_set_contains(call->owners, PG_GETARG_INT64(1))));
}

PG_FUNCTION_INFO_V1(crm_can_assign);
Datum
crm_can_assign(PG_FUNCTION_ARGS)
{
	return crm_can_owner(fcinfo, CRM_LEVEL_EDIT);
}

PG_FUNCTION_INFO_V1(crm_can_delete);
Datum
crm_can_delete(PG_FUNCTION_ARGS)
{
	return crm_can_owner(fcinfo, CRM_LEVEL_OWN);
}

/* (workspace, level, unshared kind or '', owner_id) */
PG_FUNCTION_INFO_V1(crm_owner_in_scope);
Datum
crm_owner_in_scope(PG_FUNCTION_ARGS)
{
	CrmCall *call = crm_call_by_level(fcinfo, true);

	if (unlikely(call->records != NULL))
		crm_stale_plan();
	PG_RETURN_BOOL(call->all || crm_id_set_contains(call->owners, PG_GETARG_INT64(3)));
}

/* (workspace, level) */
PG_FUNCTION_INFO_V1(crm_unowned_in_scope);
Datum
crm_unowned_in_scope(PG_FUNCTION_ARGS)
{
	CrmCall *call = crm_call_by_level(fcinfo, false);

	PG_RETURN_BOOL(call->all || call->scope->unowned[call->level]);
}

/* (workspace, level, kind, id) */
PG_FUNCTION_INFO_V1(crm_record_in_scope);
Datum
crm_record_in_scope(PG_FUNCTION_ARGS)
{
	CrmCall *call = crm_call_by_level(fcinfo, true);

	PG_RETURN_BOOL(call->all || (call->records != NULL &&
								 crm_id_set_contains(call->records, PG_GETARG_INT64(3))));
}

/* (workspace, level): in plans for those who may do this with every record. */
PG_FUNCTION_INFO_V1(crm_all_in_scope);
Datum
crm_all_in_scope(PG_FUNCTION_ARGS)
{
	CrmCall *call = crm_call_by_level(fcinfo, false);

	if (unlikely(!call->all && call->scope->member != 0))
		crm_stale_plan();
	PG_RETURN_BOOL(call->all);
}

static Datum
crm_id_array(const CrmIdSet *set)
{
	Size size = ARR_OVERHEAD_NONULLS(1) + (set ? set->n : 0) * sizeof(int64);
	ArrayType *array;

	if (set == NULL || set->n == 0)
		return PointerGetDatum(construct_empty_array(INT8OID));
	array = palloc0(size);
	SET_VARSIZE(array, size);
	array->ndim = 1;
	array->elemtype = INT8OID;
	ARR_DIMS(array)[0] = set->n;
	ARR_LBOUND(array)[0] = 1;
	memcpy(ARR_DATA_PTR(array), set->ids, set->n * sizeof(int64));
	return PointerGetDatum(array);
}

/*
 * (workspace, level, unshared kind or ''): the owners, to search an index for.
 * Whoever sees everything has no such list.
 */
PG_FUNCTION_INFO_V1(crm_scope_owners);
Datum
crm_scope_owners(PG_FUNCTION_ARGS)
{
	CrmCall *call = crm_call_by_level(fcinfo, true);

	if (call->all || call->records != NULL)
		crm_stale_plan();
	return crm_id_array(call->owners);
}

/* (workspace, level, kind): the records shared with the member, to search an index for. */
PG_FUNCTION_INFO_V1(crm_scope_records);
Datum
crm_scope_records(PG_FUNCTION_ARGS)
{
	CrmCall *call = crm_call_by_level(fcinfo, true);

	if (call->all)
		crm_stale_plan();
	return crm_id_array(call->records);
}

PG_FUNCTION_INFO_V1(crm_can_read_all);
Datum
crm_can_read_all(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(crm_scope_all(crm_scope(PG_GETARG_OID(0)), CRM_LEVEL_READ));
}

PG_FUNCTION_INFO_V1(crm_is_administrator);
Datum
crm_is_administrator(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(crm_scope_all(crm_scope(PG_GETARG_OID(0)), CRM_LEVEL_OWN));
}

/* The arguments of a trigger, each of which ends in a zero byte in pg_trigger.tgargs. */
PG_FUNCTION_INFO_V1(crm_trigger_arguments);
Datum
crm_trigger_arguments(PG_FUNCTION_ARGS)
{
	bytea *arguments = PG_GETARG_BYTEA_PP(0);
	const char *at = VARDATA_ANY(arguments);
	const char *end = at + VARSIZE_ANY_EXHDR(arguments);
	ArrayBuildState *result = initArrayResult(TEXTOID, CurrentMemoryContext, false);

	while (at < end)
	{
		int len = (int) strnlen(at, end - at);

		accumArrayResult(result, PointerGetDatum(cstring_to_text_with_len(at, len)), false, TEXTOID,
						 CurrentMemoryContext);
		at += len + 1;
	}
	PG_RETURN_DATUM(makeArrayResult(result, CurrentMemoryContext));
}
