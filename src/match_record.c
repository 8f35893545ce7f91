/*
 * match_record.c
 *		From the values of a row to the features that are compared and the keys
 *		an index finds the row by.
 *
 * Indexes store the keys, so nothing here may depend on the locale, on ICU's
 * version or on settings: a change of what is computed is a change of the
 * index format.
 *
 * Names and addresses become grams: pairs of neighbouring syllables where the
 * text is Han, so that homophones and both scripts meet, and trigrams of words
 * elsewhere.  Wide keys (three syllables, one syllable skipped, whole words,
 * pairs of words) are conjunctions made in advance: a name of nothing but
 * common grams is still found by a short posting list.
 */
#include "postgres.h"

#include "match.h"
#include "match_order.h"
#include "match_text.h"
#include "name.h"

struct MatchScratch
{
	CrmNameBuffer name;
	CrmNameBuffer other;
	MatchRecord head;
	uint32 name_gram[MATCH_MAX_GRAMS];
	uint8 name_gram_bits[MATCH_MAX_GRAMS];
	uint32 street_gram[MATCH_MAX_GRAMS];
	uint8 street_gram_bits[MATCH_MAX_GRAMS];
	char text[MATCH_NTEXTS][MATCH_TEXT_MAX];
	MatchKey key[MATCH_MAX_KEYS];
	int nkeys;
	bool want_keys;
	bool want_record;
	MatchOutline read; /* of the row */
	char buffer[CRM_NAME_MAX_TEXT + MATCH_MAX_VALUE];
};

/* Rarity, in bits, that a value of an item is assumed to have before statistics. */
static const uint8 item_default_bits[MATCH_NITEMS] = {
	[ITEM_COMPANY] = 14, [ITEM_CORE] = 13,		 [ITEM_BRANCH] = 8,		  [ITEM_PHONE] = 14,
	[ITEM_EMAIL] = 14,	 [ITEM_LOCAL_PART] = 11, [ITEM_DOMAIN] = 12,	  [ITEM_TAX_ID] = 14,
	[ITEM_STREET] = 13,	 [ITEM_HOUSE] = 6,		 [ITEM_CITY] = 6,		  [ITEM_REGION] = 3,
	[ITEM_POSTCODE] = 9, [ITEM_COUNTRY] = 1,	 [ITEM_GIVEN_NAME] = 7,	  [ITEM_FAMILY_NAME] = 8,
	[ITEM_PERSON] = 13,	 [ITEM_BIRTH_DATE] = 13, [ITEM_NATIONAL_ID] = 14,
};

#define GRAM_BITS_CORE	   9
#define GRAM_BITS_REGION   6
#define GRAM_BITS_INDUSTRY 5
#define GRAM_BITS_LATIN	   7
#define GRAM_BITS_WIDE	   11
#define GRAM_BITS_PAIR	   MATCH_RAREST

static uint32
crm_hash(int key_class, const void *data, size_t len)
{
	const unsigned char *p = data;
	uint64 h = UINT64CONST(0x9E3779B97F4A7C15) * (uint64) (key_class + 1);
	uint32 result;

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * UINT64CONST(0x100000001B3);
	h ^= h >> 32;
	h *= UINT64CONST(0xD6E8FEB86659FD93);
	h ^= h >> 32;
	result = (uint32) h;
	/* 0 says "blank". */
	return result != 0 ? result : 1;
}

/*
 * Whether a key is evidence by itself has to be the same for all who share it,
 * so its hash says it: those of pieces are even.
 */
uint32
crm_match_hash(int key_class, const void *data, size_t len)
{
	uint32 hash = crm_hash(key_class, data, len);

	switch (key_class)
	{
		case KEY_NAME_GRAM:
		case KEY_NAME_WIDE:
		case KEY_STREET_GRAM:
		case KEY_BIRTH_DATE:
		case KEY_NAME_SLIP:
			return hash > 1 ? hash & ~1u : 2;
		default:
			return hash | 1;
	}
}

static uint32
crm_hash_pair(int key_class, uint32 a, uint32 b)
{
	uint32 both[2] = {a, b};

	return crm_match_hash(key_class, both, sizeof(both));
}

MatchScratch *
crm_match_scratch(void)
{
	return palloc(sizeof(MatchScratch));
}

static void
crm_add_part_key(MatchScratch *s, uint32 hash, int default_bits, int strength, int parts)
{
	MatchKey *key;

	if (hash == 0 || !s->want_keys || s->nkeys == MATCH_MAX_KEYS)
		return;
	Assert(MATCH_HASH_IS_PIECE(hash) == (strength == MATCH_KEY_PIECE));
	key = &s->key[s->nkeys++];
	key->hash = hash;
	key->default_bits = (uint8) (default_bits * MATCH_BITS_SCALE);
	key->strength = (uint8) strength;
	key->parts = (uint8) parts;
}

static void
crm_add_key(MatchScratch *s, uint32 hash, int default_bits, int strength)
{
	crm_add_part_key(s, hash, default_bits, strength, 1);
}

static void
crm_set_item(MatchScratch *s, MatchItem item, const char *text, size_t len)
{
	if (len > 0)
		s->head.item[item] = crm_match_hash(item, text, len);
}

static void
crm_set_text(MatchScratch *s, MatchText text, const char *data, size_t len)
{
	if (len > MATCH_TEXT_MAX)
		len = MATCH_TEXT_MAX;
	memcpy(s->text[text], data, len);
	s->head.text_len[text] = (uint8) len;
}

/* A key of two items, when both are known. */
static void
crm_add_pair(MatchScratch *s, uint32 a, uint32 b)
{
	if (a != 0 && b != 0)
		crm_add_key(s, crm_hash_pair(KEY_PAIR, a, b), GRAM_BITS_PAIR, MATCH_KEY_IDENTIFIER);
}

typedef struct GramSink
{
	uint32 *gram;
	uint8 *bits;
	int n;
	int key_class;
} GramSink;

static void
crm_add_gram(GramSink *sink, const char *text, size_t len, int bits)
{
	if (sink->n == MATCH_MAX_GRAMS)
		return;
	sink->gram[sink->n] = crm_match_hash(sink->key_class, text, len);
	sink->bits[sink->n++] = (uint8) (bits * MATCH_BITS_SCALE);
}

static int
crm_token_bits(const CrmNameToken *token)
{
	switch (token->kind)
	{
		case CRM_NAME_REGION:
			return GRAM_BITS_REGION;
		case CRM_NAME_INDUSTRY:
		case CRM_NAME_GROUP:
		case CRM_NAME_BRANCH:
			return GRAM_BITS_INDUSTRY;
		default:
			return GRAM_BITS_CORE;
	}
}

/* Trigrams of a word with one space at either end; a word of one letter is its own gram. */
static void
crm_word_grams(GramSink *sink, const CrmNameToken *token)
{
	char padded[CRM_NAME_MAX_WORD + 2];
	int bits = token->kind == CRM_NAME_CORE ? GRAM_BITS_LATIN : GRAM_BITS_INDUSTRY - 1;

	padded[0] = ' ';
	memcpy(padded + 1, token->text, token->len);
	padded[token->len + 1] = ' ';
	for (int i = 0; i + 3 <= token->len + 2; i++)
		crm_add_gram(sink, padded + i, 3, bits);
}

