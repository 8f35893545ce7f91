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
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
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
#include "workspace.h"

#define ERRCODE_CRM_DUPLICATE		   ERRCODE_CRM('D', '0', '1')
#define ERRCODE_CRM_POSSIBLE_DUPLICATE ERRCODE_CRM('D', '0', '2')

#define MAX_FOUND	  50 /* matches looked at for one row */
#define MAX_WARNINGS  20 /* of one statement */
#define SHOWN_IDS	  5
#define MAX_REASON	  1000
#define SHOWN_LABEL	  80  /* bytes of a value shown in a message */
#define DEFAULT_CHECK 0.9 /* probability that crm.check_duplicate() reports from without rules */
#define CHECK_LIMIT	  20  /* checks a minute, unless setting duplicate_checks_per_minute says */

DuplicateWriter crm_duplicate_writer = DUPLICATE_BY_CLIENT;

static char *crm_duplicate_override = NULL;

void
crm_duplicate_rule_init(void)
{
	DefineCustomStringVariable(
		"crm.duplicate_override", "Why a row may be stored though a duplicate rule blocks it.",
		"Holds where the rule allows overrides; the reason is logged in duplicate_log.",
		&crm_duplicate_override, "", PGC_USERSET, 0, NULL, NULL, NULL);
}

/* A record that means the same as the one written. */
typedef struct Found
{
	int64 id;
	float4 score;
	Jsonb *reasons;
	bool visible;
	bool own; /* written by this transaction */
} Found;

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
	ExprContext *econtext;
	ExprState *condition[MAX_DUPLICATE_RULES];
	uint64 *applies; /* a row's rules, a bit each */
	int64 nrows;
	int64 warnings;
} CheckState;

/* ---------------------------------------------------------------------
 * Acting as somebody else
 * ---------------------------------------------------------------------
 */

typedef struct SavedRole
{
	Oid user;
	int context;
} SavedRole;

static void
crm_check_become(SavedRole *saved, Oid role)
{
	GetUserIdAndSecContext(&saved->user, &saved->context);
	SetUserIdAndSecContext(role, saved->context | SECURITY_LOCAL_USERID_CHANGE |
									 SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS);
}

static void
crm_check_return(const SavedRole *saved)
{
	SetUserIdAndSecContext(saved->user, saved->context);
}

static void
crm_check_run(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls,
			  bool read_only, int expected)
{
	int result = SPI_execute_with_args(sql, nargs, types, values, nulls, read_only, 0);

	if (result != expected)
		elog(ERROR, "SPI failed for \"%s\": %s", sql, SPI_result_code_string(result));
}

/* ---------------------------------------------------------------------
 * Finding
 * ---------------------------------------------------------------------
 */

static int64
crm_check_id(Datum value, Oid type)
{
	return type == INT8OID	 ? DatumGetInt64(value)
		   : type == INT4OID ? DatumGetInt32(value)
							 : DatumGetInt16(value);
}

static void
crm_check_push(JsonbParseState **state, const char *name, const char *text, int len)
{
	JsonbValue v;

	v.type = jbvString;
	v.val.string.val = unconstify(char *, name);
	v.val.string.len = (int) strlen(name);
	pushJsonbValue(state, WJB_KEY, &v);
	v.val.string.val = unconstify(char *, text);
	v.val.string.len = len;
	pushJsonbValue(state, WJB_VALUE, &v);
}

/* The row as crm.find_matches() takes it: what is compared, and the id, so that it does not find
 * itself. */
static Jsonb *
crm_check_record(const DuplicateRules *rules, TupleTableSlot *slot, int64 id)
{
	JsonbParseState *state = NULL;
	char number[32];

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < rules->columns->ncolumns; i++)
	{
		bool isnull;
		Datum datum = slot_getattr(slot, rules->columns->attnum[i], &isnull);
		MatchValue value;

		if (!isnull && crm_match_value(datum, rules->columns->type[i], &value))
			crm_check_push(&state, rules->columns->name[i], value.data, value.len);
	}
	snprintf(number, sizeof(number), INT64_FORMAT, id);
	crm_check_push(&state, rules->id_name, number, (int) strlen(number));
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * Records of the table that mean the same with at least the given probability,
 * best first, read with the active snapshot as the table's owner.
 */
