/*
 * stage_rules.c
 *		Reading, compiling and keeping the stage rules of guarded tables.
 *
 * Each session keeps, for every table it has moved records in, the rules of that
 * table's kind: pipelines, stages, transitions, and the expressions among them,
 * parsed as PostgreSQL parses the WHEN clause of a trigger.  They are good until
 * something they were made of changes:
 *
 *	- a row of pipeline, stage, stage_transition or stage_rule: the trigger
 *	  crm.stage_changed() sends a relcache invalidation of its own table, which
 *	  PostgreSQL delivers at commit to other sessions, at once to the session
 *	  itself, and takes back from itself at rollback;
 *	- the guarded table or the history, their triggers or columns: relcache;
 *	- a function or type that an expression uses: syscache, by hash value, as for
 *	  cached plans; operators and schemas: syscache, whichever they are.
 *
 * Rules are read with the latest snapshot, like a catalog: a session in a long
 * REPEATABLE READ transaction must not keep, beyond that transaction, rules that
 * were current when it began.
 *
 * Memory: an entry lives in the session's hash table.  The rules live in a context
 * of their own below CacheMemoryContext, replaced as a whole; each expression is
 * parsed when it is first needed and compiled in a context below that.  A rule's
 * function may itself move records of the same table or change rules, so rules that
 * were replaced while in use are retired, and freed once they no longer are.
 *
 * Whether rules are in use is read off the stack of error contexts, where each user
 * has an entry (StageUse): whatever catches an error also takes back that stack, so
 * there is nothing to clean up after one.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "nodes/plannodes.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "crm.h"
#include "expression.h"
#include "invalidation.h"
#include "stage.h"
#include "workspace.h"

typedef struct StageKey
{
	Oid relid;
	uint32 args_low;
	uint32 args_high;
} StageKey;

/* The tables of the workspace that an entry depends on. */
static const char *const rule_tables[] = {"pipeline", "stage", "stage_transition", "stage_rule",
										  "stage_history"};

struct StageEntry
{
	StageKey key;
	bool valid;
	uint64 invalidations;
	StageRules *rules;
	Oid rule_tables[lengthof(rule_tables)];
};

static HTAB *stage_entries = NULL;
static StageRules *stage_retired = NULL;
static uint64 stage_rebuilds = 0;

/* ---------------------------------------------------------------------
 * Invalidation
 * ---------------------------------------------------------------------
 */

static void
crm_stage_invalidate(StageEntry *entry)
{
	entry->valid = false;
	entry->invalidations++;
}

static void
crm_stage_relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	StageEntry *entry;

	hash_seq_init(&seq, stage_entries);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		bool hit = !OidIsValid(relid) || entry->key.relid == relid;

		for (int i = 0; !hit && i < lengthof(rule_tables); i++)
			hit = entry->rule_tables[i] == relid;
		if (hit)
			crm_stage_invalidate(entry);
	}
}

/* Does a rule depend on the object?  One that is being compiled may depend on anything. */
static bool
crm_stage_rule_depends(StageRule *rule, int cacheid, uint32 hashvalue)
{
	ListCell *lc;

	if (rule == NULL)
		return false;
	if (rule->compiling)
		return true;
	foreach (lc, rule->named)
	{
		PlanInvalItem *item = lfirst_node(PlanInvalItem, lc);

		if (item->cacheId == cacheid && (hashvalue == 0 || item->hashValue == hashvalue))
			return true;
	}
	foreach (lc, rule->functions)
	{
		PlanInvalItem *item = lfirst_node(PlanInvalItem, lc);

		if (item->cacheId == cacheid && (hashvalue == 0 || item->hashValue == hashvalue))
			return true;
	}
	return false;
}

