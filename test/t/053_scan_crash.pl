# A scan for duplicates that is killed or cancelled, in the middle of reading or of
# writing, has not happened; the next one does all of it.  Others see how far it is.
# A hundred thousand rows of one name and telephone number do not hold it up.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use CrmTest;

my $node = PostgreSQL::Test::Cluster->new('main');
# No file but those of shared memory is larger than the limit set below.
$node->init(extra => ['--wal-segsize=1']);
# Without shared_preload_libraries: progress is seen all the same.
$node->append_conf('postgresql.conf', q{
restart_after_crash = on
min_parallel_table_scan_size = 0
max_parallel_maintenance_workers = 2
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION crm CASCADE;
	SELECT crm.create_workspace('sales');
	INSERT INTO sales.account (name, phone)
	SELECT 'Company ' || md5((i % 18000)::text) || CASE i % 3 WHEN 0 THEN ' Ltd' ELSE '' END, '030 9' || 100000 + i % 17000
	FROM generate_series(1, 20000) AS i;
	-- A scan stops here until the test lets it go on: when it has written its pairs.
	CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_advisory_xact_lock(42);
		RETURN NULL;
	END $$;
	CREATE TRIGGER gate AFTER INSERT ON sales.duplicate_pair FOR EACH STATEMENT EXECUTE FUNCTION gate();
});

my $scan = q{SELECT sales.scan_duplicates('account')};
my $nothing = q{SELECT (SELECT count(*) FROM sales.duplicate_pair) + (SELECT count(*) FROM sales.duplicate_cluster)
	+ (SELECT count(*) FROM sales.duplicate_scan) + (SELECT count(*) FROM sales.match_statistics)};

sub start_scan
{
	my ($out, $err) = @_;
	return IPC::Run::start(
		[ 'psql', '-X', '-At', '-h', $node->host, '-p', $node->port, '-d', 'postgres', '-c', $scan ],
		'>', $out, '2>', $err);
}

# Killed as soon as it is seen at work, and when it has written: after the crash there is nothing.
for my $when ('at work', 'writing')
{
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('SELECT pg_advisory_lock(42)');
	my ($out, $err) = ('', '');
	my $victim = start_scan(\$out, \$err);
	my $seen = $when eq 'writing' ? q{phase = 'writing' AND EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted)} : 'true';
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM crm.scan_progress() WHERE kind = 'account' AND workspace = 'sales'::regnamespace AND done <= total AND $seen")
	  or die "the scan was not seen: $err";
	my $pid = $node->safe_psql('postgres', 'SELECT pid FROM crm.scan_progress()');
	kill 'KILL', $pid;
	$victim->finish;
	eval { $holder->quit; };
	wait_until_up($node, $pid);
	isnt($err, '', "killed $when: the client was told");
	is($node->safe_psql('postgres', $nothing), '0', "killed $when: nothing is there");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM crm.scan_progress()'), '0', "killed $when: nothing goes on");
}

# A worker is killed.
SKIP:
{
	my ($out, $err) = ('', '');
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
	my $workers = "/proc/$postmaster/task/$postmaster/children";
	skip 'no list of processes', 3 unless -r $workers;
	my $victim = start_scan(\$out, \$err);
	my ($killed, $until) = (0, time + $PostgreSQL::Test::Utils::timeout_default);
	while (!$killed && time < $until)
	{
		for my $pid (split ' ', slurp_file($workers))
		{
			open my $name, '<', "/proc/$pid/cmdline" or next;
			$killed = kill 'KILL', $pid if (<$name> // '') =~ /parallel worker/;
			last if $killed;
		}
	}
	$victim->finish;
	wait_until_up($node);
	isnt($err, '', 'a worker killed: the client was told');
	is($node->safe_psql('postgres', $nothing), '0', 'a worker killed: nothing is there');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM crm.scan_progress()'), '0', 'a worker killed: nothing goes on');
}

# Shared memory runs out, here by the limit of a process instead of that of /dev/shm.
SKIP:
{
	my $limit = 'prlimit --pid ' . (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0] . ' --fsize';
	skip 'shared memory is no file', 4 if $node->safe_psql('postgres', 'SHOW dynamic_shared_memory_type') ne 'posix';
	skip 'no prlimit', 4 if system("$limit=2000000: >/dev/null 2>&1") != 0;
	my (undef, undef, $stderr) = $node->psql('postgres', $scan);
	system("$limit=unlimited: >/dev/null 2>&1") == 0 or die 'the limit stays';
	like($stderr, qr/shared memory segment.*max_parallel_maintenance_workers is 0/s, 'too little shared memory: what to do is told');
	is($node->safe_psql('postgres', $nothing), '0', 'too little shared memory: nothing is there');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM crm.scan_progress()'), '0', 'too little shared memory: nothing goes on');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'}), '0', 'too little shared memory: no worker is left');
}

