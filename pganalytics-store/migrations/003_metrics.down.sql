DROP FUNCTION metrics_drop_partitions(date);
DROP FUNCTION metrics_ensure_partitions(date, date);
DROP FUNCTION metric_number(jsonb);
DROP TABLE metric_ingest_minutes;
DROP TABLE metric_log_lines;
DROP TABLE metric_rows;
DROP TABLE metric_ledger;
DROP SEQUENCE metric_entry_id;
