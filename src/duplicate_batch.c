/*
 * duplicate_batch.c
 *		Rows of a statement looked up together, by parallel workers as well.
 *
 * The rows of a large statement are copied into shared memory, in chunks that the
 * participants take as they get to them: the process that writes, and as many of
 * max_parallel_maintenance_workers as the server has to give.  Each looks up its
 * chunks as a single process would, with the writer's snapshot, which sees what
 * the statement wrote; the answers come back in the order of the rows.  So a worker
 * that comes late, or not at all, changes the time it takes and nothing else.  The
 * first chunks are the largest, as rows looked up together cost less, and the last
 * ones small, so that nobody waits long for the others.
 *
 * No row can be written while there are workers.  Whatever depends on the answers,
 * the writer does afterwards.  What a matching index has put off (match_index.c) it
 * enters while workers make the keys of rows; they wait for it before they look.
 * That much may be written in parallel mode: it takes no transaction or command
 * number, the rows have theirs already; pages of an index are locked by buffer, as
 * between strangers, and its extension excludes the members of a group as well;
 * predicate locks know of parallel mode.  PostgreSQL's own builds of btrees with
 * workers do the same.  Whoever waits looks at interrupts, so an error of the writer
 * ends its workers.
 *
 * So that a statement of nothing but duplicates is not looked up to its end, no chunk
 * is begun once many pairs have been found: what was not looked up comes with the
 * next batch.
 *
 * Memory: all of it in the context in which the batch was made.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/table.h"
#include "access/xact.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/dsa.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "crm.h"
#include "duplicate_rule.h"
#include "match_index.h"

#define PARALLEL_ROWS 10000				 /* a statement of fewer is not worth a worker */
#define WORKER_ROWS	  2048				 /* each has so many at least */
#define CHUNK_ROWS	  8192				 /* looked up together by a process alone */
#define MOST_ROWS	  32768				 /* the same by one of several, ... */
#define LEAST_ROWS	  512				 /* ... and at the end */
#define CHUNK_SHARE	  2					 /* a chunk is so much of what each has left */
#define BATCH_CHUNKS  256				 /* most of a batch */
#define BATCH_MEMORY  (32 * 1024 * 1024) /* of the rows of a batch */
#define BATCH_FOUND	  10000				 /* pairs after which no chunk is begun */
#define ANSWER_MEMORY (64 * 1024)		 /* at first, of the answers */

#define KEY_BATCH  1
#define KEY_ROWS   2
#define KEY_ANSWER 3

PGDLLEXPORT void crm_duplicate_worker(dsm_segment *segment, shm_toc *toc);

static int64 chunks_of_workers = 0; /* read by tests */

/* A row, followed by its texts. */
typedef struct BatchRow
{
	int64 id;
	int64 number;
	float4 threshold;
	uint16 len[MATCH_NROLES]; /* 0 = blank */
} BatchRow;

/* A pair that was found, followed by its reasons. */
typedef struct BatchFound
{
	int64 number;
	int64 id;
	int64 other;
	float4 score;
	uint32 n;	 /* pairs of the row */
	uint32 size; /* of the reasons */
} BatchFound;

typedef struct BatchChunk
{
	uint32 first; /* where its rows begin */
	uint32 nrows;
	int64 last;		   /* number of its last row */
	dsa_pointer found; /* by a worker; InvalidDsaPointer = by the writer, or nothing */
	Size size;		   /* of what was found */
} BatchChunk;

typedef struct BatchShared
{
	Oid relid;
	int64 statistics; /* version */
	MatchScorer scorer;
	ConditionVariable ready;
	pg_atomic_uint32 entered; /* 1 = the index has the keys of all rows */
	pg_atomic_uint32 next;	  /* chunk to be looked up */
	pg_atomic_uint32 found;	  /* pairs */
	pg_atomic_uint32 helped;  /* chunks that workers looked up */
	uint32 share;			  /* of rows that each has, about */
	uint32 nchunks;
	BatchChunk chunk[BATCH_CHUNKS];
} BatchShared;

