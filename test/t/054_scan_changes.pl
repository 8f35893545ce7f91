# A scan of what changed leaves exactly what a scan of the whole table leaves: random
# customers whose names are made of few words, so that a name of one is a word of
# others, random changes and decisions, one seed after the other.
#
# CRM_SEED repeats a run; CRM_ROUNDS (default 12) says how many tables.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{CRM_SEED} // (time() ^ $$) & 0x7fffffff;
my $rounds = $ENV{CRM_ROUNDS} // 12;
diag("CRM_SEED=$seed CRM_ROUNDS=$rounds");
srand($seed);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\nmin_parallel_table_scan_size = 0");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION crm CASCADE;
	SELECT crm.create_workspace('sales');
	ALTER TABLE sales.account DISABLE TRIGGER USER;
	ALTER TABLE sales.contact DISABLE TRIGGER USER;
	CREATE FUNCTION result() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s %s-%s %s %s %s', kind, left_id, right_id, state, score, reasons) FROM sales.duplicate_pair
	UNION ALL SELECT format('%s %s: %s %s', kind, cluster_id, record_id, state) FROM sales.duplicate_cluster
	UNION ALL (SELECT format('%s: %s pairs, %s records in clusters', kind, pairs, clustered) FROM sales.duplicate_scan ORDER BY id DESC LIMIT 1)
	UNION ALL (SELECT format('%s: %s records, %s once too often, %s clusters and %s pairs open', kind, records, duplicates, clusters, open_pairs) FROM sales.duplicate_rate ORDER BY id DESC LIMIT 1) $$;
	CREATE TABLE before (line text);
});

sub pick { return $_[ int(rand(@_)) ]; }
sub chance { return rand() < $_[0]; }
sub literal { my $v = shift; return defined $v ? "'$v'" : 'NULL'; }

my @words = qw(huawei sanrui mangual swida pelikan zenith acme orion);
my @business = ('', '', ' Trading', ' Foods', ' & Sons', ' 88');
my @form = ('', ' Ltd', ' GmbH', ' Inc');
my @han = ('华为', '三瑞', '叁瑞', '伟测', '北方华为', '三瑞伟测');
my @han_business = ('', '', '科技', '贸易', '餐饮管理');
my @han_form = ('', '有限公司', '集团', '有限公司城西分公司');

sub company
{
	return pick('', '上海', '南京') . pick(@han) . pick(@han_business) . pick(@han_form) if chance(0.4);
	return ucfirst(pick(@words)) . (chance(0.5) ? ' ' . ucfirst(pick(@words)) : '') . pick(@business) . pick(@form);
}

sub account
{
	my $id = shift;
	return '(' . join(', ', $id, literal(company()), literal(chance(0.2) ? '030 9' . (100000 + int(rand(60))) : undef),
		literal(chance(0.3) ? 'info@' . pick(@words) . int(rand(12)) . '.example.com' : undef),
		literal(chance(0.1) ? '9132010477126' . (10000 + int(rand(20))) : undef),
		literal(chance(0.3) ? pick('High Street', 'Park Loop', '瞻园路') . ' ' . int(rand(9)) : undef), literal(pick(undef, 'Berlin', 'Juneau', '南京'))) . ')';
}

my @given = qw(Robert Bob Tara Jo Ann Anne);
my @family = qw(Allen Alan Swida Roberts Nash);

sub contact
{
	my $id = shift;
	return '(' . join(', ', $id, literal(chance(0.8) ? pick(@given) . pick('', '', 'a') : undef), literal(pick(@family) . pick('', '', 's')),
		literal(chance(0.5) ? '19' . (60 + int(rand(20))) . '-05-24' : undef),
		literal(chance(0.2) ? '030 9' . (100000 + int(rand(60))) : undef), literal(pick(undef, 'Berlin', 'Juneau'))) . ')';
}

my %insert = (
	account => [ 'INSERT INTO sales.account (id, name, phone, email, uscc, street, city) VALUES ', \&account ],
	contact => [ 'INSERT INTO sales.contact (id, given_name, family_name, birth_date, phone, city) VALUES ', \&contact ]);

sub rows
{
	my ($kind, @ids) = @_;
	my ($statement, $row) = @{ $insert{$kind} };
	return $statement . join(', ', map { $row->($_) } @ids) . ";\n";
}

