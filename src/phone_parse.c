/*
 * phone_parse.c
 *		The parser of telephone numbers.  Pure: ICU, and libphonenumber behind the shim.
 *
 * What people type is reduced here to the digits that would be dialled and an
 * extension; what numbers mean is libphonenumber's business.  It would drop
 * what it does not understand ("call 138... after six", a second number after a
 * slash), so nothing but digits and separators is passed on: a value that holds
 * more than one number is refused, not halved.
 */
#include <string.h>

#include <unicode/uchar.h>
#include <unicode/uloc.h>

#include "phone.h"
#include "utf8.h"

#define PHONE_INPUT_MAX 128

bool
crm_phone_is_canonical(const char *in, size_t len)
{
	size_t i = 1;
	size_t digits;

	if (len < 2 || in[0] != '+' || in[1] == '0')
		return false;
	while (i < len && crm_ascii_digit(in[i]))
		i++;
	digits = i - 1;
	if (digits < CRM_PHONE_MIN_DIGITS || digits > CRM_PHONE_MAX_DIGITS)
		return false;
	if (i == len)
		return true;
	if (len - i < 6 || len - i - 5 > CRM_PHONE_MAX_EXTENSION || memcmp(in + i, ";ext=", 5) != 0)
		return false;
	for (i += 5; i < len; i++)
		if (!crm_ascii_digit(in[i]))
			return false;
	return true;
}

size_t
crm_phone_number_length(const char *phone, size_t len)
{
	const char *semicolon = memchr(phone, ';', len);

	return semicolon != NULL ? (size_t) (semicolon - phone) : len;
}

bool
crm_region_is_known(const char *region)
{
	if (!crm_ascii_alpha(region[0]) || !crm_ascii_alpha(region[1]) || region[2] != '\0')
		return false;
	for (const char *const *country = uloc_getISOCountries(); *country != NULL; country++)
		if (crm_ascii_upper(region[0]) == (*country)[0] &&
			crm_ascii_upper(region[1]) == (*country)[1])
			return true;
	/* Kosovo has a calling code, and a code in general use that ISO 3166 has not assigned. */
	return crm_ascii_upper(region[0]) == 'X' && crm_ascii_upper(region[1]) == 'K';
}

/* Separators between digits: spaces have been folded, full-width forms too. */
static bool
crm_is_separator(uint32_t cp)
{
	return cp == ' ' || cp == '-' || cp == '.' || cp == '(' || cp == ')' || cp == '/' ||
		   cp == '[' || cp == ']' || cp == '~' ||
		   (cp >= 0x2010 && cp <= 0x2015) || /* hyphens and dashes */
		   cp == 0x2212 ||					 /* minus */
		   cp == 0x2043 || cp == 0xFE63 ||	 /* hyphen bullet, small hyphen-minus */
		   cp == 0x30FC || cp == 0xFF70 ||	 /* prolonged sound marks, typed as dashes */
		   cp == 0x2500 ||					 /* box line */
		   cp == 0x00B7 || cp == 0x2022 || cp == 0x30FB || /* middle dots */
		   cp == 0x3010 || cp == 0x3011 ||				   /* black lenticular brackets */
		   cp == 0x223C;								   /* tilde operator */
}

/* Length of a word that announces an extension at s, or 0. */
static size_t
crm_extension_word(const char *s, size_t len)
{
	static const char *const words[] = {";ext=", "extension", "extn",	"ext",	"x",
										"#",	 "转分机",	  "轉分機", "分机", "分機",
										"转",	 "轉",		  "内线",	"內線", "доб"};

	for (size_t w = 0; w < sizeof(words) / sizeof(words[0]); w++)
	{
		size_t n = strlen(words[w]);
		size_t i = 0;

		if (n > len)
			continue;
		while (i < n && crm_ascii_lower(s[i]) == words[w][i])
			i++;
		if (i == n)
			return n;
	}
	return 0;
}

/* Value of a decimal digit of any script, or -1. */
static int
crm_digit_value(uint32_t cp)
{
	return u_charType((UChar32) cp) == U_DECIMAL_DIGIT_NUMBER ? u_charDigitValue((UChar32) cp) : -1;
}

/* Reads what follows an extension word: separators, digits, nothing else. */
static bool
crm_read_extension(const char *s, size_t len, char *extension, CrmFault *fault)
{
	size_t digits = 0;

	for (size_t i = 0; i < len;)
	{
		uint32_t cp;
		int width = crm_utf8_decode(s + i, len - i, &cp);
		int digit = width > 0 ? crm_digit_value(cp) : -1;

		if (digit >= 0)
		{
			if (digits == CRM_PHONE_MAX_EXTENSION)
				return crm_fault(fault, "The extension is longer than 20 digits.", NULL);
			extension[digits++] = (char) ('0' + digit);
		}
		else if (width == 0 || !(cp == ' ' || cp == '.' || cp == ':' || cp == '-' || cp == '='))
			return crm_fault(fault, "The extension contains something other than digits.",
							 "Write one number; each further one belongs in a column or row of its "
							 "own.");
		i += width;
	}
	extension[digits] = '\0';
	if (digits == 0)
		return crm_fault(fault, "The extension has no digits.", NULL);
	return true;
}

