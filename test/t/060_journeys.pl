# Everybody's day, with the rights of ordinary roles: what crm.grant_access() promises
# works without any further GRANT, and everything else is refused with a clear error.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'crm'
crm.scheduler = off
crm.default_region = 'DE'
autovacuum = off
timezone = 'UTC'
});
$node->start;

sub as { my ($role, $sql) = @_; return $node->safe_psql('shop', $sql, extra_params => ['-U', $role]); }

# What a role is given, or the SQLSTATE it is refused with.
sub gives
{
	my ($role, $sql, $expected, $name) = @_;
	my ($out, $err) = ('', '');
	$node->psql('shop', $sql, extra_params => ['-U', $role, '-v', 'VERBOSITY=verbose'], on_error_stop => 1, stdout => \$out, stderr => \$err);
	ref $expected ? like($out . $err, $expected, "$role: $name") : is($out . ($err =~ /ERROR:/ ? $err : ''), $expected, "$role: $name");
}

sub refused
{
	my ($role, $sql, $sqlstate, $pattern, $name) = @_;
	my ($out, $err) = ('', '');
	my $rc = $node->psql('shop', $sql, extra_params => ['-U', $role, '-v', 'VERBOSITY=verbose'], stdout => \$out, stderr => \$err);
	like($err, qr/ERROR:  $sqlstate: .*$pattern/s, "$role: $name is refused");
}

$node->safe_psql('postgres', q{
	CREATE ROLE boss LOGIN;
	CREATE ROLE dana LOGIN; CREATE ROLE mo LOGIN; CREATE ROLE rui LOGIN; CREATE ROLE rosa LOGIN;
	CREATE ROLE ana LOGIN; CREATE ROLE adam LOGIN; CREATE ROLE audrey LOGIN; CREATE ROLE web LOGIN;
	CREATE ROLE nobody LOGIN; CREATE ROLE stranger LOGIN; CREATE ROLE outsider LOGIN;
	CREATE DATABASE shop OWNER boss;
	GRANT SET ON PARAMETER crm.member TO web;
});

# The owner of the database, who is no superuser, sets everything up.
as('boss', q{
	CREATE EXTENSION crm CASCADE;
	SELECT crm.create_workspace('sales');
	SELECT crm.create_workspace('other');
	SELECT crm.grant_access('sales', role, 'app') FROM unnest('{dana,mo,rui,rosa,adam,nobody}'::name[]) AS role;
	SELECT crm.grant_access('sales', 'ana', 'report');
	SELECT crm.grant_access('sales', 'audrey', 'auditor');
	SELECT crm.grant_access('sales', 'web', 'gateway');
	SELECT crm.grant_access('other', 'outsider', 'app');
	INSERT INTO sales.member (id, name, manager_id, login_role, access) OVERRIDING SYSTEM VALUE VALUES
		(1, 'Dana', NULL, 'dana', 'standard'), (2, 'Mo', 1, 'mo', 'standard'), (3, 'Rui', 2, 'rui', 'standard'),
		(4, 'Rosa', 2, 'rosa', 'standard'), (5, 'Ana', 2, 'ana', 'read_all'), (6, 'Adam', NULL, 'adam', 'all');
	INSERT INTO other.member (id, name, login_role) VALUES (3, 'Otto', 'outsider');
	INSERT INTO other.account (name, owner_id) VALUES ('Secret Holding', 3);
	INSERT INTO sales.setting (name, value) VALUES ('greeting', 'hello');
	UPDATE sales.setting SET value = 'EUR' WHERE name = 'reporting_currency';
	INSERT INTO sales.exchange_rate (currency, valid_from, rate) VALUES ('USD', '2020-01-01', 0.9);
	INSERT INTO sales.account (id, name, phone, city, owner_id) VALUES (900, 'Rosas Blumen GmbH', '+49 30 7654321', 'Berlin', 4),
		(901, 'Rosas Blumen', '+49 30 7654321', 'Berlin', 4), (902, 'Nobodys Handel', NULL, 'Bonn', NULL), (903, 'Freie Werke', NULL, 'Bonn', NULL);
	INSERT INTO sales.lead (id, company, full_name, email, owner_id) VALUES (900, 'Herrenlos AG', 'Hugo Hase', 'hugo@herrenlos.example', NULL);
});

# --- The salesperson.

