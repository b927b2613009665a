use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Of which audit logs of other servers this one is a witness (c2sp.org/tlog-witness). It cosigns their checkpoints, and never
/// two histories of one log.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditWitnessConfig {
    /// The name under which this server cosigns, which is never changed. Best a host and a path:
    /// `pganalytics.example.com/witness`.
    pub name: String,
    /// The logs. Whoever can reach this server can have their checkpoints cosigned; any other is refused.
    #[serde(default)]
    pub logs: Vec<WitnessedLogConfig>,
}

/// A log of another server.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WitnessedLogConfig {
    /// The first line of its checkpoints: its name, a slash, and the number of its era. An era that follows another after a
    /// restore is a log of its own, which somebody has to look at before it is added here.
    pub origin: String,
    /// The keys that sign it, as its server shows them. One that follows another is added beside it.
    pub keys: Vec<String>,
    /// What it is called in this server's own log and metrics; its origin if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}
