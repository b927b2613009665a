use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

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
    /// What changed: `{"field": {"before": …, "after": …}}`, without secrets.
    pub changes: Option<serde_json::Value>,
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

    /// Cuts texts from outside to [`TEXT_MAX_BYTES`] at the most, ending in `…[truncated N bytes]`. What was cut is not cut again.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let texts = [&mut self.reason, &mut self.request_id, &mut self.user_agent, &mut self.actor.name];
        for text in texts.into_iter().flatten() {
            truncate(text, TEXT_MAX_BYTES);
        }
        self
    }
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
