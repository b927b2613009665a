use std::fmt::{self, Debug};
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::{BackendError, port_error};

/// Signs bytes and names the key, which never leaves it.
///
/// # Contract
/// 1. `a_signature_verifies_under_the_named_key`: the key that a signature names is among `public_keys`, and the signature
///    verifies under it and under no other.
/// 2. `another_message_does_not_verify`: not even one that differs in a bit.
/// 3. `public_keys_are_distinct`: no key id appears twice.
/// 4. `the_current_key_signs`: `current_key` names the key of the next signature and is among `public_keys`.
/// 5. `an_empty_message_is_signed`: the empty message is a message.
/// 6. `private_keys_are_never_printed`: `Debug` shows no private part.
#[async_trait]
pub trait Signer: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Signs the message with the current key.
    async fn sign(&self, message: &[u8]) -> Result<Signature, SignError>;

    /// The key that signs now.
    async fn current_key(&self) -> Result<SigningKeyId, SignError>;

    /// Every key whose signatures are still to be accepted.
    async fn public_keys(&self) -> Result<Vec<PublicKey>, SignError>;
}

/// The name of a signing key, a JWS `kid`: 1 to 64 of `A-Z`, `a-z`, `0-9`, `-` and `_`, so that it can never be a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct SigningKeyId(String);

impl SigningKeyId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SigningKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no signing key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signing key id has 1 to 64 of A-Z, a-z, 0-9, - and _")]
pub struct InvalidSigningKeyId;

impl FromStr for SigningKeyId {
    type Err = InvalidSigningKeyId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
            return Err(InvalidSigningKeyId);
        }
        Ok(Self(text.into()))
    }
}

impl<'de> Deserialize<'de> for SigningKeyId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SignatureAlgorithm {
    /// Ed25519 (RFC 8032), `EdDSA` in JWS (RFC 8037).
    Ed25519,
}

impl SignatureAlgorithm {
    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
        }
    }
}

/// A signature and what made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The key.
    pub key: SigningKeyId,
    /// The algorithm.
    pub algorithm: SignatureAlgorithm,
    /// The signature in the algorithm's own form: 64 bytes for Ed25519.
    pub bytes: Vec<u8>,
}

/// The public half of a signing key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// The key.
    pub id: SigningKeyId,
    /// The algorithm.
    pub algorithm: SignatureAlgorithm,
    /// The key in the algorithm's own form: 32 bytes for Ed25519.
    pub bytes: Vec<u8>,
}

/// Why a signer could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// There is no key that may sign now.
    #[error("there is no active signing key")]
    NoActiveKey,
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(SignError);

macro_rules! forward_signer {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: Signer + ?Sized> Signer for $pointer<S> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
                (**self).sign(message).await
            }

            async fn current_key(&self) -> Result<SigningKeyId, SignError> {
                (**self).current_key().await
            }

            async fn public_keys(&self) -> Result<Vec<PublicKey>, SignError> {
                (**self).public_keys().await
            }
        }
    };
}
forward_signer!(Arc);
forward_signer!(Box);
