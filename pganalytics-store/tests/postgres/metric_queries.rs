use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::ids::CollectorId;
use pganalytics_store::postgres::Database;
use pganalytics_store::postgres::metrics::{
    FieldQuery, MetricSource, ObjectFamily, ObjectSelection, QueryOrder, SectionPage, TimeRange,
    collector_objects, database_stats, downsampled, latest, latest_rows, range, series, system_stats,
    table_stats, top_queries, types_seen,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::migrated;
use crate::metric_ingest::{body, store_for};
use crate::metric_samples::{push, recorded_at};

const COLLECTOR: CollectorId = CollectorId(Uuid::from_u128(8));

fn at(seconds: i64) -> DateTime<Utc> {
    recorded_at() + TimeDelta::seconds(seconds)
}

fn entry(metric_type: &str, seconds: i64, rest: Value) -> Value {
    let mut entry = json!({ "type": metric_type, "timestamp": at(seconds) });
    entry.as_object_mut().unwrap().append(&mut rest.as_object().unwrap().clone());
    entry
}

async fn store(database: &Database, entries: &[Value]) {
    let report = store_for(database, COLLECTOR, &body(entries), None).await;
    assert_eq!(report.inserted, entries.len(), "{report:?}");
}

fn numbers<T>(values: &[T], number: impl Fn(&T) -> &serde_json::Number) -> Vec<String> {
    values.iter().map(|value| number(value).to_string()).collect()
}

#[tokio::test]
async fn latest_prefers_the_last_of_a_second_and_can_be_asked_for_a_database() {
    let Some((_test, database)) = migrated().await else { return };
    let both =
        |x: i64| entry("pg_x", 5, json!({ "databases": { "a": { "x": x }, "b": { "l": [{ "x": x }] } } }));
    store(&database, &[both(1), both(2), entry("pg_x", 6, json!({ "databases": { "a": { "x": 3 } } }))])
        .await;
    let mut connection = database.read().await.unwrap();
    let source = MetricSource::new(COLLECTOR, "pg_x");
    let mut newest = async |source: MetricSource<'_>| {
        let found = latest(&mut connection, &source, recorded_at()).await.unwrap()?;
        Some(serde_json::from_str::<Value>(found.entry.get()).unwrap()["databases"].clone())
    };
    assert_eq!(newest(source).await.unwrap(), json!({ "a": { "x": 3 } }));
    assert_eq!(newest(source.with_database(Some("b"))).await.unwrap(), json!({ "b": { "l": [{ "x": 2 }] } }));
    assert_eq!(newest(source.with_database(Some("c"))).await, None);
    assert_eq!(newest(MetricSource::new(CollectorId(Uuid::nil()), "pg_x")).await, None);
}

#[tokio::test]
async fn latest_rows_come_from_the_newest_entry_of_each_database() {
    let Some((_test, database)) = migrated().await else { return };
    let stats = |name: &str, seconds, tables: &[i64]| {
        let tables: Vec<Value> = tables.iter().map(|table| json!({ "t": table })).collect();
        entry("pg_stats", seconds, json!({ "database": name, "tables": tables }))
    };
    let gone = stats("gone", -7200, &[9]);
    store(&database, &[gone, stats("a", 0, &[1]), stats("b", 1, &[2]), stats("a", 2, &[3, 4, 5])]).await;
    let mut connection = database.read().await.unwrap();
    let mut tables = async |name: Option<&str>, page: SectionPage<'_>| -> Vec<(String, i32, String)> {
        let source = MetricSource::new(COLLECTOR, "pg_stats").with_database(name);
        let rows = latest_rows(&mut connection, &source, &page, recorded_at()).await.unwrap();
        rows.into_iter().map(|row| (row.database, row.ordinal, row.data.get().to_owned())).collect()
    };
    let row = |name: &str, ordinal, t: i64| (name.to_owned(), ordinal, format!("{{\"t\": {t}}}"));
    let all = [row("a", 0, 3), row("a", 1, 4), row("a", 2, 5), row("b", 0, 2)];
    assert_eq!(tables(None, SectionPage::new("tables", 100)).await, all);
    assert_eq!(tables(None, SectionPage::new("tables", 2).with_offset(1)).await, all[1..3]);
    assert_eq!(tables(Some("gone"), SectionPage::new("tables", 100)).await, [row("gone", 0, 9)]);
    assert!(tables(Some("x"), SectionPage::new("tables", 100)).await.is_empty());
}

