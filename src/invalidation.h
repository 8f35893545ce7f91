/*
 * invalidation.h
 *		One relcache callback for all caches of crm.
 */
#ifndef CRM_INVALIDATION_H
#define CRM_INVALIDATION_H

#include "utils/inval.h"

/* As CacheRegisterRelcacheCallback(); a cache registers once a process. */
extern void crm_register_relcache_callback(RelcacheCallbackFunction callback, Datum arg);

#endif /* CRM_INVALIDATION_H */
