/*
 * access_scope.c
 *		Finding and keeping what a member may see.
 *
 * A scope is the answer to every question about a member's rights, computed
 * from the tables member, team, team_member, share and setting: sets of
 * owners and sets of shared records.  It is computed per member, not stored
 * per record, so a re-organisation touches no record.
 *
 * Two counters tell what is still right.  "crm_org_epoch" changes when one of
 * those tables may have changed, "crm_identity_epoch" when a setting that says
 * who we are does.  Triggers on the tables send relcache invalidations, which
 * are transactional: other sessions get them when the change commits, our own
 * gets them after the command, and again if it is rolled back.
 *
 * Scopes are read with a snapshot newer than every invalidation received,
 * whatever snapshot the statement has: one kept from an older snapshot would
 * stay wrong after the statement.  So rights are always the current ones, in
 * repeatable read transactions too.  The snapshot is a catalog snapshot
 * because that may also be taken in parallel workers, where a scope has to be
 * built anew and must not differ from the leader's.
 *
 * Memory: crm_access_context holds one entry a workspace and at most
 * CRM_SCOPES scopes a workspace, each in a context of its own, so that a pooled
 * connection switches between a few people cheaply.  A scope takes 8 bytes an
 * owner and level, 8 bytes a shared record, and the bitmap.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "access.h"
#include "access_scope.h"
#include "compat.h"
#include "crm.h"
#include "invalidation.h"
#include "workspace.h"

#define CRM_SCOPES 16

/* The queries a scope is built from; saved plans, one each a workspace. */
typedef enum CrmQuery
{
	CRM_QUERY_MEMBER,
	CRM_QUERY_LOGIN,
	CRM_QUERY_SETTING,
	CRM_QUERY_REPORTS,
	CRM_QUERY_TEAMMATES,
	CRM_QUERY_SHARES,
	CRM_QUERY_KEYS,
} CrmQuery;

#define CRM_QUERIES (CRM_QUERY_KEYS + 1)

static const struct
{
	const char *text; /* %1$s: the quoted schema */
	Oid arg;
} crm_queries[CRM_QUERIES] = {
	[CRM_QUERY_MEMBER] = {"SELECT m.id, m.access, m.login_role FROM %1$s.member AS m "
						  "WHERE m.id = $1 AND m.active",
						  INT8OID},
	[CRM_QUERY_LOGIN] = {"SELECT m.id, m.access, m.login_role FROM %1$s.member AS m "
						 "WHERE m.login_role = $1 AND m.active",
						 TEXTOID},
	[CRM_QUERY_SETTING] = {"SELECT s.value FROM %1$s.setting AS s WHERE s.name = $1", TEXTOID},
	[CRM_QUERY_KEYS] =
		{"SELECT k.secret FROM %1$s.token_key AS k WHERE $1 > 0 ORDER BY k.id DESC LIMIT 8",
		 INT8OID},
	/* UNION, not UNION ALL, so that a cycle ends. */
	[CRM_QUERY_REPORTS] =
		{"WITH RECURSIVE below (id) AS (SELECT $1 UNION "
		 "SELECT m.id FROM below AS b JOIN %1$s.member AS m ON m.manager_id = b.id) "
		 "SELECT array_agg(b.id ORDER BY b.id) FROM below AS b",
		 INT8OID},
	/* A team includes the members of the teams below it. */
	[CRM_QUERY_TEAMMATES] =
		{"WITH RECURSIVE above (id, access) AS ("
		 "SELECT t.id, t.record_access, t.parent_id "
		 "FROM %1$s.team_member AS tm JOIN %1$s.team AS t ON t.id = tm.team_id "
		 "WHERE tm.member_id = $1 UNION "
		 "SELECT t.id, t.record_access, t.parent_id "
		 "FROM above AS a JOIN %1$s.team AS t ON t.id = a.parent_id), "
		 "below (id, access) AS ("
		 "SELECT a.id, a.access FROM above AS a WHERE a.access <> 'none' UNION "
		 "SELECT t.id, b.access FROM below AS b JOIN %1$s.team AS t ON t.parent_id = b.id) "
		 "SELECT b.access, array_agg(DISTINCT tm.member_id ORDER BY tm.member_id) "
		 "FROM below AS b JOIN %1$s.team_member AS tm ON tm.team_id = b.id "
		 "GROUP BY b.access",
		 INT8OID},
	[CRM_QUERY_SHARES] =
		{"WITH RECURSIVE above (id, parent_id) AS ("
		 "SELECT t.id, t.parent_id "
		 "FROM %1$s.team_member AS tm JOIN %1$s.team AS t ON t.id = tm.team_id "
		 "WHERE tm.member_id = $1 UNION "
		 "SELECT t.id, t.parent_id FROM above AS a JOIN %1$s.team AS t ON t.id = a.parent_id) "
		 "SELECT s.kind, s.access, array_agg(DISTINCT s.record_id ORDER BY s.record_id), "
		 "min(s.expires_at) "
		 "FROM (SELECT m.kind, m.access, m.record_id, m.expires_at "
		 "FROM %1$s.share AS m WHERE m.member_id = $1 UNION ALL "
		 "SELECT m.kind, m.access, m.record_id, m.expires_at "
		 "FROM above AS a JOIN %1$s.share AS m ON m.team_id = a.id) AS s "
		 "WHERE s.expires_at IS NULL OR s.expires_at > statement_timestamp() "
		 "GROUP BY s.kind, s.access ORDER BY s.kind, s.access",
		 INT8OID},
};

