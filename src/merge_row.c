/*
 * merge_row.c
 *		Tables and rows as merging sees them, and statements run as the owner of
 *		their table.
 *
 * A merge reaches every table that refers to a record, whoever owns it and
 * whatever the caller may see of it, exactly as ON UPDATE CASCADE does: each
 * statement on a table runs as the table's owner, without row security.  What
 * the caller may do is checked before, as the caller (merge.c).  The search
 * path is the table's own schema, so that a trigger function finds its tables
 * and a caller cannot put others in their place.
 *
 * A row is remembered as a jsonb object of its columns' text output.  Plain
 * to_jsonb() would lose what JSON cannot say: the spelling of a json column,
 * array bounds, types with a cast to json of their own.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "access.h"
#include "compat.h"
#include "crm.h"
#include "merge.h"
#include "workspace.h"

#define MERGE_INPUT "crm_rows"

MergeContext *
crm_merge_begin(Oid workspace)
{
	MergeContext *mc = palloc0(sizeof(MergeContext));

	crm_check_workspace(workspace);
	mc->cxt = CurrentMemoryContext;
	mc->workspace = workspace;
	mc->workspace_name = get_namespace_name(workspace);
	mc->workspace_owner = crm_workspace_owner(workspace);
	return mc;
}

/* Who is merging; 0 if the workspace does not know. */
int64
crm_merge_member(MergeContext *mc)
{
	return crm_member_id(mc->workspace);
}

/* The table's description, made once a call; the table stays locked for writing. */
MergeTable *
crm_merge_table(MergeContext *mc, Oid relid)
{
	MergeTable *t;
	Relation rel;
	TupleDesc desc;
	Bitmapset *key;
	ListCell *lc;
	MemoryContext old;

	foreach (lc, mc->tables)
	{
		t = lfirst(lc);
		if (t->relid == relid)
			return t;
	}

	rel = table_open(relid, RowExclusiveLock);
	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is not a table", RelationGetRelationName(rel))));
	desc = RelationGetDescr(rel);

	old = MemoryContextSwitchTo(mc->cxt);
	t = palloc0(sizeof(MergeTable));
	t->relid = relid;
	t->owner = rel->rd_rel->relowner;
	t->schema_oid = RelationGetNamespace(rel);
	t->schema = get_namespace_name(t->schema_oid);
	t->name = pstrdup(RelationGetRelationName(rel));
	t->qualified = quote_qualified_identifier(t->schema, t->name);
	t->from = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ? t->qualified
																: psprintf("ONLY %s", t->qualified);
	t->colname = palloc(desc->natts * sizeof(char *));
	t->coltype = palloc(desc->natts * sizeof(Oid));
	t->coltypmod = palloc(desc->natts * sizeof(int32));
	t->generated = palloc(desc->natts * sizeof(bool));
	t->out = palloc(desc->natts * sizeof(FmgrInfo));
	t->in = palloc(desc->natts * sizeof(FmgrInfo));
	t->inparam = palloc(desc->natts * sizeof(Oid));
	t->key = palloc(desc->natts * sizeof(int));
	key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Oid fn;
		bool isvarlena;

		if (att->attisdropped)
			continue;
		t->colname[t->ncols] = pstrdup(NameStr(att->attname));
		t->coltype[t->ncols] = att->atttypid;
		t->coltypmod[t->ncols] = att->atttypmod;
		t->generated[t->ncols] = att->attgenerated != '\0';
		getTypeOutputInfo(att->atttypid, &fn, &isvarlena);
		fmgr_info_cxt(fn, &t->out[t->ncols], mc->cxt);
		getTypeInputInfo(att->atttypid, &fn, &t->inparam[t->ncols]);
		fmgr_info_cxt(fn, &t->in[t->ncols], mc->cxt);
		if (bms_is_member(att->attnum - FirstLowInvalidHeapAttributeNumber, key))
			t->key[t->nkey++] = t->ncols;
		t->ncols++;
	}
	mc->tables = lappend(mc->tables, t);
	MemoryContextSwitchTo(old);
	table_close(rel, NoLock);
	return t;
}

/* Number of a column, or -1. */
int
crm_merge_column(MergeTable *t, const char *name)
{
	for (int i = 0; i < t->ncols; i++)
		if (strcmp(t->colname[i], name) == 0)
			return i;
	return -1;
}

/* A table of the workspace is a kind by its name, any other by its qualified name. */
char *
crm_merge_kind(MergeContext *mc, MergeTable *t)
{
	return t->schema_oid == mc->workspace ? t->name : t->qualified;
}

