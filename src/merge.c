/*
 * merge.c
 *		Merging records.
 *
 * A merge of losers into a survivor is one transaction:
 *
 *	1. The caller locks the records in the order of their ids.  That is also the
 *	   check of the caller's rights: SELECT ... FOR UPDATE needs the SELECT and
 *	   UPDATE privilege and obeys the policies for both.
 *	2. The survivor's new values are computed from the workspace's merge_rule.
 *	3. Table by table, in the order of their names, every row that refers to a
 *	   loser is re-pointed, in one UPDATE however many of its columns refer to
 *	   losers.  Rows that a unique or exclusion constraint would not let stand
 *	   beside another are folded into it first, which is a merge of its own, one
 *	   level down.
 *	4. The losers are deleted, and leave tombstones.
 *	5. The survivor gets its values.  Only now can it take over a unique one.
 *
 * Rows that refer to a loser cannot appear meanwhile: a foreign key needs the
 * loser's row lock.  Every changed row goes to merge_change, in order, from which
 * unmerge() works backwards.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "parser/parse_func.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"
#include "utils/varlena.h"

#include "compat.h"
#include "crm.h"
#include "merge.h"
#include "workspace.h"

#define MERGE_MAX_LOSERS 1000
#define MERGE_MAX_DEPTH	 20

/* Columns of a table that name a record of the merged table. */
typedef struct MergeRef
{
	int n;
	int *cols;	  /* in the referring table */
	int *refcols; /* in the merged table */
	int kindcol;  /* -1: a foreign key */
	bool late;	  /* the survivor's key changes: moved after it */
	int64 rows;
	char *condition; /* on "t": refers to a loser */
	char **value;	 /* SQL of the survivor's value, for each column */
} MergeRef;

typedef struct MergeChild
{
	MergeTable *t;
	List *refs;
	bool self;
	MergeParams params;
	char *condition;	/* any of the refs */
	char **replacement; /* for each column of t: SQL of its new value, or NULL */
	int64 conflicts;
} MergeChild;

/* The records of one merge: the survivor is row 0. */
typedef struct MergeSet
{
	MergeTable *t;
	MergeRows rows;
	int n;
	Jsonb **images;
	Jsonb **keys;
	char **ids;
	Jsonb *set;	   /* new values of the survivor */
	Jsonb *fields; /* their provenance */
} MergeSet;

static Jsonb *crm_merge_set(MergeContext *mc, MergeTable *t, MergeRows rows);

/* ---------------------------------------------------------------------
 * The log
 * --------------------------------------------------------------------- */

static void
crm_log_params(MergeContext *mc, MergeTable *t, MergeParams *p)
{
	crm_merge_param(p, INT8OID, Int64GetDatum(mc->merge_id), false);
	crm_merge_param(p, INT4OID, Int32GetDatum(++mc->position), false);
	crm_merge_param_text(p, t->schema_oid == mc->workspace ? NULL : t->schema);
	crm_merge_param_text(p, t->name);
}

static MergeInput *
crm_log_input(void)
{
	MergeInput *input = palloc0(sizeof(MergeInput));

	input->desc = CreateTemplateTupleDesc(3);
	TupleDescInitEntry(input->desc, 1, "key", JSONBOID, -1, 0);
	TupleDescInitEntry(input->desc, 2, "before", JSONBOID, -1, 0);
	TupleDescInitEntry(input->desc, 3, "after", JSONBOID, -1, 0);
	input->store = tuplestore_begin_heap(false, false, work_mem);
	return input;
}

static void
crm_log_row(MergeInput *input, Jsonb *key, Jsonb *before, Jsonb *after)
{
	Datum values[3];
	bool nulls[3] = {false, false, after == NULL};

	values[0] = JsonbPGetDatum(key);
	values[1] = JsonbPGetDatum(before);
	values[2] = after ? JsonbPGetDatum(after) : (Datum) 0;
	tuplestore_putvalues(input->store, input->desc, values, nulls);
	input->count++;
}

static void
crm_log_write(MergeContext *mc, MergeTable *t, const char *operation, MergeInput *input)
{
	MergeParams p = {0};
	MergeRows rows;

	if (input->count > 0)
	{
		crm_log_params(mc, t, &p);
		crm_merge_param_text(&p, operation);
		rows = crm_merge_run_log(
			mc,
			psprintf(
				"INSERT INTO %s.merge_change"
				" (merge_id, position, table_schema, table_name, operation, key, before, after)"
				" SELECT $1, $2, $3, $4, $5, n.key, n.before, n.after FROM crm_rows AS n",
				quote_identifier(mc->workspace_name)),
			&p, input);
		crm_merge_free(&rows);
	}
	crm_merge_input_end(input);
}

/* Logs an UPDATE: "after" is its RETURNING, whose ordinals number rows of "before". */
static void
crm_log_update(MergeContext *mc, MergeTable *t, MergeRows *before, MergeRows *after)
{
	MergeInput *input = crm_log_input();

	for (uint64 i = 0; i < after->count; i++)
	{
		bool isnull;
		uint64 ord = DatumGetInt32(SPI_getbinval(after->table->vals[i], after->desc, 1, &isnull));
		Bitmapset *changed = NULL;

		for (int c = 0; c < t->ncols; c++)
			if (!t->generated[c] && !crm_merge_same(t, before, ord, after, i, c))
				changed = bms_add_member(changed, c);
		if (changed != NULL)
			crm_log_row(input, crm_merge_key(t, after, i), crm_merge_image(t, before, ord, NULL),
						crm_merge_image(t, after, i, changed));
		bms_free(changed);
	}
	crm_log_write(mc, t, "update", input);
}

/* ---------------------------------------------------------------------
 * Rows by key
 * --------------------------------------------------------------------- */

/* SQL that identifies rows with the given images by the given columns. */
static char *
crm_key_condition(MergeTable *t, Jsonb **images, int n, MergeParams *p)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoChar(&sql, '(');
	for (int i = 0; i < n; i++)
	{
		appendStringInfoString(&sql, i == 0 ? "(" : " OR (");
		for (int k = 0; k < t->nkey; k++)
		{
			int col = t->key[k];
			char *text = NULL;
			Oid type = getBaseType(t->coltype[col]);

			(void) crm_merge_get(images[i], t->colname[col], &text);
			appendStringInfo(&sql, "%st.%s %s $%d", k == 0 ? "" : " AND ",
							 quote_identifier(t->colname[col]), crm_merge_equality(type),
							 crm_merge_param(p, type,
											 InputFunctionCall(&t->in[col], text, t->inparam[col],
															   t->coltypmod[col]),
											 text == NULL));
		}
		appendStringInfoChar(&sql, ')');
	}
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/* The current version of one row of the set; it must be there. */
static MergeRows
crm_current(MergeContext *mc, MergeSet *s, int i)
{
	MergeTable *t = s->t;
	MergeParams p = {0};
	MergeRows rows;

	if (t->nkey > 0)
		rows = crm_merge_run(mc, t,
							 psprintf("SELECT 0, t.ctid, t.tableoid, t.* FROM %s AS t WHERE %s",
									  t->from, crm_key_condition(t, &s->keys[i], 1, &p)),
							 &p, NULL);
	else
	{
		MergeInput *input = crm_merge_input_tids();

		crm_merge_input_tid(input, &s->rows, i);
		rows = crm_merge_run(
			mc, t,
			psprintf("SELECT 0, t.ctid, t.tableoid, t.* FROM %s AS t JOIN crm_rows AS n"
					 " ON t.ctid OPERATOR(pg_catalog.=) n.crm_tid"
					 " AND t.tableoid OPERATOR(pg_catalog.=) n.crm_tab",
					 t->from),
			NULL, input);
		crm_merge_input_end(input);
	}
	if (rows.count != 1)
		ereport(ERROR, (errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
						errmsg("row of \"%s\" was removed while it was being merged", t->name),
						errdetail("A trigger or rule of the tables involved changed it."),
						s->ids[i] ? errhint("The row's key is %s.", s->ids[i]) : 0));
	return rows;
}

