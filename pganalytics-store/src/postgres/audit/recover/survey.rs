use std::sync::Arc;

use pganalytics_core::backup::BackupTarget;
use pganalytics_core::tlog::{
    AuthenticTree, Checkpoint, Hash32, SignedCheckpoint, TileReadError, TileReader, TreeSize,
};
use sqlx::PgConnection;

use super::super::seal::{AuditSealError, can_be_finished};
use super::super::verify::{AuditProgress, AuditTrust, LogLeaves, StoredSeal, prefix_of, stored};
use super::missing::{MissingLeaves, missing};
use super::{AuditRecoverError, ClosedLog};
use crate::postgres::{Database, StoreError};

/// How far the database is behind what is anchored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuditGap {
    /// The last era that the database knows; zero if none.
    pub known_era: i16,
    /// The last era that the target has.
    pub last_era: i16,
    /// The logs that the gap ends, in their order.
    pub logs: Vec<ClosedLog>,
    /// What is missing of them.
    pub missing: MissingLeaves,
    /// The identifier of the database system that goes on.
    pub system_identifier: i64,
    /// Whether it is another one than the log was begun with, so that transaction ids cannot be compared.
    pub other_system: bool,
    /// Whether rows were changed after they were sealed and before their tiles were written, so that nobody can write those.
    pub damaged: bool,
}

impl AuditGap {
    /// Whether the log can just go on.
    pub(super) fn is_none(&self) -> bool {
        let behind = self.logs.iter().any(|log| log.database < log.anchored);
        !behind && !self.damaged && !self.other_system && self.known_era == self.last_era
    }

    /// A log that was opened and never written.
    pub(super) fn add_empty(&mut self, trust: &AuditTrust) {
        self.last_era += 1;
        let origin = trust.origin(self.last_era);
        let (anchored, root) = (TreeSize::EMPTY, Hash32::of_empty_tree());
        self.logs.push(ClosedLog { origin, anchored, root, database: TreeSize::EMPTY });
    }
}

