use std::fmt;

use pganalytics_core::audit::AuditEvent;
use sqlx::{PgConnection, PgTransaction};

use super::begin::{ClaimedKey, UnitOfWorkLimits};
use crate::postgres::StoreError;
use crate::postgres::audit::AuditWriter;
use crate::postgres::outbox::OutboxMessage;

/// One transaction: the effects of a request, the events that say what changed, the messages that leave afterwards,
/// and the reply that a retry gets. All of it is there after the commit, or none.
///
/// Dropping it rolls back.
pub struct UnitOfWork {
    transaction: PgTransaction<'static>,
    key: Option<ClaimedKey>,
    limits: UnitOfWorkLimits,
    writer: AuditWriter,
    events: Vec<AuditEvent>,
    messages: Vec<OutboxMessage>,
}

impl UnitOfWork {
    pub(super) fn new(
        transaction: PgTransaction<'static>,
        key: Option<ClaimedKey>,
        limits: UnitOfWorkLimits,
        writer: AuditWriter,
    ) -> Self {
        Self { transaction, key, limits, writer, events: Vec::new(), messages: Vec::new() }
    }

    /// The connection, within the transaction; one begun on it is a savepoint. Nothing but SQL may be waited for
    /// between two statements: PostgreSQL ends the transaction after [`UnitOfWorkLimits::silence`].
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Adds an event. All of them are written in one INSERT with the commit.
    pub fn record(&mut self, event: AuditEvent) {
        self.events.push(event);
    }

    /// How many events were recorded. A request that changes something without an event is a mistake of the
    /// program, which this lets the caller find.
    pub fn recorded(&self) -> usize {
        self.events.len()
    }

    /// Adds a message that leaves after the commit.
    pub fn enqueue(&mut self, message: OutboxMessage) {
        self.messages.push(message);
    }

    /// Undoes everything and frees the key. Dropping does so too, a little later.
    ///
    /// # Errors
    /// When PostgreSQL could not answer. It rolls back all the same.
    pub async fn roll_back(self) -> Result<(), StoreError> {
        Ok(self.transaction.rollback().await?)
    }

    pub(super) fn key(&self) -> Option<&ClaimedKey> {
        self.key.as_ref()
    }

    pub(super) fn limits(&self) -> &UnitOfWorkLimits {
        &self.limits
    }

    pub(super) fn writer(&self) -> &AuditWriter {
        &self.writer
    }

    pub(super) fn events(&self) -> &[AuditEvent] {
        &self.events
    }

    pub(super) fn messages(&self) -> &[OutboxMessage] {
        &self.messages
    }

    pub(super) fn forget_effects(&mut self) {
        self.events.clear();
        self.messages.clear();
    }
}

impl fmt::Debug for UnitOfWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Events hold people's data.
        f.debug_struct("UnitOfWork")
            .field("key", &self.key)
            .field("events", &self.events.len())
            .field("messages", &self.messages.len())
            .finish_non_exhaustive()
    }
}
