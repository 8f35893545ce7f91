/*
 * audit.c
 *		crm.audit('kind', ...): writes who changed what, when and through which
 *		client into an audit log, in the transaction of the change.
 *
 * Everything fixed about a trigger (its log, the columns it compares, the key)
 * is looked up once per backend and kept in a cache keyed by the trigger's OID,
 * so that two triggers of one table may write to two logs, and partitions have
 * entries of their own.  An entry is dropped lazily: the invalidation callbacks
 * only mark it.  The log is written as the owner of the log, so no application
 * needs a privilege on it (audit_log.c), after everything that is said about the
 * row has been put together (audit_row.c).
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/cmdtag.h"
#include "tcop/pquery.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "access.h"
#include "audit.h"
#include "compat.h"
#include "crm.h"
#include "invalidation.h"
#include "undelete.h"
#include "workspace.h"

/* What is fixed about one trigger, in a memory context of its own. */
typedef struct AuditTarget
{
	MemoryContext context;
	int executing; /* trigger calls up the stack that hold a pointer to this */
	Oid relid;
	Oid workspace;	  /* whose member acts; InvalidOid if none */
	Datum kind;		  /* text */
	Datum table_name; /* text */
	AuditRow row;
	AuditLog log;
} AuditTarget;

typedef struct AuditEntry
{
	Oid trigger; /* hash key */
	bool valid;
	AuditTarget *target;
} AuditEntry;

/*
 * What the log says about a session, as text, kept until it changes: roles until
 * another one is in force or one is renamed.
 */
typedef struct AuditText
{
	Oid role;
	bool valid;
	bool isnull;
	Datum value;
} AuditText;

static MemoryContext audit_texts = NULL;
static AuditText audit_login_role;
static AuditText audit_role;
static AuditText audit_application;
static AuditText audit_statement;
static AuditText audit_client;
static AuditText audit_session;
static char *audit_application_name;
static CommandTag audit_tag;

static HTAB *audit_cache = NULL;
static int64 audit_rebuilds = 0;

/* Marks entries whose table or log changed; all of them when relid is invalid. */
static void
crm_audit_relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	AuditEntry *entry;

	hash_seq_init(&status, audit_cache);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (!OidIsValid(relid) || entry->target == NULL || entry->target->relid == relid ||
			entry->target->log.relid == relid)
			entry->valid = false;
	}
}

/* A renamed schema changes the names of tables without touching their relcache entries. */
static void
crm_audit_namespace_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	crm_audit_relcache_callback(arg, InvalidOid);
}

/* A role was renamed. */
static void
crm_audit_role_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	audit_login_role.valid = false;
	audit_role.valid = false;
}

static void
crm_audit_cache_init(void)
{
	HASHCTL ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(AuditEntry);
	ctl.hcxt = CacheMemoryContext;
	audit_cache =
		hash_create("crm audit triggers", 32, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	crm_register_relcache_callback(crm_audit_relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, crm_audit_namespace_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, crm_audit_role_callback, (Datum) 0);
	audit_texts =
		AllocSetContextCreate(CacheMemoryContext, "crm audit session", ALLOCSET_SMALL_SIZES);
}

/* A partition is logged as the table it is a part of. */
static Oid
crm_audit_root(Relation rel)
{
	List *ancestors;

	if (!rel->rd_rel->relispartition)
		return RelationGetRelid(rel);
	ancestors = get_partition_ancestors(RelationGetRelid(rel));
	return ancestors == NIL ? RelationGetRelid(rel) : llast_oid(ancestors);
}

static Oid
crm_audit_find_log(Trigger *trigger, Oid root)
{
	for (int i = 1; i < trigger->tgnargs; i++)
	{
		char *name = crm_audit_option(trigger->tgargs[i], "log");
		Oid log;

		if (name == NULL)
			continue;
		log =
			RangeVarGetRelid(makeRangeVarFromNameList(CRM_STRING_TO_NAME_LIST(name)), NoLock, true);
		if (!OidIsValid(log))
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
							errmsg("audit log \"%s\" of trigger \"%s\" does not exist", name,
								   trigger->tgname),
							errhint("Use crm.enable_audit() to name another.")));
		return log;
	}
	return crm_workspace_table(get_rel_namespace(root), "audit_log", false);
}

/*
 * Who names a log in a trigger must be allowed to write to it, or anybody could
 * put rows into a log through a table of their own.
 */
