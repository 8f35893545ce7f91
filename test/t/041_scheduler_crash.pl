# kill -9 of the worker, the launcher, another backend or the postmaster, at random
# moments: no reminder is lost and none fires twice.  SEED and CRASH_ROUNDS may be set;
# with CRASH_VERBOSE it tells what it did.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use CrmTest;

my $rounds = $ENV{CRASH_ROUNDS} || 8;
my $seed = $ENV{SEED} || int(rand(1_000_000_000));
srand($seed);
sub report { my ($line) = @_; $ENV{CRASH_VERBOSE} ? diag $line : note $line; return; }
report("SEED=$seed CRASH_ROUNDS=$rounds");

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'crm'
restart_after_crash = on
crm.batch_size = 50
CONF
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION crm CASCADE;
	SELECT crm.create_workspace('sales');
	INSERT INTO sales.member (id, name) VALUES (1, 'Ann');
	CREATE TABLE sent (reminder_id bigint PRIMARY KEY)});

# What a client was told was committed is in "sent".
my $script = $node->basedir . '/insert.sql';
append_to_file($script, <<'SQL');
\set late random(-50, 50)
WITH r AS (INSERT INTO sales.reminder (member_id, due_at, title)
	SELECT 1, clock_timestamp() + :late * interval '1 ms', 'r' FROM generate_series(1, 20) RETURNING id)
INSERT INTO sent SELECT id FROM r;
SQL

my %killed;
for my $round (1 .. $rounds)
{
	my ($out, $err) = ('', '');
	my $load = IPC::Run::start(
		[ 'pgbench', '-n', '-c', '3', '-T', '60', '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
		'>', \$out, '2>', \$err);
	my $goal = $node->safe_psql('postgres', 'SELECT coalesce(max(id), 0) FROM sales.event') + 100 + int(rand(2000));
	$node->poll_query_until('postgres', "SELECT max(id) >= $goal FROM sales.event") or die "no progress";

	my $type = ('crm worker', 'crm worker', 'crm launcher', 'client backend', 'postmaster')[ int(rand(5)) ];
	if ($type eq 'postmaster')
	{
		restart_killed($node);
		$killed{$type}++;
		$load->finish;
	}
	else
	{
		my $pid = $node->safe_psql('postgres',
			"SELECT pid FROM pg_stat_activity WHERE backend_type = '$type' AND pid <> pg_backend_pid() LIMIT 1");
		kill 'KILL', $pid if $pid;
		$killed{$type}++ if $pid;
		$load->finish;
		wait_until_gone($pid) if $pid;
	}
	wait_until_up($node);
}
report('killed ' . join(', ', map { "$_: $killed{$_}" } sort keys %killed));
report('events ' . $node->safe_psql('postgres', 'SELECT count(*) FROM sales.event'));

ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM sales.reminder'), 'everything is fired in the end');
is($node->safe_psql('postgres', q{
	SELECT (SELECT count(*) FROM (SELECT reminder_id FROM sent EXCEPT SELECT reminder_id FROM sales.event) AS l) AS lost,
		(SELECT count(*) - count(DISTINCT reminder_id) FROM sales.event) AS doubled,
		(SELECT count(*) FROM (SELECT reminder_id FROM sales.event EXCEPT SELECT reminder_id FROM sent) AS i) AS invented}),
	'0|0|0', 'nothing lost, doubled or invented');
is($node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT fired_at < lag(fired_at) OVER (ORDER BY id) AS back FROM sales.event) AS e WHERE back'),
	'0', 'events are in the order they fired');

# A worker that is told to go, or whose query is cancelled, comes back.
for my $signal ('pg_terminate_backend', 'pg_cancel_backend')
{
	$node->safe_psql('postgres', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now() + interval '30 s', 'keeps it here')});
	$node->poll_query_until('postgres', q{SELECT state = 'running' FROM crm.scheduler_status()});
	$node->safe_psql('postgres', "SELECT $signal(pid) FROM pg_stat_activity WHERE backend_type = 'crm worker'");
	$node->safe_psql('postgres', "INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now(), '$signal')");
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM sales.event WHERE title = '$signal'"), "the worker is back after $signal");
}
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'crm launcher'});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'crm launcher'}), 'the launcher is back after SIGTERM');

# An immediate shutdown in the middle.
$node->safe_psql('postgres', q{WITH r AS (INSERT INTO sales.reminder (member_id, due_at, title)
	SELECT 1, now(), 'burst' FROM generate_series(1, 20000) RETURNING id) INSERT INTO sent SELECT id FROM r});
$node->poll_query_until('postgres', q{SELECT count(*) > 500 FROM sales.event WHERE title = 'burst'});
$node->stop('immediate');
$node->start;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 20000 AND count(DISTINCT reminder_id) = 20000 FROM sales.event WHERE title = 'burst'}),
	'a burst cut off by an immediate shutdown is completed, once each');

# A worker with a backlog leaves when the postmaster is killed: until then no other can start.
$node->append_conf('postgresql.conf', 'crm.batch_size = 1');
$node->reload;
my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM sales.event');
$node->safe_psql('postgres', q{INSERT INTO sales.reminder (member_id, due_at, title) SELECT 1, now(), 'backlog' FROM generate_series(1, 50000)});
$node->poll_query_until('postgres', "SELECT count(*) > $before FROM sales.event");
$node->append_conf('postgresql.conf', 'crm.scheduler = off');
restart_killed($node);
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM sales.event'), '<', $before + 50000,
	'a worker does not finish its backlog under a postmaster that was killed');

$node->stop;
done_testing();
