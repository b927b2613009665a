use std::fmt;

use async_trait::async_trait;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use pganalytics_core::keys::DataKey;
use pganalytics_core::signing::{PublicKey, SignError, Signature, SignatureAlgorithm, Signer, SigningKeyId};

use super::key_ring::thumbprint;

/// A [`Signer`] with one key, which the caller keeps: for keys of people, which no server shares.
pub struct Ed25519SeedSigner {
    public: PublicKey,
    pair: Ed25519KeyPair,
}

impl Ed25519SeedSigner {
    /// The key of this seed, which is all of its private half (RFC 8032, section 5.1.5).
    pub fn new(seed: &DataKey) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("any 32 bytes are a seed");
        let bytes = pair.public_key().as_ref().to_vec();
        let public = PublicKey { id: thumbprint(&bytes), algorithm: SignatureAlgorithm::Ed25519, bytes };
        Self { public, pair }
    }

    /// The public half.
    pub fn public_key(&self) -> [u8; 32] {
        self.public.bytes.as_slice().try_into().expect("a public key of Ed25519 has 32 bytes")
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Signer for Ed25519SeedSigner {
    fn name(&self) -> &'static str {
        "ed25519 seed"
    }

    async fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let bytes = self.pair.sign(message).as_ref().to_vec();
        Ok(Signature { key: self.public.id.clone(), algorithm: self.public.algorithm, bytes })
    }

    async fn current_key(&self) -> Result<SigningKeyId, SignError> {
        Ok(self.public.id.clone())
    }

    async fn public_keys(&self) -> Result<Vec<PublicKey>, SignError> {
        Ok(vec![self.public.clone()])
    }
}

impl fmt::Debug for Ed25519SeedSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ed25519SeedSigner").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ed25519::verify;

    #[tokio::test]
    async fn the_first_vector_of_rfc_8032_section_7_1_is_signed() {
        let seed = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let signer = Ed25519SeedSigner::new(&DataKey::from_bytes(seed).unwrap());
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(hex::encode(signer.public_key()), public);
        let signature = signer.sign(b"").await.unwrap();
        assert!(verify(&signer.public_key(), b"", &signature.bytes));
        assert!(!verify(&signer.public_key(), b"x", &signature.bytes));
        assert!(hex::encode(&signature.bytes).starts_with("e5564300c360ac729086e2cc806e828a"));
    }

    #[test]
    fn debug_shows_no_private_half() {
        let signer = Ed25519SeedSigner::new(&DataKey::generate());
        assert!(format!("{signer:?}").contains("public"));
        assert!(!format!("{signer:?}").contains("pair"));
    }
}
