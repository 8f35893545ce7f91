/*
 * scheduler.c
 *		The scheduler's settings, shared memory and hooks, and the function to
 *		start it.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "crm.h"
#include "duplicate_budget.h"
#include "scheduler.h"

/* Databases a scheduler started without a restart can serve: it lives in what core leaves spare. */
#define CRM_DYNAMIC_DATABASES 32

/* How long a command that needs a database without connections waits for a worker's batch, in ms.
 */
#define CRM_STOP_PATIENCE 2000
#define CRM_STOP_LIMIT	  4000

CrmScheduler *crm_scheduler = NULL;

bool crm_scheduler_enabled = true;
int crm_max_workers = 4;
int crm_max_databases = 64;
int crm_worker_idle_timeout = 60;
int crm_batch_size = 10000;
int crm_batch_timeout = 60000;
static int crm_catch_up_horizon = -1; /* read by hold_events() of a workspace */
bool crm_notify = true;

static shmem_request_hook_type crm_prev_shmem_request = NULL;
static shmem_startup_hook_type crm_prev_shmem_startup = NULL;
static ProcessUtility_hook_type crm_prev_utility = NULL;

static Size
crm_scheduler_size(int nslots)
{
	return add_size(offsetof(CrmScheduler, slots), mul_size(nslots, sizeof(CrmSlot)));
}

static void
crm_scheduler_setup(CrmScheduler *s, int nslots, bool preloaded)
{
	memset(s, 0, crm_scheduler_size(nslots));
	s->tranche = LWLockNewTrancheId();
	LWLockInitialize(&s->lock, s->tranche);
	s->preloaded = preloaded;
	s->nslots = nslots;
	for (int i = 0; i < nslots; i++)
	{
		pg_atomic_init_u64(&s->slots[i].due_min, (uint64) DT_NOEND);
		pg_atomic_init_u64(&s->slots[i].sleep_until, (uint64) DT_NOEND);
	}
}

static void
crm_scheduler_setup_dynamic(void *ptr)
{
	crm_scheduler_setup(ptr, CRM_DYNAMIC_DATABASES, false);
}

static void
crm_shmem_request(void)
{
	if (crm_prev_shmem_request)
		crm_prev_shmem_request();
	RequestAddinShmemSpace(add_size(crm_scheduler_size(crm_max_databases), crm_budgets_size()));
}

static void
crm_shmem_startup(void)
{
	bool found;

	if (crm_prev_shmem_startup)
		crm_prev_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	crm_scheduler = ShmemInitStruct("crm scheduler", crm_scheduler_size(crm_max_databases), &found);
	if (!found)
		crm_scheduler_setup(crm_scheduler, crm_max_databases, true);
	LWLockRelease(AddinShmemInitLock);
	LWLockRegisterTranche(crm_scheduler->tranche, "CrmScheduler");
}

bool
crm_scheduler_attach(int elevel)
{
	static bool failed = false;

	if (crm_scheduler != NULL)
		return true;
	if (failed && elevel < ERROR)
		return false;
	crm_scheduler = crm_get_shared("crm scheduler", crm_scheduler_size(CRM_DYNAMIC_DATABASES),
								   crm_scheduler_setup_dynamic);
	if (crm_scheduler == NULL)
	{
		failed = true;
		ereport(elevel,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("not enough shared memory for the crm scheduler"),
				 errhint("Add \"crm\" to shared_preload_libraries and restart the server.")));
		return false;
	}
	LWLockRegisterTranche(crm_scheduler->tranche, "CrmScheduler");
	return true;
}

CrmSlot *
crm_scheduler_slot(Oid database, bool claim)
{
	CrmSlot *slot = NULL;

	if (crm_scheduler == NULL)
		return NULL;
	for (int i = 0; i < crm_scheduler->nslots; i++)
	{
		if (crm_scheduler->slots[i].database == database)
			return &crm_scheduler->slots[i];
	}
	if (!claim)
		return NULL;

	LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
	for (int i = 0; i < crm_scheduler->nslots; i++)
	{
		CrmSlot *s = &crm_scheduler->slots[i];

		if (s->database == database)
		{
			slot = s;
			break;
		}
		if (slot == NULL && s->database == InvalidOid)
			slot = s;
	}
	if (slot != NULL && slot->database != database)
	{
		memset(slot, 0, offsetof(CrmSlot, due_min));
		memset(&slot->next_due, 0, sizeof(CrmSlot) - offsetof(CrmSlot, next_due));
		/* Nobody knows yet what is due here: the launcher, once woken, sends a worker. */
		slot->next_due = DT_NOBEGIN;
		pg_atomic_write_u64(&slot->due_min, (uint64) DT_NOBEGIN);
		pg_atomic_write_u64(&slot->sleep_until, (uint64) DT_NOEND);
		pg_write_barrier();
		slot->database = database;
	}
	LWLockRelease(&crm_scheduler->lock);
	return slot;
}