static void
crm_audit_check_log(Relation rel, Oid log)
{
	if (pg_class_aclcheck(log, rel->rd_rel->relowner, ACL_INSERT) != ACLCHECK_OK)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("owner of table \"%s\" may not write to audit log \"%s\"",
							   RelationGetRelationName(rel), get_rel_name(log)),
						errhint("Grant INSERT on the audit log to role \"%s\".",
								GetUserNameFromId(rel->rd_rel->relowner, true))));
}

/* Looks up everything; what comes back hangs on the current transaction's memory. */
static AuditTarget *
crm_audit_load(Relation rel, Trigger *trigger)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "crm audit trigger", ALLOCSET_SMALL_SIZES);
	MemoryContext save = MemoryContextSwitchTo(context);
	AuditTarget *target = palloc0(sizeof(AuditTarget));
	Oid root = crm_audit_root(rel);
	Oid log;

	if (trigger->tgnargs < 1 || trigger->tgargs[0][0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\" must name the kind of record it audits", trigger->tgname),
				 errhint("Pass the kind as the first argument of crm.audit(), or use "
						 "crm.enable_audit().")));

	target->context = context;
	target->relid = RelationGetRelid(rel);
	log = crm_audit_find_log(trigger, root);
	crm_audit_check_log(rel, log);
	target->workspace = get_rel_namespace(root);
	if (!crm_is_workspace(target->workspace))
		target->workspace = get_rel_namespace(log);
	if (!crm_is_workspace(target->workspace))
		target->workspace = InvalidOid;
	target->kind = CStringGetTextDatum(trigger->tgargs[0]);
	target->table_name = CStringGetTextDatum(quote_qualified_identifier(
		get_namespace_name(get_rel_namespace(root)), get_rel_name(root)));
	crm_audit_load_row(&target->row, rel, trigger);
	crm_audit_load_log(&target->log, log);
	MemoryContextSwitchTo(save);
	return target;
}

/*
 * Frees what invalidation marked, except what a call up the stack still holds.
 * That, and what a call that ended in an error held, stays until the session
 * ends: too rare to be worth tracking.
 */
static void
crm_audit_sweep(void)
{
	HASH_SEQ_STATUS status;
	AuditEntry *entry;

	hash_seq_init(&status, audit_cache);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (entry->valid || (entry->target != NULL && entry->target->executing > 0))
			continue;
		if (entry->target != NULL)
		{
			if (entry->target->log.plan != NULL)
				SPI_freeplan(entry->target->log.plan);
			MemoryContextDelete(entry->target->context);
		}
		hash_search(audit_cache, &entry->trigger, HASH_REMOVE, NULL);
	}
}

static AuditTarget *
crm_audit_target(Relation rel, Trigger *trigger)
{
	AuditEntry *entry;
	AuditTarget *target;
	bool found;

	if (audit_cache == NULL)
		crm_audit_cache_init();
	entry = hash_search(audit_cache, &trigger->tgoid, HASH_FIND, NULL);
	if (entry != NULL && entry->valid)
		return entry->target;

	/*
	 * Loading reads catalogs and may itself receive the invalidation of what it
	 * loads.  The entry is therefore in place, and marked valid, before; the
	 * callback then marks it again and the next call reloads.
	 */
	crm_audit_sweep();
	entry = hash_search(audit_cache, &trigger->tgoid, HASH_ENTER, &found);
	entry->valid = true;
	entry->target = NULL;
	PG_TRY();
	{
		target = crm_audit_load(rel, trigger);
	}
	PG_CATCH();
	{
		hash_search(audit_cache, &trigger->tgoid, HASH_REMOVE, NULL);
		PG_RE_THROW();
	}
	PG_END_TRY();
	entry = hash_search(audit_cache, &trigger->tgoid, HASH_ENTER, &found);
	if (!found)
		entry->valid = false;
	MemoryContextSetParent(target->context, CacheMemoryContext);
	entry->target = target;
	audit_rebuilds++;
	return target;
}

/* True unless an invalidation came for what crm_audit_target() returned. */
static bool
crm_audit_is_valid(AuditTarget *target, Oid trigger)
{
	AuditEntry *entry = hash_search(audit_cache, &trigger, HASH_FIND, NULL);

	return entry != NULL && entry->valid && entry->target == target;
}

/* Replaces a text; NULL and '' are both NULL. */
static void
crm_audit_set_text(AuditText *text, const char *value)
{
	MemoryContext save = MemoryContextSwitchTo(audit_texts);

	text->valid = false;
	if (!text->isnull && DatumGetPointer(text->value) != NULL)
		pfree(DatumGetPointer(text->value));
	text->value = (Datum) 0;
	text->isnull = value == NULL || value[0] == '\0';
	if (!text->isnull)
		text->value = CStringGetTextDatum(value);
	text->valid = true;
	MemoryContextSwitchTo(save);
}