static Found *
crm_check_find(const DuplicateRules *rules, Relation rel, Jsonb *record, float4 threshold, int *n)
{
	static SPIPlanPtr plan = NULL;
	Datum values[4];
	SavedRole saved;
	MemoryContext context = CurrentMemoryContext;
	Found *found;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (plan == NULL)
	{
		Oid types[4] = {REGCLASSOID, JSONBOID, INT4OID, FLOAT4OID};

		plan = SPI_prepare("SELECT m.id, m.score, m.reasons FROM crm.find_matches($1, $2, $3) AS m "
						   "WHERE m.score OPERATOR(pg_catalog.>=) $4",
						   4, types);
		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
	}
	values[0] = ObjectIdGetDatum(RelationGetRelid(rel));
	values[1] = JsonbPGetDatum(record);
	values[2] = Int32GetDatum(MAX_FOUND);
	values[3] = Float4GetDatum(threshold);
	crm_check_become(&saved, rules->table_owner);
	if (SPI_execute_plan(plan, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not search for duplicates");
	crm_check_return(&saved);

	*n = (int) SPI_processed;
	found = MemoryContextAlloc(context, sizeof(Found) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;
		MemoryContext old;

		found[i].id = pg_strtoint64(TextDatumGetCString(SPI_getbinval(row, desc, 1, &isnull)));
		found[i].score = DatumGetFloat4(SPI_getbinval(row, desc, 2, &isnull));
		found[i].visible = found[i].own = false;
		old = MemoryContextSwitchTo(context);
		found[i].reasons = DatumGetJsonbPCopy(SPI_getbinval(row, desc, 3, &isnull));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return found;
}

static ArrayType *
crm_check_ids(const Found *found, int n)
{
	Datum *ids = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		ids[i] = Int64GetDatum(found[i].id);
	return construct_array(ids, n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
}

/* Drops what a person has told apart from the record. */
static void
crm_check_decided(const DuplicateRules *rules, int64 id, Found *found, int *n)
{
	Oid types[3] = {TEXTOID, INT8OID, INT8ARRAYOID};
	Datum values[3];
	SavedRole saved;
	uint64 ndecided;

	values[0] = CStringGetTextDatum(rules->kind);
	values[1] = Int64GetDatum(id);
	values[2] = PointerGetDatum(crm_check_ids(found, *n));
	SPI_connect();
	crm_check_become(&saved, rules->owner);
	crm_check_run(
		psprintf("SELECT o.id FROM pg_catalog.unnest($3) AS o (id) JOIN %s.duplicate_pair AS p "
				 "ON p.kind OPERATOR(pg_catalog.=) $1 AND p.state OPERATOR(pg_catalog.=) "
				 "'not_duplicate' AND p.left_id OPERATOR(pg_catalog.=) LEAST(o.id, $2) "
				 "AND p.right_id OPERATOR(pg_catalog.=) GREATEST(o.id, $2)",
				 rules->schema),
		3, types, values, NULL, true, SPI_OK_SELECT);
	crm_check_return(&saved);
	ndecided = SPI_processed;
	for (uint64 d = 0; d < ndecided; d++)
	{
		bool isnull;
		int64 other =
			DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[d], SPI_tuptable->tupdesc, 1, &isnull));
		int kept = 0;

		for (int i = 0; i < *n; i++)
			if (found[i].id != other)
				found[kept++] = found[i];
		*n = kept;
	}
	SPI_finish();
}

/* Finds out, as the person, which of the records they can see. */
static void
crm_check_visible(const DuplicateRules *rules, Relation rel, Found *found, int n)
{
	Oid types[1] = {INT8ARRAYOID};
	Datum values[1] = {PointerGetDatum(crm_check_ids(found, n))};
	Oid relid = RelationGetRelid(rel);
	char *id = unconstify(char *, quote_identifier(rules->id_name));

	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck(relid, rules->id_att, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		return;
	SPI_connect();
	crm_check_run(psprintf("SELECT t.%s::pg_catalog.int8, t.xmin FROM ONLY %s AS t "
						   "WHERE t.%s OPERATOR(pg_catalog.=) ANY ($1)",
						   id,
						   quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
													  RelationGetRelationName(rel)),
						   id),
				  1, types, values, NULL, true, SPI_OK_SELECT);
	for (uint64 v = 0; v < SPI_processed; v++)
	{
		bool isnull;
		HeapTuple row = SPI_tuptable->vals[v];
		TupleDesc desc = SPI_tuptable->tupdesc;
		int64 seen = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
		TransactionId writer = DatumGetTransactionId(SPI_getbinval(row, desc, 2, &isnull));

		for (int i = 0; i < n; i++)
			if (found[i].id == seen)
			{
				found[i].visible = true;
				found[i].own = TransactionIdIsCurrentTransactionId(writer);
			}
	}
	SPI_finish();
}

/* ---------------------------------------------------------------------
 * What the person may know
 * ---------------------------------------------------------------------
 */

typedef struct CheckBudget
{
	struct
	{
		Oid workspace;
		Oid role; /* of a session that is nobody */
		int64 member;
	} key;
	double left;
	TimestampTz at;
} CheckBudget;

static HTAB *check_budgets = NULL;

/* Setting duplicate_checks_per_minute of the workspace; -1 if there is no limit. */
static int
crm_check_limit(const DuplicateRules *rules)
{
	SavedRole saved;
	int limit = CHECK_LIMIT;

	SPI_connect();
	crm_check_become(&saved, rules->owner);
	crm_check_run(psprintf("SELECT s.value FROM %s.setting AS s WHERE s.name "
						   "OPERATOR(pg_catalog.=) 'duplicate_checks_per_minute'",
						   rules->schema),
				  0, NULL, NULL, NULL, true, SPI_OK_SELECT);
	crm_check_return(&saved);
	if (SPI_processed > 0)
	{
		char *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		limit = value == NULL ? -1 : Max(atoi(value), 0);
	}
	SPI_finish();
	return limit;
}

/*
 * Takes one answer about hidden records from the person's budget.  It is kept in
 * the session, so that it does not come back when the transaction is rolled back.
 */
static bool
crm_check_take(const DuplicateRules *rules)
{
	CheckBudget lookup;
	CheckBudget *budget;
	int limit = crm_check_limit(rules);
	TimestampTz now = crm_now();
	bool found;

	if (limit < 0)
		return true;
	if (check_budgets == NULL)
	{
		HASHCTL ctl = {0};

		ctl.keysize = sizeof(lookup.key);
		ctl.entrysize = sizeof(CheckBudget);
		ctl.hcxt =
			AllocSetContextCreate(TopMemoryContext, "crm check budgets", ALLOCSET_SMALL_SIZES);
		check_budgets =
			hash_create("crm check budgets", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	memset(&lookup, 0, sizeof(lookup));
	lookup.key.workspace = rules->workspace;
	lookup.key.member = crm_member_id(rules->workspace);
	lookup.key.role = lookup.key.member == 0 ? GetSessionUserId() : InvalidOid;
	budget = hash_search(check_budgets, &lookup.key, HASH_ENTER, &found);
	if (!found)
		budget->left = limit;
	else if (now > budget->at)
		budget->left = Min(
			limit, budget->left + limit * ((double) (now - budget->at) / (60.0 * USECS_PER_SEC)));
	budget->at = now;
	if (budget->left < 1)
		return false;
	budget->left -= 1;
	return true;
}

/* Checks of the same person in the last minute, of all sessions, that were committed. */
static int64
crm_check_count(const DuplicateRules *rules)
{
	Oid types[3] = {INT8OID, TEXTOID, TIMESTAMPTZOID};
	Datum values[3];
	char nulls[4] = "   ";
	int64 member = crm_member_id(rules->workspace);
	SavedRole saved;
	bool isnull;
	int64 count;

	values[0] = Int64GetDatum(member);
	nulls[0] = member == 0 ? 'n' : ' ';
	values[1] = CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), true));
	values[2] = TimestampTzGetDatum(crm_now() - USECS_PER_MINUTE);
	SPI_connect();
	crm_check_become(&saved, rules->owner);
	crm_check_run(
		psprintf("SELECT pg_catalog.count(*) FROM %s.duplicate_log AS l "
				 "WHERE l.event OPERATOR(pg_catalog.=) 'check' "
				 "AND l.created_at OPERATOR(pg_catalog.>) $3 "
				 "AND CASE WHEN $1 IS NULL THEN l.member_id IS NULL AND l.login_role "
				 "OPERATOR(pg_catalog.=) $2 ELSE l.member_id OPERATOR(pg_catalog.=) $1 END",
				 rules->schema),
		3, types, values, nulls, true, SPI_OK_SELECT);
	crm_check_return(&saved);
	count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return count;
}

typedef struct Masked
{
	char *team;
	char *claim_state;
	char *next_step;
} Masked;

/* Of a record that the person cannot see: where to turn. */
static void
crm_check_masked(const DuplicateRules *rules, Relation rel, int64 id, Masked *masked)
{
	Oid types[4] = {REGNAMESPACEOID, TEXTOID, REGCLASSOID, INT8OID};
	Datum values[4];
	SavedRole saved;
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;

	values[0] = ObjectIdGetDatum(rules->workspace);
	values[1] = CStringGetTextDatum(rules->kind);
	values[2] = ObjectIdGetDatum(RelationGetRelid(rel));
	values[3] = Int64GetDatum(id);
	SPI_connect();
	crm_check_become(&saved, rules->owner);
	crm_check_run("SELECT o.team, o.claim_state, o.next_step "
				  "FROM crm._duplicate_owner($1, $2, $3, $4) AS o",
				  4, types, values, NULL, true, SPI_OK_SELECT);
	crm_check_return(&saved);
	old = MemoryContextSwitchTo(context);
	masked->team = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	masked->claim_state = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	masked->next_step = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3);
	MemoryContextSwitchTo(old);
	SPI_finish();
}

