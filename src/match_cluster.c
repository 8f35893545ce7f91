/*
 * match_cluster.c
 *		From pairs of records that seem to mean the same to groups of them.
 *
 * Following every pair chains strangers together: A is like B, B like C, and A
 * nothing like C.  So a component of pairs is only where to look.  Inside it
 * every two records are scored, and groups are joined, best first, as long as
 * the average score between their members is positive; two records that a
 * person has told apart never end in one group.
 *
 * A component too large for that is cut by raising the score a pair needs,
 * until its parts are small enough.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "match_scan.h"

#define LARGEST_COMPONENT 300

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
crm_cmp_edge(const void *a, const void *b)
{
	const MatchEdge *x = a, *y = b;

	if (x->bits != y->bits)
		return x->bits > y->bits ? -1 : 1;
	if (x->a != y->a)
		return x->a < y->a ? -1 : 1;
	return x->b < y->b ? -1 : x->b > y->b;
}

typedef struct Member
{
	uint32 root;
	uint32 record;
} Member;

static int
crm_cmp_member(const void *a, const void *b)
{
	const Member *x = a, *y = b;

	if (x->root != y->root)
		return x->root < y->root ? -1 : 1;
	return x->record < y->record ? -1 : x->record > y->record;
}

/* Greedy average link among the n records of a component; result in cluster[]. */
static void
crm_split(const MatchScan *scan, const Member *member, int n, float threshold, uint32 *cluster)
{
	float *link = palloc(sizeof(float) * n * n);
	int *size = palloc(sizeof(int) * n);
	int *owner = palloc(sizeof(int) * n);

	for (int i = 0; i < n; i++)
	{
		size[i] = 1;
		owner[i] = i;
		for (int j = 0; j < i; j++)
		{
			float bits = crm_scan_link(scan, member[i].record, member[j].record) - threshold;

			link[i * n + j] = link[j * n + i] = bits;
		}
	}
	for (;;)
	{
		float best = 0;
		int x = -1, y = -1;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
			for (int j = 0; size[i] > 0 && j < i; j++)
				if (size[j] > 0)
				{
					float average = link[i * n + j] / ((float) size[i] * size[j]);

					if (average > best)
					{
						best = average;
						x = i;
						y = j;
					}
				}
		if (x < 0)
			break;
		for (int k = 0; k < n; k++)
		{
			link[y * n + k] += link[x * n + k];
			link[k * n + y] = link[y * n + k];
			if (owner[k] == x)
				owner[k] = y;
		}
		size[y] += size[x];
		size[x] = 0;
	}
	for (int i = 0; i < n; i++)
		cluster[member[i].record] = member[owner[i]].record;
	pfree(link);
	pfree(size);
	pfree(owner);
}

/* Components of the edges of at least the threshold, within one set of records. */
static void
crm_components(const MatchScan *scan, const MatchEdge *edge, uint32 nedges, float needed,
			   float threshold, uint32 *cluster, int depth)
{
	uint32 *parent = palloc_extended(sizeof(uint32) * (Size) scan->nrecords, MCXT_ALLOC_HUGE);
	Member *member;
	uint32 n = 0;

	for (uint32 i = 0; i < scan->nrecords; i++)
		parent[i] = i;
	for (uint32 i = 0; i < nedges && edge[i].bits >= needed; i++)
	{
		uint32 a = crm_root(parent, edge[i].a), b = crm_root(parent, edge[i].b);

		if (a != b)
			parent[Max(a, b)] = Min(a, b);
	}
	for (uint32 i = 0; i < scan->nrecords; i++)
		if (crm_root(parent, i) != i)
			n++;
	/* Roots are counted with their members below. */
	member = palloc_extended(sizeof(Member) * (2 * (Size) n + 1), MCXT_ALLOC_HUGE);
	n = 0;
	for (uint32 i = 0; i < scan->nrecords; i++)
	{
		uint32 root = crm_root(parent, i);

		if (root != i)
		{
			member[n].root = root;
			member[n++].record = i;
			if (cluster[root] != UINT32_MAX)
			{
				cluster[root] = UINT32_MAX;
				member[n].root = root;
				member[n++].record = root;
			}
		}
	}
	qsort(member, n, sizeof(Member), crm_cmp_member);
	for (uint32 i = 0; i < n;)
	{
		uint32 j = i;

		while (j < n && member[j].root == member[i].root)
			j++;
		for (uint32 k = i; k < j; k++)
			cluster[member[k].record] = member[k].record;
		if (j - i <= LARGEST_COMPONENT)
			crm_split(scan, member + i, (int) (j - i), threshold, cluster);
		else if (depth < 8)
		{
			/* Only the edges inside; they stay in order. */
			MatchEdge *inside = palloc_extended(sizeof(MatchEdge) * (Size) nedges, MCXT_ALLOC_HUGE);
			uint32 ninside = 0;

			for (uint32 k = 0; k < nedges; k++)
				if (crm_root(parent, edge[k].a) == member[i].root)
					inside[ninside++] = edge[k];
			crm_components(scan, inside, ninside, needed + 4.0f, threshold, cluster, depth + 1);
			pfree(inside);
		}
		i = j;
	}
	pfree(member);
	pfree(parent);
}

uint32 *
crm_match_clusters(const MatchScan *scan, MatchEdge *edge, uint32 nedges, float threshold)
{
	uint32 *cluster =
		palloc_extended(sizeof(uint32) * Max((Size) scan->nrecords, 1), MCXT_ALLOC_HUGE);

	for (uint32 i = 0; i < scan->nrecords; i++)
		cluster[i] = i;
	qsort(edge, nedges, sizeof(MatchEdge), crm_cmp_edge);
	crm_components(scan, edge, nedges, threshold, threshold, cluster, 0);
	return cluster;
}
