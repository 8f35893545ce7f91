/*
 * unmerge.c
 *		Undoing a merge.
 *
 * The changes of a merge are undone in reverse order, so that every constraint
 * that held then holds again on the way back.  Each changed column is looked at
 * three ways: if it still has the value the merge gave it, it gets back the one
 * it had before; if somebody edited it since, it keeps the edit, which is
 * reported.  A row in which nothing was edited is written without BEFORE
 * triggers, and so ends exactly as it was; an edited one is updated like any
 * other row, so that its version and time stamp move on.
 *
 * The records themselves may also have been changed by triggers that count or
 * stamp when their children moved.  "settle" entries say what they were before
 * everything and after everything; they come first on the way back, where the
 * three-way comparison is made, and take effect last.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "crm.h"
#include "duplicate_rule.h"
#include "merge.h"
#include "workspace.h"

/* A value that was edited after the merge, or a row that is gone. */
typedef struct UnmergeKept
{
	char *table;
	Jsonb *record;
	char *field;
	char *merged;
	char *kept;
	char *note;
} UnmergeKept;

/* A record of the merge whose row is put right at the end. */
typedef struct UnmergeSettle
{
	MergeTable *t;
	Jsonb *key;
	Jsonb *before;
	Bitmapset *columns; /* to force */
	bool edited;
} UnmergeSettle;

typedef struct UnmergeContext
{
	MergeContext *mc;
	List *kept;		/* of UnmergeKept */
	List *settles;	/* of List of UnmergeSettle, a list for each group of changes */
	HTAB *settled;	/* UnmergeSettled: the same by their keys */
	MergeTable *at; /* whose rows are being put back */
} UnmergeContext;

typedef struct UnmergeSettled
{
	uint64 hash;   /* of table and key */
	List *settles; /* of UnmergeSettle */
} UnmergeSettled;

/* The entries of one group of changes. */
typedef struct UnmergeEntries
{
	int n;
	Jsonb **key;
	Jsonb **before;
	Jsonb **after;
} UnmergeEntries;

/* Where a row is: ctids repeat across partitions. */
typedef struct UnmergePlace
{
	ItemPointerData tid;
	Oid table;
} UnmergePlace;

/* Rows of one group that are written by one statement. */
typedef struct UnmergeWrite
{
	Bitmapset *columns;
	bool edited;
	bool record; /* of the merge itself */
	MergeInput *input;
} UnmergeWrite;

static Jsonb *
crm_copy_jsonb(Jsonb *j)
{
	Jsonb *copy = palloc(VARSIZE(j));

	memcpy(copy, j, VARSIZE(j));
	return copy;
}

static void
crm_keep(UnmergeContext *uc, MergeTable *t, Jsonb *record, const char *field, const char *merged,
		 const char *kept, const char *note)
{
	MemoryContext old;
	UnmergeKept *k;

	/* What is known about pairs moves on with scans and decisions; nobody edits it by hand. */
	if (t->schema_oid == uc->mc->workspace && strncmp(t->name, "duplicate_", 10) == 0)
		return;
	old = MemoryContextSwitchTo(uc->mc->cxt);
	k = palloc0(sizeof(UnmergeKept));

	k->table = t->qualified;
	k->record = crm_copy_jsonb(record);
	k->field = field ? pstrdup(field) : NULL;
	k->merged = merged ? pstrdup(merged) : NULL;
	k->kept = kept ? pstrdup(kept) : NULL;
	k->note = pstrdup(note);
	uc->kept = lappend(uc->kept, k);
	MemoryContextSwitchTo(old);
}

/* Versions and time stamps follow any edit; they are no news of their own. */
static bool
crm_is_stamp(const char *column)
{
	return strcmp(column, "updated_at") == 0 || strcmp(column, "row_version") == 0;
}

static bool
crm_same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* A logged value as the type would write it in this session. */
static char *
crm_rewritten(MergeTable *t, int c, char *logged)
{
	return OutputFunctionCall(&t->out[c],
							  InputFunctionCall(&t->in[c], logged, t->inparam[c], t->coltypmod[c]));
}

/*
 * The text of some types depends on settings, such as the time zone, that may differ by now;
 * and the column may have another type.
 */
