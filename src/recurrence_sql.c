/*
 * recurrence_sql.c
 *		SQL functions on recurrence rules.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "recurrence.h"

void
crm_rule_of(text *value, CrmRule *rule)
{
	char *reason;

	if (crm_rule_parse(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), rule, &reason))
		return;
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("invalid recurrence rule: \"%.*s\"",
						   pg_mbcliplen(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), 200),
						   VARDATA_ANY(value)),
					errdetail_internal("%s", reason),
					errhint("A rule is written as in RFC 5545: FREQ=WEEKLY;BYDAY=MO,TH")));
}

/* Wall-clock time of an instant, also of an infinite or far one. */
static Timestamp
crm_after_to_wall(TimestampTz after, pg_tz *tz)
{
	if (after <= MIN_TIMESTAMP + 2 * USECS_PER_DAY)
		return DT_NOBEGIN;
	if (after >= END_TIMESTAMP - 2 * USECS_PER_DAY)
		return DT_NOEND;
	return crm_instant_to_wall(after, tz);
}

/*
 * Begins a day early in wall-clock time: where the clock was set back, instants
 * and wall-clock times are in different order.
 */
static CrmRuleIterator *
crm_rule_begin_at(const CrmRule *rule, Timestamp start, pg_tz *tz, TimestampTz after)
{
	Timestamp wall = crm_after_to_wall(after, tz);

	if (!TIMESTAMP_NOT_FINITE(wall))
		wall -= USECS_PER_DAY;
	return crm_rule_begin(rule, start, tz, wall);
}

void
crm_check_start(Timestamp start)
{
	if (TIMESTAMP_NOT_FINITE(start) || start < INT64CONST(-63082281600000000) ||
		start >= INT64CONST(252455616000000000))
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("start of a recurrence must lie between the years 1 and 9999")));
}

static bool
crm_next_instant(CrmRuleIterator *it, pg_tz *tz, TimestampTz after, TimestampTz *result)
{
	Timestamp wall;

	while (crm_rule_next(it, &wall))
	{
		*result = crm_wall_to_instant(wall, tz);
		if (*result > after)
			return true;
	}
	return false;
}

/* crm.recurrence(text): the rule itself, or an error that says what is wrong with it. */
PG_FUNCTION_INFO_V1(crm_recurrence);
Datum
crm_recurrence(PG_FUNCTION_ARGS)
{
	text *value = PG_GETARG_TEXT_PP(0);
	CrmRule *rule = palloc(sizeof(CrmRule));

	crm_rule_of(value, rule);
	PG_RETURN_TEXT_P(value);
}

/* crm.next_occurrence(rule, starts_at, time_zone, after) */
PG_FUNCTION_INFO_V1(crm_next_occurrence);
Datum
crm_next_occurrence(PG_FUNCTION_ARGS)
{
	CrmRule *rule = palloc(sizeof(CrmRule));
	Timestamp start = PG_GETARG_TIMESTAMP(1);
	pg_tz *tz = crm_time_zone(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	TimestampTz after = PG_GETARG_TIMESTAMPTZ(3);
	TimestampTz result;

	crm_rule_of(PG_GETARG_TEXT_PP(0), rule);
	crm_check_start(start);
	if (!crm_next_instant(crm_rule_begin_at(rule, start, tz, after), tz, after, &result))
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(result);
}

/* crm.occurrences(rule, starts_at, time_zone, after, max) */
PG_FUNCTION_INFO_V1(crm_occurrences);
Datum
crm_occurrences(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CrmRule *rule = palloc(sizeof(CrmRule));
	Timestamp start = PG_GETARG_TIMESTAMP(1);
	pg_tz *tz = crm_time_zone(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	TimestampTz after = PG_GETARG_TIMESTAMPTZ(3);
	int left = PG_GETARG_INT32(4);
	CrmRuleIterator *it;
	TimestampTz result;

	crm_rule_of(PG_GETARG_TEXT_PP(0), rule);
	crm_check_start(start);
	if (left < 0 || left > 100000)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("number of occurrences must be between 0 and 100000")));
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	it = crm_rule_begin_at(rule, start, tz, after);
	while (left-- > 0 && crm_next_instant(it, tz, after, &result))
	{
		Datum values[1] = {TimestampTzGetDatum(result)};
		bool nulls[1] = {false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		after = result;
	}
	return (Datum) 0;
}

/* What is counted of the occurrences that were missed. */
#define CRM_MAX_MISSED 10000

/* crm._count_occurrences(rule, starts_at, time_zone, after, upto) */
PG_FUNCTION_INFO_V1(crm_count_occurrences);
Datum
crm_count_occurrences(PG_FUNCTION_ARGS)
{
	CrmRule *rule = palloc(sizeof(CrmRule));
	Timestamp start = PG_GETARG_TIMESTAMP(1);
	pg_tz *tz = crm_time_zone(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	TimestampTz after = PG_GETARG_TIMESTAMPTZ(3);
	TimestampTz upto = PG_GETARG_TIMESTAMPTZ(4);
	CrmRuleIterator *it;
	int count = 0;

	crm_rule_of(PG_GETARG_TEXT_PP(0), rule);
	crm_check_start(start);
	it = crm_rule_begin_at(rule, start, tz, after);
	while (count < CRM_MAX_MISSED && crm_next_instant(it, tz, after, &after) && after <= upto)
		count++;
	PG_RETURN_INT32(count);
}
