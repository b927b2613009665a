use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use pganalytics_core::cache::VALUE_MAX_BYTES;
use pganalytics_core::secret::SecretString;

use super::error::RedisConfigError;

/// Where Redis is, and how patiently to talk to it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedisConfig {
    /// The servers.
    pub topology: RedisTopology,
    /// The user of the ACL; the default one when left out.
    pub username: Option<String>,
    /// The password, of the user or of the server.
    pub password: Option<SecretString>,
    /// The number of the database; a cluster has only 0.
    pub database: u16,
    /// TLS, for servers and sentinels alike; none when left out.
    pub tls: Option<RedisTls>,
    /// Stands before every key and channel, `pganalytics:` unless told otherwise.
    pub prefix: String,
    /// The longest that a call takes, 250 ms unless told otherwise.
    pub deadline: Duration,
    /// The longest that connecting takes, one second unless told otherwise. A call that needs a connection ends at its
    /// own deadline all the same; the next one finds what came of it.
    pub connect_timeout: Duration,
    /// The largest value that a cache takes, at most (and unless told otherwise) what the port allows.
    pub max_value_bytes: usize,
    /// When to leave Redis alone.
    pub breaker: RedisBreaker,
}

/// Which servers there are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RedisTopology {
    /// One server.
    Single(RedisAddress),
    /// A master that sentinels know.
    Sentinel {
        /// The sentinels.
        sentinels: Vec<RedisAddress>,
        /// The name by which they know the master.
        master: String,
        /// The user and the password of the sentinels themselves, when they want any.
        login: Option<(String, SecretString)>,
    },
    /// A cluster; some of its nodes, by which the others are found.
    Cluster(Vec<RedisAddress>),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RedisAddress {
    /// A name or an IP address; with TLS the certificate must be for it.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Whom to trust, and as whom to appear.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct RedisTls {
    /// Authorities as PEM; those of the system when left out.
    pub authorities: Option<Vec<u8>>,
    /// A certificate and its key as PEM, for servers that ask for one.
    pub identity: Option<(Vec<u8>, SecretString)>,
}

/// When a client leaves Redis alone, and for how long.
///
/// A call that nobody answered until its deadline, while no other call was answered either, opens it at once; so do
/// [`failures`](Self::failures) failed calls in a row. While it is open every call fails at once. After the pause one call
/// is let through: when it succeeds all are, when it fails the pause doubles. In a cluster, where one node says nothing of the
/// others, only failed calls in a row open it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RedisBreaker {
    /// Failed calls in a row that are too many, 5 unless told otherwise.
    pub failures: u32,
    /// The first pause, half a second unless told otherwise; up to half of it is left to chance.
    pub pause: Duration,
    /// The longest pause, 5 seconds unless told otherwise.
    pub max_pause: Duration,
}

impl RedisConfig {
    /// The defaults for these servers.
    pub fn new(topology: RedisTopology) -> Self {
        Self {
            topology,
            username: None,
            password: None,
            database: 0,
            tls: None,
            prefix: "pganalytics:".to_owned(),
            deadline: Duration::from_millis(250),
            connect_timeout: Duration::from_secs(1),
            max_value_bytes: VALUE_MAX_BYTES,
            breaker: RedisBreaker::default(),
        }
    }

    /// Sets the user and the password.
    #[must_use]
    pub fn with_login(self, username: Option<String>, password: SecretString) -> Self {
        Self { username, password: Some(password), ..self }
    }

