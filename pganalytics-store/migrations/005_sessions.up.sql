-- min_app_version: 3.3.0

-- Sessions belong to whoever embeds the store, so users are named, not referenced.
CREATE TABLE sessions (
    -- The public half; the secret half is only here as its SHA-256.
    id text PRIMARY KEY,
    secret_hash bytea NOT NULL,
    user_id uuid NOT NULL,
    -- The user's epoch when the session began. It is void once the user's epoch is another.
    epoch bigint NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    -- Who accepted the sign-in.
    provider text NOT NULL,
    -- The identity provider and what it calls this session, by which it may end it.
    idp_provider text,
    idp_session_id text,
    address inet,
    user_agent text,
    -- JSON as the application wrote it; jsonb would reorder and round.
    data bytea NOT NULL,
    created_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    -- How long it lives untouched.
    idle_ms bigint NOT NULL,
    -- Never after expires_at, so that this one alone tells whether it is over.
    idle_expires_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT sessions_secret_hash_check CHECK (octet_length(secret_hash) = 32)
);
CREATE INDEX sessions_user_id_idx ON sessions (user_id, created_at DESC);
CREATE INDEX sessions_idp_idx ON sessions (idp_provider, idp_session_id) WHERE idp_session_id IS NOT NULL;
CREATE INDEX sessions_idle_expires_at_idx ON sessions (idle_expires_at);

-- Revokes all sessions of a user in one write. A user without a row is in epoch 0.
CREATE TABLE user_session_epochs (
    user_id uuid PRIMARY KEY,
    epoch bigint NOT NULL,
    updated_at timestamptz NOT NULL
);

-- A chain of refresh tokens, of which one is current. The one before stays known: shown again soon after it was
-- replaced, its reply was lost; shown later, it was stolen.
CREATE TABLE refresh_families (
    id uuid PRIMARY KEY,
    session_id text NOT NULL,
    user_id uuid NOT NULL,
    current_digest bytea NOT NULL,
    previous_digest bytea,
    rotated_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT refresh_families_current_digest_key UNIQUE (current_digest)
);
CREATE INDEX refresh_families_previous_digest_idx ON refresh_families (previous_digest)
    WHERE previous_digest IS NOT NULL;
CREATE INDEX refresh_families_session_id_idx ON refresh_families (session_id);
CREATE INDEX refresh_families_user_id_idx ON refresh_families (user_id);
CREATE INDEX refresh_families_expires_at_idx ON refresh_families (expires_at);

CREATE TABLE signing_keys (
    -- A JWS kid.
    id text PRIMARY KEY,
    algorithm text NOT NULL,
    public_key bytea NOT NULL,
    -- As the key manager wrapped it; never the key itself.
    wrapped_private bytea NOT NULL,
    -- Published before it signs, so that every verifier knows it by then.
    activates_at timestamptz NOT NULL,
    -- Signs no more from here on, but is still believed until its row is removed.
    retired_at timestamptz
);

-- What was answered to a request that must take effect once.
CREATE TABLE idempotency_keys (
    -- Whose key it is; the same key of two callers is two keys.
    scope text NOT NULL,
    key text NOT NULL,
    -- SHA-256 over method, path and query, content type and body.
    fingerprint bytea NOT NULL,
    -- Null where the route does not allow its reply to be kept: then only the resource is named again.
    status smallint,
    -- Two arrays of the same length: names repeat, their order counts, and values need not be text.
    header_names text[],
    header_values bytea[],
    body bytea,
    resource_id text,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_keys_expires_at_idx ON idempotency_keys (expires_at);

-- Tries the lock of a key, without waiting, and looks the key up in a snapshot that is younger than the lock: whoever
-- had it before has committed by then. One statement would look with a snapshot from before it had the lock.
CREATE FUNCTION claim_idempotency_key(
    lock bigint, claimed_scope text, claimed_key text,
    OUT locked boolean, OUT live boolean, OUT fingerprint bytea, OUT status smallint,
    OUT header_names text[], OUT header_values bytea[], OUT body bytea, OUT resource_id text
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    locked := pg_try_advisory_xact_lock(lock);
    SELECT k.expires_at > now(), k.fingerprint, k.status, k.header_names, k.header_values, k.body, k.resource_id
    INTO live, fingerprint, status, header_names, header_values, body, resource_id
    FROM idempotency_keys AS k WHERE k.scope = claimed_scope AND k.key = claimed_key;
END
$$;

-- Ids that may be used once, as SHA-256 over scope and id: others choose them, and their length.
CREATE TABLE one_time_ids (
    digest bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX one_time_ids_expires_at_idx ON one_time_ids (expires_at);

-- Messages that leave after the transaction that wrote them.
CREATE TABLE outbox (
    id uuid PRIMARY KEY,
    topic text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    locked_by uuid,
    locked_until timestamptz,
    last_error text,
    -- Given up; kept for somebody to look at.
    dead_at timestamptz
);
CREATE INDEX outbox_due_idx ON outbox (next_attempt_at, id) WHERE dead_at IS NULL;

-- What changed, written in the same transaction. Append-only: the server's role may not change a row.
CREATE TABLE change_events (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    -- The actor as they were then: a reference would change with them, or forbid their deletion.
    actor jsonb NOT NULL,
    action text NOT NULL,
    resource_type text NOT NULL,
    resource_id text,
    before jsonb,
    after jsonb,
    request_id text,
    session_id text,
    -- Tells what a reader's snapshot could not see yet, whatever the order of ids and times.
    xid xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX change_events_at_idx ON change_events (at, id);
CREATE INDEX change_events_resource_idx ON change_events (resource_type, resource_id, at);

CREATE TABLE running_servers (
    instance uuid PRIMARY KEY,
    version text NOT NULL,
    phase text NOT NULL,
    started_at timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL
);

-- One holder for each role. The fence only grows, so that a former holder's writes can be told and refused.
CREATE TABLE leases (
    role text PRIMARY KEY,
    holder uuid,
    fence bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
