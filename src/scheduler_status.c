/*
 * scheduler_status.c
 *		The scheduler as people see it: crm.scheduler_status().
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "reminder.h"
#include "scheduler.h"

/* In the order of the function's columns. */
enum
{
	STATUS_COL_DATABASE,
	STATUS_COL_STATE,
	STATUS_COL_REASON,
	STATUS_COL_PID,
	STATUS_COL_NEXT_DUE,
	STATUS_COL_BACKLOG,
	STATUS_COL_OLDEST_DUE,
	STATUS_COL_SET_ASIDE,
	STATUS_COL_FIRED,
	STATUS_COL_BATCHES,
	STATUS_COL_WAKEUPS,
	STATUS_COL_P50,
	STATUS_COL_P95,
	STATUS_COL_P99,
	STATUS_COL_MAX_LATENESS,
	STATUS_COL_LATENESS,
	STATUS_COL_ERRORS,
	STATUS_COL_ERROR_AT,
	STATUS_COL_ERROR,
	STATUS_COL_MODE,
	STATUS_COL_LAUNCHER_PID,
	STATUS_COL_PURGED,
	STATUS_COL_NCOLUMNS
};

typedef struct CrmStatusRow
{
	Datum values[STATUS_COL_NCOLUMNS];
	bool nulls[STATUS_COL_NCOLUMNS];
} CrmStatusRow;

static void
crm_set(CrmStatusRow *row, int column, Datum value)
{
	row->values[column] = value;
	row->nulls[column] = false;
}

static void
crm_set_text(CrmStatusRow *row, int column, const char *value)
{
	if (value != NULL)
		crm_set(row, column, CStringGetTextDatum(value));
}

static void
crm_set_interval(CrmStatusRow *row, int column, int64 microseconds)
{
	Interval *interval = palloc0(sizeof(Interval));

	interval->time = microseconds;
	crm_set(row, column, IntervalPGetDatum(interval));
}

/* The lateness that this part of the events did not exceed, as far as the histogram tells. */
static void
crm_set_percentile(CrmStatusRow *row, int column, const CrmSlot *slot, double part)
{
	int64 total = 0;
	int64 sum = 0;

	for (int i = 0; i < CRM_LATENESS_BUCKETS; i++)
		total += slot->lateness[i];
	if (total == 0)
		return;
	for (int i = 0; i < CRM_LATENESS_BUCKETS; i++)
	{
		int64 bound = i < CRM_LATENESS_BUCKETS - 1 ? (INT64CONST(1000) << i) : PG_INT64_MAX;

		sum += slot->lateness[i];
		if (sum >= part * total)
		{
			crm_set_interval(row, column, Min(bound, Max(slot->max_lateness, 1000)));
			return;
		}
	}
}

