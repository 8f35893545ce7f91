/*
 * wake.c
 *		Telling the scheduler, at commit, that something is due earlier than it
 *		thinks.
 *
 * A trigger notes the least due time a transaction writes.  When the transaction
 * has committed and is visible, the note lowers the database's due_min, and if
 * the sleeper, a worker or the launcher on its behalf, would sleep longer than
 * that, its latch is set:
 *
 *		backend:  commit;  lower due_min;  barrier;  read sleep_until, maybe set latch
 *		sleeper:  reset latch;  sleep_until := infinity;  take due_min;  barrier;
 *				  look;  sleep_until := next;  barrier;  read due_min, maybe look again
 *
 * A commit either precedes the sleeper's snapshot, and is seen by looking, or
 * lowers due_min after it was taken; then one of the two reads the other's value,
 * because each writes before it reads.  So no wake-up is lost.  A superfluous one
 * is possible, after ROLLBACK TO SAVEPOINT for example, and does no harm.
 *
 * NOTIFY would serve too, but takes a lock of the whole cluster in the
 * application's commit.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "scheduler.h"

/* Least due time written by this transaction, and where to tell. */
static TimestampTz crm_xact_due = DT_NOEND;
static CrmSlot *crm_xact_slot = NULL;

void
crm_scheduler_hint(CrmSlot *slot, TimestampTz due)
{
	uint64 old = pg_atomic_read_u64(&slot->due_min);

	while (due < (int64) old)
	{
		if (pg_atomic_compare_exchange_u64(&slot->due_min, &old, (uint64) due))
			break;
	}
	pg_memory_barrier();
	if (due < (int64) pg_atomic_read_u64(&slot->sleep_until))
		crm_scheduler_wake(slot);
}

/* May run out of room for a slot; then it logs, for the reminder itself must be stored. */
void
crm_wake_at_commit(TimestampTz due)
{
	if (due >= crm_xact_due)
		return;
	if (crm_xact_slot == NULL || crm_xact_slot->database != MyDatabaseId)
	{
		if (!crm_scheduler_attach(LOG))
			return;
		crm_xact_slot = crm_scheduler_slot(MyDatabaseId, true);
		if (crm_xact_slot == NULL)
		{
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("more databases have reminders than the crm scheduler has room for"),
					 errhint("Preload crm and increase crm.max_databases.")));
			return;
		}
	}
	crm_xact_due = due;
}

void
crm_wake_prepared(void)
{
	CrmSlot *slot = crm_scheduler_slot(MyDatabaseId, false);

	if (slot != NULL && slot->prepared)
		crm_scheduler_hint(slot, DT_NOBEGIN);
}

static void
crm_wake_xact(XactEvent event, void *arg)
{
	TimestampTz due = crm_xact_due;

	if (due == DT_NOEND)
		return;
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			crm_xact_due = DT_NOEND;
			crm_scheduler_hint(crm_xact_slot, due);
			break;
		case XACT_EVENT_PREPARE:

			/*
			 * Whoever commits it may not have crm loaded and tells nobody, so the
			 * worker polls while this database has prepared transactions.
			 */
			crm_xact_due = DT_NOEND;
			crm_xact_slot->prepared = true;
			crm_scheduler_hint(crm_xact_slot, DT_NOBEGIN);
			break;
		case XACT_EVENT_ABORT:
			crm_xact_due = DT_NOEND;
			break;
		default:
			break;
	}
}

void
crm_wake_init(void)
{
	RegisterXactCallback(crm_wake_xact, NULL);
}

typedef struct CrmWakeColumns
{
	int due_at;
	int failed_at;
} CrmWakeColumns;

PG_FUNCTION_INFO_V1(crm_reminder_wake);
Datum
crm_reminder_wake(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	CrmWakeColumns *columns = fcinfo->flinfo->fn_extra;
	TupleDesc desc;
	HeapTuple tuple;
	Datum due;
	bool isnull, waiting;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) ||
		!TRIGGER_FIRED_BEFORE(trigdata->tg_event) || TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("crm.reminder_wake() must be a row trigger before insert or update")));
	desc = RelationGetDescr(trigdata->tg_relation);
	if (columns == NULL)
	{
		columns = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(CrmWakeColumns));
		columns->due_at = SPI_fnumber(desc, "due_at");
		columns->failed_at = SPI_fnumber(desc, "failed_at");
		if (columns->due_at <= 0 || columns->failed_at <= 0 ||
			SPI_gettypeid(desc, columns->due_at) != TIMESTAMPTZOID)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("table \"%s\" has no columns due_at and failed_at of type timestamp "
							"with time zone",
							RelationGetRelationName(trigdata->tg_relation)),
					 errhint("crm.reminder_wake() belongs on the table reminder of a workspace.")));
		fcinfo->flinfo->fn_extra = columns;
	}

	tuple = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? trigdata->tg_newtuple
														: trigdata->tg_trigtuple;
	due = heap_getattr(tuple, columns->due_at, desc, &isnull);
	if (!isnull)
	{
		(void) heap_getattr(tuple, columns->failed_at, desc, &waiting);
		if (waiting)
			crm_wake_at_commit(DatumGetTimestampTz(due));
	}
	return PointerGetDatum(tuple);
}
