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
#include "match_text.h"

static const char *const field_names[MATCH_NFIELDS] = {
	[FIELD_NAME] = "name",
	[FIELD_BRANCH] = "branch",
	[FIELD_PERSON] = "person",
	[FIELD_BIRTH_DATE] = "birth_date",
	[FIELD_NATIONAL_ID] = "national_id",
	[FIELD_TAX_ID] = "tax_id",
	[FIELD_PHONE] = "phone",
	[FIELD_EMAIL] = "email",
	[FIELD_DOMAIN] = "domain",
	[FIELD_ADDRESS] = "address",
	[FIELD_PRIOR] = "prior",
};

const char *
crm_match_field_name(MatchField field)
{
	return field_names[field];
}

double
crm_match_probability(double bits)
{
	return 1.0 / (1.0 + exp2(-bits));
}

static inline double
crm_item_bits(const MatchRecord *a, const MatchRecord *b, MatchItem item)
{
	/* Both carry the rarity of the same value, unless one was weighed with older statistics. */
	return (double) Min(a->item_bits[item], b->item_bits[item]) / MATCH_BITS_SCALE;
}

static inline bool
crm_both(const MatchRecord *a, const MatchRecord *b, MatchItem item)
{
	return a->item[item] != 0 && b->item[item] != 0;
}

static inline bool
crm_same(const MatchRecord *a, const MatchRecord *b, MatchItem item)
{
	return a->item[item] != 0 && a->item[item] == b->item[item];
}

static bool
crm_same_text(const MatchRecord *a, const MatchRecord *b, MatchText text)
{
	return a->text_len[text] == b->text_len[text] &&
		   memcmp(MATCH_TEXT(a, text), MATCH_TEXT(b, text), a->text_len[text]) == 0;
}

static void
crm_say(MatchScore *score, MatchField field, const char *level, double weight)
{
	score->weight[field] = weight;
	score->level[field] = level;
}

/* Rarity of the grams two ascending lists have in common, in bits, and of the rarest of them. */
static double
crm_overlap(const uint32 *a, const uint8 *abits, int na, const uint32 *b, int nb, double *rarest)
{
	int i = 0, j = 0, sum = 0, most = 0;

	while (i < na && j < nb)
	{
		if (a[i] < b[j])
			i++;
		else if (a[i] > b[j])
			j++;
		else
		{
			sum += abits[i];
			most = Max(most, abits[i]);
			i++;
			j++;
		}
	}
	*rarest = (double) most / MATCH_BITS_SCALE;
	return (double) sum / MATCH_BITS_SCALE;
}

static double
crm_clamp(double x, double low, double high)
{
	return x < low ? low : x > high ? high : x;
}

