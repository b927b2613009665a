//! What is read from a real PostgreSQL, by a role with `pg_monitor` and by one with nothing.

use std::time::Duration;

use pganalytics_testkit::wait_until;
use serde_json::{Value, json};
use sqlx::{Connection, Executor};

use crate::endpoint::Endpoint;
use crate::postgres::Watched;
use crate::program::Program;

/// The row of a list whose field has a value.
fn row<'a>(list: &'a Value, field: &str, value: &str) -> &'a Value {
    let rows = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    rows.iter().find(|row| row[field] == value).unwrap_or_else(|| panic!("no {value} in {list}"))
}

fn rows<'a>(list: &'a Value, field: &str, value: &str) -> Vec<&'a Value> {
    list.as_array().unwrap().iter().filter(|row| row[field] == value).collect()
}

fn of_database(entries: &[Value], database: &str) -> Value {
    entries.iter().find(|entry| entry["database"] == database).unwrap().clone()
}

async fn collect(instances: &str) -> (Endpoint, Value) {
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), instances);
    let sent = program.once().await;
    (server, sent)
}

#[tokio::test]
async fn a_role_with_pg_monitor_reads_everything_in_the_wire_shape() {
    let Some(watched) = Watched::start().await else { return };
    let schema = "CREATE SCHEMA tools; GRANT USAGE ON SCHEMA tools TO watcher;
        CREATE EXTENSION pg_stat_statements SCHEMA tools";
    watched.execute("shop", schema).await;
    watched.execute("shop", "SELECT count(*) FROM customers WHERE id < 10").await;
    let (server, sent) = collect(&watched.instance("main", "watcher")).await;
    assert_eq!(sent["failures"], json!([]));
    database_statistics_are_right(&server, watched.server.major_version());
    schema_is_right(&server.entry("pg_schema")["databases"]["shop"]);
    cache_and_bloat_are_right(&server);
    replication_is_right(&server.entry("pg_replication"));
    settings_are_right(&server.entry("pg_settings")["settings"]);
    statements_are_right(&server);
    for kind in ["pg_bloat", "pg_cache", "pg_connections", "pg_extensions", "pg_locks", "pg_schema"] {
        let entry = server.entry(kind);
        assert_eq!(
            (&entry["collector_id"], &entry["hostname"]),
            (&json!("db1"), &json!("db1.test")),
            "{kind}"
        );
        assert!(entry.get("instance").is_none(), "there is only one instance");
    }
}

fn database_statistics_are_right(server: &Endpoint, major: u32) {
    let shop = of_database(&server.entries("pg_stats"), "shop");
    assert!(shop["size_bytes"].as_i64().unwrap() > 7_000_000);
    assert!(shop["transactions_committed"].as_i64().unwrap() > 0);
    assert!(shop["tuples_inserted"].as_i64().unwrap() >= 2600);
    let orders = row(&shop["tables"], "name", "orders");
    assert_eq!((&orders["live_tuples"], &orders["last_vacuum"]), (&json!(2000), &json!("")));
    assert!(orders["last_analyze"].as_str().unwrap().ends_with("+00"), "{orders}");
    assert!(orders["size_bytes"].as_i64().unwrap() > 100_000);
    let odd = row(&shop["tables"], "name", "Odd \"Name'");
    assert_eq!((&odd["live_tuples"], &odd["dead_tuples"]), (&json!(50), &json!(50)));
    assert_eq!(row(&shop["indexes"], "name", "orders_customer_idx")["status"], "UNUSED");
    let counters = &server.entry("pg_database_stats")["databases"]["shop"];
    assert!(counters["blks_hit"].as_i64().unwrap() > 0 && counters["deadlocks"] == 0, "{counters}");
    let wal = server.entry("pg_wal_checkpointer");
    assert!(wal["archiver"]["failed_count"].is_i64(), "{wal}");
    // pg_stat_wal came with version 14.
    assert_eq!(wal["wal"]["bytes"].as_i64().is_some_and(|bytes| bytes > 0), major >= 14, "{wal}");
    let waits = server.entry("pg_activity");
    assert!(!rows(&waits["waits"], "backend_type", "checkpointer").is_empty(), "{waits}");
    let connections = &server.entry("pg_connections")["databases"]["shop"]["connection_stats"];
    assert_eq!(connections["total_connections"], 1, "the collector's own");
    let extensions = &server.entry("pg_extensions")["databases"]["shop"]["extensions"];
    assert_eq!(row(extensions, "name", "pg_stat_statements")["schema"], "tools");
}

