//! A log that others cosign shows everybody the same history, or is found out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pganalytics_core::backup::PutMode;
use pganalytics_core::clock::Clock;
use pganalytics_core::error::BackendError;
use pganalytics_core::random::OsRandom;
use pganalytics_core::tlog::{
    AddCheckpoint, CheckpointPolicy, Cosigner, KnownWitness, MemoryWitness, TileReader, TreeSize,
    VerifierKey, Witness, WitnessError, WitnessOutcome, WitnessVerdict,
};
use pganalytics_crypto::ed25519::verify;
use pganalytics_store::postgres::audit_log::{self, AuditFilter};
use pganalytics_store::postgres::{
    AskedWitness, AuditReport, AuditVerifier, AuditWitnesses, Finding, LogFault, WitnessStanding,
    witness_standings,
};

use super::fixture::{LOG, ProvedLog, signer};

const MINUTE: Duration = Duration::from_secs(60);

/// A witness that can be away.
#[derive(Clone, Debug)]
struct Other {
    witness: MemoryWitness,
    key: VerifierKey,
    is_away: Arc<AtomicBool>,
}

impl Other {
    /// A witness of this log.
    async fn of(log: &ProvedLog, name: &str) -> Self {
        let keys = log.note_signer().verifier_keys().await.unwrap();
        let policy = CheckpointPolicy::new(format!("{LOG}/1").parse().unwrap(), keys).unwrap();
        let cosigner = Cosigner::new(name.parse().unwrap(), signer().await, log.clock.clone());
        let key = cosigner.verifier_keys().await.unwrap().remove(0);
        Self {
            witness: MemoryWitness::new([policy], cosigner, Arc::new(verify)),
            key,
            is_away: Arc::default(),
        }
    }

    fn is_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }
}

#[async_trait]
impl Witness for Other {
    fn name(&self) -> &'static str {
        "other"
    }

    async fn add_checkpoint(&self, request: &AddCheckpoint) -> Result<WitnessVerdict, WitnessError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(BackendError::later("other", "away").into());
        }
        self.witness.add_checkpoint(request).await
    }
}

fn witnesses(log: &ProvedLog, others: &[Other], quorum: usize) -> AuditWitnesses {
    let known = |other: &Other| KnownWitness::new(other.key.clone(), Arc::new(other.clone()));
    AuditWitnesses::new(
        (log.database.clone(), log.target.clone()),
        others.iter().map(known).collect(),
        quorum,
        Arc::new(verify),
        (log.clock.clone(), Arc::new(OsRandom)),
    )
}

async fn ask(log: &ProvedLog, others: &[Other], quorum: usize) -> Vec<AskedWitness> {
    witnesses(log, others, quorum).ask().await.unwrap()
}

fn have_cosigned(asked: &[AskedWitness]) -> usize {
    asked.iter().filter(|asked| matches!(asked.outcome, Ok(WitnessOutcome::Cosigned { .. }))).count()
}

/// The report of an auditor who demands so many of these witnesses.
async fn report(log: &ProvedLog, others: &[Other], quorum: usize) -> AuditReport {
    let trust = log.trust().await.with_witnesses(others.iter().map(|other| other.key.clone()), quorum);
    let (database, target) = (log.database.clone(), log.target.clone());
    let verifier = AuditVerifier::new(database, target, trust, log.clock.clone());
    verifier.with_cipher(log.cipher.clone()).verify(|_| {}).await.unwrap()
}

fn faults(report: &AuditReport) -> Vec<LogFault> {
    let fault = |finding: &Finding| match finding {
        Finding::Log { fault, .. } => fault.clone(),
        other => panic!("{other}"),
    };
    report.findings.iter().map(fault).collect()
}

async fn standings(log: &ProvedLog) -> Vec<WitnessStanding> {
    witness_standings(&mut log.database.read().await.unwrap()).await.unwrap()
}

