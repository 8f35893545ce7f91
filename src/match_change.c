/*
 * match_change.c
 *		A scan of what changed since the last one.
 *
 * Every row's header says which transaction wrote it; those of transactions that
 * the last scan did not see ended are read as features, and the matching index
 * says which rows share keys with them.  The rest of the table is passed over
 * without a look at its values, except that ids are noted: of a pair whose
 * record is seen nowhere the record was deleted.
 *
 * Groups are made anew where they can have changed: in the components, of the
 * pairs that hold now, in which a record was changed, or lost a pair or a
 * companion, or in which somebody decided.
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

#define BATCH_RECORDS 256
#define SHARERS		  32768 /* places for rows that share keys with one record */

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

/* The rows that have a key. */
typedef struct KeyRows
{
	ItemPointer row;
	int n;
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
	Sharer *sharer;
	uint32 stamp;

	int n;
	uint32 number[BATCH_RECORDS];
	int64 id[BATCH_RECORDS];
	MatchRecord *record[BATCH_RECORDS];
	uint32 first_key[BATCH_RECORDS + 1];
	ChangedKey *key;
	uint32 nkeys;
	uint32 key_size;
} ChangeBatch;

static inline uint32
crm_hash64(uint64 x)
{
	return (uint32) ((x * UINT64CONST(0x9E3779B97F4A7C15)) >> 32);
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
	uint32 i = crm_hash64(tid) & (SHARERS - 1);

	while (batch->sharer[i].stamp == batch->stamp && batch->sharer[i].tid != tid)
		i = (i + 1) & (SHARERS - 1);
	return &batch->sharer[i];
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

static bool
crm_read_rows(void *arg, ItemPointer items, int nitems)
{
	KeyRows *rows = arg;

	rows->row = rows->row == NULL
					? palloc(sizeof(ItemPointerData) * nitems)
					: repalloc(rows->row, sizeof(ItemPointerData) * (rows->n + nitems));
	memcpy(rows->row + rows->n, items, sizeof(ItemPointerData) * nitems);
	rows->n += nitems;
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

		if (list[i].rows <= SCAN_CROWD)
			crm_postings_read(batch->postings, &list[i], crm_read_rows, r);
		else
			batch->scan->part->crowded++;
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
		uint32 used = 0;

		batch->stamp++;
		for (uint32 k = batch->first_key[r]; k < batch->first_key[r + 1]; k++)
		{
			MatchPosting want = {.key = batch->key[k].hash};
			MatchPosting *found =
				bsearch(&want, list, nlist, sizeof(MatchPosting), crm_cmp_posting);
			const KeyRows *have = &rows[found - list];
			uint16 key = (uint16) (k - batch->first_key[r] + 1);

			if (used + have->n > SHARERS / 2)
				break;
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
					used++;
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

			if (record == NULL || batch->id[c] == id || crm_ids_apart(scan, batch->id[c], id))
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

static void
crm_batch_add(ChangeBatch *batch, int64 id, MatchRecord *record, const MatchKey *keys, int nkeys)
{
	int r = batch->n++;

	batch->id[r] = id;
	batch->record[r] = record;
	batch->number[r] = crm_scan_keep(batch->scan, id, record);
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
			continue;
		batch->key[batch->nkeys].hash = keys[i].hash;
		batch->key[batch->nkeys++].weight = w;
	}
	batch->first_key[r + 1] = batch->nkeys;
}

/* The place of an id among the watched; it may be a free one. */
static inline WatchedId *
crm_watched(WatchedId *watched, uint32 mask, int64 id)
{
	uint32 i = crm_hash64((uint64) id) & mask;

	while (watched[i].state != 0 && watched[i].id != id)
		i = (i + 1) & mask;
	return &watched[i];
}

/*
 * Was a row written since the last scan?  A row frozen long ago may have any
 * number, so those of the future count as no more than they are.
 */
static inline bool
crm_scan_is_new(const ScanShared *shared, TransactionId xmin)
{
	return (uint32) (xmin - shared->since) < (uint32) (shared->next_xid - shared->since);
}

/* The job SCAN_CHANGED. */
void
crm_scan_changed(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	Relation rel = table_open(shared->relid, AccessShareLock);
	ChangeBatch *batch = palloc0(sizeof(ChangeBatch));
	WatchedId *watched = crm_scan_get(scan, shared->watch);
	TableScanDesc heap = scan->heap != NULL ? table_beginscan_parallel(rel, scan->heap)
											: table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	MemoryContext job = CurrentMemoryContext;
	int64 *changed = palloc(sizeof(int64) * BATCH_RECORDS);
	uint32 nchanged = 0, size = BATCH_RECORDS;
	uint64 rows = 0;

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
	batch->sharer = palloc0(sizeof(Sharer) * SHARERS);
	batch->context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match batch", ALLOCSET_DEFAULT_SIZES);
	while (table_scan_getnextslot(heap, ForwardScanDirection, slot))
	{
		bool null;
		int64 id = DatumGetInt64(slot_getattr(slot, batch->id_column, &null));
		TransactionId xmin;
		MatchValue values[MATCH_NROLES] = {0};
		MatchRecord *record;
		WatchedId *entry;
		const MatchKey *keys;
		int nkeys;

		if (++rows % 4096 == 0)
		{
			CHECK_FOR_INTERRUPTS();
			crm_progress_add(shared, 4096);
		}
		if (null)
			continue;
		entry = crm_watched(watched, shared->watch_mask, id);
		if (entry->state == WATCH_USED)
			entry->state = WATCH_USED | WATCH_SEEN;
		xmin = DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &null));
		if ((entry->state & WATCH_AGAIN) != 0)
			entry->state |= WATCH_SEEN;
		else if (!crm_scan_is_new(shared, xmin))
			continue;
		if (pg_atomic_add_fetch_u32(&shared->next, 1) > shared->pieces)
			break; /* more than is worth it */
		if (nchanged == size)
		{
			size *= 2;
			changed = repalloc_huge(changed, sizeof(int64) * (Size) size);
		}
		changed[nchanged++] = id;
		MemoryContextSwitchTo(batch->context);
		crm_match_slot_values(batch->columns, slot, values);
		record = crm_match_record(values, batch->scratch, &keys, &nkeys);
		crm_match_weigh_counts(record, shared->rows, batch->counts);
		MemoryContextSwitchTo(job);
		crm_batch_add(batch, id, record, keys, nkeys);
		if (batch->n == BATCH_RECORDS)
			crm_batch_compare(batch);
	}
	if (batch->n > 0)
		crm_batch_compare(batch);
	crm_progress_add(shared, rows % 4096);
	scan->part->rows = rows;
	memcpy(crm_scan_alloc(scan, sizeof(int64) * (Size) nchanged, &scan->part->changed), changed,
		   sizeof(int64) * (Size) nchanged);
	scan->part->nchanged = nchanged;
	crm_edge_share(scan, &batch->edges);
	ExecDropSingleTupleTableSlot(slot);
	ExecDropSingleTupleTableSlot(batch->slot);
	table_index_fetch_end(batch->fetch);
	table_endscan(heap);
	index_close(batch->index, NoLock);
	table_close(rel, NoLock);
}

