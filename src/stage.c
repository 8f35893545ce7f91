/*
 * stage.c
 *		The stage guard: row triggers that hold a table to its pipeline's rules,
 *		and the function that asks what is missing.
 *
 * A row whose stage and pipeline stay as they were costs two comparisons.  A move is
 * judged against the compiled rules of stage_rules.c, without a query and without
 * allocating anything.  Only when it is refused is all judged once more, to list
 * every fault in one error.  A rule whose expression raises an error has not said no:
 * that error reaches the client as it is, with the rule named in its context.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/date.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "access.h"
#include "clock.h"
#include "compat.h"
#include "crm.h"
#include "stage.h"
#include "workspace.h"

#define ERRCODE_CRM_STAGE_MOVE	  ERRCODE_CRM('S', '0', '1')
#define ERRCODE_CRM_STAGE_UNKNOWN ERRCODE_CRM('S', '0', '2')

/* No more than this is shown of a value that is not a known stage, and of an expression. */
#define STAGE_SHOWN_BYTES  100
#define STAGE_SOURCE_BYTES 1000

typedef struct StageFault
{
	const char *type; /* start, transition, guard, required, entry or exit */
	const char *rule; /* or NULL */
	const char *field;
	const char *message;
	const char *hint;
} StageFault;

/* ---------------------------------------------------------------------
 * Small things
 * ---------------------------------------------------------------------
 */

/* The text in a column, NULL if it has none; not a copy unless it was toasted. */
static struct varlena *
crm_stage_packed(TupleTableSlot *slot, AttrNumber att)
{
	bool isnull;
	Datum value;

	if (att == InvalidAttrNumber)
		return NULL;
	value = slot_getattr(slot, att, &isnull);
	return isnull ? NULL : PG_DETOAST_DATUM_PACKED(value);
}

char *
crm_stage_text(TupleTableSlot *slot, AttrNumber att)
{
	struct varlena *text = crm_stage_packed(slot, att);

	return text ? text_to_cstring((struct varlena *) text) : NULL;
}

bool
crm_stage_same(TupleTableSlot *a, TupleTableSlot *b, AttrNumber att)
{
	struct varlena *atext = crm_stage_packed(a, att);
	struct varlena *btext = crm_stage_packed(b, att);

	if (atext == NULL || btext == NULL)
		return atext == btext;
	return VARSIZE_ANY_EXHDR(atext) == VARSIZE_ANY_EXHDR(btext) &&
		   memcmp(VARDATA_ANY(atext), VARDATA_ANY(btext), VARSIZE_ANY_EXHDR(atext)) == 0;
}

/* The record's id as text, or NULL. */
static char *
crm_stage_id(StageRules *rules, TupleTableSlot *slot)
{
	bool isnull;
	Datum value;
	Oid output;
	bool varlena;

	if (rules->id_att == InvalidAttrNumber)
		return NULL;
	value = slot_getattr(slot, rules->id_att, &isnull);
	if (isnull)
		return NULL;
	getTypeOutputInfo(TupleDescAttr(slot->tts_tupleDescriptor, rules->id_att - 1)->atttypid,
					  &output, &varlena);
	return OidOutputFunctionCall(output, value);
}

static char *
crm_stage_clip(const char *value, int limit)
{
	int len = (int) strlen(value);
	int clipped = pg_mbcliplen(value, len, limit);

	return clipped < len ? psprintf("%.*s...", clipped, value) : pstrdup(value);
}

static char *
crm_stage_shown(const char *value)
{
	return crm_stage_clip(value, STAGE_SHOWN_BYTES);
}

static char *
crm_stage_record(StageRules *rules, TupleTableSlot *slot)
{
	char *id = crm_stage_id(rules, slot);

	return id ? psprintf("%s %s", rules->kind, crm_stage_shown(id)) : pstrdup(rules->kind);
}

static void
crm_stage_add_name(StringInfo buf, const char *name)
{
	appendStringInfo(buf, "%s\"%s\"", buf->len > 0 ? ", " : "", name);
}

static char *
crm_stage_names(StagePipeline *pipeline, bool initial_only)
{
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	foreach (lc, pipeline->stages)
	{
		Stage *stage = lfirst(lc);

		if (stage->is_initial || !initial_only)
			crm_stage_add_name(&buf, stage->name);
	}
	return buf.len > 0 ? buf.data : pstrdup("none");
}

