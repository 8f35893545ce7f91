/*
 * fuzz_phone.c
 *		An accepted number is canonical, parses to itself without a region, and can be
 *		shown and placed; nothing is thrown out of the shim.
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "phone.h"

void
fuzz_one(const char *in, size_t len, uint32_t choice)
{
	static const char *const regions[] = {NULL, "CN", "US", "DE", "IT", "AR", "XK", "AQ"};
	char *out = malloc(CRM_PHONE_MAX + 1);
	char *again = malloc(CRM_PHONE_MAX + 1);
	CrmFault fault = {0};

	if (crm_phone_parse(in, len, regions[choice % 8], out, &fault))
	{
		size_t n = strlen(out);
		char shown[128];
		char region[4];

		FUZZ_CHECK(n <= CRM_PHONE_MAX);
		FUZZ_CHECK(crm_phone_is_canonical(out, n));
		FUZZ_CHECK(crm_phone_parse(out, n, NULL, again, NULL) && strcmp(out, again) == 0);
		out[crm_phone_number_length(out, n)] = '\0';
		FUZZ_CHECK(crm_phone_shim_format(out, CRM_PHONE_NATIONAL, shown, sizeof(shown)) <=
				   CRM_PHONE_NONE);
		FUZZ_CHECK(crm_phone_shim_format(out, CRM_PHONE_INTERNATIONAL, shown, choice % 32 + 1) <=
				   CRM_PHONE_NONE);
		FUZZ_CHECK(crm_phone_shim_region(out, region, sizeof(region)) <= CRM_PHONE_NONE);
		FUZZ_CHECK(crm_phone_shim_valid(out) <= CRM_PHONE_NONE);
	}
	else
		FUZZ_CHECK(fault.detail != NULL && !fault.broken);
	free(out);
	free(again);
}
