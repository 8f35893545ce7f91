/*
 * reminder.c
 *		Firing: reminders that are due become events.
 *
 * A reminder leaves its table, or moves to its next occurrence, and its event is
 * written in one transaction.  So no state of being fired is ever visible or
 * survives a crash: a reminder is pending or has exactly one event, and one that
 * recurs has one for each time it was due.
 *
 * One transaction at a time fires a workspace, under a lock that ends after the
 * transaction has become visible.  Events therefore become visible in the order
 * of their ids, and a consumer may remember where it stands as one number.
 * Reminders that another transaction has locked, because somebody is moving or
 * cancelling them, are skipped and stay first in line.
 *
 * Plain reminders take the fast way (reminder_plain.c), special ones and those of
 * tables that somebody extended the statement below.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "port/pg_bitutils.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "reminder.h"
#include "scheduler.h"
#include "workspace.h"

/* Distinguishes our lock on a schema from DDL's. */
#define CRM_FIRE_LOCK_SUBID 1

/* The statements of one workspace, prepared once a session. */
typedef struct CrmFirePlans
{
	Oid workspace; /* hash key */
	NameData schema;
	SPIPlanPtr fire;	/* what is due, in order */
	SPIPlanPtr special; /* those at given addresses */
	SPIPlanPtr next;
	SPIPlanPtr hold; /* prepared when the workspace has what it takes */
} CrmFirePlans;

static HTAB *crm_fire_plans = NULL;

static CrmFirePlans *crm_get_fire_plans(Oid workspace);

