-- @version 1

-- What an editor of calendars must be able to tell: whether a reminder changed, and when.
ALTER TABLE @workspace@.reminder
    ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN row_version integer NOT NULL DEFAULT 1;
COMMENT ON COLUMN @workspace@.reminder.updated_at IS 'Start of the transaction that last changed what a calendar shows of it; kept by crm.touch().';
COMMENT ON COLUMN @workspace@.reminder.row_version IS 'Starts at 1 and grows by 1 with each such change; see crm.touch(). Escalations, which no calendar shows, keep theirs.';

-- @repeatable

CREATE OR REPLACE TRIGGER crm_touch BEFORE UPDATE ON @workspace@.reminder FOR EACH ROW
    WHEN (new.escalation_id IS NULL
          AND (new.due_at IS DISTINCT FROM old.due_at OR new.title IS DISTINCT FROM old.title OR new.recurrence IS DISTINCT FROM old.recurrence
               OR new.time_zone IS DISTINCT FROM old.time_zone OR new.starts_at IS DISTINCT FROM old.starts_at))
    EXECUTE FUNCTION crm.touch();

CREATE OR REPLACE FUNCTION @workspace@.calendar_feed(member_id bigint DEFAULT NULL) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me bigint := coalesce(calendar_feed.member_id, @workspace@.me());
    person @workspace@.member;
    host text := '@' || (SELECT to_hex((extract(epoch FROM m.created_at) * 1000000)::bigint) FROM @workspace@.crm_meta AS m) || '.crm';
    zones text;
    items text;
