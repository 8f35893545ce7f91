/*
 * name_parse.c
 *		Names into tokens, tokens into keys.  Pure: no backend, no allocation.
 *
 * Parsing is one pass over the characters, which writes the tokens, and a few
 * passes over the tokens:
 *
 *	1. Characters.  Everything is looked up in tables generated from one
 *	   release of Unicode (name_tables.c), never in ICU or the C library, so
 *	   that a key is the same in every database, on every platform, after every
 *	   upgrade.  The tables hold what NFKC casefolding followed by
 *	   transliteration gives for one character; the few sequences whose reading
 *	   is not that of their parts (kana, Greek ου, decomposed letters) are pairs.
 *	2. Han words.  A run of Han is searched, left to right and the longest
 *	   word first, for legal forms, branch and industry words; its beginning
 *	   for regions.
 *	3. Han readings: within known words, and of surnames.
 *	4. Latin words and phrases, then legal forms at either end.
 *
 * What the key leaves out must be a function of what it keeps, or the key of a
 * key would differ from it: legal forms in Latin letters are recognised by the
 * spelling of the tokens alone, whatever script they came from, except for
 * forms that require their own script.
 */
#include <string.h>

#include "name.h"
#include "name_tables.h"

typedef struct Parser
{
	CrmNameBuffer *buffer;
	CrmName *name;
	size_t text_used; /* of buffer->text */
	size_t key_used;  /* bytes the key needs so far */
	int parentheses;
	bool glued;		/* no separator since the last token */
	bool full;		/* no room for another token */
	int segment;	/* characters of the word since its beginning or last dot */
	bool geminate;	/* a small tsu doubles the next consonant */
	size_t wordlen; /* word in progress */
	uint8_t word_script;
	uint32_t word_source;
	char word[CRM_NAME_MAX_WORD];
	int nsymbols;
	uint32_t symbols[8];
} Parser;

