/*
 * match_posting.h
 *		The rows that have a key, read from a matching index.
 */
#ifndef CRM_MATCH_POSTING_H
#define CRM_MATCH_POSTING_H

#include "storage/itemptr.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

typedef struct MatchPostings MatchPostings;

/* The rows of one key. */
typedef struct MatchPosting
{
	uint32 key;
	double rows;  /* how many; an estimate if there is a tree */
	int npending; /* not in the tree of entries yet */
	ItemPointer pending;
	ItemPointerData only; /* the one row in the entry; invalid if there are more */
	void *packed;		  /* a list kept in the entry */
	BlockNumber tree;	  /* of a longer one; InvalidBlockNumber = none */
} MatchPosting;

/* Takes some more rows of a key; false = no more are wanted. */
typedef bool (*MatchPostingReader)(void *arg, ItemPointer items, int nitems);

extern MatchPostings *crm_postings_begin(Relation index, Snapshot snapshot);
/* Looks up n keys, whose list[].key are set and ascending, in the current memory context. */
extern void crm_postings_look_up(MatchPostings *postings, MatchPosting *list, int n);
extern void crm_postings_read(MatchPostings *postings, const MatchPosting *posting,
							  MatchPostingReader reader, void *arg);

#endif /* CRM_MATCH_POSTING_H */
