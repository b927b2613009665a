//! Keys that need no cryptography, and small logs.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pganalytics_core::backup::{BackupTarget, MemoryBackupTarget};
use pganalytics_core::signing::{PublicKey, SignError, Signature, SignatureAlgorithm, Signer, SigningKeyId};
use pganalytics_core::testing::ManualClock;
use pganalytics_core::tlog::{
    AuthenticTree, Checkpoint, CheckpointPolicy, NoteSigner, SignedCheckpoint, TileReader, TileStore,
    TreeEdge, TreeGrowth,
};
use sha2::{Digest, Sha256};

pub(crate) const ORIGIN: &str = "log.example/audit";

/// Whoever knows a public key can sign with it: good enough to see which key signed what.
pub(crate) fn verify(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    signature == signature_of(public_key, message)
}

fn signature_of(public_key: &[u8], message: &[u8]) -> Vec<u8> {
    let halves = [0_u8, 1].map(|half| {
        Sha256::new_with_prefix([half]).chain_update(public_key).chain_update(message).finalize()
    });
    halves.concat()
}

#[derive(Clone, Debug)]
pub(crate) struct ToySigner {
    seed: &'static str,
}

impl ToySigner {
    pub(crate) fn new(seed: &'static str) -> Arc<Self> {
        Arc::new(Self { seed })
    }

    fn public_key(&self) -> Vec<u8> {
        Sha256::digest(self.seed).to_vec()
    }

    fn id(&self) -> SigningKeyId {
        self.seed.parse().expect("seeds are names of keys")
    }
}

#[async_trait]
impl Signer for ToySigner {
    fn name(&self) -> &'static str {
        "toy"
    }

    async fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let bytes = signature_of(&self.public_key(), message);
        Ok(Signature { key: self.id(), algorithm: SignatureAlgorithm::Ed25519, bytes })
    }

    async fn current_key(&self) -> Result<SigningKeyId, SignError> {
        Ok(self.id())
    }

    async fn public_keys(&self) -> Result<Vec<PublicKey>, SignError> {
        let (id, bytes) = (self.id(), self.public_key());
        Ok(vec![PublicKey { id, algorithm: SignatureAlgorithm::Ed25519, bytes }])
    }
}

pub(crate) fn log_signer() -> NoteSigner {
    NoteSigner::new(ORIGIN.parse().unwrap(), ToySigner::new("log"))
}

pub(crate) async fn policy() -> CheckpointPolicy {
    let keys = log_signer().verifier_keys().await.unwrap();
    CheckpointPolicy::new(ORIGIN.parse().unwrap(), keys).unwrap()
}

pub(crate) async fn signed(checkpoint: &Checkpoint) -> SignedCheckpoint {
    let note = log_signer().sign_note(checkpoint.to_text().unwrap()).await.unwrap();
    SignedCheckpoint::new(note).unwrap()
}

/// Entries differ in length, and some are empty.
pub(crate) fn entry(index: u64) -> Bytes {
    match index % 7 {
        3 => Bytes::new(),
        long => Bytes::from(format!("entry {index} ").repeat(long as usize + 1)),
    }
}

pub(crate) fn memory() -> MemoryBackupTarget {
    MemoryBackupTarget::new(Arc::new(ManualClock::new()))
}

pub(crate) fn store(target: &MemoryBackupTarget) -> TileStore {
    TileStore::new(Arc::new(target.clone())).unwrap()
}

/// Grows to this size by the usual entries.
pub(crate) fn grown(edge: TreeEdge, size: u64) -> TreeGrowth {
    grown_by(edge, size, entry)
}

pub(crate) fn grown_by(edge: TreeEdge, size: u64, entry: impl Fn(u64) -> Bytes) -> TreeGrowth {
    let mut growth = TreeGrowth::new(edge);
    for index in growth.size().0..size {
        growth.append(entry(index)).unwrap();
    }
    growth
}

pub(crate) fn checkpoint_of(growth: &TreeGrowth) -> Checkpoint {
    Checkpoint::new(ORIGIN.parse().unwrap(), growth.size(), growth.root()).unwrap()
}

/// Grows a log through these sizes and yields its checkpoints.
pub(crate) async fn write_log(store: &TileStore, sizes: &[u64]) -> Vec<Checkpoint> {
    let mut edge = TreeEdge::new();
    let mut checkpoints = Vec::new();
    for size in sizes {
        let growth = grown(edge, *size);
        let checkpoint = checkpoint_of(&growth);
        store.extend(&growth, &signed(&checkpoint).await).await.unwrap();
        edge = growth.into_edge();
        checkpoints.push(checkpoint);
    }
    checkpoints
}

pub(crate) async fn open(target: &MemoryBackupTarget, checkpoint: &Checkpoint) -> AuthenticTree {
    let reader = TileReader::new(Arc::new(target.clone()));
    AuthenticTree::open(reader, checkpoint.clone()).await.unwrap()
}

/// All objects, in order of their names.
pub(crate) async fn objects(target: &MemoryBackupTarget) -> Vec<(String, Bytes)> {
    let mut objects = Vec::new();
    for info in target.list(None, None, usize::MAX).await.unwrap() {
        let bytes = target.get(&info.path, None).await.unwrap().unwrap();
        objects.push((info.path.to_string(), bytes));
    }
    objects
}
