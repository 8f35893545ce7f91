/*
 * match_person.c
 *		How strongly two records say that they mean the same person.
 *
 * A name is written in many ways, and people of one family share half of it, so
 * what is taken for another writing and what for another name decides whom a
 * merge would join.  Given names are compared by their words; in Han by syllables.
 */
#include "postgres.h"

#include "match_score.h"
#include "match_text.h"

/* Common short forms of given names in the form of the name key, sorted. */
static const char *const short_forms[][2] = {
	{"abby", "abigail"},	  {"al", "albert"},			{"alex", "alexander"},
	{"alex", "alexandra"},	  {"andy", "andrew"},		{"babs", "barbara"},
	{"barb", "barbara"},	  {"bart", "bartholomew"},	{"becky", "rebecca"},
	{"ben", "benjamin"},	  {"beppe", "giuseppe"},	{"bert", "albert"},
	{"bert", "herbert"},	  {"bert", "robert"},		{"bertie", "albert"},
	{"beth", "elizabeth"},	  {"betsy", "elizabeth"},	{"betty", "elizabeth"},
	{"bill", "william"},	  {"billy", "william"},		{"bob", "robert"},
	{"bobbie", "roberta"},	  {"bobby", "robert"},		{"candy", "candice"},
	{"cathy", "catherine"},	  {"cathy", "kathleen"},	{"charlie", "charles"},
	{"charlie", "charlotte"}, {"chris", "christina"},	{"chris", "christine"},
	{"chris", "christopher"}, {"christy", "christine"}, {"chuck", "charles"},
	{"cindy", "cynthia"},	  {"clem", "clement"},		{"connie", "constance"},
	{"dan", "daniel"},		  {"dan", "danielle"},		{"danny", "daniel"},
	{"dave", "david"},		  {"deb", "deborah"},		{"debbie", "deborah"},
	{"debby", "deborah"},	  {"dick", "richard"},		{"dolly", "dorothy"},
	{"don", "donald"},		  {"dot", "dorothy"},		{"dottie", "dorothy"},
	{"doug", "douglas"},	  {"drew", "andrew"},		{"ed", "edward"},
	{"eddie", "edward"},	  {"eddy", "edward"},		{"ella", "eleanor"},
	{"ellie", "eleanor"},	  {"fran", "frances"},		{"frank", "francis"},
	{"fred", "frederick"},	  {"freddie", "frederick"}, {"fritz", "friedrich"},
	{"gabe", "gabriel"},	  {"gabi", "gabriele"},		{"gerry", "gerald"},
	{"gerry", "gerard"},	  {"gigi", "luigi"},		{"gina", "regina"},
	{"ginny", "virginia"},	  {"greg", "gregory"},		{"gus", "augustus"},
	{"hal", "harold"},		  {"hal", "henry"},			{"hank", "henry"},
	{"hanna", "johanna"},	  {"hannes", "johannes"},	{"hans", "johannes"},
	{"harry", "harold"},	  {"harry", "henry"},		{"herb", "herbert"},
	{"jack", "john"},		  {"jackie", "jacqueline"}, {"jake", "jacob"},
	{"jamie", "james"},		  {"jeff", "jeffrey"},		{"jen", "jennifer"},
	{"jenny", "jennifer"},	  {"jerry", "gerald"},		{"jerry", "jeremy"},
	{"jerry", "jerome"},	  {"jess", "jessica"},		{"jim", "james"},
	{"jimmy", "james"},		  {"jo", "joanna"},			{"jo", "joanne"},
	{"jochen", "joachim"},	  {"joe", "joseph"},		{"joey", "joseph"},
	{"johnny", "john"},		  {"jon", "jonathan"},		{"josh", "joshua"},
	{"judy", "judith"},		  {"kate", "katherine"},	{"kate", "kathleen"},
	{"kathi", "katharina"},	  {"kathy", "katherine"},	{"kathy", "kathleen"},
	{"katie", "katherine"},	  {"katja", "katharina"},	{"ken", "kenneth"},
	{"kim", "kimberly"},	  {"kit", "christopher"},	{"kolya", "nikolai"},
	{"larry", "lawrence"},	  {"lena", "helena"},		{"lena", "magdalena"},
	{"lenny", "leonard"},	  {"leo", "leonard"},		{"les", "leslie"},
	{"lexi", "alexandra"},	  {"lisa", "elisabeth"},	{"lisa", "elizabeth"},
	{"liz", "elizabeth"},	  {"lizzie", "elizabeth"},	{"lori", "lorraine"},
	{"lou", "louis"},		  {"maddy", "madeleine"},	{"maggie", "margaret"},
	{"mandy", "amanda"},	  {"manny", "emmanuel"},	{"manolo", "manuel"},
	{"marge", "margaret"},	  {"matt", "matthew"},		{"max", "maximilian"},
	{"meg", "margaret"},	  {"mel", "melanie"},		{"mick", "michael"},
	{"mickey", "michael"},	  {"mike", "michael"},		{"millie", "mildred"},
	{"minnie", "minerva"},	  {"misha", "mikhail"},		{"mitch", "mitchell"},
	{"mo", "maureen"},		  {"molly", "mary"},		{"nacho", "ignacio"},
	{"nan", "nancy"},		  {"nate", "nathan"},		{"nate", "nathaniel"},
	{"ned", "edward"},		  {"nell", "eleanor"},		{"nick", "nicholas"},
	{"nicky", "nicholas"},	  {"nikki", "nicole"},		{"nina", "antonina"},
	{"nora", "eleanor"},	  {"norm", "norman"},		{"paco", "francisco"},
	{"paddy", "patrick"},	  {"pam", "pamela"},		{"pancho", "francisco"},
	{"pat", "patricia"},	  {"pat", "patrick"},		{"patty", "patricia"},
	{"peg", "margaret"},	  {"peggy", "margaret"},	{"penny", "penelope"},
	{"pepe", "jose"},		  {"pete", "peter"},		{"phil", "philip"},
	{"pippa", "philippa"},	  {"polly", "mary"},		{"ray", "raymond"},
	{"reg", "reginald"},	  {"rich", "richard"},		{"rick", "richard"},
	{"ricky", "richard"},	  {"rita", "margarita"},	{"rob", "robert"},
	{"ron", "ronald"},		  {"ronnie", "ronald"},		{"rosie", "rosemary"},
	{"roz", "rosalind"},	  {"sally", "sarah"},		{"sam", "samantha"},
	{"sam", "samuel"},		  {"sandy", "alexander"},	{"sandy", "alexandra"},
	{"sandy", "sandra"},	  {"sasha", "alexander"},	{"seb", "sebastian"},
	{"sepp", "josef"},		  {"sepp", "joseph"},		{"shelly", "michelle"},
	{"sid", "sidney"},		  {"steffi", "stephanie"},	{"steve", "stephen"},
	{"steve", "steven"},	  {"stu", "stuart"},		{"sue", "susan"},
	{"susie", "susan"},		  {"ted", "theodore"},		{"terry", "terence"},
	{"terry", "theresa"},	  {"tess", "theresa"},		{"theo", "theodore"},
	{"tilly", "matilda"},	  {"tim", "timothy"},		{"tina", "christina"},
	{"tina", "christine"},	  {"tina", "martina"},		{"toby", "tobias"},
	{"tom", "thomas"},		  {"tommy", "thomas"},		{"toni", "antonia"},
	{"tony", "anthony"},	  {"tony", "antonio"},		{"tony", "antony"},
	{"tracy", "theresa"},	  {"trish", "patricia"},	{"trudy", "gertrude"},
	{"uli", "ulrich"},		  {"ulli", "ulrich"},		{"val", "valerie"},
	{"vera", "veronica"},	  {"vic", "victor"},		{"vicky", "victoria"},
	{"vince", "vincent"},	  {"viv", "vivian"},		{"vlad", "vladimir"},
	{"wally", "walter"},	  {"walt", "walter"},		{"wes", "wesley"},
	{"will", "william"},	  {"willy", "william"},		{"winnie", "winifred"},
	{"wolf", "wolfgang"},	  {"zach", "zachary"},		{"zack", "zachary"},
};

