/*
 * match_scan.h
 *		What a scan of a whole table for duplicates works on.
 */
#ifndef CRM_MATCH_SCAN_H
#define CRM_MATCH_SCAN_H

#include "match.h"

typedef struct MatchScan
{
	uint32 nrecords;
	MatchRecord **record;
	int64 *id;
	MatchScorer scorer;
	struct CannotLinks *cannot; /* pairs a person has told apart */
} MatchScan;

#define CANNOT_LINK_BITS (-1e9f)
#define WORST_LINK_BITS	 (-8.0f)  /* one strong disagreement does not outweigh everything */
#define CONFLICT_BITS	 (-60.0f) /* outweighs what several other members say */

/*
 * Log-odds of two records by number, or less than needed if they are less;
 * CANNOT_LINK_BITS if they were told apart.
 */
extern float crm_scan_score(const MatchScan *scan, uint32 a, uint32 b, float needed);
/* The same for two members of a group, where a tax number of another firm rules both out. */
extern float crm_scan_link(const MatchScan *scan, uint32 a, uint32 b);

/* The cluster of each record: the number of one of its members. */
extern uint32 *crm_match_clusters(const MatchScan *scan, MatchEdge *edge, uint32 nedges,
								  float threshold);

#endif /* CRM_MATCH_SCAN_H */
