/*
 * workspace.h
 *		Finding a workspace and its tables from C.
 *
 * A workspace is known by its schema's OID.  Nothing here stores an OID beyond
 * the session: names are looked up in the catalogs.
 */
#ifndef CRM_WORKSPACE_H
#define CRM_WORKSPACE_H

#include "storage/lockdefs.h"
#include "utils/relcache.h"

/* OID of table "name" of a workspace; an error says so when missing_ok is false. */
extern Oid crm_workspace_table(Oid workspace, const char *name, bool missing_ok);

/* Opens a table that a caller named by OID; an error if there is none. */
extern Relation crm_table_open(Oid relid, LOCKMODE lockmode);

/* True if the schema is a workspace: it has a crm_meta table with the marker trigger. */
extern bool crm_is_workspace(Oid schema);

/* Errors unless the schema is a workspace. */
extern void crm_check_workspace(Oid schema);

/* Owner of the workspace's tables, as whom crm reads its own bookkeeping. */
extern Oid crm_workspace_owner(Oid workspace);
extern void crm_act_as(Oid role, Oid *save_userid, int *save_sec_context);
extern Datum crm_call_as_owner(Oid workspace, const char *sql, int nargs, Oid *types,
							   Datum *values);

#endif /* CRM_WORKSPACE_H */
