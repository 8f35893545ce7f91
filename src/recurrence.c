/*
 * recurrence.c
 *		Evaluating recurrence rules.
 *
 * A rule divides time into periods of FREQ times INTERVAL, beginning with that of
 * the start.  Within a period the BY parts select days and times of day; BYSETPOS
 * selects among the result.  Days and times of day are kept as two lists and
 * multiplied only as they are asked for, and the first period worth looking at is
 * computed rather than counted to, unless the rule has a COUNT.  So neither a rule
 * for every second nor one begun long ago takes long.
 *
 * Where RFC 5545 leaves a choice:
 *	- a part that is missing is taken from the start: BYWEEKNO alone means its weekday;
 *	- BYDAY=MO,2TU means Mondays and the second Tuesday;
 *	- dates that do not exist, such as February 30, are passed over;
 *	- a wall-clock time in the gap of a spring-forward transition is taken by the
 *	  offset before it, so a reminder is an hour late and not lost; one that occurs
 *	  twice means the first;
 *	- COUNT counts what the rule yields, whether or not EXDATE then removes it.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "recurrence.h"

/* A rule that goes through so many periods without an occurrence is given up. */
#define CRM_RULE_MAX_EMPTY 1000000

#define SECS_PER_HOUR_ 3600

struct CrmRuleIterator
{
	const CrmRule *rule;
	Timestamp start;
	Timestamp after;
	Timestamp until; /* wall clock; DT_NOEND if there is none */
	int start_day;	 /* days since 2000-01-01 */
	int start_second;

	/* What the rule says with the missing parts taken from the start. */
	uint32 hours, months, month_days, month_days_end, days;
	uint64 minutes, seconds;

	int64 period; /* the next one to look at */
	int empty;	  /* periods in a row without an occurrence */
	int emitted;  /* for COUNT */
	bool ended;

	/* The period being read. */
	int ndays;
	int day_list[366];
	int ntimes;
	int *times; /* seconds of the day */
	int64 npositions;
	int64 position; /* in days x times, or in positions below */
	int npicked;	/* with BYSETPOS */
	int64 picked[CRM_RULE_MAX_SETPOS];

	/* Lists of dates, sorted, in wall-clock time. */
	Timestamp *rdates, *exdates;
	int nrdates, nexdates;
	int rdate;
	bool have_next;
	Timestamp next;
	Timestamp last; /* result before, so that none is given twice */
};

/* ---- days ---- */

static int
crm_day_of(int year, int month, int day)
{
	return date2j(year, month, day) - POSTGRES_EPOCH_JDATE;
}

static void
crm_date_of(int day, int *year, int *month, int *mday)
{
	j2date(day + POSTGRES_EPOCH_JDATE, year, month, mday);
}

/* 0 is Monday. 2000-01-01 was a Saturday. */
static int
crm_weekday(int day)
{
	int w = (day + 5) % 7;

	return w < 0 ? w + 7 : w;
}

static int
crm_month_length(int year, int month)
{
	return day_tab[isleap(year)][month - 1];
}

/* First day of week 1 of a year: the first week with at least four days of it. */
static int
crm_week_one(int year, int week_start)
{
	int jan4 = crm_day_of(year, 1, 4);

	return jan4 - (crm_weekday(jan4) - week_start + 7) % 7;
}

static bool
crm_week_selected(const CrmRule *rule, int day, int year)
{
	int first = crm_week_one(year, rule->week_start);
	int next = crm_week_one(year + 1, rule->week_start);
	int week, weeks;

	if (day < first)
	{
		next = first;
		first = crm_week_one(year - 1, rule->week_start);
	}
	else if (day >= next)
	{
		first = next;
		next = crm_week_one(year + 2, rule->week_start);
	}
	week = (day - first) / 7 + 1;
	weeks = (next - first) / 7;
	return (rule->weeks & (UINT64CONST(1) << week)) != 0 ||
		   (rule->weeks_end & (UINT64CONST(1) << (weeks + 1 - week))) != 0;
}

