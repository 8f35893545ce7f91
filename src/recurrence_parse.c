/*
 * recurrence_parse.c
 *		Reading recurrence rules: a line of RRULE parts, with or without
 *		"RRULE:", and lines "RDATE:..." and "EXDATE:...".
 *
 * What RFC 5545 forbids is refused here, so that the evaluator need not ask.
 */
#include "postgres.h"

#include <ctype.h>

#include "mb/pg_wchar.h"
#include "utils/datetime.h"

#include "recurrence.h"

typedef struct CrmRuleParser
{
	const char *p;
	const char *end;
	char *reason;
} CrmRuleParser;

static bool
crm_fail(CrmRuleParser *in, const char *reason)
{
	if (in->reason == NULL)
		in->reason = pstrdup(reason);
	return false;
}

static bool
crm_word(CrmRuleParser *in, const char *word)
{
	size_t len = strlen(word);

	if (in->end - in->p < len || pg_strncasecmp(in->p, word, len) != 0)
		return false;
	in->p += len;
	return true;
}

static bool
crm_char(CrmRuleParser *in, char c)
{
	if (in->p < in->end && *in->p == c)
	{
		in->p++;
		return true;
	}
	return false;
}

/* Exactly n digits, or as many as there are (at most 7) if n is 0. */
static bool
crm_digits(CrmRuleParser *in, int n, int *value)
{
	int seen = 0;

	*value = 0;
	while (in->p < in->end && isdigit((unsigned char) *in->p) && seen < (n > 0 ? n : 7))
	{
		*value = *value * 10 + (*in->p++ - '0');
		seen++;
	}
	return n > 0 ? seen == n : seen > 0 && (in->p == in->end || !isdigit((unsigned char) *in->p));
}

static bool
crm_int(CrmRuleParser *in, int min, int max, bool sign, int *value)
{
	bool negative = sign && crm_char(in, '-');

	if (sign && !negative)
		(void) crm_char(in, '+');
	if (!crm_digits(in, 0, value) || *value < min || *value > max)
		return crm_fail(in, psprintf("A number is missing or not between %d and %d.", min, max));
	if (negative)
		*value = -*value;
	return true;
}

/* A list of integers from min to max, into bits of pos, or of neg those that count from the end. */
static bool
crm_bits(CrmRuleParser *in, int min, int max, uint64 *pos, uint64 *neg)
{
	do
	{
		int value;

		if (!crm_int(in, min, max, neg != NULL, &value))
			return false;
		if (value < 0)
			neg[-value / 64] |= UINT64CONST(1) << (-value % 64);
		else
			pos[value / 64] |= UINT64CONST(1) << (value % 64);
	} while (crm_char(in, ','));
	return true;
}

static bool
crm_day_name(CrmRuleParser *in, int *day)
{
	static const char *const names[] = {"MO", "TU", "WE", "TH", "FR", "SA", "SU"};

	for (*day = 0; *day < 7; (*day)++)
	{
		if (crm_word(in, names[*day]))
			return true;
	}
	return crm_fail(in, "A day of the week is one of MO, TU, WE, TH, FR, SA and SU.");
}

static bool
crm_days(CrmRuleParser *in, CrmRule *rule)
{
	do
	{
		int nth = 0, day;

		if (in->p < in->end && !isalpha((unsigned char) *in->p) && !crm_int(in, 1, 53, true, &nth))
			return false;
		if (!crm_day_name(in, &day))
			return false;
		if (nth == 0)
			rule->days |= 1U << day;
		else if (rule->nnth == CRM_RULE_MAX_NTH)
			return crm_fail(in, "BYDAY has too many values.");
		else
			rule->nth[rule->nnth++] = (CrmNthDay){.nth = nth, .day = day};
	} while (crm_char(in, ','));
	return true;
}

static bool
crm_setpos(CrmRuleParser *in, CrmRule *rule)
{
	do
	{
		int pos;

		if (!crm_int(in, 1, 366, true, &pos))
			return false;
		if (rule->nsetpos == CRM_RULE_MAX_SETPOS)
			return crm_fail(in, "BYSETPOS has too many values.");
		rule->setpos[rule->nsetpos++] = pos;
	} while (crm_char(in, ','));
	return true;
}

