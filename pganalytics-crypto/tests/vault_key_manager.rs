//! The transit engine of a real Vault-compatible server.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "vault_key_manager/odd_replies.rs"]
mod odd_replies;
#[path = "vault_key_manager/token_review.rs"]
mod token_review;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pganalytics_core::error::Retry;
use pganalytics_core::keys::{DataKey, KeyContext, KeyError, KeyManager, KeyName, KeyVersion, WrappedKey};
use pganalytics_core::secret::SecretString;
use pganalytics_core::testing::Subject;
use pganalytics_core::testing::key_manager::KeyManagerFixture;
use pganalytics_crypto::vault_key_manager::{
    VaultAuth, VaultKeyManager, VaultKeyManagerConfig, VaultKeyManagerError, VaultSecret,
};
use pganalytics_testkit::{Vault, free_port, vault, wait_until};
use serde_json::{Value, json};
use token_review::{TokenReviewer, projected_token};
use tokio::sync::OnceCell;

const LIMIT: Duration = Duration::from_secs(30);
const SHORT_DEADLINE: Duration = Duration::from_secs(1);
/// What a call may take beyond its deadline on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// A transit engine of a test's own, with the keys `orders` and `people`.
#[derive(Clone)]
struct Transit {
    server: Arc<Vault>,
    namespace: String,
    mount: String,
}

impl Transit {
    /// On the server that the tests of this process share.
    async fn shared() -> Option<Self> {
        static SHARED: OnceCell<Option<Arc<Vault>>> = OnceCell::const_new();
        let server = SHARED.get_or_init(async || vault().await.map(Arc::new)).await.clone()?;
        Some(Self::on(server, "").await)
    }

    /// On a server of its own.
    async fn private() -> Option<Self> {
        Some(Self::on(Arc::new(vault().await?), "").await)
    }

    async fn on(server: Arc<Vault>, namespace: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        install_tls_provider();
        let mount = format!("transit-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let engine = Self { server, namespace: namespace.into(), mount };
        engine.must("POST", &format!("sys/mounts/{}", engine.mount), json!({ "type": "transit" })).await;
        for key in ["orders", "people"] {
            engine.must("POST", &format!("{}/keys/{key}", engine.mount), Value::Null).await;
        }
        engine
    }

    async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        self.server.must_in(&self.namespace, method, path, body).await
    }

    fn config(&self, auth: VaultAuth) -> VaultKeyManagerConfig {
        let config = VaultKeyManagerConfig::new(self.server.url().parse().unwrap(), auth);
        let config = config.with_mount(&self.mount).with_deadline(LIMIT);
        if self.namespace.is_empty() { config } else { config.with_namespace(&self.namespace) }
    }

    fn root(&self) -> VaultKeyManager {
        VaultKeyManager::new(&self.config(token(self.server.root_token()))).unwrap()
    }

    /// Writes a policy that the manager's documentation asks for, for the keys of a name or pattern.
    async fn write_policy(&self, keys: &str) {
        let mount = &self.mount;
        let policy = format!(
            r#"path "{mount}/keys/{keys}" {{ capabilities = ["read"] }}
               path "{mount}/encrypt/{keys}" {{ capabilities = ["update"] }}
               path "{mount}/decrypt/{keys}" {{ capabilities = ["update"] }}
               path "{mount}/rewrap/{keys}" {{ capabilities = ["update"] }}"#
        );
        self.must("PUT", &format!("sys/policies/acl/{mount}"), json!({ "policy": policy })).await;
    }

    /// A role with the policy, named after the engine, and a way to log in by it.
    async fn app_role(&self, settings: Value) -> VaultAuth {
        let mounts = self.must("GET", "sys/auth", Value::Null).await;
        if mounts["data"].get("approle/").is_none() {
            // Another test may have been faster.
            self.server
                .ask_in(&self.namespace, "POST", "sys/auth/approle", json!({ "type": "approle" }))
                .await;
        }
        let role = format!("auth/approle/role/{}", self.mount);
        let mut body = json!({ "token_policies": [self.mount] });
        body.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        self.must("POST", &role, body).await;
        let id = self.must("GET", &format!("{role}/role-id"), Value::Null).await;
        let secret = self.must("POST", &format!("{role}/secret-id"), json!({})).await;
        let secret = secret["data"]["secret_id"].as_str().unwrap();
        VaultAuth::app_role(text(&id["data"]["role_id"]), VaultSecret::Value(SecretString::new(secret)))
    }

