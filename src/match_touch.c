/*
 * match_touch.c
 *		What changes touch of the pairs and clusters that are known.
 *
 * Groups are made anew where they can have changed: in the components, of the
 * pairs that hold now, in which a record was changed, or lost a pair or a
 * companion, or in which somebody decided.  All else is kept as it is.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "match_ids.h"
#include "match_scan.h"

#define ID_USED	   0x01
#define ID_CHANGED 0x02 /* or gone */
#define ID_GONE	   0x04
#define ID_TOUCHED 0x08 /* its component is made anew */

/* A record that the scan has to do with. */
typedef struct IdEntry
{
	int64 id;
	uint32 number; /* of its features; SCAN_NO_RECORD: not read yet */
	uint32 state;
} IdEntry;

#define SEEN_BITS 20

struct ChangeSet
{
	uint64 seen[(1 << SEEN_BITS) / 64]; /* bits of the hashes of all ids in it: most are not */
	IdEntry *entry;
	uint32 mask;
	uint32 n;
	int64 *touched; /* ids, as they came */
	uint32 ntouched;
	uint32 touched_size;
	uint32 nspread; /* of them, whose pairs were followed */
	/* known pairs by their right record: the last one of a hash, and from each the one before */
	uint32 *last;
	uint32 last_mask;
	uint32 *before;
};

#define NO_PAIR UINT32_MAX

static inline IdEntry *
crm_change_place(const ChangeSet *set, int64 id)
{
	uint32 i = crm_hash64((uint64) id) & set->mask;

	while (set->entry[i].state != 0 && set->entry[i].id != id)
		i = (i + 1) & set->mask;
	return &set->entry[i];
}

static inline uint32
crm_change_state(const ChangeSet *set, int64 id)
{
	uint32 bit = crm_hash64((uint64) id) >> (32 - SEEN_BITS);

	if ((set->seen[bit / 64] & (UINT64CONST(1) << (bit % 64))) == 0)
		return 0;
	return crm_change_place(set, id)->state;
}

