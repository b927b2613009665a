//! The change events of what happens to sealed columns as a whole.

use pganalytics_core::audit::{Action, Actor, AuditEvent, Change, Resource};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::EventId;
use pganalytics_core::random::{Random, RandomExt};
use serde_json::Value;

use crate::postgres::database::Database;
use crate::postgres::error::StoreError;
use crate::postgres::unit_of_work::{Begun, CommitError, UnitOfWork, UnitOfWorkLimits};

/// Who does something, and what an event of it is made with.
pub(super) struct Author<'a> {
    pub(super) clock: &'a dyn Clock,
    pub(super) random: &'a dyn Random,
    pub(super) actor: &'a Actor,
}

pub(super) async fn begin(database: &Database) -> Result<UnitOfWork, StoreError> {
    match UnitOfWork::begin(database, None, UnitOfWorkLimits::default()).await? {
        Begun::Fresh(work) => Ok(work),
        _ => unreachable!("without a key nothing is replayed"),
    }
}

impl Author<'_> {
    /// Commits a transaction with an event that says what became of the sealed columns.
    pub(super) async fn commit(
        &self,
        mut work: UnitOfWork,
        action: &'static str,
        after: Value,
    ) -> Result<(), StoreError> {
        let id = EventId(self.random.uuid_v7(self.clock));
        let action: Action = action.parse().expect("the constant is an action");
        let resource = Resource::new("database", "column_encryption");
        let change = Change { before: None, after: Some(after) };
        let (at, actor) = (self.clock.now(), self.actor.clone());
        work.record(AuditEvent::of_change(id, at, actor, (action, resource), change));
        work.commit().await.map_err(CommitError::into_store_error)
    }
}
