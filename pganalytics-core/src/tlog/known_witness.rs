use std::sync::Arc;

use crate::tlog::{
    AddCheckpoint, AuthenticTree, Ed25519Verifier, NoteKeyName, NoteSignature, ProveError, SignedCheckpoint,
    SignedNote, TreeSize, VerifierKey, VerifierKeys, Witness, WitnessError, WitnessRefusal, WitnessVerdict,
};

/// How often a witness is asked: others may have it cosign at the same time.
const ATTEMPTS: usize = 3;

/// A witness with the key under which its cosignatures count: the side of the log.
#[derive(Clone, Debug)]
pub struct KnownWitness {
    key: VerifierKey,
    witness: Arc<dyn Witness>,
}

/// What came of asking a witness.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WitnessOutcome {
    /// It cosigned.
    Cosigned {
        /// The signature line, verified.
        signature: NoteSignature,
        /// When, in seconds since 1970 by the clock of the witness.
        at: u64,
    },
    /// It has cosigned a larger checkpoint of this log. If that is none that the log knows of, the log went back.
    Ahead {
        /// Its size.
        known: TreeSize,
    },
    /// It has cosigned a checkpoint of this log that this one did not grow from. If it tells the truth, the log has two histories.
    OtherHistory {
        /// The size of what it has cosigned.
        known: TreeSize,
    },
    /// It does not know the log, or none of its keys.
    Refused(WitnessRefusal),
}

impl KnownWitness {
    /// A witness that has this key.
    pub fn new(key: VerifierKey, witness: Arc<dyn Witness>) -> Self {
        Self { key, witness }
    }

    /// The key.
    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// What the witness is called.
    pub fn key_name(&self) -> &NoteKeyName {
        self.key.name()
    }

    /// Asks for a cosignature of a checkpoint, whose tree is given for the proofs. `known` is what the witness cosigned last as
    /// far as is known; it says so itself when that is wrong.
    ///
    /// # Errors
    /// When the witness gives no verdict or the tree cannot be read.
    pub async fn cosign(
        &self,
        checkpoint: &SignedCheckpoint,
        tree: &mut AuthenticTree,
        known: TreeSize,
        ed25519: &dyn Ed25519Verifier,
    ) -> Result<WitnessOutcome, AskWitnessError> {
        let size = checkpoint.unverified().size();
        let mut old = known.min(size);
        for _ in 0..ATTEMPTS {
            let proof = tree.prove_consistency(old).await?;
            let request = AddCheckpoint::new(old, proof, checkpoint.clone());
            match self.witness.add_checkpoint(&request).await? {
                WitnessVerdict::Cosigned(lines) => return self.verified(checkpoint, lines, ed25519),
                WitnessVerdict::Refused(WitnessRefusal::OtherSize { known }) if known > size => {
                    return Ok(WitnessOutcome::Ahead { known });
                }
                WitnessVerdict::Refused(WitnessRefusal::OtherSize { known })
                    if known == old && old == size =>
                {
                    return Ok(WitnessOutcome::OtherHistory { known });
                }
                WitnessVerdict::Refused(WitnessRefusal::OtherSize { known }) => old = known,
                WitnessVerdict::Refused(WitnessRefusal::Inconsistent) => {
                    return Ok(WitnessOutcome::OtherHistory { known: old });
                }
                WitnessVerdict::Refused(refusal) => return Ok(WitnessOutcome::Refused(refusal)),
            }
        }
        Err(AskWitnessError::Restless { attempts: ATTEMPTS })
    }

    /// The first of these lines that is its own.
    fn verified(
        &self,
        checkpoint: &SignedCheckpoint,
        lines: Vec<NoteSignature>,
        ed25519: &dyn Ed25519Verifier,
    ) -> Result<WitnessOutcome, AskWitnessError> {
        let keys = VerifierKeys::new([self.key.clone()]).expect("one key is like no other");
        let text = checkpoint.note().unverified_text();
        let own = lines.into_iter().filter(|line| line.name == *self.key.name() && line.id == self.key.id());
        for signature in own {
            let Ok(note) = SignedNote::new(text.clone(), signature.clone()) else { continue };
            let Ok(signed) = note.verify(&keys, ed25519) else { continue };
            if let Some(at) = signed.first().and_then(|signed| signed.cosigned_at) {
                return Ok(WitnessOutcome::Cosigned { signature, at });
            }
        }
        Err(AskWitnessError::NotCosigned { name: self.key.name().clone() })
    }
}

/// Why nothing came of asking a witness.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskWitnessError {
    /// It gave no verdict.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// It answered with signatures of which none is its own.
    #[error("the answer has no cosignature that verifies under the key of `{name}`")]
    NotCosigned {
        /// What it is called.
        name: NoteKeyName,
    },
    /// Each time it had cosigned something else since.
    #[error("of {attempts} times the witness had cosigned something else each time")]
    Restless {
        /// How often it was asked.
        attempts: usize,
    },
    /// The tree cannot be read.
    #[error("the proof for the witness cannot be made")]
    Prove(#[from] ProveError),
}
