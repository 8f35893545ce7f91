/*
 * duplicate_check.c
 *		Holds writes to the duplicate rules of their table.
 *
 * crm.check_duplicates() fires once a statement, after it, and reads its rows
 * from the transition tables.  So the rows of one COPY or INSERT see each
 * other, ON CONFLICT DO NOTHING is not refused for a row that it only proposes,
 * every other trigger has had its say, and the statement's locks can be taken in
 * one order (duplicate_lock.c).
 *
 * The search reads the whole table, as its owner, with a snapshot taken after
 * the locks, whatever the isolation level.  What the person is told of the
 * result depends on what they can see: the ids found are looked up again as
 * the person, under row security.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "parser/parse_func.h"
#include "tcop/cmdtag.h"
#include "tcop/pquery.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "access.h"
#include "clock.h"
#include "compat.h"
#include "crm.h"
#include "duplicate_rule.h"
#include "match_index.h"
#include "undelete.h"
#include "workspace.h"

#define MAX_REASON	  1000
#define CHUNK_PAIRS	  4096 /* pairs that are recorded together */
#define ROW_PAIRS	  5	   /* that a rule records of a row: the best */
#define DEFAULT_CHECK 0.9  /* probability that crm.check_duplicate() reports from without rules */

DuplicateWriter crm_duplicate_writer = DUPLICATE_BY_CLIENT;
Oid crm_duplicate_person = InvalidOid;

static char *crm_duplicate_override = NULL;
static bool crm_duplicate_import = false;

void
crm_duplicate_rule_init(void)
{
	DefineCustomStringVariable(
		"crm.duplicate_override", "Why a row may be stored though a duplicate rule blocks it.",
		"Holds where the rule allows overrides; the reason is logged in duplicate_log.",
		&crm_duplicate_override, "", PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("crm.import", "Rows that are inserted are an import.",
							 "Duplicate rules on import hold for them, as for rows that COPY "
							 "brings, and not those on insert.",
							 &crm_duplicate_import, false, PGC_USERSET, 0, NULL, NULL, NULL);
}

/* Pairs that are to be recorded. */
typedef struct CheckPairs
{
	Datum *left;
	Datum *right;
	Datum *score;
	Datum *reasons;
	int n;
} CheckPairs;

/* The trigger's work on one statement. */
typedef struct CheckState
{
	TriggerData *trigdata;
	DuplicateRules *rules;
	int event;
	TupleTableSlot *old_slot; /* all NULL on INSERT */
	TupleTableSlot *new_slot;
	int old_pointer;
	int new_pointer;
	int marked_pointer;			/* after the rows of which what was found has been dealt with */
	int64 at;					/* rows before the new pointer */
	int64 marked;				/* rows before the marked pointer */
	MemoryContext slot_context; /* a row of a spilled transition table lives as long as its slot */
	ExprContext *econtext;
	ExprState *condition[MAX_DUPLICATE_RULES];
	uint64 *applies; /* a row's rules, a bit each */
	struct StatementRow *row;
	bool sorted; /* row[], by id */
	int64 nrows;
	int64 left; /* rows that rules apply to and that have not been looked up */
	int64 allocated;
} CheckState;

/* ---------------------------------------------------------------------
 * What was found
 * ---------------------------------------------------------------------
 */

static Datum
crm_check_array(Datum *ids, int n)
{
	return PointerGetDatum(construct_array(ids, n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* Marks what somebody has told apart. */
static void
crm_check_decided(const DuplicateRules *rules, Datum *own, Datum *other, DuplicateFound **found,
				  int n)
{
	Oid types[3] = {TEXTOID, INT8ARRAYOID, INT8ARRAYOID};
	Datum values[3] = {CStringGetTextDatum(rules->kind), crm_check_array(own, n),
					   crm_check_array(other, n)};
	DuplicateRole saved;

	SPI_connect();
	crm_duplicate_become(&saved, rules->owner);
	crm_duplicate_query(
		psprintf("SELECT o.n FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) "
				 "WITH ORDINALITY AS o (a, b, n) JOIN %s.duplicate_pair AS p "
				 "ON p.kind OPERATOR(pg_catalog.=) $1 AND p.state OPERATOR(pg_catalog.=) "
				 "'not_duplicate' AND p.left_id OPERATOR(pg_catalog.=) LEAST(o.a, o.b) "
				 "AND p.right_id OPERATOR(pg_catalog.=) GREATEST(o.a, o.b)",
				 rules->schema),
		3, types, values, NULL, true, SPI_OK_SELECT);
	crm_duplicate_return(&saved);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;

		found[DatumGetInt64(
				  SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull)) -
			  1]
			->decided = true;
	}
	SPI_finish();
}

/* Finds out, as the person, which of the records they can see. */
static void
crm_check_visible(const DuplicateRules *rules, Relation rel, Datum *ids, DuplicateFound **found,
				  int n)
{
	Oid types[1] = {INT8ARRAYOID};
	Datum values[1] = {crm_check_array(ids, n)};
	Oid relid = RelationGetRelid(rel);
	char *id = unconstify(char *, quote_identifier(rules->id_name));
	Oid person = OidIsValid(crm_duplicate_person) ? crm_duplicate_person : GetUserId();
	DuplicateRole saved;

	if (pg_class_aclcheck(relid, person, ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck(relid, rules->id_att, person, ACL_SELECT) != ACLCHECK_OK)
		return;
	SPI_connect();
	GetUserIdAndSecContext(&saved.user, &saved.context);
	SetUserIdAndSecContext(person, saved.context | SECURITY_LOCAL_USERID_CHANGE);
	crm_duplicate_query(
		psprintf("SELECT o.n, t.xmin FROM pg_catalog.unnest($1) WITH ORDINALITY AS o (id, n) "
				 "JOIN ONLY %s AS t ON t.%s OPERATOR(pg_catalog.=) o.id",
				 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
											RelationGetRelationName(rel)),
				 id),
		1, types, values, NULL, true, SPI_OK_SELECT);
	crm_duplicate_return(&saved);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		DuplicateFound *f = found[DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull)) - 1];

		f->visible = true;
		f->own = TransactionIdIsCurrentTransactionId(
			DatumGetTransactionId(SPI_getbinval(row, desc, 2, &isnull)));
	}
	SPI_finish();
}

