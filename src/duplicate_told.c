/*
 * duplicate_told.c
 *		What people are told of duplicates, and what is written down of it.
 *
 * Of a record that the person can see, its id and why it means the same.  Of one
 * that is hidden from them, its owner's teams, whether it is owned and where to
 * turn, and this only so often a minute.
 *
 * The last line of DETAIL says the same for programs, as a JSON array.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "access.h"
#include "clock.h"
#include "compat.h"
#include "crm.h"
#include "duplicate_budget.h"
#include "duplicate_rule.h"

#define MAX_WARNINGS 20 /* of one statement */
#define MAX_FAULTS	 20 /* the same: rows refused that are told */
#define SHOWN_IDS	 5
#define SHOWN_LABEL	 80 /* bytes of a value shown in a message */
#define CHECK_LIMIT	 20 /* checks a minute, unless setting duplicate_checks_per_minute says */

/* ---------------------------------------------------------------------
 * Acting as somebody else
 * ---------------------------------------------------------------------
 */

void
crm_duplicate_become(DuplicateRole *saved, Oid role)
{
	GetUserIdAndSecContext(&saved->user, &saved->context);
	SetUserIdAndSecContext(role, saved->context | SECURITY_LOCAL_USERID_CHANGE |
									 SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS);
}

void
crm_duplicate_return(const DuplicateRole *saved)
{
	SetUserIdAndSecContext(saved->user, saved->context);
}

void
crm_duplicate_query(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls,
					bool read_only, int expected)
{
	int result = SPI_execute_with_args(sql, nargs, types, values, nulls, read_only, 0);

	if (result != expected)
		elog(ERROR, "SPI failed for \"%s\": %s", sql, SPI_result_code_string(result));
}

/* ---------------------------------------------------------------------
 * What the person may know
 * ---------------------------------------------------------------------
 */

/* Setting duplicate_checks_per_minute of the workspace; -1 if there is no limit. */
static int
crm_told_limit(const DuplicateRules *rules)
{
	DuplicateRole saved;
	int limit = CHECK_LIMIT;

	SPI_connect();
	crm_duplicate_become(&saved, rules->owner);
	crm_duplicate_query(psprintf("SELECT s.value FROM %s.setting AS s WHERE s.name "
								 "OPERATOR(pg_catalog.=) 'duplicate_checks_per_minute'",
								 rules->schema),
						0, NULL, NULL, NULL, true, SPI_OK_SELECT);
	crm_duplicate_return(&saved);
	if (SPI_processed > 0)
	{
		char *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		limit = value == NULL ? -1 : Max(atoi(value), 0);
	}
	SPI_finish();
	return limit;
}

/* Takes one answer about hidden records from the person's budget. */
static bool
crm_told_take(const DuplicateRules *rules)
{
	int limit = crm_told_limit(rules);

	return limit < 0 ||
		   crm_budget_take(rules->workspace, crm_member_id(rules->workspace), limit, crm_now());
}

/* Checks of the same person in the last minute, of all sessions, that were committed. */
static int64
crm_told_count(const DuplicateRules *rules)
{
	Oid types[3] = {INT8OID, TEXTOID, TIMESTAMPTZOID};
	Datum values[3];
	char nulls[4] = "   ";
	int64 member = crm_member_id(rules->workspace);
	DuplicateRole saved;
	bool isnull;
	int64 count;

	values[0] = Int64GetDatum(member);
	nulls[0] = member == 0 ? 'n' : ' ';
	values[1] = CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), true));
	values[2] = TimestampTzGetDatum(crm_now() - USECS_PER_MINUTE);
	SPI_connect();
	crm_duplicate_become(&saved, rules->owner);
	crm_duplicate_query(
		psprintf("SELECT pg_catalog.count(*) FROM %s.duplicate_log AS l "
				 "WHERE l.event OPERATOR(pg_catalog.=) 'check' "
				 "AND l.created_at OPERATOR(pg_catalog.>) $3 "
				 "AND CASE WHEN $1 IS NULL THEN l.member_id IS NULL AND l.login_role "
				 "OPERATOR(pg_catalog.=) $2 ELSE l.member_id OPERATOR(pg_catalog.=) $1 END",
				 rules->schema),
		3, types, values, nulls, true, SPI_OK_SELECT);
	crm_duplicate_return(&saved);
	count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return count;
}

/* Counts a call of check_duplicate(); an error if there were too many. */
void
crm_duplicate_spend(const DuplicateRules *rules)
{
	int limit = crm_told_limit(rules);

	if (!crm_told_take(rules) || (limit >= 0 && crm_told_count(rules) >= limit))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many checks for duplicates"),
				 errdetail("Setting duplicate_checks_per_minute of the workspace limits them "
						   "to %d a minute.",
						   limit),
				 errhint("Wait a minute.")));
}