    /// A manager that logs in by AppRole and may use the keys alone.
    async fn with_app_role(&self, settings: Value) -> VaultKeyManager {
        self.write_policy("*").await;
        VaultKeyManager::connect(&self.config(self.app_role(settings).await)).await.unwrap()
    }

    /// What the server knows of the tokens that logged in by the engine's role.
    async fn tokens(&self) -> Vec<Value> {
        let mut found = Vec::new();
        let accessors = self.must("LIST", "auth/token/accessors", Value::Null).await;
        for accessor in accessors["data"]["keys"].as_array().unwrap() {
            let look_up = json!({ "accessor": accessor });
            let path = "auth/token/lookup-accessor";
            // One that has ended since is none.
            let token = self.server.ask_in(&self.namespace, "POST", path, look_up).await.body["data"].clone();
            if token["meta"]["role_name"] == json!(self.mount) || token["meta"]["role"] == json!(self.mount) {
                found.push(token);
            }
        }
        found
    }

    async fn accessors(&self) -> HashSet<String> {
        self.tokens().await.iter().map(|token| text(&token["accessor"])).collect()
    }

    async fn revoke_all(&self) {
        for accessor in self.accessors().await {
            self.must("POST", "auth/token/revoke-accessor", json!({ "accessor": accessor })).await;
        }
    }

    async fn fixture(&self, manager: VaultKeyManager) -> KeyManagerFixture {
        let (root, rotated) = (self.root(), manager.clone());
        let rotation = async move {
            root.rotate(&name("orders")).await.unwrap();
            Arc::new(rotated) as Arc<dyn KeyManager>
        };
        let nobody = VaultKeyManagerConfig::new(
            format!("http://127.0.0.1:{}", free_port()).parse().unwrap(),
            token("nobody asks for it"),
        );
        let nobody = VaultKeyManager::new(&nobody.with_mount(&self.mount)).unwrap();
        let subject = Subject::real_time(Arc::new(manager) as Arc<dyn KeyManager>).keeping(self.clone());
        KeyManagerFixture::new(subject, [name("orders"), name("people")])
            .with_rotation(rotation)
            .with_unreachable(Arc::new(nobody))
    }
}

fn install_tls_provider() {
    // Whichever test comes first sets it for all.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn name(text: &str) -> KeyName {
    text.parse().unwrap()
}

