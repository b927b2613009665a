use bytes::Bytes;
use pganalytics_core::audit::{InvalidLeaf, Leaf, LeafRow};
use pganalytics_core::tlog::ENTRY_MAX_BYTES;
use sha2::{Digest, Sha256};

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

/// The leaf of a row as it was read from the database, however long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafBytes(Bytes);

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
        match Leaf::parse(&self.0)? {
            Leaf::Row(row) => Ok(row),
            _ => Err(InvalidLeaf::Version),
        }
    }

    /// What the log has of it.
    pub fn entry(&self) -> Bytes {
        if self.0.len() <= ENTRY_MAX_BYTES {
            return self.0.clone();
        }
        let digest: [u8; 32] = Sha256::digest(&self.0).into();
        [&[DIGEST], &digest[..]].concat().into()
    }

    /// All bytes, beginning with the version.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The transaction that stored the row: the last column, which is found even where the others are not.
    pub(super) fn xid(&self) -> Option<u64> {
        self.0.last_chunk().map(|xid| u64::from_be_bytes(*xid))
    }
}

#[cfg(test)]
mod tests {
    use pganalytics_core::audit::{Actor, AuditEvent, Outcome, Resource};
    use pganalytics_core::ids::EventId;
    use proptest::prelude::*;

    use chrono::DateTime;
    use uuid::Uuid;

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
        let bytes = LeafBytes::new(bytes.clone().into());
        assert_eq!((bytes.row(), bytes.xid()), (Ok(row), Some(u64::MAX)));
    }

    #[test]
    fn leaf_that_is_too_long_for_the_log_is_its_digest() {
        let longest = |over| {
            let (short, _) = leaf(Some(b""));
            let (long, _) = leaf(Some(&vec![0; ENTRY_MAX_BYTES - short.len() + over]));
            LeafBytes::new(long.into())
        };
        let leaf = longest(0);
        assert_eq!(leaf.entry(), leaf.0);
        let leaf = longest(1);
        let entry = leaf.entry();
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