static StagePipeline *
crm_stage_known_pipeline(StageRules *rules, TupleTableSlot *slot)
{
	struct varlena *name = crm_stage_packed(slot, rules->pipeline_att);

	if (name == NULL)
		return crm_stage_default_pipeline(rules);
	return crm_stage_find_pipeline(rules, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
}

static Stage *
crm_stage_of_pipeline(StageRules *rules, TupleTableSlot *slot, StagePipeline *pipeline)
{
	struct varlena *name = crm_stage_packed(slot, rules->stage_att);

	if (name == NULL || pipeline == NULL)
		return NULL;
	return crm_stage_find(pipeline, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
}

/* The stage of a row; NULL if in none that the rules know. */
Stage *
crm_stage_known_stage(StageRules *rules, TupleTableSlot *slot)
{
	return crm_stage_of_pipeline(rules, slot, crm_stage_known_pipeline(rules, slot));
}

/*
 * The renaming of a stage reaches the records through the cascade of a foreign key:
 * nothing moves.  Only the system's own referential actions run like this, and the
 * rules, compiled before or after the renaming, know only one of the names.
 */
bool
crm_stage_is_rename(StageRules *rules, TupleTableSlot *old_slot, TupleTableSlot *new_slot)
{
	return InNoForceRLSOperation() && (crm_stage_known_stage(rules, old_slot) == NULL ||
									   crm_stage_known_stage(rules, new_slot) == NULL);
}

/* ---------------------------------------------------------------------
 * Finding the stages of a row
 * ---------------------------------------------------------------------
 */

StagePipeline *
crm_stage_row_pipeline(StageRules *rules, Relation rel, TupleTableSlot *slot)
{
	StagePipeline *pipeline = crm_stage_known_pipeline(rules, slot);
	char *name;
	StringInfoData buf;
	ListCell *lc;

	if (pipeline != NULL)
		return pipeline;

	name = crm_stage_text(slot, rules->pipeline_att);
	initStringInfo(&buf);
	foreach (lc, rules->pipelines)
		crm_stage_add_name(&buf, ((StagePipeline *) lfirst(lc))->name);
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CRM_STAGE_UNKNOWN),
				 errmsg("there is no default pipeline for records of kind \"%s\"", rules->kind),
				 errdetail("Pipelines: %s.", buf.len > 0 ? buf.data : "none"),
				 errhint("Set is_default for one of them, or name the pipeline in the record."),
				 errtable(rel)));
	ereport(ERROR, (errcode(ERRCODE_CRM_STAGE_UNKNOWN),
					errmsg("pipeline \"%s\" does not exist for records of kind \"%s\"",
						   crm_stage_shown(name), rules->kind),
					errdetail("Pipelines: %s.", buf.len > 0 ? buf.data : "none"),
					errtablecol(rel, rules->pipeline_att)));
}

Stage *
crm_stage_row_stage(StageRules *rules, Relation rel, TupleTableSlot *slot, StagePipeline *pipeline)
{
	Stage *stage = crm_stage_of_pipeline(rules, slot, pipeline);
	char *name;

	if (stage != NULL)
		return stage;
	name = crm_stage_text(slot, rules->stage_att);
	if (name == NULL)
		ereport(ERROR, (errcode(ERRCODE_NOT_NULL_VIOLATION),
						errmsg("%s must be in a stage", crm_stage_record(rules, slot)),
						errdetail("Stages of pipeline \"%s\": %s.", pipeline->name,
								  crm_stage_names(pipeline, false)),
						errtablecol(rel, rules->stage_att)));
	ereport(ERROR, (errcode(ERRCODE_CRM_STAGE_UNKNOWN),
					errmsg("stage \"%s\" does not exist in pipeline \"%s\"", crm_stage_shown(name),
						   pipeline->name),
					errdetail("Stages of pipeline \"%s\": %s.", pipeline->name,
							  crm_stage_names(pipeline, false)),
					errtablecol(rel, rules->stage_att)));
}

static StageMove *
crm_stage_find_move(Stage *from, Stage *to)
{
	ListCell *lc;

	foreach (lc, from->moves)
	{
		StageMove *move = lfirst(lc);

		if (move->to == to)
			return move;
	}
	return NULL;
}

/* ---------------------------------------------------------------------
 * Judging
 * ---------------------------------------------------------------------
 */

/* True if the expression is; false and NULL are not met. */
static bool
crm_stage_rule_met(StageUse *use, StageRule *rule, ExprContext *econtext)
{
	Datum value;
	bool isnull;

	use->rule = rule;
	value = ExecEvalExprSwitchContext(crm_stage_rule_state(use), econtext, &isnull);
	use->rule = NULL;
	return !isnull && DatumGetBool(value);
}

static ExprContext *
crm_stage_begin_rules(StageUse *use, StageStep *step)
{
	StageRules *rules = use->rules;
	ExprContext *econtext = use->nested ? CreateStandaloneExprContext() : rules->econtext;

	econtext->ecxt_innertuple = step->old_slot ? step->old_slot : rules->null_slot;
	econtext->ecxt_outertuple = step->new_slot;
	if (!use->nested)
		rules->evaluating = true;
	return econtext;
}

static void
crm_stage_end_rules(StageUse *use, ExprContext *econtext)
{
	if (use->nested)
		FreeExprContext(econtext, true);
	else
	{
		ReScanExprContext(econtext);
		use->rules->evaluating = false;
	}
}

