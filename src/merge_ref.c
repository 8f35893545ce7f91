/*
 * merge_ref.c
 *		Finding and re-pointing whatever refers to merged records.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
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
#include "utils/tuplestore.h"
#include "utils/varlena.h"

#include "compat.h"
#include "crm.h"
#include "merge.h"
#include "workspace.h"

/* An array of the values of a column with the given texts, of which none is NULL. */
int
crm_merge_array_param(MergeTable *t, int col, char **texts, int n, MergeParams *p)
{
	Oid type = getBaseType(t->coltype[col]);
	Datum *items = palloc(Max(n, 1) * sizeof(Datum));
	int16 len;
	bool byval;
	char align;

	for (int i = 0; i < n; i++)
		items[i] = InputFunctionCall(&t->in[col], texts[i], t->inparam[col], t->coltypmod[col]);
	get_typlenbyvalalign(type, &len, &byval, &align);
	return crm_merge_param(p, get_array_type(type),
						   PointerGetDatum(construct_array(items, n, type, len, byval, align)),
						   false);
}

int
crm_merge_typed_param(MergeTable *t, int col, char *text, MergeParams *p)
{
	return crm_merge_param(p, getBaseType(t->coltype[col]),
						   InputFunctionCall(&t->in[col], text, t->inparam[col], t->coltypmod[col]),
						   text == NULL);
}

