use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::tlog::number::parse_decimal;
use crate::tlog::{
    CheckpointError, CheckpointPolicy, Ed25519Verifier, Hash32, InclusionProof, InvalidSignedCheckpoint,
    LeafIndex, NOTE_MAX_BYTES, ProofError, SignedCheckpoint, VerifiedCheckpoint,
};

/// The largest proof bundle, in bytes.
pub const PROOF_BUNDLE_MAX_BYTES: usize = 2 * NOTE_MAX_BYTES;

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
const MAX_PATH: usize = 64;

/// Shows offline that an entry is in a log (c2sp.org/tlog-proof): its index, the inclusion proof and the signed checkpoint. Its
/// text form is written exactly as it was read; files of it end in `.tlog-proof`.
///
/// The format does not carry the entry. It has a field for other data, though, and [`with_entry`](Self::with_entry) puts the
/// entry there, so that the bundle can be verified by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofBundle {
    extra: Option<Vec<u8>>,
    index: LeafIndex,
    proof: InclusionProof,
    checkpoint: SignedCheckpoint,
}

impl ProofBundle {
    /// A bundle without extra data.
    pub fn new(index: LeafIndex, proof: InclusionProof, checkpoint: SignedCheckpoint) -> Self {
        Self { extra: None, index, proof, checkpoint }
    }

    /// Carries the entry as the extra data.
    #[must_use]
    pub fn with_entry(self, entry: &[u8]) -> Self {
        Self { extra: Some(entry.to_vec()), ..self }
    }

    /// Reads a bundle.
    ///
    /// # Errors
    /// What makes it none.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidProofBundle> {
        if bytes.len() > PROOF_BUNDLE_MAX_BYTES {
            return Err(InvalidProofBundle::TooLarge { size: bytes.len() });
        }
        let text = str::from_utf8(bytes).map_err(|_| InvalidProofBundle::NotUtf8)?;
        let (head, checkpoint) = text.split_once("\n\n").ok_or(InvalidProofBundle::NoCheckpoint)?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(FIRST_LINE) {
            return Err(InvalidProofBundle::OtherFormat);
        }
        let extra = lines.next_if(|line| line.starts_with("extra ")).map(parse_extra).transpose()?;
        let index = lines.next().and_then(|line| parse_decimal(line.strip_prefix("index ")?));
        let index = LeafIndex(index.ok_or(InvalidProofBundle::Index)?);
        let proof = InclusionProof { path: parse_path(lines)? };
        let checkpoint = SignedCheckpoint::parse(checkpoint.as_bytes())?;
        Ok(Self { extra, index, proof, checkpoint })
    }

    /// The extra data. It is not authenticated, but by [`verify_carried_entry`](Self::verify_carried_entry).
    pub fn unverified_extra(&self) -> Option<&[u8]> {
        self.extra.as_deref()
    }

    /// The index that it claims.
    pub fn index(&self) -> LeafIndex {
        self.index
    }

    /// The inclusion proof.
    pub fn proof(&self) -> &InclusionProof {
        &self.proof
    }

    /// The checkpoint, unverified.
    pub fn checkpoint(&self) -> &SignedCheckpoint {
        &self.checkpoint
    }

    /// Checks that the log has this entry at the index.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub fn verify(
        &self,
        entry: &[u8],
        policy: &CheckpointPolicy,
        ed25519: &dyn Ed25519Verifier,
    ) -> Result<VerifiedCheckpoint, ProofBundleError> {
        let verified = self.checkpoint.verify(policy, ed25519)?;
        let checkpoint = verified.checkpoint();
        self.proof.verify(&Hash32::of_leaf(entry), self.index, checkpoint.size(), checkpoint.root())?;
        Ok(verified)
    }

    /// Checks that the log has the entry that the bundle carries, and yields it.
    ///
    /// # Errors
    /// Why it is not to be believed, or that it carries none.
    pub fn verify_carried_entry(
        &self,
        policy: &CheckpointPolicy,
        ed25519: &dyn Ed25519Verifier,
    ) -> Result<(&[u8], VerifiedCheckpoint), ProofBundleError> {
        let entry = self.extra.as_deref().ok_or(ProofBundleError::NoEntry)?;
        Ok((entry, self.verify(entry, policy, ed25519)?))
    }
}

impl fmt::Display for ProofBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.proof.path {
            writeln!(f, "{hash}")?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

/// Why an entry is not believed to be in a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofBundleError {
    /// The checkpoint is not believed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The inclusion proof does not hold.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The bundle carries no entry.
    #[error("the bundle carries no entry")]
    NoEntry,
}

/// Bytes that are no proof bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidProofBundle {
    /// It is over [`PROOF_BUNDLE_MAX_BYTES`].
    #[error("the bundle has {size} bytes, limit is {PROOF_BUNDLE_MAX_BYTES}")]
    TooLarge {
        /// Its bytes.
        size: usize,
    },
    /// It is not UTF-8.
    #[error("the bundle is not utf-8")]
    NotUtf8,
    /// It does not begin with the name of the format.
    #[error("the first line is not {FIRST_LINE}")]
    OtherFormat,
    /// The extra data is not canonical base64.
    #[error("the extra data is not canonical base64")]
    Extra,
    /// There is no line of the index, or its number is malformed.
    #[error("the index is no decimal number of 64 bits without leading zeros")]
    Index,
    /// A line of the proof is no hash.
    #[error("line {line} of the proof is no hash in canonical base64")]
    Hash {
        /// Which, from 1.
        line: usize,
    },
    /// The proof has more hashes than any could need.
    #[error("the proof has more than {MAX_PATH} hashes")]
    TooManyHashes,
    /// There is no blank line before a checkpoint.
    #[error("there is no checkpoint after a blank line")]
    NoCheckpoint,
    /// The checkpoint is malformed.
    #[error(transparent)]
    Checkpoint(#[from] InvalidSignedCheckpoint),
}

fn parse_extra(line: &str) -> Result<Vec<u8>, InvalidProofBundle> {
    let (_, extra) = line.split_once(' ').ok_or(InvalidProofBundle::Extra)?;
    STANDARD.decode(extra).map_err(|_| InvalidProofBundle::Extra)
}

fn parse_path<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Hash32>, InvalidProofBundle> {
    let mut path = Vec::new();
    for line in lines {
        if path.len() == MAX_PATH {
            return Err(InvalidProofBundle::TooManyHashes);
        }
        path.push(line.parse().map_err(|_| InvalidProofBundle::Hash { line: path.len() + 1 })?);
    }
    Ok(path)
}