static bool
crm_stage_rules_depend(StageRules *rules, int cacheid, uint32 hashvalue)
{
	ListCell *p, *s, *r;

	foreach (p, rules->pipelines)
	{
		foreach (s, ((StagePipeline *) lfirst(p))->stages)
		{
			Stage *stage = lfirst(s);

			foreach (r, stage->entry)
				if (crm_stage_rule_depends(lfirst(r), cacheid, hashvalue))
					return true;
			foreach (r, stage->exit)
				if (crm_stage_rule_depends(lfirst(r), cacheid, hashvalue))
					return true;
			foreach (r, stage->moves)
				if (crm_stage_rule_depends(((StageMove *) lfirst(r))->guard, cacheid, hashvalue))
					return true;
		}
	}
	return false;
}

static void
crm_stage_object_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS seq;
	StageEntry *entry;

	hash_seq_init(&seq, stage_entries);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		if (entry->valid && crm_stage_rules_depend(entry->rules, cacheid, hashvalue))
			crm_stage_invalidate(entry);
	}
}

static void
crm_stage_any_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	crm_stage_relcache_callback(arg, InvalidOid);
}

static void
crm_stage_init_cache(void)
{
	HASHCTL ctl;
	MemoryContext context =
		AllocSetContextCreate(CacheMemoryContext, "crm stage entries", ALLOCSET_SMALL_SIZES);

	ctl.keysize = sizeof(StageKey);
	ctl.entrysize = sizeof(StageEntry);
	ctl.hcxt = context;
	stage_entries =
		hash_create("crm stage entries", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	crm_register_relcache_callback(crm_stage_relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, crm_stage_object_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, crm_stage_object_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, crm_stage_any_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, crm_stage_any_callback, (Datum) 0);
}

/* How often this session compiled rules; for tests. */
PG_FUNCTION_INFO_V1(crm_stage_rebuilds);
Datum
crm_stage_rebuilds(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) stage_rebuilds);
}

/* ---------------------------------------------------------------------
 * The arguments of a trigger
 * ---------------------------------------------------------------------
 */

const char *
crm_stage_option(int nargs, char **args, const char *name, const char *fallback)
{
	size_t len = strlen(name);

	for (int i = 1; i < nargs; i++)
	{
		if (strncmp(args[i], name, len) == 0 && args[i][len] == '=')
			return args[i] + len + 1;
	}
	return fallback;
}

Oid
crm_stage_workspace(Oid table_schema, int nargs, char **args)
{
	const char *name = crm_stage_option(nargs, args, "workspace", NULL);

	return name ? get_namespace_oid(name, true) : table_schema;
}

bool
crm_is_stage_guard(Oid function)
{
	char *name = get_func_name(function);

	return name != NULL && strcmp(name, "stage_guard") == 0 &&
		   get_func_namespace(function) == get_namespace_oid("crm", true);
}

static void
crm_stage_check_arguments(Relation rel, Trigger *trigger)
{
	static const char *const options[] = {"stage", "pipeline", "id", "closed_at", "workspace"};

	if (trigger->tgnargs < 1 || trigger->tgargs[0][0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\" on table \"%s\" does not name the kind of its records",
						trigger->tgname, RelationGetRelationName(rel)),
				 errhint("Use SELECT crm.guard_stages(table, kind) to create it.")));

	for (int i = 1; i < trigger->tgnargs; i++)
	{
		bool known = false;

		for (int j = 0; !known && j < lengthof(options); j++)
		{
			size_t len = strlen(options[j]);

			known =
				strncmp(trigger->tgargs[i], options[j], len) == 0 && trigger->tgargs[i][len] == '=';
		}
		if (!known)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unrecognized argument \"%s\" of trigger \"%s\" on table \"%s\"",
							trigger->tgargs[i], trigger->tgname, RelationGetRelationName(rel)),
					 errhint("Options are stage, pipeline, id, closed_at and workspace, each as "
							 "option=value.")));
	}
}