/* Decodes one character; *size is how far to go on.  0 for bytes that are not UTF-8. */
static uint32_t
decode(const unsigned char *s, size_t len, int *size)
{
	uint32_t c = s[0];
	int n, i;
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};

	*size = 1;
	if (c < 0x80)
		return c;
	if (c >= 0xC2 && c < 0xE0)
		n = 2, c &= 0x1F;
	else if (c >= 0xE0 && c < 0xF0)
		n = 3, c &= 0x0F;
	else if (c >= 0xF0 && c < 0xF5)
		n = 4, c &= 0x07;
	else
		return 0;
	if ((size_t) n > len)
		return 0;
	for (i = 1; i < n; i++)
	{
		if ((s[i] & 0xC0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3F);
	}
	if (c < least[n] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
		return 0;
	*size = n;
	return c;
}

static const CrmWideHan *
wide_han(uint32_t c)
{
	int low = 0, high = crm_nwide_han;

	while (low < high)
	{
		int middle = (low + high) / 2;

		if (crm_wide_han[middle].codepoint < c)
			low = middle + 1;
		else
			high = middle;
	}
	return low < crm_nwide_han && crm_wide_han[low].codepoint == c ? &crm_wide_han[low] : NULL;
}

uint32_t
crm_simplify(uint32_t c)
{
	if (c >= CRM_HAN_FIRST && c <= CRM_HAN_LAST)
		return crm_han_simplified[c - CRM_HAN_FIRST];
	if (c >= 0x20000)
	{
		const CrmWideHan *wide = wide_han(c);

		if (wide)
			return wide->simplified;
	}
	return c;
}

uint16_t
crm_name_syllables(void)
{
	return (uint16_t) crm_nsyllables;
}

const char *
crm_name_legal_form(uint16_t legal_form)
{
	return legal_form <= crm_nlegal_forms ? crm_legal_form_name[legal_form] : NULL;
}

/* Value in the character table of a character that is neither Han nor a Hangul syllable. */
static uint16_t
char_value(uint32_t c)
{
	if (c < 0x20000)
		return crm_char_value[crm_char_page[c >> 7]][c & 127];
	if (c >= 0xE0000 && c < 0xE1000)
		return CRM_CHAR_IGNORE;
	if (c >= 0x2F800 && c < 0x2FA20)
	{
		int low = 0, high = crm_nwide_chars;

		while (low < high)
		{
			int middle = (low + high) / 2;

			if (crm_wide_char[middle].codepoint < c)
				low = middle + 1;
			else
				high = middle;
		}
		if (low < crm_nwide_chars && crm_wide_char[low].codepoint == c)
			return crm_wide_char[low].value;
	}
	return CRM_CHAR_SEPARATOR;
}

/* Half-width kana and voice marks as their full-width selves; others as they are. */
static uint32_t
widen_kana(uint32_t c)
{
	static const uint8_t wide[] = {
		0xF2, 0xA1, 0xA3, 0xA5, 0xA7, 0xA9, 0xE3, 0xE5, 0xE7, 0xC3, 0xFC, 0xA2, 0xA4, 0xA6, 0xA8,
		0xAA, 0xAB, 0xAD, 0xAF, 0xB1, 0xB3, 0xB5, 0xB7, 0xB9, 0xBB, 0xBD, 0xBF, 0xC1, 0xC4, 0xC6,
		0xC8, 0xCA, 0xCB, 0xCC, 0xCD, 0xCE, 0xCF, 0xD2, 0xD5, 0xD8, 0xDB, 0xDE, 0xDF, 0xE0, 0xE1,
		0xE2, 0xE4, 0xE6, 0xE8, 0xE9, 0xEA, 0xEB, 0xEC, 0xED, 0xEF, 0xF3, 0x99, 0x9A};

	if (c < 0xFF66 || c > 0xFF9F)
		return c;
	return 0x3000u + wide[c - 0xFF66];
}

static uint16_t
pair_value(uint32_t first, uint32_t second)
{
	int low = 0, high = crm_npairs;

	while (low < high)
	{
		int middle = (low + high) / 2;
		const CrmPair *pair = &crm_pair[middle];

		if (pair->first < first || (pair->first == first && pair->second < second))
			low = middle + 1;
		else
			high = middle;
	}
	if (low < crm_npairs && crm_pair[low].first == first && crm_pair[low].second == second)
		return crm_pair[low].value;
	return 0;
}

/* Room for a token of len bytes, or NULL when the name is full. */
static CrmNameToken *
new_token(Parser *p, size_t len)
{
	CrmNameToken *token;

	if (p->name->ntokens == CRM_NAME_MAX_TOKENS || p->key_used + len + 1 > CRM_NAME_MAX_TEXT)
	{
		p->full = true;
		p->name->flags |= CRM_NAME_TRUNCATED;
		return NULL;
	}
	p->key_used += len + 1;
	token = &p->buffer->tokens[p->name->ntokens++];
	memset(token, 0, sizeof(*token));
	token->len = (uint8_t) len;
	token->flags =
		(p->parentheses > 0 ? CRM_TOKEN_IN_PARENTHESES : 0) | (p->glued ? CRM_TOKEN_GLUED : 0);
	p->glued = true;
	return token;
}

static void
end_word(Parser *p)
{
	p->segment = 0;
	p->geminate = false;
	if (p->wordlen > 0)
	{
		CrmNameToken *token = new_token(p, p->wordlen);

		if (token)
		{
			char *text = p->buffer->text + p->text_used;

			memcpy(text, p->word, p->wordlen);
			p->text_used += p->wordlen;
			token->text = text;
			token->script = p->word_script;
			token->source = p->word_source;
		}
		p->wordlen = 0;
	}
}

/* Scripts whose letters may share a word: a digit or a Cyrillic look-alike does not end it. */
static int
script_group(int script)
{
	return script == CRM_SCRIPT_KANA || script == CRM_SCRIPT_HANGUL ? script : 0;
}

static void
add_to_word(Parser *p, const char *text, size_t len, uint8_t script, uint32_t source)
{
	if (p->wordlen > 0 && script_group(p->word_script) != script_group(script) &&
		p->word_script != CRM_SCRIPT_DIGITS && script != CRM_SCRIPT_DIGITS)
		end_word(p);
	if (p->wordlen + len > CRM_NAME_MAX_WORD)
		end_word(p);
	if (len > CRM_NAME_MAX_WORD)
		len = CRM_NAME_MAX_WORD;
	if (p->wordlen == 0)
	{
		p->word_script = script;
		p->word_source = source;
	}
	else if (p->word_script == CRM_SCRIPT_DIGITS)
		p->word_script = script;
	memcpy(p->word + p->wordlen, text, len);
	p->wordlen += len;
	p->segment++;
}

/* Writes "u" and the number of a character, for those that have no reading. */
static size_t
spell_number(uint32_t c, char *out)
{
	static const char digits[] = "0123456789abcdef";
	int shift = 20;
	size_t n = 0;

	out[n++] = 'u';
	while (shift > 12 && (c >> shift) == 0)
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		out[n++] = digits[c >> shift & 15];
	return n;
}

static void
add_number(Parser *p, uint32_t c)
{
	char text[8];

	end_word(p);
	add_to_word(p, text, spell_number(c, text), CRM_SCRIPT_OTHER, c);
	end_word(p);
}

static void
add_han(Parser *p, uint32_t c)
{
	CrmNameToken *token;
	uint32_t simplified = c;
	uint16_t syllable = 0;
	const char *text;
	size_t len;
	char number[8];

	end_word(p);
	if (c <= CRM_HAN_LAST)
	{
		simplified = crm_han_simplified[c - CRM_HAN_FIRST];
		syllable = CRM_HAN_SYLLABLE(crm_han_info[c - CRM_HAN_FIRST]);
	}
	else
	{
		const CrmWideHan *wide = wide_han(c);

		if (wide)
		{
			simplified = wide->simplified;
			syllable = wide->syllable;
		}
	}
	if (syllable)
	{
		text = crm_syllable[syllable];
		len = CRM_SYLLABLE_LEN(syllable);
	}
	else
	{
		text = number;
		len = spell_number(c, number);
	}
	token = new_token(p, len);
	if (token == NULL)
		return;
	if (!syllable)
	{
		memcpy(p->buffer->text + p->text_used, number, len);
		text = p->buffer->text + p->text_used;
		p->text_used += len;
	}
	token->text = text;
	token->script = CRM_SCRIPT_HAN;
	token->syllable = syllable;
	token->source = c;
	token->simplified = simplified;
}

/* Revised Romanization of a Hangul syllable, letter by letter: no assimilation between syllables.
 */
static void
add_hangul(Parser *p, uint32_t c)
{
	static const char leads[19][3] = {"g",	"kk", "n", "d",	 "tt", "r", "m", "b", "pp", "s",
									  "ss", "",	  "j", "jj", "ch", "k", "t", "p", "h"};
	static const char vowels[21][4] = {"a",	 "ae", "ya", "yae", "eo", "e",	"yeo",
									   "ye", "o",  "wa", "wae", "oe", "yo", "u",
									   "wo", "we", "wi", "yu",	"eu", "ui", "i"};
	static const char tails[28][3] = {"",  "k",	 "k", "k", "n", "n", "n", "t", "l", "k",
									  "m", "l",	 "l", "l", "p", "l", "m", "p", "p", "t",
									  "t", "ng", "t", "t", "k", "t", "p", "t"};
	uint32_t i = c - 0xAC00;
	char text[12];
	size_t len = 0;
	const char *parts[3] = {leads[i / 588], vowels[i / 28 % 21], tails[i % 28]};

	for (int part = 0; part < 3; part++)
		for (const char *s = parts[part]; *s; s++)
			text[len++] = *s;
	add_to_word(p, text, len, CRM_SCRIPT_HANGUL, c);
}

static void
add_kana(Parser *p, const char *text, size_t len, uint32_t c)
{
	char last = p->wordlen > 0 && p->word_script == CRM_SCRIPT_KANA ? p->word[p->wordlen - 1] : 0;

	/* Long vowels are written as passports do: おう and おお are o. */
	if (((c == 0x3046 || c == 0x30A6) && (last == 'o' || last == 'u')) ||
		((c == 0x304A || c == 0x30AA) && last == 'o'))
		return;
	if (p->geminate && strchr("aeiou", text[0]) == NULL)
		add_to_word(p, text[0] == 'c' ? "t" : text, 1, CRM_SCRIPT_KANA, c);
	p->geminate = false;
	add_to_word(p, text, len, CRM_SCRIPT_KANA, c);
}

static bool
is_letter(uint32_t c)
{
	return c >= 0xAC00 || (char_value(c) >= CRM_CHAR_RECORD && c != '&');
}

/* In "S.A." and "A/S" the dot and the stroke stand between single letters and vanish. */
static bool
joins_initials(const Parser *p, const unsigned char *s, size_t len)
{
	int size;
	uint32_t c;

	if (p->segment != 1 || len == 0)
		return false;
	c = decode(s, len, &size);
	if (c >= 0x2E80 || !is_letter(c) || (c >= '0' && c <= '9'))
		return false;
	s += size;
	len -= size;
	if (len == 0)
		return true;
	c = decode(s, len, &size);
	return c >= 0x2E80 || !is_letter(c);
}

/*
 * Adds a Hangul syllable, or a legal form that begins with it and is written
 * without a space; returns how many bytes after the syllable it took.
 */
static size_t
add_hangul_form(Parser *p, uint32_t c, const unsigned char *s, size_t len)
{
	static const uint32_t jusikhoesa[] = {0xC8FC, 0xC2DD, 0xD68C, 0xC0AC}; /* 주식회사 */
	static const uint32_t yuhanhoesa[] = {0xC720, 0xD55C, 0xD68C, 0xC0AC}; /* 유한회사 */
	const uint32_t *form = c == jusikhoesa[0] ? jusikhoesa : yuhanhoesa;
	size_t at = 0;
	int n = c == form[0] ? 1 : 0;
	int size;

	for (; n > 0 && n < 4 && at < len; n++, at += size)
		if (decode(s + at, len - at, &size) != form[n])
			break;
	if (n < 4)
	{
		add_hangul(p, c);
		return 0;
	}
	end_word(p);
	for (n = 0; n < 4; n++)
		add_hangul(p, form[n]);
	end_word(p);
	return at;
}

static void
add_characters(Parser *p, const unsigned char *s, size_t len, int depth)
{
	size_t i = 0;

	while (i < len && !p->full)
	{
		int size;
		uint32_t c = decode(s + i, len - i, &size);
		uint16_t value;

		i += size;
		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
		{
			char letter = (char) (c | 0x20);

			add_to_word(p, &letter, 1, CRM_SCRIPT_LATIN, c);
			continue;
		}
		if ((c >= CRM_HAN_FIRST && c <= CRM_HAN_LAST && c - 0x4DC0 >= 64) ||
			(c >= 0x20000 && c < 0x33480 && !(c >= 0x2F800 && c < 0x2FA20)))
		{
			add_han(p, c);
			continue;
		}
		if (c >= 0xAC00 && c <= 0xD7A3)
		{
			i += add_hangul_form(p, c, s + i, len - i);
			continue;
		}
		c = widen_kana(c);
		value = char_value(c);
		if (value == CRM_CHAR_IGNORE)
			continue;
		if (value >= CRM_CHAR_RECORD)
		{
			const uint8_t *record = crm_char_record + value - CRM_CHAR_RECORD;

			if (record[0] == CRM_CHAR_EXPAND)
			{
				if (depth == 0)
					add_characters(p, record + 2, record[1], 1);
				else
					end_word(p), p->glued = false;
				continue;
			}
			if (record[0] >= CRM_SCRIPT_KANA && c < 0x10000 && i < len)
			{
				uint32_t next = widen_kana(decode(s + i, len - i, &size));
				uint16_t pair = next >= 0x80 ? pair_value(c, next) : 0;

				if (c == 0x3063 || c == 0x30C3)
				{
					p->geminate = true;
					continue;
				}
				if (pair)
				{
					record = crm_char_record + pair - CRM_CHAR_RECORD;
					i += size;
				}
			}
			if (record[0] == CRM_SCRIPT_KANA)
				add_kana(p, (const char *) record + 2, record[1], c);
			else
				add_to_word(p, (const char *) record + 2, record[1], record[0], c);
			continue;
		}
		if (value == CRM_CHAR_UNREADABLE)
		{
			add_number(p, c);
			continue;
		}
		if ((c == '.' || c == '/' || c == 0xFF0E || c == 0xFF0F) &&
			joins_initials(p, s + i, len - i))
		{
			p->segment = 0;
			continue;
		}
		end_word(p);
		p->glued = false;
		switch (c)
		{
			case '(':
			case '[':
			case 0xFF08:
			case 0xFF3B:
			case 0x3010:
			case 0x3014:
				p->parentheses++;
				break;
			case ')':
			case ']':
			case 0xFF09:
			case 0xFF3D:
			case 0x3011:
			case 0x3015:
				if (p->parentheses > 0)
					p->parentheses--;
				break;
			default:
				if (value == CRM_CHAR_SYMBOL && p->nsymbols < 8)
					p->symbols[p->nsymbols++] = c;
				break;
		}
	}
	if (depth == 0)
		end_word(p);
}

/* ---- Han words ---- */

static uint32_t
han_info(const CrmNameToken *token)
{
	uint32_t c = token->simplified;

	return c >= CRM_HAN_FIRST && c <= CRM_HAN_LAST ? crm_han_info[c - CRM_HAN_FIRST] : 0;
}

/* Longest dictionary word at tokens[at], in the run that ends before tokens[end]. */
static const CrmHanWord *
han_word_at(const CrmNameToken *tokens, int start, int at, int end)
{
	uint32_t head = CRM_HAN_WORDS(han_info(&tokens[at]));

	if (head == 0)
		return NULL;
	for (int w = crm_han_word_head[head - 1]; w < crm_han_word_head[head]; w++)
	{
		const CrmHanWord *word = &crm_han_word[w];
		int i;

		if (word->len > end - at)
			continue;
		if (word->place == CRM_HAN_AT_END && at + word->len != end)
			continue;
		if (word->place == CRM_HAN_IN_PARENTHESES &&
			!(tokens[at].flags & CRM_TOKEN_IN_PARENTHESES && at == start && word->len == end - at))
			continue;
		for (i = 0; i < word->len; i++)
			if (tokens[at + i].simplified != crm_han_word_text[word->text + i])
				break;
		if (i == word->len)
			return word;
	}
	return NULL;
}

static void
mark(CrmNameToken *tokens, int from, int to, uint8_t kind)
{
	for (int i = from; i < to; i++)
		tokens[i].kind = kind;
	tokens[from].flags |= CRM_TOKEN_WORD_START;
}

static bool
is_one_of(uint32_t c, const uint16_t *set)
{
	for (; *set; set++)
		if (*set == c)
			return true;
	return false;
}

/*
 * Where the region at tokens[at] ends; at itself if there is none.  Known
 * names, with or without 省 or 市, and whatever ends in 县, 市, 区, 旗, 镇, 乡,
 * unless that is part of a word such as 城市 or 社区.
 */
static int
region_end(const CrmNameToken *tokens, int start, int at, int end)
{
	/* 省 市 县 区 旗 州 盟 */
	static const uint16_t after_known[] = {0x7701, 0x5E02, 0x53BF, 0x533A,
										   0x65D7, 0x5DDE, 0x76DF, 0};
	static const uint16_t suffix[] = {0x53BF, 0x5E02, 0x533A, 0x65D7, 0x9547, 0x4E61, 0};
	/* 超城都门夜菜股上闹集 before 市, 社园小景矿校地灾特街库线 before 区 */
	static const uint16_t not_city[] = {0x8D85, 0x57CE, 0x90FD, 0x95E8, 0x591C, 0x83DC,
										0x80A1, 0x4E0A, 0x95F9, 0x96C6, 0};
	static const uint16_t not_district[] = {0x793E, 0x56ED, 0x5C0F, 0x666F, 0x77FF, 0x6821, 0x5730,
											0x707E, 0x7279, 0x8857, 0x5E93, 0x7EBF, 0};
	const CrmHanWord *word = han_word_at(tokens, start, at, end);

	if (word && word->kind == CRM_NAME_REGION)
	{
		int stop = at + word->len;

		if (stop + 2 < end && is_one_of(tokens[stop].simplified, after_known))
		{
			const CrmHanWord *next = han_word_at(tokens, start, stop, end);

			if (next == NULL || next->len == 1)
				stop++;
		}
		return stop;
	}
	for (int i = at + 1; i < at + 5 && i + 2 < end; i++)
	{
		uint32_t c = tokens[i].simplified;

		if (!is_one_of(c, suffix))
			continue;
		if (word && i < at + word->len)
			return at;
		if ((c == 0x5E02 && is_one_of(tokens[i - 1].simplified, not_city)) ||
			(c == 0x533A && is_one_of(tokens[i - 1].simplified, not_district)))
			return at;
		return i + 1;
	}
	return at;
}

/* Marks the regions that begin at tokens[at]; returns where they end. */
static int
mark_regions(CrmName *name, int start, int at, int end)
{
	CrmNameToken *tokens = name->tokens;

	for (int n = 0; n < 4 && at < end; n++)
	{
		int stop = region_end(tokens, start, at, end);

		/* A whole name is not its region: 北京 alone. */
		if (stop == at || (stop == end && !(tokens[at].flags & CRM_TOKEN_IN_PARENTHESES)))
			break;
		mark(tokens, at, stop, CRM_NAME_REGION);
		name->flags |= CRM_NAME_HAS_REGION;
		at = stop;
	}
	return at;
}

/* Characters of 有限责任股份公司, in whatever order typing mistakes left them. */
static bool
is_legal_form_character(uint32_t c)
{
	static const uint16_t set[] = {0x6709, 0x9650, 0x8D23, 0x4EFB, 0x80A1,
								   0x4EFD, 0x516C, 0x53F8, 0};

	return is_one_of(c, set);
}

/* A damaged legal form, such as 限有责任公司, before tokens[end] or at the end of the run. */
static void
mark_damaged_form(CrmName *name, int start, int end)
{
	CrmNameToken *tokens = name->tokens;
	int from = end;
	bool shares = false;

	while (from > start + 1 && is_legal_form_character(tokens[from - 1].simplified) &&
		   tokens[from - 1].kind == CRM_NAME_CORE)
	{
		from--;
		if (tokens[from].simplified == 0x80A1 || tokens[from].simplified == 0x4EFD)
			shares = true;
	}
	if (end - from < 2)
		return;
	mark(tokens, from, end, CRM_NAME_LEGAL_FORM);
	name->legal_form = shares ? crm_form_gufen : crm_form_youxian;
	name->flags |= CRM_NAME_HAS_LEGAL_FORM;
}

/* Returns how many tokens at the end of the run are a title, such as 经理. */
static int
mark_han_run(CrmName *name, int start, int end)
{
	CrmNameToken *tokens = name->tokens;
	int at = start;
	int form_start = end;
	int title = 0;

	at = mark_regions(name, start, at, end);
	while (at < end)
	{
		const CrmHanWord *word = han_word_at(tokens, start, at, end);

		if (word == NULL || word->kind == CRM_NAME_REGION ||
			(word->kind == CRM_NAME_BRANCH && at < 2))
		{
			at++;
			continue;
		}
		mark(tokens, at, at + word->len, word->kind);
		if (word->kind == CRM_NAME_LEGAL_FORM)
		{
			name->flags |= CRM_NAME_HAS_LEGAL_FORM;
			name->legal_form = word->legal_form;
			if (at < form_start)
				form_start = at;
		}
		else if (word->kind == CRM_NAME_BRANCH)
			name->flags |= CRM_NAME_HAS_BRANCH;
		else if (word->kind == CRM_NAME_GROUP)
			name->flags |= CRM_NAME_HAS_GROUP;
		else if (word->kind == CRM_NAME_INDUSTRY && word->place == CRM_HAN_AT_END)
			title = word->len;
		at += word->len;
		/* What follows the legal form is a branch, which has a region of its own. */
		if (word->kind == CRM_NAME_LEGAL_FORM)
			at = mark_regions(name, start, at, end);
	}
	mark_damaged_form(name, start, form_start);
	return title;
}

static int
compare_reading(const CrmHanReading *reading, uint32_t first, uint32_t second)
{
	if (reading->first != first)
		return reading->first < first ? -1 : 1;
	return reading->second == second ? 0 : reading->second < second ? -1 : 1;
}

static const CrmHanReading *
find_reading(const CrmHanReading *table, int n, uint32_t first, uint32_t second)
{
	int low = 0, high = n;

	while (low < high)
	{
		int middle = (low + high) / 2;

		if (compare_reading(&table[middle], first, second) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < n && compare_reading(&table[low], first, second) == 0 ? &table[low] : NULL;
}

static void
set_syllable(CrmNameToken *token, uint16_t syllable)
{
	token->syllable = syllable;
	token->text = crm_syllable[syllable];
	token->len = CRM_SYLLABLE_LEN(syllable);
}

static void
read_polyphones(CrmName *name)
{
	CrmNameToken *tokens = name->tokens;

	for (int i = 0; i + 1 < name->ntokens; i++)
	{
		const CrmHanReading *reading;

		if (tokens[i].script != CRM_SCRIPT_HAN || tokens[i + 1].script != CRM_SCRIPT_HAN ||
			!CRM_HAN_POLYPHONE(han_info(&tokens[i])))
			continue;
		reading = find_reading(crm_han_reading, crm_nhan_readings, tokens[i].simplified,
							   tokens[i + 1].simplified);
		if (reading)
		{
			set_syllable(&tokens[i], reading->first_syllable);
			set_syllable(&tokens[i + 1], reading->second_syllable);
		}
	}
	if (name->flags & CRM_NAME_IS_PERSON && CRM_HAN_POLYPHONE(han_info(&tokens[0])))
	{
		const CrmHanReading *reading =
			find_reading(crm_han_surname, crm_nhan_surnames, tokens[0].simplified, 0);

		if (reading && find_reading(crm_han_reading, crm_nhan_readings, tokens[0].simplified,
									tokens[1].simplified) == NULL)
			set_syllable(&tokens[0], reading->first_syllable);
	}
}

static void
mark_han(CrmName *name)
{
	CrmNameToken *tokens = name->tokens;
	int nhan = 0;
	int title = 0;

	for (int start = 0; start < name->ntokens;)
	{
		int end = start;

		while (end < name->ntokens && tokens[end].script == CRM_SCRIPT_HAN &&
			   ((tokens[end].flags ^ tokens[start].flags) & CRM_TOKEN_IN_PARENTHESES) == 0)
			end++;
		if (end == start)
		{
			start++;
			continue;
		}
		nhan += end - start;
		title = mark_han_run(name, start, end);
		start = end;
	}
	if (nhan == name->ntokens && nhan > title && nhan - title <= 3 && nhan >= 2 &&
		!(tokens[0].flags & CRM_TOKEN_IN_PARENTHESES))
	{
		int words = 0;

		for (int i = 0; i < nhan - title; i++)
			words += tokens[i].kind != CRM_NAME_CORE && tokens[i].kind != CRM_NAME_REGION;
		if (words == 0)
		{
			name->flags |= CRM_NAME_IS_PERSON;
			name->flags &= ~(uint32_t) CRM_NAME_HAS_REGION;
			for (int i = 0; i < nhan - title; i++)
				tokens[i].kind = CRM_NAME_CORE;
		}
	}
	read_polyphones(name);
}

/* ---- Latin words ---- */

static const CrmLatinWord *
latin_word(const char *text, size_t len)
{
	uint32_t hash = 2166136261u;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (unsigned char) text[i]) * 16777619u;
	for (uint32_t slot = hash & (crm_nlatin_slots - 1); crm_latin_slot[slot];
		 slot = (slot + 1) & (crm_nlatin_slots - 1))
	{
		const CrmLatinWord *word = &crm_latin_word[crm_latin_slot[slot]];

		if (word->len == len && memcmp(word->text, text, len) == 0)
			return word;
	}
	return NULL;
}

/* The entry for n tokens joined by spaces. */
static const CrmLatinWord *
latin_phrase(const CrmNameToken *tokens, int n)
{
	char text[CRM_NAME_MAX_WORD];
	size_t len = 0;

	for (int i = 0; i < n; i++)
	{
		if (len + tokens[i].len + 1 > sizeof(text))
			return NULL;
		if (i > 0)
			text[len++] = ' ';
		memcpy(text + len, tokens[i].text, tokens[i].len);
		len += tokens[i].len;
	}
	return latin_word(text, len);
}

static bool
is_syllable(const CrmNameToken *token)
{
	int low = 1, high = crm_nsyllables + 1;

	if (token->syllable)
		return true;
	while (low < high)
	{
		int middle = (low + high) / 2;
		int order = strncmp(crm_syllable[middle], token->text, token->len);

		if (order == 0 && crm_syllable[middle][token->len] != 0)
			order = 1;
		if (order == 0)
			return true;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

/*
 * Is this entry a legal form here?  "sa" and "ou" are legal forms and pinyin
 * syllables too: they are forms only beside something that is not pinyin, so
 * that the key of 欧 is not empty and a key in pinyin stays what it is.
 */
static bool
is_form(const CrmName *name, const CrmLatinWord *word, int from, int n)
{
	const CrmNameToken *tokens = name->tokens;

	if (word == NULL || word->kind != CRM_NAME_LEGAL_FORM)
		return false;
	if (word->script)
		for (int i = from; i < from + n; i++)
			if (tokens[i].script != word->script)
				return false;
	for (int i = from; i < from + n; i++)
		if (!is_syllable(&tokens[i]))
			return true;
	for (int i = 0; i < name->ntokens; i++)
		if (tokens[i].kind != CRM_NAME_LEGAL_FORM && !is_syllable(&tokens[i]))
			return true;
	return false;
}

/* The entries of all tokens, looked up once. */
typedef const CrmLatinWord *LatinWords[CRM_NAME_MAX_TOKENS];

static void
set_form(CrmName *name, const CrmLatinWord *word, int from, int n)
{
	mark(name->tokens, from, from + n, CRM_NAME_LEGAL_FORM);
	if (!(name->flags & CRM_NAME_HAS_LEGAL_FORM))
		name->legal_form = word->legal_form;
	name->flags |= CRM_NAME_HAS_LEGAL_FORM;
}

/* Marks the legal forms that end before tokens[end], leaving something before them. */
static void
mark_forms_before(CrmName *name, LatinWords words, int end)
{
	CrmNameToken *tokens = name->tokens;

	while (end > 1)
	{
		const CrmLatinWord *last = words[end - 1];
		int n;

		if (tokens[end - 1].kind == CRM_NAME_LEGAL_FORM)
		{
			end--;
			continue;
		}
		if (last == NULL || last->last_of == 0)
			break;
		for (n = last->last_of < end - 1 ? last->last_of : end - 1; n > 0; n--)
		{
			const CrmLatinWord *word = n == 1 ? last : latin_phrase(tokens + end - n, n);

			if (is_form(name, word, end - n, n))
			{
				set_form(name, word, end - n, n);
				break;
			}
		}
		if (n == 0)
			break;
		end -= n;
	}
}

static void
mark_latin_forms(CrmName *name, LatinWords words)
{
	CrmNameToken *tokens = name->tokens;
	int end = name->ntokens;
	int first = 0;

	mark_forms_before(name, words, end);
	/* "Foo Ltd (UK)": what is in parentheses at the end may follow the form. */
	while (end > 0 && (tokens[end - 1].flags & CRM_TOKEN_IN_PARENTHESES))
		end--;
	if (end > 1 && end < name->ntokens)
		mark_forms_before(name, words, end);

	/* Korean forms that are one syllable in parentheses: (주), (유). */
	for (int i = 0; i < name->ntokens; i++)
		if (tokens[i].script == CRM_SCRIPT_HANGUL && tokens[i].flags & CRM_TOKEN_IN_PARENTHESES &&
			tokens[i].len == 2 && name->ntokens > 1 &&
			(i == 0 || !(tokens[i - 1].flags & CRM_TOKEN_IN_PARENTHESES)) &&
			(i + 1 == name->ntokens || !(tokens[i + 1].flags & CRM_TOKEN_IN_PARENTHESES)) &&
			(memcmp(tokens[i].text, "ju", 2) == 0 || memcmp(tokens[i].text, "yu", 2) == 0))
		{
			const CrmLatinWord *word =
				latin_word(tokens[i].text[0] == 'j' ? "jusikhoesa" : "yuhanhoesa", 10);

			if (word)
				set_form(name, word, i, 1);
		}

	/* Forms that stand first, leaving something after them. */
	end = name->ntokens;
	while (first < end && tokens[first].kind == CRM_NAME_LEGAL_FORM)
		first++;
	while (end > 0 && tokens[end - 1].kind == CRM_NAME_LEGAL_FORM)
		end--;
	while (first + 1 < end)
	{
		const CrmLatinWord *head = words[first];
		int n;

		if (head == NULL || head->first_of == 0)
			break;
		n = end - first - 1;
		for (n = head->first_of < n ? head->first_of : n; n > 0; n--)
		{
			const CrmLatinWord *word = n == 1 ? head : latin_phrase(tokens + first, n);

			if (word && word->prefix && is_form(name, word, first, n))
			{
				set_form(name, word, first, n);
				break;
			}
		}
		if (n == 0)
			break;
		first += n;
	}
}

static void
mark_latin(CrmName *name)
{
	CrmNameToken *tokens = name->tokens;
	int last = name->ntokens;
	LatinWords words;

	for (int i = 0; i < name->ntokens; i++)
		words[i] = latin_word(tokens[i].text, tokens[i].len);
	mark_latin_forms(name, words);
	while (last > 0 && tokens[last - 1].kind == CRM_NAME_LEGAL_FORM)
		last--;
	for (int i = 0; i < name->ntokens;)
	{
		const CrmLatinWord *head, *word = NULL;
		int n;

		head = words[i];
		if (tokens[i].script == CRM_SCRIPT_HAN || tokens[i].kind != CRM_NAME_CORE || head == NULL)
		{
			i++;
			continue;
		}
		n = name->ntokens - i;
		for (n = head->first_of < n ? head->first_of : n; n > 0; n--)
		{
			word = n == 1 ? head : latin_phrase(tokens + i, n);
			if (word && word->kind != CRM_NAME_LEGAL_FORM &&
				(n == 1 || word->kind != CRM_NAME_CORE))
				break;
			word = NULL;
		}
		if (word == NULL)
		{
			/* A legal form out of its place stays in the key, but distinguishes nobody. */
			if (head->kind == CRM_NAME_LEGAL_FORM && head->len >= 3 && head->script == 0)
				tokens[i].kind = CRM_NAME_INDUSTRY;
			i++;
			continue;
		}
		if (word->canonical)
		{
			tokens[i].text = word->canonical;
			tokens[i].len = (uint8_t) strlen(word->canonical);
		}
		if (word->kind == CRM_NAME_REGION &&
			!(i == 0 || i + n == last || tokens[i].flags & CRM_TOKEN_IN_PARENTHESES))
		{
			i += n;
			continue;
		}
		if (word->kind != CRM_NAME_CORE)
			mark(tokens, i, i + n, word->kind);
		if (word->kind == CRM_NAME_BRANCH)
			name->flags |= CRM_NAME_HAS_BRANCH;
		else if (word->kind == CRM_NAME_REGION)
			name->flags |= CRM_NAME_HAS_REGION;
		else if (word->kind == CRM_NAME_GROUP)
			name->flags |= CRM_NAME_HAS_GROUP;
		i += n;
	}
}

CrmName *
crm_name_parse_into(const char *utf8, size_t len, CrmNameBuffer *buffer)
{
	Parser parser;
	CrmName *name = &buffer->name;
	bool han = false, other = false;

	memset(name, 0, sizeof(*name));
	name->tokens = buffer->tokens;
	parser.buffer = buffer;
	parser.name = name;
	parser.text_used = parser.key_used = parser.wordlen = 0;
	parser.parentheses = parser.segment = parser.nsymbols = 0;
	parser.glued = parser.full = parser.geminate = false;
	add_characters(&parser, (const unsigned char *) utf8, len, 0);
	if (name->ntokens == 0)
		for (int i = 0; i < parser.nsymbols; i++)
			add_number(&parser, parser.symbols[i]);

	for (int i = 0; i < name->ntokens; i++)
	{
		if (name->tokens[i].script == CRM_SCRIPT_HAN)
			han = true;
		else
			other = true;
	}
	if (han)
		mark_han(name);
	if (other)
		mark_latin(name);
	return name;
}

size_t
crm_name_write_key(const CrmName *name, char key[CRM_NAME_MAX_TEXT])
{
	size_t len = 0;
	bool only_forms = true;

	for (int i = 0; i < name->ntokens; i++)
		if (name->tokens[i].kind != CRM_NAME_LEGAL_FORM)
			only_forms = false;
	for (int i = 0; i < name->ntokens; i++)
	{
		const CrmNameToken *token = &name->tokens[i];

		if (token->kind == CRM_NAME_LEGAL_FORM && !only_forms)
			continue;
		/* An abbreviation spelled out may need more room than it was counted for. */
		if (len + token->len + 1 >= CRM_NAME_MAX_TEXT)
			break;
		if (len > 0)
			key[len++] = ' ';
		/* A syllable's text is eight bytes with its padding. */
		if (token->syllable && token->text == crm_syllable[token->syllable] &&
			len + 8 <= CRM_NAME_MAX_TEXT)
			memcpy(key + len, token->text, 8);
		else
			memcpy(key + len, token->text, token->len);
		len += token->len;
	}
	key[len] = 0;
	return len;
}
