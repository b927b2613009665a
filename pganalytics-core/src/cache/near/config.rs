use std::time::Duration;

/// How a cache in this process is kept fresh.
///
/// Its staleness has two bounds. Once somebody's change has returned, this process does not serve the state from before
/// - for longer than the [`lease`](Self::lease), whatever happens to the link over which it is told;
/// - for longer than the [`near_ttl`](Self::near_ttl) (for an [`InvalidatedCache`](crate::cache::InvalidatedCache): the
///   entry's TTL) when the one who made the change could not tell, because it died or lost its own link right then.
///
/// Normally it is told at once.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NearConfig {
    /// How long it may serve what it holds after the sending of the last heartbeat that came back: one second unless
    /// told otherwise.
    pub lease: Duration,
    /// How often it sends a heartbeat, over the same way as the invalidations: a quarter of a second unless told
    /// otherwise.
    pub heartbeat: Duration,
    /// How long an entry is held before it is asked for again: 10 seconds unless told otherwise.
    pub near_ttl: Duration,
    /// Bytes of keys and values that are held: 64 MiB unless told otherwise.
    pub max_bytes: u64,
    /// The channel of the notifier, the same for all who share the entries: `cache_invalidation` unless told otherwise.
    pub channel: String,
}

impl Default for NearConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(1),
            heartbeat: Duration::from_millis(250),
            near_ttl: Duration::from_secs(10),
            max_bytes: 64 * 1024 * 1024,
            channel: "cache_invalidation".to_owned(),
        }
    }
}

impl NearConfig {
    /// Sets the lease, and the heartbeat to a quarter of it.
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease, heartbeat: lease / 4, ..self }
    }

    /// Sets how long an entry is held before it is asked for again.
    #[must_use]
    pub fn with_near_ttl(self, near_ttl: Duration) -> Self {
        Self { near_ttl, ..self }
    }

    /// Sets the bytes that are held.
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// Sets the channel: 1 to 40 of a-z, 0-9 and _.
    #[must_use]
    pub fn with_channel(self, channel: impl Into<String>) -> Self {
        Self { channel: channel.into(), ..self }
    }
}