/* The type's equality operator, for SQL; NULL if it has none. */
char *
crm_merge_equality(Oid type)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_EQ_OPR);

	return OidIsValid(entry->eq_opr) ? crm_merge_operator(entry->eq_opr) : NULL;
}

/* An operator, for SQL. */
char *
crm_merge_operator(Oid operator)
{
	HeapTuple tup;
	Form_pg_operator op;
	char *result;

	tup = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	if (!HeapTupleIsValid(tup))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	op = (Form_pg_operator) GETSTRUCT(tup);
	result = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(op->oprnamespace)),
					  NameStr(op->oprname));
	ReleaseSysCache(tup);
	return result;
}

/* ---------------------------------------------------------------------
 * Acting as another role
 * --------------------------------------------------------------------- */

void
crm_merge_become(MergeRole *saved, Oid user, const char *schema)
{
	char *path;

	GetUserIdAndSecContext(&saved->user, &saved->context);
	saved->nestlevel = NewGUCNestLevel();
	SetUserIdAndSecContext(user,
						   saved->context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
	path = psprintf("pg_catalog, %s, pg_temp", quote_identifier(schema));
	(void) set_config_option("search_path", path, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true,
							 0, false);
	pfree(path);
}

void
crm_merge_return(MergeRole *saved)
{
	AtEOXact_GUC(true, saved->nestlevel);
	SetUserIdAndSecContext(saved->user, saved->context);
}

/* ---------------------------------------------------------------------
 * Statements
 * --------------------------------------------------------------------- */

/* Adds a parameter and returns its number. */
int
crm_merge_param(MergeParams *p, Oid type, Datum value, bool isnull)
{
	if (p->count == p->size)
	{
		p->size = p->size == 0 ? 8 : 2 * p->size;
		if (p->types == NULL)
		{
			p->types = palloc(p->size * sizeof(Oid));
			p->values = palloc(p->size * sizeof(Datum));
			p->nulls = palloc(p->size);
		}
		else
		{
			p->types = repalloc(p->types, p->size * sizeof(Oid));
			p->values = repalloc(p->values, p->size * sizeof(Datum));
			p->nulls = repalloc(p->nulls, p->size);
		}
	}
	p->types[p->count] = type;
	p->values[p->count] = value;
	p->nulls[p->count] = isnull ? 'n' : ' ';
	return ++p->count;
}

int
crm_merge_param_text(MergeParams *p, const char *value)
{
	return crm_merge_param(p, TEXTOID, value ? CStringGetTextDatum(value) : (Datum) 0,
						   value == NULL);
}

/* Runs a statement as a role; its own triggers wait for the end of a batch unless they are to fire.
 */
MergeRows
crm_merge_run_as(MergeContext *mc, Oid user, const char *schema, const char *sql, MergeParams *p,
				 MergeInput *input, bool fire_triggers)
{
	SPIPlanPtr plan;
	MergeRole saved;
	MergeRows rows = {NULL, NULL, 0};
	EphemeralNamedRelation enr = NULL;
	int rc;

	CHECK_FOR_INTERRUPTS();
	crm_merge_become(&saved, user, schema);

	/*
	 * A statement that failed in a subtransaction leaves its input registered,
	 * which is why the registration lives as long as the call.
	 */
	(void) SPI_unregister_relation(MERGE_INPUT);
	if (input != NULL)
	{
		enr = MemoryContextAllocZero(mc->cxt, sizeof(EphemeralNamedRelationData));
		enr->md.name = MERGE_INPUT;
		enr->md.reliddesc = InvalidOid;
		enr->md.tupdesc = input->desc;
		enr->md.enrtype = ENR_NAMED_TUPLESTORE;
		enr->md.enrtuples = input->count;
		enr->reldata = input->store;
		rc = SPI_register_relation(enr);
		if (rc != SPI_OK_REL_REGISTER)
			elog(ERROR, "could not register rows: %s", SPI_result_code_string(rc));
	}
	plan = SPI_prepare(sql, p ? p->count : 0, p ? p->types : NULL);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed for \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	rc = SPI_execute_snapshot(plan, p ? p->values : NULL, p ? p->nulls : NULL, InvalidSnapshot,
							  InvalidSnapshot, false, fire_triggers, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_snapshot failed for \"%s\": %s", sql, SPI_result_code_string(rc));
	rows.count = SPI_processed;
	rows.table = SPI_tuptable;
	rows.desc = SPI_tuptable ? SPI_tuptable->tupdesc : NULL;
	SPI_freeplan(plan);
	if (enr != NULL)
	{
		SPI_unregister_relation(MERGE_INPUT);
		pfree(enr);
	}
	crm_merge_return(&saved);
	return rows;
}

/* Runs a statement as the table's owner.  Triggers and rules of the table apply. */
MergeRows
crm_merge_run(MergeContext *mc, MergeTable *t, const char *sql, MergeParams *p, MergeInput *input)
{
	return crm_merge_run_as(mc, t->owner, t->schema, sql, p, input, mc->batch == 0);
}

/* Runs a statement on the workspace's own tables as their owner. */
MergeRows
crm_merge_run_log(MergeContext *mc, const char *sql, MergeParams *p, MergeInput *input)
{
	return crm_merge_run_as(mc, mc->workspace_owner, mc->workspace_name, sql, p, input, true);
}

/*
 * Runs a fixed query on the system catalogs, as the caller and with the search path
 * of the function called; its plan is kept for the session, because a merge asks the
 * same of every table.
 */
MergeRows
crm_merge_run_catalog(SPIPlanPtr *plan, const char *sql, MergeParams *p)
{
	MergeRows rows;
	int rc;

	if (*plan == NULL)
	{
		SPIPlanPtr made = SPI_prepare(sql, p->count, p->types);

		if (made == NULL)
			elog(ERROR, "SPI_prepare failed for \"%s\": %s", sql,
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(made);
		*plan = made;
	}
	rc = SPI_execute_snapshot(*plan, p->values, p->nulls, InvalidSnapshot, InvalidSnapshot, false,
							  true, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_snapshot failed for \"%s\": %s", sql, SPI_result_code_string(rc));
	rows.count = SPI_processed;
	rows.table = SPI_tuptable;
	rows.desc = SPI_tuptable ? SPI_tuptable->tupdesc : NULL;
	return rows;
}

void
crm_merge_free(MergeRows *rows)
{
	if (rows->table != NULL)
		SPI_freetuptable(rows->table);
	rows->table = NULL;
	rows->count = 0;
}

/*
 * Between these two, the statements on tables count as one: AFTER triggers, and
 * so the checks and actions of foreign keys, wait for the end of it.  Rows whose
 * key changes and the rows that refer to them can so change one after the other.
 */
void
crm_merge_batch_begin(MergeContext *mc)
{
	if (mc->batch++ == 0)
		AfterTriggerBeginQuery();
}

void
crm_merge_batch_end(MergeContext *mc, MergeTable *t)
{
	MergeRole saved;
	EState *estate;

	if (--mc->batch > 0)
		return;
	crm_merge_become(&saved, t->owner, t->schema);
	CommandCounterIncrement();
	estate = CreateExecutorState();
	PushActiveSnapshot(GetTransactionSnapshot());
	AfterTriggerEndQuery(estate);
	PopActiveSnapshot();
	ExecResetTupleTable(estate->es_tupleTable, false);
	ExecCloseResultRelations(estate);
	FreeExecutorState(estate);
	crm_merge_return(&saved);
	CommandCounterIncrement();
}

/* ON DELETE and ON UPDATE of a foreign key, other than NO ACTION and RESTRICT. */
static bool
crm_is_referential_action(Oid function)
{
	return function == F_RI_FKEY_CASCADE_DEL || function == F_RI_FKEY_CASCADE_UPD ||
		   function == F_RI_FKEY_SETNULL_DEL || function == F_RI_FKEY_SETNULL_UPD ||
		   function == F_RI_FKEY_SETDEFAULT_DEL || function == F_RI_FKEY_SETDEFAULT_UPD;
}

/* Triggers of ours that take an inserted row for a new record, which must start in an initial
 * stage. */
static bool
crm_is_start_of_record(Oid function)
{
	char *name = get_func_name(function);

	return name != NULL &&
		   (strcmp(name, "stage_guard") == 0 || strcmp(name, "stage_history") == 0) &&
		   get_func_namespace(function) == get_namespace_oid("crm", true);
}

/*
 * Runs a statement without some of the table's triggers: the BEFORE triggers, so
 * that a row gets back exactly the values it had, time stamps and versions
 * included, and what greets a new record; or the referential actions, where a key
 * passes from one row to another and what refers to it stays.  Constraints hold, and
 * other AFTER triggers fire: foreign keys are checked and the change is audited.  The
 * triggers are switched off in this one query's own copy of the trigger descriptor,
 * which nothing else sees.
 */
uint64
crm_merge_run_quietly(MergeContext *mc, MergeTable *t, const char *sql, MergeInput *input,
					  bool before, bool actions)
{
	MergeRole saved;
	QueryEnvironment *env = create_queryEnv();
	EphemeralNamedRelation enr = palloc0(sizeof(EphemeralNamedRelationData));
	List *parsed;
	List *queries;
	PlannedStmt *plan;
	QueryDesc *qd;
	ListCell *lc;
	uint64 processed;

	CHECK_FOR_INTERRUPTS();
	crm_merge_become(&saved, t->owner, t->schema);
	enr->md.name = MERGE_INPUT;
	enr->md.tupdesc = input->desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = input->count;
	enr->reldata = input->store;
	register_ENR(env, enr);

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	parsed = pg_parse_query(sql);
	queries = pg_analyze_and_rewrite_fixedparams(linitial_node(RawStmt, parsed), sql, NULL, 0, env);
	if (list_length(parsed) != 1 || list_length(queries) != 1)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot restore rows of \"%s\" because it has rules", t->name)));
	plan = pg_plan_query(linitial_node(Query, queries), sql, 0, NULL);
	PopActiveSnapshot();

	PushActiveSnapshot(GetTransactionSnapshot());
	qd = CreateQueryDesc(plan, sql, GetActiveSnapshot(), InvalidSnapshot, None_Receiver, NULL, env,
						 0);
	ExecutorStart(qd, mc->batch == 0 ? 0 : EXEC_FLAG_SKIP_TRIGGERS);
	foreach (lc, qd->estate->es_opened_result_relations)
	{
		ResultRelInfo *rri = lfirst(lc);
		TriggerDesc *triggers = rri->ri_TrigDesc;

		for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		{
			Trigger *trigger = &triggers->triggers[i];

			if ((before && TRIGGER_FOR_BEFORE(trigger->tgtype)) ||
				(before && qd->operation == CMD_INSERT &&
				 crm_is_start_of_record(trigger->tgfoid)) ||
				(actions && crm_is_referential_action(trigger->tgfoid)))
				trigger->tgenabled = TRIGGER_DISABLED;
		}
	}
	CRM_EXECUTOR_RUN(qd);
	processed = qd->estate->es_processed;
	ExecutorFinish(qd);
	ExecutorEnd(qd);
	FreeQueryDesc(qd);
	PopActiveSnapshot();
	CommandCounterIncrement();
	crm_merge_return(&saved);
	return processed;
}

