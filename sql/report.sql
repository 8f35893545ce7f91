-- Reports: plain types, one currency, the reader's own records only; funnel and bridge add up.
\set SHOW_CONTEXT never
\pset format unaligned
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE ROLE regress_report_reader;
SELECT crm.create_workspace('regress_report');
SELECT crm.grant_access('regress_report', 'regress_report_reader', 'report');
SET search_path = regress_report;
INSERT INTO member (id, name) VALUES (1, 'Ann'), (2, 'Bob');
INSERT INTO account (id, name, owner_id) VALUES (1, 'Acme', 1), (2, 'Beta', 2);
INSERT INTO contact (full_name, account_id, owner_id) VALUES ('A', 1, 1), ('B', 1, 1);
UPDATE setting SET value = 'EUR' WHERE name = 'reporting_currency';
-- fails: no currency
\set VERBOSITY terse
UPDATE setting SET value = 'Euro' WHERE name = 'reporting_currency' AND value = 'EUR' RETURNING value IS NULL;
\set VERBOSITY default
INSERT INTO exchange_rate (currency, valid_from, rate) VALUES ('USD', '2020-01-01', 0.5), ('USD', current_date, 0.9), ('USD', current_date + 1, 5);
INSERT INTO opportunity (id, name, account_id, amount, currency, close_date, owner_id) VALUES
    (1, 'Euro', 1, 1000, 'EUR', '2030-01-01', 1), (2, 'Dollar', 1, 1000, 'USD', '2030-01-01', 1), (3, 'Yen', 1, 1000, 'JPY', '2030-01-01', 1),
    (4, 'Plain', 1, 1000, NULL, '2030-01-01', 1), (5, 'Bob''s', 2, 1000, 'EUR', '2030-01-01', 2), (6, 'Old', 1, 1000, 'USD', '2030-01-01', 1);
UPDATE opportunity SET stage = 'proposal' WHERE id = 6;
UPDATE opportunity SET stage = 'negotiation' WHERE id = 6;
UPDATE opportunity SET stage = 'won' WHERE id = 6;
ALTER TABLE opportunity DISABLE TRIGGER USER;
UPDATE opportunity SET closed_at = '2021-05-05 12:00+00' WHERE id = 6;
ALTER TABLE opportunity ENABLE TRIGGER USER;
INSERT INTO activity (subject, account_id, due_at, completed_at, owner_id) VALUES
    ('Call', 1, '2020-01-01', '2020-01-02', 1), ('Visit', 1, '2020-01-01', NULL, 1), ('Later', 1, now() + interval '1 year', NULL, 1), ('Bob', 2, NULL, NULL, 2);

SET crm.member = 'regress_report/1';
SET ROLE regress_report_reader;
-- open ones at today's rate, closed ones at that of their day
SELECT id, name, account_name, stage, amount, currency, reporting_amount, weighted_amount, reporting_currency FROM report_opportunity ORDER BY id;
SELECT id, name, contacts, open_opportunities, open_amount, won_opportunities, won_amount, last_activity_at, open_activities, owner_name FROM report_account ORDER BY id;
SELECT subject, state, due_on < '2020-01-02' AS day, account_name FROM report_activity ORDER BY id;
SELECT stage, next_stage, is_current, days >= 0 AS days FROM report_stage_duration WHERE record_id = 6 ORDER BY id;
SELECT * FROM report_calendar WHERE day IN ('2024-12-30', '2026-02-28') ORDER BY day;
SELECT count(*) = max(day) - min(day) + 1 AS whole, min(day) < now() - interval '19 years' AS back, max(day) > now() + interval '10 years' AS ahead FROM report_calendar;
-- fails: reports are for reading
UPDATE report_opportunity SET amount = 0;
DELETE FROM opportunity;
RESET ROLE;

-- a funnel over a known history, with a skip, a way back and a return from lost
TRUNCATE stage_history;
ALTER TABLE opportunity DISABLE TRIGGER USER;
DELETE FROM opportunity;
INSERT INTO opportunity (id, name, pipeline, stage, amount, currency, owner_id) VALUES
    (1, 'straight', 'sales', 'won', 100, 'EUR', 1), (2, 'skips', 'sales', 'negotiation', 100, 'EUR', 1), (3, 'back', 'sales', 'qualification', 100, 'EUR', 1),
    (4, 'lost early', 'sales', 'lost', 100, 'EUR', 1), (5, 'lost late', 'sales', 'lost', 100, 'EUR', 1), (6, 'revived', 'sales', 'proposal', 100, 'EUR', 1),
    (7, 'another year', 'sales', 'qualification', 100, 'EUR', 1), (8, 'Bob''s', 'sales', 'won', 100, 'EUR', 2);
