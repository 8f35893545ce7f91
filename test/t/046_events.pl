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
is($node->safe_psql('postgres', 'SELECT behind FROM sales.event_lag'), '0', 'and is not behind');

# A commit at every moment of the worker's falling asleep: a lost wake-up would make one a minute late.
append_to_file("$script.race", "\\set ms random(0, 8)\nINSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, clock_timestamp() + :ms * interval '1 ms', 'race');\n");
my $woken = $node->safe_psql('postgres', 'SELECT wakeups FROM crm.scheduler_status()');
command_ok([ 'pgbench', '-n', '-c', '8', '-t', '300', '-R', '800', '-f', "$script.race", '-h', $node->host, '-p', $node->port, 'postgres' ], 'sessions race with the worker');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2400 FROM sales.event WHERE title = 'race'}), 'all of them fire');
is($node->safe_psql('postgres', q{SELECT count(*) FROM sales.event WHERE title = 'race' AND fired_at > due_at + interval '10 s'}), '0', 'no wake-up is lost');
cmp_ok($node->safe_psql('postgres', 'SELECT wakeups FROM crm.scheduler_status()'), '>', $woken + 300, 'the worker slept in between');
$node->stop;
done_testing();
