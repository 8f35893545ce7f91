# Logical replication as the DBA's guide describes it: the subscriber gets the
# schema from a dump, the rows from the publication, and crm's triggers do not run
# again on what was checked and logged at the source.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my ($source, $target) = map {
	my $node = PostgreSQL::Test::Cluster->new($_);
	$node->init(allows_streaming => 'logical');
	$node->append_conf('postgresql.conf', "autovacuum = off\nmax_logical_replication_workers = 8");
	$node->start;
	$node;
} qw(source target);

$source->safe_psql('postgres', q{
	CREATE EXTENSION crm CASCADE;
	SELECT crm.create_workspace('sales');
	INSERT INTO sales.member (id, name) VALUES (1, 'Ann');
	INSERT INTO sales.account (id, name, city) SELECT i, 'Account ' || i, 'Berlin' FROM generate_series(1, 20) AS i;
	UPDATE sales.account SET city = 'Bonn' WHERE id <= 5;
	CREATE PUBLICATION sales_out FOR TABLES IN SCHEMA sales;
});
$target->safe_psql('postgres', 'CREATE EXTENSION crm CASCADE');
my $schema = "$dir/schema.sql";
PostgreSQL::Test::Utils::system_or_bail('pg_dump', '-h', $source->host, '-p', $source->port, '--schema-only', '-n', 'sales', '-f', $schema, 'postgres');
PostgreSQL::Test::Utils::system_or_bail('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-h', $target->host, '-p', $target->port, '-d', 'postgres', '-f', $schema);
my $connstr = $source->connstr . ' dbname=postgres';
$target->safe_psql('postgres', "CREATE SUBSCRIPTION sales_in CONNECTION '$connstr' PUBLICATION sales_out");

# Every table, row by row.
sub contents
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{
		SELECT string_agg(c.relname || ' ' || (xpath('/row/n/text()', query_to_xml(format('SELECT md5(coalesce(string_agg(t::text, chr(10) ORDER BY t::text), '''')) AS n FROM sales.%I AS t', c.relname), true, true, '')))[1]::text,
		                  chr(10) ORDER BY c.relname)
		FROM pg_class AS c WHERE c.relnamespace = 'sales'::regnamespace AND c.relkind = 'r'});
}

$source->wait_for_catchup('sales_in');
ok($target->poll_query_until('postgres', "SELECT count(*) > 0 AND bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel"), 'the first copy ends');
is(contents($target), contents($source), 'every table is the same, audit log and versions included');
is($target->safe_psql('postgres', 'SELECT workspace, schema_version = current_version FROM crm.workspaces()'), 'sales|t', 'the subscriber has a workspace');
is($target->safe_psql('postgres', q{SELECT crm._reminder_at_home('sales')}), 'f', 'whose reminders fire at the source only');

$source->safe_psql('postgres', q{
	UPDATE sales.account SET city = 'Kiel' WHERE id > 15;
	DELETE FROM sales.account WHERE id = 20;
	INSERT INTO sales.opportunity (name, amount, currency) VALUES ('Deal', 5, 'EUR');
});
$source->wait_for_catchup('sales_in');
is(contents($target), contents($source), 'so it is after changes: nothing is logged or counted twice');

# Enabled for replicas, the trigger logs what arrives.
$target->safe_psql('postgres', q{
	CREATE TABLE sales.own_log (LIKE sales.audit_log INCLUDING ALL);
	SELECT crm.enable_audit('sales.contact', audit_log => 'sales.own_log');
	ALTER TABLE sales.contact ENABLE ALWAYS TRIGGER crm_audit;
});
$source->safe_psql('postgres', "INSERT INTO sales.contact (full_name) VALUES ('Jens Petersen')");
$source->wait_for_catchup('sales_in');
is($target->safe_psql('postgres', "SELECT operation, kind, statement IS NULL, new ->> 'full_name' FROM sales.own_log"), 'INSERT|contact|t|Jens Petersen',
	'a trigger enabled always logs what is applied');
# An upgrade makes the trigger anew, with the workspace's own log, and leaves it enabled always.
$target->safe_psql('postgres', "SELECT crm.upgrade_workspace('sales')");
is($target->safe_psql('postgres', "SELECT tgenabled FROM pg_trigger WHERE tgrelid = 'sales.contact'::regclass AND tgname = 'crm_audit'"), 'A', 'an upgrade leaves it so');

$target->safe_psql('postgres', 'DROP SUBSCRIPTION sales_in');
$source->stop;
$target->stop;
done_testing();