/* What was found of some records: decisions about it, and who can see it. */
static void
crm_check_resolve(const DuplicateRules *rules, Relation rel, const DuplicateAnswer *answer,
				  int nanswers)
{
	int total = 0, at = 0;
	Datum *own, *other;
	DuplicateFound **found;

	for (int i = 0; i < nanswers; i++)
		total += answer[i].nfound;
	if (total == 0)
		return;
	own = palloc(sizeof(Datum) * total);
	other = palloc(sizeof(Datum) * total);
	found = palloc(sizeof(DuplicateFound *) * total);
	for (int i = 0; i < nanswers; i++)
		for (int k = 0; k < answer[i].nfound; k++)
		{
			own[at] = Int64GetDatum(answer[i].id);
			other[at] = Int64GetDatum(answer[i].found[k].id);
			found[at++] = &answer[i].found[k];
		}
	crm_check_decided(rules, own, other, found, total);
	crm_check_visible(rules, rel, other, found, total);
}

/* ---------------------------------------------------------------------
 * What a rule does
 * ---------------------------------------------------------------------
 */

typedef struct StatementRow
{
	int64 id;
	int64 number;
} StatementRow;

static int
crm_cmp_statement_row(const void *a, const void *b)
{
	int64 x = ((const StatementRow *) a)->id;
	int64 y = ((const StatementRow *) b)->id;

	return x < y ? -1 : x > y;
}

/* The number of the statement's row with an id; 0 if it wrote none. */
static int64
crm_check_number(CheckState *state, int64 id)
{
	StatementRow wanted = {id, 0};
	StatementRow *row;

	if (state->nrows < 2)
		return 0;
	if (!state->sorted)
	{
		qsort(state->row, state->nrows, sizeof(StatementRow), crm_cmp_statement_row);
		state->sorted = true;
	}
	row = bsearch(&wanted, state->row, state->nrows, sizeof(StatementRow), crm_cmp_statement_row);
	return row == NULL ? 0 : row->number;
}

/*
 * Matches that a rule speaks of: certain enough, not told apart and, where it says
 * so, visible.  Of twins in one statement, the later is to blame.
 */
