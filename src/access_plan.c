/*
 * access_plan.c
 *		Planner support for the functions of access.c.
 *
 * Simplification replaces the rule of a policy by tests that suit the person
 * the query is planned for:
 *
 *	sees everything		crm._all_in_scope(...)
 *	otherwise			crm._owner_in_scope(..., owner_id)
 *						OR owner_id IS NULL AND crm._unowned_in_scope(...)
 *						OR crm._record_in_scope(..., id)
 *
 * The second arm is left out where nobody may see records without an owner,
 * the third where no record of the kind is shared with the person.  Each arm
 * has a true selectivity and an index condition, so the planner chooses between
 * index scans, a BitmapOr and a filter as it would for a hand-written WHERE.
 *
 * The plan is made dependent on the tables the rights are read from, like on
 * tables that it reads itself.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "catalog/pg_am_d.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_statistic.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/supportnodes.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/restrictinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"
#include "utils/syscache.h"

#include "access_scope.h"
#include "compat.h"
#include "crm.h"

/*
 * An index is searched for at most so many owners or records.  Beyond, the
 * planner's work on the list (some two microseconds an element) is no longer
 * small beside the query's, and the rows are so many that a filter is as good.
 */
#define CRM_MAX_INDEX_IDS 2000

/* An index that finds so few rows is not worth a list of owners beside it. */
#define CRM_FEW_ROWS 16

static const char *const crm_level_names[CRM_LEVELS] = {"read", "edit", "own"};

static Oid
crm_toolkit_function(const char *name, int nargs, const Oid *argtypes)
{
	Oid schema = get_namespace_oid("crm", false);
	Oid funcid =
		GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
						PointerGetDatum(buildoidvector(argtypes, nargs)), ObjectIdGetDatum(schema));

	if (!OidIsValid(funcid))
		elog(ERROR, "function crm.%s does not exist", name);
	return funcid;
}

static Node *
crm_text_const(const char *value)
{
	return (Node *) makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1, CStringGetTextDatum(value),
							  false, false);
}

