/*
 * reminder_plain.c
 *		Firing plain reminders without the executor.
 *
 * Nearly all reminders are plain: they fire once and their event says what they
 * said.  Those that are not have something in a column of crm_special_columns:
 * they recur, or what their event says is found out when they fire.  The two are
 * fired by different means in one transaction:
 *
 *		plain	here: one walk along the index on (due_at, id) from the low-water
 *				mark, deleting without waiting, and events inserted by the
 *				hundred; about a third of the time that the statement takes
 *		special	by a statement (reminder.c), which is given their addresses
 *
 * In a batch, the events of plain reminders come before those of special ones.
 *
 * If somebody gave the tables triggers, rules, policies, partitions or columns
 * with computed defaults, or changed that index, all reminders are fired by
 * statement.
 *
 * A reminder that another transaction has locked or changed since the snapshot
 * was taken is left, and the low-water mark stays there.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/nbtree.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "plain_table.h"
#include "reminder.h"
#include "workspace.h"

/* A reminder with a value in one of these is special.  A workspace need not have them all. */
static const char *const crm_special_columns[] = {"recurrence", "escalation_id"};

/* Events are inserted when so many are formed. */
#define CRM_EVENT_BUFFER 500

enum
{
	EVENT_REMINDER_ID,
	EVENT_MEMBER_ID,
	EVENT_DUE_AT,
	EVENT_FIRED_AT,
	EVENT_TITLE,
	EVENT_KIND,
	EVENT_RECORD_ID,
	EVENT_PAYLOAD,
	EVENT_NFIELDS
};

static const CrmPlainField crm_event_fields[EVENT_NFIELDS] = {
	[EVENT_REMINDER_ID] = {"reminder_id", INT8OID},
	[EVENT_MEMBER_ID] = {"member_id", INT8OID},
	[EVENT_DUE_AT] = {"due_at", TIMESTAMPTZOID},
	[EVENT_FIRED_AT] = {"fired_at", TIMESTAMPTZOID},
	[EVENT_TITLE] = {"title", TEXTOID},
	[EVENT_KIND] = {"kind", TEXTOID},
	[EVENT_RECORD_ID] = {"record_id", INT8OID},
	[EVENT_PAYLOAD] = {"payload", JSONBOID},
};

/* Reminders fired here by this backend; for tests. */
static int64 crm_reminders_plain = 0;

/* Everything that one batch needs; all of it lives in "context". */
typedef struct CrmPlainFiring
{
	MemoryContext context;
	Relation reminder;
	Relation index; /* on (due_at, id) */
	Relation event;
	AttrNumber source[EVENT_NFIELDS]; /* column of the reminder, 0 for fired_at */
	AttrNumber failed_at;
	AttrNumber special[lengthof(crm_special_columns)]; /* 0: no such column */
	int fields[EVENT_NFIELDS];						   /* positions in the event */
	CrmPlainRow row;
	EState *estate;
	ResultRelInfo *result_rel;
	CommandId cid;
	TupleTableSlot *slots[CRM_EVENT_BUFFER];
	int nslots; /* formed, of nmade */
	int nmade;
} CrmPlainFiring;

/* True if the index is a plain one on (due_at, id) of all reminders that may fire. */
static bool
crm_is_due_index(const CrmPlainFiring *f, Relation index)
{
	Form_pg_index form = index->rd_index;
	List *predicate;

	if (index->rd_rel->relam != BTREE_AM_OID || !form->indisvalid || form->indnkeyatts != 2 ||
		form->indkey.values[0] != f->source[EVENT_DUE_AT] ||
		form->indkey.values[1] != f->source[EVENT_REMINDER_ID] || index->rd_indoption[0] != 0 ||
		index->rd_indoption[1] != 0 || index->rd_opcintype[0] != TIMESTAMPTZOID ||
		index->rd_opcintype[1] != INT8OID)
		return false;
	predicate = RelationGetIndexPredicate(index);
	if (list_length(predicate) == 1 && IsA(linitial(predicate), NullTest))
	{
		NullTest *test = linitial(predicate);

		return test->nulltesttype == IS_NULL && IsA(test->arg, Var) &&
			   ((Var *) test->arg)->varattno == f->failed_at;
	}
	return predicate == NIL;
}

/* Finds the columns; false if the table is not as crm made it. */
static bool
crm_map_reminder(CrmPlainFiring *f)
{
	TupleDesc desc = RelationGetDescr(f->reminder);

	for (int i = 0; i < EVENT_NFIELDS; i++)
	{
		const char *name = i == EVENT_REMINDER_ID ? "id" : crm_event_fields[i].name;
		int att;

		f->source[i] = 0;
		if (i == EVENT_FIRED_AT)
			continue;
		att = SPI_fnumber(desc, name);
		if (att <= 0 || SPI_gettypeid(desc, att) != crm_event_fields[i].type)
			return false;
		f->source[i] = att;
	}
	f->failed_at = SPI_fnumber(desc, "failed_at");
	for (int i = 0; i < lengthof(crm_special_columns); i++)
		f->special[i] = Max(SPI_fnumber(desc, crm_special_columns[i]), 0);
	return f->failed_at > 0;
}

