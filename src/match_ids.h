/*
 * match_ids.h
 *		Sets of ids, of which neighbours mostly come together.
 */
#ifndef CRM_MATCH_IDS_H
#define CRM_MATCH_IDS_H

#include "utils/palloc.h"

#include "match_scan.h"

/* Ids, 64 neighbours in a place. */
typedef struct IdPlace
{
	uint64 high;
	uint64 bits; /* 0 = free */
} IdPlace;

typedef struct IdSet
{
	IdPlace *place;
	uint32 mask;
	uint32 used;
} IdSet;

static inline void
crm_ids_init(IdSet *set, uint32 size)
{
	set->place = palloc_extended(sizeof(IdPlace) * (Size) size, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	set->mask = size - 1;
	set->used = 0;
}

static inline IdPlace *
crm_ids_place(const IdSet *set, uint64 high)
{
	uint32 i = crm_hash64(high) & set->mask;

	while (set->place[i].bits != 0 && set->place[i].high != high)
		i = (i + 1) & set->mask;
	return &set->place[i];
}

static inline void
crm_ids_add(IdSet *set, uint64 high, uint64 bits)
{
	IdPlace *place = crm_ids_place(set, high);

	if (place->bits == 0)
	{
		if (set->used > set->mask / 2)
		{
			IdSet old = *set;

			crm_ids_init(set, (old.mask + 1) * 2);
			for (uint32 i = 0; i <= old.mask; i++)
				if (old.place[i].bits != 0)
					*crm_ids_place(set, old.place[i].high) = old.place[i];
			set->used = old.used;
			pfree(old.place);
			place = crm_ids_place(set, high);
		}
		set->used++;
		place->high = high;
	}
	place->bits |= bits;
}

static inline bool
crm_ids_have(const IdSet *set, int64 id)
{
	return (crm_ids_place(set, (uint64) id >> 6)->bits & (UINT64CONST(1) << (id & 63))) != 0;
}

#endif /* CRM_MATCH_IDS_H */
