use std::ops::Range;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::super::verify::{AuditProgress, EventName, LogLeaves};
use super::AuditRecoverError;
use crate::postgres::StoreError;
use pganalytics_core::audit::Leaf;

/// How many lost events are named.
const NAMED: usize = 10_000;

/// How many leaves are looked up at a time.
const BATCH: u64 = 256;

/// What became of leaves that the database has no seals of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingLeaves {
    /// How many have no row.
    pub lost: u64,
    /// How many have one: their servers stored them again.
    pub present: u64,
    /// The first of those that are lost, as the log has them.
    pub events: Vec<EventName>,
}

impl MissingLeaves {
    /// Adds what another log has.
    pub(super) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.present += other.present;
        self.events.extend(other.events);
        self.events.truncate(NAMED);
    }

    /// Leaves that cannot be named.
    pub(super) fn add_unnamed(&mut self, leaves: u64) {
        self.lost += leaves;
    }
}

/// Looks for the rows of leaves.
pub(super) async fn missing(
    connection: &mut PgConnection,
    log: &mut LogLeaves,
    (era, leaves): (i16, Range<u64>),
    progress: &(dyn Fn(AuditProgress) + Sync),
) -> Result<MissingLeaves, AuditRecoverError> {
    let mut found = MissingLeaves::default();
    let mut next = leaves.start;
    while next < leaves.end {
        progress(AuditProgress { done: next - leaves.start, total: leaves.end - leaves.start });
        let end = leaves.end.min(next.saturating_add(BATCH));
        let mut events = Vec::new();
        for leaf in next..end {
            let entry = log.entry(leaf).await.map_err(|source| AuditRecoverError::Log { era, source })?;
            match Leaf::parse(&entry) {
                Ok(Leaf::Row(row)) => events.push(EventName::of(&row, era, Some(leaf))),
                _ => found.add_unnamed(1),
            }
        }
        let total = events.len() as u64;
        let lost = without_row(connection, events).await?;
        let count = lost.len() as u64;
        found.add(MissingLeaves { lost: count, present: total - count, events: lost });
        next = end;
    }
    Ok(found)
}

async fn without_row(
    connection: &mut PgConnection,
    events: Vec<EventName>,
) -> Result<Vec<EventName>, StoreError> {
    let (times, ids): (Vec<Option<DateTime<Utc>>>, Vec<Uuid>) =
        events.iter().map(|event| (event.at, event.id)).unzip();
    let there: Vec<bool> = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM audit_events e WHERE e.at = k.at AND e.id = k.id) \
         FROM unnest($1::timestamptz[], $2::uuid[]) WITH ORDINALITY AS k (at, id, place) ORDER BY k.place",
    )
    .bind(times)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(events.into_iter().zip(there).filter(|(_, there)| !there).map(|(event, _)| event).collect())
}
