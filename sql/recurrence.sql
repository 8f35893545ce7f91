-- Recurrence rules: what they yield, what is refused, and reminders that recur.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- examples of RFC 5545, 3.8.5.3, all begun 1997-09-02 09:00 in New York
CREATE FUNCTION pg_temp.show(rule text, n integer DEFAULT 8) RETURNS text LANGUAGE sql AS $$
SELECT string_agg(to_char(t AT TIME ZONE 'America/New_York', 'YYYY-MM-DD HH24:MI'), ', ')
FROM crm.occurrences(rule, '1997-09-02 09:00', 'America/New_York', '-infinity', n) AS t $$;
SELECT pg_temp.show('FREQ=DAILY;COUNT=10', 12);
SELECT pg_temp.show('RRULE:FREQ=DAILY;UNTIL=19970905T000000Z');
SELECT pg_temp.show('FREQ=DAILY;INTERVAL=10;COUNT=5');
SELECT pg_temp.show('FREQ=WEEKLY;INTERVAL=2;UNTIL=19971007T000000Z;WKST=SU;BYDAY=MO,WE,FR');
SELECT pg_temp.show('FREQ=MONTHLY;COUNT=10;BYDAY=1FR');
SELECT pg_temp.show('FREQ=MONTHLY;INTERVAL=2;COUNT=10;BYDAY=1SU,-1SU');
SELECT pg_temp.show('FREQ=MONTHLY;BYMONTHDAY=-3');
SELECT pg_temp.show('FREQ=YEARLY;INTERVAL=3;COUNT=10;BYYEARDAY=1,100,200');
SELECT pg_temp.show('FREQ=YEARLY;BYDAY=20MO', 3);
SELECT pg_temp.show('FREQ=YEARLY;BYWEEKNO=20;BYDAY=MO', 3);
SELECT pg_temp.show('FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13');
SELECT pg_temp.show('FREQ=YEARLY;INTERVAL=4;BYMONTH=11;BYDAY=TU;BYMONTHDAY=2,3,4,5,6,7,8', 3);
SELECT pg_temp.show('FREQ=MONTHLY;COUNT=3;BYDAY=TU,WE,TH;BYSETPOS=3');
SELECT pg_temp.show('FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-2');
SELECT pg_temp.show('FREQ=HOURLY;INTERVAL=3;UNTIL=19970902T170000Z');
SELECT pg_temp.show('FREQ=MINUTELY;INTERVAL=90;COUNT=4');
SELECT pg_temp.show('FREQ=MONTHLY;BYMONTHDAY=15,30;COUNT=5');
SELECT pg_temp.show('FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=MO') AS monday, pg_temp.show('FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=SU') AS sunday;

-- dates taken out and added
SELECT pg_temp.show(E'FREQ=DAILY;COUNT=4\nEXDATE:19970903T090000,19970904\r\nRDATE:19970902T090000,19971224T180000');
SELECT pg_temp.show('RDATE:19980101,19971225T090000Z');
-- an ordinal and a whole day of the week together; a date that exists every fourth year
SELECT pg_temp.show('FREQ=MONTHLY;BYDAY=TH,1TU', 6);
SELECT * FROM crm.occurrences('FREQ=YEARLY', '1996-02-29 08:00', 'UTC', '1997-01-01', 3);
SELECT * FROM crm.occurrences('FREQ=YEARLY;BYWEEKNO=53', '2018-01-03', 'UTC', '-infinity', 2);

-- weeks as extract(week) numbers them, for every day of seventy years
SELECT count(*) AS weeks, count(*) FILTER (WHERE o IS DISTINCT FROM d) AS wrong
FROM generate_series(1, 53) AS week
CROSS JOIN LATERAL (
    SELECT array_agg(t::date ORDER BY t) AS o
    FROM crm.occurrences('FREQ=YEARLY;BYDAY=MO,TU,WE,TH,FR,SA,SU;UNTIL=20601231;BYWEEKNO=' || week, '1990-01-01', max => 1000) AS t) AS rule
CROSS JOIN LATERAL (
    SELECT array_agg(d::date ORDER BY d) AS d
    FROM generate_series(timestamp '1990-01-01', '2060-12-31', '1 day') AS d WHERE extract(week FROM d) = week) AS calendar;

