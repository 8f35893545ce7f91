/*
 * match_block.c
 *		Which records of a scan share keys, and which of those mean the same.
 *
 * Records under one key are a block.  Two records are compared when they share
 * an identifier or two pieces of a name; keys that too many records have bring
 * nobody together.  This looks at what the two have in common and nothing else,
 * so the same pairs are compared whatever the order of the records, and when
 * only one of the two is looked up in the index (match_change.c).
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "match_scan.h"

#define HASH_BITS	24 /* of a key within its partition */
#define DIGIT_BITS	12
#define DIGITS		(1 << DIGIT_BITS)
#define KEY_HASH(k) ((uint32) ((k) >> 32))

int
crm_scan_key_weight(uint32 hash, uint32 count)
{
	if (!MATCH_HASH_IS_PIECE(hash))
		return count <= SCAN_IDENTIFIER ? 2 : 0;
	return count <= SCAN_RARE ? 2 : count <= SCAN_PIECE ? 1 : 0;
}

/* Radix sort by hash; returns which of the two arrays has the result. */
static uint64 *
crm_sort_keys(uint64 *from, uint64 *to, Size n, uint32 *start)
{
	for (int shift = 32; shift < 32 + HASH_BITS; shift += DIGIT_BITS)
	{
		uint64 *swap = from;

		memset(start, 0, sizeof(uint32) * (DIGITS + 1));
		for (Size i = 0; i < n; i++)
			start[((from[i] >> shift) & (DIGITS - 1)) + 1]++;
		for (int i = 0; i < DIGITS; i++)
			start[i + 1] += start[i];
		for (Size i = 0; i < n; i++)
			to[start[(from[i] >> shift) & (DIGITS - 1)]++] = from[i];
		from = to;
		to = swap;
	}
	return from;
}

uint64 *
crm_scan_sorted_keys(MatchScan *scan, uint32 partition, Size *n)
{
	uint32 *digits = palloc(sizeof(uint32) * (DIGITS + 1));
	uint64 *keys = crm_scan_noted(scan, partition, n);
	uint64 *spare = palloc_extended(sizeof(uint64) * Max(*n, 1), MCXT_ALLOC_HUGE);
	uint64 *sorted = crm_sort_keys(keys, spare, *n, digits);

	pfree(sorted == keys ? spare : keys);
	pfree(digits);
	return sorted;
}

static void
crm_scan_sort_partition(MatchScan *scan, uint32 partition, const MatchCounts *known, uint32 *digits)
{
	ScanShared *shared = scan->shared;
	ScanBlocks *blocks = &shared->blocks[partition];
	pg_atomic_uint32 *fill = crm_scan_get(scan, shared->record_fill);
	Size n;
	uint64 *keys = crm_scan_noted(scan, partition, &n);
	uint64 *spare = palloc_extended(sizeof(uint64) * Max(n, 1), MCXT_ALLOC_HUGE);
	uint64 *sorted = crm_sort_keys(keys, spare, n, digits);
	/* What is not yet read of the keys is never overtaken by what is written. */
	uint32 *member = (uint32 *) sorted;
	uint64 *free_half = sorted == keys ? spare : keys;
	uint32 *start = (uint32 *) free_half; /* at most n / 2 blocks, and as many counts */
	MatchCount *counts = (MatchCount *) (free_half + n / 4 + 1);
	uint8 *weight = palloc_extended(n / 2 + 1, MCXT_ALLOC_HUGE);
	uint32 nmembers = 0, nblocks = 0, ncounts = 0;

	for (Size i = 0; i < n;)
	{
		Size j = i + 1;
		uint32 hash = KEY_HASH(sorted[i]);
		uint32 size, count;
		int w;

		while (j < n && KEY_HASH(sorted[j]) == hash)
			j++;
		size = (uint32) (j - i);
		hash |= partition << HASH_BITS;
		if (size > 1 && shared->learn)
		{
			counts[ncounts].hash = hash;
			counts[ncounts++].count = size;
		}
		count = known != NULL ? crm_counts_get(known, hash) : size;
		w = crm_scan_key_weight(hash, count);
		if (w == 0)
			scan->part->crowded[MATCH_HASH_IS_PIECE(hash)]++;
		else if (size > SCAN_CROWD)
			pg_atomic_write_u32(&shared->outgrown, 1);
		else if (size > 1)
		{
			start[nblocks] = nmembers;
			weight[nblocks++] = (uint8) w;
			for (Size k = i; k < j; k++)
			{
				uint32 record = (uint32) sorted[k];

				member[nmembers++] = record;
				pg_atomic_fetch_add_u32(&fill[record], 1);
			}
		}
		i = j;
	}
	blocks->nmembers = nmembers;
	blocks->nblocks = nblocks;
	blocks->ncounts = ncounts;
	memcpy(crm_scan_alloc(scan, sizeof(uint32) * (Size) nmembers, &blocks->member), member,
		   sizeof(uint32) * (Size) nmembers);
	memcpy(crm_scan_alloc(scan, sizeof(uint32) * (Size) nblocks, &blocks->start), start,
		   sizeof(uint32) * (Size) nblocks);
	memcpy(crm_scan_alloc(scan, nblocks, &blocks->weight), weight, nblocks);
	memcpy(crm_scan_alloc(scan, sizeof(MatchCount) * (Size) ncounts, &blocks->counts), counts,
		   sizeof(MatchCount) * (Size) ncounts);
	pfree(weight);
	pfree(keys);
	pfree(spare);
}

