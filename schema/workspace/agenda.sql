-- @repeatable

CREATE OR REPLACE VIEW @workspace@.agenda WITH (security_invoker) AS
SELECT i.member_id, m.name AS member,
       CASE WHEN i.at < crm.now() THEN 'overdue'
            WHEN w.wall::date = t.today::date THEN 'today'
            WHEN date_trunc('week', w.wall) = date_trunc('week', t.today) THEN 'this week'
            WHEN date_trunc('week', w.wall) = date_trunc('week', t.today) + interval '7 days' THEN 'next week'
            ELSE 'later' END AS period,
       i.at, i.source, i.source_id, i.title, i.kind, i.record_id,
       @workspace@.record_name(i.kind, i.record_id) AS name
FROM (SELECT a.owner_id AS member_id, a.due_at AS at, 'activity' AS source, a.id AS source_id, a.subject AS title,
             CASE WHEN a.opportunity_id IS NOT NULL THEN 'opportunity' WHEN a.lead_id IS NOT NULL THEN 'lead'
                  WHEN a.contact_id IS NOT NULL THEN 'contact' WHEN a.account_id IS NOT NULL THEN 'account' END AS kind,
             coalesce(a.opportunity_id, a.lead_id, a.contact_id, a.account_id) AS record_id
      FROM @workspace@.activity AS a
      WHERE a.completed_at IS NULL AND a.due_at IS NOT NULL AND a.owner_id IS NOT NULL
      UNION ALL
      SELECT r.member_id, r.due_at, 'reminder' AS source, r.id, r.title, r.kind, r.record_id
      FROM @workspace@.reminder AS r
      WHERE r.escalation_id IS NULL AND r.kind IS DISTINCT FROM 'activity' AND NOT coalesce(r.payload ? 'crm_digest', false)
      UNION ALL
      SELECT e.member_id, e.due_at, 'event' AS source, e.id, e.title, e.kind, e.record_id
      FROM @workspace@.event AS e
      WHERE e.state IN ('new', 'seen') AND e.kind IS DISTINCT FROM 'activity') AS i
JOIN @workspace@.member AS m ON m.id = i.member_id
CROSS JOIN LATERAL crm._wall_clock(i.at, m.time_zone) AS w (wall)
CROSS JOIN LATERAL crm._wall_clock(crm.now(), m.time_zone) AS t (today);
COMMENT ON VIEW @workspace@.agenda IS 'What members have to do: open activities with a date, reminders to come, and the open events of the inbox, of the reader and everyone below. A reminder or event about an activity is that activity.';
COMMENT ON COLUMN @workspace@.agenda.member_id IS 'Who has to do it.';
COMMENT ON COLUMN @workspace@.agenda.member IS 'That member''s name.';
COMMENT ON COLUMN @workspace@.agenda.period IS 'overdue, today, this week, next week or later, on the clock of the member''s time zone; weeks begin on Monday.';
COMMENT ON COLUMN @workspace@.agenda.at IS 'When it is, or was, due.';
COMMENT ON COLUMN @workspace@.agenda.source IS 'activity, reminder or event.';
COMMENT ON COLUMN @workspace@.agenda.source_id IS 'Its id in that table.';
COMMENT ON COLUMN @workspace@.agenda.title IS 'What it is about, in a line.';
COMMENT ON COLUMN @workspace@.agenda.kind IS 'Kind of the record it is about; NULL: none.';
COMMENT ON COLUMN @workspace@.agenda.record_id IS 'The record it is about.';
COMMENT ON COLUMN @workspace@.agenda.name IS 'What that record is called; NULL: it is about none, or about one that the reader may not see.';

CREATE OR REPLACE VIEW @workspace@.follow_up WITH (security_invoker) AS
SELECT r.kind, r.record_id, r.name, r.owner_id, m.name AS owner, r.last_at, LEAST(r.planned_at, n.due_at) AS next_at,
       coalesce(LEAST(r.planned_at, n.due_at) < crm.now(), false) AS overdue
FROM (SELECT 'account' AS kind, a.id AS record_id, a.name, a.owner_id, f.*
      FROM @workspace@.account AS a
      CROSS JOIN LATERAL (SELECT max(x.completed_at), min(x.due_at) FILTER (WHERE x.completed_at IS NULL) FROM @workspace@.activity AS x WHERE x.account_id = a.id) AS f (last_at, planned_at)
      UNION ALL
      SELECT 'contact' AS kind, c.id, coalesce(c.full_name, concat_ws(' ', c.given_name, c.family_name)) AS name, c.owner_id, f.*
      FROM @workspace@.contact AS c
      CROSS JOIN LATERAL (SELECT max(x.completed_at), min(x.due_at) FILTER (WHERE x.completed_at IS NULL) FROM @workspace@.activity AS x WHERE x.contact_id = c.id) AS f
      UNION ALL
      SELECT 'lead' AS kind, l.id, coalesce(l.company, l.full_name, concat_ws(' ', l.given_name, l.family_name)), l.owner_id, f.*
      FROM @workspace@.lead AS l
      CROSS JOIN LATERAL (SELECT max(x.completed_at), min(x.due_at) FILTER (WHERE x.completed_at IS NULL) FROM @workspace@.activity AS x WHERE x.lead_id = l.id) AS f
      WHERE l.converted_at IS NULL
        AND NOT EXISTS (SELECT FROM @workspace@.stage AS s WHERE s.pipeline = l.pipeline AND s.name = l.stage AND s.type <> 'open')
      UNION ALL
      SELECT 'opportunity' AS kind, o.id, o.name, o.owner_id, f.*
      FROM @workspace@.opportunity AS o
      CROSS JOIN LATERAL (SELECT max(x.completed_at), min(x.due_at) FILTER (WHERE x.completed_at IS NULL) FROM @workspace@.activity AS x WHERE x.opportunity_id = o.id) AS f
      WHERE o.closed_at IS NULL) AS r
LEFT JOIN @workspace@.member AS m ON m.id = r.owner_id
CROSS JOIN LATERAL (SELECT min(p.due_at) AS due_at FROM @workspace@.reminder AS p
                    WHERE p.kind = r.kind AND p.record_id = r.record_id AND p.escalation_id IS NULL) AS n;
COMMENT ON VIEW @workspace@.follow_up IS 'When each open record was last followed up, and when it will be next: its next planned activity, or a reminder about it that the reader may see.';
COMMENT ON COLUMN @workspace@.follow_up.kind IS 'account, contact, lead or opportunity.';
COMMENT ON COLUMN @workspace@.follow_up.record_id IS 'The record; converted and closed ones are left out.';
COMMENT ON COLUMN @workspace@.follow_up.name IS 'What it is called.';
COMMENT ON COLUMN @workspace@.follow_up.owner_id IS 'Who is responsible; NULL: nobody.';
COMMENT ON COLUMN @workspace@.follow_up.owner IS 'That member''s name.';
COMMENT ON COLUMN @workspace@.follow_up.last_at IS 'When an activity for it was last completed; NULL: never.';
COMMENT ON COLUMN @workspace@.follow_up.next_at IS 'When something is planned for it next, or should have been done; NULL: nothing is.';
COMMENT ON COLUMN @workspace@.follow_up.overdue IS 'True: that time is past.';
