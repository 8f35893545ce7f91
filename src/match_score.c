/*
 * match_score.c
 *		How strongly two records say that they mean the same person or company.
 *
 * Fellegi and Sunter's model in log2: every field that both records know adds
 * the logarithm of how much likelier its agreement is between records of one
 * customer than between strangers.  Agreement counts by the rarity of what is
 * agreed on (match_stats.c), so a shared "Smith" or a switchboard number says
 * little.  A blank says nothing.  The sum, with the prior, is the log-odds.
 *
 * Fields of one customer are not independent: a sister company has the same
 * address, switchboard and domain.  Hence what locates a company counts only up
 * to a limit, and names, branch marks and tax numbers that differ count against.
 */
#include "postgres.h"

#include <math.h>

#include "match.h"
#include "match_count.h"
#include "match_score.h"
#include "match_text.h"

double
crm_match_probability(double bits)
{
	return 1.0 / (1.0 + exp2(-bits));
}

static bool
crm_same_text(const MatchRecord *a, const MatchRecord *b, MatchText text)
{
	return a->text_len[text] == b->text_len[text] &&
		   memcmp(MATCH_TEXT(a, text), MATCH_TEXT(b, text), a->text_len[text]) == 0;
}

/* Rarity of the grams two ascending lists have in common, in bits, and of the rarest of them. */
static double
crm_overlap(const uint32 *a, const uint8 *abits, int na, const uint32 *b, int nb, double *rarest)
{
	int i = 0, j = 0, sum = 0, most = 0;

	/* No branch depends on the data: they would be guessed wrong half the time. */
	while (i < na && j < nb)
	{
		uint32 x = a[i], y = b[j];
		int bits = x == y ? abits[i] : 0;

		sum += bits;
		most = Max(most, bits);
		i += x <= y;
		j += y <= x;
	}
	*rarest = (double) most / MATCH_BITS_SCALE;
	return (double) sum / MATCH_BITS_SCALE;
}

#define SAME_NAME		5.0	 /* bits from which a company's name is taken to agree */
#define NAME_SHARED		0.40 /* of the rarity of the grams in common; they overlap */
#define NAME_RAREST		0.35 /* of the rarest gram in common: one is no overlap */
#define NAME_MISSING	0.40 /* of what the shorter name has alone */
#define NAME_EXTRA		0.08 /* of what the longer name has alone */
#define NAME_EXTRA_MOST 3.0
#define NAME_WORST		(-9.0)
#define NAME_CERTAIN	0.9	 /* of the prior: what a similar name weighs at most */
#define SLIP_NONE		0.85 /* of the rarity of the name, for no difference but in common words */
#define SLIP_ONE		0.65 /* ... for one letter wrong, missing or moved */
#define SLIP_TWO		0.45 /* ... for two */
#define SLIP_THREE		0.3	 /* ... for three */
#define SLIP_SHORT		0.7	 /* of that again, for short names */
#define WORDS_ONE		10	 /* letters of all words, in which one may be wrong, ... */
#define WORDS_TWO		12	 /* ... two, ... */
#define WORDS_THREE		18	 /* ... three */
#define PICKED_LEAST	2	 /* characters of a short name picked from a longer one */
#define PICKED_MOST		6
#define ACRONYM_LEAST	3	/* letters of an acronym */
#define PICKED_CORE		3.0 /* bits for each character that distinguishes */
#define PICKED_COMMON	1.5 /* ... that does not: of a region, of what the firm does */
#define PICKED_LONG		2.5 /* ... in a long name */
#define PICKED_INSIDE	0.4 /* of that, from within a word and not next to the one before */
#define READING_LEAST	4	/* letters of a name that is read the same in another script */
#define READING_LONG	7	/* ... in which one may be wrong */
#define NAME_CORE_LESS	1.0 /* for words that only one has, though none distinguishes */
#define NAME_CONTAINED	1.5 /* all characters of one are in the other */

/* The bytes of the shorter occur in the longer, in order. */
static bool
crm_picked(const char *shorter, int n, const char *longer, int m)
{
	int i = 0;

	for (int j = 0; j < m && i < n; j++)
		if (longer[j] == shorter[i])
			i++;
	return i == n;
}

/* The characters of the shorter name are part of the longer one, as they are written. */
static bool
crm_contained(const MatchRecord *a, const MatchRecord *b)
{
	const char *x = MATCH_TEXT(a, TEXT_COMPANY), *y = MATCH_TEXT(b, TEXT_COMPANY);
	int nx = a->text_len[TEXT_COMPANY], ny = b->text_len[TEXT_COMPANY];

	return Min(nx, ny) >= 2 &&
		   crm_picked(nx < ny ? x : y, Min(nx, ny), nx < ny ? y : x, Max(nx, ny));
}

/*
 * Names one or two slips of the hand apart.  Two short words that differ in a
 * letter are mostly two words, so the shorter the name, the less it counts.
 */
static double
crm_slip_evidence(const MatchRecord *a, const MatchRecord *b, double shared)
{
	const char *x = MATCH_TEXT(a, TEXT_COMPANY), *y = MATCH_TEXT(b, TEXT_COMPANY);
	int nx = a->text_len[TEXT_COMPANY], ny = b->text_len[TEXT_COMPANY];
	int n = Min(nx, ny), most, edits;
	double rarity;

	/* A Han syllable says as much as two letters. */
	bool han = n > 0 && ((unsigned char) x[0] & (unsigned char) y[0] & 0x80) != 0;

	if (n < (han ? 2 : 4))
		return NAME_WORST;
	most = n >= (han ? 5 : 9) ? 2 : 1;
	edits = crm_match_edits(x, nx, y, ny, most);
	if (edits > most)
		return NAME_WORST;
	if (han && n == 2 && (nx != ny || x[0] != y[1] || x[1] != y[0]))
		return NAME_WORST;
	rarity = (double) Max(a->item_bits[ITEM_CORE], b->item_bits[ITEM_CORE]) / MATCH_BITS_SCALE;
	/* The same distinguishing words among others: as rare as what they share. */
	if (edits == 0 && han)
		return SLIP_NONE * Min(rarity, shared);
	rarity *= edits == 0 ? SLIP_NONE : edits == 1 ? SLIP_ONE : SLIP_TWO;
	return n <= (han ? 3 : 6) ? rarity * SLIP_SHORT : rarity;
}

