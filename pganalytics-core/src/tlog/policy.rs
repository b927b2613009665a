use std::collections::BTreeSet;
use std::fmt;

use crate::tlog::{
    AmbiguousKey, Checkpoint, Ed25519Verifier, InvalidCheckpoint, InvalidNote, NoteError, NoteKeyKind,
    NoteKeyName, NoteSigned, Origin, SignedNote, VerifierKey, VerifierKeys,
};

/// Which checkpoints of a log are believed: signed by one of its keys and, if asked for, by so many witnesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointPolicy {
    origin: Origin,
    keys: VerifierKeys,
    witnesses: BTreeSet<NoteKeyName>,
    quorum: usize,
}

impl CheckpointPolicy {
    /// Checkpoints of this log, signed by one of these keys, which should be named like the origin.
    ///
    /// # Errors
    /// When there is no key, one is a witness's, or keys cannot be told apart.
    pub fn new(
        origin: Origin,
        log_keys: impl IntoIterator<Item = VerifierKey>,
    ) -> Result<Self, InvalidPolicy> {
        let keys = VerifierKeys::new(log_keys)?;
        check_kind(&keys, NoteKeyKind::Ed25519)?;
        if keys.iter().next().is_none() {
            return Err(InvalidPolicy::NoLogKey);
        }
        Ok(Self { origin, keys, witnesses: BTreeSet::new(), quorum: 0 })
    }

    /// Demands cosignatures of `quorum` witnesses. Keys of one name are one witness.
    ///
    /// # Errors
    /// When there are fewer witnesses, a key is no witness's, or is used for two names or by the log: a cosignature does not say
    /// for which name it was made.
    pub fn with_witnesses(
        mut self,
        witness_keys: impl IntoIterator<Item = VerifierKey>,
        quorum: usize,
    ) -> Result<Self, InvalidPolicy> {
        let witness_keys = VerifierKeys::new(witness_keys)?;
        check_kind(&witness_keys, NoteKeyKind::Cosignature)?;
        self.witnesses = witness_keys.iter().map(|key| key.name().clone()).collect();
        self.quorum = quorum;
        if quorum > self.witnesses.len() {
            return Err(InvalidPolicy::TooFewWitnesses { quorum, witnesses: self.witnesses.len() });
        }
        let mut public_keys: BTreeSet<[u8; 32]> = self.log_keys().map(|key| *key.public_key()).collect();
        for key in witness_keys.iter() {
            if !public_keys.insert(*key.public_key()) {
                return Err(InvalidPolicy::SharedKey { name: key.name().clone() });
            }
        }
        self.keys = VerifierKeys::new(self.log_keys().chain(witness_keys.iter()).cloned())?;
        Ok(self)
    }

    /// Demands a cosignature of each witness that has a key here.
    ///
    /// # Errors
    /// As [`with_witnesses`](Self::with_witnesses).
    pub fn with_every_witness(
        self,
        witness_keys: impl IntoIterator<Item = VerifierKey>,
    ) -> Result<Self, InvalidPolicy> {
        let keys: Vec<VerifierKey> = witness_keys.into_iter().collect();
        let quorum = keys.iter().map(VerifierKey::name).collect::<BTreeSet<_>>().len();
        self.with_witnesses(keys, quorum)
    }

    /// The log.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    fn log_keys(&self) -> impl Iterator<Item = &VerifierKey> {
        self.keys.iter().filter(|key| key.kind() == NoteKeyKind::Ed25519)
    }
}

/// A policy that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPolicy {
    /// There is no key of the log.
    #[error("the log has no key")]
    NoLogKey,
    /// A log's key was given for a witness, or the other way round.
    #[error("key `{name}` is of the wrong kind: logs sign with type 01, witnesses with type 04")]
    WrongKind {
        /// The name of the key.
        name: NoteKeyName,
    },
    /// More witnesses are demanded than there are.
    #[error("{quorum} witnesses are demanded of {witnesses}")]
    TooFewWitnesses {
        /// How many are demanded.
        quorum: usize,
        /// How many there are.
        witnesses: usize,
    },
    /// A witness has a key that is used twice.
    #[error("witness `{name}` shares its key with another witness or the log")]
    SharedKey {
        /// The name of the witness.
        name: NoteKeyName,
    },
    /// Keys cannot be told apart.
    #[error(transparent)]
    Ambiguous(#[from] AmbiguousKey),
}