static int
crm_cmp_text(const char *a, int alen, const char *b)
{
	int c = strncmp(a, b, alen);

	return c != 0 ? c : -(b[alen] != '\0');
}

static bool
crm_short_form(const char *nick, int nicklen, const char *name, int len)
{
	int low = 0, high = (int) lengthof(short_forms) - 1;

	while (low <= high)
	{
		int mid = (low + high) / 2;
		int c = crm_cmp_text(nick, nicklen, short_forms[mid][0]);

		if (c == 0)
			c = crm_cmp_text(name, len, short_forms[mid][1]);
		if (c == 0)
			return true;
		if (c < 0)
			high = mid - 1;
		else
			low = mid + 1;
	}
	return false;
}

/* Short forms of one name, as Bob and Rob. */
static bool
crm_same_long_form(const char *x, int nx, const char *y, int ny)
{
	for (int i = 0; i < (int) lengthof(short_forms); i++)
		if (crm_cmp_text(x, nx, short_forms[i][0]) == 0 &&
			crm_short_form(y, ny, short_forms[i][1], (int) strlen(short_forms[i][1])))
			return true;
	return false;
}

/* A slip in a name; a short one with another letter is another name. */
static bool
crm_name_slip(const char *x, int nx, const char *y, int ny)
{
	int n = Min(nx, ny);

	if (n < 3 || crm_match_edits(x, nx, y, ny, 1) > 1)
		return false;
	return n > 3 || nx != ny || (x[0] == y[0] && x[1] == y[2]) || (x[0] == y[1] && x[2] == y[2]);
}