static AttrNumber
crm_stage_column(Relation rel, Trigger *trigger, const char *option, const char *fallback,
				 bool optional)
{
	const char *name = crm_stage_option(trigger->tgnargs, trigger->tgargs, option, NULL);
	AttrNumber att;

	if (name == NULL)
	{
		name = fallback;
		if (optional && get_attnum(RelationGetRelid(rel), name) <= 0)
			return InvalidAttrNumber;
	}
	else if (optional && name[0] == '\0')
		return InvalidAttrNumber;

	att = get_attnum(RelationGetRelid(rel), name);
	if (att <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of table \"%s\" does not exist", name,
						RelationGetRelationName(rel)),
				 errdetail("Trigger \"%s\" takes it for the record's %s.", trigger->tgname, option),
				 errhint("Run crm.guard_stages() again with the columns the table has now.")));
	return att;
}

static void
crm_stage_check_text(Relation rel, AttrNumber att)
{
	Form_pg_attribute attr;
	Oid base;

	if (att == InvalidAttrNumber)
		return;
	attr = TupleDescAttr(RelationGetDescr(rel), att - 1);
	base = getBaseType(attr->atttypid);
	if (base != TEXTOID && base != VARCHAROID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of table \"%s\" must be of type text to hold a stage or "
						"pipeline",
						NameStr(attr->attname), RelationGetRelationName(rel)),
				 errdetail("It is of type %s.", format_type_be(attr->atttypid))));
}

/* ---------------------------------------------------------------------
 * Parsing an expression
 * ---------------------------------------------------------------------
 */

/* Parses as the owner of the workspace; an error leaves it to the transaction to take that back. */
static Node *
crm_stage_parse_as_owner(Oid workspace, Relation rel, const char *text)
{
	Node *expr;
	Oid user;
	int sec_context;
	int nest;

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(crm_workspace_owner(workspace), sec_context |
															   SECURITY_LOCAL_USERID_CHANGE |
															   SECURITY_RESTRICTED_OPERATION);
	nest = crm_expression_search_path(workspace);
	expr = crm_expression_parse(rel, text, "stage rule");
	AtEOXact_GUC(true, nest);
	SetUserIdAndSecContext(user, sec_context);
	return expr;
}

PG_FUNCTION_INFO_V1(crm_check_stage_expression);
Datum
crm_check_stage_expression(PG_FUNCTION_ARGS)
{
	Relation rel = NULL;

	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	crm_check_workspace(PG_GETARG_OID(1));
	if (!PG_ARGISNULL(0))
		rel = crm_table_open(PG_GETARG_OID(0), AccessShareLock);
	(void) crm_stage_parse_as_owner(PG_GETARG_OID(1), rel, text_to_cstring(PG_GETARG_TEXT_PP(2)));
	if (rel != NULL)
		relation_close(rel, NoLock);
	PG_RETURN_VOID();
}

/* A field a stage can require: a column whose value a BEFORE trigger can see. */
PG_FUNCTION_INFO_V1(crm_check_stage_field);
Datum
crm_check_stage_field(PG_FUNCTION_ARGS)
{
	Relation rel = crm_table_open(PG_GETARG_OID(0), AccessShareLock);
	char *field = text_to_cstring(PG_GETARG_TEXT_PP(1));
	AttrNumber att = get_attnum(RelationGetRelid(rel), field);

	if (att <= 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("column \"%s\" of relation \"%s\" does not exist", field,
							   RelationGetRelationName(rel))));
	if (TupleDescAttr(RelationGetDescr(rel), att - 1)->attgenerated != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_DEFINITION),
				 errmsg("column \"%s\" of relation \"%s\" is generated and cannot be required",
						field, RelationGetRelationName(rel))));
	relation_close(rel, AccessShareLock);
	PG_RETURN_VOID();
}

/* ---------------------------------------------------------------------
 * Reading the rules
 * ---------------------------------------------------------------------
 */

static inline bool
crm_stage_is_name(const char *known, const char *name, size_t len)
{
	return strncmp(known, name, len) == 0 && known[len] == '\0';
}

