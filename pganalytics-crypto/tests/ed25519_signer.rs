//! Signing keys in a shared store, wrapped by keys in files.
#![cfg(feature = "aws-lc")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pganalytics_core::clock::Clock;
use pganalytics_core::keys::{DataKey, KeyContext, KeyManager, KeyName, WrappedKey};
use pganalytics_core::secret::SecretBytes;
use pganalytics_core::signing::{
    MemorySigningKeyStore, NewSigningKey, PublicKey, SignatureAlgorithm, Signer, SigningKeyStore,
};
use pganalytics_core::testing::signer::SignerFixture;
use pganalytics_core::testing::{ManualClock, Subject};
use pganalytics_crypto::ed25519::{Ed25519Signer, Ed25519SignerConfig, Ed25519SignerError, verify};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use tempfile::TempDir;

const OVERLAP: Duration = Duration::from_secs(600);
const ROTATE_EVERY: Duration = Duration::from_secs(30 * 24 * 3600);
const REFRESH: Duration = Duration::from_secs(60);

/// What the servers of one installation share.
struct Installation {
    store: Arc<dyn SigningKeyStore>,
    keys: Arc<dyn KeyManager>,
    clock: ManualClock,
    folder: TempDir,
}

impl Installation {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new();
        Self {
            store: Arc::new(MemorySigningKeyStore::new()),
            keys: key_manager(folder.path()),
            clock,
            folder,
        }
    }

    async fn try_server(&self) -> Result<Ed25519Signer, Ed25519SignerError> {
        let clock = Arc::new(self.clock.clone());
        let config = Ed25519SignerConfig::new(wrapping_key());
        Ed25519Signer::connect(self.store.clone(), self.keys.clone(), clock, config).await
    }

    async fn server(&self) -> Ed25519Signer {
        self.try_server().await.unwrap()
    }

    async fn private_keys(&self) -> Vec<SecretBytes> {
        let mut private_keys = Vec::new();
        for key in self.store.list().await.unwrap() {
            let context = KeyContext(format!("signing-key/{}", key.public.id));
            let wrapped = WrappedKey { blob: key.wrapped_private, version: None };
            let seed = self.keys.unwrap(&wrapping_key(), &context, &wrapped).await.unwrap();
            private_keys.push(SecretBytes::new(seed.expose().to_vec()));
        }
        private_keys
    }
}

fn wrapping_key() -> KeyName {
    "signing".parse().unwrap()
}

fn key_manager(folder: &Path) -> Arc<dyn KeyManager> {
    let config = FileKeyManagerConfig::new(folder.join("keys")).creating([wrapping_key()]);
    Arc::new(FileKeyManager::open(&config, Arc::new(ManualClock::new())).unwrap())
}

async fn rotated_signer() -> Option<SignerFixture> {
    let installation = Installation::new();
    let signer = installation.server().await;
    signer.rotate().await.unwrap();
    let private_keys = installation.private_keys().await;
    let subject = Subject::manual(Arc::new(signer) as Arc<dyn Signer>, installation.clock.clone());
    let verify = |key: &PublicKey, message: &[u8], signature: &[u8]| verify(&key.bytes, message, signature);
    Some(SignerFixture::new(subject.keeping(installation.folder), verify).with_private_keys(private_keys))
}

mod contract {
    pganalytics_core::signer_contract!(super::rotated_signer());
}