static const char *const crm_watched_tables[] = {"member", "team",	  "team_member",
												 "share",  "setting", "token_key"};

/* Who the session acts for in a workspace, as of the epochs. */
typedef struct CrmIdentity
{
	int64 member; /* 0: nobody */
	CrmMemberAccess access;
	TimestampTz valid_until;
	uint64 org_epoch; /* 0: not known */
	uint64 identity_epoch;
	Oid session_user;
	Oid role;
} CrmIdentity;

typedef struct CrmWorkspaceAccess
{
	Oid workspace; /* hash key */
	uint64 name_epoch;
	SPIPlanPtr plans[CRM_QUERIES];
	CrmIdentity identity;
	CrmScope *scopes[CRM_SCOPES];
} CrmWorkspaceAccess;

uint64 crm_access_epoch = 1;

uint64 crm_org_epoch = 1;
static uint64 crm_identity_epoch = 1;
static uint64 crm_name_epoch = 1;
static uint64 crm_scope_count = 0; /* scopes built */
static uint64 crm_scope_uses = 0;

static CrmScope crm_nobody = {.valid_until = DT_NOEND};

static MemoryContext crm_access_context = NULL;
static HTAB *crm_access_workspaces = NULL; /* CrmWorkspaceAccess by workspace */
static HTAB *crm_access_watched = NULL;	   /* OIDs of the tables scopes are read from */

static void
crm_org_changed(void)
{
	crm_org_epoch++;
	crm_access_epoch++;
}

void
crm_identity_changed(void)
{
	crm_identity_epoch++;
	crm_access_epoch++;
}

static void
crm_access_relcache_callback(Datum arg, Oid relid)
{
	if (crm_access_watched != NULL &&
		(!OidIsValid(relid) || hash_search(crm_access_watched, &relid, HASH_FIND, NULL) != NULL))
		crm_org_changed();
}

/* A schema was renamed, moved or dropped. */
static void
crm_access_namespace_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	crm_name_epoch++;
	crm_org_changed();
}

/* A role was renamed or dropped. */
static void
crm_access_role_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	crm_identity_changed();
}

void
crm_scope_init(void)
{
	crm_register_relcache_callback(crm_access_relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, crm_access_namespace_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, crm_access_role_callback, (Datum) 0);
}

