use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Method, Response};
use rustls::crypto::CryptoProvider;
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::{Host, Url};
use zeroize::{Zeroize, Zeroizing};

use super::config::VaultKeyManagerConfig;
use super::error::VaultKeyManagerError;

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Says that no browser was tricked into the request.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");
const MAX_REPLY_BYTES: usize = 256 * 1024;
const MAX_MESSAGE_CHARS: usize = 300;

/// What is asked of the server. Clones share the body, which is wiped when the last one is gone.
#[derive(Clone)]
pub(super) struct Request {
    method: Method,
    /// Below `/v1/`.
    path: String,
    body: Option<Bytes>,
    /// What the policy must allow on the path.
    capability: &'static str,
}

impl Request {
    pub(super) fn read(path: String) -> Self {
        Self { method: Method::GET, path, body: None, capability: "read" }
    }

    pub(super) fn update(path: String, body: &impl Serialize) -> Self {
        // A vector that grows would leave copies behind.
        let mut json = Zeroizing::new(Vec::with_capacity(8 * 1024));
        serde_json::to_writer(&mut *json, body).expect("texts can be written as JSON");
        let body = Some(Bytes::from_owner(json));
        Self { method: Method::POST, path, body, capability: "update" }
    }

    pub(super) fn create(path: String, body: &impl Serialize) -> Self {
        Self { capability: "create", ..Self::update(path, body) }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// The body of an answer that was no refusal.
pub(super) struct Reply {
    path: String,
    body: Zeroizing<Vec<u8>>,
}

impl Reply {
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, VaultKeyManagerError> {
        // The parser's error may quote the body.
        serde_json::from_slice(&self.body)
            .map_err(|_| VaultKeyManagerError::Malformed { path: self.path.clone() })
    }
}

/// Requests to one server in one namespace.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    address: String,
    namespace: Option<HeaderValue>,
    deadline: Duration,
}

impl Api {
    /// No connection is opened yet.
    pub(super) fn new(config: &VaultKeyManagerConfig) -> Result<Self, VaultKeyManagerError> {
        let bad = VaultKeyManagerError::Config;
        if CryptoProvider::get_default().is_none() {
            // The HTTP client would panic.
            return Err(bad("the program has not installed a default provider for TLS".into()));
        }
        let mut builder = Client::builder()
            .user_agent(concat!("pganalytics-crypto/", env!("CARGO_PKG_VERSION")))
            // A redirect would carry the token to wherever it points.
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(config.deadline)
            .timeout(config.deadline);
        if let Some(pem) = &config.authorities {
            let authorities = Certificate::from_pem_bundle(pem)
                .map_err(|error| bad(format!("the authorities are no PEM: {}", chain(&error))))?;
            if authorities.is_empty() {
                return Err(bad("the authorities hold no certificate".into()));
            }
            builder = builder.tls_certs_only(authorities);
        } else if config.address.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|error| bad(format!("HTTP client: {}", chain(&error))))?;
        let namespace = config.namespace.as_deref().map(namespace).transpose()?;
        Ok(Self { client, address: address(&config.address)?, namespace, deadline: config.deadline })
    }

    /// Asks once.
    pub(super) async fn send(
        &self,
        token: Option<&HeaderValue>,
        request: &Request,
    ) -> Result<Reply, VaultKeyManagerError> {
        let url = format!("{}/v1/{}", self.address, request.path);
        let mut builder = self.client.request(request.method.clone(), url).header(REQUEST, "true");
        if let Some(namespace) = &self.namespace {
            builder = builder.header(NAMESPACE, namespace);
        }
        if let Some(token) = token {
            builder = builder.header(TOKEN, token);
        }
        if let Some(body) = &request.body {
            builder = builder.header("content-type", "application/json").body(body.clone());
        }
        let response = builder.send().await.map_err(|error| self.failed(&error))?;
        let status = response.status().as_u16();
        let body = self.body(response, &request.path).await?;
        match status {
            200..=299 => Ok(Reply { path: request.path.clone(), body }),
            _ => Err(refusal(request, status, &message(&body))),
        }
    }

