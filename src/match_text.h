/*
 * match_text.h
 *		Values brought to the form in which they are compared.
 *
 * Pure: nothing is allocated, nothing raises, so that an index may call it and
 * a policy may trust it.  Stricter parsers (email.h, phone.h, uscc.h) say what
 * is valid; these say what is the same, and never refuse.
 */
#ifndef CRM_MATCH_TEXT_H
#define CRM_MATCH_TEXT_H

#include "match.h"
#include "name.h"

#define MATCH_EMAIL_MAX 320

typedef struct MatchEmail
{
	char address[MATCH_EMAIL_MAX]; /* lower case; Gmail's dots and tags left out */
	int length;
	int local_length;
	char domain[MATCH_EMAIL_MAX]; /* registrable; empty if a free-mail provider's */
	int domain_length;
} MatchEmail;

/* The national number, at most ten digits, without extension; 0 if fewer than six or all the same.
 */
extern size_t crm_match_phone(const char *data, size_t len, char out[MATCH_TEXT_MAX]);
extern bool crm_match_email(const char *data, size_t len, MatchEmail *out);
extern bool crm_match_website(const char *data, size_t len, MatchEmail *out);
/* Letters and digits of ASCII, in upper case. */
extern size_t crm_match_alnum(const char *data, size_t len, char *out, size_t size);
extern bool crm_match_uscc_valid(const char *text, size_t len);
/* yyyymmdd of "2001-02-03" or "20010203"; 0 if it is no date. */
extern int32 crm_match_date(const char *data, size_t len);
/* "n/a", "none", "-", 无, 未知: words people write where a value should be. */
extern bool crm_match_is_placeholder(const char *data, size_t len);
/* How many tokens at the end are a title: 陈总, 王女士, 经理. */
extern int crm_match_title_tokens(const CrmName *name);
extern bool crm_match_is_place_suffix(const CrmNameToken *token);

/* Jaro-Winkler similarity, 0 .. 1. */
extern double crm_match_jaro_winkler(const char *a, int alen, const char *b, int blen);
/* Optimal string alignment distance (a swap of neighbours is one), at most max + 1. */
extern int crm_match_edits(const char *a, int alen, const char *b, int blen, int max);

#endif /* CRM_MATCH_TEXT_H */