static Datum
crm_int8_array(const int64 *values, int n)
{
	Datum *elems = palloc(n * sizeof(Datum));

	for (int i = 0; i < n; i++)
		elems[i] = Int64GetDatum(values[i]);
	return PointerGetDatum(
		construct_array(elems, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* The state, and in what it is waiting for, or NULL, why. */
static const char *
crm_slot_state(const CrmSlot *slot, bool launcher, char **reason)
{
	int64 wait;

	*reason = NULL;
	if (RecoveryInProgress())
	{
		*reason = "the server is a standby: it fires once promoted";
		return "off";
	}
	if (!crm_scheduler_enabled)
	{
		*reason = "crm.scheduler is off";
		return "off";
	}
	if (!launcher)
	{
		*reason = crm_scheduler->preloaded ? "the launcher is not running; the server log says why"
										   : "nobody has called crm.scheduler_start() yet";
		return "off";
	}
	if (slot->stopper != 0)
	{
		*reason = psprintf("process %d needs the database without connections", slot->stopper);
		return "stopping";
	}
	if (crm_scheduler->clock.held_since != 0)
	{
		*reason = psprintf("the clock was set forward by " INT64_FORMAT
						   " minutes; see crm.scheduler_accept_clock()",
						   crm_scheduler->clock.held_step / USECS_PER_MINUTE);
		return "held";
	}
	if (slot->quarantined > 0)
		*reason = psprintf("%d workspaces are in quarantine; see crm.scheduler_adopt()",
						   slot->quarantined);
	else if (slot->failing > 0)
		*reason = psprintf("%d workspaces fail and are tried again within a minute; see error",
						   slot->failing);
	if (slot->pid != 0)
		return "running";
	wait = slot->retry_at - crm_ticks();
	if (wait > 0)
	{
		*reason =
			psprintf("the last worker ended in an error; the next one starts in " INT64_FORMAT " s",
					 (wait + USECS_PER_SEC - 1) / USECS_PER_SEC);
		return "backing off";
	}
	if (slot->starting)
		return "starting";
	if (slot->waiting)
	{
		*reason = "no place for a worker is free; see crm.max_workers and max_worker_processes";
		return "waiting";
	}
	return slot->quarantined > 0 ? "quarantined" : "idle";
}

/* What only a look into the tables tells; for the current database. */
static void
crm_set_counts(CrmStatusRow *row)
{
	CrmReminderCounts counts = {.oldest = DT_NOEND};
	ListCell *lc;
	List *workspaces;

	SPI_connect();
	workspaces = crm_reminder_workspaces();
	foreach (lc, workspaces)
		crm_reminder_count(lfirst_oid(lc), crm_now(), &counts);
	SPI_finish();
	crm_set(row, STATUS_COL_BACKLOG, Int64GetDatum(counts.due));
	crm_set(row, STATUS_COL_SET_ASIDE, Int64GetDatum(counts.set_aside));
	if (counts.oldest != DT_NOEND)
		crm_set(row, STATUS_COL_OLDEST_DUE, TimestampTzGetDatum(counts.oldest));
}

static void
crm_fill_status(CrmStatusRow *row, const CrmSlot *slot, const char *name, int launcher)
{
	NameData *database = palloc0(sizeof(NameData));
	char *reason;

	memset(row->nulls, true, sizeof(row->nulls));
	namestrcpy(database, name);
	crm_set(row, STATUS_COL_DATABASE, NameGetDatum(database));
	crm_set_text(row, STATUS_COL_STATE, crm_slot_state(slot, launcher != 0, &reason));
	crm_set_text(row, STATUS_COL_REASON, reason);
	if (slot->pid != 0)
		crm_set(row, STATUS_COL_PID, Int32GetDatum(slot->pid));
	if (!TIMESTAMP_NOT_FINITE(slot->next_due))
		crm_set(row, STATUS_COL_NEXT_DUE, TimestampTzGetDatum(slot->next_due));
	if (slot->database == MyDatabaseId)
		crm_set_counts(row);
	crm_set(row, STATUS_COL_FIRED, Int64GetDatum(slot->fired));
	crm_set(row, STATUS_COL_BATCHES, Int64GetDatum(slot->batches));
	crm_set(row, STATUS_COL_WAKEUPS, Int64GetDatum(slot->wakeups));
	crm_set(row, STATUS_COL_PURGED, Int64GetDatum(slot->purged));
	crm_set_percentile(row, STATUS_COL_P50, slot, 0.5);
	crm_set_percentile(row, STATUS_COL_P95, slot, 0.95);
	crm_set_percentile(row, STATUS_COL_P99, slot, 0.99);
	crm_set_interval(row, STATUS_COL_MAX_LATENESS, slot->max_lateness);
	crm_set(row, STATUS_COL_LATENESS, crm_int8_array(slot->lateness, CRM_LATENESS_BUCKETS));
	crm_set(row, STATUS_COL_ERRORS, Int64GetDatum(slot->errors));
	if (slot->error_at != 0)
		crm_set(row, STATUS_COL_ERROR_AT, TimestampTzGetDatum(slot->error_at));
	if (slot->error[0] != '\0')
		crm_set_text(row, STATUS_COL_ERROR, slot->error);
	crm_set_text(row, STATUS_COL_MODE, crm_scheduler->preloaded ? "preloaded" : "dynamic");
	if (launcher != 0)
		crm_set(row, STATUS_COL_LAUNCHER_PID, Int32GetDatum(launcher));
}

PG_FUNCTION_INFO_V1(crm_scheduler_status);
Datum
crm_scheduler_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool all = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
	int launcher;

	InitMaterializedSRF(fcinfo, 0);
	crm_scheduler_attach(ERROR);
	launcher = crm_scheduler->launcher_pid;
	if (launcher != 0 && BackendPidGetProc(launcher) == NULL)
		launcher = 0;

	for (int i = 0; i < crm_scheduler->nslots; i++)
	{
		CrmSlot slot;
		CrmStatusRow row;
		char *name;

		CHECK_FOR_INTERRUPTS();
		LWLockAcquire(&crm_scheduler->lock, LW_SHARED);
		memcpy(&slot, &crm_scheduler->slots[i], sizeof(slot));
		LWLockRelease(&crm_scheduler->lock);
		if (slot.database == InvalidOid || (!all && slot.database != MyDatabaseId))
			continue;
		name = get_database_name(slot.database);
		if (name == NULL)
			continue;
		crm_fill_status(&row, &slot, name, launcher);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row.values, row.nulls);
	}
	return (Datum) 0;
}