#[tokio::test]
async fn servers_that_start_together_share_one_key() {
    let installation = Arc::new(Installation::new());
    let starts: Vec<_> = (0..8)
        .map(|_| {
            let installation = installation.clone();
            tokio::spawn(async move { installation.server().await.current_key().await.unwrap() })
        })
        .collect();
    for start in starts {
        let key = start.await.unwrap();
        assert_eq!(key, installation.store.list().await.unwrap()[0].public.id);
    }
    assert_eq!(installation.store.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_first_key_signs_on_a_server_whose_clock_is_behind() {
    let installation = Installation::new();
    installation.server().await;
    installation.clock.set(installation.clock.now() - Duration::from_secs(60));
    installation.server().await.sign(b"message").await.unwrap();
}

#[tokio::test]
async fn a_rotated_key_signs_only_after_the_overlap() {
    let installation = Installation::new();
    let signer = installation.server().await;
    let old = signer.current_key().await.unwrap();
    let new = signer.rotate().await.unwrap();
    assert_ne!(old, new);

    let published: Vec<_> = signer.public_keys().await.unwrap().into_iter().map(|key| key.id).collect();
    assert_eq!(published, [old.clone(), new.clone()]);
    installation.clock.advance(OVERLAP - Duration::from_secs(1));
    assert_eq!(signer.sign(b"before").await.unwrap().key, old);
    installation.clock.advance(Duration::from_secs(1));
    assert_eq!(signer.sign(b"after").await.unwrap().key, new);
    assert_eq!(signer.public_keys().await.unwrap().len(), 2, "signatures of the old key are still accepted");
}

#[tokio::test]
async fn old_and_new_key_sign_together_until_the_new_one_signs_alone() {
    let installation = Installation::new();
    let signer = Arc::new(installation.server().await);
    let newest = signer.newest();
    assert_eq!(newest.current_key().await.unwrap(), signer.current_key().await.unwrap());
    let old = signer.current_key().await.unwrap();
    let new = signer.rotate().await.unwrap();
    let public = signer.public_keys().await.unwrap();
    for (signer, key) in [(&*signer as &dyn Signer, &old), (&newest, &new)] {
        let signature = signer.sign(b"checkpoint").await.unwrap();
        assert_eq!((&signature.key, &signer.current_key().await.unwrap()), (key, key));
        let public = public.iter().find(|public| public.id == *key).unwrap();
        assert!(verify(&public.bytes, b"checkpoint", &signature.bytes));
    }
    installation.clock.advance(OVERLAP);
    assert_eq!(signer.current_key().await.unwrap(), new);
}

#[tokio::test]
async fn a_key_of_one_use_is_no_key_of_another() {
    let installation = Installation::new();
    installation.server().await;
    let config = Ed25519SignerConfig::new(wrapping_key()).bound_to("audit-log-key");
    let clock = Arc::new(installation.clock.clone());
    let other = Ed25519Signer::connect(installation.store.clone(), installation.keys.clone(), clock, config);
    let refused = other.await.unwrap_err();
    assert!(matches!(refused, Ed25519SignerError::NoUsableKey { stored: 1, .. }), "{refused}");
}

#[tokio::test]
async fn another_server_learns_of_a_rotation_in_time() {
    let installation = Installation::new();
    let (one, other) = (installation.server().await, installation.server().await);
    let new = one.rotate().await.unwrap();
    installation.clock.advance(REFRESH);
    other.sign(b"any").await.unwrap();
    installation.clock.advance(OVERLAP);
    assert_eq!(other.sign(b"message").await.unwrap().key, new);
}

#[tokio::test]
async fn a_second_rotation_within_the_overlap_leaves_no_gap() {
    let installation = Installation::new();
    let signer = installation.server().await;
    signer.rotate().await.unwrap();
    installation.clock.advance(OVERLAP / 2);
    signer.rotate().await.unwrap();
    for _ in 0..20 {
        signer.sign(b"message").await.unwrap();
        installation.clock.advance(OVERLAP / 10);
    }
}

#[tokio::test]
async fn servers_that_rotate_at_once_make_one_key_and_leave_no_gap() {
    let installation = Installation::new();
    let mut servers = Vec::new();
    for _ in 0..6 {
        servers.push(Arc::new(installation.server().await));
    }
    for _ in 0..3 {
        let before = installation.store.list().await.unwrap().len();
        let rotations: Vec<_> = servers
            .iter()
            .map(|server| {
                let server = server.clone();
                tokio::spawn(async move { server.rotate().await.unwrap() })
            })
            .collect();
        for rotation in rotations {
            rotation.await.unwrap();
        }
        let stored = installation.store.list().await.unwrap();
        assert!(stored.len() > before);
        assert_eq!(stored.iter().filter(|key| key.retired_at.is_none()).count(), 1);
        for server in &servers {
            server.refresh().await.unwrap();
        }
        for _ in 0..20 {
            for server in &servers {
                server.sign(b"message").await.unwrap();
            }
            installation.clock.advance(OVERLAP / 10);
        }
    }
}

#[tokio::test]
async fn a_key_is_replaced_when_it_has_signed_long_enough() {
    let installation = Installation::new();
    let (one, other) = (installation.server().await, installation.server().await);
    let first = one.current_key().await.unwrap();
    assert_eq!(one.rotate_if_due().await.unwrap(), None);
    // The first key was made active an overlap ago, and its successor is made an overlap before it takes over.
    installation.clock.advance(ROTATE_EVERY - OVERLAP - OVERLAP - Duration::from_secs(1));
    assert_eq!(one.rotate_if_due().await.unwrap(), None);
    installation.clock.advance(Duration::from_secs(1));
    let second = one.rotate_if_due().await.unwrap().unwrap();
    assert_eq!(other.rotate_if_due().await.unwrap(), None, "another server did it");
    assert_eq!(other.current_key().await.unwrap(), first);
    installation.clock.advance(OVERLAP);
    for server in [&one, &other] {
        assert_eq!(server.current_key().await.unwrap(), second);
        assert_eq!(server.public_keys().await.unwrap().len(), 2);
    }
    installation.clock.advance(ROTATE_EVERY - OVERLAP);
    assert_ne!(other.rotate_if_due().await.unwrap().unwrap(), second);
}

#[tokio::test]
async fn retired_keys_are_removed_also_when_no_rotation_is_due() {
    let installation = Installation::new();
    let config = Ed25519SignerConfig::new(wrapping_key()).with_keep_retired(OVERLAP);
    let signer = Ed25519Signer::connect(
        installation.store.clone(),
        installation.keys.clone(),
        Arc::new(installation.clock.clone()),
        config,
    );
    let signer = signer.await.unwrap();
    signer.rotate().await.unwrap();
    for left in [2, 1] {
        installation.clock.advance(OVERLAP);
        assert_eq!(signer.rotate_if_due().await.unwrap(), None);
        assert_eq!(signer.public_keys().await.unwrap().len(), left);
    }
}

#[tokio::test]
async fn long_retired_keys_are_removed() {
    let installation = Installation::new();
    let signer = installation.server().await;
    let first = signer.current_key().await.unwrap();
    signer.rotate().await.unwrap();
    installation.clock.advance(Duration::from_secs(399 * 24 * 3600));
    signer.rotate().await.unwrap();
    let known = |keys: Vec<PublicKey>| keys.iter().any(|key| key.id == first);
    assert!(known(signer.public_keys().await.unwrap()));
    installation.clock.advance(Duration::from_secs(2 * 24 * 3600));
    signer.rotate().await.unwrap();
    assert!(!known(signer.public_keys().await.unwrap()));
}

#[tokio::test]
async fn a_planted_key_is_not_believed() {
    let installation = Installation::new();
    let signer = installation.server().await;
    let honest = signer.current_key().await.unwrap();
    let stored = installation.store.list().await.unwrap().remove(0);
    let plant = |id: &str, bytes: Vec<u8>, wrapped: Bytes| {
        let public = PublicKey { id: id.parse().unwrap(), algorithm: SignatureAlgorithm::Ed25519, bytes };
        NewSigningKey::new(public, wrapped, installation.clock.now())
    };
    // Somebody can write to the store, but does not have the key-encryption key: no wrapping, a copied one, and a genuine one
    // of another purpose.
    let (_, foreign) =
        installation.keys.generate(&wrapping_key(), &KeyContext("column/1".into())).await.unwrap();
    let own_key = DataKey::generate().expose().to_vec();
    for (id, wrapped) in
        [("junk", Bytes::from_static(b"junk")), ("copied", stored.wrapped_private), ("foreign", foreign.blob)]
    {
        assert!(installation.store.insert(&plant(id, own_key.clone(), wrapped)).await.unwrap());
    }
    installation.clock.advance(REFRESH);
    assert_eq!(signer.sign(b"message").await.unwrap().key, honest);
    let published = signer.public_keys().await.unwrap();
    assert_eq!(published.iter().map(|key| &key.id).collect::<Vec<_>>(), [&honest]);
}

#[tokio::test]
async fn a_server_with_another_wrapping_key_refuses_to_start() {
    let installation = Installation::new();
    installation.server().await;
    let folder = tempfile::tempdir().unwrap();
    let stranger = Installation { keys: key_manager(folder.path()), folder, ..installation };
    let error = stranger.try_server().await.unwrap_err();
    assert!(matches!(error, Ed25519SignerError::NoUsableKey { stored: 1, .. }), "{error:?}");
    assert_eq!(stranger.store.list().await.unwrap().len(), 1, "it must not make a key of its own");
}

#[tokio::test]
async fn keys_that_nobody_can_open_are_replaced_when_asked() {
    let installation = Installation::new();
    let lost = installation.server().await.rotate().await.unwrap();
    let replace = async |installation: &Installation| {
        let (store, keys) = (installation.store.clone(), installation.keys.clone());
        let (clock, config) = (installation.clock.clone(), Ed25519SignerConfig::new(wrapping_key()));
        Ed25519Signer::replace_lost(store, keys, Arc::new(clock), config).await.unwrap()
    };
    assert_eq!(replace(&installation).await, None, "those that open stay");

    let folder = tempfile::tempdir().unwrap();
    let stranger = Installation { keys: key_manager(folder.path()), folder, ..installation };
    let new = replace(&stranger).await.unwrap();
    assert_eq!(replace(&stranger).await, None);
    let signer = stranger.server().await;
    assert_eq!(signer.sign(b"message").await.unwrap().key, new, "it signs at once");
    let published: Vec<_> = signer.public_keys().await.unwrap().into_iter().map(|key| key.id).collect();
    assert_eq!(published, [new], "{lost} is not accepted any more");
}
