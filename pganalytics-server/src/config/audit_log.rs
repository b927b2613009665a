use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

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
    /// Other servers that cosign what is sealed, so that nobody who holds the keys of this log can show two histories of it. None of
    /// them can keep it from being sealed.
    #[serde(default)]
    pub witnesses: Vec<LogWitnessConfig>,
    /// Of how many witnesses `audit verify` demands cosignatures; 0 is all of them.
    #[serde(default = "all_witnesses")]
    pub witness_quorum: Bounded<0, 100>,
    /// Seconds from asking the witnesses to asking them again. Those that have cosigned what is published are not asked.
    #[serde(default = "ask_witnesses_every")]
    pub ask_witnesses_every_seconds: Seconds<1, 3600>,
    /// Seconds within which a witness answers.
    #[serde(default = "witness_timeout")]
    pub witness_timeout_seconds: Seconds<1, 60>,
    /// Seconds within which an event is sealed, and what is sealed is cosigned by each witness. When the oldest that is not is
    /// older, the log of each server says so, and the gauges `pganalytics_audit_seal_lag_seconds` and
    /// `pganalytics_audit_witness_lag_seconds`.
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
            witnesses: Vec::new(),
            witness_quorum: all_witnesses(),
            ask_witnesses_every_seconds: ask_witnesses_every(),
            witness_timeout_seconds: witness_timeout(),
            maximum_merge_delay_seconds: maximum_merge_delay(),
            key_rotation_days: key_rotation(),
            trusted_keys: Vec::new(),
        }
    }
}

/// Another server that cosigns the log (c2sp.org/tlog-witness).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogWitnessConfig {
    /// Where to ask, without the last part of the path: of a pgAnalytics server `https://…/api/v1/audit/witness`. Plain `http` is
    /// for this machine alone.
    pub url: Url,
    /// The key of its cosignatures, as it shows it.
    pub key: String,
    /// A file with the authorities to trust, as PEM; those of the system if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_authorities: Option<PathBuf>,
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

fn all_witnesses() -> Bounded<0, 100> {
    Bounded::new(0)
}

fn ask_witnesses_every() -> Seconds<1, 3600> {
    Bounded::new(60)
}

fn witness_timeout() -> Seconds<1, 60> {
    Bounded::new(10)
}

fn maximum_merge_delay() -> Seconds<10, 86_400> {
    Bounded::new(300)
}

fn key_rotation() -> Bounded<2, 3650> {
    Bounded::new(365)
}
