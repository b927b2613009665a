//! An installation that was made before its columns were sealed, and a server of that time: what it wrote, as it wrote it.

use pganalytics_auth::local::{PasswordHasher, PasswordHasherConfig};
use pganalytics_auth::token::ApiTokenText;
use pganalytics_core::secret::SecretString;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::cluster::{Cluster, PASSWORD};

/// How many rows each table has besides the administrator's.
pub(crate) const ROWS: u128 = 60;

/// A server of before.
pub(crate) struct Older {
    pub(crate) connection: PgConnection,
    /// The token of the administrator.
    pub(crate) token: ApiTokenText,
}

/// The id of the n-th row.
pub(crate) fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number)
}

/// The values that the n-th rows of the tables have at first.
pub(crate) fn password(number: u128) -> String {
    format!("$argon2id$canary-of-a-password-{number}")
}

pub(crate) fn config(number: u128) -> String {
    format!("[postgres]\npassword = canary-of-a-configuration-{number}\n")
}

pub(crate) fn webhook(number: u128) -> String {
    format!("https://example.org/canary-of-a-webhook-{number}")
}

pub(crate) fn digest(number: u128) -> Vec<u8> {
    format!("canary-of-a-digest-{number:0>13}").into_bytes()
}

impl Older {
    /// Migrates to the version of before, and writes what servers wrote then.
    pub(crate) async fn install(cluster: &Cluster) -> Self {
        cluster.run(&["migrate", "up", "--to", "5"]).await;
        let connection = PgConnection::connect(&cluster.database_url()).await.unwrap();
        let mut older = Self { connection, token: ApiTokenText::generate() };
        let hasher = PasswordHasher::new(PasswordHasherConfig::default()).unwrap();
        let hash = hasher.hash(&SecretString::new(PASSWORD)).await.unwrap();
        older.add_user(0, "admin", "admin", hash.expose()).await;
        let token = older.token.digest().0.to_vec();
        older.add_token(0, &token).await;
        for number in 1..=ROWS {
            older.add_user(number, &format!("user{number}"), "user", &password(number)).await;
            older.add_collector(number).await;
            older.add_config(number, 1, &config(number)).await;
            older.add_rule(number).await;
            older.add_token(number, &digest(number)).await;
        }
        older
    }

    pub(crate) async fn add_user(&mut self, number: u128, name: &str, role: &str, hash: &str) {
        let insert = "INSERT INTO users (id, username, username_key, role, password_hash, password_changed, \
             is_protected, created_at, updated_at) VALUES ($1, $2, $2, $3, $4, true, false, now(), now())";
        let insert = sqlx::query(insert).bind(id(number)).bind(name).bind(role).bind(hash);
        insert.execute(&mut self.connection).await.unwrap();
    }

    async fn add_collector(&mut self, number: u128) {
        let insert = "INSERT INTO collectors (id, name, hostname, status, created_at, updated_at) \
             VALUES ($1, 'c', 'h', 'registered', now(), now())";
        sqlx::query(insert).bind(id(number)).execute(&mut self.connection).await.unwrap();
    }

    pub(crate) async fn add_config(&mut self, number: u128, version: i64, text: &str) {
        let insert = "INSERT INTO collector_config (collector_id, version, text, created_at) \
             VALUES ($1, $2, $3, now())";
        let insert = sqlx::query(insert).bind(id(number)).bind(version).bind(text);
        insert.execute(&mut self.connection).await.unwrap();
    }

    async fn add_rule(&mut self, number: u128) {
        let insert = "INSERT INTO alert_rules (id, name, rule_type, condition, severity, webhook_url, created_at, \
             updated_at) VALUES ($1, 'r', 'threshold', '{}', 'low', $2, now(), now())";
        sqlx::query(insert)
            .bind(id(number))
            .bind(webhook(number))
            .execute(&mut self.connection)
            .await
            .unwrap();
    }

    async fn add_token(&mut self, number: u128, digest: &[u8]) {
        let insert = "INSERT INTO api_tokens (id, user_id, name, digest, scopes, created_at) \
             VALUES ($1, $2, 't', $3, '{read,admin}', now())";
        let insert = sqlx::query(insert).bind(id(number)).bind(id(0)).bind(digest);
        insert.execute(&mut self.connection).await.unwrap();
    }

    /// What `UPDATE users SET password_hash` does.
    pub(crate) async fn set_password(&mut self, number: u128, hash: &str) -> Result<(), sqlx::Error> {
        let update =
            sqlx::query("UPDATE users SET password_hash = $2 WHERE id = $1").bind(id(number)).bind(hash);
        update.execute(&mut self.connection).await.map(drop)
    }

    /// Says that it is there, as servers of before did.
    pub(crate) async fn beat(&mut self) {
        let beat = "INSERT INTO running_servers (instance, version, phase, started_at, heartbeat_at) \
             VALUES ($1, '3.2.0', 'serving', now(), now()) ON CONFLICT (instance) DO UPDATE SET heartbeat_at = now()";
        sqlx::query(beat).bind(id(99_999)).execute(&mut self.connection).await.unwrap();
    }

    /// Says that it is gone.
    pub(crate) async fn leave(&mut self) {
        let leave = sqlx::query("DELETE FROM running_servers WHERE instance = $1").bind(id(99_999));
        leave.execute(&mut self.connection).await.unwrap();
    }
}
