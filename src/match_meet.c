/*
 * match_meet.c
 *		Records are looked up in the matching index, and compared with the rows
 *		that share keys with them.
 *
 * Most of those rows mean something else, which their identifiers or their names
 * show, so no more is read of them.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "match_posting.h"
#include "match_scan.h"

#define BATCH_RECORDS 256 /* in a piece of the job SCAN_MEET */

/* A row that may mean the same as a changed record. */
typedef struct Candidate
{
	uint64 tid;
	uint64 number; /* of the changed record */
} Candidate;

typedef struct Sharer
{
	uint64 tid;
	uint32 stamp; /* of the record it was last found for */
	uint16 key;	  /* of the record; the index may tell a row twice */
	uint16 weight;
} Sharer;

/* Where rows are read for a key or a candidate. */
typedef struct ChangeFetch
{
	Relation rel;
	const MatchColumns *columns;
	AttrNumber id_column;
	IndexFetchTableData *fetch;
	TupleTableSlot *slot;
} ChangeFetch;

/* The rows that have a key. */
typedef struct KeyRows
{
	ChangeFetch *fetch;
	ItemPointer row;
	int n;
	int size;
} KeyRows;

/* Rows that share keys with one record after the other. */
typedef struct Sharers
{
	Sharer *sharer;
	uint32 mask;
	uint32 stamp; /* of the record */
} Sharers;

/* Candidates as they are read and compared. */
typedef struct ChangeMatch
{
	MatchScan *scan;
	ChangeFetch fetch;
	MatchScratch *scratch;
	const MatchCounts *counts;
	EdgeList edges;
} ChangeMatch;

static inline uint64
crm_tid_code(const ItemPointerData *tid)
{
	return (uint64) ItemPointerGetBlockNumberNoCheck(tid) << 16 |
		   ItemPointerGetOffsetNumberNoCheck(tid);
}

static Sharer *
crm_sharer(Sharers *sharers, uint64 tid)
{
	uint32 i = crm_hash64(tid) & sharers->mask;

	while (sharers->sharer[i].stamp == sharers->stamp && sharers->sharer[i].tid != tid)
		i = (i + 1) & sharers->mask;
	return &sharers->sharer[i];
}

