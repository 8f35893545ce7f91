# Nothing fires on a standby; once promoted it fires what is due, once each.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "shared_preload_libraries = 'crm'\ncrm.batch_size = 100\n");
$primary->start;
$primary->safe_psql('postgres', q{
	CREATE EXTENSION crm CASCADE;
	SELECT crm.create_workspace('sales');
	INSERT INTO sales.member (id, name) VALUES (1, 'Ann')});
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

$primary->safe_psql('postgres', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now(), 'on the primary')});
$primary->poll_query_until('postgres', 'SELECT count(*) = 1 FROM sales.event') or die;
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'crm%'}), '0', 'no scheduler runs on a standby');
my ($ret, $out, $err) = $standby->psql('postgres', 'SELECT crm.run_due()');
like($err, qr/cannot execute crm.run_due\(\) during recovery/, 'nor can one fire by hand');
($ret, $out, $err) = $standby->psql('postgres', 'SELECT crm.scheduler_start()');
like($err, qr/cannot start the crm scheduler during recovery/, 'nor start it');

# The primary dies in the middle of a burst.
$primary->safe_psql('postgres', q{INSERT INTO sales.reminder (member_id, due_at, title) SELECT 1, now(), 'burst' FROM generate_series(1, 20000)});
$primary->poll_query_until('postgres', q{SELECT count(*) > 300 FROM sales.event}) or die;
$primary->stop('immediate');
$standby->promote;
ok($standby->poll_query_until('postgres', q{SELECT count(*) = 0 FROM sales.reminder}), 'the promoted standby fires the rest');
is($standby->safe_psql('postgres', q{SELECT count(*), count(DISTINCT reminder_id), count(DISTINCT id) FROM sales.event}), '20001|20001|20001', 'once each');
$standby->safe_psql('postgres', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now(), 'after the promotion')});
ok($standby->poll_query_until('postgres', q{SELECT count(*) = 1 FROM sales.event WHERE title = 'after the promotion'}), 'and what comes later');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM (SELECT id, lag(id) OVER (ORDER BY fired_at, id) AS before FROM sales.event) AS e WHERE id < before}), '0', 'ids keep their order');
$standby->stop;
done_testing();
