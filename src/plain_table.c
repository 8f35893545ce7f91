/*
 * plain_table.c
 *		Tables that can be written without the executor.
 *
 * Users may add columns, triggers, rules, policies and constraints to tables that
 * crm writes, and the executor honours all of them.  Where there are none it does
 * nothing but form the tuple, and costs several times what storing it does.  No
 * expression of anybody's is evaluated here.
 */
#include "postgres.h"

#include "catalog/pg_am.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/primnodes.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/reltrigger.h"

#include "compat.h"
#include "plain_table.h"

static bool
crm_has_triggers(const TriggerDesc *triggers, CmdType operation)
{
	if (triggers == NULL)
		return false;
	if (operation == CMD_INSERT)
		return triggers->trig_insert_before_row || triggers->trig_insert_after_row ||
			   triggers->trig_insert_instead_row || triggers->trig_insert_before_statement ||
			   triggers->trig_insert_after_statement || triggers->trig_insert_new_table;
	return triggers->trig_delete_before_row || triggers->trig_delete_after_row ||
		   triggers->trig_delete_instead_row || triggers->trig_delete_before_statement ||
		   triggers->trig_delete_after_statement || triggers->trig_delete_old_table;
}

bool
crm_is_plain_table(Relation rel, CmdType operation)
{
	AclMode needed = operation == CMD_INSERT ? ACL_INSERT : ACL_SELECT | ACL_DELETE;

	Assert(operation == CMD_INSERT || operation == CMD_DELETE);
	if (rel->rd_rel->relkind != RELKIND_RELATION || rel->rd_rel->relispartition ||
		rel->rd_rel->relam != HEAP_TABLE_AM_OID ||
		rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP || rel->rd_rules != NULL ||
		rel->rd_rel->relforcerowsecurity)
		return false;
	if (operation == CMD_DELETE && rel->rd_rel->relhassubclass)
		return false;
	if (crm_has_triggers(rel->trigdesc, operation))
		return false;
	return pg_class_aclmask(RelationGetRelid(rel), rel->rd_rel->relowner, needed, ACLMASK_ALL) ==
		   needed;
}

bool
crm_plain_row(CrmPlainRow *row, Relation rel, const CrmPlainField *fields, int nfields,
			  int *positions)
{
	TupleDesc desc = RelationGetDescr(rel);
	int found = 0;

	row->natts = desc->natts;
	row->values = palloc0(sizeof(Datum) * desc->natts);
	row->nulls = palloc(sizeof(bool) * desc->natts);
	row->identity = -1;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		int field = 0;
		Node *expr;

		row->nulls[i] = true;
		if (att->attisdropped)
			continue;
		while (field < nfields && strcmp(fields[field].name, NameStr(att->attname)))
			field++;
		if (field < nfields)
		{
			if (att->atttypid != fields[field].type || att->attgenerated ||
				att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS)
				return false;
			positions[field] = i;
			found++;
			continue;
		}
		if (att->attgenerated)
			return false;
		expr = build_column_default(rel, att->attnum);
		if (expr == NULL)
		{
			/* The NULL of a domain must pass its constraints. */
			if (get_typtype(att->atttypid) == TYPTYPE_DOMAIN)
				return false;
			continue;
		}
		expr = eval_const_expressions(NULL, expr);
		if (IsA(expr, Const))
		{
			Const *constant = (Const *) expr;

			row->nulls[i] = constant->constisnull;
			if (!constant->constisnull)
				row->values[i] =
					datumCopy(constant->constvalue, constant->constbyval, constant->constlen);
		}
		else if (IsA(expr, NextValueExpr) && ((NextValueExpr *) expr)->typeId == INT8OID &&
				 row->identity < 0)
		{
			row->identity = i;
			row->nulls[i] = false;
			row->sequence = ((NextValueExpr *) expr)->seqid;
		}
		else
			return false;
	}
	return found == nfields;
}
