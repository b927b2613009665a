use sqlx::PgConnection;
use sqlx::postgres::PgArguments;

use super::filter::{AuditCursor, add, add_cursor};
use super::row::{EventRow, StoredEvent, columns};
use super::search::AuditPage;
use crate::postgres::error::StoreError;
use crate::postgres::text;

/// What was done to one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceHistory<'a> {
    /// The kind of the resource, like `user`.
    pub kind: &'a str,
    /// Its id.
    pub id: &'a str,
    /// In which order.
    pub order: HistoryOrder,
}

/// The order of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HistoryOrder {
    /// Backwards in time.
    #[default]
    NewestFirst,
    /// As it happened.
    OldestFirst,
}

/// Beginnings are compared for the index, which takes no text of any length; times once more by themselves, since a comparison
/// of pairs leaves no partition out.
macro_rules! statement {
    ($direction:literal, $beyond:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM (SELECT * FROM audit_events e \
                 WHERE left(e.resource_type, 100) = left($1, 100) AND e.resource_type = $1 \
                     AND left(e.resource_id, 255) = left($2, 255) AND e.resource_id = $2 \
                     AND ($3::timestamptz IS NULL OR (e.at ",
            $beyond,
            "= $3 AND (e.at, e.id) ",
            $beyond,
            " ($3, $4::uuid))) ORDER BY e.at ",
            $direction,
            ", e.id ",
            $direction,
            " LIMIT $5) e LEFT JOIN audit_personal p ON p.at = e.at AND p.id = e.id ORDER BY e.at ",
            $direction,
            ", e.id ",
            $direction
        )
    };
}

/// The next events of a resource, up to `limit`, after the end of the page before.
///
/// # Errors
/// When a text has U+0000 in it, and when PostgreSQL could not answer, or holds what this program does not know.
pub async fn history(
    connection: &mut PgConnection,
    of: ResourceHistory<'_>,
    after: Option<AuditCursor>,
    limit: u32,
) -> Result<AuditPage, StoreError> {
    text::check([("resource_type", Some(of.kind)), ("resource_id", Some(of.id))])?;
    let mut arguments = PgArguments::default();
    add(&mut arguments, of.kind.to_owned())?;
    add(&mut arguments, of.id.to_owned())?;
    add_cursor(&mut arguments, after)?;
    add(&mut arguments, i64::from(limit) + 1)?;
    let statement = match of.order {
        HistoryOrder::NewestFirst => statement!("DESC", "<"),
        HistoryOrder::OldestFirst => statement!("ASC", ">"),
    };
    let rows: Vec<EventRow> =
        sqlx::query_as_with(statement, arguments).persistent(false).fetch_all(connection).await?;
    let mut events = rows.into_iter().map(StoredEvent::try_from).collect::<Result<Vec<_>, _>>()?;
    let is_more = events.len() > limit as usize;
    events.truncate(limit as usize);
    let next = events.last().filter(|_| is_more).map(|last| AuditCursor::from(&last.event));
    Ok(AuditPage { events, next })
}