static Expr *
crm_make_call(const char *name, Oid result, List *args)
{
	Oid argtypes[4];
	int nargs = 0;
	ListCell *lc;

	foreach (lc, args)
		argtypes[nargs++] = exprType(lfirst(lc));
	return (Expr *) makeFuncExpr(crm_toolkit_function(name, nargs, argtypes), result, args,
								 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
}

static void
crm_plan_depends_on(PlannerInfo *root, Oid workspace)
{
	root->glob->relationOids =
		list_concat_unique_oid(root->glob->relationOids, crm_scope_tables(workspace));
}

/* The rule for one level; "kind" and "id" are NULL where shares do not count. */
static Node *
crm_simplify_rule(PlannerInfo *root, CrmLevel level, Node *workspace, Node *kind, Node *owner,
				  Node *id)
{
	CrmScope *scope;
	char *kind_name = NULL;
	bool shared = false;
	List *arms = NIL;

	if (root == NULL || !IsA(workspace, Const) || ((Const *) workspace)->constisnull ||
		(kind != NULL && (!IsA(kind, Const) || ((Const *) kind)->constisnull)) ||
		contain_volatile_functions(owner) || (id != NULL && contain_volatile_functions(id)))
		return NULL;

	scope = crm_scope(DatumGetObjectId(((Const *) workspace)->constvalue));
	crm_plan_depends_on(root, DatumGetObjectId(((Const *) workspace)->constvalue));

	if (crm_scope_all(scope, level))
		return (Node *) crm_make_call(
			"_all_in_scope", BOOLOID,
			list_make2(copyObject(workspace), crm_text_const(crm_level_names[level])));

	/* Nobody's plan is kept for whoever comes next and leaves nothing out. */
	if (kind != NULL)
	{
		kind_name = TextDatumGetCString(((Const *) kind)->constvalue);
		shared = scope->member == 0 || crm_scope_shared(scope, level, kind_name) != NULL;
	}
	arms = list_make1(crm_make_call(
		"_owner_in_scope", BOOLOID,
		list_make4(copyObject(workspace), crm_text_const(crm_level_names[level]),
				   crm_text_const(kind == NULL || shared ? "" : kind_name), copyObject(owner))));
	if (scope->member == 0 || scope->unowned[level])
	{
		NullTest *isnull = makeNode(NullTest);

		isnull->arg = (Expr *) copyObject(owner);
		isnull->nulltesttype = IS_NULL;
		isnull->argisrow = false;
		isnull->location = -1;
		arms = lappend(
			arms, makeBoolExpr(
					  AND_EXPR,
					  list_make2(isnull,
								 crm_make_call("_unowned_in_scope", BOOLOID,
											   list_make2(copyObject(workspace),
														  crm_text_const(crm_level_names[level])))),
					  -1));
	}
	if (shared)
		arms = lappend(arms, crm_make_call("_record_in_scope", BOOLOID,
										   list_make4(copyObject(workspace),
													  crm_text_const(crm_level_names[level]),
													  copyObject(kind), copyObject(id))));
	if (list_length(arms) == 1)
		return (Node *) linitial(arms);
	return (Node *) makeBoolExpr(OR_EXPR, arms, -1);
}

/* Of crm.can_read, can_edit (workspace, kind, owner_id, id), can_assign, can_delete (workspace,
 * owner_id). */
PG_FUNCTION_INFO_V1(crm_can_support);
Datum
crm_can_support(PG_FUNCTION_ARGS)
{
	Node *request = (Node *) PG_GETARG_POINTER(0);

	if (IsA(request, SupportRequestSimplify))
	{
		SupportRequestSimplify *simplify = (SupportRequestSimplify *) request;
		List *args = simplify->fcall->args;
		char *name = get_func_name(simplify->fcall->funcid);

		if (name == NULL)
			PG_RETURN_POINTER(NULL);
		if (list_length(args) == 4 &&
			(strcmp(name, "can_read") == 0 || strcmp(name, "can_edit") == 0))
			PG_RETURN_POINTER(crm_simplify_rule(
				simplify->root, strcmp(name, "can_read") == 0 ? CRM_LEVEL_READ : CRM_LEVEL_EDIT,
				linitial(args), lsecond(args), lthird(args), lfourth(args)));
		if (list_length(args) == 2 &&
			(strcmp(name, "can_assign") == 0 || strcmp(name, "can_delete") == 0))
			PG_RETURN_POINTER(crm_simplify_rule(
				simplify->root, strcmp(name, "can_assign") == 0 ? CRM_LEVEL_EDIT : CRM_LEVEL_OWN,
				linitial(args), NULL, lsecond(args), NULL));
	}
	PG_RETURN_POINTER(NULL);
}

/* The scope and level that the first arguments of an internal function name, NULL if they are not
 * constant. */
static CrmScope *
crm_args_scope(List *args, CrmLevel *level)
{
	Node *workspace;
	Node *name;

	if (list_length(args) < 2)
		return NULL;
	workspace = linitial(args);
	name = lsecond(args);
	if (!IsA(workspace, Const) || ((Const *) workspace)->constisnull || !IsA(name, Const) ||
		((Const *) name)->constisnull || ((Const *) name)->consttype != TEXTOID)
		return NULL;
	for (int i = 0; i < CRM_LEVELS; i++)
	{
		if (strcmp(TextDatumGetCString(((Const *) name)->constvalue), crm_level_names[i]) == 0)
		{
			*level = (CrmLevel) i;
			return crm_scope(DatumGetObjectId(((Const *) workspace)->constvalue));
		}
	}
	return NULL;
}

/*
 * The fraction of rows whose owner is in a set: the common owners counted one
 * by one, the others taken to own equally much.
 */
static Selectivity
crm_owners_selectivity(PlannerInfo *root, Node *owner, int varRelid, const CrmIdSet *owners)
{
	VariableStatData vardata;
	AttStatsSlot sslot;
	double selectivity = 0;
	double common = 0;
	double nullfrac = 0;
	double ndistinct;
	bool isdefault;
	int in_common = 0;
	int ncommon = 0;

	if (owners->n == 0)
		return 0;
	examine_variable(root, owner, varRelid, &vardata);
	ndistinct = get_variable_numdistinct(&vardata, &isdefault);
	if (HeapTupleIsValid(vardata.statsTuple))
	{
		nullfrac = ((Form_pg_statistic) GETSTRUCT(vardata.statsTuple))->stanullfrac;
		if (vardata.atttype == INT8OID &&
			get_attstatsslot(&sslot, vardata.statsTuple, STATISTIC_KIND_MCV, InvalidOid,
							 ATTSTATSSLOT_VALUES | ATTSTATSSLOT_NUMBERS))
		{
			ncommon = sslot.nvalues;
			for (int i = 0; i < sslot.nvalues; i++)
			{
				common += sslot.numbers[i];
				if (crm_id_set_contains(owners, DatumGetInt64(sslot.values[i])))
				{
					selectivity += sslot.numbers[i];
					in_common++;
				}
			}
			free_attstatsslot(&sslot);
		}
	}
	if (owners->n > in_common && ndistinct > ncommon)
		selectivity +=
			Max(0, 1 - common - nullfrac) * Min(1, (owners->n - in_common) / (ndistinct - ncommon));
	ReleaseVariableStats(vardata);
	CLAMP_PROBABILITY(selectivity);
	return selectivity;
}

static Selectivity
crm_records_selectivity(PlannerInfo *root, Node *id, int varRelid, const CrmIdSet *records)
{
	VariableStatData vardata;
	double selectivity = 0;

	if (records == NULL)
		return 0;
	examine_variable(root, id, varRelid, &vardata);
	if (vardata.rel != NULL && vardata.rel->tuples > 0)
		selectivity = records->n / vardata.rel->tuples;
	ReleaseVariableStats(vardata);
	CLAMP_PROBABILITY(selectivity);
	return selectivity;
}

/*
 * "column = ANY (crm._scope_owners(...))", unless the list is too long or
 * another condition on the table finds its rows anyway.
 */
static Node *
crm_index_condition(SupportRequestIndexCondition *request, const char *list_function,
					List *list_args, const CrmIdSet *ids)
{
	FuncExpr *call = (FuncExpr *) request->node;
	ScalarArrayOpExpr *condition;
	Oid operator;
	ListCell *lc;

	if (!request->index->amsearcharray || request->index->relam != BTREE_AM_OID ||
		(ids != NULL && ids->n > CRM_MAX_INDEX_IDS))
		return NULL;
	operator= get_opfamily_member(request->opfamily, INT8OID, INT8OID, BTEqualStrategyNumber);
	if (!OidIsValid(operator))
		return NULL;

	foreach (lc, request->index->rel->baserestrictinfo)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);

		if (rinfo->norm_selec >= 0 && !is_funcclause(rinfo->clause) &&
			rinfo->norm_selec * request->index->rel->tuples < CRM_FEW_ROWS &&
			!restriction_is_or_clause(rinfo))
			return NULL;
	}

	condition = makeNode(ScalarArrayOpExpr);
	condition->opno = operator;
	set_sa_opfuncid(condition);
	condition->useOr = true;
	condition->inputcollid = InvalidOid;
	condition->args = list_make2(copyObject(lfourth(call->args)),
								 crm_make_call(list_function, INT8ARRAYOID, list_args));
	condition->location = -1;
	request->lossy = false;
	return (Node *) list_make1(condition);
}

