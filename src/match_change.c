/*
 * match_change.c
 *		A scan of what changed since the last one: which rows those are.
 *
 * Every row's header says which transaction wrote it; those of transactions that
 * the last scan did not see ended are read as features.  The rest of the table is
 * passed over without a look at its values, except that ids are noted: of a pair
 * whose record is seen nowhere the record was deleted.  Meanwhile the process that
 * was asked reads what is known; records of pairs about which a decision was taken
 * back it reads as if they had changed.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "match_ids.h"
#include "match_scan.h"

#define FIRST_RECORDS 256 /* for which there is room at first */

/* What changed, as a participant comes across it. */
typedef struct ChangeList
{
	MatchScan *scan;
	MatchScratch *scratch;
	ChangedRecord *record;
	uint32 n;
	uint32 size;
	ChangedKey *key;
	uint32 nkeys;
	uint32 key_size;
} ChangeList;

/* Reads rows by their ids, and hands on what is compared of them. */
void
crm_rows_by_id(MatchScan *scan, Datum *ids, uint32 n, RowTaker take, void *arg)
{
	const MatchColumns *columns;
	Oid types[1] = {INT8ARRAYOID};
	Datum args[1];
	MemoryContext old = CurrentMemoryContext, row_context;
	SPITupleTable *table;
	uint64 nrows;
	StringInfoData sql;

	if (n == 0)
		return;
	columns = crm_match_columns(scan->rel, false);
	row_context = AllocSetContextCreate(old, "crm match row", ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT t.id");
	for (int i = 0; i < columns->ncolumns; i++)
		appendStringInfo(&sql, ", t.%s", quote_identifier(columns->name[i]));
	appendStringInfo(&sql, " FROM %s AS t WHERE t.id OPERATOR(pg_catalog.=) ANY ($1)",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(scan->rel)),
												RelationGetRelationName(scan->rel)));
	args[0] = PointerGetDatum(
		construct_array(ids, (int) n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	if (SPI_execute_with_args(sql.data, 1, types, args, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read records");
	table = SPI_tuptable;
	nrows = SPI_processed;
	MemoryContextSwitchTo(old);
	for (uint64 row = 0; row < nrows; row++)
	{
		MatchValue values[MATCH_NROLES] = {0};
		bool null;
		int64 id = DatumGetInt64(SPI_getbinval(table->vals[row], table->tupdesc, 1, &null));

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(row_context);
		for (int i = 0; i < columns->ncolumns; i++)
		{
			Datum value = SPI_getbinval(table->vals[row], table->tupdesc, i + 2, &null);
			MatchValue text;

			if (!null && crm_match_value(value, columns->type[i], &text))
				values[columns->role[i]] = text;
		}
		MemoryContextSwitchTo(old);
		take(arg, id, values);
		MemoryContextReset(row_context);
	}
	SPI_freetuptable(table);
	MemoryContextDelete(row_context);
}

/* Was a row written since the last scan?  One frozen long ago may have any number. */
static inline bool
crm_scan_is_new(const ScanShared *shared, TransactionId xmin)
{
	return (uint32) (xmin - shared->since) < (uint32) (shared->next_xid - shared->since);
}

/* A record that changed, with the values given. */
static void
crm_change_add(ChangeList *list, int64 id, const MatchValue values[MATCH_NROLES])
{
	const MatchKey *keys;
	int nkeys;
	MatchRecord *record = crm_match_record(values, list->scratch, &keys, &nkeys);

	if (list->n == list->size)
	{
		list->size = Max(list->size * 2, FIRST_RECORDS);
		list->record = list->record == NULL
						   ? palloc(sizeof(ChangedRecord) * list->size)
						   : repalloc_huge(list->record, sizeof(ChangedRecord) * (Size) list->size);
	}
	if (list->nkeys + nkeys > list->key_size)
	{
		list->key_size = Max(list->key_size * 2, FIRST_RECORDS * MATCH_MAX_KEYS / 4);
		list->key =
			list->key == NULL
				? palloc_extended(sizeof(ChangedKey) * (Size) list->key_size, MCXT_ALLOC_HUGE)
				: repalloc_huge(list->key, sizeof(ChangedKey) * (Size) list->key_size);
	}
	list->record[list->n].number = crm_scan_keep(list->scan, id, record);
	list->record[list->n].first_key = list->nkeys;
	list->record[list->n++].nkeys = (uint32) nkeys;
	for (int i = 0; i < nkeys; i++)
	{
		crm_scan_note_key(list->scan, keys[i].hash,
						  (uint32) (list->scan->part - list->scan->shared->part) << KEY_PLACE_BITS |
							  list->nkeys);
		list->key[list->nkeys++].hash = keys[i].hash;
	}
	pfree(record);
}

static void
crm_change_take(void *arg, int64 id, const MatchValue values[MATCH_NROLES])
{
	ChangeList *list = arg;

	pg_atomic_add_fetch_u32(&list->scan->shared->next, 1);
	crm_change_add(list, id, values);
}

/* The job SCAN_CHANGED. */
void
crm_scan_changed(MatchScan *scan)
{
	ScanShared *shared = scan->shared;
	ScanPart *part = scan->part;
	Relation rel = table_open(shared->relid, AccessShareLock);
	const MatchColumns *columns = crm_match_columns(rel, false);
	AttrNumber id_column = crm_scan_id_column(rel);
	ChangeList list = {.scan = scan, .scratch = crm_match_scratch()};
	TableScanDesc heap = scan->heap != NULL ? table_beginscan_parallel(rel, scan->heap)
											: table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	MemoryContext value_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm match row", ALLOCSET_DEFAULT_SIZES);
	IdSet seen;
	uint64 rows = 0, high = 0, bits = 0;

	crm_scan_new_notes(scan);
	crm_ids_init(&seen, 1024);
	while (table_scan_getnextslot(heap, ForwardScanDirection, slot))
	{
		bool null;
		int64 id = DatumGetInt64(slot_getattr(slot, id_column, &null));
		MatchValue values[MATCH_NROLES] = {0};
		MemoryContext old;

		if (++rows % 4096 == 0)
		{
			CHECK_FOR_INTERRUPTS();
			crm_progress_add(shared, 4096);
		}
		if (null)
			continue;
		if (shared->nslices > 0)
		{
			if (crm_scan_slice(shared, id) != shared->slice)
				continue;
		}
		else
		{
			/* Neighbours mostly come together. */
			if ((uint64) id >> 6 != high)
			{
				if (bits != 0)
					crm_ids_add(&seen, high, bits);
				high = (uint64) id >> 6;
				bits = 0;
			}
			bits |= UINT64CONST(1) << (id & 63);
			if (!crm_scan_is_new(shared, crm_slot_xmin(slot)))
				continue;
			/* Too many, or too much of them: a scan of the whole table it will be. */
			if (list.nkeys > MOST_KEYS - MATCH_MAX_KEYS ||
				pg_atomic_read_u64(&shared->used) > shared->limit / 4 * 3)
				pg_atomic_write_u32(&shared->next, shared->pieces);
			if (pg_atomic_add_fetch_u32(&shared->next, 1) > shared->pieces)
				break;
		}
		old = MemoryContextSwitchTo(value_context);
		crm_match_slot_values(columns, slot, values);
		MemoryContextSwitchTo(old);
		crm_change_add(&list, id, values);
		MemoryContextReset(value_context);
	}
	if (bits != 0)
		crm_ids_add(&seen, high, bits);
	crm_progress_add(shared, rows % 4096);
	part->rows = rows;
	if (shared->nslices == 0)
	{
		part->nseen = seen.mask + 1;
		crm_scan_share(scan, seen.place, sizeof(IdPlace) * (Size) part->nseen, &part->seen);
	}
	crm_rows_by_id(scan, scan->again, scan->nagain, crm_change_take, &list);
	part->nchanged = list.n;
	crm_scan_share(scan, list.record, sizeof(ChangedRecord) * (Size) list.n, &part->changed);
	part->nchanged_keys = list.nkeys;
	crm_scan_share(scan, list.key, sizeof(ChangedKey) * (Size) list.nkeys, &part->changed_keys);
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(heap);
	table_close(rel, NoLock);
}
