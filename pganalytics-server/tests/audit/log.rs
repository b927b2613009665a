use std::fs;
use std::path::PathBuf;
use std::process::Output;

use pganalytics_testkit::wait_until;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::cluster::{Cluster, LIMIT, client};
use crate::program::{run_with, succeed};

/// Lets past the triggers who owns the tables.
const UNGUARD: &str = "DO $$ DECLARE guarded regclass; BEGIN \
    FOR guarded IN SELECT tgrelid::regclass FROM pg_trigger WHERE tgname = 'audit_guard' LOOP \
        EXECUTE format('ALTER TABLE ONLY %s DISABLE TRIGGER audit_guard', guarded); \
    END LOOP; END $$";

/// A server that seals its audit log.
pub(crate) struct SealedLog {
    pub(crate) cluster: Cluster,
    token: String,
    database_url: String,
}

impl SealedLog {
    /// The log of a server on which an administrator has signed in. `None` where PostgreSQL is not installed.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_on(Cluster::migrated().await?).await
    }

    /// The same, over connections to PostgreSQL that can be held.
    pub(crate) async fn start_wired() -> Option<Self> {
        let mut cluster = Cluster::migrated().await?;
        cluster.add_wire().await;
        Self::start_on(cluster).await
    }

    async fn start_on(mut cluster: Cluster) -> Option<Self> {
        let anchor = cluster.folder().join("anchor").to_str().unwrap().to_owned();
        cluster.settings().extend([
            ("PGA__AUDIT__LOG__NAME", "example.com/audit".into()),
            ("PGA__AUDIT__LOG__ANCHOR__TYPE", "local".into()),
            ("PGA__AUDIT__LOG__ANCHOR__PATH", anchor),
            ("PGA__AUDIT__LOG__SEAL_EVERY_SECONDS", "1".into()),
        ]);
        cluster.run(&["keys", "init"]).await;
        cluster.spawn_all(1).await;
        let token = cluster.administrator().await;
        let database_url = cluster.database_url();
        let log = Self { cluster, token, database_url };
        log.is_sealed().await;
        Some(log)
    }

    /// Makes a change, of which there are two events.
    pub(crate) async fn change(&self, name: &str) {
        let change = client()
            .post(format!("{}/api/v1/registration-secrets", self.cluster.urls()[0]))
            .bearer_auth(&self.token)
            .json(&json!({ "name": name }));
        let answer = change.send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    /// How the server says that it is.
    pub(crate) async fn health(&self) -> Value {
        let health = client().get(format!("{}/api/v1/health", self.cluster.urls()[0]));
        health.send().await.unwrap().json().await.unwrap()
    }

    /// Waits until every event, also those of requests, is in a published checkpoint.
    pub(crate) async fn is_sealed(&self) {
        const WAITING: &str = "SELECT unsealed_events + (SELECT count(*) FROM audit_seals WHERE published_at IS NULL) \
            + (SELECT 1 - least(count(*), 1) FROM audit_seals) FROM audit_seal_lag";
        let is_delivered = async || self.health().await["audit"]["sinks"][0]["backlog_events"] == 0;
        assert!(wait_until(LIMIT, is_delivered).await, "{}", self.cluster.log(0));
        let is_sealed = async || {
            let mut connection = PgConnection::connect(&self.database_url).await.unwrap();
            sqlx::query_scalar::<_, i64>(WAITING).fetch_one(&mut connection).await.unwrap() == 0
        };
        assert!(wait_until(LIMIT, is_sealed).await, "{}", self.cluster.log(0));
    }

    /// What a stranger gets.
    pub(crate) async fn get(&self, path: &str) -> String {
        let url = format!("{}/api/v1{path}", self.cluster.urls()[0]);
        client().get(url).send().await.unwrap().text().await.unwrap()
    }

    /// Goes on with another database, from the next start on.
    pub(crate) fn use_database(&mut self, url: &str) {
        fs::write(self.cluster.folder().join("database-url"), url).unwrap();
        url.clone_into(&mut self.database_url);
    }

    /// The published checkpoint of the first log.
    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.anchor().join("era-1/checkpoint")
    }

    pub(crate) fn anchor(&self) -> PathBuf {
        self.cluster.folder().join("anchor")
    }

    /// A copy of the published checkpoint, as an auditor keeps it.
    pub(crate) fn keep_checkpoint(&self) -> String {
        let kept = self.cluster.folder().join("kept");
        fs::copy(self.checkpoint(), &kept).unwrap();
        kept.to_str().unwrap().to_owned()
    }

    /// Does what only a superuser can, past all triggers.
    pub(crate) async fn attack(&self, statement: &str) {
        let statement = format!("SET session_replication_role = replica; {UNGUARD}; {statement}");
        let mut connection = PgConnection::connect(&self.database_url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    }

    /// The report of a verification that finds nothing.
    pub(crate) async fn verify(&self, arguments: &[&str]) -> Value {
        let report = succeed(&self.cluster, &[&["audit", "verify", "--json"], arguments].concat()).await;
        serde_json::from_str(&report).unwrap()
    }

    /// The report of a verification that finds something.
    pub(crate) async fn verify_tampered(&self, arguments: &[&str]) -> Value {
        let Output { status, stdout, stderr } =
            run_with(&self.cluster, &[&["audit", "verify", "--json"], arguments].concat(), "").await;
        let errors = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(3), "{errors}");
        assert!(errors.contains("the audit log is not what was sealed"), "{errors}");
        serde_json::from_slice(&stdout).unwrap()
    }
}
