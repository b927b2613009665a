use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ConfigBuilder, RootCertStore, WantsVerifier};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::config::{SyslogConfig, SyslogConfigError, SyslogTls};

/// So long the runtime has to notice that the other side has hung up.
const NOTICED: Duration = Duration::from_millis(1);

/// So long a server has to refuse a client, which TLS 1.3 lets it do after the handshake has succeeded on our side.
const REFUSED: Duration = Duration::from_millis(100);

/// Opens connections.
#[derive(Clone)]
pub(super) struct Connector {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A connection on which every message so far was sent whole.
pub(super) struct Connection(Box<dyn Stream>);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Connector {
    pub(super) fn new(config: &SyslogConfig) -> Result<Self, SyslogConfigError> {
        let tls = config.tls.as_ref().map(|tls| {
            let name = tls.server_name.as_ref().unwrap_or(&config.host).clone();
            let name = ServerName::try_from(name).map_err(|error| SyslogConfigError::new("tls", error))?;
            let client =
                client_config(tls).map_err(|error| SyslogConfigError { setting: "tls", source: error })?;
            Ok((TlsConnector::from(Arc::new(client)), name))
        });
        Ok(Self { host: config.host.clone(), port: config.port, tls: tls.transpose()? })
    }

    pub(super) async fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Connection(Box::new(stream)),
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await?;
                let mut connection = Connection(Box::new(stream));
                connection.check_for(REFUSED).await?;
                connection
            }
        })
    }
}

impl Connection {
    /// Finds out whether the other side has hung up, as far as that can be known: what is sent to one that has is lost
    /// without an error.
    pub(super) async fn check(&mut self) -> io::Result<()> {
        self.check_for(NOTICED).await
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await?;
        self.check().await
    }

    async fn check_for(&mut self, limit: Duration) -> io::Result<()> {
        let mut buffer = [0; 256];
        loop {
            match timeout(limit, self.0.read(&mut buffer)).await {
                Err(_) => return Ok(()),
                Ok(Ok(0)) => return Err(io::ErrorKind::ConnectionAborted.into()),
                // Servers have nothing to say; what one says all the same is passed over.
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

fn client_config(tls: &SyslogTls) -> Result<ClientConfig, Box<dyn Error + Send + Sync>> {
    let builder: ConfigBuilder<ClientConfig, WantsVerifier> =
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots(tls)?);
    Ok(match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())?;
            builder.with_client_auth_cert(chain, key)?
        }
    })
}

fn roots(tls: &SyslogTls) -> Result<RootCertStore, Box<dyn Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    match &tls.authorities {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate?)?;
            }
        }
        None => {
            // Some systems keep certificates that cannot be read among good ones.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err("there is no authority to trust".into());
    }
    Ok(roots)
}
