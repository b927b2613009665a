use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::bounded::{Bounded, Seconds};
use crate::secret_ref::SecretRef;

/// Where the keys are that wrap all others: `type` is `file`, `env` or `vault`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum KeyManagerConfig {
    /// Keys in a folder of this machine.
    File(FileKeyManagerConfig),
    /// Keys in environment variables.
    Env(EnvKeyManagerConfig),
    /// The transit engine of Vault or OpenBao. The keys never leave it.
    Vault(Box<VaultKeyManagerConfig>),
}

impl Default for KeyManagerConfig {
    fn default() -> Self {
        Self::File(FileKeyManagerConfig::default())
    }
}

/// Keys in a folder of this machine.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FileKeyManagerConfig {
    /// The folder; readable by nobody but the server's user.
    pub path: PathBuf,
    /// Whether the group of folder and files may read them, as in a Secret that Kubernetes mounts with `fsGroup`.
    pub allow_group_read: bool,
}

impl Default for FileKeyManagerConfig {
    fn default() -> Self {
        Self { path: "/etc/pganalytics/keys".into(), allow_group_read: false }
    }
}

/// Keys in environment variables.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EnvKeyManagerConfig {
    /// What their names begin with: version 1 of the key `data` is `<prefix>_DATA_V1`, 32 bytes in base64 or hex.
    pub prefix: String,
}

impl Default for EnvKeyManagerConfig {
    fn default() -> Self {
        Self { prefix: "PGANALYTICS_KEY".into() }
    }
}

/// The transit engine of Vault or OpenBao.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultKeyManagerConfig {
    /// Scheme, host and port. `http` only to loopback.
    #[schemars(with = "Url")]
    pub address: Url,
    /// How to log in.
    pub login: VaultLogin,
    /// Where the transit engine is mounted.
    #[serde(default = "transit")]
    pub mount: String,
    /// The namespace of engine and login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Stands before the name of each key: `pganalytics-` makes them `pganalytics-signing` and `pganalytics-data`.
    #[serde(default = "key_prefix")]
    pub key_prefix: String,
    /// A file with the authorities to trust, as PEM; those of the system if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_authorities: Option<PathBuf>,
    /// Milliseconds that a call may take, login included.
    #[serde(default = "deadline")]
    pub deadline_milliseconds: Bounded<100, 60_000>,
}

/// How to log in: `type` is `token`, `app_role` or `kubernetes`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum VaultLogin {
    /// A token that was made elsewhere.
    Token(VaultToken),
    /// AppRole.
    AppRole(VaultAppRole),
    /// The service account of a pod.
    Kubernetes(VaultKubernetes),
}

/// A token that was made elsewhere.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultToken {
    /// The token. A file is read anew at each login.
    pub token: SecretRef,
}

/// AppRole.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultAppRole {
    /// The role's id.
    pub role_id: String,
    /// The secret that goes with it. A file is read anew at each login.
    pub secret_id: SecretRef,
}

/// The service account of a pod.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultKubernetes {
    /// The role.
    pub role: String,
}

fn transit() -> String {
    "transit".into()
}

fn key_prefix() -> String {
    "pganalytics-".into()
}

fn deadline() -> Bounded<100, 60_000> {
    Bounded::new(5_000)
}

/// The data keys, which seal secrets in the database. Each is wrapped by the key `data` of `keys`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EncryptionConfig {
    /// The recovery key, `age1…`, to which every data key is wrapped besides. `pganalytics-api keys recovery init` makes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_recipient: Option<String>,
    /// Seconds that an unwrapped data key stays in memory.
    pub key_cache_seconds: Seconds<1, 86_400>,
    /// Seconds beyond that during which it goes on serving while the key service is away.
    pub outage_grace_seconds: Seconds<0, 604_800>,
    /// Days that a retired data key is kept before it can be destroyed. Backups that are older need it.
    pub destroy_after_days: Bounded<0, 3650>,
    /// The oldest version of each purpose's data keys that is accepted, by purpose. Whoever can write the database can bring
    /// an old key back, but not past this.
    pub minimum_key_versions: BTreeMap<String, u32>,
}

impl Default for EncryptionConfig {
    fn default() -> Self {
        Self {
            recovery_recipient: None,
            key_cache_seconds: Bounded::new(900),
            outage_grace_seconds: Bounded::new(3_600),
            destroy_after_days: Bounded::new(90),
            minimum_key_versions: BTreeMap::new(),
        }
    }
}
