/*
 * crm_test.c
 *		Test-only access to what crm keeps to itself.
 */
#include "postgres.h"

#include "fmgr.h"

PG_MODULE_MAGIC;
