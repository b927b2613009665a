use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use metrics::{Counter, counter};
use sha2::{Digest, Sha256};

use crate::cache::expiry::after;
use crate::clock::Clock;
use crate::error::{BackendError, PortError, Retry};
use crate::flight::Flights;
use crate::keys::{DataKey, KeyContext, KeyError, KeyManager, KeyName, KeyVersion, WrappedKey};

// How late the timer may be.
const WIPE_EVERY: Duration = Duration::from_secs(1);

// A key manager that is away may take its time to say so; not every caller has to wait for that.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// How long a [`CachedKeyManager`] holds data keys, and how many.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct KeyCacheConfig {
    /// How long an unwrapped key is used without asking again.
    pub ttl: Duration,
    /// How long after its TTL it is still used while the key manager is away; not at all unless told otherwise.
    pub grace: Duration,
    /// The most keys that are held, 1024 unless told otherwise. Beyond, those go first that end first.
    pub max_keys: usize,
}

impl KeyCacheConfig {
    /// Keys are used for `ttl`, and not a moment longer.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, grace: Duration::ZERO, max_keys: 1024 }
    }

    /// Sets how long after its TTL a key is still used while the key manager is away.
    #[must_use]
    pub fn with_grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// Sets the most keys that are held.
    #[must_use]
    pub fn with_max_keys(self, max_keys: usize) -> Self {
        Self { max_keys, ..self }
    }
}

/// Remembers what a key manager has unwrapped, for a limited time.
///
/// - Concurrent calls for the same wrapped key ask once, and share what comes of it, also the error.
/// - While the key manager is away ([`Retry::Later`]), a key that was unwrapped is used for the grace beyond its TTL, and the key
///   manager is asked again every five seconds. After that the error is passed on.
/// - What the key manager calls `Undecryptable` or `UnknownKey` is forgotten at once. Errors are never remembered.
/// - A timer in the background wipes keys whose time is over, whether somebody asks for them or not, within a second. A key that
///   a caller still holds is the caller's.
///
/// | metric | labels | |
/// |---|---|---|
/// | `pganalytics_key_cache_hits_total` | `manager` | a key was remembered |
/// | `pganalytics_key_cache_misses_total` | `manager` | the key manager was asked |
/// | `pganalytics_key_cache_grace_total` | `manager` | of these, it was away and a key in its grace was used |
pub struct CachedKeyManager<K> {
    inner: K,
    config: KeyCacheConfig,
    clock: Arc<dyn Clock>,
    held: Arc<Held>,
    flights: Flights<Id, Unwrapped>,
    metrics: Metrics,
}

/// SHA-256 of key name, context and blob.
type Id = [u8; 32];

#[derive(Default)]
struct Held(Mutex<HashMap<Id, Entry>>);

struct Entry {
    key: DataKey,
    fresh_until: DateTime<Utc>,
    ends_at: DateTime<Utc>,
}

struct Metrics {
    hits: Counter,
    misses: Counter,
    grace: Counter,
}

/// What came of an unwrapping, for all who waited for it.
enum Unwrapped {
    Key(DataKey),
    Undecryptable,
    UnknownKey { manager: &'static str },
    Backend(Arc<BackendError>),
}

impl<K: KeyManager> CachedKeyManager<K> {
    /// Remembers what this key manager unwraps. The timer runs in the current tokio runtime until the cache is dropped.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(inner: K, clock: Arc<dyn Clock>, config: KeyCacheConfig) -> Self {
        let manager = inner.name();
        let metrics = Metrics {
            hits: counter!("pganalytics_key_cache_hits_total", "manager" => manager),
            misses: counter!("pganalytics_key_cache_misses_total", "manager" => manager),
            grace: counter!("pganalytics_key_cache_grace_total", "manager" => manager),
        };
        let held = Arc::<Held>::default();
        tokio::spawn(wipe(Arc::downgrade(&held), Arc::clone(&clock)));
        Self { inner, config, clock, held, flights: Flights::default(), metrics }
    }

