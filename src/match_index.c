/*
 * match_index.c
 *		The access method of matching indexes: GIN that enters the keys of many
 *		rows at once.
 *
 * A row has two dozen keys, all in different places of the index, so GIN spends
 * far more time going down its tree than on the row.  Here the entries of new
 * rows are put off in the memory of the backend and entered in the order of the
 * tree.  Nobody else can see the rows before the transaction commits, so it is
 * enough that the entries are in the index
 *
 *	- before this backend reads the index,
 *	- before any utility statement, which may do anything to index and table,
 *	- before the transaction commits or is prepared.
 *
 * There is nothing to recover after a crash: rows whose entries were lost
 * were never committed.  GIN's own list of pending entries, which every search
 * has to read, stays empty.
 *
 * An entry must not be entered for a row that is gone, because its place may have
 * been given away or cut off.  While the transaction runs, its rows are kept by
 * vacuum, but for those of subtransactions that were rolled back, whose entries
 * are forgotten, and for those that ON CONFLICT takes back, whose entries are
 * never put off.
 *
 * Pages, log records, vacuum and building are GIN's.
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/gin_private.h"
#include "access/heapam.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "crm.h"
#include "match.h"
#include "match_enter.h"
#include "match_index.h"

/* Entries that one subtransaction put off: from first to the next one's. */
typedef struct Part
{
	SubTransactionId subid;
	Size first;
} Part;

/* What is put off for an index. */
typedef struct PutOff
{
	Oid indexid;
	MatchEntry *entry;
	Size n;
	Size allocated;
	Part *part; /* ascending in both */
	int nparts;
	int parts_allocated;
	struct PutOff *next;
} PutOff;

static PutOff *put_off = NULL; /* below TopTransactionContext, as all it points to */
static MemoryContext put_off_context = NULL;
static bool ending = false; /* the transaction puts nothing off any more */

static ProcessUtility_hook_type prev_utility = NULL;
static IndexAmRoutine gin; /* as PostgreSQL made it */

/* ---------------------------------------------------------------------
 * Catching up
 * ---------------------------------------------------------------------
 */

/* If it fails in a subtransaction that is rolled back, all are entered anew later. */
static void
crm_enter_put_off(PutOff *p, Relation index)
{
	crm_match_enter(index, p->entry, p->n);
	p->n = 0;
	p->nparts = 0;
}

static void
crm_catch_up(PutOff *p)
{
	Relation index;

	if (p->n == 0)
		return;
	/* An index that is gone needs nothing; ours is locked since the first entry was put off. */
	index = try_relation_open(p->indexid, RowExclusiveLock);
	if (index == NULL)
	{
		p->n = p->nparts = 0;
		return;
	}
	crm_enter_put_off(p, index);
	relation_close(index, NoLock);
}

static void
crm_catch_up_all(void)
{
	for (PutOff *p = put_off; p != NULL; p = p->next)
		crm_catch_up(p);
}

void
crm_match_index_catch_up(Oid indexid)
{
	for (PutOff *p = put_off; p != NULL; p = p->next)
		if (p->indexid == indexid)
			crm_catch_up(p);
}

/* ---------------------------------------------------------------------
 * Putting off
 * ---------------------------------------------------------------------
 */

static PutOff *
crm_put_off_of(Relation index)
{
	PutOff *p = put_off;

	while (p != NULL && p->indexid != RelationGetRelid(index))
		p = p->next;
	if (p != NULL)
		return p;
	if (put_off_context == NULL)
		put_off_context = AllocSetContextCreate(TopTransactionContext, "crm match entries put off",
												ALLOCSET_DEFAULT_SIZES);
	p = MemoryContextAllocZero(put_off_context, sizeof(PutOff));
	p->indexid = RelationGetRelid(index);
	p->allocated = 256;
	p->entry = MemoryContextAlloc(put_off_context, sizeof(MatchEntry) * p->allocated);
	p->parts_allocated = 4;
	p->part = MemoryContextAlloc(put_off_context, sizeof(Part) * p->parts_allocated);
	p->next = put_off;
	put_off = p;
	return p;
}

/* Marks that entries from here on are the current subtransaction's. */
static void
crm_put_off_part(PutOff *p)
{
	SubTransactionId subid = GetCurrentSubTransactionId();

	if (p->nparts > 0 && p->part[p->nparts - 1].subid == subid)
		return;
	if (p->nparts == p->parts_allocated)
	{
		p->parts_allocated *= 2;
		p->part = repalloc(p->part, sizeof(Part) * p->parts_allocated);
	}
	p->part[p->nparts].subid = subid;
	p->part[p->nparts++].first = p->n;
}

static void
crm_put_off_row(Relation index, const int32 *key, int n, ItemPointer row)
{
	PutOff *p = crm_put_off_of(index);

	if (p->n > 0 && (p->n + n) * (1 + MATCH_ENTER_COPIES) * sizeof(MatchEntry) >
						(Size) maintenance_work_mem * 1024)
		crm_enter_put_off(p, index);
	/* Until the transaction ends nobody may drop the index, or move it to another file. */
	if (p->n == 0)
		LockRelationOid(RelationGetRelid(index), RowExclusiveLock);
	crm_put_off_part(p);
	while (p->n + n > p->allocated)
	{
		p->allocated *= 2;
		p->entry = repalloc_huge(p->entry, sizeof(MatchEntry) * p->allocated);
	}
	for (int i = 0; i < n; i++)
	{
		p->entry[p->n].key = key[i];
		p->entry[p->n++].row = *row;
	}
}