#define SAME_NAME		  5.0  /* bits from which a company's name is taken to agree */
#define NAME_SHARED		  0.40 /* of the rarity of the grams in common; they overlap */
#define NAME_RAREST		  0.35 /* of the rarest gram in common: one is no overlap */
#define NAME_MISSING	  0.40 /* of what the shorter name has alone */
#define NAME_EXTRA		  0.08 /* of what the longer name has alone */
#define NAME_EXTRA_MOST	  3.0
#define NAME_WORST		  (-9.0)
#define NAME_CERTAIN	  0.9	 /* of the prior: what a similar name weighs at most */
#define NAME_FORM		  (-1.5) /* same words, another legal form */
#define SLIP_NONE		  0.85 /* of the rarity of the name, for no difference but in common words */
#define SLIP_ONE		  0.65	 /* ... for one letter wrong, missing or moved */
#define SLIP_TWO		  0.45	 /* ... for two */
#define SLIP_SHORT		  0.7	 /* of that again, for short names */
#define ABBREVIATION	  5		 /* Han syllables of a name picked from a longer one, at most */
#define ABBREVIATION_BITS 2.5	 /* for each */
#define NAME_HOMOPHONE	  (-1.5) /* same sounds, other characters */
#define NAME_CONTAINED	  1.5	 /* all characters of one are in the other */
#define BRANCH_DIFFERS	  (-12.0)

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
crm_score_slip(const MatchRecord *a, const MatchRecord *b)
{
	const char *x = MATCH_TEXT(a, TEXT_COMPANY), *y = MATCH_TEXT(b, TEXT_COMPANY);
	int nx = a->text_len[TEXT_COMPANY], ny = b->text_len[TEXT_COMPANY];
	int n = Min(nx, ny), most, edits;
	double rarity;

	/* A Han syllable says as much as two letters. */
	bool han = n > 0 && ((unsigned char) x[0] & (unsigned char) y[0] & 0x80) != 0;

	if (n < (han ? 2 : 4))
		return NAME_WORST;
	if (han && n <= ABBREVIATION && nx != ny &&
		crm_picked(nx < ny ? x : y, n, nx < ny ? y : x, Max(nx, ny)))
		return ABBREVIATION_BITS * n;
	most = n >= (han ? 5 : 9) ? 2 : 1;
	edits = crm_match_edits(x, nx, y, ny, most);
	if (edits > most)
		return NAME_WORST;
	if (han && n == 2 && (nx != ny || x[0] != y[1] || x[1] != y[0]))
		return NAME_WORST;
	rarity = (double) Max(a->item_bits[ITEM_CORE], b->item_bits[ITEM_CORE]) / MATCH_BITS_SCALE;
	rarity *= edits == 0 ? SLIP_NONE : edits == 1 ? SLIP_ONE : SLIP_TWO;
	return n <= (han ? 3 : 6) ? rarity * SLIP_SHORT : rarity;
}

