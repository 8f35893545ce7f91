/*
 * reminder_home.c
 *		Whether a workspace is in the database where its reminders are to fire.
 *
 * A copy of a workspace, on a test machine say, must not remind real customers.
 * So each workspace keeps where it is at home, and fires nowhere else until it is
 * adopted.  A restored dump and a database made from a template are elsewhere; a
 * restart, a promoted standby and pg_upgrade are not:
 *
 *		database		OID, which changes with CREATE DATABASE, and pg_upgrade keeps
 *		cluster			system identifier, which pg_upgrade changes
 *		table, xmin		OID of the table and transaction that wrote its row: pg_upgrade
 *						keeps both, a restored row has others
 *
 * A copy of the cluster's files cannot be told from the cluster.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "crm.h"
#include "reminder.h"
#include "scheduler.h"
#include "workspace.h"

static int64
crm_home_value(TupleTableSlot *slot, const char *name)
{
	TupleDesc desc = slot->tts_tupleDescriptor;
	int att = SPI_fnumber(desc, name);
	bool isnull = true;
	Datum value = 0;

	if (att > 0 && SPI_gettypeid(desc, att) == INT8OID)
		value = slot_getattr(slot, att, &isnull);
	return isnull ? -1 : DatumGetInt64(value);
}

bool
crm_reminder_at_home(Oid workspace)
{
	Oid relid = crm_workspace_table(workspace, "reminder_home", true);
	Relation rel;
	TableScanDesc scan;
	TupleTableSlot *slot;
	bool home = false;

	if (!OidIsValid(relid))
		return false;
	rel = table_open(relid, AccessShareLock);
	if (rel->rd_rel->relkind == RELKIND_RELATION)
	{
		slot = table_slot_create(rel, NULL);
		scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
		while (!home && table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			bool isnull;
			TransactionId xmin = DatumGetTransactionId(
				slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull));

			CHECK_FOR_INTERRUPTS();
			home = crm_home_value(slot, "database_id") == MyDatabaseId &&
				   (crm_home_value(slot, "system_id") == (int64) GetSystemIdentifier() ||
					(crm_home_value(slot, "table_id") == relid &&
					 crm_home_value(slot, "written_xid") == xmin));
		}
		table_endscan(scan);
		ExecDropSingleTupleTableSlot(slot);
	}
	table_close(rel, AccessShareLock);
	return home;
}

PG_FUNCTION_INFO_V1(crm_reminder_at_home_sql);
Datum
crm_reminder_at_home_sql(PG_FUNCTION_ARGS)
{
	crm_check_workspace(PG_GETARG_OID(0));
	PG_RETURN_BOOL(crm_reminder_at_home(PG_GETARG_OID(0)));
}

/* What a row of this database's reminder_home says, if this transaction writes it. */
PG_FUNCTION_INFO_V1(crm_reminder_home);
Datum
crm_reminder_home(PG_FUNCTION_ARGS)
{
	Relation rel = crm_table_open(PG_GETARG_OID(0), AccessShareLock);
	TupleDesc desc;
	Datum values[4];
	bool nulls[4] = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int64GetDatum(MyDatabaseId);
	values[1] = Int64GetDatum((int64) GetSystemIdentifier());
	values[2] = Int64GetDatum(RelationGetRelid(rel));
	values[3] = Int64GetDatum(GetCurrentTransactionId());
	/* Workers look again, and are started if there is none. */
	CacheInvalidateRelcache(rel);
	table_close(rel, NoLock);
	crm_wake_at_commit(DT_NOBEGIN);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
