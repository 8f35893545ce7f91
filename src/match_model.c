/*
 * match_model.c
 *		What each level of agreement weighs.
 *
 * A level weighs `weight` bits, and `rarity` of the bits of evidence behind it:
 * how rare the value is that both records have, or the pieces of it they share.
 * With rarity 1 a level follows how common the value is in the user's own data;
 * with rarity 0 it weighs the same whatever the value.
 *
 * The weights here hold for every table, untrained.  Active rows of a table
 * match_model of the same schema replace those of single levels.  A backend
 * reads them once a table; whoever writes them sends a relcache invalidation
 * for the table they are about, and the next comparison reads again.
 */
#include "postgres.h"

#include <math.h>

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "crm.h"
#include "invalidation.h"
#include "match.h"

static const char *const field_names[MATCH_NFIELDS] = {
	[FIELD_NAME] = "name",
	[FIELD_BRANCH] = "branch",
	[FIELD_BUSINESS] = "business",
	[FIELD_LEGAL_FORM] = "legal_form",
	[FIELD_PERSON] = "person",
	[FIELD_GENERATION] = "generation",
	[FIELD_BIRTH_DATE] = "birth_date",
	[FIELD_NATIONAL_ID] = "national_id",
	[FIELD_TAX_ID] = "tax_id",
	[FIELD_PHONE] = "phone",
	[FIELD_EMAIL] = "email",
	[FIELD_DOMAIN] = "domain",
	[FIELD_ADDRESS] = "address",
	[FIELD_PRIOR] = "prior",
};

typedef struct MatchLevelInfo
{
	MatchField field;
	const char *name;
} MatchLevelInfo;

