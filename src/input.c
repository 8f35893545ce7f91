/*
 * input.c
 *		Folding of what keyboards and address books put around a value.  Pure.
 */
#include "input.h"
#include "utf8.h"

bool
crm_fault(CrmFault *fault, const char *detail, const char *hint)
{
	if (fault != NULL)
	{
		fault->detail = detail;
		fault->hint = hint;
		fault->broken = false;
	}
	return false;
}

bool
crm_broken(CrmFault *fault, const char *detail)
{
	crm_fault(fault, detail, NULL);
	if (fault != NULL)
		fault->broken = true;
	return false;
}

bool
crm_is_invisible(uint32_t cp)
{
	/* U+200C and U+200D stay: they change the spelling of Persian and Indic names. */
	return cp == 0x00AD || cp == 0x200B || cp == 0x200E || cp == 0x200F ||
		   (cp >= 0x202A && cp <= 0x202E) || cp == 0x2060 || (cp >= 0x2066 && cp <= 0x2069) ||
		   cp == 0xFEFF;
}

bool
crm_is_space(uint32_t cp)
{
	return cp == ' ' || (cp >= '\t' && cp <= '\r') || cp == 0x0085 || cp == 0x00A0 ||
		   cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
		   cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

ptrdiff_t
crm_input_fold(const char *in, size_t len, char *out, size_t max)
{
	size_t n = 0;
	size_t spaces = 0; /* not yet written: dropped at the end */

	for (size_t i = 0; i < len;)
	{
		uint32_t cp;
		int width = crm_utf8_decode(in + i, len - i, &cp);
		const char *from = in + i;
		char folded;

		i += width > 0 ? width : 1;
		if (width > 0 && crm_is_invisible(cp))
			continue;
		if (width > 0 && crm_is_space(cp))
		{
			if (n > 0)
				spaces++;
			continue;
		}
		if (width == 0 || (width == 3 && cp >= 0xFF01 && cp <= 0xFF5E))
		{
			folded = width == 0 ? 0x7F : (char) (cp - 0xFEE0);
			from = &folded;
			width = 1;
		}
		if (n + spaces + width > max)
			return -1;
		for (; spaces > 0; spaces--)
			out[n++] = ' ';
		for (int j = 0; j < width; j++)
			out[n++] = from[j];
	}
	out[n] = '\0';
	return (ptrdiff_t) n;
}
