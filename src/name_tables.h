/*
 * name_tables.h
 *		What scripts/names/generate writes into name_tables.c.
 */
#ifndef CRM_NAME_TABLES_H
#define CRM_NAME_TABLES_H

#include <stddef.h>
#include <stdint.h>

/*
 * Characters other than Han and Hangul syllables, below U+20000, in two
 * stages.  Values from CRM_CHAR_RECORD on are offsets into crm_char_record:
 * script, length, bytes.  Script CRM_CHAR_EXPAND means that the bytes are
 * UTF-8 to be parsed in place of the character (㈱ is （株）).
 */
#define CRM_CHAR_SEPARATOR	0
#define CRM_CHAR_IGNORE		1 /* marks, apostrophes, invisible characters */
#define CRM_CHAR_SYMBOL		2 /* separates, but names a firm that has nothing else */
#define CRM_CHAR_UNREADABLE 3 /* a letter without a Latin reading: spelled as its number */
#define CRM_CHAR_RECORD		4
#define CRM_CHAR_EXPAND		15
extern const uint16_t crm_char_page[];
extern const uint16_t crm_char_value[][128];
extern const uint8_t crm_char_record[];

/* Two characters read together: き + ゃ, и + breve, ο + υ; ordered. */
typedef struct CrmPair
{
	uint16_t first;
	uint16_t second;
	uint16_t value;
} CrmPair;
extern const CrmPair crm_pair[];
extern const int crm_npairs;

typedef struct CrmWideChar
{
	uint32_t codepoint;
	uint16_t value;
} CrmWideChar;
extern const CrmWideChar crm_wide_char[];
extern const int crm_nwide_chars;

/* Han: U+3400 to U+9FFF directly, the rest by binary search. */
#define CRM_HAN_FIRST			0x3400
#define CRM_HAN_LAST			0x9FFF
#define CRM_HAN_SYLLABLE(info)	((info) &0x1FF)
#define CRM_HAN_POLYPHONE(info) ((info) &0x200) /* has entries in crm_han_reading or _surname */
#define CRM_HAN_WORDS(info)		((info) >> 10)	/* 1 + its place in crm_han_word_head; 0 = none */
extern const uint16_t crm_han_simplified[];
extern const uint32_t crm_han_info[];
typedef struct CrmWideHan
{
	uint32_t codepoint;
	uint32_t simplified;
	uint16_t syllable;
} CrmWideHan;
extern const CrmWideHan crm_wide_han[];
extern const int crm_nwide_han;
/* A syllable ends in zeros; its eighth byte is its length. */
#define CRM_SYLLABLE_LEN(n) ((uint8_t) crm_syllable[n][7])
extern const char crm_syllable[][8];
extern const int crm_nsyllables;

/* Readings within a word of two characters; as a surname second is 0. */
typedef struct CrmHanReading
{
	uint16_t first;
	uint16_t second;
	uint16_t first_syllable;
	uint16_t second_syllable;
} CrmHanReading;
extern const CrmHanReading crm_han_reading[];
extern const int crm_nhan_readings;
extern const CrmHanReading crm_han_surname[];
extern const int crm_nhan_surnames;

/* Words of simplified Han, by first character, the longest first. */
#define CRM_HAN_ANYWHERE	   0
#define CRM_HAN_AT_END		   1
#define CRM_HAN_IN_PARENTHESES 2
typedef struct CrmHanWord
{
	uint16_t text; /* where in crm_han_word_text */
	uint8_t len;
	uint8_t kind;
	uint8_t place;
	uint16_t legal_form;
} CrmHanWord;
extern const uint16_t crm_han_word_text[];
extern const CrmHanWord crm_han_word[];
extern const uint16_t crm_han_word_head[];

extern const char *const crm_legal_form_name[];
extern const int crm_nlegal_forms;
extern const uint16_t crm_form_youxian;
extern const uint16_t crm_form_gufen;

/*
 * Latin words and phrases, in a hash table (FNV-1a, linear probing) of places
 * in crm_latin_word, 0 = empty.  A word that only begins or ends phrases has
 * kind CRM_NAME_CORE.
 */
typedef struct CrmLatinWord
{
	const char *text;
	uint8_t len;
	uint8_t kind;
	uint8_t prefix;	  /* a legal form that also stands first */
	uint8_t script;	  /* only when written in this CrmScript; 0 = in any */
	uint8_t first_of; /* words of the longest phrase that it begins */
	uint8_t last_of;  /* words of the longest phrase that it ends */
	uint16_t legal_form;
	const char *canonical; /* what the key spells instead */
} CrmLatinWord;
extern const CrmLatinWord crm_latin_word[];
extern const uint16_t crm_latin_slot[];
extern const int crm_nlatin_slots;

#endif /* CRM_NAME_TABLES_H */