static size_t
crm_join_tokens(char *out, const CrmNameToken *a, const CrmNameToken *b, const CrmNameToken *c)
{
	size_t n = 0;

	memcpy(out, a->text, a->len);
	n += a->len;
	out[n++] = ' ';
	memcpy(out + n, b->text, b->len);
	n += b->len;
	if (c != NULL)
	{
		out[n++] = ' ';
		memcpy(out + n, c->text, c->len);
		n += c->len;
	}
	return n;
}

/* Neighbours of a short Han name under the key that two syllables with one between them have. */
static void
crm_picked_keys(MatchScratch *s, const CrmName *name)
{
	const CrmNameToken *last = NULL;
	char joined[2 * CRM_NAME_MAX_WORD + 2] = "*";

	for (int i = 0; i < name->ntokens; i++)
	{
		const CrmNameToken *token = &name->tokens[i];

		if (token->kind == CRM_NAME_LEGAL_FORM)
			continue;
		if (token->script == CRM_SCRIPT_HAN && last != NULL)
			crm_add_key(s,
						crm_match_hash(KEY_NAME_WIDE, joined,
									   1 + crm_join_tokens(joined + 1, last, token, NULL)),
						GRAM_BITS_CORE, MATCH_KEY_PIECE);
		last = token->script == CRM_SCRIPT_HAN ? token : NULL;
	}
}

/* Grams of the tokens; for names (wide) also the keys of longer pieces. */
static void
crm_token_grams(MatchScratch *s, const CrmName *name, GramSink *sink, bool wide)
{
	const CrmNameToken *last[2] = {NULL, NULL}; /* the tokens before, nearest first */
	char joined[3 * CRM_NAME_MAX_WORD + 2];
	int run = 0; /* Han tokens in a row */

	for (int i = 0; i < name->ntokens; i++)
	{
		const CrmNameToken *token = &name->tokens[i];
		bool han = token->script == CRM_SCRIPT_HAN;

		if (token->kind == CRM_NAME_LEGAL_FORM && wide)
			continue;
		if (han)
		{
			if (run > 0)
			{
				int bits = Max(crm_token_bits(token), crm_token_bits(last[0]));

				crm_add_gram(sink, joined, crm_join_tokens(joined, last[0], token, NULL), bits);
			}
			run++;
		}
		else
		{
			if (token->script == CRM_SCRIPT_DIGITS && !wide)
				crm_add_gram(sink, token->text, token->len, GRAM_BITS_INDUSTRY);
			else
				crm_word_grams(sink, token);
			run = 0;
		}
		last[1] = last[0];
		last[0] = token;
	}
	/* One Han character stands alone; elsewhere its pairs say more. */
	if (sink->n == 0 && last[0] != NULL)
		crm_add_gram(sink, last[0]->text, last[0]->len, GRAM_BITS_CORE);
}

/* A piece of a name; what its tokens are called first tells pieces of different shape apart. */
static void
crm_add_piece(MatchScratch *s, char shape, const CrmNameToken *a, const CrmNameToken *b,
			  const CrmNameToken *c, int bits)
{
	char joined[3 * CRM_NAME_MAX_WORD + 3];

	joined[0] = shape;
	crm_add_key(s, crm_match_hash(KEY_NAME_WIDE, joined, 1 + crm_join_tokens(joined + 1, a, b, c)),
				bits, MATCH_KEY_PIECE);
}

static int
crm_cmp_token(const CrmNameToken *a, const CrmNameToken *b)
{
	int c = memcmp(a->text, b->text, Min(a->len, b->len));

	return c != 0 ? c : a->len - b->len;
}

#define CRM_ORDER_TOKENS(a, b)           \
	do                                   \
	{                                    \
		if (crm_cmp_token(a, b) > 0)     \
		{                                \
			const CrmNameToken *t = (a); \
			(a) = (b);                   \
			(b) = t;                     \
		}                                \
	} while (0)

/* A word, by its trigrams: those of one word say together what it says. */
static void
crm_add_word_pieces(MatchScratch *s, const CrmNameToken *token)
{
	char padded[CRM_NAME_MAX_WORD + 2];

	padded[0] = ' ';
	memcpy(padded + 1, token->text, token->len);
	padded[token->len + 1] = ' ';
	for (int i = 0; i + 3 <= token->len + 2; i++)
		crm_add_part_key(s, crm_match_hash(KEY_NAME_GRAM, padded + i, 3), GRAM_BITS_LATIN,
						 MATCH_KEY_PIECE, token->len);
}

#define SLIP_LEAST 4 /* letters of a word that is found with one of them wrong */
#define SLIP_MOST  9 /* ... and of one that has no pieces, which are rare in long ones only */

/* A short word, and with each of its letters left out: words one slip apart share one. */
static void
crm_add_slips(MatchScratch *s, const CrmNameToken *token)
{
	char left[SLIP_MOST];

	if (token->len < SLIP_LEAST || token->len > SLIP_MOST)
		return;
	crm_add_key(s, crm_match_hash(KEY_NAME_SLIP, token->text, token->len), GRAM_BITS_CORE,
				MATCH_KEY_PIECE);
	for (int i = 0; i < token->len; i++)
	{
		if (i > 0 && token->text[i] == token->text[i - 1])
			continue;
		memcpy(left, token->text, i);
		memcpy(left + i, token->text + i + 1, token->len - i - 1);
		crm_add_key(s, crm_match_hash(KEY_NAME_SLIP, left, token->len - 1), GRAM_BITS_CORE,
					MATCH_KEY_PIECE);
	}
}

/* Where a word of business follows: with its first and last letters, one of which a slip leaves. */
static void
crm_add_ends(MatchScratch *s, const CrmNameToken *a, const CrmNameToken *b)
{
	CrmNameToken end = *b;

	if (b->len < 4)
		return;
	end.len = 3;
	crm_add_piece(s, '<', a, &end, NULL, GRAM_BITS_WIDE);
	end.text = b->text + b->len - 3;
	crm_add_piece(s, '>', a, &end, NULL, GRAM_BITS_WIDE);
}

/*
 * The keys of a name.  An entry of an index costs some microseconds, so words of
 * business are not cut into pieces where the name has others, and syllables
 * around a missing one are kept only for those others.  Neighbouring syllables
 * count in any order, because they are often swapped.
 */
