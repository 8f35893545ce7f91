/*
 * duplicate_budget.c
 *		How many answers about hidden records a person may still have.
 *
 * The budgets are in shared memory: they are of the person, whichever sessions
 * they open, and do not come back when a transaction is rolled back, as every
 * refused one is.  After a minute without a question a budget is whole again and
 * its place free.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "duplicate_budget.h"

#define CHECK_PERSONS 512 /* who ask within a minute */

typedef struct CheckPerson
{
	Oid database;
	Oid workspace;
	int64 member; /* 0: nobody known, */
	Oid role;	  /* then this role */
} CheckPerson;

typedef struct CheckBudget
{
	CheckPerson person;
	double left;
	TimestampTz at; /* when that was true */
} CheckBudget;

typedef struct CheckBudgets
{
	int tranche;
	LWLock lock;
	CheckBudget budget[CHECK_PERSONS];
} CheckBudgets;

static void
crm_budgets_setup(void *ptr)
{
	CheckBudgets *b = ptr;

	memset(b, 0, sizeof(CheckBudgets));
	b->tranche = LWLockNewTrancheId();
	LWLockInitialize(&b->lock, b->tranche);
}

Size
crm_budgets_size(void)
{
	return sizeof(CheckBudgets);
}

/* A whole budget for a new person, in place of the one that was not touched for longest. */
static CheckBudget *
crm_budget_of(CheckBudgets *budgets, const CheckPerson *person, int limit, TimestampTz now)
{
	CheckBudget *oldest = &budgets->budget[0];

	for (int i = 0; i < CHECK_PERSONS; i++)
	{
		CheckBudget *b = &budgets->budget[i];

		if (b->person.workspace == person->workspace && b->person.database == person->database &&
			b->person.member == person->member && b->person.role == person->role)
			return b;
		if (b->at < oldest->at)
			oldest = b;
	}
	oldest->person = *person;
	oldest->left = limit;
	oldest->at = now;
	return oldest;
}

/* Takes one answer; false if there is none left.  The limit is answers a minute. */
bool
crm_budget_take(Oid workspace, int64 member, int limit, TimestampTz now)
{
	static CheckBudgets *budgets = NULL;
	CheckPerson person = {MyDatabaseId, workspace, member,
						  member == 0 ? GetSessionUserId() : InvalidOid};
	CheckBudget *b;
	bool result;

	if (budgets == NULL)
	{
		budgets = crm_get_shared("crm check budgets", sizeof(CheckBudgets), crm_budgets_setup);
		if (budgets == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("not enough shared memory to count checks for duplicates"),
					 errhint("Add \"crm\" to shared_preload_libraries and restart the server.")));
		LWLockRegisterTranche(budgets->tranche, "CrmCheckBudgets");
	}
	LWLockAcquire(&budgets->lock, LW_EXCLUSIVE);
	b = crm_budget_of(budgets, &person, limit, now);
	if (now > b->at)
		b->left += limit * ((double) (now - b->at) / USECS_PER_MINUTE);
	b->left = Min(limit, b->left);
	b->at = now;
	result = b->left >= 1;
	if (result)
		b->left -= 1;
	LWLockRelease(&budgets->lock);
	return result;
}