/* Writes a line of duplicate_log, as its owner. */
static void
crm_check_log(const DuplicateRules *rules, const char *event, const char *rule, int64 id,
			  const Found *found, int n, const char *reason)
{
	Oid types[8] = {TEXTOID, TEXTOID, INT8OID, TEXTOID, INT8ARRAYOID, TEXTOID, INT8OID, TEXTOID};
	Datum values[8] = {0};
	char nulls[9] = "        ";
	int64 member = crm_member_id(rules->workspace);
	SavedRole saved;

	values[0] = CStringGetTextDatum(event);
	values[1] = CStringGetTextDatum(rules->kind);
	values[2] = Int64GetDatum(id);
	nulls[2] = id == 0 ? 'n' : ' ';
	if (rule != NULL)
		values[3] = CStringGetTextDatum(rule);
	nulls[3] = rule == NULL ? 'n' : ' ';
	values[4] = PointerGetDatum(crm_check_ids(found, n));
	if (reason != NULL)
		values[5] = CStringGetTextDatum(reason);
	nulls[5] = reason == NULL ? 'n' : ' ';
	values[6] = Int64GetDatum(member);
	nulls[6] = member == 0 ? 'n' : ' ';
	values[7] = CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), true));
	SPI_connect();
	crm_check_become(&saved, rules->owner);
	crm_check_run(psprintf("INSERT INTO %s.duplicate_log (event, kind, record_id, rule, matches, "
						   "reason, member_id, login_role) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
						   rules->schema),
				  8, types, values, nulls, false, SPI_OK_INSERT);
	crm_check_return(&saved);
	SPI_finish();
}

