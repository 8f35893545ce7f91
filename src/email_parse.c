/*
 * email_parse.c
 *		The parser of e-mail addresses.  Pure: ICU only.
 *
 * The syntax is RFC 5322's addr-spec without what is obsolete there or has no
 * place in a record about a customer: comments, folding white space, domain
 * literals, route addresses.  RFC 5321 bounds the lengths.
 *
 * The local part is put in lower case.  RFC 5321 2.4 leaves its case to the
 * receiving host and in the same breath discourages hosts from making use of it;
 * no mail provider in use does.  A customer who writes Ann@example.com on one form
 * and ann@example.com on the next is one person, and an index, a join or a
 * UNIQUE constraint on plain text must see it so.
 */
#include <string.h>

#include <unicode/uchar.h>
#include <unicode/unorm2.h>
#include <unicode/ustring.h>

#include "domain.h"
#include "email.h"
#include "utf8.h"

/* Longer than any input whose canonical form fits CRM_EMAIL_MAX. */
#define EMAIL_INPUT_MAX 1280

/* atext of RFC 5322, ASCII part. */
static bool
crm_is_atext(char c)
{
	return crm_ascii_alpha(c) || crm_ascii_digit(c) ||
		   (c != '\0' && strchr("!#$%&'*+-/=?^_`{|}~", c) != NULL);
}

/*
 * A character beyond ASCII that a local part may have: RFC 6532 allows any, but
 * controls, separators and noncharacters only come from damage.
 */
static bool
crm_is_local_char(uint32_t cp)
{
	return !u_iscntrl((UChar32) cp) && !u_isUWhiteSpace((UChar32) cp) && !crm_is_invisible(cp) &&
		   !U_IS_UNICODE_NONCHAR((UChar32) cp);
}

/* Lower case and NFC, repeated until nothing changes; false if it does not fit or settle. */
static bool
crm_local_fold(char *local, size_t *len)
{
	const UNormalizer2 *nfc;
	UErrorCode status = U_ZERO_ERROR;
	bool ascii = true;

	for (size_t i = 0; i < *len; i++)
	{
		local[i] = crm_ascii_lower(local[i]);
		ascii = ascii && (unsigned char) local[i] < 0x80;
	}
	if (ascii)
		return true;

	nfc = unorm2_getNFCInstance(&status);
	if (U_FAILURE(status))
		return false;
	for (int round = 0; round < 4; round++)
	{
		char before[EMAIL_INPUT_MAX];
		UChar wide[EMAIL_INPUT_MAX];
		UChar normal[EMAIL_INPUT_MAX];
		char lower[EMAIL_INPUT_MAX];
		size_t n = 0;
		int32_t count;

		memcpy(before, local, *len);
		for (size_t i = 0; i < *len;)
		{
			uint32_t cp;
			int width = crm_utf8_decode(local + i, *len - i, &cp);

			if (width == 0 || n + 4 > sizeof(lower))
				return false;
			i += width;
			n += crm_utf8_encode((uint32_t) u_tolower((UChar32) cp), lower + n);
		}
		u_strFromUTF8(wide, EMAIL_INPUT_MAX, &count, lower, (int32_t) n, &status);
		count = unorm2_normalize(nfc, wide, count, normal, EMAIL_INPUT_MAX, &status);
		if (U_FAILURE(status))
			return false;
		u_strToUTF8(local, CRM_EMAIL_LOCAL_MAX * 4, &count, normal, count, &status);
		if (U_FAILURE(status))
			return false;
		if ((size_t) count == *len && memcmp(before, local, *len) == 0)
			return true;
		*len = (size_t) count;
	}
	return false;
}

/* What the content of a local part needs: nothing, quotes, or it is impossible. */
typedef enum LocalForm
{
	LOCAL_ATOM,
	LOCAL_QUOTED,
	LOCAL_INVALID
} LocalForm;

static LocalForm
crm_local_form(const char *local, size_t len)
{
	LocalForm form = len == 0 ? LOCAL_QUOTED : LOCAL_ATOM;

	for (size_t i = 0; i < len;)
	{
		uint32_t cp;
		int width = crm_utf8_decode(local + i, len - i, &cp);

		if (width == 0)
			return LOCAL_INVALID;
		if (width > 1 ? !crm_is_local_char(cp) : (cp < 0x20 || cp == 0x7F))
			return LOCAL_INVALID;
		if (cp == '.')
		{
			if (i == 0 || i + 1 == len || local[i + 1] == '.')
				form = LOCAL_QUOTED;
		}
		else if (width == 1 && !crm_is_atext((char) cp))
			form = LOCAL_QUOTED;
		i += width;
	}
	return form;
}

/*
 * Reads a quoted string at s: its content goes to local.  Returns how many bytes
 * were read, or 0 if it does not end or its content is longer than max.
 */
