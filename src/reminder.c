/*
 * reminder.c
 *		Firing: reminders that are due become events.
 *
 * A reminder leaves its table, or moves to its next occurrence, and its event is
 * written by one statement.  So no state of being fired is ever visible or
 * survives a crash: a reminder is pending or has exactly one event, and one that
 * recurs has one for each time it was due.
 *
 * One transaction at a time fires a workspace, under a lock that ends after the
 * transaction has become visible.  Events therefore become visible in the order
 * of their ids, and a consumer may remember where it stands as one number.
 * Reminders that another transaction has locked, because somebody is moving or
 * cancelling them, are skipped and stay first in line.
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
	SPIPlanPtr fire;
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
	if (!found)
		plans->fire = plans->next = plans->hold = NULL;

	/* The statements name the schema, so a renamed one needs new ones. */
	if (plans->fire != NULL)
		SPI_freeplan(plans->fire);
	if (plans->next != NULL)
		SPI_freeplan(plans->next);
	if (plans->hold != NULL)
		SPI_freeplan(plans->hold);
	plans->fire = plans->next = plans->hold = NULL;
	namestrcpy(&plans->schema, name);

	schema = quote_identifier(name);
	initStringInfo(&sql);

	/*
	 * The rows to fire are found in index order from the low-water mark and
	 * deleted or moved by their physical address.
	 */
	appendStringInfo(
		&sql,
		"WITH due AS MATERIALIZED ("
		"SELECT r.ctid AS tid, r.id, r.member_id, r.due_at, r.title, r.kind, r.record_id, "
		"r.payload, r.escalation_id,"
		" CASE WHEN r.escalation_id IS NOT NULL THEN %1$s.escalation_next(r.escalation_id, $3)"
		" WHEN r.recurrence IS NOT NULL THEN crm.next_occurrence(r.recurrence, r.starts_at, "
		"r.time_zone,"
		" CASE WHEN r.catch_up OPERATOR(pg_catalog.=) 'all' THEN r.occurs_at ELSE "
		"GREATEST(r.occurs_at, $3) END)"
		" END AS next_due FROM %1$s.reminder AS r"
		" WHERE (r.due_at, r.id) OPERATOR(pg_catalog.>=) ($1, $2)"
		" AND r.due_at OPERATOR(pg_catalog.<=) $3 AND r.failed_at IS NULL"
		" AND ($5 OPERATOR(pg_catalog.=) 0 OR r.id OPERATOR(pg_catalog.=) $5)"
		" ORDER BY r.due_at, r.id LIMIT $4 FOR UPDATE OF r SKIP LOCKED), "
		"gone AS (DELETE FROM %1$s.reminder AS r USING due"
		" WHERE r.ctid OPERATOR(pg_catalog.=) due.tid AND due.next_due IS NULL RETURNING due.*), "
		"moved AS (UPDATE %1$s.reminder AS r SET due_at = due.next_due, occurs_at = due.next_due "
		"FROM due"
		" WHERE r.ctid OPERATOR(pg_catalog.=) due.tid AND due.next_due IS NOT NULL RETURNING "
		"due.*), "
		"fired AS (SELECT * FROM gone UNION ALL SELECT * FROM moved) "
		"INSERT INTO %1$s.event (reminder_id, member_id, due_at, fired_at, title, kind, record_id, "
		"payload)"
		" SELECT f.id, f.member_id, f.due_at, $3, f.title, f.kind, f.record_id, f.payload"
		" FROM fired AS f WHERE f.escalation_id IS NULL UNION ALL"
		" SELECT f.id, e.member_id, f.due_at, $3, e.title, f.kind, f.record_id, e.payload"
		" FROM fired AS f CROSS JOIN LATERAL %1$s.escalate(f.escalation_id, $3) AS e"
		" WHERE f.escalation_id IS NOT NULL"
		" ORDER BY 3, 1 RETURNING due_at, id",
		schema);
	plans->fire = crm_prepare(sql.data, 5,
							  (Oid[]){TIMESTAMPTZOID, INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID});

	resetStringInfo(&sql);
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

