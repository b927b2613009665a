use std::io;

use pganalytics_core::audit::AuditError;
use pganalytics_core::error::{BackendError, Retry};
use tokio::task::spawn_blocking;

/// Runs file operations where they may block. They are finished also when the caller goes away.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match spawn_blocking(call).await {
        Ok(done) => done,
        Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
        Err(stopped) => Err(io::Error::other(stopped)),
    }
}

/// A full disk is made room on, and a mount comes back; what is wrong with the path itself stays wrong.
pub(super) fn backend(name: &'static str, error: io::Error) -> AuditError {
    let lasting = matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidFilename
    );
    let retry = if lasting { Retry::Never } else { Retry::Later };
    AuditError::Backend(BackendError { backend: name, retry, source: error.into() })
}