fn context(text: &str) -> KeyContext {
    KeyContext(text.into())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn token(text: &str) -> VaultAuth {
    VaultAuth::Token(VaultSecret::Value(SecretString::new(text)))
}

async fn wrap(manager: &VaultKeyManager) -> Result<WrappedKey, KeyError> {
    manager.wrap(&name("orders"), &context("row"), &data_key()).await
}

async fn unwrap(manager: &VaultKeyManager, wrapped: &WrappedKey) -> Result<DataKey, KeyError> {
    manager.unwrap(&name("orders"), &context("row"), wrapped).await
}

fn data_key() -> DataKey {
    DataKey::from_bytes((100..132).collect()).unwrap()
}

/// What went wrong, of a failure that is likely to pass and no verdict on key or blob.
fn outage<T>(result: Result<T, KeyError>) -> String {
    failure(result, Retry::Later)
}

fn failure<T>(result: Result<T, KeyError>, retry: Retry) -> String {
    match result {
        Err(KeyError::Backend(error)) => {
            assert_eq!(error.retry, retry, "{}", error.source);
            error.source.to_string()
        }
        Err(error) => panic!("not a failure of the backend: {error:?}"),
        Ok(_) => panic!("succeeded"),
    }
}

/// Every call fails in time and without a verdict; what the first one said.
async fn every_call_fails(manager: &VaultKeyManager, wrapped: &WrappedKey, deadline: Duration) -> String {
    let (orders, row) = (name("orders"), context("row"));
    let begun = Instant::now();
    let said = outage(manager.generate(&orders, &row).await);
    outage(wrap(manager).await);
    outage(unwrap(manager, wrapped).await);
    outage(manager.rewrap(&orders, &row, wrapped).await);
    outage(manager.current_version(&orders).await);
    assert!(begun.elapsed() < 5 * deadline + SLACK, "{:?}", begun.elapsed());
    said
}

async fn with_root_token() -> Option<KeyManagerFixture> {
    let engine = Transit::shared().await?;
    Some(engine.fixture(engine.root()).await)
}

async fn with_the_least_policy() -> Option<KeyManagerFixture> {
    let engine = Transit::shared().await?;
    let manager = engine.with_app_role(json!({})).await;
    Some(engine.fixture(manager).await)
}

mod contract_with_root_token {
    pganalytics_core::key_manager_contract!(super::with_root_token());
}

mod contract_with_the_least_policy {
    pganalytics_core::key_manager_contract!(super::with_the_least_policy());
}

#[tokio::test]
async fn the_documented_policy_suffices_for_its_key_alone() {
    let Some(engine) = Transit::shared().await else { return };
    engine.write_policy("orders").await;
    let config = engine.config(engine.app_role(json!({})).await);
    let manager = VaultKeyManager::connect(&config).await.unwrap();
    let (orders, row) = (name("orders"), context("row"));
    let (data_key, wrapped) = manager.generate(&orders, &row).await.unwrap();
    assert_eq!(wrapped.version, Some(KeyVersion(1)));
    let wrapped = manager.rewrap(&orders, &row, &wrapped).await.unwrap();
    assert!(manager.unwrap(&orders, &row, &wrapped).await.unwrap() == data_key);

    let said = outage(manager.generate(&name("people"), &row).await);
    let path = format!("path \"{}/keys/people\" {{ capabilities = [\"read\"] }}", engine.mount);
    assert!(said.contains(&path), "{said}");
    let said = outage(manager.unwrap(&name("people"), &row, &wrapped).await);
    let path = format!("path \"{}/decrypt/people\" {{ capabilities = [\"update\"] }}", engine.mount);
    assert!(said.contains(&path), "{said}");
    assert!(matches!(manager.rotate(&orders).await, Err(VaultKeyManagerError::Forbidden { .. })));
    assert!(matches!(manager.create(&name("third")).await, Err(VaultKeyManagerError::Forbidden { .. })));
}

#[tokio::test]
async fn what_is_forbidden_makes_no_login_of_each_call() {
    let Some(engine) = Transit::shared().await else { return };
    let manager = engine.with_app_role(json!({})).await;
    engine.write_policy("people").await;
    for _ in 0..20 {
        outage(wrap(&manager).await);
    }
    assert_eq!(engine.accessors().await.len(), 2, "the first login and one fresh one");
    engine.write_policy("orders").await;
    wrap(&manager).await.unwrap();
}

#[tokio::test]
async fn a_token_is_renewed_before_its_lease_ends() {
    let Some(engine) = Transit::shared().await else { return };
    let manager = engine.with_app_role(json!({ "token_ttl": "3s", "token_max_ttl": "1h" })).await;
    let first = engine.accessors().await;
    assert_eq!(first.len(), 1);
    let begun = Instant::now();
    let outlived = wait_until(LIMIT, async || {
        wrap(&manager).await.unwrap();
        begun.elapsed() > Duration::from_secs(7)
    });
    assert!(outlived.await);
    assert_eq!(engine.accessors().await, first, "renewed twice, and no other login");
}

#[tokio::test]
async fn a_token_at_its_greatest_age_is_replaced() {
    let Some(engine) = Transit::shared().await else { return };
    let manager = engine.with_app_role(json!({ "token_ttl": "3s", "token_max_ttl": "4s" })).await;
    let first = engine.accessors().await;
    let begun = Instant::now();
    let outlived = wait_until(LIMIT, async || {
        wrap(&manager).await.unwrap();
        begun.elapsed() > Duration::from_secs(6)
    });
    assert!(outlived.await);
    let now = engine.accessors().await;
    assert!(!now.is_empty() && now.is_disjoint(&first), "{now:?} after {first:?}");
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_replaced() {
    let Some(engine) = Transit::shared().await else { return };
    let settings = json!({ "token_type": "batch", "token_ttl": "3s" });
    let manager = engine.with_app_role(settings).await;
    let begun = Instant::now();
    let outlived = wait_until(LIMIT, async || {
        wrap(&manager).await.unwrap();
        begun.elapsed() > Duration::from_secs(5)
    });
    assert!(outlived.await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_leads_to_one_fresh_login_for_all() {
    let Some(engine) = Transit::shared().await else { return };
    let manager = engine.with_app_role(json!({})).await;
    let wrapped = wrap(&manager).await.unwrap();
    let first = engine.accessors().await;
    engine.revoke_all().await;
    assert!(engine.accessors().await.is_empty());

    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (manager, wrapped) = (manager.clone(), wrapped.clone());
            tokio::spawn(async move { unwrap(&manager, &wrapped).await })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap().unwrap() == data_key());
    }
    let now = engine.accessors().await;
    assert!(now.len() == 1 && now.is_disjoint(&first), "{now:?} after {first:?}");
}

#[tokio::test]
async fn a_refused_login_is_an_outage() {
    let Some(engine) = Transit::shared().await else { return };
    engine.app_role(json!({})).await;
    let auth = VaultAuth::app_role("no-such-role", VaultSecret::Value(SecretString::new("guess")));
    let manager = VaultKeyManager::new(&engine.config(auth)).unwrap();
    let said = outage(wrap(&manager).await);
    assert!(said.starts_with("the AppRole login was refused with status 400"), "{said}");
    assert!(!said.contains("guess"), "{said}");
}

#[tokio::test]
async fn a_token_file_is_read_again_when_its_token_is_refused() {
    let Some(engine) = Transit::shared().await else { return };
    let fresh = async || {
        let made = engine.must("POST", "auth/token/create", json!({ "ttl": "1h" })).await;
        text(&made["auth"]["client_token"])
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let first = fresh().await;
    fs::write(file.path(), format!("{first}\n")).unwrap();
    let auth = VaultAuth::Token(VaultSecret::File(file.path().into()));
    let manager = VaultKeyManager::connect(&engine.config(auth)).await.unwrap();
    let wrapped = wrap(&manager).await.unwrap();

    engine.must("POST", "auth/token/revoke", json!({ "token": first })).await;
    let said = outage(unwrap(&manager, &wrapped).await);
    assert!(said.starts_with("the token login was refused with status 403"), "{said}");
    fs::write(file.path(), fresh().await).unwrap();
    assert!(unwrap(&manager, &wrapped).await.unwrap() == data_key());

    engine.revoke_all().await;
    fs::remove_file(file.path()).unwrap();
    assert!(unwrap(&manager, &wrapped).await.unwrap() == data_key(), "a token in use needs no file");
}

#[tokio::test]
async fn a_given_token_is_kept_alive() {
    let Some(engine) = Transit::shared().await else { return };
    let made = engine.must("POST", "auth/token/create", json!({ "ttl": "3s" })).await;
    let auth = token(&text(&made["auth"]["client_token"]));
    let manager = VaultKeyManager::connect(&engine.config(auth)).await.unwrap();
    let begun = Instant::now();
    let outlived = wait_until(LIMIT, async || begun.elapsed() > Duration::from_secs(6));
    assert!(outlived.await);
    wrap(&manager).await.unwrap();
}

#[tokio::test]
async fn a_pod_logs_in_with_the_token_that_its_file_holds_then() {
    let Some(engine) = Transit::shared().await else { return };
    let reviewer = TokenReviewer::start().await;
    let mount = format!("kubernetes-{}", engine.mount);
    engine.must("POST", &format!("sys/auth/{mount}"), json!({ "type": "kubernetes" })).await;
    let config = json!({
        "kubernetes_host": reviewer.address,
        "kubernetes_ca_cert": reviewer.authority,
        "token_reviewer_jwt": projected_token("reviewer"),
        "disable_local_ca_jwt": true,
    });
    engine.must("POST", &format!("auth/{mount}/config"), config).await;
    engine.write_policy("*").await;
    let role = json!({
        "bound_service_account_names": ["api"],
        "bound_service_account_namespaces": ["monitoring"],
        "token_policies": [engine.mount],
    });
    engine.must("POST", &format!("auth/{mount}/role/{}", engine.mount), role).await;

    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), projected_token("first")).unwrap();
    let auth = VaultAuth::Kubernetes { mount, role: engine.mount.clone(), token_file: file.path().into() };
    let config = engine.config(auth);
    let manager = VaultKeyManager::connect(&config).await.unwrap();
    let wrapped = wrap(&manager).await.unwrap();
    fs::write(file.path(), projected_token("second")).unwrap();
    engine.revoke_all().await;
    assert!(unwrap(&manager, &wrapped).await.unwrap() == data_key());
    assert_eq!(reviewer.reviewed(), [projected_token("first"), projected_token("second")]);

    fs::remove_file(file.path()).unwrap();
    let said = outage(unwrap(&VaultKeyManager::new(&config).unwrap(), &wrapped).await);
    assert!(said.contains(file.path().to_str().unwrap()), "{said}");
}

#[tokio::test]
async fn a_sealed_server_is_an_outage_until_it_is_unsealed() {
    let Some(engine) = Transit::private().await else { return };
    let manager = engine.with_app_role(json!({})).await;
    let wrapped = wrap(&manager).await.unwrap();
    engine.server.seal().await;
    assert_eq!(every_call_fails(&manager, &wrapped, LIMIT).await, "the server is sealed");
    let stranger = VaultKeyManager::connect(&engine.config(token("any"))).await.unwrap_err();
    assert!(matches!(stranger, VaultKeyManagerError::Sealed), "{stranger:?}");
    engine.server.unseal().await;
    assert!(unwrap(&manager, &wrapped).await.unwrap() == data_key());
}

#[tokio::test]
async fn a_server_that_hangs_is_an_outage_at_the_deadline() {
    let Some(engine) = Transit::private().await else { return };
    engine.write_policy("*").await;
    let config = engine.config(engine.app_role(json!({})).await).with_deadline(SHORT_DEADLINE);
    let manager = VaultKeyManager::connect(&config).await.unwrap();
    let wrapped = wrap(&manager).await.unwrap();
    engine.server.process().pause();
    let said = every_call_fails(&manager, &wrapped, SHORT_DEADLINE).await;
    assert_eq!(said, "no answer within 1000 ms");
    let begun = Instant::now();
    VaultKeyManager::connect(&config).await.unwrap_err();
    assert!(begun.elapsed() < SHORT_DEADLINE + SLACK);
    engine.server.process().resume();
    let back = wait_until(LIMIT, async || unwrap(&manager, &wrapped).await.is_ok());
    assert!(back.await);
}

#[tokio::test]
async fn a_killed_server_is_an_outage_until_it_is_back() {
    let Some(mut engine) = Transit::private().await else { return };
    let manager = engine.with_app_role(json!({})).await;
    let wrapped = wrap(&manager).await.unwrap();
    engine.server.process().kill_9().await;
    let said = every_call_fails(&manager, &wrapped, LIMIT).await;
    assert!(said.contains("cannot be reached") && said.contains("refused"), "{said}");

    Arc::get_mut(&mut engine.server).unwrap().start_again().await;
    assert_eq!(every_call_fails(&manager, &wrapped, LIMIT).await, "the server is sealed");
    engine.server.unseal().await;
    assert!(unwrap(&manager, &wrapped).await.unwrap() == data_key());
}

#[tokio::test]
async fn only_the_own_authority_is_accepted() {
    let Some(engine) = Transit::shared().await else { return };
    let config = engine.config(token(engine.server.root_token()));
    let mut config = config.with_authorities(engine.server.authority());
    config.address = engine.server.tls_url().parse().unwrap();
    let manager = VaultKeyManager::connect(&config).await.unwrap();
    let wrapped = wrap(&manager).await.unwrap();

    let other = TokenReviewer::start().await.authority;
    let wrong = VaultKeyManager::new(&config.clone().with_authorities(other)).unwrap();
    let said = every_call_fails(&wrong, &wrapped, LIMIT).await;
    assert!(said.contains("certificate"), "{said}");
    config.authorities = None;
    let strange = VaultKeyManager::new(&config).unwrap();
    let said = outage(unwrap(&strange, &wrapped).await);
    assert!(said.contains("certificate"), "{said}");
    for bad in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = VaultKeyManager::new(&config.clone().with_authorities(bad)).unwrap_err();
        assert!(matches!(error, VaultKeyManagerError::Config(_)), "{error:?}");
    }
}

