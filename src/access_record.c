/*
 * access_record.c
 *		crm._record_in_reach(): may the caller read or change the record that a kind and
 *		an id name?
 *
 * Policies of tables whose rows belong to records ask it for each row.  Subqueries in
 * the policies, one for each kind, would say the same; but dozens of subplans make the
 * planner believe in a query so dear that compiling it (JIT) takes seconds, and tie the
 * policies to each table of records, so that dropping one drops them.
 *
 * The answer is what a query of the table gives the caller, under its row-level
 * security.  Call sites keep one plan for each kind they met, as long as the query runs.
 * Which table has the records of a kind is looked up in the catalogs, which takes most
 * of a millisecond, so a session remembers it until something about the table changes.
 *
 * A look-up takes microseconds, reading all ids that the caller may see a fraction of one
 * for each.  So when as much time has gone into look-ups of a kind as reading all would
 * take, all are read, if they have room in what a hash table may take.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_type.h"
#include "executor/nodeHash.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "access_scope.h"
#include "compat.h"
#include "crm.h"
#include "invalidation.h"

#define LOOKUP_COST 16 /* times what reading a row with all others takes */

typedef struct CrmReachKind
{
	slist_node node;
	char *kind;
	SPIPlanPtr plan; /* NULL: no table of the workspace has such records, or none to be read */
	SPIPlanPtr plan_all;
	uint64 lookups;
	uint64 enough; /* look-ups after which all are read */
	CrmIdSet all;  /* good while the epoch stays the same */
	uint64 epoch;  /* 0: not read */
	MemoryContext context;
} CrmReachKind;

/* A call site's state, in fn_extra. */
typedef struct CrmReach
{
	slist_head kinds;
	MemoryContextCallback callback;
} CrmReach;

/* Plans that are kept belong to no context that would free them. */
static void
crm_reach_end(void *arg)
{
	CrmReach *reach = arg;
	slist_iter iter;

	slist_foreach(iter, &reach->kinds)
	{
		CrmReachKind *entry = slist_container(CrmReachKind, node, iter.cur);

		if (entry->plan)
		{
			SPI_freeplan(entry->plan);
			SPI_freeplan(entry->plan_all);
		}
	}
}

/* Where the records of a kind are. */
typedef struct CrmRecordTable
{
	slist_node node;
	bool valid;
	Oid workspace;
	char *kind;
	Oid rel;
	char owner_column[NAMEDATALEN];
	char id_column[NAMEDATALEN];
} CrmRecordTable;

static slist_head tables = SLIST_STATIC_INIT(tables);
static MemoryContext tables_context = NULL;
static uint64 changes_heard = 0;
static int64 tables_read = 0; /* read by a test */

static void
crm_record_table_changed(Datum arg, Oid relid)
{
	slist_iter iter;

	changes_heard++;
	slist_foreach(iter, &tables)
	{
		CrmRecordTable *table = slist_container(CrmRecordTable, node, iter.cur);

		if (relid == InvalidOid || relid == table->rel)
			table->valid = false;
	}
}

static SPIPlanPtr
crm_reach_prepare(const char *query, int nargs, Oid *types)
{
	SPIPlanPtr plan = SPI_prepare(query, nargs, types);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	return plan;
}

