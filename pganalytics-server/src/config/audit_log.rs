use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bounded::{Bounded, Seconds};

/// How the audit log is sealed: at short intervals the tree of all its events is signed, and the signed checkpoint is
/// anchored where the database's administrator cannot change it. One of all servers does it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditLogConfig {
    /// The name of the log, which stands in each checkpoint and is never changed. Best a host and a path:
    /// `pganalytics.example.com/audit`.
    pub name: String,
    /// Where checkpoints and tiles lie. The same place for all servers, best one that nobody can delete from.
    pub anchor: AuditAnchorConfig,
    /// Seconds from one seal to the next.
    #[serde(default = "seal_every")]
    pub seal_every_seconds: Seconds<1, 3600>,
    /// Seconds within which an event is sealed. When the oldest that is not sealed is older, the log of each server says
    /// so, and the gauge `pganalytics_audit_seal_lag_seconds`.
    #[serde(default = "maximum_merge_delay")]
    pub maximum_merge_delay_seconds: Seconds<10, 86_400>,
    /// Days after which the key that signs checkpoints is replaced. For a day both sign.
    #[serde(default = "key_rotation")]
    pub key_rotation_days: Bounded<2, 3650>,
    /// The keys of the log that `audit verify` believes, as it shows them. With none, it believes those in the database, which
    /// whoever changes the database may have changed as well.
    #[serde(default)]
    pub trusted_keys: Vec<String>,
}

impl AuditLogConfig {
    /// A log of this name in a folder of this machine.
    pub fn local(name: &str, path: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            anchor: AuditAnchorConfig::Local(LocalAnchorConfig { path }),
            seal_every_seconds: seal_every(),
            maximum_merge_delay_seconds: maximum_merge_delay(),
            key_rotation_days: key_rotation(),
            trusted_keys: Vec::new(),
        }
    }
}

/// Where checkpoints and tiles lie: `type` is `local`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AuditAnchorConfig {
    /// A folder; of several servers all must see the same one.
    Local(LocalAnchorConfig),
}

/// A folder.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalAnchorConfig {
    /// The folder; made if it is missing.
    pub path: PathBuf,
}

fn seal_every() -> Seconds<1, 3600> {
    Bounded::new(5)
}

fn maximum_merge_delay() -> Seconds<10, 86_400> {
    Bounded::new(300)
}

fn key_rotation() -> Bounded<2, 3650> {
    Bounded::new(365)
}