-- the wall clock rules: 9 o'clock stays 9 o'clock
SELECT t FROM crm.occurrences('FREQ=WEEKLY', '2026-03-01 09:00', 'America/New_York', '-infinity', 3) AS t;
-- a time that is skipped is an hour late, one that comes twice comes the first time, and only then
SELECT t FROM crm.occurrences('FREQ=DAILY', '2026-03-07 02:30', 'America/New_York', '-infinity', 3) AS t;
SELECT t FROM crm.occurrences('FREQ=DAILY', '2026-10-31 01:30', 'America/New_York', '-infinity', 3) AS t;
SELECT crm.next_occurrence('FREQ=DAILY', '2026-10-31 01:30', 'America/New_York', '2026-11-01 05:30+00');
SELECT t FROM crm.occurrences('FREQ=DAILY', '2011-12-29 10:00', 'Pacific/Apia', '-infinity', 3) AS t;

-- far away and long ago, quickly
SET statement_timeout = '20s';
SELECT crm.next_occurrence('FREQ=SECONDLY', '0001-01-01', 'UTC', '2026-01-01');
SELECT crm.next_occurrence('FREQ=MINUTELY;BYMONTH=2;BYMONTHDAY=29', '0001-01-01', 'UTC', '2026-01-01');
SELECT crm.next_occurrence('FREQ=YEARLY', '2026-01-01', 'UTC', 'infinity') IS NULL AS ended;
SELECT crm.next_occurrence('FREQ=YEARLY', '9999-06-01', 'UTC', '9999-06-01') IS NULL AS ended;
SELECT count(*) FROM crm.occurrences('FREQ=DAILY;BYHOUR=0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23;BYMINUTE=0,30', '2026-01-01', max => 1000);
SELECT crm.next_occurrence('FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30', '2026-01-01', 'UTC', '2026-01-01') IS NULL AS never;
-- fails: what contradicts itself without end
SELECT crm.next_occurrence('FREQ=SECONDLY;INTERVAL=2;BYSECOND=1', '2026-01-01', 'UTC', '2026-01-01');
-- fails: and who cancels it need not wait for that
SET statement_timeout = '10ms';
SELECT crm.next_occurrence('FREQ=SECONDLY;INTERVAL=2;BYSECOND=1', '2026-01-01', 'UTC', '2026-01-01');
RESET statement_timeout;

-- fails: malformed rules
SELECT crm.recurrence('');
SELECT crm.recurrence('DAILY');
SELECT crm.recurrence('FREQ=FORTNIGHTLY');
SELECT crm.recurrence('INTERVAL=2');
SELECT crm.recurrence('FREQ=DAILY;FREQ=DAILY');
SELECT crm.recurrence('FREQ=DAILY;INTERVAL=0');
SELECT crm.recurrence('FREQ=DAILY;INTERVAL=99999999999999999999');
SELECT crm.recurrence('FREQ=DAILY;COUNT=1;UNTIL=20260101');
SELECT crm.recurrence('FREQ=DAILY;UNTIL=20260230');
SELECT crm.recurrence('FREQ=DAILY;UNTIL=2026-02-01');
SELECT crm.recurrence('FREQ=WEEKLY;BYDAY=2MO');
SELECT crm.recurrence('FREQ=WEEKLY;BYDAY=XX');
SELECT crm.recurrence('FREQ=MONTHLY;BYWEEKNO=1');
SELECT crm.recurrence('FREQ=DAILY;BYYEARDAY=1');
SELECT crm.recurrence('FREQ=WEEKLY;BYMONTHDAY=1');
SELECT crm.recurrence('FREQ=YEARLY;BYSETPOS=1');
SELECT crm.recurrence('FREQ=YEARLY;BYMONTH=13');
SELECT crm.recurrence('FREQ=YEARLY;BYMONTHDAY=0');
SELECT crm.recurrence('FREQ=DAILY;');
SELECT crm.recurrence('FREQ=DAILY x');
SELECT crm.recurrence(E'FREQ=DAILY\nFREQ=DAILY');
SELECT crm.recurrence('RDATE:');
SELECT crm.recurrence('FREQ=MONTHLY;BYDAY=' || (SELECT string_agg('1MO', ',') FROM generate_series(1, 200)));
\set VERBOSITY terse
SELECT crm.recurrence(repeat('FREQ=DAILY;', 100000));
\set VERBOSITY default
SELECT crm.next_occurrence('FREQ=DAILY', '2026-01-01', 'Mars/Olympus', '2026-01-01');
SELECT crm.next_occurrence('FREQ=DAILY', 'infinity', 'UTC', '2026-01-01');
SELECT crm.next_occurrence('FREQ=DAILY', '10000-01-01', 'UTC', '2026-01-01');
SELECT count(*) FROM crm.occurrences('FREQ=DAILY', '2026-01-01', max => -1);
SELECT crm.next_occurrence(NULL, '2026-01-01', 'UTC', '2026-01-01') IS NULL AS null_in_null_out;

