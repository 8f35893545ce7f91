/*
 * match_scan.c
 *		Finding all duplicates of a table at once.
 *
 * The first scan reads the whole table; the next ones read only rows that
 * transactions wrote since, and look up in the matching index what those rows
 * are like.  Both come to the same result as long as what they rest on is the
 * same: the statistics, the model, the columns, the threshold.  When that
 * changes, or very much has changed in the table, a scan is full again.
 *
 * Keys are left out that the statistics say are common.  Where they say a key is
 * rare and a crowd has it by now, they are out of date: the scan begins again, of
 * the whole table, and learns them anew.  So no scan ever leaves out a key that
 * the statistics do not, and what a key brings together does not depend on which
 * scan looked at it.
 *
 * Everything a scan writes, it writes at its end and in one transaction.
 */
#include "postgres.h"

#include <math.h>

#include "access/parallel.h"
#include "access/transam.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "optimizer/paths.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "match_index.h"
#include "match_scan.h"
#include "workspace.h"

#define DEFAULT_BITS  0.0 /* log-odds from which a pair is reported */
#define BASIS_VERSION 2	  /* of what is compared and how; counts up when that changes */
#define MOST_CHANGED  0.1 /* of the rows; with more, a full scan is quicker */
#define OLD_XID		  (UINT64CONST(1) << 30)
#define CHANGE_NEEDS  2048 /* bytes that looking up a changed row takes */

/* So many rows may have changed since the last scan of the whole table. */
static uint64
crm_most_changed(uint64 rows)
{
	return Max((uint64) (MOST_CHANGED * (double) rows), 100);
}

/* A scan that somebody asked for. */
typedef struct ScanTask
{
	Oid workspace;
	char *schema;
	char *kind;
	Relation rel;
	float threshold;
	uint64 seen;	  /* transactions before this one need not be looked at again */
	int64 statistics; /* version */
	double statistics_rows;
	double statistics_changes; /* rows written since */
	bool outgrown;			   /* the statistics are, by a key that is a crowd now or other rows */
	bool passes;			   /* it does not fit into memory at once */
	bytea *counts;
	MemoryContext context;

	/* what came of it */
	bool full;
	int workers;
	uint64 rows;
	uint64 read;
	uint64 pairs;
	uint64 clustered;
	uint64 crowded[2]; /* identifiers, pieces of names */
	TransactionId writer;
	ScanResult result;
} ScanTask;

/* The last scan of the kind. */
typedef struct LastScan
{
	bool found;
	int64 basis;
	uint64 seen;
	uint64 rows;
	uint64 changed; /* since the last scan of the whole table */
	TransactionId writer;
} LastScan;

static char *
crm_task_sql(const ScanTask *task, const char *format)
{
	return psprintf(format, quote_identifier(task->schema));
}