static void
crm_name_keys(MatchScratch *s, const CrmName *name)
{
	const CrmNameToken *last[2] = {NULL, NULL}; /* the tokens before, nearest first */
	int run = 0;								/* Han tokens in a row */
	int n = 0;
	bool core = false;

	for (int i = 0; i < name->ntokens; i++)
		core = core || name->tokens[i].kind == CRM_NAME_CORE;
	for (int i = 0; i < name->ntokens; i++)
	{
		const CrmNameToken *token = &name->tokens[i];

		if (token->kind == CRM_NAME_LEGAL_FORM)
			continue;
		n++;
		if (token->script == CRM_SCRIPT_HAN)
		{
			if (run > 0)
			{
				const CrmNameToken *a = last[0], *b = token;

				CRM_ORDER_TOKENS(a, b);
				crm_add_piece(s, '2', a, b, NULL,
							  Max(crm_token_bits(token), crm_token_bits(last[0])));
			}
			if (run > 1)
			{
				const CrmNameToken *a = last[1], *b = last[0], *c = token;

				if (!core || (a->kind == CRM_NAME_CORE && c->kind == CRM_NAME_CORE))
					crm_add_piece(s, '*', a, c, NULL, GRAM_BITS_CORE);
				CRM_ORDER_TOKENS(a, b);
				CRM_ORDER_TOKENS(b, c);
				CRM_ORDER_TOKENS(a, b);
				crm_add_piece(s, '3', a, b, c, GRAM_BITS_WIDE);
			}
			run++;
		}
		else
		{
			crm_add_key(s, crm_match_hash(KEY_NAME_WIDE, token->text, token->len),
						token->kind == CRM_NAME_CORE ? GRAM_BITS_CORE : GRAM_BITS_INDUSTRY,
						MATCH_KEY_PIECE);
			if (!core || token->kind == CRM_NAME_CORE)
			{
				if (token->len == 3 || token->len >= SLIP_MOST)
					crm_add_word_pieces(s, token);
				crm_add_slips(s, token);
			}
			if (last[0] != NULL)
			{
				const CrmNameToken *a = last[0], *b = token;

				crm_add_ends(s, last[0], token);
				CRM_ORDER_TOKENS(a, b);
				crm_add_piece(s, '2', a, b, NULL, GRAM_BITS_WIDE);
			}
			run = 0;
		}
		last[1] = last[0];
		last[0] = token;
	}
	/* A short name may be picked from a longer one, 浦发银行 from 浦东发展银行. */
	if (n <= 6)
		crm_picked_keys(s, name);
	/* One Han character stands alone; elsewhere its pairs say more. */
	if (n == 1 && run == 1)
		crm_add_key(s, crm_match_hash(KEY_NAME_GRAM, last[0]->text, last[0]->len), GRAM_BITS_CORE,
					MATCH_KEY_PIECE);
}

/* Orders grams by hash and drops repeated ones. */
static void
crm_sort_grams(GramSink *sink)
{
	sink->n = crm_order_grams(sink->gram, sink->bits, sink->n);
}

/* Tokens joined by spaces; digits of a number in Han are as good as Latin ones. */
static size_t
crm_append_token(char *out, size_t n, const CrmNameToken *token)
{
	if (n > 0)
		out[n++] = ' ';
	memcpy(out + n, token->text, token->len);
	return n + token->len;
}

static void
crm_place(MatchScratch *s, MatchItem item, const MatchValue *value)
{
	CrmName *name = crm_name_parse_into(value->data, value->len, &s->other);
	size_t n = 0;
	int end = name->ntokens;

	/* 武汉市 is 武汉. */
	if (end > 2 && crm_match_is_place_suffix(&name->tokens[end - 1]))
		end--;
	for (int j = 0; j < end; j++)
		n = crm_append_token(s->buffer, n, &name->tokens[j]);
	crm_set_item(s, item, s->buffer, n);
	if (item == ITEM_CITY)
		crm_set_text(s, TEXT_CITY, s->buffer, n);
}

/* "Spago (Los Angeles)" in Los Angeles is Spago: the words of the record's own city are a region.
 */
static void
crm_mark_city(MatchScratch *s, CrmName *name)
{
	const char *city = s->text[TEXT_CITY];
	int length = s->head.text_len[TEXT_CITY];

	for (int start = 0; start < length;)
	{
		int end = start;

		while (end < length && city[end] != ' ')
			end++;
		for (int i = 0; i < name->ntokens; i++)
			if (name->tokens[i].kind == CRM_NAME_CORE && name->tokens[i].script != CRM_SCRIPT_HAN &&
				name->tokens[i].len == end - start &&
				memcmp(name->tokens[i].text, city + start, end - start) == 0)
				name->tokens[i].kind = CRM_NAME_REGION;
		start = end + 1;
	}
}

static bool
crm_token_is(const CrmNameToken *token, const char *text)
{
	/* Nearly always the first letter tells. */
	return token->len > 0 && token->text[0] == text[0] && token->len == strlen(text) &&
		   memcmp(token->text, text, token->len) == 0;
}

/*
 * Short names of listed firms: 可靠股份 says 股份 for its legal form; *ST before
 * the name and A or B after it mark the share.
 */
static void
crm_mark_listed(CrmName *name)
{
	int n = name->ntokens;

	if (n > 2 && name->tokens[n - 2].simplified == 0x80A1 &&
		name->tokens[n - 1].simplified == 0x4EFD)
		name->tokens[n - 2].kind = name->tokens[n - 1].kind = CRM_NAME_LEGAL_FORM;
	if (n > 1 && name->tokens[0].script == CRM_SCRIPT_LATIN &&
		name->tokens[1].script == CRM_SCRIPT_HAN && crm_token_is(&name->tokens[0], "st"))
		name->tokens[0].kind = CRM_NAME_LEGAL_FORM;
	if (n > 2 && name->tokens[n - 2].script == CRM_SCRIPT_HAN &&
		(crm_token_is(&name->tokens[n - 1], "a") || crm_token_is(&name->tokens[n - 1], "b")))
		name->tokens[n - 1].kind = CRM_NAME_LEGAL_FORM;
}

/*
 * "Acme - Exeter Office" is a branch, "Acme (Head Office)" is Acme; a law office or
 * a post office is what the firm does.
 */
static void
crm_mark_office(CrmName *name)
{
	static const char *const head[] = {"head", "main", "central", "registered"};
	static const char *const trade[] = {"law", "post", "patent", "box", "dental", "medical"};
	int n = name->ntokens;

	while (n > 0 && name->tokens[n - 1].kind == CRM_NAME_LEGAL_FORM)
		n--;
	if (n < 3 || !crm_token_is(&name->tokens[n - 1], "office"))
		return;
	for (int i = 0; i < (int) lengthof(head); i++)
		if (crm_token_is(&name->tokens[n - 2], head[i]))
		{
			name->tokens[n - 2].kind = name->tokens[n - 1].kind = CRM_NAME_LEGAL_FORM;
			return;
		}
	for (int i = 0; i < (int) lengthof(trade); i++)
		if (crm_token_is(&name->tokens[n - 2], trade[i]))
			return;
	name->tokens[n - 1].kind = CRM_NAME_BRANCH;
	name->flags |= CRM_NAME_HAS_BRANCH;
}

