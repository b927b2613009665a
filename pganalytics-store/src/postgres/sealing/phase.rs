use std::fmt;
use std::str::FromStr;

use pganalytics_core::error::BackendError;
use sqlx::PgConnection;

use crate::postgres::error::StoreError;

/// How far the change from plain to sealed columns is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EncryptionPhase {
    /// Both columns are written, since servers of before read the plain one.
    Dual,
    /// The sealed columns alone are written and read.
    Sealed,
    /// There are no plain columns any more.
    Final,
}

impl EncryptionPhase {
    /// Its name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dual => "dual",
            Self::Sealed => "sealed",
            Self::Final => "final",
        }
    }
}

/// What a database says about the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncryptionState {
    /// How far it is.
    pub phase: EncryptionPhase,
    /// Whether the tables have been written anew, without what plain columns left in them.
    pub is_rewritten: bool,
}

impl EncryptionState {
    /// Asks a migrated database.
    ///
    /// # Errors
    /// When PostgreSQL cannot answer.
    pub async fn load(connection: &mut PgConnection) -> Result<Self, StoreError> {
        let (phase, is_rewritten): (String, bool) =
            sqlx::query_as("SELECT phase, rewritten_at IS NOT NULL FROM column_encryption")
                .fetch_one(connection)
                .await?;
        let phase = phase.parse().map_err(|error| BackendError::never("postgres", error))?;
        Ok(Self { phase, is_rewritten })
    }
}

impl fmt::Display for EncryptionPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no phase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no phase of encryption")]
pub struct UnknownPhase(String);

impl FromStr for EncryptionPhase {
    type Err = UnknownPhase;

    fn from_str(text: &str) -> Result<Self, UnknownPhase> {
        let phases = [Self::Dual, Self::Sealed, Self::Final];
        phases.into_iter().find(|phase| phase.as_str() == text).ok_or_else(|| UnknownPhase(text.into()))
    }
}
