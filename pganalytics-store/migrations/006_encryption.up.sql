-- min_app_version: 3.3.0

-- The keys that seal columns, each wrapped by a key-encryption key that never comes near this database.
CREATE TABLE data_keys (
    -- What it seals: each purpose has versions of its own, of which the newest is active.
    purpose text NOT NULL,
    version bigint NOT NULL,
    -- The key-encryption key; the wrapped form means something to its key manager alone.
    key_name text NOT NULL,
    wrapped bytea,
    -- The version of the key-encryption key, where the key manager tells.
    wrapped_version bigint,
    -- The same key, wrapped to the recovery key.
    recovery bytea,
    created_at timestamptz NOT NULL,
    -- Opens nothing any more from here on.
    retired_at timestamptz,
    -- The row stays, so that a value which names this version can be told from one that was changed.
    destroyed_at timestamptz,
    CONSTRAINT data_keys_pkey PRIMARY KEY (purpose, version),
    CONSTRAINT data_keys_version_check CHECK (version > 0),
    CONSTRAINT data_keys_destroyed_check
        CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL) AND (wrapped IS NOT NULL OR recovery IS NULL)),
    CONSTRAINT data_keys_retired_check CHECK (destroyed_at IS NULL OR retired_at IS NOT NULL)
);

COMMENT ON COLUMN idempotency_keys.body IS 'The body; where status is null the whole reply, sealed.';
