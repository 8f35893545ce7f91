/*
 * tree.c
 *		crm.refuse_cycle(): a row that refers to the row above it is never below
 *		itself, whoever writes at the same time.
 *
 * Two sessions that each move a row below the other's see no cycle in what is
 * committed.  So whoever moves a row takes a lock of the table's tree first, held to
 * the end of the transaction, and then looks at what is committed by now, not at what
 * its transaction saw when it began.  Who inserts a row takes none, so that loads do
 * not wait for each other: the foreign key lets no other session refer to the row
 * before it is committed, so only its own transaction can make a cycle through it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "crm.h"

/* A column of the tree, which holds an integer. */
typedef struct CrmTreeColumn
{
	AttrNumber attnum;
	Oid type;
} CrmTreeColumn;

static CrmTreeColumn
crm_tree_column(Relation rel, const char *name)
{
	TupleDesc desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || strcmp(NameStr(att->attname), name) != 0)
			continue;
		if (att->atttypid != INT8OID && att->atttypid != INT4OID && att->atttypid != INT2OID)
			ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
							errmsg("column \"%s\" of table \"%s\" is no integer", name,
								   RelationGetRelationName(rel))));
		return (CrmTreeColumn){att->attnum, att->atttypid};
	}
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN), errmsg("table \"%s\" has no column \"%s\"",
															  RelationGetRelationName(rel), name)));
}

static bool
crm_tree_value(Relation rel, HeapTuple row, CrmTreeColumn column, int64 *value)
{
	bool isnull;
	Datum datum = heap_getattr(row, column.attnum, RelationGetDescr(rel), &isnull);

	if (isnull)
		return false;
	*value = column.type == INT8OID	  ? DatumGetInt64(datum)
			 : column.type == INT4OID ? DatumGetInt32(datum)
									  : DatumGetInt16(datum);
	return true;
}

/* The row above the one that *id names: false at the top.  Reads all of the table, whoever asks. */
static bool
crm_tree_step(Relation rel, Oid index, CrmTreeColumn key, CrmTreeColumn up, Snapshot snapshot,
			  int64 *id)
{
	ScanKeyData scankey;
	SysScanDesc scan;
	HeapTuple row;
	bool result;

	if (key.type == INT8OID)
		ScanKeyInit(&scankey, key.attnum, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(*id));
	else if (key.type == INT4OID)
		ScanKeyInit(&scankey, key.attnum, BTEqualStrategyNumber, F_INT4EQ,
					Int32GetDatum((int32) *id));
	else
		ScanKeyInit(&scankey, key.attnum, BTEqualStrategyNumber, F_INT2EQ,
					Int16GetDatum((int16) *id));
	scan = systable_beginscan(rel, index, OidIsValid(index), snapshot, 1, &scankey);
	row = systable_getnext(scan);
	result = HeapTupleIsValid(row) && crm_tree_value(rel, row, up, id);
	systable_endscan(scan);
	return result;
}

/*
 * Does the way up from the row above lead to the row?  A cycle further up, made while
 * the trigger was off, is not this row's fault: mark is a row passed before, set anew
 * after twice as many steps each time, at which such a way ends.
 */
static bool
crm_tree_leads_back(Relation rel, CrmTreeColumn key, CrmTreeColumn up, int64 id, int64 above)
{
	Oid index = CRM_PRIMARY_KEY_INDEX(rel);
	Bitmapset *columns = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	int member;
	Snapshot snapshot;
	int64 mark = above;
	uint64 steps = 0, limit = 1;

	if (!bms_get_singleton_member(columns, &member) ||
		member != key.attnum - FirstLowInvalidHeapAttributeNumber)
		index = InvalidOid;
	bms_free(columns);
	/* What this statement wrote is to be seen, too. */
	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	while (above != id && crm_tree_step(rel, index, key, up, snapshot, &above) && above != mark)
	{
		CHECK_FOR_INTERRUPTS();
		if (++steps == limit)
		{
			mark = above;
			steps = 0;
			limit *= 2;
		}
	}
	UnregisterSnapshot(snapshot);
	return above == id;
}

PG_FUNCTION_INFO_V1(crm_refuse_cycle);
Datum
crm_refuse_cycle(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	HeapTuple row;
	Relation rel;
	CrmTreeColumn key, up;
	int64 id, above;

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
	key = crm_tree_column(rel, "id");
	up = crm_tree_column(rel, trigdata->tg_trigger->tgargs[0]);
	if (!crm_tree_value(rel, row, key, &id) || !crm_tree_value(rel, row, up, &above))
		return PointerGetDatum(NULL);

	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
	{
		LOCKTAG tag;

		SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, fcinfo->flinfo->fn_oid, RelationGetRelid(rel), 2);
		(void) LockAcquire(&tag, ExclusiveLock, false, false);
	}
	if (crm_tree_leads_back(rel, key, up, id, above))
		ereport(ERROR, (errcode(ERRCODE_CHECK_VIOLATION),
						errmsg("row " INT64_FORMAT " of \"%s\" cannot be below itself", id,
							   RelationGetRelationName(rel)),
						errdetail("Following %s from the new row leads back to it.",
								  trigdata->tg_trigger->tgargs[0]),
						errtablecol(rel, up.attnum)));
	return PointerGetDatum(NULL);
}
