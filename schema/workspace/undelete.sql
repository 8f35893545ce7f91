-- @repeatable

CREATE OR REPLACE FUNCTION @workspace@.undelete(kind text, id bigint, dry_run boolean DEFAULT false,
    OUT table_name text, OUT record jsonb, OUT restored boolean, OUT field text, OUT note text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM crm.undelete(@workspace_literal@::regnamespace, kind, id::text, dry_run) $$;
COMMENT ON FUNCTION @workspace@.undelete(text, bigint, boolean) IS
'Brings back a deleted record, with what was deleted or unlinked with it, for whoever might have deleted it. One row for each record that is back and each link set again, and with restored false for what is not. With dry_run nothing changes. Errors: P0002 for a deletion that is not in the audit log or not yours, 55000 for a record that is there or was merged, 23505 and 23503 where another record stands in the way, RMD01 by a duplicate rule.';

CREATE OR REPLACE FUNCTION @workspace@.undelete(kind text, id text, dry_run boolean DEFAULT false,
    OUT table_name text, OUT record jsonb, OUT restored boolean, OUT field text, OUT note text)
RETURNS SETOF record LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM crm.undelete(@workspace_literal@::regnamespace, kind, id, dry_run) $$;
COMMENT ON FUNCTION @workspace@.undelete(text, text, boolean) IS
'undelete() for tables whose primary key is not a number: the id is given as text.';

CREATE OR REPLACE FUNCTION @workspace@.deleted_with(kind text, id bigint) RETURNS bigint
LANGUAGE sql STABLE STRICT COST 10000 SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT nullif(count(*), 0) - 1
FROM crm._record_tables(@workspace_literal@::regnamespace) AS t
CROSS JOIN LATERAL crm._undelete_plan(@workspace_literal@::regnamespace, t.rel, deleted_with.id::text, crm._caller()) AS p
WHERE t.kind = deleted_with.kind AND p.operation = 'insert'
$$;
COMMENT ON FUNCTION @workspace@.deleted_with(text, bigint) IS
'How many other records undelete() would bring back with one; NULL if it would not bring back that one.';

-- Who may see which row is decided before anything that a query adds; how many
-- records would come back is computed above, for the rows that are shown.
CREATE OR REPLACE VIEW @workspace@._deleted_record WITH (security_barrier = true) AS
SELECT l.kind, l.record_id AS id,
       -- What the log does not hold is an object there.
       (SELECT crm._record_name(jsonb_object_agg(e.key, e.value)) FROM jsonb_each(l.old) AS e WHERE jsonb_typeof(e.value) = 'string') AS name,
       (l.old ->> t.owner_column)::bigint AS owner_id,
       l.changed_at AS deleted_at, l.member_id AS deleted_by, m.name AS deleted_by_name
FROM @workspace@.audit_log AS l
JOIN crm._record_tables(@workspace_literal@::regnamespace) AS t ON t.kind = l.kind
LEFT JOIN @workspace@.member AS m ON m.id = l.member_id
WHERE l.operation = 'DELETE'
  AND (crm.can_delete(@workspace_literal@::regnamespace, (l.old ->> t.owner_column)::bigint)
       OR (SELECT crm._called_by_owner(@workspace_literal@::regnamespace)))
  AND NOT EXISTS (SELECT FROM @workspace@.audit_log AS later WHERE later.record_id = l.record_id AND later.kind = l.kind AND later.id > l.id)
  AND NOT EXISTS (SELECT FROM @workspace@.merged_record AS g WHERE g.kind = l.kind AND g.record_id = l.record_id::text);
COMMENT ON VIEW @workspace@._deleted_record IS 'What deleted_record shows, but for the number of records that would come back. For nobody but that view.';

CREATE OR REPLACE VIEW @workspace@.deleted_record AS
SELECT d.kind, d.id, d.name, d.owner_id, d.deleted_at, d.deleted_by, d.deleted_by_name, @workspace@.deleted_with(d.kind, d.id) AS children
FROM @workspace@._deleted_record AS d;
COMMENT ON VIEW @workspace@.deleted_record IS 'Deleted records that undelete() can bring back, one a row, for whoever has the owner''s rights over them as they were. Of kinds of records (tables with protect()) that are audited in this workspace.';
COMMENT ON COLUMN @workspace@._deleted_record.kind IS 'Kind of record.';
COMMENT ON COLUMN @workspace@._deleted_record.id IS 'Its id, which it will have again.';
COMMENT ON COLUMN @workspace@._deleted_record.name IS 'What people called it.';
COMMENT ON COLUMN @workspace@._deleted_record.owner_id IS 'Its owner when it was deleted; NULL: nobody.';
COMMENT ON COLUMN @workspace@._deleted_record.deleted_at IS 'When: the start of that transaction.';
COMMENT ON COLUMN @workspace@._deleted_record.deleted_by IS 'Member who deleted it; NULL: nobody known.';
COMMENT ON COLUMN @workspace@._deleted_record.deleted_by_name IS 'Name of that member.';
COMMENT ON COLUMN @workspace@.deleted_record.kind IS 'Kind of record.';
COMMENT ON COLUMN @workspace@.deleted_record.id IS 'Its id, which it will have again.';
COMMENT ON COLUMN @workspace@.deleted_record.name IS 'What people called it.';
COMMENT ON COLUMN @workspace@.deleted_record.owner_id IS 'Its owner when it was deleted; NULL: nobody.';
COMMENT ON COLUMN @workspace@.deleted_record.deleted_at IS 'When: the start of that transaction.';
COMMENT ON COLUMN @workspace@.deleted_record.deleted_by IS 'Member who deleted it; NULL: nobody known.';
COMMENT ON COLUMN @workspace@.deleted_record.deleted_by_name IS 'Name of that member.';
COMMENT ON COLUMN @workspace@.deleted_record.children IS 'How many other records would come back with it; computed for the rows that are shown.';

REVOKE EXECUTE ON FUNCTION @workspace@.deleted_with(text, bigint) FROM PUBLIC;
