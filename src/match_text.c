/*
 * match_text.c
 *		Values brought to the form in which they are compared.
 */
#include "postgres.h"

#include "match_text.h"

/*
 * Providers that give addresses to anyone: sharing one says nothing about the
 * company.  Sorted.
 */
static const char *const free_mail[] = {
	"126.com",		   "139.com",		 "163.com",		   "163.net",		 "188.com",
	"189.cn",		   "21cn.com",		 "263.net",		   "aliyun.com",	 "aol.com",
	"bigpond.com",	   "bk.ru",			 "bluewin.ch",	   "btinternet.com", "chinaren.com",
	"comcast.net",	   "cox.net",		 "daum.net",	   "duck.com",		 "earthlink.net",
	"email.com",	   "eyou.com",		 "fastmail.com",   "foxmail.com",	 "free.fr",
	"freenet.de",	   "gmail.com",		 "gmx.at",		   "gmx.ch",		 "gmx.com",
	"gmx.de",		   "gmx.net",		 "hanmail.net",	   "hey.com",		 "hotmail.co.jp",
	"hotmail.co.uk",   "hotmail.com",	 "hotmail.de",	   "hotmail.fr",	 "hotmail.it",
	"hushmail.com",	   "icloud.com",	 "inbox.ru",	   "interia.pl",	 "laposte.net",
	"libero.it",	   "list.ru",		 "live.cn",		   "live.co.uk",	 "live.com",
	"live.fr",		   "mac.com",		 "mail.com",	   "mail.ru",		 "me.com",
	"msn.com",		   "naver.com",		 "o2.pl",		   "onet.pl",		 "online.de",
	"optusnet.com.au", "orange.fr",		 "outlook.com",	   "outlook.de",	 "outlook.fr",
	"pm.me",		   "proton.me",		 "protonmail.com", "qq.com",		 "rambler.ru",
	"rediffmail.com",  "rocketmail.com", "sbcglobal.net",  "seznam.cz",		 "sfr.fr",
	"sina.cn",		   "sina.com",		 "sina.com.cn",	   "sky.com",		 "sohu.com",
	"t-online.de",	   "terra.com.br",	 "tiscali.it",	   "tom.com",		 "tutanota.com",
	"ukr.net",		   "uol.com.br",	 "verizon.net",	   "virgilio.it",	 "wanadoo.fr",
	"web.de",		   "wo.cn",			 "wp.pl",		   "ya.ru",			 "yahoo.ca",
	"yahoo.co.in",	   "yahoo.co.jp",	 "yahoo.co.uk",	   "yahoo.com",		 "yahoo.com.au",
	"yahoo.com.br",	   "yahoo.com.cn",	 "yahoo.de",	   "yahoo.es",		 "yahoo.fr",
	"yahoo.it",		   "yandex.com",	 "yandex.ru",	   "yeah.net",		 "ymail.com",
	"zoho.com",
};

/* Labels that registries put between a country and a registered name. */
static const char *const second_level[] = {"ac",  "co",	 "com", "edu", "go",  "gob", "gouv",
										   "gov", "mil", "ne",	"net", "nom", "or",	 "org"};

static inline char
crm_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
}

static inline bool
crm_is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
crm_in_list(const char *const *list, int n, const char *text, int len)
{
	int low = 0, high = n - 1;

	while (low <= high)
	{
		int mid = (low + high) / 2;
		int c = strncmp(list[mid], text, len);

		if (c == 0)
			c = list[mid][len] == '\0' ? 0 : 1;
		if (c == 0)
			return true;
		if (c < 0)
			low = mid + 1;
		else
			high = mid - 1;
	}
	return false;
}

/* Digits of the country calling code that an international number starts with (ITU-T E.164). */
static size_t
crm_calling_code(const char *digits)
{
	static const char *const two[] = {
		"20", "27", "30", "31", "32", "33", "34", "36", "39", "40", "41", "43", "44", "45", "46",
		"47", "48", "49", "51", "52", "53", "54", "55", "56", "57", "58", "60", "61", "62", "63",
		"64", "65", "66", "81", "82", "84", "86", "90", "91", "92", "93", "94", "95", "98"};

	if (digits[0] == '1' || digits[0] == '7')
		return 1;
	return crm_in_list(two, lengthof(two), digits, 2) ? 2 : 3;
}

#define PHONE_LEAST 6 /* digits */
#define PHONE_MOST	10