static void
crm_change_resize(ChangeSet *set, uint32 size)
{
	ChangeSet old = *set;

	set->mask = size - 1;
	set->entry = palloc_extended(sizeof(IdEntry) * (Size) size, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (uint32 i = 0; old.entry != NULL && i <= old.mask; i++)
		if (old.entry[i].state != 0)
			*crm_change_place(set, old.entry[i].id) = old.entry[i];
	if (old.entry != NULL)
		pfree(old.entry);
}

static IdEntry *
crm_change_mark(ChangeSet *set, int64 id, uint32 state)
{
	IdEntry *entry = crm_change_place(set, id);

	if (entry->state == 0)
	{
		uint32 bit = crm_hash64((uint64) id) >> (32 - SEEN_BITS);

		set->seen[bit / 64] |= UINT64CONST(1) << (bit % 64);
		if (set->n > set->mask / 2)
		{
			crm_change_resize(set, (set->mask + 1) * 2);
			entry = crm_change_place(set, id);
		}
		set->n++;
		entry->id = id;
		entry->number = SCAN_NO_RECORD;
	}
	entry->state |= ID_USED | state;
	return entry;
}

/* Of a pair that holds, whoever looks at it, if its records are there and have not changed. */
static bool
crm_pair_holds(const KnownPair *pair)
{
	return pair->state == PAIR_OPEN || pair->state == PAIR_IGNORED || pair->state == PAIR_SAME;
}

/* Records of pairs that are not told apart, or no more: what is known of them may be old. */
void
crm_change_again(MatchScan *scan, const KnownResult *known)
{
	scan->nagain = 0;
	scan->again = palloc_extended(sizeof(Datum) * Max((Size) known->npairs, 1), MCXT_ALLOC_HUGE);
	for (uint32 i = 0; i < known->npairs; i++)
		if (known->pair[i].changed && crm_pair_holds(&known->pair[i]))
			scan->again[scan->nagain++] = Int64GetDatum(known->pair[i].left);
}

/* A known record whose row was seen nowhere is gone. */
static void
crm_change_find_gone(MatchScan *scan, ChangeSet *set, const KnownResult *known)
{
	IdSet seen;

	crm_ids_init(&seen, 1024);
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
	{
		const ScanPart *part = &scan->shared->part[i];
		const IdPlace *place = crm_scan_get(scan, part->seen);

		for (uint32 j = 0; j < part->nseen; j++)
			if (place[j].bits != 0)
				crm_ids_add(&seen, place[j].high, place[j].bits);
	}
	for (uint32 i = 0; i < known->npairs; i++)
	{
		const KnownPair *pair = &known->pair[i];

		if (!crm_pair_holds(pair))
			continue;
		if (!crm_ids_have(&seen, pair->left))
			crm_change_mark(set, pair->left, ID_CHANGED | ID_GONE);
		if (!crm_ids_have(&seen, pair->right))
			crm_change_mark(set, pair->right, ID_CHANGED | ID_GONE);
	}
	for (uint32 i = 0; i < known->nmembers; i++)
		if (!known->member[i].merged && !crm_ids_have(&seen, known->member[i].record))
			crm_change_mark(set, known->member[i].record, ID_CHANGED | ID_GONE);
	pfree(seen.place);
}

static void
crm_change_touch_id(ChangeSet *set, int64 id)
{
	IdEntry *entry = crm_change_mark(set, id, 0);

	if ((entry->state & ID_TOUCHED) != 0)
		return;
	entry->state |= ID_TOUCHED;
	if (set->ntouched == set->touched_size)
	{
		set->touched_size = Max(set->touched_size * 2, 1024);
		set->touched =
			set->touched == NULL
				? palloc_extended(sizeof(int64) * (Size) set->touched_size, MCXT_ALLOC_HUGE)
				: repalloc_huge(set->touched, sizeof(int64) * (Size) set->touched_size);
	}
	set->touched[set->ntouched++] = id;
}

static void
crm_change_index_pairs(ChangeSet *set, const KnownResult *known)
{
	uint32 size = 1024;

	while (size < known->npairs && size < PG_UINT32_MAX / 4)
		size *= 2;
	set->last_mask = size - 1;
	set->last = palloc_extended(sizeof(uint32) * (Size) size, MCXT_ALLOC_HUGE);
	memset(set->last, 0xFF, sizeof(uint32) * (Size) size);
	set->before = palloc_extended(sizeof(uint32) * Max((Size) known->npairs, 1), MCXT_ALLOC_HUGE);
	for (uint32 i = 0; i < known->npairs; i++)
	{
		uint32 *last = &set->last[crm_hash64((uint64) known->pair[i].right) & set->last_mask];

		set->before[i] = *last;
		*last = i;
	}
}

/* Where the pairs begin whose left record has this id or a higher one. */
static uint32
crm_known_from(const KnownResult *known, int64 id)
{
	uint32 low = 0, high = known->npairs;

	while (low < high)
	{
		uint32 mid = low + (high - low) / 2;

		if (known->pair[mid].left < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* The pairs of a record, one after the other: NULL to begin, and at the end. */
static KnownPair *
crm_change_next_pair(const ChangeSet *set, KnownResult *known, int64 id, KnownPair *pair)
{
	uint32 i;

	if (pair == NULL || pair->left == id)
	{
		i = pair == NULL ? crm_known_from(known, id) : (uint32) (pair - known->pair) + 1;
		if (i < known->npairs && known->pair[i].left == id)
			return &known->pair[i];
		i = set->last[crm_hash64((uint64) id) & set->last_mask];
	}
	else
		i = set->before[pair - known->pair];
	while (i != NO_PAIR && known->pair[i].right != id)
		i = set->before[i];
	return i == NO_PAIR ? NULL : &known->pair[i];
}

/* A record that changed: what is known of its pairs holds no more. */
static void
crm_change_loosen(ChangeSet *set, KnownResult *known, int64 id, bool gone)
{
	for (KnownPair *pair = crm_change_next_pair(set, known, id, NULL); pair != NULL;
		 pair = crm_change_next_pair(set, known, id, pair))
	{
		pair->kept = false;
		if (pair->state != PAIR_SAME || gone)
			pair->joins = false;
		if (crm_pair_holds(pair))
			crm_change_touch_id(set, pair->left == id ? pair->right : pair->left);
	}
}

/* Records whose pairs or companions changed, or about whom somebody decided. */
static void
crm_change_seeds(ChangeSet *set, KnownResult *known, float4 threshold)
{
	uint32 nchanged;

	for (uint32 i = 0; i <= set->mask; i++)
		if ((set->entry[i].state & ID_CHANGED) != 0)
			crm_change_touch_id(set, set->entry[i].id);
	nchanged = set->ntouched;
	for (uint32 i = 0; i < known->nmembers;)
	{
		uint32 end = i;
		bool changed = false;

		for (; end < known->nmembers && known->member[end].cluster == known->member[i].cluster;
			 end++)
			changed = changed || (!known->member[end].merged &&
								  (crm_change_state(set, known->member[end].record) & ID_CHANGED));
		for (; i < end; i++)
			if (changed && !known->member[i].merged)
				crm_change_touch_id(set, known->member[i].record);
	}
	for (uint32 i = 0; i < known->npairs; i++)
	{
		KnownPair *pair = &known->pair[i];

		pair->kept = pair->score >= threshold;
		pair->joins = pair->state == PAIR_SAME || (pair->kept && crm_pair_holds(pair));
		if (pair->changed)
		{
			crm_change_touch_id(set, pair->left);
			crm_change_touch_id(set, pair->right);
		}
	}
	for (uint32 i = 0; i < nchanged; i++)
	{
		int64 id = set->touched[i];

		crm_change_loosen(set, known, id, (crm_change_state(set, id) & ID_GONE) != 0);
	}
}

/* Everything that hangs together with what is touched, is touched. */
static void
crm_change_spread(ChangeSet *set, KnownResult *known)
{
	for (; set->nspread < set->ntouched; set->nspread++)
	{
		int64 id = set->touched[set->nspread];

		CHECK_FOR_INTERRUPTS();
		for (KnownPair *pair = crm_change_next_pair(set, known, id, NULL); pair != NULL;
			 pair = crm_change_next_pair(set, known, id, pair))
			if (pair->joins)
				crm_change_touch_id(set, pair->left == id ? pair->right : pair->left);
	}
}

/* Which records changed or are gone, and what of that which is known they touch. */
ChangeSet *
crm_change_begin(MatchScan *scan, KnownResult *known, uint64 *nchanged)
{
	ScanShared *shared = scan->shared;
	ChangeSet *set = palloc0(sizeof(ChangeSet));

	crm_change_resize(set, 1024);
	for (int i = 0; i < SCAN_MAX_PARTS; i++)
	{
		const ChangedRecord *changed = crm_scan_get(scan, shared->part[i].changed);

		for (uint32 j = 0; j < shared->part[i].nchanged; j++)
			crm_change_mark(set, scan->id[changed[j].number], ID_CHANGED);
	}
	*nchanged = set->n;
	crm_change_find_gone(scan, set, known);
	CHECK_FOR_INTERRUPTS();
	crm_change_index_pairs(set, known);
	CHECK_FOR_INTERRUPTS();
	crm_change_seeds(set, known, (float4) crm_match_probability(shared->threshold));
	crm_change_spread(set, known);
	return set;
}

/*
 * The records that have features, and the edges found between them: a record that
 * two participants came across is one.
 */
void
crm_change_unify(MatchScan *scan, ChangeSet *set, MatchEdge *edge, uint32 nedges)
{
	for (uint32 i = 0; i < scan->nrecords; i++)
		if (scan->record[i] != SCAN_NO_RECORD)
		{
			IdEntry *entry = crm_change_mark(set, scan->id[i], 0);

			if (entry->number == SCAN_NO_RECORD)
				entry->number = i;
			else
				scan->record[i] = SCAN_NO_RECORD;
		}
	for (uint32 i = 0; i < nedges; i++)
	{
		edge[i].a = crm_change_place(set, scan->id[edge[i].a])->number;
		edge[i].b = crm_change_place(set, scan->id[edge[i].b])->number;
	}
}

/* What the edges found touch; with that it is known which clusters are kept. */
void
crm_change_touch(MatchScan *scan, ChangeSet *set, KnownResult *known, const MatchEdge *edge,
				 uint32 nedges)
{
	for (uint32 i = 0; i < nedges; i++)
	{
		crm_change_touch_id(set, scan->id[edge[i].a]);
		crm_change_touch_id(set, scan->id[edge[i].b]);
	}
	crm_change_spread(set, known);
	for (uint32 i = 0; i < known->nmembers; i++)
		known->member[i].kept = (crm_change_state(set, known->member[i].record) & ID_TOUCHED) == 0;
}

typedef struct ChangeKeep
{
	MatchScan *scan;
	ChangeSet *set;
	const MatchCounts *counts;
	MatchScratch *scratch;
} ChangeKeep;

static void
crm_change_keep(void *arg, int64 id, const MatchValue values[MATCH_NROLES])
{
	ChangeKeep *keep = arg;
	MatchRecord *record = crm_match_record(values, keep->scratch, NULL, NULL);

	crm_match_weigh_counts(record, keep->scan->shared->rows, keep->counts);
	crm_change_place(keep->set, id)->number = crm_scan_keep(keep->scan, id, record);
	pfree(record);
}

/* Reads the features of records that stand in components made anew. */
void
crm_change_fetch(MatchScan *scan, ChangeSet *set)
{
	ChangeKeep keep = {scan, set, crm_scan_frequencies(scan), crm_match_scratch()};
	Datum *ids = palloc_extended(sizeof(Datum) * ((Size) set->n + 1), MCXT_ALLOC_HUGE);
	uint32 n = 0;

	for (uint32 i = 0; i <= set->mask; i++)
		if ((set->entry[i].state & (ID_TOUCHED | ID_GONE)) == ID_TOUCHED &&
			set->entry[i].number == SCAN_NO_RECORD)
			ids[n++] = Int64GetDatum(set->entry[i].id);
	crm_rows_by_id(scan, ids, n, crm_change_keep, &keep);
	pfree(ids);
}

/* Edges of the components made anew: what was found now, and what of the known pairs holds. */
MatchEdge *
crm_change_edges(MatchScan *scan, const ChangeSet *set, const KnownResult *known,
				 const MatchEdge *found, uint32 nfound, uint32 *nedges)
{
	float threshold = scan->shared->threshold;
	EdgeList list = {0};

	for (uint32 i = 0; i < nfound; i++)
		crm_edge_add(&list, found[i].a, found[i].b, found[i].bits);
	for (uint32 i = 0; i < set->ntouched; i++)
	{
		int64 id = set->touched[i];
		const IdEntry *a = crm_change_place(set, id), *b;

		if (a->number == SCAN_NO_RECORD)
			continue;
		for (uint32 p = crm_known_from(known, id); p < known->npairs && known->pair[p].left == id;
			 p++)
		{
			const KnownPair *pair = &known->pair[p];
			float bits;

			if (!pair->joins || pair->state == PAIR_SAME)
				continue;
			b = crm_change_place(set, pair->right);
			if (b->number == SCAN_NO_RECORD)
				continue;
			bits = crm_scan_bits(scan, a->number, b->number, threshold);
			if (bits >= threshold)
				crm_edge_add(&list, a->number, b->number, bits);
		}
	}
	*nedges = list.n;
	return list.edge;
}

/* Pairs that stand untouched by the scan. */
uint64
crm_change_kept_pairs(const KnownResult *known)
{
	uint64 n = 0;

	for (uint32 i = 0; i < known->npairs; i++)
		n += known->pair[i].kept && crm_pair_holds(&known->pair[i]);
	return n;
}

/* Records in clusters untouched by the scan. */
uint64
crm_change_kept_members(const KnownResult *known)
{
	uint64 n = 0;

	for (uint32 i = 0; i < known->nmembers; i++)
		n += !known->member[i].merged && known->member[i].kept;
	return n;
}
