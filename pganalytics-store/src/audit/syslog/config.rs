use std::error::Error;
use std::fmt;
use std::time::Duration;

use pganalytics_core::secret::SecretString;

/// A message shorter than this could not even say which event it is about.
const MESSAGE_MIN_BYTES: usize = 1024;

/// Where the syslog server is, and how to speak to it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SyslogConfig {
    /// A name or an IP address.
    pub host: String,
    /// The port: usually 6514 with TLS, 601 without.
    pub port: u16,
    /// TLS; none when left out.
    pub tls: Option<SyslogTls>,
    /// The facility, 0 to 23: 13, log audit, unless told otherwise.
    pub facility: u8,
    /// The name of this host; `-` when left out.
    pub hostname: Option<String>,
    /// The name of the program: `pganalytics` unless told otherwise.
    pub app_name: String,
    /// The name of the structured data, `pganalytics@32473` unless told otherwise. The number after the `@` is to be your
    /// organisation's private enterprise number; this one stands for examples (RFC 5612).
    pub structured_data_id: String,
    /// The largest message, 8 KiB unless told otherwise, which is what receivers should take (RFC 5425). Larger ones are
    /// shortened, and say so.
    pub max_message_bytes: usize,
    /// The longest that a batch takes, with connecting: 10 seconds unless told otherwise.
    pub deadline: Duration,
}

/// Whom to trust, and as whom to appear.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct SyslogTls {
    /// Authorities as PEM; those of the system when left out.
    pub authorities: Option<Vec<u8>>,
    /// A certificate and its key as PEM, for servers that ask for one.
    pub identity: Option<(Vec<u8>, SecretString)>,
    /// The name in the server's certificate; the host when left out.
    pub server_name: Option<String>,
}

/// A configuration that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("the setting `{setting}` of syslog cannot be used")]
pub struct SyslogConfigError {
    /// Which setting.
    pub setting: &'static str,
    /// Why.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

impl SyslogConfig {
    /// The defaults for this server.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            tls: None,
            facility: 13,
            hostname: None,
            app_name: "pganalytics".to_owned(),
            structured_data_id: "pganalytics@32473".to_owned(),
            max_message_bytes: 8192,
            deadline: Duration::from_secs(10),
        }
    }

    /// Speaks TLS.
    #[must_use]
    pub fn with_tls(self, tls: SyslogTls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Sets the facility.
    #[must_use]
    pub fn with_facility(self, facility: u8) -> Self {
        Self { facility, ..self }
    }

    /// Sets the name of this host.
    #[must_use]
    pub fn with_hostname(self, hostname: impl Into<String>) -> Self {
        Self { hostname: Some(hostname.into()), ..self }
    }

    /// Sets the name of the program.
    #[must_use]
    pub fn with_app_name(self, app_name: impl Into<String>) -> Self {
        Self { app_name: app_name.into(), ..self }
    }

    /// Sets the name of the structured data.
    #[must_use]
    pub fn with_structured_data_id(self, id: impl Into<String>) -> Self {
        Self { structured_data_id: id.into(), ..self }
    }

    /// Sets the largest message, in bytes.
    #[must_use]
    pub fn with_max_message_bytes(self, max_message_bytes: usize) -> Self {
        Self { max_message_bytes, ..self }
    }

    /// Sets the longest that a batch takes.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    pub(super) fn check(&self) -> Result<(), SyslogConfigError> {
        let hostname = self.hostname.as_deref().unwrap_or("-");
        for (setting, text, longest) in [
            ("hostname", hostname, 255),
            ("app_name", &self.app_name, 48),
            ("structured_data_id", &self.structured_data_id, 32),
        ] {
            let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
            if text.is_empty() || text.len() > longest || !visible {
                let why = format!("it is not 1 to {longest} visible ASCII characters");
                return Err(SyslogConfigError::new(setting, why));
            }
        }
        if self.structured_data_id.contains(['=', ']', '"']) {
            return Err(SyslogConfigError::new("structured_data_id", "it contains `=`, `]` or `\"`"));
        }
        if self.facility > 23 {
            return Err(SyslogConfigError::new("facility", "it is not 0 to 23"));
        }
        if self.max_message_bytes < MESSAGE_MIN_BYTES {
            let why = format!("it is less than {MESSAGE_MIN_BYTES} bytes");
            return Err(SyslogConfigError::new("max_message_bytes", why));
        }
        Ok(())
    }
}

impl SyslogTls {
    /// Trusts the system's authorities.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these authorities alone, as PEM.
    #[must_use]
    pub fn with_authorities(self, pem: impl Into<Vec<u8>>) -> Self {
        Self { authorities: Some(pem.into()), ..self }
    }

    /// Appears with a certificate and its key, as PEM.
    #[must_use]
    pub fn with_identity(self, certificate: impl Into<Vec<u8>>, key: SecretString) -> Self {
        Self { identity: Some((certificate.into(), key)), ..self }
    }

    /// Sets the name in the server's certificate.
    #[must_use]
    pub fn with_server_name(self, server_name: impl Into<String>) -> Self {
        Self { server_name: Some(server_name.into()), ..self }
    }
}

impl fmt::Debug for SyslogTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyslogTls")
            .field("own_authorities", &self.authorities.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}

impl SyslogConfigError {
    pub(super) fn new(setting: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { setting, source: source.into() }
    }
}
