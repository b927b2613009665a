use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use pganalytics_core::error::Retry;
use pganalytics_store::postgres::StoreError;

use crate::wiring::WiringError;

/// What the program's exit codes mean (sysexits.h).
pub(super) const CODES: &str = "Exit codes: 0 done, 1 not done for a reason that was printed, 2 wrong arguments, \
     3 the audit log is not what was sealed, \
     4 it is sealed too late, 69 something that is needed cannot be reached, 70 a mistake of the program, 78 wrong configuration.";

/// Why a command was not done.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// Something that the caller asked for cannot be done.
    pub fn refused(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code: 1, error: error.into() }
    }

    /// Something was verified, and is not as it should be.
    pub fn found(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code: 3, error: error.into() }
    }

    /// Something was verified and is as it should be, but late.
    pub fn overdue(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code: 4, error: error.into() }
    }

    /// Something that is needed cannot be reached.
    pub fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code: 69, error: error.into() }
    }

    /// Something that was not done: whether that may pass says how it ends.
    pub fn of(retry: Retry, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        match retry {
            Retry::Later => Self::unavailable(error),
            Retry::Never => Self::refused(error),
        }
    }

    /// A mistake of the program.
    pub fn internal(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code: 70, error: error.into() }
    }

    /// The configuration is wrong.
    pub fn configuration(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code: 78, error: error.into() }
    }

    /// Says on standard error what is wrong, with all causes.
    #[expect(
        clippy::print_stderr,
        reason = "logging may not be set up, and this is for whoever typed the command"
    )]
    pub fn report(&self) -> ExitCode {
        eprintln!("error: {}", self.error);
        let mut cause = self.error.source();
        while let Some(error) = cause {
            eprintln!("  because: {error}");
            cause = error.source();
        }
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::of(error.retry(), error)
    }
}

impl From<WiringError> for Failure {
    fn from(error: WiringError) -> Self {
        match error.retry() {
            Retry::Later => Self::unavailable(error),
            Retry::Never => Self::configuration(error),
        }
    }
}
