/*
 * duplicate_rule.c
 *		Reading, parsing and keeping the duplicate rules of guarded tables.
 *
 * Each session keeps, for every table it has written to, the active rules of
 * that table's kind, and that there is none.  They are good until a row of
 * duplicate_rule changes (its trigger sends a relcache invalidation of its own
 * table), the guarded table changes (relcache), or, where a rule has a
 * condition, any function, type, operator or schema does (syscache).
 *
 * Rules are read with the latest snapshot, like a catalog, so that a session in
 * a long REPEATABLE READ transaction does not keep old rules beyond it.
 *
 * Memory: an entry lives in the session's hash table, the rules in a context of
 * their own, replaced as a whole.  A condition's function may itself write to
 * the table or change rules, so rules in use are counted (depth) and freed by
 * their last user.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "crm.h"
#include "duplicate_rule.h"
#include "expression.h"
#include "invalidation.h"
#include "workspace.h"

typedef struct DuplicateEntry
{
	Oid relid; /* hash key */
	bool valid;
	uint64 invalidations;
	Oid rule_table;
	bool conditional;
	DuplicateRules *rules; /* NULL = none active */
} DuplicateEntry;

static HTAB *duplicate_entries = NULL;
static int64 duplicate_rebuilds = 0;

static void
crm_duplicate_relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	DuplicateEntry *entry;

	hash_seq_init(&seq, duplicate_entries);
	while ((entry = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || entry->relid == relid || entry->rule_table == relid)
		{
			entry->valid = false;
			entry->invalidations++;
		}
}

static void
crm_duplicate_object_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS seq;
	DuplicateEntry *entry;

	hash_seq_init(&seq, duplicate_entries);
	while ((entry = hash_seq_search(&seq)) != NULL)
		if (entry->conditional || cacheid == NAMESPACEOID)
		{
			entry->valid = false;
			entry->invalidations++;
		}
}

static void
crm_duplicate_init_cache(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(DuplicateEntry);
	ctl.hcxt =
		AllocSetContextCreate(CacheMemoryContext, "crm duplicate entries", ALLOCSET_SMALL_SIZES);
	duplicate_entries =
		hash_create("crm duplicate entries", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	crm_register_relcache_callback(crm_duplicate_relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, crm_duplicate_object_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, crm_duplicate_object_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, crm_duplicate_object_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, crm_duplicate_object_callback, (Datum) 0);
}

/* How often this session read rules; for tests. */
PG_FUNCTION_INFO_V1(crm_duplicate_rule_rebuilds);
Datum
crm_duplicate_rule_rebuilds(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(duplicate_rebuilds);
}

/* The column of an integer primary key. */
AttrNumber
crm_duplicate_id_column(Relation rel, Oid *type)
{
	Bitmapset *key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	int member;
	AttrNumber att = InvalidAttrNumber;

	if (bms_get_singleton_member(key, &member))
	{
		att = (AttrNumber) (member + FirstLowInvalidHeapAttributeNumber);
		*type = getBaseType(TupleDescAttr(RelationGetDescr(rel), att - 1)->atttypid);
		if (*type != INT8OID && *type != INT4OID && *type != INT2OID)
			att = InvalidAttrNumber;
	}
	if (att == InvalidAttrNumber)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table \"%s\" has no primary key of one integer column",
							   RelationGetRelationName(rel)),
						errdetail("Duplicate rules name records by it.")));
	return att;
}

/* Parses "{insert,update}"; the values are checked by the table. */
static int
crm_duplicate_events(Datum array)
{
	static const struct
	{
		const char *name;
		int event;
	} known[] = {{"insert", DUPLICATE_ON_INSERT},
				 {"update", DUPLICATE_ON_UPDATE},
				 {"import", DUPLICATE_ON_IMPORT},
				 {"undelete", DUPLICATE_ON_UNDELETE}};
	Datum *names;
	bool *nulls;
	int n, events = 0;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls,
					  &n);
	for (int i = 0; i < n; i++)
		for (int j = 0; j < lengthof(known); j++)
			if (!nulls[i] && strcmp(TextDatumGetCString(names[i]), known[j].name) == 0)
				events |= known[j].event;
	return events;
}

static Bitmapset *
crm_duplicate_fields(Relation rel, const char *rule, Datum array)
{
	Datum *names;
	bool *nulls;
	int n;
	Bitmapset *result = NULL;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls,
					  &n);
	for (int i = 0; i < n; i++)
	{
		char *name = nulls[i] ? "" : TextDatumGetCString(names[i]);
		AttrNumber att = get_attnum(RelationGetRelid(rel), name);

		if (att <= 0)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
							errmsg("column \"%s\" of relation \"%s\" does not exist", name,
								   RelationGetRelationName(rel)),
							errdetail("Duplicate rule \"%s\" watches it.", rule),
							errhint("Change the rule's update_fields, or set it inactive.")));
		result = bms_add_member(result, att);
	}
	return result;
}

