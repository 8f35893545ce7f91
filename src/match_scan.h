/*
 * match_scan.h
 *		What a scan of a whole table for duplicates works on.
 *
 * A scan is done by the process that was asked and by parallel workers, its
 * participants.  They do one job after the other together: match_parallel.c
 * tells them which, and gives them memory they share.  match_read.c turns rows
 * into features, match_block.c finds and compares records that share keys,
 * match_change.c and match_meet.c do both for what changed since the last scan,
 * match_touch.c tells what of the known pairs that concerns,
 * match_pass.c reads a table too large for memory part by part, match_cluster.c makes
 * groups of pairs, match_write.c writes them.
 */
#ifndef CRM_MATCH_SCAN_H
#define CRM_MATCH_SCAN_H

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "port/atomics.h"
#include "storage/barrier.h"
#include "utils/dsa.h"
#include "utils/rel.h"

#include "compat.h"
#include "match.h"
#include "match_count.h"

/* Where memory of the scan is, for all participants; 0 = nowhere. */
typedef uint64 ScanRef;

typedef enum ScanJob
{
	SCAN_READ,	  /* rows into features and keys */
	SCAN_SORT,	  /* keys into blocks of records that share them */
	SCAN_LINK,	  /* blocks of each record */
	SCAN_WEIGH,	  /* how rare everything is into the features */
	SCAN_COMPARE, /* records of a block with each other */
	SCAN_CHANGED, /* instead of all these: rows that changed into features ... */
	SCAN_LOOK_UP, /* ... their keys looked up in the index */
	SCAN_MEET,	  /* ... rows found that share enough of them */
	SCAN_MATCH,	  /* ... and compared with them */
	SCAN_COUNT,	  /* instead of SCAN_READ and SCAN_SORT, in passes: what is common */
	SCAN_COUNT_KEYS,
	SCAN_EXPLAIN, /* reasons of the pairs found */
	SCAN_CLUSTER,
	SCAN_WRITE,
	SCAN_END
} ScanJob;

#define SCAN_PARTITIONS	  256
#define SCAN_MAX_PARTS	  17
#define SCAN_CHUNK		  (1024 * 1024) /* of features */
#define SCAN_MAX_CHUNKS	  32768
#define SCAN_PAGE_ROWS	  4096
#define SCAN_MAX_PAGES	  65536
#define SCAN_COMPARE_ROWS 1024
#define SCAN_EDGE_ROWS	  512

#define SCAN_NO_RECORD UINT32_MAX

/* Two records that seem to mean the same. */
typedef struct MatchEdge
{
	uint32 a;
	uint32 b;
	float bits;
} MatchEdge;

/* What is known of two records, by id, left < right. */
typedef struct IdPair
{
	int64 left;
	int64 right;
} IdPair;

/* Records in the order of their numbers: ids, and where the features are. */
typedef struct ScanPage
{
	uint32 n;
	uint32 record[SCAN_PAGE_ROWS]; /* chunk << 17 | offset / 8 */
	int64 id[SCAN_PAGE_ROWS];
} ScanPage;

/* Keys of one partition, in a list. */
typedef struct KeyChunk
{
	ScanRef next;
	uint32 n;
	uint64 key[1022]; /* the hash without its top 8 bits << 32 | record; or two of a candidate */
} KeyChunk;

/* A record that changed since the last scan. */
typedef struct ChangedRecord
{
	uint32 number;
	uint32 first_key;
	uint32 nkeys;
} ChangedRecord;

/* Its keys are noted in the lists of their partitions by participant and place. */
#define KEY_PLACE_BITS 27
#define MOST_KEYS	   (1u << KEY_PLACE_BITS)

/* A key of it, and the rows that the index has for it. */
typedef struct ChangedKey
{
	uint32 hash;
	uint16 weight;
	uint16 nrows;
	ScanRef rows;
} ChangedKey;

/* What one participant has made of the job. */
typedef struct ScanPart
{
	ScanRef keys[SCAN_PARTITIONS];
	uint64 nkeys[SCAN_PARTITIONS];
	ScanRef counts; /* of values that are no keys; or keys of changed records too common */
	uint32 ncounts;
	ScanRef edges;
	uint32 nedges;
	ScanRef changed; /* ChangedRecord */
	uint32 nchanged;
	ScanRef changed_keys;
	uint32 nchanged_keys;
	ScanRef seen; /* ids of all rows, in places */
	uint32 nseen;
	uint64 rows;
	uint64 crowded[2]; /* keys too common to be looked at: identifiers, pieces of names */
} ScanPart;

/* What a partition has become. */
typedef struct ScanBlocks
{
	ScanRef member;
	ScanRef start;
	ScanRef weight;
	ScanRef counts;
	uint32 nmembers;
	uint32 nblocks;
	uint32 ncounts;
	uint32 first_member; /* where it begins in the whole */
	uint32 first_block;
} ScanBlocks;

