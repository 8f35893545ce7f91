/*
 * compat.h
 *		Every test of PG_VERSION_NUM in crm, so that no other file has one.
 *
 * Include after postgres.h and fmgr.h.
 */
#ifndef CRM_COMPAT_H
#define CRM_COMPAT_H

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "crm is built and tested for PostgreSQL 15 to 18"
#endif

#include "utils/acl.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM >= 160000

#include "nodes/miscnodes.h"
#include "varatt.h"

#define CRM_ESCONTEXT(fcinfo)			((fcinfo)->context)
#define CRM_STRING_TO_NAME_LIST(string) stringToQualifiedNameList(string, NULL)

#else /* 15 */

#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"

/* Soft errors came with 16; before, an error context is always NULL and every error is hard. */
#define CRM_ESCONTEXT(fcinfo)			((struct Node *) NULL)
#define CRM_STRING_TO_NAME_LIST(string) stringToQualifiedNameList(string)
#define ereturn(context, dummy_value, ...) \
	do                                     \
	{                                      \
		(void) (context);                  \
		ereport(ERROR, __VA_ARGS__);       \
		return dummy_value;                \
	} while (0)
#define errsave(context, ...)        \
	do                               \
	{                                \
		(void) (context);            \
		ereport(ERROR, __VA_ARGS__); \
	} while (0)
#define SOFT_ERROR_OCCURRED(context) false

static inline bool
DirectInputFunctionCallSafe(PGFunction func, char *str, Oid typioparam, int32 typmod,
							struct Node *escontext, Datum *result)
{
	(void) escontext;
	*result = DirectFunctionCall3(func, CStringGetDatum(str), ObjectIdGetDatum(typioparam),
								  Int32GetDatum(typmod));
	return true;
}

static inline AclResult
object_aclcheck(Oid classid, Oid objectid, Oid roleid, AclMode mode)
{
	if (classid == NamespaceRelationId)
		return pg_namespace_aclcheck(objectid, roleid, mode);
	if (classid == RelationRelationId)
		return pg_class_aclcheck(objectid, roleid, mode);
	Assert(classid == ProcedureRelationId);
	return pg_proc_aclcheck(objectid, roleid, mode);
}

static inline bool
object_ownercheck(Oid classid, Oid objectid, Oid roleid)
{
	if (classid == NamespaceRelationId)
		return pg_namespace_ownercheck(objectid, roleid);
	Assert(classid == RelationRelationId);
	return pg_class_ownercheck(objectid, roleid);
}

#endif

#if PG_VERSION_NUM >= 170000
#define CRM_WAIT_EVENT_NEW(name) WaitEventExtensionNew(name)
#else
#define CRM_WAIT_EVENT_NEW(name) ((void) (name), PG_WAIT_EXTENSION)
#endif

/*
 * crm_get_shared(): shared memory for a library that was not preloaded, found or
 * made under a name; NULL if there is no room.
 *
 * crm_worker_version_settings(): settings a worker overrides that not every
 * version has.
 */
#if PG_VERSION_NUM >= 170000

#include "storage/dsm_registry.h"
#include "utils/guc.h"

static inline void *
crm_get_shared(const char *name, Size size, void (*init)(void *))
{
	bool found;

	return GetNamedDSMSegment(name, size, init, &found);
}

static inline void
crm_worker_version_settings(void)
{
	SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
}

#else

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

static inline void
crm_worker_version_settings(void)
{
}

static inline void *
crm_get_shared(const char *name, Size size, void (*init)(void *))
{
	void *volatile result = NULL;
	MemoryContext context = CurrentMemoryContext;
	bool found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	PG_TRY();
	{
		result = ShmemInitStruct(name, size, &found);
		if (!found)
			init(result);
	}
	PG_CATCH();
	{
		/* Out of room: ShmemInitStruct() has undone its work, and nothing else was begun. */
		MemoryContextSwitchTo(context);
		FlushErrorState();
		result = NULL;
		HOLD_INTERRUPTS(); /* the error reset the count that LWLockRelease() will lower */
	}
	PG_END_TRY();
	LWLockRelease(AddinShmemInitLock);
	return result;
}

