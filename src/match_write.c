/*
 * match_write.c
 *		What a scan found, into duplicate_pair and duplicate_cluster.
 *
 * Both tables are read first and compared with what was found, so that only
 * differences are written: a scan that finds what the last one found writes
 * nothing.  Rows are written by statements, so that triggers and constraints
 * which users added hold for them too.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "match_scan.h"
#include "workspace.h"

#define WRITE_ROWS 10000 /* in one statement */

static int
crm_cmp_pair(const void *a, const void *b)
{
	const KnownPair *x = a, *y = b;

	if (x->left != y->left)
		return x->left < y->left ? -1 : 1;
	return x->right < y->right ? -1 : x->right > y->right;
}

static int
crm_cmp_known_member(const void *a, const void *b)
{
	const KnownMember *x = a, *y = b;

	if (x->cluster != y->cluster)
		return x->cluster < y->cluster ? -1 : 1;
	return x->record < y->record ? -1 : x->record > y->record;
}

/*
 * Sorts rows that are in order but for some, as those of a table are into which a
 * scan wrote in order: where two neighbours are not, both are taken out, sorted and
 * merged again.
 */
static void
crm_sort_known(void *rows, uint32 n, Size size, int (*cmp)(const void *, const void *))
{
	char *row = rows;
	char *out = palloc_extended(size * Max((Size) n, 1), MCXT_ALLOC_HUGE);
	Size kept = 0, nout = 0, to = n;

	for (Size i = 0; i < n; i++)
	{
		if (i % 65536 == 0)
			CHECK_FOR_INTERRUPTS();
		if (kept > 0 && cmp(row + (kept - 1) * size, row + i * size) > 0)
		{
			memcpy(out + nout++ * size, row + --kept * size, size);
			memcpy(out + nout++ * size, row + i * size, size);
		}
		else
		{
			if (kept != i)
				memcpy(row + kept * size, row + i * size, size);
			kept++;
		}
	}
	qsort(out, nout, size, cmp);
	while (nout > 0)
	{
		if (to % 65536 == 0)
			CHECK_FOR_INTERRUPTS();
		if (kept > 0 && cmp(row + (kept - 1) * size, out + (nout - 1) * size) > 0)
			memcpy(row + --to * size, row + --kept * size, size);
		else
			memcpy(row + --to * size, out + --nout * size, size);
	}
	pfree(out);
}

static AttrNumber
crm_result_column(Relation rel, const char *name, Oid type)
{
	AttrNumber attnum = get_attnum(RelationGetRelid(rel), name);

	if (attnum <= 0 || get_atttype(RelationGetRelid(rel), attnum) != type)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table \"%s\" has no column \"%s\" of type %s",
							   RelationGetRelationName(rel), name, format_type_be(type))));
	return attnum;
}

static bool
crm_text_is(Datum value, const char *text, Size len)
{
	const struct varlena *t = value == 0 ? NULL : PG_DETOAST_DATUM_PACKED(value);

	return t != NULL && VARSIZE_ANY_EXHDR(t) == len && memcmp(VARDATA_ANY(t), text, len) == 0;
}

#define CRM_TEXT_IS(value, literal) crm_text_is(value, literal, sizeof(literal) - 1)

static uint8
crm_pair_state(Datum value)
{
	return CRM_TEXT_IS(value, "open")			 ? PAIR_OPEN
		   : CRM_TEXT_IS(value, "not_duplicate") ? PAIR_APART
		   : CRM_TEXT_IS(value, "ignored")		 ? PAIR_IGNORED
		   : CRM_TEXT_IS(value, "duplicate")	 ? PAIR_SAME
		   : CRM_TEXT_IS(value, "merged")		 ? PAIR_MERGED
												 : PAIR_OPEN;
}