static DuplicateFound *
crm_check_matches(CheckState *state, int which, const DuplicateRow *row,
				  const DuplicateFound *found, int n, int *nmatches)
{
	const DuplicateRule *rule = &state->rules->rule[which];
	DuplicateFound *matches = palloc(sizeof(DuplicateFound) * Max(n, 1));

	*nmatches = 0;
	for (int i = 0; i < n; i++)
	{
		int64 number;

		if (found[i].score < rule->threshold || found[i].decided ||
			(!found[i].visible && rule->visible_only))
			continue;
		number = crm_check_number(state, found[i].id);
		if (number > row->number && (state->applies[number - 1] & (UINT64CONST(1) << which)) != 0)
			continue;
		matches[(*nmatches)++] = found[i];
	}
	return matches;
}

/* Two rules may record the same pair. */
static void
crm_check_pairs_write(const DuplicateRules *rules, CheckPairs *pairs)
{
	Oid types[5] = {TEXTOID, INT8ARRAYOID, INT8ARRAYOID, FLOAT4ARRAYOID, JSONBARRAYOID};
	Datum values[5];
	DuplicateRole saved;

	if (pairs->n == 0)
		return;
	values[0] = CStringGetTextDatum(rules->kind);
	values[1] = crm_check_array(pairs->left, pairs->n);
	values[2] = crm_check_array(pairs->right, pairs->n);
	values[3] = PointerGetDatum(
		construct_array(pairs->score, pairs->n, FLOAT4OID, sizeof(float4), true, TYPALIGN_INT));
	values[4] = PointerGetDatum(
		construct_array(pairs->reasons, pairs->n, JSONBOID, -1, false, TYPALIGN_INT));
	pairs->n = 0;
	SPI_connect();
	crm_duplicate_become(&saved, rules->owner);
	crm_duplicate_query(
		psprintf("INSERT INTO %s.duplicate_pair AS p (kind, left_id, right_id, score, reasons) "
				 "SELECT DISTINCT ON (u.a, u.b) $1, u.a, u.b, u.score, u.reasons "
				 "FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), "
				 "pg_catalog.unnest($4), pg_catalog.unnest($5)) AS u (a, b, score, reasons) "
				 "ON CONFLICT (kind, left_id, right_id) DO UPDATE "
				 "SET score = excluded.score, reasons = excluded.reasons "
				 "WHERE p.state OPERATOR(pg_catalog.=) 'open'",
				 rules->schema),
		5, types, values, NULL, false, SPI_OK_INSERT);
	crm_duplicate_return(&saved);
	SPI_finish();
}

static void
crm_check_record_pairs(const DuplicateRules *rules, CheckPairs *pairs, int64 id,
					   const DuplicateFound *matches, int n)
{
	if (pairs->left == NULL)
	{
		pairs->left = palloc(sizeof(Datum) * CHUNK_PAIRS);
		pairs->right = palloc(sizeof(Datum) * CHUNK_PAIRS);
		pairs->score = palloc(sizeof(Datum) * CHUNK_PAIRS);
		pairs->reasons = palloc(sizeof(Datum) * CHUNK_PAIRS);
	}
	for (int i = 0; i < Min(n, ROW_PAIRS); i++)
	{
		if (pairs->n == CHUNK_PAIRS)
			crm_check_pairs_write(rules, pairs);
		pairs->left[pairs->n] = Int64GetDatum(Min(id, matches[i].id));
		pairs->right[pairs->n] = Int64GetDatum(Max(id, matches[i].id));
		pairs->score[pairs->n] = Float4GetDatum(matches[i].score);
		pairs->reasons[pairs->n++] = JsonbPGetDatum(matches[i].reasons);
	}
}

/* The reason given for storing duplicates, NULL if there is none. */
static char *
crm_check_override(void)
{
	char *reason = crm_duplicate_override;
	int len;

	while (reason != NULL && *reason == ' ')
		reason++;
	if (reason == NULL || *reason == '\0')
		return NULL;
	len = (int) strlen(reason);
	return pnstrdup(reason, pg_mbcliplen(reason, len, MAX_REASON));
}

/* ---------------------------------------------------------------------
 * The trigger
 * ---------------------------------------------------------------------
 */

static bool
crm_check_read(CheckState *state, Tuplestorestate *table, int pointer, TupleTableSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(state->slot_context);
	bool more;

	tuplestore_select_read_pointer(table, pointer);
	more = tuplestore_gettupleslot(table, true, false, slot);
	MemoryContextSwitchTo(old);
	return more;
}

/* The next row of the statement. */
static bool
crm_check_next(CheckState *state)
{
	CHECK_FOR_INTERRUPTS();
	if (!crm_check_read(state, state->trigdata->tg_newtable, state->new_pointer, state->new_slot))
		return false;
	state->at++;
	return true;
}

