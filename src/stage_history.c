/*
 * stage_history.c
 *		Writing the history of moves, and carrying changed rules to every session.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "executor/executor.h"
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

/* The columns that are written, in this order. */
static const struct
{
	const char *name;
	Oid type;
} history_columns[] = {
	{"kind", TEXTOID},		   {"record_id", INT8OID},		   {"from_pipeline", TEXTOID},
	{"from_stage", TEXTOID},   {"pipeline", TEXTOID},		   {"stage", TEXTOID},
	{"type", TEXTOID},		   {"changed_at", TIMESTAMPTZOID}, {"member_id", INT8OID},
	{"duration", INTERVALOID},
};

#define HISTORY_COLUMNS lengthof(history_columns)

enum
{
	HISTORY_KIND,
	HISTORY_RECORD_ID,
	HISTORY_FROM_PIPELINE,
	HISTORY_FROM_STAGE,
	HISTORY_PIPELINE,
	HISTORY_STAGE,
	HISTORY_TYPE,
	HISTORY_CHANGED_AT,
	HISTORY_MEMBER_ID,
	HISTORY_DURATION
};

/* What is known of a workspace's stage_history, as long as the rules are. */
typedef struct StageHistory
{
	Oid table;
	Oid index; /* on (kind, record_id, id) */
	AttrNumber atts[HISTORY_COLUMNS];
	bool plain; /* rows can be written without a query */
	AttrNumber id_att;
	Oid sequence;
	SPIPlanPtr plan; /* the query, NULL if not needed yet */
} StageHistory;

/*
 * A table as the workspace made it takes rows without a query, at a fraction of the
 * cost.  One that has been given triggers, defaults, rules, other types, partitions
 * or a policy for its owner gets an INSERT.
 */
static bool
crm_stage_history_is_plain(StageHistory *history, Relation rel)
{
	TupleDesc tupdesc = RelationGetDescr(rel);

	if (rel->rd_rel->relkind != RELKIND_RELATION || rel->rd_rel->relispartition ||
		rel->rd_rel->relhasrules || rel->rd_rel->relforcerowsecurity || rel->trigdesc != NULL)
		return false;
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(tupdesc, i);
		int column = 0;

		if (attr->attisdropped)
			continue;
		while (column < HISTORY_COLUMNS && history->atts[column] != i + 1)
			column++;
		if (column < HISTORY_COLUMNS)
		{
			if (attr->atttypid != history_columns[column].type || attr->atttypmod != -1 ||
				attr->attgenerated != '\0')
				return false;
		}
		else if (strcmp(NameStr(attr->attname), "id") == 0 && attr->attidentity != '\0' &&
				 attr->atttypid == INT8OID)
		{
			history->id_att = i + 1;
			history->sequence = CRM_IDENTITY_SEQUENCE(rel, i + 1);
		}
		else if (attr->atthasdef || attr->attidentity != '\0' || attr->attgenerated != '\0' ||
				 get_typtype(attr->atttypid) == TYPTYPE_DOMAIN)
			return false;
	}
	return history->id_att != InvalidAttrNumber;
}

static StageHistory *
crm_stage_history_of(StageRules *rules)
{
	StageHistory *history;
	Relation rel;

	if (likely(rules->history != NULL))
		return rules->history;

	history = MemoryContextAllocZero(rules->context, sizeof(StageHistory));
	history->table = crm_workspace_table(rules->workspace, "stage_history", false);
	rel = table_open(history->table, RowExclusiveLock);
	for (int i = 0; i < HISTORY_COLUMNS; i++)
	{
		history->atts[i] = get_attnum(history->table, history_columns[i].name);
		if (history->atts[i] <= 0)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
							errmsg("column \"%s\" of relation \"%s\" does not exist",
								   history_columns[i].name, RelationGetRelationName(rel))));
	}
	history->index = get_relname_relid("stage_history_record", rules->workspace);
	if (!OidIsValid(history->index))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("table \"stage_history\" has no index \"stage_history_record\""),
						errhint("Create it on (kind, record_id, id).")));
	history->plain = crm_stage_history_is_plain(history, rel);
	table_close(rel, NoLock);
	rules->history = history;
	return history;
}

void
crm_stage_free_history(StageHistory *history)
{
	if (history->plan != NULL)
		SPI_freeplan(history->plan);
}

