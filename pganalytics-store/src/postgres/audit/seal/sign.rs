use pganalytics_core::signing::SignError;
use pganalytics_core::tlog::{Checkpoint, NoteSigner, SignNoteError, SignedCheckpoint, SignedNote};

use super::AuditSealError;

/// A checkpoint that is signed by all of them, once with each key.
pub(super) async fn sign(
    checkpoint: &Checkpoint,
    signers: &[NoteSigner],
) -> Result<SignedCheckpoint, AuditSealError> {
    let (first, others) = signers.split_first().ok_or(SignNoteError::from(SignError::NoActiveKey))?;
    let mut note = first.sign_note(checkpoint.to_text()?).await?;
    for signer in others {
        note = with_signature_of(signer, note).await?;
    }
    Ok(SignedCheckpoint::new(note)?)
}

async fn with_signature_of(signer: &NoteSigner, note: SignedNote) -> Result<SignedNote, AuditSealError> {
    let signature = signer.sign(note.unverified_text()).await?;
    if note.signatures().iter().any(|known| known.id == signature.id) {
        return Ok(note);
    }
    Ok(note.with_signature(signature)?)
}
