use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use metrics::{Counter, counter};
use subtle::ConstantTimeEq;

use crate::cache::{
    Cache, CacheError, Condition, Generation, SetOptions, SetOutcome, VALUE_MAX_BYTES, check_key, check_value,
};
use crate::error::BackendError;
use crate::keys::{Ciphertext, FieldCipher, FieldCipherError, FieldRef, OpenRequest, SealRequest, row_named};
use crate::secret::SecretBytes;

/// Seals values before they reach the cache, each for its own key, so that whoever reads the cache's memory, its dumps or its
/// traffic reads none of them, and whoever writes it can neither change one nor move it to another key.
///
/// Keys and groups stay as they are: put nothing secret into them. A former value of the same key that somebody puts back is not
/// detected. An entry that does not open is none: it is removed where it is met, and counted. `delete` alone opens nothing and
/// calls it `true`. A cipher without its key is [`CacheError::Backend`] with `Retry::Later`.
///
/// | metric | labels | |
/// |---|---|---|
/// | `pganalytics_sealed_cache_refused_total` | `cache` | an entry did not open |
pub struct SealedCache<C> {
    inner: C,
    cipher: Arc<dyn FieldCipher>,
    field: FieldRef,
    refused: Counter,
}

/// What a key holds, and as what.
struct Entry {
    sealed: Bytes,
    value: SecretBytes,
}

impl<C: Cache> SealedCache<C> {
    /// Seals values as those of a column. Nothing else may be sealed for that column.
    pub fn new(inner: C, cipher: Arc<dyn FieldCipher>, field: FieldRef) -> Self {
        let refused = counter!("pganalytics_sealed_cache_refused_total", "cache" => inner.name());
        Self { inner, cipher, field, refused }
    }

    async fn entry(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        let Some(sealed) = self.inner.get(key).await? else { return Ok(None) };
        let ciphertext = Ciphertext(sealed);
        let request =
            OpenRequest { field: self.field, row: row_named(key.as_bytes()), ciphertext: &ciphertext };
        let opened = self.cipher.open_batch(&[request]).await.map_err(|error| self.failed(error))?;
        match opened.into_iter().next() {
            Some(Ok(value)) => Ok(Some(Entry { sealed: ciphertext.0, value })),
            Some(Err(FieldCipherError::Undecryptable { .. })) => {
                self.refused.increment(1);
                // Another writer may have put a good one there by now.
                self.inner.compare_and_delete(key, &ciphertext.0).await?;
                Ok(None)
            }
            Some(Err(error)) => Err(self.failed(error)),
            None => Err(self.unanswered()),
        }
    }

    async fn equal_entry(&self, key: &str, expected: &[u8]) -> Result<Option<Bytes>, CacheError> {
        let entry = self.entry(key).await?;
        let equal = entry.filter(|entry| entry.value.expose().ct_eq(expected).into());
        Ok(equal.map(|entry| entry.sealed))
    }

    async fn seal(&self, key: &str, value: &[u8]) -> Result<Bytes, CacheError> {
        let request = SealRequest { field: self.field, row: row_named(key.as_bytes()), value };
        let sealed = self.cipher.seal_batch(&[request]).await.map_err(|error| self.failed(error))?;
        let Ciphertext(sealed) = sealed.into_iter().next().ok_or_else(|| self.unanswered())?;
        let added = sealed.len().saturating_sub(value.len());
        if sealed.len() > VALUE_MAX_BYTES {
            let limit = VALUE_MAX_BYTES.saturating_sub(added);
            return Err(CacheError::ValueTooLarge { key: key.into(), size: value.len(), limit });
        }
        Ok(sealed)
    }

    async fn set_if_absent(
        &self,
        key: &str,
        sealed: Bytes,
        options: &SetOptions,
    ) -> Result<SetOutcome, CacheError> {
        loop {
            if self.inner.set(key, sealed.clone(), options).await? == SetOutcome::Stored {
                return Ok(SetOutcome::Stored);
            }
            // What is in the way may be none of ours; then it is gone after this.
            if self.entry(key).await?.is_some() {
                return Ok(SetOutcome::ConditionFailed);
            }
        }
    }

