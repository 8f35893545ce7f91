/*
 * match_cluster.c
 *		From pairs of records that seem to mean the same to groups of them.
 *
 * Following every pair chains strangers together: A is like B, B like C, and A
 * nothing like C.  So a component of pairs is only where to look.  Inside it
 * every two records are scored, and groups are joined, best first, as long as
 * the average score between their members is positive.  What people have said
 * comes first: records that are the same start in one group, however many they
 * are, and two that were told apart never meet in one.
 *
 * A component too large for that is cut by raising the score a pair needs,
 * until its parts are small enough.  Records that people say are the same count
 * as one in this: the one of the lowest id stands for them.
 *
 * Ties are broken by ids, so that the result does not depend on the order in
 * which records were read.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "match_scan.h"

#define LARGEST_COMPONENT 300
#define RAISE_BITS		  4.0f
#define MOST_RAISES		  8
#define MOST_SPEAKING	  100 /* of records that people say are the same */

typedef struct Member
{
	uint32 root;
	uint32 record;
	int64 id;
} Member;

typedef struct Clustering
{
	const MatchScan *scan;
	float threshold;
	uint32 *cluster;
	uint32 *position; /* of a record in the part at work */
	/* what people said */
	struct SameRecord *same; /* by id */
	uint32 nsame;
	IdPair *apart; /* both ways */
	uint32 napart;
} Clustering;

/* A record of which people say that it is the same as another. */
typedef struct SameRecord
{
	int64 id;
	uint32 record;
	uint32 parent; /* place of a lower one that is the same; its own if it stands for them */
	uint32 next;   /* place of another one that is the same; they go round */
	uint32 size;   /* of those that stand for others */
} SameRecord;

static uint32
crm_root(uint32 *parent, uint32 x)
{
	while (parent[x] != x)
	{
		parent[x] = parent[parent[x]];
		x = parent[x];
	}
	return x;
}

static int
crm_cmp_edge(const void *a, const void *b, void *arg)
{
	const MatchEdge *x = a, *y = b;
	const int64 *id = arg;

	if (x->bits != y->bits)
		return x->bits > y->bits ? -1 : 1;
	if (id[x->a] != id[y->a])
		return id[x->a] < id[y->a] ? -1 : 1;
	return id[x->b] < id[y->b] ? -1 : id[x->b] > id[y->b];
}

