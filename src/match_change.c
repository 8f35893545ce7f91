/*
 * match_change.c
 *		A scan of what changed since the last one.
 *
 * Every row's header says which transaction wrote it; those of transactions that
 * the last scan did not see ended are read as features, and the matching index
 * says which rows share keys with them.  The rest of the table is passed over
 * without a look at its values, except that ids are noted: of a pair whose
 * record is seen nowhere the record was deleted.  Meanwhile the process that was
 * asked reads what is known; records of pairs about which a decision was taken
 * back it looks up as if they had changed.
 *
 * Groups are made anew where they can have changed: in the components, of the
 * pairs that hold now, in which a record was changed, or lost a pair or a
 * companion, or in which somebody decided.  All else is kept as it is.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "match_posting.h"
#include "match_scan.h"

#define BATCH_RECORDS 1024

/* A row that may mean the same as a changed record. */
typedef struct Candidate
{
	uint64 tid;
	uint32 number; /* of the changed record in the batch */
} Candidate;

typedef struct Sharer
{
	uint64 tid;
	uint32 stamp; /* of the record it was last found for */
	uint16 key;	  /* of the record; the index may tell a row twice */
	uint16 weight;
} Sharer;

/* A key of a changed record. */
typedef struct ChangedKey
{
	uint32 hash;
	int weight;
} ChangedKey;

struct ChangeBatch;

/* The rows that have a key. */
typedef struct KeyRows
{
	struct ChangeBatch *batch;
	ItemPointer row;
	int n;
	int size;
} KeyRows;

typedef struct ChangeBatch
{
	MatchScan *scan;
	Relation rel;
	Relation index;
	MatchPostings *postings;
	const MatchColumns *columns;
	AttrNumber id_column;
	MatchScratch *scratch;
	const MatchCounts *counts;
	IndexFetchTableData *fetch;
	TupleTableSlot *slot;
	MemoryContext context; /* of the batch */
	EdgeList edges;
	Sharer *sharer; /* rows that share keys with one record */
	uint32 sharer_mask;
	uint32 stamp;
	MatchCounts *crowded; /* keys too common to be looked up */

	int n;
	uint32 number[BATCH_RECORDS];
	int64 id[BATCH_RECORDS];
	MatchRecord *record[BATCH_RECORDS];
	uint32 first_key[BATCH_RECORDS + 1];
	ChangedKey *key;
	uint32 nkeys;
	uint32 key_size;

	int64 *changed; /* ids of all records that were looked up */
	uint32 nchanged;
	uint32 changed_size;
} ChangeBatch;

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

static inline uint32
crm_hash64(uint64 x)
{
	return (uint32) ((x * UINT64CONST(0x9E3779B97F4A7C15)) >> 32);
}

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
crm_sharer(ChangeBatch *batch, uint64 tid)
{
	uint32 i = crm_hash64(tid) & batch->sharer_mask;

	while (batch->sharer[i].stamp == batch->stamp && batch->sharer[i].tid != tid)
		i = (i + 1) & batch->sharer_mask;
	return &batch->sharer[i];
}