gives('rui', 'SELECT sales.me()', '3', 'knows who she is');
gives('rui', q{
	INSERT INTO sales.account (id, name, phone, email, website, city, country) VALUES
		(101, 'Müller Maschinenbau GmbH', '030 1234567', 'Info@Mueller.Example', 'https://mueller.example', 'Berlin', 'DE'),
		(102, 'Mueller Maschinenbau', '+49 30 1234567', NULL, NULL, 'Berlin', 'DE') RETURNING id, owner_id, phone, row_version},
	"101|3|+49301234567|1\n102|3|+49301234567|1", 'inserts accounts, which are hers');
gives('rui', q{
	INSERT INTO sales.contact (id, account_id, given_name, family_name, email, phone) VALUES
		(101, 101, 'Ute', 'Müller', 'ute@mueller.example', '030 1234568'), (102, 102, 'Ute', 'Mueller', 'ute@mueller.example', NULL) RETURNING owner_id},
	"3\n3", 'inserts contacts');
gives('rui', q{INSERT INTO sales.lead (id, company, full_name, email, source) VALUES (101, 'Solaris Energie AG', 'Sven Sonne', 'sven@solaris.example', 'website') RETURNING owner_id},
	'3', 'inserts a lead');
gives('rui', q{INSERT INTO sales.opportunity (id, account_id, name) VALUES (101, 101, 'Presses') RETURNING owner_id, pipeline IS NOT NULL, stage IS NOT NULL},
	'3|t|t', 'inserts an opportunity');
gives('rui', q{INSERT INTO sales.activity (id, type, subject, account_id, opportunity_id, due_at) VALUES (101, 'call', 'Call Ute', 101, 101, now() + '1 day') RETURNING owner_id},
	'3', 'inserts an activity');
gives('rui', q{UPDATE sales.activity SET completed_at = now() WHERE id = 101 RETURNING row_version}, '2', 'completes it');
gives('rui', q{INSERT INTO sales.external_reference (kind, record_id, system, external_id) VALUES ('account', 101, 'erp', 'K-1') RETURNING system}, 'erp', 'notes the id in another system');
refused('rui', q{INSERT INTO sales.external_reference (kind, record_id, system, external_id) VALUES ('account', 900, 'erp', 'K-2')},
	'42501', 'row-level security policy', 'a reference to an account of somebody else');
gives('rui', q{SELECT count(*) FROM sales.lead_source, sales.activity_type}, '48', 'reads picklists');
refused('rui', q{COPY sales.account (name, city) FROM STDIN}, '0A000', 'row-level security', 'COPY FROM, which PostgreSQL has not under row-level security,');
gives('rui', q{COPY (SELECT id FROM sales.account WHERE id = 101) TO STDOUT}, '101', 'copies out');

# Duplicates.
gives('rui', q{SELECT id FROM sales.find_duplicates('account', '{"name": "Mueller Maschinenbau GmbH", "phone": "030/123 45 67"}') ORDER BY id},
	"101\n102", 'finds duplicates among her accounts');
gives('rui', q{SELECT count(*) FROM sales.find_duplicates('account', '{"name": "Rosas Blumen GmbH", "phone": "+49 30 7654321"}')}, '0', 'finds none among those of others');
gives('rui', q{SELECT count(*) >= 1 FROM sales.find_duplicates('contact', '{"full_name": "Ute Müller", "email": "ute@mueller.example"}')}, 't', 'finds duplicates of a contact');
gives('rui', q{SELECT count(*) FROM sales.find_duplicates('lead', '{"company": "Solaris Energie"}')}, '1', 'finds duplicates of a lead');
refused('rui', q{SELECT sales.scan_duplicates('account')}, '42501', 'permission denied for function scan_duplicates', 'scanning everybody\'s accounts');
gives('boss', q{SELECT sales.scan_duplicates('account') >= 2, sales.scan_duplicates('contact') >= 1}, 't|t', 'scans');
gives('rui', q{SELECT left_id, right_id, state FROM sales.duplicate_pair WHERE kind = 'account' ORDER BY id}, '101|102|open', 'sees the pairs of what she sees');
gives('rui', q{SELECT record_id FROM sales.duplicate_cluster WHERE kind = 'account' ORDER BY 1}, "101\n102", 'sees the clusters of what she sees');
gives('mo', q{SELECT left_id FROM sales.duplicate_pair WHERE kind = 'account' ORDER BY 1}, "101\n900", 'the manager sees both');

