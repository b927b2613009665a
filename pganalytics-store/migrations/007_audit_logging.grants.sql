-- What was recorded is never changed, and is read and written through the partitioned tables alone. Not to be given: era, xid.
GRANT SELECT ON audit_events, audit_personal, audit_logs, audit_seal_lag TO pganalytics_app;
GRANT INSERT (at, id, writer, writer_sequence, actor_kind, actor_id, actor_role, action, resource_type, resource_id, outcome,
    reason, request_id, session_id, provider, actor_name_commitment, address_commitment, user_agent_commitment,
    changes_commitment, mac)
    ON audit_events TO pganalytics_app;
GRANT INSERT (at, id, actor_name, actor_name_salt, address, address_salt, user_agent, user_agent_salt, changes, changes_salt)
    ON audit_personal TO pganalytics_app;
GRANT SELECT, INSERT ON audit_eras, audit_seals TO pganalytics_app;
GRANT UPDATE (published_at) ON audit_seals TO pganalytics_app;
GRANT SELECT, INSERT, UPDATE ON audit_witnesses, audit_witnessed_logs TO pganalytics_app;
GRANT SELECT ON audit_orders, audit_holds TO pganalytics_app;
GRANT EXECUTE ON FUNCTION audit_ensure_partitions(date, date) TO pganalytics_app;
-- Dashboards see neither the tables of events nor what is personal.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pganalytics_grafana') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO pganalytics_grafana', current_schema());
        GRANT SELECT ON audit_dashboard, audit_seal_lag, audit_seals TO pganalytics_grafana;
    END IF;
END
$$;
