CREATE FUNCTION crm._wall_clock(at timestamptz, time_zone text) RETURNS timestamp
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN at AT TIME ZONE coalesce(time_zone, 'UTC');
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN at AT TIME ZONE 'UTC';
END
$$;

COMMENT ON FUNCTION crm._wall_clock(timestamptz, text) IS 'What the clock of a time zone shows at an instant; UTC for a zone that this server does not know.';

CREATE FUNCTION crm._instant(wall timestamp, time_zone text) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN wall AT TIME ZONE coalesce(time_zone, 'UTC');
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN wall AT TIME ZONE 'UTC';
END
$$;

COMMENT ON FUNCTION crm._instant(timestamp, text) IS 'The instant at which the clock of a time zone shows a time; UTC for a zone that this server does not know.';

CREATE FUNCTION crm._quiet_until(wall timestamp, quiet_from time, quiet_to time) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN quiet_from IS NULL OR quiet_from = quiet_to THEN NULL
    WHEN quiet_from < quiet_to AND wall::time >= quiet_from AND wall::time < quiet_to THEN wall::date + quiet_to
    WHEN quiet_from > quiet_to AND wall::time < quiet_to THEN wall::date + quiet_to
    WHEN quiet_from > quiet_to AND wall::time >= quiet_from THEN wall::date + 1 + quiet_to
END;

COMMENT ON FUNCTION crm._quiet_until(timestamp, time, time) IS 'When the quiet hours end in which this time lies; NULL if it lies in none.';

CREATE FUNCTION crm._next_time(wall timestamp, times time[]) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
SET search_path = pg_catalog, pg_temp
RETURN (SELECT min(wall::date + d + t) FROM unnest(times) AS t, generate_series(0, 1) AS d WHERE wall::date + d + t > wall);

COMMENT ON FUNCTION crm._next_time(timestamp, time[]) IS 'When the first of these times of day comes after a time.';

CREATE FUNCTION crm._opens_at(workspace regnamespace, at timestamptz, calendar text) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF crm.business_open(workspace, at, calendar) THEN
        RETURN NULL;
    END IF;
    RETURN crm.business_add(workspace, at, '1 us', calendar) - interval '1 us';
EXCEPTION WHEN data_exception THEN
    -- A calendar without working hours keeps nothing back for ever.
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION crm._opens_at(regnamespace, timestamptz, text) IS 'When working time begins again; NULL if it is working time, or will never be.';

-- The record of a kind that an event is about: itself, or the one it refers to.
CREATE FUNCTION crm._record_of_kind(workspace regnamespace, kind text) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT format('CASE c.kind WHEN %L THEN c.record_id%s END', _record_of_kind.kind,
              string_agg(format(' WHEN %L THEN (SELECT r.%I FROM %s AS r WHERE r.%I = c.record_id)', t.kind, _record_of_kind.kind || '_id', t.rel, t.id_column),
                         '' ORDER BY t.kind))
FROM crm._record_tables(workspace) AS t
JOIN pg_attribute AS a ON a.attrelid = t.rel AND a.attname = _record_of_kind.kind || '_id' AND NOT a.attisdropped AND a.atttypid = 'bigint'::regtype
WHERE t.kind <> _record_of_kind.kind
$$;

COMMENT ON FUNCTION crm._record_of_kind(regnamespace, text) IS
'SQL text: the id of the record of a kind that row "c" with columns kind and record_id is about, directly or by a column KIND_id.';

