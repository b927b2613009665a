use pganalytics_core::error::BackendError;

use super::StoreError;

/// Runs to its end also when nobody waits for it any more.
///
/// The driver gives a connection back to the pool in the middle of a transaction that is beginning, or of COPY, when the future is
/// dropped then; whoever gets it next reads the answers to what came before.
pub(super) async fn uninterrupted<T, E>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(stopped) => Err(StoreError::from(BackendError::later("postgres", stopped)).into()),
    }
}
