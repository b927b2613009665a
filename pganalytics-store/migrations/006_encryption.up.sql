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

-- How far the change from plain to sealed columns is:
-- dual     servers write both, since older ones read the plain column;
-- sealed   servers know the sealed columns alone, and a server that writes a plain one is refused;
-- final    there are no plain columns any more.
CREATE TABLE column_encryption (
    phase text NOT NULL,
    changed_at timestamptz NOT NULL,
    -- When the tables were written anew without what the plain columns had left in them.
    rewritten_at timestamptz,
    only_row boolean NOT NULL DEFAULT true,
    CONSTRAINT column_encryption_pkey PRIMARY KEY (only_row),
    CONSTRAINT column_encryption_only_row_check CHECK (only_row),
    CONSTRAINT column_encryption_phase_check CHECK (phase IN ('dual', 'sealed', 'final'))
);
INSERT INTO column_encryption (phase, changed_at) VALUES ('dual', clock_timestamp());

-- What a server goes by; null for those that know neither of phases nor of data keys.
ALTER TABLE running_servers
    ADD COLUMN encryption_phase text,
    -- How many rows of data_keys it has seen: none is ever deleted, so this tells whether it knows the newest.
    ADD COLUMN data_keys_known bigint;

ALTER TABLE users ADD COLUMN password_hash_sealed bytea;
ALTER TABLE collector_config ADD COLUMN text_sealed bytea, ALTER COLUMN text DROP NOT NULL;
ALTER TABLE alert_rules ADD COLUMN webhook_url_sealed bytea;
ALTER TABLE api_tokens
    ADD COLUMN digest_sealed bytea,
    -- A keyed digest, by which a token is found; the digest itself is sealed, so that this can be made anew.
    ADD COLUMN digest_index bytea,
    ALTER COLUMN digest DROP NOT NULL,
    ADD CONSTRAINT api_tokens_digest_index_key UNIQUE (digest_index);

-- Arguments: the plain column, then those that are made of it, the sealed one first.
CREATE FUNCTION keep_sealed_columns_true() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    plain CONSTANT text := TG_ARGV[0];
    sealed CONSTANT text := TG_ARGV[1];
    -- What a program says of its connection: nothing, if it knows the plain column alone; `on`, if it seals; `same`, if what it
    -- writes is the same value in another form.
    seals CONSTANT text := coalesce(current_setting('pganalytics.seals', true), '');
    new_row CONSTANT jsonb := to_jsonb(NEW);
    old_row jsonb := '{}';
    plain_changes boolean;
    sealed_changes boolean;
    current_phase text;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        old_row := to_jsonb(OLD);
    END IF;
    plain_changes := new_row ->> plain IS DISTINCT FROM old_row ->> plain;
    sealed_changes := new_row ->> sealed IS DISTINCT FROM old_row ->> sealed;
    -- Whoever changes the phase waits for those who write under the former one. The number means nothing.
    PERFORM pg_advisory_xact_lock_shared(7411385902663);
    SELECT phase INTO STRICT current_phase FROM column_encryption;
    IF current_phase = 'sealed' THEN
        IF plain_changes AND seals = '' THEN
            RAISE EXCEPTION 'column % of table % is sealed', plain, TG_TABLE_NAME
                USING HINT = 'This program is too old for the database: replace it by one that encrypts.';
        END IF;
        RETURN jsonb_populate_record(NEW, jsonb_build_object(plain, NULL));
    END IF;
    IF plain_changes AND seals = '' THEN
        -- What is sealed is not what was just written. It is sealed anew in the background.
        RETURN jsonb_populate_record(NEW, (SELECT jsonb_object_agg(made, NULL) FROM unnest(TG_ARGV[1:]) AS made));
    END IF;
    IF sealed_changes AND NOT plain_changes AND seals = 'on' THEN
        -- A server that does not know yet that the plain column is in use again. It is filled again in the background.
        RETURN jsonb_populate_record(NEW, jsonb_build_object(plain, NULL));
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION watch_plain_columns() RETURNS void LANGUAGE sql AS $$
    CREATE TRIGGER users_keep_sealed_true BEFORE INSERT OR UPDATE OF password_hash, password_hash_sealed ON users
        FOR EACH ROW EXECUTE FUNCTION keep_sealed_columns_true('password_hash', 'password_hash_sealed');
    CREATE TRIGGER collector_config_keep_sealed_true BEFORE INSERT OR UPDATE OF text, text_sealed ON collector_config
        FOR EACH ROW EXECUTE FUNCTION keep_sealed_columns_true('text', 'text_sealed');
    CREATE TRIGGER alert_rules_keep_sealed_true BEFORE INSERT OR UPDATE OF webhook_url, webhook_url_sealed ON alert_rules
        FOR EACH ROW EXECUTE FUNCTION keep_sealed_columns_true('webhook_url', 'webhook_url_sealed');
    CREATE TRIGGER api_tokens_keep_sealed_true BEFORE INSERT OR UPDATE OF digest, digest_sealed ON api_tokens
        FOR EACH ROW EXECUTE FUNCTION keep_sealed_columns_true('digest', 'digest_sealed', 'digest_index');
