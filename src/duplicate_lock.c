/*
 * duplicate_lock.c
 *		Keeps two writers of the same record apart.
 *
 * Whether a row has a twin can only be said once every transaction that may
 * be writing one has ended.  So before it looks, a writer locks the keys of its
 * row, to the end of its transaction: what any search finds another row by,
 * it shares with it.  Then it looks with a snapshot taken after the locks.  Of
 * two that write twins at the same time, one waits for the other's end and sees
 * how it ended.
 *
 * Keys that many rows have are left out, as the search leaves them out: all
 * writers would stand in one queue.  Of the rest a row locks at most
 * ROW_LOCKS, those with the lowest hash, which rows that share most keys choose
 * alike.  A statement takes its locks in ascending order, so that two
 * statements cannot deadlock; two transactions of several statements can, as
 * they can over a unique index.
 *
 * The lock table of the server is small, so a transaction that needs more than
 * TRANSACTION_LOCKS locks the table's gate instead, alone; all others hold it
 * shared.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"

#include "compat.h"
#include "duplicate_rule.h"

#define ROW_LOCKS			48
#define TRANSACTION_LOCKS	1000
#define LOCK_BITS			9 /* a key rarer than one in 2^9 rows, as far as is known beforehand */
#define LOCK_ROWS			2000   /* a key of more rows than this is not locked */
#define DUPLICATE_LOCK_GATE 0x4347 /* sub-object of a table that no catalog knows */

struct DuplicateLocks
{
	Oid relid;
	Oid function;
	MatchScratch *scratch;
	bool all;
	int n;
	uint32 key[TRANSACTION_LOCKS + MATCH_MAX_KEYS];
};

/* Locks that this transaction took; those that a subtransaction gave back are still counted. */
static int transaction_locks = 0;

static void
crm_duplicate_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		transaction_locks = 0;
}

DuplicateLocks *
crm_duplicate_locks(Relation rel, Oid function)
{
	static bool registered = false;
	DuplicateLocks *locks = palloc(sizeof(DuplicateLocks));

	if (!registered)
	{
		RegisterXactCallback(crm_duplicate_xact_callback, NULL);
		registered = true;
	}
	locks->relid = RelationGetRelid(rel);
	locks->function = function;
	locks->scratch = crm_match_scratch();
	locks->all = false;
	locks->n = 0;
	return locks;
}

static int
crm_cmp_lock(const void *a, const void *b)
{
	uint32 x = *(const uint32 *) a, y = *(const uint32 *) b;

	return x < y ? -1 : x > y;
}

static void
crm_duplicate_locks_sort(DuplicateLocks *locks)
{
	int n = 0;

	qsort(locks->key, locks->n, sizeof(uint32), crm_cmp_lock);
	for (int i = 0; i < locks->n; i++)
		if (n == 0 || locks->key[n - 1] != locks->key[i])
			locks->key[n++] = locks->key[i];
	locks->n = n;
}

bool
crm_duplicate_locks_add(DuplicateLocks *locks, const MatchValue values[MATCH_NROLES])
{
	MatchStats *stats = crm_match_stats(locks->relid);
	const MatchKey *keys;
	int nkeys;
	int taken = 0;

	if (locks->all)
		return true;
	keys = crm_match_record_keys(values, locks->scratch, &nkeys);
	/* They come in ascending order of hash. */
	for (int i = 0; i < nkeys && taken < ROW_LOCKS; i++)
		if (keys[i].default_bits >= LOCK_BITS * MATCH_BITS_SCALE &&
			crm_match_count(stats, keys[i].hash) <= LOCK_ROWS)
		{
			locks->key[locks->n + taken] = hash_combine(murmurhash32(locks->relid), keys[i].hash);
			taken++;
		}
	/* A row of common keys only: then those. */
	for (int i = 0; taken == 0 && i < Min(nkeys, ROW_LOCKS); i++)
		locks->key[locks->n++] = hash_combine(murmurhash32(locks->relid), keys[i].hash);
	locks->n += taken;
	if (locks->n > TRANSACTION_LOCKS)
		crm_duplicate_locks_sort(locks);
	locks->all = locks->n > TRANSACTION_LOCKS - transaction_locks;
	return locks->all;
}

void
crm_duplicate_locks_take(DuplicateLocks *locks)
{
	crm_duplicate_locks_sort(locks);
	LockDatabaseObject(RelationRelationId, locks->relid, DUPLICATE_LOCK_GATE,
					   locks->all ? ExclusiveLock : ShareLock);
	if (locks->all)
		return;
	for (int i = 0; i < locks->n; i++)
	{
		LOCKTAG tag;

		SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, locks->function, locks->key[i], 2);
		if (LockAcquire(&tag, ExclusiveLock, false, false) == LOCKACQUIRE_OK)
			transaction_locks++;
	}
}
