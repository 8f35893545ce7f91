/*
 * match_column.c
 *		Which columns of a table say what, read from the table's matching index.
 *
 * The index is the configuration: its expression is
 *		crm.match_keys('company,phone,...', name, phone, ...)
 * so that a table of the user's own needs nothing but an index.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_opclass.h"
#include "catalog/pg_type.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "crm.h"
#include "match.h"
#include "match_index.h"

static const char *const role_names[MATCH_NROLES] = {
	[MATCH_COMPANY] = "company",
	[MATCH_GIVEN_NAME] = "given_name",
	[MATCH_FAMILY_NAME] = "family_name",
	[MATCH_PERSON] = "full_name",
	[MATCH_PHONE] = "phone",
	[MATCH_EMAIL] = "email",
	[MATCH_TAX_ID] = "tax_id",
	[MATCH_WEBSITE] = "website",
	[MATCH_STREET] = "street",
	[MATCH_CITY] = "city",
	[MATCH_REGION] = "region",
	[MATCH_POSTCODE] = "postcode",
	[MATCH_COUNTRY] = "country",
	[MATCH_BIRTH_DATE] = "birth_date",
	[MATCH_NATIONAL_ID] = "national_id",
};

const char *
crm_match_role_name(MatchRole role)
{
	return role_names[role];
}

int
crm_match_role(const char *name, size_t len)
{
	for (int i = 0; i < MATCH_NROLES; i++)
		if (strlen(role_names[i]) == len && memcmp(role_names[i], name, len) == 0)
			return i;
	return -1;
}

int
crm_match_parse_model(const char *model, MatchRole roles[MATCH_NROLES])
{
	int n = 0;
	const char *p = model;

	for (;;)
	{
		const char *end = strchr(p, ',');
		size_t len = end ? (size_t) (end - p) : strlen(p);
		int role = crm_match_role(p, len);

		if (role < 0 || n == MATCH_NROLES)
			return -1;
		for (int i = 0; i < n; i++)
			if (roles[i] == (MatchRole) role)
				return -1;
		roles[n++] = role;
		if (end == NULL)
			return n;
		p = end + 1;
	}
}

int
crm_match_check_model(const char *model, int nvalues, MatchRole roles[MATCH_NROLES])
{
	int nroles = crm_match_parse_model(model, roles);

	if (nroles < 0)
	{
		StringInfoData known;

		initStringInfo(&known);
		for (int i = 0; i < MATCH_NROLES; i++)
			appendStringInfo(&known, "%s%s", i ? ", " : "", role_names[i]);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid list of roles: \"%s\"", model),
				 errdetail("Roles are separated by commas, without spaces, each at most once: %s.",
						   known.data)));
	}
	if (nroles != nvalues)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("crm.match_keys() has %d roles and %d values", nroles, nvalues)));
	return nroles;
}

void
crm_match_check_type(Oid type)
{
	Oid base = getBaseType(type);

	/* What is text by another name, such as citext, is as good. */
	if (base != BPCHAROID && base != NAMEOID && base != DATEOID && base != UNKNOWNOID &&
		!IsBinaryCoercible(base, TEXTOID))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("crm.match_keys() cannot read a value of type %s", format_type_be(type)),
				 errhint("Values are text or, for birth_date, date.")));
}

/*
 * A value as text, cut at MATCH_MAX_VALUE bytes.  The text may point into the
 * datum or into memory of the current context.
 */
bool
crm_match_value(Datum value, Oid type, MatchValue *out)
{
	if (type == DATEOID)
	{
		DateADT date = DatumGetDateADT(value);
		int year, month, day;
		char *text;

		if (DATE_NOT_FINITE(date))
			return false;
		j2date(date + POSTGRES_EPOCH_JDATE, &year, &month, &day);
		if (year < 1 || year > 9999)
			return false;
		text = palloc(16);
		out->len = snprintf(text, 16, "%04d-%02d-%02d", year, month, day);
		out->data = text;
		return true;
	}
	if (type == UNKNOWNOID)
	{
		out->data = DatumGetCString(value);
		out->len = (int) strlen(out->data);
	}
	else if (type == NAMEOID)
	{
		out->data = NameStr(*DatumGetName(value));
		out->len = (int) strlen(out->data);
	}
	else
	{
		text *t;

		/* A longer value is not read whole only to be cut. */
		if (VARATT_IS_EXTERNAL(DatumGetPointer(value)) ||
			VARATT_IS_COMPRESSED(DatumGetPointer(value)))
			t = DatumGetTextPSlice(value, 0, MATCH_MAX_VALUE);
		else
			t = (text *) DatumGetPointer(value);
		out->data = VARDATA_ANY(t);
		out->len = VARSIZE_ANY_EXHDR(t);
	}
	if (out->len > MATCH_MAX_VALUE)
		out->len = MATCH_MAX_VALUE;
	while (out->len > 0 && (unsigned char) out->data[0] <= ' ')
		out->data++, out->len--;
	while (out->len > 0 && (unsigned char) out->data[out->len - 1] <= ' ')
		out->len--;
	return out->len > 0;
}

