//! The audit log read back, and its partitions.

use std::net::IpAddr;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, Utc};
use pganalytics_core::audit::{Actor, ActorKind, AuditEvent, Outcome, Resource};
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::{EventId, UserId};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments, FromRow, PgConnection};
use uuid::Uuid;

use super::error::StoreError;
use super::metrics::PartitionOutcome;

/// Which events to read; all conditions must hold.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct AuditFilter<'a> {
    /// Not before this time.
    pub from: Option<DateTime<Utc>>,
    /// Before this time.
    pub until: Option<DateTime<Utc>>,
    /// What this user did.
    pub user: Option<UserId>,
    /// What actors of this kind did.
    pub actor_kind: Option<ActorKind>,
    /// What actors with this id did. There is no index for it: bound the time, or name a `user`.
    pub actor_id: Option<&'a str>,
    /// Actions that begin with this text, like `user.`.
    pub action_prefix: Option<&'a str>,
    /// What was done to resources of this kind.
    pub resource_kind: Option<&'a str>,
    /// What was done to resources with this id.
    pub resource_id: Option<&'a str>,
    /// How it went.
    pub outcome: Option<Outcome>,
}

/// Where a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditCursor {
    /// The time of its last event.
    pub at: DateTime<Utc>,
    /// The id of its last event.
    pub id: EventId,
}

impl From<&AuditEvent> for AuditCursor {
    fn from(event: &AuditEvent) -> Self {
        Self { at: event.at, id: event.id }
    }
}

/// What was found or done for one month.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[non_exhaustive]
pub struct PartitionMonth {
    /// The partitioned table.
    pub relation: String,
    /// The first day of the month, in UTC.
    pub month: NaiveDate,
    /// What became of it. A month that is left in the default partition stays there, and calls for somebody's attention.
    #[sqlx(try_from = "String")]
    pub outcome: PartitionOutcome,
}

/// Of the events `e`. Beginnings are compared for the index, which takes no text of any length.
macro_rules! matching {
    () => {
        "($1::timestamptz IS NULL OR e.at >= $1) AND ($2::timestamptz IS NULL OR e.at < $2) \
         AND ($3::uuid IS NULL OR e.user_id = $3) AND ($4::text IS NULL OR e.actor_kind = $4) \
         AND ($5::text IS NULL OR e.actor_id = $5) AND ($6::text IS NULL OR starts_with(e.action, $6)) \
         AND ($7::text IS NULL OR (left(e.resource_type, 100) = left($7, 100) AND e.resource_type = $7)) \
         AND ($8::text IS NULL OR (left(e.resource_id, 255) = left($8, 255) AND e.resource_id = $8)) \
         AND ($9::text IS NULL OR e.outcome = $9)"
    };
}

/// Up to `limit` events, newest first, after the end of the page before. Personal fields that were erased are missing.
///
/// # Errors
/// When PostgreSQL could not answer, or holds what this program does not know.
pub async fn list(
    connection: &mut PgConnection,
    filter: &AuditFilter<'_>,
    after: Option<AuditCursor>,
    limit: u32,
) -> Result<Vec<AuditEvent>, StoreError> {
    let mut arguments = arguments(filter)?;
    add(&mut arguments, after.map(|cursor| cursor.at))?;
    add(&mut arguments, after.map(|cursor| cursor.id.0))?;
    add(&mut arguments, i64::from(limit))?;
    let rows: Vec<EventRow> = sqlx::query_as_with(
        concat!(
            "SELECT e.id, e.at, e.actor_kind, e.actor_id, e.actor_role, e.action, e.resource_type, e.resource_id, \
                e.outcome, e.reason, p.changes, e.request_id, e.session_id, e.provider, \
                p.actor_name, p.address, p.user_agent \
             FROM (SELECT * FROM audit_events e WHERE ",
            matching!(),
            " AND ($10::timestamptz IS NULL OR (e.at, e.id) < ($10, $11)) ORDER BY e.at DESC, e.id DESC LIMIT $12) e \
             LEFT JOIN audit_personal p ON p.at = e.at AND p.id = e.id \
             ORDER BY e.at DESC, e.id DESC"
        ),
        arguments,
    )
    // Planned for these conditions: a plan for any would scan.
    .persistent(false)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(AuditEvent::try_from).collect()
}

