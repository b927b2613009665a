use std::sync::Arc;

use chrono::{DateTime, Utc};
use pganalytics_core::backup::BackupTarget;
use pganalytics_core::error::{PortError, Retry};
use pganalytics_core::tlog::{AuthenticTree, SignedCheckpoint, TileReadError, TileReader, TreeSize};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use super::verify::{prefix_of, stored};
use super::witness::{WitnessStanding, witness_standings};
use crate::postgres::{Database, StoreError};

/// What is published of the audit log, in its eras, and where it stands.
#[derive(Clone, Debug)]
pub struct PublishedAuditLog {
    database: Database,
    target: Arc<dyn BackupTarget>,
}

/// Where the newest log stands.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct AuditStanding {
    /// Its era.
    pub era: i16,
    /// Its name.
    pub origin: String,
    /// How many events the database has sealed in it.
    pub sealed: u64,
    /// When it sealed last.
    pub sealed_at: Option<DateTime<Utc>>,
    /// The size of the published checkpoint.
    pub published: u64,
    /// Its root, in base64; nothing while none is published.
    pub root: Option<String>,
    /// Stored events that no seal covers; counting ends at 100 000 of an era.
    pub waiting: u64,
    /// Since when, at the most, the one waits that waits for the longest.
    pub waiting_since: Option<DateTime<Utc>>,
    /// Why sealing does not go on by itself.
    pub halted: Option<AuditHalt>,
    /// How far each witness that was ever asked has cosigned it.
    pub witnesses: Vec<WitnessStanding>,
}

/// Why sealing does not go on by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditHalt {
    /// More is anchored than the database knows of.
    #[error("{anchored} events are anchored, of which the database has sealed {sealed}")]
    Behind {
        /// What is anchored.
        anchored: u64,
        /// What the database knows of.
        sealed: u64,
    },
    /// Less is published than the database has sealed and published.
    #[error("{published} events are published, of {sealed} that were")]
    CutOff {
        /// What is published.
        published: u64,
        /// What was.
        sealed: u64,
    },
    /// The anchor has a log that the database does not know of.
    #[error("the anchor has the log of era {era}, of which the database does not know")]
    EraUnknown {
        /// Its era.
        era: i16,
    },
    /// The database is another one than was sealed.
    #[error("the database cluster is another one than was sealed")]
    OtherSystem,
    /// What is anchored cannot be read.
    #[error("what is anchored cannot be read: {reason}")]
    Unreadable {
        /// Why.
        reason: String,
    },
}

/// Why the published log cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditReadError {
    /// The database could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The target could not answer, or what it has is damaged.
    #[error("the published audit log cannot be read")]
    Log(#[from] TileReadError),
}

impl AuditReadError {
    /// Whether the same call may succeed later, without anybody's doing.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Store(error) => error.retry(),
            Self::Log(TileReadError::Target(error)) => error.retry(),
            Self::Log(_) => Retry::Never,
        }
    }
}

#[derive(FromRow)]
struct Stored {
    era: i16,
    origin: String,
    is_this_system: bool,
    sealed: i64,
    published: i64,
    sealed_at: Option<DateTime<Utc>>,
    waiting: i64,
    waiting_since: Option<DateTime<Utc>>,
}

impl PublishedAuditLog {
    /// Of this database, and what this target keeps. It only reads both.
    pub fn new(database: Database, target: Arc<dyn BackupTarget>) -> Self {
        Self { database, target }
    }

    /// The checkpoint of an era's log; without an era, of the newest log of which one is published.
    ///
    /// # Errors
    /// When database or target could not answer, or what is published is damaged.
    pub async fn checkpoint(&self, era: Option<i16>) -> Result<Option<SignedCheckpoint>, AuditReadError> {
        Ok(self.published(era).await?.map(|(_, checkpoint)| checkpoint))
    }