static Oid
crm_match_keys_function(void)
{
	Oid argtypes[2] = {TEXTOID, ANYOID};

	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum("match_keys"),
						   PointerGetDatum(buildoidvector(argtypes, 2)),
						   ObjectIdGetDatum(get_namespace_oid("crm", false)));
}

/* An index is refused when it is made, not when the first row is. */
void
crm_match_check_index(List *expressions)
{
	FuncExpr *call = expressions ? linitial(expressions) : NULL;
	Const *model;
	MatchRole roles[MATCH_NROLES];
	ListCell *lc;

	if (call == NULL || !IsA(call, FuncExpr) || call->funcid != crm_match_keys_function() ||
		call->funcvariadic)
		return;
	model = linitial(call->args);
	if (!IsA(model, Const) || model->constisnull)
		return;
	crm_match_check_model(TextDatumGetCString(model->constvalue), list_length(call->args) - 1,
						  roles);
	for_each_from(lc, call->args, 1) crm_match_check_type(exprType(lfirst(lc)));
}

/* Reads one index; NULL if it is no matching index. */
static MatchColumns *
crm_read_index(Relation rel, Relation index, Oid keys_function)
{
	List *expressions = RelationGetIndexExpressions(index);
	MatchColumns *columns;
	FuncExpr *call;
	Const *model;
	MatchRole roles[MATCH_NROLES];
	int nroles, i = 0;
	ListCell *lc;

	if (!crm_is_match_index(index) || list_length(expressions) != 1 ||
		index->rd_index->indnkeyatts != 1 || RelationGetIndexPredicate(index) != NIL)
		return NULL;
	call = linitial(expressions);
	if (!IsA(call, FuncExpr) || call->funcid != keys_function || list_length(call->args) < 2)
		return NULL;
	model = linitial(call->args);
	if (!IsA(model, Const) || model->constisnull)
		return NULL;

	columns = palloc0(sizeof(MatchColumns));
	columns->relid = RelationGetRelid(rel);
	columns->indexid = RelationGetRelid(index);
	columns->model = TextDatumGetCString(model->constvalue);
	nroles = crm_match_parse_model(columns->model, roles);
	if (nroles != list_length(call->args) - 1)
		return NULL;
	for_each_from(lc, call->args, 1)
	{
		Node *arg = strip_implicit_coercions(lfirst(lc));
		Var *var = (Var *) arg;

		if (IsA(arg, RelabelType))
			var = (Var *) ((RelabelType *) arg)->arg;
		/* An argument that is no column, such as a blank literal, plays no part in lookups. */
		if (IsA(var, Var) && var->varattno > 0)
		{
			columns->role[columns->ncolumns] = roles[i];
			columns->attnum[columns->ncolumns] = var->varattno;
			columns->type[columns->ncolumns] = getBaseType(var->vartype);
			columns->name[columns->ncolumns] =
				pstrdup(NameStr(TupleDescAttr(RelationGetDescr(rel), var->varattno - 1)->attname));
			columns->ncolumns++;
		}
		i++;
	}
	return columns;
}

MatchColumns *
crm_match_columns(Relation rel, bool missing_ok)
{
	List *indexes = RelationGetIndexList(rel);
	Oid function = crm_match_keys_function();
	MatchColumns *columns = NULL;
	ListCell *lc;

	foreach (lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indisvalid)
			columns = crm_read_index(rel, index, function);
		index_close(index, AccessShareLock);
		if (columns != NULL)
			break;
	}
	list_free(indexes);
	if (columns == NULL && !missing_ok)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table \"%s\" has no matching index", RelationGetRelationName(rel)),
						errdetail("Records are found through a valid index on "
								  "crm.match_keys(...), without a condition."),
						errhint("CREATE INDEX ON %s USING crm_match "
								"(crm.match_keys('company,phone', name, phone))",
								RelationGetRelationName(rel))));
	return columns;
}

void
crm_match_slot_values(const MatchColumns *columns, TupleTableSlot *slot,
					  MatchValue values[MATCH_NROLES])
{
	for (int i = 0; i < columns->ncolumns; i++)
	{
		bool isnull;
		Datum datum = slot_getattr(slot, columns->attnum[i], &isnull);
		MatchValue value;

		if (!isnull && crm_match_value(datum, columns->type[i], &value))
			values[columns->role[i]] = value;
	}
}
