use std::fmt;
use std::sync::Arc;

use chrono::DateTime;
use futures::future::join_all;
use pganalytics_core::audit::{Actor, AuditEvent, Outcome, Resource};
use pganalytics_core::backup::BackupTarget;
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::EventId;
use pganalytics_core::random::{Random, RandomExt};
use pganalytics_core::tlog::{
    AskWitnessError, AuthenticTree, Ed25519Verifier, KnownWitness, NoteKeyName, NoteSignature,
    SignedCheckpoint, SignedNote, TileStore, TreeSize, VerifierKeys, WitnessOutcome,
};
use sqlx::postgres::PgTransaction;

use super::super::insert::store_events;
use super::super::verify::prefix_of;
use super::AuditWitnessError;
use super::standing::{self, witness_standings};
use crate::postgres::Database;

/// Asks other servers to cosign the checkpoints of this log, so that it cannot show two histories unnoticed.
///
/// # Guarantees
/// - Sealing waits for no witness: what is asked for is what is published already.
/// - Cosignatures are verified before they are kept. The newest checkpoint that has enough of them lies in the anchor as
///   `checkpoint.cosigned`, beside the published one.
/// - A witness that has cosigned what this log is no continuation of is told of by an event `audit.finding`, once: the log was
///   restored to an earlier state, or forked, or the witness is wrong.
pub struct AuditWitnesses {
    database: Database,
    target: Arc<dyn BackupTarget>,
    witnesses: Vec<KnownWitness>,
    quorum: usize,
    ed25519: Arc<dyn Ed25519Verifier>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// What came of asking a witness.
#[derive(Debug)]
#[non_exhaustive]
pub struct AskedWitness {
    /// The name of its key.
    pub witness: NoteKeyName,
    /// What it answered.
    pub outcome: Result<WitnessOutcome, AskWitnessError>,
    /// Whether an event tells of it that did not before.
    pub is_new_finding: bool,
}

/// What is published, and what is to be cosigned of it.
struct Asking {
    era: i16,
    store: TileStore,
    published: SignedCheckpoint,
    /// The newest checkpoint with cosignatures.
    cosigned: Option<SignedCheckpoint>,
}

type Answer<'w> = (&'w KnownWitness, Result<WitnessOutcome, AskWitnessError>);

impl AuditWitnesses {
    /// Asks these witnesses to cosign what this database seals into this target. Of a newer checkpoint with cosignatures of fewer
    /// than `quorum` witnesses, and an older one with more, the older one is kept.
    pub fn new(
        (database, target): (Database, Arc<dyn BackupTarget>),
        witnesses: Vec<KnownWitness>,
        quorum: usize,
        ed25519: Arc<dyn Ed25519Verifier>,
        (clock, random): (Arc<dyn Clock>, Arc<dyn Random>),
    ) -> Self {
        Self { database, target, witnesses, quorum, ed25519, clock, random }
    }

    /// The witnesses.
    pub fn witnesses(&self) -> &[KnownWitness] {
        &self.witnesses
    }

    /// Asks each witness that has not cosigned what is published, all at once, and keeps what they answer.
    ///
    /// # Errors
    /// When database or target could not answer. What a witness answers, or that it does not, is no error.
    pub async fn ask(&self) -> Result<Vec<AskedWitness>, AuditWitnessError> {
        let Some(asking) = self.asking().await? else { return Ok(Vec::new()) };
        let mut answers = self.answers(&asking).await?;
        if answers.iter().any(|(_, outcome)| matches!(outcome, Ok(WitnessOutcome::Ahead { .. }))) {
            // Another server may have published more since, and asked.
            let published = asking.store.reader().checkpoint().await?;
            let size = published.map_or(TreeSize::EMPTY, |published| published.unverified().size());
            answers.retain(
                |(_, outcome)| !matches!(outcome, Ok(WitnessOutcome::Ahead { known }) if *known <= size),
            );
        }
        self.keep(&asking, &answers).await?;
        self.record(&asking, answers).await
    }

    /// What is published of the newest log; nothing if nothing is.
    async fn asking(&self) -> Result<Option<Asking>, AuditWitnessError> {
        let mut connection = self.database.write().await?;
        let era = "SELECT max(era) FROM audit_eras";
        let era: Option<i16> = sqlx::query_scalar(era).fetch_one(&mut *connection).await?;
        let Some(era) = era else { return Ok(None) };
        let names: Vec<&str> = self.witnesses.iter().map(|witness| witness.key_name().as_str()).collect();
        standing::begin(&mut connection, era, &names).await?;
        connection.commit().await?;
        let store = TileStore::new(Arc::clone(&self.target))?.with_prefix(prefix_of(era));
        let Some(published) = store.reader().checkpoint().await? else { return Ok(None) };
        Ok(Some(Asking { era, cosigned: store.reader().cosigned().await?, store, published }))
    }