/* Sets columns of the survivor, all of them or those in the set. */
static void
crm_update_survivor(MergeContext *mc, MergeSet *s, Jsonb *set)
{
	MergeTable *t = s->t;
	Bitmapset *columns = NULL;
	StringInfoData sql;
	MergeRows before, after;
	MergeInput *input;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s AS t SET ", t->from);
	for (int c = 0; c < t->ncols; c++)
	{
		char *text;

		if (!crm_merge_get(set, t->colname[c], &text))
			continue;
		appendStringInfo(&sql, "%s%s = n.v%d", columns == NULL ? "" : ", ",
						 quote_identifier(t->colname[c]), c);
		columns = bms_add_member(columns, c);
	}
	if (columns == NULL)
		return;
	appendStringInfoString(&sql, " FROM crm_rows AS n WHERE t.ctid OPERATOR(pg_catalog.=) n.crm_tid"
								 " AND t.tableoid OPERATOR(pg_catalog.=) n.crm_tab"
								 " RETURNING n.crm_ord, t.ctid, t.tableoid, t.*");
	before = crm_current(mc, s, 0);
	input = crm_merge_input_values(t, columns);
	crm_merge_input_value(input, t, columns, 0, &before, 0, set);
	after = crm_merge_run(mc, t, sql.data, NULL, input);
	crm_merge_input_end(input);
	if (after.count != 1)
		ereport(ERROR, (errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
						errmsg("survivor in \"%s\" could not be updated", t->name),
						errdetail("A trigger of the table suppressed the change.")));
	crm_log_update(mc, t, &before, &after);
	if (t->nkey == 0)
		s->rows = after;
	else
	{
		crm_merge_free(&before);
		crm_merge_free(&after);
	}
}

/* ---------------------------------------------------------------------
 * Survivorship
 * --------------------------------------------------------------------- */

static Oid
crm_internal_function(const char *name, int nargs, Oid *types)
{
	return LookupFuncName(list_make2(makeString("crm"), makeString(pstrdup(name))), nargs, types,
						  false);
}

static Datum
crm_single_datum(MergeRows *rows, bool *isnull)
{
	if (rows->count != 1)
		elog(ERROR, "expected one row, got " UINT64_FORMAT, rows->count);
	return SPI_getbinval(rows->table->vals[0], rows->desc, 1, isnull);
}

static Jsonb *
crm_single_jsonb(MergeRows *rows)
{
	bool isnull;
	Datum d = crm_single_datum(rows, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(d);
}

static ArrayType *
crm_text_array(char **items, int n)
{
	Datum *d = palloc(Max(n, 1) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		d[i] = CStringGetTextDatum(items[i] ? items[i] : "");
	return construct_array(d, n, TEXTOID, -1, false, TYPALIGN_INT);
}

static void
crm_survivorship(MergeContext *mc, MergeSet *s)
{
	MergeTable *t = s->t;
	Oid types[] = {REGCLASSOID,	 TEXTARRAYOID, get_array_type(JSONBOID),
				   TEXTARRAYOID, JSONBOID,	   JSONBOID};
	Datum *images = palloc(s->n * sizeof(Datum));
	char **key = palloc(Max(t->nkey, 1) * sizeof(char *));
	MergeParams p = {0};
	MergeRows rows;
	Jsonb *rules, *sources, *result;
	MergeRole saved;
	Oid fn = crm_internal_function("_survivorship", 6, types);
	JsonbValue v;

	crm_merge_param_text(&p, crm_merge_kind(mc, t));
	crm_merge_param(&p, TEXTARRAYOID, PointerGetDatum(crm_text_array(s->ids, s->n)), false);
	rows = crm_merge_run_log(
		mc,
		psprintf("SELECT coalesce(jsonb_agg(to_jsonb(r)), '[]') FROM %s.merge_rule AS r"
				 " WHERE r.kind IN ($1, '*') AND $2 IS NOT NULL",
				 quote_identifier(mc->workspace_name)),
		&p, NULL);
	rules = crm_single_jsonb(&rows);
	crm_merge_free(&rows);
	rows = crm_merge_run_log(
		mc,
		psprintf("SELECT coalesce(jsonb_object_agg(e.id, e.systems), '{}') FROM"
				 " (SELECT x.record_id::text AS id, jsonb_agg(x.system) AS systems"
				 " FROM %s.external_reference AS x"
				 " WHERE x.kind = $1 AND x.record_id::text = ANY ($2) GROUP BY 1) AS e",
				 quote_identifier(mc->workspace_name)),
		&p, NULL);
	sources = crm_single_jsonb(&rows);
	crm_merge_free(&rows);

	for (int i = 0; i < s->n; i++)
		images[i] = JsonbPGetDatum(s->images[i]);
	for (int i = 0; i < t->nkey; i++)
		key[i] = t->colname[t->key[i]];
	crm_merge_become(&saved, t->owner, t->schema);
	/* Called by OID: the table's owner needs no privilege on the toolkit. */
	result = DatumGetJsonbP(OidFunctionCall6(
		fn, ObjectIdGetDatum(t->relid), PointerGetDatum(crm_text_array(key, t->nkey)),
		PointerGetDatum(construct_array(images, s->n, JSONBOID, -1, false, TYPALIGN_INT)),
		PointerGetDatum(crm_text_array(s->ids, s->n)), JsonbPGetDatum(rules),
		JsonbPGetDatum(sources)));
	crm_merge_return(&saved);

	getKeyJsonValueFromContainer(&result->root, "set", 3, &v);
	s->set = JsonbValueToJsonb(&v);
	getKeyJsonValueFromContainer(&result->root, "fields", 6, &v);
	s->fields = JsonbValueToJsonb(&v);
}

/* {"name": value}, value NULL for null */
static Jsonb *
crm_jsonb_pair(const char *name, const char *value)
{
	JsonbParseState *state = NULL;
	JsonbValue v;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	v.type = jbvString;
	v.val.string.val = unconstify(char *, name);
	v.val.string.len = strlen(name);
	pushJsonbValue(&state, WJB_KEY, &v);
	if (value == NULL)
		v.type = jbvNull;
	else
	{
		v.val.string.val = unconstify(char *, value);
		v.val.string.len = strlen(value);
	}
	pushJsonbValue(&state, WJB_VALUE, &v);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
crm_push_jsonb(JsonbParseState **state, const char *key, Jsonb *value)
{
	JsonbValue v;

	v.type = jbvString;
	v.val.string.val = unconstify(char *, key);
	v.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &v);
	v.type = jbvBinary;
	v.val.binary.data = &value->root;
	v.val.binary.len = VARSIZE(value) - VARHDRSZ;
	pushJsonbValue(state, WJB_VALUE, &v);
}

/* {"name": value} */
static Jsonb *
crm_jsonb_object(const char *name, Jsonb *value)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	crm_push_jsonb(&state, name, value);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static Jsonb *
crm_jsonb_concat(Jsonb *a, Jsonb *b)
{
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(a), JsonbPGetDatum(b)));
}

static Jsonb *
crm_jsonb_delete(Jsonb *a, const char *name)
{
	return DatumGetJsonbP(
		DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(a), CStringGetTextDatum(name)));
}

/* Runs crm_update_survivor() in a subtransaction; the error if a rule of the data refuses it. */
static ErrorData *
crm_try_survivor(MergeContext *mc, MergeSet *s, Jsonb *set)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int position = mc->position;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		crm_update_survivor(mc, s, set);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(cxt);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		int category;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(cxt);
		CurrentResourceOwner = owner;
		mc->position = position;
		category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (category != ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION &&
			category != ERRCODE_TO_CATEGORY(ERRCODE_CRM('0', '0', '0')) &&
			category != ERRCODE_TO_CATEGORY(ERRCODE_RAISE_EXCEPTION))
			ReThrowError(error);
	}
	PG_END_TRY();
	return error;
}

/*
 * Gives the survivor its new values.  What a constraint or trigger refuses is
 * left out and noted: the survivor's own value is always one that may stand.
 */
static void
crm_fill_survivor(MergeContext *mc, MergeSet *s)
{
	if (JsonContainerSize(&s->set->root) == 0)
		return;
	if (crm_try_survivor(mc, s, s->set) == NULL)
		return;
	for (int c = 0; c < s->t->ncols; c++)
	{
		char *name = s->t->colname[c];
		char *value;
		ErrorData *error;

		if (!crm_merge_get(s->set, name, &value))
			continue;
		error = crm_try_survivor(mc, s, crm_jsonb_pair(name, value));
		if (error != NULL)
			s->fields = crm_jsonb_concat(
				s->fields, crm_jsonb_object(name, crm_jsonb_pair("refused", error->message)));
	}
}

/* ---------------------------------------------------------------------
 * References
 * --------------------------------------------------------------------- */

static int *
crm_columns(MergeTable *t, Datum names, int *n)
{
	Datum *d;
	int *cols;

	deconstruct_array(DatumGetArrayTypeP(names), TEXTOID, -1, false, TYPALIGN_INT, &d, NULL, n);
	cols = palloc(*n * sizeof(int));
	for (int i = 0; i < *n; i++)
		cols[i] = crm_merge_column(t, TextDatumGetCString(d[i]));
	return cols;
}

