use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use argon2::Block;
use pganalytics_core::secret::SecretString;
use pganalytics_core::users::PasswordHash;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use super::config::{InvalidPasswordHasherConfig, PasswordHasherConfig};
use super::error::PasswordError;
use super::scheme::{self, Cost, StoredHash};

pub(super) const MAX_PASSWORD_BYTES: usize = 1024;

/// Hashes passwords with argon2id and checks them against argon2 and imported bcrypt hashes.
///
/// The work is done on blocking threads, so many at a time as the configuration says; a bounded number waits, and beyond
/// that callers are told [`PasswordError::Busy`] at once. A caller that goes away frees its place in the queue.
///
/// A stored hash whose parameters are out of bounds (argon2 over 256 MiB, 10 passes or 8 lanes, bcrypt over cost 14) is
/// refused before any memory is taken.
pub struct PasswordHasher {
    config: PasswordHasherConfig,
    unmatchable: Arc<StoredHash>,
    workshop: Arc<Workshop>,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a password that was not looked at is neither right nor wrong"]
pub enum PasswordVerdict {
    /// This is the password.
    Right {
        /// The stored hash is not what [`PasswordHasher::hash`] makes today: replace it.
        needs_rehash: bool,
    },
    /// This is not the password.
    Wrong,
    /// The stored hash is of an unknown form or out of bounds: no password matches it. The work of a check was done.
    Unsupported,
}

impl PasswordHasher {
    /// A hasher of this cost.
    ///
    /// # Errors
    /// When the cost is too weak or too expensive.
    pub fn new(config: PasswordHasherConfig) -> Result<Self, InvalidPasswordHasherConfig> {
        config.validate()?;
        Ok(Self {
            config,
            unmatchable: Arc::new(StoredHash::unmatchable(cost(&config))),
            workshop: Arc::new(Workshop::new(&config)),
        })
    }

    /// Hashes a password.
    ///
    /// # Errors
    /// `Length` for an empty password or one of over 1024 bytes; `Busy` when too many wait already.
    pub async fn hash(&self, password: &SecretString) -> Result<PasswordHash, PasswordError> {
        if !has_valid_length(password) {
            return Err(PasswordError::Length);
        }
        let cost = cost(&self.config);
        let password = bytes_of(password);
        self.workshop.run(move |memory| scheme::hash(&password, cost, memory)).await
    }

    /// Checks a password against a stored hash. An empty password, or one of over 1024 bytes, is wrong without any work.
    ///
    /// # Errors
    /// `Busy` when too many wait already.
    pub async fn verify(
        &self,
        password: &SecretString,
        hash: &PasswordHash,
    ) -> Result<PasswordVerdict, PasswordError> {
        if !has_valid_length(password) {
            return Ok(PasswordVerdict::Wrong);
        }
        let Some(stored) = StoredHash::parse(hash.expose()) else {
            self.verify_unknown(password).await?;
            return Ok(PasswordVerdict::Unsupported);
        };
        let needs_rehash = stored.is_outdated(cost(&self.config));
        let right = self.matches(password, Arc::new(stored)).await?;
        Ok(if right { PasswordVerdict::Right { needs_rehash } } else { PasswordVerdict::Wrong })
    }

    /// Does the work of a check for which there is no hash, so that unknown users cost what known ones do.
    ///
    /// # Errors
    /// `Busy` when too many wait already.
    pub async fn verify_unknown(&self, password: &SecretString) -> Result<(), PasswordError> {
        if has_valid_length(password) {
            self.matches(password, self.unmatchable.clone()).await?;
        }
        Ok(())
    }

    /// How many hashes were computed so far, for metrics.
    pub fn computations(&self) -> u64 {
        self.workshop.computations.load(Ordering::Relaxed)
    }

    async fn matches(&self, password: &SecretString, stored: Arc<StoredHash>) -> Result<bool, PasswordError> {
        let password = bytes_of(password);
        self.workshop.run(move |memory| stored.matches(&password, memory)).await
    }
}

impl fmt::Debug for PasswordHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHasher").field("config", &self.config).finish_non_exhaustive()
    }
}

