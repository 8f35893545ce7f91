/*
 * duplicate_find.c
 *		Which records of a table mean the same as given ones, beyond a threshold?
 *
 * A rule asks about certainty, where find_duplicates() shows whatever comes
 * near.  So much evidence is needed that a pair which can have it shares several
 * keys, or one that says nearly everything.  The keys of all records are looked
 * up together, in the order of the index (match_posting.c); what the shared keys
 * say is added up by row, and only rows that can reach the threshold are
 * fetched, parsed and scored: mostly none.
 *
 * Of a key that very many rows have, the first few are looked at: in a crowd of
 * equals anyone will do.
 *
 * Memory: all of it in the context in which the search was made.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/tableam.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "catalog/pg_type.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "duplicate_rule.h"
#include "match_posting.h"

#define PIECES_ASKED 8	  /* the rarest pieces of a record's names */
#define PIECE_SAYS	 0.6  /* of a piece's rarity: pieces overlap */
#define KEYS_SAY	 0.65 /* of the evidence needed; the rest can come from what is no key */
#define PIECES_SAY	 1.0  /* the same for rows that share nothing but pieces */
#define CROWD_ROWS	 300  /* a key that more rows have is crowded */
#define CROWD_SEEN	 20	  /* rows of it that are looked at */
#define MAX_SCORED	 200  /* rows scored for one record */
#define MAX_FOUND	 50	  /* of those that mean the same */
#define CERTAIN_BITS 25	  /* from which a probability is 1 as a real */

typedef struct SearchRecord
{
	int64 id;
	float least; /* log-odds from which another counts */
	MatchRecord *record;
	uint32 first; /* of its keys */
	uint32 nkeys;
	DuplicateFound *found;
	int nfound;
} SearchRecord;

/* A row that shares keys with the record. */
typedef struct Sharer
{
	uint64 tid; /* 0 = free */
	float bits; /* what the shared keys say */
	bool whole; /* one of them is more than a piece */
} Sharer;

/* A key of a record that is looked up. */
typedef struct SearchKey
{
	uint32 hash;
	float bits; /* what sharing it says */
	bool whole;
	const MatchPosting *posting; /* of all records with it */
} SearchKey;

struct DuplicateSearch
{
	MemoryContext context;
	const DuplicateRules *rules;
	Relation rel;
	const MatchStats *stats;
	MatchScorer scorer;
	MatchScratch *scratch;
	SearchRecord *record;
	int nrecords;
	int records_allocated;
	SearchKey *key; /* of all records */
	uint32 nkeys;
	uint32 keys_allocated;
	MatchPostings *postings;
	/* the rows that share keys with one record, by hash of their place */
	Sharer *sharer;
	uint32 sharers_allocated;
	uint32 mask;
	const SearchKey *reading;
	int left; /* rows of it still to be looked at */
};

int64
crm_duplicate_id(Datum value, Oid type)
{
	return type == INT8OID	 ? DatumGetInt64(value)
		   : type == INT4OID ? DatumGetInt32(value)
							 : DatumGetInt16(value);
}

DuplicateSearch *
crm_duplicate_search(const DuplicateRules *rules, Relation rel)
{
	DuplicateSearch *search = palloc0(sizeof(DuplicateSearch));

	search->context = CurrentMemoryContext;
	search->rules = rules;
	search->rel = rel;
	search->stats = crm_match_stats(RelationGetRelid(rel));
	crm_match_scorer(&search->scorer, crm_match_model(RelationGetRelid(rel)),
					 crm_match_rows(search->stats));
	search->scratch = crm_match_scratch();
	search->records_allocated = 8;
	search->record = palloc(sizeof(SearchRecord) * search->records_allocated);
	search->keys_allocated = 64;
	search->key = palloc(sizeof(SearchKey) * search->keys_allocated);
	return search;
}

static void
crm_search_key(DuplicateSearch *search, SearchRecord *r, const MatchKey *key, double bits)
{
	SearchKey *k;

	if (search->nkeys == search->keys_allocated)
	{
		search->keys_allocated *= 2;
		search->key = repalloc_huge(search->key, sizeof(SearchKey) * (Size) search->keys_allocated);
	}
	k = &search->key[search->nkeys++];
	k->hash = key->hash;
	k->bits = (float) bits;
	k->whole = key->strength != MATCH_KEY_PIECE;
	r->nkeys++;
}

