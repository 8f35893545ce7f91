CREATE FUNCTION crm.icalendar_property(name text, value text) RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_icalendar_property';

COMMENT ON FUNCTION crm.icalendar_property(text, text) IS
'A content line of iCalendar (RFC 5545), name:value, folded to 75 octets between characters and ended by CRLF; parameters belong to the name. The value is taken as it is, except that control characters other than the tab are left out. NULL: an empty string.';

CREATE FUNCTION crm.icalendar_text(name text, value text) RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_icalendar_text';

COMMENT ON FUNCTION crm.icalendar_text(text, text) IS
'The same for values of type TEXT, which it escapes (RFC 5545, 3.3.11): backslash, semicolon and comma; line ends become \n. Use it for everything that people wrote.';

CREATE FUNCTION crm.icalendar_time(name text, value timestamptz, time_zone text DEFAULT 'UTC') RETURNS text
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'crm_icalendar_time';

COMMENT ON FUNCTION crm.icalendar_time(text, timestamptz, text) IS
'The same for a point in time: in UTC, with a Z, or as wall-clock time of an IANA time zone, whose VTIMEZONE the calendar must have. Fractions of a second are cut off. NULL, infinity and years before 1 or after 9999: an empty string.';

CREATE FUNCTION crm.icalendar_recurrence(rule text, starts_at timestamp, time_zone text, since timestamptz) RETURNS text
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_icalendar_recurrence';

COMMENT ON FUNCTION crm.icalendar_recurrence(text, timestamp, text, timestamptz) IS
'What is left of a recurrence rule from an instant on, as properties of a component: DTSTART, RRULE, RDATE, EXDATE. DTSTART is the first time at or after the instant that the rule yields, COUNT what is left of it, UNTIL in UTC. NULL if nothing is left. Arguments and errors as in crm.next_occurrence().';

CREATE FUNCTION crm.icalendar_time_zone(time_zone text, since timestamptz, until timestamptz) RETURNS text
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'crm_icalendar_time_zone';

COMMENT ON FUNCTION crm.icalendar_time_zone(text, timestamptz, timestamptz) IS
'The VTIMEZONE component of an IANA time zone, right for times from since until until, at most 100 years; an empty string for UTC. A name that is not one of a time zone is an error (22023).';
