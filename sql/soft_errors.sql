-- From PostgreSQL 16 on, malformed text can be tested without an error.
SELECT current_setting('server_version_num')::int < 160000 AS hard_errors_only \gset
\if :hard_errors_only
\quit
\endif
\set SHOW_CONTEXT never
SELECT t AS type, v AS value, pg_input_is_valid(v, 'crm.' || t) AS valid, e.message, e.detail, e.sql_error_code
FROM (VALUES
    ('email', 'ann@example.com'), ('email', 'ann'), ('email', 'ann@exa_mple.com'), ('email', 'ann@例' || chr(888) || '.cn'),
    ('phone', '+86 138 0013 8000'), ('phone', '138 0013 8000'), ('phone', '+999 12'), ('phone', 'abc'),
    ('uscc', '91350100M000100Y43'), ('uscc', '91350100M000100Y44'),
    ('amount', '1.50 CNY'), ('amount', '1.50'), ('amount', 'NaN CNY')
) AS i (t, v), pg_input_error_info(v, 'crm.' || t) AS e;

SELECT message, sql_error_code FROM pg_input_error_info(repeat('9', 200000) || ' CNY', 'crm.amount');
