/*
 * access_token.c
 *		Signed tokens that say who a session acts for: setting crm.token.
 *
 * A token is a JSON Web Token (RFC 7519) signed with HMAC-SHA-256 (HS256, RFC
 * 7515), so that any library of an application can make one.  No other
 * algorithm is known here, whatever a header says.  Claims:
 *
 *	sub		workspace and member, as in "sales/42"
 *	aud		name of the database
 *	exp		end, in seconds since 1970
 *	nbf		start, likewise; optional
 *	role	the token is only for a session whose user or current role is this; optional
 *
 * The subject is read before the signature is checked, to know whose keys to
 * check it with; nothing else is believed until then.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/cryptohash.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "access_scope.h"
#include "compat.h"
#include "crm.h"

/* Times beyond the year 5138 are mistakes: milliseconds instead of seconds. */
#define CRM_MAX_TOKEN_TIME 100000000000.0

static void
crm_token_invalid(const char *detail)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
					errmsg("invalid crm.token"), errdetail("%s", detail)));
}

/* Decodes unpadded base64url (RFC 4648 section 5); NULL if it is not. */
static char *
crm_base64url_decode(const char *src, size_t len, size_t *result_len)
{
	char *result = palloc(len * 3 / 4 + 1);
	size_t n = 0;
	uint32 buffer = 0;
	int bits = 0;

	for (size_t i = 0; i < len; i++)
	{
		char c = src[i];
		int value;

		if (c >= 'A' && c <= 'Z')
			value = c - 'A';
		else if (c >= 'a' && c <= 'z')
			value = c - 'a' + 26;
		else if (c >= '0' && c <= '9')
			value = c - '0' + 52;
		else if (c == '-')
			value = 62;
		else if (c == '_')
			value = 63;
		else
			return NULL;
		buffer = (buffer << 6) | value;
		bits += 6;
		if (bits >= 8)
		{
			bits -= 8;
			result[n++] = (char) ((buffer >> bits) & 0xFF);
		}
	}
	if (len % 4 == 1 || (buffer & ((1U << bits) - 1)) != 0)
		return NULL;
	result[n] = '\0';
	*result_len = n;
	return result;
}

/* A part of the token, as a JSON object. */
static Jsonb *
crm_token_object(const char *src, size_t len)
{
	size_t n;
	char *json = crm_base64url_decode(src, len, &n);
	Jsonb *object;

	if (json == NULL || strlen(json) != n || !pg_verifymbstr(json, n, true))
		crm_token_invalid("It is not three parts in base64url with dots between them.");
	object = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
	if (!JB_ROOT_IS_OBJECT(object))
		crm_token_invalid("Header and claims must be JSON objects.");
	return object;
}

static char *
crm_token_string(Jsonb *object, const char *key)
{
	JsonbValue value;

	if (getKeyJsonValueFromContainer(&object->root, key, strlen(key), &value) == NULL ||
		value.type != jbvString)
		return NULL;
	return pnstrdup(value.val.string.val, value.val.string.len);
}

/* A time claim; false if there is none. */
static bool
crm_token_time(Jsonb *object, const char *key, TimestampTz *time)
{
	JsonbValue value;
	double seconds;

	if (getKeyJsonValueFromContainer(&object->root, key, strlen(key), &value) == NULL)
		return false;
	if (value.type != jbvNumeric)
		crm_token_invalid("Times must be numbers.");
	seconds = DatumGetFloat8(
		DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(value.val.numeric)));
	if (!(seconds >= 0 && seconds <= CRM_MAX_TOKEN_TIME))
		crm_token_invalid("Times must be seconds since 1970.");
	*time = (TimestampTz) ((seconds -
							(double) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY) *
						   USECS_PER_SEC);
	return true;
}

/* Finds the dots: header . claims . signature */
static void
crm_token_split(const char *token, const char **claims, const char **signature)
{
	const char *dot = strchr(token, '.');

	*claims = dot ? dot + 1 : NULL;
	dot = dot ? strchr(dot + 1, '.') : NULL;
	*signature = dot ? dot + 1 : NULL;
	if (*signature == NULL || strchr(*signature, '.') != NULL)
		crm_token_invalid("It is not three parts in base64url with dots between them.");
}