void
crm_scheduler_wake(CrmSlot *slot)
{
	Latch *latch = NULL;

	if (slot != NULL && slot->pid != 0)
		latch = slot->latch;
	if (latch == NULL)
		latch = crm_scheduler->launcher_latch;
	if (latch != NULL)
		SetLatch(latch);
}

void
crm_scheduler_wake_workers(void)
{
	for (int i = 0; i < crm_scheduler->nslots; i++)
	{
		if (crm_scheduler->slots[i].pid != 0)
			crm_scheduler_wake(&crm_scheduler->slots[i]);
	}
}

void
crm_scheduler_wake_all(void)
{
	crm_scheduler_wake_workers();
	crm_scheduler_wake(NULL);
}

uint32
crm_wait_event(CrmWait wait)
{
	static const char *const names[] = {"CrmLauncherMain", "CrmWorkerMain", "CrmClockHeld",
										"CrmSchedulerCommand"};
	static uint32 events[lengthof(names)] = {0};

	if (events[wait] == 0)
		events[wait] = CRM_WAIT_EVENT_NEW(names[wait]);
	return events[wait];
}

/* ---- commands that need a database without connections ---- */

/* Makes the worker leave and keeps the launcher from sending another one. */
static void
crm_hold_database(CrmSlot *slot)
{
	TimestampTz start = GetCurrentTimestamp();
	bool insisted = false;
	int pid;

	LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
	slot->stopper = MyProcPid;
	LWLockRelease(&crm_scheduler->lock);

	while ((pid = slot->pid) != 0 && BackendPidGetProc(pid) != NULL)
	{
		TimestampTz now = GetCurrentTimestamp();

		CHECK_FOR_INTERRUPTS();
		if (TimestampDifferenceExceeds(start, now, CRM_STOP_LIMIT))
			break; /* the command will say who is connected */
		if (!insisted && TimestampDifferenceExceeds(start, now, CRM_STOP_PATIENCE))
		{
			(void) kill(pid, SIGTERM);
			insisted = true;
		}
		crm_scheduler_wake(slot);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 5,
						 crm_wait_event(CRM_WAIT_COMMAND));
		ResetLatch(MyLatch);
	}
}

static void
crm_release_database(CrmSlot *slot, bool dropped)
{
	LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
	if (slot->stopper == MyProcPid)
	{
		slot->stopper = 0;
		if (dropped)
			slot->database = InvalidOid;
	}
	LWLockRelease(&crm_scheduler->lock);
	crm_scheduler_wake(NULL);
}

/* Name of the database a command needs to itself, or NULL. */
static const char *
crm_exclusive_database(Node *stmt)
{
	ListCell *lc;

	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			return ((DropdbStmt *) stmt)->dbname;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				return ((RenameStmt *) stmt)->subname;
			return NULL;
		case T_AlterDatabaseStmt:
			foreach (lc, ((AlterDatabaseStmt *) stmt)->options)
			{
				if (strcmp(((DefElem *) lfirst(lc))->defname, "tablespace") == 0)
					return ((AlterDatabaseStmt *) stmt)->dbname;
			}
			return NULL;
		case T_CreatedbStmt:
			foreach (lc, ((CreatedbStmt *) stmt)->options)
			{
				DefElem *option = lfirst(lc);

				if (strcmp(option->defname, "template") == 0 && option->arg != NULL)
					return defGetString(option);
			}
			return "template1";
		default:
			return NULL;
	}
}

static void
crm_call_utility(PlannedStmt *pstmt, const char *query, bool readonly,
				 ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *env,
				 DestReceiver *dest, QueryCompletion *qc)
{
	if (crm_prev_utility)
		crm_prev_utility(pstmt, query, readonly, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, readonly, context, params, env, dest, qc);
}

static void
crm_utility(PlannedStmt *pstmt, const char *query, bool readonly, ProcessUtilityContext context,
			ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Node *stmt = pstmt->utilityStmt;
	const char *name = crm_scheduler == NULL ? NULL : crm_exclusive_database(stmt);
	CrmSlot *slot = NULL;
	volatile bool done = false;

	if (name != NULL && context == PROCESS_UTILITY_TOPLEVEL)
	{
		Oid database = get_database_oid(name, true);

		if (OidIsValid(database))
			slot = crm_scheduler_slot(database, false);
	}
	if (slot != NULL)
	{
		PG_TRY();
		{
			crm_hold_database(slot);
			crm_call_utility(pstmt, query, readonly, context, params, env, dest, qc);
			done = IsA(stmt, DropdbStmt);
		}
		PG_FINALLY();
		{
			crm_release_database(slot, done);
		}
		PG_END_TRY();
		return;
	}

	crm_call_utility(pstmt, query, readonly, context, params, env, dest, qc);

	if (IsA(stmt, TransactionStmt) &&
		((TransactionStmt *) stmt)->kind == TRANS_STMT_COMMIT_PREPARED)
		crm_wake_prepared();
	else if (IsA(stmt, CreateTrigStmt) &&
			 strcmp(strVal(llast(((CreateTrigStmt *) stmt)->funcname)), "reminder_wake") == 0)
	{
		/* A workspace is created, or restored with the reminders it had. */
		crm_wake_at_commit(DT_NOBEGIN);
	}
}

