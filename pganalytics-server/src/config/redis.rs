use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Bounded;
use crate::secret_ref::SecretRef;

/// Redis. It is used for what is set to be kept there, such as `auth.session_store`; nothing needs it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// Servers as `host:port`: the one server, the sentinels, or some nodes of the cluster.
    #[schemars(with = "Vec<String>")]
    pub servers: Vec<HostPort>,
    /// What these servers are: `single`, `sentinel` or `cluster`.
    pub topology: RedisTopology,
    /// The name by which the sentinels know the master.
    pub sentinel_master: String,
    /// The user of the ACL; the default one if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password of the user, or of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Whether to talk to servers and sentinels over TLS.
    pub tls: bool,
    /// A file with the authorities to trust, as PEM; those of the system if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_authorities: Option<PathBuf>,
    /// Stands before every key and channel.
    pub prefix: String,
    /// Whether sessions are sealed (`auth.session_store`): who reads Redis then sees whose session it is and when it ends, but
    /// neither address nor client nor data. Whoever changes it signs everybody out.
    pub seal_sessions: bool,
    /// Milliseconds that a call may take. A Redis that does not answer costs this once; then it is left alone for a while.
    pub deadline_milliseconds: Bounded<10, 10_000>,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            servers: vec![HostPort { host: "127.0.0.1".into(), port: 6379 }],
            topology: RedisTopology::Single,
            sentinel_master: "mymaster".into(),
            username: None,
            password: None,
            tls: false,
            tls_authorities: None,
            prefix: "pganalytics:".into(),
            seal_sessions: false,
            deadline_milliseconds: Bounded::new(250),
        }
    }
}

/// What the servers of a Redis are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedisTopology {
    /// One server.
    Single,
    /// Sentinels, which know the master.
    Sentinel,
    /// Nodes of a cluster.
    Cluster,
}

/// A host and a port, as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A text that is no host and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `host:port`, like `redis.example.com:6379` or `[::1]:6379`")]
pub struct InvalidHostPort;

impl TryFrom<String> for HostPort {
    type Error = InvalidHostPort;

    fn try_from(text: String) -> Result<Self, InvalidHostPort> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidHostPort)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or(InvalidHostPort)?,
            None if host.contains(':') => return Err(InvalidHostPort),
            None => host,
        };
        let port = port.parse().map_err(|_| InvalidHostPort)?;
        if host.is_empty() || port == 0 {
            return Err(InvalidHostPort);
        }
        Ok(Self { host: host.into(), port })
    }
}

impl From<HostPort> for String {
    fn from(HostPort { host, port }: HostPort) -> Self {
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_survive_their_text_form() {
        for text in ["localhost:6379", "10.0.0.1:1", "[::1]:6379"] {
            assert_eq!(HostPort::try_from(text.to_owned()).map(String::from), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_is_no_host_and_port_is_refused() {
        for text in [
            "",
            "localhost",
            ":6379",
            "localhost:",
            "localhost:0",
            "localhost:65536",
            "::1:6379",
            "[::1:6379",
        ] {
            assert_eq!(HostPort::try_from(text.to_owned()), Err(InvalidHostPort), "{text}");
        }
    }
}
