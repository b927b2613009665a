//! The change events of what happens to sealed columns as a whole.

use pganalytics_core::audit::{Action, Actor, Resource};
use pganalytics_core::clock::Clock;
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::EventId;
use pganalytics_core::random::{Random, RandomExt};
use serde_json::Value;

use crate::postgres::change_events::{Change, ChangeEvent};
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
        let event = ChangeEvent::new(id, self.clock.now(), self.actor.clone(), action, resource);
        work.record(event.with_change(Change { before: None, after: Some(after) }));
        work.commit().await.map_err(|error| match error {
            CommitError::Store(error) => error,
            other => BackendError::later("postgres", other).into(),
        })
    }
}
