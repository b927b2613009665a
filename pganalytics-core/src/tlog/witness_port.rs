use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{BackendError, PortError, Retry};
use crate::tlog::witness::parse_size;
use crate::tlog::{AddCheckpoint, NoteSignature, SignedNote, WitnessRefusal};

/// Somebody else who cosigns the checkpoints of a log (c2sp.org/tlog-witness), and never two histories of it.
///
/// # Contract
/// 1. `a_checkpoint_that_grew_is_cosigned`: A checkpoint that its log signed, with a proof that it grew from the one that was
///    cosigned last, is cosigned; so is the one that was cosigned last, again.
/// 2. `another_history_is_never_cosigned`: One that does not have the last one as its beginning is refused, also when it has the
///    same size, and changes nothing.
/// 3. `a_refusal_names_the_size_that_is_known`: One that goes on from another size than the last one has is refused with the size
///    that the last one has, zero if there is none.
/// 4. `strangers_are_refused`: A checkpoint that its log did not sign, or of a log that is not known, is refused.
/// 5. `of_two_histories_at_once_one_is_cosigned`: Judging and remembering are one atomic step, whoever else asks at the same
///    time.
///
/// Who asks verifies the cosignature, and asks again when there was no answer: it may have been cosigned all the same.
#[async_trait]
pub trait Witness: Debug + Send + Sync + 'static {
    /// The adapter, for logs and errors.
    fn name(&self) -> &'static str;

    /// Asks for a cosignature.
    ///
    /// # Errors
    /// When the witness cannot be reached or does not answer as a witness would.
    async fn add_checkpoint(&self, request: &AddCheckpoint) -> Result<WitnessVerdict, WitnessError>;
}

#[async_trait]
impl<W: Witness + ?Sized> Witness for Arc<W> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    async fn add_checkpoint(&self, request: &AddCheckpoint) -> Result<WitnessVerdict, WitnessError> {
        (**self).add_checkpoint(request).await
    }
}

#[async_trait]
impl<W: Witness + ?Sized> Witness for Box<W> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    async fn add_checkpoint(&self, request: &AddCheckpoint) -> Result<WitnessVerdict, WitnessError> {
        (**self).add_checkpoint(request).await
    }
}

/// What a witness answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessVerdict {
    /// These signature lines, unverified, one at least.
    Cosigned(Vec<NoteSignature>),
    /// It does not cosign.
    Refused(WitnessRefusal),
}

impl WitnessVerdict {
    /// Reads what a witness answered over HTTP: the status and the body. Nothing if no witness answers so.
    pub fn of_answer(request: &AddCheckpoint, status: u16, body: &[u8]) -> Option<Self> {
        Some(Self::Refused(match status {
            200 => return cosignatures(request, body).map(Self::Cosigned),
            403 => WitnessRefusal::NotSigned,
            404 => WitnessRefusal::UnknownLog,
            409 => WitnessRefusal::OtherSize { known: parse_size(body)? },
            422 => WitnessRefusal::Inconsistent,
            _ => return None,
        }))
    }
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// The witness did not answer, or not as a witness would.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl PortError for WitnessError {
    fn from_backend(error: BackendError) -> Self {
        Self::Backend(error)
    }

    fn retry(&self) -> Retry {
        let Self::Backend(error) = self;
        error.retry
    }
}

fn cosignatures(request: &AddCheckpoint, lines: &[u8]) -> Option<Vec<NoteSignature>> {
    let text = request.checkpoint().note().unverified_text().as_str();
    let note = [text.as_bytes(), b"\n", lines].concat();
    let note = SignedNote::parse(&note).ok()?;
    (note.unverified_text().as_str() == text).then(|| note.signatures().to_vec())
}