    async fn swap(
        &self,
        key: &str,
        expected: &[u8],
        sealed: Bytes,
        options: &SetOptions,
    ) -> Result<SetOutcome, CacheError> {
        loop {
            let Some(current) = self.equal_entry(key, expected).await? else {
                return Ok(SetOutcome::ConditionFailed);
            };
            let options = SetOptions::expiring_in(options.ttl).if_equals(current);
            // Another writer may have sealed the same value anew.
            if self.inner.set(key, sealed.clone(), &options).await? == SetOutcome::Stored {
                return Ok(SetOutcome::Stored);
            }
        }
    }

    fn failed(&self, error: FieldCipherError) -> CacheError {
        CacheError::Backend(match error {
            FieldCipherError::Backend(error) => error,
            FieldCipherError::KeyUnavailable { .. } => BackendError::later(self.cipher.name(), error),
            FieldCipherError::Undecryptable { .. } => BackendError::never(self.cipher.name(), error),
        })
    }

    fn unanswered(&self) -> CacheError {
        CacheError::Backend(BackendError::never(self.cipher.name(), "the cipher answered with no value"))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<C: Cache> Cache for SealedCache<C> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        let entry = self.entry(key).await?;
        Ok(entry.map(|entry| Bytes::copy_from_slice(entry.value.expose())))
    }

    async fn set(&self, key: &str, value: Bytes, options: &SetOptions) -> Result<SetOutcome, CacheError> {
        check_value(key, &value, options)?;
        let sealed = self.seal(key, &value).await?;
        match &options.condition {
            Condition::Always => self.inner.set(key, sealed, options).await,
            Condition::IfAbsent => self.set_if_absent(key, sealed, options).await,
            Condition::IfEquals(expected) => self.swap(key, expected, sealed, options).await,
        }
    }

    async fn delete(&self, key: &str) -> Result<bool, CacheError> {
        self.inner.delete(key).await
    }

    async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, CacheError> {
        check_key(key)?;
        loop {
            let Some(current) = self.equal_entry(key, expected).await? else { return Ok(false) };
            if self.inner.compare_and_delete(key, &current).await? {
                return Ok(true);
            }
        }
    }

    async fn generation(&self, group: &str) -> Result<Generation, CacheError> {
        self.inner.generation(group).await
    }

    async fn bump_generation(&self, group: &str) -> Result<Generation, CacheError> {
        self.inner.bump_generation(group).await
    }
}

