use std::num::NonZeroUsize;

use super::scheme::{MAX_ITERATIONS, MAX_MEMORY_KIB, MAX_PARALLELISM, MAX_WORK_KIB};

// The weakest of the equivalent settings of the OWASP Password Storage Cheat Sheet: 7 MiB, 5 iterations.
const MIN_MEMORY_KIB: u32 = 7 * 1024;
const MIN_WORK_KIB: u32 = 5 * MIN_MEMORY_KIB;

/// The cost of a password hash, and how many are computed at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PasswordHasherConfig {
    /// Memory of one hash in KiB, 7168 to 262144. 19456 by default.
    pub memory_kib: u32,
    /// Passes over the memory, 1 to 10. 2 by default. Memory times passes is at least 35840.
    pub iterations: u32,
    /// Lanes, 1 to 8. 1 by default; lanes of one hash are computed one after the other.
    pub parallelism: u32,
    /// Hashes computed at a time. By default half the processors, so that a burst of sign-ins leaves room for everything
    /// else; each takes its memory only while it works.
    pub concurrency: NonZeroUsize,
    /// Hashes that may wait for their turn; further ones are refused as busy. 64 by default.
    pub queue: usize,
}

impl Default for PasswordHasherConfig {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            memory_kib: 19 * 1024,
            iterations: 2,
            parallelism: 1,
            concurrency: NonZeroUsize::new(processors / 2).unwrap_or(NonZeroUsize::MIN),
            queue: 64,
        }
    }
}

impl PasswordHasherConfig {
    /// Sets memory in KiB, passes and lanes.
    #[must_use]
    pub fn with_cost(self, memory_kib: u32, iterations: u32, parallelism: u32) -> Self {
        Self { memory_kib, iterations, parallelism, ..self }
    }

    /// Sets how many hashes are computed at a time and how many more may wait.
    #[must_use]
    pub fn with_concurrency(self, concurrency: NonZeroUsize, queue: usize) -> Self {
        Self { concurrency, queue, ..self }
    }

    pub(super) fn validate(&self) -> Result<(), InvalidPasswordHasherConfig> {
        let Self { memory_kib, iterations, parallelism, .. } = *self;
        let work = memory_kib.saturating_mul(iterations);
        let fits = (MIN_MEMORY_KIB..=MAX_MEMORY_KIB).contains(&memory_kib)
            && (1..=MAX_ITERATIONS).contains(&iterations)
            && (1..=MAX_PARALLELISM).contains(&parallelism)
            && (MIN_WORK_KIB..=MAX_WORK_KIB).contains(&work);
        if fits { Ok(()) } else { Err(InvalidPasswordHasherConfig { memory_kib, iterations, parallelism }) }
    }
}

/// A cost that is too weak or too expensive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "argon2id with {memory_kib} KiB, {iterations} iterations and {parallelism} lanes is out of bounds: 7168 to 262144 KiB, \
     1 to 10 iterations, 1 to 8 lanes, KiB times iterations 35840 to 1048576"
)]
pub struct InvalidPasswordHasherConfig {
    memory_kib: u32,
    iterations: u32,
    parallelism: u32,
}