/* What a house may have several of, one beside the other; told apart by five letters. */
static bool
crm_is_venue(const CrmNameToken *token)
{
	static const char *const venues[] = {
		"bar",	   "bistro", "brasserie", "buffet", "cafe",		  "cafeteria", "cantina",
		"club",	   "deli",	 "diner",	  "dining", "grill",	  "grille",	   "inn",
		"kitchen", "lounge", "pizzeria",  "pub",	"steakhouse", "tavern"};

	for (int i = 0; i < (int) lengthof(venues); i++)
		if (crm_token_is(token, venues[i]))
			return true;
	return false;
}

#define BUSINESS_LETTERS 5 /* industry, industries, industrial */
#define LINKING_WORD	 3 /* letters of words that say nothing: the, of, and, und, des */

/* What the firm does: 商贸 and 贸易 have a character in common, and 业 is in everything. */
static uint64
crm_business(const CrmName *name)
{
	uint64 result = 0;

	for (int i = 0; i < name->ntokens; i++)
	{
		const CrmNameToken *token = &name->tokens[i];

		if (token->script != CRM_SCRIPT_HAN && crm_is_venue(token))
		{
			result |= UINT64CONST(1)
					  << (crm_hash(KEY_NAME_WIDE, token->text, Min(token->len, BUSINESS_LETTERS)) &
						  63);
			continue;
		}
		if (token->kind != CRM_NAME_INDUSTRY)
			continue;
		if (token->script == CRM_SCRIPT_HAN)
		{
			if (token->simplified != 0x4E1A)
				result |= UINT64CONST(1)
						  << (crm_hash(KEY_NAME_WIDE, &token->simplified, sizeof(uint32)) & 63);
		}
		else if (token->len > LINKING_WORD && !crm_token_is(token, "company") &&
				 !crm_token_is(token, "limited"))
			result |= UINT64CONST(1)
					  << (crm_hash(KEY_NAME_WIDE, token->text, Min(token->len, BUSINESS_LETTERS)) &
						  63);
	}
	return result;
}

/* A Han character as it is written, but for its script, in a byte above 127. */
static char
crm_han_byte(const CrmNameToken *token)
{
	return (char) (0x80 | (crm_hash(KEY_NAME_GRAM, &token->simplified, sizeof(uint32)) & 0x7F));
}

static size_t
crm_without_spaces(char *out, const char *text, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++)
		if (text[i] != ' ')
			out[n++] = text[i];
	return n;
}

/* The words that distinguish a company, for comparison letter by letter. */
static void
crm_company_text(MatchScratch *s, const CrmName *name, int end)
{
	char *out = s->text[TEXT_COMPANY];
	int n = 0;

	for (int i = 0; i < end && n < MATCH_TEXT_MAX; i++)
	{
		const CrmNameToken *token = &name->tokens[i];

		if (token->kind != CRM_NAME_CORE)
			continue;
		if (token->script == CRM_SCRIPT_HAN)
			out[n++] = crm_han_byte(token);
		else
			for (int j = 0; j < token->len && n < MATCH_TEXT_MAX; j++)
				out[n++] = token->text[j];
	}
	s->head.text_len[TEXT_COMPANY] = (uint8) n;
}

#define END_LETTERS 5

/* What is compared when letters of a word of business are wrong, so that it is not known as one. */
static void
crm_words_text(MatchScratch *s, const CrmName *name)
{
	char *out = s->text[TEXT_WORDS];
	int n = 0;

	for (int i = 0; i < name->ntokens; i++)
	{
		const CrmNameToken *token = &name->tokens[i];
		int len = Min(token->len, MATCH_TEXT_MAX - n);

		if (token->script == CRM_SCRIPT_HAN)
			return;
		if (token->kind == CRM_NAME_LEGAL_FORM ||
			(token->kind == CRM_NAME_INDUSTRY && token->len <= LINKING_WORD))
			continue;
		memcpy(out + n, token->text, len);
		n += len;
	}
	s->head.text_len[TEXT_WORDS] = (uint8) n;

	/* Both ends of a long name are right when words ran together or a letter between is wrong. */
	if (n >= 2 * END_LETTERS)
	{
		char ends[1 + 2 * END_LETTERS] = "=";

		memcpy(ends + 1, out, END_LETTERS);
		memcpy(ends + 1 + END_LETTERS, out + n - END_LETTERS, END_LETTERS);
		crm_add_key(s, crm_match_hash(KEY_NAME_WIDE, ends, sizeof(ends)), GRAM_BITS_WIDE,
					MATCH_KEY_PIECE);
	}
}

/*
 * What a short name is picked from: 上汽 from 上海汽车, IBM from International
 * Business Machines.
 */
static void
crm_name_text(MatchScratch *s, const CrmName *name)
{
	char *out = s->text[TEXT_NAME];
	const CrmNameToken *last = NULL;
	int n = 0;

	for (int i = 0; i < name->ntokens && n < MATCH_TEXT_MAX; i++)
	{
		const CrmNameToken *token = &name->tokens[i];
		bool han = token->script == CRM_SCRIPT_HAN;

		/* 集团 is often part of the legal form. */
		if (token->kind == CRM_NAME_LEGAL_FORM || token->kind == CRM_NAME_GROUP ||
			(!han && token->kind == CRM_NAME_INDUSTRY && token->len <= LINKING_WORD))
			continue;
		if (!han || last == NULL || last->script != CRM_SCRIPT_HAN || last->kind != token->kind ||
			(token->flags & CRM_TOKEN_WORD_START))
			s->head.name_starts |= UINT64CONST(1) << n;
		if (token->kind == CRM_NAME_CORE)
			s->head.name_core |= UINT64CONST(1) << n;
		out[n++] = han ? crm_han_byte(token) : token->text[0];
		last = token;
	}
	s->head.text_len[TEXT_NAME] = (uint8) n;
}

#define ACRONYM_LEAST 3
#define ACRONYM_MOST  6
#define READING_LEAST 4 /* letters */
#define READING_MOST  5 /* syllables: longer words are not spelt as one */

/*
 * What else a name is known by: the initials of its words, or in Han the
 * syllables of what distinguishes it as one word, as the firm spells itself in
 * Latin letters.  Both are keys; the second is compared, too.
 */
static void
crm_alias_keys(MatchScratch *s, const CrmName *name, int end)
{
	char initials[1 + MATCH_TEXT_MAX] = "@";
	char *roman = s->text[TEXT_ROMAN];
	size_t n = 0;
	int words = 0, han = 0, syllables = 0;

	for (int i = 0; i < end; i++)
	{
		const CrmNameToken *token = &name->tokens[i];

		if (token->script == CRM_SCRIPT_HAN)
		{
			han++;
			if (token->kind == CRM_NAME_CORE && n + token->len <= MATCH_TEXT_MAX)
			{
				memcpy(roman + n, token->text, token->len);
				n += token->len;
				syllables++;
			}
		}
		else if (token->kind != CRM_NAME_LEGAL_FORM &&
				 !(token->kind == CRM_NAME_INDUSTRY && token->len <= LINKING_WORD) &&
				 words < MATCH_TEXT_MAX)
			initials[1 + words++] = token->text[0];
	}
	if (han > 0)
	{
		s->head.flags |= MATCH_HAS_HAN;
		s->head.text_len[TEXT_ROMAN] = (uint8) n;
		if (n >= READING_LEAST && syllables <= READING_MOST)
			crm_add_key(s, crm_match_hash(KEY_NAME_WIDE, roman, n), GRAM_BITS_CORE,
						MATCH_KEY_PIECE);
		return;
	}
	if (words == 1)
	{
		const CrmNameToken *word = &name->tokens[0];

		words = word->len;
		memcpy(initials + 1, word->text, Min(words, ACRONYM_MOST));
	}
	if (words >= ACRONYM_LEAST && words <= ACRONYM_MOST)
		crm_add_key(s, crm_match_hash(KEY_NAME_WIDE, initials, 1 + words), GRAM_BITS_CORE,
					MATCH_KEY_PIECE);
}

