/*
 * match_count.c
 *		Counters of 32-bit hashes: an open-addressing table of bounded size, or
 *		a finished list that is only looked up.
 *
 * Hashes are spread evenly, so their top bits lead to the right place in a list
 * of ascending hashes: no table has to be built, and processes can share it.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "match_count.h"

/* In the table, hash 0 is a free place. */
typedef MatchCount CountEntry;

struct MatchCounts
{
	MemoryContext context;
	CountEntry *entry;
	uint32 mask;
	uint32 used;
	uint32 limit;
	uint32 floor; /* entries dropped so far occurred at most this often */
	uint32 first; /* of the top bytes of hashes that are counted */
	uint32 nfirst;
	/* of a finished list */
	const MatchCount *list;
	const uint32 *start; /* NULL: a table */
	int shift;
};

static MatchCounts *
crm_counts_alloc(MemoryContext context, uint32 limit, uint32 size)
{
	MatchCounts *counts = MemoryContextAllocZero(context, sizeof(MatchCounts));

	counts->context = context;
	counts->limit = limit;
	counts->mask = size - 1;
	counts->nfirst = 256;
	counts->entry = MemoryContextAllocExtended(context, sizeof(CountEntry) * (Size) size,
											   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	return counts;
}

MatchCounts *
crm_counts_create(MemoryContext context, uint32 limit, Size expected)
{
	uint32 size = 1024;

	while (size - size / 4 <= expected && size < PG_UINT32_MAX / 4)
		size *= 2;
	return crm_counts_alloc(context, limit, size);
}

static inline CountEntry *
crm_counts_slot(const MatchCounts *counts, uint32 hash)
{
	uint32 i = (hash * 0x9E3779B1u) & counts->mask;

	while (counts->entry[i].hash != 0 && counts->entry[i].hash != hash)
		i = (i + 1) & counts->mask;
	return &counts->entry[i];
}

/* Rehashes into a table of the given size, leaving out what occurred less than least times. */
static void
crm_counts_resize(MatchCounts *counts, uint32 size, uint32 least)
{
	CountEntry *old = counts->entry;
	uint32 oldsize = counts->mask + 1;

	counts->entry = MemoryContextAllocExtended(counts->context, sizeof(CountEntry) * (Size) size,
											   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	counts->mask = size - 1;
	counts->used = 0;
	for (uint32 i = 0; i < oldsize; i++)
		if (old[i].hash != 0 && old[i].count >= least)
		{
			*crm_counts_slot(counts, old[i].hash) = old[i];
			counts->used++;
		}
	pfree(old);
}

void
crm_counts_only(MatchCounts *counts, uint32 first, uint32 n)
{
	counts->first = first;
	counts->nfirst = n;
}

void
crm_counts_add(MatchCounts *counts, uint32 hash)
{
	crm_counts_add_many(counts, hash, 1);
}

void
crm_counts_add_many(MatchCounts *counts, uint32 hash, uint32 n)
{
	CountEntry *entry;

	if ((hash >> 24) - counts->first >= counts->nfirst)
		return;
	entry = crm_counts_slot(counts, hash);
	if (entry->hash == 0)
	{
		if (counts->used >= counts->mask - counts->mask / 4)
		{
			if (counts->used >= counts->limit)
			{
				counts->floor++;
				crm_counts_resize(counts, counts->mask + 1, counts->floor + 1);
				/* All common: then it has to grow. */
				if (counts->used >= counts->limit - counts->limit / 8)
					counts->limit *= 2;
			}
			else
				crm_counts_resize(counts, (counts->mask + 1) * 2, 0);
			entry = crm_counts_slot(counts, hash);
		}
		entry->hash = hash;
		counts->used++;
	}
	entry->count += n;
}

void
crm_counts_free(MatchCounts *counts)
{
	pfree(counts->entry);
	pfree(counts);
}

uint32
crm_counts_get(const MatchCounts *counts, uint32 hash)
{
	if (counts->start == NULL)
		return crm_counts_slot(counts, hash)->count;
	for (uint32 i = counts->start[hash >> counts->shift]; i < counts->used; i++)
		if (counts->list[i].hash >= hash)
			return counts->list[i].hash == hash ? counts->list[i].count : 0;
	return 0;
}

/* Fetches what crm_counts_get() will read: first where the hash leads to, then that. */
void
crm_counts_prefetch(const MatchCounts *counts, uint32 hash, int step)
{
	if (counts->start == NULL)
		return;
	if (step == 0)
		__builtin_prefetch(&counts->start[hash >> counts->shift]);
	else
		__builtin_prefetch(&counts->list[counts->start[hash >> counts->shift]]);
}

static int
crm_cmp_entry(const void *a, const void *b)
{
	uint32 x = ((const CountEntry *) a)->hash;
	uint32 y = ((const CountEntry *) b)->hash;

	return x < y ? -1 : x > y;
}

MatchCount *
crm_counts_list(const MatchCounts *counts, uint32 least, uint32 *n)
{
	MatchCount *list;
	uint32 found = 0;

	for (uint32 i = 0; i <= counts->mask; i++)
		found += counts->entry[i].count >= least && counts->entry[i].hash != 0;
	list = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(MatchCount) * Max((Size) found, 1));
	found = 0;
	for (uint32 i = 0; i <= counts->mask; i++)
		if (counts->entry[i].count >= least && counts->entry[i].hash != 0)
			list[found++] = counts->entry[i];
	*n = found;
	return list;
}

bytea *
crm_counts_pack(const MatchCounts *counts)
{
	uint32 n;
	MatchCount *list = crm_counts_list(counts, 2, &n);
	Size size = VARHDRSZ + sizeof(MatchCount) * (Size) n;
	bytea *result = MemoryContextAllocHuge(CurrentMemoryContext, size);

	qsort(list, n, sizeof(MatchCount), crm_cmp_entry);
	SET_VARSIZE(result, size);
	memcpy(VARDATA(result), list, sizeof(MatchCount) * (Size) n);
	pfree(list);
	return result;
}

/* Bits of a hash that lead to its place in a list of n. */
static int
crm_counts_bits(uint32 n)
{
	int bits = 8;

	while (bits < 30 && ((Size) 2 << bits) < n)
		bits++;
	return bits;
}

Size
crm_counts_places(uint32 n)
{
	return (Size) 1 << crm_counts_bits(n);
}

void
crm_counts_place(const MatchCount *list, uint32 n, uint32 *start)
{
	Size places = crm_counts_places(n);
	int shift = 32 - crm_counts_bits(n);
	uint32 next = 0;

	/* First how many there are for each place, then how many before it. */
	memset(start, 0, sizeof(uint32) * places);
	for (uint32 i = 0; i < n; i++)
		start[list[i].hash >> shift]++;
	for (Size i = 0; i < places; i++)
	{
		uint32 here = start[i];

		start[i] = next;
		next += here;
	}
}

MatchCounts *
crm_counts_sorted(const MatchCount *list, uint32 n, const uint32 *start, MemoryContext context)
{
	MatchCounts *counts = MemoryContextAllocZero(context, sizeof(MatchCounts));

	counts->context = context;
	counts->list = list;
	counts->used = n;
	counts->shift = 32 - crm_counts_bits(n);
	counts->start = start;
	return counts;
}

MatchCounts *
crm_counts_unpack(const char *data, size_t len, MemoryContext context)
{
	uint32 n = (uint32) (len / sizeof(MatchCount));
	MatchCount *list = MemoryContextAllocHuge(context, sizeof(MatchCount) * Max((Size) n, 1));
	uint32 *start = MemoryContextAllocHuge(context, sizeof(uint32) * crm_counts_places(n));

	memcpy(list, data, sizeof(MatchCount) * (Size) n);
	crm_counts_place(list, n, start);
	return crm_counts_sorted(list, n, start, context);
}
