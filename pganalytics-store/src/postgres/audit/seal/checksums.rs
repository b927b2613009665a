use std::collections::HashMap;
use std::sync::Arc;

use pganalytics_core::audit::{Actor, AuditEvent, LeafRow, Outcome, Resource};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::EventId;
use pganalytics_core::keys::{FieldCipher, FieldCipherError};
use pganalytics_core::random::{Random, RandomExt};
use serde_json::json;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::super::leaf::LeafBytes;
use super::super::mac::RowMacKey;

/// Bad rows of a seal that are told of one by one.
const TOLD_MAX: usize = 100;

/// Writers whose keys are kept from one seal to the next.
const WRITERS_MAX: usize = 1_000;

/// The checksums of writers, checked when their rows are sealed.
#[derive(Debug)]
pub(super) struct Checksums {
    cipher: Arc<dyn FieldCipher>,
    keys: Mutex<WriterKeys>,
}

type WriterKeys = HashMap<Uuid, Vec<RowMacKey>>;

/// A row that is not as its writer stored it.
struct BadRow {
    leaf: u64,
    /// The event, its writer, and its number among the rows of that writer, where they can be read.
    row: Option<(Uuid, Uuid, i64)>,
    reason: &'static str,
}

impl Checksums {
    pub(super) fn new(cipher: Arc<dyn FieldCipher>) -> Self {
        Self { cipher, keys: Mutex::default() }
    }

    /// What is wrong with rows that are sealed from this leaf on, as events that tell of it.
    ///
    /// Sealing waits for nobody: where the keys cannot be had, nothing is found now. Verifying checks each checksum again.
    pub(super) async fn findings(
        &self,
        (first, leaves): (u64, &[LeafBytes]),
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Vec<AuditEvent> {
        let bad = match self.bad_rows(first, leaves).await {
            Ok(bad) => bad,
            Err(error) => {
                tracing::warn!(%error, "rows are sealed without a look at their checksums");
                return Vec::new();
            }
        };
        let told = bad.iter().take(TOLD_MAX);
        let mut events: Vec<AuditEvent> = told.map(|bad| bad.finding(clock, random)).collect();
        let more = bad.len().saturating_sub(TOLD_MAX);
        if more > 0 {
            events.push(finding(format!("{more} more rows of this seal"), clock, random));
        }
        events
    }

    async fn bad_rows(&self, first: u64, leaves: &[LeafBytes]) -> Result<Vec<BadRow>, FieldCipherError> {
        let mut keys = self.keys.lock().await;
        if keys.len() > WRITERS_MAX {
            keys.clear();
        }
        let mut bad = Vec::new();
        for (leaf, bytes) in (first..).zip(leaves) {
            match bytes.row() {
                Err(_) => bad.push(BadRow { leaf, row: None, reason: "unreadable" }),
                Ok(row) => {
                    if let Some(reason) = self.check(&mut keys, &row).await? {
                        let row = Some((row.id, row.writer, row.writer_sequence));
                        bad.push(BadRow { leaf, row, reason });
                    }
                }
            }
        }
        Ok(bad)
    }

    async fn check(
        &self,
        known: &mut WriterKeys,
        row: &LeafRow<'_>,
    ) -> Result<Option<&'static str>, FieldCipherError> {
        let Some(mac) = row.mac else {
            // The key that signs is itself made, and recorded, before there is one.
            return Ok((row.action != "data_key.add").then_some("unsigned"));
        };
        let made = |keys: &[RowMacKey]| keys.iter().any(|key| key.made(mac));
        if !known.get(&row.writer).is_some_and(|keys| made(keys)) {
            // The key may be newer than what is known of them.
            known.insert(row.writer, RowMacKey::all(&*self.cipher, row.writer).await?);
        }
        let key = known.get(&row.writer).and_then(|keys| keys.iter().find(|key| key.made(mac)));
        let Some(key) = key else { return Ok(Some("unknown_key")) };
        // Whoever can ask how long a comparison takes could as well write the row.
        Ok((key.sign(row.signed) != mac).then_some("wrong_checksum"))
    }
}

impl BadRow {
    fn finding(&self, clock: &dyn Clock, random: &dyn Random) -> AuditEvent {
        let finding = finding(self.reason.to_owned(), clock, random);
        let Some((event, writer, sequence)) = self.row else {
            return finding.with_changes(json!({ "leaf": self.leaf }));
        };
        let changes = json!({ "leaf": self.leaf, "writer": writer, "writer_sequence": sequence });
        finding.with_resource(Resource::new("audit_event", event)).with_changes(changes)
    }
}

fn finding(reason: String, clock: &dyn Clock, random: &dyn Random) -> AuditEvent {
    let action = "audit.finding".parse().expect("it is an action");
    let id = EventId(random.uuid_v7(clock));
    let actor = Actor::system("audit-sealer");
    let mut finding = AuditEvent::new(id, clock.now(), actor, action, Outcome::Failure);
    finding.reason = Some(reason);
    finding
}