/* Whom the token speaks of, not verified.  The buffer has NAMEDATALEN bytes. */
void
crm_token_subject(const char *token, char *schema, int64 *member)
{
	const char *claims;
	const char *signature;
	char *subject;

	crm_token_split(token, &claims, &signature);
	subject = crm_token_string(crm_token_object(claims, signature - 1 - claims), "sub");
	if (subject == NULL || !crm_parse_member(subject, schema, member))
		crm_token_invalid(
			"Claim \"sub\" must be a workspace and the id of a member, as in \"sales/42\".");
}

static void
crm_hmac_sha256(const uint8 *key, size_t key_len, const char *data, size_t len, uint8 *result)
{
	pg_hmac_ctx *ctx = pg_hmac_create(PG_SHA256);

	if (ctx == NULL || pg_hmac_init(ctx, key, key_len) < 0 ||
		pg_hmac_update(ctx, (const uint8 *) data, len) < 0 ||
		pg_hmac_final(ctx, result, PG_SHA256_DIGEST_LENGTH) < 0)
		elog(ERROR, "could not compute HMAC: %s", ctx ? pg_hmac_error(ctx) : "out of memory");
	pg_hmac_free(ctx);
}

/* In constant time, so that a signature cannot be guessed byte by byte. */
static bool
crm_same_digest(const uint8 *a, const uint8 *b)
{
	uint8 difference = 0;

	for (int i = 0; i < PG_SHA256_DIGEST_LENGTH; i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

/*
 * Errors unless one of the keys signed the token and it is for here and now.
 * Returns when it ends.
 */
TimestampTz
crm_token_verify(const char *token, Datum *keys, int nkeys)
{
	TimestampTz now = GetCurrentStatementStartTimestamp();
	const char *claims_part;
	const char *signature_part;
	char *signature;
	size_t signature_len;
	bool good = false;
	Jsonb *claims;
	char *value;
	TimestampTz expires;
	TimestampTz starts;

	crm_token_split(token, &claims_part, &signature_part);
	signature = crm_base64url_decode(signature_part, strlen(signature_part), &signature_len);
	for (int i = 0; i < nkeys && signature != NULL && signature_len == PG_SHA256_DIGEST_LENGTH; i++)
	{
		bytea *key = DatumGetByteaPP(keys[i]);
		uint8 digest[PG_SHA256_DIGEST_LENGTH];

		crm_hmac_sha256((const uint8 *) VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), token,
						signature_part - 1 - token, digest);
		good |= crm_same_digest(digest, (const uint8 *) signature);
	}
	if (!good)
		crm_token_invalid("The signature is not that of a key of the workspace.");

	value = crm_token_string(crm_token_object(token, claims_part - 1 - token), "alg");
	if (value == NULL || strcmp(value, "HS256") != 0)
		crm_token_invalid("The algorithm must be HS256.");
	claims = crm_token_object(claims_part, signature_part - 1 - claims_part);
	value = crm_token_string(claims, "aud");
	if (value == NULL || strcmp(value, get_database_name(MyDatabaseId)) != 0)
		crm_token_invalid("Claim \"aud\" must be the name of this database.");
	if (!crm_token_time(claims, "exp", &expires))
		crm_token_invalid("Claim \"exp\" is missing.");
	if (expires <= now)
		crm_token_invalid("It has expired.");
	if (crm_token_time(claims, "nbf", &starts) && starts > now)
		crm_token_invalid("It is not valid yet.");
	value = crm_token_string(claims, "role");
	if (value != NULL && strcmp(value, GetUserNameFromId(GetSessionUserId(), false)) != 0 &&
		(!OidIsValid(GetCurrentRoleId()) ||
		 strcmp(value, GetUserNameFromId(GetCurrentRoleId(), false)) != 0))
		crm_token_invalid("It is for another role.");
	return expires;
}

PG_FUNCTION_INFO_V1(crm_token_signature);
Datum
crm_token_signature(PG_FUNCTION_ARGS)
{
	bytea *key = PG_GETARG_BYTEA_PP(0);
	text *content = PG_GETARG_TEXT_PP(1);
	bytea *result = palloc(VARHDRSZ + PG_SHA256_DIGEST_LENGTH);

	SET_VARSIZE(result, VARHDRSZ + PG_SHA256_DIGEST_LENGTH);
	crm_hmac_sha256((const uint8 *) VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), VARDATA_ANY(content),
					VARSIZE_ANY_EXHDR(content), (uint8 *) VARDATA(result));
	PG_RETURN_BYTEA_P(result);
}
