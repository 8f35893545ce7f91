/*
 * stage.h
 *		The compiled stage rules of a guarded table.
 *
 * stage_rules.c reads and compiles them, stage.c judges rows by them, stage_history.c
 * writes down the moves.
 */
#ifndef CRM_STAGE_H
#define CRM_STAGE_H

#include "access/attnum.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "nodes/execnodes.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"

typedef enum StageType
{
	STAGE_OPEN,
	STAGE_WON,
	STAGE_LOST
} StageType;

typedef enum StageRuleKind
{
	STAGE_RULE_GUARD,
	STAGE_RULE_ENTRY,
	STAGE_RULE_EXIT
} StageRuleKind;

typedef struct Stage Stage;
typedef struct StagePipeline StagePipeline;

/* An expression that must be true. */
typedef struct StageRule
{
	StageRuleKind kind;
	const char *name; /* NULL for the guard of a transition */
	const char *source;
	const char *message; /* or NULL */
	const char *hint;	 /* or NULL */
	Stage *stage;		 /* whose criterion it is; where the move of a guard begins */
	Stage *to;			 /* of a guard: where the move ends */
	Node *parsed;		 /* NULL until the rule is needed */
	List *named;		 /* PlanInvalItems of the functions it calls */
	bool compiling;		 /* what it depends on is not known for now */

	/* Compiled for one role, because EXECUTE on its functions is checked when compiling. */
	MemoryContext context;
	ExprState *state; /* NULL if not compiled */
	Oid role;
	uint64 era;		 /* of the rules when it was compiled */
	List *functions; /* PlanInvalItems of the compiled expression */
} StageRule;

typedef struct StageField
{
	const char *name;
	AttrNumber attnum; /* InvalidAttrNumber if the column is gone */
	bool is_text;
} StageField;

typedef struct StageMove
{
	Stage *to;
	StageRule *guard; /* or NULL */
	List *rules;	  /* the guard, exit criteria of the one stage, entry criteria of the other */
} StageMove;

struct Stage
{
	const char *name;
	StagePipeline *pipeline;
	StageType type;
	bool is_initial;
	List *required; /* StageField */
	List *entry;	/* StageRule */
	List *exit;		/* StageRule */
	List *moves;	/* StageMove, in order of the target's position */
};

struct StagePipeline
{
	const char *name;
	bool is_default;
	List *stages; /* in order of position */
};

/* All that is known of a guarded table; lives as long as nothing changes. */
typedef struct StageRules
{
	MemoryContext context;
	const char *kind;
	Oid workspace;
	Oid owner; /* of the workspace */

	/* columns of the table; InvalidAttrNumber if it has none for the purpose */
	AttrNumber stage_att;
	AttrNumber pipeline_att;
	AttrNumber id_att;
	AttrNumber closed_at_att;
	Oid id_type;
	bool is_partition;
	bool checks_inserts; /* an AFTER INSERT trigger judges new rows */

	TupleDesc tupdesc;
	TupleTableSlot *null_slot;
	ExprContext *econtext;
	List *pipelines;
	struct StageHistory *history; /* where moves are written; NULL until the first */
	bool evaluating;			  /* still set where an error ended an evaluation */
	uint64 era;					  /* grows when compiled expressions are to be forgotten */
	struct StageRules *retired;	  /* next of those replaced while in use */
} StageRules;

/*
 * A call that is using rules.  It stands on the stack of error contexts, where an
 * error takes it away and where others see that the rules are in use.
 */
typedef struct StageUse
{
	ErrorContextCallback callback;
	StageRules *rules;
	Relation rel;
	StageRule *rule; /* being parsed or evaluated, or NULL */
	bool nested;	 /* the rules are in use further up, too */
} StageUse;

/* One for each guarded table and arguments of its trigger; never freed. */
typedef struct StageEntry StageEntry;

extern StageEntry *crm_stage_entry(Relation rel, Trigger *trigger);

/* The entry's rules, or NULL if anything changed since they were compiled. */
extern StageRules *crm_stage_current_rules(StageEntry *entry);

/* Compiles the entry's rules anew. */
extern StageRules *crm_stage_compile(StageEntry *entry, Relation rel, Trigger *trigger);

/* Every use of rules is between these two, or ended by an error. */
extern void crm_stage_begin(StageUse *use, StageRules *rules, Relation rel);
extern void crm_stage_end(StageUse *use);

/* use->rule, compiled for the current user. */
extern ExprState *crm_stage_rule_state(StageUse *use);

/* What a guard trigger's arguments name. */
extern const char *crm_stage_option(int nargs, char **args, const char *name, const char *fallback);
extern Oid crm_stage_workspace(Oid table_schema, int nargs, char **args);

/* Is the trigger's function crm.stage_guard()? */
extern bool crm_is_stage_guard(Oid function);

extern StagePipeline *crm_stage_find_pipeline(StageRules *rules, const char *name, size_t len);
extern StagePipeline *crm_stage_default_pipeline(StageRules *rules);
extern Stage *crm_stage_find(StagePipeline *pipeline, const char *name, size_t len);

/* What a row moves from and to; from is NULL for a new record. */
typedef struct StageStep
{
	Stage *from;
	Stage *to;
	TupleTableSlot *old_slot;
	TupleTableSlot *new_slot;
} StageStep;

/* Of a row: the text in a column, whether two rows agree in one, and the stage, NULL if unknown. */
extern char *crm_stage_text(TupleTableSlot *slot, AttrNumber att);
extern bool crm_stage_same(TupleTableSlot *a, TupleTableSlot *b, AttrNumber att);
extern Stage *crm_stage_known_stage(StageRules *rules, TupleTableSlot *slot);

/* Is an update the cascade of a renaming, and no move? */
extern bool crm_stage_is_rename(StageRules *rules, TupleTableSlot *old_slot,
								TupleTableSlot *new_slot);

/* The pipeline and stage of a row; an error names those there are. */
extern StagePipeline *crm_stage_row_pipeline(StageRules *rules, Relation rel, TupleTableSlot *slot);
extern Stage *crm_stage_row_stage(StageRules *rules, Relation rel, TupleTableSlot *slot,
								  StagePipeline *pipeline);

/* Lets go of what the writing of history keeps outside the context of the rules. */
extern void crm_stage_free_history(struct StageHistory *history);

/* What the stage triggers begin with: the check of how they are called, and the rules. */
extern TriggerData *crm_stage_trigger(FunctionCallInfo fcinfo, const char *name);
extern StageRules *crm_stage_rules_of_call(FunctionCallInfo fcinfo, TriggerData *trigdata);

#endif /* CRM_STAGE_H */
