/*
 * audit.h
 *		What the files of the audit trigger share: the columns of an audited
 *		table (audit_row.c) and the log it writes to (audit_log.c).
 */
#ifndef CRM_AUDIT_H
#define CRM_AUDIT_H

#include "access/htup.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/execnodes.h"
#include "utils/relcache.h"

#include "plain_table.h"

/* Columns of the log that the trigger fills, in the order of crm_audit_columns[]. */
typedef enum AuditField
{
	AUDIT_CHANGED_AT,
	AUDIT_CLOCK_AT,
	AUDIT_TRANSACTION_ID,
	AUDIT_MEMBER_ID,
	AUDIT_LOGIN_ROLE,
	AUDIT_ROLE,
	AUDIT_APPLICATION,
	AUDIT_CLIENT,
	AUDIT_SESSION,
	AUDIT_STATEMENT,
	AUDIT_OPERATION,
	AUDIT_KIND,
	AUDIT_TABLE_NAME,
	AUDIT_RECORD_ID,
	AUDIT_RECORD_KEY,
	AUDIT_OLD,
	AUDIT_NEW
} AuditField;

#define AUDIT_NFIELDS (AUDIT_NEW + 1)

typedef struct AuditColumn
{
	AttrNumber attnum;
	char *name;
	int name_len;
	Oid type; /* base type of a domain */
	int16 len;
	bool byval;
	bool stored;   /* not generated */
	bool compared; /* false: kept by crm.touch() or generated */
	bool masked;
	bool key;		   /* of the primary key */
	FmgrInfo to_jsonb; /* for types without a branch of their own */
} AuditColumn;

/* The columns of an audited table, in the order in which jsonb keeps the keys of an object. */
typedef struct AuditRow
{
	int ncolumns;
	AuditColumn *columns;
	int nkey;
	AuditColumn *integer_key; /* the key, if it is one integer column: record_id */
} AuditRow;

/* A row taken apart. */
typedef struct AuditValues
{
	Datum *values;
	bool *nulls;
} AuditValues;

extern void crm_audit_load_row(AuditRow *row, Relation rel, Trigger *trigger);
extern char *crm_audit_option(const char *argument, const char *name);
extern AuditValues crm_audit_deform(HeapTuple tuple, TupleDesc desc);
extern bool crm_audit_compare(const AuditRow *row, AuditValues old, AuditValues new, bool *changed);
extern Datum crm_audit_object(AuditRow *row, AuditValues tuple, const bool *changed, bool whole);
extern void crm_audit_key(AuditRow *row, AuditValues tuple, Datum *values, bool *nulls);

/* How rows get into one log. */
typedef struct AuditLog
{
	Oid relid;
	Oid owner;
	SPIPlanPtr plan;		   /* INSERT, made when first needed */
	bool direct;			   /* the rest is valid, and rows need no executor */
	int fields[AUDIT_NFIELDS]; /* position of each field in a row of the log */
	CrmPlainRow row;		   /* a row of the log before its fields are filled in */
} AuditLog;

/* Rows of a log that are kept to be written together. */
typedef struct AuditBatch AuditBatch;

/* Rows written directly by this backend. */
extern int64 crm_audit_rows_direct;

extern void crm_audit_load_log(AuditLog *log, Oid relid);
extern void crm_audit_lock_log(const AuditLog *log);
extern void crm_audit_write(AuditLog *log, Datum *values, bool *nulls);

/* Where the next row of a log goes, which the caller has locked. */
extern AuditBatch *crm_audit_batch(const AuditLog *log);
extern TupleDesc crm_audit_batch_desc(AuditBatch *batch);
extern void crm_audit_batch_add(AuditBatch *batch, Datum *values, bool *nulls);
/* All rows that are kept are in their logs afterwards. */
extern void crm_audit_catch_up(void);

#endif /* CRM_AUDIT_H */
