-- min_app_version: 3.3.0

CREATE TABLE registration_secrets (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    description text,
    -- SHA-256. The secret is random and long, so a slow hash would add nothing, and this one can be looked up.
    secret_hash bytea NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    total_registrations bigint NOT NULL DEFAULT 0,
    last_used_at timestamptz,
    expires_at timestamptz,
    created_by uuid REFERENCES users (id) ON DELETE SET NULL,
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT registration_secrets_secret_hash_key UNIQUE (secret_hash),
    CONSTRAINT registration_secrets_secret_hash_check CHECK (octet_length(secret_hash) = 32)
);
CREATE INDEX registration_secrets_created_by_idx ON registration_secrets (created_by);

CREATE TABLE collectors (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    description text,
    hostname text NOT NULL,
    -- What a collector keeps across reinstallations, so that registering again finds its row. Older collectors
    -- send none, and each of their registrations is a new row.
    node_identity text,
    -- The collector program's own version.
    program_version text,
    address text,
    status text NOT NULL,
    last_seen_at timestamptz,
    certificate_thumbprint text,
    certificate_expires_at timestamptz,
    -- The newest version in collector_config; 0 when there is none.
    config_version bigint NOT NULL DEFAULT 0,
    -- Seconds.
    health_check_interval integer NOT NULL DEFAULT 60,
    metrics_count_total bigint NOT NULL DEFAULT 0,
    pushes_total bigint NOT NULL DEFAULT 0,
    entries_skipped_total bigint NOT NULL DEFAULT 0,
    -- Tokens made in an earlier epoch are not accepted any more.
    token_epoch bigint NOT NULL DEFAULT 0,
    registration_secret_id uuid REFERENCES registration_secrets (id) ON DELETE SET NULL,
    revoked_at timestamptz,
    deleted_at timestamptz,
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT collectors_status_check CHECK (status IN ('registered', 'active', 'offline', 'error'))
)
-- Each push updates its collector's row; with room on the page that touches no index.
WITH (fillfactor = 70);
CREATE UNIQUE INDEX collectors_node_identity_key ON collectors (node_identity) WHERE deleted_at IS NULL;
CREATE INDEX collectors_present_idx ON collectors (id) WHERE deleted_at IS NULL;
CREATE INDEX collectors_registration_secret_id_idx ON collectors (registration_secret_id);

CREATE TABLE collector_config (
    -- The default is for programs that do not make it.
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    collector_id uuid NOT NULL REFERENCES collectors (id) ON DELETE CASCADE,
    version bigint NOT NULL,
    -- The text that the collector is served, unchanged.
    text text NOT NULL,
    created_by uuid REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT collector_config_version_key UNIQUE (collector_id, version),
    CONSTRAINT collector_config_version_check CHECK (version > 0)
);
CREATE INDEX collector_config_created_by_idx ON collector_config (created_by);
