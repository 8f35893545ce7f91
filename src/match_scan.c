/*
 * match_scan.c
 *		Finding all duplicates of a table at once.
 *
 * The table is read once into features (match_record.c).  Records that share an
 * identifier, or two rare pieces of a name, become candidates; candidates are
 * scored (match_score.c); pairs above the threshold are grouped
 * (match_cluster.c); pairs and groups are written to the workspace, and what
 * people decided about them before stays.
 *
 * Memory: everything lives in one context that ends with the call.  For each
 * record about 300 bytes of features and 8 bytes a key.
 */
#include "postgres.h"

#include <math.h>

#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "crm.h"
#include "match.h"
#include "match_count.h"
#include "match_scan.h"
#include "workspace.h"

#define ARENA_CHUNK	  (8 * 1024 * 1024)
#define BLOCK_EXACT	  200 /* records that share an identifier and are still compared */
#define BLOCK_GRAM	  300 /* records that share a piece of a name */
#define BLOCK_RARE	  4	  /* so few share it that it counts as an identifier */
#define GRAMS_USED	  8	  /* rarest pieces of a name that count */
#define NEEDED_WEIGHT 2	  /* an identifier has 2, a piece of a name 1 */
#define DEFAULT_BITS  0.0 /* log-odds from which a pair is reported */
#define WRITE_ROWS	  10000

typedef struct CannotLinks
{
	uint64 *pair; /* lower record << 32 | higher record, ascending */
	uint32 n;
} CannotLinks;

typedef struct TableMatch
{
	MatchScan data;
	MemoryContext context;
	uint32 capacity;
	char *arena;
	Size arena_left;
	uint64 *key; /* hash << 32 | record << 1 | exact */
	Size nkeys;
	Size key_capacity;
	MatchCounts *counts;
	/* blocks */
	uint32 *block_start; /* of each block, into member[] */
	uint32 *member;
	uint32 nblocks;
	uint32 *record_start; /* of each record, into record_block[] */
	uint32 *record_block;
	uint8 *block_weight;
	MatchEdge *edge;
	uint32 nedges;
	uint32 edge_capacity;
	uint64 candidates;
} TableMatch;

static void *
crm_huge(MemoryContext context, Size size)
{
	return MemoryContextAllocHuge(context, Max(size, 1));
}

static MatchRecord *
crm_arena_copy(TableMatch *scan, const MatchRecord *record)
{
	MatchRecord *copy;

	if (scan->arena_left < record->size)
	{
		scan->arena = MemoryContextAlloc(scan->context, ARENA_CHUNK);
		scan->arena_left = ARENA_CHUNK;
	}
	copy = (MatchRecord *) scan->arena;
	memcpy(copy, record, record->size);
	scan->arena += record->size;
	scan->arena_left -= record->size;
	return copy;
}

static void
crm_scan_add(TableMatch *scan, int64 id, const MatchRecord *record, const MatchKey *keys, int nkeys)
{
	uint32 number = scan->data.nrecords;

	if (number == scan->capacity)
	{
		if (scan->capacity >= (1u << 30))
			ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
							errmsg("a table of more than %u rows cannot be scanned for duplicates",
								   1u << 30)));
		scan->capacity *= 2;
		scan->data.record =
			repalloc_huge(scan->data.record, sizeof(MatchRecord *) * (Size) scan->capacity);
		scan->data.id = repalloc_huge(scan->data.id, sizeof(int64) * (Size) scan->capacity);
	}
	scan->data.record[number] = crm_arena_copy(scan, record);
	scan->data.id[number] = id;
	scan->data.nrecords++;
	if (scan->nkeys + nkeys > scan->key_capacity)
	{
		scan->key_capacity *= 2;
		scan->key = repalloc_huge(scan->key, sizeof(uint64) * scan->key_capacity);
	}
	for (int i = 0; i < nkeys; i++)
		scan->key[scan->nkeys++] = ((uint64) keys[i].hash << 32) | ((uint64) number << 1) |
								   (keys[i].strength > MATCH_KEY_PIECE);
	crm_match_count_record(scan->counts, record, keys, nkeys);
}

