//! A transparency log.

mod checkpoint;
mod compact_range;
mod cosignature;
mod hash;
mod key;
mod note;
mod number;
mod policy;
mod proof;
mod prove;
mod signing;

pub use checkpoint::{Checkpoint, GrowthError, InvalidCheckpoint, Origin};
pub use compact_range::{CompactRange, TreeFull, WrongSubtreeCount};
pub use cosignature::cosigned_message;
pub use hash::{Hash32, InvalidHash};
pub use key::{
    AmbiguousKey, InvalidVerifierKey, NoteKeyId, NoteKeyKind, NoteKeyName, VerifierKey, VerifierKeys,
};
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
pub use prove::{MissingNode, NodeId, ProofPlan};
pub use signing::{Cosigner, NoteSigner, SignNoteError};
