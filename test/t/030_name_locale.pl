# A name has the same key in every database: C, C.UTF-8, en_US, zh_CN, and with
# an ICU collation as default.  The keys of test/data/names.txt are committed in
# test/data/names.keys, so that another machine or ICU that gives others fails.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = $ENV{CRM_ROOT};
my $names = "$root/test/data/names.txt";
my $expected = slurp_file("$root/test/data/names.keys");

# Other locales than C are made here, in a directory of the test, where LOCPATH finds them.
my $locales = PostgreSQL::Test::Utils::tempdir();
for my $locale ('en_US', 'zh_CN', 'tr_TR')
{
	my ($out, $err);
	IPC::Run::run([ 'localedef', '--no-archive', '-i', $locale, '-f', 'UTF-8', "$locales/$locale.UTF-8" ],
		'>', \$out, '2>', \$err);
	# localedef warns with exit code 1 and still writes a usable locale.
	die "could not make locale $locale.UTF-8: $err" unless -f "$locales/$locale.UTF-8/LC_CTYPE";
}
# LOCPATH hides the system's locales, so C.UTF-8 is made here too.
{
	my ($out, $err);
	IPC::Run::run([ 'localedef', '--no-archive', '-i', 'C', '-f', 'UTF-8', "$locales/C.UTF-8" ],
		'>', \$out, '2>', \$err);
	die "could not make locale C.UTF-8: $err" unless -f "$locales/C.UTF-8/LC_CTYPE";
}
$ENV{LOCPATH} = $locales;

my $node = PostgreSQL::Test::Cluster->new('locale');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->start;

my %databases = (
	in_c => q{LOCALE 'C'},
	in_c_utf8 => q{LOCALE 'C.UTF-8'},
	in_en_us => q{LOCALE 'en_US.UTF-8'},
	in_zh_cn => q{LOCALE 'zh_CN.UTF-8'},
	in_tr_tr => q{LOCALE 'tr_TR.UTF-8'},
	in_icu_tr => q{LOCALE_PROVIDER icu ICU_LOCALE 'tr' LOCALE 'C'},);

for my $database (sort keys %databases)
{
	$node->safe_psql('postgres',
		"CREATE DATABASE $database ENCODING 'UTF8' TEMPLATE template0 $databases{$database}");
	$node->safe_psql($database, qq{
		CREATE EXTENSION crm CASCADE;
		CREATE TABLE line (id bigint GENERATED ALWAYS AS IDENTITY, name text);
		COPY line (name) FROM '$names' (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02');});
	my $keys = $node->safe_psql($database,
		q{SELECT name || ' = ' || crm.name_key(name) FROM line ORDER BY id});
	if ($keys . "\n" ne $expected && $database eq 'in_c')
	{
		my @got = split /\n/, $keys;
		my @want = split /\n/, $expected;
		for my $i (0 .. $#got)
		{
			diag("expected $want[$i], got $got[$i]") if ($want[$i] // '') ne $got[$i];
		}
	}
	ok($keys . "\n" eq $expected, "keys $databases{$database}");
	is( $node->safe_psql($database,
			q{SELECT count(*) FROM line WHERE crm.name_key(crm.name_key(name)) <> crm.name_key(name)}),
		'0',
		"keys of keys $databases{$database}");
	is( $node->safe_psql($database,
			q{SELECT sum(crm.name_similarity(a.name, b.name))::numeric(12,1) FROM line AS a, line AS b WHERE a.id % 16 = 0}),
		$node->safe_psql('in_c',
			q{SELECT sum(crm.name_similarity(a.name, b.name))::numeric(12,1) FROM line AS a, line AS b WHERE a.id % 16 = 0}),
		"similarities $databases{$database}");
}
isnt(
	$node->safe_psql('in_zh_cn', q{SELECT lower('É')}),
	$node->safe_psql('in_c', q{SELECT lower('É')}),
	'the databases do differ in locale');

$node->stop;
done_testing();
