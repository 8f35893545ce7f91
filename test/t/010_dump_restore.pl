# A workspace is ordinary tables: whatever its users added to it survives pg_dump
# and restore, and the dump of the restored database is the same, byte for byte.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "timezone = 'UTC'\nautovacuum = off");
$node->start;
my $dir = PostgreSQL::Test::Utils::tempdir();

sub run_ok
{
	my ($name, @command) = @_;
	my ($out, $err);
	my $ok = IPC::Run::run(\@command, '>', \$out, '2>', \$err);
	ok($ok, $name) or diag($err);
	return $out;
}

# pg_dump 15.14, 17.6 and later write random \restrict keys.
sub dump_text
{
	my ($db, $name, @options) = @_;
	my $text = run_ok("pg_dump $name", 'pg_dump', '-h', $node->host, '-p', $node->port, @options, $db);
	$text =~ s/^\\(un)?restrict .*$//mg;
	return $text;
}

sub same
{
	my ($got, $expected, $name) = @_;
	return pass($name) if $got eq $expected;
	my @got = split(/\n/, $got);
	my @expected = split(/\n/, $expected);
	my $i = 0;
	$i++ while ($i < @got && $i < @expected && $got[$i] eq $expected[$i]);
	fail($name);
	diag("line $i: got " . ($got[$i] // 'nothing') . ', expected ' . ($expected[$i] // 'nothing'));
}

# The owner of the database is no superuser; application roles have access.
$node->safe_psql('postgres', q{
	CREATE ROLE owner LOGIN;
	CREATE ROLE app LOGIN;
	CREATE ROLE "Rep ort" LOGIN;
	CREATE ROLE auditor LOGIN;
	CREATE DATABASE source OWNER owner;
});
$node->safe_psql('source', q{
	CREATE EXTENSION crm CASCADE;
	SELECT crm.create_workspace('sales');
	SELECT crm.create_workspace('Big "Deal"');
	SELECT crm.grant_access('sales', 'app', 'app'), crm.grant_access('sales', 'Rep ort', 'report'),
	       crm.grant_access('sales', 'auditor', 'auditor');
	INSERT INTO sales.member (name, login_role) VALUES ('Ann', 'app');
	INSERT INTO sales.account (name, city, owner_id) SELECT 'Account ' || i, 'Berlin', 1 FROM generate_series(1, 100) AS i;
	INSERT INTO sales.contact (full_name, account_id, email, owner_id) SELECT 'Contact ' || i, i, 'c' || i || '@example.org', 1 FROM generate_series(1, 100) AS i;
	INSERT INTO sales.opportunity (name, account_id, amount, currency, owner_id) SELECT 'Deal ' || i, i, i, 'EUR', 1 FROM generate_series(1, 50) AS i;
	INSERT INTO sales.activity (subject, account_id, owner_id) SELECT 'Call ' || i, i, 1 FROM generate_series(1, 50) AS i;
	UPDATE sales.account SET city = 'Bonn' WHERE id % 3 = 0;
	DELETE FROM sales.activity WHERE id % 5 = 0;
	SELECT crm.seal_audit('sales');
}, extra_params => ['-U', 'owner']);

# What users do to a workspace: everything that was lost when the tables were members.
$node->safe_psql('source', q{
	ALTER TABLE sales.account ADD COLUMN rating integer DEFAULT 3 CONSTRAINT rating_range CHECK (rating BETWEEN 1 AND 5);
	COMMENT ON COLUMN sales.account.rating IS 'How we like them.';
	COMMENT ON TABLE sales.account IS 'Our customers.';
	ALTER TABLE sales.account ALTER COLUMN country SET DEFAULT 'DE';
	CREATE INDEX account_rating ON sales.account (rating) WHERE rating > 3;
	CREATE STATISTICS sales.account_stats ON city, country FROM sales.account;
	ALTER TABLE sales.account SET (fillfactor = 80);
	ALTER TABLE sales.contact ADD COLUMN name_key text GENERATED ALWAYS AS (crm.name_key(full_name)) STORED;
	CREATE INDEX contact_mail_domain ON sales.contact (split_part(email, '@', 2));
	CREATE TABLE sales.visit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
		account_id bigint NOT NULL REFERENCES sales.account ON DELETE CASCADE, at crm.phone);
	CREATE INDEX ON sales.visit (account_id);
	SELECT crm.enable_audit('sales.visit');
	INSERT INTO sales.visit (account_id, at) VALUES (1, '+4930123456');
	CREATE FUNCTION sales.welcome() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.description := coalesce(NEW.description, 'new'); RETURN NEW; END $$;
	CREATE TRIGGER welcome BEFORE INSERT ON sales.account FOR EACH ROW EXECUTE FUNCTION sales.welcome();
	CREATE POLICY berlin_only ON sales.account AS RESTRICTIVE FOR SELECT TO "Rep ort" USING (city = 'Berlin');
	GRANT SELECT (name, city) ON sales.account TO auditor;
	CREATE VIEW sales.big WITH (security_invoker) AS SELECT * FROM sales.opportunity WHERE amount > 40;
	GRANT SELECT ON sales.big TO app;
	ALTER TABLE sales.contact ENABLE ALWAYS TRIGGER crm_audit;
	ALTER TABLE sales.lead DISABLE TRIGGER crm_touch;
	DELETE FROM sales.lead_source WHERE name = 'event';
	INSERT INTO sales.lead_source (name) VALUES ('hearsay');
}, extra_params => ['-U', 'owner']);

my $dump = dump_text('source', 'of the customised database');
like($dump, qr/rating_range/, 'a dump holds the workspace');
unlike($dump, qr/CREATE FUNCTION crm\./, 'and not the code of the toolkit');

sub restore_plain
{
	my ($db, $text) = @_;
	my $file = "$dir/$db.sql";
	PostgreSQL::Test::Utils::append_to_file($file, $text);
	run_ok("restore into $db", 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-h', $node->host, '-p', $node->port, '-d', $db, '-f', $file);
	unlink $file;
}

$node->safe_psql('postgres', 'CREATE DATABASE plain OWNER owner');
restore_plain('plain', $dump);
same(dump_text('plain', 'of the restored database'), $dump, 'the second dump is the same, byte for byte');

# In parallel, from a directory.
run_ok('pg_dump -Fd -j2', 'pg_dump', '-h', $node->host, '-p', $node->port, '-Fd', '-j2', '-f', "$dir/d", 'source');
$node->safe_psql('postgres', 'CREATE DATABASE parallel OWNER owner');
run_ok('pg_restore -j2', 'pg_restore', '-h', $node->host, '-p', $node->port, '--exit-on-error', '-j2', '-d', 'parallel', "$dir/d");
same(dump_text('parallel', 'of the database restored in parallel'), $dump, 'restored in parallel, it is the same');

# Triggers did not fire: history, versions and times are those of the source.
for my $query (
	'SELECT count(*), max(id), md5(string_agg(l::text, \',\' ORDER BY id)) FROM sales.audit_log AS l',
	'SELECT md5(string_agg(a::text, \',\' ORDER BY id)) FROM sales.account AS a',
	'SELECT bool_and(intact), count(*) FROM crm.audit_verify(\'sales\')')
{
	is($node->safe_psql('plain', $query), $node->safe_psql('source', $query), $query);
}

# The restored workspace works, for its owner and its applications.
my $workspaces = "SELECT workspace, owner, schema_version = current_version FROM crm.workspaces()";
is($node->safe_psql('plain', $workspaces, extra_params => ['-U', 'owner']),
	qq{"Big ""Deal"""|owner|t\nsales|owner|t}, 'the workspaces are recognised');
is($node->safe_psql('plain', "INSERT INTO sales.account (name, owner_id) VALUES ('New', 1) RETURNING id", extra_params => ['-U', 'app']),
	'101', 'an application goes on where it was');
is($node->safe_psql('plain', q{SELECT operation, role, member_id, new ->> 'description' FROM sales.audit_log WHERE kind = 'account' AND record_id = 101}, extra_params => ['-U', 'auditor']),
	'INSERT|app|1|new', 'and is audited');
is($node->safe_psql('plain', q{SELECT schema, role, kind FROM crm.access()}, extra_params => ['-U', 'owner']),
	qq{sales|"Rep ort"|report\nsales|app|app\nsales|auditor|auditor}, 'access was restored');
$node->safe_psql('plain', q{SELECT crm.upgrade_workspace('sales'), crm.create_workspace('third'), crm.grant_access('third', 'app', 'app')}, extra_params => ['-U', 'owner']);
is($node->safe_psql('plain', q{SELECT tgname, tgenabled FROM pg_trigger WHERE tgenabled <> 'O' AND tgrelid IN ('sales.contact'::regclass, 'sales.lead'::regclass) AND tgname LIKE 'crm_audit' OR tgenabled = 'D' ORDER BY 1}),
	"crm_audit|A\ncrm_touch|D", 'an upgrade leaves triggers as they were switched');

# The owner of a database restores it without being superuser.
$node->safe_psql('postgres', 'CREATE DATABASE by_owner OWNER owner');
run_ok('pg_dump -Fc', 'pg_dump', '-h', $node->host, '-p', $node->port, '-U', 'owner', '-Fc', '-f', "$dir/c", 'source');
run_ok('pg_restore by the owner', 'pg_restore', '-h', $node->host, '-p', $node->port, '-U', 'owner', '--exit-on-error', '-d', 'by_owner', "$dir/c");
is($node->safe_psql('by_owner', 'SELECT count(*) FROM sales.account', extra_params => ['-U', 'app']), '100', 'applications have access at once');
# The owner is now the grantor of what the dump granted on the toolkit; an upgrade puts that right.
$node->safe_psql('by_owner', q{SELECT crm.upgrade_workspace('sales'), crm.upgrade_workspace('Big "Deal"')}, extra_params => ['-U', 'owner']);
# Grants of one object are in another order.
sub sorted { return join("\n", sort split(/\n/, $_[0])); }
same(sorted(dump_text('by_owner', 'of the database its owner restored')), sorted($dump), 'restored by its owner and upgraded, it is the same');

# One workspace alone.
my $one = dump_text('source', 'of one workspace', '-n', 'sales');
$node->safe_psql('postgres', 'CREATE DATABASE one OWNER owner');
$node->safe_psql('one', 'CREATE EXTENSION crm CASCADE', extra_params => ['-U', 'owner']);
restore_plain('one', $one);
same(dump_text('one', 'of one workspace, restored', '-n', 'sales'), $one, 'one workspace alone is the same');
is($node->safe_psql('one', $workspaces, extra_params => ['-U', 'owner']), 'sales|owner|t', 'and is a workspace');

$node->stop;
done_testing();
