//! The server's routes that a collector calls (wire contract, section 2), and what their answers mean.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use pganalytics_core::secret::SecretString;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::tls::{Certificate, Identity};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use rustls::crypto::CryptoProvider;
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::batch::Batch;
use super::config::{Compression, ServerSection};

/// Largest answer that is read. Configurations are the longest ones.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Talks to the server. Never follows redirects: they would carry the token elsewhere.
#[derive(Clone, Debug)]
pub(super) struct ServerClient {
    http: Client,
    base: String,
    compression: Compression,
}

/// What is sent at registration. The node's id makes it idempotent: the same node is the same collector again.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Registration<'a> {
    pub name: &'a str,
    pub hostname: &'a str,
    pub version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<&'a str>,
    pub node_id: Uuid,
}

/// The answer to a registration.
#[derive(Debug, Deserialize)]
pub(super) struct Registered {
    pub token: SecretString,
    #[serde(default)]
    pub collector_id: Option<String>,
    #[serde(default)]
    pub certificate: Option<String>,
    #[serde(default)]
    pub private_key: Option<SecretString>,
    #[serde(default, deserialize_with = "lenient_time")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// The answer to a refresh.
#[derive(Debug, Deserialize)]
pub(super) struct Refreshed {
    pub token: SecretString,
    #[serde(default, deserialize_with = "lenient_time")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// The answer to a push that was taken.
#[derive(Debug, Deserialize)]
pub(super) struct Pushed {
    status: String,
    pub metrics_inserted: u64,
    /// Entries that the server could not use, when it counts them.
    #[serde(default, deserialize_with = "lenient_count")]
    pub metrics_skipped: u64,
    #[serde(default, deserialize_with = "lenient_version")]
    pub next_config_version: Option<i64>,
}

/// The configuration that the server has for this collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigText {
    pub version: Option<i64>,
    pub text: String,
}

/// A call that did not bring what it was made for.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// 401 or 403.
    #[error("the server does not accept the {0}")]
    Unaccepted(Refusal),
    /// 413.
    #[error("the server finds it too large")]
    TooLarge,
    /// 400 or 422: the same request will be refused again.
    #[error("the server refuses it: {0}")]
    Refused(Refusal),
    /// Anything else that the server said.
    #[error("the server answers {answer}")]
    Later { answer: Refusal, retry_after: Option<Duration> },
    /// Nothing was heard.
    #[error("the server cannot be reached: {0}")]
    Transport(String),
    /// An answer that no pgAnalytics server gives: a proxy's page, a cut reply.
    #[error("the answer is not that of a pgAnalytics server: {0}")]
    Foreign(String),
}

/// A status and the message of an error body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: u16,
    message: String,
}

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub(super) struct ClientError {
    what: String,
    reason: String,
}