/* The job SCAN_SORT. */
void
crm_scan_sort(MatchScan *scan)
{
	const MatchCounts *known = scan->shared->learn ? NULL : crm_scan_frequencies(scan);
	uint32 *digits = palloc(sizeof(uint32) * (DIGITS + 1));
	uint32 partition;

	while (crm_scan_next(scan, &partition))
	{
		crm_scan_sort_partition(scan, partition, known, digits);
		crm_progress_add(scan->shared, 1);
	}
}

/* Room for all blocks, and for the list that each record has of its own. */
void
crm_scan_layout(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	uint64 members = 0;
	uint32 blocks = 0, sum = 0;
	uint32 *start;
	pg_atomic_uint32 *fill = crm_scan_get(scan, shared->record_fill);

	for (int i = 0; i < SCAN_PARTITIONS; i++)
	{
		shared->blocks[i].first_member = (uint32) members;
		shared->blocks[i].first_block = blocks;
		members += shared->blocks[i].nmembers;
		blocks += shared->blocks[i].nblocks;
	}
	if (members > PG_UINT32_MAX)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("the table has too many keys to be scanned at once")));
	start = crm_scan_alloc(scan, sizeof(uint32) * ((Size) blocks + 1), &shared->block_start);
	start[blocks] = (uint32) members;
	crm_scan_alloc(scan, blocks, &shared->block_weight);
	crm_scan_alloc(scan, sizeof(uint32) * members, &shared->member);
	crm_scan_alloc(scan, sizeof(uint32) * members, &shared->record_block);
	start =
		crm_scan_alloc(scan, sizeof(uint32) * ((Size) scan->nrecords + 1), &shared->record_start);
	for (uint32 i = 0; i < scan->nrecords; i++)
	{
		uint32 n = pg_atomic_read_u32(&fill[i]);

		start[i] = sum;
		pg_atomic_write_u32(&fill[i], sum);
		sum += n;
	}
	start[scan->nrecords] = sum;
}

/* The job SCAN_LINK. */
void
crm_scan_link_blocks(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	uint32 *block_start = crm_scan_get(scan, shared->block_start);
	uint8 *block_weight = crm_scan_get(scan, shared->block_weight);
	uint32 *members = crm_scan_get(scan, shared->member);
	uint32 *record_block = crm_scan_get(scan, shared->record_block);
	pg_atomic_uint32 *fill = crm_scan_get(scan, shared->record_fill);
	uint32 partition;

	while (crm_scan_next(scan, &partition))
	{
		ScanBlocks *b = &shared->blocks[partition];
		const uint32 *member = crm_scan_get(scan, b->member);
		const uint32 *start = crm_scan_get(scan, b->start);

		memcpy(members + b->first_member, member, sizeof(uint32) * (Size) b->nmembers);
		memcpy(block_weight + b->first_block, crm_scan_get(scan, b->weight), b->nblocks);
		for (uint32 i = 0; i < b->nblocks; i++)
		{
			uint32 end = i + 1 < b->nblocks ? start[i + 1] : b->nmembers;

			block_start[b->first_block + i] = b->first_member + start[i];
			for (uint32 j = start[i]; j < end; j++)
				record_block[pg_atomic_fetch_add_u32(&fill[member[j]], 1)] = b->first_block + i;
		}
		crm_scan_free(scan, &b->member, sizeof(uint32) * (Size) b->nmembers);
		crm_scan_free(scan, &b->start, sizeof(uint32) * (Size) b->nblocks);
		crm_scan_free(scan, &b->weight, b->nblocks);
		crm_progress_add(shared, 1);
	}
}

