/*
 * duplicate_budget.h
 *		How many answers about hidden records a person may still have.
 */
#ifndef CRM_DUPLICATE_BUDGET_H
#define CRM_DUPLICATE_BUDGET_H

#include "datatype/timestamp.h"

extern Size crm_budgets_size(void);
extern bool crm_budget_take(Oid workspace, int64 member, int limit, TimestampTz now);

#endif /* CRM_DUPLICATE_BUDGET_H */