List *
crm_reminder_workspaces(void)
{
	List *result = NIL;
	Relation rel = table_open(RelationRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tup;

	ScanKeyInit(&key, Anum_pg_class_relname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("crm_meta"));
	scan = systable_beginscan(rel, ClassNameNspIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tup = systable_getnext(scan)))
	{
		Oid schema = ((Form_pg_class) GETSTRUCT(tup))->relnamespace;

		if (crm_is_workspace(schema) && OidIsValid(crm_workspace_table(schema, "reminder", true)) &&
			OidIsValid(crm_workspace_table(schema, "event", true)))
			result = lappend_oid(result, schema);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

static SPIPlanPtr
crm_prepare(const char *sql, int nargs, Oid *types)
{
	SPIPlanPtr plan = SPI_prepare_cursor(sql, nargs, types, CURSOR_OPT_GENERIC_PLAN);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	return plan;
}

/*
 * The statement that fires the reminders which "which" selects.  They are found
 * in index order from the low-water mark, or by address, and deleted or moved by
 * their physical address.  $1 is the time.
 */
static SPIPlanPtr
crm_prepare_fire(const char *schema, const char *which, int nargs, Oid *types)
{
	StringInfoData sql;
	SPIPlanPtr plan;

	initStringInfo(&sql);
	appendStringInfo(
		&sql,
		"WITH due AS MATERIALIZED ("
		"SELECT r.ctid AS tid, r.id, r.member_id, r.title, r.kind, r.record_id, "
		"r.payload, r.escalation_id,"
		/* Told to skip what is too late, it still is told of an occurrence that is not. */
		" CASE WHEN r.recurrence IS NOT NULL AND r.max_late IS NOT NULL THEN GREATEST(r.due_at, "
		"(SELECT n.at FROM crm.next_occurrence(r.recurrence, r.starts_at, r.time_zone, "
		"$1 OPERATOR(pg_catalog.-) r.max_late) AS n (at) WHERE n.at OPERATOR(pg_catalog.<=) $1))"
		" ELSE r.due_at END AS due_at,"
		" CASE WHEN r.recurrence IS NOT NULL AND r.catch_up OPERATOR(pg_catalog.<>) 'all' THEN "
		"crm._count_occurrences(r.recurrence, r.starts_at, r.time_zone, r.occurs_at, $1) ELSE 0 "
		"END AS missed,"
		" CASE WHEN r.escalation_id IS NOT NULL THEN %1$s.escalation_next(r.escalation_id, $1)"
		" WHEN r.recurrence IS NOT NULL THEN crm.next_occurrence(r.recurrence, r.starts_at, "
		"r.time_zone,"
		" CASE WHEN r.catch_up OPERATOR(pg_catalog.=) 'all' THEN r.occurs_at ELSE "
		"GREATEST(r.occurs_at, $1) END)"
		" END AS next_due FROM %1$s.reminder AS r"
		"%2$s FOR UPDATE OF r SKIP LOCKED), "
		"gone AS (DELETE FROM %1$s.reminder AS r USING due"
		" WHERE r.ctid OPERATOR(pg_catalog.=) due.tid AND due.next_due IS NULL RETURNING due.*), "
		"moved AS (UPDATE %1$s.reminder AS r SET due_at = due.next_due, occurs_at = due.next_due "
		"FROM due"
		" WHERE r.ctid OPERATOR(pg_catalog.=) due.tid AND due.next_due IS NOT NULL RETURNING "
		"due.*), "
		"fired AS (SELECT * FROM gone UNION ALL SELECT * FROM moved) "
		"INSERT INTO %1$s.event (reminder_id, member_id, due_at, fired_at, title, kind, record_id, "
		"payload, missed)"
		" SELECT f.id, f.member_id, f.due_at, $1, f.title, f.kind, f.record_id, f.payload, "
		"f.missed"
		" FROM fired AS f WHERE f.escalation_id IS NULL UNION ALL"
		" SELECT f.id, e.member_id, f.due_at, $1, e.title, f.kind, f.record_id, e.payload, 0"
		" FROM fired AS f CROSS JOIN LATERAL %1$s.escalate(f.escalation_id, $1) AS e"
		" WHERE f.escalation_id IS NOT NULL"
		" ORDER BY 3, 1 RETURNING due_at, id",
		schema, which);
	plan = crm_prepare(sql.data, nargs, types);
	pfree(sql.data);
	return plan;
}

static void
crm_free_fire_plans(CrmFirePlans *plans)
{
	SPIPlanPtr old[] = {plans->fire, plans->special, plans->next, plans->hold};

	for (int i = 0; i < lengthof(old); i++)
	{
		if (old[i] != NULL)
			SPI_freeplan(old[i]);
	}
}

static CrmFirePlans *
crm_get_fire_plans(Oid workspace)
{
	CrmFirePlans *plans;
	bool found;
	char *name = get_namespace_name(workspace);
	const char *schema;
	StringInfoData sql;

	if (name == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_SCHEMA),
						errmsg("schema with OID %u does not exist", workspace)));
	if (crm_fire_plans == NULL)
	{
		HASHCTL ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(CrmFirePlans)};

		ctl.hcxt = AllocSetContextCreate(TopMemoryContext, "crm fire plans", ALLOCSET_SMALL_SIZES);
		crm_fire_plans =
			hash_create("crm fire plans", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	plans = hash_search(crm_fire_plans, &workspace, HASH_ENTER, &found);
	if (found && plans->next != NULL && strcmp(NameStr(plans->schema), name) == 0)
		return plans;

	/* The statements name the schema, so a renamed one needs new ones. */
	if (found)
		crm_free_fire_plans(plans);
	plans->fire = plans->special = plans->next = plans->hold = NULL;
	namestrcpy(&plans->schema, name);

	schema = quote_identifier(name);
	plans->fire = crm_prepare_fire(
		schema,
		" WHERE (r.due_at, r.id) OPERATOR(pg_catalog.>=) ($2, $3)"
		" AND r.due_at OPERATOR(pg_catalog.<=) $4 AND r.failed_at IS NULL"
		" AND ($6 OPERATOR(pg_catalog.=) 0 OR r.id OPERATOR(pg_catalog.=) $6)"
		" ORDER BY r.due_at, r.id LIMIT $5",
		6, (Oid[]){TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID});
	plans->special =
		crm_prepare_fire(schema,
						 " WHERE r.ctid OPERATOR(pg_catalog.=) ANY ($2)"
						 " AND r.due_at OPERATOR(pg_catalog.<=) $3"
						 " AND r.failed_at IS NULL ORDER BY r.due_at, r.id",
						 3, (Oid[]){TIMESTAMPTZOID, get_array_type(TIDOID), TIMESTAMPTZOID});

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT r.due_at, r.id FROM %s.reminder AS r"
					 " WHERE (r.due_at, r.id) OPERATOR(pg_catalog.>=) ($1, $2)"
					 " AND r.failed_at IS NULL ORDER BY r.due_at, r.id LIMIT 1",
					 schema);
	plans->next = crm_prepare(sql.data, 2, (Oid[]){TIMESTAMPTZOID, INT8OID});
	pfree(sql.data);
	return plans;
}

