/*
 * match_stats.c
 *		How common each key and value is in a table, learned from the table itself.
 *
 * crm.analyze_matching() reads the table and stores, in table match_statistics
 * of the same schema, one row: the number of rows read and the keys that occur
 * more than once with their counts.  Rows of earlier versions are kept for a
 * while, so that a score can be explained after the fact.
 *
 * A backend loads the newest row once into a hash table of its own memory
 * context.  Whoever writes match_statistics sends a relcache invalidation for
 * the table that the row describes; the next lookup loads again.
 *
 * Rarity is smoothed: what a key is assumed to be before statistics counts as
 * MATCH_PRIOR_ROWS rows.  Scores therefore do not jump with the first
 * statistics or with the size of the table.
 */
#include "postgres.h"

#include <math.h>

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "crm.h"
#include "invalidation.h"
#include "match.h"
#include "match_count.h"
#include "workspace.h"

struct MatchStats
{
	Oid relid; /* hash key */
	bool valid;
	int64 version; /* 0 = none yet */
	double rows;
	MatchCounts *counts; /* NULL = none */
	MemoryContext context;
};

static HTAB *stats_cache = NULL;
static MemoryContext stats_context = NULL;
static int64 stats_loads = 0; /* read by a test */

static void
crm_stats_invalidate(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	MatchStats *stats;

	if (stats_cache == NULL)
		return;
	if (OidIsValid(relid))
	{
		stats = hash_search(stats_cache, &relid, HASH_FIND, NULL);
		if (stats != NULL)
			stats->valid = false;
		return;
	}
	hash_seq_init(&seq, stats_cache);
	while ((stats = hash_seq_search(&seq)) != NULL)
		stats->valid = false;
}

