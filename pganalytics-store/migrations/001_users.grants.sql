GRANT SELECT, INSERT, UPDATE, DELETE ON users, external_identities TO pganalytics_app;
-- Before version 15 everybody may make tables and functions in `public`, and so could shadow what the owner calls.
DO $block$
BEGIN
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
END
$block$;
