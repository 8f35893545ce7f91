/*
 * name.h
 *		Names of people and companies: parsing, matching keys, similarity.
 *
 * The core (name_parse.c, name_similarity.c, the generated name_tables.c) is
 * pure: it allocates nothing, knows no backend, and writes into buffers of
 * fixed size that its caller provides.  name.c adds what needs the backend.
 *
 * Vocabulary.  A name is a sequence of tokens.  A Han character is one token,
 * spelled as its toneless pinyin syllable; a word in any other script is one
 * token, spelled in Latin letters.  The key of a name is its tokens joined by
 * single spaces, legal forms left out.  A name longer than
 * CRM_NAME_MAX_TOKENS tokens or CRM_NAME_MAX_TEXT bytes is cut there, so that
 * parsing is bounded and a key always fits into a btree entry.
 */
#ifndef CRM_NAME_H
#define CRM_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CRM_NAME_MAX_TOKENS 256
#define CRM_NAME_MAX_TEXT	2048 /* bytes of key, terminator included */
#define CRM_NAME_MAX_WORD	64	 /* bytes of a token; longer words are cut into several */

/* What a token says about the firm.  The order is not significant. */
typedef enum CrmNameKind
{
	CRM_NAME_CORE,		 /* distinguishes this firm or person */
	CRM_NAME_LEGAL_FORM, /* Ltd, GmbH, 有限公司: not in the key */
	CRM_NAME_BRANCH,	 /* marks a part of a firm: 分公司, 支行, branch */
	CRM_NAME_REGION,	 /* 上海, 平远县, (China) */
	CRM_NAME_GROUP,		 /* 集团, group, holdings */
	CRM_NAME_INDUSTRY	 /* 科技, 贸易, technology, and words as empty as "the" */
} CrmNameKind;

typedef enum CrmScript
{
	CRM_SCRIPT_OTHER,
	CRM_SCRIPT_LATIN,
	CRM_SCRIPT_DIGITS,
	CRM_SCRIPT_HAN,
	CRM_SCRIPT_KANA,
	CRM_SCRIPT_HANGUL,
	CRM_SCRIPT_CYRILLIC,
	CRM_SCRIPT_GREEK
} CrmScript;

/* CrmNameToken.flags */
#define CRM_TOKEN_IN_PARENTHESES 0x01
#define CRM_TOKEN_GLUED			 0x02 /* nothing but other tokens' characters before it: no space */
#define CRM_TOKEN_WORD_START	 0x04 /* first token of a dictionary word such as 科技 */

typedef struct CrmNameToken
{
	const char *text;	 /* ASCII, lower case, not terminated */
	uint8_t len;		 /* 1 .. CRM_NAME_MAX_WORD */
	uint8_t kind;		 /* CrmNameKind */
	uint8_t script;		 /* CrmScript of the source; digits only if all are digits */
	uint8_t flags;		 /* CRM_TOKEN_* */
	uint16_t syllable;	 /* Han: number of the pinyin syllable, 1 .. crm_name_syllables(); else 0 */
	uint32_t source;	 /* Han: the code point as written; else the first of the word */
	uint32_t simplified; /* Han: its simplified form; else 0 */
} CrmNameToken;

/* CrmName.flags */
#define CRM_NAME_HAS_LEGAL_FORM 0x01
#define CRM_NAME_HAS_BRANCH		0x02
#define CRM_NAME_HAS_REGION		0x04
#define CRM_NAME_HAS_GROUP		0x08
#define CRM_NAME_IS_PERSON		0x10 /* Han only, as short as a person's name, no company word */
#define CRM_NAME_TRUNCATED		0x20 /* cut at CRM_NAME_MAX_TOKENS or CRM_NAME_MAX_TEXT */

typedef struct CrmName
{
	uint16_t ntokens;
	uint16_t legal_form; /* the last one; 0 = none; equal forms written differently are equal */
	uint32_t flags;		 /* CRM_NAME_* */
	CrmNameToken *tokens;
} CrmName;

/* Room for one parsed name; about 10 kB, on the stack where that is fine. */
typedef struct CrmNameBuffer
{
	CrmName name;
	CrmNameToken tokens[CRM_NAME_MAX_TOKENS];
	char text[CRM_NAME_MAX_TEXT];
} CrmNameBuffer;

/*
 * Parses any bytes; those that are not UTF-8 separate words.  The result
 * points into *buffer, which must not move.
 */
extern CrmName *crm_name_parse_into(const char *utf8, size_t len, CrmNameBuffer *buffer);

/* Writes the key and a terminator; returns its length without the terminator. */
extern size_t crm_name_write_key(const CrmName *name, char key[CRM_NAME_MAX_TEXT]);

/* 0 (nothing in common) to 1 (equal keys); symmetric. */
extern float crm_name_compare(const CrmName *a, const CrmName *b);

/* "gmbh" for 1 .. ; NULL for 0 and unknown numbers. */
extern const char *crm_name_legal_form(uint16_t legal_form);
extern uint16_t crm_name_syllables(void);
/* Simplified form of a code point, or itself. */
extern uint32_t crm_simplify(uint32_t codepoint);

/* With the backend: results are palloc'd in the current memory context. */
extern CrmName *crm_name_parse(const char *utf8, size_t len);
extern char *crm_name_key(const char *utf8, size_t len, size_t *outlen);
extern float crm_name_similarity(const char *a, size_t alen, const char *b, size_t blen);

/* unicode.c: NFKC casefold and Traditional to Simplified; palloc'd UTF-8, terminated. */
extern char *crm_fold(const char *utf8, size_t len, size_t *outlen);

#endif /* CRM_NAME_H */
