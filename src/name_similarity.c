/*
 * name_similarity.c
 *		How alike two names are, without knowledge of other names.  Pure.
 *
 * Every token weighs what its kind says about identity, a word more the longer
 * it is.  Tokens of one name are paired with tokens of the other in three
 * rounds: equal tokens, those with equal neighbours first; words that are
 * written in one name as several ("deer park", "deerpark"; 北京 and "beijing");
 * words that differ in few letters.  A pair counts for the likeness of its
 * tokens, and less where the tokens around them differ, so that order and
 * context matter without a swap of given and family name costing much.
 *
 * The result is the weight of what was paired over the weight of all (Dice),
 * or, if more, most of what share of the lighter name was found in the other:
 * 伟测半导体 is a short form of 上海伟测半导体科技股份有限公司.
 *
 * Legal forms take no part.  Which name comes first is decided by their keys,
 * so that the result does not depend on the order of the arguments.
 */
#include <string.h>

#include "name.h"

#define MAX_COMPARED 64 /* tokens of a name that take part; names rarely have 20 */

/* By CrmNameKind. */
static const float kind_weight[] = {1.0f, 0.0f, 0.4f, 0.4f, 0.3f, 0.35f};

/* Share of a pair's weight that needs its neighbours to be pairs too. */
#define CONTEXT_SHARE 0.3f
/* What is left of the weight of a word that was meant to be a legal form. */
#define MISSPELT_FORM 0.2f
/* A name found whole inside another one is this much alike. */
#define CONTAINED_SHARE 0.85f
/* Numbers that differ tell branches and funds apart. */
#define OTHER_NUMBER 0.8f
/* A lighter name of less core than this is too short to be sure of. */
#define CONTAINED_CORE 1.9f

typedef struct Side
{
	const CrmNameToken *token[MAX_COMPARED];
	float weight[MAX_COMPARED];
	int partner[MAX_COMPARED]; /* -1 = none yet */
	float likeness[MAX_COMPARED];
	int n;
	float total;
	float core;
} Side;

static bool
equal_tokens(const CrmNameToken *a, const CrmNameToken *b)
{
	return a->len == b->len && memcmp(a->text, b->text, a->len) == 0;
}

/*
 * Edit distance with transpositions of neighbours (optimal string alignment),
 * bit-parallel after Hyyrö (2003): one word of 64 bits holds a column.
 */
static int
edit_distance(const char *a, int alen, const char *b, int blen)
{
	uint64_t match[128];
	uint64_t vp = ~(uint64_t) 0, vn = 0, d0 = 0, previous = 0;
	uint64_t last = (uint64_t) 1 << (alen - 1);
	int distance = alen;

	for (int j = 0; j < blen; j++)
		match[b[j] & 127] = 0;
	for (int i = 0; i < alen; i++)
		match[a[i] & 127] = 0;
	for (int i = 0; i < alen; i++)
		match[a[i] & 127] |= (uint64_t) 1 << i;
	for (int j = 0; j < blen; j++)
	{
		uint64_t pm = match[b[j] & 127];
		uint64_t hp, hn;

		d0 = (((~d0 & pm) << 1) & previous) | (((pm & vp) + vp) ^ vp) | pm | vn;
		hp = vn | ~(d0 | vp);
		hn = d0 & vp;
		if (hp & last)
			distance++;
		if (hn & last)
			distance--;
		hp = hp << 1 | 1;
		hn <<= 1;
		vp = hn | ~(d0 | hp);
		vn = hp & d0;
		previous = pm;
	}
	return distance;
}

/* "Limitde": a last word one letter away from a long legal form. */
static bool
is_misspelt_form(const CrmNameToken *token)
{
	static const char *const forms[] = {"limited", "company", "corporation", "incorporated"};

	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
	{
		int len = (int) strlen(forms[i]);

		if (token->len >= len - 1 && token->len <= len + 1 &&
			edit_distance(token->text, token->len, forms[i], len) <= 1)
			return true;
	}
	return false;
}

