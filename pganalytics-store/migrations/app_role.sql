-- The server logs in as a member of this role, which owns nothing: it can neither change tables nor rewrite
-- what is append-only. Roles belong to the whole cluster, so another database may make it at the same moment.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pganalytics_app') THEN
        CREATE ROLE pganalytics_app NOLOGIN;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'no right to create the role pganalytics_app: skipped';
    WHEN duplicate_object OR unique_violation THEN
        NULL;
END
$$;