# New rows, rows with other values, rows that are gone; what people decide, and take back.
sub changes
{
	my ($kind, $n, $new) = @_;
	my %ids = map { 1 + int(rand($n)) => 1 } 1 .. 1 + int(rand($n / 25));
	my @ids = sort { $a <=> $b } keys %ids;
	my @back = grep { chance(0.7) } @ids;
	my $sql = "BEGIN;\nDELETE FROM sales.$kind WHERE id IN (" . join(', ', @ids) . ");\n";
	$sql .= rows($kind, @back) if @back;
	$sql .= rows($kind, $new .. $new + int(rand(8)));
	my $some = "kind = '$kind' AND left_id % 40 = " . int(rand(40));
	$sql .= pick('', "UPDATE sales.duplicate_pair SET state = 'not_duplicate' WHERE $some;\n",
		"UPDATE sales.duplicate_pair SET state = 'ignored' WHERE $some;\n",
		"UPDATE sales.duplicate_pair SET state = 'duplicate' WHERE $some;\n",
		"UPDATE sales.duplicate_pair SET state = 'open' WHERE kind = '$kind';\n");
	$sql .= "COMMIT;\n";
	$sql .= pick('', '', "VACUUM sales.$kind;\n", "VACUUM FREEZE sales.$kind;\n", "VACUUM FULL sales.$kind;\n", "UPDATE sales.$kind SET region = 'x' WHERE id % 30 = 3;\n");
	return $sql;
}

# Lines that a scan of what changed leaves and a whole one does not, or the other way round.
sub difference
{
	my ($arguments, $settings) = @_;
	return $node->safe_psql('postgres', "TRUNCATE before; INSERT INTO before SELECT result();
		${settings}DO \$\$BEGIN PERFORM sales.scan_duplicates($arguments, true); END\$\$;
		(SELECT '- ' || line FROM before EXCEPT SELECT '- ' || result()) UNION ALL (SELECT '+ ' || result() EXCEPT SELECT '+ ' || line FROM before) LIMIT 5");
}

my $different = 0;
for my $round (1 .. $rounds)
{
	my $n = 200 + int(rand(600));
	my $kind = chance(0.75) ? 'account' : 'contact';
	my $threshold = pick(0.5, 0.01, 0.0001);
	my $workers = pick(0, 0, 1, 2);
	my $setup = "TRUNCATE sales.$kind CASCADE; TRUNCATE sales.duplicate_pair, sales.duplicate_cluster, sales.duplicate_scan, sales.match_statistics;\n";
	my $settings = "SET max_parallel_maintenance_workers = $workers;\n";

	$node->safe_psql('postgres', "$settings$setup" . rows($kind, 1 .. $n) . "SELECT sales.scan_duplicates('$kind', $threshold)");
	for my $step (1 .. 3)
	{
		my $sql = changes($kind, $n, 10000 * $step);
		$node->safe_psql('postgres', $sql);
		$node->safe_psql('postgres', "${settings}SELECT sales.scan_duplicates('$kind', $threshold)");
		last if $node->safe_psql('postgres', 'SELECT whole FROM sales.duplicate_scan ORDER BY id DESC LIMIT 1') eq 't';
		my $differ = difference("'$kind', $threshold", $settings);
		$differ = 'the rate of duplicates' if $differ eq '' && $node->safe_psql('postgres', "SELECT sales.measure_duplicates('$kind');
			SELECT count(DISTINCT (records, duplicates, clusters, open_pairs)) FROM (SELECT * FROM sales.duplicate_rate ORDER BY id DESC LIMIT 3) AS r") !~ /^1$/m;
		next if $differ eq '';
		diag("round $round, step $step, $kind, $n rows, threshold $threshold:\n$differ");
		$different++;
	}
}
is($different, 0, "changes of $rounds tables: the same as whole scans");

# Crowds that come and go, and what looks like one: dead rows of which the index still knows.
$node->safe_psql('postgres', q{
	TRUNCATE sales.account CASCADE; TRUNCATE sales.duplicate_pair, sales.duplicate_cluster, sales.duplicate_scan, sales.match_statistics;
	CREATE FUNCTION crowd(first bigint, last bigint, phone text) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO sales.account (id, name, phone) SELECT i, 'Crowd ' || md5((i / 3)::text), phone FROM generate_series(first, last) AS i $$;
	INSERT INTO sales.account (id, name, phone) SELECT i, md5(i::text) || ' Ltd', '030 8' || 100000 + i FROM generate_series(1, 6000) AS i;
	SELECT sales.scan_duplicates('account', 0.01);
});
for my $step (
	[ 'rows share a number', 'f', q{SELECT crowd(10001, 10250, '030 7770001')} ],
	[ 'twenty thousand more had one, and are gone', 'f', q{SELECT crowd(20001, 40000, '030 7770002'); DELETE FROM sales.account WHERE id BETWEEN 20001 AND 40000; SELECT crowd(50001, 50006, '030 7770002')} ],
	[ 'they have become a crowd', 't', q{SELECT crowd(10251, 10310, '030 7770001')} ],
	[ 'one has left the crowd', 'f', q{UPDATE sales.account SET phone = '030 8100002' WHERE id = 10001} ],
	[ 'it is none any more', 'f', q{DELETE FROM sales.account WHERE id BETWEEN 10100 AND 10299} ],
	[ 'a column was there for a while', 'f', q{ALTER TABLE sales.account ADD COLUMN passing text; UPDATE sales.account SET passing = 'x' WHERE id % 300 = 1; ALTER TABLE sales.account DROP COLUMN passing} ],
	[ 'a tenth of the rows is gone', 't', q{DELETE FROM sales.account WHERE id % 9 = 3} ])
{
	my ($what, $whole, $sql) = @$step;
	$node->safe_psql('postgres', $sql);
	$node->safe_psql('postgres', q{SELECT sales.scan_duplicates('account', 0.01)});
	is($node->safe_psql('postgres', 'SELECT whole FROM sales.duplicate_scan ORDER BY id DESC LIMIT 1'), $whole, "$what: of the whole table or not");
	is(difference(q{'account', 0.01}, ''), '', "$what: the same as a whole scan");
}

# People said of a whole chain of records that each is the next one.
$node->safe_psql('postgres', q{
	TRUNCATE sales.account CASCADE; TRUNCATE sales.duplicate_pair, sales.duplicate_cluster, sales.duplicate_scan, sales.match_statistics;
	INSERT INTO sales.account (id, name) SELECT i, md5(i::text) FROM generate_series(1, 500) AS i;
	INSERT INTO sales.duplicate_pair (kind, left_id, right_id, score, state) SELECT 'account', i, i + 1, 0, 'duplicate' FROM generate_series(1, 399) AS i;
	SELECT sales.scan_duplicates('account');
});
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT cluster_id) FROM sales.duplicate_cluster}), '400|1', 'a chain of 400 is one cluster');
is(difference(q{'account', NULL}, ''), '', 'and again');