/*
 * Ids of records in pairs and clusters, and of those that changed: a number each,
 * under which components are found.
 */
typedef struct IdEntry
{
	int64 id;
	uint32 parent;
	uint32 number; /* of its features; SCAN_NO_RECORD: not read yet */
	bool used;
	bool changed; /* or gone */
	bool gone;
	bool touched; /* of roots: the component is made anew */
} IdEntry;

struct ChangeSet
{
	IdEntry *entry;
	uint32 mask;
	uint32 n;
};

static uint32
crm_change_find(ChangeSet *set, int64 id)
{
	uint32 i = crm_hash64((uint64) id) & set->mask;

	while (set->entry[i].used && set->entry[i].id != id)
		i = (i + 1) & set->mask;
	if (!set->entry[i].used)
	{
		set->entry[i].used = true;
		set->entry[i].id = id;
		set->entry[i].parent = i;
		set->entry[i].number = SCAN_NO_RECORD;
		set->n++;
	}
	return i;
}

static uint32
crm_change_root(ChangeSet *set, uint32 x)
{
	while (set->entry[x].parent != x)
	{
		set->entry[x].parent = set->entry[set->entry[x].parent].parent;
		x = set->entry[x].parent;
	}
	return x;
}

static void
crm_change_join(ChangeSet *set, uint32 a, uint32 b)
{
	a = crm_change_root(set, a);
	b = crm_change_root(set, b);
	if (a != b)
		set->entry[Max(a, b)].parent = Min(a, b);
}

/* The ids that the job is to look out for. */
void
crm_change_watch(MatchScan *scan, const KnownResult *known)
{
	Size wanted = (Size) known->npairs * 2 + known->nmembers;
	uint32 size = 1024;
	WatchedId *watched;

	while (size < wanted * 2)
		size *= 2;
	watched = crm_scan_alloc(scan, sizeof(WatchedId) * (Size) size, &scan->shared->watch);
	memset(watched, 0, sizeof(WatchedId) * (Size) size);
	scan->shared->watch_mask = size - 1;
	for (Size n = 0; n < wanted; n++)
	{
		int64 id = n < known->npairs ? known->pair[n].left
				   : n < 2 * (Size) known->npairs
					   ? known->pair[n - known->npairs].right
					   : known->member[n - 2 * (Size) known->npairs].record;
		WatchedId *entry = crm_watched(watched, size - 1, id);

		entry->id = id;
		entry->state |= WATCH_USED;
		/* Somebody took a decision back: what is known of the two may be old. */
		if (n < known->npairs && known->pair[n].changed &&
			(known->pair[n].state == PAIR_OPEN || known->pair[n].state == PAIR_IGNORED))
			entry->state |= WATCH_AGAIN;
	}
}

