# Cursors without gaps: while sessions write reminders and several fire them, a
# consumer that remembers one number sees every event once, and in order.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'crm'\ncrm.batch_size = 20\n");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION crm CASCADE;
	SELECT crm.create_workspace('sales');
	INSERT INTO sales.member (id, name) VALUES (1, 'Ann');
	CREATE TABLE seen (n bigint GENERATED ALWAYS AS IDENTITY, id bigint);
	SELECT * FROM sales.read_events('reader')});

# Some transactions fire by hand and roll back: the ids they took are never seen.
my $script = $node->basedir . '/load.sql';
append_to_file($script, <<'SQL');
\set what random(1, 10)
INSERT INTO sales.reminder (member_id, due_at, title) SELECT 1, clock_timestamp(), 'r' FROM generate_series(1, 5);
\set rolled_back :what = 1
\set fired :what <= 3
\if :rolled_back
BEGIN; SELECT crm.run_due(7); ROLLBACK;
\elif :fired
SELECT crm.run_due(11);
\endif
SQL
my ($out, $err) = ('', '');
my $load = IPC::Run::start(
	[ 'pgbench', '-n', '-c', '4', '-t', '150', '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
	'>', \$out, '2>', \$err);
my $read = q{
	WITH e AS (SELECT id FROM sales.read_events('reader', 100)), s AS (INSERT INTO seen (id) SELECT id FROM e ORDER BY id RETURNING id)
	SELECT sales.ack_events('reader', max(id)) FROM s HAVING count(*) > 0};
my $rounds = 0;
while ($load->pumpable)
{
	$load->pump_nb;
	$node->safe_psql('postgres', $read);
	$rounds++;
}
$load->finish;
unlike($err, qr/ERROR|aborted/, 'nobody got an error');
note "$rounds rounds while the load ran";
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM sales.reminder'), 'all reminders are fired');
1 while $node->safe_psql('postgres', $read) ne '';
is($node->safe_psql('postgres', q{
	SELECT (SELECT count(*) FROM sales.event), (SELECT count(*) FROM seen), (SELECT count(DISTINCT id) FROM seen)}),
	'3000|3000|3000', 'the consumer saw every event once');
is($node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT id < lag(id) OVER (ORDER BY n) AS back FROM seen) AS s WHERE back'), '0', 'in the order of their ids');
is($node->safe_psql('postgres', 'SELECT events_behind FROM sales.event_lag'), '0', 'and is not behind');

# NOTIFY comes once a batch, and its payload names the last event and their number.
$node->safe_psql('postgres', q{
	SELECT crm.create_workspace('quiet "one"');
	INSERT INTO "quiet ""one""".member (id, name) VALUES (1, 'Ann');
	ALTER SYSTEM SET crm.scheduler = off});
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'crm worker'}), 'no worker fires');
my $heard = $node->safe_psql('postgres', q{
	INSERT INTO "quiet ""one""".reminder (member_id, due_at, title) SELECT 1, now(), 'n' FROM generate_series(1, 25);
	LISTEN crm;
	SELECT crm.run_due(workspace => '"quiet ""one"""');
	BEGIN;
	INSERT INTO "quiet ""one""".reminder (member_id, due_at, title) SELECT 1, now(), 'n' FROM generate_series(1, 3);
	SELECT crm.run_due(workspace => '"quiet ""one"""');
	ROLLBACK;
	SET crm.notify = off;
	INSERT INTO "quiet ""one""".reminder (member_id, due_at, title) VALUES (1, now(), 'n');
	SELECT crm.run_due(workspace => '"quiet ""one"""')});
is(join(' ', $heard =~ /with payload "(.*?)" received/g),
	'{"workspace": "quiet \"one\"", "last": 20, "count": 20} {"workspace": "quiet \"one\"", "last": 25, "count": 5}',
	'one notification a batch, none of what was rolled back');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET crm.scheduler');
$node->reload;

# At least once: applications write in transactions of random length, some of which
# roll back, while a consumer crashes before, between and after its two steps, and
# another, that acknowledges with its effect, is undone at random.
my $seed = $ENV{SEED} // time;
srand($seed);
note "SEED=$seed";
$node->safe_psql('postgres', q{
	TRUNCATE seen;
	CREATE TABLE archived (n bigint GENERATED ALWAYS AS IDENTITY, id bigint);
	CREATE TABLE written (reminder_id bigint);
	SELECT sales.ack_events('reader', max(id)) FROM sales.read_events('reader', 1000000) HAVING count(*) > 0;
	SELECT sales.ack_events('archive', max(id)) FROM sales.read_events('archive', 1000000)});
