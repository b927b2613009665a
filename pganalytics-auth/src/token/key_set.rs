use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, ParsedPublicKey};
use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::error::BackendError;
use pganalytics_core::signing::{PublicKey, SignError, SignatureAlgorithm, Signer};
use tokio::sync::{Mutex, MutexGuard};

use super::jwk::JwkSet;

/// When keys are read again.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct KeySetConfig {
    /// Keys are read again after so much time, so that removed ones are forgotten. A minute by default.
    pub refresh_after: Duration,
    /// They are read again for a key that is not known, but not more often than this. Five seconds by default.
    pub min_interval: Duration,
    /// While the signer cannot answer, known keys are used for so long. Ten minutes by default.
    pub max_age: Duration,
}

impl Default for KeySetConfig {
    fn default() -> Self {
        Self {
            refresh_after: Duration::from_secs(60),
            min_interval: Duration::from_secs(5),
            max_age: Duration::from_secs(600),
        }
    }
}

/// The public keys of a [`Signer`], kept for verifiers. All verifiers of a process share one.
pub struct KeySet {
    signer: Arc<dyn Signer>,
    clock: Arc<dyn Clock>,
    config: KeySetConfig,
    current: RwLock<Arc<Snapshot>>,
    /// Of the current snapshot, for the path of every request.
    fresh_until_micros: AtomicI64,
    generation: AtomicU64,
    /// One reader at a time: the others wait for its result.
    attempt: Mutex<Option<Attempt>>,
}

/// The last time that the signer was asked.
#[derive(Clone, Copy)]
struct Attempt {
    at: DateTime<Utc>,
    succeeded: bool,
}

/// What the signer said last.
pub(super) struct Snapshot {
    public: Vec<PublicKey>,
    parsed: Vec<ParsedPublicKey>,
    fetched_at: DateTime<Utc>,
    /// Grows when a key goes away: what was verified under an older one may not be remembered.
    pub(super) generation: u64,
}

impl Snapshot {
    /// The key of that name.
    pub(super) fn key(&self, kid: &str) -> Option<&ParsedPublicKey> {
        let index = self.public.iter().position(|key| key.id.as_str() == kid)?;
        self.parsed.get(index)
    }
}

impl KeySet {
    /// The keys of this signer. They are read when they are first needed.
    pub fn new(signer: Arc<dyn Signer>, clock: Arc<dyn Clock>, config: KeySetConfig) -> Self {
        let nothing = Snapshot {
            public: Vec::new(),
            parsed: Vec::new(),
            fetched_at: DateTime::<Utc>::MIN_UTC,
            generation: 0,
        };
        Self {
            signer,
            clock,
            config,
            current: RwLock::new(Arc::new(nothing)),
            fresh_until_micros: AtomicI64::new(i64::MIN),
            generation: AtomicU64::new(0),
            attempt: Mutex::new(None),
        }
    }

    /// The document to serve, so that others can verify our tokens.
    ///
    /// # Errors
    /// When no keys are known and the signer cannot answer.
    pub async fn jwks(&self) -> Result<JwkSet, SignError> {
        let snapshot = self.snapshot(|snapshot| !snapshot.public.is_empty()).await?;
        Ok(JwkSet::new(&snapshot.public))
    }

    /// The generation of the keys at hand, `None` if they should be read again.
    pub(super) fn fresh_generation(&self, now: DateTime<Utc>) -> Option<u64> {
        let fresh = now.timestamp_micros() < self.fresh_until_micros.load(Ordering::Acquire);
        fresh.then(|| self.generation.load(Ordering::Acquire))
    }

    /// Keys among which is the one of that name, if there is such a key.
    pub(super) async fn with_key(&self, kid: &str) -> Result<Arc<Snapshot>, SignError> {
        self.snapshot(|snapshot| snapshot.key(kid).is_some()).await
    }

    /// Keys that suffice, if there are such: those at hand when they are fresh, otherwise what the signer says.
    async fn snapshot(&self, suffices: impl Fn(&Snapshot) -> bool) -> Result<Arc<Snapshot>, SignError> {
        let now = self.clock.now();
        let known = self.current();
        if !suffices(&known) {
            let attempt = self.attempt.lock().await;
            let known = self.current();
            return if suffices(&known) { Ok(known) } else { self.refresh(attempt, now, None).await };
        }
        if self.fresh_generation(now).is_some() {
            return Ok(known);
        }
        match self.attempt.try_lock() {
            Ok(attempt) => self.refresh(attempt, now, Some(known)).await,
            // Somebody is at it; meanwhile the keys at hand are good enough.
            Err(_) => self.unless_too_old(known, now).ok_or_else(|| self.unanswered()),
        }
    }

    /// Asks the signer, unless it was asked a moment ago. `fallback` is what to go on with when it cannot answer.
    async fn refresh(
        &self,
        mut attempt: MutexGuard<'_, Option<Attempt>>,
        now: DateTime<Utc>,
        fallback: Option<Arc<Snapshot>>,
    ) -> Result<Arc<Snapshot>, SignError> {
        let fallback = fallback.and_then(|known| self.unless_too_old(known, now));
        if let Some(last) = *attempt
            && (now - last.at).abs() < delta(self.config.min_interval)
        {
            let known = if last.succeeded { Some(self.current()) } else { fallback };
            return known.ok_or_else(|| self.unanswered());
        }
        let answer = self.signer.public_keys().await;
        *attempt = Some(Attempt { at: now, succeeded: answer.is_ok() });
        match (answer, fallback) {
            (Ok(keys), _) => Ok(self.replace(keys, now)),
            (Err(error), Some(known)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "signing keys could not be read again"
                );
                Ok(known)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn replace(&self, keys: Vec<PublicKey>, now: DateTime<Utc>) -> Arc<Snapshot> {
        let old = self.current();
        let (public, parsed): (Vec<_>, Vec<_>) =
            keys.into_iter().filter_map(|key| parse(&key).map(|parsed| (key, parsed))).unzip();
        let lost_some = !old.public.iter().all(|key| public.contains(key));
        let generation = old.generation + u64::from(lost_some);
        let new = Arc::new(Snapshot { public, parsed, fetched_at: now, generation });
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new.clone();
        self.generation.store(generation, Ordering::Release);
        let fresh_until = now + self.config.refresh_after;
        self.fresh_until_micros.store(fresh_until.timestamp_micros(), Ordering::Release);
        new
    }

    fn current(&self) -> Arc<Snapshot> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn unless_too_old(&self, known: Arc<Snapshot>, now: DateTime<Utc>) -> Option<Arc<Snapshot>> {
        (now - known.fetched_at < delta(self.config.max_age)).then_some(known)
    }

    fn unanswered(&self) -> SignError {
        SignError::Backend(BackendError::later(
            self.signer.name(),
            "signing keys could not be read a moment ago",
        ))
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current();
        f.debug_struct("KeySet")
            .field("signer", &self.signer)
            .field("config", &self.config)
            .field("keys", &current.public)
            .field("fetched_at", &current.fetched_at)
            .finish_non_exhaustive()
    }
}

fn parse(key: &PublicKey) -> Option<ParsedPublicKey> {
    let parsed = match key.algorithm {
        SignatureAlgorithm::Ed25519 => ParsedPublicKey::new(&ED25519, &key.bytes).ok(),
        _ => None,
    };
    if parsed.is_none() {
        tracing::error!(kid = %key.id, "public key cannot be used and is left out");
    }
    parsed
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
