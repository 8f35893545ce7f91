/*
 * icalendar.c
 *		SQL functions that write iCalendar (RFC 5545), a property or a component each.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "icalendar.h"
#include "recurrence.h"

#define CRM_UNIX_EPOCH ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * INT64CONST(86400))

/* Appends one content line, folded. */
static void
crm_append_line(StringInfo out, const char *line, size_t len)
{
	enlargeStringInfo(out, CRM_ICALENDAR_FOLDED(len));
	out->len += crm_icalendar_fold(line, len, out->data + out->len);
	out->data[out->len] = '\0';
}

static void crm_append_linef(StringInfo out, const char *format, ...) pg_attribute_printf(2, 3);

static void
crm_append_linef(StringInfo out, const char *format, ...)
{
	StringInfoData line;

	initStringInfo(&line);
	for (;;)
	{
		va_list args;
		int needed;

		va_start(args, format);
		needed = appendStringInfoVA(&line, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&line, needed);
	}
	crm_append_line(out, line.data, line.len);
	pfree(line.data);
}

/* Appends a wall-clock time as DATE-TIME; false if its year has not four digits. */
static bool
crm_append_time(StringInfo out, Timestamp wall, bool utc)
{
	struct pg_tm tm;
	fsec_t fsec;

	if (TIMESTAMP_NOT_FINITE(wall) || timestamp2tm(wall, NULL, &tm, &fsec, NULL, NULL) != 0 ||
		tm.tm_year < 1 || tm.tm_year > 9999)
		return false;
	appendStringInfo(out, "%04d%02d%02dT%02d%02d%02d%s", tm.tm_year, tm.tm_mon, tm.tm_mday,
					 tm.tm_hour, tm.tm_min, tm.tm_sec, utc ? "Z" : "");
	return true;
}

static Timestamp
crm_whole_second(Timestamp t)
{
	Timestamp fraction = t % USECS_PER_SEC;

	return t - (fraction < 0 ? fraction + USECS_PER_SEC : fraction);
}

static bool
crm_is_utc(pg_tz *tz)
{
	return strcmp(pg_get_timezone_name(tz), "UTC") == 0;
}

/* ";TZID=…:", or ":" for UTC, whose times end in Z and need no zone. */
static void
crm_append_zone(StringInfo out, pg_tz *tz)
{
	const char *name = pg_get_timezone_name(tz);

	if (crm_is_utc(tz))
		appendStringInfoChar(out, ':');
	else if (strpbrk(name, ":;,") != NULL)
		appendStringInfo(out, ";TZID=\"%s\":", name);
	else
		appendStringInfo(out, ";TZID=%s:", name);
}

static Datum
crm_icalendar_line(FunctionCallInfo fcinfo, bool escape)
{
	text *name, *value;
	StringInfoData line, result;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_TEXT_P(cstring_to_text(""));
	name = PG_GETARG_TEXT_PP(0);
	value = PG_GETARG_TEXT_PP(1);
	initStringInfo(&line);
	appendBinaryStringInfo(&line, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
	appendStringInfoChar(&line, ':');
	if (escape)
	{
		enlargeStringInfo(&line, CRM_ICALENDAR_ESCAPED(VARSIZE_ANY_EXHDR(value)));
		line.len += crm_icalendar_escape(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value),
										 line.data + line.len);
		line.data[line.len] = '\0';
	}
	else
		appendBinaryStringInfo(&line, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
	initStringInfo(&result);
	crm_append_line(&result, line.data, line.len);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(result.data, result.len));
}

/* crm.icalendar_property(name text, value text) */
PG_FUNCTION_INFO_V1(crm_icalendar_property);
Datum
crm_icalendar_property(PG_FUNCTION_ARGS)
{
	return crm_icalendar_line(fcinfo, false);
}

/* crm.icalendar_text(name text, value text) */
PG_FUNCTION_INFO_V1(crm_icalendar_text);
Datum
crm_icalendar_text(PG_FUNCTION_ARGS)
{
	return crm_icalendar_line(fcinfo, true);
}