static bool
crm_word_is(const char *x, int nx, const char *y, int ny)
{
	return (nx == ny && memcmp(x, y, nx) == 0) || crm_name_slip(x, nx, y, ny);
}

/* One of two given names, or of a double family name, in place of both. */
static bool
crm_word_of(const char *word, int n, const char *name, int len, int first)
{
	return first < len &&
		   (crm_word_is(word, n, name, first) || crm_word_is(word, n, name + first, len - first));
}

#define SHORTENED_LEAST 3 /* letters left of a given name, ... */
#define SHORTENED_BY	2 /* ... of which so many are gone: Paul and Paula are two */

static bool
crm_shortened(const char *x, int nx, const char *y, int ny)
{
	return nx >= SHORTENED_LEAST && ny >= nx + SHORTENED_BY && memcmp(x, y, nx) == 0;
}

/* Syllables of Mandarin that are easily mistaken for each other: n and ng, z and zh, l and n. */
static bool
crm_misheard(const char *x, int nx, const char *y, int ny)
{
	if (nx > ny)
		return crm_misheard(y, ny, x, nx);
	if (nx == ny)
		return memcmp(x + 1, y + 1, nx - 1) == 0 &&
			   (x[0] == y[0] || (x[0] == 'l' && y[0] == 'n') || (x[0] == 'n' && y[0] == 'l'));
	if (ny != nx + 1 || nx == 0)
		return false;
	return (memcmp(x, y, nx) == 0 && x[nx - 1] == 'n' && y[nx] == 'g') ||
		   (x[0] == y[0] && (x[0] == 'z' || x[0] == 'c' || x[0] == 's') && y[1] == 'h' &&
			memcmp(x + 1, y + 2, nx - 1) == 0);
}

static bool
crm_syllable_of(const char *syllable, int n, const char *name, int len, int first)
{
	return (n == first && memcmp(syllable, name, n) == 0) ||
		   (n == len - first && memcmp(syllable, name + first, n) == 0);
}

/*
 * Two Han names that do not sound equal.  Brothers share a syllable, and slips
 * of the pen mostly keep the sound, so one syllable that differs is another name.
 */
static MatchLevel
crm_han_level(const char *x, int nx, int x_first, const char *y, int ny, int y_first)
{
	int x_rest = nx - x_first, y_rest = ny - y_first;

	if (x_rest == 0 && y_rest == 0)
		return crm_misheard(x, nx, y, ny) ? PERSON_PARTLY_SIMILAR : PERSON_DIFFERENT;
	if (x_rest == 0 || y_rest == 0)
		return crm_syllable_of(x, nx, y, ny, y_first) || crm_syllable_of(y, ny, x, nx, x_first)
				   ? PERSON_UNLIKE
				   : PERSON_DIFFERENT;
	if ((crm_misheard(x, x_first, y, y_first) &&
		 crm_misheard(x + x_first, x_rest, y + y_first, y_rest)) ||
		(x_first == y_rest && x_rest == y_first && memcmp(x, y + y_first, x_first) == 0 &&
		 memcmp(x + x_first, y, x_rest) == 0))
		return PERSON_SIMILAR;
	return PERSON_DIFFERENT;
}

