/*
 * undelete.c
 *		Bringing back a deleted record from the audit log.
 *
 * crm._undelete_plan() reads the log, as the workspace's owner, and says which rows
 * to insert and which references to set again; what the caller may have is decided
 * there, before anything is written.  The rows are written as unmerge() writes
 * them, as the owner of their table and without BEFORE triggers, in a
 * subtransaction: a dry run takes it back, and where a constraint refuses a row,
 * the message names what is in the way.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/tuplestore.h"
#include "utils/varlena.h"

#include "compat.h"
#include "crm.h"
#include "duplicate_rule.h"
#include "merge.h"
#include "undelete.h"
#include "workspace.h"

/* A row of the plan. */
typedef struct UndeleteRow
{
	MergeTable *t;
	char *operation; /* insert, update or note */
	bool as_owner;
	Jsonb *record;
	char *columns;
	Jsonb *image;
	Jsonb *was;
	char *note;
	bool restored;
} UndeleteRow;

typedef struct UndeleteContext
{
	MergeContext *mc;
	MergeTable *t;
	char *id;
	UndeleteRow *row;
	int nrows;
} UndeleteContext;

/* Trigger depth of the caller while rows come back; -1: none do. */
static int undelete_depth = -1;

static int
crm_trigger_depth(void)
{
	return DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0));
}

/* For triggers of ours: is the row inserted one that undelete() brings back, not one that a trigger
 * of it inserts? */
bool
crm_is_undeleted(void)
{
	return undelete_depth >= 0 && crm_trigger_depth() == undelete_depth + 1;
}

static Jsonb *
crm_plan_jsonb(MergeRows *rows, uint64 row, int column)
{
	bool isnull;
	Datum d = SPI_getbinval(rows->table->vals[row], rows->desc, column, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(d);
}

static void
crm_undelete_plan(UndeleteContext *uc)
{
	MergeContext *mc = uc->mc;
	MergeParams p = {0};
	MergeRows rows;

	crm_merge_param(&p, OIDOID, ObjectIdGetDatum(mc->workspace), false);
	crm_merge_param(&p, OIDOID, ObjectIdGetDatum(uc->t->relid), false);
	crm_merge_param_text(&p, uc->id);
	crm_merge_param(&p, OIDOID, ObjectIdGetDatum(GetUserId()), false);
	rows = crm_merge_run_log(mc,
							 "SELECT p.rel::pg_catalog.oid, p.operation, p.as_owner, p.record,"
							 " p.columns, p.image, p.was, p.note"
							 " FROM crm._undelete_plan($1, $2, $3, $4) AS p",
							 &p, NULL);
	uc->nrows = rows.count;
	uc->row = palloc0(Max(rows.count, 1) * sizeof(UndeleteRow));
	for (uint64 i = 0; i < rows.count; i++)
	{
		UndeleteRow *r = &uc->row[i];
		bool isnull;
		Datum d;

		r->t = crm_merge_table(
			mc, DatumGetObjectId(SPI_getbinval(rows.table->vals[i], rows.desc, 1, &isnull)));
		r->operation = crm_merge_string(&rows, i, 2);
		d = SPI_getbinval(rows.table->vals[i], rows.desc, 3, &isnull);
		r->as_owner = !isnull && DatumGetBool(d);
		r->record = crm_plan_jsonb(&rows, i, 4);
		r->columns = crm_merge_string(&rows, i, 5);
		r->image = crm_plan_jsonb(&rows, i, 6);
		r->was = crm_plan_jsonb(&rows, i, 7);
		r->note = crm_merge_string(&rows, i, 8);
	}
	crm_merge_free(&rows);
}

/* That "t" and "r" are the same row, by the primary key. */
static char *
crm_same_key(MergeTable *t)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int k = 0; k < t->nkey; k++)
	{
		char *name = pstrdup(quote_identifier(t->colname[t->key[k]]));

		appendStringInfo(&sql, "%st.%s %s r.%s", k ? " AND " : "", name,
						 crm_merge_equality(getBaseType(t->coltype[t->key[k]])), name);
	}
	return sql.data;
}

