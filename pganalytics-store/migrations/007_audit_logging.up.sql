-- min_app_version: 3.3.0

-- What is proved of each event. A later step seals these rows, so nothing in them is ever changed. Nothing refers to
-- users: a foreign key would keep them from being deleted, and the event says who it was at that moment. Nothing checks the
-- lengths of commitments and salts: PostgreSQL would parse the conditions anew for each change, and what does not fit is found
-- by verifying.
CREATE TABLE audit_events (
    -- Fixed when the event was made, and with the id what a repeat of the event is known by.
    at timestamptz NOT NULL,
    id uuid NOT NULL,
    -- As whom the row was stored: one process, for as long as it lives; and its place among the rows of that writer. A
    -- number that no row has was rolled back, and declared void by an event.
    writer uuid NOT NULL,
    writer_sequence bigint NOT NULL,
    -- For searching: the actor's id, where it is a user of ours.
    user_id uuid GENERATED ALWAYS AS (
        CASE WHEN actor_kind = 'user' AND actor_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
            THEN actor_id::uuid END
    ) STORED,
    actor_kind text COLLATE "C" NOT NULL,
    actor_id text COLLATE "C",
    actor_role text COLLATE "C",
    action text COLLATE "C" NOT NULL,
    resource_type text COLLATE "C",
    resource_id text COLLATE "C",
    outcome text COLLATE "C" NOT NULL,
    reason text COLLATE "C",
    request_id text COLLATE "C",
    session_id text COLLATE "C",
    provider text COLLATE "C",
    -- What ties the personal fields to the event without telling them:
    --   SHA-256(domain || salt || value)
    -- with the domain 'pga.audit.actor_name.1', 'pga.audit.address.1', 'pga.audit.user_agent.1' or 'pga.audit.changes.1' in
    -- ASCII and a zero byte, the salt as it is stored, and as value the UTF-8 text, or the 4 or 16 bytes of the address.
    -- Null where the event has no such field.
    actor_name_commitment bytea,
    address_commitment bytea,
    user_agent_commitment bytea,
    changes_commitment bytea,
    -- The writer's keyed checksum of all the columns above but user_id. Null for what came before it had a key.
    mac bytea,
    -- Transaction ids are comparable within an era. A new one begins when the log goes on after a restore.
    era smallint NOT NULL DEFAULT 1,
    -- The transaction that stored the row, by which the sealer tells what its last seal could not see. The server's role
    -- has no right to give it, nor the era.
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT audit_events_pkey PRIMARY KEY (at, id)
)
PARTITION BY RANGE (at);
-- What is to be sealed, and what a seal covers.
CREATE INDEX audit_events_xid_idx ON audit_events (era, xid);
-- The last events of a user.
CREATE INDEX audit_events_user_idx ON audit_events (user_id, at, id) WHERE user_id IS NOT NULL;
-- The history of a resource. An index takes no entry of any length, so queries must compare the beginnings too.
CREATE INDEX audit_events_resource_idx
    ON audit_events (left(resource_type, 100), left(resource_id, 255), at, id) WHERE resource_type IS NOT NULL;
-- Refusals and failures of a kind: few beside all events, and what alarms look for.
CREATE INDEX audit_events_refused_idx ON audit_events (action, at) WHERE outcome <> 'success';

-- What of an event is about a person, apart so that it can be erased while the proof of the event stays. Without the
-- salt, which goes with it, nobody can find out the value by trying.
CREATE TABLE audit_personal (
    at timestamptz NOT NULL,
    id uuid NOT NULL,
    actor_name text COLLATE "C",
    actor_name_salt bytea,
    address inet,
    address_salt bytea,
    user_agent text COLLATE "C",
    user_agent_salt bytea,
    -- As text, since the commitment is over its bytes. It may hold names and addresses of mail, too.
    changes json,
    changes_salt bytea,
    CONSTRAINT audit_personal_pkey PRIMARY KEY (at, id)
)
PARTITION BY RANGE (at);

