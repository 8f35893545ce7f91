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

/* What is known of the system's clock, in shared memory. Times in microseconds. */
typedef struct CrmClock
{
	int64 shift;	   /* tests only: a clock that was always ahead */
	int64 step;		   /* tests only: as if somebody had set the system's clock */
	bool known;		   /* the rest has been set */
	int64 offset;	   /* wall clock minus ticks, as trusted */
	TimestampTz lived; /* latest wall clock that was trusted */
	int64 held_since;  /* ticks when a step forward was noticed, 0 if none is held */
	int64 held_step;   /* its length */
	bool accept;	   /* somebody says that the step is right */
} CrmClock;

/* Seconds for which a step forward is held; -1 until it is accepted, 0 never. */
extern int crm_clock_hold;

extern TimestampTz crm_now(void);

/* Microseconds of a clock that nobody sets and that goes on while the machine sleeps. */
extern int64 crm_ticks(void);
/* Microseconds of the processor that this process has used. */
extern int64 crm_processor_time(void);

/*
 * The same as crm_now(), for whoever acts on the time: false while it is not to
 * be trusted, because the system's clock was just set far forward.
 */
extern bool crm_clock_read(TimestampTz *now);

/* Ticks at which a held step forward will be accepted by itself, PG_INT64_MAX if never. */
extern int64 crm_clock_held_until(void);

/*
 * Waits for the latch, until crm_now() is "until" (DT_NOEND: for ever), until the
 * system's clock is set, and no longer than "most" microseconds.
 */
extern void crm_clock_sleep(TimestampTz until, int64 most, uint32 wait_event);

#endif /* CRM_CLOCK_H */