/// How many events there are.
///
/// # Errors
/// When PostgreSQL could not answer.
pub async fn count(connection: &mut PgConnection, filter: &AuditFilter<'_>) -> Result<i64, StoreError> {
    let statement = concat!("SELECT count(*) FROM audit_events e WHERE ", matching!());
    let counted = sqlx::query_scalar_with(statement, arguments(filter)?).persistent(false);
    Ok(counted.fetch_one(connection).await?)
}

/// Makes the partitions of the months from that of `first` to that of `last`, at most 60. Run it weekly, a month ahead.
///
/// # Errors
/// When PostgreSQL could not do it; among other reasons, since somebody holds a table for long.
pub async fn ensure_partitions(
    connection: &mut PgConnection,
    first: NaiveDate,
    last: NaiveDate,
) -> Result<Vec<PartitionMonth>, StoreError> {
    let months = sqlx::query_as("SELECT relation, month, outcome FROM audit_ensure_partitions($1, $2)");
    Ok(months.bind(first).bind(last).fetch_all(connection).await?)
}

#[derive(FromRow)]
struct EventRow {
    id: Uuid,
    at: DateTime<Utc>,
    actor_kind: String,
    actor_id: Option<String>,
    actor_role: Option<String>,
    action: String,
    resource_type: Option<String>,
    resource_id: Option<String>,
    outcome: String,
    reason: Option<String>,
    changes: Option<Value>,
    request_id: Option<String>,
    session_id: Option<String>,
    provider: Option<String>,
    actor_name: Option<String>,
    address: Option<IpAddr>,
    user_agent: Option<String>,
}

impl TryFrom<EventRow> for AuditEvent {
    type Error = StoreError;

    fn try_from(row: EventRow) -> Result<Self, StoreError> {
        let actor = Actor {
            kind: word(row.actor_kind)?,
            id: row.actor_id,
            name: row.actor_name,
            role: row.actor_role,
        };
        let action = parse(&row.action)?;
        let mut event = Self::new(EventId(row.id), row.at, actor, action, word(row.outcome)?);
        event.resource = row.resource_type.map(|kind| Resource { kind, id: row.resource_id });
        event.reason = row.reason;
        event.changes = row.changes;
        event.request_id = row.request_id;
        event.session = row.session_id.as_deref().map(parse).transpose()?;
        event.address = row.address;
        event.user_agent = row.user_agent;
        event.provider = row.provider;
        Ok(event)
    }
}

fn arguments(filter: &AuditFilter<'_>) -> Result<PgArguments, StoreError> {
    let mut arguments = PgArguments::default();
    add(&mut arguments, filter.from)?;
    add(&mut arguments, filter.until)?;
    add(&mut arguments, filter.user.map(|user| user.0))?;
    add(&mut arguments, filter.actor_kind.map(ActorKind::as_str))?;
    for text in [filter.actor_id, filter.action_prefix, filter.resource_kind, filter.resource_id] {
        super::text::check([("a condition", text)])?;
        add(&mut arguments, text.map(str::to_owned))?;
    }
    add(&mut arguments, filter.outcome.map(Outcome::as_str))?;
    Ok(arguments)
}

fn add<T>(arguments: &mut PgArguments, value: T) -> Result<(), StoreError>
where
    T: for<'q> sqlx::Encode<'q, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    arguments.add(value).map_err(|error| BackendError::never("postgres", error).into())
}

fn word<T: DeserializeOwned>(word: String) -> Result<T, StoreError> {
    serde_json::from_value(Value::String(word)).map_err(|error| BackendError::never("postgres", error).into())
}

fn parse<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error| BackendError::never("postgres", error).into())
}
