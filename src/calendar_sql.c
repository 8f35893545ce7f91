/*
 * calendar_sql.c
 *		SQL functions on a workspace's calendars, and the calendars a session keeps.
 *
 * A calendar is read once and kept until a table of its workspace's calendars
 * changes: their triggers send a relcache invalidation of the table "calendar",
 * which reaches every session when the change commits.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "calendar.h"
#include "compat.h"
#include "invalidation.h"
#include "recurrence.h"
#include "workspace.h"

typedef struct CrmCalendarKey
{
	Oid table; /* the workspace's table "calendar" */
	NameData name;
} CrmCalendarKey;

typedef struct CrmCalendarEntry
{
	CrmCalendarKey key;
	bool valid;
	MemoryContext context;
	CrmCalendar *calendar;
} CrmCalendarEntry;

/* More calendars than this, and the session forgets them all and begins anew. */
#define CRM_MAX_CALENDARS 256

static HTAB *crm_calendars = NULL;
static MemoryContext crm_calendar_context = NULL;
static int64 crm_calendar_reads = 0;

static void
crm_calendar_relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	CrmCalendarEntry *entry;

	hash_seq_init(&seq, crm_calendars);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		if (relid == InvalidOid || relid == entry->key.table)
			entry->valid = false;
	}
}

static void
crm_calendar_cache_init(void)
{
	HASHCTL ctl = {.keysize = sizeof(CrmCalendarKey), .entrysize = sizeof(CrmCalendarEntry)};

	if (crm_calendar_context == NULL)
		crm_calendar_context =
			AllocSetContextCreate(CacheMemoryContext, "crm calendars", ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = crm_calendar_context;
	crm_calendars = hash_create("crm calendars", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	crm_register_relcache_callback(crm_calendar_relcache_callback, (Datum) 0);
}

static void
crm_calendar_query(const char *sql, Datum arg, Oid type)
{
	if (SPI_execute_with_args(sql, 1, &type, &arg, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_with_args failed");
}

static int
crm_column_int(uint64 row, int column, int missing)
{
	bool isnull;
	Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? missing : DatumGetInt32(value);
}

/* Reads a calendar into "context". */
static CrmCalendar *
crm_calendar_read(const char *schema, const char *name, MemoryContext context)
{
	CrmCalendar *cal = MemoryContextAllocZero(context, sizeof(CrmCalendar));
	const char *quoted = quote_identifier(schema);
	bool isnull;
	int64 id;

	cal->context = context;
	cal->first_year = 1;
	cal->last_year = 0;
	/* The latest state, whatever the caller's snapshot: the result outlives the transaction. */
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	crm_calendar_query(psprintf("SELECT c.id, c.time_zone FROM %s.calendar AS c"
								" WHERE c.name OPERATOR(pg_catalog.=) $1",
								quoted),
					   CStringGetTextDatum(name), TEXTOID);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("calendar \"%s\" does not exist", name),
				 errhint("Table \"calendar\" of the workspace lists those there are.")));
	id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	cal->tz = crm_time_zone(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2));

	crm_calendar_query(psprintf("SELECT h.weekday, h.opens, h.closes FROM %s.calendar_hours AS h"
								" WHERE h.calendar_id OPERATOR(pg_catalog.=) $1"
								" ORDER BY h.weekday, h.opens",
								quoted),
					   Int64GetDatum(id), INT8OID);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		CrmDayHours *day = &cal->week[crm_column_int(i, 1, 1) - 1];
		TimeADT opens = DatumGetTimeADT(
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull));
		TimeADT closes = DatumGetTimeADT(
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 3, &isnull));

		if (day->hours == NULL)
			day->hours = MemoryContextAlloc(context, SPI_processed * sizeof(CrmHours));
		day->hours[day->n].opens = (int32) (opens / USECS_PER_SEC);
		day->hours[day->n].closes = (int32) (closes / USECS_PER_SEC);
		day->n++;
	}

	crm_calendar_query(
		psprintf("SELECT d.day OPERATOR(pg_catalog.-) '2000-01-01'::pg_catalog.date, d.weekday"
				 " FROM %s.calendar_day AS d"
				 " WHERE d.calendar_id OPERATOR(pg_catalog.=) $1 ORDER BY d.day",
				 quoted),
		Int64GetDatum(id), INT8OID);
	cal->nspecial = (int) SPI_processed;
	cal->special = MemoryContextAlloc(context, Max(SPI_processed, 1) * sizeof(CrmSpecialDay));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		cal->special[i].day = crm_column_int(i, 1, 0);
		cal->special[i].weekday = crm_column_int(i, 2, 0) - 1;
	}
	SPI_finish();
	PopActiveSnapshot();
	return cal;
}