static const MatchLevelInfo levels[MATCH_NLEVELS] = {
	[NAME_EQUAL] = {FIELD_NAME, "equal"},
	[NAME_SOUNDS_EQUAL] = {FIELD_NAME, "sounds equal"},
	[NAME_EQUAL_CORE] = {FIELD_NAME, "equal core"},
	[NAME_ABBREVIATION] = {FIELD_NAME, "abbreviation"},
	[NAME_SLIP] = {FIELD_NAME, "slip"},
	[NAME_SIMILAR] = {FIELD_NAME, "similar"},
	[NAME_PARTLY_SIMILAR] = {FIELD_NAME, "partly similar"},
	[NAME_SAME_READING] = {FIELD_NAME, "same in another script"},
	[NAME_OTHER_SCRIPT] = {FIELD_NAME, "another script"},
	[NAME_DIFFERENT] = {FIELD_NAME, "different"},
	[BRANCH_OF] = {FIELD_BRANCH, "branch of"},
	[BRANCH_DIFFERENT] = {FIELD_BRANCH, "different"},
	[BRANCH_MARK_LOST] = {FIELD_BRANCH, "mark lost"},
	[BRANCH_SLIP] = {FIELD_BRANCH, "slip"},
	[BUSINESS_DIFFERENT] = {FIELD_BUSINESS, "different"},
	[BUSINESS_PARTLY] = {FIELD_BUSINESS, "partly different"},
	[BUSINESS_MORE] = {FIELD_BUSINESS, "one has more"},
	[LEGAL_FORM_DIFFERENT] = {FIELD_LEGAL_FORM, "different"},
	[PERSON_EQUAL] = {FIELD_PERSON, "equal"},
	[PERSON_SWAPPED] = {FIELD_PERSON, "swapped"},
	[PERSON_SOUNDS_EQUAL] = {FIELD_PERSON, "sounds equal"},
	[PERSON_INITIAL] = {FIELD_PERSON, "initial"},
	[PERSON_SHORT_FORM] = {FIELD_PERSON, "short form"},
	[PERSON_SIMILAR] = {FIELD_PERSON, "similar"},
	[PERSON_PARTLY_SIMILAR] = {FIELD_PERSON, "partly similar"},
	[PERSON_UNLIKE] = {FIELD_PERSON, "unlike"},
	[PERSON_DIFFERENT] = {FIELD_PERSON, "different"},
	[GENERATION_DIFFERENT] = {FIELD_GENERATION, "different"},
	[GENERATION_UNTOLD] = {FIELD_GENERATION, "told by one"},
	[BIRTH_DATE_EQUAL] = {FIELD_BIRTH_DATE, "equal"},
	[BIRTH_DATE_SLIP] = {FIELD_BIRTH_DATE, "one slip"},
	[BIRTH_DATE_NEAR] = {FIELD_BIRTH_DATE, "near"},
	[BIRTH_DATE_YEAR] = {FIELD_BIRTH_DATE, "within a year"},
	[BIRTH_DATE_GENERATION] = {FIELD_BIRTH_DATE, "a generation apart"},
	[BIRTH_DATE_DIFFERENT] = {FIELD_BIRTH_DATE, "different"},
	[NATIONAL_ID_EQUAL] = {FIELD_NATIONAL_ID, "equal"},
	[NATIONAL_ID_SLIP] = {FIELD_NATIONAL_ID, "one slip"},
	[NATIONAL_ID_TWO_SLIPS] = {FIELD_NATIONAL_ID, "two slips"},
	[NATIONAL_ID_DIFFERENT] = {FIELD_NATIONAL_ID, "different"},
	[TAX_ID_EQUAL] = {FIELD_TAX_ID, "equal"},
	[TAX_ID_SLIP] = {FIELD_TAX_ID, "one slip"},
	[TAX_ID_DIFFERENT] = {FIELD_TAX_ID, "different"},
	[TAX_ID_BOTH_VALID] = {FIELD_TAX_ID, "both valid, different"},
	[PHONE_EQUAL] = {FIELD_PHONE, "equal"},
	[PHONE_SLIP] = {FIELD_PHONE, "one slip"},
	[PHONE_DIFFERENT] = {FIELD_PHONE, "different"},
	[EMAIL_EQUAL] = {FIELD_EMAIL, "equal"},
	[EMAIL_LOCAL_PART] = {FIELD_EMAIL, "equal before the @"},
	[EMAIL_SIMILAR] = {FIELD_EMAIL, "similar"},
	[EMAIL_NAMED] = {FIELD_EMAIL, "made of the name"},
	[EMAIL_DIFFERENT] = {FIELD_EMAIL, "different"},
	[DOMAIN_EQUAL] = {FIELD_DOMAIN, "equal"},
	[DOMAIN_NAMED] = {FIELD_DOMAIN, "equal, like the name"},
	[DOMAIN_DIFFERENT] = {FIELD_DOMAIN, "different"},
	[ADDRESS_EQUAL] = {FIELD_ADDRESS, "equal"},
	[ADDRESS_SIMILAR] = {FIELD_ADDRESS, "similar"},
	[ADDRESS_SAME_PLACE] = {FIELD_ADDRESS, "same place"},
	[ADDRESS_OTHER_PLACE] = {FIELD_ADDRESS, "other place"},
	[PRIOR_COMPANY] = {FIELD_PRIOR, "companies"},
	[PRIOR_PERSON] = {FIELD_PRIOR, "persons"},
};