/* A pair that holds, whoever looks at it. */
static bool
crm_change_holds(const KnownPair *pair, float4 threshold)
{
	return pair->state == PAIR_SAME ||
		   ((pair->state == PAIR_OPEN || pair->state == PAIR_IGNORED) && pair->score >= threshold);
}

/* What the job found out about records: which changed, which are gone, which have features. */
ChangeSet *
crm_change_collect(MatchScan *scan, const KnownResult *known)
{
	ScanShared *shared = scan->shared;
	const WatchedId *watched = crm_scan_get(scan, shared->watch);
	ChangeSet *set = palloc0(sizeof(ChangeSet));
	Size wanted = (Size) known->npairs * 2 + known->nmembers + scan->nrecords;
	uint32 size = 1024;

	for (int i = 0; i < SCAN_MAX_PARTS; i++)
		wanted += shared->part[i].nchanged;
	while (size < wanted * 2)
		size *= 2;
	set->mask = size - 1;
	set->entry = palloc_extended(sizeof(IdEntry) * (Size) size, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
	{
		const int64 *changed = crm_scan_get(scan, shared->part[i].changed);

		for (uint32 j = 0; j < shared->part[i].nchanged; j++)
			set->entry[crm_change_find(set, changed[j])].changed = true;
	}
	for (uint32 i = 0; i <= shared->watch_mask; i++)
		if (watched[i].state != 0 && (watched[i].state & WATCH_SEEN) == 0)
		{
			IdEntry *entry = &set->entry[crm_change_find(set, watched[i].id)];

			entry->changed = entry->gone = true;
		}
	for (uint32 i = 0; i < scan->nrecords; i++)
		if (scan->record[i] != SCAN_NO_RECORD)
		{
			IdEntry *entry = &set->entry[crm_change_find(set, scan->id[i])];

			if (entry->number == SCAN_NO_RECORD)
				entry->number = i;
		}
	return set;
}

/* A record that two participants came across is one. */
void
crm_change_unify(MatchScan *scan, ChangeSet *set, MatchEdge *edge, uint32 nedges)
{
	for (uint32 i = 0; i < nedges; i++)
	{
		edge[i].a = set->entry[crm_change_find(set, scan->id[edge[i].a])].number;
		edge[i].b = set->entry[crm_change_find(set, scan->id[edge[i].b])].number;
	}
	for (uint32 i = 0; i < scan->nrecords; i++)
		if (scan->record[i] != SCAN_NO_RECORD &&
			set->entry[crm_change_find(set, scan->id[i])].number != i)
			scan->record[i] = SCAN_NO_RECORD;
}

bool
crm_change_is_changed(void *arg, int64 id)
{
	ChangeSet *set = arg;

	return set->entry[crm_change_find(set, id)].changed;
}

/* Finds the components in which something changed. */
void
crm_change_components(MatchScan *scan, ChangeSet *set, const KnownResult *known,
					  const MatchEdge *edge, uint32 nedges)
{
	float4 threshold = (float4) crm_match_probability(scan->shared->threshold);
	uint32 nseeds = 0;
	Size most = (Size) known->npairs * 2 + known->nmembers + set->n;
	uint32 *seed = palloc_extended(sizeof(uint32) * Max(most, 1), MCXT_ALLOC_HUGE);

	for (uint32 i = 0; i <= set->mask; i++)
		if (set->entry[i].changed)
			seed[nseeds++] = i;
	for (uint32 i = 0; i < known->nmembers;)
	{
		uint32 end = i;
		bool changed = false;

		for (; end < known->nmembers && known->member[end].cluster == known->member[i].cluster;
			 end++)
			changed = changed || (!known->member[end].merged &&
								  crm_change_is_changed(set, known->member[end].record));
		for (; i < end; i++)
			if (changed && !known->member[i].merged)
				seed[nseeds++] = crm_change_find(set, known->member[i].record);
	}
	for (uint32 i = 0; i < known->npairs; i++)
	{
		const KnownPair *pair = &known->pair[i];
		uint32 a = crm_change_find(set, pair->left);
		uint32 b = crm_change_find(set, pair->right);
		bool changed = set->entry[a].changed || set->entry[b].changed;

		/* Somebody decided, or took a decision back. */
		if (changed || pair->changed)
		{
			seed[nseeds++] = a;
			seed[nseeds++] = b;
		}
		if (crm_change_holds(pair, threshold) &&
			(!changed || (pair->state == PAIR_SAME && !set->entry[a].gone && !set->entry[b].gone)))
			crm_change_join(set, a, b);
	}
	for (uint32 i = 0; i < nedges; i++)
		crm_change_join(set, crm_change_find(set, scan->id[edge[i].a]),
						crm_change_find(set, scan->id[edge[i].b]));
	for (uint32 i = 0; i < nseeds; i++)
		set->entry[crm_change_root(set, seed[i])].touched = true;
	pfree(seed);
}

bool
crm_change_is_touched(void *arg, int64 id)
{
	ChangeSet *set = arg;

	return set->entry[crm_change_root(set, crm_change_find(set, id))].touched;
}

/* Reads the features of records that stand in components made anew. */
void
crm_change_fetch(MatchScan *scan, ChangeSet *set)
{
	const MatchColumns *columns = crm_match_columns(scan->rel, false);
	const MatchCounts *counts = crm_scan_frequencies(scan);
	MatchScratch *scratch = crm_match_scratch();
	Oid types[1] = {INT8ARRAYOID};
	Datum args[1];
	Datum *ids = palloc_extended(sizeof(Datum) * ((Size) set->n + 1), MCXT_ALLOC_HUGE);
	MemoryContext row_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match row", ALLOCSET_DEFAULT_SIZES);
	StringInfoData sql;
	uint32 n = 0;

	for (uint32 i = 0; i <= set->mask; i++)
		if (set->entry[i].used && !set->entry[i].gone && set->entry[i].number == SCAN_NO_RECORD &&
			set->entry[crm_change_root(set, i)].touched)
			ids[n++] = Int64GetDatum(set->entry[i].id);
	if (n == 0)
		return;
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
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);
		MatchValue values[MATCH_NROLES] = {0};
		MatchRecord *record;
		bool null;
		int64 id =
			DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &null));

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < columns->ncolumns; i++)
		{
			Datum value =
				SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, i + 2, &null);
			MatchValue text;

			if (!null && crm_match_value(value, columns->type[i], &text))
				values[columns->role[i]] = text;
		}
		record = crm_match_record(values, scratch, NULL, NULL);
		crm_match_weigh_counts(record, scan->shared->rows, counts);
		set->entry[crm_change_find(set, id)].number = crm_scan_keep(scan, id, record);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Edges of the components made anew: what was found now, and what of the known pairs holds. */