static bool
crm_nth_selected(const CrmRuleIterator *it, int day, int year, int month, int mday)
{
	const CrmRule *rule = it->rule;
	int weekday = crm_weekday(day);
	int index, length;

	/* In a year unless the months are chosen; else in the month. */
	if (rule->freq == CRM_YEARLY && rule->months == 0)
	{
		index = day - crm_day_of(year, 1, 1);
		length = isleap(year) ? 366 : 365;
	}
	else
	{
		index = mday - 1;
		length = crm_month_length(year, month);
	}
	for (int i = 0; i < rule->nnth; i++)
	{
		if (rule->nth[i].day != weekday)
			continue;
		if (rule->nth[i].nth == index / 7 + 1 ||
			rule->nth[i].nth == -((length - 1 - index) / 7 + 1))
			return true;
	}
	return false;
}

static bool
crm_bit(const uint64 *bits, int n)
{
	return (bits[n / 64] & (UINT64CONST(1) << (n % 64))) != 0;
}

static bool
crm_day_selected(const CrmRuleIterator *it, int day)
{
	const CrmRule *rule = it->rule;
	int year, month, mday;

	crm_date_of(day, &year, &month, &mday);
	if (it->months != 0 && (it->months & (1U << month)) == 0)
		return false;
	if ((it->month_days | it->month_days_end) != 0 && (it->month_days & (1U << mday)) == 0 &&
		(it->month_days_end & (1U << (crm_month_length(year, month) + 1 - mday))) == 0)
		return false;
	if ((rule->weeks | rule->weeks_end) != 0 && !crm_week_selected(rule, day, year))
		return false;
	if (rule->has_year_days)
	{
		int yday = day - crm_day_of(year, 1, 1) + 1;

		if (!crm_bit(rule->year_days, yday) &&
			!crm_bit(rule->year_days_end, (isleap(year) ? 366 : 365) + 1 - yday))
			return false;
	}
	if ((it->days != 0 || rule->nnth > 0) && (it->days & (1U << crm_weekday(day))) == 0 &&
		!(rule->nnth > 0 && crm_nth_selected(it, day, year, month, mday)))
		return false;
	return true;
}

/* ---- periods ---- */

/* Number of the period, in units of FREQ alone, that a time lies in. */
static int64
crm_unit_of(const CrmRuleIterator *it, int day, int second)
{
	int year, month, mday;

	switch (it->rule->freq)
	{
		case CRM_YEARLY:
			crm_date_of(day, &year, &month, &mday);
			return year;
		case CRM_MONTHLY:
			crm_date_of(day, &year, &month, &mday);
			return (int64) year * 12 + month - 1;
		case CRM_WEEKLY:
			/* Shifted so that a week's days give the same quotient; 1,000,000 weeks keep it
			 * positive. */
			return (day + 5 - it->rule->week_start + INT64CONST(7000000)) / 7;
		case CRM_DAILY:
			return day;
		case CRM_HOURLY:
			return (int64) day * 24 + second / 3600;
		case CRM_MINUTELY:
			return (int64) day * 1440 + second / 60;
		case CRM_SECONDLY:
			return (int64) day * SECS_PER_DAY + second;
	}
	return 0;
}

static int64
crm_floor_div(int64 a, int64 b)
{
	int64 q = a / b;

	return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}

static void
crm_fill_times(CrmRuleIterator *it, uint32 hours, uint64 minutes, uint64 seconds)
{
	it->ntimes = 0;
	for (int h = 0; h < 24; h++)
	{
		if ((hours & (1U << h)) == 0)
			continue;
		for (int m = 0; m < 60; m++)
		{
			if ((minutes & (UINT64CONST(1) << m)) == 0)
				continue;
			for (int s = 0; s < 60; s++)
			{
				if (seconds & (UINT64CONST(1) << s))
					it->times[it->ntimes++] = h * 3600 + m * 60 + s;
			}
		}
	}
}

