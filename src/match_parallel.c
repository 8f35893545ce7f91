/*
 * match_parallel.c
 *		The processes of a scan: how they share memory and work.
 *
 * Who asks for a scan takes part in every job; parallel workers help as far as
 * the server has any.  A job is cut into pieces that participants take as they
 * get to them, so that a worker which comes late, or not at all, changes the
 * time a scan takes and nothing else.
 *
 * Without workers memory comes from the scan's own context, with them from
 * dynamic shared memory.  Either is limited by crm.scan_memory.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/table.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lwlock.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "crm.h"
#include "match_scan.h"

#define KEY_START 1
#define KEY_HEAP  2

/* What a worker needs to find the rest. */
typedef struct ScanStart
{
	dsa_handle area;
	dsa_pointer shared;
} ScanStart;

int crm_scan_memory = 2 * 1024 * 1024;

PGDLLEXPORT void crm_scan_worker(dsm_segment *segment, shm_toc *toc);

void
crm_match_scan_init(void)
{
	DefineCustomIntVariable("crm.scan_memory", "Memory that a scan for duplicates may take.",
							"All its processes together.", &crm_scan_memory, 2 * 1024 * 1024,
							16 * 1024, MAX_KILOBYTES, PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
}

static CRM_NORETURN void
crm_scan_no_memory(const MatchScan *scan)
{
	ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					errmsg("scanning for duplicates needs more memory than crm.scan_memory"),
					errdetail("The limit is %llu kB, and what is compared of the records in pairs "
							  "must fit: 600 to 900 bytes each, beside some MB for each process "
							  "and the statistics.",
							  (unsigned long long) scan->shared->limit / 1024),
					errhint("Raise crm.scan_memory.")));
}

/* Whoever runs out of shared memory is told how to do without. */
static void
crm_scan_context(void *arg)
{
	errcontext("shared memory of a scan for duplicates, which needs none if "
			   "max_parallel_maintenance_workers is 0");
}

void *
crm_scan_alloc(MatchScan *scan, Size size, ScanRef *ref)
{
	ErrorContextCallback context = {.callback = crm_scan_context, .previous = error_context_stack};
	void *result;

	size = MAXALIGN(Max(size, 1));
	if (pg_atomic_add_fetch_u64(&scan->shared->used, size) > scan->shared->limit)
		crm_scan_no_memory(scan);
	if (scan->area == NULL)
	{
		result = MemoryContextAllocHuge(scan->context, size);
		*ref = (ScanRef) (uintptr_t) result;
		return result;
	}
	error_context_stack = &context;
	*ref = dsa_allocate_extended(scan->area, size, DSA_ALLOC_HUGE);
	error_context_stack = context.previous;
	return dsa_get_address(scan->area, *ref);
}

void *
crm_scan_get(MatchScan *scan, ScanRef ref)
{
	if (ref == 0)
		return NULL;
	return scan->area == NULL ? (void *) (uintptr_t) ref : dsa_get_address(scan->area, ref);
}

void
crm_scan_free(MatchScan *scan, ScanRef *ref, Size size)
{
	if (*ref == 0)
		return;
	pg_atomic_sub_fetch_u64(&scan->shared->used, MAXALIGN(Max(size, 1)));
	if (scan->area == NULL)
		pfree((void *) (uintptr_t) *ref);
	else
		dsa_free(scan->area, *ref);
	*ref = 0;
}

/* The next piece of the job; false if none is left. */
bool
crm_scan_next(MatchScan *scan, uint32 *piece)
{
	CHECK_FOR_INTERRUPTS();
	*piece = pg_atomic_fetch_add_u32(&scan->shared->next, 1);
	return *piece < scan->shared->pieces;
}

void *
crm_scan_share(MatchScan *scan, const void *data, Size size, ScanRef *ref)
{
	void *shared = crm_scan_alloc(scan, size, ref);

	if (size > 0)
		memcpy(shared, data, size);
	return shared;
}