/* Where the history last saw a record. */
typedef struct StageLast
{
	char *pipeline;
	char *stage;
	TimestampTz changed_at;
} StageLast;

static Datum
crm_stage_history_value(StageHistory *history, TupleDesc tupdesc, HeapTuple tuple, int column)
{
	bool isnull;
	Datum value = heap_getattr(tuple, history->atts[column], tupdesc, &isnull);

	if (isnull)
		elog(ERROR, "column \"%s\" of stage_history is null", history_columns[column].name);
	return value;
}

/*
 * The last row of a record's history, by its index: a query might be planned while
 * the table is small and read all of it for every row once it has grown.  The latest
 * snapshot, because another session may have moved the record while we waited for it.
 */
static bool
crm_stage_last(StageHistory *history, Relation rel, Datum kind, int64 record_id, bool names,
			   StageLast *last)
{
	Relation index = index_open(history->index, AccessShareLock);
	TupleDesc tupdesc = RelationGetDescr(rel);
	ScanKeyData keys[2];
	Snapshot snapshot;
	SysScanDesc scan;
	HeapTuple tuple;
	bool found;

	ScanKeyEntryInitialize(&keys[0], 0, history->atts[HISTORY_KIND], BTEqualStrategyNumber,
						   InvalidOid, index->rd_indcollation[0], F_TEXTEQ, kind);
	ScanKeyInit(&keys[1], history->atts[HISTORY_RECORD_ID], BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(record_id));

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = systable_beginscan_ordered(rel, index, snapshot, lengthof(keys), keys);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	found = HeapTupleIsValid(tuple);
	if (found)
		last->changed_at = DatumGetTimestampTz(
			crm_stage_history_value(history, tupdesc, tuple, HISTORY_CHANGED_AT));
	if (found && names)
	{
		last->pipeline =
			TextDatumGetCString(crm_stage_history_value(history, tupdesc, tuple, HISTORY_PIPELINE));
		last->stage =
			TextDatumGetCString(crm_stage_history_value(history, tupdesc, tuple, HISTORY_STAGE));
	}
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, NoLock);
	return found;
}

/* Writes a row of a plain table as COPY would. */
static void
crm_stage_insert(StageHistory *history, Relation rel, Datum *values, bool *nulls)
{
	EState *estate = CreateExecutorState();
	ResultRelInfo *target = makeNode(ResultRelInfo);
	TupleTableSlot *slot = table_slot_create(rel, NULL);

	ExecStoreAllNullTuple(slot);
	for (int i = 0; i < HISTORY_COLUMNS; i++)
	{
		slot->tts_values[history->atts[i] - 1] = values[i];
		slot->tts_isnull[history->atts[i] - 1] = nulls[i];
	}
	slot->tts_values[history->id_att - 1] =
		Int64GetDatum(nextval_internal(history->sequence, false));
	slot->tts_isnull[history->id_att - 1] = false;

	InitResultRelInfo(target, rel, 0, NULL, 0);
	ExecOpenIndices(target, false);
	ExecSimpleRelationInsert(target, estate, slot);
	ExecCloseIndices(target);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
	CommandCounterIncrement();
}

