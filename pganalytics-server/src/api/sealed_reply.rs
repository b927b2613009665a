use std::sync::Arc;

use bytes::Bytes;
use pganalytics_core::idempotency::{Fingerprint, IdempotencyKey, StoredResponse};
use pganalytics_core::keys::{
    Ciphertext, FieldCipher, FieldCipherError, FieldRef, OpenRequest, SealRequest, row_named,
};
use uuid::Uuid;

use super::ApiError;

/// Replies that hold a secret (a token that is shown once) are kept in this form alone.
const REPLY: FieldRef =
    FieldRef { table: "idempotency_keys", column: "reply", purpose: ReplySealer::PURPOSE };

/// Seals the replies that a retry is to get again but nobody else may read.
#[derive(Clone, Debug)]
pub(crate) struct ReplySealer(Arc<dyn FieldCipher>);

impl ReplySealer {
    /// What its data keys are for.
    pub(crate) const PURPOSE: &str = "replies";

    pub(crate) fn new(cipher: Arc<dyn FieldCipher>) -> Self {
        Self(cipher)
    }

    /// Fetches the key, so that sealing waits for nothing while a transaction is open.
    ///
    /// # Errors
    /// 503 when it cannot be had.
    pub(crate) async fn prepare(&self) -> Result<(), ApiError> {
        let nothing = SealRequest { field: REPLY, row: Uuid::nil(), value: b"" };
        self.0.seal_batch(&[nothing]).await.map(drop).map_err(ApiError::unavailable)
    }

    /// # Errors
    /// 503 when the key cannot be had.
    pub(crate) async fn seal(
        &self,
        key: &IdempotencyKey,
        response: &StoredResponse,
    ) -> Result<Bytes, ApiError> {
        let value = response.to_bytes();
        let request = SealRequest { field: REPLY, row: row(key), value: &value };
        let sealed = self.0.seal_batch(&[request]).await.map_err(ApiError::unavailable)?;
        let Ciphertext(sealed) = sealed.into_iter().next().expect("a batch of one has one result");
        Ok(sealed)
    }

    /// The response again; `None` if these bytes are none, or their key is gone.
    ///
    /// # Errors
    /// 503 when the key cannot be had.
    pub(crate) async fn open(
        &self,
        key: &IdempotencyKey,
        sealed: Bytes,
    ) -> Result<Option<StoredResponse>, ApiError> {
        let ciphertext = &Ciphertext(sealed);
        let request = OpenRequest { field: REPLY, row: row(key), ciphertext };
        let opened = self.0.open_batch(&[request]).await.map_err(ApiError::unavailable)?;
        match opened.into_iter().next().expect("a batch of one has one result") {
            Ok(value) => Ok(StoredResponse::from_bytes(Bytes::copy_from_slice(value.expose()))),
            Err(FieldCipherError::Undecryptable { .. }) => {
                tracing::warn!("a sealed reply cannot be opened");
                Ok(None)
            }
            Err(error) => Err(ApiError::unavailable(error)),
        }
    }
}

/// Keys are texts of the callers; a reply is bound to a digest of its own.
fn row(key: &IdempotencyKey) -> Uuid {
    row_named(&Fingerprint::of([key.scope().as_bytes(), key.key().as_bytes()]).0)
}