/* ---- settings and start ---- */

static void
crm_fill_launcher(BackgroundWorker *worker)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = 5;
	strlcpy(worker->bgw_library_name, "crm", sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, "crm_launcher_main", sizeof(worker->bgw_function_name));
	strlcpy(worker->bgw_name, "crm launcher", sizeof(worker->bgw_name));
	strlcpy(worker->bgw_type, "crm launcher", sizeof(worker->bgw_type));
}

void
crm_scheduler_init(void)
{
	BackgroundWorker launcher;

	DefineCustomBoolVariable("crm.scheduler", "Fires due reminders in the background.",
							 "When off, workers finish their batch and leave, and only "
							 "crm.run_due() fires reminders.",
							 &crm_scheduler_enabled, true, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("crm.max_workers",
							"Number of databases whose reminders are fired at the same time.",
							"Each takes one of max_worker_processes.", &crm_max_workers, 4, 1, 1000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"crm.worker_idle_timeout",
		"A worker with nothing to do for this long leaves its database until it is needed.", NULL,
		&crm_worker_idle_timeout, 60, 1, 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("crm.batch_size", "Largest number of reminders fired by one statement.",
							NULL, &crm_batch_size, 10000, 1, 1000000, PGC_SUSET, 0, NULL, NULL,
							NULL);
	DefineCustomIntVariable("crm.batch_timeout",
							"A worker gives up a transaction that fires reminders after this long.",
							"It is tried again with fewer reminders. 0 disables the limit.",
							&crm_batch_timeout, 60000, 0, INT_MAX, PGC_SUSET, GUC_UNIT_MS, NULL,
							NULL, NULL);
	DefineCustomIntVariable(
		"crm.clock_hold", "How long nothing fires after the system's clock was set far forward.",
		"A step of more than 15 minutes is held for this long, unless it is accepted or undone. "
		"-1: "
		"until it is; 0: not at all.",
		&crm_clock_hold, 60, -1, 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"crm.catch_up_horizon", "Reminders that fire later than this are skipped.",
		"Their events are written, and do not come into the inbox. Not of escalations, service "
		"levels, urgent reminders, and those that recurred meanwhile. -1: none are.",
		&crm_catch_up_horizon, -1, -1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomBoolVariable("crm.notify", "Sends NOTIFY crm once for each batch of events.", NULL,
							 &crm_notify, true, PGC_SUSET, 0, NULL, NULL, NULL);

	crm_wake_init();
	crm_prev_utility = ProcessUtility_hook;
	ProcessUtility_hook = crm_utility;

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	DefineCustomIntVariable("crm.max_databases",
							"Number of databases of this cluster that may have reminders.", NULL,
							&crm_max_databases, 64, 1, 100000, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	crm_prev_shmem_request = shmem_request_hook;
	shmem_request_hook = crm_shmem_request;
	crm_prev_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = crm_shmem_startup;
	crm_fill_launcher(&launcher);
	RegisterBackgroundWorker(&launcher);
}

PG_FUNCTION_INFO_V1(crm_scheduler_start);
Datum
crm_scheduler_start(PG_FUNCTION_ARGS)
{
	BackgroundWorker launcher;
	BackgroundWorkerHandle *handle;
	int pid;

	if (RecoveryInProgress())
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("cannot start the crm scheduler during recovery")));
	crm_scheduler_attach(ERROR);
	pid = crm_scheduler->launcher_pid;
	if (pid == 0 || BackendPidGetProc(pid) == NULL)
	{
		if (!crm_scheduler->preloaded)
		{
			crm_fill_launcher(&launcher);
			launcher.bgw_notify_pid = MyProcPid;
			if (!RegisterDynamicBackgroundWorker(&launcher, &handle))
				ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
								errmsg("could not start the crm scheduler"),
								errhint("You may need to increase max_worker_processes.")));
			/* Until it can be woken; it may also have found another one running. */
			do
			{
				CHECK_FOR_INTERRUPTS();
				if (GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED)
					break;
				(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10,
								 crm_wait_event(CRM_WAIT_COMMAND));
				ResetLatch(MyLatch);
			} while (crm_scheduler->launcher_latch == NULL);
			if (crm_scheduler->launcher_latch == NULL)
				ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
								errmsg("could not start the crm scheduler"),
								errhint("The server log may say more.")));
		}
		crm_wake_at_commit(DT_NOBEGIN);
		PG_RETURN_TEXT_P(cstring_to_text("started"));
	}
	crm_wake_at_commit(DT_NOBEGIN);
	PG_RETURN_TEXT_P(cstring_to_text("already running"));
}