static void
crm_plain_close(CrmPlainFiring *f)
{
	for (int i = 0; i < f->nmade; i++)
		ExecDropSingleTupleTableSlot(f->slots[i]);
	if (f->result_rel != NULL)
		ExecCloseIndices(f->result_rel);
	if (f->estate != NULL)
		FreeExecutorState(f->estate);
	if (f->index != NULL)
		index_close(f->index, NoLock);
	if (f->event != NULL)
		table_close(f->event, NoLock);
	table_close(f->reminder, NoLock);
	MemoryContextDelete(f->context);
}

/* NULL if the tables or their indexes are not as crm made them. */
static CrmPlainFiring *
crm_plain_open(Oid workspace)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "crm plain reminders", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CrmPlainFiring *f = palloc0(sizeof(CrmPlainFiring));
	Oid index = crm_workspace_table(workspace, "reminder_due", true);
	bool plain;

	f->context = context;
	f->reminder = table_open(crm_workspace_table(workspace, "reminder", false), RowExclusiveLock);
	f->event = table_open(crm_workspace_table(workspace, "event", false), RowExclusiveLock);
	plain = f->reminder->rd_rel->relowner == GetUserId() &&
			f->event->rd_rel->relowner == GetUserId() &&
			crm_is_plain_table(f->reminder, CMD_DELETE) &&
			crm_is_plain_table(f->event, CMD_INSERT) && crm_map_reminder(f) &&
			crm_plain_row(&f->row, f->event, crm_event_fields, EVENT_NFIELDS, f->fields) &&
			f->row.identity >= 0 && list_member_oid(RelationGetIndexList(f->reminder), index);
	if (plain)
	{
		f->index = index_open(index, RowExclusiveLock);
		plain = crm_is_due_index(f, f->index);
	}
	if (plain)
	{
		CheckCmdReplicaIdentity(f->reminder, CMD_DELETE);
		f->estate = CreateExecutorState();
		f->result_rel = makeNode(ResultRelInfo);
		InitResultRelInfo(f->result_rel, f->event, 0, NULL, 0);
		ExecOpenIndices(f->result_rel, false);
		for (int i = 0; i < f->result_rel->ri_NumIndices; i++)
			plain &= f->result_rel->ri_IndexRelationInfo[i]->ii_ExclusionOps == NULL &&
					 f->result_rel->ri_IndexRelationDescs[i]->rd_index->indimmediate;
	}
	MemoryContextSwitchTo(old);
	if (plain)
		return f;
	crm_plain_close(f);
	return NULL;
}

static void
crm_plain_flush(CrmPlainFiring *f)
{
	MemoryContext old = MemoryContextSwitchTo(GetPerTupleMemoryContext(f->estate));

	table_multi_insert(f->event, f->slots, f->nslots, f->cid, 0, NULL);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < f->nslots; i++)
	{
		list_free(CRM_EXEC_INSERT_INDEX_TUPLES(f->result_rel, f->slots[i], f->estate));
		ResetPerTupleExprContext(f->estate);
		ExecClearTuple(f->slots[i]);
	}
	f->nslots = 0;
}

/* The event of a reminder that was just deleted. */
static int64
crm_plain_event(CrmPlainFiring *f, TupleTableSlot *reminder, TimestampTz now)
{
	TupleTableSlot *slot;
	int64 id = nextval_internal(f->row.sequence, false);

	if (f->nslots == f->nmade)
	{
		MemoryContext old = MemoryContextSwitchTo(f->context);

		f->slots[f->nmade++] = table_slot_create(f->event, NULL);
		MemoryContextSwitchTo(old);
	}
	slot = f->slots[f->nslots++];
	memcpy(slot->tts_values, f->row.values, sizeof(Datum) * f->row.natts);
	memcpy(slot->tts_isnull, f->row.nulls, sizeof(bool) * f->row.natts);
	slot->tts_values[f->row.identity] = Int64GetDatum(id);
	for (int i = 0; i < EVENT_NFIELDS; i++)
	{
		int position = f->fields[i];

		if (f->source[i] == 0)
		{
			slot->tts_values[position] = TimestampTzGetDatum(now);
			slot->tts_isnull[position] = false;
		}
		else
			slot->tts_values[position] =
				slot_getattr(reminder, f->source[i], &slot->tts_isnull[position]);
	}
	ExecStoreVirtualTuple(slot);
	if (RelationGetDescr(f->event)->constr != NULL)
	{
		ExecConstraints(f->result_rel, slot, f->estate);
		ResetPerTupleExprContext(f->estate);
	}
	/* The values still lie in a page of the reminders. */
	ExecMaterializeSlot(slot);
	slot->tts_tableOid = RelationGetRelid(f->event);
	if (f->nslots == CRM_EVENT_BUFFER)
		crm_plain_flush(f);
	return id;
}