/* SQL that identifies the rows with the given keys. */
char *
crm_merge_key_condition(MergeTable *t, Jsonb **keys, int n, MergeParams *p)
{
	StringInfoData sql;

	initStringInfo(&sql);
	if (t->nkey == 1 && OidIsValid(get_array_type(getBaseType(t->coltype[t->key[0]]))))
	{
		int col = t->key[0];
		char **texts = palloc(n * sizeof(char *));

		for (int i = 0; i < n; i++)
			(void) crm_merge_get(keys[i], t->colname[col], &texts[i]);
		appendStringInfo(&sql, "(t.%s %s ANY ($%d))", quote_identifier(t->colname[col]),
						 crm_merge_equality(getBaseType(t->coltype[col])),
						 crm_merge_array_param(t, col, texts, n, p));
		return sql.data;
	}
	appendStringInfoChar(&sql, '(');
	for (int i = 0; i < n; i++)
	{
		appendStringInfoString(&sql, i == 0 ? "(" : " OR (");
		for (int k = 0; k < t->nkey; k++)
		{
			int col = t->key[k];
			char *text = NULL;

			(void) crm_merge_get(keys[i], t->colname[col], &text);
			appendStringInfo(&sql, "%st.%s %s $%d", k == 0 ? "" : " AND ",
							 quote_identifier(t->colname[col]),
							 crm_merge_equality(getBaseType(t->coltype[col])),
							 crm_merge_typed_param(t, col, text, p));
		}
		appendStringInfoChar(&sql, ')');
	}
	appendStringInfoChar(&sql, ')');
	return sql.data;
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

/* The tables with foreign keys to a table, by name. */
static List *
crm_foreign_keys(MergeContext *mc, MergeTable *t)
{
	static const char *const sql =
		"SELECT c.conrelid,"
		" (SELECT array_agg(a.attname::text ORDER BY k.ord)"
		"  FROM unnest(c.conkey) WITH ORDINALITY AS k (num, ord)"
		"  JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.num),"
		" (SELECT array_agg(a.attname::text ORDER BY k.ord)"
		"  FROM unnest(c.confkey) WITH ORDINALITY AS k (num, ord)"
		"  JOIN pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.num)"
		" FROM pg_constraint AS c"
		" JOIN pg_class AS r ON r.oid = c.conrelid"
		" JOIN pg_namespace AS n ON n.oid = r.relnamespace"
		" WHERE c.contype = 'f' AND c.confrelid = $1 AND c.conparentid = 0"
		" ORDER BY n.nspname COLLATE \"C\", r.relname COLLATE \"C\", c.conname COLLATE \"C\"";
	static SPIPlanPtr plan = NULL;
	List *children = NIL;
	MergeParams p = {0};
	MergeRows rows;

	crm_merge_param(&p, OIDOID, ObjectIdGetDatum(t->relid), false);
	rows = crm_merge_run_catalog(&plan, sql, &p);
	for (uint64 i = 0; i < rows.count; i++)
	{
		HeapTuple row = rows.table->vals[i];
		bool isnull;
		MergeChild *child =
			crm_child(mc, &children, DatumGetObjectId(SPI_getbinval(row, rows.desc, 1, &isnull)));
		MergeRef *ref = palloc0(sizeof(MergeRef));

		ref->kindcol = -1;
		ref->cols = crm_columns(child->t, SPI_getbinval(row, rows.desc, 2, &isnull), &ref->n);
		ref->refcols = crm_columns(t, SPI_getbinval(row, rows.desc, 3, &isnull), &ref->n);
		child->refs = lappend(child->refs, ref);
		child->self = child->t == t;
	}
	crm_merge_free(&rows);
	return children;
}

/*
 * Tables that refer by kind and id: those of the workspace with columns of these
 * names, unless they are append-only, and those that merge_link names.
 */
static MergeRows
crm_links(MergeContext *mc)
{
	static const char *const registered =
		"SELECT coalesce(array_agg(to_regclass(l.table_name)::oid), '{}'),"
		" coalesce(array_agg(l.kind_column), '{}'), coalesce(array_agg(l.id_column), '{}'),"
		" coalesce(array_agg(l.move), '{}')"
		" FROM %s.merge_link AS l WHERE to_regclass(l.table_name) IS NOT NULL";
	static const char *const links =
		"SELECT x.relid, x.kind_column, x.id_column FROM ("
		" SELECT c.oid AS relid, 'kind' AS kind_column, 'record_id' AS id_column"
		" FROM pg_class AS c"
		" WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
		" AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'kind'"
		"  AND a.atttypid = 'text'::regtype)"
		" AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid"
		"  AND a.attname = 'record_id')"
		" AND NOT EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = c.oid"
		"  AND g.tgenabled <> 'D' AND g.tgfoid = 'crm.append_only()'::regprocedure)"
		" AND NOT EXISTS (SELECT FROM unnest($2, $3, $4) AS l (rel, kind_column, id_column)"
		"  WHERE l.rel = c.oid AND l.kind_column = 'kind' AND l.id_column = 'record_id')"
		" UNION ALL"
		" SELECT l.rel, l.kind_column, l.id_column"
		" FROM unnest($2, $3, $4, $5) AS l (rel, kind_column, id_column, move)"
		" WHERE l.move) AS x"
		" ORDER BY x.relid::regclass::text COLLATE \"C\", 2, 3";
	static SPIPlanPtr plan = NULL;
	MergeParams p = {0};
	MergeRows rows = crm_merge_run_log(
		mc, psprintf(registered, quote_identifier(mc->workspace_name)), NULL, NULL);
	const Oid types[] = {get_array_type(OIDOID), TEXTARRAYOID, TEXTARRAYOID,
						 get_array_type(BOOLOID)};
	bool isnull;

	crm_merge_param(&p, OIDOID, ObjectIdGetDatum(mc->workspace), false);
	for (int i = 0; i < lengthof(types); i++)
		crm_merge_param(&p, types[i],
						PointerGetDatum(DatumGetArrayTypePCopy(
							SPI_getbinval(rows.table->vals[0], rows.desc, i + 1, &isnull))),
						false);
	crm_merge_free(&rows);
	return crm_merge_run_catalog(&plan, links, &p);
}

/* Every table that refers to the merged one: by foreign key, then by kind and id. */
List *
crm_merge_children(MergeContext *mc, MergeSet *s)
{
	MergeTable *t = s->t;
	List *children = crm_foreign_keys(mc, t);
	MergeRows rows;
	bool isnull;

	if (t->nkey != 1)
		return children;
	rows = crm_links(mc);
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

	ref->value = palloc(ref->n * sizeof(char *));
	for (int k = 0; k < ref->n; k++)
	{
		char *text = NULL;
		char *name = s->t->colname[ref->refcols[k]];

		if (!crm_merge_get(s->set, name, &text))
			text = crm_merge_text(s->t, &s->rows, 0, ref->refcols[k]);
		ref->value[k] =
			psprintf("$%d", crm_merge_typed_param(t, ref->cols[k], text, &child->params));
	}

	initStringInfo(&sql);
	if (ref->kindcol >= 0)
		appendStringInfo(&sql, "t.%s OPERATOR(pg_catalog.=) %s AND ",
						 quote_identifier(t->colname[ref->kindcol]),
						 quote_literal_cstr(crm_merge_kind(mc, s->t)));
	if (ref->n == 1 && OidIsValid(get_array_type(getBaseType(t->coltype[ref->cols[0]]))))
	{
		int col = ref->cols[0];
		char **texts = palloc(s->n * sizeof(char *));

		for (int i = 1; i < s->n; i++)
		{
			texts[terms] = crm_merge_text(s->t, &s->rows, i, ref->refcols[0]);
			if (texts[terms] != NULL)
				terms++;
		}
		appendStringInfo(&sql, "t.%s %s ANY ($%d)", quote_identifier(t->colname[col]),
						 crm_merge_equality(getBaseType(t->coltype[col])),
						 crm_merge_array_param(t, col, texts, terms, &child->params));
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

				text = crm_merge_text(s->t, &s->rows, i, ref->refcols[k]);
				if (text == NULL)
					isnull = true;
				else
					appendStringInfo(&term, "%st.%s %s $%d", k == 0 ? "" : " AND ",
									 quote_identifier(t->colname[col]),
									 crm_merge_equality(getBaseType(t->coltype[col])),
									 crm_merge_typed_param(t, col, text, &child->params));
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
bool
crm_merge_prepare_child(MergeContext *mc, MergeSet *s, MergeChild *child)
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

		bool generated = false;

		if (!crm_prepare_ref(mc, s, child, ref))
			continue;
		for (int k = 0; k < ref->n; k++)
			generated |= t->generated[ref->cols[k]];
		if (generated)
		{
			child->fixed = lappend(child->fixed, ref);
			continue;
		}
		refs = lappend(refs, ref);
		appendStringInfo(&condition, "%s(%s)", condition.len == 0 ? "" : " OR ", ref->condition);
	}
	child->refs = refs;
	if (refs == NIL)
		return false;
	/* The merged rows' own references among themselves go with them. */
	if (child->self)
		child->condition = psprintf("(%s) AND NOT %s", condition.data,
									crm_merge_key_condition(t, s->keys, s->n, &child->params));
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

/* Whether any row refers to a loser at all; most tables have none. */
bool
crm_merge_is_referring(MergeContext *mc, MergeChild *child)
{
	MergeRows rows = crm_merge_run(
		mc, child->t,
		psprintf("SELECT FROM %s AS t WHERE %s LIMIT 1", child->t->from, child->condition),
		&child->params, NULL);
	bool found = rows.count > 0;

	crm_merge_free(&rows);
	return found;
}

/*
 * A generated column follows those it is made of.  A reference that still names a loser
 * when these have been re-pointed cannot be: the row would go with the loser, or hold it.
 */
void
crm_merge_check_fixed(MergeContext *mc, MergeChild *child)
{
	ListCell *lc;

	foreach (lc, child->fixed)
	{
		MergeRef *ref = lfirst(lc);
		MergeRows rows = crm_merge_run(
			mc, child->t,
			psprintf("SELECT FROM %s AS t WHERE %s LIMIT 1", child->t->from, ref->condition),
			&child->params, NULL);

		if (rows.count > 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot re-point rows of \"%s\"", child->t->name),
					 errdetail("Column \"%s\", by which they refer to a record, is generated.",
							   child->t->colname[ref->cols[0]]),
					 errhint("Change the columns that it is generated from, then merge.")));
		crm_merge_free(&rows);
	}
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

/* An index that refuses rows because of others. */
typedef struct MergeIndex
{
	int n;
	char **exprs;
	char **operators;
	char *predicate;
	bool nulls_distinct;
	bool groups; /* what it takes for equal is so for GROUP BY */
} MergeIndex;

/* "a and b are equal": a list of comparisons, column by column. */
static char *
crm_comparison(MergeIndex *index, const char *a, const char *b)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int k = 0; k < index->n; k++)
	{
		appendStringInfo(&sql, "%s(%s.crm_k%d %s %s.crm_k%d", k == 0 ? "" : " AND ", a, k,
						 index->operators[k], b, k);
		if (!index->nulls_distinct)
			appendStringInfo(&sql, " OR %s.crm_k%d IS NULL AND %s.crm_k%d IS NULL", a, k, b, k);
		appendStringInfoChar(&sql, ')');
	}
	return sql.data;
}