void
crm_edge_add(EdgeList *list, uint32 a, uint32 b, float bits)
{
	if (list->n == list->size)
	{
		list->size = list->size ? list->size * 2 : 4096;
		list->edge = list->edge == NULL
						 ? palloc_extended(sizeof(MatchEdge) * (Size) list->size, MCXT_ALLOC_HUGE)
						 : repalloc_huge(list->edge, sizeof(MatchEdge) * (Size) list->size);
	}
	list->edge[list->n].a = a;
	list->edge[list->n].b = b;
	list->edge[list->n++].bits = bits;
}

void
crm_edge_share(MatchScan *scan, EdgeList *list)
{
	MatchEdge *shared =
		crm_scan_alloc(scan, sizeof(MatchEdge) * (Size) list->n, &scan->part->edges);

	if (list->n > 0)
		memcpy(shared, list->edge, sizeof(MatchEdge) * (Size) list->n);
	scan->part->nedges = list->n;
}

/* Two records that a person has told apart. */
bool
crm_ids_apart(const MatchScan *scan, int64 a, int64 b)
{
	int64 left = Min(a, b), right = Max(a, b);
	uint32 low = 0, high = scan->napart;

	while (low < high)
	{
		uint32 mid = low + (high - low) / 2;
		const IdPair *pair = &scan->apart[mid];

		if (pair->left == left && pair->right == right)
			return true;
		if (pair->left < left || (pair->left == left && pair->right < right))
			low = mid + 1;
		else
			high = mid;
	}
	return false;
}

bool
crm_scan_apart(const MatchScan *scan, uint32 a, uint32 b)
{
	return scan->napart > 0 && crm_ids_apart(scan, scan->id[a], scan->id[b]);
}

/*
 * Log-odds of two records, the one of the lower id first: what counts as the
 * rarity of a shared piece can depend on the side.
 */
float
crm_scan_bits(const MatchScan *scan, uint32 a, uint32 b, float needed)
{
	bool ordered = scan->id[a] < scan->id[b];

	return (float) crm_match_bits(&scan->scorer, crm_scan_record(scan, ordered ? a : b),
								  crm_scan_record(scan, ordered ? b : a), needed);
}

