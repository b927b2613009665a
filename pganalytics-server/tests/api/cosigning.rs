//! Two servers, of which one cosigns the audit log of the other.

use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::audit::{Actor, EventProof, EventProofError};
use pganalytics_core::testing::Subject;
use pganalytics_core::testing::witness::WitnessFixture;
use pganalytics_core::tlog::{
    CheckpointError, CheckpointPolicy, SignedCheckpoint, VerifierKey, WitnessOutcome,
};
use pganalytics_core::users::Role;
use pganalytics_crypto::ed25519;
use pganalytics_server::config::{
    AuditLogConfig, AuditWitnessConfig, Bounded, LogWitnessConfig, WitnessedLogConfig,
};
use pganalytics_server::http_witness::HttpWitness;
use pganalytics_server::wiring::GivenKeys;
use pganalytics_server::{jobs, wiring};
use pganalytics_store::postgres::{AskedWitness, WitnessStanding, witness_standings};
use pganalytics_testkit::wait_until;
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use crate::audit_proofs::change;
use crate::common::{LIMIT, TestServer, answer};
use crate::witness::{ForeignLog, ORIGIN, witness_key};

const LOG: &str = "a.example/audit";

mod over_http {
    use super::*;

    pganalytics_core::witness_contract!(async {
        let log = ForeignLog::new().await;
        let stranger = ForeignLog::new().await;
        let server = TestServer::start_with(|config| log.witnessed_by(config)).await?;
        let key = witness_key(&server).await;
        let prefix = server.url("/api/v1/audit/witness").parse().unwrap();
        let witness = HttpWitness::new(&prefix, None, LIMIT).unwrap();
        let subject = Subject::real_time(Arc::new(witness) as _).keeping(server);
        let log = (ORIGIN.parse().unwrap(), log.into_signer());
        Some(WitnessFixture::new((subject, key), log, stranger.into_signer(), Arc::new(ed25519::verify)))
    });
}

/// A server whose log another one cosigns.
struct Pair {
    log: TestServer,
    witness: TestServer,
    anchor: TempDir,
}

impl Pair {
    async fn start() -> Option<Self> {
        let anchor = tempfile::tempdir().unwrap();
        let folder = anchor.path().join("log");
        let log = TestServer::start_with(|config| {
            let mut log = AuditLogConfig::local(LOG, folder);
            log.ask_witnesses_every_seconds = Bounded::new(1);
            config.audit.log = Some(log);
        });
        let log = log.await?;
        let keys: Vec<String> = log_keys(&log).await.iter().map(ToString::to_string).collect();
        let witness = TestServer::start_with(|config| {
            let log = WitnessedLogConfig { origin: format!("{LOG}/1"), keys, title: Some("A".into()) };
            config.audit.witness =
                Some(AuditWitnessConfig { name: "b.example/witness".into(), logs: vec![log] });
        });
        Some(Self { log, witness: witness.await?, anchor }.introduced().await)
    }

    /// Tells the log where its witness is.
    async fn introduced(self) -> Self {
        let Self { log, witness, anchor } = self;
        let key = cosigning_key(&witness).await.to_string();
        let url = witness.url("/api/v1/audit/witness").parse().unwrap();
        let known = LogWitnessConfig { url, key, tls_authorities: None };
        let log = log.restart_with(|config| config.audit.log.as_mut().unwrap().witnesses = vec![known]);
        Self { log: log.await, witness, anchor }
    }

    /// Seals everything, also what comes later than the answer that it is about.
    async fn seal(&self) {
        let sealer = &self.log.app.audit_log.as_ref().unwrap().sealer;
        let is_sealed = async || {
            self.log.all_recorded().await;
            sealer.seal().await.unwrap();
            self.log.number("SELECT unsealed_events FROM audit_seal_lag").await == 0
        };
        assert!(wait_until(LIMIT, is_sealed).await);
    }

    async fn ask(&self) -> Vec<AskedWitness> {
        self.log.app.log_witnesses.as_ref().unwrap().asking.ask().await.unwrap()
    }

    async fn standing(&self) -> Option<WitnessStanding> {
        witness_standings(&mut self.log.app.database.read().await.unwrap()).await.unwrap().pop()
    }
}