fn schema_is_right(shop: &Value) {
    assert_eq!(row(&shop["tables"], "name", "rich")["type"], "VIEW");
    assert_eq!(row(&shop["tables"], "name", "parted")["type"], "PARTITIONED TABLE");
    assert_eq!(row(&shop["tables"], "name", "orders")["row_count"], 2000);
    let column = row(&shop["columns"], "name", "balance");
    assert_eq!((&column["numeric_precision"], &column["numeric_scale"]), (&json!(12), &json!(2)));
    assert_eq!(
        (&column["data_type"], &column["is_nullable"], &column["default"]),
        (&json!("numeric"), &json!(true), &json!("0"))
    );
    assert_eq!(row(&shop["columns"], "name", "email")["max_length"], 120);
    assert_eq!(row(&shop["columns"], "name", "Column \"X\"")["table"], "Odd \"Name'");
    assert_eq!(row(&shop["constraints"], "name", "customers_pkey")["columns"], "id");
    assert_eq!(row(&shop["constraints"], "type", "CHECK")["columns"], "");
    let composite: Vec<_> = rows(&shop["foreign_keys"], "name", "pair_fk")
        .into_iter()
        .map(|key| [&key["column"], &key["referenced_column"]].map(|name| name.as_str().unwrap()))
        .collect();
    assert_eq!(composite, [["d", "a"], ["c", "b"]], "no cross product");
    let cascade = row(&shop["foreign_keys"], "table", "orders");
    assert_eq!((&cascade["delete_rule"], &cascade["update_rule"]), (&json!("CASCADE"), &json!("NO ACTION")));
    let index = row(&shop["indexes"], "name", "orders_customer_idx");
    assert!(
        index["definition"]
            .as_str()
            .unwrap()
            .starts_with("CREATE INDEX orders_customer_idx ON public.orders")
    );
    assert_eq!((&index["is_unique"], &index["usage_status"]), (&json!(false), &json!("UNUSED")));
    let events: Vec<_> =
        rows(&shop["triggers"], "name", "customers_touch").iter().map(|row| &row["event"]).collect();
    assert_eq!(events, ["INSERT", "UPDATE"]);
    assert_eq!(row(&shop["triggers"], "event", "UPDATE")["statement"], "EXECUTE FUNCTION public.touch()");
}

fn cache_and_bloat_are_right(server: &Endpoint) {
    let cache = server.entry("pg_cache");
    let odd = row(&cache["databases"]["shop"]["table_cache_hit"], "table", "Odd \"Name'");
    for field in ["idx_blks_hit", "toast_blks_hit", "tidx_blks_read", "total_idx_blks"] {
        assert_eq!(odd[field], 0, "{field}: there is no index and no TOAST table");
    }
    assert!(
        odd["heap_cache_hit_ratio"].as_f64().unwrap() > 50.0 && odd.get("idx_cache_hit_ratio").is_none(),
        "{odd}"
    );
    let bloat = server.entry("pg_bloat");
    let shop = &bloat["databases"]["shop"];
    let odd = row(&shop["table_bloat"], "table", "Odd \"Name'");
    assert_eq!((&odd["dead_ratio_percent"], &odd["table_size"]), (&json!(50.0), &json!("8192 bytes")));
    let unused = row(&shop["index_bloat"], "index_name", "orders_customer_idx");
    assert_eq!(
        (&unused["usage_status"], &unused["recommendation"]),
        (&json!("UNUSED"), &json!("CONSIDER_DROPPING"))
    );
    let unique = row(&shop["index_bloat"], "index_name", "customers_email_key");
    assert_eq!(unique["recommendation"], "IN_USE", "it serves a constraint");
}

