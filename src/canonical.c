/*
 * canonical.c
 *		crm.canonicalize(): a trigger that brings text columns into canonical form.
 *
 * The columns of a workspace have built-in types, because client tools drop or
 * blur columns of types they do not know.  So a trigger stands where the input
 * functions of crm.email, crm.phone and crm.uscc would: its arguments say which
 * column holds what, and the same parsers rewrite the row.
 *
 * The arguments are resolved against the table once per relcache epoch.  A plan
 * is a set of rules (one per column) and compositions (a column made from two
 * others when it is null).  On UPDATE only columns whose value changes are
 * looked at, so that a value kept by an earlier, looser rule stands until someone
 * changes it.
 *
 * All faults of a row are reported in one error.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "amount.h"
#include "compat.h"
#include "crm.h"
#include "domain.h"
#include "email.h"
#include "fault.h"
#include "invalidation.h"
#include "phone.h"
#include "spelling.h"
#include "uscc.h"

/*
 * crm.strict_input: whether the trigger refuses what it cannot parse.  Off, it
 * keeps the text, trimmed: a number whose country nobody told, or a code from
 * before the standard, is worth more than a load that stops.
 */
static bool crm_strict_input = false;

typedef enum CanonicalKind
{
	KIND_COUNTRY, /* first: KIND_PHONE looks at the result */
	KIND_NAME,
	KIND_PHONE,
	KIND_EMAIL,
	KIND_USCC,
	KIND_DOMAIN,
	KIND_WEBSITE,
	KIND_CURRENCY
} CanonicalKind;

#define NUM_KINDS (KIND_CURRENCY + 1)

/* What arguments call the kind, and what messages call it. */
static const struct
{
	const char *name;
	const char *noun;
} canonical_kinds[NUM_KINDS] = {
	[KIND_COUNTRY] = {"country", "country code"},
	[KIND_NAME] = {"name", "name"},
	[KIND_PHONE] = {"phone", "telephone number"},
	[KIND_EMAIL] = {"email", "e-mail address"},
	[KIND_USCC] = {"uscc", "unified social credit code"},
	[KIND_DOMAIN] = {"domain", "domain name"},
	[KIND_WEBSITE] = {"website", "web address"},
	[KIND_CURRENCY] = {"currency", "currency code"},
};

typedef struct CanonicalRule
{
	AttrNumber attnum;
	CanonicalKind kind;
} CanonicalRule;

typedef struct CanonicalComposition
{
	AttrNumber target;
	AttrNumber given;
	AttrNumber family;
} CanonicalComposition;

/* What one trigger does to the rows of one table. */
typedef struct CanonicalPlan
{
	Oid trigger; /* hash key */
	Oid relation;
	bool valid;
	MemoryContext context; /* holds the arrays */
	int nrules;
	CanonicalRule *rules;
	int ncompositions;
	CanonicalComposition *compositions;
	AttrNumber country; /* 0 if the table has no text column of that name */
} CanonicalPlan;

/* The row at hand: values as they will be written, and the faults found. */
typedef struct CanonicalRow
{
	TupleDesc desc;
	HeapTuple old; /* NULL on INSERT */
	Datum *values;
	bool *nulls;
	bool *replace;
	bool changed;
	int nfaults;
	const CanonicalRule *faulty; /* of the first fault */
	char *faulty_value;
	CrmFault fault;
	StringInfoData details; /* a line for each fault */
} CanonicalRow;

static HTAB *canonical_plans = NULL;
static MemoryContext canonical_context = NULL;
static int64 canonical_rebuilds = 0;

void
crm_canonical_init(void)
{
	DefineCustomBoolVariable("crm.strict_input",
							 "Whether crm.canonicalize() refuses values it cannot parse.",
							 "Off, such a value is kept as trimmed text.", &crm_strict_input, false,
							 PGC_USERSET, 0, NULL, NULL, NULL);
}

/* Marks plans of a changed table; they are rebuilt when next needed. */
static void
crm_canonical_invalidate(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	CanonicalPlan *plan;

	(void) arg;
	hash_seq_init(&status, canonical_plans);
	while ((plan = hash_seq_search(&status)) != NULL)
		if (relid == InvalidOid || plan->relation == relid)
			plan->valid = false;
}