static void
crm_count_fired(CrmFired *fired, TimestampTz now)
{
	bool isnull;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		TimestampTz due = DatumGetTimestampTz(
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		int64 late = Max(now - due, 0);
		int64 ms = late / 1000;
		int bucket = ms == 0 ? 0 : pg_leftmost_one_pos64((uint64) ms) + 1;

		fired->lateness[Min(bucket, CRM_LATENESS_BUCKETS - 1)]++;
		fired->max_lateness = Max(fired->max_lateness, late);
	}
	fired->count += SPI_processed;
}

/*
 * A workspace with rules about attention has a function that looks at the events
 * just written: those that must wait it marks as held, and it plans digests.  It
 * runs before anybody hears of the events.
 */
static void
crm_hold_fired(CrmFirePlans *plans, int64 first, int64 last, TimestampTz now)
{
	static Oid types[] = {INT8OID, INT8OID, TIMESTAMPTZOID};
	const char *schema = quote_identifier(NameStr(plans->schema));
	List *name = list_make2(makeString(NameStr(plans->schema)), makeString("hold_events"));
	int rc;

	if (!OidIsValid(LookupFuncName(name, lengthof(types), types, true)))
		return;
	if (plans->hold == NULL)
		plans->hold = crm_prepare(psprintf("SELECT %s.hold_events($1, $2, $3)", schema),
								  lengthof(types), types);
	rc = SPI_execute_plan(
		plans->hold, (Datum[]){Int64GetDatum(first), Int64GetDatum(last), TimestampTzGetDatum(now)},
		NULL, false, 0);
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

/*
 * The tables, their triggers and their indexes belong to the workspace's owner:
 * nothing of them runs with the rights of whoever fires, and no setting they
 * change outlives the batch.
 */
typedef struct CrmOwnerContext
{
	Oid user;
	int sec_context;
	int nestlevel;
} CrmOwnerContext;

static void
crm_become_owner(CrmOwnerContext *saved, Oid workspace)
{
	GetUserIdAndSecContext(&saved->user, &saved->sec_context);
	SetUserIdAndSecContext(crm_workspace_owner(workspace),
						   saved->sec_context | SECURITY_RESTRICTED_OPERATION);
	saved->nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

static void
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
	int rc;
	int64 first = 0;
	int64 last = 0;
	uint64 count;

	memset(fired, 0, sizeof(*fired));
	if (!crm_lock_firing(pending->workspace, wait))
	{
		fired->busy = true;
		return;
	}
	plans = crm_get_fire_plans(pending->workspace);
	crm_become_owner(&saved, pending->workspace);

	crm_plan_in_index_order(plans->fire);
	rc = SPI_execute_plan(plans->fire,
						  (Datum[]){TimestampTzGetDatum(pending->low),
									Int64GetDatum(pending->low_id), TimestampTzGetDatum(now),
									Int64GetDatum(limit), Int64GetDatum(pending->only_id)},
						  NULL, false, 0);
	if (rc != SPI_OK_INSERT_RETURNING)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	count = SPI_processed;
	crm_count_fired(fired, now);
	if (count > 0)
	{
		bool isnull;

		first =
			DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
		last = DatumGetInt64(
			SPI_getbinval(SPI_tuptable->vals[count - 1], SPI_tuptable->tupdesc, 2, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	if (count > 0)
		crm_hold_fired(plans, first, last, now);

	crm_find_next(pending, plans);
	fired->more = pending->next <= now;
	crm_become_oneself(&saved);

	if (count > 0 && crm_notify)
		crm_notify_fired(NameStr(plans->schema), last, count);
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
	foreach (lc, workspaces)
	{
		CrmPending pending = {
			.workspace = lfirst_oid(lc), .low = DT_NOBEGIN, .low_id = PG_INT64_MIN};
		CrmFired fired;

		if (!has_privs_of_role(GetUserId(), crm_workspace_owner(pending.workspace)))
		{
			denied = true;
			continue;
		}
		allowed = true;
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