/* SQL of the rows to be re-pointed, as they will be: FROM (...) AS t. */
static char *
crm_moved_image(MergeContext *mc, MergeChild *child)
{
	static const char *const generated =
		"SELECT format(', %s AS %I', pg_get_expr(d.adbin, d.adrelid), a.attname)"
		" FROM pg_attribute AS a"
		" JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
		" WHERE a.attrelid = $1 AND a.attgenerated <> '' AND NOT a.attisdropped ORDER BY a.attnum";
	static SPIPlanPtr plan = NULL;
	MergeTable *t = child->t;
	bool any = false;
	StringInfoData sql, columns;

	initStringInfo(&columns);
	for (int c = 0; c < t->ncols; c++)
	{
		char *name = pstrdup(quote_identifier(t->colname[c]));

		any |= t->generated[c];
		if (child->replacement[c])
			appendStringInfo(&columns, ", %s AS %s", child->replacement[c], name);
		else if (!t->generated[c])
			appendStringInfo(&columns, ", t.%s", name);
	}
	initStringInfo(&sql);
	appendStringInfo(
		&sql, "(SELECT t.ctid AS crm_tid, t.tableoid AS crm_tab%s FROM %s AS t WHERE %s) AS t",
		columns.data, t->from, child->condition);
	if (any)
	{
		MergeParams p = {0};
		MergeRows rows;
		StringInfoData outer;
		bool isnull;

		crm_merge_param(&p, OIDOID, ObjectIdGetDatum(t->relid), false);
		rows = crm_merge_run_catalog(&plan, generated, &p);
		initStringInfo(&outer);
		appendStringInfoString(&outer, "(SELECT t.*");
		for (uint64 i = 0; i < rows.count; i++)
			appendStringInfoString(&outer, TextDatumGetCString(SPI_getbinval(
											   rows.table->vals[i], rows.desc, 1, &isnull)));
		appendStringInfo(&outer, " FROM %s) AS t", sql.data);
		crm_merge_free(&rows);
		return outer.data;
	}
	return sql.data;
}

