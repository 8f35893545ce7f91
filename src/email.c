/*
 * email.c
 *		The SQL functions of type crm.email, and of domains and web addresses.
 *
 * A value is stored as its canonical text, so that it is binary-coercible to text
 * and its operators are those of text.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"

#include "compat.h"
#include "domain.h"
#include "email.h"
#include "fault.h"

#define EMAIL_WIRE_VERSION 1

static text *
crm_email_make(const char *value, size_t len, struct Node *escontext)
{
	char canonical[CRM_EMAIL_MAX + 1];
	CrmFault fault;

	if (crm_email_parse(value, len, canonical, &fault))
		return cstring_to_text(canonical);
	crm_input_error(escontext, "crm.email", value, len, &fault);
	return NULL;
}

PG_FUNCTION_INFO_V1(crm_email_in);
Datum
crm_email_in(PG_FUNCTION_ARGS)
{
	char *value = PG_GETARG_CSTRING(0);
	text *email = crm_email_make(value, strlen(value), CRM_ESCONTEXT(fcinfo));

	if (email == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(email);
}

PG_FUNCTION_INFO_V1(crm_email_from_text);
Datum
crm_email_from_text(PG_FUNCTION_ARGS)
{
	text *value = PG_GETARG_TEXT_PP(0);
	text *email =
		crm_email_make(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), CRM_ESCONTEXT(fcinfo));

	if (email == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(email);
}

PG_FUNCTION_INFO_V1(crm_email_out);
Datum
crm_email_out(PG_FUNCTION_ARGS)
{
	PG_RETURN_CSTRING(text_to_cstring(PG_GETARG_TEXT_PP(0)));
}

PG_FUNCTION_INFO_V1(crm_email_recv);
Datum
crm_email_recv(PG_FUNCTION_ARGS)
{
	StringInfo buf = (StringInfo) PG_GETARG_POINTER(0);
	int version = pq_getmsgbyte(buf);
	char *value;
	int len;

	crm_check_wire_version("crm.email", version, EMAIL_WIRE_VERSION);
	value = pq_getmsgtext(buf, buf->len - buf->cursor, &len);
	PG_RETURN_TEXT_P(crm_email_make(value, len, NULL));
}

PG_FUNCTION_INFO_V1(crm_email_send);
Datum
crm_email_send(PG_FUNCTION_ARGS)
{
	text *email = PG_GETARG_TEXT_PP(0);
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendbyte(&buf, EMAIL_WIRE_VERSION);
	pq_sendtext(&buf, VARDATA_ANY(email), VARSIZE_ANY_EXHDR(email));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

PG_FUNCTION_INFO_V1(crm_email_domain);
Datum
crm_email_domain(PG_FUNCTION_ARGS)
{
	text *email = PG_GETARG_TEXT_PP(0);
	const char *value = VARDATA_ANY(email);
	size_t len = VARSIZE_ANY_EXHDR(email);
	const char *domain = crm_email_domain_part(value, len);

	PG_RETURN_TEXT_P(cstring_to_text_with_len(domain, (int) (value + len - domain)));
}

PG_FUNCTION_INFO_V1(crm_email_display);
Datum
crm_email_display(PG_FUNCTION_ARGS)
{
	text *email = PG_GETARG_TEXT_PP(0);
	char *value = text_to_cstring(email);
	const char *domain = crm_email_domain_part(value, strlen(value));
	char shown[4 * CRM_DOMAIN_MAX];

	/* A domain that this version of ICU cannot show is shown as it is stored. */
	if (!crm_domain_display(domain, shown, sizeof(shown)))
		PG_RETURN_TEXT_P(cstring_to_text(value));
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%.*s%s", (int) (domain - value), value, shown)));
}

PG_FUNCTION_INFO_V1(crm_registrable_domain);
Datum
crm_registrable_domain(PG_FUNCTION_ARGS)
{
	text *value = PG_GETARG_TEXT_PP(0);
	char host[CRM_DOMAIN_MAX + 1];
	const char *domain;

	if (!crm_host_find(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), host, NULL))
		PG_RETURN_NULL();
	domain = crm_registrable_part(host);
	if (domain == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(domain));
}
