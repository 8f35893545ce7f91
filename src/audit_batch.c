/*
 * audit_batch.c
 *		Rows of an audit log that are written many at a time.
 *
 * A row written by itself opens the log and its indexes, pins and logs a page,
 * and takes several times what the same row takes among others.  So rows are kept
 * here until there are many, the statement is done, or somebody might look:
 *
 *	- a query begins that reads the log,
 *	- a statement ends,
 *	- a utility statement begins, which may do anything to the log,
 *	- the subtransaction or transaction commits or is prepared.
 *
 * They are stamped with the command that they were written by, so that whoever
 * saw them before sees them now.  The log stays locked meanwhile; what others
 * may still do to it, begin an index, is asked when they are written.
 *
 * Rows belong to the subtransaction of the change.  One that begins while rows
 * are kept, in another trigger of the same statement, may have to write them, but
 * takes them along if it is rolled back: so they are kept on until it has become
 * part of their own, and are written again if it has not.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "audit.h"
#include "compat.h"
#include "crm.h"
#include "invalidation.h"

#define BATCH_ROWS	64
#define BATCH_BYTES 65536

struct AuditBatch
{
	MemoryContext context;	  /* below CacheMemoryContext, of all the rest */
	SubTransactionId subid;	  /* whose rows they are */
	SubTransactionId written; /* by which subtransaction of it, if they are */
	CommandId command;
	Oid log;
	Oid owner;
	bool stale; /* the log changed since desc was copied */
	TupleDesc desc;
	int n;
	int nslots;
	Size bytes;
	TupleTableSlot *slot[BATCH_ROWS];
	int nindexes; /* -1 = not looked up */
	Oid *indexes;
	IndexInfo **infos;
	struct AuditBatch *older;
};

static AuditBatch *batches = NULL; /* newest first, subid descending */
static AuditBatch *spare = NULL;   /* the empty one of the transaction before */

static ExecutorStart_hook_type prev_start = NULL;
static ExecutorFinish_hook_type prev_finish = NULL;
static ProcessUtility_hook_type prev_utility = NULL;

int64 crm_audit_rows_direct = 0;

static void
crm_batch_hear(AuditBatch *b, Oid relid)
{
	if (OidIsValid(relid) && b->log != relid)
		return;
	b->stale = true;
	b->nindexes = -1;
}

static void
crm_batch_relcache_callback(Datum arg, Oid relid)
{
	for (AuditBatch *b = batches; b != NULL; b = b->older)
		crm_batch_hear(b, relid);
	if (spare != NULL)
		crm_batch_hear(spare, relid);
}

/* ---------------------------------------------------------------------
 * Writing
 * ---------------------------------------------------------------------
 */

static void
crm_batch_clear(AuditBatch *b)
{
	for (int i = 0; i < b->n; i++)
		ExecClearTuple(b->slot[i]);
	b->n = 0;
	b->bytes = 0;
	b->written = InvalidSubTransactionId;
}

static void
crm_batch_find_indexes(AuditBatch *b, Relation rel)
{
	MemoryContext save = MemoryContextSwitchTo(b->context);
	List *list = RelationGetIndexList(rel);
	ListCell *cell;
	int n = 0;

	b->indexes = palloc(sizeof(Oid) * (list_length(list) + 1));
	b->infos = palloc(sizeof(IndexInfo *) * (list_length(list) + 1));
	/* An invalidation while they are looked up counts for the next time. */
	b->nindexes = 0;
	foreach (cell, list)
	{
		Relation index = index_open(lfirst_oid(cell), RowExclusiveLock);

		b->indexes[n] = lfirst_oid(cell);
		b->infos[n++] = BuildIndexInfo(index);
		index_close(index, NoLock);
	}
	list_free(list);
	b->nindexes = n;
	MemoryContextSwitchTo(save);
}

/* Has the row before the same values in the columns of the index, as far as can be seen at once? */
static bool
crm_batch_repeats(const IndexInfo *info, TupleTableSlot *row, TupleTableSlot *before)
{
	for (int k = 0; k < info->ii_NumIndexAttrs; k++)
	{
		int column = info->ii_IndexAttrNumbers[k] - 1;

		if (!TupleDescAttr(row->tts_tupleDescriptor, column)->attbyval ||
			row->tts_isnull[column] != before->tts_isnull[column] ||
			(!row->tts_isnull[column] && row->tts_values[column] != before->tts_values[column]))
			return false;
	}
	return true;
}

