//! What the collector remembers between runs: who it is, its token, the configuration it was given. A folder that only
//! its owner can read, locked by the process that uses it.

use std::fmt;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::random::{Random, RandomExt};
use pganalytics_core::secret::SecretString;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::spool::write_atomically;

/// The state folder, held by this process until it is dropped.
#[derive(Debug)]
pub(super) struct StateFolder {
    path: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    /// Two processes would send the same batches and overwrite each other's token.
    #[error("state folder {} is in use by another collector", path.display())]
    InUse { path: PathBuf },
    #[error("{} cannot be {verb}", path.display())]
    File {
        path: PathBuf,
        verb: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{} is not what the collector wrote; move it away to register anew", path.display())]
    Content {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// What the server gave at registration or refresh.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Credentials {
    pub collector_id: String,
    #[serde(serialize_with = "expose")]
    pub token: SecretString,
    pub obtained_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    /// The client certificate and its key, PEM.
    pub certificate: Option<String>,
    #[serde(serialize_with = "expose_some")]
    pub private_key: Option<SecretString>,
}

/// The configuration text that the server gave last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredConfig {
    pub version: Option<i64>,
    pub text: String,
}

impl StateFolder {
    /// Makes the folder when there is none, and takes it for this process.
    ///
    /// # Errors
    /// When another process has it, or it cannot be made or written.
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::File { path: path.to_owned(), verb: "opened", source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The node's own id, made once.
    ///
    /// # Errors
    /// When it cannot be read or stored.
    pub(super) fn node_id(&self, clock: &dyn Clock, random: &dyn Random) -> Result<Uuid, StateError> {
        let path = self.path.join("node-id");
        let failed = |verb| {
            let path = path.clone();
            move |source| StateError::File { path, verb, source }
        };
        match fs::read_to_string(&path) {
            Ok(text) => text
                .trim()
                .parse()
                .map_err(|error| failed("understood")(io::Error::new(io::ErrorKind::InvalidData, error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = random.uuid_v7(clock);
                write_atomically(&path, format!("{id}\n").as_bytes(), true, 0o600)
                    .map_err(failed("written"))?;
                Ok(id)
            }
            Err(error) => Err(failed("read")(error)),
        }
    }

    /// The folder of the spool, unless it is configured elsewhere.
    pub(super) fn spool_folder(&self) -> PathBuf {
        self.path.join("spool")
    }

    /// The stored credentials.
    ///
    /// # Errors
    /// When there is a file that cannot be read or understood.
    pub(super) fn credentials(&self) -> Result<Option<Credentials>, StateError> {
        read_credentials(&self.path)
    }

    /// Stores credentials. When that fails, the old ones are still there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn store_credentials(&self, credentials: &Credentials) -> Result<(), StateError> {
        self.store("credentials.json", credentials)
    }

    /// The configuration that the server gave last.
    ///
    /// # Errors
    /// When there is a file that cannot be read or understood.
    pub(super) fn stored_config(&self) -> Result<Option<StoredConfig>, StateError> {
        read_json(&self.path.join("server-config.json"))
    }

    /// Stores the configuration, for a start without a server.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn store_config(&self, config: &StoredConfig) -> Result<(), StateError> {
        self.store("server-config.json", config)
    }

    fn store(&self, name: &str, content: &impl Serialize) -> Result<(), StateError> {
        let path = self.path.join(name);
        let text = serde_json::to_vec_pretty(content).expect("state is JSON");
        write_atomically(&path, &text, true, 0o600).map_err(|source| StateError::File {
            path,
            verb: "written",
            source,
        })
    }
}

/// Reads the credentials of a state folder that another process may hold.
///
/// # Errors
/// When there is a file that cannot be read or understood.
pub(super) fn read_credentials(folder: &Path) -> Result<Option<Credentials>, StateError> {
    read_json(&folder.join("credentials.json"))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| StateError::Content { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::File { path: path.to_owned(), verb: "read", source }),
    }
}

impl Credentials {
    /// Whether the token should be changed for a new one: in the last third of its life, and at the latest a minute
    /// before its end.
    pub(super) fn wants_refresh(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|end| {
            let life = end - self.obtained_at;
            now >= (self.obtained_at + life * 2 / 3).min(end - TimeDelta::minutes(1))
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("collector_id", &self.collector_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

fn expose<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

fn expose_some<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(SecretString::expose).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use pganalytics_core::clock::SystemClock;
    use pganalytics_core::random::OsRandom;

    use super::*;

    fn credentials(token: &str) -> Credentials {
        Credentials {
            collector_id: "c1".into(),
            token: SecretString::new(token),
            obtained_at: DateTime::UNIX_EPOCH,
            expires_at: DateTime::from_timestamp(1800, 0),
            certificate: Some("PEM".into()),
            private_key: Some(SecretString::new("KEY")),
        }
    }

    #[test]
    fn the_node_id_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let id = StateFolder::open(folder.path()).unwrap().node_id(&SystemClock, &OsRandom).unwrap();
        let again = StateFolder::open(folder.path()).unwrap().node_id(&SystemClock, &OsRandom).unwrap();
        assert_eq!(id, again);
    }

    #[test]
    fn a_second_process_is_refused_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let held = StateFolder::open(folder.path()).unwrap();
        assert!(matches!(StateFolder::open(folder.path()), Err(StateError::InUse { .. })));
        drop(held);
        StateFolder::open(folder.path()).unwrap();
    }

    #[test]
    fn credentials_read_back_and_only_the_owner_can_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let state = StateFolder::open(&path).unwrap();
        assert_eq!(state.credentials().unwrap(), None);
        state.store_credentials(&credentials("t1")).unwrap();
        assert_eq!(state.credentials().unwrap(), Some(credentials("t1")));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("credentials.json"))), (0o700, 0o600));
    }

    #[test]
    fn a_failed_write_keeps_the_old_token() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        state.store_credentials(&credentials("old")).unwrap();
        fs::create_dir(folder.path().join("credentials.json.tmp")).unwrap();
        assert!(state.store_credentials(&credentials("new")).is_err());
        assert_eq!(state.credentials().unwrap().unwrap().token.expose(), "old");
    }

    #[test]
    fn credentials_are_redacted_when_printed() {
        let text = format!("{:?}", credentials("hunter2"));
        assert!(!text.contains("hunter2") && !text.contains("KEY"), "{text}");
    }

    #[test]
    fn a_token_is_refreshed_in_the_last_third_of_its_life() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let half_an_hour = credentials("t");
        assert!(!half_an_hour.wants_refresh(at(1199)));
        assert!(half_an_hour.wants_refresh(at(1200)));
        let short = Credentials { expires_at: Some(at(90)), ..credentials("t") };
        assert!(!short.wants_refresh(at(29)));
        assert!(short.wants_refresh(at(30)));
        let endless = Credentials { expires_at: None, ..credentials("t") };
        assert!(!endless.wants_refresh(at(i64::from(i32::MAX))));
    }
}