static int
crm_compare_int64(const void *a, const void *b)
{
	int64 x = *(const int64 *) a, y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/* Applies BYSETPOS to the period's days and times. */
static void
crm_pick_positions(CrmRuleIterator *it)
{
	const CrmRule *rule = it->rule;
	int64 total = (int64) it->ndays * it->ntimes;

	it->npicked = 0;
	for (int i = 0; i < rule->nsetpos; i++)
	{
		int64 pos = rule->setpos[i] > 0 ? rule->setpos[i] - 1 : total + rule->setpos[i];

		if (pos >= 0 && pos < total)
			it->picked[it->npicked++] = pos;
	}
	qsort(it->picked, it->npicked, sizeof(int64), crm_compare_int64);
	it->npositions = it->npicked;
}

/*
 * Moves "period" on to the first one that begins at or after the given unit, as
 * after a day or hour that is not selected.
 */
static void
crm_skip_to_unit(CrmRuleIterator *it, int64 unit)
{
	int64 origin = crm_unit_of(it, it->start_day, it->start_second);
	int64 steps = crm_floor_div(unit - origin + it->rule->interval - 1, it->rule->interval);

	it->period = Max(it->period, steps);
}

/* Periods shorter than a day: a day, hour or minute that is not selected is left at once. */
static void
crm_read_short_period(CrmRuleIterator *it, int64 unit)
{
	static const int per_day[] = {[CRM_HOURLY] = 24, [CRM_MINUTELY] = 1440, [CRM_SECONDLY] = 86400};
	CrmFrequency freq = it->rule->freq;
	int day = (int) crm_floor_div(unit, per_day[freq]);
	int second = (int) (unit - (int64) day * per_day[freq]) * (SECS_PER_DAY / per_day[freq]);
	int hour = second / 3600;
	int minute = second / 60 % 60;
	int unit_seconds = SECS_PER_DAY / per_day[freq];

	if (!crm_day_selected(it, day))
	{
		crm_skip_to_unit(it, (int64) (day + 1) * per_day[freq]);
		return;
	}
	if ((it->hours & (1U << hour)) == 0)
	{
		crm_skip_to_unit(it, ((int64) day * SECS_PER_DAY + (hour + 1) * 3600) / unit_seconds);
		return;
	}
	if (freq != CRM_HOURLY && (it->minutes & (UINT64CONST(1) << minute)) == 0)
	{
		crm_skip_to_unit(it, ((int64) day * SECS_PER_DAY + (second / 60 + 1) * 60) / unit_seconds);
		return;
	}
	it->ndays = 1;
	it->day_list[0] = day;
	crm_fill_times(it, 1U << hour, freq == CRM_HOURLY ? it->minutes : UINT64CONST(1) << minute,
				   freq == CRM_SECONDLY ? it->seconds & (UINT64CONST(1) << (second % 60))
										: it->seconds);
}

/* Reads the next period; false beyond the last year. */
static bool
crm_read_period(CrmRuleIterator *it)
{
	const CrmRule *rule = it->rule;
	int64 unit = crm_unit_of(it, it->start_day, it->start_second) + it->period * rule->interval;
	int first, days;

	it->period++;
	it->ndays = 0;
	it->position = 0;
	it->npositions = 0;
	switch (rule->freq)
	{
		case CRM_YEARLY:
			if (unit > CRM_RULE_LAST_YEAR)
				return false;
			first = crm_day_of((int) unit, 1, 1);
			days = isleap((int) unit) ? 366 : 365;
			break;
		case CRM_MONTHLY:
			if (unit / 12 > CRM_RULE_LAST_YEAR)
				return false;
			first = crm_day_of((int) (unit / 12), (int) (unit % 12) + 1, 1);
			days = crm_month_length((int) (unit / 12), (int) (unit % 12) + 1);
			break;
		case CRM_WEEKLY:
			first = (int) (unit * 7 - INT64CONST(7000000)) - 5 + rule->week_start;
			days = 7;
			break;
		case CRM_DAILY:
			first = (int) unit;
			days = 1;
			break;
		default:
			if (unit > crm_unit_of(it, crm_day_of(CRM_RULE_LAST_YEAR, 12, 31), SECS_PER_DAY - 1))
				return false;
			crm_read_short_period(it, unit);
			first = days = 0;
			break;
	}
	if (first > crm_day_of(CRM_RULE_LAST_YEAR, 12, 31))
		return false;
	for (int i = 0; i < days; i++)
	{
		if (crm_day_selected(it, first + i))
			it->day_list[it->ndays++] = first + i;
	}
	if (it->ndays > 0)
	{
		it->npositions = (int64) it->ndays * it->ntimes;
		if (rule->nsetpos > 0)
			crm_pick_positions(it);
	}
	return true;
}

/* The next occurrence of the rule itself. */
static bool
crm_rule_raw_next(CrmRuleIterator *it, Timestamp *result)
{
	if (!it->rule->recurs)
		return false;
	while (!it->ended)
	{
		if (it->position < it->npositions)
		{
			int64 pos = it->rule->nsetpos > 0 ? it->picked[it->position] : it->position;
			Timestamp t = (int64) it->day_list[pos / it->ntimes] * USECS_PER_DAY +
						  (int64) it->times[pos % it->ntimes] * USECS_PER_SEC;
			bool again =
				it->rule->nsetpos > 0 && it->position > 0 && it->picked[it->position - 1] == pos;

			it->position++;
			if (t < it->start || again)
				continue;
			if (t > it->until || (it->rule->count > 0 && it->emitted >= it->rule->count))
				break;
			it->emitted++;
			it->empty = 0;
			*result = t;
			return true;
		}
		CHECK_FOR_INTERRUPTS();
		if (++it->empty > CRM_RULE_MAX_EMPTY)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("recurrence rule yields nothing in %d periods", CRM_RULE_MAX_EMPTY),
					 errhint("Its parts may contradict each other.")));
		if (!crm_read_period(it))
			break;
		if (it->ndays > 0 && (Timestamp) it->day_list[0] * USECS_PER_DAY > it->until)
			break;
	}
	it->ended = true;
	return false;
}

