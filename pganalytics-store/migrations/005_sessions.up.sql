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
CREATE INDEX user_session_epochs_updated_at_idx ON user_session_epochs (updated_at, user_id);

-- A chain of refresh tokens, of which one is current. The one before stays known: shown again soon after it was
-- replaced, its reply was lost; shown later, or after its successor, it was stolen.
CREATE TABLE refresh_families (
    -- SHA-256 of the part that all its tokens share and nobody else knows: who shows it had a token of this family.
    digest bytea PRIMARY KEY,
    -- Sessions may be kept elsewhere.
    session_id text NOT NULL,
    -- SHA-256 of the rest of the current token.
    current_digest bytea NOT NULL,
    previous_digest bytea,
    -- What makes the current token of the previous one, once more for somebody who has that.
    successor_salt bytea,
    rotated_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT refresh_families_digest_check CHECK (octet_length(digest) = 32)
);
CREATE INDEX refresh_families_expires_at_idx ON refresh_families (expires_at);

-- What every server must forget, written in the transaction that revokes. Rows are swept after minutes.
CREATE TABLE revocations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- session, user, collector or api_token.
    kind text NOT NULL,
    subject text NOT NULL,
    -- For people who look; nothing goes by it.
    at timestamptz NOT NULL DEFAULT now(),
    -- Tells what a reader's snapshot could not see yet: ids of transactions that commit late come out of order.
    xid xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX revocations_xid_idx ON revocations (xid);

-- As triggers, so that no program and no administrator's hand can revoke without telling. The notification only makes
-- servers look sooner: it leaves with the commit, but may be lost.
CREATE FUNCTION record_revocation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'user_session_epochs' THEN
        INSERT INTO revocations (kind, subject) VALUES (TG_ARGV[0], NEW.user_id::text);
    ELSE
        INSERT INTO revocations (kind, subject) VALUES (TG_ARGV[0], OLD.id::text);
    END IF;
    PERFORM pg_notify('pganalytics_revocations', '');
    RETURN NULL;
END
$$;
-- Sessions that were over are only swept; a rotated one is known by another secret from then on.
CREATE TRIGGER record_revocation AFTER DELETE ON sessions
    FOR EACH ROW WHEN (OLD.idle_expires_at > now()) EXECUTE FUNCTION record_revocation('session');
CREATE TRIGGER record_rotation AFTER UPDATE OF secret_hash ON sessions
    FOR EACH ROW EXECUTE FUNCTION record_revocation('session');
CREATE TRIGGER record_revocation AFTER INSERT OR UPDATE ON user_session_epochs
    FOR EACH ROW EXECUTE FUNCTION record_revocation('user');
CREATE TRIGGER record_revocation AFTER UPDATE OF username, role, is_active ON users
    FOR EACH ROW WHEN ((OLD.username, OLD.role, OLD.is_active) IS DISTINCT FROM (NEW.username, NEW.role, NEW.is_active))
    EXECUTE FUNCTION record_revocation('user');
CREATE TRIGGER record_deletion AFTER DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION record_revocation('user');
CREATE TRIGGER record_revocation AFTER UPDATE OF token_epoch, revoked_at, deleted_at ON collectors
    FOR EACH ROW WHEN ((OLD.token_epoch, OLD.revoked_at, OLD.deleted_at)
        IS DISTINCT FROM (NEW.token_epoch, NEW.revoked_at, NEW.deleted_at))
    EXECUTE FUNCTION record_revocation('collector');
CREATE TRIGGER record_deletion AFTER DELETE ON collectors
    FOR EACH ROW EXECUTE FUNCTION record_revocation('collector');
CREATE TRIGGER record_revocation AFTER UPDATE OF revoked_at ON api_tokens
    FOR EACH ROW WHEN (OLD.revoked_at IS DISTINCT FROM NEW.revoked_at)
    EXECUTE FUNCTION record_revocation('api_token');
CREATE TRIGGER record_deletion AFTER DELETE ON api_tokens
    FOR EACH ROW EXECUTE FUNCTION record_revocation('api_token');

CREATE TABLE signing_keys (
    -- A JWS kid.
    id text PRIMARY KEY,
    -- What is signed with it: `tokens` or `audit-log`. The wrapped private half is bound to that.
    used_for text COLLATE "C" NOT NULL DEFAULT 'tokens',
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