#[tokio::test]
async fn range_gives_64_bit_values_exactly() {
    let Some((_test, database)) = migrated().await else { return };
    let values = [
        "9007199254740993",
        "-9223372036854775808",
        "18446744073709551615",
        "0.1",
        "1.7976931348623157e+308",
    ];
    let sent: Vec<Value> =
        (0..).zip(values).map(|(n, v)| entry("t", n, json!({ "a": { "b": v } }))).collect();
    let unquoted =
        values.iter().fold(body(&sent), |body, value| body.replace(&format!("\"{value}\""), value));
    store_for(&database, COLLECTOR, &unquoted, None).await;
    store(&database, &[entry("t", 2, json!({ "a": { "b": "text" } })), entry("t", 3, json!({ "a": 1 }))])
        .await;
    let mut connection = database.read().await.unwrap();
    let source = MetricSource::new(COLLECTOR, "t");
    let query = FieldQuery::new(source, "", &["a", "b"], at(0)..at(100));
    let points = range(&mut connection, &query).await.unwrap();
    assert_eq!(numbers(&points, |point| &point.value), values);
    assert_eq!(points[1].ts, at(1));
    let part = FieldQuery::new(source, "", &["a", "b"], at(1)..at(4)).with_limit(2);
    let points = range(&mut connection, &part).await.unwrap();
    assert_eq!(numbers(&points, |point| &point.value), values[1..3]);
}

fn disks(seconds: i64, sda: f64, sdb: f64) -> Value {
    let disk = |name: &str, ops: f64| json!({ "device": name, "ops": ops });
    entry("sysstat", seconds, json!({ "disk_io": [disk("sda", sda), disk("sdb", sdb)] }))
}

#[tokio::test]
async fn downsampled_sums_up_and_series_tell_objects_apart() {
    let Some((_test, database)) = migrated().await else { return };
    store(
        &database,
        &[disks(0, 1.0, 10.0), disks(30, 4.0, 20.0), disks(59, 2.5, 30.0), disks(60, 7.0, 40.0)],
    )
    .await;
    let mut connection = database.read().await.unwrap();
    let source = MetricSource::new(COLLECTOR, "sysstat");
    let query = FieldQuery::new(source, "disk_io", &["ops"], at(0)..at(100));
    let only = query.with_matching(&[("device", "sda")]);
    let minute = Duration::from_secs(60);
    let buckets = downsampled(&mut connection, &only, minute).await.unwrap();
    let sums: Vec<_> = buckets.iter().map(|bucket| (bucket.start, bucket.count, bucket.avg)).collect();
    assert_eq!(sums, [(at(0), 3, 2.5), (at(60), 1, 7.0)]);
    assert_eq!(numbers(&buckets, |bucket| &bucket.min), ["1.0", "7.0"]);
    assert_eq!(numbers(&buckets, |bucket| &bucket.max), ["4.0", "7.0"]);
    assert_eq!(numbers(&buckets, |bucket| &bucket.last), ["2.5", "7.0"]);
    let all = series(&mut connection, &query, &["device"], minute).await.unwrap();
    let names: Vec<_> = all.iter().map(|series| series.labels[0].as_deref().unwrap()).collect();
    assert_eq!(names, ["sda", "sdb"]);
    assert_eq!(all[0].buckets, buckets);
    assert_eq!(all[1].buckets[0].avg, 20.0);
}

#[tokio::test]
async fn types_are_listed_with_their_newest_time() {
    let Some((_test, database)) = migrated().await else { return };
    store(&database, &[entry("b", 1, json!({})), entry("a", -86_400, json!({})), entry("b", 3, json!({}))])
        .await;
    let mut connection = database.read().await.unwrap();
    let types = types_seen(&mut connection, COLLECTOR).await.unwrap();
    let types: Vec<_> = types.iter().map(|seen| (seen.metric_type.as_str(), seen.newest)).collect();
    assert_eq!(types, [("a", at(-86_400)), ("b", at(3))]);
    assert!(types_seen(&mut connection, CollectorId(Uuid::nil())).await.unwrap().is_empty());
}