async fn findings_recorded(log: &ProvedLog) -> Vec<String> {
    let mut connection = log.database.read().await.unwrap();
    let events = audit_log::list(&mut connection, &AuditFilter::default(), None, 1000).await.unwrap();
    let findings = events.into_iter().filter(|event| event.action.as_str() == "audit.finding");
    findings.map(|event| event.reason.unwrap()).collect()
}

#[tokio::test]
async fn log_that_enough_witnesses_cosigned_is_believed() {
    let Some(log) = ProvedLog::sealed().await else { return };
    let others = [Other::of(&log, "one.example").await, Other::of(&log, "two.example").await];
    assert_eq!(have_cosigned(&ask(&log, &others, 2).await), 2);
    assert!(ask(&log, &others, 2).await.is_empty(), "nobody is asked for what is cosigned");
    let report = report(&log, &others, 2).await;
    assert!(report.is_clean(), "{report}");
    let cosigned = report.eras[0].cosigned.as_ref().unwrap();
    assert_eq!((cosigned.size, cosigned.at.timestamp()), (30, log.clock.now().timestamp()));
    assert_eq!(cosigned.witnesses, ["one.example", "two.example"]);
    assert!(report.to_string().contains("30 entries cosigned"), "{report}");

    log.append(30..40).await;
    log.seal().await;
    assert!(self::report(&log, &others, 2).await.is_clean(), "the newest may wait for a while");
    let standing = standings(&log).await.remove(0);
    assert_eq!((standing.witness.as_str(), standing.size), ("one.example", TreeSize(30)));
    assert!(standing.lag > Duration::ZERO, "{standing:?}");
    assert_eq!(have_cosigned(&ask(&log, &others, 2).await), 2);
    let standing = standings(&log).await.remove(0);
    assert_eq!((standing.size, standing.lag, standing.refusal), (TreeSize(40), Duration::ZERO, None));
}

#[tokio::test]
async fn witness_that_is_away_delays_nothing_but_its_cosignature() {
    let Some(log) = ProvedLog::sealed().await else { return };
    let others = [Other::of(&log, "one.example").await, Other::of(&log, "two.example").await];
    ask(&log, &others, 2).await;
    others[1].is_away(true);
    log.append(30..40).await;
    log.seal().await;
    assert_eq!(have_cosigned(&ask(&log, &others, 2).await), 1);
    // What has enough cosignatures is not replaced by what has fewer, unless fewer are enough.
    let reader = TileReader::new(log.target.clone()).with_prefix(ProvedLog::path("era-1"));
    let kept = async || reader.cosigned().await.unwrap().unwrap().unverified().size().0;
    assert_eq!(kept().await, 30);
    assert!(report(&log, &others, 2).await.is_clean());
    let behind = standings(&log).await;
    let sizes: Vec<_> =
        behind.iter().map(|standing| (standing.size.0, standing.lag > Duration::ZERO)).collect();
    assert_eq!(sizes, [(40, false), (30, true)], "{behind:?}");

    log.clock.advance(11 * MINUTE);
    let late = report(&log, &others, 2).await;
    assert!(matches!(faults(&late)[..], [LogFault::NotCosigned { cosigned: 30, size: 40, .. }]), "{late}");
    assert_eq!(have_cosigned(&ask(&log, &others, 1).await), 1);
    assert_eq!(kept().await, 40);
    assert!(report(&log, &others, 1).await.is_clean());

    others[1].is_away(false);
    assert_eq!(have_cosigned(&ask(&log, &others, 2).await), 1);
    let report = report(&log, &others, 2).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.eras[0].cosigned.as_ref().unwrap().size, 40);
    assert!(findings_recorded(&log).await.is_empty());
}

/// Who holds database, anchor and the key of the log can make another history that is whole.
async fn another_history(log: &ProvedLog, events: u128) -> ProvedLog {
    let mut other = ProvedLog::empty().await.unwrap();
    other.signer = log.signer.clone();
    other.append(1000..1000 + events).await;
    other.seal().await;
    other
}