/* Of crm._owner_in_scope(workspace, level, unshared kind, owner_id). */
PG_FUNCTION_INFO_V1(crm_owner_support);
Datum
crm_owner_support(PG_FUNCTION_ARGS)
{
	Node *request = (Node *) PG_GETARG_POINTER(0);
	CrmLevel level;
	CrmScope *scope;

	if (IsA(request, SupportRequestSelectivity))
	{
		SupportRequestSelectivity *sel = (SupportRequestSelectivity *) request;

		scope = crm_args_scope(sel->args, &level);
		if (scope == NULL || list_length(sel->args) != 4)
			PG_RETURN_POINTER(NULL);
		sel->selectivity = crm_scope_all(scope, level)
							   ? 1
							   : crm_owners_selectivity(sel->root, lfourth(sel->args),
														sel->varRelid, &scope->owners[level]);
		PG_RETURN_POINTER(sel);
	}
	if (IsA(request, SupportRequestIndexCondition))
	{
		SupportRequestIndexCondition *index = (SupportRequestIndexCondition *) request;
		List *args;

		if (!is_funcclause(index->node) || index->indexarg != 3)
			PG_RETURN_POINTER(NULL);
		args = ((FuncExpr *) index->node)->args;
		scope = crm_args_scope(args, &level);
		if (scope == NULL || list_length(args) != 4 || crm_scope_all(scope, level))
			PG_RETURN_POINTER(NULL);
		PG_RETURN_POINTER(crm_index_condition(index, "_scope_owners", list_copy_head(args, 3),
											  &scope->owners[level]));
	}
	PG_RETURN_POINTER(NULL);
}

