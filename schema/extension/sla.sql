CREATE FUNCTION crm._sla_elapsed(workspace regnamespace, calendar text, from_time timestamptz, to_time timestamptz) RETURNS interval
LANGUAGE sql STABLE
RETURN CASE WHEN calendar IS NULL THEN make_interval(secs => extract(epoch FROM to_time - from_time)::double precision)
            ELSE crm.business_between(workspace, from_time, to_time, calendar) END;

COMMENT ON FUNCTION crm._sla_elapsed(regnamespace, text, timestamptz, timestamptz) IS
'Time from one instant to another in hours and smaller units: working time by a calendar, or all of it (NULL).';

CREATE FUNCTION crm._sla_due(workspace regnamespace, calendar text, running_since timestamptz, amount interval) RETURNS timestamptz
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF amount <= interval '0' THEN
        RETURN running_since;
    END IF;
    RETURN CASE calendar WHEN '' THEN running_since + amount ELSE crm.business_add(workspace, running_since, amount, calendar) END;
EXCEPTION WHEN datetime_field_overflow THEN
    -- A calendar that never comes so far is no reason to refuse the record.
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION crm._sla_due(regnamespace, text, timestamptz, interval) IS
'When so much time has passed since a clock runs, by a calendar or, if it is empty, by the clock; NULL if never.';

CREATE FUNCTION crm._sla_query(workspace regnamespace, policy_id bigint) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p record;
    t record;
    met text;
BEGIN
    EXECUTE format('SELECT p.* FROM %s.sla_policy AS p WHERE p.id = $1', workspace) INTO p USING policy_id;
    SELECT * INTO t FROM crm._record_tables(workspace) AS r WHERE r.kind = p.kind;
    IF NOT FOUND THEN
        -- The table is gone, and its records with it.
        RETURN 'SELECT NULL::bigint AS record_id, NULL::bigint AS owner_id, NULL::timestamptz AS created_at, NULL::text AS state, NULL::text AS calendar WHERE false';
    END IF;
    met := format('(%s) IS TRUE', coalesce(p.met_when, 'false'));
    IF p.met_by_activity THEN
        -- What is planned for later is no answer yet.
        met := met || format(' OR EXISTS (SELECT FROM %1$s.activity AS a
                                          WHERE a.%2$I = new.%3$I AND (a.completed_at IS NOT NULL OR a.due_at IS NULL OR a.due_at <= a.created_at)
                                            AND crm._acted_at(coalesce(a.completed_at, a.created_at)) >= coalesce(
                                                (SELECT c.started_at FROM %1$s.sla_clock AS c WHERE c.policy_id = %4$s AND c.record_id = new.%3$I), ''-infinity''))',
                             workspace, p.kind || '_id', t.id_column, p.id);
    END IF;
    RETURN format('SELECT new.%I AS record_id, new.%I AS owner_id, %s AS created_at,
                          CASE WHEN NOT %L OR (%s) IS NOT TRUE THEN ''ended'' WHEN %s THEN ''met'' WHEN (%s) IS TRUE THEN ''paused'' ELSE ''running'' END AS state, %s AS calendar
                   FROM %s AS new',
                  t.id_column, t.owner_column,
                  CASE WHEN EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = t.rel AND a.attname = 'created_at'
                                                                    AND a.atttypid = 'timestamptz'::regtype AND NOT a.attisdropped)
                       THEN 'crm._acted_at(new.created_at)' ELSE 'NULL::timestamptz' END,
                  p.active, coalesce(p.condition, 'true'), met, coalesce(p.pause_when, 'false'),
                  crm._record_calendar(workspace, p.working_time, p.calendar, t.owner_column), t.rel);
END
$$;

COMMENT ON FUNCTION crm._sla_query(regnamespace, bigint) IS
'The query for what state the clock of a policy should be in for each record: record_id, owner_id, created_at, state, calendar (NULL: all time counts).';

