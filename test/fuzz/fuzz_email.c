/*
 * fuzz_email.c
 *		An accepted address is bounded, well-formed, and parses to itself.
 */
#include <stdlib.h>
#include <string.h>

#include "domain.h"
#include "email.h"
#include "fuzz.h"

void
fuzz_one(const char *in, size_t len, uint32_t choice)
{
	char *out = malloc(CRM_EMAIL_MAX + 1);
	char *again = malloc(CRM_EMAIL_MAX + 1);
	CrmFault fault = {0};

	(void) choice;
	if (crm_email_parse(in, len, out, &fault))
	{
		size_t n = strlen(out);
		const char *domain = crm_email_domain_part(out, n);
		char host[CRM_DOMAIN_MAX + 1];

		FUZZ_CHECK(n <= CRM_EMAIL_MAX);
		FUZZ_CHECK(fuzz_is_utf8(out, n));
		FUZZ_CHECK(domain > out && domain[-1] == '@');
		FUZZ_CHECK((size_t) (domain - 1 - out) <= CRM_EMAIL_LOCAL_MAX);
		FUZZ_CHECK(crm_email_parse(out, n, again, NULL) && strcmp(out, again) == 0);
		FUZZ_CHECK(crm_domain_parse(domain, strlen(domain), host, NULL) &&
				   strcmp(host, domain) == 0);
		for (const char *p = domain; *p != '\0'; p++)
			FUZZ_CHECK(crm_ascii_digit(*p) || (*p >= 'a' && *p <= 'z') || *p == '-' || *p == '.');
	}
	else
		FUZZ_CHECK(fault.detail != NULL && !fault.broken);
	free(out);
	free(again);
}
