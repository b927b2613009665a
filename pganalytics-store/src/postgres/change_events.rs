//! What changed: written by the unit of work in the transaction of the change, read back page by page.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use pganalytics_core::audit::{Action, Actor, Resource};
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::EventId;
use pganalytics_core::session::SessionId;
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::error::StoreError;
use super::unit_of_work::Statements;

/// One change of one resource.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ChangeEvent {
    /// Made once by the caller.
    pub id: EventId,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// Who did it, as known at that moment.
    pub actor: Actor,
    /// What was done.
    pub action: Action,
    /// To what.
    pub resource: Resource,
    /// What became of its fields.
    pub change: Change,
    /// The request that it belongs to.
    pub request_id: Option<String>,
    /// The session that it belongs to.
    pub session: Option<SessionId>,
}

/// The fields that differ, before and after. A field that is missing on one side was not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// `None` for what was made.
    pub before: Option<Value>,
    /// `None` for what was deleted.
    pub after: Option<Value>,
}

/// Which events to read.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ChangeFilter<'a> {
    /// Only those of this kind of resource.
    pub resource_kind: Option<&'a str>,
    /// Only those of this resource; needs its kind.
    pub resource_id: Option<&'a str>,
}

/// Where a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeCursor {
    /// The time of its last event.
    pub at: DateTime<Utc>,
    /// The id of its last event.
    pub id: EventId,
}

impl<'a> ChangeFilter<'a> {
    /// The events of a kind of resource, or of one resource.
    pub fn of_resource(kind: &'a str, id: Option<&'a str>) -> Self {
        Self { resource_kind: Some(kind), resource_id: id }
    }
}

impl ChangeEvent {
    /// An event without optional parts.
    pub fn new(id: EventId, at: DateTime<Utc>, actor: Actor, action: Action, resource: Resource) -> Self {
        Self { id, at, actor, action, resource, change: Change::default(), request_id: None, session: None }
    }

    /// Sets what became of the fields.
    #[must_use]
    pub fn with_change(self, change: Change) -> Self {
        Self { change, ..self }
    }

    /// Sets the request and the session.
    #[must_use]
    pub fn with_request(self, request_id: Option<String>, session: Option<SessionId>) -> Self {
        Self { request_id, session, ..self }
    }

    /// Where a page that ends with this event ends.
    pub fn cursor(&self) -> ChangeCursor {
        ChangeCursor { at: self.at, id: self.id }
    }
}

impl Change {
    /// What was made, in its public form.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    pub fn created(after: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self { before: None, after: Some(serde_json::to_value(after)?) })
    }

    /// What was deleted, in its public form.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    pub fn deleted(before: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self { before: Some(serde_json::to_value(before)?), after: None })
    }

    /// The difference of the public forms. Secrets are no part of them: types that hold one cannot be serialised.
    ///
    /// # Errors
    /// When a value cannot be written as JSON.
    pub fn between<T: Serialize>(before: &T, after: &T) -> Result<Self, serde_json::Error> {
        Ok(diff(&serde_json::to_value(before)?, &serde_json::to_value(after)?))
    }

    /// Whether no field differs.
    pub fn is_empty(&self) -> bool {
        self.before == self.after
    }
}

/// The fields of two values that differ: objects are compared field by field, everything else as a whole.
pub fn diff(before: &Value, after: &Value) -> Change {
    let (before, after) = differing(before, after).unwrap_or_else(|| (empty(), empty()));
    Change { before: Some(before), after: Some(after) }
}

/// `None` when they are equal.
fn differing(before: &Value, after: &Value) -> Option<(Value, Value)> {
    if before == after {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return Some((before.clone(), after.clone()));
    };
    let (mut olds, mut news) = (Map::new(), Map::new());
    for (name, old) in old {
        match new.get(name) {
            Some(new) => {
                if let Some((old, new)) = differing(old, new) {
                    olds.insert(name.clone(), old);
                    news.insert(name.clone(), new);
                }
            }
            None => drop(olds.insert(name.clone(), old.clone())),
        }
    }
    for (name, new) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        news.insert(name.clone(), new.clone());
    }
    Some((olds.into(), news.into()))
}