/* Room for so many rows that share keys with the next record. */
static void
crm_sharers_begin(ChangeBatch *batch, Size rows)
{
	Size size = (Size) batch->sharer_mask + 1;

	batch->stamp++;
	if (batch->sharer != NULL && rows * 2 <= size)
		return;
	while (rows * 2 > size)
		size *= 2;
	if (batch->sharer != NULL)
		pfree(batch->sharer);
	batch->sharer = MemoryContextAllocExtended(GetMemoryChunkContext(batch), sizeof(Sharer) * size,
											   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	batch->sharer_mask = (uint32) (size - 1);
}

static int
crm_cmp_candidate(const void *a, const void *b)
{
	const Candidate *x = a, *y = b;

	if (x->tid != y->tid)
		return x->tid < y->tid ? -1 : 1;
	return x->number < y->number ? -1 : x->number > y->number;
}

static int
crm_cmp_posting(const void *a, const void *b)
{
	uint32 x = ((const MatchPosting *) a)->key;
	uint32 y = ((const MatchPosting *) b)->key;

	return x < y ? -1 : x > y;
}

static int
crm_cmp_tid(const void *a, const void *b)
{
	return ItemPointerCompare((ItemPointer) a, (ItemPointer) b);
}

/* Leaves of the rows those that live; more than SCAN_CROWD of them are a crowd, however many. */
static void
crm_rows_living(KeyRows *rows)
{
	ChangeBatch *batch = rows->batch;
	int n = 0;

	qsort(rows->row, rows->n, sizeof(ItemPointerData), crm_cmp_tid);
	for (int i = 0; i < rows->n && n <= SCAN_CROWD; i++)
	{
		ItemPointerData tid = rows->row[i];
		bool again = false, dead;

		CHECK_FOR_INTERRUPTS();
		if (n > 0 && ItemPointerEquals(&rows->row[n - 1], &tid))
			continue;
		if (table_index_fetch_tuple(batch->fetch, &tid, GetActiveSnapshot(), batch->slot, &again,
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

/* The rows of all keys of the batch, each key asked for once. */
static MatchPosting *
crm_batch_look_up(ChangeBatch *batch, int *nlist, KeyRows **rows)
{
	MatchPosting *list = palloc(sizeof(MatchPosting) * Max(batch->nkeys, 1));
	int n = 0;

	for (uint32 i = 0; i < batch->nkeys; i++)
		list[i].key = batch->key[i].hash;
	qsort(list, batch->nkeys, sizeof(MatchPosting), crm_cmp_posting);
	for (uint32 i = 0; i < batch->nkeys; i++)
		if (n == 0 || list[n - 1].key != list[i].key)
			list[n++].key = list[i].key;
	crm_postings_look_up(batch->postings, list, n);
	*rows = palloc0(sizeof(KeyRows) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		KeyRows *r = &(*rows)[i];

		r->batch = batch;
		crm_postings_read(batch->postings, &list[i], crm_read_rows, r);
		if (r->n > SCAN_CROWD)
		{
			pg_atomic_write_u32(&batch->scan->shared->outgrown, 1);
			break;
		}
	}
	*nlist = n;
	return list;
}

/* The rows that share enough keys with the records of the batch, by their place. */
static Candidate *
crm_batch_candidates(ChangeBatch *batch, uint32 *ncandidates)
{
	uint32 n = 0, size = 1024;
	Candidate *candidate = palloc(sizeof(Candidate) * size);
	int nlist;
	KeyRows *rows;
	MatchPosting *list = crm_batch_look_up(batch, &nlist, &rows);

	for (int r = 0; r < batch->n; r++)
	{
		const KeyRows *have_all[MATCH_MAX_KEYS] = {NULL};
		Size total = 0;

		for (uint32 k = batch->first_key[r]; k < batch->first_key[r + 1]; k++)
		{
			MatchPosting want = {.key = batch->key[k].hash};
			MatchPosting *found =
				bsearch(&want, list, nlist, sizeof(MatchPosting), crm_cmp_posting);

			have_all[k - batch->first_key[r]] = &rows[found - list];
			total += rows[found - list].n;
		}
		crm_sharers_begin(batch, total);
		for (uint32 k = batch->first_key[r]; k < batch->first_key[r + 1]; k++)
		{
			const KeyRows *have = have_all[k - batch->first_key[r]];
			uint16 key = (uint16) (k - batch->first_key[r] + 1);

			for (int i = 0; i < have->n; i++)
			{
				uint64 tid = crm_tid_code(&have->row[i]);
				Sharer *sharer = crm_sharer(batch, tid);
				int before = 0;

				if (sharer->stamp == batch->stamp)
				{
					if (sharer->key == key)
						continue;
					before = sharer->weight;
				}
				else
				{
					sharer->stamp = batch->stamp;
					sharer->tid = tid;
				}
				sharer->key = key;
				sharer->weight = (uint16) (before + batch->key[k].weight);
				if (before >= SCAN_NEEDED || sharer->weight < SCAN_NEEDED)
					continue;
				if (n == size)
				{
					size *= 2;
					candidate = repalloc_huge(candidate, sizeof(Candidate) * (Size) size);
				}
				candidate[n].tid = tid;
				candidate[n++].number = (uint32) r;
			}
		}
	}
	qsort(candidate, n, sizeof(Candidate), crm_cmp_candidate);
	*ncandidates = n;
	return candidate;
}

/* Features of the row at a place of the index; NULL if the snapshot does not see it. */
static MatchRecord *
crm_batch_fetch(ChangeBatch *batch, uint64 code, int64 *id)
{
	MatchValue values[MATCH_NROLES] = {0};
	ItemPointerData tid;
	bool again = false, dead, null;
	MatchRecord *record;

	ItemPointerSet(&tid, (BlockNumber) (code >> 16), (OffsetNumber) (code & 0xFFFF));
	if (!table_index_fetch_tuple(batch->fetch, &tid, GetActiveSnapshot(), batch->slot, &again,
								 &dead))
		return NULL;
	*id = DatumGetInt64(slot_getattr(batch->slot, batch->id_column, &null));
	if (null)
		return NULL;
	crm_match_slot_values(batch->columns, batch->slot, values);
	record = crm_match_record(values, batch->scratch, NULL, NULL);
	crm_match_weigh_counts(record, batch->scan->shared->rows, batch->counts);
	return record;
}

/* Compares the records of the batch with what shares keys with them. */
static void
crm_batch_compare(ChangeBatch *batch)
{
	MatchScan *scan = batch->scan;
	float threshold = scan->shared->threshold;
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	uint32 n;
	Candidate *candidate = crm_batch_candidates(batch, &n);

	for (uint32 i = 0; i < n;)
	{
		uint64 tid = candidate[i].tid;
		uint32 kept = SCAN_NO_RECORD;
		int64 id;
		MatchRecord *record = crm_batch_fetch(batch, tid, &id);

		CHECK_FOR_INTERRUPTS();
		for (; i < n && candidate[i].tid == tid; i++)
		{
			uint32 c = candidate[i].number;
			bool first;
			float bits;

			if (record == NULL || batch->id[c] == id)
				continue;
			first = batch->id[c] < id;
			scan->part->candidates++;
			bits = (float) crm_match_bits(&scan->scorer, first ? batch->record[c] : record,
										  first ? record : batch->record[c], threshold);
			if (bits < threshold)
				continue;
			if (kept == SCAN_NO_RECORD)
				kept = crm_scan_keep(scan, id, record);
			MemoryContextSwitchTo(old);
			crm_edge_add(&batch->edges, batch->number[c], kept, bits);
			MemoryContextSwitchTo(batch->context);
		}
		if (record != NULL)
			pfree(record);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(batch->context);
	batch->n = 0;
	batch->nkeys = 0;
}

/* A record that changed, with the values given: it is looked up with others. */
static void
crm_batch_add(ChangeBatch *batch, int64 id, const MatchValue values[MATCH_NROLES])
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	const MatchKey *keys;
	int nkeys, r = batch->n++;

	batch->id[r] = id;
	batch->record[r] = crm_match_record(values, batch->scratch, &keys, &nkeys);
	crm_match_weigh_counts(batch->record[r], batch->scan->shared->rows, batch->counts);
	MemoryContextSwitchTo(old);
	batch->number[r] = crm_scan_keep(batch->scan, id, batch->record[r]);
	batch->first_key[r] = batch->nkeys;
	if (batch->nkeys + nkeys > batch->key_size)
	{
		batch->key_size = Max(batch->key_size * 2, BATCH_RECORDS * MATCH_MAX_KEYS / 4);
		batch->key = batch->key == NULL
						 ? palloc(sizeof(ChangedKey) * batch->key_size)
						 : repalloc_huge(batch->key, sizeof(ChangedKey) * (Size) batch->key_size);
	}
	for (int i = 0; i < nkeys; i++)
	{
		int w = crm_scan_key_weight(keys[i].hash, crm_counts_get(batch->counts, keys[i].hash));

		if (w == 0)
		{
			crm_counts_add(batch->crowded, keys[i].hash);
			continue;
		}
		batch->key[batch->nkeys].hash = keys[i].hash;
		batch->key[batch->nkeys++].weight = w;
	}
	batch->first_key[r + 1] = batch->nkeys;
	if (batch->nchanged == batch->changed_size)
	{
		batch->changed_size *= 2;
		batch->changed = repalloc_huge(batch->changed, sizeof(int64) * (Size) batch->changed_size);
	}
	batch->changed[batch->nchanged++] = id;
	if (batch->n == BATCH_RECORDS)
		crm_batch_compare(batch);
}

static ChangeBatch *
crm_batch_begin(MatchScan *scan, Relation rel)
{
	ChangeBatch *batch = palloc0(sizeof(ChangeBatch));

	batch->scan = scan;
	batch->rel = rel;
	batch->columns = crm_match_columns(rel, false);
	batch->index = index_open(batch->columns->indexid, AccessShareLock);
	batch->postings = crm_postings_begin(batch->index, GetActiveSnapshot());
	batch->id_column = crm_scan_id_column(rel);
	batch->scratch = crm_match_scratch();
	batch->counts = crm_scan_frequencies(scan);
	batch->fetch = table_index_fetch_begin(rel);
	batch->slot = table_slot_create(rel, NULL);
	batch->sharer_mask = 32768 - 1;
	batch->crowded = crm_counts_create(CurrentMemoryContext, PG_UINT32_MAX / 4, 0);
	batch->changed_size = BATCH_RECORDS;
	batch->changed = palloc(sizeof(int64) * batch->changed_size);
	batch->context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match batch", ALLOCSET_DEFAULT_SIZES);
	return batch;
}

static void
crm_batch_end(ChangeBatch *batch)
{
	MatchScan *scan = batch->scan;
	ScanPart *part = scan->part;
	MatchCount *list;

	if (batch->n > 0)
		crm_batch_compare(batch);
	memcpy(crm_scan_alloc(scan, sizeof(int64) * (Size) batch->nchanged, &part->changed),
		   batch->changed, sizeof(int64) * (Size) batch->nchanged);
	part->nchanged = batch->nchanged;
	list = crm_counts_list(batch->crowded, 1, &part->ncounts);
	memcpy(crm_scan_alloc(scan, sizeof(MatchCount) * (Size) part->ncounts, &part->counts), list,
		   sizeof(MatchCount) * (Size) part->ncounts);
	crm_edge_share(scan, &batch->edges);
	ExecDropSingleTupleTableSlot(batch->slot);
	table_index_fetch_end(batch->fetch);
	index_close(batch->index, NoLock);
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

static void
crm_batch_take(void *arg, int64 id, const MatchValue values[MATCH_NROLES])
{
	ChangeBatch *batch = arg;

	pg_atomic_add_fetch_u32(&batch->scan->shared->next, 1);
	crm_batch_add(batch, id, values);
}

/* The job SCAN_CHANGED. */
void
crm_scan_changed(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	Relation rel = table_open(shared->relid, AccessShareLock);
	ChangeBatch *batch = crm_batch_begin(scan, rel);
	TableScanDesc heap = scan->heap != NULL ? table_beginscan_parallel(rel, scan->heap)
											: table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	MemoryContext value_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match row", ALLOCSET_DEFAULT_SIZES);
	IdSet seen;
	uint64 rows = 0, high = 0, bits = 0;

	crm_ids_init(&seen, 1024);
	while (table_scan_getnextslot(heap, ForwardScanDirection, slot))
	{
		bool null;
		int64 id = DatumGetInt64(slot_getattr(slot, batch->id_column, &null));
		MatchValue values[MATCH_NROLES] = {0};
		MemoryContext old;

		if (++rows % 4096 == 0)
		{
			CHECK_FOR_INTERRUPTS();
			crm_progress_add(shared, 4096);
		}
		if (null)
			continue;
		/* Neighbours mostly come together. */
		if ((uint64) id >> 6 != high)
		{
			if (bits != 0)
				crm_ids_add(&seen, high, bits);
			high = (uint64) id >> 6;
			bits = 0;
		}
		bits |= UINT64CONST(1) << (id & 63);
		if (!crm_scan_is_new(shared, DatumGetTransactionId(slot_getsysattr(
										 slot, MinTransactionIdAttributeNumber, &null))))
			continue;
		if (pg_atomic_add_fetch_u32(&shared->next, 1) > shared->pieces ||
			pg_atomic_read_u32(&shared->outgrown) != 0)
			break; /* a scan of the whole table it will be */
		old = MemoryContextSwitchTo(value_context);
		crm_match_slot_values(batch->columns, slot, values);
		MemoryContextSwitchTo(old);
		crm_batch_add(batch, id, values);
		MemoryContextReset(value_context);
	}
	if (bits != 0)
		crm_ids_add(&seen, high, bits);
	crm_progress_add(shared, rows % 4096);
	scan->part->rows = rows;
	scan->part->nseen = seen.mask + 1;
	memcpy(crm_scan_alloc(scan, sizeof(IdPlace) * (Size) scan->part->nseen, &scan->part->seen),
		   seen.place, sizeof(IdPlace) * (Size) scan->part->nseen);
	crm_rows_by_id(scan, scan->again, scan->nagain, crm_batch_take, batch);
	crm_batch_end(batch);
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

struct ChangeSet
{
	IdEntry *entry;
	uint32 mask;
	uint32 n;
};

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

/* Records of pairs about which a decision was taken back: what is known of them may be old. */
void
crm_change_again(MatchScan *scan, const KnownResult *known)
{
	scan->nagain = 0;
	scan->again = palloc_extended(sizeof(Datum) * Max((Size) known->npairs, 1), MCXT_ALLOC_HUGE);
	for (uint32 i = 0; i < known->npairs; i++)
		if (known->pair[i].changed &&
			(known->pair[i].state == PAIR_OPEN || known->pair[i].state == PAIR_IGNORED))
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

/* Keys of changed records that too many rows have, of all participants: identifiers and pieces. */
void
crm_change_crowded(MatchScan *scan, uint64 crowded[2])
{
	MatchCounts *all = crm_counts_create(CurrentMemoryContext, PG_UINT32_MAX / 4, 0);
	MatchCount *list;
	uint32 n;

	for (int i = 0; i < SCAN_MAX_PARTS; i++)
	{
		const ScanPart *part = &scan->shared->part[i];

		list = crm_scan_get(scan, part->counts);
		for (uint32 j = 0; j < part->ncounts; j++)
			crm_counts_add(all, list[j].hash);
	}
	list = crm_counts_list(all, 1, &n);
	for (uint32 i = 0; i < n; i++)
		crowded[MATCH_HASH_IS_PIECE(list[i].hash)]++;
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

/* What the job found out about records: which changed, which are gone, which have features. */
ChangeSet *
crm_change_collect(MatchScan *scan, const KnownResult *known, uint64 *nchanged)
{
	ScanShared *shared = scan->shared;
	ChangeSet *set = palloc0(sizeof(ChangeSet));

	crm_change_resize(set, 1024);
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
	{
		const int64 *changed = crm_scan_get(scan, shared->part[i].changed);

		for (uint32 j = 0; j < shared->part[i].nchanged; j++)
			crm_change_mark(set, changed[j], ID_CHANGED);
	}
	*nchanged = set->n;
	crm_change_find_gone(scan, set, known);
	for (uint32 i = 0; i < scan->nrecords; i++)
		if (scan->record[i] != SCAN_NO_RECORD)
		{
			IdEntry *entry = crm_change_mark(set, scan->id[i], 0);

			if (entry->number == SCAN_NO_RECORD)
				entry->number = i;
		}
	return set;
}

/* A record that two participants came across is one. */
void
crm_change_unify(MatchScan *scan, const ChangeSet *set, MatchEdge *edge, uint32 nedges)
{
	for (uint32 i = 0; i < nedges; i++)
	{
		edge[i].a = crm_change_place(set, scan->id[edge[i].a])->number;
		edge[i].b = crm_change_place(set, scan->id[edge[i].b])->number;
	}
	for (uint32 i = 0; i < scan->nrecords; i++)
		if (scan->record[i] != SCAN_NO_RECORD && crm_change_place(set, scan->id[i])->number != i)
			scan->record[i] = SCAN_NO_RECORD;
}

/* Records whose pairs or companions changed, or about whom somebody decided. */
static void
crm_change_seeds(ChangeSet *set, KnownResult *known, float4 threshold)
{
	for (uint32 i = 0; i <= set->mask; i++)
		if ((set->entry[i].state & ID_CHANGED) != 0)
			set->entry[i].state |= ID_TOUCHED;
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
				crm_change_mark(set, known->member[i].record, ID_TOUCHED);
	}
	for (uint32 i = 0; i < known->npairs; i++)
	{
		KnownPair *pair = &known->pair[i];
		uint32 both = crm_change_state(set, pair->left) | crm_change_state(set, pair->right);
		bool changed = (both & ID_CHANGED) != 0;

		pair->kept = pair->score >= threshold && !changed;
		pair->joins =
			pair->state == PAIR_SAME ? (both & ID_GONE) == 0 : pair->kept && crm_pair_holds(pair);
		if (pair->changed || (changed && crm_pair_holds(pair)))
		{
			crm_change_mark(set, pair->left, ID_TOUCHED);
			crm_change_mark(set, pair->right, ID_TOUCHED);
		}
	}
}

/*
 * Finds the components in which something changed, and tells of what is known
 * whether it is kept.  Pairs are in the order of their ids, so going up and down
 * alternately takes few rounds.
 */
void
crm_change_touch(MatchScan *scan, ChangeSet *set, KnownResult *known, const MatchEdge *edge,
				 uint32 nedges)
{
	bool more = true;

	crm_change_seeds(set, known, (float4) crm_match_probability(scan->shared->threshold));
	for (uint32 i = 0; i < nedges; i++)
	{
		crm_change_mark(set, scan->id[edge[i].a], ID_TOUCHED);
		crm_change_mark(set, scan->id[edge[i].b], ID_TOUCHED);
	}
	for (bool up = true; more; up = !up)
	{
		CHECK_FOR_INTERRUPTS();
		more = false;
		for (uint32 i = 0; i < known->npairs; i++)
		{
			const KnownPair *pair = &known->pair[up ? i : known->npairs - 1 - i];
			uint32 left, right;

			if (!pair->joins)
				continue;
			left = crm_change_state(set, pair->left) & ID_TOUCHED;
			right = crm_change_state(set, pair->right) & ID_TOUCHED;
			if (left == right)
				continue;
			crm_change_mark(set, left ? pair->right : pair->left, ID_TOUCHED);
			more = true;
		}
	}
	for (uint32 i = 0; i < known->nmembers; i++)
		known->member[i].kept = (crm_change_state(set, known->member[i].record) & ID_TOUCHED) == 0;
}

typedef struct ChangeFetch
{
	MatchScan *scan;
	ChangeSet *set;
	const MatchCounts *counts;
	MatchScratch *scratch;
} ChangeFetch;

static void
crm_change_keep(void *arg, int64 id, const MatchValue values[MATCH_NROLES])
{
	ChangeFetch *fetch = arg;
	MatchRecord *record = crm_match_record(values, fetch->scratch, NULL, NULL);

	crm_match_weigh_counts(record, fetch->scan->shared->rows, fetch->counts);
	crm_change_place(fetch->set, id)->number = crm_scan_keep(fetch->scan, id, record);
	pfree(record);
}

/* Reads the features of records that stand in components made anew. */
void
crm_change_fetch(MatchScan *scan, ChangeSet *set)
{
	ChangeFetch fetch = {scan, set, crm_scan_frequencies(scan), crm_match_scratch()};
	Datum *ids = palloc_extended(sizeof(Datum) * ((Size) set->n + 1), MCXT_ALLOC_HUGE);
	uint32 n = 0;

	for (uint32 i = 0; i <= set->mask; i++)
		if ((set->entry[i].state & (ID_TOUCHED | ID_GONE)) == ID_TOUCHED &&
			set->entry[i].number == SCAN_NO_RECORD)
			ids[n++] = Int64GetDatum(set->entry[i].id);
	crm_rows_by_id(scan, ids, n, crm_change_keep, &fetch);
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
	for (uint32 i = 0; i < known->npairs; i++)
	{
		const KnownPair *pair = &known->pair[i];
		const IdEntry *a, *b;
		float bits;

		if (!pair->joins || pair->state == PAIR_SAME)
			continue;
		a = crm_change_place(set, pair->left);
		if ((a->state & ID_TOUCHED) == 0 || a->number == SCAN_NO_RECORD)
			continue;
		b = crm_change_place(set, pair->right);
		if (b->number == SCAN_NO_RECORD)
			continue;
		bits = crm_scan_bits(scan, a->number, b->number, threshold);
		if (bits >= threshold)
			crm_edge_add(&list, a->number, b->number, bits);
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
