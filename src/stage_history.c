/*
 * stage_history.c
 *		Writing the history of moves, and carrying changed rules to every session.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "access.h"
#include "clock.h"
#include "compat.h"
#include "crm.h"
#include "stage.h"
#include "workspace.h"

static int64
crm_stage_record_id(StageRules *rules, Relation rel, TupleTableSlot *slot)
{
	bool isnull = true;
	Datum value = (Datum) 0;

	if (rules->id_att != InvalidAttrNumber)
		value = slot_getattr(slot, rules->id_att, &isnull);
	if (!isnull)
	{
		switch (rules->id_type)
		{
			case INT8OID:
				return DatumGetInt64(value);
			case INT4OID:
				return DatumGetInt32(value);
			case INT2OID:
				return DatumGetInt16(value);
		}
	}
	ereport(
		ERROR,
		(errcode(ERRCODE_DATATYPE_MISMATCH),
		 errmsg("stage history of table \"%s\" needs an integer id", RelationGetRelationName(rel)),
		 errhint("Guard the table without history: crm.guard_stages(..., history => false)."),
		 errtable(rel)));
}

/* Where the history last saw a record. */
typedef struct StageLast
{
	char *pipeline;
	char *stage;
	TimestampTz changed_at;
} StageLast;

static Datum
crm_stage_history_value(Relation history, HeapTuple tuple, const char *column)
{
	bool isnull;
	Datum value = heap_getattr(tuple, get_attnum(RelationGetRelid(history), column),
							   RelationGetDescr(history), &isnull);

	if (isnull)
		elog(ERROR, "column \"%s\" of stage_history is null", column);
	return value;
}

/*
 * The last row of a record's history, by its index: a query might be planned while
 * the table is small and read all of it for every row once it has grown.  The latest
 * snapshot, because another session may have moved the record while we waited for it.
 */
static bool
crm_stage_last(StageRules *rules, int64 record_id, StageLast *last)
{
	Oid index_oid = get_relname_relid("stage_history_record", rules->workspace);
	Relation history;
	Relation index;
	ScanKeyData keys[2];
	Snapshot snapshot;
	SysScanDesc scan;
	HeapTuple tuple;

	history =
		table_open(crm_workspace_table(rules->workspace, "stage_history", false), RowExclusiveLock);
	if (!OidIsValid(index_oid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("table \"stage_history\" has no index \"stage_history_record\""),
						errhint("Create it on (kind, record_id, id).")));
	index = index_open(index_oid, AccessShareLock);
	ScanKeyEntryInitialize(&keys[0], 0, get_attnum(RelationGetRelid(history), "kind"),
						   BTEqualStrategyNumber, InvalidOid, index->rd_indcollation[0], F_TEXTEQ,
						   CStringGetTextDatum(rules->kind));
	ScanKeyInit(&keys[1], get_attnum(RelationGetRelid(history), "record_id"), BTEqualStrategyNumber,
				F_INT8EQ, Int64GetDatum(record_id));

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = systable_beginscan_ordered(history, index, snapshot, lengthof(keys), keys);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	if (HeapTupleIsValid(tuple))
	{
		last->pipeline = TextDatumGetCString(crm_stage_history_value(history, tuple, "pipeline"));
		last->stage = TextDatumGetCString(crm_stage_history_value(history, tuple, "stage"));
		last->changed_at =
			DatumGetTimestampTz(crm_stage_history_value(history, tuple, "changed_at"));
	}
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, NoLock);
	table_close(history, NoLock);
	return HeapTupleIsValid(tuple);
}

