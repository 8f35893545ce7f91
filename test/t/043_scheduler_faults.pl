# What goes wrong in one place does not keep the rest from firing: a reminder that
# cannot be fired, a workspace whose triggers fail, locks, settings meant for others.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'crm'\ncrm.max_workers = 1\n");
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE boss; CREATE DATABASE shop OWNER boss');
$node->safe_psql('shop', q{
	CREATE EXTENSION crm CASCADE;
	GRANT USAGE ON SCHEMA crm TO boss;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO boss;
	SET ROLE boss;
	SELECT crm.create_workspace('sales');
	SELECT crm.create_workspace('support');
	INSERT INTO sales.member (id, name) VALUES (1, 'Ann');
	INSERT INTO support.member (id, name) VALUES (1, 'Eve')});

sub fired
{
	my ($workspace, $title, $name, $count) = @_;
	$count ||= 1;
	ok($node->poll_query_until('shop', "SELECT count(*) = $count FROM $workspace.event WHERE title = '$title'"), $name);
}

sub session
{
	my ($sql, $expected) = @_;
	my $s = { in => "$sql\n", out => '', err => '' };
	$s->{h} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('shop') ],
		'<', \$s->{in}, '>', \$s->{out}, '2>', \$s->{err}, IPC::Run::timeout(180));
	$s->{h}->pump until $s->{out} =~ /$expected/;
	return $s;
}

sub finish
{
	my ($s, $sql) = @_;
	$s->{in} .= "$sql\n\\q\n";
	$s->{h}->finish;
}

# One poisonous reminder among many.
$node->safe_psql('shop', q{
	SET ROLE boss;
	CREATE FUNCTION sales.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF new.title LIKE 'poison%' THEN RAISE EXCEPTION 'no % here', new.title; END IF;
		RETURN NULL;
	END $$;
	CREATE TRIGGER refuse AFTER INSERT ON sales.event FOR EACH ROW EXECUTE FUNCTION sales.refuse();
	INSERT INTO sales.reminder (member_id, due_at, title)
	SELECT 1, '2020-01-01', CASE WHEN i IN (1, 700, 2000) THEN 'poison' ELSE 'food' END FROM generate_series(1, 2000) AS i});
fired('sales', 'food', 'the others fire', 1997);
ok($node->poll_query_until('shop', q{SELECT count(*) = 3 FROM sales.reminder WHERE failed_at IS NOT NULL}), 'those that fail are set aside');
is($node->safe_psql('shop', q{SELECT DISTINCT failure FROM sales.reminder}), 'P0001: no poison here', 'with the reason');
like($node->safe_psql('shop', q{SELECT error FROM crm.scheduler_status()}), qr/P0001: no poison here/, 'the status shows the last error');
$node->safe_psql('shop', q{DROP TRIGGER refuse ON sales.event; UPDATE sales.reminder SET failed_at = NULL});
fired('sales', 'poison', 'they fire once the cause is gone and somebody says so', 3);

# A workspace where everything fails is left alone; its neighbour is served.
$node->safe_psql('shop', q{
	SET ROLE boss;
	CREATE TRIGGER refuse AFTER INSERT ON sales.event FOR EACH ROW EXECUTE FUNCTION sales.refuse();
	INSERT INTO sales.reminder (member_id, due_at, title) SELECT 1, '2020-01-01', 'poison too' FROM generate_series(1, 500)});
$node->poll_query_until('shop', q{SELECT count(*) = 10 FROM sales.reminder WHERE failed_at IS NOT NULL}) or die;
$node->safe_psql('shop', q{INSERT INTO support.reminder (member_id, due_at, title) VALUES (1, now(), 'neighbour')});
fired('support', 'neighbour', 'the neighbour fires');
is($node->safe_psql('shop', q{SELECT count(*) FROM sales.reminder WHERE failed_at IS NULL}), '490', 'not each of them is set aside');
$node->safe_psql('shop', q{DROP TRIGGER refuse ON sales.event; UPDATE sales.reminder SET failed_at = NULL WHERE failed_at IS NOT NULL});
fired('sales', 'poison too', 'and all fire in the end', 500);

