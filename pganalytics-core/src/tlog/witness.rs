use std::fmt;

use crate::tlog::number::parse_decimal;
use crate::tlog::{
    Checkpoint, CheckpointPolicy, ConsistencyProof, Ed25519Verifier, GrowthError, Hash32,
    InvalidSignedCheckpoint, SignedCheckpoint, TreeSize,
};

/// As many hashes as a tree of 64 bits can need (c2sp.org/tlog-witness).
const MAX_PATH: usize = 63;

/// What a log asks of a witness (c2sp.org/tlog-witness, "add-checkpoint"): to cosign a checkpoint, which grew from the one that
/// the witness cosigned last.
///
/// A witness [judges](Self::judge) it by what it remembers of the log, stores the new checkpoint in the same atomic step, and
/// then cosigns: whoever demands its cosignature cannot be shown another history than it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    old_size: TreeSize,
    proof: ConsistencyProof,
    checkpoint: SignedCheckpoint,
}

impl AddCheckpoint {
    /// Asks for this checkpoint, whose tree grew from one of this size as the proof shows.
    pub fn new(old_size: TreeSize, proof: ConsistencyProof, checkpoint: SignedCheckpoint) -> Self {
        Self { old_size, proof, checkpoint }
    }

    /// Reads the body of a request.
    ///
    /// # Errors
    /// What makes it none.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidAddCheckpoint> {
        let text = std::str::from_utf8(bytes).map_err(|_| InvalidAddCheckpoint::NotUtf8)?;
        let (head, checkpoint) = text.split_once("\n\n").ok_or(InvalidAddCheckpoint::NoCheckpoint)?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| parse_decimal(line.strip_prefix("old ")?));
        let old_size = TreeSize(old.ok_or(InvalidAddCheckpoint::OldSize)?);
        let mut path = Vec::new();
        for (index, line) in lines.enumerate() {
            if index == MAX_PATH {
                return Err(InvalidAddCheckpoint::TooManyHashes);
            }
            let hash = line.parse::<Hash32>().map_err(|_| InvalidAddCheckpoint::Hash { line: index + 1 })?;
            path.push(hash);
        }
        let checkpoint = SignedCheckpoint::parse(checkpoint.as_bytes())?;
        Ok(Self { old_size, proof: ConsistencyProof { path }, checkpoint })
    }

    /// The checkpoint, unverified.
    pub fn checkpoint(&self) -> &SignedCheckpoint {
        &self.checkpoint
    }

    /// Whether a witness may cosign it who cosigned `last` of this log, or nothing yet. What it may cosign is signed by the log
    /// and has `last` as its beginning.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(
        &self,
        last: Option<&Checkpoint>,
        policy: &CheckpointPolicy,
        ed25519: &dyn Ed25519Verifier,
    ) -> Result<(), WitnessRefusal> {
        let verified = self.checkpoint.verify(policy, ed25519).map_err(|_| WitnessRefusal::NotSigned)?;
        let next = verified.checkpoint();
        if self.old_size > next.size() {
            return Err(WitnessRefusal::Shrunk { from: self.old_size, to: next.size() });
        }
        let known = last.map_or(TreeSize::EMPTY, Checkpoint::size);
        if self.old_size != known {
            return Err(WitnessRefusal::OtherSize { known });
        }
        let empty = Checkpoint::new(next.origin().clone(), TreeSize::EMPTY, Hash32::of_empty_tree())
            .expect("the empty tree has this root");
        match last.unwrap_or(&empty).check_growth(next, &self.proof) {
            Ok(()) => Ok(()),
            Err(GrowthError::TwoHistories { .. }) if next.size() == known => {
                Err(WitnessRefusal::OtherSize { known })
            }
            Err(_) => Err(WitnessRefusal::Inconsistent),
        }
    }
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        for hash in &self.proof.path {
            writeln!(f, "{hash}")?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

/// Why a witness does not cosign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessRefusal {
    /// It is no witness of this log: 404.
    #[error("the witness does not know the log")]
    UnknownLog,
    /// No key of the log has signed it: 403.
    #[error("the checkpoint is not signed by the log")]
    NotSigned,
    /// The old tree is larger than the new one: 400.
    #[error("the tree shrank from {from} to {to} leaves")]
    Shrunk {
        /// The old size.
        from: TreeSize,
        /// The new size.
        to: TreeSize,
    },
    /// The old tree is not the one that was cosigned last, or is of the same size as the new one and another: 409 with the size
    /// that is known.
    #[error("the checkpoint that was cosigned last has {known} leaves")]
    OtherSize {
        /// The size of what was cosigned last.
        known: TreeSize,
    },
    /// The proof does not hold: 422.
    #[error("the proof does not show that the tree grew from the one that was cosigned last")]
    Inconsistent,
}

/// The body of a refusal that names the size which is known.
pub(super) fn parse_size(body: &[u8]) -> Option<TreeSize> {
    parse_decimal(str::from_utf8(body).ok()?.strip_suffix('\n')?).map(TreeSize)
}

