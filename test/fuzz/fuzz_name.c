/*
 * fuzz_name.c
 *		The key of any bytes is bounded ASCII words; similarity is symmetric and in range.
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "name.h"

void
fuzz_one(const char *in, size_t len, uint32_t choice)
{
	CrmNameBuffer *a = malloc(sizeof(CrmNameBuffer));
	CrmNameBuffer *b = malloc(sizeof(CrmNameBuffer));
	char *key = malloc(CRM_NAME_MAX_TEXT);
	const CrmName *name = crm_name_parse_into(in, len, a);
	size_t n = crm_name_write_key(name, key);
	size_t cut = len > 0 ? choice % len : 0;
	const CrmName *part = crm_name_parse_into(in + cut, len - cut, b);
	float forth = crm_name_compare(name, part);

	FUZZ_CHECK(n < CRM_NAME_MAX_TEXT && strlen(key) == n);
	FUZZ_CHECK((n == 0) == (name->ntokens == 0));
	for (size_t i = 0; i < n; i++)
		FUZZ_CHECK((key[i] >= 'a' && key[i] <= 'z') || (key[i] >= '0' && key[i] <= '9') ||
				   (key[i] == ' ' && i > 0 && i + 1 < n && key[i - 1] != ' '));
	for (int i = 0; i < name->ntokens; i++)
		FUZZ_CHECK(name->tokens[i].len > 0 && name->tokens[i].len <= CRM_NAME_MAX_WORD &&
				   name->tokens[i].syllable <= crm_name_syllables());
	FUZZ_CHECK(forth >= 0 && forth <= 1 && forth == crm_name_compare(part, name));
	FUZZ_CHECK(crm_name_compare(name, name) == (n > 0 ? 1.0f : 0.0f));
	free(a);
	free(b);
	free(key);
}