/* Addresses of what the jobs before have made. */
void
crm_scan_locate(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	uint32 nchunks = pg_atomic_read_u32(&shared->nchunks);

	if (scan->generation != shared->generation)
		crm_scan_emptied(scan);
	scan->generation = shared->generation;
	for (uint32 i = 0; i < nchunks; i++)
		if (scan->chunk[i] == NULL)
			scan->chunk[i] = crm_scan_get(scan, shared->chunk[i]);
	if (scan->nrecords != shared->nrecords)
		crm_scan_indexed(scan);
	scan->nrecords = shared->nrecords;
	scan->id = crm_scan_get(scan, shared->id);
	scan->record = crm_scan_get(scan, shared->record);
	scan->apart = crm_scan_get(scan, shared->apart);
	scan->napart = shared->napart;
	crm_match_scorer(&scan->scorer, &shared->model, shared->rows);
}

static void
crm_scan_work(MatchScan *scan, ScanJob job)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match scan job", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	crm_scan_locate(scan);
	switch (job)
	{
		case SCAN_READ:
			crm_scan_read(scan);
			break;
		case SCAN_SORT:
			crm_scan_sort(scan);
			break;
		case SCAN_LINK:
			crm_scan_link_blocks(scan);
			break;
		case SCAN_WEIGH:
			crm_scan_weigh(scan);
			break;
		case SCAN_COMPARE:
			crm_scan_compare(scan);
			break;
		case SCAN_COUNT:
			crm_scan_count(scan);
			break;
		case SCAN_COUNT_KEYS:
			crm_scan_count_keys(scan);
			break;
		case SCAN_EXPLAIN:
			crm_scan_explain(scan);
			break;
		case SCAN_CHANGED:
			crm_scan_changed(scan);
			break;
		case SCAN_LOOK_UP:
			crm_scan_look_up(scan);
			break;
		case SCAN_MEET:
			crm_scan_meet(scan);
			break;
		case SCAN_MATCH:
			crm_scan_match(scan);
			break;
		case SCAN_CLUSTER:
		case SCAN_WRITE:
		case SCAN_END:
			break;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	/* What others made meanwhile. */
	crm_scan_locate(scan);
}

/* A phase of the barrier with an even number is between jobs, one with an odd number is a job. */
static void
crm_scan_arrive(ScanShared *shared)
{
	BarrierArriveAndWait(&shared->barrier, PG_WAIT_EXTENSION);
}

void
crm_scan_start(MatchScan *scan, ScanJob job, uint32 pieces)
{
	ScanShared *shared = scan->shared;

	shared->job = job;
	shared->pieces = pieces;
	pg_atomic_write_u32(&shared->next, 0);
	if (scan->parallel != NULL)
		crm_scan_arrive(shared);
}

void
crm_scan_join(MatchScan *scan)
{
	crm_scan_work(scan, scan->shared->job);
	if (scan->parallel != NULL)
		crm_scan_arrive(scan->shared);
}

/* A job, by all participants. */
void
crm_scan_do(MatchScan *scan, ScanJob job, uint32 pieces)
{
	crm_scan_start(scan, job, pieces);
	crm_scan_join(scan);
}

void
crm_scan_job(MatchScan *scan, ScanJob job, uint32 pieces, uint64 total)
{
	crm_progress_job(scan->shared, job, total);
	crm_scan_do(scan, job, pieces);
}

void
crm_scan_worker(dsm_segment *segment, shm_toc *toc)
{
	const ScanStart *start = shm_toc_lookup(toc, KEY_START, false);
	MatchScan *scan = palloc0(sizeof(MatchScan));
	ScanShared *shared;
	uint32 number;
	int phase;

	scan->context = CurrentMemoryContext;
	scan->area = dsa_attach(start->area);
	scan->shared = shared = dsa_get_address(scan->area, start->shared);
	scan->heap = shm_toc_lookup(toc, KEY_HEAP, false);
	number = pg_atomic_fetch_add_u32(&shared->nparts, 1);
	if (number >= SCAN_MAX_PARTS)
		elog(ERROR, "too many workers");
	scan->part = &shared->part[number];
	phase = BarrierAttach(&shared->barrier);
	for (;;)
	{
		if (phase % 2 == 0)
			crm_scan_arrive(shared);
		if (shared->job == SCAN_END)
			break;
		crm_scan_work(scan, shared->job);
		crm_scan_arrive(shared);
		phase = 0;
	}
	BarrierDetach(&shared->barrier);
	dsa_detach(scan->area);
}