static bool
crm_stage_rules_met(StageUse *use, StageStep *step, List *list)
{
	ExprContext *econtext;
	bool met = true;
	ListCell *lc;

	if (list == NIL)
		return true;
	econtext = crm_stage_begin_rules(use, step);
	foreach (lc, list)
	{
		met = crm_stage_rule_met(use, lfirst(lc), econtext);
		if (!met)
			break;
	}
	crm_stage_end_rules(use, econtext);
	return met;
}

static List *
crm_stage_fault(List *faults, const char *type, const char *rule, const char *field,
				const char *message, const char *hint)
{
	StageFault *fault = palloc(sizeof(StageFault));

	fault->type = type;
	fault->rule = rule;
	fault->field = field;
	fault->message = message;
	fault->hint = hint;
	return lappend(faults, fault);
}

static bool
crm_stage_field_filled(StageField *field, TupleTableSlot *slot)
{
	bool isnull;
	Datum value;
	struct varlena *text;
	const char *p;

	if (field->attnum == InvalidAttrNumber)
		return false;
	value = slot_getattr(slot, field->attnum, &isnull);
	if (isnull)
		return false;
	if (!field->is_text)
		return true;
	text = PG_DETOAST_DATUM_PACKED(value);
	p = VARDATA_ANY(text);
	for (size_t i = 0; i < VARSIZE_ANY_EXHDR(text); i++)
	{
		if (!isspace((unsigned char) p[i]))
			return true;
	}
	return false;
}

static bool
crm_stage_required_filled(StageStep *step)
{
	ListCell *lc;

	foreach (lc, step->to->required)
	{
		if (!crm_stage_field_filled(lfirst(lc), step->new_slot))
			return false;
	}
	return true;
}

static List *
crm_stage_required_faults(List *faults, StageStep *step)
{
	ListCell *lc;

	foreach (lc, step->to->required)
	{
		StageField *field = lfirst(lc);

		if (crm_stage_field_filled(field, step->new_slot))
			continue;
		faults = crm_stage_fault(
			faults, "required", NULL, field->name,
			field->attnum == InvalidAttrNumber
				? psprintf("Stage \"%s\" requires the field \"%s\", which does not exist.",
						   step->to->name, field->name)
				: psprintf("Stage \"%s\" requires the field \"%s\".", step->to->name, field->name),
			NULL);
	}
	return faults;
}

static const char *
crm_stage_rule_title(StageRule *rule, StageStep *step)
{
	switch (rule->kind)
	{
		case STAGE_RULE_GUARD:
			return psprintf("The condition of the move from \"%s\" to \"%s\"", step->from->name,
							step->to->name);
		case STAGE_RULE_ENTRY:
			return psprintf("Entry criterion \"%s\" of stage \"%s\"", rule->name, step->to->name);
		case STAGE_RULE_EXIT:
			return psprintf("Exit criterion \"%s\" of stage \"%s\"", rule->name, step->from->name);
	}
	pg_unreachable();
}

static List *
crm_stage_rule_faults(List *faults, StageUse *use, StageStep *step, List *list)
{
	static const char *const types[] = {"guard", "entry", "exit"};
	ExprContext *econtext = crm_stage_begin_rules(use, step);
	ListCell *lc;

	foreach (lc, list)
	{
		StageRule *rule = lfirst(lc);
		const char *message = rule->message;

		CHECK_FOR_INTERRUPTS();
		if (crm_stage_rule_met(use, rule, econtext))
			continue;
		if (message == NULL)
			message = psprintf("%s is not met: %s.", crm_stage_rule_title(rule, step),
							   crm_stage_clip(rule->source, STAGE_SOURCE_BYTES));
		faults = crm_stage_fault(faults, types[rule->kind], rule->name, NULL, message, rule->hint);
	}
	crm_stage_end_rules(use, econtext);
	return faults;
}

/* All that is wrong with a step. */
static List *
crm_stage_faults(StageUse *use, StageStep *step, StageMove *move)
{
	List *faults = NIL;
	List *list;

	if (step->from == NULL)
	{
		list = step->to->entry;
		if (!step->to->is_initial)
			faults =
				crm_stage_fault(faults, "start", NULL, NULL,
								psprintf("Stage \"%s\" is not an initial stage of pipeline \"%s\".",
										 step->to->name, step->to->pipeline->name),
								NULL);
	}
	else if (move != NULL)
		list = move->rules;
	else
	{
		list = list_concat_copy(step->from->exit, step->to->entry);
		faults = crm_stage_fault(faults, "transition", NULL, NULL,
								 psprintf("No transition leads from stage \"%s\" to \"%s\".",
										  step->from->name, step->to->name),
								 NULL);
	}
	faults = crm_stage_required_faults(faults, step);
	return crm_stage_rule_faults(faults, use, step, list);
}

/*
 * The faults of a step, NIL if it is allowed.  Functions in expressions may do
 * anything, even replace these rules: that is what the use is for.
 */
