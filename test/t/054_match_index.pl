# A matching index and its table agree whatever writers do at the same time, after
# cancels, rollbacks and vacuum, after a crash in the middle of a load, in a prepared
# transaction across a restart, and on a standby.
#
# Random: set CRM_TEST_SEED to repeat a run.
use strict;
use warnings FATAL => 'all';

use IPC::Run qw(start finish);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{CRM_TEST_SEED} // time;
diag("seed $seed");
srand($seed);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', q{
max_prepared_transactions = 5
autovacuum = off
client_min_messages = error
maintenance_work_mem = 1MB
wal_keep_size = 2GB
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION crm CASCADE;
	CREATE TABLE firm (id bigint PRIMARY KEY, name text);
	CREATE INDEX firm_match ON firm USING crm_match (crm.match_keys('company', name));
	CREATE FUNCTION found(key integer) RETURNS bigint[] LANGUAGE sql SET enable_seqscan = off AS
	$$ SELECT array_agg(f.id ORDER BY f.id) FROM firm AS f WHERE crm.match_keys('company', f.name) OPERATOR(crm.@@) ARRAY[1, key, 1] $$;
	-- keys that the table has and the index does not find in the same rows
	CREATE FUNCTION wrong() RETURNS bigint LANGUAGE sql AS
	$$ SELECT count(*) FROM (SELECT u.key, array_agg(DISTINCT f.id ORDER BY f.id) AS rows FROM firm AS f, unnest(crm.match_keys('company', f.name)) AS u (key) GROUP BY 1) AS t
	   WHERE found(t.key) IS DISTINCT FROM t.rows $$;
});
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;

my @words = qw(Acme Zenith Wayne Stark Umbrella Hooli Initech Vandelay Bakery Brewery Towers Rockets Anvils Chat);
sub name { return join(' ', map { $words[ rand @words ] } 1 .. 1 + rand 4) }
sub rows
{
	my ($n) = @_;
	return join(', ', map { sprintf("(%d, '%s')", rand 3000, name()) } 1 .. $n);
}

sub statement
{
	my $kind = int rand 9;
	my $rows = rows(1 + rand 20);
	my $from = int rand 3000;

	return "INSERT INTO firm VALUES $rows ON CONFLICT (id) DO NOTHING;\n" if $kind == 0;
	return "INSERT INTO firm VALUES (" . int(rand 3000) . ", '" . name() . "') ON CONFLICT (id) DO UPDATE SET name = excluded.name;\n" if $kind == 1;
	return "UPDATE firm SET name = name || ' " . name() . "' WHERE id BETWEEN $from AND $from + 20 AND length(name) < 100;\n" if $kind == 2;
	return "DELETE FROM firm WHERE id BETWEEN $from AND $from + 30;\n" if $kind == 3;
	return "SELECT cardinality(found(k)) FROM unnest(crm.match_keys('company', '" . name() . "')) AS k;\n" if $kind == 4;
	return "SAVEPOINT s;\nINSERT INTO firm VALUES $rows;\nROLLBACK TO s;\n" if $kind == 5;
	return "SAVEPOINT s;\n" . statement() . "RELEASE s;\n" if $kind == 6;
	# an error, or a cancel, in the middle, of which the outer transaction takes no notice
	return "DO \$\$ BEGIN INSERT INTO firm VALUES $rows ON CONFLICT DO NOTHING; BEGIN INSERT INTO firm VALUES " . rows(3) . "; PERFORM 1 / (id % 2) FROM firm WHERE id > $from; EXCEPTION WHEN others THEN NULL; END; END \$\$;\n" if $kind == 7;
	return sprintf("SET LOCAL statement_timeout = %d;\nSAVEPOINT s;\nDO \$\$ BEGIN INSERT INTO firm SELECT %d + i, 'Load ' || md5(i::text) FROM generate_series(1, 400) AS i ON CONFLICT DO NOTHING; INSERT INTO firm SELECT %d + i, 'Load ' || md5(i::text) FROM generate_series(1, 400) AS i; BEGIN PERFORM found(1); PERFORM count(*) FROM firm AS a, firm AS b; EXCEPTION WHEN query_canceled THEN NULL; END; EXCEPTION WHEN unique_violation THEN NULL; END \$\$;\nROLLBACK TO s;\nSET LOCAL statement_timeout = 0;\n", 5 + rand 60, 10000 + rand 5000, 20000 + rand 5000);
}

