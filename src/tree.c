/*
 * tree.c
 *		crm.refuse_cycle(): a row that refers to the row above it is never below
 *		itself, whoever writes at the same time.
 *
 * Two sessions that each move a row below the other's see no cycle in what is
 * committed.  So whoever moves a row takes a lock of the table's tree first, held to
 * the end of the transaction, and then looks at what is committed by now, not at what
 * its transaction saw when it began.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "crm.h"

/* A column of the new row, which holds an integer; its text, NULL for null. */
static char *
crm_tree_value(TriggerData *trigdata, HeapTuple row, const char *column)
{
	TupleDesc desc = RelationGetDescr(trigdata->tg_relation);
	int attnum = SPI_fnumber(desc, column);

	if (attnum <= 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("table \"%s\" has no column \"%s\"",
							   RelationGetRelationName(trigdata->tg_relation), column)));
	return SPI_getvalue(row, desc, attnum);
}

/* Does the way up from the row above lead to the row?  As the table's owner, who sees all of it. */
static bool
crm_tree_leads_back(Relation rel, const char *column, int64 id, int64 above)
{
	Oid types[2] = {INT8OID, INT8OID};
	Datum values[2] = {Int64GetDatum(id), Int64GetDatum(above)};
	char *table = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
											 RelationGetRelationName(rel));
	SPIPlanPtr plan;
	Oid user;
	int context;
	bool result;

	/* What this statement wrote is to be seen, too. */
	CommandCounterIncrement();
	SPI_connect();
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(rel->rd_rel->relowner, context | SECURITY_LOCAL_USERID_CHANGE |
													  SECURITY_RESTRICTED_OPERATION |
													  SECURITY_NOFORCE_RLS);
	plan =
		SPI_prepare(psprintf("WITH RECURSIVE above (id) AS (SELECT $2 UNION"
							 " SELECT t.%1$s::pg_catalog.int8 FROM above AS a JOIN %2$s AS t"
							 " ON t.id OPERATOR(pg_catalog.=) a.id WHERE t.%1$s IS NOT NULL)"
							 " SELECT FROM above AS a WHERE a.id OPERATOR(pg_catalog.=) $1 LIMIT 1",
							 quote_identifier(column), table),
					2, types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	if (SPI_execute_snapshot(plan, values, NULL, GetLatestSnapshot(), InvalidSnapshot, true, false,
							 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the tree of \"%s\"", RelationGetRelationName(rel));
	result = SPI_processed > 0;
	SetUserIdAndSecContext(user, context);
	SPI_finish();
	return result;
}

PG_FUNCTION_INFO_V1(crm_refuse_cycle);
Datum
crm_refuse_cycle(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	HeapTuple row;
	Relation rel;
	const char *column;
	char *id, *above;
	LOCKTAG tag;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) || TRIGGER_FIRED_BY_DELETE(trigdata->tg_event) ||
		trigdata->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("crm.refuse_cycle() must be called AFTER INSERT or UPDATE, FOR EACH ROW, "
						"with the name of a column")));
	rel = trigdata->tg_relation;
	row = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? trigdata->tg_newtuple
													  : trigdata->tg_trigtuple;
	column = trigdata->tg_trigger->tgargs[0];
	id = crm_tree_value(trigdata, row, "id");
	above = crm_tree_value(trigdata, row, column);
	if (id == NULL || above == NULL)
		return PointerGetDatum(NULL);

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, fcinfo->flinfo->fn_oid, RelationGetRelid(rel), 2);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	if (crm_tree_leads_back(rel, column, pg_strtoint64(id), pg_strtoint64(above)))
		ereport(ERROR, (errcode(ERRCODE_CHECK_VIOLATION),
						errmsg("row %s of \"%s\" cannot be below itself", id,
							   RelationGetRelationName(rel)),
						errdetail("Following %s from the new row leads back to it.", column),
						errtablecol(rel, SPI_fnumber(RelationGetDescr(rel), column))));
	return PointerGetDatum(NULL);
}