/*
 * The rows to be re-pointed that one index would refuse, each with the first row that
 * it meets: (row to fold, row that stays), as ctid and tableoid each, in a defined order.
 * Of many rows that are equal all meet the first; only where an index compares by other
 * operators is every row compared with every other.
 */
static MergeRows
crm_conflicts(MergeContext *mc, MergeChild *child, MergeIndex *index)
{
	MergeTable *t = child->t;
	StringInfoData sql, keys, group;

	initStringInfo(&sql);
	initStringInfo(&keys);
	initStringInfo(&group);
	for (int k = 0; k < index->n; k++)
	{
		appendStringInfo(&keys, ", %s AS crm_k%d", index->exprs[k], k);
		appendStringInfo(&group, "%sm.crm_k%d", k == 0 ? "" : ", ", k);
	}
	appendStringInfo(&sql,
					 "WITH m AS MATERIALIZED (SELECT m.*, min(m.crm_ord) OVER (PARTITION BY %s)"
					 " AS crm_first FROM (SELECT row_number() OVER (ORDER BY %s) AS crm_ord,"
					 " t.crm_tid, t.crm_tab%s FROM %s WHERE %s) AS m)",
					 index->groups ? group.data : "m.crm_ord",
					 t->nkey > 0 ? crm_order(t) : "t.crm_tab, t.crm_tid", keys.data,
					 crm_moved_image(mc, child), index->predicate);
	appendStringInfo(
		&sql,
		" SELECT DISTINCT ON (c.crm_ord) c.* FROM ("
		"SELECT m.crm_tid, m.crm_tab, o.crm_tid, o.crm_tab, m.crm_ord, 0 AS other FROM m JOIN"
		" (SELECT t.ctid AS crm_tid, t.tableoid AS crm_tab%s FROM %s AS t"
		"  WHERE (%s) IS NOT TRUE AND (%s)) AS o ON %s",
		keys.data, t->from, child->condition, index->predicate, crm_comparison(index, "m", "o"));
	appendStringInfo(&sql,
					 " UNION ALL"
					 " SELECT b.crm_tid, b.crm_tab, a.crm_tid, a.crm_tab, b.crm_ord, a.crm_ord"
					 " FROM m AS a JOIN m AS b ON a.crm_ord %s AND a.crm_ord < b.crm_ord AND %s)"
					 " AS c (fold_tid, fold_tab, keep_tid, keep_tab, crm_ord, other)"
					 " ORDER BY c.crm_ord, c.other",
					 index->groups ? "= b.crm_first" : "< b.crm_ord",
					 crm_comparison(index, "a", "b"));
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

	memset(&result, 0, sizeof(result)); /* it is a key, padding and all */
	result.tid = *(ItemPointer) DatumGetPointer(
		SPI_getbinval(rows->table->vals[row], rows->desc, column, &isnull));
	result.table =
		DatumGetObjectId(SPI_getbinval(rows->table->vals[row], rows->desc, column + 1, &isnull));
	return result;
}

/* A row that stays, and those folded into it. */
typedef struct MergeFold
{
	List *tids; /* of MergeTid, the one that stays first */
} MergeFold;

typedef struct MergePlace
{
	MergeTid tid;
	bool goes; /* into another row */
	MergeFold *into;
} MergePlace;

static MergeTid *
crm_copy_tid(MergeTid tid)
{
	MergeTid *copy = palloc(sizeof(MergeTid));

	*copy = tid;
	return copy;
}

/*
 * Sorts pairs by the row that stays.  Folding moves rows, so that places are good for
 * one fold each: a row that goes takes no other with it, and waits if one goes into it.
 */