fn replication_is_right(entry: &Value) {
    assert_eq!(entry["collection_errors"], json!([]));
    let slot = row(&entry["replication_slots"], "slot_name", "standby_1");
    assert_eq!((&slot["slot_type"], &slot["active"]), (&json!("physical"), &json!(false)));
    assert!(slot["restart_lsn"].as_str().unwrap().contains('/'), "{slot}");
    assert!(slot["bytes_retained"].as_i64().unwrap() > 0, "{slot}");
    assert!(entry["wal_status"]["total_segments"].as_i64().unwrap() > 0, "{entry}");
    let risk = row(&entry["wraparound_risk"], "database", "shop");
    assert_eq!((&risk["percent_until_wraparound"], &risk["at_risk"]), (&json!(99), &json!(false)));
    assert!(risk["current_xid"].as_i64() > risk["relfrozenxid"].as_i64(), "{risk}");
}

fn settings_are_right(settings: &Value) {
    assert_eq!(row(settings, "name", "work_mem")["setting"], "5120");
    assert!(settings.as_array().unwrap().iter().all(|row| row["name"] != "enable_seqscan"), "not changed");
    assert_eq!(row(settings, "name", "archive_command")["setting"], "(not sent)");
    assert!(!settings.to_string().contains("hunter2"));
}

fn statements_are_right(server: &Endpoint) {
    let statements = server.entries("pg_query_stats");
    let shop = of_database(&statements, "shop");
    let text = "SELECT count(*) FROM customers WHERE id < $1";
    let statement = row(&shop["queries"], "text", text);
    assert_eq!((&statement["calls"], &statement["rows"]), (&json!(1), &json!(1)));
    assert!(statement["hash"].is_i64() && statement["total_time"].as_f64().unwrap() > 0.0, "{statement}");
    assert_eq!(statement["user_name"], "postgres");
    let other = of_database(&statements, "postgres");
    assert!(
        other["queries"].as_array().unwrap().iter().all(|row| row["text"] != text),
        "each database has its own"
    );
}

#[tokio::test]
async fn a_role_without_rights_sends_what_it_may_and_names_what_it_may_not() {
    let Some(watched) = Watched::start().await else { return };
    let (server, sent) = collect(&watched.instance("main", "nobody")).await;
    assert!(sent["entries"].get("pg_query_stats").is_none(), "there is no extension");
    for kind in ["pg_stats", "pg_schema", "pg_cache", "pg_bloat", "pg_locks", "pg_connections", "pg_settings"]
    {
        assert!(!server.entries(kind).is_empty(), "{kind}");
    }
    let replication = server.entry("pg_replication");
    assert!(replication.get("wal_status").is_none(), "unknown is not zero");
    assert!(
        replication["collection_errors"][0].as_str().unwrap().starts_with("wal_status: permission denied")
    );
    let health = server.entry("collector_health");
    let sources: Vec<_> =
        health["collection_errors"].as_array().unwrap().iter().map(|error| &error["source"]).collect();
    assert_eq!(sources, ["pg_replication.wal_status"]);
    assert_eq!(health["unavailable"], json!(["main: pg_query_stats"]));
    schema_is_right(&server.entry("pg_schema")["databases"]["shop"]);
}

