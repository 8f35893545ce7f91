/*
 * match_model.c
 *		What each level of agreement weighs.
 *
 * A level weighs `weight` bits, and `rarity` of the bits of evidence behind it:
 * how rare the value is that both records have, or the pieces of it they share.
 * With rarity 1 a level follows how common the value is in the user's own data;
 * with rarity 0 it weighs the same whatever the value.
 */
#include "postgres.h"

#include "match.h"

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

typedef struct MatchLevelInfo
{
	MatchField field;
	const char *name;
} MatchLevelInfo;

static const MatchLevelInfo levels[MATCH_NLEVELS] = {
	[NAME_EQUAL] = {FIELD_NAME, "equal"},
	[NAME_SOUNDS_EQUAL] = {FIELD_NAME, "sounds equal"},
	[NAME_OTHER_FORM] = {FIELD_NAME, "other legal form"},
	[NAME_EQUAL_CORE] = {FIELD_NAME, "equal core"},
	[NAME_ABBREVIATION] = {FIELD_NAME, "abbreviation"},
	[NAME_SLIP] = {FIELD_NAME, "slip"},
	[NAME_SIMILAR] = {FIELD_NAME, "similar"},
	[NAME_PARTLY_SIMILAR] = {FIELD_NAME, "partly similar"},
	[NAME_DIFFERENT] = {FIELD_NAME, "different"},
	[BRANCH_OF] = {FIELD_BRANCH, "branch of"},
	[BRANCH_DIFFERENT] = {FIELD_BRANCH, "different"},
	[PERSON_EQUAL] = {FIELD_PERSON, "equal"},
	[PERSON_SWAPPED] = {FIELD_PERSON, "swapped"},
	[PERSON_INITIAL] = {FIELD_PERSON, "initial"},
	[PERSON_SHORT_FORM] = {FIELD_PERSON, "short form"},
	[PERSON_SIMILAR] = {FIELD_PERSON, "similar"},
	[PERSON_PARTLY_SIMILAR] = {FIELD_PERSON, "partly similar"},
	[PERSON_UNLIKE] = {FIELD_PERSON, "unlike"},
	[PERSON_DIFFERENT] = {FIELD_PERSON, "different"},
	[BIRTH_DATE_EQUAL] = {FIELD_BIRTH_DATE, "equal"},
	[BIRTH_DATE_SLIP] = {FIELD_BIRTH_DATE, "one slip"},
	[BIRTH_DATE_NEAR] = {FIELD_BIRTH_DATE, "near"},
	[BIRTH_DATE_YEAR] = {FIELD_BIRTH_DATE, "within a year"},
	[BIRTH_DATE_DIFFERENT] = {FIELD_BIRTH_DATE, "different"},
	[NATIONAL_ID_EQUAL] = {FIELD_NATIONAL_ID, "equal"},
	[NATIONAL_ID_SLIP] = {FIELD_NATIONAL_ID, "one slip"},
	[NATIONAL_ID_TWO_SLIPS] = {FIELD_NATIONAL_ID, "two slips"},
	[NATIONAL_ID_DIFFERENT] = {FIELD_NATIONAL_ID, "different"},
	[TAX_ID_EQUAL] = {FIELD_TAX_ID, "equal"},
	[TAX_ID_SLIP] = {FIELD_TAX_ID, "one slip"},
	[TAX_ID_DIFFERENT] = {FIELD_TAX_ID, "different"},
	[TAX_ID_BOTH_VALID] = {FIELD_TAX_ID, "both valid, different"},
	[PHONE_EQUAL] = {FIELD_PHONE, "equal"},
	[PHONE_SLIP] = {FIELD_PHONE, "one slip"},
	[PHONE_DIFFERENT] = {FIELD_PHONE, "different"},
	[EMAIL_EQUAL] = {FIELD_EMAIL, "equal"},
	[EMAIL_LOCAL_PART] = {FIELD_EMAIL, "equal before the @"},
	[EMAIL_SIMILAR] = {FIELD_EMAIL, "similar"},
	[EMAIL_DIFFERENT] = {FIELD_EMAIL, "different"},
	[DOMAIN_EQUAL] = {FIELD_DOMAIN, "equal"},
	[DOMAIN_NAMED] = {FIELD_DOMAIN, "equal, like the name"},
	[DOMAIN_DIFFERENT] = {FIELD_DOMAIN, "different"},
	[ADDRESS_EQUAL] = {FIELD_ADDRESS, "equal"},
	[ADDRESS_SIMILAR] = {FIELD_ADDRESS, "similar"},
	[ADDRESS_SAME_PLACE] = {FIELD_ADDRESS, "same place"},
	[ADDRESS_OTHER_PLACE] = {FIELD_ADDRESS, "other place"},
	[PRIOR_COMPANY] = {FIELD_PRIOR, "companies"},
	[PRIOR_PERSON] = {FIELD_PRIOR, "persons"},
};

