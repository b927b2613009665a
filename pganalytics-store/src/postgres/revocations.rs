//! Revocations, as every server learns of them: rows written in the transaction that revokes, by triggers on the tables
//! of users, collectors, API tokens and sessions.

use std::time::Duration;

use chrono::{DateTime, Utc};
use pganalytics_core::error::BackendError;
use pganalytics_core::revocation::Revoked;
use sqlx::{FromRow, PgConnection};

use super::error::StoreError;

/// The channel on which a commit that revokes something is announced.
pub const CHANNEL: &str = "revocations";

/// What PostgreSQL can say about which transactions it has shown so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationMark {
    /// A `pg_snapshot`.
    snapshot: String,
    /// Another one means that the server is another one, which may have lost transactions and give out their ids again.
    timeline: String,
    /// By PostgreSQL's clock.
    at: DateTime<Utc>,
}

/// What was revoked since a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RevokedSince {
    /// What to read on from.
    pub mark: RevocationMark,
    /// `None` if that cannot be told: the mark is of another server.
    pub revoked: Option<Vec<Revoked>>,
}

impl RevocationMark {
    /// How much later than another it was taken, by PostgreSQL's clock.
    pub fn since(&self, earlier: &Self) -> Duration {
        (self.at - earlier.at).to_std().unwrap_or_default()
    }
}

#[derive(FromRow)]
struct SinceRow {
    snapshot: String,
    timeline: String,
    at: DateTime<Utc>,
    kind: Option<String>,
    subject: Option<String>,
}

/// Records a revocation of something that is not kept in this database, with the commit of the caller's transaction.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn record(connection: &mut PgConnection, revoked: &Revoked) -> Result<(), StoreError> {
    let (kind, subject) = match revoked {
        Revoked::Session(id) => ("session", id.to_string()),
        Revoked::User(id) => ("user", id.to_string()),
        Revoked::Collector(id) => ("collector", id.to_string()),
        Revoked::ApiToken(id) => ("api_token", id.to_string()),
        other => return Err(BackendError::never("postgres", format!("{other:?} cannot be recorded")).into()),
    };
    sqlx::query(
        "WITH recorded AS (INSERT INTO revocations (kind, subject) VALUES ($1, $2)) \
         SELECT pg_notify('pganalytics_revocations', '')",
    )
    .bind(kind)
    .bind(subject)
    .execute(connection)
    .await?;
    Ok(())
}

/// A mark to begin with: everything that is committed from now on is after it.
///
/// # Errors
/// When PostgreSQL cannot answer or is a standby.
pub async fn mark(connection: &mut PgConnection) -> Result<RevocationMark, StoreError> {
    let (snapshot, timeline, at) = sqlx::query_as(
        "SELECT pg_current_snapshot()::text, left(pg_walfile_name(pg_current_wal_lsn()), 8), clock_timestamp()",
    )
    .fetch_one(connection)
    .await?;
    Ok(RevocationMark { snapshot, timeline, at })
}

/// What was committed since the mark, in whatever order its transactions began: one small query.
///
/// # Errors
/// When PostgreSQL cannot answer, is a standby, or holds a row that this program does not understand.
pub async fn since(connection: &mut PgConnection, mark: &RevocationMark) -> Result<RevokedSince, StoreError> {
    let rows: Vec<SinceRow> = sqlx::query_as(
        "SELECT now.snapshot::text, now.timeline, clock_timestamp() AS at, r.kind, r.subject \
         FROM (SELECT pg_current_snapshot() AS snapshot, \
                   left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline) AS now \
         LEFT JOIN revocations AS r ON r.xid >= pg_snapshot_xmin($1::pg_snapshot) \
             AND NOT pg_visible_in_snapshot(r.xid, $1::pg_snapshot) \
         ORDER BY r.id",
    )
    .bind(&mark.snapshot)
    .fetch_all(connection)
    .await?;
    let Some(first) = rows.first() else {
        return Err(BackendError::never("postgres", "a left join yielded nothing").into());
    };
    let (snapshot, timeline) = (first.snapshot.clone(), first.timeline.clone());
    let new = RevocationMark { snapshot, timeline, at: first.at };
    let is_same_server = new.timeline == mark.timeline;
    let revoked = is_same_server.then(|| rows.iter().filter_map(SinceRow::revoked).collect());
    Ok(RevokedSince { mark: new, revoked: revoked.transpose()? })
}

/// Removes the revocations that were to be seen at the mark, and says how many. Whoever still reads on from an older one
/// would miss them.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn sweep(connection: &mut PgConnection, seen: &RevocationMark) -> Result<u64, StoreError> {
    let swept = sqlx::query("DELETE FROM revocations WHERE pg_visible_in_snapshot(xid, $1::pg_snapshot)")
        .bind(&seen.snapshot)
        .execute(connection)
        .await?;
    Ok(swept.rows_affected())
}

impl SinceRow {
    fn revoked(&self) -> Option<Result<Revoked, StoreError>> {
        let (kind, subject) = self.kind.as_deref().zip(self.subject.as_deref())?;
        Some(parse(kind, subject).ok_or_else(|| {
            BackendError::never("postgres", format!("revocation of a {kind} cannot be understood")).into()
        }))
    }
}

fn parse(kind: &str, subject: &str) -> Option<Revoked> {
    match kind {
        "session" => subject.parse().ok().map(Revoked::Session),
        "user" => subject.parse().ok().map(Revoked::User),
        "collector" => subject.parse().ok().map(Revoked::Collector),
        "api_token" => subject.parse().ok().map(Revoked::ApiToken),
        _ => None,
    }
}