    async fn ask(&self, id: &Id, key: &KeyName, context: &KeyContext, wrapped: &WrappedKey) -> Unwrapped {
        // Another flight may have landed between the miss and this one.
        if let Some(data_key) = self.fresh(id) {
            return Unwrapped::Key(data_key);
        }
        self.metrics.misses.increment(1);
        match self.inner.unwrap(key, context, wrapped).await {
            Ok(data_key) => {
                self.hold(id, data_key.clone());
                Unwrapped::Key(data_key)
            }
            Err(error) if error.retry() == Retry::Later => match self.in_grace(id) {
                Some(data_key) => {
                    self.metrics.grace.increment(1);
                    tracing::warn!(
                        %key, manager = self.inner.name(), error = &error as &dyn std::error::Error,
                        "the key manager is away: a data key is used beyond its time"
                    );
                    Unwrapped::Key(data_key)
                }
                None => Unwrapped::failed(error),
            },
            Err(error) => {
                if !matches!(error, KeyError::Backend(_)) {
                    self.held.lock().remove(id);
                }
                Unwrapped::failed(error)
            }
        }
    }

    fn fresh(&self, id: &Id) -> Option<DataKey> {
        let now = self.clock.now();
        let held = self.held.lock();
        held.get(id).filter(|entry| now < entry.fresh_until).map(|entry| entry.key.clone())
    }

    fn in_grace(&self, id: &Id) -> Option<DataKey> {
        let now = self.clock.now();
        let mut held = self.held.lock();
        let entry = held.get_mut(id).filter(|entry| now < entry.ends_at)?;
        entry.fresh_until = after(now, ASK_AGAIN_AFTER).min(entry.ends_at);
        Some(entry.key.clone())
    }

    fn hold(&self, id: &Id, key: DataKey) {
        let fresh_until = after(self.clock.now(), self.config.ttl);
        let ends_at = after(fresh_until, self.config.grace);
        let mut held = self.held.lock();
        held.insert(*id, Entry { key, fresh_until, ends_at });
        while held.len() > self.config.max_keys {
            let first = held.iter().min_by_key(|(_, entry)| entry.ends_at).map(|(id, _)| *id);
            let Some(first) = first else { break };
            held.remove(&first);
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<K: KeyManager> KeyManager for CachedKeyManager<K> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn generate(&self, key: &KeyName, context: &KeyContext) -> Result<(DataKey, WrappedKey), KeyError> {
        self.inner.generate(key, context).await
    }

    async fn wrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        data_key: &DataKey,
    ) -> Result<WrappedKey, KeyError> {
        self.inner.wrap(key, context, data_key).await
    }

    async fn unwrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<DataKey, KeyError> {
        let id = id(key, context, wrapped);
        if let Some(data_key) = self.fresh(&id) {
            self.metrics.hits.increment(1);
            return Ok(data_key);
        }
        let seat = self.flights.join(&id);
        seat.land(|| self.ask(&id, key, context, wrapped)).await.result(key)
    }

    async fn rewrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<WrappedKey, KeyError> {
        self.inner.rewrap(key, context, wrapped).await
    }

    async fn current_version(&self, key: &KeyName) -> Result<Option<KeyVersion>, KeyError> {
        self.inner.current_version(key).await
    }
}

impl<K: fmt::Debug> fmt::Debug for CachedKeyManager<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedKeyManager")
            .field("inner", &self.inner)
            .field("config", &self.config)
            .field("keys", &self.held.lock().len())
            .finish_non_exhaustive()
    }
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Entry>> {
        self.0.lock().expect("no holder panics")
    }
}

impl Unwrapped {
    fn failed(error: KeyError) -> Self {
        match error {
            KeyError::Undecryptable { .. } => Self::Undecryptable,
            KeyError::UnknownKey { manager, .. } => Self::UnknownKey { manager },
            KeyError::Backend(error) => Self::Backend(Arc::new(error)),
        }
    }

    fn result(&self, key: &KeyName) -> Result<DataKey, KeyError> {
        match self {
            Self::Key(data_key) => Ok(data_key.clone()),
            Self::Undecryptable => Err(KeyError::Undecryptable { key: key.clone() }),
            Self::UnknownKey { manager } => Err(KeyError::UnknownKey { key: key.clone(), manager }),
            Self::Backend(error) => {
                let BackendError { backend, retry, .. } = **error;
                let source = Box::new(Arc::clone(error));
                Err(KeyError::Backend(BackendError { backend, retry, source }))
            }
        }
    }
}

async fn wipe(held: Weak<Held>, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(WIPE_EVERY).await;
        let Some(held) = held.upgrade() else { return };
        let now = clock.now();
        held.lock().retain(|_, entry| now < entry.ends_at);
    }
}

