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
#include "catalog/pg_attribute.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"
#include "utils/varlena.h"

#include "compat.h"
#include "crm.h"
#include "duplicate_rule.h"
#include "merge.h"
#include "workspace.h"

#define MERGE_MAX_DEPTH 20

/* ---------------------------------------------------------------------
 * Rows by key
 * --------------------------------------------------------------------- */

/* The current versions of rows first ... last of the set, in that order; they must be there. */
static MergeRows
crm_current(MergeContext *mc, MergeSet *s, int first, int last)
{
	MergeTable *t = s->t;
	Bitmapset *key = NULL;
	StringInfoData join;
	MergeInput *input;
	MergeRows rows;

	initStringInfo(&join);
	for (int k = 0; k < t->nkey; k++)
	{
		int col = t->key[k];

		key = bms_add_member(key, col);
		appendStringInfo(&join, "%st.%s %s n.v%d", k == 0 ? "" : " AND ",
						 quote_identifier(t->colname[col]),
						 crm_merge_equality(getBaseType(t->coltype[col])), col);
	}
	if (t->nkey == 0)
		appendStringInfoString(&join, "t.ctid OPERATOR(pg_catalog.=) n.crm_tid"
									  " AND t.tableoid OPERATOR(pg_catalog.=) n.crm_tab");
	input = t->nkey == 0 ? crm_merge_input_tids() : crm_merge_input_values(t, key);
	for (int i = first; i <= last; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (t->nkey == 0)
			crm_merge_input_tid(input, &s->rows, i);
		else
			crm_merge_input_value(input, t, key, i, NULL, 0, s->keys[i]);
	}
	rows = crm_merge_run(mc, t,
						 psprintf("SELECT n.crm_ord, t.ctid, t.tableoid, t.* FROM %s AS t"
								  " JOIN crm_rows AS n ON %s ORDER BY n.crm_ord",
								  t->from, join.data),
						 NULL, input);
	crm_merge_input_end(input);
	if (rows.count != last - first + 1)
		ereport(
			ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("row of \"%s\" was removed while it was being merged", t->name),
			 errdetail("A trigger or rule of the tables involved changed it."),
			 first == last && s->ids[first] ? errhint("The row's key is %s.", s->ids[first]) : 0));
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
	before = crm_current(mc, s, 0, 0);
	input = crm_merge_input_values(t, columns);
	crm_merge_input_value(input, t, columns, 0, &before, 0, set);
	after = crm_merge_run(mc, t, sql.data, NULL, input);
	crm_merge_input_end(input);
	if (after.count != 1)
		ereport(ERROR, (errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
						errmsg("survivor in \"%s\" could not be updated", t->name),
						errdetail("A trigger of the table suppressed the change.")));
	crm_merge_log_update(mc, t, &before, &after);
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