/* Reads the table. */
static void
crm_scan_read(TableMatch *scan, Relation rel, const MatchColumns *columns, AttrNumber id_attnum)
{
	MatchScratch *scratch = crm_match_scratch();
	MemoryContext row_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match row", ALLOCSET_DEFAULT_SIZES);
	TableScanDesc heap = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);

	scan->capacity = 1024;
	scan->data.record = crm_huge(scan->context, sizeof(MatchRecord *) * scan->capacity);
	scan->data.id = crm_huge(scan->context, sizeof(int64) * scan->capacity);
	scan->key_capacity = 64 * 1024;
	scan->key = crm_huge(scan->context, sizeof(uint64) * scan->key_capacity);
	scan->counts = crm_counts_create(scan->context, 8 * 1024 * 1024);
	while (table_scan_getnextslot(heap, ForwardScanDirection, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);
		MatchValue values[MATCH_NROLES] = {0};
		const MatchKey *keys;
		int nkeys;
		MatchRecord *record;
		bool isnull;
		int64 id = DatumGetInt64(slot_getattr(slot, id_attnum, &isnull));

		CHECK_FOR_INTERRUPTS();
		crm_match_slot_values(columns, slot, values);
		record = crm_match_record(values, scratch, &keys, &nkeys);
		crm_scan_add(scan, id, record, keys, nkeys);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(heap);
	MemoryContextDelete(row_context);
	pfree(scratch);
	crm_match_scorer(&scan->data.scorer, crm_match_model(RelationGetRelid(rel)),
					 scan->data.nrecords);
	for (uint32 i = 0; i < scan->data.nrecords; i++)
		crm_match_weigh_counts(scan->data.record[i], scan->data.nrecords, scan->counts);
}

/* Radix sort by hash, stable, so that the records of a block stay in order. */
static void
crm_sort_keys(TableMatch *scan)
{
	uint64 *from = scan->key;
	uint64 *to = crm_huge(scan->context, sizeof(uint64) * scan->nkeys);
	Size *start = palloc(sizeof(Size) * 65537);

	for (int shift = 32; shift < 64; shift += 16)
	{
		uint64 *swap = from;

		memset(start, 0, sizeof(Size) * 65537);
		for (Size i = 0; i < scan->nkeys; i++)
			start[((from[i] >> shift) & 0xFFFF) + 1]++;
		for (int i = 0; i < 65536; i++)
			start[i + 1] += start[i];
		for (Size i = 0; i < scan->nkeys; i++)
			to[start[(from[i] >> shift) & 0xFFFF]++] = from[i];
		CHECK_FOR_INTERRUPTS();
		from = to;
		to = swap;
	}
	scan->key = from;
	pfree(to);
	pfree(start);
}

typedef struct KeyBlock
{
	uint32 size;
	uint32 block;
	bool exact;
} KeyBlock;

static int
crm_cmp_key_block(const void *a, const void *b)
{
	const KeyBlock *x = a, *y = b;

	if (x->size != y->size)
		return x->size < y->size ? -1 : 1;
	return x->block < y->block ? -1 : x->block > y->block;
}

/* Keys that at least two and not too many records share become blocks. */
static void
crm_scan_blocks(TableMatch *scan)
{
	uint32 n = scan->data.nrecords;
	Size postings = 0;
	uint32 *fill;

	crm_sort_keys(scan);
	for (int pass = 0; pass < 2; pass++)
	{
		scan->nblocks = 0;
		postings = 0;
		for (Size i = 0; i < scan->nkeys;)
		{
			Size j = i;
			uint32 hash = scan->key[i] >> 32;
			bool exact = scan->key[i] & 1;

			while (j < scan->nkeys && (scan->key[j] >> 32) == hash)
				j++;
			if (j - i > 1 && j - i <= (exact ? BLOCK_EXACT : BLOCK_GRAM))
			{
				if (pass == 1)
				{
					scan->block_start[scan->nblocks] = (uint32) postings;
					scan->block_weight[scan->nblocks] = exact || j - i <= BLOCK_RARE ? 2 : 1;
					for (Size k = i; k < j; k++)
						scan->member[postings + (k - i)] =
							(uint32) (scan->key[k] & 0xFFFFFFFF) >> 1;
				}
				scan->nblocks++;
				postings += j - i;
			}
			i = j;
		}
		if (pass == 0)
		{
			if (postings > PG_UINT32_MAX)
				ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
								errmsg("the table has too many keys to be scanned at once")));
			scan->block_start = crm_huge(scan->context, sizeof(uint32) * (scan->nblocks + 1));
			scan->block_weight = crm_huge(scan->context, scan->nblocks);
			scan->member = crm_huge(scan->context, sizeof(uint32) * postings);
		}
	}
	scan->block_start[scan->nblocks] = (uint32) postings;
	pfree(scan->key);
	scan->key = NULL;

	/* The blocks of each record. */
	scan->record_start = crm_huge(scan->context, sizeof(uint32) * ((Size) n + 1));
	memset(scan->record_start, 0, sizeof(uint32) * ((Size) n + 1));
	for (Size i = 0; i < postings; i++)
		scan->record_start[scan->member[i] + 1]++;
	for (uint32 i = 0; i < n; i++)
		scan->record_start[i + 1] += scan->record_start[i];
	scan->record_block = crm_huge(scan->context, sizeof(uint32) * postings);
	fill = crm_huge(scan->context, sizeof(uint32) * n);
	memcpy(fill, scan->record_start, sizeof(uint32) * n);
	for (uint32 b = 0; b < scan->nblocks; b++)
		for (uint32 i = scan->block_start[b]; i < scan->block_start[b + 1]; i++)
			scan->record_block[fill[scan->member[i]]++] = b;
	pfree(fill);
}

