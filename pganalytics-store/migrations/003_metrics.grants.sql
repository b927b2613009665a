-- What was received is never changed, and is forgotten only by whole days.
GRANT SELECT, INSERT ON metric_ledger, metric_rows TO pganalytics_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON metric_log_lines, metric_ingest_minutes TO pganalytics_app;
GRANT USAGE ON SEQUENCE metric_entry_id TO pganalytics_app;
GRANT EXECUTE ON FUNCTION metrics_ensure_partitions(date, date), metrics_drop_partitions(date) TO pganalytics_app;
