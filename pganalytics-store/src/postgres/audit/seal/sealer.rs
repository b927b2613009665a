use std::sync::Arc;

use chrono::{DateTime, Utc};
use pganalytics_core::audit::AuditEvent;
use pganalytics_core::backup::BackupTarget;
use pganalytics_core::clock::Clock;
use pganalytics_core::keys::FieldCipher;
use pganalytics_core::random::Random;
use pganalytics_core::tlog::{
    Checkpoint, NoteSigner, Origin, SignedCheckpoint, TileReader, TileStore, TileStoreError, TreeEdge,
    TreeGrowth, TreeSize,
};
use sqlx::AssertSqlSafe;

use super::super::insert::store_events;
use super::super::verify::prefix_of;
use super::checksums::Checksums;
use super::gather::{Batch, gather, leaves_of};
use super::pending::edge_of;
use super::place::{LastSeal, Place, begin_first, seen_before};
use super::sign::sign;
use super::{AuditSealError, AuditSealStatus};
use crate::postgres::Database;

/// As many leaves as one seal covers unless said otherwise.
const LEAVES_MAX: usize = 16_384;

/// Seals the audit log: signs the tree of all events that are stored, and anchors the checkpoint where it is created once and
/// never changed.
///
/// # Guarantees
/// - Every row that was committed is a leaf of exactly one seal, in an order that the database can repeat. A transaction that stays
///   open delays its own rows and no others.
/// - No fork. A seal is a row of `audit_seals` first, whose primary key lets one of several sealers win; what it signed is anchored
///   create-only, then written as tiles, then published. Whoever is killed in between leaves a seal that the next call finishes with
///   the very same bytes.
/// - A database that went back behind its anchor, or is another one, is not sealed: [`AuditSealError::Behind`].
/// - A row whose checksum is wrong is sealed as it was found, and an event `audit.finding` tells of it, in the transaction of the seal.
///
/// # Limits
/// What is not sealed yet can be changed by whoever holds a writer's key and the database at once. Where the keys of writers cannot be
/// had, sealing goes on and their checksums are checked by who verifies. One transaction with more rows than a seal covers
/// is held in memory as a whole.
#[derive(Debug)]
pub struct AuditSealer {
    database: Database,
    target: Arc<dyn BackupTarget>,
    log: Origin,
    signers: Vec<NoteSigner>,
    cipher: Arc<dyn FieldCipher>,
    checksums: Checksums,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    leaves_max: usize,
}

/// What was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sealed {
    /// The era.
    pub era: i16,
    /// The checkpoint, as it is published.
    pub checkpoint: SignedCheckpoint,
    /// How many events were sealed.
    pub leaves: u64,
    /// Whether there may be more to seal at once.
    pub more: bool,
    /// How many bad rows were told of.
    pub findings: usize,
}

/// A seal that is about to be committed.
struct NewSeal {
    sealed_at: DateTime<Utc>,
    first_leaf: u64,
    checkpoint: SignedCheckpoint,
    findings: Vec<AuditEvent>,
}

impl AuditSealer {
    /// Seals this database into this target. The signers sign under the name of the log; several while one key follows another.
    pub fn new(
        (database, target): (Database, Arc<dyn BackupTarget>),
        log: Origin,
        signers: Vec<NoteSigner>,
        cipher: Arc<dyn FieldCipher>,
        (clock, random): (Arc<dyn Clock>, Arc<dyn Random>),
    ) -> Self {
        let checksums = Checksums::new(Arc::clone(&cipher));
        let leaves_max = LEAVES_MAX;
        Self { database, target, log, signers, cipher, checksums, clock, random, leaves_max }
    }

    /// As many leaves as one seal covers, at least one. One transaction is never parted.
    #[must_use]
    pub fn with_leaves_max(self, leaves_max: usize) -> Self {
        Self { leaves_max: leaves_max.max(1), ..self }
    }

    /// Seals what there is, up to as much as one seal covers; nothing if there is nothing, or another sealer was faster. What was
    /// cut short before is finished first.
    ///
    /// # Errors
    /// When the database is behind its anchor, or database, target or signer could not answer.
    pub async fn seal(&self) -> Result<Option<Sealed>, AuditSealError> {
        let place = self.place().await?;
        match self.seal_from(&place).await {
            // Seen from where another sealer has gone on meanwhile, it looks the same.
            Err(AuditSealError::Behind { .. }) if self.place().await? != place => Ok(None),
            sealed => sealed,
        }
    }

    async fn seal_from(&self, place: &Place) -> Result<Option<Sealed>, AuditSealError> {
        let store = TileStore::new(Arc::clone(&self.target))?.with_prefix(prefix_of(place.era));
        let edge = match &place.last {
            Some(last) if !last.published => self.finish(&store, place.era, last).await?,
            _ => self.edge(store.reader(), place).await?,
        };
        let Some((sealed, growth)) = self.commit(place, edge).await? else { return Ok(None) };
        self.publish(&store, (place.era, place.next_number()), &growth, &sealed.checkpoint).await?;
        Ok(Some(sealed))
    }