#[tokio::test]
async fn recorded_objects_have_the_shapes_of_the_web_interface() {
    let Some((_test, database)) = migrated().await else { return };
    for name in ["pg_schema", "pg_locks", "pg_bloat", "pg_cache", "pg_connections", "pg_extensions"] {
        store_for(&database, COLLECTOR, push(&format!("push-{name}")), None).await;
    }
    let mut connection = database.read().await.unwrap();
    let selection = ObjectSelection::new(recorded_at()).with_database(Some("shop")).with_page(5, 0);
    let mut family = async |family| {
        let found = collector_objects(&mut connection, COLLECTOR, family, &selection).await.unwrap();
        serde_json::to_value(found).unwrap()
    };

    let schema = family(ObjectFamily::Schema).await;
    assert_eq!(schema["metric_type"], "pg_schema");
    assert_eq!(schema["timestamp"], "2026-11-22T18:16:52Z");
    assert_eq!(schema["data"]["tables"].as_array().unwrap().len(), 5);
    let column = &schema["data"]["columns"][0];
    let expected = [
        ("database_name", json!("shop")),
        ("table_name", json!("customers")),
        ("column_name", json!("id")),
        ("column_default", json!("nextval('customers_id_seq'::regclass)")),
        ("ordinal_position", json!(1)),
        ("character_max_length", Value::Null),
        ("timestamp", json!("2026-11-22T18:16:52Z")),
    ];
    for (name, value) in expected {
        assert_eq!(column[name], value, "{name}");
    }
    assert_eq!(schema["data"]["columns"][1]["column_default"], Value::Null);
    assert_eq!(schema["data"]["foreign_keys"][0]["target_column"], "id");

    let locks = family(ObjectFamily::Locks).await;
    assert_eq!(locks["data"]["active_locks"][0]["session_state"], "active");
    assert_eq!(locks["data"]["lock_wait_chains"][0]["blocked_username"], "postgres");
    assert_eq!(locks["data"]["blocking_queries"][0]["query_start"], "2026-11-22T17:59:17.545309Z");

    let bloat = family(ObjectFamily::Bloat).await;
    assert_eq!(bloat["data"]["table_bloat"][0]["table_size"], "48 kB");
    assert!(bloat["data"].get("index_bloat").is_none());

    let hits = family(ObjectFamily::CacheHits).await;
    assert_eq!(hits["data"]["index_cache_hit"][0]["index_name"], "customers_email_key");
    assert_eq!(hits["data"]["table_cache_hit"][0]["heap_cache_hit_ratio"], 99.85);

    let connections = family(ObjectFamily::Connections).await;
    assert_eq!(connections["data"]["connection_summary"][0]["connection_count"], 1);
    assert_eq!(connections["data"]["idle_transactions"][0]["state_change"], "2026-11-22T17:59:17.580858Z");

    let extensions = family(ObjectFamily::Extensions).await;
    assert_eq!(extensions["count"], 2);
    assert_eq!(extensions["data"]["extensions"][0]["extension_name"], "pg_stat_statements");
    assert_eq!(extensions["data"]["extensions"][0]["is_relocatable"], true);
}

#[tokio::test]
async fn objects_nobody_has_sent_are_empty() {
    let Some((_test, database)) = migrated().await else { return };
    let mut connection = database.read().await.unwrap();
    let selection = ObjectSelection::new(recorded_at());
    let found = collector_objects(&mut connection, COLLECTOR, ObjectFamily::Locks, &selection).await.unwrap();
    assert_eq!(
        serde_json::to_value(found).unwrap(),
        json!({ "metric_type": "pg_locks", "count": 0, "timestamp": recorded_at(), "data": {} })
    );
}

#[tokio::test]
async fn recorded_queries_are_ranked_and_told_apart_by_hash() {
    let Some((_test, database)) = migrated().await else { return };
    store_for(&database, COLLECTOR, push("push-pg_query_stats"), None).await;
    let mut connection = database.read().await.unwrap();
    let times = at(-24 * 3600)..at(0);
    let slow = top_queries(&mut connection, COLLECTOR, QueryOrder::Slow, 20, times.clone()).await.unwrap();
    let slow = serde_json::to_value(slow).unwrap();
    let slow = slow.as_array().unwrap();
    assert_eq!(slow.len(), 20);
    assert!(slow.is_sorted_by(|a, b| a["max_time"].as_f64() >= b["max_time"].as_f64()));
    let mut hashes: Vec<i64> = slow.iter().map(|query| query["query_hash"].as_i64().unwrap()).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 20);
    assert!(slow[0]["query_text"].is_string() && slow[0]["time"] == "2026-11-22T18:17:05Z");
    let frequent = top_queries(&mut connection, COLLECTOR, QueryOrder::Frequent, 3, times).await.unwrap();
    let frequent = serde_json::to_value(frequent).unwrap();
    assert!(frequent[0]["calls"].as_i64() >= frequent[2]["calls"].as_i64());
    let before = at(-48 * 3600)..at(-24 * 3600);
    assert!(top_queries(&mut connection, COLLECTOR, QueryOrder::Slow, 20, before).await.unwrap().is_empty());
}

