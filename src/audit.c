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
 * needs a privilege on it, and by SPI, so it may carry columns, indexes and
 * triggers of its owner's own.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/detoast.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "tcop/cmdtag.h"
#include "tcop/pquery.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "access.h"
#include "compat.h"
#include "crm.h"
#include "workspace.h"

/* A value longer than this is recorded by its length and SHA-256. */
#define AUDIT_MAX_VALUE 65536

/* Columns of the log that the trigger fills, in the order of its parameters. */
static const char *const audit_columns[] = {
	"changed_at",  "clock_at",	"transaction_id", "member_id", "login_role", "role",
	"application", "client",	"session",		  "statement", "operation",	 "kind",
	"table_name",  "record_id", "record_key",	  "old",	   "new"};
static Oid audit_types[] = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID,  INT8OID,	TEXTOID, TEXTOID,
							TEXTOID,		TEXTOID,		TEXTOID,  TEXTOID,	TEXTOID, TEXTOID,
							TEXTOID,		INT8OID,		JSONBOID, JSONBOID, JSONBOID};

#define AUDIT_NCOLUMNS lengthof(audit_types)

typedef struct AuditColumn
{
	AttrNumber attnum;
	char *name;
	int name_len;
	Oid type; /* base type of a domain */
	int16 len;
	bool byval;
	bool compared; /* false: kept by crm.touch() or generated */
	bool masked;
	FmgrInfo to_jsonb; /* valid for types without a branch of their own */
} AuditColumn;

/* What is fixed about one trigger, in a memory context of its own. */
typedef struct AuditTarget
{
	MemoryContext context;
	int executing; /* trigger calls up the stack that hold a pointer to this */
	Oid relid;
	Oid log;
	Oid log_owner;
	Oid workspace;	  /* whose member acts; InvalidOid if none */
	Datum kind;		  /* text */
	Datum table_name; /* text */
	int ncolumns;
	AuditColumn *columns;
	int nkey; /* columns of the primary key, as indexes of columns[] */
	int *key;
	bool integer_key; /* the key is one integer column: record_id */
	SPIPlanPtr plan;  /* INSERT into the log */
} AuditTarget;

typedef struct AuditEntry
{
	Oid trigger; /* hash key */
	bool valid;
	AuditTarget *target;
} AuditEntry;

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
			entry->target->log == relid)
			entry->valid = false;
	}
}

/* A renamed schema changes the names of tables without touching their relcache entries. */
static void
crm_audit_namespace_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	crm_audit_relcache_callback(arg, InvalidOid);
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
	CacheRegisterRelcacheCallback(crm_audit_relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, crm_audit_namespace_callback, (Datum) 0);
}

/*
 * Arguments after the kind: log=schema.table, and mask=column for each column
 * whose values the log must not show.
 */
static char *
crm_audit_option(const char *argument, const char *name)
{
	size_t len = strlen(name);

	if (strncmp(argument, name, len) == 0 && argument[len] == '=')
		return pstrdup(argument + len + 1);
	return NULL;
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
crm_relation_owner(Oid relid)
{
	HeapTuple tup = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid owner;

	if (!HeapTupleIsValid(tup))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tup))->relowner;
	ReleaseSysCache(tup);
	return owner;
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

/* True if crm.touch() keeps the column: its change says nothing the other columns do not. */
static bool
crm_audit_touched(Relation rel, const char *column)
{
	if (rel->trigdesc == NULL ||
		(strcmp(column, "updated_at") != 0 && strcmp(column, "row_version") != 0))
		return false;
	for (int i = 0; i < rel->trigdesc->numtriggers; i++)
	{
		Oid function = rel->trigdesc->triggers[i].tgfoid;
		char *name = get_func_name(function);

		if (name != NULL && strcmp(name, "touch") == 0 &&
			get_func_namespace(function) == get_namespace_oid("crm", true))
			return true;
	}
	return false;
}

