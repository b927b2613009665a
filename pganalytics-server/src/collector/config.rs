//! The collector's configuration: defaults, a TOML file, `PGA_COLLECTOR__SECTION__FIELD` variables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use url::Url;

use crate::secret_ref::SecretRef;

use super::sources::KINDS;

/// What variables of the environment begin with.
const ENVIRONMENT: &str = "PGA_COLLECTOR__";

/// All settings of a collector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct CollectorConfig {
    /// The server that is pushed to.
    pub server: ServerSection,
    /// This node.
    pub node: NodeSection,
    /// How often what is done.
    pub schedule: ScheduleSection,
    /// Batches on disk while the server is away.
    pub spool: SpoolSection,
    /// How PostgreSQL is read.
    pub postgres: PostgresSection,
    /// The PostgreSQL servers that are read.
    pub instances: Vec<InstanceSection>,
    /// Types to switch off or to collect at another interval, by type.
    pub sources: BTreeMap<String, SourceSection>,
    /// Messages of the collector itself.
    pub log: LogSection,
}

/// The server that is pushed to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ServerSection {
    /// Base URL; `/api/v1/…` is added.
    pub url: Url,
    /// The secret with which the collector registers itself. Needed once, and again when its token was revoked.
    pub registration_secret: Option<SecretRef>,
    /// Certificates (PEM) of the only authorities to trust; without it those of the system.
    pub ca_file: Option<PathBuf>,
    /// Limit for making a connection, in seconds.
    pub connect_timeout_seconds: u64,
    /// Limit for a whole request, in seconds.
    pub request_timeout_seconds: u64,
    /// Whether pushes are compressed. Only the first pgAnalytics servers need them plain.
    pub compression: Compression,
    /// Whether types, intervals and databases that the server configures are applied.
    pub accept_config: bool,
}

/// How pushes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// gzip, with `Content-Encoding: gzip`.
    Gzip,
    /// Plain JSON.
    None,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct NodeSection {
    /// The name in the console; the host's name when not set.
    pub name: Option<String>,
    /// The host's name as the server shows it; the system's when not set.
    pub hostname: Option<String>,
    /// An address under which people find this node.
    pub address: Option<String>,
    /// The folder for the node's id, its token and the spool. One collector a folder.
    pub state_dir: PathBuf,
}

/// How often what is done, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ScheduleSection {
    /// Statistics, locks, connections, the host.
    pub interval_seconds: u64,
    /// Schema, extensions, settings.
    pub slow_interval_seconds: u64,
    /// Asking the server for the configuration.
    pub config_pull_seconds: u64,
}

/// Batches on disk while the server is away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SpoolSection {
    /// The folder; `spool` in the state folder when not set.
    pub dir: Option<PathBuf>,
    /// Largest size in bytes. When it is reached, the oldest batches are dropped and counted.
    pub max_bytes: u64,
    /// Whether a batch is on the disk, not only with the operating system, before it counts as spooled. Without it a
    /// power cut can lose the newest ones.
    pub sync: bool,
}

/// How PostgreSQL is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct PostgresSection {
    /// Limit for making a connection, in seconds.
    pub connect_timeout_seconds: u64,
    /// Limit for each query, in milliseconds.
    pub statement_timeout_ms: u64,
    /// Limit for waiting for a lock, in milliseconds.
    pub lock_timeout_ms: u64,
    /// Limit for one collection of one instance, in seconds; what is not done by then is left out and reported.
    pub collection_timeout_seconds: u64,
    /// Most rows of lists of the largest, the busiest, the longest.
    pub top_rows: u32,
    /// Most rows of lists of a catalog: tables, columns, indexes.
    pub catalog_rows: u32,
    /// Most databases of one instance.
    pub max_databases: usize,
    /// Instances that are read at the same time.
    pub parallel_instances: usize,
}

/// A PostgreSQL server that is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct InstanceSection {
    /// A short name, unique here. With several instances it is part of the databases' names: `main/shop`.
    pub name: String,
    /// `postgres://user@host:port/database?sslmode=…`, without a password.
    pub url: String,
    /// The password.
    #[serde(default)]
    pub password: Option<SecretRef>,
    /// Databases to read; all that accept connections when empty.
    #[serde(default)]
    pub databases: Vec<String>,
    /// Databases to leave out.
    #[serde(default)]
    pub exclude_databases: Vec<String>,
    /// The server's log file, if it is on this host.
    #[serde(default)]
    pub log_file: Option<PathBuf>,
}

/// One type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SourceSection {
    /// Whether it is collected; yes when not set.
    pub enabled: Option<bool>,
    /// Its own interval in seconds.
    pub interval_seconds: Option<u64>,
}

/// Messages of the collector itself, on standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LogSection {
    /// Text or JSON.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: LogLevel,
}

/// How messages look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines of text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which messages are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what fails.
    Error,
    /// And what may become a failure.
    Warn,
    /// And what happens.
    Info,
    /// And each step.
    Debug,
    /// And what libraries do.
    Trace,
}

