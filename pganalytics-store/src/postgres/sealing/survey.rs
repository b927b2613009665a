use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::column::{COLUMNS, ColumnSql};
use super::phase::{EncryptionPhase, EncryptionState};
use super::rows;
use crate::postgres::database::Database;
use crate::postgres::error::StoreError;
use crate::postgres::running_servers::{self, RunningServer};

/// A server that has been silent for so long is gone.
pub(super) const SILENCE_MAX: TimeDelta = TimeDelta::seconds(60);

/// How far the change is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EncryptionSurvey {
    /// The phase of the database.
    pub phase: EncryptionPhase,
    /// Whether the tables have been written anew without what plain columns left in them.
    pub is_rewritten: bool,
    /// The columns.
    pub columns: Vec<ColumnSurvey>,
    /// The servers that are alive.
    pub servers: Vec<RunningServer>,
}

/// How far a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnSurvey {
    /// Its table.
    pub table: &'static str,
    /// Its name.
    pub column: &'static str,
    /// Rows that are yet to be sealed.
    pub plain: u64,
    /// Rows that are sealed.
    pub sealed: u64,
}

impl EncryptionSurvey {
    /// How far the change is at this time. Needs no keys and changes nothing.
    ///
    /// # Errors
    /// When PostgreSQL cannot answer.
    pub async fn of(database: &Database, now: DateTime<Utc>) -> Result<Self, StoreError> {
        let mut connection = database.read().await?;
        let EncryptionState { phase, is_rewritten } = EncryptionState::load(&mut connection).await?;
        let mut columns = Vec::new();
        for column in COLUMNS {
            columns.push(survey_of(&mut connection, column, phase).await?);
        }
        let servers = running_servers::list(&mut connection, now - SILENCE_MAX).await?;
        Ok(Self { phase, is_rewritten, columns, servers })
    }

    /// Whether some column holds a value that is sealed and not in plain text beside it. `false` for a database that has no sealed
    /// columns at all.
    ///
    /// # Errors
    /// When PostgreSQL cannot answer.
    pub async fn is_anything_sealed(database: &Database) -> Result<bool, StoreError> {
        let mut connection = database.read().await?;
        let migrated: bool = sqlx::query_scalar("SELECT to_regclass('column_encryption') IS NOT NULL")
            .fetch_one(&mut *connection)
            .await?;
        if !migrated {
            return Ok(false);
        }
        let EncryptionState { phase, .. } = EncryptionState::load(&mut connection).await?;
        for column in COLUMNS {
            let is_sealed = match phase {
                EncryptionPhase::Final => survey_of(&mut connection, column, phase).await?.sealed > 0,
                _ => !rows::page::<(Uuid, Vec<u8>)>(&mut connection, column.sealed_alone, Uuid::nil(), 1)
                    .await?
                    .is_empty(),
            };
            if is_sealed {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// How far a column is.
pub(super) async fn survey_of(
    connection: &mut PgConnection,
    column: &'static ColumnSql,
    phase: EncryptionPhase,
) -> Result<ColumnSurvey, StoreError> {
    let statement = if phase == EncryptionPhase::Final { column.count_sealed } else { column.count };
    let (plain, sealed): (i64, i64) = sqlx::query_as(statement).fetch_one(connection).await?;
    Ok(ColumnSurvey {
        table: column.field.table,
        column: column.field.column,
        plain: plain.unsigned_abs(),
        sealed: sealed.unsigned_abs(),
    })
}
