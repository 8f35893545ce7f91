/*
 * duplicate_find.c
 *		Which records of a table mean the same as given ones, beyond a threshold?
 *
 * A rule asks about certainty, where find_duplicates() shows whatever comes
 * near.  So much evidence is needed that a pair which can have it shares several
 * keys, or one that says nearly everything.  The keys of all records are looked
 * up together, in the order of the index (match_posting.c); what the shared keys
 * say is added up by row, and only rows that can reach the threshold are
 * fetched, in the order of their pages, parsed and scored: mostly none.  Most of the
 * time goes by waiting for memory, so what comes next is asked for beforehand.
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
#include "match_text.h"

/* Of the evidence needed, what shared keys must say; the rest can come from what is no key. */
#define KEYS_SAY   0.65
#define PIECES_SAY 1.0 /* the same where pieces of names say some of it, beside one key or none */

#define SEARCH_STEPS 8	   /* a row looked for in a list costs as much as so many rows of it */
#define ROUNDED		 0.001 /* bits: a sum may come out larger by rounding */

#define PIECES_ASKED 8	   /* the rarest pieces of a record's names */
#define PIECE_SAYS	 0.6   /* of a piece's rarity: pieces overlap */
#define CROWD_ROWS	 300   /* a key that more rows have is crowded */
#define CROWD_SEEN	 20	   /* rows of it that are looked at */
#define MAX_SCORED	 200   /* rows scored for one record */
#define MAX_FOUND	 50	   /* of those that mean the same */
#define MAX_PAIRS	 65536 /* that are put by, to be scored together */
#define PREFETCH	 4	   /* pairs ahead of the one that is scored */
#define CERTAIN_BITS 25	   /* from which a probability is 1 as a real */

typedef struct SearchRecord
{
	int64 id;
	float least;		  /* log-odds from which another counts */
	bool company;		  /* what it is taken for */
	bool unnamed;		  /* a company of which no person is named */
	MatchRecord *numbers; /* in outline; NULL = not needed so far */
	MatchRecord *record;  /* the same whole */
	MatchValue values[MATCH_NROLES];
	uint32 first; /* of its keys */
	uint32 nkeys;
	DuplicateFound *found;
	int nfound;
	int found_allocated;
} SearchRecord;

/* A row that shares keys with the record. */
typedef struct Sharer
{
	uint64 tid;	   /* 0 = free */
	float bits;	   /* what the shared keys say */
	uint16 wholes; /* so many of them are more than a piece */
	uint16 pieces;
} Sharer;

/* A key of a record that is looked up. */
typedef struct SearchKey
{
	uint32 hash;
	float bits; /* what sharing it says */
	bool whole;
	uint32 list; /* its rows */
} SearchKey;

/* The rows of a key that are looked at, read when a record first needs them. */
typedef struct SearchList
{
	ItemPointer row; /* NULL = not read */
	int n;
	bool ascending;
} SearchList;

/* A row that was looked at. */
typedef struct SearchOther
{
	uint64 tid; /* 0 = none */
	int64 id;
	bool seen;								  /* the snapshot sees it */
	MatchRecord *record[OUTLINE_NUMBERS + 1]; /* by how much of it was read; NULL = not so far */
} SearchOther;

/* A record and a row that shares enough with it. */
typedef struct SearchPair
{
	uint64 tid;
	uint32 record;
} SearchPair;

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
	MatchPosting *posting; /* by hash, each key once */
	SearchList *list;	   /* of each */
	bool stored;		   /* the records are in the index, below all their keys */
	/* the rows that share keys with one record, by hash of their place */
	Sharer *sharer; /* all free between two records */
	uint32 sharers_allocated;
	uint32 mask;
	uint32 *place; /* of those that are not free */
	uint32 sharers;
	uint32 *playing; /* the places of those that can still share enough */
	Sharer *taken;	 /* those that share enough */
	SearchList *reading;
	int left; /* rows of it still to be read */
	bool seen_only;
	/* rows looked at, which many records share keys with */
	SearchPair *pair; /* to be scored */
	uint32 npairs;
	uint32 pairs_allocated;
	SearchOther other;
	IndexFetchTableData *fetch;
	TupleTableSlot *slot;
	uint64 slot_tid; /* of the row in the slot that was looked at; 0 = none */
};