/// Bytes that ask a witness for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAddCheckpoint {
    /// They are not UTF-8.
    #[error("the request is not utf-8")]
    NotUtf8,
    /// The first line is not `old` and a size.
    #[error("the first line is not `old` and a decimal number of 64 bits without leading zeros")]
    OldSize,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::{CompactRange, NoteKeyKind, NoteSignature, SignedNote, VerifierKey};

    const KEY: [u8; 32] = [7; 32];

    /// Signatures of this key are the key and the length of the message.
    fn verifies(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        key == KEY && signature[..8] == (message.len() as u64).to_be_bytes()
    }

    fn key() -> VerifierKey {
        VerifierKey::new("example.com/log".parse().unwrap(), NoteKeyKind::Ed25519, KEY)
    }

    fn policy() -> CheckpointPolicy {
        CheckpointPolicy::new("example.com/log".parse().unwrap(), [key()]).unwrap()
    }

    fn leaves(count: u64, flavour: &str) -> Vec<Hash32> {
        (0..count).map(|number| Hash32::of_leaf(format!("{flavour} {number}").as_bytes())).collect()
    }

    fn checkpoint(leaves: &[Hash32]) -> Checkpoint {
        let mut tree = CompactRange::new();
        for leaf in leaves {
            tree.append(*leaf).unwrap();
        }
        Checkpoint::new("example.com/log".parse().unwrap(), tree.size(), tree.root()).unwrap()
    }

    fn signed(checkpoint: &Checkpoint) -> SignedCheckpoint {
        let text = checkpoint.to_text().unwrap();
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&(text.as_str().len() as u64).to_be_bytes());
        let signature = NoteSignature { name: key().name().clone(), id: key().id(), bytes: bytes.to_vec() };
        SignedCheckpoint::new(SignedNote::new(text, signature).unwrap()).unwrap()
    }

    fn request(old: u64, leaves: &[Hash32]) -> AddCheckpoint {
        let proof = match old {
            0 => ConsistencyProof { path: Vec::new() },
            old => ConsistencyProof::from_leaves(TreeSize(old), leaves).unwrap(),
        };
        AddCheckpoint::new(TreeSize(old), proof, signed(&checkpoint(leaves)))
    }

    fn judge(request: &AddCheckpoint, last: Option<&Checkpoint>) -> Result<(), WitnessRefusal> {
        request.judge(last, &policy(), &verifies)
    }

    #[test]
    fn what_grew_from_the_last_one_is_cosigned() {
        let leaves = leaves(9, "a");
        let last = checkpoint(&leaves[..5]);
        assert_eq!(judge(&request(0, &leaves[..5]), None), Ok(()));
        assert_eq!(judge(&request(5, &leaves), Some(&last)), Ok(()));
        assert_eq!(judge(&request(5, &leaves[..5]), Some(&last)), Ok(()), "the same again");
    }

    #[test]
    fn another_history_is_refused() {
        let (one, other) = (leaves(9, "a"), leaves(9, "b"));
        let last = checkpoint(&one[..5]);
        assert_eq!(judge(&request(5, &other), Some(&last)), Err(WitnessRefusal::Inconsistent));
        let known = TreeSize(5);
        assert_eq!(
            judge(&request(5, &other[..5]), Some(&last)),
            Err(WitnessRefusal::OtherSize { known }),
            "of the same size"
        );
        assert_eq!(judge(&request(3, &one), Some(&last)), Err(WitnessRefusal::OtherSize { known }));
        assert_eq!(judge(&request(0, &one), Some(&last)), Err(WitnessRefusal::OtherSize { known }));
        let shrunk = AddCheckpoint::new(
            TreeSize(5),
            ConsistencyProof { path: Vec::new() },
            signed(&checkpoint(&one[..3])),
        );
        let (from, to) = (TreeSize(5), TreeSize(3));
        assert_eq!(judge(&shrunk, Some(&last)), Err(WitnessRefusal::Shrunk { from, to }));
    }

    #[test]
    fn what_the_log_did_not_sign_is_refused() {
        let request = request(0, &leaves(3, "a"));
        let never = |_: &[u8], _: &[u8], _: &[u8]| false;
        assert_eq!(request.judge(None, &policy(), &never), Err(WitnessRefusal::NotSigned));
    }

    #[test]
    fn requests_are_read_as_they_are_written() {
        let leaves = leaves(100, "a");
        for old in [0, 1, 64, 77] {
            let request = request(old, &leaves);
            let text = request.to_string();
            assert_eq!(AddCheckpoint::parse(text.as_bytes()), Ok(request));
        }
    }

    #[test]
    fn malformed_requests_are_refused_with_the_line() {
        let good = request(77, &leaves(100, "a")).to_string();
        for (from, to, expected) in [
            ("old 77", "old 077", InvalidAddCheckpoint::OldSize),
            ("old 77", "new 77", InvalidAddCheckpoint::OldSize),
            ("old 77\n", "old 77\nno hash\n", InvalidAddCheckpoint::Hash { line: 1 }),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_eq!(AddCheckpoint::parse(bad.as_bytes()), Err(expected));
        }
        let many = format!("old 1\n{}", format!("{}\n", Hash32::of_empty_tree()).repeat(64));
        let many = good.replacen("old 77\n", &many, 1);
        assert_eq!(AddCheckpoint::parse(many.as_bytes()), Err(InvalidAddCheckpoint::TooManyHashes));
        assert_eq!(AddCheckpoint::parse(b"\xff"), Err(InvalidAddCheckpoint::NotUtf8));
        assert_eq!(AddCheckpoint::parse(b"old 0\n"), Err(InvalidAddCheckpoint::NoCheckpoint));
    }
}
