/*
 * invalidation.c
 *		One relcache callback for all caches of crm.
 *
 * A process has room for ten relcache callbacks, of core and of all extensions
 * together, and ends with FATAL at the eleventh.  So crm takes one place and
 * passes on what it hears.
 */
#include "postgres.h"

#include "invalidation.h"

#define MOST_CALLBACKS 32

static struct
{
	RelcacheCallbackFunction function;
	Datum arg;
} callbacks[MOST_CALLBACKS];

static int ncallbacks = 0;

static void
crm_relcache_callback(Datum arg, Oid relid)
{
	for (int i = 0; i < ncallbacks; i++)
		callbacks[i].function(callbacks[i].arg, relid);
}

void
crm_register_relcache_callback(RelcacheCallbackFunction callback, Datum arg)
{
	static bool registered = false;

	if (ncallbacks == MOST_CALLBACKS)
		elog(ERROR, "out of places for relcache callbacks");
	if (!registered)
		CacheRegisterRelcacheCallback(crm_relcache_callback, (Datum) 0);
	registered = true;
	callbacks[ncallbacks].function = callback;
	callbacks[ncallbacks++].arg = arg;
}