# Merging.
gives('rui', q{SELECT count(*) > 0 FROM sales.merge_preview('account', 101, '{102}')}, 't', 'previews a merge');
gives('rui', q{SELECT sales.merge_records('account', 101, '{102}', dry_run => true) IS NULL}, qr/^t/, 'tries a merge');
gives('rui', q{SELECT sales.merge_records('account', 101, '{102}') IS NOT NULL}, 't', 'merges her accounts');
gives('rui', q{SELECT count(*) FROM sales.contact WHERE account_id = 101}, '2', 'finds the contacts moved');
gives('rui', q{SELECT sales.resolve('account', 102)}, '101', 'follows an old id');
gives('rui', q{SELECT state FROM sales.duplicate_pair WHERE kind = 'account'}, '', 'no pair refers to what is gone');
gives('rui', q{SELECT count(*) FROM sales.unmerge((SELECT max(id) FROM sales.merge_log))}, '0', 'undoes her merge, whose number merge_log tells');
gives('rui', q{SELECT id, owner_id FROM sales.account WHERE id IN (101, 102) ORDER BY 1}, "101|3\n102|3", 'has both again');
refused('rui', q{SELECT sales.merge_records('account', 101, '{900}')}, 'P0002', '', 'merging somebody else\'s account');
refused('rui', q{SELECT sales.merge_records('account', 900, '{101}')}, 'P0002', '', 'merging into somebody else\'s account');
refused('rui', q{SELECT * FROM sales.merge_preview('account', 101, '{900}')}, 'P0002', '', 'previewing a merge of somebody else\'s account');
gives('mo', q{SELECT sales.merge_records('account', 900, '{901}') IS NOT NULL}, 't', 'the manager merges Rosa\'s accounts');
refused('rui', q{SELECT sales.unmerge(m.id) FROM generate_series(1, 5) AS m (id)}, '(42501|P0002)', '', 'undoing the manager\'s merge');
gives('rui', q{SELECT count(*) FROM sales.merge_log WHERE survivor_id = '900'}, '0', 'does not see others\' merges');
gives('mo', q{SELECT count(*) FROM sales.unmerge((SELECT max(id) FROM sales.merge_log))}, '0', 'the manager undoes it');
gives('rui', q{UPDATE sales.duplicate_pair SET state = 'ignored' WHERE kind = 'account' RETURNING left_id, right_id}, '101|102', 'wants to hear no more of a pair');
gives('rosa', q{SELECT state FROM sales.duplicate_pair WHERE kind = 'account'}, 'not_duplicate', 'whose own pair says that its merge was undone');
refused('rui', q{UPDATE sales.duplicate_pair SET score = 0}, '42501', 'permission denied for table duplicate_pair', 'changing a score');

# Claiming and converting.
gives('rui', q{SELECT claimed FROM sales.claim('account', 902)}, 't', 'claims an account');
gives('rosa', q{SELECT claimed FROM sales.claim('account', 902)}, 'f', 'comes too late');
gives('rosa', q{SELECT sales.claim_next('account')}, '903', 'claims the next one');
gives('rosa', q{SELECT count(*) FROM sales.claim_next('account')}, '0', 'and nothing is left');
gives('rui', q{SELECT claimed FROM sales.claim('lead', 900)}, 't', 'claims a lead');
gives('rui', q{SELECT account_id IS NOT NULL, contact_id IS NOT NULL, opportunity_id IS NOT NULL FROM sales.convert_lead(900, 'First order', 1000, 'EUR', '2030-01-01')}, 't|t|t', 'converts it');
refused('rui', q{SELECT * FROM sales.convert_lead(900)}, '55000', 'convert', 'converting twice');
refused('rosa', q{SELECT * FROM sales.convert_lead(101)}, 'P0002', 'lead 101', 'converting somebody else\'s lead');
gives('rui', q{SELECT count(*) FROM sales.account WHERE name = 'Herrenlos AG' AND owner_id = 3}, '1', 'owns the new account');

