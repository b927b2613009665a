GRANT SELECT, INSERT, UPDATE, DELETE ON users, external_identities TO pganalytics_app;
