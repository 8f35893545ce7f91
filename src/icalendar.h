/*
 * icalendar.h
 *		Content lines of iCalendar (RFC 5545).
 *
 * Pure: no server headers, no allocation; the caller brings the buffers.
 */
#ifndef CRM_ICALENDAR_H
#define CRM_ICALENDAR_H

#include <stddef.h>

/* Octets of a line, without its CRLF (RFC 5545, 3.1). */
#define CRM_ICALENDAR_LINE 75

/* Room for the escaped form of len bytes, and for the folded form of them. */
#define CRM_ICALENDAR_ESCAPED(len) (2 * (len))
#define CRM_ICALENDAR_FOLDED(len)  ((len) + 3 * ((len) / (CRM_ICALENDAR_LINE - 4) + 1))

/*
 * A TEXT value (3.3.11): backslash, semicolon and comma are escaped, any kind of
 * line end becomes \n, and other control characters, which iCalendar cannot
 * express, are left out.  Returns the length.
 */
extern size_t crm_icalendar_escape(const char *in, size_t len, char *out);

/*
 * A content line folded to 75 octets, between characters, with its CRLF.  Control
 * characters other than the tab are left out, so a value can never begin a line
 * of its own.  Returns the length.
 */
extern size_t crm_icalendar_fold(const char *in, size_t len, char *out);

#endif /* CRM_ICALENDAR_H */