/*
 * Plans a statement if it has no valid plan.  A table that was empty or unknown
 * to ANALYZE when its plan was made must not leave us with a plan that reads all
 * of it a minute later, so only index order is on offer.
 */
static void
crm_plan_in_index_order(SPIPlanPtr plan)
{
	int nestlevel = NewGUCNestLevel();
	CachedPlan *cplan;

	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	(void) set_config_option("enable_sort", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	(void) set_config_option("enable_bitmapscan", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
	cplan = SPI_plan_get_cached_plan(plan);
	if (cplan != NULL)
		ReleaseCachedPlan(cplan, CurrentResourceOwner);
	AtEOXact_GUC(false, nestlevel);
}

void
crm_fired_count(CrmFired *fired, TimestampTz due, TimestampTz now)
{
	int64 late = Max(now - due, 0);
	int64 ms = late / 1000;
	int bucket = ms == 0 ? 0 : pg_leftmost_one_pos64((uint64) ms) + 1;

	fired->lateness[Min(bucket, CRM_LATENESS_BUCKETS - 1)]++;
	fired->max_lateness = Max(fired->max_lateness, late);
	fired->count++;
}

void
crm_special_add(CrmSpecial *special, ItemPointer tid, TimestampTz due, int64 id)
{
	ItemPointer copy = MemoryContextAlloc(special->context, sizeof(ItemPointerData));

	if (special->count == 0)
	{
		special->due = due;
		special->id = id;
	}
	if (special->count == special->room)
	{
		special->room = Max(special->room * 2, 64);
		special->tids = special->tids == NULL
							? MemoryContextAlloc(special->context, special->room * sizeof(Datum))
							: repalloc(special->tids, special->room * sizeof(Datum));
	}
	ItemPointerCopy(tid, copy);
	special->tids[special->count++] = PointerGetDatum(copy);
}

/* Runs a statement that fires, and counts what it returns. */
static void
crm_execute_fire(SPIPlanPtr plan, Datum *args, TimestampTz now, CrmFired *fired)
{
	int rc;

	fired->step = CRM_PREPARING;
	fired->bare = false;
	crm_plan_in_index_order(plan);
	fired->step = CRM_FIRING;
	rc = SPI_execute_plan(plan, args, NULL, false, 0);
	if (rc != SPI_OK_INSERT_RETURNING)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		bool isnull;
		TimestampTz due =
			DatumGetTimestampTz(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		int64 id = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));

		if (fired->count == 0)
			fired->first = id;
		fired->last = id;
		crm_fired_count(fired, due, now);
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * A workspace with rules about attention has a function that looks at the events
 * just written: those that must wait it marks as held, and it plans digests.  It
 * runs before anybody hears of the events.
 */
static void
crm_hold_fired(CrmFirePlans *plans, const CrmFired *fired, TimestampTz now)
{
	static Oid types[] = {INT8OID, INT8OID, TIMESTAMPTZOID, BOOLOID};
	Datum args[] = {Int64GetDatum(fired->first), Int64GetDatum(fired->last),
					TimestampTzGetDatum(now), BoolGetDatum(fired->bare)};
	const char *schema = quote_identifier(NameStr(plans->schema));
	List *name = list_make2(makeString(NameStr(plans->schema)), makeString("hold_events"));
	int rc;

	if (!OidIsValid(LookupFuncName(name, lengthof(types), types, true)))
		return;
	if (plans->hold == NULL)
		plans->hold = crm_prepare(psprintf("SELECT %s.hold_events($1, $2, $3, $4)", schema),
								  lengthof(types), types);
	rc = SPI_execute_plan(plans->hold, args, NULL, false, 0);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	SPI_freetuptable(SPI_tuptable);
}

static void
crm_notify_fired(const char *schema, int64 last, uint64 count)
{
	StringInfoData payload;

	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"workspace\": ");
	escape_json(&payload, schema);
	appendStringInfo(&payload, ", \"last\": " INT64_FORMAT ", \"count\": " UINT64_FORMAT "}", last,
					 count);
	Async_Notify("crm", payload.data);
	pfree(payload.data);
}

/* False if another transaction is firing this workspace and we are not to wait. */
static bool
crm_lock_firing(Oid workspace, bool wait)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, NamespaceRelationId, workspace, CRM_FIRE_LOCK_SUBID);
	return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