/*
 * All words one to three slips apart, where a word of business was not known as
 * one, or words ran together, so that what distinguishes the names does not show.
 */
static double
crm_words_evidence(const MatchRecord *a, const MatchRecord *b)
{
	int n = Min(a->text_len[TEXT_WORDS], b->text_len[TEXT_WORDS]), most, edits;
	double rarity =
		(double) Max(a->item_bits[ITEM_CORE], b->item_bits[ITEM_CORE]) / MATCH_BITS_SCALE;

	if (n < WORDS_ONE || a->business == b->business)
		return NAME_WORST;
	most = n >= WORDS_THREE ? 3 : n >= WORDS_TWO ? 2 : 1;
	edits = crm_match_edits(MATCH_TEXT(a, TEXT_WORDS), a->text_len[TEXT_WORDS],
							MATCH_TEXT(b, TEXT_WORDS), b->text_len[TEXT_WORDS], most);
	if (edits > most)
		return NAME_WORST;
	return rarity * (edits <= 1 ? SLIP_ONE : edits == 2 ? SLIP_TWO : SLIP_THREE);
}

/* The same of what distinguishes two long names in Han. */
static double
crm_picked_core(const MatchRecord *a, const MatchRecord *b)
{
	const MatchRecord *shorter = a->text_len[TEXT_COMPANY] <= b->text_len[TEXT_COMPANY] ? a : b;
	const MatchRecord *longer = shorter == a ? b : a;
	const char *x = MATCH_TEXT(shorter, TEXT_COMPANY), *y = MATCH_TEXT(longer, TEXT_COMPANY);
	int n = shorter->text_len[TEXT_COMPANY], m = longer->text_len[TEXT_COMPANY];

	if (n < PICKED_LEAST || n >= PICKED_MOST || n == m || !(x[0] & y[0] & 0x80) ||
		!crm_picked(x, n, y, m))
		return 0;
	return PICKED_LONG * n;
}

/*
 * A short name picked from a longer one: 上汽 from 上海汽车, IBM from
 * International Business Machines.  Bits, 0 if it is not.
 */
static double
crm_picked_evidence(const MatchRecord *a, const MatchRecord *b)
{
	const MatchRecord *shorter = a->text_len[TEXT_NAME] <= b->text_len[TEXT_NAME] ? a : b;
	const MatchRecord *longer = shorter == a ? b : a;
	const char *x = MATCH_TEXT(shorter, TEXT_NAME), *y = MATCH_TEXT(longer, TEXT_NAME);
	int n = shorter->text_len[TEXT_NAME], m = longer->text_len[TEXT_NAME];
	double best[MATCH_TEXT_MAX]; /* by the place of the last character picked; below 0: not so */
	double most = 0;

	if (n == 1 && !(x[0] & 0x80))
	{
		n = shorter->text_len[TEXT_COMPANY];
		return n >= ACRONYM_LEAST && n <= PICKED_MOST && n == m &&
					   memcmp(MATCH_TEXT(shorter, TEXT_COMPANY), y, n) == 0
				   ? PICKED_CORE * n
				   : 0;
	}
	if (n < PICKED_LEAST || n > PICKED_MOST || n == m || !(x[0] & 0x80) || !crm_picked(x, n, y, m))
		return crm_picked_core(a, b);
	for (int i = 0; i < n; i++)
	{
		double bits = (shorter->name_core >> i) & 1 ? PICKED_CORE : PICKED_COMMON;
		double before = i == 0 ? 0 : -1, last = -1; /* best of all places before j, and of j - 1 */

		for (int j = 0; j < m; j++)
		{
			double here = -1, old = best[j];

			if (x[i] == y[j])
			{
				if (before >= 0)
					here = before + bits * ((longer->name_starts >> j) & 1 ? 1 : PICKED_INSIDE);
				if (i > 0 && last >= 0)
					here = Max(here, last + bits);
			}
			if (i > 0)
			{
				last = old;
				before = Max(before, last);
			}
			best[j] = here;
		}
	}
	for (int j = 0; j < m; j++)
		most = Max(most, best[j]);
	return most;
}

/* One name in Han, the other in Latin letters: 华为 and Huawei. */
static bool
crm_same_reading(const MatchRecord *a, const MatchRecord *b)
{
	const MatchRecord *han = a->flags & MATCH_HAS_HAN ? a : b, *latin = han == a ? b : a;
	int n = han->text_len[TEXT_ROMAN], m = latin->text_len[TEXT_COMPANY];

	return Min(n, m) >= READING_LEAST &&
		   crm_match_edits(MATCH_TEXT(han, TEXT_ROMAN), n, MATCH_TEXT(latin, TEXT_COMPANY), m, 1) <=
			   (Min(n, m) >= READING_LONG ? 1 : 0);
}

/* Of two levels that both apply, the one that weighs more. */
static void
crm_say_better(MatchScore *score, const MatchModel *model, MatchField field, MatchLevel level,
			   double evidence)
{
	double bits = crm_level_weight(model, level, evidence);

	if (bits > score->weight[field])
		crm_say(score, field, level, bits);
}