CREATE FUNCTION crm._attention_matches(workspace regnamespace, event_ids bigint[], OUT events bigint[], OUT rules bigint[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    branches text[];
    branch text;
    query text := format('WITH candidate AS MATERIALIZED (SELECT e.id, e.kind, e.record_id FROM unnest($1) AS u JOIN %s.event AS e ON e.id = u)
                          SELECT array_agg(m.event_id), array_agg(m.rule_id) FROM (', workspace);
    some_events bigint[];
    some_rules bigint[];
    message text;
BEGIN
    EXECUTE format($query$
        SELECT array_agg(format('SELECT c.id AS event_id, %%s AS rule_id FROM candidate AS c WHERE EXISTS (SELECT FROM %%s AS new WHERE new.%%I = %%s AND (%%s))',
                                a.id, t.rel, t.id_column, crm._record_of_kind($1, a.kind), coalesce(a.condition, 'true')) ORDER BY a.id)
        FROM %s.attention_rule AS a
        JOIN crm._record_tables($1) AS t ON t.kind = a.kind
        WHERE a.active$query$, workspace)
    INTO branches USING workspace;
    IF branches IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        EXECUTE query || array_to_string(branches, ' UNION ALL ') || ') AS m' INTO events, rules USING event_ids;
    EXCEPTION WHEN data_exception OR syntax_error_or_access_rule_violation THEN
        -- A rule that fails holds nothing; nobody's reminder is lost for it.
        FOREACH branch IN ARRAY branches LOOP
            BEGIN
                EXECUTE query || branch || ') AS m' INTO some_events, some_rules USING event_ids;
                events := events || some_events;
                rules := rules || some_rules;
            EXCEPTION WHEN data_exception OR syntax_error_or_access_rule_violation THEN
                GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
                RAISE WARNING 'an attention rule of workspace "%" could not be applied: %', workspace, message
                    USING DETAIL = branch;
            END;
        END LOOP;
    END;
END
$$;

COMMENT ON FUNCTION crm._attention_matches(regnamespace, bigint[]) IS
'Which attention rules about a kind of record are met by which of these events, whoever they are for: two arrays of the same length, or NULLs. Must run as the workspace''s owner.';

CREATE FUNCTION crm._when(at timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE STRICT
SET search_path = pg_catalog, pg_temp
RETURN to_char(at, 'YYYY-MM-DD HH24:MI TZH');

COMMENT ON FUNCTION crm._when(timestamptz) IS 'A time as sentences give it.';

CREATE FUNCTION crm._hold_reason(reason text, detail jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE reason
    WHEN 'quiet hours' THEN CASE WHEN detail ? 'calendar' THEN format('it came outside the working time of calendar %s', detail ->> 'calendar')
                                 ELSE format('it came in quiet hours, %s to %s (%s)', detail ->> 'from', detail ->> 'to', detail ->> 'time_zone') END
    WHEN 'digest' THEN 'it is for digests'
    WHEN 'budget' THEN CASE WHEN detail ? 'per_day' THEN format('the budget of %s a day was used up', detail ->> 'per_day')
                            ELSE format('the budget of %s an hour was used up', detail ->> 'per_hour') END
    WHEN 'frequency' THEN format('another about the same record was handled less than %s before', detail ->> 'once_within')
    WHEN 'merged' THEN 'that one is about the same record'
    WHEN 'delegated' THEN coalesce(detail ->> 'why', 'someone stands in')
    WHEN 'settled' THEN 'somebody acted' || CASE WHEN detail ? 'snoozed' THEN ' while it was snoozed' ELSE '' END
    WHEN 'too late' THEN format('it was later than %s, and was to be skipped then', detail ->> 'max_late') || CASE WHEN detail ? 'setting' THEN format(' (%s)', detail ->> 'setting') ELSE '' END
END || CASE WHEN detail ? 'rule' THEN format(', rule "%s"', detail ->> 'rule') ELSE '' END
$$;

COMMENT ON FUNCTION crm._hold_reason(text, jsonb) IS 'The reason of a row of event_hold, in words.';

CREATE FUNCTION crm._settle_events(workspace regnamespace, topic text, name text, kind text, ids bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Merging is nobody's action, and can be undone.
    IF ids IS NULL OR crm._is_merging() THEN
        RETURN;
    END IF;
    -- Who closes one just now decides.  One that shows others stays for them; a breach stays as it is a fact.
    EXECUTE format('WITH told AS MATERIALIZED (
                        SELECT e.id, e.member_id FROM %1$s.event AS e
                        WHERE e.kind = $1 AND e.record_id = ANY ($2) AND e.state IN (''new'', ''seen'', ''held'') AND e.payload ->> $3 = $4
                          AND NOT e.payload @> ''{"percent": 100}''
                          AND NOT EXISTS (SELECT FROM %1$s.event_hold AS h JOIN %1$s.event AS o ON o.id = h.event_id AND o.state = ''held''
                                          WHERE h.shown_with = e.id AND o.payload ->> $3 IS DISTINCT FROM $4)
                        ORDER BY e.id FOR UPDATE OF e SKIP LOCKED),
                    settled AS (
                        UPDATE %1$s.event AS e SET state = ''skipped'', handled_at = $5 FROM told AS t WHERE e.id = t.id)
                    INSERT INTO %1$s.event_hold AS h (event_id, member_id, reason, held_at)
                    SELECT t.id, t.member_id, ''settled'', $5 FROM told AS t ORDER BY t.id
                    ON CONFLICT (event_id) DO UPDATE SET reason = excluded.reason, detail = excluded.detail, until = NULL, shown_with = NULL', workspace)
    USING kind, ids, topic, name, crm.now();
END
$$;

COMMENT ON FUNCTION crm._settle_events(regnamespace, text, text, text, bigint[]) IS
'Takes warnings about records that somebody acted on out of inboxes: those of the escalation rule or SLA policy of this name (topic escalation or sla), but breaches. Must run as the workspace''s owner.';

CREATE FUNCTION crm._why_not(workspace regnamespace, event_id bigint, reminder_id bigint, OUT reason text, OUT detail jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    e record;
    r record;
BEGIN
    IF num_nonnulls(event_id, reminder_id) <> 1 THEN
        RAISE EXCEPTION 'ask about either an event or a reminder'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF reminder_id IS NOT NULL THEN
        EXECUTE format('SELECT r.id, r.due_at, r.failed_at, r.failure, r.recurrence, r.snoozed_event_id FROM %s.reminder AS r WHERE r.id = $1', workspace)
        INTO r USING reminder_id;
        IF r.id IS NOT NULL THEN
            reason := CASE
                WHEN r.failed_at IS NOT NULL THEN format('Firing it failed at %s: %s. It is tried again once failed_at is NULL.', crm._when(r.failed_at), r.failure)
                WHEN r.due_at > crm.now() THEN format('It is not due before %s%s.', crm._when(r.due_at), CASE WHEN r.snoozed_event_id IS NOT NULL THEN ', as somebody snoozed it' ELSE '' END)
                ELSE format('It is due since %s and fires as soon as the scheduler, or crm.run_due(), gets to it; see crm.scheduler_status().', crm._when(r.due_at)) END;
            detail := jsonb_strip_nulls(jsonb_build_object('state', CASE WHEN r.failed_at IS NOT NULL THEN 'failed' WHEN r.due_at > crm.now() THEN 'pending' ELSE 'due' END,
                                                           'due_at', r.due_at, 'failure', r.failure, 'recurrence', r.recurrence, 'snoozed_event', r.snoozed_event_id));
            RETURN;
        END IF;
        EXECUTE format('SELECT max(v.id) FROM %s.event AS v WHERE v.reminder_id = $1', workspace) INTO event_id USING reminder_id;
        IF event_id IS NULL THEN
            reason := format('Reminder %s is not there: it never was, was deleted before it fired, or is not yours to see.', reminder_id);
            RETURN;
        END IF;
    END IF;

    EXECUTE format('SELECT v.*, m.name, h.reason, h.detail, h.held_at, h.until, h.shown_at, h.shown_with
                    FROM %1$s.event AS v
                    LEFT JOIN %1$s.member AS m ON m.id = v.member_id
                    LEFT JOIN %1$s.event_hold AS h ON h.event_id = v.id
                    WHERE v.id = $1', workspace)
    INTO e USING event_id;
    IF e.id IS NULL THEN
        reason := format('Event %s is not there: it never was, was deleted, or is not yours to see.', event_id);
        RETURN;
    END IF;
    reason := CASE
        WHEN e.state IN ('new', 'seen') THEN format('It is in the inbox of %s since %s', e.name, crm._when(coalesce(e.shown_at, e.fired_at)))
            || coalesce('; until then it was held: ' || crm._hold_reason(e.reason, e.detail), '') || '.'
        WHEN e.state = 'snoozed' THEN format('It was snoozed at %s until %s.', crm._when(e.handled_at), crm._when(e.snoozed_until))
        WHEN e.state = 'acknowledged' AND e.payload ? 'crm_digest' THEN 'It only let through events that were held.'
        WHEN e.state = 'acknowledged' THEN format('It was acknowledged at %s', crm._when(e.handled_at))
            || coalesce(', with event ' || e.shown_with, '') || '.'
        WHEN e.state = 'skipped' AND e.reason = 'settled' AND NOT e.detail ? 'snoozed' THEN format('It was settled at %s: %s.', crm._when(e.handled_at), crm._hold_reason(e.reason, e.detail))
        WHEN e.state = 'skipped' THEN format('It was skipped: %s.', crm._hold_reason(e.reason, e.detail))
        WHEN e.until IS NOT NULL THEN format('It is held until %s: %s.', crm._when(e.until), crm._hold_reason(e.reason, e.detail))
        WHEN e.shown_with IS NOT NULL THEN format('It is shown with event %s: %s.', e.shown_with, crm._hold_reason(e.reason, e.detail))
        ELSE 'It was held by an application.' END;
    detail := jsonb_strip_nulls(jsonb_build_object('event', e.id, 'reminder', e.reminder_id, 'member', e.member_id, 'state', e.state, 'due_at', e.due_at, 'fired_at', e.fired_at,
                  'late', e.fired_at - e.due_at, 'missed', nullif(e.missed, 0), 'held_for', e.reason, 'held_at', e.held_at, 'until', e.until, 'shown_at', e.shown_at, 'shown_with', e.shown_with,
                  'handled_at', e.handled_at, 'snoozed_until', e.snoozed_until)) || coalesce(e.detail, '{}');
END
$$;

COMMENT ON FUNCTION crm._why_not(regnamespace, bigint, bigint) IS 'What why_not() of a workspace does.';

CREATE FUNCTION crm._event_items(workspace regnamespace, event_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    items jsonb;
BEGIN
    EXECUTE format($query$
        SELECT jsonb_agg(jsonb_build_object('event', e.id, 'title', e.title, 'kind', e.kind, 'record_id', e.record_id, 'due_at', e.due_at) ORDER BY e.due_at, e.id)
        FROM %1$s.event_hold AS h JOIN %1$s.event AS e ON e.id = h.event_id
        WHERE h.shown_with = $1 AND h.reason <> 'delegated'$query$, workspace)
    INTO items USING event_id;
    RETURN items;
END
$$;

COMMENT ON FUNCTION crm._event_items(regnamespace, bigint) IS 'The events that are shown with an event; NULL: none.';
