use std::fmt::{self, Debug};
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{BackendError, port_error};
use crate::random::os_secret;
use crate::secret::SecretBytes;

/// Bytes of a data key: AES-256 and the like.
pub const DATA_KEY_BYTES: usize = 32;

/// Wraps data keys under a key-encryption key that never leaves it.
///
/// # Contract
/// 1. `a_generated_key_unwraps_to_itself`: `generate` yields a fresh data key from a cryptographic generator together with
///    its wrapped form, which does not show it and which `unwrap` turns back.
/// 2. `a_given_key_is_wrapped`: `wrap` takes a data key that was made elsewhere (an import, a recovery).
/// 3. `two_wrappings_differ`: wrapping the same key twice yields different blobs.
/// 4. `the_context_must_match`: `unwrap` and `rewrap` with another context are `Undecryptable`. The context lies inside
///    the wrapped payload and is compared after unwrapping, since not every service carries associated data through a
///    rewrap.
/// 5. `the_key_name_must_match`: a blob of another key name is `Undecryptable`.
/// 6. `every_changed_byte_is_refused`: a blob that was changed, cut or extended is `Undecryptable`; nothing panics. A service
///    whose text form leaves bits unused (base64) must refuse them or be kept from the blob.
/// 7. `rewrapping_moves_to_the_current_version`: after a rotation `rewrap` yields a blob of the current version that unwraps
///    to the same data key; the old blob still unwraps.
/// 8. `an_unknown_key_is_named`: a key name that does not exist is `UnknownKey`, by every method.
/// 9. `the_wrapped_form_is_self_describing`: `unwrap` and `rewrap` need nothing but name, context and blob; `version` is a
///    hint and may be missing or wrong.
/// 10. `data_keys_are_never_printed`: `Debug` of a data key, of its wrapped form and of the manager shows no byte of it.
/// 11. `an_outage_is_no_verdict`: a key service that has to be asked and cannot be is `Backend` with `Retry::Later`, never
///     `Undecryptable` or `UnknownKey`: callers destroy data on those.
#[async_trait]
pub trait KeyManager: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Makes a data key and its wrapped form.
    async fn generate(&self, key: &KeyName, context: &KeyContext) -> Result<(DataKey, WrappedKey), KeyError>;

    /// Wraps a given data key.
    async fn wrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        data_key: &DataKey,
    ) -> Result<WrappedKey, KeyError>;

    /// Turns a wrapped key back.
    async fn unwrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<DataKey, KeyError>;

    /// Wraps again under the current version of the key-encryption key.
    async fn rewrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<WrappedKey, KeyError>;

    /// The version under which `wrap` works now; `None` where the backend does not tell.
    async fn current_version(&self, key: &KeyName) -> Result<Option<KeyVersion>, KeyError>;
}

/// The name of a key-encryption key: 1 to 64 of `a-z`, `0-9`, `-` and `_`, beginning with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

impl KeyName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no key name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no key name: 1 to 64 of a-z, 0-9, - and _, beginning with a letter")]
pub struct InvalidKeyName(pub String);

impl FromStr for KeyName {
    type Err = InvalidKeyName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        let begins_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if text.len() > 64 || !begins_well || !text.bytes().all(allowed) {
            return Err(InvalidKeyName(text.into()));
        }
        Ok(Self(text.into()))
    }
}

/// What a data key is for. It is bound to the wrapped form: a blob that is copied elsewhere does not unwrap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyContext(pub String);

/// The version of a key-encryption key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyVersion(pub u32);

/// A data key of [`DATA_KEY_BYTES`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKey(SecretBytes);

impl DataKey {
    /// A fresh key from the operating system.
    pub fn generate() -> Self {
        Self(os_secret(DATA_KEY_BYTES))
    }

    /// Takes over key bytes; `None` unless there are exactly [`DATA_KEY_BYTES`].
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let bytes = SecretBytes::new(bytes);
        (bytes.expose().len() == DATA_KEY_BYTES).then_some(Self(bytes))
    }

    /// The key bytes.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}

impl Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(redacted)")
    }
}

/// A wrapped data key. The blob means something to its key manager alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// The blob to store.
    pub blob: Bytes,
    /// The version of the key-encryption key, where the backend tells.
    pub version: Option<KeyVersion>,
}

/// Why a key manager could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The blob was not wrapped by this key for this context, or it was changed. Which of them is not said.
    #[error("wrapped key cannot be decrypted with key `{key}`")]
    Undecryptable {
        /// The key's name.
        key: KeyName,
    },
    /// There is no key of that name.
    #[error("key `{key}` does not exist in {manager}")]
    UnknownKey {
        /// The key's name.
        key: KeyName,
        /// Where it was looked for.
        manager: &'static str,
    },
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(KeyError);

macro_rules! forward_key_manager {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<K: KeyManager + ?Sized> KeyManager for $pointer<K> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn generate(
                &self,
                key: &KeyName,
                context: &KeyContext,
            ) -> Result<(DataKey, WrappedKey), KeyError> {
                (**self).generate(key, context).await
            }

            async fn wrap(
                &self,
                key: &KeyName,
                context: &KeyContext,
                data_key: &DataKey,
            ) -> Result<WrappedKey, KeyError> {
                (**self).wrap(key, context, data_key).await
            }

            async fn unwrap(
                &self,
                key: &KeyName,
                context: &KeyContext,
                wrapped: &WrappedKey,
            ) -> Result<DataKey, KeyError> {
                (**self).unwrap(key, context, wrapped).await
            }

            async fn rewrap(
                &self,
                key: &KeyName,
                context: &KeyContext,
                wrapped: &WrappedKey,
            ) -> Result<WrappedKey, KeyError> {
                (**self).rewrap(key, context, wrapped).await
            }

            async fn current_version(&self, key: &KeyName) -> Result<Option<KeyVersion>, KeyError> {
                (**self).current_version(key).await
            }
        }
    };
}
forward_key_manager!(Arc);
forward_key_manager!(Box);