#[tokio::test]
async fn the_check_explains_what_is_missing_and_how_to_grant_it() {
    let Some(watched) = Watched::start().await else { return };
    watched.execute("postgres", "CREATE DATABASE closed").await;
    watched.execute("postgres", "REVOKE CONNECT ON DATABASE closed FROM public").await;
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), &watched.instance("main", "nobody"));
    let finished = program.finish(&["check"]).await;
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    for words in [
        "role nobody WITHOUT pg_monitor",
        "not registered yet; the registration secret can be read",
        "wal_status: permission denied for function pg_ls_waldir (42501)",
        "what other roles' sessions do and wait for is hidden",
        "do: GRANT pg_monitor TO \"nobody\";",
        "do: GRANT CONNECT ON DATABASE \"closed\" TO \"nobody\";",
        "do: CREATE EXTENSION pg_stat_statements;",
    ] {
        assert!(finished.stdout.contains(words), "{words}: {}", finished.stdout);
    }
    assert!(
        server.inner().registrations.is_empty() && server.inner().seen.is_empty(),
        "a check changes nothing"
    );
}

#[tokio::test]
async fn the_check_names_a_schema_that_hides_the_statements() {
    let Some(watched) = Watched::start().await else { return };
    watched.execute("shop", "CREATE SCHEMA tools; CREATE EXTENSION pg_stat_statements SCHEMA tools").await;
    let program = Program::new("http://127.0.0.1:1", &watched.instance("main", "watcher"));
    let finished = program.finish(&["check"]).await;
    for words in [
        "queries: the role may not use schema `tools`, where pg_stat_statements is",
        "do: GRANT USAGE ON SCHEMA \"tools\" TO \"watcher\";  -- in shop",
    ] {
        assert!(finished.stdout.contains(words), "{words}: {}", finished.stdout);
    }
}

#[tokio::test]
async fn the_check_is_content_with_a_role_that_may_read_everything() {
    let Some(watched) = Watched::start().await else { return };
    watched.execute("postgres", "CREATE EXTENSION pg_stat_statements").await;
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), &watched.instance("main", "watcher"));
    program.once().await;
    let finished = program.finish(&["check", "--json"]).await;
    assert!(finished.status.success(), "{finished:?}");
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&report["ok"], &report["server"]["token"]["state"]), (&json!(true), &json!("ok")));
    assert_eq!(report["instances"][0]["databases"], json!(["postgres", "shop"]));
    assert_eq!(report["instances"][0]["advice"], json!([]));
}

