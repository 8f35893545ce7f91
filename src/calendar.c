/*
 * calendar.c
 *		Arithmetic on working time.
 *
 * W(t) is the working time before t: the sum of the days before, kept for whole
 * years, and of the hours of t's own day.  The time between two instants is a
 * difference of two W, and adding is finding the instant that has a given W, by
 * binary search over the days.  Hours are of the wall clock; on a day without a
 * transition of the zone that is their length, on others it is measured between
 * the instants.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/datetime.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "calendar.h"
#include "recurrence.h"

static int
crm_floor_day(Timestamp wall)
{
	return (int) (wall >= 0 ? wall / USECS_PER_DAY
							: -((-wall + USECS_PER_DAY - 1) / USECS_PER_DAY));
}

static const CrmDayHours *
crm_hours_of(const CrmCalendar *cal, int day)
{
	int low = 0, high = cal->nspecial;
	static const CrmDayHours closed = {0, NULL};
	int weekday;

	while (low < high)
	{
		int middle = (low + high) / 2;

		if (cal->special[middle].day < day)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < cal->nspecial && cal->special[low].day == day)
		return cal->special[low].weekday < 0 ? &closed : &cal->week[cal->special[low].weekday];
	weekday = (day + 5) % 7;
	return &cal->week[weekday < 0 ? weekday + 7 : weekday];
}

/* The instants at which hours of a day begin and end. */
static void
crm_hours_at(const CrmCalendar *cal, int day, const CrmHours *hours, TimestampTz *opens,
			 TimestampTz *closes)
{
	Timestamp midnight = (Timestamp) day * USECS_PER_DAY;

	*opens = crm_wall_to_instant(midnight + hours->opens * USECS_PER_SEC, cal->tz);
	*closes = crm_wall_to_instant(midnight + hours->closes * USECS_PER_SEC, cal->tz);
	/* A day that the zone skipped, as Samoa did 2011-12-30, has no hours. */
	if (*closes < *opens || crm_floor_day(crm_instant_to_wall(*opens, cal->tz)) != day)
		*closes = *opens;
}

/* Working time of a day.  "same" tells that the offset does not change during it. */
static int64
crm_day_length(const CrmCalendar *cal, int day, bool same)
{
	const CrmDayHours *hours = crm_hours_of(cal, day);
	int64 length = 0;

	for (int i = 0; i < hours->n; i++)
	{
		TimestampTz opens, closes;

		if (same)
			length += (hours->hours[i].closes - hours->hours[i].opens) * USECS_PER_SEC;
		else
		{
			crm_hours_at(cal, day, &hours->hours[i], &opens, &closes);
			length += closes - opens;
		}
	}
	return length;
}

/* Extends the totals to a year; they stay contiguous. */
static void
crm_calendar_cover(CrmCalendar *cal, int year)
{
	int first, last, first_day, ndays;
	int64 *total;
	int64 sum = 0;
	TimestampTz midnight;

	if (year < CRM_CALENDAR_FIRST_YEAR || year > CRM_CALENDAR_LAST_YEAR)
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("working time is known for the years %d to %d only",
							   CRM_CALENDAR_FIRST_YEAR, CRM_CALENDAR_LAST_YEAR)));
	if (cal->first_year <= cal->last_year && year >= cal->first_year && year <= cal->last_year)
		return;
	first = cal->first_year > cal->last_year ? year : Min(year, cal->first_year);
	last = cal->first_year > cal->last_year ? year : Max(year, cal->last_year);

	first_day = date2j(first, 1, 1) - POSTGRES_EPOCH_JDATE;
	ndays = date2j(last + 1, 1, 1) - POSTGRES_EPOCH_JDATE - first_day;
	total = MemoryContextAlloc(cal->context, (ndays + 1) * sizeof(int64));
	midnight = crm_wall_to_instant((Timestamp) first_day * USECS_PER_DAY, cal->tz);
	for (int i = 0; i < ndays; i++)
	{
		TimestampTz next =
			crm_wall_to_instant((Timestamp) (first_day + i + 1) * USECS_PER_DAY, cal->tz);

		CHECK_FOR_INTERRUPTS();
		total[i] = sum;
		sum += crm_day_length(cal, first_day + i, next - midnight == USECS_PER_DAY);
		midnight = next;
	}
	total[ndays] = sum;

	/* Nothing can fail from here on. */
	if (cal->total != NULL)
		pfree(cal->total);
	cal->total = total;
	cal->first_day = first_day;
	cal->ndays = ndays;
	cal->first_year = first;
	cal->last_year = last;
}

