/*
 * match_search.c
 *		Rows of a table that may mean the same as a record.
 *
 * A row is worth a look for the keys that it shares with the record, each by how
 * rare it is.  The posting lists of the record's keys are added up, the rarest
 * first: as long as the lists are short, their rows become candidates; what is
 * commoner only adds to the weight of those.  Then the candidates' rows are
 * fetched in the order of their weights and scored, until what is left cannot
 * compare with what was found.  So the work has a bound whatever the table and
 * the record, and what that costs is told: truncated.
 *
 * How common a key is, its posting list says itself, as of now.  Statistics
 * play their part in the score only.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "match.h"
#include "match_count.h"
#include "match_posting.h"
#include "match_search.h"

/*
 * How far a search goes: what shares something rare at first, then what is
 * commoner, unless a row found convinces.
 */
typedef struct SearchEffort
{
	int rows;	 /* of the rarest keys, which become candidates */
	int support; /* of commoner keys, which are read to weigh those */
} SearchEffort;

static const SearchEffort efforts[] = {{100, 0}, {4000, 20000}};

#define CANDIDATE_ROWS 4000 /* of the last effort */
#define SLOT_BITS	   14
#define SLOTS		   (1 << SLOT_BITS) /* more than 2 * CANDIDATE_ROWS */
#define CHUNK		   16				/* candidates fetched at a time */
#define MIN_SCORED	   160				/* candidates scored, unless better ones were found */
#define MAX_LOOKED_AT  2000				/* at most, when rows are hidden or many are wanted */
#define SAID_BITS	   (-3.0) /* an identifier agrees: reported unless more than this speaks against */
#define CONVINCING	   0.87 /* of the evidence that the record itself would give */
#define HOPELESS	   0.5	/* of the key weight of a convincing row: not looked at any more */

typedef struct Candidate
{
	uint64 row;	  /* its tid, so that it can be compared; 0 = free slot */
	float weight; /* bits */
	bool exact;	  /* shares an identifier */
} Candidate;

/*
 * The table in which posting lists are added up: kept, because it is large.  All
 * slots are free between searches, unless an error ended one.
 */
static Candidate *slots = NULL;
static bool slots_dirty = true;

struct MatchSearch
{
	Relation rel;
	Relation index;
	const MatchColumns *columns;
	const MatchScorer *scorer;
	const MatchStats *stats;
	Snapshot snapshot;
	AttrNumber id;
	FmgrInfo id_out;
	int16 id_len;
	bool id_by_value;
	MatchScratch *scratch;
	MatchPostings *postings;
	IndexFetchTableData *fetch;
	TupleTableSlot *slot[CHUNK];
	MemoryContext context;
	MemoryContext call_context; /* of one search */
	MemoryContext row_context;
	double rows; /* of the table, about */
	int ncandidates;
	uint16 used[CANDIDATE_ROWS];
	/* the key being read */
	float key_weight;
	bool key_exact;
	bool key_adds; /* its rows become candidates */
	int64 key_left;
};

MatchSearch *
crm_search_begin(Relation rel, const MatchColumns *columns, AttrNumber id,
				 const MatchScorer *scorer, Snapshot snapshot)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match search", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	MatchSearch *search = palloc0(sizeof(MatchSearch));
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), id - 1);
	Oid output;
	bool varlena;

	search->context = context;
	search->rel = rel;
	search->index = index_open(columns->indexid, AccessShareLock);
	search->columns = columns;
	search->scorer = scorer;
	search->stats = crm_match_stats(RelationGetRelid(rel));
	search->snapshot = snapshot;
	search->id = id;
	search->id_len = att->attlen;
	search->id_by_value = att->attbyval;
	getTypeOutputInfo(att->atttypid, &output, &varlena);
	fmgr_info(output, &search->id_out);
	search->scratch = crm_match_scratch();
	search->postings = crm_postings_begin(search->index, snapshot);
	search->fetch = table_index_fetch_begin(rel);
	for (int i = 0; i < CHUNK; i++)
		search->slot[i] = table_slot_create(rel, NULL);
	search->rows = Max(Max(rel->rd_rel->reltuples, crm_match_rows(search->stats)), 0);
	search->call_context =
		AllocSetContextCreate(context, "crm match search call", ALLOCSET_DEFAULT_SIZES);
	search->row_context =
		AllocSetContextCreate(context, "crm match candidate", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(old);
	return search;
}

