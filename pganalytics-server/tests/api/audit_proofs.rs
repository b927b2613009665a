//! Checkpoints and proofs of the audit log, as strangers ask for them.

use std::path::PathBuf;

use pganalytics_core::audit::{EventProof, PersonalField};
use pganalytics_core::tlog::{
    CheckpointPolicy, ConsistencyProof, Hash32, InclusionProof, LeafIndex, NoteSigner, SignedCheckpoint,
    TreeSize,
};
use pganalytics_core::users::Role;
use pganalytics_crypto::ed25519::verify;
use pganalytics_server::config::AuditLogConfig;
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::{TestServer, answer};

const LOG: &str = "example.com/audit";

async fn start() -> Option<TestServer> {
    TestServer::start_with(|config| {
        let folder = config.audit.folder.with_file_name("anchor");
        config.audit.log = Some(AuditLogConfig::local(LOG, folder));
    })
    .await
}

/// Makes a change: the id of its event.
pub(crate) async fn change(server: &TestServer, token: &str, name: &str) -> Uuid {
    let request = server.post("/registration-secrets").bearer_auth(token).json(&json!({ "name": name }));
    let (status, made) = answer(request).await;
    assert_eq!(status, 201, "{made}");
    let event = "SELECT id FROM audit_events WHERE resource_id = $1";
    let event = sqlx::query_scalar(event).bind(made["id"].as_str().unwrap());
    event.fetch_one(server.app.database.pool()).await.unwrap()
}

async fn seal(server: &TestServer) -> SignedCheckpoint {
    let sealer = &server.app.audit_log.as_ref().unwrap().sealer;
    sealer.seal().await.unwrap().expect("there was something to seal").checkpoint
}

/// A log of three seals: their checkpoints.
async fn sealed(server: &TestServer, token: &str) -> Vec<SignedCheckpoint> {
    let mut checkpoints = Vec::new();
    for seal_of in 0..3 {
        for more in 0..3 {
            change(server, token, &format!("secret {seal_of}.{more}")).await;
        }
        checkpoints.push(seal(server).await);
    }
    checkpoints
}

fn anchor(server: &TestServer, name: &str) -> PathBuf {
    server.app.config.audit.folder.with_file_name("anchor").join("era-1").join(name)
}

async fn policy(server: &TestServer) -> CheckpointPolicy {
    let keys = server.app.audit_log.as_ref().unwrap().keys.clone();
    let keys = NoteSigner::new(LOG.parse().unwrap(), keys).verifier_keys().await.unwrap();
    CheckpointPolicy::new(format!("{LOG}/1").parse().unwrap(), keys).unwrap()
}

fn hash(value: &Value) -> Hash32 {
    value.as_str().unwrap().parse().unwrap()
}

fn hashes(value: &Value) -> Vec<Hash32> {
    value.as_array().unwrap().iter().map(hash).collect()
}