static SPIPlanPtr
crm_stage_history_plan(StageRules *rules)
{
	Oid types[] = {TEXTOID, INT8OID, TEXTOID,		 TEXTOID, TEXTOID,
				   TEXTOID, TEXTOID, TIMESTAMPTZOID, INT8OID, INTERVALOID};
	SPIPlanPtr plan = SPI_prepare_cursor(
		psprintf("INSERT INTO %s.stage_history (kind, record_id, from_pipeline, from_stage,"
				 " pipeline, stage, type, changed_at, member_id, duration)"
				 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
				 quote_identifier(get_namespace_name(rules->workspace))),
		lengthof(types), types, CURSOR_OPT_GENERIC_PLAN);

	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare the stage history: %s", SPI_result_code_string(SPI_result));
	return plan;
}

/*
 * Two things look like a move and may be none, and the record's history, whose names
 * follow a renaming, can tell: a row that comes into a partition by an UPDATE of
 * another one, and a row whose old stage is not known, because it was renamed.
 */
static void
crm_stage_write_history(StageRules *rules, Relation rel, StageStep *step)
{
	static const char *const types[] = {"open", "won", "lost"};
	Datum values[10];
	char nulls[11] = "          ";
	char *from_pipeline = NULL;
	char *from_stage = NULL;
	int64 record_id = crm_stage_record_id(rules, rel, step->new_slot);
	int64 member = crm_member_id(rules->workspace);
	TimestampTz now = crm_now();
	bool update = step->old_slot != NULL;
	bool uncertain = update ? step->from == NULL : rules->is_partition;
	bool seen = false;
	StageLast last;
	Oid user;
	int sec_context;

	if (update)
	{
		from_stage = crm_stage_text(step->old_slot, rules->stage_att);
		from_pipeline = crm_stage_text(step->old_slot, rules->pipeline_att);
		if (from_pipeline == NULL && step->from != NULL)
			from_pipeline = pstrdup(step->from->pipeline->name);
	}
	if (update || uncertain)
		seen = crm_stage_last(rules, record_id, &last);
	if (seen && uncertain)
	{
		if (strcmp(last.pipeline, step->to->pipeline->name) == 0 &&
			strcmp(last.stage, step->to->name) == 0)
			return;
		from_pipeline = last.pipeline;
		from_stage = last.stage;
	}

	values[0] = CStringGetTextDatum(rules->kind);
	values[1] = Int64GetDatum(record_id);
	values[2] = from_pipeline ? CStringGetTextDatum(from_pipeline) : (Datum) 0;
	nulls[2] = from_pipeline ? ' ' : 'n';
	values[3] = from_stage ? CStringGetTextDatum(from_stage) : (Datum) 0;
	nulls[3] = from_stage ? ' ' : 'n';
	values[4] = CStringGetTextDatum(step->to->pipeline->name);
	values[5] = CStringGetTextDatum(step->to->name);
	values[6] = CStringGetTextDatum(types[step->to->type]);
	values[7] = TimestampTzGetDatum(now);
	values[8] = Int64GetDatum(member);
	nulls[8] = member != 0 ? ' ' : 'n';
	values[9] =
		seen ? DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(Max(now, last.changed_at)),
								   TimestampTzGetDatum(last.changed_at))
			 : (Datum) 0;
	nulls[9] = seen ? ' ' : 'n';

	/* As the owner of the workspace: no role can write history by itself. */
	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(rules->owner, sec_context | SECURITY_LOCAL_USERID_CHANGE |
											 SECURITY_RESTRICTED_OPERATION);
	SPI_connect();
	if (rules->history_plan == NULL)
		rules->history_plan = crm_stage_history_plan(rules);
	if (SPI_execute_plan(rules->history_plan, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write the stage history");
	SPI_finish();
	SetUserIdAndSecContext(user, sec_context);
}

PG_FUNCTION_INFO_V1(crm_stage_history);
Datum
crm_stage_history(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = crm_stage_trigger(fcinfo, "stage_history");
	Relation rel = trigdata->tg_relation;
	bool update = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event);
	StageStep step = {0};
	StageRules *rules;
	StageUse use;

	if (TRIGGER_FIRED_BEFORE(trigdata->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("crm.stage_history() must be fired after the row is written")));
	rules = crm_stage_rules_of_call(fcinfo, trigdata);
	step.old_slot = update ? trigdata->tg_trigslot : NULL;
	step.new_slot = update ? trigdata->tg_newslot : trigdata->tg_trigslot;

	if (update && ((crm_stage_same(step.old_slot, step.new_slot, rules->stage_att) &&
					crm_stage_same(step.old_slot, step.new_slot, rules->pipeline_att)) ||
				   crm_stage_is_rename(rules, step.old_slot, step.new_slot)))
		return PointerGetDatum(NULL);
	crm_stage_begin(&use, rules, rel);
	step.to = crm_stage_row_stage(rules, rel, step.new_slot,
								  crm_stage_row_pipeline(rules, rel, step.new_slot));
	if (update)
		step.from = crm_stage_known_stage(rules, step.old_slot);
	crm_stage_write_history(rules, rel, &step);
	crm_stage_end(&use);
	return PointerGetDatum(NULL);
}

