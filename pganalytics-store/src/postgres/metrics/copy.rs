use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::postgres::PgCopyIn;
use uuid::Uuid;

use crate::postgres::StoreError;
use crate::postgres::binary_copy::{HEADER, TRAILER, put_field, put_jsonb, timestamp};

use super::entry::MetricEntry;

const COPY: &str = "COPY metric_rows (collector_id, ts, received_at, entry_id, metric_type, database, section, ordinal, \
    data) FROM STDIN (FORMAT binary)";
const FIELDS: i16 = 9;

/// How much is gathered before it is sent.
const CHUNK: usize = 256 << 10;

/// Puts entries into `metric_rows` as a binary COPY.
pub(super) struct RowWriter<'c> {
    copy: PgCopyIn<&'c mut PgConnection>,
    buffer: Vec<u8>,
    collector: Uuid,
    received_at: DateTime<Utc>,
}

/// Where an entry is to be found again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    pub(super) entry_id: i64,
    pub(super) ts: DateTime<Utc>,
}

impl<'c> RowWriter<'c> {
    pub(super) async fn begin(
        connection: &'c mut PgConnection,
        collector: Uuid,
        received_at: DateTime<Utc>,
    ) -> Result<Self, StoreError> {
        let copy = connection.copy_in_raw(COPY).await?;
        let mut buffer = Vec::with_capacity(CHUNK + CHUNK / 4);
        buffer.extend_from_slice(HEADER);
        Ok(Self { copy, buffer, collector, received_at })
    }

    /// Adds the rows of an entry. Of its lists' elements only those that `keep` wants, by section and place.
    pub(super) async fn write(
        &mut self,
        entry: &MetricEntry<'_>,
        placement: Placement,
        keep: impl Fn(&str, usize) -> bool,
    ) -> Result<(), StoreError> {
        let text = entry.text();
        let mut front = FIELDS.to_be_bytes().to_vec();
        put_field(&mut front, self.collector.as_bytes());
        put_field(&mut front, &timestamp(placement.ts));
        put_field(&mut front, &timestamp(self.received_at));
        put_field(&mut front, &placement.entry_id.to_be_bytes());
        put_field(&mut front, entry.metric_type.as_bytes());
        let shared = front.len();
        for part in entry.layout().parts {
            front.truncate(shared);
            put_field(&mut front, part.database.as_bytes());
            let of_part = front.len();
            put_field(&mut front, b"");
            self.put_row(&front, 0, |data| part.write_plain(text, data));
            self.send_full_chunks().await?;
            for section in &part.sections {
                front.truncate(of_part);
                put_field(&mut front, section.name.as_bytes());
                for (place, row) in
                    section.rows.iter().enumerate().filter(|(place, _)| keep(&section.name, *place))
                {
                    self.put_row(&front, place, |data| data.extend_from_slice(&text.as_bytes()[row.clone()]));
                    self.send_full_chunks().await?;
                }
            }
        }
        Ok(())
    }

    /// Ends the COPY; tells how many rows there were.
    pub(super) async fn finish(mut self) -> Result<u64, StoreError> {
        self.buffer.extend_from_slice(&TRAILER);
        self.copy.send(self.buffer).await?;
        Ok(self.copy.finish().await?)
    }

    fn put_row(&mut self, front: &[u8], ordinal: usize, data: impl FnOnce(&mut Vec<u8>)) {
        self.buffer.extend_from_slice(front);
        let ordinal = i32::try_from(ordinal).expect("an entry has at most 500 000 rows");
        put_field(&mut self.buffer, &ordinal.to_be_bytes());
        put_jsonb(&mut self.buffer, data);
    }

    async fn send_full_chunks(&mut self) -> Result<(), StoreError> {
        if self.buffer.len() >= CHUNK {
            self.copy.send(self.buffer.as_slice()).await?;
            self.buffer.clear();
        }
        Ok(())
    }
}
