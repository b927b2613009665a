use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::ids::CollectorId;
use pganalytics_store::postgres::Database;
use pganalytics_store::postgres::metrics::{
    IngestBatch, IngestReport, MetricSource, Push, SkipReason, ensure_partitions, ingest, ingest_activity,
    latest,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::migrated;
use crate::metric_samples::{Exact, push, pushes, recorded_at};

const COLLECTOR: CollectorId = CollectorId(Uuid::from_u128(7));

/// Stores a body as one push, with what it is thinned to.
pub(crate) async fn store(database: &Database, body: &str, thinning: Option<u64>) -> IngestReport {
    store_for(database, COLLECTOR, body, thinning).await
}

pub(crate) async fn store_for(
    database: &Database,
    collector: CollectorId,
    body: &str,
    thinning: Option<u64>,
) -> IngestReport {
    let push = Push::parse(body).unwrap();
    let batch =
        IngestBatch::new(collector, recorded_at(), &push).with_thinning(thinning.map(Duration::from_secs));
    let mut transaction = database.begin().await.unwrap();
    let report = ingest(&mut transaction, &batch).await.unwrap();
    transaction.commit().await.unwrap();
    report
}

/// A body as the collector writes it.
pub(crate) fn body(entries: &[Value]) -> String {
    json!({ "collector_id": "c", "hostname": "h", "metrics": entries }).to_string()
}

fn at(seconds: i64) -> String {
    (recorded_at() + TimeDelta::seconds(seconds)).to_rfc3339()
}

fn sysstat(seconds: i64, load: f64) -> Value {
    json!({ "type": "sysstat", "timestamp": at(seconds), "cpu": { "load_1m": load }, "disk_io": [{ "device": "sda" }] })
}

async fn scalar(database: &Database, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(database.pool()).await.unwrap()
}

async fn rows(database: &Database) -> i64 {
    scalar(database, "SELECT count(*) FROM metric_rows").await
}

/// Every value of an entry, however it was divided.
async fn read_back(database: &Database, metric_type: &str, name: Option<&str>) -> Exact {
    let mut connection = database.read().await.unwrap();
    let source = MetricSource::new(COLLECTOR, metric_type).with_database(name);
    let stored = latest(&mut connection, &source, recorded_at()).await.unwrap().expect("an entry");
    assert!(!stored.truncated);
    Exact::parse(stored.entry.get())
}

/// A line is stored with the first entry that has it.
async fn missing_lines(database: &Database, sent: &Exact) -> usize {
    let stored: Vec<String> = sqlx::query_scalar(
        "SELECT data::text FROM metric_rows WHERE metric_type = 'pg_log' AND section = 'entries'",
    )
    .fetch_all(database.pool())
    .await
    .unwrap();
    let mut stored: Vec<Exact> = stored.iter().map(|line| Exact::parse(line)).collect();
    let Exact::Object(entry) = sent else { panic!("not an object") };
    let Exact::List(lines) = &entry["entries"] else { panic!("not a list") };
    lines
        .iter()
        .filter(|line| match stored.iter().position(|known| known == *line) {
            Some(place) => {
                stored.swap_remove(place);
                false
            }
            None => true,
        })
        .count()
}

#[tokio::test]
async fn recorded_pushes_are_read_back_exactly() {
    for (name, body) in pushes() {
        let Some((_test, database)) = migrated().await else { return };
        let report = store(&database, body, None).await;
        // Idle for a cycle within one second, the collector sends the same entry twice.
        let entries = Push::parse(body).unwrap().entries;
        let distinct: HashSet<&str> = entries.iter().map(|entry| entry.get()).collect();
        assert_eq!((report.inserted, report.skipped_total), (distinct.len(), 0), "{name}: {report:?}");
        assert_eq!(report.rows, u64::try_from(rows(&database).await).unwrap());
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
            let stored = read_back(&database, &metric_type, of_database.as_deref()).await;
            if metric_type == "pg_log" {
                assert_eq!(missing_lines(&database, &sent).await, 0, "{name}");
            } else {
                assert!(stored == sent, "{name}: {metric_type}: {stored:?}");
            }
        }
    }
}

#[tokio::test]
async fn resent_push_gives_duplicates_only() {
    let Some((_test, database)) = migrated().await else { return };
    let body = push("quirk-normal-full-push");
    let first = store(&database, body, None).await;
    let stored = rows(&database).await;
    let second = store(&database, body, None).await;
    assert_eq!((second.inserted, second.duplicates, second.rows), (0, first.inserted, 0));
    assert_eq!(rows(&database).await, stored);
}