# Cancelled when it has written; meanwhile a second one is refused.
{
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('SELECT pg_advisory_lock(42)');
	my ($out, $err) = ('', '');
	my $victim = start_scan(\$out, \$err);
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted})
	  or die "the scan did not write: $err";
	my (undef, undef, $stderr) = $node->psql('postgres', $scan);
	like($stderr, qr/"account" is already being scanned for duplicates/, 'one scan of a kind at a time');
	is($node->safe_psql('postgres', q{SELECT sales.scan_duplicates('contact')}), '0', 'another kind can be scanned');
	$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM crm.scan_progress()});
	$victim->finish;
	like($err, qr/canceling statement due to user request/, 'cancelled');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM sales.duplicate_pair}), '0', 'a cancelled scan has written nothing');
	$holder->quit;
}

# Cancelled after times of all lengths, workers at work: all of it or nothing.
my ($cancelled, $done) = (0, 0);
for my $ms (1, 5, 10, 20, 40, 60, 80, 100, 150, 200, 300, 400, 600, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000)
{
	my ($ret, undef, $stderr) = $node->psql('postgres', "SET statement_timeout = $ms; $scan");
	my $pairs = $node->safe_psql('postgres', q{SELECT count(*) FROM sales.duplicate_pair});
	my $scans = $node->safe_psql('postgres', q{SELECT count(*) FROM sales.duplicate_scan WHERE kind = 'account'});
	if ($ret == 0)
	{
		$done = 1;
		cmp_ok($pairs, '>', 1000, "done in $ms ms: all of it is there");
		is($scans, '1', 'and the scan');
		last;
	}
	$cancelled++;
	if ($stderr !~ /statement timeout/ || $pairs != 0 || $scans != 0)
	{
		fail("after $ms ms: $pairs pairs, $scans scans, $stderr");
	}
}
cmp_ok($cancelled, '>', 2, "$cancelled scans were cancelled");
ok($done, 'and one was not');
is($node->safe_psql('postgres', 'SELECT count(*) FROM crm.scan_progress()'), '0', 'nothing goes on');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'}), '0', 'no worker is left');

# The same result as of one process.
my $result = q{SELECT (SELECT md5(string_agg(format('%s %s %s', left_id, right_id, score), ',' ORDER BY left_id, right_id)) FROM sales.duplicate_pair)
	|| (SELECT md5(string_agg(format('%s %s', cluster_id, record_id), ',' ORDER BY cluster_id, record_id)) FROM sales.duplicate_cluster)};
my $parallel = $node->safe_psql('postgres', $result);
$node->safe_psql('postgres', q{TRUNCATE sales.duplicate_pair, sales.duplicate_cluster; SET max_parallel_maintenance_workers = 0; SELECT sales.scan_duplicates('account')});
is($node->safe_psql('postgres', $result), $parallel, 'one process finds what several find');

# A crash between two scans: the second knows what changed.
$node->safe_psql('postgres', q{UPDATE sales.account SET phone = NULL WHERE id % 500 = 7; CHECKPOINT; VACUUM FREEZE sales.account});
$node->stop('immediate');
$node->start;
$node->safe_psql('postgres', $scan);
is($node->safe_psql('postgres', 'SELECT rows_read FROM sales.duplicate_scan ORDER BY id DESC LIMIT 1'), '40', 'what changed before a crash, and was frozen, is read');
my $changed = $node->safe_psql('postgres', $result);
$node->safe_psql('postgres', q{SELECT sales.scan_duplicates('account', whole => true)});
is($node->safe_psql('postgres', $result), $changed, 'and comes to the same as everything');

# A crowd says nothing about who is who, and is told; the two who share something else are found.
$node->safe_psql('postgres', q{
	ALTER TABLE sales.contact DISABLE TRIGGER USER;
	INSERT INTO sales.contact (full_name, phone) SELECT 'Jo Public', '+442079460018' FROM generate_series(1, 100000);
	INSERT INTO sales.contact (id, full_name, phone, email) VALUES (200001, 'Zoe Unusual', '+442079460018', 'zoe@unusual.example.org'), (200002, 'Zoë Unusual', '+442079460018', 'zoe@unusual.example.org');
});
my $timeout = $PostgreSQL::Test::Utils::timeout_default * 1000;
is($node->safe_psql('postgres', "SET statement_timeout = $timeout; SELECT sales.scan_duplicates('contact')"), '1', 'a crowd of equal rows is scanned');
is($node->safe_psql('postgres', q{SELECT string_agg(record_id::text, ',' ORDER BY record_id) FROM sales.duplicate_cluster WHERE kind = 'contact'}), '200001,200002', 'with the right result');
my $told = q{SELECT crowded_keys > 0 FROM sales.duplicate_scan WHERE kind = 'contact' ORDER BY id DESC LIMIT 1};
is($node->safe_psql('postgres', $told), 't', 'and it is said that keys were left out');
$node->safe_psql('postgres', q{UPDATE sales.contact SET phone = '+442079460019' WHERE id <= 500});
is($node->safe_psql('postgres', "SET statement_timeout = $timeout; SELECT sales.scan_duplicates('contact')"), '1', 'also what changes in it');
is($node->safe_psql('postgres', $told), 't', 'and it is said again');

done_testing();