$$;
SELECT watch_plain_columns();

-- Ends the change: from here on there is no way back but decrypting.
CREATE FUNCTION drop_plain_columns() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE users, collector_config, alert_rules, api_tokens IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM users WHERE password_hash IS NOT NULL AND password_hash_sealed IS NULL)
        OR EXISTS (SELECT FROM collector_config WHERE text IS NOT NULL AND text_sealed IS NULL)
        OR EXISTS (SELECT FROM alert_rules WHERE webhook_url IS NOT NULL AND webhook_url_sealed IS NULL)
        OR EXISTS (SELECT FROM api_tokens WHERE digest IS NOT NULL AND digest_sealed IS NULL)
    THEN
        RAISE EXCEPTION 'there are values that are not sealed yet'
            USING HINT = 'Run `pganalytics-api keys migrate --run` first.';
    END IF;
    DROP TRIGGER users_keep_sealed_true ON users;
    DROP TRIGGER collector_config_keep_sealed_true ON collector_config;
    DROP TRIGGER alert_rules_keep_sealed_true ON alert_rules;
    DROP TRIGGER api_tokens_keep_sealed_true ON api_tokens;
    ALTER TABLE users DROP COLUMN password_hash;
    ALTER TABLE collector_config DROP COLUMN text, ALTER COLUMN text_sealed SET NOT NULL;
    ALTER TABLE alert_rules DROP COLUMN webhook_url;
    ALTER TABLE api_tokens
        DROP COLUMN digest, ALTER COLUMN digest_sealed SET NOT NULL, ALTER COLUMN digest_index SET NOT NULL;
    UPDATE column_encryption SET phase = 'final', changed_at = clock_timestamp();
END
$$;

-- Takes `drop_plain_columns` back; the columns are empty then.
CREATE FUNCTION restore_plain_columns() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    ALTER TABLE users ADD COLUMN password_hash text;
    ALTER TABLE collector_config ADD COLUMN text text, ALTER COLUMN text_sealed DROP NOT NULL;
    ALTER TABLE alert_rules ADD COLUMN webhook_url text;
    ALTER TABLE api_tokens
        ADD COLUMN digest bytea,
        ADD CONSTRAINT api_tokens_digest_key UNIQUE (digest),
        ADD CONSTRAINT api_tokens_digest_check CHECK (octet_length(digest) = 32),
        ALTER COLUMN digest_sealed DROP NOT NULL,
        ALTER COLUMN digest_index DROP NOT NULL;
    PERFORM watch_plain_columns();
    UPDATE column_encryption SET phase = 'dual', changed_at = clock_timestamp(), rewritten_at = NULL;
END
$$;

-- The owner's affair alone.
REVOKE ALL ON FUNCTION watch_plain_columns(), drop_plain_columns(), restore_plain_columns() FROM PUBLIC;

-- A new installation has nothing to change: no older server has ever written into it.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM users)
        AND NOT EXISTS (SELECT FROM collector_config)
        AND NOT EXISTS (SELECT FROM alert_rules)
        AND NOT EXISTS (SELECT FROM running_servers)
    THEN
        PERFORM drop_plain_columns();
        UPDATE column_encryption SET rewritten_at = changed_at;
    END IF;
END
$$;
