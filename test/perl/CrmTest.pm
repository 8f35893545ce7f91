# What several TAP tests need.
package CrmTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Time::HiRes 'usleep';

our @EXPORT = ('wait_until_gone', 'wait_until_up');

# Waits for a server that restarts by itself because the process that is given was killed: as
# long as that is there, the server may not know.  While it refuses connections psql may leave
# before it is told what to ask, on which the poll dies.
sub wait_until_up
{
	my ($node, $killed) = @_;
	my $until = time + 180;

	wait_until_gone($killed) if $killed;
	until (eval { $node->poll_query_until('postgres', 'SELECT true') })
	{
		die 'the server did not come back' if time > $until;
	}
	return;
}

# Waits for a process, which need not be a child of ours, to end.
sub wait_until_gone
{
	my ($pid) = @_;
	my $until = time + 180;

	while (kill 0, $pid)
	{
		die "process $pid does not end" if time > $until;
		usleep(50_000);
	}
	return;
}

1;