-- For people and dashboards. It hides columns, not rows, so a security barrier would protect nothing and keep conditions
-- from the indexes; whoever may read it sees addresses.
CREATE VIEW audit_logs AS
SELECT e.id, e.at AS "timestamp", e.user_id, e.action, e.resource_type, e.resource_id,
    p.changes::jsonb AS changes, p.address AS ip_address, p.user_agent
FROM audit_events e
LEFT JOIN audit_personal p ON p.at = e.at AND p.id = e.id;

-- The logs that events were sealed in. One follows the other when the database went back behind what was sealed.
CREATE TABLE audit_eras (
    era smallint PRIMARY KEY,
    -- The name of the log, the first line of its checkpoints.
    origin text COLLATE "C" NOT NULL UNIQUE,
    -- Of the database cluster (pg_control_system) whose transactions these are.
    system_identifier bigint NOT NULL,
    opened_at timestamptz NOT NULL,
    -- Why this log follows that before: the signed record of what is missing between them, which is its first leaf. Null for
    -- the first one.
    gap text
);

-- What was sealed: for each checkpoint, what the database looked like. Its leaves are the rows of the era that are visible in
-- its snapshot and not in that of the seal before, ORDER BY xid, at, id.
CREATE TABLE audit_seals (
    era smallint NOT NULL REFERENCES audit_eras,
    number bigint NOT NULL CHECK (number > 0),
    -- Of which era the rows are. The first seal of a log may cover what that before it had left.
    rows_era smallint NOT NULL,
    snapshot pg_snapshot NOT NULL,
    first_leaf bigint NOT NULL,
    leaves bigint NOT NULL CHECK (leaves > 0),
    -- Whether it covers all that there was. Otherwise the next seal goes on where this one was cut.
    whole boolean NOT NULL,
    -- The signed checkpoint. What was anchored is finished with this very text.
    checkpoint text NOT NULL,
    sealed_at timestamptz NOT NULL,
    -- Null until the checkpoint is anchored and its tiles are written.
    published_at timestamptz,
    PRIMARY KEY (era, number),
    UNIQUE (era, first_leaf)
);
-- Up to where the rows of an era are sealed.
CREATE INDEX audit_seals_rows_idx ON audit_seals (rows_era, era, number);

-- How far other servers have cosigned the log of an era: the largest checkpoint that each of them cosigned, and since when it
-- refuses what is shown to it.
CREATE TABLE audit_witnesses (
    era smallint NOT NULL REFERENCES audit_eras,
    -- The name of its key.
    witness text COLLATE "C" NOT NULL,
    size bigint NOT NULL CHECK (size >= 0),
    -- By the clock of the witness. Null if it has cosigned none.
    cosigned_at timestamptz,
    -- What it answered last instead of cosigning; null if it cosigned.
    refusal text,
    PRIMARY KEY (era, witness)
);

-- The logs of other servers that this one cosigns: of each the largest checkpoint that it has cosigned. Moved before the
-- cosignature is given away, from the row as it was, so that no two histories of a log are ever cosigned.
CREATE TABLE audit_witnessed_logs (
    origin text COLLATE "C" PRIMARY KEY,
    size bigint NOT NULL CHECK (size >= 0),
    root bytea NOT NULL CHECK (octet_length(root) = 32),
    -- As the log signed it.
    checkpoint text NOT NULL,
    cosigned_at timestamptz NOT NULL
);

-- For dashboards: what is recorded of events apart from what is personal. Who may read it learns neither names nor addresses
-- nor what a change was.
CREATE VIEW audit_dashboard AS
SELECT e.at, e.id, e.actor_kind, e.user_id, e.actor_role, e.action, e.resource_type, e.resource_id, e.outcome, e.reason,
    e.request_id, e.provider,
    coalesce((
        SELECT pg_visible_in_snapshot(e.xid, s.snapshot)
        FROM audit_seals s WHERE s.rows_era = e.era ORDER BY s.era DESC, s.number DESC LIMIT 1
    ), false) AS sealed