/* The job SCAN_COMPARE: each record with those of lower numbers. */
void
crm_scan_compare(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	const uint32 *block_start = crm_scan_get(scan, shared->block_start);
	const uint8 *block_weight = crm_scan_get(scan, shared->block_weight);
	const uint32 *member = crm_scan_get(scan, shared->member);
	const uint32 *record_start = crm_scan_get(scan, shared->record_start);
	const uint32 *record_block = crm_scan_get(scan, shared->record_block);
	uint32 *stamp = palloc_extended(sizeof(uint32) * Max((Size) scan->nrecords, 1),
									MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	uint8 *weight = palloc_extended(Max((Size) scan->nrecords, 1), MCXT_ALLOC_HUGE);
	uint32 *found =
		palloc_extended(sizeof(uint32) * Max((Size) scan->nrecords, 1), MCXT_ALLOC_HUGE);
	float threshold = shared->threshold;
	EdgeList edges = {0};
	uint32 piece;

	while (crm_scan_next(scan, &piece))
	{
		uint32 end = Min((piece + 1) * SCAN_COMPARE_ROWS, scan->nrecords);

		for (uint32 r = piece * SCAN_COMPARE_ROWS; r < end; r++)
		{
			uint32 nfound = 0, n = 0;

			CHECK_FOR_INTERRUPTS();
			for (uint32 i = record_start[r]; i < record_start[r + 1]; i++)
			{
				uint32 b = record_block[i];
				uint8 w = block_weight[b];

				for (uint32 j = block_start[b]; j < block_start[b + 1]; j++)
				{
					uint32 c = member[j];

					if (c >= r)
						continue;
					if (stamp[c] != r)
					{
						stamp[c] = r;
						weight[c] = w;
						found[nfound++] = c;
					}
					else if (weight[c] < SCAN_NEEDED)
						weight[c] += w;
				}
			}
			for (uint32 i = 0; i < nfound; i++)
				if (weight[found[i]] >= SCAN_NEEDED)
				{
					found[n] = found[i];
					__builtin_prefetch(crm_scan_record(scan, found[n++]));
				}
			for (uint32 i = 0; i < n; i++)
			{
				float bits;

				if (crm_scan_apart(scan, found[i], r))
					continue;
				bits = crm_scan_bits(scan, found[i], r, threshold);
				if (bits >= threshold)
					crm_edge_add(&edges, found[i], r, bits);
			}
		}
		crm_progress_add(shared, end - piece * SCAN_COMPARE_ROWS);
	}
	crm_edge_share(scan, &edges);
}

static int
crm_cmp_edge_ids(const void *a, const void *b, void *arg)
{
	const MatchEdge *x = a, *y = b;
	const int64 *id = arg;

	if (id[x->a] != id[y->a])
		return id[x->a] < id[y->a] ? -1 : 1;
	return id[x->b] < id[y->b] ? -1 : id[x->b] > id[y->b];
}

/* Each edge once, from the lower id to the higher, by ids ascending; returns how many. */
uint32
crm_scan_order_edges(const MatchScan *scan, MatchEdge *edge, uint32 nedges)
{
	uint32 n = 0;

	for (uint32 i = 0; i < nedges; i++)
		if (scan->id[edge[i].a] > scan->id[edge[i].b])
		{
			uint32 swap = edge[i].a;

			edge[i].a = edge[i].b;
			edge[i].b = swap;
		}
	if (nedges > 1)
		qsort_arg(edge, nedges, sizeof(MatchEdge), crm_cmp_edge_ids, scan->id);
	for (uint32 i = 0; i < nedges; i++)
		if (n == 0 || crm_cmp_edge_ids(&edge[n - 1], &edge[i], scan->id) != 0)
			edge[n++] = edge[i];
	return n;
}

/* The edges of all participants in their order. */
MatchEdge *
crm_scan_collect(MatchScan *scan, uint32 *nedges)
{
	Size total = 0;
	MatchEdge *edge;

	for (int i = 0; i < SCAN_MAX_PARTS; i++)
		total += scan->shared->part[i].nedges;
	if (total > PG_UINT32_MAX)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("too many pairs of records are alike")));
	edge = palloc_extended(sizeof(MatchEdge) * Max(total, 1), MCXT_ALLOC_HUGE);
	total = 0;
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
	{
		ScanPart *part = &scan->shared->part[i];

		if (part->nedges > 0)
			memcpy(edge + total, crm_scan_get(scan, part->edges),
				   sizeof(MatchEdge) * (Size) part->nedges);
		total += part->nedges;
		crm_scan_free(scan, &part->edges, sizeof(MatchEdge) * (Size) part->nedges);
		part->nedges = 0;
	}
	*nedges = crm_scan_order_edges(scan, edge, (uint32) total);
	return edge;
}

/* The job SCAN_EXPLAIN: scores and reasons of the edges to be written. */
void
crm_scan_explain(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	const MatchEdge *edges = crm_scan_get(scan, shared->edges);
	ScanRef *reasons = crm_scan_get(scan, shared->reasons);
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match reasons", ALLOCSET_DEFAULT_SIZES);
	uint32 piece;

	while (crm_scan_next(scan, &piece))
	{
		const MatchEdge *edge = edges + (Size) piece * SCAN_EDGE_ROWS;
		uint32 n = Min(SCAN_EDGE_ROWS, shared->nedges - piece * SCAN_EDGE_ROWS);
		MemoryContext old = MemoryContextSwitchTo(context);
		Jsonb **json = palloc(sizeof(Jsonb *) * n);
		Size size = 0;
		char *out;

		for (uint32 i = 0; i < n; i++)
		{
			MatchScore score;

			crm_match_score(&scan->scorer, crm_scan_record(scan, edge[i].a),
							crm_scan_record(scan, edge[i].b), &score);
			json[i] = crm_match_reasons(&score, false);
			size += INTALIGN(VARSIZE(json[i]));
		}
		out = crm_scan_alloc(scan, size, &reasons[piece]);
		for (uint32 i = 0; i < n; i++)
		{
			memcpy(out, json[i], VARSIZE(json[i]));
			out += INTALIGN(VARSIZE(json[i]));
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		crm_progress_add(shared, n);
	}
}