int64
crm_duplicate_id(Datum value, Oid type)
{
	return type == INT8OID	 ? DatumGetInt64(value)
		   : type == INT4OID ? DatumGetInt32(value)
							 : DatumGetInt16(value);
}

void
crm_duplicate_basis(Relation rel, DuplicateBasis *basis)
{
	basis->stats = crm_match_stats(RelationGetRelid(rel));
	crm_match_scorer(&basis->scorer, crm_match_model(RelationGetRelid(rel)),
					 crm_match_rows(basis->stats));
}

DuplicateSearch *
crm_duplicate_search(const DuplicateRules *rules, Relation rel, bool stored,
					 const DuplicateBasis *basis)
{
	DuplicateSearch *search = palloc0(sizeof(DuplicateSearch));
	MatchRole roles[MATCH_NROLES];

	search->context = CurrentMemoryContext;
	search->rules = rules;
	search->rel = rel;
	/* What an index adds to the columns is not among the keys looked up. */
	search->stored =
		stored && crm_match_parse_model(rules->columns->model, roles) == rules->columns->ncolumns;
	search->stats = basis->stats;
	search->scorer = basis->scorer;
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
	crm_match_prefetch(search->stats, keys, nkeys);
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
	r->company = values[MATCH_COMPANY].data != NULL &&
				 !crm_match_is_placeholder(values[MATCH_COMPANY].data, values[MATCH_COMPANY].len);
	r->unnamed = r->company && values[MATCH_PERSON].data == NULL &&
				 values[MATCH_GIVEN_NAME].data == NULL && values[MATCH_FAMILY_NAME].data == NULL;
	r->numbers = r->record = NULL;
	memcpy(r->values, values, sizeof(r->values));
	keys = crm_match_record_keys(values, search->scratch, &nkeys);
	r->found = NULL;
	r->nfound = r->found_allocated = 0;
	crm_search_keys(search, r, keys, nkeys);
	MemoryContextSwitchTo(old);
}

typedef struct SortKey
{
	uint32 hash;
	uint32 number;
} SortKey;

#define ST_SORT			 crm_sort_search_keys
#define ST_ELEMENT_TYPE	 SortKey
#define ST_COMPARE(a, b) ((a)->hash < (b)->hash ? -1 : (a)->hash > (b)->hash)
#define ST_SCOPE		 static
#define ST_DEFINE
#include "lib/sort_template.h"

