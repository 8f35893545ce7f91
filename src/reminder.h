/*
 * reminder.h
 *		Firing the due reminders of one workspace.
 */
#ifndef CRM_REMINDER_H
#define CRM_REMINDER_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"

#include "scheduler.h"

/*
 * What is remembered of a workspace between batches.  "low" and "low_id" are the
 * least key a pending reminder can have: scans start there, and not at the dead
 * index entries of all that fired since the last vacuum.
 */
typedef struct CrmPending
{
	Oid workspace;
	TimestampTz low;
	int64 low_id;
	TimestampTz until; /* what is due later is none of its business */
	TimestampTz next;  /* least due time of a pending reminder, DT_NOEND if there is none */
	int64 next_id;	   /* and its id */
	int64 only_id;	   /* if not 0, fire this reminder only */
} CrmPending;

/*
 * How far firing has come.  Before CRM_FIRING no reminder was touched, so that an
 * error is not the fault of one.
 */
typedef enum CrmFireStep
{
	CRM_PREPARING, /* statements of ours are planned */
	CRM_FIRING,
	CRM_JUDGING /* hold_events() runs */
} CrmFireStep;

typedef struct CrmFired
{
	CrmFireStep step;
	int64 count;
	int64 first; /* event */
	int64 last;
	bool busy; /* another transaction is firing this workspace */
	bool more; /* reminders that are due are left, maybe locked */
	bool bare; /* none of the events has a payload */
	int64 lateness[CRM_LATENESS_BUCKETS];
	int64 max_lateness; /* microseconds */
} CrmFired;

/* Reminders to be fired by statement: where they are, and the least key among them. */
typedef struct CrmSpecial
{
	MemoryContext context;
	Datum *tids;
	int count;
	int room;
	TimestampTz due;
	int64 id;
} CrmSpecial;

/* True if the workspace may fire in this database (reminder_home.c). Needs an active snapshot. */
extern bool crm_reminder_at_home(Oid workspace);

/* Schemas of this database that are workspaces, as a list of OIDs. */
extern List *crm_reminder_workspaces(void);

/*
 * These run in the caller's transaction and SPI connection, as the owner of the
 * workspace.
 */

/* Fires at most "limit" reminders due at "now" and finds the next. */
extern void crm_reminder_fire(CrmPending *pending, TimestampTz now, int64 limit, bool wait,
							  CrmFired *fired);
/* Finds the next only. */
extern void crm_reminder_look(CrmPending *pending);
/* Takes a reminder that cannot be fired out of the line. */
extern void crm_reminder_set_aside(Oid workspace, int64 id, TimestampTz now, const char *failure);

typedef struct CrmReminderCounts
{
	int64 due;			/* and not fired yet */
	int64 set_aside;	/* by a failure */
	TimestampTz oldest; /* least due time of those that are due, DT_NOEND if there are none */
} CrmReminderCounts;

/* Adds those of a workspace. */
extern void crm_reminder_count(Oid workspace, TimestampTz now, CrmReminderCounts *counts);

/*
 * The tables, their triggers and their indexes belong to the workspace's owner:
 * nothing of them runs with the rights of whoever fires, and no setting they
 * change outlives the batch.
 */
typedef struct CrmOwnerContext
{
	Oid user;
	int sec_context;
	int nestlevel;
} CrmOwnerContext;

extern void crm_become_owner(CrmOwnerContext *saved, Oid workspace);
extern void crm_become_oneself(CrmOwnerContext *saved);

/*
 * Deletes some old events, in transactions of its own (event.c).  For a worker
 * that has nothing else to do; true if it did something, and may have more to do.
 */
extern bool crm_event_retain(CrmSlot *slot);

/* ---- between reminder.c and reminder_plain.c ---- */

/*
 * Fires plain reminders, notes the special ones, moves the low-water mark and
 * finds the next; false, and nothing done, if all are to be fired by statement.
 */
extern bool crm_reminder_fire_plain(CrmPending *pending, TimestampTz now, int64 limit,
									CrmFired *fired, CrmSpecial *special);
extern void crm_fired_count(CrmFired *fired, TimestampTz due, TimestampTz now);
extern void crm_special_add(CrmSpecial *special, ItemPointer tid, TimestampTz due, int64 id);

#endif /* CRM_REMINDER_H */
