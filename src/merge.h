/*
 * merge.h
 *		What merging and unmerging share: tables as the merge sees them, rows and
 *		their text images, statements run as the owner of their table, and the
 *		log of changes.
 */
#ifndef CRM_MERGE_H
#define CRM_MERGE_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "executor/spi.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

/* Rows handled by one statement, which bounds the memory of a merge. */
#define MERGE_BATCH 10000

/* Columns that precede a table's own in every result: ordinal, ctid, tableoid. */
#define MERGE_LEAD 3

/* A table that a merge reads or writes.  Columns are numbered as in "t.*", from 0. */
typedef struct MergeTable
{
	Oid relid;
	Oid owner;
	Oid schema_oid;
	char *schema;
	char *name;
	char *qualified; /* quoted, for SQL */
	char *from;		 /* the same with ONLY, unless partitioned */
	int ncols;
	char **colname;
	Oid *coltype;
	int32 *coltypmod;
	bool *generated; /* not written, so not remembered */
	FmgrInfo *out;
	FmgrInfo *in;
	Oid *inparam;
	int nkey; /* primary key; 0 if there is none */
	int *key;
} MergeTable;

typedef struct MergeRows
{
	SPITupleTable *table;
	TupleDesc desc;
	uint64 count;
} MergeRows;

typedef struct MergeParams
{
	int count;
	int size;
	Oid *types;
	Datum *values;
	char *nulls;
} MergeParams;

/* Rows to join a statement with, under the name crm_rows. */
typedef struct MergeInput
{
	TupleDesc desc;
	struct Tuplestorestate *store;
	int count;
} MergeInput;

typedef struct MergeReport
{
	char *table_name;
	char *column_name;
	int64 rows;
	int64 conflicts;
	Jsonb *totals;
	char *note;
} MergeReport;

typedef struct MergeContext
{
	MemoryContext cxt; /* lives as long as the call */
	Oid workspace;
	char *workspace_name;
	Oid workspace_owner;
	int64 merge_id;
	int position; /* last one given to a group of changes */
	int depth;
	List *tables;  /* of MergeTable */
	List *reports; /* of MergeReport */
} MergeContext;

typedef struct MergeRole
{
	Oid user;
	int context;
	int nestlevel;
} MergeRole;

/* merge_row.c */
extern int64 crm_merge_member(MergeContext *mc);
extern MergeContext *crm_merge_begin(Oid workspace);
extern MergeTable *crm_merge_table(MergeContext *mc, Oid relid);
extern int crm_merge_column(MergeTable *t, const char *name);
extern char *crm_merge_kind(MergeContext *mc, MergeTable *t);
extern char *crm_merge_equality(Oid type);

extern void crm_merge_become(MergeRole *saved, Oid user, const char *schema);
extern void crm_merge_return(MergeRole *saved);

extern int crm_merge_param(MergeParams *p, Oid type, Datum value, bool isnull);
extern int crm_merge_param_text(MergeParams *p, const char *value);

extern MergeRows crm_merge_run(MergeContext *mc, MergeTable *t, const char *sql, MergeParams *p,
							   MergeInput *input);
extern MergeRows crm_merge_run_log(MergeContext *mc, const char *sql, MergeParams *p,
								   MergeInput *input);
extern void crm_merge_free(MergeRows *rows);
extern uint64 crm_merge_run_quietly(MergeContext *mc, MergeTable *t, const char *sql,
									MergeInput *input);

extern Datum crm_merge_value(MergeRows *rows, uint64 row, int column, bool *isnull);
extern char *crm_merge_text(MergeTable *t, MergeRows *rows, uint64 row, int column);
extern bool crm_merge_same(MergeTable *t, MergeRows *a, uint64 arow, MergeRows *b, uint64 brow,
						   int column);
extern Jsonb *crm_merge_image(MergeTable *t, MergeRows *rows, uint64 row, Bitmapset *columns);
extern Jsonb *crm_merge_key(MergeTable *t, MergeRows *rows, uint64 row);

extern MergeInput *crm_merge_input_tids(void);
extern void crm_merge_input_tid(MergeInput *input, MergeRows *rows, uint64 row);
extern MergeInput *crm_merge_input_values(MergeTable *t, Bitmapset *columns);
extern void crm_merge_input_value(MergeInput *input, MergeTable *t, Bitmapset *columns, int ordinal,
								  MergeRows *rows, uint64 row, Jsonb *image);
extern void crm_merge_input_end(MergeInput *input);

extern bool crm_merge_get(Jsonb *image, const char *name, char **value);

/* merge.c */
extern MergeTable *crm_merge_kind_table(MergeContext *mc, const char *kind);
extern char *crm_merge_id(MergeTable *t, const char *id);
extern char *crm_merge_lock(MergeTable *t, char **ids, int n);
extern void crm_merge_missing(MergeContext *mc, MergeTable *t, const char *id)
	pg_attribute_noreturn();

#endif /* CRM_MERGE_H */