/* ---- lists of dates, and the whole set ---- */

static Timestamp
crm_resolve(const CrmRuleTime *time, pg_tz *tz)
{
	return time->utc ? crm_instant_to_wall(time->time, tz) : time->time;
}

static Timestamp *
crm_resolve_list(const CrmRuleTime *times, int n, Timestamp start, pg_tz *tz)
{
	Timestamp *result = palloc(Max(n, 1) * sizeof(Timestamp));

	for (int i = 0; i < n; i++)
	{
		result[i] = crm_resolve(&times[i], tz);
		/* A date alone means the time of day of the start. */
		if (times[i].date_only)
			result[i] += start - crm_floor_div(start, USECS_PER_DAY) * USECS_PER_DAY;
	}
	qsort(result, n, sizeof(Timestamp), crm_compare_int64);
	return result;
}

CrmRuleIterator *
crm_rule_begin(const CrmRule *rule, Timestamp start, pg_tz *tz, Timestamp after)
{
	CrmRuleIterator *it = palloc0(sizeof(CrmRuleIterator));
	int year, month, mday, hour, minute, second;

	start = crm_floor_div(start, USECS_PER_SEC) * USECS_PER_SEC;
	it->rule = rule;
	it->start = start;
	it->after = after;
	it->until = rule->has_until ? crm_resolve(&rule->until, tz) : DT_NOEND;
	if (rule->has_until && rule->until.date_only)
		it->until += USECS_PER_DAY - 1;
	it->start_day = (int) crm_floor_div(start, USECS_PER_DAY);
	it->start_second = (int) ((start - it->start_day * USECS_PER_DAY) / USECS_PER_SEC);
	it->last = DT_NOBEGIN;
	it->rdates = crm_resolve_list(rule->rdates, rule->nrdates, start, tz);
	it->nrdates = rule->nrdates;
	it->exdates = crm_resolve_list(rule->exdates, rule->nexdates, start, tz);
	it->nexdates = rule->nexdates;
	if (!rule->recurs)
		return it;

	crm_date_of(it->start_day, &year, &month, &mday);
	hour = it->start_second / 3600;
	minute = it->start_second / 60 % 60;
	second = it->start_second % 60;

	it->months = rule->months;
	it->month_days = rule->month_days;
	it->month_days_end = rule->month_days_end;
	it->days = rule->days;
	if ((rule->weeks | rule->weeks_end) != 0)
	{
		if (rule->days == 0 && rule->nnth == 0 && (rule->month_days | rule->month_days_end) == 0 &&
			!rule->has_year_days)
			it->days = 1U << crm_weekday(it->start_day);
	}
	else if ((rule->month_days | rule->month_days_end) == 0 && !rule->has_year_days &&
			 rule->days == 0 && rule->nnth == 0)
	{
		if (rule->freq == CRM_YEARLY && rule->months == 0)
			it->months = 1U << month;
		if (rule->freq == CRM_YEARLY || rule->freq == CRM_MONTHLY)
			it->month_days = 1U << mday;
		if (rule->freq == CRM_WEEKLY)
			it->days = 1U << crm_weekday(it->start_day);
	}

	it->hours = rule->hours != 0 ? rule->hours : rule->freq < CRM_HOURLY ? 1U << hour : ~0U;
	it->minutes = rule->minutes != 0		  ? rule->minutes
				  : rule->freq < CRM_MINUTELY ? UINT64CONST(1) << minute
											  : ~UINT64CONST(0);
	it->seconds = rule->seconds != 0		  ? rule->seconds
				  : rule->freq < CRM_SECONDLY ? UINT64CONST(1) << second
											  : ~UINT64CONST(0);
	if (rule->freq < CRM_HOURLY)
	{
		it->times = palloc(sizeof(int) * pg_popcount((char *) &it->hours, sizeof(it->hours)) *
						   pg_popcount((char *) &it->minutes, sizeof(it->minutes)) *
						   pg_popcount((char *) &it->seconds, sizeof(it->seconds)));
		crm_fill_times(it, it->hours, it->minutes, it->seconds);
	}
	else
		it->times = palloc(sizeof(int) * 3600);

	/* Begin a period early: an occurrence after "after" may lie in the one that holds it. */
	if (rule->count == 0 && after > start)
	{
		int day =
			(int) Min(crm_floor_div(after, USECS_PER_DAY), crm_day_of(CRM_RULE_LAST_YEAR, 12, 31));

		crm_skip_to_unit(it, crm_unit_of(it, day, 0) - rule->interval);
	}
	return it;
}

