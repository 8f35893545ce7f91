/*
 * access.h
 *		Who a session acts for, and whose records that member may see.
 *
 * A member is known by the schema of a workspace and an id in its table
 * member.  Nobody is 0, and nobody sees nothing.
 */
#ifndef CRM_ACCESS_H
#define CRM_ACCESS_H

/* The member the session acts for in a workspace, 0 if nobody. */
extern int64 crm_member_id(Oid workspace);

#endif /* CRM_ACCESS_H */
