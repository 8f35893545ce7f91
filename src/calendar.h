/*
 * calendar.h
 *		Working time: a week of opening hours, days that differ from it, and
 *		arithmetic on the time between.
 */
#ifndef CRM_CALENDAR_H
#define CRM_CALENDAR_H

#include "datatype/timestamp.h"
#include "pgtime.h"

/* Instants with working time to compute lie in these years of the calendar's zone. */
#define CRM_CALENDAR_FIRST_YEAR 1900
#define CRM_CALENDAR_LAST_YEAR	2199

/* Opening hours of one day: seconds since midnight on the wall clock, [opens, closes). */
typedef struct CrmHours
{
	int32 opens;
	int32 closes;
} CrmHours;

typedef struct CrmDayHours
{
	int n;
	CrmHours *hours; /* sorted, not overlapping */
} CrmDayHours;

/* A day that does not follow the week. */
typedef struct CrmSpecialDay
{
	int32 day;	   /* days since 2000-01-01 */
	int32 weekday; /* 0 (Monday) to 6: has the hours of that day; -1: closed */
} CrmSpecialDay;

typedef struct CrmCalendar
{
	pg_tz *tz;
	CrmDayHours week[7];
	int nspecial;
	CrmSpecialDay *special; /* sorted */

	/*
	 * Working microseconds before each day, counted from first_day: total[i] for
	 * first_day + i, and one more for the end.  Grows as years are asked for.
	 */
	MemoryContext context;
	int first_year, last_year; /* none if first_year > last_year */
	int first_day;
	int ndays;
	int64 *total;
} CrmCalendar;

/* Working time from one instant to another, in microseconds; negative if "to" is earlier. */
extern int64 crm_calendar_between(CrmCalendar *cal, TimestampTz from, TimestampTz to);
/*
 * The instant by which so much working time has passed since "start": the
 * earliest one, or if amount is negative the latest.
 */
extern TimestampTz crm_calendar_add(CrmCalendar *cal, TimestampTz start, int64 amount);
/* The same wall-clock time n working days on. */
extern TimestampTz crm_calendar_add_days(CrmCalendar *cal, TimestampTz start, int n);
extern bool crm_calendar_is_open(CrmCalendar *cal, TimestampTz at);

#endif /* CRM_CALENDAR_H */
