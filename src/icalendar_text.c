/*
 * icalendar_text.c
 *		Escaping and folding (pure).
 */
#include <stdbool.h>

#include "icalendar.h"

static bool
crm_icalendar_control(unsigned char c)
{
	return (c < 0x20 && c != '\t') || c == 0x7F;
}

size_t
crm_icalendar_escape(const char *in, size_t len, char *out)
{
	char *o = out;

	for (size_t i = 0; i < len; i++)
	{
		char c = in[i];

		if (c == '\r' || c == '\n')
		{
			if (c == '\r' && i + 1 < len && in[i + 1] == '\n')
				i++;
			*o++ = '\\';
			*o++ = 'n';
		}
		else if (!crm_icalendar_control((unsigned char) c))
		{
			if (c == '\\' || c == ';' || c == ',')
				*o++ = '\\';
			*o++ = c;
		}
	}
	return o - out;
}

size_t
crm_icalendar_fold(const char *in, size_t len, char *out)
{
	char *o = out;
	size_t column = 0;
	size_t i = 0;

	while (i < len)
	{
		size_t n = 1;

		/* A character is its first byte and the continuation bytes behind it, four at most. */
		while (n < 4 && i + n < len && ((unsigned char) in[i + n] & 0xC0) == 0x80)
			n++;
		if (n == 1 && crm_icalendar_control((unsigned char) in[i]))
		{
			i++;
			continue;
		}
		if (column + n > CRM_ICALENDAR_LINE)
		{
			*o++ = '\r';
			*o++ = '\n';
			*o++ = ' ';
			column = 1;
		}
		column += n;
		while (n-- > 0)
			*o++ = in[i++];
	}
	*o++ = '\r';
	*o++ = '\n';
	return o - out;
}
