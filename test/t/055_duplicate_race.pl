# 64 clients write customers at once, ordinary members all; every hundredth customer is
# written twice, damaged, right after the other.  No twin is stored, nothing else is
# refused, nobody waits in a circle.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $customers = 3000;
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "max_connections = 100\nfsync = off");
$node->start;
$node->safe_psql('postgres', qq{
	CREATE EXTENSION crm CASCADE;
	SELECT crm.create_workspace('sales');
	CREATE ROLE rep LOGIN;
	SELECT crm.grant_access('sales', 'rep', 'app');
	INSERT INTO sales.member (id, name, login_role) VALUES (1, 'Rep', 'rep');
	INSERT INTO sales.duplicate_rule (kind, name, action, threshold) VALUES ('account', 'no twins', 'block', 0.95);
	CREATE TABLE todo AS
	SELECT row_number() OVER (ORDER BY i, twin) AS n, i AS customer, twin,
	       initcap(translate(md5(i::text), '0123456789', 'ghijklmnop')) || CASE WHEN twin THEN ' Inc' ELSE ' Incorporated' END AS name,
	       '+1 212 555 ' || lpad((i % 10000)::text, 4, '0') AS phone
	FROM generate_series(1, $customers) AS i CROSS JOIN LATERAL (SELECT false UNION ALL SELECT true WHERE i % 100 = 0) AS v (twin);
	ALTER TABLE todo ADD PRIMARY KEY (n);
	CREATE SEQUENCE next;
	CREATE TABLE refused (n bigint, customer bigint, name text);
	CREATE FUNCTION write() RETURNS void LANGUAGE plpgsql AS \$\$
	DECLARE
		t todo := (SELECT t FROM todo AS t WHERE t.n = (SELECT nextval('next')));
	BEGIN
		IF t.n IS NULL THEN RETURN; END IF;
		BEGIN
			INSERT INTO sales.account (name, phone, description, owner_id) VALUES (t.name, t.phone, t.customer, 1);
		EXCEPTION WHEN SQLSTATE 'RMD01' THEN INSERT INTO refused VALUES (t.n, t.customer, t.name);
		END;
	END \$\$;
	GRANT SELECT ON todo TO rep;
	GRANT INSERT ON refused TO rep;
	GRANT USAGE ON SEQUENCE next TO rep;
});
my $total = $node->safe_psql('postgres', 'SELECT count(*) FROM todo');
my $script = $node->basedir . '/write.sql';
append_to_file($script, "SELECT write();\n");
$node->command_ok([ 'pgbench', '-n', '-h', $node->host, '-p', $node->port, '-U', 'rep', '-c', 64, '-j', 2,
	'-t', int($total / 64) + 1, '-f', $script, 'postgres' ], '64 clients finish');

is($node->safe_psql('postgres', 'SELECT count(*) FROM todo WHERE twin'), $customers / 100, 'twins were planted');
is($node->safe_psql('postgres', 'SELECT description, count(*) FROM sales.account GROUP BY 1 HAVING count(*) > 1'), '', 'no twin is stored');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT description), count(*) FROM sales.account'), "$customers|$customers", 'each customer is, once');
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT customer), bool_and(customer % 100 = 0) FROM refused'),
	join('|', $customers / 100, $customers / 100, 't'), 'one of each two twins was refused, nobody else');
is($node->safe_psql('postgres', q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'}), '0', 'no deadlock');

done_testing();