static void
crm_score_name(const MatchRecord *a, const MatchRecord *b, MatchScore *score)
{
	const char *level;
	double shared, rarest, alone_a, alone_b, bits,
		best = -NAME_CERTAIN * score->weight[FIELD_PRIOR];

	if (!crm_both(a, b, ITEM_COMPANY))
		return;
	if (crm_same(a, b, ITEM_COMPANY))
	{
		bits = crm_item_bits(a, b, ITEM_COMPANY);
		level = "equal";
		if (!crm_same_text(a, b, TEXT_COMPANY))
		{
			bits += NAME_HOMOPHONE;
			level = "sounds equal";
		}
		if (a->legal_form != 0 && b->legal_form != 0 && a->legal_form != b->legal_form)
		{
			bits += NAME_FORM;
			level = "other legal form";
		}
		crm_say(score, FIELD_NAME, level, bits);
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
	level = bits >= 8 ? "similar" : bits >= 0 ? "partly similar" : "different";
	if (crm_same(a, b, ITEM_CORE))
	{
		if (crm_item_bits(a, b, ITEM_CORE) - 1.0 > bits)
		{
			bits = crm_item_bits(a, b, ITEM_CORE) - 1.0;
			level = "equal core";
		}
	}
	else if (bits < best)
	{
		double slip = crm_score_slip(a, b);

		if (slip > bits)
		{
			bits = slip;
			level = "slip";
		}
	}
	crm_say(score, FIELD_NAME, level, bits);
}

static void
crm_score_branch(const MatchRecord *a, const MatchRecord *b, MatchScore *score)
{
	uint32 x = a->item[ITEM_BRANCH], y = b->item[ITEM_BRANCH];

	/* A branch is another customer than its head office and than its sisters. */
	if (x == y || !crm_both(a, b, ITEM_COMPANY))
		return;
	if (x != 0 && y != 0)
		crm_say(score, FIELD_BRANCH, "different", BRANCH_DIFFERS / 2);
	else
		crm_say(score, FIELD_BRANCH, "branch of", BRANCH_DIFFERS);
}

/* Common short forms of given names, both in the form of the name key. */
static bool
crm_nickname(const char *a, int alen, const char *b, int blen)
{
	static const char *const pairs[][2] = {
		{"abby", "abigail"},	  {"al", "albert"},		  {"alex", "alexander"},
		{"alex", "alexandra"},	  {"andy", "andrew"},	  {"ben", "benjamin"},
		{"beth", "elizabeth"},	  {"betty", "elizabeth"}, {"bill", "william"},
		{"bob", "robert"},		  {"cathy", "catherine"}, {"charlie", "charles"},
		{"chris", "christopher"}, {"chris", "christine"}, {"chuck", "charles"},
		{"dan", "daniel"},		  {"danny", "daniel"},	  {"dave", "david"},
		{"debbie", "deborah"},	  {"dick", "richard"},	  {"don", "donald"},
		{"ed", "edward"},		  {"eddie", "edward"},	  {"frank", "francis"},
		{"fred", "frederick"},	  {"gabe", "gabriel"},	  {"greg", "gregory"},
		{"harry", "henry"},		  {"harry", "harold"},	  {"hank", "henry"},
		{"jack", "john"},		  {"jake", "jacob"},	  {"jeff", "jeffrey"},
		{"jen", "jennifer"},	  {"jenny", "jennifer"},  {"jerry", "gerald"},
		{"jim", "james"},		  {"jimmy", "james"},	  {"joe", "joseph"},
		{"johnny", "john"},		  {"jon", "jonathan"},	  {"josh", "joshua"},
		{"kate", "katherine"},	  {"katie", "katherine"}, {"kathy", "katherine"},
		{"ken", "kenneth"},		  {"larry", "lawrence"},  {"liz", "elizabeth"},
		{"maggie", "margaret"},	  {"matt", "matthew"},	  {"meg", "margaret"},
		{"mike", "michael"},	  {"nick", "nicholas"},	  {"pam", "pamela"},
		{"pat", "patrick"},		  {"pat", "patricia"},	  {"peggy", "margaret"},
		{"pete", "peter"},		  {"phil", "philip"},	  {"ray", "raymond"},
		{"rick", "richard"},	  {"rob", "robert"},	  {"ron", "ronald"},
		{"sam", "samuel"},		  {"sam", "samantha"},	  {"steve", "steven"},
		{"steve", "stephen"},	  {"sue", "susan"},		  {"ted", "theodore"},
		{"tim", "timothy"},		  {"tom", "thomas"},	  {"tony", "anthony"},
		{"vicky", "victoria"},	  {"will", "william"},	  {"zach", "zachary"},
	};

	for (int i = 0; i < (int) lengthof(pairs); i++)
		for (int side = 0; side < 2; side++)
		{
			const char *x = pairs[i][side], *y = pairs[i][1 - side];

			if ((int) strlen(x) == alen && (int) strlen(y) == blen && memcmp(x, a, alen) == 0 &&
				memcmp(y, b, blen) == 0)
				return true;
		}
	return false;
}

#define PART_DIFFERS (-5.0)

/* Two given or two family names.  Returns bits; *level says how alike. */
static double
crm_score_part(const MatchRecord *a, MatchText at, MatchItem ai, const MatchRecord *b, MatchText bt,
			   MatchItem bi, const char **level)
{
	const char *x = MATCH_TEXT(a, at), *y = MATCH_TEXT(b, bt);
	int nx = a->text_len[at], ny = b->text_len[bt];
	double rarity = (double) Max(a->item_bits[ai], b->item_bits[bi]) / MATCH_BITS_SCALE;
	double jw;

	if (nx == ny && memcmp(x, y, nx) == 0)
	{
		*level = "equal";
		return (double) Min(a->item_bits[ai], b->item_bits[bi]) / MATCH_BITS_SCALE - 0.2;
	}
	if (Min(nx, ny) == 1 && x[0] == y[0])
	{
		*level = "initial";
		return 2.0;
	}
	if (crm_nickname(x, nx, y, ny))
	{
		*level = "short form";
		return 0.5 * rarity;
	}
	jw = crm_match_jaro_winkler(x, nx, y, ny);
	if (jw >= 0.92 || crm_match_edits(x, nx, y, ny, 1) <= (Min(nx, ny) >= 4 ? 1 : 0))
	{
		*level = "similar";
		return 0.55 * Min(rarity, 14);
	}
	if (jw >= 0.84)
	{
		*level = "partly similar";
		return 0.2 * Min(rarity, 14);
	}
	if (jw >= 0.75)
	{
		*level = "different";
		return -2.0;
	}
	*level = "different";
	return PART_DIFFERS;
}

/* Exactly one of the two names is known. */
static bool
crm_one_name(const MatchRecord *r)
{
	return (r->item[ITEM_GIVEN_NAME] != 0) != (r->item[ITEM_FAMILY_NAME] != 0);
}

/* The given name of one as the family name of the other. */
static double
crm_score_crossed(const MatchRecord *a, const MatchRecord *b, const char **level)
{
	if (a->item[ITEM_GIVEN_NAME] == 0 || b->item[ITEM_FAMILY_NAME] == 0)
		return -100.0;
	return crm_score_part(a, TEXT_GIVEN_NAME, ITEM_GIVEN_NAME, b, TEXT_FAMILY_NAME,
						  ITEM_FAMILY_NAME, level) -
		   1.0;
}

static void
crm_score_person(const MatchRecord *a, const MatchRecord *b, bool company, MatchScore *score)
{
	const char *given = NULL, *family = NULL, *swap1, *swap2;
	double bits = 0, swapped;
	bool known = false;

	if (crm_both(a, b, ITEM_GIVEN_NAME))
	{
		bits += crm_score_part(a, TEXT_GIVEN_NAME, ITEM_GIVEN_NAME, b, TEXT_GIVEN_NAME,
							   ITEM_GIVEN_NAME, &given);
		known = true;
	}
	if (crm_both(a, b, ITEM_FAMILY_NAME))
	{
		bits += crm_score_part(a, TEXT_FAMILY_NAME, ITEM_FAMILY_NAME, b, TEXT_FAMILY_NAME,
							   ITEM_FAMILY_NAME, &family);
		known = true;
	}
	if (crm_both(a, b, ITEM_PERSON))
	{
		swapped = crm_score_part(a, TEXT_GIVEN_NAME, ITEM_GIVEN_NAME, b, TEXT_FAMILY_NAME,
								 ITEM_FAMILY_NAME, &swap1) +
				  crm_score_part(a, TEXT_FAMILY_NAME, ITEM_FAMILY_NAME, b, TEXT_GIVEN_NAME,
								 ITEM_GIVEN_NAME, &swap2) -
				  1.0;
		if (swapped > bits)
		{
			bits = swapped;
			given = family = "swapped";
		}
	}
	else if ((crm_one_name(a) || crm_one_name(b)) && bits <= 0)
	{
		swapped = Max(crm_score_crossed(a, b, &swap1), crm_score_crossed(b, a, &swap2));
		if (swapped > bits)
		{
			bits = swapped;
			given = family = "swapped";
			known = true;
		}
	}
	if (!known)
		return;
	/* A company changes its contact; a person does not. */
	if (company)
		bits = crm_clamp(bits, -5.0, 14.0);
	else
		bits = Max(bits, -9.0);
	if (given == NULL || family == NULL || strcmp(given, family) == 0)
		crm_say(score, FIELD_PERSON, given ? given : family, bits);
	else
		crm_say(score, FIELD_PERSON,
				bits >= 6	? "similar"
				: bits >= 0 ? "partly similar"
							: "different",
				bits);
}

/* A day count good enough for differences. */
static int
crm_day_number(int32 date)
{
	return date / 10000 * 365 + date / 100 % 100 * 30 + date % 100;
}

static void
crm_score_birth_date(const MatchRecord *a, const MatchRecord *b, MatchScore *score)
{
	char x[9], y[9];
	int differ = 0, first = -1, last = -1;

	if (a->birth_date == 0 || b->birth_date == 0)
		return;
	if (a->birth_date == b->birth_date)
	{
		crm_say(score, FIELD_BIRTH_DATE, "equal", crm_item_bits(a, b, ITEM_BIRTH_DATE) - 0.2);
		return;
	}
	snprintf(x, sizeof(x), "%08u", (unsigned) a->birth_date % 100000000);
	snprintf(y, sizeof(y), "%08u", (unsigned) b->birth_date % 100000000);
	for (int i = 0; i < 8; i++)
		if (x[i] != y[i])
		{
			differ++;
			if (first < 0)
				first = i;
			last = i;
		}
	if (differ == 1 ||
		(differ == 2 && last == first + 1 && x[first] == y[last] && x[last] == y[first]) ||
		(memcmp(x, y, 4) == 0 && memcmp(x + 4, y + 6, 2) == 0 && memcmp(x + 6, y + 4, 2) == 0))
		crm_say(score, FIELD_BIRTH_DATE, "one slip", 5.0);
	else
	{
		int days = abs(crm_day_number(a->birth_date) - crm_day_number(b->birth_date));

		if (differ == 2 || days <= 31)
			crm_say(score, FIELD_BIRTH_DATE, "near", 2.0);
		else if (days <= 366 || memcmp(x + 4, y + 4, 4) == 0)
			crm_say(score, FIELD_BIRTH_DATE, "near", 0.0);
		else
			crm_say(score, FIELD_BIRTH_DATE, "different", -4.0);
	}
}

static void
crm_score_numbers(const MatchRecord *a, const MatchRecord *b, MatchScore *score)
{
	int edits;

	if (crm_both(a, b, ITEM_NATIONAL_ID))
	{
		if (crm_same(a, b, ITEM_NATIONAL_ID))
			crm_say(score, FIELD_NATIONAL_ID, "equal", crm_item_bits(a, b, ITEM_NATIONAL_ID));
		else
		{
			edits =
				crm_match_edits(MATCH_TEXT(a, TEXT_NATIONAL_ID), a->text_len[TEXT_NATIONAL_ID],
								MATCH_TEXT(b, TEXT_NATIONAL_ID), b->text_len[TEXT_NATIONAL_ID], 2);
			if (edits == 1)
				crm_say(score, FIELD_NATIONAL_ID, "one slip", 8.0);
			else if (edits == 2)
				crm_say(score, FIELD_NATIONAL_ID, "two slips", 3.0);
			else
				crm_say(score, FIELD_NATIONAL_ID, "different", -4.5);
		}
	}
	if (crm_both(a, b, ITEM_TAX_ID))
	{
		if (crm_same(a, b, ITEM_TAX_ID))
			crm_say(score, FIELD_TAX_ID, "equal", crm_item_bits(a, b, ITEM_TAX_ID));
		else if ((a->flags & b->flags & MATCH_TAX_ID_VALID) != 0)
			crm_say(score, FIELD_TAX_ID, "both valid, different", -14.0);
		else
		{
			edits = crm_match_edits(MATCH_TEXT(a, TEXT_TAX_ID), a->text_len[TEXT_TAX_ID],
									MATCH_TEXT(b, TEXT_TAX_ID), b->text_len[TEXT_TAX_ID], 1);
			crm_say(score, FIELD_TAX_ID, edits == 1 ? "one slip" : "different",
					edits == 1 ? 0.0 : -10.0);
		}
	}
	if (crm_both(a, b, ITEM_PHONE))
	{
		if (crm_same(a, b, ITEM_PHONE))
			crm_say(score, FIELD_PHONE, "equal", crm_item_bits(a, b, ITEM_PHONE) - 0.5);
		else
		{
			edits = crm_match_edits(MATCH_TEXT(a, TEXT_PHONE), a->text_len[TEXT_PHONE],
									MATCH_TEXT(b, TEXT_PHONE), b->text_len[TEXT_PHONE], 1);
			crm_say(score, FIELD_PHONE, edits == 1 ? "one slip" : "different",
					edits == 1 ? 7.0 : -1.2);
		}
	}
}

#define DOMAIN_EQUAL 0.7 /* of its rarity */
#define DOMAIN_NAMED 0.3 /* ... when the names agree too: the domain is made from the name */

static void
crm_score_email(const MatchRecord *a, const MatchRecord *b, MatchScore *score)
{
	bool equal = false;
	bool named = score->level[FIELD_NAME] != NULL && score->weight[FIELD_NAME] >= SAME_NAME;

	if (crm_both(a, b, ITEM_EMAIL))
	{
		if (crm_same(a, b, ITEM_EMAIL))
		{
			crm_say(score, FIELD_EMAIL, "equal", crm_item_bits(a, b, ITEM_EMAIL) - 0.5);
			equal = true;
		}
		else if (crm_same(a, b, ITEM_LOCAL_PART))
			crm_say(score, FIELD_EMAIL, "equal before the @",
					0.6 * crm_item_bits(a, b, ITEM_LOCAL_PART));
		else
		{
			double jw = crm_match_jaro_winkler(
				MATCH_TEXT(a, TEXT_LOCAL_PART), a->text_len[TEXT_LOCAL_PART],
				MATCH_TEXT(b, TEXT_LOCAL_PART), b->text_len[TEXT_LOCAL_PART]);

			if (jw >= 0.92)
				crm_say(score, FIELD_EMAIL, "similar", 4.0);
			else
				crm_say(score, FIELD_EMAIL, "different", -0.8);
		}
	}
	if (!equal && crm_both(a, b, ITEM_DOMAIN))
	{
		if (crm_same(a, b, ITEM_DOMAIN))
			crm_say(score, FIELD_DOMAIN, "equal",
					(named ? DOMAIN_NAMED : DOMAIN_EQUAL) * crm_item_bits(a, b, ITEM_DOMAIN));
		else
			crm_say(score, FIELD_DOMAIN, "different", -2.0);
	}
}

/* Cities: equal, misspelt, one within the other ("New York", "New York City"), or different. */
static double
crm_score_city(const MatchRecord *a, const MatchRecord *b)
{
	const char *x = MATCH_TEXT(a, TEXT_CITY), *y = MATCH_TEXT(b, TEXT_CITY);
	int nx = a->text_len[TEXT_CITY], ny = b->text_len[TEXT_CITY];
	int n = Min(nx, ny);
	double rarity =
		Max(a->item_bits[ITEM_CITY], b->item_bits[ITEM_CITY]) / (double) MATCH_BITS_SCALE;

	if (crm_same(a, b, ITEM_CITY))
		return 0.9 * crm_item_bits(a, b, ITEM_CITY);
	if (n >= 4 && memcmp(x, y, n) == 0 && (nx == ny || (nx > ny ? x : y)[n] == ' '))
		return 0.5 * crm_item_bits(a, b, ITEM_CITY);
	if (n >= 4 && crm_match_edits(x, nx, y, ny, n >= 8 ? 2 : 1) <= (n >= 8 ? 2 : 1))
		return 0.5 * Min(rarity, 8.0);
	return -2.5;
}

#define ADDRESS_WORST	   (-3.5) /* people and firms move */
#define OTHER_HOUSE_FIRM   (-1.5) /* at most, for a street alike with another first number */
#define OTHER_HOUSE_PERSON 4.0

static void
crm_score_address(const MatchRecord *a, const MatchRecord *b, bool company, MatchScore *score)
{
	double place = 0.0, bits;
	const char *level;
	bool known = false;

	/* The postcode implies the city; the better of both counts. */
	if (crm_both(a, b, ITEM_POSTCODE))
	{
		known = true;
		place = crm_same(a, b, ITEM_POSTCODE) ? 0.8 * crm_item_bits(a, b, ITEM_POSTCODE) : -1.5;
	}
	if (crm_both(a, b, ITEM_CITY))
	{
		bits = crm_score_city(a, b);
		place = known && place > 0 ? Max(place, bits) : place + bits;
		known = true;
	}
	level = place > 0 ? "same place" : "other place";
	bits = place;
	if (a->nstreet > 0 && b->nstreet > 0)
	{
		double shared, rarest, alone_a, alone_b, likeness;

		known = true;
		if (crm_same(a, b, ITEM_STREET))
		{
			bits = Max(crm_item_bits(a, b, ITEM_STREET) - 0.5, place);
			level = "equal";
		}
		else
		{
			shared = crm_overlap(MATCH_STREET_GRAMS(a), MATCH_STREET_GRAM_BITS(a), a->nstreet,
								 MATCH_STREET_GRAMS(b), b->nstreet, &rarest);
			alone_a = a->street_bits / (double) MATCH_BITS_SCALE - shared;
			alone_b = b->street_bits / (double) MATCH_BITS_SCALE - shared;
			likeness = 0.25 * shared - 0.25 * Min(alone_a, alone_b) - 0.04 * Max(alone_a, alone_b);
			likeness = crm_clamp(likeness, -3.0,
								 Max(a->item_bits[ITEM_STREET], b->item_bits[ITEM_STREET]) /
										 (double) MATCH_BITS_SCALE -
									 1.5);
			if (crm_both(a, b, ITEM_HOUSE) && !crm_same(a, b, ITEM_HOUSE))
				likeness = Min(likeness, company ? OTHER_HOUSE_FIRM : OTHER_HOUSE_PERSON);
			if (likeness > 2.0)
			{
				bits = Max(likeness, place + 0.3 * likeness);
				level = "similar";
			}
			else
				bits = place + Min(likeness, 0.0);
		}
	}
	if (known)
		crm_say(score, FIELD_ADDRESS, level, crm_clamp(bits, ADDRESS_WORST, 16.0));
}

/* Duplicates of a record expected before anything is compared. */
#define EXPECTED_COMPANIES 1.0
#define EXPECTED_PERSONS   8.0

#define SHARED_CONTACT 0.5 /* of what counts beside the strongest when it does not */

/*
 * Firms of one house share address, switchboard and domain all at once.  When
 * the names disagree, the strongest of these counts whole and the others half.
 */
static void
crm_weaken_contact(MatchScore *score)
{
	static const MatchField contact[] = {FIELD_PHONE, FIELD_EMAIL, FIELD_DOMAIN, FIELD_ADDRESS};
	int strongest = 0;

	if (score->level[FIELD_NAME] == NULL || score->weight[FIELD_NAME] >= SAME_NAME)
		return;
	for (int i = 1; i < (int) lengthof(contact); i++)
		if (score->weight[contact[i]] > score->weight[contact[strongest]])
			strongest = i;
	for (int i = 0; i < (int) lengthof(contact); i++)
		if (i != strongest && score->weight[contact[i]] > 0)
			score->weight[contact[i]] *= SHARED_CONTACT;
}

void
crm_match_score(const MatchRecord *a, const MatchRecord *b, double rows, MatchScore *score)
{
	bool company = crm_both(a, b, ITEM_COMPANY);
	double expected = company ? EXPECTED_COMPANIES : EXPECTED_PERSONS;

	memset(score, 0, sizeof(*score));
	crm_say(score, FIELD_PRIOR, "rows", log2(expected / (rows + MATCH_PRIOR_ROWS)));
	crm_score_name(a, b, score);
	crm_score_branch(a, b, score);
	crm_score_person(a, b, company, score);
	crm_score_birth_date(a, b, score);
	crm_score_numbers(a, b, score);
	crm_score_email(a, b, score);
	crm_score_address(a, b, company, score);
	crm_weaken_contact(score);
	for (int i = 0; i < MATCH_NFIELDS; i++)
		score->bits += score->weight[i];
}
