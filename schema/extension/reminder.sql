CREATE FUNCTION crm.now() RETURNS timestamptz
LANGUAGE C VOLATILE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_now_sql';

COMMENT ON FUNCTION crm.now() IS
'The clock by which reminders fire: the system''s time, as clock_timestamp() gives it.';

CREATE FUNCTION crm.reminder_wake() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_reminder_wake';

COMMENT ON FUNCTION crm.reminder_wake() IS
'Row trigger of a workspace''s reminder table: tells the scheduler, when the transaction commits, the least due time that was written.';

CREATE FUNCTION crm.run_due(max_events bigint DEFAULT NULL, workspace regnamespace DEFAULT NULL) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'crm_run_due';

COMMENT ON FUNCTION crm.run_due(bigint, regnamespace) IS
'Fires what is due, in the caller''s transaction: at most max_events reminders (NULL: all) of one workspace or of all workspaces of this database whose owner''s rights the caller has. Reminders locked by other transactions are left for later; another transaction that is firing is waited for. While the system''s clock, set far forward, is held, it is an error (55000). Returns the number of events written. Not needed while the scheduler runs.';

CREATE FUNCTION crm.scheduler_start() RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'crm_scheduler_start';

COMMENT ON FUNCTION crm.scheduler_start() IS
'Starts the scheduler of this cluster if crm is not in shared_preload_libraries, and returns "started" or "already running". Lasts until the server restarts; also tells a running scheduler to look at this database now.';

CREATE FUNCTION crm.scheduler_accept_clock() RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'crm_scheduler_accept_clock';

COMMENT ON FUNCTION crm.scheduler_accept_clock() IS
'Says that the system''s time is right after it was set forward by more than 15 minutes, so that firing goes on before crm.clock_hold has passed. Returns whether a step was held. For superusers and members of pg_signal_backend.';

CREATE FUNCTION crm._reminder_home(
    relation regclass, OUT database_id bigint, OUT system_id bigint, OUT table_id bigint, OUT written_xid bigint)
LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'crm_reminder_home';

COMMENT ON FUNCTION crm._reminder_home(regclass) IS
'What a workspace''s table reminder_home holds if its reminders are to fire in this database. The row must be written by the statement that calls this.';

CREATE FUNCTION crm._reminder_at_home(workspace regnamespace) RETURNS boolean
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_reminder_at_home_sql';

COMMENT ON FUNCTION crm._reminder_at_home(regnamespace) IS
'Whether a workspace''s reminders may fire in this database. False after it was restored or copied from another one, until it is adopted.';

CREATE FUNCTION crm.scheduler_adopt(workspace regnamespace DEFAULT NULL, catch_up text DEFAULT 'fire') RETURNS SETOF regnamespace
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    w regnamespace;
BEGIN
    IF catch_up IS NULL OR catch_up NOT IN ('fire', 'skip') THEN
        RAISE EXCEPTION 'unrecognized way to catch up: "%"', catch_up
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use fire or skip.';
    END IF;
    IF workspace IS NOT NULL AND NOT pg_has_role((SELECT n.nspowner FROM pg_namespace AS n WHERE n.oid = workspace), 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of workspace %', workspace
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    FOR w IN
        SELECT c.relnamespace::regnamespace
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relname = 'reminder_home' AND c.relkind = 'r' AND c.relnamespace = coalesce(workspace::oid, c.relnamespace)
          AND crm.is_workspace(c.relnamespace::regnamespace) AND pg_has_role(n.nspowner, 'USAGE')
        ORDER BY n.nspname
    LOOP
        CONTINUE WHEN crm._reminder_at_home(w);
        IF catch_up = 'skip' THEN
            EXECUTE format($sql$
                UPDATE %s.reminder AS r SET failed_at = crm.now(), failure = 'skipped: it was due before the workspace was adopted here'
                WHERE r.due_at <= crm.now() AND r.failed_at IS NULL$sql$, w);
        END IF;
        EXECUTE format('DELETE FROM %s.reminder_home', w);
        EXECUTE format('INSERT INTO %s.reminder_home (database_id, system_id, table_id, written_xid, adopted_by) '
                       'SELECT h.*, session_user FROM crm._reminder_home(%L) AS h', w, w || '.reminder_home');
        RETURN NEXT w;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm.scheduler_adopt(regnamespace, text) IS
'Lets the reminders of a workspace that was restored or copied from another database fire in this one; NULL: of all workspaces of which the caller has the owner''s rights. catch_up says what becomes of reminders that are due already: fire them, or skip them, which sets them aside (failed_at) with everything else they hold. Returns the workspaces adopted; one that is at home already is left alone. Only for a workspace''s owner (42501).';

CREATE FUNCTION crm.scheduler_status(
    OUT database name, OUT state text, OUT reason text, OUT pid integer, OUT next_due timestamptz, OUT backlog bigint,
    OUT oldest_due timestamptz, OUT set_aside bigint, OUT fired bigint, OUT batches bigint, OUT wakeups bigint,
    OUT p50 interval, OUT p95 interval, OUT p99 interval, OUT max_lateness interval, OUT lateness bigint[],
    OUT errors bigint, OUT error_at timestamptz, OUT error text, OUT mode text, OUT launcher_pid integer, OUT purged bigint)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'crm_scheduler_status';

COMMENT ON FUNCTION crm.scheduler_status() IS
'The scheduler, one row a database it knows; other databases than the current one are shown to members of pg_read_all_stats only. state, which reason explains: off, running, starting, idle (no worker is connected; the launcher starts one before next_due), waiting (for a free worker process), stopping (a command needs the database without connections), held (the clock was set far forward), quarantined (restored or copied from another database), backing off (the last worker failed). next_due: least due time the last worker knew. backlog, oldest_due, set_aside: reminders that are due and have not fired, the due time of the first of them, and those set aside by a failure; counted when asked, for the current database only, others have NULL. Counters start with the server. p50, p95, p99: upper bounds of lateness from the histogram. lateness[n] counts events written less than 2^(n-1) ms after they were due and not counted before, the last element all others. mode: preloaded, or dynamic if the scheduler does not outlive a restart of the server. purged: old events deleted, as the setting event_retention of their workspaces says.';
