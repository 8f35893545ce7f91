/*
 * match.h
 *		Finding records that mean the same person or company.
 *
 * A record is the values of a row's columns, each in a role (company name,
 * phone, street ...).  match_record.c turns it into features: hashes of
 * canonical values, grams of names and addresses, and the keys under which an
 * index finds it.  match_stats.c knows how common each key is.  match_score.c
 * weighs two records.  All three are independent of the database's locale, and
 * the keys never change: indexes store them.
 */
#ifndef CRM_MATCH_H
#define CRM_MATCH_H

#include "executor/tuptable.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"

/* Roles a column can play; the order is that of match_role_names[]. */
typedef enum MatchRole
{
	MATCH_COMPANY,
	MATCH_GIVEN_NAME,
	MATCH_FAMILY_NAME,
	MATCH_PERSON,
	MATCH_PHONE,
	MATCH_EMAIL,
	MATCH_TAX_ID,
	MATCH_WEBSITE,
	MATCH_STREET,
	MATCH_CITY,
	MATCH_REGION,
	MATCH_POSTCODE,
	MATCH_COUNTRY,
	MATCH_BIRTH_DATE,
	MATCH_NATIONAL_ID
} MatchRole;
#define MATCH_NROLES (MATCH_NATIONAL_ID + 1)

typedef struct MatchValue
{
	const char *data; /* NULL = blank */
	int len;
} MatchValue;

/* Values compared by equality, each with its own frequency. */
typedef enum MatchItem
{
	ITEM_COMPANY, /* all words of the name but legal forms */
	ITEM_CORE,	  /* without region, group, branch and legal form */
	ITEM_BRANCH,  /* the words that mark a part of a firm, and what numbers it */
	ITEM_PHONE,
	ITEM_EMAIL,
	ITEM_LOCAL_PART,
	ITEM_DOMAIN, /* registrable domain that is no free-mail provider */
	ITEM_TAX_ID,
	ITEM_STREET,
	ITEM_HOUSE, /* the first number in the street */
	ITEM_CITY,
	ITEM_REGION,
	ITEM_POSTCODE,
	ITEM_COUNTRY,
	ITEM_GIVEN_NAME,
	ITEM_FAMILY_NAME,
	ITEM_PERSON, /* given and family name, in any order */
	ITEM_BIRTH_DATE,
	ITEM_NATIONAL_ID
} MatchItem;
#define MATCH_NITEMS (ITEM_NATIONAL_ID + 1)

/* What the hash of a key starts with, so that equal texts of different meaning differ. */
typedef enum MatchKeyClass
{
	/* 0 .. MATCH_NITEMS - 1: the items */
	KEY_NAME_GRAM = 32,
	KEY_NAME_WIDE,
	KEY_STREET_GRAM,
	KEY_PERSON_VARIANT,
	KEY_PAIR,
	KEY_NAME_WHOLE,
	KEY_BIRTH_DATE,
	KEY_NAME_SLIP
} MatchKeyClass;

/* Text kept for comparisons by edit distance. */
typedef enum MatchText
{
	TEXT_PHONE,
	TEXT_TAX_ID,
	TEXT_LOCAL_PART,
	TEXT_GIVEN_NAME,
	TEXT_FAMILY_NAME,
	TEXT_NATIONAL_ID,
	TEXT_CITY,
	TEXT_COMPANY, /* what distinguishes it: a letter a byte, a Han character a byte above 127 */
	TEXT_NAME,	  /* of what a short name is picked: all Han characters, or the initials of words */
	TEXT_ROMAN,	  /* of a name in Han: the syllables of what distinguishes it, joined */
	TEXT_WORDS,	  /* of a name without Han: all words but legal forms and linking ones, joined */
	TEXT_BRANCH	  /* what follows the legal form: the same of Han syllables; numbers below 32 */
} MatchText;
#define MATCH_NTEXTS (TEXT_BRANCH + 1)

#define MATCH_MAX_GRAMS	 160 /* of a name or of an address; the rest is not compared */
#define MATCH_MAX_KEYS	 400
#define MATCH_TEXT_MAX	 40
#define MATCH_MAX_VALUE	 4096  /* bytes of a value that are read */
#define MATCH_BITS_SCALE 8	   /* rarities are stored in eighths of a bit */
#define MATCH_PRIOR_ROWS 10000 /* what is assumed before statistics weighs as many rows */
#define MATCH_RAREST	 14	   /* bits, of anything before statistics */