static bool
crm_is_listed(const char *name, List *names)
{
	ListCell *lc;

	foreach (lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

static bool
crm_is_key(MergeTable *t, int column)
{
	for (int k = 0; k < t->nkey; k++)
		if (t->key[k] == column)
			return true;
	return false;
}

/*
 * BEFORE triggers of partitions are found while rows are inserted, too late to switch
 * them off: puts right what they made of the values.
 */
static void
crm_undelete_settle(UndeleteContext *uc, MergeTable *t, const char *columns, MergeInput *input)
{
	List *written;
	StringInfoData set;
	StringInfoData differs;

	if (!SplitIdentifierString(pstrdup(columns), ',', &written))
		elog(ERROR, "unexpected list of columns: %s", columns);
	initStringInfo(&set);
	initStringInfo(&differs);
	for (int c = 0; c < t->ncols; c++)
	{
		char *name = pstrdup(quote_identifier(t->colname[c]));

		if (!crm_is_listed(t->colname[c], written) || crm_is_key(t, c))
			continue;
		appendStringInfo(&set, "%s%s = r.%s", set.len ? ", " : "", name, name);
		appendStringInfo(&differs,
						 "%spg_catalog.to_jsonb(t.%s) IS DISTINCT FROM pg_catalog.to_jsonb(r.%s)",
						 differs.len ? " OR " : "", name, name);
	}
	if (set.len == 0)
		return;
	(void) crm_merge_run_quietly(
		uc->mc, t,
		psprintf("UPDATE %s AS t SET %s FROM crm_rows AS n,"
				 " LATERAL pg_catalog.jsonb_populate_record(NULL::%s, n.before) AS r"
				 " WHERE %s AND (%s)",
				 t->qualified, set.data, t->qualified, crm_same_key(t), differs.data),
		input, true, false);
}

/* Inserts the rows from "first" to before "last", which are of one table and have the same columns.
 */
static void
crm_undelete_insert(UndeleteContext *uc, int first, int last)
{
	MergeTable *t = uc->row[first].t;
	MergeInput *input = crm_merge_log_input();
	uint64 written;

	for (int i = first; i < last; i++)
		if (strcmp(uc->row[i].operation, "insert") == 0)
		{
			crm_merge_log_row(input, uc->row[i].image, uc->row[i].image, NULL);
			uc->row[i].restored = true;
		}
	written = crm_merge_run_quietly(
		uc->mc, t,
		psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM"
				 " (SELECT r.* FROM crm_rows AS n,"
				 " LATERAL pg_catalog.jsonb_populate_record(NULL::%s, n.before) AS r) AS r",
				 t->qualified, uc->row[first].columns, uc->row[first].columns, t->qualified),
		input, true, false);
	if (written != input->count)
		ereport(ERROR, (errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
						errmsg("rows of \"%s\" could not be brought back", t->name),
						errdetail("A trigger of the table suppressed it.")));
	if (get_rel_relkind(t->relid) == RELKIND_PARTITIONED_TABLE && t->nkey > 0)
		crm_undelete_settle(uc, t, uc->row[first].columns, input);
	crm_merge_input_end(input);
}

/*
 * Sets references again, of rows of one table that were changed by the same foreign
 * key, where they still are as the deletion left them.
 */
static void
crm_undelete_update(UndeleteContext *uc, int first, int last)
{
	MergeTable *t = uc->row[first].t;
	MergeInput *input = crm_merge_log_input();
	StringInfoData sql;
	StringInfoData set;
	MergeRows rows;
	bool *seen;

	for (int i = first; i < last; i++)
		crm_merge_log_row(
			input,
			crm_merge_jsonb_concat(uc->row[i].record,
								   crm_merge_jsonb_pair("crm_ord", psprintf("%d", i))),
			uc->row[i].image, uc->row[i].was);
	initStringInfo(&sql);
	initStringInfo(&set);
	for (int c = 0; c < t->ncols; c++)
	{
		char *name = pstrdup(quote_identifier(t->colname[c]));

		if (getKeyJsonValueFromContainer(&uc->row[first].image->root, t->colname[c],
										 strlen(t->colname[c]), NULL) == NULL)
			continue;
		appendStringInfo(&set, "%s%s = r.%s", set.len ? ", " : "", name, name);
		appendStringInfo(&sql,
						 " AND COALESCE(pg_catalog.to_jsonb(t.%s), 'null') OPERATOR(pg_catalog.=)"
						 " (n.after OPERATOR(pg_catalog.->) %s)",
						 name, quote_literal_cstr(t->colname[c]));
	}
	rows = crm_merge_run_as(uc->mc, uc->row[first].as_owner ? t->owner : GetUserId(), t->schema,
							psprintf("UPDATE %s AS t SET %s FROM crm_rows AS n,"
									 " LATERAL pg_catalog.jsonb_populate_record(NULL::%s, n.key"
									 " OPERATOR(pg_catalog.||) n.before) AS r WHERE %s%s"
									 " RETURNING (n.key OPERATOR(pg_catalog.->>) 'crm_ord')::int4",
									 t->from, set.data, t->qualified, crm_same_key(t), sql.data),
							NULL, input, true);
	for (uint64 i = 0; i < rows.count; i++)
	{
		bool isnull;

		uc->row[DatumGetInt32(SPI_getbinval(rows.table->vals[i], rows.desc, 1, &isnull))].restored =
			true;
	}
	crm_merge_free(&rows);
	/* What the caller does not see is not named. */
	rows =
		crm_merge_run_as(uc->mc, GetUserId(), t->schema,
						 psprintf("SELECT (n.key OPERATOR(pg_catalog.->>) 'crm_ord')::int4"
								  " FROM crm_rows AS n,"
								  " LATERAL pg_catalog.jsonb_populate_record(NULL::%s, n.key) AS r,"
								  " %s AS t WHERE %s",
								  t->qualified, t->from, crm_same_key(t)),
						 NULL, input, true);
	seen = palloc0(last - first);
	for (uint64 i = 0; i < rows.count; i++)
	{
		bool isnull;

		seen[DatumGetInt32(SPI_getbinval(rows.table->vals[i], rows.desc, 1, &isnull)) - first] =
			true;
	}
	crm_merge_free(&rows);
	crm_merge_input_end(input);
	for (int i = first; i < last; i++)
	{
		UndeleteRow *r = &uc->row[i];

		if (!r->restored)
			r->note = seen[i - first] ? "changed since, or not yours to change"
									  : "a row that is gone since, or that you may not see";
		if (!seen[i - first])
			r->record = NULL;
	}
}

static bool
crm_same_group(const UndeleteRow *a, const UndeleteRow *b)
{
	return a->t == b->t && strcmp(a->operation, b->operation) == 0 && a->as_owner == b->as_owner &&
		   strcmp(a->columns, b->columns) == 0;
}

/* The rows that come back first, then what refers to them. */
static void
crm_undelete_write(UndeleteContext *uc)
{
	MergeContext *mc = uc->mc;
	MergeTable *at = NULL; /* whose triggers wait */

	for (int pass = 0; pass < 2; pass++)
	{
		const char *operation = pass == 0 ? "insert" : "update";

		for (int first = 0; first < uc->nrows;)
		{
			UndeleteRow *r = &uc->row[first];
			int last = first + 1;

			CHECK_FOR_INTERRUPTS();
			if (strcmp(r->operation, operation) != 0)
			{
				first++;
				continue;
			}
			/* Notes may stand between rows of one group. */
			while (last < uc->nrows && (strcmp(uc->row[last].operation, "note") == 0 ||
										crm_same_group(r, &uc->row[last])))
				last++;
			while (strcmp(uc->row[last - 1].operation, "note") == 0)
				last--;
			/* Triggers run as the owner of their table, so they wait until another's is next. */
			if (at != NULL && at->owner != r->t->owner)
			{
				crm_merge_batch_end(mc, at);
				at = NULL;
			}
			if (pass == 0)
			{
				if (at == NULL)
					crm_merge_batch_begin(mc);
				at = r->t;
				crm_undelete_insert(uc, first, last);
			}
			else
				crm_undelete_update(uc, first, last);
			first = last;
		}
		if (at != NULL)
			crm_merge_batch_end(mc, at);
		at = NULL;
	}
	/* Whoever may not see and change it as it is now may not have it back. */
	if (crm_merge_lock(uc->t, &uc->id, 1) != NULL)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied to bring back %s %s", uc->t->name, uc->id),
						errdetail("You could not see and change it afterwards.")));
}

