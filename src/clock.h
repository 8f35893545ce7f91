/*
 * clock.h
 *		The one clock: whatever crm does at a time, it asks here what time it is.
 *
 * Outside tests this is the system's clock.  A test shifts it for the whole
 * cluster, so that it need not wait for a due time.
 */
#ifndef CRM_CLOCK_H
#define CRM_CLOCK_H

#include "datatype/timestamp.h"

extern TimestampTz crm_now(void);

#endif /* CRM_CLOCK_H */
