use std::path::{Path, PathBuf};
use std::time::Duration;

use pganalytics_core::keys::KeyName;
use pganalytics_core::secret::SecretString;
use url::Url;
use zeroize::Zeroizing;

use super::error::VaultKeyManagerError;

const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
const MAX_CREDENTIAL_BYTES: usize = 64 * 1024;

/// Which server wraps, and how to log in there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VaultKeyManagerConfig {
    /// Scheme, host and port. `http` only to loopback.
    pub address: Url,
    /// How to log in.
    pub auth: VaultAuth,
    /// Where the transit engine is mounted: `transit`.
    pub mount: String,
    /// The namespace of engine and login.
    pub namespace: Option<String>,
    /// Certificates (PEM) of the authorities to accept instead of the system's.
    pub authorities: Option<Vec<u8>>,
    /// How long a call may take in all: login, what it asks, and once more after a fresh login. Five seconds.
    pub deadline: Duration,
    /// Keys that `connect` makes if they are missing. For development: in production a missing key is a mistake, and a fresh
    /// one would hide it until nothing can be decrypted.
    pub create_if_missing: Vec<KeyName>,
}

/// How to log in. Every mount is the path below `auth/`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum VaultAuth {
    /// A token that was made elsewhere.
    Token(VaultSecret),
    /// AppRole.
    AppRole {
        /// Where the method is mounted: `approle`.
        mount: String,
        /// The role's id.
        role_id: String,
        /// The secret that goes with it.
        secret_id: VaultSecret,
    },
    /// The service account of a pod.
    Kubernetes {
        /// Where the method is mounted: `kubernetes`.
        mount: String,
        /// The role.
        role: String,
        /// The projected token, read anew at each login since the kubelet replaces it.
        token_file: PathBuf,
    },
}

/// A credential, or where it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum VaultSecret {
    /// The credential itself.
    Value(SecretString),
    /// A file that holds it, read anew at each login. White space around it is not part of it.
    File(PathBuf),
}

impl VaultKeyManagerConfig {
    /// The engine at `transit`, without a namespace, the system's authorities, and nothing made.
    pub fn new(address: Url, auth: VaultAuth) -> Self {
        Self {
            address,
            auth,
            mount: "transit".into(),
            namespace: None,
            authorities: None,
            deadline: DEFAULT_DEADLINE,
            create_if_missing: Vec::new(),
        }
    }

    /// Takes the transit engine that is mounted there.
    #[must_use]
    pub fn with_mount(self, mount: impl Into<String>) -> Self {
        Self { mount: mount.into(), ..self }
    }

    /// Works in this namespace.
    #[must_use]
    pub fn with_namespace(self, namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..self }
    }

    /// Accepts these authorities (PEM) and no others.
    #[must_use]
    pub fn with_authorities(self, pem: impl Into<Vec<u8>>) -> Self {
        Self { authorities: Some(pem.into()), ..self }
    }

    /// Gives each call this long.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Makes these keys if they are missing.
    #[must_use]
    pub fn creating(self, keys: impl IntoIterator<Item = KeyName>) -> Self {
        Self { create_if_missing: keys.into_iter().collect(), ..self }
    }
}

impl VaultAuth {
    /// The method's usual mount, `approle`.
    pub fn app_role(role_id: impl Into<String>, secret_id: VaultSecret) -> Self {
        Self::AppRole { mount: "approle".into(), role_id: role_id.into(), secret_id }
    }

    /// The method's usual mount, `kubernetes`, and the file where a pod finds its token.
    pub fn kubernetes(role: impl Into<String>) -> Self {
        Self::Kubernetes {
            mount: "kubernetes".into(),
            role: role.into(),
            token_file: "/var/run/secrets/kubernetes.io/serviceaccount/token".into(),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::AppRole { .. } => "AppRole",
            Self::Kubernetes { .. } => "Kubernetes",
        }
    }
}

impl VaultSecret {
    pub(super) async fn read(&self) -> Result<Zeroizing<String>, VaultKeyManagerError> {
        match self {
            Self::Value(secret) => Ok(Zeroizing::new(secret.expose().trim().to_owned())),
            Self::File(path) => read_credential(path).await,
        }
    }
}

pub(super) async fn read_credential(path: &Path) -> Result<Zeroizing<String>, VaultKeyManagerError> {
    let unusable = |reason: String| VaultKeyManagerError::Credential { path: path.into(), reason };
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read(owned)).await;
    let bytes =
        read.map_err(|_| unusable("interrupted".into()))?.map_err(|error| unusable(error.to_string()))?;
    let bytes = Zeroizing::new(bytes);
    if bytes.len() > MAX_CREDENTIAL_BYTES {
        return Err(unusable(format!("larger than {MAX_CREDENTIAL_BYTES} bytes")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| unusable("no text".into()))?.trim();
    if text.is_empty() {
        return Err(unusable("empty".into()));
    }
    Ok(Zeroizing::new(text.to_owned()))
}