typedef struct ScanShared
{
	/* the task */
	Oid relid;
	MatchModel model;
	double rows; /* for the prior */
	float threshold;
	bool learn;				   /* frequencies from the table itself */
	bool changed;			   /* only what changed */
	TransactionId since;	   /* ... and was written by this or a later transaction */
	TransactionId next_xid;	   /* no transaction with a row to be seen has this or a later one */
	TransactionId last_writer; /* of what the last scan wrote to duplicate_pair */
	TransactionId writer;	   /* the same of this one; 0 = it wrote nothing */
	int progress;			   /* slot */

	/* how it goes */
	Barrier barrier;
	ScanJob job;
	pg_atomic_uint32 next; /* piece of the job to be done */
	uint32 pieces;
	pg_atomic_uint32 nparts;
	ScanPart part[SCAN_MAX_PARTS];
	pg_atomic_uint64 used; /* bytes */
	uint64 limit;
	pg_atomic_uint64 nkeys; /* that were read, and rows */
	pg_atomic_uint64 nkept;
	pg_atomic_uint32 no_room; /* for all rows at once */

	/* in passes */
	uint32 first_partition; /* of keys that are counted */
	uint32 npartitions;
	uint32 slice;	   /* of rows that are looked up */
	uint32 nslices;	   /* 0: all that changed, no others */
	uint32 generation; /* counts up when the records are thrown away */

	/* the records */
	pg_atomic_uint32 nchunks;
	ScanRef chunk[SCAN_MAX_CHUNKS];
	pg_atomic_uint32 npages;
	ScanRef page[SCAN_MAX_PAGES];
	uint32 nrecords; /* numbers given, of which some may be left out */
	uint64 nrows;
	ScanRef id;
	ScanRef record;

	/* how common keys are */
	ScanRef counts;
	ScanRef count_start; /* places in them */
	uint32 ncounts;
	pg_atomic_uint32 outgrown; /* is there a key that is a crowd by now, and was rare? */

	/* which records share keys */
	ScanBlocks blocks[SCAN_PARTITIONS];
	ScanRef block_start;
	ScanRef block_weight;
	ScanRef member;
	ScanRef record_start;
	ScanRef record_fill;
	ScanRef record_block;

	/* pairs told apart, ascending */
	ScanRef apart;
	uint32 napart;

	/* pairs found */
	ScanRef edges;
	uint32 nedges;
	ScanRef reasons; /* of each SCAN_EDGE_ROWS of them */
} ScanShared;

/* A process's view of the scan. */
typedef struct MatchScan
{
	ScanShared *shared;
	ScanPart *part;
	dsa_area *area; /* NULL: alone, memory is of the context */
	MemoryContext context;
	struct ParallelContext *parallel;
	ParallelTableScanDesc heap; /* NULL: alone */
	int workers;

	/* of who was asked */
	Relation rel;
	Datum *again; /* ids of records to be looked up as if they had changed */
	uint32 nagain;

	/* addresses in this process */
	uint32 generation;
	char *chunk[SCAN_MAX_CHUNKS];
	uint32 nrecords;
	int64 *id;
	uint32 *record;
	const IdPair *apart;
	uint32 napart;
	MatchScorer scorer;
	struct ScanReader *reader; /* match_read.c */
} MatchScan;

/* match_parallel.c */
extern int crm_scan_memory; /* kB */
extern MatchScan *crm_scan_begin(Relation rel, int workers);
/* A job: its beginning, after which the workers are at it, and who was asked joins them. */
extern void crm_scan_start(MatchScan *scan, ScanJob job, uint32 pieces);
extern void crm_scan_join(MatchScan *scan);
extern void crm_scan_do(MatchScan *scan, ScanJob job, uint32 pieces);
extern void crm_scan_job(MatchScan *scan, ScanJob job, uint32 pieces, uint64 total); /* seen */
extern void crm_scan_locate(MatchScan *scan);
/* A copy for all participants. */
extern void *crm_scan_share(MatchScan *scan, const void *data, Size size, ScanRef *ref);
/* Workers go, memory stays: they are told so, and the end waits until they are gone. */
extern void crm_scan_dismiss(MatchScan *scan);
extern void crm_scan_end(MatchScan *scan);
extern bool crm_scan_next(MatchScan *scan, uint32 *piece);
extern void *crm_scan_alloc(MatchScan *scan, Size size, ScanRef *ref);
extern void *crm_scan_get(MatchScan *scan, ScanRef ref);
extern void crm_scan_free(MatchScan *scan, ScanRef *ref, Size size);

/* match_progress.c */
extern void crm_progress_begin(MatchScan *scan, Oid workspace, const char *kind);
extern void crm_progress_job(const ScanShared *shared, ScanJob job, uint64 total);
extern void crm_progress_add(const ScanShared *shared, uint64 done);