/* Of a record that the person cannot see: where to turn. */
void
crm_duplicate_masked(const DuplicateRules *rules, Relation rel, int64 id, DuplicateMasked *masked)
{
	Oid types[4] = {REGNAMESPACEOID, TEXTOID, REGCLASSOID, INT8OID};
	Datum values[4];
	DuplicateRole saved;
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;

	values[0] = ObjectIdGetDatum(rules->workspace);
	values[1] = CStringGetTextDatum(rules->kind);
	values[2] = ObjectIdGetDatum(RelationGetRelid(rel));
	values[3] = Int64GetDatum(id);
	SPI_connect();
	crm_duplicate_become(&saved, rules->owner);
	crm_duplicate_query("SELECT o.team, o.claim_state, o.next_step "
						"FROM crm._duplicate_owner($1, $2, $3, $4) AS o",
						4, types, values, NULL, true, SPI_OK_SELECT);
	crm_duplicate_return(&saved);
	old = MemoryContextSwitchTo(context);
	masked->team = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	masked->claim_state = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	masked->next_step = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3);
	MemoryContextSwitchTo(old);
	SPI_finish();
}

static ArrayType *
crm_told_ids(const DuplicateFound *found, int n)
{
	Datum *ids = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		ids[i] = Int64GetDatum(found[i].id);
	return construct_array(ids, n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
}

/* Writes a line of duplicate_log, as its owner. */
void
crm_duplicate_log(const DuplicateRules *rules, const char *event, const char *rule, int64 id,
				  const DuplicateFound *found, int n, const char *reason)
{
	Oid types[8] = {TEXTOID, TEXTOID, INT8OID, TEXTOID, INT8ARRAYOID, TEXTOID, INT8OID, TEXTOID};
	Datum values[8] = {0};
	char nulls[9] = "        ";
	int64 member = crm_member_id(rules->workspace);
	DuplicateRole saved;

	values[0] = CStringGetTextDatum(event);
	values[1] = CStringGetTextDatum(rules->kind);
	values[2] = Int64GetDatum(id);
	nulls[2] = id == 0 ? 'n' : ' ';
	if (rule != NULL)
		values[3] = CStringGetTextDatum(rule);
	nulls[3] = rule == NULL ? 'n' : ' ';
	values[4] = PointerGetDatum(crm_told_ids(found, n));
	if (reason != NULL)
		values[5] = CStringGetTextDatum(reason);
	nulls[5] = reason == NULL ? 'n' : ' ';
	values[6] = Int64GetDatum(member);
	nulls[6] = member == 0 ? 'n' : ' ';
	values[7] = CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), true));
	SPI_connect();
	crm_duplicate_become(&saved, rules->owner);
	crm_duplicate_query(
		psprintf("INSERT INTO %s.duplicate_log (event, kind, record_id, rule, matches, "
				 "reason, member_id, login_role) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
				 rules->schema),
		8, types, values, nulls, false, SPI_OK_INSERT);
	crm_duplicate_return(&saved);
	SPI_finish();
}

/* ---------------------------------------------------------------------
 * Rows of a statement
 * ---------------------------------------------------------------------
 */

struct DuplicateTold
{
	const DuplicateRules *rules;
	Relation rel;
	int64 nrows; /* of the statement */
	int64 warnings;
	int faults;
	MemoryContext context;
	StringInfoData lines; /* a sentence for each fault */
	StringInfoData json;  /* an object for each */
	/* the first fault */
	char *rule;
	char *message;
	char *hint;
};

DuplicateTold *
crm_duplicate_told(const DuplicateRules *rules, Relation rel, int64 nrows)
{
	DuplicateTold *told = palloc0(sizeof(DuplicateTold));

	told->rules = rules;
	told->rel = rel;
	told->nrows = nrows;
	told->context = CurrentMemoryContext;
	initStringInfo(&told->lines);
	initStringInfo(&told->json);
	return told;
}

/* The first compared value of a row, in quotes, to name it by. */
static char *
crm_told_label(const DuplicateRules *rules, TupleTableSlot *slot)
{
	for (int i = 0; i < rules->columns->ncolumns; i++)
	{
		bool isnull;
		Datum datum = slot_getattr(slot, rules->columns->attnum[i], &isnull);
		MatchValue value;
		int len;

		if (isnull || !crm_match_value(datum, rules->columns->type[i], &value))
			continue;
		len = pg_mbcliplen(value.data, value.len, SHOWN_LABEL);
		return psprintf(" \"%s%s\"", pnstrdup(value.data, len), len < value.len ? "..." : "");
	}
	return "";
}