/* Writes a row of any table. */
static void
crm_stage_insert_by_query(StageRules *rules, StageHistory *history, Datum *values, bool *nulls)
{
	char spi_nulls[HISTORY_COLUMNS + 1] = {0};

	for (int i = 0; i < HISTORY_COLUMNS; i++)
		spi_nulls[i] = nulls[i] ? 'n' : ' ';
	SPI_connect();
	if (history->plan == NULL)
	{
		StringInfoData names, parameters;
		Oid types[HISTORY_COLUMNS];
		SPIPlanPtr plan;

		initStringInfo(&names);
		initStringInfo(&parameters);
		for (int i = 0; i < HISTORY_COLUMNS; i++)
		{
			appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", history_columns[i].name);
			appendStringInfo(&parameters, "%s$%d", i > 0 ? ", " : "", i + 1);
			types[i] = history_columns[i].type;
		}
		plan = SPI_prepare_cursor(psprintf("INSERT INTO %s.stage_history (%s) VALUES (%s)",
										   quote_identifier(get_namespace_name(rules->workspace)),
										   names.data, parameters.data),
								  HISTORY_COLUMNS, types, CURSOR_OPT_GENERIC_PLAN);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare the stage history: %s",
				 SPI_result_code_string(SPI_result));
		history->plan = plan;
	}
	if (SPI_execute_plan(history->plan, values, spi_nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write the stage history");
	SPI_finish();
}

/*
 * Two things look like a move and may be none, and the record's history, whose names
 * follow a renaming, can tell: a row that comes into a partition by an UPDATE of
 * another one, and a row whose old stage is not known, because it was renamed.
 */
static void
crm_stage_write_history(StageRules *rules, Relation rel, StageStep *step, Relation history_rel)
{
	static const char *const types[] = {"open", "won", "lost"};
	StageHistory *history = rules->history;
	Datum values[HISTORY_COLUMNS] = {0};
	bool nulls[HISTORY_COLUMNS] = {0};
	char *from_pipeline = NULL;
	char *from_stage = NULL;
	int64 record_id = crm_stage_record_id(rules, rel, step->new_slot);
	int64 member = crm_member_id(rules->workspace);
	TimestampTz now = crm_now();
	bool update = step->old_slot != NULL;
	bool uncertain = update ? step->from == NULL : rules->is_partition;
	bool seen = false;
	StageLast last = {0};
	Oid user;
	int sec_context;

	values[HISTORY_KIND] = CStringGetTextDatum(rules->kind);
	if (update)
	{
		from_stage = crm_stage_text(step->old_slot, rules->stage_att);
		from_pipeline = crm_stage_text(step->old_slot, rules->pipeline_att);
		if (from_pipeline == NULL && step->from != NULL)
			from_pipeline = pstrdup(step->from->pipeline->name);
	}
	if (update || uncertain)
		seen =
			crm_stage_last(history, history_rel, values[HISTORY_KIND], record_id, uncertain, &last);
	if (seen && uncertain)
	{
		if (strcmp(last.pipeline, step->to->pipeline->name) == 0 &&
			strcmp(last.stage, step->to->name) == 0)
			return;
		from_pipeline = last.pipeline;
		from_stage = last.stage;
	}

	values[HISTORY_RECORD_ID] = Int64GetDatum(record_id);
	nulls[HISTORY_FROM_PIPELINE] = from_pipeline == NULL;
	if (from_pipeline != NULL)
		values[HISTORY_FROM_PIPELINE] = CStringGetTextDatum(from_pipeline);
	nulls[HISTORY_FROM_STAGE] = from_stage == NULL;
	if (from_stage != NULL)
		values[HISTORY_FROM_STAGE] = CStringGetTextDatum(from_stage);
	values[HISTORY_PIPELINE] = CStringGetTextDatum(step->to->pipeline->name);
	values[HISTORY_STAGE] = CStringGetTextDatum(step->to->name);
	values[HISTORY_TYPE] = CStringGetTextDatum(types[step->to->type]);
	values[HISTORY_CHANGED_AT] = TimestampTzGetDatum(now);
	values[HISTORY_MEMBER_ID] = Int64GetDatum(member);
	nulls[HISTORY_MEMBER_ID] = member == 0;
	nulls[HISTORY_DURATION] = !seen;
	if (seen)
		values[HISTORY_DURATION] =
			DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(Max(now, last.changed_at)),
								TimestampTzGetDatum(last.changed_at));

	/* As the owner of the workspace: no role can write history by itself. */
	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(rules->owner, sec_context | SECURITY_LOCAL_USERID_CHANGE |
											 SECURITY_RESTRICTED_OPERATION);
	if (history->plain)
		crm_stage_insert(history, history_rel, values, nulls);
	else
		crm_stage_insert_by_query(rules, history, values, nulls);
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
	StageRules *current;
	Relation history_rel;
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
	/* The lock may have waited for a change of the history, which makes rules stale. */
	history_rel = table_open(crm_stage_history_of(rules)->table, RowExclusiveLock);
	current = crm_stage_rules_of_call(fcinfo, trigdata);
	if (current != rules)
	{
		rules = current;
		table_close(history_rel, NoLock);
		history_rel = table_open(crm_stage_history_of(rules)->table, RowExclusiveLock);
	}

	crm_stage_begin(&use, rules, rel);
	step.to = crm_stage_row_stage(rules, rel, step.new_slot,
								  crm_stage_row_pipeline(rules, rel, step.new_slot));
	if (update)
		step.from = crm_stage_known_stage(rules, step.old_slot);
	crm_stage_write_history(rules, rel, &step, history_rel);
	crm_stage_end(&use);
	table_close(history_rel, NoLock);
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
