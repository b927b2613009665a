use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::audit::LeafRow;

/// What selects events of which an order takes the personal fields, by what is proved of them. In the order of their lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Selector {
    /// What a user did.
    ActorUser(Uuid),
    /// What was done to a user's account.
    ResourceUser(Uuid),
    /// One event.
    Event {
        /// Its time, in whole microseconds.
        at: DateTime<Utc>,
        /// Its id.
        id: Uuid,
    },
    /// Everything before a time.
    Before(DateTime<Utc>),
}

/// What is taken of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Removed {
    /// Its personal fields.
    PersonalFields,
    /// All of it but its leaf in the tree.
    Event,
}

/// The selectors that select this event, but for those that do by its time alone.
pub(super) fn selectors_of(event: &LeafRow<'_>) -> impl Iterator<Item = Selector> {
    let user = |kind: Option<&str>, id: Option<&str>| id.filter(|_| kind == Some("user")).and_then(canonical);
    let actor = user(Some(event.actor_kind), event.actor_id).map(Selector::ActorUser);
    let resource = user(event.resource_type, event.resource_id).map(Selector::ResourceUser);
    let id = event.id;
    let event = event.at().map(|at| Selector::Event { at, id });
    [actor, resource, event].into_iter().flatten()
}

/// A UUID as orders write it.
pub(super) fn canonical(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    (id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text).then_some(id)
}
