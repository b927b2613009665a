//! Signed notes and checkpoints of core's transparency log, with real Ed25519 keys.
#![cfg(feature = "aws-lc")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::keys::KeyName;
use pganalytics_core::signing::MemorySigningKeyStore;
use pganalytics_core::testing::ManualClock;
use pganalytics_core::tlog::{
    Checkpoint, CheckpointPolicy, Cosigner, Hash32, NoteSigner, SignedCheckpoint, SignedNote, TreeSize,
    VerifierKeys,
};
use pganalytics_crypto::ed25519::{Ed25519Signer, Ed25519SignerConfig, verify};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    source: String,
    keys: Vec<String>,
    note: String,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("vectors/notes/notes.json")).unwrap()
}

impl Case {
    fn keys(&self) -> VerifierKeys {
        VerifierKeys::new(self.keys.iter().map(|key| key.parse().unwrap())).unwrap()
    }
}

#[test]
fn published_notes_are_believed() {
    for case in cases() {
        let note = SignedNote::parse(case.note.as_bytes()).unwrap();
        let signed = note.verify(&case.keys(), &verify).unwrap();
        let names: Vec<String> = signed.iter().map(|signed| signed.key.to_string()).collect();
        assert_eq!(names, case.keys, "{}", case.source);
    }
}

#[test]
fn published_notes_with_any_bit_changed_are_not_believed() {
    for case in cases() {
        // The line of a key that is not known may say what it likes.
        let end = case.note.find("— EnochRoot").unwrap_or(case.note.len());
        for at in 0..end {
            for bit in 0..8 {
                let mut changed = case.note.clone().into_bytes();
                changed[at] ^= 1 << bit;
                let note = SignedNote::parse(&changed);
                let is_believed = note.is_ok_and(|note| note.verify(&case.keys(), &verify).is_ok());
                assert!(!is_believed, "{}: bit {bit} of byte {at}", case.source);
            }
        }
    }
}

async fn signer(clock: &ManualClock) -> Arc<Ed25519Signer> {
    let folder = tempfile::tempdir().unwrap();
    let wrapping: KeyName = "signing".parse().unwrap();
    let config = FileKeyManagerConfig::new(folder.path().join("keys")).creating([wrapping.clone()]);
    let keys = Arc::new(FileKeyManager::open(&config, Arc::new(clock.clone())).unwrap());
    let store = Arc::new(MemorySigningKeyStore::new());
    let config = Ed25519SignerConfig::new(wrapping);
    Arc::new(Ed25519Signer::connect(store, keys, Arc::new(clock.clone()), config).await.unwrap())
}

fn checkpoint(size: u64) -> Checkpoint {
    Checkpoint::new("log.example".parse().unwrap(), TreeSize(size), Hash32::of_leaf(b"entry")).unwrap()
}

#[tokio::test]
async fn checkpoints_stay_believed_while_keys_rotate() {
    let clock = ManualClock::new();
    let keys = signer(&clock).await;
    let log = NoteSigner::new("log.example".parse().unwrap(), keys.clone());
    let before = log.sign_note(checkpoint(1).to_text().unwrap()).await.unwrap();
    let only_old = CheckpointPolicy::new("log.example".parse().unwrap(), log.verifier_keys().await.unwrap());
    keys.rotate().await.unwrap();
    clock.advance(Duration::from_secs(3600));
    let after = log.sign_note(checkpoint(2).to_text().unwrap()).await.unwrap();
    let both = CheckpointPolicy::new("log.example".parse().unwrap(), log.verifier_keys().await.unwrap());
    for note in [&before, &after] {
        let checkpoint = SignedCheckpoint::parse(note.to_string().as_bytes()).unwrap();
        assert!(checkpoint.verify(both.as_ref().unwrap(), &verify).is_ok());
    }
    assert_ne!(before.signatures()[0].id, after.signatures()[0].id);
    let after = SignedCheckpoint::new(after).unwrap();
    assert!(after.verify(only_old.as_ref().unwrap(), &verify).is_err());
}

#[tokio::test]
async fn a_witness_cosigns_with_a_real_key() {
    let clock = ManualClock::new();
    let log = NoteSigner::new("log.example".parse().unwrap(), signer(&clock).await);
    let witness = Cosigner::new("w.example".parse().unwrap(), signer(&clock).await, Arc::new(clock.clone()));
    let policy = CheckpointPolicy::new("log.example".parse().unwrap(), log.verifier_keys().await.unwrap())
        .unwrap()
        .with_witnesses(witness.verifier_keys().await.unwrap(), 1)
        .unwrap();
    let note = log.sign_note(checkpoint(5).to_text().unwrap()).await.unwrap();
    assert!(SignedCheckpoint::new(note.clone()).unwrap().verify(&policy, &verify).is_err());
    let line = witness.cosign(note.unverified_text()).await.unwrap();
    let cosigned = SignedCheckpoint::new(note.with_signature(line).unwrap()).unwrap();
    let believed = cosigned.verify(&policy, &verify).unwrap();
    assert_eq!(believed.signed()[1].cosigned_at, Some(1_767_225_600));
}
