use std::sync::Arc;

use pganalytics_core::backup::BackupTarget;
use pganalytics_core::clock::Clock;
use pganalytics_core::keys::FieldCipher;
use pganalytics_core::random::Random;
use pganalytics_core::tlog::{
    AuthenticTree, Checkpoint, NoteSigner, Origin, SignedCheckpoint, TileReader, TileStore, TileStoreError,
    TreeEdge, TreeGrowth, TreeSize,
};
use sqlx::postgres::PgTransaction;
use sqlx::{AssertSqlSafe, PgConnection};

use super::super::insert::insert;
use super::super::leaf::LeafBytes;
use super::super::leaf_reader::LeafReader;
use super::super::verify::prefix_of;
use super::checksums::Checksums;
use super::place::{LastSeal, Place, begin_first, has_own_seals, seen_before};
use super::snapshot::SealSnapshot;
use super::{AuditSealError, AuditSealStatus};
use crate::postgres::Database;
use crate::postgres::unit_of_work::Statements;

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

/// Rows that are about to be sealed.
struct Batch {
    rows_era: i16,
    snapshot: SealSnapshot,
    leaves: Vec<LeafBytes>,
    more: bool,
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
        Self { database, target, log, signers, cipher, clock, random, leaves_max: LEAVES_MAX }
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
        let sealed_at = "SELECT max(sealed_at) FROM audit_seals WHERE era = $1";
        let sealed_at = sqlx::query_scalar(sealed_at).bind(place.era).fetch_one(&mut *connection).await?;
        let (rows_era, number) = (place.era, place.next_number());
        let seen = seen_before(&mut connection, rows_era, (place.era, number)).await?;
        let oldest = format!(
            "SELECT e.at FROM audit_events e WHERE e.era = {rows_era} AND {} ORDER BY e.xid LIMIT 1",
            seen.unseen()
        );
        let oldest = sqlx::query_scalar(AssertSqlSafe(oldest)).fetch_optional(&mut *connection).await?;
        Ok(Some(AuditSealStatus { era: place.era, size: place.size(), sealed_at, oldest_unsealed: oldest }))
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
            let ahead = ahead.unverified().size();
            return behind(format!("{ahead} events are anchored, of which it has sealed {size}"));
        }
        match (&place.last, published) {
            (None, None) => Ok(TreeEdge::new()),
            (Some(last), Some(published))
                if *published.unverified() == *last.signed(place.era)?.unverified() =>
            {
                Ok(AuthenticTree::open(reader.clone(), published.unverified().clone()).await?.edge().await?)
            }
            (_, published) => {
                let found = published.map_or(TreeSize::EMPTY, |published| published.unverified().size());
                behind(format!("{found} events are published, of which it has sealed {size}, or others"))
            }
        }
    }

    /// Does again what was cut short between the row of a seal and its publication.
    async fn finish(&self, store: &TileStore, era: i16, last: &LastSeal) -> Result<TreeEdge, AuditSealError> {
        let next = last.signed(era)?;
        let (reader, number) = (store.reader(), last.number);
        let published = reader.checkpoint().await?;
        if published.as_ref().is_some_and(|published| published.unverified() == next.unverified()) {
            self.mark_published((era, number)).await?;
            return Ok(AuthenticTree::open(reader.clone(), next.unverified().clone()).await?.edge().await?);
        }
        let edge = match published {
            None => TreeEdge::new(),
            Some(published) => {
                AuthenticTree::open(reader.clone(), published.unverified().clone()).await?.edge().await?
            }
        };
        let mut growth = TreeGrowth::new(edge);
        for leaf in self.leaves_of(era, last).await? {
            growth.append(leaf.entry())?;
        }
        self.publish(store, (era, number), &growth, &next).await?;
        Ok(growth.into_edge())
    }

    /// The leaves of a seal, as the database has them.
    async fn leaves_of(&self, era: i16, seal: &LastSeal) -> Result<Vec<LeafBytes>, AuditSealError> {
        let mut connection = self.database.read().await?;
        let before = seen_before(&mut connection, seal.rows_era, (era, seal.number)).await?;
        let damaged = AuditSealError::Damaged { era, number: seal.number };
        let seen = SealSnapshot::parse(&seal.snapshot).ok_or(damaged)?;
        let rows = format!(
            "WHERE e.era = {} AND {} AND {} ORDER BY e.xid, e.at, e.id",
            seal.rows_era,
            before.unseen(),
            seen.seen()
        );
        read(&mut connection, &rows).await
    }

    /// Commits the next seal, with what was found; nothing if there is nothing to seal, or another sealer was faster.
    async fn commit(
        &self,
        place: &Place,
        edge: TreeEdge,
    ) -> Result<Option<(Sealed, TreeGrowth)>, AuditSealError> {
        let begin =
            format!("{}; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", self.database.begin_statement());
        let mut transaction = self.database.begin_with(begin.into()).await?;
        let now = Place::read(&mut transaction, &self.log).await?;
        let is_overtaken =
            now.is_none_or(|now| now.era != place.era || now.next_number() != place.next_number());
        if is_overtaken {
            return Ok(None);
        }
        let Some(batch) = self.batch(&mut transaction, place).await? else { return Ok(None) };
        let mut growth = TreeGrowth::new(edge);
        for leaf in &batch.leaves {
            growth.append(leaf.entry())?;
        }
        let origin = format!("{}/{}", self.log, place.era).parse()?;
        let checkpoint = self.sign(Checkpoint::new(origin, growth.size(), growth.root())?).await?;
        let mut checksums = Checksums::new(Arc::clone(&self.cipher));
        let findings = checksums.findings(&batch.leaves, &*self.clock, &*self.random).await;
        let mut numbers = None;
        if !findings.is_empty() {
            let mut statements = Statements::beginning_with("");
            numbers = Some(insert(&mut statements, self.database.audit_writer(), &findings)?);
            sqlx::raw_sql(AssertSqlSafe(statements.into_sql())).execute(&mut *transaction).await?;
        }
        let leaves = growth.size().0 - growth.old_size().0;
        if !self
            .insert_seal(&mut transaction, place, &batch, (growth.old_size().0, leaves), &checkpoint)
            .await?
        {
            return Ok(None);
        }
        transaction.commit().await?;
        if let Some(mut numbers) = numbers {
            numbers.settle();
        }
        let (more, findings) = (batch.more, findings.len());
        Ok(Some((Sealed { era: place.era, checkpoint, leaves, more, findings }, growth)))
    }

    /// The rows to seal next: first those that a log before this one has left, then its own.
    async fn batch(
        &self,
        transaction: &mut PgTransaction<'_>,
        place: &Place,
    ) -> Result<Option<Batch>, AuditSealError> {
        let era = place.era;
        let next = (era, place.next_number());
        if !has_own_seals(transaction, era).await? {
            for rows_era in 1..era {
                let before = seen_before(transaction, rows_era, next).await?;
                let snapshot = SealSnapshot::everything();
                if let Some(batch) = self.rows(transaction, rows_era, (&before, snapshot)).await? {
                    return Ok(Some(Batch { more: true, ..batch }));
                }
            }
        }
        let before = seen_before(transaction, era, next).await?;
        let snapshot: String =
            sqlx::query_scalar("SELECT pg_current_snapshot()::text").fetch_one(&mut **transaction).await?;
        let damaged = AuditSealError::Damaged { era, number: next.1 };
        let snapshot = SealSnapshot::parse(&snapshot).ok_or(damaged)?;
        self.rows(transaction, era, (&before, snapshot)).await
    }

    /// What the transaction sees of the rows that were not seen before, up to a boundary between transactions.
    async fn rows(
        &self,
        connection: &mut PgConnection,
        rows_era: i16,
        (before, snapshot): (&SealSnapshot, SealSnapshot),
    ) -> Result<Option<Batch>, AuditSealError> {
        let of_era = format!("WHERE e.era = {rows_era} AND");
        let limit = self.leaves_max + 1;
        let unseen = before.unseen();
        let order = "ORDER BY e.xid, e.at, e.id";
        let mut leaves = read(connection, &format!("{of_era} {unseen} {order} LIMIT {limit}")).await?;
        if leaves.is_empty() {
            return Ok(None);
        }
        if leaves.len() <= self.leaves_max {
            return Ok(Some(Batch { rows_era, snapshot, leaves, more: false }));
        }
        let first = leaves.first().and_then(LeafBytes::xid).unwrap_or(0);
        let mut cut = leaves.pop().and_then(|leaf| leaf.xid()).unwrap_or(0);
        leaves.retain(|leaf| leaf.xid() != Some(cut));
        if leaves.is_empty() {
            // One transaction, which is taken whole.
            leaves = read(connection, &format!("{of_era} e.xid = '{first}'::xid8 {order}")).await?;
            cut = first + 1;
        }
        Ok(Some(Batch { rows_era, snapshot: snapshot.cut_at(cut, before), leaves, more: true }))
    }

    async fn sign(&self, checkpoint: Checkpoint) -> Result<SignedCheckpoint, AuditSealError> {
        let text = checkpoint.to_text()?;
        let mut note = None;
        for signer in &self.signers {
            note = Some(match note.take() {
                None => signer.sign_note(text.clone()).await?,
                Some(note) => with_another(note, signer).await?,
            });
        }
        let note = note.ok_or(pganalytics_core::signing::SignError::NoActiveKey);
        Ok(SignedCheckpoint::new(note.map_err(pganalytics_core::tlog::SignNoteError::from)?)?)
    }

    /// `false` if another sealer has taken this number.
    async fn insert_seal(
        &self,
        transaction: &mut PgTransaction<'_>,
        place: &Place,
        batch: &Batch,
        (first, leaves): (u64, u64),
        checkpoint: &SignedCheckpoint,
    ) -> Result<bool, AuditSealError> {
        let inserted = sqlx::query(
            "INSERT INTO audit_seals (era, number, rows_era, snapshot, first_leaf, leaves, checkpoint, sealed_at) \
             VALUES ($1, $2, $3, $4::text::pg_snapshot, $5, $6, $7, $8)",
        )
        .bind(place.era)
        .bind(place.next_number())
        .bind(batch.rows_era)
        .bind(batch.snapshot.to_string())
        .bind(i64::try_from(first).unwrap_or(i64::MAX))
        .bind(i64::try_from(leaves).unwrap_or(i64::MAX))
        .bind(checkpoint.to_string())
        .bind(self.clock.now())
        .execute(&mut **transaction)
        .await;
        match inserted {
            Ok(_) => Ok(true),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
            Err(error) => Err(error.into()),
        }
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

/// Adds the signature of another key, if it is another one.
async fn with_another(
    note: pganalytics_core::tlog::SignedNote,
    signer: &NoteSigner,
) -> Result<pganalytics_core::tlog::SignedNote, AuditSealError> {
    let signature = signer.sign(note.unverified_text()).await?;
    if note.signatures().iter().any(|known| known.id == signature.id) {
        return Ok(note);
    }
    Ok(note.with_signature(signature)?)
}

async fn read(connection: &mut PgConnection, selection: &str) -> Result<Vec<LeafBytes>, AuditSealError> {
    let mut rows = LeafReader::select(connection, selection).await?;
    let mut leaves = Vec::new();
    while let Some(leaf) = rows.next().await? {
        leaves.push(leaf);
    }
    Ok(leaves)
}
