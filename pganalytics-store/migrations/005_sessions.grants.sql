GRANT SELECT, INSERT, UPDATE, DELETE ON
    sessions, user_session_epochs, refresh_families, signing_keys, idempotency_keys, one_time_ids, outbox,
    running_servers, leases, revocations
TO pganalytics_app;
-- No UPDATE, no DELETE: a change that was recorded stays recorded.