static void
crm_survivorship(MergeContext *mc, MergeSet *s)
{
	MergeTable *t = s->t;
	Oid types[] = {REGCLASSOID, TEXTARRAYOID, get_array_type(JSONBOID), TEXTARRAYOID, JSONBOID,
				   JSONBOID,	INT4ARRAYOID};
	Oid order_types[] = {REGCLASSOID, get_array_type(JSONBOID)};
	Datum image_array;
	Datum *images = palloc(s->n * sizeof(Datum));
	char **key = palloc(Max(t->nkey, 1) * sizeof(char *));
	MergeParams p = {0};
	MergeRows rows;
	Jsonb *rules, *sources, *result;
	MergeRole saved;
	Oid fn = crm_internal_function("_survivorship", 7, types);
	Oid order = crm_internal_function("_merge_order", 2, order_types);
	JsonbValue v;

	crm_merge_param_text(&p, crm_merge_kind(mc, t));
	rows = crm_merge_run_log(mc,
							 psprintf("SELECT coalesce(jsonb_agg(to_jsonb(r)), '[]')"
									  " FROM %s.merge_rule AS r WHERE r.kind IN ($1, '*')",
									  quote_identifier(mc->workspace_name)),
							 &p, NULL);
	rules = crm_merge_single_jsonb(&rows);
	crm_merge_free(&rows);
	crm_merge_param(&p, get_array_type(INT8OID),
					crm_merge_id_array(s->ids, crm_merge_has_integer_ids(t) ? s->n : 0), false);
	rows = crm_merge_run_log(
		mc,
		psprintf("SELECT coalesce(jsonb_object_agg(e.id, e.systems), '{}') FROM"
				 " (SELECT x.record_id::text AS id, jsonb_agg(x.system) AS systems"
				 " FROM %s.external_reference AS x"
				 " WHERE x.kind = $1 AND x.record_id = ANY ($2) GROUP BY 1) AS e",
				 quote_identifier(mc->workspace_name)),
		&p, NULL);
	sources = crm_merge_single_jsonb(&rows);
	crm_merge_free(&rows);

	for (int i = 0; i < s->n; i++)
		images[i] = JsonbPGetDatum(s->images[i]);
	for (int i = 0; i < t->nkey; i++)
		key[i] = t->colname[t->key[i]];
	image_array = PointerGetDatum(construct_array(images, s->n, JSONBOID, -1, false, TYPALIGN_INT));
	crm_merge_become(&saved, t->owner, t->schema);
	/* Called by OID, each: the table's owner needs no privilege on the toolkit. */
	result = DatumGetJsonbP(OidFunctionCall7(
		fn, ObjectIdGetDatum(t->relid), PointerGetDatum(crm_merge_text_array(key, t->nkey)),
		image_array, PointerGetDatum(crm_merge_text_array(s->ids, s->n)), JsonbPGetDatum(rules),
		JsonbPGetDatum(sources), OidFunctionCall2(order, ObjectIdGetDatum(t->relid), image_array)));
	crm_merge_return(&saved);

	getKeyJsonValueFromContainer(&result->root, "set", 3, &v);
	s->set = JsonbValueToJsonb(&v);
	getKeyJsonValueFromContainer(&result->root, "fields", 6, &v);
	s->fields = JsonbValueToJsonb(&v);
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
		error = crm_try_survivor(mc, s, crm_merge_jsonb_pair(name, value));
		if (error != NULL)
			s->fields = crm_merge_jsonb_concat(
				s->fields,
				crm_merge_jsonb_object(name, crm_merge_jsonb_pair("refused", error->message)));
	}
}
/* ---------------------------------------------------------------------
 * Trees
 * --------------------------------------------------------------------- */

/* Texts as one; NULL if one of them is. */
static char *
crm_tuple(char **texts, int n)
{
	StringInfoData result;

	initStringInfo(&result);
	for (int i = 0; i < n; i++)
	{
		if (texts[i] == NULL)
			return NULL;
		appendStringInfo(&result, "%zu:%s", strlen(texts[i]), texts[i]);
	}
	return result.data;
}

/* What the records of the merge are called by a reference to them, sorted. */
static char **
crm_names(MergeSet *s, MergeRef *ref, int *n)
{
	char **names = palloc(s->n * sizeof(char *));
	char **texts = palloc(ref->n * sizeof(char *));

	*n = 0;
	for (int i = 0; i < s->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		for (int k = 0; k < ref->n; k++)
			texts[k] = crm_merge_text(s->t, &s->rows, i, ref->refcols[k]);
		names[*n] = crm_tuple(texts, ref->n);
		if (names[*n] != NULL)
			(*n)++;
	}
	qsort(names, *n, sizeof(char *), pg_qsort_strcmp);
	return names;
}

static bool
crm_is_name(const char *name, char **names, int n)
{
	return bsearch(&name, names, n, sizeof(char *), pg_qsort_strcmp) != NULL;
}

/*
 * The survivor's place in a tree of its own table.  Above the proposed parent
 * there may be records of the merge, all of which become the survivor: so that
 * no loop arises, it takes the place of the topmost of them.  Changes "parent", the
 * texts of the reference's columns, to that place.
 */
