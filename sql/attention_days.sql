-- Two days of a salesperson: when what was due arrives, under the rules that docs/attention.md shows.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
CREATE ROLE regress_days_owner;
CREATE ROLE regress_days_ann;
GRANT CREATE ON DATABASE contrib_regression TO regress_days_owner;
GRANT USAGE ON SCHEMA crm, crm_test TO regress_days_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO regress_days_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm_test TO regress_days_owner;
SET ROLE regress_days_owner;
SELECT crm.create_workspace('regress_days');
SELECT crm.grant_access('regress_days', 'regress_days_ann', 'app');
SET search_path = regress_days;
INSERT INTO member (id, name, time_zone, login_role) VALUES (1, 'Ann', 'Europe/Berlin', 'regress_days_ann');
ALTER TABLE account ADD tier text;
INSERT INTO account (id, name, owner_id, tier) SELECT i, 'Account ' || i, 1, CASE WHEN i = 1 THEN 'key' WHEN i IN (2, 3) THEN 'C' ELSE 'B' END FROM generate_series(1, 20) AS i;
INSERT INTO opportunity (id, name, account_id, owner_id, amount, close_date) VALUES (1, 'Deal of a small one', 2, 1, 100, '2027-02-01');
UPDATE opportunity SET stage = 'proposal';
UPDATE opportunity SET stage = 'negotiation';
INSERT INTO attention_rule (name, position, kind, condition, delivery) VALUES
    ('Key customers', 10, 'account', 'tier = ''key''', 'at once'), ('Advanced deals', 15, 'opportunity', 'stage = ''negotiation''', 'at once'),
    ('Small customers', 20, 'account', 'tier = ''C''', 'digest');
INSERT INTO attention_rule (name, position, quiet_from, quiet_to, per_hour, per_day, once_within, digest_at) VALUES
    ('Everybody', 100, '22:00', '07:00', 6, 14, '4 hours', '{08:30,13:00}');
RESET ROLE;
SET SESSION AUTHORIZATION regress_days_ann;
SET search_path = regress_days;
INSERT INTO attention_rule (name, member_id, quiet_from, quiet_to) VALUES ('Lunch', 1, '12:00', '13:00');
-- what she is to be reminded of, by her own clock
CREATE TEMPORARY TABLE plan (due text, title text, kind text, record_id bigint, payload jsonb);
INSERT INTO plan VALUES
    ('2027-01-12 06:40', 'prepare the day', NULL, NULL, NULL), ('2027-01-12 06:50', 'key customer, early', 'account', 1, NULL), ('2027-01-12 07:30', 'small one', 'account', 2, NULL),
    ('2027-01-12 07:45', 'another small one', 'account', 3, NULL), ('2027-01-12 07:50', 'deal of the small one', 'opportunity', 1, NULL),
    ('2027-01-12 10:10', 'first about 15', 'account', 15, NULL), ('2027-01-12 11:10', 'second about 15', 'account', 15, NULL),
    ('2027-01-12 10:20', 'first about 16', 'account', 16, NULL), ('2027-01-12 11:20', 'second about 16', 'account', 16, NULL),
    ('2027-01-12 12:30', 'in her lunch', NULL, NULL, NULL), ('2027-01-12 12:35', 'urgent, in her lunch', NULL, NULL, '{"urgent": true}'),
    ('2027-01-12 23:10', 'in the night', NULL, NULL, NULL), ('2027-01-13 03:00', 'key customer, in the night', 'account', 1, NULL), ('2027-01-13 09:00', 'next day', NULL, NULL, NULL);
INSERT INTO plan SELECT format('2027-01-12 09:%s', 10 + i), 'morning ' || i, 'account', 3 + i FROM generate_series(1, 8) AS i;
INSERT INTO plan SELECT format('2027-01-12 15:%s', 10 + i), 'afternoon ' || i FROM generate_series(1, 6) AS i;
INSERT INTO reminder (due_at, title, kind, record_id, payload) SELECT due::timestamp AT TIME ZONE 'Europe/Berlin', title, kind, record_id, payload FROM plan;
RESET SESSION AUTHORIZATION;
SET ROLE regress_days_owner;

CREATE TABLE arrival (at timestamptz, event_id bigint);
CREATE PROCEDURE pass(since text, until text) LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := since::timestamp AT TIME ZONE 'Europe/Berlin';
BEGIN
    WHILE t <= until::timestamp AT TIME ZONE 'Europe/Berlin' LOOP
        PERFORM crm_test.shift_clock(t + interval '1 second' - clock_timestamp());
        PERFORM crm.run_due();
        INSERT INTO regress_days.arrival SELECT t, e.id FROM regress_days.event AS e WHERE e.state = 'new' AND NOT EXISTS (SELECT FROM regress_days.arrival AS a WHERE a.event_id = e.id);
        t := t + interval '5 minutes';
    END LOOP;
END $$;
CALL pass('2027-01-12 06:00', '2027-01-12 10:15');
-- she deals with one of them
RESET ROLE;
SET SESSION AUTHORIZATION regress_days_ann;
SELECT acknowledge(id) FROM inbox WHERE title = 'first about 15';
RESET SESSION AUTHORIZATION;
SET ROLE regress_days_owner;
CALL pass('2027-01-12 10:20', '2027-01-13 14:00');
SELECT to_char(a.at AT TIME ZONE 'Europe/Berlin', 'Dy HH24:MI') AS arrived, to_char(e.due_at AT TIME ZONE 'Europe/Berlin', 'HH24:MI') AS due, e.title,
       (SELECT string_agg(i ->> 'title', ', ') FROM jsonb_array_elements(crm._event_items('regress_days', e.id)) AS i) AS items
FROM arrival AS a JOIN event AS e ON e.id = a.event_id ORDER BY a.at, e.id;
SELECT e.title, w.reason FROM event AS e JOIN event_hold AS h ON h.event_id = e.id, why_not(e.id) AS w ORDER BY e.id;
SELECT count(*) FROM reminder;
RESET ROLE;
SET SESSION AUTHORIZATION regress_days_ann;
SELECT title, name FROM inbox WHERE kind IS NOT NULL ORDER BY id;
RESET SESSION AUTHORIZATION;
SELECT crm_test.shift_clock('0') <= clock_timestamp() AS unshifted;
SET client_min_messages = warning;
DROP SCHEMA regress_days CASCADE;
DROP OWNED BY regress_days_owner, regress_days_ann;
DROP ROLE regress_days_owner, regress_days_ann;
