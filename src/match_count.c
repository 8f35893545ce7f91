/*
 * match_count.c
 *		Counters of 32-bit hashes: an open-addressing table of bounded size.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "match_count.h"

typedef struct CountEntry
{
	uint32 hash; /* 0 = free; hashes are never 0 */
	uint32 count;
} CountEntry;

struct MatchCounts
{
	MemoryContext context;
	CountEntry *entry;
	uint32 mask;
	uint32 used;
	uint32 limit;
	uint32 floor; /* entries dropped so far occurred at most this often */
};

static MatchCounts *
crm_counts_alloc(MemoryContext context, uint32 limit, uint32 size)
{
	MatchCounts *counts = MemoryContextAllocZero(context, sizeof(MatchCounts));

	counts->context = context;
	counts->limit = limit;
	counts->mask = size - 1;
	counts->entry = MemoryContextAllocExtended(context, sizeof(CountEntry) * (Size) size,
											   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	return counts;
}

MatchCounts *
crm_counts_create(MemoryContext context, uint32 limit)
{
	return crm_counts_alloc(context, limit, 1024);
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
crm_counts_add(MatchCounts *counts, uint32 hash)
{
	CountEntry *entry = crm_counts_slot(counts, hash);

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
	entry->count++;
}

uint32
crm_counts_get(const MatchCounts *counts, uint32 hash)
{
	return crm_counts_slot(counts, hash)->count;
}

static int
crm_cmp_entry(const void *a, const void *b)
{
	uint32 x = ((const CountEntry *) a)->hash;
	uint32 y = ((const CountEntry *) b)->hash;

	return x < y ? -1 : x > y;
}

bytea *
crm_counts_pack(const MatchCounts *counts)
{
	uint32 n = 0;
	bytea *result;
	CountEntry *out;

	for (uint32 i = 0; i <= counts->mask; i++)
		n += counts->entry[i].count >= 2;
	result = MemoryContextAllocHuge(CurrentMemoryContext, VARHDRSZ + sizeof(CountEntry) * (Size) n);
	SET_VARSIZE(result, VARHDRSZ + sizeof(CountEntry) * n);
	out = (CountEntry *) VARDATA(result);
	n = 0;
	for (uint32 i = 0; i <= counts->mask; i++)
		if (counts->entry[i].count >= 2)
			out[n++] = counts->entry[i];
	qsort(out, n, sizeof(CountEntry), crm_cmp_entry);
	return result;
}

MatchCounts *
crm_counts_unpack(const char *data, size_t len, MemoryContext context)
{
	uint32 n = (uint32) (len / sizeof(CountEntry));
	uint32 size = 1024;
	MatchCounts *counts;

	while (size - size / 4 <= n + 1)
		size *= 2;
	counts = crm_counts_alloc(context, PG_UINT32_MAX / 2, size);
	for (uint32 i = 0; i < n; i++)
	{
		CountEntry entry;

		memcpy(&entry, data + i * sizeof(CountEntry), sizeof(CountEntry));
		if (entry.hash == 0)
			continue;
		*crm_counts_slot(counts, entry.hash) = entry;
		counts->used++;
	}
	return counts;
}
