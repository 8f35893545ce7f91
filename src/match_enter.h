/*
 * match_enter.h
 *		The keys of rows entered into a matching index.
 */
#ifndef CRM_MATCH_ENTER_H
#define CRM_MATCH_ENTER_H

#include "storage/itemptr.h"
#include "utils/relcache.h"

typedef struct MatchEntry
{
	int32 key;
	ItemPointerData row;
} MatchEntry;

/* Memory that entering takes beside the entries themselves, as a multiple of theirs. */
#define MATCH_ENTER_COPIES 2

/* In any order; what is said twice is entered once. */
extern void crm_match_enter(Relation index, const MatchEntry *entry, Size n);

#endif /* CRM_MATCH_ENTER_H */
