/*
 * match_enter.c
 *		The keys of rows entered into a matching index.
 *
 * GIN enters a key at a time: down the tree of entries, a new tuple, a record in
 * the log.  Where a batch has many keys for each leaf, the leaf is written anew
 * here with all of them, as one image in the log.  What changes more than a leaf
 * (an entry that no longer fits, a list of rows that becomes or is a tree) is
 * left to GIN.
 *
 * A leaf holds the keys up to its last one, and the last leaf all above; it is
 * locked from the look at that key to the write.
 */
#include "postgres.h"

#include "access/gin_private.h"
#include "access/xloginsert.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "match_enter.h"
#include "match_index.h"

#define KEYS_A_LEAF	  4	  /* from so many on it is cheaper to write the leaf anew */
#define ROW_BYTES	  7	  /* a row in a list takes at most */
#define GROUP_OF_KEYS 256 /* entered between two looks at interrupts and memory */

typedef struct Entering
{
	Relation index;
	GinState state;
	MemoryContext context; /* of a leaf, or of a group of keys */
	IndexTuple header;	   /* an entry before its key and rows are filled in */
	const MatchEntry *entry;
	Size n;
} Entering;

/* ---------------------------------------------------------------------
 * Order
 * ---------------------------------------------------------------------
 */

static int
crm_compare_rows(const void *a, const void *b)
{
	return ItemPointerCompare((ItemPointer) a, (ItemPointer) b);
}

/* The digit of a key, such that the order of the digits is that of the keys. */
static inline int
crm_digit(int32 key, int digit)
{
	return (((uint32) key ^ 0x80000000) >> (8 * digit)) & 0xFF;
}

/*
 * By key; rows of one key stay in their order.  The result is in one of the two
 * arrays, which have room for n; small batches, of which there are many, are
 * sorted by insertion.
 */
static MatchEntry *
crm_sort_by_key(const MatchEntry *entry, Size n, MatchEntry *to, MatchEntry *other)
{
	Size place[4][256];

	if (n <= 64)
	{
		for (Size i = 0; i < n; i++)
		{
			Size at = i;

			for (; at > 0 && to[at - 1].key > entry[i].key; at--)
				to[at] = to[at - 1];
			to[at] = entry[i];
		}
		return to;
	}
	memset(place, 0, sizeof(place));
	for (Size i = 0; i < n; i++)
		for (int d = 0; d < 4; d++)
			place[d][crm_digit(entry[i].key, d)]++;
	for (int d = 0; d < 4; d++)
	{
		MatchEntry *swap = other;
		Size start = 0;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < 256; i++)
		{
			Size count = place[d][i];

			place[d][i] = start;
			start += count;
		}
		for (Size i = 0; i < n; i++)
			to[place[d][crm_digit(entry[i].key, d)]++] = entry[i];
		entry = to;
		other = to;
		to = swap;
	}
	return other;
}

/* The rows of the key at i, ascending, each once; *next is where the next key begins. */
static ItemPointer
crm_rows_of_key(const Entering *e, Size i, uint32 *nrows, Size *next)
{
	int32 key = e->entry[i].key;
	Size end = i;
	ItemPointer rows;
	bool ascending = true;
	uint32 n = 0;

	while (end < e->n && e->entry[end].key == key)
		end++;
	rows = palloc_extended(sizeof(ItemPointerData) * (end - i), MCXT_ALLOC_HUGE);
	for (Size k = i; k < end; k++)
	{
		rows[k - i] = e->entry[k].row;
		ascending = ascending && (k == i || crm_compare_rows(&rows[k - i - 1], &rows[k - i]) < 0);
	}
	if (ascending)
		n = (uint32) (end - i);
	else
	{
		qsort(rows, end - i, sizeof(ItemPointerData), crm_compare_rows);
		for (Size k = 0; k < end - i; k++)
			if (n == 0 || !ItemPointerEquals(&rows[n - 1], &rows[k]))
				rows[n++] = rows[k];
	}
	*nrows = n;
	*next = end;
	return rows;
}

/* ---------------------------------------------------------------------
 * A key
 * ---------------------------------------------------------------------
 */

