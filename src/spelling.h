/*
 * spelling.h
 *		The spelling of names as people read them; matching keys are name.h's business.
 */
#ifndef CRM_SPELLING_H
#define CRM_SPELLING_H

#include "input.h"

/*
 * A copy of a text in NFC, with white space collapsed to single spaces and trimmed,
 * and without invisible and control characters; letters and case stay.  palloc'd
 * in the current context and terminated; *result_len may be 0.
 */
extern char *crm_tidy(const char *value, size_t len, size_t *result_len);

/*
 * A person's full name from its parts, either of which may be NULL: family name and
 * given name without a space if both are written in Han or Hangul, else given name,
 * space, family name.  NULL if both parts are.
 */
extern char *crm_full_name(const char *given, const char *family);

#endif /* CRM_SPELLING_H */
