use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::audit::PersonalField;

/// What a leaf begins with whose fields follow.
const ROW: u8 = 1;

/// What a leaf begins with that only has the digest of the fields.
const DIGEST: u8 = 2;

/// PostgreSQL counts time in microseconds from 2000-01-01 UTC; this is that moment's UNIX time.
const EPOCH: i64 = 946_684_800_000_000;

/// What a leaf of the audit log says: an entry of its tiles.
///
/// A leaf is the byte 1 and the fields of a row of `audit_events` as `COPY (SELECT at, …, xid FROM audit_events …) TO STDOUT
/// (FORMAT binary)` writes them with the client encoding UTF8: each its length in four bytes, the high one first, and its
/// value; a null has the length -1. The number of fields, which COPY writes before, is left out. A row that makes more than
/// 65535 bytes, as only the owner of the database can store one, is the byte 2 and the SHA-256 of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "it is read and dropped at once, and hardly any is the small one"
)]
pub enum Leaf<'l> {
    /// A row.
    Row(LeafRow<'l>),
    /// The SHA-256 of the leaf that a row would have if it were not too long.
    Digest(&'l [u8; 32]),
}

/// A row as its leaf has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "they are the columns of `audit_events`, which migration 007 describes")]
pub struct LeafRow<'l> {
    /// In microseconds from 2000-01-01 UTC, as PostgreSQL counts; see [`at`](Self::at).
    pub at_micros: i64,
    pub id: Uuid,
    pub writer: Uuid,
    pub writer_sequence: i64,
    pub actor_kind: &'l str,
    pub actor_id: Option<&'l str>,
    pub actor_role: Option<&'l str>,
    pub action: &'l str,
    pub resource_type: Option<&'l str>,
    pub resource_id: Option<&'l str>,
    pub outcome: &'l str,
    pub reason: Option<&'l str>,
    pub request_id: Option<&'l str>,
    pub session_id: Option<&'l str>,
    pub provider: Option<&'l str>,
    pub actor_name_commitment: Option<&'l [u8; 32]>,
    pub address_commitment: Option<&'l [u8; 32]>,
    pub user_agent_commitment: Option<&'l [u8; 32]>,
    pub changes_commitment: Option<&'l [u8; 32]>,
    pub mac: Option<&'l [u8]>,
    pub era: i16,
    pub xid: u64,
    /// The bytes of the columns that the writer signed.
    pub signed: &'l [u8],
}

impl<'l> Leaf<'l> {
    /// Reads an entry of the log.
    ///
    /// # Errors
    /// When it is no leaf of ours.
    pub fn parse(entry: &'l [u8]) -> Result<Self, InvalidLeaf> {
        match entry.split_first() {
            Some((&ROW, fields)) => LeafRow::parse(fields).map(Self::Row),
            Some((&DIGEST, digest)) => digest.try_into().map(Self::Digest).map_err(|_| InvalidLeaf::Digest),
            _ => Err(InvalidLeaf::Version),
        }
    }
}

impl<'l> LeafRow<'l> {
    /// The time of the event; nothing if it is infinite, or beyond the calendar of this program.
    pub fn at(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.at_micros.checked_add(EPOCH)?)
    }

    /// What it commits to of a personal field; nothing if the event has none.
    pub fn commitment(&self, field: PersonalField) -> Option<&'l [u8; 32]> {
        match field {
            PersonalField::ActorName => self.actor_name_commitment,
            PersonalField::Address => self.address_commitment,
            PersonalField::UserAgent => self.user_agent_commitment,
            PersonalField::Changes => self.changes_commitment,
        }
    }

    /// What it says, for people and for other programs: without the commitments and the checksum.
    pub fn to_json(&self) -> Value {
        json!({
            "at": self.at().map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true)),
            "id": self.id,
            "actor": { "kind": self.actor_kind, "id": self.actor_id, "role": self.actor_role },
            "action": self.action,
            "resource": self.resource_type.map(|kind| json!({ "kind": kind, "id": self.resource_id })),
            "outcome": self.outcome,
            "reason": self.reason,
            "request_id": self.request_id,
            "session": self.session_id,
            "provider": self.provider,
            "writer": self.writer,
            "writer_sequence": self.writer_sequence,
            "era": self.era,
            "xid": self.xid.to_string(),
        })
    }

    fn parse(bytes: &'l [u8]) -> Result<Self, InvalidLeaf> {
        let mut fields = Fields { rest: bytes, read: 0 };
        let at_micros = i64::from_be_bytes(fields.fixed()?);
        let id = Uuid::from_bytes(fields.fixed()?);
        let writer = Uuid::from_bytes(fields.fixed()?);
        let writer_sequence = i64::from_be_bytes(fields.fixed()?);
        let (actor_kind, actor_id, actor_role) =
            (fields.text()?, fields.optional_text()?, fields.optional_text()?);
        let action = fields.text()?;
        let (resource_type, resource_id) = (fields.optional_text()?, fields.optional_text()?);
        let (outcome, reason) = (fields.text()?, fields.optional_text()?);
        let (request_id, session_id) = (fields.optional_text()?, fields.optional_text()?);
        let provider = fields.optional_text()?;
        let actor_name_commitment = fields.commitment()?;
        let address_commitment = fields.commitment()?;
        let user_agent_commitment = fields.commitment()?;
        let changes_commitment = fields.commitment()?;
        let signed = &bytes[..bytes.len() - fields.rest.len()];
        let mac = fields.next()?;
        let era = i16::from_be_bytes(fields.fixed()?);
        let xid = u64::from_be_bytes(fields.fixed()?);
        if !fields.rest.is_empty() {
            return Err(InvalidLeaf::BytesLeft { count: fields.rest.len() });
        }
        Ok(Self {
            at_micros,
            id,
            writer,
            writer_sequence,
            actor_kind,
            actor_id,
            actor_role,
            action,
            resource_type,
            resource_id,
            outcome,
            reason,
            request_id,
            session_id,
            provider,
            actor_name_commitment,
            address_commitment,
            user_agent_commitment,
            changes_commitment,
            mac,
            era,
            xid,
            signed,
        })
    }
}