/* The same with the row as it was. */
static bool
crm_check_next_pair(CheckState *state)
{
	return (state->trigdata->tg_oldtable == NULL ||
			crm_check_read(state, state->trigdata->tg_oldtable, state->old_pointer,
						   state->old_slot)) &&
		   crm_check_next(state);
}

static void
crm_check_rewind(CheckState *state)
{
	if (state->trigdata->tg_oldtable != NULL)
	{
		tuplestore_select_read_pointer(state->trigdata->tg_oldtable, state->old_pointer);
		tuplestore_rescan(state->trigdata->tg_oldtable);
	}
	tuplestore_select_read_pointer(state->trigdata->tg_newtable, state->new_pointer);
	tuplestore_rescan(state->trigdata->tg_newtable);
	state->at = 0;
}

/* Rows may be read again from here on. */
static void
crm_check_mark(CheckState *state)
{
	tuplestore_copy_read_pointer(state->trigdata->tg_newtable, state->new_pointer,
								 state->marked_pointer);
	state->marked = state->at;
}

/* So many rows of the statement come before the next one read; not fewer than were marked. */
static void
crm_check_seek(CheckState *state, int64 number)
{
	Tuplestorestate *table = state->trigdata->tg_newtable;

	if (number < state->at)
	{
		tuplestore_copy_read_pointer(table, state->marked_pointer, state->new_pointer);
		state->at = state->marked;
	}
	if (number == state->at)
		return;
	tuplestore_select_read_pointer(table, state->new_pointer);
	if (!tuplestore_skiptuples(table, number - state->at, true))
		elog(ERROR, "transition table is shorter than it was");
	state->at = number;
}

static bool
crm_check_column_changed(CheckState *state, AttrNumber att)
{
	Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(state->trigdata->tg_relation), att - 1);
	bool old_null, new_null;
	Datum old_value = slot_getattr(state->old_slot, att, &old_null);
	Datum new_value = slot_getattr(state->new_slot, att, &new_null);

	if (old_null || new_null)
		return old_null != new_null;
	return !datum_image_eq(old_value, new_value, attr->attbyval, attr->attlen);
}

/* Did the update change what the rule watches? */
static bool
crm_check_changed(CheckState *state, const DuplicateRule *rule)
{
	int att = -1;

	if (rule->columns == NULL)
	{
		for (int i = 0; i < state->rules->columns->ncolumns; i++)
			if (crm_check_column_changed(state, state->rules->columns->attnum[i]))
				return true;
		return false;
	}
	while ((att = bms_next_member(rule->columns, att)) >= 0)
		if (crm_check_column_changed(state, (AttrNumber) att))
			return true;
	return false;
}

/* Is a rule's condition true of two rows? */
static bool
crm_check_condition(CheckState *state, int which, TupleTableSlot *old_slot,
					TupleTableSlot *new_slot)
{
	const DuplicateRule *rule = &state->rules->rule[which];
	ErrorContextCallback callback = {error_context_stack, crm_duplicate_rule_context, rule->name};
	bool isnull;
	Datum value;

	if (rule->condition == NULL)
		return true;
	if (state->condition[which] == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(state->econtext->ecxt_per_query_memory);

		state->condition[which] =
			ExecInitExpr(expression_planner((Expr *) copyObject(rule->condition)), NULL);
		MemoryContextSwitchTo(old);
	}
	error_context_stack = &callback;
	state->econtext->ecxt_innertuple = old_slot;
	state->econtext->ecxt_outertuple = new_slot;
	value = ExecEvalExprSwitchContext(state->condition[which], state->econtext, &isnull);
	error_context_stack = callback.previous;
	ResetExprContext(state->econtext);
	return !isnull && DatumGetBool(value);
}

/*
 * Does an update bring the row back, as a rule on undelete sees it: is the rule's condition
 * true of it now and was not of the row as it stood?
 */
static bool
crm_check_comes_back(CheckState *state, int which)
{
	const DuplicateRule *rule = &state->rules->rule[which];

	return state->event == DUPLICATE_ON_UPDATE && (rule->events & DUPLICATE_ON_UNDELETE) != 0 &&
		   rule->condition != NULL &&
		   !crm_check_condition(state, which, state->old_slot, state->old_slot);
}

