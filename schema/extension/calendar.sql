CREATE FUNCTION crm.calendar_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_calendar_changed';

COMMENT ON FUNCTION crm.calendar_changed() IS
'Statement trigger of a workspace''s calendar tables: tells every session, when the change commits, to read its calendars again.';

CREATE FUNCTION crm.business_between(workspace regnamespace, from_time timestamptz, to_time timestamptz, calendar text) RETURNS interval
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_business_between';

COMMENT ON FUNCTION crm.business_between(regnamespace, timestamptz, timestamptz, text) IS
'Working time from one instant to another by a calendar of the workspace, in hours and smaller units; negative if the second is earlier.';

CREATE FUNCTION crm.business_add(workspace regnamespace, start_time timestamptz, amount interval, calendar text) RETURNS timestamptz
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_business_add';

COMMENT ON FUNCTION crm.business_add(regnamespace, timestamptz, interval, text) IS
'The earliest instant by which so much working time has passed; if amount is negative, the latest one from which so much passes until start_time. amount has no days or months (22023). Working time is known from 1900 to 2199 (22008).';

CREATE FUNCTION crm.business_add_days(workspace regnamespace, start_time timestamptz, days integer, calendar text) RETURNS timestamptz
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_business_add_days';

COMMENT ON FUNCTION crm.business_add_days(regnamespace, timestamptz, integer, text) IS
'The same time of day so many days with working hours later, or earlier if days is negative.';

CREATE FUNCTION crm.business_open(workspace regnamespace, at_time timestamptz, calendar text) RETURNS boolean
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'crm_business_open';

COMMENT ON FUNCTION crm.business_open(regnamespace, timestamptz, text) IS
'Whether an instant lies in working hours, from the opening on and before the closing.';

CREATE FUNCTION crm._record_calendar(workspace regnamespace, working_time boolean, calendar text, owner_column name) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN calendar IS NOT NULL THEN format('%L::text', calendar)
            WHEN working_time THEN format('%s.calendar_of(new.%I)', workspace, owner_column)
            ELSE 'NULL::text' END;

COMMENT ON FUNCTION crm._record_calendar(regnamespace, boolean, text, name) IS
'SQL text: the calendar by which a rule counts time for record "new": its own, else, if it counts working time, that of the record''s owner; NULL if all time counts.';

CREATE FUNCTION crm.check_time_zone() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM now() AT TIME ZONE new.time_zone;
    RETURN new;
EXCEPTION WHEN invalid_parameter_value THEN
    RAISE EXCEPTION 'time zone "%" not recognized', new.time_zone
        USING ERRCODE = 'invalid_parameter_value', SCHEMA = tg_table_schema, TABLE = tg_table_name, COLUMN = 'time_zone',
              HINT = 'Names are like Europe/Berlin; pg_timezone_names lists them.';
END
$$;

COMMENT ON FUNCTION crm.check_time_zone() IS
'Row trigger of tables with a column time_zone: refuses a zone that this server does not know (22023).';
