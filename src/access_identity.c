/*
 * access_identity.c
 *		Who the session says it acts for: the settings crm.token and crm.member.
 *
 * Nothing here looks at a table: a setting can change where no catalog can be
 * read, as when a transaction aborts.  access_scope.c finds out whether the
 * member exists.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "utils/guc.h"
#include "utils/plancache.h"

#include "access_scope.h"
#include "compat.h"
#include "crm.h"

/* Longer ones are no tokens; it bounds what is decoded at each statement. */
#define CRM_MAX_TOKEN 8192

static char *crm_member_setting = NULL;
static char *crm_token_setting = NULL;

/*
 * Whom the session's cached plans were made for: a setting as "sales/42", or
 * empty.  Plans suit one person's number of visible rows and badly another's,
 * so they are made anew for another person.  Nobody gets right answers, which
 * are empty, from any plan; so a pool that sets a member in each transaction
 * keeps its plans while the member stays the same.
 */
static char crm_plans_for[NAMEDATALEN + 21] = "";

/* Reads "workspace/id".  The name of a schema may contain a slash, an id does not. */
bool
crm_parse_member(const char *text, char *schema, int64 *member)
{
	const char *slash = strrchr(text, '/');
	int64 id = 0;

	if (slash == NULL || slash == text || slash - text >= NAMEDATALEN || slash[1] == '\0')
		return false;
	for (const char *p = slash + 1; *p != '\0'; p++)
	{
		int digit = *p - '0';

		if (digit < 0 || digit > 9 || id > (PG_INT64_MAX - digit) / 10)
			return false;
		id = id * 10 + digit;
	}
	if (id == 0)
		return false;
	memcpy(schema, text, slash - text);
	schema[slash - text] = '\0';
	*member = id;
	return true;
}

static bool
crm_member_check_hook(char **newval, void **extra, GucSource source)
{
	char schema[NAMEDATALEN];
	int64 member;

	if (*newval == NULL || **newval == '\0' || crm_parse_member(*newval, schema, &member))
		return true;
	GUC_check_errdetail(
		"The value must be a workspace and the id of a member, as in \"sales/42\".");
	return false;
}

static void
crm_plans_are_for(const char *person)
{
	if (strlen(person) < sizeof(crm_plans_for) && strcmp(crm_plans_for, person) == 0)
		return;
	ResetPlanCache();
	strlcpy(crm_plans_for, person, sizeof(crm_plans_for));
}

static void
crm_member_assign_hook(const char *newval, void *extra)
{
	crm_identity_changed();
	if (newval != NULL && *newval != '\0')
		crm_plans_are_for(newval);
}

static bool
crm_token_check_hook(char **newval, void **extra, GucSource source)
{
	if (*newval == NULL || strlen(*newval) <= CRM_MAX_TOKEN)
		return true;
	GUC_check_errmsg("invalid value for parameter \"crm.token\"");
	GUC_check_errdetail("A token has at most %d bytes.", CRM_MAX_TOKEN);
	return false;
}

/* Not what it is, lest it be copied. */
static const char *
crm_token_show_hook(void)
{
	return crm_token_setting != NULL && *crm_token_setting != '\0' ? "********" : "";
}

CrmClaim
crm_identity_claim(Oid workspace, int64 *member)
{
	char schema[NAMEDATALEN];

	if (crm_token_setting != NULL && *crm_token_setting != '\0')
	{
		crm_token_subject(crm_token_setting, schema, member);
		return get_namespace_oid(schema, true) == workspace ? CRM_CLAIM_TOKEN : CRM_CLAIM_ELSEWHERE;
	}
	if (crm_member_setting != NULL && *crm_member_setting != '\0')
	{
		if (!crm_parse_member(crm_member_setting, schema, member))
			elog(ERROR, "crm.member is not a member: \"%s\"", crm_member_setting);
		return get_namespace_oid(schema, true) == workspace ? CRM_CLAIM_GATEWAY
															: CRM_CLAIM_ELSEWHERE;
	}
	return CRM_CLAIM_NONE;
}

/* Errors unless the token is good; returns when it ends. */
TimestampTz
crm_identity_verify(Datum *keys, int nkeys)
{
	return crm_token_verify(crm_token_setting, keys, nkeys);
}

/*
 * crm.member is PGC_SUSET: only a superuser, and whoever was granted SET on
 * the parameter, can say who they are.  crm.token is for everybody, because it proves itself.
 */
void
crm_identity_init(void)
{
	DefineCustomStringVariable(
		"crm.member", "The member this session acts for, as in \"sales/42\".",
		"Empty: the member whose login_role is the session's user. To be set "
		"with SET LOCAL by a gateway that connects for many people.",
		&crm_member_setting, "", PGC_SUSET, GUC_NOT_IN_SAMPLE, crm_member_check_hook,
		crm_member_assign_hook, NULL);
	DefineCustomStringVariable(
		"crm.token", "A signed token that says which member this session acts for.",
		"A JSON Web Token, HS256. Anybody may set it; it counts before crm.member "
		"and is checked when it is used.",
		&crm_token_setting, "", PGC_USERSET, GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL,
		crm_token_check_hook, crm_member_assign_hook, crm_token_show_hook);
}
