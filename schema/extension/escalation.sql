CREATE FUNCTION crm._escalation_due(clock_at timestamptz, after interval) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
RETURN timezone('UTC', timezone('UTC', clock_at) + after);

COMMENT ON FUNCTION crm._escalation_due(timestamptz, interval) IS
'When a level is due. A day has 24 hours, whatever the session''s time zone.';

CREATE FUNCTION crm._escalation_due(workspace regnamespace, calendar text, clock_at timestamptz, after interval) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    days integer := extract(day FROM after);
BEGIN
    IF calendar IS NULL THEN
        RETURN crm._escalation_due(clock_at, after);
    END IF;
    RETURN crm.business_add(workspace, CASE days WHEN 0 THEN clock_at ELSE crm.business_add_days(workspace, clock_at, days, calendar) END,
                            after - make_interval(days => days), calendar);
EXCEPTION WHEN datetime_field_overflow THEN
    -- A calendar that never comes so far is no reason to refuse the record.
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION crm._escalation_due(regnamespace, text, timestamptz, interval) IS
'When a level is due: working days, then hours, of a calendar, or days of 24 hours (NULL). NULL if never.';

CREATE FUNCTION crm._acted_at(at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE STRICT
SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN at = now() THEN crm.now() ELSE LEAST(at, crm.now()) END;

COMMENT ON FUNCTION crm._acted_at(timestamptz) IS
'A time in a record by the clock of reminders: the current transaction''s time is now, and nothing was done in the future.';

CREATE FUNCTION crm._escalation_query(workspace regnamespace, kind text, condition text, clock_column text, yearly boolean, rule_id bigint, working_time boolean, calendar text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    columns name[];
    clock text;
    zone text;
    terms text[] := '{}';
BEGIN
    SELECT * INTO t FROM crm._record_tables(workspace) AS r WHERE r.kind = _escalation_query.kind;
    IF NOT FOUND THEN
        -- The table is gone, and its records with it.
        RETURN 'SELECT NULL::bigint AS record_id, NULL::bigint AS owner_id, NULL::timestamptz AS clock_at, NULL::text AS calendar WHERE false';
    END IF;
    columns := ARRAY(SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = t.rel AND a.attnum > 0 AND NOT a.attisdropped);

    IF clock_column IS NULL THEN
        IF 'created_at' = ANY (columns) THEN
            terms := terms || 'crm._acted_at(new.created_at)'::text;
        END IF;
        IF EXISTS (SELECT FROM pg_attribute AS a
                   WHERE a.attrelid = format('%s.activity', workspace)::regclass AND a.attname = kind || '_id' AND NOT a.attisdropped) THEN
            -- What is planned for later is no follow-up yet.
            terms := terms || format('(SELECT max(crm._acted_at(coalesce(a.completed_at, a.created_at))) FROM %s.activity AS a
                                       WHERE a.%I = new.%I AND (a.completed_at IS NOT NULL OR a.due_at IS NULL OR a.due_at <= a.created_at))',
                                     workspace, kind || '_id', t.id_column);
        END IF;
        IF 'stage' = ANY (columns) THEN
            terms := terms || format('(SELECT max(h.changed_at) FROM %s.stage_history AS h WHERE h.kind = %L AND h.record_id = new.%I)',
                                     workspace, kind, t.id_column);
        END IF;
        clock := format('GREATEST(%s)', array_to_string(terms || '''-infinity'''::text, ', '));
    ELSE
        SELECT CASE a.atttypid WHEN 'timestamptz'::regtype THEN '%1$s' ELSE '(%1$s)::timestamp AT TIME ZONE %2$s' END INTO clock
        FROM pg_attribute AS a WHERE a.attrelid = t.rel AND a.attname = clock_column AND NOT a.attisdropped;
        zone := format('coalesce((SELECT m.time_zone FROM %s.member AS m WHERE m.id = new.%I), ''UTC'')', workspace, t.owner_column);
        IF yearly THEN
            -- The first return of the day whose last level is still to come.  29 February returns on the 28th in a common year.
            clock := format('(SELECT min(y.at) FROM (SELECT %s FROM generate_series(-1, 2) AS i) AS y (at)
                              WHERE crm._escalation_due(y.at, coalesce((SELECT max(l.after) FROM %s.escalation_level AS l WHERE l.rule_id = %s), ''0'')) > crm.now())',
                            format(clock, format('new.%1$I + make_interval(years => (extract(year FROM crm.now()) - extract(year FROM new.%1$I))::integer + i)', clock_column), zone),
                            workspace, coalesce(rule_id, 0));
        ELSE
            clock := format(clock, format('new.%I', clock_column), zone);
        END IF;
        -- A date nobody can compute with is no reason to refuse the record.
        clock := format('CASE WHEN new.%I BETWEEN ''0001-01-01'' AND ''9999-12-31'' THEN %s END', clock_column, clock);
    END IF;

    terms := ARRAY(SELECT format('new.%I IS NULL', c) FROM unnest(columns) AS c
                   WHERE c IN ('closed_at', 'converted_at') OR c = 'completed_at' AND kind = 'activity');
    IF 'stage' = ANY (columns) AND 'pipeline' = ANY (columns) THEN
        terms := terms || format('NOT EXISTS (SELECT FROM %s.stage AS s WHERE s.pipeline = new.pipeline AND s.name = new.stage AND s.type <> ''open'')', workspace);
    END IF;
    IF condition IS NOT NULL THEN
        terms := terms || ('(' || condition || ')');
    END IF;
    RETURN format('SELECT new.%I AS record_id, new.%I AS owner_id, %s AS clock_at, %s AS calendar FROM %s AS new', t.id_column, t.owner_column, clock,
                  crm._record_calendar(workspace, working_time, calendar, t.owner_column), t.rel)
           || ' WHERE ' || array_to_string(terms || 'true'::text, ' AND ');
