//! The commands for the keys that sign tokens.

use std::process::{Command, Output};

use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_store::postgres::fingerprint;
use pganalytics_testkit::{TestDatabase, database_from_template};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::migrate;

/// A migrated database and a folder for keys, on which nothing runs.
struct Installation {
    folder: TempDir,
    database: TestDatabase,
}

impl Installation {
    async fn make() -> Option<Self> {
        let database = database_from_template("server", fingerprint(), migrate).await?;
        let installation = Self { folder: tempfile::tempdir().unwrap(), database };
        installation.succeed(&["keys", "init"]).await;
        Some(installation)
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pganalytics-api"));
        command
            .args(arguments)
            .env("PGA_DATABASE_URL", self.database.url())
            .env("PGA__KEYS__TYPE", "file")
            .env("PGA__KEYS__PATH", self.folder.path().join("keys"));
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    async fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn keys(&self) -> Vec<Value> {
        let listed = self.succeed(&["keys", "list-signing", "--json"]).await;
        serde_json::from_str(&listed).unwrap()
    }
}

fn time(key: &Value, field: &str) -> DateTime<Utc> {
    key[field].as_str().unwrap_or_else(|| panic!("{key} has no {field}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_key_signs_when_every_verifier_knows_it() {
    let Some(installation) = Installation::make().await else { return };
    assert!(installation.keys().await.is_empty());
    let before = SystemClock.now();
    let said = installation.succeed(&["keys", "rotate-signing"]).await;
    // Where there was none, the first key is made first.
    let keys = installation.keys().await;
    let [first, second] = &keys[..] else { panic!("{keys:?}") };
    assert_eq!([&first["state"], &second["state"]], ["signing", "next"]);
    assert_eq!([&first["algorithm"], &second["algorithm"]], ["ed25519"; 2]);
    let takeover = time(second, "activates_at");
    assert_eq!(time(first, "retired_at"), takeover);
    assert!(second["retired_at"].is_null());
    let overlap = takeover - before;
    assert!((TimeDelta::minutes(9)..TimeDelta::minutes(12)).contains(&overlap), "{overlap}");
    let expected = format!(
        "key {} signs from {}\n",
        second["id"].as_str().unwrap(),
        takeover.format("%Y-%m-%d %H:%M:%S UTC")
    );
    assert_eq!(said, expected);

    let listed = installation.succeed(&["keys", "list-signing"]).await;
    assert_eq!(listed.lines().count(), 2);
    assert!(listed.lines().zip(&keys).all(|(line, key)| line.starts_with(key["id"].as_str().unwrap())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_another_folder_are_not_replaced_silently() {
    let Some(installation) = Installation::make().await else { return };
    installation.succeed(&["keys", "rotate-signing"]).await;
    std::fs::remove_dir_all(installation.folder.path().join("keys")).unwrap();
    installation.succeed(&["keys", "init"]).await;
    let output = installation.run(&["keys", "rotate-signing"]).await;
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(installation.keys().await.len(), 2);
}
