use std::time::Duration;

use pganalytics_core::keys::KeyName;

/// Which key wraps private keys, and how long signing keys live.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ed25519SignerConfig {
    /// The key-encryption key that wraps private halves.
    pub wrapping_key: KeyName,
    /// What the private halves are bound to when they are wrapped, besides their ids. Keys of different uses need different ones,
    /// so that nobody who can write to the store puts one in the other's place.
    pub bound_to: String,
    /// A rotated-in key signs so much later, when every verifier has learnt it. Ten minutes by default; longer than the time for
    /// which the served key set may be cached, plus `refresh_after`.
    pub overlap: Duration,
    /// Signatures of a retired key are accepted for so long. 400 days by default: longer than the certificate of a collector,
    /// which may come back after an outage with the token that it was given at registration.
    pub keep_retired: Duration,
    /// A key signs for so long before [`rotate_if_due`](super::Ed25519Signer::rotate_if_due) replaces it. 30 days by default.
    pub rotate_every: Duration,
    /// The store is read again after so much time, to learn keys that other servers made. A minute by default; it must be
    /// shorter than `overlap`.
    pub refresh_after: Duration,
}

impl Ed25519SignerConfig {
    /// Defaults with this wrapping key.
    pub fn new(wrapping_key: KeyName) -> Self {
        Self {
            wrapping_key,
            bound_to: "signing-key".into(),
            overlap: Duration::from_secs(600),
            keep_retired: Duration::from_secs(400 * 24 * 3600),
            rotate_every: Duration::from_secs(30 * 24 * 3600),
            refresh_after: Duration::from_secs(60),
        }
    }

    /// Sets what the private halves are bound to.
    #[must_use]
    pub fn bound_to(self, bound_to: impl Into<String>) -> Self {
        Self { bound_to: bound_to.into(), ..self }
    }

    /// Sets how long before its first signature a new key is published.
    #[must_use]
    pub fn with_overlap(self, overlap: Duration) -> Self {
        Self { overlap, ..self }
    }

    /// Sets how long signatures of a retired key are accepted.
    #[must_use]
    pub fn with_keep_retired(self, keep_retired: Duration) -> Self {
        Self { keep_retired, ..self }
    }

    /// Sets for how long a key signs before it is replaced.
    #[must_use]
    pub fn with_rotate_every(self, rotate_every: Duration) -> Self {
        Self { rotate_every, ..self }
    }

    /// Sets after how much time the store is read again.
    #[must_use]
    pub fn with_refresh_after(self, refresh_after: Duration) -> Self {
        Self { refresh_after, ..self }
    }
}
