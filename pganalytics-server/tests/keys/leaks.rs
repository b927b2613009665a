use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use pganalytics_core::audit::Actor;
use pganalytics_core::clock::SystemClock;
use pganalytics_core::keys::{DataKeyStore, KeyContext, KeyManager};
use pganalytics_core::random::OsRandom;
use pganalytics_store::postgres::{Database, PostgresConfig, PostgresDataKeyStore};

use crate::cluster::Cluster;

/// What must be found nowhere.
#[derive(Default)]
pub(crate) struct Secrets(Vec<Vec<u8>>);

impl Secrets {
    /// A token or a password.
    pub(crate) fn text(&mut self, text: &str) {
        assert!(text.len() >= 16, "too short to be looked for");
        self.0.push(text.as_bytes().to_vec());
    }

    /// A key, in whatever form somebody may have printed it.
    pub(crate) fn key(&mut self, key: &[u8]) {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let list = key.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        let texts = [hex.to_uppercase(), hex, list, STANDARD_NO_PAD.encode(key), URL_SAFE_NO_PAD.encode(key)];
        self.0.extend(texts.map(String::into_bytes));
        self.0.push(key.to_vec());
    }

    /// The keys of the folder of a file key manager.
    pub(crate) fn key_files(&mut self, folder: &Path) {
        let mut found = 0;
        for name in ["data", "signing"] {
            let text = std::fs::read_to_string(folder.join(format!("{name}.key"))).unwrap();
            for line in text.lines().filter(|line| line.starts_with("version ")) {
                self.key(&STANDARD.decode(line.split(' ').next_back().unwrap()).unwrap());
                found += 1;
            }
        }
        assert!(found >= 2);
    }

    /// The data keys, as this key manager unwraps them.
    pub(crate) async fn data_keys(&mut self, cluster: &Cluster, manager: &dyn KeyManager) {
        let database = Database::connect(&PostgresConfig::new(cluster.database_url())).await.unwrap();
        let actor = Actor::system("test");
        let store = PostgresDataKeyStore::new(database, Arc::new(SystemClock), Arc::new(OsRandom), actor);
        let stored = store.list().await.unwrap();
        assert!(!stored.is_empty());
        for key in stored {
            let context = KeyContext(format!("data-key/{}/{}", key.id.purpose, key.id.version.0));
            let Some(wrapping) = key.wrapping else { continue };
            let data_key = manager.unwrap(&wrapping.key, &context, &wrapping.wrapped).await.unwrap();
            self.key(data_key.expose());
        }
    }

    /// Demands that none of them is in a text.
    pub(crate) fn are_not_in(&self, what: &str, text: &[u8]) {
        assert!(!text.is_empty(), "{what}: nothing to look through");
        for (number, secret) in self.0.iter().enumerate() {
            let found = text.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{what} shows secret number {number}");
        }
    }

    /// Demands that they are neither in what a server has logged nor in the change events.
    pub(crate) async fn are_kept(&self, cluster: &Cluster, servers: usize) {
        for server in 0..servers {
            self.are_not_in("the log", cluster.log(server).as_bytes());
        }
        let events: Option<String> =
            sqlx::query_scalar("SELECT string_agg(audit_logs::text, E'\\n') FROM audit_logs")
                .fetch_one(&mut cluster.connect().await)
                .await
                .unwrap();
        self.are_not_in("the change events", events.unwrap().as_bytes());
    }
}

#[test]
fn a_secret_that_is_shown_is_found() {
    let mut secrets = Secrets::default();
    secrets.key(&[7; 32]);
    secrets.are_not_in("a text", b"nothing");
    let shown = format!("key={}", STANDARD.encode([7; 32]));
    std::panic::catch_unwind(|| secrets.are_not_in("a text", shown.as_bytes())).unwrap_err();
}