/// A configuration that cannot be used: every fault with its place and what is allowed there.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    faults: Vec<String>,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            url: Url::parse("http://127.0.0.1:8080").expect("this is a URL"),
            registration_secret: None,
            ca_file: None,
            connect_timeout_seconds: 10,
            request_timeout_seconds: 60,
            compression: Compression::Gzip,
            accept_config: true,
        }
    }
}

impl Default for NodeSection {
    fn default() -> Self {
        Self { name: None, hostname: None, address: None, state_dir: "/var/lib/pganalytics".into() }
    }
}

impl Default for ScheduleSection {
    fn default() -> Self {
        Self { interval_seconds: 60, slow_interval_seconds: 300, config_pull_seconds: 300 }
    }
}

impl Default for SpoolSection {
    fn default() -> Self {
        Self { dir: None, max_bytes: 256 << 20, sync: true }
    }
}

impl Default for PostgresSection {
    fn default() -> Self {
        Self {
            connect_timeout_seconds: 5,
            statement_timeout_ms: 5000,
            lock_timeout_ms: 500,
            collection_timeout_seconds: 30,
            top_rows: 100,
            catalog_rows: 5000,
            max_databases: 100,
            parallel_instances: 4,
        }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: LogLevel::Info }
    }
}

impl CollectorConfig {
    /// Reads defaults, then the file, then the environment, and checks every value.
    ///
    /// # Errors
    /// When the file cannot be read, or a key or value is wrong: all faults at once.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = file {
            // figment takes a file that is not there for an empty one.
            std::fs::File::open(path)
                .map_err(|error| ConfigError::one(format!("{}: cannot be read: {error}", path.display())))?;
            figment = figment.merge(Toml::file_exact(path));
        }
        let figment = figment.merge(Env::prefixed(ENVIRONMENT).split("__"));
        let config: Self = figment.extract().map_err(ConfigError::from)?;
        let faults: Vec<String> = config.faults().into_iter().map(|fault| fault.locate(&figment)).collect();
        if faults.is_empty() { Ok(config) } else { Err(ConfigError { faults }) }
    }

    /// A configuration for one instance, for programs that start a collector of their own.
    ///
    /// # Errors
    /// When a value is wrong.
    pub fn for_instance(
        server: Url,
        state_dir: PathBuf,
        instance: InstanceSection,
    ) -> Result<Self, ConfigError> {
        let mut config = Self { instances: vec![instance], ..Self::default() };
        config.server.url = server;
        config.node.state_dir = state_dir;
        let faults: Vec<String> = config.faults().iter().map(Fault::to_string).collect();
        if faults.is_empty() { Ok(config) } else { Err(ConfigError { faults }) }
    }

    /// Values whose type is right and whose content is not.
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        let server = &self.server;
        faults.check(
            matches!(server.url.scheme(), "http" | "https") && server.url.host_str().is_some(),
            "server.url",
            "an http or https URL",
        );
        faults.check(
            server.url.username().is_empty() && server.url.password().is_none(),
            "server.url",
            "a URL without user and password",
        );
        faults.range("server.connect_timeout_seconds", server.connect_timeout_seconds, 1, 300);
        faults.range("server.request_timeout_seconds", server.request_timeout_seconds, 1, 3600);
        let schedule = &self.schedule;
        faults.range("schedule.interval_seconds", schedule.interval_seconds, 1, 86_400);
        faults.range("schedule.slow_interval_seconds", schedule.slow_interval_seconds, 1, 86_400);
        faults.range("schedule.config_pull_seconds", schedule.config_pull_seconds, 1, 86_400);
        faults.range("spool.max_bytes", self.spool.max_bytes, 1 << 16, 1 << 40);
        let postgres = &self.postgres;
        faults.range("postgres.connect_timeout_seconds", postgres.connect_timeout_seconds, 1, 300);
        faults.range("postgres.statement_timeout_ms", postgres.statement_timeout_ms, 10, 600_000);
        faults.range("postgres.lock_timeout_ms", postgres.lock_timeout_ms, 1, 600_000);
        faults.range("postgres.collection_timeout_seconds", postgres.collection_timeout_seconds, 1, 3600);
        faults.range("postgres.top_rows", postgres.top_rows.into(), 1, 10_000);
        faults.range("postgres.catalog_rows", postgres.catalog_rows.into(), 1, 100_000);
        faults.range("postgres.max_databases", postgres.max_databases as u64, 1, 10_000);
        faults.range("postgres.parallel_instances", postgres.parallel_instances as u64, 1, 64);
        for (kind, source) in &self.sources {
            let key = format!("sources.{kind}");
            faults.check(KINDS.contains(&kind.as_str()), &key, &format!("one of {}", KINDS.join(", ")));
            if let Some(seconds) = source.interval_seconds {
                faults.range(&format!("{key}.interval_seconds"), seconds, 1, 86_400);
            }
        }
        self.check_instances(&mut faults);
        faults.0
    }

    fn check_instances(&self, faults: &mut Faults) {
        let mut names = BTreeSet::new();
        for (index, instance) in self.instances.iter().enumerate() {
            let key = |field: &str| format!("instances.{index}.{field}");
            let plain = |name: &str| {
                let letters = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
                (1..=63).contains(&name.len()) && name.chars().all(letters)
            };
            faults.check(plain(&instance.name), &key("name"), "1 to 63 letters, digits, `-`, `_` or `.`");
            faults.check(names.insert(&instance.name), &key("name"), "a name that no other instance has");
            match instance.parsed_url() {
                Ok(url) => faults.check(
                    url.password().is_none() && url.query_pairs().all(|(name, _)| name != "password"),
                    &key("url"),
                    "a URL without a password; use `password = { file = \"/path\" }` or `{ env = \"NAME\" }`",
                ),
                Err(reason) => faults.check(
                    false,
                    &key("url"),
                    &format!("postgres://user@host:port/database?sslmode=verify-full ({reason})"),
                ),
            }
        }
    }
}