static void
crm_tree_parent(MergeContext *mc, MergeSet *s, MergeRef *ref, char **names, int n, char **parent)
{
	MergeTable *t = s->t;
	char **above = palloc(ref->n * sizeof(char *));

	memcpy(above, parent, ref->n * sizeof(char *));
	for (int depth = 0;; depth++)
	{
		char *name = crm_tuple(above, ref->n);
		MergeParams p = {0};
		StringInfoData sql;
		MergeRows rows;

		if (name == NULL)
			return;
		/* A loop that was there before is none of the merge's making. */
		if (depth > 10000 + n)
		{
			memset(parent, 0, ref->n * sizeof(char *));
			return;
		}
		initStringInfo(&sql);
		appendStringInfo(&sql, "SELECT 0, t.ctid, t.tableoid, t.* FROM %s AS t WHERE ", t->from);
		for (int k = 0; k < ref->n; k++)
			appendStringInfo(&sql, "%st.%s %s $%d", k == 0 ? "" : " AND ",
							 quote_identifier(t->colname[ref->refcols[k]]),
							 crm_merge_equality(getBaseType(t->coltype[ref->refcols[k]])),
							 crm_merge_typed_param(t, ref->refcols[k], above[k], &p));
		appendStringInfoString(&sql, " LIMIT 1");
		rows = crm_merge_run(mc, t, sql.data, &p, NULL);
		for (int k = 0; k < ref->n; k++)
			above[k] = rows.count > 0 ? crm_merge_text(t, &rows, 0, ref->cols[k]) : NULL;
		crm_merge_free(&rows);
		if (crm_is_name(name, names, n))
			memcpy(parent, above, ref->n * sizeof(char *));
	}
}

static bool
crm_column_is_not_null(const MergeTable *t, int column)
{
	HeapTuple tuple = SearchSysCacheAttName(t->relid, t->colname[column]);
	bool result = HeapTupleIsValid(tuple) && ((Form_pg_attribute) GETSTRUCT(tuple))->attnotnull;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
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
			char **now = palloc0(ref->n * sizeof(char *));
			char **then = palloc0(ref->n * sizeof(char *));
			char **names;
			char *name;
			int n;
			bool fixed = ref->kindcol >= 0;

			for (int k = 0; k < ref->n; k++)
			{
				char *column = t->colname[ref->cols[k]];

				fixed |= t->generated[ref->cols[k]];
				(void) crm_merge_get(s->images[0], column, &now[k]);
				if (!crm_merge_get(s->set, column, &then[k]))
					then[k] = now[k];
			}
			if (fixed)
				continue;
			names = crm_names(s, ref, &n);
			/* A place is one column, and settled at once; of several, some may be keys. */
			name = crm_tuple(now, ref->n);
			if (ref->n > 1 && (name == NULL || !crm_is_name(name, names, n)) &&
				((name = crm_tuple(then, ref->n)) == NULL || !crm_is_name(name, names, n)))
				continue;
			crm_tree_parent(mc, s, ref, names, n, then);
			/* Who has no parent keeps what every row must have: one null is enough. */
			for (int k = 0; k < ref->n; k++)
				if (then[k] == NULL && crm_column_is_not_null(t, ref->cols[k]))
					then[k] = now[k];
			for (int k = 0; k < ref->n; k++)
			{
				char *column = t->colname[ref->cols[k]];

				s->set = crm_merge_jsonb_delete(s->set, column);
				if (then[k] == NULL ? now[k] == NULL
									: now[k] != NULL && strcmp(then[k], now[k]) == 0)
					s->fields = crm_merge_jsonb_delete(s->fields, column);
				else
				{
					Jsonb *pair = crm_merge_jsonb_pair(column, then[k]);

					early = early ? crm_merge_jsonb_concat(early, pair) : pair;
					s->fields = crm_merge_jsonb_concat(
						s->fields,
						crm_merge_jsonb_object(column, crm_merge_jsonb_pair("strategy", "tree")));
				}
			}
		}
	}
	if (early != NULL)
		crm_update_survivor(mc, s, early);
}

/* ---------------------------------------------------------------------
 * One merge
 * --------------------------------------------------------------------- */

