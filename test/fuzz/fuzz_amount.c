/*
 * fuzz_amount.c
 *		What is accepted is a decimal number and three capital letters, and parses to
 *		itself.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amount.h"
#include "fuzz.h"

static bool
is_decimal(const char *s)
{
	int digits = 0;
	int points = 0;

	if (*s == '-')
		s++;
	for (; *s != '\0'; s++)
	{
		digits += crm_ascii_digit(*s);
		points += *s == '.';
		if (!crm_ascii_digit(*s) && *s != '.')
			return false;
	}
	return digits > 0 && points <= 1;
}

void
fuzz_one(const char *in, size_t len, uint32_t choice)
{
	char *number = malloc(len + 1);
	char *currency = malloc(CRM_CURRENCY_LENGTH + 1);
	CrmFault fault = {0};

	(void) choice;
	if (crm_amount_parse(in, len, number, currency, &fault))
	{
		size_t size = strlen(number) + CRM_CURRENCY_LENGTH + 2;
		char *text = malloc(size);
		char *number_again = malloc(size);
		char currency_again[CRM_CURRENCY_LENGTH + 1];

		FUZZ_CHECK(is_decimal(number));
		FUZZ_CHECK(strlen(currency) == CRM_CURRENCY_LENGTH);
		FUZZ_CHECK(strspn(currency, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == CRM_CURRENCY_LENGTH);
		snprintf(text, size, "%s %s", number, currency);
		FUZZ_CHECK(crm_amount_parse(text, strlen(text), number_again, currency_again, NULL));
		FUZZ_CHECK(strcmp(number, number_again) == 0 && strcmp(currency, currency_again) == 0);
		free(text);
		free(number_again);
	}
	else
		FUZZ_CHECK(fault.detail != NULL && !fault.broken);
	free(number);
	free(currency);
}