# Of two of them somebody says that they are not the same, and others come in between.
$node->safe_psql('postgres', q{
	INSERT INTO sales.duplicate_pair (kind, left_id, right_id, score, state) VALUES ('account', 100, 350, 0, 'not_duplicate'), ('account', 450, 460, 0, 'duplicate');
	UPDATE sales.account SET name = 'Swida Pelikan Ltd', phone = '030 901820' WHERE id IN (450, 470, 480);
	INSERT INTO sales.duplicate_pair (kind, left_id, right_id, score, state) VALUES ('account', 460, 480, 0, 'not_duplicate');
	SELECT sales.scan_duplicates('account');
});
my $groups = q{SELECT string_agg(format('%s-%s: %s', first, last, n), ', ' ORDER BY first) FROM (SELECT min(record_id) AS first, max(record_id) AS last, count(*) AS n FROM sales.duplicate_cluster GROUP BY cluster_id) AS c};
is($node->safe_psql('postgres', 'SELECT whole FROM sales.duplicate_scan ORDER BY id DESC LIMIT 1'), 'f', 'a scan of what changed');
is($node->safe_psql('postgres', $groups), '1-349: 349, 350-400: 51, 450-460: 2, 470-480: 2', 'whoever says that two are not the same is believed');
is(difference(q{'account', NULL}, ''), '', 'the same as a whole scan');

# Two that were told apart are changed, then said to be the same: the score is not that of before.
$node->safe_psql('postgres', q{
	UPDATE sales.duplicate_pair SET state = 'not_duplicate' WHERE (left_id, right_id) = (470, 480);
	UPDATE sales.account SET name = md5('480'), phone = NULL WHERE id = 480;
	SELECT sales.scan_duplicates('account');
	UPDATE sales.duplicate_pair SET state = 'duplicate' WHERE (left_id, right_id) = (470, 480);
	SELECT sales.scan_duplicates('account');
});
is($node->safe_psql('postgres', 'SELECT whole, (SELECT score FROM sales.duplicate_pair WHERE (left_id, right_id) = (470, 480)) FROM sales.duplicate_scan ORDER BY id DESC LIMIT 1'), 'f|0', 'a decision that was turned round: the score of now');
is(difference(q{'account', NULL}, ''), '', 'the same as a whole scan');

