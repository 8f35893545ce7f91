/*
 * phone.c
 *		The SQL functions of type crm.phone.
 *
 * A value is stored as its canonical text, so that it is binary-coercible to text;
 * its operators are those of bytea, because no collation has a say in numbers.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "compat.h"
#include "crm.h"
#include "fault.h"
#include "phone.h"

#define PHONE_WIRE_VERSION 1

/* Room for a number with its country's punctuation. */
#define PHONE_SHOWN_MAX 128

/*
 * Country whose national numbers are meant where nothing else says so: two letters
 * of ISO 3166, or empty, when only international numbers are accepted.
 */
static char *crm_default_region = NULL;

const char *
crm_default_region_or_null(void)
{
	return crm_default_region != NULL && crm_default_region[0] != '\0' ? crm_default_region : NULL;
}

static bool
crm_check_default_region(char **newval, void **extra, GucSource source)
{
	if ((*newval)[0] == '\0')
		return true;
	if (!crm_region_is_known(*newval))
	{
		GUC_check_errdetail("\"%s\" is not the two-letter code of a country (ISO 3166).", *newval);
		return false;
	}
	(*newval)[0] = crm_ascii_upper((*newval)[0]);
	(*newval)[1] = crm_ascii_upper((*newval)[1]);
	return true;
}

void
crm_phone_init(void)
{
	DefineCustomStringVariable(
		"crm.default_region", "Country whose national telephone numbers are accepted.",
		"Two-letter code of ISO 3166; empty accepts only numbers with a "
		"country code.",
		&crm_default_region, "", PGC_USERSET, 0, crm_check_default_region, NULL, NULL);
}

static text *
crm_phone_make(const char *value, size_t len, const char *region, struct Node *escontext)
{
	char canonical[CRM_PHONE_MAX + 1];
	CrmFault fault;

	if (crm_phone_parse(value, len, region, canonical, &fault))
		return cstring_to_text(canonical);
	crm_input_error(escontext, "crm.phone", value, len, &fault);
	return NULL;
}

PG_FUNCTION_INFO_V1(crm_phone_in);
Datum
crm_phone_in(PG_FUNCTION_ARGS)
{
	char *value = PG_GETARG_CSTRING(0);
	text *phone =
		crm_phone_make(value, strlen(value), crm_default_region_or_null(), CRM_ESCONTEXT(fcinfo));

	if (phone == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(phone);
}

PG_FUNCTION_INFO_V1(crm_phone_from_text);
Datum
crm_phone_from_text(PG_FUNCTION_ARGS)
{
	text *value = PG_GETARG_TEXT_PP(0);
	text *phone = crm_phone_make(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value),
								 crm_default_region_or_null(), CRM_ESCONTEXT(fcinfo));

	if (phone == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(phone);
}

PG_FUNCTION_INFO_V1(crm_phone_from_region);
Datum
crm_phone_from_region(PG_FUNCTION_ARGS)
{
	text *value = PG_GETARG_TEXT_PP(0);
	char *region = text_to_cstring(PG_GETARG_TEXT_PP(1));

	if (!crm_region_is_known(region))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid region \"%s\"", crm_clip(region, strlen(region))),
						errhint("Use the two-letter code of a country (ISO 3166).")));
	region[0] = crm_ascii_upper(region[0]);
	region[1] = crm_ascii_upper(region[1]);
	PG_RETURN_TEXT_P(crm_phone_make(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), region, NULL));
}

PG_FUNCTION_INFO_V1(crm_phone_out);
Datum
crm_phone_out(PG_FUNCTION_ARGS)
{
	PG_RETURN_CSTRING(text_to_cstring(PG_GETARG_TEXT_PP(0)));
}

PG_FUNCTION_INFO_V1(crm_phone_recv);
Datum
crm_phone_recv(PG_FUNCTION_ARGS)
{
	StringInfo buf = (StringInfo) PG_GETARG_POINTER(0);
	int version = pq_getmsgbyte(buf);
	char *value;
	int len;

	crm_check_wire_version("crm.phone", version, PHONE_WIRE_VERSION);
	value = pq_getmsgtext(buf, buf->len - buf->cursor, &len);
	PG_RETURN_TEXT_P(crm_phone_make(value, len, crm_default_region_or_null(), NULL));
}

PG_FUNCTION_INFO_V1(crm_phone_send);
Datum
crm_phone_send(PG_FUNCTION_ARGS)
{
	text *phone = PG_GETARG_TEXT_PP(0);
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendbyte(&buf, PHONE_WIRE_VERSION);
	pq_sendtext(&buf, VARDATA_ANY(phone), VARSIZE_ANY_EXHDR(phone));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/* Splits a value into its number, for the shim, and its extension, NULL if there is none. */
static char *
crm_phone_parts(text *phone, char **extension)
{
	char *number = text_to_cstring(phone);
	size_t len = strlen(number);
	size_t at = crm_phone_number_length(number, len);

	*extension = at < len ? number + at + strlen(";ext=") : NULL;
	number[at] = '\0';
	return number;
}

/* Raises an error if the shim failed; what it does not know is no failure. */
static bool
crm_phone_shim_ok(CrmPhoneStatus status)
{
	if (status == CRM_PHONE_NO_MEMORY || status == CRM_PHONE_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not look up a telephone number"),
				 errdetail(status == CRM_PHONE_NO_MEMORY ? "libphonenumber ran out of memory."
														 : "libphonenumber failed.")));
	return status == CRM_PHONE_OK;
}

static Datum
crm_phone_show(text *phone, CrmPhoneFormat format)
{
	char shown[PHONE_SHOWN_MAX];
	char *extension;
	char *number = crm_phone_parts(phone, &extension);

	/* A number that the metadata does not know is shown as it is stored. */
	if (!crm_phone_shim_ok(crm_phone_shim_format(number, format, shown, sizeof(shown))))
		return PointerGetDatum(phone);
	if (extension != NULL)
		return CStringGetTextDatum(psprintf("%s ext. %s", shown, extension));
	return CStringGetTextDatum(shown);
}

PG_FUNCTION_INFO_V1(crm_phone_national);
Datum
crm_phone_national(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(crm_phone_show(PG_GETARG_TEXT_PP(0), CRM_PHONE_NATIONAL));
}

PG_FUNCTION_INFO_V1(crm_phone_international);
Datum
crm_phone_international(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(crm_phone_show(PG_GETARG_TEXT_PP(0), CRM_PHONE_INTERNATIONAL));
}

PG_FUNCTION_INFO_V1(crm_phone_region);
Datum
crm_phone_region(PG_FUNCTION_ARGS)
{
	char region[4];
	char *extension;
	char *number = crm_phone_parts(PG_GETARG_TEXT_PP(0), &extension);

	if (!crm_phone_shim_ok(crm_phone_shim_region(number, region, sizeof(region))))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(region));
}

PG_FUNCTION_INFO_V1(crm_phone_extension);
Datum
crm_phone_extension(PG_FUNCTION_ARGS)
{
	char *extension;

	crm_phone_parts(PG_GETARG_TEXT_PP(0), &extension);
	if (extension == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(extension));
}

PG_FUNCTION_INFO_V1(crm_phone_is_valid);
Datum
crm_phone_is_valid(PG_FUNCTION_ARGS)
{
	char *extension;
	char *number = crm_phone_parts(PG_GETARG_TEXT_PP(0), &extension);

	PG_RETURN_BOOL(crm_phone_shim_ok(crm_phone_shim_valid(number)));
}
