//! The contract of [`Signer`], a function for each clause.

use std::collections::HashSet;

use crate::secret::SecretBytes;
use crate::signing::{PublicKey, Signature, Signer};
use crate::testing::Subject;
use crate::testing::support::{assert_not_printed, skip};

/// Runs the contract of `Signer` on the adapter that the expression yields (`async` → `Option<SignerFixture>`).
#[macro_export]
macro_rules! signer_contract {
    ($fixture:expr) => {
        $crate::contract_tests!(
            $crate::testing::signer,
            $fixture,
            [
                a_signature_verifies_under_the_named_key,
                another_message_does_not_verify,
                public_keys_are_distinct,
                the_current_key_signs,
                an_empty_message_is_signed,
                private_keys_are_never_printed,
            ]
        );
    };
}

const MESSAGE: &[u8] = b"pganalytics contract message";

/// Whether a signature of a message verifies under a public key.
pub type Verify = fn(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool;

/// A signer under test and an implementation of its algorithm that is not its own.
#[derive(Debug)]
pub struct SignerFixture {
    subject: Subject<dyn Signer>,
    verify: Verify,
    private_keys: Vec<SecretBytes>,
}

impl SignerFixture {
    /// A signer and the check of its signatures. Let it have two public keys at least, so that a signature can be seen to
    /// verify under one of them alone.
    pub fn new(subject: Subject<dyn Signer>, verify: Verify) -> Self {
        Self { subject, verify, private_keys: Vec::new() }
    }

    /// Gives the private keys too, so that clause 6 can look for them. Without them, as of a signer that nobody gets a key
    /// out of, it is skipped.
    #[must_use]
    pub fn with_private_keys(self, private_keys: Vec<SecretBytes>) -> Self {
        Self { private_keys, ..self }
    }

    fn signer(&self) -> &dyn Signer {
        &*self.subject.port
    }

    async fn sign(&self, message: &[u8]) -> Signature {
        self.signer().sign(message).await.expect("the signer has a key")
    }

    async fn public_keys(&self) -> Vec<PublicKey> {
        self.signer().public_keys().await.expect("the signer knows its keys")
    }

    /// The keys under which the signature verifies.
    async fn verifying(&self, message: &[u8], signature: &Signature) -> Vec<PublicKey> {
        let mut keys = self.public_keys().await;
        keys.retain(|key| (self.verify)(key, message, &signature.bytes));
        keys
    }
}

/// Clause 1.
pub async fn a_signature_verifies_under_the_named_key(fixture: SignerFixture) {
    for message in [MESSAGE, &[0, 255, 0], &[7; 100_000]] {
        let signature = fixture.sign(message).await;
        let verifying = fixture.verifying(message, &signature).await;
        let [key] = &verifying[..] else { panic!("it verifies under {} keys", verifying.len()) };
        assert_eq!((&key.id, key.algorithm), (&signature.key, signature.algorithm));
    }
    if fixture.public_keys().await.len() < 2 {
        skip("a_signature_verifies_under_the_named_key", "there is no other key to verify under");
    }
}

/// Clause 2.
pub async fn another_message_does_not_verify(fixture: SignerFixture) {
    let signature = fixture.sign(MESSAGE).await;
    for bit in 0..MESSAGE.len() * 8 {
        let mut other = MESSAGE.to_vec();
        other[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(fixture.verifying(&other, &signature).await, [], "bit {bit}");
    }
    for other in [&[][..], &MESSAGE[1..], &MESSAGE[..MESSAGE.len() - 1], &[MESSAGE, &[0]].concat()] {
        assert_eq!(fixture.verifying(other, &signature).await, []);
    }
}

/// Clause 3.
pub async fn public_keys_are_distinct(fixture: SignerFixture) {
    let keys = fixture.public_keys().await;
    let ids: HashSet<_> = keys.iter().map(|key| key.id.as_str()).collect();
    assert_eq!(ids.len(), keys.len());
}

/// Clause 4.
pub async fn the_current_key_signs(fixture: SignerFixture) {
    let current = fixture.signer().current_key().await.unwrap();
    assert_eq!(fixture.sign(MESSAGE).await.key, current);
    assert!(fixture.public_keys().await.iter().any(|key| key.id == current));
}

/// Clause 5.
pub async fn an_empty_message_is_signed(fixture: SignerFixture) {
    let signature = fixture.sign(b"").await;
    assert_eq!(fixture.verifying(b"", &signature).await.len(), 1);
    assert_eq!(fixture.verifying(b"\0", &signature).await, []);
}

/// Clause 6.
pub async fn private_keys_are_never_printed(fixture: SignerFixture) {
    if fixture.private_keys.is_empty() {
        skip("private_keys_are_never_printed", "the private keys are not known to the fixture");
    }
    fixture.sign(MESSAGE).await;
    for key in &fixture.private_keys {
        assert_not_printed(&fixture.subject.port, key.expose());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::random::os_secret;
    use crate::signing::{SignError, SignatureAlgorithm, SigningKeyId};

    /// Lamport's one-time signatures over SHA-256 (used often here, which only tests may do): verified by everybody, and
    /// made of nothing but a hash. For each bit of the message's digest one of two secrets is shown; the public key is the
    /// hashes of all secrets, the private key the seed that they are made from.
    #[derive(Debug)]
    struct LamportSigner {
        keys: Vec<LamportKey>,
    }

    struct LamportKey {
        public: PublicKey,
        seed: SecretBytes,
    }

    impl std::fmt::Debug for LamportKey {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "LamportKey({})", self.public.id)
        }
    }

    impl LamportKey {
        fn generate(id: &str) -> Self {
            let seed = os_secret(32);
            let bytes = (0..512).flat_map(|index| Sha256::digest(secret(&seed, index))).collect();
            let id = id.parse().unwrap();
            Self { public: PublicKey { id, algorithm: SignatureAlgorithm::Ed25519, bytes }, seed }
        }
    }

    fn secret(seed: &SecretBytes, index: usize) -> Vec<u8> {
        Sha256::new().chain_update(seed.expose()).chain_update(index.to_le_bytes()).finalize().to_vec()
    }

    /// For each bit of the message's digest the secret that stands for it.
    fn secret_indexes(message: &[u8]) -> impl Iterator<Item = usize> {
        let digest = Sha256::digest(message);
        (0..256).map(move |bit| 2 * bit + usize::from(digest[bit / 8] >> (bit % 8) & 1))
    }

    fn verify(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
        let hashes: Vec<&[u8]> = key.bytes.chunks(32).collect();
        signature.len() == 256 * 32
            && secret_indexes(message)
                .zip(signature.chunks(32))
                .all(|(index, secret)| hashes[index] == &Sha256::digest(secret)[..])
    }

    #[async_trait]
    impl Signer for LamportSigner {
        fn name(&self) -> &'static str {
            "lamport"
        }

        async fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
            let LamportKey { public, seed } = self.keys.last().ok_or(SignError::NoActiveKey)?;
            let bytes = secret_indexes(message).flat_map(|index| secret(seed, index)).collect();
            Ok(Signature { key: public.id.clone(), algorithm: public.algorithm, bytes })
        }

        async fn current_key(&self) -> Result<SigningKeyId, SignError> {
            let key = self.keys.last().ok_or(SignError::NoActiveKey)?;
            Ok(key.public.id.clone())
        }

        async fn public_keys(&self) -> Result<Vec<PublicKey>, SignError> {
            Ok(self.keys.iter().map(|key| key.public.clone()).collect())
        }
    }

    async fn lamport() -> Option<SignerFixture> {
        let signer = LamportSigner { keys: ["older", "current"].map(LamportKey::generate).into() };
        let private_keys = signer.keys.iter().map(|key| key.seed.clone()).collect();
        let subject = Subject::real_time(Arc::new(signer) as Arc<dyn Signer>);
        Some(SignerFixture::new(subject, verify).with_private_keys(private_keys))
    }

    crate::signer_contract!(lamport());
}
