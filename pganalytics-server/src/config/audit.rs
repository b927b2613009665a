use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AuditLogConfig, AuditWitnessConfig, Bounded, HostPort};
use crate::secret_ref::SecretRef;

const MIB: u64 = 1024 * 1024;

/// The audit log of requests. Changes are recorded in any case, in the transaction that makes them.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Whether each request is recorded. Health probes, `/metrics` and the documentation never are.
    pub requests: bool,
    /// Which requests are refused with 503 while they cannot be recorded: `changes`, `reads`, `collectors`. The others are
    /// answered, and what is missing is counted.
    pub fail_closed: Vec<RequestClass>,
    /// The folder in which events wait on their way to the database and the other sinks. On a volume of its own: it is
    /// what outlives a server that is killed. Several servers may share it.
    pub folder: PathBuf,
    /// Bytes that one server takes there at the most. At a thousand requests a second 1 GiB is about half an hour.
    pub max_bytes: Bounded<65_536, 1_099_511_627_776>,
    /// Bytes of one file there. Four of them must fit.
    pub segment_bytes: Bounded<4_096, 1_073_741_824>,
    /// When events are forced to disk. They survive a killed server either way, a power cut only with `each_append`.
    pub sync: AuditSync,
    /// Bytes that may wait for a sink that is not required, before it misses the oldest.
    pub optional_backlog_max_bytes: Bounded<65_536, 1_099_511_627_776>,
    /// Where events of requests go besides the database.
    pub sinks: Vec<AuditSinkConfig>,
    /// How the log is sealed, so that a change to it afterwards is found. Left out: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<AuditLogConfig>,
    /// The public keys that sign orders to take something out of the log, as `pganalytics-api audit order-key new` prints them.
    /// Keep those of earlier keys: what they ordered is verified by them.
    pub order_keys: Vec<String>,
    /// Of which logs of other servers this one is a witness. Left out: of none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witness: Option<AuditWitnessConfig>,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            requests: true,
            fail_closed: Vec::new(),
            folder: "/var/lib/pganalytics/audit".into(),
            max_bytes: Bounded::new(1024 * MIB),
            segment_bytes: Bounded::new(16 * MIB),
            sync: AuditSync::Never,
            optional_backlog_max_bytes: Bounded::new(256 * MIB),
            sinks: Vec::new(),
            log: None,
            order_keys: Vec::new(),
            witness: None,
        }
    }
}

/// Requests that are treated alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestClass {
    /// What users change, signing in included.
    Changes,
    /// What users read.
    Reads,
    /// What collectors send and ask for.
    Collectors,
}

/// When events are forced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditSync {
    /// When the operating system gets to it.
    Never,
    /// Before the request is answered.
    EachAppend,
}

/// A sink besides the database: `type` is `file`, `stdout` or `syslog`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AuditSinkConfig {
    /// Lines of JSON in files.
    File(AuditFileConfig),
    /// Lines of JSON on standard output.
    Stdout(AuditStdoutConfig),
    /// A syslog server (RFC 5424), over TCP or TLS.
    Syslog(AuditSyslogConfig),
}

/// Lines of JSON in files.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditFileConfig {
    /// Tells it from other sinks, and finds its place again after a restart: lower-case letters, digits, `-`, `_`.
    #[serde(default = "file_name")]
    pub name: String,
    /// Whether it must get every event. While it cannot, the folder fills up.
    #[serde(default)]
    pub required: bool,
    /// The file. Finished ones lie beside it.
    pub path: PathBuf,
    /// Bytes after which a file is finished.
    #[serde(default = "file_max_bytes")]
    pub max_bytes: Bounded<65_536, 1_099_511_627_776>,
    /// Whether each day has a file of its own.
    #[serde(default = "yes")]
    pub daily: bool,
    /// Finished files that are kept.
    #[serde(default = "file_keep")]
    pub keep: Bounded<1, 100_000>,
}

/// Lines of JSON on standard output.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditStdoutConfig {
    /// Tells it from other sinks, and finds its place again after a restart: lower-case letters, digits, `-`, `_`.
    #[serde(default = "stdout_name")]
    pub name: String,
    /// Whether it must get every event. While it cannot, the folder fills up.
    #[serde(default)]
    pub required: bool,
}

/// A syslog server (RFC 5424), over TCP or TLS.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditSyslogConfig {
    /// Tells it from other sinks, and finds its place again after a restart: lower-case letters, digits, `-`, `_`.
    #[serde(default = "syslog_name")]
    pub name: String,
    /// Whether it must get every event. While it cannot, the folder fills up.
    #[serde(default)]
    pub required: bool,
    /// The server as `host:port`; usually 6514 with TLS, 601 without.
    #[schemars(with = "String")]
    pub server: HostPort,
    /// Whether to talk to it over TLS.
    #[serde(default = "yes")]
    pub tls: bool,
    /// A file with the authorities to trust, as PEM; those of the system if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_authorities: Option<PathBuf>,
    /// A file with a certificate to show, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// The key of that certificate, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<SecretRef>,
    /// The facility: 13 is log audit.
    #[serde(default = "syslog_facility")]
    pub facility: Bounded<0, 23>,
    /// The name of this host in each message; none if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The name of the structured data. After the `@` stands your organisation's private enterprise number.
    #[serde(default = "syslog_structured_data_id")]
    pub structured_data_id: String,
}

fn yes() -> bool {
    true
}

fn file_name() -> String {
    "file".into()
}

fn stdout_name() -> String {
    "stdout".into()
}

fn syslog_name() -> String {
    "syslog".into()
}

fn file_max_bytes() -> Bounded<65_536, 1_099_511_627_776> {
    Bounded::new(100 * MIB)
}

fn file_keep() -> Bounded<1, 100_000> {
    Bounded::new(30)
}

fn syslog_facility() -> Bounded<0, 23> {
    Bounded::new(13)
}

fn syslog_structured_data_id() -> String {
    "pganalytics@32473".into()
}