/* The record's keys that are looked up: all but the commoner pieces of names. */
static void
crm_search_keys(DuplicateSearch *search, SearchRecord *r, const MatchKey *keys, int nkeys)
{
	int piece[PIECES_ASKED];
	double rarity[PIECES_ASKED];
	int npieces = 0;

	r->first = search->nkeys;
	r->nkeys = 0;
	for (int i = 0; i < nkeys; i++)
	{
		double bits = crm_match_rarity(search->stats, keys[i].hash, keys[i].default_bits);
		int at = npieces;

		if (keys[i].strength != MATCH_KEY_PIECE)
		{
			crm_search_key(search, r, &keys[i], bits);
			continue;
		}
		while (at > 0 && rarity[at - 1] < bits)
			at--;
		if (at == PIECES_ASKED)
			continue;
		npieces = Min(npieces + 1, PIECES_ASKED);
		memmove(&piece[at + 1], &piece[at], sizeof(int) * (npieces - 1 - at));
		memmove(&rarity[at + 1], &rarity[at], sizeof(double) * (npieces - 1 - at));
		piece[at] = i;
		rarity[at] = bits;
	}
	for (int i = 0; i < npieces; i++)
		crm_search_key(search, r, &keys[piece[i]], PIECE_SAYS * rarity[i]);
}

void
crm_duplicate_search_add(DuplicateSearch *search, const MatchValue values[MATCH_NROLES], int64 id,
						 float4 threshold)
{
	MemoryContext old = MemoryContextSwitchTo(search->context);
	const MatchKey *keys;
	int nkeys;
	SearchRecord *r;

	if (search->nrecords == search->records_allocated)
	{
		search->records_allocated *= 2;
		search->record =
			repalloc_huge(search->record, sizeof(SearchRecord) * (Size) search->records_allocated);
	}
	r = &search->record[search->nrecords++];
	r->id = id;
	/* Above 0, as the table of rules sees to; the log-odds. */
	r->least = threshold < 1 ? (float) -log2(1.0 / threshold - 1.0) : CERTAIN_BITS;
	r->record = crm_match_record(values, search->scratch, &keys, &nkeys);
	r->found = NULL;
	r->nfound = 0;
	crm_match_weigh(r->record, search->stats);
	crm_search_keys(search, r, keys, nkeys);
	MemoryContextSwitchTo(old);
}

static int
crm_cmp_key(const void *a, const void *b)
{
	uint32 x = (*(SearchKey *const *) a)->hash;
	uint32 y = (*(SearchKey *const *) b)->hash;

	return x < y ? -1 : x > y;
}

/* Looks up the keys of all records, each once. */
static void
crm_search_look_up(DuplicateSearch *search)
{
	SearchKey **sorted =
		palloc_extended(sizeof(SearchKey *) * Max(search->nkeys, 1), MCXT_ALLOC_HUGE);
	MatchPosting *list =
		palloc_extended(sizeof(MatchPosting) * Max(search->nkeys, 1), MCXT_ALLOC_HUGE);
	int n = 0;

	for (uint32 i = 0; i < search->nkeys; i++)
		sorted[i] = &search->key[i];
	qsort(sorted, search->nkeys, sizeof(SearchKey *), crm_cmp_key);
	for (uint32 i = 0; i < search->nkeys; i++)
	{
		if (n == 0 || list[n - 1].key != sorted[i]->hash)
			list[n++].key = sorted[i]->hash;
		sorted[i]->posting = &list[n - 1];
	}
	pfree(sorted);
	crm_postings_look_up(search->postings, list, n);
}

/* So many rows of a key are looked at. */
static inline int
crm_search_seen(const SearchKey *key)
{
	return key->posting->rows > CROWD_ROWS ? CROWD_SEEN : (int) key->posting->rows;
}

/* Adds what a key says to rows that have it. */
static bool
crm_search_share(void *arg, ItemPointer items, int nitems)
{
	DuplicateSearch *search = arg;
	int n = Min(nitems, search->left);

	for (int r = 0; r < n; r++)
	{
		uint64 tid = ((uint64) ItemPointerGetBlockNumberNoCheck(&items[r]) << 16) |
					 ItemPointerGetOffsetNumberNoCheck(&items[r]);
		uint32 i = (uint32) ((tid * UINT64CONST(0x9E3779B97F4A7C15)) >> 32) & search->mask;

		while (search->sharer[i].tid != 0 && search->sharer[i].tid != tid)
			i = (i + 1) & search->mask;
		search->sharer[i].tid = tid;
		search->sharer[i].bits += search->reading->bits;
		search->sharer[i].whole = search->sharer[i].whole || search->reading->whole;
	}
	search->left -= n;
	return search->left > 0;
}

static int
crm_cmp_sharer(const void *a, const void *b)
{
	const Sharer *x = a, *y = b;

	if (x->bits != y->bits)
		return x->bits > y->bits ? -1 : 1;
	return x->tid < y->tid ? -1 : x->tid > y->tid;
}