#[tokio::test]
async fn two_histories_shown_to_two_auditors_are_found_by_their_witness() {
    let Some(log) = ProvedLog::sealed().await else { return };
    let witness = [Other::of(&log, "one.example").await];
    ask(&log, &witness, 1).await;
    let cosigned =
        log.target.get(&ProvedLog::path("era-1/checkpoint.cosigned"), None).await.unwrap().unwrap();
    for events in [20, 30, 40] {
        let shown = another_history(&log, events).await;
        assert!(shown.verify().await.is_clean(), "by itself it is as good as the other");
        assert_eq!(have_cosigned(&ask(&shown, &witness, 1).await), 0);
        shown.seal().await;
        assert!(report(&log, &witness, 1).await.is_clean(), "what the first auditor is shown");

        shown.clock.advance(11 * MINUTE);
        let not_cosigned = faults(&report(&shown, &witness, 1).await);
        assert!(
            matches!(not_cosigned[..], [LogFault::NotCosigned { cosigned: 0, .. }]),
            "what the second is shown: {not_cosigned:?}"
        );
        let path = ProvedLog::path("era-1/checkpoint.cosigned");
        shown.target.put(&path, cosigned.clone(), PutMode::Overwrite).await.unwrap();
        let with_that_of_the_first = faults(&report(&shown, &witness, 1).await);
        let place = "cosigned by witnesses";
        let expected = match events {
            20 => LogFault::CutOff { place, before: 30, now: 21 },
            _ => LogFault::TwoHistories { place, size: 30 },
        };
        assert!(with_that_of_the_first.contains(&expected), "{events}: {with_that_of_the_first:?}");
    }
}

#[tokio::test]
async fn log_that_was_restored_or_forked_learns_it_from_its_witness_and_records_it_once() {
    let Some(log) = ProvedLog::sealed().await else { return };
    let witness = [Other::of(&log, "one.example").await];
    ask(&log, &witness, 1).await;
    // Database and anchor went back together, so that nothing here shows it.
    let restored = another_history(&log, 20).await;
    let mut asked = ask(&restored, &witness, 1).await;
    let ahead = asked.remove(0);
    assert!(matches!(ahead.outcome, Ok(WitnessOutcome::Ahead { known: TreeSize(30) })), "{ahead:?}");
    assert!(ahead.is_new_finding);
    restored.append(1020..1025).await;
    restored.seal().await;
    assert!(!ask(&restored, &witness, 1).await.remove(0).is_new_finding, "it is told once");
    restored.append(1025..1040).await;
    restored.seal().await;
    let other = ask(&restored, &witness, 1).await.remove(0);
    assert!(matches!(other.outcome, Ok(WitnessOutcome::OtherHistory { known: TreeSize(30) })), "{other:?}");
    let recorded = findings_recorded(&restored).await;
    assert_eq!(recorded.len(), 2, "{recorded:?}");
    assert!(
        recorded.iter().all(|reason| reason.contains("the witness has cosigned 30 entries")),
        "{recorded:?}"
    );
    let standing = standings(&restored).await.remove(0);
    assert!(standing.refusal.is_some() && standing.cosigned_at.is_none(), "{standing:?}");
    restored.seal().await;
    let sealed = restored.published(1).await.unverified().size();
    assert!(sealed > TreeSize(40), "sealing goes on, with what was found: {sealed}");
}

#[tokio::test]
async fn cosigned_checkpoint_that_is_damaged_or_not_cosigned_is_named() {
    let Some(log) = ProvedLog::sealed().await else { return };
    let witness = [Other::of(&log, "one.example").await];
    let path = ProvedLog::path("era-1/checkpoint.cosigned");
    let not_cosigned = log.published(1).await.to_string();
    for (object, is_named) in [
        ("junk".to_owned(), (|fault| matches!(fault, LogFault::Tiles { .. })) as fn(&LogFault) -> bool),
        (not_cosigned, |fault| matches!(fault, LogFault::Untrusted { size: 30, .. })),
    ] {
        log.target.put(&path, object.into(), PutMode::Overwrite).await.unwrap();
        let report = report(&log, &witness, 1).await;
        assert!(faults(&report).iter().any(is_named), "{report}");
    }
    assert!(log.verify().await.is_clean(), "who demands no witnesses does not look");
}