/* Enters the key at i; returns where the next one begins. */
static Size
crm_enter_key(Entering *e, Size i)
{
	uint32 nrows;
	Size next;
	ItemPointer rows = crm_rows_of_key(e, i, &nrows, &next);

	ginEntryInsert(&e->state, FirstOffsetNumber, Int32GetDatum(e->entry[i].key), GIN_CAT_NORM_KEY,
				   rows, nrows, NULL);
	return next;
}

/* ---------------------------------------------------------------------
 * A leaf
 * ---------------------------------------------------------------------
 */

/* Where the next item of a page goes, which must have room for it. */
static char *
crm_add_item(Page page, Size size)
{
	PageHeader header = (PageHeader) page;

	header->pd_upper -= MAXALIGN(size);
	header->pd_lower += sizeof(ItemIdData);
	ItemIdSetNormal(PageGetItemId(page, PageGetMaxOffsetNumber(page)), header->pd_upper, size);
	return (char *) page + header->pd_upper;
}

static void
crm_copy_item(Page page, IndexTuple tuple)
{
	memcpy(crm_add_item(page, IndexTupleSize(tuple)), tuple, IndexTupleSize(tuple));
}

/* The rows of an entry, or of a new one, with others; NULL if an entry cannot hold them all. */
static GinPostingList *
crm_pack_rows(Entering *e, IndexTuple old, ItemPointer rows, uint32 nrows, int *n)
{
	GinPostingList *list;
	Size room;
	int packed;

	/* A row takes a byte at least. */
	if (nrows > GinMaxItemSize)
		return NULL;
	*n = (int) nrows;
	if (old != NULL)
	{
		int nold;
		ItemPointer before = ginReadTuple(&e->state, FirstOffsetNumber, old, &nold);

		rows = ginMergeItemPointers(before, nold, rows, nrows, n);
	}
	/* Not more than that many rows need: memory that nobody has touched is slow. */
	room = Min(GinMaxItemSize, MAXALIGN(sizeof(GinPostingList) + ROW_BYTES * *n));
	list = ginCompressPostingList(rows, *n, (int) room, &packed);
	return packed == *n && MAXALIGN(GinGetPostingOffset(e->header) + SizeOfGinPostingList(list)) <=
							   GinMaxItemSize
			   ? list
			   : NULL;
}

static void
crm_add_entry(Entering *e, Page page, int32 key, GinPostingList *list, int n)
{
	Size start = GinGetPostingOffset(e->header);
	Size size = MAXALIGN(start + SizeOfGinPostingList(list));
	IndexTuple tuple = (IndexTuple) crm_add_item(page, size);

	memcpy(tuple, e->header, start);
	tuple->t_info = (tuple->t_info & ~INDEX_SIZE_MASK) | size;
	GinSetNPosting(tuple, n);
	*(int32 *) ((char *) tuple + IndexInfoFindDataOffset(tuple->t_info)) = key;
	memcpy((char *) tuple + start, list, SizeOfGinPostingList(list));
	memset((char *) tuple + start + SizeOfGinPostingList(list), 0,
		   size - start - SizeOfGinPostingList(list));
}

static void
crm_write_leaf(Relation index, Buffer buffer, Page page)
{
	Page leaf = BufferGetPage(buffer);

	CheckForSerializableConflictIn(index, NULL, BufferGetBlockNumber(buffer));
	PageSetLSN(page, PageGetLSN(leaf));
	START_CRIT_SECTION();
	memcpy(leaf, page, BLCKSZ);
	MarkBufferDirty(buffer);
	if (RelationNeedsWAL(index))
		log_newpage_buffer(buffer, true);
	END_CRIT_SECTION();
}

/*
 * Enters the key at i and those after it that are on the same leaf; returns where
 * the first one begins that is not entered.  *full: it belongs there and did not fit.
 */