static Datum
crm_task_value(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

static void
crm_last_scan(ScanTask *task, LastScan *last)
{
	Oid types[1] = {TEXTOID};
	Datum args[1] = {CStringGetTextDatum(task->kind)};
	bool null;

	memset(last, 0, sizeof(*last));
	if (SPI_execute_with_args(
			psprintf("SELECT s.basis, s.seen, s.rows, (SELECT pg_catalog.sum(c.rows_read)::bigint "
					 "FROM %1$s.duplicate_scan AS c WHERE c.kind OPERATOR(pg_catalog.=) $1 AND NOT "
					 "c.whole AND c.id OPERATOR(pg_catalog.>) (SELECT pg_catalog.max(w.id) "
					 "FROM %1$s.duplicate_scan AS w WHERE w.kind OPERATOR(pg_catalog.=) $1 AND "
					 "w.whole)), s.writer "
					 "FROM %1$s.duplicate_scan AS s WHERE s.kind OPERATOR(pg_catalog.=) $1 "
					 "ORDER BY s.id DESC LIMIT 1",
					 quote_identifier(task->schema)),
			1, types, args, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the last scan");
	if (SPI_processed == 0)
		return;
	last->found = true;
	last->basis = DatumGetInt64(crm_task_value(0, 1, &null));
	last->seen = (uint64) DatumGetInt64(crm_task_value(0, 2, &null));
	last->rows = (uint64) DatumGetInt64(crm_task_value(0, 3, &null));
	last->writer = (TransactionId) DatumGetInt64(crm_task_value(0, 5, &null));
	last->changed = (uint64) DatumGetInt64(crm_task_value(0, 4, &null));
	if (null)
		last->changed = 0;
}

/* The newest statistics of the table, counts as well if wanted. */
static void
crm_read_statistics(ScanTask *task, bool counts)
{
	Oid types[2] = {TEXTOID, REGCLASSOID};
	Datum args[2] = {CStringGetTextDatum(RelationGetRelationName(task->rel)),
					 ObjectIdGetDatum(RelationGetRelid(task->rel))};
	MemoryContext old;
	bool null;

	task->statistics = 0;
	task->statistics_rows = task->statistics_changes = 0;
	if (SPI_execute_with_args(
			psprintf("SELECT s.version, s.rows, "
					 "crm._rows_changed($2) OPERATOR(pg_catalog.-) s.changes%s "
					 "FROM %s.match_statistics AS s "
					 "WHERE s.relation OPERATOR(pg_catalog.=) $1 ORDER BY s.version DESC LIMIT 1",
					 counts ? ", s.keys" : "", quote_identifier(task->schema)),
			2, types, args, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read matching statistics");
	if (SPI_processed == 0)
		return;
	task->statistics = DatumGetInt64(crm_task_value(0, 1, &null));
	task->statistics_rows = (double) DatumGetInt64(crm_task_value(0, 2, &null));
	task->statistics_changes = (double) DatumGetInt64(crm_task_value(0, 3, &null));
	if (counts)
	{
		old = MemoryContextSwitchTo(task->context);
		task->counts = DatumGetByteaPCopy(crm_task_value(0, 4, &null));
		MemoryContextSwitchTo(old);
	}
}

/* Keeps what the scan learned as crm.analyze_matching() would. */
static void
crm_store_statistics(ScanTask *task, MatchScan *scan)
{
	Oid types[5] = {TEXTOID, INT8OID, INT8OID, BYTEAOID, REGCLASSOID};
	Size size = sizeof(MatchCount) * (Size) scan->shared->ncounts;
	bytea *packed;
	Datum args[5];

	if (size > MaxAllocSize - VARHDRSZ)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("the table has too many keys to be scanned at once")));
	packed = palloc(VARHDRSZ + size);
	SET_VARSIZE(packed, VARHDRSZ + size);
	memcpy(VARDATA(packed), crm_scan_get(scan, scan->shared->counts), size);
	args[0] = CStringGetTextDatum(RelationGetRelationName(task->rel));
	args[1] = Int64GetDatum(++task->statistics);
	args[2] = Int64GetDatum((int64) scan->shared->nrows);
	args[3] = PointerGetDatum(packed);
	args[4] = ObjectIdGetDatum(RelationGetRelid(task->rel));
	if (SPI_execute_with_args(crm_task_sql(task, "INSERT INTO %s.match_statistics "
												 "(relation, version, rows, keys, changes) "
												 "VALUES ($1, $2, $3, $4, crm._rows_changed($5))"),
							  5, types, args, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write matching statistics");
	/* The version before stays, so that scores given with it can be understood. */
	args[1] = Int64GetDatum(task->statistics - 1);
	if (SPI_execute_with_args(crm_task_sql(task, "DELETE FROM %s.match_statistics AS s "
												 "WHERE s.relation OPERATOR(pg_catalog.=) $1 "
												 "AND s.version OPERATOR(pg_catalog.<) $2"),
							  2, types, args, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not write matching statistics");
	pfree(packed);
}

/* What the result rests on, in one number. */
static int64
crm_task_basis(const ScanTask *task, const MatchColumns *columns)
{
	const MatchModel *model = crm_match_model(RelationGetRelid(task->rel));
	Relation pairs =
		table_open(crm_workspace_table(task->workspace, "duplicate_pair", false), AccessShareLock);
	Relation clusters = table_open(crm_workspace_table(task->workspace, "duplicate_cluster", false),
								   AccessShareLock);
	/* Rewritten or emptied result tables have another file. */
	uint64 parts[] = {BASIS_VERSION,
					  GetSystemIdentifier(),
					  RelationGetRelid(task->rel),
					  columns->indexid,
					  RelationGetRelid(pairs),
					  CRM_RELATION_FILE(pairs),
					  CRM_RELATION_FILE(clusters),
					  (uint64) task->statistics};
	uint64 hash = hash_bytes_extended((const unsigned char *) model, sizeof(*model), 0);

	hash = hash_combine64(hash, hash_bytes_extended((const unsigned char *) columns->model,
													(int) strlen(columns->model), 0));
	hash = hash_combine64(hash, hash_bytes_extended((const unsigned char *) columns->attnum,
													sizeof(AttrNumber) * columns->ncolumns, 0));
	hash = hash_combine64(
		hash, hash_bytes_extended((const unsigned char *) &task->threshold, sizeof(float), 0));
	hash =
		hash_combine64(hash, hash_bytes_extended((const unsigned char *) parts, sizeof(parts), 0));
	table_close(clusters, NoLock);
	table_close(pairs, NoLock);
	return (int64) hash;
}

static int
crm_scan_workers(Relation rel)
{
	if (RelationGetNumberOfBlocks(rel) < (BlockNumber) min_parallel_table_scan_size)
		return 0;
	return Min(max_parallel_maintenance_workers, SCAN_MAX_PARTS - 1);
}

static MatchScan *
crm_task_begin(ScanTask *task)
{
	MatchScan *scan = crm_scan_begin(task->rel, crm_scan_workers(task->rel));

	scan->shared->model = *crm_match_model(RelationGetRelid(task->rel));
	scan->shared->threshold = task->threshold;
	task->workers = scan->workers;
	crm_progress_begin(scan, task->workspace, task->kind);
	return scan;
}

/* Pairs told apart, for all participants. */
static void
crm_task_apart(MatchScan *scan, const KnownResult *known)
{
	IdPair *apart;
	uint32 n = 0;

	for (uint32 i = 0; i < known->npairs; i++)
		n += known->pair[i].state == PAIR_APART;
	apart = crm_scan_alloc(scan, sizeof(IdPair) * (Size) n, &scan->shared->apart);
	scan->shared->napart = n;
	n = 0;
	for (uint32 i = 0; i < known->npairs; i++)
		if (known->pair[i].state == PAIR_APART)
		{
			apart[n].left = known->pair[i].left;
			apart[n++].right = known->pair[i].right;
		}
}

typedef struct IdNumber
{
	int64 id;
	uint32 number;
} IdNumber;

static int
crm_cmp_id(const void *a, const void *b)
{
	const IdNumber *x = a, *y = b;

	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return x->number < y->number ? -1 : x->number > y->number;
}

/* Pairs that people say are the same, as edges by ids. */
static MatchEdge *
crm_task_must(MatchScan *scan, const KnownResult *known, uint32 *nmust)
{
	IdNumber *ids = NULL;
	uint32 nids = 0, n = 0;
	MatchEdge *must;

	*nmust = 0;
	for (uint32 i = 0; i < known->npairs; i++)
		n += known->pair[i].state == PAIR_SAME;
	if (n == 0)
		return NULL;
	must = palloc_extended(sizeof(MatchEdge) * (Size) n, MCXT_ALLOC_HUGE);
	ids = palloc_extended(sizeof(IdNumber) * Max((Size) scan->nrecords, 1), MCXT_ALLOC_HUGE);
	for (uint32 i = 0; i < scan->nrecords; i++)
		if (scan->record[i] != SCAN_NO_RECORD)
		{
			ids[nids].id = scan->id[i];
			ids[nids++].number = i;
		}
	qsort(ids, nids, sizeof(IdNumber), crm_cmp_id);
	for (uint32 i = 0; i < known->npairs; i++)
	{
		IdNumber want[2] = {{known->pair[i].left, 0}, {known->pair[i].right, 0}};
		uint32 number[2];
		int found = 0;

		if (known->pair[i].state != PAIR_SAME)
			continue;
		for (int side = 0; side < 2; side++)
		{
			uint32 low = 0, high = nids;

			while (low < high)
			{
				uint32 mid = low + (high - low) / 2;

				if (ids[mid].id < want[side].id)
					low = mid + 1;
				else
					high = mid;
			}
			if (low < nids && ids[low].id == want[side].id)
			{
				number[side] = ids[low].number;
				found++;
			}
		}
		if (found < 2)
			continue;
		must[*nmust].a = number[0];
		must[*nmust].b = number[1];
		must[(*nmust)++].bits = MUST_LINK_BITS;
	}
	pfree(ids);
	return must;
}

/* Begins to have the reasons made of those edges that are new or have another score. */
static void
crm_task_explain(MatchScan *scan, const KnownResult *known, const MatchEdge *edge, uint32 nedges)
{
	ScanShared *shared = scan->shared;
	MatchEdge *write;
	uint32 n = 0, pieces;

	write = crm_scan_alloc(scan, sizeof(MatchEdge) * (Size) nedges, &shared->edges);
	for (uint32 i = 0; i < nedges; i++)
	{
		const KnownPair *pair = crm_known_pair(known, scan->id[edge[i].a], scan->id[edge[i].b]);

		if (pair == NULL || pair->score != crm_edge_score(&edge[i]))
			write[n++] = edge[i];
	}
	shared->nedges = n;
	pieces = (n + SCAN_EDGE_ROWS - 1) / SCAN_EDGE_ROWS;
	crm_scan_alloc(scan, sizeof(ScanRef) * (Size) pieces, &shared->reasons);
	crm_progress_job(shared, SCAN_EXPLAIN, n);
	crm_scan_start(scan, SCAN_EXPLAIN, pieces);
}

static void
crm_free_array(MatchScan *scan, ScanRef *ref, Size item, Size n)
{
	crm_scan_free(scan, ref, item * n);
}

/* The statistics as the counts of a scan. */
static void
crm_task_counts(ScanTask *task, MatchScan *scan)
{
	crm_read_statistics(task, true);
	crm_scan_counts(scan, VARDATA_ANY(task->counts), VARSIZE_ANY_EXHDR(task->counts));
	scan->shared->rows = task->statistics_rows;
	pfree(task->counts);
	task->counts = NULL;
}

/* Has the scan to learn statistics, as those that are there do not fit the table? */
static bool
crm_task_learns(const ScanTask *task, uint64 rows)
{
	return task->outgrown || task->statistics == 0 ||
		   fabs(task->statistics_rows - (double) rows) > MOST_CHANGED * task->statistics_rows;
}

/* Ends a scan before its time, if statistics turn out to be wanting. */
static bool
crm_task_outgrown(ScanTask *task, MatchScan *scan)
{
	if (pg_atomic_read_u32(&scan->shared->outgrown) == 0)
		return false;
	task->outgrown = true;
	return true;
}

/* Explains, clusters and writes what a scan of the whole table found. */
static void
crm_task_end(ScanTask *task, MatchScan *scan, const KnownResult *known, const MatchEdge *edge,
			 uint32 nedges)
{
	MatchEdge *must;
	uint32 *cluster;
	uint32 nmust;

	crm_task_explain(scan, known, edge, nedges);
	crm_scan_join(scan);
	crm_scan_dismiss(scan);

	crm_progress_job(scan->shared, SCAN_CLUSTER, nedges);
	must = crm_task_must(scan, known, &nmust);
	cluster = crm_match_clusters(scan, edge, nedges, must, nmust, task->threshold);
	crm_scan_end(scan);
	crm_progress_job(scan->shared, SCAN_WRITE, scan->shared->nedges);
	if (scan->shared->learn)
		crm_store_statistics(task, scan);
	crm_write_pairs(scan, &task->result, known, edge, nedges);
	task->clustered = crm_write_clusters(scan, &task->result, known, cluster);
	task->pairs = nedges;
	task->writer = scan->shared->writer;
	task->full = true;
}

/* What the rest of a scan takes beside what it has by now, in bytes. */
static bool
crm_task_fits(const MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	uint64 need = sizeof(uint32) * ((uint64) shared->nrecords + 1), ncounts = 0;

	for (int i = 0; i < SCAN_PARTITIONS; i++)
	{
		need += (uint64) shared->blocks[i].nmembers * 2 * sizeof(uint32) +
				(uint64) shared->blocks[i].nblocks * (sizeof(uint32) + 1);
		ncounts += shared->blocks[i].ncounts;
	}
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
		ncounts += shared->part[i].ncounts;
	if (shared->learn)
		need += ncounts * (sizeof(MatchCount) + 2 * sizeof(uint32));
	return pg_atomic_read_u64(&shared->used) + need < shared->limit;
}

/* Ends a scan that would not fit into memory. */
static bool
crm_task_too_large(ScanTask *task, MatchScan *scan)
{
	crm_scan_end(scan);
	task->passes = true;
	return false;
}

/*
 * Reads and compares everything; false if nothing was done, as statistics are to be
 * learned or memory does not suffice.
 */
static bool
crm_task_full(ScanTask *task)
{
	MatchScan *scan = crm_task_begin(task);
	ScanShared *shared = scan->shared;
	KnownResult *known;
	MatchEdge *edge;
	uint32 nedges, pages;
	Size members, blocks;

	crm_scan_job(scan, SCAN_READ, 0, (uint64) Max(task->rel->rd_rel->reltuples, 0));
	task->rows = 0;
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
		task->rows += shared->part[i].rows;
	if (pg_atomic_read_u32(&shared->no_room) != 0)
		return crm_task_too_large(task, scan);
	crm_scan_index(scan);
	task->read = task->rows;
	crm_read_statistics(task, false);
	shared->learn = crm_task_learns(task, shared->nrows);
	if (!shared->learn)
		crm_task_counts(task, scan);
	memset(crm_scan_alloc(scan, sizeof(uint32) * (Size) shared->nrecords, &shared->record_fill), 0,
		   sizeof(uint32) * (Size) shared->nrecords);
	crm_scan_job(scan, SCAN_SORT, SCAN_PARTITIONS, SCAN_PARTITIONS);
	if (crm_task_outgrown(task, scan))
	{
		crm_scan_end(scan);
		return false;
	}
	if (!crm_task_fits(scan))
		return crm_task_too_large(task, scan);
	if (shared->learn)
		crm_scan_learn(scan);
	crm_scan_layout(scan);
	crm_scan_job(scan, SCAN_LINK, SCAN_PARTITIONS, SCAN_PARTITIONS);
	crm_free_array(scan, &shared->record_fill, sizeof(uint32), shared->nrecords);
	pages = shared->nrecords / SCAN_PAGE_ROWS;
	crm_scan_job(scan, SCAN_WEIGH, pages, shared->nrecords);

	known = crm_known_read(scan, task->workspace, task->kind);
	crm_task_apart(scan, known);
	crm_scan_job(scan, SCAN_COMPARE, (shared->nrecords + SCAN_COMPARE_ROWS - 1) / SCAN_COMPARE_ROWS,
				 shared->nrecords);
	members = ((const uint32 *) crm_scan_get(scan, shared->record_start))[shared->nrecords];
	blocks = shared->blocks[SCAN_PARTITIONS - 1].first_block +
			 shared->blocks[SCAN_PARTITIONS - 1].nblocks;
	crm_free_array(scan, &shared->member, sizeof(uint32), members);
	crm_free_array(scan, &shared->record_block, sizeof(uint32), members);
	crm_free_array(scan, &shared->block_start, sizeof(uint32), blocks + 1);
	crm_free_array(scan, &shared->block_weight, 1, blocks);
	crm_free_array(scan, &shared->record_start, sizeof(uint32), (Size) shared->nrecords + 1);
	edge = crm_scan_collect(scan, &nedges);
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
		for (int piece = 0; piece < 2; piece++)
			task->crowded[piece] += shared->part[i].crowded[piece];
	crm_task_end(task, scan, known, edge, nedges);
	return true;
}

/* The same in passes over parts of it. */
static bool
crm_task_passes(ScanTask *task)
{
	MatchScan *scan = crm_task_begin(task);
	ScanShared *shared = scan->shared;
	KnownResult *known;
	MatchEdge *edge;
	uint32 nedges;

	crm_read_statistics(task, false);
	shared->learn = crm_task_learns(task, task->rows);
	if (shared->learn)
		crm_pass_learn(scan, task->rows);
	else
		crm_task_counts(task, scan);
	known = crm_known_read(scan, task->workspace, task->kind);
	crm_task_apart(scan, known);
	task->crowded[0] = task->crowded[1] = 0;
	edge = crm_pass_compare(scan, known, task->rows, task->crowded, &nedges);
	if (edge == NULL)
	{
		task->outgrown = true;
		crm_scan_end(scan);
		return false;
	}
	task->rows = task->read = shared->nrows;
	crm_task_end(task, scan, known, edge, nedges);
	return true;
}

/* Reads and compares what changed; false if nothing was done, as it has to be everything. */
static bool
crm_task_changed(ScanTask *task, const LastScan *last)
{
	MatchScan *scan = crm_task_begin(task);
	ScanShared *shared = scan->shared;
	uint64 most = crm_most_changed(last->rows);
	KnownResult *known;
	ChangeSet *set;
	MatchEdge *found, *edge, *must;
	MatchCounts *crowds;
	uint64 nchanged;
	uint32 nfound, nedges, nmust, pieces;
	uint32 *cluster;

	shared->since = (TransactionId) last->seen;
	shared->next_xid = XidFromFullTransactionId(ReadNextFullTransactionId());
	shared->last_writer = last->writer;
	crm_progress_job(shared, SCAN_CHANGED, last->rows);
	crm_scan_start(scan, SCAN_CHANGED, (uint32) Min(most - Min(most, last->changed), PG_INT32_MAX));
	crm_task_counts(task, scan);
	known = crm_known_read(scan, task->workspace, task->kind);
	crm_task_apart(scan, known);
	crm_change_again(scan, known);
	crm_scan_join(scan);
	crm_scan_index(scan);
	task->rows = shared->nrows;
	nchanged = pg_atomic_read_u32(&shared->next);
	/* What was learned of other rows does not fit these, however many they are. */
	if (nchanged > shared->pieces)
		task->outgrown = true;
	if (crm_task_learns(task, task->rows) ||
		pg_atomic_read_u64(&shared->used) + nchanged * CHANGE_NEEDS > shared->limit)
	{
		crm_scan_end(scan);
		return false;
	}
	crm_progress_job(shared, SCAN_LOOK_UP, SCAN_PARTITIONS);
	crm_scan_start(scan, SCAN_LOOK_UP, SCAN_PARTITIONS);
	set = crm_change_begin(scan, known, &task->read);
	crm_scan_join(scan);
	if (crm_task_outgrown(task, scan))
	{
		crm_scan_end(scan);
		return false;
	}
	pieces = crm_change_pieces(scan);
	crm_scan_job(scan, SCAN_MEET, pieces, pieces);
	crm_scan_job(scan, SCAN_MATCH, SCAN_PARTITIONS, SCAN_PARTITIONS);
	crm_scan_index(scan);
	crowds = crm_counts_create(CurrentMemoryContext, PG_UINT32_MAX / 4, 0);
	crm_change_add_crowded(scan, crowds);
	crm_change_crowded(crowds, task->crowded);
	found = crm_scan_collect(scan, &nfound);
	nfound = crm_change_drop_apart(scan, found, nfound);
	crm_change_unify(scan, set, found, nfound);
	crm_task_explain(scan, known, found, nfound);
	crm_change_touch(scan, set, known, found, nfound);
	crm_change_fetch(scan, set);
	crm_scan_join(scan);
	crm_scan_index(scan);
	crm_scan_dismiss(scan);

	crm_progress_job(shared, SCAN_CLUSTER, nfound);
	edge = crm_change_edges(scan, set, known, found, nfound, &nedges);
	must = crm_task_must(scan, known, &nmust);
	cluster = crm_match_clusters(scan, edge, nedges, must, nmust, task->threshold);
	crm_scan_end(scan);
	crm_progress_job(shared, SCAN_WRITE, shared->nedges);
	crm_write_pairs(scan, &task->result, known, found, nfound);
	task->clustered =
		crm_write_clusters(scan, &task->result, known, cluster) + crm_change_kept_members(known);
	task->pairs = crm_change_kept_pairs(known) + nfound;
	task->writer = shared->writer;
	return true;
}

/* A scan of everything, or of what changed since the last one. */
static bool
crm_task_try(ScanTask *task, const LastScan *last)
{
	MemoryContext context =
		AllocSetContextCreate(task->context, "crm match scan try", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool done = last != NULL   ? crm_task_changed(task, last)
				: task->passes ? crm_task_passes(task)
							   : crm_task_full(task);

	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return done;
}

static void
crm_task_note(ScanTask *task, int64 basis, TimestampTz started)
{
	Oid types[14] = {TEXTOID,	BOOLOID, INT8OID, INT8OID, INT8OID,		   INT8OID, INT8OID,
					 FLOAT4OID, INT4OID, INT8OID, INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID};
	Datum args[14] = {CStringGetTextDatum(task->kind),
					  BoolGetDatum(task->full),
					  Int64GetDatum((int64) task->rows),
					  Int64GetDatum((int64) task->read),
					  Int64GetDatum((int64) task->pairs),
					  Int64GetDatum((int64) task->clustered),
					  Int64GetDatum((int64) task->crowded[0]),
					  Float4GetDatum((float4) crm_match_probability(task->threshold)),
					  Int32GetDatum(task->workers),
					  Int64GetDatum(basis),
					  Int64GetDatum((int64) task->seen),
					  TimestampTzGetDatum(started),
					  Int64GetDatum((int64) task->writer),
					  Int64GetDatum((int64) task->crowded[1])};

	if (SPI_execute_with_args(
			crm_task_sql(task,
						 "INSERT INTO %s.duplicate_scan (kind, whole, rows, rows_read, "
						 "pairs, clustered, crowded_keys, threshold, workers, basis, seen, "
						 "started_at, writer, crowded_pieces, finished_at) VALUES ($1, $2, $3, $4, "
						 "$5, $6, $7, $8, $9, $10, $11, $12, $13, $14, "
						 "pg_catalog.clock_timestamp())"),
			14, types, args, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write the scan");
}

/* What _measure_duplicates() would count now. */
static void
crm_task_measure(ScanTask *task)
{
	Oid types[5] = {TEXTOID, INT8OID, INT8OID, INT8OID, INT8OID};
	Datum args[5] = {CStringGetTextDatum(task->kind), Int64GetDatum((int64) task->rows),
					 Int64GetDatum((int64) task->result.duplicates),
					 Int64GetDatum((int64) task->result.clusters),
					 Int64GetDatum((int64) task->result.open_pairs)};

	if (SPI_execute_with_args(
			crm_task_sql(task, "INSERT INTO %s.duplicate_rate (kind, records, duplicates, "
							   "clusters, open_pairs) VALUES ($1, $2, $3, $4, $5)"),
			5, types, args, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write the rate of duplicates");
}

/* One scan of a kind at a time. */
static void
crm_task_lock(const ScanTask *task, Oid function)
{
	LOCKTAG tag;
	uint32 key = hash_combine(
		hash_bytes((const unsigned char *) task->kind, (int) strlen(task->kind)), task->workspace);

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, function, key, 2);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						errmsg("\"%s\" is already being scanned for duplicates", task->kind),
						errhint("crm.scan_progress() shows how far that scan is.")));
}

/* The oldest transaction that the snapshot does not see as ended, with its epoch. */
static uint64
crm_snapshot_seen(Snapshot snapshot)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32 epoch = EpochFromFullTransactionId(next);

	if (snapshot->xmin > XidFromFullTransactionId(next))
		epoch--;
	return U64FromFullTransactionId(FullTransactionIdFromEpochAndXid(epoch, snapshot->xmin));
}

/* scan_duplicates(workspace, kind, table, threshold, whole): number of pairs. */
PG_FUNCTION_INFO_V1(crm_scan_duplicates);
Datum
crm_scan_duplicates(PG_FUNCTION_ARGS)
{
	ScanTask task = {0};
	LastScan last;
	MatchColumns *columns;
	TimestampTz started = GetCurrentTimestamp();
	MemoryContext old;
	int64 basis;
	bool whole;
	Oid relid;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("workspace and kind must not be null")));
	task.workspace = PG_GETARG_OID(0);
	task.kind = text_to_cstring(PG_GETARG_TEXT_PP(1));
	relid = PG_GETARG_OID(2);
	whole = !PG_ARGISNULL(4) && PG_GETARG_BOOL(4);
	task.schema = get_namespace_name(task.workspace);
	task.result.schema = task.schema;
	task.result.kind = task.kind;
	task.threshold = DEFAULT_BITS;
	if (!PG_ARGISNULL(3))
	{
		double p = PG_GETARG_FLOAT4(3);

		if (!(p > 0 && p < 1))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("threshold must be a probability between 0 and 1, both excluded"),
					 p > 1 ? errhint("95 %% is 0.95.") : 0));
		task.threshold = (float) log2(p / (1 - p));
	}
	/* A scan sees every record, so it is for those who own them. */
	if (!has_privs_of_role(GetUserId(), crm_workspace_owner(task.workspace)))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be owner of workspace %s", task.schema)));
	crm_task_lock(&task, fcinfo->flinfo->fn_oid);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	/* A scan of this kind may have ended while the statement's snapshot was there already. */
	PushActiveSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot()
												   : GetLatestSnapshot());
	task.context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match scan", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(task.context);
	task.rel = crm_table_open(relid, AccessShareLock);
	columns = crm_match_columns(task.rel, false);
	/* Workers cannot see what this session has put off. */
	crm_match_index_catch_up(columns->indexid);
	(void) crm_scan_id_column(task.rel);
	task.seen = crm_snapshot_seen(GetActiveSnapshot());

	crm_last_scan(&task, &last);
	crm_read_statistics(&task, false);
	basis = crm_task_basis(&task, columns);
	if (whole || !last.found || last.basis != basis || last.seen + OLD_XID < task.seen ||
		!crm_task_try(&task, &last))
	{
		int tries = 0;

		/* Where the result rests on other things anyway, the statistics may as well be new. */
		if ((!last.found || last.basis != basis) &&
			task.statistics_changes > MOST_CHANGED * task.statistics_rows)
			task.outgrown = true;
		/* Statistics may have to be learned, passes to be taken, and both. */
		while (!crm_task_try(&task, NULL))
			if (++tries == 4)
				elog(ERROR, "keys learned are rare and crowds");
		basis = crm_task_basis(&task, columns);
	}
	crm_task_note(&task, basis, started);
	crm_task_measure(&task);
	table_close(task.rel, NoLock);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(task.context);
	PopActiveSnapshot();
	SPI_finish();
	PG_RETURN_INT64((int64) task.pairs);
}
