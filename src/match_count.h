/*
 * match_count.h
 *		Counters of 32-bit hashes: an open-addressing table of bounded size, or
 *		a finished list that is only looked up.
 */
#ifndef CRM_MATCH_COUNT_H
#define CRM_MATCH_COUNT_H

#include "match.h"

typedef struct MatchCounts MatchCounts;

typedef struct MatchCount
{
	uint32 hash; /* never 0 */
	uint32 count;
} MatchCount;

/*
 * Above limit entries, those that occurred once are forgotten: what counts is what is common.
 * Room is made for expected entries.  Who adds the list of another table says how many come: a
 * list has the order of its table, and piles up in one that is too small.
 */
extern MatchCounts *crm_counts_create(MemoryContext context, uint32 limit, Size expected);
/* From now on only hashes of n top bytes from the first on are counted. */
extern void crm_counts_only(MatchCounts *counts, uint32 first, uint32 n);
extern void crm_counts_add(MatchCounts *counts, uint32 hash);
extern void crm_counts_add_many(MatchCounts *counts, uint32 hash, uint32 n);
extern uint32 crm_counts_get(const MatchCounts *counts, uint32 hash);
extern void crm_counts_free(MatchCounts *counts); /* a table */
/* Entries that occur at least twice, by hash ascending. */
extern bytea *crm_counts_pack(const MatchCounts *counts);
extern MatchCounts *crm_counts_unpack(const char *data, size_t len, MemoryContext context);
/* Entries that occur at least so often, in no order. */
extern MatchCount *crm_counts_list(const MatchCounts *counts, uint32 least, uint32 *n);
/*
 * Counts that can be looked up, of a list by hash ascending and of places in it, which are not
 * copied.  There are so many places, and crm_counts_place() fills them in.
 */
extern MatchCounts *crm_counts_sorted(const MatchCount *list, uint32 n, const uint32 *start,
									  MemoryContext context);
extern Size crm_counts_places(uint32 n);
extern void crm_counts_place(const MatchCount *list, uint32 n, uint32 *start);
extern void crm_counts_prefetch(const MatchCounts *counts, uint32 hash, int step);

/* Rarity in bits of what occurs count times in rows rows. */
extern double crm_match_rarity_of(double rows, double count, uint8 default_bits);
extern void crm_match_weigh_counts(MatchRecord *record, double rows, const MatchCounts *counts);
/* The same after an outline of the same row (or NULL), whose weights are taken over. */
extern void crm_match_weigh_more(MatchRecord *record, const MatchRecord *before, double rows,
								 const MatchCounts *counts);
extern void crm_match_count_record(MatchCounts *counts, const MatchRecord *record,
								   const MatchKey *keys, int nkeys);

#endif /* CRM_MATCH_COUNT_H */