static List *
crm_folds(MergeRows *pairs)
{
	List *folds = NIL;
	HASHCTL ctl = {0};
	HTAB *places;

	ctl.keysize = sizeof(MergeTid);
	ctl.entrysize = sizeof(MergePlace);
	ctl.hcxt = CurrentMemoryContext;
	places = hash_create("crm rows to fold", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (uint64 i = 0; i < pairs->count; i++)
	{
		MergeTid fold = crm_tid(pairs, i, 1);
		MergeTid keep = crm_tid(pairs, i, 3);
		MergePlace *place;
		MergeFold *into;
		bool found;

		CHECK_FOR_INTERRUPTS();
		place = hash_search(places, &keep, HASH_FIND, NULL);
		if ((place != NULL && place->goes) || hash_search(places, &fold, HASH_FIND, NULL) != NULL)
			continue;
		place = hash_search(places, &keep, HASH_ENTER, &found);
		if (!found)
		{
			place->goes = false;
			place->into = palloc(sizeof(MergeFold));
			place->into->tids = list_make1(crm_copy_tid(keep));
			folds = lappend(folds, place->into);
		}
		into = place->into;
		place = hash_search(places, &fold, HASH_ENTER, &found);
		place->goes = true;
		place->into = into;
		into->tids = lappend(into->tids, crm_copy_tid(fold));
	}
	hash_destroy(places);
	return folds;
}

/* Folds rows into the one that stays: a merge of them, which their own references follow. */
static void
crm_fold(MergeContext *mc, MergeTable *t, List *tids)
{
	MergeInput *input = crm_merge_input_tids();
	MergeRows rows;
	ListCell *lc;

	foreach (lc, tids)
	{
		MergeTid *tid = lfirst(lc);
		Datum values[MERGE_LEAD];
		bool nulls[MERGE_LEAD] = {false};

		values[0] = Int32GetDatum(input->count);
		values[1] = PointerGetDatum(&tid->tid);
		values[2] = ObjectIdGetDatum(tid->table);
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
	if (rows.count != list_length(tids))
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
void
crm_merge_resolve_conflicts(MergeContext *mc, MergeChild *child)
{
	/*
	 * A partition may have indexes that its parent has not: they bind the rows that
	 * are in it, or will be.  One that is still being built binds, too.
	 */
	static const char *const indexes =
		"SELECT array_agg(pg_get_indexdef(i.indexrelid, k.ord::integer, false)"
		"  || coalesce(' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname), "
		"'') ORDER BY k.ord),"
		" array_agg(format('OPERATOR(%I.%s)', n.nspname, o.oprname) ORDER BY k.ord),"
		" coalesce(nullif(concat_ws(' AND ', CASE WHEN i.indrelid <> $1"
		"  THEN pg_get_partition_constraintdef(i.indrelid) END,"
		"  pg_get_expr(i.indpred, i.indrelid)), ''), 'true'),"
		" NOT i.indnullsnotdistinct, NOT i.indisexclusion AND bool_and(oc.opcdefault),"
		" bool_or(a.attname = ANY ($2) OR a.attgenerated <> '' OR i.indexprs IS NOT NULL"
		"  OR i.indpred IS NOT NULL OR i.indrelid <> $1)"
		" FROM pg_index AS i"
		" JOIN pg_class AS r ON r.oid = i.indexrelid"
		" LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid"
		"  AND c.contype IN ('p', 'u', 'x')"
		" CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[])"
		"  WITH ORDINALITY AS k (num, class, coll, ord)"
		" JOIN pg_opclass AS oc ON oc.oid = k.class"
		" LEFT JOIN pg_amop AS ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = "
		"oc.opcintype"
		"  AND ao.amoprighttype = oc.opcintype AND ao.amopstrategy = 3 AND NOT i.indisexclusion"
		" JOIN pg_operator AS o ON o.oid = coalesce(c.conexclop[k.ord], ao.amopopr)"
		" JOIN pg_namespace AS n ON n.oid = o.oprnamespace"
		" LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.num"
		" LEFT JOIN pg_collation AS co ON co.oid = k.coll"
		" LEFT JOIN pg_namespace AS cn ON cn.oid = co.collnamespace"
		" WHERE i.indrelid IN (SELECT $1 UNION SELECT relid FROM pg_partition_tree($1))"
		"  AND (i.indisunique OR i.indisexclusion) AND i.indisready"
		"  AND (r.relkind <> 'I' OR i.indisvalid)"
		"  AND NOT EXISTS (SELECT FROM pg_inherits AS h JOIN pg_index AS up ON up.indexrelid = "
		"h.inhparent"
		"   WHERE h.inhrelid = i.indexrelid AND up.indisvalid)"
		"  AND k.ord <= i.indnkeyatts"
		" GROUP BY i.indexrelid, i.indpred, i.indrelid, i.indnullsnotdistinct, i.indisexclusion"
		" ORDER BY i.indexrelid";
	static SPIPlanPtr plan = NULL;
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
	crm_merge_param(&p, TEXTARRAYOID, PointerGetDatum(crm_merge_text_array(moved, nmoved)), false);
	rows = crm_merge_run_catalog(&plan, indexes, &p);
	for (uint64 i = 0; i < rows.count; i++)
	{
		HeapTuple row = rows.table->vals[i];
		MergeIndex index;
		bool again;

		index.exprs = crm_strings(SPI_getbinval(row, rows.desc, 1, &isnull), &index.n);
		index.operators = crm_strings(SPI_getbinval(row, rows.desc, 2, &isnull), &index.n);
		index.predicate = TextDatumGetCString(SPI_getbinval(row, rows.desc, 3, &isnull));
		index.nulls_distinct = DatumGetBool(SPI_getbinval(row, rows.desc, 4, &isnull));
		index.groups = DatumGetBool(SPI_getbinval(row, rows.desc, 5, &isnull));
		again = DatumGetBool(SPI_getbinval(row, rows.desc, 6, &isnull)) && !isnull;
		while (again)
		{
			MergeRows pairs = crm_conflicts(mc, child, &index);
			ListCell *lc;

			again = pairs.count > 0;
			foreach (lc, crm_folds(&pairs))
			{
				MergeFold *fold = lfirst(lc);

				crm_fold(mc, t, fold->tids);
				child->conflicts += list_length(fold->tids) - 1;
			}
			crm_merge_free(&pairs);
		}
	}
	crm_merge_free(&rows);
}

/* ---------------------------------------------------------------------
 * Re-pointing
 * --------------------------------------------------------------------- */

/* Sums of a table's numeric columns; where it has a column "currency", those of one currency. */
typedef struct MergeTotals
{
	char *currency;
	Datum *sums; /* for each column; 0: none */
} MergeTotals;

static Datum *
crm_totals_in(List **totals, MergeTable *t, char *currency)
{
	MergeTotals *m;
	ListCell *lc;

	foreach (lc, *totals)
	{
		m = lfirst(lc);
		if (strcmp(m->currency, currency) == 0)
			return m->sums;
	}
	m = palloc(sizeof(MergeTotals));
	m->currency = pstrdup(currency);
	m->sums = palloc0(t->ncols * sizeof(Datum));
	*totals = lappend(*totals, m);
	return m->sums;
}

static void
crm_totals_add(MergeTable *t, MergeChild *child, MergeRows *rows, uint64 row, List **totals)
{
	int currency = crm_merge_column(t, "currency");
	Datum *sums = NULL;

	for (int c = 0; c < t->ncols; c++)
	{
		bool isnull;
		Datum value;

		if (t->coltype[c] != NUMERICOID || child->replacement[c])
			continue;
		value = crm_merge_value(rows, row, c, &isnull);
		if (isnull)
			continue;
		if (sums == NULL)
		{
			char *name = currency < 0 ? NULL : crm_merge_text(t, rows, row, currency);

			sums = crm_totals_in(totals, t, name ? name : "");
		}
		sums[c] = sums[c] == (Datum) 0 ? PointerGetDatum(PG_DETOAST_DATUM_COPY(value))
									   : DirectFunctionCall2(numeric_add, sums[c], value);
	}
}

static void
crm_push_sum(JsonbParseState **state, char *key, Datum sum)
{
	JsonbValue v;

	v.type = jbvString;
	v.val.string.val = key;
	v.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &v);
	v.type = jbvNumeric;
	v.val.numeric = DatumGetNumeric(sum);
	pushJsonbValue(state, WJB_VALUE, &v);
}

/* {"pieces": 3}, or {"amount": {"EUR": 10, "USD": 5}}: amounts of two currencies have no sum. */
static Jsonb *
crm_totals_json(MergeTable *t, List *totals)
{
	JsonbParseState *state = NULL;
	bool by_currency = crm_merge_column(t, "currency") >= 0;

	if (totals == NIL)
		return NULL;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int c = 0; c < t->ncols; c++)
	{
		bool any = false;
		ListCell *lc;

		foreach (lc, totals)
		{
			MergeTotals *m = lfirst(lc);

			if (m->sums[c] == (Datum) 0)
				continue;
			if (by_currency && !any)
			{
				JsonbValue v;

				v.type = jbvString;
				v.val.string.val = t->colname[c];
				v.val.string.len = strlen(t->colname[c]);
				pushJsonbValue(&state, WJB_KEY, &v);
				pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
			}
			any = true;
			crm_push_sum(&state, by_currency ? m->currency : t->colname[c], m->sums[c]);
		}
		if (by_currency && any)
			pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* Counts the references a batch moved, and sums the amounts that went with them. */
static int64
crm_count_moved(MergeChild *child, MergeRows *before, MergeRows *after, List **totals,
				MemoryContext cxt)
{
	MergeTable *t = child->t;
	MemoryContext old;
	int64 moved = 0;

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
					moved++;
					break;
				}
		}
		old = MemoryContextSwitchTo(cxt);
		crm_totals_add(t, child, before, ord, totals);
		MemoryContextSwitchTo(old);
	}
	return moved;
}