size_t
crm_match_phone(const char *data, size_t len, char out[MATCH_TEXT_MAX])
{
	char digits[MATCH_TEXT_MAX + 1] = {0};
	size_t n = 0, start = 0, zeros = 0;
	bool varied = false, international = false;

	for (size_t i = 0; i < len && n < MATCH_TEXT_MAX; i++)
	{
		unsigned char c = data[i];

		/* Full-width digits are EF BC 90 .. EF BC 99, the plus sign EF BC 8B. */
		if (c == 0xEF && i + 2 < len && (unsigned char) data[i + 1] == 0xBC)
		{
			unsigned char last = data[i + 2];

			if (last >= 0x90 && last <= 0x99)
				digits[n++] = '0' + (last - 0x90);
			international = international || (n == 0 && last == 0x8B);
			i += 2;
		}
		else if (crm_is_digit(c))
			digits[n++] = c;
		else if (c == '+' && n == 0)
			international = true;
		else if (n >= PHONE_LEAST &&
				 (crm_lower(c) == 'x' || crm_lower(c) == 'e' || c == '#' || c == ';' || c == ','))
			break; /* an extension or a second number */
	}
	if (n < PHONE_LEAST)
		return 0;
	for (size_t i = 1; i < n; i++)
		varied = varied || digits[i] != digits[0];
	if (!varied)
		return 0;
	/* Country and trunk prefixes come and go; ten digits tell numbers apart everywhere. */
	while (digits[zeros] == '0')
		zeros++;
	if (zeros == 2 || international)
	{
		start = zeros + crm_calling_code(digits + zeros);
		while (start < n && digits[start] == '0')
			start++;
	}
	else
		start = zeros;
	if (n - Min(start, n) < PHONE_LEAST)
		start = 0;
	start = Max(start, n - Min(n, PHONE_MOST));
	memcpy(out, digits + start, n - start);
	return n - start;
}

/* The registrable part of a host name, by the shape of its last labels. */
static void
crm_registrable(const char *host, int len, MatchEmail *out)
{
	int dot[3];
	int ndots = 0, start = 0;

	out->domain_length = 0;
	while (len > 0 && host[len - 1] == '.')
		len--;
	for (int i = len - 1; i >= 0 && ndots < 3; i--)
		if (host[i] == '.')
			dot[ndots++] = i;
	if (ndots == 0 || len > MATCH_EMAIL_MAX)
		return;
	if (ndots == 1)
		start = 0;
	else if (len - dot[0] - 1 == 2 && crm_in_list(second_level, lengthof(second_level),
												  host + dot[1] + 1, dot[0] - dot[1] - 1))
		start = ndots == 2 ? 0 : dot[2] + 1;
	else
		start = dot[1] + 1;
	if (crm_in_list(free_mail, lengthof(free_mail), host + start, len - start))
		return;
	memcpy(out->domain, host + start, len - start);
	out->domain_length = len - start;
}

bool
crm_match_email(const char *data, size_t len, MatchEmail *out)
{
	int n = 0, at = -1;
	const char *domain;
	int domain_len;

	while (len > 0 && (data[0] == ' ' || data[0] == '\t'))
		data++, len--;
	if (len > 7 && pg_strncasecmp(data, "mailto:", 7) == 0)
		data += 7, len -= 7;
	for (size_t i = 0; i < len; i++)
	{
		char c = crm_lower(data[i]);

		if (c == ' ' || c == '\t' || c == '>' || c == ';' || c == ',')
			break;
		if (n == MATCH_EMAIL_MAX)
			return false;
		if (c == '@')
			at = n;
		out->address[n++] = c;
	}
	if (at <= 0 || at == n - 1)
		return false;
	domain = out->address + at + 1;
	domain_len = n - at - 1;
	crm_registrable(domain, domain_len, out);

	/* Gmail ignores dots and what follows a plus sign. */
	if ((domain_len == 9 && memcmp(domain, "gmail.com", 9) == 0) ||
		(domain_len == 14 && memcmp(domain, "googlemail.com", 14) == 0))
	{
		int m = 0;

		for (int i = 0; i < at && out->address[i] != '+'; i++)
			if (out->address[i] != '.')
				out->address[m++] = out->address[i];
		if (m == 0)
			return false;
		memcpy(out->address + m, "@gmail.com", 10);
		out->length = m + 10;
		out->local_length = m;
		return true;
	}
	out->length = n;
	out->local_length = at;
	return true;
}

