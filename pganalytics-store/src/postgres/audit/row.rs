use std::borrow::Cow;
use std::net::IpAddr;

use chrono::{DateTime, Utc};
use pganalytics_core::audit::{AuditEvent, PersonalField};
use pganalytics_core::random::os_random;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::postgres::StoreError;
use crate::postgres::binary_copy::{HEADER, TRAILER, inet, put_field, put_optional, timestamp};
use crate::postgres::text;

use super::commitment::{Committed, Salt};
use super::mac::RowMacKey;

/// The columns that a writer gives, in the order in which their bytes are signed and sealed. The checksum of the row follows.
pub(super) const EVENT_COLUMNS: &str = "at, id, writer, writer_sequence, actor_kind, actor_id, actor_role, action, \
    resource_type, resource_id, outcome, reason, request_id, session_id, provider, actor_name_commitment, \
    address_commitment, user_agent_commitment, changes_commitment, mac";
const EVENT_FIELDS: i16 = 20;

pub(super) const PERSONAL_COLUMNS: &str = "at, id, actor_name, actor_name_salt, address, address_salt, user_agent, \
    user_agent_salt, changes, changes_salt";
const PERSONAL_FIELDS: i16 = 10;

/// The words and texts of an event, from `actor_kind` to `provider`.
const TEXTS: usize = 11;

/// The personal fields: the actor's name, the address, the user agent, the changes.
const PERSONAL: usize = 4;

/// An event as it is stored.
#[derive(Debug)]
pub(super) struct Record<'e> {
    pub(super) key: Key,
    pub(super) writer: Uuid,
    pub(super) sequence: i64,
    pub(super) texts: [Option<Cow<'e, str>>; TEXTS],
    pub(super) address: Option<IpAddr>,
    pub(super) personal: [Option<Committed<'e>>; PERSONAL],
}

/// An event as it is sent to PostgreSQL.
#[derive(Debug)]
pub(super) struct Row {
    /// Its place in the batch.
    pub(super) position: usize,
    pub(super) key: Key,
    pub(super) sequence: i64,
    event: Vec<u8>,
    /// Empty where the event has no personal field.
    personal: Vec<u8>,
}

/// Rows in the format of binary COPY.
#[derive(Debug)]
pub(super) struct CopyData {
    events: Vec<u8>,
    personal: Option<Vec<u8>>,
}

/// What a repeat of an event is known by. The time is that of the database, in whole microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::postgres) struct Key {
    pub(super) at: DateTime<Utc>,
    pub(super) id: Uuid,
}

/// Salts for the personal fields of this many events, from the operating system.
pub(super) fn salts(events: usize) -> Vec<[Salt; PERSONAL]> {
    let mut salts = vec![[Salt::default(); PERSONAL]; events];
    os_random(salts.as_flattened_mut().as_flattened_mut());
    salts
}

impl<'e> Record<'e> {
    /// The record of an event whose texts are not too long.
    ///
    /// # Errors
    /// When a text contains U+0000, which PostgreSQL cannot store.
    pub(super) fn of(
        event: &'e AuditEvent,
        (writer, sequence): (Uuid, i64),
        salts: [Salt; PERSONAL],
    ) -> Result<Self, StoreError> {
        check(event)?;
        let at = DateTime::from_timestamp_micros(event.at.timestamp_micros()).unwrap_or(event.at);
        let text = |text: &'e Option<String>| text.as_deref().map(Cow::Borrowed);
        let resource = event.resource.as_ref();
        let texts = [
            Some(event.actor.kind.as_str().into()),
            text(&event.actor.id),
            text(&event.actor.role),
            Some(event.action.as_str().into()),
            resource.map(|resource| Cow::Borrowed(&*resource.kind)),
            resource.and_then(|resource| text(&resource.id)),
            Some(event.outcome.as_str().into()),
            text(&event.reason),
            text(&event.request_id),
            event.session.map(|session| session.to_string().into()),
            text(&event.provider),
        ];
        Ok(Self {
            key: Key { at, id: event.id.0 },
            writer,
            sequence,
            texts,
            address: event.address,
            personal: personal(event, salts),
        })
    }

