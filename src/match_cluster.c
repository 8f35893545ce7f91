/*
 * match_cluster.c
 *		From pairs of records that seem to mean the same to groups of them.
 *
 * Following every pair chains strangers together: A is like B, B like C, and A
 * nothing like C.  So a component of pairs is only where to look.  Inside it
 * every two records are scored, and groups are joined, best first, as long as
 * the average score between their members is positive.  What people have said
 * comes first: two records that are the same start in one group, and two that
 * were told apart never meet in one.
 *
 * A component too large for that is cut by raising the score a pair needs,
 * until its parts are small enough.
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

typedef struct Clustering
{
	const MatchScan *scan;
	float threshold;
	const MatchEdge *must; /* by ids; the lower one is a */
	uint32 nmust;
	int *place; /* of a record in its component */
	uint32 *cluster;
	uint32 *position; /* of a record in the part at work */
} Clustering;

typedef struct Member
{
	uint32 root;
	uint32 record;
	int64 id;
} Member;

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

/* Joins the members that people say are the same. */
static void
crm_join_same(Clustering *c, Groups *g, const Member *member)
{
	const int64 *id = c->scan->id;

	for (int i = 0; i < g->n; i++)
		c->place[member[i].record] = i;
	for (int i = 0; i < g->n; i++)
	{
		uint32 low = 0, high = c->nmust;

		while (low < high)
		{
			uint32 mid = low + (high - low) / 2;

			if (id[c->must[mid].a] < member[i].id)
				low = mid + 1;
			else
				high = mid;
		}
		for (; low < c->nmust && id[c->must[low].a] == member[i].id; low++)
		{
			int other = c->place[c->must[low].b], x, y;

			/* It may stand in another piece of a component too large for one. */
			if (other >= g->n || member[other].record != c->must[low].b)
				continue;
			x = g->owner[i];
			y = g->owner[other];
			/* Whoever said that two are not the same is believed. */
			if (x != y && g->link[x * g->n + y] > CANNOT_LINK_BITS / 2)
				crm_join(g, Max(x, y), Min(x, y));
		}
	}
}

/* Greedy average link among the n records of a component. */
static void
crm_split(Clustering *c, const Member *member, int n)
{
	Groups g = {n};

	g.link = palloc(sizeof(float) * n * n);
	g.size = palloc(sizeof(int) * n);
	g.owner = palloc(sizeof(int) * n);
	for (int i = 0; i < n; i++)
	{
		g.size[i] = 1;
		g.owner[i] = i;
		g.link[i * n + i] = 0;
		for (int j = 0; j < i; j++)
			g.link[i * n + j] = g.link[j * n + i] =
				crm_link(c->scan, member[j].record, member[i].record) - c->threshold;
	}
	if (c->nmust > 0)
		crm_join_same(c, &g, member);
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
		if (j - i == 2 && c->nmust == 0 && c->scan->napart == 0)
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

uint32 *
crm_match_clusters(const MatchScan *scan, const MatchEdge *found, uint32 nfound,
				   const MatchEdge *must, uint32 nmust, float threshold)
{
	Size n = Max((Size) scan->nrecords, 1);
	Clustering c = {.scan = scan, .threshold = threshold, .must = must, .nmust = nmust};
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
	if (nmust > 0)
		c.place = palloc_extended(sizeof(int) * n, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	if (nfound > 0)
		memcpy(edge, found, sizeof(MatchEdge) * (Size) nfound);
	if (nmust > 0)
		memcpy(edge + nfound, must, sizeof(MatchEdge) * (Size) nmust);
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
	pfree(c.position);
	pfree(record);
	pfree(edge);
	return c.cluster;
}
