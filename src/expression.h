/*
 * expression.h
 *		Boolean SQL expressions over the old and new row of a table, which users
 *		write into rules.
 */
#ifndef CRM_EXPRESSION_H
#define CRM_EXPRESSION_H

#include "nodes/nodes.h"
#include "utils/relcache.h"

/*
 * Parses an expression as the WHEN clause of a trigger is parsed; old becomes
 * INNER_VAR and new OUTER_VAR.  relation NULL checks the syntax only.  what
 * names the rule in errors ("stage rule").
 */
extern Node *crm_expression_parse(Relation rel, const char *text, const char *what);

/*
 * Names in rules mean the same in every session: pg_catalog, then the
 * workspace.  Returns the nesting level for AtEOXact_GUC().
 */
extern int crm_expression_search_path(Oid workspace);

#endif /* CRM_EXPRESSION_H */