# One that takes too long is given up, and found.
$node->safe_psql('postgres', q{ALTER SYSTEM SET crm.batch_timeout = '500ms'});
$node->reload;
$node->safe_psql('shop', q{
	SET ROLE boss;
	CREATE FUNCTION sales.dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF new.title = 'slow' THEN PERFORM pg_sleep(600); END IF;
		RETURN NULL;
	END $$;
	CREATE TRIGGER dawdle AFTER INSERT ON sales.event FOR EACH ROW EXECUTE FUNCTION sales.dawdle();
	INSERT INTO sales.reminder (member_id, due_at, title)
	SELECT 1, '2020-01-01', CASE i WHEN 7 THEN 'slow' ELSE 'quick' END FROM generate_series(1, 20) AS i});
fired('sales', 'quick', 'a reminder that takes too long: the others fire', 19);
ok($node->poll_query_until('shop', q{SELECT failure LIKE '57014: %statement timeout' FROM sales.reminder WHERE title = 'slow'}), 'it is set aside');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET crm.batch_timeout');
$node->reload;
$node->safe_psql('shop', q{DROP TRIGGER dawdle ON sales.event; UPDATE sales.reminder SET failed_at = NULL WHERE failed_at IS NOT NULL});
fired('sales', 'slow', 'and fires once it is quick');

# Tables that changed under the worker's plans are no fault of the reminders.
for my $case ([ 'reminder', 'kind' ], [ 'event', 'title' ], [ 'member', 'active' ])
{
	my ($table, $column) = @$case;
	my $title = "misfit $table.$column";
	my ($was, $pid) = split /\|/, $node->safe_psql('shop', q{SELECT errors, pid FROM crm.scheduler_status()});
	$node->safe_psql('shop', "ALTER TABLE sales.$table RENAME COLUMN $column TO other");
	$node->safe_psql('shop', "INSERT INTO sales.reminder (member_id, due_at, title) SELECT 1, now(), '$title' FROM generate_series(1, 30)");
	ok($node->poll_query_until('shop', qq{SELECT reason LIKE '1 workspaces fail%' AND error LIKE '42703:%' AND errors > $was FROM crm.scheduler_status()}), "$title: the worker pauses");
	is($node->safe_psql('shop', 'SELECT count(*) FROM sales.reminder WHERE failed_at IS NOT NULL'), '0', "$title: no reminder is to blame");
	$node->safe_psql('shop', "ALTER TABLE sales.$table RENAME COLUMN other TO $column");
	fired('sales', $title, "$title: they fire once it has its name again", 30);
	is($node->safe_psql('shop', q{SELECT pid FROM crm.scheduler_status()}), $pid, "$title: by the same worker");
}

# Where no reminder can even be read, the workspace is tried again after a pause.
$node->safe_psql('shop', 'ALTER TABLE sales.reminder RENAME COLUMN kind TO sort');
$node->restart;
$node->safe_psql('shop', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now(), 'unreadable')});
ok($node->poll_query_until('shop', q{SELECT reason LIKE '1 workspaces fail%' FROM crm.scheduler_status()}), 'a table that is not as crm knows it: the worker pauses');
$node->safe_psql('shop', q{ALTER TABLE sales.reminder RENAME COLUMN sort TO kind});
fired('sales', 'unreadable', 'and fires once it is');

# A locked reminder is passed over, and fires when it is let go without a word.
my $locker = session("BEGIN; INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now() + interval '1 day', 'held') RETURNING 'made'; COMMIT;
	BEGIN; UPDATE sales.reminder SET due_at = '2020-01-01' WHERE title = 'held'; COMMIT; SELECT 'x';", qr/x/);
finish($locker, '');
fired('sales', 'held', 'moved to the past');
$node->safe_psql('shop', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now() + interval '1 day', 'locked')});
$locker = session("BEGIN; SELECT title FROM sales.reminder WHERE title = 'locked' FOR UPDATE;", qr/locked/);
$node->safe_psql('shop', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now() + interval '1 day', 'free'); SET lock_timeout = '1s';
	UPDATE sales.reminder SET due_at = now() WHERE title = 'free'});
fired('sales', 'free', 'a lock on one reminder does not hold up another');
finish($locker, 'ROLLBACK;');

# A session that fires by hand and does not commit holds up its workspace only.
$node->safe_psql('shop', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now() + interval '1 day', 'by hand')});
$locker = session("BEGIN; SELECT 'fired ' || crm.run_due(NULL, 'sales');", qr/fired/);
$node->safe_psql('shop', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now(), 'waits');
	INSERT INTO support.reminder (member_id, due_at, title) VALUES (1, now(), 'does not wait')});