StagePipeline *
crm_stage_find_pipeline(StageRules *rules, const char *name, size_t len)
{
	ListCell *lc;

	foreach (lc, rules->pipelines)
	{
		StagePipeline *pipeline = lfirst(lc);

		if (crm_stage_is_name(pipeline->name, name, len))
			return pipeline;
	}
	return NULL;
}

StagePipeline *
crm_stage_default_pipeline(StageRules *rules)
{
	ListCell *lc;

	foreach (lc, rules->pipelines)
	{
		StagePipeline *pipeline = lfirst(lc);

		if (pipeline->is_default)
			return pipeline;
	}
	return NULL;
}

Stage *
crm_stage_find(StagePipeline *pipeline, const char *name, size_t len)
{
	ListCell *lc;

	foreach (lc, pipeline->stages)
	{
		Stage *stage = lfirst(lc);

		if (crm_stage_is_name(stage->name, name, len))
			return stage;
	}
	return NULL;
}

static char *
crm_stage_value(StageRules *rules, uint64 row, int column)
{
	char *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return value ? MemoryContextStrdup(rules->context, value) : NULL;
}

static bool
crm_stage_flag(uint64 row, int column)
{
	bool isnull;
	Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);

	return !isnull && DatumGetBool(value);
}

/* Runs a query over the rule tables with the snapshot all four share. */
static void
crm_stage_query(StageRules *rules, Snapshot snapshot, const char *query)
{
	Oid argtypes[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(rules->kind)};
	const char *schema = quote_identifier(get_namespace_name(rules->workspace));
	StringInfoData sql;
	SPIPlanPtr plan;

	/* "%" stands for the schema in these queries */
	initStringInfo(&sql);
	for (; *query; query++)
	{
		if (*query == '%')
			appendStringInfoString(&sql, schema);
		else
			appendStringInfoChar(&sql, *query);
	}
	plan = SPI_prepare(sql.data, 1, argtypes);
	if (plan == NULL)
		elog(ERROR, "could not prepare query over stage rules: %s",
			 SPI_result_code_string(SPI_result));
	if (SPI_execute_snapshot(plan, values, NULL, snapshot, InvalidSnapshot, true, false, 0) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not read stage rules");
}

static StageRule *
crm_stage_new_rule(StageRules *rules, StageRuleKind kind, Stage *stage, uint64 row, int name,
				   int source)
{
	StageRule *rule = MemoryContextAllocZero(rules->context, sizeof(StageRule));

	rule->kind = kind;
	rule->stage = stage;
	rule->name = name ? crm_stage_value(rules, row, name) : NULL;
	rule->source = crm_stage_value(rules, row, source);
	rule->message = crm_stage_value(rules, row, source + 1);
	rule->hint = crm_stage_value(rules, row, source + 2);
	return rule;
}

/* The rules are built in their context; what only reading needs goes with SPI. */
#define crm_stage_append(rules, list, item)                           \
	do                                                                \
	{                                                                 \
		MemoryContext old_ = MemoryContextSwitchTo((rules)->context); \
		(list) = lappend((list), (item));                             \
		MemoryContextSwitchTo(old_);                                  \
	} while (0)

static void
crm_stage_read_fields(StageRules *rules, Relation rel, Stage *stage, uint64 row, int column)
{
	bool isnull;
	Datum array = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);
	Datum *names;
	bool *nulls;
	int n;

	if (isnull)
		return;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls,
					  &n);
	for (int i = 0; i < n; i++)
	{
		StageField *field;
		char *name;

		if (nulls[i])
			continue;
		name = TextDatumGetCString(names[i]);
		field = MemoryContextAllocZero(rules->context, sizeof(StageField));
		field->name = MemoryContextStrdup(rules->context, name);
		field->attnum = get_attnum(RelationGetRelid(rel), name);
		if (field->attnum < 0)
			field->attnum = InvalidAttrNumber;
		if (field->attnum > 0)
		{
			Oid base =
				getBaseType(TupleDescAttr(RelationGetDescr(rel), field->attnum - 1)->atttypid);

			field->is_text = base == TEXTOID || base == VARCHAROID || base == BPCHAROID;
		}
		crm_stage_append(rules, stage->required, field);
	}
}

