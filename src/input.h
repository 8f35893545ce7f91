/*
 * input.h
 *		What the pure parsers share: why an input was refused, and the folding of
 *		what keyboards and address books put around a value.
 *
 * A pure parser includes no server header, allocates nothing, and writes into a
 * buffer of its caller.  The fuzz drivers in test/fuzz link it as it is.
 */
#ifndef CRM_INPUT_H
#define CRM_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Why an input was refused: sentences for DETAIL and HINT.  The hint may be NULL. */
typedef struct CrmFault
{
	const char *detail;
	const char *hint;
	bool broken; /* a library failed: the value is not to blame */
} CrmFault;

/* Fills in the fault, if the caller wants it, and returns false. */
extern bool crm_fault(CrmFault *fault, const char *detail, const char *hint);

/* The same when a library failed, out of memory for example. */
extern bool crm_broken(CrmFault *fault, const char *detail);

/*
 * True for the characters that show nothing and come along when text is copied
 * from address books and web pages: soft hyphen, zero width space, byte order
 * mark, directional marks and embeddings.
 */
extern bool crm_is_invisible(uint32_t cp);

/* True for white space in Unicode's sense, except line and paragraph structure beyond ASCII's. */
extern bool crm_is_space(uint32_t cp);

/*
 * Copies an input to out: full-width ASCII (U+FF01 to U+FF5E) becomes ASCII, any
 * white space becomes a space, invisible characters vanish, and spaces at both
 * ends are trimmed.  The result is never longer than the input, and is
 * terminated.  A byte that is not UTF-8 becomes DEL, which no parser accepts.  Returns the length,
 * or -1 if it is over max bytes; out has room for max + 1.
 */
extern ptrdiff_t crm_input_fold(const char *in, size_t len, char *out, size_t max);

static inline bool
crm_ascii_digit(char c)
{
	return c >= '0' && c <= '9';
}

static inline bool
crm_ascii_alpha(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static inline char
crm_ascii_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char) (c + ('a' - 'A')) : c;
}

static inline char
crm_ascii_upper(char c)
{
	return c >= 'a' && c <= 'z' ? (char) (c - ('a' - 'A')) : c;
}

#endif /* CRM_INPUT_H */
