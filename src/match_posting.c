/*
 * match_posting.c
 *		The rows that have a key, read from a matching index.
 *
 * A search weighs rows by the keys they share with a record.  GIN's own scan
 * tells only which rows pass a condition, so the posting lists are read here:
 * down the entry tree once a key (or a leaf, for keys in its order), then the list
 * in the entry or the leaves of the posting tree, as ginget.c does.  Rows that are
 * still in the list of pending entries are read first, because entries move from
 * there into the tree: a row may be told twice, never missed.
 *
 * What is told may be dead or invisible; the caller fetches rows with an MVCC
 * snapshot, to which it does not matter if one is vacuumed and its place taken
 * meanwhile.
 */
#include "postgres.h"

#include "access/gin_private.h"
#include "access/relation.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "utils/rel.h"

#include "compat.h"
#include "match_index.h"
#include "match_posting.h"

#define TREE_LEAF_ROWS 2500 /* about as many are in a leaf of a posting tree */
#define STEPS_RIGHT	   2	/* leaves passed over before a key is looked up from the root */

struct MatchPostings
{
	Relation index;
	Snapshot snapshot;
	GinState state;
	/* where the last key was looked up */
	GinBtreeData btree;
	GinBtreeStack *stack; /* NULL = nowhere; the leaf is pinned */
	int32 key;
};

MatchPostings *
crm_postings_begin(Relation index, Snapshot snapshot)
{
	MatchPostings *postings = palloc(sizeof(MatchPostings));

	crm_match_index_catch_up(RelationGetRelid(index));
	postings->index = index;
	postings->snapshot = snapshot;
	initGinState(&postings->state, index);
	postings->stack = NULL;
	return postings;
}

static void
crm_posting_add_pending(MatchPosting *posting, const ItemPointerData *tid)
{
	if (posting->npending == 0)
		posting->pending = palloc(sizeof(ItemPointerData));
	else if ((posting->npending & (posting->npending - 1)) == 0)
		posting->pending =
			repalloc_huge(posting->pending, sizeof(ItemPointerData) * 2 * (Size) posting->npending);
	posting->pending[posting->npending++] = *tid;
	posting->rows++;
}

static MatchPosting *
crm_posting_of(MatchPosting *list, int n, uint32 key)
{
	int low = 0, high = n - 1;

	while (low <= high)
	{
		int mid = (low + high) / 2;

		if (list[mid].key == key)
			return &list[mid];
		if (list[mid].key < key)
			low = mid + 1;
		else
			high = mid - 1;
	}
	return NULL;
}

static Buffer
crm_posting_buffer(Relation index, BlockNumber block)
{
	Buffer buffer = ReadBuffer(index, block);

	LockBuffer(buffer, GIN_SHARE);
	return buffer;
}

/* What was written lately and is not in the tree yet. */
static void
crm_postings_pending(MatchPostings *postings, MatchPosting *list, int n)
{
	Buffer buffer, next;
	BlockNumber block;

	/* Who writes to the list conflicts with who reads its head. */
	PredicateLockPage(postings->index, GIN_METAPAGE_BLKNO, postings->snapshot);
	buffer = crm_posting_buffer(postings->index, GIN_METAPAGE_BLKNO);
	block = GinPageGetMeta(BufferGetPage(buffer))->head;
	while (block != InvalidBlockNumber)
	{
		Page page;
		OffsetNumber last;

		/* A page is locked before the one before it is released, so that it is not removed. */
		next = crm_posting_buffer(postings->index, block);
		UnlockReleaseBuffer(buffer);
		buffer = next;
		page = BufferGetPage(buffer);
		last = PageGetMaxOffsetNumber(page);
		for (OffsetNumber off = FirstOffsetNumber; off <= last; off++)
		{
			IndexTuple tuple = (IndexTuple) PageGetItem(page, PageGetItemId(page, off));
			GinNullCategory category;
			Datum key = gintuple_get_key(&postings->state, tuple, &category);
			MatchPosting *posting;

			if (category != GIN_CAT_NORM_KEY)
				continue;
			posting = crm_posting_of(list, n, (uint32) DatumGetInt32(key));
			if (posting != NULL)
				crm_posting_add_pending(posting, &tuple->t_tid);
		}
		block = GinPageGetOpaque(page)->rightlink;
	}
	UnlockReleaseBuffer(buffer);
}

static void
crm_postings_leave(MatchPostings *postings)
{
	if (postings->stack != NULL)
		freeGinBtreeStack(postings->stack);
	postings->stack = NULL;
}

/* The entry of a key on its leaf; InvalidOffsetNumber if there is none. */
static OffsetNumber
crm_entry_on_leaf(Page page, int32 key)
{
	OffsetNumber low = FirstOffsetNumber, high = PageGetMaxOffsetNumber(page) + 1;

	while (low < high)
	{
		OffsetNumber mid = low + (high - low) / 2;
		int32 there;

		if (!crm_entry_key(page, mid, &there) || there > key)
			high = mid;
		else if (there == key)
			return mid;
		else
			low = mid + 1;
	}
	return InvalidOffsetNumber;
}

/* Is a key on the leaf, or nowhere?  The last leaf has all that come after it. */
static inline bool
crm_leaf_reaches(Page page, int32 key)
{
	int32 most;
	OffsetNumber last = PageGetMaxOffsetNumber(page);

	return last >= FirstOffsetNumber && (!crm_entry_key(page, last, &most) || key <= most);
}

/*
 * Share-locks the leaf of a key.  That of the key before is tried first, then some
 * to the right of it, which saves the descent when many keys are looked up in their
 * order.  A key above one that was on the page is there or further right: entries
 * move to the right only, no page of entries is ever removed, and a root that was a
 * leaf may be one no more.
 */