sub script
{
	my ($transactions) = @_;
	my $sql = "\\set ON_ERROR_STOP 0\n";

	for (1 .. $transactions)
	{
		$sql .= "BEGIN;\n" . join('', map { statement() } 1 .. 1 + rand 6) . (rand() < 0.8 ? "COMMIT;\n" : "ROLLBACK;\n");
	}
	return $sql;
}

# From a file, so that it runs without our attention.
my $files = 0;
sub psql_start
{
	my ($sql) = @_;
	my $file = sprintf('%s/script%d.sql', $node->basedir, $files++);

	append_to_file($file, $sql);
	return start([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-f', $file ], '>', '/dev/null', '2>&1');
}

my @writers = map { psql_start(script(60)) } 1 .. 3;
push @writers, psql_start("VACUUM firm;\nSELECT count(found(1)) FROM firm;\n" x 20);
finish($_) for @writers;
ok($node->safe_psql('postgres', 'SELECT count(*) > 100 FROM firm') eq 't', 'rows were written');
is($node->safe_psql('postgres', 'SELECT wrong()'), '0', 'index and table agree after concurrent writers');
$node->safe_psql('postgres', 'VACUUM firm');
is($node->safe_psql('postgres', 'SELECT wrong()'), '0', 'and after vacuum');
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT wrong()'), '0', 'and on the standby');

# A prepared transaction has its entries in the index, whoever commits it.
$node->safe_psql('postgres', q{
	BEGIN;
	INSERT INTO firm VALUES (90001, 'Prepared Long Before');
	PREPARE TRANSACTION 'p'});
$node->restart;
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
is($node->safe_psql('postgres', q{SELECT bool_and(found(k) @> '{90001}') FROM unnest(crm.match_keys('company', 'Prepared Long Before')) AS k}),
	't', 'a prepared transaction, committed after a restart');

# A server that dies in the middle of a load: nothing of it is there, and nothing points to it.
my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM firm');
my $load = psql_start(q{
	INSERT INTO firm SELECT 100000 + i, 'Load ' || md5(i::text) FROM (SELECT generate_series(1, 100000000) AS i) AS g;
});
ok($node->poll_query_until('postgres', q{SELECT pg_relation_size('firm') > 4000000}), 'a load is on its way');
$node->stop('immediate');
eval { finish($load) };
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM firm'), $before, 'the load is gone');
is($node->safe_psql('postgres', 'SELECT wrong()'), '0', 'index and table agree after the crash');
$node->safe_psql('postgres', 'VACUUM firm');
$node->safe_psql('postgres', q{INSERT INTO firm SELECT 200000 + i, 'Again ' || md5(i::text) FROM generate_series(1, 3000) AS i});
is($node->safe_psql('postgres', 'SELECT wrong()'), '0', 'and when its room was used again');

# Loads that write the same leaves at the same time, while leaves split and vacuum clears them.
$node->safe_psql('postgres', q{DELETE FROM firm WHERE id % 3 = 0});
my @loads = map {
	my $from = 300000 + 10000 * $_;
	psql_start(join('', map { sprintf("INSERT INTO firm SELECT %d + i, '%s' || ' ' || md5((i %% 700)::text) || ' %s' FROM generate_series(1, 600) AS i;\n", $from + 1000 * $_, name(), name()) } 0 .. 4));
} 1 .. 3;
push @loads, psql_start("VACUUM firm;\nDELETE FROM firm WHERE id % 7 = 0 AND id > 300000;\n" x 10);
finish($_) for @loads;
is($node->safe_psql('postgres', 'SELECT count(*) > 7000 FROM firm WHERE id > 300000'), 't', 'loads beside one another');
is($node->safe_psql('postgres', 'SELECT wrong()'), '0', 'index and table agree after them');
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT wrong()'), '0', 'and on the standby');

$standby->stop;
$node->stop;
done_testing();