// The handle of the metric has nothing to show.
impl<C: Cache> std::fmt::Debug for SealedCache<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedCache")
            .field("inner", &self.inner)
            .field("cipher", &self.cipher)
            .field("field", &self.field)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::MemoryCache;
    use crate::error::{PortError, Retry};
    use crate::testing::doubles::TokenVault;
    use crate::testing::{Fault, Faulty, ManualClock, Subject};

    const FIELD: FieldRef = FieldRef { table: "sessions", column: "payload", purpose: "session" };

    type Inner = Arc<MemoryCache>;

    fn minute() -> SetOptions {
        SetOptions::expiring_in(Duration::from_secs(60))
    }

    fn memory(clock: &ManualClock) -> Inner {
        Arc::new(MemoryCache::new(Arc::new(clock.clone())))
    }

    fn sealed(inner: &Inner) -> SealedCache<Inner> {
        let cipher = Arc::new(TokenVault::new(Arc::default(), true));
        SealedCache::new(Arc::clone(inner), cipher, FIELD)
    }

    async fn over_memory() -> Option<Subject<dyn Cache>> {
        let clock = ManualClock::new();
        Some(Subject::manual(Arc::new(sealed(&memory(&clock))), clock))
    }

    crate::cache_contract!(over_memory());

    #[tokio::test]
    async fn the_inner_cache_never_sees_a_value() {
        let inner = memory(&ManualClock::new());
        let cache = sealed(&inner);
        cache.set("key", Bytes::from("a value to be kept"), &minute()).await.unwrap();
        let stored = inner.get("key").await.unwrap().unwrap();
        assert!(!stored.windows(5).any(|part| part == b"value"));
        assert_eq!(cache.get("key").await.unwrap(), Some(Bytes::from("a value to be kept")));
    }

    #[tokio::test]
    async fn a_value_that_was_moved_to_another_key_is_a_miss_and_goes() {
        let inner = memory(&ManualClock::new());
        let cache = sealed(&inner);
        cache.set("mine", Bytes::from("mine"), &minute()).await.unwrap();
        let stored = inner.get("mine").await.unwrap().unwrap();
        inner.set("yours", stored, &minute()).await.unwrap();
        assert_eq!(cache.get("yours").await.unwrap(), None);
        assert_eq!(inner.get("yours").await.unwrap(), None);
        assert_eq!(cache.get("mine").await.unwrap(), Some(Bytes::from("mine")));
    }

    #[tokio::test]
    async fn an_entry_that_does_not_open_is_in_nobodys_way() {
        let inner = memory(&ManualClock::new());
        let cache = sealed(&inner);
        let garbage = async || {
            inner.set("key", Bytes::from("garbage"), &minute()).await.unwrap();
        };
        garbage().await;
        let swapped = cache.set("key", Bytes::from("new"), &minute().if_equals("garbage")).await.unwrap();
        assert_eq!(swapped, SetOutcome::ConditionFailed);
        garbage().await;
        assert!(!cache.compare_and_delete("key", b"garbage").await.unwrap());
        garbage().await;
        let added = cache.set("key", Bytes::from("new"), &minute().if_absent()).await.unwrap();
        assert_eq!(added, SetOutcome::Stored);
        assert_eq!(cache.get("key").await.unwrap(), Some(Bytes::from("new")));
        let again = cache.set("key", Bytes::from("newer"), &minute().if_absent()).await.unwrap();
        assert_eq!(again, SetOutcome::ConditionFailed);
    }

    #[tokio::test]
    async fn a_cipher_without_its_key_deletes_nothing() {
        let inner = memory(&ManualClock::new());
        let cipher = Arc::new(Faulty::new(TokenVault::new(Arc::default(), true)));
        let cache = SealedCache::new(Arc::clone(&inner), cipher.clone() as Arc<dyn FieldCipher>, FIELD);
        cache.set("key", Bytes::from("value"), &minute()).await.unwrap();
        let away =
            SealedCache::new(Arc::clone(&inner), Arc::new(TokenVault::new(Arc::default(), false)), FIELD);
        cipher.plan([Fault::Fail; 2]);
        let errors = [
            cache.get("key").await.unwrap_err(),
            cache.set("key", Bytes::from("other"), &minute()).await.unwrap_err(),
            away.get("key").await.unwrap_err(),
            away.set("key", Bytes::from("other"), &minute()).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, CacheError::Backend(_)), "{error:?}");
            assert_eq!(error.retry(), Retry::Later);
        }
        assert_eq!(cache.get("key").await.unwrap(), Some(Bytes::from("value")));
    }

    #[tokio::test]
    async fn the_limit_counts_what_sealing_adds() {
        #[derive(Debug)]
        struct Padding;

        #[async_trait]
        impl FieldCipher for Padding {
            fn name(&self) -> &'static str {
                "padding"
            }

            async fn seal_batch(
                &self,
                requests: &[SealRequest<'_>],
            ) -> Result<Vec<Ciphertext>, FieldCipherError> {
                let pad = |request: &SealRequest<'_>| Ciphertext([request.value, &[0; 80]].concat().into());
                Ok(requests.iter().map(pad).collect())
            }

            async fn open_batch(
                &self,
                requests: &[OpenRequest<'_>],
            ) -> Result<Vec<Result<SecretBytes, FieldCipherError>>, FieldCipherError> {
                let open = |request: &OpenRequest<'_>| {
                    let padded = &request.ciphertext.0;
                    Ok(SecretBytes::new(padded[..padded.len() - 80].to_vec()))
                };
                Ok(requests.iter().map(open).collect())
            }

            async fn blind_indexes(
                &self,
                _: &FieldRef,
                _: &[u8],
            ) -> Result<Vec<crate::keys::BlindIndex>, FieldCipherError> {
                Ok(Vec::new())
            }

            async fn marks(&self, _: &str) -> Result<crate::keys::KeyMarks, FieldCipherError> {
                Ok(crate::keys::KeyMarks { sealed: Bytes::new(), index: None })
            }
        }

        let cache = SealedCache::new(memory(&ManualClock::new()), Arc::new(Padding), FIELD);
        let longest = Bytes::from(vec![7; VALUE_MAX_BYTES - 80]);
        cache.set("key", longest.clone(), &minute()).await.unwrap();
        assert_eq!(cache.get("key").await.unwrap(), Some(longest));
        let error = cache.set("key", vec![7; VALUE_MAX_BYTES - 79].into(), &minute()).await.unwrap_err();
        assert!(
            matches!(error, CacheError::ValueTooLarge { limit, .. } if limit == VALUE_MAX_BYTES - 80),
            "{error:?}"
        );
    }
}