fired('support', 'does not wait', 'another workspace fires while somebody holds this one');
is($node->safe_psql('shop', q{SELECT count(*) FROM sales.event WHERE title = 'waits'}), '0', 'this one waits');
finish($locker, 'ROLLBACK;');
fired('sales', 'waits', 'until the other is done');

# A table locked by DDL.
$locker = session("BEGIN; LOCK TABLE sales.event IN ACCESS EXCLUSIVE MODE; SELECT 'locked';", qr/locked/);
$node->safe_psql('shop', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now(), 'behind DDL');
	INSERT INTO support.reminder (member_id, due_at, title) VALUES (1, now(), 'beside DDL')});
fired('support', 'beside DDL', 'a locked table does not hold up another workspace');
finish($locker, 'COMMIT;');
fired('sales', 'behind DDL', 'and is tried again');
is($node->safe_psql('shop', q{SELECT count(*) FROM sales.reminder WHERE failed_at IS NOT NULL}), '0', 'a lock is no fault of the reminder');

# Settings for the database's sessions are not for the worker.
$node->safe_psql('postgres', q{
	ALTER DATABASE shop SET statement_timeout = '1ms';
	ALTER DATABASE shop SET default_transaction_read_only = on;
	ALTER DATABASE shop SET default_transaction_isolation = 'serializable';
	ALTER DATABASE shop SET search_path = 'trap'});
$node->restart;
$ENV{PGOPTIONS} = '-c statement_timeout=0 -c default_transaction_read_only=off';
$node->safe_psql('shop', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now(), 'settings')});
fired('sales', 'settings', 'settings of the database do not stop the worker');
$node->safe_psql('shop', q{ALTER DATABASE shop RESET ALL});
delete $ENV{PGOPTIONS};

# What the owner's triggers may do in the worker: what the owner may, and no more.
$node->safe_psql('shop', q{
	SET ROLE boss;
	CREATE TABLE sales.seen (who text, sess text, what text);
	CREATE FUNCTION sales.climb() RETURNS trigger LANGUAGE plpgsql AS $$
	DECLARE outcome text := 'climbed';
	BEGIN
		BEGIN
			RESET ROLE; RESET SESSION AUTHORIZATION; EXECUTE 'ALTER ROLE boss SUPERUSER';
		EXCEPTION WHEN OTHERS THEN outcome := sqlstate;
		END;
		INSERT INTO sales.seen VALUES (current_user, current_setting('search_path'), outcome);
		RETURN NULL;
	END $$;
	CREATE TRIGGER climb AFTER INSERT ON sales.event FOR EACH ROW EXECUTE FUNCTION sales.climb();
	INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now(), 'climb')});
fired('sales', 'climb', 'a trigger of the owner runs');
is($node->safe_psql('shop', 'TABLE sales.seen'), 'boss|pg_catalog, pg_temp|42501', 'as the owner, who cannot become anybody else');
$node->safe_psql('shop', q{
	SET ROLE boss;
	DROP TRIGGER climb ON sales.event;
	CREATE CONSTRAINT TRIGGER climb AFTER INSERT ON sales.event DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sales.climb();
	INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, now(), 'deferred')});
ok($node->poll_query_until('shop', q{SELECT failure LIKE '%deferred trigger%' FROM sales.reminder WHERE title = 'deferred'}),
	'nor by waiting for the end of the transaction');
is($node->safe_psql('shop', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'boss'}), 'f', 'the owner is no superuser');

# More databases than workers.
for my $i (1 .. 5)
{
	$node->safe_psql('postgres', "CREATE DATABASE d$i");
	$node->safe_psql("d$i", q{CREATE EXTENSION crm CASCADE; SELECT crm.create_workspace('sales'); INSERT INTO sales.member (id, name) VALUES (1, 'Ann')});
}
for my $round (1, 2)
{
	for my $i (1 .. 5)
	{
		$node->safe_psql("d$i", q{INSERT INTO sales.reminder (member_id, due_at, title) SELECT 1, clock_timestamp() + i * interval '100 ms', 'one of many' FROM generate_series(1, 5) AS i});
	}
	my $expected = 5 * $round;
	for my $i (1 .. 5)
	{
		ok($node->poll_query_until("d$i", "SELECT count(*) = $expected FROM sales.event"), "one worker serves six databases: d$i, round $round");
	}
}

$node->stop('fast');
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
like($log, qr/was set aside/, 'the log says what was set aside');
done_testing();