void
crm_search_end(MatchSearch *search)
{
	for (int i = 0; i < CHUNK; i++)
		ExecDropSingleTupleTableSlot(search->slot[i]);
	table_index_fetch_end(search->fetch);
	index_close(search->index, AccessShareLock);
	MemoryContextDelete(search->context);
}

/* ---------------------------------------------------------------------
 * Candidates
 * ---------------------------------------------------------------------
 */

static inline uint64
crm_row_of(const ItemPointerData *tid)
{
	return ((uint64) ItemPointerGetBlockNumberNoCheck(tid) << 16) |
		   ItemPointerGetOffsetNumberNoCheck(tid);
}

static inline void
crm_row_tid(uint64 row, ItemPointer tid)
{
	ItemPointerSet(tid, (BlockNumber) (row >> 16), (OffsetNumber) row);
}

static inline uint32
crm_slot_of(uint64 row)
{
	return (uint32) ((row * UINT64CONST(0x9E3779B97F4A7C15)) >> (64 - SLOT_BITS));
}

static void
crm_slots_prepare(void)
{
	if (slots == NULL)
		slots = MemoryContextAlloc(
			AllocSetContextCreate(TopMemoryContext, "crm match candidates", ALLOCSET_SMALL_SIZES),
			sizeof(Candidate) * SLOTS);
	if (!slots_dirty)
		return;
	memset(slots, 0, sizeof(Candidate) * SLOTS);
	slots_dirty = false;
}

static bool
crm_search_read(void *arg, ItemPointer items, int nitems)
{
	MatchSearch *search = arg;

	for (int i = 0; i < nitems; i++)
	{
		uint64 row = crm_row_of(&items[i]);
		uint32 s = crm_slot_of(row);

		while (slots[s].row != 0 && slots[s].row != row)
			s = (s + 1) % SLOTS;
		if (slots[s].row == 0)
		{
			if (!search->key_adds)
				continue;
			if (search->ncandidates == CANDIDATE_ROWS)
				return false;
			slots[s].row = row;
			slots[s].weight = 0;
			slots[s].exact = false;
			search->used[search->ncandidates++] = (uint16) s;
		}
		slots[s].weight += search->key_weight;
		slots[s].exact = slots[s].exact || search->key_exact;
	}
	search->key_left -= nitems;
	return search->key_left > 0;
}

typedef struct RankedKey
{
	MatchPosting *posting;
	const MatchKey *key;
} RankedKey;

static int
crm_cmp_ranked(const void *a, const void *b)
{
	const RankedKey *x = a, *y = b;

	if (x->posting->rows != y->posting->rows)
		return x->posting->rows < y->posting->rows ? -1 : 1;
	return x->posting->key < y->posting->key ? -1 : x->posting->key > y->posting->key;
}

#define ST_SORT			crm_sort_candidates
#define ST_ELEMENT_TYPE Candidate
#define ST_COMPARE(a, b)                                               \
	((a)->weight != (b)->weight ? ((a)->weight > (b)->weight ? -1 : 1) \
	 : (a)->row < (b)->row		? -1                                   \
								: (a)->row > (b)->row)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

/* The keys of a record that any row has, the rarest first. */
static RankedKey *
crm_search_keys(MatchSearch *search, const MatchQuery *query, int *n)
{
	MatchPosting *list = palloc(sizeof(MatchPosting) * query->nkeys);
	RankedKey *ranked = palloc(sizeof(RankedKey) * query->nkeys);

	for (int i = 0; i < query->nkeys; i++)
		list[i].key = query->keys[i].hash;
	crm_postings_look_up(search->postings, list, query->nkeys);
	*n = 0;
	for (int i = 0; i < query->nkeys; i++)
		if (list[i].rows > 0)
		{
			ranked[*n].posting = &list[i];
			ranked[(*n)++].key = &query->keys[i];
		}
	qsort(ranked, *n, sizeof(RankedKey), crm_cmp_ranked);
	return ranked;
}