static void
crm_audit_load_columns(AuditTarget *target, Relation rel, Trigger *trigger)
{
	TupleDesc desc = RelationGetDescr(rel);
	Bitmapset *key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);

	target->columns = palloc0(sizeof(AuditColumn) * desc->natts);
	target->key = palloc0(sizeof(int) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		AuditColumn *column = &target->columns[target->ncolumns];
		FuncExpr *call;

		if (att->attisdropped)
			continue;
		column->attnum = att->attnum;
		column->name = pstrdup(NameStr(att->attname));
		column->name_len = strlen(column->name);
		column->type = getBaseType(att->atttypid);
		column->len = att->attlen;
		column->byval = att->attbyval;
		column->compared = !att->attgenerated && !crm_audit_touched(rel, column->name);
		for (int j = 1; j < trigger->tgnargs; j++)
		{
			char *mask = crm_audit_option(trigger->tgargs[j], "mask");

			if (mask != NULL && strcmp(mask, column->name) == 0)
				column->masked = true;
		}

		/* to_jsonb(anyelement) learns its argument's type from the call's expression. */
		call = makeFuncExpr(
			F_TO_JSONB, JSONBOID,
			list_make1(makeNullConst(att->atttypid, att->atttypmod, att->attcollation)), InvalidOid,
			InvalidOid, COERCE_EXPLICIT_CALL);
		fmgr_info_cxt(F_TO_JSONB, &column->to_jsonb, target->context);
		fmgr_info_set_expr((Node *) call, &column->to_jsonb);

		if (bms_is_member(att->attnum - FirstLowInvalidHeapAttributeNumber, key))
		{
			target->key[target->nkey++] = target->ncolumns;
			target->integer_key =
				target->nkey == 1 &&
				(column->type == INT8OID || column->type == INT4OID || column->type == INT2OID);
		}
		target->ncolumns++;
	}
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

static SPIPlanPtr
crm_audit_prepare(Oid log)
{
	StringInfoData query;
	SPIPlanPtr plan;

	initStringInfo(&query);
	appendStringInfo(
		&query, "INSERT INTO %s (",
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(log)), get_rel_name(log)));
	for (int i = 0; i < AUDIT_NCOLUMNS; i++)
		appendStringInfo(&query, "%s%s", i ? ", " : "", quote_identifier(audit_columns[i]));
	appendStringInfoString(&query, ") VALUES (");
	for (int i = 0; i < AUDIT_NCOLUMNS; i++)
		appendStringInfo(&query, "%s$%d", i ? ", " : "", i + 1);
	appendStringInfoChar(&query, ')');

	plan = SPI_prepare(query.data, AUDIT_NCOLUMNS, audit_types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	return plan;
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
	Oid save_userid;
	int save_sec_context;

	if (trigger->tgnargs < 1 || trigger->tgargs[0][0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\" must name the kind of record it audits", trigger->tgname),
				 errhint("Pass the kind as the first argument of crm.audit(), or use "
						 "crm.enable_audit().")));

	target->context = context;
	target->relid = RelationGetRelid(rel);
	target->log = crm_audit_find_log(trigger, root);
	crm_audit_check_log(rel, target->log);
	target->log_owner = crm_relation_owner(target->log);
	target->workspace = get_rel_namespace(root);
	if (!crm_is_workspace(target->workspace))
		target->workspace = get_rel_namespace(target->log);
	if (!crm_is_workspace(target->workspace))
		target->workspace = InvalidOid;
	target->kind = CStringGetTextDatum(trigger->tgargs[0]);
	target->table_name = CStringGetTextDatum(quote_qualified_identifier(
		get_namespace_name(get_rel_namespace(root)), get_rel_name(root)));
	crm_audit_load_columns(target, rel, trigger);
	MemoryContextSwitchTo(save);

	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	SetUserIdAndSecContext(target->log_owner, save_sec_context | SECURITY_LOCAL_USERID_CHANGE);
	target->plan = crm_audit_prepare(target->log);
	SetUserIdAndSecContext(save_userid, save_sec_context);
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
			SPI_freeplan(entry->target->plan);
			MemoryContextDelete(entry->target->context);
		}
		hash_search(audit_cache, &entry->trigger, HASH_REMOVE, NULL);
	}
}