/* ---------------------------------------------------------------------
 * Rows and their images
 * --------------------------------------------------------------------- */

/* A column of type text. */
char *
crm_merge_string(MergeRows *rows, uint64 row, int column)
{
	bool isnull;
	Datum d = SPI_getbinval(rows->table->vals[row], rows->desc, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(d);
}

/* Value in column "column", counted after the leading ones. */
Datum
crm_merge_value(MergeRows *rows, uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(rows->table->vals[row], rows->desc, column + MERGE_LEAD + 1, isnull);
}

/* Its text, or NULL. */
char *
crm_merge_text(MergeTable *t, MergeRows *rows, uint64 row, int column)
{
	bool isnull;
	Datum value = crm_merge_value(rows, row, column, &isnull);

	return isnull ? NULL : OutputFunctionCall(&t->out[column], value);
}

bool
crm_merge_same(MergeTable *t, MergeRows *a, uint64 arow, MergeRows *b, uint64 brow, int column)
{
	bool anull, bnull;
	Datum avalue = crm_merge_value(a, arow, column, &anull);
	Datum bvalue = crm_merge_value(b, brow, column, &bnull);
	Form_pg_attribute att = TupleDescAttr(a->desc, column + MERGE_LEAD);

	if (anull || bnull)
		return anull == bnull;
	return datum_image_eq(avalue, bvalue, att->attbyval, att->attlen);
}

static void
crm_merge_push(JsonbParseState **state, const char *name, char *text)
{
	JsonbValue v;

	v.type = jbvString;
	v.val.string.val = unconstify(char *, name);
	v.val.string.len = strlen(name);
	pushJsonbValue(state, WJB_KEY, &v);
	if (text == NULL)
		v.type = jbvNull;
	else
	{
		v.type = jbvString;
		v.val.string.val = text;
		v.val.string.len = strlen(text);
	}
	pushJsonbValue(state, WJB_VALUE, &v);
}

/* A row's written columns, or those in the set, as text. */
Jsonb *
crm_merge_image(MergeTable *t, MergeRows *rows, uint64 row, Bitmapset *columns)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < t->ncols; i++)
		if (columns == NULL ? !t->generated[i] : bms_is_member(i, columns))
			crm_merge_push(&state, t->colname[i], crm_merge_text(t, rows, row, i));
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* What identifies the row: its primary key, else all of it. */
Jsonb *
crm_merge_key(MergeTable *t, MergeRows *rows, uint64 row)
{
	Bitmapset *columns = NULL;

	for (int i = 0; i < t->nkey; i++)
		columns = bms_add_member(columns, t->key[i]);
	return crm_merge_image(t, rows, row, columns);
}

