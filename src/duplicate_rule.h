/*
 * duplicate_rule.h
 *		Duplicate rules: what happens when a row is written that means the same as
 *		another.
 *
 * duplicate_rule.c reads and keeps the rules of a table, duplicate_check.c holds
 * writes to them, duplicate_find.c searches, duplicate_batch.c shares that among
 * processes, duplicate_told.c tells people, duplicate_lock.c keeps two writers of
 * the same apart.
 */
#ifndef CRM_DUPLICATE_RULE_H
#define CRM_DUPLICATE_RULE_H

#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"

#include "match.h"

/* In the order in which they are applied. */
typedef enum DuplicateAction
{
	DUPLICATE_BLOCK,
	DUPLICATE_RECORD,
	DUPLICATE_WARN
} DuplicateAction;

#define DUPLICATE_ON_INSERT 0x01
#define DUPLICATE_ON_UPDATE 0x02
#define DUPLICATE_ON_IMPORT 0x04 /* rows that COPY brings */
#define DUPLICATE_ON_UNDELETE \
	0x08 /* rows that come back: by unmerge(), or into the rule's condition */

typedef struct DuplicateRule
{
	char *name;
	DuplicateAction action;
	float4 threshold;
	int events;
	Bitmapset *columns; /* attribute numbers whose change matters; NULL = those that are compared */
	Node *condition;	/* NULL = always */
	bool visible_only;
	bool allow_override;
} DuplicateRule;

#define MAX_DUPLICATE_RULES 64 /* active ones of a table: a bit each */

/* All that is known of a table; lives as long as nothing changes. */
typedef struct DuplicateRules
{
	MemoryContext context;
	Oid workspace;
	Oid owner;		 /* of the workspace, as whom its bookkeeping is written */
	Oid table_owner; /* as whom the table is searched */
	char *kind;
	char *schema; /* of the workspace, quoted */
	MatchColumns *columns;
	AttrNumber id_att;
	Oid id_type;
	char *id_name;
	int nrules;
	DuplicateRule *rule;
	int events; /* of all rules */
	int depth;	/* how many calls are using this now */
	bool stale; /* to be freed by the last of them */
} DuplicateRules;

/* The active rules of a table; NULL if there is none. */
extern DuplicateRules *crm_duplicate_rules(Relation rel, Trigger *trigger);
extern void crm_duplicate_rules_unpin(DuplicateRules *rules);
/* The same for a kind of record and no trigger: with rules or without, owned by the caller. */
extern DuplicateRules *crm_duplicate_table(Relation rel, Oid workspace, const char *kind);

extern AttrNumber crm_duplicate_id_column(Relation rel, Oid *type);
extern void crm_duplicate_rule_context(void *arg);

/* duplicate_find.c: the records that mean the same as given ones */

typedef struct DuplicateFound
{
	int64 id;
	float4 score; /* probability */
	Jsonb *reasons;
	bool visible; /* for the caller of the search to find out */
	bool own;	  /* written by this transaction; the same */
	bool decided; /* told apart; the same */
} DuplicateFound;

typedef struct DuplicateSearch DuplicateSearch;

/* What a search rests on: the same for all who share one. */
typedef struct DuplicateBasis
{
	const MatchStats *stats;
	MatchScorer scorer;
} DuplicateBasis;

extern void crm_duplicate_basis(Relation rel, DuplicateBasis *basis);
/*
 * In the current context, for records that are looked up together; stored: rows of the table.
 * Of the rules only what they say of the table is used.
 */
extern DuplicateSearch *crm_duplicate_search(const DuplicateRules *rules, Relation rel, bool stored,
											 const DuplicateBasis *basis);
/* A record: what is compared, which is read until the search has run, its id (0 = it has none), and
 * the probability from which another counts. */
extern void crm_duplicate_search_add(DuplicateSearch *search, const MatchValue values[MATCH_NROLES],
									 int64 id, float4 threshold);
/* Looks all of them up with the active snapshot, in the whole table, whoever may see it. */
extern void crm_duplicate_search_run(DuplicateSearch *search);
/* What was found of the record added as number (from 0), best first. */
extern DuplicateFound *crm_duplicate_found(const DuplicateSearch *search, int number, int *n);
extern int64 crm_duplicate_id(Datum value, Oid type);