const MatchModel crm_default_match_model = {
	.level =
		{
			[NAME_EQUAL] = {0, 1},
			[NAME_SOUNDS_EQUAL] = {-1.5, 1},
			[NAME_EQUAL_CORE] = {0, 1},
			[NAME_ABBREVIATION] = {0, 1},
			[NAME_SLIP] = {0, 1},
			[NAME_SIMILAR] = {0, 1},
			[NAME_PARTLY_SIMILAR] = {0, 1},
			[NAME_SAME_READING] = {0, 0.8},
			[NAME_OTHER_SCRIPT] = {-2, 0},
			[NAME_DIFFERENT] = {0, 1},
			[BRANCH_OF] = {-12, 0},
			[BRANCH_DIFFERENT] = {-9, 0},
			[BRANCH_MARK_LOST] = {-1, 0},
			[BRANCH_SLIP] = {-1, 0},
			[BUSINESS_DIFFERENT] = {-5, 0},
			[BUSINESS_PARTLY] = {-4, 0},
			[BUSINESS_MORE] = {-1, 0},
			[LEGAL_FORM_DIFFERENT] = {-3.5, 0},
			[PERSON_EQUAL] = {-0.2, 1},
			[PERSON_SWAPPED] = {-1, 1},
			[PERSON_SOUNDS_EQUAL] = {-2, 1},
			[PERSON_INITIAL] = {2, 0},
			[PERSON_SHORT_FORM] = {0, 0.5},
			[PERSON_SIMILAR] = {1, 0.55},
			[PERSON_PARTLY_SIMILAR] = {1, 0.2},
			[PERSON_UNLIKE] = {0, 0},
			[PERSON_DIFFERENT] = {-5, 0},
			[GENERATION_DIFFERENT] = {-8, 0},
			[GENERATION_UNTOLD] = {-1, 0},
			[BIRTH_DATE_EQUAL] = {-0.2, 1},
			[BIRTH_DATE_SLIP] = {5.5, 0},
			[BIRTH_DATE_NEAR] = {3, 0},
			[BIRTH_DATE_YEAR] = {0.5, 0},
			[BIRTH_DATE_GENERATION] = {-3.5, 0},
			[BIRTH_DATE_DIFFERENT] = {-3.5, 0},
			[NATIONAL_ID_EQUAL] = {0, 1},
			[NATIONAL_ID_SLIP] = {8, 0},
			[NATIONAL_ID_TWO_SLIPS] = {3, 0},
			[NATIONAL_ID_DIFFERENT] = {-4.5, 0},
			[TAX_ID_EQUAL] = {0, 1},
			[TAX_ID_SLIP] = {0, 0},
			[TAX_ID_DIFFERENT] = {-16, 0},
			[TAX_ID_BOTH_VALID] = {-20, 0},
			[PHONE_EQUAL] = {-0.5, 1},
			[PHONE_SLIP] = {8, 0},
			[PHONE_DIFFERENT] = {-1.5, 0},
			[EMAIL_EQUAL] = {-0.5, 1},
			[EMAIL_LOCAL_PART] = {0, 0.6},
			[EMAIL_SIMILAR] = {6, 0},
			[EMAIL_NAMED] = {0.5, 0},
			[EMAIL_DIFFERENT] = {-1.5, 0},
			[DOMAIN_EQUAL] = {0, 0.7},
			[DOMAIN_NAMED] = {0, 0.3},
			[DOMAIN_DIFFERENT] = {-2, 0},
			[ADDRESS_EQUAL] = {-0.5, 1},
			[ADDRESS_SIMILAR] = {0, 1},
			[ADDRESS_SAME_PLACE] = {0, 1},
			[ADDRESS_OTHER_PLACE] = {0, 1},
			[PRIOR_COMPANY] = {0, 0},
			[PRIOR_PERSON] = {3, 0},
		},
};

const char *
crm_match_field_name(MatchField field)
{
	return field_names[field];
}

const char *
crm_match_level_name(MatchLevel level)
{
	return levels[level].name;
}

MatchField
crm_match_level_field(MatchLevel level)
{
	return levels[level].field;
}

/* Level of a field by name; LEVEL_NONE if there is none. */
static MatchLevel
crm_match_level(const char *field, const char *level)
{
	for (int i = LEVEL_NONE + 1; i < MATCH_NLEVELS; i++)
		if (strcmp(field_names[levels[i].field], field) == 0 && strcmp(levels[i].name, level) == 0)
			return i;
	return LEVEL_NONE;
}

typedef struct ModelEntry
{
	Oid relid; /* hash key */
	bool valid;
	Oid table; /* its match_model, InvalidOid = none */
	MatchModel model;
} ModelEntry;

