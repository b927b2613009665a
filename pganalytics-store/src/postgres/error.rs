use std::error::Error;
use std::fmt;

use pganalytics_core::error::{BackendError, PortError, Retry};
use pganalytics_core::keys::FieldCipherError;
use sqlx::postgres::PgDatabaseError;

/// The name that errors of PostgreSQL carry as their backend.
const BACKEND: &str = "postgres";

/// Unique constraints and indexes whose violation is the caller's affair, and the field that it calls them by.
const UNIQUE: &[(&str, &str)] = &[
    ("users_pkey", "id"),
    ("users_username_key", "username"),
    ("users_email_key", "email"),
    ("external_identities_pkey", "identity"),
    ("collectors_node_identity_key", "node identity"),
    ("registration_secrets_secret_hash_key", "registration secret"),
    ("api_tokens_pkey", "api token"),
    ("api_tokens_digest_index_key", "api token"),
];

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another row already has this value.
    #[error("{what} is already taken")]
    Conflict {
        /// The field, in the caller's words.
        what: &'static str,
    },
    /// The row refers to one that does not exist (any more).
    #[error("a row that this one refers to does not exist ({constraint})")]
    MissingReference {
        /// The foreign key.
        constraint: String,
    },
    /// PostgreSQL cannot store U+0000 in text or jsonb.
    #[error("{field} contains the character U+0000")]
    InvalidText {
        /// The field, in the caller's words.
        field: &'static str,
    },
    /// A search for which there is no index, over too long a time.
    #[error("a search by {field} needs both ends of the time, at most {days} days apart")]
    UnboundedSearch {
        /// The field, in the caller's words.
        field: &'static str,
        /// How long the time may be, in days.
        days: i64,
    },
    /// A value could not be sealed or opened.
    #[error(transparent)]
    Cipher(#[from] FieldCipherError),
    /// PostgreSQL could not answer.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Cipher(error) => error.retry(),
            Self::Backend(error) => error.retry,
            _ => Retry::Never,
        }
    }

    /// The form in which port errors carry what the port has no variant for.
    pub fn into_backend(self) -> BackendError {
        match self {
            Self::Backend(error) => error,
            Self::Cipher(error) => {
                BackendError { backend: "field cipher", retry: error.retry(), source: Box::new(error) }
            }
            other => BackendError::never(BACKEND, other),
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match refusal(&error) {
            Some(refusal) => refusal,
            None => Self::Backend(backend_error(classify(&error), error)),
        }
    }
}

/// The driver's error, whose text already holds that of its cause.
#[derive(Debug)]
struct DriverError(sqlx::Error);

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for DriverError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source().and_then(Error::source)
    }
}

/// What the driver reported, told once in the chain of causes.
pub(super) fn backend_error(retry: Retry, error: sqlx::Error) -> BackendError {
    BackendError { backend: BACKEND, retry, source: Box::new(DriverError(error)) }
}

/// What of PostgreSQL's answers is about the values that the caller gave.
fn refusal(error: &sqlx::Error) -> Option<StoreError> {
    let error = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    match error.code() {
        "23505" => {
            let constraint = error.constraint()?;
            let (_, what) = UNIQUE.iter().find(|(name, _)| *name == constraint)?;
            Some(StoreError::Conflict { what })
        }
        "23503" => {
            Some(StoreError::MissingReference { constraint: error.constraint().unwrap_or("").to_owned() })
        }
        // character_not_in_repertoire and untranslatable_character: U+0000 is all that can still be wrong in a
        // Rust string. Repositories check their own fields first and name them.
        "22021" | "22P05" => Some(StoreError::InvalidText { field: "a text value" }),
        _ => None,
    }
}

fn classify(error: &sqlx::Error) -> Retry {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Retry::Later,
        sqlx::Error::Database(error) => classify_sqlstate(error.code().as_deref().unwrap_or("")),
        _ => Retry::Never,
    }
}

/// PostgreSQL documentation, appendix A: error codes.
fn classify_sqlstate(code: &str) -> Retry {
    // But not protocol_violation, by which a pooler refuses a start-up parameter: it will refuse it again.
    let passing_class = ["08", "53", "58"].iter().any(|class| code.starts_with(class)) && code != "08P01";
    let passing = matches!(
        code,
        // A standby that was promoted, or a primary that was demoted, under this connection.
        "25006"
            // idle_in_transaction_session_timeout
            | "25P03"
            // serialization_failure, statement_completion_unknown, deadlock_detected
            | "40001" | "40003" | "40P01"
            // object_in_use, lock_not_available
            | "55006" | "55P03"
            // query_canceled, admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout
            | "57014" | "57P01" | "57P02" | "57P03" | "57P05"
    );
    if passing_class || passing { Retry::Later } else { Retry::Never }
}

#[cfg(test)]
mod tests {
    use pganalytics_core::idempotency::IdempotencyError;
    use pganalytics_core::leader::LeaderError;

    use super::*;
    use crate::postgres::{CommitError, MigrateError};

    #[test]
    fn passing_troubles_are_told_from_lasting_ones() {
        for code in ["08006", "53300", "57P01", "57P03", "40001", "40P01", "55P03", "57014", "25006"] {
            assert_eq!(classify_sqlstate(code), Retry::Later, "{code}");
        }
        for code in ["08P01", "42P01", "42501", "28P01", "3D000", "23514", "22003", "XX000", ""] {
            assert_eq!(classify_sqlstate(code), Retry::Never, "{code}");
        }
    }

    #[test]
    fn lost_connection_may_be_tried_again() {
        let error = StoreError::from(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()));
        assert_eq!(error.retry(), Retry::Later);
        assert_eq!(error.into_backend().retry, Retry::Later);
        assert_eq!(StoreError::from(sqlx::Error::PoolTimedOut).retry(), Retry::Later);
    }

    fn chain(error: &(dyn Error + 'static)) -> Vec<String> {
        std::iter::successors(Some(error), |error| (*error).source()).map(ToString::to_string).collect()
    }

    #[test]
    fn chain_of_causes_says_each_thing_once() {
        let away = || sqlx::Error::Io(std::io::Error::other("connection reset"));
        let expected = ["postgres could not answer", "error communicating with database: connection reset"];
        assert_eq!(chain(&StoreError::from(away())), expected);
        assert_eq!(chain(&LeaderError::from(StoreError::from(away()))), expected);
        assert_eq!(chain(&MigrateError::from(StoreError::from(away()))), expected);
        assert_eq!(chain(&IdempotencyError::from(CommitError::Store(away().into()))), expected);
        let refused = StoreError::Conflict { what: "username" };
        assert_eq!(
            chain(&LeaderError::from(refused)),
            ["postgres could not answer", "username is already taken"]
        );
    }

    #[test]
    fn wrong_request_is_not_tried_again() {
        assert_eq!(StoreError::from(sqlx::Error::RowNotFound).retry(), Retry::Never);
        assert_eq!(StoreError::Conflict { what: "username" }.into_backend().retry, Retry::Never);
    }
}