static List *
crm_stage_judge(StageUse *use, StageStep *step)
{
	StageMove *move = step->from ? crm_stage_find_move(step->from, step->to) : NULL;

	if (step->from ? move != NULL : step->to->is_initial)
	{
		if (crm_stage_required_filled(step) &&
			crm_stage_rules_met(use, step, move ? move->rules : step->to->entry))
			return NIL;
	}
	return crm_stage_faults(use, step, move);
}

/* ---------------------------------------------------------------------
 * Reporting
 * ---------------------------------------------------------------------
 */

static char *
crm_stage_moves_hint(Stage *from)
{
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	foreach (lc, from->moves)
	{
		StageMove *move = lfirst(lc);

		if (move->to->pipeline == from->pipeline)
			crm_stage_add_name(&buf, move->to->name);
		else
			appendStringInfo(&buf, "%s\"%s\" of pipeline \"%s\"", buf.len > 0 ? ", " : "",
							 move->to->name, move->to->pipeline->name);
	}
	if (buf.len == 0)
		return psprintf("No move leads out of stage \"%s\".", from->name);
	return psprintf("Moves allowed from stage \"%s\": %s.", from->name, buf.data);
}

static char *
crm_stage_headline(StageRules *rules, StageStep *step)
{
	char *record = crm_stage_record(rules, step->new_slot);

	if (step->from == NULL)
		return psprintf("%s cannot start in stage \"%s\"", record, step->to->name);
	if (step->from->pipeline == step->to->pipeline)
		return psprintf("%s cannot move from stage \"%s\" to \"%s\"", record, step->from->name,
						step->to->name);
	return psprintf(
		"%s cannot move from stage \"%s\" of pipeline \"%s\" to \"%s\" of pipeline \"%s\"", record,
		step->from->name, step->from->pipeline->name, step->to->name, step->to->pipeline->name);
}

/* One error for all faults. */
CRM_NORETURN static void
crm_stage_refuse(StageRules *rules, Relation rel, StageStep *step, List *faults)
{
	StringInfoData detail;
	StringInfoData hint;
	const char *constraint = NULL;
	ListCell *lc;

	initStringInfo(&detail);
	initStringInfo(&hint);
	foreach (lc, faults)
	{
		StageFault *fault = lfirst(lc);

		appendStringInfo(&detail, "%s%s", detail.len > 0 ? "\n" : "", fault->message);
		if (fault->hint != NULL)
			appendStringInfo(&hint, "%s%s", hint.len > 0 ? "\n" : "", fault->hint);
		if (constraint == NULL)
			constraint = fault->rule;
		if (strcmp(fault->type, "start") == 0)
			appendStringInfo(&hint, "%sInitial stages of pipeline \"%s\": %s.",
							 hint.len > 0 ? "\n" : "", step->to->pipeline->name,
							 crm_stage_names(step->to->pipeline, true));
		if (strcmp(fault->type, "transition") == 0)
			appendStringInfo(&hint, "%s%s", hint.len > 0 ? "\n" : "",
							 crm_stage_moves_hint(step->from));
	}

	ereport(ERROR,
			(errcode(ERRCODE_CRM_STAGE_MOVE),
			 errmsg_internal("%s", crm_stage_headline(rules, step)),
			 errdetail_internal("%s", detail.data),
			 hint.len > 0 ? errhint("%s", hint.data)
						  : errhint("Correct this in the same statement that moves the record."),
			 errtablecol(rel, rules->stage_att),
			 constraint ? err_generic_string(PG_DIAG_CONSTRAINT_NAME, constraint) : 0));
}

/* ---------------------------------------------------------------------
 * The guard
 * ---------------------------------------------------------------------
 */

/* Changes to a row that the guard makes itself. */
typedef struct StageChanges
{
	int n;
	int atts[3];
	Datum values[3];
	bool nulls[3];
} StageChanges;

static void
crm_stage_set(StageChanges *changes, AttrNumber att, Datum value, bool isnull)
{
	changes->atts[changes->n] = att;
	changes->values[changes->n] = value;
	changes->nulls[changes->n] = isnull;
	changes->n++;
}

/* Through the type's input function: a varchar(n) or a domain has its say. */
static void
crm_stage_set_text(StageRules *rules, StageChanges *changes, AttrNumber att, const char *value)
{
	Form_pg_attribute attr = TupleDescAttr(rules->tupdesc, att - 1);
	Oid input;
	Oid ioparam;

	getTypeInputInfo(attr->atttypid, &input, &ioparam);
	crm_stage_set(changes, att,
				  OidInputFunctionCall(input, pstrdup(value), ioparam, attr->atttypmod), false);
}