struct DuplicateBatch
{
	MemoryContext context;
	const DuplicateRules *rules;
	Relation rel;
	int workers;	   /* wanted */
	int64 left;		   /* rows to be added */
	uint32 chunk_rows; /* of the chunk that is being filled */
	uint32 nrows;
	DuplicateBasis basis;
	StringInfoData rows;
	BatchShared *shared;
	StringInfoData found[BATCH_CHUNKS]; /* by the writer */
};

/* None sees temporary tables, and none starts more of them. */
int
crm_duplicate_workers(Relation rel, int64 nrows)
{
	if (nrows < PARALLEL_ROWS || RelationUsesLocalBuffers(rel) || IsInParallelMode())
		return 0;
	return (int) Min(max_parallel_maintenance_workers, nrows / WORKER_ROWS);
}

/* A batch for so many rows at most, stored in the table by the current statement. */
DuplicateBatch *
crm_duplicate_batch(const DuplicateRules *rules, Relation rel, int workers, int64 nrows)
{
	DuplicateBatch *batch = palloc0(sizeof(DuplicateBatch));

	batch->context = CurrentMemoryContext;
	batch->rules = rules;
	batch->rel = rel;
	batch->workers = workers;
	batch->left = nrows;
	crm_duplicate_basis(rel, &batch->basis);
	batch->shared = palloc0(sizeof(BatchShared));
	batch->shared->relid = RelationGetRelid(rel);
	batch->shared->statistics = crm_match_version(batch->basis.stats);
	batch->shared->scorer = batch->basis.scorer;
	initStringInfo(&batch->rows);
	return batch;
}

/* How many rows the next chunk is to have. */
static uint32
crm_batch_chunk_rows(const DuplicateBatch *batch)
{
	int64 left = batch->left;

	if (batch->workers == 0)
		return CHUNK_ROWS;
	if (batch->nrows > 0)
		left = Min(left, (BATCH_MEMORY - batch->rows.len) / (batch->rows.len / batch->nrows));
	return (uint32) Min(MOST_ROWS, Max(LEAST_ROWS, left / (CHUNK_SHARE * (batch->workers + 1))));
}

/* Adds a row of the statement; false if the batch is full with it. */
bool
crm_duplicate_batch_add(DuplicateBatch *batch, const MatchValue values[MATCH_NROLES], int64 number,
						int64 id, float4 threshold)
{
	BatchShared *shared = batch->shared;
	BatchChunk *chunk;
	BatchRow row = {id, number, threshold};

	if (shared->nchunks == 0 || shared->chunk[shared->nchunks - 1].nrows == batch->chunk_rows)
	{
		batch->chunk_rows = crm_batch_chunk_rows(batch);
		shared->chunk[shared->nchunks++].first = (uint32) batch->rows.len;
	}
	chunk = &shared->chunk[shared->nchunks - 1];
	chunk->nrows++;
	batch->nrows++;
	batch->left--;
	chunk->last = number;
	for (int i = 0; i < MATCH_NROLES; i++)
		row.len[i] = values[i].data != NULL ? (uint16) values[i].len : 0;
	appendBinaryStringInfo(&batch->rows, (const char *) &row, sizeof(row));
	for (int i = 0; i < MATCH_NROLES; i++)
		if (row.len[i] > 0)
			appendBinaryStringInfo(&batch->rows, values[i].data, row.len[i]);
	while (batch->rows.len % MAXIMUM_ALIGNOF != 0)
		appendStringInfoChar(&batch->rows, '\0');
	return chunk->nrows < batch->chunk_rows ||
		   (batch->workers > 0 && shared->nchunks < BATCH_CHUNKS && batch->rows.len < BATCH_MEMORY);
}

/* The next row of a chunk, which begins at *at. */
static const BatchRow *
crm_batch_row(const char **at, MatchValue values[MATCH_NROLES])
{
	const BatchRow *row = (const BatchRow *) *at;

	*at += sizeof(BatchRow);
	for (int i = 0; i < MATCH_NROLES; i++)
	{
		values[i].data = row->len[i] > 0 ? *at : NULL;
		values[i].len = row->len[i];
		*at += row->len[i];
	}
	*at = (const char *) MAXALIGN((uintptr_t) *at);
	return row;
}