static void
crm_add_edge(TableMatch *scan, uint32 a, uint32 b, float bits)
{
	if (scan->nedges == scan->edge_capacity)
	{
		scan->edge_capacity = scan->edge_capacity ? scan->edge_capacity * 2 : 64 * 1024;
		scan->edge =
			scan->edge == NULL
				? crm_huge(scan->context, sizeof(MatchEdge) * (Size) scan->edge_capacity)
				: repalloc_huge(scan->edge, sizeof(MatchEdge) * (Size) scan->edge_capacity);
	}
	scan->edge[scan->nedges].a = a;
	scan->edge[scan->nedges].b = b;
	scan->edge[scan->nedges++].bits = bits;
}

static bool
crm_told_apart(const MatchScan *scan, uint32 a, uint32 b)
{
	uint64 pair = ((uint64) Min(a, b) << 32) | Max(a, b);
	uint32 low = 0, high = scan->cannot->n;

	while (low < high)
	{
		uint32 mid = low + (high - low) / 2;

		if (scan->cannot->pair[mid] == pair)
			return true;
		if (scan->cannot->pair[mid] < pair)
			low = mid + 1;
		else
			high = mid;
	}
	return false;
}

float
crm_scan_score(const MatchScan *scan, uint32 a, uint32 b, float needed)
{
	if (crm_told_apart(scan, a, b))
		return CANNOT_LINK_BITS;
	return (float) crm_match_bits(&scan->scorer, scan->record[a], scan->record[b], needed);
}

float
crm_scan_link(const MatchScan *scan, uint32 a, uint32 b)
{
	MatchScore score;

	if (crm_told_apart(scan, a, b))
		return CANNOT_LINK_BITS;
	crm_match_score(&scan->scorer, scan->record[a], scan->record[b], &score);
	if (score.weight[FIELD_TAX_ID] < 0)
		return CONFLICT_BITS;
	return Max((float) score.bits, WORST_LINK_BITS);
}

/* Scores every two records that share enough blocks. */
static void
crm_scan_compare(TableMatch *scan, float threshold)
{
	uint32 n = scan->data.nrecords;
	uint32 *stamp = crm_huge(scan->context, sizeof(uint32) * n);
	uint8 *weight = crm_huge(scan->context, n);
	uint32 *found = crm_huge(scan->context, sizeof(uint32) * n);
	KeyBlock block[MATCH_MAX_KEYS];

	memset(stamp, 0, sizeof(uint32) * n);
	for (uint32 r = 1; r < n; r++)
	{
		uint32 nfound = 0;
		int nblocks = 0, grams = 0;

		CHECK_FOR_INTERRUPTS();
		for (uint32 i = scan->record_start[r];
			 i < scan->record_start[r + 1] && nblocks < MATCH_MAX_KEYS; i++)
		{
			uint32 b = scan->record_block[i];

			block[nblocks].block = b;
			block[nblocks].size = scan->block_start[b + 1] - scan->block_start[b];
			block[nblocks++].exact = scan->block_weight[b] == 2;
		}
		qsort(block, nblocks, sizeof(KeyBlock), crm_cmp_key_block);
		for (int i = 0; i < nblocks; i++)
		{
			uint32 b = block[i].block;

			if (!block[i].exact && grams++ >= GRAMS_USED)
				continue;
			for (uint32 j = scan->block_start[b]; j < scan->block_start[b + 1]; j++)
			{
				uint32 c = scan->member[j];

				if (c >= r)
					break;
				if (stamp[c] != r)
				{
					stamp[c] = r;
					weight[c] = scan->block_weight[b];
					found[nfound++] = c;
				}
				else
					weight[c] += scan->block_weight[b];
			}
		}
		for (uint32 i = 0; i < nfound; i++)
			if (weight[found[i]] >= NEEDED_WEIGHT)
			{
				float bits = crm_scan_score(&scan->data, found[i], r, threshold);

				scan->candidates++;
				if (bits >= threshold)
					crm_add_edge(scan, found[i], r, bits);
			}
	}
	pfree(stamp);
	pfree(weight);
	pfree(found);
}