/* The rules that apply to the row in the slots, a bit each. */
static uint64
crm_check_applies(CheckState *state)
{
	uint64 result = 0;

	for (int i = 0; i < state->rules->nrules; i++)
	{
		const DuplicateRule *rule = &state->rules->rule[i];
		bool watched = (rule->events & state->event) != 0 &&
					   (state->trigdata->tg_oldtable == NULL || crm_check_changed(state, rule));

		if ((watched || crm_check_comes_back(state, i)) &&
			crm_check_condition(state, i, state->old_slot, state->new_slot))
			result |= UINT64CONST(1) << i;
	}
	return result;
}

/*
 * First pass: which rules apply to which row, and, if one of them blocks, the
 * locks.  False if there is nothing to do.
 */
static bool
crm_check_prepare(CheckState *state)
{
	DuplicateLocks *locks =
		crm_duplicate_locks(state->trigdata->tg_relation, state->trigdata->tg_trigger->tgfoid);
	uint64 all = 0, blocking = 0;
	bool locked = false; /* the whole table */
	MemoryContext row_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm duplicate row", ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < state->rules->nrules; i++)
		if (state->rules->rule[i].action == DUPLICATE_BLOCK)
			blocking |= UINT64CONST(1) << i;
	state->allocated = 16;
	state->applies = palloc(sizeof(uint64) * state->allocated);
	state->row = palloc(sizeof(StatementRow) * state->allocated);
	while (crm_check_next_pair(state))
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);
		uint64 applies = crm_check_applies(state);
		bool isnull;

		if ((applies & blocking) != 0 && !locked)
		{
			MatchValue values[MATCH_NROLES] = {0};

			crm_match_slot_values(state->rules->columns, state->new_slot, values);
			locked = crm_duplicate_locks_add(locks, values);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
		if (state->nrows == state->allocated)
		{
			state->allocated *= 2;
			state->applies = repalloc_huge(state->applies, sizeof(uint64) * state->allocated);
			state->row = repalloc_huge(state->row, sizeof(StatementRow) * state->allocated);
		}
		state->row[state->nrows].id = crm_duplicate_id(
			slot_getattr(state->new_slot, state->rules->id_att, &isnull), state->rules->id_type);
		state->row[state->nrows].number = state->nrows + 1;
		state->applies[state->nrows++] = applies;
		state->left += applies != 0;
		all |= applies;
	}
	MemoryContextDelete(row_context);
	if ((all & blocking) != 0)
	{
		/* What need not be done under the locks is done before, unless workers help meanwhile. */
		if (crm_duplicate_workers(state->trigdata->tg_relation, state->nrows) == 0)
			crm_match_index_catch_up(state->rules->columns->indexid);
		crm_duplicate_locks_take(locks);
	}
	return all != 0;
}

/* Applies the rules to a row; false if enough rows were refused. */
static bool
crm_check_row(CheckState *state, DuplicateTold *told, CheckPairs *pairs, const DuplicateRow *row,
			  const DuplicateFound *found, int n)
{
	const DuplicateRules *rules = state->rules;
	char *override = crm_check_override();

	for (int i = 0; i < rules->nrules; i++)
	{
		const DuplicateRule *rule = &rules->rule[i];
		DuplicateFound *matches;
		int nmatches;

		if ((state->applies[row->number - 1] & (UINT64CONST(1) << i)) == 0)
			continue;
		matches = crm_check_matches(state, i, row, found, n, &nmatches);
		if (nmatches == 0)
			continue;
		if (rule->action == DUPLICATE_BLOCK && (override == NULL || !rule->allow_override))
			return crm_duplicate_told_block(told, rule, row, matches, nmatches);
		if (crm_duplicate_told_any(told))
			continue; /* nothing of the statement stays */
		switch (rule->action)
		{
			case DUPLICATE_BLOCK:
				crm_duplicate_log(rules, "override", rule->name, row->id, matches, nmatches,
								  override);
				break;
			case DUPLICATE_WARN:
				crm_duplicate_told_warn(told, rule, row, matches, nmatches);
				crm_check_record_pairs(rules, pairs, row->id, matches, nmatches);
				break;
			case DUPLICATE_RECORD:
				crm_check_record_pairs(rules, pairs, row->id, matches, nmatches);
				break;
		}
	}
	return true;
}

