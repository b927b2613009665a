-- min_app_version: 3.3.0

-- Counts up over all entries that were ever stored: what came later has the larger number.
CREATE SEQUENCE metric_entry_id;

-- What has been received. A row decides that its entry is new; the unique key is what makes a resend harmless.
-- A row with an empty digest says that a bucket of thinning is taken.
CREATE TABLE metric_ledger (
    collector_id uuid NOT NULL,
    metric_type text COLLATE "C" NOT NULL,
    database text COLLATE "C" NOT NULL,
    -- The entry's own time, or the start of the bucket.
    slot timestamptz NOT NULL,
    -- SHA-256 of the entry as it was sent.
    digest bytea NOT NULL,
    entry_id bigint NOT NULL DEFAULT nextval('metric_entry_id'),
    received_at timestamptz NOT NULL,
    CONSTRAINT metric_ledger_pkey PRIMARY KEY (collector_id, metric_type, database, slot, digest)
)
PARTITION BY RANGE (slot);
CREATE TABLE metric_ledger_default PARTITION OF metric_ledger DEFAULT;

-- One row for the plain values of an entry (and of each of its databases), one for each element of its lists.
-- There is no foreign key to collectors: it would be checked for each row.
CREATE TABLE metric_rows (
    collector_id uuid NOT NULL,
    ts timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    entry_id bigint NOT NULL,
    ordinal integer NOT NULL,
    metric_type text COLLATE "C" NOT NULL,
    database text COLLATE "C" NOT NULL,
    section text COLLATE "C" NOT NULL,
    data jsonb NOT NULL
)
PARTITION BY RANGE (ts);
-- The rows of a list share one key, so this stays at a twentieth of the table.
CREATE INDEX metric_rows_idx ON metric_rows (collector_id, metric_type, section, ts, database);
CREATE TABLE metric_rows_default PARTITION OF metric_rows DEFAULT;

-- Lines of a server log that are known already: a collector sends the last hundred again and again.
CREATE TABLE metric_log_lines (
    collector_id uuid NOT NULL,
    digest bytea NOT NULL,
    seen_at timestamptz NOT NULL,
    CONSTRAINT metric_log_lines_pkey PRIMARY KEY (collector_id, digest)
);

-- What came in, by minute of receipt.
CREATE TABLE metric_ingest_minutes (
    collector_id uuid NOT NULL,
    minute timestamptz NOT NULL,
    pushes bigint NOT NULL,
    inserted bigint NOT NULL,
    duplicates bigint NOT NULL,
    thinned bigint NOT NULL,
    skipped bigint NOT NULL,
    row_count bigint NOT NULL,
    CONSTRAINT metric_ingest_minutes_pkey PRIMARY KEY (collector_id, minute)
)
WITH (fillfactor = 90);
CREATE INDEX metric_ingest_minutes_minute_idx ON metric_ingest_minutes (minute);

-- A number in a document, or null where there is something else: what was sent may be of any type.
CREATE FUNCTION metric_number(value jsonb) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $function$ SELECT CASE WHEN jsonb_typeof(value) = 'number' THEN value::numeric END $function$;

-- Makes the partitions of the days (UTC) from `first` to `last`. What lies in the default partition of such a day
-- moves into the new one; where that is too much to move, the day stays in the default partition.
CREATE FUNCTION metrics_ensure_partitions(first date, last date)
RETURNS TABLE (relation text, day date, outcome text)
LANGUAGE plpgsql
SECURITY DEFINER
SET lock_timeout = '3s'
AS $function$
DECLARE
    parent text;
    key text;
    namespace text;
    child text;
    lower_bound timestamptz;
    upper_bound timestamptz;
    stray bigint;