/* Splits an input into the digits to dial, with "+" before them if it is international, and an
 * extension. */
static bool
crm_phone_split(const char *text, size_t len, char *dialled, char *extension, CrmFault *fault)
{
	size_t n = 0;
	size_t i = 0;

	extension[0] = '\0';
	if (len >= 4 && crm_ascii_lower(text[0]) == 't' && crm_ascii_lower(text[1]) == 'e' &&
		crm_ascii_lower(text[2]) == 'l' && text[3] == ':')
		i = 4;
	while (i < len)
	{
		uint32_t cp;
		int width = crm_utf8_decode(text + i, len - i, &cp);
		int digit;
		size_t word;

		if (width == 0)
			return crm_fault(fault, "The number is not valid UTF-8.", NULL);
		digit = crm_digit_value(cp);
		if (digit >= 0)
		{
			if (n > CRM_PHONE_MAX_DIALLED)
				return crm_fault(fault, "The number has too many digits.",
								 "Write one number; each further one belongs in a column or row of "
								 "its own.");
			dialled[n++] = (char) ('0' + digit);
		}
		else if (cp == '+')
		{
			if (n > 0)
				return crm_fault(fault, "There is a \"+\" after the beginning of the number.",
								 "Write one number; each further one belongs in a column or row of "
								 "its own.");
			dialled[n++] = '+';
		}
		else if (n > 0 && (word = crm_extension_word(text + i, len - i)) > 0)
		{
			if (!crm_read_extension(text + i + word, len - i - word, extension, fault))
				return false;
			break;
		}
		else if (!crm_is_separator(cp))
			return crm_fault(fault,
							 "The number contains a character that is neither a digit nor a "
							 "separator.",
							 "Write digits, and an extension as \";ext=123\"; each further number "
							 "belongs in a column or row of its own.");
		i += width;
	}
	dialled[n] = '\0';
	if (n == 0 || strcmp(dialled, "+") == 0)
		return crm_fault(fault, "The number has no digits.", NULL);
	return true;
}

static bool
crm_phone_fault(CrmPhoneStatus status, CrmFault *fault)
{
	switch (status)
	{
		case CRM_PHONE_NO_COUNTRY:
			return crm_fault(fault, "The number has no country code, and no region is known.",
							 "Write it as \"+\", country code and number, or set "
							 "crm.default_region to the two-letter code of the country.");
		case CRM_PHONE_BAD_COUNTRY:
			return crm_fault(fault, "The country code is not in use.", NULL);
		case CRM_PHONE_TOO_SHORT:
			return crm_fault(fault, "The number is too short for its country.", NULL);
		case CRM_PHONE_TOO_LONG:
			return crm_fault(fault, "The number is too long for its country.",
							 "Write one number; each further one belongs in a column or row of its "
							 "own.");
		case CRM_PHONE_BAD_LENGTH:
			return crm_fault(fault, "No number of its country has this length.", NULL);
		case CRM_PHONE_LOCAL_ONLY:
			return crm_fault(fault, "The number lacks its area code.", NULL);
		case CRM_PHONE_UNASSIGNED:
			return crm_fault(fault,
							 "The number is in no range that its country has assigned; it may lack "
							 "its area code.",
							 "If it is in use all the same, write it as \"+\", country code and "
							 "number.");
		case CRM_PHONE_NO_MEMORY:
			return crm_broken(fault, "libphonenumber ran out of memory.");
		case CRM_PHONE_FAILED:
			return crm_broken(fault, "libphonenumber failed.");
		default:
			return crm_fault(fault, "It is not a telephone number.", NULL);
	}
}

bool
crm_phone_parse(const char *in, size_t len, const char *region, char *out, CrmFault *fault)
{
	char text[PHONE_INPUT_MAX + 1];
	char dialled[CRM_PHONE_MAX_DIALLED + 2];
	char extension[CRM_PHONE_MAX_EXTENSION + 1];
	CrmPhoneStatus status;
	ptrdiff_t n;

	if (crm_phone_is_canonical(in, len))
	{
		memcpy(out, in, len);
		out[len] = '\0';
		return true;
	}
	n = crm_input_fold(in, len, text, PHONE_INPUT_MAX);
	if (n < 0)
		return crm_fault(fault, "The number is longer than 128 octets.", NULL);
	if (n == 0)
		return crm_fault(fault, "The number is empty.", NULL);
	if (!crm_phone_split(text, n, dialled, extension, fault))
		return false;
	/* libphonenumber says so too, after some microseconds. */
	if (region == NULL && dialled[0] != '+' && dialled[1] != '\0')
		status = CRM_PHONE_NO_COUNTRY;
	else
		status = crm_phone_shim_parse(dialled, region, out, CRM_PHONE_MAX_DIGITS + 2);
	if (status != CRM_PHONE_OK)
		return crm_phone_fault(status, fault);
	/* What is stored must be accepted again, so the shim's result meets the same rule. */
	if (!crm_phone_is_canonical(out, strlen(out)))
		return crm_fault(fault, "The number is longer than E.164 allows.", NULL);
	if (extension[0] != '\0')
	{
		strcat(out, ";ext=");
		strcat(out, extension);
	}
	return true;
}
