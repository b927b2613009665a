use chrono::{DateTime, Datelike, TimeDelta, Utc};
use pganalytics_core::audit::AuditEvent;
use pganalytics_core::ids::EventId;
use sqlx::PgConnection;

use super::conditions::{indexed, matching, personal};
use super::filter::{AuditCursor, AuditFilter};
use super::row::{EventRow, StoredEvent, columns};
use super::scan::{AuditScan, Stretch, read};
use crate::postgres::error::StoreError;

/// How far the time of an event may be from the time at which it is looked for.
const FIND_WITHIN: TimeDelta = TimeDelta::minutes(1);

/// Some events of a search, newest first.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AuditPage {
    /// The events.
    pub events: Vec<StoredEvent>,
    /// Where to go on; `None` at the end. A search that no index helps ends its page after so many events read, however few
    /// it found.
    pub next: Option<AuditCursor>,
}

/// The next events, newest first, up to `limit`, after the end of the page before. However large the log is, this reads a
/// bounded number of rows.
///
/// # Errors
/// When the search is unbounded or has U+0000 in a text, and when PostgreSQL could not answer, or holds what this program does
/// not know.
pub async fn search(
    connection: &mut PgConnection,
    filter: &AuditFilter<'_>,
    after: Option<AuditCursor>,
    limit: u32,
) -> Result<AuditPage, StoreError> {
    let mut scan = AuditScan::after(after);
    let events = scan.read(connection, filter, limit).await?;
    Ok(AuditPage { events, next: scan.place() })
}

/// Up to `limit` events, newest first, after the end of the page before. Personal fields that were erased are missing. This
/// reads on until it has found as many.
///
/// # Errors
/// As [`search`].
pub async fn list(
    connection: &mut PgConnection,
    filter: &AuditFilter<'_>,
    after: Option<AuditCursor>,
    limit: u32,
) -> Result<Vec<AuditEvent>, StoreError> {
    let found = read(connection, filter, Stretch { after, last: None }, i64::from(limit)).await?;
    Ok(found.into_iter().map(|stored| stored.event).collect())
}

/// The event of this id, which happened within a minute of `at`. Without that, the time in the id (RFC 9562, version 7) says
/// where to look; by an id of another version none is found.
///
/// # Errors
/// When PostgreSQL could not answer, or holds what this program does not know.
pub async fn find(
    connection: &mut PgConnection,
    id: EventId,
    at: Option<DateTime<Utc>>,
) -> Result<Option<StoredEvent>, StoreError> {
    let Some(about) = at.or_else(|| time_of(id)) else { return Ok(None) };
    let row: Option<EventRow> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM (SELECT * FROM audit_events e WHERE e.at BETWEEN $1 AND $2 AND e.id = $3 LIMIT 1) e \
         LEFT JOIN audit_personal p ON p.at = e.at AND p.id = e.id"
    ))
    .bind(about - FIND_WITHIN)
    .bind(about + FIND_WITHIN)
    .bind(id.0)
    .persistent(false)
    .fetch_optional(connection)
    .await?;
    row.map(StoredEvent::try_from).transpose()
}

/// How many events there are.
///
/// # Errors
/// As [`search`].
pub async fn count(connection: &mut PgConnection, filter: &AuditFilter<'_>) -> Result<i64, StoreError> {
    let mut arguments = filter.arguments()?;
    let statement = if filter.is_personal() {
        filter.add_personal(&mut arguments)?;
        concat!(
            "SELECT count(*) FROM audit_events e JOIN audit_personal p ON p.at = e.at AND p.id = e.id WHERE ",
            matching!(),
            " AND ",
            personal!()
        )
    } else {
        concat!("SELECT count(*) FROM audit_events e WHERE ", matching!())
    };
    Ok(sqlx::query_scalar_with(statement, arguments).persistent(false).fetch_one(connection).await?)
}

fn time_of(id: EventId) -> Option<DateTime<Utc>> {
    let (seconds, nanoseconds) = id.0.get_timestamp().filter(|_| id.0.get_version_num() == 7)?.to_unix();
    let time = DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanoseconds)?;
    // Far from the ends of what PostgreSQL can compare.
    (time.year() < 10_000).then_some(time)
}