const MatchModel crm_default_match_model = {
	.level =
		{
			[NAME_EQUAL] = {0, 1},
			[NAME_SOUNDS_EQUAL] = {-1.5, 1},
			[NAME_OTHER_FORM] = {-1.5, 1},
			[NAME_EQUAL_CORE] = {-1, 1},
			[NAME_ABBREVIATION] = {0, 1},
			[NAME_SLIP] = {0, 1},
			[NAME_SIMILAR] = {0, 1},
			[NAME_PARTLY_SIMILAR] = {0, 1},
			[NAME_DIFFERENT] = {0, 1},
			[BRANCH_OF] = {-12, 0},
			[BRANCH_DIFFERENT] = {-6, 0},
			[PERSON_EQUAL] = {-0.2, 1},
			[PERSON_SWAPPED] = {-1, 1},
			[PERSON_INITIAL] = {2, 0},
			[PERSON_SHORT_FORM] = {0, 0.5},
			[PERSON_SIMILAR] = {0, 0.55},
			[PERSON_PARTLY_SIMILAR] = {0, 0.2},
			[PERSON_UNLIKE] = {-2, 0},
			[PERSON_DIFFERENT] = {-5, 0},
			[BIRTH_DATE_EQUAL] = {-0.2, 1},
			[BIRTH_DATE_SLIP] = {5, 0},
			[BIRTH_DATE_NEAR] = {2, 0},
			[BIRTH_DATE_YEAR] = {0, 0},
			[BIRTH_DATE_DIFFERENT] = {-4, 0},
			[NATIONAL_ID_EQUAL] = {0, 1},
			[NATIONAL_ID_SLIP] = {8, 0},
			[NATIONAL_ID_TWO_SLIPS] = {3, 0},
			[NATIONAL_ID_DIFFERENT] = {-4.5, 0},
			[TAX_ID_EQUAL] = {0, 1},
			[TAX_ID_SLIP] = {0, 0},
			[TAX_ID_DIFFERENT] = {-10, 0},
			[TAX_ID_BOTH_VALID] = {-14, 0},
			[PHONE_EQUAL] = {-0.5, 1},
			[PHONE_SLIP] = {7, 0},
			[PHONE_DIFFERENT] = {-1.2, 0},
			[EMAIL_EQUAL] = {-0.5, 1},
			[EMAIL_LOCAL_PART] = {0, 0.6},
			[EMAIL_SIMILAR] = {4, 0},
			[EMAIL_DIFFERENT] = {-0.8, 0},
			[DOMAIN_EQUAL] = {0, 0.7},
			[DOMAIN_NAMED] = {0, 0.3},
			[DOMAIN_DIFFERENT] = {-2, 0},
			[ADDRESS_EQUAL] = {-0.5, 1},
			[ADDRESS_SIMILAR] = {0, 1},
			[ADDRESS_SAME_PLACE] = {0, 1},
			[ADDRESS_OTHER_PLACE] = {0, 1},
			[PRIOR_COMPANY] = {0, 0},
			[PRIOR_PERSON] = {3, 0},
		},
};

const char *
crm_match_field_name(MatchField field)
{
	return field_names[field];
}

const char *
crm_match_level_name(MatchLevel level)
{
	return levels[level].name;
}

MatchField
crm_match_level_field(MatchLevel level)
{
	return levels[level].field;
}