#[tokio::test]
async fn login_and_engine_are_those_of_the_namespace() {
    let Some(root) = Transit::shared().await else { return };
    let made = root.server.ask("POST", "sys/namespaces/team-a", json!({})).await;
    if made.status == 404 {
        // HashiCorp Vault has namespaces in its Enterprise edition alone.
        return;
    }
    let engine = Transit::on(root.server.clone(), "team-a").await;
    let manager = engine.with_app_role(json!({})).await;
    let wrapped = wrap(&manager).await.unwrap();
    assert!(unwrap(&manager, &wrapped).await.unwrap() == data_key());
    assert_eq!(engine.accessors().await.len(), 1);

    let mut elsewhere = engine.config(token(engine.server.root_token()));
    elsewhere.namespace = None;
    let elsewhere = VaultKeyManager::new(&elsewhere).unwrap();
    let said = failure(unwrap(&elsewhere, &wrapped).await, Retry::Never);
    assert!(said.contains("no handler for route"), "{said}");
}

#[tokio::test]
async fn a_missing_engine_is_no_verdict_on_keys() {
    let Some(engine) = Transit::shared().await else { return };
    let wrapped = wrap(&engine.root()).await.unwrap();
    let config = engine.config(token(engine.server.root_token())).with_mount("no/such/engine");
    let manager = VaultKeyManager::new(&config).unwrap();
    for said in [
        failure(wrap(&manager).await, Retry::Never),
        failure(unwrap(&manager, &wrapped).await, Retry::Never),
        failure(manager.current_version(&name("orders")).await, Retry::Never),
    ] {
        assert!(said.contains("no/such/engine"), "{said}");
    }
}

