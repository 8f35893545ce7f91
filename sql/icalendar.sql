-- iCalendar: content lines, recurrence and time zones, and the feed of a person.
\set SHOW_CONTEXT never
SET timezone = 'UTC';

-- lines are folded to 75 octets between characters, and values cannot begin a line of their own
CREATE FUNCTION pg_temp.lines(text) RETURNS SETOF text LANGUAGE sql
RETURN unnest(string_to_array(left($1, -2), E'\r\n'));
CREATE VIEW pg_temp.long AS SELECT repeat('0123456789', 20) AS ascii, repeat('提醒', 50) AS han, repeat('😀', 40) AS emoji;
SELECT octet_length(l), l FROM pg_temp.long, pg_temp.lines(crm.icalendar_text('SUMMARY', ascii)) AS l;
SELECT octet_length(l), l FROM pg_temp.long, pg_temp.lines(crm.icalendar_text('SUMMARY', han)) AS l;
SELECT bool_and(octet_length(l) <= 75), count(*) FROM pg_temp.long, pg_temp.lines(crm.icalendar_text('SUMMARY', emoji)) AS l;
SELECT regexp_replace(crm.icalendar_text('SUMMARY', x), E'\r\n ', '', 'g') = 'SUMMARY:' || x || E'\r\n' FROM (SELECT unnest(ARRAY[ascii, han, emoji, left(ascii, 67), left(ascii, 68), '']) AS x FROM pg_temp.long) AS v;
SELECT crm.icalendar_text('SUMMARY', E'a;b,c\\d:"e"\ttab\r\nline\rline\nline\x01\x7fend');
SELECT crm.icalendar_property('SUMMARY', E'x\r\nATTENDEE:mailto:y') = E'SUMMARY:xATTENDEE:mailto:y\r\n';
SELECT '"' || crm.icalendar_text('SUMMARY', NULL) || '"', '"' || crm.icalendar_property(NULL, 'x') || '"';

SELECT crm.icalendar_time('DUE', '2026-07-01 12:00:00.9+00'), crm.icalendar_time('DUE', '2026-07-01 12:00+00', 'Asia/Shanghai'),
    crm.icalendar_time('DUE', 'infinity'), crm.icalendar_time('DUE', '0044-03-15 BC'), crm.icalendar_time('DUE', '10000-01-01');

-- what is left of a rule: COUNT lessened, UNTIL in UTC, dates with the time of day
CREATE FUNCTION pg_temp.rest(rule text, since timestamptz, zone text DEFAULT 'Europe/Berlin') RETURNS text LANGUAGE sql
RETURN replace(crm.icalendar_recurrence(rule, '2026-01-01 09:00', zone, since), E'\r', '');
SELECT pg_temp.rest('FREQ=DAILY;COUNT=10', '2026-01-04 00:00+00');
SELECT pg_temp.rest('rrule:freq=weekly;interval=2;byday=mo,we;until=20260301', '2026-01-04 00:00+00');
SELECT pg_temp.rest('FREQ=MONTHLY;UNTIL=20260701T090000', '2026-02-01 08:00+00');
SELECT pg_temp.rest(E'FREQ=DAILY;COUNT=3\r\nEXDATE:20260103,20260101\r\nRDATE:20260205T100000,20260206T100000Z', '2026-01-02 00:00+00');
SELECT pg_temp.rest(E'RDATE:20260205T100000', '2026-01-02 00:00+00', 'UTC');
SELECT pg_temp.rest(E'FREQ=DAILY;COUNT=3\nRDATE:20270101', '2026-02-01 00:00+00');
SELECT pg_temp.rest('FREQ=DAILY;COUNT=3', '2026-02-01 00:00+00') IS NULL;
-- fails
SELECT pg_temp.rest('FREQ=OFTEN', '2026-02-01 00:00+00');
SELECT crm.icalendar_recurrence('FREQ=DAILY', '2026-01-01', 'Mars/Base', now());
SELECT crm.icalendar_recurrence('FREQ=DAILY', '2026-01-01', 'UTC', 'infinity');

SELECT replace(crm.icalendar_time_zone('Europe/Berlin', '2026-01-01', '2027-06-01'), E'\r', '');
SELECT replace(crm.icalendar_time_zone('Asia/Kolkata', '2026-01-01', '2036-01-01'), E'\r', '');
SELECT crm.icalendar_time_zone('UTC', '2026-01-01', '2036-01-01') = '';
SELECT length(crm.icalendar_time_zone('America/New_York', '1960-01-01', '9999-01-01')) BETWEEN 10000 AND 50000;
-- fails
SELECT crm.icalendar_time_zone('Mars/Base', '2026-01-01', '2036-01-01');