/* ---------------------------------------------------------------------
 * What a rule does
 * ---------------------------------------------------------------------
 */

/* The first compared value of a row, in quotes, to name it by. */
static char *
crm_check_label(const DuplicateRules *rules, TupleTableSlot *slot)
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
crm_check_evidence(Jsonb *reasons)
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

/* Matches that a rule speaks of: certain enough and, where it says so, visible. */
static Found *
crm_check_matches(const DuplicateRule *rule, const Found *found, int n, int *nmatches)
{
	Found *matches = palloc(sizeof(Found) * Max(n, 1));

	*nmatches = 0;
	for (int i = 0; i < n; i++)
		if (found[i].score >= rule->threshold && (found[i].visible || !rule->visible_only))
			matches[(*nmatches)++] = found[i];
	return matches;
}

static void
crm_check_block(CheckState *state, const DuplicateRule *rule, const Found *matches, int n)
{
	const DuplicateRules *rules = state->rules;
	Relation rel = state->trigdata->tg_relation;
	char *label = crm_check_label(rules, state->new_slot);
	const Found *best = &matches[0];
	Masked masked = {0};

	for (int i = 0; i < n; i++)
		if (matches[i].visible)
		{
			best = &matches[i];
			break;
		}
	if (best->visible)
		ereport(ERROR,
				(errcode(ERRCODE_CRM_DUPLICATE),
				 errmsg("%s%s already exists as %s " INT64_FORMAT, rules->kind, label, rules->kind,
						best->id),
				 errdetail("Both mean the same with probability %.4f: %s (rule \"%s\").",
						   best->score, crm_check_evidence(best->reasons), rule->name),
				 best->own ? errhint("This transaction wrote both.")
				 : rule->allow_override
					 ? errhint("Use the %s there is, or give a reason in crm.duplicate_override.",
							   rules->kind)
					 : errhint("Use the %s there is.", rules->kind),
				 errtable(rel), err_generic_string(PG_DIAG_CONSTRAINT_NAME, rule->name)));
	if (crm_check_take(rules))
		crm_check_masked(rules, rel, best->id, &masked);
	ereport(
		LOG_SERVER_ONLY,
		(errmsg("duplicate rule \"%s\" of workspace %s refused a row: the same as %s " INT64_FORMAT
				", which member " INT64_FORMAT " cannot see",
				rule->name, rules->schema, rules->kind, best->id,
				crm_member_id(rules->workspace))));
	ereport(ERROR, (errcode(ERRCODE_CRM_DUPLICATE),
					errmsg("%s%s already exists where you cannot see it", rules->kind, label),
					masked.team != NULL ? errdetail("It belongs to team \"%s\" (rule \"%s\").",
													masked.team, rule->name)
					: masked.claim_state != NULL
						? errdetail("It is %s (rule \"%s\").", masked.claim_state, rule->name)
						: errdetail("Rule \"%s\" keeps it from being entered twice.", rule->name),
					errhint("%s", masked.next_step ? masked.next_step
												   : "Ask an administrator of the workspace."),
					errtable(rel), err_generic_string(PG_DIAG_CONSTRAINT_NAME, rule->name)));
}

