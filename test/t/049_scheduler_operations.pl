# Operations while reminders fire: shutdowns of each kind, extension updates, no free
# worker process, a snapshot held for long, a full disk, tables and owners that go.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
# A file may then be limited to less than usual and still hold a WAL segment.
$node->init(extra => ['--wal-segsize=1']);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'crm'
autovacuum = off
min_wal_size = 5MB
max_worker_processes = 8
crm.batch_size = 200
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE boss; CREATE ROLE heir; CREATE DATABASE shop OWNER boss');
$node->safe_psql('shop', q{
	CREATE EXTENSION crm CASCADE;
	GRANT USAGE ON SCHEMA crm TO boss;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO boss;
	SET ROLE boss;
	SELECT crm.create_workspace('sales');
	SELECT crm.create_workspace('support');
	INSERT INTO sales.member (id, name) VALUES (1, 'Ann');
	INSERT INTO support.member (id, name) VALUES (1, 'Eve')});

sub burst { my ($title, $n) = @_; $node->safe_psql('shop', "INSERT INTO sales.reminder (member_id, due_at, title) SELECT 1, now(), '$title' FROM generate_series(1, $n)"); return; }
sub under_way { my ($title) = @_; $node->poll_query_until('shop', "SELECT count(*) > 0 FROM sales.event WHERE title = '$title'") or die; return; }

sub all_fired
{
	my ($title, $n, $name) = @_;
	ok($node->poll_query_until('shop', "SELECT count(*) = $n AND count(DISTINCT reminder_id) = $n FROM sales.event WHERE title = '$title'"), $name);
	return;
}
sub status { return $node->safe_psql('shop', "SELECT $_[0] FROM crm.scheduler_status() WHERE database = 'shop'"); }

# Shutdowns, in the middle of a burst.
for my $mode ('smart', 'fast', 'immediate')
{
	burst($mode, 20000);
	under_way($mode);
	$node->stop($mode);
	$node->start;
	all_fired($mode, 20000, "a burst cut off by a $mode shutdown is completed, once each");
}

# The extension is updated while its worker fires; the tables too.
burst('update', 20000);
under_way('update');
$node->safe_psql('shop', q{SET lock_timeout = '10s'; ALTER EXTENSION crm UPDATE TO 'test'});
$node->safe_psql('shop', q{SET lock_timeout = '10s'; SET ROLE boss; SELECT crm.upgrade_workspace('sales')});
all_fired('update', 20000, 'ALTER EXTENSION UPDATE and upgrade_workspace() in the middle of a burst');
is($node->safe_psql('shop', q{SELECT extversion FROM pg_extension WHERE extname = 'crm'}), 'test', 'the extension was updated');
burst('columns', 20000);
under_way('columns');
$node->safe_psql('shop', q{ALTER TABLE sales.event ADD COLUMN channel text DEFAULT 'mail'; ALTER TABLE sales.reminder ADD COLUMN note text});
all_fired('columns', 20000, 'columns added in the middle of a burst');
is($node->safe_psql('shop', q{SELECT count(DISTINCT channel) FROM sales.event WHERE title = 'columns'}), '1', 'with their default');

# Removed and rolled back: the worker goes on.
burst('kept', 20000);
under_way('kept');
$node->safe_psql('shop', q{SET client_min_messages = warning; BEGIN; DROP EXTENSION crm CASCADE; ROLLBACK});
all_fired('kept', 20000, 'DROP EXTENSION rolled back');

# A snapshot that is held for long: dead entries of the index are not read again and again.
$node->safe_psql('shop', 'VACUUM sales.reminder');
my ($in, $out, $err) = ("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 'snapshot' FROM sales.member;\n", '', '');
my $holder = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('shop') ], '<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(180));
$holder->pump until $out =~ /snapshot/;
my $read = q{SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = 'sales' AND indexrelname = 'reminder_due'};
my $before = $node->safe_psql('shop', $read);
for my $i (1 .. 20) { burst("pinned $i", 1000); all_fired("pinned $i", 1000, 'fires') if $i % 10 == 0; }
ok($node->poll_query_until('shop', "SELECT ($read) >= $before + 20000"), 'the statistics arrive');
# Twenty batches of a thousand each, of which the last would find 19,000 dead entries before it.
cmp_ok($node->safe_psql('shop', $read), '<', $before + 100000, 'with xmin pinned, what fired is not read again by each batch');
$in = "COMMIT;\n\\q\n";
$holder->finish;

# No worker process is free: it waits, says so once, and goes on.
$node->safe_psql('postgres', 'ALTER SYSTEM SET max_worker_processes = 2');
$node->restart;
burst('no place', 10);
ok($node->poll_query_until('shop', q{SELECT state = 'waiting' FROM crm.scheduler_status()}), 'without a free process the state is waiting');
like(status('reason'), qr/see crm\.max_workers and max_worker_processes/, 'and the reason says what to raise');
is(status('backlog'), '10', 'what is due is counted');
is(status('oldest_due = (SELECT min(due_at) FROM sales.reminder)'), 't', 'and since when');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET ALL');
$node->restart;
all_fired('no place', 10, 'once there is one, they fire');
my @warnings = slurp_file($node->logfile) =~ /WARNING:  no background worker process is free/g;
is(scalar(@warnings), 1, 'the log says it once');

