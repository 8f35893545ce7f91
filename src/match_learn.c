/*
 * match_learn.c
 *		Weights learned from a table, without anyone having labelled a pair.
 *
 * Fellegi and Sunter's weight of a level is log2(m / u): how often it is met in
 * pairs of one customer, against pairs of strangers.
 *
 * u is counted in pairs drawn at random.  It is not left to the estimation:
 * among pairs that share a telephone number, strangers are no fair sample, and
 * the classes drift until "same address" is what they are about.
 *
 * m is estimated in several sessions.  Each takes the pairs that agree in one
 * identifier (the anchor), weighs them by all other fields, and lets the EM
 * algorithm find the share of matches among them and how these agree.  What the
 * anchor is made of plays no part in its own session.  Pairs are counted by
 * pattern of levels, so that an iteration takes no longer for more pairs.
 *
 * Everything is deterministic: which rows are read depends on a hash of their
 * key and the seed, not on where they lie; pairs are drawn by a generator of
 * our own; sums run in the order of sorted patterns.
 */
#include "postgres.h"

#include <math.h>

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "crm.h"
#include "match.h"
#include "match_count.h"
#include "workspace.h"

#define RANDOM_PAIRS  300000
#define ANCHOR_PAIRS  200000 /* of one session */
#define ANCHOR_GROUP  12	 /* records that share an identifier; more say it is no identifier */
#define LEAST_MATCHES 50	 /* pairs of one customer without which nothing is learned */
#define LEAST_RANDOM  10	 /* random pairs without which u is not known */
#define DEFAULT_PAIRS 50	 /* so many pairs the default weight counts for */
#define ITERATIONS	  100
#define CONVERGED	  1e-7

/* What has levels of its own: the fields, but the two names of a person each by itself. */
#define SLOT_GIVEN_NAME	 FIELD_PERSON
#define SLOT_FAMILY_NAME FIELD_PRIOR /* the prior is no level of agreement */
#define NSLOTS			 MATCH_NFIELDS

#define SLOT_BIT(slot) (1u << (slot))

typedef struct Anchor
{
	MatchItem item;
	uint32 left_out; /* slots */
} Anchor;

static const Anchor anchors[] = {
	{ITEM_PHONE, SLOT_BIT(FIELD_PHONE)},
	{ITEM_EMAIL, SLOT_BIT(FIELD_EMAIL) | SLOT_BIT(FIELD_DOMAIN)},
	{ITEM_TAX_ID, SLOT_BIT(FIELD_TAX_ID)},
	{ITEM_NATIONAL_ID, SLOT_BIT(FIELD_NATIONAL_ID)},
	{ITEM_CORE, SLOT_BIT(FIELD_NAME) | SLOT_BIT(FIELD_BRANCH)},
	{ITEM_PERSON, SLOT_BIT(SLOT_GIVEN_NAME) | SLOT_BIT(SLOT_FAMILY_NAME)},
	{ITEM_BIRTH_DATE, SLOT_BIT(FIELD_BIRTH_DATE)},
	{ITEM_STREET, SLOT_BIT(FIELD_ADDRESS)},
};

/* A pair, or all pairs of one pattern: the level of each slot, and the evidence behind them. */
typedef struct Pattern
{
	uint8 level[NSLOTS];
	float evidence[NSLOTS];
	uint32 count;
} Pattern;

typedef struct Sample
{
	uint64 hash;
	MatchRecord *record;
} Sample;

typedef struct Learner
{
	MemoryContext context;
	MatchScorer scorer;
	Sample *row;
	int nrows;
	uint64 seed;
	double random[NSLOTS][MATCH_NLEVELS]; /* random pairs */
	double known[NSLOTS];				  /* ... in which the slot was compared */
	double matched[NSLOTS][MATCH_NLEVELS];
	double matched_evidence[NSLOTS][MATCH_NLEVELS];
	double matches[NSLOTS];
	double all_matches;
} Learner;