static bool
crm_is_special(const CrmPlainFiring *f, TupleTableSlot *slot)
{
	for (int i = 0; i < lengthof(crm_special_columns); i++)
	{
		if (f->special[i] != 0 && !slot_attisnull(slot, f->special[i]))
			return true;
	}
	return false;
}

/* A scan from the low-water mark: row comparison, so that it may lie within one due time. */
static IndexScanDesc
crm_plain_scan(CrmPlainFiring *f, const CrmPending *pending, Snapshot snapshot)
{
	ScanKey keys = MemoryContextAllocZero(f->context, 3 * sizeof(ScanKeyData));
	IndexScanDesc scan;

	ScanKeyEntryInitialize(&keys[1], SK_ROW_MEMBER, 1, BTGreaterEqualStrategyNumber, TIMESTAMPTZOID,
						   InvalidOid, F_TIMESTAMPTZ_CMP, TimestampTzGetDatum(pending->low));
	ScanKeyEntryInitialize(&keys[2], SK_ROW_MEMBER | SK_ROW_END, 2, BTGreaterEqualStrategyNumber,
						   INT8OID, InvalidOid, F_BTINT8CMP, Int64GetDatum(pending->low_id));
	keys[0].sk_flags = SK_ROW_HEADER;
	keys[0].sk_attno = 1;
	keys[0].sk_strategy = BTGreaterEqualStrategyNumber;
	keys[0].sk_argument = PointerGetDatum(&keys[1]);
	scan = CRM_INDEX_BEGINSCAN(f->reminder, f->index, snapshot, 1);
	index_rescan(scan, keys, 1, NULL, 0);
	return scan;
}

static void
crm_plain_walk(CrmPlainFiring *f, CrmPending *pending, TimestampTz now, int64 limit,
			   CrmFired *fired, CrmSpecial *special)
{
	TimestampTz upto = Min(now, pending->until);
	Snapshot snapshot = RegisterSnapshot(GetTransactionSnapshot());
	IndexScanDesc scan = crm_plain_scan(f, pending, snapshot);
	TupleTableSlot *slot = table_slot_create(f->reminder, NULL);
	bool left = false;
	int64 taken = 0;

	pending->next = DT_NOEND;
	pending->next_id = 0;
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		TM_FailureData failure;
		TM_Result result;
		bool isnull;
		TimestampTz due;
		int64 id;

		CHECK_FOR_INTERRUPTS();
		if (!slot_attisnull(slot, f->failed_at))
			continue;
		due = DatumGetTimestampTz(slot_getattr(slot, f->source[EVENT_DUE_AT], &isnull));
		id = DatumGetInt64(slot_getattr(slot, f->source[EVENT_REMINDER_ID], &isnull));
		if (due > upto || taken == limit)
		{
			if (!left)
			{
				pending->next = due;
				pending->next_id = id;
			}
			break;
		}
		if (crm_is_special(f, slot))
		{
			crm_special_add(special, &slot->tts_tid, due, id);
			taken++;
			continue;
		}
		result = table_tuple_delete(f->reminder, &slot->tts_tid, f->cid, snapshot, InvalidSnapshot,
									false, &failure, false);
		if (result == TM_Ok)
		{
			int64 event = crm_plain_event(f, slot, now);

			fired->bare &= slot_attisnull(slot, f->source[EVENT_PAYLOAD]);

			if (fired->count == 0)
				fired->first = event;
			fired->last = event;
			crm_fired_count(fired, due, now);
			taken++;
		}
		else if (result != TM_Deleted && !left)
		{
			left = true;
			pending->next = due;
			pending->next_id = id;
		}
	}
	if (f->nslots > 0)
		crm_plain_flush(f);
	if (pending->next != DT_NOEND)
	{
		pending->low = pending->next;
		pending->low_id = pending->next_id;
	}
	ExecDropSingleTupleTableSlot(slot);
	index_endscan(scan);
	UnregisterSnapshot(snapshot);
}

bool
crm_reminder_fire_plain(CrmPending *pending, TimestampTz now, int64 limit, CrmFired *fired,
						CrmSpecial *special)
{
	CrmPlainFiring *f = crm_plain_open(pending->workspace);
	MemoryContext old;

	if (f == NULL)
		return false;
	fired->step = CRM_FIRING;
	fired->bare = true;
	f->cid = GetCurrentCommandId(true);
	old = MemoryContextSwitchTo(f->context);
	crm_plain_walk(f, pending, now, limit, fired, special);
	MemoryContextSwitchTo(old);
	crm_plain_close(f);
	CommandCounterIncrement();
	crm_reminders_plain += fired->count;
	return true;
}

PG_FUNCTION_INFO_V1(crm_reminders_plain_count);
Datum
crm_reminders_plain_count(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(crm_reminders_plain);
}