    async fn answers(&self, asking: &Asking) -> Result<Vec<Answer<'_>>, AuditWitnessError> {
        let published = &asking.published;
        let is_done =
            |witness: &KnownWitness| asking.same().is_some_and(|same| self.line_of(witness, same).is_some());
        let left: Vec<&KnownWitness> = self.witnesses.iter().filter(|witness| !is_done(witness)).collect();
        if left.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.database.read().await?;
        let standings = witness_standings(&mut connection).await?;
        drop(connection);
        let reader = asking.store.reader().clone();
        let tree = AuthenticTree::open(reader, published.unverified().clone()).await?;
        let ask = left.into_iter().map(|witness| {
            let mut tree = tree.clone();
            let known = standings.iter().find(|standing| standing.witness == witness.key_name().as_str());
            let known = known.map_or(TreeSize::EMPTY, |standing| standing.size);
            async move { (witness, witness.cosign(published, &mut tree, known, &*self.ed25519).await) }
        });
        Ok(join_all(ask).await)
    }

    /// Keeps the cosignatures, unless what is kept has enough of them and this has not.
    async fn keep(&self, asking: &Asking, answers: &[Answer<'_>]) -> Result<(), AuditWitnessError> {
        let mut note = asking.published.note().clone();
        let mut count = 0;
        for witness in &self.witnesses {
            let answered = answers.iter().find(|(asked, _)| asked.key() == witness.key());
            let new = answered.and_then(|(_, outcome)| match outcome {
                Ok(WitnessOutcome::Cosigned { signature, .. }) => Some(signature.clone()),
                _ => None,
            });
            let line = new.or_else(|| asking.same().and_then(|same| self.line_of(witness, same)));
            if let Some(line) = line {
                count += 1;
                if !note.signatures().contains(&line) {
                    note = note.with_signature(line)?;
                }
            }
        }
        let before = asking.cosigned.as_ref().map_or(0, |cosigned| {
            self.witnesses.iter().filter(|witness| self.line_of(witness, cosigned).is_some()).count()
        });
        let is_better = count > 0 && count >= before.min(self.quorum);
        if is_better && !answers.is_empty() {
            asking.store.put_cosigned(&SignedCheckpoint::new(note)?).await?;
        }
        Ok(())
    }

    /// Keeps record of what they answered, and has an event tell of what shows another history.
    async fn record(
        &self,
        asking: &Asking,
        answers: Vec<Answer<'_>>,
    ) -> Result<Vec<AskedWitness>, AuditWitnessError> {
        let mut transaction = self.database.begin().await?;
        let (mut asked, mut findings) = (Vec::new(), Vec::new());
        for (witness, outcome) in answers {
            let name = witness.key_name().clone();
            let place = (asking.era, &name);
            let mut is_new_finding = false;
            if let Ok(WitnessOutcome::Cosigned { at, .. }) = &outcome {
                let at = i64::try_from(*at).ok().and_then(|at| DateTime::from_timestamp(at, 0));
                let (size, at) = (asking.published.unverified().size(), at.unwrap_or(self.clock.now()));
                standing::cosigned(&mut transaction, place, size, at).await?;
            } else if let Some((refusal, is_finding)) = outcome.as_ref().ok().and_then(refusal) {
                let is_new = standing::refused(&mut transaction, place, &refusal).await?;
                is_new_finding = is_new && is_finding;
                if is_new_finding {
                    findings.push(self.finding(&name, refusal));
                }
            }
            asked.push(AskedWitness { witness: name, outcome, is_new_finding });
        }
        self.commit(transaction, &findings).await?;
        Ok(asked)
    }

    async fn commit(
        &self,
        mut transaction: PgTransaction<'_>,
        findings: &[AuditEvent],
    ) -> Result<(), AuditWitnessError> {
        if findings.is_empty() {
            return Ok(transaction.commit().await?);
        }
        let mut numbers = store_events(&mut transaction, self.database.audit_writer(), findings).await?;
        transaction.commit().await?;
        numbers.settle();
        Ok(())
    }

    fn finding(&self, witness: &NoteKeyName, reason: String) -> AuditEvent {
        let action = "audit.finding".parse().expect("it is an action");
        let id = EventId(self.random.uuid_v7(&*self.clock));
        let actor = Actor::system("audit-witness");
        let mut finding = AuditEvent::new(id, self.clock.now(), actor, action, Outcome::Failure);
        finding.resource = Some(Resource::new("audit_witness", witness));
        finding.reason = Some(reason);
        finding
    }

    /// The cosignature of a witness on a checkpoint, if there is one that verifies.
    fn line_of(&self, witness: &KnownWitness, checkpoint: &SignedCheckpoint) -> Option<NoteSignature> {
        let keys = VerifierKeys::new([witness.key().clone()]).ok()?;
        let text = checkpoint.note().unverified_text();
        let lines = checkpoint.note().signatures().iter();
        let mut own = lines.filter(|line| line.name == *witness.key_name() && line.id == witness.key().id());
        let verifies = |line: &&NoteSignature| {
            let note = SignedNote::new(text.clone(), (*line).clone());
            note.is_ok_and(|note| note.verify(&keys, &*self.ed25519).is_ok())
        };
        own.find(verifies).cloned()
    }
}

impl fmt::Debug for AuditWitnesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditWitnesses")
            .field("witnesses", &self.witnesses)
            .field("quorum", &self.quorum)
            .finish_non_exhaustive()
    }
}

impl Asking {
    /// What is cosigned of the checkpoint that is published.
    fn same(&self) -> Option<&SignedCheckpoint> {
        let text = self.published.note().unverified_text();
        self.cosigned.as_ref().filter(|cosigned| cosigned.note().unverified_text() == text)
    }
}

/// What a witness answered instead of cosigning, in words that stay the same while the log grows; and whether it shows another
/// history.
fn refusal(outcome: &WitnessOutcome) -> Option<(String, bool)> {
    Some(match outcome {
        WitnessOutcome::Ahead { known } => {
            (format!("the witness has cosigned {known} entries of this log, more than are published"), true)
        }
        WitnessOutcome::OtherHistory { known } => {
            let words = "entries of this log, of which what is published is no continuation";
            (format!("the witness has cosigned {known} {words}"), true)
        }
        WitnessOutcome::Refused(refusal) => (refusal.to_string(), false),
        _ => return None,
    })
}