impl ServerClient {
    /// Makes a client; no connection yet. The client certificate, when there is one, is shown to servers that ask.
    ///
    /// # Errors
    /// When a certificate file cannot be used.
    pub(super) fn new(
        section: &ServerSection,
        identity: Option<(&str, &SecretString)>,
    ) -> Result<Self, ClientError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: reqwest::Error| ClientError { what, reason: chain(&error) }
        };
        if CryptoProvider::get_default().is_none() {
            // The HTTP client would panic.
            let reason = "the program has not installed a default provider".to_owned();
            return Err(ClientError { what: "TLS".into(), reason });
        }
        let mut builder = Client::builder()
            .user_agent(concat!("pganalytics-collector/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .connect_timeout(Duration::from_secs(section.connect_timeout_seconds))
            .timeout(Duration::from_secs(section.request_timeout_seconds))
            .pool_max_idle_per_host(1);
        if let Some(path) = &section.ca_file {
            let what = format!("`server.ca_file` {}", path.display());
            let pem = std::fs::read(path)
                .map_err(|error| ClientError { what: what.clone(), reason: error.to_string() })?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(failed(&what))?;
            if certificates.is_empty() {
                return Err(ClientError { what, reason: "holds no certificate".into() });
            }
            builder = builder.tls_certs_only(certificates);
        } else if section.url.scheme() == "http" {
            // The system's authorities take memory and are of no use here.
            builder = builder.tls_certs_only([]);
        }
        if let Some((certificate, key)) = identity {
            let pem = format!("{certificate}\n{}\n", key.expose());
            builder =
                builder.identity(Identity::from_pem(pem.as_bytes()).map_err(failed("client certificate"))?);
        }
        Ok(Self {
            http: builder.build().map_err(failed("HTTP client"))?,
            base: section.url.as_str().trim_end_matches('/').to_owned(),
            compression: section.compression,
        })
    }

    /// Registers this node with the registration secret.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub(super) async fn register(
        &self,
        registration: &Registration<'_>,
        secret: &SecretString,
    ) -> Result<Registered, CallError> {
        let mut secret = HeaderValue::from_bytes(secret.expose().as_bytes())
            .map_err(|_| CallError::Foreign("the registration secret cannot be sent in a header".into()))?;
        secret.set_sensitive(true);
        let request = self
            .http
            .post(self.url("/collectors/register"))
            .header("X-Registration-Secret", secret)
            .json(registration);
        let registered: Registered = parse(&send(request).await?.1)?;
        if registered.token.expose().is_empty() {
            return Err(CallError::Foreign("the token is empty".into()));
        }
        Ok(registered)
    }

    /// Changes the token for a new one.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub(super) async fn refresh(&self, token: &SecretString) -> Result<Refreshed, CallError> {
        let request = self
            .http
            .post(self.url("/collectors/refresh-token"))
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, bearer(token)?);
        let refreshed: Refreshed = parse(&send(request).await?.1)?;
        if refreshed.token.expose().is_empty() {
            return Err(CallError::Foreign("the token is empty".into()));
        }
        Ok(refreshed)
    }

    /// Sends a batch. Success is 200 or 201 with the server's counts, nothing less: a proxy's page must not delete
    /// what was collected.
    ///
    /// # Errors
    /// As [`CallError`] says; the batch was not taken, or it is not known whether it was.
    pub(super) async fn push(&self, batch: &Batch, token: &SecretString) -> Result<Pushed, CallError> {
        let request = self
            .http
            .post(self.url("/metrics/push"))
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, bearer(token)?)
            .header("Idempotency-Key", batch.head.key.to_string());
        let request = match self.compression {
            Compression::Gzip => request.header(CONTENT_ENCODING, "gzip").body(batch.body.clone()),
            Compression::None => {
                request.body(batch.inflate().map_err(|error| CallError::Foreign(error.to_string()))?)
            }
        };
        let pushed: Pushed = parse(&send(request).await?.1)?;
        if pushed.status != "success" {
            return Err(CallError::Foreign(format!("status {:?}", pushed.status)));
        }
        Ok(pushed)
    }

    /// Asks for this collector's configuration; nothing when the server has none.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub(super) async fn config(
        &self,
        collector_id: &str,
        token: &SecretString,
    ) -> Result<Option<ConfigText>, CallError> {
        let mut url = Url::parse(&self.url("/config/"))
            .map_err(|error| CallError::Foreign(format!("the URL of the configuration: {error}")))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(collector_id);
        }
        let request = self.http.get(url).header("Accept", "text/plain").header(AUTHORIZATION, bearer(token)?);
        let (headers, body) = match send(request).await {
            Ok(answer) => answer,
            Err(CallError::Later { answer, .. }) if answer.status == 404 => return Ok(None),
            Err(error) => return Err(error),
        };
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("text/plain");
        if !kind.starts_with("text/plain") {
            return Err(CallError::Foreign(format!("a configuration of type {kind}")));
        }
        let version = headers.get("X-Config-Version").and_then(|version| version.to_str().ok()?.parse().ok());
        let text = String::from_utf8(body.to_vec())
            .map_err(|_| CallError::Foreign("the configuration is not UTF-8".into()))?;
        // An empty body means no change.
        Ok((!text.trim().is_empty()).then_some(ConfigText { version, text }))
    }

    /// Asks whether the server is up; true when it says that all is well.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub(super) async fn health(&self) -> Result<(), CallError> {
        send(self.http.get(self.url("/health"))).await.map(drop)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/v1{path}", self.base)
    }
}