/* Looks up a column in an image; false if it is not there. */
bool
crm_merge_get(Jsonb *image, const char *name, char **value)
{
	JsonbValue v;

	if (getKeyJsonValueFromContainer(&image->root, name, strlen(name), &v) == NULL)
		return false;
	if (v.type == jbvNull)
		*value = NULL;
	else if (v.type == jbvString)
		*value = pnstrdup(v.val.string.val, v.val.string.len);
	else
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
						errmsg("value of \"%s\" in the merge log is not text", name)));
	return true;
}

/* ---------------------------------------------------------------------
 * Rows to join a statement with: (crm_ord, crm_tid, crm_tab [, v0, v1 ...])
 * --------------------------------------------------------------------- */

static MergeInput *
crm_merge_input(TupleDesc desc)
{
	MergeInput *input = palloc0(sizeof(MergeInput));

	TupleDescInitEntry(desc, 1, "crm_ord", INT4OID, -1, 0);
	TupleDescInitEntry(desc, 2, "crm_tid", TIDOID, -1, 0);
	TupleDescInitEntry(desc, 3, "crm_tab", OIDOID, -1, 0);
	input->desc = desc;
	input->store = tuplestore_begin_heap(true, false, work_mem);
	return input;
}

MergeInput *
crm_merge_input_tids(void)
{
	return crm_merge_input(CreateTemplateTupleDesc(MERGE_LEAD));
}