static bool
crm_same_value(MergeTable *t, int c, char *logged, char *now)
{
	if (logged == NULL || now == NULL)
		return logged == now;
	return strcmp(logged, now) == 0 || strcmp(crm_rewritten(t, c, logged), now) == 0;
}

static bool
crm_same_jsonb(Jsonb *a, Jsonb *b)
{
	return compareJsonbContainers(&a->root, &b->root) == 0;
}

static HTAB *
crm_make_settled(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(UnmergeSettled);
	ctl.hcxt = CurrentMemoryContext;
	return hash_create("crm rows to settle", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static UnmergeSettled *
crm_settled_entry(UnmergeContext *uc, MergeTable *t, Jsonb *key, HASHACTION action)
{
	UnmergeSettled *entry;
	uint64 hash = DatumGetUInt64(
		DirectFunctionCall2(jsonb_hash_extended, JsonbPGetDatum(key), UInt64GetDatum(t->relid)));
	bool found;

	entry = hash_search(uc->settled, &hash, action, &found);
	if (entry != NULL && !found)
		entry->settles = NIL;
	return entry;
}

/* What is settled of a row: the first entry, which is of its last state. */
static UnmergeSettle *
crm_settled(UnmergeContext *uc, MergeTable *t, Jsonb *key)
{
	UnmergeSettled *entry = crm_settled_entry(uc, t, key, HASH_FIND);
	ListCell *lc;

	if (entry == NULL)
		return NULL;
	foreach (lc, entry->settles)
	{
		UnmergeSettle *s = lfirst(lc);

		if (s->t == t && crm_same_jsonb(s->key, key))
			return s;
	}
	return NULL;
}

/* A row of the merge is not there: refuse if a later merge took it. */
static void
crm_check_blocker(MergeContext *mc, MergeTable *t, Jsonb *key)
{
	MergeParams p = {0};
	MergeRows rows;
	char *schema = pstrdup(quote_identifier(mc->workspace_name));

	crm_merge_param(&p, INT8OID, Int64GetDatum(mc->merge_id), false);
	crm_merge_param_text(&p, t->schema_oid == mc->workspace ? NULL : t->schema);
	crm_merge_param_text(&p, t->name);
	crm_merge_param(&p, JSONBOID, JsonbPGetDatum(key), false);
	rows = crm_merge_run_log(
		mc,
		psprintf("SELECT l.id FROM %s.merge_change AS c JOIN %s.merge_log AS l ON l.id = c.merge_id"
				 " WHERE c.key = $4 AND c.operation = 'delete' AND c.table_name = $3"
				 " AND c.table_schema IS NOT DISTINCT FROM $2 AND l.id > $1"
				 " AND l.undone_at IS NULL ORDER BY l.id DESC LIMIT 1",
				 schema, schema),
		&p, NULL);
	if (rows.count > 0)
	{
		bool isnull;
		int64 blocker = DatumGetInt64(SPI_getbinval(rows.table->vals[0], rows.desc, 1, &isnull));

		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("merge " INT64_FORMAT " cannot be undone before merge " INT64_FORMAT,
							   mc->merge_id, blocker),
						errdetail("Merge " INT64_FORMAT " removed row %s of \"%s\".", blocker,
								  JsonbToCString(NULL, &key->root, 0), t->name),
						errhint("Undo merge " INT64_FORMAT " first.", blocker)));
	}
	crm_merge_free(&rows);
}

/* The columns that identify a row in the log. */
static Bitmapset *
crm_key_columns(MergeTable *t, Jsonb *key)
{
	Bitmapset *columns = NULL;
	char *text;

	for (int c = 0; c < t->ncols; c++)
		if (crm_merge_get(key, t->colname[c], &text) &&
			(t->nkey > 0 || crm_merge_equality(getBaseType(t->coltype[c])) != NULL))
			columns = bms_add_member(columns, c);
	if (columns == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("rows of \"%s\" can no longer be told apart", t->name),
						errdetail("The columns of their key are gone.")));
	return columns;
}

