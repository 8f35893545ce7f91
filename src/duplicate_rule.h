/*
 * duplicate_rule.h
 *		Duplicate rules: what happens when a row is written that means the same as
 *		another.
 *
 * duplicate_rule.c reads and keeps the rules of a table, duplicate_check.c holds
 * writes to them, duplicate_lock.c keeps two writers of the same apart.
 */
#ifndef CRM_DUPLICATE_RULE_H
#define CRM_DUPLICATE_RULE_H

#include "commands/trigger.h"
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

#define DUPLICATE_ON_INSERT	  0x01
#define DUPLICATE_ON_UPDATE	  0x02
#define DUPLICATE_ON_IMPORT	  0x04 /* rows that COPY brings */
#define DUPLICATE_ON_UNDELETE 0x08 /* rows that unmerge() brings back */

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

#endif /* CRM_DUPLICATE_RULE_H */