static void
crm_canonical_create_cache(void)
{
	HASHCTL ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(CanonicalPlan)};

	if (canonical_context == NULL)
		canonical_context =
			AllocSetContextCreate(CacheMemoryContext, "crm canonicalize", ALLOCSET_SMALL_SIZES);
	ctl.hcxt = canonical_context;
	canonical_plans =
		hash_create("crm canonicalize plans", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	crm_register_relcache_callback(crm_canonical_invalidate, (Datum) 0);
}

static bool
crm_canonical_type(Form_pg_attribute att)
{
	Oid base = att->attisdropped ? InvalidOid : getBaseType(att->atttypid);

	return base == TEXTOID || base == VARCHAROID || base == BPCHAROID;
}

/* The column an argument names; it must be able to hold canonical text. */
static AttrNumber
crm_canonical_column(Relation rel, const char *trigger, const char *name, bool written)
{
	TupleDesc desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || strcmp(NameStr(att->attname), name) != 0)
			continue;
		if (!crm_canonical_type(att))
			ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
							errmsg("trigger \"%s\" cannot canonicalize column \"%s\" of type %s",
								   trigger, name, format_type_be(att->atttypid)),
							errdetail("crm.canonicalize() works on columns of type text, character "
									  "varying and character."),
							errtablecol(rel, att->attnum)));
		if (written && att->attgenerated != '\0')
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("trigger \"%s\" cannot canonicalize column \"%s\"", trigger, name),
					 errdetail("Column \"%s\" is a generated column.", name),
					 errtablecol(rel, att->attnum)));
		return att->attnum;
	}
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
					errmsg("column \"%s\" of relation \"%s\" does not exist", name,
						   RelationGetRelationName(rel)),
					errdetail("It is an argument of trigger \"%s\".", trigger),
					errhint("Create the trigger anew for the columns that the table has."),
					errtable(rel)));
	return InvalidAttrNumber;
}

/* Reads one argument, "column=kind" or "column=given,family", into the plan. */
static void
crm_canonical_argument(CanonicalPlan *plan, Relation rel, const char *trigger, const char *argument)
{
	char *column = pstrdup(argument);
	char *kind = strchr(column, '=');
	char *comma;

	if (kind != NULL)
		*kind++ = '\0';
	else
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid argument \"%s\" of trigger \"%s\"", argument, trigger),
						errhint("Write each argument as 'column=kind', or as "
								"'full_name=given_name,family_name'.")));
	comma = strchr(kind, ',');
	if (comma != NULL)
	{
		CanonicalComposition *composition = &plan->compositions[plan->ncompositions];

		*comma++ = '\0';
		composition->target = crm_canonical_column(rel, trigger, column, true);
		composition->given = crm_canonical_column(rel, trigger, kind, false);
		composition->family = crm_canonical_column(rel, trigger, comma, false);
		plan->ncompositions++;
		return;
	}
	for (int i = 0; i < NUM_KINDS; i++)
	{
		if (strcmp(canonical_kinds[i].name, kind) != 0)
			continue;
		plan->rules[plan->nrules].attnum = crm_canonical_column(rel, trigger, column, true);
		plan->rules[plan->nrules].kind = (CanonicalKind) i;
		plan->nrules++;
		return;
	}
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("unrecognized kind \"%s\" in argument \"%s\" of trigger \"%s\"", kind,
						   argument, trigger),
					errhint("The kinds are name, phone, email, uscc, domain, website, country "
							"and currency.")));
}

static int
crm_compare_rules(const void *a, const void *b)
{
	return (int) ((const CanonicalRule *) a)->kind - (int) ((const CanonicalRule *) b)->kind;
}

