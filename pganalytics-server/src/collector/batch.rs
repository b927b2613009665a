//! One push: the envelope of the wire contract (section 2.3), compressed, with the key under which it is sent. A batch
//! is sent again with the same key and the same bytes, so that the server can tell a resend.

use std::io::{self, Read, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::sources::Fields;

/// What the collector says it is.
pub(super) const VERSION: &str = "3.3.0";

/// Largest body of one push before compression. The server takes 64 MiB; small ones cost less to send again.
const MAX_BODY_BYTES: usize = 8 << 20;

/// A decompressed body is never larger: the batches are this program's own.
const MAX_INFLATED_BYTES: u64 = 256 << 20;

const MAGIC: &[u8; 8] = b"PGASPL1\n";
const CHECKSUM_BYTES: usize = 32;

/// Who sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sender {
    /// The id that the server gave, or the node's own while there is none.
    pub collector_id: String,
    pub hostname: String,
}

/// A push, ready to be sent or spooled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub head: Head,
    /// The envelope, gzip.
    pub body: Vec<u8>,
}

/// What is known about a batch without opening it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The idempotency key.
    pub key: Uuid,
    /// Whom the envelope names.
    pub collector_id: String,
    pub entries: u64,
    pub created: DateTime<Utc>,
}

/// A stored batch is not what was written.
#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    #[error("the file is cut short")]
    Cut,
    #[error("the file does not have its checksum")]
    Checksum,
    #[error("the content cannot be read")]
    Content(#[from] serde_json::Error),
    #[error("the content cannot be decompressed")]
    Compression(#[from] io::Error),
}

#[derive(Serialize)]
struct Envelope<'a> {
    collector_id: &'a str,
    hostname: &'a str,
    metrics: &'a [Box<RawValue>],
    metrics_count: usize,
    thinned: bool,
    timestamp: String,
    version: &'static str,
}

#[derive(Deserialize)]
struct StoredEnvelope {
    hostname: String,
    metrics: Vec<Box<RawValue>>,
}

impl Batch {
    /// Packs entries into as few pushes as their size allows.
    pub(super) fn pack(
        entries: &[Fields],
        sender: &Sender,
        now: DateTime<Utc>,
        new_key: impl Fn() -> Uuid,
    ) -> Vec<Self> {
        let mut batches = Vec::new();
        let mut group: Vec<Box<RawValue>> = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            let text = serde_json::value::to_raw_value(entry).expect("fields hold JSON under text keys");
            let length = text.get().len();
            if !group.is_empty() && bytes + length > MAX_BODY_BYTES {
                batches.push(Self::build(&group, sender, now, new_key()));
                group.clear();
                bytes = 0;
            }
            bytes += length;
            group.push(text);
        }
        if !group.is_empty() {
            batches.push(Self::build(&group, sender, now, new_key()));
        }
        batches
    }

    fn build(metrics: &[Box<RawValue>], sender: &Sender, now: DateTime<Utc>, key: Uuid) -> Self {
        let envelope = Envelope {
            collector_id: &sender.collector_id,
            hostname: &sender.hostname,
            metrics,
            metrics_count: metrics.len(),
            thinned: true,
            timestamp: wire_time(now),
            version: VERSION,
        };
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        serde_json::to_writer(&mut gzip, &envelope).expect("memory can be written to");
        let body = gzip.finish().expect("memory can be written to");
        let head = Head {
            key,
            collector_id: sender.collector_id.clone(),
            entries: metrics.len() as u64,
            created: now,
        };
        Self { head, body }
    }

    /// The envelope, decompressed.
    ///
    /// # Errors
    /// When the body is not gzip.
    pub(super) fn inflate(&self) -> Result<Vec<u8>, BatchError> {
        let mut json = Vec::new();
        GzDecoder::new(self.body.as_slice()).take(MAX_INFLATED_BYTES).read_to_end(&mut json)?;
        Ok(json)
    }

    /// The same entries in two pushes, or nothing when there is but one entry.
    ///
    /// # Errors
    /// When the body is not an envelope.
    pub(super) fn split(&self, new_key: impl Fn() -> Uuid) -> Result<Option<[Self; 2]>, BatchError> {
        let stored: StoredEnvelope = serde_json::from_slice(&self.inflate()?)?;
        if stored.metrics.len() < 2 {
            return Ok(None);
        }
        let sender = Sender { collector_id: self.head.collector_id.clone(), hostname: stored.hostname };
        let (first, second) = stored.metrics.split_at(stored.metrics.len() / 2);
        let build = |metrics| Self::build(metrics, &sender, self.head.created, new_key());
        Ok(Some([build(first), build(second)]))
    }

    /// The same entries under another collector's name, for what was collected before the server gave this name. It is
    /// another push and has another key.
    ///
    /// # Errors
    /// When the body is not an envelope.
    pub(super) fn renamed(&self, collector_id: &str, key: Uuid) -> Result<Self, BatchError> {
        let stored: StoredEnvelope = serde_json::from_slice(&self.inflate()?)?;
        let sender = Sender { collector_id: collector_id.to_owned(), hostname: stored.hostname };
        Ok(Self::build(&stored.metrics, &sender, self.head.created, key))
    }

    /// The file form: magic, length and text of the head, length and bytes of the body, SHA-256 of all before.
    pub(super) fn encode(&self) -> Vec<u8> {
        let head = serde_json::to_vec(&self.head).expect("a head is JSON");
        let mut file = Vec::with_capacity(MAGIC.len() + 12 + head.len() + self.body.len() + CHECKSUM_BYTES);
        let mut write = |bytes: &[u8]| file.write_all(bytes).expect("memory can be written to");
        write(MAGIC);
        write(&u32::try_from(head.len()).expect("a head is small").to_le_bytes());
        write(&head);
        write(&(self.body.len() as u64).to_le_bytes());
        write(&self.body);
        let checksum = Sha256::digest(&file);
        file.extend_from_slice(&checksum);
        file
    }

    /// Reads the file form.
    ///
    /// # Errors
    /// When the file is not complete and unchanged.
    pub(super) fn decode(file: &[u8]) -> Result<Self, BatchError> {
        let (content, checksum) = file.split_last_chunk::<CHECKSUM_BYTES>().ok_or(BatchError::Cut)?;
        if Sha256::digest(content).as_slice() != checksum {
            return Err(BatchError::Checksum);
        }
        let rest = content.strip_prefix(MAGIC).ok_or(BatchError::Checksum)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(BatchError::Cut)?;
        let (head, rest) =
            rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(BatchError::Cut)?;
        let (length, body) = rest.split_first_chunk::<8>().ok_or(BatchError::Cut)?;
        if u64::from_le_bytes(*length) != body.len() as u64 {
            return Err(BatchError::Cut);
        }
        Ok(Self { head: serde_json::from_slice(head)?, body: body.to_vec() })
    }
}

