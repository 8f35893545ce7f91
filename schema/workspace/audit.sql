-- @version 1

CREATE TABLE @workspace@.audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    clock_at timestamptz NOT NULL,
    transaction_id bigint NOT NULL,
    member_id bigint,
    login_role text,
    role text,
    application text,
    client text,
    session text,
    statement text,
    operation text NOT NULL,
    kind text NOT NULL,
    table_name text NOT NULL,
    record_id bigint,
    record_key jsonb,
    old jsonb,
    new jsonb
);
CREATE INDEX ON @workspace@.audit_log (record_id, kind);
-- What a transaction did is looked up by its time (undelete): small ranges, and those
-- of today as well, which only autosummarize keeps from being read as a whole.
CREATE INDEX ON @workspace@.audit_log USING brin (changed_at) WITH (pages_per_range = 32, autosummarize = on);
COMMENT ON TABLE @workspace@.audit_log IS 'Who changed what, when and through which client. Written by the trigger crm.audit() alone, and append-only.';
COMMENT ON COLUMN @workspace@.audit_log.id IS 'Order of writing.';
COMMENT ON COLUMN @workspace@.audit_log.changed_at IS 'Start of the transaction, as in the record''s updated_at.';
COMMENT ON COLUMN @workspace@.audit_log.clock_at IS 'The moment of the change.';
COMMENT ON COLUMN @workspace@.audit_log.transaction_id IS 'The transaction: changes that share it were made together.';
COMMENT ON COLUMN @workspace@.audit_log.member_id IS 'The member who acted; NULL: nobody known. Not a foreign key, so that the log outlives the member.';
COMMENT ON COLUMN @workspace@.audit_log.login_role IS 'The role that logged in.';
COMMENT ON COLUMN @workspace@.audit_log.role IS 'The role in force, after SET ROLE and inside SECURITY DEFINER functions.';
COMMENT ON COLUMN @workspace@.audit_log.application IS 'The client''s application_name.';
COMMENT ON COLUMN @workspace@.audit_log.client IS 'The client''s IP address; NULL: a unix socket or a background process.';
COMMENT ON COLUMN @workspace@.audit_log.session IS 'The session, as %c in the server log.';
COMMENT ON COLUMN @workspace@.audit_log.statement IS 'Command of the client''s statement: UPDATE, COPY, MERGE, SELECT for a function call, and so on.';
COMMENT ON COLUMN @workspace@.audit_log.operation IS 'INSERT, UPDATE, DELETE, TRUNCATE, or UNDELETE for a row that undelete() brought back.';
COMMENT ON COLUMN @workspace@.audit_log.kind IS 'Kind of record.';
COMMENT ON COLUMN @workspace@.audit_log.table_name IS 'The table at that time, with its schema.';
COMMENT ON COLUMN @workspace@.audit_log.record_id IS 'The record, where its primary key is one integer.';
COMMENT ON COLUMN @workspace@.audit_log.record_key IS 'The primary key, where it is anything else.';
COMMENT ON COLUMN @workspace@.audit_log.old IS 'Columns before: those that changed, or all that were not NULL of a deleted record.';
COMMENT ON COLUMN @workspace@.audit_log.new IS 'Columns after: those that changed, or all that are not NULL of a new record.';

CREATE TABLE @workspace@.audit_seal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    last_id bigint NOT NULL UNIQUE,
    horizon bigint NOT NULL,
    row_count bigint,
    digest text,
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sealed_at timestamptz,
    CONSTRAINT audit_seal_is_whole CHECK (num_nulls(row_count, digest, sealed_at) IN (0, 3))
);
COMMENT ON TABLE @workspace@.audit_seal IS 'Seals over the audit log, written by crm.seal_audit() and checked by crm.audit_verify().';
COMMENT ON COLUMN @workspace@.audit_seal.id IS 'Order of the seals.';
COMMENT ON COLUMN @workspace@.audit_seal.last_id IS 'The seal covers the rows of audit_log after those of the seal before, up to this id.';
COMMENT ON COLUMN @workspace@.audit_seal.horizon IS 'The seal can be closed when all transactions before this one have ended.';
COMMENT ON COLUMN @workspace@.audit_seal.row_count IS 'Rows covered; NULL: still open.';
COMMENT ON COLUMN @workspace@.audit_seal.digest IS 'SHA-256 in hex over the digest before and the SHA-256 of each row; NULL: still open.';
COMMENT ON COLUMN @workspace@.audit_seal.opened_at IS 'When the seal was opened.';
COMMENT ON COLUMN @workspace@.audit_seal.sealed_at IS 'When the seal was closed.';

-- @repeatable

CREATE OR REPLACE TRIGGER crm_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON @workspace@.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION crm.append_only();
CREATE OR REPLACE TRIGGER crm_append_only BEFORE UPDATE OR DELETE ON @workspace@.audit_seal
    FOR EACH ROW WHEN (OLD.digest IS NOT NULL) EXECUTE FUNCTION crm.append_only();
CREATE OR REPLACE TRIGGER crm_append_only_truncate BEFORE TRUNCATE ON @workspace@.audit_seal
    FOR EACH STATEMENT EXECUTE FUNCTION crm.append_only();

SELECT crm.enable_audit((@workspace_literal@ || '.account')::regclass, 'account');
SELECT crm.enable_audit((@workspace_literal@ || '.contact')::regclass, 'contact', mask => '{national_id}');
SELECT crm.enable_audit((@workspace_literal@ || '.lead')::regclass, 'lead');
SELECT crm.enable_audit((@workspace_literal@ || '.opportunity')::regclass, 'opportunity');
SELECT crm.enable_audit((@workspace_literal@ || '.activity')::regclass, 'activity');
SELECT crm.enable_audit((@workspace_literal@ || '.external_reference')::regclass, 'external_reference');
SELECT crm.enable_audit((@workspace_literal@ || '.setting')::regclass, 'setting');
SELECT crm.enable_audit((@workspace_literal@ || '.member')::regclass, 'member');
SELECT crm.enable_audit((@workspace_literal@ || '.team')::regclass, 'team');
SELECT crm.enable_audit((@workspace_literal@ || '.team_member')::regclass, 'team_member');
SELECT crm.enable_audit((@workspace_literal@ || '.share')::regclass, 'share');
SELECT crm.enable_audit((@workspace_literal@ || '.pipeline')::regclass, 'pipeline');
SELECT crm.enable_audit((@workspace_literal@ || '.stage')::regclass, 'stage');
SELECT crm.enable_audit((@workspace_literal@ || '.stage_transition')::regclass, 'stage_transition');
SELECT crm.enable_audit((@workspace_literal@ || '.stage_rule')::regclass, 'stage_rule');
SELECT crm.enable_audit((@workspace_literal@ || '.exchange_rate')::regclass, 'exchange_rate');