/* match_read.c */
extern void crm_scan_read(MatchScan *scan);
extern uint32 crm_scan_keep(MatchScan *scan, int64 id, const MatchRecord *record);
/* Lists by partition: something is noted in one, and all that participants noted is taken out. */
extern void crm_scan_note(MatchScan *scan, uint32 partition, uint64 what);
extern uint64 *crm_scan_noted(MatchScan *scan, uint32 partition, Size *n);
extern void crm_scan_new_notes(MatchScan *scan); /* before the first note of a job */
/* Notes a key, with a number that says whose it is. */
extern void crm_scan_note_key(MatchScan *scan, uint32 hash, uint32 number);
extern void crm_scan_index(MatchScan *scan); /* records get their place by number */
extern CRM_NORETURN void crm_scan_too_large(void);
extern void crm_scan_emptied(MatchScan *scan); /* the records were thrown away */
extern void crm_scan_share_counts(MatchScan *scan, MatchCounts *counts);
extern MatchCount *crm_scan_learned(MatchScan *scan, uint32 first, uint32 npartitions,
									uint32 *nlearned);
extern void crm_scan_indexed(MatchScan *scan); /* somebody did that: what is kept next is new */
extern void crm_scan_learn(MatchScan *scan);
extern void crm_scan_counts(MatchScan *scan, const void *packed, Size size);
extern const MatchCounts *crm_scan_frequencies(MatchScan *scan);
extern void crm_scan_weigh(MatchScan *scan);
extern AttrNumber crm_scan_id_column(Relation rel);

/* match_block.c */
#define SCAN_NEEDED		2	/* an identifier has 2, a piece of a name 1 */
#define SCAN_IDENTIFIER 200 /* records that share an identifier and are still compared */
#define SCAN_PIECE		50	/* records that share a piece of a name */
#define SCAN_CROWD		300 /* with more, a key known as rare is to be counted anew */
#define SCAN_RARE		4	/* so few share it that it counts as an identifier */

/* What sharing a key counts that so many rows have; 0 if it is too common. */
extern int crm_scan_key_weight(uint32 hash, uint32 count);
/* The keys noted in a partition, by hash. */
extern uint64 *crm_scan_sorted_keys(MatchScan *scan, uint32 partition, Size *n);
#define SCAN_KEY_HASH(partition, key) ((partition) << 24 | (uint32) ((key) >> 32))
extern void crm_scan_sort(MatchScan *scan);
extern void crm_scan_layout(MatchScan *scan);
extern void crm_scan_link_blocks(MatchScan *scan);
extern void crm_scan_compare(MatchScan *scan);
extern float crm_scan_bits(const MatchScan *scan, uint32 a, uint32 b, float needed);
extern void crm_scan_explain(MatchScan *scan);
extern MatchEdge *crm_scan_collect(MatchScan *scan, uint32 *nedges);
extern uint32 crm_scan_order_edges(const MatchScan *scan, MatchEdge *edge, uint32 nedges);

typedef struct EdgeList
{
	MatchEdge *edge;
	uint32 n;
	uint32 size;
} EdgeList;

extern void crm_edge_add(EdgeList *list, uint32 a, uint32 b, float bits);
extern void crm_edge_share(MatchScan *scan, EdgeList *list);

static inline MatchRecord *
crm_scan_record(const MatchScan *scan, uint32 number)
{
	uint32 place = scan->record[number];

	return (MatchRecord *) (scan->chunk[place >> 17] + (Size) (place & 0x1FFFF) * 8);
}

/* The transaction that wrote the row in a slot. */
static inline TransactionId
crm_slot_xmin(TupleTableSlot *slot)
{
	bool null;

	if (TTS_IS_BUFFERTUPLE(slot))
		return HeapTupleHeaderGetRawXmin(((HeapTupleTableSlot *) slot)->tuple->t_data);
	return DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &null));
}

/* match_change.c */
typedef struct ChangeSet ChangeSet;

static inline uint32
crm_hash64(uint64 x)
{
	return (uint32) ((x * UINT64CONST(0x9E3779B97F4A7C15)) >> 32);
}

/* The slice of rows to which a record belongs. */
static inline uint32
crm_scan_slice(const ScanShared *shared, int64 id)
{
	return (uint32) (((uint64) crm_hash64((uint64) id) * shared->nslices) >> 32);
}

typedef void (*RowTaker)(void *arg, int64 id, const MatchValue values[MATCH_NROLES]);

extern void crm_scan_changed(MatchScan *scan);
/* Reads rows by their ids, and hands on what is compared of them; by who was asked. */
extern void crm_rows_by_id(MatchScan *scan, Datum *ids, uint32 n, RowTaker take, void *arg);