/// Sends a request and reads a good answer whole, or says what a bad one means.
async fn send(request: RequestBuilder) -> Result<(HeaderMap, Bytes), CallError> {
    let response = request.send().await.map_err(transport)?;
    let status = response.status();
    let headers = response.headers().clone();
    let body = read(response).await;
    match status {
        StatusCode::OK | StatusCode::CREATED => Ok((headers, body?)),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(CallError::Unaccepted(refusal(status, body))),
        StatusCode::PAYLOAD_TOO_LARGE => Err(CallError::TooLarge),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
            Err(CallError::Refused(refusal(status, body)))
        }
        _ => Err(CallError::Later { answer: refusal(status, body), retry_after: retry_after(&headers) }),
    }
}

async fn read(mut response: Response) -> Result<Bytes, CallError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(CallError::Foreign("it is larger than 1 MiB".into()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The message of an error body, as far as there is one.
fn refusal(status: StatusCode, body: Result<Bytes, CallError>) -> Refusal {
    #[derive(Deserialize)]
    struct ErrorBody {
        message: String,
        #[serde(default)]
        details: String,
    }

    let message = body.ok().and_then(|body| serde_json::from_slice::<ErrorBody>(&body).ok()).map(|error| {
        let text = if error.details.is_empty() {
            error.message
        } else {
            format!("{}: {}", error.message, error.details)
        };
        text.chars().filter(|letter| !letter.is_control()).take(500).collect()
    });
    Refusal { status: status.as_u16(), message: message.unwrap_or_default() }
}

/// Seconds or a date (RFC 9110, section 10.2.3). A date needs the time of now, which the server's own `Date` tells.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = DateTime::parse_from_rfc2822(text).ok()?;
    let now = DateTime::parse_from_rfc2822(headers.get("Date")?.to_str().ok()?).ok()?;
    (then - now).to_std().ok()
}

fn bearer(token: &SecretString) -> Result<HeaderValue, CallError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
        .map_err(|_| CallError::Foreign("the token cannot be sent in a header".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, CallError> {
    // The error's text may quote the body, which may hold a token: only its place is told.
    serde_json::from_slice(body).map_err(|error| {
        CallError::Foreign(format!(
            "{:?} error at line {} column {}",
            error.classify(),
            error.line(),
            error.column()
        ))
    })
}

fn transport(error: reqwest::Error) -> CallError {
    CallError::Transport(chain(&error))
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// What is only told in passing must not make an answer unreadable, whatever its type.
fn lenient_count<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_u64().unwrap_or(0))
}

fn lenient_version<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_i64())
}

fn lenient_time<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<DateTime<Utc>>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().and_then(|text| text.parse().ok()))
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => write!(f, "status {}", self.status),
            message => write!(f, "status {} ({message})", self.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        assert_eq!(retry_after(&headers(&[("retry-after", "7")])), Some(Duration::from_secs(7)));
        let date = headers(&[
            ("retry-after", "Sun, 22 Nov 2026 20:00:30 GMT"),
            ("date", "Sun, 22 Nov 2026 20:00:00 GMT"),
        ]);
        assert_eq!(retry_after(&date), Some(Duration::from_secs(30)));
        assert_eq!(retry_after(&headers(&[("retry-after", "soon")])), None);
    }

    #[test]
    fn counts_are_needed_and_everything_else_in_an_answer_is_optional() {
        let answer =
            r#"{"status":"success","metrics_inserted":3,"metrics_skipped":[1],"next_config_version":null}"#;
        let pushed: Pushed = parse(answer.as_bytes()).unwrap();
        assert_eq!(
            (pushed.metrics_inserted, pushed.metrics_skipped, pushed.next_config_version),
            (3, 0, None)
        );
        assert!(parse::<Pushed>(br#"{"status":"success"}"#).is_err());
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_not_repeated() {
        let error = parse::<Refreshed>(b"{\"token\":\"hunter2\" oops").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