/* The next row of a kind, with all its values up to a column. */
static bool
crm_next_of_kind(TableScanDesc heap, TupleTableSlot *slot, AttrNumber kind_column, const char *kind,
				 Size len, AttrNumber last)
{
	while (table_scan_getnextslot(heap, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		slot_getsomeattrs(slot, last);
		if (crm_text_is(slot->tts_values[kind_column - 1], kind, len))
			return true;
	}
	return false;
}

/* Room for so many rows is taken at first; pages of it that are not used cost nothing. */
static uint32
crm_rows_expected(Relation rel)
{
	return (uint32) (Min(Max(rel->rd_rel->reltuples, 0), 1e9) * 1.1) + 1024;
}

static void
crm_known_pairs(MatchScan *scan, Oid table, const char *kind, KnownResult *known)
{
	Relation rel = table_open(table, AccessShareLock);
	AttrNumber id = crm_result_column(rel, "id", INT8OID);
	AttrNumber kind_column = crm_result_column(rel, "kind", TEXTOID);
	AttrNumber left = crm_result_column(rel, "left_id", INT8OID);
	AttrNumber right = crm_result_column(rel, "right_id", INT8OID);
	AttrNumber score = crm_result_column(rel, "score", FLOAT4OID);
	AttrNumber state = crm_result_column(rel, "state", TEXTOID);
	TableScanDesc heap = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	const Datum *value = slot->tts_values - 1;
	AttrNumber last = Max(Max(Max(id, kind_column), Max(left, right)), Max(score, state));
	Size len = strlen(kind);
	uint32 size = crm_rows_expected(rel);

	known->pair = palloc_extended(sizeof(KnownPair) * (Size) size, MCXT_ALLOC_HUGE);

	while (crm_next_of_kind(heap, slot, kind_column, kind, len, last))
	{
		KnownPair *pair;
		TransactionId xmin;

		if (known->npairs == size)
		{
			size *= 2;
			known->pair = repalloc_huge(known->pair, sizeof(KnownPair) * (Size) size);
		}
		pair = &known->pair[known->npairs++];
		pair->id = DatumGetInt64(value[id]);
		pair->left = DatumGetInt64(value[left]);
		pair->right = DatumGetInt64(value[right]);
		pair->score = DatumGetFloat4(value[score]);
		pair->state = crm_pair_state(value[state]);
		xmin = crm_slot_xmin(slot);
		pair->changed = TransactionIdIsNormal(xmin) &&
						!TransactionIdPrecedes(xmin, scan->shared->since) &&
						xmin != scan->shared->last_writer;
		pair->kept = pair->joins = false;
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(heap);
	table_close(rel, NoLock);
	crm_sort_known(known->pair, known->npairs, sizeof(KnownPair), crm_cmp_pair);
}

static void
crm_known_members(Oid table, const char *kind, KnownResult *known)
{
	Relation rel = table_open(table, AccessShareLock);
	AttrNumber id = crm_result_column(rel, "id", INT8OID);
	AttrNumber kind_column = crm_result_column(rel, "kind", TEXTOID);
	AttrNumber cluster = crm_result_column(rel, "cluster_id", INT8OID);
	AttrNumber record = crm_result_column(rel, "record_id", INT8OID);
	AttrNumber state = crm_result_column(rel, "state", TEXTOID);
	TableScanDesc heap = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	const Datum *value = slot->tts_values - 1;
	AttrNumber last = Max(Max(Max(id, kind_column), Max(cluster, record)), state);
	Size len = strlen(kind);
	uint32 size = crm_rows_expected(rel);

	known->member = palloc_extended(sizeof(KnownMember) * (Size) size, MCXT_ALLOC_HUGE);
	while (crm_next_of_kind(heap, slot, kind_column, kind, len, last))
	{
		KnownMember *member;

		if (known->nmembers == size)
		{
			size *= 2;
			known->member = repalloc_huge(known->member, sizeof(KnownMember) * (Size) size);
		}
		member = &known->member[known->nmembers++];
		member->id = DatumGetInt64(value[id]);
		member->cluster = DatumGetInt64(value[cluster]);
		member->record = DatumGetInt64(value[record]);
		member->open = CRM_TEXT_IS(value[state], "open");
		member->merged = !member->open && CRM_TEXT_IS(value[state], "merged");
		member->kept = false;
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(heap);
	table_close(rel, NoLock);
	crm_sort_known(known->member, known->nmembers, sizeof(KnownMember), crm_cmp_known_member);
}

KnownResult *
crm_known_read(MatchScan *scan, Oid workspace, const char *kind)
{
	KnownResult *known = palloc0(sizeof(KnownResult));

	crm_known_pairs(scan, crm_workspace_table(workspace, "duplicate_pair", false), kind, known);
	crm_known_members(crm_workspace_table(workspace, "duplicate_cluster", false), kind, known);
	return known;
}

const KnownPair *
crm_known_pair(const KnownResult *known, int64 left, int64 right)
{
	KnownPair want = {.left = left, .right = right};

	if (known->npairs == 0)
		return NULL;
	return bsearch(&want, known->pair, known->npairs, sizeof(KnownPair), crm_cmp_pair);
}

float4
crm_edge_score(const MatchEdge *edge)
{
	return (float4) crm_match_probability(edge->bits);
}

static void
crm_run(SPIPlanPtr plan, Datum *args, int expected)
{
	int result = SPI_execute_plan(plan, args, NULL, false, 0);

	if (result != expected)
		elog(ERROR, "could not write duplicates: %s", SPI_result_code_string(result));
}

static SPIPlanPtr
crm_plan(const char *sql, int nargs, const Oid *types)
{
	SPIPlanPtr plan = SPI_prepare(sql, nargs, unconstify(Oid *, types));

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	return plan;
}

static Datum
crm_bigints(Datum *values, uint32 n)
{
	return PointerGetDatum(
		construct_array(values, (int) n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* A statement on rows by their id, in chunks. */
static void
crm_change_rows(const char *statement, const char *schema, int expected, Datum *ids, uint32 n)
{
	Oid types[1] = {INT8ARRAYOID};
	SPIPlanPtr plan;

	if (n == 0)
		return;
	plan = crm_plan(psprintf(statement, quote_identifier(schema)), 1, types);
	for (uint32 i = 0; i < n; i += WRITE_ROWS)
	{
		Datum args[1] = {crm_bigints(ids + i, Min(WRITE_ROWS, n - i))};

		crm_run(plan, args, expected);
		pfree(DatumGetPointer(args[0]));
	}
}

/* Rows to be inserted, and how: by a plan whose parameters are the kind and arrays. */
typedef struct RowSource
{
	MatchScan *scan;
	const ScanResult *result;
	void (*insert)(const struct RowSource *rows, SPIPlanPtr plan);
	const char *statement;
	const char *conflict;
	Oid types[5];
	int ntypes;
	/* of clusters */
	const KnownMember *member;
	const bool *write;
	uint32 nmembers;
} RowSource;

/*
 * If there can be rows of the same key, each is looked for.  That costs a
 * quarter of the time, so when the table has none of the kind they are inserted
 * as they are; should somebody have written one meanwhile, it is done again.
 */
static void
crm_insert(const RowSource *rows, bool known)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool again = known;

	if (!known)
	{
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(context);
		PG_TRY();
		{
			rows->insert(rows, crm_plan(rows->statement, rows->ntypes, rows->types));
			ReleaseCurrentSubTransaction();
		}
		PG_CATCH();
		{
			if (geterrcode() != ERRCODE_UNIQUE_VIOLATION)
				PG_RE_THROW();
			MemoryContextSwitchTo(context);
			FlushErrorState();
			RollbackAndReleaseCurrentSubTransaction();
			again = true;
		}
		PG_END_TRY();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	if (again)
		rows->insert(rows, crm_plan(psprintf("%s %s", rows->statement, rows->conflict),
									rows->ntypes, rows->types));
}

/* The pairs of the job SCAN_EXPLAIN. */
static void
crm_insert_pair_rows(const RowSource *rows, SPIPlanPtr insert)
{
	MatchScan *scan = rows->scan;
	ScanShared *shared = scan->shared;
	const MatchEdge *edge = crm_scan_get(scan, shared->edges);
	const ScanRef *reasons = crm_scan_get(scan, shared->reasons);
	Datum args[5] = {CStringGetTextDatum(rows->result->kind)};
	Datum *left = palloc(sizeof(Datum) * WRITE_ROWS);
	Datum *right = palloc(sizeof(Datum) * WRITE_ROWS);
	Datum *score = palloc(sizeof(Datum) * WRITE_ROWS);
	Datum *why = palloc(sizeof(Datum) * WRITE_ROWS);
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match write", ALLOCSET_DEFAULT_SIZES);
	const char *next = NULL;

	shared->writer = GetCurrentTransactionId();
	crm_progress_job(shared, SCAN_WRITE, shared->nedges);
	for (uint32 i = 0; i < shared->nedges;)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		int n = 0;

		for (; i < shared->nedges && n < WRITE_ROWS; i++, n++)
		{
			if (i % SCAN_EDGE_ROWS == 0)
				next = crm_scan_get(scan, reasons[i / SCAN_EDGE_ROWS]);
			left[n] = Int64GetDatum(scan->id[edge[i].a]);
			right[n] = Int64GetDatum(scan->id[edge[i].b]);
			score[n] = Float4GetDatum(crm_edge_score(&edge[i]));
			why[n] = PointerGetDatum(next);
			next += INTALIGN(VARSIZE(next));
		}
		args[1] = crm_bigints(left, n);
		args[2] = crm_bigints(right, n);
		args[3] = PointerGetDatum(
			construct_array(score, n, FLOAT4OID, sizeof(float4), true, TYPALIGN_INT));
		args[4] = PointerGetDatum(construct_array(why, n, JSONBOID, -1, false, TYPALIGN_INT));
		crm_run(insert, args, SPI_OK_INSERT);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		crm_progress_add(shared, n);
	}
	MemoryContextDelete(context);
}

static void
crm_insert_pairs(MatchScan *scan, const ScanResult *result, bool known)
{
	RowSource rows = {
		.scan = scan,
		.result = result,
		.insert = crm_insert_pair_rows,
		.conflict = "ON CONFLICT (kind, left_id, right_id) DO UPDATE SET score = excluded.score, "
					"reasons = excluded.reasons",
		.types = {TEXTOID, INT8ARRAYOID, INT8ARRAYOID, FLOAT4ARRAYOID, JSONBARRAYOID},
		.ntypes = 5,
	};

	rows.statement =
		psprintf("INSERT INTO %s.duplicate_pair AS p (kind, left_id, right_id, score, reasons) "
				 "SELECT $1, f.* FROM unnest($2, $3, $4, $5) AS f",
				 quote_identifier(result->schema));
	if (scan->shared->nedges > 0)
		crm_insert(&rows, known);
}

void
crm_write_pairs(MatchScan *scan, ScanResult *result, const KnownResult *known,
				const MatchEdge *found, uint32 nfound)
{
	Datum *gone = palloc_extended(sizeof(Datum) * Max((Size) known->npairs, 1), MCXT_ALLOC_HUGE);
	Datum *unlike = palloc_extended(sizeof(Datum) * Max((Size) known->npairs, 1), MCXT_ALLOC_HUGE);
	uint32 ngone = 0, nunlike = 0, next = 0, nfound_before = 0;

	crm_insert_pairs(scan, result, known->npairs > 0);
	/* Both are by ids ascending. */
	for (uint32 i = 0; i < known->npairs; i++)
	{
		const KnownPair *pair = &known->pair[i];
		bool was_found;

		while (next < nfound &&
			   (scan->id[found[next].a] < pair->left ||
				(scan->id[found[next].a] == pair->left && scan->id[found[next].b] < pair->right)))
			next++;
		was_found = next < nfound && scan->id[found[next].a] == pair->left &&
					scan->id[found[next].b] == pair->right;
		nfound_before += was_found;
		result->open_pairs += pair->state == PAIR_OPEN && (was_found || pair->kept);
		if (was_found || pair->kept)
			continue;
		if (pair->state == PAIR_OPEN)
			gone[ngone++] = Int64GetDatum(pair->id);
		else if ((pair->state == PAIR_IGNORED || pair->state == PAIR_SAME) && pair->score != 0)
			unlike[nunlike++] = Int64GetDatum(pair->id);
	}
	result->open_pairs += nfound - nfound_before;
	crm_change_rows("DELETE FROM %s.duplicate_pair AS p WHERE p.id OPERATOR(pg_catalog.=) ANY ($1)",
					result->schema, SPI_OK_DELETE, gone, ngone);
	/* What people said of the two stays. */
	if (nunlike > 0)
		scan->shared->writer = GetCurrentTransactionId();
	crm_change_rows("UPDATE %s.duplicate_pair AS p SET score = 0, reasons = '[]' "
					"WHERE p.id OPERATOR(pg_catalog.=) ANY ($1)",
					result->schema, SPI_OK_UPDATE, unlike, nunlike);
	pfree(unlike);
	pfree(gone);
}

/* The clusters found, as rows of the table. */
static KnownMember *
crm_found_members(MatchScan *scan, const uint32 *cluster, uint32 *nmembers)
{
	uint32 n = scan->nrecords, found = 0;
	int64 *lowest = palloc_extended(sizeof(int64) * Max((Size) n, 1), MCXT_ALLOC_HUGE);
	uint32 *size =
		palloc_extended(sizeof(uint32) * Max((Size) n, 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	KnownMember *member;

	for (uint32 i = 0; i < n; i++)
		if (scan->record[i] != SCAN_NO_RECORD)
		{
			uint32 c = cluster[i];

			if (size[c]++ == 0 || scan->id[i] < lowest[c])
				lowest[c] = scan->id[i];
		}
	for (uint32 i = 0; i < n; i++)
		found += scan->record[i] != SCAN_NO_RECORD && size[cluster[i]] > 1;
	member = palloc_extended(sizeof(KnownMember) * Max((Size) found, 1), MCXT_ALLOC_HUGE);
	found = 0;
	for (uint32 i = 0; i < n; i++)
		if (scan->record[i] != SCAN_NO_RECORD && size[cluster[i]] > 1)
		{
			member[found].cluster = lowest[cluster[i]];
			member[found++].record = scan->id[i];
		}
	qsort(member, found, sizeof(KnownMember), crm_cmp_known_member);
	pfree(lowest);
	pfree(size);
	*nmembers = found;
	return member;
}

static void
crm_insert_member_rows(const RowSource *rows, SPIPlanPtr insert)
{
	Datum args[3] = {CStringGetTextDatum(rows->result->kind)};
	Datum *cluster = palloc(sizeof(Datum) * WRITE_ROWS);
	Datum *record = palloc(sizeof(Datum) * WRITE_ROWS);
	int n = 0;

	for (uint32 i = 0; i < rows->nmembers; i++)
	{
		if (rows->write[i])
		{
			cluster[n] = Int64GetDatum(rows->member[i].cluster);
			record[n++] = Int64GetDatum(rows->member[i].record);
		}
		if (n == WRITE_ROWS || (n > 0 && i == rows->nmembers - 1))
		{
			args[1] = crm_bigints(cluster, n);
			args[2] = crm_bigints(record, n);
			crm_run(insert, args, SPI_OK_INSERT);
			pfree(DatumGetPointer(args[1]));
			pfree(DatumGetPointer(args[2]));
			n = 0;
		}
	}
	pfree(cluster);
	pfree(record);
}

/*
 * A cluster of the same members as before is left alone, with its state; any
 * other is open, and of its rows those are written that are not as they have to be.
 * Merged rows are history.  Returns the clustered records.
 */
uint64
crm_write_clusters(MatchScan *scan, ScanResult *result, const KnownResult *known,
				   const uint32 *cluster)
{
	/* A record that outlived a merge begins a new life. */
	RowSource rows = {
		.scan = scan,
		.result = result,
		.insert = crm_insert_member_rows,
		.conflict = "ON CONFLICT (kind, record_id) DO UPDATE SET cluster_id = excluded.cluster_id, "
					"state = 'open'",
		.types = {TEXTOID, INT8ARRAYOID, INT8ARRAYOID},
		.ntypes = 3,
	};
	uint32 nfound, ngone = 0, k = 0;
	KnownMember *found = crm_found_members(scan, cluster, &nfound);
	bool *write = palloc_extended(sizeof(bool) * Max((Size) nfound, 1), MCXT_ALLOC_HUGE);
	Datum *gone = palloc_extended(sizeof(Datum) * Max((Size) known->nmembers, 1), MCXT_ALLOC_HUGE);

	for (uint32 f = 0; f < nfound || k < known->nmembers;)
	{
		int64 id = f < nfound ? found[f].cluster : PG_INT64_MAX;
		uint32 fend = f, kend = k, nlive = 0, nopen = 0;
		bool same, kept;

		if (k < known->nmembers && known->member[k].cluster < id)
			id = known->member[k].cluster;
		while (fend < nfound && found[fend].cluster == id)
			fend++;
		kept = fend == f;
		for (; kend < known->nmembers && known->member[kend].cluster == id; kend++)
			if (!known->member[kend].merged)
			{
				nlive++;
				nopen += known->member[kend].open;
				kept = kept && known->member[kend].kept;
			}
		same = fend - f == nlive;
		for (uint32 i = k, j = f; same && i < kend; i++)
			if (!known->member[i].merged && known->member[i].record != found[j++].record)
				same = false;
		for (uint32 i = f; i < fend; i++)
			write[i] = !same;
		for (uint32 i = k, j = f; i < kend && !kept && !same; i++)
		{
			const KnownMember *member = &known->member[i];

			while (j < fend && found[j].record < member->record)
				j++;
			if (member->merged)
				continue;
			if (member->open && j < fend && found[j].record == member->record)
				write[j] = false;
			else
				gone[ngone++] = Int64GetDatum(member->id);
		}
		if (!kept && !same)
			nopen = fend - f;
		result->clusters += nopen > 1;
		result->duplicates += nopen > 1 ? nopen - 1 : 0;
		f = fend;
		k = kend;
	}
	crm_change_rows(
		"DELETE FROM %s.duplicate_cluster AS c WHERE c.id OPERATOR(pg_catalog.=) ANY ($1)",
		result->schema, SPI_OK_DELETE, gone, ngone);
	rows.statement = psprintf("INSERT INTO %s.duplicate_cluster AS c (kind, cluster_id, record_id) "
							  "SELECT $1, f.* FROM unnest($2, $3) AS f",
							  quote_identifier(result->schema));
	rows.member = found;
	rows.write = write;
	rows.nmembers = nfound;
	crm_insert(&rows, known->nmembers > 0);
	pfree(write);
	pfree(gone);
	return nfound;
}