FROM audit_events e;

-- For dashboards and alarms: how far the seals are behind the events. What a seal has not covered has a transaction id of its
-- snapshot's xmin or later; from there on the index is read, and no further than tells that it is too much. An event may be
-- older than its row, which has waited no longer than since everything was sealed.
CREATE VIEW audit_seal_lag AS
SELECT unsealed.events AS unsealed_events,
    CASE WHEN unsealed.events > 0 THEN greatest(unsealed.oldest_at, (
        SELECT sealed_at FROM audit_seals WHERE whole ORDER BY era DESC, number DESC LIMIT 1
    )) END AS unsealed_since,
    (SELECT sealed_at FROM audit_seals ORDER BY era DESC, number DESC LIMIT 1) AS sealed_at,
    (SELECT published_at FROM audit_seals WHERE published_at IS NOT NULL ORDER BY era DESC, number DESC LIMIT 1)
        AS published_at
FROM (
    SELECT count(*) AS events, min(first.at) AS oldest_at
    FROM (SELECT 1::smallint AS era UNION SELECT era FROM audit_eras) AS known
    LEFT JOIN LATERAL (
        SELECT s.snapshot FROM audit_seals s WHERE s.rows_era = known.era ORDER BY s.era DESC, s.number DESC LIMIT 1
    ) AS last ON true
    CROSS JOIN LATERAL (
        SELECT e.at FROM audit_events e
        WHERE e.era = known.era
            AND e.xid >= coalesce(pg_snapshot_xmin(last.snapshot), '0'::xid8)
            AND pg_visible_in_snapshot(e.xid, last.snapshot) IS NOT TRUE
        ORDER BY e.xid
        LIMIT 100000
    ) AS first
) AS unsealed;

-- Orders to erase, signed with a key that the server does not have. Without one, what is missing was taken.
CREATE TABLE audit_orders (
    id uuid PRIMARY KEY,
    -- The signed order, which says what it is about.
    note text NOT NULL,
    received_at timestamptz NOT NULL,
    executed_at timestamptz
);

-- What must not be erased while somebody needs it, whatever the orders say.
CREATE TABLE audit_holds (
    id uuid PRIMARY KEY,
    -- Null holds everything.
    subject uuid,
    reason text NOT NULL,
    placed_at timestamptz NOT NULL,
    released_at timestamptz
);

-- These triggers keep a hand from slipping, also that of the owner. What convinces a stranger is the proof.
CREATE FUNCTION audit_refuse_change() RETURNS trigger
LANGUAGE plpgsql
AS $function$
BEGIN
    RAISE EXCEPTION '% of % is refused: audit events are never changed', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation',
            HINT = 'Events go by whole partitions once their time is over.';
END
$function$;

CREATE FUNCTION audit_refuse_erasure() RETURNS trigger
LANGUAGE plpgsql
AS $function$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('pganalytics.audit_erasure', true) = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '% of % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation',
            HINT = 'Personal fields are erased by audit_erase_personal(at, id), for all of an event at once.';
END
$function$;

-- A statement that names a partition fires the triggers of that partition alone, so each has its own.
CREATE FUNCTION audit_guard(guarded regclass, refuse text) RETURNS void
LANGUAGE plpgsql
AS $function$
BEGIN
    EXECUTE format('CREATE TRIGGER audit_guard BEFORE UPDATE OR DELETE OR TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION %I()', guarded, refuse);
    EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER audit_guard', guarded);
END
$function$;

-- Takes what comes with a wrong clock, or before its month was made.
CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT;
CREATE TABLE audit_personal_default PARTITION OF audit_personal DEFAULT;
SELECT audit_guard('audit_events', 'audit_refuse_change'), audit_guard('audit_events_default', 'audit_refuse_change'),
    audit_guard('audit_personal', 'audit_refuse_erasure'), audit_guard('audit_personal_default', 'audit_refuse_erasure');

