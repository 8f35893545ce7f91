# Every SQL example in README.md and docs/ runs as printed, page by page, in a
# fresh database with a workspace "sales".  A block that starts with "-- fails"
# must raise an error; blocks in another language than "sql" are not run.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = $ENV{CRM_ROOT};
my $node = PostgreSQL::Test::Cluster->new('docs');
$node->init(extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
$node->append_conf('postgresql.conf',
	"shared_preload_libraries = 'crm'\ncrm.scheduler = off\nwal_level = logical\n");
$node->start;

my @pages = grep { -f } sort ("$root/README.md", glob("$root/docs/*.md $root/docs/recipes/*/*.md"));
for my $page (@pages)
{
	my $name = $page;
	$name =~ s/^\Q$root\E\///;
	my $text = slurp_file($page);
	my $database = 'docs_' . (lc($name) =~ s/\W+/_/gr);
	my @blocks;
	while ($text =~ /^```sql[ ]*\n(.*?)^```/msg)
	{
		my $line = 1 + (substr($text, 0, $-[1]) =~ tr/\n//);
		push @blocks, [ $line, $1 ];
	}

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	# The README starts from nothing, as its reader does.
	$node->safe_psql($database,
		"CREATE EXTENSION crm CASCADE; SELECT crm.create_workspace('sales');")
	  if $name ne 'README.md';

	# One session a page, so that settings and prepared statements carry on.
	my $script = '';
	for my $block (@blocks)
	{
		my ($line, $sql) = @$block;
		my $stop = $sql =~ /\A-- fails/ ? 'off' : 'on';
		$script .= "\\set ON_ERROR_STOP $stop\n\\warn crm-docs-block $line\n$sql\n;\n";
	}
	my ($out, $err) = ('', '');
	$node->psql($database, $script, stdout => \$out, stderr => \$err, on_error_stop => 0);

	my @faults;
	my %seen;
	my @parts = split /^crm-docs-block (\d+)(?:\n|\z)/m, $err, -1;
	shift @parts;
	while (my ($line, $messages) = splice @parts, 0, 2)
	{
		my ($block) = grep { $_->[0] == $line } @blocks;
		my $errors = () = $messages =~ /^(?:psql:[^\n]*: )?ERROR:/mg;
		$seen{$line} = 1;
		push @faults, "line $line: " . ($messages || 'no error')
		  if ($block->[1] =~ /\A-- fails/) xor ($errors > 0);
	}
	push @faults, "line $_->[0]: not reached" for grep { !$seen{ $_->[0] } } @blocks;
	is(join("\n", @faults), '', "$name: " . scalar(@blocks) . ' examples');
	$node->safe_psql('postgres', "DROP DATABASE $database WITH (FORCE)");
}

$node->stop;
done_testing();
