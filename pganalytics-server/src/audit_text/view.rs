use std::net::IpAddr;

use chrono::{DateTime, Utc};
use pganalytics_store::postgres::audit_log::StoredEvent;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// An event of the audit log.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = AuditEvent)]
pub(crate) struct EventView {
    pub(crate) id: Uuid,
    pub(crate) at: DateTime<Utc>,
    /// `anonymous`, `user`, `collector`, `system` or `operator`.
    pub(crate) actor_kind: &'static str,
    pub(crate) actor_id: Option<String>,
    pub(crate) actor_name: Option<String>,
    /// The role that allowed it, at that moment.
    pub(crate) actor_role: Option<String>,
    /// What was done, like `user.update`; `request.get` for a request.
    pub(crate) action: String,
    pub(crate) resource_type: Option<String>,
    pub(crate) resource_id: Option<String>,
    /// `success`, `denied` or `failure`.
    pub(crate) outcome: &'static str,
    pub(crate) reason: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) session_id: Option<String>,
    pub(crate) provider: Option<String>,
    #[schema(value_type = Option<String>)]
    pub(crate) address: Option<IpAddr>,
    pub(crate) user_agent: Option<String>,
    /// The fields that changed, as `before` and `after`; for a request its `path` and `status`.
    #[schema(value_type = Option<Object>)]
    pub(crate) changes: Option<serde_json::Value>,
    /// Whether name, address, user agent and changes were erased.
    pub(crate) erased: bool,
}

impl From<StoredEvent> for EventView {
    fn from(stored: StoredEvent) -> Self {
        let event = stored.event;
        let (resource_type, resource_id) = event.resource.map(|it| (it.kind, it.id)).unzip();
        Self {
            id: event.id.0,
            at: event.at,
            actor_kind: event.actor.kind.as_str(),
            actor_id: event.actor.id,
            actor_name: event.actor.name,
            actor_role: event.actor.role,
            action: event.action.to_string(),
            resource_type,
            resource_id: resource_id.flatten(),
            outcome: event.outcome.as_str(),
            reason: event.reason,
            request_id: event.request_id,
            session_id: event.session.map(|session| session.to_string()),
            provider: event.provider,
            address: event.address,
            user_agent: event.user_agent,
            changes: event.changes,
            erased: stored.is_erased,
        }
    }
}