    /// The newest checkpoint of that log with cosignatures of its witnesses, as far as they have come.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn cosigned(&self, era: Option<i16>) -> Result<Option<SignedCheckpoint>, AuditReadError> {
        let Some((reader, _)) = self.published(era).await? else { return Ok(None) };
        Ok(reader.cosigned().await?)
    }

    /// The tree of that checkpoint.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn tree(
        &self,
        era: Option<i16>,
    ) -> Result<Option<(SignedCheckpoint, AuthenticTree)>, AuditReadError> {
        let Some((reader, checkpoint)) = self.published(era).await? else { return Ok(None) };
        let tree = AuthenticTree::open(reader, checkpoint.unverified().clone()).await?;
        Ok(Some((checkpoint, tree)))
    }

    /// Where the newest log stands; nothing if none was begun.
    ///
    /// # Errors
    /// When database or target could not answer.
    pub async fn standing(&self) -> Result<Option<AuditStanding>, AuditReadError> {
        let mut connection = self.database.read().await?;
        let Some(stored) = Stored::read(&mut connection).await? else { return Ok(None) };
        let witnesses = witness_standings(&mut connection).await?;
        drop(connection);
        let (published, halted) = match self.anchored(&stored).await {
            Ok(anchored) => anchored,
            Err(error @ TileReadError::Target(_)) => return Err(error.into()),
            Err(error) => (None, Some(AuditHalt::Unreadable { reason: error.to_string() })),
        };
        let published = published.as_ref().map(SignedCheckpoint::unverified);
        Ok(Some(AuditStanding {
            era: stored.era,
            sealed: count(stored.sealed),
            sealed_at: stored.sealed_at,
            published: published.map_or(0, |published| published.size().0),
            root: published.map(|published| published.root().to_string()),
            waiting: count(stored.waiting),
            waiting_since: stored.waiting_since,
            halted: if stored.is_this_system { halted } else { Some(AuditHalt::OtherSystem) },
            origin: stored.origin,
            witnesses,
        }))
    }

    async fn published(
        &self,
        era: Option<i16>,
    ) -> Result<Option<(TileReader, SignedCheckpoint)>, AuditReadError> {
        let mut connection = self.database.read().await?;
        let known = stored::eras(&mut connection).await?;
        drop(connection);
        for known in known.iter().rev().filter(|known| era.is_none_or(|era| era == known.era)) {
            let reader = self.reader(known.era);
            if let Some(checkpoint) = reader.checkpoint().await? {
                return Ok(Some((reader, checkpoint)));
            }
        }
        Ok(None)
    }

    /// What is published of the newest log, and what of that the database does not know.
    async fn anchored(
        &self,
        stored: &Stored,
    ) -> Result<(Option<SignedCheckpoint>, Option<AuditHalt>), TileReadError> {
        let reader = self.reader(stored.era);
        let published = reader.checkpoint().await?;
        let size = published.as_ref().map_or(TreeSize::EMPTY, |published| published.unverified().size());
        let sealed = count(stored.sealed);
        let ahead = reader.anchored_after(TreeSize(sealed)).await?;
        let anchored = ahead.map_or(size, |ahead| ahead.unverified().size()).max(size);
        let next = stored.era.saturating_add(1);
        let halted = if self.reader(next).checkpoint().await?.is_some() {
            Some(AuditHalt::EraUnknown { era: next })
        } else if anchored.0 > sealed {
            Some(AuditHalt::Behind { anchored: anchored.0, sealed })
        } else if size.0 < count(stored.published) {
            Some(AuditHalt::CutOff { published: size.0, sealed: count(stored.published) })
        } else {
            None
        };
        Ok((published, halted))
    }

    fn reader(&self, era: i16) -> TileReader {
        TileReader::new(Arc::clone(&self.target)).with_prefix(prefix_of(era))
    }
}

impl Stored {
    async fn read(connection: &mut PgConnection) -> Result<Option<Self>, StoreError> {
        let stored = sqlx::query_as(
            "SELECT e.era, e.origin, \
                e.system_identifier = (SELECT system_identifier FROM pg_control_system()) AS is_this_system, \
                coalesce(s.sealed, 0) AS sealed, coalesce(s.published, 0) AS published, s.sealed_at, \
                lag.unsealed_events AS waiting, lag.unsealed_since AS waiting_since \
             FROM (SELECT * FROM audit_eras ORDER BY era DESC LIMIT 1) e \
             CROSS JOIN LATERAL ( \
                SELECT max(first_leaf + leaves) AS sealed, \
                    max(first_leaf + leaves) FILTER (WHERE published_at IS NOT NULL) AS published, \
                    max(sealed_at) AS sealed_at \
                FROM (SELECT * FROM audit_seals WHERE era = e.era ORDER BY number DESC LIMIT 2) newest \
             ) s \
             CROSS JOIN audit_seal_lag lag",
        );
        Ok(stored.fetch_optional(connection).await?)
    }
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
