/*
 * match_search.h
 *		Rows of a table that may mean the same as a record, without SQL.
 */
#ifndef CRM_MATCH_SEARCH_H
#define CRM_MATCH_SEARCH_H

#include "match.h"
#include "storage/itemptr.h"
#include "utils/snapshot.h"

typedef struct MatchSearch MatchSearch;

/* A row found. */
typedef struct MatchHit
{
	ItemPointerData tid; /* of the version that the snapshot sees */
	Datum id;			 /* of the column that begin() was given */
	MatchScore score;
} MatchHit;

/* What to search for. */
typedef struct MatchQuery
{
	const MatchRecord *record; /* weighed with the statistics of the table */
	const MatchKey *keys;	   /* ascending */
	int nkeys;
	uint32 roles;	  /* those that can agree, a bit each: others need not be read */
	const char *self; /* the row of this id, as text, is left out; NULL = none */
	int wanted;		  /* how many rows */
} MatchQuery;

/*
 * Leaves out rows that the one who asks may not see: sets keep[] of each.  Is
 * called for some candidates at a time, best first, before they are scored.
 */
typedef void (*MatchFilter)(void *arg, ItemPointer tids, int n, bool *keep);

/*
 * A search reads as its own, whatever the caller's privileges, what the snapshot
 * sees.  Everything lives in a context below the current one until
 * crm_search_end(); the table is locked by the caller.
 */
extern MatchSearch *crm_search_begin(Relation rel, const MatchColumns *columns, AttrNumber id,
									 const MatchScorer *scorer, Snapshot snapshot);
/* The best rows first; they live until the next call.  *truncated: rows may be missing. */
extern MatchHit *crm_search(MatchSearch *search, const MatchQuery *query, MatchFilter filter,
							void *arg, int *nhits, bool *truncated);
extern void crm_search_end(MatchSearch *search);

#endif /* CRM_MATCH_SEARCH_H */
