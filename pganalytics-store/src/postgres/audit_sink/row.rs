use std::borrow::Cow;
use std::net::IpAddr;

use chrono::{DateTime, Utc};
use pganalytics_core::audit::{AuditEvent, TEXT_MAX_BYTES};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::postgres::StoreError;
use crate::postgres::audit_log::name_of;
use crate::postgres::binary_copy::{HEADER, TRAILER, inet, put_field, put_jsonb, put_optional, timestamp};
use crate::postgres::text;

use super::commitment::{Committed, PersonalField, Salt};

const COPY_EVENTS: &str = "COPY audit_events (at, id, writer, writer_sequence, actor_kind, actor_id, actor_role, action, \
    resource_type, resource_id, outcome, reason, changes, request_id, session_id, provider, actor_name_commitment, \
    address_commitment, user_agent_commitment) FROM STDIN (FORMAT binary)";
const EVENT_FIELDS: i16 = 19;

const COPY_PERSONAL: &str = "COPY audit_personal (at, id, actor_name, actor_name_salt, address, address_salt, user_agent, \
    user_agent_salt) FROM STDIN (FORMAT binary)";
const PERSONAL_FIELDS: i16 = 8;

/// An event as it is sent to PostgreSQL.
#[derive(Debug)]
pub(super) struct Row {
    /// Its place in the batch.
    pub(super) position: usize,
    pub(super) key: Key,
    event: Vec<u8>,
    /// Empty where the event has no personal field.
    personal: Vec<u8>,
}

/// What a row says beside its event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// In the batch.
    pub(super) position: usize,
    pub(super) writer: Uuid,
    pub(super) sequence: i64,
    /// Of the actor's name, the address and the user agent.
    pub(super) salts: [Salt; 3],
}

/// Rows in the format of binary COPY.
#[derive(Debug)]
pub(super) struct CopyData {
    events: Vec<u8>,
    personal: Option<Vec<u8>>,
}

/// What a repeat of an event is known by. The time is that of the database, in whole microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) at: DateTime<Utc>,
    pub(super) id: Uuid,
}

/// The personal fields of an event.
struct Personal {
    actor_name: Option<Committed>,
    address: Option<Committed>,
    user_agent: Option<Committed>,
}

impl Row {
    /// The row of an event.
    ///
    /// # Errors
    /// When a text contains U+0000, which PostgreSQL cannot store.
    pub(super) fn encode(event: &AuditEvent, place: Place) -> Result<Self, StoreError> {
        let event = bounded(event);
        check(&event)?;
        let at = DateTime::from_timestamp_micros(event.at.timestamp_micros()).unwrap_or(event.at);
        let key = Key { at, id: event.id.0 };
        let personal = Personal::of(&event, place.salts);
        Ok(Self {
            position: place.position,
            key,
            event: encode_event(&event, key, place, &personal),
            personal: personal.encode(key),
        })
    }
}

impl Personal {
    fn of(event: &AuditEvent, [name_salt, address_salt, agent_salt]: [Salt; 3]) -> Self {
        let text = |field: PersonalField, salt: Salt, text: &Option<String>| {
            text.as_ref().map(|text| field.commit(salt, text.clone().into_bytes(), text.as_bytes()))
        };
        let address = event.address.map(|address| {
            let commit = |octets: &[u8]| PersonalField::Address.commit(address_salt, inet(address), octets);
            match address {
                IpAddr::V4(address) => commit(&address.octets()),
                IpAddr::V6(address) => commit(&address.octets()),
            }
        });
        Self {
            actor_name: text(PersonalField::ActorName, name_salt, &event.actor.name),
            address,
            user_agent: text(PersonalField::UserAgent, agent_salt, &event.user_agent),
        }
    }

    fn fields(&self) -> [Option<&Committed>; 3] {
        [self.actor_name.as_ref(), self.address.as_ref(), self.user_agent.as_ref()]
    }

    fn encode(&self, key: Key) -> Vec<u8> {
        if self.fields().iter().all(Option::is_none) {
            return Vec::new();
        }
        let mut row = PERSONAL_FIELDS.to_be_bytes().to_vec();
        put_key(&mut row, key);
        for field in self.fields() {
            put_optional(&mut row, field.map(|field| &field.value[..]));
            put_optional(&mut row, field.map(|field| &field.salt[..]));
        }
        row
    }
}

