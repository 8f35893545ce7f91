# Bad input and faults: every function meets hostile arguments, is cancelled, finds
# columns come and gone, and tables altered under its feet.  It answers with a result
# or a clear error, in bounded time and memory.
#
# CRM_SEED repeats a run, CRM_CASES (default 2000) is how many calls a sweep has.
use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $seed = $ENV{CRM_SEED} // int(Time::HiRes::time() * 1000) % 1_000_000;
my $cases = $ENV{CRM_CASES} // 2000;
diag("CRM_SEED=$seed");
srand($seed);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'crm'
crm.scheduler = off
crm.default_region = 'CN'
timezone = 'UTC'
fsync = off
log_min_messages = error
log_min_error_statement = panic
});
$node->start;

$node->safe_psql('postgres', q{
	CREATE EXTENSION crm CASCADE;
	CREATE TABLE plain (id bigint PRIMARY KEY, name text, owner_id bigint);
	CREATE ROLE someone;
	SELECT crm.create_workspace('sales');
	INSERT INTO sales.member (name, manager_id) VALUES ('Dana', NULL), ('Mo', 1), ('Rui', 2);
	INSERT INTO sales.account (name, phone, city, owner_id)
	SELECT (ARRAY['Acme', '北京华讯科技有限公司', 'Müller & Söhne', 'ООО Ромашка'])[i % 4 + 1] || ' ' || i / 8, '+86138000' || 10000 + i / 3, 'Bonn', i % 3 + 1
	FROM generate_series(1, 200) AS i;
	INSERT INTO sales.contact (account_id, full_name, email) SELECT i, 'Eve ' || i / 2, 'eve' || i / 2 || '@acme.example' FROM generate_series(1, 100) AS i;
	INSERT INTO sales.lead (company, full_name) SELECT 'Lead ' || i, 'Max ' || i FROM generate_series(1, 20) AS i;
	INSERT INTO sales.opportunity (account_id, name, amount, currency) SELECT i, 'Deal ' || i, i * 100, 'CNY' FROM generate_series(1, 20) AS i;
	INSERT INTO sales.reminder (member_id, due_at, title) SELECT 1, now() - interval '1 hour', 'r' || i FROM generate_series(1, 20) AS i;
	SELECT crm.run_due(10);
	SELECT crm.analyze_matching('sales.account');
});
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');

# --- The sweep.

