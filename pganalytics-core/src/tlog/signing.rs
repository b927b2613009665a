use std::sync::Arc;

use crate::clock::Clock;
use crate::signing::{PublicKey, SignError, SignatureAlgorithm, Signer, SigningKeyId};
use crate::tlog::cosignature::join_cosignature;
use crate::tlog::{
    InvalidNote, NoteKeyKind, NoteKeyName, NoteSignature, NoteText, SignedNote, VerifierKey, cosigned_message,
};

/// Signs notes under a name, with the current key of a [`Signer`].
///
/// While one log key follows another, let both sign: make a note with the one and add a signature of the other. The signer
/// should have this use only: whoever gets it to sign another text of their choice gets a checkpoint of their choice signed.
#[derive(Clone, Debug)]
pub struct NoteSigner {
    line: LineSigner,
}

impl NoteSigner {
    /// Signs under this name; for a checkpoint it should be the log's origin.
    pub fn new(name: NoteKeyName, signer: Arc<dyn Signer>) -> Self {
        Self { line: LineSigner { name, kind: NoteKeyKind::Ed25519, signer } }
    }

    /// A signature line for the text.
    ///
    /// # Errors
    /// When the signer could not sign, or not with an Ed25519 key that it lists.
    pub async fn sign(&self, text: &NoteText) -> Result<NoteSignature, SignNoteError> {
        let (key, signature) = self.line.sign(text.as_str().as_bytes()).await?;
        Ok(NoteSignature { name: key.name().clone(), id: key.id(), bytes: signature.to_vec() })
    }

    /// A note with one signature.
    ///
    /// # Errors
    /// As for [`sign`](Self::sign), or when the note would be too large.
    pub async fn sign_note(&self, text: NoteText) -> Result<SignedNote, SignNoteError> {
        let signature = self.sign(&text).await?;
        Ok(SignedNote::new(text, signature)?)
    }

    /// Every key whose signatures are still to be accepted, for who verifies.
    ///
    /// # Errors
    /// When the signer could not answer.
    pub async fn verifier_keys(&self) -> Result<Vec<VerifierKey>, SignNoteError> {
        self.line.verifier_keys().await
    }
}

/// Cosigns checkpoints of other logs (c2sp.org/tlog-cosignature), with the current key of a [`Signer`] that has no other use.
///
/// It signs what it is given. Before, a witness has to see that the checkpoint is signed by its log and
/// [grew](crate::tlog::Checkpoint::check_growth) from the last one that it cosigned, and to store it in the same atomic step.
#[derive(Clone, Debug)]
pub struct Cosigner {
    line: LineSigner,
    clock: Arc<dyn Clock>,
}

impl Cosigner {
    /// Cosigns under this name.
    pub fn new(name: NoteKeyName, signer: Arc<dyn Signer>, clock: Arc<dyn Clock>) -> Self {
        Self { line: LineSigner { name, kind: NoteKeyKind::Cosignature, signer }, clock }
    }

    /// A signature line for the text of a checkpoint, as of now.
    ///
    /// # Errors
    /// When the signer could not sign, or not with an Ed25519 key that it lists.
    pub async fn cosign(&self, checkpoint: &NoteText) -> Result<NoteSignature, SignNoteError> {
        // A clock before 1970 is wrong anyway.
        let seconds = u64::try_from(self.clock.now().timestamp()).unwrap_or(0);
        let (key, signature) = self.line.sign(&cosigned_message(checkpoint, seconds)).await?;
        let bytes = join_cosignature(seconds, &signature);
        Ok(NoteSignature { name: key.name().clone(), id: key.id(), bytes })
    }

    /// Every key whose cosignatures are still to be accepted, for who verifies.
    ///
    /// # Errors
    /// When the signer could not answer.
    pub async fn verifier_keys(&self) -> Result<Vec<VerifierKey>, SignNoteError> {
        self.line.verifier_keys().await
    }
}

/// Why a note was not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignNoteError {
    /// The signer could not answer.
    #[error("the note cannot be signed")]
    Sign(#[from] SignError),
    /// The signer signed with a key that is no Ed25519 key or that it does not list.
    #[error("the signer has no ed25519 key `{key}`")]
    UnusableKey {
        /// The key that the signature names.
        key: SigningKeyId,
    },
    /// The note would be too large.
    #[error("the signature does not fit on the note")]
    Note(#[from] InvalidNote),
}

#[derive(Clone, Debug)]
struct LineSigner {
    name: NoteKeyName,
    kind: NoteKeyKind,
    signer: Arc<dyn Signer>,
}

impl LineSigner {
    async fn sign(&self, message: &[u8]) -> Result<(VerifierKey, [u8; 64]), SignNoteError> {
        let signature = self.signer.sign(message).await?;
        let keys = self.signer.public_keys().await?;
        let key = keys.iter().find(|key| key.id == signature.key).and_then(|key| self.verifier_key(key));
        let bytes = signature.bytes.try_into().ok();
        key.zip(bytes).ok_or(SignNoteError::UnusableKey { key: signature.key })
    }

    async fn verifier_keys(&self) -> Result<Vec<VerifierKey>, SignNoteError> {
        let keys = self.signer.public_keys().await?;
        Ok(keys.iter().filter_map(|key| self.verifier_key(key)).collect())
    }

    fn verifier_key(&self, key: &PublicKey) -> Option<VerifierKey> {
        if key.algorithm != SignatureAlgorithm::Ed25519 {
            return None;
        }
        let public_key = key.bytes.as_slice().try_into().ok()?;
        Some(VerifierKey::new(self.name.clone(), self.kind, public_key))
    }
}