/* Resolves the trigger's arguments against the table as it is now. */
static void
crm_canonical_build(CanonicalPlan *plan, Relation rel, Trigger *trigger)
{
	TupleDesc desc = RelationGetDescr(rel);
	MemoryContext caller;

	plan->valid = false;
	plan->relation = RelationGetRelid(rel);
	if (plan->context != NULL)
		MemoryContextReset(plan->context);
	else
		plan->context =
			AllocSetContextCreate(canonical_context, "crm canonicalize plan", ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(plan->context);
	plan->nrules = 0;
	plan->ncompositions = 0;
	plan->country = InvalidAttrNumber;
	plan->rules = palloc0((trigger->tgnargs + 1) * sizeof(CanonicalRule));
	plan->compositions = palloc0((trigger->tgnargs + 1) * sizeof(CanonicalComposition));
	/* An invalidation while the arguments are looked up makes this plan stale at once. */
	plan->valid = true;
	PG_TRY();
	{
		for (int i = 0; i < trigger->tgnargs; i++)
			crm_canonical_argument(plan, rel, trigger->tgname, trigger->tgargs[i]);
	}
	PG_CATCH();
	{
		plan->valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	qsort(plan->rules, plan->nrules, sizeof(CanonicalRule), crm_compare_rules);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (crm_canonical_type(att) && strcmp(NameStr(att->attname), "country") == 0)
			plan->country = att->attnum;
	}
	MemoryContextSwitchTo(caller);
	canonical_rebuilds++;
}

static CanonicalPlan *
crm_canonical_plan(Relation rel, Trigger *trigger)
{
	CanonicalPlan *plan;
	bool found;

	if (canonical_plans == NULL)
		crm_canonical_create_cache();
	plan = hash_search(canonical_plans, &trigger->tgoid, HASH_ENTER, &found);
	if (!found)
	{
		plan->valid = false;
		plan->context = NULL;
	}
	if (!plan->valid || plan->relation != RelationGetRelid(rel))
		crm_canonical_build(plan, rel, trigger);
	return plan;
}

/* Whether a column is of type character, or a domain over it; plain types need no lookup. */
static bool
crm_is_padded(Form_pg_attribute att)
{
	return att->atttypid != TEXTOID && att->atttypid != VARCHAROID &&
		   getBaseType(att->atttypid) == BPCHAROID;
}

/* The text of a column's value, without the padding of type character.  Not terminated. */
static char *
crm_column_text(TupleDesc desc, AttrNumber attnum, Datum value, size_t *len)
{
	text *packed = DatumGetTextPP(value);

	*len = VARSIZE_ANY_EXHDR(packed);
	if (crm_is_padded(TupleDescAttr(desc, attnum - 1)))
		*len = bpchartruelen(VARDATA_ANY(packed), (int) *len);
	return VARDATA_ANY(packed);
}

/* A column of the row as a string; NULL if it is null or empty. */
static char *
crm_row_string(CanonicalRow *row, AttrNumber attnum)
{
	size_t len;
	char *value;

	if (row->nulls[attnum - 1])
		return NULL;
	value = crm_column_text(row->desc, attnum, row->values[attnum - 1], &len);
	return len > 0 ? pnstrdup(value, len) : NULL;
}

/* A column of the row before the UPDATE as a string; NULL if it is null or empty. */
static char *
crm_old_string(CanonicalRow *row, AttrNumber attnum)
{
	bool isnull;
	size_t len;
	char *text;
	Datum value = heap_getattr(row->old, attnum, row->desc, &isnull);

	if (isnull)
		return NULL;
	text = crm_column_text(row->desc, attnum, value, &len);
	return len > 0 ? pnstrdup(text, len) : NULL;
}

/* Whether the statement gives the column a value it did not have. */
static bool
crm_column_changes(CanonicalRow *row, AttrNumber attnum)
{
	Form_pg_attribute att = TupleDescAttr(row->desc, attnum - 1);
	bool isnull;
	Datum old;

	if (row->old == NULL)
		return true;
	old = heap_getattr(row->old, attnum, row->desc, &isnull);
	if (isnull != row->nulls[attnum - 1])
		return true;
	return !isnull && !datum_image_eq(old, row->values[attnum - 1], att->attbyval, att->attlen);
}

static void
crm_row_set(CanonicalRow *row, AttrNumber attnum, const char *value)
{
	row->nulls[attnum - 1] = value == NULL;
	row->values[attnum - 1] = value != NULL ? CStringGetTextDatum(value) : (Datum) 0;
	row->replace[attnum - 1] = true;
	row->changed = true;
}

/*
 * The country whose national telephone numbers the row means: its own if it names
 * one, else the setting's.
 */
static const char *
crm_row_region(CanonicalRow *row, const CanonicalPlan *plan)
{
	char *country;

	if (plan->country != InvalidAttrNumber)
	{
		country = crm_row_string(row, plan->country);
		if (country != NULL && crm_region_is_known(country))
			return pstrdup(
				(char[]){crm_ascii_upper(country[0]), crm_ascii_upper(country[1]), '\0'});
	}
	return crm_default_region_or_null();
}

/* Two letters of ISO 3166-1; which are in use is not asked, for countries come and go. */
static bool
crm_country_parse(const char *in, size_t len, char *out, CrmFault *fault)
{
	char text[3];

	if (crm_input_fold(in, len, text, 2) != 2 || !crm_ascii_alpha(text[0]) ||
		!crm_ascii_alpha(text[1]))
		return crm_fault(fault, "A country code has two letters (ISO 3166-1 alpha-2).",
						 "For example CN, DE or US.");
	out[0] = crm_ascii_upper(text[0]);
	out[1] = crm_ascii_upper(text[1]);
	out[2] = '\0';
	return true;
}

/* Parses a value by its kind.  Returns a palloc'd string, or NULL and the fault. */
static char *
crm_canonical_value(CanonicalRow *row, const CanonicalPlan *plan, CanonicalKind kind,
					const char *value, size_t len, CrmFault *fault)
{
	char out[CRM_WEBSITE_MAX + 1];
	char host[CRM_WEBSITE_MAX + 1];
	ptrdiff_t n;
	size_t tidy_len;
	bool good = false;

	switch (kind)
	{
		case KIND_NAME:
			return crm_tidy(value, len, &tidy_len);
		case KIND_PHONE:
			good = crm_phone_is_canonical(value, len)
					   ? crm_phone_parse(value, len, NULL, out, fault)
					   : crm_phone_parse(value, len, crm_row_region(row, plan), out, fault);
			break;
		case KIND_EMAIL:
			good = crm_email_parse(value, len, out, fault);
			break;
		case KIND_USCC:
			good = crm_uscc_parse(value, len, out, fault);
			break;
		case KIND_DOMAIN:
			n = crm_input_fold(value, len, host, CRM_WEBSITE_MAX);
			good = n < 0 ? crm_fault(fault, "The domain is longer than 253 octets.", NULL)
						 : crm_domain_parse(host, n, out, fault);
			break;
		case KIND_WEBSITE:
			good = crm_website_parse(value, len, out, fault);
			break;
		case KIND_COUNTRY:
			good = crm_country_parse(value, len, out, fault);
			break;
		case KIND_CURRENCY:
			good = crm_currency_parse(value, len, out, fault);
			break;
	}
	return good ? pstrdup(out) : NULL;
}

/* Notes a value that was refused. */
static void
crm_row_fault(CanonicalRow *row, const CanonicalRule *rule, const char *value, size_t len,
			  const CrmFault *fault)
{
	char *shown = crm_clip(value, len);

	if (fault->broken)
		ereport(ERROR, (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
						errmsg("could not read a %s", canonical_kinds[rule->kind].noun),
						errdetail("%s", fault->detail)));
	if (row->nfaults++ == 0)
	{
		initStringInfo(&row->details);
		row->faulty = rule;
		row->faulty_value = shown;
		row->fault = *fault;
	}
	else
		appendStringInfoChar(&row->details, '\n');
	appendStringInfo(&row->details, "Column \"%s\" has \"%s\": %s",
					 NameStr(TupleDescAttr(row->desc, rule->attnum - 1)->attname), shown,
					 fault->detail);
}

static void
crm_row_report(CanonicalRow *row, Relation rel)
{
	static const char *const keep = "To keep such values as text, set crm.strict_input to off.";

	if (row->nfaults == 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
						errmsg("invalid %s in column \"%s\" of table \"%s\": \"%s\"",
							   canonical_kinds[row->faulty->kind].noun,
							   NameStr(TupleDescAttr(row->desc, row->faulty->attnum - 1)->attname),
							   RelationGetRelationName(rel), row->faulty_value),
						errdetail("%s", row->fault.detail),
						errhint("%s", row->fault.hint != NULL ? row->fault.hint : keep),
						errtablecol(rel, row->faulty->attnum)));
	ereport(ERROR, (errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
					errmsg("%d invalid values in a row of table \"%s\"", row->nfaults,
						   RelationGetRelationName(rel)),
					errdetail("%s", row->details.data), errhint("%s", keep), errtable(rel)));
}