/* 一 to 十, 东 南 西 北: they tell branches apart as numbers do. */
static int
crm_branch_number(uint32 simplified)
{
	static const uint32 numbers[] = {0x4E00, 0x4E8C, 0x4E09, 0x56DB, 0x4E94, 0x516D, 0x4E03,
									 0x516B, 0x4E5D, 0x5341, 0x4E1C, 0x5357, 0x897F, 0x5317};

	for (int i = 0; i < (int) lengthof(numbers); i++)
		if (numbers[i] == simplified)
			return i + 1;
	return 0;
}

/*
 * What follows the legal form, which is how a branch is called.  Without one,
 * what marks the branch.
 */
static void
crm_branch_text(MatchScratch *s, const CrmName *name, int branch_start)
{
	char *out = s->text[TEXT_BRANCH];
	int start = branch_start, last = name->ntokens - 1, n = 0;

	while (last >= 0 && branch_start < name->ntokens && name->tokens[last].kind != CRM_NAME_BRANCH)
		last--;
	for (int i = last; i >= 0; i--)
		if (name->tokens[i].kind == CRM_NAME_LEGAL_FORM)
		{
			start = i + 1;
			break;
		}
	for (int i = start; i < name->ntokens && n < MATCH_TEXT_MAX; i++)
	{
		const CrmNameToken *token = &name->tokens[i];
		int number = crm_branch_number(token->simplified);

		if (token->kind == CRM_NAME_LEGAL_FORM)
			continue;
		if (number != 0)
			out[n++] = (char) number;
		else if (token->script == CRM_SCRIPT_HAN)
			out[n++] = (char) (0x80 | (crm_hash(KEY_NAME_GRAM, token->text, token->len) & 0x7F));
		else
			for (int j = 0; j < token->len && n < MATCH_TEXT_MAX; j++)
				out[n++] = token->text[j];
	}
	s->head.text_len[TEXT_BRANCH] = (uint8) n;
	if (name->ntokens > 0 && name->tokens[name->ntokens - 1].kind == CRM_NAME_BRANCH)
		s->head.flags |= MATCH_ENDS_AS_BRANCH;
}

/* By its pieces, and by what distinguishes it as a whole: spaces are often misplaced. */
static void
crm_company_keys(MatchScratch *s, const CrmName *name, const char *all, size_t nall,
				 const char *core, size_t ncore)
{
	char whole[CRM_NAME_MAX_TEXT];
	size_t n;

	crm_name_keys(s, name);
	n = crm_without_spaces(whole, ncore > 0 ? core : all, ncore > 0 ? ncore : nall);
	if (n > 0)
		crm_add_key(s, crm_match_hash(KEY_NAME_WHOLE, whole, n), item_default_bits[ITEM_CORE],
					MATCH_KEY_IDENTIFIER);
}

/*
 * The company's name.  A branch is named by what follows the last legal form
 * before its marker ("... Co., Ltd. West Branch"), or by the marker alone.
 */
static void
crm_company(MatchScratch *s, const MatchValue *value)
{
	CrmName *name = crm_name_parse_into(value->data, value->len, &s->name);
	GramSink sink = {s->name_gram, s->name_gram_bits, 0, KEY_NAME_GRAM};
	int branch_start = name->ntokens;
	size_t all = 0, core = 0, branch = 0;
	char *all_text = s->buffer, *core_text = (char *) s->other.text;
	char branch_text[256];

	if (crm_match_is_placeholder(value->data, value->len))
		return;
	crm_mark_city(s, name);
	crm_mark_listed(name);
	crm_mark_office(name);
	if (name->flags & CRM_NAME_HAS_BRANCH)
	{
		int marker = 0;

		for (int i = 0; i < name->ntokens; i++)
			if (name->tokens[i].kind == CRM_NAME_BRANCH)
				marker = i;
		while (marker > 0 && name->tokens[marker - 1].kind == CRM_NAME_BRANCH)
			marker--;
		branch_start = marker;
		for (int i = marker - 1; i >= 0 && marker - i <= 8; i--)
			if (name->tokens[i].kind == CRM_NAME_LEGAL_FORM)
			{
				branch_start = i + 1;
				break;
			}
	}
	for (int i = 0; i < name->ntokens; i++)
	{
		const CrmNameToken *token = &name->tokens[i];

		if (token->kind == CRM_NAME_LEGAL_FORM)
			continue;
		all = crm_append_token(all_text, all, token);
		if (i >= branch_start)
		{
			if (branch + token->len + 1 < sizeof(branch_text))
				branch = crm_append_token(branch_text, branch, token);
		}
		else if (token->kind == CRM_NAME_CORE || token->kind == CRM_NAME_INDUSTRY)
			core = crm_append_token(core_text, core, token);
	}
	crm_words_text(s, name);
	crm_alias_keys(s, name, branch_start);
	if (s->want_keys)
		crm_company_keys(s, name, all_text, all, core_text, core);
	if (!s->want_record)
		return;

	crm_company_text(s, name, branch_start);
	crm_name_text(s, name);
	crm_branch_text(s, name, branch_start);
	crm_set_item(s, ITEM_COMPANY, all_text, all);
	crm_set_item(s, ITEM_CORE, core_text, core);
	if (branch > 0)
		crm_set_item(s, ITEM_BRANCH, branch_text, branch);
	s->head.legal_form = name->legal_form;
	s->head.business = crm_business(name);
	if (name->ntokens > 0 && name->tokens[name->ntokens - 1].script == CRM_SCRIPT_HAN)
		s->head.flags |= MATCH_HAN_COMPANY;
	if (name->flags & CRM_NAME_HAS_LEGAL_FORM)
		s->head.flags |= MATCH_HAS_LEGAL;

	crm_token_grams(s, name, &sink, true);
	crm_sort_grams(&sink);
	s->head.nname = (uint16) sink.n;
}

/* A given or family name: its words or syllables, joined without spaces. */
typedef struct PersonName
{
	char text[MATCH_TEXT_MAX];
	size_t len;
	size_t first;	/* letters of the first word or syllable */
	uint16 written; /* hash of Han as it is written, but for its script */
} PersonName;

