//! Values of any bytes must be refused as undecryptable, without a panic: as they are, and behind a header that is right.

#![no_main]

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pganalytics_core::clock::SystemClock;
use pganalytics_core::keys::{Ciphertext, FieldCipher, FieldCipherError, FieldRef, MemoryDataKeyStore, OpenRequest};
use pganalytics_crypto::envelope::{EnvelopeConfig, EnvelopeFieldCipher};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

const FIELD: FieldRef = FieldRef { table: "users", column: "phone", purpose: "personal" };

struct Setup {
    runtime: Runtime,
    cipher: EnvelopeFieldCipher,
    _folder: TempDir,
}

fn setup() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let files = FileKeyManagerConfig::new(folder.path().join("keys")).creating(["fields".parse().expect("a name")]);
        let clock = Arc::new(SystemClock);
        let keys = FileKeyManager::open(&files, clock.clone()).expect("the folder can be written");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime can be made");
        let config = EnvelopeConfig::new("fields".parse().expect("a name")).sealing(FIELD.purpose);
        let store = Arc::new(MemoryDataKeyStore::new());
        let connected = EnvelopeFieldCipher::connect(store, Arc::new(keys), clock, config);
        let cipher = runtime.block_on(connected).expect("there are no keys yet");
        Setup { runtime, cipher, _folder: folder }
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Setup { runtime, cipher, .. } = setup();
    // A value of an unknown version waits for the store; those would slow the search down and find nothing.
    let own_version = [&[1, 0, 0, 0, 1], bytes].concat();
    let mut values = vec![own_version];
    if bytes.first() != Some(&1) {
        values.push(bytes.to_vec());
    }
    for value in values {
        let ciphertext = Ciphertext(Bytes::from(value));
        let request = OpenRequest { field: FIELD, row: Uuid::nil(), ciphertext: &ciphertext };
        let opened = runtime.block_on(cipher.open_batch(&[request])).expect("the key is in memory");
        match &opened[0] {
            Err(FieldCipherError::Undecryptable { .. }) => {}
            Err(error) => panic!("not undecryptable but: {error:?}"),
            Ok(_) => panic!("accepted"),
        }
    }
});
