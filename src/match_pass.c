/*
 * match_pass.c
 *		A scan of a table whose features do not fit into memory: in passes.
 *
 * The rows are cut into slices by a hash of their ids.  For each slice the table
 * is read, the rows of the slice are looked up in the matching index as a scan of
 * changes does with those that changed, and what is kept of them are the pairs and
 * the features of the records in pairs.  A scan of changes finds what a whole one
 * finds, so this does, too; it takes some times as long.
 *
 * If statistics are to be learned, the table is first read once for each range of
 * hashes, so that only a part of what is counted is in memory.
 */
#include "postgres.h"

#include "access/table.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "match_scan.h"

#define ROW_COUNTED 1024		  /* bytes that counting everything of a row takes */
#define ROW_SLICED	3072		  /* ... and looking it up */
#define PART_NEEDS	(3584 * 1024) /* ... that each participant needs for its lists */
#define MOST_SLICES 4096

static void
crm_pass_rewind(MatchScan *scan)
{
	if (scan->heap != NULL)
		table_parallelscan_reinitialize(scan->rel, scan->heap);
}

/* The job SCAN_COUNT: keys of some partitions are noted, and what else is counted is. */
void
crm_scan_count(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	Relation rel = table_open(shared->relid, AccessShareLock);
	const MatchColumns *columns = crm_match_columns(rel, false);
	MatchScratch *scratch = crm_match_scratch();
	MatchCounts *counts = crm_counts_create(CurrentMemoryContext, PG_UINT32_MAX / 4, 0);
	MemoryContext row_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match row", ALLOCSET_DEFAULT_SIZES);
	TableScanDesc heap = scan->heap != NULL ? table_beginscan_parallel(rel, scan->heap)
											: table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	AttrNumber id_column = crm_scan_id_column(rel);
	uint64 rows = 0;

	crm_scan_new_notes(scan);
	crm_counts_only(counts, shared->first_partition, shared->npartitions);
	while (table_scan_getnextslot(heap, ForwardScanDirection, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);
		MatchValue values[MATCH_NROLES] = {0};
		const MatchKey *keys;
		int nkeys;
		bool null;

		CHECK_FOR_INTERRUPTS();
		(void) slot_getattr(slot, id_column, &null);
		if (!null)
		{
			MatchRecord *record;

			crm_match_slot_values(columns, slot, values);
			record = crm_match_record(values, scratch, &keys, &nkeys);
			for (int i = 0; i < nkeys; i++)
				if ((keys[i].hash >> 24) - shared->first_partition < shared->npartitions)
					crm_scan_note_key(scan, keys[i].hash, 0);
			crm_match_count_record(counts, record, NULL, 0);
			if (++rows % 1000 == 0)
				crm_progress_add(shared, 1000);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	scan->part->rows = rows;
	crm_scan_share_counts(scan, counts);
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(heap);
	table_close(rel, NoLock);
}

/* The job SCAN_COUNT_KEYS: how often each key of a partition occurs. */
void
crm_scan_count_keys(MatchScan *scan)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match keys", ALLOCSET_DEFAULT_SIZES);
	uint32 piece;

	while (crm_scan_next(scan, &piece))
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		uint32 partition = scan->shared->first_partition + piece;
		ScanBlocks *blocks = &scan->shared->blocks[partition];
		Size n;
		uint64 *key = crm_scan_sorted_keys(scan, partition, &n);
		MatchCount *counts = palloc_extended(sizeof(MatchCount) * (n / 2 + 1), MCXT_ALLOC_HUGE);
		uint32 ncounts = 0;

		for (Size i = 0, end; i < n; i = end)
		{
			for (end = i + 1; end < n && key[end] == key[i]; end++)
				;
			if (end - i < 2)
				continue;
			counts[ncounts].hash = SCAN_KEY_HASH(partition, key[i]);
			counts[ncounts++].count = (uint32) (end - i);
		}
		blocks->ncounts = ncounts;
		crm_scan_share(scan, counts, sizeof(MatchCount) * (Size) ncounts, &blocks->counts);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
}

/* What is common in the table, range after range. */
void
crm_pass_learn(MatchScan *scan, uint64 rows)
{
	ScanShared *shared = scan->shared;
	uint64 ranges = rows * ROW_COUNTED / Max(shared->limit / 4, 1) + 1;
	uint32 step = (uint32) Max(SCAN_PARTITIONS / Min(ranges, SCAN_PARTITIONS), 1);
	MatchCount *all = NULL;
	Size nall = 0;

	for (uint32 first = 0; first < SCAN_PARTITIONS; first += step)
	{
		MatchCount *learned;
		uint32 n;

		shared->first_partition = first;
		shared->npartitions = Min(step, SCAN_PARTITIONS - first);
		if (first > 0)
			crm_pass_rewind(scan);
		crm_scan_job(scan, SCAN_COUNT, 0, rows);
		crm_scan_job(scan, SCAN_COUNT_KEYS, shared->npartitions, shared->npartitions);
		learned = crm_scan_learned(scan, first, shared->npartitions, &n);
		all = all == NULL ? palloc_extended(sizeof(MatchCount) * Max((Size) n, 1), MCXT_ALLOC_HUGE)
						  : repalloc_huge(all, sizeof(MatchCount) * Max(nall + n, 1));
		memcpy(all + nall, learned, sizeof(MatchCount) * (Size) n);
		nall += n;
		pfree(learned);
	}
	crm_scan_counts(scan, all, sizeof(MatchCount) * nall);
	pfree(all);
	shared->nrows = 0;
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
		shared->nrows += shared->part[i].rows;
	shared->rows = (double) shared->nrows;
	crm_pass_rewind(scan);
}

/* Records that outlive their slice. */
typedef struct KeptId
{
	int64 id;
	uint32 number; /* + 1; 0: free */
} KeptId;

typedef struct KeptRecords
{
	KeptId *place; /* by a hash of the id */
	uint32 mask;
	int64 *id;
	uint32 *record;
	uint32 n;
	uint32 size;
	ScanRef chunk[SCAN_MAX_CHUNKS];
	uint32 nchunks;
	char *last; /* chunk */
	Size used;	/* of it */
} KeptRecords;

static KeptId *
crm_kept_place(const KeptRecords *kept, int64 id)
{
	uint32 i = crm_hash64((uint64) id) & kept->mask;

	while (kept->place[i].number != 0 && kept->place[i].id != id)
		i = (i + 1) & kept->mask;
	return &kept->place[i];
}

static void
crm_kept_grow(KeptRecords *kept)
{
	KeptId *old = kept->place;
	uint32 size = kept->size * 2;

	kept->size = size;
	kept->mask = size * 2 - 1;
	kept->place =
		palloc_extended(sizeof(KeptId) * 2 * (Size) size, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (uint32 i = 0; i < size; i++)
		if (old[i].number != 0)
			*crm_kept_place(kept, old[i].id) = old[i];
	pfree(old);
	kept->id = repalloc_huge(kept->id, sizeof(int64) * (Size) size);
	kept->record = repalloc_huge(kept->record, sizeof(uint32) * (Size) size);
}

static KeptRecords *
crm_kept_create(void)
{
	KeptRecords *kept = palloc0(sizeof(KeptRecords));

	kept->size = 1024;
	kept->mask = kept->size * 2 - 1;
	kept->place = palloc0(sizeof(KeptId) * 2 * kept->size);
	kept->id = palloc(sizeof(int64) * kept->size);
	kept->record = palloc(sizeof(uint32) * kept->size);
	return kept;
}

/* Keeps a record of the slice; returns its number. */
static uint32
crm_kept_add(MatchScan *scan, KeptRecords *kept, uint32 number)
{
	int64 id = scan->id[number];
	const MatchRecord *record = crm_scan_record(scan, number);
	KeptId *place = crm_kept_place(kept, id);

	if (place->number != 0)
		return place->number - 1;
	if (kept->n == kept->size)
	{
		crm_kept_grow(kept);
		place = crm_kept_place(kept, id);
	}
	if (kept->last == NULL || kept->used + record->size > SCAN_CHUNK)
	{
		if (kept->nchunks == SCAN_MAX_CHUNKS)
			crm_scan_too_large();
		kept->last = crm_scan_alloc(scan, SCAN_CHUNK, &kept->chunk[kept->nchunks++]);
		kept->used = 0;
	}
	memcpy(kept->last + kept->used, record, record->size);
	kept->id[kept->n] = id;
	kept->record[kept->n] = (kept->nchunks - 1) << 17 | (uint32) (kept->used / 8);
	kept->used += record->size;
	place->id = id;
	place->number = ++kept->n;
	return kept->n - 1;
}

/* All that the slice took. */
static void
crm_slice_free(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	uint32 nchunks = pg_atomic_read_u32(&shared->nchunks);

	for (uint32 i = 0; i < nchunks; i++)
		crm_scan_free(scan, &shared->chunk[i], SCAN_CHUNK);
	for (int i = 0; i < SCAN_PARTITIONS; i++)
		crm_scan_free(scan, &shared->blocks[i].member,
					  sizeof(uint32) * (Size) shared->blocks[i].nmembers);
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
	{
		ScanPart *part = &shared->part[i];

		crm_scan_free(scan, &part->changed, sizeof(ChangedRecord) * (Size) part->nchanged);
		crm_scan_free(scan, &part->changed_keys, sizeof(ChangedKey) * (Size) part->nchanged_keys);
		crm_scan_free(scan, &part->counts, sizeof(MatchCount) * (Size) part->ncounts);
		part->nchanged = part->nchanged_keys = part->ncounts = 0;
	}
	crm_scan_free(scan, &shared->id, sizeof(int64) * (Size) shared->nrecords);
	crm_scan_free(scan, &shared->record, sizeof(uint32) * (Size) shared->nrecords);
	pg_atomic_write_u32(&shared->nchunks, 0);
	pg_atomic_write_u32(&shared->npages, 0);
	shared->nrecords = scan->nrecords = 0;
	shared->generation++;
}

/* The records kept become those of the scan. */
static void
crm_kept_install(MatchScan *scan, const KeptRecords *kept)
{
	ScanShared *shared = scan->shared;
	Size n = kept->n;

	memcpy(shared->chunk, kept->chunk, sizeof(ScanRef) * kept->nchunks);
	pg_atomic_write_u32(&shared->nchunks, kept->nchunks);
	memcpy(crm_scan_alloc(scan, sizeof(int64) * n, &shared->id), kept->id, sizeof(int64) * n);
	memcpy(crm_scan_alloc(scan, sizeof(uint32) * n, &shared->record), kept->record,
		   sizeof(uint32) * n);
	shared->nrecords = (uint32) n;
	shared->generation++;
	crm_scan_locate(scan);
}

static int
crm_cmp_int64(const void *a, const void *b)
{
	int64 x = *(const int64 *) a, y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/* Ids of records that people say are the same as another, ascending. */
static int64 *
crm_pass_same(const KnownResult *known, uint32 *n)
{
	int64 *same =
		palloc_extended(sizeof(int64) * 2 * Max((Size) known->npairs, 1), MCXT_ALLOC_HUGE);

	*n = 0;
	for (uint32 i = 0; i < known->npairs; i++)
		if (known->pair[i].state == PAIR_SAME)
		{
			same[(*n)++] = known->pair[i].left;
			same[(*n)++] = known->pair[i].right;
		}
	qsort(same, *n, sizeof(int64), crm_cmp_int64);
	return same;
}

static uint32
crm_pass_slices(const MatchScan *scan, uint64 rows)
{
	uint64 used = pg_atomic_read_u64(&scan->shared->used) + (scan->workers + 1) * PART_NEEDS;
	uint64 left = scan->shared->limit > used ? scan->shared->limit - used : 0;

	return (uint32) Min(rows * ROW_SLICED / Max(left / 2, 1) + 1, MOST_SLICES);
}

/* Looks up and compares all rows; NULL if some keys turn out to be crowds. */
MatchEdge *
crm_pass_compare(MatchScan *scan, const KnownResult *known, uint64 rows, uint64 crowded[2],
				 uint32 *nedges)
{
	ScanShared *shared = scan->shared;
	KeptRecords *kept = crm_kept_create();
	EdgeList edges = {0};
	MatchCounts *crowds = crm_counts_create(CurrentMemoryContext, PG_UINT32_MAX / 4, 0);
	uint32 nsame;
	int64 *same = crm_pass_same(known, &nsame);

	shared->nslices = crm_pass_slices(scan, rows);
	for (shared->slice = 0; shared->slice < shared->nslices; shared->slice++)
	{
		MatchEdge *found;
		uint32 nfound, pieces;

		if (shared->slice > 0)
			crm_pass_rewind(scan);
		crm_scan_job(scan, SCAN_CHANGED, PG_INT32_MAX, rows);
		crm_scan_index(scan);
		crm_scan_job(scan, SCAN_LOOK_UP, SCAN_PARTITIONS, SCAN_PARTITIONS);
		if (pg_atomic_read_u32(&shared->outgrown) != 0)
			return NULL;
		pieces = crm_change_pieces(scan);
		crm_scan_job(scan, SCAN_MEET, pieces, pieces);
		crm_scan_job(scan, SCAN_MATCH, SCAN_PARTITIONS, SCAN_PARTITIONS);
		crm_scan_index(scan);
		crm_scan_locate(scan);
		crm_change_add_crowded(scan, crowds);
		found = crm_scan_collect(scan, &nfound);
		nfound = crm_change_drop_apart(scan, found, nfound);
		for (uint32 i = 0; i < nfound; i++)
			crm_edge_add(&edges, crm_kept_add(scan, kept, found[i].a),
						 crm_kept_add(scan, kept, found[i].b), found[i].bits);
		for (uint32 i = 0; nsame > 0 && i < scan->nrecords; i++)
			if (scan->record[i] != SCAN_NO_RECORD &&
				bsearch(&scan->id[i], same, nsame, sizeof(int64), crm_cmp_int64) != NULL)
				crm_kept_add(scan, kept, i);
		pfree(found);
		crm_slice_free(scan);
	}
	crm_kept_install(scan, kept);
	crm_change_crowded(crowds, crowded);
	*nedges = crm_scan_order_edges(scan, edges.edge, edges.n);
	return edges.edge != NULL ? edges.edge : palloc(sizeof(MatchEdge));
}