#endif

#if PG_VERSION_NUM >= 180000
#define CRM_EXECUTOR_RUN(qd) ExecutorRun(qd, ForwardScanDirection, 0)
#else
#define CRM_EXECUTOR_RUN(qd) ExecutorRun(qd, ForwardScanDirection, 0, true)
#endif

#if PG_VERSION_NUM >= 170000
#define CRM_CREATE_WAIT_EVENT_SET(n) CreateWaitEventSet(NULL, n)
#else
#define CRM_CREATE_WAIT_EVENT_SET(n) CreateWaitEventSet(TopMemoryContext, n)
#endif

#if PG_VERSION_NUM >= 180000
#define CRM_INDEX_BEGINSCAN(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, NULL, nkeys, 0)
#else
#define CRM_INDEX_BEGINSCAN(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, nkeys, 0)
#endif

#if PG_VERSION_NUM >= 160000
#define CRM_EXEC_INSERT_INDEX_TUPLES(result_rel, slot, estate) \
	ExecInsertIndexTuples(result_rel, slot, estate, false, false, NULL, NIL, false)
#else
#define CRM_EXEC_INSERT_INDEX_TUPLES(result_rel, slot, estate) \
	ExecInsertIndexTuples(result_rel, slot, estate, false, false, NULL, NIL)
#endif

/* index_insert() may leave buffers pinned between rows. */
#if PG_VERSION_NUM >= 170000
#define CRM_INDEX_INSERT_CLEANUP(index, info) index_insert_cleanup(index, info)
#else
#define CRM_INDEX_INSERT_CLEANUP(index, info) ((void) 0)
#endif

#if PG_VERSION_NUM >= 170000
#define CRM_IDENTITY_SEQUENCE(rel, att) getIdentitySequence(rel, att, false)
#else
#define CRM_IDENTITY_SEQUENCE(rel, att) getIdentitySequence(RelationGetRelid(rel), att, false)
#endif

/* Down the trees of a GIN index; 15 and 16 check the age of the snapshot. */
#if PG_VERSION_NUM >= 170000
#define CRM_GIN_FIND_LEAF(btree, snapshot)				 ginFindLeafPage(btree, true, false)
#define CRM_GIN_FIND_LEAF_TO_WRITE(btree)				 ginFindLeafPage(btree, false, false)
#define CRM_GIN_BEGIN_TREE(btree, index, root, snapshot) ginScanBeginPostingTree(btree, index, root)
#else
#define CRM_GIN_FIND_LEAF(btree, snapshot) ginFindLeafPage(btree, true, false, snapshot)
#define CRM_GIN_FIND_LEAF_TO_WRITE(btree)  ginFindLeafPage(btree, false, false, NULL)
#define CRM_GIN_BEGIN_TREE(btree, index, root, snapshot) \
	ginScanBeginPostingTree(btree, index, root, snapshot)
#endif

/* The file a table is in; another one when it was rewritten or emptied. */
#if PG_VERSION_NUM >= 160000
#define CRM_RELATION_FILE(rel) ((rel)->rd_locator.relNumber)
#else
#define CRM_RELATION_FILE(rel) ((rel)->rd_node.relNode)
#endif

/* Stands before the declaration of a function that does not return. */
#if PG_VERSION_NUM >= 180000
#define CRM_NORETURN pg_noreturn
#else
#define CRM_NORETURN pg_attribute_noreturn()
#endif

#ifdef PG_MODULE_MAGIC_EXT
#define CRM_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "crm", .version = "1.0")
#else
#define CRM_MODULE_MAGIC PG_MODULE_MAGIC
#endif

#if PG_VERSION_NUM >= 180000
#define CRM_PRIMARY_KEY_INDEX(rel) RelationGetPrimaryKeyIndex(rel, true)
#else
#define CRM_PRIMARY_KEY_INDEX(rel) RelationGetPrimaryKeyIndex(rel)
#endif

#endif /* CRM_COMPAT_H */
