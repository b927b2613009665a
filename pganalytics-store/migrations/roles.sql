-- The server logs in as a member of pganalytics_app, which owns nothing: it can neither change tables nor rewrite
-- what is append-only. Grafana logs in as a member of pganalytics_grafana, which reads what dashboards show. Roles belong
-- to the whole cluster, so another database may make them at the same moment.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pganalytics_app', 'pganalytics_grafana'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION
                WHEN insufficient_privilege THEN
                    RAISE NOTICE 'no right to create the role %: skipped', role;
                WHEN duplicate_object OR unique_violation THEN
                    NULL;
            END;
        END IF;
    END LOOP;
END
$$;
