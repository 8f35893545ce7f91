# A copy never reminds anybody until it is adopted: a database made from a template,
# a restored dump.  A restart, a new name and pg_upgrade make no copy.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'crm'\nmax_worker_processes = 12\n");
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE boss LOGIN; CREATE ROLE clerk LOGIN; CREATE DATABASE shop');
$node->safe_psql('shop', q{
	CREATE EXTENSION crm CASCADE;
	GRANT CREATE ON DATABASE shop TO boss;
	SELECT crm.grant_toolkit('boss');
	GRANT USAGE ON SCHEMA crm TO clerk;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO clerk, boss;
	SET ROLE boss;
	SELECT crm.create_workspace('sales');
	INSERT INTO sales.member (id, name) VALUES (1, 'Ann');
	INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now() + interval '1 day', 'tomorrow')});

sub remind { my ($n, $db, $title) = @_; $n->safe_psql($db, "INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now(), '$title')"); return; }
sub fired { my ($n, $db, $title, $name) = @_; ok($n->poll_query_until($db, "SELECT count(*) = 1 FROM sales.event WHERE title = '$title'"), $name); return; }

sub quarantined
{
	my ($db, $name) = @_;
	remind($node, $db, 'copy');
	ok($node->poll_query_until($db, q{SELECT reason LIKE '1 workspaces are in quarantine%' FROM crm.scheduler_status() WHERE database = current_database()}),
		"$name: the status says that it is in quarantine");
	is($node->safe_psql($db, 'SELECT count(*) FROM sales.event'), '0', "$name: nothing fires");
	my ($ret, $out, $err) = $node->psql($db, q{SELECT crm.run_due(workspace => 'sales')});
	like($err, qr/workspace "sales" is in quarantine.*HINT:.*crm\.scheduler_adopt\(\)/s, "$name: nor by hand");
	($ret, $out, $err) = $node->psql($db, q{SELECT crm.run_due()});
	is("$out", '0', "$name: nor with all the others");
	like($err, qr/WARNING:  workspace "sales" is in quarantine/, "$name: which says so");
	is($node->safe_psql($db, q{SELECT severity, workspace FROM crm.doctor() WHERE "check" = 'quarantine'}), 'error|sales', "$name: the doctor knows");
	($ret, $out, $err) = $node->psql($db, q{SET ROLE clerk; SELECT crm.scheduler_adopt('sales')});
	like($err, qr/must be owner of workspace sales/, "$name: only its owner adopts it");
	is($node->safe_psql($db, q{SET ROLE clerk; SELECT count(*) FROM crm.scheduler_adopt()}), '0', "$name: others adopt nothing");
	return;
}

# A template.
$node->safe_psql('postgres', 'CREATE DATABASE staging TEMPLATE shop');
quarantined('staging', 'template');
my ($ret, $out, $err) = $node->psql('staging', q{SELECT crm.scheduler_adopt(catch_up => 'maybe')});
like($err, qr/unrecognized way to catch up: "maybe"/, 'a way to catch up that is none');
is($node->safe_psql('staging', q{SET ROLE boss; SELECT crm.scheduler_adopt()}), 'sales', 'adopted');
fired($node, 'staging', 'copy', 'it fires');
is($node->safe_psql('staging', q{SELECT crm.scheduler_adopt()}), '', 'adopting twice does nothing');
is($node->safe_psql('staging', q{SELECT count(*) FROM crm.doctor() WHERE "check" = 'quarantine'}), '0', 'the doctor is content');

# A dump.
my $dump = $node->basedir . '/dump';
command_ok([ 'pg_dump', '-h', $node->host, '-p', $node->port, '-Fc', '-f', $dump, 'shop' ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok([ 'pg_restore', '-h', $node->host, '-p', $node->port, '-d', 'restored', $dump ], 'pg_restore');
quarantined('restored', 'restored');
is($node->safe_psql('restored', q{SET ROLE boss; SELECT crm.scheduler_adopt(catch_up => 'skip')}), 'sales', 'adopted, skipping what is due');
remind($node, 'restored', 'later');
fired($node, 'restored', 'later', 'what comes later fires');
is($node->safe_psql('restored', q{SELECT failure FROM sales.reminder WHERE title = 'copy'}), 'skipped: it was due before the workspace was adopted here', 'what was due is set aside');
is($node->safe_psql('restored', q{SELECT set_aside FROM crm.scheduler_status() WHERE database = 'restored'}), '1', 'and counted');

# Not copies.
remind($node, 'shop', 'original');
fired($node, 'shop', 'original', 'the original was never in quarantine');
$node->safe_psql('postgres', 'ALTER DATABASE shop RENAME TO store');
remind($node, 'store', 'renamed');
fired($node, 'store', 'renamed', 'nor is it under a new name');
$node->restart;
remind($node, 'store', 'restarted');
fired($node, 'store', 'restarted', 'nor after a restart');
# A rewritten table and a change of the row's place.
$node->safe_psql('store', 'VACUUM FULL sales.reminder_home; VACUUM FREEZE sales.reminder_home');

# pg_upgrade, to the same version, which is all there is here.
$node->safe_psql('store', q{INSERT INTO sales.reminder (member_id, due_at, title) SELECT 1, now() + interval '2 s', 'over the upgrade' FROM generate_series(1, 100)});
$node->safe_psql('postgres', "DROP DATABASE $_") for ('staging', 'restored');
$node->stop;
my $new = PostgreSQL::Test::Cluster->new('new');
$new->init;
my $bindir = $node->config_data('--bindir');
my $sockets = PostgreSQL::Test::Utils::tempdir_short();
$new->append_conf('postgresql.conf', "shared_preload_libraries = 'crm'\n");
chdir $new->basedir or die;
command_ok([ 'pg_upgrade', '--no-sync', '-d', $node->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $bindir, '-s', $sockets, '-p', $node->port, '-P', $new->port ],
	'pg_upgrade');
$new->start;
ok($new->poll_query_until('store', q{SELECT count(*) = 100 AND count(DISTINCT reminder_id) = 100 FROM sales.event WHERE title = 'over the upgrade'}),
	'after pg_upgrade what is due fires, and needs no adopting');
remind($new, 'store', 'upgraded');
fired($new, 'store', 'upgraded', 'and what comes later');
is($new->safe_psql('store', q{SELECT h.system_id <> c.system_identifier FROM sales.reminder_home AS h, pg_control_system() AS c}), 't', 'although the cluster is another');
# But a dump of the upgraded database restored is a copy, too.
$new->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE store');
is($new->safe_psql('copy', q{SELECT crm._reminder_at_home('sales')}), 'f', 'a copy of an upgraded database is a copy');
$new->stop;

my $log = slurp_file($node->logfile);
like($log, qr/WARNING:  1 workspaces of database "staging" are in quarantine.*HINT:  If they are to fire here, connect to the database and run SELECT crm\.scheduler_adopt\(\)/s, 'the log says what to do');
unlike($log . slurp_file($new->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