static void
crm_score_name(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
			   MatchScore *score)
{
	const MatchModel *model = &scorer->model;
	double shared, rarest, alone_a, alone_b, bits, best = -NAME_CERTAIN * scorer->prior_company;
	MatchLevel level;

	if (crm_same(a, b, ITEM_COMPANY))
	{
		level = NAME_EQUAL;
		if (!crm_same_text(a, b, TEXT_COMPANY))
			level = NAME_SOUNDS_EQUAL;
		crm_say_level(score, model, FIELD_NAME, level, crm_item_bits(a, b, ITEM_COMPANY));
		return;
	}
	if (((a->flags ^ b->flags) & MATCH_HAS_HAN) != 0 && !crm_same(a, b, ITEM_CORE))
	{
		bits = Max(a->item_bits[ITEM_CORE], b->item_bits[ITEM_CORE]) / (double) MATCH_BITS_SCALE;
		level = crm_same_reading(a, b) ? NAME_SAME_READING : NAME_OTHER_SCRIPT;
		crm_say_level(score, model, FIELD_NAME, level, level == NAME_SAME_READING ? bits : 0);
		return;
	}
	shared = crm_overlap(MATCH_NAME_GRAMS(a), MATCH_NAME_GRAM_BITS(a), a->nname,
						 MATCH_NAME_GRAMS(b), b->nname, &rarest);
	alone_a = a->name_bits / (double) MATCH_BITS_SCALE - shared;
	alone_b = b->name_bits / (double) MATCH_BITS_SCALE - shared;
	bits = Min(NAME_SHARED * shared + NAME_RAREST * rarest, best) -
		   NAME_MISSING * Min(alone_a, alone_b) -
		   Min(NAME_EXTRA * Max(alone_a, alone_b), NAME_EXTRA_MOST);
	if (crm_contained(a, b))
		bits += NAME_CONTAINED;
	bits = crm_clamp(bits, NAME_WORST, best);
	level = bits >= 8 ? NAME_SIMILAR : bits >= 0 ? NAME_PARTLY_SIMILAR : NAME_DIFFERENT;
	crm_say_level(score, model, FIELD_NAME, level, bits);
	if (crm_same(a, b, ITEM_CORE))
		crm_say_better(score, model, FIELD_NAME,
					   crm_same_text(a, b, TEXT_COMPANY) ? NAME_EQUAL_CORE : NAME_SOUNDS_EQUAL,
					   crm_item_bits(a, b, ITEM_CORE) - NAME_CORE_LESS);
	else if (bits < best)
	{
		bits = Max(crm_slip_evidence(a, b, shared), crm_words_evidence(a, b));
		if (bits > NAME_WORST)
			crm_say_better(score, model, FIELD_NAME, NAME_SLIP, bits);
		bits = crm_picked_evidence(a, b);
		if (bits > 0)
			crm_say_better(score, model, FIELD_NAME, NAME_ABBREVIATION, bits);
	}
}

/* Numbers and points of the compass in what branches are called, in order, are the same. */
static bool
crm_same_numbers(const char *x, int nx, const char *y, int ny)
{
	int i = 0, j = 0;

	for (;;)
	{
		while (i < nx && (unsigned char) x[i] >= ' ' && !(x[i] >= '0' && x[i] <= '9'))
			i++;
		while (j < ny && (unsigned char) y[j] >= ' ' && !(y[j] >= '0' && y[j] <= '9'))
			j++;
		if (i == nx || j == ny)
			return i == nx && j == ny;
		if (x[i++] != y[j++])
			return false;
	}
}

#define BRANCH_SHORT 4 /* letters or syllables in which a slip makes another branch */
#define BRANCH_LONG	 8 /* ... in which two do not */

/*
 * A branch is another customer than its head office and than its sisters.  What
 * marks it gets lost, though, from the end of a name that is cut, and letters
 * of it get wrong.
 */
static void
crm_score_branch(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
				 MatchScore *score)
{
	const MatchRecord *shorter = a->text_len[TEXT_BRANCH] <= b->text_len[TEXT_BRANCH] ? a : b;
	const MatchRecord *longer = shorter == a ? b : a;
	const char *x = MATCH_TEXT(shorter, TEXT_BRANCH), *y = MATCH_TEXT(longer, TEXT_BRANCH);
	int nx = shorter->text_len[TEXT_BRANCH], ny = longer->text_len[TEXT_BRANCH];
	bool both = crm_both(a, b, ITEM_BRANCH);
	MatchLevel level;

	if ((a->item[ITEM_BRANCH] == 0 && b->item[ITEM_BRANCH] == 0) ||
		(nx == ny && memcmp(x, y, nx) == 0))
		return;
	if (nx == 0)
		level = BRANCH_OF;
	else if (memcmp(x, y, nx) == 0)
		level = shorter->flags & MATCH_ENDS_AS_BRANCH ? BRANCH_OF : BRANCH_MARK_LOST;
	else if (!crm_same_numbers(x, nx, y, ny))
		level = both ? BRANCH_DIFFERENT : BRANCH_OF;
	else if (memcmp(x, y + ny - nx, nx) == 0)
		level = BRANCH_SLIP; /* the legal form before it was not recognised */
	else if (nx >= BRANCH_SHORT && crm_match_edits(x, nx, y, ny, 2) <= (nx >= BRANCH_LONG ? 2 : 1))
		level = both ? BRANCH_SLIP : BRANCH_MARK_LOST;
	else
		level = both ? BRANCH_DIFFERENT : BRANCH_OF;
	crm_say_level(score, &scorer->model, FIELD_BRANCH, level, 0);
}

/*
 * Sister firms are called alike but for what they do and their legal form.
 * Where the names disagree anyway, neither says anything more.  Chinese names
 * are shortened by what a firm does, and mix up 有限公司 and 有限责任公司.
 */
static void
crm_score_business(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
				   MatchScore *score)
{
	uint64 only_a = a->business & ~b->business, only_b = b->business & ~a->business;

	if (score->weight[FIELD_NAME] < 0 || ((a->flags ^ b->flags) & MATCH_HAS_HAN) != 0)
		return;
	if ((only_a != 0 && only_b != 0) ||
		((only_a | only_b) != 0 && !((a->flags | b->flags) & MATCH_HAN_COMPANY)))
		crm_say_level(score, &scorer->model, FIELD_BUSINESS,
					  only_a == 0 || only_b == 0		 ? BUSINESS_MORE
					  : (a->business & b->business) == 0 ? BUSINESS_DIFFERENT
														 : BUSINESS_PARTLY,
					  0);
	if (a->legal_form != 0 && b->legal_form != 0 && a->legal_form != b->legal_form &&
		!(a->flags & b->flags & MATCH_HAN_COMPANY))
		crm_say_level(score, &scorer->model, FIELD_LEGAL_FORM, LEGAL_FORM_DIFFERENT, 0);
}

static int
crm_text_edits(const MatchRecord *a, const MatchRecord *b, MatchText text, int most)
{
	return crm_match_edits(MATCH_TEXT(a, text), a->text_len[text], MATCH_TEXT(b, text),
						   b->text_len[text], most);
}