/* SPI must be connected. */
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
	SPI_keepplan(target->plan);
	MemoryContextSetParent(target->context, CacheMemoryContext);
	entry->target = target;
	audit_rebuilds++;
	return target;
}

static void
crm_push_string(JsonbParseState **state, JsonbIteratorToken token, char *value, int len)
{
	JsonbValue v;

	v.type = jbvString;
	v.val.string.val = value;
	v.val.string.len = len;
	pushJsonbValue(state, token, &v);
}

/* A long value stands in the log as {"bytes": n, "sha256": "..."}, a masked one as {"masked":
 * true}. */
static void
crm_push_digest(JsonbParseState **state, const char *bytes, int len)
{
	uint8 digest[PG_SHA256_DIGEST_LENGTH];
	char *hex = palloc(PG_SHA256_DIGEST_LENGTH * 2);
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);
	JsonbValue v;

	if (pg_cryptohash_init(ctx) < 0 || pg_cryptohash_update(ctx, (const uint8 *) bytes, len) < 0 ||
		pg_cryptohash_final(ctx, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute SHA-256: %s", pg_cryptohash_error(ctx));
	pg_cryptohash_free(ctx);
	hex_encode((char *) digest, PG_SHA256_DIGEST_LENGTH, hex);

	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	crm_push_string(state, WJB_KEY, "bytes", 5);
	v.type = jbvNumeric;
	v.val.numeric = int64_to_numeric(len);
	pushJsonbValue(state, WJB_VALUE, &v);
	crm_push_string(state, WJB_KEY, "sha256", 6);
	crm_push_string(state, WJB_VALUE, hex, PG_SHA256_DIGEST_LENGTH * 2);
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

static void
crm_push_jsonb(JsonbParseState **state, Jsonb *jsonb)
{
	JsonbValue v;

	if (JB_ROOT_IS_SCALAR(jsonb))
	{
		JsonbIterator *it = JsonbIteratorInit(&jsonb->root);

		(void) JsonbIteratorNext(&it, &v, true); /* the array a scalar is kept in */
		(void) JsonbIteratorNext(&it, &v, true);
		pushJsonbValue(state, WJB_VALUE, &v);
	}
	else
	{
		v.type = jbvBinary;
		v.val.binary.data = &jsonb->root;
		v.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
		pushJsonbValue(state, WJB_VALUE, &v);
	}
}

static void
crm_push_column(JsonbParseState **state, AuditColumn *column, Datum value, bool isnull)
{
	JsonbValue v;

	crm_push_string(state, WJB_KEY, column->name, column->name_len);
	if (isnull)
	{
		v.type = jbvNull;
		pushJsonbValue(state, WJB_VALUE, &v);
		return;
	}
	if (column->masked)
	{
		pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
		crm_push_string(state, WJB_KEY, "masked", 6);
		v.type = jbvBool;
		v.val.boolean = true;
		pushJsonbValue(state, WJB_VALUE, &v);
		pushJsonbValue(state, WJB_END_OBJECT, NULL);
		return;
	}

	if (column->len == -1 && toast_raw_datum_size(value) - VARHDRSZ > AUDIT_MAX_VALUE)
	{
		struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);

		crm_push_digest(state, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
		return;
	}

	switch (column->type)
	{
		case TEXTOID:
		case VARCHAROID:
		{
			text *t = DatumGetTextPP(value);

			crm_push_string(state, WJB_VALUE, VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t));
			return;
		}
		case BOOLOID:
			v.type = jbvBool;
			v.val.boolean = DatumGetBool(value);
			break;
		case INT2OID:
			v.type = jbvNumeric;
			v.val.numeric = int64_to_numeric(DatumGetInt16(value));
			break;
		case INT4OID:
			v.type = jbvNumeric;
			v.val.numeric = int64_to_numeric(DatumGetInt32(value));
			break;
		case INT8OID:
			v.type = jbvNumeric;
			v.val.numeric = int64_to_numeric(DatumGetInt64(value));
			break;
		default:
			crm_push_jsonb(state, DatumGetJsonbP(FunctionCall1(&column->to_jsonb, value)));
			return;
	}
	pushJsonbValue(state, WJB_VALUE, &v);
}

/* The row's columns that are not NULL, or for an update those that changed. */
static Datum
crm_audit_row(AuditTarget *target, TupleDesc desc, HeapTuple tuple, const bool *changed)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < target->ncolumns; i++)
	{
		AuditColumn *column = &target->columns[i];
		bool isnull;
		Datum value;

		if (changed ? !changed[i] : !column->compared)
			continue;
		value = heap_getattr(tuple, column->attnum, desc, &isnull);
		if (!isnull || changed)
			crm_push_column(&state, column, value, isnull);
	}
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/* Compares stored forms first, so that a long value that nobody touched is not read. */
static bool
crm_audit_same(AuditColumn *column, Datum a, Datum b)
{
	if (!column->byval && column->len == -1 &&
		VARSIZE_ANY(DatumGetPointer(a)) == VARSIZE_ANY(DatumGetPointer(b)) &&
		memcmp(DatumGetPointer(a), DatumGetPointer(b), VARSIZE_ANY(DatumGetPointer(a))) == 0)
		return true;
	return datum_image_eq(a, b, column->byval, column->len);
}

