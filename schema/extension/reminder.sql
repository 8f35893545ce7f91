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
'Fires what is due, in the caller''s transaction: at most max_events reminders (NULL: all) of one workspace or of all workspaces of this database whose owner''s rights the caller has. Reminders locked by other transactions are left for later; another transaction that is firing is waited for. Returns the number of events written. Not needed while the scheduler runs.';

CREATE FUNCTION crm.scheduler_start() RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'crm_scheduler_start';

COMMENT ON FUNCTION crm.scheduler_start() IS
'Starts the scheduler of this cluster if crm is not in shared_preload_libraries, and returns "started" or "already running". Lasts until the server restarts; also tells a running scheduler to look at this database now.';

CREATE FUNCTION crm.scheduler_status(
    OUT database name, OUT state text, OUT pid integer, OUT next_due timestamptz, OUT fired bigint, OUT batches bigint,
    OUT wakeups bigint, OUT max_lateness interval, OUT lateness bigint[], OUT errors bigint, OUT error_at timestamptz,
    OUT error text, OUT mode text, OUT launcher_pid integer)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'crm_scheduler_status';

COMMENT ON FUNCTION crm.scheduler_status() IS
'The scheduler, one row a database it knows; other databases than the current one are shown to members of pg_read_all_stats only. state: off (no launcher runs, or crm.scheduler is off), idle (no worker is connected; the launcher starts one before next_due), starting, running, stopping (a command needs the database without connections), backing off (the last worker failed). next_due: least due time known to the last worker. Counters start with the server. lateness[n] counts events written less than 2^(n-1) ms after they were due and not counted before, the last element all others. mode: preloaded, or dynamic if the scheduler does not outlive a restart of the server.';