/* The least threshold of the rules in a set. */
static float4
crm_check_threshold(const DuplicateRules *rules, uint64 applies)
{
	float4 threshold = 1;

	for (int i = 0; i < rules->nrules; i++)
		if ((applies & (UINT64CONST(1) << i)) != 0)
			threshold = Min(threshold, rules->rule[i].threshold);
	return threshold;
}

/* Looks up the next rows of the statement; false if enough were refused. */
static bool
crm_check_batch(CheckState *state, DuplicateTold *told)
{
	const DuplicateRules *rules = state->rules;
	Relation rel = state->trigdata->tg_relation;
	DuplicateBatch *batch = crm_duplicate_batch(
		rules, rel, crm_duplicate_workers(rel, state->nrows - state->at), state->left);
	MemoryContext row_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm duplicate row", ALLOCSET_DEFAULT_SIZES);
	DuplicateAnswers answers;
	CheckPairs pairs = {0};
	int64 start = state->at, end;
	bool room = true, more = true;

	crm_check_mark(state);
	while (room && state->at < state->nrows && crm_check_next(state))
	{
		uint64 applies = state->applies[state->at - 1];
		MatchValue values[MATCH_NROLES] = {0};
		MemoryContext old;
		int64 id;
		bool isnull;

		if (applies == 0)
			continue;
		id =
			crm_duplicate_id(slot_getattr(state->new_slot, rules->id_att, &isnull), rules->id_type);
		old = MemoryContextSwitchTo(row_context);
		crm_match_slot_values(rules->columns, state->new_slot, values);
		MemoryContextSwitchTo(old);
		room = crm_duplicate_batch_add(batch, values, state->at, id,
									   crm_check_threshold(rules, applies));
		MemoryContextReset(row_context);
	}
	crm_duplicate_batch_run(batch, &answers);
	end = answers.all ? state->at : answers.last;
	for (int64 i = start; i < end; i++)
		state->left -= state->applies[i] != 0;
	crm_check_resolve(rules, rel, answers.answer, answers.n);
	for (int i = 0; i < answers.n && more; i++)
	{
		const DuplicateAnswer *answer = &answers.answer[i];
		DuplicateRow row = {answer->number, answer->id, state->new_slot};

		crm_check_seek(state, answer->number - 1);
		(void) crm_check_next(state);
		more = crm_check_row(state, told, &pairs, &row, answer->found, answer->nfound);
	}
	if (!crm_duplicate_told_any(told))
		crm_check_pairs_write(rules, &pairs);
	crm_check_seek(state, end);
	return more;
}

/* Second pass: the rows that rules apply to are looked up, many together. */
static void
crm_check_rows(CheckState *state)
{
	DuplicateTold *told =
		crm_duplicate_told(state->rules, state->trigdata->tg_relation, state->nrows);
	MemoryContext batch_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm duplicate rows", ALLOCSET_DEFAULT_SIZES);
	Snapshot snapshot;
	bool more = true;

	/* What the statement wrote is to be seen, and what others committed before we had the locks. */
	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(snapshot);
	crm_check_rewind(state);
	while (more && state->at < state->nrows)
	{
		MemoryContext old = MemoryContextSwitchTo(batch_context);

		more = crm_check_batch(state, told);
		MemoryContextSwitchTo(old);
		MemoryContextReset(batch_context);
	}
	PopActiveSnapshot();
	UnregisterSnapshot(snapshot);
	MemoryContextDelete(batch_context);
	crm_duplicate_told_end(told);
}

static void
crm_check_statement(CheckState *state)
{
	Relation rel = state->trigdata->tg_relation;

	state->new_slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsMinimalTuple);
	state->new_pointer =
		tuplestore_alloc_read_pointer(state->trigdata->tg_newtable, EXEC_FLAG_REWIND);
	state->marked_pointer =
		tuplestore_alloc_read_pointer(state->trigdata->tg_newtable, EXEC_FLAG_REWIND);
	if (state->trigdata->tg_oldtable != NULL)
	{
		state->old_slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsMinimalTuple);
		state->old_pointer =
			tuplestore_alloc_read_pointer(state->trigdata->tg_oldtable, EXEC_FLAG_REWIND);
	}
	else
	{
		state->old_slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsVirtual);
		ExecStoreAllNullTuple(state->old_slot);
	}
	state->slot_context = CurrentMemoryContext;
	state->econtext = CreateStandaloneExprContext();
	crm_check_rewind(state);
	if (crm_check_prepare(state))
		crm_check_rows(state);
	FreeExprContext(state->econtext, true);
	ExecDropSingleTupleTableSlot(state->old_slot);
	ExecDropSingleTupleTableSlot(state->new_slot);
}

