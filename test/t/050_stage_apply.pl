# Logical apply meets the stage rules like any other client: a move that the
# subscriber's rules refuse stops there with the same error, and goes through once
# the rules allow it.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->start;
my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init(allows_streaming => 'logical');
$subscriber->append_conf('postgresql.conf', 'wal_retrieve_retry_interval = 100ms');
$subscriber->start;

# The publisher lets anything pass; the subscriber has rules and enforces them on apply.
$publisher->safe_psql('postgres',
	'CREATE TABLE public.ticket (id bigint PRIMARY KEY, stage text, solution text)');
$subscriber->safe_psql(
	'postgres', q{
	SET client_min_messages = warning;
	CREATE EXTENSION crm CASCADE;
	SELECT crm.create_workspace('sales');
	INSERT INTO sales.pipeline (name, kind, is_default) VALUES ('support', 'ticket', true);
	INSERT INTO sales.stage (pipeline, name, position, type, is_initial, required_fields) VALUES
		('support', 'new', 1, 'open', true, '{}'), ('support', 'solved', 2, 'won', false, '{solution}');
	CREATE TABLE public.ticket (id bigint PRIMARY KEY, stage text, solution text);
	SELECT crm.guard_stages('public.ticket', 'ticket', workspace => 'sales');
	ALTER TABLE public.ticket ENABLE ALWAYS TRIGGER zz_stage_guard;
	ALTER TABLE public.ticket ENABLE ALWAYS TRIGGER zz_stage_guard_insert;
	ALTER TABLE public.ticket ENABLE ALWAYS TRIGGER zz_stage_history_insert;
	ALTER TABLE public.ticket ENABLE ALWAYS TRIGGER zz_stage_history_update;
});

my $connection = $publisher->connstr . ' dbname=postgres';
$publisher->safe_psql('postgres', 'CREATE PUBLICATION tickets FOR TABLE public.ticket');
$subscriber->safe_psql('postgres',
	"CREATE SUBSCRIPTION tickets CONNECTION '$connection' PUBLICATION tickets");
$subscriber->wait_for_subscription_sync($publisher, 'tickets');

$publisher->safe_psql('postgres', "INSERT INTO public.ticket VALUES (1, 'new')");
$publisher->wait_for_catchup('tickets');
is($subscriber->safe_psql('postgres', 'SELECT id, stage FROM public.ticket'), '1|new', 'a legal start is applied');

# The same illegal move, here and there.
my $move = "UPDATE public.ticket SET stage = 'solved' WHERE id = 1";
my ($rc, $out, $err) = $subscriber->psql('postgres', $move);
isnt($rc, 0, 'the move is refused in a session');
my ($message) = $err =~ /ERROR:  (.*)/;
my ($detail) = $err =~ /DETAIL:  (.*\n.*)/;
is($message, 'ticket 1 cannot move from stage "new" to "solved"', 'and says so');
is( $detail,
	qq{No transition leads from stage "new" to "solved".\nStage "solved" requires the field "solution".},
	'with every fault');

my $offset = -s $subscriber->logfile;
$publisher->safe_psql('postgres', $move);
$subscriber->wait_for_log(qr/ERROR:  (?:RMS01: )?\Q$message\E/, $offset);
my $log = slurp_file($subscriber->logfile, $offset);
$log =~ s/\n\t/\n/g;
like($log, qr/DETAIL:  \Q$detail\E/, 'apply meets the same error, with the same faults');
is($subscriber->safe_psql('postgres', 'SELECT stage FROM public.ticket'), 'new', 'nothing was applied');

# The rules change; the waiting apply worker hears of it.
$subscriber->safe_psql('postgres', q{
	UPDATE sales.stage SET required_fields = '{}' WHERE pipeline = 'support';
	INSERT INTO sales.stage_transition (pipeline, from_stage, to_stage) VALUES ('support', 'new', 'solved');
});
$publisher->wait_for_catchup('tickets');
is($subscriber->safe_psql('postgres', 'SELECT stage FROM public.ticket'), 'solved', 'then the move is applied');
is( $subscriber->safe_psql('postgres', q{SELECT from_stage, stage, type FROM sales.stage_history WHERE kind = 'ticket' ORDER BY id}),
	"|new|open\nnew|solved|won",
	'and its history written');

# Rules that are themselves replicated reach the sessions that have compiled them.
$publisher->safe_psql('postgres', q{
	CREATE SCHEMA sales;
	CREATE TABLE sales.stage_rule (id bigint PRIMARY KEY, pipeline text, stage text, applies_on text, name text,
		expression text, message text, hint text, active boolean);
	CREATE PUBLICATION rules FOR TABLE sales.stage_rule;
});
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION rules CONNECTION '$connection' PUBLICATION rules");
$subscriber->wait_for_subscription_sync($publisher, 'rules');
my $session = $subscriber->background_psql('postgres', on_error_stop => 0);
$session->query_safe(q{INSERT INTO public.ticket VALUES (2)});
$publisher->safe_psql('postgres', q{
	INSERT INTO sales.stage_rule VALUES (1000, 'support', 'new', 'exit', 'frozen', 'false', 'New tickets are frozen.', NULL, true);
});
$publisher->wait_for_catchup('rules');
my ($stdout, $ret) = $session->query(q{UPDATE public.ticket SET stage = 'solved' WHERE id = 2});
like($session->{stderr}, qr/New tickets are frozen/, 'a replicated rule is in force in a session that had the old ones');
$session->quit;

$subscriber->stop;
$publisher->stop;
done_testing();