/*
 * The row for which a unique or exclusion constraint refused one that was to come back,
 * as the caller sees it; NULL if they cannot see it, or the index has expressions.
 */
static char *
crm_undelete_blocker(UndeleteContext *uc, ErrorData *error)
{
	Oid schema = error->schema_name ? get_namespace_oid(error->schema_name, true) : InvalidOid;
	Oid index = error->constraint_name && OidIsValid(schema)
					? get_relname_relid(error->constraint_name, schema)
					: InvalidOid;
	Relation rel = OidIsValid(index) ? try_relation_open(index, AccessShareLock) : NULL;
	Form_pg_index form;
	Oid *operators = NULL;
	Oid *procs;
	uint16 *strategies;
	MergeTable *t = NULL;
	MergeInput *input;
	StringInfoData sql;
	MergeRows rows;
	char *result = NULL;

	if (rel == NULL || rel->rd_index == NULL)
		return NULL;
	form = rel->rd_index;
	if (form->indisexclusion)
		RelationGetExclusionInfo(rel, &operators, &procs, &strategies);
	input = crm_merge_log_input();
	for (int i = 0; i < uc->nrows; i++)
		if (uc->row[i].t->relid == form->indrelid && strcmp(uc->row[i].operation, "insert") == 0)
		{
			t = uc->row[i].t;
			crm_merge_log_row(input, uc->row[i].image, uc->row[i].image, NULL);
		}
	initStringInfo(&sql);
	for (int k = 0; t != NULL && k < form->indnkeyatts; k++)
	{
		int c = form->indkey.values[k] > 0
					? crm_merge_column(t, get_attname(t->relid, form->indkey.values[k], false))
					: -1;
		char *op = c < 0			   ? NULL
				   : operators != NULL ? crm_merge_operator(operators[k])
									   : crm_merge_equality(getBaseType(t->coltype[c]));
		char *name = c < 0 ? NULL : pstrdup(quote_identifier(t->colname[c]));

		if (op == NULL)
			t = NULL;
		else
			appendStringInfo(&sql, "%st.%s %s r.%s", k == 0 ? "" : " AND ", name, op, name);
	}
	relation_close(rel, AccessShareLock);
	if (t != NULL && t->nkey == 1 &&
		pg_class_aclcheck(t->relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK)
	{
		rows = crm_merge_run_as(
			uc->mc, GetUserId(), t->schema,
			psprintf("SELECT t.%s::pg_catalog.text FROM crm_rows AS n,"
					 " LATERAL pg_catalog.jsonb_populate_record(NULL::%s, n.before) AS r, %s AS t"
					 " WHERE %s LIMIT 1",
					 quote_identifier(t->colname[t->key[0]]), t->qualified, t->from, sql.data),
			NULL, input, true);
		if (rows.count > 0)
			result = psprintf("%s %s", t->name, crm_merge_string(&rows, 0, 1));
		crm_merge_free(&rows);
	}
	crm_merge_input_end(input);
	return result;
}

/* Says what is in the way of the record. */
static void
crm_undelete_failed(UndeleteContext *uc, ErrorData *error)
{
	char *blocker;

	if (error->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION)
		ereport(ERROR,
				(errcode(error->sqlerrcode),
				 errmsg("%s %s cannot be brought back", uc->t->name, uc->id),
				 errdetail("%s: %s", error->message, error->detail ? error->detail : "no detail"),
				 errhint("Bring back first what it refers to.")));
	if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION &&
		error->sqlerrcode != ERRCODE_EXCLUSION_VIOLATION)
		ReThrowError(error);
	blocker = crm_undelete_blocker(uc, error);
	ereport(ERROR,
			(errcode(error->sqlerrcode),
			 errmsg("%s %s cannot be brought back", uc->t->name, uc->id),
			 errdetail("%s: %s", error->message, error->detail ? error->detail : "no detail"),
			 blocker ? errhint("What is in the way is %s.", blocker)
					 : errhint("What is in the way is a record that you may not see, or that was "
							   "stored at the same time."),
			 err_generic_string(PG_DIAG_CONSTRAINT_NAME, error->constraint_name)));
}

