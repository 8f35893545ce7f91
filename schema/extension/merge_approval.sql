-- Merges that somebody has to agree to.

CREATE FUNCTION crm._may_approve_merge(workspace regnamespace, kind text, ids text[], approver text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    result boolean;
BEGIN
    IF crm.is_administrator(workspace) THEN
        RETURN true;
    END IF;
    SELECT r.rel, r.owner_column, r.id_column INTO t FROM crm._record_tables(workspace) AS r WHERE r.kind = _may_approve_merge.kind;
    IF approver = 'administrator' OR t.rel IS NULL OR NOT crm._are_integers(ids) THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT count(*) = cardinality($1) FROM %s AS t WHERE t.%I = ANY ($1::bigint[]) AND crm.can_delete($2, t.%I)', t.rel, t.id_column, t.owner_column)
    INTO result USING ids, workspace;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._may_approve_merge(regnamespace, text, text[], text) IS
'May the session''s member agree to a merge of these records? approver owner: who has the owner''s rights over every one of them; administrator, and in any case: members with access all.';

CREATE FUNCTION crm._are_integers(ids text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN NOT EXISTS (SELECT FROM unnest(ids) AS i WHERE i IS NULL OR i !~ '^-?[0-9]{1,18}$');

COMMENT ON FUNCTION crm._are_integers(text[]) IS 'Whether all texts are integers of at most 18 digits.';

CREATE FUNCTION crm._merge_approval_query(workspace regnamespace, kind text, condition text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record := crm._kind_table(workspace, kind);
BEGIN
    RETURN format('SELECT EXISTS (SELECT FROM %1$s AS new, %1$s AS old WHERE new.%2$I = $1::%3$s AND old.%2$I = ANY ($2::%3$s[]) AND (%4$s))',
                  t.rel, t.id_column, (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a WHERE a.attrelid = t.rel AND a.attname = t.id_column),
                  coalesce(condition, 'true'));
END
$$;

COMMENT ON FUNCTION crm._merge_approval_query(regnamespace, text, text) IS
'The query that says whether a rule of merge_approval_rule is about a merge of the survivor ($1) and losers ($2), as text.';

CREATE FUNCTION crm._merge_approval(workspace regnamespace, kind text, survivor text, losers text[]) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rule record;
    concerned boolean;
BEGIN
    FOR rule IN EXECUTE format('SELECT r.name, r.condition, r.approver FROM %s.merge_approval_rule AS r
                                WHERE r.kind = $1 AND r.active ORDER BY r.approver, r.id', workspace) USING kind
    LOOP
        EXECUTE crm._merge_approval_query(workspace, kind, rule.condition) INTO concerned USING survivor, losers;
        IF concerned AND NOT crm._may_approve_merge(workspace, kind, losers || survivor, rule.approver) THEN
            RETURN format('By rule "%s" %s has to agree.', rule.name,
                          CASE rule.approver WHEN 'owner' THEN 'whoever has the owner''s rights over every one of the records' ELSE 'an administrator of the workspace' END);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION crm._merge_approval(regnamespace, text, text, text[]) IS
'By which rule the session''s member may not merge these records without approval, as a sentence; NULL: by none. Must run as the workspace''s owner.';

CREATE FUNCTION crm.merge_approval_config() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE 'SELECT FROM (' || crm._merge_approval_query((SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = TG_RELID), NEW.kind, NEW.condition) || ') AS q LIMIT 0'
    USING NULL::text, NULL::text[];
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION crm.merge_approval_config() IS
'Trigger of table merge_approval_rule: refuses a kind that does not exist and a condition that its table cannot have.';

CREATE FUNCTION crm.merge_request_changed() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    workspace regnamespace := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = TG_RELID);
    ids text[] := NEW.loser_ids || NEW.survivor_id;
    t record;
    seen bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        t := crm._kind_table(workspace, NEW.kind);
        EXECUTE format('SELECT count(*) FROM %s AS t WHERE t.%I::text = ANY ($1)', t.rel, t.id_column) INTO seen USING ids;
        IF seen <> (SELECT count(DISTINCT i) FROM unnest(ids) AS i) OR seen <> cardinality(ids) OR seen < 2 THEN
            RAISE EXCEPTION 'cannot request to merge these records of kind "%"', NEW.kind
                USING ERRCODE = 'no_data_found',
                      DETAIL = 'One of them does not exist or is not visible, or is named twice.';
        END IF;
        NEW.requested_by := crm.member_id(workspace);
        NEW.requested_at := clock_timestamp();
        NEW.state := 'open';
        RETURN NEW;
    END IF;
    IF NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    IF OLD.state <> 'open' THEN
        RAISE EXCEPTION 'merge request % has been decided', OLD.id
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('It is %s.', OLD.state);
    END IF;
    IF NEW.state = 'approved' THEN
        -- Whoever agrees merges: their rights count, and a rule they may not decide stops them.
        NEW.merge_id := crm.merge_records(workspace, OLD.kind, OLD.survivor_id, OLD.loser_ids);
    ELSIF NEW.state = 'refused' AND NOT crm._may_approve_merge(workspace, OLD.kind, ids, 'owner')
          OR NEW.state = 'withdrawn' AND OLD.requested_by IS DISTINCT FROM crm.member_id(workspace) THEN
        RAISE EXCEPTION 'permission denied to decide about merge request %', OLD.id
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'It is withdrawn by whoever made it, and refused by who may agree to it.';
    END IF;
    NEW.decided_by := crm.member_id(workspace);
    NEW.decided_at := clock_timestamp();
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION crm.merge_request_changed() IS
'Trigger of table merge_request: who asks must see the records; setting state approved merges them as the person who does it.';
