//! Nothing that was collected is lost or sent in vain.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use pganalytics_testkit::{free_port, wait_until};

use crate::endpoint::{Endpoint, Mood};
use crate::program::Program;

const LIMIT: Duration = Duration::from_secs(30);

fn keys(pushes: &[crate::endpoint::Push]) -> Vec<String> {
    pushes.iter().map(|push| push.key.clone()).collect()
}

#[tokio::test]
async fn once_registers_pushes_and_says_what_it_sent() {
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), "node.address = '10.0.0.5'");
    let sent = program.once().await;
    assert_eq!(sent["pushed"], true);
    assert_eq!(sent["entries"]["sysstat"], 1);
    assert_eq!(sent["collector_id"], "collector-1");
    let (registration, envelope) = {
        let inner = server.inner();
        (inner.registrations[0].clone(), inner.taken[0].envelope.clone())
    };
    let told = ["name", "hostname", "version", "address"].map(|field| registration[field].as_str().unwrap());
    assert_eq!(told, ["db1", "db1.test", "3.3.0", "10.0.0.5"]);
    let told = ["collector_id", "hostname"].map(|field| envelope[field].as_str().unwrap());
    assert_eq!(told, ["collector-1", "db1.test"]);
    assert!(program.spooled_keys().is_empty());
    program.once().await;
    assert_eq!(server.inner().registrations.len(), 1, "a registered node does not register again");
}

#[tokio::test]
async fn a_node_that_lost_its_token_is_the_same_collector_again() {
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), "");
    program.once().await;
    fs::remove_file(program.path("state/credentials.json")).unwrap();
    program.once().await;
    let inner = server.inner();
    assert_eq!(inner.registrations.len(), 2);
    assert_eq!(inner.registrations[0]["node_id"], inner.registrations[1]["node_id"]);
    assert_eq!(inner.collectors.len(), 1);
}

#[tokio::test]
async fn what_was_spooled_survives_kill_and_arrives_once() {
    let port = free_port();
    let program = Program::new(&format!("http://127.0.0.1:{port}"), "");
    let collector = program.run();
    let spooled = async || program.spooled_keys().len() >= 3;
    assert!(wait_until(LIMIT, spooled).await, "{}", collector.log());
    collector.kill_9().await;
    let before = program.spooled_keys();
    let server = Endpoint::start_on(port).await;
    let collector = program.run();
    server.wait_for("more batches than were spooled", |inner| inner.taken.len() > before.len()).await;
    collector.kill_9().await;
    // The batches were made before the server gave the collector its name, and are other pushes under that name.
    let inner = server.inner();
    let entries: Vec<String> = inner.entries("sysstat").iter().map(ToString::to_string).collect();
    let unique: BTreeSet<&String> = entries.iter().collect();
    assert_eq!(entries.len(), unique.len());
    assert!(entries.len() > before.len());
    assert_eq!(inner.collectors.len(), 1);
    assert!(program.spooled_keys().is_disjoint(&before));
}

#[tokio::test]
async fn a_registered_collector_delivers_the_very_batches_of_before_the_kill() {
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), "");
    program.once().await;
    let port = server.port;
    drop(server);
    let collector = program.run();
    let spooled = async || program.spooled_keys().len() >= 3;
    assert!(wait_until(LIMIT, spooled).await, "{}", collector.log());
    collector.kill_9().await;
    let before = program.spooled_keys();
    let server = Endpoint::start_on(port).await;
    // The server has lost its tokens too: the node registers anew and is collector 1 again.
    let collector = program.run();
    server.wait_for("the spooled batches", |inner| inner.taken.len() >= before.len()).await;
    let taken: BTreeSet<String> = keys(&server.inner().taken).into_iter().collect();
    assert!(taken.is_superset(&before), "{}", collector.log());
}

#[tokio::test]
async fn a_misbehaving_server_gets_the_same_bytes_under_the_same_key_until_it_takes_them() {
    let server = Endpoint::start().await;
    server.expect([Mood::Status(500), Mood::ForeignPage, Mood::CutReply, Mood::Hang]);
    let program = Program::new(&server.url(), "schedule.interval_seconds = 3600");
    let collector = program.run();
    server.wait_for("the batch", |inner| inner.seen.len() >= 5 && !inner.taken.is_empty()).await;
    let emptied = async || program.spooled_keys().is_empty();
    assert!(wait_until(LIMIT, emptied).await, "{}", collector.log());
    let inner = server.inner();
    let first = &inner.seen[0];
    // A later batch may follow once the first one is through.
    for push in &inner.seen[..5] {
        assert_eq!(push.key, first.key);
        assert!(push.body == first.body, "the bytes are the same each time");
    }
    assert_eq!(inner.taken[0].key, first.key);
}

