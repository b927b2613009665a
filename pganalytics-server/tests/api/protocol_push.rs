//! Pushes as collectors in the field send them, quirks included.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use pganalytics_core::ids::CollectorId;
use pganalytics_core::users::Role;
use pganalytics_server::config::Seconds;
use pganalytics_store::postgres::metrics::{MetricSource, Push, latest};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::{RawConnection, TestServer, answer};
use crate::field_samples::{Exact, push, pushes, recorded_at};

/// The id under which the recorded collector was registered.
const RECORDED_ID: &str = "7b0e5a52-1111-4222-8333-944455566677";

/// A recorded body as the same collector sends it after registering here.
fn sent_by(id: CollectorId, body: &str) -> String {
    body.replacen(RECORDED_ID, &id.to_string(), 1)
}

fn body(entries: &[Value]) -> String {
    json!({ "collector_id": "collector-001", "hostname": "db-host-1", "timestamp": "2026-11-22T19:00:00Z",
        "version": "3.0.0", "metrics_count": entries.len(), "metrics": entries })
    .to_string()
}

fn sysstat(second: u32) -> Value {
    json!({ "type": "sysstat", "timestamp": format!("2026-11-22T18:00:{second:02}Z"),
        "cpu": { "user": 1.5, "load_1m": 0.25 }, "memory": { "total_mb": 24105 } })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn read_back(
    server: &TestServer,
    collector: CollectorId,
    metric_type: &str,
    name: Option<&str>,
) -> Exact {
    let mut connection = server.app.database.read().await.unwrap();
    let source = MetricSource::new(collector, metric_type).with_database(name);
    let stored = latest(&mut connection, &source, recorded_at()).await.unwrap().expect("an entry");
    Exact::parse(stored.entry.get())
}

/// Log lines are stored with the first entry that has them, and so are not compared as an entry.
async fn stored_log_lines(server: &TestServer) -> usize {
    let query = "SELECT count(*) FROM metric_rows WHERE metric_type = 'pg_log' AND section = 'entries'";
    usize::try_from(server.number(query).await).unwrap()
}

#[tokio::test]
async fn field_collector_samples_read_back() {
    let Some(server) = TestServer::start_with(|config| {
        config.metrics.thinning_seconds = Seconds::new(0);
    })
    .await
    else {
        return;
    };
    for (name, recorded) in pushes() {
        let collector = server.register("db-host-1").await;
        let request = server.post("/collectors/refresh-token").bearer_auth(&collector.token);
        let (_, refreshed) = answer(request.header("Content-Type", "application/json")).await;
        let token = refreshed["token"].as_str().expect("a token");
        let lines_before = stored_log_lines(&server).await;
        let (status, pushed) = answer(server.push(token, sent_by(collector.id, recorded))).await;
        let entries = Push::parse(recorded).unwrap().entries;
        let distinct: HashSet<&str> = entries.iter().map(|entry| entry.get()).collect();
        assert_eq!((status.as_u16(), &pushed["status"]), (200, &json!("success")), "{name}: {pushed}");
        assert_eq!(pushed["metrics_inserted"], distinct.len(), "{name}: {pushed}");
        assert_eq!(pushed["metrics_skipped"], 0, "{name}: {pushed}");
        let mut newest = BTreeMap::new();
        for entry in entries {
            let Exact::Object(entry) = Exact::parse(entry.get()) else { panic!("{name}: not an object") };
            let text = |key: &str| match entry.get(key) {
                Some(Exact::Other(Value::String(text))) => Some(text.clone()),
                _ => None,
            };
            newest.insert((text("type").unwrap(), text("database")), Exact::Object(entry));
        }
        for ((metric_type, of_database), sent) in newest {
            let stored = read_back(&server, collector.id, &metric_type, of_database.as_deref()).await;
            if metric_type == "pg_log" {
                let Exact::Object(entry) = sent else { panic!("{name}: not an object") };
                let Exact::List(lines) = &entry["entries"] else { panic!("{name}: not a list") };
                assert_eq!(stored_log_lines(&server).await - lines_before, lines.len(), "{name}");
            } else {
                assert!(stored == sent, "{name}: {metric_type}: {stored:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_push_is_counted_at_its_collector() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let sent = body(&[sysstat(1), json!({ "type": "sysstat" })]).replace("db-host-1", "renamed-by-config");
    let (_, pushed) = answer(server.push(&collector.token, sent.clone())).await;
    assert_eq!(pushed["bytes_received"], sent.len());
    assert_eq!(pushed["next_config_version"], 0);
    assert_eq!(pushed["next_check_in_seconds"], 300);
    let token = server.sign_in("reader", Role::Viewer).await;
    let (_, seen) = answer(server.get(&format!("/collectors/{}", collector.id)).bearer_auth(token)).await;
    assert_eq!(seen["status"], "active");
    assert_eq!(seen["hostname"], "renamed-by-config");
    assert_eq!(seen["last_seen"], "2026-11-22T19:00:00Z");
    assert_eq!(seen["metrics_count_total"], 1);
    assert_eq!(seen["metrics_count_24h"], 1);
    assert_eq!(seen["metrics_skipped_total"], 1);
}

#[tokio::test]
async fn a_false_content_encoding_is_not_believed_and_a_real_one_is_not_needed() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let full = sent_by(collector.id, push("quirk-normal-full-push"));
    let plain = server.push(&collector.token, full.clone()).header("Content-Encoding", "gzip");
    let (status, pushed) = answer(plain).await;
    assert_eq!(status, 200, "{pushed}");
    let total = pushed["metrics_inserted"].as_u64().unwrap() + pushed["thinned"].as_u64().unwrap();
    assert!(total > 0, "{pushed}");
    let compressed = server.push(&collector.token, gzip(full.as_bytes()));
    let (status, again) = answer(compressed).await;
    assert_eq!((status.as_u16(), &again["metrics_inserted"]), (200, &json!(0)), "{again}");
    assert!(again["bytes_received"].as_u64().unwrap() < pushed["bytes_received"].as_u64().unwrap());
}

#[tokio::test]
async fn a_resent_push_gives_duplicates_only() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let first = body(&[sysstat(1), sysstat(20)]);
    let (_, pushed) = answer(server.push(&collector.token, first.clone())).await;
    assert_eq!((&pushed["metrics_inserted"], &pushed["duplicates"]), (&json!(2), &json!(0)));
    // The envelope is new, and so are the entries that were measured since.
    let more = body(&[sysstat(1), sysstat(20), sysstat(40)]).replace("19:00:00Z", "19:01:00Z");
    let (_, pushed) = answer(server.push(&collector.token, more)).await;
    assert_eq!((&pushed["metrics_inserted"], &pushed["duplicates"]), (&json!(1), &json!(2)));
}

#[tokio::test]
async fn entries_of_a_few_seconds_are_thinned_unless_the_collector_does_so() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let entries: Vec<Value> = (0..20).map(sysstat).collect();
    let (_, pushed) = answer(server.push(&collector.token, body(&entries))).await;
    assert_eq!((&pushed["metrics_inserted"], &pushed["thinned"]), (&json!(2), &json!(18)));
    let thinning = server.register("db-host-2").await;
    let sent = body(&entries).replacen('{', "{\"thinned\":true,", 1);
    let (_, pushed) = answer(server.push(&thinning.token, sent)).await;
    assert_eq!((&pushed["metrics_inserted"], &pushed["thinned"]), (&json!(20), &json!(0)));
}

#[tokio::test]
async fn a_bad_entry_keeps_the_others_and_is_named() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let bad = json!({ "type": "sysstat", "timestamp": "yesterday" });
    let sent =
        body(&[sysstat(1), bad, json!(7), sysstat(30), json!({ "timestamp": "2026-11-22T18:00:00Z" })]);
    let (status, pushed) = answer(server.push(&collector.token, sent)).await;
    assert_eq!(status, 200);
    assert_eq!((&pushed["metrics_inserted"], &pushed["metrics_skipped"]), (&json!(2), &json!(3)));
    let named: Vec<(u64, &str)> = pushed["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["index"].as_u64().unwrap(), entry["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(named, [(1, "invalid_timestamp"), (2, "not_an_object"), (4, "missing_type")]);
}

#[tokio::test]
async fn a_body_that_is_no_push_is_counted_and_not_asked_for_again() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let deep = format!("{{\"metrics\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let bodies: [&[u8]; 8] =
        [b"", b"null", b"[]", b"{", b"{\"metrics\":5}", b"{\"version\":\"3.0.0\"}", b"\xff\xfe", b"\x00"];
    for sent in bodies {
        let (status, pushed) = answer(server.push(&collector.token, sent)).await;
        assert_eq!(status, 200, "{sent:?}: {pushed}");
        assert_eq!((&pushed["metrics_inserted"], &pushed["metrics_skipped"]), (&json!(0), &json!(1)));
        assert_eq!(pushed["skipped"][0]["reason"], "unreadable_body");
    }
    let (status, pushed) = answer(server.push(&collector.token, deep)).await;
    assert_eq!((status.as_u16(), &pushed["metrics_skipped"]), (200, &json!(1)), "{pushed}");
    assert_eq!(server.number("SELECT entries_skipped_total FROM collectors").await, 9);
}

#[tokio::test]
async fn characters_that_cannot_be_stored_are_replaced_and_counted() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let mut entry = sysstat(1);
    entry["note"] = json!("a\0b");
    let mut sent = body(&[entry]).into_bytes();
    let place = sent.windows(7).position(|text| text == b"sysstat").unwrap();
    assert!(place > 0);
    let host = sent.windows(9).position(|text| text == b"db-host-1").unwrap();
    sent[host] = 0xff;
    let (status, pushed) = answer(server.push(&collector.token, sent)).await;
    assert_eq!((status.as_u16(), &pushed["metrics_inserted"]), (200, &json!(1)), "{pushed}");
    assert_eq!(pushed["replaced_characters"], 2);
    let Exact::Object(stored) = read_back(&server, collector.id, "sysstat", None).await else {
        panic!("not an object")
    };
    assert_eq!(stored["note"], Exact::Other(json!("a\u{fffd}b")));
}

#[tokio::test]
async fn gzip_bomb_is_refused() {
    let limit = 1 << 20;
    let Some(server) = TestServer::start_with(|config| {
        config.metrics.push_max_bytes = pganalytics_server::config::Bounded::new(limit);
    })
    .await
    else {
        return;
    };
    let collector = server.register("db-host-1").await;
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < usize::try_from(limit).unwrap());
    let (status, refused) = answer(server.push(&collector.token, bomb.clone())).await;
    assert_eq!((status.as_u16(), &refused["code"]), (413, &json!(413)));
    // A bomb that says that it is small.
    let mut lying = bomb;
    let trailer = lying.len() - 4;
    lying[trailer..].copy_from_slice(&100_u32.to_le_bytes());
    assert_eq!(answer(server.push(&collector.token, lying)).await.0, 413);
    let fits = gzip(body(&[sysstat(1)]).as_bytes());
    assert_eq!(answer(server.push(&collector.token, fits)).await.0, 200);
}

