# Merging and unmerging are exact inverses, on schemas and data nobody thought of:
# generated tables with every kind of column, key, constraint and trigger, merges
# chained at random and undone in reverse.  Every state on the way back must equal,
# by hash of all tables, the state on the way out.
#
# The same on the standard tables, whose rows hang together in every way a workspace
# has: trees, stages, shares, reminders, external ids, escalations, decided pairs.
#
# And deleted records are brought back from the audit log, with what went with them.
#
# CRM_SEED repeats a run; CRM_ROUNDS (default 20) says how many schemas.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{CRM_SEED} // (time() ^ $$) & 0x7fffffff;
my $rounds = $ENV{CRM_ROUNDS} // 20;
diag("CRM_SEED=$seed CRM_ROUNDS=$rounds");
srand($seed);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "timezone = 'Asia/Shanghai'\nfsync = off\nautovacuum = off");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION crm CASCADE;
	CREATE EXTENSION IF NOT EXISTS btree_gist;
	SELECT crm.create_workspace('sales');
	CREATE ROLE other;
	GRANT USAGE ON SCHEMA sales TO other;
	GRANT INSERT ON sales.audit_log TO other;
	CREATE DOMAIN public.code AS text CHECK (VALUE ~ '^C[0-9]+$');
	CREATE FUNCTION public.stamp() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		NEW.updated_at := clock_timestamp();
		NEW.row_version := OLD.row_version + 1;
		RETURN NEW;
	END $$;
	-- counts the rows of a table in its parent, as many applications do
	CREATE FUNCTION public.count_children() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF TG_OP = 'UPDATE' AND to_jsonb(OLD) -> TG_ARGV[0] = to_jsonb(NEW) -> TG_ARGV[0] THEN
			RETURN NULL;
		END IF;
		IF TG_OP <> 'INSERT' THEN
			EXECUTE format('UPDATE gen.target SET children = children - 1 WHERE id = ($1).%I', TG_ARGV[0]) USING OLD;
		END IF;
		IF TG_OP <> 'DELETE' THEN
			EXECUTE format('UPDATE gen.target SET children = children + 1 WHERE id = ($1).%I', TG_ARGV[0]) USING NEW;
		END IF;
		RETURN NULL;
	END $$;
	CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF TG_ARGV[0] = 'quietly' THEN RETURN NULL; END IF;
		RAISE 'refused';
	END $$;
	-- a hash a table
	CREATE FUNCTION public.state() RETURNS text LANGUAGE plpgsql SET timezone = 'UTC' AS $$
	DECLARE
		rel regclass;
		h text;
		result text := '';
	BEGIN
		FOR rel IN
			SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
			WHERE n.nspname IN ('gen', 'sales') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
			  AND c.relname NOT LIKE 'audit%' AND c.relname NOT IN ('merge_log', 'merge_change', 'duplicate_pair')
			ORDER BY c.oid::regclass::text
		LOOP
			EXECUTE format('SELECT count(*) || '' '' || md5(coalesce(string_agg(x::text, E''\n'' ORDER BY x::text), '''')) FROM %s AS x', rel) INTO h;
			result := result || rel || ' ' || h || E'\n';
		END LOOP;
		RETURN result;
	END $$;
});

my ($undeleted, $exact) = (0, 0);

sub pick { return $_[ int(rand(@_)) ]; }
sub chance { return rand() < $_[0]; }
sub sql_text { my $v = shift; return 'NULL' unless defined $v; $v =~ s/'/''/g; return "'$v'"; }

my @words = ('Ann', 'ann', 'Ünï', '张伟', 'a b', "it's", '', ' x ', '\\', '"q"', '{}', 'NULL');

# type => a generator of text values
my %types = (
	'text' => sub { pick(@words) },
	'varchar(20)' => sub { pick(@words) },
	'char(5)' => sub { pick('a', 'bc', 'Ü') },
	'bigint' => sub { pick(-9223372036854775808, 0, 7, 9223372036854775807) },
	'numeric' => sub { pick('1.50', '0', '-0.000001', 'NaN', '12345678901234567890.123') },
	'numeric(12,2)' => sub { pick('1.5', '-3', '1000000.01') },
	'double precision' => sub { pick('0.1', '1e300', '-Infinity', 'NaN', '3.141592653589793') },
	'real' => sub { pick('0.1', '16777217', 'Infinity') },
	'boolean' => sub { pick('t', 'f') },
	'date' => sub { pick('2024-02-29', '0044-03-15 BC', 'infinity', '9999-12-31') },
	'timestamptz' => sub { pick('2024-02-29 23:59:59.999999+08', '1900-01-01 00:00:00+00', '-infinity', '4713-01-01 00:00:00+00 BC') },
	'timestamp' => sub { pick('2024-03-31 02:30:00', '1999-12-31 23:59:59.5') },
	'time' => sub { pick('24:00:00', '01:02:03.000004') },
	'interval' => sub { pick('-1 year +2 days -03:04:05.6', '1 mon', '-00:00:00.000001') },
	'uuid' => sub { pick('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '00000000-0000-0000-0000-000000000000') },
	'json' => sub { pick('{"a" : 1,  "a": 2}', '[1.50, null]', '"x"', 'null') },
	'jsonb' => sub { pick('{"a": 1}', '[]', '"x"', '1.50') },
	'text[]' => sub { pick('{a,b}', '{}', '[2:3]={x,NULL}', '{{a},{b}}') },
	'int4range' => sub { pick('[1,5)', 'empty', '(,3)') },
	'bytea' => sub { pick('\x', '\x00ff') },
	'inet' => sub { pick('10.0.0.1/8', '::1') },
	'point' => sub { pick('(0.1,2)', '(-1e10,3)') },
	'tsvector' => sub { pick("'a':1 'b':2", '') },
	'bit(3)' => sub { pick('101', '000') },
	'regclass' => sub { pick('pg_class', 'sales.account') },
	'pg_lsn' => sub { pick('0/0', '16/B374D848') });

sub random_columns
{
	my ($n, $prefix) = @_;
	my @names = sort keys %types;
	return map { { name => "$prefix$_", type => pick(@names) } } 1 .. $n;
}

sub random_values
{
	my (@columns) = @_;
	return map { chance(0.3) ? 'NULL' : sql_text($types{ $_->{type} }->()) } @columns;
}

# ids by type of the primary key
my %ids = (
	'bigint' => sub { $_[0] },
	'integer' => sub { $_[0] - 5 },
	'text' => sub { pick('K ', 'k', 'É', '张') . $_[0] },
	'public.code' => sub { 'C' . $_[0] },
	'uuid' => sub { sprintf('%08x-0000-4000-8000-000000000000', $_[0] * 7) });

sub generate
{
	my ($sql, @children) = ('');
	my $pk = pick('bigint', 'bigint', 'integer', 'text', 'uuid', 'public.code');
	my $stamped = chance(0.6);
	my $counted = chance(0.4);
	my $tree = chance(0.5);
	my $region = chance(0.4);
	my $tree2 = $region && chance(0.5);
	my $parted = !$region && chance(0.15);
	my $coded = !$parted && chance(0.5);
	my @columns = random_columns(1 + int(rand(6)), 'c');
	my @ids = map { $ids{$pk}->($_) } 1 .. 3 + int(rand(5));

	$sql .= "DROP SCHEMA IF EXISTS gen CASCADE; CREATE SCHEMA gen; GRANT USAGE ON SCHEMA gen TO other;\n";
	$sql .= "DELETE FROM sales.merge_link WHERE table_name LIKE 'gen.%';\n";
	$sql .= "DELETE FROM sales.merged_record WHERE kind LIKE 'gen.%';\n";
	$sql .= "DELETE FROM sales.merge_rule WHERE kind LIKE 'gen.%';\n";
	$sql .= "CREATE TABLE gen.target (id $pk PRIMARY KEY";
	$sql .= join('', map { ", \"$_->{name}\" $_->{type}" } @columns);
	$sql .= ', code text' . ($coded ? ' UNIQUE' : '');
	$sql .= ', parent ' . $pk . ' REFERENCES gen.target' . pick('', ' ON DELETE SET NULL', ' ON DELETE CASCADE', ' DEFERRABLE INITIALLY DEFERRED') if $tree;
	$sql .= ', region text NOT NULL, UNIQUE (id, region)' if $region;
	$sql .= ", above $pk, FOREIGN KEY (above, region) REFERENCES gen.target (id, region)" . pick('', ' ON DELETE CASCADE', ' ON DELETE SET NULL (above)') if $tree2;
	$sql .= ', updated_at timestamptz, row_version integer NOT NULL DEFAULT 1' if $stamped;
	$sql .= ', children integer NOT NULL DEFAULT 0' if $counted;
	$sql .= ', made text GENERATED ALWAYS AS (coalesce(code, \'?\') || \'!\') STORED' if chance(0.3);
	$sql .= ')' . ($parted ? ' PARTITION BY HASH (id)' : '') . ";\n";
	if ($parted)
	{
		$sql .= "CREATE TABLE gen.target_p$_ PARTITION OF gen.target FOR VALUES WITH (MODULUS 2, REMAINDER $_);\n" for 0 .. 1;
	}
	if (chance(0.3))
	{
		$sql .= "INSERT INTO sales.merge_rule (kind, field, strategy) VALUES ('gen.target', '*', "
		  . sql_text(pick('survivor', 'most_recent', 'most_complete', 'first_non_null')) . ");\n";
	}
	my @regions;
	for my $i (0 .. $#ids)
	{
		my @names = ('id', map { "\"$_->{name}\"" } @columns);
		my @values = (sql_text($ids[$i]), random_values(@columns));
		push @names, 'code';
		push @values, chance(0.4) ? 'NULL' : sql_text("code$i");
		if ($tree) { push @names, 'parent'; push @values, $i > 0 && chance(0.6) ? sql_text($ids[ int(rand($i)) ]) : 'NULL'; }
		if ($region) { push @regions, pick('eu', 'us'); push @names, 'region'; push @values, sql_text($regions[$i]); }
		if ($tree2)
		{
			my @same = grep { $regions[$_] eq $regions[$i] } 0 .. $i - 1;
			push @names, 'above'; push @values, @same && chance(0.6) ? sql_text($ids[ pick(@same) ]) : 'NULL';
		}
		if ($stamped) { push @names, 'updated_at'; push @values, sql_text('2024-01-0' . (1 + int(rand(9)))); }
		$sql .= 'INSERT INTO gen.target (' . join(', ', @names) . ') VALUES (' . join(', ', @values) . ");\n";
	}

	my $n = 1 + int(rand(4));
	for my $k (1 .. $n)
	{
		my $table = pick('a', 'm', 'z') . "_child$k";
		my @extra = random_columns(1 + int(rand(3)), 'd');
		my $shape = pick('plain', 'plain', 'keyless', 'fk_in_key', 'unique', 'partial', 'exclude', 'two', 'composite',
			'partitioned', 'one_to_one', 'made', 'local', 'inherited', 'first', 'coded');
		$shape = 'plain' if $shape eq 'composite' && !$region || $shape eq 'coded' && !$coded;
		my $action = pick('', ' ON DELETE CASCADE', ' ON DELETE SET NULL', ' ON DELETE SET DEFAULT', ' ON DELETE RESTRICT', ' ON DELETE NO ACTION DEFERRABLE INITIALLY DEFERRED', ' ON UPDATE CASCADE');
		my $not_null = chance(0.5) || $shape eq 'fk_in_key' ? ' NOT NULL' : '';
		my $ref = "t_id $pk$not_null";
		my @rows;
		my $ddl = "CREATE TABLE gen.$table (";
		$ddl .= $shape eq 'keyless' || $shape eq 'fk_in_key' ? '' : 'id integer' . ($shape eq 'partitioned' || $shape eq 'local' ? '' : ' PRIMARY KEY') . ', ';
		$ddl .= $ref . ($shape eq 'one_to_one' ? ' UNIQUE' : '');
		$ddl .= ', word text' . ($shape eq 'fk_in_key' ? ' NOT NULL' : '');
		$ddl .= ', region text' if $shape eq 'composite';
		$ddl .= ', code text REFERENCES gen.target (code)' . pick('', ' ON DELETE SET NULL', ' ON UPDATE CASCADE ON DELETE CASCADE') if $shape eq 'coded';
		my $listed = chance(0.3);
		$ddl .= ", ids $pk\[]" if $listed;
		$ddl .= ", o_id $pk REFERENCES gen.target" if $shape eq 'two';
		$ddl .= ', span int4range' if $shape eq 'exclude';
		$ddl .= ", made text GENERATED ALWAYS AS (t_id::text || '/' || lower(word)) STORED UNIQUE" if $shape eq 'made';
		$ddl .= join('', map { ", \"$_->{name}\" $_->{type}" } @extra);
		$ddl .= ', updated_at timestamptz, row_version integer NOT NULL DEFAULT 1' if $stamped;
		$ddl .= $shape eq 'composite'
		  ? ", FOREIGN KEY (t_id, region) REFERENCES gen.target (id, region)" . pick('', ' MATCH FULL') . $action
		  : ", FOREIGN KEY (t_id) REFERENCES gen.target$action";
		$ddl .= ', PRIMARY KEY (t_id, word)' if $shape eq 'fk_in_key';
		$ddl .= ', UNIQUE' . pick('', ' NULLS NOT DISTINCT') . ' (t_id, word)' . pick('', ' DEFERRABLE INITIALLY DEFERRED') if $shape eq 'unique';
		$ddl .= ', EXCLUDE USING gist (t_id WITH =, span WITH &&)' . pick('', ' WHERE (word IS NOT NULL)', ' DEFERRABLE INITIALLY DEFERRED') if $shape eq 'exclude';
		$ddl .= ', PRIMARY KEY (id, t_id)' if $shape eq 'partitioned' && $not_null;
		$ddl .= ')' . ($shape eq 'partitioned' ? ' PARTITION BY HASH (t_id)' : $shape eq 'local' ? ' PARTITION BY LIST (word)' : '') . ";\n";
		$sql .= $ddl;
		if ($shape eq 'local')
		{
			# unique within one partition only
			$sql .= "CREATE TABLE gen.${table}_x PARTITION OF gen.$table FOR VALUES IN ('x', 'X');\n"
			  . "CREATE TABLE gen.${table}_y PARTITION OF gen.$table DEFAULT;\nCREATE UNIQUE INDEX ON gen.${table}_x (t_id, word);\n";
		}
		if ($shape eq 'partitioned')
		{
			$sql .= "CREATE TABLE gen.${table}_p$_ PARTITION OF gen.$table FOR VALUES WITH (MODULUS 3, REMAINDER $_);\n" for 0 .. 2;
		}
		$sql .= "CREATE UNIQUE INDEX ON gen.$table (t_id, lower(word)) WHERE word <> '';\n" if $shape eq 'partial';
		$sql .= "CREATE UNIQUE INDEX ON gen.$table (t_id) WHERE word = 'x';\n" if $shape eq 'first';
		$sql .= "CREATE TABLE gen.${table}_kid (UNIQUE (t_id, word), FOREIGN KEY (t_id) REFERENCES gen.target) INHERITS (gen.$table);\n" if $shape eq 'inherited';
		if ($stamped)
		{
			$sql .= "CREATE TRIGGER stamp BEFORE UPDATE ON gen.$table FOR EACH ROW EXECUTE FUNCTION public.stamp();\n";
		}

		my $below = ($shape eq 'fk_in_key' || $shape eq 'unique' || $shape eq 'partial') && chance(0.7);
		if ($below)
		{
			my $to = $shape eq 'fk_in_key' ? '(t_id, word)' : '(id)';
			my $cols = $shape eq 'fk_in_key' ? "t_id $pk, word text" : 'c_id integer';
			my $from = $shape eq 'fk_in_key' ? '(t_id, word)' : '(c_id)';
			$sql .= "CREATE TABLE gen.${table}_below (n integer" . (chance(0.7) ? ' PRIMARY KEY' : '') . ", $cols"
			  . (chance(0.4) && $shape eq 'fk_in_key' ? ', FOREIGN KEY (t_id) REFERENCES gen.target' : '')
			  . ", FOREIGN KEY $from REFERENCES gen.$table $to" . pick('', ' ON DELETE CASCADE', ' ON UPDATE CASCADE') . ");\n";
		}

		my %seen;
		for my $r (1 .. int(rand(25)))
		{
			my $t = !$not_null && chance(0.1) ? undef : pick(@ids);
			my $word = $shape eq 'fk_in_key' ? pick('x', 'y', 'z') : pick('x', 'X', 'y', undef, '');
			my $key = join('|', $t // '?', $shape =~ /^(partial|made)$/ ? lc($word // '?') : $word // '?');
			next if $shape eq 'one_to_one' && defined $t && $seen{$t}++;
			next if $shape =~ /^(unique|fk_in_key|partial|made|local|inherited)$/ && $seen{$key}++;
			next if $shape eq 'first' && ($word // '') eq 'x' && $seen{ $t // '?' }++;
			my (@names, @values) = ();
			if ($shape ne 'keyless' && $shape ne 'fk_in_key') { push @names, 'id'; push @values, $r; }
			push @names, 't_id', 'word';
			push @values, sql_text($t), sql_text($word);
			if ($shape eq 'two') { push @names, 'o_id'; push @values, chance(0.3) ? 'NULL' : sql_text(pick(@ids)); }
			if ($shape eq 'composite')
			{
				push @names, 'region';
				push @values, defined $t ? "(SELECT region FROM gen.target WHERE id = " . sql_text($t) . ")" : 'NULL';
			}
			if ($shape eq 'exclude')
			{
				my $from = int(rand(20));
				next if defined $t && grep { abs($_ - $from) < 4 } @{ $seen{$t} //= [] };
				push @{ $seen{$t} }, $from if defined $t;
				push @names, 'span'; push @values, sql_text("[$from," . ($from + 3) . ')');
			}
			if ($shape eq 'coded') { push @names, 'code'; push @values, "(SELECT code FROM gen.target WHERE id = " . sql_text(pick(@ids)) . ")"; }
			if ($listed) { push @names, 'ids'; push @values, 'ARRAY[' . join(',', map { sql_text($_) } pick(@ids), pick(@ids)) . "]::$pk\[]"; }
			push @names, map { "\"$_->{name}\"" } @extra;
			push @values, random_values(@extra);
			my $into = $shape eq 'inherited' ? pick($table, "${table}_kid") : $table;
			$sql .= "INSERT INTO gen.$into (" . join(', ', @names) . ') VALUES (' . join(', ', @values) . ");\n";
			if ($below)
			{
				for my $b (0 .. int(rand(3)))
				{
					my $v = $shape eq 'fk_in_key' ? sql_text($t) . ', ' . sql_text($word) : $r;
					$sql .= "INSERT INTO gen.${table}_below VALUES (" . ($r * 10 + $b) . ", $v);\n";
				}
			}
		}
		if (!$counted && !$below && $shape !~ /^(inherited|coded)$/ && chance(0.3))
		{
			# it belongs to somebody else and hides its rows from everybody
			$sql .= "ALTER TABLE gen.$table OWNER TO other;\nALTER TABLE gen.$table ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;\n";
		}
		if ($counted && $shape !~ /^(composite|inherited)$/)
		{
			$sql .= "CREATE TRIGGER count AFTER INSERT OR UPDATE OR DELETE ON gen.$table FOR EACH ROW EXECUTE FUNCTION public.count_children('t_id');\n";
			$sql .= "UPDATE gen.target AS t SET children = children + (SELECT count(*) FROM gen.$table AS c WHERE c.t_id = t.id);\n";
		}
	}
	if ($stamped)
	{
		$sql .= "CREATE TRIGGER stamp BEFORE UPDATE ON gen.target FOR EACH ROW EXECUTE FUNCTION public.stamp();\n";
	}
	if (chance(0.5))
	{
		$sql .= "CREATE TABLE gen.note (about text, which text, body text);\n";
		$sql .= "INSERT INTO sales.merge_link (table_name, kind_column, id_column) VALUES ('gen.note', 'about', 'which');\n";
		$sql .= "INSERT INTO gen.note VALUES (" . sql_text(pick('gen.target', 'other')) . ", " . sql_text(pick(@ids)) . ", 'n');\n" for 1 .. int(rand(6));
	}
	return ($sql, @ids);
}

# Deletes each record that can be deleted, and brings it back: the state is that before,
# but for what undelete() names, counters and stamps that triggers keep, and what JSON cannot tell.
sub undelete_finds_again
{
	my ($round, @ids) = @_;
	my $inexact = $node->safe_psql('postgres', q{
		SELECT count(*) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
		WHERE c.relnamespace = 'gen'::regnamespace AND a.attnum > 0
		  AND (a.attname IN ('row_version', 'children') OR a.atttypid IN ('json'::regtype, 'text[]'::regtype))});
	my $ok = 1;

	$node->safe_psql('postgres', q{
		SELECT crm.enable_audit(c.oid, audit_log => 'sales.audit_log') FROM pg_class AS c
		WHERE c.relnamespace = 'gen'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition});
	for my $id (@ids)
	{
		my $before = $node->safe_psql('postgres', 'SELECT public.state()');
		my ($rc, $out, $err) = $node->psql('postgres', 'DELETE FROM gen.target WHERE id = ' . sql_text($id));
		next if $rc != 0;
		my $call = "FROM sales.undelete('gen.target', " . sql_text($id) . '::text';
		my $gone = $node->safe_psql('postgres', 'SELECT public.state()');
		($rc, $out, $err) = $node->psql('postgres', "SELECT * $call, dry_run => true)");
		$ok = 0, diag("round $round: dry run of undelete $id: $err") if $rc != 0;
		$ok = 0, diag("round $round: a dry run of undelete changed something") if $gone ne $node->safe_psql('postgres', 'SELECT public.state()');
		my $dry = $out;
		($rc, $out, $err) = $node->psql('postgres', "SELECT * $call)");
		$ok = 0, diag("round $round: undelete $id: $err") if $rc != 0;
		$ok = 0, diag("round $round: undelete $id was to be\n$dry\nand was\n$out") if $out ne $dry;
		my $after = $node->safe_psql('postgres', 'SELECT public.state()');
		$ok = 0, diag("round $round: undelete $id left nothing out, but before\n$before\nafter\n$after\n$out")
		  if !$inexact && $out !~ /\|f\|/ && $after ne $before;
		$undeleted++;
		$exact++ if $after eq $before;
	}
	return $ok;
}

for my $round (1 .. $rounds)
{
	my ($sql, @ids) = generate();
	my @all = @ids;
	my ($rc, $out, $err) = $node->psql('postgres', "SET client_min_messages = warning;\n$sql", on_error_stop => 1);
	if ($rc != 0)
	{
		# the generator's own fault
		fail("round $round: schema");
		diag("$err\n$sql");
		next;
	}
	my (@states, @merges);
	my $ok = 1;
	diag($sql) if ($ENV{CRM_SHOW} // 0) == $round;
	for my $step (1 .. 1 + int(rand(3)))
	{
		last if @ids < 2;
		my @shuffled = sort { $a->[0] <=> $b->[0] } map { [ rand(), $_ ] } @ids;
		my @involved = map { $_->[1] } @shuffled[ 0 .. 1 + int(rand($#shuffled)) ];
		my $survivor = shift @involved;
		my $losers = 'ARRAY[' . join(', ', map { sql_text($_) } @involved) . ']::text[]';
		push @states, $node->safe_psql('postgres', 'SELECT public.state()');
		my $call = "('gen.target', " . sql_text($survivor) . "::text, $losers";

		if (chance(0.3))
		{
			($rc, $out, $err) = $node->psql('postgres', "SET client_min_messages = warning; SELECT sales.merge_records$call, true)");
			$ok = 0, diag("round $round: dry run: $err") if $rc != 0;
			$ok = 0, diag("round $round: the dry run changed something")
			  if $node->safe_psql('postgres', 'SELECT public.state()') ne $states[-1];
		}
		# a table that refuses, loudly or quietly, stops the merge whole, or had nothing to refuse
		my $refusing = chance(0.2)
		  ? $node->safe_psql('postgres', q{SELECT relname FROM pg_class WHERE relnamespace = 'gen'::regnamespace AND relkind IN ('r', 'p')
				AND NOT relispartition AND relname LIKE '%child%' ORDER BY hashtext(relname) LIMIT 1})
		  : '';
		if ($refusing ne '')
		{
			my $how = pick('loudly', 'quietly');
			$node->safe_psql('postgres', "CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON gen.$refusing FOR EACH ROW EXECUTE FUNCTION public.refuse('$how')");
			($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT sales.merge_records$call)");
			$node->safe_psql('postgres', "DROP TRIGGER refuse ON gen.$refusing");
			$ok = 0, diag("round $round: merge$call refused $how by $refusing: $err") if $rc != 0 && $err !~ ($how eq 'loudly' ? qr/P0001: refused/ : qr/ 27000: /);
			$ok = 0, diag("round $round: what was refused changed something") if $rc != 0 && $node->safe_psql('postgres', 'SELECT public.state()') ne $states[-1];
		}
		($rc, $out, $err) = $node->psql('postgres', "SELECT sales.merge_records$call)") if $refusing eq '' || $rc != 0;
		if ($rc != 0)
		{
			$ok = 0;
			diag("round $round: merge$call: $err");
			last;
		}
		push @merges, $out;
		my %gone = map { $_ => 1 } @involved;
		@ids = grep { !$gone{$_} } @ids;
		for my $id (@involved)
		{
			my $now = $node->safe_psql('postgres', "SELECT sales.resolve('gen.target', " . sql_text($id) . '::text)');
			$ok = 0, diag("round $round: $id resolves to $now, not $survivor") if $now ne $survivor;
		}
	}
	while ($ok && @merges)
	{
		my $merge = pop @merges;
		my $before = pop @states;
		($rc, $out, $err) = $node->psql('postgres', "SELECT * FROM sales.unmerge($merge)");
		$ok = 0, diag("round $round: unmerge: $err") if $rc != 0;
		$ok = 0, diag("round $round: unmerge kept $out") if $out ne '';
		my $after = $node->safe_psql('postgres', 'SELECT public.state()');
		$ok = 0, diag("round $round: before\n$before\nafter\n$after") if $after ne $before;
	}
	$ok = 0 if $ok && !undelete_finds_again($round, @all);
	ok($ok, "round $round: every state is found again") or diag($sql);
}

diag("$undeleted records were brought back, $exact of them to the last byte");

# A workspace at random: which record refers to which, by key or by kind and id.
sub generate_workspace
{
	my $n = 4 + int(rand(5));
	my $sql = "SET client_min_messages = warning; DROP SCHEMA IF EXISTS sales CASCADE; SELECT crm.create_workspace('sales');\n";
	my $ref = sub { return chance(0.25) ? 'NULL' : 1 + int(rand($n)); };
	my $text = sub { return chance(0.4) ? 'NULL' : sql_text(pick(@words[ 0 .. 4 ]) . (chance(0.3) ? ' Ltd' : '')); };
	$sql .= "INSERT INTO sales.member (id, name, manager_id) SELECT i, 'M' || i, nullif(i / 2, 0) FROM generate_series(1, $n) AS i;\n";
	$sql .= "INSERT INTO sales.escalation_rule (kind, name, starts_at) VALUES ('account', 'a', '-infinity'), ('opportunity', 'o', '-infinity');\n"
	  . "INSERT INTO sales.escalation_level (rule_id, level, after) SELECT r.id, l, l * interval '2 days' FROM sales.escalation_rule AS r, generate_series(1, 2) AS l;\n"
	  if chance(0.6);
	for my $i (1 .. $n)
	{
		my $above = $i > 1 && chance(0.6) ? 1 + int(rand($i - 1)) : 'NULL';
		my $at = "now() - interval '" . int(rand(10)) . " days'";
		$sql .= "INSERT INTO sales.account (id, name, parent_id, phone, street, city, owner_id, created_at) VALUES ($i, 'Firm $i', $above, "
		  . join(', ', $text->(), $text->(), $text->(), $ref->(), $at) . ");\n";
	}
	for my $i (1 .. $n)
	{
		$sql .= "INSERT INTO sales.contact (id, account_id, full_name, email, owner_id) VALUES ($i, " . join(', ', $ref->(), "'Person $i'", $text->(), $ref->()) . ");\n";
		$sql .= "INSERT INTO sales.lead (id, company, converted_account_id, owner_id) VALUES ($i, 'Lead $i', " . join(', ', $ref->(), $ref->()) . ");\n";
	}
	for my $i (1 .. $n)
	{
		$sql .= "INSERT INTO sales.opportunity (id, account_id, contact_id, name, amount, currency, close_date, owner_id) VALUES ($i, "
		  . join(', ', $ref->(), $ref->(), "'Deal $i'", pick('NULL, NULL', "$i, 'EUR'", "100, 'CNY'"), "'2030-01-01'", $ref->()) . ");\n";
		$sql .= "UPDATE sales.opportunity SET stage = 'lost', lost_reason = 'price' WHERE id = $i;\n" if chance(0.3);
	}
	for my $i (1 .. 3 * $n)
	{
		$sql .= "INSERT INTO sales.activity (id, subject, account_id, contact_id, lead_id, opportunity_id, owner_id) VALUES ($i, 'call', "
		  . join(', ', map { $ref->() } 1 .. 5) . ");\n";
		my $kind = pick('account', 'contact', 'lead', 'opportunity', 'activity', 'member');
		my $id = 1 + int(rand($n));
		my $other = 1 + int(rand($n));
		$sql .= "INSERT INTO sales.reminder (member_id, due_at, title, kind, record_id) VALUES ($other, now() + interval '"
		  . pick('-1 day', '1 day') . "', 'r', '$kind', $id);\n";
		$sql .= "INSERT INTO sales.share (kind, record_id, member_id, access) VALUES ('$kind', $id, $other, " . sql_text(pick('read', 'edit')) . ") ON CONFLICT DO NOTHING;\n";
		$sql .= "INSERT INTO sales.external_reference (kind, record_id, system, external_id) VALUES ('$kind', $id, " . sql_text(pick('sap', 'web')) . ", 'x$i');\n";
		$sql .= "INSERT INTO sales.duplicate_cluster (kind, cluster_id, record_id) VALUES ('$kind', 1, $id) ON CONFLICT DO NOTHING;\n";
		$sql .= "INSERT INTO sales.duplicate_pair (kind, left_id, right_id, score, state) VALUES ('$kind', least($id, $other), greatest($id, $other), 0.9, "
		  . sql_text(pick('open', 'open', 'not_duplicate', 'ignored')) . ") ON CONFLICT DO NOTHING;\n" if $id != $other;
	}
	return ($sql . "SELECT crm.run_due();\n", $n);
}

for my $round (1 .. $rounds)
{
	my ($sql, $n) = generate_workspace();
	my ($rc, $out, $err) = $node->psql('postgres', $sql, on_error_stop => 1);
	is($rc, 0, "workspace $round is made") or diag("$err\n$sql");
	next if $rc != 0;
	my (@states, @merges, %gone);
	my $ok = 1;
	diag($sql) if ($ENV{CRM_SHOW} // 0) == -$round;
	for my $step (1 .. 1 + int(rand(4)))
	{
		my $kind = pick('account', 'account', 'contact', 'lead', 'opportunity', 'activity', 'member');
		my @ids = grep { !$gone{"$kind $_"} } 1 .. $n;
		next if @ids < 2;
		my @shuffled = map { $_->[1] } sort { $a->[0] <=> $b->[0] } map { [ rand(), $_ ] } @ids;
		my ($survivor, @losers) = @shuffled[ 0 .. 1 + int(rand($#shuffled)) ];
		push @states, $node->safe_psql('postgres', 'SELECT public.state()');
		($rc, $out, $err) = $node->psql('postgres', "SELECT sales.merge_records('$kind', $survivor, '{" . join(',', @losers) . "}')");
		if ($rc != 0)
		{
			$ok = 0;
			diag("workspace $round: merge $kind @losers into $survivor: $err");
			last;
		}
		push @merges, $out;
		$gone{"$kind $_"} = 1 for @losers;
	}
	while ($ok && @merges)
	{
		my $merge = pop @merges;
		my $before = pop @states;
		($rc, $out, $err) = $node->psql('postgres', "SELECT * FROM sales.unmerge($merge)");
		$ok = 0, diag("workspace $round: unmerge: $err") if $rc != 0;
		$ok = 0, diag("workspace $round: unmerge kept $out") if $out ne '';
		my $after = $node->safe_psql('postgres', 'SELECT public.state()');
		$ok = 0, diag("workspace $round: before\n$before\nafter\n$after") if $after ne $before;
	}
	ok($ok, "workspace $round: every state is found again") or diag($sql);
}

$node->stop;
done_testing();