static Datum
crm_stage_time(StageRules *rules, Relation rel)
{
	Form_pg_attribute attr = TupleDescAttr(rules->tupdesc, rules->closed_at_att - 1);
	Datum now = TimestampTzGetDatum(crm_now());

	switch (getBaseType(attr->atttypid))
	{
		case TIMESTAMPTZOID:
			return now;
		case TIMESTAMPOID:
			return DirectFunctionCall1(timestamptz_timestamp, now);
		case DATEOID:
			return DirectFunctionCall1(timestamptz_date, now);
		default:
			ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
							errmsg("column \"%s\" of table \"%s\" cannot hold a closing time",
								   NameStr(attr->attname), RelationGetRelationName(rel)),
							errdetail("It is of type %s, not timestamp or date.",
									  format_type_be(attr->atttypid))));
	}
}

/*
 * Entering a won or lost stage stamps the closing time, unless the statement gives
 * one; leaving for an open stage clears it.
 */
static void
crm_stage_stamp(StageRules *rules, Relation rel, StageStep *step, StageChanges *changes)
{
	AttrNumber att = rules->closed_at_att;
	Datum new_value, old_value = (Datum) 0;
	bool new_null, old_null = true;
	Form_pg_attribute attr;

	if (att == InvalidAttrNumber)
		return;
	new_value = slot_getattr(step->new_slot, att, &new_null);
	if (step->to->type == STAGE_OPEN)
	{
		if (step->from != NULL && step->from->type != STAGE_OPEN && !new_null)
			crm_stage_set(changes, att, (Datum) 0, true);
		return;
	}
	if (step->old_slot != NULL)
		old_value = slot_getattr(step->old_slot, att, &old_null);
	attr = TupleDescAttr(rules->tupdesc, att - 1);
	if (new_null || (!old_null && datumIsEqual(old_value, new_value, attr->attbyval, attr->attlen)))
		crm_stage_set(changes, att, crm_stage_time(rules, rel), false);
}

/* Fills in the pipeline and stage that a row leaves out, and says what they are. */
static void
crm_stage_resolve(StageRules *rules, Relation rel, StageStep *step, StageChanges *changes)
{
	StagePipeline *pipeline = crm_stage_row_pipeline(rules, rel, step->new_slot);
	bool isnull;
	ListCell *lc;

	if (rules->pipeline_att != InvalidAttrNumber)
	{
		(void) slot_getattr(step->new_slot, rules->pipeline_att, &isnull);
		if (isnull)
			crm_stage_set_text(rules, changes, rules->pipeline_att, pipeline->name);
	}
	(void) slot_getattr(step->new_slot, rules->stage_att, &isnull);
	if (step->old_slot != NULL || !isnull)
	{
		step->to = crm_stage_row_stage(rules, rel, step->new_slot, pipeline);
		return;
	}
	foreach (lc, pipeline->stages)
	{
		Stage *stage = lfirst(lc);

		if (stage->is_initial)
		{
			step->to = stage;
			crm_stage_set_text(rules, changes, rules->stage_att, stage->name);
			return;
		}
	}
	ereport(ERROR, (errcode(ERRCODE_CRM_STAGE_MOVE),
					errmsg("pipeline \"%s\" has no initial stage", pipeline->name),
					errhint("Set is_initial for the stage where records start."),
					errtablecol(rel, rules->stage_att)));
}

/*
 * An UPDATE that takes a row to another partition fires BEFORE UPDATE on the one,
 * then BEFORE INSERT on the other: no new record.  This remembers the last row that
 * an UPDATE let through.
 */
static struct
{
	CommandId command;
	SubTransactionId subxact;
	uint64 row;
} stage_last_update;

static uint64
crm_stage_hash_column(TupleTableSlot *slot, AttrNumber att, uint64 seed)
{
	Form_pg_attribute attr;
	bool isnull;
	Datum value;

	if (att == InvalidAttrNumber)
		return seed;
	value = slot_getattr(slot, att, &isnull);
	if (isnull)
		return seed + 1;
	attr = TupleDescAttr(slot->tts_tupleDescriptor, att - 1);
	if (attr->attlen == -1)
	{
		struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);

		return hash_bytes_extended((const unsigned char *) VARDATA_ANY(bytes),
								   (int) VARSIZE_ANY_EXHDR(bytes), seed);
	}
	if (attr->attbyval)
		return hash_bytes_extended((const unsigned char *) &value, sizeof(value), seed);
	return hash_bytes_extended(
		(const unsigned char *) DatumGetPointer(value),
		attr->attlen > 0 ? attr->attlen : (int) strlen(DatumGetCString(value)), seed);
}

static uint64
crm_stage_row_hash(StageRules *rules, TupleTableSlot *slot)
{
	uint64 hash = hash_bytes_extended((const unsigned char *) rules->kind,
									  (int) strlen(rules->kind), rules->workspace);

	hash = crm_stage_hash_column(slot, rules->id_att, hash);
	hash = crm_stage_hash_column(slot, rules->pipeline_att, hash);
	return crm_stage_hash_column(slot, rules->stage_att, hash);
}

static void
crm_stage_remember_update(StageRules *rules, TupleTableSlot *slot)
{
	stage_last_update.command = GetCurrentCommandId(false);
	stage_last_update.subxact = GetCurrentSubTransactionId();
	stage_last_update.row = crm_stage_row_hash(rules, slot);
}

