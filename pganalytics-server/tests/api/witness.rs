//! A server that cosigns the logs of others.

use std::sync::Arc;

use pganalytics_core::clock::SystemClock;
use pganalytics_core::keys::KeyName;
use pganalytics_core::signing::MemorySigningKeyStore;
use pganalytics_core::tlog::{
    AddCheckpoint, Checkpoint, CheckpointPolicy, CompactRange, ConsistencyProof, Hash32, NoteSigner,
    SignedCheckpoint, TreeSize, VerifierKey,
};
use pganalytics_core::users::Role;
use pganalytics_crypto::ed25519::{self, Ed25519Signer, Ed25519SignerConfig};
use pganalytics_crypto::env_key_manager::{EnvKeyManager, EnvKeyManagerConfig};
use pganalytics_server::config::{AuditWitnessConfig, ServerConfig, WitnessedLogConfig};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::json;

use crate::common::{TestServer, answer};

const PATH: &str = "/audit/witness/add-checkpoint";
pub(crate) const ORIGIN: &str = "log.example/audit/1";

/// A log of somebody else.
pub(crate) struct ForeignLog {
    signer: NoteSigner,
    key: VerifierKey,
}

impl ForeignLog {
    pub(crate) async fn new() -> Self {
        let key: KeyName = "sign".parse().unwrap();
        let variables = [("KEY_SIGN_V1".into(), "zu1mGNVOtk7/Kx9Ue6A0KnVDqOHJfQ2bB5rcXw8L4sI=".into())];
        let manager = EnvKeyManager::new(&EnvKeyManagerConfig::new("KEY", [key.clone()]), variables).unwrap();
        let (store, config) = (Arc::new(MemorySigningKeyStore::new()), Ed25519SignerConfig::new(key));
        let signer = Ed25519Signer::connect(store, Arc::new(manager), Arc::new(SystemClock), config).await;
        let signer = NoteSigner::new("log.example/audit".parse().unwrap(), Arc::new(signer.unwrap()));
        let key = signer.verifier_keys().await.unwrap().remove(0);
        Self { signer, key }
    }

    /// Makes a server its witness.
    pub(crate) fn witnessed_by(&self, config: &mut ServerConfig) {
        let log = WitnessedLogConfig { origin: ORIGIN.into(), keys: vec![self.key.to_string()], title: None };
        config.audit.witness = Some(AuditWitnessConfig { name: "witness.example/w".into(), logs: vec![log] });
    }

    pub(crate) async fn signed(&self, leaves: &[Hash32]) -> SignedCheckpoint {
        self.signed_as(ORIGIN, leaves).await
    }

    async fn signed_as(&self, origin: &str, leaves: &[Hash32]) -> SignedCheckpoint {
        let mut tree = CompactRange::new();
        for leaf in leaves {
            tree.append(*leaf).unwrap();
        }
        let checkpoint = Checkpoint::new(origin.parse().unwrap(), tree.size(), tree.root()).unwrap();
        let note = self.signer.sign_note(checkpoint.to_text().unwrap()).await.unwrap();
        SignedCheckpoint::new(note).unwrap()
    }

    /// Asks for the tree of these leaves, which grew from the first of them.
    pub(crate) async fn request(&self, old: u64, leaves: &[Hash32]) -> AddCheckpoint {
        let proof = match old {
            0 => ConsistencyProof { path: Vec::new() },
            old => ConsistencyProof::from_leaves(TreeSize(old), leaves).unwrap(),
        };
        AddCheckpoint::new(TreeSize(old), proof, self.signed(leaves).await)
    }

    pub(crate) fn into_signer(self) -> NoteSigner {
        self.signer
    }

    fn policy(&self) -> CheckpointPolicy {
        CheckpointPolicy::new(ORIGIN.parse().unwrap(), [self.key.clone()]).unwrap()
    }
}

pub(crate) fn leaves(count: u64, flavour: &str) -> Vec<Hash32> {
    (0..count).map(|number| Hash32::of_leaf(format!("{flavour} {number}").as_bytes())).collect()
}

pub(crate) fn ask(server: &TestServer, body: &impl ToString) -> RequestBuilder {
    server.post(PATH).header("content-type", "text/plain").body(body.to_string())
}

/// The status, the content type and the body of an answer.
async fn exchange(request: RequestBuilder) -> (StatusCode, String, String) {
    let response = request.send().await.unwrap();
    let content_type = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    (response.status(), content_type.unwrap_or_default(), response.text().await.unwrap())
}