bool
crm_match_website(const char *data, size_t len, MatchEmail *out)
{
	char host[MATCH_EMAIL_MAX];
	int n = 0;
	size_t start = 0;

	for (size_t i = 0; i + 2 < len; i++)
		if (data[i] == ':' && data[i + 1] == '/' && data[i + 2] == '/')
			start = i + 3;
	for (size_t i = start; i < len && n < MATCH_EMAIL_MAX; i++)
	{
		char c = crm_lower(data[i]);

		if (c == '/' || c == ':' || c == '?' || c == '#')
			break;
		if (c != ' ')
			host[n++] = c;
	}
	crm_registrable(host, n, out);
	return out->domain_length > 0;
}

size_t
crm_match_alnum(const char *data, size_t len, char *out, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < len && n < size; i++)
	{
		char c = crm_lower(data[i]);

		if (crm_is_digit(c))
			out[n++] = c;
		else if (c >= 'a' && c <= 'z')
			out[n++] = c - ('a' - 'A');
	}
	return n;
}

/* GB 32100-2015: weights 3^i mod 31 over the first 17 characters. */
bool
crm_match_uscc_valid(const char *text, size_t len)
{
	static const char alphabet[] = "0123456789ABCDEFGHJKLMNPQRTUWXY";
	int sum = 0, weight = 1;
	const char *digit;

	if (len != 18)
		return false;
	for (int i = 0; i < 17; i++)
	{
		digit = strchr(alphabet, text[i]);
		if (digit == NULL || *digit == '\0')
			return false;
		sum += (int) (digit - alphabet) * weight;
		weight = weight * 3 % 31;
	}
	digit = strchr(alphabet, text[17]);
	return digit != NULL && *digit != '\0' && (digit - alphabet) == (31 - sum % 31) % 31;
}

int32
crm_match_date(const char *data, size_t len)
{
	int digits[8];
	int n = 0;
	int year, month, day;

	for (size_t i = 0; i < len; i++)
	{
		if (crm_is_digit(data[i]))
		{
			if (n == 8)
				return 0;
			digits[n++] = data[i] - '0';
		}
		else if (n == 8)
			break; /* a time of day follows */
	}
	if (n != 8)
		return 0;
	year = digits[0] * 1000 + digits[1] * 100 + digits[2] * 10 + digits[3];
	month = digits[4] * 10 + digits[5];
	day = digits[6] * 10 + digits[7];
	if (year == 0 || month < 1 || month > 12 || day < 1 || day > 31)
		return 0;
	return year * 10000 + month * 100 + day;
}

bool
crm_match_is_placeholder(const char *data, size_t len)
{
	static const char *const words[] = {"-",
										"--",
										"---",
										".",
										"/",
										"?",
										"n.a.",
										"n/a",
										"na",
										"nan",
										"nil",
										"none",
										"null",
										"tbc",
										"tbd",
										"test",
										"unknown",
										"x",
										"xx",
										"xxx",
										"\\n",
										"\xE4\xB8\x8D\xE8\xAF\xA6",	 /* 不详 */
										"\xE6\x97\xA0",				 /* 无 */
										"\xE6\x9A\x82\xE6\x97\xA0",	 /* 暂无 */
										"\xE6\x9C\xAA\xE7\x9F\xA5"}; /* 未知 */
	char folded[sizeof("unknown")];									 /* the longest of them */

	while (len > 0 && (data[0] == ' ' || data[0] == '\t'))
		data++, len--;
	while (len > 0 && (data[len - 1] == ' ' || data[len - 1] == '\t'))
		len--;
	if (len == 0)
		return true;
	if (len >= sizeof(folded))
		return false;
	for (size_t i = 0; i < len; i++)
		folded[i] = crm_lower(data[i]);
	folded[len] = '\0';
	for (int i = 0; i < (int) lengthof(words); i++)
		if (strcmp(folded, words[i]) == 0)
			return true;
	return false;
}

/* True if the simplified characters at tokens end - n .. end - 1 are those given. */
static bool
crm_ends_with(const CrmName *name, int end, const uint32 *characters, int n)
{
	if (end < n)
		return false;
	for (int i = 0; i < n; i++)
		if (name->tokens[end - n + i].simplified != characters[i])
			return false;
	return true;
}

