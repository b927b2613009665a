use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use pganalytics_core::backup::{BackupTargetError, Upload};

use super::keys::NewFile;
use super::payload::{CHUNK_BYTES, PayloadKey, SEALED_CHUNK_BYTES};

// What is sealed before it is passed on: the memory that an upload takes, besides what its caller hands over.
const PIECE_BYTES: usize = 16 * CHUNK_BYTES;

/// Seals what is written, chunk by chunk.
pub(super) struct Sealer {
    key: PayloadKey,
    index: u64,
    // The last chunk is marked as such, so that one is kept back until there is more.
    pending: Vec<u8>,
    sealed: Vec<u8>,
}

impl Sealer {
    pub(super) fn new(file: NewFile) -> Self {
        Self { key: file.key, index: 0, pending: Vec::with_capacity(CHUNK_BYTES), sealed: file.header }
    }

    pub(super) fn write(&mut self, mut plain: &[u8]) {
        let chunks = (self.pending.len() + plain.len()) / CHUNK_BYTES;
        self.sealed.reserve(chunks * SEALED_CHUNK_BYTES);
        while self.pending.len() + plain.len() > CHUNK_BYTES {
            let (next, rest) = plain.split_at(CHUNK_BYTES - self.pending.len());
            plain = rest;
            if self.pending.is_empty() {
                self.seal(next, false);
            } else {
                self.pending.extend_from_slice(next);
                self.seal_pending(false);
            }
        }
        self.pending.extend_from_slice(plain);
    }

    /// What was sealed since the last call.
    fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.sealed).into()
    }

    /// The rest, with the last chunk.
    pub(super) fn finish(mut self) -> Bytes {
        self.seal_pending(true);
        self.take()
    }

    fn seal_pending(&mut self, is_last: bool) {
        let mut pending = std::mem::take(&mut self.pending);
        self.seal(&pending, is_last);
        pending.clear();
        self.pending = pending;
    }

    fn seal(&mut self, plain: &[u8], is_last: bool) {
        self.key.seal(self.index, is_last, plain, &mut self.sealed);
        self.index += 1;
    }
}

pub(super) struct EncryptedUpload {
    inner: Box<dyn Upload>,
    sealer: Sealer,
}

impl EncryptedUpload {
    pub(super) fn new(inner: Box<dyn Upload>, file: NewFile) -> Self {
        Self { inner, sealer: Sealer::new(file) }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Upload for EncryptedUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BackupTargetError> {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.sealer.write(piece);
            let sealed = self.sealer.take();
            if !sealed.is_empty() {
                self.inner.write(sealed).await?;
            }
        }
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), BackupTargetError> {
        let Self { mut inner, sealer } = *self;
        inner.write(sealer.finish()).await?;
        inner.finish().await
    }

    async fn abort(self: Box<Self>) -> Result<(), BackupTargetError> {
        self.inner.abort().await
    }
}

impl fmt::Debug for EncryptedUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedUpload").field("inner", &self.inner).finish_non_exhaustive()
    }
}