static void
crm_check_record_pairs(const DuplicateRules *rules, int64 id, const Found *matches, int n)
{
	Oid types[5] = {TEXTOID, INT8OID, INT8OID, FLOAT4OID, JSONBOID};
	char *sql =
		psprintf("INSERT INTO %s.duplicate_pair AS p (kind, left_id, right_id, score, reasons) "
				 "VALUES ($1, $2, $3, $4, $5) ON CONFLICT (kind, left_id, right_id) DO UPDATE "
				 "SET score = excluded.score, reasons = excluded.reasons "
				 "WHERE p.state OPERATOR(pg_catalog.=) 'open'",
				 rules->schema);
	SavedRole saved;

	SPI_connect();
	crm_check_become(&saved, rules->owner);
	for (int i = 0; i < n; i++)
	{
		Datum values[5];

		values[0] = CStringGetTextDatum(rules->kind);
		values[1] = Int64GetDatum(Min(id, matches[i].id));
		values[2] = Int64GetDatum(Max(id, matches[i].id));
		values[3] = Float4GetDatum(matches[i].score);
		values[4] = JsonbPGetDatum(matches[i].reasons);
		crm_check_run(sql, 5, types, values, NULL, false, SPI_OK_INSERT);
	}
	crm_check_return(&saved);
	SPI_finish();
}