static void
crm_undelete_context(void *arg)
{
	UndeleteContext *uc = arg;

	errcontext("bringing back %s %s", uc->t->name, uc->id);
}

static void
crm_undelete_run(UndeleteContext *uc, bool dry_run)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;
	int depth = undelete_depth;
	Oid person = crm_duplicate_person;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	undelete_depth = crm_trigger_depth();
	crm_duplicate_person = GetUserId();
	PG_TRY();
	{
		crm_undelete_write(uc);
		if (dry_run)
			RollbackAndReleaseCurrentSubTransaction();
		else
			ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	undelete_depth = depth;
	crm_duplicate_person = person;
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
	if (error != NULL)
		crm_undelete_failed(uc, error);
}

/* The table of a kind; a kind may also be one that protect() was given. */
static MergeTable *
crm_undelete_table(MergeContext *mc, char *kind)
{
	MergeParams p = {0};
	MergeRows rows;

	crm_merge_param(&p, OIDOID, ObjectIdGetDatum(mc->workspace), false);
	crm_merge_param_text(&p, kind);
	rows = crm_merge_run_log(mc,
							 "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)"
							 " FROM crm._record_tables($1) AS r"
							 " JOIN pg_catalog.pg_class AS c ON c.oid = r.rel"
							 " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
							 " WHERE r.kind = $2",
							 &p, NULL);
	if (rows.count > 0)
		kind = crm_merge_string(&rows, 0, 1);
	crm_merge_free(&rows);
	return crm_merge_kind_table(mc, kind, "brought back");
}

