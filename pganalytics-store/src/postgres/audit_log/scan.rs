use chrono::{DateTime, Utc};
use pganalytics_core::ids::EventId;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::conditions::{between, indexed, matching, personal};
use super::filter::{AuditCursor, AuditFilter, add, add_cursor};
use super::row::{EventRow, StoredEvent, columns};
use crate::postgres::error::StoreError;

/// How many events a search without an index reads at the most.
const SCAN_MAX: i64 = 100_000;

/// A search that is read to its end, page by page. It holds nothing between pages, so it may take as long as it likes.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuditScan {
    after: Option<AuditCursor>,
    /// How far the search may go without finding out anew.
    reach: Reach,
    is_over: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Reach {
    #[default]
    Unknown,
    Last(AuditCursor),
    End,
}

impl AuditScan {
    /// A search that goes on after the end of a page.
    pub fn after(after: Option<AuditCursor>) -> Self {
        Self { after, ..Self::default() }
    }

    /// Where the last page ended, unless there is nothing more.
    pub fn place(&self) -> Option<AuditCursor> {
        self.after.filter(|_| !self.is_over)
    }

    /// Whether there is nothing more.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// The next events, newest first, up to `limit`; may be none before the end.
    ///
    /// # Errors
    /// As [`search`](super::search). The same page can be read again.
    pub async fn read(
        &mut self,
        connection: &mut PgConnection,
        filter: &AuditFilter<'_>,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        if self.is_over {
            return Ok(Vec::new());
        }
        if let Reach::Unknown = self.reach {
            self.reach = match filter.is_found_by_index() {
                true => Reach::End,
                false => reach(connection, filter, self.after).await?.map_or(Reach::End, Reach::Last),
            };
        }
        let last = if let Reach::Last(last) = self.reach { Some(last) } else { None };
        let stretch = Stretch { after: self.after, last };
        let mut events = read(connection, filter, stretch, i64::from(limit) + 1).await?;
        if events.len() > limit as usize {
            events.truncate(limit as usize);
            self.after = events.last().map(|stored| AuditCursor::from(&stored.event));
        } else {
            (self.after, self.reach, self.is_over) = (last, Reach::Unknown, last.is_none());
        }
        Ok(events)
    }
}

/// A stretch of the log, backwards in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// Begins after this.
    pub(super) after: Option<AuditCursor>,
    /// Ends with this.
    pub(super) last: Option<AuditCursor>,
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

/// Up to `limit` events of a stretch, newest first.
pub(super) async fn read(
    connection: &mut PgConnection,
    filter: &AuditFilter<'_>,
    Stretch { after, last }: Stretch,
    limit: i64,
) -> Result<Vec<StoredEvent>, StoreError> {
    let mut arguments = filter.arguments()?;
    let is_personal = filter.is_personal();
    if is_personal {
        filter.add_personal(&mut arguments)?;
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