static void
crm_audit_set_role(AuditText *text, Oid role)
{
	if (text->valid && text->role == role)
		return;
	crm_audit_set_text(text, GetUserNameFromId(role, true));
	text->role = role;
}

/* The client's address as text, NULL through a unix socket or without a client. */
static char *
crm_client_address(void)
{
	LOCAL_FCINFO(fcinfo, 0);
	Datum address;

	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	address = inet_client_addr(fcinfo);
	return fcinfo->isnull ? NULL : TextDatumGetCString(DirectFunctionCall1(network_host, address));
}

static void
crm_audit_session(Datum *values, bool *nulls)
{
	CommandTag tag = ActivePortal != NULL ? ActivePortal->commandTag : CMDTAG_UNKNOWN;

	crm_audit_set_role(&audit_login_role, GetSessionUserId());
	crm_audit_set_role(&audit_role, GetUserId());
	if (!audit_application.valid || strcmp(audit_application_name, application_name) != 0)
	{
		char *name = MemoryContextStrdup(audit_texts, application_name);

		if (audit_application_name != NULL)
			pfree(audit_application_name);
		audit_application_name = name;
		crm_audit_set_text(&audit_application, name);
	}
	if (!audit_statement.valid || audit_tag != tag)
	{
		crm_audit_set_text(&audit_statement, ActivePortal != NULL ? GetCommandTagName(tag) : NULL);
		audit_tag = tag;
	}
	if (!audit_client.valid)
		crm_audit_set_text(&audit_client, crm_client_address());
	if (!audit_session.valid)
	{
		char session[64];

		snprintf(session, sizeof(session), "%lx.%x", (long) MyStartTime, MyProcPid);
		crm_audit_set_text(&audit_session, session);
	}
	values[AUDIT_LOGIN_ROLE] = audit_login_role.value;
	nulls[AUDIT_LOGIN_ROLE] = audit_login_role.isnull;
	values[AUDIT_ROLE] = audit_role.value;
	nulls[AUDIT_ROLE] = audit_role.isnull;
	values[AUDIT_APPLICATION] = audit_application.value;
	nulls[AUDIT_APPLICATION] = audit_application.isnull;
	values[AUDIT_CLIENT] = audit_client.value;
	nulls[AUDIT_CLIENT] = audit_client.isnull;
	values[AUDIT_SESSION] = audit_session.value;
	nulls[AUDIT_SESSION] = audit_session.isnull;
	values[AUDIT_STATEMENT] = audit_statement.value;
	nulls[AUDIT_STATEMENT] = audit_statement.isnull;
}