#define PART_EVIDENCE_MOST 14.0 /* of names that are alike but not equal */

/* Two given or two family names.  Returns bits; *level says how alike. */
static double
crm_score_part(const MatchModel *model, const MatchRecord *a, MatchText at, MatchItem ai,
			   const MatchRecord *b, MatchText bt, MatchItem bi, MatchLevel *level)
{
	const char *x = MATCH_TEXT(a, at), *y = MATCH_TEXT(b, bt);
	int nx = a->text_len[at], ny = b->text_len[bt];
	int x_first = a->name_first[at - TEXT_GIVEN_NAME],
		y_first = b->name_first[bt - TEXT_GIVEN_NAME];
	double rarity = (double) Max(a->item_bits[ai], b->item_bits[bi]) / MATCH_BITS_SCALE;
	double jw;

	if (nx == ny && memcmp(x, y, nx) == 0)
	{
		*level =
			(a->flags & b->flags & MATCH_HAN_PERSON) != 0 &&
					a->name_written[at - TEXT_GIVEN_NAME] != b->name_written[bt - TEXT_GIVEN_NAME]
				? PERSON_SOUNDS_EQUAL
				: PERSON_EQUAL;
		rarity = (double) Min(a->item_bits[ai], b->item_bits[bi]) / MATCH_BITS_SCALE;
	}
	else if ((a->flags & b->flags & MATCH_HAN_PERSON) != 0)
	{
		rarity = Min(rarity, PART_EVIDENCE_MOST);
		*level = crm_han_level(x, nx, x_first, y, ny, y_first);
	}
	else if (Min(nx, ny) == 1 && x[0] == y[0])
		*level = PERSON_INITIAL;
	else if (crm_short_form(x, nx, y, ny) || crm_short_form(y, ny, x, nx) ||
			 crm_word_of(x, nx, y, ny, y_first) || crm_word_of(y, ny, x, nx, x_first))
		*level = PERSON_SHORT_FORM;
	else
	{
		rarity = Min(rarity, PART_EVIDENCE_MOST);
		jw = crm_match_jaro_winkler(x, nx, y, ny);
		if (jw >= 0.92 || crm_name_slip(x, nx, y, ny))
			*level = PERSON_SIMILAR;
		else
			*level = jw >= 0.84	  ? PERSON_PARTLY_SIMILAR
					 : jw >= 0.75 ? PERSON_UNLIKE
								  : PERSON_DIFFERENT;
		if (*level > PERSON_SIMILAR && at == TEXT_GIVEN_NAME && bt == TEXT_GIVEN_NAME &&
			(crm_shortened(x, nx, y, ny) || crm_shortened(y, ny, x, nx) ||
			 crm_same_long_form(x, nx, y, ny)))
			*level = PERSON_SHORT_FORM;
	}
	return crm_level_weight(model, *level, rarity);
}

/* Exactly one of the two names is known. */
static bool
crm_one_name(const MatchRecord *r)
{
	return (r->item[ITEM_GIVEN_NAME] != 0) != (r->item[ITEM_FAMILY_NAME] != 0);
}

typedef struct Crossed
{
	MatchLevel level;
	double weight;
} Crossed;

/* The given name of one as the family name of the other. */
static double
crm_score_crossed(const MatchModel *model, const MatchRecord *a, const MatchRecord *b,
				  Crossed *crossed)
{
	crossed->level = LEVEL_NONE;
	crossed->weight = 0;
	if (a->item[ITEM_GIVEN_NAME] == 0 || b->item[ITEM_FAMILY_NAME] == 0)
		return -100.0;
	crossed->weight = crm_score_part(model, a, TEXT_GIVEN_NAME, ITEM_GIVEN_NAME, b,
									 TEXT_FAMILY_NAME, ITEM_FAMILY_NAME, &crossed->level);
	return crossed->weight;
}

/* A company changes its contact; a person does not. */
#define CONTACT_WORST (-5.0)
#define PERSON_WORST  (-9.0)

