GRANT SELECT, INSERT, UPDATE, DELETE ON registration_secrets, collectors, collector_config TO pganalytics_app;
