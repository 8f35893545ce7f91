CREATE FUNCTION crm._deputy(workspace regnamespace, member_id bigint, at timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who bigint := member_id;
    path bigint[] := ARRAY[member_id];
    present boolean;
    next_id bigint;
BEGIN
    LOOP
        EXECUTE format('SELECT m.active, a.delegate_id FROM %1$s.member AS m
                        LEFT JOIN %1$s.absence AS a ON a.member_id = m.id AND a.starts_at <= $2 AND a.ends_at > $2
                        WHERE m.id = $1', workspace)
        INTO present, next_id USING who, at;
        IF present AND next_id IS NULL THEN
            RETURN who;
        END IF;
        EXIT WHEN next_id IS NULL OR next_id = ANY (path);
        path := path || next_id;
        who := next_id;
    END LOOP;
    -- The chain leads nowhere: the first above who is there, then those of last resort.
    EXECUTE format('WITH RECURSIVE above (id, manager_id, height) AS (
                        SELECT m.id, m.manager_id, 0 FROM %1$s.member AS m WHERE m.id = $1
                        UNION ALL
                        SELECT m.id, m.manager_id, a.height + 1 FROM above AS a JOIN %1$s.member AS m ON m.id = a.manager_id WHERE a.height < 100)
                    SELECT c.id
                    FROM (SELECT a.id, a.height FROM above AS a WHERE a.height > 0
                          UNION ALL
                          SELECT m.id, 1000 FROM %1$s.setting AS s JOIN %1$s.member AS m ON m.id::text = s.value WHERE s.name = ''escalation_fallback''
                          UNION ALL
                          SELECT m.id, 1001 FROM %1$s.member AS m WHERE m.access = ''all'') AS c
                    JOIN %1$s.member AS m ON m.id = c.id AND m.active
                    WHERE NOT EXISTS (SELECT FROM %1$s.absence AS b WHERE b.member_id = c.id AND b.starts_at <= $2 AND b.ends_at > $2)
                    ORDER BY c.height, c.id LIMIT 1', workspace)
    INTO next_id USING member_id, at;
    RETURN coalesce(next_id, member_id);
END
$$;

COMMENT ON FUNCTION crm._deputy(regnamespace, bigint, timestamptz) IS
'Who is reminded in place of a member at a time: the end of the chain of those who stand in. Where it comes back to somebody, or ends at one who has left: the first member above who is there, then the one named by the setting escalation_fallback, then one with access all; if there is nobody, the member itself.';

CREATE FUNCTION crm._record_owners(workspace regnamespace, kinds text[], ids bigint[], OUT kind text, OUT id bigint, OUT owner_id bigint)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    query text := (SELECT string_agg(format('SELECT %L, r.%I, r.%I FROM %s AS r WHERE r.%2$I = ANY ($1)', t.kind, t.id_column, t.owner_column, t.rel), ' UNION ALL ')
                   FROM crm._record_tables(workspace) AS t WHERE t.kind = ANY (kinds));
BEGIN
    IF query IS NOT NULL THEN
        RETURN QUERY EXECUTE query USING ids;
    END IF;
END
$$;

COMMENT ON FUNCTION crm._record_owners(regnamespace, text[], bigint[]) IS
'The owners of the records of these kinds that have one of these ids; kinds that are no more are passed over.';

CREATE FUNCTION crm._check_following(workspace regnamespace, kind text, id bigint, member_id bigint) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me bigint := crm.member_id(workspace);
    whom bigint := coalesce(member_id, me);
    rec record;
BEGIN
    SELECT * INTO rec FROM crm._record_owner(workspace, kind, id) AS r;
    IF NOT rec.is_there OR NOT (crm.can_read(workspace, kind, rec.owner_id, id) OR crm._called_by_owner(workspace)) THEN
        RAISE EXCEPTION '% % does not exist or is not visible', kind, id
            USING ERRCODE = 'no_data_found';
    END IF;
    IF whom IS NULL THEN
        RAISE EXCEPTION 'the session acts for no member'
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Name the member who follows.';
    END IF;
    IF whom IS DISTINCT FROM me AND NOT (crm.can_edit(workspace, kind, rec.owner_id, id) OR crm._called_by_owner(workspace)) THEN
        RAISE EXCEPTION 'permission denied to let member % follow % %', whom, kind, id
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'Who may edit a record decides who else follows it.';
    END IF;
    RETURN whom;
END
$$;

COMMENT ON FUNCTION crm._check_following(regnamespace, text, bigint, bigint) IS
'The member who is meant (NULL: the session''s), or an error unless the session may decide whether that member follows the record.';

CREATE FUNCTION crm._follow(workspace regnamespace, kind text, id bigint, member_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    whom bigint := crm._check_following(workspace, kind, id, member_id);
BEGIN
    PERFORM crm._check_member(workspace, whom);
    EXECUTE format('INSERT INTO %s.follower (kind, record_id, member_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING', workspace) USING kind, id, whom;
END
$$;

COMMENT ON FUNCTION crm._follow(regnamespace, text, bigint, bigint) IS 'What follow() of a workspace does.';

CREATE FUNCTION crm._unfollow(workspace regnamespace, kind text, id bigint, member_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    whom bigint := member_id;
    deleted bigint;
BEGIN
    -- Oneself at any time, also from what one may no longer see.
    IF whom IS NULL OR whom IS DISTINCT FROM crm.member_id(workspace) THEN
        whom := CASE WHEN whom IS NULL THEN crm.member_id(workspace) ELSE crm._check_following(workspace, kind, id, whom) END;
    END IF;
    EXECUTE format('WITH d AS (DELETE FROM %s.follower AS f WHERE f.kind = $1 AND f.record_id = $2 AND f.member_id = $3 RETURNING 1) SELECT count(*) FROM d', workspace)
    INTO deleted USING kind, id, whom;
    RETURN deleted > 0;
END
$$;

COMMENT ON FUNCTION crm._unfollow(regnamespace, text, bigint, bigint) IS 'What unfollow() of a workspace does.';
