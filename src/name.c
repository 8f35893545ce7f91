/*
 * name.c
 *		Name keys and similarity for SQL and for the rest of crm.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "compat.h"
#include "name.h"

CrmName *
crm_name_parse(const char *utf8, size_t len)
{
	CrmNameBuffer buffer;
	CrmName *parsed = crm_name_parse_into(utf8, len, &buffer);
	Size tokens_size = sizeof(CrmNameToken) * parsed->ntokens;
	Size text_size = 0;
	CrmName *name;
	char *text;

	/* One chunk: the name, its tokens, their text. */
	for (int i = 0; i < parsed->ntokens; i++)
		text_size += parsed->tokens[i].len;
	name = palloc(MAXALIGN(sizeof(CrmName)) + tokens_size + text_size + 1);
	*name = *parsed;
	name->tokens = (CrmNameToken *) ((char *) name + MAXALIGN(sizeof(CrmName)));
	memcpy(name->tokens, parsed->tokens, tokens_size);
	text = (char *) name->tokens + tokens_size;
	for (int i = 0; i < name->ntokens; i++)
	{
		memcpy(text, name->tokens[i].text, name->tokens[i].len);
		name->tokens[i].text = text;
		text += name->tokens[i].len;
	}
	*text = 0;
	return name;
}

char *
crm_name_key(const char *utf8, size_t len, size_t *outlen)
{
	CrmNameBuffer buffer;
	char key[CRM_NAME_MAX_TEXT];

	*outlen = crm_name_write_key(crm_name_parse_into(utf8, len, &buffer), key);
	return pnstrdup(key, *outlen);
}

float
crm_name_similarity(const char *a, size_t alen, const char *b, size_t blen)
{
	CrmNameBuffer abuffer, bbuffer;

	return crm_name_compare(crm_name_parse_into(a, alen, &abuffer),
							crm_name_parse_into(b, blen, &bbuffer));
}

PG_FUNCTION_INFO_V1(crm_name_key_sql);
Datum
crm_name_key_sql(PG_FUNCTION_ARGS)
{
	text *input = PG_GETARG_TEXT_PP(0);
	CrmNameBuffer buffer;
	char key[CRM_NAME_MAX_TEXT];
	size_t len;

	len = crm_name_write_key(
		crm_name_parse_into(VARDATA_ANY(input), VARSIZE_ANY_EXHDR(input), &buffer), key);
	PG_FREE_IF_COPY(input, 0);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(key, (int) len));
}

PG_FUNCTION_INFO_V1(crm_name_similarity_sql);
Datum
crm_name_similarity_sql(PG_FUNCTION_ARGS)
{
	text *a = PG_GETARG_TEXT_PP(0);
	text *b = PG_GETARG_TEXT_PP(1);
	float similarity = crm_name_similarity(VARDATA_ANY(a), VARSIZE_ANY_EXHDR(a), VARDATA_ANY(b),
										   VARSIZE_ANY_EXHDR(b));

	PG_FREE_IF_COPY(a, 0);
	PG_FREE_IF_COPY(b, 1);
	PG_RETURN_FLOAT4(similarity);
}

PG_FUNCTION_INFO_V1(crm_name_parts);
Datum
crm_name_parts(PG_FUNCTION_ARGS)
{
	static const char *const kinds[] = {"core",	  "legal_form", "branch",
										"region", "group",		"industry"};
	static const char *const scripts[] = {"other", "latin",	 "digits",	 "han",
										  "kana",  "hangul", "cyrillic", "greek"};
	text *input = PG_GETARG_TEXT_PP(0);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CrmNameBuffer buffer;
	CrmName *name = crm_name_parse_into(VARDATA_ANY(input), VARSIZE_ANY_EXHDR(input), &buffer);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < name->ntokens; i++)
	{
		const CrmNameToken *token = &name->tokens[i];
		Datum values[4];
		bool nulls[4] = {false, false, false, false};

		values[0] = Int32GetDatum(i + 1);
		values[1] = PointerGetDatum(cstring_to_text_with_len(token->text, token->len));
		values[2] = CStringGetTextDatum(kinds[token->kind]);
		values[3] = CStringGetTextDatum(scripts[token->script]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