static void
crm_add_word(PersonName *name, const CrmNameToken *token)
{
	size_t len = Min(token->len, MATCH_TEXT_MAX - name->len);

	memcpy(name->text + name->len, token->text, len);
	name->len += len;
	if (name->first == 0)
		name->first = name->len;
	if (token->script == CRM_SCRIPT_HAN)
		name->written =
			(uint16) crm_hash(KEY_NAME_GRAM + name->written, &token->simplified, sizeof(uint32));
}

/* Which of a family's persons of one name is meant, the eldest being 1; 0 for other words. */
static int
crm_generation(const CrmNameToken *token)
{
	static const struct
	{
		const char *word;
		int generation;
	} words[] = {{"sr", 1}, {"senior", 1}, {"jr", 2}, {"junior", 2},
				 {"ii", 2}, {"iii", 3},	   {"iv", 4}};

	for (int i = 0; i < (int) lengthof(words); i++)
		if (crm_token_is(token, words[i].word))
			return words[i].generation;
	return 0;
}

static bool
crm_is_salutation(const CrmNameToken *token)
{
	static const char *const words[] = {"mr",	"mrs",	"ms",	"miss", "dr",
										"prof", "herr", "frau", "mme"};

	for (int i = 0; i < (int) lengthof(words); i++)
		if (crm_token_is(token, words[i]))
			return true;
	return false;
}

/* Parses one of a person's names; Mr and Dr, titles and Jr, Sr, III are taken out. */
static CrmName *
crm_parse_person(MatchScratch *s, const MatchValue *value)
{
	CrmName *name = crm_name_parse_into(value->data, value->len, &s->other);
	int n = 0, first = 0;

	while (first + 1 < name->ntokens && crm_is_salutation(&name->tokens[first]))
		first++;
	for (int i = first; i < name->ntokens; i++)
	{
		int generation = i > first ? crm_generation(&name->tokens[i]) : 0;

		if (generation != 0)
			s->head.generation = (uint8) generation;
		else
			name->tokens[n++] = name->tokens[i];
	}
	name->ntokens = n;
	name->ntokens -= crm_match_title_tokens(name);
	return name;
}

static void
crm_person_words(MatchScratch *s, const MatchValue *value, PersonName *out, bool *han)
{
	CrmName *name;

	if (value->data == NULL)
		return;
	name = crm_parse_person(s, value);
	*han = *han || (name->ntokens > 0 && name->tokens[0].script == CRM_SCRIPT_HAN);
	for (int i = 0; i < name->ntokens; i++)
		crm_add_word(out, &name->tokens[i]);
}

/* Jr after a comma or a space; nothing at all counts as well. */
static bool
crm_take_generation(MatchScratch *s, const MatchValue *value)
{
	CrmName *name = crm_name_parse_into(value->data, value->len, &s->other);
	int generation = name->ntokens == 1 ? crm_generation(&name->tokens[0]) : 0;

	if (generation != 0)
		s->head.generation = (uint8) generation;
	return name->ntokens == 0 || generation != 0;
}

/*
 * Splits a full name: Han puts the family name first, others last, in one word or
 * in several that hyphens join, unless a comma says so.
 */
static void
crm_full_name(MatchScratch *s, const MatchValue *value, PersonName *given, PersonName *family,
			  bool *han)
{
	CrmName *name = crm_parse_person(s, value);
	MatchValue left = *value, right;
	const char *comma = memchr(value->data, ',', value->len);

	if (name->ntokens == 0)
		return;
	if (name->tokens[0].script == CRM_SCRIPT_HAN)
	{
		/* 欧阳, 司马 ...: names of four characters have a double surname */
		int nfirst = name->ntokens > 3 ? 2 : 1;

		*han = true;
		for (int i = 0; i < name->ntokens; i++)
			crm_add_word(i < nfirst ? family : given, &name->tokens[i]);
		return;
	}
	if (comma != NULL)
	{
		left.len = (int) (comma - value->data);
		right.data = comma + 1;
		right.len = value->len - left.len - 1;
		if (!crm_take_generation(s, &right))
		{
			crm_person_words(s, &left, family, han);
			crm_person_words(s, &right, given, han);
			return;
		}
	}
	do
	{
		int n = left.len;

		while (n > 0 && left.data[n - 1] != ' ')
			n--;
		right.data = left.data + n;
		right.len = left.len - n;
		if (n == 0)
		{
			crm_person_words(s, &right, given, han);
			return;
		}
		left.len = n - 1;
	} while (crm_take_generation(s, &right));
	crm_person_words(s, &left, given, han);
	crm_person_words(s, &right, family, han);
}

static void
crm_person(MatchScratch *s, const MatchValue values[MATCH_NROLES], bool has_company)
{
	PersonName given = {.len = 0}, family = {.len = 0};
	char both[2 * MATCH_TEXT_MAX];
	size_t n;
	bool han = false;
	uint32 parts[2];

	if (values[MATCH_GIVEN_NAME].data != NULL || values[MATCH_FAMILY_NAME].data != NULL)
	{
		crm_person_words(s, &values[MATCH_GIVEN_NAME], &given, &han);
		crm_person_words(s, &values[MATCH_FAMILY_NAME], &family, &han);
	}
	else if (values[MATCH_PERSON].data != NULL &&
			 !crm_match_is_placeholder(values[MATCH_PERSON].data, values[MATCH_PERSON].len))
		crm_full_name(s, &values[MATCH_PERSON], &given, &family, &han);
	if (given.len == 0 && family.len == 0)
		return;

	if (han)
		s->head.flags |= MATCH_HAN_PERSON;
	if (given.len == 1 && !han)
		s->head.flags |= MATCH_INITIAL;
	s->head.name_first[0] = (uint8) given.first;
	s->head.name_first[1] = (uint8) family.first;
	s->head.name_written[0] = given.written;
	s->head.name_written[1] = family.written;
	crm_set_item(s, ITEM_GIVEN_NAME, given.text, given.len);
	crm_set_item(s, ITEM_FAMILY_NAME, family.text, family.len);
	crm_set_text(s, TEXT_GIVEN_NAME, given.text, given.len);
	crm_set_text(s, TEXT_FAMILY_NAME, family.text, family.len);
	if (given.len == 0 || family.len == 0)
		return;

	/* Given and family name are often swapped: their pair has no order. */
	parts[0] = crm_match_hash(ITEM_PERSON, given.text, given.len);
	parts[1] = crm_match_hash(ITEM_PERSON, family.text, family.len);
	s->head.item[ITEM_PERSON] =
		crm_hash_pair(ITEM_PERSON, Min(parts[0], parts[1]), Max(parts[0], parts[1]));
	if (given.len > 1 || han)
		crm_add_key(s, s->head.item[ITEM_PERSON], item_default_bits[ITEM_PERSON],
					MATCH_KEY_IDENTIFIER);
	if (has_company || !s->want_keys)
		return;

	/* Every form with one letter left out: two names one slip apart share one. */
	n = given.len + family.len;
	{
		int c = memcmp(given.text, family.text, Min(given.len, family.len));
		bool given_first = c < 0 || (c == 0 && given.len <= family.len);

		memcpy(both, given_first ? given.text : family.text, given_first ? given.len : family.len);
		memcpy(both + (given_first ? given.len : family.len),
			   given_first ? family.text : given.text, given_first ? family.len : given.len);
	}
	if (n >= 5 && n <= 32)
	{
		char variant[2 * MATCH_TEXT_MAX];

		crm_add_key(s, crm_match_hash(KEY_PERSON_VARIANT, both, n), GRAM_BITS_WIDE,
					MATCH_KEY_VARIANT);
		for (size_t i = 0; i < n; i++)
		{
			if (i > 0 && both[i] == both[i - 1])
				continue;
			memcpy(variant, both, i);
			memcpy(variant + i, both + i + 1, n - i - 1);
			crm_add_key(s, crm_match_hash(KEY_PERSON_VARIANT, variant, n - 1), GRAM_BITS_WIDE,
						MATCH_KEY_VARIANT);
		}
	}
}

