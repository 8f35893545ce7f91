/*
 * domain.c
 *		Host names, web addresses and registrable domains.  Pure: ICU and libpsl only.
 */
#include <string.h>

#include <libpsl.h>
#include <unicode/uidna.h>

#include "domain.h"
#include "utf8.h"

#define LABEL_MAX 63

/* Room for an input in any script whose A-labels may still fit. */
#define DOMAIN_INPUT_MAX 1024

/* ICU's IDNA service is stateless and opened once for the life of the process. */
static const UIDNA *
crm_idna(void)
{
	static UIDNA *idna = NULL;

	if (idna == NULL)
	{
		UErrorCode status = U_ZERO_ERROR;
		UIDNA *opened =
			uidna_openUTS46(UIDNA_USE_STD3_RULES | UIDNA_CHECK_BIDI | UIDNA_CHECK_CONTEXTJ |
								UIDNA_NONTRANSITIONAL_TO_ASCII | UIDNA_NONTRANSITIONAL_TO_UNICODE,
							&status);

		if (U_FAILURE(status))
			return NULL;
		idna = opened;
	}
	return idna;
}

/* Lower-cases an ASCII host name in place and checks it: RFC 1123 labels, at least two. */
static bool
crm_domain_check_ascii(char *name, size_t len, CrmFault *fault)
{
	size_t start = 0;
	int labels = 0;
	bool digits = true;

	if (len == 0)
		return crm_fault(fault, "The domain is empty.", NULL);
	if (len > CRM_DOMAIN_MAX)
		return crm_fault(fault, "The domain is longer than 253 octets.", NULL);
	for (size_t i = 0; i <= len; i++)
	{
		if (i == len || name[i] == '.')
		{
			if (i == start)
				return crm_fault(fault, "A label of the domain is empty.",
								 "Check for a dot too many.");
			if (i - start > LABEL_MAX)
				return crm_fault(fault, "A label of the domain is longer than 63 octets.", NULL);
			if (name[start] == '-' || name[i - 1] == '-')
				return crm_fault(fault, "A label of the domain starts or ends with a hyphen.",
								 NULL);
			labels++;
			if (i == len)
				break;
			start = i + 1;
			digits = true;
			continue;
		}
		name[i] = crm_ascii_lower(name[i]);
		if (!crm_ascii_digit(name[i]))
			digits = false;
		if (!crm_ascii_alpha(name[i]) && !crm_ascii_digit(name[i]) && name[i] != '-')
			return crm_fault(fault, "The domain contains a character that no domain has.",
							 "A domain consists of letters, digits, hyphens and dots.");
	}
	if (labels < 2)
		return crm_fault(fault, "The domain has no dot.",
						 "Write the domain in full, for example \"example.com\".");
	if (digits)
		return crm_fault(fault, "The top-level domain consists of digits only.",
						 "Write a domain name, not an IP address.");
	return true;
}

bool
crm_domain_parse(const char *in, size_t len, char *out, CrmFault *fault)
{
	bool ascii = true;
	UErrorCode status = U_ZERO_ERROR;
	UIDNAInfo info = UIDNA_INFO_INITIALIZER;
	const UIDNA *idna;
	int32_t n;

	for (size_t i = 0; i < len && ascii; i++)
		ascii = (unsigned char) in[i] < 0x80;
	if (ascii)
	{
		if (len > CRM_DOMAIN_MAX)
			return crm_fault(fault, "The domain is longer than 253 octets.", NULL);
		memcpy(out, in, len);
		out[len] = '\0';
		return crm_domain_check_ascii(out, len, fault);
	}
	if (len > DOMAIN_INPUT_MAX)
		return crm_fault(fault, "The domain is longer than 253 octets.", NULL);
	for (size_t i = 0; i < len;)
	{
		uint32_t cp;
		int width = crm_utf8_decode(in + i, len - i, &cp);

		if (width == 0)
			return crm_fault(fault, "The domain is not valid UTF-8.", NULL);
		i += width;
	}

	idna = crm_idna();
	if (idna == NULL)
		return crm_broken(fault, "ICU cannot process international domain names.");
	n = uidna_nameToASCII_UTF8(idna, in, (int32_t) len, out, CRM_DOMAIN_MAX + 1, &info, &status);
	if (status == U_BUFFER_OVERFLOW_ERROR ||
		(info.errors & UIDNA_ERROR_DOMAIN_NAME_TOO_LONG) != 0 ||
		(U_SUCCESS(status) && n > CRM_DOMAIN_MAX))
		return crm_fault(fault, "The domain is longer than 253 octets.", NULL);
	if (U_FAILURE(status) || info.errors != 0)
		return crm_fault(fault, "The domain is not a valid international domain name (UTS #46).",
						 "Check its spelling, or write it in its ASCII form (xn--...).");
	out[n] = '\0';
	return crm_domain_check_ascii(out, n, fault);
}

bool
crm_domain_display(const char *domain, char *out, size_t size)
{
	UErrorCode status = U_ZERO_ERROR;
	UIDNAInfo info = UIDNA_INFO_INITIALIZER;
	const UIDNA *idna = crm_idna();
	int32_t n;

	if (idna == NULL)
		return false;
	n = uidna_nameToUnicodeUTF8(idna, domain, -1, out, (int32_t) size, &info, &status);
	if (U_FAILURE(status) || info.errors != 0 || (size_t) n >= size)
		return false;
	out[n] = '\0';
	return true;
}

/* The parts of a web address, as they stand in it. */
typedef struct UrlParts
{
	const char *scheme; /* NULL if none */
	size_t scheme_len;
	const char *host;
	size_t host_len;
	const char *port; /* NULL if none */
	size_t port_len;
	const char *rest; /* from "/", "?" or "#" on */
	size_t rest_len;
	bool userinfo;
} UrlParts;

