CREATE FUNCTION crm.recurrence(rule text) RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_recurrence';

COMMENT ON FUNCTION crm.recurrence(text) IS
'The recurrence rule, or an error (22023) that says what is wrong with it. A rule is an RRULE value of RFC 5545, such as FREQ=MONTHLY;BYDAY=-1FR, and may be followed by lines EXDATE:... and RDATE:... of local times such as 20261231T090000, of UTC times with a Z, or of dates. COUNT and INTERVAL are at most 1,000,000, a rule at most 8,192 bytes.';

CREATE FUNCTION crm.next_occurrence(rule text, starts_at timestamp, time_zone text, after timestamptz) RETURNS timestamptz
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_next_occurrence';

COMMENT ON FUNCTION crm.next_occurrence(text, timestamp, text, timestamptz) IS
'The first occurrence of a recurrence rule after an instant; NULL if there is none. The rule begins at starts_at, a wall-clock time in the IANA time zone, and keeps to the wall clock: a time that a transition skips occurs as much later, one that comes twice occurs the first time. Occurrences end with the year 9999; a rule that yields nothing in 1,000,000 periods is an error (54000).';

CREATE FUNCTION crm.occurrences(rule text, starts_at timestamp, time_zone text DEFAULT 'UTC', after timestamptz DEFAULT '-infinity', max integer DEFAULT 100) RETURNS SETOF timestamptz
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_occurrences';

COMMENT ON FUNCTION crm.occurrences(text, timestamp, text, timestamptz, integer) IS
'The first max (0 to 100000) occurrences of a recurrence rule after an instant, as crm.next_occurrence() finds them one by one.';

CREATE FUNCTION crm._count_occurrences(rule text, starts_at timestamp, time_zone text, after timestamptz, upto timestamptz) RETURNS integer
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_count_occurrences';

COMMENT ON FUNCTION crm._count_occurrences(text, timestamp, text, timestamptz, timestamptz) IS
'How many occurrences of a recurrence rule lie after one instant and not after another; 10000 if there are more.';
