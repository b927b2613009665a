use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use pganalytics_core::audit::{EventProof, LeafRow, Opening, PersonalField};
use pganalytics_core::backup::BackupTarget;
use pganalytics_core::tlog::{AuthenticTree, Hash32, LeafIndex, ProveError, SignedCheckpoint, TileReader};
use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use uuid::Uuid;

use super::AuditVerifyError;
use super::era::prefix_of;
use super::rows::{AuditRow, AuditRows};
use super::window::{Snapshot, Window};
use crate::postgres::{Database, StoreError};

/// Makes the proofs of single events, for who has neither the database nor the tiles.
///
/// It counts the events of the same seal that come before, so a proof costs more in a seal of many events.
#[derive(Clone, Debug)]
pub struct AuditProver {
    database: Database,
    target: Arc<dyn BackupTarget>,
}

/// What came of proving an event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventProving {
    /// There is no such event.
    NoEvent,
    /// It waits to be sealed.
    NotSealed,
    /// The log has another one in its place, or its tiles are not what was signed: verify the log.
    Differs,
    /// The proof.
    Proof(Box<EventProof>),
}

#[derive(FromRow)]
struct SealOfRow {
    era: i16,
    snapshot: String,
    before: Option<String>,
    first_leaf: i64,
    leaves: i64,
}

/// Where the log has a row.
#[derive(Debug)]
struct Place {
    era: i16,
    /// The first of these, unless rows before it went with their month; else one of the others of its seal.
    leaves: Range<u64>,
}

impl AuditProver {
    /// Proves what this database has by what this target keeps.
    pub fn new(database: Database, target: Arc<dyn BackupTarget>) -> Self {
        Self { database, target }
    }

    /// The proof of the event of this time and id, with all its personal fields that are still there: in the newest checkpoint of
    /// its log that witnesses have cosigned, or, while that does not have the event, in the published one.
    ///
    /// # Errors
    /// When database or target could not answer.
    pub async fn prove(&self, at: DateTime<Utc>, id: Uuid) -> Result<EventProving, AuditVerifyError> {
        let mut connection = self.database.read().await?;
        let mut rows = AuditRows::of_events(&mut connection, &[(at, id)]).await?;
        let found = rows.next().await?;
        // There is no second one, but what the server says after it belongs to this statement.
        while rows.next().await?.is_some() {}
        drop(rows);
        let Some(row) = found else { return Ok(EventProving::NoEvent) };
        let Ok(leaf) = row.leaf.row() else { return Ok(EventProving::Differs) };
        let Some(place) = place(&mut connection, &leaf).await? else {
            return Ok(EventProving::NotSealed);
        };
        drop(connection);
        match self.prove_leaf(place, &row).await {
            Ok(proving) => Ok(proving),
            Err(ProveError::Tiles(error)) => super::era::tiles_fault(error).map(|_| EventProving::Differs),
            Err(_) => Ok(EventProving::Differs),
        }
    }

    async fn prove_leaf(
        &self,
        Place { era, leaves }: Place,
        row: &AuditRow,
    ) -> Result<EventProving, ProveError> {
        let reader = TileReader::new(Arc::clone(&self.target)).with_prefix(prefix_of(era));
        let last = LeafIndex(leaves.end.saturating_sub(1));
        let has_it = |checkpoint: &SignedCheckpoint| checkpoint.unverified().size().contains(last);
        let checkpoint = match reader.cosigned().await?.filter(has_it) {
            Some(cosigned) => Some(cosigned),
            None => reader.checkpoint().await?.filter(has_it),
        };
        let Some(checkpoint) = checkpoint else { return Ok(EventProving::NotSealed) };
        let mut tree = AuthenticTree::open(reader, checkpoint.unverified().clone()).await?;
        let entry = row.leaf.entry();
        let Some(index) = find(&mut tree, leaves, Hash32::of_leaf(&entry)).await? else {
            return Ok(EventProving::Differs);
        };
        let proof = tree.prove_inclusion(index).await?;
        let whole = (entry.len() < row.leaf.bytes().len()).then(|| row.leaf.bytes().clone());
        let proof = EventProof::new((&entry, whole), (index, proof), checkpoint, openings(row));
        Ok(EventProving::Proof(Box::new(proof)))
    }
}

/// The first of these leaves that is this one.
async fn find(
    tree: &mut AuthenticTree,
    mut leaves: Range<u64>,
    leaf: Hash32,
) -> Result<Option<LeafIndex>, ProveError> {
    while let Some(index) = leaves.next().map(LeafIndex) {
        if tree.leaf(index).await? == leaf {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Where the log has a row; nothing if no seal covers it.
async fn place(connection: &mut PgConnection, row: &LeafRow<'_>) -> Result<Option<Place>, StoreError> {
    let seal: Option<SealOfRow> = sqlx::query_as(
        "SELECT s.era, s.snapshot::text, s.first_leaf, s.leaves, (SELECT b.snapshot::text FROM audit_seals b \
             WHERE b.rows_era = s.rows_era AND (b.era, b.number) < (s.era, s.number) \
             ORDER BY b.era DESC, b.number DESC LIMIT 1) AS before \
         FROM audit_seals s WHERE s.rows_era = $1 AND pg_visible_in_snapshot($2::text::xid8, s.snapshot) \
         ORDER BY s.era, s.number LIMIT 1",
    )
    .bind(row.era)
    .bind(row.xid.to_string())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(seal) = seal else { return Ok(None) };
    let window = Window {
        rows_era: row.era,
        before: seal.before.as_deref().and_then(Snapshot::parse),
        until: Snapshot::parse(&seal.snapshot),
    };
    let earlier = format!(
        "SELECT count(*) FROM audit_events e WHERE {} AND (e.xid, e.at, e.id) < ($1::text::xid8, $2, $3)",
        window.condition()
    );
    let earlier: i64 = sqlx::query_scalar(AssertSqlSafe(earlier))
        .bind(row.xid.to_string())
        .bind(row.at())
        .bind(row.id)
        .persistent(false)
        .fetch_one(connection)
        .await?;
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let (first, end) = (seal.first_leaf.saturating_add(earlier), seal.first_leaf.saturating_add(seal.leaves));
    Ok(Some(Place { era: seal.era, leaves: count(first)..count(end) }))
}

fn openings(row: &AuditRow) -> Vec<Opening> {
    let stored = row.personal().into_iter().filter_map(|stored| {
        let value = match (stored.field, stored.value?) {
            (PersonalField::Address, [2, 32, 0, 4, octets @ ..]) => {
                IpAddr::from(<[u8; 4]>::try_from(octets).ok()?).to_string()
            }
            (PersonalField::Address, [3, 128, 0, 16, octets @ ..]) => {
                IpAddr::from(<[u8; 16]>::try_from(octets).ok()?).to_string()
            }
            (_, text) => str::from_utf8(text).ok()?.to_owned(),
        };
        Some(Opening { field: stored.field, value, salt: stored.salt?.to_vec() })
    });
    stored.collect()
}
