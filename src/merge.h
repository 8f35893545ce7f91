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
	int batch;		/* > 0: triggers wait */
	List *tables;	/* of MergeTable */
	List *reports;	/* of MergeReport */
	bool dry;		/* is taken back */
	Jsonb *preview; /* what would be, if dry */
} MergeContext;

typedef struct MergeRole
{
	Oid user;
	int context;
	int nestlevel;
} MergeRole;

/* Columns of a table that name a record of the merged table. */
typedef struct MergeRef
{
	int n;
	int *cols;	  /* in the referring table */
	int *refcols; /* in the merged table */
	int kindcol;  /* -1: a foreign key */
	int64 rows;
	char *condition; /* on "t": refers to a loser */
	char **value;	 /* SQL of the survivor's value, for each column */
} MergeRef;

typedef struct MergeChild
{
	MergeTable *t;
	List *refs;
	bool self;
	List *fixed; /* of the refs: by generated columns */
	MergeParams params;
	char *condition;	/* any of the refs */
	char **replacement; /* for each column of t: SQL of its new value, or NULL */
	int64 conflicts;
	List *referring; /* MergeChild: tables whose foreign keys follow a change of these rows */
} MergeChild;

/* The records of one merge: the survivor is row 0. */
typedef struct MergeSet
{
	MergeTable *t;
	MergeRows rows;
	int n;
	Jsonb **images;
	Jsonb **keys;
	char **ids;
	Jsonb *set;	   /* new values of the survivor */
	Jsonb *fields; /* their provenance */
} MergeSet;

/* merge_row.c */
extern int64 crm_merge_member(MergeContext *mc);
extern MergeContext *crm_merge_begin(Oid workspace);
extern MergeTable *crm_merge_table(MergeContext *mc, Oid relid);
extern int crm_merge_column(MergeTable *t, const char *name);
extern char *crm_merge_kind(MergeContext *mc, MergeTable *t);
extern char *crm_merge_equality(Oid type);
extern char *crm_merge_operator(Oid operator);

extern void crm_merge_become(MergeRole *saved, Oid user, const char *schema);
extern void crm_merge_return(MergeRole *saved);

extern int crm_merge_param(MergeParams *p, Oid type, Datum value, bool isnull);
extern int crm_merge_param_text(MergeParams *p, const char *value);

extern MergeRows crm_merge_run_as(MergeContext *mc, Oid user, const char *schema, const char *sql,
								  MergeParams *p, MergeInput *input, bool fire_triggers);
extern MergeRows crm_merge_run(MergeContext *mc, MergeTable *t, const char *sql, MergeParams *p,
							   MergeInput *input);
extern MergeRows crm_merge_run_log(MergeContext *mc, const char *sql, MergeParams *p,
								   MergeInput *input);
extern MergeRows crm_merge_run_catalog(SPIPlanPtr *plan, const char *sql, MergeParams *p);
extern void crm_merge_batch_begin(MergeContext *mc);
extern void crm_merge_batch_end(MergeContext *mc, MergeTable *t);
extern void crm_merge_free(MergeRows *rows);
extern uint64 crm_merge_run_quietly(MergeContext *mc, MergeTable *t, const char *sql,
									MergeInput *input, bool before, bool actions);

extern Datum crm_merge_value(MergeRows *rows, uint64 row, int column, bool *isnull);
extern char *crm_merge_string(MergeRows *rows, uint64 row, int column);
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

/* merge_log.c */
extern MergeInput *crm_merge_log_input(void);
extern void crm_merge_log_row(MergeInput *input, Jsonb *key, Jsonb *before, Jsonb *after);
extern void crm_merge_log_write(MergeContext *mc, MergeTable *t, const char *operation,
								MergeInput *input);
extern void crm_merge_log_update(MergeContext *mc, MergeTable *t, MergeRows *before,
								 MergeRows *after);
extern Datum crm_merge_single_datum(MergeRows *rows, bool *isnull);
extern Jsonb *crm_merge_single_jsonb(MergeRows *rows);
extern ArrayType *crm_merge_text_array(char **items, int n);
extern Jsonb *crm_merge_jsonb_pair(const char *name, const char *value);
extern void crm_merge_push_jsonb(JsonbParseState **state, const char *key, Jsonb *value);
extern Jsonb *crm_merge_jsonb_object(const char *name, Jsonb *value);
extern Jsonb *crm_merge_jsonb_concat(Jsonb *a, Jsonb *b);
extern Jsonb *crm_merge_jsonb_delete(Jsonb *a, const char *name);
extern void crm_merge_push_string(JsonbParseState **state, const char *key, const char *value);
extern void crm_merge_push_int(JsonbParseState **state, const char *key, int64 value);
extern void crm_merge_report(MergeContext *mc, MergeTable *t, const char *column, int64 rows,
							 int64 conflicts, Jsonb *totals, const char *note);
extern Jsonb *crm_merge_effects(MergeContext *mc);
extern void crm_merge_report_fields(MergeContext *mc, MergeTable *t, Jsonb *fields);

/* merge_ref.c */
extern char *crm_merge_key_condition(MergeTable *t, Jsonb **images, int n, MergeParams *p);
extern List *crm_merge_children(MergeContext *mc, MergeSet *s);
extern int crm_merge_typed_param(MergeTable *t, int col, char *text, MergeParams *p);
extern int crm_merge_array_param(MergeTable *t, int col, char **texts, int n, MergeParams *p);
extern bool crm_merge_prepare_child(MergeContext *mc, MergeSet *s, MergeChild *child);
extern void crm_merge_check_fixed(MergeContext *mc, MergeChild *child);
extern bool crm_merge_is_referring(MergeContext *mc, MergeChild *child);
extern bool crm_merge_needs_batch(MergeContext *mc, MergeChild *child);
extern List *crm_merge_late_children(MergeSet *s, List *children);
extern void crm_merge_follow(MergeContext *mc, MergeTable *t, List *referring, MergeRows *before,
							 MergeRows *after);
extern void crm_merge_check_orphans(MergeContext *mc, MergeTable *t);
extern void crm_merge_resolve_conflicts(MergeContext *mc, MergeChild *child);
extern void crm_merge_move(MergeContext *mc, MergeSet *s, MergeChild *child);
extern void crm_merge_check_unseen(MergeContext *mc, MergeChild *child);

/* merge_pair.c */
extern bool crm_merge_has_integer_ids(MergeTable *t);
extern Datum crm_merge_id_array(char **ids, int n);
extern void crm_merge_pairs(MergeContext *mc, MergeSet *s);
extern void crm_merge_forbid_pairs(MergeContext *mc, MergeTable *t, char **ids, int n);

/* merge.c */
extern Jsonb *crm_merge_set(MergeContext *mc, MergeTable *t, MergeRows rows);
extern Datum crm_merge_records(PG_FUNCTION_ARGS);
extern Datum crm_merge_preview(PG_FUNCTION_ARGS);
extern Datum crm_preview_record(PG_FUNCTION_ARGS);
extern MergeTable *crm_merge_kind_table(MergeContext *mc, const char *kind, const char *action);
extern char *crm_merge_id(MergeTable *t, const char *id);
extern char *crm_merge_lock(MergeTable *t, char **ids, int n);
CRM_NORETURN extern void crm_merge_missing(MergeContext *mc, MergeTable *t, const char *id);

#endif /* CRM_MERGE_H */
