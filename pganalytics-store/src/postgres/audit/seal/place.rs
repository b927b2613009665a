use pganalytics_core::tlog::{Origin, SignedCheckpoint};
use sqlx::{FromRow, PgConnection};

use super::AuditSealError;
use super::snapshot::SealSnapshot;

/// Where the log stands: its era, and the last seal of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) era: i16,
    pub(super) last: Option<LastSeal>,
}

/// The last seal of an era.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub(super) struct LastSeal {
    pub(super) number: i64,
    pub(super) rows_era: i16,
    pub(super) snapshot: String,
    pub(super) first_leaf: i64,
    pub(super) leaves: i64,
    pub(super) checkpoint: String,
    pub(super) published: bool,
}

impl Place {
    pub(super) fn size(&self) -> u64 {
        self.last.as_ref().map_or(0, LastSeal::end)
    }

    pub(super) fn next_number(&self) -> i64 {
        self.last.as_ref().map_or(1, |last| last.number + 1)
    }

    /// Reads it; nothing if the log was never begun.
    pub(super) async fn read(
        connection: &mut PgConnection,
        log: &Origin,
    ) -> Result<Option<Self>, AuditSealError> {
        let era = "SELECT era, origin, system_identifier, \
            (SELECT system_identifier FROM pg_control_system()) FROM audit_eras ORDER BY era DESC LIMIT 1";
        let era: Option<(i16, String, i64, i64)> =
            sqlx::query_as(era).fetch_optional(&mut *connection).await?;
        let Some((era, found, known, current)) = era else { return Ok(None) };
        let expected = format!("{log}/{era}");
        if found != expected {
            return Err(AuditSealError::OtherLog { expected, found });
        }
        if known != current {
            let reason = "it is another database cluster".into();
            return Err(AuditSealError::Behind { reason });
        }
        let last = LastSeal::read(connection, era).await?;
        Ok(Some(Self { era, last }))
    }
}

impl LastSeal {
    /// The last seal of an era, if it has any.
    pub(super) async fn read(
        connection: &mut PgConnection,
        era: i16,
    ) -> Result<Option<Self>, AuditSealError> {
        let last = "SELECT number, rows_era, snapshot::text, first_leaf, leaves, checkpoint, \
                published_at IS NOT NULL AS published \
             FROM audit_seals WHERE era = $1 ORDER BY number DESC LIMIT 1";
        Ok(sqlx::query_as(last).bind(era).fetch_optional(connection).await?)
    }

    pub(super) fn end(&self) -> u64 {
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        count(self.first_leaf) + count(self.leaves)
    }

    /// The checkpoint of the seal before it; nothing if it is the first.
    pub(super) async fn before(
        &self,
        connection: &mut PgConnection,
        era: i16,
    ) -> Result<Option<SignedCheckpoint>, AuditSealError> {
        let before =
            "SELECT checkpoint FROM audit_seals WHERE era = $1 AND number < $2 ORDER BY number DESC LIMIT 1";
        let before: Option<String> =
            sqlx::query_scalar(before).bind(era).bind(self.number).fetch_optional(connection).await?;
        let damaged = AuditSealError::Damaged { era, number: self.number - 1 };
        before.map(|text| SignedCheckpoint::parse(text.as_bytes())).transpose().map_err(|_| damaged)
    }

    pub(super) fn signed(&self, era: i16) -> Result<SignedCheckpoint, AuditSealError> {
        let damaged = AuditSealError::Damaged { era, number: self.number };
        SignedCheckpoint::parse(self.checkpoint.as_bytes()).map_err(|_| damaged)
    }
}

/// Begins the first log.
pub(super) async fn begin_first(connection: &mut PgConnection, log: &Origin) -> Result<(), AuditSealError> {
    let insert = sqlx::query(
        "INSERT INTO audit_eras (era, origin, system_identifier, opened_at) \
         SELECT 1, $1, system_identifier, clock_timestamp() FROM pg_control_system() ON CONFLICT DO NOTHING",
    );
    insert.bind(format!("{log}/1")).execute(connection).await?;
    Ok(())
}

/// What was seen of the rows of an era when they were sealed last before this seal.
pub(super) async fn seen_before(
    connection: &mut PgConnection,
    rows_era: i16,
    (era, number): (i16, i64),
) -> Result<SealSnapshot, AuditSealError> {
    let before = "SELECT snapshot::text FROM audit_seals WHERE rows_era = $1 AND (era, number) < ($2, $3) \
                  ORDER BY era DESC, number DESC LIMIT 1";
    let before: Option<String> =
        sqlx::query_scalar(before).bind(rows_era).bind(era).bind(number).fetch_optional(connection).await?;
    match before {
        None => Ok(SealSnapshot::nothing()),
        Some(text) => SealSnapshot::parse(&text).ok_or(AuditSealError::Damaged { era, number }),
    }
}

/// Whether rows of this era itself have been sealed in it: from then on, no others are.
pub(super) async fn has_own_seals(connection: &mut PgConnection, era: i16) -> Result<bool, AuditSealError> {
    let own = "SELECT EXISTS (SELECT FROM audit_seals WHERE era = $1 AND rows_era = $1)";
    Ok(sqlx::query_scalar(own).bind(era).fetch_one(connection).await?)
}
