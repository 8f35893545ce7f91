/*
 * clock.c
 *		The one clock, the sleep until one of its times, and the hook by which
 *		tests shift it.
 *
 * Reminders are due by the wall clock, which can be set.  Set back, it takes
 * nothing back: what fired has fired, and the rest waits longer.  Set forward by
 * mistake, by a faulty time server say, it would fire the reminders of years.  So
 * a step forward of more than a quarter of an hour, to a time that the cluster
 * has not lived through yet, is held until it has lasted for crm.clock_hold, is
 * undone, or is accepted.  A step is told by comparing with a clock that nobody
 * can set and that counts the time a machine sleeps, so waking up is no step.
 * What happened to the clock while the server was down cannot be known and is
 * trusted.
 */
#include "postgres.h"

#include <time.h>
#ifdef __linux__
#include <sys/timerfd.h>
#include <unistd.h>
#endif

#include "catalog/pg_authid.h"
#include "common/int.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "scheduler.h"

#define CRM_MAX_CLOCK_STEP (15 * USECS_PER_MINUTE)

/* Microseconds from the epoch of Unix to that of PostgreSQL. */
#define CRM_EPOCH_DIFF ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

int crm_clock_hold = 60;

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
	shift = crm_scheduler->clock.shift + crm_scheduler->clock.step;
	if (shift == 0)
		return now;
	if (pg_add_s64_overflow(now, shift, &shifted) || !IS_VALID_TIMESTAMP(shifted))
		return shift > 0 ? END_TIMESTAMP - 1 : MIN_TIMESTAMP;
	return shifted;
}

int64
crm_ticks(void)
{
	struct timespec t;

#ifdef CLOCK_BOOTTIME
	clock_gettime(CLOCK_BOOTTIME, &t);
#else
	clock_gettime(CLOCK_MONOTONIC, &t);
#endif
	return t.tv_sec * USECS_PER_SEC + t.tv_nsec / 1000;
}

int64
crm_processor_time(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * USECS_PER_SEC + t.tv_nsec / 1000;
}

bool
crm_clock_read(TimestampTz *now)
{
	CrmClock *clock = &crm_scheduler->clock;
	TimestampTz wall = GetCurrentTimestamp() + clock->step;
	int64 ticks = crm_ticks();
	int64 step, was_held;
	bool held = false;

	LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
	if (!clock->known)
	{
		clock->known = true;
		clock->offset = wall - ticks;
		clock->lived = wall;
	}
	step = wall - ticks - clock->offset;
	was_held = clock->held_since;
	if (step > CRM_MAX_CLOCK_STEP && wall > clock->lived + CRM_MAX_CLOCK_STEP && !clock->accept &&
		crm_clock_hold != 0)
	{
		if (was_held == 0)
			clock->held_since = ticks;
		clock->held_step = step;
		held = crm_clock_hold < 0 || ticks - clock->held_since < crm_clock_hold * USECS_PER_SEC;
	}
	if (!held)
	{
		clock->accept = false;
		clock->held_since = 0;
		clock->offset = wall - ticks;
		clock->lived = Max(clock->lived, wall);
	}
	LWLockRelease(&crm_scheduler->lock);

	if (held && was_held == 0)
		ereport(WARNING,
				(errmsg("the system's clock was set forward by " INT64_FORMAT
						" minutes; no reminder fires for now",
						step / USECS_PER_MINUTE),
				 crm_clock_hold < 0
					 ? errdetail("Firing goes on when the step is undone or accepted.")
					 : errdetail("Firing goes on when the step is undone, accepted or %d seconds "
								 "old.",
								 crm_clock_hold),
				 errhint("If the time is right, run SELECT crm.scheduler_accept_clock(); if not, "
						 "set the clock.")));
	else if (!held && was_held != 0)
		ereport(LOG, (errmsg("reminders fire again by a clock that is " INT64_FORMAT
							 " minutes ahead of what it was",
							 step / USECS_PER_MINUTE)));
	*now = crm_now();
	return !held;
}

int64
crm_clock_held_until(void)
{
	CrmClock *clock = &crm_scheduler->clock;

	return crm_clock_hold < 0 ? PG_INT64_MAX : clock->held_since + crm_clock_hold * USECS_PER_SEC;
}