#define MATCH_TAX_ID_VALID	 0x01 /* check digit of GB 32100-2015 is right */
#define MATCH_INITIAL		 0x02 /* the given name is an initial */
#define MATCH_HAN_PERSON	 0x04
#define MATCH_HAS_LEGAL		 0x08
#define MATCH_HAN_COMPANY	 0x20 /* the name ends in Han */
#define MATCH_HAS_HAN		 0x40 /* the name has Han characters */
#define MATCH_ENDS_AS_BRANCH 0x10 /* the last word of the name marks a branch */
#define MATCH_OUTLINE		 0x80 /* of a part of the values, to be held against a whole record */

/*
 * The features of a record, in one piece of memory so that arrays of them can
 * be copied and shared: the struct, then name grams and street grams (hashes,
 * ascending), their rarities, then the texts.
 */
typedef struct MatchRecord
{
	uint32 size;
	uint32 item[MATCH_NITEMS]; /* hash of the value; 0 = blank */
	uint8 item_bits[MATCH_NITEMS];
	uint8 flags;
	uint16 legal_form;
	uint64 business;		/* a bit for each word (in Han: character) that says what a firm does */
	uint64 name_starts;		/* places in TEXT_NAME where a word starts */
	uint64 name_core;		/* ... of words that distinguish the firm */
	int32 birth_date;		/* yyyymmdd, 0 = blank */
	uint8 name_first[2];	/* letters of the first word or syllable of given and family name */
	uint8 generation;		/* of persons of one name: Sr 1, Jr 2, III 3; 0 = not told */
	uint16 name_written[2]; /* hashes of both as Han characters */
	uint16 nname;
	uint16 nstreet;
	uint16 name_bits; /* sum of the rarities of the grams */
	uint16 street_bits;
	uint8 text_len[MATCH_NTEXTS];
	uint16 text_start[MATCH_NTEXTS];
} MatchRecord;

#define MATCH_NAME_GRAMS(r)		  ((uint32 *) ((char *) (r) + MAXALIGN(sizeof(MatchRecord))))
#define MATCH_STREET_GRAMS(r)	  (MATCH_NAME_GRAMS(r) + (r)->nname)
#define MATCH_NAME_GRAM_BITS(r)	  ((uint8 *) (MATCH_STREET_GRAMS(r) + (r)->nstreet))
#define MATCH_STREET_GRAM_BITS(r) (MATCH_NAME_GRAM_BITS(r) + (r)->nname)
#define MATCH_TEXT(r, t)		  ((char *) (MATCH_STREET_GRAM_BITS(r) + (r)->nstreet) + (r)->text_start[t])

/* A key of the index, with what is known of it before any statistics. */
typedef struct MatchKey
{
	uint32 hash;
	uint8 default_bits; /* rarity assumed when nothing is known, in eighths of a bit */
	uint8 strength;		/* MATCH_KEY_* */
	uint8 parts;		/* of how many that say the same together it is one */
} MatchKey;

#define MATCH_KEY_PIECE		 0 /* a piece of a name: others share it by chance */
#define MATCH_KEY_VARIANT	 1 /* a whole name up to a slip */
#define MATCH_KEY_IDENTIFIER 2 /* an identifier or a conjunction: evidence by itself */

#define MATCH_HASH_IS_PIECE(hash) (((hash) &1) == 0)

/* Where match_record.c works; about 40 kB, kept by callers that handle many records. */
typedef struct MatchScratch MatchScratch;

extern MatchScratch *crm_match_scratch(void);

/* The features of a record, palloc'd in the current context.  *keys points into the scratch;
 * without keys (NULL) it is quicker. */
extern MatchRecord *crm_match_record(const MatchValue values[MATCH_NROLES], MatchScratch *scratch,
									 const MatchKey **keys, int *nkeys);
/* Its keys alone, which is quicker still. */
extern const MatchKey *crm_match_record_keys(const MatchValue values[MATCH_NROLES],
											 MatchScratch *scratch, int *nkeys);
/*
 * Those that are read the quickest, for crm_match_may(): identifiers; with the place; and of a
 * firm what its name says.
 */
typedef enum MatchOutline
{
	OUTLINE_WHOLE,	 /* no outline */
	OUTLINE_NAME,	 /* without street and person */
	OUTLINE_ID,		 /* without the name either */
	OUTLINE_NUMBERS, /* identifiers alone */
	OUTLINE_NONE	 /* nothing */
} MatchOutline;

extern MatchRecord *crm_match_outline(const MatchValue values[MATCH_NROLES], MatchScratch *scratch,
									  MatchOutline outline);
/* A row of which more is read each time: what an outline had is not read again for the next. */
extern void crm_match_begin(MatchScratch *scratch);
extern MatchRecord *crm_match_more(const MatchValue values[MATCH_NROLES], MatchScratch *scratch,
								   MatchOutline outline);
