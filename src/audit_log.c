/*
 * audit_log.c
 *		Writing rows to an audit log, as its owner.
 *
 * A log is an ordinary table that may carry columns, indexes, constraints,
 * triggers and rules of its owner's own, and an INSERT through SPI honours all
 * of them.  It also costs several times what the insertion itself does.  A log
 * on which the executor would do nothing but form the tuple and enter it into
 * plain indexes gets its rows without it: that is every log that nobody has
 * extended, or only by columns with constant defaults and by indexes on columns.
 * No expression of anybody's is evaluated on that way.
 *
 * What was found out about a log holds while no relcache invalidation for it
 * has come in; the caller locks the log, looks whether one has, and writes.
 * Rows written that way go through audit_batch.c.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "audit.h"
#include "compat.h"

static const CrmPlainField audit_fields[AUDIT_NFIELDS] = {
	[AUDIT_CHANGED_AT] = {"changed_at", TIMESTAMPTZOID},
	[AUDIT_CLOCK_AT] = {"clock_at", TIMESTAMPTZOID},
	[AUDIT_TRANSACTION_ID] = {"transaction_id", INT8OID},
	[AUDIT_MEMBER_ID] = {"member_id", INT8OID},
	[AUDIT_LOGIN_ROLE] = {"login_role", TEXTOID},
	[AUDIT_ROLE] = {"role", TEXTOID},
	[AUDIT_APPLICATION] = {"application", TEXTOID},
	[AUDIT_CLIENT] = {"client", TEXTOID},
	[AUDIT_SESSION] = {"session", TEXTOID},
	[AUDIT_STATEMENT] = {"statement", TEXTOID},
	[AUDIT_OPERATION] = {"operation", TEXTOID},
	[AUDIT_KIND] = {"kind", TEXTOID},
	[AUDIT_TABLE_NAME] = {"table_name", TEXTOID},
	[AUDIT_RECORD_ID] = {"record_id", INT8OID},
	[AUDIT_RECORD_KEY] = {"record_key", JSONBOID},
	[AUDIT_OLD] = {"old", JSONBOID},
	[AUDIT_NEW] = {"new", JSONBOID},
};

/* False if an index holds expressions, covers a part of the rows or excludes some. */
static bool
crm_audit_indexes_are_plain(Relation rel)
{
	List *list = RelationGetIndexList(rel);
	ListCell *cell;
	bool plain = true;

	foreach (cell, list)
	{
		Relation index = index_open(lfirst_oid(cell), RowExclusiveLock);
		IndexInfo *info = BuildIndexInfo(index);

		plain &= info->ii_Expressions == NIL && info->ii_Predicate == NIL &&
				 info->ii_ExclusionOps == NULL &&
				 (!index->rd_index->indisunique || index->rd_index->indimmediate);
		index_close(index, RowExclusiveLock);
	}
	list_free(list);
	return plain;
}

static bool
crm_has_checks(Relation rel)
{
	TupleConstr *constr = RelationGetDescr(rel)->constr;

	return constr != NULL && constr->num_check > 0;
}

/* Allocates in the current context, which must live as long as the log's entry. */
void
crm_audit_load_log(AuditLog *log, Oid relid)
{
	Relation rel = table_open(relid, RowExclusiveLock);

	log->relid = relid;
	log->owner = rel->rd_rel->relowner;
	log->direct = crm_is_plain_table(rel, CMD_INSERT) && !crm_has_checks(rel) &&
				  crm_plain_row(&log->row, rel, audit_fields, AUDIT_NFIELDS, log->fields) &&
				  crm_audit_indexes_are_plain(rel);
	table_close(rel, NoLock);
}

/* After this, what is known of the log holds until the row is written, unless marked otherwise. */
void
crm_audit_lock_log(const AuditLog *log)
{
	LockRelationOid(log->relid, RowExclusiveLock);
}

static SPIPlanPtr
crm_audit_prepare(Oid log)
{
	StringInfoData query;
	Oid types[AUDIT_NFIELDS];
	SPIPlanPtr plan;

	initStringInfo(&query);
	appendStringInfo(
		&query, "INSERT INTO %s (",
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(log)), get_rel_name(log)));
	for (int i = 0; i < AUDIT_NFIELDS; i++)
		appendStringInfo(&query, "%s%s", i ? ", " : "", quote_identifier(audit_fields[i].name));
	appendStringInfoString(&query, ") VALUES (");
	for (int i = 0; i < AUDIT_NFIELDS; i++)
	{
		appendStringInfo(&query, "%s$%d", i ? ", " : "", i + 1);
		types[i] = audit_fields[i].type;
	}
	appendStringInfoChar(&query, ')');

	plan = SPI_prepare(query.data, AUDIT_NFIELDS, types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	return plan;
}

static void
crm_audit_execute(AuditLog *log, Datum *values, bool *nulls)
{
	char flags[AUDIT_NFIELDS];
	int rc;

	for (int i = 0; i < AUDIT_NFIELDS; i++)
		flags[i] = nulls[i] ? 'n' : ' ';
	SPI_connect();
	if (log->plan == NULL)
	{
		SPIPlanPtr plan = crm_audit_prepare(log->relid);

		SPI_keepplan(plan);
		log->plan = plan;
	}
	rc = SPI_execute_plan(log->plan, values, flags, false, 0);
	if (rc != SPI_OK_INSERT)
		elog(ERROR, "could not write to the audit log: %s", SPI_result_code_string(rc));
	SPI_finish();
}

/* False if a column that must not be NULL would be: the executor words that error. */
static bool
crm_audit_insert(AuditLog *log, const Datum *values, const bool *nulls)
{
	AuditBatch *batch = crm_audit_batch(log);
	TupleDesc desc = crm_audit_batch_desc(batch);
	Datum *row = palloc(sizeof(Datum) * log->row.natts);
	bool *row_nulls = palloc(sizeof(bool) * log->row.natts);

	PreventCommandIfReadOnly("INSERT");
	memcpy(row, log->row.values, sizeof(Datum) * log->row.natts);
	memcpy(row_nulls, log->row.nulls, sizeof(bool) * log->row.natts);
	for (int i = 0; i < AUDIT_NFIELDS; i++)
	{
		row[log->fields[i]] = values[i];
		row_nulls[log->fields[i]] = nulls[i];
	}
	for (int i = 0; i < log->row.natts; i++)
		if (row_nulls[i] && TupleDescAttr(desc, i)->attnotnull)
			return false;
	if (log->row.identity >= 0)
		row[log->row.identity] = Int64GetDatum(nextval_internal(log->row.sequence, false));
	crm_audit_batch_add(batch, row, row_nulls);
	return true;
}

/* The caller has locked the log and found it unchanged since it was loaded. */
void
crm_audit_write(AuditLog *log, Datum *values, bool *nulls)
{
	Oid save_userid;
	int save_sec_context;

	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	SetUserIdAndSecContext(log->owner, save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
										   SECURITY_RESTRICTED_OPERATION);
	if (!log->direct || !crm_audit_insert(log, values, nulls))
	{
		crm_audit_catch_up();
		crm_audit_execute(log, values, nulls);
	}
	SetUserIdAndSecContext(save_userid, save_sec_context);
}