static bool
crm_audit_compare(AuditTarget *target, TupleDesc desc, HeapTuple old, HeapTuple new, bool *changed)
{
	bool any = false;

	for (int i = 0; i < target->ncolumns; i++)
	{
		AuditColumn *column = &target->columns[i];
		bool oldnull, newnull;
		Datum a, b;

		changed[i] = false;
		if (!column->compared)
			continue;
		a = heap_getattr(old, column->attnum, desc, &oldnull);
		b = heap_getattr(new, column->attnum, desc, &newnull);
		changed[i] = oldnull != newnull || (!oldnull && !crm_audit_same(column, a, b));
		any |= changed[i];
	}
	return any;
}

/* The record's identity: record_id for one integer column, an object for any other primary key. */
static void
crm_audit_key(AuditTarget *target, TupleDesc desc, HeapTuple tuple, Datum *values, bool *nulls)
{
	if (target->integer_key)
	{
		AuditColumn *column = &target->columns[target->key[0]];
		Datum value = heap_getattr(tuple, column->attnum, desc, &nulls[0]);

		if (!nulls[0])
			values[0] = Int64GetDatum(column->type == INT8OID	? DatumGetInt64(value)
									  : column->type == INT4OID ? DatumGetInt32(value)
																: DatumGetInt16(value));
	}
	else if (target->nkey > 0)
	{
		JsonbParseState *state = NULL;

		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		for (int i = 0; i < target->nkey; i++)
		{
			AuditColumn *column = &target->columns[target->key[i]];
			bool isnull;
			Datum value = heap_getattr(tuple, column->attnum, desc, &isnull);

			crm_push_column(&state, column, value, isnull);
		}
		values[1] = JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
		nulls[1] = false;
	}
}

static void
crm_set_text(Datum *value, bool *isnull, const char *text)
{
	*isnull = text == NULL || text[0] == '\0';
	if (!*isnull)
		*value = CStringGetTextDatum(text);
}

/* The client's address as text, NULL through a unix socket or without a client. */
static Datum
crm_client_address(bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 0);
	Datum address;

	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	address = inet_client_addr(fcinfo);
	*isnull = fcinfo->isnull;
	return *isnull ? (Datum) 0 : DirectFunctionCall1(network_host, address);
}