# The disk is full for the worker: files beyond a limit cannot grow.
SKIP:
{
	skip 'no prlimit here', 5 if system('prlimit --version >/dev/null 2>&1') != 0;
	$node->safe_psql('shop', q{CREATE TABLE big AS SELECT 1});
	burst('keeps the worker', 1);
	all_fired('keeps the worker', 1, 'a worker runs');
	my $pid = status('pid');
	my $limit = 8192 + $node->safe_psql('shop', q{SELECT greatest(pg_relation_size('sales.event'), 2 * 1024 * 1024)});
	system_or_bail('prlimit', '--pid', $pid, "--fsize=$limit:");
	burst('disk full', 30000);
	ok($node->poll_query_until('shop', q{SELECT error LIKE '%could not extend file%' FROM crm.scheduler_status()}), 'the disk is full');
	is(status('set_aside'), '0', 'which is no fault of a reminder');
	ok($node->poll_query_until('shop', q{SELECT reason LIKE '1 workspaces fail%' FROM crm.scheduler_status()}), 'the status says that the workspace is left alone');
	$node->safe_psql('shop', q{INSERT INTO support.reminder (member_id, due_at, title) VALUES (1, now(), 'neighbour')});
	ok($node->poll_query_until('shop', q{SELECT count(*) = 1 FROM support.event WHERE title = 'neighbour'}), 'the neighbour fires');
	system_or_bail('prlimit', '--pid', $pid, '--fsize=unlimited:');
	all_fired('disk full', 30000, 'once there is room, all fire, once each');
}

# What a reminder is about is gone; its tables are; their owner is.
$node->safe_psql('shop', q{
	INSERT INTO sales.account (id, name) VALUES (77, 'Gone Ltd');
	CREATE TABLE sales.vessel (id bigint PRIMARY KEY);
	INSERT INTO sales.reminder (member_id, due_at, title, kind, record_id) VALUES (1, now() + interval '1 hour', 'record gone', 'account', 77), (1, now() + interval '1 hour', 'table gone', 'vessel', 1);
	DELETE FROM sales.account WHERE id = 77;
	DROP TABLE sales.vessel;
	UPDATE sales.reminder SET due_at = now() WHERE title LIKE '% gone'});
all_fired('record gone', 1, 'a reminder about a record that is gone fires');
all_fired('table gone', 1, 'and one about a kind of record that does not exist');
# A table that rules are about is dropped while their reminders wait.
$node->safe_psql('shop', q{
	SET ROLE boss;
	CREATE TABLE sales.vessel (id bigint PRIMARY KEY, done boolean NOT NULL DEFAULT false, owner_id bigint, created_at timestamptz DEFAULT now());
	SELECT crm.protect('sales.vessel', 'vessel');
	INSERT INTO sales.sla_policy (kind, name, target, met_when) VALUES ('vessel', 'Launched', '1 hour', 'done');
	INSERT INTO sales.escalation_rule (id, kind, name) VALUES (1, 'vessel', 'Forgotten');
	INSERT INTO sales.escalation_level (rule_id, level, after) VALUES (1, 1, '1 hour');
	INSERT INTO sales.attention_rule (name, kind, condition, delivery) VALUES ('Done', 'vessel', 'done', 'digest');
	INSERT INTO sales.vessel (id, owner_id) VALUES (1, 1), (2, 1);
	DROP TABLE sales.vessel CASCADE;
	UPDATE sales.reminder SET due_at = now()});
burst('after the table', 10);
all_fired('after the table', 10, 'a table that rules are about is gone: others fire');
ok($node->poll_query_until('shop', 'SELECT count(*) = 0 FROM sales.reminder WHERE failed_at IS NULL AND due_at <= now()'), 'what waited for its records ends');
is($node->safe_psql('shop', q{SELECT count(*) FROM sales.event WHERE kind = 'vessel' AND title <> 'table gone'}), '0', 'and tells nobody');
is($node->safe_psql('shop', q{SELECT count(*) FROM sales.reminder WHERE failed_at IS NOT NULL}), '0', 'nothing is set aside');
$node->safe_psql('shop', q{SET ROLE boss; UPDATE sales.sla_policy SET active = false; UPDATE sales.escalation_rule SET active = false});
is($node->safe_psql('shop', q{SELECT (SELECT count(*) FROM sales.escalation WHERE rule_id IS NOT NULL), (SELECT string_agg(DISTINCT state, ',') FROM sales.sla_clock)}), '0|ended', 'its rules can be ended');
$node->safe_psql('shop', 'DELETE FROM sales.attention_rule; DELETE FROM sales.escalation_rule');

$node->safe_psql('shop', q{
	REASSIGN OWNED BY boss TO heir; DROP OWNED BY boss;
	GRANT USAGE ON SCHEMA crm TO heir; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO heir});
$node->safe_psql('postgres', 'REASSIGN OWNED BY boss TO heir; DROP OWNED BY boss; DROP ROLE boss');
burst('heir', 10);
all_fired('heir', 10, 'the owner is gone, his heir owns the tables: they fire');
$node->safe_psql('shop', q{SET client_min_messages = warning; DROP TABLE support.event CASCADE; INSERT INTO support.reminder (member_id, due_at, title) VALUES (1, now(), 'no place to go')});
burst('beside', 10);
all_fired('beside', 10, 'a workspace that lost its event table does not keep others from firing');
is($node->safe_psql('shop', 'SELECT count(*) FROM support.reminder'), '1', 'and keeps its reminders');

# Every event has its own reminder, and ids the order of firing.
is($node->safe_psql('shop', q{SELECT count(*) - count(DISTINCT reminder_id), (SELECT count(*) FROM sales.reminder) FROM sales.event}), '0|0', 'nothing doubled, nothing left');
is($node->safe_psql('shop', q{SELECT count(*) FROM (SELECT fired_at < lag(fired_at) OVER (ORDER BY id) AS back FROM sales.event) AS e WHERE back}), '0', 'events are in the order they fired');
$node->stop('fast');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
