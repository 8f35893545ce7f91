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
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/pmsignal.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
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
/*
 * A batch takes about so long, so that what becomes due meanwhile need not wait
 * longer: of the processor's time, for batches that shrink when the machine is busy
 * make it busier, or of a quarter of the time on the clock, if it waits for disks.
 */
#define CRM_BATCH_TARGET (10 * INT64CONST(1000))
#define CRM_MIN_BATCH	 100
#define CRM_FIRST_BATCH	 1000
/* Reminders locked by another transaction, and workspaces that another one fires. */
#define CRM_MIN_RETRY (50 * INT64CONST(1000))
#define CRM_MAX_RETRY USECS_PER_SEC
/* Workspaces whose reminders cannot be fired. */
#define CRM_MIN_BACKOFF USECS_PER_SEC
#define CRM_MAX_BACKOFF (60 * USECS_PER_SEC)
/* So many reminders failing one after the other are not each to blame. */
#define CRM_MAX_SET_ASIDE 10

/*
 * A workspace has two lines of reminders.  The live one is what becomes due, and
 * is served first.  When a batch cannot hold all that is due, or some of it is
 * locked, everything due by then becomes the backlog, of which a batch is fired
 * between those of the live line: a million reminders due at nine o'clock do not
 * delay the one due a second later.  One process serves both, so that events keep
 * the order of their ids.
 */
typedef struct CrmLine
{
	CrmPending pending;
	int64 retry_at; /* do nothing before; in ticks, see clock.h */
	int64 retry_delay;
} CrmLine;

/* One workspace. */
typedef struct CrmWork
{
	CrmLine live;
	CrmLine backlog;	  /* pending.until is DT_NOBEGIN if there is none */
	int64 batch;		  /* reminders to fire at once; lowered to find the one that fails */
	int64 fits;			  /* reminders that fit into a batch, by the time that the last ones took */
	int64 batch_cost;	  /* what the last batch took, but for its commit */
	TimestampTz fired_at; /* time of the last batch */
	int64 retry_at;		  /* nothing of the workspace before this, in ticks */
	int failures;		  /* errors in a row that are not one reminder's fault */
	int set_aside;		  /* reminders set aside since one was fired */
	bool home;			  /* may fire in this database */
	bool exists;		  /* seen when the list was last read */
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

/* Something may be due from this time on: look from there. */
static void
crm_look_from(CrmLine *line, TimestampTz due)
{
	if (due <= line->pending.low)
	{
		line->pending.low = due;
		line->pending.low_id = PG_INT64_MIN;
	}
	line->pending.next = Min(line->pending.next, due);
}

static bool
crm_has_backlog(const CrmWork *work)
{
	return work->backlog.pending.until != DT_NOBEGIN;
}

/* What is due by now and did not fire becomes the backlog, or part of it. */
static void
crm_make_backlog(CrmWork *work)
{
	CrmPending *live = &work->live.pending;

	if (!crm_has_backlog(work))
	{
		CrmLine *line = &work->backlog;

		line->pending = *live;
		line->retry_at = line->retry_delay = 0;
	}
	work->backlog.pending.until = work->fired_at;
	live->low = work->fired_at + 1;
	live->low_id = PG_INT64_MIN;
	live->next = live->low;
}

/* Says so, once, when workspaces must not fire here. */
static void
crm_tell_quarantine(void)
{
	int count = 0;
	int before;
	Oid first = InvalidOid;
	ListCell *lc;

	foreach (lc, crm_works)
	{
		CrmWork *work = lfirst(lc);

		if (work->home)
			continue;
		if (count++ == 0)
			first = work->live.pending.workspace;
	}
	if (crm_slot == NULL)
		return;
	LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
	before = crm_slot->quarantined;
	crm_slot->quarantined = count;
	LWLockRelease(&crm_scheduler->lock);
	if (count > before)
	{
		char *schema, *database;

		StartTransactionCommand();
		schema = get_namespace_name(first);
		database = get_database_name(MyDatabaseId);
		ereport(WARNING,
				(errmsg("%d workspaces of database \"%s\" are in quarantine; their reminders do "
						"not fire",
						count, database ? database : ""),
				 errdetail("They were restored or copied from another database; one is \"%s\".",
						   schema ? schema : ""),
				 errhint("If they are to fire here, connect to the database and run SELECT "
						 "crm.scheduler_adopt();")));
		CommitTransactionCommand();
	}
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
			if (((CrmWork *) lfirst(lw))->live.pending.workspace == lfirst_oid(lc))
				work = lfirst(lw);
		}
		if (work == NULL)
		{
			MemoryContext old = MemoryContextSwitchTo(crm_worker_context);

			work = palloc0(sizeof(CrmWork));
			work->live.pending.workspace = work->backlog.pending.workspace = lfirst_oid(lc);
			work->live.pending.until = DT_NOEND;
			work->backlog.pending.until = DT_NOBEGIN;
			crm_look_from(&work->live, DT_NOBEGIN);
			work->fits = CRM_FIRST_BATCH;
			work->batch = Min(CRM_FIRST_BATCH, crm_batch_size);
			crm_works = lappend(crm_works, work);
			MemoryContextSwitchTo(old);
		}
		work->exists = true;
		work->home = crm_reminder_at_home(lfirst_oid(lc));
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
	crm_tell_quarantine();
}

