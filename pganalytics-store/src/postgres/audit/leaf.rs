use bytes::Bytes;
use chrono::{DateTime, Utc};
use pganalytics_core::tlog::ENTRY_MAX_BYTES;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::postgres::binary_copy::EPOCH;

/// The columns of a leaf, in their order. What the writer signed are those before `mac`.
pub(super) const LEAF_COLUMNS: &str = "at, id, writer, writer_sequence, actor_kind, actor_id, actor_role, action, \
    resource_type, resource_id, outcome, reason, request_id, session_id, provider, actor_name_commitment, \
    address_commitment, user_agent_commitment, changes_commitment, mac, era, xid";

/// How many they are.
pub(super) const LEAF_FIELDS: u16 = 22;

/// What a leaf begins with whose fields follow.
pub(super) const ROW: u8 = 1;

/// What a leaf begins with that only has the digest of the fields.
const DIGEST: u8 = 2;

/// What a leaf of the audit log says: an entry of its tiles.
///
/// A leaf is the byte 1 and the fields of a row of `audit_events` as `COPY (SELECT at, …, xid FROM audit_events …) TO STDOUT
/// (FORMAT binary)` writes them with the client encoding UTF8: each its length in four bytes, the high one first, and its
/// value; a null has the length -1. The number of fields, which COPY writes before, is left out. A row that makes more than
/// [`ENTRY_MAX_BYTES`], as only the owner of the database can store one, is the byte 2 and the SHA-256 of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

/// The leaf of a row as it was read from the database, however long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafBytes(Bytes);

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

impl LeafBytes {
    /// Of bytes that begin with the version.
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The row.
    ///
    /// # Errors
    /// When the owner of the database has changed the table so far that its rows are none of ours.
    pub fn row(&self) -> Result<LeafRow<'_>, InvalidLeaf> {
        LeafRow::parse(&self.0[1..])
    }

    /// What the log has of it.
    pub fn entry(&self) -> Bytes {
        if self.0.len() <= ENTRY_MAX_BYTES {
            return self.0.clone();
        }
        let digest: [u8; 32] = Sha256::digest(&self.0).into();
        [&[DIGEST], &digest[..]].concat().into()
    }

    /// The transaction that stored the row: the last column, which is found even where the others are not.
    pub(super) fn xid(&self) -> Option<u64> {
        self.0.last_chunk().map(|xid| u64::from_be_bytes(*xid))
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
    use pganalytics_core::audit::{Actor, AuditEvent, Outcome, Resource};
    use pganalytics_core::ids::EventId;
    use proptest::prelude::*;

    use super::*;
    use crate::postgres::audit::row::{Record, salts};
    use crate::postgres::binary_copy::{put_field, put_optional};

    fn event() -> AuditEvent {
        let at = DateTime::from_timestamp_micros(1_767_225_600_000_001).unwrap();
        let action = "user.update".parse().unwrap();
        let mut event =
            AuditEvent::new(EventId(Uuid::from_u128(7)), at, Actor::system("test"), action, Outcome::Success)
                .with_resource(Resource::new("user", "ü"));
        event.address = "192.0.2.1".parse().ok();
        event
    }

    /// A leaf, and the bytes that its writer signed.
    fn leaf(mac: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
        let event = event();
        let salts = salts(1).remove(0);
        let columns = Record::of(&event, (Uuid::from_u128(8), 9), salts).unwrap().columns();
        let mut leaf = vec![ROW];
        leaf.extend_from_slice(&columns);
        put_optional(&mut leaf, mac);
        put_field(&mut leaf, &3_i16.to_be_bytes());
        put_field(&mut leaf, &u64::MAX.to_be_bytes());
        (leaf, columns)
    }

    #[test]
    fn leaf_says_what_the_row_does() {
        let (bytes, columns) = leaf(Some(b"mac"));
        let Ok(Leaf::Row(row)) = Leaf::parse(&bytes) else { panic!("it is a row") };
        assert_eq!(row.at(), Some(event().at));
        assert_eq!((row.id, row.writer, row.writer_sequence), (Uuid::from_u128(7), Uuid::from_u128(8), 9));
        assert_eq!((row.actor_kind, row.action, row.outcome), ("system", "user.update", "success"));
        assert_eq!((row.resource_type, row.resource_id, row.reason), (Some("user"), Some("ü"), None));
        assert!(row.address_commitment.is_some() && row.changes_commitment.is_none());
        assert_eq!((row.mac, row.era, row.xid), (Some(b"mac".as_slice()), 3, u64::MAX));
        assert_eq!(row.signed, columns);
        let bytes = LeafBytes::new(bytes.into());
        assert_eq!((bytes.row(), bytes.xid()), (Ok(row), Some(u64::MAX)));
    }

    #[test]
    fn leaf_that_is_too_long_for_the_log_is_its_digest() {
        let longest = |over| {
            let (short, _) = leaf(Some(b""));
            let (long, _) = leaf(Some(&vec![0; ENTRY_MAX_BYTES - short.len() + over]));
            LeafBytes::new(long.into())
        };
        assert_eq!(longest(0).entry(), longest(0).0);
        let (leaf, entry) = (longest(1), longest(1).entry());
        assert!(leaf.row().is_ok());
        let digest: [u8; 32] = Sha256::digest(&leaf.0).into();
        assert_eq!(Leaf::parse(&entry), Ok(Leaf::Digest(&digest)));
    }

    #[test]
    fn infinite_time_is_none() {
        let (mut bytes, _) = leaf(None);
        bytes[5..13].copy_from_slice(&i64::MAX.to_be_bytes());
        let Ok(Leaf::Row(row)) = Leaf::parse(&bytes) else { panic!("it is a row") };
        assert_eq!((row.at_micros, row.at()), (i64::MAX, None));
    }

    #[test]
    fn leaf_that_is_cut_off_or_goes_on_is_refused() {
        let (mut bytes, _) = leaf(Some(b"mac"));
        for length in 0..bytes.len() {
            assert!(Leaf::parse(&bytes[..length]).is_err(), "{length} bytes");
        }
        bytes.push(0);
        assert_eq!(Leaf::parse(&bytes), Err(InvalidLeaf::BytesLeft { count: 1 }));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_read_or_refused(bytes: Vec<u8>, version in 0_u8..4) {
            let bytes = [&[version][..], &bytes].concat();
            let _ = Leaf::parse(&bytes);
        }

        #[test]
        fn changed_byte_is_read_or_refused(place: prop::sample::Index, byte: u8) {
            let (mut bytes, _) = leaf(Some(b"mac"));
            let place = place.index(bytes.len());
            bytes[place] = byte;
            if let Ok(Leaf::Row(row)) = Leaf::parse(&bytes) {
                prop_assert_eq!(row.signed, &bytes[1..=row.signed.len()]);
            }
        }
    }
}