static void
fill_side(Side *side, const CrmName *name)
{
	side->n = 0;
	side->total = side->core = 0;
	for (int i = 0; i < name->ntokens && side->n < MAX_COMPARED; i++)
	{
		const CrmNameToken *token = &name->tokens[i];
		float weight = kind_weight[token->kind];

		if (token->kind == CRM_NAME_LEGAL_FORM)
			continue;
		if (token->script != CRM_SCRIPT_HAN)
			weight *= token->len < 8 ? 0.4f + 0.25f * token->len : 2.4f;
		if (i == name->ntokens - 1 && token->kind == CRM_NAME_CORE && is_misspelt_form(token))
			weight *= MISSPELT_FORM;
		side->token[side->n] = token;
		side->weight[side->n] = weight;
		side->partner[side->n] = -1;
		side->likeness[side->n] = 0;
		side->total += weight;
		if (token->kind == CRM_NAME_CORE)
			side->core += weight;
		side->n++;
	}
}

/* Of two words that are not equal: 0 unless few letters differ or one abbreviates the other. */
static float
word_likeness(const char *a, int alen, const char *b, int blen)
{
	int shorter = alen < blen ? alen : blen;
	int longer = alen < blen ? blen : alen;
	int distance;
	bool number = a[0] <= '9' && b[0] <= '9';

	if (number)
		return 0.0f;
	if (shorter == 1)
		return a[0] == b[0] ? 0.5f : 0.0f; /* an initial */
	if ((longer - shorter) * 3 <= longer)
	{
		distance = edit_distance(a, alen, b, blen);
		if (distance * 3 <= longer || (distance == 1 && longer == 2))
			return 1.0f - (float) distance / longer;
	}
	if (shorter >= 3 && memcmp(a, b, shorter) == 0)
		return 0.6f;
	return 0.0f;
}

static void
pair(Side *a, int i, Side *b, int j, float likeness)
{
	a->partner[i] = j;
	b->partner[j] = i;
	a->likeness[i] = b->likeness[j] = likeness;
}

static bool
equal_at(const Side *a, int i, const Side *b, int j)
{
	bool aout = i < 0 || i >= a->n;
	bool bout = j < 0 || j >= b->n;

	if (aout || bout)
		return aout && bout;
	return equal_tokens(a->token[i], b->token[j]);
}

static void
pair_equal(Side *a, Side *b)
{
	for (int neighbours = 2; neighbours >= 0; neighbours--)
		for (int i = 0; i < a->n; i++)
		{
			if (a->partner[i] >= 0)
				continue;
			for (int j = 0; j < b->n; j++)
				if (b->partner[j] < 0 && equal_tokens(a->token[i], b->token[j]) &&
					equal_at(a, i - 1, b, j - 1) + equal_at(a, i + 1, b, j + 1) >= neighbours)
				{
					pair(a, i, b, j, 1.0f);
					break;
				}
		}
}

static void
pair_alike(Side *a, Side *b)
{
	for (int i = 0; i < a->n; i++)
	{
		const CrmNameToken *token = a->token[i];
		float best = 0;
		int which = -1;

		if (a->partner[i] >= 0 || token->script == CRM_SCRIPT_HAN)
			continue;
		for (int j = 0; j < b->n; j++)
		{
			float likeness;

			if (b->partner[j] >= 0 || b->token[j]->script == CRM_SCRIPT_HAN)
				continue;
			likeness = word_likeness(token->text, token->len, b->token[j]->text, b->token[j]->len);
			if (likeness > best)
			{
				best = likeness;
				which = j;
			}
		}
		if (which >= 0)
			pair(a, i, b, which, best);
	}
}

