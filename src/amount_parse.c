/*
 * amount_parse.c
 *		The parser of amounts of money.  Pure.
 *
 * A code of ISO 4217 is checked by its form alone: the list changes, and what was
 * stored in a currency that is gone must be accepted by a restore.  Symbols are
 * refused because they name no currency ("$", "¥"), and separators between
 * thousands because 1,234 means one thing in London and another in Berlin.
 */
#include <string.h>

#include "amount.h"

static const char *const amount_example = "Write it as \"1234.50 CNY\".";

bool
crm_currency_parse(const char *in, size_t len, char *currency, CrmFault *fault)
{
	char text[CRM_CURRENCY_LENGTH + 1];
	bool good = crm_input_fold(in, len, text, CRM_CURRENCY_LENGTH) == CRM_CURRENCY_LENGTH;

	for (int i = 0; good && i < CRM_CURRENCY_LENGTH; i++)
	{
		good = crm_ascii_alpha(text[i]);
		currency[i] = crm_ascii_upper(text[i]);
	}
	currency[CRM_CURRENCY_LENGTH] = '\0';
	return good || crm_fault(fault, "A currency code has three letters (ISO 4217).",
							 "For example CNY, EUR or USD.");
}

/* Reads a currency code at *at, if there is a letter; false if it is not three letters long. */
static bool
crm_read_currency(const char *text, size_t *at, char *currency)
{
	size_t start = *at;

	while (crm_ascii_alpha(text[*at]))
		(*at)++;
	if (*at == start)
		return true;
	if (*at - start != CRM_CURRENCY_LENGTH || currency[0] != '\0')
		return false;
	for (int i = 0; i < CRM_CURRENCY_LENGTH; i++)
		currency[i] = crm_ascii_upper(text[start + i]);
	currency[CRM_CURRENCY_LENGTH] = '\0';
	return true;
}

static size_t
crm_skip_spaces(const char *text, size_t at)
{
	while (text[at] == ' ')
		at++;
	return at;
}

/* Whether a text holds what numeric would take for NaN or infinity. */
static bool
crm_is_not_finite(const char *text)
{
	static const char *const words[] = {"nan", "inf", "infinity"};
	char first[9];
	size_t n = 0;

	while (text[0] == '+' || text[0] == '-')
		text++;
	for (; n < sizeof(first) - 1 && crm_ascii_alpha(text[n]); n++)
		first[n] = crm_ascii_lower(text[n]);
	first[n] = '\0';
	if (crm_ascii_alpha(text[n]))
		return false;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcmp(first, words[i]) == 0)
			return true;
	return false;
}

bool
crm_amount_parse(const char *in, size_t len, char *number, char *currency, CrmFault *fault)
{
	/* The folded text is read and the number written in one buffer: reading is always ahead. */
	char *text = number;
	ptrdiff_t folded;
	size_t at = 0;
	size_t n = 0;
	int digits = 0;
	int points = 0;

	currency[0] = '\0';
	folded = crm_input_fold(in, len, text, len);
	if (folded <= 0)
		return crm_fault(fault, "The amount is empty.", amount_example);
	if (crm_is_not_finite(text))
		return crm_fault(fault, "The number is not finite.", NULL);
	if (!crm_read_currency(text, &at, currency))
		return crm_fault(fault, "A currency code has three letters (ISO 4217).",
						 "For example CNY, EUR or USD.");
	at = crm_skip_spaces(text, at);
	if (strncmp(text + at, "\xE2\x88\x92", 3) == 0)
	{
		/* U+2212, the minus sign of typesetters */
		number[n++] = '-';
		at += 3;
	}
	else if (text[at] == '-' || text[at] == '+')
	{
		if (text[at] == '-')
			number[n++] = '-';
		at++;
	}
	for (; crm_ascii_digit(text[at]) || text[at] == '.'; at++)
	{
		if (text[at] == '.' && points++ > 0)
			return crm_fault(fault, "The number has more than one point.",
							 "Write the decimal point as \".\", and nothing between thousands.");
		digits += text[at] != '.';
		number[n++] = text[at];
	}
	if (text[at] == ',' || text[at] == '\'')
		return crm_fault(fault, "The number contains a separator that can be read in two ways.",
						 "Write the decimal point as \".\", and nothing between thousands.");
	if (digits == 0)
		return crm_fault(fault, "There is no number where one should be.", amount_example);
	at = crm_skip_spaces(text, at);
	if (!crm_read_currency(text, &at, currency))
		return crm_fault(fault,
						 currency[0] != '\0' ? "The amount has more than one currency."
											 : "A currency code has three letters (ISO 4217).",
						 amount_example);
	if (text[at] != '\0')
		return crm_fault(fault,
						 "There is something else in the text than a number and a currency "
						 "code.",
						 amount_example);
	if (currency[0] == '\0')
		return crm_fault(fault, "The amount has no currency.", amount_example);
	number[n] = '\0';
	return true;
}