/* Room for so many rows that share keys with the next record. */
static void
crm_sharers_begin(Sharers *sharers, Size rows)
{
	Size size = Max((Size) sharers->mask + 1, 32768);

	sharers->stamp++;
	if (sharers->sharer != NULL && rows * 2 <= size)
		return;
	while (rows * 2 > size)
		size *= 2;
	if (sharers->sharer != NULL)
		pfree(sharers->sharer);
	sharers->sharer = palloc_extended(sizeof(Sharer) * size, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	sharers->mask = (uint32) (size - 1);
}

#define ST_SORT			crm_sort_candidates
#define ST_ELEMENT_TYPE Candidate
#define ST_COMPARE(a, b) \
	((a)->tid != (b)->tid ? ((a)->tid < (b)->tid ? -1 : 1) : (a)->number < (b)->number ? -1 : 1)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

static int
crm_cmp_tid(const void *a, const void *b)
{
	return ItemPointerCompare((ItemPointer) a, (ItemPointer) b);
}

/* Leaves of the rows those that live; more than SCAN_CROWD of them are a crowd, however many. */
static void
crm_rows_living(KeyRows *rows)
{
	ChangeFetch *fetch = rows->fetch;
	int n = 0;

	qsort(rows->row, rows->n, sizeof(ItemPointerData), crm_cmp_tid);
	for (int i = 0; i < rows->n && n <= SCAN_CROWD; i++)
	{
		ItemPointerData tid = rows->row[i];
		bool again = false, dead;

		CHECK_FOR_INTERRUPTS();
		if (n > 0 && ItemPointerEquals(&rows->row[n - 1], &tid))
			continue;
		if (table_index_fetch_tuple(fetch->fetch, &tid, GetActiveSnapshot(), fetch->slot, &again,
									&dead))
			rows->row[n++] = rows->row[i];
	}
	rows->n = n;
}

/* A row that was written often has as many entries in the index, of which one lives. */
static bool
crm_read_rows(void *arg, ItemPointer items, int nitems)
{
	KeyRows *rows = arg;

	if (rows->n + nitems > rows->size)
	{
		rows->size = Max(rows->n + nitems, Min(rows->size * 2, SCAN_CROWD));
		rows->row =
			rows->row == NULL
				? palloc_extended(sizeof(ItemPointerData) * (Size) rows->size, MCXT_ALLOC_HUGE)
				: repalloc_huge(rows->row, sizeof(ItemPointerData) * (Size) rows->size);
	}
	memcpy(rows->row + rows->n, items, sizeof(ItemPointerData) * nitems);
	rows->n += nitems;
	if (rows->n > SCAN_CROWD)
		crm_rows_living(rows);
	return rows->n <= SCAN_CROWD;
}

static void
crm_fetch_begin(ChangeFetch *fetch, Relation rel)
{
	fetch->rel = rel;
	fetch->columns = crm_match_columns(rel, false);
	fetch->id_column = crm_scan_id_column(rel);
	fetch->fetch = table_index_fetch_begin(rel);
	fetch->slot = table_slot_create(rel, NULL);
}

static void
crm_fetch_end(ChangeFetch *fetch)
{
	ExecDropSingleTupleTableSlot(fetch->slot);
	table_index_fetch_end(fetch->fetch);
}

static inline ChangedKey *
crm_changed_key(MatchScan *scan, uint32 place)
{
	const ScanPart *part = &scan->shared->part[place >> KEY_PLACE_BITS];

	return (ChangedKey *) crm_scan_get(scan, part->changed_keys) + (place & (MOST_KEYS - 1));
}

/* The keys of a partition, each asked for once: what is found goes to all records that have it. */
static void
crm_look_up_partition(MatchScan *scan, uint32 partition, MatchPostings *postings,
					  ChangeFetch *fetch, const MatchCounts *counts, MatchCounts *crowded)
{
	Size nkeys, total = 0;
	uint64 *key = crm_scan_sorted_keys(scan, partition, &nkeys);
	MatchPosting *list = palloc_extended(sizeof(MatchPosting) * Max(nkeys, 1), MCXT_ALLOC_HUGE);
	KeyRows *rows;
	uint64 *shared;
	ScanRef ref;
	int n = 0, next = 0;

	for (Size i = 0; i < nkeys; i++)
	{
		uint32 hash = SCAN_KEY_HASH(partition, key[i]);

		if (i > 0 && hash == SCAN_KEY_HASH(partition, key[i - 1]))
			continue;
		if (crm_scan_key_weight(hash, crm_counts_get(counts, hash)) > 0)
			list[n++].key = hash;
		else
			crm_counts_add(crowded, hash);
	}
	crm_postings_look_up(postings, list, n);
	rows = palloc_extended(sizeof(KeyRows) * Max((Size) n, 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < n; i++)
	{
		rows[i].fetch = fetch;
		crm_postings_read(postings, &list[i], crm_read_rows, &rows[i]);
		if (rows[i].n > SCAN_CROWD)
		{
			pg_atomic_write_u32(&scan->shared->outgrown, 1);
			return;
		}
		total += rows[i].n;
	}
	shared = crm_scan_alloc(scan, sizeof(uint64) * total, &ref);
	scan->shared->blocks[partition].member = ref;
	scan->shared->blocks[partition].nmembers = (uint32) total * 2;
	for (Size i = 0; i < nkeys; i++)
	{
		uint32 hash = SCAN_KEY_HASH(partition, key[i]);
		ChangedKey *changed = crm_changed_key(scan, (uint32) key[i]);

		changed->weight = 0;
		changed->nrows = 0;
		while (next < n && list[next].key < hash)
		{
			ref += sizeof(uint64) * rows[next].n;
			shared += rows[next].n;
			next++;
		}
		if (next == n || list[next].key != hash)
			continue;
		for (int j = 0; j < rows[next].n; j++)
			shared[j] = crm_tid_code(&rows[next].row[j]);
		changed->weight = (uint16) crm_scan_key_weight(hash, crm_counts_get(counts, hash));
		changed->nrows = (uint16) rows[next].n;
		changed->rows = ref;
	}
}

/* The job SCAN_LOOK_UP. */
void
crm_scan_look_up(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	Relation rel = table_open(shared->relid, AccessShareLock);
	ChangeFetch fetch;
	Relation index;
	MatchPostings *postings;
	const MatchCounts *counts = crm_scan_frequencies(scan);
	MatchCounts *crowded = crm_counts_create(CurrentMemoryContext, PG_UINT32_MAX / 4, 0);
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match keys", ALLOCSET_DEFAULT_SIZES);
	uint32 partition;

	crm_fetch_begin(&fetch, rel);
	index = index_open(fetch.columns->indexid, AccessShareLock);
	postings = crm_postings_begin(index, GetActiveSnapshot());
	while (crm_scan_next(scan, &partition) && pg_atomic_read_u32(&shared->outgrown) == 0)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		crm_look_up_partition(scan, partition, postings, &fetch, counts, crowded);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		crm_progress_add(shared, 1);
	}
	crm_scan_share_counts(scan, crowded);
	index_close(index, NoLock);
	crm_fetch_end(&fetch);
	table_close(rel, NoLock);
}

/* Partitions of the table for candidates: each is read by one participant. */
static uint32
crm_block_partition(BlockNumber nblocks, uint64 tid)
{
	return (uint32) Min((tid >> 16) * SCAN_PARTITIONS / Max(nblocks, 1), SCAN_PARTITIONS - 1);
}

/* Notes the rows that share enough keys with a record. */
static void
crm_meet_record(MatchScan *scan, const ChangedRecord *changed, const ChangedKey *key,
				BlockNumber nblocks, Sharers *sharers)
{
	Size total = 0;

	for (uint32 k = 0; k < changed->nkeys; k++)
		total += key[k].nrows;
	crm_sharers_begin(sharers, total);
	for (uint32 k = 0; k < changed->nkeys; k++)
	{
		const uint64 *row = key[k].nrows > 0 ? crm_scan_get(scan, key[k].rows) : NULL;

		for (int i = 0; i < key[k].nrows; i++)
		{
			Sharer *sharer = crm_sharer(sharers, row[i]);
			int before = 0;

			if (sharer->stamp == sharers->stamp)
			{
				if (sharer->key == k)
					continue;
				before = sharer->weight;
			}
			else
			{
				sharer->stamp = sharers->stamp;
				sharer->tid = row[i];
			}
			sharer->key = (uint16) k;
			sharer->weight = (uint16) (before + key[k].weight);
			if (before >= SCAN_NEEDED || sharer->weight < SCAN_NEEDED)
				continue;
			crm_scan_note(scan, crm_block_partition(nblocks, row[i]), row[i]);
			crm_scan_note(scan, crm_block_partition(nblocks, row[i]), changed->number);
		}
	}
}

static inline uint32
crm_change_batches(uint32 nchanged)
{
	return (nchanged + BATCH_RECORDS - 1) / BATCH_RECORDS;
}

uint32
crm_change_pieces(const MatchScan *scan)
{
	uint32 n = 0;

	for (int i = 0; i < SCAN_MAX_PARTS; i++)
		n += crm_change_batches(scan->shared->part[i].nchanged);
	return n;
}

/* The job SCAN_MEET. */
void
crm_scan_meet(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	Relation rel = table_open(shared->relid, AccessShareLock);
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
	const MatchCounts *counts = crm_scan_frequencies(scan);
	Sharers sharers = {0};
	uint32 piece;

	crm_scan_new_notes(scan);
	while (crm_scan_next(scan, &piece))
	{
		const ScanPart *part = shared->part;
		const ChangedRecord *changed;
		const ChangedKey *key;
		uint32 end;

		for (; piece >= crm_change_batches(part->nchanged); part++)
			piece -= crm_change_batches(part->nchanged);
		changed = crm_scan_get(scan, part->changed);
		key = crm_scan_get(scan, part->changed_keys);
		end = Min((piece + 1) * BATCH_RECORDS, part->nchanged);
		for (uint32 i = piece * BATCH_RECORDS; i < end; i++)
		{
			crm_match_weigh_counts(crm_scan_record(scan, changed[i].number), shared->rows, counts);
			crm_meet_record(scan, &changed[i], key + changed[i].first_key, nblocks, &sharers);
		}
		crm_progress_add(shared, 1);
	}
	table_close(rel, NoLock);
}

/* Reads the row at a place of the index; false if the snapshot does not see it. */
static bool
crm_change_fetch_row(ChangeFetch *fetch, uint64 code, int64 *id, MatchValue values[MATCH_NROLES])
{
	ItemPointerData tid;
	bool again = false, dead, null;

	ItemPointerSet(&tid, (BlockNumber) (code >> 16), (OffsetNumber) (code & 0xFFFF));
	if (!table_index_fetch_tuple(fetch->fetch, &tid, GetActiveSnapshot(), fetch->slot, &again,
								 &dead))
		return false;
	*id = DatumGetInt64(slot_getattr(fetch->slot, fetch->id_column, &null));
	if (null)
		return false;
	memset(values, 0, sizeof(MatchValue) * MATCH_NROLES);
	crm_match_slot_values(fetch->columns, fetch->slot, values);
	return true;
}

/* Reads of a row what an outline has; before: the outline read before, or NULL. */
static MatchRecord *
crm_change_read(ChangeMatch *match, const MatchValue values[MATCH_NROLES], MatchOutline outline,
				const MatchRecord *before)
{
	MatchRecord *record = crm_match_more(values, match->scratch, outline);

	crm_match_weigh_more(record, before, match->scan->shared->rows, match->counts);
	return record;
}

/* May the row of an outline mean the same as one of n changed records? */
static bool
crm_change_may(const MatchScan *scan, const Candidate *candidate, uint32 n, int64 id,
			   const MatchRecord *outline, MatchOutline kind)
{
	for (uint32 i = 0; i < n; i++)
	{
		int64 other = scan->id[candidate[i].number];
		const MatchRecord *whole = crm_scan_record(scan, (uint32) candidate[i].number);
		bool first = other < id;

		if (other != id &&
			crm_match_may(&scan->scorer, first ? whole : outline, first ? outline : whole, whole,
						  kind, scan->shared->threshold))
			return true;
	}
	return false;
}

/* Compares a row with the n changed records for which it is a candidate. */
static void
crm_change_match(ChangeMatch *match, const Candidate *candidate, uint32 n)
{
	MatchScan *scan = match->scan;
	float threshold = scan->shared->threshold;
	MatchValue values[MATCH_NROLES];
	MatchRecord *record = NULL;
	uint32 kept = SCAN_NO_RECORD;
	int64 id;

	if (!crm_change_fetch_row(&match->fetch, candidate->tid, &id, values) ||
		/* Of an earlier slice: it has found the others. */
		(scan->shared->nslices > 0 && crm_scan_slice(scan->shared, id) < scan->shared->slice) ||
		(n == 1 && scan->id[candidate->number] == id))
		return;
	/* Most rows mean something else, and that shows from little. */
	crm_match_begin(match->scratch);
	for (MatchOutline kind = OUTLINE_ID; kind > OUTLINE_WHOLE; kind--)
	{
		if (!crm_match_tells(crm_scan_record(scan, (uint32) candidate->number), kind))
			continue;
		record = crm_change_read(match, values, kind, record);
		if (!crm_change_may(scan, candidate, n, id, record, kind))
			return;
	}
	record = crm_change_read(match, values, OUTLINE_WHOLE, record);
	for (uint32 i = 0; i < n; i++)
	{
		uint32 number = (uint32) candidate[i].number;
		const MatchRecord *changed = crm_scan_record(scan, number);
		bool first = scan->id[number] < id;
		MemoryContext old;
		float bits;

		if (scan->id[number] == id)
			continue;
		bits = (float) crm_match_bits(&scan->scorer, first ? changed : record,
									  first ? record : changed, threshold);
		if (bits < threshold)
			continue;
		if (kept == SCAN_NO_RECORD)
			kept = crm_scan_keep(scan, id, record);
		old = MemoryContextSwitchTo(GetMemoryChunkContext(match));
		crm_edge_add(&match->edges, number, kept, bits);
		MemoryContextSwitchTo(old);
	}
}

/* The job SCAN_MATCH. */
void
crm_scan_match(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	Relation rel = table_open(shared->relid, AccessShareLock);
	ChangeMatch *match = palloc0(sizeof(ChangeMatch));
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match candidates", ALLOCSET_DEFAULT_SIZES);
	MemoryContext row_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match row", ALLOCSET_DEFAULT_SIZES);
	uint32 partition;

	match->scan = scan;
	crm_fetch_begin(&match->fetch, rel);
	match->scratch = crm_match_scratch();
	match->counts = crm_scan_frequencies(scan);
	while (crm_scan_next(scan, &partition))
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		Size n;
		Candidate *candidate = (Candidate *) crm_scan_noted(scan, partition, &n);

		n /= sizeof(Candidate) / sizeof(uint64);
		crm_sort_candidates(candidate, n);
		MemoryContextSwitchTo(row_context);
		for (Size i = 0, end; i < n; i = end)
		{
			CHECK_FOR_INTERRUPTS();
			for (end = i + 1; end < n && candidate[end].tid == candidate[i].tid; end++)
				;
			crm_change_match(match, &candidate[i], (uint32) (end - i));
			MemoryContextReset(row_context);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		crm_progress_add(shared, 1);
	}
	crm_edge_share(scan, &match->edges);
	crm_fetch_end(&match->fetch);
	table_close(rel, NoLock);
}

/* Edges of records that people told apart are none. */
uint32
crm_change_drop_apart(const MatchScan *scan, MatchEdge *edge, uint32 nedges)
{
	uint32 n = 0;

	for (uint32 i = 0; i < nedges; i++)
		if (!crm_scan_apart(scan, edge[i].a, edge[i].b))
			edge[n++] = edge[i];
	return n;
}

void
crm_change_add_crowded(MatchScan *scan, MatchCounts *crowds)
{
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
	{
		const ScanPart *part = &scan->shared->part[i];
		const MatchCount *list = crm_scan_get(scan, part->counts);

		for (uint32 j = 0; j < part->ncounts; j++)
			crm_counts_add(crowds, list[j].hash);
	}
}

void
crm_change_crowded(const MatchCounts *crowds, uint64 crowded[2])
{
	uint32 n;
	MatchCount *list = crm_counts_list(crowds, 1, &n);

	for (uint32 i = 0; i < n; i++)
		crowded[MATCH_HASH_IS_PIECE(list[i].hash)]++;
	pfree(list);
}