/* 20261231, 20261231T235959 or 20261231T235959Z */
static bool
crm_rule_time(CrmRuleParser *in, CrmRuleTime *time)
{
	int year, month, day, hour = 0, minute = 0, second = 0;

	time->utc = false;
	time->date_only = true;
	if (!crm_digits(in, 4, &year) || !crm_digits(in, 2, &month) || !crm_digits(in, 2, &day))
		return crm_fail(in, "A date is written 20261231, a time 20261231T235959.");
	if (crm_char(in, 'T') || crm_char(in, 't'))
	{
		time->date_only = false;
		if (!crm_digits(in, 2, &hour) || !crm_digits(in, 2, &minute) || !crm_digits(in, 2, &second))
			return crm_fail(in, "A date is written 20261231, a time 20261231T235959.");
		time->utc = crm_char(in, 'Z') || crm_char(in, 'z');
	}
	if (year < 1 || month < 1 || month > 12 || day < 1 || day > day_tab[isleap(year)][month - 1] ||
		hour > 23 || minute > 59 || second > 59)
		return crm_fail(in, "A date or time does not exist.");
	time->time = (date2j(year, month, day) - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY +
				 (hour * 3600 + minute * 60 + second) * USECS_PER_SEC;
	return true;
}

static bool
crm_rule_times(CrmRuleParser *in, CrmRuleTime **times, int *n)
{
	if (*times == NULL)
		*times = palloc(CRM_RULE_MAX_DATES * sizeof(CrmRuleTime));
	do
	{
		if (*n == CRM_RULE_MAX_DATES)
			return crm_fail(in, psprintf("There are more than %d dates.", CRM_RULE_MAX_DATES));
		if (!crm_rule_time(in, &(*times)[*n]))
			return false;
		(*n)++;
	} while (crm_char(in, ','));
	return true;
}

static bool
crm_frequency(CrmRuleParser *in, CrmRule *rule)
{
	static const char *const names[] = {"YEARLY", "MONTHLY",  "WEEKLY",	 "DAILY",
										"HOURLY", "MINUTELY", "SECONDLY"};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (crm_word(in, names[i]))
		{
			rule->freq = i;
			return true;
		}
	}
	return crm_fail(
		in, "FREQ is one of YEARLY, MONTHLY, WEEKLY, DAILY, HOURLY, MINUTELY and SECONDLY.");
}

static bool
crm_bits32(CrmRuleParser *in, int min, int max, uint32 *pos, uint32 *neg)
{
	uint64 wide = 0, wide_neg = 0;

	if (!crm_bits(in, min, max, &wide, neg != NULL ? &wide_neg : NULL))
		return false;
	*pos |= (uint32) wide;
	if (neg != NULL)
		*neg |= (uint32) wide_neg;
	return true;
}

