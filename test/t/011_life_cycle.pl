# Installing, sharing out, breaking and removing: what a database owner who is no
# superuser can do, what a removed extension takes along, what is refused.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'autovacuum = off');
$node->start;

sub as { my ($role, $db, $sql) = @_; return $node->safe_psql($db, $sql, extra_params => ['-U', $role]); }

sub refused
{
	my ($role, $db, $sql, $pattern, $name) = @_;
	my ($out, $err);
	my $rc = $node->psql($db, $sql, extra_params => ['-U', $role], stdout => \$out, stderr => \$err);
	isnt($rc, 0, "$name: refused");
	like($err, $pattern, "$name: says why");
}

$node->safe_psql('postgres', q{
	CREATE ROLE owner LOGIN;
	CREATE ROLE tenant LOGIN;
	CREATE ROLE app LOGIN;
	CREATE ROLE stranger LOGIN;
	CREATE DATABASE shop OWNER owner;
	CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0;
});

# Other encodings are refused before anything exists.
refused('postgres', 'latin1', 'CREATE EXTENSION crm CASCADE',
	qr/crm requires a database with encoding "UTF8".*The encoding of this database is "LATIN1"/s, 'encoding LATIN1');
is($node->safe_psql('latin1', "SELECT count(*) FROM pg_extension WHERE extname IN ('crm', 'pg_trgm')"), '0', 'nothing is left behind');

# A database owner who is no superuser installs it; nobody else can.
refused('stranger', 'shop', 'CREATE EXTENSION crm CASCADE', qr/permission denied for database shop/, 'installing without CREATE on the database');
as('owner', 'shop', 'CREATE EXTENSION crm CASCADE');
is(as('owner', 'shop', "SELECT crm.create_workspace('sales')"), 'sales', 'the owner creates a workspace');
refused('stranger', 'shop', "SELECT crm.create_workspace('mine')", qr/permission denied for schema crm/, 'a stranger');

# The owner passes the toolkit on to a tenant, who then owns a workspace and gives access to it.
as('owner', 'shop', "GRANT CREATE ON DATABASE shop TO tenant; SELECT crm.grant_toolkit('tenant')");
as('tenant', 'shop', "SELECT crm.create_workspace('tenant_ws'); SELECT crm.grant_access('tenant_ws', 'app', 'app')");
is(as('owner', 'shop', 'SELECT workspace, owner FROM crm.workspaces()'), "sales|owner\ntenant_ws|tenant", 'two workspaces, two owners');
is(as('tenant', 'shop', 'SELECT workspace, schema_version IS NULL FROM crm.workspaces()'), "sales|t\ntenant_ws|f",
	'a tenant does not look into another workspace');
refused('tenant', 'shop', "SELECT crm.upgrade_workspace('sales')", qr/must be owner of workspace sales/, 'upgrading another\'s workspace');
refused('tenant', 'shop', "SELECT crm.grant_access('sales', 'tenant', 'app')", qr/must be owner of workspace sales/, 'access to another\'s workspace');
refused('tenant', 'shop', "SELECT crm.grant_toolkit('stranger')", qr/permission denied for function grant_toolkit/, 'passing the toolkit on');
refused('tenant', 'shop', 'SELECT count(*) FROM sales.account', qr/permission denied for schema sales/, 'another\'s tables');
refused('owner', 'shop', "SELECT crm.grant_access('sales', 'app', 'gateway')", qr/permission denied to make role "app" a gateway.*GRANT SET ON PARAMETER/s, 'a gateway');

# What a superuser installed, the owner of the database can use and pass on all the same.
$node->safe_psql('postgres', 'CREATE DATABASE given OWNER owner');
$node->safe_psql('given', 'CREATE EXTENSION crm CASCADE');
as('owner', 'given', "SELECT crm.create_workspace('sales'); SELECT crm.grant_access('sales', 'app', 'app'); SELECT crm.grant_toolkit('tenant')");

# The extension cannot be dropped under a workspace, empty as it may be.
as('owner', 'shop', "INSERT INTO sales.account (name) VALUES ('Acme')");
refused('owner', 'shop', 'DROP EXTENSION crm', qr/cannot drop extension crm because other objects depend on it.*trigger crm_workspace on table sales\.crm_meta/s,
	'dropping the extension');

# The same with everything removed that need not depend on it.
$node->safe_psql('given', q{
	DO $$ DECLARE t text; BEGIN
		FOR t IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'sales' AND tablename <> 'crm_meta' LOOP
			EXECUTE 'DROP TABLE ' || t || ' CASCADE';
		END LOOP;
	END $$});
refused('postgres', 'given', 'DROP EXTENSION crm', qr/trigger crm_workspace on table sales\.crm_meta/, 'dropping the extension under a bare workspace');

# CASCADE takes code, and no data.
my $query = q{SELECT (SELECT count(*) FROM sales.account), (SELECT count(*) FROM sales.audit_log), (SELECT count(*) FROM tenant_ws.lead_source),
	(SELECT count(*) FROM pg_class AS c WHERE c.relrowsecurity)};
my $rows = $node->safe_psql('shop', $query);
like($rows, qr/^1\|[1-9]/, 'there are rows to lose');
$node->safe_psql('shop', 'DROP EXTENSION crm CASCADE');
is($node->safe_psql('shop', $query), $rows, 'the tables and their rows stay after DROP EXTENSION ... CASCADE, and row-level security stays enabled');
is($node->safe_psql('shop', q{SELECT count(*) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
	WHERE c.relnamespace = 'sales'::regnamespace AND c.relkind = 'r' AND a.attisdropped}), '0', 'with every column');

# Creating and upgrading do not happen inside extension scripts, where tables would become members.
refused('postgres', 'given', "CREATE EXTENSION crm_trap VERSION 'create'", qr/crm\.create_workspace\(\) cannot run inside an extension script/, 'creating');
refused('postgres', 'given', "CREATE EXTENSION crm_trap VERSION 'upgrade'", qr/crm\.upgrade_workspace\(\) cannot run inside an extension script/, 'upgrading');

$node->stop;
done_testing();
