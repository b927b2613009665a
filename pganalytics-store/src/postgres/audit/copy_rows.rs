use bytes::{Buf, Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use pganalytics_core::error::BackendError;

use crate::postgres::StoreError;
use crate::postgres::binary_copy::{HEADER, TRAILER};

/// Rows of binary COPY, one after the other as the database sends them. It holds no more than what came at once, which is a
/// row.
pub(super) struct CopyRows<'c> {
    source: BoxStream<'c, sqlx::Result<Bytes>>,
    fields: u16,
    buffer: BytesMut,
    /// Whether the header has been read.
    begun: bool,
    /// Whether the trailer has been read.
    ended: bool,
}

impl<'c> CopyRows<'c> {
    /// Rows of so many fields.
    pub(super) fn new(source: BoxStream<'c, sqlx::Result<Bytes>>, fields: u16) -> Self {
        Self { source, fields, buffer: BytesMut::new(), begun: false, ended: false }
    }

    /// The next row, with the number of its fields at the beginning; nothing after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<BytesMut>, StoreError> {
        while !self.ended {
            if let Some(row) = self.take()? {
                return Ok(Some(row));
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

    /// Where the first fields of a row end.
    pub(super) fn end_of(row: &[u8], fields: u16) -> Result<usize, StoreError> {
        length_of(row, fields)?.ok_or_else(|| malformed("a row ends before its fields"))
    }

    /// A row, if all of it has come.
    fn take(&mut self) -> Result<Option<BytesMut>, StoreError> {
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
            Some(count) if u16::from_be_bytes(*count) == self.fields => {}
            Some(_) => return Err(malformed("a row has another number of fields")),
        }
        let length = length_of(&self.buffer, self.fields)?;
        Ok(length.map(|length| self.buffer.split_to(length)))
    }
}

impl std::fmt::Debug for CopyRows<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyRows")
            .field("fields", &self.fields)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// How long the first fields of a row are with the number before them, if all of them are there.
fn length_of(bytes: &[u8], fields: u16) -> Result<Option<usize>, StoreError> {
    let mut end = 2;
    for _ in 0..fields {
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
