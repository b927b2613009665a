use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures::StreamExt;
use pganalytics_core::audit::PersonalField;
use sqlx::PgConnection;
use uuid::Uuid;

use super::super::copy_rows::CopyRows;
use super::super::leaf::{LEAF_FIELDS, LeafBytes};
use super::super::leaf_reader::leaf_of;
use super::window::Window;
use crate::postgres::StoreError;

const PERSONAL_FIELDS: u16 = 8;

/// The columns of a leaf, and the personal fields beside them, as far as these are there.
const COLUMNS: &str = "e.at, e.id, e.writer, e.writer_sequence, e.actor_kind, e.actor_id, e.actor_role, e.action, \
    e.resource_type, e.resource_id, e.outcome, e.reason, e.request_id, e.session_id, e.provider, \
    e.actor_name_commitment, e.address_commitment, e.user_agent_commitment, e.changes_commitment, e.mac, e.era, e.xid, \
    p.actor_name, p.actor_name_salt, p.address, p.address_salt, p.user_agent, p.user_agent_salt, p.changes, \
    p.changes_salt";

/// Rows with their personal fields.
pub(super) struct AuditRows<'c>(CopyRows<'c>);

/// A row with its personal fields.
#[derive(Clone, Debug)]
pub(super) struct AuditRow {
    pub(super) leaf: LeafBytes,
    personal: Bytes,
}

/// A personal field as it is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoredField<'r> {
    pub(super) field: PersonalField,
    pub(super) value: Option<&'r [u8]>,
    pub(super) salt: Option<&'r [u8]>,
}

impl<'c> AuditRows<'c> {
    /// The rows of a window, in the order of leaves.
    pub(super) async fn select(
        connection: &'c mut PgConnection,
        window: &Window,
    ) -> Result<Self, StoreError> {
        Self::copy(connection, &format!("{} ORDER BY e.xid, e.at, e.id", window.condition())).await
    }

    /// The rows of these events, in no order.
    pub(super) async fn of_events(
        connection: &'c mut PgConnection,
        events: &[(DateTime<Utc>, Uuid)],
    ) -> Result<Self, StoreError> {
        let key = |(at, id): &(DateTime<Utc>, Uuid)| {
            format!("('{}'::timestamptz, '{id}'::uuid)", at.to_rfc3339_opts(SecondsFormat::Micros, true))
        };
        let keys: Vec<String> = events.iter().map(key).collect();
        Self::copy(connection, &format!("(e.at, e.id) IN ({})", keys.join(", "))).await
    }

    async fn copy(connection: &'c mut PgConnection, condition: &str) -> Result<Self, StoreError> {
        let statement = format!(
            "COPY (SELECT {COLUMNS} FROM audit_events e LEFT JOIN audit_personal p ON p.at = e.at AND p.id = e.id \
             WHERE {condition}) TO STDOUT (FORMAT binary)"
        );
        let source = connection.copy_out_raw(&statement).await?.boxed();
        Ok(Self(CopyRows::new(source, LEAF_FIELDS + PERSONAL_FIELDS)))
    }

    pub(super) async fn next(&mut self) -> Result<Option<AuditRow>, StoreError> {
        let Some(mut row) = self.0.next().await? else { return Ok(None) };
        let end = CopyRows::end_of(&row, LEAF_FIELDS)?;
        let personal = row.split_off(end).freeze();
        Ok(Some(AuditRow { leaf: leaf_of(row), personal }))
    }
}

impl AuditRow {
    /// The personal fields in their order.
    pub(super) fn personal(&self) -> [StoredField<'_>; 4] {
        let mut rest = &self.personal[..];
        PersonalField::ALL.map(|field| {
            let (value, salt) = (take(&mut rest), take(&mut rest));
            StoredField { field, value, salt }
        })
    }

    /// The text of the changes.
    pub(super) fn changes(&self) -> Option<&[u8]> {
        self.personal().into_iter().find(|stored| stored.field == PersonalField::Changes)?.value
    }
}

impl StoredField<'_> {
    /// Whether it is what was committed to.
    pub(super) fn opens(&self, commitment: &[u8; 32]) -> bool {
        let (Some(value), Some(salt)) = (self.value, self.salt) else { return false };
        let hashed = match (self.field, value) {
            // Family, mask, kind and length of a host, and its octets.
            (PersonalField::Address, [2, 32, 0, 4, octets @ ..] | [3, 128, 0, 16, octets @ ..]) => octets,
            (PersonalField::Address, _) => return false,
            (_, text) => text,
        };
        self.field.commitment(salt, hashed) == *commitment
    }
}

/// The next field; lengths were checked when the row was read.
fn take<'r>(rest: &mut &'r [u8]) -> Option<&'r [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok();
    let (value, after) = after.split_at_checked(length.unwrap_or(0))?;
    *rest = after;
    length.map(|_| value)
}
