/*
 * match_read.c
 *		A scan's records: rows read into features and keys, and how common
 *		everything in them is.
 *
 * Records get numbers in the order in which participants happen to read them;
 * nothing that a scan finds depends on it.  Features lie in chunks, keys in
 * partitions by the top bits of their hash.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "match_scan.h"

/* Where a participant puts its records. */
typedef struct ScanReader
{
	char *chunk;
	uint32 chunk_number;
	Size chunk_used;
	ScanPage *page;
	uint32 page_number;
	KeyChunk *keys[SCAN_PARTITIONS]; /* the last of each list */
} ScanReader;

AttrNumber
crm_scan_id_column(Relation rel)
{
	AttrNumber attnum = get_attnum(RelationGetRelid(rel), "id");

	if (attnum <= 0 || get_atttype(RelationGetRelid(rel), attnum) != INT8OID)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table \"%s\" has no column \"id\" of type bigint",
							   RelationGetRelationName(rel))));
	return attnum;
}

void
crm_scan_too_large(void)
{
	ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					errmsg("a table of so many rows cannot be scanned for duplicates"),
					errdetail("The limit is %u rows and %u MB of what is compared of them.",
							  SCAN_MAX_PAGES * SCAN_PAGE_ROWS,
							  (unsigned) ((Size) SCAN_MAX_CHUNKS * SCAN_CHUNK / (1024 * 1024)))));
}

static ScanReader *
crm_scan_reader(MatchScan *scan)
{
	if (scan->reader == NULL)
		scan->reader = MemoryContextAllocZero(scan->context, sizeof(ScanReader));
	return scan->reader;
}

/* Keeps a record; returns its number. */
uint32
crm_scan_keep(MatchScan *scan, int64 id, const MatchRecord *record)
{
	ScanShared *shared = scan->shared;
	ScanReader *reader = crm_scan_reader(scan);
	uint32 slot;

	if (reader->chunk == NULL || reader->chunk_used + record->size > SCAN_CHUNK)
	{
		uint32 n = pg_atomic_fetch_add_u32(&shared->nchunks, 1);

		if (n >= SCAN_MAX_CHUNKS)
			crm_scan_too_large();
		scan->chunk[n] = reader->chunk = crm_scan_alloc(scan, SCAN_CHUNK, &shared->chunk[n]);
		reader->chunk_number = n;
		reader->chunk_used = 0;
	}
	if (reader->page == NULL || reader->page->n == SCAN_PAGE_ROWS)
	{
		uint32 n = pg_atomic_fetch_add_u32(&shared->npages, 1);

		if (n >= SCAN_MAX_PAGES)
			crm_scan_too_large();
		reader->page = crm_scan_alloc(scan, sizeof(ScanPage), &shared->page[n]);
		reader->page->n = 0;
		reader->page_number = n;
	}
	slot = reader->page->n++;
	memcpy(reader->chunk + reader->chunk_used, record, record->size);
	reader->page->id[slot] = id;
	reader->page->record[slot] = reader->chunk_number << 17 | (uint32) (reader->chunk_used / 8);
	reader->chunk_used += record->size;
	return reader->page_number * SCAN_PAGE_ROWS + slot;
}

void
crm_scan_note(MatchScan *scan, uint32 partition, uint64 what)
{
	ScanReader *reader = crm_scan_reader(scan);
	ScanPart *part = scan->part;
	KeyChunk *chunk = reader->keys[partition];

	if (chunk == NULL || chunk->n == lengthof(chunk->key))
	{
		ScanRef ref;

		chunk = crm_scan_alloc(scan, sizeof(KeyChunk), &ref);
		chunk->next = part->keys[partition];
		chunk->n = 0;
		part->keys[partition] = ref;
		reader->keys[partition] = chunk;
	}
	chunk->key[chunk->n++] = what;
	part->nkeys[partition]++;
}

void
crm_scan_new_notes(MatchScan *scan)
{
	ScanReader *reader = crm_scan_reader(scan);

	memset(reader->keys, 0, sizeof(reader->keys));
	memset(scan->part->nkeys, 0, sizeof(scan->part->nkeys));
}