static void
crm_check_warn(CheckState *state, const DuplicateRule *rule, const Found *matches, int n)
{
	const DuplicateRules *rules = state->rules;
	StringInfoData ids;
	int nvisible = 0;

	if (++state->warnings > MAX_WARNINGS)
		return;
	initStringInfo(&ids);
	for (int i = 0; i < n; i++)
		if (matches[i].visible && ++nvisible <= SHOWN_IDS)
			appendStringInfo(&ids, "%s" INT64_FORMAT, nvisible > 1 ? ", " : "", matches[i].id);
	if (nvisible > SHOWN_IDS)
		appendStringInfo(&ids, " and %d more", nvisible - SHOWN_IDS);
	if (nvisible == 0)
		ereport(WARNING,
				(errcode(ERRCODE_CRM_POSSIBLE_DUPLICATE),
				 errmsg("%s%s may already exist where you cannot see it", rules->kind,
						crm_check_label(rules, state->new_slot)),
				 errdetail("Rule \"%s\" found it.", rule->name),
				 errhint("Function check_duplicate() of the workspace tells where to turn.")));
	else
		ereport(WARNING,
				(errcode(ERRCODE_CRM_POSSIBLE_DUPLICATE),
				 errmsg("%s%s may already exist as %s %s", rules->kind,
						crm_check_label(rules, state->new_slot), rules->kind, ids.data),
				 errdetail("Probability %.4f (rule \"%s\").", matches[0].score, rule->name)));
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
crm_check_next(CheckState *state)
{
	TriggerData *trigdata = state->trigdata;

	CHECK_FOR_INTERRUPTS();
	if (trigdata->tg_oldtable != NULL)
	{
		tuplestore_select_read_pointer(trigdata->tg_oldtable, state->old_pointer);
		if (!tuplestore_gettupleslot(trigdata->tg_oldtable, true, false, state->old_slot))
			return false;
	}
	tuplestore_select_read_pointer(trigdata->tg_newtable, state->new_pointer);
	return tuplestore_gettupleslot(trigdata->tg_newtable, true, false, state->new_slot);
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

/* The rules that apply to the row in the slots, a bit each. */
static uint64
crm_check_applies(CheckState *state)
{
	uint64 result = 0;

	for (int i = 0; i < state->rules->nrules; i++)
	{
		const DuplicateRule *rule = &state->rules->rule[i];

		if ((rule->events & state->event) == 0 ||
			(state->trigdata->tg_oldtable != NULL && !crm_check_changed(state, rule)))
			continue;
		if (rule->condition != NULL)
		{
			bool isnull;
			Datum value;

			if (state->condition[i] == NULL)
			{
				MemoryContext old = MemoryContextSwitchTo(state->econtext->ecxt_per_query_memory);

				state->condition[i] =
					ExecInitExpr(expression_planner((Expr *) copyObject(rule->condition)), NULL);
				MemoryContextSwitchTo(old);
			}
			state->econtext->ecxt_innertuple = state->old_slot;
			state->econtext->ecxt_outertuple = state->new_slot;
			value = ExecEvalExprSwitchContext(state->condition[i], state->econtext, &isnull);
			ResetExprContext(state->econtext);
			if (isnull || !DatumGetBool(value))
				continue;
		}
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
	int64 allocated = 16;
	uint64 all = 0, blocking = 0;
	MemoryContext row_context =
		AllocSetContextCreate(CurrentMemoryContext, "crm duplicate row", ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < state->rules->nrules; i++)
		if (state->rules->rule[i].action == DUPLICATE_BLOCK)
			blocking |= UINT64CONST(1) << i;
	state->applies = palloc(sizeof(uint64) * allocated);
	while (crm_check_next(state))
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);
		uint64 applies = crm_check_applies(state);

		if ((applies & blocking) != 0)
		{
			MatchValue values[MATCH_NROLES] = {0};

			crm_match_slot_values(state->rules->columns, state->new_slot, values);
			(void) crm_duplicate_locks_add(locks, values);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
		if (state->nrows == allocated)
		{
			allocated *= 2;
			state->applies = repalloc_huge(state->applies, sizeof(uint64) * allocated);
		}
		state->applies[state->nrows++] = applies;
		all |= applies;
	}
	MemoryContextDelete(row_context);
	if ((all & blocking) != 0)
		crm_duplicate_locks_take(locks);
	return all != 0;
}

static void
crm_check_row(CheckState *state, uint64 applies)
{
	const DuplicateRules *rules = state->rules;
	Relation rel = state->trigdata->tg_relation;
	float4 threshold = 1;
	bool isnull;
	int64 id = crm_check_id(slot_getattr(state->new_slot, rules->id_att, &isnull), rules->id_type);
	Found *found;
	int n;
	char *override;

	for (int i = 0; i < rules->nrules; i++)
		if ((applies & (UINT64CONST(1) << i)) != 0)
			threshold = Min(threshold, rules->rule[i].threshold);
	found = crm_check_find(rules, rel, crm_check_record(rules, state->new_slot, id), threshold, &n);
	if (n > 0)
		crm_check_decided(rules, id, found, &n);
	if (n == 0)
		return;
	crm_check_visible(rules, rel, found, n);
	override = crm_check_override();
	for (int i = 0; i < rules->nrules; i++)
	{
		const DuplicateRule *rule = &rules->rule[i];
		Found *matches;
		int nmatches;

		if ((applies & (UINT64CONST(1) << i)) == 0)
			continue;
		matches = crm_check_matches(rule, found, n, &nmatches);
		if (nmatches == 0)
			continue;
		switch (rule->action)
		{
			case DUPLICATE_BLOCK:
				if (override == NULL || !rule->allow_override)
					crm_check_block(state, rule, matches, nmatches);
				crm_check_log(rules, "override", rule->name, id, matches, nmatches, override);
				break;
			case DUPLICATE_RECORD:
				crm_check_record_pairs(rules, id, matches, nmatches);
				break;
			case DUPLICATE_WARN:
				crm_check_warn(state, rule, matches, nmatches);
				break;
		}
	}
}

static void
crm_check_statement(CheckState *state)
{
	Relation rel = state->trigdata->tg_relation;
	MemoryContext row_context;
	Snapshot snapshot;

	state->new_slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsMinimalTuple);
	state->new_pointer =
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
	state->econtext = CreateStandaloneExprContext();
	crm_check_rewind(state);

	if (crm_check_prepare(state))
	{
		/* What the statement wrote is to be seen, and what others committed before we had the
		 * locks. */
		CommandCounterIncrement();
		snapshot = RegisterSnapshot(GetLatestSnapshot());
		PushActiveSnapshot(snapshot);
		row_context = AllocSetContextCreate(CurrentMemoryContext, "crm duplicate row",
											ALLOCSET_DEFAULT_SIZES);
		crm_check_rewind(state);
		for (int64 i = 0; i < state->nrows && crm_check_next(state); i++)
			if (state->applies[i] != 0)
			{
				MemoryContext old = MemoryContextSwitchTo(row_context);

				crm_check_row(state, state->applies[i]);
				MemoryContextSwitchTo(old);
				MemoryContextReset(row_context);
			}
		MemoryContextDelete(row_context);
		PopActiveSnapshot();
		UnregisterSnapshot(snapshot);
		if (state->warnings > MAX_WARNINGS)
			ereport(WARNING, (errcode(ERRCODE_CRM_POSSIBLE_DUPLICATE),
							  errmsg(INT64_FORMAT " more rows may already exist",
									 state->warnings - MAX_WARNINGS)));
	}
	FreeExprContext(state->econtext, true);
	ExecDropSingleTupleTableSlot(state->old_slot);
	ExecDropSingleTupleTableSlot(state->new_slot);
}

static int
crm_check_event(TriggerData *trigdata)
{
	if (crm_duplicate_writer == DUPLICATE_BY_UNMERGE)
		return DUPLICATE_ON_UNDELETE;
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		return DUPLICATE_ON_UPDATE;
	if (ActivePortal != NULL && ActivePortal->commandTag == CMDTAG_COPY)
		return DUPLICATE_ON_IMPORT;
	return DUPLICATE_ON_INSERT;
}

PG_FUNCTION_INFO_V1(crm_check_duplicates);
Datum
crm_check_duplicates(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	CheckState state = {0};

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
	PG_TRY();
	{
		if ((state.rules->events & state.event) != 0)
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
	float4 threshold = 1;
	Found *found;
	int n, limit;
	int hidden = 0;
	Snapshot snapshot;

	InitMaterializedSRF(fcinfo, 0);
	rel = crm_table_open(PG_GETARG_OID(3), AccessShareLock);
	rules = crm_duplicate_table(rel, workspace, kind);
	limit = crm_check_limit(rules);
	if (!crm_check_take(rules) || (limit >= 0 && crm_check_count(rules) >= limit))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many checks for duplicates"),
				 errdetail("Setting duplicate_checks_per_minute of the workspace limits them "
						   "to %d a minute.",
						   limit),
				 errhint("Wait a minute.")));
	for (int i = 0; i < rules->nrules; i++)
		threshold = Min(threshold, rules->rule[i].threshold);
	if (rules->nrules == 0)
		threshold = DEFAULT_CHECK;

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(snapshot);
	found = crm_check_find(rules, rel, record, threshold, &n);
	if (n > 0)
		crm_check_visible(rules, rel, found, n);
	for (int i = 0; i < n; i++)
	{
		Datum values[6] = {0};
		bool nulls[6] = {false, true, true, true, true, true};
		Masked masked = {0};

		values[0] = BoolGetDatum(found[i].visible);
		if (found[i].visible)
		{
			values[1] = Int64GetDatum(found[i].id);
			values[2] = Float4GetDatum(found[i].score);
			nulls[1] = nulls[2] = false;
		}
		crm_check_masked(rules, rel, found[i].id, &masked);
		if (masked.team != NULL)
			values[3] = CStringGetTextDatum(masked.team);
		nulls[3] = masked.team == NULL;
		values[4] = CStringGetTextDatum(masked.claim_state);
		nulls[4] = false;
		hidden += !found[i].visible;
		if (!found[i].visible)
			values[5] = CStringGetTextDatum(masked.next_step);
		nulls[5] = found[i].visible;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	PopActiveSnapshot();
	UnregisterSnapshot(snapshot);
	crm_check_log(rules, "check", NULL, 0, found, n, NULL);
	/* duplicate_log forgets with the transaction, the server's log does not. */
	if (hidden > 0)
		ereport(LOG_SERVER_ONLY,
				(errmsg("member " INT64_FORMAT " of workspace %s was told of %d records of kind "
						"\"%s\" that they cannot see",
						crm_member_id(workspace), rules->schema, hidden, kind)));
	relation_close(rel, NoLock);
	return (Datum) 0;
}