/* The current rows of the given keys, locked; the ordinal says which key. */
static MergeRows
crm_locate(MergeContext *mc, MergeTable *t, Jsonb **keys, int n)
{
	Bitmapset *columns = crm_key_columns(t, keys[0]);
	MergeInput *input = crm_merge_input_values(t, columns);
	StringInfoData sql;
	MergeRows rows;
	int c = -1;
	bool first = true;

	for (int i = 0; i < n; i++)
		crm_merge_input_value(input, t, columns, i, NULL, 0, keys[i]);
	initStringInfo(&sql);
	appendStringInfo(
		&sql, "SELECT n.crm_ord, t.ctid, t.tableoid, t.* FROM %s AS t JOIN crm_rows AS n ON ",
		t->from);
	while ((c = bms_next_member(columns, c)) >= 0)
	{
		char *name = pstrdup(quote_identifier(t->colname[c]));
		char *eq = crm_merge_equality(getBaseType(t->coltype[c]));

		if (t->nkey > 0)
			appendStringInfo(&sql, "%st.%s %s n.v%d", first ? "" : " AND ", name, eq, c);
		else
			appendStringInfo(&sql, "%s(t.%s %s n.v%d OR t.%s IS NULL AND n.v%d IS NULL)",
							 first ? "" : " AND ", name, eq, c, name, c);
		first = false;
	}
	appendStringInfoString(&sql, " ORDER BY n.crm_ord FOR UPDATE OF t");
	rows = crm_merge_run(mc, t, sql.data, NULL, input);
	crm_merge_input_end(input);
	return rows;
}

static UnmergeEntries
crm_entries(MergeContext *mc, int position)
{
	MergeParams p = {0};
	UnmergeEntries e;
	MergeRows rows;

	crm_merge_param(&p, INT8OID, Int64GetDatum(mc->merge_id), false);
	crm_merge_param(&p, INT4OID, Int32GetDatum(position), false);
	rows = crm_merge_run_log(mc,
							 psprintf("SELECT c.key, c.before, c.after FROM %s.merge_change AS c"
									  " WHERE c.merge_id = $1 AND c.position = $2 ORDER BY c.id",
									  quote_identifier(mc->workspace_name)),
							 &p, NULL);
	e.n = rows.count;
	e.key = palloc(e.n * sizeof(Jsonb *));
	e.before = palloc(e.n * sizeof(Jsonb *));
	e.after = palloc(e.n * sizeof(Jsonb *));
	for (int i = 0; i < e.n; i++)
	{
		bool isnull;
		Datum d;

		e.key[i] = DatumGetJsonbPCopy(SPI_getbinval(rows.table->vals[i], rows.desc, 1, &isnull));
		e.before[i] = DatumGetJsonbPCopy(SPI_getbinval(rows.table->vals[i], rows.desc, 2, &isnull));
		d = SPI_getbinval(rows.table->vals[i], rows.desc, 3, &isnull);
		e.after[i] = isnull ? NULL : DatumGetJsonbPCopy(d);
	}
	crm_merge_free(&rows);
	return e;
}

/* ---------------------------------------------------------------------
 * Writing rows back
 * --------------------------------------------------------------------- */

static UnmergeWrite *
crm_write_for(MergeTable *t, List **writes, Bitmapset *columns, bool edited, bool record)
{
	UnmergeWrite *w;
	ListCell *lc;

	foreach (lc, *writes)
	{
		w = lfirst(lc);
		if (w->edited == edited && w->record == record && bms_equal(w->columns, columns))
			return w;
	}
	w = palloc(sizeof(UnmergeWrite));
	w->columns = bms_copy(columns);
	w->edited = edited;
	w->record = record;
	w->input = crm_merge_input_values(t, columns);
	*writes = lappend(*writes, w);
	return w;
}

static void
crm_write(MergeContext *mc, MergeTable *t, List *writes)
{
	ListCell *lc;

	foreach (lc, writes)
	{
		UnmergeWrite *w = lfirst(lc);
		StringInfoData sql;
		int c = -1;
		uint64 written;

		initStringInfo(&sql);
		appendStringInfo(&sql, "UPDATE %s AS t SET ", t->from);
		while ((c = bms_next_member(w->columns, c)) >= 0)
			appendStringInfo(&sql, "%s%s = n.v%d", sql.data[sql.len - 1] == ' ' ? "" : ", ",
							 quote_identifier(t->colname[c]), c);
		appendStringInfoString(&sql,
							   " FROM crm_rows AS n WHERE t.ctid OPERATOR(pg_catalog.=) n.crm_tid"
							   " AND t.tableoid OPERATOR(pg_catalog.=) n.crm_tab");
		if (w->edited && !w->record)
		{
			MergeRows rows = crm_merge_run(mc, t, sql.data, NULL, w->input);

			written = rows.count;
			crm_merge_free(&rows);
		}
		else
			written = crm_merge_run_quietly(mc, t, sql.data, w->input, !w->edited, w->record);
		if (written != w->input->count)
			ereport(ERROR, (errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
							errmsg("rows of \"%s\" could not be put back", t->name),
							errdetail("A trigger of the table suppressed it.")));
		crm_merge_input_end(w->input);
	}
}