#[tokio::test]
async fn growing_resends_store_each_entry_once() {
    let Some((_test, database)) = migrated().await else { return };
    let all: Vec<Value> = (0..30).map(|second| sysstat(second / 3, f64::from(second as i32))).collect();
    let mut inserted = 0;
    for sent in [10, 20, 30, 30] {
        inserted += store(&database, &body(&all[..sent]), None).await.inserted;
    }
    assert_eq!(inserted, 30);
    assert_eq!(rows(&database).await, 60);
}

#[tokio::test]
async fn bad_entry_is_named_and_the_good_ones_are_kept() {
    let Some((_test, database)) = migrated().await else { return };
    let entries = [
        sysstat(0, 1.0),
        json!({ "type": "sysstat", "timestamp": "yesterday" }),
        json!("nothing"),
        json!({ "type": "x", "timestamp": at(0), "deep": { "value": 1 } }),
    ];
    let body = body(&entries).replace("\"value\":1", "\"value\":1e999");
    let report = store(&database, &body, None).await;
    assert_eq!((report.received, report.inserted, report.skipped_total), (4, 1, 3));
    let named: Vec<_> = report
        .skipped
        .iter()
        .map(|skipped| (skipped.index, skipped.reason, skipped.field.as_deref()))
        .collect();
    let expected = [
        (1, SkipReason::InvalidTimestamp, Some("timestamp")),
        (2, SkipReason::NotAnObject, None),
        (3, SkipReason::NumberOutOfRange, Some("deep")),
    ];
    assert_eq!(named, expected);
}