-- the feed
CREATE ROLE regress_ical_owner;
CREATE ROLE regress_ical_ann;
CREATE ROLE regress_ical_bob;
GRANT CREATE ON DATABASE contrib_regression TO regress_ical_owner;
GRANT USAGE ON SCHEMA crm TO regress_ical_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_ical_owner;
SET ROLE regress_ical_owner;
SELECT crm.create_workspace('regress_ical');
SELECT crm.grant_access('regress_ical', 'regress_ical_ann', 'app'), crm.grant_access('regress_ical', 'regress_ical_bob', 'app');
SET search_path = regress_ical;
INSERT INTO member (id, name, time_zone, login_role, manager_id) VALUES (1, 'Ann; her own', 'Asia/Shanghai', 'regress_ical_ann', NULL), (2, 'Bob', 'UTC', 'regress_ical_bob', 1);
INSERT INTO activity (id, type, subject, body, due_at, owner_id) VALUES
    (1, 'meeting', 'Kick-off, at last', E'Bring:\n- offer', '2099-03-02 09:00+00', 1), (2, 'task', 'Write minutes', NULL, '2099-03-03 09:00+00', 1),
    (3, 'call', 'Any time', NULL, NULL, 1), (4, 'task', 'Bob''s own', NULL, NULL, 2);
INSERT INTO activity (id, subject, completed_at, owner_id) VALUES (5, 'Done', now(), 1);
INSERT INTO reminder (id, member_id, due_at, title, kind, record_id, recurrence) VALUES
    (1, 1, '2099-03-02 08:45+00', 'Kick-off soon', 'activity', 1, NULL), (2, 1, '2099-05-01 10:00+00', 'Call Acme', 'account', 7, NULL),
    (3, 1, '2099-01-05 08:00+00', 'Week', NULL, NULL, 'FREQ=WEEKLY;COUNT=10'), (4, 1, '2099-02-01 08:00+00', 'Moved', NULL, NULL, 'FREQ=MONTHLY'),
    (5, 2, '2099-05-01 10:00+00', 'For Bob', NULL, NULL, NULL), (6, 1, '2020-01-01 10:00+00', 'Fired', NULL, NULL, NULL);
INSERT INTO reminder (id, member_id, due_at, title, recurrence, starts_at, time_zone) VALUES (7, 1, '2099-01-01 10:00+00', 'Not of the rule', 'FREQ=WEEKLY;BYDAY=MO', '2099-01-01 10:00', 'UTC');
UPDATE reminder SET due_at = '2099-02-01 12:00+00' WHERE id = 4;
SELECT row_version, updated_at IS NOT NULL FROM reminder WHERE id IN (2, 4) ORDER BY id;
SELECT crm.run_due();
RESET ROLE;
CREATE FUNCTION public.feed(feed text) RETURNS text LANGUAGE sql
RETURN regexp_replace(regexp_replace(replace(feed, E'\r', ''), '^(DTSTAMP|LAST-MODIFIED|CREATED):\d{8}T\d{6}Z$', '\1:…', 'gn'), '@[0-9a-f]{10,}', '@…', 'g');
SET SESSION AUTHORIZATION regress_ical_ann;
SET search_path = regress_ical;
SELECT public.feed(calendar_feed());
-- those above read along
SELECT public.feed(calendar_feed(2));
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_ical_bob;
-- not those below; a colleague's feed is empty
SELECT count(*) FROM regexp_matches(calendar_feed(1), 'BEGIN:(VTODO|VEVENT)', 'g');
SELECT count(*) FROM regexp_matches(calendar_feed(), 'BEGIN:(VTODO|VEVENT)', 'g');
-- fails
SELECT calendar_feed(99);
RESET SESSION AUTHORIZATION;
SELECT calendar_feed();
-- nothing changed, nothing changes
SELECT calendar_feed(1) = calendar_feed(1);

SET client_min_messages = warning;
DROP SCHEMA regress_ical CASCADE;
DROP FUNCTION public.feed(text);
DROP OWNED BY regress_ical_owner, regress_ical_ann, regress_ical_bob;
DROP ROLE regress_ical_owner, regress_ical_ann, regress_ical_bob;
