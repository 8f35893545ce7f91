# Recurrence rules against python3-dateutil: SEED chooses them, RULES how many.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = defined $ENV{SEED} ? $ENV{SEED} : int(rand(1_000_000_000));
my $rules = $ENV{RULES} || 10000;
note "SEED=$seed RULES=$rules";

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
my $file = $node->basedir . '/oracle.tsv';
system("/usr/bin/python3 $ENV{CRM_ROOT}/test/recurrence_oracle.py $seed $rules > $file") == 0 or die 'the oracle failed';

$node->safe_psql('postgres', q{
	CREATE EXTENSION crm CASCADE;
	CREATE TABLE oracle (rule text, start timestamp, after timestamp, expected text)});
$node->safe_psql('postgres', "COPY oracle FROM '$file'");
is($node->safe_psql('postgres', 'SELECT count(*) FROM oracle'), $rules, "seed $seed: the oracle has spoken");
$node->safe_psql('postgres', q{
	SET timezone = 'UTC';
	CREATE TABLE result AS SELECT o.*, coalesce((SELECT string_agg(to_char(t, 'YYYY-MM-DD"T"HH24:MI:SS'), ',')
		FROM crm.occurrences(o.rule, o.start, 'UTC', o.after::timestamptz, 12) AS t), '') AS got FROM oracle AS o});
is($node->safe_psql('postgres', q{SELECT rule, start, after, expected, got FROM result WHERE coalesce(expected, '') <> got LIMIT 3}),
	'', "seed $seed: $rules random rules yield what dateutil says");
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM result WHERE got <> ''}), '>', $rules / 2, 'most of them yield something');

# One by one is the same as all at once.
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM (SELECT rule, start, t, lag(t) OVER (PARTITION BY rule, start ORDER BY t) AS before
		FROM (SELECT * FROM result WHERE got <> '' AND after IS NOT NULL LIMIT 300) AS r, crm.occurrences(r.rule, r.start, 'Europe/Berlin', '-infinity', 5) AS t) AS o
	WHERE before IS NOT NULL AND crm.next_occurrence(rule, start, 'Europe/Berlin', before) IS DISTINCT FROM t}), '0', 'next_occurrence agrees with occurrences');
$node->stop;
done_testing();
