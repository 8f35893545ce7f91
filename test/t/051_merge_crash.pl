# kill -9 in the middle of merging and unmerging: each is one transaction, so after
# the crash it has happened whole or not at all.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "restart_after_crash = on\nlog_min_messages = warning");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION crm CASCADE;
	SELECT crm.create_workspace('sales');
	INSERT INTO sales.account (id, name, city) VALUES (1, 'Acme', NULL), (2, 'Acme Ltd', 'Berlin'), (3, 'ACME', NULL);
	INSERT INTO sales.activity (account_id, subject) SELECT 2 + i % 2, 'call ' || i FROM generate_series(1, 2000) AS i;
	INSERT INTO sales.contact (account_id, full_name) SELECT 2 + i % 2, 'Contact ' || i FROM generate_series(1, 200) AS i;
	-- A merge stops here until the test lets it go on: after it re-pointed the
	-- contacts, and before it has finished.
	CREATE TABLE gate (account_id bigint REFERENCES sales.account, n integer);
	CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_advisory_xact_lock(42);
		RETURN NULL;
	END $$;
	CREATE TRIGGER gate AFTER UPDATE ON gate FOR EACH STATEMENT EXECUTE FUNCTION gate();
	INSERT INTO gate VALUES (2, 1);
});

sub state
{
	return $node->safe_psql('postgres', q{
		SELECT md5(string_agg(t, ',' ORDER BY t)) FROM (
			SELECT 'a' || x::text AS t FROM sales.account AS x UNION ALL SELECT 'y' || x::text FROM sales.activity AS x
			UNION ALL SELECT 'c' || x::text FROM sales.contact AS x UNION ALL SELECT 'g' || x::text FROM gate AS x
			UNION ALL SELECT 'm' || x::text FROM sales.merged_record AS x
			UNION ALL SELECT 'l' || x::text FROM sales.merge_log AS x) AS s});
}

# Runs a statement until it waits at the gate, then kills its backend.
sub crash_in
{
	my ($sql) = @_;
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('SELECT pg_advisory_lock(42)');
	my ($out, $err) = ('', '');
	my $victim = IPC::Run::start(
		[ 'psql', '-X', '-h', $node->host, '-p', $node->port, '-d', 'postgres', '-c', $sql ],
		'>', \$out, '2>', \$err);
	$node->poll_query_until('postgres', q{
		SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted})
	  or die "the statement did not reach the gate: $err";
	my $pid = $node->safe_psql('postgres',
		q{SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted});
	kill 'KILL', $pid;
	$victim->finish;
	eval { $holder->quit; };
	$node->poll_query_until('postgres', 'SELECT true') or die 'the server did not come back';
	isnt($err, '', 'the client was told');
}

my $before = state();
crash_in(q{SELECT sales.merge_records('account', 1, '{2,3}')});
is(state(), $before, 'a merge that was killed never happened');

my $merge = $node->safe_psql('postgres', q{SELECT sales.merge_records('account', 1, '{2,3}')});
is($node->safe_psql('postgres', 'SELECT count(*) FROM sales.activity WHERE account_id = 1'), '2000', 'merged after all');
my $merged = state();
crash_in("SELECT * FROM sales.unmerge($merge)");
is(state(), $merged, 'an unmerge that was killed never happened');
is($node->safe_psql('postgres', "SELECT count(*) FROM sales.unmerge($merge)"), '0', 'unmerged after all');
is($node->safe_psql('postgres', q{SELECT count(*) FROM sales.account WHERE id IN (2, 3)}), '2', 'the losers are back');
is($node->safe_psql('postgres', q{SELECT count(*) FROM sales.activity WHERE account_id = 1}), '0', 'and what is theirs');

# immediate shutdown right after commit: a merge that was reported stays
$merge = $node->safe_psql('postgres', q{SELECT sales.merge_records('account', 1, '{2,3}')});
$merged = state();
$node->stop('immediate');
$node->start;
is(state(), $merged, 'a committed merge survives a crash');
is($node->safe_psql('postgres', "SELECT count(*) FROM sales.unmerge($merge)"), '0', 'and can still be undone');

$node->stop;
done_testing();
