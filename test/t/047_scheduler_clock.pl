# The system's clock is set: back, nothing fires twice; far forward, nothing fires
# until that is undone, accepted or has lasted.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'crm'\ncrm.clock_hold = -1\n");
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE clerk; CREATE DATABASE shop');
$node->safe_psql('shop', q{
	CREATE EXTENSION crm CASCADE;
	CREATE EXTENSION crm_test;
	GRANT USAGE ON SCHEMA crm TO clerk;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO clerk;
	SELECT crm.create_workspace('sales');
	INSERT INTO sales.member (id, name) VALUES (1, 'Ann')});

sub remind { my ($title, $due) = @_; $node->safe_psql('shop', "INSERT INTO sales.reminder (member_id, due_at, title) VALUES (1, $due, '$title')"); return; }
sub step { $node->safe_psql('shop', "SELECT crm_test.step_clock('$_[0]')"); return; }
sub state { my ($state, $name) = @_; ok($node->poll_query_until('shop', "SELECT state = '$state' FROM crm.scheduler_status() WHERE database = 'shop'"), $name); return; }
sub fired { my ($title, $name) = @_; ok($node->poll_query_until('shop', "SELECT count(*) = 1 FROM sales.event WHERE title = '$title'"), $name); return; }
sub count { return $node->safe_psql('shop', 'SELECT count(*) FROM sales.event'); }

remind("in $_", "crm.now() + interval '$_'") for ('1 hour', '1 year', '10 years');
remind('first', 'crm.now()');
fired('first', 'the clock is right');

# A year forward, by mistake.
step('1 year 1 hour');
state('held', 'a year forward is held');
remind('held', 'crm.now()');
is(count(), '1', 'nothing fires, not even what was written since');
like($node->safe_psql('shop', 'SELECT reason FROM crm.scheduler_status()'), qr/set forward by 52\d{4} minutes/, 'the status says why');
my ($ret, $out, $err) = $node->psql('shop', 'SELECT crm.run_due()');
like($err, qr/the system's clock was set far forward; no reminder fires for now.*HINT:  If the time is right/s, 'nor by hand');
step('0');
state('running', 'undone, firing goes on');
is(count(), '1', 'and nothing was fired before its time');
$node->safe_psql('shop', q{UPDATE sales.reminder SET due_at = crm.now() WHERE title = 'held'});
fired('held', 'what is due by the right clock fires');

# An hour forward, accepted by who may.
($ret, $out, $err) = $node->psql('shop', 'SET ROLE clerk; SELECT crm.scheduler_accept_clock()');
like($err, qr/permission denied to accept the clock/, 'not everybody accepts a clock');
is($node->safe_psql('shop', 'SELECT crm.scheduler_accept_clock()'), 'f', 'nothing to accept');
step('61 minutes');
state('held', 'an hour forward is held');
is($node->safe_psql('shop', 'SELECT crm.scheduler_accept_clock()'), 't', 'a step is accepted');
fired('in 1 hour', 'what is due then fires');
is(count(), '3', 'and nothing else');

# Back an hour and forth: no time that was not lived through.
step('0');
remind('after the step back', 'crm.now()');
fired('after the step back', 'an hour back, reminders fire by the new time');
step('61 minutes');
remind('there again', 'crm.now()');
fired('there again', 'going back to a time that was is no jump');
step('-1 year');
remind('a year ago', 'crm.now()');
fired('a year ago', 'a year back, reminders fire by the new time');
is($node->safe_psql('shop', q{SELECT count(*) = count(DISTINCT reminder_id) AND count(DISTINCT reminder_id) = 6 FROM sales.event}), 't', 'nothing fires twice');
is($node->safe_psql('shop', q{SELECT string_agg(title, ',' ORDER BY id) FROM sales.event}),
	'first,held,in 1 hour,after the step back,there again,a year ago', 'events keep their order');

# A small step is none.
step('61 minutes');
remind('soon', q{crm.now() + interval '10 minutes'});
step('72 minutes');
fired('soon', 'eleven minutes forward: the sleeping worker notices at once');

# A step that lasts is accepted by itself; while nobody is connected, too.
$node->append_conf('postgresql.conf', "crm.clock_hold = 1s\ncrm.worker_idle_timeout = 1s\n");
$node->reload;
state('idle', 'the worker leaves');
step('1 year 2 hours');
fired('in 1 year', 'a step that lasts is accepted');
is($node->safe_psql('shop', q{SELECT string_agg(title, ',') FROM sales.reminder}), 'in 10 years', 'what is due later is not fired');

# Of what was due long ago, the horizon lets pass what still says something.
$node->append_conf('postgresql.conf', "crm.catch_up_horizon = 7d\ncrm.scheduler = off\n");
$node->reload;
$node->safe_psql('shop', q{
	DELETE FROM sales.event; DELETE FROM sales.reminder;
	INSERT INTO sales.escalation_rule (id, kind, name, starts_at) VALUES (1, 'account', 'Left alone', '-infinity');
	INSERT INTO sales.escalation_level (rule_id, level, after) VALUES (1, 1, '1 day');
	INSERT INTO sales.account (name, owner_id, created_at) VALUES ('Acme', 1, crm.now() - interval '30 days');
	INSERT INTO sales.reminder (member_id, due_at, title, payload, recurrence) VALUES
		(1, crm.now() - interval '8 days', 'too old', NULL, NULL),
		(1, crm.now() - interval '6 days', 'recent', NULL, NULL),
		(1, crm.now() - interval '8 days', 'urgent', '{"urgent": true}', NULL),
		(1, crm.now() - interval '8 days', 'weekly', NULL, 'FREQ=WEEKLY'),
		(1, crm.now() - interval '8 days', 'yearly', NULL, 'FREQ=YEARLY')});
is($node->safe_psql('shop', 'SELECT crm.run_due()'), '6', 'after a long outage');
is($node->safe_psql('shop', q{SELECT string_agg(title, ',' ORDER BY title) FROM sales.event WHERE state = 'skipped'}), 'too old,yearly', 'what is older than the horizon is skipped');
is($node->safe_psql('shop', q{SELECT w.reason FROM sales.event AS e, sales.why_not(e.id) AS w WHERE title = 'too old'}),
	'It was skipped: it was later than 7 days, and was to be skipped then (crm.catch_up_horizon).', 'and why_not() says so');

$node->stop('fast');
my $log = slurp_file($node->logfile);
my @warnings = $log =~ /WARNING:  the system's clock was set forward by \d+ minutes/g;
is(scalar(@warnings), 3, 'the log has one line for each step that was held');
like($log, qr/HINT:  If the time is right, run SELECT crm\.scheduler_accept_clock\(\)/, 'that says what to do');
unlike($log, qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
