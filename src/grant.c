/*
 * grant.c
 *		Passing on privileges on the toolkit.
 *
 * The toolkit's functions belong to a superuser even when a database owner
 * installed the (trusted) extension.  Privileges on them are granted as that
 * owner, so that pg_dump writes them as plain GRANTs which whoever restores the
 * database can replay.  The caller's right to do so is checked first, as the
 * caller; the SQL that follows takes two OIDs and no text.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "compat.h"
#include "crm.h"
#include "workspace.h"

/* Owner of the SQL function being executed, which is the owner of the toolkit. */
static Oid
crm_function_owner(Oid function)
{
	HeapTuple tup = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid owner;

	if (!HeapTupleIsValid(tup))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tup))->proowner;
	ReleaseSysCache(tup);
	return owner;
}

static bool
crm_query_bool(const char *query, int nargs, Oid *types, Datum *values)
{
	bool isnull;
	int rc = SPI_execute_with_args(query, nargs, types, values, NULL, true, 1);

	if (rc != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "unexpected result of \"%s\": %d", query, rc);
	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)) &&
		   !isnull;
}

/* Runs crm._sync_toolkit(role, whole) as the owner of the toolkit. */
static void
crm_sync_toolkit(Oid owner, Oid role, bool whole)
{
	Oid types[] = {OIDOID, BOOLOID};
	Datum values[] = {ObjectIdGetDatum(role), BoolGetDatum(whole)};
	Oid save_userid;
	int save_sec_context;

	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	SetUserIdAndSecContext(owner, save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
									  SECURITY_RESTRICTED_OPERATION);
	if (SPI_execute_with_args("SELECT crm._sync_toolkit($1, $2)", 2, types, values, NULL, false,
							  0) != SPI_OK_SELECT)
		elog(ERROR, "could not update privileges on the toolkit");
	SetUserIdAndSecContext(save_userid, save_sec_context);
}

PG_FUNCTION_INFO_V1(crm_grant_toolkit_for_workspace);
Datum
crm_grant_toolkit_for_workspace(PG_FUNCTION_ARGS)
{
	Oid role = PG_GETARG_OID(0);
	Oid workspace = PG_GETARG_OID(1);
	Oid owner = crm_function_owner(fcinfo->flinfo->fn_oid);
	Oid types[] = {OIDOID};
	Datum values[] = {ObjectIdGetDatum(role)};

	crm_check_workspace(workspace);
	if (!has_privs_of_role(GetUserId(), crm_workspace_owner(workspace)))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_SCHEMA, get_namespace_name(workspace));
	if (role != owner)
	{
		SPI_connect();
		crm_sync_toolkit(owner, role,
						 crm_query_bool("SELECT crm._holds_toolkit($1)", 1, types, values));
		SPI_finish();
	}
	PG_RETURN_VOID();
}

static void
crm_change_toolkit(FunctionCallInfo fcinfo, bool whole)
{
	Oid role = get_role_oid(NameStr(*PG_GETARG_NAME(0)), false);
	Oid owner = crm_function_owner(fcinfo->flinfo->fn_oid);

	SPI_connect();
	if (!crm_query_bool("SELECT pg_catalog.pg_has_role('pg_database_owner', 'USAGE') OR EXISTS "
						"(SELECT FROM pg_catalog.pg_extension AS e "
						"WHERE e.extname OPERATOR(pg_catalog.=) 'crm' AND "
						"pg_catalog.pg_has_role(e.extowner, 'USAGE'))",
						0, NULL, NULL))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_EXTENSION, "crm");
	if (role != owner)
		crm_sync_toolkit(owner, role, whole);
	SPI_finish();
}

PG_FUNCTION_INFO_V1(crm_grant_toolkit);
Datum
crm_grant_toolkit(PG_FUNCTION_ARGS)
{
	crm_change_toolkit(fcinfo, true);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(crm_revoke_toolkit);
Datum
crm_revoke_toolkit(PG_FUNCTION_ARGS)
{
	crm_change_toolkit(fcinfo, false);
	PG_RETURN_VOID();
}