static void
crm_score_national_id(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
					  MatchScore *score)
{
	MatchLevel level = NATIONAL_ID_EQUAL;

	if (!crm_same(a, b, ITEM_NATIONAL_ID))
	{
		int edits = crm_text_edits(a, b, TEXT_NATIONAL_ID, 2);

		level = edits == 1	 ? NATIONAL_ID_SLIP
				: edits == 2 ? NATIONAL_ID_TWO_SLIPS
							 : NATIONAL_ID_DIFFERENT;
	}
	crm_say_level(score, &scorer->model, FIELD_NATIONAL_ID, level,
				  level == NATIONAL_ID_EQUAL ? crm_item_bits(a, b, ITEM_NATIONAL_ID) : 0);
}

static void
crm_score_tax_id(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
				 MatchScore *score)
{
	MatchLevel level;

	if (crm_same(a, b, ITEM_TAX_ID))
		level = TAX_ID_EQUAL;
	else if ((a->flags & b->flags & MATCH_TAX_ID_VALID) != 0)
		level = TAX_ID_BOTH_VALID;
	else
		level = crm_text_edits(a, b, TEXT_TAX_ID, 1) == 1 ? TAX_ID_SLIP : TAX_ID_DIFFERENT;
	crm_say_level(score, &scorer->model, FIELD_TAX_ID, level,
				  level == TAX_ID_EQUAL ? crm_item_bits(a, b, ITEM_TAX_ID) : 0);
}

static void
crm_score_phone(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
				MatchScore *score)
{
	MatchLevel level;

	if (crm_same(a, b, ITEM_PHONE))
		level = PHONE_EQUAL;
	else
		level = crm_text_edits(a, b, TEXT_PHONE, 1) == 1 ? PHONE_SLIP : PHONE_DIFFERENT;
	crm_say_level(score, &scorer->model, FIELD_PHONE, level,
				  level == PHONE_EQUAL ? crm_item_bits(a, b, ITEM_PHONE) : 0);
}

/* Namesakes tell their e-mail addresses apart by a number. */
static bool
crm_other_number(const MatchRecord *a, const MatchRecord *b)
{
	const char *x = MATCH_TEXT(a, TEXT_LOCAL_PART), *y = MATCH_TEXT(b, TEXT_LOCAL_PART);
	char digits[2][MATCH_TEXT_MAX];
	int n[2] = {0, 0};

	for (int i = 0; i < a->text_len[TEXT_LOCAL_PART]; i++)
		if (x[i] >= '0' && x[i] <= '9')
			digits[0][n[0]++] = x[i];
	for (int i = 0; i < b->text_len[TEXT_LOCAL_PART]; i++)
		if (y[i] >= '0' && y[i] <= '9')
			digits[1][n[1]++] = y[i];
	return n[0] > 0 && n[1] > 0 && (n[0] != n[1] || memcmp(digits[0], digits[1], n[0]) != 0);
}

static void
crm_score_email(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b, bool company,
				MatchScore *score)
{
	const MatchModel *model = &scorer->model;

	if (crm_both(a, b, ITEM_EMAIL))
	{
		if (crm_same(a, b, ITEM_EMAIL))
			crm_say_level(score, model, FIELD_EMAIL, EMAIL_EQUAL, crm_item_bits(a, b, ITEM_EMAIL));
		else if (crm_other_number(a, b))
			crm_say_level(score, model, FIELD_EMAIL, EMAIL_DIFFERENT, 0);
		else if (!company && a->item[ITEM_DOMAIN] == 0 && b->item[ITEM_DOMAIN] == 0 &&
				 (crm_email_named(a, a) || crm_email_named(a, b)) &&
				 (crm_email_named(b, a) || crm_email_named(b, b)))
			crm_say_level(score, model, FIELD_EMAIL, EMAIL_NAMED, 0);
		else if (crm_same(a, b, ITEM_LOCAL_PART))
			crm_say_level(score, model, FIELD_EMAIL, EMAIL_LOCAL_PART,
						  crm_item_bits(a, b, ITEM_LOCAL_PART));
		else
		{
			double jw = crm_match_jaro_winkler(
				MATCH_TEXT(a, TEXT_LOCAL_PART), a->text_len[TEXT_LOCAL_PART],
				MATCH_TEXT(b, TEXT_LOCAL_PART), b->text_len[TEXT_LOCAL_PART]);

			crm_say_level(score, model, FIELD_EMAIL, jw >= 0.92 ? EMAIL_SIMILAR : EMAIL_DIFFERENT,
						  0);
		}
	}
	if (crm_both(a, b, ITEM_DOMAIN) && score->level[FIELD_EMAIL] != EMAIL_EQUAL)
	{
		/* When the names agree too, the domain says less: it is made from the name. */
		bool named =
			score->level[FIELD_NAME] != LEVEL_NONE && score->weight[FIELD_NAME] >= SAME_NAME;
		MatchLevel level = !crm_same(a, b, ITEM_DOMAIN) ? DOMAIN_DIFFERENT
						   : named						? DOMAIN_NAMED
														: DOMAIN_EQUAL;

		crm_say_level(score, model, FIELD_DOMAIN, level,
					  level != DOMAIN_DIFFERENT ? crm_item_bits(a, b, ITEM_DOMAIN) : 0);
	}
}

#define CITY_EQUAL	   0.9 /* of its rarity */
#define CITY_LIKE	   0.5
#define CITY_DIFFERS   (-2.5)
#define CITY_LIKE_MOST 8.0
#define POSTCODE_EQUAL 0.8

/* Cities: equal, misspelt, one within the other ("New York", "New York City"), or different. */
static double
crm_city_evidence(const MatchRecord *a, const MatchRecord *b)
{
	const char *x = MATCH_TEXT(a, TEXT_CITY), *y = MATCH_TEXT(b, TEXT_CITY);
	int nx = a->text_len[TEXT_CITY], ny = b->text_len[TEXT_CITY];
	int n = Min(nx, ny);
	double rarity =
		Max(a->item_bits[ITEM_CITY], b->item_bits[ITEM_CITY]) / (double) MATCH_BITS_SCALE;

	if (crm_same(a, b, ITEM_CITY))
		return CITY_EQUAL * crm_item_bits(a, b, ITEM_CITY);
	if (n >= 4 && memcmp(x, y, n) == 0 && (nx == ny || (nx > ny ? x : y)[n] == ' '))
		return CITY_LIKE * crm_item_bits(a, b, ITEM_CITY);
	if (n >= 4 && crm_match_edits(x, nx, y, ny, n >= 8 ? 2 : 1) <= (n >= 8 ? 2 : 1))
		return CITY_LIKE * Min(rarity, CITY_LIKE_MOST);
	return CITY_DIFFERS;
}

