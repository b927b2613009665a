use std::mem;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pganalytics_core::backup::{BackupTargetError, ObjectPath, PutMode, Upload};
use pganalytics_core::error::BackendError;

use super::target::{Inner, blocking};
use super::temporary::TemporaryFile;

/// How many bytes are collected before they are handed to the file.
const BATCH_BYTES: usize = 1024 * 1024;

/// A large object on its way to a [`super::LocalBackupTarget`].
#[derive(Debug)]
pub(super) struct LocalUpload {
    inner: Arc<Inner>,
    path: ObjectPath,
    mode: PutMode,
    /// `None` after a write has failed or was cut off: then nobody knows what the file holds.
    file: Option<TemporaryFile>,
    pending: Vec<Bytes>,
    pending_bytes: usize,
}

impl LocalUpload {
    pub(super) fn new(inner: Arc<Inner>, path: ObjectPath, mode: PutMode, file: TemporaryFile) -> Self {
        Self { inner, path, mode, file: Some(file), pending: Vec::new(), pending_bytes: 0 }
    }

    fn take_file(&mut self) -> Result<TemporaryFile, BackupTargetError> {
        self.file.take().ok_or_else(|| {
            BackupTargetError::Backend(BackendError::never(
                "local",
                "an earlier write of this upload has failed",
            ))
        })
    }
}

#[async_trait]
impl Upload for LocalUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BackupTargetError> {
        self.pending_bytes += bytes.len();
        self.pending.push(bytes);
        if self.pending_bytes < BATCH_BYTES {
            return Ok(());
        }
        self.pending_bytes = 0;
        let (mut file, parts) = (self.take_file()?, mem::take(&mut self.pending));
        let file = blocking(&self.path, move || file.write(&parts).map(|()| file)).await?;
        self.file = Some(file);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), BackupTargetError> {
        let mut file = self.take_file()?;
        let Self { inner, path, mode, pending, .. } = *self;
        let object = path.clone();
        blocking(&object, move || {
            file.write(&pending)?;
            inner.publish(file, &path, mode)
        })
        .await
    }

    async fn abort(mut self: Box<Self>) -> Result<(), BackupTargetError> {
        let file = self.file.take();
        blocking(&self.path, move || {
            drop(file);
            Ok(())
        })
        .await
    }
}