/* The value of part "part", an index into crm_part_names. */
static const char *const crm_part_names[] = {
	"FREQ",	  "INTERVAL",	"COUNT",	 "UNTIL",	 "WKST",	"BYSECOND", "BYMINUTE",
	"BYHOUR", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYMONTH", "BYDAY",	"BYSETPOS"};

static bool
crm_part(CrmRuleParser *in, CrmRule *rule, int part)
{
	switch (part)
	{
		case 0:
			return crm_frequency(in, rule);
		case 1:
			return crm_int(in, 1, CRM_RULE_MAX_INTERVAL, false, &rule->interval);
		case 2:
			return crm_int(in, 1, CRM_RULE_MAX_COUNT, false, &rule->count);
		case 3:
			rule->has_until = true;
			return crm_rule_time(in, &rule->until);
		case 4:
			return crm_day_name(in, &rule->week_start);
		case 5:
			return crm_bits(in, 0, 59, &rule->seconds, NULL);
		case 6:
			return crm_bits(in, 0, 59, &rule->minutes, NULL);
		case 7:
			return crm_bits32(in, 0, 23, &rule->hours, NULL);
		case 8:
			return crm_bits32(in, 1, 31, &rule->month_days, &rule->month_days_end);
		case 9:
			rule->has_year_days = true;
			return crm_bits(in, 1, 366, rule->year_days, rule->year_days_end);
		case 10:
			return crm_bits(in, 1, 53, &rule->weeks, &rule->weeks_end);
		case 11:
			return crm_bits32(in, 1, 12, &rule->months, NULL);
		case 12:
			return crm_days(in, rule);
		default:
			return crm_setpos(in, rule);
	}
}

/* What RFC 5545, 3.3.10 does not allow together. */
static bool
crm_rule_is_allowed(CrmRuleParser *in, const CrmRule *rule, uint32 seen)
{
	bool weeks = (rule->weeks | rule->weeks_end) != 0;

	if ((seen & 1) == 0)
		return crm_fail(in, "FREQ is missing.");
	if (rule->count > 0 && rule->has_until)
		return crm_fail(in, "COUNT and UNTIL exclude each other.");
	if (rule->nnth > 0 && rule->freq != CRM_MONTHLY && rule->freq != CRM_YEARLY)
		return crm_fail(in, "BYDAY has numbers only with FREQ=MONTHLY and FREQ=YEARLY.");
	if (rule->nnth > 0 && weeks)
		return crm_fail(in, "BYDAY has no numbers with BYWEEKNO.");
	if (weeks && rule->freq != CRM_YEARLY)
		return crm_fail(in, "BYWEEKNO goes only with FREQ=YEARLY.");
	if (rule->has_year_days &&
		(rule->freq == CRM_MONTHLY || rule->freq == CRM_WEEKLY || rule->freq == CRM_DAILY))
		return crm_fail(in, "BYYEARDAY does not go with FREQ=MONTHLY, WEEKLY or DAILY.");
	if ((rule->month_days | rule->month_days_end) != 0 && rule->freq == CRM_WEEKLY)
		return crm_fail(in, "BYMONTHDAY does not go with FREQ=WEEKLY.");
	if (rule->nsetpos > 0 && (seen & 0x1FE0) == 0)
		return crm_fail(in, "BYSETPOS needs another BY part.");
	return true;
}

static bool
crm_rrule_line(CrmRuleParser *in, CrmRule *rule)
{
	uint32 seen = 0;

	if (rule->recurs)
		return crm_fail(in, "There is more than one rule.");
	rule->recurs = true;
	do
	{
		int part;

		for (part = 0; part < lengthof(crm_part_names); part++)
		{
			const char *before = in->p;

			if (crm_word(in, crm_part_names[part]) && crm_char(in, '='))
				break;
			in->p = before;
		}
		if (part == lengthof(crm_part_names))
			return crm_fail(in,
							"A part is none of FREQ, INTERVAL, COUNT, UNTIL, WKST and the BY parts "
							"of RFC 5545.");
		if (seen & (1U << part))
			return crm_fail(in, psprintf("%s occurs twice.", crm_part_names[part]));
		seen |= 1U << part;
		if (!crm_part(in, rule, part))
			return false;
	} while (crm_char(in, ';'));
	return crm_rule_is_allowed(in, rule, seen);
}

bool
crm_rule_parse(const char *text, size_t len, CrmRule *rule, char **reason)
{
	CrmRuleParser in = {.p = text, .end = text + len};
	bool ok = true;

	memset(rule, 0, sizeof(*rule));
	rule->interval = 1;
	*reason = NULL;
	if (len > CRM_RULE_MAX_LENGTH)
		ok = crm_fail(&in, psprintf("It is longer than %d bytes.", CRM_RULE_MAX_LENGTH));
	while (ok && in.p < in.end)
	{
		if (crm_word(&in, "RDATE:"))
			ok = crm_rule_times(&in, &rule->rdates, &rule->nrdates);
		else if (crm_word(&in, "EXDATE:"))
			ok = crm_rule_times(&in, &rule->exdates, &rule->nexdates);
		else
		{
			(void) crm_word(&in, "RRULE:");
			ok = crm_rrule_line(&in, rule);
		}
		if (!ok)
			break;
		(void) crm_char(&in, '\r');
		if (in.p < in.end && !crm_char(&in, '\n'))
			ok = crm_fail(&in, psprintf("It cannot be read from \"%.*s\" on.",
										pg_mbcliplen(in.p, in.end - in.p, 40), in.p));
	}
	if (ok && !rule->recurs && rule->nrdates == 0)
		ok = crm_fail(&in, "There is neither a rule nor an RDATE.");
	*reason = in.reason;
	return ok;
}