    /// How sealing goes.
    ///
    /// # Errors
    /// When the database is another one, or could not answer.
    pub async fn status(&self) -> Result<Option<AuditSealStatus>, AuditSealError> {
        let mut connection = self.database.read().await?;
        let Some(place) = Place::read(&mut connection, &self.log).await? else { return Ok(None) };
        let era = place.era;
        let sealed_at = "SELECT sealed_at FROM audit_seals WHERE era = $1 ORDER BY number DESC LIMIT 1";
        let sealed_at = sqlx::query_scalar(sealed_at).bind(era).fetch_optional(&mut *connection).await?;
        let seen = seen_before(&mut connection, era, (era, place.next_number())).await?;
        let mut unsealed_since = None;
        for unseen in seen.unseen() {
            let oldest = format!(
                "SELECT greatest(e.at, (SELECT sealed_at FROM audit_seals WHERE whole \
                    ORDER BY era DESC, number DESC LIMIT 1)) \
                 FROM audit_events e WHERE e.era = {era} AND {unseen} ORDER BY e.xid LIMIT 1"
            );
            let oldest = sqlx::query_scalar(AssertSqlSafe(oldest)).fetch_optional(&mut *connection).await?;
            unsealed_since = unsealed_since.or(oldest);
        }
        Ok(Some(AuditSealStatus { era, size: place.size(), sealed_at, unsealed_since }))
    }

    /// Where the log stands; begins it if it is the first time.
    async fn place(&self) -> Result<Place, AuditSealError> {
        let mut connection = self.database.write().await?;
        if let Some(place) = Place::read(&mut connection, &self.log).await? {
            return Ok(place);
        }
        let known = self.target.list(Some(&prefix_of(1)), None, 1).await;
        if !known.map_err(TileStoreError::from)?.is_empty() {
            let reason = "it knows of no log, and one is anchored".into();
            return Err(AuditSealError::Behind { reason });
        }
        begin_first(&mut connection, &self.log).await?;
        let place = Place::read(&mut connection, &self.log).await?;
        connection.commit().await?;
        place.ok_or(AuditSealError::Damaged { era: 1, number: 0 })
    }

    /// The edge of what is published, which has to be what the database sealed last.
    async fn edge(&self, reader: &TileReader, place: &Place) -> Result<TreeEdge, AuditSealError> {
        let size = TreeSize(place.size());
        let published = reader.checkpoint().await?;
        let behind = |reason: String| Err(AuditSealError::Behind { reason });
        if let Some(ahead) = reader.anchored_after(size).await? {
            // That is the first one of those that follow; the published one is the last.
            let ahead = published.as_ref().unwrap_or(&ahead).unverified().size();
            return behind(format!("{ahead} events are anchored, of which it has sealed {size}"));
        }
        let published = published.map(|published| published.unverified().clone());
        let last = place.last.as_ref().map(|last| last.signed(place.era)).transpose()?;
        if published != last.map(|last| last.unverified().clone()) {
            let found = published.map_or(TreeSize::EMPTY, |published| published.size());
            return behind(format!("{found} events are published, of which it has sealed {size}, or others"));
        }
        edge_of(reader, published).await
    }

    /// Does again what was cut short between the row of a seal and its publication.
    async fn finish(&self, store: &TileStore, era: i16, last: &LastSeal) -> Result<TreeEdge, AuditSealError> {
        let next = last.signed(era)?;
        let (reader, number) = (store.reader(), last.number);
        let published = reader.checkpoint().await?.map(|published| published.unverified().clone());
        let edge = edge_of(reader, published.clone()).await?;
        if published.as_ref() == Some(next.unverified()) {
            self.mark_published((era, number)).await?;
            return Ok(edge);
        }
        let mut connection = self.database.read().await?;
        let before = last.before(&mut connection, era).await?;
        connection.commit().await?;
        if published != before.map(|before| before.unverified().clone()) {
            let found = published.map_or(TreeSize::EMPTY, |published| published.size());
            let reason = format!(
                "{found} events are published, of which it has sealed {}, or others",
                last.first_leaf
            );
            return Err(AuditSealError::Behind { reason });
        }
        let growth = grown(&self.database, edge, (era, last)).await?;
        self.publish(store, (era, number), &growth, &next).await?;
        Ok(growth.into_edge())
    }

