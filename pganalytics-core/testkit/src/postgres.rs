use std::env;

use tokio::sync::OnceCell;

use crate::policy::missing;
use crate::{LocalPostgres, LocalPostgresConfig, LocalPostgresError};

/// The environment variable that names the fast server which a launcher has started for the whole test run.
pub const POSTGRES_URL: &str = "PGA_TEST_POSTGRES_URL";

/// The environment variable that names the folder of the server's programs (`postgres`, `initdb`) which tests take
/// instead of an installed version.
pub const POSTGRES_BIN: &str = "PGA_TEST_POSTGRES_BIN";

const MAX_CONNECTIONS: &str = "300";

/// What a test needs of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// A crash loses data: for tests that only need a database of their own. Autovacuum is off.
    Fast,
    /// What is acknowledged survives a crash: for fault tests and write benchmarks.
    Durable,
}

impl Profile {
    /// The configuration of a temporary server of this profile.
    #[must_use]
    pub fn config(self) -> LocalPostgresConfig {
        let config = temporary_postgres().with_setting("max_connections", MAX_CONNECTIONS);
        match self {
            Self::Fast => config.fast().with_setting("autovacuum", "off"),
            Self::Durable => config,
        }
    }
}

/// A server that the tests of a process, or of a whole run, have in common.
#[derive(Debug)]
pub struct SharedPostgres {
    url: String,
    /// Stops with the process.
    _own: Option<LocalPostgres>,
}

impl SharedPostgres {
    /// A superuser's URL of the database `postgres`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same for another database.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        let (server, _) = self.url.rsplit_once('/').expect("a URL of a database has a path");
        format!("{server}/{database}")
    }
}

/// The configuration of a temporary server of the version that is being tested.
#[must_use]
pub fn temporary_postgres() -> LocalPostgresConfig {
    let config = LocalPostgresConfig::temporary();
    match env::var_os(POSTGRES_BIN) {
        Some(folder) => config.with_program_folders(vec![folder.into()]),
        None => config,
    }
}

/// The server that tests share: the launcher's when there is one and the profile is fast, otherwise one of this
/// process, started at the first call. `None` when PostgreSQL is not installed.
///
/// # Panics
/// When the server does not start, or is not installed but required.
pub async fn postgres(profile: Profile) -> Option<&'static SharedPostgres> {
    static FAST: OnceCell<Option<SharedPostgres>> = OnceCell::const_new();
    static DURABLE: OnceCell<Option<SharedPostgres>> = OnceCell::const_new();
    let (cell, launched) = match profile {
        Profile::Fast => (&FAST, env::var(POSTGRES_URL).ok()),
        Profile::Durable => (&DURABLE, None),
    };
    let start = async || {
        if let Some(url) = launched {
            return Some(SharedPostgres { url, _own: None });
        }
        let own = private_postgres(profile).await?;
        Some(SharedPostgres { url: own.url(), _own: Some(own) })
    };
    match cell.get_or_init(start).await {
        Some(shared) => Some(shared),
        None => missing_postgres(),
    }
}

/// A server of its own for a test that kills or restarts it. `None` when PostgreSQL is not installed.
///
/// # Panics
/// When the server does not start, or is not installed but required.
pub async fn private_postgres(profile: Profile) -> Option<LocalPostgres> {
    match LocalPostgres::start(profile.config()).await {
        Ok(server) => Some(server),
        Err(LocalPostgresError::NotInstalled { .. }) if env::var_os(POSTGRES_BIN).is_none() => {
            missing_postgres()
        }
        Err(error) => panic!("PostgreSQL for the tests: {error}"),
    }
}

fn missing_postgres<T>() -> Option<T> {
    missing("PostgreSQL", "postgresql")
}