static MergeChild *
crm_child(MergeContext *mc, List **children, Oid relid)
{
	MergeChild *child;
	ListCell *lc;

	foreach (lc, *children)
	{
		child = lfirst(lc);
		if (child->t->relid == relid)
			return child;
	}
	child = palloc0(sizeof(MergeChild));
	child->t = crm_merge_table(mc, relid);
	*children = lappend(*children, child);
	return child;
}

/* Whether a column of a link table can hold ids of a type at all. */
static bool
crm_can_hold(Oid column, Oid id)
{
	char column_category, id_category;
	bool preferred;

	if (getBaseType(column) == getBaseType(id))
		return true;
	get_type_category_preferred(getBaseType(column), &column_category, &preferred);
	get_type_category_preferred(getBaseType(id), &id_category, &preferred);
	return column_category == TYPCATEGORY_STRING ||
		   (column_category == TYPCATEGORY_NUMERIC && id_category == TYPCATEGORY_NUMERIC);
}

/* Every table that refers to the merged one, by foreign key or by kind and id, by name. */
static List *
crm_children(MergeContext *mc, MergeSet *s)
{
	static const char *const foreign_keys =
		"SELECT c.conrelid,"
		" (SELECT array_agg(a.attname::text ORDER BY k.ord) FROM unnest(c.conkey) WITH ORDINALITY "
		"AS k (num, ord)"
		"  JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.num),"
		" (SELECT array_agg(a.attname::text ORDER BY k.ord) FROM unnest(c.confkey) WITH ORDINALITY "
		"AS k (num, ord)"
		"  JOIN pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.num)"
		" FROM pg_constraint AS c"
		" JOIN pg_class AS r ON r.oid = c.conrelid"
		" JOIN pg_namespace AS n ON n.oid = r.relnamespace"
		" WHERE c.contype = 'f' AND c.confrelid = $1 AND c.conparentid = 0"
		" ORDER BY n.nspname COLLATE \"C\", r.relname COLLATE \"C\", c.conname COLLATE \"C\"";
	static const char *const links =
		"SELECT x.relid, x.kind_column, x.id_column FROM ("
		" SELECT c.oid AS relid, 'kind' AS kind_column, 'record_id' AS id_column"
		" FROM pg_class AS c"
		" WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
		" AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'kind'"
		"  AND a.atttypid = 'text'::regtype)"
		" AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = "
		"'record_id')"
		" AND NOT EXISTS (SELECT FROM %1$s.merge_link AS l WHERE to_regclass(l.table_name) = c.oid"
		"  AND l.kind_column = 'kind' AND l.id_column = 'record_id')"
		" UNION ALL"
		" SELECT to_regclass(l.table_name), l.kind_column, l.id_column FROM %1$s.merge_link AS l"
		" WHERE l.move AND to_regclass(l.table_name) IS NOT NULL) AS x"
		" ORDER BY x.relid::regclass::text COLLATE \"C\", 2, 3";
	MergeTable *t = s->t;
	List *children = NIL;
	MergeParams p = {0};
	MergeRows rows;
	bool isnull;

	crm_merge_param(&p, OIDOID, ObjectIdGetDatum(t->relid), false);
	rows = crm_merge_run_log(mc, foreign_keys, &p, NULL);
	for (uint64 i = 0; i < rows.count; i++)
	{
		HeapTuple row = rows.table->vals[i];
		MergeChild *child =
			crm_child(mc, &children, DatumGetObjectId(SPI_getbinval(row, rows.desc, 1, &isnull)));
		MergeRef *ref = palloc0(sizeof(MergeRef));

		ref->kindcol = -1;
		ref->cols = crm_columns(child->t, SPI_getbinval(row, rows.desc, 2, &isnull), &ref->n);
		ref->refcols = crm_columns(t, SPI_getbinval(row, rows.desc, 3, &isnull), &ref->n);
		child->refs = lappend(child->refs, ref);
		if (child->t == t)
			child->self = true;
	}
	crm_merge_free(&rows);

	if (t->nkey != 1)
		return children;
	p.values[0] = ObjectIdGetDatum(mc->workspace);
	rows = crm_merge_run_log(mc, psprintf(links, quote_identifier(mc->workspace_name)), &p, NULL);
	for (uint64 i = 0; i < rows.count; i++)
	{
		HeapTuple row = rows.table->vals[i];
		Oid relid = DatumGetObjectId(SPI_getbinval(row, rows.desc, 1, &isnull));
		char *kindcol = TextDatumGetCString(SPI_getbinval(row, rows.desc, 2, &isnull));
		char *idcol = TextDatumGetCString(SPI_getbinval(row, rows.desc, 3, &isnull));
		MergeChild *child = crm_child(mc, &children, relid);
		MergeRef *ref = palloc0(sizeof(MergeRef));

		ref->n = 1;
		ref->cols = palloc(sizeof(int));
		ref->refcols = palloc(sizeof(int));
		ref->cols[0] = crm_merge_column(child->t, idcol);
		ref->refcols[0] = t->key[0];
		ref->kindcol = crm_merge_column(child->t, kindcol);
		if (ref->cols[0] < 0 || ref->kindcol < 0)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
							errmsg("table \"%s\" has no column \"%s\"", child->t->name,
								   ref->kindcol < 0 ? kindcol : idcol),
							errhint("Correct the row of merge_link.")));
		if (crm_can_hold(child->t->coltype[ref->cols[0]], t->coltype[t->key[0]]))
			child->refs = lappend(child->refs, ref);
	}
	crm_merge_free(&rows);
	return children;
}

static int
crm_typed_param(MergeTable *t, int col, char *text, MergeParams *p)
{
	return crm_merge_param(p, getBaseType(t->coltype[col]),
						   InputFunctionCall(&t->in[col], text, t->inparam[col], t->coltypmod[col]),
						   text == NULL);
}

/*
 * Prepares the SQL of one reference: the condition that a row refers to a loser,
 * and the survivor's value for each column.  False if no row can refer to one.
 */
static bool
crm_prepare_ref(MergeContext *mc, MergeSet *s, MergeChild *child, MergeRef *ref)
{
	MergeTable *t = child->t;
	StringInfoData sql;
	int terms = 0;

	for (int k = 0; k < ref->n; k++)
		if (t->generated[ref->cols[k]])
			return false;

	ref->value = palloc(ref->n * sizeof(char *));
	for (int k = 0; k < ref->n; k++)
	{
		char *text = NULL;
		char *name = s->t->colname[ref->refcols[k]];

		if (!crm_merge_get(s->set, name, &text))
			(void) crm_merge_get(s->images[0], name, &text);
		ref->value[k] = psprintf("$%d", crm_typed_param(t, ref->cols[k], text, &child->params));
	}

	initStringInfo(&sql);
	if (ref->kindcol >= 0)
		appendStringInfo(&sql, "t.%s OPERATOR(pg_catalog.=) %s AND ",
						 quote_identifier(t->colname[ref->kindcol]),
						 quote_literal_cstr(crm_merge_kind(mc, s->t)));
	if (ref->n == 1 && OidIsValid(get_array_type(getBaseType(t->coltype[ref->cols[0]]))))
	{
		int col = ref->cols[0];
		Oid type = getBaseType(t->coltype[col]);
		Datum *items = palloc(s->n * sizeof(Datum));
		int16 len;
		bool byval;
		char align;

		for (int i = 1; i < s->n; i++)
		{
			char *text = NULL;

			(void) crm_merge_get(s->images[i], s->t->colname[ref->refcols[0]], &text);
			if (text != NULL)
				items[terms++] =
					InputFunctionCall(&t->in[col], text, t->inparam[col], t->coltypmod[col]);
		}
		get_typlenbyvalalign(type, &len, &byval, &align);
		appendStringInfo(
			&sql, "t.%s %s ANY ($%d)", quote_identifier(t->colname[col]), crm_merge_equality(type),
			crm_merge_param(&child->params, get_array_type(type),
							PointerGetDatum(construct_array(items, terms, type, len, byval, align)),
							false));
	}
	else
	{
		appendStringInfoChar(&sql, '(');
		for (int i = 1; i < s->n; i++)
		{
			StringInfoData term;
			bool isnull = false;

			initStringInfo(&term);
			for (int k = 0; k < ref->n; k++)
			{
				int col = ref->cols[k];
				char *text = NULL;

				(void) crm_merge_get(s->images[i], s->t->colname[ref->refcols[k]], &text);
				if (text == NULL)
					isnull = true;
				else
					appendStringInfo(&term, "%st.%s %s $%d", k == 0 ? "" : " AND ",
									 quote_identifier(t->colname[col]),
									 crm_merge_equality(getBaseType(t->coltype[col])),
									 crm_typed_param(t, col, text, &child->params));
			}
			if (!isnull)
				appendStringInfo(&sql, "%s(%s)", terms++ == 0 ? "" : " OR ", term.data);
		}
		appendStringInfoChar(&sql, ')');
	}
	ref->condition = sql.data;
	return terms > 0;
}

