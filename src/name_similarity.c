/*
 * name_similarity.c
 *		How alike two names are, without knowledge of other names.  Pure.
 *
 * Every token weighs what its kind says about identity.  Tokens of one name
 * are paired with tokens of the other, the most alike first, and the result is
 * the weight of what is paired over the weight of all (Dice).  Han characters
 * pair when they sound alike; words when few letters differ.
 */
#include <string.h>

#include "name.h"

#define MAX_COMPARED 64 /* tokens of a name that take part; a name has rarely 20 */

static const float kind_weight[] = {1.0f, 0.0f, 0.5f, 0.4f, 0.3f, 0.35f};

static float
token_weight(const CrmNameToken *token)
{
	float weight = kind_weight[token->kind];

	if (token->script != CRM_SCRIPT_HAN && token->len > 1)
		weight *= 2.0f;
	return weight;
}

/* Letters in common, in order, with at most a short shift: Dice of the common bigrams and ends. */
static float
word_similarity(const CrmNameToken *a, const CrmNameToken *b)
{
	int row[CRM_NAME_MAX_WORD + 1];
	int longest;

	if (a->len == b->len && memcmp(a->text, b->text, a->len) == 0)
		return 1.0f;
	if (a->len < 3 || b->len < 3)
		return 0.0f;
	longest = a->len > b->len ? a->len : b->len;
	for (int j = 0; j <= b->len; j++)
		row[j] = j;
	for (int i = 1; i <= a->len; i++)
	{
		int diagonal = row[0];

		row[0] = i;
		for (int j = 1; j <= b->len; j++)
		{
			int cost = diagonal + (a->text[i - 1] != b->text[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < cost)
				cost = row[j] + 1;
			if (row[j - 1] + 1 < cost)
				cost = row[j - 1] + 1;
			row[j] = cost;
		}
	}
	return row[b->len] * 3 > longest ? 0.0f : 1.0f - (float) row[b->len] / longest;
}

float
crm_name_compare(const CrmName *a, const CrmName *b)
{
	char akey[CRM_NAME_MAX_TEXT], bkey[CRM_NAME_MAX_TEXT];
	float total = 0, common = 0;
	bool taken[MAX_COMPARED] = {false};
	int na = a->ntokens < MAX_COMPARED ? a->ntokens : MAX_COMPARED;
	int nb = b->ntokens < MAX_COMPARED ? b->ntokens : MAX_COMPARED;
	size_t alen = crm_name_write_key(a, akey), blen = crm_name_write_key(b, bkey);

	if (alen == 0 || blen == 0)
		return 0.0f;
	if (alen == blen && memcmp(akey, bkey, alen) == 0)
		return 1.0f;
	for (int i = 0; i < na; i++)
		total += token_weight(&a->tokens[i]);
	for (int j = 0; j < nb; j++)
		total += token_weight(&b->tokens[j]);
	for (int i = 0; i < na; i++)
	{
		float best = 0;
		int which = -1;

		if (a->tokens[i].kind == CRM_NAME_LEGAL_FORM)
			continue;
		for (int j = 0; j < nb; j++)
		{
			float similarity;

			if (taken[j] || b->tokens[j].kind == CRM_NAME_LEGAL_FORM)
				continue;
			similarity = word_similarity(&a->tokens[i], &b->tokens[j]);
			if (similarity > best)
			{
				best = similarity;
				which = j;
			}
		}
		if (which >= 0)
		{
			taken[which] = true;
			common += best * (token_weight(&a->tokens[i]) + token_weight(&b->tokens[which]));
		}
	}
	if (total <= 0 || common >= total)
		return total <= 0 ? 0.0f : 0.999f;
	return common / total;
}