/// A checkpoint with its signatures, not yet verified. Its text form is written exactly as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    note: SignedNote,
    checkpoint: Checkpoint,
}

impl SignedCheckpoint {
    /// A signed note that says a checkpoint.
    ///
    /// # Errors
    /// When it says none.
    pub fn new(note: SignedNote) -> Result<Self, InvalidSignedCheckpoint> {
        let checkpoint = Checkpoint::parse(note.unverified_text())?;
        Ok(Self { note, checkpoint })
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// When the bytes are no note, or the note says no checkpoint.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidSignedCheckpoint> {
        Self::new(SignedNote::parse(bytes)?)
    }

    /// The note.
    pub fn note(&self) -> &SignedNote {
        &self.note
    }

    /// What it claims.
    pub fn unverified(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Checks the origin, and that the log and enough witnesses signed.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub fn verify(
        &self,
        policy: &CheckpointPolicy,
        ed25519: &dyn Ed25519Verifier,
    ) -> Result<VerifiedCheckpoint, CheckpointError> {
        if *self.checkpoint.origin() != policy.origin {
            let found = self.checkpoint.origin().clone();
            return Err(CheckpointError::OtherLog { expected: policy.origin.clone(), found });
        }
        let signed = self.note.verify(&policy.keys, ed25519)?;
        if !signed.iter().any(|signed| signed.key.kind() == NoteKeyKind::Ed25519) {
            return Err(CheckpointError::NotSignedByLog);
        }
        let found = witnesses_of(&signed).len();
        if found < policy.quorum {
            return Err(CheckpointError::TooFewWitnesses { found, quorum: policy.quorum });
        }
        Ok(VerifiedCheckpoint { signed_checkpoint: self.clone(), signed })
    }
}

impl fmt::Display for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note.fmt(f)
    }
}

/// A checkpoint that a policy believes. There is no other way to come by one than [`SignedCheckpoint::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCheckpoint {
    signed_checkpoint: SignedCheckpoint,
    signed: Vec<NoteSigned>,
}

impl VerifiedCheckpoint {
    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.signed_checkpoint.checkpoint
    }

    /// The checkpoint with all its signatures.
    pub fn signed_checkpoint(&self) -> &SignedCheckpoint {
        &self.signed_checkpoint
    }

    /// The signatures that were verified, in order of their lines.
    pub fn signed(&self) -> &[NoteSigned] {
        &self.signed
    }

    /// The witnesses among them.
    pub fn witnesses(&self) -> BTreeSet<&NoteKeyName> {
        witnesses_of(&self.signed)
    }
}

/// Why a checkpoint is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// It is of another log.
    #[error("the checkpoint is of the log `{found}`, not `{expected}`")]
    OtherLog {
        /// The log that was expected.
        expected: Origin,
        /// The log that it claims.
        found: Origin,
    },
    /// A signature of a known key does not verify, or none is there.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Witnesses signed it, and the log did not.
    #[error("the log did not sign the checkpoint")]
    NotSignedByLog,
    /// Too few witnesses signed it.
    #[error("{found} witnesses signed the checkpoint, {quorum} are demanded")]
    TooFewWitnesses {
        /// How many did.
        found: usize,
        /// How many are demanded.
        quorum: usize,
    },
}

/// Bytes that are no signed checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSignedCheckpoint {
    /// They are no note.
    #[error(transparent)]
    Note(#[from] InvalidNote),
    /// The note says no checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] InvalidCheckpoint),
}

fn check_kind(keys: &VerifierKeys, kind: NoteKeyKind) -> Result<(), InvalidPolicy> {
    match keys.iter().find(|key| key.kind() != kind) {
        Some(key) => Err(InvalidPolicy::WrongKind { name: key.name().clone() }),
        None => Ok(()),
    }
}

fn witnesses_of(signed: &[NoteSigned]) -> BTreeSet<&NoteKeyName> {
    let cosigned = signed.iter().filter(|signed| signed.key.kind() == NoteKeyKind::Cosignature);
    cosigned.map(|signed| signed.key.name()).collect()
}
