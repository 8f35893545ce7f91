# What several TAP tests need.
package CrmTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Time::HiRes 'usleep';

our @EXPORT = ('restart_killed', 'wait_until_gone', 'wait_until_up');

# Seconds after which a server is taken to be lost, also on a busy machine.
use constant PATIENCE => 180;

# Waits for a server that restarts by itself because the process that is given was killed: as
# long as that is there, the server may not know.  While it refuses connections psql may leave
# before it is told what to ask, on which the poll dies.
sub wait_until_up
{
	my ($node, $killed) = @_;
	my $until = time + PATIENCE;

	wait_until_gone($killed) if $killed;
	until (eval { $node->poll_query_until('postgres', 'SELECT true') })
	{
		die 'the server did not come back' if time > $until;
	}
	return;
}

# Kills the postmaster and starts another once its processes are gone: as long as one of
# them lives, starting fails, and each failure is logged at length.  One that is not listed,
# such as an autovacuum worker just started, makes it try again; a start that fails may also
# take the old pid file for the new one's.
sub restart_killed
{
	my ($node) = @_;
	my @children = split /\n/, $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');

	$node->kill9;
	wait_until_gone($_) for @children;
	$node->{_pid} = undef until $node->start(fail_ok => 1);
	return;
}

# Waits for a process, which need not be a child of ours, to end.
sub wait_until_gone
{
	my ($pid) = @_;
	my $until = time + PATIENCE;

	while (kill 0, $pid)
	{
		die "process $pid does not end" if time > $until;
		usleep(50_000);
	}
	return;
}

1;
