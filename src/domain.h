/*
 * domain.h
 *		Host names, web addresses and registrable domains.  Pure: ICU and libpsl only.
 */
#ifndef CRM_DOMAIN_H
#define CRM_DOMAIN_H

#include "input.h"

/* RFC 1035: 255 octets on the wire are 253 characters. */
#define CRM_DOMAIN_MAX	253
#define CRM_WEBSITE_MAX 2048

/*
 * Parses a host name into its one canonical form: lower-case ASCII, with labels
 * in other scripts as A-labels (UTS #46 nontransitional, IDNA2008).  out has room
 * for CRM_DOMAIN_MAX + 1 bytes.
 *
 * A name that is ASCII already is checked by its syntax alone, A-labels included,
 * so that a stored name is accepted by any later or earlier version of ICU.
 */
extern bool crm_domain_parse(const char *in, size_t len, char *out, CrmFault *fault);

/* The same with A-labels shown in their own script.  out has room for size bytes; false if not. */
extern bool crm_domain_display(const char *domain, char *out, size_t size);

/*
 * Parses a web address: optional http or https scheme, host, optional port, path.
 * Scheme and host become canonical; default ports and a bare "/" are dropped; what
 * follows the host is kept.  out has room for CRM_WEBSITE_MAX + 1 bytes.
 */
extern bool crm_website_parse(const char *in, size_t len, char *out, CrmFault *fault);

/* Finds the host in an e-mail address, host name or URL and parses it.  out as crm_domain_parse. */
extern bool crm_host_find(const char *in, size_t len, char *out, CrmFault *fault);

/*
 * The registrable domain of a canonical host name: one label more than its public
 * suffix.  Points into the argument; NULL if the name is itself a public suffix.
 */
extern const char *crm_registrable_part(const char *domain);

#endif /* CRM_DOMAIN_H */
