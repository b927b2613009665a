use chrono::{DateTime, Datelike, TimeDelta, Utc};
use pganalytics_core::audit::AuditEvent;
use pganalytics_core::ids::EventId;
use sqlx::postgres::PgArguments;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::filter::{AuditCursor, AuditFilter, add, add_cursor};
use super::row::{EventRow, StoredEvent, columns};
use crate::postgres::error::StoreError;

/// How many events a search without an index reads at the most.
const SCAN_MAX: i64 = 100_000;

/// How far the time of an event may be from that of its id.
const ID_TIME_MAX: TimeDelta = TimeDelta::minutes(1);

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

/// What the indexes over the events `e` find. Beginnings are compared for the index, which takes no text of any length.
macro_rules! indexed {
    () => {
        "($1::timestamptz IS NULL OR e.at >= $1) AND ($2::timestamptz IS NULL OR e.at < $2) \
         AND ($3::uuid IS NULL OR e.user_id = $3) \
         AND ($4::text IS NULL OR (left(e.resource_type, 100) = left($4, 100) AND e.resource_type = $4)) \
         AND ($5::text IS NULL OR (left(e.resource_id, 255) = left($5, 255) AND e.resource_id = $5))"
    };
}

/// All conditions on the events `e`.
macro_rules! matching {
    () => {
        concat!(
            indexed!(),
            " AND ($6::text IS NULL OR e.actor_kind = $6) AND ($7::text IS NULL OR e.actor_id = $7) \
              AND ($8::text IS NULL OR starts_with(e.action, $8)) AND ($9::text IS NULL OR e.outcome = $9) \
              AND ($10::text IS NULL OR e.session_id = $10) AND ($11::text IS NULL OR e.request_id = $11)"
        )
    };
}

/// The conditions on the personal fields `p`, whose time is compared so that the partitions of other times are left out.
macro_rules! personal {
    () => {
        "p.at >= $1 AND p.at < $2 AND ($12::inet IS NULL OR p.address <<= $12) \
         AND ($13::text IS NULL OR position(lower($13 COLLATE \"C\") IN lower(p.changes::text COLLATE \"C\")) > 0)"
    };
}

/// After one place in the order of a page and up to another, of the parameters with these numbers. Times are compared once
/// more by themselves, since a comparison of pairs leaves no partition out.
macro_rules! between {
    ($after_at:literal, $after_id:literal, $last_at:literal, $last_id:literal) => {
        concat!(
            " AND ($",
            $after_at,
            "::timestamptz IS NULL OR (e.at <= $",
            $after_at,
            " AND (e.at, e.id) < ($",
            $after_at,
            ", $",
            $after_id,
            "::uuid))) AND ($",
            $last_at,
            "::timestamptz IS NULL OR (e.at >= $",
            $last_at,
            " AND (e.at, e.id) >= ($",
            $last_at,
            ", $",
            $last_id,
            "::uuid)))"
        )
    };
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
    let last = if filter.is_found_by_index() { None } else { reach(connection, filter, after).await? };
    let mut events = read(connection, filter, Stretch { after, last }, i64::from(limit) + 1).await?;
    let is_more = events.len() > limit as usize;
    events.truncate(limit as usize);
    let next = match events.last() {
        Some(stored) if is_more => Some(AuditCursor::from(&stored.event)),
        _ => last,
    };
    Ok(AuditPage { events, next })
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

/// The event of this id. The time in the id (RFC 9562, version 7) says where to look; of another version there are none.
///
/// # Errors
/// When PostgreSQL could not answer, or holds what this program does not know.
pub async fn find(connection: &mut PgConnection, id: EventId) -> Result<Option<StoredEvent>, StoreError> {
    let Some(about) = time_of(id) else { return Ok(None) };
    let row: Option<EventRow> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM (SELECT * FROM audit_events e WHERE e.at BETWEEN $1 AND $2 AND e.id = $3 LIMIT 1) e \
         LEFT JOIN audit_personal p ON p.at = e.at AND p.id = e.id"
    ))
    .bind(about - ID_TIME_MAX)
    .bind(about + ID_TIME_MAX)
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
        add_personal(&mut arguments, filter)?;
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

