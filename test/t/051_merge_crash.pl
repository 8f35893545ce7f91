# kill -9 in the middle of merging and unmerging: each is one transaction, so after
# the crash it has happened whole or not at all.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use CrmTest;

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

# Runs a statement until it waits at the gate, then sends its backend a signal.
sub crash_in
{
	my ($sql, $signal) = @_;
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
	kill $signal // 'KILL', $pid;
	$victim->finish;
	eval { $holder->quit; };
	wait_until_up($node, $pid);
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

# A merge of many commits cluster by cluster: cancelled or killed in the middle, it
# keeps what it has done and nothing of the one it was at; called again, it goes on.
$node->safe_psql('postgres', q{
	INSERT INTO sales.account (id, name, phone) SELECT 100 + i, 'Twin ' || i / 2, '+4930' || (5550000 + i / 2) FROM generate_series(0, 11) AS i;
	INSERT INTO sales.contact (account_id, full_name) SELECT 100 + i, 'Of ' || i FROM generate_series(0, 11) AS i;
	INSERT INTO sales.duplicate_pair (kind, left_id, right_id, score) SELECT 'account', 100 + 2 * i, 101 + 2 * i, 0.99 FROM generate_series(0, 5) AS i;
	INSERT INTO sales.duplicate_cluster (kind, cluster_id, record_id) SELECT 'account', 100 + i / 2 * 2, 100 + i FROM generate_series(0, 11) AS i;
	TRUNCATE gate;
	INSERT INTO gate VALUES (105, 1), (109, 2);
});
sub records
{
	return $node->safe_psql('postgres', q{
		SELECT string_agg(a.id || coalesce('<' || m.ids, ''), ' ' ORDER BY a.id) FROM sales.account AS a
		LEFT JOIN (SELECT survivor_id, string_agg(record_id, ',') AS ids FROM sales.merged_record GROUP BY 1) AS m ON m.survivor_id = a.id::text
		WHERE a.id >= 100});
}
my $bulk = q{CALL sales.merge_all_clusters('account', 0.9)};
crash_in($bulk, 'INT');
is(records(), '100<101 102<103 104 105 106 107 108 109 110 111', 'cancelled: two clusters are merged, the third is as it was');
is($node->safe_psql('postgres', 'SELECT count(*) FROM sales.contact AS c JOIN sales.merged_record AS m ON m.record_id = c.account_id::text'), '0', 'no contact is left behind');
$node->safe_psql('postgres', 'DELETE FROM gate WHERE account_id = 105');
crash_in($bulk);
is(records(), '100<101 102<103 104<105 106<107 108 109 110 111', 'killed: two more are merged');
$node->safe_psql('postgres', 'TRUNCATE gate');
$node->safe_psql('postgres', $bulk);
is(records(), '100<101 102<103 104<105 106<107 108<109 110<111', 'called again, it finishes');
is($node->safe_psql('postgres', q{SELECT string_agg(n::text, ',') FROM (SELECT count(*) AS n FROM sales.report_merge WHERE run_id IS NOT NULL GROUP BY run_id ORDER BY run_id) AS r}),
	'2,2,2', 'three runs of two merges');
is($node->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE undone), count(*) FROM sales.unmerge_all(ARRAY(SELECT id FROM sales.report_merge WHERE run_id IS NOT NULL))}),
	'6|6', 'all of them are undone at once');
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM sales.account AS a JOIN sales.contact AS c ON c.account_id = a.id AND c.full_name = 'Of ' || (a.id - 100) WHERE a.id >= 100}),
	'12', 'and everybody has their contacts back');

$node->stop;
done_testing();