static int
crm_cmp_member(const void *a, const void *b)
{
	const Member *x = a, *y = b;

	if (x->root != y->root)
		return x->root < y->root ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

/* Log-odds of two members, the lower id first; a tax number of another firm rules both out. */
static float
crm_link(const MatchScan *scan, uint32 a, uint32 b)
{
	MatchScore score;

	if (crm_scan_apart(scan, a, b))
		return CANNOT_LINK_BITS;
	crm_match_score(&scan->scorer, crm_scan_record(scan, a), crm_scan_record(scan, b), &score);
	if (score.weight[FIELD_TAX_ID] < 0)
		return CONFLICT_BITS;
	return Max((float) score.bits, WORST_LINK_BITS);
}

/* The groups of a component, while they grow. */
typedef struct Groups
{
	int n;
	float *link; /* sum over the pairs of two groups */
	int *size;	 /* 0: joined to another */
	int *owner;	 /* of each member: its group */
} Groups;

/* Group x becomes part of group y. */
static void
crm_join(Groups *g, int x, int y)
{
	int n = g->n;

	for (int k = 0; k < n; k++)
	{
		g->link[y * n + k] += g->link[x * n + k];
		g->link[k * n + y] = g->link[y * n + k];
		if (g->owner[k] == x)
			g->owner[k] = y;
	}
	g->size[y] += g->size[x];
	g->size[x] = 0;
}

static int
crm_cmp_same(const void *a, const void *b)
{
	int64 x = ((const SameRecord *) a)->id, y = ((const SameRecord *) b)->id;

	return x < y ? -1 : x > y;
}

static int
crm_cmp_id_pair(const void *a, const void *b)
{
	const IdPair *x = a, *y = b;

	if (x->left != y->left)
		return x->left < y->left ? -1 : 1;
	return x->right < y->right ? -1 : x->right > y->right;
}

/* Who stands for a record of this id; NULL: itself alone. */
static SameRecord *
crm_stands_for(const Clustering *c, int64 id)
{
	SameRecord want = {.id = id};
	SameRecord *same =
		c->nsame == 0 ? NULL : bsearch(&want, c->same, c->nsame, sizeof(SameRecord), crm_cmp_same);

	while (same != NULL && same != &c->same[same->parent])
	{
		same->parent = c->same[same->parent].parent;
		same = &c->same[same->parent];
	}
	return same;
}

/* Did people tell records apart for which these two stand, whose ids are given? */
static bool
crm_told_apart(const Clustering *c, int64 x, int64 y)
{
	const SameRecord *few = crm_stands_for(c, x), *many = crm_stands_for(c, y), *member;

	if (c->napart == 0)
		return false;
	if (few == NULL || (many != NULL && many->size < few->size))
	{
		const SameRecord *swap = few;
		int64 id = x;

		few = many;
		many = swap;
		x = y;
		y = id;
	}
	if (few == NULL)
		return crm_ids_apart(c->scan, x, y);
	member = few;
	do
	{
		uint32 low = 0, high = c->napart;

		CHECK_FOR_INTERRUPTS();
		while (low < high)
		{
			uint32 mid = low + (high - low) / 2;

			if (c->apart[mid].left < member->id)
				low = mid + 1;
			else
				high = mid;
		}
		for (; low < c->napart && c->apart[low].left == member->id; low++)
			if (c->apart[low].right == y ||
				(many != NULL && crm_stands_for(c, c->apart[low].right) == many))
				return true;
		member = &c->same[member->next];
	} while (member != few);
	return false;
}

/* The records that speak for all that are the same as one: those of the lowest ids. */
static int
crm_speaking(const Clustering *c, uint32 record, uint32 speaking[MOST_SPEAKING])
{
	const SameRecord *first = crm_stands_for(c, c->scan->id[record]), *member = first;
	int n = 0;

	if (first == NULL)
	{
		speaking[0] = record;
		return 1;
	}
	do
	{
		speaking[n++] = member->record;
		member = &c->same[member->next];
	} while (member != first && n < MOST_SPEAKING);
	return n;
}

/* The sum of the links between the records for which two stand. */
static float
crm_links(const Clustering *c, uint32 x, uint32 y)
{
	const MatchScan *scan = c->scan;
	uint32 of_x[MOST_SPEAKING], of_y[MOST_SPEAKING];
	int nx, ny;
	float sum = 0;

	if (c->nsame == 0)
		return crm_link(scan, x, y) - c->threshold;
	if (crm_told_apart(c, scan->id[x], scan->id[y]))
		return CANNOT_LINK_BITS;
	nx = crm_speaking(c, x, of_x);
	ny = crm_speaking(c, y, of_y);
	for (int i = 0; i < nx; i++)
		for (int j = 0; j < ny; j++)
		{
			bool ordered = scan->id[of_x[i]] < scan->id[of_y[j]];

			CHECK_FOR_INTERRUPTS();
			sum += crm_link(scan, ordered ? of_x[i] : of_y[j], ordered ? of_y[j] : of_x[i]) -
				   c->threshold;
		}
	return sum;
}

/* Greedy average link among the n records of a component, and those for which they stand. */
static void
crm_split(Clustering *c, const Member *member, int n)
{
	Groups g = {n};

	g.link = palloc(sizeof(float) * n * n);
	g.size = palloc(sizeof(int) * n);
	g.owner = palloc(sizeof(int) * n);
	for (int i = 0; i < n; i++)
	{
		uint32 speaking[MOST_SPEAKING];

		g.size[i] = crm_speaking(c, member[i].record, speaking);
		g.owner[i] = i;
		g.link[i * n + i] = 0;
		for (int j = 0; j < i; j++)
			g.link[i * n + j] = g.link[j * n + i] =
				crm_links(c, member[j].record, member[i].record);
	}
	for (;;)
	{
		float best = 0;
		int x = -1, y = -1;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
			for (int j = 0; g.size[i] > 0 && j < i; j++)
				if (g.size[j] > 0)
				{
					float average = g.link[i * n + j] / ((float) g.size[i] * g.size[j]);

					if (average > best)
					{
						best = average;
						x = i;
						y = j;
					}
				}
		if (x < 0)
			break;
		crm_join(&g, x, y);
	}
	for (int i = 0; i < n; i++)
		c->cluster[member[i].record] = member[g.owner[i]].record;
	pfree(g.link);
	pfree(g.size);
	pfree(g.owner);
}

/* The components that edges of at least the needed score make of some records. */
static void
crm_cluster_part(Clustering *c, const uint32 *record, uint32 n, const MatchEdge *edge,
				 uint32 nedges, float needed, int depth)
{
	uint32 *parent = palloc_extended(sizeof(uint32) * (Size) n, MCXT_ALLOC_HUGE);
	Member *member = palloc_extended(sizeof(Member) * (Size) n, MCXT_ALLOC_HUGE);

	for (uint32 i = 0; i < n; i++)
	{
		parent[i] = i;
		c->position[record[i]] = i;
	}
	for (uint32 i = 0; i < nedges && edge[i].bits >= needed; i++)
	{
		uint32 a = crm_root(parent, c->position[edge[i].a]);
		uint32 b = crm_root(parent, c->position[edge[i].b]);

		if (a != b)
			parent[Max(a, b)] = Min(a, b);
	}
	for (uint32 i = 0; i < n; i++)
	{
		member[i].root = crm_root(parent, i);
		member[i].record = record[i];
		member[i].id = c->scan->id[record[i]];
	}
	qsort(member, n, sizeof(Member), crm_cmp_member);
	for (uint32 i = 0; i < n;)
	{
		uint32 j = i;

		while (j < n && member[j].root == member[i].root)
			j++;
		if (j - i == 2 && c->nsame == 0 && c->scan->napart == 0)
		{
			/* Two, and an edge between them. */
			if (crm_link(c->scan, member[i].record, member[i + 1].record) > c->threshold)
				c->cluster[member[i + 1].record] = member[i].record;
		}
		else if (j - i <= LARGEST_COMPONENT)
			crm_split(c, member + i, (int) (j - i));
		else if (depth == MOST_RAISES)
		{
			/* All of them alike beyond doubt. */
			for (uint32 k = i; k < j; k += LARGEST_COMPONENT)
				crm_split(c, member + k, (int) Min(LARGEST_COMPONENT, j - k));
		}
		else
		{
			uint32 *inner = palloc_extended(sizeof(uint32) * (Size) (j - i), MCXT_ALLOC_HUGE);
			MatchEdge *inside = palloc_extended(sizeof(MatchEdge) * (Size) nedges, MCXT_ALLOC_HUGE);
			uint32 ninside = 0, root = member[i].root;

			for (uint32 k = 0; k < nedges; k++)
				if (crm_root(parent, c->position[edge[k].a]) == root &&
					crm_root(parent, c->position[edge[k].b]) == root)
					inside[ninside++] = edge[k];
			for (uint32 k = i; k < j; k++)
				inner[k - i] = member[k].record;
			crm_cluster_part(c, inner, j - i, inside, ninside, needed + RAISE_BITS, depth + 1);
			/* The positions are this part's again. */
			for (uint32 k = i; k < j; k++)
				c->position[member[k].record] = root;
			pfree(inside);
			pfree(inner);
		}
		i = j;
	}
	pfree(member);
	pfree(parent);
}

/* The records of which people say that they are the same as another, each by itself yet. */
static void
crm_same_records(Clustering *c, const MatchEdge *must, uint32 nmust)
{
	uint32 n = 0;

	c->same = palloc_extended(sizeof(SameRecord) * 2 * (Size) nmust, MCXT_ALLOC_HUGE);
	for (uint32 i = 0; i < nmust; i++)
		for (int side = 0; side < 2; side++)
		{
			c->same[n].record = side == 0 ? must[i].a : must[i].b;
			c->same[n].id = c->scan->id[c->same[n].record];
			n++;
		}
	qsort(c->same, n, sizeof(SameRecord), crm_cmp_same);
	for (uint32 i = 0; i < n; i++)
		if (c->nsame == 0 || c->same[c->nsame - 1].id != c->same[i].id)
			c->same[c->nsame++] = c->same[i];
	for (uint32 i = 0; i < c->nsame; i++)
	{
		c->same[i].parent = c->same[i].next = i;
		c->same[i].size = 1;
	}
	n = c->scan->napart;
	c->apart = palloc_extended(sizeof(IdPair) * Max(2 * (Size) n, 1), MCXT_ALLOC_HUGE);
	for (uint32 i = 0; i < n; i++)
	{
		IdPair pair = c->scan->apart[i];

		c->apart[c->napart++] = pair;
		c->apart[c->napart].left = pair.right;
		c->apart[c->napart++].right = pair.left;
	}
	qsort(c->apart, c->napart, sizeof(IdPair), crm_cmp_id_pair);
}

/*
 * Joins the records that people say are the same, unless others said of some of
 * them that they are not, who are believed.
 */
static void
crm_join_same(Clustering *c, const MatchEdge *must, uint32 nmust)
{
	const int64 *id = c->scan->id;

	crm_same_records(c, must, nmust);
	for (uint32 i = 0; i < nmust; i++)
	{
		SameRecord *x = crm_stands_for(c, id[must[i].a]), *y = crm_stands_for(c, id[must[i].b]);
		SameRecord *low = x->id < y->id ? x : y, *high = low == x ? y : x;
		uint32 next = low->next;

		CHECK_FOR_INTERRUPTS();
		if (x == y || crm_told_apart(c, x->id, y->id))
			continue;
		high->parent = low->parent;
		low->size += high->size;
		low->next = high->next;
		high->next = next;
	}
	/* From now on they go round in the order of their ids. */
	for (uint32 i = 0; i < c->nsame; i++)
		c->same[i].next = i;
	for (uint32 i = c->nsame; i-- > 0;)
	{
		SameRecord *first = crm_stands_for(c, c->same[i].id);

		if (first != &c->same[i])
		{
			c->same[i].next = first->next;
			first->next = i;
		}
	}
}

/* The edges between the records that stand for others; returns how many there are. */
static uint32
crm_edges_between(const Clustering *c, MatchEdge *edge, uint32 nedges)
{
	uint32 n = 0;

	for (uint32 i = 0; i < nedges; i++)
	{
		const SameRecord *a = crm_stands_for(c, c->scan->id[edge[i].a]);
		const SameRecord *b = crm_stands_for(c, c->scan->id[edge[i].b]);
		MatchEdge e = {a != NULL ? a->record : edge[i].a, b != NULL ? b->record : edge[i].b,
					   edge[i].bits};

		if (e.a != e.b)
			edge[n++] = e;
	}
	return n;
}

uint32 *
crm_match_clusters(const MatchScan *scan, const MatchEdge *found, uint32 nfound,
				   const MatchEdge *must, uint32 nmust, float threshold)
{
	Size n = Max((Size) scan->nrecords, 1);
	Clustering c = {.scan = scan, .threshold = threshold};
	uint32 nedges = nfound + nmust, nrecords = 0;
	MatchEdge *edge = palloc_extended(sizeof(MatchEdge) * Max((Size) nedges, 1), MCXT_ALLOC_HUGE);
	uint32 *record = palloc_extended(sizeof(uint32) * Max((Size) nedges * 2, 1), MCXT_ALLOC_HUGE);

	c.cluster = palloc_extended(sizeof(uint32) * n, MCXT_ALLOC_HUGE);
	c.position = palloc_extended(sizeof(uint32) * n, MCXT_ALLOC_HUGE);
	for (uint32 i = 0; i < scan->nrecords; i++)
	{
		c.cluster[i] = i;
		c.position[i] = UINT32_MAX;
	}
	if (nfound > 0)
		memcpy(edge, found, sizeof(MatchEdge) * (Size) nfound);
	if (nmust > 0)
	{
		crm_join_same(&c, must, nmust);
		memcpy(edge + nfound, must, sizeof(MatchEdge) * (Size) nmust);
		nedges = crm_edges_between(&c, edge, nedges);
	}
	for (uint32 i = 0; i < nedges; i++)
		for (int side = 0; side < 2; side++)
		{
			uint32 r = side == 0 ? edge[i].a : edge[i].b;

			if (c.position[r] == UINT32_MAX)
			{
				c.position[r] = 0;
				record[nrecords++] = r;
			}
		}
	qsort_arg(edge, nedges, sizeof(MatchEdge), crm_cmp_edge, scan->id);
	crm_cluster_part(&c, record, nrecords, edge, nedges, threshold, 0);
	for (uint32 i = 0; i < c.nsame; i++)
	{
		const SameRecord *first = crm_stands_for(&c, c.same[i].id);

		c.cluster[c.same[i].record] = c.cluster[first->record];
	}
	if (nmust > 0)
	{
		pfree(c.same);
		pfree(c.apart);
	}
	pfree(c.position);
	pfree(record);
	pfree(edge);
	return c.cluster;
}
