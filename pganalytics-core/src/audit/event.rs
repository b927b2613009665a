use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::Change;
use crate::ids::EventId;
use crate::session::SessionId;

/// The longest text of an event, in bytes; [`AuditEvent::bounded`] cuts longer ones to that, with the mark of the cut.
pub const TEXT_MAX_BYTES: usize = 4096;

/// What happened: dotted lower-case words from the general to the special, like `user.role.update`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Action(String);

impl Action {
    /// The action.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that names no action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no action: 1 to 100 bytes of dotted lower-case words")]
pub struct InvalidAction(pub String);

impl FromStr for Action {
    type Err = InvalidAction;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let word = |word: &str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        if text.len() > 100 || !text.split('.').all(word) {
            return Err(InvalidAction(text.into()));
        }
        Ok(Self(text.into()))
    }
}

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The longest [`AuditEvent::changes`], in bytes of its JSON; longer ones are told of by their length alone.
pub const CHANGES_MAX_BYTES: usize = 32 * 1024;

/// What kind of actor it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ActorKind {
    /// Somebody who has not signed in.
    Anonymous,
    /// A user.
    User,
    /// A collector.
    Collector,
    /// The program itself: a background job.
    System,
    /// An administrator at the command line.
    Operator,
}

impl ActorKind {
    /// The word by which it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::User => "user",
            Self::Collector => "collector",
            Self::System => "system",
            Self::Operator => "operator",
        }
    }
}

/// Who it was, as known at that moment: events keep a snapshot, not a reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// What kind.
    pub kind: ActorKind,
    /// The id, where there is one.
    pub id: Option<String>,
    /// The name for people.
    pub name: Option<String>,
    /// The role that allowed it.
    pub role: Option<String>,
}

impl Actor {
    /// Somebody who has not signed in.
    pub fn anonymous() -> Self {
        Self { kind: ActorKind::Anonymous, id: None, name: None, role: None }
    }

    /// A background job of the program.
    pub fn system(job: &str) -> Self {
        Self { kind: ActorKind::System, id: None, name: Some(format!("system:{job}")), role: None }
    }
}

/// What it was done to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resource {
    /// The kind, like `user`.
    pub kind: String,
    /// The id, where there is one.
    pub id: Option<String>,
}

impl Resource {
    /// A resource with an id.
    pub fn new(kind: impl Into<String>, id: impl fmt::Display) -> Self {
        Self { kind: kind.into(), id: Some(id.to_string()) }
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// It was done.
    Success,
    /// It was refused.
    Denied,
    /// It failed.
    Failure,
}

impl Outcome {
    /// The word by which it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Denied => "denied",
            Self::Failure => "failure",
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AuditEvent {
    /// Made once, when it happened; by it sinks that dedupe know a repeat.
    pub id: EventId,
    /// When it happened; never changed afterwards.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: Action,
    /// To what.
    pub resource: Option<Resource>,
    /// How it went.
    pub outcome: Outcome,
    /// Why it was refused or failed.
    pub reason: Option<String>,
    /// What changed, without secrets: `{"before": {…}, "after": {…}}` with the fields that differ, as a
    /// [`Change`] makes it. Events that change nothing may tell details here.
    pub changes: Option<Value>,
    /// The request that it belongs to.
    pub request_id: Option<String>,
    /// The session that it belongs to.
    pub session: Option<SessionId>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The client's `User-Agent`.
    pub user_agent: Option<String>,
    /// The sign-in provider.
    pub provider: Option<String>,
}

impl AuditEvent {
    /// An event without optional parts.
    pub fn new(id: EventId, at: DateTime<Utc>, actor: Actor, action: Action, outcome: Outcome) -> Self {
        Self {
            id,
            at,
            actor,
            action,
            resource: None,
            outcome,
            reason: None,
            changes: None,
            request_id: None,
            session: None,
            address: None,
            user_agent: None,
            provider: None,
        }
    }

    /// The event of a change that was made.
    pub fn of_change(
        id: EventId,
        at: DateTime<Utc>,
        actor: Actor,
        (action, resource): (Action, Resource),
        change: Change,
    ) -> Self {
        let event = Self::new(id, at, actor, action, Outcome::Success);
        Self { resource: Some(resource), changes: Some(change.into_value()), ..event }
    }

    /// Sets what it was done to.
    #[must_use]
    pub fn with_resource(self, resource: Resource) -> Self {
        Self { resource: Some(resource), ..self }
    }

    /// Sets the details.
    #[must_use]
    pub fn with_changes(self, changes: Value) -> Self {
        Self { changes: Some(changes), ..self }
    }

    /// Cuts texts to [`TEXT_MAX_BYTES`] at the most, ending in `…[truncated N bytes]`, and puts `{"truncated_bytes": N}` in the place
    /// of changes that are longer than [`CHANGES_MAX_BYTES`]. What was cut is not cut again.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.texts_mut().for_each(|text| truncate(text, TEXT_MAX_BYTES));
        if let Some(changes) = &self.changes
            && longest(changes) > CHANGES_MAX_BYTES
        {
            let bytes = length_of(changes);
            if bytes > CHANGES_MAX_BYTES {
                self.changes = Some(json!({ "truncated_bytes": bytes }));
            }
        }
        self
    }