/// Bytes that are no leaf of the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLeaf {
    /// It does not begin with a version that is known.
    #[error("a leaf begins with the byte 1 or 2")]
    Version,
    /// The digest has another length.
    #[error("a digest has 32 bytes")]
    Digest,
    /// A field ends before its value does.
    #[error("field {field} is cut off")]
    CutOff {
        /// Which, from 1.
        field: u16,
    },
    /// A field has another length than its type, or is null and must not.
    #[error("field {field} has a length that it cannot have")]
    Length {
        /// Which, from 1.
        field: u16,
    },
    /// A text is not in UTF-8.
    #[error("field {field} is no text")]
    Text {
        /// Which, from 1.
        field: u16,
    },
    /// Something follows the last field.
    #[error("{count} bytes are left after the last field")]
    BytesLeft {
        /// How many.
        count: usize,
    },
}

struct Fields<'l> {
    rest: &'l [u8],
    read: u16,
}

impl<'l> Fields<'l> {
    fn next(&mut self) -> Result<Option<&'l [u8]>, InvalidLeaf> {
        self.read += 1;
        let field = self.read;
        let (length, rest) = self.rest.split_first_chunk().ok_or(InvalidLeaf::CutOff { field })?;
        let length = i32::from_be_bytes(*length);
        self.rest = rest;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| InvalidLeaf::Length { field })?;
        let (value, rest) = rest.split_at_checked(length).ok_or(InvalidLeaf::CutOff { field })?;
        self.rest = rest;
        Ok(Some(value))
    }

    fn fixed<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], InvalidLeaf> {
        let value = self.next()?.and_then(|value| value.try_into().ok());
        value.ok_or(InvalidLeaf::Length { field: self.read })
    }

    fn commitment(&mut self) -> Result<Option<&'l [u8; 32]>, InvalidLeaf> {
        let Some(value) = self.next()? else { return Ok(None) };
        value.try_into().map(Some).map_err(|_| InvalidLeaf::Length { field: self.read })
    }

    fn text(&mut self) -> Result<&'l str, InvalidLeaf> {
        self.optional_text()?.ok_or(InvalidLeaf::Length { field: self.read })
    }

    fn optional_text(&mut self) -> Result<Option<&'l str>, InvalidLeaf> {
        let Some(value) = self.next()? else { return Ok(None) };
        std::str::from_utf8(value).map(Some).map_err(|_| InvalidLeaf::Text { field: self.read })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf() -> Vec<u8> {
        let mut leaf = vec![ROW];
        let mut put = |value: Option<&[u8]>| match value {
            None => leaf.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(value) => {
                leaf.extend_from_slice(&(value.len() as u32).to_be_bytes());
                leaf.extend_from_slice(value);
            }
        };
        put(Some(&1_000_000_i64.to_be_bytes()));
        put(Some(&[7; 16]));
        put(Some(&[8; 16]));
        put(Some(&9_i64.to_be_bytes()));
        for text in [Some("user"), None, Some("admin"), Some("user.update"), Some("user"), Some("ü")] {
            put(text.map(str::as_bytes));
        }
        for text in [Some("success"), None, None, None, None] {
            put(text.map(str::as_bytes));
        }
        for commitment in [Some(&[1; 32][..]), None, None, None, Some(b"mac")] {
            put(commitment);
        }
        put(Some(&3_i16.to_be_bytes()));
        put(Some(&u64::MAX.to_be_bytes()));
        leaf
    }

    #[test]
    fn leaf_says_what_its_fields_do() {
        let leaf = leaf();
        let Ok(Leaf::Row(row)) = Leaf::parse(&leaf) else { panic!("it is a row") };
        assert_eq!((row.actor_kind, row.action, row.resource_id), ("user", "user.update", Some("ü")));
        assert_eq!(row.commitment(PersonalField::ActorName), Some(&[1; 32]));
        assert_eq!(row.commitment(PersonalField::Changes), None);
        let shown = row.to_json();
        assert_eq!(
            (&shown["at"], &shown["xid"]),
            (&json!("2000-01-01T00:00:01.000000Z"), &json!("18446744073709551615"))
        );
        assert_eq!(shown["resource"], json!({ "kind": "user", "id": "ü" }));
    }

    #[test]
    fn leaf_that_is_cut_off_or_goes_on_is_refused() {
        let mut leaf = leaf();
        for length in 0..leaf.len() {
            assert!(Leaf::parse(&leaf[..length]).is_err(), "{length} bytes");
        }
        leaf.push(0);
        assert_eq!(Leaf::parse(&leaf), Err(InvalidLeaf::BytesLeft { count: 1 }));
        assert_eq!(Leaf::parse(&[DIGEST, 0]), Err(InvalidLeaf::Digest));
    }
}
