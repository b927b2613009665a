//! Randomness as a dependency, and randomness that must never be one.

use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
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

/// Draws from another generator in portions of 4 KiB: asking the operating system for a few bytes takes ten times as long as
/// to copy them. What is drawn stays in memory until it is used.
pub struct BufferedRandom<R> {
    inner: R,
    portion: Mutex<Portion>,
}

struct Portion {
    bytes: Box<[u8; PORTION]>,
    used: usize,
}

const PORTION: usize = 4096;

impl<R: Random> BufferedRandom<R> {
    /// Draws from this one.
    pub fn new(inner: R) -> Self {
        Self { inner, portion: Mutex::new(Portion { bytes: Box::new([0; PORTION]), used: PORTION }) }
    }
}

impl<R: Random> Random for BufferedRandom<R> {
    fn fill(&self, buffer: &mut [u8]) {
        if buffer.len() > PORTION {
            return self.inner.fill(buffer);
        }
        let mut portion = self.portion.lock().expect("no holder panics but for want of random numbers");
        if portion.used + buffer.len() > PORTION {
            self.inner.fill(&mut portion.bytes[..]);
            portion.used = 0;
        }
        let used = portion.used;
        buffer.copy_from_slice(&portion.bytes[used..used + buffer.len()]);
        portion.used += buffer.len();
    }
}

impl<R: Debug> Debug for BufferedRandom<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferedRandom").field("inner", &self.inner).finish_non_exhaustive()
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
        self.uuid_v7_at(clock.now())
    }

    /// As [`uuid_v7`](Self::uuid_v7), for something that has a time already.
    fn uuid_v7_at(&self, time: DateTime<Utc>) -> Uuid {
        let mut bytes = [0; 10];
        self.fill(&mut bytes);
        let millis = u64::try_from(time.timestamp_millis()).unwrap_or(0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SeededRandom;

    #[test]
    fn buffered_random_gives_each_byte_once() {
        let (buffered, inner) = (BufferedRandom::new(SeededRandom::new(1)), SeededRandom::new(1));
        let mut expected = [0; 2 * PORTION];
        let (first, second) = expected.split_at_mut(PORTION);
        inner.fill(first);
        inner.fill(second);
        let mut drawn = Vec::new();
        while drawn.len() < 2 * PORTION {
            let mut bytes = [0; 16];
            buffered.fill(&mut bytes);
            drawn.extend(bytes);
        }
        assert_eq!(drawn, expected);
        assert!(!format!("{buffered:?}").contains("bytes"));
    }

    #[test]
    fn buffered_random_fills_what_is_larger_than_a_portion() {
        let buffered = BufferedRandom::new(SeededRandom::new(1));
        let mut large = [0; 3 * PORTION];
        buffered.fill(&mut large);
        for part in large.chunks(PORTION) {
            assert!(part.iter().any(|byte| *byte != 0));
        }
    }

    #[test]
    fn buffered_random_does_not_mix_portions() {
        let buffered = BufferedRandom::new(SeededRandom::new(1));
        let mut ids = std::collections::HashSet::new();
        for _ in 0..2000 {
            let mut id = [0; 10];
            buffered.fill(&mut id);
            assert!(ids.insert(id));
        }
    }
}