    /// Commits the next seal, with what was found; nothing if there is nothing to seal, or another sealer was faster.
    async fn commit(
        &self,
        place: &Place,
        edge: TreeEdge,
    ) -> Result<Option<(Sealed, TreeGrowth)>, AuditSealError> {
        let sealed_at = self.clock.now();
        let Some(batch) = gather(&self.database, place, self.leaves_max).await? else { return Ok(None) };
        let mut growth = TreeGrowth::new(edge);
        for leaf in &batch.leaves {
            growth.append(leaf.entry())?;
        }
        let origin = format!("{}/{}", self.log, place.era).parse()?;
        let checkpoint = sign(&Checkpoint::new(origin, growth.size(), growth.root())?, &self.signers).await?;
        let first_leaf = growth.old_size().0;
        let findings = self.findings((first_leaf, &batch)).await;
        let seal = NewSeal { sealed_at, first_leaf, checkpoint, findings };
        if !self.insert_seal(place, &batch, &seal).await? {
            return Ok(None);
        }
        let NewSeal { checkpoint, findings, .. } = seal;
        let (leaves, more, findings) = (batch.leaves.len() as u64, batch.more, findings.len());
        Ok(Some((Sealed { era: place.era, checkpoint, leaves, more, findings }, growth)))
    }

    async fn findings(&self, (first_leaf, batch): (u64, &Batch)) -> Vec<AuditEvent> {
        let leaves = (first_leaf, &batch.leaves[..]);
        let findings = self.checksums.findings(leaves, &*self.clock, &*self.random).await;
        if !findings.is_empty()
            && let Err(error) = self.database.audit_writer().authenticate(&*self.cipher).await
        {
            // Not signed, they would be found themselves, and so on.
            tracing::warn!(%error, found = findings.len(), "findings cannot be signed, so they are left to verifying");
            return Vec::new();
        }
        findings
    }

    /// `false` if another sealer has taken this number, or the next era has begun.
    async fn insert_seal(
        &self,
        place: &Place,
        batch: &Batch,
        seal: &NewSeal,
    ) -> Result<bool, AuditSealError> {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut transaction = self.database.begin().await?;
        let inserted = sqlx::query(
            "INSERT INTO audit_seals \
                 (era, number, rows_era, snapshot, first_leaf, leaves, whole, checkpoint, sealed_at) \
             SELECT $1, $2, $3, $4::text::pg_snapshot, $5, $6, $7, $8, $9 \
             WHERE $1 = (SELECT max(era) FROM audit_eras) ON CONFLICT DO NOTHING",
        )
        .bind(place.era)
        .bind(place.next_number())
        .bind(batch.rows_era)
        .bind(batch.snapshot.to_string())
        .bind(count(seal.first_leaf))
        .bind(count(batch.leaves.len() as u64))
        .bind(!batch.more)
        .bind(seal.checkpoint.to_string())
        .bind(seal.sealed_at)
        .execute(&mut *transaction)
        .await?;
        if inserted.rows_affected() == 0 {
            return Ok(false);
        }
        let mut numbers = None;
        if !seal.findings.is_empty() {
            let writer = self.database.audit_writer();
            numbers = Some(store_events(&mut transaction, writer, &seal.findings).await?);
        }
        transaction.commit().await?;
        if let Some(mut numbers) = numbers {
            numbers.settle();
        }
        Ok(true)
    }

    async fn publish(
        &self,
        store: &TileStore,
        seal: (i16, i64),
        growth: &TreeGrowth,
        next: &SignedCheckpoint,
    ) -> Result<(), AuditSealError> {
        match store.extend(growth, next).await {
            Ok(()) => self.mark_published(seal).await,
            Err(
                TileStoreError::Overtaken { .. }
                | TileStoreError::Fork { .. }
                | TileStoreError::NotPublished { .. },
            ) => {
                let reason = "another history is anchored than the one that it has sealed".into();
                Err(AuditSealError::Behind { reason })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn mark_published(&self, (era, number): (i16, i64)) -> Result<(), AuditSealError> {
        let mut connection = self.database.write().await?;
        let mark = "UPDATE audit_seals SET published_at = clock_timestamp() \
                    WHERE era = $1 AND number = $2 AND published_at IS NULL";
        sqlx::query(mark).bind(era).bind(number).execute(&mut *connection).await?;
        Ok(connection.commit().await?)
    }
}

/// The tree that a seal has made of this one.
///
/// # Errors
/// When rows were changed since they were sealed, or the database could not answer.
pub(super) async fn grown(
    database: &Database,
    edge: TreeEdge,
    (era, seal): (i16, &LastSeal),
) -> Result<TreeGrowth, AuditSealError> {
    let signed = seal.signed(era)?;
    let mut growth = TreeGrowth::new(edge);
    for leaf in leaves_of(database, era, seal).await? {
        growth.append(leaf.entry())?;
    }
    if growth.size() != signed.unverified().size() || growth.root() != *signed.unverified().root() {
        return Err(AuditSealError::Damaged { era, number: seal.number });
    }
    Ok(growth)
}