/* "name exact, phone exact": the evidence for it. */
static char *
crm_told_evidence(Jsonb *reasons)
{
	StringInfoData text;
	uint32 n = JB_ROOT_COUNT(reasons);

	initStringInfo(&text);
	for (uint32 i = 0; i < n; i++)
	{
		JsonbValue *reason = getIthJsonbValueFromContainer(&reasons->root, i);
		JsonbValue *field, *level, *weight;

		if (reason == NULL || reason->type != jbvBinary)
			continue;
		field = getKeyJsonValueFromContainer(reason->val.binary.data, "field", 5, NULL);
		level = getKeyJsonValueFromContainer(reason->val.binary.data, "level", 5, NULL);
		weight = getKeyJsonValueFromContainer(reason->val.binary.data, "weight", 6, NULL);
		if (field == NULL || level == NULL || weight == NULL || field->type != jbvString ||
			level->type != jbvString || weight->type != jbvNumeric ||
			DatumGetFloat8(
				DirectFunctionCall1(numeric_float8, NumericGetDatum(weight->val.numeric))) <= 0)
			continue;
		appendStringInfo(&text, "%s%s %s", text.len > 0 ? ", " : "",
						 pnstrdup(field->val.string.val, field->val.string.len),
						 pnstrdup(level->val.string.val, level->val.string.len));
	}
	return text.data;
}

/* What the person may know of one row, for people and for programs. */
typedef struct ToldRow
{
	const DuplicateFound *best; /* a visible one, if there is any */
	DuplicateMasked masked;		/* where to turn if there is none */
} ToldRow;

static void
crm_told_row(DuplicateTold *told, const DuplicateRule *rule, const DuplicateRow *row,
			 const DuplicateFound *matches, int n, bool ask, ToldRow *known, StringInfo json)
{
	int shown = 0;

	memset(known, 0, sizeof(*known));
	known->best = &matches[0];
	appendStringInfo(json, "{\"row\": " INT64_FORMAT ", \"record\": " INT64_FORMAT ", \"rule\": ",
					 row->number, row->id);
	escape_json(json, rule->name);
	appendStringInfo(json, ", \"action\": \"%s\", \"override\": %s",
					 rule->action == DUPLICATE_BLOCK ? "block" : "warn",
					 rule->allow_override ? "true" : "false");
	for (int i = 0; i < n; i++)
		if (matches[i].visible)
		{
			if (shown == 0)
				known->best = &matches[i];
			if (shown < SHOWN_IDS)
				appendStringInfo(json, "%s{\"id\": " INT64_FORMAT ", \"score\": %.4f}",
								 shown == 0 ? ", \"matches\": [" : ", ", matches[i].id,
								 matches[i].score);
			shown++;
		}
	if (shown > 0)
		appendStringInfo(json, "], \"more\": %d}", Max(shown - SHOWN_IDS, 0));
	else
	{
		if (ask && crm_told_take(told->rules))
			crm_duplicate_masked(told->rules, told->rel, known->best->id, &known->masked);
		appendStringInfoString(json, ", \"hidden\": true");
		if (known->masked.team != NULL)
		{
			appendStringInfoString(json, ", \"team\": ");
			escape_json(json, known->masked.team);
		}
		if (known->masked.claim_state != NULL)
		{
			appendStringInfoString(json, ", \"claim_state\": ");
			escape_json(json, known->masked.claim_state);
			appendStringInfoString(json, ", \"next_step\": ");
			escape_json(json, known->masked.next_step);
		}
		appendStringInfoChar(json, '}');
	}
}

/* A sentence on where a hidden record belongs. */
static char *
crm_told_hidden(const DuplicateMasked *masked, const char *rule)
{
	if (masked->team != NULL)
		return psprintf("It belongs to team \"%s\" (rule \"%s\").", masked->team, rule);
	if (masked->claim_state != NULL && strcmp(masked->claim_state, "owned") == 0)
		return psprintf("Its owner is in no team (rule \"%s\").", rule);
	if (masked->claim_state != NULL)
		return psprintf("It is %s (rule \"%s\").", masked->claim_state, rule);
	return psprintf("Rule \"%s\" keeps it from being entered twice.", rule);
}

/* The first fault is told in full, in case that it is the only one. */
static void
crm_told_first(DuplicateTold *told, const DuplicateRule *rule, const ToldRow *known,
			   const char *label)
{
	const char *kind = told->rules->kind;
	const DuplicateFound *best = known->best;

	told->rule = pstrdup(rule->name);
	if (best->visible)
	{
		told->message =
			psprintf("%s%s already exists as %s " INT64_FORMAT, kind, label, kind, best->id);
		told->hint =
			best->own ? pstrdup("This transaction wrote both.")
			: rule->allow_override
				? psprintf("Use the %s there is, or give a reason in crm.duplicate_override.", kind)
				: psprintf("Use the %s there is.", kind);
	}
	else
	{
		told->message = psprintf("%s%s already exists where you cannot see it", kind, label);
		told->hint = pstrdup(known->masked.next_step ? known->masked.next_step
													 : "Ask an administrator of the workspace.");
	}
}