BEGIN
    SELECT m.* INTO person FROM @workspace@.member AS m WHERE m.id = me;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'member % does not exist', coalesce(me::text, '(none)')
            USING ERRCODE = 'no_data_found',
                  HINT = 'The session must act for a member who may see this one; without an argument the feed is his own.';
    END IF;

    WITH activity AS (
        SELECT a.*, CASE WHEN a.type IN ('call', 'meeting', 'visit') AND crm.icalendar_time('DTSTART', a.due_at) <> '' THEN 'VEVENT' ELSE 'VTODO' END AS component
        -- A call or note without a date was logged, not planned.
        FROM @workspace@.activity AS a WHERE a.owner_id = me AND a.completed_at IS NULL AND (a.due_at IS NOT NULL OR a.type = 'task')
    ), pending AS (
        -- due_at differs from occurs_at where somebody moved an occurrence; the first
        -- one need not be one of the rule.
        SELECT r.*, r.occurs_at IS NOT NULL AND r.occurs_at IS NOT DISTINCT FROM
                        crm.next_occurrence(r.recurrence, r.starts_at, r.time_zone, r.occurs_at - interval '1 microsecond') AS by_rule
        FROM @workspace@.reminder AS r
        WHERE r.member_id = me AND r.escalation_id IS NULL AND r.failed_at IS NULL
          AND NOT (r.kind IS NOT DISTINCT FROM 'activity' AND r.recurrence IS NULL
                   AND EXISTS (SELECT FROM activity AS a WHERE a.id = r.record_id))
    ), item AS (
        SELECT a.component, 'activity-' || a.id AS uid, NULL::text AS variant, a.updated_at AS stamp, a.row_version - 1 AS sequence, a.created_at,
            crm.icalendar_time(CASE a.component WHEN 'VEVENT' THEN 'DTSTART' ELSE 'DUE' END, a.due_at) AS times,
            a.subject AS title, a.type AS category, a.body,
            (SELECT coalesce(string_agg(crm.icalendar_property('BEGIN', 'VALARM') || crm.icalendar_time('TRIGGER;VALUE=DATE-TIME', r.due_at)
                                        || crm.icalendar_property('ACTION', 'DISPLAY') || crm.icalendar_text('DESCRIPTION', r.title)
                                        || crm.icalendar_property('END', 'VALARM'), '' ORDER BY r.due_at, r.id), '')
             FROM @workspace@.reminder AS r
             WHERE r.kind = 'activity' AND r.record_id = a.id AND r.member_id = me AND r.recurrence IS NULL AND r.failed_at IS NULL
               AND r.escalation_id IS NULL AND isfinite(r.due_at)) AS alarm
        FROM activity AS a
        UNION ALL
        SELECT 'VTODO', 'reminder-' || p.id || CASE WHEN p.by_rule OR p.recurrence IS NULL THEN '' ELSE '-first' END,
            CASE WHEN p.by_rule THEN crm.icalendar_time('RECURRENCE-ID', p.occurs_at, p.time_zone) END, p.updated_at, p.row_version - 1, p.created_at,
            crm.icalendar_time('DUE', p.due_at), p.title, p.kind, NULL,
            crm.icalendar_property('BEGIN', 'VALARM') || crm.icalendar_time('TRIGGER;VALUE=DATE-TIME', p.due_at)
            || crm.icalendar_property('ACTION', 'DISPLAY') || crm.icalendar_text('DESCRIPTION', p.title) || crm.icalendar_property('END', 'VALARM')
        FROM pending AS p
        WHERE p.recurrence IS NULL OR NOT p.by_rule OR p.due_at <> p.occurs_at
        UNION ALL
        SELECT 'VTODO', 'reminder-' || p.id, NULL, p.updated_at, p.row_version - 1, p.created_at,
            -- A to-do that recurs must end after it starts.
            l.recurrence || crm.icalendar_property('DURATION', 'PT1S'), p.title, p.kind, NULL,
            crm.icalendar_property('BEGIN', 'VALARM') || crm.icalendar_property('TRIGGER', 'PT0S')
            || crm.icalendar_property('ACTION', 'DISPLAY') || crm.icalendar_text('DESCRIPTION', p.title) || crm.icalendar_property('END', 'VALARM')
        FROM pending AS p
        CROSS JOIN LATERAL (SELECT crm.icalendar_recurrence(p.recurrence, p.starts_at, p.time_zone, p.occurs_at) AS recurrence) AS l
        WHERE l.recurrence IS NOT NULL
        UNION ALL
        SELECT 'VTODO', 'event-' || e.id, NULL, e.fired_at, 0, e.fired_at, crm.icalendar_time('DUE', e.due_at), e.title, e.kind, NULL, ''
        FROM @workspace@.event AS e
        WHERE e.member_id = me AND e.state IN ('new', 'seen')
    )
    SELECT string_agg(
               crm.icalendar_property('BEGIN', i.component) || crm.icalendar_property('UID', i.uid || host) || coalesce(i.variant, '')
               || crm.icalendar_time('DTSTAMP', i.stamp) || crm.icalendar_time('LAST-MODIFIED', i.stamp) || crm.icalendar_time('CREATED', i.created_at)
               || crm.icalendar_property('SEQUENCE', i.sequence::text) || i.times || crm.icalendar_text('SUMMARY', i.title)
               || crm.icalendar_text('DESCRIPTION', i.body) || crm.icalendar_text('CATEGORIES', i.category)
               || crm.icalendar_property('STATUS', CASE i.component WHEN 'VEVENT' THEN 'CONFIRMED' ELSE 'NEEDS-ACTION' END)
               || i.alarm || crm.icalendar_property('END', i.component),
               '' ORDER BY i.uid, i.variant IS NOT NULL)
    INTO items FROM item AS i;

    SELECT string_agg(crm.icalendar_time_zone(z.time_zone, z.since, greatest(z.until, crm.now()) + interval '10 years'), '' ORDER BY z.time_zone)
    INTO zones
    FROM (SELECT r.time_zone, min(r.occurs_at) AS since, max(r.occurs_at) AS until FROM @workspace@.reminder AS r
          WHERE r.member_id = me AND r.recurrence IS NOT NULL AND r.failed_at IS NULL AND r.escalation_id IS NULL
          GROUP BY r.time_zone) AS z;

    RETURN crm.icalendar_property('BEGIN', 'VCALENDAR') || crm.icalendar_property('VERSION', '2.0') || crm.icalendar_property('PRODID', '-//crm//PostgreSQL//EN')
        || crm.icalendar_property('CALSCALE', 'GREGORIAN')
        || crm.icalendar_text('NAME', person.name) || crm.icalendar_text('X-WR-CALNAME', person.name)
        || crm.icalendar_property('REFRESH-INTERVAL;VALUE=DURATION', 'PT15M')
        || coalesce(zones, '') || coalesce(items, '') || crm.icalendar_property('END', 'VCALENDAR');
END
$$;
COMMENT ON FUNCTION @workspace@.calendar_feed(bigint) IS
'A member''s calendar as text/calendar (RFC 5545): open activities (calls, meetings and visits with a time are VEVENT, the rest VTODO), pending reminders and the inbox (VTODO), with alarms and recurrence. NULL, the default: the member the session acts for. It holds what the caller may see of it. Changes only when what it shows changes. A member that does not exist is an error (P0002).';
