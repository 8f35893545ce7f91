/*
 * match_progress.c
 *		How far scans for duplicates are, for other sessions to see.
 *
 * One place in shared memory for each scan that runs; a scan that finds none
 * runs unseen.  The numbers are advisory: they are read without a lock.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "match_scan.h"
#include "workspace.h"

#define PROGRESS_SLOTS 16

typedef struct ProgressSlot
{
	pg_atomic_uint32 pid; /* 0 = free */
	Oid database;
	Oid workspace;
	Oid relid;
	NameData kind;
	int workers;
	TimestampTz started_at;
	pg_atomic_uint32 job;
	pg_atomic_uint64 total;
	pg_atomic_uint64 done;
} ProgressSlot;

static ProgressSlot *progress = NULL;

static const char *const job_names[] = {
	[SCAN_READ] = "reading",
	[SCAN_SORT] = "sorting keys",
	[SCAN_LINK] = "linking keys",
	[SCAN_WEIGH] = "weighing",
	[SCAN_COMPARE] = "comparing",
	[SCAN_CHANGED] = "reading changes",
	[SCAN_LOOK_UP] = "looking up changes",
	[SCAN_MEET] = "meeting changes",
	[SCAN_COUNT] = "counting",
	[SCAN_COUNT_KEYS] = "counting keys",
	[SCAN_MATCH] = "comparing changes",
	[SCAN_EXPLAIN] = "explaining",
	[SCAN_CLUSTER] = "clustering",
	[SCAN_WRITE] = "writing",
	[SCAN_END] = "finishing",
};

static void
crm_progress_setup(void *memory)
{
	ProgressSlot *slot = memory;

	memset(slot, 0, sizeof(ProgressSlot) * PROGRESS_SLOTS);
	for (int i = 0; i < PROGRESS_SLOTS; i++)
	{
		pg_atomic_init_u32(&slot[i].pid, 0);
		pg_atomic_init_u32(&slot[i].job, 0);
		pg_atomic_init_u64(&slot[i].total, 0);
		pg_atomic_init_u64(&slot[i].done, 0);
	}
}

static bool
crm_progress_attach(void)
{
	if (progress == NULL)
		progress = crm_get_shared("crm scan progress", sizeof(ProgressSlot) * PROGRESS_SLOTS,
								  crm_progress_setup);
	return progress != NULL;
}

static ProgressSlot *
crm_progress_slot(const ScanShared *shared)
{
	return shared->progress >= 0 && crm_progress_attach() ? &progress[shared->progress] : NULL;
}

/* However the scan ends, its context goes. */
static void
crm_progress_end(void *arg)
{
	ProgressSlot *slot = arg;

	pg_atomic_write_u32(&slot->pid, 0);
}

void
crm_progress_begin(MatchScan *scan, Oid workspace, const char *kind)
{
	MemoryContextCallback *callback;

	if (!crm_progress_attach())
		return;
	callback = MemoryContextAlloc(scan->context, sizeof(MemoryContextCallback));
	for (int i = 0; i < PROGRESS_SLOTS; i++)
	{
		ProgressSlot *slot = &progress[i];
		uint32 nobody = 0;

		if (pg_atomic_read_u32(&slot->pid) != (uint32) MyProcPid &&
			!pg_atomic_compare_exchange_u32(&slot->pid, &nobody, (uint32) MyProcPid))
			continue;
		slot->database = MyDatabaseId;
		slot->workspace = workspace;
		slot->relid = scan->shared->relid;
		strlcpy(NameStr(slot->kind), kind, NAMEDATALEN);
		slot->workers = scan->workers;
		slot->started_at = GetCurrentTimestamp();
		pg_atomic_write_u64(&slot->total, 0);
		pg_atomic_write_u64(&slot->done, 0);
		scan->shared->progress = i;
		callback->func = crm_progress_end;
		callback->arg = slot;
		MemoryContextRegisterResetCallback(scan->context, callback);
		return;
	}
}

void
crm_progress_job(const ScanShared *shared, ScanJob job, uint64 total)
{
	ProgressSlot *slot = crm_progress_slot(shared);

	ereport(DEBUG1,
			(errmsg_internal("scan for duplicates: %s, " UINT64_FORMAT " kB", job_names[job],
							 pg_atomic_read_u64(&((ScanShared *) shared)->used) / 1024)));
	if (slot == NULL)
		return;
	pg_atomic_write_u64(&slot->done, 0);
	pg_atomic_write_u64(&slot->total, total);
	pg_atomic_write_u32(&slot->job, (uint32) job);
}

void
crm_progress_add(const ScanShared *shared, uint64 done)
{
	ProgressSlot *slot = crm_progress_slot(shared);

	if (slot != NULL)
		pg_atomic_fetch_add_u64(&slot->done, done);
}

/* crm.scan_progress(): those scans of this database whose workspace the caller owns. */
PG_FUNCTION_INFO_V1(crm_scan_progress);
Datum
crm_scan_progress(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; crm_progress_attach() && i < PROGRESS_SLOTS; i++)
	{
		ProgressSlot *slot = &progress[i];
		uint32 pid = pg_atomic_read_u32(&slot->pid);
		uint32 job = pg_atomic_read_u32(&slot->job);
		uint64 total = pg_atomic_read_u64(&slot->total);
		char *schema;
		Datum values[8];
		bool nulls[8] = {0};

		if (pid == 0 || slot->database != MyDatabaseId || job >= lengthof(job_names))
			continue;
		schema = get_namespace_name(slot->workspace);
		if (schema == NULL ||
			!(has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS) ||
			  has_privs_of_role(GetUserId(), crm_workspace_owner(slot->workspace))))
			continue;
		values[0] = Int32GetDatum((int32) pid);
		values[1] = ObjectIdGetDatum(slot->workspace);
		values[2] = CStringGetTextDatum(NameStr(slot->kind));
		values[3] = CStringGetTextDatum(job_names[job]);
		values[4] = Int64GetDatum((int64) Min(pg_atomic_read_u64(&slot->done), total));
		values[5] = Int64GetDatum((int64) total);
		values[6] = Int32GetDatum(slot->workers);
		values[7] = TimestampTzGetDatum(slot->started_at);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
