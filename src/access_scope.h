/*
 * access_scope.h
 *		What the files of the access topic share.
 */
#ifndef CRM_ACCESS_SCOPE_H
#define CRM_ACCESS_SCOPE_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/palloc.h"

/* What one may do with a record.  Each level includes the ones before it. */
typedef enum CrmLevel
{
	CRM_LEVEL_READ,
	CRM_LEVEL_EDIT,
	CRM_LEVEL_OWN, /* delete, transfer and share it */
} CrmLevel;

#define CRM_LEVELS (CRM_LEVEL_OWN + 1)

/* Column member.access. */
typedef enum CrmMemberAccess
{
	CRM_ACCESS_STANDARD,
	CRM_ACCESS_READ_ALL,
	CRM_ACCESS_ALL,
} CrmMemberAccess;

/* A set of member ids: sorted, and a bitmap as well unless they lie too far apart. */
typedef struct CrmIdSet
{
	int n;
	int64 *ids;
	int64 base; /* id of the first bit */
	uint64 nbits;
	uint8 *bits; /* NULL: search ids */
} CrmIdSet;

/* The records of one kind that were shared with a member, by level. */
typedef struct CrmShares
{
	char *kind;
	CrmIdSet records[CRM_LEVELS];
} CrmShares;

/*
 * Everything one member may see.  Lives in a context of its own and is never
 * changed once built; see access_scope.c on its life.
 */
typedef struct CrmScope
{
	Oid workspace;
	int64 member; /* 0: nobody */
	CrmMemberAccess access;
	bool unowned[CRM_LEVELS];
	CrmIdSet owners[CRM_LEVELS];
	int nshares;
	CrmShares *shares;		 /* by kind */
	TimestampTz valid_until; /* when the first share expires */
	uint64 org_epoch;
	uint64 last_used;
	MemoryContext context;
} CrmScope;

/* Changes whenever a scope found earlier may no longer be the right one. */
extern uint64 crm_access_epoch;

extern uint64 crm_org_epoch;

extern CrmScope *crm_scope(Oid workspace);

/* False if the tables changed while the scope was being read. */
static inline bool
crm_scope_is_current(const CrmScope *scope)
{
	return scope->org_epoch == crm_org_epoch;
}

extern const CrmIdSet *crm_scope_shared(const CrmScope *scope, CrmLevel level, const char *kind);
extern List *crm_scope_tables(Oid workspace);

/* May the member do this with any record whatever? */
static inline bool
crm_scope_all(const CrmScope *scope, CrmLevel level)
{
	return scope->access == CRM_ACCESS_ALL ||
		   (scope->access == CRM_ACCESS_READ_ALL && level == CRM_LEVEL_READ);
}

extern bool crm_id_set_search(const CrmIdSet *set, int64 id);
extern void crm_id_set_fill(CrmIdSet *set, int64 *ids, int n);

static inline bool
crm_id_set_contains(const CrmIdSet *set, int64 id)
{
	uint64 bit;

	if (set->bits == NULL)
		return crm_id_set_search(set, id);
	bit = (uint64) id - (uint64) set->base;
	return bit < set->nbits && (set->bits[bit >> 3] & (1 << (bit & 7))) != 0;
}

/* access_identity.c: who the session says it acts for, before anybody looked whether that member
 * exists. */
typedef enum CrmClaim
{
	CRM_CLAIM_NONE,		 /* neither crm.token nor crm.member is set */
	CRM_CLAIM_ELSEWHERE, /* it names another workspace */
	CRM_CLAIM_GATEWAY,	 /* crm.member names a member of this one */
	CRM_CLAIM_TOKEN,	 /* crm.token does */
} CrmClaim;

extern CrmClaim crm_identity_claim(Oid workspace, int64 *member);
extern TimestampTz crm_identity_verify(Datum *keys, int nkeys);
extern bool crm_parse_member(const char *text, char *schema, int64 *member);
extern void crm_identity_changed(void);

/* access_token.c */
extern void crm_token_subject(const char *token, char *schema, int64 *member);
extern TimestampTz crm_token_verify(const char *token, Datum *keys, int nkeys);

#endif /* CRM_ACCESS_SCOPE_H */
