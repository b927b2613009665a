use std::time::Duration;

use pganalytics_core::secret::SecretString;

/// Where PostgreSQL is, and how patiently to talk to it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database?sslmode=…`; may lead to a pooler.
    pub url: SecretString,
    /// The same database without a transaction pooler in between, for what needs a session of its own:
    /// migrations, LISTEN, replication. `None` when `url` already is that.
    pub direct_url: Option<SecretString>,
    /// Whether `url` leads to a transaction pooler (PgBouncer with `pool_mode = transaction`, Odyssey, …).
    /// Then nothing relies on session state, and no prepared statement outlives its transaction.
    pub transaction_pooler: bool,
    /// Most connections that the pool opens.
    pub max_connections: u32,
    /// How long to wait for a free connection, and for a new one to open.
    pub acquire_timeout: Duration,
    /// After which a statement is cancelled. Zero: never.
    pub statement_timeout: Duration,
    /// After which waiting for a lock is given up. Zero: never.
    pub lock_timeout: Duration,
    /// After which PostgreSQL ends a transaction whose program has fallen silent. Zero: never.
    pub idle_in_transaction_timeout: Duration,
    /// What `pg_stat_activity` shows as `application_name`.
    pub application_name: String,
}

impl PostgresConfig {
    /// The defaults for everything but the address.
    pub fn new(url: impl Into<SecretString>) -> Self {
        Self {
            url: url.into(),
            direct_url: None,
            transaction_pooler: false,
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
            idle_in_transaction_timeout: Duration::from_secs(10),
            application_name: "pganalytics".to_owned(),
        }
    }
}