extern uint32 crm_match_hash(int key_class, const void *data, size_t len);

/* Role of a name such as "family_name"; -1 if there is none. */
extern int crm_match_role(const char *name, size_t len);
extern const char *crm_match_role_name(MatchRole role);

/* match_stats.c: how common a key is */
typedef struct MatchStats MatchStats;

extern MatchStats *crm_match_stats(Oid relid); /* never NULL; valid until the next call */
extern int64 crm_match_version(const MatchStats *stats);
extern double crm_match_rows(const MatchStats *stats);
extern uint32 crm_match_count(const MatchStats *stats, uint32 hash);
extern double crm_match_rarity(const MatchStats *stats, uint32 hash, uint8 default_bits);
extern void crm_match_prefetch(const MatchStats *stats, const MatchKey *keys, int nkeys);
/* Fills the rarities of a record's features. */
extern void crm_match_weigh(MatchRecord *record, const MatchStats *stats);

/* match_score.c: do two records mean the same? */
typedef enum MatchField
{
	FIELD_NAME,
	FIELD_BRANCH,
	FIELD_BUSINESS,
	FIELD_LEGAL_FORM,
	FIELD_PERSON,
	FIELD_GENERATION,
	FIELD_BIRTH_DATE,
	FIELD_NATIONAL_ID,
	FIELD_TAX_ID,
	FIELD_PHONE,
	FIELD_EMAIL,
	FIELD_DOMAIN,
	FIELD_ADDRESS,
	FIELD_PRIOR
} MatchField;
#define MATCH_NFIELDS (FIELD_PRIOR + 1)

/* How well two records agree in a field; what each level weighs is the model's. */
typedef enum MatchLevel
{
	LEVEL_NONE, /* not compared: one side is blank */
	NAME_EQUAL,
	NAME_SOUNDS_EQUAL,
	NAME_EQUAL_CORE,
	NAME_ABBREVIATION,
	NAME_SLIP,
	NAME_SIMILAR,
	NAME_PARTLY_SIMILAR,
	NAME_SAME_READING, /* one in Han, the other in Latin letters */
	NAME_OTHER_SCRIPT,
	NAME_DIFFERENT,
	BRANCH_OF,
	BRANCH_DIFFERENT,
	BRANCH_MARK_LOST,
	BRANCH_SLIP,
	BUSINESS_DIFFERENT,
	BUSINESS_PARTLY,
	BUSINESS_MORE,
	LEGAL_FORM_DIFFERENT,
	PERSON_EQUAL, /* of either name: the two add up */
	PERSON_SWAPPED,
	PERSON_SOUNDS_EQUAL, /* other Han characters */
	PERSON_INITIAL,
	PERSON_SHORT_FORM,
	PERSON_SIMILAR,
	PERSON_PARTLY_SIMILAR,
	PERSON_UNLIKE,
	PERSON_DIFFERENT,
	GENERATION_DIFFERENT,
	GENERATION_UNTOLD, /* by one of the two */
	BIRTH_DATE_EQUAL,
	BIRTH_DATE_SLIP,
	BIRTH_DATE_NEAR,
	BIRTH_DATE_YEAR,
	BIRTH_DATE_GENERATION,
	BIRTH_DATE_DIFFERENT,
	NATIONAL_ID_EQUAL,
	NATIONAL_ID_SLIP,
	NATIONAL_ID_TWO_SLIPS,
	NATIONAL_ID_DIFFERENT,
	TAX_ID_EQUAL,
	TAX_ID_SLIP,
	TAX_ID_DIFFERENT,
	TAX_ID_BOTH_VALID,
	PHONE_EQUAL,
	PHONE_SLIP,
	PHONE_DIFFERENT,
	EMAIL_EQUAL,
	EMAIL_LOCAL_PART,
	EMAIL_SIMILAR,
	EMAIL_NAMED,
	EMAIL_DIFFERENT,
	DOMAIN_EQUAL,
	DOMAIN_NAMED,
	DOMAIN_DIFFERENT,
	ADDRESS_EQUAL,
	ADDRESS_SIMILAR,
	ADDRESS_SAME_PLACE,
	ADDRESS_OTHER_PLACE,
	PRIOR_COMPANY,
	PRIOR_PERSON
} MatchLevel;
#define MATCH_NLEVELS (PRIOR_PERSON + 1)

/* match_model.c: what each level weighs */
typedef struct MatchWeight
{
	float weight; /* bits */
	float rarity; /* of the bits of evidence that are added */
} MatchWeight;