/* Prepares the one UPDATE of a table: which rows, and what each column becomes. */
static bool
crm_prepare_child(MergeContext *mc, MergeSet *s, MergeChild *child)
{
	MergeTable *t = child->t;
	StringInfoData condition;
	List *refs = NIL;
	ListCell *lc;

	child->params.count = 0;
	initStringInfo(&condition);
	foreach (lc, child->refs)
	{
		MergeRef *ref = lfirst(lc);

		if (!crm_prepare_ref(mc, s, child, ref))
			continue;
		refs = lappend(refs, ref);
		appendStringInfo(&condition, "%s(%s)", condition.len == 0 ? "" : " OR ", ref->condition);
	}
	child->refs = refs;
	if (refs == NIL)
		return false;
	/* The merged rows' own references among themselves go with them. */
	if (child->self)
		child->condition = psprintf("(%s) AND NOT %s", condition.data,
									crm_key_condition(t, s->keys, s->n, &child->params));
	else
		child->condition = psprintf("(%s)", condition.data);

	child->replacement = palloc0(t->ncols * sizeof(char *));
	for (int c = 0; c < t->ncols; c++)
	{
		StringInfoData sql;

		initStringInfo(&sql);
		foreach (lc, refs)
		{
			MergeRef *ref = lfirst(lc);

			for (int k = 0; k < ref->n; k++)
				if (ref->cols[k] == c)
					appendStringInfo(&sql, " WHEN %s THEN %s", ref->condition, ref->value[k]);
		}
		if (sql.len > 0)
			child->replacement[c] =
				psprintf("CASE%s ELSE t.%s END", sql.data, quote_identifier(t->colname[c]));
	}
	return true;
}

static char *
crm_order(MergeTable *t)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int k = 0; k < t->nkey; k++)
		appendStringInfo(&sql, "%st.%s", k == 0 ? "" : ", ",
						 quote_identifier(t->colname[t->key[k]]));
	if (t->nkey == 0)
		appendStringInfoString(&sql, "t.tableoid, t.ctid");
	return sql.data;
}

/* ---------------------------------------------------------------------
 * Conflicts with unique and exclusion constraints
 * --------------------------------------------------------------------- */

/*
 * The rows to be re-pointed that one index would refuse: pairs (row to fold, row
 * that stays), as ctid and tableoid each, in a defined order.
 */
static MergeRows
crm_conflicts(MergeContext *mc, MergeChild *child, char **exprs, char **operators, int n,
			  char *predicate, bool nulls_distinct)
{
	MergeTable *t = child->t;
	StringInfoData sql, keys, old, image, with_old, with_moved;

	initStringInfo(&sql);
	initStringInfo(&keys);
	initStringInfo(&old);
	initStringInfo(&image);
	initStringInfo(&with_old);
	initStringInfo(&with_moved);
	for (int k = 0; k < n; k++)
	{
		appendStringInfo(&keys, ", %s AS crm_k%d", exprs[k], k);
		appendStringInfo(&with_old, "%s(m.crm_k%d %s o.crm_k%d", k == 0 ? "" : " AND ", k,
						 operators[k], k);
		appendStringInfo(&with_moved, "%s(a.crm_k%d %s b.crm_k%d", k == 0 ? "" : " AND ", k,
						 operators[k], k);
		if (!nulls_distinct)
		{
			appendStringInfo(&with_old, " OR m.crm_k%d IS NULL AND o.crm_k%d IS NULL", k, k);
			appendStringInfo(&with_moved, " OR a.crm_k%d IS NULL AND b.crm_k%d IS NULL", k, k);
		}
		appendStringInfoChar(&with_old, ')');
		appendStringInfoChar(&with_moved, ')');
	}
	for (int c = 0; c < t->ncols; c++)
	{
		char *name = pstrdup(quote_identifier(t->colname[c]));

		if (child->replacement[c])
			appendStringInfo(&image, ", %s AS %s", child->replacement[c], name);
		else
			appendStringInfo(&image, ", t.%s", name);
	}
	appendStringInfo(
		&sql,
		"WITH m AS MATERIALIZED (SELECT row_number() OVER (ORDER BY %s) AS crm_ord,"
		" t.crm_tid, t.crm_tab%s"
		" FROM (SELECT t.ctid AS crm_tid, t.tableoid AS crm_tab%s FROM %s AS t WHERE %s) AS t"
		" WHERE %s)",
		t->nkey > 0 ? crm_order(t) : "t.crm_tab, t.crm_tid", keys.data, image.data, t->from,
		child->condition, predicate);
	appendStringInfo(
		&sql,
		" SELECT m.crm_tid, m.crm_tab, o.crm_tid, o.crm_tab, m.crm_ord, 0 AS other FROM m JOIN"
		" (SELECT t.ctid AS crm_tid, t.tableoid AS crm_tab%s FROM %s AS t"
		"  WHERE (%s) IS NOT TRUE AND (%s)) AS o ON %s",
		keys.data, t->from, child->condition, predicate, with_old.data);
	appendStringInfo(&sql,
					 " UNION ALL"
					 " SELECT b.crm_tid, b.crm_tab, a.crm_tid, a.crm_tab, b.crm_ord, a.crm_ord"
					 " FROM m AS a JOIN m AS b ON a.crm_ord < b.crm_ord AND %s"
					 " ORDER BY 5, 6",
					 with_moved.data);
	return crm_merge_run(mc, t, sql.data, &child->params, NULL);
}

typedef struct MergeTid
{
	ItemPointerData tid;
	Oid table;
} MergeTid;

static MergeTid
crm_tid(MergeRows *rows, uint64 row, int column)
{
	MergeTid result;
	bool isnull;

	result.tid = *(ItemPointer) DatumGetPointer(
		SPI_getbinval(rows->table->vals[row], rows->desc, column, &isnull));
	result.table =
		DatumGetObjectId(SPI_getbinval(rows->table->vals[row], rows->desc, column + 1, &isnull));
	return result;
}

static bool
crm_tid_known(List **seen, MergeTid *tid, bool add)
{
	ListCell *lc;
	MergeTid *copy;

	foreach (lc, *seen)
	{
		MergeTid *other = lfirst(lc);

		if (other->table == tid->table && ItemPointerEquals(&other->tid, &tid->tid))
			return true;
	}
	if (add)
	{
		copy = palloc(sizeof(MergeTid));
		*copy = *tid;
		*seen = lappend(*seen, copy);
	}
	return false;
}

/* Folds row "fold" into row "keep": a merge of the two, which its own references follow. */
static void
crm_fold(MergeContext *mc, MergeTable *t, MergeTid *keep, MergeTid *fold)
{
	MergeInput *input = crm_merge_input_tids();
	MergeTid *tids[2] = {keep, fold};
	MergeRows rows;

	for (int i = 0; i < 2; i++)
	{
		Datum values[MERGE_LEAD];
		bool nulls[MERGE_LEAD] = {false};

		values[0] = Int32GetDatum(i);
		values[1] = PointerGetDatum(&tids[i]->tid);
		values[2] = ObjectIdGetDatum(tids[i]->table);
		tuplestore_putvalues(input->store, input->desc, values, nulls);
		input->count++;
	}
	rows = crm_merge_run(
		mc, t,
		psprintf("SELECT n.crm_ord, t.ctid, t.tableoid, t.* FROM %s AS t JOIN crm_rows AS n"
				 " ON t.ctid OPERATOR(pg_catalog.=) n.crm_tid"
				 " AND t.tableoid OPERATOR(pg_catalog.=) n.crm_tab"
				 " ORDER BY n.crm_ord FOR UPDATE OF t",
				 t->from),
		NULL, input);
	crm_merge_input_end(input);
	if (rows.count != 2)
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("could not serialize access due to concurrent update"),
						errdetail("A row of \"%s\" changed while records it refers to were merged.",
								  t->name)));
	(void) crm_merge_set(mc, t, rows);
}

