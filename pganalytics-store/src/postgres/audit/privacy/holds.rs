use std::sync::Arc;

use chrono::{DateTime, Utc};
use pganalytics_core::audit::{Actor, AuditEvent, Change, Resource};
use pganalytics_core::clock::Clock;
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::{EventId, UserId};
use pganalytics_core::random::{Random, RandomExt};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::AuditOrderError;
use crate::postgres::{Begun, CommitError, Database, StoreError, UnitOfWork, UnitOfWorkLimits};

/// What must not be taken out of the log, whatever orders say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AuditHold {
    /// Its id.
    pub id: Uuid,
    /// The user whose events it keeps, those that others did to their account included; all events if nothing.
    pub subject: Option<UserId>,
    /// Why.
    pub reason: String,
    /// Since when.
    pub placed_at: DateTime<Utc>,
    /// Until when; nothing while it lasts.
    pub released_at: Option<DateTime<Utc>>,
}

/// The holds of a database. Only the owner of the tables places and releases them, and each time leaves an event.
///
/// A hold is what keeps people from a mistake: whoever owns the database can delete it, which its events outlive.
#[derive(Clone, Debug)]
pub struct AuditHolds {
    database: Database,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    actor: Actor,
}

#[derive(FromRow)]
struct HoldRow {
    id: Uuid,
    subject: Option<Uuid>,
    reason: String,
    placed_at: DateTime<Utc>,
    released_at: Option<DateTime<Utc>>,
}

impl AuditHolds {
    /// Those of this database, whose connections have the rights of its owner, changed by this actor.
    pub fn new(database: Database, parts: (Arc<dyn Clock>, Arc<dyn Random>), actor: Actor) -> Self {
        let (clock, random) = parts;
        Self { database, clock, random, actor }
    }

    /// Keeps the events of a user, or all. An order that is being executed right now ends first, or is stopped by it.
    ///
    /// # Errors
    /// When PostgreSQL could not answer, or refused.
    pub async fn place(&self, subject: Option<UserId>, reason: &str) -> Result<AuditHold, StoreError> {
        let id = self.random.uuid_v7(&*self.clock);
        let mut work = begin(&self.database).await?;
        let hold: HoldRow = sqlx::query_as(
            "INSERT INTO audit_holds (id, subject, reason, placed_at) VALUES ($1, $2, $3, $4) \
             RETURNING id, subject, reason, placed_at, released_at",
        )
        .bind(id)
        .bind(subject.map(|user| user.0))
        .bind(reason)
        .bind(self.clock.now())
        .fetch_one(work.connection())
        .await?;
        let hold = AuditHold::from(hold);
        self.record(&mut work, "audit.hold.place", id, Change::created(&hold))?;
        work.commit().await.map_err(CommitError::into_store_error)?;
        Ok(hold)
    }

    /// Ends a hold. `None` if there is none of this id that lasts.
    ///
    /// # Errors
    /// When PostgreSQL could not answer, or refused.
    pub async fn release(&self, id: Uuid) -> Result<Option<AuditHold>, StoreError> {
        let mut work = begin(&self.database).await?;
        let released: Option<HoldRow> = sqlx::query_as(
            "UPDATE audit_holds SET released_at = $2 WHERE id = $1 AND released_at IS NULL \
             RETURNING id, subject, reason, placed_at, released_at",
        )
        .bind(id)
        .bind(self.clock.now())
        .fetch_optional(work.connection())
        .await?;
        let Some(hold) = released.map(AuditHold::from) else { return Ok(None) };
        let before = AuditHold { released_at: None, ..hold.clone() };
        self.record(&mut work, "audit.hold.release", id, Change::between(&before, &hold))?;
        work.commit().await.map_err(CommitError::into_store_error)?;
        Ok(Some(hold))
    }

    /// All holds, those that were released too, as they were placed.
    ///
    /// # Errors
    /// When PostgreSQL could not answer.
    pub async fn list(&self) -> Result<Vec<AuditHold>, StoreError> {
        let holds =
            "SELECT id, subject, reason, placed_at, released_at FROM audit_holds ORDER BY placed_at, id";
        let holds: Vec<HoldRow> = sqlx::query_as(holds).fetch_all(&mut *self.database.read().await?).await?;
        Ok(holds.into_iter().map(AuditHold::from).collect())
    }

    fn record(
        &self,
        work: &mut UnitOfWork,
        action: &str,
        id: Uuid,
        change: Result<Change, serde_json::Error>,
    ) -> Result<(), StoreError> {
        let change = change.map_err(|error| BackendError::never("audit holds", error))?;
        let action = action.parse().expect("it is an action");
        let event = EventId(self.random.uuid_v7(&*self.clock));
        let done = (action, Resource::new("audit_hold", id));
        work.record(AuditEvent::of_change(event, self.clock.now(), self.actor.clone(), done, change));
        Ok(())
    }
}

impl From<HoldRow> for AuditHold {
    fn from(row: HoldRow) -> Self {
        let HoldRow { id, subject, reason, placed_at, released_at } = row;
        Self { id, subject: subject.map(UserId), reason, placed_at, released_at }
    }
}

/// What is held, as one transaction sees it, in which nobody places a hold any more.
#[derive(Debug)]
pub(super) struct Held(Vec<(Uuid, Option<Uuid>)>);

impl Held {
    /// Keeps holds from being placed until the transaction ends, and reads those that there are.
    pub(super) async fn lock(connection: &mut PgConnection) -> Result<Self, StoreError> {
        sqlx::query("LOCK TABLE audit_holds IN SHARE MODE").execute(&mut *connection).await?;
        let holds = "SELECT id, subject FROM audit_holds WHERE released_at IS NULL ORDER BY placed_at, id";
        Ok(Self(sqlx::query_as(holds).fetch_all(connection).await?))
    }

    /// Refuses to take what belongs to everybody.
    pub(super) fn check_all(&self) -> Result<(), AuditOrderError> {
        Self::refuse(self.0.iter().find(|(_, subject)| subject.is_none()))
    }

    /// Refuses to take what belongs to this user.
    pub(super) fn check(&self, user: Uuid) -> Result<(), AuditOrderError> {
        Self::refuse(self.0.iter().find(|(_, subject)| *subject == Some(user)))
    }

    /// The users whose events are held.
    pub(super) fn users(&self) -> Vec<Uuid> {
        self.0.iter().filter_map(|(_, subject)| *subject).collect()
    }

    fn refuse(hold: Option<&(Uuid, Option<Uuid>)>) -> Result<(), AuditOrderError> {
        hold.map_or(Ok(()), |(hold, _)| Err(AuditOrderError::Held { hold: *hold }))
    }
}

pub(super) async fn begin(database: &Database) -> Result<UnitOfWork, StoreError> {
    match UnitOfWork::begin(database, None, UnitOfWorkLimits::default()).await? {
        Begun::Fresh(work) => Ok(work),
        _ => unreachable!("without a key nothing is replayed"),
    }
}