/*
 * Takes out of the tables the references by a key that the survivor does not have
 * yet, because it takes it over from a loser.  They follow when it has.
 */
List *
crm_merge_late_children(MergeSet *s, List *children)
{
	List *result = NIL;
	ListCell *lc, *lr;

	foreach (lc, children)
	{
		MergeChild *child = lfirst(lc);
		MergeChild *late = NULL;
		List *refs = NIL;

		foreach (lr, child->refs)
		{
			MergeRef *ref = lfirst(lr);
			bool changes = false;
			char *text;

			for (int k = 0; k < ref->n; k++)
				changes |= crm_merge_get(s->set, s->t->colname[ref->refcols[k]], &text);
			if (!changes)
			{
				refs = lappend(refs, ref);
				continue;
			}
			if (late == NULL)
			{
				late = palloc0(sizeof(MergeChild));
				late->t = child->t;
				result = lappend(result, late);
			}
			late->refs = lappend(late->refs, ref);
		}
		child->refs = refs;
	}
	return result;
}

/*
 * Undoing a merge passes keys back without referential actions; what came to refer
 * to a key in the meantime must still find it.
 */
void
crm_merge_check_orphans(MergeContext *mc, MergeTable *t)
{
	ListCell *lc, *lr;

	foreach (lc, crm_foreign_keys(mc, t))
	{
		MergeChild *child = lfirst(lc);

		foreach (lr, child->refs)
		{
			MergeRef *ref = lfirst(lr);
			StringInfoData known, join;
			MergeRows rows;

			if (ref->n == 1 && t->nkey == 1 && ref->refcols[0] == t->key[0])
				continue;
			initStringInfo(&known);
			initStringInfo(&join);
			for (int k = 0; k < ref->n; k++)
			{
				char *col = pstrdup(quote_identifier(child->t->colname[ref->cols[k]]));

				appendStringInfo(&known, "%st.%s IS NOT NULL", k == 0 ? "" : " AND ", col);
				appendStringInfo(&join, "%sp.%s %s t.%s", k == 0 ? "" : " AND ",
								 quote_identifier(t->colname[ref->refcols[k]]),
								 crm_merge_equality(getBaseType(t->coltype[ref->refcols[k]])), col);
			}
			if (child->t->owner != t->owner)
				continue;
			rows = crm_merge_run(mc, child->t,
								 psprintf("SELECT FROM %s AS t WHERE %s AND NOT EXISTS"
										  " (SELECT FROM %s AS p WHERE %s) LIMIT 1",
										  child->t->from, known.data, t->from, join.data),
								 NULL, NULL);
			if (rows.count > 0)
				ereport(ERROR,
						(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
						 errmsg("merge " INT64_FORMAT " cannot be undone", mc->merge_id),
						 errdetail("Rows of \"%s\" refer to a key of \"%s\" that the merge made.",
								   child->t->name, t->name)));
			crm_merge_free(&rows);
		}
	}
}