/* A record that a merge removed comes back by undoing that. */
static void
crm_undelete_check_merged(UndeleteContext *uc)
{
	MergeContext *mc = uc->mc;
	MergeParams p = {0};
	MergeRows rows;

	crm_merge_param_text(&p, crm_merge_kind(mc, uc->t));
	crm_merge_param_text(&p, uc->id);
	rows = crm_merge_run_log(mc,
							 psprintf("SELECT m.survivor_id, m.merge_id::text"
									  " FROM %s.merged_record AS m"
									  " WHERE m.kind = $1 AND m.record_id = $2",
									  quote_identifier(mc->workspace_name)),
							 &p, NULL);
	if (rows.count > 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("%s %s was merged, not deleted", uc->t->name, uc->id),
						errdetail("It went into %s by merge %s.", crm_merge_string(&rows, 0, 1),
								  crm_merge_string(&rows, 0, 2)),
						errhint("Undo that with unmerge(%s).", crm_merge_string(&rows, 0, 2))));
	crm_merge_free(&rows);
}

static void
crm_undelete_report(UndeleteContext *uc, ReturnSetInfo *rsinfo)
{
	for (int i = 0; i < uc->nrows; i++)
	{
		UndeleteRow *r = &uc->row[i];
		Datum values[5];
		bool nulls[5] = {false};
		bool insert = strcmp(r->operation, "insert") == 0;

		values[0] = CStringGetTextDatum(r->t->qualified);
		values[1] = r->record ? JsonbPGetDatum(r->record) : (Datum) 0;
		nulls[1] = r->record == NULL;
		values[2] = BoolGetDatum(r->restored);
		nulls[3] = insert || r->columns == NULL;
		values[3] = nulls[3] ? (Datum) 0 : CStringGetTextDatum(r->columns);
		nulls[4] = r->note == NULL;
		values[4] = nulls[4] ? (Datum) 0 : CStringGetTextDatum(r->note);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

PG_FUNCTION_INFO_V1(crm_undelete);
Datum
crm_undelete(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"workspace", "kind", "id", "dry_run"};
	static const AclMode needed[] = {ACL_INSERT, ACL_DELETE};
	UndeleteContext uc = {0};
	ErrorContextCallback callback;

	for (int i = 0; i < lengthof(names); i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("%s must not be null", names[i])));
	InitMaterializedSRF(fcinfo, 0);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	uc.mc = crm_merge_begin(PG_GETARG_OID(0));
	uc.t = crm_undelete_table(uc.mc, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	uc.id = crm_merge_id(uc.t, text_to_cstring(PG_GETARG_TEXT_PP(2)));
	for (int i = 0; i < lengthof(needed); i++)
	{
		AclResult acl = pg_class_aclcheck(uc.t->relid, GetUserId(), needed[i]);

		if (acl != ACLCHECK_OK)
			aclcheck_error(acl, OBJECT_TABLE, uc.t->name);
	}
	if (crm_merge_lock(uc.t, &uc.id, 1) == NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("%s %s is not deleted", uc.t->name, uc.id)));
	crm_undelete_check_merged(&uc);
	crm_undelete_plan(&uc);
	if (uc.nrows == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("there is no deleted %s %s to bring back", uc.t->name, uc.id),
				 errdetail("Its deletion is not in the audit log, or the record was not yours "
						   "to delete.")));
	callback.callback = crm_undelete_context;
	callback.arg = &uc;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	crm_undelete_run(&uc, PG_GETARG_BOOL(3));
	error_context_stack = callback.previous;
	crm_undelete_report(&uc, (ReturnSetInfo *) fcinfo->resultinfo);
	SPI_finish();
	return (Datum) 0;
}