append_to_file("$script.writers", <<'SQL');
\set ms random(0, 30)
\set n random(1, 20)
\set lost random(1, 8)
BEGIN;
WITH r AS (INSERT INTO sales.reminder (member_id, due_at, title) SELECT 1, clock_timestamp() + i * interval '3 ms', 'w' FROM generate_series(0, :n) AS i RETURNING id)
INSERT INTO written SELECT id FROM r;
\sleep :ms ms
\if :lost = 1
ROLLBACK;
\else
COMMIT;
\endif
SQL
$script .= '.writers';
$load = IPC::Run::start(
	[ 'pgbench', '-n', '-c', '4', '-t', '120', '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
	'>', \$out, '2>', \$err);
my ($crashes, $done) = (0, 0);
until ($done)
{
	my $finished = !$load->pumpable;
	$load->pump_nb unless $finished;

	# Read, act, acknowledge are three transactions; the consumer dies after any of them.
	my $dies = int(rand(6));
	my $max = 1 + int(rand(200));
	my @ids = split /\n/, $node->safe_psql('postgres', "SELECT id FROM sales.read_events('reader', $max)");
	if ($dies == 0) { $crashes++ }
	elsif (@ids)
	{
		# It may die with a part of its work done.
		my @part = $dies == 1 ? @ids[ 0 .. int(rand(@ids)) ] : @ids;
		$node->safe_psql('postgres', 'INSERT INTO seen (id) VALUES ' . join(', ', map { "($_)" } @part));
		if ($dies <= 2) { $crashes++ }
		else { $node->safe_psql('postgres', "SELECT sales.ack_events('reader', $ids[-1])") }
	}

	my $end = int(rand(3)) ? 'COMMIT' : 'ROLLBACK';
	my $left = $node->safe_psql('postgres', qq{
		BEGIN;
		WITH e AS (SELECT id FROM sales.read_events('archive', $max)), s AS (INSERT INTO archived (id) SELECT id FROM e ORDER BY id RETURNING id)
		SELECT sales.ack_events('archive', max(id)) FROM s HAVING count(*) > 0;
		$end;
		SELECT (SELECT count(*) FROM sales.reminder) + (SELECT sum(events_behind) FROM sales.event_lag WHERE name IN ('reader', 'archive'))});
	$done = $finished && $left =~ /(?:^|\n)0\z/;
}
$load->finish;
unlike($err, qr/ERROR|aborted/, 'no writer got an error');
cmp_ok($crashes, '>', 10, 'the consumer crashed often');
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM written AS w FULL JOIN (SELECT reminder_id FROM sales.event WHERE title = 'w') AS e USING (reminder_id)
	WHERE w.reminder_id IS NULL OR e.reminder_id IS NULL}), '0', 'what was committed has one event, what was not has none');
is($node->safe_psql('postgres', q{
	SELECT count(*) FILTER (WHERE s.id IS NULL), count(*) FILTER (WHERE a.times IS DISTINCT FROM 1)
	FROM (SELECT id FROM sales.event WHERE title = 'w') AS e
	LEFT JOIN (SELECT DISTINCT id FROM seen) AS s USING (id) LEFT JOIN (SELECT id, count(*) AS times FROM archived GROUP BY id) AS a USING (id)}),
	'0|0', 'every event reached the one at least once and the other exactly once');
is($node->safe_psql('postgres', q{
	SELECT (SELECT count(*) FROM (SELECT id < lag(id) OVER (ORDER BY n) AS back FROM (SELECT id, min(n) AS n FROM seen GROUP BY id) AS s) AS s WHERE back),
	       (SELECT count(*) FROM (SELECT id < lag(id) OVER (ORDER BY n) AS back FROM archived) AS s WHERE back)}),
	'0|0', 'both met the events in order');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) - count(DISTINCT id) FROM seen'), '>', 0, 'after a crash they came again');

# A commit at every moment of the worker's falling asleep: a lost wake-up would make one a minute late.
append_to_file("$script.race", "\\set ms random(0, 8)\nINSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, clock_timestamp() + :ms * interval '1 ms', 'race');\n");
my $woken = $node->safe_psql('postgres', 'SELECT wakeups FROM crm.scheduler_status()');
command_ok([ 'pgbench', '-n', '-c', '8', '-t', '300', '-R', '800', '-f', "$script.race", '-h', $node->host, '-p', $node->port, 'postgres' ], 'sessions race with the worker');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2400 FROM sales.event WHERE title = 'race'}), 'all of them fire');
is($node->safe_psql('postgres', q{SELECT count(*) FROM sales.event WHERE title = 'race' AND fired_at > due_at + interval '10 s'}), '0', 'no wake-up is lost');
cmp_ok($node->safe_psql('postgres', 'SELECT wakeups FROM crm.scheduler_status()'), '>', $woken + 300, 'the worker slept in between');
# The worker deletes what is old, when it has nothing else to do, and says how many.
$node->safe_psql('postgres', q{
	DELETE FROM sales.event_consumer;
	UPDATE sales.event SET state = 'acknowledged' WHERE title = 'race';
	UPDATE sales.event SET fired_at = fired_at - interval '2 years';
	UPDATE sales.setting SET value = '18 months' WHERE name = 'event_retention'});
my $open = $node->safe_psql('postgres', q{SELECT count(*) FROM sales.event WHERE state IN ('new', 'seen')});
my ($held_in, $held_out, $held_err) = ("BEGIN; SELECT 'held ' || id FROM sales.event WHERE title = 'race' ORDER BY id LIMIT 1 FOR UPDATE;\n", '', '');
my $holder = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$held_in, '>', \$held_out, '2>', \$held_err, IPC::Run::timeout(180));
$holder->pump until $held_out =~ /held/;
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'crm worker'});
$node->safe_psql('postgres', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, clock_timestamp(), 'calls the worker')});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM sales.event WHERE title = 'race'}), 'old events that everybody is done with are deleted, but for one that somebody holds');
is($node->safe_psql('postgres', q{SELECT purged FROM crm.scheduler_status()}), '2399', 'the status counts them');
is($node->safe_psql('postgres', q{SELECT count(*) FROM sales.event WHERE state IN ('new', 'seen') AND title <> 'calls the worker'}), $open, 'what is still open stays');
$held_in = "ROLLBACK;\n\\q\n";
$holder->finish;
$node->stop;
done_testing();