#[tokio::test]
async fn database_chart_counts_what_was_added_even_over_a_reset() {
    let Some((_test, database)) = migrated().await else { return };
    let stats = |seconds, commits: i64, size: i64| {
        let rest = json!({ "database": "shop", "transactions_committed": commits, "size_bytes": size });
        entry("pg_stats", seconds, rest)
    };
    let others = json!({ "databases": { "shop": { "backends": 4, "blks_hit": 70 } } });
    let more = json!({ "databases": { "shop": { "backends": 8, "blks_hit": 100 } } });
    store(
        &database,
        &[
            stats(-600, 100, 10),
            stats(-590, 130, 30),
            stats(-300, 150, 50),
            stats(-290, 5, 50),
            entry("pg_database_stats", -300, others),
            entry("pg_database_stats", -280, more),
        ],
    )
    .await;
    let mut connection = database.read().await.unwrap();
    let chart = database_stats(&mut connection, COLLECTOR, TimeRange::Hour, at(0)).await.unwrap();
    let rows: Vec<_> = chart
        .iter()
        .map(|row| (row.bucket, row.total_commits, row.avg_db_size, row.avg_backends, row.total_blks_hit))
        .collect();
    let expected = [
        (at(-300), Some(20 + 5), Some(50.0), Some(6.0), Some(30)),
        (at(-600), Some(30), Some(20.0), None, None),
    ];
    assert_eq!(rows, expected);
    assert_eq!(chart[0].total_rollbacks, None);
    let nobody = CollectorId(Uuid::nil());
    assert!(database_stats(&mut connection, nobody, TimeRange::Month, at(0)).await.unwrap().is_empty());
}

#[tokio::test]
async fn charts_are_made_from_recorded_pushes() {
    let Some((_test, database)) = migrated().await else { return };
    for name in ["push-pg_stats", "push-sysstat"] {
        store_for(&database, COLLECTOR, push(name), None).await;
    }
    let mut connection = database.read().await.unwrap();
    for time in ["1h", "24h", "7d", "30d"].map(TimeRange::from_name) {
        let databases = database_stats(&mut connection, COLLECTOR, time, at(0)).await.unwrap();
        let names: Vec<_> = databases.iter().map(|row| row.database_name.as_str()).collect();
        assert_eq!(names, ["postgres", "shop"]);
        assert_eq!(databases[0].avg_db_size, Some(7_757_159.0));
        let tables = table_stats(&mut connection, COLLECTOR, time, 2, at(0)).await.unwrap();
        assert_eq!(tables.len(), 2);
        assert!(tables[0].max_live_tup >= tables[1].max_live_tup && tables[0].max_live_tup > Some(0.0));
        assert!(tables[0].table_name.is_some());
        assert_eq!(tables[0].avg_seq_scan, None);
        let host = system_stats(&mut connection, COLLECTOR, time, at(0)).await.unwrap();
        assert_eq!(host.len(), 1);
        assert_eq!(host[0].avg_load_1m, Some(13.385_742_187_5));
        assert_eq!(host[0].max_memory_used, Some(2487.0));
    }
}

#[tokio::test]
async fn charts_survive_values_of_wrong_types() {
    let Some((_test, database)) = migrated().await else { return };
    let wrong = [
        entry(
            "pg_stats",
            -60,
            json!({ "database": "a", "size_bytes": "big", "tables": [{ "live_tuples": [] }] }),
        ),
        entry("sysstat", -60, json!({ "cpu": 7, "memory": { "used_mb": null } })),
        entry(
            "pg_query_stats",
            -60,
            json!({ "queries": [{ "hash": {}, "max_time": "long", "calls": true }] }),
        ),
    ];
    store(&database, &wrong).await;
    let mut connection = database.read().await.unwrap();
    let day = TimeRange::Day;
    assert_eq!(database_stats(&mut connection, COLLECTOR, day, at(0)).await.unwrap()[0].avg_db_size, None);
    assert_eq!(table_stats(&mut connection, COLLECTOR, day, 9, at(0)).await.unwrap()[0].table_name, None);
    assert_eq!(system_stats(&mut connection, COLLECTOR, day, at(0)).await.unwrap()[0].avg_cpu_user, None);
    let slow = top_queries(&mut connection, COLLECTOR, QueryOrder::Slow, 9, at(-90)..at(0)).await.unwrap();
    assert_eq!(serde_json::to_value(slow).unwrap()[0]["max_time"], "long");
}