fn empty() -> Value {
    Value::Object(Map::new())
}

/// Up to `limit` events, newest first, after the end of the page before.
///
/// # Errors
/// When PostgreSQL could not answer.
pub async fn list(
    connection: &mut PgConnection,
    filter: ChangeFilter<'_>,
    after: Option<ChangeCursor>,
    limit: u32,
) -> Result<Vec<ChangeEvent>, StoreError> {
    let rows: Vec<ChangeRow> = sqlx::query_as(
        "SELECT id, at, actor, action, resource_type, resource_id, before, after, request_id, session_id \
         FROM change_events \
         WHERE ($1::text IS NULL OR resource_type = $1) AND ($2::text IS NULL OR resource_id = $2) \
           AND ($3::timestamptz IS NULL OR (at, id) < ($3, $4)) \
         ORDER BY at DESC, id DESC LIMIT $5",
    )
    .bind(filter.resource_kind)
    .bind(filter.resource_id)
    .bind(after.map(|cursor| cursor.at))
    .bind(after.map(|cursor| cursor.id.0))
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(ChangeEvent::try_from).collect()
}

/// Adds one INSERT of all events.
pub(super) fn insert(statements: &mut Statements, events: &[ChangeEvent]) {
    statements
        .then("INSERT INTO change_events (id, at, actor, action, resource_type, resource_id, before, after,")
        .sql(" request_id, session_id) VALUES ")
        .rows(events, |row, event| {
            let actor = serde_json::to_value(&event.actor).expect("an actor is a plain structure");
            let session = event.session.map(|session| session.to_string());
            row.uuid(event.id.0).sql(",").time(event.at).sql(",").json(&actor).sql(",");
            row.text(event.action.as_str()).sql(",").text(&event.resource.kind).sql(",");
            row.optional(event.resource.id.as_deref(), Statements::text).sql(",");
            row.optional(event.change.before.as_ref(), Statements::json).sql(",");
            row.optional(event.change.after.as_ref(), Statements::json).sql(",");
            row.optional(event.request_id.as_deref(), Statements::text).sql(",");
            row.optional(session.as_deref(), Statements::text);
        });
}

#[derive(FromRow)]
struct ChangeRow {
    id: Uuid,
    at: DateTime<Utc>,
    actor: Json<Actor>,
    action: String,
    resource_type: String,
    resource_id: Option<String>,
    before: Option<Value>,
    after: Option<Value>,
    request_id: Option<String>,
    session_id: Option<String>,
}

impl TryFrom<ChangeRow> for ChangeEvent {
    type Error = StoreError;

    fn try_from(row: ChangeRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: EventId(row.id),
            at: row.at,
            actor: row.actor.0,
            action: parse(&row.action)?,
            resource: Resource { kind: row.resource_type, id: row.resource_id },
            change: Change { before: row.before, after: row.after },
            request_id: row.request_id,
            session: row.session_id.as_deref().map(parse).transpose()?,
        })
    }
}

fn parse<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error| BackendError::never("postgres", error).into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_differing_fields_are_kept() {
        let before = json!({"name": "a", "role": "user", "limits": {"max": 1, "min": 0}, "gone": null});
        let after = json!({"name": "a", "role": "admin", "limits": {"max": 2, "min": 0}, "new": [1]});
        let change = diff(&before, &after);
        assert_eq!(change.before, Some(json!({"role": "user", "limits": {"max": 1}, "gone": null})));
        assert_eq!(change.after, Some(json!({"role": "admin", "limits": {"max": 2}, "new": [1]})));
    }

    #[test]
    fn equal_values_make_an_empty_change() {
        let value = json!({"a": [1, {"b": null}]});
        assert!(diff(&value, &value).is_empty());
        assert!(!diff(&json!({"a": null}), &json!({})).is_empty());
    }

    #[test]
    fn a_value_that_changes_its_kind_is_kept_whole() {
        let change = diff(&json!({"a": {"b": 1}}), &json!({"a": 1}));
        assert_eq!((change.before, change.after), (Some(json!({"a": {"b": 1}})), Some(json!({"a": 1}))));
    }
}