static HTAB *model_cache = NULL;
static int64 model_loads = 0; /* read by a test */

static void
crm_model_invalidate(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	ModelEntry *entry;

	hash_seq_init(&seq, model_cache);
	while ((entry = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || entry->relid == relid || entry->table == relid)
			entry->valid = false;
}

static void
crm_model_init(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(ModelEntry);
	ctl.hcxt = AllocSetContextCreate(TopMemoryContext, "crm match models", ALLOCSET_SMALL_SIZES);
	model_cache = hash_create("crm match models", 8, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	crm_register_relcache_callback(crm_model_invalidate, (Datum) 0);
}

/* A weight as stored; the table's constraints may have been dropped. */
static bool
crm_weight_ok(float weight, float rarity)
{
	return fabsf(weight) <= MATCH_WEIGHT_MOST && rarity >= 0 && rarity <= MATCH_RARITY_MOST;
}

/*
 * Reads the rows of a version about a table, or the active ones (0), into the
 * defaults; the number of rows.  They are read with the rights of whoever owns
 * them, not of the caller: everyone's comparisons are guided by them.
 */
static int
crm_model_read(Oid relid, Oid table, int64 version, MatchModel *model)
{
	static const struct
	{
		const char *name;
		Oid type;
	} column[] = {{"relation", TEXTOID}, {"active", BOOLOID}, {"version", INT8OID},
				  {"field", TEXTOID},	 {"level", TEXTOID},  {"weight", FLOAT4OID},
				  {"rarity", FLOAT4OID}};
	AttrNumber attnum[lengthof(column)];
	char *relname = get_rel_name(relid);
	Relation rel;
	TableScanDesc scan;
	TupleTableSlot *slot;
	Snapshot snapshot;
	int rows = 0;

	*model = crm_default_match_model;
	if (!OidIsValid(table) || relname == NULL || get_rel_relkind(table) != RELKIND_RELATION)
		return 0;
	for (int i = 0; i < (int) lengthof(column); i++)
	{
		attnum[i] = get_attnum(table, column[i].name);
		if (attnum[i] == InvalidAttrNumber || get_atttype(table, attnum[i]) != column[i].type)
			return 0; /* a table of that name, but not ours */
	}
	rel = table_open(table, AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = table_beginscan(rel, snapshot, 0, NULL);
	slot = table_slot_create(rel, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		Datum value[lengthof(column)];
		bool null = false, isnull;
		MatchLevel level;

		for (int i = 0; i < (int) lengthof(column); i++)
		{
			value[i] = slot_getattr(slot, attnum[i], &isnull);
			null = null || isnull;
		}
		if (null || strcmp(TextDatumGetCString(value[0]), relname) != 0 ||
			!(version != 0 ? DatumGetInt64(value[2]) == version : DatumGetBool(value[1])))
			continue;
		level = crm_match_level(TextDatumGetCString(value[3]), TextDatumGetCString(value[4]));
		rows++;
		/* A level of another release, restored from a dump, is passed over. */
		if (level != LEVEL_NONE &&
			crm_weight_ok(DatumGetFloat4(value[5]), DatumGetFloat4(value[6])))
		{
			model->level[level].weight = DatumGetFloat4(value[5]);
			model->level[level].rarity = DatumGetFloat4(value[6]);
		}
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return rows;
}

static Oid
crm_model_table(Oid relid)
{
	return get_relname_relid("match_model", get_rel_namespace(relid));
}

const MatchModel *
crm_match_model(Oid relid)
{
	ModelEntry *entry;
	bool found;

	if (model_cache == NULL)
		crm_model_init();
	entry = hash_search(model_cache, &relid, HASH_ENTER, &found);
	if (!found)
		entry->valid = false;
	if (entry->valid)
		return &entry->model;
	entry->table = InvalidOid;
	/* An invalidation that arrives while loading must not be lost. */
	entry->valid = true;
	PG_TRY();
	{
		entry->table = crm_model_table(relid);
		crm_model_read(relid, entry->table, 0, &entry->model);
	}
	PG_CATCH();
	{
		entry->valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	model_loads++;
	return &entry->model;
}

bool
crm_match_model_version(Oid relid, int64 version, MatchModel *model)
{
	if (version != 0)
		return crm_model_read(relid, crm_model_table(relid), version, model) > 0;
	*model = crm_default_match_model;
	return true;
}

/* crm.match_levels(relation) -> (field, level, weight, rarity); NULL: the defaults */
PG_FUNCTION_INFO_V1(crm_match_levels);
Datum
crm_match_levels(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const MatchModel *model =
		PG_ARGISNULL(0) ? &crm_default_match_model : crm_match_model(PG_GETARG_OID(0));

	InitMaterializedSRF(fcinfo, 0);
	for (int i = LEVEL_NONE + 1; i < MATCH_NLEVELS; i++)
	{
		Datum values[4];
		bool nulls[4] = {false, false, false, false};

		values[0] = CStringGetTextDatum(field_names[levels[i].field]);
		values[1] = CStringGetTextDatum(levels[i].name);
		values[2] = Float4GetDatum(model->level[i].weight);
		values[3] = Float4GetDatum(model->level[i].rarity);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

static char *
crm_row_text(TriggerData *trigger, HeapTuple row, const char *column)
{
	return SPI_getvalue(row, RelationGetDescr(trigger->tg_relation),
						SPI_fnumber(RelationGetDescr(trigger->tg_relation), column));
}

/* Before a row of match_model is written: are there such a field and level? */
PG_FUNCTION_INFO_V1(crm_match_model_check);
Datum
crm_match_model_check(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HeapTuple row;
	char *field, *level;
	StringInfoData known;
	bool field_known = false;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) || TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("crm.match_model_check() must be called BEFORE INSERT OR UPDATE, "
							   "FOR EACH ROW")));
	row = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : trigger->tg_trigtuple;
	field = crm_row_text(trigger, row, "field");
	level = crm_row_text(trigger, row, "level");
	if (field == NULL || level == NULL || crm_match_level(field, level) != LEVEL_NONE)
		return PointerGetDatum(row);

	initStringInfo(&known);
	for (int i = LEVEL_NONE + 1; i < MATCH_NLEVELS; i++)
		if (strcmp(field_names[levels[i].field], field) == 0)
		{
			appendStringInfo(&known, "%s\"%s\"", known.len > 0 ? ", " : "", levels[i].name);
			field_known = true;
		}
	if (field_known)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("field \"%s\" has no level \"%s\"", field, level),
						errdetail("Its levels are %s.", known.data)));
	for (int i = 0; i < MATCH_NFIELDS; i++)
		appendStringInfo(&known, "%s%s", i > 0 ? ", " : "", field_names[i]);
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("\"%s\" is no field that is compared", field),
					errdetail("Fields are %s.", known.data)));
}

static void
crm_model_row_changed(TriggerData *trigger, HeapTuple row)
{
	char *name = crm_row_text(trigger, row, "relation");
	Oid relid;

	if (name == NULL)
		return;
	relid = get_relname_relid(name, RelationGetNamespace(trigger->tg_relation));
	if (OidIsValid(relid))
		CacheInvalidateRelcacheByRelid(relid);
}

/* After a row of match_model was written: whoever compares by it reads again. */
PG_FUNCTION_INFO_V1(crm_match_model_changed);
Datum
crm_match_model_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("crm.match_model_changed() must be called AFTER, FOR EACH ROW")));
	crm_model_row_changed(trigger, trigger->tg_trigtuple);
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		crm_model_row_changed(trigger, trigger->tg_newtuple);
	return PointerGetDatum(NULL);
}

PG_FUNCTION_INFO_V1(crm_match_model_loads);
Datum
crm_match_model_loads(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(model_loads);
}
