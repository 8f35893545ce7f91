# A bulk load under a duplicate rule, which workers help with: killed, cancelled or out of
# shared memory it has not happened, and two sessions that load twins store one of each.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use CrmTest;

my $node = PostgreSQL::Test::Cluster->new('main');
# No file but those of shared memory is larger than the limit set below.
$node->init(extra => ['--wal-segsize=1']);
$node->append_conf('postgresql.conf', q{
restart_after_crash = on
max_parallel_maintenance_workers = 2
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION crm CASCADE;
	CREATE EXTENSION crm_test;
	SELECT crm.create_workspace('sales');
	CREATE ROLE rep LOGIN;
	SELECT crm.grant_access('sales', 'rep', 'app');
	CREATE TABLE sales.supplier (no int PRIMARY KEY, firm text, tel text);
	CREATE INDEX ON sales.supplier USING crm_match (crm.match_keys('company,phone', firm, tel));
	SELECT crm.guard_duplicates('sales.supplier');
	GRANT SELECT, INSERT ON sales.supplier TO rep;
	INSERT INTO sales.duplicate_rule (kind, name, action) VALUES ('supplier', 'once', 'block');
	CREATE TABLE bulk AS SELECT i AS no, initcap(translate(md5(i::text), '0123456789', 'ghijklmnop')) || ' Incorporated' AS firm,
		'+1 212 ' || lpad((i / 10000 + 200)::text, 3, '0') || ' ' || lpad((i % 10000)::text, 4, '0') AS tel FROM generate_series(1, 50000) AS i;
	GRANT SELECT ON bulk TO rep;
	GRANT USAGE ON SCHEMA crm_test TO rep;
});
my $load = 'INSERT INTO sales.supplier SELECT * FROM bulk';
my $nothing = q{SELECT (SELECT count(*) FROM sales.supplier) + (SELECT count(*) FROM sales.duplicate_pair)};
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'};

sub start_psql
{
	my ($out, $err, @sql) = @_;
	return IPC::Run::start(
		[ 'psql', '-X', '-At', '-h', $node->host, '-p', $node->port, '-U', 'rep', '-d', 'postgres', map { ('-c', $_) } @sql ],
		'>', $out, '2>', $err);
}

