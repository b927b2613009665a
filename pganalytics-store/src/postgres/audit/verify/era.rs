use std::sync::Arc;

use pganalytics_core::backup::{BackupTarget, BackupTargetError, ObjectPath};
use pganalytics_core::tlog::{
    AuthenticTree, Checkpoint, CheckpointPolicy, SignedCheckpoint, TileReadError, TileReader, TreeSize,
};
use sqlx::PgConnection;

use super::super::recover::ClosedLog;
use super::AuditVerifyError;
use super::cosigned::CosignedPart;
use super::finding::Finding;
use super::findings::Findings;
use super::log::LogLeaves;
use super::log_fault::LogFault;
use super::stored::{self, StoredEra, StoredSeal};
use super::trust::AuditTrust;

/// How many anchors are listed at a time.
const ANCHORS: usize = 1000;

/// The log of an era: what the target has of it, and what the database has.
#[derive(Clone, Debug)]
pub(super) struct EraLog {
    pub(super) era: i16,
    pub(super) policy: CheckpointPolicy,
    pub(super) reader: TileReader,
    /// The newest checkpoint that is believed.
    pub(super) checkpoint: Option<Checkpoint>,
    /// Its leaves, if its tiles lead to the root.
    pub(super) log: Option<LogLeaves>,
    pub(super) seals: Vec<StoredSeal>,
    /// What is on record about its end, if it was closed.
    pub(super) closed: Option<ClosedLog>,
    /// What its witnesses have cosigned, if any are demanded.
    pub(super) cosigned: Option<CosignedPart>,
}

/// What is published.
#[derive(PartialEq, Eq)]
enum Published {
    Believed(Checkpoint),
    /// What is there is not believed, which was said.
    Refused,
    Missing,
}

/// Where an era lies in the target.
pub(in crate::postgres::audit) fn prefix_of(era: i16) -> ObjectPath {
    format!("era-{era}").parse().expect("letters and digits are a path")
}

impl EraLog {
    /// Reads what there is. The target comes first: what is anchored then has its seal.
    pub(super) async fn open(
        connection: &mut PgConnection,
        target: &Arc<dyn BackupTarget>,
        trust: &AuditTrust,
        (stored, closed): (&StoredEra, Option<ClosedLog>),
        findings: &Findings,
    ) -> Result<Self, AuditVerifyError> {
        let era = stored.era;
        let reader = TileReader::new(Arc::clone(target)).with_prefix(prefix_of(era));
        let policy = trust.policy(era)?;
        let (checkpoint, log, cosigned) = (None, None, None);
        let mut log = Self { era, policy, reader, checkpoint, log, seals: Vec::new(), closed, cosigned };
        let fault = |fault| findings.add(Finding::Log { era, fault });
        if stored.origin != trust.origin(era).as_str() {
            fault(LogFault::OtherLog { found: stored.origin.clone() });
        }
        let published = log.published(trust, &fault).await?;
        let anchors = anchors(target, era).await?;
        log.seals = stored::seals(connection, era).await?;
        if published == Published::Missing && log.seals.iter().any(|seal| seal.published) {
            fault(LogFault::NoCheckpoint);
        }
        log.checkpoint = match published {
            Published::Believed(published) => Some(published),
            _ => log.newest_believed(connection, trust).await?,
        };
        for name in &anchors {
            if !log.has_anchor(name) {
                fault(LogFault::AnchorUnknown { name: name.clone() });
            }
        }
        if let Some(checkpoint) = log.checkpoint.clone() {
            match AuthenticTree::open(log.reader.clone(), checkpoint).await {
                Ok(tree) => log.log = Some(LogLeaves::new(tree, log.reader.clone())),
                Err(error) => fault(tiles_fault(error)?),
            }
        }
        if let Some(reason) = log.check_closed().await? {
            fault(reason);
        }
        Ok(log)
    }