static char **
crm_strings(Datum array, int *n)
{
	Datum *d;
	bool *nulls;
	char **result;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &d, &nulls, n);
	result = palloc(Max(*n, 1) * sizeof(char *));
	for (int i = 0; i < *n; i++)
		result[i] = nulls[i] ? NULL : TextDatumGetCString(d[i]);
	return result;
}

/* Folds every row of the table that some index would refuse once it is re-pointed. */
static void
crm_resolve_conflicts(MergeContext *mc, MergeChild *child)
{
	static const char *const indexes =
		"SELECT array_agg(pg_get_indexdef(i.indexrelid, k.ord::integer, false) ORDER BY k.ord),"
		" array_agg(format('OPERATOR(%I.%s)', n.nspname, o.oprname) ORDER BY k.ord),"
		" coalesce(pg_get_expr(i.indpred, i.indrelid), 'true'),"
		" NOT i.indnullsnotdistinct,"
		" bool_or(a.attname = ANY ($2) OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)"
		" FROM pg_index AS i"
		" LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid"
		"  AND c.contype IN ('p', 'u', 'x')"
		" CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k "
		"(num, class, ord)"
		" JOIN pg_opclass AS oc ON oc.oid = k.class"
		" LEFT JOIN pg_amop AS ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = "
		"oc.opcintype"
		"  AND ao.amoprighttype = oc.opcintype AND ao.amopstrategy = 3 AND NOT i.indisexclusion"
		" JOIN pg_operator AS o ON o.oid = coalesce(c.conexclop[k.ord], ao.amopopr)"
		" JOIN pg_namespace AS n ON n.oid = o.oprnamespace"
		" LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.num"
		" WHERE i.indrelid = $1 AND (i.indisunique OR i.indisexclusion) AND i.indisvalid"
		"  AND k.ord <= i.indnkeyatts"
		" GROUP BY i.indexrelid, i.indpred, i.indrelid, i.indnullsnotdistinct"
		" ORDER BY i.indexrelid";
	MergeTable *t = child->t;
	MergeParams p = {0};
	MergeRows rows;
	char **moved = palloc(t->ncols * sizeof(char *));
	int nmoved = 0;
	bool isnull;

	for (int c = 0; c < t->ncols; c++)
		if (child->replacement[c])
			moved[nmoved++] = t->colname[c];
	crm_merge_param(&p, OIDOID, ObjectIdGetDatum(t->relid), false);
	crm_merge_param(&p, TEXTARRAYOID, PointerGetDatum(crm_text_array(moved, nmoved)), false);
	rows = crm_merge_run(mc, t, indexes, &p, NULL);
	for (uint64 i = 0; i < rows.count; i++)
	{
		HeapTuple row = rows.table->vals[i];
		int n;
		char **exprs = crm_strings(SPI_getbinval(row, rows.desc, 1, &isnull), &n);
		char **operators = crm_strings(SPI_getbinval(row, rows.desc, 2, &isnull), &n);
		char *predicate = TextDatumGetCString(SPI_getbinval(row, rows.desc, 3, &isnull));
		bool nulls_distinct = DatumGetBool(SPI_getbinval(row, rows.desc, 4, &isnull));
		bool involved = DatumGetBool(SPI_getbinval(row, rows.desc, 5, &isnull));
		bool again = involved && !isnull;

		/* Folding moves rows, so their places are good for one fold each; then look anew. */
		while (again)
		{
			MergeRows pairs =
				crm_conflicts(mc, child, exprs, operators, n, predicate, nulls_distinct);
			List *seen = NIL;

			again = false;
			for (uint64 j = 0; j < pairs.count; j++)
			{
				MergeTid fold = crm_tid(&pairs, j, 1);
				MergeTid keep = crm_tid(&pairs, j, 3);

				CHECK_FOR_INTERRUPTS();
				if (crm_tid_known(&seen, &fold, false) || crm_tid_known(&seen, &keep, false))
					continue;
				crm_tid_known(&seen, &fold, true);
				crm_tid_known(&seen, &keep, true);
				crm_fold(mc, t, &keep, &fold);
				child->conflicts++;
				again = true;
			}
			crm_merge_free(&pairs);
		}
	}
	crm_merge_free(&rows);
}

/* ---------------------------------------------------------------------
 * Re-pointing
 * --------------------------------------------------------------------- */

static Jsonb *
crm_totals_json(MergeTable *t, Datum *totals)
{
	JsonbParseState *state = NULL;
	JsonbValue v;
	bool any = false;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int c = 0; c < t->ncols; c++)
	{
		if (totals[c] == (Datum) 0)
			continue;
		any = true;
		v.type = jbvString;
		v.val.string.val = t->colname[c];
		v.val.string.len = strlen(t->colname[c]);
		pushJsonbValue(&state, WJB_KEY, &v);
		v.type = jbvNumeric;
		v.val.numeric = DatumGetNumeric(totals[c]);
		pushJsonbValue(&state, WJB_VALUE, &v);
	}
	v = *pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return any ? JsonbValueToJsonb(&v) : NULL;
}

static void
crm_report(MergeContext *mc, MergeTable *t, const char *column, int64 rows, int64 conflicts,
		   Jsonb *totals, const char *note)
{
	MemoryContext old = MemoryContextSwitchTo(mc->cxt);
	MergeReport *r = palloc0(sizeof(MergeReport));

	r->table_name = t->qualified;
	r->column_name = column ? pstrdup(column) : NULL;
	r->rows = rows;
	r->conflicts = conflicts;
	if (totals != NULL)
	{
		r->totals = palloc(VARSIZE(totals));
		memcpy(r->totals, totals, VARSIZE(totals));
	}
	r->note = note ? pstrdup(note) : NULL;
	mc->reports = lappend(mc->reports, r);
	MemoryContextSwitchTo(old);
}

/* Counts, for the report, which references a batch moved, and sums the amounts that went with it.
 */
static void
crm_count_moved(MergeChild *child, MergeRows *before, MergeRows *after, Datum *totals)
{
	MergeTable *t = child->t;
	MemoryContext cxt = GetMemoryChunkContext(totals);

	for (uint64 i = 0; i < after->count; i++)
	{
		bool isnull;
		uint64 ord = DatumGetInt32(SPI_getbinval(after->table->vals[i], after->desc, 1, &isnull));
		ListCell *lc;

		foreach (lc, child->refs)
		{
			MergeRef *ref = lfirst(lc);

			for (int k = 0; k < ref->n; k++)
				if (!crm_merge_same(t, before, ord, after, i, ref->cols[k]))
				{
					ref->rows++;
					break;
				}
		}
		for (int c = 0; c < t->ncols; c++)
		{
			Datum value;
			MemoryContext old;

			if (t->coltype[c] != NUMERICOID || child->replacement[c])
				continue;
			value = crm_merge_value(before, ord, c, &isnull);
			if (isnull)
				continue;
			old = MemoryContextSwitchTo(cxt);
			totals[c] = totals[c] == (Datum) 0 ? PointerGetDatum(PG_DETOAST_DATUM_COPY(value))
											   : DirectFunctionCall2(numeric_add, totals[c], value);
			MemoryContextSwitchTo(old);
		}
	}
}