-- Makes the partitions of the months (UTC) from that of `first` to that of `last`. A month that the default partition
-- already holds rows of stays there: they are not moved, since they are not deleted.
CREATE FUNCTION audit_ensure_partitions(first date, last date)
RETURNS TABLE (relation text, month date, outcome text)
LANGUAGE plpgsql
SECURITY DEFINER
SET lock_timeout = '3s'
AS $function$
DECLARE
    parent text;
    namespace text;
    child text;
    lower_bound timestamptz;
    upper_bound timestamptz;
    strays boolean;
BEGIN
    IF last - first > 1830 THEN
        RAISE EXCEPTION 'no more than 60 months of partitions at a time' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOREACH parent IN ARRAY ARRAY['audit_events', 'audit_personal'] LOOP
        SELECT n.nspname INTO STRICT namespace
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = parent::regclass;
        -- One at a time; writers go on.
        EXECUTE format('LOCK TABLE ONLY %I.%I IN SHARE UPDATE EXCLUSIVE MODE', namespace, parent);
        month := date_trunc('month', first::timestamp)::date;
        WHILE month <= last LOOP
            relation := parent;
            child := parent || '_' || to_char(month, 'YYYYMM');
            lower_bound := month::timestamp AT TIME ZONE 'UTC';
            upper_bound := (month + interval '1 month') AT TIME ZONE 'UTC';
            IF to_regclass(format('%I.%I', namespace, child)) IS NOT NULL THEN
                outcome := 'present';
            ELSE
                EXECUTE format('SELECT EXISTS (SELECT FROM %I.%I WHERE at >= $1 AND at < $2)',
                    namespace, parent || '_default')
                    INTO strays USING lower_bound, upper_bound;
                outcome := 'left in default';
                IF NOT strays THEN
                    BEGIN
                        EXECUTE format('CREATE TABLE %I.%I (LIKE %I.%I INCLUDING ALL)',
                            namespace, child, namespace, parent);
                        PERFORM audit_guard(format('%I.%I', namespace, child)::regclass,
                            CASE parent WHEN 'audit_events' THEN 'audit_refuse_change' ELSE 'audit_refuse_erasure' END);
                        EXECUTE format('ALTER TABLE %I.%I ATTACH PARTITION %I.%I FOR VALUES FROM (%L) TO (%L)',
                            namespace, parent, namespace, child, lower_bound, upper_bound);
                        outcome := 'made';
                    EXCEPTION WHEN check_violation THEN
                        -- One came since we looked.
                        NULL;
                    END;
                END IF;
            END IF;
            RETURN NEXT;
            month := (month + interval '1 month')::date;
        END LOOP;
    END LOOP;
END
$function$;

-- Erases the personal fields of these events, given as two arrays of the same length; tells of how many it did. Only the
-- owner may: an erasure needs an order, which the server cannot give itself.
CREATE FUNCTION audit_erase_personal(event_at timestamptz[], event_id uuid[]) RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
AS $function$
DECLARE
    erased bigint;
BEGIN
    PERFORM set_config('pganalytics.audit_erasure', 'on', true);
    DELETE FROM audit_personal p USING unnest(event_at, event_id) AS e (at, id) WHERE p.at = e.at AND p.id = e.id;
    GET DIAGNOSTICS erased = ROW_COUNT;
    PERFORM set_config('pganalytics.audit_erasure', '', true);
    RETURN erased;
END
$function$;

-- Whoever calls these must not be able to put tables of their own in the way of the names that they use.
DO $block$
DECLARE
    function regprocedure;
BEGIN
    FOREACH function IN ARRAY ARRAY[
        'audit_ensure_partitions(date, date)', 'audit_erase_personal(timestamptz[], uuid[])'
    ]::regprocedure[] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', function, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);
    END LOOP;
END
$block$;
REVOKE ALL ON FUNCTION audit_guard(regclass, text) FROM PUBLIC;

-- The first events come before anybody has made partitions ahead.
SELECT audit_ensure_partitions((now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date + 62);