static Size
crm_enter_leaf(Entering *e, Size i, bool *full)
{
	GinBtreeData btree;
	GinBtreeStack *stack;
	Page leaf, page;
	OffsetNumber off = FirstOffsetNumber, last;
	int32 most = PG_INT32_MAX;
	Size room, next;
	List *left = NIL; /* keys whose rows are more than an entry holds */
	ListCell *cell;
	bool changed = false;

	ginPrepareEntryScan(&btree, FirstOffsetNumber, Int32GetDatum(e->entry[i].key), GIN_CAT_NORM_KEY,
						&e->state);
	stack = CRM_GIN_FIND_LEAF_TO_WRITE(&btree);
	leaf = BufferGetPage(stack->buffer);
	last = PageGetMaxOffsetNumber(leaf);
	if (!GinPageRightMost(leaf) && last >= FirstOffsetNumber)
		(void) crm_entry_key(leaf, last, &most);
	room = PageGetExactFreeSpace(leaf);
	page = PageGetTempPageCopySpecial(leaf);

	*full = false;
	for (; i < e->n && e->entry[i].key <= most; i = next)
	{
		int32 key = e->entry[i].key, there = 0;
		IndexTuple old = NULL;
		GinPostingList *list = NULL;
		uint32 nrows;
		Size size;
		ItemPointer rows = crm_rows_of_key(e, i, &nrows, &next);
		int n;

		for (; off <= last && crm_entry_key(leaf, off, &there) && there < key; off++)
			crm_copy_item(page, (IndexTuple) PageGetItem(leaf, PageGetItemId(leaf, off)));
		if (off <= last && crm_entry_key(leaf, off, &there) && there == key)
			old = (IndexTuple) PageGetItem(leaf, PageGetItemId(leaf, off));
		if (old == NULL || !GinIsPostingTree(old))
			list = crm_pack_rows(e, old, rows, nrows, &n);
		if (list == NULL)
		{
			left = lappend(left, (void *) &e->entry[i]);
			continue;
		}
		size = MAXALIGN(GinGetPostingOffset(e->header) + SizeOfGinPostingList(list));
		*full = size + sizeof(ItemIdData) >
				room + (old != NULL ? MAXALIGN(IndexTupleSize(old)) + sizeof(ItemIdData) : 0);
		if (*full)
			break;
		room -= size + sizeof(ItemIdData);
		if (old != NULL)
		{
			room += MAXALIGN(IndexTupleSize(old)) + sizeof(ItemIdData);
			off++;
		}
		crm_add_entry(e, page, key, list, n);
		changed = true;
	}
	if (changed)
	{
		for (; off <= last; off++)
			crm_copy_item(page, (IndexTuple) PageGetItem(leaf, PageGetItemId(leaf, off)));
		crm_write_leaf(e->index, stack->buffer, page);
	}
	LockBuffer(stack->buffer, GIN_UNLOCK);
	freeGinBtreeStack(stack);
	foreach (cell, left)
		(void) crm_enter_key(e, (const MatchEntry *) lfirst(cell) - e->entry);
	return i;
}

void
crm_match_enter(Relation index, const MatchEntry *entry, Size n)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match entries", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Entering e = {.index = index, .n = n};
	MatchEntry *room = palloc_extended(sizeof(MatchEntry) * n, MCXT_ALLOC_HUGE);
	MatchEntry *more = palloc_extended(sizeof(MatchEntry) * n, MCXT_ALLOC_HUGE);
	Size keys = 0;
	bool by_leaf;

	e.entry = crm_sort_by_key(entry, n, room, more);
	initGinState(&e.state, index);
	e.header = GinFormTuple(&e.state, FirstOffsetNumber, Int32GetDatum(0), GIN_CAT_NORM_KEY, NULL,
							0, 0, true);
	for (Size i = 0; i < n; i++)
		keys += i == 0 || e.entry[i].key != e.entry[i - 1].key;
	by_leaf = keys / KEYS_A_LEAF > RelationGetNumberOfBlocks(index);

	e.context = AllocSetContextCreate(context, "crm match leaf", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(e.context);
	keys = 0;
	for (Size i = 0; i < n;)
	{
		bool full = true;

		if (by_leaf)
			i = crm_enter_leaf(&e, i, &full);
		if (full)
			i = crm_enter_key(&e, i);
		if (by_leaf || ++keys % GROUP_OF_KEYS == 0)
		{
			MemoryContextReset(e.context);
			CHECK_FOR_INTERRUPTS();
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