typedef struct IdNumber
{
	int64 id;
	uint32 number;
} IdNumber;

static int
crm_cmp_id(const void *a, const void *b)
{
	int64 x = ((const IdNumber *) a)->id;
	int64 y = ((const IdNumber *) b)->id;

	return x < y ? -1 : x > y;
}

static int
crm_cmp_uint64(const void *a, const void *b)
{
	uint64 x = *(const uint64 *) a;
	uint64 y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

/* Pairs in state not_duplicate, from ids to numbers. */
static void
crm_scan_cannot_links(TableMatch *scan, const char *schema, const char *kind)
{
	StringInfoData sql;
	Oid types[1] = {TEXTOID};
	Datum args[1] = {CStringGetTextDatum(kind)};
	IdNumber *ids;
	CannotLinks *cannot = MemoryContextAllocZero(scan->context, sizeof(CannotLinks));

	scan->data.cannot = cannot;
	initStringInfo(&sql);
	appendStringInfo(
		&sql,
		"SELECT p.left_id, p.right_id FROM %s.duplicate_pair AS p "
		"WHERE p.kind OPERATOR(pg_catalog.=) $1 AND p.state OPERATOR(pg_catalog.=) 'not_duplicate'",
		quote_identifier(schema));
	if (SPI_execute_with_args(sql.data, 1, types, args, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read decided pairs");
	if (SPI_processed == 0)
		return;
	ids = crm_huge(scan->context, sizeof(IdNumber) * (Size) scan->data.nrecords);
	for (uint32 i = 0; i < scan->data.nrecords; i++)
	{
		ids[i].id = scan->data.id[i];
		ids[i].number = i;
	}
	qsort(ids, scan->data.nrecords, sizeof(IdNumber), crm_cmp_id);
	cannot->pair = crm_huge(scan->context, sizeof(uint64) * SPI_processed);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		IdNumber want = {0};
		IdNumber *found[2];

		for (int side = 0; side < 2; side++)
		{
			want.id = DatumGetInt64(
				SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, side + 1, &isnull));
			found[side] = bsearch(&want, ids, scan->data.nrecords, sizeof(IdNumber), crm_cmp_id);
		}
		if (found[0] != NULL && found[1] != NULL)
			cannot->pair[cannot->n++] = ((uint64) Min(found[0]->number, found[1]->number) << 32) |
										Max(found[0]->number, found[1]->number);
	}
	qsort(cannot->pair, cannot->n, sizeof(uint64), crm_cmp_uint64);
	pfree(ids);
}

static Datum
crm_make_array(Datum *values, int n, Oid type, int16 len, bool byval, char align)
{
	return PointerGetDatum(construct_array(values, n, type, len, byval, align));
}

/* Writes pairs: new ones, and new scores of known ones; open pairs not found any more go. */
static int64
crm_write_pairs(TableMatch *scan, const char *schema, const char *kind, float threshold)
{
	StringInfoData sql;
	Oid types[5] = {TEXTOID, INT8ARRAYOID, INT8ARRAYOID, FLOAT4ARRAYOID, JSONBARRAYOID};
	Datum args[5];
	Datum *left = palloc(sizeof(Datum) * WRITE_ROWS);
	Datum *right = palloc(sizeof(Datum) * WRITE_ROWS);
	Datum *value = palloc(sizeof(Datum) * WRITE_ROWS);
	Datum *reasons = palloc(sizeof(Datum) * WRITE_ROWS);
	SPIPlanPtr insert;
	MemoryContext chunk =
		AllocSetContextCreate(CurrentMemoryContext, "crm match write", ALLOCSET_DEFAULT_SIZES);
	int64 written = 0;

	if (SPI_execute("CREATE TEMPORARY TABLE crm_found_pair (left_id bigint, right_id bigint, score "
					"real, reasons jsonb) ON COMMIT DROP",
					false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not create a temporary table");
	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "INSERT INTO pg_temp.crm_found_pair SELECT * FROM unnest($1, $2, $3, $4)");
	insert = SPI_prepare(sql.data, 4, types + 1);
	if (insert == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	for (uint32 i = 0; i < scan->nedges;)
	{
		int n = 0;
		MemoryContext old = MemoryContextSwitchTo(chunk);

		CHECK_FOR_INTERRUPTS();
		for (; i < scan->nedges && n < WRITE_ROWS; i++)
		{
			MatchScore score;
			int64 x = scan->data.id[scan->edge[i].a], y = scan->data.id[scan->edge[i].b];

			if (scan->edge[i].bits < threshold)
				continue;
			crm_match_score(&scan->data.scorer, scan->data.record[scan->edge[i].a],
							scan->data.record[scan->edge[i].b], &score);
			left[n] = Int64GetDatum(Min(x, y));
			right[n] = Int64GetDatum(Max(x, y));
			value[n] = Float4GetDatum((float4) crm_match_probability(score.bits));
			reasons[n++] = JsonbPGetDatum(crm_match_reasons(&score, false));
		}
		args[0] = crm_make_array(left, n, INT8OID, 8, true, TYPALIGN_DOUBLE);
		args[1] = crm_make_array(right, n, INT8OID, 8, true, TYPALIGN_DOUBLE);
		args[2] = crm_make_array(value, n, FLOAT4OID, 4, true, TYPALIGN_INT);
		args[3] = crm_make_array(reasons, n, JSONBOID, -1, false, TYPALIGN_INT);
		if (SPI_execute_plan(insert, args, NULL, false, 0) != SPI_OK_INSERT)
			elog(ERROR, "could not write pairs");
		written += n;
		MemoryContextSwitchTo(old);
		MemoryContextReset(chunk);
	}

	args[0] = CStringGetTextDatum(kind);
	resetStringInfo(&sql);
	appendStringInfo(&sql,
					 "DELETE FROM %s.duplicate_pair AS p WHERE p.kind OPERATOR(pg_catalog.=) $1 "
					 "AND p.state OPERATOR(pg_catalog.=) 'open' AND NOT EXISTS (SELECT FROM "
					 "pg_temp.crm_found_pair AS f "
					 "WHERE f.left_id OPERATOR(pg_catalog.=) p.left_id AND f.right_id "
					 "OPERATOR(pg_catalog.=) p.right_id)",
					 quote_identifier(schema));
	if (SPI_execute_with_args(sql.data, 1, types, args, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not remove pairs");
	resetStringInfo(&sql);
	appendStringInfo(
		&sql,
		"INSERT INTO %s.duplicate_pair AS p (kind, left_id, right_id, score, reasons) "
		"SELECT $1, f.left_id, f.right_id, f.score, f.reasons FROM pg_temp.crm_found_pair AS f "
		"ON CONFLICT (kind, left_id, right_id) DO UPDATE SET score = excluded.score, reasons = "
		"excluded.reasons "
		"WHERE p.score OPERATOR(pg_catalog.<>) excluded.score",
		quote_identifier(schema));
	if (SPI_execute_with_args(sql.data, 1, types, args, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write pairs");
	SPI_execute("DROP TABLE pg_temp.crm_found_pair", false, 0);
	MemoryContextDelete(chunk);
	return written;
}

/* Writes the clusters; a cluster whose members are the same as before is left alone. */
static void
crm_write_clusters(TableMatch *scan, const char *schema, const char *kind, const uint32 *cluster)
{
	StringInfoData sql;
	Oid types[3] = {TEXTOID, INT8ARRAYOID, INT8ARRAYOID};
	Datum args[3];
	uint32 n = scan->data.nrecords;
	int64 *lowest = crm_huge(scan->context, sizeof(int64) * n);
	uint32 *size = crm_huge(scan->context, sizeof(uint32) * n);
	Datum *record, *group;
	uint32 nrows = 0;

	memset(size, 0, sizeof(uint32) * n);
	for (uint32 i = 0; i < n; i++)
	{
		uint32 c = cluster[i];

		if (size[c]++ == 0 || scan->data.id[i] < lowest[c])
			lowest[c] = scan->data.id[i];
	}
	for (uint32 i = 0; i < n; i++)
		nrows += size[cluster[i]] > 1;
	record = crm_huge(scan->context, sizeof(Datum) * nrows);
	group = crm_huge(scan->context, sizeof(Datum) * nrows);
	nrows = 0;
	for (uint32 i = 0; i < n; i++)
		if (size[cluster[i]] > 1)
		{
			record[nrows] = Int64GetDatum(scan->data.id[i]);
			group[nrows++] = Int64GetDatum(lowest[cluster[i]]);
		}
	args[0] = CStringGetTextDatum(kind);
	args[1] = crm_make_array(group, nrows, INT8OID, 8, true, TYPALIGN_DOUBLE);
	args[2] = crm_make_array(record, nrows, INT8OID, 8, true, TYPALIGN_DOUBLE);

	/* Merged clusters are history; of the others, those that changed in any way are written anew.
	 */
	initStringInfo(&sql);
	appendStringInfo(
		&sql,
		"WITH found AS MATERIALIZED (SELECT * FROM unnest($2, $3) AS f (cluster_id, record_id)), "
		"changed AS MATERIALIZED (SELECT coalesce(o.cluster_id, f.cluster_id) AS cluster_id FROM "
		"found AS f "
		"FULL JOIN (SELECT c.cluster_id, c.record_id FROM %1$s.duplicate_cluster AS c "
		"WHERE c.kind OPERATOR(pg_catalog.=) $1 AND c.state OPERATOR(pg_catalog.<>) 'merged') AS o "
		"ON o.record_id OPERATOR(pg_catalog.=) f.record_id AND o.cluster_id OPERATOR(pg_catalog.=) "
		"f.cluster_id "
		"WHERE o.record_id IS NULL OR f.record_id IS NULL) "
		"DELETE FROM %1$s.duplicate_cluster AS c WHERE c.kind OPERATOR(pg_catalog.=) $1 "
		"AND c.state OPERATOR(pg_catalog.<>) 'merged' AND c.cluster_id IN (SELECT h.cluster_id "
		"FROM changed AS h)",
		quote_identifier(schema));
	if (SPI_execute_with_args(sql.data, 3, types, args, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not remove clusters");
	resetStringInfo(&sql);
	appendStringInfo(
		&sql,
		"INSERT INTO %s.duplicate_cluster (kind, cluster_id, record_id) "
		"SELECT $1, f.cluster_id, f.record_id FROM unnest($2, $3) AS f (cluster_id, record_id) "
		"ON CONFLICT (kind, record_id) DO NOTHING",
		quote_identifier(schema));
	if (SPI_execute_with_args(sql.data, 3, types, args, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write clusters");
}

static AttrNumber
crm_id_column(Relation rel)
{
	AttrNumber attnum = get_attnum(RelationGetRelid(rel), "id");

	if (attnum <= 0 || get_atttype(RelationGetRelid(rel), attnum) != INT8OID)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table \"%s\" has no column \"id\" of type bigint",
							   RelationGetRelationName(rel))));
	return attnum;
}

/* scan_duplicates(workspace, kind, table, threshold): number of pairs found. */
PG_FUNCTION_INFO_V1(crm_scan_duplicates);
Datum
crm_scan_duplicates(PG_FUNCTION_ARGS)
{
	Oid workspace, relid, owner;
	char *kind, *schema;
	double threshold = DEFAULT_BITS;
	Relation rel;
	MatchColumns *columns;
	TableMatch scan = {0};
	uint32 *cluster;
	int64 pairs;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	workspace = PG_GETARG_OID(0);
	kind = text_to_cstring(PG_GETARG_TEXT_PP(1));
	relid = PG_GETARG_OID(2);
	owner = crm_workspace_owner(workspace);
	schema = get_namespace_name(workspace);
	if (!PG_ARGISNULL(3))
	{
		double p = PG_GETARG_FLOAT4(3);

		if (!(p > 0 && p < 1))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("threshold must be a probability between 0 and 1, both excluded")));
		threshold = log2(p / (1 - p));
	}
	/* A scan sees every record, so it is for those who own them. */
	if (!has_privs_of_role(GetUserId(), owner))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be owner of workspace %s", schema)));

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	scan.context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match scan", ALLOCSET_DEFAULT_SIZES);
	rel = crm_table_open(relid, AccessShareLock);
	columns = crm_match_columns(rel, false);
	crm_scan_read(&scan, rel, columns, crm_id_column(rel));
	table_close(rel, NoLock);
	crm_scan_cannot_links(&scan, schema, kind);
	crm_scan_blocks(&scan);
	crm_scan_compare(&scan, (float) threshold);
	cluster = crm_match_clusters(&scan.data, scan.edge, scan.nedges, (float) threshold);
	pairs = crm_write_pairs(&scan, schema, kind, (float) threshold);
	crm_write_clusters(&scan, schema, kind, cluster);
	MemoryContextDelete(scan.context);
	SPI_finish();
	PG_RETURN_INT64(pairs);
}
