/*
 * uscc.h
 *		Unified social credit codes (GB 32100-2015).  Pure.
 */
#ifndef CRM_USCC_H
#define CRM_USCC_H

#include "input.h"

#define CRM_USCC_LENGTH 18

/*
 * Parses a code into its canonical form: 18 digits and capital letters.  Lower-case
 * and full-width characters, spaces and hyphens are accepted.  out has room for
 * CRM_USCC_LENGTH + 1 bytes.
 */
extern bool crm_uscc_parse(const char *in, size_t len, char *out, CrmFault *fault);

#endif /* CRM_USCC_H */