fn id(key: &KeyName, context: &KeyContext, wrapped: &WrappedKey) -> Id {
    let mut hash = Sha256::new();
    for part in [key.as_str().as_bytes(), context.0.as_bytes(), &wrapped.blob] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::doubles::KeyVault;
    use crate::testing::key_manager::KeyManagerFixture;
    use crate::testing::{Fault, Faulty, ManualClock, Subject};

    const TTL: Duration = Duration::from_secs(60);
    const GRACE: Duration = Duration::from_secs(600);

    type Vault = Faulty<Arc<KeyVault>>;

    fn names() -> [KeyName; 2] {
        ["first", "second"].map(|name| name.parse().unwrap())
    }

    fn config() -> KeyCacheConfig {
        KeyCacheConfig::new(TTL).with_grace(GRACE)
    }

    fn row() -> KeyContext {
        KeyContext("row".into())
    }

    async fn cached() -> Option<KeyManagerFixture> {
        let (clock, vault) = (ManualClock::new(), Arc::new(KeyVault::with_keys(&names())));
        let cache = |inner| Arc::new(CachedKeyManager::new(inner, Arc::new(clock.clone()), config()));
        let manager = cache(Faulty::new(Arc::clone(&vault)));
        let away = Faulty::new(Arc::clone(&vault));
        away.plan([Fault::Fail; 4]);
        let rotated = Arc::clone(&manager);
        let rotation = async move {
            vault.rotate(&names()[0]);
            rotated as Arc<dyn KeyManager>
        };
        let subject = Subject::manual(manager as Arc<dyn KeyManager>, clock.clone());
        Some(KeyManagerFixture::new(subject, names()).with_rotation(rotation).with_unreachable(cache(away)))
    }

    crate::key_manager_contract!(cached());

    struct Setting {
        clock: ManualClock,
        vault: Vault,
        manager: Arc<CachedKeyManager<Vault>>,
        key: KeyName,
        data_key: DataKey,
        wrapped: WrappedKey,
    }

    /// A cache that has never been asked for the key.
    async fn setting(config: KeyCacheConfig) -> Setting {
        let clock = ManualClock::new();
        let vault = Faulty::new(Arc::new(KeyVault::with_keys(&names())));
        let manager = Arc::new(CachedKeyManager::new(vault.clone(), Arc::new(clock.clone()), config));
        let [key, _] = names();
        let (data_key, wrapped) = vault.inner().generate(&key, &row()).await.unwrap();
        Setting { clock, vault, manager, key, data_key, wrapped }
    }

    impl Setting {
        async fn unwrap(&self) -> Result<DataKey, KeyError> {
            self.manager.unwrap(&self.key, &row(), &self.wrapped).await
        }

        async fn assert_unwraps(&self) {
            assert!(self.unwrap().await.unwrap() == self.data_key);
        }

        async fn assert_away(&self) {
            let error = self.unwrap().await.unwrap_err();
            assert!(matches!(error, KeyError::Backend(_)), "{error:?}");
            assert_eq!(error.retry(), Retry::Later);
        }

        fn held(&self) -> usize {
            self.manager.held.lock().len()
        }
    }

    #[tokio::test]
    async fn a_key_is_unwrapped_once_within_its_time() {
        let setting = setting(config()).await;
        for _ in 0..3 {
            setting.assert_unwraps().await;
        }
        assert_eq!(setting.vault.calls(), 1);
        setting.clock.advance(TTL);
        setting.assert_unwraps().await;
        assert_eq!(setting.vault.calls(), 2);
    }

    #[tokio::test]
    async fn another_name_context_or_blob_is_another_key() {
        let setting = setting(config()).await;
        setting.assert_unwraps().await;
        let [_, other] = names();
        let longer = KeyContext("rowrow".into());
        for (key, context) in [(&other, &row()), (&setting.key, &longer)] {
            let refused = setting.manager.unwrap(key, context, &setting.wrapped).await;
            assert!(matches!(refused, Err(KeyError::Undecryptable { .. })));
        }
        assert_eq!(setting.vault.calls(), 3);
        assert_eq!(setting.held(), 1, "errors are not remembered");
    }

    #[tokio::test]
    async fn an_outage_is_bridged_within_the_grace() {
        let setting = setting(config()).await;
        setting.assert_unwraps().await;
        setting.vault.plan([Fault::Fail; 3]);
        setting.clock.advance(TTL + GRACE - Duration::from_micros(1));
        setting.assert_unwraps().await;
        setting.clock.advance(Duration::from_micros(1));
        setting.assert_away().await;
        setting.assert_away().await;
        setting.assert_unwraps().await;
        assert_eq!(setting.vault.calls(), 5);
    }

    #[tokio::test]
    async fn an_absent_manager_is_not_asked_by_every_caller() {
        let setting = setting(config()).await;
        setting.assert_unwraps().await;
        setting.vault.plan([Fault::Fail; 2]);
        setting.clock.advance(TTL);
        for _ in 0..3 {
            setting.assert_unwraps().await;
        }
        assert_eq!(setting.vault.calls(), 2);
        setting.clock.advance(ASK_AGAIN_AFTER);
        setting.assert_unwraps().await;
        assert_eq!(setting.vault.calls(), 3);
    }

    #[tokio::test]
    async fn without_a_grace_an_outage_is_passed_on() {
        let setting = setting(KeyCacheConfig::new(TTL)).await;
        setting.assert_unwraps().await;
        setting.vault.plan([Fault::Fail]);
        setting.assert_unwraps().await;
        setting.clock.advance(TTL);
        setting.assert_away().await;
    }

    #[tokio::test]
    async fn an_outage_before_the_first_answer_is_passed_on() {
        let setting = setting(config()).await;
        setting.vault.plan([Fault::Fail, Fault::LoseReply]);
        setting.assert_away().await;
        setting.assert_away().await;
        setting.assert_unwraps().await;
    }

    #[tokio::test]
    async fn a_verdict_of_the_manager_ends_a_key_at_once() {
        let setting = setting(config()).await;
        setting.assert_unwraps().await;
        setting.clock.advance(TTL);
        setting.vault.inner().forget(&setting.wrapped);
        assert!(matches!(setting.unwrap().await, Err(KeyError::Undecryptable { .. })));
        assert_eq!(setting.held(), 0);
        setting.vault.plan([Fault::Fail]);
        setting.assert_away().await;
    }

    #[tokio::test]
    async fn concurrent_callers_ask_once() {
        let setting = Arc::new(setting(config()).await);
        setting.vault.plan([Fault::Delay(Duration::from_millis(20))]);
        let calls = (0..16).map(|_| {
            let setting = Arc::clone(&setting);
            async move { setting.assert_unwraps().await }
        });
        futures::future::join_all(calls).await;
        assert_eq!(setting.vault.calls(), 1);
        assert!(setting.manager.flights.is_empty());
    }

    #[tokio::test]
    async fn concurrent_callers_share_an_error() {
        let setting = setting(config()).await;
        setting.vault.plan([Fault::Delay(Duration::from_millis(20))]);
        setting.vault.inner().forget(&setting.wrapped);
        let results = futures::future::join_all((0..8).map(|_| setting.unwrap())).await;
        assert_eq!(setting.vault.calls(), 1);
        assert!(results.iter().all(|result| matches!(result, Err(KeyError::Undecryptable { .. }))));
    }

    #[tokio::test]
    async fn more_keys_than_allowed_are_not_held() {
        let setting = setting(config().with_max_keys(2)).await;
        for index in 0..5 {
            let context = KeyContext(index.to_string());
            let (_, wrapped) = setting.vault.inner().generate(&setting.key, &context).await.unwrap();
            setting.manager.unwrap(&setting.key, &context, &wrapped).await.unwrap();
            setting.clock.advance(Duration::from_secs(1));
        }
        assert_eq!(setting.held(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_wiped_when_their_time_is_over() {
        let setting = setting(config()).await;
        setting.assert_unwraps().await;
        setting.clock.advance(TTL + GRACE - Duration::from_secs(1));
        tokio::time::sleep(WIPE_EVERY * 2).await;
        assert_eq!(setting.held(), 1);
        setting.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(WIPE_EVERY * 2).await;
        assert_eq!(setting.held(), 0, "though nobody asked");
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_ends_with_the_cache() {
        let setting = setting(config()).await;
        setting.assert_unwraps().await;
        let held = Arc::downgrade(&setting.manager.held);
        drop(setting);
        assert!(held.upgrade().is_none(), "the timer does not keep the keys");
        let runtime = tokio::runtime::Handle::current();
        tokio::time::sleep(WIPE_EVERY * 2).await;
        assert_eq!(runtime.metrics().num_alive_tasks(), 0);
    }
}