static int
crm_check_event(TriggerData *trigdata)
{
	if (crm_duplicate_writer == DUPLICATE_BY_UNMERGE || crm_is_undeleted())
		return DUPLICATE_ON_UNDELETE;
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		return DUPLICATE_ON_UPDATE;
	if (crm_duplicate_import || (ActivePortal != NULL && ActivePortal->commandTag == CMDTAG_COPY))
		return DUPLICATE_ON_IMPORT;
	return DUPLICATE_ON_INSERT;
}

PG_FUNCTION_INFO_V1(crm_check_duplicates);
Datum
crm_check_duplicates(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	CheckState state = {0};
	int events;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigdata->tg_event) || trigdata->tg_newtable == NULL ||
		(TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) && trigdata->tg_oldtable == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("crm.check_duplicates() must be called AFTER INSERT or UPDATE, FOR EACH "
						"STATEMENT, with transition tables"),
				 errhint("Use SELECT crm.guard_duplicates(table) to create the triggers.")));
	if (crm_duplicate_writer == DUPLICATE_BY_MERGE ||
		tuplestore_tuple_count(trigdata->tg_newtable) == 0)
		return PointerGetDatum(NULL);

	state.trigdata = trigdata;
	state.rules = crm_duplicate_rules(trigdata->tg_relation, trigdata->tg_trigger);
	if (state.rules == NULL)
		return PointerGetDatum(NULL);
	state.event = crm_check_event(trigdata);
	events = state.event == DUPLICATE_ON_UPDATE ? state.event | DUPLICATE_ON_UNDELETE : state.event;
	PG_TRY();
	{
		if ((state.rules->events & events) != 0)
			crm_check_statement(&state);
	}
	PG_FINALLY();
	{
		crm_duplicate_rules_unpin(state.rules);
	}
	PG_END_TRY();
	return PointerGetDatum(NULL);
}

/* ---------------------------------------------------------------------
 * Asking before writing
 * ---------------------------------------------------------------------
 */

/* Who may write a record learns from the rules whether there is a twin, and may ask before. */
static void
crm_check_may_ask(Relation rel, Oid workspace)
{
	Oid relid = RelationGetRelid(rel);

	if (RelationGetNamespace(rel) != workspace)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("table \"%s\" is not in workspace \"%s\"",
							   RelationGetRelationName(rel), get_namespace_name(workspace))));
	if (object_aclcheck(NamespaceRelationId, workspace, GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SCHEMA, get_namespace_name(workspace));
	if (pg_class_aclcheck(relid, GetUserId(), ACL_INSERT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_INSERT, ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, RelationGetRelationName(rel));
}

/* What means the same as a record that is not stored, with the active snapshot. */
static DuplicateFound *
crm_check_ask(const DuplicateRules *rules, Relation rel, const MatchValue values[MATCH_NROLES],
			  float4 threshold, int *n)
{
	DuplicateAnswer answer = {0};
	DuplicateBasis basis;
	DuplicateSearch *search;

	crm_duplicate_basis(rel, &basis);
	search = crm_duplicate_search(rules, rel, false, &basis);
	crm_duplicate_search_add(search, values, 0, threshold);
	crm_duplicate_search_run(search);
	answer.found = crm_duplicate_found(search, 0, &answer.nfound);
	crm_check_resolve(rules, rel, &answer, 1);
	*n = answer.nfound;
	return answer.found;
}

/*
 * crm._claim_duplicate(workspace, kind, record, relation, threshold): locks the
 * record's keys, so that nobody else stores it before this transaction ends, and
 * says which record the person can see means the same, if there is one.
 */
PG_FUNCTION_INFO_V1(crm_claim_duplicate);
Datum
crm_claim_duplicate(PG_FUNCTION_ARGS)
{
	Relation rel;
	Oid workspace, function;
	DuplicateRules *rules;
	DuplicateLocks *locks;
	DuplicateFound *found;
	MatchValue values[MATCH_NROLES] = {0};
	int n;
	uint64 blocking = 0;
	float4 threshold = DEFAULT_CHECK;
	Snapshot snapshot;
	TupleDesc desc;
	Datum out[2] = {0};
	bool nulls[2] = {true, true};

	for (int i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			PG_RETURN_NULL();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	workspace = PG_GETARG_OID(0);
	rel = crm_table_open(PG_GETARG_OID(3), AccessShareLock);
	crm_check_may_ask(rel, workspace);
	rules = crm_duplicate_table(rel, workspace, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	for (int i = 0; i < rules->nrules; i++)
		if (rules->rule[i].action == DUPLICATE_BLOCK)
			blocking |= UINT64CONST(1) << i;
	if (!PG_ARGISNULL(4))
		threshold = PG_GETARG_FLOAT4(4);
	else if (blocking != 0)
		threshold = crm_check_threshold(rules, blocking);
	if (!(threshold > 0 && threshold <= 1))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("threshold must be a probability above 0 and up to 1")));
	crm_match_json_check(PG_GETARG_JSONB_P(2), rules->columns);
	crm_match_json_values(PG_GETARG_JSONB_P(2), rules->columns, values);

	function = LookupFuncName(list_make2(makeString("crm"), makeString("check_duplicates")), 0,
							  NULL, false);
	locks = crm_duplicate_locks(rel, function);
	(void) crm_duplicate_locks_add(locks, values);
	crm_duplicate_locks_take(locks);

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(snapshot);
	found = crm_check_ask(rules, rel, values, threshold, &n);
	for (int i = 0; i < n && nulls[0]; i++)
		if (found[i].visible)
		{
			out[0] = Int64GetDatum(found[i].id);
			out[1] = Float4GetDatum(found[i].score);
			nulls[0] = nulls[1] = false;
		}
	PopActiveSnapshot();
	UnregisterSnapshot(snapshot);
	relation_close(rel, NoLock);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), out, nulls)));
}

