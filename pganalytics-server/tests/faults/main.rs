//! The server's processes, killed and cut off at bad moments, over a durable PostgreSQL of their own.
//!
//! The property of every test here: what was acknowledged is stored exactly once, and what was not is stored at most
//! once.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod audit;
#[expect(dead_code, reason = "the tests of keys use it, too")]
mod cluster;
mod exactly_once;
mod node;
mod pushes;
mod revocation;
mod wire;

use std::time::Duration;

use cluster::{Cluster, LIMIT};
use node::Node;
use pganalytics_testkit::wait_until;
use pushes::Pushers;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const CLIENTS: u32 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_metrics_survive_kill() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let collector = cluster.register("killed").await;
    let pushers = Pushers::start(&cluster.urls(), &collector, CLIENTS);
    for round in 0..8_u64 {
        // Different moments of a push: some while it is parsed, some in the transaction, some after it.
        pushers.acknowledged_since_now(2 + round % 3).await;
        cluster.kill_9(0).await;
        cluster.restart_server(0).await;
    }
    pushers.acknowledged_since_now(10).await;
    let pushed = pushers.stop().await;
    pushed.assert_stored_exactly_once(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_metrics_survive_a_restart_of_the_database() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let collector = cluster.register("restarted").await;
    let pushers = Pushers::start(&cluster.urls(), &collector, CLIENTS);
    for _ in 0..2 {
        pushers.acknowledged_since_now(5).await;
        cluster.crash_database().await;
    }
    pushers.acknowledged_since_now(10).await;
    let pushed = pushers.stop().await;
    pushed.assert_stored_exactly_once(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_whose_reply_is_lost_is_stored_once() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let collector = cluster.register("deaf").await;
    let body = pushes::body(1);
    for _ in 0..20 {
        // Sent whole, and hung up on without reading: the server stores it, or the next one.
        let mut stream = TcpStream::connect(cluster.address(0)).await.unwrap();
        let head = format!(
            "POST /api/v1/metrics/push HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            collector.token,
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        drop(stream);
    }
    let status = pushes::push(&cluster.urls()[0], &collector, &body).await;
    assert_eq!(status, Some(200));
    assert_eq!(cluster.stored_markers().await, [(1, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_spool_survives_a_kill_of_the_collector() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let node = Node::new(&cluster);
    let collector = node.run();
    let stored =
        async || cluster.number("SELECT count(*) FROM metric_ledger WHERE metric_type = 'sysstat'").await;
    assert!(wait_until(LIMIT, async || stored().await >= 3).await, "{}", collector.log());

    cluster.terminate(0).await;
    let full = async || node.dropped_batches() >= 2;
    assert!(wait_until(LIMIT, full).await, "{}", collector.log());
    collector.kill_9().await;
    let waiting = node.spooled();
    assert!(waiting.len() >= 2, "{waiting:?}");
    assert!(node.spooled_bytes() <= node::SPOOL_MAX_BYTES);

    cluster.restart_server(0).await;
    node.make_room();
    let collector = node.run();
    let delivered = async || node.spooled().is_disjoint(&waiting);
    assert!(wait_until(LIMIT, delivered).await, "{}", collector.log());
    collector.terminate();
    let status = collector.wait(LIMIT).await;
    assert!(status.is_some_and(|status| status.success()), "{}", collector.log());
    assert!(node.spooled().is_empty(), "the last push at the end empties the spool");
    node.assert_stored_exactly_once(&cluster, &waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_server_finishes_what_it_began() {
    let Some(mut cluster) = Cluster::start(2).await else { return };
    let collector = cluster.register("drained").await;
    let pushers = Pushers::start(&cluster.urls(), &collector, CLIENTS);
    pushers.acknowledged_since_now(5).await;
    let status = cluster.terminate(0).await;
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    pushers.acknowledged_since_now(10).await;
    let pushed = pushers.stop().await;
    pushed.assert_stored_exactly_once(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_run_each_background_job_once() {
    let Some(cluster) = Cluster::start(2).await else { return };
    let deadline = Duration::from_secs(30);
    let one_leader_a_role = wait_until(deadline, || async {
        cluster.number("SELECT count(*) FROM leases WHERE expires_at > now()").await == 6
    });
    assert!(one_leader_a_role.await, "every role finds a leader");
    assert_eq!(cluster.number("SELECT count(DISTINCT instance) FROM running_servers").await, 2);
    // A role is one row: two leaders of one role cannot be written down. Each holding has a fence of its own.
    assert_eq!(
        cluster.number("SELECT count(*) FROM leases WHERE fence > 1").await,
        0,
        "nobody took a role over"
    );
}
