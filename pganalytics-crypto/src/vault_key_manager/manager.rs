use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pganalytics_core::keys::{
    DATA_KEY_BYTES, DataKey, KeyContext, KeyError, KeyManager, KeyName, KeyVersion, WrappedKey,
};
use pganalytics_core::secret::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::blob;
use super::config::{VaultAuth, VaultKeyManagerConfig};
use super::error::{NAME, VaultKeyManagerError};
use super::http::{Api, Request, check_mount};
use super::login::Sessions;

/// The types of transit keys that detect a change and that nobody but the server can encrypt with.
const SUITABLE_TYPES: [&str; 4] = ["aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305", "aes128-gcm96"];
const NEW_TYPE: &str = "aes256-gcm96";

/// A [`KeyManager`] over the transit engine of HashiCorp Vault or OpenBao. Clones share their login.
#[derive(Clone)]
pub struct VaultKeyManager {
    sessions: Arc<Sessions>,
    address: Arc<str>,
    mount: Arc<str>,
    deadline: Duration,
}

/// A key as the engine describes it.
#[derive(Deserialize)]
struct TransitKey {
    #[serde(rename = "type")]
    kind: String,
    derived: bool,
    latest_version: u32,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct Ciphertext {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Plaintext {
    plaintext: SecretString,
}

#[derive(Serialize)]
struct Encrypt<'a> {
    plaintext: &'a str,
}

#[derive(Serialize)]
struct Decrypt<'a> {
    ciphertext: &'a str,
}

impl VaultKeyManager {
    /// A manager that logs in when it is first asked. `create_if_missing` is left to [`connect`](Self::connect).
    ///
    /// # Errors
    /// `Config` when the configuration cannot work, or when the process has no default TLS provider.
    pub fn new(config: &VaultKeyManagerConfig) -> Result<Self, VaultKeyManagerError> {
        check_mount(&config.mount)?;
        if let VaultAuth::AppRole { mount, .. } | VaultAuth::Kubernetes { mount, .. } = &config.auth {
            check_mount(mount)?;
        }
        Ok(Self {
            sessions: Arc::new(Sessions::new(Api::new(config)?, config.auth.clone())),
            address: config.address.as_str().trim_end_matches('/').into(),
            mount: config.mount.as_str().into(),
            deadline: config.deadline,
        })
    }