/* Covers as many years again, later or earlier ones. */
static void
crm_calendar_grow(CrmCalendar *cal, bool later)
{
	int span = cal->last_year - cal->first_year + 1;

	if (later)
		crm_calendar_cover(cal, cal->last_year == CRM_CALENDAR_LAST_YEAR
									? CRM_CALENDAR_LAST_YEAR + 1
									: Min(cal->last_year + span, CRM_CALENDAR_LAST_YEAR));
	else
		crm_calendar_cover(cal, cal->first_year == CRM_CALENDAR_FIRST_YEAR
									? CRM_CALENDAR_FIRST_YEAR - 1
									: Max(cal->first_year - span, CRM_CALENDAR_FIRST_YEAR));
}

/* Covers the year of an instant and returns its day there, on the wall clock. */
static int
crm_cover_instant(CrmCalendar *cal, TimestampTz at)
{
	int year, month, mday, day;

	if (TIMESTAMP_NOT_FINITE(at))
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("working time of an infinite time is not defined")));
	day = crm_floor_day(crm_instant_to_wall(at, cal->tz));
	j2date(day + POSTGRES_EPOCH_JDATE, &year, &month, &mday);
	crm_calendar_cover(cal, year);
	return day;
}

/* W(at), counted from first_day. */
static int64
crm_worked(const CrmCalendar *cal, int day, TimestampTz at)
{
	const CrmDayHours *hours = crm_hours_of(cal, day);
	int64 worked = cal->total[day - cal->first_day];

	for (int i = 0; i < hours->n; i++)
	{
		TimestampTz opens, closes;

		crm_hours_at(cal, day, &hours->hours[i], &opens, &closes);
		if (at > opens)
			worked += Min(at, closes) - opens;
	}
	return worked;
}

int64
crm_calendar_between(CrmCalendar *cal, TimestampTz from, TimestampTz to)
{
	/* Both years first: covering the second moves the origin. */
	int first = crm_cover_instant(cal, from);
	int last = crm_cover_instant(cal, to);

	return crm_worked(cal, last, to) - crm_worked(cal, first, from);
}

bool
crm_calendar_is_open(CrmCalendar *cal, TimestampTz at)
{
	const CrmDayHours *hours = crm_hours_of(cal, crm_cover_instant(cal, at));
	int day = crm_cover_instant(cal, at);

	for (int i = 0; i < hours->n; i++)
	{
		TimestampTz opens, closes;

		crm_hours_at(cal, day, &hours->hours[i], &opens, &closes);
		if (at >= opens && at < closes)
			return true;
	}
	return false;
}

TimestampTz
crm_calendar_add(CrmCalendar *cal, TimestampTz start, int64 amount)
{
	int day = crm_cover_instant(cal, start);
	int64 target;
	int low, high;
	const CrmDayHours *hours;

	if (amount == 0)
		return start;
	/* Covering an earlier year moves the origin, so the target is computed anew each time. */
	for (;;)
	{
		target = crm_worked(cal, day, start) + amount;
		if (target > cal->total[cal->ndays])
			crm_calendar_grow(cal, true);
		else if (target < 0)
			crm_calendar_grow(cal, false);
		else
			break;
	}

	/*
	 * Forward: the first day that ends with at least the target.  Backward: the
	 * last day that begins with at most the target.
	 */
	low = 0;
	high = cal->ndays - 1;
	while (low < high)
	{
		int middle = (low + high + (amount < 0)) / 2;

		if (amount > 0)
		{
			if (cal->total[middle + 1] >= target)
				high = middle;
			else
				low = middle + 1;
		}
		else if (cal->total[middle] <= target)
			low = middle;
		else
			high = middle - 1;
	}
	day = cal->first_day + low;
	target -= cal->total[low];
	hours = crm_hours_of(cal, day);
	for (int i = 0; i < hours->n; i++)
	{
		TimestampTz opens, closes;

		crm_hours_at(cal, day, &hours->hours[i], &opens, &closes);
		if (amount > 0 ? target <= closes - opens : target < closes - opens)
			return opens + target;
		target -= closes - opens;
	}
	ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					errmsg("working time is known for the years %d to %d only",
						   CRM_CALENDAR_FIRST_YEAR, CRM_CALENDAR_LAST_YEAR)));
}

TimestampTz
crm_calendar_add_days(CrmCalendar *cal, TimestampTz start, int n)
{
	int day = crm_cover_instant(cal, start);
	Timestamp time_of_day = crm_instant_to_wall(start, cal->tz) - (Timestamp) day * USECS_PER_DAY;
	int step = n < 0 ? -1 : 1;

	while (n != 0)
	{
		CHECK_FOR_INTERRUPTS();
		day += step;
		if (day < cal->first_day)
			crm_calendar_grow(cal, false);
		else if (day >= cal->first_day + cal->ndays)
			crm_calendar_grow(cal, true);
		if (cal->total[day - cal->first_day + 1] > cal->total[day - cal->first_day])
			n -= step;
	}
	return crm_wall_to_instant((Timestamp) day * USECS_PER_DAY + time_of_day, cal->tz);
}