/* Re-points every row of one table, in batches. */
static void
crm_move(MergeContext *mc, MergeSet *s, MergeChild *child)
{
	MergeTable *t = child->t;
	Datum *totals = palloc0(t->ncols * sizeof(Datum));
	MemoryContext batch =
		AllocSetContextCreate(CurrentMemoryContext, "crm merge batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(batch);
	char *select;
	StringInfoData update;
	bool first = true;
	int64 moved = 0;
	ListCell *lc;

	MemoryContextSwitchTo(old);
	select = psprintf("SELECT 0, t.ctid, t.tableoid, t.* FROM %s AS t WHERE %s ORDER BY %s"
					  " LIMIT %d FOR UPDATE OF t",
					  t->from, child->condition, crm_order(t), MERGE_BATCH);
	initStringInfo(&update);
	appendStringInfo(&update, "UPDATE %s AS t SET ", t->from);
	for (int c = 0; c < t->ncols; c++)
	{
		if (child->replacement[c] == NULL)
			continue;
		appendStringInfo(&update, "%s%s = %s", first ? "" : ", ", quote_identifier(t->colname[c]),
						 child->replacement[c]);
		first = false;
	}
	appendStringInfoString(&update, " FROM crm_rows AS n"
									" WHERE t.ctid OPERATOR(pg_catalog.=) n.crm_tid"
									" AND t.tableoid OPERATOR(pg_catalog.=) n.crm_tab"
									" RETURNING n.crm_ord, t.ctid, t.tableoid, t.*");
	for (;;)
	{
		MergeRows before, after;
		MergeInput *input;

		MemoryContextSwitchTo(batch);
		before = crm_merge_run(mc, t, select, &child->params, NULL);
		if (before.count == 0)
			break;
		input = crm_merge_input_tids();
		for (uint64 i = 0; i < before.count; i++)
			crm_merge_input_tid(input, &before, i);
		after = crm_merge_run(mc, t, update.data, &child->params, input);
		crm_merge_input_end(input);
		if (after.count != before.count)
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
					 errmsg("rows of \"%s\" could not be re-pointed", t->name),
					 errdetail("A trigger of the table suppressed the change of " UINT64_FORMAT
							   " rows.",
							   before.count - after.count)));
		moved = 0;
		foreach (lc, child->refs)
			moved -= ((MergeRef *) lfirst(lc))->rows;
		crm_count_moved(child, &before, &after, totals);
		foreach (lc, child->refs)
			moved += ((MergeRef *) lfirst(lc))->rows;
		if (moved == 0)
			ereport(ERROR, (errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
							errmsg("rows of \"%s\" could not be re-pointed", t->name),
							errdetail("A trigger of the table put the old values back.")));
		crm_log_update(mc, t, &before, &after);
		crm_merge_free(&before);
		crm_merge_free(&after);
		MemoryContextReset(batch);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(batch);

	foreach (lc, child->refs)
	{
		MergeRef *ref = lfirst(lc);

		for (int k = 0; k < ref->n; k++)
			if (ref->rows > 0 || child->conflicts > 0)
				crm_report(mc, t, t->colname[ref->cols[k]], ref->rows,
						   lc == list_head(child->refs) ? child->conflicts : 0,
						   lc == list_head(child->refs) && k == 0 ? crm_totals_json(t, totals)
																  : NULL,
						   child->conflicts > 0 && lc == list_head(child->refs)
							   ? "conflicting rows are folded into the row that stays"
							   : NULL);
	}
}

/*
 * A transaction with a snapshot of its own age cannot see rows that were
 * committed after it but before the locks: they would be left behind.
 */
static void
crm_check_unseen(MergeContext *mc, MergeChild *child)
{
	MergeTable *t = child->t;
	MergeRole saved;
	SPIPlanPtr plan;

	if (!IsolationUsesXactSnapshot())
		return;
	crm_merge_become(&saved, t->owner, t->schema);
	plan = SPI_prepare(psprintf("SELECT FROM %s AS t WHERE %s LIMIT 1", t->from, child->condition),
					   child->params.count, child->params.types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	SPI_execute_snapshot(plan, child->params.values, child->params.nulls, GetLatestSnapshot(),
						 InvalidSnapshot, true, false, 1);
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update"),
				 errdetail(
					 "A row of \"%s\" that this transaction cannot see refers to a merged record.",
					 t->name),
				 errhint("The transaction might succeed if retried.")));
	SPI_freeplan(plan);
	crm_merge_return(&saved);
}

/* ---------------------------------------------------------------------
 * Trees
 * --------------------------------------------------------------------- */

/* Number of the record whose key is "id" in the merge, or -1. */
static int
crm_in_set(MergeSet *s, int col, const char *id)
{
	for (int i = 0; i < s->n; i++)
	{
		char *text = NULL;

		(void) crm_merge_get(s->images[i], s->t->colname[col], &text);
		if (text != NULL && strcmp(text, id) == 0)
			return i;
	}
	return -1;
}

/*
 * The survivor's place in a tree of its own table.  Above the proposed parent
 * there may be records of the merge, all of which become the survivor: so that
 * no loop arises, it takes the place of the topmost of them.
 */
static char *
crm_tree_parent(MergeContext *mc, MergeSet *s, MergeRef *ref, char *parent)
{
	MergeTable *t = s->t;
	int col = ref->cols[0];
	int refcol = ref->refcols[0];
	Oid type = getBaseType(t->coltype[refcol]);
	char *result = parent;
	char *sql = psprintf("SELECT 0, t.ctid, t.tableoid, t.* FROM %s AS t WHERE t.%s %s $1 LIMIT 1",
						 t->from, quote_identifier(t->colname[refcol]), crm_merge_equality(type));

	for (int depth = 0; parent != NULL; depth++)
	{
		MergeParams p = {0};
		MergeRows rows;
		char *next = NULL;

		/* A loop that was there before is none of the merge's making. */
		if (depth > 10000)
			return NULL;
		crm_typed_param(t, refcol, parent, &p);
		rows = crm_merge_run(mc, t, sql, &p, NULL);
		if (rows.count > 0)
			next = crm_merge_text(t, &rows, 0, col);
		crm_merge_free(&rows);
		if (crm_in_set(s, refcol, parent) >= 0)
			result = next;
		parent = next;
	}
	return result;
}

/* Before the losers go, the survivor must not refer to them. */
static void
crm_plan_trees(MergeContext *mc, MergeSet *s, List *children)
{
	MergeTable *t = s->t;
	Jsonb *early = NULL;
	ListCell *lc, *lr;

	foreach (lc, children)
	{
		MergeChild *child = lfirst(lc);

		if (!child->self)
			continue;
		foreach (lr, child->refs)
		{
			MergeRef *ref = lfirst(lr);
			char *name = t->colname[ref->cols[0]];
			char *now = NULL;
			char *then = NULL;

			if (ref->n != 1 || ref->kindcol >= 0 || t->generated[ref->cols[0]])
				continue;
			(void) crm_merge_get(s->images[0], name, &now);
			if (!crm_merge_get(s->set, name, &then))
				then = now;
			then = crm_tree_parent(mc, s, ref, then);
			s->set = crm_jsonb_delete(s->set, name);
			if (then == NULL ? now != NULL : now == NULL || strcmp(then, now) != 0)
			{
				Jsonb *pair = crm_jsonb_pair(name, then);

				early = early ? crm_jsonb_concat(early, pair) : pair;
				if (!crm_merge_get(s->fields, name, &now))
					s->fields = crm_jsonb_concat(
						s->fields, crm_jsonb_object(name, crm_jsonb_pair("strategy", "tree")));
			}
			else
				s->fields = crm_jsonb_delete(s->fields, name);
		}
	}
	if (early != NULL)
		crm_update_survivor(mc, s, early);
}

/* ---------------------------------------------------------------------
 * One merge
 * --------------------------------------------------------------------- */

static void
crm_delete_losers(MergeContext *mc, MergeSet *s)
{
	MergeTable *t = s->t;
	MergeInput *input;
	MergeInput *log;
	MergeRows deleted;
	char *sql;

	input = crm_merge_input_tids();
	for (int i = 1; i < s->n; i++)
	{
		MergeRows now = crm_current(mc, s, i);

		crm_merge_input_tid(input, &now, 0);
		crm_merge_free(&now);
	}
	sql = psprintf("DELETE FROM %s AS t USING crm_rows AS n"
				   " WHERE t.ctid OPERATOR(pg_catalog.=) n.crm_tid"
				   " AND t.tableoid OPERATOR(pg_catalog.=) n.crm_tab"
				   " RETURNING n.crm_ord, t.ctid, t.tableoid, t.*",
				   t->from);
	deleted = crm_merge_run(mc, t, sql, NULL, input);
	crm_merge_input_end(input);
	if (deleted.count != s->n - 1)
		ereport(ERROR, (errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
						errmsg("merged rows of \"%s\" could not be removed", t->name),
						errdetail("A trigger of the table suppressed it.")));
	log = crm_log_input();
	for (uint64 i = 0; i < deleted.count; i++)
		crm_log_row(log, crm_merge_key(t, &deleted, i), crm_merge_image(t, &deleted, i, NULL),
					NULL);
	crm_log_write(mc, t, "delete", log);
	crm_merge_free(&deleted);
}

static void
crm_write_tombstones(MergeContext *mc, MergeSet *s)
{
	MergeTable *t = s->t;

	for (int i = 1; t->nkey == 1 && i < s->n; i++)
	{
		MergeParams p = {0};
		MergeRows rows;

		crm_merge_param_text(&p, crm_merge_kind(mc, t));
		crm_merge_param_text(&p, s->ids[i]);
		crm_merge_param_text(&p, s->ids[0]);
		crm_merge_param(&p, INT8OID, Int64GetDatum(mc->merge_id), false);
		crm_merge_param(&p, JSONBOID, JsonbPGetDatum(s->images[i]), false);
		rows = crm_merge_run_log(
			mc,
			psprintf("INSERT INTO %s.merged_record (kind, record_id, survivor_id, merge_id, record)"
					 " VALUES ($1, $2, $3, $4, $5)",
					 quote_identifier(mc->workspace_name)),
			&p, NULL);
		crm_merge_free(&rows);
	}
}