CREATE FUNCTION crm._sync_sla(workspace regnamespace, kind text, ids bigint[], from_creation boolean, only_policy bigint DEFAULT NULL, recount boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p record;
    at timestamptz := crm.now();
    done bigint[];
BEGIN
    FOR p IN EXECUTE format('SELECT p.* FROM %s.sla_policy AS p WHERE p.kind = $1 AND ($2 IS NULL OR p.id = $2) ORDER BY p.id', workspace)
             USING kind, only_policy
    LOOP
        -- Firing locks the reminder before the clock; so must we.
        EXECUTE format('SELECT count(*) FROM (SELECT FROM %1$s.reminder AS r JOIN %1$s.escalation AS e ON e.id = r.escalation_id JOIN %1$s.sla_clock AS c ON c.id = e.sla_clock_id
                        WHERE c.policy_id = $1 AND ($2 IS NULL OR c.record_id = ANY ($2)) ORDER BY r.id FOR UPDATE OF r) AS l', workspace)
        USING p.id, ids;

        -- The state a clock should have, and the time it has counted when it stops.
        EXECUTE format('WITH scope AS MATERIALIZED (SELECT s.* FROM (%1$s) AS s WHERE $2 IS NULL OR s.record_id = ANY ($2)),
                        changed AS (
                            UPDATE %2$s.sla_clock AS c
                            SET state = w.state,
                                elapsed = CASE WHEN c.state = ''running'' AND NOT w.recount THEN c.elapsed + crm._sla_elapsed($3, c.calendar, c.running_since, $5) ELSE c.elapsed END,
                                running_since = CASE WHEN w.recount THEN c.running_since WHEN w.state = ''running'' THEN $5 END,
                                calendar = w.calendar,
                                met_at = CASE w.state WHEN ''met'' THEN $5 END,
                                ended_at = CASE w.state WHEN ''ended'' THEN $5 END,
                                due_at = NULL,
                                -- Whether it was late is for the clock to say, not for whoever looks first.
                                breached_at = coalesce(c.breached_at, CASE WHEN c.due_at < $5 AND NOT w.recount THEN c.due_at END)
                            FROM (SELECT k.id, coalesce(s.state, ''ended'') AS state, s.calendar, $4 AND k.state = ''running'' AND s.state = ''running'' AS recount
                                  FROM %2$s.sla_clock AS k LEFT JOIN scope AS s ON s.record_id = k.record_id
                                  WHERE k.policy_id = $1 AND ($2 IS NULL OR k.record_id = ANY ($2))) AS w
                            WHERE c.id = w.id AND CASE WHEN c.state = w.state THEN c.state = ''running'' AND c.calendar IS DISTINCT FROM w.calendar
                                                       ELSE NOT (c.state = ''met'' AND w.state = ''ended'') END)
                        INSERT INTO %2$s.sla_clock (policy_id, kind, record_id, owner_id, state, target, started_at, running_since, calendar)
                        SELECT $1, $6, s.record_id, s.owner_id, s.state, $9, b.at, CASE s.state WHEN ''running'' THEN b.at END, s.calendar
                        FROM scope AS s
                        CROSS JOIN LATERAL (SELECT CASE WHEN $7 THEN coalesce(GREATEST(s.created_at, $8), $5) ELSE $5 END AS at) AS b
                        WHERE s.state IN (''running'', ''paused'')
                        ORDER BY s.record_id
                        ON CONFLICT (policy_id, record_id) DO NOTHING', crm._sla_query(workspace, p.id), workspace)
        USING p.id, ids, workspace, recount, at, kind, from_creation, p.starts_at, p.target;

        -- When it runs out, and when somebody is told next.
        EXECUTE format('WITH due AS MATERIALIZED (
                            SELECT c.id, s.owner_id, crm._sla_due($3, coalesce(c.calendar, ''''), c.running_since, $4 - c.elapsed) AS due_at,
                                   CASE WHEN c.state IN (''running'', ''paused'') THEN $4 ELSE c.target END AS target
                            FROM %1$s.sla_clock AS c
                            JOIN (%2$s) AS s ON s.record_id = c.record_id
                            WHERE c.policy_id = $1 AND ($2 IS NULL OR c.record_id = ANY ($2)))
                        UPDATE %1$s.sla_clock AS c
                        SET due_at = d.due_at, target = d.target, owner_id = d.owner_id
                        FROM due AS d
                        WHERE c.id = d.id AND (c.due_at, c.target, c.owner_id) IS DISTINCT FROM (d.due_at, d.target, d.owner_id)', workspace, crm._sla_query(workspace, p.id))
        USING p.id, ids, workspace, p.target;
        EXECUTE format('INSERT INTO %1$s.escalation (sla_clock_id, kind, record_id, clock_at)
                        SELECT c.id, c.kind, c.record_id, c.started_at FROM %1$s.sla_clock AS c
                        WHERE c.policy_id = $1 AND ($2 IS NULL OR c.record_id = ANY ($2)) AND c.state = ''running''
                        ORDER BY c.record_id ON CONFLICT (sla_clock_id) DO NOTHING', workspace)
        USING p.id, ids;
        EXECUTE format('WITH scope AS (%1$s),
                        next AS MATERIALIZED (
                            SELECT e.id, c.record_id, s.owner_id, n.due_at
                            FROM %2$s.sla_clock AS c
                            JOIN %2$s.escalation AS e ON e.sla_clock_id = c.id
                            LEFT JOIN scope AS s ON s.record_id = c.record_id
                            CROSS JOIN LATERAL (
                                -- A breach is told even of a clock that was stopped before anybody was.
                                SELECT CASE WHEN c.state <> ''ended'' AND c.breached_at IS NOT NULL AND e.level < 100 THEN c.breached_at
                                            WHEN c.state = ''running'' THEN
                                                (SELECT min(crm._sla_due($5, coalesce(c.calendar, ''''), c.running_since, c.target * v / 100 - c.elapsed)) FROM unnest($6 || 100) AS v WHERE v > e.level)
                                       END AS due_at) AS n
                            WHERE c.policy_id = $1 AND ($2 IS NULL OR c.record_id = ANY ($2))),
                        gone AS (
                            DELETE FROM %2$s.reminder AS r USING next AS n WHERE r.escalation_id = n.id AND n.due_at IS NULL)
                        INSERT INTO %2$s.reminder AS r (escalation_id, member_id, due_at, title, kind, record_id)
                        SELECT n.id, n.owner_id, n.due_at, $4, $3, n.record_id
                        FROM next AS n WHERE n.due_at IS NOT NULL ORDER BY n.record_id
                        ON CONFLICT (escalation_id) WHERE escalation_id IS NOT NULL
                        DO UPDATE SET member_id = excluded.member_id, due_at = excluded.due_at, title = excluded.title, failed_at = NULL, failure = NULL
                        WHERE (r.member_id, r.due_at, r.title) IS DISTINCT FROM (excluded.member_id, excluded.due_at, excluded.title)',
                       crm._sla_query(workspace, p.id), workspace)
        USING p.id, ids, kind, p.name, workspace, p.warn_percent;
        EXECUTE format('SELECT array_agg(c.record_id) FROM %1$s.sla_clock AS c JOIN %1$s.escalation AS e ON e.sla_clock_id = c.id
                        WHERE c.policy_id = $1 AND c.record_id = ANY ($2) AND c.state IN (''met'', ''ended'') AND e.level > 0', workspace)
        INTO done USING p.id, ids;
        PERFORM crm._settle_events(workspace, 'sla', p.name, kind, done);
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._sync_sla(regnamespace, text, bigint[], boolean, bigint, boolean) IS
'Makes the clocks of records of a kind (NULL: of all), under one policy (NULL: under each), and their pending reminders what policies, records and calendars say; warnings of clocks that are met or ended are settled. A clock that begins counts from the record''s creation if from_creation, else from now. Running clocks that come to count by another calendar keep what they have counted, or, with recount, count by it since they last started to run. Must run as the workspace''s owner.';

CREATE FUNCTION crm._sla_next(workspace regnamespace, escalation_id bigint, fired_at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    next_due timestamptz;
BEGIN
    EXECUTE format('SELECT min(d.at)
                    FROM %1$s.escalation AS e
                    JOIN %1$s.sla_clock AS c ON c.id = e.sla_clock_id AND c.state = ''running''
                    JOIN %1$s.sla_policy AS p ON p.id = c.policy_id
                    CROSS JOIN LATERAL unnest(p.warn_percent || 100) AS v
                    CROSS JOIN LATERAL crm._sla_due($3, coalesce(c.calendar, ''''), c.running_since, c.target * v / 100 - c.elapsed) AS d (at)
                    WHERE e.id = $1 AND v > e.level AND d.at > $2', workspace)
    INTO next_due USING escalation_id, fired_at, workspace;
    RETURN next_due;
END
$$;

COMMENT ON FUNCTION crm._sla_next(regnamespace, bigint, timestamptz) IS
'When the next share of a clock''s time is used up that is not yet; NULL if there is none.';

CREATE FUNCTION crm._sla_escalate(workspace regnamespace, escalation_id bigint, fired_at timestamptz, OUT member_id bigint, OUT title text, OUT payload jsonb)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c record;
    s record;
    share integer;
    skipped integer[];
BEGIN
    EXECUTE format('SELECT c.*, e.level, p.name, p.warn_percent, p.audience, p.breach_audience
                    FROM %1$s.escalation AS e
                    JOIN %1$s.sla_clock AS c ON c.id = e.sla_clock_id AND (c.state = ''running'' OR c.state <> ''ended'' AND c.breached_at IS NOT NULL AND e.level < 100)
                    JOIN %1$s.sla_policy AS p ON p.id = c.policy_id AND p.active
                    WHERE e.id = $1 FOR UPDATE OF e, c', workspace)
    INTO c USING escalation_id;
    IF c.id IS NULL THEN
        RETURN;
    END IF;
    -- A record that changed unnoticed, by replication say, may be answered by now.
    EXECUTE format('SELECT s.state, s.owner_id FROM (%s) AS s WHERE s.record_id = $1', crm._sla_query(workspace, c.policy_id)) INTO s USING c.record_id;
    IF s.state IS NULL OR c.state = 'running' AND s.state <> 'running' THEN
        RETURN;
    END IF;
    SELECT max(v), array_agg(v ORDER BY v) INTO share, skipped
    FROM unnest(c.warn_percent || 100) AS v
    WHERE v > c.level
      AND (c.state <> 'running' OR crm._sla_due(workspace, coalesce(c.calendar, ''), c.running_since, c.target * v / 100 - c.elapsed) <= fired_at);
    IF share IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('UPDATE %s.escalation AS e SET level = $2, escalated_at = $3 WHERE e.id = $1', workspace) USING escalation_id, share, fired_at;
    IF share >= 100 THEN
        EXECUTE format('UPDATE %s.sla_clock AS c SET breached_at = coalesce(c.breached_at, c.due_at) WHERE c.id = $1', workspace) USING c.id;
    END IF;
    title := CASE WHEN share >= 100 THEN format('%s: the time is over', c.name) ELSE format('%s: %s %% of the time is used', c.name, share) END;
    payload := jsonb_strip_nulls(jsonb_build_object('sla', c.name, 'percent', share, 'due_at', coalesce(c.breached_at, c.due_at), 'owner_id', s.owner_id,
                   'skipped', nullif(to_jsonb(array_remove(skipped, share)), '[]'), 'urgent', nullif(share >= 100, false)));
    FOREACH member_id IN ARRAY crm._audience(workspace, s.owner_id, CASE WHEN share >= 100 THEN c.breach_audience ELSE c.audience END) LOOP
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._sla_escalate(regnamespace, bigint, timestamptz) IS
'Notes that a share of a clock''s time is used up, or all of it, and says whom to tell what. Nobody if the clock no longer runs.';