/* For errors in the condition of the rule named. */
void
crm_duplicate_rule_context(void *arg)
{
	errcontext("condition of duplicate rule \"%s\"", (const char *) arg);
}

/* Fills one rule from a row of duplicate_rule; in the rules' context. */
static void
crm_duplicate_read_rule(DuplicateRules *rules, Relation rel, HeapTuple row, TupleDesc desc)
{
	DuplicateRule *rule = &rules->rule[rules->nrules];
	char *action, *condition;
	bool isnull;
	Datum fields;

	rule->name = SPI_getvalue(row, desc, 1);
	action = SPI_getvalue(row, desc, 2);
	rule->action = strcmp(action, "block") == 0	   ? DUPLICATE_BLOCK
				   : strcmp(action, "record") == 0 ? DUPLICATE_RECORD
												   : DUPLICATE_WARN;
	rule->threshold = DatumGetFloat4(SPI_getbinval(row, desc, 3, &isnull));
	rule->events = crm_duplicate_events(SPI_getbinval(row, desc, 4, &isnull));
	fields = SPI_getbinval(row, desc, 5, &isnull);
	rule->columns = isnull ? NULL : crm_duplicate_fields(rel, rule->name, fields);
	rule->visible_only = strcmp(SPI_getvalue(row, desc, 7), "visible") == 0;
	rule->allow_override = DatumGetBool(SPI_getbinval(row, desc, 8, &isnull));
	condition = SPI_getvalue(row, desc, 6);
	if (condition != NULL)
	{
		ErrorContextCallback callback = {error_context_stack, crm_duplicate_rule_context,
										 rule->name};

		error_context_stack = &callback;
		rule->condition = crm_expression_parse(rel, condition, "duplicate rule");
		error_context_stack = callback.previous;
	}
	rules->events |= rule->events;
	rules->nrules++;
}

static void
crm_duplicate_read(DuplicateRules *rules, Relation rel)
{
	Oid argtypes[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(rules->kind)};
	Snapshot snapshot;
	SPIPlanPtr plan;
	MemoryContext old;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	plan = SPI_prepare(
		psprintf("SELECT r.name, r.action, r.threshold, r.events, r.update_fields, r.condition, "
				 "r.scope, r.allow_override FROM %s.duplicate_rule AS r "
				 "WHERE r.kind OPERATOR(pg_catalog.=) $1 AND r.active "
				 "ORDER BY pg_catalog.array_position('{block,record,warn}', r.action), r.id",
				 rules->schema),
		1, argtypes);
	if (plan == NULL)
		elog(ERROR, "could not prepare query over duplicate rules: %s",
			 SPI_result_code_string(SPI_result));
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (SPI_execute_snapshot(plan, values, NULL, snapshot, InvalidSnapshot, true, false, 0) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not read duplicate rules");
	UnregisterSnapshot(snapshot);
	if (SPI_processed > MAX_DUPLICATE_RULES)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("more than %d active duplicate rules for records of kind \"%s\"",
							   MAX_DUPLICATE_RULES, rules->kind)));
	old = MemoryContextSwitchTo(rules->context);
	rules->rule = palloc0(sizeof(DuplicateRule) * Max(SPI_processed, 1));
	for (uint64 i = 0; i < SPI_processed; i++)
		crm_duplicate_read_rule(rules, rel, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
	MemoryContextSwitchTo(old);
	SPI_finish();
}

/* In the current context until it is whole, so that an error frees it. */
DuplicateRules *
crm_duplicate_table(Relation rel, Oid workspace, const char *kind)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "crm duplicate rules", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DuplicateRules *rules = palloc0(sizeof(DuplicateRules));
	Oid user;
	int sec_context;
	int nest;

	crm_check_workspace(workspace);
	rules->context = context;
	rules->workspace = workspace;
	rules->owner = crm_workspace_owner(workspace);
	rules->table_owner = rel->rd_rel->relowner;
	rules->kind = pstrdup(kind);
	rules->schema = pstrdup(quote_identifier(get_namespace_name(workspace)));

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(rules->owner, sec_context | SECURITY_LOCAL_USERID_CHANGE |
											 SECURITY_RESTRICTED_OPERATION);
	nest = crm_expression_search_path(workspace);
	crm_duplicate_read(rules, rel);
	AtEOXact_GUC(true, nest);
	SetUserIdAndSecContext(user, sec_context);

	rules->columns = crm_match_columns(rel, false);
	rules->id_att = crm_duplicate_id_column(rel, &rules->id_type);
	rules->id_name =
		pstrdup(NameStr(TupleDescAttr(RelationGetDescr(rel), rules->id_att - 1)->attname));
	MemoryContextSwitchTo(old);
	return rules;
}

