-- min_app_version: 3.3.0

CREATE TABLE api_tokens (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name text NOT NULL,
    -- SHA-256 of the token, which is random and long, or an HMAC of it.
    digest bytea NOT NULL,
    scopes text[] NOT NULL,
    expires_at timestamptz,
    last_used_at timestamptz,
    -- Revoked tokens stay, so that nobody can bring one back by storing it again.
    revoked_at timestamptz,
    created_at timestamptz NOT NULL,
    CONSTRAINT api_tokens_digest_key UNIQUE (digest),
    CONSTRAINT api_tokens_digest_check CHECK (octet_length(digest) = 32)
);
CREATE INDEX api_tokens_user_id_idx ON api_tokens (user_id, created_at DESC, id DESC);

CREATE TABLE alert_rules (
    id uuid PRIMARY KEY,
    -- The integer that the older API calls a rule's id.
    number bigint GENERATED ALWAYS AS IDENTITY,
    user_id uuid REFERENCES users (id) ON DELETE SET NULL,
    name text NOT NULL,
    description text,
    rule_type text NOT NULL,
    -- Both are numbers of the older API, which names databases and statements by integers.
    database_id bigint,
    query_id bigint,
    metric_name text,
    condition jsonb NOT NULL,
    severity text NOT NULL,
    evaluation_interval_seconds integer NOT NULL DEFAULT 300,
    for_duration_seconds integer NOT NULL DEFAULT 0,
    notification_enabled boolean NOT NULL DEFAULT true,
    notification_channels jsonb NOT NULL DEFAULT '[]',
    webhook_url text,
    is_enabled boolean NOT NULL DEFAULT true,
    is_paused boolean NOT NULL DEFAULT false,
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT alert_rules_number_key UNIQUE (number),
    CONSTRAINT alert_rules_rule_type_check CHECK (rule_type IN ('threshold', 'change', 'anomaly', 'composite')),
    CONSTRAINT alert_rules_severity_check CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    CONSTRAINT alert_rules_intervals_check CHECK (evaluation_interval_seconds > 0 AND for_duration_seconds >= 0)
);
CREATE INDEX alert_rules_user_id_idx ON alert_rules (user_id);

-- One row for each time that a rule fired, open or past: the history is the closed ones.
CREATE TABLE alerts (
    id uuid PRIMARY KEY,
    rule_id uuid NOT NULL REFERENCES alert_rules (id) ON DELETE CASCADE,
    collector_id uuid REFERENCES collectors (id) ON DELETE SET NULL,
    database_name text,
    status text NOT NULL,
    severity text NOT NULL,
    value double precision,
    details jsonb NOT NULL DEFAULT '{}',
    triggered_at timestamptz NOT NULL,
    acknowledged_at timestamptz,
    acknowledged_by uuid REFERENCES users (id) ON DELETE SET NULL,
    resolved_at timestamptz,
    CONSTRAINT alerts_status_check CHECK (status IN ('firing', 'acknowledged', 'resolved')),
    CONSTRAINT alerts_severity_check CHECK (severity IN ('low', 'medium', 'high', 'critical'))
);
CREATE INDEX alerts_rule_id_idx ON alerts (rule_id, triggered_at DESC);
CREATE INDEX alerts_triggered_at_idx ON alerts (triggered_at DESC, id DESC);
CREATE INDEX alerts_collector_id_idx ON alerts (collector_id);
CREATE INDEX alerts_acknowledged_by_idx ON alerts (acknowledged_by);
