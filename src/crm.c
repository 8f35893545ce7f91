/*
 * crm.c
 *		Module entry point: one init call for each part that has settings, hooks
 *		or shared memory.
 *
 * The library works preloaded and not: only what needs the postmaster (the
 * scheduler's static launcher) looks at process_shared_preload_libraries_in_progress.
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/guc.h"

#include "compat.h"
#include "crm.h"

CRM_MODULE_MAGIC;

void _PG_init(void);

void
_PG_init(void)
{
	crm_phone_init();
	crm_canonical_init();
	crm_identity_init();
	crm_scope_init();
	crm_audit_init();
	crm_match_index_init();
	crm_match_scan_init();
	crm_duplicate_rule_init();
	crm_scheduler_init();
	MarkGUCPrefixReserved("crm");
}

/* CREATE EXTENSION calls this first, so that a wrong encoding is refused before anything exists. */
PG_FUNCTION_INFO_V1(crm_check_encoding);
Datum
crm_check_encoding(PG_FUNCTION_ARGS)
{
	if (GetDatabaseEncoding() != PG_UTF8)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("crm requires a database with encoding \"UTF8\""),
				 errdetail("The encoding of this database is \"%s\".", GetDatabaseEncodingName()),
				 errhint("Create the database with ENCODING 'UTF8' TEMPLATE template0.")));
	PG_RETURN_VOID();
}
