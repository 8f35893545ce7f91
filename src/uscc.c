/*
 * uscc.c
 *		The SQL functions of type crm.uscc.
 *
 * A value is stored as its 18 characters of text, so that it is binary-coercible to
 * text; its operators are those of bytea, because no collation has a say in codes.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"

#include "compat.h"
#include "fault.h"
#include "uscc.h"

#define USCC_WIRE_VERSION 1

static text *
crm_uscc_make(const char *value, size_t len, struct Node *escontext)
{
	char canonical[CRM_USCC_LENGTH + 1];
	CrmFault fault;

	if (crm_uscc_parse(value, len, canonical, &fault))
		return cstring_to_text(canonical);
	crm_input_error(escontext, "crm.uscc", value, len, &fault);
	return NULL;
}

PG_FUNCTION_INFO_V1(crm_uscc_in);
Datum
crm_uscc_in(PG_FUNCTION_ARGS)
{
	char *value = PG_GETARG_CSTRING(0);
	text *uscc = crm_uscc_make(value, strlen(value), CRM_ESCONTEXT(fcinfo));

	if (uscc == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(uscc);
}

PG_FUNCTION_INFO_V1(crm_uscc_from_text);
Datum
crm_uscc_from_text(PG_FUNCTION_ARGS)
{
	text *value = PG_GETARG_TEXT_PP(0);
	text *uscc = crm_uscc_make(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), CRM_ESCONTEXT(fcinfo));

	if (uscc == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(uscc);
}

PG_FUNCTION_INFO_V1(crm_uscc_out);
Datum
crm_uscc_out(PG_FUNCTION_ARGS)
{
	PG_RETURN_CSTRING(text_to_cstring(PG_GETARG_TEXT_PP(0)));
}

PG_FUNCTION_INFO_V1(crm_uscc_recv);
Datum
crm_uscc_recv(PG_FUNCTION_ARGS)
{
	StringInfo buf = (StringInfo) PG_GETARG_POINTER(0);
	int version = pq_getmsgbyte(buf);
	char *value;
	int len;

	crm_check_wire_version("crm.uscc", version, USCC_WIRE_VERSION);
	value = pq_getmsgtext(buf, buf->len - buf->cursor, &len);
	PG_RETURN_TEXT_P(crm_uscc_make(value, len, NULL));
}

PG_FUNCTION_INFO_V1(crm_uscc_send);
Datum
crm_uscc_send(PG_FUNCTION_ARGS)
{
	text *uscc = PG_GETARG_TEXT_PP(0);
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendbyte(&buf, USCC_WIRE_VERSION);
	pq_sendtext(&buf, VARDATA_ANY(uscc), VARSIZE_ANY_EXHDR(uscc));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/* Characters first to first + len - 1 of a code, counted from 1 as the standard does. */
static Datum
crm_uscc_part(text *uscc, int first, int len)
{
	return PointerGetDatum(cstring_to_text_with_len(VARDATA_ANY(uscc) + first - 1, len));
}

PG_FUNCTION_INFO_V1(crm_uscc_authority);
Datum
crm_uscc_authority(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(crm_uscc_part(PG_GETARG_TEXT_PP(0), 1, 1));
}

PG_FUNCTION_INFO_V1(crm_uscc_category);
Datum
crm_uscc_category(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(crm_uscc_part(PG_GETARG_TEXT_PP(0), 2, 1));
}

PG_FUNCTION_INFO_V1(crm_uscc_region);
Datum
crm_uscc_region(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(crm_uscc_part(PG_GETARG_TEXT_PP(0), 3, 6));
}

PG_FUNCTION_INFO_V1(crm_uscc_organization);
Datum
crm_uscc_organization(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(crm_uscc_part(PG_GETARG_TEXT_PP(0), 9, 9));
}