#define ADDRESS_WORST	   (-3.5) /* people and firms move */
#define ADDRESS_MOST	   16.0
#define STREET_SIMILAR	   2.0	  /* bits of likeness from which streets are called similar */
#define STREET_BESIDE	   0.3	  /* of the likeness of streets, beside the same place */
#define OTHER_HOUSE_FIRM   (-1.5) /* at most, for a street alike with another first number */
#define OTHER_HOUSE_PERSON 4.0

/* The rarer of two streets, in bits. */
static double
crm_street_bits(const MatchRecord *a, const MatchRecord *b)
{
	return Max(a->item_bits[ITEM_STREET], b->item_bits[ITEM_STREET]) / (double) MATCH_BITS_SCALE;
}

static double
crm_street_likeness(const MatchRecord *a, const MatchRecord *b, bool company)
{
	double shared, rarest, alone_a, alone_b, likeness;

	shared = crm_overlap(MATCH_STREET_GRAMS(a), MATCH_STREET_GRAM_BITS(a), a->nstreet,
						 MATCH_STREET_GRAMS(b), b->nstreet, &rarest);
	alone_a = a->street_bits / (double) MATCH_BITS_SCALE - shared;
	alone_b = b->street_bits / (double) MATCH_BITS_SCALE - shared;
	likeness = 0.25 * shared - 0.25 * Min(alone_a, alone_b) - 0.04 * Max(alone_a, alone_b);
	likeness = crm_clamp(likeness, -3.0, crm_street_bits(a, b) - 1.5);
	if (crm_both(a, b, ITEM_HOUSE) && !crm_same(a, b, ITEM_HOUSE))
		likeness = Min(likeness, company ? OTHER_HOUSE_FIRM : OTHER_HOUSE_PERSON);
	return likeness;
}

static void
crm_score_address(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
				  bool company, MatchScore *score)
{
	const MatchModel *model = &scorer->model;
	double place = 0.0, evidence;
	MatchLevel level;
	bool known = false;

	/* The postcode implies the city; the better of both counts. */
	if (crm_both(a, b, ITEM_POSTCODE))
	{
		known = true;
		place = crm_same(a, b, ITEM_POSTCODE) ? POSTCODE_EQUAL * crm_item_bits(a, b, ITEM_POSTCODE)
											  : -1.5;
	}
	if (crm_both(a, b, ITEM_CITY))
	{
		evidence = crm_city_evidence(a, b);
		place = known && place > 0 ? Max(place, evidence) : place + evidence;
		known = true;
	}
	evidence = place;
	level = place > 0 ? ADDRESS_SAME_PLACE : ADDRESS_OTHER_PLACE;
	if (a->nstreet > 0 && b->nstreet > 0)
	{
		known = true;
		if (crm_same(a, b, ITEM_STREET))
		{
			level = ADDRESS_EQUAL;
			evidence = Max(crm_item_bits(a, b, ITEM_STREET), place);
		}
		else
		{
			double likeness = crm_street_likeness(a, b, company);

			if (likeness > STREET_SIMILAR)
			{
				level = ADDRESS_SIMILAR;
				evidence = Max(likeness, place + STREET_BESIDE * likeness);
			}
			else
				evidence += Min(likeness, 0.0);
		}
	}
	if (known)
		crm_say(score, FIELD_ADDRESS, level,
				crm_clamp(crm_level_weight(model, level, evidence), ADDRESS_WORST, ADDRESS_MOST));
}

#define SHARED_CONTACT 0.5 /* of what counts beside the strongest when it does not */

/*
 * Firms of one house share address, switchboard and domain all at once.  When
 * anything tells the firms apart, the strongest of these counts whole and the
 * others half.
 */
static void
crm_weaken_contact(MatchScore *score)
{
	static const MatchField contact[] = {FIELD_PHONE, FIELD_EMAIL, FIELD_DOMAIN, FIELD_ADDRESS};
	int strongest = 0;

	for (int i = 1; i < (int) lengthof(contact); i++)
		if (score->weight[contact[i]] > score->weight[contact[strongest]])
			strongest = i;
	for (int i = 0; i < (int) lengthof(contact); i++)
		if (i != strongest && score->weight[contact[i]] > 0)
			score->weight[contact[i]] *= SHARED_CONTACT;
}

static inline bool
crm_maybe_sisters(const MatchScore *score)
{
	return (score->level[FIELD_NAME] != LEVEL_NONE && score->weight[FIELD_NAME] < SAME_NAME) ||
		   score->level[FIELD_BRANCH] == BRANCH_OF ||
		   score->level[FIELD_BRANCH] == BRANCH_DIFFERENT ||
		   score->level[FIELD_BUSINESS] == BUSINESS_DIFFERENT ||
		   score->level[FIELD_BUSINESS] == BUSINESS_PARTLY ||
		   score->level[FIELD_LEGAL_FORM] == LEGAL_FORM_DIFFERENT ||
		   (score->level[FIELD_NAME] != LEVEL_NONE &&
			(score->level[FIELD_TAX_ID] == TAX_ID_DIFFERENT ||
			 score->level[FIELD_TAX_ID] == TAX_ID_BOTH_VALID));
}

static inline bool
crm_same_house(const MatchScore *score)
{
	return score->level[FIELD_ADDRESS] == ADDRESS_EQUAL ||
		   score->level[FIELD_ADDRESS] == ADDRESS_SIMILAR ||
		   score->level[FIELD_PHONE] == PHONE_EQUAL;
}

/*
 * Two of a family: called otherwise, or called alike a generation apart.  That is
 * said only when given names were compared, the last of all.  Twins, and father
 * and son of one name, are expected where people are known by more than their
 * names, birth date and address; elsewhere a wrong name or date is likelier.
 */
