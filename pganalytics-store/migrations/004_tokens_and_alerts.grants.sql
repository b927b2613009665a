GRANT SELECT, INSERT, UPDATE, DELETE ON api_tokens, alert_rules, alerts TO pganalytics_app;
