/*
 * match_order.h
 *		Grams and keys of a record in the order of their hashes, each once.
 */
#ifndef CRM_MATCH_ORDER_H
#define CRM_MATCH_ORDER_H

#include "match.h"

#define ST_SORT			 crm_sort_uint64
#define ST_ELEMENT_TYPE	 uint64
#define ST_COMPARE(a, b) (*(a) < *(b) ? -1 : *(a) > *(b))
#define ST_SCOPE		 static
#define ST_DEFINE
#include "lib/sort_template.h"

#define ST_SORT			 crm_sort_match_keys
#define ST_ELEMENT_TYPE	 MatchKey
#define ST_COMPARE(a, b) ((a)->hash < (b)->hash ? -1 : (a)->hash > (b)->hash)
#define ST_SCOPE		 static
#define ST_DEFINE
#include "lib/sort_template.h"

#define FEW 32

/*
 * Puts each where it belongs: so few are compared each with each other sooner than
 * a sort guesses wrong which of two is less.
 */
static void
crm_sort_few(uint64 *x, int n)
{
	uint64 from[FEW];
	uint8 less[FEW] = {0};

	for (int i = 0; i < n; i++)
	{
		int before = 0;

		from[i] = x[i];
		for (int j = 0; j < i; j++)
		{
			bool after = from[j] > from[i];

			less[j] += after;
			before += !after;
		}
		less[i] = (uint8) before;
	}
	for (int i = 0; i < n; i++)
		x[less[i]] = from[i];
}

/* Of keys with one hash the first stays, where there are few.  Returns how many are left. */
static int
crm_order_keys(MatchKey *key, int n)
{
	uint64 order[FEW];
	MatchKey from[FEW];
	int left = 0;

	if (n < 2)
		return n;
	if (n > FEW)
		crm_sort_match_keys(key, n);
	else
	{
		for (int i = 0; i < n; i++)
			order[i] = (uint64) key[i].hash << 32 | i;
		memcpy(from, key, sizeof(MatchKey) * n);
		crm_sort_few(order, n);
		for (int i = 0; i < n; i++)
			key[i] = from[(uint32) order[i]];
	}
	for (int i = 0; i < n; i++)
		if (left == 0 || key[left - 1].hash != key[i].hash)
			key[left++] = key[i];
	return left;
}

static int
crm_order_grams(uint32 *gram, uint8 *bits, int n)
{
	uint64 both[MATCH_MAX_GRAMS];
	int left = 0;

	if (n < 2)
		return n;
	for (int i = 0; i < n; i++)
		both[i] = ((uint64) gram[i] << 8) | bits[i];
	if (n > FEW)
		crm_sort_uint64(both, n);
	else
		crm_sort_few(both, n);
	for (int i = 0; i < n; i++)
	{
		if (left > 0 && gram[left - 1] == (uint32) (both[i] >> 8))
			continue;
		gram[left] = (uint32) (both[i] >> 8);
		bits[left++] = (uint8) both[i];
	}
	return left;
}

#endif /* CRM_MATCH_ORDER_H */