#[tokio::test]
async fn only_200_and_201_with_the_servers_counts_empty_the_spool() {
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), "");
    program.once().await;
    for status in [202, 204, 302, 404, 408, 409, 429, 500, 502, 503] {
        server.expect([Mood::Status(status)]);
        let finished = program.finish(&["once"]).await;
        assert_eq!(finished.status.code(), Some(75), "{status}: {finished:?}");
        assert_eq!(program.spooled_keys().len(), 1, "{status}");
        program.once().await;
        assert!(program.spooled_keys().is_empty(), "{status}");
    }
    assert_eq!(program.files_set_aside(), 0);
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let server = Endpoint::start().await;
    server.expect([Mood::Busy(3)]);
    let program = Program::new(&server.url(), "schedule.interval_seconds = 3600");
    let _collector = program.run();
    server.wait_for("the first push", |inner| !inner.seen.is_empty()).await;
    let refused = Instant::now();
    server.wait_for("the second push", |inner| !inner.taken.is_empty()).await;
    assert!(refused.elapsed() >= Duration::from_millis(2900), "{:?}", refused.elapsed());
}

#[tokio::test]
async fn a_batch_that_is_too_large_is_halved_until_it_fits() {
    let server = Endpoint::start().await;
    server.inner().max_entries = Some(1);
    let program = Program::new(&server.url(), "");
    let sent = program.once().await;
    let entries: u64 =
        sent["entries"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert!(entries >= 3, "{sent}");
    let inner = server.inner();
    assert_eq!(inner.taken.len() as u64, entries);
    let unique: BTreeSet<String> = keys(&inner.taken).into_iter().collect();
    assert_eq!(unique.len() as u64, entries);
}

#[tokio::test]
async fn a_batch_that_is_refused_for_ever_is_set_aside_and_blocks_nothing() {
    let server = Endpoint::start().await;
    server.inner().hated = Some("disk_usage");
    let program = Program::new(&server.url(), "[sources.disk_usage]\ninterval_seconds = 3600");
    let collector = program.run();
    server.wait_for("batches after the refused one", |inner| inner.taken.len() >= 2).await;
    assert_eq!(program.files_set_aside(), 1, "{}", collector.log());
    let inner = server.inner();
    assert!(inner.entries("disk_usage").is_empty());
    assert_eq!(
        inner.seen.iter().filter(|push| push.envelope.to_string().contains("disk_usage\"")).count(),
        1
    );
    let health = inner.entries("collector_health");
    assert_eq!(health.last().unwrap()["spool"]["refused_batches"], 1);
}

#[tokio::test]
async fn a_token_that_is_not_accepted_any_more_is_refreshed_and_the_same_bytes_are_sent_again() {
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), "");
    program.once().await;
    server.revoke_tokens(false);
    program.once().await;
    let inner = server.inner();
    assert_eq!((inner.refreshes, inner.registrations.len()), (1, 1));
    let last = &inner.seen[inner.seen.len() - 2..];
    assert_eq!((&last[0].key, &last[0].body), (&last[1].key, &last[1].body));
}

#[tokio::test]
async fn a_token_that_cannot_be_refreshed_makes_the_node_register_again() {
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), "");
    program.once().await;
    server.revoke_tokens(true);
    program.once().await;
    let inner = server.inner();
    assert_eq!((inner.registrations.len(), inner.collectors.len(), inner.taken.len()), (2, 1, 2));
}

#[tokio::test]
async fn a_registered_collector_goes_on_without_its_registration_secret() {
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), "");
    program.once().await;
    fs::remove_file(program.path("secret")).unwrap();
    program.once().await;
    assert_eq!(server.inner().taken.len(), 2);
}

