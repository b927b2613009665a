use std::process::{Output, Stdio};
use std::time::Duration;

use pganalytics_core::random::{OsRandom, RandomExt};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::cluster::{Cluster, LIMIT};

/// What a command says and how it ends, with this on its standard input.
pub(crate) async fn run_with(cluster: &Cluster, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::from(cluster.command(arguments));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut program = command.spawn().unwrap();
    // A program that refuses before it reads closes the pipe.
    let _ = program.stdin.take().unwrap().write_all(input.as_bytes()).await;
    timeout(LIMIT, program.wait_with_output()).await.expect("the program ends").unwrap()
}

/// The output of a command that succeeds.
pub(crate) async fn succeed(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = run_with(cluster, arguments, "").await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a command that is not done says, which ends with this code.
pub(crate) async fn refused(cluster: &Cluster, arguments: &[&str], code: i32) -> String {
    refused_with(cluster, arguments, "", code).await
}

/// As [`refused`], with this on standard input.
pub(crate) async fn refused_with(cluster: &Cluster, arguments: &[&str], input: &str, code: i32) -> String {
    let output = run_with(cluster, arguments, input).await;
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A random time, in milliseconds.
pub(crate) fn between(least: u64, most: u64) -> Duration {
    Duration::from_millis(least + OsRandom.next_u64() % (most - least))
}

/// The data keys as `keys status` shows them.
pub(crate) async fn data_keys(cluster: &Cluster) -> Vec<Value> {
    serde_json::from_str(&succeed(cluster, &["keys", "status", "--json"]).await).unwrap()
}

/// Every table of the database, with a digest of its rows.
pub(crate) async fn tables(cluster: &Cluster) -> Vec<(String, String)> {
    sqlx::query_as(
        "SELECT table_name::text, md5(query_to_xml(format('SELECT * FROM %I AS t ORDER BY t::text', table_name), \
            true, true, '')::text) \
         FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE' ORDER BY 1",
    )
    .fetch_all(&mut cluster.connect().await)
    .await
    .unwrap()
}
