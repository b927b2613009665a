use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use sqlx::PgConnection;

use super::copy_rows::CopyRows;
use super::leaf::{LEAF_COLUMNS, LEAF_FIELDS, LeafBytes, ROW};
use crate::postgres::StoreError;

/// Leaves of rows, one after the other as the database sends them. It holds no more than what came at once, which is a row.
pub struct LeafReader<'c>(CopyRows<'c>);

impl<'c> LeafReader<'c> {
    /// Reads the rows that `selection` names: what follows the columns of `SELECT … FROM audit_events e`, like `WHERE … ORDER
    /// BY e.xid, e.at, e.id`. It is part of the statement, so nothing in it may come from outside but numbers.
    ///
    /// # Errors
    /// When PostgreSQL could not answer.
    pub(super) async fn select(
        connection: &'c mut PgConnection,
        selection: &str,
    ) -> Result<Self, StoreError> {
        let statement =
            format!("COPY (SELECT {LEAF_COLUMNS} FROM audit_events e {selection}) TO STDOUT (FORMAT binary)");
        Ok(Self::new(connection.copy_out_raw(&statement).await?))
    }

    fn new(source: BoxStream<'c, sqlx::Result<Bytes>>) -> Self {
        Self(CopyRows::new(source, LEAF_FIELDS))
    }

    /// The next leaf; nothing after the last one.
    ///
    /// # Errors
    /// When PostgreSQL could not answer, or the connection was lost before the last row.
    pub async fn next(&mut self) -> Result<Option<LeafBytes>, StoreError> {
        Ok(self.0.next().await?.map(leaf_of))
    }
}

impl std::fmt::Debug for LeafReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LeafReader").field(&self.0).finish()
    }
}

/// The leaf of a row as COPY wrote it.
pub(super) fn leaf_of(mut row: BytesMut) -> LeafBytes {
    // The number of fields gives way to the version.
    let mut leaf = row.split_off(1);
    leaf[0] = ROW;
    LeafBytes::new(leaf.freeze())
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use proptest::prelude::*;

    use super::*;
    use crate::postgres::binary_copy::{HEADER, TRAILER, put_field, put_optional};

    fn copied(rows: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
        let mut bytes = HEADER.to_vec();
        for row in rows {
            bytes.extend_from_slice(&LEAF_FIELDS.to_be_bytes());
            row.iter().for_each(|field| put_optional(&mut bytes, field.as_deref()));
        }
        bytes.extend_from_slice(&TRAILER);
        bytes
    }

    fn read(bytes: &[u8], chunk: usize) -> Result<Vec<LeafBytes>, StoreError> {
        let chunks: Vec<_> = bytes.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let mut reader = LeafReader::new(stream::iter(chunks).boxed());
        let mut leaves = Vec::new();
        futures::executor::block_on(async {
            while let Some(leaf) = reader.next().await? {
                leaves.push(leaf);
            }
            Ok(leaves)
        })
    }

    proptest! {
        #[test]
        fn rows_come_whole_whatever_pieces_they_come_in(
            rows in prop::collection::vec(
                prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), 22..=22), 0..5),
            chunk in 1_usize..300,
        ) {
            let expected: Vec<LeafBytes> = rows.iter().map(|row| {
                let mut bytes = vec![ROW];
                row.iter().for_each(|field| put_optional(&mut bytes, field.as_deref()));
                LeafBytes::new(bytes.into())
            }).collect();
            prop_assert_eq!(read(&copied(&rows), chunk).unwrap(), expected);
        }

        #[test]
        fn odd_bytes_are_refused(bytes: Vec<u8>, headed: bool) {
            let bytes = if headed { [HEADER, &bytes].concat() } else { bytes };
            let _ = read(&bytes, 7);
        }
    }

    #[test]
    fn rows_that_are_cut_off_are_not_taken_for_all() {
        let mut bytes = copied(&[]);
        bytes.truncate(bytes.len() - 1);
        assert!(read(&bytes, 100).is_err());
        let mut field = Vec::new();
        put_field(&mut field, b"value");
        assert!(read(&[HEADER, &LEAF_FIELDS.to_be_bytes(), &field].concat(), 100).is_err());
    }
}
