use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::error::BackendError;
use crate::signing::{PublicKey, SigningKeyId};

/// The signing keys that all servers share. Private halves are stored wrapped; this port does not unwrap them.
///
/// # Contract
/// 1. `an_inserted_key_is_listed`: with all its parts; the wrapped private half comes back byte by byte.
/// 2. `the_first_insert_of_an_id_wins`: inserting an id that exists is `false` and changes nothing.
/// 3. `a_first_key_is_made_once`: of any number of concurrent `insert_first` calls on an empty store exactly one is `true`;
///    on a store that holds a key that is not retired, or one of that id, it is `false` and changes nothing.
/// 4. `a_key_has_one_successor`: `insert_successor` adds a key and sets the `retired_at` of every other key that is not retired to
///    the time when the new one activates, all or nothing, if the key that it is to succeed is the last of those to activate.
///    Otherwise, or if the id exists, it is `false` and changes nothing. So of any number of concurrent calls for one key exactly
///    one is `true`.
/// 5. `keys_are_listed_by_activation`: in the order of `activates_at`, oldest first, retired ones included.
/// 6. `retiring_sets_the_time_once`: `retire` sets `retired_at`; `true` if it was not set before. A second call changes nothing;
///    an unknown id is `false`.
/// 7. `only_retired_keys_are_removed`: `remove_retired` removes the keys that were retired at or before the given time and yields
///    how many.
#[async_trait]
pub trait SigningKeyStore: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Adds a key; `false` if the id exists.
    async fn insert(&self, new: &NewSigningKey) -> Result<bool, SigningKeyStoreError>;

    /// Adds a key if there is none that is not retired; `false` if there is.
    async fn insert_first(&self, new: &NewSigningKey) -> Result<bool, SigningKeyStoreError>;

    /// Adds the key that takes over from `predecessor` when it activates; `false` if another one did so already.
    async fn insert_successor(
        &self,
        new: &NewSigningKey,
        predecessor: &SigningKeyId,
    ) -> Result<bool, SigningKeyStoreError>;

    /// All keys, oldest activation first.
    async fn list(&self) -> Result<Vec<StoredSigningKey>, SigningKeyStoreError>;

    /// Ends the use of a key for signing; its signatures are accepted until it is removed.
    async fn retire(&self, id: &SigningKeyId, at: DateTime<Utc>) -> Result<bool, SigningKeyStoreError>;

    /// Removes keys that were retired at or before `before`.
    async fn remove_retired(&self, before: DateTime<Utc>) -> Result<u64, SigningKeyStoreError>;
}

/// A key to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewSigningKey {
    /// Id, algorithm and public half.
    pub public: PublicKey,
    /// The private half as the caller wrapped it.
    pub wrapped_private: Bytes,
    /// From when on it signs: late enough for every verifier to have learnt it.
    pub activates_at: DateTime<Utc>,
}

impl NewSigningKey {
    /// All parts.
    pub fn new(public: PublicKey, wrapped_private: Bytes, activates_at: DateTime<Utc>) -> Self {
        Self { public, wrapped_private, activates_at }
    }
}

/// A stored key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredSigningKey {
    /// Id, algorithm and public half.
    pub public: PublicKey,
    /// The private half as it was wrapped.
    pub wrapped_private: Bytes,
    /// From when on it signs.
    pub activates_at: DateTime<Utc>,
    /// Since when it does not sign any more.
    pub retired_at: Option<DateTime<Utc>>,
}

impl StoredSigningKey {
    /// A key that was just stored. For adapters.
    pub fn created(new: &NewSigningKey) -> Self {
        Self {
            public: new.public.clone(),
            wrapped_private: new.wrapped_private.clone(),
            activates_at: new.activates_at,
            retired_at: None,
        }
    }
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SigningKeyStoreError {
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}

impl crate::error::PortError for SigningKeyStoreError {
    fn from_backend(error: BackendError) -> Self {
        Self::Backend(error)
    }

    fn retry(&self) -> crate::error::Retry {
        let Self::Backend(error) = self;
        error.retry
    }
}

macro_rules! forward_signing_key_store {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: SigningKeyStore + ?Sized> SigningKeyStore for $pointer<S> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn insert(&self, new: &NewSigningKey) -> Result<bool, SigningKeyStoreError> {
                (**self).insert(new).await
            }

            async fn insert_first(&self, new: &NewSigningKey) -> Result<bool, SigningKeyStoreError> {
                (**self).insert_first(new).await
            }

            async fn insert_successor(
                &self,
                new: &NewSigningKey,
                predecessor: &SigningKeyId,
            ) -> Result<bool, SigningKeyStoreError> {
                (**self).insert_successor(new, predecessor).await
            }

            async fn list(&self) -> Result<Vec<StoredSigningKey>, SigningKeyStoreError> {
                (**self).list().await
            }

            async fn retire(
                &self,
                id: &SigningKeyId,
                at: DateTime<Utc>,
            ) -> Result<bool, SigningKeyStoreError> {
                (**self).retire(id, at).await
            }

            async fn remove_retired(&self, before: DateTime<Utc>) -> Result<u64, SigningKeyStoreError> {
                (**self).remove_retired(before).await
            }
        }
    };
}
forward_signing_key_store!(Arc);
forward_signing_key_store!(Box);
