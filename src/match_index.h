/*
 * match_index.h
 *		The access method of matching indexes.
 */
#ifndef CRM_MATCH_INDEX_H
#define CRM_MATCH_INDEX_H

#include "utils/relcache.h"

/* Can the index be read as a matching index? */
extern bool crm_is_match_index(Relation index);
/* What this transaction has put off is in the index afterwards. */
extern void crm_match_index_catch_up(Oid indexid);

#endif /* CRM_MATCH_INDEX_H */
