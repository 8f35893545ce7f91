/*
 * launcher.c
 *		One process for the cluster: knows which databases have reminders, and
 *		starts a worker in each when something is due there soon.
 *
 * It is connected to no database and never waits for a worker.  All it knows of a
 * database is in its slot; which databases have none because they do not use crm
 * it remembers itself.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "scheduler.h"

/* A worker is started this long before the first reminder of its database is due. */
#define CRM_HEAD_START (500 * INT64CONST(1000))

/* How often the list of databases is read, and how often an idle database is looked at anyway. */
#define CRM_TOUR_INTERVAL  (60 * USECS_PER_SEC)
#define CRM_VISIT_INTERVAL (10 * USECS_PER_MINUTE)

/* How long a database waits for another worker after one failed: doubled each time, in seconds. */
#define CRM_MIN_BACKOFF 1
#define CRM_MAX_BACKOFF 300

/* A worker that was started and has not been seen to end. */
typedef struct CrmChild
{
	Oid database;
	BackgroundWorkerHandle *handle;
} CrmChild;

/* A database and whether a worker has been there once. */
typedef struct CrmKnownDatabase
{
	Oid database; /* hash key */
	bool visited;
	bool exists; /* seen by the current tour */
} CrmKnownDatabase;

static List *crm_children = NIL;
static HTAB *crm_known = NULL;
static bool crm_no_worker_logged = false;

static void
crm_launcher_exit(int code, Datum arg)
{
	LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
	if (crm_scheduler->launcher_pid == MyProcPid)
	{
		crm_scheduler->launcher_pid = 0;
		crm_scheduler->launcher_latch = NULL;
	}
	LWLockRelease(&crm_scheduler->lock);
}

/* Reads pg_database: forgets what is gone, notes what is new. */
static void
crm_tour(void)
{
	MemoryContext context = CurrentMemoryContext;
	Relation rel;
	TableScanDesc scan;
	HeapTuple tup;
	HASH_SEQ_STATUS seq;
	CrmKnownDatabase *known;

	hash_seq_init(&seq, crm_known);
	while ((known = hash_seq_search(&seq)) != NULL)
		known->exists = false;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tup = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tup);
		bool found;

		if (database->datistemplate || !database->datallowconn)
			continue;
		known = hash_search(crm_known, &database->oid, HASH_ENTER, &found);
		if (!found)
			known->visited = false;
		known->exists = true;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);

	hash_seq_init(&seq, crm_known);
	while ((known = hash_seq_search(&seq)) != NULL)
	{
		if (!known->exists)
			(void) hash_search(crm_known, &known->database, HASH_REMOVE, NULL);
	}
	LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
	for (int i = 0; i < crm_scheduler->nslots; i++)
	{
		CrmSlot *slot = &crm_scheduler->slots[i];

		if (OidIsValid(slot->database) && slot->pid == 0 &&
			hash_search(crm_known, &slot->database, HASH_FIND, NULL) == NULL)
			slot->database = InvalidOid;
	}
	LWLockRelease(&crm_scheduler->lock);
}

/* Forgets workers that have ended; a slot whose worker ended badly waits before it gets another. */
static void
crm_reap(void)
{
	ListCell *lc;

	foreach (lc, crm_children)
	{
		CrmChild *child = lfirst(lc);
		CrmSlot *slot;
		pid_t pid;

		if (GetBackgroundWorkerPid(child->handle, &pid) != BGWH_STOPPED)
			continue;
		slot = crm_scheduler_slot(child->database, false);
		if (slot != NULL)
		{
			LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
			if (slot->database == child->database && slot->starting)
			{
				slot->starting = false;
				if (!slot->clean)
				{
					int seconds = CRM_MIN_BACKOFF << Min(slot->failures, 9);

					slot->failures++;
					slot->retry_at = crm_ticks() + Min(seconds, CRM_MAX_BACKOFF) * USECS_PER_SEC;
				}
			}
			LWLockRelease(&crm_scheduler->lock);
		}
		pfree(child->handle);
		pfree(child);
		crm_children = foreach_delete_current(crm_children, lc);
	}
}

/* Number of workers that run or were started, including those of an earlier launcher. */
static int
crm_count_workers(void)
{
	int count = list_length(crm_children);

	for (int i = 0; i < crm_scheduler->nslots; i++)
	{
		CrmSlot *slot = &crm_scheduler->slots[i];

		if (slot->pid != 0 && !slot->starting && BackendPidGetProc(slot->pid) != NULL)
			count++;
	}
	return count;
}

static bool
crm_is_child(Oid database)
{
	ListCell *lc;

	foreach (lc, crm_children)
	{
		if (((CrmChild *) lfirst(lc))->database == database)
			return true;
	}
	return false;
}

static bool
crm_start_worker(Oid database)
{
	BackgroundWorker worker = {0};
	CrmChild *child;
	BackgroundWorkerHandle *handle;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, "crm", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "crm_worker_main", sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "crm worker for database %u", database);
	strlcpy(worker.bgw_type, "crm worker", sizeof(worker.bgw_type));
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
	{
		if (!crm_no_worker_logged)
			ereport(WARNING, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
							  errmsg("no background worker process is free to fire reminders"),
							  errhint("Increase max_worker_processes, or lower crm.max_workers.")));
		crm_no_worker_logged = true;
		return false;
	}
	crm_no_worker_logged = false;
	child = palloc(sizeof(CrmChild));
	child->database = database;
	child->handle = handle;
	crm_children = lappend(crm_children, child);
	return true;
}

