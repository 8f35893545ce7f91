/*
 * workspace.c
 *		Finding a workspace and its tables from C, and the marker trigger that
 *		makes a schema a workspace.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "crm.h"
#include "workspace.h"

Oid
crm_workspace_table(Oid workspace, const char *name, bool missing_ok)
{
	Oid relid = get_relname_relid(name, workspace);

	if (!OidIsValid(relid) && !missing_ok)
	{
		char *schema = get_namespace_name(workspace);

		if (schema == NULL)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_SCHEMA),
							errmsg("schema with OID %u does not exist", workspace)));
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("workspace \"%s\" has no table \"%s\"", schema, name),
						errhint("Run SELECT crm.upgrade_workspace('%s').", schema)));
	}
	return relid;
}

Relation
crm_table_open(Oid relid, LOCKMODE lockmode)
{
	Relation rel = try_table_open(relid, lockmode);

	if (rel == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation with OID %u does not exist", relid)));
	return rel;
}

/*
 * The marker is a trigger on crm_meta whose function is ours: it survives
 * pg_dump, a dump of one schema, and pg_upgrade, and being restored after the
 * data it makes a workspace visible only when it is whole.
 */
bool
crm_is_workspace(Oid schema)
{
	Oid relid = get_relname_relid("crm_meta", schema);
	Relation rel;
	bool found = false;

	if (!OidIsValid(relid))
		return false;

	/* A view of that name could run its owner's code when we read the version. */
	if (get_rel_relkind(relid) != RELKIND_RELATION)
		return false;
	rel = table_open(relid, AccessShareLock);
	if (rel->trigdesc != NULL)
	{
		for (int i = 0; i < rel->trigdesc->numtriggers && !found; i++)
		{
			Oid fn = rel->trigdesc->triggers[i].tgfoid;
			char *name = get_func_name(fn);

			found = name != NULL && strcmp(name, "meta_guard") == 0 &&
					get_func_namespace(fn) == get_namespace_oid("crm", true);
		}
	}
	table_close(rel, AccessShareLock);
	return found;
}

static void
crm_refuse_workspace(const char *name, Oid schema)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_SCHEMA_NAME),
			 name ? errmsg("schema \"%s\" is not a crm workspace", name)
				  : errmsg("schema with OID %u does not exist", schema),
			 errhint("SELECT * FROM crm.workspaces() lists the workspaces of this database.")));
}

void
crm_check_workspace(Oid schema)
{
	if (!crm_is_workspace(schema))
		crm_refuse_workspace(get_namespace_name(schema), schema);
}

Oid
crm_workspace_owner(Oid workspace)
{
	HeapTuple tup = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(workspace));
	Oid owner;

	if (!HeapTupleIsValid(tup))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_SCHEMA),
						errmsg("schema with OID %u does not exist", workspace)));
	owner = ((Form_pg_namespace) GETSTRUCT(tup))->nspowner;
	ReleaseSysCache(tup);
	return owner;
}

PG_FUNCTION_INFO_V1(crm_meta_guard);
Datum
crm_meta_guard(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("crm.meta_guard() must be called as a trigger")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("rows of \"crm_meta\" cannot be removed"),
			 errdetail("The table marks its schema as a crm workspace and holds its version."),
			 errhint("To remove a workspace with its data, use DROP SCHEMA ... CASCADE.")));
	PG_RETURN_NULL();
}

/* Objects created inside an extension script become members; workspaces must not. */
PG_FUNCTION_INFO_V1(crm_in_extension_script);
Datum
crm_in_extension_script(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(creating_extension);
}

PG_FUNCTION_INFO_V1(crm_is_workspace_sql);
Datum
crm_is_workspace_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(crm_is_workspace(PG_GETARG_OID(0)));
}