static Stage *
crm_stage_of_row(StageRules *rules, uint64 row, int pipeline, int stage)
{
	HeapTuple tuple = SPI_tuptable->vals[row];
	char *pipeline_name = SPI_getvalue(tuple, SPI_tuptable->tupdesc, pipeline);
	char *name = SPI_getvalue(tuple, SPI_tuptable->tupdesc, stage);
	StagePipeline *p = crm_stage_find_pipeline(rules, pipeline_name, strlen(pipeline_name));

	return p ? crm_stage_find(p, name, strlen(name)) : NULL;
}

static void
crm_stage_read(StageRules *rules, Relation rel, Snapshot snapshot)
{
	crm_stage_query(
		rules, snapshot,
		"SELECT p.name, p.is_default FROM %.pipeline AS p WHERE p.kind = $1 ORDER BY p.name");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		StagePipeline *pipeline = MemoryContextAllocZero(rules->context, sizeof(StagePipeline));

		pipeline->name = crm_stage_value(rules, i, 1);
		pipeline->is_default = crm_stage_flag(i, 2);
		crm_stage_append(rules, rules->pipelines, pipeline);
	}

	crm_stage_query(rules, snapshot,
					"SELECT s.pipeline, s.name, s.type, s.is_initial, s.required_fields "
					"FROM %.stage AS s JOIN %.pipeline AS p ON p.name = s.pipeline "
					"WHERE p.kind = $1 ORDER BY s.pipeline, s.position, s.name");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Stage *stage = MemoryContextAllocZero(rules->context, sizeof(Stage));
		char *pipeline = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		char *type = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 3);

		stage->pipeline = crm_stage_find_pipeline(rules, pipeline, strlen(pipeline));
		stage->name = crm_stage_value(rules, i, 2);
		stage->type = strcmp(type, "won") == 0	  ? STAGE_WON
					  : strcmp(type, "lost") == 0 ? STAGE_LOST
												  : STAGE_OPEN;
		stage->is_initial = crm_stage_flag(i, 4);
		crm_stage_read_fields(rules, rel, stage, i, 5);
		crm_stage_append(rules, stage->pipeline->stages, stage);
		CHECK_FOR_INTERRUPTS();
	}

	crm_stage_query(
		rules, snapshot,
		"SELECT r.pipeline, r.stage, r.applies_on, r.name, r.expression, r.message, r.hint "
		"FROM %.stage_rule AS r JOIN %.pipeline AS p ON p.name = r.pipeline "
		"WHERE p.kind = $1 AND r.active ORDER BY r.id");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Stage *stage = crm_stage_of_row(rules, i, 1, 2);
		bool on_exit =
			strcmp(SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 3), "exit") == 0;

		if (stage == NULL)
			continue;
		if (on_exit)
			crm_stage_append(rules, stage->exit,
							 crm_stage_new_rule(rules, STAGE_RULE_EXIT, stage, i, 4, 5));
		else
			crm_stage_append(rules, stage->entry,
							 crm_stage_new_rule(rules, STAGE_RULE_ENTRY, stage, i, 4, 5));
		CHECK_FOR_INTERRUPTS();
	}

	crm_stage_query(
		rules, snapshot,
		"SELECT t.pipeline, t.from_stage, t.to_pipeline, t.to_stage, t.guard, t.message, t.hint "
		"FROM %.stage_transition AS t "
		"JOIN %.stage AS s ON s.pipeline = t.to_pipeline AND s.name = t.to_stage "
		"JOIN %.pipeline AS p ON p.name = t.pipeline "
		"WHERE p.kind = $1 ORDER BY t.to_pipeline, s.position, s.name");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Stage *from = crm_stage_of_row(rules, i, 1, 2);
		StageMove *move;
		ListCell *lc;

		if (from == NULL || crm_stage_of_row(rules, i, 3, 4) == NULL)
			continue;
		move = MemoryContextAllocZero(rules->context, sizeof(StageMove));
		move->to = crm_stage_of_row(rules, i, 3, 4);
		if (SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 5) != NULL)
		{
			move->guard = crm_stage_new_rule(rules, STAGE_RULE_GUARD, from, i, 0, 5);
			move->guard->to = move->to;
			crm_stage_append(rules, move->rules, move->guard);
		}
		foreach (lc, from->exit)
			crm_stage_append(rules, move->rules, lfirst(lc));
		foreach (lc, move->to->entry)
			crm_stage_append(rules, move->rules, lfirst(lc));
		crm_stage_append(rules, from->moves, move);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * New rows are judged after they are in the table, so that INSERT ... ON CONFLICT
 * DO UPDATE is not refused for a row that it only proposes.  Where no such trigger
 * would fire along with the BEFORE trigger, that one judges.
 */