#define WEIGHT_STEPS 1024 /* quarters of a bit */

static inline int
crm_weight_step(float weight)
{
	return Min((int) (weight * 4), WEIGHT_STEPS - 1);
}

/* The candidates that may be looked at, the heaviest first; *left tells that others share an
 * identifier. */
static Candidate *
crm_search_heaviest(MatchSearch *search, int *n, bool *left)
{
	int step[WEIGHT_STEPS] = {0};
	int lightest = WEIGHT_STEPS, taken = 0;
	Candidate *result;

	for (int i = 0; i < search->ncandidates; i++)
		step[crm_weight_step(slots[search->used[i]].weight)]++;
	while (lightest > 0 && taken < MAX_LOOKED_AT)
		taken += step[--lightest];
	result = palloc(sizeof(Candidate) * Max(taken, 1));
	*n = 0;
	for (int i = 0; i < search->ncandidates; i++)
	{
		Candidate *candidate = &slots[search->used[i]];

		if (crm_weight_step(candidate->weight) >= lightest)
			result[(*n)++] = *candidate;
		else
			*left = *left || candidate->exact;
		candidate->row = 0;
	}
	crm_sort_candidates(result, *n);
	return result;
}

/*
 * Adds up posting lists.  Keys of as many rows together as the effort allows make
 * candidates, or the rarest alone; of others some are read to weigh them.  The
 * candidates come heaviest first.  *truncated tells that an identifier is so
 * common that not all its rows are among them.
 */
static Candidate *
crm_search_candidates(MatchSearch *search, const RankedKey *keys, int nkeys,
					  const SearchEffort *effort, int *n, bool *truncated)
{
	Candidate *result;
	double rows = 0;
	int64 support = 0;

	crm_slots_prepare();
	slots_dirty = true;
	search->ncandidates = 0;
	*truncated = false;
	for (int i = 0; i < nkeys; i++)
	{
		const MatchPosting *posting = keys[i].posting;
		const MatchKey *key = keys[i].key;
		double bits = crm_match_rarity_of(search->rows, posting->rows, key->default_bits);

		search->key_exact = key->strength == MATCH_KEY_IDENTIFIER;
		/* Keys that overlap say less than as many that do not. */
		search->key_weight = (float) (Max(bits, 0.1) / sqrt(key->parts));
		search->key_adds = i == 0 || rows + posting->rows <= effort->rows;
		if (search->key_adds)
		{
			rows += posting->rows;
			search->key_left = effort->rows;
			*truncated = *truncated || posting->rows > effort->rows;
		}
		else
		{
			*truncated = *truncated || search->key_exact;
			/* When all candidates will be looked at there is no need to weigh them. */
			if (search->ncandidates <= CHUNK || support + posting->rows > effort->support)
				continue;
			search->key_left = effort->support - support;
			support = effort->support;
		}
		crm_postings_read(search->postings, posting, crm_search_read, search);
		/* What is read counts, not what the size of a tree was taken for. */
		if (!search->key_adds)
			support -= Max(search->key_left, 0);
	}

	result = crm_search_heaviest(search, n, truncated);
	slots_dirty = false;
	return result;
}

/* ---------------------------------------------------------------------
 * Scoring
 * ---------------------------------------------------------------------
 */

/*
 * More speaks for it than against, or an identifier agrees: half the table may
 * share it, and then it is no evidence, but whoever asks for it wants to see it.
 */
static bool
crm_worth_reporting(const MatchScore *score)
{
	static const MatchLevel identifiers[] = {NAME_EQUAL,  PERSON_EQUAL, PHONE_EQUAL,
											 EMAIL_EQUAL, TAX_ID_EQUAL, NATIONAL_ID_EQUAL};
	double evidence = score->bits - score->weight[FIELD_PRIOR];

	for (int i = 0; i < (int) lengthof(identifiers); i++)
		if (score->level[crm_match_level_field(identifiers[i])] == identifiers[i] &&
			evidence > SAID_BITS)
			return true;
	return evidence >= 0;
}