static void
crm_access_create_caches(void)
{
	HASHCTL ctl;

	if (crm_access_watched != NULL)
		return;
	if (crm_access_context == NULL)
		crm_access_context =
			AllocSetContextCreate(TopMemoryContext, "crm access", ALLOCSET_DEFAULT_SIZES);

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(CrmWorkspaceAccess);
	ctl.hcxt = crm_access_context;
	if (crm_access_workspaces == NULL)
		crm_access_workspaces =
			hash_create("crm access: workspaces", 8, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(Oid);
	crm_access_watched =
		hash_create("crm access: tables", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* The entry of a workspace, with the tables it is read from watched. */
static CrmWorkspaceAccess *
crm_access_entry(Oid workspace)
{
	CrmWorkspaceAccess *entry;
	bool found;

	/*
	 * In a transaction that holds its locks already, nobody else would look for
	 * messages, and a right that was taken away would last as long as it does.
	 */
	AcceptInvalidationMessages();

	crm_access_create_caches();
	entry = hash_search(crm_access_workspaces, &workspace, HASH_FIND, NULL);
	if (entry != NULL && entry->name_epoch == crm_name_epoch)
		return entry;

	crm_check_workspace(workspace);
	if (entry == NULL)
	{
		entry = hash_search(crm_access_workspaces, &workspace, HASH_ENTER, &found);
		memset(entry, 0, sizeof(CrmWorkspaceAccess));
		entry->workspace = workspace;
	}

	/* The plans name the schema: another name, other plans. */
	for (int i = 0; i < CRM_QUERIES; i++)
	{
		if (entry->plans[i] != NULL)
		{
			SPIPlanPtr plan = entry->plans[i];

			entry->plans[i] = NULL;
			SPI_freeplan(plan);
		}
	}
	entry->identity.org_epoch = 0;
	for (int i = 0; i < lengthof(crm_watched_tables); i++)
	{
		Oid relid = crm_workspace_table(workspace, crm_watched_tables[i], false);

		hash_search(crm_access_watched, &relid, HASH_ENTER, &found);
	}
	entry->name_epoch = crm_name_epoch;
	return entry;
}

/*
 * Reading as the owner of table member, with nothing of the caller's session
 * in the way: not the search path, not row security.  An error leaves through
 * (sub)transaction abort, which puts everything back.
 */
typedef struct CrmReader
{
	Oid user;
	int sec_context;
	int guc_level;
} CrmReader;

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

static void
crm_reader_begin(CrmReader *reader, Oid workspace)
{
	Oid relid = crm_workspace_table(workspace, "member", false);

	GetUserIdAndSecContext(&reader->user, &reader->sec_context);
	SetUserIdAndSecContext(crm_relation_owner(relid),
						   reader->sec_context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS);
	reader->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	PushActiveSnapshot(GetCatalogSnapshot(relid));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

static void
crm_reader_end(CrmReader *reader)
{
	SPI_finish();
	PopActiveSnapshot();
	AtEOXact_GUC(true, reader->guc_level);
	SetUserIdAndSecContext(reader->user, reader->sec_context);
}

/* Runs a query; the caller's memory context stays, which SPI would change to its own. */
static void
crm_reader_query(CrmWorkspaceAccess *entry, CrmQuery query, Datum arg)
{
	MemoryContext caller = CurrentMemoryContext;
	int rc;

	if (entry->plans[query] == NULL)
	{
		const char *schema = quote_identifier(get_namespace_name(entry->workspace));
		Oid argtype = crm_queries[query].arg;
		SPIPlanPtr plan = SPI_prepare(psprintf(crm_queries[query].text, schema), 1, &argtype);

		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		entry->plans[query] = plan;
	}
	rc = SPI_execute_plan(entry->plans[query], &arg, NULL, true, 0);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	MemoryContextSwitchTo(caller);
}

/* A column of a row of the last query; NULL if it is null. */
static char *
crm_reader_text(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

static Datum
crm_reader_datum(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

/*
 * Errors unless the token is good.  Whoever logs in as a member cannot act for
 * another one with that one's token.
 */
static TimestampTz
crm_identity_check_token(CrmWorkspaceAccess *entry, const CrmIdentity *identity)
{
	Datum keys[8];
	int nkeys;
	bool isnull;
	TimestampTz valid_until;

	crm_reader_query(entry, CRM_QUERY_KEYS, Int64GetDatum(identity->member));
	nkeys = Min((int) SPI_processed, lengthof(keys));
	for (int i = 0; i < nkeys; i++)
		keys[i] = crm_reader_datum(i, 1, &isnull);
	valid_until = crm_identity_verify(keys, nkeys);

	crm_reader_query(entry, CRM_QUERY_LOGIN,
					 CStringGetTextDatum(GetUserNameFromId(identity->session_user, false)));
	if (SPI_processed > 0 && DatumGetInt64(crm_reader_datum(0, 1, &isnull)) != identity->member)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION), errmsg("invalid crm.token"),
				 errdetail("The session's user is the login role of another member.")));
	return valid_until;
}

/* Who the session acts for, as the token, crm.member or the login role say. */
static void
crm_identity_find(CrmWorkspaceAccess *entry)
{
	CrmIdentity identity = {.valid_until = DT_NOEND};
	CrmReader reader;
	CrmClaim claim;
	char *login = NULL;

	entry->identity.org_epoch = 0;
	identity.org_epoch = crm_org_epoch;
	identity.identity_epoch = crm_identity_epoch;
	identity.session_user = GetSessionUserId();
	identity.role = GetCurrentRoleId();

	claim = crm_identity_claim(entry->workspace, &identity.member);
	if (claim == CRM_CLAIM_NONE)
		login = GetUserNameFromId(identity.session_user, true);

	if (claim == CRM_CLAIM_ELSEWHERE || (claim == CRM_CLAIM_NONE && login == NULL))
		identity.member = 0;
	else
	{
		crm_reader_begin(&reader, entry->workspace);
		if (claim == CRM_CLAIM_TOKEN)
			identity.valid_until = crm_identity_check_token(entry, &identity);
		if (claim == CRM_CLAIM_NONE)
			crm_reader_query(entry, CRM_QUERY_LOGIN, CStringGetTextDatum(login));
		else
			crm_reader_query(entry, CRM_QUERY_MEMBER, Int64GetDatum(identity.member));

		identity.member = 0;
		if (SPI_processed > 0)
		{
			char *access = crm_reader_text(0, 2);
			bool isnull;

			identity.member = DatumGetInt64(crm_reader_datum(0, 1, &isnull));
			if (access != NULL && strcmp(access, "all") == 0)
				identity.access = CRM_ACCESS_ALL;
			else if (access != NULL && strcmp(access, "read_all") == 0)
				identity.access = CRM_ACCESS_READ_ALL;
		}
		crm_reader_end(&reader);
	}
	entry->identity = identity;
}

static const CrmIdentity *
crm_identity(CrmWorkspaceAccess *entry)
{
	const CrmIdentity *identity = &entry->identity;

	if (identity->org_epoch != crm_org_epoch || identity->identity_epoch != crm_identity_epoch ||
		identity->session_user != GetSessionUserId() || identity->role != GetCurrentRoleId() ||
		identity->valid_until <= GetCurrentStatementStartTimestamp())
		crm_identity_find(entry);
	return identity;
}

bool
crm_id_set_search(const CrmIdSet *set, int64 id)
{
	int low = 0;
	int high = set->n;

	while (low < high)
	{
		int middle = low + (high - low) / 2;

		if (set->ids[middle] < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < set->n && set->ids[low] == id;
}

/*
 * Makes a set of sorted, distinct ids, allocated in the current context.  The
 * bitmap may take as much again as the ids times eight: identity columns are
 * dense, so it is there in practice, and ids out of the ordinary cost a
 * logarithm instead of memory.
 */
void
crm_id_set_fill(CrmIdSet *set, int64 *ids, int n)
{
	uint64 range;

	memset(set, 0, sizeof(CrmIdSet));
	set->n = n;
	set->ids = ids;
	if (n == 0)
		return;
	range = (uint64) ids[n - 1] - (uint64) ids[0];
	if (range / 8 >= 8192 + (uint64) n * 64)
		return;
	set->base = ids[0];
	set->nbits = range + 1;
	set->bits = palloc0(range / 8 + 1);
	for (int i = 0; i < n; i++)
	{
		uint64 bit = (uint64) ids[i] - (uint64) set->base;

		set->bits[bit >> 3] |= 1 << (bit & 7);
	}
}

/* The union of a set and sorted, distinct ids; the set itself if they add nothing. */
static void
crm_id_set_union(CrmIdSet *result, const CrmIdSet *set, const int64 *ids, int n)
{
	int64 *all = palloc_array(int64, (Size) set->n + n);
	int count = 0;
	int i = 0;
	int j = 0;

	while (i < set->n || j < n)
	{
		if (j >= n || (i < set->n && set->ids[i] < ids[j]))
			all[count++] = set->ids[i++];
		else
		{
			if (i < set->n && set->ids[i] == ids[j])
				i++;
			all[count++] = ids[j++];
		}
	}
	if (count == set->n)
	{
		pfree(all);
		*result = *set;
		return;
	}
	crm_id_set_fill(result, all, count);
}

/* The int8 array in a column of the last query, in the caller's memory context. */
static const int64 *
crm_reader_ids(uint64 row, int column, int *n)
{
	bool isnull;
	Datum value = crm_reader_datum(row, column, &isnull);
	ArrayType *array;

	*n = 0;
	if (isnull)
		return NULL;
	array = DatumGetArrayTypeP(value);
	if (ARR_NDIM(array) != 1 || ARR_HASNULL(array) || ARR_ELEMTYPE(array) != INT8OID)
		elog(ERROR, "unexpected array of ids");
	*n = ARR_DIMS(array)[0];
	return (const int64 *) ARR_DATA_PTR(array);
}

/* Own records and those of everyone below; teammates' by what their teams allow. */
static void
crm_scope_read_owners(CrmScope *scope, CrmWorkspaceAccess *entry)
{
	const int64 *ids;
	int64 *copy;
	int n;

	crm_reader_query(entry, CRM_QUERY_REPORTS, Int64GetDatum(scope->member));
	ids = crm_reader_ids(0, 1, &n);
	copy = palloc_array(int64, n);
	memcpy(copy, ids, n * sizeof(int64));
	crm_id_set_fill(&scope->owners[CRM_LEVEL_OWN], copy, n);

	scope->owners[CRM_LEVEL_EDIT] = scope->owners[CRM_LEVEL_OWN];
	crm_reader_query(entry, CRM_QUERY_TEAMMATES, Int64GetDatum(scope->member));
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		if (strcmp(crm_reader_text(row, 1), "edit") != 0)
			continue;
		ids = crm_reader_ids(row, 2, &n);
		crm_id_set_union(&scope->owners[CRM_LEVEL_EDIT], &scope->owners[CRM_LEVEL_OWN], ids, n);
	}
	scope->owners[CRM_LEVEL_READ] = scope->owners[CRM_LEVEL_EDIT];
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		if (strcmp(crm_reader_text(row, 1), "read") != 0)
			continue;
		ids = crm_reader_ids(row, 2, &n);
		crm_id_set_union(&scope->owners[CRM_LEVEL_READ], &scope->owners[CRM_LEVEL_EDIT], ids, n);
	}
}

/* One row a kind and access, those of a kind together. */
static void
crm_scope_read_shares(CrmScope *scope, CrmWorkspaceAccess *entry)
{
	static const CrmIdSet none;

	crm_reader_query(entry, CRM_QUERY_SHARES, Int64GetDatum(scope->member));
	scope->shares = palloc0_array(CrmShares, SPI_processed);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		char *kind = crm_reader_text(row, 1);
		char *access = crm_reader_text(row, 2);
		CrmShares *shares = NULL;
		CrmIdSet before;
		bool isnull;
		Datum expires;
		const int64 *ids;
		int n;

		if (scope->nshares > 0 && strcmp(scope->shares[scope->nshares - 1].kind, kind) == 0)
			shares = &scope->shares[scope->nshares - 1];
		else
		{
			shares = &scope->shares[scope->nshares++];
			shares->kind = pstrdup(kind);
		}
		ids = crm_reader_ids(row, 3, &n);
		before = shares->records[CRM_LEVEL_READ];
		crm_id_set_union(&shares->records[CRM_LEVEL_READ], &before, ids, n);
		if (strcmp(access, "edit") == 0)
			crm_id_set_union(&shares->records[CRM_LEVEL_EDIT], &none, ids, n);

		expires = crm_reader_datum(row, 4, &isnull);
		if (!isnull && DatumGetTimestampTz(expires) < scope->valid_until)
			scope->valid_until = DatumGetTimestampTz(expires);
	}
}

static void
crm_scope_read_setting(CrmScope *scope, CrmWorkspaceAccess *entry)
{
	crm_reader_query(entry, CRM_QUERY_SETTING, CStringGetTextDatum("unowned_access"));
	if (SPI_processed > 0)
	{
		char *access = crm_reader_text(0, 1);

		if (access == NULL)
			return;
		scope->unowned[CRM_LEVEL_EDIT] = strcmp(access, "edit") == 0;
		scope->unowned[CRM_LEVEL_READ] =
			scope->unowned[CRM_LEVEL_EDIT] || strcmp(access, "read") == 0;
	}
}

/*
 * Builds the scope of a member.  The context hangs on the transaction's until
 * all is read, so that an error frees it.
 */
static CrmScope *
crm_scope_build(CrmWorkspaceAccess *entry, const CrmIdentity *identity)
{
	MemoryContext context =
		AllocSetContextCreate(CurTransactionContext, "crm scope", ALLOCSET_SMALL_SIZES);
	CrmScope *scope = MemoryContextAllocZero(context, sizeof(CrmScope));
	CrmReader reader;

	scope->workspace = entry->workspace;
	scope->member = identity->member;
	scope->access = identity->access;
	scope->valid_until = DT_NOEND;
	scope->context = context;
	scope->org_epoch = identity->org_epoch;

	if (scope->access != CRM_ACCESS_ALL)
	{
		MemoryContext old;

		crm_reader_begin(&reader, entry->workspace);
		old = MemoryContextSwitchTo(context);
		crm_scope_read_setting(scope, entry);
		crm_scope_read_owners(scope, entry);
		crm_scope_read_shares(scope, entry);
		MemoryContextSwitchTo(old);
		crm_reader_end(&reader);
	}
	MemoryContextSetParent(context, crm_access_context);
	crm_scope_count++;
	return scope;
}

static bool
crm_scope_is_valid(const CrmScope *scope, const CrmIdentity *identity)
{
	return scope->member == identity->member && scope->access == identity->access &&
		   scope->org_epoch == crm_org_epoch &&
		   scope->valid_until > GetCurrentStatementStartTimestamp();
}

/* Whoever holds this scope asks again. */
static CrmScope *
crm_scope_drop(CrmScope **slot)
{
	CrmScope *scope = *slot;

	*slot = NULL;
	crm_access_epoch++;
	MemoryContextDelete(scope->context);
	return NULL;
}

/*
 * What the session may see in a workspace.  The result is good for now, and as
 * long as crm_access_epoch stays the same if crm_scope_is_current() says so; but
 * no longer than the statement.
 */
CrmScope *
crm_scope(Oid workspace)
{
	CrmWorkspaceAccess *entry = crm_access_entry(workspace);
	const CrmIdentity *identity = crm_identity(entry);
	CrmScope *scope;
	int slot = 0;

	if (identity->member == 0)
	{
		crm_nobody.org_epoch = identity->org_epoch;
		return &crm_nobody;
	}

	for (int i = 0; i < CRM_SCOPES; i++)
	{
		scope = entry->scopes[i];
		if (scope != NULL && scope->org_epoch != crm_org_epoch)
			scope = crm_scope_drop(&entry->scopes[i]);
		if (scope != NULL && crm_scope_is_valid(scope, identity))
		{
			scope->last_used = ++crm_scope_uses;
			return scope;
		}
		if (entry->scopes[slot] != NULL &&
			(scope == NULL || scope->last_used < entry->scopes[slot]->last_used))
			slot = i;
	}

	if (entry->scopes[slot] != NULL)
		crm_scope_drop(&entry->scopes[slot]);
	scope = crm_scope_build(entry, identity);
	scope->last_used = ++crm_scope_uses;
	entry->scopes[slot] = scope;
	return scope;
}

/* The records of a kind that were shared with the member, NULL if none. */
const CrmIdSet *
crm_scope_shared(const CrmScope *scope, CrmLevel level, const char *kind)
{
	for (int i = 0; i < scope->nshares; i++)
	{
		const CrmIdSet *records = &scope->shares[i].records[level];

		if (strcmp(scope->shares[i].kind, kind) == 0)
			return records->n > 0 ? records : NULL;
	}
	return NULL;
}

/* The tables a scope is read from, for plans that depend on it. */
List *
crm_scope_tables(Oid workspace)
{
	List *relids = NIL;

	for (int i = 0; i < lengthof(crm_watched_tables); i++)
		relids = lappend_oid(relids, crm_workspace_table(workspace, crm_watched_tables[i], false));
	return relids;
}

int64
crm_member_id(Oid workspace)
{
	return crm_identity(crm_access_entry(workspace))->member;
}

PG_FUNCTION_INFO_V1(crm_member_id_sql);
Datum
crm_member_id_sql(PG_FUNCTION_ARGS)
{
	int64 member = crm_member_id(PG_GETARG_OID(0));

	if (member == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(member);
}

/*
 * On every table that scopes are read from.  A row trigger, since logical
 * replication fires no others.
 */
PG_FUNCTION_INFO_V1(crm_access_changed);
Datum
crm_access_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("crm.access_changed() must be called as a trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	PG_RETURN_POINTER(NULL);
}

PG_FUNCTION_INFO_V1(crm_scopes_built);
Datum
crm_scopes_built(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) crm_scope_count);
}