static void
crm_delete_losers(MergeContext *mc, MergeSet *s, bool keys_pass)
{
	MergeTable *t = s->t;
	MergeInput *input = crm_merge_input_tids();
	MergeInput *log = crm_merge_log_input();
	MergeRows now = crm_current(mc, s, 1, s->n - 1);
	uint64 deleted;
	char *sql;

	for (uint64 i = 0; i < now.count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		crm_merge_input_tid(input, &now, i);
		crm_merge_log_row(log, s->keys[i + 1], crm_merge_image(t, &now, i, NULL), NULL);
	}
	crm_merge_free(&now);
	sql = psprintf("DELETE FROM %s AS t USING crm_rows AS n"
				   " WHERE t.ctid OPERATOR(pg_catalog.=) n.crm_tid"
				   " AND t.tableoid OPERATOR(pg_catalog.=) n.crm_tab",
				   t->from);
	if (keys_pass)
		deleted = crm_merge_run_quietly(mc, t, sql, input, false, true);
	else
		deleted = crm_merge_run(mc, t, sql, NULL, input).count;
	crm_merge_input_end(input);
	if (deleted != s->n - 1)
		ereport(ERROR, (errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
						errmsg("merged rows of \"%s\" could not be removed", t->name),
						errdetail("A trigger of the table suppressed it.")));
	crm_merge_log_write(mc, t, "delete", log);
}

/*
 * The survivor takes over keys by which other rows refer to the losers, or to
 * itself.  Losers, survivor and those rows change as if in one statement.
 */
static void
crm_pass_keys(MergeContext *mc, MergeSet *s, List *late)
{
	MergeTable *t = s->t;
	Jsonb *keys = NULL;
	MergeParams p = {0};
	MergeInput *input = crm_merge_input_tids();
	MergeRows after;
	ListCell *lc, *lr;

	foreach (lc, late)
	{
		MergeChild *child = lfirst(lc);

		foreach (lr, child->refs)
		{
			MergeRef *ref = lfirst(lr);

			for (int k = 0; k < ref->n; k++)
			{
				char *name = t->colname[ref->refcols[k]];
				char *value;

				if (!crm_merge_get(s->set, name, &value))
					continue;
				keys = keys ? crm_merge_jsonb_concat(keys, crm_merge_jsonb_pair(name, value))
							: crm_merge_jsonb_pair(name, value);
				s->set = crm_merge_jsonb_delete(s->set, name);
			}
		}
	}
	crm_merge_batch_begin(mc);
	crm_delete_losers(mc, s, true);
	crm_update_survivor(mc, s, keys);
	for (int i = 0; i < s->n; i++)
		crm_merge_input_tid(input, &s->rows, i);
	after = crm_merge_run(
		mc, t,
		psprintf("SELECT n.crm_ord, t.ctid, t.tableoid, t.* FROM %s AS t, crm_rows AS n"
				 " WHERE %s",
				 t->from, crm_merge_key_condition(t, &s->keys[0], 1, &p)),
		&p, input);
	crm_merge_input_end(input);
	crm_merge_follow(mc, t, late, &s->rows, &after);
	crm_merge_free(&after);
	crm_merge_batch_end(mc, t);
}

