/*
 * match_change.c
 *		A scan of what changed since the last one.
 *
 * Every row's header says which transaction wrote it; those of transactions that
 * the last scan did not see ended are read as features.  The rest of the table is
 * passed over without a look at its values, except that ids are noted: of a pair
 * whose record is seen nowhere the record was deleted.  Meanwhile the process that
 * was asked reads what is known; records of pairs about which a decision was taken
 * back it reads as if they had changed.
 *
 * The matching index says which rows share keys with what changed.  Most of them
 * mean something else, which their identifiers or their names show, so no more
 * is read of them.
 *
 * Groups are made anew where they can have changed: in the components, of the
 * pairs that hold now, in which a record was changed, or lost a pair or a
 * companion, or in which somebody decided.  All else is kept as it is.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
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

/* What changed, as a participant comes across it. */
typedef struct ChangeList
{
	MatchScan *scan;
	MatchScratch *scratch;
	ChangedRecord *record;
	uint32 n;
	uint32 size;
	ChangedKey *key;
	uint32 nkeys;
	uint32 key_size;
} ChangeList;

/* Ids, 64 neighbours in a place. */
typedef struct IdPlace
{
	uint64 high;
	uint64 bits; /* 0 = free */
} IdPlace;

typedef struct IdSet
{
	IdPlace *place;
	uint32 mask;
	uint32 used;
} IdSet;