static bool
crm_stage_checks_inserts(Relation rel, Trigger *guard)
{
	if (rel->rd_rel->relispartition)
		return false;
	for (int i = 0; i < rel->trigdesc->numtriggers; i++)
	{
		Trigger *t = &rel->trigdesc->triggers[i];

		if (TRIGGER_FOR_ROW(t->tgtype) && TRIGGER_FOR_AFTER(t->tgtype) &&
			TRIGGER_FOR_INSERT(t->tgtype) && t->tgenabled == guard->tgenabled && t->tgnargs > 0 &&
			strcmp(t->tgargs[0], guard->tgargs[0]) == 0 && t->tgnattr == 0 && t->tgqual == NULL &&
			crm_is_stage_guard(t->tgfoid))
			return true;
	}
	return false;
}

static StageRules *
crm_stage_build(StageEntry *entry, Relation rel, Trigger *trigger)
{
	MemoryContext context;
	MemoryContext old;
	StageRules *rules;
	Oid user;
	int sec_context;
	int nest;
	Snapshot snapshot;

	crm_stage_check_arguments(rel, trigger);

	/* Child of the caller's context until it is whole, so that an error frees it. */
	context =
		AllocSetContextCreate(CurrentMemoryContext, "crm stage rules", ALLOCSET_DEFAULT_SIZES);
	rules = MemoryContextAllocZero(context, sizeof(StageRules));
	rules->context = context;
	rules->kind = MemoryContextStrdup(context, trigger->tgargs[0]);
	rules->workspace =
		crm_stage_workspace(RelationGetNamespace(rel), trigger->tgnargs, trigger->tgargs);
	if (!OidIsValid(rules->workspace) || !crm_is_workspace(rules->workspace))
		ereport(ERROR, (errcode(ERRCODE_INVALID_SCHEMA_NAME),
						errmsg("trigger \"%s\" on table \"%s\" finds no workspace with stage rules",
							   trigger->tgname, RelationGetRelationName(rel)),
						errhint("Run crm.guard_stages() again and name the workspace.")));
	rules->owner = crm_workspace_owner(rules->workspace);

	rules->stage_att = crm_stage_column(rel, trigger, "stage", "stage", false);
	rules->pipeline_att = crm_stage_column(rel, trigger, "pipeline", "pipeline", true);
	rules->id_att = crm_stage_column(rel, trigger, "id", "id", true);
	rules->closed_at_att = crm_stage_column(rel, trigger, "closed_at", "closed_at", true);
	crm_stage_check_text(rel, rules->stage_att);
	crm_stage_check_text(rel, rules->pipeline_att);
	if (rules->id_att != InvalidAttrNumber)
		rules->id_type =
			getBaseType(TupleDescAttr(RelationGetDescr(rel), rules->id_att - 1)->atttypid);
	rules->is_partition = rel->rd_rel->relispartition;
	rules->checks_inserts = crm_stage_checks_inserts(rel, trigger);

	old = MemoryContextSwitchTo(context);
	rules->tupdesc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	rules->null_slot = MakeSingleTupleTableSlot(rules->tupdesc, &TTSOpsVirtual);
	ExecStoreAllNullTuple(rules->null_slot);
	rules->econtext = CreateStandaloneExprContext();
	MemoryContextSwitchTo(old);

	for (int i = 0; i < lengthof(rule_tables); i++)
		entry->rule_tables[i] = crm_workspace_table(rules->workspace, rule_tables[i], false);

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(rules->owner, sec_context | SECURITY_LOCAL_USERID_CHANGE |
											 SECURITY_RESTRICTED_OPERATION);
	nest = crm_expression_search_path(rules->workspace);
	SPI_connect();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	crm_stage_read(rules, rel, snapshot);
	UnregisterSnapshot(snapshot);
	SPI_finish();
	AtEOXact_GUC(true, nest);
	SetUserIdAndSecContext(user, sec_context);

	MemoryContextSetParent(context, CacheMemoryContext);
	return rules;
}