/*
 * Whether the rows of a table change in columns that other tables refer to.
 * Notes which tables those are.
 */
bool
crm_merge_needs_batch(MergeContext *mc, MergeChild *child)
{
	ListCell *lc, *lr;

	foreach (lc, crm_foreign_keys(mc, child->t))
	{
		MergeChild *referring = lfirst(lc);
		bool involved = false;

		foreach (lr, referring->refs)
		{
			MergeRef *ref = lfirst(lr);

			for (int k = 0; k < ref->n; k++)
				involved |= child->replacement[ref->refcols[k]] != NULL;
		}
		if (involved)
			child->referring = lappend(child->referring, referring);
	}
	return child->referring != NIL;
}

/* {column of g: text of the column of t it refers to} */
static Jsonb *
crm_reference_image(MergeTable *g, MergeRef *ref, MergeTable *t, MergeRows *rows, uint64 row)
{
	Jsonb *image = NULL;

	for (int k = 0; k < ref->n; k++)
	{
		Jsonb *pair = crm_merge_jsonb_pair(g->colname[ref->cols[k]],
										   crm_merge_text(t, rows, row, ref->refcols[k]));

		image = image ? crm_merge_jsonb_concat(image, pair) : pair;
	}
	return image;
}

/* Makes the rows that refer by one foreign key to changed rows of t follow them. */
static void
crm_follow_ref(MergeContext *mc, MergeTable *t, MergeTable *g, MergeRef *ref, MergeRows *before,
			   MergeRows *after)
{
	Bitmapset *columns = NULL;
	StringInfoData join, set;
	MergeInput *input;
	MergeRows old, new;
	bool isnull;

	initStringInfo(&join);
	initStringInfo(&set);
	for (int k = 0; k < ref->n; k++)
	{
		int col = ref->cols[k];
		char *name = pstrdup(quote_identifier(g->colname[col]));

		columns = bms_add_member(columns, col);
		appendStringInfo(&join, "%st.%s %s n.v%d", k == 0 ? "" : " AND ", name,
						 crm_merge_equality(getBaseType(g->coltype[col])), col);
		if (!g->generated[col])
			appendStringInfo(&set, "%s%s = n.v%d", set.len == 0 ? "" : ", ", name, col);
	}
	if (set.len == 0)
		return;

	input = crm_merge_input_values(g, columns);
	for (uint64 i = 0; i < after->count; i++)
	{
		uint64 ord = DatumGetInt32(SPI_getbinval(after->table->vals[i], after->desc, 1, &isnull));
		bool changed = false;

		for (int k = 0; k < ref->n; k++)
			changed |= !crm_merge_same(t, before, ord, after, i, ref->refcols[k]);
		if (changed)
			crm_merge_input_value(input, g, columns, i, NULL, 0,
								  crm_reference_image(g, ref, t, before, ord));
	}
	if (input->count == 0)
	{
		crm_merge_input_end(input);
		return;
	}
	if (g->owner != t->owner)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot change the key of rows of \"%s\"", t->name),
						errdetail("Table \"%s\" refers to them and has another owner.", g->name),
						errhint("Give both tables one owner, or merge these records by hand.")));
	old = crm_merge_run(mc, g,
						psprintf("SELECT n.crm_ord, t.ctid, t.tableoid, t.* FROM %s AS t"
								 " JOIN crm_rows AS n ON %s FOR UPDATE OF t",
								 g->from, join.data),
						NULL, input);
	crm_merge_input_end(input);
	if (old.count == 0)
	{
		crm_merge_free(&old);
		return;
	}
	input = crm_merge_input_values(g, columns);
	for (uint64 r = 0; r < old.count; r++)
		crm_merge_input_value(input, g, columns, r, &old, r,
							  crm_reference_image(g, ref, t, after,
												  DatumGetInt32(SPI_getbinval(
													  old.table->vals[r], old.desc, 1, &isnull))));
	new = crm_merge_run(mc, g,
						psprintf("UPDATE %s AS t SET %s FROM crm_rows AS n"
								 " WHERE t.ctid OPERATOR(pg_catalog.=) n.crm_tid"
								 " AND t.tableoid OPERATOR(pg_catalog.=) n.crm_tab"
								 " RETURNING n.crm_ord, t.ctid, t.tableoid, t.*",
								 g->from, set.data),
						NULL, input);
	crm_merge_input_end(input);
	crm_merge_log_update(mc, g, &old, &new);
	crm_merge_follow(mc, g, crm_foreign_keys(mc, g), &old, &new);
	crm_merge_free(&new);
	crm_merge_free(&old);
}