/* splitmix64 (public domain, Vigna): small, and the same everywhere. */
static uint64
crm_learn_random(uint64 *state)
{
	uint64 z = (*state += UINT64CONST(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

static uint64
crm_learn_hash(uint64 seed, const char *key)
{
	uint64 state = seed;

	for (; *key != '\0'; key++)
		state = (state ^ (unsigned char) *key) * UINT64CONST(0x100000001B3);
	return crm_learn_random(&state);
}

static int
crm_cmp_sample(const void *a, const void *b)
{
	uint64 x = ((const Sample *) a)->hash, y = ((const Sample *) b)->hash;

	return x < y ? -1 : x > y;
}

/* Of the rows read so far, those whose hash is in the lower half of the range in use. */
static void
crm_halve_sample(Learner *learner, uint64 limit)
{
	int n = 0;

	for (int i = 0; i < learner->nrows; i++)
		if (learner->row[i].hash <= limit)
			learner->row[n++] = learner->row[i];
		else
			pfree(learner->row[i].record);
	learner->nrows = n;
}

/* Reads at most max_rows rows, chosen by the hash of their primary key. */
static void
crm_read_sample(Learner *learner, Relation rel, const MatchColumns *columns, int max_rows)
{
	AttrNumber key = get_attnum(RelationGetRelid(rel), crm_match_key_column(rel));
	MatchScratch *scratch = crm_match_scratch();
	MemoryContext row_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm learn row", ALLOCSET_DEFAULT_SIZES);
	TableScanDesc scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	uint64 limit = PG_UINT64_MAX;
	Oid output;
	bool varlena;

	getTypeOutputInfo(TupleDescAttr(RelationGetDescr(rel), key - 1)->atttypid, &output, &varlena);
	learner->row = MemoryContextAllocHuge(learner->context, sizeof(Sample) * ((Size) max_rows + 1));
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);
		MatchValue values[MATCH_NROLES] = {0};
		MatchRecord *record, *copy;
		bool isnull;
		uint64 hash = crm_learn_hash(
			learner->seed, OidOutputFunctionCall(output, slot_getattr(slot, key, &isnull)));

		CHECK_FOR_INTERRUPTS();
		if (hash <= limit)
		{
			crm_match_slot_values(columns, slot, values);
			record = crm_match_record(values, scratch, NULL, NULL);
			copy = MemoryContextAlloc(learner->context, record->size);
			memcpy(copy, record, record->size);
			learner->row[learner->nrows].hash = hash;
			learner->row[learner->nrows++].record = copy;
			while (learner->nrows > max_rows)
			{
				limit /= 2;
				crm_halve_sample(learner, limit);
			}
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	MemoryContextDelete(row_context);
	qsort(learner->row, learner->nrows, sizeof(Sample), crm_cmp_sample);
}

/* The learned frequencies; of a table that was never analysed, those of the sample. */
static void
crm_weigh_sample(Learner *learner, Oid relid)
{
	const MatchStats *stats = crm_match_stats(relid);
	MatchCounts *counts;

	if (crm_match_rows(stats) > 0)
	{
		for (int i = 0; i < learner->nrows; i++)
			crm_match_weigh(learner->row[i].record, stats);
		crm_match_scorer(&learner->scorer, &crm_default_match_model, crm_match_rows(stats));
		return;
	}
	counts = crm_counts_create(learner->context, 4 * 1024 * 1024, 0);
	for (int i = 0; i < learner->nrows; i++)
	{
		MatchRecord *record = learner->row[i].record;

		for (int item = 0; item < MATCH_NITEMS; item++)
			if (record->item[item] != 0)
				crm_counts_add(counts, record->item[item]);
		for (int g = 0; g < record->nname; g++)
			crm_counts_add(counts, MATCH_NAME_GRAMS(record)[g]);
		for (int g = 0; g < record->nstreet; g++)
			crm_counts_add(counts, MATCH_STREET_GRAMS(record)[g]);
	}
	for (int i = 0; i < learner->nrows; i++)
		crm_match_weigh_counts(learner->row[i].record, learner->nrows, counts);
	crm_match_scorer(&learner->scorer, &crm_default_match_model, learner->nrows);
}

static void
crm_pattern(const Learner *learner, int a, int b, Pattern *pattern)
{
	const MatchWeight *weight = learner->scorer.model.level;
	MatchScore score;

	crm_match_compare(&learner->scorer, learner->row[a].record, learner->row[b].record, &score);
	/* These have no level for agreement. */
	score.level[FIELD_BRANCH] = score.level[FIELD_BUSINESS] = score.level[FIELD_LEGAL_FORM] =
		score.level[FIELD_GENERATION] = LEVEL_NONE;
	if (score.level[FIELD_PERSON] == PERSON_SWAPPED)
		score.part_level[0] = score.part_level[1] = LEVEL_NONE;
	score.level[SLOT_GIVEN_NAME] = score.part_level[0];
	score.weight[SLOT_GIVEN_NAME] = score.part_weight[0];
	score.level[SLOT_FAMILY_NAME] = score.part_level[1];
	score.weight[SLOT_FAMILY_NAME] = score.part_weight[1];
	pattern->count = 1;
	for (int slot = 0; slot < NSLOTS; slot++)
	{
		MatchLevel level = score.level[slot];

		pattern->level[slot] = (uint8) level;
		pattern->evidence[slot] =
			level != LEVEL_NONE && weight[level].rarity > 0
				? (float) ((score.weight[slot] - weight[level].weight) / weight[level].rarity)
				: 0;
	}
}

static void
crm_learn_random_pairs(Learner *learner)
{
	uint64 state = learner->seed;
	Pattern pattern;

	for (int i = 0; i < RANDOM_PAIRS; i++)
	{
		int a = (int) (crm_learn_random(&state) % learner->nrows);
		int b = (int) (crm_learn_random(&state) % learner->nrows);

		CHECK_FOR_INTERRUPTS();
		if (a == b)
			continue;
		crm_pattern(learner, a, b, &pattern);
		for (int slot = 0; slot < NSLOTS; slot++)
			if (pattern.level[slot] != LEVEL_NONE)
			{
				learner->random[slot][pattern.level[slot]]++;
				learner->known[slot]++;
			}
	}
}

/* How often strangers are found at a level of a slot; never 0. */
static double
crm_learn_u(const Learner *learner, int slot, MatchLevel level)
{
	return (learner->random[slot][level] + 0.5) / (learner->known[slot] + 5);
}

static int
crm_cmp_pattern(const void *a, const void *b)
{
	return memcmp(((const Pattern *) a)->level, ((const Pattern *) b)->level, NSLOTS);
}

typedef struct AnchorHash
{
	uint32 hash;
	int row;
} AnchorHash;

static int
crm_cmp_anchor(const void *a, const void *b)
{
	const AnchorHash *x = a, *y = b;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	return x->row - y->row;
}

/* The pairs that agree in the anchor, as sorted patterns. */
static int
crm_anchor_patterns(const Learner *learner, const Anchor *anchor, Pattern *pattern)
{
	AnchorHash *by_hash =
		palloc_extended(sizeof(AnchorHash) * Max(learner->nrows, 1), MCXT_ALLOC_HUGE);
	int n = 0, npairs = 0, distinct = 0;

	for (int i = 0; i < learner->nrows; i++)
		if (learner->row[i].record->item[anchor->item] != 0)
		{
			by_hash[n].hash = learner->row[i].record->item[anchor->item];
			by_hash[n++].row = i;
		}
	qsort(by_hash, n, sizeof(AnchorHash), crm_cmp_anchor);
	for (int i = 0, j; i < n; i = j)
	{
		CHECK_FOR_INTERRUPTS();
		for (j = i + 1; j < n && by_hash[j].hash == by_hash[i].hash; j++)
			;
		if (j - i > ANCHOR_GROUP)
			continue;
		for (int x = i; x < j; x++)
			for (int y = i; y < x && npairs < ANCHOR_PAIRS; y++)
			{
				crm_pattern(learner, by_hash[x].row, by_hash[y].row, &pattern[npairs]);
				for (int slot = 0; slot < NSLOTS; slot++)
					if (anchor->left_out & SLOT_BIT(slot))
						pattern[npairs].level[slot] = LEVEL_NONE;
				npairs++;
			}
	}
	pfree(by_hash);
	qsort(pattern, npairs, sizeof(Pattern), crm_cmp_pattern);
	for (int i = 0; i < npairs; i++)
		if (distinct > 0 && crm_cmp_pattern(&pattern[distinct - 1], &pattern[i]) == 0)
		{
			pattern[distinct - 1].count++;
			for (int slot = 0; slot < NSLOTS; slot++)
				pattern[distinct - 1].evidence[slot] += pattern[i].evidence[slot];
		}
		else
			pattern[distinct++] = pattern[i];
	return distinct;
}

/*
 * EM over the patterns of one session.  u is fixed; what is estimated is m and
 * the share of matches.  m starts from what the default weights say.
 */
static void
crm_learn_session(Learner *learner, const Pattern *pattern, int npatterns)
{
	double(*m)[MATCH_NLEVELS] = palloc0(sizeof(double) * NSLOTS * MATCH_NLEVELS);
	double(*sum)[MATCH_NLEVELS] = palloc(sizeof(double) * NSLOTS * MATCH_NLEVELS);
	double *match = palloc(sizeof(double) * npatterns); /* probability */
	double share = 0.5, pairs = 0, found = 0;

	for (int i = 0; i < npatterns; i++)
	{
		pairs += pattern[i].count;
		for (int slot = 0; slot < NSLOTS; slot++)
		{
			MatchLevel level = pattern[i].level[slot];
			const MatchWeight *weight = &learner->scorer.model.level[level];

			if (level != LEVEL_NONE)
				m[slot][level] +=
					pattern[i].count * crm_learn_u(learner, slot, level) *
					exp2(Min(weight->weight +
								 weight->rarity * pattern[i].evidence[slot] / pattern[i].count,
							 20.0));
		}
	}
	for (int iteration = 0; iteration <= ITERATIONS; iteration++)
	{
		double last = share;

		CHECK_FOR_INTERRUPTS();
		for (int slot = 0; slot < NSLOTS; slot++)
		{
			double total = 0;

			for (int level = 1; level < MATCH_NLEVELS; level++)
				total += m[slot][level];
			/* A level that was not met is not impossible. */
			for (int level = 1; level < MATCH_NLEVELS; level++)
				if (total > 0)
					m[slot][level] = Max(m[slot][level] / total, 1e-6);
		}
		memset(sum, 0, sizeof(double) * NSLOTS * MATCH_NLEVELS);
		found = 0;
		for (int i = 0; i < npatterns; i++)
		{
			double odds = log2(share / (1 - share));

			for (int slot = 0; slot < NSLOTS; slot++)
				if (pattern[i].level[slot] != LEVEL_NONE)
					odds += log2(m[slot][pattern[i].level[slot]] /
								 crm_learn_u(learner, slot, pattern[i].level[slot]));
			match[i] = crm_match_probability(odds);
			found += match[i] * pattern[i].count;
			for (int slot = 0; slot < NSLOTS; slot++)
				sum[slot][pattern[i].level[slot]] += match[i] * pattern[i].count;
		}
		share = Min(Max(found / pairs, 1e-6), 1 - 1e-6);
		if (iteration == ITERATIONS || fabs(share - last) < CONVERGED)
			break;
		memcpy(m, sum, sizeof(double) * NSLOTS * MATCH_NLEVELS);
	}
	for (int i = 0; i < npatterns; i++)
		for (int slot = 0; slot < NSLOTS; slot++)
			if (pattern[i].level[slot] != LEVEL_NONE)
			{
				learner->matched_evidence[slot][pattern[i].level[slot]] +=
					match[i] * pattern[i].evidence[slot];
				learner->matched[slot][pattern[i].level[slot]] += match[i] * pattern[i].count;
				learner->matches[slot] += match[i] * pattern[i].count;
			}
	learner->all_matches += found;
	pfree(m);
	pfree(sum);
	pfree(match);
}

/* Levels whose evidence is the rarity of one value: strangers agree on it as often as it occurs. */
static bool
crm_level_is_exact(MatchLevel level)
{
	return level == NAME_EQUAL || level == PERSON_EQUAL || level == BIRTH_DATE_EQUAL ||
		   level == NATIONAL_ID_EQUAL || level == TAX_ID_EQUAL || level == PHONE_EQUAL ||
		   level == EMAIL_EQUAL || level == ADDRESS_EQUAL;
}

typedef struct Learned
{
	double weight;
	double pairs; /* of matches at this level; 0 = not learned */
	double m;
	double u;
} Learned;

static Learned
crm_learned(const Learner *learner, MatchLevel level)
{
	const MatchWeight *known = &learner->scorer.model.level[level];
	MatchField field = crm_match_level_field(level);
	int slots[2] = {field, field == FIELD_PERSON ? SLOT_FAMILY_NAME : field};
	double matched = 0, matches = 0, evidence = 0, random = 0, compared = 0;
	Learned result = {.weight = known->weight};

	if (field == FIELD_PRIOR || field == FIELD_BRANCH || field == FIELD_BUSINESS ||
		field == FIELD_LEGAL_FORM || field == FIELD_GENERATION || level == PERSON_SWAPPED)
		return result;
	for (int i = 0; i < (field == FIELD_PERSON ? 2 : 1); i++)
	{
		matched += learner->matched[slots[i]][level];
		matches += learner->matches[slots[i]];
		evidence += learner->matched_evidence[slots[i]][level];
		random += learner->random[slots[i]][level];
		compared += learner->known[slots[i]];
	}
	if (matches < LEAST_MATCHES ||
		random + (crm_level_is_exact(level) ? matched : 0) < LEAST_RANDOM)
		return result;
	result.pairs = matched;
	result.m = (matched + 0.5) / (matches + 5);
	result.u = (random + 0.5) / (compared + 5);
	result.weight = crm_level_is_exact(level) ? log2(result.m) : log2(result.m / result.u);
	if (matched > 0 && !crm_level_is_exact(level))
		result.weight -= known->rarity * evidence / matched;
	/* Rarely met is little known. */
	result.weight =
		(matches * result.weight + DEFAULT_PAIRS * known->weight) / (matches + DEFAULT_PAIRS);
	result.weight = Min(Max(result.weight, -MATCH_WEIGHT_MOST), MATCH_WEIGHT_MOST);
	return result;
}

/*
 * crm._learn_matching(relation, max_rows, seed) -> (field, level, weight, rarity, source)
 *		The SQL around it checks permission and stores.
 */
PG_FUNCTION_INFO_V1(crm_learn_matching);
Datum
crm_learn_matching(PG_FUNCTION_ARGS)
{
	Oid relid = PG_GETARG_OID(0);
	int32 max_rows = PG_GETARG_INT32(1);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Learner *learner;
	Relation rel;
	Pattern *pattern;
	MemoryContext context;

	if (max_rows < 100 || max_rows > 10000000)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("max_rows must be between 100 and 10000000")));
	InitMaterializedSRF(fcinfo, 0);
	context = AllocSetContextCreate(CurrentMemoryContext, "crm learn", ALLOCSET_DEFAULT_SIZES);
	learner = MemoryContextAllocZero(context, sizeof(Learner));
	learner->context = context;
	learner->seed = (uint64) (int64) PG_GETARG_INT32(2);
	rel = crm_table_open(relid, AccessShareLock);
	crm_read_sample(learner, rel, crm_match_columns(rel, false), max_rows);
	table_close(rel, NoLock);
	if (learner->nrows > 1)
	{
		crm_weigh_sample(learner, relid);
		crm_learn_random_pairs(learner);
		pattern = MemoryContextAllocHuge(context, sizeof(Pattern) * ANCHOR_PAIRS);
		for (int i = 0; i < (int) lengthof(anchors); i++)
		{
			int n = crm_anchor_patterns(learner, &anchors[i], pattern);

			if (n > 0)
				crm_learn_session(learner, pattern, n);
		}
	}
	if (learner->all_matches < LEAST_MATCHES)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has too few duplicates to learn from", get_rel_name(relid)),
				 errdetail("Of %d rows, about %.0f pairs mean the same; %d are needed.",
						   learner->nrows, learner->all_matches, LEAST_MATCHES),
				 errhint("What crm brings along works untrained.")));
	for (int level = LEVEL_NONE + 1; level < MATCH_NLEVELS; level++)
	{
		Learned learned = crm_learned(learner, level);
		Datum values[5];
		bool nulls[5] = {false, false, false, false, false};

		values[0] = CStringGetTextDatum(crm_match_field_name(crm_match_level_field(level)));
		values[1] = CStringGetTextDatum(crm_match_level_name(level));
		values[2] = Float4GetDatum((float4) learned.weight);
		values[3] = Float4GetDatum(crm_default_match_model.level[level].rarity);
		values[4] =
			CStringGetTextDatum(learned.m > 0 ? psprintf("learned: m %.5f, u %.7f, %.0f pairs",
														 learned.m, learned.u, learned.pairs)
											  : "default");
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	MemoryContextDelete(context);
	return (Datum) 0;
}
