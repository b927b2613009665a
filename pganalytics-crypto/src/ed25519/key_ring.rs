use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use pganalytics_core::keys::{DataKey, KeyContext, KeyError, KeyManager, WrappedKey};
use pganalytics_core::signing::{
    NewSigningKey, PublicKey, Signature, SignatureAlgorithm, SigningKeyId, StoredSigningKey,
};

use super::config::Ed25519SignerConfig;

/// The keys of the store that could be opened, by activation.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyRing {
    keys: Vec<RingKey>,
}

#[derive(Clone)]
pub(super) struct RingKey {
    pub(super) stored: StoredSigningKey,
    pair: Arc<Ed25519KeyPair>,
}

impl KeyRing {
    /// Opens the stored keys, all but those that this ring has open already. Keys that do not open are left out and logged.
    pub(super) async fn updated(
        &self,
        stored: Vec<StoredSigningKey>,
        manager: &dyn KeyManager,
        config: &Ed25519SignerConfig,
    ) -> Result<Self, KeyError> {
        let mut keys = Vec::with_capacity(stored.len());
        for stored in stored {
            let opened = match self.pair_of(&stored) {
                Some(pair) => Some(pair),
                None => open(&stored, manager, config).await?.map(Arc::new),
            };
            match opened {
                Some(pair) => keys.push(RingKey { stored, pair }),
                None => tracing::error!(
                    kid = %stored.public.id,
                    key = %config.wrapping_key,
                    "signing key cannot be opened and is left out"
                ),
            }
        }
        Ok(Self { keys })
    }

    /// The newest key that signs at this time.
    pub(super) fn current(&self, now: DateTime<Utc>) -> Option<&RingKey> {
        self.keys.iter().rfind(|key| key.signs_at(now))
    }

    /// The last to activate of those that are not retired, nor to be.
    pub(super) fn newest(&self) -> Option<&RingKey> {
        self.keys.iter().rfind(|key| key.stored.retired_at.is_none())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn public_keys(&self) -> Vec<PublicKey> {
        self.keys.iter().map(|key| key.stored.public.clone()).collect()
    }

    fn pair_of(&self, stored: &StoredSigningKey) -> Option<Arc<Ed25519KeyPair>> {
        let known = self.keys.iter().find(|key| {
            key.stored.public == stored.public && key.stored.wrapped_private == stored.wrapped_private
        })?;
        Some(known.pair.clone())
    }
}

impl RingKey {
    pub(super) fn id(&self) -> &SigningKeyId {
        &self.stored.public.id
    }

    pub(super) fn signature(&self, message: &[u8]) -> Signature {
        Signature {
            key: self.id().clone(),
            algorithm: SignatureAlgorithm::Ed25519,
            bytes: self.pair.sign(message).as_ref().to_vec(),
        }
    }

    fn signs_at(&self, now: DateTime<Utc>) -> bool {
        self.stored.activates_at <= now && self.stored.retired_at.is_none_or(|retired_at| now < retired_at)
    }
}

impl fmt::Debug for RingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingKey({})", self.id())
    }
}

/// Makes a key pair and wraps its private half, which is the 32-byte seed.
pub(super) async fn generate(
    manager: &dyn KeyManager,
    config: &Ed25519SignerConfig,
    activates_at: DateTime<Utc>,
) -> Result<NewSigningKey, KeyError> {
    let seed = DataKey::generate();
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("any 32 bytes are a seed");
    let bytes = pair.public_key().as_ref().to_vec();
    let id = thumbprint(&bytes);
    let wrapped = manager.wrap(&config.wrapping_key, &context(config, &id), &seed).await?;
    let public = PublicKey { id, algorithm: SignatureAlgorithm::Ed25519, bytes };
    Ok(NewSigningKey::new(public, wrapped.blob, activates_at))
}

/// Opens a stored key; `None` if it is not ours: it does not unwrap, or its halves do not belong together.
async fn open(
    stored: &StoredSigningKey,
    manager: &dyn KeyManager,
    config: &Ed25519SignerConfig,
) -> Result<Option<Ed25519KeyPair>, KeyError> {
    if stored.public.algorithm != SignatureAlgorithm::Ed25519 {
        return Ok(None);
    }
    let wrapped = WrappedKey { blob: Bytes::clone(&stored.wrapped_private), version: None };
    let seed = match manager.unwrap(&config.wrapping_key, &context(config, &stored.public.id), &wrapped).await
    {
        Err(KeyError::Undecryptable { .. }) => return Ok(None),
        unwrapped => unwrapped?,
    };
    Ok(Ed25519KeyPair::from_seed_and_public_key(seed.expose(), &stored.public.bytes).ok())
}

fn context(config: &Ed25519SignerConfig, id: &SigningKeyId) -> KeyContext {
    KeyContext(format!("{}/{id}", config.bound_to))
}

/// The key's JWK thumbprint (RFC 7638; members of RFC 8037, section 2), so that no two keys share an id.
pub(super) fn thumbprint(public_key: &[u8]) -> SigningKeyId {
    let x = URL_SAFE_NO_PAD.encode(public_key);
    let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    let digest = digest(&SHA256, members.as_bytes());
    URL_SAFE_NO_PAD.encode(digest).parse().expect("43 letters of base64url are a key id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_of_rfc_8037_appendix_a3_is_made() {
        let x = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        assert_eq!(thumbprint(&x).as_str(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }
}
