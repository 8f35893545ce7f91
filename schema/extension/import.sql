-- Records from a file: each line is stored or says why not, and those that were
-- stored are known again.

CREATE FUNCTION crm._import_columns(rel regclass, source regclass, OUT name name, OUT value text)
RETURNS SETOF record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unknown text;
BEGIN
    SELECT s.attname INTO unknown
    FROM pg_attribute AS s
    LEFT JOIN pg_attribute AS a ON a.attrelid = rel AND a.attname = s.attname AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity = ''
    WHERE s.attrelid = source AND s.attnum > 0 AND NOT s.attisdropped AND s.attname NOT IN ('line', 'external_id') AND a.attname IS NULL
    ORDER BY s.attnum LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of % is none that can be written in %', unknown, source, rel
            USING ERRCODE = 'undefined_column',
                  HINT = 'Import from a view whose columns have the names of the table''s; the identifier that a record had elsewhere is external_id.';
    END IF;
    RETURN QUERY
    SELECT a.attname,
           format(CASE WHEN d.adbin IS NULL THEN '%s' ELSE 'coalesce(%s, %s)' END,
                  -- Values of other types come as text; a blank is none.
                  CASE WHEN s.atttypid = a.atttypid AND s.atttypid <> 'text'::regtype THEN format('s.%I', s.attname)
                       ELSE format('nullif(btrim(s.%I::text), '''')::%s', s.attname, format_type(a.atttypid, NULL)) END,
                  pg_get_expr(d.adbin, d.adrelid))
    FROM pg_attribute AS s
    JOIN pg_attribute AS a ON a.attrelid = rel AND a.attname = s.attname AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE s.attrelid = source AND s.attnum > 0 AND NOT s.attisdropped AND s.attname NOT IN ('line', 'external_id')
    ORDER BY s.attnum;
END
$$;
COMMENT ON FUNCTION crm._import_columns(regclass, regclass) IS
'The columns of a table that a source of an import fills, with the expression over its row "s" for each. Errors: 42703 if the source has a column that the table has not.';
