/*
 * expression.c
 *		Parsing the boolean SQL expressions that users write into rules.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "expression.h"

typedef struct ExpressionContext
{
	Relation rel;
	const char *what;
} ExpressionContext;

/*
 * What a BEFORE trigger cannot see must not be in an expression: system columns,
 * and generated columns of the new row, which are computed after it.
 */
static bool
crm_expression_check_vars(Node *node, ExpressionContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var *var = (Var *) node;
		bool is_new = var->varno == 2;
		TupleDesc tupdesc = RelationGetDescr(context->rel);

		if (var->varattno < 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
							errmsg("a %s cannot refer to system columns", context->what)));
		for (int i = 0; i < tupdesc->natts; i++)
		{
			Form_pg_attribute attr = TupleDescAttr(tupdesc, i);

			if (attr->attisdropped || attr->attgenerated == '\0' ||
				(var->varattno != 0 && var->varattno != i + 1))
				continue;
			if (is_new || attr->attgenerated != ATTRIBUTE_GENERATED_STORED)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
						 errmsg("a %s cannot refer to generated column \"%s\" of %s", context->what,
								NameStr(attr->attname), is_new ? "new" : "old"),
						 errdetail("It is computed after the rule is checked.")));
		}
		return false;
	}
	return expression_tree_walker(node, crm_expression_check_vars, (void *) context);
}

/* Positions in the expression are not positions in the client's query. */
static void
crm_expression_error(void *arg)
{
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
}

static Node *
crm_expression_parse_raw(const char *text, const char *what)
{
	List *raw = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *select = castNode(SelectStmt, linitial_node(RawStmt, raw)->stmt);
	ResTarget *target;

	if (list_length(select->targetList) != 1 || select->distinctClause || select->fromClause ||
		select->whereClause || select->groupClause || select->havingClause ||
		select->windowClause || select->sortClause || select->limitOffset || select->limitCount ||
		select->lockingClause || select->withClause || select->valuesLists || select->intoClause ||
		select->op != SETOP_NONE)
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
						errmsg("a %s must be a single expression, not a query", what)));
	target = linitial_node(ResTarget, select->targetList);
	if (target->name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR), errmsg("a %s cannot have a column alias", what)));
	return target->val;
}

Node *
crm_expression_parse(Relation rel, const char *text, const char *what)
{
	ErrorContextCallback callback;
	Node *expr;

	callback.callback = crm_expression_error;
	callback.arg = unconstify(char *, text);
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	expr = crm_expression_parse_raw(text, what);
	if (rel != NULL)
	{
		ParseState *pstate = make_parsestate(NULL);
		ParseNamespaceItem *item;
		ExpressionContext context = {rel, what};

		pstate->p_sourcetext = text;
		item = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, makeAlias("old", NIL),
											 false, false);
		addNSItemToQuery(pstate, item, false, true, false);
		item = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, makeAlias("new", NIL),
											 false, false);
		addNSItemToQuery(pstate, item, false, true, true);

		expr = transformWhereClause(pstate, expr, EXPR_KIND_TRIGGER_WHEN, what);
		assign_expr_collations(pstate, expr);
		crm_expression_check_vars(expr, &context);
		ChangeVarNodes(expr, 1, INNER_VAR, 0);
		ChangeVarNodes(expr, 2, OUTER_VAR, 0);
		free_parsestate(pstate);
	}
	error_context_stack = callback.previous;
	return expr;
}

int
crm_expression_search_path(Oid workspace)
{
	int nest = NewGUCNestLevel();
	char *path =
		psprintf("pg_catalog, %s, pg_temp", quote_identifier(get_namespace_name(workspace)));

	(void) set_config_option("search_path", path, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true,
							 0, false);
	return nest;
}