static bool
crm_one_family(const MatchScore *score)
{
	MatchLevel given = score->part_level[0], birth = score->level[FIELD_BIRTH_DATE];
	bool born_alike = birth == BIRTH_DATE_EQUAL || birth == BIRTH_DATE_SLIP;
	bool older =
		birth == BIRTH_DATE_GENERATION && score->level[FIELD_ADDRESS] != ADDRESS_OTHER_PLACE;
	bool other =
		given == PERSON_PARTLY_SIMILAR || given == PERSON_UNLIKE || given == PERSON_DIFFERENT;

	if (given == LEVEL_NONE || (score->level[FIELD_NATIONAL_ID] != LEVEL_NONE &&
								score->level[FIELD_NATIONAL_ID] != NATIONAL_ID_DIFFERENT))
		return false;
	if (!crm_same_house(score))
		return given == PERSON_DIFFERENT && !born_alike;
	if (score->level[FIELD_GENERATION] == GENERATION_DIFFERENT)
		return true;
	return score->reachable ? other || older : other && !born_alike;
}

/*
 * A branch and its head office, firms of one group that do other things, members
 * of a family: what their house has in common says which house it is, and then
 * whoever is asked for is as likely in it as not.  What tells them apart decides.
 */
static bool
crm_one_house(const MatchScore *score)
{
	if (score->level[FIELD_NAME] == LEVEL_NONE)
		return crm_one_family(score);
	return score->level[FIELD_BRANCH] == BRANCH_OF ||
		   score->level[FIELD_BRANCH] == BRANCH_DIFFERENT ||
		   score->level[FIELD_BUSINESS] == BUSINESS_DIFFERENT ||
		   (score->level[FIELD_BUSINESS] == BUSINESS_MORE &&
			score->level[FIELD_LEGAL_FORM] == LEGAL_FORM_DIFFERENT);
}

#define OTHERS_IN_HOUSE 1.5 /* bits: of three who live there, it is one */

/*
 * What speaks for two records of one house counts together at most as much as
 * the prior speaks against.  Twins have their birth date in common, too, and
 * couples often an e-mail address; who is called alike has one of their own.
 */
static void
crm_limit_house(MatchScore *score)
{
	static const MatchField firm[] = {FIELD_PHONE, FIELD_DOMAIN, FIELD_ADDRESS, FIELD_EMAIL,
									  FIELD_NAME};
	static const MatchField family[] = {FIELD_PHONE, FIELD_DOMAIN, FIELD_ADDRESS, FIELD_BIRTH_DATE,
										FIELD_EMAIL};
	bool company = score->level[FIELD_NAME] != LEVEL_NONE;
	const MatchField *house = company ? firm : family;
	int n = lengthof(firm);
	double names = 0, sum, most = Max(-score->weight[FIELD_PRIOR], 0), kept;

	if (!company)
	{
		bool alike = score->part_level[0] < PERSON_PARTLY_SIMILAR;

		most = Max(most - OTHERS_IN_HOUSE, 0);
		n = !crm_same_house(score) ? 3 : alike ? 4 : 5;
		names = Max(score->part_weight[0], 0) + Max(score->part_weight[1], 0);
	}
	sum = names;
	for (int i = 0; i < n; i++)
		sum += Max(score->weight[house[i]], 0);
	if (sum <= most)
		return;
	kept = most / sum;
	for (int i = 0; i < n; i++)
		if (score->weight[house[i]] > 0)
			score->weight[house[i]] *= kept;
	score->weight[FIELD_PERSON] -= names * (1 - kept);
}

static void
crm_weaken(MatchScore *score)
{
	if (crm_maybe_sisters(score))
		crm_weaken_contact(score);
	if (crm_one_house(score))
		crm_limit_house(score);
}

/*
 * The sum of the weights.  Where some of them are only what a field can weigh
 * at most, it is what the sum can be at most: every step in it grows with each
 * weight, but for rounding.
 */
static double
crm_total(const MatchScore *score)
{
	MatchScore weakened;
	double bits = 0;

	if (crm_maybe_sisters(score) || crm_one_house(score))
	{
		weakened = *score;
		crm_weaken(&weakened);
		score = &weakened;
	}
	for (int i = 0; i < MATCH_NFIELDS; i++)
		bits += score->weight[i];
	return bits;
}

static double
crm_most_name(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b)
{
	const MatchModel *model = &scorer->model;
	double core = Max(a->item_bits[ITEM_CORE], b->item_bits[ITEM_CORE]) / (double) MATCH_BITS_SCALE;
	double evidence = Max(-NAME_CERTAIN * scorer->prior_company, core);
	double most = crm_most(model, NAME_ABBREVIATION, PICKED_CORE * PICKED_MOST);

	evidence = Max(evidence, crm_item_bits(a, b, ITEM_COMPANY));
	for (int level = NAME_EQUAL; level <= NAME_DIFFERENT; level++)
		if (level != NAME_ABBREVIATION)
			most = Max(most, crm_most(model, level, evidence));
	return most;
}

/* The same of names as rare as that, of which only one is known; the other may be no firm. */
static double
crm_most_unread_name(const MatchScorer *scorer, double equal)
{
	const MatchModel *model = &scorer->model;
	double evidence[] = {
		[NAME_EQUAL] = equal,
		[NAME_SOUNDS_EQUAL] = equal,
		[NAME_EQUAL_CORE] = equal,
		[NAME_ABBREVIATION] = PICKED_CORE * PICKED_MOST,
		[NAME_SLIP] = SLIP_NONE * scorer->rarest,
		[NAME_SIMILAR] = -NAME_CERTAIN * scorer->prior_company,
		[NAME_PARTLY_SIMILAR] = -NAME_CERTAIN * scorer->prior_company,
		[NAME_SAME_READING] = scorer->rarest,
		[NAME_OTHER_SCRIPT] = 0,
		[NAME_DIFFERENT] = 0,
	};
	double most = scorer->prior_person - scorer->prior_company;

	for (int level = NAME_EQUAL; level <= NAME_DIFFERENT; level++)
		most = Max(most, crm_most(model, level, evidence[level]));
	return most;
}