/* Something may be due from this time on, in any workspace. */
static void
crm_lower_marks(TimestampTz due)
{
	ListCell *lc;

	foreach (lc, crm_works)
	{
		CrmWork *work = lfirst(lc);
		TimestampTz until = work->backlog.pending.until;

		if (crm_has_backlog(work) && due <= until)
			crm_look_from(&work->backlog, due);
		crm_look_from(&work->live, crm_has_backlog(work) ? Max(due, until + 1) : due);
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
	snprintf(crm_slot->error, sizeof(crm_slot->error), "%s: %s%s%s",
			 unpack_sql_state(edata->sqlerrcode), edata->message ? edata->message : "",
			 edata->hint ? " HINT:  " : "", edata->hint ? edata->hint : "");
	crm_slot->error[pg_mbcliplen(crm_slot->error, strlen(crm_slot->error),
								 sizeof(crm_slot->error) - 1)] = '\0';
	LWLockRelease(&crm_scheduler->lock);
}

/*
 * Whether an error may be due to the reminder being fired: its data, or what a
 * trigger makes of them.  Lack of resources, locks and the like are not, nor are
 * tables that our statements do not fit.
 */
static bool
crm_may_be_poison(int sqlerrcode, CrmFireStep step)
{
	if (step == CRM_PREPARING)
		return false;
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case MAKE_SQLSTATE('4', '2', '0', '0', '0'):
			return step != CRM_JUDGING;
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

/* Fires one batch of one line.  On error, undoes it and returns a copy of the error. */
static ErrorData *
crm_fire_batch(CrmWork *work, CrmLine *line, CrmFired *fired)
{
	CrmPending pending = line->pending;
	ErrorData *error = NULL;

	PG_TRY();
	{
		int64 start = crm_ticks();
		int64 used = crm_processor_time();

		memset(fired, 0, sizeof(*fired));
		crm_begin();
		if (crm_batch_timeout > 0)
			enable_timeout_after(STATEMENT_TIMEOUT, crm_batch_timeout);
		pending.only_id = 0;
		if (work->batch == 1)
		{
			/* Know which one it is before trying. */
			crm_reminder_look(&pending);
			pending.only_id = pending.next_id;
		}
		if (crm_clock_read(&work->fired_at))
			crm_reminder_fire(&pending, work->fired_at, work->batch, false, fired);
		else
			fired->busy = true;
		work->batch_cost = Max(crm_processor_time() - used, (crm_ticks() - start) / 4);
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
		line->pending = pending;
	else if (work->batch == 1)
		line->pending.only_id = pending.only_id;
	return error;
}

/* Takes the reminder that failed on its own out of the line. */
static void
crm_set_aside(CrmWork *work, CrmLine *line, const ErrorData *edata)
{
	char *failure = psprintf("%s: %s", unpack_sql_state(edata->sqlerrcode),
							 edata->message ? edata->message : "");

	PG_TRY();
	{
		crm_begin();
		crm_reminder_set_aside(line->pending.workspace, line->pending.only_id, crm_now(), failure);
		crm_commit();
		ereport(LOG, (errmsg("reminder " INT64_FORMAT " cannot be fired and was set aside",
							 line->pending.only_id),
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
crm_after_error(CrmWork *work, CrmLine *line, CrmFireStep step, ErrorData *error)
{
	crm_record_error(error);
	if (crm_may_be_poison(error->sqlerrcode, step) && work->set_aside < CRM_MAX_SET_ASIDE &&
		(work->batch > 1 || line->pending.only_id != 0))
	{
		/* Find the reminder that fails: fire fewer and fewer, then set it aside. */
		if (work->batch > 1)
			work->batch = Max(work->batch / 16, 1);
		else
		{
			work->set_aside++;
			crm_set_aside(work, line, error);
		}
		line->pending.next = DT_NOBEGIN;
	}
	else
	{
		int64 delay = CRM_MIN_BACKOFF << Min(work->failures, 10);

		work->failures++;
		work->retry_at = crm_ticks() + Min(delay, CRM_MAX_BACKOFF);
		work->set_aside = 0;
	}
	FreeErrorData(error);
}

/* One batch of one line of a workspace. */
static void
crm_work_once(CrmWork *work, CrmLine *line)
{
	CrmFired fired;
	ErrorData *error = crm_fire_batch(work, line, &fired);

	if (error != NULL)
	{
		crm_after_error(work, line, fired.step, error);
		return;
	}
	crm_record_fired(&fired);
	work->failures = 0;
	if (fired.count > 0)
		work->set_aside = 0;

	if (fired.busy || (line == &work->backlog && fired.count == 0 && fired.more))
	{
		/* Others hold what is due; they may roll back without a word, so ask again. */
		line->retry_delay = Min(Max(line->retry_delay * 2, CRM_MIN_RETRY), CRM_MAX_RETRY);
		line->retry_at = crm_ticks() + line->retry_delay;
	}
	else
		line->retry_delay = 0;
	if (line == &work->live && fired.more)
		crm_make_backlog(work);
	else if (line == &work->backlog && !fired.busy && !fired.more)
		work->backlog.pending.until = DT_NOBEGIN;

	if (fired.count >= CRM_MIN_BATCH)
	{
		int64 fits = fired.count * CRM_BATCH_TARGET / Max(work->batch_cost, 1);

		work->fits = Max(Min(fits, work->fits * 2), CRM_MIN_BATCH);
	}
	work->batch = Min(Min(work->batch * 4, work->fits), crm_batch_size);
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
		/* Less than deadlock_timeout: who alters the tables is not to be the one that gives in. */
		{"lock_timeout", "200ms"},
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

/* When there is something to do for a line: in the past if at once, DT_NOEND if never. */
static TimestampTz
crm_line_look(const CrmWork *work, const CrmLine *line, TimestampTz now)
{
	int64 wait = Max(line->retry_at, work->retry_at) - crm_ticks();

	if (!work->home || (line == &work->backlog && !crm_has_backlog(work)))
		return DT_NOEND;
	return wait > 0 ? Max(line->pending.next, now + wait) : line->pending.next;
}

/* When somebody must look again: the next due time, or the time of a retry. */
static TimestampTz
crm_next_look(TimestampTz now)
{
	TimestampTz next = DT_NOEND;
	ListCell *lc;

	foreach (lc, crm_works)
	{
		CrmWork *work = lfirst(lc);

		next = Min(next, crm_line_look(work, &work->live, now));
		next = Min(next, crm_line_look(work, &work->backlog, now));
	}
	return next;
}

/* Workspaces that are left alone for a while after an error. */
static int
crm_count_failing(int64 ticks)
{
	int count = 0;
	ListCell *lc;

	foreach (lc, crm_works)
	{
		if (((CrmWork *) lfirst(lc))->retry_at > ticks)
			count++;
	}
	return count;
}

/*
 * One round: the live line of each workspace, and then a batch of one backlog,
 * another one each time.  True if more is to be done at once.
 */
static bool
crm_work_round(void)
{
	static int turn = 0;
	int n = list_length(crm_works);
	ListCell *lc;

	foreach (lc, crm_works)
	{
		CrmWork *work = lfirst(lc);
		TimestampTz now = crm_now();

		CHECK_FOR_INTERRUPTS();
		if (crm_line_look(work, &work->live, now) <= now)
			crm_work_once(work, &work->live);
	}
	for (int i = 0; i < n; i++)
	{
		CrmWork *work = list_nth(crm_works, ++turn % n);
		TimestampTz now = crm_now();

		if (crm_line_look(work, &work->backlog, now) <= now)
		{
			crm_work_once(work, &work->backlog);
			break;
		}
	}
	return crm_next_look(crm_now()) <= crm_now();
}

void
crm_worker_main(Datum arg)
{
	/* In ticks. */
	int64 rescan_at = 0;
	int64 guard_at = 0;
	int64 busy_at = crm_ticks();

	crm_worker_start(DatumGetObjectId(arg));

	for (;;)
	{
		TimestampTz now, next, hint;
		int64 ticks, wait;
		long stat_wait;
		bool more;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		/* With a backlog it does not sleep, and the server cannot start anew before it is gone. */
		if (!PostmasterIsAlive())
			proc_exit(1);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (!crm_scheduler_enabled || crm_slot->stopper != 0)
			crm_worker_leave(DT_NOBEGIN);

		/* Where crm is preloaded, every session has our hook. */
		ticks = crm_ticks();
		if (!crm_scheduler->preloaded && ticks >= guard_at)
		{
			if (crm_database_wanted())
				crm_worker_leave(DT_NOBEGIN);
			guard_at = ticks + CRM_GUARD_INTERVAL;
		}

		if (!crm_clock_read(&now))
		{
			pgstat_report_activity(STATE_IDLE, "waiting for the clock to be accepted");
			wait = Min(crm_clock_held_until() - ticks, CRM_RESCAN_INTERVAL);
			if (!crm_scheduler->preloaded)
				wait = Min(wait, guard_at - ticks);
			crm_clock_sleep(DT_NOEND, Max(wait, 0), crm_wait_event(CRM_WAIT_CLOCK));
			continue;
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
		if (!crm_works_valid || (ticks >= rescan_at && crm_slot->quarantined > 0))
			crm_refresh_works();
		if (ticks >= rescan_at)
		{
			hint = DT_NOBEGIN;
			rescan_at = ticks + CRM_RESCAN_INTERVAL;
			if (!crm_slot->prepared && crm_have_prepared())
				crm_slot->prepared = true;
		}
		if (hint != DT_NOEND)
		{
			crm_lower_marks(hint);
			if (hint != DT_NOBEGIN)
				busy_at = ticks;
		}

		pgstat_report_activity(STATE_RUNNING, "firing due reminders");
		more = crm_work_round();
		stat_wait = pgstat_report_stat(false);
		if (more)
		{
			busy_at = ticks;
			continue;
		}
		pgstat_report_activity(STATE_IDLE, NULL);
		MemoryContextSwitchTo(crm_worker_context);

		now = crm_now();
		ticks = crm_ticks();
		next = crm_next_look(now);
		crm_slot->next_due = next;
		crm_slot->failing = crm_count_failing(ticks);
		(void) pg_atomic_exchange_u64(&crm_slot->sleep_until, (uint64) next);
		if ((TimestampTz) pg_atomic_read_u64(&crm_slot->due_min) < next)
			continue;
		if (next <= now)
			continue;
		if (crm_event_retain(crm_slot))
			continue;

		/* Leave if there is nothing to do for a while, or if another database needs the place. */
		if (!crm_slot->prepared)
		{
			int64 idle = crm_worker_idle_timeout * USECS_PER_SEC;

			if (crm_scheduler->waiting > 0 && next - now > USECS_PER_SEC)
				crm_worker_leave(next);
			if ((next == DT_NOEND || next - now > idle) && ticks - busy_at > idle)
				crm_worker_leave(next);
		}
		wait = Min(rescan_at - ticks, crm_worker_idle_timeout * USECS_PER_SEC);
		if (crm_slot->prepared)
			wait = Min(wait, CRM_PREPARED_INTERVAL);
		/* What was fired last is still to be told to the statistics, and so to autovacuum. */
		if (stat_wait > 0)
			wait = Min(wait, stat_wait * 1000);
		if (!crm_scheduler->preloaded)
			wait = Min(wait, guard_at - ticks);
		crm_clock_sleep(next, Max(wait, 0), crm_wait_event(CRM_WAIT_WORKER));
		crm_slot->wakeups++;
	}
}
