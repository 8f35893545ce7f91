/*
 * merge_log.c
 *		What a merge writes down: changed rows for unmerge(), effects for people.
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

MergeInput *
crm_merge_log_input(void)
{
	MergeInput *input = palloc0(sizeof(MergeInput));

	input->desc = CreateTemplateTupleDesc(3);
	TupleDescInitEntry(input->desc, 1, "key", JSONBOID, -1, 0);
	TupleDescInitEntry(input->desc, 2, "before", JSONBOID, -1, 0);
	TupleDescInitEntry(input->desc, 3, "after", JSONBOID, -1, 0);
	input->store = tuplestore_begin_heap(false, false, work_mem);
	return input;
}

void
crm_merge_log_row(MergeInput *input, Jsonb *key, Jsonb *before, Jsonb *after)
{
	Datum values[3];
	bool nulls[3] = {false, false, after == NULL};

	values[0] = JsonbPGetDatum(key);
	values[1] = JsonbPGetDatum(before);
	values[2] = after ? JsonbPGetDatum(after) : (Datum) 0;
	tuplestore_putvalues(input->store, input->desc, values, nulls);
	input->count++;
}

void
crm_merge_log_write(MergeContext *mc, MergeTable *t, const char *operation, MergeInput *input)
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
void
crm_merge_log_update(MergeContext *mc, MergeTable *t, MergeRows *before, MergeRows *after)
{
	MergeInput *input = crm_merge_log_input();

	for (uint64 i = 0; i < after->count; i++)
	{
		bool isnull;
		uint64 ord = DatumGetInt32(SPI_getbinval(after->table->vals[i], after->desc, 1, &isnull));
		Bitmapset *changed = NULL;

		for (int c = 0; c < t->ncols; c++)
			if (!t->generated[c] && !crm_merge_same(t, before, ord, after, i, c))
				changed = bms_add_member(changed, c);
		if (changed != NULL)
			crm_merge_log_row(input, crm_merge_key(t, after, i),
							  crm_merge_image(t, before, ord, changed),
							  crm_merge_image(t, after, i, changed));
		bms_free(changed);
	}
	crm_merge_log_write(mc, t, "update", input);
}
Datum
crm_merge_single_datum(MergeRows *rows, bool *isnull)
{
	if (rows->count != 1)
		elog(ERROR, "expected one row, got " UINT64_FORMAT, rows->count);
	return SPI_getbinval(rows->table->vals[0], rows->desc, 1, isnull);
}

Jsonb *
crm_merge_single_jsonb(MergeRows *rows)
{
	bool isnull;
	Datum d = crm_merge_single_datum(rows, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(d);
}

ArrayType *
crm_merge_text_array(char **items, int n)
{
	Datum *d = palloc(Max(n, 1) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		d[i] = CStringGetTextDatum(items[i] ? items[i] : "");
	return construct_array(d, n, TEXTOID, -1, false, TYPALIGN_INT);
}

/* ---------------------------------------------------------------------
 * JSON
 * --------------------------------------------------------------------- */

/* {"name": value}, value NULL for null */
Jsonb *
crm_merge_jsonb_pair(const char *name, const char *value)
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

void
crm_merge_push_jsonb(JsonbParseState **state, const char *key, Jsonb *value)
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
Jsonb *
crm_merge_jsonb_object(const char *name, Jsonb *value)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	crm_merge_push_jsonb(&state, name, value);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

Jsonb *
crm_merge_jsonb_concat(Jsonb *a, Jsonb *b)
{
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(a), JsonbPGetDatum(b)));
}

Jsonb *
crm_merge_jsonb_delete(Jsonb *a, const char *name)
{
	return DatumGetJsonbP(
		DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(a), CStringGetTextDatum(name)));
}

void
crm_merge_push_string(JsonbParseState **state, const char *key, const char *value)
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

void
crm_merge_push_int(JsonbParseState **state, const char *key, int64 value)
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

/* ---------------------------------------------------------------------
 * Effects
 * --------------------------------------------------------------------- */

void
crm_merge_report(MergeContext *mc, MergeTable *t, const char *column, int64 rows, int64 conflicts,
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

Jsonb *
crm_merge_effects(MergeContext *mc)
{
	JsonbParseState *state = NULL;
	ListCell *lc;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	foreach (lc, mc->reports)
	{
		MergeReport *r = lfirst(lc);

		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		crm_merge_push_string(&state, "table", r->table_name);
		crm_merge_push_string(&state, "column", r->column_name);
		crm_merge_push_int(&state, "rows", r->rows);
		crm_merge_push_int(&state, "conflicts", r->conflicts);
		if (r->totals != NULL)
			crm_merge_push_jsonb(&state, "totals", r->totals);
		crm_merge_push_string(&state, "note", r->note);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

/* Adds the fields of the survivor that change to the report. */
void
crm_merge_report_fields(MergeContext *mc, MergeTable *t, Jsonb *fields)
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
		crm_merge_report(mc, t, name, 1, 0, NULL,
						 JsonbToCString(NULL, &JsonbValueToJsonb(&v)->root, 0));
	}
}