static void
crm_stage_free(StageRules *rules)
{
	if (rules->history != NULL)
		crm_stage_free_history(rules->history);
	MemoryContextDelete(rules->context);
}

/* Says in which rule an error arose. */
static void
crm_stage_error_context(void *arg)
{
	StageRule *rule = ((StageUse *) arg)->rule;

	if (rule == NULL)
		return;
	if (rule->kind == STAGE_RULE_GUARD)
		errcontext("guard of the move from stage \"%s\" to \"%s\" in pipeline \"%s\"",
				   rule->stage->name, rule->to->name, rule->stage->pipeline->name);
	else
		errcontext("stage rule \"%s\" of stage \"%s\" in pipeline \"%s\"", rule->name,
				   rule->stage->name, rule->stage->pipeline->name);
}

static bool
crm_stage_in_use(StageRules *rules)
{
	ErrorContextCallback *callback;

	for (callback = error_context_stack; callback != NULL; callback = callback->previous)
	{
		if (callback->callback == crm_stage_error_context &&
			((StageUse *) callback->arg)->rules == rules)
			return true;
	}
	return false;
}

/* Frees rules that were replaced, now or once they are no longer in use. */
static void
crm_stage_retire(StageRules *rules)
{
	StageRules **link = &stage_retired;

	if (rules != NULL)
	{
		rules->retired = stage_retired;
		stage_retired = rules;
	}
	while ((rules = *link) != NULL)
	{
		if (crm_stage_in_use(rules))
			link = &rules->retired;
		else
		{
			*link = rules->retired;
			crm_stage_free(rules);
		}
	}
}

StageEntry *
crm_stage_entry(Relation rel, Trigger *trigger)
{
	StageKey key;
	StageEntry *entry;
	uint64 hash = 0;
	bool found;

	if (stage_entries == NULL)
		crm_stage_init_cache();

	for (int i = 0; i < trigger->tgnargs; i++)
		hash = hash_bytes_extended((const unsigned char *) trigger->tgargs[i],
								   (int) strlen(trigger->tgargs[i]) + 1, hash);
	memset(&key, 0, sizeof(key));
	key.relid = RelationGetRelid(rel);
	key.args_low = (uint32) hash;
	key.args_high = (uint32) (hash >> 32);
	entry = hash_search(stage_entries, &key, HASH_ENTER, &found);
	if (!found)
	{
		entry->valid = false;
		entry->invalidations = 0;
		entry->rules = NULL;
		memset(entry->rule_tables, 0, sizeof(entry->rule_tables));
	}
	return entry;
}

StageRules *
crm_stage_current_rules(StageEntry *entry)
{
	return entry->valid ? entry->rules : NULL;
}

