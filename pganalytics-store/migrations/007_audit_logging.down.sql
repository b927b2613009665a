-- Nobody may come by while we look.
LOCK TABLE audit_events, audit_personal IN ACCESS EXCLUSIVE MODE;
DO $$
BEGIN
    IF EXISTS (SELECT FROM audit_events) THEN
        RAISE EXCEPTION 'table audit_events holds events'
            USING HINT = 'This would lose the audit log for good. Export it, then drop the partitions that hold events.';
    END IF;
END
$$;

DROP FUNCTION audit_erase_personal(timestamptz[], uuid[]);
DROP FUNCTION audit_ensure_partitions(date, date);
DROP VIEW audit_seal_lag;
DROP VIEW audit_dashboard;
DROP VIEW audit_logs;
DROP TABLE audit_witnessed_logs;
DROP TABLE audit_witnesses;
DROP TABLE audit_holds;
DROP TABLE audit_orders;
DROP TABLE audit_seals;
DROP TABLE audit_eras;
DROP TABLE audit_personal;
DROP TABLE audit_events;
DROP FUNCTION audit_guard(regclass, text);
DROP FUNCTION audit_refuse_erasure();
DROP FUNCTION audit_refuse_change();