/* The rows of a chunk, ready to be looked up; in the current context. */
static DuplicateSearch *
crm_batch_search(const BatchChunk *chunk, const char *rows, const DuplicateRules *rules,
				 Relation rel, const DuplicateBasis *basis)
{
	DuplicateSearch *search = crm_duplicate_search(rules, rel, true, basis);
	MatchValue values[MATCH_NROLES];
	const char *at = rows + chunk->first;

	for (uint32 i = 0; i < chunk->nrows; i++)
	{
		const BatchRow *row = crm_batch_row(&at, values);

		CHECK_FOR_INTERRUPTS();
		crm_duplicate_search_add(search, values, row->id, row->threshold);
	}
	return search;
}

/* Looks them up; what is found is appended. */
static void
crm_batch_look_up(BatchShared *shared, const BatchChunk *chunk, const char *rows,
				  DuplicateSearch *search, StringInfo out)
{
	MatchValue values[MATCH_NROLES];
	const char *at = rows + chunk->first;

	crm_duplicate_search_run(search);
	for (uint32 i = 0; i < chunk->nrows; i++)
	{
		const BatchRow *row = crm_batch_row(&at, values);
		int n;
		const DuplicateFound *found = crm_duplicate_found(search, (int) i, &n);

		for (int k = 0; k < n; k++)
		{
			BatchFound pair = {row->number, row->id,
							   found[k].id, found[k].score,
							   (uint32) n,	(uint32) MAXALIGN(VARSIZE(found[k].reasons))};

			appendBinaryStringInfo(out, (const char *) &pair, sizeof(pair));
			enlargeStringInfo(out, (int) pair.size);
			memcpy(out->data + out->len, found[k].reasons, VARSIZE(found[k].reasons));
			out->len += (int) pair.size;
		}
		pg_atomic_fetch_add_u32(&shared->found, (uint32) n);
	}
}

/* The next chunk; false if none is to be begun. */
static bool
crm_batch_next(BatchShared *shared, uint32 *number)
{
	CHECK_FOR_INTERRUPTS();
	if (pg_atomic_read_u32(&shared->found) >= BATCH_FOUND)
		return false;
	*number = pg_atomic_fetch_add_u32(&shared->next, 1);
	return *number < shared->nchunks;
}

/* A worker's part of a batch. */
typedef struct BatchWorker
{
	BatchShared *shared;
	const char *rows;
	dsa_area *area;
	Relation rel;
	DuplicateRules rules;
	DuplicateBasis basis;
} BatchWorker;

/* A chunk that a worker took before it could be looked up. */
typedef struct BatchTaken
{
	BatchChunk *chunk;
	MemoryContext context;
	DuplicateSearch *search;
} BatchTaken;