/* Features of the fetched row, of the fields that the searched record has too. */
static MatchRecord *
crm_search_record(MatchSearch *search, TupleTableSlot *slot, uint32 roles)
{
	const MatchColumns *columns = search->columns;
	MatchValue values[MATCH_NROLES] = {0};
	MatchRecord *record;

	for (int c = 0; c < columns->ncolumns; c++)
	{
		bool isnull;
		Datum datum;
		MatchValue value;

		if ((roles & (1u << columns->role[c])) == 0)
			continue;
		datum = slot_getattr(slot, columns->attnum[c], &isnull);
		if (!isnull && crm_match_value(datum, columns->type[c], &value))
			values[columns->role[c]] = value;
	}
	record = crm_match_record(values, search->scratch, NULL, NULL);
	crm_match_weigh(record, search->stats);
	return record;
}

/* Scores the row in the slot; true = *hit is to be reported. */
static bool
crm_search_score(MatchSearch *search, const MatchQuery *query, TupleTableSlot *slot, MatchHit *hit)
{
	MemoryContext old = MemoryContextSwitchTo(search->row_context);
	bool isnull, worth;
	Datum id = slot_getattr(slot, search->id, &isnull);

	worth = !isnull && (query->self == NULL ||
						strcmp(OutputFunctionCall(&search->id_out, id), query->self) != 0);
	if (worth)
	{
		crm_match_score(search->scorer, query->record,
						crm_search_record(search, slot, query->roles), &hit->score);
		worth = crm_worth_reporting(&hit->score);
	}
	MemoryContextSwitchTo(old);
	if (worth)
	{
		hit->tid = slot->tts_tid;
		hit->id = datumCopy(id, search->id_by_value, search->id_len);
	}
	MemoryContextReset(search->row_context);
	return worth;
}

static int
crm_cmp_hit(const void *a, const void *b)
{
	const MatchHit *x = a, *y = b;

	if (x->score.bits != y->score.bits)
		return x->score.bits > y->score.bits ? -1 : 1;
	return ItemPointerCompare(unconstify(ItemPointerData *, &x->tid),
							  unconstify(ItemPointerData *, &y->tid));
}

/* What a search knows while it goes on. */
typedef struct SearchState
{
	const MatchQuery *query;
	MatchFilter filter;
	void *arg;
	double convincing; /* bits from which nothing better is looked for */
	MatchHit *hits;
	int nhits;
	int room;		   /* for hits */
	int scored;		   /* with the present effort */
	double best;	   /* of the hits */
	float best_weight; /* of its candidate */
	uint64 *looked_at; /* rows; those of earlier efforts ascending */
	int nlooked_at;
	int nearlier;
} SearchState;

#define ST_SORT			 crm_sort_rows
#define ST_ELEMENT_TYPE	 uint64
#define ST_COMPARE(a, b) (*(a) < *(b) ? -1 : *(a) > *(b))
#define ST_SCOPE		 static
#define ST_DEFINE
#include "lib/sort_template.h"

static bool
crm_looked_at(const SearchState *state, uint64 row)
{
	int low = 0, high = state->nearlier;

	while (low < high)
	{
		int mid = (low + high) / 2;

		if (state->looked_at[mid] < row)
			low = mid + 1;
		else
			high = mid;
	}
	return low < state->nearlier && state->looked_at[low] == row;
}