/// The key under which the server cosigns, as it shows it.
pub(crate) async fn witness_key(server: &TestServer) -> VerifierKey {
    let auditor = server.sign_in("auditor", Role::Auditor).await;
    let (status, shown) = answer(server.get("/audit/witness").bearer_auth(auditor)).await;
    assert_eq!(status, 200, "{shown}");
    shown["keys"][0].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoint_that_grew_is_cosigned_so_that_a_policy_believes_it() {
    let log = ForeignLog::new().await;
    let Some(server) = TestServer::start_with(|config| log.witnessed_by(config)).await else { return };
    let policy = log.policy().with_witnesses([witness_key(&server).await], 1).unwrap();
    let leaves = leaves(300, "a");
    for (old, size) in [(0, 100), (100, 300), (300, 300)] {
        let leaves = &leaves[..size];
        let request = ask(&server, &log.request(old, leaves).await);
        let (status, content_type, lines) = exchange(request).await;
        assert_eq!((status.as_u16(), content_type.as_str()), (200, "text/plain; charset=utf-8"), "{lines}");
        let signed = log.signed(leaves).await;
        assert!(signed.verify(&policy, &ed25519::verify).is_err(), "not without the witness");
        let cosigned = SignedCheckpoint::parse(format!("{signed}{lines}").as_bytes()).unwrap();
        let verified = cosigned.verify(&policy, &ed25519::verify).unwrap();
        let at = verified.signed().iter().find_map(|signed| signed.cosigned_at);
        assert_eq!(at, Some(1_795_374_000), "by the clock of the witness");
    }
    let events =
        server.number("SELECT count(*) FROM audit_events WHERE action = 'audit.witness.cosign'").await;
    assert_eq!(events, 2, "a checkpoint that is known changes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_wrong_has_its_status() {
    let log = ForeignLog::new().await;
    let Some(server) = TestServer::start_with(|config| log.witnessed_by(config)).await else { return };
    let (ours, other) = (leaves(200, "a"), leaves(200, "b"));
    let status = async |body: String| {
        let (status, content_type, text) = exchange(ask(&server, &body)).await;
        (status.as_u16(), content_type, text)
    };
    let refused = async |body: String| status(body).await.0;
    let size = |size: &str| (409, "text/x.tlog.size".to_owned(), format!("{size}\n"));
    assert_eq!(status(log.request(7, &ours).await.to_string()).await, size("0"), "nothing was cosigned yet");
    assert_eq!(refused(log.request(0, &ours[..100]).await.to_string()).await, 200);

    for body in [String::new(), "old 0\n".into(), "old 01\n\nx\n".into(), "old 100".into()] {
        assert_eq!(refused(body.clone()).await, 400, "{body:?}");
    }
    let shrunk = AddCheckpoint::new(
        TreeSize(100),
        ConsistencyProof { path: Vec::new() },
        log.signed(&ours[..50]).await,
    );
    assert_eq!(refused(shrunk.to_string()).await, 400);
    let unknown = log.signed_as("log.example/audit/2", &ours).await;
    let unknown = AddCheckpoint::new(TreeSize(0), ConsistencyProof { path: Vec::new() }, unknown);
    assert_eq!(refused(unknown.to_string()).await, 404);
    let forged = log.request(100, &ours).await.to_string().replacen("\n200\n", "\n201\n", 1);
    assert_eq!(refused(forged).await, 403);
    assert_eq!(status(log.request(99, &ours).await.to_string()).await, size("100"));
    assert_eq!(refused(log.request(100, &other).await.to_string()).await, 422);
    let same_size = AddCheckpoint::new(
        TreeSize(100),
        ConsistencyProof { path: Vec::new() },
        log.signed(&other[..100]).await,
    );
    assert_eq!(status(same_size.to_string()).await, size("100"), "another tree of the same size");
    assert_eq!(refused("old 0\n".repeat(20_000)).await, 413);
    assert_eq!(refused(log.request(100, &ours).await.to_string()).await, 200, "the log goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_is_no_witness_knows_no_log() {
    let log = ForeignLog::new().await;
    let Some(server) = TestServer::start().await else { return };
    let (status, _, _) = exchange(ask(&server, &log.request(0, &leaves(3, "a")).await)).await;
    assert_eq!(status, 404);
    let auditor = server.sign_in("auditor", Role::Auditor).await;
    assert_eq!(answer(server.get("/audit/witness").bearer_auth(auditor)).await.0, 404);
    let user = server.sign_in("user", Role::User).await;
    assert_eq!(answer(server.get("/audit/witness").bearer_auth(user)).await.0, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn witness_that_was_restarted_remembers() {
    let log = ForeignLog::new().await;
    let Some(server) = TestServer::start_with(|config| log.witnessed_by(config)).await else { return };
    let key = witness_key(&server).await;
    let ours = leaves(20, "a");
    assert_eq!(exchange(ask(&server, &log.request(0, &ours[..10]).await)).await.0, 200);
    let server = server.restart().await;
    let (status, _, size) = exchange(ask(&server, &log.request(0, &leaves(20, "b")).await)).await;
    assert_eq!((status.as_u16(), size.as_str()), (409, "10\n"));
    assert_eq!(exchange(ask(&server, &log.request(10, &leaves(20, "b")).await)).await.0, 422);
    assert_eq!(exchange(ask(&server, &log.request(10, &ours).await)).await.0, 200);
    let auditor = server.sign_in("another", Role::Auditor).await;
    let (_, shown) = answer(server.get("/audit/witness").bearer_auth(auditor)).await;
    assert_eq!(shown["keys"], json!([key.to_string()]), "and cosigns with the same key");
    let cosigned = json!({ "size": 20, "root": log.signed(&ours).await.unverified().root().to_string() });
    assert_eq!(shown["logs"][0]["cosigned"], cosigned);
}

/// As attackers would who hold the key of the log: each half of the requests shows another history.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_histories_at_once_one_is_cosigned() {
    let log = ForeignLog::new().await;
    let Some(server) = TestServer::start_with(|config| log.witnessed_by(config)).await else { return };
    let trunk = leaves(8, "trunk");
    let mut old = 0;
    for round in 0..10 {
        let mut histories = Vec::new();
        for flavour in ["a", "b"] {
            let tail = leaves(4, &format!("{flavour} {round}"));
            let history = [&trunk[..old as usize], &tail].concat();
            histories.push(log.request(old, &history).await);
        }
        let sent = (0..8).map(|number| exchange(ask(&server, &histories[number % 2])));
        let answers = futures::future::join_all(sent).await;
        let cosigned = |history: usize| {
            let of_history = answers.iter().skip(history).step_by(2);
            of_history.filter(|(status, _, _)| *status == 200).count()
        };
        assert!((cosigned(0) > 0) != (cosigned(1) > 0), "{answers:?}");
        let refused = answers.iter().filter(|(status, _, _)| *status == 409).count();
        assert_eq!(refused + cosigned(0) + cosigned(1), 8, "{answers:?}");
        // The next round begins with a log of its own.
        old = 0;
        let mut connection = server.app.database.write().await.unwrap();
        sqlx::query("DELETE FROM audit_witnessed_logs").execute(&mut *connection).await.unwrap();
        connection.commit().await.unwrap();
        if round % 2 == 0 {
            assert_eq!(exchange(ask(&server, &log.request(0, &trunk).await)).await.0, 200);
            old = 8;
        }
    }
}

fn bodies(good: String) -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "old ",
        "0",
        "10",
        "18446744073709551615",
        "\n",
        "\n\n",
        ORIGIN,
        "— ",
        "log.example/audit ",
        "AQIDBAU=",
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        "\0",
        "é",
        " ",
        "\r\n",
    ]);
    let (bytes, length) = (good.into_bytes(), 1..6_usize);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        prop::collection::vec(pieces, 0..40).prop_map(|pieces| pieces.concat().into_bytes()),
        prop::collection::vec((any::<Index>(), any::<u8>()), length).prop_map(move |changes| {
            let mut bytes = bytes.clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bodies_are_refused_below_500() {
    let log = ForeignLog::new().await;
    let Some(server) = TestServer::start_with(|config| {
        log.witnessed_by(config);
        config.limits.requests_per_minute_per_address = pganalytics_server::config::Bounded::new(1_000_000);
    })
    .await
    else {
        return;
    };
    let ours = leaves(30, "a");
    assert_eq!(exchange(ask(&server, &log.request(0, &ours[..10]).await)).await.0, 200);
    let good = log.request(10, &ours).await.to_string();
    let strategy = bodies(good.clone());
    let handle = tokio::runtime::Handle::current();
    let server = tokio::task::spawn_blocking(move || {
        let mut runner =
            TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&strategy, |body| {
            prop_assume!(body != good.as_bytes());
            let request = server.post(PATH).body(body);
            let status = handle.block_on(async { request.send().await.unwrap().status() });
            prop_assert!(status.is_client_error(), "{status}");
            Ok(())
        });
        outcome.unwrap();
        server
    });
    let server = server.await.unwrap();
    assert_eq!(exchange(ask(&server, &log.request(10, &ours).await)).await.0, 200, "it is still there");
}
