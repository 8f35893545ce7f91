/*
 * worker.c
 *		One process for a database that has reminders due soon: fires them when
 *		they are due, and leaves when there is nothing to do for a while.
 *
 * A worker holds no transaction, snapshot or lock while it waits.  Its memory:
 * what it knows of the workspaces lives in "crm worker"; everything else in
 * contexts of the transactions, and dies with them.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/pg_namespace.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "invalidation.h"
#include "reminder.h"
#include "scheduler.h"

/* Everything is looked at this often, whatever the hints said. */
#define CRM_RESCAN_INTERVAL (60 * USECS_PER_SEC)
/* While there are prepared transactions, which may be committed without a word. */
#define CRM_PREPARED_INTERVAL USECS_PER_SEC
/* Whether somebody wants the database without connections, if no hook tells. */
#define CRM_GUARD_INTERVAL USECS_PER_SEC
/* Reminders locked by another transaction, and workspaces that another one fires. */
#define CRM_MIN_RETRY (50 * INT64CONST(1000))
#define CRM_MAX_RETRY USECS_PER_SEC
/* Workspaces whose reminders cannot be fired. */
#define CRM_MIN_BACKOFF USECS_PER_SEC
#define CRM_MAX_BACKOFF (60 * USECS_PER_SEC)
/* So many reminders failing one after the other are not each to blame. */
#define CRM_MAX_SET_ASIDE 10

/* One workspace.  Times are those of the wall clock, except pending's. */
typedef struct CrmWork
{
	CrmPending pending;
	int64 batch;		  /* reminders to fire at once; lowered to find the one that fails */
	TimestampTz retry_at; /* do nothing before */
	int64 retry_delay;
	int failures;  /* errors in a row that are not one reminder's fault */
	int set_aside; /* reminders set aside since one was fired */
	bool exists;   /* seen when the list was last read */
} CrmWork;

static CrmSlot *crm_slot = NULL;
static MemoryContext crm_worker_context = NULL;
static List *crm_works = NIL;
static bool crm_works_valid = false;
static TimestampTz crm_exit_due = DT_NOBEGIN;
static bool crm_exit_clean = false;

static void
crm_worker_relcache_callback(Datum arg, Oid relid)
{
	crm_works_valid = false;
}

static void
crm_worker_syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	crm_works_valid = false;
}

/*
 * Hands the database back to the launcher.  The order matters: see wake.c, of
 * whose protocol this is the sleeper's part.
 */
static void
crm_worker_exit(int code, Datum arg)
{
	LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
	if (crm_slot->pid == MyProcPid)
	{
		crm_slot->clean = crm_exit_clean;
		(void) pg_atomic_exchange_u64(&crm_slot->sleep_until, (uint64) crm_exit_due);
		crm_slot->pid = 0;
		crm_slot->latch = NULL;
	}
	LWLockRelease(&crm_scheduler->lock);
	pg_memory_barrier();
	crm_scheduler_wake(NULL);
}

/* Leaves for now; somebody is needed here again at "due". */
static void
crm_worker_leave(TimestampTz due)
{
	crm_exit_due = due;
	crm_exit_clean = true;
	proc_exit(0);
}

/* False if the database has a worker already, or is wanted without one. */
static bool
crm_worker_claim(CrmSlot *slot)
{
	bool ok;

	LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
	ok = slot->database == MyDatabaseId && slot->stopper == 0 &&
		 (slot->pid == 0 || BackendPidGetProc(slot->pid) == NULL);
	if (ok)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
	}
	else if (slot->database == MyDatabaseId)
		slot->clean = true;
	LWLockRelease(&crm_scheduler->lock);
	if (ok)
	{
		crm_slot = slot;
		before_shmem_exit(crm_worker_exit, (Datum) 0);
	}
	return ok;
}

static void
crm_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
}

static void
crm_commit(void)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Reads the list of workspaces anew, keeping what is known of those that stay. */
static void
crm_refresh_works(void)
{
	List *oids;
	ListCell *lc, *lw;

	crm_works_valid = true; /* before reading: what changes meanwhile makes it invalid again */
	foreach (lw, crm_works)
		((CrmWork *) lfirst(lw))->exists = false;

	crm_begin();
	oids = crm_reminder_workspaces();
	foreach (lc, oids)
	{
		CrmWork *work = NULL;

		foreach (lw, crm_works)
		{
			if (((CrmWork *) lfirst(lw))->pending.workspace == lfirst_oid(lc))
				work = lfirst(lw);
		}
		if (work == NULL)
		{
			MemoryContext old = MemoryContextSwitchTo(crm_worker_context);

			work = palloc0(sizeof(CrmWork));
			work->pending.workspace = lfirst_oid(lc);
			work->pending.low = DT_NOBEGIN;
			work->pending.low_id = PG_INT64_MIN;
			work->pending.next = DT_NOBEGIN;
			work->batch = crm_batch_size;
			work->retry_at = DT_NOBEGIN;
			crm_works = lappend(crm_works, work);
			MemoryContextSwitchTo(old);
		}
		work->exists = true;
	}
	crm_commit();

	foreach (lw, crm_works)
	{
		CrmWork *work = lfirst(lw);

		if (!work->exists)
		{
			crm_works = foreach_delete_current(crm_works, lw);
			pfree(work);
		}
	}
}