/*
 * Whether a row without a key is the logged one to the letter.  Equality found it,
 * which is not enough: some types have none (point, json), and for others different
 * values are equal ('1 mon' and '30 days', 1.5 and 1.50).
 */
static bool
crm_is_logged_row(MergeTable *t, MergeRows *rows, uint64 r, Jsonb *key)
{
	for (int c = 0; c < t->ncols; c++)
	{
		char *logged;
		char *now;

		if (!crm_merge_get(key, t->colname[c], &logged))
			continue;
		now = crm_merge_text(t, rows, r, c);
		if (crm_same_text(logged, now))
			continue;
		if (logged == NULL || now == NULL || strcmp(crm_rewritten(t, c, logged), now) != 0)
			return false;
	}
	return true;
}

/* Tells of the columns of a group of changes that the table has no more: of each once. */
static void
crm_keep_gone(UnmergeContext *uc, MergeTable *t, UnmergeEntries *e)
{
	List *gone = NIL;

	for (int i = 0; i < e->n; i++)
	{
		Jsonb *image = e->after[i] ? e->after[i] : e->before[i];
		JsonbIterator *it = JsonbIteratorInit(&image->root);
		JsonbIteratorToken token;
		JsonbValue v;

		while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		{
			char *name;

			if (token != WJB_KEY)
				continue;
			name = pnstrdup(v.val.string.val, v.val.string.len);
			if (crm_merge_column(t, name) >= 0 || list_member(gone, makeString(name)))
				continue;
			gone = lappend(gone, makeString(name));
			crm_keep(uc, t, e->key[i], name, NULL, NULL, "the column is gone since the merge");
		}
	}
}

static void
crm_undo_updates(UnmergeContext *uc, MergeTable *t, UnmergeEntries *e)
{
	MergeContext *mc = uc->mc;
	MergeRows rows = crm_locate(mc, t, e->key, e->n);
	bool *done = palloc0(e->n * sizeof(bool));
	List *writes = NIL;
	HTAB *used = NULL;

	if (t->nkey == 0)
	{
		HASHCTL ctl = {0};

		ctl.keysize = sizeof(UnmergePlace);
		ctl.entrysize = sizeof(UnmergePlace);
		ctl.hcxt = CurrentMemoryContext;
		used = hash_create("crm rows put back", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	for (uint64 r = 0; r < rows.count; r++)
	{
		bool isnull;
		int i = DatumGetInt32(SPI_getbinval(rows.table->vals[r], rows.desc, 1, &isnull));
		UnmergeSettle *settle = crm_settled(uc, t, e->key[i]);
		Bitmapset *columns = NULL;
		bool edited = false;

		/* Rows without a key that look the same are the same: each is taken once. */
		if (done[i])
			continue;
		if (used != NULL)
		{
			UnmergePlace place;
			bool found;

			if (!crm_is_logged_row(t, &rows, r, e->key[i]))
				continue;
			memset(&place, 0, sizeof(place));
			place.tid = *(ItemPointer) DatumGetPointer(
				SPI_getbinval(rows.table->vals[r], rows.desc, 2, &isnull));
			place.table =
				DatumGetObjectId(SPI_getbinval(rows.table->vals[r], rows.desc, 3, &isnull));
			(void) hash_search(used, &place, HASH_ENTER, &found);
			if (found)
				continue;
		}
		done[i] = true;
		for (int c = 0; c < t->ncols; c++)
		{
			char *merged;
			char *now;

			if (t->generated[c] || !crm_merge_get(e->after[i], t->colname[c], &merged))
				continue;
			now = crm_merge_text(t, &rows, r, c);
			if (crm_same_value(t, c, merged, now))
				columns = bms_add_member(columns, c);
			else if (settle == NULL)
			{
				edited = true;
				if (!crm_is_stamp(t->colname[c]))
					crm_keep(uc, t, e->key[i], t->colname[c], merged, now,
							 "edited since the merge");
			}
		}
		if (settle != NULL)
			edited = settle->edited;
		if (columns != NULL)
		{
			UnmergeWrite *w = crm_write_for(t, &writes, columns, edited, settle != NULL);

			crm_merge_input_value(w->input, t, columns, i, &rows, r, e->before[i]);
		}
	}
	for (int i = 0; i < e->n; i++)
		if (!done[i])
		{
			crm_check_blocker(mc, t, e->key[i]);
			crm_keep(uc, t, e->key[i], NULL, NULL, NULL,
					 t->nkey > 0 ? "removed since the merge" : "edited or removed since the merge");
		}
	crm_write(mc, t, writes);
	crm_merge_free(&rows);
}

static void
crm_undo_deletes(UnmergeContext *uc, MergeTable *t, UnmergeEntries *e)
{
	Bitmapset *columns = NULL;
	StringInfoData names, values;
	MergeInput *input;
	int c = -1;

	for (int i = 0; i < t->ncols; i++)
	{
		char *text;

		if (!t->generated[i] && crm_merge_get(e->before[0], t->colname[i], &text))
			columns = bms_add_member(columns, i);
	}
	if (columns == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("rows of \"%s\" cannot be put back", t->name),
						errdetail("None of their columns is left.")));
	initStringInfo(&names);
	initStringInfo(&values);
	while ((c = bms_next_member(columns, c)) >= 0)
	{
		appendStringInfo(&names, "%s%s", names.len == 0 ? "" : ", ",
						 quote_identifier(t->colname[c]));
		appendStringInfo(&values, "%sn.v%d", values.len == 0 ? "" : ", ", c);
	}
	input = crm_merge_input_values(t, columns);
	for (int i = 0; i < e->n; i++)
		crm_merge_input_value(input, t, columns, i, NULL, 0, e->before[i]);
	crm_merge_run_quietly(
		uc->mc, t,
		psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM crm_rows AS n",
				 t->qualified, names.data, values.data),
		input, true, false);
	crm_merge_input_end(input);
}