/* crm._workspace_schema(workspace) */
PG_FUNCTION_INFO_V1(crm_workspace_schema);
Datum
crm_workspace_schema(PG_FUNCTION_ARGS)
{
	const char *name = NameStr(*PG_GETARG_NAME(0));
	Oid schema = get_namespace_oid(name, true);

	if (!OidIsValid(schema) || !crm_is_workspace(schema))
		crm_refuse_workspace(name, schema);
	PG_RETURN_OID(schema);
}

/*
 * Acts as another role, within SPI, until SetUserIdAndSecContext() with what is saved.
 * Deferred triggers that the other role has put on its tables would run at commit, when
 * the caller is back: so nothing is deferred for the rest of the transaction.
 */
void
crm_act_as(Oid role, Oid *save_userid, int *save_sec_context)
{
	GetUserIdAndSecContext(save_userid, save_sec_context);
	if (role == *save_userid)
		return;
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not fire deferred triggers");
	SetUserIdAndSecContext(role, *save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
									 SECURITY_RESTRICTED_OPERATION);
}

/*
 * Calls a function on the tables of a workspace as its owner, where the caller is a member
 * of that role: what the owner has put there, triggers or a view in place of a table, would
 * otherwise run with the rights of a superuser who looks after everybody's
 * workspaces.  Returns what the statement does, of one row the first column.
 */
Datum
crm_call_as_owner(Oid workspace, const char *sql, int nargs, Oid *types, Datum *values)
{
	Oid owner = crm_workspace_owner(workspace);
	Oid save_userid;
	int save_sec_context;
	bool isnull = true;
	Datum result = (Datum) 0;
	int rc;

	SPI_connect();
	crm_act_as(has_privs_of_role(GetUserId(), owner) ? owner : GetUserId(), &save_userid,
			   &save_sec_context);
	rc = SPI_execute_with_args(sql, nargs, types, values, NULL, false, 1);
	if (rc == SPI_OK_SELECT && SPI_processed == 1)
		result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (isnull)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
	SetUserIdAndSecContext(save_userid, save_sec_context);
	result = SPI_datumTransfer(result, TupleDescAttr(SPI_tuptable->tupdesc, 0)->attbyval,
							   TupleDescAttr(SPI_tuptable->tupdesc, 0)->attlen);
	SPI_finish();
	return result;
}

static void
crm_execute_as(Oid role, const char *ddl)
{
	Oid save_userid;
	int save_sec_context;
	int rc;

	SPI_connect();
	crm_act_as(role, &save_userid, &save_sec_context);
	rc = SPI_execute(ddl, false, 0);
	SetUserIdAndSecContext(save_userid, save_sec_context);
	if (rc < 0)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(rc));
	SPI_finish();
}

/*
 * Runs DDL of a workspace as its owner, so that what it creates is the owner's,
 * and so that nothing the owner has put there (a trigger, say) runs with the
 * rights of a superuser who upgrades somebody else's workspace.
 */
PG_FUNCTION_INFO_V1(crm_execute_as_owner);
Datum
crm_execute_as_owner(PG_FUNCTION_ARGS)
{
	Oid workspace = PG_GETARG_OID(0);
	Oid owner = crm_workspace_owner(workspace);

	if (!has_privs_of_role(GetUserId(), owner))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_SCHEMA, get_namespace_name(workspace));
	crm_execute_as(owner, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_VOID();
}

/* Privileges can be taken back only by the role that gave them. */
PG_FUNCTION_INFO_V1(crm_execute_as_role);
Datum
crm_execute_as_role(PG_FUNCTION_ARGS)
{
	if (!superuser())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be superuser to run a command as another role")));
	crm_execute_as(PG_GETARG_OID(0), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(crm_doctor_rules_as_owner);
Datum
crm_doctor_rules_as_owner(PG_FUNCTION_ARGS)
{
	Oid types[] = {REGNAMESPACEOID};
	Datum values[] = {PG_GETARG_DATUM(0)};

	return crm_call_as_owner(
		PG_GETARG_OID(0),
		"SELECT coalesce(jsonb_agg(to_jsonb(d)), '[]') FROM crm._doctor_rules($1) AS d", 1, types,
		values);
}