static void
crm_write_tombstones(MergeContext *mc, MergeSet *s)
{
	MergeParams p = {0};
	Datum *images = palloc(s->n * sizeof(Datum));
	MergeRows rows;

	if (s->t->nkey != 1)
		return;
	for (int i = 1; i < s->n; i++)
		images[i] = JsonbPGetDatum(s->images[i]);
	crm_merge_param_text(&p, crm_merge_kind(mc, s->t));
	crm_merge_param_text(&p, s->ids[0]);
	crm_merge_param(&p, INT8OID, Int64GetDatum(mc->merge_id), false);
	crm_merge_param(&p, TEXTARRAYOID, PointerGetDatum(crm_merge_text_array(s->ids + 1, s->n - 1)),
					false);
	crm_merge_param(
		&p, get_array_type(JSONBOID),
		PointerGetDatum(construct_array(images + 1, s->n - 1, JSONBOID, -1, false, TYPALIGN_INT)),
		false);
	rows = crm_merge_run_log(
		mc,
		psprintf("INSERT INTO %s.merged_record (kind, record_id, survivor_id, merge_id, record)"
				 " SELECT $1, l.id, $2, $3, l.image FROM unnest($4, $5) AS l (id, image)"
				 " ON CONFLICT (kind, record_id) DO UPDATE SET survivor_id = excluded.survivor_id,"
				 " merge_id = excluded.merge_id, merged_at = excluded.merged_at, record = "
				 "excluded.record",
				 quote_identifier(mc->workspace_name)),
		&p, NULL);
	crm_merge_free(&rows);
	pfree(images);
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
	now = crm_current(mc, s, 0, 0);
	for (int c = 0; c < s->t->ncols; c++)
		if (!s->t->generated[c] && !crm_merge_same(s->t, &s->rows, 0, &now, 0, c))
			changed = bms_add_member(changed, c);
	input = crm_merge_log_input();
	if (changed != NULL)
		crm_merge_log_row(input, s->keys[0], s->images[0], crm_merge_image(s->t, &now, 0, changed));
	for (int i = 1; i < s->n; i++)
		crm_merge_log_row(input, s->keys[i], s->images[i], NULL);
	crm_merge_log_write(mc, s->t, "settle", input);
	crm_merge_free(&now);
}

/* Merges rows 1 ... of the given ones into row 0; returns the provenance of its fields. */
Jsonb *
crm_merge_set(MergeContext *mc, MergeTable *t, MergeRows rows)
{
	MergeSet s = {0};
	List *children;
	List *moving = NIL;
	List *late;
	bool batch = false;
	bool one_owner = true;
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
	children = crm_merge_children(mc, &s);
	crm_plan_trees(mc, &s, children);
	late = crm_merge_late_children(&s, children);
	foreach (lc, children)
	{
		MergeChild *child = lfirst(lc);

		if (!crm_merge_prepare_child(mc, &s, child))
			continue;
		if (!crm_merge_is_referring(mc, child))
		{
			crm_merge_check_unseen(mc, child);
			continue;
		}
		batch |= crm_merge_needs_batch(mc, child);
		one_owner &= child->t->owner == t->owner;
		moving = lappend(moving, child);
	}

	/*
	 * Rows whose own key changes take others along.  Tables of several owners
	 * cannot share a batch, whose triggers run as one of them.
	 */
	if (batch && one_owner)
		crm_merge_batch_begin(mc);
	foreach (lc, moving)
	{
		MergeChild *child = lfirst(lc);
		bool own = child->referring != NIL && !one_owner;

		crm_merge_resolve_conflicts(mc, child);
		if (own)
			crm_merge_batch_begin(mc);
		crm_merge_move(mc, &s, child);
		if (own)
			crm_merge_batch_end(mc, child->t);
		crm_merge_check_unseen(mc, child);
	}
	if (batch && one_owner)
		crm_merge_batch_end(mc, t);
	foreach (lc, children)
		crm_merge_check_fixed(mc, lfirst(lc));
	if (late != NIL)
		crm_pass_keys(mc, &s, late);
	else
		crm_delete_losers(mc, &s, false);
	crm_fill_survivor(mc, &s);
	crm_write_tombstones(mc, &s);
	crm_merge_pairs(mc, &s);
	crm_log_settled(mc, &s);
	crm_merge_free(&s.rows);
	mc->depth--;
	fields = s.fields;
	return fields;
}
/* ---------------------------------------------------------------------
 * Entry
 * --------------------------------------------------------------------- */

/*
 * The table of a kind: one of the workspace by its name, any other by its qualified name.
 * The action is what cannot be done with its records if it is not suitable.
 */
