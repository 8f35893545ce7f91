/*
 * fuzz.h
 *		What a fuzz target defines, and what it may use.
 */
#ifndef CRM_FUZZ_H
#define CRM_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Tries one input, which ends where its memory does.  choice is a random number,
 * for whatever else the parser takes.
 */
extern void fuzz_one(const char *in, size_t len, uint32_t choice);

/* Stops the run, showing the input, unless the condition holds. */
#define FUZZ_CHECK(condition)      \
	do                             \
	{                              \
		if (!(condition))          \
			fuzz_fail(#condition); \
	} while (0)

extern void fuzz_fail(const char *condition);

/* Whether bytes are well-formed UTF-8. */
extern bool fuzz_is_utf8(const char *s, size_t len);

#endif /* CRM_FUZZ_H */