static void
crm_row_apply_rule(CanonicalRow *row, const CanonicalPlan *plan, const CanonicalRule *rule)
{
	size_t len;
	size_t tidy_len;
	char *value;
	char *canonical;
	CrmFault fault;

	if (row->nulls[rule->attnum - 1] || !crm_column_changes(row, rule->attnum))
		return;
	value = crm_column_text(row->desc, rule->attnum, row->values[rule->attnum - 1], &len);
	canonical = crm_canonical_value(row, plan, rule->kind, value, len, &fault);
	if (canonical == NULL)
	{
		/* What shows nothing is no value, of whatever kind. */
		canonical = crm_tidy(value, len, &tidy_len);
		if (crm_strict_input && tidy_len > 0)
		{
			crm_row_fault(row, rule, value, len, &fault);
			return;
		}
	}
	if (canonical[0] == '\0')
		crm_row_set(row, rule->attnum, NULL);
	else if (strlen(canonical) != len || memcmp(canonical, value, len) != 0)
		crm_row_set(row, rule->attnum, canonical);
}

/*
 * Fills in a name from its parts if it is null, or if it was made from the old parts
 * and only the parts change.
 */
static void
crm_row_compose(CanonicalRow *row, const CanonicalComposition *composition)
{
	char *current = crm_row_string(row, composition->target);
	char *composed;

	if (current != NULL)
	{
		char *was;

		if (row->old == NULL || crm_column_changes(row, composition->target) ||
			(!crm_column_changes(row, composition->given) &&
			 !crm_column_changes(row, composition->family)))
			return;
		was = crm_full_name(crm_old_string(row, composition->given),
							crm_old_string(row, composition->family));
		if (was == NULL || strcmp(was, current) != 0)
			return;
	}
	composed = crm_full_name(crm_row_string(row, composition->given),
							 crm_row_string(row, composition->family));
	if (composed != NULL || current != NULL)
		crm_row_set(row, composition->target, composed);
}

