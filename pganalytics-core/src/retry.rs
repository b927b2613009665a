//! When to try again.

use std::time::Duration;

use crate::error::{PortError, Retry};
use crate::random::{Random, RandomExt};

/// How often a call is made and how long is waited in between: exponential back-off with full jitter, so that callers who
/// failed together do not come back together.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How often a call is made at most, the first time included.
    pub attempts: u32,
    /// The longest wait after the first failure; it doubles with each further one.
    pub first_wait: Duration,
    /// The longest wait of all.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    /// Five attempts, with waits of up to 0.1, 0.2, 0.4 and 0.8 seconds.
    fn default() -> Self {
        Self { attempts: 5, first_wait: Duration::from_millis(100), longest_wait: Duration::from_secs(10) }
    }
}

impl RetryPolicy {
    /// Sets how often a call is made at most; 1 and 0 mean that nothing is repeated.
    #[must_use]
    pub fn with_attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    /// Sets the longest wait after the first failure and the longest of all.
    #[must_use]
    pub fn with_waits(self, first: Duration, longest: Duration) -> Self {
        Self { first_wait: first, longest_wait: longest, ..self }
    }

    /// How long to wait after so many failures: anything from nothing to the limit, each as likely.
    pub fn wait(&self, failures: u32, random: &dyn Random) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        let limit = self.first_wait.saturating_mul(doubled).min(self.longest_wait);
        limit.mul_f64(random.next_fraction())
    }

    /// The attempts of one call.
    pub fn begin<'a>(&self, random: &'a dyn Random) -> Attempts<'a> {
        Attempts { policy: *self, random, failures: 0 }
    }
}

/// The attempts of one call, for a loop around it.
#[derive(Debug)]
pub struct Attempts<'a> {
    policy: RetryPolicy,
    random: &'a dyn Random,
    failures: u32,
}

impl Attempts<'_> {
    /// Waits if the call is to be made again after this error; `false`, at once, if it is not: then the error stands.
    pub async fn again(&mut self, error: &impl PortError) -> bool {
        if error.retry() == Retry::Never || self.failures + 1 >= self.policy.attempts {
            return false;
        }
        self.failures += 1;
        tokio::time::sleep(self.policy.wait(self.failures, self.random)).await;
        true
    }

    /// Whether an attempt failed before, so that it is not known what it did.
    pub fn failed_before(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SeededRandom;

    #[test]
    fn waits_double_up_to_the_longest_and_are_random_below() {
        let policy = RetryPolicy::default();
        let random = SeededRandom::new(1);
        for (failures, limit) in
            [(1, 100), (2, 200), (4, 800), (8, 10_000), (100, 10_000), (u32::MAX, 10_000)]
        {
            let waits = (0..200).map(|_| policy.wait(failures, &random).as_millis());
            let (shortest, longest) =
                waits.fold((u128::MAX, 0), |(low, high), wait| (low.min(wait), high.max(wait)));
            assert!(longest <= limit && longest > limit * 9 / 10, "{longest} ms after {failures} failures");
            assert!(shortest < limit / 10, "{shortest} ms after {failures} failures");
        }
    }
}