#[tokio::test]
async fn keys_are_made_where_the_configuration_says_so() {
    let Some(engine) = Transit::shared().await else { return };
    let config =
        engine.config(token(engine.server.root_token())).creating([name("orders"), name("invoices")]);
    let manager = VaultKeyManager::connect(&config).await.unwrap();
    for key in ["orders", "invoices"] {
        assert_eq!(manager.current_version(&name(key)).await.unwrap(), Some(KeyVersion(1)));
        let again = manager.create(&name(key)).await.unwrap_err();
        assert!(matches!(again, VaultKeyManagerError::Exists { .. }), "{again:?}");
    }
    let found = engine.must("GET", &format!("{}/keys/invoices", engine.mount), Value::Null).await;
    assert_eq!(found["data"]["exportable"], json!(false));
    assert_eq!(found["data"]["type"], json!("aes256-gcm96"));
}

#[tokio::test]
async fn keys_that_do_not_protect_are_refused() {
    let Some(engine) = Transit::shared().await else { return };
    let cases = [
        ("asymmetric", json!({ "type": "rsa-2048" }), "`rsa-2048`"),
        ("signing", json!({ "type": "ed25519" }), "`ed25519`"),
        ("derived", json!({ "derived": true }), "derived from"),
    ];
    for (key, settings, expected) in cases {
        engine.must("POST", &format!("{}/keys/{key}", engine.mount), settings).await;
        let said = failure(engine.root().generate(&name(key), &context("row")).await, Retry::Never);
        assert!(said.contains(expected), "{said}");
    }
    for kind in ["chacha20-poly1305", "aes128-gcm96"] {
        engine.must("POST", &format!("{}/keys/{kind}", engine.mount), json!({ "type": kind })).await;
        let (data_key, wrapped) = engine.root().generate(&name(kind), &context("row")).await.unwrap();
        assert!(engine.root().unwrap(&name(kind), &context("row"), &wrapped).await.unwrap() == data_key);
    }
}