/* crm.icalendar_time(name text, value timestamptz, time_zone text) */
PG_FUNCTION_INFO_V1(crm_icalendar_time);
Datum
crm_icalendar_time(PG_FUNCTION_ARGS)
{
	pg_tz *tz;
	StringInfoData line, result;
	TimestampTz instant;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_TEXT_P(cstring_to_text(""));
	tz = crm_time_zone(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	instant = PG_GETARG_TIMESTAMPTZ(1);
	initStringInfo(&line);
	initStringInfo(&result);
	appendStringInfoString(&line, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	crm_append_zone(&line, tz);
	if (!TIMESTAMP_NOT_FINITE(instant) &&
		crm_append_time(&line, crm_instant_to_wall(instant, tz), crm_is_utc(tz)))
		crm_append_line(&result, line.data, line.len);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(result.data, result.len));
}

/*
 * Appends the parts of an RRULE, with COUNT and UNTIL as a reader needs them who
 * begins with a later occurrence: COUNT lessened by those before, UNTIL in UTC
 * (3.3.10).  The rule has been parsed, so its form is known.
 */
static void
crm_append_rrule(StringInfo out, const char *p, const char *end, const CrmRule *rule, int before,
				 pg_tz *tz)
{
	StringInfoData line;
	const char *separator = "";

	initStringInfo(&line);
	appendStringInfoString(&line, "RRULE:");
	if (pg_strncasecmp(p, "RRULE:", Min(6, end - p)) == 0)
		p += 6;
	while (p < end)
	{
		const char *stop = memchr(p, ';', end - p);

		stop = stop == NULL ? end : stop;
		appendStringInfoString(&line, separator);
		separator = ";";
		if (pg_strncasecmp(p, "COUNT=", Min(6, stop - p)) == 0)
			appendStringInfo(&line, "COUNT=%d", rule->count - before);
		else if (pg_strncasecmp(p, "UNTIL=", Min(6, stop - p)) == 0)
		{
			Timestamp until = rule->until.time;

			if (rule->until.date_only)
				until += USECS_PER_DAY - USECS_PER_SEC;
			appendStringInfoString(&line, "UNTIL=");
			if (!rule->until.utc)
				until = crm_wall_to_instant(until, tz);
			if (!crm_append_time(&line, until, true))
				appendStringInfoString(&line, "99991231T235959Z");
		}
		else
			for (const char *c = p; c < stop; c++)
				appendStringInfoChar(&line, pg_ascii_toupper((unsigned char) *c));
		p = stop + 1;
	}
	crm_append_line(out, line.data, line.len);
	pfree(line.data);
}

/* The dates at or after "since" that a rule leaves out or adds; the first that it adds, in *first.
 */
static void
crm_append_dates(StringInfo out, const char *name, const CrmRuleTime *times, int n, Timestamp start,
				 Timestamp since, pg_tz *tz, Timestamp *first)
{
	Timestamp time_of_day = start % USECS_PER_DAY;
	StringInfoData line;
	int written = 0;

	if (time_of_day < 0)
		time_of_day += USECS_PER_DAY;
	initStringInfo(&line);
	appendStringInfoString(&line, name);
	crm_append_zone(&line, tz);
	for (int i = 0; i < n; i++)
	{
		Timestamp wall = times[i].utc ? crm_instant_to_wall(times[i].time, tz) : times[i].time;

		/* A date alone means the time of day of the start. */
		if (times[i].date_only)
			wall += time_of_day;
		if (wall < since)
			continue;
		if (written++ > 0)
			appendStringInfoChar(&line, ',');
		(void) crm_append_time(&line, wall, crm_is_utc(tz));
		if (first != NULL && wall < *first)
			*first = wall;
	}
	if (written > 0)
		crm_append_line(out, line.data, line.len);
	pfree(line.data);
}

/* crm.icalendar_recurrence(rule text, starts_at timestamp, time_zone text, since timestamptz) */
PG_FUNCTION_INFO_V1(crm_icalendar_recurrence);
Datum
crm_icalendar_recurrence(PG_FUNCTION_ARGS)
{
	text *value = PG_GETARG_TEXT_PP(0);
	Timestamp start = PG_GETARG_TIMESTAMP(1);
	pg_tz *tz = crm_time_zone(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	TimestampTz instant = PG_GETARG_TIMESTAMPTZ(3);
	Timestamp since, first = DT_NOEND, wall;
	CrmRule *rule = palloc(sizeof(CrmRule));
	StringInfoData result, rest;
	int before = 0;

	crm_rule_of(value, rule);
	crm_check_start(start);
	if (TIMESTAMP_NOT_FINITE(instant))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range")));
	since = crm_instant_to_wall(instant, tz);
	start = crm_whole_second(start);
	since = crm_whole_second(since);
	initStringInfo(&result);
	initStringInfo(&rest);

	if (rule->recurs)
	{
		/* What the rule itself yields: its dates are written beside it. */
		CrmRule *bare = palloc(sizeof(CrmRule));
		CrmRuleIterator *it;

		memcpy(bare, rule, sizeof(CrmRule));
		bare->nrdates = bare->nexdates = 0;
		it = crm_rule_begin(bare, start, tz, rule->count > 0 ? DT_NOBEGIN : since - 1);
		while (crm_rule_next(it, &wall))
		{
			CHECK_FOR_INTERRUPTS();
			if (wall >= since)
			{
				first = wall;
				break;
			}
			before++;
		}
		if (!TIMESTAMP_NOT_FINITE(first))
		{
			const char *p = VARDATA_ANY(value);
			const char *end = p + VARSIZE_ANY_EXHDR(value);

			while (p < end)
			{
				const char *stop = memchr(p, '\n', end - p);
				const char *last;

				stop = stop == NULL ? end : stop;
				last = stop > p && stop[-1] == '\r' ? stop - 1 : stop;
				if (pg_strncasecmp(p, "RDATE:", Min(6, last - p)) != 0 &&
					pg_strncasecmp(p, "EXDATE:", Min(7, last - p)) != 0)
				{
					crm_append_rrule(&rest, p, last, rule, before, tz);
					break;
				}
				p = stop + 1;
			}
		}
	}
	wall = DT_NOEND;
	crm_append_dates(&rest, "RDATE", rule->rdates, rule->nrdates, start, since, tz, &wall);
	crm_append_dates(&rest, "EXDATE", rule->exdates, rule->nexdates, start, since, tz, NULL);
	if (TIMESTAMP_NOT_FINITE(first))
		first = wall;
	if (TIMESTAMP_NOT_FINITE(first))
		PG_RETURN_NULL();

	appendStringInfoString(&result, "DTSTART");
	crm_append_zone(&result, tz);
	(void) crm_append_time(&result, first, crm_is_utc(tz));
	appendStringInfoString(&result, "\r\n");
	appendBinaryStringInfo(&result, rest.data, rest.len);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(result.data, result.len));
}

static void
crm_append_offset(StringInfo out, const char *name, long offset)
{
	long seconds = labs(offset);
	StringInfoData line;

	initStringInfo(&line);
	appendStringInfo(&line, "%s:%c%02ld%02ld", name, offset < 0 ? '-' : '+', seconds / 3600,
					 seconds / 60 % 60);
	if (seconds % 60 != 0)
		appendStringInfo(&line, "%02ld", seconds % 60);
	crm_append_line(out, line.data, line.len);
	pfree(line.data);
}

/*
 * One observance for each time the clock is set.  A list of them in RDATE would be
 * shorter, but readers differ on whether DTSTART is one of that list.
 */
static void
crm_append_observance(StringInfo out, pg_time_t onset, long from, const struct pg_tm *tm)
{
	const char *kind = tm->tm_isdst > 0 ? "DAYLIGHT" : "STANDARD";
	StringInfoData line;

	crm_append_linef(out, "BEGIN:%s", kind);
	initStringInfo(&line);
	appendStringInfoString(&line, "DTSTART:");
	(void) crm_append_time(&line, (onset - CRM_UNIX_EPOCH + from) * USECS_PER_SEC, false);
	crm_append_line(out, line.data, line.len);
	pfree(line.data);
	crm_append_offset(out, "TZOFFSETFROM", from);
	crm_append_offset(out, "TZOFFSETTO", tm->tm_gmtoff);
	if (tm->tm_zone != NULL)
		crm_append_linef(out, "TZNAME:%s", tm->tm_zone);
	crm_append_linef(out, "END:%s", kind);
}

/* crm.icalendar_time_zone(time_zone text, since timestamptz, until timestamptz) */
PG_FUNCTION_INFO_V1(crm_icalendar_time_zone);
Datum
crm_icalendar_time_zone(PG_FUNCTION_ARGS)
{
	pg_tz *tz = crm_time_zone(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	TimestampTz since = PG_GETARG_TIMESTAMPTZ(1);
	TimestampTz until = PG_GETARG_TIMESTAMPTZ(2);
	pg_time_t at, next, end;
	struct pg_tm *tm;
	long from, to;
	int before_dst, after_dst;
	StringInfoData result;

	if (TIMESTAMP_NOT_FINITE(since) || TIMESTAMP_NOT_FINITE(until))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range")));
	if (crm_is_utc(tz))
		PG_RETURN_TEXT_P(cstring_to_text(""));
	initStringInfo(&result);
	crm_append_linef(&result, "BEGIN:VTIMEZONE");
	crm_append_linef(&result, "TZID:%s", pg_get_timezone_name(tz));

	/* The clock as it is when the period begins is an observance of its own. */
	at = since / USECS_PER_SEC + CRM_UNIX_EPOCH - SECS_PER_DAY;
	end = until / USECS_PER_SEC + CRM_UNIX_EPOCH;
	end = Min(end, at + INT64CONST(100) * 366 * SECS_PER_DAY);
	tm = pg_localtime(&at, tz);
	if (tm != NULL)
		crm_append_observance(&result, at, tm->tm_gmtoff, tm);
	while (pg_next_dst_boundary(&at, &from, &before_dst, &next, &to, &after_dst, tz) > 0 &&
		   next <= end)
	{
		CHECK_FOR_INTERRUPTS();
		at = next;
		tm = pg_localtime(&at, tz);
		if (tm == NULL)
			break;
		crm_append_observance(&result, at, from, tm);
	}
	crm_append_linef(&result, "END:VTIMEZONE");
	PG_RETURN_TEXT_P(cstring_to_text_with_len(result.data, result.len));
}
