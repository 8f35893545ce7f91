/*
 * recurrence.h
 *		Recurrence rules of RFC 5545 (RRULE, RDATE, EXDATE), evaluated in bounded time.
 *
 * All times here are wall-clock times without a zone, as Timestamp; whole seconds.
 */
#ifndef CRM_RECURRENCE_H
#define CRM_RECURRENCE_H

#include "datatype/timestamp.h"
#include "pgtime.h"

#define CRM_RULE_MAX_LENGTH	  8192
#define CRM_RULE_MAX_NTH	  128
#define CRM_RULE_MAX_SETPOS	  128
#define CRM_RULE_MAX_DATES	  1000
#define CRM_RULE_MAX_COUNT	  1000000
#define CRM_RULE_MAX_INTERVAL 1000000
#define CRM_RULE_LAST_YEAR	  9999

typedef enum CrmFrequency
{
	CRM_YEARLY,
	CRM_MONTHLY,
	CRM_WEEKLY,
	CRM_DAILY,
	CRM_HOURLY,
	CRM_MINUTELY,
	CRM_SECONDLY
} CrmFrequency;

/* A date or time as written: local, or UTC with a Z, or a date alone. */
typedef struct CrmRuleTime
{
	Timestamp time;
	bool utc;
	bool date_only;
} CrmRuleTime;

/* BYDAY with an ordinal: the nth such day of the month or year, from its end if negative. */
typedef struct CrmNthDay
{
	int16 nth;
	int8 day; /* 0 is Monday */
} CrmNthDay;

/* Bits of the masks are the values themselves; "…_end" counts from the end, bit n being -n. */
typedef struct CrmRule
{
	bool recurs; /* has an RRULE; else only RDATEs */
	CrmFrequency freq;
	int interval;
	int count; /* 0: no COUNT */
	bool has_until;
	CrmRuleTime until;
	int week_start; /* 0 is Monday */
	uint64 seconds, minutes;
	uint32 hours;
	uint32 months;
	uint32 month_days, month_days_end;
	uint64 weeks, weeks_end;
	uint64 year_days[6], year_days_end[6];
	bool has_year_days;
	uint32 days; /* BYDAY without ordinal, bit 0 is Monday */
	int nnth;
	CrmNthDay nth[CRM_RULE_MAX_NTH];
	int nsetpos;
	int16 setpos[CRM_RULE_MAX_SETPOS];
	int nrdates, nexdates;
	CrmRuleTime *rdates, *exdates;
} CrmRule;

/*
 * Parses a rule into *rule, whose lists are palloc'd.  False if it is malformed;
 * *reason then says why, in words for DETAIL.
 */
extern bool crm_rule_parse(const char *text, size_t len, CrmRule *rule, char **reason);

typedef struct CrmRuleIterator CrmRuleIterator;

/* Occurrences at or after "start" and after "after", in order.  tz resolves times written in UTC.
 */
extern CrmRuleIterator *crm_rule_begin(const CrmRule *rule, Timestamp start, pg_tz *tz,
									   Timestamp after);
/* False at the end.  Errors if too many periods go by without an occurrence. */
extern bool crm_rule_next(CrmRuleIterator *it, Timestamp *result);

/* The instant at which a wall clock shows this; see recurrence.c for gaps and overlaps. */
extern TimestampTz crm_wall_to_instant(Timestamp wall, pg_tz *tz);
extern Timestamp crm_instant_to_wall(TimestampTz instant, pg_tz *tz);
/* A time zone by its IANA name; errors if there is none. */
extern pg_tz *crm_time_zone(const char *name);

/* For SQL functions: a rule as written, and the start of one; errors say what is wrong. */
extern void crm_rule_of(text *value, CrmRule *rule);
extern void crm_check_start(Timestamp start);

#endif /* CRM_RECURRENCE_H */