/* Looks up the keys of all records, each once. */
static void
crm_search_look_up(DuplicateSearch *search)
{
	Size nkeys = Max(search->nkeys, 1);
	SortKey *sorted = palloc_extended(sizeof(SortKey) * nkeys, MCXT_ALLOC_HUGE);
	int n = 0;

	search->posting = palloc_extended(sizeof(MatchPosting) * nkeys, MCXT_ALLOC_HUGE);
	for (uint32 i = 0; i < search->nkeys; i++)
	{
		sorted[i].hash = search->key[i].hash;
		sorted[i].number = i;
	}
	crm_sort_search_keys(sorted, search->nkeys);
	for (uint32 i = 0; i < search->nkeys; i++)
	{
		if (n == 0 || search->posting[n - 1].key != sorted[i].hash)
			search->posting[n++].key = sorted[i].hash;
		search->key[sorted[i].number].list = n - 1;
	}
	pfree(sorted);
	crm_postings_look_up(search->postings, search->posting, n);
	search->list =
		palloc_extended(sizeof(SearchList) * Max(n, 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

static inline const MatchPosting *
crm_search_posting(const DuplicateSearch *search, const SearchKey *key)
{
	return &search->posting[key->list];
}

/* So many rows of a key are looked at. */
static inline int
crm_search_seen(const MatchPosting *posting)
{
	return posting->rows > CROWD_ROWS ? CROWD_SEEN : (int) posting->rows;
}

static bool
crm_search_fetch(DuplicateSearch *search, ItemPointerData row)
{
	bool again = false, dead = false;

	search->slot_tid = 0;
	return table_index_fetch_tuple(search->fetch, &row, GetActiveSnapshot(), search->slot, &again,
								   &dead);
}

static bool
crm_search_keep(void *arg, ItemPointer items, int nitems)
{
	DuplicateSearch *search = arg;
	SearchList *list = search->reading;

	if (!search->seen_only)
	{
		nitems = Min(nitems, search->left);
		memcpy(&list->row[list->n], items, sizeof(ItemPointerData) * nitems);
		list->n += nitems;
		search->left -= nitems;
		return search->left > 0;
	}
	for (int i = 0; i < nitems && search->left > 0; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!crm_search_fetch(search, items[i]))
			continue;
		list->row[list->n++] = items[i];
		search->left--;
	}
	return search->left > 0;
}

static const SearchList *
crm_search_list(DuplicateSearch *search, const SearchKey *key)
{
	const MatchPosting *posting = crm_search_posting(search, key);
	SearchList *list = &search->list[key->list];

	if (list->row == NULL)
	{
		search->reading = list;
		list->ascending = posting->npending == 0;
		search->left = crm_search_seen(posting);
		/* A few of a crowd must not be those that a failed load left behind. */
		search->seen_only = key->whole && posting->rows > CROWD_ROWS;
		list->row =
			MemoryContextAlloc(search->context, sizeof(ItemPointerData) * Max(search->left, 1));
		if (search->left > 0)
			crm_postings_read(search->postings, posting, crm_search_keep, search);
	}
	return list;
}

static inline uint64
crm_search_tid(const ItemPointerData *row)
{
	return ((uint64) ItemPointerGetBlockNumberNoCheck(row) << 16) |
		   ItemPointerGetOffsetNumberNoCheck(row);
}

static inline void
crm_sharer_add(Sharer *sharer, const SearchKey *key)
{
	sharer->bits += key->bits;
	if (key->whole)
		sharer->wholes++;
	else
		sharer->pieces++;
}

#define CRM_TID_HASH(tid) ((uint32) (((tid) *UINT64CONST(0x9E3779B97F4A7C15)) >> 32))

/* Where a row is among the sharers, or would be. */
static inline uint32
crm_sharer_place(const DuplicateSearch *search, uint64 tid)
{
	uint32 i = CRM_TID_HASH(tid) & search->mask;

	while (search->sharer[i].tid != 0 && search->sharer[i].tid != tid)
		i = (i + 1) & search->mask;
	return i;
}

/* Adds what a key says to all rows that have it, but for the record's own. */
static void
crm_search_share(DuplicateSearch *search, const SearchKey *key, uint64 own)
{
	const SearchList *list = crm_search_list(search, key);

	for (int r = 0; r < list->n; r++)
	{
		uint64 tid = crm_search_tid(&list->row[r]);
		uint32 place = crm_sharer_place(search, tid);
		Sharer *sharer = &search->sharer[place];

		if (tid == own)
			continue;
		if (sharer->tid == 0)
			search->place[search->sharers++] = place;
		sharer->tid = tid;
		crm_sharer_add(sharer, key);
	}
}

static bool
crm_list_has(const SearchList *list, uint64 tid)
{
	int low = 0, high = list->n;

	while (low < high)
	{
		int mid = (low + high) / 2;
		uint64 there = crm_search_tid(&list->row[mid]);

		if (there == tid)
			return true;
		if (there < tid)
			low = mid + 1;
		else
			high = mid;
	}
	return false;
}

/* The same to those that are among the sharers; at least to those in play. */
static void
crm_search_share_more(DuplicateSearch *search, const SearchKey *key, uint32 playing)
{
	const SearchList *list = crm_search_list(search, key);

	if (list->ascending && playing < (uint32) list->n / SEARCH_STEPS)
	{
		for (uint32 i = 0; i < playing; i++)
			if (crm_list_has(list, search->sharer[search->playing[i]].tid))
				crm_sharer_add(&search->sharer[search->playing[i]], key);
		return;
	}
	for (int r = 0; r < list->n; r++)
	{
		Sharer *sharer = &search->sharer[crm_sharer_place(search, crm_search_tid(&list->row[r]))];

		if (sharer->tid != 0)
			crm_sharer_add(sharer, key);
	}
}

/* Leaves those in play that can reach what is needed, with so many bits more; returns their number.
 */
static uint32
crm_search_playing(DuplicateSearch *search, const uint32 *from, uint32 n, double needed,
				   double left)
{
	uint32 playing = 0;

	for (uint32 i = 0; i < n; i++)
	{
		const Sharer *sharer = &search->sharer[from[i]];

		if (sharer->bits + left + ROUNDED >= (sharer->wholes > 0 ? KEYS_SAY : PIECES_SAY) * needed)
			search->playing[playing++] = from[i];
	}
	return playing;
}

static int
crm_cmp_sharer(const void *a, const void *b)
{
	const Sharer *x = a, *y = b;

	if (x->bits != y->bits)
		return x->bits > y->bits ? -1 : 1;
	return x->tid < y->tid ? -1 : x->tid > y->tid;
}

/* How much of the evidence needed shared keys must say, so that a row is worth a look. */
static inline double
crm_sharer_least(const Sharer *sharer)
{
	return sharer->wholes <= 1 && sharer->pieces > 0 ? PIECES_SAY : KEYS_SAY;
}

/*
 * The keys of a record that others have: the whole ones, then the pieces, in both those
 * first that say most.  What only the record itself has tells which row it is.
 */
static int
crm_search_shared(const DuplicateSearch *search, const SearchRecord *r, const SearchKey **shared,
				  uint64 *own)
{
	int n = 0;

	*own = 0;
	for (uint32 k = r->first; k < r->first + r->nkeys; k++)
	{
		const SearchKey *key = &search->key[k];
		const MatchPosting *posting = crm_search_posting(search, key);
		int at = n;

		if (posting->rows < 1)
			continue;
		if (search->stored && posting->rows < 2)
		{
			if (ItemPointerIsValid(&posting->only))
				*own = crm_search_tid(&posting->only);
			continue;
		}
		while (at > 0 && shared[at - 1]->whole == key->whole && shared[at - 1]->bits < key->bits)
		{
			shared[at] = shared[at - 1];
			at--;
		}
		shared[at] = key;
		n++;
	}
	return n;
}

/* Room for so many places of sharers, less one. */
static void
crm_search_room(DuplicateSearch *search, uint32 mask)
{
	Size n = (Size) mask + 1;

	search->mask = mask;
	if (search->sharers_allocated > mask)
		return;
	if (search->sharer != NULL)
	{
		pfree(search->sharer);
		pfree(search->place);
		pfree(search->playing);
		pfree(search->taken);
	}
	search->sharers_allocated = mask + 1;
	search->sharer = MemoryContextAllocZero(search->context, sizeof(Sharer) * n);
	/* Not more than half of the places are taken. */
	search->place = MemoryContextAlloc(search->context, sizeof(uint32) * (n / 2));
	search->playing = MemoryContextAlloc(search->context, sizeof(uint32) * (n / 2));
	search->taken = MemoryContextAlloc(search->context, sizeof(Sharer) * (n / 2));
}

/*
 * The rows that share enough with a record, those that share most first; returns their
 * number.  A row that has none of the keys before can enter only while what is left says
 * enough; the rest, which have the most rows, are searched for those that can reach what
 * is needed, mostly a few or none.
 */
static uint32
crm_search_sharers(DuplicateSearch *search, const SearchRecord *r)
{
	const SearchKey *shared[MATCH_MAX_KEYS];
	uint64 own;
	int nshared = crm_search_shared(search, r, shared, &own);
	int entering = 0; /* keys whose rows enter */
	uint32 total = 0, mask = 15, playing, n = 0;
	double prior = r->company ? search->scorer.prior_company : search->scorer.prior_person;
	double needed = r->least - prior;
	double left = 0;

	for (int k = nshared - 1; k >= 0; k--)
	{
		left += shared[k]->bits;
		if (left >= (shared[k]->whole ? KEYS_SAY : PIECES_SAY) * needed)
			entering = Max(entering, k + 1);
	}
	for (int k = 0; k < entering; k++)
		total += crm_search_seen(crm_search_posting(search, shared[k]));
	if (total == 0)
		return 0;
	while (mask < 2 * total)
		mask = 2 * mask + 1;
	crm_search_room(search, mask);
	search->sharers = 0;
	for (int k = 0; k < entering; k++)
	{
		crm_search_share(search, shared[k], own);
		left -= shared[k]->bits;
	}
	playing = crm_search_playing(search, search->place, search->sharers, needed, left);
	for (int k = entering; k < nshared && playing > 0; k++)
	{
		crm_search_share_more(search, shared[k], playing);
		left -= shared[k]->bits;
		playing = crm_search_playing(search, search->playing, playing, needed, left);
	}
	for (uint32 i = 0; i < playing; i++)
	{
		const Sharer *sharer = &search->sharer[search->playing[i]];

		if (sharer->bits >= crm_sharer_least(sharer) * needed)
			search->taken[n++] = *sharer;
	}
	for (uint32 i = 0; i < search->sharers; i++)
		memset(&search->sharer[search->place[i]], 0, sizeof(Sharer));
	if (n > 1)
		qsort(search->taken, n, sizeof(Sharer), crm_cmp_sharer);
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

/* Fetches a row that shares keys, unless it is in the slot; false if it is not to be seen. */
static bool
crm_search_see(DuplicateSearch *search, uint64 tid)
{
	ItemPointerData row;

	if (search->slot_tid == tid)
		return true;
	ItemPointerSet(&row, (BlockNumber) (tid >> 16), (OffsetNumber) (tid & 0xFFFF));
	search->slot_tid = crm_search_fetch(search, row) ? tid : 0;
	return search->slot_tid != 0;
}

/* A row that shares keys: the one before, or another. */
static SearchOther *
crm_search_other(DuplicateSearch *search, uint64 tid)
{
	SearchOther *other = &search->other;
	bool isnull;

	if (other->tid == tid)
		return other;
	for (int i = 0; i < (int) lengthof(other->record); i++)
		if (other->record[i] != NULL)
			pfree(other->record[i]);
	memset(other, 0, sizeof(SearchOther));
	other->seen = crm_search_see(search, tid);
	if (other->seen)
		other->id = crm_duplicate_id(slot_getattr(search->slot, search->rules->id_att, &isnull),
									 search->rules->id_type);
	other->tid = tid;
	return other;
}

/* So much of a record; in the search's context. */
static MatchRecord *
crm_search_features(DuplicateSearch *search, const MatchValue values[MATCH_NROLES],
					MatchOutline outline)
{
	MemoryContext old = MemoryContextSwitchTo(search->context);
	MatchRecord *record = outline == OUTLINE_WHOLE
							  ? crm_match_record(values, search->scratch, NULL, NULL)
							  : crm_match_outline(values, search->scratch, outline);

	MemoryContextSwitchTo(old);
	return record;
}

/* The same of the record itself, weighed. */
static const MatchRecord *
crm_search_own(DuplicateSearch *search, SearchRecord *r, MatchOutline outline)
{
	MatchRecord **record = outline == OUTLINE_WHOLE ? &r->record : &r->numbers;

	if (*record == NULL)
	{
		*record = crm_search_features(search, r->values, outline);
		crm_match_weigh(*record, search->stats);
	}
	return *record;
}

/* The same of another row. */
static const MatchRecord *
crm_search_read(DuplicateSearch *search, SearchOther *other, MatchOutline outline)
{
	MatchValue values[MATCH_NROLES] = {0};
	MatchRecord *record;

	if (other->record[outline] != NULL)
		return other->record[outline];
	if (!crm_search_see(search, other->tid))
		elog(ERROR, "a row that was seen is gone");
	crm_match_slot_values(search->rules->columns, search->slot, values);
	record = crm_search_features(search, values, outline);
	/* Numbers count where both have the same, and how rare those are the record's own tell. */
	if (outline == OUTLINE_NUMBERS)
		memset(record->item_bits, PG_UINT8_MAX, sizeof(record->item_bits));
	else
		crm_match_weigh(record, search->stats);
	return other->record[outline] = record;
}

/*
 * Whether a row may mean the same as the record.  Most do not, which identifiers or
 * names show, so no more is read of them.
 */
static bool
crm_search_may(DuplicateSearch *search, SearchRecord *r, SearchOther *other)
{
	const MatchRecord *own;
	bool numbers = r->unnamed && other->record[OUTLINE_WHOLE] == NULL;

	if (numbers &&
		!crm_match_may_numbers(&search->scorer, crm_search_own(search, r, OUTLINE_NUMBERS),
							   crm_search_read(search, other, OUTLINE_NUMBERS), r->least))
		return false;
	own = crm_search_own(search, r, OUTLINE_WHOLE);
	if (other->record[OUTLINE_WHOLE] == NULL)
		for (MatchOutline outline = OUTLINE_ID; outline > OUTLINE_WHOLE; outline--)
		{
			/* The place says nothing beside a street. */
			if (outline == OUTLINE_ID && numbers && own->nstreet > 0)
				continue;
			if (crm_match_tells(own, outline) &&
				!crm_match_may(&search->scorer, own, crm_search_read(search, other, outline), own,
							   outline, r->least))
				return false;
		}
	return crm_match_bits(&search->scorer, own, crm_search_read(search, other, OUTLINE_WHOLE),
						  r->least) >= r->least;
}

/* Scores a row that shares keys with the record. */
static void
crm_search_score(DuplicateSearch *search, SearchRecord *r, SearchOther *other)
{
	MatchScore score;
	MemoryContext old;

	if (!other->seen || other->id == r->id || !crm_search_may(search, r, other))
		return;
	crm_match_score(&search->scorer, r->record, other->record[OUTLINE_WHOLE], &score);
	old = MemoryContextSwitchTo(search->context);
	if (r->nfound == r->found_allocated)
	{
		r->found_allocated = Max(4, 2 * r->found_allocated);
		r->found = r->found == NULL
					   ? palloc(sizeof(DuplicateFound) * r->found_allocated)
					   : repalloc(r->found, sizeof(DuplicateFound) * r->found_allocated);
	}
	r->found[r->nfound].id = other->id;
	r->found[r->nfound].score = (float4) crm_match_probability(score.bits);
	r->found[r->nfound].reasons = crm_match_reasons(&score, false);
	r->found[r->nfound].visible = r->found[r->nfound].own = r->found[r->nfound].decided = false;
	r->nfound++;
	MemoryContextSwitchTo(old);
}

/* Asks memory for the lists of the next records, which are all over it. */
static inline void
crm_search_expect(const DuplicateSearch *search, int number)
{
	if (number + 2 < search->nrecords)
	{
		const SearchRecord *r = &search->record[number + 2];

		for (uint32 k = r->first; k < r->first + r->nkeys; k++)
		{
			__builtin_prefetch(&search->posting[search->key[k].list]);
			__builtin_prefetch(&search->list[search->key[k].list]);
		}
	}
	if (number + 1 < search->nrecords)
	{
		const SearchRecord *r = &search->record[number + 1];

		for (uint32 k = r->first; k < r->first + r->nkeys; k++)
		{
			const char *rows = (const char *) search->list[search->key[k].list].row;

			if (rows == NULL)
				rows = search->posting[search->key[k].list].packed;
			if (rows == NULL)
				continue;
			__builtin_prefetch(rows);
			__builtin_prefetch(rows + 64);
		}
	}
}

#define ST_SORT			 crm_sort_pairs
#define ST_ELEMENT_TYPE	 SearchPair
#define ST_COMPARE(a, b) ((a)->tid < (b)->tid ? -1 : (a)->tid > (b)->tid)
#define ST_SCOPE		 static
#define ST_DEFINE
#include "lib/sort_template.h"

/* Asks memory for what the next pairs will need of their records. */
static inline void
crm_search_prefetch(const DuplicateSearch *search, uint32 i)
{
	if (i + 2 * PREFETCH < search->npairs)
		__builtin_prefetch(&search->record[search->pair[i + 2 * PREFETCH].record]);
	if (i + PREFETCH < search->npairs)
	{
		const MatchRecord *numbers = search->record[search->pair[i + PREFETCH].record].numbers;

		if (numbers != NULL)
			for (int line = 0; line < (int) sizeof(MatchRecord); line += PG_CACHE_LINE_SIZE / 2)
				__builtin_prefetch((const char *) numbers + line);
	}
}

/* Scores the pairs that were put by, in the order of the pages of the other rows. */
static void
crm_search_score_pairs(DuplicateSearch *search, MemoryContext row_context)
{
	crm_sort_pairs(search->pair, search->npairs);
	for (uint32 i = 0; i < search->npairs; i++)
	{
		const SearchPair *pair = &search->pair[i];

		CHECK_FOR_INTERRUPTS();
		crm_search_prefetch(search, i);
		MemoryContextSwitchTo(row_context);
		crm_search_score(search, &search->record[pair->record],
						 crm_search_other(search, pair->tid));
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(search->context);
	search->npairs = 0;
}

/* Puts by a pair of a record and a row that shares keys with it. */
static void
crm_search_pair(DuplicateSearch *search, uint64 tid, uint32 record)
{
	if (search->npairs == search->pairs_allocated)
	{
		search->pairs_allocated = Max(64, 2 * search->pairs_allocated);
		search->pair = search->pair == NULL
						   ? palloc(sizeof(SearchPair) * search->pairs_allocated)
						   : repalloc(search->pair, sizeof(SearchPair) * search->pairs_allocated);
	}
	search->pair[search->npairs].tid = tid;
	search->pair[search->npairs++].record = record;
}

void
crm_duplicate_search_run(DuplicateSearch *search)
{
	MemoryContext old = MemoryContextSwitchTo(search->context);
	MemoryContext row_context =
		AllocSetContextCreate(search->context, "crm duplicate candidate", ALLOCSET_DEFAULT_SIZES);
	Relation index = index_open(search->rules->columns->indexid, AccessShareLock);

	search->slot = table_slot_create(search->rel, NULL);
	search->slot_tid = 0;
	search->fetch = table_index_fetch_begin(search->rel);
	search->postings = crm_postings_begin(index, GetActiveSnapshot());
	crm_search_look_up(search);
	for (int i = 0; i < search->nrecords; i++)
	{
		uint32 n;

		CHECK_FOR_INTERRUPTS();
		crm_search_expect(search, i);
		n = crm_search_sharers(search, &search->record[i]);
		for (uint32 k = 0; k < Min(n, MAX_SCORED); k++)
			crm_search_pair(search, search->taken[k].tid, (uint32) i);
		if (search->npairs >= MAX_PAIRS)
			crm_search_score_pairs(search, row_context);
	}
	crm_search_score_pairs(search, row_context);
	for (int i = 0; i < search->nrecords; i++)
	{
		SearchRecord *r = &search->record[i];

		if (r->nfound > 1)
			qsort(r->found, r->nfound, sizeof(DuplicateFound), crm_cmp_found);
		r->nfound = Min(r->nfound, MAX_FOUND);
	}
	table_index_fetch_end(search->fetch);
	ExecDropSingleTupleTableSlot(search->slot);
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