static void
crm_url_split(const char *in, size_t len, UrlParts *parts)
{
	const char *end = in + len;
	const char *authority = in;
	const char *p;

	memset(parts, 0, sizeof(*parts));
	for (p = in; p < end && (crm_ascii_alpha(*p) || crm_ascii_digit(*p) || *p == '+' || *p == '-' ||
							 *p == '.');
		 p++)
		;
	if (p > in && end - p >= 3 && memcmp(p, "://", 3) == 0)
	{
		parts->scheme = in;
		parts->scheme_len = p - in;
		authority = p + 3;
	}
	for (p = authority; p < end && *p != '/' && *p != '?' && *p != '#'; p++)
		;
	parts->rest = p;
	parts->rest_len = end - p;

	parts->host = authority;
	for (const char *q = authority; q < p; q++)
		if (*q == '@')
		{
			parts->host = q + 1;
			parts->userinfo = true;
		}
	parts->host_len = p - parts->host;
	for (const char *q = parts->host; q < p; q++)
		if (*q == ':')
		{
			parts->host_len = q - parts->host;
			parts->port = q + 1;
			parts->port_len = p - parts->port;
			break;
		}
	/* The dot of the DNS root. */
	if (parts->host_len > 1 && parts->host[parts->host_len - 1] == '.')
		parts->host_len--;
}

bool
crm_website_parse(const char *in, size_t len, char *out, CrmFault *fault)
{
	char folded[CRM_WEBSITE_MAX + 1];
	char host[CRM_DOMAIN_MAX + 1];
	UrlParts parts;
	ptrdiff_t n = crm_input_fold(in, len, folded, CRM_WEBSITE_MAX);
	size_t at = 0;
	size_t host_len;
	bool secure = false;
	unsigned port = 0;

	if (n < 0)
		return crm_fault(fault, "The address is longer than 2048 octets.", NULL);
	if (memchr(folded, ' ', n) != NULL)
		return crm_fault(fault, "The address contains white space.", NULL);
	for (ptrdiff_t i = 0; i < n; i++)
		if ((unsigned char) folded[i] < 0x20 || folded[i] == 0x7F)
			return crm_fault(fault, "The address contains a control character.", NULL);
	crm_url_split(folded, n, &parts);
	if (parts.scheme != NULL)
	{
		char scheme[6];

		if (parts.scheme_len > 5)
			return crm_fault(fault, "The scheme is neither http nor https.", NULL);
		for (size_t i = 0; i < parts.scheme_len; i++)
			scheme[i] = crm_ascii_lower(parts.scheme[i]);
		scheme[parts.scheme_len] = '\0';
		secure = strcmp(scheme, "https") == 0;
		if (!secure && strcmp(scheme, "http") != 0)
			return crm_fault(fault, "The scheme is neither http nor https.", NULL);
		memcpy(out, scheme, parts.scheme_len);
		memcpy(out + parts.scheme_len, "://", 3);
		at = parts.scheme_len + 3;
	}
	if (parts.userinfo)
		return crm_fault(fault, "The address contains a user name.",
						 "An e-mail address belongs in a column of kind email.");
	if (!crm_domain_parse(parts.host, parts.host_len, host, fault))
		return false;
	host_len = strlen(host);
	for (size_t i = 0; i < parts.port_len; i++)
	{
		if (!crm_ascii_digit(parts.port[i]) || (port = port * 10 + (parts.port[i] - '0')) > 65535)
			return crm_fault(fault, "The port is not a number from 1 to 65535.", NULL);
	}
	if (parts.port_len > 0 && port == 0)
		return crm_fault(fault, "The port is not a number from 1 to 65535.", NULL);
	if (parts.scheme != NULL && port == (secure ? 443u : 80u))
		port = 0;
	if (parts.rest_len == 1 && parts.rest[0] == '/')
		parts.rest_len = 0;

	if (at + host_len + 6 + parts.rest_len > CRM_WEBSITE_MAX)
		return crm_fault(fault, "The address is longer than 2048 octets.", NULL);
	memcpy(out + at, host, host_len);
	at += host_len;
	if (port != 0)
	{
		char digits[5];
		int count = 0;

		for (; port > 0; port /= 10)
			digits[count++] = (char) ('0' + port % 10);
		out[at++] = ':';
		while (count > 0)
			out[at++] = digits[--count];
	}
	memcpy(out + at, parts.rest, parts.rest_len);
	out[at + parts.rest_len] = '\0';
	return true;
}

bool
crm_host_find(const char *in, size_t len, char *out, CrmFault *fault)
{
	char folded[CRM_WEBSITE_MAX + 1];
	UrlParts parts;
	ptrdiff_t n = crm_input_fold(in, len, folded, CRM_WEBSITE_MAX);

	if (n < 0)
		return crm_fault(fault, "The address is longer than 2048 octets.", NULL);
	crm_url_split(folded, n, &parts);
	return crm_domain_parse(parts.host, parts.host_len, out, fault);
}

/*
 * The newer of the list compiled into libpsl and the one the distribution keeps
 * up to date; loaded once for the life of the process.
 */
static const psl_ctx_t *
crm_psl(void)
{
	static const psl_ctx_t *psl = NULL;

	if (psl == NULL)
		psl = psl_latest(NULL);
	return psl;
}

const char *
crm_registrable_part(const char *domain)
{
	const psl_ctx_t *psl = crm_psl();

	return psl != NULL ? psl_registrable_domain(psl, domain) : NULL;
}
