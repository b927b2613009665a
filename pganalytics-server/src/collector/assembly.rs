//! Puts a collector together from its configuration.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::random::{Random, RandomExt};
use pganalytics_core::secret::SecretString;
use sysinfo::System;
use tokio::time::Instant;

use crate::secret_ref::{SecretRef, SecretRefError};

use super::batch::{Batch, Sender};
use super::client::ClientError;
use super::config::CollectorConfig;
use super::health::Report;
use super::identity::{StateError, StateFolder, StoredConfig};
use super::link::{Link, LinkOpenError, Node};
use super::pass::{Collected, Collection, NodeNames, Wanted};
use super::plan::Plan;
use super::pusher::{Pusher, Shared};
use super::remote_config::ParsedConfig;
use super::session::{Instance, SessionError};
use super::spool::{Spool, SpoolError};

/// A collector could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A secret that the configuration names cannot be read.
    #[error("`{key}`")]
    Secret {
        /// The key that names the secret.
        key: String,
        /// What is wrong with it.
        #[source]
        source: SecretRefError,
    },
    /// The configuration names something that cannot be used.
    #[error("{0}")]
    Config(String),
    /// The state folder or the spool cannot be used.
    #[error("{message}")]
    State {
        /// Which one, and why.
        message: String,
        /// What the operating system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The parts of a collector.
#[derive(Debug)]
pub(super) struct Assembly {
    pub config: CollectorConfig,
    pub state: Arc<StateFolder>,
    pub node: Node,
    pub plan: Plan,
    pub config_version: Option<i64>,
    pub stored_config: Option<StoredConfig>,
    pub collector: Collector,
    pub pusher: Pusher,
    pub shared: Arc<Shared>,
}

/// The collecting half.
#[derive(Debug)]
pub(super) struct Collector {
    collection: Collection,
    shared: Arc<Shared>,
    node: Node,
    started: DateTime<Utc>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// What a collection put into the spool.
#[derive(Debug)]
pub(super) struct Spooled {
    pub collected: Collected,
    pub batches: u64,
    pub bytes: u64,
}

impl Assembly {
    /// Reads secrets and state. With `past`, log files are told from some way back.
    ///
    /// # Errors
    /// When a secret, a certificate, the state folder or the spool cannot be used.
    pub(super) fn new(
        config: CollectorConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        past: bool,
    ) -> Result<Self, StartError> {
        let instances = instances(&config)?;
        let state = Arc::new(StateFolder::open(&config.node.state_dir)?);
        let node = node(&config, state.node_id(&*clock, &*random)?);
        let secret = registration_secret(&config, &state)?;
        let link = Link::open(&config.server, secret, Arc::clone(&state), node.clone(), Arc::clone(&clock))?;
        let folder = config.spool.dir.clone().unwrap_or_else(|| state.spool_folder());
        let spool = Spool::open(&folder, config.spool.max_bytes, config.spool.sync)?;
        let shared = Arc::new(Shared::new(spool));
        let stored_config = if config.server.accept_config { state.stored_config()? } else { None };
        let parsed =
            stored_config.as_ref().map(|stored| ParsedConfig::parse(&stored.text)).unwrap_or_default();
        let names = NodeNames { collector_id: node.name.clone(), hostname: node.hostname.clone() };
        let collection = Collection::new(instances, config.postgres.clone(), names, Arc::clone(&clock), past);
        Ok(Self {
            plan: Plan::new(&config, &parsed.config),
            config_version: stored_config.as_ref().and_then(|stored| stored.version),
            stored_config,
            collector: Collector {
                collection,
                shared: Arc::clone(&shared),
                node: node.clone(),
                started: clock.now(),
                clock: Arc::clone(&clock),
                random: Arc::clone(&random),
            },
            pusher: Pusher::new(link, Arc::clone(&shared), clock, random),
            config,
            state,
            node,
            shared,
        })
    }
}

impl Collector {
    /// Collects, and spools what was collected under the name that the server knows.
    ///
    /// # Errors
    /// When the spool cannot be written; what was collected is lost and counted as dropped.
    pub(super) async fn collect(
        &self,
        wanted: &Wanted,
        collector_id: &str,
        config_version: Option<i64>,
    ) -> Result<Spooled, StartError> {
        let begun = Instant::now();
        let mut collected = self.collection.collect(wanted).await;
        for failure in &collected.failures {
            tracing::debug!(?failure, "not collected");
        }
        let now = self.clock.now();
        let report = Report {
            node: self.node.id,
            started: self.started,
            now,
            config_version,
            failures: &collected.failures,
            unavailable: &collected.unavailable,
            spool: self.shared.spool().status(),
            duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        collected.entries.push(self.shared.health().entry(&report));
        let sender = Sender { collector_id: collector_id.to_owned(), hostname: self.node.hostname.clone() };
        let batches = Batch::pack(&collected.entries, &sender, now, || self.random.uuid_v7(&*self.clock));
        let mut spool = self.shared.spool();
        for batch in &batches {
            spool.put(batch)?;
        }
        let bytes = batches.iter().map(|batch| batch.body.len() as u64).sum();
        Ok(Spooled { collected, batches: batches.len() as u64, bytes })
    }
}

/// The instances of a configuration with their passwords.
///
/// # Errors
/// When a password cannot be read or a URL is wrong.
pub(super) fn instances(config: &CollectorConfig) -> Result<Vec<Instance>, StartError> {
    let instance = |(index, section): (usize, &super::config::InstanceSection)| {
        let key = format!("instances.{index}.password");
        let password = section.password.as_ref().map(|reference| read_secret(&key, reference)).transpose()?;
        Instance::new(section.clone(), password.as_ref()).map_err(|error| bad_url(index, &error))
    };
    config.instances.iter().enumerate().map(instance).collect()
}

/// What this node is called.
pub(super) fn node(config: &CollectorConfig, id: uuid::Uuid) -> Node {
    let hostname = config.node.hostname.clone().or_else(|| System::host_name().ok());
    let hostname = hostname.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".into());
    Node {
        id,
        name: config.node.name.clone().unwrap_or_else(|| hostname.clone()),
        hostname,
        address: config.node.address.clone(),
    }
}

pub(super) fn read_secret(key: &str, reference: &SecretRef) -> Result<SecretString, StartError> {
    reference.read().map_err(|source| StartError::Secret { key: key.to_owned(), source })
}

/// The registration secret is needed once: a registered collector goes on when it is gone.
fn registration_secret(
    config: &CollectorConfig,
    state: &StateFolder,
) -> Result<Option<SecretString>, StartError> {
    let Some(reference) = &config.server.registration_secret else { return Ok(None) };
    match read_secret("server.registration_secret", reference) {
        Err(StartError::Secret { source, .. }) if state.credentials()?.is_some() => {
            tracing::warn!(error = %source, "going on without the registration secret");
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn bad_url(index: usize, error: &SessionError) -> StartError {
    StartError::Config(format!("`instances.{index}.url`: {error}"))
}

impl StartError {
    /// Whether changing the configuration is the remedy.
    pub(super) fn is_config(&self) -> bool {
        matches!(self, Self::Secret { .. } | Self::Config(_))
    }
}

impl From<StateError> for StartError {
    fn from(error: StateError) -> Self {
        Self::State { message: error.to_string(), source: error.into() }
    }
}

impl From<SpoolError> for StartError {
    fn from(error: SpoolError) -> Self {
        Self::State { message: error.to_string(), source: error.into() }
    }
}

impl From<ClientError> for StartError {
    fn from(error: ClientError) -> Self {
        Self::Config(error.to_string())
    }
}

impl From<LinkOpenError> for StartError {
    fn from(error: LinkOpenError) -> Self {
        match error {
            LinkOpenError::State(error) => error.into(),
            LinkOpenError::Client(error) => error.into(),
        }
    }
}