# Sharing, handing over, asking.
gives('rosa', q{SELECT count(*) FROM sales.account WHERE id = 101}, '0', 'does not see Rui\'s account');
gives('rui', q{SELECT allowed FROM sales.can(3, 'edit', 'account', 101)}, 't', 'may edit hers');
gives('rui', q{SELECT allowed, reason FROM sales.can(3, 'read', 'account', 900)}, 'f|account 900 does not exist or is not visible to Rui', 'may not read Rosa\'s');
refused('rui', q{SELECT * FROM sales.can(4, 'read', 'account', 101)}, '42501', 'permission denied to ask what member 4 may do', 'asking about a colleague');
gives('rui', q{SELECT sales.share_record('account', 101, member_id => 4) > 0}, 't', 'shares an account');
gives('rosa', q{SELECT name FROM sales.account WHERE id = 101}, 'Müller Maschinenbau GmbH', 'reads it now');
gives('rosa', q{UPDATE sales.account SET city = 'Ulm' WHERE id = 101 RETURNING id}, '', 'does not edit it');
refused('rosa', q{SELECT sales.share_record('account', 101, member_id => 1)}, '42501', 'permission denied to share account 101', 'sharing it on');
refused('rosa', q{SELECT sales.transfer('account', '{101}', 4)}, '42501', 'permission denied to transfer account 101', 'taking it');
gives('rosa', q{SELECT access, granted_by FROM sales.share}, 'read|3', 'sees the share');
gives('rui', q{SELECT sales.unshare('account', 101, member_id => 4)}, 't', 'ends the share');
gives('rui', q{SELECT sales.transfer('account', '{102}', 4)}, '1', 'hands an account over');
gives('rui', q{SELECT count(*) FROM sales.account WHERE id = 102}, '0', 'and no longer sees it');
refused('rui', q{UPDATE sales.account SET owner_id = 4 WHERE id = 101}, '42501', 'permission denied to change the owner', 'handing it over by UPDATE');
gives('rosa', q{DELETE FROM sales.account WHERE id = 903 RETURNING id}, '903', 'deletes an account of hers');
gives('rosa', q{DELETE FROM sales.account WHERE id = 101 RETURNING id}, '', 'deletes none of others');

# Stages.
gives('rui', q{UPDATE sales.opportunity SET amount = 1000, currency = 'EUR', close_date = '2030-01-01' WHERE id = 101 RETURNING amount}, '1000.00', 'fills in what the next stage needs');
my $path = as('rui', q{SELECT string_agg(stage || '=' || allowed, ',') FROM sales.next_stages('opportunity', 101)});
like($path, qr/=true/, 'rui: the next stages of an opportunity');
my $first = as('rui', q{SELECT stage FROM sales.next_stages('opportunity', 101) WHERE allowed LIMIT 1});
gives('rui', qq{UPDATE sales.opportunity SET stage = '$first' WHERE id = 101 RETURNING stage}, $first, 'moves a stage');
refused('rui', q{UPDATE sales.opportunity SET stage = 'no such stage' WHERE id = 101}, '(RM\w+|23503)', '', 'moving to a stage that is none');
refused('rui', q{UPDATE sales.opportunity SET stage = s.name FROM sales.stage AS s WHERE opportunity.id = 101 AND s.pipeline = opportunity.pipeline AND s.type = 'won'},
	'RM\w+', 'DETAIL', 'winning without what is required');
gives('rui', qq{SELECT stage, member_id FROM sales.stage_history WHERE kind = 'opportunity' AND record_id = 101 ORDER BY id DESC LIMIT 1}, "$first|3", 'reads the history of it');
gives('rosa', q{SELECT count(*) FROM sales.stage_history WHERE kind = 'opportunity' AND record_id = 101}, '0', 'reads no history of what is not hers');
gives('rosa', q{SELECT count(*) FROM sales.next_stages('opportunity', 101)}, '0', 'is told no stages of what is not hers');
refused('rui', q{DELETE FROM sales.stage_history}, '42501', 'permission denied for table stage_history', 'rewriting history');
refused('rui', q{UPDATE sales.stage_transition SET guard = NULL}, '42501', 'permission denied for table stage_transition', 'changing the rules');
gives('rui', q{SELECT count(*) > 0 FROM crm.guarded_tables('sales')}, 't', 'asks which tables are guarded');