/*
 * Makes new values of columns that are not plain text what their types ask for: the
 * executor checks neither lengths nor domains after a BEFORE trigger.  A domain's
 * constraint may run any code, this trigger included, so no plan is looked at here.
 */
static void
crm_row_coerce(CanonicalRow *row)
{
	for (int i = 0; i < row->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(row->desc, i);
		int32 typmod = att->atttypmod;
		Oid base;

		if (!row->replace[i])
			continue;
		base = getBaseTypeAndTypmod(att->atttypid, &typmod);
		if (!row->nulls[i] && base != TEXTOID)
			row->values[i] =
				DirectFunctionCall3(base == BPCHAROID ? bpchar : varchar, row->values[i],
									Int32GetDatum(typmod), BoolGetDatum(false));
		if (base != att->atttypid)
			domain_check(row->values[i], row->nulls[i], att->atttypid, NULL, NULL);
	}
}

PG_FUNCTION_INFO_V1(crm_canonicalize);
Datum
crm_canonicalize(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	CanonicalPlan *plan;
	CanonicalRow row = {0};
	HeapTuple tuple;
	int natts;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(data->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		!(TRIGGER_FIRED_BY_INSERT(data->tg_event) || TRIGGER_FIRED_BY_UPDATE(data->tg_event)))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("crm.canonicalize() must be called as a trigger BEFORE INSERT OR "
							   "UPDATE, FOR EACH ROW")));

	plan = crm_canonical_plan(data->tg_relation, data->tg_trigger);
	row.desc = RelationGetDescr(data->tg_relation);
	natts = row.desc->natts;
	tuple = data->tg_trigtuple;
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
	{
		row.old = data->tg_trigtuple;
		tuple = data->tg_newtuple;
	}
	row.values = palloc(natts * sizeof(Datum));
	row.nulls = palloc(natts * sizeof(bool));
	row.replace = palloc0(natts * sizeof(bool));
	heap_deform_tuple(tuple, row.desc, row.values, row.nulls);

	for (int i = 0; i < plan->nrules; i++)
		crm_row_apply_rule(&row, plan, &plan->rules[i]);
	if (row.nfaults > 0)
		crm_row_report(&row, data->tg_relation);
	for (int i = 0; i < plan->ncompositions; i++)
		crm_row_compose(&row, &plan->compositions[i]);
	if (!row.changed)
		return PointerGetDatum(tuple);
	crm_row_coerce(&row);
	return PointerGetDatum(heap_modify_tuple(tuple, row.desc, row.values, row.nulls, row.replace));
}

/* Declared in SQL by the test module only. */
PG_FUNCTION_INFO_V1(crm_canonicalize_rebuilds);
Datum
crm_canonicalize_rebuilds(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(canonical_rebuilds);
}