#[tokio::test]
async fn a_full_spool_drops_the_oldest_and_says_so() {
    let port = free_port();
    let more = "spool.max_bytes = 65536\nsources.disk_usage.enabled = false\npostgres.top_rows = 1";
    let program = Program::new(&format!("http://127.0.0.1:{port}"), more);
    // Batches of host statistics are about a kilobyte: fill the spool with what looks like older ones.
    let collector = program.run();
    let spooled = async || !program.spooled_keys().is_empty();
    assert!(wait_until(LIMIT, spooled).await, "{}", collector.log());
    collector.kill_9().await;
    let folder = program.path("state/spool");
    let oldest = fs::read(folder.join("00000000000000000000-.batch")).unwrap();
    let copies = 65536 / oldest.len();
    for number in 100..100 + copies {
        fs::write(folder.join(format!("{number:020}-.batch")), &oldest).unwrap();
    }
    let collector = program.run();
    let dropped = async || !folder.join("00000000000000000000-.batch").exists();
    assert!(wait_until(LIMIT, dropped).await, "{}", collector.log());
    let server = Endpoint::start_on(port).await;
    server
        .wait_for("a report of the loss", |inner| {
            inner
                .entries("collector_health")
                .iter()
                .any(|entry| entry["spool"]["dropped_batches"].as_u64() > Some(0))
        })
        .await;
}

#[tokio::test]
async fn a_torn_file_is_set_aside_and_counted() {
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), "");
    program.once().await;
    let torn = program.path("state/spool/00000000000000000000-.batch");
    fs::write(torn, b"PGASPL1\n\x10\0\0\0{\"key\"").unwrap();
    program.once().await;
    assert_eq!(program.files_set_aside(), 1);
    let health = server.entries("collector_health");
    assert_eq!(health.last().unwrap()["spool"]["torn_files"], 1);
}

#[tokio::test]
async fn a_stop_brings_a_last_collection_and_push() {
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), "schedule.interval_seconds = 3600");
    let collector = program.run();
    server.wait_for("the first batch", |inner| inner.taken.len() == 1).await;
    collector.terminate();
    let status = collector.wait(Duration::from_secs(12)).await.expect("the collector ends in time");
    assert!(status.success(), "{}", collector.log());
    assert_eq!(server.entries("sysstat").len(), 2);
    assert!(program.spooled_keys().is_empty());
}

#[tokio::test]
async fn a_stop_is_bounded_when_the_server_hangs_and_the_data_stays() {
    let server = Endpoint::start().await;
    let program =
        Program::new(&server.url(), "schedule.interval_seconds = 3600\nserver.request_timeout_seconds = 600");
    program.once().await;
    server.expect([Mood::Hang, Mood::Hang, Mood::Hang]);
    let collector = program.run();
    server.wait_for("the push that hangs", |inner| inner.seen.len() == 2).await;
    let begun = Instant::now();
    collector.terminate();
    let status = collector.wait(Duration::from_secs(15)).await.expect("the collector ends");
    assert!(status.success() && begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    assert_eq!(program.spooled_keys().len(), 2);
}

#[tokio::test]
async fn two_collectors_do_not_share_a_state_folder() {
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), "");
    let _collector = program.run();
    server.wait_for("the first batch", |inner| !inner.taken.is_empty()).await;
    let finished = program.finish(&["once"]).await;
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr.contains("in use by another collector"), "{}", finished.stderr);
}

#[tokio::test]
async fn the_servers_configuration_is_applied_live_and_kept_for_a_start_without_it() {
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), "");
    let collector = program.run();
    server.wait_for("host statistics", |inner| inner.entries("disk_usage").len() >= 2).await;
    server.inner().config = Some((
        7,
        "[backend]\nurl = http://127.0.0.1:1\n[disk_usage]\nenabled = false\n[sysstat]\ninterval = 2\n"
            .into(),
    ));
    server
        .wait_for("the new configuration", |inner| {
            let last = inner.taken.last().unwrap();
            let of = |kind: &str| {
                last.envelope["metrics"].as_array().unwrap().iter().any(|entry| entry["type"] == kind)
            };
            !of("disk_usage") && of("sysstat")
        })
        .await;
    let health = server.entries("collector_health");
    assert_eq!(health.last().unwrap()["config_version"], 7);
    assert!(collector.log().contains("backend.url"), "{}", collector.log());
    collector.kill_9().await;
    drop(server);
    let finished = program.finish(&["once", "--json"]).await;
    assert_eq!(finished.status.code(), Some(75), "{finished:?}");
    let sent: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(sent["entries"].get("disk_usage"), None, "{sent}");
    assert_eq!(sent["entries"]["sysstat"], 1);
}

#[tokio::test]
async fn an_old_server_gets_plain_bodies() {
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), "server.compression = 'none'");
    program.once().await;
    assert_eq!(server.inner().taken[0].body[0], b'{');
}