static bool
crm_stage_is_updated_row(StageRules *rules, TupleTableSlot *slot)
{
	return rules->is_partition && stage_last_update.subxact == GetCurrentSubTransactionId() &&
		   stage_last_update.command == GetCurrentCommandId(false) &&
		   stage_last_update.row == crm_stage_row_hash(rules, slot);
}

/* A row in a new place: completes it and judges it. */
static HeapTuple
crm_stage_move(StageUse *use, HeapTuple tuple, StageStep *step)
{
	StageRules *rules = use->rules;
	Relation rel = use->rel;
	bool update = step->old_slot != NULL;
	TupleTableSlot *changed = NULL;
	StageChanges changes = {0};

	if (update)
		step->from = crm_stage_known_stage(rules, step->old_slot);
	crm_stage_resolve(rules, rel, step, &changes);
	if (step->from == step->to)
		return tuple;
	crm_stage_stamp(rules, rel, step, &changes);

	/* The rules judge the row as it will be. */
	if (changes.n > 0)
	{
		tuple = heap_modify_tuple_by_cols(tuple, RelationGetDescr(rel), changes.n, changes.atts,
										  changes.values, changes.nulls);
		changed = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
		step->new_slot = ExecStoreHeapTuple(tuple, changed, false);
	}
	if (update || !rules->checks_inserts)
	{
		List *faults = crm_stage_judge(use, step);

		if (faults != NIL)
			crm_stage_refuse(rules, rel, step, faults);
	}
	if (update && rules->is_partition)
		crm_stage_remember_update(rules, step->new_slot);
	if (changed != NULL)
		ExecDropSingleTupleTableSlot(changed);
	return tuple;
}

static HeapTuple
crm_stage_before(StageRules *rules, TriggerData *trigdata)
{
	bool update = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event);
	HeapTuple tuple = update ? trigdata->tg_newtuple : trigdata->tg_trigtuple;
	StageStep step = {0};
	StageUse use;

	step.old_slot = update ? trigdata->tg_trigslot : NULL;
	step.new_slot = update ? trigdata->tg_newslot : trigdata->tg_trigslot;

	if (update)
	{
		if (crm_stage_same(step.old_slot, step.new_slot, rules->stage_att) &&
			crm_stage_same(step.old_slot, step.new_slot, rules->pipeline_att))
		{
			if (rules->is_partition)
				crm_stage_remember_update(rules, step.new_slot);
			return tuple;
		}
		if (crm_stage_is_rename(rules, step.old_slot, step.new_slot))
			return tuple;
	}
	else if (crm_stage_is_updated_row(rules, step.new_slot))
		return tuple;

	crm_stage_begin(&use, rules, trigdata->tg_relation);
	tuple = crm_stage_move(&use, tuple, &step);
	crm_stage_end(&use);
	return tuple;
}

static void
crm_stage_after_insert(StageRules *rules, TriggerData *trigdata)
{
	Relation rel = trigdata->tg_relation;
	StageStep step = {0};
	StageUse use;
	List *faults;

	if (!rules->checks_inserts)
		return;
	step.new_slot = trigdata->tg_trigslot;
	crm_stage_begin(&use, rules, rel);
	step.to = crm_stage_row_stage(rules, rel, step.new_slot,
								  crm_stage_row_pipeline(rules, rel, step.new_slot));
	faults = crm_stage_judge(&use, &step);
	if (faults != NIL)
		crm_stage_refuse(rules, rel, &step, faults);
	crm_stage_end(&use);
}

/* The guard trigger of the relation for a kind, NULL if there is none. */
static Trigger *
crm_stage_guard_trigger(Relation rel, const char *kind)
{
	if (rel->trigdesc == NULL)
		return NULL;
	for (int i = 0; i < rel->trigdesc->numtriggers; i++)
	{
		Trigger *t = &rel->trigdesc->triggers[i];

		if (TRIGGER_FOR_ROW(t->tgtype) && TRIGGER_FOR_BEFORE(t->tgtype) && t->tgnargs > 0 &&
			strcmp(t->tgargs[0], kind) == 0 && crm_is_stage_guard(t->tgfoid))
			return t;
	}
	return NULL;
}

/*
 * The rules for the table of a trigger.  The trigger's FmgrInfo, which lives for one
 * query, keeps the entry, so that only the first row looks it up.  All stage triggers
 * of a table and kind share the entry of its BEFORE trigger.
 */