/*
 * What the merge did to its records beyond its own statements, through triggers
 * that count or stamp: their rows before it began and after it ended.
 */
static void
crm_log_settled(MergeContext *mc, MergeSet *s)
{
	MergeInput *input;
	MergeRows now;
	Bitmapset *changed = NULL;

	if (s->t->nkey == 0)
		return;
	now = crm_current(mc, s, 0);
	for (int c = 0; c < s->t->ncols; c++)
		if (!s->t->generated[c] && !crm_merge_same(s->t, &s->rows, 0, &now, 0, c))
			changed = bms_add_member(changed, c);
	input = crm_log_input();
	if (changed != NULL)
		crm_log_row(input, s->keys[0], s->images[0], crm_merge_image(s->t, &now, 0, changed));
	for (int i = 1; i < s->n; i++)
		crm_log_row(input, s->keys[i], s->images[i], NULL);
	crm_log_write(mc, s->t, "settle", input);
	crm_merge_free(&now);
}

/* Merges rows 1 ... of the given ones into row 0; returns the provenance of its fields. */
static Jsonb *
crm_merge_set(MergeContext *mc, MergeTable *t, MergeRows rows)
{
	MergeSet s = {0};
	List *children;
	ListCell *lc;
	Jsonb *fields;

	check_stack_depth();
	if (++mc->depth > MERGE_MAX_DEPTH)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("merge reaches more than %d levels of unique constraints",
							   MERGE_MAX_DEPTH)));
	s.t = t;
	s.rows = rows;
	s.n = rows.count;
	s.images = palloc(s.n * sizeof(Jsonb *));
	s.keys = palloc(s.n * sizeof(Jsonb *));
	s.ids = palloc(s.n * sizeof(char *));
	for (int i = 0; i < s.n; i++)
	{
		s.images[i] = crm_merge_image(t, &rows, i, NULL);
		s.keys[i] = crm_merge_key(t, &rows, i);
		s.ids[i] = t->nkey == 1 ? crm_merge_text(t, &rows, i, t->key[0])
								: JsonbToCString(NULL, &s.keys[i]->root, 0);
	}

	crm_survivorship(mc, &s);
	children = crm_children(mc, &s);
	crm_plan_trees(mc, &s, children);
	foreach (lc, children)
	{
		MergeChild *child = lfirst(lc);

		if (!crm_prepare_child(mc, &s, child))
			continue;
		crm_resolve_conflicts(mc, child);
		crm_move(mc, &s, child);
		crm_check_unseen(mc, child);
	}
	crm_delete_losers(mc, &s);
	crm_fill_survivor(mc, &s);
	crm_write_tombstones(mc, &s);
	crm_log_settled(mc, &s);
	crm_merge_free(&s.rows);
	mc->depth--;
	fields = s.fields;
	return fields;
}

/* ---------------------------------------------------------------------
 * Entry
 * --------------------------------------------------------------------- */

/* The table of a kind: one of the workspace by its name, any other by its qualified name. */
MergeTable *
crm_merge_kind_table(MergeContext *mc, const char *kind)
{
	Oid relid = get_relname_relid(kind, mc->workspace);
	MergeTable *t;

	if (!OidIsValid(relid) && strchr(kind, '.') != NULL)
		relid = RangeVarGetRelid(
			makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(kind))), NoLock, true);
	if (!OidIsValid(relid))
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE), errmsg("kind \"%s\" does not exist", kind),
			 errhint(
				 "A kind is a table of the workspace, such as account, or the qualified name of "
				 "another table.")));
	if (get_rel_relispartition(relid))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is a partition", kind),
						errhint("Merge records of the partitioned table.")));
	t = crm_merge_table(mc, relid);
	if (t->nkey != 1)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("records of \"%s\" cannot be merged", kind),
						errdetail("The table has no primary key of one column.")));
	return t;
}

/* An id as its type writes it, so that 1 and 01 are the same. */
char *
crm_merge_id(MergeTable *t, const char *id)
{
	int col = t->key[0];

	return OutputFunctionCall(&t->out[col], InputFunctionCall(&t->in[col], unconstify(char *, id),
															  t->inparam[col], t->coltypmod[col]));
}

/*
 * Locks the records, in the order of their ids, as the caller.  One that the
 * caller may not see or change is as if it did not exist.  Returns the first id
 * that is not there, or NULL.
 */
char *
crm_merge_lock(MergeTable *t, char **ids, int n)
{
	int col = t->key[0];
	Oid type = getBaseType(t->coltype[col]);
	Oid arraytype = get_array_type(type);
	Datum *items = palloc(n * sizeof(Datum));
	bool *found = palloc0(n * sizeof(bool));
	Datum array;
	int16 len;
	bool byval;
	char align;
	char *column = pstrdup(quote_identifier(t->colname[col]));
	int rc;

	if (!OidIsValid(arraytype))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("records of \"%s\" cannot be merged", t->name),
						errdetail("The type of the primary key has no array type.")));
	for (int i = 0; i < n; i++)
		items[i] = InputFunctionCall(&t->in[col], ids[i], t->inparam[col], t->coltypmod[col]);
	get_typlenbyvalalign(type, &len, &byval, &align);
	array = PointerGetDatum(construct_array(items, n, type, len, byval, align));
	rc = SPI_execute_with_args(
		psprintf("SELECT t.%s FROM %s AS t WHERE t.%s %s ANY ($1) ORDER BY t.%s"
				 " FOR UPDATE OF t",
				 column, t->from, column, crm_merge_equality(type), column),
		1, &arraytype, &array, NULL, false, 0);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "could not lock records: %s", SPI_result_code_string(rc));
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool isnull;
		char *id =
			OutputFunctionCall(&t->out[col], SPI_getbinval(SPI_tuptable->vals[row],
														   SPI_tuptable->tupdesc, 1, &isnull));

		for (int i = 0; i < n; i++)
			if (strcmp(ids[i], id) == 0)
				found[i] = true;
	}
	SPI_freetuptable(SPI_tuptable);
	for (int i = 0; i < n; i++)
		if (!found[i])
			return ids[i];
	return NULL;
}

/* Errors for a record that cannot be had, saying whether it was merged away. */
void
crm_merge_missing(MergeContext *mc, MergeTable *t, const char *id)
{
	MergeParams p = {0};
	MergeRows rows;

	crm_merge_param_text(&p, crm_merge_kind(mc, t));
	crm_merge_param_text(&p, id);
	rows = crm_merge_run_log(mc,
							 psprintf("SELECT m.survivor_id, m.merge_id FROM %s.merged_record AS m"
									  " WHERE m.kind = $1 AND m.record_id = $2",
									  quote_identifier(mc->workspace_name)),
							 &p, NULL);
	if (rows.count > 0)
	{
		bool isnull;

		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s %s has already been merged", t->name, id),
				 errdetail(
					 "It was merged into %s by merge " INT64_FORMAT ".",
					 TextDatumGetCString(SPI_getbinval(rows.table->vals[0], rows.desc, 1, &isnull)),
					 DatumGetInt64(SPI_getbinval(rows.table->vals[0], rows.desc, 2, &isnull))),
				 errhint("resolve() tells which record an id stands for today.")));
	}
	ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND), errmsg("%s %s does not exist", t->name, id),
					errdetail("There is no such record, or you may not see and change it.")));
}

