/*
 * record.c
 *		crm.touch(): keeps updated_at and row_version of a record, and refuses an
 *		update made from a stale copy.
 *
 * A client that read row_version 3 and sends it back with its changes is refused
 * when the record has moved on, whatever it forgot in its WHERE clause.  A client
 * that counts for itself, as ORMs with optimistic locking do, sends the next
 * number.  A statement that does not mention row_version carries the current one.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "crm.h"

/* True if the two rows of one table are the same. */
static bool
crm_same_row(TupleDesc desc, HeapTuple a, HeapTuple b)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Datum da, db;
		bool na, nb;

		/* Stored generated columns are computed after this trigger. */
		if (att->attisdropped || att->attgenerated)
			continue;
		da = heap_getattr(a, att->attnum, desc, &na);
		db = heap_getattr(b, att->attnum, desc, &nb);
		if (na != nb)
			return false;
		if (!na && !datum_image_eq(da, db, att->attbyval, att->attlen))
			return false;
	}
	return true;
}

static int64
crm_version_value(Datum value, Oid type)
{
	return type == INT4OID ? DatumGetInt32(value) : DatumGetInt64(value);
}

static AttrNumber
crm_touch_column(Relation rel, const char *name, Oid type, Oid other_type)
{
	AttrNumber attnum = get_attnum(RelationGetRelid(rel), name);
	Oid found;

	if (attnum == InvalidAttrNumber)
		return attnum;
	found = TupleDescAttr(RelationGetDescr(rel), attnum - 1)->atttypid;
	if (found != type && found != other_type)
		ereport(
			ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("column \"%s\" of relation \"%s\" has a type that crm.touch() cannot maintain",
					name, RelationGetRelationName(rel)),
			 errhint("Use timestamp with time zone for updated_at and integer or bigint for "
					 "row_version.")));
	return attnum;
}

PG_FUNCTION_INFO_V1(crm_touch);
Datum
crm_touch(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Relation rel;
	TupleDesc desc;
	HeapTuple newtup, oldtup;
	AttrNumber updated_at, row_version;
	int columns[2];
	Datum values[2];
	bool nulls[2] = {false, false};
	int n = 0;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) || !TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("crm.touch() must be called as a trigger before update for each row")));

	rel = trigdata->tg_relation;
	desc = RelationGetDescr(rel);
	oldtup = trigdata->tg_trigtuple;
	newtup = trigdata->tg_newtuple;
	updated_at = crm_touch_column(rel, "updated_at", TIMESTAMPTZOID, TIMESTAMPTZOID);
	row_version = crm_touch_column(rel, "row_version", INT4OID, INT8OID);
	if (updated_at == InvalidAttrNumber && row_version == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("relation \"%s\" has neither column \"updated_at\" nor \"row_version\"",
						RelationGetRelationName(rel))));

	if (row_version != InvalidAttrNumber)
	{
		Oid type = TupleDescAttr(desc, row_version - 1)->atttypid;
		bool oldnull, newnull;
		Datum old = heap_getattr(oldtup, row_version, desc, &oldnull);
		Datum new = heap_getattr(newtup, row_version, desc, &newnull);
		int64 current = oldnull ? 0 : crm_version_value(old, type);
		int64 max = type == INT4OID ? PG_INT32_MAX : PG_INT64_MAX;
		int64 next = current == max ? 1 : current + 1;

		if (!newnull && crm_version_value(new, type) != current &&
			crm_version_value(new, type) != next)
			ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
							errmsg("record in \"%s\" was changed by someone else",
								   RelationGetRelationName(rel)),
							errdetail("The update was made from row_version " INT64_FORMAT
									  ", but the record is at " INT64_FORMAT ".",
									  crm_version_value(new, type), current),
							errhint("Read the record again and repeat the change."),
							errtablecol(rel, row_version)));
		columns[n] = row_version;
		values[n++] = type == INT4OID ? Int32GetDatum((int32) next) : Int64GetDatum(next);
	}

	/* An update that changes nothing leaves both as they were. */
	if (crm_same_row(desc, oldtup, newtup))
	{
		if (row_version == InvalidAttrNumber)
			return PointerGetDatum(newtup);
		values[0] = heap_getattr(oldtup, row_version, desc, &nulls[0]);
	}
	else if (updated_at != InvalidAttrNumber)
	{
		columns[n] = updated_at;
		values[n++] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	}
	return PointerGetDatum(heap_modify_tuple_by_cols(newtup, desc, n, columns, values, nulls));
}
