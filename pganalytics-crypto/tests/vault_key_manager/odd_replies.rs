//! Replies that a real server gives only in bad company: behind a proxy, overloaded, in the middle of an upgrade. They need no
//! server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use pganalytics_core::error::Retry;
use pganalytics_core::keys::{KeyError, KeyManager, WrappedKey};
use pganalytics_core::secret::SecretString;
use pganalytics_crypto::vault_key_manager::{VaultAuth, VaultKeyManager, VaultKeyManagerConfig, VaultSecret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{
    LIMIT, SHORT_DEADLINE, SLACK, context, failure, install_tls_provider, name, outage, token, unwrap, wrap,
};

const TOKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"data\":{\"ttl\":0}}";

/// Accepts any token and gives everything else one reply, in the raw.
struct Stranger {
    address: String,
    requests: Arc<AtomicUsize>,
}

impl Stranger {
    async fn replying(reply: String) -> Self {
        install_tls_provider();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let (reply, counter): (Arc<str>, _) = (reply.into(), requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(answer(stream, reply.clone()));
            }
        });
        Self { address, requests }
    }

    async fn with_body(status: u16, body: &str) -> Self {
        Self::replying(format!("HTTP/1.1 {status} Odd\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await
    }

    fn manager(&self) -> VaultKeyManager {
        VaultKeyManager::new(&self.config()).unwrap()
    }

    fn config(&self) -> VaultKeyManagerConfig {
        VaultKeyManagerConfig::new(self.address.parse().unwrap(), token("any")).with_deadline(LIMIT)
    }
}

async fn answer(mut stream: TcpStream, reply: Arc<str>) -> Option<()> {
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer).await.ok()?;
    let request = String::from_utf8_lossy(&buffer[..read]);
    let reply = if request.contains("lookup-self") { TOKEN } else { &reply };
    stream.write_all(reply.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).await.ok()?;
    if reply.ends_with("hang") {
        std::future::pending::<()>().await;
    }
    stream.shutdown().await.ok()
}

fn wrapped() -> WrappedKey {
    WrappedKey { blob: [&b"PGVT\x01\0\0\0\x01"[..], &[7; 80]].concat().into(), version: None }
}

#[tokio::test]
async fn troubles_of_the_server_are_outages() {
    for status in [408, 412, 429, 500, 502, 503, 504] {
        for body in ["{\"errors\":[\"later\"]}", "<html>bad gateway</html>", ""] {
            let manager = Stranger::with_body(status, body).await.manager();
            let said = outage(unwrap(&manager, &wrapped()).await);
            assert!(said.contains(&format!("with status {status}")), "{said}");
            outage(wrap(&manager).await);
            outage(manager.current_version(&name("orders")).await);
        }
    }
}

#[tokio::test]
async fn refusals_of_others_than_transit_are_no_verdict() {
    let cases = [
        (404, "<html>not found</html>"),
        (404, ""),
        (400, "<html>encryption key not found: invalid ciphertext</html>"),
        (400, "{\"errors\":[\"something new\"]}"),
        (401, "{}"),
        (200, "<html>sign in</html>"),
        (200, "{}"),
        (200, "{\"data\":{\"plaintext\":\"*\",\"ciphertext\":\"vault:v1:short\"}}"),
    ];
    for (status, body) in cases {
        let manager = Stranger::with_body(status, body).await.manager();
        let (orders, row) = (name("orders"), context("row"));
        failure(unwrap(&manager, &wrapped()).await, Retry::Never);
        failure(manager.rewrap(&orders, &row, &wrapped()).await, Retry::Never);
        failure(manager.generate(&orders, &row).await, Retry::Never);
        failure(manager.current_version(&orders).await, Retry::Never);
    }
}

#[tokio::test]
async fn only_transit_says_that_a_key_is_missing_or_a_blob_bad() {
    let manager = Stranger::with_body(404, "{\"errors\":[]}").await.manager();
    let error = manager.current_version(&name("orders")).await.unwrap_err();
    assert!(matches!(error, KeyError::UnknownKey { .. }), "{error:?}");
    let manager = Stranger::with_body(400, "{\"errors\":[\"encryption key not found\"]}").await.manager();
    let error = unwrap(&manager, &wrapped()).await.unwrap_err();
    assert!(matches!(error, KeyError::UnknownKey { .. }), "{error:?}");
    for message in ["invalid ciphertext: unable to decrypt", "cipher: message authentication failed"] {
        let manager = Stranger::with_body(400, &format!("{{\"errors\":[\"{message}\"]}}")).await.manager();
        let error = unwrap(&manager, &wrapped()).await.unwrap_err();
        assert!(matches!(error, KeyError::Undecryptable { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn callers_share_a_login_that_is_refused() {
    let stranger = Stranger::with_body(400, "{\"errors\":[\"invalid secret id\"]}").await;
    let mut config = stranger.config();
    config.auth = VaultAuth::app_role("role", VaultSecret::Value(SecretString::new("secret")));
    let manager = VaultKeyManager::new(&config).unwrap();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let manager = manager.clone();
            tokio::spawn(async move { outage(unwrap(&manager, &wrapped()).await) })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap().contains("the AppRole login was refused with status 400"));
    }
    assert_eq!(stranger.requests.load(Ordering::Relaxed), 1);
    outage(unwrap(&manager, &wrapped()).await);
    assert_eq!(stranger.requests.load(Ordering::Relaxed), 2, "later callers try again");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Stranger::with_body(200, "{}").await;
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: {}/v1/\r\nContent-Length: 0\r\n\r\n",
        other.address
    );
    let manager = Stranger::replying(redirect).await.manager();
    let said = outage(unwrap(&manager, &wrapped()).await);
    assert!(said.contains("with status 307"), "{said}");
    assert_eq!(other.requests.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn replies_that_break_off_or_do_not_end_are_bounded() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\"".to_owned();
    let manager = Stranger::replying(cut).await.manager();
    outage(unwrap(&manager, &wrapped()).await);

    let manager = Stranger::with_body(200, &"x".repeat(1 << 20)).await.manager();
    failure(unwrap(&manager, &wrapped()).await, Retry::Never);

    let hanging = Stranger::replying("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhang".to_owned()).await;
    let manager = VaultKeyManager::new(&hanging.config().with_deadline(SHORT_DEADLINE)).unwrap();
    let begun = Instant::now();
    assert_eq!(outage(unwrap(&manager, &wrapped()).await), "no answer within 1000 ms");
    assert!(begun.elapsed() < SHORT_DEADLINE + SLACK);
}

#[tokio::test]
async fn credentials_that_cannot_be_are_not_sent() {
    let stranger = Stranger::with_body(200, "{}").await;
    for text in ["line\nbreak", "nul\0"] {
        let mut config = stranger.config();
        config.auth = token(text);
        failure(wrap(&VaultKeyManager::new(&config).unwrap()).await, Retry::Never);
    }
    let folder = tempfile::tempdir().unwrap();
    for (file, bytes) in [("empty", &b" \n"[..]), ("binary", b"\xff\xfe"), ("large", &[b'x'; 70_000])] {
        let path = folder.path().join(file);
        std::fs::write(&path, bytes).unwrap();
        let mut config = stranger.config();
        config.auth = VaultAuth::app_role("role", VaultSecret::File(path.clone()));
        let said = outage(wrap(&VaultKeyManager::new(&config).unwrap()).await);
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    }
    assert_eq!(stranger.requests.load(Ordering::Relaxed), 0);
}