    /// Speaks TLS.
    #[must_use]
    pub fn with_tls(self, tls: RedisTls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Sets what stands before every key and channel.
    #[must_use]
    pub fn with_prefix(self, prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// Sets the longest that a call takes.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Sets the largest value that a cache takes.
    #[must_use]
    pub fn with_max_value_bytes(self, max_value_bytes: usize) -> Self {
        Self { max_value_bytes, ..self }
    }

    /// Sets when to leave Redis alone.
    #[must_use]
    pub fn with_breaker(self, breaker: RedisBreaker) -> Self {
        Self { breaker, ..self }
    }

    pub(super) fn check(&self) -> Result<(), RedisConfigError> {
        let (addresses, master) = match &self.topology {
            RedisTopology::Single(_) => (1, true),
            RedisTopology::Sentinel { sentinels, master, .. } => (sentinels.len(), !master.is_empty()),
            RedisTopology::Cluster(nodes) => (nodes.len(), true),
        };
        let clustered = matches!(self.topology, RedisTopology::Cluster(_));
        let rules = [
            (addresses > 0, "servers", "there are none"),
            (master, "sentinel", "the master has no name"),
            (!clustered || self.database == 0, "database", "a cluster has only database 0"),
            (
                !self.prefix.contains(['{', '}']),
                "prefix",
                "braces would put all keys on one node of a cluster",
            ),
            (self.prefix.len() <= 256, "prefix", "it is over 256 bytes long"),
            (!self.prefix.chars().any(char::is_control), "prefix", "it holds a control character"),
            (self.username.is_none() || self.password.is_some(), "username", "it wants a password"),
            (!self.deadline.is_zero(), "deadline", "it is zero"),
            (self.max_value_bytes <= VALUE_MAX_BYTES, "max_value_bytes", "it is over what a cache may hold"),
        ];
        match rules.iter().find(|(kept, ..)| !kept) {
            Some((_, setting, reason)) => Err(RedisConfigError::new(setting, *reason)),
            None => Ok(()),
        }
    }
}

impl RedisTls {
    /// Trusts the system's authorities and shows no certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities in this file, in PEM, and no others.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn with_authorities_of(self, file: &Path) -> io::Result<Self> {
        Ok(self.with_authorities(fs::read(file)?))
    }

    /// Trusts these authorities, in PEM, and no others.
    #[must_use]
    pub fn with_authorities(self, pem: Vec<u8>) -> Self {
        Self { authorities: Some(pem), ..self }
    }

    /// Shows this certificate; both in PEM.
    #[must_use]
    pub fn with_identity(self, certificate: Vec<u8>, key: SecretString) -> Self {
        Self { identity: Some((certificate, key)), ..self }
    }
}

impl RedisAddress {
    /// An address.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl RedisBreaker {
    /// Sets how many failed calls in a row are too many, at least one.
    #[must_use]
    pub fn with_failures(self, failures: u32) -> Self {
        Self { failures: failures.max(1), ..self }
    }

    /// Sets the first and the longest pause.
    #[must_use]
    pub fn with_pauses(self, pause: Duration, max_pause: Duration) -> Self {
        Self { pause, max_pause, ..self }
    }
}

impl Default for RedisBreaker {
    fn default() -> Self {
        Self { failures: 5, pause: Duration::from_millis(500), max_pause: Duration::from_secs(5) }
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTls")
            .field("own_authorities", &self.authorities.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> RedisConfig {
        RedisConfig::new(RedisTopology::Single(RedisAddress::new("localhost", 6379)))
    }

    #[test]
    fn impossible_settings_are_named() {
        let cluster = RedisTopology::Cluster(vec![RedisAddress::new("localhost", 6379)]);
        let cases = [
            (RedisConfig::new(RedisTopology::Cluster(Vec::new())), "servers"),
            (RedisConfig { database: 1, ..RedisConfig::new(cluster) }, "database"),
            (config().with_prefix("{tag}"), "prefix"),
            (config().with_deadline(Duration::ZERO), "deadline"),
            (config().with_max_value_bytes(VALUE_MAX_BYTES + 1), "max_value_bytes"),
            (RedisConfig { username: Some("app".into()), ..config() }, "username"),
        ];
        for (config, setting) in cases {
            assert_eq!(config.check().unwrap_err().setting, setting);
        }
        config().check().unwrap();
    }

    #[test]
    fn secrets_are_not_printed() {
        let tls = RedisTls::new().with_identity(b"certificate".to_vec(), SecretString::new("hunter2"));
        let config = config().with_login(Some("app".into()), SecretString::new("hunter2")).with_tls(tls);
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
