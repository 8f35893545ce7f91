/*
 * unicode.c
 *		What crm asks of ICU at run time.
 *
 * Folding is limited to the characters assigned in CRM_UNICODE_AGE: their
 * NFKC_Casefold mappings are stable by Unicode's policy, so that an index on
 * folded text outlives upgrades of ICU.  Characters that are newer, or newer
 * than the ICU in use, stay as they are.
 */
#include "postgres.h"

#include <unicode/unorm2.h>
#include <unicode/uset.h>
#include <unicode/ustring.h>

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "name.h"

#define CRM_UNICODE_AGE "[:Age=13.0:]"

/* Opened once a backend, never closed: ICU's own memory, a few kilobytes. */
static const UNormalizer2 *
casefold_normalizer(void)
{
	static const UNormalizer2 *filtered = NULL;

	if (filtered == NULL)
	{
		UErrorCode status = U_ZERO_ERROR;
		const UNormalizer2 *all = unorm2_getNFKCCasefoldInstance(&status);
		UChar pattern[sizeof(CRM_UNICODE_AGE)];
		USet *assigned;

		u_charsToUChars(CRM_UNICODE_AGE, pattern, sizeof(CRM_UNICODE_AGE));
		assigned = uset_openPattern(pattern, sizeof(CRM_UNICODE_AGE) - 1, &status);
		if (U_SUCCESS(status))
		{
			uset_freeze(assigned);
			filtered = unorm2_openFiltered(all, assigned, &status);
		}
		if (U_FAILURE(status))
		{
			filtered = NULL;
			ereport(ERROR, (errcode(ERRCODE_SYSTEM_ERROR),
							errmsg("could not open ICU's normalizer: %s", u_errorName(status))));
		}
	}
	return filtered;
}

static char *
simplify_utf8(char *text, size_t len)
{
	unsigned char *s = (unsigned char *) text;
	unsigned char *end = s + len;

	/* Simplified forms within the BMP take as many bytes as the originals: three. */
	while (s < end)
	{
		int size = pg_utf_mblen(s);

		if (size == 3 && s + 3 <= end)
		{
			uint32_t c = (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
			uint32_t simplified = crm_simplify(c);

			if (simplified != c)
				unicode_to_utf8(simplified, s);
		}
		s += size;
	}
	return text;
}

char *
crm_fold(const char *utf8, size_t len, size_t *outlen)
{
	const UNormalizer2 *normalizer;
	UErrorCode status = U_ZERO_ERROR;
	UChar *source, *target;
	int32_t source_len, target_len, capacity, result_len;
	char *result;
	size_t i;

	for (i = 0; i < len && (unsigned char) utf8[i] < 0x80; i++)
		;
	if (i == len)
	{
		result = palloc(len + 1);
		for (i = 0; i < len; i++)
			result[i] = utf8[i] >= 'A' && utf8[i] <= 'Z' ? utf8[i] + ('a' - 'A') : utf8[i];
		result[len] = 0;
		*outlen = len;
		return result;
	}
	if (len > MaxAllocSize / 64)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("text of %zu bytes is too long to fold", len)));

	normalizer = casefold_normalizer();
	source = palloc(sizeof(UChar) * (len + 1));
	u_strFromUTF8WithSub(source, (int32_t) len + 1, &source_len, utf8, (int32_t) len, 0xFFFD, NULL,
						 &status);
	capacity = source_len * 2 + 32;
	target = palloc(sizeof(UChar) * capacity);
	target_len = unorm2_normalize(normalizer, source, source_len, target, capacity, &status);
	if (status == U_BUFFER_OVERFLOW_ERROR)
	{
		status = U_ZERO_ERROR;
		target = repalloc(target, sizeof(UChar) * (target_len + 1));
		target_len =
			unorm2_normalize(normalizer, source, source_len, target, target_len + 1, &status);
	}
	result = palloc((size_t) target_len * 3 + 1);
	if (U_SUCCESS(status))
		u_strToUTF8WithSub(result, target_len * 3 + 1, &result_len, target, target_len, 0xFFFD,
						   NULL, &status);
	if (U_FAILURE(status))
		ereport(ERROR, (errcode(ERRCODE_SYSTEM_ERROR),
						errmsg("could not normalize text: %s", u_errorName(status))));
	pfree(source);
	pfree(target);
	*outlen = (size_t) result_len;
	return simplify_utf8(result, (size_t) result_len);
}