/// What a database is compared with, who is believed, and who is told of the progress.
pub(super) type Compared<'c> =
    (&'c Arc<dyn BackupTarget>, &'c AuditTrust, &'c (dyn Fn(AuditProgress) + Sync));

/// Compares the database with the target.
pub(super) async fn survey(
    (database, connection): (&Database, &mut PgConnection),
    (target, trust, progress): Compared<'_>,
) -> Result<AuditGap, AuditRecoverError> {
    let eras = stored::eras(connection).await?;
    let system_identifier = sqlx::query_scalar("SELECT system_identifier FROM pg_control_system()")
        .fetch_one(&mut *connection)
        .await
        .map_err(StoreError::from)?;
    let known = eras.last();
    let known_era = known.map_or(0, |era| era.era);
    let other_system = known.is_some_and(|era| era.system_identifier != system_identifier);
    let mut gap = AuditGap {
        known_era,
        last_era: last_era(target, known_era).await?,
        logs: Vec::new(),
        missing: MissingLeaves::default(),
        system_identifier,
        other_system,
        damaged: is_damaged(database, target, known_era).await?,
    };
    for era in known_era.max(1)..=gap.last_era {
        let mut seals = if era == known_era { stored::seals(connection, era).await? } else { Vec::new() };
        if gap.damaged {
            seals.pop();
        }
        let (log, missing) = closing(connection, (target, trust, progress), era, &seals).await?;
        gap.logs.push(log);
        gap.missing.add(missing);
    }
    Ok(gap)
}

async fn is_damaged(
    database: &Database,
    target: &Arc<dyn BackupTarget>,
    era: i16,
) -> Result<bool, AuditRecoverError> {
    let reader = TileReader::new(Arc::clone(target)).with_prefix(prefix_of(era));
    match can_be_finished(database, &reader, era).await {
        Ok(can_be) => Ok(!can_be),
        Err(AuditSealError::Store(error)) => Err(error.into()),
        Err(AuditSealError::Read(source)) => Err(AuditRecoverError::Log { era, source }),
        Err(error) => Err(AuditRecoverError::Untrusted { era, reason: error.to_string() }),
    }
}

/// The last era of which the target has anything.
async fn last_era(target: &Arc<dyn BackupTarget>, known: i16) -> Result<i16, AuditRecoverError> {
    let mut last = known;
    while let Some(next) = last.checked_add(1) {
        if target.list(Some(&prefix_of(next)), None, 1).await?.is_empty() {
            break;
        }
        last = next;
    }
    Ok(last)
}

/// A log as it is to be closed, and what is missing of it.
async fn closing(
    connection: &mut PgConnection,
    (target, trust, progress): Compared<'_>,
    era: i16,
    seals: &[StoredSeal],
) -> Result<(ClosedLog, MissingLeaves), AuditRecoverError> {
    let reader = TileReader::new(Arc::clone(target)).with_prefix(prefix_of(era));
    let failed = |source| AuditRecoverError::Log { era, source };
    let published = believed(&reader.checkpoint().await.map_err(failed)?, trust, era)?;
    let size = published.as_ref().map_or(TreeSize::EMPTY, Checkpoint::size);
    let pending = believed(&reader.anchored_after(size).await.map_err(failed)?, trust, era)?;
    let anchored = pending.or_else(|| published.clone());
    let origin = trust.origin(era);
    let Some(anchored) = anchored else {
        let (size, root) = (TreeSize::EMPTY, Hash32::of_empty_tree());
        return Ok((ClosedLog { origin, anchored: size, root, database: size }, MissingLeaves::default()));
    };
    let database = seals.iter().map(StoredSeal::end).filter(|end| *end <= anchored.size().0).max();
    let database = TreeSize(database.unwrap_or(0));
    let log = ClosedLog { origin, anchored: anchored.size(), root: *anchored.root(), database };
    if let Some(seal) = seals.iter().find(|seal| seal.end() == database.0) {
        check_same_history(connection, &reader, &anchored, published.as_ref(), (era, seal)).await?;
    }
    let mut found = MissingLeaves::default();
    let named = published.filter(|published| published.size() > database);
    if let Some(named) = named {
        let size = named.size();
        let tree = AuthenticTree::open(reader.clone(), named).await.map_err(failed)?;
        let mut leaves = LogLeaves::new(tree, reader);
        found = missing(connection, &mut leaves, (era, database.0..size.0), progress).await?;
    }
    // What is anchored and not published has no tiles perhaps.
    let readable = size.max(database);
    found.add_unnamed(anchored.size().0.saturating_sub(readable.0));
    Ok((log, found))
}

/// That the database's last seal is a part of what is anchored.
async fn check_same_history(
    connection: &mut PgConnection,
    reader: &TileReader,
    anchored: &Checkpoint,
    published: Option<&Checkpoint>,
    (era, seal): (i16, &StoredSeal),
) -> Result<(), AuditRecoverError> {
    let untrusted = |reason: &str| Err(AuditRecoverError::Untrusted { era, reason: reason.into() });
    let text = stored::checkpoint(connection, era, seal.number).await?;
    let Some(signed) = text.and_then(|text| SignedCheckpoint::parse(text.as_bytes()).ok()) else {
        return untrusted("the checkpoint of the database's last seal cannot be read");
    };
    let own = signed.unverified();
    if own == anchored || Some(own) == published {
        return Ok(());
    }
    let Some(published) = published.filter(|published| published.size() >= own.size()) else {
        return untrusted("the database has a seal that is not anchored");
    };
    let failed = |source: TileReadError| AuditRecoverError::Log { era, source };
    let mut tree = AuthenticTree::open(reader.clone(), published.clone()).await.map_err(failed)?;
    if tree.root_at(own.size()).await.map_err(failed)? != *own.root() {
        return untrusted("what is anchored is of another history than the database");
    }
    Ok(())
}

fn believed(
    found: &Option<SignedCheckpoint>,
    trust: &AuditTrust,
    era: i16,
) -> Result<Option<Checkpoint>, AuditRecoverError> {
    let Some(signed) = found else { return Ok(None) };
    match signed.verify(&trust.policy(era)?, trust.ed25519()) {
        Ok(verified) => Ok(Some(verified.checkpoint().clone())),
        Err(error) => Err(AuditRecoverError::Untrusted { era, reason: error.to_string() }),
    }
}