#[tokio::test]
async fn checkpoint_is_what_is_anchored_whoever_asks() {
    let Some(server) = start().await else { return };
    let token = server.sign_in("admin", Role::Admin).await;
    let (status, before) = answer(server.get("/audit/checkpoint")).await;
    assert_eq!(status, 404, "{before}");
    change(&server, &token, "one").await;
    seal(&server).await;
    let anchored = std::fs::read(anchor(&server, &format!("checkpoints/after-{:020}", 0))).unwrap();
    for path in ["/audit/checkpoint", "/audit/checkpoint?era=1"] {
        let response = server.get(path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        assert_eq!(response.bytes().await.unwrap(), anchored);
    }
    let signed = SignedCheckpoint::parse(&anchored).unwrap();
    signed.verify(&policy(&server).await, &verify).unwrap();
    // The newest one follows.
    change(&server, &token, "two").await;
    let newest = seal(&server).await.to_string();
    assert_eq!(server.get("/audit/checkpoint").send().await.unwrap().text().await.unwrap(), newest);
    let (status, other) = answer(server.get("/audit/checkpoint?era=2")).await;
    assert_eq!(status, 404, "{other}");
}

#[tokio::test]
async fn consistency_proofs_hold_between_any_two_checkpoints() {
    let Some(server) = start().await else { return };
    let token = server.sign_in("admin", Role::Admin).await;
    let checkpoints = sealed(&server, &token).await;
    let newest = checkpoints.last().unwrap();
    for (place, earlier) in checkpoints.iter().enumerate() {
        for later in &checkpoints[place..] {
            let (from, to) = (earlier.unverified().size(), later.unverified().size());
            let path = format!("/audit/proofs/consistency?from={from}&to={to}");
            let (status, proof) = answer(server.get(&path)).await;
            assert_eq!(status, 200, "{proof}");
            assert_eq!(proof["log"], format!("{LOG}/1"));
            assert_eq!(hash(&proof["to_root"]), *later.unverified().root());
            let path = ConsistencyProof { path: hashes(&proof["proof"]) };
            earlier.unverified().check_growth(later.unverified(), &path).unwrap();
            assert_eq!(proof.get("checkpoint").is_some(), later == newest);
        }
    }
    let (status, proof) = answer(server.get("/audit/proofs/consistency?from=0&era=1")).await;
    assert_eq!((status, &proof["proof"]), (StatusCode::OK, &json!([])), "{proof}");
    assert_eq!(proof["checkpoint"], newest.to_string());
}

#[tokio::test]
async fn inclusion_proofs_hold_in_trees_of_any_size() {
    let Some(server) = start().await else { return };
    let token = server.sign_in("admin", Role::Admin).await;
    let checkpoints = sealed(&server, &token).await;
    for checkpoint in checkpoints.iter().map(SignedCheckpoint::unverified) {
        let size = checkpoint.size();
        for index in [0, size.0 / 2, size.0 - 1] {
            let path = format!("/audit/proofs/inclusion?index={index}&size={size}");
            let (status, proof) = answer(server.get(&path)).await;
            assert_eq!(status, 200, "{proof}");
            let path = InclusionProof { path: hashes(&proof["proof"]) };
            path.verify(&hash(&proof["leaf"]), LeafIndex(index), size, checkpoint.root()).unwrap();
        }
    }
    let (_, proof) = answer(server.get("/audit/proofs/inclusion?index=0")).await;
    let checkpoint = SignedCheckpoint::parse(proof["checkpoint"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(TreeSize(proof["size"].as_u64().unwrap()), checkpoint.unverified().size());
}

#[tokio::test]
async fn parameters_that_make_no_proof_are_refused_by_name() {
    let Some(server) = start().await else { return };
    let token = server.sign_in("admin", Role::Admin).await;
    let size = sealed(&server, &token).await.last().unwrap().unverified().size().0;
    let beyond = size + 1;
    let cases = [
        ("checkpoint?era=first".to_owned(), "era"),
        ("checkpoint?era=99999".into(), "era"),
        ("checkpoint?log=1".into(), "log"),
        ("proofs/consistency".into(), "from"),
        ("proofs/consistency?from=-1".into(), "from"),
        ("proofs/consistency?from=1e3".into(), "from"),
        ("proofs/consistency?from=18446744073709551616".into(), "from"),
        ("proofs/consistency?from=18446744073709551615".into(), "from"),
        ("proofs/consistency?from=2&to=1".into(), "from"),
        (format!("proofs/consistency?from={beyond}"), "from"),
        (format!("proofs/consistency?from=1&to={beyond}"), "to"),
        ("proofs/consistency?from=1&to=18446744073709551615".into(), "to"),
        ("proofs/consistency?from=1&too=2".into(), "too"),
        ("proofs/consistency?from=1&from=2".into(), "from"),
        ("proofs/inclusion".into(), "index"),
        (format!("proofs/inclusion?index={size}"), "index"),
        ("proofs/inclusion?index=3&size=3".into(), "index"),
        ("proofs/inclusion?index=0&size=0".into(), "index"),
        (format!("proofs/inclusion?index=0&size={beyond}"), "size"),
        ("proofs/inclusion?index=0&size=%00".into(), "size"),
        ("events/none/proof".into(), "UUID"),
    ];
    for (path, named) in cases {
        let (status, refused) = answer(server.get(&format!("/audit/{path}")).bearer_auth(&token)).await;
        assert_eq!(status, 400, "{path}: {refused}");
        assert!(refused["details"].as_str().unwrap().contains(named), "{path}: {refused}");
    }
}

#[tokio::test]
async fn event_is_proved_to_who_has_nothing_but_the_key() {
    let Some(server) = start().await else { return };
    let admin = server.sign_in("admin", Role::Admin).await;
    let auditor = server.sign_in("auditor", Role::Auditor).await;
    let event = change(&server, &admin, "proved").await;
    let path = format!("/audit/events/{event}/proof");
    let (status, early) = answer(server.get(&path).bearer_auth(&auditor)).await;
    assert_eq!((status, &early["message"]), (StatusCode::CONFLICT, &json!("Event is not sealed yet")));
    let due = early["details"].as_str().unwrap();
    assert!(due.contains("at the latest by 2026-11-22T19:05:00Z"), "{due}");

    seal(&server).await;
    let response = server.get(&path).bearer_auth(&auditor).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let proof = EventProof::parse(&response.bytes().await.unwrap()).unwrap();
    let policy = policy(&server).await;
    let proved = proof.verify(&policy, &verify).unwrap();
    assert_eq!((proved.row().id, proved.row().action), (event, "registration_secret.create"));
    assert_eq!(proved.personal(PersonalField::ActorName), Some("admin"));
    let discreet = proof.clone().without(PersonalField::ActorName);
    discreet.verify(&policy, &verify).unwrap();

    // It is as the log has it at that place.
    let index = proved.index();
    let (_, inclusion) = answer(server.get(&format!("/audit/proofs/inclusion?index={index}"))).await;
    assert_eq!(hash(&inclusion["root"]), *proved.checkpoint().checkpoint().root());
}

#[tokio::test]
async fn proofs_of_events_are_for_who_may_read_them() {
    let Some(server) = start().await else { return };
    let admin = server.sign_in("admin", Role::Admin).await;
    let viewer = server.sign_in("viewer", Role::Viewer).await;
    let event = change(&server, &admin, "proved").await;
    seal(&server).await;
    let path = format!("/audit/events/{event}/proof");
    assert_eq!(answer(server.get(&path)).await.0, 401);
    assert_eq!(answer(server.get(&path).bearer_auth(&viewer)).await.0, 403);
    let unknown = format!("/audit/events/{}/proof", Uuid::nil());
    assert_eq!(answer(server.get(&unknown).bearer_auth(&admin)).await.0, 404);
}

#[tokio::test]
async fn event_that_was_changed_after_it_was_sealed_gets_no_proof() {
    let Some(server) = start().await else { return };
    let admin = server.sign_in("admin", Role::Admin).await;
    let event = change(&server, &admin, "proved").await;
    seal(&server).await;
    let attack = "SET session_replication_role = replica; DO $$ DECLARE guarded regclass; BEGIN \
        FOR guarded IN SELECT tgrelid::regclass FROM pg_trigger WHERE tgname = 'audit_guard' LOOP \
            EXECUTE format('ALTER TABLE ONLY %s DISABLE TRIGGER audit_guard', guarded); END LOOP; END $$; \
        UPDATE audit_events SET outcome = 'denied' WHERE action = 'registration_secret.create'";
    let mut connection = server.app.database.direct().await.unwrap();
    sqlx::raw_sql(attack).execute(&mut connection).await.unwrap();
    let path = format!("/audit/events/{event}/proof");
    let (status, refused) = answer(server.get(&path).bearer_auth(&admin)).await;
    assert_eq!((status, &refused["message"]), (StatusCode::CONFLICT, &json!("Event is not what was sealed")));
}

#[tokio::test]
async fn server_that_seals_no_log_says_so() {
    let Some(server) = TestServer::start().await else { return };
    for path in ["checkpoint", "proofs/consistency?from=0", "proofs/inclusion?index=0"] {
        let (status, refused) = answer(server.get(&format!("/audit/{path}"))).await;
        assert_eq!(
            (status, &refused["details"]),
            (StatusCode::NOT_FOUND, &json!("this server seals no audit log"))
        );
    }
}
