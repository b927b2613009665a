use std::time::Duration;

use pganalytics_core::cache::CacheError;
use pganalytics_core::error::{BackendError, Retry};
use pganalytics_core::notifier::NotifierError;
use pganalytics_core::session::SessionError;
use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::config::RedisAddress;

/// The name that errors of Redis carry as their backend.
pub(super) const BACKEND: &str = "redis";

/// Redis cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
#[error("setting `{setting}` of redis: {reason}")]
#[non_exhaustive]
pub struct RedisConfigError {
    /// The setting.
    pub setting: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    #[error("no connection within {0:?}")]
    Connect(Duration),
    #[error("it failed before and is left alone for another {0:?}")]
    LeftAlone(Duration),
    #[error("{0} is a replica")]
    Replica(RedisAddress),
    #[error("no sentinel knows a master `{0}`")]
    UnknownMaster(String),
    #[error("another server is the master now")]
    Elsewhere,
    #[error("the runtime is shutting down")]
    Stopped,
    #[error("{0}")]
    Driver(#[from] RedisError),
}

/// What a failure says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It works, and refused the call.
    Works,
    /// It works, but is not, or not yet, the one to ask.
    Elsewhere,
    /// It, or the way to it, is broken.
    Broken,
}

impl RedisConfigError {
    pub(super) fn new(setting: &'static str, reason: impl ToString) -> Self {
        Self { setting, reason: reason.to_string() }
    }
}

impl Failure {
    pub(super) fn verdict(&self) -> Verdict {
        let Self::Driver(error) = self else { return Verdict::Broken };
        match error.kind() {
            ErrorKind::Server(
                ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown,
            ) => Verdict::Elsewhere,
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType => Verdict::Works,
            _ => Verdict::Broken,
        }
    }

    fn retry(&self) -> Retry {
        let Self::Driver(error) = self else { return Retry::Later };
        match error.kind() {
            ErrorKind::AuthenticationFailed
            | ErrorKind::UnexpectedReturnType
            | ErrorKind::InvalidClientConfig
            | ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::CrossSlot) => Retry::Never,
            // What the driver has no kind for. Full is not for ever; a wrong type or password stays wrong.
            ErrorKind::Extension => match error.code() {
                Some("OOM" | "BUSY" | "MISCONF" | "NOREPLICAS" | "UNBLOCKED") => Retry::Later,
                _ => Retry::Never,
            },
            ErrorKind::Server(ServerErrorKind::ResponseError) => Retry::Never,
            _ => Retry::Later,
        }
    }

    pub(super) fn into_backend(self) -> BackendError {
        let retry = self.retry();
        let source: Box<dyn std::error::Error + Send + Sync> = match self {
            Self::Driver(error) => Box::new(error),
            other => Box::new(other),
        };
        BackendError { backend: BACKEND, retry, source }
    }
}

impl From<Failure> for CacheError {
    fn from(failure: Failure) -> Self {
        Self::Backend(failure.into_backend())
    }
}

impl From<Failure> for NotifierError {
    fn from(failure: Failure) -> Self {
        Self::Backend(failure.into_backend())
    }
}

impl From<Failure> for SessionError {
    fn from(failure: Failure) -> Self {
        Self::Backend(failure.into_backend())
    }
}

/// Whether a node of a cluster refused a command without running it, so that it may be sent again.
pub(super) fn refused_unrun(error: &RedisError) -> bool {
    let kind = error.kind();
    let server = matches!(
        kind,
        ErrorKind::Server(
            ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::BusyLoading
        )
    );
    server || kind == ErrorKind::ClusterConnectionNotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(line: &str) -> Failure {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        Failure::Driver(value.extract_error().unwrap_err())
    }

    #[test]
    fn answers_are_told_from_breakdowns() {
        let cases = [
            ("OOM command not allowed when used memory > 'maxmemory'.", Retry::Later, Verdict::Works),
            ("WRONGTYPE Operation against a key", Retry::Never, Verdict::Works),
            ("NOPERM this user has no permissions", Retry::Never, Verdict::Works),
            ("READONLY You can't write against a read only replica.", Retry::Later, Verdict::Elsewhere),
            ("MASTERDOWN Link with MASTER is down", Retry::Later, Verdict::Elsewhere),
            ("LOADING Redis is loading the dataset in memory", Retry::Later, Verdict::Elsewhere),
        ];
        for (line, retry, verdict) in cases {
            let failure = answer(line);
            assert_eq!((failure.retry(), failure.verdict()), (retry, verdict), "{line}");
        }
        let silent = Failure::Deadline(Duration::from_millis(1));
        assert_eq!((silent.retry(), silent.verdict()), (Retry::Later, Verdict::Broken));
        let refused =
            Failure::Driver(RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)));
        assert_eq!((refused.retry(), refused.verdict()), (Retry::Later, Verdict::Broken));
    }
}