int
crm_match_title_tokens(const CrmName *name)
{
	static const struct
	{
		int n;
		uint32 text[3];
	} titles[] = {
		{3, {0x603B, 0x7ECF, 0x7406}}, /* 总经理 */
		{3, {0x8D1F, 0x8D23, 0x4EBA}}, /* 负责人 */
		{2, {0x7ECF, 0x7406}},		   /* 经理 */
		{2, {0x5148, 0x751F}},		   /* 先生 */
		{2, {0x5973, 0x58EB}},		   /* 女士 */
		{2, {0x5C0F, 0x59D0}},		   /* 小姐 */
		{2, {0x8001, 0x5E08}},		   /* 老师 */
		{2, {0x8001, 0x677F}},		   /* 老板 */
		{2, {0x4E3B, 0x4EFB}},		   /* 主任 */
		{2, {0x540C, 0x5FD7}},		   /* 同志 */
		{1, {0x603B}},				   /* 总 */
	};

	for (int i = 0; i < (int) lengthof(titles); i++)
	{
		if (crm_ends_with(name, name->ntokens, titles[i].text, titles[i].n))
			return titles[i].n;
	}
	return 0;
}

bool
crm_match_is_place_suffix(const CrmNameToken *token)
{
	/* 市 县 区 省 */
	return token->simplified == 0x5E02 || token->simplified == 0x53BF ||
		   token->simplified == 0x533A || token->simplified == 0x7701;
}

double
crm_match_jaro_winkler(const char *a, int alen, const char *b, int blen)
{
	uint64 at[256];	 /* where in b a character stands; set for those of a and b */
	uint64 used = 0; /* places in b */
	char matched[MATCH_TEXT_MAX];
	int window, matches = 0, swaps = 0, k = 0, prefix = 0;
	double jaro;

	StaticAssertStmt(MATCH_TEXT_MAX < 64, "places must fit into 64 bits");
	alen = Min(alen, MATCH_TEXT_MAX);
	blen = Min(blen, MATCH_TEXT_MAX);
	if (alen == 0 || blen == 0)
		return 0.0;
	window = Max(alen, blen) / 2 - 1;
	for (int i = 0; i < alen; i++)
		at[(unsigned char) a[i]] = 0;
	for (int j = 0; j < blen; j++)
		at[(unsigned char) b[j]] = 0;
	for (int j = 0; j < blen; j++)
		at[(unsigned char) b[j]] |= UINT64CONST(1) << j;
	for (int i = 0; i < alen; i++)
	{
		int from = Max(0, i - window), to = Min(blen, i + window + 1);
		uint64 place;

		if (from >= to)
			continue;
		place =
			at[(unsigned char) a[i]] & ~used & (UINT64_MAX << from) & ((UINT64CONST(1) << to) - 1);
		if (place != 0)
		{
			used |= place & -place; /* the first */
			matched[matches++] = a[i];
		}
	}
	if (matches == 0)
		return 0.0;
	for (int j = 0; j < blen; j++)
		if ((used & (UINT64CONST(1) << j)) != 0 && matched[k++] != b[j])
			swaps++;
	jaro = ((double) matches / alen + (double) matches / blen + (matches - swaps / 2.0) / matches) /
		   3.0;
	while (prefix < Min(4, Min(alen, blen)) && a[prefix] == b[prefix])
		prefix++;
	return jaro + prefix * 0.1 * (1.0 - jaro);
}

int
crm_match_edits(const char *a, int alen, const char *b, int blen, int max)
{
	int row[3][MATCH_TEXT_MAX + 1];
	int best;

	alen = Min(alen, MATCH_TEXT_MAX);
	blen = Min(blen, MATCH_TEXT_MAX);
	if (abs(alen - blen) > max)
		return max + 1;
	/* What both begin and end with plays no part. */
	while (alen > 0 && blen > 0 && *a == *b)
		a++, b++, alen--, blen--;
	while (alen > 0 && blen > 0 && a[alen - 1] == b[blen - 1])
		alen--, blen--;
	if (alen == 0 || blen == 0)
		return Min(Max(alen, blen), max + 1);
	if (max == 1)
		return (alen == 1 && blen == 1) || (alen == 2 && blen == 2 && a[0] == b[1] && a[1] == b[0])
				   ? 1
				   : 2;
	for (int j = 0; j <= blen; j++)
		row[0][j] = j;
	for (int i = 1; i <= alen; i++)
	{
		int *this = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];

		this[0] = best = i;
		for (int j = 1; j <= blen; j++)
		{
			int d = last[j - 1] + (a[i - 1] != b[j - 1]);

			d = Min(d, last[j] + 1);
			d = Min(d, this[j - 1] + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				d = Min(d, before[j - 2] + 1);
			this[j] = d;
			best = Min(best, d);
		}
		if (best > max)
			return max + 1;
	}
	return Min(row[alen % 3][blen], max + 1);
}
