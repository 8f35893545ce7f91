\echo Use "CREATE EXTENSION crm_test" to load this file. \quit

-- The clock of the whole cluster, shifted by an interval; returns the new time.
CREATE FUNCTION crm_test._clock_shift(microseconds bigint) RETURNS timestamptz
LANGUAGE C VOLATILE STRICT AS '$libdir/crm', 'crm_clock_shift';

CREATE FUNCTION crm_test.shift_clock(shift interval) RETURNS timestamptz
LANGUAGE sql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm_test._clock_shift((extract(epoch FROM shift) * 1000000)::bigint) $$;

-- The system's clock as if somebody had set it, by an interval; 0 sets it right.
CREATE FUNCTION crm_test._clock_step(microseconds bigint) RETURNS timestamptz
LANGUAGE C VOLATILE STRICT AS '$libdir/crm', 'crm_clock_step';

CREATE FUNCTION crm_test.step_clock(step interval) RETURNS timestamptz
LANGUAGE sql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS $$ SELECT crm_test._clock_step((extract(epoch FROM step) * 1000000)::bigint) $$;

CREATE FUNCTION crm_test.reminders_plain() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS '$libdir/crm', 'crm_reminders_plain_count';

COMMENT ON FUNCTION crm_test.reminders_plain() IS
'How many reminders this backend fired without the executor.';

CREATE FUNCTION crm_test.plans() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'crm_test_plans';

COMMENT ON FUNCTION crm_test.plans() IS
'How many statements this backend planned since the module was loaded.';

CREATE FUNCTION crm_test.audit_rebuilds() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS '$libdir/crm', 'crm_audit_rebuild_count';

COMMENT ON FUNCTION crm_test.audit_rebuilds() IS
'How often this backend looked up the fixed parts of an audit trigger.';

CREATE FUNCTION crm_test.audit_rows_direct() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS '$libdir/crm', 'crm_audit_direct_count';

COMMENT ON FUNCTION crm_test.audit_rows_direct() IS
'How many rows this backend wrote to audit logs without the executor.';

CREATE FUNCTION crm_test.stage_rebuilds() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS '$libdir/crm', 'crm_stage_rebuilds';

COMMENT ON FUNCTION crm_test.stage_rebuilds() IS
'How often this backend compiled the stage rules of a table.';

-- How often this session has read a calendar.
CREATE FUNCTION crm_test.calendar_reads() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS '$libdir/crm', 'crm_calendar_read_count';

CREATE FUNCTION crm_test.duplicate_chunks_helped() RETURNS bigint
LANGUAGE C VOLATILE STRICT AS '$libdir/crm', 'crm_duplicate_helped';

COMMENT ON FUNCTION crm_test.duplicate_chunks_helped() IS
'How many chunks of rows parallel workers have looked up for duplicate rules of this session.';
