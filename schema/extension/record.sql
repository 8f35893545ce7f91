CREATE FUNCTION crm.touch() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_touch';

COMMENT ON FUNCTION crm.touch() IS
'Trigger before update for each row of any table: sets updated_at (timestamptz) to the transaction''s time and adds 1 to row_version (integer or bigint) when a row changes; a table may have one of the two. An update that sends a row_version other than the current or the next one was made from a stale copy and fails with SQLSTATE 40001.';

CREATE FUNCTION crm._record_table(workspace regnamespace, kind text, OUT rel regclass, OUT owner_column name, OUT id_column name)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT r.rel, r.owner_column, r.id_column INTO rel, owner_column, id_column
    FROM crm._record_tables(workspace) AS r WHERE r.kind = _record_table.kind;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'unrecognized kind of record: "%"', kind
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('The kinds are %s.', (SELECT string_agg(r.kind, ', ' ORDER BY r.kind) FROM crm._record_tables(workspace) AS r));
    END IF;
END
$$;

COMMENT ON FUNCTION crm._record_table(regnamespace, text) IS
'The table that holds a kind of record, with its owner and id columns; an error for a kind that has none.';

CREATE FUNCTION crm._claim(workspace regnamespace, kind text, id bigint, OUT claimed boolean, OUT reason text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me bigint := crm.member_id(workspace);
    t record;
    holder bigint;
    visible integer;
BEGIN
    SELECT * INTO t FROM crm._record_table(workspace, kind);
    claimed := false;
    IF me IS NULL THEN
        reason := 'this session acts for no member';
        RETURN;
    END IF;

    -- Row by row, so that of many who want one record one gets it and nobody waits.
    EXECUTE format('SELECT r.%I FROM %s AS r WHERE r.%I = $1', t.owner_column, t.rel, t.id_column) INTO holder USING id;
    GET DIAGNOSTICS visible = ROW_COUNT;
    IF visible = 0 THEN
        reason := 'there is no such record, or you may not see it';
    ELSIF holder = me THEN
        reason := 'it is yours already';
    ELSIF holder IS NOT NULL THEN
        reason := 'it has an owner';
    ELSIF NOT crm.can_edit(workspace, kind, NULL, id) THEN
        reason := 'you may not edit records without an owner';
    ELSE
        EXECUTE format('WITH free AS (SELECT r.%3$I AS id FROM %1$s AS r WHERE r.%3$I = $1 AND r.%2$I IS NULL FOR UPDATE SKIP LOCKED)
                        UPDATE %1$s AS r SET %2$I = $2 FROM free WHERE r.%3$I = free.id', t.rel, t.owner_column, t.id_column)
            USING id, me;
        GET DIAGNOSTICS visible = ROW_COUNT;
        claimed := visible > 0;
        reason := CASE WHEN NOT claimed THEN 'someone else is changing it at this moment' END;
    END IF;
END
$$;

COMMENT ON FUNCTION crm._claim(regnamespace, text, bigint) IS
'Does the work of claim() of a workspace.';

CREATE FUNCTION crm._claim_next(workspace regnamespace, kind text, max_records integer) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me bigint := crm.member_id(workspace);
    t record;
BEGIN
    SELECT * INTO t FROM crm._record_table(workspace, kind);
    IF max_records IS NULL OR max_records < 1 OR max_records > 1000 THEN
        RAISE EXCEPTION 'number of records must be between 1 and 1000'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF me IS NULL THEN
        RAISE EXCEPTION 'this session acts for no member'
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Log in as a role named in member.login_role, or through a gateway.';
    END IF;
    RETURN QUERY EXECUTE format(
        'WITH free AS (SELECT r.%3$I AS id FROM %1$s AS r
                       WHERE r.%2$I IS NULL AND crm.can_edit(%4$L::regnamespace, %5$L, NULL, r.%3$I)
                       ORDER BY r.%3$I LIMIT $1 FOR UPDATE SKIP LOCKED)
         UPDATE %1$s AS r SET %2$I = $2 FROM free WHERE r.%3$I = free.id RETURNING r.%3$I',
        t.rel, t.owner_column, t.id_column, workspace::text, kind)
        USING max_records, me;
END
$$;

COMMENT ON FUNCTION crm._claim_next(regnamespace, text, integer) IS
'Does the work of claim_next() of a workspace.';

-- A lead becomes what exists already where the record is certain to be the same,
-- and something new otherwise.  Columns that the two tables share by name are
-- carried over, those that users added included.

CREATE FUNCTION crm._convert_match(workspace regnamespace, kind text, record jsonb) RETURNS bigint
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    candidates bigint[];
BEGIN
    candidates := ARRAY(SELECT d.id FROM crm.find_duplicates(workspace, kind, record, 10) AS d WHERE d.score >= 0.95 ORDER BY d.score DESC);
    IF cardinality(candidates) > 1 THEN
        RAISE EXCEPTION 'the lead matches more than one %', kind
            USING ERRCODE = 'cardinality_violation',
                  DETAIL = format('It may be any of those with id %s.', array_to_string(candidates, ', ')),
                  HINT = format('Choose one with into_%s, or merge them first.', kind);
    END IF;
    RETURN candidates[1];
END
$$;

COMMENT ON FUNCTION crm._convert_match(regnamespace, text, jsonb) IS
'The one record of a kind that a lead is, with a probability of at least 0.95; NULL if there is none, an error if there are several.';

CREATE FUNCTION crm._convert_insert(workspace regnamespace, kind text, lead_id bigint, other jsonb, leave_out text[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source regclass := (SELECT format('%I.lead', n.nspname) FROM pg_namespace AS n WHERE n.oid = workspace);
    target regclass := (SELECT format('%I.%I', n.nspname, kind) FROM pg_namespace AS n WHERE n.oid = workspace);
    columns text;
    expressions text;
    result bigint;
BEGIN
    SELECT string_agg(quote_ident(w.name), ', ' ORDER BY w.name), string_agg(w.value, ', ' ORDER BY w.name)
    INTO columns, expressions
    FROM (SELECT e.key AS name, quote_literal(e.value) AS value
          FROM jsonb_each_text(other) AS e
          UNION ALL
          SELECT a.attname, quote_ident(a.attname)
          FROM pg_attribute AS a
          JOIN pg_attribute AS l ON l.attrelid = source AND l.attname = a.attname AND l.atttypid = a.atttypid AND l.attnum > 0 AND NOT l.attisdropped
          WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
            AND a.attgenerated = '' AND a.attidentity = ''
            AND a.attname <> ALL (ARRAY['id', 'created_at', 'updated_at', 'row_version', 'pipeline', 'stage'] || leave_out)
            AND NOT other ? a.attname) AS w;
    EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM %s WHERE id = $1 RETURNING id', target, columns, expressions, source)
        INTO result USING lead_id;
    RETURN result;
END
$$;

COMMENT ON FUNCTION crm._convert_insert(regnamespace, text, bigint, jsonb, text[]) IS
'Inserts a record made of the columns it shares with a lead, except some, and of other values. Returns its id.';

CREATE FUNCTION crm._convert_lead(workspace regnamespace, lead_id bigint, opportunity_name text, amount numeric, currency text, close_date date,
                                  into_account bigint, into_contact bigint, match boolean,
                                  OUT account_id bigint, OUT contact_id bigint, OUT opportunity_id bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema_name text := (SELECT quote_ident(n.nspname) FROM pg_namespace AS n WHERE n.oid = workspace);
    lead record;
    -- Fields that a user may have dropped from the table are read as absent.
    fields jsonb;
    found boolean;
    person boolean;
    next_stage text;
BEGIN
    EXECUTE format('SELECT l.* FROM %s.lead AS l WHERE l.id = $1 FOR UPDATE', schema_name) INTO lead USING lead_id;
    IF lead.id IS NULL THEN
        RAISE EXCEPTION 'lead % does not exist, or you may not edit it', lead_id
            USING ERRCODE = 'no_data_found';
    END IF;
    IF lead.converted_at IS NOT NULL THEN
        RAISE EXCEPTION 'lead % has been converted already', lead_id
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = format('It became %s.', concat_ws(', ', 'account ' || lead.converted_account_id, 'contact ' || lead.converted_contact_id,
                                                             'opportunity ' || lead.converted_opportunity_id));
    END IF;
    fields := to_jsonb(lead);
    person := num_nonnulls(fields ->> 'full_name', fields ->> 'given_name', fields ->> 'family_name') > 0;

    IF into_account IS NOT NULL THEN
        EXECUTE format('SELECT true FROM %s.account AS a WHERE a.id = $1', schema_name) INTO found USING into_account;
        IF found IS NULL THEN
            RAISE EXCEPTION 'account % does not exist, or you may not see it', into_account
                USING ERRCODE = 'no_data_found';
        END IF;
        account_id := into_account;
    ELSIF (fields ->> 'company') IS NOT NULL THEN
        IF match THEN
            account_id := crm._convert_match(workspace, 'account', jsonb_strip_nulls(jsonb_build_object(
                'name', fields ->> 'company', 'website', fields ->> 'website', 'city', fields ->> 'city', 'region', fields ->> 'region', 'country', fields ->> 'country',
                'street', fields ->> 'street', 'postcode', fields ->> 'postcode')));
        END IF;
        IF account_id IS NULL THEN
            account_id := crm._convert_insert(workspace, 'account', lead_id, jsonb_build_object('name', fields ->> 'company'),
                                              CASE WHEN person THEN '{phone,email,description}'::text[] ELSE '{description}' END);
        END IF;
    END IF;

    IF into_contact IS NOT NULL THEN
        EXECUTE format('SELECT true FROM %s.contact AS c WHERE c.id = $1', schema_name) INTO found USING into_contact;
        IF found IS NULL THEN
            RAISE EXCEPTION 'contact % does not exist, or you may not see it', into_contact
                USING ERRCODE = 'no_data_found';
        END IF;
        contact_id := into_contact;
    ELSIF person OR (fields ->> 'company') IS NULL THEN
        IF match THEN
            contact_id := crm._convert_match(workspace, 'contact', jsonb_strip_nulls(jsonb_build_object(
                'full_name', fields ->> 'full_name', 'given_name', fields ->> 'given_name', 'family_name', fields ->> 'family_name',
                'phone', fields ->> 'phone', 'email', fields ->> 'email', 'street', fields ->> 'street', 'city', fields ->> 'city', 'postcode', fields ->> 'postcode')));
        END IF;
        IF contact_id IS NULL THEN
            contact_id := crm._convert_insert(workspace, 'contact', lead_id,
                                              jsonb_strip_nulls(jsonb_build_object('account_id', account_id)), '{}');
        END IF;
    END IF;

    IF opportunity_name IS NOT NULL THEN
        opportunity_id := crm._convert_insert(workspace, 'opportunity', lead_id,
            jsonb_strip_nulls(jsonb_build_object('name', opportunity_name, 'account_id', account_id, 'contact_id', contact_id,
                                                 'amount', amount, 'currency', currency, 'close_date', close_date)), '{description}');
    END IF;

    EXECUTE format('UPDATE %s.activity AS a
                    SET account_id = coalesce(a.account_id, $2), contact_id = coalesce(a.contact_id, $3), opportunity_id = coalesce(a.opportunity_id, $4)
                    WHERE a.lead_id = $1', schema_name)
        USING lead_id, account_id, contact_id, opportunity_id;
    EXECUTE format('SELECT s.name FROM %s.stage AS s WHERE s.pipeline = $1 AND s.type = ''won'' ORDER BY s.position, s.name LIMIT 1', schema_name)
        INTO next_stage USING lead.pipeline;
    EXECUTE format('UPDATE %s.lead SET converted_at = now(), converted_account_id = $2, converted_contact_id = $3, converted_opportunity_id = $4,
                           stage = coalesce($5, stage)
                    WHERE id = $1', schema_name)
        USING lead_id, account_id, contact_id, opportunity_id, next_stage;
END
$$;

COMMENT ON FUNCTION crm._convert_lead(regnamespace, bigint, text, numeric, text, date, bigint, bigint, boolean) IS
'Does the work of convert_lead() of a workspace.';