uint64 *
crm_scan_noted(MatchScan *scan, uint32 partition, Size *n)
{
	Size total = 0, filled = 0;
	uint64 *noted;

	for (int i = 0; i < SCAN_MAX_PARTS; i++)
		total += scan->shared->part[i].nkeys[partition];
	noted = palloc_extended(sizeof(uint64) * Max(total, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
	{
		ScanRef ref = scan->shared->part[i].keys[partition];

		scan->shared->part[i].keys[partition] = 0;
		while (ref != 0)
		{
			KeyChunk *chunk = crm_scan_get(scan, ref);
			ScanRef next = chunk->next;

			memcpy(noted + filled, chunk->key, sizeof(uint64) * chunk->n);
			filled += chunk->n;
			crm_scan_free(scan, &ref, sizeof(KeyChunk));
			ref = next;
		}
	}
	*n = total;
	return noted;
}

void
crm_scan_note_key(MatchScan *scan, uint32 hash, uint32 number)
{
	crm_scan_note(scan, hash >> 24, (uint64) (hash & 0xFFFFFF) << 32 | number);
}

/*
 * Will there be room for what was read so far?  What follows takes up to 13 bytes a
 * key and 24 a row in addition.
 */
static bool
crm_scan_has_room(MatchScan *scan, uint64 nkeys, uint64 nrows)
{
	ScanShared *shared = scan->shared;
	uint64 keys = pg_atomic_add_fetch_u64(&shared->nkeys, nkeys);
	uint64 rows = pg_atomic_add_fetch_u64(&shared->nkept, nrows);

	return pg_atomic_read_u64(&shared->used) + keys * 13 + rows * 24 < shared->limit;
}

void
crm_scan_share_counts(MatchScan *scan, MatchCounts *counts)
{
	MatchCount *list = crm_counts_list(counts, 1, &scan->part->ncounts);

	crm_scan_share(scan, list, sizeof(MatchCount) * (Size) scan->part->ncounts,
				   &scan->part->counts);
}

/* The job SCAN_READ. */
void
crm_scan_read(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	Relation rel = table_open(shared->relid, AccessShareLock);
	const MatchColumns *columns = crm_match_columns(rel, false);
	AttrNumber id_column = crm_scan_id_column(rel);
	MatchScratch *scratch = crm_match_scratch();
	MatchCounts *counts = crm_counts_create(CurrentMemoryContext, PG_UINT32_MAX / 4, 0);
	MemoryContext row_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match row", ALLOCSET_DEFAULT_SIZES);
	TableScanDesc heap = scan->heap != NULL ? table_beginscan_parallel(rel, scan->heap)
											: table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	uint64 rows = 0, noted = 0;

	while (table_scan_getnextslot(heap, ForwardScanDirection, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);
		MatchValue values[MATCH_NROLES] = {0};
		const MatchKey *keys;
		int nkeys;
		MatchRecord *record;
		uint32 number;
		bool isnull;
		int64 id = DatumGetInt64(slot_getattr(slot, id_column, &isnull));

		CHECK_FOR_INTERRUPTS();
		if (!isnull && pg_atomic_read_u32(&shared->no_room) != 0)
			rows++; /* how many there are is of use */
		else if (!isnull)
		{
			crm_match_slot_values(columns, slot, values);
			record = crm_match_record(values, scratch, &keys, &nkeys);
			number = crm_scan_keep(scan, id, record);
			for (int i = 0; i < nkeys; i++)
				crm_scan_note_key(scan, keys[i].hash, number);
			crm_match_count_record(counts, record, NULL, 0);
			noted += nkeys;
			if (++rows % 1000 == 0)
			{
				crm_progress_add(shared, 1000);
				if (!crm_scan_has_room(scan, noted, 1000))
					pg_atomic_write_u32(&shared->no_room, 1);
				noted = 0;
			}
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	crm_progress_add(shared, rows % 1000);
	scan->part->rows = rows;
	if (!crm_scan_has_room(scan, noted, rows % 1000))
		pg_atomic_write_u32(&shared->no_room, 1);
	crm_scan_share_counts(scan, counts);
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(heap);
	table_close(rel, NoLock);
}

void
crm_scan_indexed(MatchScan *scan)
{
	if (scan->reader != NULL)
		scan->reader->page = NULL;
}

void
crm_scan_emptied(MatchScan *scan)
{
	memset(scan->chunk, 0, sizeof(scan->chunk));
	if (scan->reader != NULL)
		memset(scan->reader, 0, sizeof(ScanReader));
}

/*
 * Numbers of records become places in flat arrays; those left out have none.
 * Records kept after that join them when it is called again.
 */
void
crm_scan_index(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	uint32 npages = pg_atomic_read_u32(&shared->npages);
	ScanRef old_id = shared->id, old_record = shared->record;
	Size old = shared->nrecords;
	int64 *id;
	uint32 *record;

	shared->nrecords = npages * SCAN_PAGE_ROWS;
	id = crm_scan_alloc(scan, sizeof(int64) * (Size) shared->nrecords, &shared->id);
	record = crm_scan_alloc(scan, sizeof(uint32) * (Size) shared->nrecords, &shared->record);
	memset(record, 0xFF, sizeof(uint32) * (Size) shared->nrecords);
	if (old > 0)
	{
		memcpy(id, scan->id, sizeof(int64) * old);
		memcpy(record, scan->record, sizeof(uint32) * old);
		crm_scan_free(scan, &old_id, sizeof(int64) * old);
		crm_scan_free(scan, &old_record, sizeof(uint32) * old);
	}
	for (uint32 i = (uint32) (old / SCAN_PAGE_ROWS); i < npages; i++)
	{
		ScanPage *page = crm_scan_get(scan, shared->page[i]);

		memcpy(id + (Size) i * SCAN_PAGE_ROWS, page->id, sizeof(int64) * page->n);
		memcpy(record + (Size) i * SCAN_PAGE_ROWS, page->record, sizeof(uint32) * page->n);
		crm_scan_free(scan, &shared->page[i], sizeof(ScanPage));
	}
	crm_scan_indexed(scan);
	scan->nrecords = shared->nrecords;
	scan->id = id;
	scan->record = record;
	shared->nrows = 0;
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
		shared->nrows += shared->part[i].rows;
}

static int
crm_cmp_count(const void *a, const void *b)
{
	uint32 x = ((const MatchCount *) a)->hash;
	uint32 y = ((const MatchCount *) b)->hash;

	return x < y ? -1 : x > y;
}

/* Where to look in the counts, for all participants. */
static void
crm_scan_place_counts(MatchScan *scan, const MatchCount *list)
{
	ScanShared *shared = scan->shared;

	crm_counts_place(list, shared->ncounts,
					 crm_scan_alloc(scan, sizeof(uint32) * crm_counts_places(shared->ncounts),
									&shared->count_start));
}

/*
 * What is common in this table, of some partitions: keys by the sizes of their
 * blocks, the rest as the participants counted it.
 */
MatchCount *
crm_scan_learned(MatchScan *scan, uint32 first, uint32 npartitions, uint32 *nlearned)
{
	ScanShared *shared = scan->shared;
	MatchCounts *rest;
	MatchCount *list, *all;
	uint32 n, total, used = 0, next = 0;
	Size expected = 0;

	for (int i = 0; i < SCAN_MAX_PARTS; i++)
		expected += shared->part[i].ncounts;
	rest = crm_counts_create(CurrentMemoryContext, PG_UINT32_MAX / 4, expected);
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
	{
		ScanPart *part = &shared->part[i];
		const MatchCount *count = crm_scan_get(scan, part->counts);

		for (uint32 j = 0; j < part->ncounts; j++)
		{
			if (j % 65536 == 0)
				CHECK_FOR_INTERRUPTS();
			crm_counts_add_many(rest, count[j].hash, count[j].count);
		}
		crm_scan_free(scan, &part->counts, sizeof(MatchCount) * (Size) part->ncounts);
		part->ncounts = 0;
	}
	list = crm_counts_list(rest, 2, &n);
	crm_counts_free(rest);
	qsort(list, n, sizeof(MatchCount), crm_cmp_count);
	total = n;
	for (uint32 i = first; i < first + npartitions; i++)
		total += shared->blocks[i].ncounts;
	all = palloc_extended(sizeof(MatchCount) * Max((Size) total, 1), MCXT_ALLOC_HUGE);
	for (uint32 i = first; i < first + npartitions; i++)
	{
		ScanBlocks *blocks = &shared->blocks[i];
		const MatchCount *count = crm_scan_get(scan, blocks->counts);

		for (uint32 j = 0; j < blocks->ncounts; j++)
		{
			while (next < n && list[next].hash < count[j].hash)
				all[used++] = list[next++];
			/* A key and a value that is none have one hash by chance only; one is enough. */
			if (next < n && list[next].hash == count[j].hash)
				next++;
			all[used++] = count[j];
		}
		crm_scan_free(scan, &blocks->counts, sizeof(MatchCount) * (Size) blocks->ncounts);
	}
	while (next < n)
		all[used++] = list[next++];
	pfree(list);
	*nlearned = used;
	return all;
}

void
crm_scan_learn(MatchScan *scan)
{
	uint32 n;
	MatchCount *learned = crm_scan_learned(scan, 0, SCAN_PARTITIONS, &n);

	crm_scan_counts(scan, learned, sizeof(MatchCount) * (Size) n);
	pfree(learned);
	scan->shared->rows = (double) scan->shared->nrows;
}

/* What was learned before. */
void
crm_scan_counts(MatchScan *scan, const void *packed, Size size)
{
	ScanShared *shared = scan->shared;
	MatchCount *list = crm_scan_alloc(scan, size, &shared->counts);

	shared->ncounts = (uint32) (size / sizeof(MatchCount));
	memcpy(list, packed, size);
	crm_scan_place_counts(scan, list);
}

const MatchCounts *
crm_scan_frequencies(MatchScan *scan)
{
	return crm_counts_sorted(crm_scan_get(scan, scan->shared->counts), scan->shared->ncounts,
							 crm_scan_get(scan, scan->shared->count_start), CurrentMemoryContext);
}

/* The job SCAN_WEIGH. */
void
crm_scan_weigh(MatchScan *scan)
{
	const MatchCounts *counts = crm_scan_frequencies(scan);
	uint32 piece;

	while (crm_scan_next(scan, &piece))
	{
		uint32 end = Min((piece + 1) * SCAN_PAGE_ROWS, scan->nrecords);

		for (uint32 i = piece * SCAN_PAGE_ROWS; i < end; i++)
			if (scan->record[i] != SCAN_NO_RECORD)
				crm_match_weigh_counts(crm_scan_record(scan, i), scan->shared->rows, counts);
		crm_progress_add(scan->shared, SCAN_PAGE_ROWS);
	}
}