/* Makes the rows that refer to changed ones follow, as ON UPDATE CASCADE would. */
void
crm_merge_follow(MergeContext *mc, MergeTable *t, List *referring, MergeRows *before,
				 MergeRows *after)
{
	ListCell *lc, *lr;

	check_stack_depth();
	foreach (lc, referring)
	{
		MergeChild *child = lfirst(lc);

		foreach (lr, child->refs)
			crm_follow_ref(mc, t, child->t, lfirst(lr), before, after);
	}
}

/* Re-points every row of one table, in batches. */
void
crm_merge_move(MergeContext *mc, MergeSet *s, MergeChild *child)
{
	MergeTable *t = child->t;
	List *totals = NIL;
	MemoryContext batch =
		AllocSetContextCreate(CurrentMemoryContext, "crm merge batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(batch);
	char *select;
	StringInfoData update;
	bool first = true;
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
		if (crm_count_moved(child, &before, &after, &totals, old) == 0)
			ereport(ERROR, (errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
							errmsg("rows of \"%s\" could not be re-pointed", t->name),
							errdetail("A trigger of the table put the old values back.")));
		crm_merge_log_update(mc, t, &before, &after);
		crm_merge_follow(mc, t, child->referring, &before, &after);
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
				crm_merge_report(mc, t, t->colname[ref->cols[k]], ref->rows,
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
void
crm_merge_check_unseen(MergeContext *mc, MergeChild *child)
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
