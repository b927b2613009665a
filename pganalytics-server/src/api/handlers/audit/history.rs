use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use pganalytics_store::postgres::audit_log::{self, HistoryOrder, ResourceHistory, StoredEvent};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::query::{Asked, Position, cursor_text};
use crate::api::{ApiError, ApiPath, ErrorBody};
use crate::app::App;
use crate::audit_text::EventView;

/// What was done to a resource at one time, and by whom.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditHistoryEntry)]
struct Entry {
    /// The event, for `/api/v1/audit/events/{id}`.
    event_id: Uuid,
    at: DateTime<Utc>,
    /// What was done, like `user.update`.
    action: String,
    /// `success`, `denied` or `failure`.
    outcome: &'static str,
    reason: Option<String>,
    /// `anonymous`, `user`, `collector`, `system` or `operator`.
    actor_kind: &'static str,
    actor_id: Option<String>,
    actor_name: Option<String>,
    /// The role that allowed it, at that moment.
    actor_role: Option<String>,
    request_id: Option<String>,
    session_id: Option<String>,
    /// The fields that changed.
    changes: Vec<FieldChange>,
    /// How large the changes were, in bytes, where they were too large to be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated_bytes: Option<u64>,
    /// Whether the changes, and the actor's name, were erased.
    erased: bool,
}

/// A field that changed. A side is missing where there was no such field.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = AuditFieldChange)]
struct FieldChange {
    /// A JSON pointer (RFC 6901), like `/role`.
    field: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    after: Option<Value>,
}

/// In which order.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct Ordering {
    /// `newest` first, or `oldest`.
    #[param(value_type = String, default = "newest")]
    order: First,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum First {
    #[default]
    Newest,
    Oldest,
}

/// A page of the history of a resource.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditHistory)]
pub(super) struct History {
    entries: Vec<Entry>,
    /// For `after`, if there is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What was done to a resource, with the fields that changed.
#[utoipa::path(get, path = "/api/v1/audit/resources/{type}/{id}/history", tag = "audit",
    params(("type" = String, Path), ("id" = String, Path), Position, Ordering), responses(
    (status = 200, body = History), (status = 400, body = ErrorBody),
))]
pub(super) async fn history(
    State(app): State<App>,
    ApiPath((kind, id)): ApiPath<(String, String)>,
    Asked(position, Ordering { order }): Asked<Position, Ordering>,
) -> Result<Json<History>, ApiError> {
    let (after, limit) = position.checked()?;
    let order = match order {
        First::Newest => HistoryOrder::NewestFirst,
        First::Oldest => HistoryOrder::OldestFirst,
    };
    let mut connection = app.database.read().await?;
    let page =
        audit_log::history(&mut connection, ResourceHistory { kind: &kind, id: &id, order }, after, limit)
            .await?;
    let entries = page.events.into_iter().map(Entry::from).collect();
    Ok(Json(History { entries, next: page.next.map(cursor_text) }))
}

impl From<StoredEvent> for Entry {
    fn from(stored: StoredEvent) -> Self {
        let view = EventView::from(stored);
        Self {
            event_id: view.id,
            at: view.at,
            action: view.action,
            outcome: view.outcome,
            reason: view.reason,
            actor_kind: view.actor_kind,
            actor_id: view.actor_id,
            actor_name: view.actor_name,
            actor_role: view.actor_role,
            request_id: view.request_id,
            session_id: view.session_id,
            truncated_bytes: view
                .changes
                .as_ref()
                .and_then(|changes| changes.get("truncated_bytes")?.as_u64()),
            changes: view.changes.map(|changes| field_changes(&changes)).unwrap_or_default(),
            erased: view.erased,
        }
    }
}

/// The fields of `{"before": {…}, "after": {…}}`, nested ones each by itself.
fn field_changes(changes: &Value) -> Vec<FieldChange> {
    let mut found = Vec::new();
    collect("", changes.get("before"), changes.get("after"), &mut found);
    found
}

fn collect<'a>(
    field: &str,
    before: Option<&'a Value>,
    after: Option<&'a Value>,
    found: &mut Vec<FieldChange>,
) {
    if before == after {
        return;
    }
    let Some((before, after)) = members(before).zip(members(after)) else {
        let (field, before, after) = (field.to_owned(), before.cloned(), after.cloned());
        return found.push(FieldChange { field, before, after });
    };
    let sides = [before, after].into_iter().flatten();
    let names: BTreeSet<&String> = sides.flat_map(Map::keys).collect();
    for name in names {
        let pointer = format!("{field}/{}", name.replace('~', "~0").replace('/', "~1"));
        let member = |side: Option<&'a Map<String, Value>>| side.and_then(|side| side.get(name));
        collect(&pointer, member(before), member(after), found);
    }
}

/// The members of an object, none of what is not there; `None` of any other value, and of an object without members.
fn members(value: Option<&Value>) -> Option<Option<&Map<String, Value>>> {
    match value {
        None => Some(None),
        Some(Value::Object(members)) if !members.is_empty() => Some(Some(members)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changed(changes: &Value) -> Vec<(String, Option<Value>, Option<Value>)> {
        field_changes(changes).into_iter().map(|it| (it.field, it.before, it.after)).collect()
    }

    #[test]
    fn each_field_is_told_by_itself() {
        let changes = json!({
            "before": { "role": "user", "limits": { "max": 1 }, "a/b~": 1, "gone": null, "list": [1] },
            "after": { "role": "admin", "limits": { "max": 2, "min": {} }, "a/b~": 2, "list": [1, 2] },
        });
        assert_eq!(
            changed(&changes),
            [
                ("/a~1b~0".into(), Some(json!(1)), Some(json!(2))),
                ("/gone".into(), Some(json!(null)), None),
                ("/limits/max".into(), Some(json!(1)), Some(json!(2))),
                ("/limits/min".into(), None, Some(json!({}))),
                ("/list".into(), Some(json!([1])), Some(json!([1, 2]))),
                ("/role".into(), Some(json!("user")), Some(json!("admin"))),
            ]
        );
    }

    #[test]
    fn what_is_made_or_deleted_has_one_side() {
        let expected =
            |side: Value| vec![("/name".to_owned(), side.get("b").cloned(), side.get("a").cloned())];
        assert_eq!(changed(&json!({ "after": { "name": "x" } })), expected(json!({ "a": "x" })));
        assert_eq!(changed(&json!({ "before": { "name": "x" } })), expected(json!({ "b": "x" })));
    }

    #[test]
    fn details_of_other_events_are_no_changes() {
        for other in
            [json!({ "path": "/x", "status": 200 }), json!({ "truncated_bytes": 7 }), json!(null), json!([])]
        {
            assert_eq!(changed(&other), []);
        }
        let odd = json!({ "before": { "a": { "b": 1 } }, "after": { "a": 1 } });
        assert_eq!(changed(&odd), [("/a".into(), Some(json!({ "b": 1 })), Some(json!(1)))]);
    }
}
