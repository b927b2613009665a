-- What was recorded is never changed, and is read and written through the partitioned tables alone. Not to be given: xid.
GRANT SELECT ON audit_events, audit_personal, audit_logs TO pganalytics_app;
GRANT INSERT (at, id, writer, writer_sequence, actor_kind, actor_id, actor_role, action, resource_type, resource_id, outcome,
    reason, changes, request_id, session_id, provider, actor_name_commitment, address_commitment, user_agent_commitment, mac)
    ON audit_events TO pganalytics_app;
GRANT INSERT (at, id, actor_name, actor_name_salt, address, address_salt, user_agent, user_agent_salt)
    ON audit_personal TO pganalytics_app;
GRANT EXECUTE ON FUNCTION audit_ensure_partitions(date, date) TO pganalytics_app;