static void
crm_duplicate_rebuild(DuplicateEntry *entry, Relation rel, Trigger *trigger)
{
	uint64 invalidations = entry->invalidations;
	Oid workspace = RelationGetNamespace(rel);
	DuplicateRules *rules;
	bool conditional = false;

	if (trigger->tgnargs < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\" on table \"%s\" does not name the kind of its records",
						trigger->tgname, RelationGetRelationName(rel)),
				 errhint("Use SELECT crm.guard_duplicates(table) to create it.")));
	if (trigger->tgnargs > 1)
		workspace = get_namespace_oid(trigger->tgargs[1], false);
	duplicate_rebuilds++;
	rules = crm_duplicate_table(rel, workspace, trigger->tgargs[0]);
	for (int i = 0; i < rules->nrules; i++)
		conditional = conditional || rules->rule[i].condition != NULL;

	if (entry->rules != NULL)
	{
		if (entry->rules->depth > 0)
			entry->rules->stale = true;
		else
			MemoryContextDelete(entry->rules->context);
		entry->rules = NULL;
	}
	if (rules->nrules > 0)
	{
		MemoryContextSetParent(rules->context, CacheMemoryContext);
		entry->rules = rules;
	}
	else
		MemoryContextDelete(rules->context);
	entry->conditional = conditional;
	entry->rule_table = crm_workspace_table(workspace, "duplicate_rule", false);
	entry->valid = entry->invalidations == invalidations;
}

DuplicateRules *
crm_duplicate_rules(Relation rel, Trigger *trigger)
{
	Oid relid = RelationGetRelid(rel);
	DuplicateEntry *entry;
	bool found;

	if (duplicate_entries == NULL)
		crm_duplicate_init_cache();
	entry = hash_search(duplicate_entries, &relid, HASH_ENTER, &found);
	if (!found)
	{
		entry->valid = false;
		entry->invalidations = 0;
		entry->rule_table = InvalidOid;
		entry->conditional = false;
		entry->rules = NULL;
	}
	if (!entry->valid)
		crm_duplicate_rebuild(entry, rel, trigger);
	if (entry->rules != NULL)
		entry->rules->depth++;
	return entry->rules;
}

void
crm_duplicate_rules_unpin(DuplicateRules *rules)
{
	if (--rules->depth == 0 && rules->stale)
		MemoryContextDelete(rules->context);
}

/* After each row of duplicate_rule, and after TRUNCATE: every session reads the rules again. */
PG_FUNCTION_INFO_V1(crm_duplicate_rule_changed);
Datum
crm_duplicate_rule_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("crm.duplicate_rule_changed() must be called as an AFTER trigger")));
	CacheInvalidateRelcache(trigdata->tg_relation);
	return PointerGetDatum(NULL);
}

/* crm._check_duplicate_condition(relation, workspace, condition) */
PG_FUNCTION_INFO_V1(crm_check_duplicate_condition);
Datum
crm_check_duplicate_condition(PG_FUNCTION_ARGS)
{
	Relation rel = crm_table_open(PG_GETARG_OID(0), AccessShareLock);
	Oid workspace = PG_GETARG_OID(1);
	Oid user;
	int sec_context;
	int nest;

	crm_check_workspace(workspace);
	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(crm_workspace_owner(workspace), sec_context |
															   SECURITY_LOCAL_USERID_CHANGE |
															   SECURITY_RESTRICTED_OPERATION);
	nest = crm_expression_search_path(workspace);
	(void) crm_expression_parse(rel, text_to_cstring(PG_GETARG_TEXT_PP(2)), "duplicate rule");
	AtEOXact_GUC(true, nest);
	SetUserIdAndSecContext(user, sec_context);
	relation_close(rel, AccessShareLock);
	PG_RETURN_VOID();
}

/* crm._check_duplicate_table(relation): can records of the table be told apart and named? */
PG_FUNCTION_INFO_V1(crm_check_duplicate_table);
Datum
crm_check_duplicate_table(PG_FUNCTION_ARGS)
{
	Relation rel = crm_table_open(PG_GETARG_OID(0), AccessShareLock);
	Oid type;

	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is not a table", RelationGetRelationName(rel)),
						errdetail("Duplicate rules hold for tables, not for views, partitioned or "
								  "foreign tables.")));
	(void) crm_match_columns(rel, false);
	(void) crm_duplicate_id_column(rel, &type);
	relation_close(rel, AccessShareLock);
	PG_RETURN_VOID();
}