static void
crm_batch_enter(AuditBatch *b, Relation rel, Relation index, IndexInfo *info)
{
	IndexUniqueCheck unique = index->rd_index->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO;
	bool summary = index->rd_rel->relam == BRIN_AM_OID;

	/* What access methods keep between rows refers to the open index. */
	info->ii_AmCache = NULL;
	info->ii_Context = CurrentMemoryContext;
	for (int i = 0; i < b->n; i++)
	{
		TupleTableSlot *row = b->slot[i];
		Datum keys[INDEX_MAX_KEYS];
		bool nulls[INDEX_MAX_KEYS];

		for (int k = 0; k < info->ii_NumIndexAttrs; k++)
			keys[k] = slot_getattr(row, info->ii_IndexAttrNumbers[k], &nulls[k]);
		/* A summary of the page has heard of the time when this transaction began. */
		if (summary && i > 0 &&
			ItemPointerGetBlockNumber(&row->tts_tid) ==
				ItemPointerGetBlockNumber(&b->slot[i - 1]->tts_tid) &&
			crm_batch_repeats(info, row, b->slot[i - 1]))
			continue;
		index_insert(index, keys, nulls, &row->tts_tid, rel, unique, false, info);
	}
	CRM_INDEX_INSERT_CLEANUP(index, info);
	info->ii_AmCache = NULL;
}

/* Marked as written before it is: if that fails, the subtransaction does, too. */
static void
crm_batch_write(AuditBatch *b)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "crm audit rows", ALLOCSET_SMALL_SIZES);
	MemoryContext save = MemoryContextSwitchTo(context);
	Relation rel;
	Oid save_userid;
	int save_sec_context;

	b->written = GetCurrentSubTransactionId();
	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	SetUserIdAndSecContext(b->owner, save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
										 SECURITY_RESTRICTED_OPERATION);
	rel = table_open(b->log, NoLock);
	heap_multi_insert(rel, b->slot, b->n, b->command, 0, NULL);
	if (b->nindexes < 0)
		crm_batch_find_indexes(b, rel);
	for (int i = 0; i < b->nindexes; i++)
	{
		Relation index = index_open(b->indexes[i], RowExclusiveLock);

		/* One that CREATE INDEX CONCURRENTLY has only begun is not ready. */
		if (index->rd_index->indisready)
			crm_batch_enter(b, rel, index, b->infos[i]);
		/* The lock is kept, as a scan of the index would: most rows are followed by more. */
		index_close(index, NoLock);
	}
	table_close(rel, NoLock);
	SetUserIdAndSecContext(save_userid, save_sec_context);
	MemoryContextSwitchTo(save);
	MemoryContextDelete(context);
	crm_audit_rows_direct += b->n;
	if (b->written == b->subid)
		crm_batch_clear(b);
}

/* In the order in which the changes were made. */
static void
crm_batches_write(AuditBatch *b)
{
	if (b == NULL)
		return;
	crm_batches_write(b->older);
	if (b->n > 0 && b->written == InvalidSubTransactionId)
		crm_batch_write(b);
}

void
crm_audit_catch_up(void)
{
	crm_batches_write(batches);
}

/* ---------------------------------------------------------------------
 * Keeping
 * ---------------------------------------------------------------------
 */

static AuditBatch *
crm_batch_create(const AuditLog *log)
{
	static bool registered = false;
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "crm audit batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContext save = MemoryContextSwitchTo(context);
	AuditBatch *b = palloc0(sizeof(AuditBatch));
	Relation rel = table_open(log->relid, NoLock);

	if (!registered)
		crm_register_relcache_callback(crm_batch_relcache_callback, (Datum) 0);
	registered = true;
	b->context = context;
	b->log = log->relid;
	b->owner = log->owner;
	b->desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	b->nindexes = -1;
	table_close(rel, NoLock);
	MemoryContextSwitchTo(save);
	MemoryContextSetParent(context, CacheMemoryContext);
	return b;
}