/* crm.check_duplicate(workspace, kind, record) */
PG_FUNCTION_INFO_V1(crm_check_duplicate);
Datum
crm_check_duplicate(PG_FUNCTION_ARGS)
{
	Oid workspace = PG_GETARG_OID(0);
	Jsonb *record = PG_GETARG_JSONB_P(2);
	char *kind = text_to_cstring(PG_GETARG_TEXT_PP(1));
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Relation rel;
	DuplicateRules *rules;
	MatchValue values[MATCH_NROLES] = {0};
	DuplicateFound *found;
	int n;
	int hidden = 0;
	Snapshot snapshot;

	InitMaterializedSRF(fcinfo, 0);
	rel = crm_table_open(PG_GETARG_OID(3), AccessShareLock);
	crm_check_may_ask(rel, workspace);
	rules = crm_duplicate_table(rel, workspace, kind);
	crm_duplicate_spend(rules);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(snapshot);
	crm_match_json_check(record, rules->columns);
	crm_match_json_values(record, rules->columns, values);
	found = crm_check_ask(
		rules, rel, values,
		rules->nrules == 0 ? DEFAULT_CHECK : crm_check_threshold(rules, PG_UINT64_MAX), &n);
	for (int i = 0; i < n; i++)
	{
		Datum out[6] = {0};
		bool nulls[6] = {false, true, true, true, true, true};
		DuplicateMasked masked = {0};

		out[0] = BoolGetDatum(found[i].visible);
		if (found[i].visible)
		{
			out[1] = Int64GetDatum(found[i].id);
			out[2] = Float4GetDatum(found[i].score);
			nulls[1] = nulls[2] = false;
		}
		crm_duplicate_masked(rules, rel, found[i].id, &masked);
		if (masked.team != NULL)
			out[3] = CStringGetTextDatum(masked.team);
		nulls[3] = masked.team == NULL;
		out[4] = CStringGetTextDatum(masked.claim_state);
		nulls[4] = false;
		hidden += !found[i].visible;
		if (!found[i].visible)
			out[5] = CStringGetTextDatum(masked.next_step);
		nulls[5] = found[i].visible;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, out, nulls);
	}
	PopActiveSnapshot();
	UnregisterSnapshot(snapshot);
	crm_duplicate_log(rules, "check", NULL, 0, found, n, NULL);
	/* duplicate_log forgets with the transaction, the server's log does not. */
	if (hidden > 0)
		ereport(LOG_SERVER_ONLY,
				(errmsg("member " INT64_FORMAT " of workspace %s was told of %d records of kind "
						"\"%s\" that they cannot see",
						crm_member_id(workspace), rules->schema, hidden, kind)));
	relation_close(rel, NoLock);
	return (Datum) 0;
}