StageRules *
crm_stage_rules_of_call(FunctionCallInfo fcinfo, TriggerData *trigdata)
{
	StageEntry *entry = fcinfo->flinfo->fn_extra;
	StageRules *rules = entry ? crm_stage_current_rules(entry) : NULL;

	if (unlikely(rules == NULL))
	{
		Trigger *trigger = trigdata->tg_trigger;

		if (!TRIGGER_FIRED_BEFORE(trigdata->tg_event) && trigger->tgnargs > 0)
		{
			Trigger *guard = crm_stage_guard_trigger(trigdata->tg_relation, trigger->tgargs[0]);

			if (guard != NULL)
				trigger = guard;
		}
		entry = crm_stage_entry(trigdata->tg_relation, trigger);
		fcinfo->flinfo->fn_extra = entry;
		rules = crm_stage_current_rules(entry);
		if (rules == NULL)
			rules = crm_stage_compile(entry, trigdata->tg_relation, trigger);
	}
	return rules;
}

TriggerData *
crm_stage_trigger(FunctionCallInfo fcinfo, const char *name)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("crm.%s() must be called as a trigger", name)));
	if (!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) ||
		!(TRIGGER_FIRED_BY_INSERT(trigdata->tg_event) ||
		  TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("crm.%s() must be fired for each row by INSERT or UPDATE", name),
				 errhint("Use SELECT crm.guard_stages(table, kind) to create the trigger.")));
	return trigdata;
}

PG_FUNCTION_INFO_V1(crm_stage_guard);
Datum
crm_stage_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = crm_stage_trigger(fcinfo, "stage_guard");
	StageRules *rules = crm_stage_rules_of_call(fcinfo, trigdata);

	if (TRIGGER_FIRED_BEFORE(trigdata->tg_event))
		return PointerGetDatum(crm_stage_before(rules, trigdata));
	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		crm_stage_after_insert(rules, trigdata);
	return PointerGetDatum(NULL);
}

/* ---------------------------------------------------------------------
 * Asking
 * ---------------------------------------------------------------------
 */

typedef struct StageGuarded
{
	Oid relid;
	char *kind;
} StageGuarded;

/* The tables of a workspace's guards, partitions left out. */
static List *
crm_stage_guarded(Oid workspace)
{
	Relation pg_trigger = table_open(TriggerRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(pg_trigger, InvalidOid, false, NULL, 0, NULL);
	List *guarded = NIL;
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger t = (Form_pg_trigger) GETSTRUCT(tuple);
		StageGuarded *item;
		bool isnull;
		struct varlena *bytes;
		char *p;
		char **args;

		CHECK_FOR_INTERRUPTS();
		if (t->tgisinternal || OidIsValid(t->tgparentid) || t->tgnargs < 1 ||
			!TRIGGER_FOR_BEFORE(t->tgtype) || !crm_is_stage_guard(t->tgfoid))
			continue;
		bytes = PG_DETOAST_DATUM(
			heap_getattr(tuple, Anum_pg_trigger_tgargs, RelationGetDescr(pg_trigger), &isnull));
		args = palloc(sizeof(char *) * t->tgnargs);
		p = VARDATA(bytes);
		for (int i = 0; i < t->tgnargs; i++)
		{
			args[i] = p;
			p += strlen(p) + 1;
		}
		if (crm_stage_workspace(get_rel_namespace(t->tgrelid), t->tgnargs, args) != workspace)
			continue;
		item = palloc(sizeof(StageGuarded));
		item->relid = t->tgrelid;
		item->kind = pstrdup(args[0]);
		guarded = lappend(guarded, item);
	}
	systable_endscan(scan);
	table_close(pg_trigger, AccessShareLock);
	return guarded;
}