    async fn body(
        &self,
        mut response: Response,
        path: &str,
    ) -> Result<Zeroizing<Vec<u8>>, VaultKeyManagerError> {
        // A vector that grows would leave copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(8 * 1024));
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(&error))? {
            if body.len() + chunk.len() > MAX_REPLY_BYTES {
                return Err(VaultKeyManagerError::Malformed { path: path.into() });
            }
            body.extend_from_slice(&chunk);
            if let Ok(mut chunk) = chunk.try_into_mut() {
                chunk.zeroize();
            }
        }
        Ok(body)
    }

    fn failed(&self, error: &reqwest::Error) -> VaultKeyManagerError {
        if error.is_timeout() {
            return VaultKeyManagerError::TimedOut { after: self.deadline };
        }
        VaultKeyManagerError::Unreachable { address: self.address.clone(), reason: chain(error) }
    }
}

/// A header value that is not printed; `None` for what cannot be one.
pub(super) fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Refuses what would not stay within one path.
pub(super) fn check_mount(mount: &str) -> Result<(), VaultKeyManagerError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let segment = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(allowed);
    if mount.split('/').all(segment) {
        return Ok(());
    }
    Err(VaultKeyManagerError::Config(format!(
        "`{mount}` is no mount: letters, digits, `-`, `_`, `.` and `/` between"
    )))
}

fn namespace(text: &str) -> Result<HeaderValue, VaultKeyManagerError> {
    HeaderValue::from_str(text).map_err(|_| VaultKeyManagerError::Config(format!("`{text}` is no namespace")))
}

fn address(url: &Url) -> Result<String, VaultKeyManagerError> {
    let bad = |what: &str| Err(VaultKeyManagerError::Config(format!("the address {what}")));
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return bad("names no host"),
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => return bad("must be https: http would show tokens and keys to the network"),
        _ => return bad("must be https"),
    }
    let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !bare || url.path() != "/" {
        return bad("must be scheme, host and port alone");
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn refusal(request: &Request, status: u16, message: &str) -> VaultKeyManagerError {
    let (path, message) = (request.path.clone(), message.to_owned());
    match status {
        403 => VaultKeyManagerError::Forbidden { path, capability: request.capability },
        503 if message.contains("sealed") => VaultKeyManagerError::Sealed,
        // A node that is not active points to another one; one that is behind says 412.
        300..=399 | 408 | 412 | 429 | 500..=599 => {
            VaultKeyManagerError::Unavailable { path, status, message }
        }
        _ => VaultKeyManagerError::Refused { path, status, message },
    }
}

/// What the server says of the fault, fit for one line of a log. It is empty where Vault says nothing, but not for what
/// somebody else says, such as a proxy.
fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    let errors = serde_json::from_slice::<Errors>(body).map(|body| body.errors.join(", "));
    let text = errors.unwrap_or_else(|_| "not an answer of Vault".into());
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(MAX_MESSAGE_CHARS).collect()
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_would_leak_or_mislead_are_refused() {
        let address = |text: &str| address(&text.parse().unwrap());
        assert_eq!(address("https://vault.example:8200/").unwrap(), "https://vault.example:8200");
        assert!(address("http://127.0.0.1:8200").is_ok());
        assert!(address("http://[::1]:8200").is_ok());
        for bad in [
            "http://vault.example:8200",
            "http://localhost.example",
            "https://user@vault.example",
            "https://vault.example/v1",
            "https://vault.example/?a=b",
            "ftp://vault.example",
            "unix:/run/vault",
        ] {
            assert!(matches!(address(bad), Err(VaultKeyManagerError::Config(_))), "{bad}");
        }
    }

    #[test]
    fn mounts_stay_within_their_path() {
        for good in ["transit", "team-a/transit", "kv_2.x"] {
            assert!(check_mount(good).is_ok(), "{good}");
        }
        for bad in ["", "/transit", "transit/", "a//b", "..", "a/../sys", "a?b", "a b", "a%2fb"] {
            assert!(check_mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn messages_fit_one_line() {
        assert_eq!(message(br#"{"errors":["a\nb","c"]}"#), "a b, c");
        assert_eq!(message(br#"{"errors":[]}"#), "");
        assert_eq!(message(b"<html>"), "not an answer of Vault");
        let long = format!(r#"{{"errors":["{}"]}}"#, "x".repeat(1000));
        assert_eq!(message(long.as_bytes()).len(), MAX_MESSAGE_CHARS);
    }
}