fn cost(config: &PasswordHasherConfig) -> Cost {
    Cost { memory_kib: config.memory_kib, iterations: config.iterations, parallelism: config.parallelism }
}

fn has_valid_length(password: &SecretString) -> bool {
    (1..=MAX_PASSWORD_BYTES).contains(&password.expose().len())
}

fn bytes_of(password: &SecretString) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(password.expose().as_bytes().to_vec())
}

/// Bounded blocking work with memory that is used again while there is more to do.
struct Workshop {
    places: Arc<Semaphore>,
    concurrency: usize,
    queue: usize,
    waiting: AtomicUsize,
    computations: AtomicU64,
    spare_memory: Mutex<Vec<Vec<Block>>>,
}

impl Workshop {
    fn new(config: &PasswordHasherConfig) -> Self {
        let concurrency = config.concurrency.get();
        Self {
            places: Arc::new(Semaphore::new(concurrency)),
            concurrency,
            queue: config.queue,
            waiting: AtomicUsize::new(0),
            computations: AtomicU64::new(0),
            spare_memory: Mutex::default(),
        }
    }

    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Vec<Block>) -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let place = self.enter().await?;
        let workshop = self.clone();
        let job = move || {
            // Dropped last: the place is taken until the work is done, even if the caller has gone away.
            let _place = place;
            let mut memory = workshop.take_memory();
            let result = work(&mut memory);
            workshop.computations.fetch_add(1, Ordering::Relaxed);
            workshop.give_back(memory);
            result
        };
        tokio::task::spawn_blocking(job).await.map_err(|_| PasswordError::Interrupted)
    }

    async fn enter(&self) -> Result<OwnedSemaphorePermit, PasswordError> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = Waiting::join(&self.waiting, self.queue).ok_or(PasswordError::Busy)?;
        self.places.clone().acquire_owned().await.map_err(|_| PasswordError::Interrupted)
    }

    fn take_memory(&self) -> Vec<Block> {
        self.spare_memory.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Keeps the memory for the next hash while others work or wait; an idle workshop keeps none.
    fn give_back(&self, memory: Vec<Block>) {
        let mut spare = self.spare_memory.lock().unwrap_or_else(PoisonError::into_inner);
        let others_work = self.places.available_permits() + 1 < self.concurrency;
        if others_work || self.waiting.load(Ordering::Relaxed) > 0 {
            spare.push(memory);
        } else {
            *spare = Vec::new();
        }
    }
}