/* Something may be due from this time on: look from there. */
static void
crm_lower_marks(TimestampTz due)
{
	ListCell *lc;

	foreach (lc, crm_works)
	{
		CrmPending *pending = &((CrmWork *) lfirst(lc))->pending;

		if (due <= pending->low)
		{
			pending->low = due;
			pending->low_id = PG_INT64_MIN;
		}
		pending->next = Min(pending->next, due);
	}
}

static void
crm_record_fired(const CrmFired *fired)
{
	LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
	crm_slot->failures = 0;
	if (fired->count > 0)
	{
		crm_slot->fired += fired->count;
		crm_slot->batches++;
		for (int i = 0; i < CRM_LATENESS_BUCKETS; i++)
			crm_slot->lateness[i] += fired->lateness[i];
		crm_slot->max_lateness = Max(crm_slot->max_lateness, fired->max_lateness);
	}
	LWLockRelease(&crm_scheduler->lock);
}

static void
crm_record_error(const ErrorData *edata)
{
	LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
	crm_slot->errors++;
	crm_slot->error_at = GetCurrentTimestamp();
	snprintf(crm_slot->error, sizeof(crm_slot->error), "%s: %s",
			 unpack_sql_state(edata->sqlerrcode), edata->message ? edata->message : "");
	crm_slot->error[pg_mbcliplen(crm_slot->error, strlen(crm_slot->error),
								 sizeof(crm_slot->error) - 1)] = '\0';
	LWLockRelease(&crm_scheduler->lock);
}

/*
 * Whether an error may be due to the reminder being fired: its data, or what a
 * trigger makes of them.  Lack of resources, locks and the like are not.
 */
static bool
crm_may_be_poison(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_INVALID_TRANSACTION_STATE:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INTERNAL_ERROR:
			return false;
		case MAKE_SQLSTATE('5', '5', '0', '0', '0'):
			return false;
		case ERRCODE_OPERATOR_INTERVENTION:
			return sqlerrcode == ERRCODE_QUERY_CANCELED;
		default:
			return true;
	}
}

