use bytes::{Buf, Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use pganalytics_core::error::BackendError;
use sqlx::PgConnection;

use super::leaf::{LEAF_COLUMNS, LEAF_FIELDS, LeafBytes, ROW};
use crate::postgres::StoreError;
use crate::postgres::binary_copy::{HEADER, TRAILER};

/// Leaves of rows, one after the other as the database sends them. It holds no more than what came at once, which is a row.
pub struct LeafReader<'c> {
    source: BoxStream<'c, sqlx::Result<Bytes>>,
    buffer: BytesMut,
    /// Whether the header has been read.
    begun: bool,
    /// Whether the trailer has been read.
    ended: bool,
}

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
        Self { source, buffer: BytesMut::new(), begun: false, ended: false }
    }

    /// The next leaf; nothing after the last one.
    ///
    /// # Errors
    /// When PostgreSQL could not answer, or the connection was lost before the last row.
    pub async fn next(&mut self) -> Result<Option<LeafBytes>, StoreError> {
        while !self.ended {
            if let Some(leaf) = self.take()? {
                return Ok(Some(leaf));
            }
            if self.ended {
                break;
            }
            match self.source.try_next().await? {
                Some(chunk) if self.buffer.is_empty() => self.buffer = BytesMut::from(chunk),
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Err(malformed("the rows end before their trailer")),
            }
        }
        // What the server says after the trailer belongs to this statement.
        while self.source.next().await.transpose()?.is_some() {}
        Ok(None)
    }

    /// A leaf, if all of it has come.
    fn take(&mut self) -> Result<Option<LeafBytes>, StoreError> {
        if !self.begun {
            if self.buffer.len() < HEADER.len() {
                return Ok(None);
            }
            if !self.buffer.starts_with(HEADER) {
                return Err(malformed("the rows have an unknown header"));
            }
            self.buffer.advance(HEADER.len());
            self.begun = true;
        }
        match self.buffer.first_chunk() {
            None => return Ok(None),
            Some(count) if *count == TRAILER => {
                self.ended = true;
                return Ok(None);
            }
            Some(count) if u16::from_be_bytes(*count) == LEAF_FIELDS => {}
            Some(_) => return Err(malformed("a row has another number of fields")),
        }
        let Some(length) = row_length(&self.buffer)? else { return Ok(None) };
        let mut row = self.buffer.split_to(length);
        // The number of fields gives way to the version of the leaf.
        row.advance(1);
        row[0] = ROW;
        Ok(Some(LeafBytes::new(row.freeze())))
    }
}

impl std::fmt::Debug for LeafReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeafReader").field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// How long a row is with its number of fields, if all of it is there.
fn row_length(bytes: &[u8]) -> Result<Option<usize>, StoreError> {
    let mut end = 2;
    for _ in 0..LEAF_FIELDS {
        let Some(length) = bytes.get(end..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
        end += 4;
        match i32::from_be_bytes(*length) {
            -1 => {}
            length => {
                end += usize::try_from(length).map_err(|_| malformed("a field has a negative length"))?
            }
        }
    }
    Ok((end <= bytes.len()).then_some(end))
}

fn malformed(what: &'static str) -> StoreError {
    BackendError::never("postgres", what).into()
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use proptest::prelude::*;

    use super::*;
    use crate::postgres::binary_copy::{put_field, put_optional};

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
