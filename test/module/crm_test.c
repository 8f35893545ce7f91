/*
 * crm_test.c
 *		Test-only access to what crm keeps to itself, and a count of plans.
 */
#include "postgres.h"

#include "fmgr.h"
#include "optimizer/planner.h"

PG_MODULE_MAGIC;

void _PG_init(void);

static planner_hook_type previous_planner = NULL;
static int64 plans = 0;

static PlannedStmt *
count_plan(Query *query, const char *text, int options, ParamListInfo params)
{
	plans++;
	return previous_planner != NULL ? previous_planner(query, text, options, params)
									: standard_planner(query, text, options, params);
}

void
_PG_init(void)
{
	previous_planner = planner_hook;
	planner_hook = count_plan;
}

/* Statements planned in this session since the module was loaded. */
PG_FUNCTION_INFO_V1(crm_test_plans);
Datum
crm_test_plans(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(plans);
}