/* Notes what the records were and are; compares the survivor three ways. */
static void
crm_read_settled(UnmergeContext *uc, MergeTable *t, UnmergeEntries *e)
{
	List *group = NIL;

	for (int i = 0; i < e->n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(uc->mc->cxt);
		UnmergeSettle *s = palloc0(sizeof(UnmergeSettle));
		UnmergeSettled *entry;
		MergeRows rows;

		CHECK_FOR_INTERRUPTS();
		s->t = t;
		s->key = crm_copy_jsonb(e->key[i]);
		s->before = crm_copy_jsonb(e->before[i]);
		group = lappend(group, s);
		entry = crm_settled_entry(uc, t, s->key, HASH_ENTER);
		entry->settles = lappend(entry->settles, s);
		MemoryContextSwitchTo(old);
		if (e->after[i] != NULL)
		{
			rows = crm_locate(uc->mc, t, &e->key[i], 1);
			if (rows.count == 0)
				crm_check_blocker(uc->mc, t, e->key[i]);
			for (int c = 0; rows.count > 0 && c < t->ncols; c++)
			{
				char *merged;
				char *now;

				if (t->generated[c] || !crm_merge_get(e->after[i], t->colname[c], &merged))
					continue;
				now = crm_merge_text(t, &rows, 0, c);
				old = MemoryContextSwitchTo(uc->mc->cxt);
				if (crm_same_value(t, c, merged, now))
					s->columns = bms_add_member(s->columns, c);
				else
				{
					s->edited = true;
					if (!crm_is_stamp(t->colname[c]))
						crm_keep(uc, t, e->key[i], t->colname[c], merged, now,
								 "edited since the merge");
				}
				MemoryContextSwitchTo(old);
			}
			crm_merge_free(&rows);
		}
		else
		{
			old = MemoryContextSwitchTo(uc->mc->cxt);
			for (int c = 0; c < t->ncols; c++)
			{
				char *text;

				if (!t->generated[c] && crm_merge_get(e->before[i], t->colname[c], &text))
					s->columns = bms_add_member(s->columns, c);
			}
			MemoryContextSwitchTo(old);
		}
	}
	if (group != NIL)
	{
		MemoryContext old = MemoryContextSwitchTo(uc->mc->cxt);

		uc->settles = lappend(uc->settles, group);
		MemoryContextSwitchTo(old);
	}
}

