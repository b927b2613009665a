//! Randomness as a dependency, and randomness that must never be one.

use std::fmt::Debug;
use std::sync::Arc;

use uuid::Uuid;

use crate::clock::Clock;
use crate::secret::SecretBytes;

/// Random bytes for identifiers, jitter and sampling. Tests inject a seeded one.
///
/// Secrets, keys and nonces never come from here: they come from [`os_random`].
pub trait Random: Debug + Send + Sync + 'static {
    /// Fills the whole buffer.
    fn fill(&self, buffer: &mut [u8]);
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn fill(&self, buffer: &mut [u8]) {
        os_random(buffer);
    }
}

impl<R: Random + ?Sized> Random for Arc<R> {
    fn fill(&self, buffer: &mut [u8]) {
        (**self).fill(buffer);
    }
}

/// What callers want from a [`Random`].
pub trait RandomExt: Random {
    /// A uniformly random number.
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number in `0.0..1.0`.
    fn next_fraction(&self) -> f64 {
        // 53 bits are what a double can hold exactly.
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A version 7 UUID (RFC 9562, section 5.7): sorts by the clock's millisecond.
    fn uuid_v7(&self, clock: &dyn Clock) -> Uuid {
        let mut bytes = [0; 10];
        self.fill(&mut bytes);
        let millis = u64::try_from(clock.now().timestamp_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
    }
}

impl<R: Random + ?Sized> RandomExt for R {}

/// Fills the buffer from the operating system, for secrets, keys and nonces.
///
/// # Panics
/// When the operating system has no random numbers to give; going on without them would be worse.
pub fn os_random(buffer: &mut [u8]) {
    getrandom::fill(buffer).expect("the operating system provides random numbers");
}

/// A fresh secret of `length` bytes from the operating system.
pub fn os_secret(length: usize) -> SecretBytes {
    let mut bytes = vec![0; length];
    os_random(&mut bytes);
    SecretBytes::new(bytes)
}
