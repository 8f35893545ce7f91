/*
 * merge_pair.c
 *		What a merge means for the pairs and clusters that a scan for duplicates
 *		found, and for what people decided about them.
 *
 * A pair of two merged records is merged.  A pair of a loser and a third record
 * becomes a pair of the survivor; where the survivor has one already, one stays,
 * with the strongest decision: that two records are not the same outlives merges.
 * All of it is logged like any other change.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "merge.h"
#include "workspace.h"

/* Text of a column that follows the table's own, or NULL. */
static char *
crm_extra(MergeTable *t, MergeRows *rows, uint64 row, int n)
{
	bool isnull;
	Datum value = crm_merge_value(rows, row, t->ncols + n, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/* Writes the given columns of some rows, from an image each, and logs it. */
static void
crm_write_rows(MergeContext *mc, MergeTable *t, MergeRows *rows, Bitmapset *columns,
			   MergeInput *input)
{
	StringInfoData sql;
	MergeRows after;
	int c = -1;

	if (input->count > 0)
	{
		initStringInfo(&sql);
		appendStringInfo(&sql, "UPDATE %s AS t SET ", t->from);
		while ((c = bms_next_member(columns, c)) >= 0)
			appendStringInfo(&sql, "%s%s = n.v%d", sql.data[sql.len - 1] == ' ' ? "" : ", ",
							 quote_identifier(t->colname[c]), c);
		appendStringInfoString(&sql,
							   " FROM crm_rows AS n WHERE t.ctid OPERATOR(pg_catalog.=) n.crm_tid"
							   " AND t.tableoid OPERATOR(pg_catalog.=) n.crm_tab"
							   " RETURNING n.crm_ord, t.ctid, t.tableoid, t.*");
		after = crm_merge_run(mc, t, sql.data, NULL, input);
		crm_merge_log_update(mc, t, rows, &after);
		crm_merge_free(&after);
	}
	crm_merge_input_end(input);
}

static Jsonb *
crm_add(Jsonb *image, const char *name, const char *value)
{
	Jsonb *pair = crm_merge_jsonb_pair(name, value);

	return image ? crm_merge_jsonb_concat(image, pair) : pair;
}

static void
crm_merge_duplicate_pairs(MergeContext *mc, MergeTable *t, MergeParams *p)
{
	static const char *const columns[] = {"left_id", "right_id", "state", "decided_by",
										  "decided_at"};
	Bitmapset *written = NULL;
	MergeInput *updates;
	MergeInput *drops = crm_merge_input_tids();
	MergeInput *log = crm_merge_log_input();
	MergeRows rows;

	for (int i = 0; i < lengthof(columns); i++)
		written = bms_add_member(written, crm_merge_column(t, columns[i]));
	rows = crm_merge_run(
		mc, t,
		psprintf(
			"SELECT 0, t.ctid, t.tableoid, t.*, x.action, x.left_id::text, x.right_id::text,"
			"  x.state, x.decided_by::text, x.decided_at::text"
			" FROM %1$s AS t JOIN (SELECT a.id,"
			"   CASE WHEN a.l = a.r THEN 'merged'"
			"        WHEN row_number() OVER (PARTITION BY a.l, a.r ORDER BY a.moves, a.id) = 1"
			"        THEN 'keep' ELSE 'drop' END AS action,"
			"   CASE WHEN a.l = a.r THEN a.left_id ELSE a.l END AS left_id,"
			"   CASE WHEN a.l = a.r THEN a.right_id ELSE a.r END AS right_id,"
			"   CASE WHEN a.l = a.r THEN 'merged' ELSE first_value(a.state) OVER strongest END AS "
			"state,"
			"   CASE WHEN a.l = a.r THEN $5 ELSE first_value(a.decided_by) OVER strongest END AS "
			"decided_by,"
			"   CASE WHEN a.l = a.r THEN clock_timestamp()"
			"        ELSE first_value(a.decided_at) OVER strongest END AS decided_at"
			"  FROM (SELECT p.*, least(m.l, m.r) AS l, greatest(m.l, m.r) AS r,"
			"          p.left_id = ANY ($2) OR p.right_id = ANY ($2) AS moves,"
			"          array_position(ARRAY['not_duplicate', 'duplicate', 'ignored', 'open', "
			"'merged'], p.state) AS rank"
			"        FROM %1$s AS p CROSS JOIN LATERAL (SELECT"
			"          CASE WHEN p.left_id = ANY ($2) THEN $4 ELSE p.left_id END AS l,"
			"          CASE WHEN p.right_id = ANY ($2) THEN $4 ELSE p.right_id END AS r) AS m"
			"        WHERE p.kind = $1 AND (p.left_id = ANY ($3) OR p.right_id = ANY ($3))) AS a"
			"  WINDOW strongest AS (PARTITION BY a.l, a.r ORDER BY a.rank, a.id)) AS x ON x.id = "
			"t.id"
			" ORDER BY t.id FOR UPDATE OF t",
			t->from),
		p, NULL);
	updates = crm_merge_input_values(t, written);
	for (uint64 i = 0; i < rows.count; i++)
	{
		Jsonb *image = NULL;

		if (strcmp(crm_extra(t, &rows, i, 0), "drop") == 0)
		{
			crm_merge_input_tid(drops, &rows, i);
			crm_merge_log_row(log, crm_merge_key(t, &rows, i), crm_merge_image(t, &rows, i, NULL),
							  NULL);
			continue;
		}
		for (int c = 0; c < lengthof(columns); c++)
			image = crm_add(image, columns[c], crm_extra(t, &rows, i, c + 1));
		crm_merge_input_value(updates, t, written, i, &rows, i, image);
	}
	if (drops->count > 0)
	{
		MergeRows deleted =
			crm_merge_run(mc, t,
						  psprintf("DELETE FROM %s AS t USING crm_rows AS n"
								   " WHERE t.ctid = n.crm_tid AND t.tableoid = n.crm_tab",
								   t->from),
						  NULL, drops);

		crm_merge_free(&deleted);
	}
	crm_merge_input_end(drops);
	crm_merge_log_write(mc, t, "delete", log);
	crm_write_rows(mc, t, &rows, written, updates);
	crm_merge_free(&rows);
}

/* The losers leave their cluster; whom they leave alone in it is done with it. */
static void
crm_merge_duplicate_clusters(MergeContext *mc, MergeTable *t, MergeParams *p)
{
	int state = crm_merge_column(t, "state");
	Bitmapset *written = bms_make_singleton(state);
	MergeInput *input;
	MergeRows rows;

	rows = crm_merge_run(
		mc, t,
		psprintf(
			"SELECT 0, t.ctid, t.tableoid, t.* FROM %1$s AS t WHERE t.kind = $1 AND t.state <> "
			"'merged'"
			" AND (t.record_id = ANY ($2) OR t.record_id = $4 AND $5 IS NOT DISTINCT FROM $5"
			"  AND EXISTS (SELECT FROM %1$s AS o WHERE o.kind = $1"
			"   AND o.cluster_id = t.cluster_id AND o.record_id = ANY ($2))"
			"  AND NOT EXISTS (SELECT FROM %1$s AS o WHERE o.kind = $1"
			"   AND o.cluster_id = t.cluster_id AND o.state = 'open' AND o.record_id <> ALL ($3)))"
			" ORDER BY t.id FOR UPDATE OF t",
			t->from),
		p, NULL);
	input = crm_merge_input_values(t, written);
	for (uint64 i = 0; i < rows.count; i++)
		crm_merge_input_value(input, t, written, i, &rows, i,
							  crm_merge_jsonb_pair("state", "merged"));
	crm_write_rows(mc, t, &rows, written, input);
	crm_merge_free(&rows);
}

Datum
crm_merge_id_array(char **ids, int n)
{
	Datum *items = palloc(Max(n, 1) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		items[i] = Int64GetDatum(pg_strtoint64(ids[i]));
	return PointerGetDatum(
		construct_array(items, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

bool
crm_merge_has_integer_ids(MergeTable *t)
{
	Oid type = t->nkey == 1 ? getBaseType(t->coltype[t->key[0]]) : InvalidOid;

	return type == INT8OID || type == INT4OID || type == INT2OID;
}

void
crm_merge_pairs(MergeContext *mc, MergeSet *s)
{
	int64 member = crm_merge_member(mc);
	MergeParams p = {0};
	Oid pairs = crm_workspace_table(mc->workspace, "duplicate_pair", true);
	Oid clusters = crm_workspace_table(mc->workspace, "duplicate_cluster", true);

	if (!crm_merge_has_integer_ids(s->t))
		return;
	crm_merge_param_text(&p, crm_merge_kind(mc, s->t));
	crm_merge_param(&p, get_array_type(INT8OID), crm_merge_id_array(s->ids + 1, s->n - 1), false);
	crm_merge_param(&p, get_array_type(INT8OID), crm_merge_id_array(s->ids, s->n), false);
	crm_merge_param(&p, INT8OID, Int64GetDatum(pg_strtoint64(s->ids[0])), false);
	crm_merge_param(&p, INT8OID, Int64GetDatum(member), member == 0);
	if (OidIsValid(pairs))
		crm_merge_duplicate_pairs(mc, crm_merge_table(mc, pairs), &p);
	if (OidIsValid(clusters))
		crm_merge_duplicate_clusters(mc, crm_merge_table(mc, clusters), &p);
}

/* Whoever undoes a merge says that the survivor and the losers are not the same. */
void
crm_merge_forbid_pairs(MergeContext *mc, MergeTable *t, char **ids, int n)
{
	int64 member = crm_merge_member(mc);
	MergeParams p = {0};
	MergeRows rows;

	if (!crm_merge_has_integer_ids(t) ||
		!OidIsValid(crm_workspace_table(mc->workspace, "duplicate_pair", true)))
		return;
	crm_merge_param_text(&p, crm_merge_kind(mc, t));
	crm_merge_param(&p, INT8OID, Int64GetDatum(pg_strtoint64(ids[0])), false);
	crm_merge_param(&p, get_array_type(INT8OID), crm_merge_id_array(ids + 1, n - 1), false);
	crm_merge_param(&p, INT8OID, Int64GetDatum(member), member == 0);
	rows = crm_merge_run_log(
		mc,
		psprintf("INSERT INTO %s.duplicate_pair AS d"
				 " (kind, left_id, right_id, score, state, decided_by, decided_at)"
				 " SELECT $1, least($2, l.id), greatest($2, l.id), 0, 'not_duplicate', $4, "
				 "clock_timestamp()"
				 " FROM unnest($3) AS l (id)"
				 " ON CONFLICT (kind, left_id, right_id) DO UPDATE SET state = excluded.state,"
				 "  decided_by = excluded.decided_by, decided_at = excluded.decided_at",
				 quote_identifier(mc->workspace_name)),
		&p, NULL);
	crm_merge_free(&rows);
}