/* duplicate_batch.c: many rows of a statement at a time */

/* A record and what was found of it. */
typedef struct DuplicateAnswer
{
	int64 number; /* of the row in its statement, from 1 */
	int64 id;
	DuplicateFound *found; /* best first */
	int nfound;
} DuplicateAnswer;

typedef struct DuplicateAnswers
{
	DuplicateAnswer *answer;
	int n;
	int allocated;
	int64 last; /* number of the last row that was looked up */
	bool all;	/* ... and no row comes after it */
} DuplicateAnswers;

typedef struct DuplicateBatch DuplicateBatch;

/* How many workers a statement of so many rows asks for. */
extern int crm_duplicate_workers(Relation rel, int64 nrows);
extern DuplicateBatch *crm_duplicate_batch(const DuplicateRules *rules, Relation rel, int workers,
										   int64 nrows);
extern bool crm_duplicate_batch_add(DuplicateBatch *batch, const MatchValue values[MATCH_NROLES],
									int64 number, int64 id, float4 threshold);
extern void crm_duplicate_batch_run(DuplicateBatch *batch, DuplicateAnswers *answers);

/* duplicate_told.c: what people are told of it */

#define ERRCODE_CRM_DUPLICATE		   ERRCODE_CRM('D', '0', '1')
#define ERRCODE_CRM_POSSIBLE_DUPLICATE ERRCODE_CRM('D', '0', '2')

/* A row that was written. */
typedef struct DuplicateRow
{
	int64 number; /* in its statement, from 1 */
	int64 id;
	TupleTableSlot *slot;
} DuplicateRow;

typedef struct DuplicateMasked
{
	char *team;
	char *claim_state; /* NULL = not to be told */
	char *next_step;
} DuplicateMasked;

typedef struct DuplicateTold DuplicateTold;

/* Of a statement of so many rows; in the current context. */
extern DuplicateTold *crm_duplicate_told(const DuplicateRules *rules, Relation rel, int64 nrows);
extern bool crm_duplicate_told_block(DuplicateTold *told, const DuplicateRule *rule,
									 const DuplicateRow *row, const DuplicateFound *matches, int n);
extern void crm_duplicate_told_warn(DuplicateTold *told, const DuplicateRule *rule,
									const DuplicateRow *row, const DuplicateFound *matches, int n);
extern bool crm_duplicate_told_any(const DuplicateTold *told);
extern void crm_duplicate_told_end(DuplicateTold *told);

extern void crm_duplicate_spend(const DuplicateRules *rules);
extern void crm_duplicate_masked(const DuplicateRules *rules, Relation rel, int64 id,
								 DuplicateMasked *masked);
extern void crm_duplicate_log(const DuplicateRules *rules, const char *event, const char *rule,
							  int64 id, const DuplicateFound *found, int n, const char *reason);

/* Acting as somebody else, and a statement that must do as expected. */
typedef struct DuplicateRole
{
	Oid user;
	int context;
} DuplicateRole;

extern void crm_duplicate_become(DuplicateRole *saved, Oid role);
extern void crm_duplicate_return(const DuplicateRole *saved);
extern void crm_duplicate_query(const char *sql, int nargs, Oid *types, Datum *values,
								const char *nulls, bool read_only, int expected);

/* duplicate_lock.c */
typedef struct DuplicateLocks DuplicateLocks;

extern DuplicateLocks *crm_duplicate_locks(Relation rel, Oid function);
/* Adds the keys of a record; true once there are so many that the table is to be locked instead. */
extern bool crm_duplicate_locks_add(DuplicateLocks *locks, const MatchValue values[MATCH_NROLES]);
extern void crm_duplicate_locks_take(DuplicateLocks *locks);

/* A merge is not held to rules; what unmerge() brings back is, to those on undelete. */
typedef enum DuplicateWriter
{
	DUPLICATE_BY_CLIENT,
	DUPLICATE_BY_MERGE,
	DUPLICATE_BY_UNMERGE
} DuplicateWriter;

extern DuplicateWriter crm_duplicate_writer;
/* Who is told, where rows are written as the owner of their table; invalid: the current user. */
extern Oid crm_duplicate_person;

#endif /* CRM_DUPLICATE_RULE_H */
