use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::error::BackendError;
use crate::keys::{KeyName, WrappedKey};

/// The wrapped data keys that all servers share. This port does not unwrap them.
///
/// Each purpose has versions of its own: 1, 2, 3 and so on. The newest is active, that is, it seals; the others open what they
/// sealed until they are retired, and a retired one can be destroyed.
///
/// # Contract
/// 1. `an_added_key_is_listed`: with all its parts; wrapped and recovery bytes come back byte by byte.
/// 2. `only_the_next_version_is_added`: `add` is `true` if the version is 1 more than the newest of the purpose, whatever that
///    one's state is, or 1 where the purpose has none; the added key is then active and its predecessor superseded. Otherwise
///    it is `false` and changes nothing. Purposes do not touch each other.
/// 3. `rivals_add_one_key`: of any number of concurrent `add` calls for one purpose and version exactly one is `true`.
/// 4. `keys_are_listed_in_order`: by the bytes of the purpose, then by version; retired and destroyed ones included.
/// 5. `rewrapping_is_a_compare_and_swap`: `rewrap` replaces wrapped and recovery bytes and the name of the key-encryption key,
///    all or nothing, if the stored blob is that of `from`; otherwise, and for a destroyed or unknown key, it is `false` and changes
///    nothing. Of any number of concurrent calls with one `from` exactly one is `true`. State and creation stay.
/// 6. `only_a_superseded_key_is_retired`: `retire` is `true` for it, once; an active, retired, destroyed or unknown key is `false`
///    and stays as it is.
/// 7. `only_a_retired_key_is_destroyed`: `destroy` is `true` for it, once; its wrapped and recovery bytes are gone for good. Any
///    other is `false` and stays as it is.
#[async_trait]
pub trait DataKeyStore: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// All keys, by purpose and version.
    async fn list(&self) -> Result<Vec<StoredDataKey>, DataKeyStoreError>;

    /// Adds the next version of a purpose; `false` if it is not the next, as somebody else added it first.
    async fn add(&self, new: &NewDataKey) -> Result<bool, DataKeyStoreError>;

    /// Replaces how a key is wrapped; `false` if it is not wrapped like `from` any more.
    async fn rewrap(
        &self,
        id: &DataKeyId,
        from: &WrappedKey,
        to: &DataKeyWrapping,
    ) -> Result<bool, DataKeyStoreError>;

    /// Ends the use of a superseded key: it opens nothing any more, but is kept.
    async fn retire(&self, id: &DataKeyId, at: DateTime<Utc>) -> Result<bool, DataKeyStoreError>;

    /// Erases a retired key: whatever it sealed is lost.
    async fn destroy(&self, id: &DataKeyId, at: DateTime<Utc>) -> Result<bool, DataKeyStoreError>;
}

/// Which data key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataKeyId {
    /// What it is for.
    pub purpose: String,
    /// Which of the purpose's keys.
    pub version: DataKeyVersion,
}

impl DataKeyId {
    /// Both parts.
    pub fn new(purpose: impl Into<String>, version: DataKeyVersion) -> Self {
        Self { purpose: purpose.into(), version }
    }
}

impl fmt::Display for DataKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.purpose, self.version.0)
    }
}

/// The version of a data key within its purpose; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataKeyVersion(pub u32);

impl DataKeyVersion {
    /// The version that a purpose's first key has.
    pub const FIRST: Self = Self(1);

    /// The one that follows; `None` after the last number.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

/// How a data key is wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataKeyWrapping {
    /// The name of the key-encryption key.
    pub key: KeyName,
    /// The data key, wrapped under it.
    pub wrapped: WrappedKey,
    /// The data key, wrapped to the recovery key, where there is one.
    pub recovery: Option<Bytes>,
}

impl DataKeyWrapping {
    /// A key that has no recovery form.
    pub fn new(key: KeyName, wrapped: WrappedKey) -> Self {
        Self { key, wrapped, recovery: None }
    }

    /// With the form that the recovery key opens.
    #[must_use]
    pub fn with_recovery(self, recovery: Option<Bytes>) -> Self {
        Self { recovery, ..self }
    }
}

/// A data key to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewDataKey {
    /// Its purpose and version.
    pub id: DataKeyId,
    /// How it is wrapped.
    pub wrapping: DataKeyWrapping,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl NewDataKey {
    /// All parts.
    pub fn new(id: DataKeyId, wrapping: DataKeyWrapping, created_at: DateTime<Utc>) -> Self {
        Self { id, wrapping, created_at }
    }
}

/// A stored data key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredDataKey {
    /// Its purpose and version.
    pub id: DataKeyId,
    /// How it is wrapped; `None` once it is destroyed.
    pub wrapping: Option<DataKeyWrapping>,
    /// What it may be used for.
    pub state: DataKeyState,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl StoredDataKey {
    /// A key that was just stored. For adapters.
    pub fn created(new: &NewDataKey) -> Self {
        Self {
            id: new.id.clone(),
            wrapping: Some(new.wrapping.clone()),
            state: DataKeyState::Active,
            created_at: new.created_at,
        }
    }

    /// With another state; a destroyed key has no wrapping. For adapters.
    #[must_use]
    pub fn in_state(self, state: DataKeyState) -> Self {
        let wrapping = self.wrapping.filter(|_| !matches!(state, DataKeyState::Destroyed { .. }));
        Self { state, wrapping, ..self }
    }
}

/// What a data key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKeyState {
    /// The newest of its purpose: seals and opens.
    Active,
    /// Opens what it sealed.
    Superseded,
    /// Opens nothing any more, but is kept.
    Retired {
        /// Since when.
        at: DateTime<Utc>,
    },
    /// Is gone.
    Destroyed {
        /// Since when.
        at: DateTime<Utc>,
    },
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataKeyStoreError {
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}

impl crate::error::PortError for DataKeyStoreError {
    fn from_backend(error: BackendError) -> Self {
        Self::Backend(error)
    }

    fn retry(&self) -> crate::error::Retry {
        let Self::Backend(error) = self;
        error.retry
    }
}

macro_rules! forward_data_key_store {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: DataKeyStore + ?Sized> DataKeyStore for $pointer<S> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn list(&self) -> Result<Vec<StoredDataKey>, DataKeyStoreError> {
                (**self).list().await
            }

            async fn add(&self, new: &NewDataKey) -> Result<bool, DataKeyStoreError> {
                (**self).add(new).await
            }

            async fn rewrap(
                &self,
                id: &DataKeyId,
                from: &WrappedKey,
                to: &DataKeyWrapping,
            ) -> Result<bool, DataKeyStoreError> {
                (**self).rewrap(id, from, to).await
            }

            async fn retire(&self, id: &DataKeyId, at: DateTime<Utc>) -> Result<bool, DataKeyStoreError> {
                (**self).retire(id, at).await
            }

            async fn destroy(&self, id: &DataKeyId, at: DateTime<Utc>) -> Result<bool, DataKeyStoreError> {
                (**self).destroy(id, at).await
            }
        }
    };
}
forward_data_key_store!(Arc);
forward_data_key_store!(Box);