/* Carries the new name of a stage into the history of the records that passed it. */
static void
crm_stage_rename_history(TriggerData *trigdata)
{
	TupleDesc tupdesc = RelationGetDescr(trigdata->tg_relation);
	Oid workspace = RelationGetNamespace(trigdata->tg_relation);
	const char *schema = quote_identifier(get_namespace_name(workspace));
	Oid types[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum values[4];
	char *old_pipeline =
		SPI_getvalue(trigdata->tg_trigtuple, tupdesc, SPI_fnumber(tupdesc, "pipeline"));
	char *old_name = SPI_getvalue(trigdata->tg_trigtuple, tupdesc, SPI_fnumber(tupdesc, "name"));
	char *new_pipeline =
		SPI_getvalue(trigdata->tg_newtuple, tupdesc, SPI_fnumber(tupdesc, "pipeline"));
	char *new_name = SPI_getvalue(trigdata->tg_newtuple, tupdesc, SPI_fnumber(tupdesc, "name"));
	Oid user;
	int sec_context;

	if (strcmp(old_pipeline, new_pipeline) == 0 && strcmp(old_name, new_name) == 0)
		return;
	values[0] = CStringGetTextDatum(old_pipeline);
	values[1] = CStringGetTextDatum(old_name);
	values[2] = CStringGetTextDatum(new_pipeline);
	values[3] = CStringGetTextDatum(new_name);

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(crm_workspace_owner(workspace), sec_context |
															   SECURITY_LOCAL_USERID_CHANGE |
															   SECURITY_RESTRICTED_OPERATION);
	SPI_connect();
	if (SPI_execute_with_args(psprintf("UPDATE %s.stage_history SET pipeline = $3, stage = $4"
									   " WHERE pipeline OPERATOR(pg_catalog.=) $1"
									   " AND stage OPERATOR(pg_catalog.=) $2",
									   schema),
							  4, types, values, NULL, false, 0) != SPI_OK_UPDATE ||
		SPI_execute_with_args(
			psprintf("UPDATE %s.stage_history SET from_pipeline = $3, from_stage = $4"
					 " WHERE from_pipeline OPERATOR(pg_catalog.=) $1"
					 " AND from_stage OPERATOR(pg_catalog.=) $2",
					 schema),
			4, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not rename a stage in the history");
	SPI_finish();
	SetUserIdAndSecContext(user, sec_context);
}

PG_FUNCTION_INFO_V1(crm_stage_changed);
Datum
crm_stage_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("crm.stage_changed() must be called as a trigger")));
	CacheInvalidateRelcache(trigdata->tg_relation);
	if (TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) && TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) &&
		trigdata->tg_trigger->tgnargs > 0 && strcmp(trigdata->tg_trigger->tgargs[0], "stage") == 0)
		crm_stage_rename_history(trigdata);
	return PointerGetDatum(NULL);
}