/* The records of the merge, the survivor first, locked and permitted. */
static MergeRows
crm_load(MergeContext *mc, MergeTable *t, const char *survivor, Datum losers)
{
	Datum *d;
	bool *nulls;
	int n;
	char **ids;
	char *missing;
	int col = t->key[0];
	Bitmapset *columns = bms_make_singleton(col);
	MergeInput *input;
	MergeRows rows;
	AclResult acl;

	deconstruct_array(DatumGetArrayTypeP(losers), TEXTOID, -1, false, TYPALIGN_INT, &d, &nulls, &n);
	if (n == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("no records to merge into %s %s", t->name, survivor)));
	if (n > MERGE_MAX_LOSERS)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("cannot merge %d records at once", n),
						errdetail("At most %d can be merged into one.", MERGE_MAX_LOSERS)));
	ids = palloc((n + 1) * sizeof(char *));
	ids[0] = crm_merge_id(t, survivor);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("id of a record must not be null")));
		ids[i + 1] = crm_merge_id(t, TextDatumGetCString(d[i]));
		for (int j = 0; j <= i; j++)
			if (strcmp(ids[j], ids[i + 1]) == 0)
				ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
								j == 0 ? errmsg("cannot merge %s %s with itself", t->name, ids[0])
									   : errmsg("%s %s is named twice", t->name, ids[j])));
	}

	/* The losers go away, so the caller needs what DELETE needs. */
	acl = pg_class_aclcheck(t->relid, GetUserId(), ACL_DELETE);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, t->name);
	missing = crm_merge_lock(t, ids, n + 1);
	if (missing != NULL)
		crm_merge_missing(mc, t, missing);

	input = crm_merge_input_values(t, columns);
	for (int i = 0; i <= n; i++)
		crm_merge_input_value(input, t, columns, i, NULL, 0,
							  crm_jsonb_pair(t->colname[col], ids[i]));
	rows = crm_merge_run(
		mc, t,
		psprintf("SELECT n.crm_ord, t.ctid, t.tableoid, t.* FROM %s AS t JOIN crm_rows AS n"
				 " ON t.%s %s n.v%d ORDER BY n.crm_ord",
				 t->from, quote_identifier(t->colname[col]),
				 crm_merge_equality(getBaseType(t->coltype[col])), col),
		NULL, input);
	crm_merge_input_end(input);
	if (rows.count != n + 1)
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("could not serialize access due to concurrent update")));
	return rows;
}

static void
crm_push_string(JsonbParseState **state, const char *key, const char *value)
{
	JsonbValue v;

	if (value == NULL)
		return;
	v.type = jbvString;
	v.val.string.val = unconstify(char *, key);
	v.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &v);
	v.val.string.val = unconstify(char *, value);
	v.val.string.len = strlen(value);
	pushJsonbValue(state, WJB_VALUE, &v);
}

static void
crm_push_int(JsonbParseState **state, const char *key, int64 value)
{
	JsonbValue v;

	v.type = jbvString;
	v.val.string.val = unconstify(char *, key);
	v.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &v);
	v.type = jbvNumeric;
	v.val.numeric = int64_to_numeric(value);
	pushJsonbValue(state, WJB_VALUE, &v);
}

static Jsonb *
crm_effects(MergeContext *mc)
{
	JsonbParseState *state = NULL;
	ListCell *lc;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	foreach (lc, mc->reports)
	{
		MergeReport *r = lfirst(lc);

		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		crm_push_string(&state, "table", r->table_name);
		crm_push_string(&state, "column", r->column_name);
		crm_push_int(&state, "rows", r->rows);
		crm_push_int(&state, "conflicts", r->conflicts);
		if (r->totals != NULL)
			crm_push_jsonb(&state, "totals", r->totals);
		crm_push_string(&state, "note", r->note);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

/* Adds the fields of the survivor that change to the report. */
static void
crm_report_fields(MergeContext *mc, MergeTable *t, Jsonb *fields)
{
	JsonbIterator *it = JsonbIteratorInit(&fields->root);
	JsonbValue v;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(v.val.string.val, v.val.string.len);
		(void) JsonbIteratorNext(&it, &v, true);
		crm_report(mc, t, name, 1, 0, NULL, JsonbToCString(NULL, &JsonbValueToJsonb(&v)->root, 0));
	}
}

/* The merge itself, written down; its number. */
static int64
crm_merge(MergeContext *mc, const char *kind, const char *survivor, Datum losers)
{
	MergeTable *t = crm_merge_kind_table(mc, kind);
	MergeRows loaded = crm_load(mc, t, survivor, losers);
	MergeRows rows;
	MergeParams p = {0};
	char **ids = palloc(loaded.count * sizeof(char *));
	bool isnull;
	int64 member = crm_merge_member(mc);
	Jsonb *fields;
	char *log = psprintf("%s.merge_log", quote_identifier(mc->workspace_name));

	for (uint64 i = 0; i < loaded.count; i++)
		ids[i] = crm_merge_text(t, &loaded, i, t->key[0]);
	crm_merge_param_text(&p, crm_merge_kind(mc, t));
	crm_merge_param_text(&p, t->schema_oid == mc->workspace ? NULL : t->schema);
	crm_merge_param_text(&p, t->name);
	crm_merge_param_text(&p, ids[0]);
	crm_merge_param(&p, TEXTARRAYOID, PointerGetDatum(crm_text_array(ids + 1, loaded.count - 1)),
					false);
	crm_merge_param(&p, INT8OID, Int64GetDatum(member), member == 0);
	crm_merge_param_text(&p, GetUserNameFromId(GetUserId(), false));
	rows = crm_merge_run_log(mc,
							 psprintf("INSERT INTO %s (kind, table_schema, table_name, "
									  "survivor_id, loser_ids, merged_by, merged_role)"
									  " VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
									  log),
							 &p, NULL);
	mc->merge_id = DatumGetInt64(crm_single_datum(&rows, &isnull));
	crm_merge_free(&rows);

	fields = crm_merge_set(mc, t, loaded);

	memset(&p, 0, sizeof(p));
	crm_merge_param(&p, INT8OID, Int64GetDatum(mc->merge_id), false);
	crm_merge_param(&p, JSONBOID, JsonbPGetDatum(fields), false);
	crm_merge_param(&p, JSONBOID, JsonbPGetDatum(crm_effects(mc)), false);
	rows = crm_merge_run_log(
		mc, psprintf("UPDATE %s SET fields = $2, effects = $3 WHERE id = $1", log), &p, NULL);
	crm_merge_free(&rows);
	crm_report_fields(mc, t, fields);
	return mc->merge_id;
}

/* The merge in a subtransaction that is taken back; its report stays. */
static void
crm_merge_dry(MergeContext *mc, const char *kind, const char *survivor, Datum losers)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	(void) crm_merge(mc, kind, survivor, losers);
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
}

static void
crm_merge_check_arguments(FunctionCallInfo fcinfo)
{
	static const char *const names[] = {"workspace", "kind", "survivor", "losers", "dry_run"};

	for (int i = 0; i < PG_NARGS(); i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("%s must not be null", names[i])));
}

PG_FUNCTION_INFO_V1(crm_merge_records);
Datum
crm_merge_records(PG_FUNCTION_ARGS)
{
	MergeContext *mc;
	char *kind, *survivor;
	int64 merge_id;
	ListCell *lc;

	crm_merge_check_arguments(fcinfo);
	kind = text_to_cstring(PG_GETARG_TEXT_PP(1));
	survivor = text_to_cstring(PG_GETARG_TEXT_PP(2));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	mc = crm_merge_begin(PG_GETARG_OID(0));
	if (!PG_GETARG_BOOL(4))
	{
		merge_id = crm_merge(mc, kind, survivor, PG_GETARG_DATUM(3));
		SPI_finish();
		PG_RETURN_INT64(merge_id);
	}
	crm_merge_dry(mc, kind, survivor, PG_GETARG_DATUM(3));
	foreach (lc, mc->reports)
	{
		MergeReport *r = lfirst(lc);

		ereport(NOTICE, (errmsg("%s.%s: " INT64_FORMAT " rows, " INT64_FORMAT " conflicts",
								r->table_name, r->column_name, r->rows, r->conflicts),
						 r->totals ? errdetail("Totals that move: %s.",
											   JsonbToCString(NULL, &r->totals->root, 0))
						 : r->note ? errdetail("%s", r->note)
								   : 0));
	}
	SPI_finish();
	PG_RETURN_NULL();
}

PG_FUNCTION_INFO_V1(crm_merge_preview);
Datum
crm_merge_preview(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MergeContext *mc;
	ListCell *lc;

	crm_merge_check_arguments(fcinfo);
	InitMaterializedSRF(fcinfo, 0);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	mc = crm_merge_begin(PG_GETARG_OID(0));
	crm_merge_dry(mc, text_to_cstring(PG_GETARG_TEXT_PP(1)), text_to_cstring(PG_GETARG_TEXT_PP(2)),
				  PG_GETARG_DATUM(3));
	foreach (lc, mc->reports)
	{
		MergeReport *r = lfirst(lc);
		Datum values[6];
		bool nulls[6] = {false};

		values[0] = CStringGetTextDatum(r->table_name);
		values[1] = CStringGetTextDatum(r->column_name);
		values[2] = Int64GetDatum(r->rows);
		values[3] = Int64GetDatum(r->conflicts);
		nulls[4] = r->totals == NULL;
		values[4] = r->totals ? JsonbPGetDatum(r->totals) : (Datum) 0;
		nulls[5] = r->note == NULL;
		values[5] = r->note ? CStringGetTextDatum(r->note) : (Datum) 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	SPI_finish();
	return (Datum) 0;
}
