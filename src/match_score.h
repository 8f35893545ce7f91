/*
 * match_score.h
 *		What the files that weigh pairs of records share.
 */
#ifndef CRM_MATCH_SCORE_H
#define CRM_MATCH_SCORE_H

#include "match.h"

static inline double
crm_item_bits(const MatchRecord *a, const MatchRecord *b, MatchItem item)
{
	/* Both carry the rarity of the same value, but for outlines and what older statistics weighed.
	 */
	return (double) Min(a->item_bits[item], b->item_bits[item]) / MATCH_BITS_SCALE;
}

static inline bool
crm_both(const MatchRecord *a, const MatchRecord *b, MatchItem item)
{
	return a->item[item] != 0 && b->item[item] != 0;
}

static inline bool
crm_same(const MatchRecord *a, const MatchRecord *b, MatchItem item)
{
	return a->item[item] != 0 && a->item[item] == b->item[item];
}

static inline void
crm_say(MatchScore *score, MatchField field, MatchLevel level, double weight)
{
	score->weight[field] = weight;
	score->level[field] = (uint8) level;
}

static inline double
crm_level_weight(const MatchModel *model, MatchLevel level, double evidence)
{
	return model->level[level].weight + model->level[level].rarity * evidence;
}

static inline void
crm_say_level(MatchScore *score, const MatchModel *model, MatchField field, MatchLevel level,
			  double evidence)
{
	crm_say(score, field, level, crm_level_weight(model, level, evidence));
}

static inline double
crm_clamp(double x, double low, double high)
{
	return x < low ? low : x > high ? high : x;
}

/* What a level can weigh with evidence of at most so many bits. */
static inline double
crm_most(const MatchModel *model, MatchLevel level, double evidence)
{
	return model->level[level].weight + Max(model->level[level].rarity, 0) * Max(evidence, 0);
}

static inline bool
crm_named(const MatchRecord *r)
{
	return r->item[ITEM_GIVEN_NAME] != 0 || r->item[ITEM_FAMILY_NAME] != 0;
}

#define CONTACT_MOST 14.0 /* bits that the person adds to a company */

/* match_person.c */
extern void crm_score_person(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
							 bool company, MatchScore *score);
extern void crm_score_generation(const MatchScorer *scorer, const MatchRecord *a,
								 const MatchRecord *b, MatchScore *score);
extern void crm_score_birth_date(const MatchScorer *scorer, const MatchRecord *a,
								 const MatchRecord *b, MatchScore *score);
/* What crm_score_person() can say at most. */
extern double crm_most_person(const MatchScorer *scorer, const MatchRecord *a, const MatchRecord *b,
							  bool company);
/* A local part of nothing but the person's names and numbers: namesakes choose the same. */
extern bool crm_email_named(const MatchRecord *r, const MatchRecord *person);

#endif /* CRM_MATCH_SCORE_H */
