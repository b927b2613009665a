//! Blobs of any bytes must be refused as undecryptable, without a panic.

#![no_main]

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pganalytics_core::clock::SystemClock;
use pganalytics_core::keys::{KeyContext, KeyError, KeyManager, KeyName, WrappedKey};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use tempfile::TempDir;
use tokio::runtime::Runtime;

struct Setup {
    runtime: Runtime,
    manager: FileKeyManager,
    key: KeyName,
    _folder: TempDir,
}

fn setup() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let key: KeyName = "orders".parse().expect("a key name");
        let config = FileKeyManagerConfig::new(folder.path().join("keys")).creating([key.clone()]);
        let manager = FileKeyManager::open(&config, Arc::new(SystemClock)).expect("the folder can be written");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made");
        Setup { runtime, manager, key, _folder: folder }
    })
}

fuzz_target!(|blob: &[u8]| {
    let Setup { runtime, manager, key, .. } = setup();
    let wrapped = WrappedKey { blob: Bytes::copy_from_slice(blob), version: None };
    let context = KeyContext("row/1".into());
    match runtime.block_on(manager.unwrap(key, &context, &wrapped)) {
        Err(KeyError::Undecryptable { .. }) => {}
        Err(error) => panic!("not undecryptable but: {error:?}"),
        Ok(_) => panic!("accepted"),
    }
});
