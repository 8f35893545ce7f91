# The disk is really full while reminders fire: that of the events, then that of the
# write-ahead log.  Nothing is lost or doubled, and the status says what to do.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $disk = $ENV{CRM_SMALL_DISK};
plan skip_all => 'no small disk: only root can mount one, see scripts/test' unless $disk;
my $filler = "$disk/filler";

# Writes until there is no space, then gives some of it back.
sub fill
{
	my ($leave) = @_;
	open(my $file, '>', $filler) or die "$filler: $!";
	my $size = 0;
	while (my $n = syswrite($file, "\0" x 65536)) { $size += $n; }
	$!{ENOSPC} or die "$filler: $!";
	truncate($file, $size - $leave) or die;
	close $file;
	return;
}

sub prepare
{
	my ($node) = @_;
	$node->safe_psql('postgres', q{
		CREATE EXTENSION crm CASCADE;
		SELECT crm.create_workspace('sales');
		SELECT crm.create_workspace('support');
		INSERT INTO sales.member (id, name) VALUES (1, 'Ann');
		INSERT INTO support.member (id, name) VALUES (1, 'Eve');
		CREATE TABLE sent (reminder_id bigint PRIMARY KEY)});
	return;
}

sub burst
{
	my ($node, $n) = @_;
	$node->safe_psql('postgres', "WITH r AS (INSERT INTO sales.reminder (member_id, due_at, title)
		SELECT 1, now(), repeat('x', 100) FROM generate_series(1, $n) RETURNING id) INSERT INTO sent SELECT id FROM r");
	return;
}

sub oracle
{
	my ($node, $name) = @_;
	ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM sales.reminder'), "$name: once there is room, all fire");
	is($node->safe_psql('postgres', q{
		SELECT (SELECT count(*) FROM (SELECT reminder_id FROM sent EXCEPT SELECT reminder_id FROM sales.event) AS l),
			(SELECT count(*) - count(DISTINCT reminder_id) FROM sales.event),
			(SELECT count(*) FROM (SELECT fired_at < lag(fired_at) OVER (ORDER BY id) AS back FROM sales.event) AS e WHERE back)}),
		'0|0|0', "$name: nothing lost, doubled or out of order");
	return;
}

sub status { my ($node, $what) = @_; return $node->safe_psql('postgres', "SELECT $what FROM crm.scheduler_status()"); }

# The events' own disk.
my $node = PostgreSQL::Test::Cluster->new('events');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'crm'\nautovacuum = off\n");
$node->start;
prepare($node);
mkdir "$disk/events" or die;
$node->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$disk/events'");
$node->safe_psql('postgres', q{
	ALTER TABLE sales.event SET TABLESPACE small;
	SELECT format('ALTER INDEX %s SET TABLESPACE small', i.indexrelid::regclass) FROM pg_index AS i WHERE i.indrelid = 'sales.event'::regclass \gexec
});
burst($node, 1000);
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM sales.reminder'), 'with room, they fire');
fill(2 * 1024 * 1024);
burst($node, 50000);
ok($node->poll_query_until('postgres', q{SELECT error LIKE '53100: could not extend file%: No space left on device%' FROM crm.scheduler_status()}), 'the disk is full');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM sales.event'), '>', 1000, 'in the middle of the burst');
like(status($node, 'error'), qr/HINT:  Check free disk space\./, 'the status says what to do');
ok($node->poll_query_until('postgres', q{SELECT reason LIKE '1 workspaces fail and are tried again within a minute%' FROM crm.scheduler_status()}), 'and that it is tried again');
is(status($node, 'set_aside'), '0', 'no reminder is to blame');
$node->safe_psql('postgres', q{INSERT INTO support.reminder (member_id, due_at, title) VALUES (1, now(), 'neighbour')});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM support.event}), 'a workspace with its events elsewhere fires');
burst($node, 100);
is(status($node, 'backlog = (SELECT count(*) FROM sales.reminder) AND backlog >= 100'), 't', 'reminders are still taken, and wait');
unlink $filler or die;
oracle($node, 'events');
$node->stop('fast');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
system_or_bail('rm', '-rf', "$disk/events");

# The log's disk: the server goes down, as it must, and comes back with room.
$node = PostgreSQL::Test::Cluster->new('wal');
$node->init(extra => [ '--wal-segsize=1', '--waldir', "$disk/wal" ]);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'crm'
autovacuum = off
min_wal_size = 2MB
max_wal_size = 4MB
crm.scheduler = off
CONF
$node->start;
prepare($node);
burst($node, 30000);
# Or a quick checkpointer makes room again and again.
$node->append_conf('postgresql.conf', 'wal_keep_size = 1GB');
$node->reload;
fill(1024 * 1024);
$node->safe_psql('postgres', 'ALTER SYSTEM SET crm.scheduler = on');
$node->reload;
# A test's server does not restart by itself.
$node->wait_for_log(qr/database system is shut down/);
like(slurp_file($node->logfile), qr/PANIC:  could not write to file "pg_wal.*No space left on device/, 'the disk of the log is full');
unlink $filler or die;
$node->append_conf('postgresql.conf', 'wal_keep_size = 0');
# Fails while children of the old postmaster live.
$node->{_pid} = undef;
$node->{_pid} = undef until $node->start(fail_ok => 1);
oracle($node, 'log');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM sales.event'), '==', 30000, 'log: every reminder has its event');
$node->stop('fast');
done_testing();