static void
crm_town(MatchScratch *s, const MatchValue values[MATCH_NROLES])
{
	const MatchValue *postcode = &values[MATCH_POSTCODE];

	if (values[MATCH_CITY].data != NULL)
		crm_place(s, ITEM_CITY, &values[MATCH_CITY]);
	if (postcode->data != NULL)
		crm_set_item(s, ITEM_POSTCODE, s->buffer,
					 crm_match_alnum(postcode->data, postcode->len, s->buffer, MATCH_TEXT_MAX));
}

/* All of the address but what crm_town() reads. */
static void
crm_address(MatchScratch *s, const MatchValue values[MATCH_NROLES])
{
	const MatchValue *street = &values[MATCH_STREET];

	if (values[MATCH_REGION].data != NULL && s->want_record)
		crm_place(s, ITEM_REGION, &values[MATCH_REGION]);
	if (values[MATCH_COUNTRY].data != NULL && s->want_record)
		crm_place(s, ITEM_COUNTRY, &values[MATCH_COUNTRY]);
	if (street->data != NULL && !crm_match_is_placeholder(street->data, street->len))
	{
		CrmName *name = crm_name_parse_into(street->data, street->len, &s->other);
		GramSink sink = {s->street_gram, s->street_gram_bits, 0, KEY_STREET_GRAM};
		size_t n = 0;

		if (s->want_record)
		{
			crm_token_grams(s, name, &sink, false);
			crm_sort_grams(&sink);
			s->head.nstreet = (uint16) sink.n;
		}
		for (int i = 0; i < name->ntokens; i++)
			n = crm_append_token(s->buffer, n, &name->tokens[i]);
		crm_set_item(s, ITEM_STREET, s->buffer, n);
		for (int i = 0; i < name->ntokens; i++)
			if (name->tokens[i].script == CRM_SCRIPT_DIGITS)
			{
				crm_set_item(s, ITEM_HOUSE, name->tokens[i].text, name->tokens[i].len);
				break;
			}
	}
}

static void
crm_identifiers(MatchScratch *s, const MatchValue values[MATCH_NROLES])
{
	char buffer[MATCH_TEXT_MAX];
	size_t n;
	MatchEmail email;

	if (values[MATCH_PHONE].data != NULL)
	{
		n = crm_match_phone(values[MATCH_PHONE].data, values[MATCH_PHONE].len, buffer);
		crm_set_item(s, ITEM_PHONE, buffer, n);
		crm_set_text(s, TEXT_PHONE, buffer, n);
	}
	if (values[MATCH_TAX_ID].data != NULL)
	{
		n = crm_match_alnum(values[MATCH_TAX_ID].data, values[MATCH_TAX_ID].len, buffer,
							MATCH_TEXT_MAX);
		if (n >= 4)
		{
			crm_set_item(s, ITEM_TAX_ID, buffer, n);
			crm_set_text(s, TEXT_TAX_ID, buffer, n);
			if (crm_match_uscc_valid(buffer, n))
				s->head.flags |= MATCH_TAX_ID_VALID;
		}
	}
	if (values[MATCH_NATIONAL_ID].data != NULL)
	{
		n = crm_match_alnum(values[MATCH_NATIONAL_ID].data, values[MATCH_NATIONAL_ID].len, buffer,
							MATCH_TEXT_MAX);
		if (n >= 4)
		{
			crm_set_item(s, ITEM_NATIONAL_ID, buffer, n);
			crm_set_text(s, TEXT_NATIONAL_ID, buffer, n);
		}
	}
	if (values[MATCH_EMAIL].data != NULL &&
		crm_match_email(values[MATCH_EMAIL].data, values[MATCH_EMAIL].len, &email))
	{
		crm_set_item(s, ITEM_EMAIL, email.address, email.length);
		crm_set_item(s, ITEM_LOCAL_PART, email.address, email.local_length);
		crm_set_text(s, TEXT_LOCAL_PART, email.address, email.local_length);
		crm_set_item(s, ITEM_DOMAIN, email.domain, email.domain_length);
	}
	if (values[MATCH_WEBSITE].data != NULL &&
		crm_match_website(values[MATCH_WEBSITE].data, values[MATCH_WEBSITE].len, &email))
		crm_set_item(s, ITEM_DOMAIN, email.domain, email.domain_length);
	if (values[MATCH_BIRTH_DATE].data != NULL)
	{
		s->head.birth_date =
			crm_match_date(values[MATCH_BIRTH_DATE].data, values[MATCH_BIRTH_DATE].len);
		if (s->head.birth_date != 0)
			s->head.item[ITEM_BIRTH_DATE] =
				crm_match_hash(ITEM_BIRTH_DATE, &s->head.birth_date, sizeof(int32));
	}
}

#define HALF_ID_LEAST 6 /* characters of an identity number */

/*
 * A slip in an identity number leaves one half of it right: the halves, with the
 * initials of the names, which are in no order.
 */
static void
crm_half_id_keys(MatchScratch *s)
{
	int n = s->head.text_len[TEXT_NATIONAL_ID];
	const char *id = s->text[TEXT_NATIONAL_ID];
	char given = s->text[TEXT_GIVEN_NAME][0], family = s->text[TEXT_FAMILY_NAME][0];
	char half[3 + MATCH_TEXT_MAX];

	if (n < HALF_ID_LEAST || s->head.text_len[TEXT_GIVEN_NAME] == 0 ||
		s->head.text_len[TEXT_FAMILY_NAME] == 0)
		return;
	half[1] = Min(given, family);
	half[2] = Max(given, family);
	half[0] = '<';
	memcpy(half + 3, id, n / 2);
	crm_add_key(s, crm_match_hash(KEY_PAIR, half, 3 + n / 2), GRAM_BITS_WIDE, MATCH_KEY_VARIANT);
	half[0] = '>';
	memcpy(half + 3, id + n / 2, n - n / 2);
	crm_add_key(s, crm_match_hash(KEY_PAIR, half, 3 + n - n / 2), GRAM_BITS_WIDE,
				MATCH_KEY_VARIANT);
}

