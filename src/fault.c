/*
 * fault.c
 *		Reporting what a pure parser refused, in core's wording.
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"

#include "compat.h"
#include "fault.h"

char *
crm_clip(const char *value, size_t len)
{
	int shown;

	if (len <= CRM_CLIP_BYTES)
		return pnstrdup(value, len);
	shown = pg_mbcliplen(value, (int) len, CRM_CLIP_BYTES);
	return psprintf("%.*s...", shown, value);
}

void
crm_input_error(struct Node *escontext, const char *type, const char *value, size_t len,
				const CrmFault *fault)
{
	if (fault->broken)
		ereport(ERROR, (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
						errmsg("could not read a value of type %s", type),
						errdetail("%s", fault->detail)));
	errsave(escontext,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("invalid input syntax for type %s: \"%s\"", type, crm_clip(value, len)),
			 errdetail("%s", fault->detail), fault->hint ? errhint("%s", fault->hint) : 0));
}

void
crm_check_wire_version(const char *type, int version, int expected)
{
	if (version != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("unsupported version %d of the binary format of type %s", version, type),
				 errdetail("This version of crm reads version %d.", expected)));
}