/* Will the row perhaps be taken back before its subtransaction ends, by ON CONFLICT? */
static bool
crm_row_is_speculative(Relation rel, ItemPointer row)
{
	Buffer buffer = ReadBuffer(rel, ItemPointerGetBlockNumber(row));
	Page page = BufferGetPage(buffer);
	HeapTupleHeader tuple;
	bool result;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	tuple =
		(HeapTupleHeader) PageGetItem(page, PageGetItemId(page, ItemPointerGetOffsetNumber(row)));
	result = HeapTupleHeaderIsSpeculative(tuple);
	UnlockReleaseBuffer(buffer);
	return result;
}

static bool
crm_match_index_insert(Relation index, Datum *values, bool *isnull, ItemPointer row, Relation rel,
					   IndexUniqueCheck unique, bool unchanged, IndexInfo *info)
{
	ArrayType *keys;
	int n;

	if (isnull[0])
		return false;
	keys = DatumGetArrayTypeP(values[0]);
	n = ArrayGetNItems(ARR_NDIM(keys), ARR_DIMS(keys));
	if (ARR_ELEMTYPE(keys) != INT4OID || ARR_HASNULL(keys))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("matching keys must not contain nulls")));
	if (n == 0)
		return false;

	if (ending || info->ii_Concurrent || rel->rd_tableam != GetHeapamTableAmRoutine() ||
		crm_row_is_speculative(rel, row))
	{
		MatchEntry *entry = palloc(sizeof(MatchEntry) * n);

		for (int i = 0; i < n; i++)
		{
			entry[i].key = ((int32 *) ARR_DATA_PTR(keys))[i];
			entry[i].row = *row;
		}
		crm_match_enter(index, entry, n);
		pfree(entry);
	}
	else
		crm_put_off_row(index, (int32 *) ARR_DATA_PTR(keys), n, row);
	return false;
}

static int64
crm_match_index_bitmap(IndexScanDesc scan, TIDBitmap *bitmap)
{
	crm_match_index_catch_up(RelationGetRelid(scan->indexRelation));
	return gin.amgetbitmap(scan, bitmap);
}

/* Built from the table: what was put off is in it, or its rows are gone. */
static IndexBuildResult *
crm_match_index_build(Relation rel, Relation index, IndexInfo *info)
{
	crm_match_check_index(info->ii_Expressions);
	for (PutOff *p = put_off; p != NULL; p = p->next)
		if (p->indexid == RelationGetRelid(index))
			p->n = p->nparts = 0;
	return gin.ambuild(rel, index, info);
}

/* ---------------------------------------------------------------------
 * When
 * ---------------------------------------------------------------------
 */

static void
crm_match_index_utility(PlannedStmt *pstmt, const char *query, bool readonly,
						ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *env,
						DestReceiver *dest, QueryCompletion *qc)
{
	if (put_off != NULL && IsTransactionState())
		crm_catch_up_all();
	if (prev_utility)
		prev_utility(pstmt, query, readonly, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, readonly, context, params, env, dest, qc);
}

static void
crm_match_index_xact(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			ending = true;
			crm_catch_up_all();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			/* The memory goes with the transaction. */
			put_off = NULL;
			put_off_context = NULL;
			ending = false;
			break;
		default:
			break;
	}
}

/* Subtransactions are numbered as they begin: those from this one on were within it. */
static void
crm_match_index_subxact(SubXactEvent event, SubTransactionId subid, SubTransactionId parent,
						void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	for (PutOff *p = put_off; p != NULL; p = p->next)
		while (p->nparts > 0 && p->part[p->nparts - 1].subid >= subid)
			p->n = p->part[--p->nparts].first;
}

bool
crm_is_match_index(Relation index)
{
	return index->rd_indam->ambulkdelete == ginbulkdelete && index->rd_opcintype[0] == INT4ARRAYOID;
}

void
crm_match_index_init(void)
{
	RegisterXactCallback(crm_match_index_xact, NULL);
	RegisterSubXactCallback(crm_match_index_subxact, NULL);
	prev_utility = ProcessUtility_hook;
	ProcessUtility_hook = crm_match_index_utility;
}

/* crm.match_index_handler(internal) */
PG_FUNCTION_INFO_V1(crm_match_index_handler);
Datum
crm_match_index_handler(PG_FUNCTION_ARGS)
{
	IndexAmRoutine *result;

	gin =
		*(IndexAmRoutine *) DatumGetPointer(DirectFunctionCall1(ginhandler, PointerGetDatum(NULL)));
	result = makeNode(IndexAmRoutine);
	*result = gin;
	result->amcanmulticol = false;
	/* Rows without keys have no entry. */
	result->amoptionalkey = false;
	result->aminsert = crm_match_index_insert;
	result->ambuild = crm_match_index_build;
	result->amgetbitmap = crm_match_index_bitmap;
	PG_RETURN_POINTER(result);
}