/// A time as the wire has it: UTC, whole seconds.
pub(super) fn wire_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::{Value, json};

    use super::super::sources::value;
    use super::*;

    fn entries(count: usize, size: usize) -> Vec<Fields> {
        (0..count)
            .map(|number| {
                Fields::from([
                    ("type".to_owned(), value(&"pg_stats")),
                    ("number".to_owned(), value(&number)),
                    ("fill".to_owned(), value(&"x".repeat(size))),
                ])
            })
            .collect()
    }

    fn keys() -> impl Fn() -> Uuid {
        let next = Cell::new(0);
        move || {
            next.set(next.get() + 1);
            Uuid::from_u128(next.get())
        }
    }

    fn pack(count: usize, size: usize) -> Vec<Batch> {
        let sender = Sender { collector_id: "node".into(), hostname: "db1".into() };
        Batch::pack(&entries(count, size), &sender, DateTime::UNIX_EPOCH, keys())
    }

    fn envelope(batch: &Batch) -> Value {
        serde_json::from_slice(&batch.inflate().unwrap()).unwrap()
    }

    #[test]
    fn the_envelope_is_that_of_the_wire_contract() {
        let [batch] = pack(1, 1).try_into().unwrap();
        assert_eq!(
            envelope(&batch),
            json!({
                "collector_id": "node", "hostname": "db1", "timestamp": "1970-01-01T00:00:00Z",
                "version": "3.3.0", "metrics_count": 1, "thinned": true,
                "metrics": [{ "type": "pg_stats", "number": 0, "fill": "x" }],
            })
        );
    }

    #[test]
    fn many_bytes_are_packed_into_several_pushes_in_order() {
        let batches = pack(5, 3 << 20);
        assert_eq!(batches.iter().map(|batch| batch.head.entries).collect::<Vec<_>>(), [2, 2, 1]);
        assert_eq!(envelope(&batches[1])["metrics"][0]["number"], 2);
        assert!(pack(0, 0).is_empty());
    }

    #[test]
    fn a_split_keeps_every_entry_and_one_entry_cannot_be_split() {
        let [batch] = pack(3, 1).try_into().unwrap();
        let [first, second] = batch.split(keys()).unwrap().unwrap();
        assert_eq!((first.head.entries, second.head.entries), (1, 2));
        assert_ne!(first.head.key, second.head.key);
        assert_eq!(envelope(&second)["metrics"][1]["number"], 2);
        assert_eq!(first.split(keys()).unwrap(), None);
    }

    #[test]
    fn a_renamed_batch_differs_in_name_and_key_alone() {
        let [batch] = pack(2, 1).try_into().unwrap();
        let renamed = batch.renamed("given", Uuid::from_u128(9)).unwrap();
        let mut expected = envelope(&batch);
        expected["collector_id"] = "given".into();
        assert_eq!(envelope(&renamed), expected);
        assert_eq!((renamed.head.key, renamed.head.collector_id.as_str()), (Uuid::from_u128(9), "given"));
    }

    #[test]
    fn a_file_reads_back_and_every_cut_or_changed_one_is_refused() {
        let [batch] = pack(2, 10).try_into().unwrap();
        let file = batch.encode();
        assert_eq!(Batch::decode(&file).unwrap(), batch);
        for length in 0..file.len() {
            assert!(Batch::decode(&file[..length]).is_err(), "cut to {length}");
        }
        for index in 0..file.len() {
            let mut changed = file.clone();
            changed[index] ^= 1;
            assert!(Batch::decode(&changed).is_err(), "changed at {index}");
        }
    }
}
