-- Working time, to the second, against a walk over the minutes.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE ROLE regress_calendar_app;
CREATE ROLE regress_calendar_none;
SELECT crm.create_workspace('regress_cal');
SELECT crm.grant_access('regress_cal', 'regress_calendar_app', 'app');
SET search_path = regress_cal;

-- the standard week: 9 to 12 and 13 to 18, Monday to Friday; 2026-01-02 is a Friday
SELECT business_between('2026-01-02 11:00', '2026-01-05 10:00') AS over_the_weekend,
    business_between('2026-01-05 10:00', '2026-01-02 11:00') AS backwards,
    business_between('2026-01-03 11:00', '2026-01-04 10:00') AS weekend;
SELECT business_add('2026-01-02 17:30', '1 hour') AS one, business_add('2026-01-02 17:00', '1 hour') AS to_the_end, business_add('2026-01-03 17:00', '1 second') AS from_saturday;
SELECT business_add('2026-01-05 10:00', '-2 hours') AS back, business_add('2026-01-05 10:00', '-1 hour') AS to_the_start, business_add('2026-01-04 10:00', '-30 minutes') AS from_sunday;
SELECT business_add('2026-01-03 10:00', '0') AS nothing, business_add('2026-01-02 09:00', '48:00:00') AS first_response, business_add('2026-01-01', '20000:30:15.5') AS ten_years;
SELECT business_add_days('2026-01-02 17:30', 1) AS next, business_add_days('2026-01-03 20:00', -1) AS before, business_add_days('2026-01-03', 0) AS same, business_add_days('2026-01-01', 2600) AS ten_years;
SELECT business_open('2026-01-02 09:00'), business_open('2026-01-02 12:00'), business_open('2026-01-02 12:59:59'), business_open('2026-01-02 17:59:59.999999'), business_open('2026-01-03 10:00');

-- Chinese New Year 2026: closed from Sunday to Monday week, and two Saturdays are worked for it
INSERT INTO calendar (name, time_zone) VALUES ('北京', 'Asia/Shanghai');
INSERT INTO calendar_hours (calendar_id, weekday, opens, closes) SELECT c.id, d, '09:00', '17:00' FROM calendar AS c, generate_series(1, 5) AS d WHERE c.name = '北京';
INSERT INTO calendar_day (calendar_id, day, name) SELECT c.id, d, '春节' FROM calendar AS c, generate_series(date '2026-02-15', '2026-02-23', '1 day') AS d WHERE c.name = '北京';
INSERT INTO calendar_day (calendar_id, day, weekday, name) SELECT c.id, d, 5, '调休' FROM calendar AS c, unnest('{2026-02-14,2026-02-28}'::date[]) AS d WHERE c.name = '北京';
SELECT business_add_days('2026-02-13 10:00+08', 1, '北京') AT TIME ZONE 'Asia/Shanghai' AS saturday, business_add_days('2026-02-14 10:00+08', 1, '北京') AT TIME ZONE 'Asia/Shanghai' AS after_the_feast;
SELECT business_between('2026-02-01+08', '2026-03-01+08', '北京') AS february;
SELECT business_add('2026-02-14 16:00+08', '1:30', '北京') AT TIME ZONE 'Asia/Shanghai' AS over_the_feast;

-- a night shift where the clocks change, and a day that was not
INSERT INTO calendar (id, name, time_zone) VALUES (101, 'night', 'America/New_York'), (102, 'Apia', 'Pacific/Apia'), (103, 'never', 'UTC'), (104, 'round the clock', 'Europe/Berlin');
INSERT INTO calendar_hours (calendar_id, weekday, opens, closes) SELECT 101, d, '00:00', '06:00' FROM generate_series(1, 7) AS d;
INSERT INTO calendar_hours (calendar_id, weekday, opens, closes) SELECT 101, d, '22:00', '24:00' FROM generate_series(1, 7) AS d;
INSERT INTO calendar_hours (calendar_id, weekday, opens, closes) SELECT 102, d, '09:00', '17:00' FROM generate_series(1, 7) AS d;
INSERT INTO calendar_hours (calendar_id, weekday, opens, closes) SELECT 104, d, '00:00', '24:00' FROM generate_series(1, 7) AS d;
SELECT business_between('2026-03-07 12:00-05', '2026-03-08 12:00-04', 'night') AS spring, business_between('2026-10-31 12:00-04', '2026-11-01 12:00-05', 'night') AS autumn;
SELECT business_between('2011-12-29 00:00-10', '2012-01-01 00:00+14', 'Apia') AS two_days_of_three;
SELECT business_between('2026-01-01', '2027-01-01', 'round the clock') = '2027-01-01'::timestamptz - '2026-01-01'::timestamptz AS all_the_time;

-- the oracle: every minute asked by itself what the wall clock shows
CREATE FUNCTION pg_temp.walk(a timestamptz, b timestamptz, calendar_name text) RETURNS interval LANGUAGE sql AS $$
SELECT count(*) * interval '1 minute'
FROM calendar AS c
CROSS JOIN generate_series(a, b - interval '1 minute', '1 minute') AS m
CROSS JOIN LATERAL (SELECT m AT TIME ZONE c.time_zone AS wall) AS w
LEFT JOIN calendar_day AS d ON d.calendar_id = c.id AND d.day = wall::date
JOIN calendar_hours AS h ON h.calendar_id = c.id AND h.opens <= wall::time AND wall::time < h.closes
    AND h.weekday = CASE WHEN d.id IS NULL THEN extract(isodow FROM wall) ELSE d.weekday END