# Reminders.
gives('rui', q{INSERT INTO sales.reminder (member_id, due_at, title, kind, record_id) VALUES (sales.me(), now() - interval '1 hour', 'Ring Ute', 'account', 101) RETURNING member_id}, '3', 'asks to be reminded');
gives('rui', q{INSERT INTO sales.reminder (member_id, due_at, title, recurrence) VALUES (sales.me(), now() + interval '1 hour', 'Weekly', 'FREQ=WEEKLY;BYDAY=MO') RETURNING recurrence IS NOT NULL}, 't', 'again and again');
gives('rui', q{SELECT count(*) FROM crm.occurrences('FREQ=DAILY;COUNT=3', '2030-01-01 09:00', 'Europe/Berlin')}, '3', 'asks when');
refused('rui', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (4, now(), 'Spam')}, '42501', 'row-level security policy', 'reminding a colleague');
gives('mo', q{INSERT INTO sales.reminder (member_id, due_at, title) VALUES (4, now() - interval '1 minute', 'Report, please') RETURNING member_id}, '4', 'the manager reminds Rosa');
refused('rui', q{SELECT crm.run_due()}, '42501', 'permission denied for function run_due', 'firing');
gives('boss', q{SELECT crm.run_due()}, '2', 'fires');
gives('rui', q{SELECT title, kind, record_id, name = (SELECT a.name FROM sales.account AS a WHERE a.id = 101) FROM sales.inbox}, 'Ring Ute|account|101|t', 'has it in her inbox');
refused('rui', q{SELECT sales.snooze(id, now() - interval '1 minute') FROM sales.inbox}, '22023', 'cannot snooze until', 'snoozing into the past');
gives('rui', q{SELECT sales.snooze(id, now() + interval '1 hour') > 0 FROM sales.inbox}, 't', 'snoozes it');
gives('rui', q{UPDATE sales.reminder SET due_at = now() WHERE snoozed_event_id IS NOT NULL RETURNING title}, 'Ring Ute', 'and thinks better of it');
gives('boss', q{SELECT crm.run_due()}, '1', 'fires again');
gives('rui', q{SELECT sales.acknowledge(id) FROM sales.inbox}, '', 'acknowledges it');
gives('rui', q{SELECT count(*), min(state) FROM sales.event}, '2|acknowledged', 'keeps the events');
gives('rui', q{SELECT count(*) FROM sales.inbox}, '0', 'has an empty inbox');
gives('mo', q{SELECT count(*) FROM sales.event}, '3', 'the manager reads along');
refused('mo', q{SELECT sales.acknowledge(id) FROM sales.event WHERE member_id = 4}, 'P0002', '', 'acknowledging for Rosa');
refused('rui', q{INSERT INTO sales.event (reminder_id, member_id, due_at, fired_at, title) VALUES (1, 3, now(), now(), 'x')}, '42501', 'permission denied for table event', 'making up an event');
gives('rui', q{SELECT count(*), count(DISTINCT member_id) FROM sales.read_events('phone')}, '2|1', 'reads the feed of her own events');
gives('rui', q{SELECT sales.fail_event('phone', max(id), 'no network') FROM sales.event}, '', 'sets one aside');
gives('rui', q{SELECT reason FROM sales.event_failure}, 'no network', 'sees why');
gives('rui', q{SELECT sales.retry_events('phone'), (SELECT events_set_aside FROM sales.event_lag)}, '1|1', 'wants it again');
gives('mo', q{SELECT (SELECT count(*) FROM sales.event_lag), (SELECT count(*) FROM sales.event_failure)}, '0|0', 'does not see her consumers');
gives('rui', q{DELETE FROM sales.event_consumer RETURNING name}, 'phone', 'gives up reading');
refused('rui', q{INSERT INTO sales.event_consumer (name, whole_feed) VALUES ('all', true)}, '42501', 'permission denied for table event_consumer', 'reading everybody\'s events');
refused('rui', q{SELECT sales.purge_events()}, '42501', 'permission denied for function purge_events', 'deleting events');
gives('rui', q{SELECT sales.calendar_feed() LIKE '%SUMMARY:Weekly%'}, 't', 'subscribes to her calendar');
gives('rui', q{DELETE FROM sales.reminder RETURNING title}, 'Weekly', 'cancels a reminder');

