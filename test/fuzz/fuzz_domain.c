/*
 * fuzz_domain.c
 *		Accepted hosts and web addresses parse to themselves; registrable domains are
 *		tails of their hosts.
 */
#include <stdlib.h>
#include <string.h>

#include "domain.h"
#include "fuzz.h"

void
fuzz_one(const char *in, size_t len, uint32_t choice)
{
	char *host = malloc(CRM_DOMAIN_MAX + 1);
	char *host_again = malloc(CRM_DOMAIN_MAX + 1);
	char *site = malloc(CRM_WEBSITE_MAX + 1);
	char *site_again = malloc(CRM_WEBSITE_MAX + 1);
	char *shown = malloc(choice % 512 + 1);
	CrmFault fault = {0};

	if (crm_domain_parse(in, len, host, &fault))
	{
		FUZZ_CHECK(strlen(host) <= CRM_DOMAIN_MAX);
		FUZZ_CHECK(crm_domain_parse(host, strlen(host), host_again, NULL));
		FUZZ_CHECK(strcmp(host, host_again) == 0);
		if (crm_domain_display(host, shown, choice % 512 + 1))
			FUZZ_CHECK(fuzz_is_utf8(shown, strlen(shown)));
	}
	else
		FUZZ_CHECK(fault.detail != NULL && !fault.broken);

	if (crm_website_parse(in, len, site, &fault))
	{
		FUZZ_CHECK(strlen(site) <= CRM_WEBSITE_MAX);
		FUZZ_CHECK(crm_website_parse(site, strlen(site), site_again, NULL));
		FUZZ_CHECK(strcmp(site, site_again) == 0);
		FUZZ_CHECK(crm_host_find(site, strlen(site), host, NULL));
	}
	else
		FUZZ_CHECK(fault.detail != NULL && !fault.broken);

	if (crm_host_find(in, len, host, &fault))
	{
		const char *domain = crm_registrable_part(host);

		if (domain != NULL)
		{
			FUZZ_CHECK(domain >= host && domain < host + strlen(host));
			FUZZ_CHECK(domain == host || domain[-1] == '.');
		}
	}
	free(host);
	free(host_again);
	free(site);
	free(site_again);
	free(shown);
}