    /// Whether [`bounded`](Self::bounded) would leave it as it is.
    pub fn is_bounded(&self) -> bool {
        let resource = self.resource.as_ref();
        let texts = [
            self.actor.id.as_ref(),
            self.actor.name.as_ref(),
            self.actor.role.as_ref(),
            resource.map(|resource| &resource.kind),
            resource.and_then(|resource| resource.id.as_ref()),
            self.reason.as_ref(),
            self.request_id.as_ref(),
            self.user_agent.as_ref(),
            self.provider.as_ref(),
        ];
        texts.into_iter().flatten().all(|text| text.len() <= TEXT_MAX_BYTES)
            && self.changes.as_ref().is_none_or(|changes| {
                longest(changes) <= CHANGES_MAX_BYTES || length_of(changes) <= CHANGES_MAX_BYTES
            })
    }

    fn texts_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let (kind, id) = match &mut self.resource {
            Some(Resource { kind, id }) => (Some(kind), id.as_mut()),
            None => (None, None),
        };
        [
            self.actor.id.as_mut(),
            self.actor.name.as_mut(),
            self.actor.role.as_mut(),
            kind,
            id,
            self.reason.as_mut(),
            self.request_id.as_mut(),
            self.user_agent.as_mut(),
            self.provider.as_mut(),
        ]
        .into_iter()
        .flatten()
    }
}

/// As long as its JSON can be at the most, in bytes: what most are far from need not be written to be counted.
fn longest(value: &Value) -> usize {
    // Each byte may be escaped; quotes and a separator.
    let text = |text: &str| 6 * text.len() + 3;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 32,
        Value::String(string) => text(string),
        Value::Array(items) => items.iter().map(|item| longest(item) + 1).sum::<usize>() + 2,
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| text(name) + longest(value) + 1).sum::<usize>() + 2
        }
    }
}

/// The length of its JSON in bytes.
fn length_of(value: &Value) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, value).expect("a JSON value can be written");
    counter.0
}

/// As long as the mark of a cut is with the largest number.
const MARK_MAX_BYTES: usize = "…[truncated 18446744073709551615 bytes]".len();

/// Cuts a text to so many bytes at the most, with the mark of the cut, which takes some of them.
pub(crate) fn truncate(text: &mut String, max_bytes: usize) {
    if text.len() <= max_bytes {
        return;
    }
    let end = text.floor_char_boundary(max_bytes.saturating_sub(MARK_MAX_BYTES));
    let cut = text.len() - end;
    text.truncate(end);
    text.push_str(&format!("…[truncated {cut} bytes]"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_outcomes_are_written_as_they_are_serialised() {
        let kinds = [
            ActorKind::Anonymous,
            ActorKind::User,
            ActorKind::Collector,
            ActorKind::System,
            ActorKind::Operator,
        ];
        for kind in kinds {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for outcome in [Outcome::Success, Outcome::Denied, Outcome::Failure] {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
    }

    #[test]
    fn no_part_of_an_event_is_unbounded() {
        let long = "x".repeat(100_000);
        let action = "test.event".parse().unwrap();
        let actor = Actor {
            kind: ActorKind::User,
            id: Some(long.clone()),
            name: Some(long.clone()),
            role: Some(long.clone()),
        };
        let mut event =
            AuditEvent::new(EventId(uuid::Uuid::nil()), DateTime::UNIX_EPOCH, actor, action, Outcome::Denied)
                .with_resource(Resource::new(long.clone(), &long))
                .with_changes(json!({ "after": { "text": long } }));
        for text in [&mut event.reason, &mut event.request_id, &mut event.user_agent, &mut event.provider] {
            *text = Some(long.clone());
        }
        assert!(!event.is_bounded());
        let bounded = event.bounded();
        assert!(bounded.is_bounded());
        assert_eq!(bounded.changes, Some(json!({ "truncated_bytes": 100_021 })));
        assert!(serde_json::to_vec(&bounded).unwrap().len() < 72 * 1024);
        assert_eq!(bounded.clone().bounded(), bounded);
    }

    #[test]
    fn long_texts_are_cut_once_and_say_by_how_much() {
        for (letter, length) in [("x", TEXT_MAX_BYTES + 1), ("x", 1 << 20), ("漢", 1 << 19)] {
            let mut text = letter.repeat(length / letter.len() + 1);
            let before = text.len();
            truncate(&mut text, TEXT_MAX_BYTES);
            assert!(text.len() <= TEXT_MAX_BYTES, "{}", text.len());
            let (kept, mark) = text.split_once('…').unwrap();
            assert_eq!(mark, format!("[truncated {} bytes]", before - kept.len()));
            let once = text.clone();
            truncate(&mut text, TEXT_MAX_BYTES);
            assert_eq!(text, once);
        }
        let mut whole = "x".repeat(TEXT_MAX_BYTES);
        truncate(&mut whole, TEXT_MAX_BYTES);
        assert_eq!(whole, "x".repeat(TEXT_MAX_BYTES));
    }
}