# Managers and administrators.
gives('dana', q{SELECT count(*) FROM sales.account WHERE owner_id IN (3, 4)}, as('boss', 'SELECT count(*) FROM sales.account WHERE owner_id IN (3, 4)'), 'the director sees everybody\'s below');
gives('dana', q{SELECT allowed FROM sales.can(4, 'edit', 'account', 900)}, 't', 'asks about Rosa');
refused('dana', q{INSERT INTO sales.member (name) VALUES ('New')}, '42501', 'row-level security policy', 'hiring, as no administrator');
gives('rui', q{UPDATE sales.member SET access = 'all' WHERE id = 3 RETURNING access}, '', 'cannot make herself administrator');
gives('adam', q{INSERT INTO sales.member (id, name, manager_id) VALUES (7, 'New', 2) RETURNING name}, 'New', 'the administrator hires');
gives('adam', q{INSERT INTO sales.team (id, name, record_access) VALUES (1, 'North', 'read') RETURNING id}, '1', 'forms a team');
gives('adam', q{INSERT INTO sales.team_member (team_id, member_id) VALUES (1, 3), (1, 4) RETURNING member_id}, "3\n4", 'of Rui and Rosa');
gives('rosa', q{SELECT count(*) FROM sales.account WHERE id = 101}, '1', 'now reads Rui\'s accounts');
gives('adam', q{DELETE FROM sales.team WHERE id = 1 RETURNING id}, '1', 'dissolves it');
gives('adam', q{INSERT INTO sales.lead_source (name) VALUES ('fair') RETURNING name}, 'fair', 'adds to a picklist');
gives('adam', q{INSERT INTO sales.activity_type (name) VALUES ('lunch') RETURNING name}, 'lunch', 'adds a type of activity');
gives('adam', q{INSERT INTO sales.exchange_rate (currency, valid_from, rate) VALUES ('CHF', '2020-01-01', 1.05) RETURNING currency}, 'CHF', 'adds an exchange rate');
refused('rui', q{INSERT INTO sales.lead_source (name) VALUES ('bribe')}, '42501', 'row-level security policy', 'adding to a picklist');
refused('adam', q{UPDATE sales.stage_rule SET expression = 'true'}, '42501', 'permission denied for table stage_rule', 'changing expressions, which others\' sessions evaluate');
gives('adam', q{SELECT sales.transfer('account', '{900}', 3)}, '1', 'transfers anybody\'s account');
gives('boss', q{SELECT sales.transfer('account', '{900}', 4)}, '1', 'the owner of the workspace, no member, transfers it back');

# --- The analyst.

my $report = as('boss', q{SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'sales'::regnamespace AND relname LIKE 'report\_%' AND relkind = 'v'});
like($report, qr/report_account .*report_opportunity/, 'there are reports');
for my $view (split ' ', $report)
{
	my $all = as('boss', "SELECT count(*) FROM sales.$view");
	gives('ana', "SELECT count(*) FROM sales.$view", $all, "reads all of $view");
	gives('nobody', "SELECT count(*) FROM sales.$view", ($view eq 'report_calendar' ? $all : '0'), "reads nothing of $view");
}
gives('ana', q{SELECT sum(reached) > 0 FROM sales.funnel((SELECT name FROM sales.pipeline WHERE kind = 'opportunity' LIMIT 1))}, 't', 'asks for the funnel');
gives('ana', q{SELECT count(*) > 0 FROM sales.pipeline_bridge(now() - interval '1 day', now())}, 't', 'asks for the bridge');
gives('ana', q{SELECT count(*) > 0 FROM sales.next_stages('opportunity', 101)}, 't', 'asks what is next');
gives('ana', q{SELECT allowed FROM sales.can(3, 'read', 'account', 101)}, 't', 'asks what Rui may');
gives('ana', q{SELECT crm.name_key('Acme') = crm.name_key('ACME Ltd')}, 't', 'uses functions of the toolkit');
refused('ana', q{INSERT INTO sales.account (name) VALUES ('x')}, '42501', 'permission denied for table account', 'writing');
refused('ana', q{SELECT sales.transfer('account', '{101}', 5)}, '42501', 'permission denied for function transfer', 'transferring');
refused('ana', q{SELECT * FROM sales.audit_log}, '42501', 'permission denied for table audit_log', 'the audit log');
refused('ana', q{SELECT secret FROM sales.token_key}, '42501', 'permission denied for table token_key', 'the secrets');

# --- The gateway.

gives('web', q{SELECT count(*) FROM sales.account}, '0', 'sees nothing on its own');
gives('web', q{BEGIN; SET LOCAL crm.member = 'sales/3'; SELECT count(*) > 0, bool_and(owner_id IS NOT DISTINCT FROM 3) FROM sales.account; COMMIT; SELECT count(*) FROM sales.account}, "t|t\n0", 'acts for Rui until the end of the transaction');
gives('web', q{BEGIN; SET LOCAL crm.member = 'sales/4'; INSERT INTO sales.lead (company) VALUES ('Web Lead') RETURNING owner_id; COMMIT}, '4', 'writes for Rosa');
gives('web', q{SET crm.member = 'other/3'; SELECT count(*) FROM sales.account}, '0', 'a member of another workspace is nobody');
refused('web', q{SET crm.member = 'other/3'; SELECT count(*) FROM other.account}, '42501', 'permission denied for schema other', 'another workspace');
refused('rui', q{SET crm.member = 'sales/1'}, '42501', 'permission denied to set parameter "crm.member"', 'saying who she is');