/* Who, when, through which client. */
static void
crm_audit_circumstances(AuditTarget *target, const char *operation, Datum *values, bool *nulls)
{
	int64 member = OidIsValid(target->workspace) ? crm_member_id(target->workspace) : 0;

	values[AUDIT_CHANGED_AT] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	values[AUDIT_CLOCK_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[AUDIT_TRANSACTION_ID] =
		Int64GetDatum((int64) U64FromFullTransactionId(GetTopFullTransactionId()));
	values[AUDIT_MEMBER_ID] = Int64GetDatum(member);
	nulls[AUDIT_MEMBER_ID] = member == 0;
	crm_audit_session(values, nulls);
	values[AUDIT_OPERATION] = CStringGetTextDatum(operation);
	values[AUDIT_KIND] = target->kind;
	values[AUDIT_TABLE_NAME] = target->table_name;
}

/* False if the row need not be logged: an update that changed nothing. */
static bool
crm_audit_describe(AuditTarget *target, TriggerData *trigdata, Datum *values, bool *nulls)
{
	TupleDesc desc = RelationGetDescr(trigdata->tg_relation);
	TriggerEvent event = trigdata->tg_event;
	AuditValues old = {NULL, NULL};
	AuditValues new = {NULL, NULL};
	bool *changed = NULL;
	const char *operation;

	memset(nulls, 0, sizeof(bool) * AUDIT_NFIELDS);
	nulls[AUDIT_RECORD_ID] = nulls[AUDIT_RECORD_KEY] = true;
	nulls[AUDIT_OLD] = nulls[AUDIT_NEW] = true;
	if (TRIGGER_FIRED_BY_TRUNCATE(event))
		operation = "TRUNCATE";
	else if (TRIGGER_FIRED_BY_INSERT(event))
	{
		operation = crm_is_undeleted() ? "UNDELETE" : "INSERT";
		new = crm_audit_deform(trigdata->tg_trigtuple, desc);
	}
	else if (TRIGGER_FIRED_BY_DELETE(event))
	{
		operation = "DELETE";
		old = crm_audit_deform(trigdata->tg_trigtuple, desc);
	}
	else
	{
		operation = "UPDATE";
		old = crm_audit_deform(trigdata->tg_trigtuple, desc);
		new = crm_audit_deform(trigdata->tg_newtuple, desc);
		changed = palloc(sizeof(bool) * target->row.ncolumns);
		if (!crm_audit_compare(&target->row, old, new, changed))
			return false;
		/* Without a key the log must show which row it was. */
		if (target->row.nkey == 0)
			changed = NULL;
	}

	crm_audit_circumstances(target, operation, values, nulls);
	if (old.values != NULL)
	{
		values[AUDIT_OLD] = crm_audit_object(&target->row, old, changed, new.values == NULL);
		nulls[AUDIT_OLD] = false;
	}
	if (new.values != NULL)
	{
		values[AUDIT_NEW] = crm_audit_object(&target->row, new, changed, false);
		nulls[AUDIT_NEW] = false;
	}
	if (old.values != NULL || new.values != NULL)
		crm_audit_key(&target->row, old.values != NULL ? old : new, values, nulls);
	return true;
}

PG_FUNCTION_INFO_V1(crm_audit);
Datum
crm_audit(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Datum values[AUDIT_NFIELDS];
	bool nulls[AUDIT_NFIELDS];
	bool done = false;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		(!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) &&
		 !TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event)))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("crm.audit() must be called as a trigger after insert, update or "
							   "delete for each row, or after truncate")));

	/*
	 * Output functions and waiting for the lock may let an invalidation in.  What
	 * was found out before it is not to be relied on when writing: start again.
	 */
	while (!done)
	{
		AuditTarget *target = crm_audit_target(trigdata->tg_relation, trigdata->tg_trigger);

		CHECK_FOR_INTERRUPTS();
		target->executing++;
		if (crm_audit_describe(target, trigdata, values, nulls))
		{
			crm_audit_lock_log(&target->log);
			done = crm_audit_is_valid(target, trigdata->tg_trigger->tgoid);
			if (done)
				crm_audit_write(&target->log, values, nulls);
		}
		else
			done = true;
		target->executing--;
	}
	return PointerGetDatum(NULL);
}

PG_FUNCTION_INFO_V1(crm_append_only);
Datum
crm_append_only(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("crm.append_only() must be called as a trigger")));
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("rows of \"%s\" cannot be changed or removed",
						   RelationGetRelationName(trigdata->tg_relation)),
					errdetail("The table is append-only."),
					errhint("To remove rows that are past their retention, its owner disables "
							"trigger \"%s\" in the same transaction.",
							trigdata->tg_trigger->tgname)));
	PG_RETURN_NULL();
}

/* How often this backend looked up an audit trigger's fixed parts; for tests. */
PG_FUNCTION_INFO_V1(crm_audit_rebuild_count);
Datum
crm_audit_rebuild_count(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(audit_rebuilds);
}

/* How many rows this backend wrote to logs without the executor; for tests. */
PG_FUNCTION_INFO_V1(crm_audit_direct_count);
Datum
crm_audit_direct_count(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(crm_audit_rows_direct);
}

PG_FUNCTION_INFO_V1(crm_next_transaction);
Datum
crm_next_transaction(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) U64FromFullTransactionId(ReadNextFullTransactionId()));
}

PG_FUNCTION_INFO_V1(crm_seal_audit_as_owner);
Datum
crm_seal_audit_as_owner(PG_FUNCTION_ARGS)
{
	Oid types[] = {NAMEOID, INT4OID};
	Datum values[] = {PG_GETARG_DATUM(1), PG_GETARG_DATUM(2)};

	return crm_call_as_owner(PG_GETARG_OID(0), "SELECT crm._seal_audit($1, $2)", 2, types, values);
}

PG_FUNCTION_INFO_V1(crm_audit_verify_as_owner);
Datum
crm_audit_verify_as_owner(PG_FUNCTION_ARGS)
{
	Oid types[] = {NAMEOID};
	Datum values[] = {PG_GETARG_DATUM(1)};

	return crm_call_as_owner(PG_GETARG_OID(0), "SELECT crm._audit_verify($1)", 1, types, values);
}
