//! A transparency log: entries in an order that cannot be changed afterwards without somebody noticing.
//!
//! The entries are the leaves of a Merkle tree (RFC 6962 and RFC 9162, section 2.1, over SHA-256). A signed [`Checkpoint`] says
//! what the tree is at a size; proofs of the length of a logarithm show that an entry is in it ([`InclusionProof`]) and that a
//! later tree begins with it ([`ConsistencyProof`]). Everything has the formats of C2SP (signed-note, tlog-checkpoint,
//! tlog-cosignature, tlog-tiles, tlog-proof), so that strangers verify it with tools of their own.
//!
//! | to do | take |
//! |---|---|
//! | hash a tree while it grows | [`CompactRange`]; with tiles, [`TreeGrowth`] |
//! | sign and cosign checkpoints | [`NoteSigner`], [`Cosigner`] |
//! | say whom to believe | [`CheckpointPolicy`] over [`VerifierKey`]s |
//! | keep a log | [`TileStore`] over any [`BackupTarget`](crate::backup::BackupTarget) that can create only |
//! | read and prove from tiles, and compare two checkpoints | [`AuthenticTree`] |
//! | verify all entries | [`LogVerifier`]; without tiles, [`verify_entries`] |
//! | give away the proof of one entry | [`ProofBundle`] |
//! | ask a witness, or be one | [`KnownWitness`] over any [`Witness`], [`AddCheckpoint`] |
//!
//! Nothing here reads a clock, signs or verifies by itself: those are a [`Clock`](crate::clock::Clock), a
//! [`Signer`](crate::signing::Signer) and an [`Ed25519Verifier`], like `pganalytics_crypto::ed25519::verify`. Whatever comes from
//! strangers is read exactly or refused with a reason.
//!
//! # Limits
//! An entry has at most [`ENTRY_MAX_BYTES`], what tlog-tiles can express; longer ones are refused. A note has at most
//! [`NOTE_MAX_BYTES`] and [`NOTE_MAX_SIGNATURES`]. Keys are Ed25519.
//!
//! What a log promises ends where its writer and all witnesses lie together, and at the entries since the last checkpoint that
//! somebody else has seen.
//!
//! # Example
//! ```
//! use pganalytics_core::tlog::{CompactRange, ConsistencyProof, Hash32, InclusionProof, LeafIndex};
//!
//! let leaves = ["first", "second", "third"].map(|entry| Hash32::of_leaf(entry.as_bytes()));
//! let mut tree = CompactRange::new();
//! tree.append(leaves[0])?;
//! let (old_size, old_root) = (tree.size(), tree.root());
//! tree.append(leaves[1])?;
//! tree.append(leaves[2])?;
//!
//! let proof = InclusionProof::from_leaves(LeafIndex(2), &leaves)?;
//! proof.verify(&leaves[2], LeafIndex(2), tree.size(), &tree.root())?;
//! let proof = ConsistencyProof::from_leaves(old_size, &leaves)?;
//! proof.verify(old_size, &old_root, tree.size(), &tree.root())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A log that grows, and somebody who verifies it:
//! ```
//! use bytes::Bytes;
//! use pganalytics_core::tlog::{
//!     AuthenticTree, Checkpoint, CheckpointPolicy, Ed25519Verifier, LogVerifier, NoteSigner, Origin, SignedCheckpoint,
//!     TileReader, TileStore, TreeEdge, TreeGrowth,
//! };
//! type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
//!
//! async fn append(
//!     store: &TileStore, origin: Origin, signer: &NoteSigner, edge: TreeEdge, entries: Vec<Bytes>,
//! ) -> Result<TreeEdge> {
//!     let mut growth = TreeGrowth::new(edge);
//!     for entry in entries {
//!         growth.append(entry)?;
//!     }
//!     let checkpoint = Checkpoint::new(origin, growth.size(), growth.root())?;
//!     let signed = SignedCheckpoint::new(signer.sign_note(checkpoint.to_text()?).await?)?;
//!     store.extend(&growth, &signed).await?;
//!     Ok(growth.into_edge())
//! }
//!
//! async fn audit(
//!     log: TileReader, policy: &CheckpointPolicy, ed25519: &dyn Ed25519Verifier, last_seen: &Checkpoint,
//! ) -> Result<Checkpoint> {
//!     let published = log.checkpoint().await?.ok_or("nothing is published")?.verify(policy, ed25519)?;
//!     let mut tree = AuthenticTree::open(log, published.checkpoint().clone()).await?;
//!     tree.check_grown_from(last_seen).await?;
//!     LogVerifier::new(tree).verify_bundles(&mut |progress| println!("{progress:?}")).await?;
//!     Ok(published.checkpoint().clone())
//! }
//! ```

mod authentic_tree;
mod checkpoint;
mod compact_range;
mod cosignature;
mod growth;
mod hash;
mod key;
mod known_witness;
mod log_verifier;
mod memory_witness;
mod note;
mod number;
mod policy;
mod proof;
mod proof_bundle;
mod prove;
mod reader;
mod signing;
mod store;
mod tile;
mod witness;
mod witness_port;

pub use authentic_tree::{AuthenticTree, HistoryError, ProveError};
pub use checkpoint::{Checkpoint, GrowthError, InvalidCheckpoint, Origin};
pub use compact_range::{CompactRange, TreeFull, WrongSubtreeCount};
pub use cosignature::cosigned_message;
pub use growth::{AppendError, TileObject, TreeEdge, TreeGrowth};
pub use hash::{Hash32, InvalidHash};
pub use key::{
    AmbiguousKey, InvalidVerifierKey, NoteKeyId, NoteKeyKind, NoteKeyName, VerifierKey, VerifierKeys,
};
pub use known_witness::{AskWitnessError, KnownWitness, WitnessOutcome};
pub use log_verifier::{LogVerifier, VerifyError, VerifyProgress, verify_entries};
pub use memory_witness::MemoryWitness;
pub use note::{
    Ed25519Verifier, InvalidNote, NOTE_MAX_BYTES, NOTE_MAX_SIGNATURES, NoteError, NoteSignature, NoteSigned,
    NoteText, SignedNote,
};
pub use number::{LeafIndex, TreeSize};
pub use policy::{
    CheckpointError, CheckpointPolicy, InvalidPolicy, InvalidSignedCheckpoint, SignedCheckpoint,
    VerifiedCheckpoint,
};
pub use proof::{ConsistencyProof, InclusionProof, ProofError};
pub use proof_bundle::{InvalidProofBundle, PROOF_BUNDLE_MAX_BYTES, ProofBundle, ProofBundleError};
pub use prove::{MissingNode, NodeId, ProofPlan};
pub use reader::{TileReadError, TileReader};
pub use signing::{Cosigner, NoteSigner, SignNoteError};
pub use store::{TileStore, TileStoreError};
pub use tile::{
    ENTRY_MAX_BYTES, EntryTooLong, InvalidTile, InvalidTilePath, TILE_WIDTH, TileKind, TilePath,
    decode_entries, decode_hashes, encode_entries, encode_hashes, tiles_between,
};
pub use witness::{AddCheckpoint, InvalidAddCheckpoint, WitnessRefusal};
pub use witness_port::{Witness, WitnessError, WitnessVerdict};
