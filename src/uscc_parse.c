/*
 * uscc_parse.c
 *		The parser of unified social credit codes.  Pure.
 *
 * GB 32100-2015: character 1 is the registering authority, 2 the kind of
 * organisation, 3 to 8 the administrative division (GB/T 2260), 9 to 17 the
 * organisation code (GB 11714), 18 a check character by ISO 7064 MOD 31-3: the
 * weighted sum of all characters is 0 modulo 31, the weights being powers of 3
 * with the check character's weight 1 counted last.
 */
#include <string.h>

#include "uscc.h"

#define USCC_INPUT_MAX			   64
#define REGISTRATION_NUMBER_LENGTH 15

/* The 31 characters and their values; I, O, S, V and Z are left out. */
static const char uscc_alphabet[] = "0123456789ABCDEFGHJKLMNPQRTUWXY";

static int
crm_uscc_value(char c)
{
	const char *p = c != '\0' ? strchr(uscc_alphabet, c) : NULL;

	return p != NULL ? (int) (p - uscc_alphabet) : -1;
}

bool
crm_uscc_parse(const char *in, size_t len, char *out, CrmFault *fault)
{
	char text[USCC_INPUT_MAX + 1];
	ptrdiff_t n = crm_input_fold(in, len, text, USCC_INPUT_MAX);
	int count = 0;
	int sum = 0;
	int weight = 1;

	for (ptrdiff_t i = 0; i < n; i++)
	{
		char c = crm_ascii_upper(text[i]);

		if (c == ' ' || c == '-')
			continue;
		if (crm_uscc_value(c) < 0)
			return crm_fault(
				fault,
				crm_ascii_alpha(c) ? "The letters I, O, S, V and Z do not occur in such a code."
								   : "The code contains something other than digits and letters.",
				crm_ascii_alpha(c) ? "Check for 1, 0, 5 and 2 read as letters." : NULL);
		if (count < CRM_USCC_LENGTH)
			out[count] = c;
		count++;
	}
	if (n >= 0 && count == REGISTRATION_NUMBER_LENGTH)
		return crm_fault(fault,
						 "A code has 18 characters; this one has 15, as business registration "
						 "numbers had before 2015.",
						 "Ask for the code on the present business licence.");
	if (n < 0 || count != CRM_USCC_LENGTH)
		return crm_fault(fault, "A code has 18 characters.", NULL);
	out[CRM_USCC_LENGTH] = '\0';
	for (int i = 2; i < 8; i++)
		if (!crm_ascii_digit(out[i]))
			return crm_fault(
				fault, "Characters 3 to 8, the administrative division, are not all digits.", NULL);
	for (int i = 0; i < CRM_USCC_LENGTH - 1; i++)
	{
		sum += crm_uscc_value(out[i]) * weight;
		weight = weight * 3 % 31;
	}
	if ((sum + crm_uscc_value(out[CRM_USCC_LENGTH - 1])) % 31 != 0)
		return crm_fault(fault, "The check character does not match the other characters.",
						 "Compare the code with the business licence: a character is mistyped.");
	return true;
}
