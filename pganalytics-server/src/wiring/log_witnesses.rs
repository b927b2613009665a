//! The servers that cosign this one's audit log.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pganalytics_core::clock::Clock;
use pganalytics_core::random::Random;
use pganalytics_core::tlog::{CheckpointPolicy, InvalidVerifierKey, KnownWitness, NoteKeyKind, VerifierKey};
use pganalytics_crypto::ed25519;
use pganalytics_store::postgres::{
    AuditTrust, AuditWitnesses, Database, StoreError, WitnessStanding, witness_standings,
};

use super::WiringError;
use super::audit_log::{anchor, name};
use crate::config::{AuditLogConfig, LogWitnessConfig};
use crate::http_witness::HttpWitness;

/// What has the audit log cosigned, and what was seen of it last.
#[derive(Debug)]
pub struct LogWitnesses {
    /// What asks them.
    pub asking: AuditWitnesses,
    database: Database,
    /// Within how long what is sealed is to be cosigned.
    maximum_delay: Duration,
    seen: Mutex<Vec<WitnessLag>>,
}

/// How far a witness has cosigned the audit log.
#[derive(Clone, Debug)]
pub struct WitnessLag {
    /// What is known of it.
    pub standing: WitnessStanding,
    /// Whether it is behind for longer than it may be.
    pub is_overdue: bool,
}

impl LogWitnesses {
    /// Looks how far each witness has cosigned, and remembers it. Of one that was never asked nothing is known.
    ///
    /// # Errors
    /// When the database could not answer. It is not known then.
    pub async fn look(&self) -> Result<Vec<WitnessLag>, StoreError> {
        let looked = self.standings().await;
        let lags = looked.as_deref().unwrap_or_default();
        lags.clone_into(&mut self.seen());
        looked
    }

    /// What was seen last.
    pub fn last_seen(&self) -> Vec<WitnessLag> {
        self.seen().clone()
    }

    async fn standings(&self) -> Result<Vec<WitnessLag>, StoreError> {
        let mut connection = self.database.read().await?;
        let mut standings = witness_standings(&mut connection).await?;
        let names: Vec<&str> =
            self.asking.witnesses().iter().map(|known| known.key_name().as_str()).collect();
        standings.retain(|standing| names.contains(&standing.witness.as_str()));
        let lag = |standing: WitnessStanding| WitnessLag {
            is_overdue: standing.lag > self.maximum_delay,
            standing,
        };
        Ok(standings.into_iter().map(lag).collect())
    }

    fn seen(&self) -> MutexGuard<'_, Vec<WitnessLag>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What asks the witnesses of the log; nothing if it has none.
pub(super) fn log_witnesses(
    config: &AuditLogConfig,
    database: &Database,
    (clock, random): (&Arc<dyn Clock>, &Arc<dyn Random>),
) -> Result<Option<LogWitnesses>, WiringError> {
    if config.witnesses.is_empty() {
        return Ok(None);
    }
    let witnesses = config.witnesses.iter().map(|witness| known(config, witness));
    let asking = AuditWitnesses::new(
        (database.clone(), anchor(config)?),
        witnesses.collect::<Result<_, _>>()?,
        quorum(config),
        Arc::new(ed25519::verify),
        (Arc::clone(clock), Arc::clone(random)),
    );
    let maximum_delay = config.maximum_merge_delay_seconds.as_duration();
    Ok(Some(LogWitnesses { asking, database: database.clone(), maximum_delay, seen: Mutex::default() }))
}

/// Has a verification demand all the witnesses that are given, else as many as the configuration names.
///
/// # Errors
/// When a key of theirs is none.
pub(super) fn demand_witnesses(
    config: &AuditLogConfig,
    trust: AuditTrust,
    given: Vec<VerifierKey>,
) -> Result<AuditTrust, WiringError> {
    if given.is_empty() && config.witnesses.is_empty() {
        return Ok(trust);
    }
    let (witnesses, quorum) = if given.is_empty() {
        (keys(config)?, quorum(config))
    } else {
        let names: BTreeSet<_> = given.iter().map(|key| key.name().clone()).collect();
        (given, names.len())
    };
    // What has just been sealed may be asked for a while later, and answered a while after that.
    let delay = 2 * config.maximum_merge_delay_seconds.as_duration();
    Ok(trust.with_witnesses(witnesses, quorum).with_witness_delay(delay))
}

/// Makes sure that the witnesses can be asked, and be demanded.
pub(super) fn check(config: &AuditLogConfig) -> Result<(), WiringError> {
    config.witnesses.iter().try_for_each(|witness| known(config, witness).map(drop))?;
    let log = name(config)?;
    // Which key the log has makes no difference here.
    let signer = log.as_str().parse().map_err(|_| WiringError::AuditLogName)?;
    let any_key = VerifierKey::new(signer, NoteKeyKind::Ed25519, [0; 32]);
    let keys = keys(config)?;
    let policy = CheckpointPolicy::new(log, [any_key]);
    let policy = policy.and_then(|policy| policy.with_witnesses(keys, quorum(config)));
    policy.map(drop).map_err(WiringError::WitnessQuorum)
}

fn keys(config: &AuditLogConfig) -> Result<Vec<VerifierKey>, WiringError> {
    config.witnesses.iter().map(key).collect()
}

fn quorum(config: &AuditLogConfig) -> usize {
    match config.witness_quorum.as_usize() {
        0 => config.witnesses.len(),
        quorum => quorum,
    }
}

fn known(log: &AuditLogConfig, witness: &LogWitnessConfig) -> Result<KnownWitness, WiringError> {
    let refused = |source| WiringError::LogWitness { url: witness.url.clone(), source };
    let authorities = witness.tls_authorities.as_ref().map(fs::read).transpose();
    let authorities = authorities.map_err(|error| refused(error.into()))?;
    let timeout = log.witness_timeout_seconds.as_duration();
    let asked = HttpWitness::new(&witness.url, authorities.as_deref(), timeout);
    let asked = asked.map_err(|error| refused(error.into()))?;
    Ok(KnownWitness::new(key(witness)?, Arc::new(asked)))
}

fn key(witness: &LogWitnessConfig) -> Result<VerifierKey, WiringError> {
    let refused = |source| WiringError::LogWitness { url: witness.url.clone(), source };
    witness.key.parse().map_err(|error: InvalidVerifierKey| refused(error.into()))
}