impl CopyData {
    pub(super) fn of<'r>(rows: impl IntoIterator<Item = &'r Row>) -> Self {
        let (mut events, mut personal) = (HEADER.to_vec(), HEADER.to_vec());
        for row in rows {
            events.extend_from_slice(&row.event);
            personal.extend_from_slice(&row.personal);
        }
        let any_personal = personal.len() > HEADER.len();
        events.extend_from_slice(&TRAILER);
        personal.extend_from_slice(&TRAILER);
        Self { events, personal: any_personal.then_some(personal) }
    }

    /// Sends it, events first.
    pub(super) async fn send(self, connection: &mut PgConnection) -> sqlx::Result<()> {
        copy_in(connection, COPY_EVENTS, self.events).await?;
        match self.personal {
            Some(personal) => copy_in(connection, COPY_PERSONAL, personal).await,
            None => Ok(()),
        }
    }
}

async fn copy_in(connection: &mut PgConnection, statement: &str, data: Vec<u8>) -> sqlx::Result<()> {
    let mut copy = connection.copy_in_raw(statement).await?;
    copy.send(data).await?;
    copy.finish().await?;
    Ok(())
}

fn encode_event(event: &AuditEvent, key: Key, place: Place, personal: &Personal) -> Vec<u8> {
    let mut row = Vec::with_capacity(640);
    let text = |row: &mut Vec<u8>, text: Option<&str>| put_optional(row, text.map(str::as_bytes));
    row.extend_from_slice(&EVENT_FIELDS.to_be_bytes());
    put_key(&mut row, key);
    put_field(&mut row, place.writer.as_bytes());
    put_field(&mut row, &place.sequence.to_be_bytes());
    text(&mut row, Some(&name_of(&event.actor.kind)));
    text(&mut row, event.actor.id.as_deref());
    text(&mut row, event.actor.role.as_deref());
    text(&mut row, Some(event.action.as_str()));
    let resource = event.resource.as_ref();
    text(&mut row, resource.map(|resource| &*resource.kind));
    text(&mut row, resource.and_then(|resource| resource.id.as_deref()));
    text(&mut row, Some(&name_of(&event.outcome)));
    text(&mut row, event.reason.as_deref());
    match &event.changes {
        Some(changes) => put_jsonb(&mut row, |into| {
            serde_json::to_writer(into, changes).expect("a JSON value can be written");
        }),
        None => put_optional(&mut row, None),
    }
    text(&mut row, event.request_id.as_deref());
    text(&mut row, event.session.map(|session| session.to_string()).as_deref());
    text(&mut row, event.provider.as_deref());
    for field in personal.fields() {
        put_optional(&mut row, field.map(|field| &field.commitment[..]));
    }
    row
}

fn put_key(row: &mut Vec<u8>, key: Key) {
    put_field(row, &timestamp(key.at));
    put_field(row, key.id.as_bytes());
}

/// The event with its texts cut, where one is too long.
fn bounded(event: &AuditEvent) -> Cow<'_, AuditEvent> {
    let texts = [&event.reason, &event.request_id, &event.user_agent, &event.actor.name];
    if texts.into_iter().flatten().all(|text| text.len() <= TEXT_MAX_BYTES) {
        return Cow::Borrowed(event);
    }
    Cow::Owned(event.clone().bounded())
}

fn check(event: &AuditEvent) -> Result<(), StoreError> {
    let resource = event.resource.as_ref();
    text::check([
        ("actor id", event.actor.id.as_deref()),
        ("actor name", event.actor.name.as_deref()),
        ("actor role", event.actor.role.as_deref()),
        ("resource type", resource.map(|resource| &*resource.kind)),
        ("resource id", resource.and_then(|resource| resource.id.as_deref())),
        ("reason", event.reason.as_deref()),
        ("request id", event.request_id.as_deref()),
        ("user agent", event.user_agent.as_deref()),
        ("provider", event.provider.as_deref()),
    ])?;
    event.changes.as_ref().map_or(Ok(()), |changes| text::check_json("changes", changes))
}