MergeTable *
crm_merge_kind_table(MergeContext *mc, const char *kind, const char *action)
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
						errhint("Name the partitioned table.")));
	t = crm_merge_table(mc, relid);
	if (t->nkey != 1)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("records of \"%s\" cannot be %s", kind, action),
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
	MergeParams p = {0};
	char *column = pstrdup(quote_identifier(t->colname[col]));
	char **found;
	int nfound;
	int rc;

	if (!OidIsValid(get_array_type(type)))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("records of \"%s\" cannot be merged", t->name),
						errdetail("The type of the primary key has no array type.")));
	crm_merge_array_param(t, col, ids, n, &p);
	rc = SPI_execute_with_args(
		psprintf("SELECT t.%s FROM %s AS t WHERE t.%s %s ANY ($1) ORDER BY t.%s"
				 " FOR UPDATE OF t",
				 column, t->from, column, crm_merge_equality(type), column),
		1, p.types, p.values, NULL, false, 0);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "could not lock records: %s", SPI_result_code_string(rc));
	nfound = SPI_processed;
	found = palloc(Max(nfound, 1) * sizeof(char *));
	for (int row = 0; row < nfound; row++)
	{
		bool isnull;

		found[row] =
			OutputFunctionCall(&t->out[col], SPI_getbinval(SPI_tuptable->vals[row],
														   SPI_tuptable->tupdesc, 1, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	qsort(found, nfound, sizeof(char *), pg_qsort_strcmp);
	for (int i = 0; i < n; i++)
		if (!crm_is_name(ids[i], found, nfound))
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
	char **sorted;
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
	ids = palloc((n + 1) * sizeof(char *));
	ids[0] = crm_merge_id(t, survivor);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("id of a record must not be null")));
		ids[i + 1] = crm_merge_id(t, TextDatumGetCString(d[i]));
		if (strcmp(ids[i + 1], ids[0]) == 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("cannot merge %s %s with itself", t->name, ids[0])));
	}
	sorted = palloc(n * sizeof(char *));
	memcpy(sorted, ids + 1, n * sizeof(char *));
	qsort(sorted, n, sizeof(char *), pg_qsort_strcmp);
	for (int i = 1; i < n; i++)
		if (strcmp(sorted[i - 1], sorted[i]) == 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("%s %s is named twice", t->name, sorted[i])));

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
							  crm_merge_jsonb_pair(t->colname[col], ids[i]));
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

/*
 * Where the records stand under the escalation rules is state that triggers keep, and
 * would be lost with the losers: it is noted before the merge, and put back by unmerge().
 */
static Jsonb *
crm_begin_escalations(MergeContext *mc, MergeTable *t, MergeParams *kind_survivor_losers)
{
	MergeRows rows;
	Jsonb *result;

	if (!crm_merge_has_integer_ids(t) ||
		!OidIsValid(crm_workspace_table(mc->workspace, "escalation", true)))
		return NULL;
	rows = crm_merge_run_log(
		mc, psprintf("SELECT crm._merge_begin_escalations(%u, $1, $2, $3)", mc->workspace),
		kind_survivor_losers, NULL);
	result = crm_merge_single_jsonb(&rows);
	crm_merge_free(&rows);
	return result;
}

/*
 * Merges that somebody else has to agree to.  The workspace's owner, acting for
 * nobody, is held to no rule, as to no policy.
 */
static void
crm_check_approval(MergeContext *mc, MergeTable *t, MergeParams *kind_survivor_losers, char **ids,
				   int n)
{
	MergeRows rows;
	bool isnull;
	char *rule;

	if ((has_privs_of_role(GetUserId(), mc->workspace_owner) && crm_merge_member(mc) == 0) ||
		!OidIsValid(crm_workspace_table(mc->workspace, "merge_approval_rule", true)))
		return;
	rows =
		crm_merge_run_log(mc, psprintf("SELECT crm._merge_approval(%u, $1, $2, $3)", mc->workspace),
						  kind_survivor_losers, NULL);
	(void) crm_merge_single_datum(&rows, &isnull);
	rule = isnull ? NULL : TextDatumGetCString(crm_merge_single_datum(&rows, &isnull));
	crm_merge_free(&rows);
	if (rule == NULL)
		return;
	if (mc->dry)
		crm_merge_report(mc, t, NULL, n, 0, NULL, rule);
	else
		ereport(ERROR, (errcode(ERRCODE_CRM('M', '0', '1')),
						errmsg("merging records into %s %s needs approval", t->name, ids[0]),
						errdetail("%s", rule),
						errhint("Ask for it with INSERT INTO %s.merge_request (kind, survivor_id, "
								"loser_ids, reason).",
								quote_identifier(mc->workspace_name))));
}