PG_FUNCTION_INFO_V1(crm_guarded_tables);
Datum
crm_guarded_tables(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell *lc;

	crm_check_workspace(PG_GETARG_OID(0));
	InitMaterializedSRF(fcinfo, 0);
	foreach (lc, crm_stage_guarded(PG_GETARG_OID(0)))
	{
		StageGuarded *item = lfirst(lc);
		Datum values[2] = {ObjectIdGetDatum(item->relid), CStringGetTextDatum(item->kind)};
		bool nulls[2] = {false, false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* The workspace's own table of that name first, then any other of the kind. */
static Oid
crm_stage_table_of_kind(Oid workspace, const char *kind)
{
	List *guarded = crm_stage_guarded(workspace);
	Oid found = InvalidOid;
	ListCell *lc;

	foreach (lc, guarded)
	{
		StageGuarded *item = lfirst(lc);

		if (strcmp(item->kind, kind) != 0)
			continue;
		if (!OidIsValid(found) || get_rel_namespace(item->relid) == workspace)
			found = item->relid;
	}
	if (!OidIsValid(found))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("no table of workspace \"%s\" is guarded for records of kind \"%s\"",
							   get_namespace_name(workspace), crm_stage_shown(kind)),
						errhint("SELECT * FROM crm.guarded_tables('%s') lists them.",
								get_namespace_name(workspace))));
	return found;
}

/* Reads a row as the caller; the whole row, so that attribute numbers are the table's. */
static HeapTuple
crm_stage_fetch(StageRules *rules, Relation rel, int64 id)
{
	MemoryContext context = CurrentMemoryContext;
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(id)};
	HeapTuple result = NULL;

	if (rules->id_att == InvalidAttrNumber)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("table \"%s\" has no id by which to find a record",
							   RelationGetRelationName(rel))));
	SPI_connect();
	if (SPI_execute_with_args(
			psprintf("SELECT t FROM %s AS t WHERE t.%s OPERATOR(pg_catalog.=) $1",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
												RelationGetRelationName(rel)),
					 quote_identifier(get_attname(RelationGetRelid(rel), rules->id_att, false))),
			1, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read a record");
	if (SPI_processed == 1)
	{
		bool isnull;
		HeapTupleHeader row = DatumGetHeapTupleHeader(
			SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		HeapTupleData tuple;
		MemoryContext old = MemoryContextSwitchTo(context);

		tuple.t_len = HeapTupleHeaderGetDatumLength(row);
		ItemPointerSetInvalid(&tuple.t_self);
		tuple.t_tableOid = RelationGetRelid(rel);
		tuple.t_data = row;
		result = heap_copytuple(&tuple);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return result;
}

static void
crm_stage_add_json(StringInfo buf, const char *key, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfo(buf, "%s\"%s\": ", buf->data[buf->len - 1] == '{' ? "" : ", ", key);
	escape_json(buf, value);
}

static Datum
crm_stage_faults_json(List *faults)
{
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '[');
	foreach (lc, faults)
	{
		StageFault *fault = lfirst(lc);

		appendStringInfo(&buf, "%s{", buf.len > 1 ? ", " : "");
		crm_stage_add_json(&buf, "type", fault->type);
		crm_stage_add_json(&buf, "rule", fault->rule);
		crm_stage_add_json(&buf, "field", fault->field);
		crm_stage_add_json(&buf, "message", fault->message);
		crm_stage_add_json(&buf, "hint", fault->hint);
		appendStringInfoChar(&buf, '}');
	}
	appendStringInfoChar(&buf, ']');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data));
}

/* Judges one move of a record as an UPDATE of its stage alone would be. */
static List *
crm_stage_try_move(StageUse *use, HeapTuple tuple, TupleTableSlot *old_slot, Stage *from, Stage *to)
{
	StageRules *rules = use->rules;
	Relation rel = use->rel;
	StageStep step = {from, to, old_slot, old_slot};
	StageChanges changes = {0};
	List *faults;

	crm_stage_stamp(rules, rel, &step, &changes);
	crm_stage_set_text(rules, &changes, rules->stage_att, to->name);
	tuple = heap_modify_tuple_by_cols(tuple, RelationGetDescr(rel), changes.n, changes.atts,
									  changes.values, changes.nulls);
	step.new_slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
	ExecStoreHeapTuple(tuple, step.new_slot, false);
	faults = crm_stage_judge(use, &step);
	ExecDropSingleTupleTableSlot(step.new_slot);
	return faults;
}

static void
crm_stage_list_moves(ReturnSetInfo *rsinfo, StageUse *use, HeapTuple tuple)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(use->rel), &TTSOpsHeapTuple);
	Stage *from;
	ListCell *lc;

	ExecStoreHeapTuple(tuple, slot, false);
	from = crm_stage_known_stage(use->rules, slot);
	foreach (lc, from ? from->moves : NIL)
	{
		StageMove *move = lfirst(lc);
		List *faults;
		Datum values[3];
		bool nulls[3] = {false, false, false};

		if (move->to->pipeline != from->pipeline)
			continue;
		faults = crm_stage_try_move(use, tuple, slot, from, move->to);
		values[0] = CStringGetTextDatum(move->to->name);
		values[1] = BoolGetDatum(faults == NIL);
		values[2] = crm_stage_faults_json(faults);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	ExecDropSingleTupleTableSlot(slot);
}

PG_FUNCTION_INFO_V1(crm_next_stages);
Datum
crm_next_stages(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid workspace = PG_GETARG_OID(0);
	char *kind = text_to_cstring(PG_GETARG_TEXT_PP(1));
	Relation rel;
	Trigger *trigger;
	StageEntry *entry;
	StageRules *rules;
	StageUse use;
	HeapTuple tuple;

	crm_check_workspace(workspace);
	InitMaterializedSRF(fcinfo, 0);
	rel = table_open(crm_stage_table_of_kind(workspace, kind), AccessShareLock);
	trigger = crm_stage_guard_trigger(rel, kind);
	if (trigger == NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
						errmsg("the stage guard of table \"%s\" is being changed",
							   RelationGetRelationName(rel))));
	entry = crm_stage_entry(rel, trigger);
	rules = crm_stage_current_rules(entry);
	if (rules == NULL)
		rules = crm_stage_compile(entry, rel, trigger);

	crm_stage_begin(&use, rules, rel);
	tuple = crm_stage_fetch(rules, rel, PG_GETARG_INT64(2));
	if (tuple != NULL)
		crm_stage_list_moves(rsinfo, &use, tuple);
	crm_stage_end(&use);
	table_close(rel, AccessShareLock);
	return (Datum) 0;
}