static double
crm_most_address(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
				 bool company)
{
	const MatchModel *model = &scorer->model;
	double place = 0, street, most;

	if (crm_same(a, b, ITEM_POSTCODE))
		place = POSTCODE_EQUAL * crm_item_bits(a, b, ITEM_POSTCODE);
	if (crm_same(a, b, ITEM_CITY))
		place = Max(place, CITY_EQUAL * crm_item_bits(a, b, ITEM_CITY));
	else if (crm_both(a, b, ITEM_CITY))
		place = Max(place, CITY_LIKE * Max(a->item_bits[ITEM_CITY], b->item_bits[ITEM_CITY]) /
							   (double) MATCH_BITS_SCALE);
	most = Max(crm_most(model, ADDRESS_SAME_PLACE, place),
			   crm_most(model, ADDRESS_OTHER_PLACE, place));
	if (a->nstreet > 0 && b->nstreet > 0)
	{
		if (crm_same(a, b, ITEM_STREET))
			street = crm_item_bits(a, b, ITEM_STREET);
		else
		{
			street = crm_street_bits(a, b);
			if (crm_both(a, b, ITEM_HOUSE) && !crm_same(a, b, ITEM_HOUSE))
				street = company ? 0 : OTHER_HOUSE_PERSON;
			street = Max(street, place + STREET_BESIDE * street);
		}
		most = Max(most, Max(crm_most(model, ADDRESS_EQUAL, Max(street, place)),
							 crm_most(model, ADDRESS_SIMILAR, street)));
	}
	return crm_clamp(most, 0, ADDRESS_MOST);
}

/* The same where the address of only one firm is known. */
static double
crm_most_unread_address(const MatchScorer *scorer, const MatchRecord *known)
{
	const MatchModel *model = &scorer->model;
	double place = 0;

	if (known->nstreet > 0)
		return ADDRESS_MOST;
	if (known->item[ITEM_POSTCODE] != 0)
		place = POSTCODE_EQUAL * known->item_bits[ITEM_POSTCODE] / MATCH_BITS_SCALE;
	if (known->item[ITEM_CITY] != 0)
		place = Max(place, Max(CITY_EQUAL * known->item_bits[ITEM_CITY] / MATCH_BITS_SCALE,
							   CITY_LIKE * CITY_LIKE_MOST));
	return crm_clamp(Max(crm_most(model, ADDRESS_SAME_PLACE, place),
						 crm_most(model, ADDRESS_OTHER_PLACE, place)),
					 0, ADDRESS_MOST);
}

#define CRM_NAME_UNREAD(outline) ((outline) >= OUTLINE_ID)

/*
 * What each field can weigh at most, as far as is told by whether values are
 * equal.  If one of the two is an outline, whole is the other; of two of numbers
 * it is NULL.
 */
static void
crm_bounds(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b, bool company,
		   const MatchRecord *whole, MatchOutline outline, MatchScore *score)
{
	static const struct
	{
		MatchItem item;
		MatchField field;
		MatchLevel equal;
	} exact[] = {{ITEM_BIRTH_DATE, FIELD_BIRTH_DATE, BIRTH_DATE_EQUAL},
				 {ITEM_NATIONAL_ID, FIELD_NATIONAL_ID, NATIONAL_ID_EQUAL},
				 {ITEM_TAX_ID, FIELD_TAX_ID, TAX_ID_EQUAL},
				 {ITEM_PHONE, FIELD_PHONE, PHONE_EQUAL},
				 {ITEM_EMAIL, FIELD_EMAIL, EMAIL_EQUAL}};
	const MatchModel *model = &scorer->model;
	double *most = score->weight;
	bool unread = CRM_NAME_UNREAD(outline);

	for (int i = 0; i < (int) lengthof(exact); i++)
	{
		if (!crm_both(a, b, exact[i].item))
			continue;
		if (crm_same(a, b, exact[i].item))
			most[exact[i].field] =
				Max(crm_most(model, exact[i].equal, crm_item_bits(a, b, exact[i].item)), 0);
		else
			most[exact[i].field] = scorer->most[exact[i].field];
	}
	if (crm_both(a, b, ITEM_EMAIL) && crm_same(a, b, ITEM_LOCAL_PART))
		most[FIELD_EMAIL] = Max(most[FIELD_EMAIL], crm_most(model, EMAIL_LOCAL_PART,
															crm_item_bits(a, b, ITEM_LOCAL_PART)));
	if (crm_same(a, b, ITEM_DOMAIN))
		most[FIELD_DOMAIN] =
			Max(Max(crm_most(model, DOMAIN_EQUAL, crm_item_bits(a, b, ITEM_DOMAIN)),
					crm_most(model, DOMAIN_NAMED, crm_item_bits(a, b, ITEM_DOMAIN))),
				0);
	else if (crm_both(a, b, ITEM_DOMAIN))
		most[FIELD_DOMAIN] = scorer->most[FIELD_DOMAIN];
	if (company)
	{
		if (unread)
		{
			most[FIELD_NAME] =
				whole == NULL ? scorer->name
							  : crm_most_unread_name(scorer, Max(whole->item_bits[ITEM_COMPANY],
																 whole->item_bits[ITEM_CORE]) /
																 (double) MATCH_BITS_SCALE);
			most[FIELD_BRANCH] = scorer->most[FIELD_BRANCH];
		}
		else
			most[FIELD_NAME] = crm_most_name(scorer, a, b);
		most[FIELD_BUSINESS] = scorer->most[FIELD_BUSINESS];
		most[FIELD_LEGAL_FORM] = scorer->most[FIELD_LEGAL_FORM];
	}
	if (outline == OUTLINE_NUMBERS)
	{
		most[FIELD_ADDRESS] = ADDRESS_MOST;
		return;
	}
	if (whole != NULL)
	{
		most[FIELD_PERSON] = crm_named(whole) ? CONTACT_MOST : 0;
		most[FIELD_ADDRESS] = crm_most_unread_address(scorer, whole);
		return;
	}
	most[FIELD_PERSON] = crm_most_person(scorer, a, b, company);
	most[FIELD_ADDRESS] = crm_most_address(scorer, a, b, company);
}