static CrmCalendar *
crm_get_calendar(Oid workspace, text *name)
{
	CrmCalendarKey key;
	CrmCalendarEntry *entry;
	AclResult acl;
	Oid user;
	int sec_context;
	bool found;

	/* Equal keys are equal bytes. */
	memset(&key, 0, sizeof(key));
	crm_check_workspace(workspace);
	key.table = crm_workspace_table(workspace, "calendar", false);
	acl = pg_class_aclcheck(key.table, GetUserId(), ACL_SELECT);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, "calendar");
	if (VARSIZE_ANY_EXHDR(name) >= NAMEDATALEN)
		ereport(ERROR, (errcode(ERRCODE_NAME_TOO_LONG),
						errmsg("name of a calendar must be shorter than %d bytes", NAMEDATALEN)));
	memcpy(NameStr(key.name), VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));

	if (crm_calendars == NULL)
		crm_calendar_cache_init();
	entry = hash_search(crm_calendars, &key, HASH_FIND, NULL);
	if (entry != NULL && entry->valid)
		return entry->calendar;
	if (entry == NULL)
	{
		if (hash_get_num_entries(crm_calendars) >= CRM_MAX_CALENDARS)
		{
			HASH_SEQ_STATUS seq;

			hash_seq_init(&seq, crm_calendars);
			while ((entry = hash_seq_search(&seq)) != NULL)
			{
				MemoryContextDelete(entry->context);
				(void) hash_search(crm_calendars, &entry->key, HASH_REMOVE, NULL);
			}
		}
		entry = hash_search(crm_calendars, &key, HASH_ENTER, &found);
		entry->valid = false;
		entry->calendar = NULL;
		entry->context = NULL;
		entry->context =
			AllocSetContextCreate(crm_calendar_context, "crm calendar", ALLOCSET_SMALL_SIZES);
	}

	/* Valid before reading: a change that arrives meanwhile makes it invalid again. */
	MemoryContextReset(entry->context);
	entry->calendar = NULL;
	entry->valid = true;
	GetUserIdAndSecContext(&user, &sec_context);
	PG_TRY();
	{
		/* As the owner: what is kept must not depend on who asked first. */
		SetUserIdAndSecContext(crm_workspace_owner(workspace), sec_context |
																   SECURITY_LOCAL_USERID_CHANGE |
																   SECURITY_RESTRICTED_OPERATION);
		entry->calendar =
			crm_calendar_read(get_namespace_name(workspace), NameStr(key.name), entry->context);
	}
	PG_CATCH();
	{
		entry->valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	SetUserIdAndSecContext(user, sec_context);
	crm_calendar_reads++;
	return entry->calendar;
}

/* Business time is hours: a day of it is not 24 of them. */
static int64
crm_business_amount(Interval *amount)
{
	if (amount->month != 0 || amount->day != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("business time must be given in hours or smaller units"),
						errhint("To add working days, use business_add_days().")));
	return amount->time;
}

PG_FUNCTION_INFO_V1(crm_business_between);
Datum
crm_business_between(PG_FUNCTION_ARGS)
{
	CrmCalendar *cal = crm_get_calendar(PG_GETARG_OID(0), PG_GETARG_TEXT_PP(3));
	Interval *result = palloc0(sizeof(Interval));

	result->time = crm_calendar_between(cal, PG_GETARG_TIMESTAMPTZ(1), PG_GETARG_TIMESTAMPTZ(2));
	PG_RETURN_INTERVAL_P(result);
}

PG_FUNCTION_INFO_V1(crm_business_add);
Datum
crm_business_add(PG_FUNCTION_ARGS)
{
	int64 amount = crm_business_amount(PG_GETARG_INTERVAL_P(2));
	CrmCalendar *cal = crm_get_calendar(PG_GETARG_OID(0), PG_GETARG_TEXT_PP(3));

	/* More than 300 years fit no calendar, and must not overflow. */
	amount = Max(Min(amount, 300 * 366 * USECS_PER_DAY), -300 * 366 * USECS_PER_DAY);
	PG_RETURN_TIMESTAMPTZ(crm_calendar_add(cal, PG_GETARG_TIMESTAMPTZ(1), amount));
}

PG_FUNCTION_INFO_V1(crm_business_add_days);
Datum
crm_business_add_days(PG_FUNCTION_ARGS)
{
	CrmCalendar *cal = crm_get_calendar(PG_GETARG_OID(0), PG_GETARG_TEXT_PP(3));

	PG_RETURN_TIMESTAMPTZ(crm_calendar_add_days(cal, PG_GETARG_TIMESTAMPTZ(1), PG_GETARG_INT32(2)));
}

PG_FUNCTION_INFO_V1(crm_business_open);
Datum
crm_business_open(PG_FUNCTION_ARGS)
{
	CrmCalendar *cal = crm_get_calendar(PG_GETARG_OID(0), PG_GETARG_TEXT_PP(2));

	PG_RETURN_BOOL(crm_calendar_is_open(cal, PG_GETARG_TIMESTAMPTZ(1)));
}

PG_FUNCTION_INFO_V1(crm_calendar_changed);
Datum
crm_calendar_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Oid calendar;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_STATEMENT(trigdata->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("crm.calendar_changed() must be a statement trigger")));
	calendar = crm_workspace_table(RelationGetNamespace(trigdata->tg_relation), "calendar", true);
	if (OidIsValid(calendar))
		CacheInvalidateRelcacheByRelid(calendar);
	PG_RETURN_POINTER(NULL);
}

/* Declared by crm_test: how often this session has read a calendar. */
PG_FUNCTION_INFO_V1(crm_calendar_read_count);
Datum
crm_calendar_read_count(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(crm_calendar_reads);
}