/* Puts right what triggers made of the records of one group on the way back. */
static void
crm_settle(UnmergeContext *uc, List *group)
{
	MergeTable *t = ((UnmergeSettle *) linitial(group))->t;
	Jsonb **keys = palloc(list_length(group) * sizeof(Jsonb *));
	List *writes = NIL;
	MergeRows rows;
	ListCell *lc;

	foreach (lc, group)
		keys[foreach_current_index(lc)] = ((UnmergeSettle *) lfirst(lc))->key;
	rows = crm_locate(uc->mc, t, keys, list_length(group));
	for (uint64 r = 0; r < rows.count; r++)
	{
		bool isnull;
		int i = DatumGetInt32(SPI_getbinval(rows.table->vals[r], rows.desc, 1, &isnull));
		UnmergeSettle *s = list_nth(group, i);
		Bitmapset *wrong = NULL;
		int c = -1;

		CHECK_FOR_INTERRUPTS();
		while ((c = bms_next_member(s->columns, c)) >= 0)
		{
			char *was = NULL;

			(void) crm_merge_get(s->before, t->colname[c], &was);
			if ((!s->edited || !crm_is_stamp(t->colname[c])) &&
				!crm_same_value(t, c, was, crm_merge_text(t, &rows, r, c)))
				wrong = bms_add_member(wrong, c);
		}
		if (wrong != NULL)
		{
			UnmergeWrite *w = crm_write_for(t, &writes, wrong, s->edited, true);

			crm_merge_input_value(w->input, t, wrong, i, &rows, r, s->before);
		}
	}
	crm_write(uc->mc, t, writes);
	crm_merge_free(&rows);
}

/* ---------------------------------------------------------------------
 * The log
 * --------------------------------------------------------------------- */

static MergeTable *
crm_logged_table(MergeContext *mc, char *schema, const char *name)
{
	Oid schema_oid = schema ? get_namespace_oid(schema, true) : mc->workspace;
	Oid relid = OidIsValid(schema_oid) ? get_relname_relid(name, schema_oid) : InvalidOid;

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("merge " INT64_FORMAT " cannot be undone", mc->merge_id),
				 errdetail("It changed table \"%s\", which does not exist any more.", name)));
	return crm_merge_table(mc, relid);
}

static void
crm_undo_changes(UnmergeContext *uc)
{
	MergeContext *mc = uc->mc;
	MergeParams p = {0};
	MergeTable *at = NULL;
	MergeRows groups;
	ListCell *lc;
	MemoryContext batch =
		AllocSetContextCreate(CurrentMemoryContext, "crm unmerge batch", ALLOCSET_DEFAULT_SIZES);

	crm_merge_param(&p, INT8OID, Int64GetDatum(mc->merge_id), false);
	groups = crm_merge_run_log(
		mc,
		psprintf("SELECT c.position, min(c.operation), min(c.table_schema), min(c.table_name)"
				 " FROM %s.merge_change AS c WHERE c.merge_id = $1"
				 " GROUP BY c.position ORDER BY c.position DESC",
				 quote_identifier(mc->workspace_name)),
		&p, NULL);
	if (groups.count == 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("merge " INT64_FORMAT " cannot be undone", mc->merge_id),
						errdetail("The rows it changed are not in \"merge_change\" any more.")));
	for (uint64 g = 0; g < groups.count; g++)
	{
		bool isnull;
		int position = DatumGetInt32(SPI_getbinval(groups.table->vals[g], groups.desc, 1, &isnull));
		char *operation = crm_merge_string(&groups, g, 2);
		MergeTable *t =
			crm_logged_table(mc, crm_merge_string(&groups, g, 3), crm_merge_string(&groups, g, 4));
		MemoryContext old;
		UnmergeEntries e;

		/* Triggers run as the owner of their table, so they wait until another's is next. */
		if (at == NULL || at->owner != t->owner)
		{
			if (at != NULL)
				crm_merge_batch_end(mc, at);
			crm_merge_batch_begin(mc);
		}
		at = t;
		uc->at = t;
		old = MemoryContextSwitchTo(batch);
		e = crm_entries(mc, position);
		if (strcmp(operation, "settle") != 0)
			crm_keep_gone(uc, t, &e);
		if (strcmp(operation, "settle") == 0)
			crm_read_settled(uc, t, &e);
		else if (strcmp(operation, "delete") == 0)
			crm_undo_deletes(uc, t, &e);
		else
			crm_undo_updates(uc, t, &e);
		MemoryContextSwitchTo(old);
		MemoryContextReset(batch);
	}
	crm_merge_free(&groups);
	MemoryContextDelete(batch);
	crm_merge_batch_end(mc, at);
	foreach (lc, uc->settles)
		crm_settle(uc, lfirst(lc));
}