END
$$;

COMMENT ON FUNCTION crm._escalation_query(regnamespace, text, text, text, boolean, bigint, boolean, text) IS
'The query for the open records of a kind that meet a condition: record_id, owner_id, clock_at (NULL if the clock column is), calendar (NULL: all time counts).';

CREATE FUNCTION crm._escalation_next(workspace regnamespace, escalation_id bigint, fired_at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    e record;
    next_due timestamptz;
BEGIN
    EXECUTE format('SELECT e.record_id, r.id, r.kind, r.condition, r.clock_column, r.yearly,
                           (SELECT min(d.at) FROM %1$s.escalation_level AS l CROSS JOIN LATERAL crm._escalation_due($3, e.calendar, e.clock_at, l.after) AS d (at)
                            WHERE l.rule_id = e.rule_id AND l.level > e.level AND d.at > $2) AS next_due
                    FROM %1$s.escalation AS e JOIN %1$s.escalation_rule AS r ON r.id = e.rule_id WHERE e.id = $1', workspace)
    INTO e USING escalation_id, fired_at, workspace;
    IF e.next_due IS NOT NULL OR NOT e.yearly THEN
        RETURN e.next_due;
    END IF;
    EXECUTE format('SELECT min(crm._escalation_due(s.clock_at, l.after)) FROM (%s) AS s, %s.escalation_level AS l
                    WHERE s.record_id = $1 AND l.rule_id = $2',
                   crm._escalation_query(workspace, e.kind, e.condition, e.clock_column, e.yearly, e.id, false, NULL), workspace)
    INTO next_due USING e.record_id, e.id;
    RETURN next_due;
END
$$;

COMMENT ON FUNCTION crm._escalation_next(regnamespace, bigint, timestamptz) IS
'When the next level of an escalation is due that is not due yet, of a yearly rule maybe next year''s; NULL if there is none.';

CREATE FUNCTION crm._sync_escalations(workspace regnamespace, kind text, ids bigint[] DEFAULT NULL, only_rule bigint DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r record;
    scope text;
    warned bigint[];
BEGIN
    FOR r IN EXECUTE format('SELECT e.id, e.condition, e.clock_column, e.yearly, e.active, e.starts_at, e.name, e.working_time, e.calendar FROM %s.escalation_rule AS e
                             WHERE e.kind = $1 AND ($2 IS NULL OR e.id = $2) ORDER BY e.id', workspace)
             USING kind, only_rule
    LOOP
        scope := crm._escalation_query(workspace, kind, r.condition, r.clock_column, r.yearly, r.id, r.working_time, r.calendar);
        -- Firing locks the reminder before the escalation; so must we.
        EXECUTE format('SELECT count(*) FROM (SELECT FROM %1$s.reminder AS r JOIN %1$s.escalation AS e ON e.id = r.escalation_id
                        WHERE e.rule_id = $1 AND ($2 IS NULL OR e.record_id = ANY ($2)) ORDER BY r.id FOR UPDATE OF r) AS l', workspace)
        USING r.id, ids;
        EXECUTE format('SELECT array_agg(e.record_id) FROM %s.escalation AS e WHERE e.rule_id = $1 AND e.record_id = ANY ($2) AND e.level > 0', workspace)
        INTO warned USING r.id, ids;

        EXECUTE format('WITH scope AS MATERIALIZED (
                            SELECT s.record_id, CASE WHEN $5 THEN GREATEST(s.clock_at, $4) ELSE s.clock_at END AS clock_at, s.calendar FROM (%1$s) AS s
                            WHERE $6 AND isfinite(s.clock_at) AND ($5 OR s.clock_at >= $4) AND ($2 IS NULL OR s.record_id = ANY ($2))),
                        ended AS (
                            DELETE FROM %2$s.escalation AS e
                            WHERE e.rule_id = $1 AND ($2 IS NULL OR e.record_id = ANY ($2))
                              AND NOT EXISTS (SELECT FROM scope AS s WHERE s.record_id = e.record_id))
                        INSERT INTO %2$s.escalation AS e (rule_id, kind, record_id, clock_at, calendar)
                        SELECT $1, $3, s.record_id, s.clock_at, s.calendar FROM scope AS s ORDER BY s.record_id
                        ON CONFLICT (rule_id, record_id) DO UPDATE SET clock_at = excluded.clock_at, level = 0, escalated_at = NULL, calendar = excluded.calendar
                        WHERE CASE WHEN $5 THEN excluded.clock_at > e.clock_at
                                   -- Another year of the same day is for the firing to begin.
                                   WHEN $7 THEN timezone(''UTC'', excluded.clock_at) - timezone(''UTC'', e.clock_at) NOT BETWEEN ''365 days'' AND ''366 days''
                                                AND excluded.clock_at <> e.clock_at
                                   ELSE excluded.clock_at <> e.clock_at END', scope, workspace)
        USING r.id, ids, kind, r.starts_at, r.clock_column IS NULL, r.active, r.yearly;
        IF warned IS NOT NULL AND NOT r.yearly THEN
            -- Started anew an escalation is at level 0, ended it is gone.
            EXECUTE format('SELECT array_agg(w) FROM unnest($2) AS w
                            WHERE NOT EXISTS (SELECT FROM %s.escalation AS e WHERE e.rule_id = $1 AND e.record_id = w AND e.level > 0)', workspace)
            INTO warned USING r.id, warned;
            PERFORM crm._settle_events(workspace, 'escalation', r.name, kind, warned);
        END IF;

        EXECUTE format('WITH scope AS (%1$s),
                        next AS MATERIALIZED (
                            SELECT e.id, e.record_id, s.owner_id, e.calendar AS counted_by, s.calendar, n.due_at
                            FROM %2$s.escalation AS e
                            JOIN scope AS s ON s.record_id = e.record_id
                            LEFT JOIN LATERAL (SELECT crm._escalation_due($5, s.calendar, e.clock_at, l.after) AS due_at
                                               FROM %2$s.escalation_level AS l
                                               WHERE l.rule_id = e.rule_id AND l.level > e.level
                                               ORDER BY l.after LIMIT 1) AS n ON true
                            WHERE e.rule_id = $1 AND ($2 IS NULL OR e.record_id = ANY ($2))),
                        counted AS (
                            UPDATE %2$s.escalation AS e SET calendar = n.calendar FROM next AS n WHERE e.id = n.id AND n.counted_by IS DISTINCT FROM n.calendar),
                        gone AS (
                            DELETE FROM %2$s.reminder AS r USING next AS n WHERE r.escalation_id = n.id AND n.due_at IS NULL)
                        INSERT INTO %2$s.reminder AS r (escalation_id, member_id, due_at, title, kind, record_id)
                        SELECT n.id, n.owner_id, n.due_at, $4, $3, n.record_id
                        FROM next AS n WHERE n.due_at IS NOT NULL ORDER BY n.record_id
                        ON CONFLICT (escalation_id) WHERE escalation_id IS NOT NULL
                        DO UPDATE SET member_id = excluded.member_id, due_at = excluded.due_at, title = excluded.title, failed_at = NULL, failure = NULL
                        WHERE (r.member_id, r.due_at, r.title) IS DISTINCT FROM (excluded.member_id, excluded.due_at, excluded.title)',
                       scope, workspace)
        USING r.id, ids, kind, r.name, workspace;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._sync_escalations(regnamespace, text, bigint[], bigint) IS
'Makes the escalations of records of a kind (NULL: of all), under one rule (NULL: under each), and their pending reminders what rules and records say; warnings about records that somebody acted on are settled. Must run as the workspace''s owner.';

CREATE FUNCTION crm._escalation_members(workspace regnamespace, owner_id bigint, audience text) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    steps integer;
    who bigint;
BEGIN
    IF audience LIKE 'member:%' THEN
        RETURN QUERY EXECUTE format('SELECT m.id FROM %s.member AS m WHERE m.id = $1 AND m.active', workspace) USING substr(audience, 8)::bigint;
    ELSIF audience LIKE 'team:%' THEN
        RETURN QUERY EXECUTE format('WITH RECURSIVE below (id) AS (
                                         SELECT $1 UNION SELECT t.id FROM below AS b JOIN %1$s.team AS t ON t.parent_id = b.id)
                                     SELECT DISTINCT m.id FROM below AS b JOIN %1$s.team_member AS tm ON tm.team_id = b.id
                                     JOIN %1$s.member AS m ON m.id = tm.member_id AND m.active', workspace) USING substr(audience, 6)::bigint;
    ELSIF owner_id IS NOT NULL THEN
        -- The first active member at that height or above it; else the highest below it.
        steps := CASE audience WHEN 'owner' THEN 0 WHEN 'manager' THEN 1 ELSE substr(audience, 9)::integer END;
        EXECUTE format('WITH RECURSIVE line (id, manager_id, active, height) AS (
                            SELECT m.id, m.manager_id, m.active, 0 FROM %1$s.member AS m WHERE m.id = $1
                            UNION ALL
                            SELECT m.id, m.manager_id, m.active, l.height + 1 FROM line AS l JOIN %1$s.member AS m ON m.id = l.manager_id
                            WHERE l.height < 100)
                        SELECT l.id FROM line AS l WHERE l.active AND (l.height > 0 OR $2 = 0)
                        ORDER BY l.height < $2, abs(l.height - $2) LIMIT 1', workspace)
        INTO who USING owner_id, steps;
        IF who IS NOT NULL THEN
            RETURN NEXT who;
        END IF;
    END IF;
END
$$;

COMMENT ON FUNCTION crm._escalation_members(regnamespace, bigint, text) IS
'The active members an audience (owner, manager, manager^2 …, member:ID, team:ID) means today for a record of this owner; none if there is nobody.';

CREATE FUNCTION crm._audience(workspace regnamespace, owner_id bigint, audience text[]) RETURNS bigint[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    members bigint[] := '{}';
    part text;
BEGIN
    FOREACH part IN ARRAY audience LOOP
        members := members || ARRAY(SELECT m FROM crm._escalation_members(workspace, owner_id, part) AS m WHERE m <> ALL (members) ORDER BY m);
    END LOOP;
    -- Nobody is no answer: somebody must hear of it.
    IF members = '{}' THEN
        members := ARRAY(SELECT m FROM crm._escalation_members(workspace, owner_id, 'manager') AS m);
    END IF;
    IF members = '{}' THEN
        EXECUTE format('SELECT array_agg(m.id) FROM %1$s.setting AS s JOIN %1$s.member AS m ON m.id::text = s.value AND m.active
                        WHERE s.name = ''escalation_fallback''', workspace) INTO members;
    END IF;
    IF coalesce(members, '{}') = '{}' THEN
        EXECUTE format('SELECT array_agg(m.id ORDER BY m.id) FROM %s.member AS m WHERE m.active AND m.access = ''all''', workspace) INTO members;
    END IF;
    RETURN coalesce(members, '{}');
END
$$;

COMMENT ON FUNCTION crm._audience(regnamespace, bigint, text[]) IS
'The active members to be told something about a record of this owner; if there are none, the owner''s manager, then the member named by the setting escalation_fallback, then all with access all.';

CREATE FUNCTION crm._escalate(workspace regnamespace, escalation_id bigint, fired_at timestamptz, OUT member_id bigint, OUT title text, OUT payload jsonb)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    e record;
    record_owner bigint;
    members bigint[];
    skipped integer[];
    found_record boolean;
    next_clock timestamptz;
BEGIN
    EXECUTE format('SELECT e.rule_id, e.record_id, e.clock_at, e.level AS reached, r.name AS rule, r.kind, r.condition, r.clock_column, r.yearly, l.*
                    FROM %1$s.escalation AS e
                    JOIN %1$s.escalation_rule AS r ON r.id = e.rule_id AND r.active
                    CROSS JOIN LATERAL (SELECT l.level, l.after, l.audience, l.title FROM %1$s.escalation_level AS l
                                        WHERE l.rule_id = e.rule_id AND l.level > e.level AND crm._escalation_due($3, e.calendar, e.clock_at, l.after) <= $2
                                        ORDER BY l.level DESC LIMIT 1) AS l
                    WHERE e.id = $1 FOR UPDATE OF e', workspace)
    INTO e USING escalation_id, fired_at, workspace;
    IF e.level IS NULL THEN
        RETURN;
    END IF;
    -- A record that changed unnoticed, by replication say, may be closed by now.
    EXECUTE format('SELECT true, s.owner_id, s.clock_at FROM (%s) AS s WHERE s.record_id = $1',
                   crm._escalation_query(workspace, e.kind, e.condition, e.clock_column, e.yearly, e.rule_id, false, NULL))
    INTO found_record, record_owner, next_clock USING e.record_id;
    IF found_record IS NULL THEN
        RETURN;
    END IF;

    EXECUTE format('SELECT coalesce(array_agg(l.level ORDER BY l.level), ''{}'') FROM %s.escalation_level AS l
                    WHERE l.rule_id = $1 AND l.level > $2 AND l.level < $3', workspace)
    INTO skipped USING e.rule_id, e.reached, e.level;
    EXECUTE format('UPDATE %1$s.escalation AS x
                    SET level = CASE WHEN w.over THEN 0 ELSE $2 END, clock_at = CASE WHEN w.over THEN $4 ELSE x.clock_at END, escalated_at = $3
                    FROM (SELECT $5 AND NOT EXISTS (SELECT FROM %1$s.escalation_level AS l WHERE l.rule_id = $6 AND l.level > $2) AS over) AS w
                    WHERE x.id = $1', workspace)
    USING escalation_id, e.level, fired_at, next_clock, e.yearly, e.rule_id;

    members := crm._audience(workspace, record_owner, e.audience);
    title := coalesce(e.title, e.rule);
    payload := jsonb_build_object('escalation', e.rule, 'level', e.level, 'since', e.clock_at, 'owner_id', record_owner)
               || CASE WHEN skipped = '{}' THEN '{}' ELSE jsonb_build_object('skipped', to_jsonb(skipped)) END;
    FOREACH member_id IN ARRAY members LOOP
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._escalate(regnamespace, bigint, timestamptz) IS
'Raises an escalation to the highest level that is due and says whom to tell what. Nobody if the record is no longer open, its rule inactive, or no member could be told.';

-- Tables that no rule is about carry no trigger and pay nothing.
CREATE FUNCTION crm._watch_records(workspace regnamespace, kind text, topic text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    event text;
BEGIN
    FOR t IN
        SELECT r.rel, topic || '_record' AS name, format('%L, %L', r.kind, r.id_column) AS args
        FROM crm._record_tables(workspace) AS r WHERE r.kind = _watch_records.kind
        UNION ALL
        SELECT format('%s.activity', workspace)::regclass, topic || '_activity', ''
    LOOP
        FOREACH event IN ARRAY ARRAY['insert', 'update', 'delete'] LOOP
            CONTINUE WHEN t.name = topic || '_activity' AND event = 'delete'
                OR EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = t.rel AND g.tgname = t.name || '_' || event);
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s REFERENCING %s TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION %s.%I(%s)',
                           t.name || '_' || event, event, t.rel, CASE event WHEN 'delete' THEN 'OLD' ELSE 'NEW' END, workspace, t.name, t.args);
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm._watch_records(regnamespace, text, text) IS
'Gives the table of a kind, and activity, the statement triggers of a topic (functions TOPIC_record and TOPIC_activity of the workspace), once there is a rule about it. Must run as the workspace''s owner.';