/* The rows that share enough with a record, those that share most first; returns their number. */
static uint32
crm_search_sharers(DuplicateSearch *search, const SearchRecord *r)
{
	uint32 total = 0, mask = 15, n = 0;
	double prior = r->record->item[ITEM_COMPANY] != 0 ? search->scorer.prior_company
													  : search->scorer.prior_person;
	double needed = r->least - prior;

	for (uint32 k = r->first; k < r->first + r->nkeys; k++)
		total += crm_search_seen(&search->key[k]);
	while (mask < 2 * total)
		mask = 2 * mask + 1;
	if (search->sharers_allocated <= mask)
	{
		search->sharers_allocated = mask + 1;
		if (search->sharer != NULL)
			pfree(search->sharer);
		search->sharer = MemoryContextAlloc(search->context, sizeof(Sharer) * ((Size) mask + 1));
	}
	memset(search->sharer, 0, sizeof(Sharer) * ((Size) mask + 1));
	search->mask = mask;
	for (uint32 k = r->first; k < r->first + r->nkeys; k++)
	{
		search->reading = &search->key[k];
		search->left = crm_search_seen(search->reading);
		if (search->left > 0)
			crm_postings_read(search->postings, search->reading->posting, crm_search_share, search);
	}

	for (uint32 i = 0; i <= mask; i++)
		if (search->sharer[i].tid != 0 &&
			search->sharer[i].bits >= (search->sharer[i].whole ? KEYS_SAY : PIECES_SAY) * needed)
			search->sharer[n++] = search->sharer[i];
	if (n > 1)
		qsort(search->sharer, n, sizeof(Sharer), crm_cmp_sharer);
	return n;
}

static int
crm_cmp_found(const void *a, const void *b)
{
	const DuplicateFound *x = a, *y = b;

	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

/* Fetches and scores a row that shares keys with the record. */
static void
crm_search_score(DuplicateSearch *search, SearchRecord *r, TupleTableSlot *slot)
{
	MatchValue values[MATCH_NROLES] = {0};
	MatchRecord *other;
	MatchScore score;
	bool isnull;
	int64 id = crm_duplicate_id(slot_getattr(slot, search->rules->id_att, &isnull),
								search->rules->id_type);
	MemoryContext old;

	if (id == r->id)
		return;
	crm_match_slot_values(search->rules->columns, slot, values);
	other = crm_match_record(values, search->scratch, NULL, NULL);
	crm_match_weigh(other, search->stats);
	if (crm_match_bits(&search->scorer, r->record, other, r->least) < r->least)
		return;
	crm_match_score(&search->scorer, r->record, other, &score);
	old = MemoryContextSwitchTo(search->context);
	if (r->found == NULL)
		r->found = palloc(sizeof(DuplicateFound) * MAX_SCORED);
	r->found[r->nfound].id = id;
	r->found[r->nfound].score = (float4) crm_match_probability(score.bits);
	r->found[r->nfound].reasons = crm_match_reasons(&score, false);
	r->found[r->nfound].visible = r->found[r->nfound].own = r->found[r->nfound].decided = false;
	r->nfound++;
	MemoryContextSwitchTo(old);
}

void
crm_duplicate_search_run(DuplicateSearch *search)
{
	MemoryContext old = MemoryContextSwitchTo(search->context);
	MemoryContext row_context =
		AllocSetContextCreate(search->context, "crm duplicate candidate", ALLOCSET_DEFAULT_SIZES);
	Relation index = index_open(search->rules->columns->indexid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(search->rel, NULL);
	IndexFetchTableData *fetch = table_index_fetch_begin(search->rel);

	search->postings = crm_postings_begin(index, GetActiveSnapshot());
	crm_search_look_up(search);
	for (int i = 0; i < search->nrecords; i++)
	{
		SearchRecord *r = &search->record[i];
		uint32 n = crm_search_sharers(search, r);

		for (uint32 s = 0; s < Min(n, MAX_SCORED); s++)
		{
			uint64 tid = search->sharer[s].tid;
			ItemPointerData row;
			bool again = false, dead = false;

			CHECK_FOR_INTERRUPTS();
			ItemPointerSet(&row, (BlockNumber) (tid >> 16), (OffsetNumber) (tid & 0xFFFF));
			if (!table_index_fetch_tuple(fetch, &row, GetActiveSnapshot(), slot, &again, &dead))
				continue;
			MemoryContextSwitchTo(row_context);
			crm_search_score(search, r, slot);
			MemoryContextReset(row_context);
		}
		if (r->nfound > 1)
			qsort(r->found, r->nfound, sizeof(DuplicateFound), crm_cmp_found);
		r->nfound = Min(r->nfound, MAX_FOUND);
	}
	table_index_fetch_end(fetch);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	MemoryContextDelete(row_context);
	MemoryContextSwitchTo(old);
}

DuplicateFound *
crm_duplicate_found(const DuplicateSearch *search, int number, int *n)
{
	*n = search->record[number].nfound;
	return search->record[number].found;
}