static void
crm_index_keys(MatchScratch *s, bool has_company)
{
	static const MatchItem identifiers[] = {ITEM_PHONE, ITEM_EMAIL, ITEM_DOMAIN, ITEM_TAX_ID,
											ITEM_NATIONAL_ID};
	const uint32 *item = s->head.item;

	for (int i = 0; i < (int) lengthof(identifiers); i++)
		crm_add_key(s, item[identifiers[i]], item_default_bits[identifiers[i]],
					MATCH_KEY_IDENTIFIER);
	crm_add_pair(s, item[ITEM_STREET], item[ITEM_CITY]);
	crm_add_pair(s, item[ITEM_STREET], item[ITEM_POSTCODE]);
	if (has_company)
	{
		crm_add_pair(s, item[ITEM_PERSON], item[ITEM_CITY]);
		crm_add_pair(s, item[ITEM_PERSON], item[ITEM_DOMAIN]);
		return;
	}
	crm_add_pair(s, item[ITEM_GIVEN_NAME], item[ITEM_BIRTH_DATE]);
	crm_add_pair(s, item[ITEM_FAMILY_NAME], item[ITEM_BIRTH_DATE]);
	crm_add_pair(s, item[ITEM_POSTCODE], item[ITEM_BIRTH_DATE]);
	crm_add_pair(s, item[ITEM_CITY], item[ITEM_BIRTH_DATE]);
	crm_add_pair(s, item[ITEM_GIVEN_NAME], item[ITEM_POSTCODE]);
	crm_add_pair(s, item[ITEM_FAMILY_NAME], item[ITEM_POSTCODE]);
	crm_add_pair(s, item[ITEM_GIVEN_NAME], item[ITEM_CITY]);
	crm_add_pair(s, item[ITEM_FAMILY_NAME], item[ITEM_CITY]);
	crm_add_pair(s, item[ITEM_GIVEN_NAME], item[ITEM_STREET]);
	crm_add_pair(s, item[ITEM_FAMILY_NAME], item[ITEM_STREET]);
	crm_half_id_keys(s);
	if (item[ITEM_LOCAL_PART] != 0 && s->head.text_len[TEXT_LOCAL_PART] >= 5)
		crm_add_key(s, crm_hash_pair(KEY_PAIR, item[ITEM_LOCAL_PART], 0), GRAM_BITS_WIDE,
					MATCH_KEY_VARIANT);
	if (item[ITEM_BIRTH_DATE] != 0)
		crm_add_key(s, crm_hash_pair(KEY_BIRTH_DATE, item[ITEM_BIRTH_DATE], 0), GRAM_BITS_WIDE,
					MATCH_KEY_PIECE);
}

static MatchRecord *
crm_pack(const MatchScratch *s)
{
	Size texts = 0;
	Size size = MAXALIGN(sizeof(MatchRecord));
	MatchRecord *record;

	for (int i = 0; i < MATCH_NTEXTS; i++)
		texts += s->head.text_len[i];
	size += (s->head.nname + s->head.nstreet) * (sizeof(uint32) + 1) + texts;
	size = MAXALIGN(size);
	record = palloc(size);
	*record = s->head;
	record->size = (uint32) size;
	memcpy(MATCH_NAME_GRAMS(record), s->name_gram, s->head.nname * sizeof(uint32));
	memcpy(MATCH_STREET_GRAMS(record), s->street_gram, s->head.nstreet * sizeof(uint32));
	memcpy(MATCH_NAME_GRAM_BITS(record), s->name_gram_bits, s->head.nname);
	memcpy(MATCH_STREET_GRAM_BITS(record), s->street_gram_bits, s->head.nstreet);
	texts = 0;
	for (int i = 0; i < MATCH_NTEXTS; i++)
	{
		record->text_start[i] = (uint16) texts;
		memcpy(MATCH_TEXT(record, i), s->text[i], s->head.text_len[i]);
		texts += s->head.text_len[i];
	}
	return record;
}

/* Begins with a row, of which nothing is read yet. */
static void
crm_begin_record(MatchScratch *s, bool want_record, bool want_keys)
{
	memset(&s->head, 0, sizeof(s->head));
	s->nkeys = 0;
	s->want_record = want_record;
	s->want_keys = want_keys;
	s->read = OUTLINE_NONE;
	for (int i = 0; i < MATCH_NITEMS; i++)
		s->head.item_bits[i] = item_default_bits[i] * MATCH_BITS_SCALE;
}

/* Reads of the row what an outline has and the one before had not. */
static void
crm_read_values(MatchScratch *s, const MatchValue values[MATCH_NROLES], MatchOutline outline)
{
	bool has_company = values[MATCH_COMPANY].data != NULL;

	if (s->read > OUTLINE_NUMBERS)
		crm_identifiers(s, values);
	if (s->read > OUTLINE_ID && outline <= OUTLINE_ID)
		crm_town(s, values);
	if (s->read > OUTLINE_NAME && outline <= OUTLINE_NAME && has_company)
		crm_company(s, &values[MATCH_COMPANY]);
	if (s->read > OUTLINE_WHOLE && outline == OUTLINE_WHOLE)
	{
		crm_address(s, values);
		crm_person(s, values, has_company);
	}
	s->read = outline;
}

void
crm_match_begin(MatchScratch *s)
{
	crm_begin_record(s, true, false);
}

MatchRecord *
crm_match_more(const MatchValue values[MATCH_NROLES], MatchScratch *s, MatchOutline outline)
{
	MatchRecord *record;

	Assert(outline < s->read);
	crm_read_values(s, values, outline);
	record = crm_pack(s);
	if (outline == OUTLINE_ID || outline == OUTLINE_NAME)
		record->flags |= MATCH_OUTLINE;
	return record;
}

MatchRecord *
crm_match_outline(const MatchValue values[MATCH_NROLES], MatchScratch *s, MatchOutline outline)
{
	crm_match_begin(s);
	return crm_match_more(values, s, outline);
}

/* All of the row, and its keys by hash ascending. */
static void
crm_read_keys(MatchScratch *s, const MatchValue values[MATCH_NROLES])
{
	crm_read_values(s, values, OUTLINE_WHOLE);
	crm_index_keys(s, values[MATCH_COMPANY].data != NULL);
	s->nkeys = crm_order_keys(s->key, s->nkeys);
}

MatchRecord *
crm_match_record(const MatchValue values[MATCH_NROLES], MatchScratch *s, const MatchKey **keys,
				 int *nkeys)
{
	if (keys == NULL)
		return crm_match_outline(values, s, OUTLINE_WHOLE);
	crm_begin_record(s, true, true);
	crm_read_keys(s, values);
	*keys = s->key;
	*nkeys = s->nkeys;
	return crm_pack(s);
}

const MatchKey *
crm_match_record_keys(const MatchValue values[MATCH_NROLES], MatchScratch *s, int *nkeys)
{
	crm_begin_record(s, false, true);
	crm_read_keys(s, values);
	*nkeys = s->nkeys;
	return s->key;
}