/* Takes note of a row that a rule refuses; false if enough of them are known. */
bool
crm_duplicate_told_block(DuplicateTold *told, const DuplicateRule *rule, const DuplicateRow *row,
						 const DuplicateFound *matches, int n)
{
	MemoryContext old = MemoryContextSwitchTo(told->context);
	char *label = crm_told_label(told->rules, row->slot);
	ToldRow known;

	appendStringInfoString(&told->json, told->faults == 0 ? "[" : ", ");
	crm_told_row(told, rule, row, matches, n, true, &known, &told->json);
	if (told->faults++ == 0)
		crm_told_first(told, rule, &known, label);
	else
		appendStringInfoChar(&told->lines, '\n');
	if (told->nrows > 1)
		appendStringInfo(&told->lines, "Row " INT64_FORMAT "%s: ", row->number, label);
	if (known.best->visible)
		appendStringInfo(&told->lines,
						 "%s " INT64_FORMAT
						 " means the same with probability %.4f: %s (rule \"%s\").",
						 told->rules->kind, known.best->id, known.best->score,
						 crm_told_evidence(known.best->reasons), rule->name);
	else
	{
		appendStringInfoString(&told->lines, crm_told_hidden(&known.masked, rule->name));
		ereport(
			LOG_SERVER_ONLY,
			(errmsg(
				"duplicate rule \"%s\" of workspace %s refused a row: the same as %s " INT64_FORMAT
				", which member " INT64_FORMAT " cannot see",
				rule->name, told->rules->schema, told->rules->kind, known.best->id,
				crm_member_id(told->rules->workspace))));
	}
	MemoryContextSwitchTo(old);
	return told->faults < MAX_FAULTS;
}

bool
crm_duplicate_told_any(const DuplicateTold *told)
{
	return told->faults > 0;
}

void
crm_duplicate_told_warn(DuplicateTold *told, const DuplicateRule *rule, const DuplicateRow *row,
						const DuplicateFound *matches, int n)
{
	const char *kind = told->rules->kind;
	StringInfoData json;
	ToldRow known;
	char *label;

	if (++told->warnings > MAX_WARNINGS)
		return;
	initStringInfo(&json);
	label = crm_told_label(told->rules, row->slot);
	crm_told_row(told, rule, row, matches, n, false, &known, &json);
	if (known.best->visible)
		ereport(WARNING,
				(errcode(ERRCODE_CRM_POSSIBLE_DUPLICATE),
				 errmsg("%s%s may already exist as %s " INT64_FORMAT, kind, label, kind,
						known.best->id),
				 errdetail("Both mean the same with probability %.4f: %s (rule \"%s\").\n[%s]",
						   known.best->score, crm_told_evidence(known.best->reasons), rule->name,
						   json.data),
				 errtable(told->rel), err_generic_string(PG_DIAG_CONSTRAINT_NAME, rule->name)));
	else
		ereport(WARNING,
				(errcode(ERRCODE_CRM_POSSIBLE_DUPLICATE),
				 errmsg("%s%s may already exist where you cannot see it", kind, label),
				 errdetail("Rule \"%s\" found it.\n[%s]", rule->name, json.data),
				 errhint("Function check_duplicate() of the workspace tells where to turn."),
				 errtable(told->rel), err_generic_string(PG_DIAG_CONSTRAINT_NAME, rule->name)));
}

/* The end of the statement: an error if rows were refused. */
void
crm_duplicate_told_end(DuplicateTold *told)
{
	if (told->faults > 0)
		ereport(ERROR,
				(errcode(ERRCODE_CRM_DUPLICATE),
				 told->faults == 1 ? errmsg("%s", told->message)
				 : told->faults == MAX_FAULTS
					 ? errmsg("at least %d of " INT64_FORMAT " rows of \"%s\" already exist",
							  told->faults, told->nrows, RelationGetRelationName(told->rel))
					 : errmsg("%d of " INT64_FORMAT " rows of \"%s\" already exist", told->faults,
							  told->nrows, RelationGetRelationName(told->rel)),
				 errdetail("%s\n%s]", told->lines.data, told->json.data), errhint("%s", told->hint),
				 errtable(told->rel), err_generic_string(PG_DIAG_CONSTRAINT_NAME, told->rule)));
	if (told->warnings > MAX_WARNINGS)
		ereport(WARNING,
				(errcode(ERRCODE_CRM_POSSIBLE_DUPLICATE),
				 errmsg(INT64_FORMAT " more rows may already exist", told->warnings - MAX_WARNINGS),
				 errdetail("All of them are in duplicate_pair.")));
}