static size_t
crm_unquote(const char *s, size_t len, char *local, size_t *local_len, size_t max)
{
	size_t n = 0;

	for (size_t i = 1; i < len; i++)
	{
		char c = s[i];

		if (c == '"')
		{
			*local_len = n;
			return i + 1;
		}
		if (c == '\\' && ++i < len)
			c = s[i];
		if (n >= max)
			return 0;
		local[n++] = c;
	}
	return 0;
}

/* Writes a local part that is not an atom with the quotes and escapes it needs. */
static size_t
crm_quote(const char *local, size_t len, char *out)
{
	size_t n = 0;

	out[n++] = '"';
	for (size_t i = 0; i < len; i++)
	{
		if (local[i] == '"' || local[i] == '\\')
			out[n++] = '\\';
		out[n++] = local[i];
	}
	out[n++] = '"';
	return n;
}

bool
crm_email_parse(const char *in, size_t len, char *out, CrmFault *fault)
{
	static const char *const example = "Write it as \"name@example.com\".";
	char text[EMAIL_INPUT_MAX + 1];
	char local[EMAIL_INPUT_MAX + 1];
	char written[2 * EMAIL_INPUT_MAX + 2];
	char domain[CRM_DOMAIN_MAX + 1];
	ptrdiff_t n = crm_input_fold(in, len, text, EMAIL_INPUT_MAX);
	size_t local_len;
	size_t domain_len;
	size_t at;
	bool quoted;

	if (n < 0)
		return crm_fault(fault, "The address is longer than 254 octets.", NULL);
	if (n == 0)
		return crm_fault(fault, "The address is empty.", example);

	quoted = text[0] == '"';
	if (quoted)
	{
		at = crm_unquote(text, n, local, &local_len, EMAIL_INPUT_MAX);
		if (at == 0)
			return crm_fault(fault, "The quoted local part has no end.", example);
	}
	else
	{
		const char *sign = memchr(text, '@', n);

		at = sign != NULL ? (size_t) (sign - text) : (size_t) n;
		memcpy(local, text, at);
		local_len = at;
	}
	if (at >= (size_t) n || text[at] != '@')
		return crm_fault(fault, "The address has no \"@\" after the local part.", example);
	if (!quoted && local_len == 0)
		return crm_fault(fault, "There is nothing before the \"@\".", example);
	if (memchr(local, '<', local_len) != NULL && !quoted)
		return crm_fault(fault, "The address comes with a display name.",
						 "Write the address alone, without name and angle brackets.");
	/* Folding may lengthen; a local part this long cannot come to fit. */
	if (local_len > CRM_EMAIL_LOCAL_MAX * 4)
		return crm_fault(fault, "The local part is longer than 64 octets.", NULL);
	if (!quoted && crm_local_form(local, local_len) == LOCAL_QUOTED)
		return crm_fault(fault,
						 memchr(local, ' ', local_len) != NULL
							 ? "The local part contains white space."
							 : "The local part contains a character or a dot that it may not have.",
						 "A local part consists of letters, digits and the characters "
						 "!#$%&'*+-/=?^_`{|}~, with single dots between them; anything else must "
						 "be in double quotes.");
	if (crm_local_form(local, local_len) == LOCAL_INVALID || !crm_local_fold(local, &local_len) ||
		crm_local_form(local, local_len) == LOCAL_INVALID)
		return crm_fault(fault, "The local part contains a character that no address has.", NULL);

	if (crm_local_form(local, local_len) == LOCAL_ATOM)
		memcpy(written, local, local_len);
	else
		local_len = crm_quote(local, local_len, written);
	if (local_len > CRM_EMAIL_LOCAL_MAX)
		return crm_fault(fault, "The local part is longer than 64 octets.", NULL);

	at++;
	if (memchr(text + at, '@', n - at) != NULL)
		return crm_fault(fault, "There is more than one \"@\".",
						 "Write one address; each further one belongs in a row of its own.");
	if (text[at] == '[')
		return crm_fault(fault, "The domain is an IP address.",
						 "Write an address with a domain name.");
	if (!crm_domain_parse(text + at, n - at, domain, fault))
		return false;
	domain_len = strlen(domain);
	if (local_len + 1 + domain_len > CRM_EMAIL_MAX)
		return crm_fault(fault, "The address is longer than 254 octets.", NULL);

	memcpy(out, written, local_len);
	out[local_len] = '@';
	memcpy(out + local_len + 1, domain, domain_len + 1);
	return true;
}

const char *
crm_email_domain_part(const char *email, size_t len)
{
	/* A quoted local part may contain "@"; a domain never does. */
	for (size_t i = len; i > 0; i--)
		if (email[i - 1] == '@')
			return email + i;
	return email + len;
}
