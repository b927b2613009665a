//! Key files on a real disk.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pganalytics_core::error::{PortError, Retry};
use pganalytics_core::keys::{DataKey, KeyContext, KeyError, KeyManager, KeyName, KeyVersion, WrappedKey};
use pganalytics_core::testing::key_manager::KeyManagerFixture;
use pganalytics_core::testing::{ManualClock, Subject};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig, FileKeyManagerError};
use proptest::prelude::*;
use tempfile::TempDir;

fn name(text: &str) -> KeyName {
    text.parse().unwrap()
}

fn context(text: &str) -> KeyContext {
    KeyContext(text.into())
}

fn folder() -> TempDir {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

fn open(folder: &Path, create: &[&str]) -> Result<FileKeyManager, FileKeyManagerError> {
    let config = FileKeyManagerConfig::new(folder).creating(create.iter().map(|key| name(key)));
    FileKeyManager::open(&config, Arc::new(ManualClock::new()))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn assert_undecryptable(result: Result<DataKey, KeyError>, case: &str) {
    match result {
        Err(KeyError::Undecryptable { .. }) => {}
        Err(error) => panic!("{case}: {error:?}"),
        Ok(_) => panic!("{case}: accepted"),
    }
}

async fn rotated_elsewhere() -> Option<KeyManagerFixture> {
    let folder = folder();
    let manager = open(folder.path(), &["orders", "people"]).unwrap();
    let other_process = open(folder.path(), &[]).unwrap();
    let rotation = async move {
        other_process.rotate(&name("orders")).await.unwrap();
        Arc::new(other_process) as Arc<dyn KeyManager>
    };
    let subject = Subject::manual(Arc::new(manager) as Arc<dyn KeyManager>, ManualClock::new());
    let keys = [name("orders"), name("people")];
    Some(KeyManagerFixture::new(subject.keeping(folder), keys).with_rotation(rotation))
}

mod contract {
    pganalytics_core::key_manager_contract!(super::rotated_elsewhere());
}

#[tokio::test]
async fn keys_survive_a_restart() {
    let folder = folder();
    let manager = open(folder.path(), &["orders"]).unwrap();
    let (data_key, wrapped) = manager.generate(&name("orders"), &context("row")).await.unwrap();
    drop(manager);
    let manager = open(folder.path(), &[]).unwrap();
    assert!(manager.unwrap(&name("orders"), &context("row"), &wrapped).await.unwrap() == data_key);
}

#[tokio::test]
async fn existing_keys_are_not_made_again() {
    let folder = folder();
    let first = open(folder.path(), &["orders"]).unwrap();
    let (data_key, wrapped) = first.generate(&name("orders"), &context("row")).await.unwrap();
    let second = open(folder.path(), &["orders", "people"]).unwrap();
    assert!(second.unwrap(&name("orders"), &context("row"), &wrapped).await.unwrap() == data_key);
    let again = second.create(&name("orders")).await.unwrap_err();
    assert!(matches!(again, FileKeyManagerError::Exists { .. }), "{again:?}");
}

#[test]
fn nothing_is_made_unless_asked_for() {
    let folder = folder();
    let missing = folder.path().join("keys");
    assert!(matches!(open(&missing, &[]).unwrap_err(), FileKeyManagerError::Io { .. }));
    assert!(!missing.exists());
    open(folder.path(), &[]).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn files_and_folders_are_open_to_their_owner_alone() {
    let folder = folder();
    let keys = folder.path().join("data/keys");
    let manager = open(&keys, &["orders"]).unwrap();
    manager.rotate(&name("orders")).await.unwrap();
    assert_eq!(mode(&keys), 0o700);
    for entry in fs::read_dir(&keys).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn exposed_files_and_folders_are_refused_by_name() {
    let folder = folder();
    open(folder.path(), &["orders"]).unwrap();
    let file = folder.path().join("orders.key");
    for exposed in [0o640, 0o604, 0o620, 0o601, 0o666] {
        set_mode(&file, exposed);
        let error = open(folder.path(), &[]).unwrap_err();
        assert!(matches!(error, FileKeyManagerError::Exposed { mode, .. } if mode == exposed), "{error:?}");
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    }
    set_mode(&file, 0o400);
    open(folder.path(), &[]).unwrap();
    for exposed in [0o750, 0o701, 0o1777] {
        set_mode(folder.path(), exposed);
        let error = open(folder.path(), &[]).unwrap_err();
        assert!(matches!(error, FileKeyManagerError::Exposed { mode, .. } if mode == exposed), "{error:?}");
    }
    set_mode(folder.path(), 0o700);
}

#[test]
fn what_a_group_may_read_is_accepted_on_demand() {
    let folder = folder();
    open(folder.path(), &["orders"]).unwrap();
    let file = folder.path().join("orders.key");
    let grouped = FileKeyManagerConfig::new(folder.path()).allowing_group_read();
    let open = || FileKeyManager::open(&grouped, Arc::new(ManualClock::new()));
    for accepted in [0o400, 0o440, 0o600, 0o640] {
        set_mode(&file, accepted);
        open().unwrap();
    }
    for exposed in [0o444, 0o644, 0o404, 0o660, 0o450, 0o442, 0o777] {
        set_mode(&file, exposed);
        let error = open().unwrap_err();
        assert!(matches!(error, FileKeyManagerError::Exposed { mode, .. } if mode == exposed), "{error:?}");
    }
    set_mode(&file, 0o440);
    for accepted in [0o500, 0o750, 0o755, 0o1777, 0o3777] {
        set_mode(folder.path(), accepted);
        open().unwrap();
    }
    for exposed in [0o770, 0o777, 0o757, 0o2777] {
        set_mode(folder.path(), exposed);
        let error = open().unwrap_err();
        assert!(matches!(error, FileKeyManagerError::Exposed { mode, .. } if mode == exposed), "{error:?}");
    }
    set_mode(folder.path(), 0o700);
}

/// A folder as the kubelet keeps it: the files are links through `..data`, which is replaced as a whole.
struct MountedSecret {
    mount: TempDir,
    source: TempDir,
    generation: usize,
}

impl MountedSecret {
    fn new() -> Self {
        let secret = Self { mount: folder(), source: folder(), generation: 0 };
        open(secret.source.path(), &["orders"]).unwrap();
        secret
    }

    fn publish(&mut self) {
        self.generation += 1;
        let (mount, version) = (self.mount.path(), format!("..2026_{}", self.generation));
        fs::create_dir(mount.join(&version)).unwrap();
        let file = mount.join(&version).join("orders.key");
        fs::copy(self.source.path().join("orders.key"), &file).unwrap();
        set_mode(&file, 0o440);
        symlink(&version, mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        if self.generation == 1 {
            symlink("..data/orders.key", mount.join("orders.key")).unwrap();
            set_mode(mount, 0o3777);
        } else {
            fs::remove_dir_all(mount.join(format!("..2026_{}", self.generation - 1))).unwrap();
        }
    }
}

fn watching(folder: &Path, clock: &ManualClock) -> FileKeyManager {
    let config = FileKeyManagerConfig::new(folder).allowing_group_read();
    let config = config.with_recheck_after(Duration::from_secs(10));
    FileKeyManager::open(&config, Arc::new(clock.clone())).unwrap()
}

#[tokio::test]
async fn a_mounted_secret_that_changes_is_followed() {
    let (mut secret, clock, orders) = (MountedSecret::new(), ManualClock::new(), name("orders"));
    secret.publish();
    let manager = watching(secret.mount.path(), &clock);
    let (data_key, old) = manager.generate(&orders, &context("row")).await.unwrap();

    open(secret.source.path(), &[]).unwrap().rotate(&orders).await.unwrap();
    secret.publish();
    clock.advance(Duration::from_secs(9));
    assert_eq!(manager.current_version(&orders).await.unwrap(), Some(KeyVersion(1)));
    clock.advance(Duration::from_secs(1));
    assert_eq!(manager.current_version(&orders).await.unwrap(), Some(KeyVersion(2)));
    assert!(manager.unwrap(&orders, &context("row"), &old).await.unwrap() == data_key);
}

#[tokio::test]
async fn a_version_that_was_taken_away_no_longer_unwraps() {
    let (folder, clock, orders) = (folder(), ManualClock::new(), name("orders"));
    let writer = open(folder.path(), &["orders"]).unwrap();
    let manager = watching(folder.path(), &clock);
    let (_, old) = manager.generate(&orders, &context("row")).await.unwrap();
    writer.rotate(&orders).await.unwrap();
    let file = folder.path().join("orders.key");
    let text = fs::read_to_string(&file).unwrap();
    let without: String =
        text.lines().filter(|line| !line.starts_with("version 1 ")).map(|line| format!("{line}\n")).collect();
    fs::write(&file, without).unwrap();
    clock.advance(Duration::from_secs(10));
    assert_undecryptable(manager.unwrap(&orders, &context("row"), &old).await, "taken away");
}

#[tokio::test]
async fn what_was_read_serves_while_its_file_is_broken_or_gone() {
    let (folder, clock, orders) = (folder(), ManualClock::new(), name("orders"));
    open(folder.path(), &["orders"]).unwrap();
    let manager = watching(folder.path(), &clock);
    let (data_key, wrapped) = manager.generate(&orders, &context("row")).await.unwrap();
    let file = folder.path().join("orders.key");
    let breakages: [&dyn Fn(); 2] =
        [&|| fs::write(&file, "half a fi").unwrap(), &|| fs::remove_file(&file).unwrap()];
    for breakage in breakages {
        breakage();
        clock.advance(Duration::from_secs(10));
        assert!(manager.unwrap(&orders, &context("row"), &wrapped).await.unwrap() == data_key);
    }
}

#[test]
fn systemd_credentials_are_read() {
    let folder = folder();
    open(folder.path(), &["orders"]).unwrap();
    fs::remove_file(folder.path().join(".lock")).unwrap();
    set_mode(&folder.path().join("orders.key"), 0o400);
    set_mode(folder.path(), 0o500);
    open(folder.path(), &[]).unwrap();
    set_mode(folder.path(), 0o700);
}

#[test]
fn weak_keys_are_refused_with_the_line() {
    let folder = folder();
    open(folder.path(), &["orders"]).unwrap();
    let file = folder.path().join("orders.key");
    let text = fs::read_to_string(&file).unwrap();
    let key = text.trim_end().rsplit(' ').next().unwrap();
    fs::write(&file, text.replace(key, &format!("{}=", "A".repeat(43)))).unwrap();
    let error = open(folder.path(), &[]).unwrap_err().to_string();
    assert!(error.contains("orders.key, line 3: it has hardly any different bytes"), "{error}");
}

#[test]
fn malformed_files_are_named_with_the_line() {
    let folder = folder();
    open(folder.path(), &["orders"]).unwrap();
    let file = folder.path().join("orders.key");
    let good = fs::read_to_string(&file).unwrap();

    fs::write(&file, good.replace("version 1", "version x")).unwrap();
    let error = open(folder.path(), &[]).unwrap_err().to_string();
    assert!(error.contains("orders.key, line 3"), "{error}");

    fs::write(&file, "x".repeat(200_000)).unwrap();
    let error = open(folder.path(), &[]).unwrap_err().to_string();
    assert!(error.contains("larger than 128 KiB"), "{error}");

    fs::write(&file, &good).unwrap();
    fs::rename(&file, folder.path().join("people.key")).unwrap();
    let error = open(folder.path(), &[]).unwrap_err().to_string();
    assert!(error.contains("people.key, line 2"), "{error}");
}

#[tokio::test]
async fn a_rotation_is_seen_by_other_processes() {
    let folder = folder();
    let (ours, theirs) = (open(folder.path(), &["orders"]).unwrap(), open(folder.path(), &[]).unwrap());
    let (orders, row) = (name("orders"), context("row"));
    let (data_key, old) = theirs.generate(&orders, &row).await.unwrap();
    assert_eq!(ours.rotate(&orders).await.unwrap(), KeyVersion(2));

    let new = ours.rewrap(&orders, &row, &old).await.unwrap();
    assert_eq!(new.version, Some(KeyVersion(2)));
    for wrapped in [&old, &new] {
        assert!(theirs.unwrap(&orders, &row, wrapped).await.unwrap() == data_key);
    }
    assert_eq!(theirs.current_version(&orders).await.unwrap(), Some(KeyVersion(2)));
}

#[tokio::test]
async fn concurrent_rotations_lose_no_version() {
    let folder = folder();
    let managers = [open(folder.path(), &["orders"]).unwrap(), open(folder.path(), &[]).unwrap()];
    let rotations: Vec<_> = (0..20)
        .map(|index: usize| {
            let manager = managers[index % 2].clone();
            tokio::spawn(async move { manager.rotate(&name("orders")).await.unwrap() })
        })
        .collect();
    let mut versions = Vec::new();
    for rotation in rotations {
        versions.push(rotation.await.unwrap().0);
    }
    versions.sort_unstable();
    assert_eq!(versions, (2..=21).collect::<Vec<u32>>());
    let reopened = open(folder.path(), &[]).unwrap();
    assert_eq!(reopened.current_version(&name("orders")).await.unwrap(), Some(KeyVersion(21)));
}

#[tokio::test]
async fn a_rotation_that_was_cut_short_leaves_the_key_whole() {
    let folder = folder();
    let manager = open(folder.path(), &["orders"]).unwrap();
    // What a kill between writing and renaming leaves behind.
    fs::write(folder.path().join(".orders.tmp"), "half a fi").unwrap();
    assert_eq!(
        open(folder.path(), &[]).unwrap().current_version(&name("orders")).await.unwrap(),
        Some(KeyVersion(1))
    );
    assert_eq!(manager.rotate(&name("orders")).await.unwrap(), KeyVersion(2));
    assert!(!folder.path().join(".orders.tmp").exists());
}

#[tokio::test]
async fn a_rotation_that_cannot_be_written_changes_nothing() {
    let folder = folder();
    let manager = open(folder.path(), &["orders"]).unwrap();
    // A folder in the way of the temporary file: unlike a mode, it stops root, too.
    fs::create_dir(folder.path().join(".orders.tmp")).unwrap();
    let error = manager.rotate(&name("orders")).await.unwrap_err();
    assert!(matches!(error, FileKeyManagerError::Io { .. }), "{error:?}");
    assert_eq!(manager.current_version(&name("orders")).await.unwrap(), Some(KeyVersion(1)));
    assert_eq!(KeyError::from(error).retry(), Retry::Later);
}

#[tokio::test]
async fn every_changed_bit_of_a_blob_is_refused() {
    let folder = folder();
    let manager = open(folder.path(), &["orders"]).unwrap();
    manager.rotate(&name("orders")).await.unwrap();
    let (_, wrapped) = manager.generate(&name("orders"), &context("signing-key/1")).await.unwrap();
    for bit in 0..wrapped.blob.len() * 8 {
        let mut blob = wrapped.blob.to_vec();
        blob[bit / 8] ^= 1 << (bit % 8);
        let changed = WrappedKey { blob: Bytes::from(blob), version: wrapped.version };
        let result = manager.unwrap(&name("orders"), &context("signing-key/1"), &changed).await;
        assert_undecryptable(result, &format!("bit {bit}"));
    }
    for length in 0..wrapped.blob.len() {
        let cut = WrappedKey { blob: wrapped.blob.slice(..length), version: None };
        let result = manager.unwrap(&name("orders"), &context("signing-key/1"), &cut).await;
        assert_undecryptable(result, &format!("cut to {length}"));
    }
}

#[tokio::test]
async fn a_blob_of_the_same_name_in_another_folder_is_refused() {
    let (ours, theirs) = (folder(), folder());
    let (ours, theirs) = (open(ours.path(), &["orders"]).unwrap(), open(theirs.path(), &["orders"]).unwrap());
    let (_, wrapped) = theirs.generate(&name("orders"), &context("row")).await.unwrap();
    assert_undecryptable(ours.unwrap(&name("orders"), &context("row"), &wrapped).await, "foreign");
}

#[tokio::test]
async fn a_key_file_that_became_exposed_is_no_verdict_on_blobs() {
    let folder = folder();
    let manager = open(folder.path(), &["orders"]).unwrap();
    let other = open(folder.path(), &[]).unwrap();
    other.rotate(&name("orders")).await.unwrap();
    let (_, wrapped) = other.generate(&name("orders"), &context("row")).await.unwrap();
    set_mode(&folder.path().join("orders.key"), 0o644);
    let error = manager.unwrap(&name("orders"), &context("row"), &wrapped).await.unwrap_err();
    assert!(matches!(error, KeyError::Backend(_)), "{error:?}");
}

#[test]
fn key_material_is_never_printed() {
    let folder = folder();
    let manager = open(folder.path(), &["orders"]).unwrap();
    let text = fs::read_to_string(folder.path().join("orders.key")).unwrap();
    let key = text.trim_end().rsplit(' ').next().unwrap();
    assert_eq!(key.len(), 44);
    assert!(!format!("{manager:?}").contains(key));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_are_undecryptable(bytes in proptest::collection::vec(any::<u8>(), 0..200), header: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let folder = folder();
        let manager = open(folder.path(), &["orders"]).unwrap();
        let blob = if header { [b"PGWK\x01\x02\0\0\0\x01", &bytes[..]].concat() } else { bytes };
        let wrapped = WrappedKey { blob: Bytes::from(blob), version: None };
        let result = runtime.block_on(manager.unwrap(&name("orders"), &context("row"), &wrapped));
        assert_undecryptable(result, "any bytes");
    }

    #[test]
    fn any_context_comes_back(text in "\\PC{0,200}", other in "\\PC{0,200}") {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let folder = folder();
        let manager = open(folder.path(), &["orders"]).unwrap();
        runtime.block_on(async {
            let (data_key, wrapped) = manager.generate(&name("orders"), &context(&text)).await.unwrap();
            assert!(manager.unwrap(&name("orders"), &context(&text), &wrapped).await.unwrap() == data_key);
            if other != text {
                assert_undecryptable(manager.unwrap(&name("orders"), &context(&other), &wrapped).await, &other);
            }
        });
    }
}