void
crm_score_person(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
				 bool company, MatchScore *score)
{
	const MatchModel *model = &scorer->model;
	MatchLevel given = LEVEL_NONE, family = LEVEL_NONE, level;
	double bits, swapped = -100.0, *part = score->part_weight;
	Crossed crossed[2];
	int worse;

	if (!crm_named(a) || !crm_named(b))
		return;
	if (crm_both(a, b, ITEM_GIVEN_NAME))
		part[0] = crm_score_part(model, a, TEXT_GIVEN_NAME, ITEM_GIVEN_NAME, b, TEXT_GIVEN_NAME,
								 ITEM_GIVEN_NAME, &given);
	if (crm_both(a, b, ITEM_FAMILY_NAME))
		part[1] = crm_score_part(model, a, TEXT_FAMILY_NAME, ITEM_FAMILY_NAME, b, TEXT_FAMILY_NAME,
								 ITEM_FAMILY_NAME, &family);
	score->part_level[0] = (uint8) given;
	score->part_level[1] = (uint8) family;
	bits = part[0] + part[1];
	if (given == PERSON_EQUAL && family == PERSON_EQUAL)
		;
	else if (crm_both(a, b, ITEM_PERSON))
		swapped = crm_score_crossed(model, a, b, &crossed[0]) +
				  crm_score_crossed(model, b, a, &crossed[1]);
	else if ((crm_one_name(a) || crm_one_name(b)) && bits <= 0)
		swapped = Max(crm_score_crossed(model, a, b, &crossed[0]),
					  crm_score_crossed(model, b, a, &crossed[1]));
	swapped = crm_level_weight(model, PERSON_SWAPPED, swapped);
	if (swapped > bits)
	{
		bits = swapped;
		given = family = PERSON_SWAPPED;
		/* What agrees better is the family name. */
		worse = crossed[0].weight > crossed[1].weight;
		for (int i = 0; i < 2; i++)
		{
			part[i] = crossed[worse ^ i].weight;
			score->part_level[i] = (uint8) crossed[worse ^ i].level;
		}
	}
	if (given == LEVEL_NONE && family == LEVEL_NONE)
		return;
	bits = company ? crm_clamp(bits, CONTACT_WORST, CONTACT_MOST) : Max(bits, PERSON_WORST);
	if (given == LEVEL_NONE || family == LEVEL_NONE || given == family)
		level = given != LEVEL_NONE ? given : family;
	else
		level = bits >= 6 ? PERSON_SIMILAR : bits >= 0 ? PERSON_PARTLY_SIMILAR : PERSON_DIFFERENT;
	crm_say(score, FIELD_PERSON, level, bits);
}

/* Father and son of one name tell themselves apart, where they think of it. */
void
crm_score_generation(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
					 MatchScore *score)
{
	if (crm_named(a) && crm_named(b) && a->generation != b->generation)
		crm_say_level(
			score, &scorer->model, FIELD_GENERATION,
			a->generation != 0 && b->generation != 0 ? GENERATION_DIFFERENT : GENERATION_UNTOLD, 0);
}

/* A day count good enough for differences. */
static int
crm_day_number(int32 date)
{
	return date / 10000 * 365 + date / 100 % 100 * 30 + date % 100;
}

static void
crm_date_digits(int32 date, char digits[8])
{
	for (int i = 7; i >= 0; i--, date /= 10)
		digits[i] = (char) (date % 10);
}

#define GENERATION_LEAST (15 * 365) /* days between parents and children */
#define GENERATION_MOST	 (60 * 365)