/* {"records": [{"id": ..., "image": ...}, ...]} */
static Jsonb *
crm_preview_before(MergeTable *t, MergeRows *rows)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (uint64 i = 0; i < rows->count; i++)
	{
		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		crm_merge_push_string(&state, "id", crm_merge_text(t, rows, i, t->key[0]));
		crm_merge_push_jsonb(&state, "image", crm_merge_image(t, rows, i, NULL));
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	return crm_merge_jsonb_object("records",
								  JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
}

/* Adds what the survivor has become, and where it comes from. */
static void
crm_preview_after(MergeContext *mc, MergeTable *t, char *id, Jsonb *fields)
{
	Jsonb *key = crm_merge_jsonb_pair(t->colname[t->key[0]], id);
	MergeSet s = {.t = t, .n = 1, .keys = &key, .ids = &id};
	MergeRows now = crm_current(mc, &s, 0, 0);

	mc->preview = crm_merge_jsonb_concat(
		mc->preview, crm_merge_jsonb_object("record", crm_merge_image(t, &now, 0, NULL)));
	mc->preview = crm_merge_jsonb_concat(mc->preview, crm_merge_jsonb_object("fields", fields));
	crm_merge_free(&now);
}

/* The merge itself, written down; its number.  A run_id below 0 is none. */
static int64
crm_merge(MergeContext *mc, const char *kind, const char *survivor, Datum losers, int64 run_id)
{
	MergeTable *t = crm_merge_kind_table(mc, kind, "merged");
	MergeRows loaded = crm_load(mc, t, survivor, losers);
	MergeRows rows;
	MergeParams p = {0};
	char **ids = palloc(loaded.count * sizeof(char *));
	Datum loser_ids;
	bool isnull;
	int64 member = crm_merge_member(mc);
	Jsonb *fields;
	Jsonb *escalations;
	char *log = psprintf("%s.merge_log", quote_identifier(mc->workspace_name));

	for (uint64 i = 0; i < loaded.count; i++)
		ids[i] = crm_merge_text(t, &loaded, i, t->key[0]);
	crm_merge_param_text(&p, crm_merge_kind(mc, t));
	crm_merge_param_text(&p, t->schema_oid == mc->workspace ? NULL : t->schema);
	crm_merge_param_text(&p, t->name);
	crm_merge_param_text(&p, ids[0]);
	loser_ids = PointerGetDatum(crm_merge_text_array(ids + 1, loaded.count - 1));
	crm_merge_param(&p, TEXTARRAYOID, loser_ids, false);
	crm_merge_param(&p, INT8OID, Int64GetDatum(member), member == 0);
	crm_merge_param_text(&p, GetUserNameFromId(GetUserId(), false));
	crm_merge_param(&p, INT8OID, Int64GetDatum(run_id), run_id < 0);
	rows = crm_merge_run_log(
		mc,
		psprintf("INSERT INTO %s (kind, table_schema, table_name, survivor_id, loser_ids,"
				 " merged_by, merged_role, run_id)"
				 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
				 log),
		&p, NULL);
	mc->merge_id = DatumGetInt64(crm_merge_single_datum(&rows, &isnull));
	crm_merge_free(&rows);
	if (mc->dry)
		mc->preview = crm_preview_before(t, &loaded);

	memset(&p, 0, sizeof(p));
	crm_merge_param_text(&p, crm_merge_kind(mc, t));
	crm_merge_param_text(&p, ids[0]);
	crm_merge_param(&p, TEXTARRAYOID, loser_ids, false);
	crm_check_approval(mc, t, &p, ids, loaded.count);
	escalations = crm_begin_escalations(mc, t, &p);

	crm_duplicate_writer = DUPLICATE_BY_MERGE;
	PG_TRY();
	{
		fields = crm_merge_set(mc, t, loaded);
	}
	PG_FINALLY();
	{
		crm_duplicate_writer = DUPLICATE_BY_CLIENT;
	}
	PG_END_TRY();

	memset(&p, 0, sizeof(p));
	crm_merge_param(&p, INT8OID, Int64GetDatum(mc->merge_id), false);
	crm_merge_param(&p, JSONBOID, JsonbPGetDatum(fields), false);
	crm_merge_param(&p, JSONBOID, JsonbPGetDatum(crm_merge_effects(mc)), false);
	crm_merge_param(&p, JSONBOID, escalations ? JsonbPGetDatum(escalations) : (Datum) 0,
					escalations == NULL);
	rows = crm_merge_run_log(mc,
							 psprintf("UPDATE %s AS l SET fields = $2, effects = $3,"
									  " run_id = CASE l.run_id WHEN 0 THEN l.id ELSE l.run_id END,"
									  " escalations = crm._merge_end_escalations(%u, $4)"
									  " WHERE l.id = $1",
									  log, mc->workspace),
							 &p, NULL);
	crm_merge_free(&rows);
	crm_merge_report_fields(mc, t, fields);
	if (mc->dry)
		crm_preview_after(mc, t, ids[0], fields);
	return mc->merge_id;
}

/* The merge in a subtransaction that is taken back; its report stays. */
static void
crm_merge_dry(MergeContext *mc, const char *kind, const char *survivor, Datum losers)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	mc->dry = true;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		(void) crm_merge(mc, kind, survivor, losers, -1);
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(cxt);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(cxt);
		CurrentResourceOwner = owner;
		ReThrowError(error);
	}
	PG_END_TRY();
}

