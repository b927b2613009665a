use std::net::IpAddr;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use pganalytics_core::audit::{Actor, AuditEvent, Resource};
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::EventId;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::FromRow;
use uuid::Uuid;

use crate::postgres::error::StoreError;

/// An event, as it is in the log.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StoredEvent {
    /// The event, without what was erased of it.
    pub event: AuditEvent,
    /// Whether its personal fields were erased: name of the actor, address, user agent and changes.
    pub is_erased: bool,
}

/// Of the events `e` with their personal fields `p`.
macro_rules! columns {
    () => {
        "e.id, e.at, e.actor_kind, e.actor_id, e.actor_role, e.action, e.resource_type, e.resource_id, e.outcome, e.reason, \
         p.changes, e.request_id, e.session_id, e.provider, p.actor_name, p.address, p.user_agent, \
         p.id IS NULL AND num_nonnulls(e.actor_name_commitment, e.address_commitment, e.user_agent_commitment, \
             e.changes_commitment) > 0 AS is_erased"
    };
}
pub(super) use columns;

#[derive(FromRow)]
pub(super) struct EventRow {
    id: Uuid,
    at: DateTime<Utc>,
    actor_kind: String,
    actor_id: Option<String>,
    actor_role: Option<String>,
    action: String,
    resource_type: Option<String>,
    resource_id: Option<String>,
    outcome: String,
    reason: Option<String>,
    changes: Option<Value>,
    request_id: Option<String>,
    session_id: Option<String>,
    provider: Option<String>,
    actor_name: Option<String>,
    address: Option<IpAddr>,
    user_agent: Option<String>,
    is_erased: bool,
}

impl TryFrom<EventRow> for StoredEvent {
    type Error = StoreError;

    fn try_from(row: EventRow) -> Result<Self, StoreError> {
        let actor = Actor {
            kind: word(row.actor_kind)?,
            id: row.actor_id,
            name: row.actor_name,
            role: row.actor_role,
        };
        let action = parse(&row.action)?;
        let mut event = AuditEvent::new(EventId(row.id), row.at, actor, action, word(row.outcome)?);
        event.resource = row.resource_type.map(|kind| Resource { kind, id: row.resource_id });
        event.reason = row.reason;
        event.changes = row.changes;
        event.request_id = row.request_id;
        event.session = row.session_id.as_deref().map(parse).transpose()?;
        event.address = row.address;
        event.user_agent = row.user_agent;
        event.provider = row.provider;
        Ok(Self { event, is_erased: row.is_erased })
    }
}

fn word<T: DeserializeOwned>(word: String) -> Result<T, StoreError> {
    serde_json::from_value(Value::String(word)).map_err(|error| BackendError::never("postgres", error).into())
}

fn parse<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error| BackendError::never("postgres", error).into())
}
