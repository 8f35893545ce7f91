/*
 * scheduler.h
 *		What the parts of the scheduler share: settings, the shared memory and
 *		who may write which part of it.
 *
 * launcher.c	one process for the cluster; starts workers when they are wanted
 * worker.c		one process for a database that has reminders due soon
 * wake.c		runs in every backend that writes reminders, and wakes the others
 * scheduler.c	shared memory, settings, hooks, functions to start and watch it
 */
#ifndef CRM_SCHEDULER_H
#define CRM_SCHEDULER_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "clock.h"

#define CRM_ERROR_LEN		 256
#define CRM_LATENESS_BUCKETS 24

/*
 * One database.  "lock" of CrmScheduler protects every field that is not atomic.
 *
 * due_min and sleep_until are the wake protocol (see wake.c).  The sleeper is the
 * worker while "pid" is set, and otherwise the launcher on its behalf.
 */
typedef struct CrmSlot
{
	Oid database;				  /* InvalidOid: the slot is free */
	int pid;					  /* of the worker, 0 if there is none */
	Latch *latch;				  /* the worker's */
	int stopper;				  /* pid of a backend that needs the database without connections */
	bool starting;				  /* the launcher asked for a worker and has not seen it end */
	bool clean;					  /* the last worker ended as it meant to */
	bool prepared;				  /* prepared transactions may hold reminders we were not told of */
	bool waiting;				  /* wants a worker, and there was no place for one */
	int quarantined;			  /* workspaces that must not fire in this database */
	int failing;				  /* workspaces left alone for a while after an error */
	int64 started_at;			  /* last start of a worker, in ticks (clock.h) */
	int64 retry_at;				  /* no new worker before, in ticks */
	int failures;				  /* workers in a row that ended badly */
	pg_atomic_uint64 due_min;	  /* least due time committed since the sleeper last looked */
	pg_atomic_uint64 sleep_until; /* the sleeper looks by itself at this time */
	TimestampTz next_due;		  /* least due time the last worker knew; for people */
	int64 fired;				  /* events written */
	int64 batches;				  /* transactions that wrote events */
	int64 wakeups;				  /* times a worker woke */
	int64 purged;				  /* old events deleted */
	int64 errors;				  /* transactions that failed */
	TimestampTz error_at;
	char error[CRM_ERROR_LEN]; /* the last error */
	/* Events by lateness: bucket n counts those less than 2^n ms late, the last one all others. */
	int64 lateness[CRM_LATENESS_BUCKETS];
	int64 max_lateness; /* microseconds */
} CrmSlot;

typedef struct CrmScheduler
{
	LWLock lock;
	int tranche;
	bool preloaded;
	int launcher_pid;
	Latch *launcher_latch;
	int waiting;	/* databases that want a worker and have none */
	CrmClock clock; /* writes to it under "lock", but for tests */
	int nslots;
	CrmSlot slots[FLEXIBLE_ARRAY_MEMBER];
} CrmScheduler;

/* NULL until this process has attached. */
extern CrmScheduler *crm_scheduler;

/* Settings. */
extern bool crm_scheduler_enabled;
extern int crm_max_workers;
extern int crm_max_databases;
extern int crm_worker_idle_timeout; /* seconds */
extern int crm_batch_size;
extern int crm_batch_timeout; /* milliseconds */
extern bool crm_notify;

/* Attaches to the shared memory, making it if need be; false (or an error, if elevel is ERROR) if
 * there is no room. */
extern bool crm_scheduler_attach(int elevel);
/* This database's slot, claiming a free one if "claim"; NULL if there is none. Needs no lock. */
extern CrmSlot *crm_scheduler_slot(Oid database, bool claim);
extern void crm_scheduler_wake_workers(void);
extern void crm_scheduler_wake_all(void);
extern void crm_scheduler_wake(CrmSlot *slot);
/* Lowers the slot's due_min and wakes the sleeper if it would sleep longer than that. */
extern void crm_scheduler_hint(CrmSlot *slot, TimestampTz due);

extern void crm_wake_init(void);
/* Tells the scheduler of a due time of this database when the transaction commits. */
extern void crm_wake_at_commit(TimestampTz due);
/* A prepared transaction of this database has been committed. */
extern void crm_wake_prepared(void);

typedef enum CrmWait
{
	CRM_WAIT_LAUNCHER,
	CRM_WAIT_WORKER,
	CRM_WAIT_CLOCK,
	CRM_WAIT_COMMAND
} CrmWait;

/* What pg_stat_activity shows of a process that waits. */
extern uint32 crm_wait_event(CrmWait wait);

/* Started by the postmaster through their names. */
extern PGDLLEXPORT void crm_launcher_main(Datum arg);
extern PGDLLEXPORT void crm_worker_main(Datum arg);

#endif /* CRM_SCHEDULER_H */