/* match_meet.c */
extern void crm_scan_look_up(MatchScan *scan);
extern uint32 crm_change_pieces(const MatchScan *scan); /* of the job SCAN_MEET */
extern void crm_scan_meet(MatchScan *scan);
extern void crm_scan_match(MatchScan *scan);
/* Keys of changed records that too many rows have: added up; identifiers and pieces of names. */
extern void crm_change_add_crowded(MatchScan *scan, MatchCounts *crowds);
extern void crm_change_crowded(const MatchCounts *crowds, uint64 crowded[2]);
extern uint32 crm_change_drop_apart(const MatchScan *scan, MatchEdge *edge, uint32 nedges);

/* match_cluster.c */
#define CANNOT_LINK_BITS (-1e30f) /* nothing outweighs it */
#define MUST_LINK_BITS	 1e9f
#define WORST_LINK_BITS	 (-8.0f)  /* one strong disagreement does not outweigh everything */
#define CONFLICT_BITS	 (-60.0f) /* outweighs what several other members say */

extern bool crm_ids_apart(const MatchScan *scan, int64 a, int64 b);
extern bool crm_scan_apart(const MatchScan *scan, uint32 a, uint32 b);
/* The cluster of each record: the number of one of its members.  must: pairs to be joined. */
extern uint32 *crm_match_clusters(const MatchScan *scan, const MatchEdge *found, uint32 nfound,
								  const MatchEdge *must, uint32 nmust, float threshold);

/* match_write.c */
typedef enum PairState
{
	PAIR_OPEN,
	PAIR_MERGED,
	PAIR_APART, /* not_duplicate */
	PAIR_IGNORED,
	PAIR_SAME /* duplicate */
} PairState;

/* A row of duplicate_pair. */
typedef struct KnownPair
{
	int64 left;
	int64 right;
	int64 id;
	float score;
	uint8 state;  /* PairState */
	bool changed; /* since the last scan, by others */
	/* in a scan of what changed */
	bool kept;	/* nothing changed about it */
	bool joins; /* its records are of one component */
} KnownPair;

/* A row of duplicate_cluster. */
typedef struct KnownMember
{
	int64 cluster;
	int64 record;
	int64 id;
	bool merged;
	bool open;
	bool kept; /* by a scan of what changed, with the whole cluster */
} KnownMember;

typedef struct KnownResult
{
	KnownPair *pair; /* by left, right */
	uint32 npairs;
	KnownMember *member; /* by cluster, record */
	uint32 nmembers;
} KnownResult;

extern KnownResult *crm_known_read(MatchScan *scan, Oid workspace, const char *kind);
extern const KnownPair *crm_known_pair(const KnownResult *known, int64 left, int64 right);
extern float4 crm_edge_score(const MatchEdge *edge);

/* Where the result goes, and how much it is then. */
typedef struct ScanResult
{
	const char *schema;
	const char *kind;
	uint64 open_pairs;
	uint64 clusters;   /* open ones */
	uint64 duplicates; /* records in them but one each */
} ScanResult;

/*
 * Writes the edges that were explained, then removes open pairs that were neither found (found:
 * all edges) nor kept.
 */
extern void crm_write_pairs(MatchScan *scan, ScanResult *result, const KnownResult *known,
							const MatchEdge *found, uint32 nfound);
/* Returns the number of records in clusters that were not kept. */
extern uint64 crm_write_clusters(MatchScan *scan, ScanResult *result, const KnownResult *known,
								 const uint32 *cluster);

/* match_touch.c, for who was asked */
extern void crm_change_again(MatchScan *scan, const KnownResult *known);
extern ChangeSet *crm_change_begin(MatchScan *scan, KnownResult *known, uint64 *nchanged);
extern void crm_change_unify(MatchScan *scan, ChangeSet *set, MatchEdge *edge, uint32 nedges);
extern void crm_change_touch(MatchScan *scan, ChangeSet *set, KnownResult *known,
							 const MatchEdge *edge, uint32 nedges);
extern void crm_change_fetch(MatchScan *scan, ChangeSet *set);
extern MatchEdge *crm_change_edges(MatchScan *scan, const ChangeSet *set, const KnownResult *known,
								   const MatchEdge *found, uint32 nfound, uint32 *nedges);
extern uint64 crm_change_kept_pairs(const KnownResult *known);
extern uint64 crm_change_kept_members(const KnownResult *known);

/* match_pass.c */
extern void crm_scan_count(MatchScan *scan);
extern void crm_scan_count_keys(MatchScan *scan);
extern void crm_pass_learn(MatchScan *scan, uint64 rows);
extern MatchEdge *crm_pass_compare(MatchScan *scan, const KnownResult *known, uint64 rows,
								   uint64 crowded[2], uint32 *nedges);

#endif /* CRM_MATCH_SCAN_H */