/* Reads from the catalogs which table it is; false if there is none.  Connected to SPI. */
static bool
crm_read_record_table(CrmRecordTable *table)
{
	Oid types[2] = {REGNAMESPACEOID, TEXTOID};
	Datum values[2] = {ObjectIdGetDatum(table->workspace), CStringGetTextDatum(table->kind)};
	HeapTuple row;
	TupleDesc desc;
	bool isnull;
	SPIPlanPtr plan;

	tables_read++;
	/* Records in tables of the workspace: everybody who may read the one may read the others. */
	plan = crm_reach_prepare(
		"SELECT t.rel::pg_catalog.oid, t.owner_column, t.id_column FROM crm._record_tables($1) AS t"
		" JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.rel"
		" AND c.relnamespace OPERATOR(pg_catalog.=) $1"
		" WHERE t.kind OPERATOR(pg_catalog.=) $2",
		2, types);
	if (SPI_execute_plan(plan, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up the table of records of kind \"%s\"", table->kind);
	if (SPI_processed == 0)
		return false;
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	table->rel = DatumGetObjectId(SPI_getbinval(row, desc, 1, &isnull));
	strlcpy(table->owner_column, SPI_getvalue(row, desc, 2), NAMEDATALEN);
	strlcpy(table->id_column, SPI_getvalue(row, desc, 3), NAMEDATALEN);
	return true;
}

/*
 * NULL if no table of the workspace has records of the kind, which is not remembered:
 * any text may be a kind.
 */
static CrmRecordTable *
crm_record_table(Oid workspace, char *kind)
{
	CrmRecordTable *table = NULL, read = {.workspace = workspace, .kind = kind};
	uint64 heard;
	slist_iter iter;

	if (tables_context == NULL)
	{
		crm_register_relcache_callback(crm_record_table_changed, (Datum) 0);
		tables_context =
			AllocSetContextCreate(CacheMemoryContext, "crm record tables", ALLOCSET_SMALL_SIZES);
	}
	slist_foreach(iter, &tables)
	{
		table = slist_container(CrmRecordTable, node, iter.cur);
		if (table->workspace == workspace && strcmp(table->kind, kind) == 0)
			break;
		table = NULL;
	}
	if (table != NULL && table->valid)
		return table;
	heard = changes_heard;
	if (!crm_read_record_table(&read))
		return NULL;
	if (table == NULL)
	{
		table = MemoryContextAllocZero(tables_context, sizeof(CrmRecordTable));
		table->workspace = workspace;
		table->kind = MemoryContextStrdup(tables_context, kind);
		slist_push_head(&tables, &table->node);
	}
	table->rel = read.rel;
	strlcpy(table->owner_column, read.owner_column, NAMEDATALEN);
	strlcpy(table->id_column, read.id_column, NAMEDATALEN);
	/* Something that changed meanwhile may have been this. */
	table->valid = heard == changes_heard;
	return table;
}

/* The plans that look for a record of a kind, and for all; connected to SPI. */
static void
crm_reach_plan(CrmReachKind *entry, Oid workspace, const char *level)
{
	Oid types[1] = {INT8OID};
	CrmRecordTable *table = crm_record_table(workspace, entry->kind);
	const char *name, *id, *rule = "true";
	SPIPlanPtr plan, plan_all;
	Relation rel;
	double rows;

	if (table == NULL || (name = get_rel_name(table->rel)) == NULL)
		return;
	if (pg_class_aclcheck(table->rel, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(table->rel, GetUserId(), ACL_SELECT, ACLMASK_ANY) != ACLCHECK_OK)
		return;
	name = quote_qualified_identifier(get_namespace_name(workspace), name);
	id = quote_identifier(table->id_column);
	if (strcmp(level, "edit") == 0)
		rule = psprintf("crm.can_edit(%u::pg_catalog.regnamespace, %s, r.%s, r.%s)", workspace,
						quote_literal_cstr(entry->kind), quote_identifier(table->owner_column), id);
	rel = try_relation_open(table->rel, AccessShareLock);
	if (rel == NULL)
		return;
	rows = Max(rel->rd_rel->reltuples, 100);
	relation_close(rel, NoLock);
	entry->enough = (uint64) (rows / LOOKUP_COST);
	plan = crm_reach_prepare(
		psprintf("SELECT FROM %s AS r WHERE r.%s OPERATOR(pg_catalog.=) $1 AND %s", name, id, rule),
		1, types);
	plan_all = crm_reach_prepare(
		psprintf("SELECT ARRAY(SELECT i.id FROM (SELECT r.%s::pg_catalog.int8 AS id FROM %s AS r"
				 " WHERE %s LIMIT $1) AS i ORDER BY 1)",
				 id, name, rule),
		1, types);
	SPI_keepplan(plan);
	entry->plan = plan;
	SPI_keepplan(plan_all);
	entry->plan_all = plan_all;
}

/* Reads the ids of all records of a kind in reach, unless they are too many; connected to SPI. */
static void
crm_reach_all(CrmReachKind *entry)
{
	uint64 epoch = crm_access_epoch;
	int64 most = (int64) (get_hash_memory_limit() / sizeof(int64));
	Datum limit = Int64GetDatum(most + 1);
	MemoryContext old;
	ArrayType *ids;
	int n;
	bool isnull;

	MemoryContextReset(entry->context);
	/* Rights that keep changing must not have it read each time. */
	entry->lookups = 0;
	if (SPI_execute_plan(entry->plan_all, &limit, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the records of kind \"%s\"", entry->kind);
	old = MemoryContextSwitchTo(entry->context);
	ids = DatumGetArrayTypePCopy(
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	n = ARR_NDIM(ids) == 0 ? 0 : ARR_DIMS(ids)[0];
	if (n > most)
		entry->enough = PG_UINT64_MAX;
	else
	{
		crm_id_set_fill(&entry->all, (int64 *) ARR_DATA_PTR(ids), n);
		/* Rights that changed meanwhile make it worthless. */
		entry->epoch = epoch;
	}
	MemoryContextSwitchTo(old);
	if (n > most)
		MemoryContextReset(entry->context);
}

PG_FUNCTION_INFO_V1(crm_record_tables_read);
Datum
crm_record_tables_read(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(tables_read);
}

/* (workspace, kind, id, level), of which workspace and level are the same for a call site */
PG_FUNCTION_INFO_V1(crm_record_in_reach);
Datum
crm_record_in_reach(PG_FUNCTION_ARGS)
{
	CrmReach *reach = fcinfo->flinfo->fn_extra;
	text *kind = PG_GETARG_TEXT_PP(1);
	CrmReachKind *entry = NULL;
	slist_iter iter;
	bool result = false;

	if (reach == NULL)
	{
		reach = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(CrmReach));
		reach->callback.func = crm_reach_end;
		reach->callback.arg = reach;
		MemoryContextRegisterResetCallback(fcinfo->flinfo->fn_mcxt, &reach->callback);
		fcinfo->flinfo->fn_extra = reach;
	}
	slist_foreach(iter, &reach->kinds)
	{
		entry = slist_container(CrmReachKind, node, iter.cur);
		if (strlen(entry->kind) == VARSIZE_ANY_EXHDR(kind) &&
			memcmp(entry->kind, VARDATA_ANY(kind), VARSIZE_ANY_EXHDR(kind)) == 0)
			break;
		entry = NULL;
	}
	if (entry != NULL && entry->plan == NULL)
		PG_RETURN_BOOL(false);
	if (entry != NULL && entry->epoch == crm_access_epoch)
		PG_RETURN_BOOL(crm_id_set_contains(&entry->all, PG_GETARG_INT64(2)));

	SPI_connect();
	if (entry == NULL)
	{
		MemoryContext context = fcinfo->flinfo->fn_mcxt;

		entry = MemoryContextAllocZero(context, sizeof(CrmReachKind));
		entry->kind = MemoryContextAllocZero(context, VARSIZE_ANY_EXHDR(kind) + 1);
		memcpy(entry->kind, VARDATA_ANY(kind), VARSIZE_ANY_EXHDR(kind));
		entry->context =
			AllocSetContextCreate(context, "crm records in reach", ALLOCSET_SMALL_SIZES);
		slist_push_head(&reach->kinds, &entry->node);
		crm_reach_plan(entry, PG_GETARG_OID(0), text_to_cstring(PG_GETARG_TEXT_PP(3)));
	}
	if (entry->plan != NULL && entry->lookups++ >= entry->enough)
		crm_reach_all(entry);
	if (entry->plan != NULL && entry->epoch == crm_access_epoch)
		result = crm_id_set_contains(&entry->all, PG_GETARG_INT64(2));
	else if (entry->plan != NULL)
	{
		Datum id = PG_GETARG_DATUM(2);

		if (SPI_execute_plan(entry->plan, &id, NULL, true, 1) != SPI_OK_SELECT)
			elog(ERROR, "could not look for a record of kind \"%s\"", entry->kind);
		result = SPI_processed > 0;
	}
	SPI_finish();
	PG_RETURN_BOOL(result);
}