static void
crm_batch_begin(const AuditLog *log)
{
	AuditBatch *b = spare;

	spare = NULL;
	if (b != NULL && (b->stale || b->log != log->relid || b->owner != log->owner))
	{
		MemoryContextDelete(b->context);
		b = NULL;
	}
	if (b == NULL)
		b = crm_batch_create(log);
	b->subid = GetCurrentSubTransactionId();
	b->written = InvalidSubTransactionId;
	b->older = batches;
	batches = b;
}

/* Of its rows, or none. */
static void
crm_batch_drop_newest(void)
{
	AuditBatch *b = batches;

	batches = b->older;
	MemoryContextDelete(b->context);
}

AuditBatch *
crm_audit_batch(const AuditLog *log)
{
	AuditBatch *b = batches;
	SubTransactionId subid = GetCurrentSubTransactionId();

	if (b != NULL && b->subid == subid && b->log == log->relid && !b->stale && b->n < BATCH_ROWS &&
		b->bytes < BATCH_BYTES && (b->n == 0 || b->command == GetCurrentCommandId(false)))
		return b;
	crm_audit_catch_up();
	if (b != NULL && b->subid == subid && (b->stale || b->log != log->relid))
	{
		crm_batch_drop_newest();
		b = NULL;
	}
	if (b == NULL || b->subid != subid)
		crm_batch_begin(log);
	return batches;
}

TupleDesc
crm_audit_batch_desc(AuditBatch *b)
{
	return b->desc;
}

void
crm_audit_batch_add(AuditBatch *b, Datum *values, bool *nulls)
{
	MemoryContext save = MemoryContextSwitchTo(b->context);
	HeapTuple tuple = heap_form_tuple(b->desc, values, nulls);

	if (b->n == b->nslots)
		b->slot[b->nslots++] = MakeSingleTupleTableSlot(b->desc, &TTSOpsHeapTuple);
	ExecStoreHeapTuple(tuple, b->slot[b->n], true);
	MemoryContextSwitchTo(save);
	b->command = GetCurrentCommandId(true);
	b->bytes += tuple->t_len;
	b->n++;
}

/* ---------------------------------------------------------------------
 * When
 * ---------------------------------------------------------------------
 */

static void
crm_batch_executor_start(QueryDesc *query, int eflags)
{
	for (AuditBatch *b = batches; b != NULL; b = b->older)
		if (list_member_oid(query->plannedstmt->relationOids, b->log))
		{
			crm_audit_catch_up();
			break;
		}
	if (prev_start)
		prev_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

static void
crm_batch_executor_finish(QueryDesc *query)
{
	if (prev_finish)
		prev_finish(query);
	else
		standard_ExecutorFinish(query);
	crm_audit_catch_up();
}

static void
crm_batch_utility(PlannedStmt *pstmt, const char *query, bool readonly,
				  ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *env,
				  DestReceiver *dest, QueryCompletion *qc)
{
	if (batches != NULL && IsTransactionState())
		crm_audit_catch_up();
	if (prev_utility)
		prev_utility(pstmt, query, readonly, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, readonly, context, params, env, dest, qc);
	if (batches != NULL && IsTransactionState())
		crm_audit_catch_up();
}

static void
crm_batch_xact(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			crm_audit_catch_up();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			while (batches != NULL && (batches->older != NULL || batches->n > 0 || spare != NULL))
				crm_batch_drop_newest();
			if (batches != NULL)
				spare = batches;
			batches = NULL;
			break;
		default:
			break;
	}
}

static void
crm_batch_subxact(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_PRE_COMMIT_SUB)
		crm_audit_catch_up();
	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	/* Subtransactions are numbered as they begin: those from this one on were within it. */
	while (batches != NULL && batches->subid >= subid)
		crm_batch_drop_newest();
	for (AuditBatch *b = batches; b != NULL; b = b->older)
	{
		if (b->written == InvalidSubTransactionId || b->written < subid)
			continue;
		b->written = event == SUBXACT_EVENT_COMMIT_SUB ? parent : InvalidSubTransactionId;
		if (b->written == b->subid)
			crm_batch_clear(b);
	}
}

void
crm_audit_init(void)
{
	RegisterXactCallback(crm_batch_xact, NULL);
	RegisterSubXactCallback(crm_batch_subxact, NULL);
	prev_start = ExecutorStart_hook;
	ExecutorStart_hook = crm_batch_executor_start;
	prev_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = crm_batch_executor_finish;
	prev_utility = ProcessUtility_hook;
	ProcessUtility_hook = crm_batch_utility;
}
