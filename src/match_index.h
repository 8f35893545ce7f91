/*
 * match_index.h
 *		The access method of matching indexes.
 */
#ifndef CRM_MATCH_INDEX_H
#define CRM_MATCH_INDEX_H

#include "access/itup.h"
#include "storage/bufpage.h"
#include "utils/relcache.h"

/* Can the index be read as a matching index? */
extern bool crm_is_match_index(Relation index);
/* What this transaction has put off is in the index afterwards. */
extern void crm_match_index_catch_up(Oid indexid);

/*
 * The key of an entry, read where it lies: matching indexes have one column, of
 * integers.  Entries without one come after all that have one.
 */
static inline bool
crm_entry_key(Page page, OffsetNumber off, int32 *key)
{
	IndexTuple tuple = (IndexTuple) PageGetItem(page, PageGetItemId(page, off));

	if (IndexTupleHasNulls(tuple))
		return false;
	*key = *(int32 *) ((char *) tuple + IndexInfoFindDataOffset(tuple->t_info));
	return true;
}

#endif /* CRM_MATCH_INDEX_H */
