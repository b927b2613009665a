use futures::stream::{BoxStream, StreamExt};
use pganalytics_core::ids::UserId;
use sqlx::PgConnection;

use super::row::{EventRow, StoredEvent, columns};
use crate::postgres::error::StoreError;

/// What a user did, and then what others did to their account, as one search in order of time.
const EVENTS: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM audit_events e LEFT JOIN audit_personal p ON p.at = e.at AND p.id = e.id WHERE e.user_id = $1 \
     UNION ALL SELECT ",
    columns!(),
    " FROM audit_events e LEFT JOIN audit_personal p ON p.at = e.at AND p.id = e.id \
     WHERE left(e.resource_type, 100) = 'user' AND left(e.resource_id, 255) = $2 \
         AND e.resource_type = 'user' AND e.resource_id = $2 AND e.user_id IS DISTINCT FROM $1 \
     ORDER BY at, id"
);

/// Every event that a user did, or that was done to their account, oldest first, as they were when it began. It takes as long as
/// the reader does, and holds one event at a time; the connection has to be in a transaction, whose time limit is lifted.
///
/// # Errors
/// When PostgreSQL could not answer; what came before is not all then.
pub async fn events_of_subject(
    connection: &mut PgConnection,
    subject: UserId,
) -> Result<BoxStream<'_, Result<StoredEvent, StoreError>>, StoreError> {
    // PostgreSQL counts the time in which nobody reads what it has sent.
    sqlx::query("SELECT set_config('statement_timeout', '0', true)").execute(&mut *connection).await?;
    let events = sqlx::query_as::<_, EventRow>(EVENTS).bind(subject.0).bind(subject.0.to_string());
    let events = events.persistent(false).fetch(connection);
    Ok(events.map(|event| event.map_err(StoreError::from).and_then(StoredEvent::try_from)).boxed())
}