#[tokio::test]
async fn waiting_sessions_and_locked_tables_are_told_and_hold_nothing_up() {
    let Some(watched) = Watched::start().await else { return };
    let mut holder = watched.connect("shop").await;
    let mut holding = holder.begin().await.unwrap();
    holding.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut waiter = watched.connect("shop").await;
    let waiting =
        tokio::spawn(async move { sqlx::query("SELECT count(*) FROM orders").execute(&mut waiter).await });
    let mut looker = watched.connect("shop").await;
    let looker = tokio::sync::Mutex::new(&mut looker);
    let waits = async || {
        let sql = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)";
        sqlx::query_scalar(sql).fetch_one(&mut **looker.lock().await).await.unwrap()
    };
    assert!(wait_until(Duration::from_secs(10), waits).await);
    let (server, sent) = collect(&watched.instance("main", "watcher")).await;
    assert_eq!(sent["failures"], json!([]));
    let locks = server.entry("pg_locks");
    let shop = &locks["databases"]["shop"];
    let chain = &shop["lock_wait_chains"][0];
    assert_eq!(chain["blocked_query"], "SELECT count(*) FROM orders");
    assert_eq!(chain["blocking_query"], "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE");
    assert!(chain["wait_time_seconds"].as_f64().unwrap() > 0.0, "{chain}");
    assert_eq!(shop["blocking_queries"][0]["pid"], chain["blocking_pid"]);
    let first = &shop["active_locks"][0];
    assert_eq!((&first["granted"], &first["relation_name"]), (&json!(false), &json!("orders")));
    assert_eq!(locks["databases"]["postgres"]["active_locks"], json!([]), "each database has its own");
    let shop = of_database(&server.entries("pg_stats"), "shop");
    let orders = row(&shop["tables"], "name", "orders");
    assert!(orders["size_bytes"].as_i64().unwrap() > 50_000, "estimated, not waited for: {orders}");
    holding.rollback().await.unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn several_instances_are_kept_apart_and_a_dead_one_stops_nothing() {
    let Some(watched) = Watched::start().await else { return };
    let instances = format!(
        "{}databases = ['shop']\n{}exclude_databases = ['shop']\n[[instances]]\nname = 'dead'\n\
         url = 'postgres://watcher@127.0.0.1:1/postgres'\n",
        watched.instance("one", "watcher"),
        watched.instance("two", "watcher"),
    );
    let (server, sent) = collect(&instances).await;
    let names: Vec<Value> = server
        .entries("pg_stats")
        .iter()
        .map(|entry| json!([entry["instance"], entry["database"]]))
        .collect();
    assert_eq!(names, [json!(["one", "one/shop"]), json!(["two", "two/postgres"])]);
    let schema = server.entry("pg_schema");
    let databases: Vec<_> = schema["databases"].as_object().unwrap().keys().collect();
    assert_eq!(databases, ["one/shop", "two/postgres"], "one entry tells about all");
    let instances: Vec<Value> = server
        .entries("pg_settings")
        .iter()
        .map(|entry| json!([entry["instance"], entry["database"]]))
        .collect();
    assert_eq!(instances, [json!(["one", "one/"]), json!(["two", "two/"])]);
    let dead =
        sent["failures"].as_array().unwrap().iter().find(|failure| failure["instance"] == "dead").unwrap();
    assert_eq!(dead["source"], "connection");
    assert!(dead["error"].as_str().unwrap().contains("refused"), "{dead}");
}

#[tokio::test]
async fn a_database_without_an_encoding_is_read() {
    let Some(watched) = Watched::start().await else { return };
    watched.execute("postgres", "CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0").await;
    watched
        .execute("bytes", "DO $$ BEGIN EXECUTE 'CREATE TABLE \"x' || chr(255) || '\" (a int)'; END $$")
        .await;
    let (server, sent) = collect(&watched.instance("main", "watcher")).await;
    assert_eq!(sent["failures"], json!([]));
    let tables = &server.entry("pg_schema")["databases"]["bytes"]["tables"];
    assert_eq!(tables[0]["name"], "x\u{fffd}");
}

#[tokio::test]
async fn a_log_file_of_the_server_is_told() {
    let Some(watched) = Watched::start().await else { return };
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), "2026-11-22 18:16:21.883 UTC [17328] ERROR:  no such table\n").unwrap();
    let instance = format!("{}log_file = '{}'\n", watched.instance("main", "watcher"), path.path().display());
    let (server, _) = collect(&instance).await;
    let entry = server.entry("pg_log");
    assert_eq!(entry["database"], "postgres");
    assert_eq!(
        entry["entries"],
        json!([{ "timestamp": "2026-11-22T18:16:21.883Z", "level": "ERROR", "message": "no such table" }])
    );
}

#[tokio::test]
async fn the_growth_of_the_wal_is_told_from_two_collections() {
    let Some(watched) = Watched::start().await else { return };
    let server = Endpoint::start().await;
    let program = Program::new(&server.url(), &watched.instance("main", "watcher"));
    let _collector = program.run();
    server
        .wait_for("a growth rate", |inner| {
            let entries = inner.entries("pg_replication");
            entries.iter().any(|entry| entry["wal_status"]["growth_rate_mb_per_hour"].is_f64())
        })
        .await;
    let first = &server.entries("pg_replication")[0];
    assert!(first["wal_status"].get("growth_rate_mb_per_hour").is_none(), "one look tells no rate");
}