#ifdef __linux__

/*
 * A latch's timeout counts whole milliseconds of a clock of its own.  A timer on
 * the wall clock rings to the microsecond, and when the clock is set.
 */
void
crm_clock_sleep(TimestampTz until, int64 most, uint32 wait_event)
{
	static WaitEventSet *set = NULL;
	static int timer = -1;
	TimestampTz wall = GetCurrentTimestamp();
	struct itimerspec when = {0};
	uint64 rings;
	WaitEvent event;
	int64 unix_time;

	if (set == NULL)
	{
		if (timer < 0)
		{
			ReserveExternalFD();
			timer = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
			if (timer < 0)
				ereport(ERROR, (errcode_for_file_access(), errmsg("could not create a timer: %m")));
		}
		set = CRM_CREATE_WAIT_EVENT_SET(3);
		AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		AddWaitEventToSet(set, WL_SOCKET_READABLE, timer, NULL, NULL);
	}

	if (until == DT_NOEND || until - crm_now() > most)
		until = wall + most;
	else
		until = wall + (until - crm_now());
	unix_time = Max(until + CRM_EPOCH_DIFF, 1);
	when.it_value.tv_sec = unix_time / USECS_PER_SEC;
	when.it_value.tv_nsec = unix_time % USECS_PER_SEC * 1000;
	/* Fails if the clock was set since the timer was last armed: then look again at once. */
	if (timerfd_settime(timer, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &when, NULL) < 0)
	{
		if (errno == ECANCELED)
			return;
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not set a timer: %m")));
	}
	if (WaitEventSetWait(set, (long) (most / 1000) + 1, &event, 1, wait_event) == 1 &&
		event.events == WL_SOCKET_READABLE)
	{
		/* Takes note of the ring, or, with ECANCELED, of a clock that was set. */
		if (read(timer, &rings, sizeof(rings)) < 0)
			errno = 0;
	}
}

#else

void
crm_clock_sleep(TimestampTz until, int64 most, uint32 wait_event)
{
	int64 wait = most;

	if (until != DT_NOEND)
		wait = Min(wait, Max(until - crm_now(), 0));
	/* Not for long: nobody tells when the clock is set. */
	wait = Min(wait, 10 * USECS_PER_SEC);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 (long) (wait + 999) / 1000, wait_event);
}

#endif

PG_FUNCTION_INFO_V1(crm_scheduler_accept_clock);
Datum
crm_scheduler_accept_clock(PG_FUNCTION_ARGS)
{
	bool held;

	if (!has_privs_of_role(GetUserId(), ROLE_PG_SIGNAL_BACKEND))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied to accept the clock"),
						errdetail("Only superusers and members of pg_signal_backend may.")));
	crm_scheduler_attach(ERROR);
	LWLockAcquire(&crm_scheduler->lock, LW_EXCLUSIVE);
	held = crm_scheduler->clock.held_since != 0;
	crm_scheduler->clock.accept = held;
	LWLockRelease(&crm_scheduler->lock);
	crm_scheduler_wake_all();
	PG_RETURN_BOOL(held);
}

/*
 * crm_test declares these; the extension does not, and only a superuser can
 * declare a C function.  They take microseconds and return the resulting time.
 */
PG_FUNCTION_INFO_V1(crm_clock_shift);
Datum
crm_clock_shift(PG_FUNCTION_ARGS)
{
	crm_scheduler_attach(ERROR);
	crm_scheduler->clock.shift = PG_GETARG_INT64(0);
	crm_scheduler_wake_all();
	PG_RETURN_TIMESTAMPTZ(crm_now());
}

PG_FUNCTION_INFO_V1(crm_clock_step);
Datum
crm_clock_step(PG_FUNCTION_ARGS)
{
	crm_scheduler_attach(ERROR);
	crm_scheduler->clock.step = PG_GETARG_INT64(0);
	crm_scheduler_wake_all();
	PG_RETURN_TIMESTAMPTZ(crm_now());
}

PG_FUNCTION_INFO_V1(crm_now_sql);
Datum
crm_now_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(crm_now());
}