WHERE c.name = calendar_name $$;
SELECT setseed(0.42);
CREATE TEMPORARY TABLE random_case AS
SELECT c.name, t.a, t.a + floor(random() * 20000) * interval '1 minute' AS b, floor(random() * 9000) * interval '1 minute' AS amount
FROM (VALUES ('standard'), ('北京'), ('night'), ('Apia')) AS c (name), generate_series(1, 15) AS i,
    LATERAL (SELECT timestamptz '2026-01-20' + floor(random() * 1440 * 60) * interval '1 minute' + i * interval '0' AS a) AS t;
SELECT count(*), count(*) FILTER (WHERE business_between(a, b, name) <> pg_temp.walk(a, b, name)) AS wrong FROM random_case;
-- adding is the inverse, to either side, and the earliest or latest instant that is
SELECT count(*) FILTER (WHERE business_between(a, business_add(a, amount, name), name) <> amount) AS wrong_forward,
    count(*) FILTER (WHERE business_between(business_add(a, -amount, name), a, name) <> amount) AS wrong_backward,
    count(*) FILTER (WHERE amount > '0' AND business_between(a, business_add(a, amount, name) - interval '1 us', name) >= amount) AS not_earliest,
    count(*) FILTER (WHERE amount > '0' AND business_between(business_add(a, -amount, name) + interval '1 us', a, name) >= amount) AS not_latest
FROM random_case;
SELECT count(*) FILTER (WHERE business_between('1990-01-01', a, name) + business_between(a, '2100-01-01', name) <> business_between('1990-01-01', '2100-01-01', name)) AS not_additive
FROM random_case;

-- read once, and again when something changed, committed or not
SELECT crm_test.calendar_reads() AS reads \gset
SELECT business_open('2026-01-02 10:00') FROM generate_series(1, 3);
SELECT crm_test.calendar_reads() - :reads AS reads;
BEGIN;
UPDATE calendar_hours SET closes = '11:00' WHERE opens = '09:00' AND calendar_id = (SELECT id FROM calendar WHERE name = 'standard');
SELECT business_open('2026-01-02 11:30') AS changed;
ROLLBACK;
SELECT business_open('2026-01-02 11:30') AS as_before;
INSERT INTO calendar_day (calendar_id, day, name) SELECT id, '2026-01-02', 'inventory' FROM calendar WHERE name = 'standard';
SELECT business_open('2026-01-02 11:30') AS closed;
TRUNCATE calendar_day;
SELECT business_open('2026-01-02 11:30') AS open;

-- fails: what is not defined
SELECT business_add('2026-01-01', '1 day');
SELECT business_add('2026-01-01', '1 hour', 'no such calendar');
SELECT business_add('2026-01-01', '1 hour', repeat('x', 1000000));
SELECT business_add('infinity', '1 hour');
SELECT business_between('1800-01-01', '2026-01-01');
SELECT business_add('2026-01-01', '1 hour', 'never');
SELECT business_add('2026-01-01', '-1 hour', 'never');
SELECT business_add_days('2026-01-01', 2000000000, 'never');
SELECT business_add('2026-01-01', '178956970:00:00');
SELECT crm.business_open('public', now(), 'standard');
SELECT business_open(NULL) IS NULL AS null_in_null_out;
\set VERBOSITY terse
INSERT INTO calendar_hours (calendar_id, weekday, opens, closes) SELECT id, 1, '11:00', '14:00' FROM calendar WHERE name = 'standard';
INSERT INTO calendar_hours (calendar_id, weekday, opens, closes) VALUES (103, 1, '18:00', '09:00');
INSERT INTO calendar_hours (calendar_id, weekday, opens, closes) VALUES (103, 8, '08:00', '09:00');
INSERT INTO calendar_day (calendar_id, day) VALUES (103, 'infinity');
UPDATE calendar SET time_zone = 'Nowhere' WHERE id = 103;
INSERT INTO member (name, time_zone) VALUES ('x', 'Europe/Berln');
-- one that the server once knew
ALTER TABLE calendar DISABLE TRIGGER check_time_zone;
UPDATE calendar SET time_zone = 'Nowhere' WHERE id = 103;
ALTER TABLE calendar ENABLE TRIGGER check_time_zone;
SELECT business_open(now(), 'never');
\set VERBOSITY default

-- applications compute, also before anybody else has; others do not
\c
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET search_path = regress_cal;
SET ROLE regress_calendar_app;
SELECT business_add('2026-01-02 17:30', '1 hour');
-- changes nothing: calendars are the administrators'
UPDATE calendar SET name = 'mine';
SELECT count(*) FROM calendar WHERE name = 'mine';
SET ROLE regress_calendar_none;
SELECT crm.business_add('regress_cal', '2026-01-02 17:30', '1 hour', 'standard');
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA regress_cal CASCADE;
DROP OWNED BY regress_calendar_app, regress_calendar_none;
DROP ROLE regress_calendar_app, regress_calendar_none;