void
crm_score_birth_date(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
					 MatchScore *score)
{
	MatchLevel level;
	char x[8], y[8];
	int differ = 0, first = -1, last = -1, days;

	if (a->birth_date == b->birth_date)
	{
		crm_say_level(score, &scorer->model, FIELD_BIRTH_DATE, BIRTH_DATE_EQUAL,
					  crm_item_bits(a, b, ITEM_BIRTH_DATE));
		return;
	}
	crm_date_digits(a->birth_date, x);
	crm_date_digits(b->birth_date, y);
	for (int i = 0; i < 8; i++)
		if (x[i] != y[i])
		{
			differ++;
			if (first < 0)
				first = i;
			last = i;
		}
	days = abs(crm_day_number(a->birth_date) - crm_day_number(b->birth_date));
	if (differ == 1 ||
		(differ == 2 && last == first + 1 && x[first] == y[last] && x[last] == y[first]) ||
		(memcmp(x, y, 4) == 0 && memcmp(x + 4, y + 6, 2) == 0 && memcmp(x + 6, y + 4, 2) == 0))
		level = BIRTH_DATE_SLIP;
	else if (differ == 2 || days <= 31)
		level = BIRTH_DATE_NEAR;
	else if (days <= 366 || memcmp(x + 4, y + 4, 4) == 0)
		level = BIRTH_DATE_YEAR;
	else
		level = days >= GENERATION_LEAST && days <= GENERATION_MOST ? BIRTH_DATE_GENERATION
																	: BIRTH_DATE_DIFFERENT;
	crm_say_level(score, &scorer->model, FIELD_BIRTH_DATE, level, 0);
}

bool
crm_email_named(const MatchRecord *r, const MatchRecord *person)
{
	const char *local = MATCH_TEXT(r, TEXT_LOCAL_PART);
	const char *name[2] = {MATCH_TEXT(person, TEXT_GIVEN_NAME),
						   MATCH_TEXT(person, TEXT_FAMILY_NAME)};
	int len[2] = {person->text_len[TEXT_GIVEN_NAME], person->text_len[TEXT_FAMILY_NAME]}, n = 0;
	char letters[MATCH_TEXT_MAX];

	for (int i = 0; i < r->text_len[TEXT_LOCAL_PART]; i++)
		if (local[i] >= 'a' && local[i] <= 'z')
			letters[n++] = local[i];
	if (len[0] == 0 || len[1] == 0)
		return false;
	for (int first = 0; first < 2; first++)
	{
		const char *x = name[first], *y = name[!first];
		int nx = len[first], ny = len[!first];

		if (n == 1 + ny && letters[0] == x[0] && memcmp(letters + 1, y, ny) == 0)
			return true;
		if (n > nx && (n == nx + 1 || n == nx + ny) && memcmp(letters, x, nx) == 0 &&
			memcmp(letters + nx, y, n - nx) == 0)
			return true;
	}
	return false;
}

/* Texts are cut, so two of full length may be called equal although their hashes differ. */
static double
crm_most_part(const MatchScorer *scorer, const MatchRecord *a, MatchText at, MatchItem ai,
			  const MatchRecord *b, MatchText bt, MatchItem bi)
{
	double rarity = Max(a->item_bits[ai], b->item_bits[bi]) / (double) MATCH_BITS_SCALE;
	bool maybe_equal = ai == bi && a->text_len[at] < MATCH_TEXT_MAX
						   ? a->item[ai] == b->item[bi]
						   : a->text_len[at] == b->text_len[bt];
	double most = scorer->part_weight + scorer->part_rarity * rarity;

	if (a->item[ai] == 0 || b->item[bi] == 0)
		return 0;
	return maybe_equal ? Max(most, crm_most(&scorer->model, PERSON_EQUAL, rarity)) : most;
}

double
crm_most_person(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b, bool company)
{
	double straight, crossed;

	if (!crm_named(a) || !crm_named(b))
		return 0;
	if (company)
		return CONTACT_MOST;
	straight = crm_most_part(scorer, a, TEXT_GIVEN_NAME, ITEM_GIVEN_NAME, b, TEXT_GIVEN_NAME,
							 ITEM_GIVEN_NAME) +
			   crm_most_part(scorer, a, TEXT_FAMILY_NAME, ITEM_FAMILY_NAME, b, TEXT_FAMILY_NAME,
							 ITEM_FAMILY_NAME);
	crossed = crm_most_part(scorer, a, TEXT_GIVEN_NAME, ITEM_GIVEN_NAME, b, TEXT_FAMILY_NAME,
							ITEM_FAMILY_NAME) +
			  crm_most_part(scorer, a, TEXT_FAMILY_NAME, ITEM_FAMILY_NAME, b, TEXT_GIVEN_NAME,
							ITEM_GIVEN_NAME);
	return Max(Max(straight, crm_most(&scorer->model, PERSON_SWAPPED, crossed)), 0);
}