#[tokio::test]
async fn a_version_that_the_server_no_longer_opens_is_no_verdict() {
    let Some(engine) = Transit::shared().await else { return };
    let manager = engine.root();
    let (orders, row) = (name("orders"), context("row"));
    let old = wrap(&manager).await.unwrap();
    assert_eq!(manager.rotate(&orders).await.unwrap(), KeyVersion(2));
    let new = manager.rewrap(&orders, &row, &old).await.unwrap();
    assert_eq!(new.version, Some(KeyVersion(2)));
    let path = format!("{}/keys/orders/config", engine.mount);
    engine.must("POST", &path, json!({ "min_decryption_version": 2 })).await;
    assert!(unwrap(&manager, &new).await.unwrap() == data_key());
    let said = failure(unwrap(&manager, &old).await, Retry::Never);
    assert!(said.contains("too old"), "{said}");
}

#[tokio::test]
async fn concurrent_rotations_lose_no_version() {
    let Some(engine) = Transit::shared().await else { return };
    let rotations: Vec<_> = (0..8)
        .map(|_| {
            let manager = engine.root();
            tokio::spawn(async move { manager.rotate(&name("orders")).await.unwrap() })
        })
        .collect();
    for rotation in rotations {
        assert!((2..=9).contains(&rotation.await.unwrap().0));
    }
    assert_eq!(engine.root().current_version(&name("orders")).await.unwrap(), Some(KeyVersion(9)));
    let unknown = engine.root().rotate(&name("no-such-key")).await.unwrap_err();
    assert!(matches!(unknown, VaultKeyManagerError::UnknownKey { .. }), "{unknown:?}");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn logs_and_errors_show_no_secret() {
    let Some(engine) = Transit::shared().await else { return };
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    engine.write_policy("*").await;
    let auth = engine.app_role(json!({})).await;
    let VaultAuth::AppRole { secret_id: VaultSecret::Value(secret_id), .. } = &auth else {
        panic!("{auth:?}")
    };
    let secret_id = secret_id.expose().to_owned();
    let config = engine.config(auth);
    let manager = VaultKeyManager::connect(&config).await.unwrap();
    let wrapped = wrap(&manager).await.unwrap();
    unwrap(&manager, &wrapped).await.unwrap();
    manager.rewrap(&name("orders"), &context("row"), &wrapped).await.unwrap();
    engine.revoke_all().await;
    unwrap(&manager, &wrapped).await.unwrap();
    let error = unwrap(&manager, &WrappedKey { blob: vec![0; 80].into(), version: None }).await.unwrap_err();
    engine.write_policy("people").await;
    let forbidden = wrap(&manager).await.unwrap_err();
    let root = engine.config(token(engine.server.root_token()));

    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("logging in afresh"), "the log was caught: {logged}");
    let printed = format!("{logged}{config:?}{manager:?}{error:?}{forbidden:?}{root:?}");
    let key = STANDARD.encode(data_key().expose());
    for secret in [&secret_id, engine.server.root_token(), &key[..40], "100, 101, 102"] {
        let found = printed.lines().find(|line| line.contains(secret));
        assert!(found.is_none(), "{secret}: {found:?}");
    }
    let words =
        || printed.split(|char: char| !char.is_ascii_alphanumeric() && !matches!(char, '.' | '_' | '-'));
    let token = words().find(|word| word.len() > 20 && (word.starts_with("s.") || word.starts_with("hvs.")));
    assert!(token.is_none(), "a token: {token:?}");
}