StageRules *
crm_stage_compile(StageEntry *entry, Relation rel, Trigger *trigger)
{
	uint64 invalidations;
	StageRules *rules;

	/* What is invalidated while we read is read again for the next row. */
	invalidations = entry->invalidations;
	stage_rebuilds++;
	rules = crm_stage_build(entry, rel, trigger);
	crm_stage_retire(entry->rules);
	entry->rules = rules;
	entry->valid = entry->invalidations == invalidations;
	return rules;
}

/* ---------------------------------------------------------------------
 * Using rules
 * ---------------------------------------------------------------------
 */

void
crm_stage_begin(StageUse *use, StageRules *rules, Relation rel)
{
	use->rules = rules;
	use->rel = rel;
	use->rule = NULL;
	use->nested = crm_stage_in_use(rules);
	use->callback.callback = crm_stage_error_context;
	use->callback.arg = use;
	use->callback.previous = error_context_stack;
	error_context_stack = &use->callback;

	/* What an error left behind in compiled expressions is not to be trusted. */
	if (!use->nested && unlikely(rules->evaluating))
	{
		rules->evaluating = false;
		rules->era++;
		rules->econtext->ecxt_callbacks = NULL;
		ReScanExprContext(rules->econtext);
	}
}

void
crm_stage_end(StageUse *use)
{
	error_context_stack = use->callback.previous;
}

static bool
crm_stage_note_function(Oid function, void *named)
{
	PlanInvalItem *item;

	if (function < FirstUnpinnedObjectId)
		return false;
	item = makeNode(PlanInvalItem);
	item->cacheId = PROCOID;
	item->hashValue = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(function));
	*(List **) named = lappend(*(List **) named, item);
	return false;
}

/* Collects the functions an expression calls, before any is inlined. */
static bool
crm_stage_note_functions(Node *node, void *named)
{
	if (node == NULL)
		return false;
	(void) check_functions_in_node(node, crm_stage_note_function, named);
	return expression_tree_walker(node, crm_stage_note_functions, named);
}

static void
crm_stage_parse_rule(StageUse *use)
{
	StageRule *rule = use->rule;
	Node *expr = crm_stage_parse_as_owner(use->rules->workspace, use->rel, rule->source);
	MemoryContext old = MemoryContextSwitchTo(use->rules->context);

	rule->named = NIL;
	(void) crm_stage_note_functions(expr, &rule->named);
	rule->parsed = copyObject(expr);
	MemoryContextSwitchTo(old);
}

/*
 * An ExprState is compiled for one role, since EXECUTE permission is checked then
 * and functions are inlined or not by it, and cannot be entered twice: the argument
 * cells of its function calls are in it.  A nested use has one of its own.
 */
ExprState *
crm_stage_rule_state(StageUse *use)
{
	StageRule *rule = use->rule;
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;
	List *relations = NIL;
	List *functions = NIL;
	Expr *expr;
	ExprState *state;

	if (likely(!use->nested && rule->state != NULL && rule->era == use->rules->era &&
			   rule->role == GetUserId()))
		return rule->state;

	rule->compiling = true;
	if (rule->parsed == NULL)
		crm_stage_parse_rule(use);
	if (!use->nested)
	{
		rule->state = NULL;
		rule->functions = NIL;
		if (rule->context == NULL)
			rule->context =
				AllocSetContextCreate(use->rules->context, "crm stage rule", ALLOCSET_SMALL_SIZES);
		else
			MemoryContextReset(rule->context);
		context = rule->context;
	}

	old = MemoryContextSwitchTo(context);
	expr = expression_planner_with_deps((Expr *) copyObject(rule->parsed), &relations, &functions);
	state = ExecInitExpr(expr, NULL);
	MemoryContextSwitchTo(old);
	rule->compiling = false;

	if (!use->nested)
	{
		rule->functions = functions;
		rule->role = GetUserId();
		rule->era = use->rules->era;
		rule->state = state;
	}
	return state;
}
