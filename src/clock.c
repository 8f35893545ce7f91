/*
 * clock.c
 *		The one clock, and the hook by which tests shift it.
 */
#include "postgres.h"

#include "common/int.h"
#include "fmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "scheduler.h"

/*
 * The shift lives in the scheduler's shared memory.  A backend that has not
 * attached to it, which happens only when crm is not preloaded and neither
 * reminders nor the scheduler were used, sees the system's clock.
 */
TimestampTz
crm_now(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int64 shift, shifted;

	if (crm_scheduler == NULL)
		return now;
	shift = (int64) pg_atomic_read_u64(&crm_scheduler->clock_shift);
	if (shift == 0)
		return now;
	if (pg_add_s64_overflow(now, shift, &shifted) || !IS_VALID_TIMESTAMP(shifted))
		return shift > 0 ? END_TIMESTAMP - 1 : MIN_TIMESTAMP;
	return shifted;
}

/*
 * crm_test declares this function; the extension does not, and only a superuser
 * can declare a C function.  Takes microseconds, returns the shifted time.
 */
PG_FUNCTION_INFO_V1(crm_clock_shift);
Datum
crm_clock_shift(PG_FUNCTION_ARGS)
{
	crm_scheduler_attach(ERROR);
	pg_atomic_write_u64(&crm_scheduler->clock_shift, (uint64) PG_GETARG_INT64(0));
	crm_scheduler_wake_all();
	PG_RETURN_TIMESTAMPTZ(crm_now());
}

PG_FUNCTION_INFO_V1(crm_now_sql);
Datum
crm_now_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(crm_now());
}