/// A stretch of the log, backwards in time.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// Begins after this.
    after: Option<AuditCursor>,
    /// Ends with this.
    last: Option<AuditCursor>,
}

/// The last of as many events as a search may read, if there are more.
async fn reach(
    connection: &mut PgConnection,
    filter: &AuditFilter<'_>,
    after: Option<AuditCursor>,
) -> Result<Option<AuditCursor>, StoreError> {
    // One index only, whose order is that of pages; the rest of the conditions is left to the search.
    let mut narrowing = AuditFilter { from: filter.from, until: filter.until, ..AuditFilter::default() };
    match filter.user {
        Some(user) => narrowing.user = Some(user),
        None if filter.resource().is_some() => {
            (narrowing.resource_kind, narrowing.resource_id) = (filter.resource_kind, filter.resource_id);
        }
        None => {}
    }
    #[derive(FromRow)]
    struct Place {
        at: DateTime<Utc>,
        id: Uuid,
    }
    let mut arguments = narrowing.arguments()?;
    add_cursor(&mut arguments, after)?;
    add_cursor(&mut arguments, None)?;
    add(&mut arguments, SCAN_MAX - 1)?;
    let place: Option<Place> = sqlx::query_as_with(
        concat!(
            "SELECT e.at, e.id FROM audit_events e WHERE ",
            matching!(),
            between!("12", "13", "14", "15"),
            " ORDER BY e.at DESC, e.id DESC OFFSET $16 LIMIT 1"
        ),
        arguments,
    )
    .persistent(false)
    .fetch_optional(connection)
    .await?;
    Ok(place.map(|place| AuditCursor { at: place.at, id: EventId(place.id) }))
}

async fn read(
    connection: &mut PgConnection,
    filter: &AuditFilter<'_>,
    Stretch { after, last }: Stretch,
    limit: i64,
) -> Result<Vec<StoredEvent>, StoreError> {
    let mut arguments = filter.arguments()?;
    let is_personal = filter.is_personal();
    if is_personal {
        add_personal(&mut arguments, filter)?;
    }
    add_cursor(&mut arguments, after)?;
    add_cursor(&mut arguments, last)?;
    add(&mut arguments, limit)?;
    let statement = match is_personal {
        true => concat!(
            "SELECT ",
            columns!(),
            " FROM audit_events e JOIN audit_personal p ON p.at = e.at AND p.id = e.id WHERE ",
            matching!(),
            " AND ",
            personal!(),
            between!("14", "15", "16", "17"),
            " AND ($14 IS NULL OR p.at <= $14) AND ($16 IS NULL OR p.at >= $16) ORDER BY e.at DESC, e.id DESC LIMIT $18"
        ),
        false => concat!(
            "SELECT ",
            columns!(),
            " FROM (SELECT * FROM audit_events e WHERE ",
            matching!(),
            between!("12", "13", "14", "15"),
            " ORDER BY e.at DESC, e.id DESC LIMIT $16) e \
             LEFT JOIN audit_personal p ON p.at = e.at AND p.id = e.id \
             ORDER BY e.at DESC, e.id DESC"
        ),
    };
    // Planned for these conditions: a plan for any would scan.
    let rows: Vec<EventRow> =
        sqlx::query_as_with(statement, arguments).persistent(false).fetch_all(connection).await?;
    rows.into_iter().map(StoredEvent::try_from).collect()
}

fn add_personal(arguments: &mut PgArguments, filter: &AuditFilter<'_>) -> Result<(), StoreError> {
    add(arguments, filter.network)?;
    // As the changes were written, JSON escapes what has to be.
    let text = filter.text.map(|text| serde_json::Value::from(text).to_string());
    add(arguments, text.map(|quoted| quoted[1..quoted.len() - 1].to_owned()))
}
