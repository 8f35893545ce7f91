-- What reports are asked for is checked as what is written is: no rows would say that
-- nothing happened.

CREATE FUNCTION crm._check_pipeline(workspace regnamespace, pipeline text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known text[];
BEGIN
    IF pipeline IS NULL THEN
        RAISE EXCEPTION 'pipeline must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    EXECUTE format('SELECT array_agg(p.name ORDER BY p.name) FROM %s.pipeline AS p', workspace) INTO known;
    IF pipeline = ANY (known) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'pipeline "%" does not exist', pipeline
        USING ERRCODE = 'RMS02',
              DETAIL = format('Pipelines: %s.', coalesce((SELECT string_agg(format('"%s"', k), ', ') FROM unnest(known) AS k), 'none that you may see'));
END
$$;
COMMENT ON FUNCTION crm._check_pipeline(regnamespace, text) IS
'Errors unless the caller can see a pipeline of this name: RMS02, with those there are, and 22004 for NULL.';

CREATE FUNCTION crm._check_period(since timestamptz, until timestamptz, bounded boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF bounded AND (since IS NULL OR until IS NULL) THEN
        RAISE EXCEPTION 'beginning and end of the period must not be null' USING ERRCODE = 'null_value_not_allowed';
    ELSIF since > until THEN
        RAISE EXCEPTION 'the period ends before it begins'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is from %s to %s.', since, until);
    END IF;
END
$$;
COMMENT ON FUNCTION crm._check_period(timestamptz, timestamptz, boolean) IS
'Errors if a period ends before it begins (22023), or, with bounded, has no beginning or end (22004).';