static void
crm_worker_take(BatchWorker *worker, BatchChunk *chunk, BatchTaken *taken)
{
	MemoryContext old;

	taken->chunk = chunk;
	taken->context =
		AllocSetContextCreate(CurrentMemoryContext, "crm duplicate chunk", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(taken->context);
	taken->search =
		crm_batch_search(chunk, worker->rows, &worker->rules, worker->rel, &worker->basis);
	MemoryContextSwitchTo(old);
}

static void
crm_worker_look_up(BatchWorker *worker, BatchTaken *taken)
{
	BatchChunk *chunk = taken->chunk;
	MemoryContext old = MemoryContextSwitchTo(taken->context);
	StringInfoData found;

	initStringInfo(&found);
	crm_batch_look_up(worker->shared, chunk, worker->rows, taken->search, &found);
	if (found.len > 0)
	{
		chunk->found = dsa_allocate(worker->area, found.len);
		chunk->size = found.len;
		memcpy(dsa_get_address(worker->area, chunk->found), found.data, found.len);
	}
	pg_atomic_fetch_add_u32(&worker->shared->helped, 1);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(taken->context);
}

/* Waits until the index has the keys of all rows. */
static void
crm_worker_wait(BatchShared *shared)
{
	ConditionVariablePrepareToSleep(&shared->ready);
	while (pg_atomic_read_u32(&shared->entered) == 0)
		ConditionVariableSleep(&shared->ready, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
}

/* While the writer enters keys its share of the rows is made ready, then all there are looked up.
 */
static void
crm_worker_run(BatchWorker *worker)
{
	BatchShared *shared = worker->shared;
	BatchTaken taken[BATCH_CHUNKS];
	uint32 number, ntaken = 0, nrows = 0;

	/* The first chunk is the largest. */
	while (pg_atomic_read_u32(&shared->entered) == 0 &&
		   nrows + shared->chunk[0].nrows <= shared->share && crm_batch_next(shared, &number))
	{
		crm_worker_take(worker, &shared->chunk[number], &taken[ntaken++]);
		nrows += shared->chunk[number].nrows;
	}
	crm_worker_wait(shared);
	for (uint32 i = 0; i < ntaken; i++)
		crm_worker_look_up(worker, &taken[i]);
	while (crm_batch_next(shared, &number))
	{
		crm_worker_take(worker, &shared->chunk[number], &taken[0]);
		crm_worker_look_up(worker, &taken[0]);
	}
}

void
crm_duplicate_worker(dsm_segment *segment, shm_toc *toc)
{
	BatchWorker worker = {.shared = shm_toc_lookup(toc, KEY_BATCH, false),
						  .rows = shm_toc_lookup(toc, KEY_ROWS, false)};
	BatchShared *shared = worker.shared;

	worker.area = dsa_attach_in_place(shm_toc_lookup(toc, KEY_ANSWER, false), segment);
	worker.rel = table_open(shared->relid, AccessShareLock);
	worker.rules.columns = crm_match_columns(worker.rel, false);
	worker.rules.id_att = crm_duplicate_id_column(worker.rel, &worker.rules.id_type);
	worker.basis.scorer = shared->scorer;
	/* Who comes when all is done need not read statistics. */
	if (pg_atomic_read_u32(&shared->next) < shared->nchunks)
		worker.basis.stats = crm_match_stats(shared->relid);
	/* Others than the writer's, learned a moment ago, would find something else. */
	if (worker.basis.stats != NULL && crm_match_version(worker.basis.stats) == shared->statistics)
		crm_worker_run(&worker);
	table_close(worker.rel, NoLock);
	dsa_detach(worker.area);
}

/* The writer's part. */
static void
crm_batch_take_part(DuplicateBatch *batch, BatchShared *shared, const char *rows)
{
	MemoryContext context =
		AllocSetContextCreate(batch->context, "crm duplicate chunk", ALLOCSET_DEFAULT_SIZES);
	uint32 number;

	while (crm_batch_next(shared, &number))
	{
		const BatchChunk *chunk = &shared->chunk[number];
		MemoryContext old;

		initStringInfo(&batch->found[number]);
		old = MemoryContextSwitchTo(context);
		crm_batch_look_up(shared, chunk, rows,
						  crm_batch_search(chunk, rows, batch->rules, batch->rel, &batch->basis),
						  &batch->found[number]);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
}

/* Whoever runs out of shared memory is told how to do without. */
static void
crm_batch_context(void *arg)
{
	errcontext("shared memory of a search for duplicates, which needs none if "
			   "max_parallel_maintenance_workers is 0");
}

static ParallelContext *
crm_batch_parallel(DuplicateBatch *batch, dsa_area **area)
{
	ErrorContextCallback callback = {error_context_stack, crm_batch_context, NULL};
	ParallelContext *parallel =
		CreateParallelContext("$libdir/crm", "crm_duplicate_worker", batch->workers);
	Size answer = Max(ANSWER_MEMORY, dsa_minimum_size());
	void *place;

	shm_toc_estimate_chunk(&parallel->estimator, sizeof(BatchShared));
	shm_toc_estimate_chunk(&parallel->estimator, batch->rows.len);
	shm_toc_estimate_chunk(&parallel->estimator, answer);
	shm_toc_estimate_keys(&parallel->estimator, 3);
	error_context_stack = &callback;
	InitializeParallelDSM(parallel);
	error_context_stack = callback.previous;
	place = shm_toc_allocate(parallel->toc, sizeof(BatchShared));
	memcpy(place, batch->shared, sizeof(BatchShared));
	batch->shared = place;
	batch->shared->share = batch->nrows / (batch->workers + 1);
	ConditionVariableInit(&batch->shared->ready);
	shm_toc_insert(parallel->toc, KEY_BATCH, place);
	place = shm_toc_allocate(parallel->toc, batch->rows.len);
	memcpy(place, batch->rows.data, batch->rows.len);
	shm_toc_insert(parallel->toc, KEY_ROWS, place);
	place = shm_toc_allocate(parallel->toc, answer);
	*area = dsa_create_in_place(place, answer, LWTRANCHE_PARALLEL_QUERY_DSA, parallel->seg);
	shm_toc_insert(parallel->toc, KEY_ANSWER, place);
	LaunchParallelWorkers(parallel);
	return parallel;
}

/* Looks up the rows with workers; what they found is copied. */
static void
crm_batch_run_parallel(DuplicateBatch *batch)
{
	ParallelContext *parallel;
	BatchShared *shared, *own = batch->shared;
	dsa_area *area;

	EnterParallelMode();
	parallel = crm_batch_parallel(batch, &area);
	shared = batch->shared;
	/* An index may be written beside workers, as where one is built with them. */
	crm_match_index_catch_up(batch->rules->columns->indexid);
	pg_atomic_write_u32(&shared->entered, 1);
	ConditionVariableBroadcast(&shared->ready);
	crm_batch_take_part(batch, shared, batch->rows.data);
	WaitForParallelWorkersToFinish(parallel);
	for (uint32 i = 0; i < shared->nchunks; i++)
		if (DsaPointerIsValid(shared->chunk[i].found))
		{
			initStringInfo(&batch->found[i]);
			appendBinaryStringInfo(&batch->found[i], dsa_get_address(area, shared->chunk[i].found),
								   (int) shared->chunk[i].size);
		}
	chunks_of_workers += pg_atomic_read_u32(&shared->helped);
	pg_atomic_write_u32(&own->next, pg_atomic_read_u32(&shared->next));
	batch->shared = own;
	dsa_detach(area);
	DestroyParallelContext(parallel);
	ExitParallelMode();
}

/* What was found in a chunk, by row; added to the answers. */
static void
crm_batch_answers(char *at, const char *end, DuplicateAnswers *answers)
{
	while (at < end)
	{
		const BatchFound *pair = (const BatchFound *) at;
		DuplicateAnswer *answer;

		if (answers->n == answers->allocated)
		{
			answers->allocated = Max(16, 2 * answers->allocated);
			answers->answer = answers->answer == NULL
								  ? palloc(sizeof(DuplicateAnswer) * answers->allocated)
								  : repalloc_huge(answers->answer, sizeof(DuplicateAnswer) *
																	   (Size) answers->allocated);
		}
		answer = &answers->answer[answers->n++];
		answer->number = pair->number;
		answer->id = pair->id;
		answer->nfound = (int) pair->n;
		answer->found = palloc(sizeof(DuplicateFound) * pair->n);
		for (int i = 0; i < answer->nfound; i++)
		{
			pair = (const BatchFound *) at;
			answer->found[i].id = pair->other;
			answer->found[i].score = pair->score;
			answer->found[i].reasons = (Jsonb *) (at + sizeof(BatchFound));
			answer->found[i].visible = answer->found[i].own = answer->found[i].decided = false;
			at += sizeof(BatchFound) + pair->size;
		}
	}
}

/*
 * Looks up the rows of the batch with the active snapshot.  The answers are of those
 * for which something was found, in their order.
 */
void
crm_duplicate_batch_run(DuplicateBatch *batch, DuplicateAnswers *answers)
{
	BatchShared *shared = batch->shared;
	uint32 done;

	memset(answers, 0, sizeof(*answers));
	answers->all = true;
	if (shared->nchunks == 0)
		return;
	if (batch->workers > 0 && shared->nchunks > 1)
		crm_batch_run_parallel(batch);
	else
		crm_batch_take_part(batch, shared, batch->rows.data);
	done = Min(pg_atomic_read_u32(&shared->next), shared->nchunks);
	answers->last = shared->chunk[done - 1].last;
	answers->all = done == shared->nchunks;
	for (uint32 i = 0; i < done; i++)
		if (batch->found[i].len > 0)
			crm_batch_answers(batch->found[i].data, batch->found[i].data + batch->found[i].len,
							  answers);
}

/* Chunks that workers of this session looked up; for tests. */
PG_FUNCTION_INFO_V1(crm_duplicate_helped);
Datum
crm_duplicate_helped(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(chunks_of_workers);
}
