/*
 * event.c
 *		Old events are deleted by the worker, when it has nothing else to do.
 *
 * Which ones, the workspace says (function retain_events).  A step looks at some
 * hundred events, so that what becomes due meanwhile waits for milliseconds; an
 * hour after the last event was looked at, the next round begins with the first.
 * What is remembered between steps lives in "crm old events", and is forgotten
 * when the worker leaves.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "clock.h"
#include "reminder.h"
#include "scheduler.h"

/* In ticks. */
#define CRM_RETAIN_INTERVAL (60 * USECS_PER_MINUTE)
#define CRM_RETAIN_EVENTS	500

/* Where the round of a workspace stands. */
typedef struct CrmRetention
{
	Oid workspace; /* hash key */
	int64 after;   /* the last event looked at */
	int64 next_at; /* ticks */
} CrmRetention;

static HTAB *crm_retentions = NULL;
static int64 crm_retain_at = 0; /* nothing to do before, in ticks */

/* One step of a workspace; returns the number of events deleted. */
static int64
crm_retain_workspace(CrmRetention *r, int64 ticks)
{
	static Oid types[] = {INT8OID, INT4OID};
	CrmOwnerContext saved;
	char *schema = get_namespace_name(r->workspace);
	int64 deleted = 0;
	bool isnull;
	Datum next;
	int rc;

	/* Older workspaces have no such function. */
	r->next_at = ticks + CRM_RETAIN_INTERVAL;
	if (schema == NULL ||
		!OidIsValid(LookupFuncName(list_make2(makeString(schema), makeString("retain_events")),
								   lengthof(types), types, true)))
		return 0;
	crm_become_owner(&saved, r->workspace);
	rc = SPI_execute_with_args(
		psprintf("SELECT r.deleted, r.looked_at FROM %s.retain_events($1, $2) AS r",
				 quote_identifier(schema)),
		lengthof(types), types,
		(Datum[]){Int64GetDatum(r->after), Int32GetDatum(CRM_RETAIN_EVENTS)}, NULL, false, 1);
	if (rc != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "SPI_execute_with_args failed: %s", SPI_result_code_string(rc));
	deleted =
		DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	next = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	r->after = isnull ? 0 : DatumGetInt64(next);
	if (!isnull)
		r->next_at = 0;
	crm_become_oneself(&saved);
	return deleted;
}

/* One step of the first workspace whose turn it is. */
static int64
crm_retain_round(int64 ticks)
{
	List *workspaces = crm_reminder_workspaces();
	int64 next_at = ticks + CRM_RETAIN_INTERVAL;
	int64 deleted = 0;
	bool stepped = false;
	ListCell *lc;

	foreach (lc, workspaces)
	{
		Oid workspace = lfirst_oid(lc);
		CrmRetention *r;
		bool found;

		r = hash_search(crm_retentions, &workspace, HASH_ENTER, &found);
		if (!found)
			r->after = r->next_at = 0;
		if (r->next_at <= ticks && !stepped && crm_reminder_at_home(workspace))
		{
			deleted = crm_retain_workspace(r, ticks);
			stepped = true;
		}
		else if (r->next_at <= ticks && !stepped)
			r->next_at = ticks + CRM_RETAIN_INTERVAL;
		next_at = Min(next_at, r->next_at);
	}
	crm_retain_at = next_at;
	return deleted;
}

bool
crm_event_retain(CrmSlot *slot)
{
	MemoryContext context = CurrentMemoryContext;
	int64 ticks = crm_ticks();
	int64 deleted = 0;

	if (ticks < crm_retain_at)
		return false;
	if (crm_retentions == NULL)
	{
		HASHCTL ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(CrmRetention)};

		ctl.hcxt = AllocSetContextCreate(TopMemoryContext, "crm old events", ALLOCSET_SMALL_SIZES);
		crm_retentions =
			hash_create("crm old events", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		SPI_connect();
		deleted = crm_retain_round(ticks);
		SPI_finish();
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		/* The log tells; firing goes on, and the next round tries again. */
		HOLD_INTERRUPTS();
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
		crm_retain_at = ticks + CRM_RETAIN_INTERVAL;
		deleted = 0;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	if (deleted > 0)
	{
		LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
		slot->purged += deleted;
		LWLockRelease(&crm_scheduler->lock);
	}
	return true;
}
