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
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat.h"
#include "crm.h"
#include "invalidation.h"

typedef struct CrmReachKind
{
	slist_node node;
	char *kind;
	SPIPlanPtr plan; /* NULL: no table of the workspace has such records, or none to be read */
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
			SPI_freeplan(entry->plan);
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

/* The plan that looks for a record of a kind; connected to SPI. */
static SPIPlanPtr
crm_reach_plan(Oid workspace, char *kind, const char *level)
{
	Oid types[1] = {INT8OID};
	CrmRecordTable *table = crm_record_table(workspace, kind);
	const char *name, *id;
	StringInfoData query;
	SPIPlanPtr plan;

	if (table == NULL || (name = get_rel_name(table->rel)) == NULL)
		return NULL;
	if (pg_class_aclcheck(table->rel, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(table->rel, GetUserId(), ACL_SELECT, ACLMASK_ANY) != ACLCHECK_OK)
		return NULL;
	id = quote_identifier(table->id_column);
	initStringInfo(&query);
	appendStringInfo(&query, "SELECT FROM %s AS r WHERE r.%s OPERATOR(pg_catalog.=) $1",
					 quote_qualified_identifier(get_namespace_name(workspace), name), id);
	if (strcmp(level, "edit") == 0)
		appendStringInfo(&query, " AND crm.can_edit(%u::pg_catalog.regnamespace, %s, r.%s, r.%s)",
						 workspace, quote_literal_cstr(kind), quote_identifier(table->owner_column),
						 id);
	plan = crm_reach_prepare(query.data, 1, types);
	SPI_keepplan(plan);
	return plan;
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
	Datum id = PG_GETARG_DATUM(2);
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

	SPI_connect();
	if (entry == NULL)
	{
		char *name = text_to_cstring(kind);
		SPIPlanPtr plan =
			crm_reach_plan(PG_GETARG_OID(0), name, text_to_cstring(PG_GETARG_TEXT_PP(3)));

		entry = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(CrmReachKind));
		entry->kind = MemoryContextStrdup(fcinfo->flinfo->fn_mcxt, name);
		entry->plan = plan;
		slist_push_head(&reach->kinds, &entry->node);
	}
	if (entry->plan != NULL)
	{
		if (SPI_execute_plan(entry->plan, &id, NULL, true, 1) != SPI_OK_SELECT)
			elog(ERROR, "could not look for a record of kind \"%s\"", entry->kind);
		result = SPI_processed > 0;
	}
	SPI_finish();
	PG_RETURN_BOOL(result);
}