static void
crm_ids_init(IdSet *set, uint32 size)
{
	set->place = palloc_extended(sizeof(IdPlace) * (Size) size, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	set->mask = size - 1;
	set->used = 0;
}

static inline IdPlace *
crm_ids_place(const IdSet *set, uint64 high)
{
	uint32 i = crm_hash64(high) & set->mask;

	while (set->place[i].bits != 0 && set->place[i].high != high)
		i = (i + 1) & set->mask;
	return &set->place[i];
}

static void
crm_ids_add(IdSet *set, uint64 high, uint64 bits)
{
	IdPlace *place = crm_ids_place(set, high);

	if (place->bits == 0)
	{
		if (set->used > set->mask / 2)
		{
			IdSet old = *set;

			crm_ids_init(set, (old.mask + 1) * 2);
			for (uint32 i = 0; i <= old.mask; i++)
				if (old.place[i].bits != 0)
					*crm_ids_place(set, old.place[i].high) = old.place[i];
			set->used = old.used;
			pfree(old.place);
			place = crm_ids_place(set, high);
		}
		set->used++;
		place->high = high;
	}
	place->bits |= bits;
}

static inline bool
crm_ids_have(const IdSet *set, int64 id)
{
	return (crm_ids_place(set, (uint64) id >> 6)->bits & (UINT64CONST(1) << (id & 63))) != 0;
}

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

/* A key of changed records: noted in the list of its partition by participant and place. */
#define KEY_PLACE_BITS 27
#define MOST_KEYS	   (1u << KEY_PLACE_BITS)

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

/* Reads rows by their ids, and hands on what is compared of them. */
static void
crm_rows_by_id(MatchScan *scan, Datum *ids, uint32 n,
			   void (*take)(void *arg, int64 id, const MatchValue values[MATCH_NROLES]), void *arg)
{
	const MatchColumns *columns;
	Oid types[1] = {INT8ARRAYOID};
	Datum args[1];
	MemoryContext old = CurrentMemoryContext, row_context;
	SPITupleTable *table;
	uint64 nrows;
	StringInfoData sql;

	if (n == 0)
		return;
	columns = crm_match_columns(scan->rel, false);
	row_context = AllocSetContextCreate(old, "crm match row", ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT t.id");
	for (int i = 0; i < columns->ncolumns; i++)
		appendStringInfo(&sql, ", t.%s", quote_identifier(columns->name[i]));
	appendStringInfo(&sql, " FROM %s AS t WHERE t.id OPERATOR(pg_catalog.=) ANY ($1)",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(scan->rel)),
												RelationGetRelationName(scan->rel)));
	args[0] = PointerGetDatum(
		construct_array(ids, (int) n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	if (SPI_execute_with_args(sql.data, 1, types, args, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read records");
	table = SPI_tuptable;
	nrows = SPI_processed;
	MemoryContextSwitchTo(old);
	for (uint64 row = 0; row < nrows; row++)
	{
		MatchValue values[MATCH_NROLES] = {0};
		bool null;
		int64 id = DatumGetInt64(SPI_getbinval(table->vals[row], table->tupdesc, 1, &null));

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(row_context);
		for (int i = 0; i < columns->ncolumns; i++)
		{
			Datum value = SPI_getbinval(table->vals[row], table->tupdesc, i + 2, &null);
			MatchValue text;

			if (!null && crm_match_value(value, columns->type[i], &text))
				values[columns->role[i]] = text;
		}
		MemoryContextSwitchTo(old);
		take(arg, id, values);
		MemoryContextReset(row_context);
	}
	SPI_freetuptable(table);
	MemoryContextDelete(row_context);
}

/* Was a row written since the last scan?  One frozen long ago may have any number. */
static inline bool
crm_scan_is_new(const ScanShared *shared, TransactionId xmin)
{
	return (uint32) (xmin - shared->since) < (uint32) (shared->next_xid - shared->since);
}

/* A record that changed, with the values given. */
static void
crm_change_add(ChangeList *list, int64 id, const MatchValue values[MATCH_NROLES])
{
	const MatchKey *keys;
	int nkeys;
	MatchRecord *record = crm_match_record(values, list->scratch, &keys, &nkeys);

	if (list->n == list->size)
	{
		list->size = Max(list->size * 2, BATCH_RECORDS);
		list->record = list->record == NULL
						   ? palloc(sizeof(ChangedRecord) * list->size)
						   : repalloc_huge(list->record, sizeof(ChangedRecord) * (Size) list->size);
	}
	if (list->nkeys + nkeys > list->key_size)
	{
		list->key_size = Max(list->key_size * 2, BATCH_RECORDS * MATCH_MAX_KEYS / 4);
		list->key =
			list->key == NULL
				? palloc_extended(sizeof(ChangedKey) * (Size) list->key_size, MCXT_ALLOC_HUGE)
				: repalloc_huge(list->key, sizeof(ChangedKey) * (Size) list->key_size);
	}
	list->record[list->n].number = crm_scan_keep(list->scan, id, record);
	list->record[list->n].first_key = list->nkeys;
	list->record[list->n++].nkeys = (uint32) nkeys;
	for (int i = 0; i < nkeys; i++)
	{
		crm_scan_note_key(list->scan, keys[i].hash,
						  (uint32) (list->scan->part - list->scan->shared->part) << KEY_PLACE_BITS |
							  list->nkeys);
		list->key[list->nkeys++].hash = keys[i].hash;
	}
	pfree(record);
}

static void
crm_change_take(void *arg, int64 id, const MatchValue values[MATCH_NROLES])
{
	ChangeList *list = arg;

	pg_atomic_add_fetch_u32(&list->scan->shared->next, 1);
	crm_change_add(list, id, values);
}

/* The job SCAN_CHANGED. */
void
crm_scan_changed(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	ScanPart *part = scan->part;
	Relation rel = table_open(shared->relid, AccessShareLock);
	const MatchColumns *columns = crm_match_columns(rel, false);
	AttrNumber id_column = crm_scan_id_column(rel);
	ChangeList list = {.scan = scan, .scratch = crm_match_scratch()};
	TableScanDesc heap = scan->heap != NULL ? table_beginscan_parallel(rel, scan->heap)
											: table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	MemoryContext value_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match row", ALLOCSET_DEFAULT_SIZES);
	IdSet seen;
	uint64 rows = 0, high = 0, bits = 0;

	crm_scan_new_notes(scan);
	crm_ids_init(&seen, 1024);
	while (table_scan_getnextslot(heap, ForwardScanDirection, slot))
	{
		bool null;
		int64 id = DatumGetInt64(slot_getattr(slot, id_column, &null));
		MatchValue values[MATCH_NROLES] = {0};
		MemoryContext old;

		if (++rows % 4096 == 0)
		{
			CHECK_FOR_INTERRUPTS();
			crm_progress_add(shared, 4096);
		}
		if (null)
			continue;
		if (shared->nslices > 0)
		{
			if (crm_scan_slice(shared, id) != shared->slice)
				continue;
		}
		else
		{
			/* Neighbours mostly come together. */
			if ((uint64) id >> 6 != high)
			{
				if (bits != 0)
					crm_ids_add(&seen, high, bits);
				high = (uint64) id >> 6;
				bits = 0;
			}
			bits |= UINT64CONST(1) << (id & 63);
			if (!crm_scan_is_new(shared, crm_slot_xmin(slot)))
				continue;
			/* Too many, or too much of them: a scan of the whole table it will be. */
			if (list.nkeys > MOST_KEYS - MATCH_MAX_KEYS ||
				pg_atomic_read_u64(&shared->used) > shared->limit / 4 * 3)
				pg_atomic_write_u32(&shared->next, shared->pieces);
			if (pg_atomic_add_fetch_u32(&shared->next, 1) > shared->pieces)
				break;
		}
		old = MemoryContextSwitchTo(value_context);
		crm_match_slot_values(columns, slot, values);
		MemoryContextSwitchTo(old);
		crm_change_add(&list, id, values);
		MemoryContextReset(value_context);
	}
	if (bits != 0)
		crm_ids_add(&seen, high, bits);
	crm_progress_add(shared, rows % 4096);
	part->rows = rows;
	if (shared->nslices == 0)
	{
		part->nseen = seen.mask + 1;
		crm_scan_share(scan, seen.place, sizeof(IdPlace) * (Size) part->nseen, &part->seen);
	}
	crm_rows_by_id(scan, scan->again, scan->nagain, crm_change_take, &list);
	part->nchanged = list.n;
	crm_scan_share(scan, list.record, sizeof(ChangedRecord) * (Size) list.n, &part->changed);
	part->nchanged_keys = list.nkeys;
	crm_scan_share(scan, list.key, sizeof(ChangedKey) * (Size) list.nkeys, &part->changed_keys);
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(heap);
	table_close(rel, NoLock);
}

/* ---------------------------------------------------------------------
 * What the changes touch
 * ---------------------------------------------------------------------
 */

#define ID_USED	   0x01
#define ID_CHANGED 0x02 /* or gone */
#define ID_GONE	   0x04
#define ID_TOUCHED 0x08 /* its component is made anew */

/* A record that the scan has to do with. */
typedef struct IdEntry
{
	int64 id;
	uint32 number; /* of its features; SCAN_NO_RECORD: not read yet */
	uint32 state;
} IdEntry;

#define SEEN_BITS 20

struct ChangeSet
{
	uint64 seen[(1 << SEEN_BITS) / 64]; /* bits of the hashes of all ids in it: most are not */
	IdEntry *entry;
	uint32 mask;
	uint32 n;
	int64 *touched; /* ids, as they came */
	uint32 ntouched;
	uint32 touched_size;
	uint32 nspread; /* of them, whose pairs were followed */
	/* known pairs by their right record: the last one of a hash, and from each the one before */
	uint32 *last;
	uint32 last_mask;
	uint32 *before;
};

#define NO_PAIR UINT32_MAX

static inline IdEntry *
crm_change_place(const ChangeSet *set, int64 id)
{
	uint32 i = crm_hash64((uint64) id) & set->mask;

	while (set->entry[i].state != 0 && set->entry[i].id != id)
		i = (i + 1) & set->mask;
	return &set->entry[i];
}

static inline uint32
crm_change_state(const ChangeSet *set, int64 id)
{
	uint32 bit = crm_hash64((uint64) id) >> (32 - SEEN_BITS);

	if ((set->seen[bit / 64] & (UINT64CONST(1) << (bit % 64))) == 0)
		return 0;
	return crm_change_place(set, id)->state;
}

static void
crm_change_resize(ChangeSet *set, uint32 size)
{
	ChangeSet old = *set;

	set->mask = size - 1;
	set->entry = palloc_extended(sizeof(IdEntry) * (Size) size, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (uint32 i = 0; old.entry != NULL && i <= old.mask; i++)
		if (old.entry[i].state != 0)
			*crm_change_place(set, old.entry[i].id) = old.entry[i];
	if (old.entry != NULL)
		pfree(old.entry);
}

static IdEntry *
crm_change_mark(ChangeSet *set, int64 id, uint32 state)
{
	IdEntry *entry = crm_change_place(set, id);

	if (entry->state == 0)
	{
		uint32 bit = crm_hash64((uint64) id) >> (32 - SEEN_BITS);

		set->seen[bit / 64] |= UINT64CONST(1) << (bit % 64);
		if (set->n > set->mask / 2)
		{
			crm_change_resize(set, (set->mask + 1) * 2);
			entry = crm_change_place(set, id);
		}
		set->n++;
		entry->id = id;
		entry->number = SCAN_NO_RECORD;
	}
	entry->state |= ID_USED | state;
	return entry;
}

/* Of a pair that holds, whoever looks at it, if its records are there and have not changed. */
static bool
crm_pair_holds(const KnownPair *pair)
{
	return pair->state == PAIR_OPEN || pair->state == PAIR_IGNORED || pair->state == PAIR_SAME;
}

/* Records of pairs that are not told apart, or no more: what is known of them may be old. */
void
crm_change_again(MatchScan *scan, const KnownResult *known)
{
	scan->nagain = 0;
	scan->again = palloc_extended(sizeof(Datum) * Max((Size) known->npairs, 1), MCXT_ALLOC_HUGE);
	for (uint32 i = 0; i < known->npairs; i++)
		if (known->pair[i].changed && crm_pair_holds(&known->pair[i]))
			scan->again[scan->nagain++] = Int64GetDatum(known->pair[i].left);
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

/* A known record whose row was seen nowhere is gone. */
static void
crm_change_find_gone(MatchScan *scan, ChangeSet *set, const KnownResult *known)
{
	IdSet seen;

	crm_ids_init(&seen, 1024);
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
	{
		const ScanPart *part = &scan->shared->part[i];
		const IdPlace *place = crm_scan_get(scan, part->seen);

		for (uint32 j = 0; j < part->nseen; j++)
			if (place[j].bits != 0)
				crm_ids_add(&seen, place[j].high, place[j].bits);
	}
	for (uint32 i = 0; i < known->npairs; i++)
	{
		const KnownPair *pair = &known->pair[i];

		if (!crm_pair_holds(pair))
			continue;
		if (!crm_ids_have(&seen, pair->left))
			crm_change_mark(set, pair->left, ID_CHANGED | ID_GONE);
		if (!crm_ids_have(&seen, pair->right))
			crm_change_mark(set, pair->right, ID_CHANGED | ID_GONE);
	}
	for (uint32 i = 0; i < known->nmembers; i++)
		if (!known->member[i].merged && !crm_ids_have(&seen, known->member[i].record))
			crm_change_mark(set, known->member[i].record, ID_CHANGED | ID_GONE);
	pfree(seen.place);
}

static void
crm_change_touch_id(ChangeSet *set, int64 id)
{
	IdEntry *entry = crm_change_mark(set, id, 0);

	if ((entry->state & ID_TOUCHED) != 0)
		return;
	entry->state |= ID_TOUCHED;
	if (set->ntouched == set->touched_size)
	{
		set->touched_size = Max(set->touched_size * 2, 1024);
		set->touched =
			set->touched == NULL
				? palloc_extended(sizeof(int64) * (Size) set->touched_size, MCXT_ALLOC_HUGE)
				: repalloc_huge(set->touched, sizeof(int64) * (Size) set->touched_size);
	}
	set->touched[set->ntouched++] = id;
}

static void
crm_change_index_pairs(ChangeSet *set, const KnownResult *known)
{
	uint32 size = 1024;

	while (size < known->npairs && size < PG_UINT32_MAX / 4)
		size *= 2;
	set->last_mask = size - 1;
	set->last = palloc_extended(sizeof(uint32) * (Size) size, MCXT_ALLOC_HUGE);
	memset(set->last, 0xFF, sizeof(uint32) * (Size) size);
	set->before = palloc_extended(sizeof(uint32) * Max((Size) known->npairs, 1), MCXT_ALLOC_HUGE);
	for (uint32 i = 0; i < known->npairs; i++)
	{
		uint32 *last = &set->last[crm_hash64((uint64) known->pair[i].right) & set->last_mask];

		set->before[i] = *last;
		*last = i;
	}
}

/* Where the pairs begin whose left record has this id or a higher one. */
static uint32
crm_known_from(const KnownResult *known, int64 id)
{
	uint32 low = 0, high = known->npairs;

	while (low < high)
	{
		uint32 mid = low + (high - low) / 2;

		if (known->pair[mid].left < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* The pairs of a record, one after the other: NULL to begin, and at the end. */
static KnownPair *
crm_change_next_pair(const ChangeSet *set, KnownResult *known, int64 id, KnownPair *pair)
{
	uint32 i;

	if (pair == NULL || pair->left == id)
	{
		i = pair == NULL ? crm_known_from(known, id) : (uint32) (pair - known->pair) + 1;
		if (i < known->npairs && known->pair[i].left == id)
			return &known->pair[i];
		i = set->last[crm_hash64((uint64) id) & set->last_mask];
	}
	else
		i = set->before[pair - known->pair];
	while (i != NO_PAIR && known->pair[i].right != id)
		i = set->before[i];
	return i == NO_PAIR ? NULL : &known->pair[i];
}

/* A record that changed: what is known of its pairs holds no more. */
static void
crm_change_loosen(ChangeSet *set, KnownResult *known, int64 id, bool gone)
{
	for (KnownPair *pair = crm_change_next_pair(set, known, id, NULL); pair != NULL;
		 pair = crm_change_next_pair(set, known, id, pair))
	{
		pair->kept = false;
		if (pair->state != PAIR_SAME || gone)
			pair->joins = false;
		if (crm_pair_holds(pair))
			crm_change_touch_id(set, pair->left == id ? pair->right : pair->left);
	}
}

/* Records whose pairs or companions changed, or about whom somebody decided. */
static void
crm_change_seeds(ChangeSet *set, KnownResult *known, float4 threshold)
{
	uint32 nchanged;

	for (uint32 i = 0; i <= set->mask; i++)
		if ((set->entry[i].state & ID_CHANGED) != 0)
			crm_change_touch_id(set, set->entry[i].id);
	nchanged = set->ntouched;
	for (uint32 i = 0; i < known->nmembers;)
	{
		uint32 end = i;
		bool changed = false;

		for (; end < known->nmembers && known->member[end].cluster == known->member[i].cluster;
			 end++)
			changed = changed || (!known->member[end].merged &&
								  (crm_change_state(set, known->member[end].record) & ID_CHANGED));
		for (; i < end; i++)
			if (changed && !known->member[i].merged)
				crm_change_touch_id(set, known->member[i].record);
	}
	for (uint32 i = 0; i < known->npairs; i++)
	{
		KnownPair *pair = &known->pair[i];

		pair->kept = pair->score >= threshold;
		pair->joins = pair->state == PAIR_SAME || (pair->kept && crm_pair_holds(pair));
		if (pair->changed)
		{
			crm_change_touch_id(set, pair->left);
			crm_change_touch_id(set, pair->right);
		}
	}
	for (uint32 i = 0; i < nchanged; i++)
	{
		int64 id = set->touched[i];

		crm_change_loosen(set, known, id, (crm_change_state(set, id) & ID_GONE) != 0);
	}
}

/* Everything that hangs together with what is touched, is touched. */
static void
crm_change_spread(ChangeSet *set, KnownResult *known)
{
	for (; set->nspread < set->ntouched; set->nspread++)
	{
		int64 id = set->touched[set->nspread];

		CHECK_FOR_INTERRUPTS();
		for (KnownPair *pair = crm_change_next_pair(set, known, id, NULL); pair != NULL;
			 pair = crm_change_next_pair(set, known, id, pair))
			if (pair->joins)
				crm_change_touch_id(set, pair->left == id ? pair->right : pair->left);
	}
}

/* Which records changed or are gone, and what of that which is known they touch. */
ChangeSet *
crm_change_begin(MatchScan *scan, KnownResult *known, uint64 *nchanged)
{
	ScanShared *shared = scan->shared;
	ChangeSet *set = palloc0(sizeof(ChangeSet));

	crm_change_resize(set, 1024);
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
	{
		const ChangedRecord *changed = crm_scan_get(scan, shared->part[i].changed);

		for (uint32 j = 0; j < shared->part[i].nchanged; j++)
			crm_change_mark(set, scan->id[changed[j].number], ID_CHANGED);
	}
	*nchanged = set->n;
	crm_change_find_gone(scan, set, known);
	crm_change_index_pairs(set, known);
	crm_change_seeds(set, known, (float4) crm_match_probability(shared->threshold));
	crm_change_spread(set, known);
	return set;
}

/*
 * The records that have features, and the edges found between them: a record that
 * two participants came across is one.
 */
void
crm_change_unify(MatchScan *scan, ChangeSet *set, MatchEdge *edge, uint32 nedges)
{
	for (uint32 i = 0; i < scan->nrecords; i++)
		if (scan->record[i] != SCAN_NO_RECORD)
		{
			IdEntry *entry = crm_change_mark(set, scan->id[i], 0);

			if (entry->number == SCAN_NO_RECORD)
				entry->number = i;
			else
				scan->record[i] = SCAN_NO_RECORD;
		}
	for (uint32 i = 0; i < nedges; i++)
	{
		edge[i].a = crm_change_place(set, scan->id[edge[i].a])->number;
		edge[i].b = crm_change_place(set, scan->id[edge[i].b])->number;
	}
}

/* What the edges found touch; with that it is known which clusters are kept. */
void
crm_change_touch(MatchScan *scan, ChangeSet *set, KnownResult *known, const MatchEdge *edge,
				 uint32 nedges)
{
	for (uint32 i = 0; i < nedges; i++)
	{
		crm_change_touch_id(set, scan->id[edge[i].a]);
		crm_change_touch_id(set, scan->id[edge[i].b]);
	}
	crm_change_spread(set, known);
	for (uint32 i = 0; i < known->nmembers; i++)
		known->member[i].kept = (crm_change_state(set, known->member[i].record) & ID_TOUCHED) == 0;
}

typedef struct ChangeKeep
{
	MatchScan *scan;
	ChangeSet *set;
	const MatchCounts *counts;
	MatchScratch *scratch;
} ChangeKeep;

static void
crm_change_keep(void *arg, int64 id, const MatchValue values[MATCH_NROLES])
{
	ChangeKeep *keep = arg;
	MatchRecord *record = crm_match_record(values, keep->scratch, NULL, NULL);

	crm_match_weigh_counts(record, keep->scan->shared->rows, keep->counts);
	crm_change_place(keep->set, id)->number = crm_scan_keep(keep->scan, id, record);
	pfree(record);
}

/* Reads the features of records that stand in components made anew. */
void
crm_change_fetch(MatchScan *scan, ChangeSet *set)
{
	ChangeKeep keep = {scan, set, crm_scan_frequencies(scan), crm_match_scratch()};
	Datum *ids = palloc_extended(sizeof(Datum) * ((Size) set->n + 1), MCXT_ALLOC_HUGE);
	uint32 n = 0;

	for (uint32 i = 0; i <= set->mask; i++)
		if ((set->entry[i].state & (ID_TOUCHED | ID_GONE)) == ID_TOUCHED &&
			set->entry[i].number == SCAN_NO_RECORD)
			ids[n++] = Int64GetDatum(set->entry[i].id);
	crm_rows_by_id(scan, ids, n, crm_change_keep, &keep);
	pfree(ids);
}

/* Edges of the components made anew: what was found now, and what of the known pairs holds. */
MatchEdge *
crm_change_edges(MatchScan *scan, const ChangeSet *set, const KnownResult *known,
				 const MatchEdge *found, uint32 nfound, uint32 *nedges)
{
	float threshold = scan->shared->threshold;
	EdgeList list = {0};

	for (uint32 i = 0; i < nfound; i++)
		crm_edge_add(&list, found[i].a, found[i].b, found[i].bits);
	for (uint32 i = 0; i < set->ntouched; i++)
	{
		int64 id = set->touched[i];
		const IdEntry *a = crm_change_place(set, id), *b;

		if (a->number == SCAN_NO_RECORD)
			continue;
		for (uint32 p = crm_known_from(known, id); p < known->npairs && known->pair[p].left == id;
			 p++)
		{
			const KnownPair *pair = &known->pair[p];
			float bits;

			if (!pair->joins || pair->state == PAIR_SAME)
				continue;
			b = crm_change_place(set, pair->right);
			if (b->number == SCAN_NO_RECORD)
				continue;
			bits = crm_scan_bits(scan, a->number, b->number, threshold);
			if (bits >= threshold)
				crm_edge_add(&list, a->number, b->number, bits);
		}
	}
	*nedges = list.n;
	return list.edge;
}

/* Pairs that stand untouched by the scan. */
uint64
crm_change_kept_pairs(const KnownResult *known)
{
	uint64 n = 0;

	for (uint32 i = 0; i < known->npairs; i++)
		n += known->pair[i].kept && crm_pair_holds(&known->pair[i]);
	return n;
}

/* Records in clusters untouched by the scan. */
uint64
crm_change_kept_members(const KnownResult *known)
{
	uint64 n = 0;

	for (uint32 i = 0; i < known->nmembers; i++)
		n += !known->member[i].merged && known->member[i].kept;
	return n;
}
