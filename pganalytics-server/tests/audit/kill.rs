use pganalytics_testkit::wait_until;
use serde_json::json;

use crate::cluster::LIMIT;
use crate::log::SealedLog;
use crate::wire::At;

/// Where the server that seals is killed: before it reads, before and after its seal is in the database, and between the anchor
/// and the record of it.
const POINTS: [(&str, At); 5] = [
    ("COPY (SELECT at, id, writer", At::Question),
    ("INSERT INTO audit_seals", At::Question),
    ("INSERT INTO audit_seals", At::Answer),
    ("UPDATE audit_seals SET published_at", At::Question),
    ("UPDATE audit_seals SET published_at", At::Answer),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealer_survives_kill() {
    let Some(mut log) = SealedLog::start_wired().await else { return };
    log.cluster.kill_9(0).await;
    for (point, (statement, at)) in POINTS.into_iter().enumerate() {
        let trap = log.cluster.wire(0).hold(statement, at);
        log.cluster.restart_server(0).await;
        log.change(&format!("change-{point}")).await;
        let held = trap.sprung().await;
        log.cluster.kill_9(0).await;
        drop(held);
    }
    log.cluster.restart_server(0).await;
    log.is_sealed().await;
    let report = log.verify(&["--strict"]).await;
    assert_eq!((&report["clean"], &report["unsealed"]), (&json!(true), &json!(0)), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_tells_how_far_the_log_is_sealed() {
    let Some(log) = SealedLog::start().await else { return };
    let is_told = async || {
        let health = log.health().await;
        health["audit_log"]["size"].as_u64() > Some(0) && health["audit_log"]["overdue"] == json!(false)
    };
    assert!(wait_until(LIMIT, is_told).await, "{}", log.health().await);
}