BEGIN
    IF last - first > 400 THEN
        RAISE EXCEPTION 'no more than 400 days of partitions at a time' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOREACH parent IN ARRAY ARRAY['metric_ledger', 'metric_rows'] LOOP
        key := CASE parent WHEN 'metric_ledger' THEN 'slot' ELSE 'ts' END;
        SELECT n.nspname INTO STRICT namespace
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = parent::regclass;
        day := first;
        WHILE day <= last LOOP
            relation := parent;
            child := parent || '_' || to_char(day, 'YYYYMMDD');
            lower_bound := day::timestamp AT TIME ZONE 'UTC';
            upper_bound := (day + 1)::timestamp AT TIME ZONE 'UTC';
            IF to_regclass(format('%I.%I', namespace, child)) IS NOT NULL THEN
                outcome := 'present';
            ELSE
                EXECUTE format('SELECT count(*) FROM (SELECT FROM %I.%I WHERE %I >= $1 AND %I < $2 LIMIT 200001) s',
                    namespace, parent || '_default', key, key)
                    INTO stray USING lower_bound, upper_bound;
                IF stray > 200000 THEN
                    outcome := 'left in default';
                ELSE
                    EXECUTE format('CREATE TABLE %I.%I (LIKE %I.%I INCLUDING ALL)',
                        namespace, child, namespace, parent);
                    IF stray > 0 THEN
                        EXECUTE format('WITH moved AS (DELETE FROM %I.%I WHERE %I >= $1 AND %I < $2 RETURNING *) '
                            'INSERT INTO %I.%I SELECT * FROM moved',
                            namespace, parent || '_default', key, key, namespace, child)
                            USING lower_bound, upper_bound;
                    END IF;
                    EXECUTE format('ALTER TABLE %I.%I ATTACH PARTITION %I.%I FOR VALUES FROM (%L) TO (%L)',
                        namespace, parent, namespace, child, lower_bound, upper_bound);
                    outcome := 'made';
                END IF;
            END IF;
            RETURN NEXT;
            day := day + 1;
        END LOOP;
    END LOOP;
END
$function$;

-- Drops the partitions of all days (UTC) before `oldest`, and what the default partitions hold that was received
-- before it.
CREATE FUNCTION metrics_drop_partitions(oldest date)
RETURNS TABLE (relation text, day date)
LANGUAGE plpgsql
SECURITY DEFINER
SET lock_timeout = '3s'
AS $function$
DECLARE
    parent text;
    namespace text;
    child text;
BEGIN
    IF oldest > (now() AT TIME ZONE 'UTC')::date THEN
        RAISE EXCEPTION 'today''s metrics are not dropped' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOREACH parent IN ARRAY ARRAY['metric_rows', 'metric_ledger'] LOOP
        FOR namespace, child IN
            SELECT n.nspname, c.relname
            FROM pg_inherits i
            JOIN pg_class c ON c.oid = i.inhrelid
            JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE i.inhparent = parent::regclass
              AND c.relname ~ ('^' || parent || '_[0-9]{8}$')
              AND to_date(right(c.relname, 8), 'YYYYMMDD') < oldest
            ORDER BY c.relname
        LOOP
            EXECUTE format('DROP TABLE %I.%I', namespace, child);
            relation := parent;
            day := to_date(right(child, 8), 'YYYYMMDD');
            RETURN NEXT;
        END LOOP;
    END LOOP;
    DELETE FROM metric_rows_default WHERE received_at < oldest::timestamp AT TIME ZONE 'UTC';
    DELETE FROM metric_ledger_default WHERE received_at < oldest::timestamp AT TIME ZONE 'UTC';
END
$function$;

-- Whoever calls these must not be able to put tables of their own in the way of the names that they use.
DO $block$
BEGIN
    EXECUTE format('ALTER FUNCTION metrics_ensure_partitions(date, date) SET search_path = pg_catalog, %I, pg_temp',
        current_schema());
    EXECUTE format('ALTER FUNCTION metrics_drop_partitions(date) SET search_path = pg_catalog, %I, pg_temp',
        current_schema());
END
$block$;
REVOKE ALL ON FUNCTION metrics_ensure_partitions(date, date) FROM PUBLIC;
REVOKE ALL ON FUNCTION metrics_drop_partitions(date) FROM PUBLIC;

-- The first pushes come before anybody has made partitions ahead.
SELECT metrics_ensure_partitions((now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date + 7);