/* Who, when, through which client: the same for every row of a statement. */
static void
crm_audit_circumstances(AuditTarget *target, const char *operation, Datum *values, bool *nulls)
{
	int64 member = OidIsValid(target->workspace) ? crm_member_id(target->workspace) : 0;
	char session[64];

	values[0] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	values[1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[2] = Int64GetDatum((int64) U64FromFullTransactionId(GetTopFullTransactionId()));
	values[3] = Int64GetDatum(member);
	nulls[3] = member == 0;
	crm_set_text(&values[4], &nulls[4], GetUserNameFromId(GetSessionUserId(), true));
	crm_set_text(&values[5], &nulls[5], GetUserNameFromId(GetUserId(), true));
	crm_set_text(&values[6], &nulls[6], application_name);
	values[7] = crm_client_address(&nulls[7]);
	snprintf(session, sizeof(session), "%lx.%x", (long) MyStartTime, MyProcPid);
	crm_set_text(&values[8], &nulls[8], session);
	crm_set_text(&values[9], &nulls[9],
				 ActivePortal != NULL ? GetCommandTagName(ActivePortal->commandTag) : NULL);
	crm_set_text(&values[10], &nulls[10], operation);
	values[11] = target->kind;
	values[12] = target->table_name;
}

PG_FUNCTION_INFO_V1(crm_audit);
Datum
crm_audit(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Relation rel;
	AuditTarget *target;
	TupleDesc desc;
	HeapTuple old = NULL, new = NULL;
	Datum values[AUDIT_NCOLUMNS];
	bool isnull[AUDIT_NCOLUMNS];
	char nulls[AUDIT_NCOLUMNS];
	bool *changed = NULL;
	const char *operation;
	Oid save_userid;
	int save_sec_context;
	int rc;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		(!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) &&
		 !TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event)))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("crm.audit() must be called as a trigger after insert, update or "
							   "delete for each row, or after truncate")));

	rel = trigdata->tg_relation;
	desc = RelationGetDescr(rel);
	SPI_connect();
	target = crm_audit_target(rel, trigdata->tg_trigger);
	target->executing++;
	memset(isnull, 0, sizeof(isnull));
	for (int i = 13; i < AUDIT_NCOLUMNS; i++)
		isnull[i] = true;

	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
		operation = "TRUNCATE";
	else if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
	{
		operation = "INSERT";
		new = trigdata->tg_trigtuple;
	}
	else if (TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
	{
		operation = "DELETE";
		old = trigdata->tg_trigtuple;
	}
	else
	{
		operation = "UPDATE";
		old = trigdata->tg_trigtuple;
		new = trigdata->tg_newtuple;
		changed = palloc(sizeof(bool) * target->ncolumns);
		if (!crm_audit_compare(target, desc, old, new, changed))
		{
			target->executing--;
			SPI_finish();
			return PointerGetDatum(NULL);
		}
		/* Without a key the log must show which row it was. */
		if (target->nkey == 0)
			changed = NULL;
	}

	crm_audit_circumstances(target, operation, values, isnull);
	if (old != NULL)
	{
		values[15] = crm_audit_row(target, desc, old, changed);
		isnull[15] = false;
	}
	if (new != NULL)
	{
		values[16] = crm_audit_row(target, desc, new, changed);
		isnull[16] = false;
	}
	if (old != NULL || new != NULL)
		crm_audit_key(target, desc, old ? old : new, &values[13], &isnull[13]);
	for (int i = 0; i < AUDIT_NCOLUMNS; i++)
		nulls[i] = isnull[i] ? 'n' : ' ';

	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	SetUserIdAndSecContext(target->log_owner, save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
												  SECURITY_RESTRICTED_OPERATION);
	rc = SPI_execute_plan(target->plan, values, nulls, false, 0);
	SetUserIdAndSecContext(save_userid, save_sec_context);
	if (rc != SPI_OK_INSERT)
		elog(ERROR, "could not write to the audit log: %s", SPI_result_code_string(rc));
	target->executing--;
	SPI_finish();
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

PG_FUNCTION_INFO_V1(crm_next_transaction);
Datum
crm_next_transaction(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) U64FromFullTransactionId(ReadNextFullTransactionId()));
}