    /// How many leaves are believed.
    pub(super) fn size(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size().0)
    }

    /// Compares with a checkpoint that somebody kept.
    pub(super) async fn check_kept(
        &mut self,
        trust: &AuditTrust,
        kept: &SignedCheckpoint,
        findings: &Findings,
    ) -> Result<(), AuditVerifyError> {
        const PLACE: &str = "kept from earlier";
        let era = self.era;
        let fault = |fault| findings.add(Finding::Log { era, fault });
        let size = kept.unverified().size();
        if let Err(error) = kept.verify(&self.policy, trust.ed25519()) {
            fault(LogFault::Untrusted { place: PLACE, size: size.0, reason: error.to_string() });
        } else if size.0 > self.size() {
            fault(LogFault::CutOff { place: PLACE, before: size.0, now: self.size() });
        } else if let Some(log) = &mut self.log {
            match log.tree().root_at(size).await {
                Ok(root) if root == *kept.unverified().root() => {}
                Ok(_) => fault(LogFault::TwoHistories { place: PLACE, size: size.0 }),
                Err(error) => fault(tiles_fault(error)?),
            }
        }
        Ok(())
    }

    /// Compares the seal with its checkpoint, that with the tree, and its anchor.
    pub(super) async fn check_seal(
        &self,
        connection: &mut PgConnection,
        trust: &AuditTrust,
        seal: &StoredSeal,
        log: Option<&mut LogLeaves>,
    ) -> Result<Vec<LogFault>, AuditVerifyError> {
        const PLACE: &str = "of a seal in the database";
        let changed = |reason: &str| LogFault::SealChanged { number: seal.number, reason: reason.into() };
        let text = stored::checkpoint(connection, self.era, seal.number).await?;
        let Some(signed) = text.and_then(|text| SignedCheckpoint::parse(text.as_bytes()).ok()) else {
            return Ok(vec![changed("its checkpoint cannot be read")]);
        };
        let mut faults = Vec::new();
        let checkpoint = signed.unverified();
        let size = checkpoint.size();
        if let Err(error) = signed.verify(&self.policy, trust.ed25519()) {
            faults.push(LogFault::Untrusted { place: PLACE, size: size.0, reason: error.to_string() });
        }
        if size.0 != seal.end() {
            faults.push(changed("its leaves are not those of its checkpoint"));
        } else if let Some(log) = log.filter(|_| size.0 <= self.size()) {
            match log.tree().root_at(size).await {
                Ok(root) if root == *checkpoint.root() => {}
                Ok(_) => faults.push(LogFault::TwoHistories { place: PLACE, size: size.0 }),
                Err(error) => faults.push(tiles_fault(error)?),
            }
        }
        match self.reader.anchored_after(TreeSize(seal.first)).await {
            Ok(Some(anchor)) if anchor.note().unverified_text() == signed.note().unverified_text() => {}
            Ok(None) if !seal.published && seal.end() > self.size() => {}
            Ok(None) => faults.push(LogFault::AnchorGone { after: seal.first }),
            Ok(Some(_)) => faults.push(LogFault::AnchorDiffers { after: seal.first }),
            Err(error) => faults.push(tiles_fault(error)?),
        }
        Ok(faults)
    }

    async fn published(
        &self,
        trust: &AuditTrust,
        fault: &impl Fn(LogFault),
    ) -> Result<Published, AuditVerifyError> {
        let published = match self.reader.checkpoint().await {
            Ok(Some(published)) => published,
            Ok(None) => return Ok(Published::Missing),
            Err(error) => {
                fault(tiles_fault(error)?);
                return Ok(Published::Refused);
            }
        };
        match published.verify(&self.policy, trust.ed25519()) {
            Ok(verified) => Ok(Published::Believed(verified.checkpoint().clone())),
            Err(error) => {
                let size = published.unverified().size().0;
                fault(LogFault::Untrusted { place: "published", size, reason: error.to_string() });
                Ok(Published::Refused)
            }
        }
    }

    /// Whether a log that was closed is as it was then.
    async fn check_closed(&self) -> Result<Option<LogFault>, AuditVerifyError> {
        const PLACE: &str = "on record since it was closed";
        let (Some(closed), Some(checkpoint)) = (&self.closed, &self.checkpoint) else { return Ok(None) };
        let (size, anchored) = (checkpoint.size(), closed.anchored);
        if size > anchored {
            let reason = "the log went on after it was closed".into();
            return Ok(Some(LogFault::Gap { reason }));
        }
        let mut last = checkpoint.clone();
        if size < anchored {
            // What was anchored last need not have been published.
            match self.reader.anchored_after(size).await {
                Ok(Some(pending)) if pending.unverified().size() == anchored => {
                    last = pending.unverified().clone();
                }
                Ok(_) => {
                    let (before, now) = (anchored.0, size.0);
                    return Ok(Some(LogFault::CutOff { place: PLACE, before, now }));
                }
                Err(error) => return tiles_fault(error).map(Some),
            }
        }
        let is_same = *last.root() == closed.root;
        Ok((!is_same).then_some(LogFault::TwoHistories { place: PLACE, size: anchored.0 }))
    }

    /// Where none is published to be believed, that of the newest seal serves.
    async fn newest_believed(
        &self,
        connection: &mut PgConnection,
        trust: &AuditTrust,
    ) -> Result<Option<Checkpoint>, AuditVerifyError> {
        for seal in self.seals.iter().rev().take(100) {
            let text = stored::checkpoint(&mut *connection, self.era, seal.number).await?;
            let signed = text.and_then(|text| SignedCheckpoint::parse(text.as_bytes()).ok());
            let verified = signed.and_then(|signed| signed.verify(&self.policy, trust.ed25519()).ok());
            if let Some(verified) = verified {
                return Ok(Some(verified.checkpoint().clone()));
            }
        }
        Ok(None)
    }

    fn has_anchor(&self, name: &str) -> bool {
        let after = name.rsplit_once("/after-").and_then(|(_, size)| size.parse().ok());
        let Some(after) = after else { return false };
        let lost = |closed: &ClosedLog| (closed.database.0..closed.anchored.0).contains(&after);
        self.closed.as_ref().is_some_and(lost)
            || self.seals.binary_search_by_key(&after, |seal| seal.first).is_ok()
    }
}

/// What an error of tiles says about the log.
///
/// # Errors
/// When the target could not answer, which says nothing.
pub(super) fn tiles_fault(error: TileReadError) -> Result<LogFault, AuditVerifyError> {
    match error {
        TileReadError::Target(error) => Err(error.into()),
        other => Ok(LogFault::Tiles { reason: other.to_string() }),
    }
}

/// The names of the anchors of an era.
async fn anchors(target: &Arc<dyn BackupTarget>, era: i16) -> Result<Vec<String>, BackupTargetError> {
    let prefix: ObjectPath =
        format!("{}/checkpoints", prefix_of(era)).parse().expect("letters and digits are a path");
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = target.list(Some(&prefix), after.as_ref(), ANCHORS).await?;
        names.extend(page.iter().map(|object| object.path.to_string()));
        if page.len() < ANCHORS {
            return Ok(names);
        }
        after = page.into_iter().next_back().map(|object| object.path);
    }
}