MatchEdge *
crm_change_edges(MatchScan *scan, ChangeSet *set, const KnownResult *known, const MatchEdge *found,
				 uint32 nfound, uint32 *nedges)
{
	float threshold = scan->shared->threshold;
	float4 probability = (float4) crm_match_probability(threshold);
	EdgeList list = {0};

	for (uint32 i = 0; i < nfound; i++)
		crm_edge_add(&list, found[i].a, found[i].b, found[i].bits);
	for (uint32 i = 0; i < known->npairs; i++)
	{
		const KnownPair *pair = &known->pair[i];
		uint32 a, b;
		float bits;

		if (pair->state == PAIR_SAME || !crm_change_holds(pair, probability))
			continue;
		a = crm_change_find(set, pair->left);
		b = crm_change_find(set, pair->right);
		if (set->entry[a].changed || set->entry[b].changed ||
			!set->entry[crm_change_root(set, a)].touched ||
			set->entry[a].number == SCAN_NO_RECORD || set->entry[b].number == SCAN_NO_RECORD)
			continue;
		bits = crm_scan_bits(scan, set->entry[a].number, set->entry[b].number, threshold);
		if (bits >= threshold)
			crm_edge_add(&list, set->entry[a].number, set->entry[b].number, bits);
	}
	*nedges = list.n;
	return list.edge;
}

/* Pairs that stand untouched by the scan. */
uint64
crm_change_kept_pairs(MatchScan *scan, ChangeSet *set, const KnownResult *known)
{
	float4 threshold = (float4) crm_match_probability(scan->shared->threshold);
	uint64 n = 0;

	for (uint32 i = 0; i < known->npairs; i++)
		n += crm_change_holds(&known->pair[i], threshold) && known->pair[i].score >= threshold &&
			 !crm_change_is_changed(set, known->pair[i].left) &&
			 !crm_change_is_changed(set, known->pair[i].right);
	return n;
}

/* Records in clusters untouched by the scan. */
uint64
crm_change_kept_members(ChangeSet *set, const KnownResult *known)
{
	uint64 n = 0;

	for (uint32 i = 0; i < known->nmembers; i++)
		n += !known->member[i].merged && !crm_change_is_touched(set, known->member[i].record);
	return n;
}