    /// A manager that has logged in, and made the keys that it is to make.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when the server cannot be reached, refuses the login, or does not let keys be made.
    pub async fn connect(config: &VaultKeyManagerConfig) -> Result<Self, VaultKeyManagerError> {
        let manager = Self::new(config)?;
        manager.within(manager.sessions.open()).await?;
        for key in &config.create_if_missing {
            match manager.create(key).await {
                Ok(()) | Err(VaultKeyManagerError::Exists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(manager)
    }

    /// Makes a key that cannot be exported, for set-up. It needs `create` on `<mount>/keys/<key>`.
    ///
    /// # Errors
    /// `Exists` if there is one of that name; otherwise when the server cannot be asked or refuses.
    pub async fn create(&self, key: &KeyName) -> Result<(), VaultKeyManagerError> {
        let work = async {
            match self.describe(key).await {
                Ok(_) => return Err(VaultKeyManagerError::Exists { key: key.clone() }),
                Err(VaultKeyManagerError::UnknownKey { .. }) => {}
                Err(error) => return Err(error),
            }
            let request = Request::create(self.path("keys", key), &json!({ "type": NEW_TYPE }));
            self.sessions.call(&request).await.map(drop)
        };
        self.within(work).await
    }

    /// Adds a version to a key, which wraps from now on. Earlier versions go on unwrapping. It needs `update` on
    /// `<mount>/keys/<key>/rotate`.
    ///
    /// # Errors
    /// `UnknownKey` if there is no such key; otherwise when the server cannot be asked or refuses.
    pub async fn rotate(&self, key: &KeyName) -> Result<KeyVersion, VaultKeyManagerError> {
        let work = async {
            // Older servers do not say by the refusal that there is no such key.
            self.describe(key).await?;
            let request = Request::update(format!("{}/rotate", self.path("keys", key)), &json!({}));
            self.sessions.call(&request).await?;
            Ok(KeyVersion(self.describe(key).await?.latest_version))
        };
        self.within(work).await
    }

    /// A key that can wrap.
    async fn describe(&self, key: &KeyName) -> Result<TransitKey, VaultKeyManagerError> {
        let reply = self.sessions.call(&Request::read(self.path("keys", key))).await;
        let reply = reply.map_err(|error| match error {
            // With a message it is the engine that is missing.
            VaultKeyManagerError::Refused { status: 404, message, .. } if message.is_empty() => {
                VaultKeyManagerError::UnknownKey { key: key.clone() }
            }
            other => other,
        })?;
        let found: TransitKey = reply.parse::<Data<TransitKey>>()?.data;
        let unusable = |reason| Err(VaultKeyManagerError::UnusableKey { key: key.clone(), reason });
        if !SUITABLE_TYPES.contains(&found.kind.as_str()) {
            return unusable(format!(
                "its type is `{}`, not one of {}",
                found.kind,
                SUITABLE_TYPES.join(", ")
            ));
        }
        if found.derived {
            return unusable("it is one that others are derived from".into());
        }
        Ok(found)
    }

    async fn encrypt(
        &self,
        key: &KeyName,
        context: &KeyContext,
        data_key: &DataKey,
    ) -> Result<WrappedKey, VaultKeyManagerError> {
        // A token that may make keys would make the missing one by wrapping with it.
        self.describe(key).await?;
        let payload = Zeroizing::new([data_key.expose(), context.0.as_bytes()].concat());
        let plaintext = Zeroizing::new(STANDARD.encode(&payload));
        self.reencrypted(key, "encrypt", &Encrypt { plaintext: &plaintext }).await
    }

    /// Asks for a ciphertext.
    async fn reencrypted(
        &self,
        key: &KeyName,
        operation: &str,
        body: &impl Serialize,
    ) -> Result<WrappedKey, VaultKeyManagerError> {
        let request = Request::update(self.path(operation, key), body);
        let reply = self.sessions.call(&request).await.map_err(|error| known_missing(key, error))?;
        let ciphertext = reply.parse::<Data<Ciphertext>>()?.data.ciphertext;
        let malformed = || VaultKeyManagerError::Malformed { path: request.path().into() };
        blob::encode(&ciphertext).ok_or_else(malformed)
    }

    /// The ciphertext of a blob and what it holds; `None` if it is not what was wrapped by this key for this context.
    async fn decrypt(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<Option<(String, DataKey)>, VaultKeyManagerError> {
        let Some(ciphertext) = blob::decode(&wrapped.blob) else { return Ok(None) };
        let request = Request::update(self.path("decrypt", key), &Decrypt { ciphertext: &ciphertext });
        let plaintext = match self.sessions.call(&request).await {
            Ok(reply) => reply.parse::<Data<Plaintext>>()?.data.plaintext,
            Err(VaultKeyManagerError::Refused { status: 400, message, .. }) if is_verdict(&message) => {
                return Ok(None);
            }
            Err(error) => return Err(known_missing(key, error)),
        };
        let malformed = |_| VaultKeyManagerError::Malformed { path: request.path().into() };
        let payload = STANDARD.decode(plaintext.expose()).map(Zeroizing::new).map_err(malformed)?;
        let parts = payload.split_at_checked(DATA_KEY_BYTES);
        let fitting = parts.filter(|(_, wrapped_for)| bool::from(wrapped_for.ct_eq(context.0.as_bytes())));
        let data_key = fitting.and_then(|(bytes, _)| DataKey::from_bytes(bytes.to_vec()));
        Ok(data_key.map(|data_key| (ciphertext, data_key)))
    }

    fn path(&self, operation: &str, key: &KeyName) -> String {
        format!("{}/{operation}/{key}", self.mount)
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, VaultKeyManagerError>>,
    ) -> Result<T, VaultKeyManagerError> {
        let late = |_| VaultKeyManagerError::TimedOut { after: self.deadline };
        timeout(self.deadline, work).await.map_err(late)?
    }
}

impl fmt::Debug for VaultKeyManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultKeyManager")
            .field("address", &self.address)
            .field("mount", &self.mount)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyManager for VaultKeyManager {
    fn name(&self) -> &'static str {
        NAME
    }

    /// The data key comes from the operating system and not from transit's `datakey`, which has no place for the context.
    async fn generate(&self, key: &KeyName, context: &KeyContext) -> Result<(DataKey, WrappedKey), KeyError> {
        let data_key = DataKey::generate();
        let wrapped = self.wrap(key, context, &data_key).await?;
        Ok((data_key, wrapped))
    }

    async fn wrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        data_key: &DataKey,
    ) -> Result<WrappedKey, KeyError> {
        Ok(self.within(self.encrypt(key, context, data_key)).await?)
    }

    async fn unwrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<DataKey, KeyError> {
        let found = self.within(self.decrypt(key, context, wrapped)).await?;
        let (_, data_key) = found.ok_or_else(|| KeyError::Undecryptable { key: key.clone() })?;
        Ok(data_key)
    }

    async fn rewrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<WrappedKey, KeyError> {
        let work = async {
            // Transit would rewrap for any context.
            let Some((ciphertext, _)) = self.decrypt(key, context, wrapped).await? else { return Ok(None) };
            self.reencrypted(key, "rewrap", &Decrypt { ciphertext: &ciphertext }).await.map(Some)
        };
        self.within(work).await?.ok_or_else(|| KeyError::Undecryptable { key: key.clone() })
    }

    async fn current_version(&self, key: &KeyName) -> Result<Option<KeyVersion>, KeyError> {
        let found = self.within(self.describe(key)).await?;
        Ok(Some(KeyVersion(found.latest_version)))
    }
}

/// Whether transit says that the ciphertext is none of this key's. Anything else that it may refuse is no verdict: callers
/// destroy data on one.
fn is_verdict(message: &str) -> bool {
    message.contains("invalid ciphertext") || message.contains("message authentication failed")
}

fn known_missing(key: &KeyName, error: VaultKeyManagerError) -> VaultKeyManagerError {
    match error {
        VaultKeyManagerError::Refused { status: 400, message, .. }
            if message.contains("encryption key not found") =>
        {
            VaultKeyManagerError::UnknownKey { key: key.clone() }
        }
        other => other,
    }
}