/* Of crm._record_in_scope(workspace, level, kind, id). */
PG_FUNCTION_INFO_V1(crm_record_support);
Datum
crm_record_support(PG_FUNCTION_ARGS)
{
	Node *request = (Node *) PG_GETARG_POINTER(0);
	CrmLevel level;
	CrmScope *scope;
	List *args;
	Node *kind;
	const CrmIdSet *records;

	if (IsA(request, SupportRequestSelectivity))
		args = ((SupportRequestSelectivity *) request)->args;
	else if (IsA(request, SupportRequestIndexCondition) &&
			 is_funcclause(((SupportRequestIndexCondition *) request)->node))
		args = ((FuncExpr *) ((SupportRequestIndexCondition *) request)->node)->args;
	else
		PG_RETURN_POINTER(NULL);

	scope = crm_args_scope(args, &level);
	if (scope == NULL || list_length(args) != 4)
		PG_RETURN_POINTER(NULL);
	kind = lthird(args);
	if (!IsA(kind, Const) || ((Const *) kind)->constisnull)
		PG_RETURN_POINTER(NULL);
	records = crm_scope_shared(scope, level, TextDatumGetCString(((Const *) kind)->constvalue));

	if (IsA(request, SupportRequestSelectivity))
	{
		SupportRequestSelectivity *sel = (SupportRequestSelectivity *) request;

		sel->selectivity =
			crm_scope_all(scope, level)
				? 1
				: crm_records_selectivity(sel->root, lfourth(args), sel->varRelid, records);
		PG_RETURN_POINTER(sel);
	}
	if (((SupportRequestIndexCondition *) request)->indexarg != 3 || crm_scope_all(scope, level))
		PG_RETURN_POINTER(NULL);
	PG_RETURN_POINTER(crm_index_condition((SupportRequestIndexCondition *) request,
										  "_scope_records", list_copy_head(args, 3), records));
}

/* Of crm._all_in_scope and crm._unowned_in_scope(workspace, level): true or false of every row. */
PG_FUNCTION_INFO_V1(crm_rowless_support);
Datum
crm_rowless_support(PG_FUNCTION_ARGS)
{
	Node *request = (Node *) PG_GETARG_POINTER(0);

	if (IsA(request, SupportRequestSelectivity))
	{
		SupportRequestSelectivity *sel = (SupportRequestSelectivity *) request;
		CrmLevel level;
		CrmScope *scope = crm_args_scope(sel->args, &level);

		if (scope == NULL)
			PG_RETURN_POINTER(NULL);
		sel->selectivity = crm_scope_all(scope, level) || scope->unowned[level] ? 1 : 0;
		PG_RETURN_POINTER(sel);
	}
	PG_RETURN_POINTER(NULL);
}