/* The shared memory goes with the scan's context, whatever subtransactions come and go. */
static void
crm_scan_detach(void *area)
{
	dsa_detach(area);
}

static void
crm_scan_create_area(MatchScan *scan)
{
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	scan->area = dsa_create(LWTRANCHE_PARALLEL_QUERY_DSA);
	MemoryContextSwitchTo(old);
	dsa_pin_mapping(scan->area);
	callback->func = crm_scan_detach;
	callback->arg = scan->area;
	MemoryContextRegisterResetCallback(scan->context, callback);
}

/* Memory for the scan and, if they are wanted and to be had, workers. */
MatchScan *
crm_scan_begin(Relation rel, int workers)
{
	MatchScan *scan = palloc0(sizeof(MatchScan));
	ScanShared *shared;
	ParallelContext *parallel;
	Snapshot snapshot = GetActiveSnapshot();
	ScanStart *start;
	dsa_pointer place;

	scan->context = CurrentMemoryContext;
	scan->rel = rel;
	/* Workers do not see temporary tables, and none start more of them. */
	if (workers > 0 && (RelationUsesLocalBuffers(rel) || IsInParallelMode()))
		workers = 0;
	if (workers == 0)
		scan->shared = shared = palloc0(sizeof(ScanShared));
	else
	{
		crm_scan_create_area(scan);
		place = dsa_allocate0(scan->area, sizeof(ScanShared));
		scan->shared = shared = dsa_get_address(scan->area, place);
	}
	shared->relid = RelationGetRelid(rel);
	shared->limit = (uint64) crm_scan_memory * 1024;
	shared->progress = -1;
	pg_atomic_init_u64(&shared->used, sizeof(ScanShared));
	pg_atomic_init_u32(&shared->next, 0);
	pg_atomic_init_u32(&shared->nparts, 1);
	pg_atomic_init_u32(&shared->nchunks, 0);
	pg_atomic_init_u32(&shared->npages, 0);
	pg_atomic_init_u32(&shared->outgrown, 0);
	pg_atomic_init_u32(&shared->no_room, 0);
	pg_atomic_init_u64(&shared->nkeys, 0);
	pg_atomic_init_u64(&shared->nkept, 0);
	BarrierInit(&shared->barrier, 0);
	scan->part = &shared->part[0];
	if (workers == 0)
		return scan;

	EnterParallelMode();
	scan->parallel = parallel =
		CreateParallelContext("$libdir/crm", "crm_scan_worker", Min(workers, SCAN_MAX_PARTS - 1));
	shm_toc_estimate_chunk(&parallel->estimator, sizeof(ScanStart));
	shm_toc_estimate_chunk(&parallel->estimator, table_parallelscan_estimate(rel, snapshot));
	shm_toc_estimate_keys(&parallel->estimator, 2);
	InitializeParallelDSM(parallel);
	start = shm_toc_allocate(parallel->toc, sizeof(ScanStart));
	start->area = dsa_get_handle(scan->area);
	start->shared = place;
	shm_toc_insert(parallel->toc, KEY_START, start);
	scan->heap = shm_toc_allocate(parallel->toc, table_parallelscan_estimate(rel, snapshot));
	table_parallelscan_initialize(rel, scan->heap, snapshot);
	shm_toc_insert(parallel->toc, KEY_HEAP, scan->heap);
	BarrierAttach(&shared->barrier);
	LaunchParallelWorkers(parallel);
	scan->workers = parallel->nworkers_launched;
	return scan;
}

/* Nothing more is there to do for workers; that they go takes them a while. */
void
crm_scan_dismiss(MatchScan *scan)
{
	if (scan->parallel == NULL || scan->shared->job == SCAN_END)
		return;
	scan->shared->job = SCAN_END;
	crm_scan_arrive(scan->shared);
	BarrierDetach(&scan->shared->barrier);
}

/* Sends the workers home, and leaves parallel mode so that something can be written. */
void
crm_scan_end(MatchScan *scan)
{
	if (scan->parallel == NULL)
		return;
	crm_scan_dismiss(scan);
	WaitForParallelWorkersToFinish(scan->parallel);
	DestroyParallelContext(scan->parallel);
	ExitParallelMode();
	scan->parallel = NULL;
	scan->heap = NULL;
}