static Jsonb *
crm_kept_json(UnmergeContext *uc)
{
	JsonbParseState *state = NULL;
	ListCell *lc;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	foreach (lc, uc->kept)
	{
		UnmergeKept *k = lfirst(lc);
		const char *const names[] = {"table", "field", "merged", "kept", "note"};
		const char *const texts[] = {k->table, k->field, k->merged, k->kept, k->note};
		JsonbValue v;

		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		for (int i = 0; i < lengthof(names); i++)
		{
			if (texts[i] == NULL)
				continue;
			v.type = jbvString;
			v.val.string.val = unconstify(char *, names[i]);
			v.val.string.len = strlen(names[i]);
			pushJsonbValue(&state, WJB_KEY, &v);
			v.val.string.val = unconstify(char *, texts[i]);
			v.val.string.len = strlen(texts[i]);
			pushJsonbValue(&state, WJB_VALUE, &v);
		}
		v.type = jbvString;
		v.val.string.val = "record";
		v.val.string.len = strlen("record");
		pushJsonbValue(&state, WJB_KEY, &v);
		v.type = jbvBinary;
		v.val.binary.data = &k->record->root;
		v.val.binary.len = VARSIZE(k->record) - VARHDRSZ;
		pushJsonbValue(&state, WJB_VALUE, &v);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

static void
crm_write_undone(UnmergeContext *uc, Jsonb *kept)
{
	MergeContext *mc = uc->mc;
	int64 member = crm_merge_member(mc);
	MergeParams p = {0};
	MergeRows rows;
	char *schema = pstrdup(quote_identifier(mc->workspace_name));

	crm_merge_param(&p, INT8OID, Int64GetDatum(mc->merge_id), false);
	crm_merge_param(&p, INT8OID, Int64GetDatum(member), member == 0);
	crm_merge_param_text(&p, GetUserNameFromId(GetUserId(), false));
	crm_merge_param(&p, JSONBOID, JsonbPGetDatum(kept), false);
	rows = crm_merge_run_log(
		mc,
		psprintf("WITH tombstone AS (DELETE FROM %s.merged_record WHERE merge_id = $1)"
				 " UPDATE %s.merge_log SET undone_at = clock_timestamp(), undone_by = $2,"
				 " undone_role = $3, kept = $4 WHERE id = $1",
				 schema, schema),
		&p, NULL);
	crm_merge_free(&rows);
}

/* The records are back, and triggers have started their escalations: sets them to where they were.
 */
static void
crm_undo_escalations(MergeContext *mc)
{
	MergeParams p = {0};
	MergeRows rows;

	crm_merge_param(&p, INT8OID, Int64GetDatum(mc->merge_id), false);
	rows = crm_merge_run_log(
		mc,
		psprintf("SELECT crm._unmerge_escalations(%u, l.escalations)"
				 " FROM %s.merge_log AS l WHERE l.id = $1 AND l.escalations IS NOT NULL",
				 mc->workspace, quote_identifier(mc->workspace_name)),
		&p, NULL);
	crm_merge_free(&rows);
}

static void
crm_unmerge_context(void *arg)
{
	UnmergeContext *uc = arg;

	if (uc->at != NULL)
		errcontext("undoing merge " INT64_FORMAT ", at the rows of \"%s\"", uc->mc->merge_id,
				   uc->at->name);
}

PG_FUNCTION_INFO_V1(crm_unmerge);
Datum
crm_unmerge(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MergeContext *mc;
	UnmergeContext uc = {0};
	MergeTable *t;
	MergeParams p = {0};
	MergeRows rows;
	char **ids;
	Datum *losers;
	int n;
	char *missing;
	bool isnull;
	AclResult acl;
	ListCell *lc;
	DuplicateWriter writer = crm_duplicate_writer;
	Oid person = crm_duplicate_person;
	ErrorContextCallback callback = {.callback = crm_unmerge_context, .arg = &uc};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("%s must not be null", PG_ARGISNULL(0) ? "workspace" : "merge_id")));
	InitMaterializedSRF(fcinfo, 0);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	mc = crm_merge_begin(PG_GETARG_OID(0));
	mc->merge_id = PG_GETARG_INT64(1);
	uc.mc = mc;
	uc.settled = crm_make_settled();

	crm_merge_param(&p, INT8OID, Int64GetDatum(mc->merge_id), false);
	rows = crm_merge_run_log(
		mc,
		psprintf("SELECT l.table_schema, l.table_name, l.survivor_id, l.undone_at IS NOT NULL,"
				 " l.loser_ids FROM %s.merge_log AS l WHERE l.id = $1 FOR UPDATE",
				 quote_identifier(mc->workspace_name)),
		&p, NULL);
	if (rows.count == 0)
		ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND),
						errmsg("merge " INT64_FORMAT " does not exist", mc->merge_id)));
	if (DatumGetBool(SPI_getbinval(rows.table->vals[0], rows.desc, 4, &isnull)))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("merge " INT64_FORMAT " has already been undone", mc->merge_id)));
	t = crm_logged_table(mc, crm_merge_string(&rows, 0, 1), crm_merge_string(&rows, 0, 2));
	if (t->nkey != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("merge " INT64_FORMAT " cannot be undone", mc->merge_id),
				 errdetail("Table \"%s\" has no primary key of one column any more.", t->name)));
	deconstruct_array(DatumGetArrayTypeP(SPI_getbinval(rows.table->vals[0], rows.desc, 5, &isnull)),
					  TEXTOID, -1, false, TYPALIGN_INT, &losers, NULL, &n);
	ids = palloc((n + 1) * sizeof(char *));
	ids[0] = crm_merge_string(&rows, 0, 3);
	for (int i = 0; i < n; i++)
		ids[i + 1] = TextDatumGetCString(losers[i]);
	crm_merge_free(&rows);

	/* The caller must be allowed to change the survivor, and to have the losers back. */
	acl = pg_class_aclcheck(t->relid, GetUserId(), ACL_INSERT);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, t->name);
	if (crm_merge_lock(t, ids, 1) != NULL)
	{
		crm_check_blocker(mc, t, crm_merge_jsonb_pair(t->colname[t->key[0]], ids[0]));
		/* Its id is not for those who may not see it. */
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("merge " INT64_FORMAT " cannot be undone", mc->merge_id),
				 errdetail("The record it made is gone, or you may not see and change it.")));
	}
	crm_duplicate_writer = DUPLICATE_BY_UNMERGE;
	crm_duplicate_person = GetUserId();
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	PG_TRY();
	{
		crm_undo_changes(&uc);
	}
	PG_FINALLY();
	{
		crm_duplicate_writer = writer;
		crm_duplicate_person = person;
	}
	PG_END_TRY();
	error_context_stack = callback.previous;
	crm_undo_escalations(mc);
	crm_merge_check_orphans(mc, t);
	missing = crm_merge_lock(t, ids, n + 1);
	if (missing != NULL)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied to undo merge " INT64_FORMAT, mc->merge_id),
						errdetail("You may not see and change %s %s.", t->name, missing)));
	crm_write_undone(&uc, crm_kept_json(&uc));
	crm_merge_forbid_pairs(mc, t, ids, n + 1);

	foreach (lc, uc.kept)
	{
		UnmergeKept *k = lfirst(lc);
		Datum values[6];
		bool nulls[6] = {false};

		values[0] = CStringGetTextDatum(k->table);
		values[1] = JsonbPGetDatum(k->record);
		values[2] = k->field ? CStringGetTextDatum(k->field) : (Datum) 0;
		nulls[2] = k->field == NULL;
		values[3] = k->merged ? CStringGetTextDatum(k->merged) : (Datum) 0;
		nulls[3] = k->merged == NULL;
		values[4] = k->kept ? CStringGetTextDatum(k->kept) : (Datum) 0;
		nulls[4] = k->kept == NULL;
		values[5] = CStringGetTextDatum(k->note);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	SPI_finish();
	return (Datum) 0;
}