/* Pairs a word of a with two to four words of b in a row; they share its place. */
static void
pair_joined(Side *a, Side *b)
{
	for (int i = 0; i < a->n; i++)
	{
		const CrmNameToken *token = a->token[i];

		if (a->partner[i] >= 0 || token->script == CRM_SCRIPT_HAN || token->len < 4)
			continue;
		for (int j = 0; j + 1 < b->n && a->partner[i] < 0; j++)
		{
			char joined[CRM_NAME_MAX_WORD];
			int len = 0;

			for (int k = j; k < b->n && k < j + 4 && b->partner[k] < 0; k++)
			{
				float likeness = 0;

				if (len + b->token[k]->len > token->len + 2 ||
					len + b->token[k]->len > CRM_NAME_MAX_WORD)
					break;
				memcpy(joined + len, b->token[k]->text, b->token[k]->len);
				len += b->token[k]->len;
				if (k > j && len + 2 >= token->len)
					likeness = len == token->len && memcmp(joined, token->text, len) == 0
								   ? 1.0f
								   : word_likeness(token->text, token->len, joined, len);
				if (likeness >= 0.7f)
				{
					for (int m = j; m <= k; m++)
						pair(a, i, b, m, likeness);
					break;
				}
			}
		}
	}
}

/* Do tokens next to each other have partners next to each other, or the same one? */
static bool
close_partners(const Side *a, int i, int neighbour)
{
	int distance = a->partner[neighbour] - a->partner[i];

	return a->partner[neighbour] >= 0 && distance >= -1 && distance <= 1;
}

/* Weight of one side that was paired. */
static float
paired_weight(const Side *a, const Side *b)
{
	float weight = 0;

	for (int i = 0; i < a->n; i++)
	{
		int j = a->partner[i];
		bool before, after;

		if (j < 0)
			continue;
		before = i == 0 ? j == 0 : close_partners(a, i, i - 1);
		after = i == a->n - 1 ? j == b->n - 1 : close_partners(a, i, i + 1);
		weight += a->weight[i] * a->likeness[i] *
				  (1.0f - CONTEXT_SHARE + CONTEXT_SHARE * 0.5f * (float) (before + after));
	}
	return weight;
}

static bool
has_other_number(const Side *side)
{
	for (int i = 0; i < side->n; i++)
		if (side->partner[i] < 0 && side->token[i]->script == CRM_SCRIPT_DIGITS)
			return true;
	return false;
}

float
crm_name_compare(const CrmName *a, const CrmName *b)
{
	char akey[CRM_NAME_MAX_TEXT], bkey[CRM_NAME_MAX_TEXT];
	size_t alen = crm_name_write_key(a, akey);
	size_t blen = crm_name_write_key(b, bkey);
	Side x, y;
	float dice, xshare, yshare, contained, result;
	int order;

	if (alen == 0 || blen == 0)
		return 0.0f;
	order = memcmp(akey, bkey, alen < blen ? alen : blen);
	if (order == 0 && alen == blen)
		return 1.0f;
	if (order > 0 || (order == 0 && alen > blen))
	{
		const CrmName *swap = a;

		a = b;
		b = swap;
	}
	fill_side(&x, a);
	fill_side(&y, b);
	if (x.total <= 0 || y.total <= 0)
		return 0.0f;
	pair_equal(&x, &y);
	pair_joined(&x, &y);
	pair_joined(&y, &x);
	pair_alike(&x, &y);
	xshare = paired_weight(&x, &y);
	yshare = paired_weight(&y, &x);
	dice = (xshare + yshare) / (x.total + y.total);
	contained = x.total < y.total ? (x.core >= CONTAINED_CORE ? xshare / x.total : 0)
								  : (y.core >= CONTAINED_CORE ? yshare / y.total : 0);
	result = dice > contained * CONTAINED_SHARE ? dice : contained * CONTAINED_SHARE;
	if (has_other_number(&x) && has_other_number(&y))
		result *= OTHER_NUMBER;
	/* 1 is for equal keys. */
	return result < 0.99f ? result : 0.99f;
}
