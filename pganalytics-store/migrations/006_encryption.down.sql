-- Whatever these keys sealed could never be opened again.
DO $$
BEGIN
    IF EXISTS (SELECT FROM data_keys) THEN
        RAISE EXCEPTION 'table data_keys holds keys'
            USING HINT = 'Dropping it loses whatever they sealed. Decrypt that first, then empty the table.';
    END IF;
END
$$;

COMMENT ON COLUMN idempotency_keys.body IS NULL;
DROP TABLE data_keys;