#[tokio::test]
async fn a_push_of_64_mib_is_taken_and_a_larger_one_is_refused_unread() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let mut sent = body(&[sysstat(1)]);
    sent.push_str(&" ".repeat((64 << 20) - sent.len()));
    assert_eq!(answer(server.push(&collector.token, sent)).await.0, 200);
    let mut raw = server.connect().await;
    let head = format!(
        "POST /api/v1/metrics/push HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        collector.token,
        (64 << 20) + 1
    );
    raw.write(head.as_bytes()).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn expect_100_continue_is_answered_before_the_body() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let mut sent = sent_by(collector.id, push("push-sysstat"));
    sent.push_str(&" ".repeat(1_048_577));
    let mut raw = server.connect().await;
    let head = format!(
        "POST /api/v1/metrics/push HTTP/1.1\r\nHost: 127.0.0.1:18080\r\nAccept: */*\r\n\
         Content-Type: application/json\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\
         Expect: 100-continue\r\n\r\n",
        collector.token,
        sent.len()
    );
    raw.write(head.as_bytes()).await;
    assert_eq!(raw.read_head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    raw.write(sent.as_bytes()).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_second_slash_before_the_path_is_tolerated() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    let sent = body(&[sysstat(1)]);
    let mut raw = server.connect().await;
    let request = format!(
        "POST //api/v1/metrics/push HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{sent}",
        collector.token,
        sent.len()
    );
    raw.write(request.as_bytes()).await;
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("content-encoding"), "{head}");
}

