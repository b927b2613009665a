//! An object written through `EncryptedBackupTarget`, beside the same one sealed by bare AES-256-GCM of AWS-LC in chunks of
//! 64 KiB under random nonces, into the same target in memory. Ours writes age files, whose chunks are sealed by
//! ChaCha20-Poly1305. The peer protects less: its chunks can be left out, repeated and reordered.

use std::sync::Arc;

use bytes::Bytes;
use pganalytics_core::backup::{BackupTarget, MemoryBackupTarget, ObjectPath, PutMode};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::random::os_random;
use pganalytics_crypto::encrypted_backup_target::{BackupEncryption, EncryptedBackupTarget};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};

use crate::cpu;
use crate::raw_gcm::{self, RawGcm};
use crate::report::{Better, Round, Summary};

pub(crate) const NAME: &str = "backup_stream/raw_gcm";

const MEBIBYTE: usize = 1024 * 1024;
const OBJECT_MEBIBYTES: usize = 64;
const CHUNK_BYTES: usize = 64 * 1024;

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Summary> {
    let folder = tempfile::tempdir()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let files = FileKeyManagerConfig::new(folder.path().join("keys")).creating(["backup".parse()?]);
    let manager = Arc::new(FileKeyManager::open(&files, Arc::clone(&clock))?);
    let memory = MemoryBackupTarget::new(Arc::clone(&clock));
    let encryption = BackupEncryption::new(manager, "backup".parse()?);
    let target = EncryptedBackupTarget::new(memory.clone(), encryption, clock);
    let key = RawGcm::new()?;
    let path: ObjectPath = "object".parse()?;
    let mut content = vec![0; OBJECT_MEBIBYTES * MEBIBYTE];
    os_random(&mut content);
    let content = Bytes::from(content);
    let mut measured = Vec::new();
    // The first round warms up.
    for round in 0..=rounds {
        let ours = cpu::per_second(async || write(&target, &path, &content).await);
        let ours = ours.await? * OBJECT_MEBIBYTES as f64;
        let peer = cpu::per_second(async || write_raw(&memory, &key, &path, &content).await);
        let peer = peer.await? * OBJECT_MEBIBYTES as f64;
        if round > 0 {
            measured.push(Round { ours, peer });
        }
    }
    Ok(Summary::of(NAME, "MiB a CPU second", Better::More, &measured))
}

async fn write(target: &impl BackupTarget, path: &ObjectPath, content: &Bytes) -> anyhow::Result<()> {
    let mut upload = target.upload(path, PutMode::Overwrite).await?;
    for begin in (0..content.len()).step_by(MEBIBYTE) {
        upload.write(content.slice(begin..begin + MEBIBYTE)).await?;
    }
    upload.finish().await?;
    target.delete(path).await?;
    Ok(())
}

async fn write_raw(
    target: &impl BackupTarget,
    key: &RawGcm,
    path: &ObjectPath,
    content: &Bytes,
) -> anyhow::Result<()> {
    let mut upload = target.upload(path, PutMode::Overwrite).await?;
    for piece in content.chunks(MEBIBYTE) {
        let chunks = MEBIBYTE / CHUNK_BYTES;
        let mut sealed = Vec::with_capacity(MEBIBYTE + chunks * raw_gcm::OVERHEAD_BYTES);
        for (chunk, nonce) in piece.chunks(CHUNK_BYTES).zip(RawGcm::nonces(chunks)) {
            key.seal(nonce, &[], chunk, &mut sealed)?;
        }
        upload.write(sealed.into()).await?;
    }
    upload.finish().await?;
    target.delete(path).await?;
    Ok(())
}