impl InstanceSection {
    /// An instance whose databases are all read.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            password: None,
            databases: Vec::new(),
            exclude_databases: Vec::new(),
            log_file: None,
        }
    }

    /// The URL, or why it is none. The reason does not repeat it.
    fn parsed_url(&self) -> Result<Url, String> {
        let url = Url::parse(&self.url).map_err(|error| error.to_string())?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err("the scheme is not postgres".into());
        }
        PgConnectOptions::from_str(&self.url).map_err(|_| "an option is wrong".to_owned())?;
        Ok(url)
    }
}

/// One wrong value.
#[derive(Debug)]
struct Fault {
    key: String,
    expected: String,
}

#[derive(Debug, Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn check(&mut self, holds: bool, key: &str, expected: &str) {
        if !holds {
            self.0.push(Fault { key: key.to_owned(), expected: expected.to_owned() });
        }
    }

    fn range(&mut self, key: &str, value: u64, from: u64, to: u64) {
        self.check((from..=to).contains(&value), key, &format!("a number from {from} to {to}, not {value}"));
    }
}

impl Fault {
    fn locate(&self, figment: &Figment) -> String {
        // Items of a list are not found by themselves, only the list is.
        let mut key = Some(self.key.as_str());
        while let Some(path) = key {
            if let Some(source) = figment.find_metadata(path).and_then(|metadata| metadata.source.as_ref()) {
                return format!("{source}: {self}");
            }
            key = path.rsplit_once('.').map(|(parent, _)| parent);
        }
        self.to_string()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` must be {}", self.key, self.expected)
    }
}

impl ConfigError {
    fn one(fault: String) -> Self {
        Self { faults: vec![fault] }
    }
}

impl From<figment::Error> for ConfigError {
    fn from(errors: figment::Error) -> Self {
        let describe = |error: figment::Error| {
            let metadata = error.metadata.as_ref();
            let place = metadata
                .map(|metadata| {
                    metadata
                        .source
                        .as_ref()
                        .map_or_else(|| metadata.name.to_string(), |source| source.to_string())
                })
                .map_or_else(String::new, |place| format!("{place}: "));
            let key =
                if error.path.is_empty() { String::new() } else { format!("`{}`: ", error.path.join(".")) };
            format!("{place}{key}{}", error.kind)
        };
        Self { faults: errors.into_iter().map(describe).collect() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.faults.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const SAMPLE: &str = include_str!("sample.toml");

    /// Keys of all tables of a schema, each with the comment that describes it.
    fn keys(schema: &Value) -> BTreeSet<String> {
        let of_object = |object: &Value| {
            let properties = object.get("properties").and_then(Value::as_object);
            properties.into_iter().flat_map(|properties| properties.keys().cloned()).collect::<Vec<_>>()
        };
        let definitions = schema["$defs"].as_object().unwrap().iter();
        let sections = definitions.filter(|(name, _)| name.ends_with("Section"));
        sections.flat_map(|(_, section)| of_object(section)).chain(of_object(schema)).collect()
    }

    #[test]
    fn the_sample_shows_every_key_and_the_defaults() {
        let sample: CollectorConfig = Figment::new().merge(Toml::string(SAMPLE)).extract().unwrap();
        assert_eq!(sample, CollectorConfig::default());
        let schema = serde_json::to_value(schemars::schema_for!(CollectorConfig)).unwrap();
        for key in keys(&schema) {
            let shown = SAMPLE.lines().map(|line| line.trim_start_matches("# ")).any(|line| {
                line.starts_with(&format!("{key} ="))
                    || line.starts_with(&format!("[{key}"))
                    || line.starts_with(&format!("[[{key}"))
            });
            assert!(shown, "{key}");
        }
        for kind in KINDS {
            assert!(SAMPLE.contains(kind), "{kind}");
        }
    }

    #[test]
    fn an_instance_of_another_program_is_checked_too() {
        let server = Url::parse("http://127.0.0.1:1").unwrap();
        let config = |url| {
            let instance = InstanceSection::new("dev", url);
            CollectorConfig::for_instance(server.clone(), "/tmp/state".into(), instance)
        };
        assert_eq!(config("postgres://postgres@%2Ftmp%2Fsocket/postgres").unwrap().instances.len(), 1);
        let error = config("postgres://postgres:hunter2@h/d").unwrap_err().to_string();
        assert!(error.contains("without a password") && !error.contains("hunter2"), "{error}");
    }
}