#[tokio::test]
async fn whom_a_push_is_from_is_what_the_token_says() {
    let Some(server) = TestServer::start().await else { return };
    let [own, other] = [server.register("db-host-1").await, server.register("db-host-2").await];
    for (named, status) in [
        (json!("collector-001"), 200),
        (json!(own.id), 200),
        (json!(null), 200),
        (json!(other.id), 403),
        (json!(Uuid::nil()), 403),
    ] {
        let mut sent: Value = serde_json::from_str(&body(&[sysstat(1)])).unwrap();
        sent["collector_id"] = named.clone();
        let (answered, _) = answer(server.push(&own.token, sent.to_string())).await;
        assert_eq!(answered, status, "{named}");
    }
    assert_eq!(server.number("SELECT count(DISTINCT collector_id) FROM metric_rows").await, 1);
}

#[tokio::test]
async fn a_push_while_the_store_is_away_is_asked_for_again() {
    let Some(server) = TestServer::start().await else { return };
    let collector = server.register("db-host-1").await;
    server.app.database.pool().close().await;
    let response = server.push(&collector.token, body(&[sysstat(1)])).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
}

async fn begin_push(server: &TestServer, token: &str, length: usize) -> RawConnection {
    let mut raw = server.connect().await;
    let head = format!(
        "POST /api/v1/metrics/push HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    raw.write(head.as_bytes()).await;
    raw
}

#[tokio::test]
async fn a_push_may_come_more_slowly_than_requests_are_done() {
    let Some(server) =
        TestServer::start_with(|config| config.http.request_timeout_seconds = Seconds::new(1)).await
    else {
        return;
    };
    let collector = server.register("db-host-1").await;
    let sent = body(&[sysstat(1)]);
    let mut raw = begin_push(&server, &collector.token, sent.len()).await;
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    // The last piece comes after 1.8 s.
    for piece in sent.as_bytes().chunks(sent.len().div_ceil(10)) {
        pace.tick().await;
        raw.write(piece).await;
    }
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(server.number("SELECT metrics_count_total FROM collectors").await, 1);
}

#[tokio::test]
async fn a_push_that_stalls_is_ended_with_408() {
    let Some(server) =
        TestServer::start_with(|config| config.collectors.push_receive_timeout_seconds = Seconds::new(1))
            .await
    else {
        return;
    };
    let collector = server.register("db-host-1").await;
    let sent = body(&[sysstat(1)]);
    let mut raw = begin_push(&server, &collector.token, sent.len()).await;
    raw.write(&sent.as_bytes()[..20]).await;
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    assert_eq!(server.number("SELECT metrics_count_total FROM collectors").await, 0);
}