typedef struct MatchModel
{
	MatchWeight level[MATCH_NLEVELS];
} MatchModel;

#define MATCH_WEIGHT_MOST 100 /* either way */
#define MATCH_RARITY_MOST 2

extern const MatchModel crm_default_match_model;
/* What the levels weigh in a table; valid until the next call. */
extern const MatchModel *crm_match_model(Oid relid);
/* The same of a version in use or not, 0 for the defaults; false if there is none. */
extern bool crm_match_model_version(Oid relid, int64 version, MatchModel *model);
extern const char *crm_match_field_name(MatchField field);
extern const char *crm_match_level_name(MatchLevel level);
extern MatchField crm_match_level_field(MatchLevel level);

/* A model at work on a table of so many rows.  No pointers: it can be copied and shared. */
typedef struct MatchScorer
{
	MatchModel model;
	double prior_company;
	double prior_person;
	double rarest;				/* of anything that can be shared, in bits */
	double name;				/* what the names of firms weigh at most */
	double most[MATCH_NFIELDS]; /* what a level without evidence weighs at most; not below 0 */
	double part_weight;			/* the same for one of a person's names that is not equal, ... */
	double part_rarity;			/* ... and of its rarity */
} MatchScorer;

typedef struct MatchScore
{
	double bits; /* log2 of the odds that both mean the same; the sum of weight[] */
	double weight[MATCH_NFIELDS];
	uint8 level[MATCH_NFIELDS]; /* MatchLevel */
	uint8 part_level[2];		/* of a person's given and family name, each by itself */
	double part_weight[2];
	bool reachable; /* a telephone number or e-mail address of either is known */
} MatchScore;

extern void crm_match_scorer(MatchScorer *scorer, const MatchModel *model, double rows);
extern void crm_match_score(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
							MatchScore *score);
/* Levels and weights, each field by itself: nothing is weakened, nothing added up. */
extern void crm_match_compare(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
							  MatchScore *score);
/* The same log-odds as crm_match_score() gives; or, sooner, minus infinity if they are less than
 * needed. */
extern double crm_match_bits(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
							 double needed);
/* Does an outline of another record say anything about the two? */
extern bool crm_match_tells(const MatchRecord *whole, MatchOutline outline);
/*
 * Whether crm_match_bits() may reach what is needed, as far as an outline tells: one of a and b
 * is an outline, the other whole.
 */
extern bool crm_match_may(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
						  const MatchRecord *whole, MatchOutline outline, double needed);
/* The same as far as OUTLINE_NUMBERS of both tells; one is of a firm and names no person. */
extern bool crm_match_may_numbers(const MatchScorer *scorer, const MatchRecord *a,
								  const MatchRecord *b, double needed);
extern double crm_match_probability(double bits);
extern Jsonb *crm_match_reasons(const MatchScore *score, bool truncated);

/* match_column.c: the columns of a table and their roles, read from its matching index */
typedef struct MatchColumns
{
	Oid relid;
	Oid indexid;
	char *model; /* the first argument of crm.match_keys() in the index */
	int ncolumns;
	MatchRole role[MATCH_NROLES];
	AttrNumber attnum[MATCH_NROLES];
	Oid type[MATCH_NROLES];
	char *name[MATCH_NROLES];
} MatchColumns;

extern MatchColumns *crm_match_columns(Relation rel, bool missing_ok);
/* A column's value as text in the given buffer or in place; false if blank. */
extern bool crm_match_value(Datum value, Oid type, MatchValue *out);
/* The values of a row in their roles. */
extern void crm_match_slot_values(const MatchColumns *columns, TupleTableSlot *slot,
								  MatchValue values[MATCH_NROLES]);
extern void crm_match_check_type(Oid type);
/* Name of the single column of the primary key; an error if it has none. */
extern char *crm_match_key_column(Relation rel);
/* The values of a JSON object in the roles of the columns of their names; other fields are
 * ignored. */
extern void crm_match_json_values(Jsonb *record, const MatchColumns *columns,
								  MatchValue values[MATCH_NROLES]);
/* Raises an error if a field is no column: a misspelt one would be ignored in silence. */
extern void crm_match_json_check(Jsonb *record, const MatchColumns *columns);
/* Parses "company,phone,..."; returns the number of roles, -1 at a fault. */
extern int crm_match_parse_model(const char *model, MatchRole roles[MATCH_NROLES]);
/* The same, or an error. */
extern int crm_match_check_model(const char *model, int nvalues, MatchRole roles[MATCH_NROLES]);
extern void crm_match_check_index(List *expressions);

#endif /* CRM_MATCH_H */
