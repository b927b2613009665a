-- What the columns hold is decrypted by `pganalytics-api migrate down`, which has the keys, before this runs.
DO $$
BEGIN
    LOCK TABLE users, collector_config, alert_rules, api_tokens IN ACCESS EXCLUSIVE MODE;
    IF (SELECT phase FROM column_encryption) = 'final' THEN
        PERFORM restore_plain_columns();
    END IF;
    IF EXISTS (SELECT FROM users WHERE password_hash_sealed IS NOT NULL AND password_hash IS NULL)
        OR EXISTS (SELECT FROM collector_config WHERE text_sealed IS NOT NULL AND text IS NULL)
        OR EXISTS (SELECT FROM alert_rules WHERE webhook_url_sealed IS NOT NULL AND webhook_url IS NULL)
        OR EXISTS (SELECT FROM api_tokens WHERE digest_sealed IS NOT NULL AND digest IS NULL)
    THEN
        RAISE EXCEPTION 'there are values that only the keys can open'
            USING HINT = 'Run `pganalytics-api keys migrate --undo` first, which decrypts them.';
    END IF;
    IF EXISTS (SELECT FROM idempotency_keys WHERE status IS NULL AND body IS NOT NULL AND expires_at > now()) THEN
        RAISE EXCEPTION 'there are sealed replies that a client may still ask for'
            USING HINT = 'They are forgotten after 24 hours. Empty table idempotency_keys if no client will.';
    END IF;
    IF EXISTS (
        SELECT FROM data_keys WHERE replace(purpose, '.index', '')
            NOT IN ('passwords', 'collector-config', 'alert-rules', 'api-tokens', 'replies', 'sessions', 'audit.mac')
    ) THEN
        RAISE EXCEPTION 'table data_keys holds keys of other programs'
            USING HINT = 'Dropping it loses whatever they sealed. Decrypt that first, then delete those keys.';
    END IF;
END
$$;

DROP TRIGGER users_keep_sealed_true ON users;
DROP TRIGGER collector_config_keep_sealed_true ON collector_config;
DROP TRIGGER alert_rules_keep_sealed_true ON alert_rules;
DROP TRIGGER api_tokens_keep_sealed_true ON api_tokens;
DROP FUNCTION keep_sealed_columns_true(), watch_plain_columns(), drop_plain_columns(), restore_plain_columns();
ALTER TABLE users DROP COLUMN password_hash_sealed;
ALTER TABLE collector_config DROP COLUMN text_sealed, ALTER COLUMN text SET NOT NULL;
ALTER TABLE alert_rules DROP COLUMN webhook_url_sealed;
ALTER TABLE api_tokens
    DROP CONSTRAINT api_tokens_digest_index_key, DROP COLUMN digest_sealed, DROP COLUMN digest_index,
    ALTER COLUMN digest SET NOT NULL;
ALTER TABLE running_servers DROP COLUMN encryption_phase, DROP COLUMN data_keys_known;
DROP TABLE column_encryption;
COMMENT ON COLUMN idempotency_keys.body IS NULL;
DROP TABLE data_keys;
