/*
 * spelling.c
 *		The spelling of names as people read them.
 */
#include "postgres.h"

#include <unicode/uchar.h>
#include <unicode/unorm2.h>
#include <unicode/uscript.h>
#include <unicode/ustring.h>

#include "spelling.h"
#include "utf8.h"

/*
 * True for characters that no normalization changes or combines: everything below
 * the combining marks, and the main block of Han.  Nearly all names consist of them,
 * and need no conversion to ICU's UTF-16.
 */
static bool
crm_is_inert(uint32_t cp)
{
	return cp < 0x0300 || (cp >= 0x4E00 && cp <= 0x9FFF);
}

/* NFC of a text; the argument itself if it is in NFC already. */
static char *
crm_nfc(char *value, size_t len, size_t *result_len)
{
	UErrorCode status = U_ZERO_ERROR;
	const UNormalizer2 *nfc = unorm2_getNFCInstance(&status);
	int32_t wide_len;
	int32_t normal_len;
	int32_t size;
	UChar *wide;
	UChar *normal;
	char *result;

	*result_len = len;
	/* No UTF-16 form has more units than the UTF-8 form has bytes. */
	wide = palloc((len + 1) * sizeof(UChar));
	u_strFromUTF8(wide, (int32_t) len + 1, &wide_len, value, (int32_t) len, &status);
	if (U_FAILURE(status))
		ereport(ERROR, (errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
						errmsg("could not normalize a text: %s", u_errorName(status))));
	if (unorm2_isNormalized(nfc, wide, wide_len, &status) && U_SUCCESS(status))
		return value;

	status = U_ZERO_ERROR;
	normal_len = unorm2_normalize(nfc, wide, wide_len, NULL, 0, &status);
	if (status != U_BUFFER_OVERFLOW_ERROR && U_FAILURE(status))
		ereport(ERROR, (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
						errmsg("could not normalize a text: %s", u_errorName(status))));
	status = U_ZERO_ERROR;
	normal = palloc((normal_len + 1) * sizeof(UChar));
	unorm2_normalize(nfc, wide, wide_len, normal, normal_len + 1, &status);
	u_strToUTF8(NULL, 0, &size, normal, normal_len, &status);
	status = U_ZERO_ERROR;
	result = palloc(size + 1);
	u_strToUTF8(result, size + 1, &size, normal, normal_len, &status);
	if (U_FAILURE(status))
		ereport(ERROR, (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
						errmsg("could not normalize a text: %s", u_errorName(status))));
	*result_len = size;
	return result;
}

char *
crm_tidy(const char *value, size_t len, size_t *result_len)
{
	char *result = palloc(len + 1);
	size_t n = 0;
	bool space = false;
	bool inert = true;

	for (size_t i = 0; i < len;)
	{
		uint32_t cp;
		int width = crm_utf8_decode(value + i, len - i, &cp);

		if (width == 0)
			ereport(ERROR, (errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
							errmsg("invalid byte sequence for encoding \"UTF8\"")));
		if (crm_is_space(cp))
			space = n > 0;
		else if (!crm_is_invisible(cp) && !(cp < 0x20 || (cp >= 0x7F && cp < 0xA0)))
		{
			if (space)
				result[n++] = ' ';
			space = false;
			memcpy(result + n, value + i, width);
			n += width;
			inert = inert && crm_is_inert(cp);
		}
		i += width;
	}
	result[n] = '\0';
	*result_len = n;
	return inert ? result : crm_nfc(result, n, result_len);
}

/* Whether all letters of a text are Han or Hangul, and there is one at least. */
static bool
crm_is_east_asian(const char *value)
{
	size_t len = strlen(value);
	bool found = false;

	for (size_t i = 0; i < len;)
	{
		uint32_t cp;
		int width = crm_utf8_decode(value + i, len - i, &cp);
		UErrorCode status = U_ZERO_ERROR;
		UScriptCode script;

		if (width == 0)
			return false;
		i += width;
		if (!u_isalpha((UChar32) cp))
			continue;
		script = uscript_getScript((UChar32) cp, &status);
		if (script != USCRIPT_HAN && script != USCRIPT_HANGUL)
			return false;
		found = true;
	}
	return found;
}

char *
crm_full_name(const char *given, const char *family)
{
	if (given == NULL || family == NULL)
		return given != NULL ? pstrdup(given) : (family != NULL ? pstrdup(family) : NULL);
	if (crm_is_east_asian(given) && crm_is_east_asian(family))
		return psprintf("%s%s", family, given);
	return psprintf("%s %s", given, family);
}