/* Microseconds from now to a time, at least 0 and at most "most". */
static int64
crm_until(TimestampTz time, TimestampTz now, int64 most)
{
	if (time <= now)
		return 0;
	if (time == DT_NOEND || time - now > most)
		return most;
	return time - now;
}

/*
 * Starts the workers that are wanted.  Returns the number that found no place,
 * and lowers *wait to the microseconds until the next one is wanted.
 */
static int
crm_dispatch(int64 *wait)
{
	static int next_first = 0;
	TimestampTz now = crm_now();
	int64 ticks = crm_ticks();
	int places = crm_max_workers - crm_count_workers();
	int waiting = 0;
	int first = next_first;
	HASH_SEQ_STATUS seq;
	CrmKnownDatabase *known;

	/* Beginning where the last round ran out of places, so that no database starves. */
	for (int n = 0; n < crm_scheduler->nslots; n++)
	{
		int i = (first + n) % crm_scheduler->nslots;
		CrmSlot *slot = &crm_scheduler->slots[i];
		TimestampTz due;
		bool wanted;

		if (slot->database == InvalidOid || crm_is_child(slot->database))
			continue;
		LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
		if (slot->pid != 0 && BackendPidGetProc(slot->pid) == NULL)
			slot->pid = 0;
		if (slot->stopper != 0 && BackendPidGetProc(slot->stopper) == NULL)
			slot->stopper = 0;
		due = Min((TimestampTz) pg_atomic_read_u64(&slot->sleep_until),
				  (TimestampTz) pg_atomic_read_u64(&slot->due_min));
		wanted = slot->pid == 0 && slot->stopper == 0;
		LWLockRelease(&crm_scheduler->lock);
		if (!wanted)
			continue;

		slot->waiting = false;
		if (slot->retry_at > ticks)
		{
			*wait = Min(*wait, slot->retry_at - ticks);
			continue;
		}
		if (due != DT_NOBEGIN && due - CRM_HEAD_START > now &&
			ticks - slot->started_at < CRM_VISIT_INTERVAL)
		{
			*wait = Min(*wait, crm_until(due - CRM_HEAD_START, now, *wait));
			continue;
		}
		if (places <= 0 || !crm_start_worker(slot->database))
		{
			if (waiting++ == 0)
				next_first = i;
			slot->waiting = true;
			continue;
		}
		places--;
		LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
		slot->starting = true;
		slot->clean = false;
		slot->started_at = ticks;
		LWLockRelease(&crm_scheduler->lock);
	}

	/* Databases nobody has looked at yet. */
	hash_seq_init(&seq, crm_known);
	while ((known = hash_seq_search(&seq)) != NULL)
	{
		if (known->visited)
			continue;
		if (crm_scheduler_slot(known->database, false) != NULL)
			known->visited = true;
		else if (places <= 0 || !crm_start_worker(known->database))
			waiting++;
		else
		{
			known->visited = true;
			places--;
		}
	}
	return waiting;
}

void
crm_launcher_main(Datum arg)
{
	HASHCTL ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(CrmKnownDatabase)};
	int64 next_tour = 0;
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	crm_scheduler_attach(ERROR);

	LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
	if (crm_scheduler->launcher_pid != 0 && BackendPidGetProc(crm_scheduler->launcher_pid) != NULL)
	{
		/* Two sessions started it at the same time. */
		LWLockRelease(&crm_scheduler->lock);
		proc_exit(0);
	}
	crm_scheduler->launcher_pid = MyProcPid;
	crm_scheduler->launcher_latch = MyLatch;
	for (int i = 0; i < crm_scheduler->nslots; i++)
		crm_scheduler->slots[i].starting = false;
	LWLockRelease(&crm_scheduler->lock);
	before_shmem_exit(crm_launcher_exit, (Datum) 0);

	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	/* A reload between the postmaster's fork and our signal handler would be lost. */
	ProcessConfigFile(PGC_SIGHUP);

	context = AllocSetContextCreate(TopMemoryContext, "crm launcher", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	ctl.hcxt = context;
	crm_known = hash_create("crm databases", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	for (;;)
	{
		int64 wait = CRM_TOUR_INTERVAL;
		int64 ticks = crm_ticks();
		TimestampTz now;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		crm_reap();
		if (crm_scheduler_enabled)
		{
			if (ticks >= next_tour)
			{
				crm_tour();
				next_tour = ticks + CRM_TOUR_INTERVAL;
			}
			/* Held or not, workers are started: they hold back themselves, and say so. */
			if (!crm_clock_read(&now))
				wait = Min(wait, crm_clock_held_until() - ticks);
			crm_scheduler->waiting = crm_dispatch(&wait);
			/* A place may come free without a word: from workers of an earlier launcher. */
			if (crm_scheduler->waiting > 0)
			{
				crm_scheduler_wake_workers();
				wait = Min(wait, USECS_PER_SEC);
			}
			wait = Min(wait, next_tour - ticks);
		}
		crm_clock_sleep(DT_NOEND, Max(wait, 0), crm_wait_event(CRM_WAIT_LAUNCHER));
	}
}
