# A worker never holds up DROP, RENAME or copying of a database, whether the
# session that does it has loaded crm or not, and whether the worker sleeps or fires.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

sub make_shop
{
	my ($node, $name) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, q{
		CREATE EXTENSION crm CASCADE;
		SELECT crm.create_workspace('sales');
		INSERT INTO sales.member (id, name) VALUES (1, 'Ann')});
	return;
}

# A worker that sleeps until something is due in half a minute.
sub sleeping
{
	my ($node, $name) = @_;
	$node->safe_psql($name, q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now() + interval '30 s', 'later'), (1, now(), 'now')});
	$node->poll_query_until($name, q{SELECT count(*) = 1 FROM sales.event}) or die 'nothing fired';
	return;
}

# A worker with a backlog of many batches.
sub firing
{
	my ($node, $name) = @_;
	$node->safe_psql($name, q{INSERT INTO sales.reminder (member_id, due_at, title) SELECT 1, now(), 'burst' FROM generate_series(1, 100000)});
	$node->poll_query_until($name, q{SELECT count(*) > 0 FROM sales.event}) or die 'nothing fired';
	return;
}

sub quick
{
	my ($node, $sql, $name) = @_;
	my $start = time;
	my ($ret, $out, $err) = $node->psql('postgres', $sql);
	my $took = time - $start;
	is($ret, 0, $name) or diag $err;
	cmp_ok($took, '<', 3, "$name: in less than 3 s");
	return;
}

for my $mode ('preloaded', 'dynamic')
{
	my $node = PostgreSQL::Test::Cluster->new($mode);
	$node->init;
	$node->append_conf('postgresql.conf', "max_worker_processes = 8\ncrm.batch_size = 200\n");
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'crm'\n") if $mode eq 'preloaded';
	$node->start;
	$node->safe_psql('postgres', 'CREATE DATABASE bystander');

	make_shop($node, 'a');
	my $start = q{SELECT crm.scheduler_start()};
	is($node->safe_psql('a', $start), $mode eq 'preloaded' ? 'already running' : 'started', "$mode: start");
	is($node->safe_psql('a', $start), 'already running', "$mode: start again");

	sleeping($node, 'a');
	is($node->safe_psql('a', q{SELECT mode FROM crm.scheduler_status() WHERE database = 'a'}), $mode, "$mode: mode");
	quick($node, 'DROP DATABASE bystander', "$mode: drop another database while a worker sleeps");
	quick($node, 'CREATE DATABASE c TEMPLATE a', "$mode: copy a database while its worker sleeps");
	$node->safe_psql('a', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now(), 'after the copy')});
	ok($node->poll_query_until('a', q{SELECT count(*) = 1 FROM sales.event WHERE title = 'after the copy'}), "$mode: the worker comes back after the copy");
	quick($node, 'ALTER DATABASE a RENAME TO b', "$mode: rename while the worker sleeps");
	$node->safe_psql('b', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now(), 'renamed')});
	ok($node->poll_query_until('b', q{SELECT count(*) = 1 FROM sales.event WHERE title = 'renamed'}), "$mode: the worker comes back under the new name");
	quick($node, 'DROP DATABASE b', "$mode: drop while the worker sleeps");

	make_shop($node, 'd');
	firing($node, 'd');
	quick($node, 'CREATE DATABASE e TEMPLATE d', "$mode: copy while the worker fires");
	is($node->safe_psql('e', q{SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM sales.reminder UNION ALL SELECT reminder_id FROM sales.event) AS r}),
		'100000|100000', "$mode: the copy holds every reminder once");
	firing($node, 'd');
	quick($node, 'DROP DATABASE d', "$mode: drop while the worker fires");

	# A command that fails gives the database back.
	make_shop($node, 'f');
	sleeping($node, 'f');
	my ($in, $out, $err) = ("SELECT 'here';\n", '', '');
	my $other = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('f') ], '<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(120));
	$other->pump until $out =~ /here/;
	my ($ret) = $node->psql('postgres', 'DROP DATABASE f');
	isnt($ret, 0, "$mode: a database somebody uses is not dropped");
	$in = "\\q\n";
	$other->finish;
	$node->safe_psql('f', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now(), 'still here')});
	ok($node->poll_query_until('f', q{SELECT count(*) = 1 FROM sales.event WHERE title = 'still here'}), "$mode: and its reminders fire");
	quick($node, 'DROP DATABASE f WITH (FORCE)', "$mode: drop with force");

	# The extension dropped and made again, in one transaction and not.
	make_shop($node, 'g');
	sleeping($node, 'g');
	$node->safe_psql('g', q{SET client_min_messages = warning; DROP SCHEMA sales CASCADE; DROP EXTENSION crm});
	$node->safe_psql('g', q{CREATE EXTENSION crm; SELECT crm.create_workspace('sales'); INSERT INTO sales.member (id, name) VALUES (1, 'Ann')});
	sleeping($node, 'g');
	ok(1, "$mode: extension and workspace are found again after they were dropped");
	$node->stop('fast');
	unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, "$mode: nothing crashed");
}
done_testing();
