use std::collections::HashMap;
use std::sync::Arc;

use pganalytics_core::audit::{Actor, AuditEvent, LeafRow, Outcome, Resource};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::EventId;
use pganalytics_core::keys::FieldCipher;
use pganalytics_core::random::{Random, RandomExt};
use uuid::Uuid;

use super::super::leaf::LeafBytes;
use super::super::mac::RowMacKey;

/// Bad rows of a seal that are told of one by one.
const TOLD_MAX: usize = 100;

/// The checksums of writers, checked when their rows are sealed.
#[derive(Debug)]
pub(super) struct Checksums {
    cipher: Arc<dyn FieldCipher>,
    keys: HashMap<Uuid, Vec<RowMacKey>>,
}

impl Checksums {
    pub(super) fn new(cipher: Arc<dyn FieldCipher>) -> Self {
        Self { cipher, keys: HashMap::new() }
    }

    /// What is wrong with rows that are sealed, as events that tell of it.
    ///
    /// Sealing waits for nobody: where the keys cannot be had, nothing is found now. Verifying checks each checksum again.
    pub(super) async fn findings(
        &mut self,
        leaves: &[LeafBytes],
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Vec<AuditEvent> {
        let mut bad: Vec<(Option<Uuid>, &'static str)> = Vec::new();
        for leaf in leaves {
            match leaf.row() {
                Err(_) => bad.push((None, "unreadable")),
                Ok(row) => match self.check(&row).await {
                    Ok(verdict) => bad.extend(verdict.map(|reason| (Some(row.id), reason))),
                    Err(error) => {
                        tracing::warn!(%error, "rows are sealed without a look at their checksums");
                        return Vec::new();
                    }
                },
            }
        }
        let more = bad.len().saturating_sub(TOLD_MAX);
        let told = bad.into_iter().take(TOLD_MAX);
        let mut events: Vec<AuditEvent> =
            told.map(|(event, reason)| finding(event, reason.to_owned(), clock, random)).collect();
        if more > 0 {
            events.push(finding(None, format!("{more} more rows of this seal"), clock, random));
        }
        events
    }

    async fn check(
        &mut self,
        row: &LeafRow<'_>,
    ) -> Result<Option<&'static str>, pganalytics_core::keys::FieldCipherError> {
        let Some(mac) = row.mac else {
            // The key that signs is itself made, and recorded, before there is one.
            return Ok((row.action != "data_key.add").then_some("unsigned"));
        };
        let keys = match self.keys.entry(row.writer) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(unknown) => {
                unknown.insert(RowMacKey::all(&*self.cipher, row.writer).await?)
            }
        };
        let Some(key) = keys.iter().find(|key| key.made(mac)) else { return Ok(Some("unknown_key")) };
        // Whoever can ask how long a comparison takes could as well write the row.
        Ok((key.sign(row.signed) != mac).then_some("wrong_checksum"))
    }
}

fn finding(event: Option<Uuid>, reason: String, clock: &dyn Clock, random: &dyn Random) -> AuditEvent {
    let action = "audit.finding".parse().expect("it is an action");
    let id = EventId(random.uuid_v7(clock));
    let actor = Actor::system("audit-sealer");
    let mut finding = AuditEvent::new(id, clock.now(), actor, action, Outcome::Failure);
    finding.resource = event.map(|event| Resource::new("audit_event", event));
    finding.reason = Some(reason);
    finding
}