static void
crm_merge_check_arguments(FunctionCallInfo fcinfo)
{
	static const char *const names[] = {"workspace", "kind", "survivor", "losers", "dry_run"};

	for (int i = 0; i < Min(PG_NARGS(), lengthof(names)); i++)
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
		merge_id = crm_merge(mc, kind, survivor, PG_GETARG_DATUM(3),
							 PG_ARGISNULL(5) ? -1 : PG_GETARG_INT64(5));
		SPI_finish();
		PG_RETURN_INT64(merge_id);
	}
	crm_merge_dry(mc, kind, survivor, PG_GETARG_DATUM(3));
	foreach (lc, mc->reports)
	{
		MergeReport *r = lfirst(lc);

		ereport(NOTICE, (errmsg("%s%s%s: " INT64_FORMAT " rows, " INT64_FORMAT " conflicts",
								r->table_name, r->column_name ? "." : "",
								r->column_name ? r->column_name : "", r->rows, r->conflicts),
						 r->totals ? errdetail("Totals that move: %s.",
											   JsonbToCString(NULL, &r->totals->root, 0))
						 : r->note ? errdetail("%s", r->note)
								   : 0));
	}
	SPI_finish();
	PG_RETURN_NULL();
}

/* crm._is_merging() */
PG_FUNCTION_INFO_V1(crm_is_merging);
Datum
crm_is_merging(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(crm_duplicate_writer != DUPLICATE_BY_CLIENT);
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
		nulls[1] = r->column_name == NULL;
		values[1] = r->column_name ? CStringGetTextDatum(r->column_name) : (Datum) 0;
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

PG_FUNCTION_INFO_V1(crm_preview_record);
Datum
crm_preview_record(PG_FUNCTION_ARGS)
{
	MergeContext *mc;
	Datum result;

	crm_merge_check_arguments(fcinfo);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	mc = crm_merge_begin(PG_GETARG_OID(0));
	crm_merge_dry(mc, text_to_cstring(PG_GETARG_TEXT_PP(1)), text_to_cstring(PG_GETARG_TEXT_PP(2)),
				  PG_GETARG_DATUM(3));
	result = SPI_datumTransfer(JsonbPGetDatum(mc->preview), false, -1);
	SPI_finish();
	return result;
}