#define ROUNDED 1e-6 /* bits by which a sum of smaller weights may come out larger */

/* The weight of a field in place of what it can be at most. */
#define CRM_SCORE(field, condition, step)                   \
	do                                                      \
	{                                                       \
		score->weight[field] = 0;                           \
		if (condition)                                      \
			step;                                           \
		if (bounded && crm_total(score) < needed - ROUNDED) \
			return false;                                   \
	} while (0)

/*
 * Weighs field after field, the telling and quick ones first.  With bounds it
 * stops, false, when even the most that the rest can weigh is too little.  If one
 * of the two is an outline, whole is the other (of two of numbers NULL), and what is
 * not known counts with the most that it can weigh.
 */
static inline bool
crm_weigh_pair(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b, bool bounded,
			   const MatchRecord *whole, MatchOutline outline, double needed, MatchScore *score)
{
	bool unread = CRM_NAME_UNREAD(outline);
	bool company = unread || crm_both(a, b, ITEM_COMPANY);

	memset(score, 0, sizeof(*score));
	score->reachable = (a->item[ITEM_PHONE] | b->item[ITEM_PHONE] | a->item[ITEM_EMAIL] |
						b->item[ITEM_EMAIL]) != 0;
	crm_say(score, FIELD_PRIOR, company ? PRIOR_COMPANY : PRIOR_PERSON,
			company ? scorer->prior_company : scorer->prior_person);
	if (bounded)
		crm_bounds(scorer, a, b, company, whole, outline, score);
	if (company && !unread)
		crm_score_branch(scorer, a, b, score);
	else if (!company)
		crm_score_generation(scorer, a, b, score);
	CRM_SCORE(FIELD_TAX_ID, crm_both(a, b, ITEM_TAX_ID), crm_score_tax_id(scorer, a, b, score));
	if (!unread)
	{
		CRM_SCORE(FIELD_NAME, company, crm_score_name(scorer, a, b, score));
		score->weight[FIELD_LEGAL_FORM] = 0;
		CRM_SCORE(FIELD_BUSINESS, company, crm_score_business(scorer, a, b, score));
	}
	CRM_SCORE(FIELD_BIRTH_DATE, a->birth_date != 0 && b->birth_date != 0,
			  crm_score_birth_date(scorer, a, b, score));
	CRM_SCORE(FIELD_PHONE, crm_both(a, b, ITEM_PHONE), crm_score_phone(scorer, a, b, score));
	CRM_SCORE(FIELD_NATIONAL_ID, crm_both(a, b, ITEM_NATIONAL_ID),
			  crm_score_national_id(scorer, a, b, score));
	/* Of the address an outline has the place. */
	if (outline == OUTLINE_WHOLE || (whole != NULL && whole->nstreet == 0))
		CRM_SCORE(FIELD_ADDRESS, true, crm_score_address(scorer, a, b, company, score));
	/* What the e-mail address says depends on the name. */
	if (unread)
		return true;
	score->weight[FIELD_DOMAIN] = 0;
	CRM_SCORE(FIELD_EMAIL, true, crm_score_email(scorer, a, b, company, score));
	if (outline == OUTLINE_WHOLE)
		CRM_SCORE(FIELD_PERSON, true, crm_score_person(scorer, a, b, company, score));
	return true;
}

void
crm_match_score(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
				MatchScore *score)
{
	crm_weigh_pair(scorer, a, b, false, NULL, OUTLINE_WHOLE, 0, score);
	score->bits = crm_total(score);
	crm_weaken(score);
}

void
crm_match_compare(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
				  MatchScore *score)
{
	crm_weigh_pair(scorer, a, b, false, NULL, OUTLINE_WHOLE, 0, score);
}

double
crm_match_bits(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b, double needed)
{
	MatchScore score;

	return crm_weigh_pair(scorer, a, b, true, NULL, OUTLINE_WHOLE, needed, &score)
			   ? crm_total(&score)
			   : -INFINITY;
}

/* Of who is no firm, or may be none, the names of persons decide. */
bool
crm_match_tells(const MatchRecord *whole, MatchOutline outline)
{
	return whole->item[ITEM_COMPANY] != 0 && (outline == OUTLINE_NAME || !crm_named(whole));
}

bool
crm_match_may_numbers(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
					  double needed)
{
	MatchScore score;

	return crm_weigh_pair(scorer, a, b, true, NULL, OUTLINE_NUMBERS, needed, &score);
}

bool
crm_match_may(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
			  const MatchRecord *whole, MatchOutline outline, double needed)
{
	MatchScore score;

	if (!crm_match_tells(whole, outline) ||
		(outline == OUTLINE_NAME && !crm_both(a, b, ITEM_COMPANY)))
		return true;
	return outline == OUTLINE_ID
			   ? crm_weigh_pair(scorer, a, b, true, whole, OUTLINE_ID, needed, &score)
			   : crm_weigh_pair(scorer, a, b, true, whole, OUTLINE_NAME, needed, &score);
}

void
crm_match_scorer(MatchScorer *scorer, const MatchModel *model, double rows)
{
	double prior = -log2(rows + MATCH_PRIOR_ROWS);

	memset(scorer, 0, sizeof(*scorer));
	scorer->model = *model;
	scorer->rarest = crm_match_rarity_of(rows, 0, MATCH_RAREST * MATCH_BITS_SCALE);
	scorer->prior_company = prior + model->level[PRIOR_COMPANY].weight;
	scorer->prior_person = prior + model->level[PRIOR_PERSON].weight;
	scorer->name = crm_most_unread_name(scorer, scorer->rarest);
	/* Levels without evidence behind them weigh the same in all pairs. */
	for (int level = LEVEL_NONE + 1; level < MATCH_NLEVELS; level++)
	{
		MatchField field = crm_match_level_field(level);

		scorer->most[field] = Max(scorer->most[field], model->level[level].weight);
	}
	for (int level = PERSON_SOUNDS_EQUAL; level <= PERSON_DIFFERENT; level++)
	{
		scorer->part_weight = Max(scorer->part_weight, model->level[level].weight);
		scorer->part_rarity = Max(scorer->part_rarity, model->level[level].rarity);
	}
}
