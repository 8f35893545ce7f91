/*
 * email.h
 *		E-mail addresses.  Pure: ICU only.
 */
#ifndef CRM_EMAIL_H
#define CRM_EMAIL_H

#include "input.h"

/* RFC 5321 4.5.3.1: 64 octets of local part; a path of 256 with its angle brackets. */
#define CRM_EMAIL_LOCAL_MAX 64
#define CRM_EMAIL_MAX		254

/*
 * Parses an addr-spec (RFC 5322, with the UTF-8 of RFC 6532) into its canonical
 * form.  out has room for CRM_EMAIL_MAX + 1 bytes.
 *
 * Canonical form: local part in lower case and NFC, quoted only where it must be;
 * domain as crm_domain_parse() makes it.  Parsing is idempotent.
 */
extern bool crm_email_parse(const char *in, size_t len, char *out, CrmFault *fault);

/* The domain of a canonical address of len bytes; points into it. */
extern const char *crm_email_domain_part(const char *email, size_t len);

#endif /* CRM_EMAIL_H */
