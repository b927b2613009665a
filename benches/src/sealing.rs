//! A sealed column, for the benchmarks of field encryption.

use std::hint::black_box;
use std::sync::Arc;

use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::keys::{Column, FieldRef, MemoryDataKeyStore};
use pganalytics_core::random::os_random;
use pganalytics_crypto::envelope::{EnvelopeConfig, EnvelopeFieldCipher};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use pganalytics_store::postgres::ROW_MACS;
use uuid::Uuid;

pub(crate) struct Phone;

impl Column for Phone {
    const FIELD: FieldRef = FieldRef { table: "customers", column: "phone", purpose: "personal" };
}

/// A cipher whose data keys lie unwrapped in memory, and the folder of the key that wraps them.
pub(crate) struct Sealing {
    pub(crate) cipher: EnvelopeFieldCipher,
    _folder: tempfile::TempDir,
}

impl Sealing {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        keep_freed_memory();
        let folder = tempfile::tempdir()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let files = FileKeyManagerConfig::new(folder.path().join("keys")).creating(["fields".parse()?]);
        let manager = Arc::new(FileKeyManager::open(&files, Arc::clone(&clock))?);
        let config =
            EnvelopeConfig::new("fields".parse()?).sealing(Phone::FIELD.purpose).indexing(ROW_MACS.purpose);
        let store = Arc::new(MemoryDataKeyStore::new());
        let cipher = EnvelopeFieldCipher::connect(store, manager, clock, config).await?;
        Ok(Self { cipher, _folder: folder })
    }
}

/// Of a large block that is freed glibc learns not to give memory back at once, as it does in a process that has run for a
/// while. Otherwise both sides would mostly measure how fast the kernel clears pages.
fn keep_freed_memory() {
    drop(black_box(vec![1_u8; 16 * 1024 * 1024]));
}

pub(crate) fn random_values(count: usize, bytes: usize) -> Vec<(Uuid, Vec<u8>)> {
    let value = || {
        let (mut row, mut value) = ([0; 16], vec![0; bytes]);
        os_random(&mut row);
        os_random(&mut value);
        (Uuid::from_bytes(row), value)
    };
    (0..count).map(|_| value()).collect()
}