-- reminders that recur
SELECT crm.create_workspace('regress_rec');
SET search_path = regress_rec;
INSERT INTO member (id, name, time_zone) VALUES (1, 'Ann', 'Asia/Shanghai');
INSERT INTO reminder (member_id, due_at, title, recurrence) VALUES (1, '2020-01-01 01:00+00', 'every day, caught up once', 'FREQ=DAILY');
SELECT time_zone, starts_at, occurs_at FROM reminder;
SELECT crm.run_due();
SELECT due_at::time AS due, due_at > crm.now() AND due_at <= crm.now() + interval '1 day' AS next_is_tomorrow, occurs_at = due_at AS planned FROM reminder;
SELECT due_at, title, missed = fired_at::date - due_at::date - (fired_at::time < due_at::time)::int AS missed_counted FROM event;
DELETE FROM reminder;
DELETE FROM event;
INSERT INTO reminder (member_id, due_at, title, recurrence, catch_up) VALUES (1, '2020-01-01 01:00+00', 'five times, each', 'FREQ=DAILY;COUNT=5', 'all');
SELECT crm.run_due(2);
SELECT due_at FROM reminder;
SELECT crm.run_due();
SELECT count(*) FROM reminder;
SELECT due_at FROM event ORDER BY id;
-- one occurrence moved to an earlier time: the next is the one after it, not itself
INSERT INTO reminder (member_id, due_at, title, recurrence, catch_up) VALUES (1, '2999-01-04 01:00+00', 'weekly', 'FREQ=WEEKLY', 'all');
UPDATE reminder SET due_at = '2020-01-03 01:00+00';
SELECT crm.run_due();
SELECT due_at, starts_at FROM reminder;
-- a new rule begins where it is told to
UPDATE reminder SET recurrence = 'FREQ=MONTHLY', starts_at = '2999-01-15 12:00', due_at = '2999-01-15 04:00+00';
SELECT due_at, occurs_at, starts_at FROM reminder;
-- an ordinary reminder among them
INSERT INTO reminder (member_id, due_at, title) VALUES (1, '2020-01-01', 'once');
SELECT crm.run_due();
-- once says how many it stands for, up to a bound; on time it stands for itself
DELETE FROM event;
DELETE FROM reminder;
INSERT INTO reminder (member_id, due_at, title, recurrence) VALUES
    (1, '2020-01-01 01:00+00', 'daily', 'FREQ=DAILY;COUNT=5'),
    (1, '2020-01-01 01:00+00', 'every second', 'FREQ=SECONDLY'),
    (1, date_trunc('second', crm.now()) - interval '1 s', 'just now', 'FREQ=DAILY');
SELECT crm.run_due();
SELECT title, missed, fired_at - due_at < interval '1 minute' AS on_time FROM event ORDER BY id;
SELECT title, late = fired_at - due_at AS says_how_late, missed, attempt FROM read_events('mailer');
SELECT (why_not(id)).detail -> 'missed' AS missed, (why_not(id)).detail -> 'late' = to_jsonb(fired_at - due_at) AS says_how_late FROM event WHERE title = 'daily';
DELETE FROM reminder;
-- fails: rules and zones are checked when they are written
INSERT INTO reminder (member_id, due_at, title, recurrence) VALUES (1, now(), 'bad', 'FREQ=SOMETIMES');
INSERT INTO reminder (member_id, due_at, title, recurrence, time_zone) VALUES (1, now(), 'bad', 'FREQ=DAILY', 'Nowhere');
\set VERBOSITY terse
INSERT INTO reminder (member_id, due_at, title, catch_up) VALUES (1, '2020-01-01', 'bad', 'never');

SET client_min_messages = warning;
DROP SCHEMA regress_rec CASCADE;