# --- The auditor.

gives('audrey', q{SELECT count(*) > 0 FROM sales.audit_log WHERE kind = 'account'}, 't', 'reads the audit log');
gives('audrey', q{SELECT count(*) FROM sales.audit_seal}, qr/^\d+$/, 'reads the seals');
gives('audrey', q{SELECT count(*) FROM crm.audit_verify('sales')}, qr/^\d+$/, 'verifies them');
gives('audrey', q{SELECT count(*) > 0 FROM sales.stage_history}, 't', 'reads the history of stages');
gives('audrey', q{SELECT count(*) = 2 FROM sales.merge_log}, 't', 'reads the merges');
refused('audrey', q{SELECT name FROM sales.account}, '42501', 'permission denied for table account', 'reading accounts');
refused('audrey', q{DELETE FROM sales.audit_log}, '42501', 'permission denied for table audit_log', 'deleting from the log');
refused('rui', q{SELECT * FROM sales.audit_log}, '42501', 'permission denied for table audit_log', 'reading the log');

# --- Nobody: a role with access, but no member.

my @relations = split /\n/, as('boss', q{SELECT relname FROM pg_class WHERE relnamespace = 'sales'::regnamespace AND relkind IN ('r', 'v', 'p') AND relname NOT IN ('report_calendar', 'crm_meta', 'access_kind') ORDER BY 1});
cmp_ok(scalar @relations, '>', 30, 'there are tables and views');
for my $relation (@relations)
{
	gives('nobody', "SELECT count(*) FROM sales.$relation", qr/^0$|42501: permission denied for (table|view) $relation/, "nothing in $relation");
}
for my $table (qw(account contact lead opportunity activity reminder external_reference team member team_member))
{
	my ($columns, $values) = @{ { account => ['name', "'x'"], contact => ['full_name', "'x'"], lead => ['company', "'x'"], opportunity => ['name', "'x'"],
			activity => ['subject', "'x'"], reminder => ['member_id, due_at, title', "3, now(), 'x'"],
			external_reference => ['kind, record_id, system, external_id', "'account', 101, 's', 'e'"], team => ['name', "'x'"],
			member => ['name', "'x'"], team_member => ['team_id, member_id', '1, 3'] }->{$table} };
	refused('nobody', "INSERT INTO sales.$table ($columns) VALUES ($values)", '42501', 'row-level security policy', "writing to $table");
	gives('nobody', "WITH d AS (DELETE FROM sales.$table RETURNING 1) SELECT count(*) FROM d", '0', "deletes nothing from $table");
}
gives('nobody', q{SELECT sales.me() IS NULL}, 't', 'is nobody');
gives('nobody', q{SELECT claimed FROM sales.claim('account', 903)}, 'f', 'claims nothing');
refused('nobody', q{SELECT sales.claim_next('account')}, '42501', 'this session acts for no member', 'claiming the next one');
gives('nobody', q{SELECT count(*) FROM sales.find_duplicates('account', '{"name": "Rosas Blumen"}')}, '0', 'finds nothing');
refused('nobody', q{SELECT * FROM sales.can(3, 'read', 'account', 101)}, '42501', 'permission denied to ask', 'asking');
refused('nobody', q{SELECT sales.transfer('account', '{101}', 4)}, '(P0002|42501)', '', 'transferring');
refused('nobody', q{SELECT sales.share_record('account', 101, member_id => 4)}, '(P0002|42501)', '', 'sharing');
refused('nobody', q{SELECT sales.merge_records('account', 101, '{102}')}, '(P0002|42501)', '', 'merging');
refused('nobody', q{SELECT * FROM sales.unmerge(1)}, '(P0002|42501)', '', 'undoing a merge');

# --- Strangers, and the second workspace.