# A worker is killed.
SKIP:
{
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
	my $children = "/proc/$postmaster/task/$postmaster/children";
	skip 'no list of processes', 2 unless -r $children;
	my ($out, $err) = ('', '');
	my $victim = start_psql(\$out, \$err, $load);
	my ($killed, $until) = (0, time + $PostgreSQL::Test::Utils::timeout_default);
	while (!$killed && time < $until)
	{
		for my $pid (split ' ', slurp_file($children))
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
}

# Shared memory runs out (values as long as that take little room on disk), here by the limit of a process instead of that of /dev/shm.
SKIP:
{
	$node->safe_psql('postgres', 'TRUNCATE sales.supplier');
	my $limit = 'prlimit --pid ' . (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0] . ' --fsize';
	skip 'no prlimit', 3 if system("$limit=3000000: >/dev/null 2>&1") != 0;
	my (undef, undef, $stderr) = $node->psql('postgres',
		q{SET work_mem = '64MB'; INSERT INTO sales.supplier SELECT i, 'Acme' || repeat(' ', 3000) || 'Trading', NULL FROM generate_series(1, 12000) AS i}, extra_params => [ '-U', 'rep' ]);
	system("$limit=unlimited: >/dev/null 2>&1") == 0 or die 'the limit stays';
	like($stderr, qr/shared memory segment.*max_parallel_maintenance_workers is 0/s, 'too little shared memory: what to do is told');
	is($node->safe_psql('postgres', $nothing), '0', 'too little shared memory: nothing is there');
	is($node->safe_psql('postgres', $workers), '0', 'too little shared memory: no worker is left');
}

# Cancelled after times of all lengths: all of it or nothing.
my ($cancelled, $done) = (0, 0);
for (my $ms = 50; $ms < 1000 * $PostgreSQL::Test::Utils::timeout_default && !$done; $ms = int($ms * 1.3))
{
	my ($ret, undef, $stderr) = $node->psql('postgres', "SET statement_timeout = $ms; $load", extra_params => [ '-U', 'rep' ]);
	my $rows = $node->safe_psql('postgres', 'SELECT count(*) FROM sales.supplier');
	$done = $ret == 0;
	$cancelled += !$done;
	if ($done ? $rows != 50000 : $rows != 0 || $stderr !~ /statement timeout/)
	{
		fail("after $ms ms: $rows rows, $stderr");
	}
}
cmp_ok($cancelled, '>', 2, "$cancelled loads were cancelled");
ok($done, 'and one was not');
is($node->safe_psql('postgres', $workers), '0', 'no worker is left');

# Cancelled while the writer enters keys, for which a worker waits.
{
	my $caught = '';
	$node->safe_psql('postgres', 'TRUNCATE sales.supplier');
	for my $attempt (1 .. 20)
	{
		my ($out, $err) = ('', '');
		my $victim = start_psql(\$out, \$err, 'SET max_parallel_maintenance_workers = 8', $load);
		# In one statement, which ends with the load at the latest.
		$node->safe_psql('postgres', q{DO $$
			DECLARE
				n int := 0;
				leader int;
			BEGIN
				LOOP
					PERFORM pg_stat_clear_snapshot();
					leader := (SELECT leader_pid FROM pg_stat_activity WHERE backend_type = 'parallel worker' AND wait_event = 'Extension' LIMIT 1);
					IF leader IS NOT NULL THEN
						PERFORM pg_cancel_backend(leader);
						EXIT;
					END IF;
					EXIT WHEN n > 0 AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'rep' AND backend_type = 'client backend') OR clock_timestamp() > now() + interval '1 minute';
					n := n + (SELECT count(*) FROM pg_stat_activity WHERE usename = 'rep' AND backend_type = 'client backend');
				END LOOP;
			END $$});
		$victim->finish;
		$caught = $err;
		last if $err ne '';
		$node->safe_psql('postgres', 'TRUNCATE sales.supplier');
	}
	like($caught, qr/canceling statement due to user request/, 'cancelled while a worker waits for keys');
	is($node->safe_psql('postgres', $nothing), '0', 'nothing is there');
	is($node->safe_psql('postgres', $workers), '0', 'and no worker is left');
}

# COPY is helped like the rest; what it refuses is told by the numbers of its lines.
my $file = $node->basedir . '/bulk.tsv';
$node->safe_psql('postgres', qq{TRUNCATE sales.supplier;
	\\copy (SELECT CASE WHEN no = 40000 THEN 99999 ELSE no END, firm, tel FROM bulk UNION ALL SELECT 60000, replace(firm, 'Incorporated', 'Inc'), tel FROM bulk WHERE no = 123) TO '$file'});
my ($refused, $helped) = ('', 0);
for my $attempt (1 .. 50)
{
	start_psql(\$helped, \$refused, "\\copy sales.supplier FROM '$file'", 'SELECT crm_test.duplicate_chunks_helped()')->finish;
	last if $helped > 0;
}
cmp_ok($helped, '>', 0, 'COPY: workers help');
like($refused, qr/"row": 50001, "record": 60000/, 'COPY: the line is told');
$node->safe_psql('postgres', 'TRUNCATE sales.supplier');

# Two sessions load the same customers: one stores them, the other is refused, whole.
{
	my ($out1, $err1, $out2, $err2) = ('', '', '', '');
	my $one = start_psql(\$out1, \$err1, 'INSERT INTO sales.supplier SELECT no, firm, tel FROM bulk WHERE no <= 20000');
	my $two = start_psql(\$out2, \$err2, 'INSERT INTO sales.supplier SELECT no + 100000, firm, tel FROM bulk WHERE no BETWEEN 15001 AND 35000');
	$one->finish;
	$two->finish;
	is(scalar(grep { /already exist/ } $err1, $err2), 1, 'two loads with twins: one is refused');
	is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT firm) FROM sales.supplier'), '20000|20000', 'and nothing of it stored');
}

done_testing();