/// A place in the queue.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn join(count: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let join = |waiting| (waiting < limit).then_some(waiting + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, join).ok()?;
        Some(Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn hasher(concurrency: usize, queue: usize) -> PasswordHasher {
        let config = PasswordHasherConfig::default()
            .with_cost(7168, 5, 1)
            .with_concurrency(NonZeroUsize::new(concurrency).unwrap(), queue);
        PasswordHasher::new(config).unwrap()
    }

    fn secret(text: &str) -> SecretString {
        SecretString::new(text)
    }

    #[tokio::test]
    async fn a_hashed_password_verifies_and_another_does_not() {
        let hasher = hasher(1, 8);
        let hash = hasher.hash(&secret("correct horse")).await.unwrap();
        assert!(hash.expose().starts_with("$argon2id$v=19$m=7168,t=5,p=1$"));
        let right = hasher.verify(&secret("correct horse"), &hash).await.unwrap();
        assert_eq!(right, PasswordVerdict::Right { needs_rehash: false });
        let wrong = hasher.verify(&secret("correct Horse"), &hash).await.unwrap();
        assert_eq!(wrong, PasswordVerdict::Wrong);
    }

    #[tokio::test]
    async fn two_hashes_of_a_password_differ() {
        let hasher = hasher(1, 8);
        let password = secret("correct horse");
        assert_ne!(hasher.hash(&password).await.unwrap(), hasher.hash(&password).await.unwrap());
    }

    #[tokio::test]
    async fn imported_hashes_verify_and_ask_for_a_rehash() {
        let hasher = hasher(1, 8);
        for hash in [
            "$2y$04$abcdefghijklmnopqrstuughE8Ev8uGFaUgY2cNEySvxngrb/Jzdm",
            "$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQ$FqGkmHNGCd0BRW2kBt6fPZ2pPmyGwwChL8FGUhTOSSI",
            "$argon2i$v=19$m=64,t=2,p=1$c29tZXNhbHQ$mJ2mVFjovhRArlVdCzyKw6ZYTg0ikLncyRWminHkHB4",
            "$argon2d$v=19$m=64,t=2,p=1$c29tZXNhbHQ$+SDZVThkhGWr7rpq4G6lMu0m3zFK/2AVAjfY/hFvYs0",
        ] {
            let verdict = hasher.verify(&secret("password"), &PasswordHash::new(hash)).await.unwrap();
            assert_eq!(verdict, PasswordVerdict::Right { needs_rehash: true }, "{hash}");
        }
    }

    #[tokio::test]
    async fn an_empty_or_endless_password_is_wrong_without_work() {
        let hasher = hasher(1, 8);
        // The published hash of the empty password.
        let hash = PasswordHash::new("$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy");
        for password in [String::new(), "x".repeat(1025), "x".repeat(65536)] {
            let password = SecretString::new(password);
            assert_eq!(hasher.verify(&password, &hash).await.unwrap(), PasswordVerdict::Wrong);
            assert_eq!(hasher.hash(&password).await.unwrap_err(), PasswordError::Length);
        }
        assert_eq!(hasher.computations(), 0);
    }

    #[tokio::test]
    async fn a_hash_out_of_bounds_costs_a_normal_check() {
        let hasher = hasher(1, 8);
        for hash in [
            "$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
            "$argon2id$v=19$m=262144,t=10,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
            "$2b$31$abcdefghijklmnopqrstuughE8Ev8uGFaUgY2cNEySvxngrb/Jzdm",
            "*0",
        ] {
            let before = hasher.computations();
            let verdict = hasher.verify(&secret("password"), &PasswordHash::new(hash)).await.unwrap();
            assert_eq!(verdict, PasswordVerdict::Unsupported, "{hash}");
            assert_eq!(hasher.computations(), before + 1, "{hash}");
        }
    }

    #[tokio::test]
    async fn beyond_the_queue_callers_are_told_busy() {
        let hasher = hasher(1, 1);
        let (release, blocked) = mpsc::channel::<()>();
        let workshop = hasher.workshop.clone();
        let working = tokio::spawn(async move { workshop.run(move |_| blocked.recv().is_ok()).await });
        while hasher.workshop.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let password = secret("waits");
        let mut waiting = Box::pin(hasher.hash(&password));
        assert!(timeout(Duration::ZERO, &mut waiting).await.is_err());
        assert_eq!(hasher.hash(&secret("refused")).await.unwrap_err(), PasswordError::Busy);
        drop(waiting);
        assert_eq!(hasher.workshop.waiting.load(Ordering::Relaxed), 0, "a caller that left frees its place");

        release.send(()).unwrap();
        assert_eq!(working.await.unwrap(), Ok(true));
        assert!(hasher.hash(&secret("works again")).await.is_ok());
    }

    #[tokio::test]
    async fn an_idle_workshop_keeps_no_memory() {
        let hasher = Arc::new(hasher(2, 16));
        let jobs = (0..8).map(|_| {
            let hasher = hasher.clone();
            tokio::spawn(async move { hasher.verify_unknown(&secret("password")).await })
        });
        for job in jobs.collect::<Vec<_>>() {
            job.await.unwrap().unwrap();
        }
        hasher.verify_unknown(&secret("the last one")).await.unwrap();
        assert_eq!(hasher.workshop.spare_memory.lock().unwrap().len(), 0);
        assert_eq!(hasher.computations(), 9);
    }

    #[test]
    fn weak_and_ruinous_costs_are_refused() {
        for (memory_kib, iterations, parallelism) in
            [(64, 10, 1), (7168, 4, 1), (262_145, 1, 1), (262_144, 5, 1), (19_456, 0, 1), (19_456, 2, 9)]
        {
            let config = PasswordHasherConfig::default().with_cost(memory_kib, iterations, parallelism);
            assert!(PasswordHasher::new(config).is_err(), "{memory_kib} {iterations} {parallelism}");
        }
        assert!(PasswordHasher::new(PasswordHasherConfig::default()).is_ok());
    }
}