refused('stranger', q{SELECT * FROM sales.account}, '42501', 'permission denied for schema sales', 'the workspace');
refused('stranger', q{SELECT crm.name_key('x')}, '42501', 'permission denied for schema crm', 'the toolkit');
for my $role (qw(rui adam ana audrey web nobody))
{
	refused($role, q{SELECT * FROM other.account}, '42501', 'permission denied for schema other', 'the other workspace');
	refused($role, q{SELECT * FROM crm.find_duplicates('other', 'account', '{"name": "Secret Holding"}')}, '42501', 'permission denied', 'searching the other workspace');
	gives($role, q{SELECT workspace FROM crm.workspaces() WHERE schema_version IS NOT NULL}, 'sales', 'is told of one workspace');
}
gives('rui', q{SELECT coalesce(crm.member_id('other'), 0)}, '0', 'is nobody in the other one');
gives('rui', q{SELECT crm.can_read('other', 'account', 3, 1)}, 'f', 'whose rules are not hers');
gives('outsider', q{SELECT count(*) FROM other.account}, '1', 'sees what is his');

# --- The owner of the workspace administers it without being a member.

gives('boss', q{SELECT coalesce(sales.me(), 0)}, '0', 'is no member');
gives('boss', q{SELECT allowed, reason FROM sales.can(3, 'read', 'account', 900)}, 'f|account 900 does not exist or is not visible to Rui', 'asks what anybody may do');
refused('postgres', q{SET ROLE nobody; SELECT * FROM sales.can(3, 'read', 'account', 900)}, '42501', 'permission denied to ask', 'asking in the role of nobody');
gives('boss', q{SELECT sales.share_record('account', 101, member_id => 4) > 0, sales.unshare('account', 101, member_id => 4)}, 't|t', 'shares and unshares');
gives('boss', q{SELECT count(*) > 0 FROM sales.find_duplicates('account', '{"name": "Rosas Blumen"}')}, 't', 'finds duplicates');
gives('boss', q{SELECT sales.merge_records('account', 900, '{901}') > 0}, 't', 'merges');
gives('boss', q{SELECT count(*) FROM sales.unmerge((SELECT max(id) FROM sales.merge_log))}, '0', 'undoes a merge');
gives('boss', q{SELECT count(*) >= 0 FROM sales.merge_clusters('account', 0.999999)}, 't', 'merges clusters');
gives('boss', q{SELECT sum(reached) > 0 FROM sales.funnel((SELECT name FROM sales.pipeline WHERE kind = 'opportunity' LIMIT 1))}, 't', 'asks for the funnel');
gives('boss', q{SELECT count(*) FROM sales.next_stages('opportunity', 101)}, qr/^[1-9]$/, 'asks for stages');
gives('boss', q{SELECT account_id IS NOT NULL FROM sales.convert_lead(101)}, 't', 'converts a lead');
gives('boss', q{SELECT count(*) FROM sales.read_events('mailer')}, '3', 'reads the feed');
gives('boss', q{SELECT sales.ack_events('mailer', (SELECT max(id) FROM sales.event))}, '3', 'acknowledges events');
gives('boss', q{SELECT count(*) FROM sales.event_lag}, '1', 'watches consumers');
gives('boss', q{SELECT sales.purge_events(interval '0')}, '2', 'deletes what is done');
gives('boss', q{SELECT count(*) > 0 FROM crm.audit_verify('sales')}, qr/^[tf]$/, 'verifies the audit log');
gives('boss', q{SELECT crm.upgrade_workspace('sales')}, qr/^\w*$/, 'upgrades');
# The server's own version is the machine's affair.
gives('boss', q{SELECT count(*) FROM crm.doctor() WHERE severity = 'error' AND "check" <> 'server version'}, qr/^0$/, 'asks the doctor');

# Taking access back takes all of it back.
as('boss', q{SELECT crm.revoke_access('sales', role, 'app') FROM unnest('{rui,nobody}'::name[]) AS role});
refused('rui', q{SELECT * FROM sales.account}, '42501', 'permission denied for schema sales', 'the workspace, once access is revoked');
refused('rui', q{SELECT crm.name_key('x')}, '42501', 'permission denied for schema crm', 'the toolkit, once access is revoked');
is(as('boss', q{
	SELECT count(*) FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND deptype = 'a'
	AND refobjid IN ('rui'::regrole, 'nobody'::regrole) AND dbid = (SELECT oid FROM pg_database WHERE datname = 'shop')}), '0', 'no privilege is left behind');

unlike(slurp_file($node->logfile), qr/XX000|terminated by signal/, 'no internal error, no crash');

$node->stop;
done_testing();