static void
crm_stats_init(void)
{
	HASHCTL ctl = {0};

	stats_context =
		AllocSetContextCreate(TopMemoryContext, "crm match statistics", ALLOCSET_SMALL_SIZES);
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(MatchStats);
	ctl.hcxt = stats_context;
	stats_cache =
		hash_create("crm match statistics", 8, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	crm_register_relcache_callback(crm_stats_invalidate, (Datum) 0);
}

/* Serialised: pairs of (hash, count), little endian as the machine has them. */
static void
crm_stats_load(MatchStats *stats)
{
	static const struct
	{
		const char *name;
		Oid type;
	} column[] = {
		{"relation", TEXTOID}, {"version", INT8OID}, {"rows", INT8OID}, {"keys", BYTEAOID}};
	AttrNumber attnum[lengthof(column)];
	Oid schema = get_rel_namespace(stats->relid);
	Oid table = get_relname_relid("match_statistics", schema);
	Relation rel;
	TableScanDesc scan;
	TupleTableSlot *slot;
	int64 best = 0;
	char *relname = get_rel_name(stats->relid);
	MemoryContext old;
	Snapshot snapshot;

	stats->version = 0;
	stats->rows = 0;
	stats->counts = NULL;
	if (stats->context != NULL)
		MemoryContextDelete(stats->context);
	stats->context = NULL;
	if (!OidIsValid(table) || relname == NULL || get_rel_relkind(table) != RELKIND_RELATION)
		return;
	for (int i = 0; i < (int) lengthof(column); i++)
	{
		attnum[i] = get_attnum(table, column[i].name);
		if (attnum[i] == InvalidAttrNumber || get_atttype(table, attnum[i]) != column[i].type)
			return; /* a table of that name, but not ours */
	}

	/*
	 * The statistics are the table owner's, not the caller's: everyone's search
	 * is guided by them and no value can be read out of hashes.
	 */
	rel = table_open(table, AccessShareLock);
	/* A worker has the snapshot of whom it works for. */
	snapshot = RegisterSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
	scan = table_beginscan(rel, snapshot, 0, NULL);
	slot = table_slot_create(rel, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool isnull[4];
		Datum relation, version, rows, keys;

		relation = slot_getattr(slot, attnum[0], &isnull[0]);
		version = slot_getattr(slot, attnum[1], &isnull[1]);
		rows = slot_getattr(slot, attnum[2], &isnull[2]);
		keys = slot_getattr(slot, attnum[3], &isnull[3]);
		if (isnull[0] || isnull[1] || isnull[2] || isnull[3] ||
			strcmp(TextDatumGetCString(relation), relname) != 0 || DatumGetInt64(version) <= best)
			continue;
		best = DatumGetInt64(version);
		if (stats->context != NULL)
			MemoryContextDelete(stats->context);
		stats->context = AllocSetContextCreate(stats_context, "crm match statistics of a table",
											   ALLOCSET_DEFAULT_SIZES);
		old = MemoryContextSwitchTo(stats->context);
		{
			bytea *packed = DatumGetByteaPP(keys);

			stats->counts =
				crm_counts_unpack(VARDATA_ANY(packed), VARSIZE_ANY_EXHDR(packed), stats->context);
		}
		MemoryContextSwitchTo(old);
		stats->rows = (double) DatumGetInt64(rows);
		stats->version = best;
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
}

MatchStats *
crm_match_stats(Oid relid)
{
	MatchStats *stats;
	bool found;

	if (stats_cache == NULL)
		crm_stats_init();
	stats = hash_search(stats_cache, &relid, HASH_ENTER, &found);
	if (!found)
	{
		stats->valid = false;
		stats->context = NULL;
		stats->counts = NULL;
		stats->rows = 0;
	}
	if (!stats->valid)
	{
		/* An invalidation that arrives while loading must not be lost. */
		stats->valid = true;
		PG_TRY();
		{
			crm_stats_load(stats);
		}
		PG_CATCH();
		{
			stats->valid = false;
			stats->counts = NULL;
			stats->rows = 0;
			PG_RE_THROW();
		}
		PG_END_TRY();
		stats_loads++;
	}
	return stats;
}

int64
crm_match_version(const MatchStats *stats)
{
	return stats->version;
}

double
crm_match_rows(const MatchStats *stats)
{
	return stats->rows;
}

uint32
crm_match_count(const MatchStats *stats, uint32 hash)
{
	return stats->counts != NULL ? crm_counts_get(stats->counts, hash) : 0;
}

double
crm_match_rarity_of(double rows, double count, uint8 default_bits)
{
	double assumed = MATCH_PRIOR_ROWS * exp2(-(double) default_bits / MATCH_BITS_SCALE);

	return log2((rows + MATCH_PRIOR_ROWS) / (count + assumed));
}

/* Keys not in the statistics occur at most once. */
double
crm_match_rarity(const MatchStats *stats, uint32 hash, uint8 default_bits)
{
	return crm_match_rarity_of(stats->rows, crm_match_count(stats, hash), default_bits);
}

/* Asks memory for what is known of keys that will be looked up, all at once. */
void
crm_match_prefetch(const MatchStats *stats, const MatchKey *keys, int nkeys)
{
	for (int step = 0; step < 2 && stats->counts != NULL; step++)
		for (int i = 0; i < nkeys; i++)
			crm_counts_prefetch(stats->counts, keys[i].hash, step);
}

void
crm_match_weigh(MatchRecord *record, const MatchStats *stats)
{
	crm_match_weigh_counts(record, stats->rows, stats->counts);
}

#define KNOWN_BITS	 256
#define KNOWN_COUNTS 32 /* most of what is weighed is as rare */

/* Rarities that were computed before, of tables of so many rows. */
static struct
{
	double rows;
	bool known[KNOWN_BITS][KNOWN_COUNTS];
	uint8 bits[KNOWN_BITS][KNOWN_COUNTS];
} rarity;

static inline uint8
crm_weigh_one(double rows, const MatchCounts *counts, uint32 hash, uint8 default_bits)
{
	uint32 count = counts != NULL ? crm_counts_get(counts, hash) : 0;
	double bits;
	uint8 result;

	if (count < KNOWN_COUNTS && rarity.known[default_bits][count])
		return rarity.bits[default_bits][count];
	bits = crm_match_rarity_of(rows, count, default_bits) * MATCH_BITS_SCALE;
	result = (uint8) (bits < 0 ? 0 : bits > 255 ? 255 : bits);
	if (count < KNOWN_COUNTS)
	{
		rarity.bits[default_bits][count] = result;
		rarity.known[default_bits][count] = true;
	}
	return result;
}

/*
 * Is the rarity of an item to be looked up?  Of an outline only where it counts
 * when the other record has another value; where both have the same, the other one
 * has its rarity.
 */
static inline bool
crm_item_weighs(const MatchRecord *record, int item)
{
	return record->item[item] != 0 &&
		   ((record->flags & MATCH_OUTLINE) == 0 || item == ITEM_CITY || item == ITEM_CORE);
}

/* Items and grams of the name that an outline of the same row has, which was weighed before. */
static inline bool
crm_item_weighed(const MatchRecord *record, const MatchRecord *before, int item)
{
	return before != NULL && before->item[item] == record->item[item] &&
		   crm_item_weighs(before, item);
}

static inline bool
crm_name_weighed(const MatchRecord *before)
{
	return before != NULL && before->nname > 0;
}

/* Most of the time goes by waiting for memory, so all of it is asked for first. */
static void
crm_weigh_prefetch(const MatchRecord *record, const MatchRecord *before, const MatchCounts *counts)
{
	const uint32 *gram = MATCH_NAME_GRAMS(record); /* those of the street follow */
	int first = crm_name_weighed(before) ? record->nname : 0;

	for (int step = 0; step < 2; step++)
	{
		for (int i = 0; i < MATCH_NITEMS; i++)
			if (crm_item_weighs(record, i) && !crm_item_weighed(record, before, i))
				crm_counts_prefetch(counts, record->item[i], step);
		for (int i = first; i < record->nname + record->nstreet; i++)
			crm_counts_prefetch(counts, gram[i], step);
	}
}

static uint16
crm_weigh_grams(const uint32 *gram, uint8 *bits, int n, double rows, const MatchCounts *counts)
{
	uint32 sum = 0;

	for (int i = 0; i < n; i++)
		sum += bits[i] = crm_weigh_one(rows, counts, gram[i], bits[i]);
	return (uint16) Min(sum, PG_UINT16_MAX);
}

void
crm_match_weigh_more(MatchRecord *record, const MatchRecord *before, double rows,
					 const MatchCounts *counts)
{
	if (counts != NULL)
		crm_weigh_prefetch(record, before, counts);
	if (rows != rarity.rows)
	{
		memset(rarity.known, 0, sizeof(rarity.known));
		rarity.rows = rows;
	}
	for (int i = 0; i < MATCH_NITEMS; i++)
		if (crm_item_weighed(record, before, i))
			record->item_bits[i] = before->item_bits[i];
		else if (crm_item_weighs(record, i))
			record->item_bits[i] =
				crm_weigh_one(rows, counts, record->item[i], record->item_bits[i]);
		else if (record->item[i] != 0)
			record->item_bits[i] = PG_UINT8_MAX;
	if (crm_name_weighed(before))
	{
		memcpy(MATCH_NAME_GRAM_BITS(record), MATCH_NAME_GRAM_BITS(before), record->nname);
		record->name_bits = before->name_bits;
	}
	else
		record->name_bits = crm_weigh_grams(MATCH_NAME_GRAMS(record), MATCH_NAME_GRAM_BITS(record),
											record->nname, rows, counts);
	record->street_bits = crm_weigh_grams(
		MATCH_STREET_GRAMS(record), MATCH_STREET_GRAM_BITS(record), record->nstreet, rows, counts);
}

void
crm_match_weigh_counts(MatchRecord *record, double rows, const MatchCounts *counts)
{
	crm_match_weigh_more(record, NULL, rows, counts);
}

/* Counts everything of a record that has a frequency. */
void
crm_match_count_record(MatchCounts *counts, const MatchRecord *record, const MatchKey *keys,
					   int nkeys)
{
	/* Items that are keys too are counted with the keys. */
	static const MatchItem others[] = {
		ITEM_COMPANY,	 ITEM_CORE,		   ITEM_BRANCH,	   ITEM_LOCAL_PART, ITEM_STREET,
		ITEM_HOUSE,		 ITEM_CITY,		   ITEM_REGION,	   ITEM_POSTCODE,	ITEM_COUNTRY,
		ITEM_GIVEN_NAME, ITEM_FAMILY_NAME, ITEM_BIRTH_DATE};

	for (int i = 0; i < nkeys; i++)
		crm_counts_add(counts, keys[i].hash);
	for (int i = 0; i < (int) lengthof(others); i++)
		if (record->item[others[i]] != 0)
			crm_counts_add(counts, record->item[others[i]]);
	for (int i = 0; i < record->nname; i++)
		crm_counts_add(counts, MATCH_NAME_GRAMS(record)[i]);
	for (int i = 0; i < record->nstreet; i++)
		crm_counts_add(counts, MATCH_STREET_GRAMS(record)[i]);
}

/*
 * crm._analyze_matching(rel) -> (rows bigint, keys bytea)
 *		Reads the table; the SQL around it checks permission and stores.
 */
PG_FUNCTION_INFO_V1(crm_analyze_matching);
Datum
crm_analyze_matching(PG_FUNCTION_ARGS)
{
	Oid relid = PG_GETARG_OID(0);
	Relation rel = crm_table_open(relid, AccessShareLock);
	MatchColumns *columns = crm_match_columns(rel, false);
	MatchCounts *counts = crm_counts_create(CurrentMemoryContext, 4 * 1024 * 1024, 0);
	MatchScratch *scratch = crm_match_scratch();
	MemoryContext row_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm analyze matching", ALLOCSET_DEFAULT_SIZES);
	TableScanDesc scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	int64 rows = 0;
	Datum values[2];
	bool nulls[2] = {false, false};
	TupleDesc desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MatchValue value[MATCH_NROLES] = {0};
		const MatchKey *keys;
		int nkeys;
		MatchRecord *record;
		MemoryContext old = MemoryContextSwitchTo(row_context);

		CHECK_FOR_INTERRUPTS();
		crm_match_slot_values(columns, slot, value);
		record = crm_match_record(value, scratch, &keys, &nkeys);
		crm_match_count_record(counts, record, keys, nkeys);
		rows++;
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	table_close(rel, NoLock);

	values[0] = Int64GetDatum(rows);
	values[1] = PointerGetDatum(crm_counts_pack(counts));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* After each statement on match_statistics: its readers load again. */
PG_FUNCTION_INFO_V1(crm_match_statistics_changed);
Datum
crm_match_statistics_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HeapTuple tuple;
	bool isnull;
	Datum name;
	Oid relid;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("crm.match_statistics_changed() must be called AFTER, FOR EACH ROW")));
	tuple = trigger->tg_trigtuple;
	name = heap_getattr(tuple, SPI_fnumber(RelationGetDescr(trigger->tg_relation), "relation"),
						RelationGetDescr(trigger->tg_relation), &isnull);
	if (!isnull)
	{
		relid = get_relname_relid(TextDatumGetCString(name),
								  RelationGetNamespace(trigger->tg_relation));
		if (OidIsValid(relid))
			CacheInvalidateRelcacheByRelid(relid);
	}
	return PointerGetDatum(NULL);
}

PG_FUNCTION_INFO_V1(crm_match_statistics_loads);
Datum
crm_match_statistics_loads(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(stats_loads);
}
