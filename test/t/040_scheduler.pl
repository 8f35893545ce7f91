# The worker fires what is due, when it is due, woken by the commit that makes it due earlier.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'crm'
max_prepared_transactions = 5
log_min_messages = info
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', q{CREATE EXTENSION crm CASCADE; CREATE EXTENSION crm_test; SELECT crm.create_workspace('sales'); SELECT crm.create_workspace('support');
	INSERT INTO sales.member (id, name) VALUES (1, 'Ann');
	INSERT INTO support.member (id, name) VALUES (1, 'Eve');});

sub status { return $node->safe_psql('shop', "SELECT $_[0] FROM crm.scheduler_status() WHERE database = 'shop'"); }

sub remind
{
	my ($title, $due) = @_;
	return "INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, $due, '$title');";
}

sub fired
{
	my ($title, $name) = @_;
	ok($node->poll_query_until('shop', "SELECT count(*) = 1 FROM sales.event WHERE title = '$title'"), $name);
}

# What every reminder has become: pending or one event, never both, never two.
sub oracle
{
	my ($expected, $name) = @_;
	is($node->safe_psql('shop', q{
		SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM sales.reminder UNION ALL SELECT reminder_id FROM sales.event) AS r}),
		"$expected|$expected", $name);
}

$node->safe_psql('shop', remind('past', "now() - interval '1 day'"));
fired('past', 'a reminder in the past fires at once');
is(status('mode'), 'preloaded', 'the scheduler says how it was started');
ok($node->poll_query_until('shop', q{SELECT state = 'running' AND pid IS NOT NULL FROM crm.scheduler_status()}), 'a worker runs');

# Sleeping: nothing is due for a day; then something earlier is committed.
$node->safe_psql('shop', remind('tomorrow', "now() + interval '1 day'"));
$node->safe_psql('shop', remind('soon', "clock_timestamp() + interval '300 ms'"));
fired('soon', 'an earlier reminder wakes the worker');
is($node->safe_psql('shop', q{SELECT fired_at >= due_at AND fired_at < due_at + interval '1 s' FROM sales.event WHERE title = 'soon'}),
	't', 'not before its time and not a second after');
is(status(q{next_due IS NOT NULL AND next_due > now() + interval '1 hour'}), 't', 'the next due time is known');

# Moved earlier, moved later, and cancelled.
$node->safe_psql('shop', q{UPDATE sales.reminder SET due_at = now() WHERE title = 'tomorrow'});
fired('tomorrow', 'a reminder moved to now fires');
$node->safe_psql('shop', 'BEGIN;' . remind('moved', 'now()') . q{UPDATE sales.reminder SET due_at = now() + interval '1 day' WHERE title = 'moved'; COMMIT});
$node->safe_psql('shop', remind('after moved', 'now()'));
fired('after moved', 'a later one fires');
is($node->safe_psql('shop', q{SELECT count(*) FROM sales.reminder WHERE title = 'moved'}), '1', 'one moved away in its own transaction does not');

# Rolled back, as a whole and in part.
$node->safe_psql('shop', 'BEGIN;' . remind('rolled back', 'now()') . 'ROLLBACK');
$node->safe_psql('shop', 'BEGIN; SAVEPOINT s;' . remind('undone', 'now()') . 'ROLLBACK TO s;' . remind('kept', 'now()') . 'COMMIT');
fired('kept', 'what a savepoint leaves fires');
is($node->safe_psql('shop', q{SELECT count(*) FROM sales.event WHERE title IN ('rolled back', 'undone')}), '0', 'what was rolled back does not');

# Prepared in one session, committed in another that never touched crm.
$node->safe_psql('shop', 'BEGIN;' . remind('prepared', 'now()') . q{PREPARE TRANSACTION 'p'});
$node->safe_psql('shop', remind('meanwhile', 'now()'));
fired('meanwhile', 'a prepared transaction holds nobody up');
$node->safe_psql('shop', q{COMMIT PREPARED 'p'});
fired('prepared', 'a prepared transaction fires once committed');

# A second workspace, COPY, and a function.
$node->safe_psql('shop', q{INSERT INTO support.reminder (member_id, due_at, title) VALUES (1, now(), 'other workspace')});
ok($node->poll_query_until('shop', q{SELECT count(*) = 1 FROM support.event}), 'each workspace has its own events');
$node->safe_psql('shop', "COPY sales.reminder (member_id, due_at, title) FROM STDIN;\n1\t2020-01-01\tcopied\n\\.\n");
fired('copied', 'COPY wakes the worker too');

# The test clock: an hour passes at once.
$node->safe_psql('shop', remind('in an hour', "crm.now() + interval '1 hour'"));
$node->safe_psql('shop', q{SELECT crm_test.shift_clock('61 minutes')});
fired('in an hour', 'when the clock is moved, the worker notices');
$node->safe_psql('shop', q{SELECT crm_test.shift_clock('0')});

# Off and on.
$node->safe_psql('postgres', 'ALTER SYSTEM SET crm.scheduler = off');
$node->reload;
ok($node->poll_query_until('shop', q{SELECT state = 'off' AND pid IS NULL FROM crm.scheduler_status()}), 'crm.scheduler = off sends the workers away');
$node->safe_psql('shop', remind('while off', 'now()'));
is($node->safe_psql('shop', q{SELECT count(*) FROM sales.event WHERE title = 'while off'}), '0', 'nothing fires');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET crm.scheduler');
$node->reload;
fired('while off', 'until it is on again');

# Restart: what came due meanwhile fires.
$node->safe_psql('shop', remind('over the restart', "clock_timestamp() + interval '200 ms'"));
$node->restart;
fired('over the restart', 'what came due while the server was down fires');

# How late: counted by powers of two of milliseconds.
$node->safe_psql('shop', remind('an hour late', "now() - interval '1 hour'"));
fired('an hour late', 'one that is late fires');
is($node->safe_psql('shop', q{
	SELECT s.fired, (SELECT sum(l) FROM unnest(s.lateness) AS l), (SELECT sum(l) FROM unnest(s.lateness) WITH ORDINALITY AS l (l, n) WHERE 2 ^ (n - 2) > 1000000),
		s.max_lateness BETWEEN interval '1 hour' AND interval '1 hour 1 minute', s.p50 < interval '1 hour' AND s.p50 <= s.p95 AND s.p95 <= s.p99 AND s.p99 = s.max_lateness
	FROM crm.scheduler_status() AS s WHERE s.database = 'shop'}), '2|2|1|t|t', 'the status counts how late events were');

# From PostgreSQL 17 on wait events have names.
my ($launcher, $worker) = $node->safe_psql('shop', q{SELECT current_setting('server_version_num')::int >= 170000}) eq 't' ? ('CrmLauncherMain', 'CrmWorkerMain') : ('Extension', 'Extension');
ok($node->poll_query_until('shop', qq{SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND (backend_type, wait_event) IN (('crm launcher', '$launcher'), ('crm worker', '$worker'))}),
	'launcher and worker say what they wait for');
is($node->safe_psql('shop', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'crm worker' AND xact_start IS NOT NULL}), '0',
	'a worker that waits is in no transaction');
oracle(13, 'every reminder is pending or has one event');

$node->stop('fast');
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|was terminated by signal/, 'nothing crashed');
done_testing();