async fn log_keys(server: &TestServer) -> Vec<VerifierKey> {
    let (_, _, keys) = wiring::published_audit_log(&server.app.config).await.unwrap();
    keys.into_iter().map(|(key, _)| key).collect()
}

async fn cosigning_key(server: &TestServer) -> VerifierKey {
    let cosigner = &server.app.audit_witness.as_ref().unwrap().cosigner;
    cosigner.verifier_keys().await.unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_of_one_server_is_cosigned_by_another_which_was_killed_meanwhile() {
    let Some(pair) = Pair::start().await else { return };
    assert_eq!(pair.log.get("/audit/checkpoint/cosigned").send().await.unwrap().status(), 404);
    // As the program runs it.
    let background = jobs::start(pair.log.app.clone());
    let witnesses = pair.log.app.log_witnesses.as_ref().unwrap();
    let is_cosigned = async || {
        let lags = witnesses.look().await.unwrap();
        pair.log.app.audit_log.as_ref().is_some_and(|log| log.last_seen().is_some())
            && lags.iter().any(|lag| lag.standing.size.0 > 0)
    };
    assert!(wait_until(LIMIT, is_cosigned).await, "{:?}", pair.standing().await);
    let (_, health) = answer(pair.log.get("/health")).await;
    let witness = &health["audit_log"]["witnesses"][0];
    assert_eq!(
        (&witness["name"], &witness["refuses"]),
        (&json!("b.example/witness"), &json!(false)),
        "{health}"
    );
    background.stop().await;
    pair.log.sign_in("one", Role::Viewer).await;
    is_clean(&pair).await;

    let shown = pair.log.get("/audit/checkpoint/cosigned").send().await.unwrap();
    assert_eq!(shown.status(), 200);
    let shown = SignedCheckpoint::parse(&shown.bytes().await.unwrap()).unwrap();
    let policy =
        CheckpointPolicy::new(format!("{LOG}/1").parse().unwrap(), log_keys(&pair.log).await).unwrap();
    let policy = policy.with_witnesses([cosigning_key(&pair.witness).await], 1).unwrap();
    assert_eq!(shown.verify(&policy, &ed25519::verify).map(drop), Ok(()));

    let Pair { log, witness, anchor } = pair;
    let pair = Pair { log, witness: witness.restart().await, anchor };
    pair.log.sign_in("two", Role::Viewer).await;
    pair.seal().await;
    let away = pair.ask().await.remove(0);
    assert!(away.outcome.is_err(), "{away:?}");
    pair.log.sign_in("three", Role::Viewer).await;
    pair.seal().await;
    let pair = pair.introduced().await;
    let back = pair.ask().await.remove(0);
    assert!(matches!(back.outcome, Ok(WitnessOutcome::Cosigned { .. })), "{back:?}");
    is_clean(&pair).await;
    assert!(verify(&pair).await.contains("by b.example/witness"));
    assert_eq!(pair.standing().await.unwrap().lag, Duration::ZERO);
}

/// What a server that stopped had left on its disk comes some time after the next one has started.
async fn is_clean(pair: &Pair) {
    let is_clean = async || {
        pair.seal().await;
        pair.ask().await;
        verify(pair).await.contains("nothing is wrong")
    };
    assert!(wait_until(LIMIT, is_clean).await, "{}", verify(pair).await);
}

/// What the command line would say, which demands the witness of the configuration.
async fn verify(pair: &Pair) -> String {
    verify_by(pair, []).await
}

/// The same for an auditor who has keys of witnesses by another way.
async fn verify_by(pair: &Pair, witnesses: impl Into<Vec<VerifierKey>>) -> String {
    let given = GivenKeys { witnesses: witnesses.into(), ..GivenKeys::default() };
    let verifier = wiring::audit_verifier(&pair.log.app.config, Actor::system("test"), given, true).await;
    let (verifier, _) = verifier.unwrap();
    verifier.verify(|_| {}).await.unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proofs_of_events_are_cosigned_as_soon_as_the_log_is() {
    let Some(pair) = Pair::start().await else { return };
    let admin = pair.log.sign_in("admin", Role::Admin).await;
    let log = CheckpointPolicy::new(format!("{LOG}/1").parse().unwrap(), log_keys(&pair.log).await).unwrap();
    let cosigned = log.clone().with_witnesses([cosigning_key(&pair.witness).await], 1).unwrap();
    let witnesses_of = async |event: Uuid| {
        let proof = pair.log.get(&format!("/audit/events/{event}/proof")).bearer_auth(&admin);
        let proof = EventProof::parse(&proof.send().await.unwrap().bytes().await.unwrap()).unwrap();
        proof.verify(&log, &ed25519::verify).unwrap();
        proof.verify(&cosigned, &ed25519::verify).map(|proved| proved.checkpoint().witnesses().len())
    };
    let first = change(&pair.log, &admin, "first").await;
    pair.seal().await;
    pair.ask().await;
    let second = change(&pair.log, &admin, "second").await;
    pair.seal().await;
    assert_eq!(witnesses_of(first).await, Ok(1));
    let uncosigned = CheckpointError::TooFewWitnesses { found: 0, quorum: 1 };
    assert_eq!(witnesses_of(second).await, Err(EventProofError::Bundle(uncosigned.into())));
    pair.ask().await;
    assert_eq!(witnesses_of(second).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn witnesses_that_an_auditor_names_are_demanded() {
    let Some(pair) = Pair::start().await else { return };
    is_clean(&pair).await;
    let witness = cosigning_key(&pair.witness).await;
    let stranger = VerifierKey::new("c.example/witness".parse().unwrap(), witness.kind(), [7; 32]);
    let text = verify_by(&pair, [witness.clone()]).await;
    assert!(text.contains("by b.example/witness") && text.contains("nothing is wrong"), "{text}");
    for demanded in [vec![stranger.clone()], vec![witness, stranger]] {
        let text = verify_by(&pair, demanded).await;
        assert!(text.contains("cosigned by witnesses") && text.contains("FOUND"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_that_was_rewritten_is_refused_and_both_servers_say_so() {
    let Some(pair) = Pair::start().await else { return };
    pair.log.sign_in("one", Role::Viewer).await;
    pair.seal().await;
    assert!(matches!(pair.ask().await.remove(0).outcome, Ok(WitnessOutcome::Cosigned { .. })));
    let cosigned = std::fs::read(pair.anchor.path().join("log/era-1/checkpoint.cosigned")).unwrap();
    // The administrator takes a row out, forgets what was sealed, and has the server seal the rest with its key.
    let mut connection = pair.log.app.database.direct().await.unwrap();
    sqlx::raw_sql(
        "SET session_replication_role = replica; \
         ALTER TABLE audit_events DISABLE TRIGGER audit_guard; \
         DELETE FROM audit_witnesses; DELETE FROM audit_seals; DELETE FROM audit_eras; \
         DELETE FROM audit_events WHERE writer_sequence = 1",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    std::fs::remove_dir_all(pair.anchor.path().join("log/era-1")).unwrap();
    for user in ["two", "three", "four", "five", "six"] {
        pair.log.sign_in(user, Role::Viewer).await;
    }
    pair.seal().await;

    let refused = pair.ask().await.remove(0);
    assert!(refused.is_new_finding, "{refused:?}");
    assert!(matches!(refused.outcome, Ok(WitnessOutcome::OtherHistory { .. })), "{refused:?}");
    let told =
        "SELECT count(*) FROM audit_events WHERE action = 'audit.finding' AND reason LIKE '%no continuation'";
    assert_eq!(pair.log.number(told).await, 1);
    assert!(!pair.ask().await.remove(0).is_new_finding);
    let recorded = "SELECT count(*) FROM audit_events WHERE action = 'request.post' AND outcome <> 'success' \
                    AND resource_id = '/api/v1/audit/witness/add-checkpoint' AND reason = 'inconsistent'";
    let is_recorded = async || pair.witness.number(recorded).await > 0;
    assert!(wait_until(LIMIT, is_recorded).await, "the witness has it on record");

    // Who was shown the first history has what tells it from the second.
    std::fs::write(pair.anchor.path().join("log/era-1/checkpoint.cosigned"), cosigned).unwrap();
    let report = verify(&pair).await;
    assert!(report.contains("(cosigned by witnesses) is of another history"), "{report}");
}