#[tokio::test]
async fn sixty_four_bit_integers_and_unstorable_characters_survive() {
    let Some((_test, database)) = migrated().await else { return };
    let entry = r#"{"type":"x","timestamp":"2026-11-22T18:00:00Z","min":-9223372036854775808,
        "max":18446744073709551615,"list":[{"hash":-7204365212345678901,"d":0.1,"e":1e-7,"z":5.0}],
        "text":"a\u0000b' OR 1=1 --\ud800"}"#;
    let report = store(&database, &format!(r#"{{"metrics":[{entry}]}}"#), None).await;
    assert_eq!((report.inserted, report.replaced_characters), (1, 2));
    let expected = Exact::parse(&entry.replace("\\u0000", "\u{fffd}").replace("\\ud800", "\u{fffd}"));
    assert_eq!(read_back(&database, "x", None).await, expected);
}

#[tokio::test]
async fn strange_but_storable_entries_are_read_back() {
    let Some((_test, database)) = migrated().await else { return };
    for (place, inside) in [
        r#""a":[1,[2,{"b":[]}]],"mixed":[{"x":1},2],"odd name":[{"x":1}]"#,
        r#""databases":{"a":5,"b":null,"c":{"t":[{"x":1},{"x":2}],"n":{"l":[{"y":"\"}{"}],"s":1}}}"#,
        r#""databases":[{"name":"a"},{"name":"b"}],"database":"d""#,
        r#""databases":{},"database":"d""#,
        r#""l":[{"old":true}],"l":[{"new":1},{"new":2}]"#,
        r#""l":[{"old":true}],"l":"a string now""#,
        r#""n":{"l":[{"old":1}]},"n":{"l":[{"new":1}],"m":{"l":[{"deep":1}]}}"#,
    ]
    .into_iter()
    .enumerate()
    {
        let entry = format!(r#"{{"type":"t{place}","timestamp":"2026-11-22T18:00:00+01:00",{inside}}}"#);
        let report = store(&database, &format!(r#"{{"metrics":[{entry}]}}"#), None).await;
        assert_eq!(report.inserted, 1, "{entry}: {report:?}");
        assert_eq!(read_back(&database, &format!("t{place}"), None).await, Exact::parse(&entry), "{entry}");
    }
}

/// Documents of all shapes, the same ones in each run.
fn documents(count: usize) -> Vec<Value> {
    let key = prop_oneof![Just("databases".to_owned()), "[a-z_]{0,3}", "[^\0]{0,6}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[^\0]{0,20}".prop_map(Value::from),
    ];
    let document = leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| document.new_tree(&mut runner).unwrap().current()).collect()
}

#[tokio::test]
async fn whatever_is_json_is_stored_exactly_or_skipped() {
    let Some((_test, database)) = migrated().await else { return };
    let entries: Vec<Value> = documents(300)
        .into_iter()
        .enumerate()
        .map(|(place, document)| match document {
            Value::Object(mut members) => {
                members.insert("type".to_owned(), format!("t{place}").into());
                members.insert("timestamp".to_owned(), at(0).into());
                Value::Object(members)
            }
            other => json!({ "type": format!("t{place}"), "timestamp": at(0), "list": [{ "value": other }] }),
        })
        .collect();
    let report = store(&database, &body(&entries), None).await;
    assert_eq!(report.inserted + report.skipped_total, entries.len());
    assert!(report.inserted > 250, "{report:?}");
    let skipped: HashSet<usize> = report.skipped.iter().map(|skipped| skipped.index).collect();
    assert!(report.skipped.iter().all(|skipped| skipped.reason == SkipReason::InvalidDatabase), "{report:?}");
    for (place, sent) in entries.iter().enumerate().filter(|(place, _)| !skipped.contains(place)) {
        let stored = read_back(&database, &format!("t{place}"), None).await;
        assert!(stored == Exact::parse(&sent.to_string()), "{sent}: {stored:?}");
    }
}

#[tokio::test]
async fn thinning_keeps_the_first_of_each_bucket_and_counts_the_rest() {
    let Some((_test, database)) = migrated().await else { return };
    let flood: Vec<Value> = (0..120).map(|second| sysstat(second, second as f64)).collect();
    let report = store(&database, &body(&flood), Some(30)).await;
    assert_eq!((report.inserted, report.duplicates, report.thinned), (4, 0, 116));
    let again = store(&database, &body(&flood), Some(30)).await;
    assert_eq!((again.inserted, again.duplicates, again.thinned), (0, 4, 116));
    let kept: Vec<f64> = sqlx::query_scalar(
        "SELECT (data #>> '{cpu,load_1m}')::float8 FROM metric_rows WHERE section = '' ORDER BY ts",
    )
    .fetch_all(database.pool())
    .await
    .unwrap();
    assert_eq!(kept, [0.0, 30.0, 60.0, 90.0]);
}

#[tokio::test]
async fn thinning_goes_on_where_a_push_is_handled_in_parts() {
    let Some((_test, database)) = migrated().await else { return };
    let flood: Vec<Value> = (0..5000).map(|place| sysstat(place / 100, f64::from(place as i32))).collect();
    let report = store(&database, &body(&flood), Some(3600)).await;
    assert_eq!((report.inserted, report.duplicates, report.thinned), (1, 0, 4999));
}

#[tokio::test]
async fn changed_thinning_doubles_no_entry() {
    for (before, after) in [(Some(60), None), (None, Some(60)), (Some(60), Some(7)), (Some(7), Some(60))] {
        let Some((_test, database)) = migrated().await else { return };
        let flood = body(&(0..100).map(|second| sysstat(second, second as f64)).collect::<Vec<_>>());
        let first = store(&database, &flood, before).await;
        let second = store(&database, &flood, after).await;
        let twice =
            "SELECT count(*) FROM (SELECT FROM metric_rows GROUP BY ts, section HAVING count(*) > 1) s";
        assert_eq!(scalar(&database, twice).await, 0, "{before:?} then {after:?}");
        assert_eq!(second.inserted + second.duplicates + second.thinned, 100);
        assert!(second.duplicates >= first.inserted, "{before:?} then {after:?}: {first:?} {second:?}");
    }
}

#[tokio::test]
async fn bad_entry_takes_no_bucket() {
    let Some((_test, database)) = migrated().await else { return };
    let bad = json!({ "type": "sysstat", "timestamp": at(0), "databases": { "": {} } });
    let report = store(&database, &body(&[bad, sysstat(1, 1.0)]), Some(60)).await;
    assert_eq!((report.inserted, report.skipped_total), (1, 1));
}

#[tokio::test]
async fn wrong_clock_lands_in_the_default_partition() {
    let Some((_test, database)) = migrated().await else { return };
    let day = recorded_at().date_naive();
    let mut transaction = database.begin().await.unwrap();
    ensure_partitions(&mut transaction, day, day).await.unwrap();
    transaction.commit().await.unwrap();
    let times = [
        "0000-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "2400-02-29T23:59:60Z",
        "9999-12-31T23:59:59.9999999Z",
    ];
    let entries: Vec<Value> = times
        .iter()
        .map(|time| json!({ "type": "sysstat", "timestamp": time, "list": [{ "a": 1 }] }))
        .collect();
    let report = store(&database, &body(&entries), None).await;
    assert_eq!((report.inserted, report.rows), (4, 8));
    assert_eq!(scalar(&database, "SELECT count(*) FROM metric_rows_default").await, 8);
    // They do not hide what has a right time, and are shown where there is nothing else.
    let mut connection = database.read().await.unwrap();
    let source = MetricSource::new(COLLECTOR, "sysstat");
    let shown = latest(&mut connection, &source, recorded_at()).await.unwrap().unwrap();
    assert_eq!(shown.ts, DateTime::<Utc>::UNIX_EPOCH);
    store(&database, &body(&[sysstat(0, 1.0)]), None).await;
    let shown = latest(&mut connection, &source, recorded_at()).await.unwrap().unwrap();
    assert_eq!(shown.ts, recorded_at());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pushes_of_one_body_insert_once() {
    let Some((_test, database)) = migrated().await else { return };
    let body = push("quirk-normal-full-push");
    for thinning in [None, Some(60)] {
        let collector = CollectorId(Uuid::from_u128(thinning.map_or(1, u128::from)));
        let pushes = (0..5).map(|_| store_for(&database, collector, body, thinning));
        let reports = futures::future::join_all(pushes).await;
        let inserted: Vec<usize> = reports.iter().map(|report| report.inserted).filter(|n| *n > 0).collect();
        assert_eq!(inserted.len(), 1, "{reports:?}");
        for report in reports {
            assert_eq!(report.inserted + report.duplicates, report.received, "{report:?}");
        }
    }
}

#[tokio::test]
async fn two_collectors_do_not_share_a_ledger() {
    let Some((_test, database)) = migrated().await else { return };
    let body = push("push-sysstat");
    for number in 1..=2 {
        let report = store_for(&database, CollectorId(Uuid::from_u128(number)), body, Some(60)).await;
        assert_eq!(report.inserted, 1);
    }
}

#[tokio::test]
async fn rolled_back_push_leaves_nothing() {
    let Some((_test, database)) = migrated().await else { return };
    let push = Push::parse(push("quirk-normal-full-push")).unwrap();
    let batch = IngestBatch::new(COLLECTOR, recorded_at(), &push);
    let mut transaction = database.begin().await.unwrap();
    let report = ingest(&mut transaction, &batch).await.unwrap();
    assert!(report.inserted > 0);
    transaction.rollback().await.unwrap();
    assert_eq!(rows(&database).await, 0);
    let mut transaction = database.begin().await.unwrap();
    assert_eq!(ingest(&mut transaction, &batch).await.unwrap(), report);
}

fn log(seconds: i64, lines: &[&str]) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| json!({ "level": "LOG", "message": line, "timestamp": "2024-02-20T10:29:55Z" }))
        .collect();
    json!({ "type": "pg_log", "timestamp": at(seconds), "database": "postgres", "entries": lines })
}

#[tokio::test]
async fn log_lines_are_stored_once_at_the_time_of_receipt() {
    let Some((_test, database)) = migrated().await else { return };
    let first = [log(-9, &["a", "b", "b"]), log(-8, &["b", "b", "c"]), log(-7, &["c"])];
    let report = store(&database, &body(&first), None).await;
    assert_eq!((report.inserted, report.rows), (3, 3 + 4));
    store(&database, &body(&[log(-6, &["b", "b", "c", "d"])]), None).await;
    let lines: Vec<(String, DateTime<Utc>)> = sqlx::query_as(
        "SELECT data ->> 'message', ts FROM metric_rows WHERE section = 'entries' ORDER BY entry_id, ordinal",
    )
    .fetch_all(database.pool())
    .await
    .unwrap();
    let expected = ["a", "b", "b", "c", "d"].map(|line| (line.to_owned(), recorded_at()));
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn thinning_loses_no_log_line() {
    let Some((_test, database)) = migrated().await else { return };
    let pushed = [log(0, &["a"]), log(1, &["a"]), log(2, &["a", "b"]), log(3, &["b"])];
    let report = store(&database, &body(&pushed), Some(60)).await;
    assert_eq!((report.inserted, report.thinned), (2, 2));
    let lines = scalar(&database, "SELECT count(*) FROM metric_rows WHERE section = 'entries'").await;
    assert_eq!(lines, 2);
}

#[tokio::test]
async fn pushes_are_counted_by_minute() {
    let Some((_test, database)) = migrated().await else { return };
    let flood = body(&(0..60).map(|second| sysstat(second, 0.5)).collect::<Vec<_>>());
    store(&database, &flood, Some(30)).await;
    store(&database, &flood, Some(30)).await;
    let mut connection = database.read().await.unwrap();
    let (from, to) = (recorded_at() - TimeDelta::hours(24), recorded_at() + TimeDelta::minutes(1));
    let activity = ingest_activity(&mut connection, Some(&[COLLECTOR]), from, to).await.unwrap();
    assert_eq!(activity.len(), 1);
    let counted = &activity[0];
    assert_eq!((counted.pushes, counted.inserted, counted.duplicates, counted.thinned), (2, 2, 2, 116));
    assert_eq!((counted.row_count, counted.last_minute), (4, recorded_at()));
    assert_eq!(ingest_activity(&mut connection, None, from, to).await.unwrap(), activity);
    assert!(ingest_activity(&mut connection, Some(&[]), from, to).await.unwrap().is_empty());
}

#[tokio::test]
async fn push_of_a_million_nothings_is_bounded() {
    let Some((_test, database)) = migrated().await else { return };
    let nothings = format!(r#"{{"metrics":[{}0]}}"#, "0,".repeat(1_200_000));
    let report = store(&database, &nothings, None).await;
    assert_eq!((report.received, report.skipped_total, report.skipped.len()), (1_200_001, 1_200_001, 100));
}