static bool
crm_is_listed(const Timestamp *times, int n, Timestamp t)
{
	return n > 0 && bsearch(&t, times, n, sizeof(Timestamp), crm_compare_int64) != NULL;
}

bool
crm_rule_next(CrmRuleIterator *it, Timestamp *result)
{
	for (;;)
	{
		Timestamp t;

		CHECK_FOR_INTERRUPTS();
		if (!it->have_next)
			it->have_next = crm_rule_raw_next(it, &it->next);
		if (it->rdate < it->nrdates && (!it->have_next || it->rdates[it->rdate] <= it->next))
			t = it->rdates[it->rdate++];
		else if (it->have_next)
		{
			t = it->next;
			it->have_next = false;
		}
		else
			return false;
		if (t <= it->after || t == it->last || crm_is_listed(it->exdates, it->nexdates, t))
			continue;
		it->last = t;
		*result = t;
		return true;
	}
}

/* ---- wall clock ---- */

Timestamp
crm_instant_to_wall(TimestampTz instant, pg_tz *tz)
{
	struct pg_tm tm;
	fsec_t fsec;
	int offset;
	Timestamp result;

	if (timestamp2tm(instant, &offset, &tm, &fsec, NULL, tz) != 0 ||
		tm2timestamp(&tm, fsec, NULL, &result) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range")));
	return result;
}

/*
 * Core takes a time in a gap by the offset before it, as we want, but the second
 * of two in an overlap; RFC 5545 (3.3.5) says the first, which is the one that
 * the offset of the day before yields.
 */
TimestampTz
crm_wall_to_instant(Timestamp wall, pg_tz *tz)
{
	struct pg_tm tm;
	fsec_t fsec;
	int offset;
	TimestampTz result, earlier, day_before;

	if (timestamp2tm(wall, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range")));
	offset = DetermineTimeZoneOffset(&tm, tz);
	if (tm2timestamp(&tm, fsec, &offset, &result) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range")));

	day_before = result - USECS_PER_DAY;
	if (!IS_VALID_TIMESTAMP(day_before))
		return result;
	earlier = wall - (crm_instant_to_wall(day_before, tz) - day_before);
	if (earlier < result && IS_VALID_TIMESTAMP(earlier) && crm_instant_to_wall(earlier, tz) == wall)
		return earlier;
	return result;
}

pg_tz *
crm_time_zone(const char *name)
{
	pg_tz *tz = pg_tzset(name);

	if (tz == NULL || !pg_tz_acceptable(tz))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("time zone \"%s\" not recognized", name),
						errhint("pg_timezone_names lists the names.")));
	return tz;
}