    /// The columns before the checksum as binary COPY writes them: what is signed.
    pub(super) fn columns(&self) -> Vec<u8> {
        let mut columns = Vec::with_capacity(640);
        put_key(&mut columns, self.key);
        put_field(&mut columns, self.writer.as_bytes());
        put_field(&mut columns, &self.sequence.to_be_bytes());
        for text in &self.texts {
            put_optional(&mut columns, text.as_deref().map(str::as_bytes));
        }
        for field in &self.personal {
            put_optional(&mut columns, field.as_ref().map(|field| &field.commitment[..]));
        }
        columns
    }

    /// Whether anything of it is personal.
    pub(super) fn is_personal(&self) -> bool {
        self.personal.iter().any(Option::is_some)
    }
}

impl Row {
    /// The row of a record, signed if there is a key.
    pub(super) fn of(record: &Record<'_>, position: usize, key: Option<&RowMacKey>) -> Self {
        let columns = record.columns();
        let mac = key.map(|key| key.sign(&columns));
        let mut event = Vec::with_capacity(columns.len() + 48);
        event.extend_from_slice(&EVENT_FIELDS.to_be_bytes());
        event.extend_from_slice(&columns);
        put_optional(&mut event, mac.as_deref());
        Self { position, key: record.key, sequence: record.sequence, event, personal: personal_row(record) }
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
        copy_in(connection, "audit_events", EVENT_COLUMNS, self.events).await?;
        match self.personal {
            Some(personal) => copy_in(connection, "audit_personal", PERSONAL_COLUMNS, personal).await,
            None => Ok(()),
        }
    }
}

/// An event whose texts are not too long: itself, or a copy with its texts cut.
pub(super) fn bounded(event: &AuditEvent) -> Cow<'_, AuditEvent> {
    if event.is_bounded() { Cow::Borrowed(event) } else { Cow::Owned(event.clone().bounded()) }
}

async fn copy_in(
    connection: &mut PgConnection,
    table: &str,
    columns: &str,
    data: Vec<u8>,
) -> sqlx::Result<()> {
    let statement = format!("COPY {table} ({columns}) FROM STDIN (FORMAT binary)");
    let mut copy = connection.copy_in_raw(&statement).await?;
    copy.send(data).await?;
    copy.finish().await?;
    Ok(())
}

fn personal<'e>(
    event: &'e AuditEvent,
    [name_salt, address_salt, agent_salt, changes_salt]: [Salt; PERSONAL],
) -> [Option<Committed<'e>>; PERSONAL] {
    let text = |field: PersonalField, salt: Salt, text: &'e Option<String>| {
        text.as_ref().map(|text| Committed::to(field, salt, text.as_bytes().into()))
    };
    let address = event.address.map(|address| match address {
        IpAddr::V4(v4) => {
            Committed::to_octets(PersonalField::Address, address_salt, inet(address), &v4.octets())
        }
        IpAddr::V6(v6) => {
            Committed::to_octets(PersonalField::Address, address_salt, inet(address), &v6.octets())
        }
    });
    let changes = event.changes.as_ref().map(|changes| {
        let json = serde_json::to_vec(changes).expect("a JSON value can be written");
        Committed::to(PersonalField::Changes, changes_salt, json.into())
    });
    [
        text(PersonalField::ActorName, name_salt, &event.actor.name),
        address,
        text(PersonalField::UserAgent, agent_salt, &event.user_agent),
        changes,
    ]
}

fn personal_row(record: &Record<'_>) -> Vec<u8> {
    if !record.is_personal() {
        return Vec::new();
    }
    let mut row = PERSONAL_FIELDS.to_be_bytes().to_vec();
    put_key(&mut row, record.key);
    for field in &record.personal {
        put_optional(&mut row, field.as_ref().map(|field| &field.value[..]));
        put_optional(&mut row, field.as_ref().map(|field| &field.salt[..]));
    }
    row
}

fn put_key(row: &mut Vec<u8>, key: Key) {
    put_field(row, &timestamp(key.at));
    put_field(row, key.id.as_bytes());
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
