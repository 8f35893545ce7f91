/*
 * fuzz_icalendar.c
 *		Escaped and folded text has lines of at most 75 octets, each of them UTF-8 if
 *		the text is, and unfolds and unescapes to what it was.
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "icalendar.h"

/* The plain way: what the text is expected to become. */
static size_t
normal(const char *in, size_t len, char *out)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) in[i];

		if (c == '\r' && i + 1 < len && in[i + 1] == '\n')
			continue;
		if (c == '\r')
			out[n++] = '\n';
		else if (c == '\n' || c == '\t' || (c >= 0x20 && c != 0x7F))
			out[n++] = in[i];
	}
	return n;
}

void
fuzz_one(const char *in, size_t len, uint32_t choice)
{
	char *escaped = malloc(CRM_ICALENDAR_ESCAPED(len) + 1);
	size_t nescaped = crm_icalendar_escape(in, len, escaped);
	char *folded = malloc(CRM_ICALENDAR_FOLDED(nescaped));
	size_t nfolded = crm_icalendar_fold(escaped, nescaped, folded);
	char *plain = malloc(nfolded);
	char *expected = malloc(len + 1);
	size_t nplain = 0, start = 0;

	(void) choice;
	FUZZ_CHECK(nescaped <= CRM_ICALENDAR_ESCAPED(len));
	FUZZ_CHECK(nfolded <= CRM_ICALENDAR_FOLDED(nescaped));
	while (start < nfolded)
	{
		size_t end = start;

		while (end + 1 < nfolded && !(folded[end] == '\r' && folded[end + 1] == '\n'))
			end++;
		FUZZ_CHECK(end + 1 < nfolded);
		FUZZ_CHECK(end - start <= CRM_ICALENDAR_LINE);
		FUZZ_CHECK(!fuzz_is_utf8(in, len) || fuzz_is_utf8(folded + start, end - start));
		FUZZ_CHECK(start == 0 || folded[start] == ' ');
		for (size_t i = start == 0 ? 0 : start + 1; i < end; i++)
			plain[nplain++] = folded[i];
		start = end + 2;
	}
	/* Unescaped in place: it only gets shorter. */
	start = 0;
	for (size_t i = 0; i < nplain; i++)
	{
		if (plain[i] == '\\')
		{
			FUZZ_CHECK(i + 1 < nplain);
			i++;
			plain[start++] = plain[i] == 'n' ? '\n' : plain[i];
		}
		else
			plain[start++] = plain[i];
	}
	FUZZ_CHECK(start == normal(in, len, expected) && memcmp(plain, expected, start) == 0);
	free(escaped);
	free(folded);
	free(plain);
	free(expected);
}
