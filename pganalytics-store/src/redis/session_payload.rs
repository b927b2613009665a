use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use pganalytics_core::error::{BackendError, PortError};
use pganalytics_core::keys::{
    Ciphertext, FieldCipher, FieldCipherError, FieldRef, OpenRequest, SealRequest, row_named,
};
use pganalytics_core::session::{Session, SessionError, SessionId};
use uuid::Uuid;

use super::error::BACKEND;

/// What the data keys of sealed sessions are for.
pub(super) const PURPOSE: &str = "sessions";

/// What never changes, then the application's data.
const FIELDS: [FieldRef; 2] = [
    FieldRef { table: "sessions", column: "document", purpose: PURPOSE },
    FieldRef { table: "sessions", column: "data", purpose: PURPOSE },
];

/// The two texts of a session that Redis need not understand, as they are or sealed for their session.
#[derive(Clone, Debug, Default)]
pub(super) struct SessionPayload(Option<Arc<dyn FieldCipher>>);

impl SessionPayload {
    pub(super) fn sealed_by(cipher: Arc<dyn FieldCipher>) -> Self {
        Self(Some(cipher))
    }

    /// What Redis keeps of these texts.
    pub(super) async fn close(&self, id: SessionId, texts: [String; 2]) -> Result<[String; 2], SessionError> {
        let Some(cipher) = &self.0 else { return Ok(texts) };
        let row = row(id);
        let [document, data] =
            [0, 1].map(|part| SealRequest { field: FIELDS[part], row, value: texts[part].as_bytes() });
        let sealed = cipher.seal_batch(&[document, data]).await.map_err(unavailable)?;
        let mut sealed = sealed.iter().map(|sealed| STANDARD_NO_PAD.encode(&sealed.0));
        let mut next = || sealed.next().expect("a batch yields one result for each request");
        Ok([next(), next()])
    }

    /// The session that they describe; `None` if they do not open, so that its user signs in anew: they are not sealed though
    /// they should be, somebody changed them, or their key is gone.
    pub(super) async fn open(
        &self,
        id: SessionId,
        [document, data]: [&str; 2],
    ) -> Result<Option<Session>, SessionError> {
        let Some(cipher) = &self.0 else { return parse(document.as_bytes(), data.as_bytes()).map(Some) };
        let decoded = [document, data].map(|text| STANDARD_NO_PAD.decode(text));
        let [Ok(document), Ok(data)] = decoded else { return Ok(refused(id)) };
        let (sealed, row) = ([Ciphertext(document.into()), Ciphertext(data.into())], row(id));
        let requests = [0, 1].map(|part| OpenRequest { field: FIELDS[part], row, ciphertext: &sealed[part] });
        let opened = cipher.open_batch(&requests).await.map_err(unavailable)?;
        match opened.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(opened) => parse(opened[0].expose(), opened[1].expose()).map(Some),
            Err(FieldCipherError::Undecryptable { .. }) => Ok(refused(id)),
            Err(error) => Err(unavailable(error)),
        }
    }
}

fn parse(document: &[u8], data: &[u8]) -> Result<Session, SessionError> {
    let corrupt = |error: serde_json::Error| SessionError::Backend(BackendError::never(BACKEND, error));
    let mut session: Session = serde_json::from_slice(document).map_err(corrupt)?;
    session.data = serde_json::from_slice(data).map_err(corrupt)?;
    Ok(session)
}

fn refused(id: SessionId) -> Option<Session> {
    tracing::warn!(session = %id, "a session in Redis does not open");
    None
}

/// Ids of sessions are longer than those of rows.
fn row(id: SessionId) -> Uuid {
    row_named(id.to_string().as_bytes())
}

fn unavailable(error: FieldCipherError) -> SessionError {
    SessionError::Backend(BackendError { backend: BACKEND, retry: error.retry(), source: Box::new(error) })
}