/* Fires one batch of one workspace.  On error, undoes it and returns a copy of the error. */
static ErrorData *
crm_fire_batch(CrmWork *work, CrmFired *fired)
{
	CrmPending pending = work->pending;
	ErrorData *error = NULL;

	PG_TRY();
	{
		TimestampTz now;

		crm_begin();
		if (crm_batch_timeout > 0)
			enable_timeout_after(STATEMENT_TIMEOUT, crm_batch_timeout);
		now = crm_now();
		pending.only_id = 0;
		if (work->batch == 1)
		{
			/* Know which one it is before trying. */
			crm_reminder_look(&pending);
			pending.only_id = pending.next_id;
		}
		crm_reminder_fire(&pending, now, work->batch, false, fired);
		crm_commit();
		disable_timeout(STATEMENT_TIMEOUT, false);
	}
	PG_CATCH();
	{
		disable_timeout(STATEMENT_TIMEOUT, false);
		MemoryContextSwitchTo(crm_worker_context);
		error = CopyErrorData();
		HOLD_INTERRUPTS();
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(crm_worker_context);

	if (error == NULL)
		work->pending = pending;
	else if (work->batch == 1)
		work->pending.only_id = pending.only_id;
	return error;
}

/* Takes the reminder that failed on its own out of the line. */
static void
crm_set_aside(CrmWork *work, const ErrorData *edata)
{
	char *failure = psprintf("%s: %s", unpack_sql_state(edata->sqlerrcode),
							 edata->message ? edata->message : "");

	PG_TRY();
	{
		crm_begin();
		crm_reminder_set_aside(work->pending.workspace, work->pending.only_id, crm_now(), failure);
		crm_commit();
		ereport(LOG, (errmsg("reminder " INT64_FORMAT " cannot be fired and was set aside",
							 work->pending.only_id),
					  errhint("Remove the cause, then set failed_at to NULL.")));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(crm_worker_context);
		HOLD_INTERRUPTS();
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
		work->set_aside = CRM_MAX_SET_ASIDE;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(crm_worker_context);
	pfree(failure);
}

/* Decides what to do about an error. */
static void
crm_after_error(CrmWork *work, ErrorData *error)
{
	crm_record_error(error);
	if (crm_may_be_poison(error->sqlerrcode) && work->set_aside < CRM_MAX_SET_ASIDE)
	{
		/* Find the reminder that fails: fire fewer and fewer, then set it aside. */
		if (work->batch > 1)
			work->batch = Max(work->batch / 16, 1);
		else if (work->pending.only_id != 0)
		{
			work->set_aside++;
			crm_set_aside(work, error);
		}
		work->pending.next = DT_NOBEGIN;
	}
	else
	{
		int64 delay = CRM_MIN_BACKOFF << Min(work->failures, 10);

		work->failures++;
		work->retry_at = GetCurrentTimestamp() + Min(delay, CRM_MAX_BACKOFF);
		work->set_aside = 0;
	}
	FreeErrorData(error);
}

/* One batch of one workspace. */
static void
crm_work_once(CrmWork *work)
{
	CrmFired fired;
	ErrorData *error = crm_fire_batch(work, &fired);

	if (error != NULL)
	{
		crm_after_error(work, error);
		return;
	}
	crm_record_fired(&fired);
	work->failures = 0;
	if (fired.busy || (fired.count == 0 && fired.more))
	{
		/* Others hold what is due; they may roll back without a word, so ask again. */
		work->retry_delay = Min(Max(work->retry_delay * 2, CRM_MIN_RETRY), CRM_MAX_RETRY);
		work->retry_at = GetCurrentTimestamp() + work->retry_delay;
	}
	else
		work->retry_delay = 0;
	if (fired.count > 0)
		work->set_aside = 0;
	work->batch = Min(work->batch * 4, crm_batch_size);
}

/* True if this database has prepared transactions. */
static bool
crm_have_prepared(void)
{
	bool found;

	crm_begin();
	if (SPI_execute(
			"SELECT FROM pg_catalog.pg_prepared_xacts AS p"
			" WHERE p.database OPERATOR(pg_catalog.=) pg_catalog.current_database() LIMIT 1",
			true, 1) != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute failed");
	found = SPI_processed > 0;
	crm_commit();
	return found;
}

/*
 * True if another session is about to drop, rename, move or copy this database.
 * It holds a lock that conflicts with the one we try to get, and waits for us to
 * disconnect.  Needed where that session may not have our hook.
 */
static bool
crm_database_wanted(void)
{
	LOCKTAG tag;
	bool wanted;

	StartTransactionCommand();
	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
	wanted = LockAcquire(&tag, RowExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL;
	CommitTransactionCommand();
	return wanted;
}

/* Whatever the database's owner has set for ordinary sessions, this is how we work. */
static void
crm_worker_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"statement_timeout", "0"},
		{"lock_timeout", "1s"},
		{"idle_in_transaction_session_timeout", "0"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"},
		{"row_security", "off"},
		{"jit", "off"},
		{"max_parallel_workers_per_gather", "0"},
		{"client_min_messages", "error"},
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	crm_worker_version_settings();
}

static void
crm_worker_start(Oid database)
{
	CrmSlot *slot;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	crm_scheduler_attach(ERROR);
	slot = crm_scheduler_slot(database, false);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	/* A reload between the postmaster's fork and our signal handler would be lost. */
	ProcessConfigFile(PGC_SIGHUP);
	crm_worker_settings();
	pgstat_report_appname("crm worker");

	crm_worker_context =
		AllocSetContextCreate(TopMemoryContext, "crm worker", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(crm_worker_context);
	crm_register_relcache_callback(crm_worker_relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, crm_worker_syscache_callback, (Datum) 0);

	if (slot != NULL && !crm_worker_claim(slot))
		proc_exit(0);
	crm_refresh_works();
	if (slot == NULL)
	{
		/* A first visit: most databases do not use crm. */
		if (crm_works == NIL)
			proc_exit(0);
		slot = crm_scheduler_slot(database, true);
		if (slot == NULL)
		{
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("more databases have reminders than the crm scheduler has room for"),
					 errhint("Preload crm and increase crm.max_databases.")));
			proc_exit(0);
		}
		if (!crm_worker_claim(slot))
			proc_exit(0);
	}
}

/* One round: a batch of each workspace that has something due.  True if more is to be done at once.
 */
static bool
crm_work_round(void)
{
	ListCell *lc;
	bool again = false;

	foreach (lc, crm_works)
	{
		CrmWork *work = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (work->pending.next > crm_now() || work->retry_at > GetCurrentTimestamp())
			continue;
		crm_work_once(work);
		if (work->pending.next <= crm_now() && work->retry_at <= GetCurrentTimestamp())
			again = true;
	}
	return again;
}

/* When somebody must look again: the next due time, or the time of a retry. */
static TimestampTz
crm_next_look(TimestampTz now, TimestampTz real)
{
	TimestampTz next = DT_NOEND;
	ListCell *lc;

	foreach (lc, crm_works)
	{
		CrmWork *work = lfirst(lc);
		TimestampTz when = work->pending.next;

		if (work->retry_at > real)
			when = Max(when, now + (work->retry_at - real));
		next = Min(next, when);
	}
	return next;
}

void
crm_worker_main(Datum arg)
{
	TimestampTz rescan_at = DT_NOBEGIN;
	TimestampTz guard_at = DT_NOBEGIN;
	TimestampTz busy_at = GetCurrentTimestamp();

	crm_worker_start(DatumGetObjectId(arg));

	for (;;)
	{
		TimestampTz now, real, next, hint;
		int64 wait;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (!crm_scheduler_enabled || crm_slot->stopper != 0)
			crm_worker_leave(DT_NOBEGIN);

		/* Where crm is preloaded, every session has our hook. */
		real = GetCurrentTimestamp();
		if (!crm_scheduler->preloaded && (real >= guard_at || guard_at - real > CRM_GUARD_INTERVAL))
		{
			if (crm_database_wanted())
				crm_worker_leave(DT_NOBEGIN);
			guard_at = real + CRM_GUARD_INTERVAL;
		}

		(void) pg_atomic_exchange_u64(&crm_slot->sleep_until, (uint64) DT_NOEND);
		hint = (TimestampTz) pg_atomic_exchange_u64(&crm_slot->due_min, (uint64) DT_NOEND);
		if (crm_slot->prepared)
		{
			crm_slot->prepared = false;
			pg_memory_barrier();
			if (crm_have_prepared())
				crm_slot->prepared = true;
			hint = DT_NOBEGIN;
		}
		AcceptInvalidationMessages();
		if (!crm_works_valid)
			crm_refresh_works();
		if (real >= rescan_at || rescan_at - real > CRM_RESCAN_INTERVAL)
		{
			hint = DT_NOBEGIN;
			rescan_at = real + CRM_RESCAN_INTERVAL;
			if (!crm_slot->prepared && crm_have_prepared())
				crm_slot->prepared = true;
		}
		if (hint != DT_NOEND)
		{
			crm_lower_marks(hint);
			if (hint != DT_NOBEGIN)
				busy_at = real;
		}

		pgstat_report_activity(STATE_RUNNING, "firing due reminders");
		if (crm_work_round())
		{
			busy_at = real;
			continue;
		}
		pgstat_report_activity(STATE_IDLE, NULL);
		pgstat_report_stat(false);
		MemoryContextSwitchTo(crm_worker_context);

		now = crm_now();
		real = GetCurrentTimestamp();
		next = crm_next_look(now, real);
		crm_slot->next_due = next;
		(void) pg_atomic_exchange_u64(&crm_slot->sleep_until, (uint64) next);
		if ((TimestampTz) pg_atomic_read_u64(&crm_slot->due_min) < next)
			continue;
		if (next <= now)
			continue;

		/* Leave if there is nothing to do for a while, or if another database needs the place. */
		if (!crm_slot->prepared)
		{
			int64 idle = crm_worker_idle_timeout * USECS_PER_SEC;

			if (crm_scheduler->waiting > 0 && next - now > USECS_PER_SEC)
				crm_worker_leave(next);
			if ((next == DT_NOEND || next - now > idle) && real - busy_at > idle)
				crm_worker_leave(next);
		}
		wait = Min(rescan_at - real, crm_worker_idle_timeout * USECS_PER_SEC);
		if (next != DT_NOEND)
			wait = Min(wait, next - now);
		if (crm_slot->prepared)
			wait = Min(wait, CRM_PREPARED_INTERVAL);
		if (!crm_scheduler->preloaded)
			wait = Min(wait, guard_at - real);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (long) (Max(wait, 0) + 999) / 1000, crm_wait_event(CRM_WAIT_WORKER));
		crm_slot->wakeups++;
	}
}
