use sqlx::PgConnection;

use super::super::leaf::LeafBytes;
use super::super::leaf_reader::LeafReader;
use super::AuditSealError;
use super::place::{LastSeal, Place, has_own_seals, seen_before};
use super::snapshot::SealSnapshot;
use crate::postgres::Database;
use crate::postgres::uninterrupted::uninterrupted;

/// Rows that are about to be sealed.
pub(super) struct Batch {
    pub(super) rows_era: i16,
    pub(super) snapshot: SealSnapshot,
    pub(super) leaves: Vec<LeafBytes>,
    /// Whether rows were left for the next seal.
    pub(super) more: bool,
}

/// The rows to seal next: first those that a log before this one has left, then its own.
pub(super) async fn gather(
    database: &Database,
    place: &Place,
    leaves_max: usize,
) -> Result<Option<Batch>, AuditSealError> {
    let (database, place) = (database.clone(), place.clone());
    uninterrupted(async move {
        let mut transaction = database.begin_snapshot().await?;
        let batch = batch(&mut transaction, &place, leaves_max).await?;
        transaction.commit().await?;
        Ok(batch)
    })
    .await
}

/// The leaves of a seal, as the database has them.
pub(super) async fn leaves_of(
    database: &Database,
    era: i16,
    seal: &LastSeal,
) -> Result<Vec<LeafBytes>, AuditSealError> {
    let (database, seal) = (database.clone(), seal.clone());
    uninterrupted(async move {
        let mut connection = database.read().await?;
        let before = seen_before(&mut connection, seal.rows_era, (era, seal.number)).await?;
        let damaged = AuditSealError::Damaged { era, number: seal.number };
        let seen = SealSnapshot::parse(&seal.snapshot).ok_or(damaged)?.seen();
        let mut leaves = Vec::new();
        for unseen in before.unseen() {
            let era = seal.rows_era;
            leaves.extend(read(&mut connection, era, &format!("{unseen} AND {seen}"), None).await?);
        }
        Ok(leaves)
    })
    .await
}

async fn batch(
    connection: &mut PgConnection,
    place: &Place,
    leaves_max: usize,
) -> Result<Option<Batch>, AuditSealError> {
    let era = place.era;
    let next = (era, place.next_number());
    if !has_own_seals(connection, era).await? {
        for rows_era in 1..era {
            let before = seen_before(connection, rows_era, next).await?;
            let parts = (&before, SealSnapshot::everything());
            if let Some(batch) = rows(connection, rows_era, parts, leaves_max).await? {
                return Ok(Some(Batch { more: true, ..batch }));
            }
        }
    }
    let before = seen_before(connection, era, next).await?;
    let snapshot: String =
        sqlx::query_scalar("SELECT pg_current_snapshot()::text").fetch_one(&mut *connection).await?;
    let damaged = AuditSealError::Damaged { era, number: next.1 };
    let snapshot = SealSnapshot::parse(&snapshot).ok_or(damaged)?;
    rows(connection, era, (&before, snapshot), leaves_max).await
}

/// What the transaction sees of the rows that were not seen before, up to a boundary between transactions.
async fn rows(
    connection: &mut PgConnection,
    rows_era: i16,
    (before, snapshot): (&SealSnapshot, SealSnapshot),
    leaves_max: usize,
) -> Result<Option<Batch>, AuditSealError> {
    let mut leaves = Vec::new();
    for unseen in before.unseen() {
        let room = (leaves_max + 1).saturating_sub(leaves.len());
        leaves.extend(read(connection, rows_era, &unseen, Some(room)).await?);
    }
    if leaves.is_empty() {
        return Ok(None);
    }
    if leaves.len() <= leaves_max {
        return Ok(Some(Batch { rows_era, snapshot, leaves, more: false }));
    }
    let first = leaves.first().and_then(LeafBytes::xid).unwrap_or(0);
    let mut cut = leaves.pop().and_then(|leaf| leaf.xid()).unwrap_or(0);
    leaves.retain(|leaf| leaf.xid() != Some(cut));
    if leaves.is_empty() {
        // One transaction, which is taken whole.
        leaves = read(connection, rows_era, &format!("e.xid = '{first}'::xid8"), None).await?;
        cut = first + 1;
    }
    Ok(Some(Batch { rows_era, snapshot: snapshot.cut_at(cut, before), leaves, more: true }))
}

async fn read(
    connection: &mut PgConnection,
    era: i16,
    condition: &str,
    limit: Option<usize>,
) -> Result<Vec<LeafBytes>, AuditSealError> {
    let limit = limit.map_or_else(String::new, |limit| format!("LIMIT {limit}"));
    let selection = format!("WHERE e.era = {era} AND {condition} ORDER BY e.xid, e.at, e.id {limit}");
    let mut rows = LeafReader::select(connection, &selection).await?;
    let mut leaves = Vec::new();
    while let Some(leaf) = rows.next().await? {
        leaves.push(leaf);
    }
    Ok(leaves)
}
