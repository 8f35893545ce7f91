/*
 * plain_table.h
 *		Tables that can be written without the executor.
 */
#ifndef CRM_PLAIN_TABLE_H
#define CRM_PLAIN_TABLE_H

#include "nodes/nodes.h"
#include "utils/rel.h"

/* A column whose value the writer has. */
typedef struct CrmPlainField
{
	const char *name;
	Oid type;
} CrmPlainField;

/* The other columns of a row. */
typedef struct CrmPlainRow
{
	int natts;
	Datum *values;
	bool *nulls;
	int identity; /* position of the column that a sequence numbers, -1 if there is none */
	Oid sequence;
} CrmPlainRow;

/* True if INSERT into, or DELETE from, the table runs no trigger, rule or policy. */
extern bool crm_is_plain_table(Relation rel, CmdType operation);

/*
 * Finds the positions of the fields.  True if all are there and every other
 * column has a constant default, none, or a sequence's; allocates in the current
 * context.
 */
extern bool crm_plain_row(CrmPlainRow *row, Relation rel, const CrmPlainField *fields, int nfields,
						  int *positions);

#endif /* CRM_PLAIN_TABLE_H */