ALTER TABLE opportunity ENABLE TRIGGER USER;
INSERT INTO stage_history (kind, record_id, from_stage, pipeline, stage, type, changed_at)
SELECT 'opportunity', h.id, lag(s.stage) OVER w, 'sales', s.stage, CASE WHEN s.stage IN ('won', 'lost') THEN s.stage ELSE 'open' END,
       h.start + (s.n - 1) * interval '10 days'
FROM (VALUES (1, timestamptz '2025-01-01', '{qualification,proposal,negotiation,won}'::text[]), (2, '2025-01-01', '{qualification,negotiation}'),
             (3, '2025-02-01', '{qualification,proposal,qualification}'), (4, '2025-02-01', '{qualification,lost}'), (5, '2025-03-01', '{qualification,proposal,negotiation,lost}'),
             (6, '2025-03-01', '{qualification,lost,qualification,proposal}'), (7, '2026-01-01', '{qualification}'), (8, '2025-01-01', '{qualification,won}')) AS h (id, start, stages),
     unnest(h.stages) WITH ORDINALITY AS s (stage, n)
WINDOW w AS (PARTITION BY h.id ORDER BY s.n)
ORDER BY h.id, s.n;
SET ROLE regress_report_reader;
SELECT * FROM funnel('sales', '2025-01-01', '2026-01-01');
-- who was lost somewhere is lost altogether
SELECT sum(lost_from) = max(reached) FILTER (WHERE type = 'lost') AS balanced, sum(standing) AS cohort FROM funnel('sales');
SELECT count(*) FROM funnel('sales', '2030-01-01') WHERE reached > 0 OR percent_of_all IS NOT NULL;
-- fails: no rows would say that nothing happened
SELECT count(*) FROM funnel('no such pipeline');
\set VERBOSITY sqlstate
SELECT count(*) FROM funnel('no such pipeline');
SELECT count(*) FROM funnel(NULL);
SELECT count(*) FROM funnel('sales', '2026-01-01', '2025-01-01');
SELECT count(*) FROM pipeline_bridge('2025-01-15', '2025-03-15', 'no such pipeline');
SELECT count(*) FROM pipeline_bridge('2025-03-15', '2025-01-15');
SELECT count(*) FROM pipeline_bridge('2025-03-15', NULL);
\set VERBOSITY default

SELECT * FROM pipeline_bridge('2025-01-15', '2025-03-15', 'sales');
-- every bridge balances, in number and amount, whatever the period
SELECT count(*), bool_and(b.difference = 0) AS number, bool_and(b.amount = 0) AS amount
FROM generate_series(timestamptz '2024-12-25', '2026-02-01', '7 days') AS s (at), generate_series(timestamptz '2024-12-25', '2026-02-01', '11 days') AS u (at),
     LATERAL (SELECT sum(CASE WHEN step IN ('opening', 'new', 'moved in', 'reopened') THEN opportunities ELSE -opportunities END) AS difference,
                     sum(CASE WHEN step IN ('opening', 'new', 'moved in', 'reopened') THEN p.amount ELSE -p.amount END) AS amount
              FROM pipeline_bridge(s.at, u.at) AS p) AS b
WHERE s.at < u.at;
RESET ROLE;
-- moving to another pipeline leaves one and enters the other
INSERT INTO pipeline (name) VALUES ('renewal');
INSERT INTO stage (pipeline, name, position, is_initial) VALUES ('renewal', 'due', 1, true);
INSERT INTO stage_history (kind, record_id, pipeline, stage, type, changed_at) VALUES ('opportunity', 7, 'renewal', 'due', 'open', '2026-03-01');
SET ROLE regress_report_reader;
SELECT p.pipeline, b.* FROM (VALUES ('sales'), ('renewal'), (NULL)) AS p (pipeline), pipeline_bridge('2026-02-01', '2026-04-01', p.pipeline) AS b WHERE b.opportunities > 0;
RESET ROLE;
RESET crm.member;
SET ROLE regress_report_reader;
-- nobody sees nothing
SELECT (SELECT count(*) FROM report_opportunity) + (SELECT count(*) FROM report_account) + (SELECT count(*) FROM report_activity) + (SELECT count(*) FROM report_stage_duration) AS seen;
RESET ROLE;
RESET search_path;
DROP SCHEMA regress_report CASCADE;
DROP OWNED BY regress_report_reader;
DROP ROLE regress_report_reader;