static GinBtreeStack *
crm_postings_leaf(MatchPostings *postings, int32 key)
{
	GinBtreeStack *stack = postings->stack;

	if (stack != NULL && key > postings->key)
	{
		LockBuffer(stack->buffer, GIN_SHARE);
		postings->key = key;
		for (int steps = 0; GinPageIsLeaf(BufferGetPage(stack->buffer)); steps++)
		{
			if (crm_leaf_reaches(BufferGetPage(stack->buffer), key))
				return stack;
			if (steps == STEPS_RIGHT || GinPageRightMost(BufferGetPage(stack->buffer)))
				break;
			stack->buffer = ginStepRight(stack->buffer, postings->index, GIN_SHARE);
			stack->blkno = BufferGetBlockNumber(stack->buffer);
		}
		LockBuffer(stack->buffer, GIN_UNLOCK);
	}
	crm_postings_leave(postings);
	ginPrepareEntryScan(&postings->btree, FirstOffsetNumber, Int32GetDatum(key), GIN_CAT_NORM_KEY,
						&postings->state);
	postings->stack = CRM_GIN_FIND_LEAF(&postings->btree, postings->snapshot);
	postings->key = key;
	return postings->stack;
}

static void
crm_posting_look_up(MatchPostings *postings, MatchPosting *posting)
{
	GinBtreeStack *stack = crm_postings_leaf(postings, (int32) posting->key);
	Page page = BufferGetPage(stack->buffer);
	OffsetNumber off = crm_entry_on_leaf(page, (int32) posting->key);

	if (off != InvalidOffsetNumber)
	{
		IndexTuple tuple = (IndexTuple) PageGetItem(page, PageGetItemId(page, off));

		if (GinIsPostingTree(tuple))
		{
			posting->tree = GinGetPostingTree(tuple);
			PredicateLockPage(postings->index, posting->tree, postings->snapshot);
		}
		else
		{
			PredicateLockPage(postings->index, BufferGetBlockNumber(stack->buffer),
							  postings->snapshot);
			/* Most lists are never read: they are unpacked when they are. */
			if (GinItupIsCompressed(tuple) && GinGetNPosting(tuple) > 0)
			{
				GinPostingList *packed = (GinPostingList *) GinGetPosting(tuple);

				posting->rows += GinGetNPosting(tuple);
				if (GinGetNPosting(tuple) == 1)
					posting->only = packed->first;
				else
				{
					posting->packed = palloc(SizeOfGinPostingList(packed));
					memcpy(posting->packed, packed, SizeOfGinPostingList(packed));
				}
			}
		}
	}
	else
		PredicateLockPage(postings->index, BufferGetBlockNumber(stack->buffer), postings->snapshot);
	LockBuffer(stack->buffer, GIN_UNLOCK);

	/* How large the tree is, by its root; it is not emptied while the entry is there. */
	if (posting->tree != InvalidBlockNumber)
	{
		Buffer buffer = crm_posting_buffer(postings->index, posting->tree);
		Page page = BufferGetPage(buffer);

		posting->rows +=
			TREE_LEAF_ROWS * (GinPageIsLeaf(page) ? 1.0 : (double) GinPageGetOpaque(page)->maxoff);
		UnlockReleaseBuffer(buffer);
	}
}

void
crm_postings_look_up(MatchPostings *postings, MatchPosting *list, int n)
{
	for (int i = 0; i < n; i++)
	{
		list[i].rows = 0;
		list[i].npending = 0;
		list[i].pending = NULL;
		ItemPointerSetInvalid(&list[i].only);
		list[i].packed = NULL;
		list[i].tree = InvalidBlockNumber;
	}
	crm_postings_pending(postings, list, n);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		crm_posting_look_up(postings, &list[i]);
	}
	crm_postings_leave(postings);
}

void
crm_postings_read(MatchPostings *postings, const MatchPosting *posting, MatchPostingReader reader,
				  void *arg)
{
	GinBtreeData btree;
	GinBtreeStack *stack;
	Buffer buffer;
	ItemPointerData only = posting->only;
	bool more = true;

	if (posting->npending > 0 && !reader(arg, posting->pending, posting->npending))
		return;
	if (ItemPointerIsValid(&only))
		reader(arg, &only, 1);
	if (posting->packed != NULL)
	{
		int n;
		ItemPointer items = ginPostingListDecode(posting->packed, &n);

		reader(arg, items, n);
		pfree(items);
	}
	if (posting->tree == InvalidBlockNumber)
		return;
	stack = CRM_GIN_BEGIN_TREE(&btree, postings->index, posting->tree, postings->snapshot);
	buffer = stack->buffer;
	IncrBufferRefCount(buffer);
	freeGinBtreeStack(stack);
	for (;;)
	{
		ItemPointerData all;
		int n;
		ItemPointer items;
		bool last;

		ItemPointerSetMin(&all);
		items = GinPageIsDeleted(BufferGetPage(buffer))
					? NULL
					: GinDataLeafPageGetItems(BufferGetPage(buffer), &n, all);
		last = GinPageRightMost(BufferGetPage(buffer));
		if (items != NULL)
		{
			/* The reader works on a copy; the page is pinned and can be locked again. */
			LockBuffer(buffer, GIN_UNLOCK);
			more = n == 0 || reader(arg, items, n);
			pfree(items);
			CHECK_FOR_INTERRUPTS();
			if (last || !more)
				break;
			LockBuffer(buffer, GIN_SHARE);
			last = GinPageRightMost(BufferGetPage(buffer));
		}
		if (last)
		{
			LockBuffer(buffer, GIN_UNLOCK);
			break;
		}
		buffer = ginStepRight(buffer, postings->index, GIN_SHARE);
	}
	ReleaseBuffer(buffer);
}