my @texts = (q{''}, q{' '}, q{repeat('x', 1000000)}, q{repeat('有限公司', 80000)}, q{repeat('a ', 100000)}, q{'😀👩‍👩‍👧'}, q{U&'\202E\0627\0644\200F'},
	q{'e' || repeat(U&'\0301', 5000)}, q{U&'\FFFE\FFFF\E000'}, q{convert_from('\xeda080', 'UTF8')}, q{E'a\\nb\\tc\\\\'}, q{'''; DROP TABLE plain; --'}, q{'%s%n%I'},
	q{'"'}, q{'0'}, q{'-1'}, q{'99999999999999999999999'}, q{'NaN'}, q{'infinity'}, q{'null'}, q{'{}'}, q{'('}, q{'sales'}, q{'other'}, q{'public'}, q{'account'},
	q{'contact'}, q{'lead'}, q{'opportunity'}, q{'reminder'}, q{'activity'}, q{'member'}, q{'stage'}, q{'edit'}, q{'read'}, q{'app'}, q{'FREQ=DAILY'},
	q{'FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30'}, q{'FREQ=SECONDLY;INTERVAL=2147483647'}, q{'FREQ=MINUTELY;BYSETPOS=-366;BYDAY=MO'}, q{'Europe/Berlin'},
	q{'+8613800138000'}, q{'a@b.example'}, q{'91110000600037341L'}, q{'1 CNY'}, q{'https://[::1]:99999/?q=%'});
my @bigints = qw(0 1 2 3 -1 100 9223372036854775807 -9223372036854775808 4294967296);
my @oids = (0, 1, 10, 2200, 4294967295);
my %values = (
	text => \@texts,
	cstring => [map { "textout($_)" } @texts],
	name => [q{''::name}, q{'sales'::name}, q{'public'::name}, q{'account'::name}, q{'owner_id'::name}, q{'id'::name}, q{'stage'::name}, q{'someone'::name},
		q{repeat('é', 31)::name}, q{'"; DROP'::name}, q{'pg_catalog'::name}],
	bigint => [map { "'$_'::bigint" } @bigints],
	integer => [map { "'$_'::integer" } qw(0 1 -1 2147483647 -2147483648 1000)],
	smallint => [map { "'$_'::smallint" } qw(0 1 -1 32767 -32768)],
	boolean => [qw(true false)],
	real => [map { "'$_'::real" } qw(0 0.5 1 -1 NaN Infinity -Infinity 1e-45 3e38)],
	'double precision' => [map { "'$_'::float8" } qw(0 0.5 1 -1 NaN Infinity -Infinity 1e-300 1e300)],
	numeric => ['0', '1', '-1', q{'NaN'::numeric}, q{'Infinity'::numeric}, q{'-Infinity'::numeric}, '1e1000::numeric', '1e-1000::numeric', '1e100000::numeric', '0.005'],
	oid => [map { "$_\::oid" } @oids],
	'oid[]' => [q{'{}'::oid[]}, q{'{0,1,1259,4294967295}'::oid[]}, q{'{NULL}'::oid[]}],
	regclass => [(map { "$_\::oid::regclass" } @oids), map { "'$_'::regclass" } qw(sales.account sales.contact sales.opportunity sales.reminder sales.inbox sales.account_pkey sales.account_id_seq plain pg_class pg_toast.pg_toast_2618 information_schema.tables)],
	regnamespace => [(map { "$_\::oid::regnamespace" } @oids), map { "'$_'::regnamespace" } qw(sales crm public pg_catalog pg_toast)],
	'timestamp with time zone' => [map { "'$_'::timestamptz" } 'infinity', '-infinity', '4713-01-01 BC', '0001-01-01 BC', '294276-12-31', '2000-01-01', '2024-02-29'],
	'timestamp without time zone' => [map { "'$_'::timestamp" } 'infinity', '-infinity', '4713-01-01 BC', '0001-01-01 BC', '294276-12-31', '2000-01-01'],
	date => [map { "'$_'::date" } 'infinity', '-infinity', '4713-01-01 BC', '5874897-12-31', '2000-01-01'],
	'time without time zone' => [map { "'$_'::time" } '00:00', '24:00', '12:00'],
	interval => [map { "'$_'::interval" } '0', '-1 day', '178000000 years', '-178000000 years', '1 microsecond', '1 month -1 day', '15 minutes'],
	jsonb => [map { "$_\::jsonb" } q{'{}'}, q{'null'}, q{'[]'}, q{'"x"'}, q{'1e1000'}, q{'{"name": null}'}, q{'{"name": 1e500}'}, q{'{"name": {"name": []}}'}, q{'{"": ""}'},
		q{'{"name": "Acme 1", "phone": "+8613800010000", "email": "@", "birth_date": "infinity"}'}, q{(repeat('[', 2000) || repeat(']', 2000))}, q{(repeat('{"name":', 2000) || 1 || repeat('}', 2000))},
		q{('{"name": "' || repeat('x y ', 250000) || '"}')}, q{(SELECT jsonb_object_agg(i::text, i) FROM generate_series(1, 20000) AS i)}],
	bytea => [q{''::bytea}, q{'\x00'::bytea}, q{'\xff'::bytea}, q{decode(repeat('00ff', 500000), 'hex')}],
	inet => [q{'::1'::inet}],
	'crm.amount' => [map { "'$_'::crm.amount" } '0 CNY', '1 EUR', '-1 EUR', '999999999999999.99 CNY', '0.01 JPY'],
	'crm.email' => [map { "'$_'::crm.email" } 'a@b.example', '"x y"@münchen.example'],
	'crm.phone' => [map { "'$_'::crm.phone" } '+8613800138000', '+49301234567'],
	'crm.uscc' => [q{'91350100M000100Y43'::crm.uscc}],
	'sales.event_consumer' => [q{NULL::sales.event_consumer}, q{ROW(1, 'x', 1, false, ARRAY['account', NULL], 3, 0, 9223372036854775807, -1, NULL, 'infinity')::sales.event_consumer}],
	'"any"' => [q{'x'::text}, q{NULL::text}, q{repeat('x', 1000000)}, '1', q{'2000-01-01'::date}],
	'anyelement' => [q{'x'::text}, '1'],
);
for my $type (qw(text bigint integer jsonb name date boolean real), 'double precision', 'time without time zone', 'timestamp with time zone')
{
	my @v = (@{ $values{$type} }) x 2;
	$values{"$type\[]"} = ["'{}'::$type\[]", "ARRAY[NULL]::$type\[]", "ARRAY[$v[1], NULL, $v[1]]::$type\[]", "ARRAY[ARRAY[$v[1]], ARRAY[$v[0]]]::$type\[]",
		"ARRAY[$v[1], $v[2], $v[1]]::$type\[]", "array_fill($v[1], ARRAY[5000])::$type\[]", "array_fill($v[1], ARRAY[1], ARRAY[-5])::$type\[]"];
}

# What an argument of this name usually is, so that the others get far.
my %usual = (workspace => q{'sales'}, kind => q{'account'}, id => '1', relation => q{'sales.account'}, table_name => q{'sales.account'}, record => q{'{"name": "Acme 1"}'},
	survivor => q{'1'}, losers => q{'{2,3}'}, ids => q{'{1,2}'}, member_id => '1', to_member => '2', action => q{'edit'}, access => q{'read'}, rule => q{'FREQ=DAILY'},
	time_zone => q{'UTC'}, pipeline => q{'sales'}, role => q{'someone'}, consumer => q{'mailer'}, event_id => '1', lead_id => '1', schema => q{'sales'},
	owner_column => q{'owner_id'}, id_column => q{'id'}, starts_at => q{'2025-01-01'}, since => q{'2025-01-01'}, until => q{'2030-01-01'}, threshold => '0.9');

my @functions = map { my ($oid, $name, $agg, $types, $names) = split /\|/; { name => $name, agg => $agg eq 't', types => [split /;/, $types // ''], names => [split /;/, $names // ''] } }
  split /\n/, $node->safe_psql('postgres', q{
	SELECT p.oid, format('%I.%I', n.nspname, p.proname), p.prokind = 'a',
	       array_to_string(ARRAY(SELECT t::regtype FROM unnest(p.proargtypes) WITH ORDINALITY AS u (t, i) ORDER BY i), ';'),
	       array_to_string(ARRAY(SELECT coalesce(p.proargnames[i], '') FROM generate_series(1, p.pronargs) AS i), ';')
	FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
	WHERE n.nspname IN ('crm', 'sales') AND NOT 'internal'::regtype = ANY (p.proargtypes::oid[]) AND p.prokind IN ('f', 'a')
	  AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype)
	ORDER BY 2, 4});
cmp_ok(scalar @functions, '>', 150, 'there are functions to call');
is(join(' ', sort keys %{ { map { $_ => 1 } grep { !$values{$_} } map { @{ $_->{types} } } @functions } }), '', 'there are values for every type of argument');

sub call
{
	my ($f, @args) = @_;
	return "SELECT $f->{name}(" . join(', ', map { "v.a$_" } 0 .. $#args) . ') IS NULL FROM (VALUES (' . join(', ', @args) . ')) AS v (' . join(', ', map { "a$_" } 0 .. $#args) . ')'
	  if $f->{agg};
	return "SELECT count(*) FROM $f->{name}(" . join(', ', @args) . ') AS f';
}

sub pick { my ($list) = @_; return $list->[ rand @$list ]; }

sub null { my ($type) = @_; return $type eq '"any"' ? 'NULL::text' : "NULL::$type"; }

sub usual
{
	my ($f, $i) = @_;
	my $type = $f->{types}[$i];
	my $usual = $usual{ $f->{names}[$i] // '' };
	return $values{$type}[0] if $type eq '"any"';
	return pick($values{$type}) unless defined $usual && $type =~ /^(text|name|bigint|regclass|regnamespace|jsonb|real|date|timestamp.*|text\[\]|bigint\[\])$/;
	return "$usual\::$type";
}

# Every function with nothing but NULLs, each value once in each place, then at random.
my (@first, @calls);
for my $f (@functions)
{
	my $n = @{ $f->{types} };
	push @first, call($f, map { null($_) } @{ $f->{types} });
	push @first, call($f, map { usual($f, $_) } 0 .. $n - 1);
	for my $place (0 .. $n - 1)
	{
		push @calls, map { my $value = $_; call($f, map { $_ == $place ? $value : usual($f, $_) } 0 .. $n - 1) } null($f->{types}[$place]), @{ $values{ $f->{types}[$place] } };
	}
	push @calls, map { call($f, map { rand() < 0.1 ? null($_) : pick($values{$_}) } @{ $f->{types} }) } 1 .. 10 if $n;
}
# Making workspaces bloats the catalogs and takes its time: a few calls will do.
my $made = 0;
@calls = grep { !/(create|upgrade|_protect)_workspace/ || $made++ < 10 } @calls;
for my $i (reverse 1 .. $#calls) { my $j = int rand($i + 1); @calls[ $i, $j ] = @calls[ $j, $i ]; }
@calls = (@first, @calls);
$#calls = $cases - 1 if @calls > $cases;
diag(scalar(@calls) . ' calls of ' . scalar(@functions) . ' functions');

# Runs each call in a transaction of its own, rolled back; returns the faults.
sub sweep
{
	my ($passes, @calls) = @_;
	my $memory = q{SELECT 'memory', sum(total_bytes) FROM pg_backend_memory_contexts;};
	my $script = "SET statement_timeout = '10s'; SET client_min_messages = error; SET crm.member = 'sales/1';\n";
	my @lines = ('', '');
	for my $pass (1 .. $passes)
	{
		for my $call (@calls) { $script .= "BEGIN; $call; ROLLBACK;\n"; push @lines, $call; }
		$script .= "RESET ALL; SET statement_timeout = '10s'; SET client_min_messages = error; SET crm.member = 'sales/1'; $memory\n";
		push @lines, '';
	}
	my ($out, $err) = ('', '');
	$node->psql('postgres', $script, extra_params => ['-v', 'VERBOSITY=verbose'], on_error_stop => 0, stdout => \$out, stderr => \$err);
	my @faults;
	while ($err =~ /^psql:<stdin>:(\d+): (?:ERROR:  (XX\w+|57014|40P01): (.*)|(server closed.*|.*connection.*lost.*))/mg)
	{
		my ($line, $what) = ($1, defined $2 ? "$2 $3" : $4);
		# How long a scan takes depends on how much it finds; that it ends is right.
		next if $what =~ /^57014/ && $lines[$line] =~ /scan_duplicates/;
		push @faults, "$lines[$line]: $what";
	}
	push @faults, 'the session ended' unless $out =~ /memory/;
	return (\@faults, [$out =~ /^memory\|(\d+)/mg]);
}

my $begin = Time::HiRes::time();
my ($faults) = sweep(1, @calls);
is(join("\n", @$faults), '', 'hostile arguments: no crash, no internal error, nothing takes long');
diag(sprintf('%.0f s', Time::HiRes::time() - $begin));

# Memory: the same calls again and again leave no more behind than once.
my @some = grep { !/create_workspace|upgrade_workspace|_execute_as|1000000|80000|250000/ } @calls;
$#some = 299 if @some > 300;
my ($again, $memory) = sweep(5, @some);
is(join("\n", @$again), '', 'and again');
is(scalar @$memory, 5, 'memory was measured after each pass');
cmp_ok($memory->[4], '<', $memory->[1] * 1.25 + 1_000_000, "memory does not grow with the calls: @$memory");

is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'the server did not restart');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/, 'nothing crashed');
is($node->safe_psql('postgres', 'SELECT count(*) FROM plain'), '0', 'nothing was injected');

# --- Cancelling.

$node->safe_psql('postgres', q{
	INSERT INTO sales.account (name, phone, city) SELECT '上海华新贸易有限公司 ' || i % 500, '+86139' || 10000000 + i / 2, 'Shanghai' FROM generate_series(1, 6000) AS i;
	INSERT INTO sales.activity (subject, account_id) SELECT 's', 2 FROM generate_series(1, 20000);
	INSERT INTO sales.reminder (member_id, due_at, title) SELECT 1, now() - interval '1 hour', 'r' FROM generate_series(1, 50000);
});
my %long = (
	'scan_duplicates' => q{SELECT sales.scan_duplicates('account')},
	'merge_records' => q{SELECT sales.merge_records('account', 1, '{2}')},
	'merge_clusters' => q{SELECT count(*) FROM sales.merge_clusters('account', 0.5)},
	'run_due' => q{SELECT crm.run_due()},
	'analyze_matching' => q{SELECT crm.analyze_matching('sales.account')},
	'name_key' => q{SELECT length(crm.name_key(repeat('北京Ωж', 250000)))},
	'name_similarity' => q{SELECT crm.name_similarity(repeat('ab ', 300000), repeat('ba ', 300000))},
	'find_duplicates' => q{SELECT count(*) FROM sales.find_duplicates('account', jsonb_build_object('name', repeat('上海 ', 100000)))},
	'occurrences' => q{SELECT count(*) FROM crm.occurrences('FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=29;BYDAY=SU', '2025-01-01', 'UTC', '-infinity', 10000)},
	'registrable_domain' => q{SELECT crm.registrable_domain(repeat('a.', 500000) || 'com')},
	'index' => q{CREATE INDEX CONCURRENTLY ON sales.account USING crm_match (crm.match_keys('company', name))},
);
for my $name (sort keys %long)
{
	my ($out, $err) = ('', '');
	my $from = Time::HiRes::time();
	$node->psql('postgres', ($name eq 'index' ? "SET statement_timeout = '100ms';\n$long{$name} \\;" : "SET statement_timeout = '100ms';\nBEGIN; $long{$name}; ROLLBACK;"),
		extra_params => ['-v', 'VERBOSITY=verbose'], stdout => \$out, stderr => \$err);
	my $took = Time::HiRes::time() - $from;
	# The machine may be busy: connecting counts too.
	cmp_ok($took, '<', 3, sprintf('%s is cancelled at once or done (%.2f s, %s)', $name, $took, $err =~ /57014/ ? 'cancelled' : 'done'));
	unlike($err, qr/ERROR:  (?!57014|22|54)\w+/, "$name: no other error");
}
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/, 'nothing crashed when cancelled');

# --- Columns come and go.

my $use = q{
	BEGIN;
	SET LOCAL crm.member = 'sales/1';
	INSERT INTO sales.account (id, name, phone) VALUES (20001, 'Zeta Werke', '+493012345'), (20002, 'Zeta Werke GmbH', '+493012345');
	INSERT INTO sales.contact (account_id, full_name) VALUES (20002, 'Zoe Zeta');
	INSERT INTO sales.lead (id, company, full_name) VALUES (20001, 'Neu KG', 'Nina Neu');
	INSERT INTO sales.opportunity (id, account_id, name, amount, currency, close_date) VALUES (20001, 20002, 'Deal', 10, 'EUR', '2030-01-01');
	INSERT INTO sales.activity (subject, opportunity_id) VALUES ('s', 20001);
	UPDATE sales.account SET city = 'Ulm' WHERE id = 20001;
	SELECT count(*) FROM sales.find_duplicates('account', '{"name": "Zeta Werke"}');
	SELECT count(*) FROM sales.merge_preview('account', 20001, '{20002}');
	SELECT 1 FROM sales.unmerge(sales.merge_records('account', 20001, '{20002}'));
	SELECT count(*) FROM sales.next_stages('opportunity', 20001);
	UPDATE sales.opportunity SET stage = 'proposal' WHERE id = 20001;
	SELECT * FROM sales.convert_lead(20001, 'Deal');
	SELECT sales.transfer('account', '{20001}', 2), sales.share_record('account', 20001, member_id => 3), sales.unshare('account', 20001, member_id => 3);
	SELECT * FROM sales.can(3, 'read', 'account', 20001);
	SELECT count(*) FROM sales.funnel('sales');
	SELECT count(*) FROM sales.report_opportunity;
	SELECT crm.run_due(5);
	SELECT sales.snooze(min(id), now() + interval '1 hour') FROM sales.inbox;
	SELECT sales.acknowledge(min(id)) FROM sales.inbox;
	ROLLBACK;
};
my @tables = qw(account contact lead opportunity activity reminder event member team share external_reference stage_history merge_log audit_log);
my $changes = join "\n", map { "ALTER TABLE sales.$_ ADD COLUMN bad_input_1 text, ADD COLUMN bad_input_2 numeric DEFAULT 7, ADD COLUMN bad_input_3 int[];" } @tables;
my $changes_back = join "\n", map { "ALTER TABLE sales.$_ DROP COLUMN bad_input_1, DROP COLUMN bad_input_3;" } @tables;
my ($out, $err) = ('', '');
# One session, so that whatever it cached must notice.
my $rc = $node->psql('postgres', "$use\n$changes\n$use\n$changes_back\n$use\nALTER TABLE sales.contact DROP COLUMN job_title;\nALTER TABLE sales.lead DROP COLUMN job_title;\n$use",
	on_error_stop => 1, stdout => \$out, stderr => \$err);
is($rc, 0, 'columns added and dropped leave everything working') or diag(substr $err, 0, 2000);

# --- Tables altered while others write.

my @sessions;
my %script = (
	ddl => join("\n", map {
		my $t = $tables[ $_ % 6 ];
		"SET lock_timeout = '200ms'; ALTER TABLE sales.$t ADD COLUMN bad_input_4 text DEFAULT 'x'; ALTER TABLE sales.$t DROP COLUMN IF EXISTS bad_input_4;" } 1 .. 120),
	dml => join("\n", map { my $n = $_; (my $u = $use) =~ s/2000(\d)/sprintf('%d', 30000 + $n * 10 + $1)/ge; $u =~ s/^\s+//mg; $u } 1 .. 15),
	dml2 => join("\n", map { my $n = $_; (my $u = $use) =~ s/2000(\d)/sprintf('%d', 60000 + $n * 10 + $1)/ge; $u } 1 .. 15),
);
for my $who (sort keys %script)
{
	my %s = (who => $who, in => $script{$who} . "\n", out => '', err => '');
	$s{run} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('postgres'), '-f', '-' ], '<', \$s{in}, '>', \$s{out}, '2>', \$s{err}, IPC::Run::timeout(180));
	push @sessions, \%s;
}
for my $s (@sessions)
{
	$s->{run}->finish;
	my %codes;
	$codes{$1}++ while $s->{err} =~ /(?:ERROR|FATAL|PANIC):  (\w+):/g;
	# Whoever waits for a lock too long or deadlocks is told so; 25P02 is what follows.
	is(join(' ', grep { !/^(55P03|40P01|25P02|40001|P0002|0A000)$/ } sort keys %codes), '', "$s->{who} beside others: only clean errors") or diag(substr $s->{err}, 0, 3000);
	unlike($s->{err}, qr/server closed the connection/, "$s->{who}: its session lives");
}

is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'the server did not restart at all');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP|XX000/, 'nothing crashed at all');

$node->stop;
done_testing();
