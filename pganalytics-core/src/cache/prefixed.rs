use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::cache::{
    Cache, CacheError, Generation, KEY_MAX_BYTES, SetOptions, SetOutcome, check_key, check_value,
};

// What stands before the digest of a key that does not fit behind the prefix.
const HASHED: char = '#';
const HASHED_BYTES: usize = 1 + 64;

/// The longest prefix, in bytes: the digest of a key still fits behind it.
pub const PREFIX_MAX_BYTES: usize = KEY_MAX_BYTES - HASHED_BYTES;

/// Puts a prefix before all keys and groups, so that several users of one backend do not meet.
///
/// A key that becomes too long is replaced by its SHA-256; so is one that could be mistaken for such a digest.
#[derive(Clone, Debug)]
pub struct PrefixedCache<C> {
    inner: C,
    prefix: String,
}

impl<C: Cache> PrefixedCache<C> {
    /// Puts this prefix, separator included, before all keys of the cache.
    ///
    /// # Errors
    /// `InvalidKey` if the prefix is longer than [`PREFIX_MAX_BYTES`] or holds a control character.
    pub fn new(inner: C, prefix: impl Into<String>) -> Result<Self, CacheError> {
        let prefix = prefix.into();
        if prefix.len() > PREFIX_MAX_BYTES {
            return Err(CacheError::InvalidKey { reason: "its prefix is over 447 bytes long" });
        }
        if !prefix.is_empty() {
            check_key(&prefix)?;
        }
        Ok(Self { inner, prefix })
    }

    fn key(&self, key: &str) -> Result<String, CacheError> {
        check_key(key)?;
        let fits = self.prefix.len() + key.len() <= KEY_MAX_BYTES;
        Ok(if fits && !key.starts_with(HASHED) {
            format!("{}{key}", self.prefix)
        } else {
            format!("{}{HASHED}{}", self.prefix, hex::encode(Sha256::digest(key)))
        })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<C: Cache> Cache for PrefixedCache<C> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        self.inner.get(&self.key(key)?).await
    }

    async fn set(&self, key: &str, value: Bytes, options: &SetOptions) -> Result<SetOutcome, CacheError> {
        // Here, so that the error names the key without the prefix.
        check_value(key, &value, options)?;
        self.inner.set(&self.key(key)?, value, options).await
    }

    async fn delete(&self, key: &str) -> Result<bool, CacheError> {
        self.inner.delete(&self.key(key)?).await
    }

    async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, CacheError> {
        self.inner.compare_and_delete(&self.key(key)?, expected).await
    }

    async fn generation(&self, group: &str) -> Result<Generation, CacheError> {
        self.inner.generation(&self.key(group)?).await
    }

    async fn bump_generation(&self, group: &str) -> Result<Generation, CacheError> {
        self.inner.bump_generation(&self.key(group)?).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::cache::MemoryCache;
    use crate::testing::{ManualClock, Subject};

    async fn prefixed(prefix: String) -> Option<Subject<dyn Cache>> {
        let clock = ManualClock::new();
        let inner = MemoryCache::new(Arc::new(clock.clone()));
        Some(Subject::manual(Arc::new(PrefixedCache::new(inner, prefix).unwrap()), clock))
    }

    crate::cache_contract!(prefixed("sessions:".into()));

    mod with_the_longest_prefix {
        use super::*;

        crate::cache_contract!(prefixed("p".repeat(PREFIX_MAX_BYTES)));
    }

    #[tokio::test]
    async fn two_prefixes_do_not_meet() {
        let shared = Arc::new(MemoryCache::new(Arc::new(ManualClock::new())));
        let one = PrefixedCache::new(Arc::clone(&shared), "one:").unwrap();
        let two = PrefixedCache::new(Arc::clone(&shared), "two:").unwrap();
        let options = SetOptions::expiring_in(Duration::from_secs(60));
        for key in ["key".to_owned(), "k".repeat(KEY_MAX_BYTES)] {
            one.set(&key, Bytes::from("one"), &options).await.unwrap();
            assert_eq!(two.get(&key).await.unwrap(), None);
        }
        assert_eq!(shared.get("one:key").await.unwrap(), Some(Bytes::from("one")));
        let generation = one.generation("group").await.unwrap();
        two.bump_generation("group").await.unwrap();
        assert_eq!(one.generation("group").await.unwrap(), generation);
    }

    #[tokio::test]
    async fn a_key_cannot_pass_for_the_digest_of_another() {
        let cache = PrefixedCache::new(MemoryCache::new(Arc::new(ManualClock::new())), "sessions:").unwrap();
        let long = "k".repeat(KEY_MAX_BYTES);
        let options = SetOptions::expiring_in(Duration::from_secs(60));
        cache.set(&long, Bytes::from("secret"), &options).await.unwrap();
        let forged = format!("#{}", hex::encode(Sha256::digest(&long)));
        assert_eq!(cache.get(&forged).await.unwrap(), None);
    }

    #[test]
    fn an_impossible_prefix_is_refused() {
        for prefix in ["a\n".to_owned(), "p".repeat(PREFIX_MAX_BYTES + 1)] {
            let cache = MemoryCache::new(Arc::new(ManualClock::new()));
            assert!(matches!(PrefixedCache::new(cache, prefix), Err(CacheError::InvalidKey { .. })));
        }
    }
}
