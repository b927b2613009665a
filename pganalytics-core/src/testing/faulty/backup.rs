use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::backup::{
    BackupTarget, BackupTargetError, Capabilities, ObjectInfo, ObjectPath, PutMode, Sha256Digest, Upload,
};
use crate::testing::Faulty;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: BackupTarget> BackupTarget for Faulty<T> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, path: &ObjectPath, bytes: Bytes, mode: PutMode) -> Result<(), BackupTargetError> {
        self.apply(self.inner.put(path, bytes, mode)).await
    }

    async fn upload(&self, path: &ObjectPath, mode: PutMode) -> Result<Box<dyn Upload>, BackupTargetError> {
        let upload = self.apply(self.inner.upload(path, mode)).await?;
        Ok(Box::new(self.around(upload)))
    }

    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, BackupTargetError> {
        self.apply(self.inner.head(path)).await
    }

    async fn get(
        &self,
        path: &ObjectPath,
        range: Option<Range<u64>>,
    ) -> Result<Option<Bytes>, BackupTargetError> {
        self.apply(self.inner.get(path, range)).await
    }

    async fn list(
        &self,
        prefix: Option<&ObjectPath>,
        after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, BackupTargetError> {
        self.apply(self.inner.list(prefix, after, limit)).await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<bool, BackupTargetError> {
        self.apply(self.inner.delete(path)).await
    }

    async fn checksum(&self, path: &ObjectPath) -> Result<Option<Sha256Digest>, BackupTargetError> {
        self.apply(self.inner.checksum(path)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Upload for Faulty<Box<dyn Upload>> {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BackupTargetError> {
        let plan = self.around(());
        plan.apply(self.inner.write(bytes)).await
    }

    async fn finish(self: Box<Self>) -> Result<(), BackupTargetError> {
        let plan = self.around(());
        plan.apply(self.inner.finish()).await
    }

    async fn abort(self: Box<Self>) -> Result<(), BackupTargetError> {
        let plan = self.around(());
        plan.apply(self.inner.abort()).await
    }
}
