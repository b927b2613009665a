//! A transparency log.

mod authentic_tree;
mod checkpoint;
mod compact_range;
mod cosignature;
mod growth;
mod hash;
mod key;
mod log_verifier;
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

pub use authentic_tree::{AuthenticTree, HistoryError, ProveError};
pub use checkpoint::{Checkpoint, GrowthError, InvalidCheckpoint, Origin};
pub use compact_range::{CompactRange, TreeFull, WrongSubtreeCount};
pub use cosignature::cosigned_message;
pub use growth::{AppendError, TileObject, TreeEdge, TreeGrowth};
pub use hash::{Hash32, InvalidHash};
pub use key::{
    AmbiguousKey, InvalidVerifierKey, NoteKeyId, NoteKeyKind, NoteKeyName, VerifierKey, VerifierKeys,
};
pub use log_verifier::{LogVerifier, VerifyError, VerifyProgress, verify_entries};
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
