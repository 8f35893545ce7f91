/*
 * fuzz_uscc.c
 *		An accepted code parses to itself, and one with another character is refused.
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "uscc.h"

void
fuzz_one(const char *in, size_t len, uint32_t choice)
{
	static const char alphabet[] = "0123456789ABCDEFGHJKLMNPQRTUWXY";
	char *out = malloc(CRM_USCC_LENGTH + 1);
	char *again = malloc(CRM_USCC_LENGTH + 1);
	CrmFault fault = {0};

	if (crm_uscc_parse(in, len, out, &fault))
	{
		int at = (int) (choice % CRM_USCC_LENGTH);
		char other = alphabet[choice / 32 % 31];

		FUZZ_CHECK(strlen(out) == CRM_USCC_LENGTH);
		FUZZ_CHECK(strspn(out, alphabet) == CRM_USCC_LENGTH);
		FUZZ_CHECK(crm_uscc_parse(out, CRM_USCC_LENGTH, again, NULL) && strcmp(out, again) == 0);
		if (out[at] != other)
		{
			out[at] = other;
			FUZZ_CHECK(!crm_uscc_parse(out, CRM_USCC_LENGTH, again, NULL));
		}
	}
	else
		FUZZ_CHECK(fault.detail != NULL && !fault.broken);
	free(out);
	free(again);
}