/* The ordinal is the row's number in "rows". */
void
crm_merge_input_tid(MergeInput *input, MergeRows *rows, uint64 row)
{
	Datum values[MERGE_LEAD];
	bool nulls[MERGE_LEAD] = {false};

	values[0] = Int32GetDatum((int32) row);
	values[1] = SPI_getbinval(rows->table->vals[row], rows->desc, 2, &nulls[1]);
	values[2] = SPI_getbinval(rows->table->vals[row], rows->desc, 3, &nulls[2]);
	tuplestore_putvalues(input->store, input->desc, values, nulls);
	input->count++;
}

/* Column i of the set is named v<i> and has the table's type. */
MergeInput *
crm_merge_input_values(MergeTable *t, Bitmapset *columns)
{
	TupleDesc desc = CreateTemplateTupleDesc(MERGE_LEAD + bms_num_members(columns));
	AttrNumber attnum = MERGE_LEAD;
	int i = -1;

	while ((i = bms_next_member(columns, i)) >= 0)
	{
		char name[NAMEDATALEN];

		snprintf(name, sizeof(name), "v%d", i);
		TupleDescInitEntry(desc, ++attnum, name, t->coltype[i], t->coltypmod[i], 0);
	}
	return crm_merge_input(desc);
}

/* Appends a row: place from "rows" (NULL: none), values from an image. */
void
crm_merge_input_value(MergeInput *input, MergeTable *t, Bitmapset *columns, int ordinal,
					  MergeRows *rows, uint64 row, Jsonb *image)
{
	int natts = input->desc->natts;
	Datum *values = palloc(natts * sizeof(Datum));
	bool *nulls = palloc0(natts * sizeof(bool));
	int n = MERGE_LEAD;
	int i = -1;

	values[0] = Int32GetDatum(ordinal);
	if (rows != NULL)
	{
		values[1] = SPI_getbinval(rows->table->vals[row], rows->desc, 2, &nulls[1]);
		values[2] = SPI_getbinval(rows->table->vals[row], rows->desc, 3, &nulls[2]);
	}
	else
		nulls[1] = nulls[2] = true;
	while ((i = bms_next_member(columns, i)) >= 0)
	{
		char *text = NULL;

		(void) crm_merge_get(image, t->colname[i], &text);
		nulls[n] = text == NULL;
		/* Domains check NULLs too, so their input function is called for them. */
		values[n] = InputFunctionCall(&t->in[i], text, t->inparam[i], t->coltypmod[i]);
		n++;
	}
	tuplestore_putvalues(input->store, input->desc, values, nulls);
	input->count++;
	pfree(values);
	pfree(nulls);
}

void
crm_merge_input_end(MergeInput *input)
{
	tuplestore_end(input->store);
	FreeTupleDesc(input->desc);
	pfree(input);
}
