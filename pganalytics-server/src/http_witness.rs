//! A witness that is asked over HTTP.

use std::time::Duration;

use async_trait::async_trait;
use pganalytics_core::error::BackendError;
use pganalytics_core::tlog::{AddCheckpoint, Witness, WitnessError, WitnessVerdict};
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Response};
use rustls::crypto::CryptoProvider;
use url::{Host, Url};

const NAME: &str = "http witness";

/// A hundred signature lines, and room.
const REPLY_MAX_BYTES: usize = 64 * 1024;

/// A [`Witness`] behind `<url>/add-checkpoint` (c2sp.org/tlog-witness).
#[derive(Clone, Debug)]
pub struct HttpWitness {
    client: Client,
    url: Url,
}

/// Why a witness cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHttpWitness {
    /// The address would let others answer in the place of the witness, or is none.
    #[error("`{0}` is no address of a witness: https, or http to this machine, without a query")]
    Address(Url),
    /// The program has installed no provider of TLS, without which the HTTP client would panic.
    #[error("the program has not installed a default provider for TLS")]
    NoTls,
    /// The authorities are none.
    #[error("the authorities are no certificates in PEM")]
    Authorities(#[source] reqwest::Error),
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
}

impl HttpWitness {
    /// Asks the witness with this submission prefix, believing these authorities (PEM), or those of the system. No connection is
    /// opened yet.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn new(
        prefix: &Url,
        authorities: Option<&[u8]>,
        timeout: Duration,
    ) -> Result<Self, InvalidHttpWitness> {
        let url = address(prefix)?;
        if CryptoProvider::get_default().is_none() {
            return Err(InvalidHttpWitness::NoTls);
        }
        let mut builder = Client::builder()
            .user_agent(concat!("pganalytics/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(timeout)
            .timeout(timeout);
        if let Some(pem) = authorities {
            let authorities = Certificate::from_pem_bundle(pem).map_err(InvalidHttpWitness::Authorities)?;
            builder = builder.tls_certs_only(authorities);
        } else if url.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        Ok(Self { client: builder.build().map_err(InvalidHttpWitness::Client)?, url })
    }
}

#[async_trait]
impl Witness for HttpWitness {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn add_checkpoint(&self, request: &AddCheckpoint) -> Result<WitnessVerdict, WitnessError> {
        let post = self.client.post(self.url.clone()).header(CONTENT_TYPE, "text/plain; charset=utf-8");
        let response = post.body(request.to_string()).send().await.map_err(later)?;
        let status = response.status().as_u16();
        let body = read(response).await?;
        WitnessVerdict::of_answer(request, status, &body).ok_or_else(|| {
            let said = format!("{} answered {status}, which is no verdict of a witness", self.url);
            let is_passing = matches!(status, 408 | 429 | 500..);
            if is_passing { BackendError::later(NAME, said) } else { BackendError::never(NAME, said) }.into()
        })
    }
}

async fn read(mut response: Response) -> Result<Vec<u8>, WitnessError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(later)? {
        body.extend_from_slice(&chunk);
        if body.len() > REPLY_MAX_BYTES {
            return Err(BackendError::never(NAME, "the answer is too long").into());
        }
    }
    Ok(body)
}

fn later(error: reqwest::Error) -> WitnessError {
    BackendError::later(NAME, error).into()
}

/// Over plain HTTP others could answer in the place of the witness: cosign they could not, but raise false alarms.
fn address(prefix: &Url) -> Result<Url, InvalidHttpWitness> {
    let is_loopback = match prefix.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let is_private = prefix.scheme() == "https" || (prefix.scheme() == "http" && is_loopback);
    let is_bare = prefix.username().is_empty()
        && prefix.password().is_none()
        && prefix.query().is_none()
        && prefix.fragment().is_none();
    let mut url = prefix.clone();
    if !is_private || !is_bare {
        return Err(InvalidHttpWitness::Address(url));
    }
    let path = format!("{}/add-checkpoint", prefix.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_where_others_could_answer_are_refused() {
        let address = |text: &str| address(&text.parse().unwrap()).map(|url| url.to_string());
        let prefix = "https://b.example/api/v1/audit/witness";
        assert_eq!(address(prefix).unwrap(), format!("{prefix}/add-checkpoint"));
        assert_eq!(address("https://b.example/w/").unwrap(), "https://b.example/w/add-checkpoint");
        assert_eq!(address("https://b.example").unwrap(), "https://b.example/add-checkpoint");
        assert!(address("http://127.0.0.1:8080/w").is_ok());
        assert!(address("http://[::1]:8080/w").is_ok());
        for bad in [
            "http://b.example/w",
            "http://localhost.example",
            "https://user@b.example",
            "https://b.example/?a=b",
            "https://b.example/#a",
            "ftp://b.example",
            "unix:/run/witness",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
