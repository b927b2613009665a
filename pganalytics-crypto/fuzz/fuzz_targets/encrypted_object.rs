//! Objects of any bytes, and one that was written and then changed, must be refused without a panic, in whole and in part.

#![no_main]

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pganalytics_core::backup::{BackupTarget, MemoryBackupTarget, ObjectPath, PutMode};
use pganalytics_core::clock::SystemClock;
use pganalytics_crypto::encrypted_backup_target::{BackupEncryption, EncryptedBackupTarget, HEADER_BYTES};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use pganalytics_crypto::recovery::RecoveryIdentity;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const CONTENT: &[u8] = b"the content of an object";

struct Setup {
    runtime: Runtime,
    memory: MemoryBackupTarget,
    target: EncryptedBackupTarget<MemoryBackupTarget>,
    path: ObjectPath,
    written: Bytes,
    _folder: TempDir,
}

fn setup() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let files = FileKeyManagerConfig::new(folder.path().join("keys")).creating(["backup".parse().expect("a name")]);
        let clock = Arc::new(SystemClock);
        let keys = FileKeyManager::open(&files, clock.clone()).expect("the folder can be written");
        let encryption = BackupEncryption::new(Arc::new(keys), "backup".parse().expect("a name"))
            .with_recipient(RecoveryIdentity::generate().to_recipient());
        let memory = MemoryBackupTarget::new(clock.clone());
        let target = EncryptedBackupTarget::new(memory.clone(), encryption, clock);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made");
        let path: ObjectPath = "object".parse().expect("a path");
        let written = runtime.block_on(async {
            target.put(&path, Bytes::from_static(CONTENT), PutMode::Create).await.expect("it is written");
            memory.get(&path, None).await.expect("memory answers").expect("it is there")
        });
        assert!(written.len() > HEADER_BYTES);
        Setup { runtime, memory, target, path, written, _folder: folder }
    })
}

/// The first two bytes say from where on the others take the place of what was written.
fn changed(written: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    let (at, bytes) = bytes.split_first_chunk()?;
    let at = usize::from(u16::from_le_bytes(*at)) % written.len();
    let rest = written.get(at + bytes.len()..).unwrap_or_default();
    Some([&written[..at], bytes, rest].concat())
}

fuzz_target!(|bytes: &[u8]| {
    let Setup { runtime, memory, target, path, written, .. } = setup();
    for object in [Some(bytes.to_vec()), changed(written, bytes)].into_iter().flatten() {
        let is_changed = object != **written;
        runtime.block_on(async {
            memory.put(path, object.into(), PutMode::Overwrite).await.expect("memory has room");
            let whole = target.get(path, None).await;
            let part = target.get(path, Some(4..11)).await;
            if is_changed {
                assert!(whole.is_err() && part.is_err(), "accepted");
            } else {
                assert_eq!(whole.expect("it opens").as_deref(), Some(CONTENT));
                assert_eq!(part.expect("it opens").as_deref(), Some(&CONTENT[4..11]));
            }
        });
    }
});