/* Fetches and scores some candidates. */
static void
crm_search_chunk(MatchSearch *search, SearchState *state, const Candidate *candidate, int n)
{
	ItemPointerData tids[CHUNK];
	float weight[CHUNK];
	bool keep[CHUNK] = {false};
	int found = 0;

	CHECK_FOR_INTERRUPTS();
	if (state->nhits + n > state->room)
	{
		state->room *= 2;
		state->hits = repalloc(state->hits, sizeof(MatchHit) * state->room);
	}
	for (int i = 0; i < n; i++)
	{
		bool again = false, dead;
		ItemPointerData tid;

		/* Of a chain of versions the snapshot sees one; its place is then in the slot. */
		state->looked_at[state->nlooked_at++] = candidate[i].row;
		crm_row_tid(candidate[i].row, &tid);
		if (!table_index_fetch_tuple(search->fetch, &tid, search->snapshot, search->slot[found],
									 &again, &dead))
			continue;
		tids[found] = search->slot[found]->tts_tid;
		weight[found] = candidate[i].weight;
		keep[found++] = true;
	}
	if (state->filter != NULL && found > 0)
		state->filter(state->arg, tids, found, keep);
	for (int i = 0; i < found; i++)
	{
		MatchHit *hit = &state->hits[state->nhits];

		if (!keep[i])
			continue;
		state->scored++;
		if (!crm_search_score(search, state->query, search->slot[i], hit))
			continue;
		if (hit->score.bits > state->best)
		{
			state->best = hit->score.bits;
			state->best_weight = weight[i];
		}
		state->nhits++;
	}
	for (int i = 0; i < found; i++)
		ExecClearTuple(search->slot[i]);
}

/* Scores candidates until enough were or the rest is hopeless; true = identifiers were left. */
static bool
crm_search_candidates_score(MatchSearch *search, SearchState *state, const Candidate *candidate,
							int n)
{
	int wanted = Max(MIN_SCORED, 2 * state->query->wanted);
	int i = 0;

	state->scored = 0;
	state->nearlier = state->nlooked_at;
	crm_sort_rows(state->looked_at, state->nearlier);
	while (state->nlooked_at < MAX_LOOKED_AT && state->scored < wanted)
	{
		Candidate chunk[CHUNK];
		int filled = 0;

		if (i < n && state->best >= state->convincing &&
			candidate[i].weight < HOPELESS * state->best_weight)
			break;
		for (; i < n && filled < CHUNK; i++)
			if (!crm_looked_at(state, candidate[i].row))
				chunk[filled++] = candidate[i];
		if (filled == 0)
			break;
		crm_search_chunk(search, state, chunk, filled);
	}
	for (; i < n; i++)
		if (candidate[i].exact && !crm_looked_at(state, candidate[i].row))
			return true;
	return false;
}

MatchHit *
crm_search(MatchSearch *search, const MatchQuery *query, MatchFilter filter, void *arg, int *nhits,
		   bool *truncated)
{
	SearchState state = {query, filter, arg};
	MemoryContext old;
	MatchScore own;
	RankedKey *keys;
	int nkeys;

	*nhits = 0;
	*truncated = false;
	MemoryContextReset(search->call_context);
	if (query->nkeys == 0)
		return NULL;
	old = MemoryContextSwitchTo(search->call_context);
	crm_match_score(search->scorer, query->record, query->record, &own);
	state.convincing = CONVINCING * (own.bits - own.weight[FIELD_PRIOR]) + own.weight[FIELD_PRIOR];
	state.best = -INFINITY;
	state.room = 2 * MIN_SCORED;
	state.hits = palloc(sizeof(MatchHit) * state.room);
	state.looked_at = palloc(sizeof(uint64) * (MAX_LOOKED_AT + CHUNK));
	keys = crm_search_keys(search, query, &nkeys);
	for (int i = 0; i < (int) lengthof(efforts) && nkeys > 0; i++)
	{
		int n;
		Candidate *candidate;

		/* Not even the rarest key fits. */
		if (i + 1 < (int) lengthof(efforts) && keys[0].posting->rows > efforts[i].rows)
			continue;
		candidate = crm_search_candidates(search, keys, nkeys, &efforts[i], &n, truncated);
		if (crm_search_candidates_score(search, &state, candidate, n))
			*truncated = true;
		if (state.best >= state.convincing)
			break;
	}
	qsort(state.hits, state.nhits, sizeof(MatchHit), crm_cmp_hit);
	*nhits = Min(state.nhits, query->wanted);
	MemoryContextSwitchTo(old);
	return state.hits;
}