static void
crm_find_next(CrmPending *pending, CrmFirePlans *plans)
{
	bool isnull;
	int rc;

	crm_plan_in_index_order(plans->next);
	rc = SPI_execute_plan(
		plans->next, (Datum[]){TimestampTzGetDatum(pending->low), Int64GetDatum(pending->low_id)},
		NULL, false, 1);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	if (SPI_processed == 0)
	{
		/*
		 * Nothing pending beyond the mark.  The mark stays: reminders that come
		 * later and lie below it lower it by their hint.
		 */
		pending->next = DT_NOEND;
		pending->next_id = 0;
	}
	else
	{
		HeapTuple row = SPI_tuptable->vals[0];

		pending->next = DatumGetTimestampTz(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		pending->next_id = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
		pending->low = pending->next;
		pending->low_id = pending->next_id;
	}
	SPI_freetuptable(SPI_tuptable);
}

void
crm_become_owner(CrmOwnerContext *saved, Oid workspace)
{
	GetUserIdAndSecContext(&saved->user, &saved->sec_context);
	SetUserIdAndSecContext(crm_workspace_owner(workspace),
						   saved->sec_context | SECURITY_RESTRICTED_OPERATION);
	saved->nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
crm_become_oneself(CrmOwnerContext *saved)
{
	AtEOXact_GUC(false, saved->nestlevel);
	SetUserIdAndSecContext(saved->user, saved->sec_context);
}

void
crm_reminder_fire(CrmPending *pending, TimestampTz now, int64 limit, bool wait, CrmFired *fired)
{
	CrmOwnerContext saved;
	CrmFirePlans *plans;
	CrmSpecial special = {.context = CurrentMemoryContext};
	TimestampTz upto = Min(now, pending->until);

	memset(fired, 0, sizeof(*fired));
	if (!crm_lock_firing(pending->workspace, wait))
	{
		fired->busy = true;
		return;
	}
	plans = crm_get_fire_plans(pending->workspace);
	crm_become_owner(&saved, pending->workspace);

	if (pending->only_id != 0 || !crm_reminder_fire_plain(pending, now, limit, fired, &special))
	{
		Datum args[] = {TimestampTzGetDatum(now),		TimestampTzGetDatum(pending->low),
						Int64GetDatum(pending->low_id), TimestampTzGetDatum(upto),
						Int64GetDatum(limit),			Int64GetDatum(pending->only_id)};

		crm_execute_fire(plans->fire, args, now, fired);
		crm_find_next(pending, plans);
	}
	else if (special.count > 0)
	{
		ArrayType *tids = construct_array(special.tids, special.count, TIDOID,
										  sizeof(ItemPointerData), false, TYPALIGN_SHORT);
		Datum args[] = {TimestampTzGetDatum(now), PointerGetDatum(tids), TimestampTzGetDatum(upto)};

		crm_execute_fire(plans->special, args, now, fired);
		if (pending->next == DT_NOEND || special.due < pending->low ||
			(special.due == pending->low && special.id < pending->low_id))
		{
			pending->low = special.due;
			pending->low_id = special.id;
		}
		crm_find_next(pending, plans);
	}
	fired->step = CRM_JUDGING;
	if (fired->count > 0)
		crm_hold_fired(plans, fired, now);
	fired->more = pending->next <= upto;
	crm_become_oneself(&saved);

	if (fired->count > 0 && crm_notify)
		crm_notify_fired(NameStr(plans->schema), fired->last, fired->count);
}

void
crm_reminder_look(CrmPending *pending)
{
	CrmOwnerContext saved;
	CrmFirePlans *plans = crm_get_fire_plans(pending->workspace);

	crm_become_owner(&saved, pending->workspace);
	crm_find_next(pending, plans);
	crm_become_oneself(&saved);
}

void
crm_reminder_set_aside(Oid workspace, int64 id, TimestampTz now, const char *failure)
{
	CrmOwnerContext saved;
	char *sql = psprintf("UPDATE %s.reminder SET failed_at = $2, failure = $3"
						 " WHERE id OPERATOR(pg_catalog.=) $1",
						 quote_identifier(get_namespace_name(workspace)));
	int rc;

	crm_become_owner(&saved, workspace);
	rc = SPI_execute_with_args(
		sql, 3, (Oid[]){INT8OID, TIMESTAMPTZOID, TEXTOID},
		(Datum[]){Int64GetDatum(id), TimestampTzGetDatum(now), CStringGetTextDatum(failure)}, NULL,
		false, 0);
	if (rc != SPI_OK_UPDATE)
		elog(ERROR, "SPI_execute_with_args failed: %s", SPI_result_code_string(rc));
	crm_become_oneself(&saved);
}

void
crm_reminder_count(Oid workspace, TimestampTz now, CrmReminderCounts *counts)
{
	CrmOwnerContext saved;
	HeapTuple row;
	bool isnull;
	Datum oldest;
	int rc;
	char *sql =
		psprintf("SELECT d.due, s.set_aside, d.oldest"
				 " FROM (SELECT count(*) AS due, min(r.due_at) AS oldest FROM %1$s.reminder AS r"
				 " WHERE r.due_at OPERATOR(pg_catalog.<=) $1 AND r.failed_at IS NULL) AS d"
				 " CROSS JOIN (SELECT count(*) AS set_aside FROM %1$s.reminder AS r"
				 " WHERE r.failed_at IS NOT NULL) AS s",
				 quote_identifier(get_namespace_name(workspace)));

	crm_become_owner(&saved, workspace);
	rc = SPI_execute_with_args(sql, 1, (Oid[]){TIMESTAMPTZOID}, (Datum[]){TimestampTzGetDatum(now)},
							   NULL, true, 1);
	if (rc != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "SPI_execute_with_args failed: %s", SPI_result_code_string(rc));
	row = SPI_tuptable->vals[0];
	counts->due += DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
	counts->set_aside += DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
	oldest = SPI_getbinval(row, SPI_tuptable->tupdesc, 3, &isnull);
	if (!isnull)
		counts->oldest = Min(counts->oldest, DatumGetTimestampTz(oldest));
	SPI_freetuptable(SPI_tuptable);
	crm_become_oneself(&saved);
}

/* crm.run_due(max_events bigint, workspace regnamespace) */
PG_FUNCTION_INFO_V1(crm_run_due);
Datum
crm_run_due(PG_FUNCTION_ARGS)
{
	int64 left = PG_ARGISNULL(0) ? PG_INT64_MAX : PG_GETARG_INT64(0);
	List *workspaces;
	ListCell *lc;
	int64 total = 0;
	bool denied = false;
	bool allowed = false;
	TimestampTz now = crm_now();

	PreventCommandDuringRecovery("crm.run_due()");
	PreventCommandIfReadOnly("crm.run_due()");
	PreventCommandIfParallelMode("crm.run_due()");
	if (left < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("number of reminders to fire must not be negative")));
	if (PG_ARGISNULL(1))
		workspaces = crm_reminder_workspaces();
	else
	{
		crm_check_workspace(PG_GETARG_OID(1));
		workspaces = list_make1_oid(PG_GETARG_OID(1));
	}

	SPI_connect();
	/* A job that fires by hand must not fire the reminders of years, either. */
	if (crm_scheduler_attach(DEBUG1) && !crm_clock_read(&now))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the system's clock was set far forward; no reminder fires for now"),
				 errhint("If the time is right, run SELECT crm.scheduler_accept_clock(); or wait "
						 "until crm.clock_hold has passed.")));

	foreach (lc, workspaces)
	{
		CrmPending pending = {.workspace = lfirst_oid(lc),
							  .low = DT_NOBEGIN,
							  .low_id = PG_INT64_MIN,
							  .until = DT_NOEND};
		CrmFired fired;

		if (!has_privs_of_role(GetUserId(), crm_workspace_owner(pending.workspace)))
		{
			denied = true;
			continue;
		}
		allowed = true;
		if (!crm_reminder_at_home(pending.workspace))
		{
			ereport(PG_ARGISNULL(1) ? WARNING : ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("workspace \"%s\" is in quarantine; its reminders do not fire",
							get_namespace_name(pending.workspace)),
					 errdetail("It was restored or copied from another database."),
					 errhint("If they are to fire here, run SELECT crm.scheduler_adopt();")));
			continue;
		}
		while (left > 0)
		{
			CHECK_FOR_INTERRUPTS();
			crm_reminder_fire(&pending, now, Min(left, crm_batch_size), true, &fired);
			total += fired.count;
			left -= fired.count;
			if (fired.count == 0 || !fired.more)
				break;
		}
	}
	SPI_finish();

	if (denied && !allowed)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to fire reminders"),
				 errdetail("Only the owner of a workspace and members of that role may fire its "
						   "reminders by hand.")));
	PG_RETURN_INT64(total);
}