# What a transaction did that was open while a scan ran, the next one finds.
my $open = $node->background_psql('postgres');
$open->query_safe(q{
	BEGIN;
	UPDATE sales.account SET name = 'Zenith Orion Ltd', phone = '030 901821' WHERE id IN (481, 482);
	DELETE FROM sales.account WHERE id = 200;
	UPDATE sales.duplicate_pair SET state = 'not_duplicate' WHERE (left_id, right_id) = (20, 21);
});
$node->safe_psql('postgres', q{UPDATE sales.account SET name = 'Zenith Orion' WHERE id = 483; SELECT sales.scan_duplicates('account')});
$groups = q{SELECT string_agg(format('%s-%s: %s', first, last, n), ', ' ORDER BY first) FROM (SELECT min(record_id) AS first, max(record_id) AS last, count(*) AS n FROM sales.duplicate_cluster WHERE record_id < 400 OR record_id > 480 GROUP BY cluster_id) AS c};
is($node->safe_psql('postgres', $groups), '1-349: 349, 350-399: 50', 'a transaction is open: what it did is not seen');
$open->query_safe('COMMIT');
$open->quit;
$node->safe_psql('postgres', q{SELECT sales.scan_duplicates('account')});
is($node->safe_psql('postgres', 'SELECT whole FROM sales.duplicate_scan ORDER BY id DESC LIMIT 1'), 'f', 'it has ended: a scan of what changed');
is($node->safe_psql('postgres', $groups), '1-20: 20, 21-199: 179, 201-399: 199, 481-483: 3', '... finds what it did');
is(difference(q{'account', NULL}, ''), '', '... the same as a whole scan');

# What does not fit into memory is scanned in passes over parts of it, with the same result.
$node->safe_psql('postgres', q{
	TRUNCATE sales.account CASCADE; TRUNCATE sales.duplicate_pair, sales.duplicate_cluster, sales.duplicate_scan, sales.match_statistics;
	CREATE FUNCTION word(i bigint) RETURNS text LANGUAGE sql AS $$ SELECT translate(substr(md5(i::text), 1, 7), '0123456789', 'ghijklmnop') $$;
	INSERT INTO sales.account (id, name, phone, city)
	SELECT i, word(CASE WHEN i <= 6000 THEN i / 3 ELSE i END) || ' ' || word(1000000 + CASE WHEN i <= 6000 THEN i / 3 ELSE i END) || CASE i % 3 WHEN 1 THEN ' Ltd' WHEN 2 THEN 'x' ELSE '' END,
		CASE WHEN i % 5 < 3 THEN '030 9' || 100000 + CASE WHEN i <= 6000 THEN i / 4 ELSE i END END, 'Town ' || i % 11
	FROM generate_series(1, 40000) AS i;
	INSERT INTO sales.duplicate_pair (kind, left_id, right_id, score, state) SELECT 'account', i, i + 1, 0, CASE WHEN i % 200 = 0 THEN 'not_duplicate' ELSE 'duplicate' END FROM generate_series(100, 39000, 100) AS i;
});
my $facts = q{SELECT format('%s rows, %s pairs, %s in clusters, %s and %s crowded', rows, pairs, clustered, crowded_keys, crowded_pieces) FROM sales.duplicate_scan ORDER BY id DESC LIMIT 1};
for my $workers (0, 2)
{
	my ($all, $parts) = map { "SET max_parallel_maintenance_workers = $workers; SET client_min_messages = debug1; SET crm.scan_memory = '$_';" } '1GB', $workers ? '24MB' : '16MB';
	my ($ret, $out, $err) = $node->psql('postgres', "$all SELECT sales.scan_duplicates('account', whole => true)");
	is($ret, 0, "$workers workers: a scan of 40,000 rows");
	unlike($err, qr/duplicates: counting,/, '... at once');
	my $at_once = $node->safe_psql('postgres', $facts);
	my $statistics = $node->safe_psql('postgres', 'SELECT rows, md5(keys) FROM sales.match_statistics ORDER BY version DESC LIMIT 1');
	for my $learns (1, 0)
	{
		$node->safe_psql('postgres', 'TRUNCATE before, sales.match_statistics') if $learns;
		$node->safe_psql('postgres', 'TRUNCATE before; INSERT INTO before SELECT result()');
		($ret, $out, $err) = $node->psql('postgres', "$parts SELECT sales.scan_duplicates('account', whole => true)");
		is($ret, 0, '... in little memory') or diag($err);
		($learns ? \&like : \&unlike)->($err, qr/duplicates: counting,/, '... which counts in passes, if anything is to be counted');
		cmp_ok(scalar(() = $err =~ /duplicates: looking up changes/g), '>', 3, '... and compares in passes');
		is($node->safe_psql('postgres', q{(SELECT '- ' || line FROM before EXCEPT SELECT '- ' || result()) UNION ALL (SELECT '+ ' || result() EXCEPT SELECT '+ ' || line FROM before) LIMIT 5}), '', '... finds the same');
		is($node->safe_psql('postgres', $facts), $at_once, '... and tells the same');
		is($node->safe_psql('postgres', 'SELECT rows, md5(keys) FROM sales.match_statistics ORDER BY version DESC LIMIT 1'), $statistics, '... with the same statistics');
	}
}

done_testing();
