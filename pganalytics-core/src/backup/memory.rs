use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};

use crate::backup::{
    BackupTarget, BackupTargetError, Capabilities, ObjectInfo, ObjectPath, PutMode, Sha256Digest, Upload,
    check_put,
};
use crate::clock::Clock;

/// Objects in this process, for tests.
#[derive(Clone, Debug)]
pub struct MemoryBackupTarget {
    objects: Arc<Mutex<BTreeMap<ObjectPath, Object>>>,
    max_bytes: u64,
    create_only: bool,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Object {
    bytes: Bytes,
    modified_at: DateTime<Utc>,
}

impl MemoryBackupTarget {
    /// An empty target.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { objects: Arc::default(), max_bytes: u64::MAX, create_only: true, clock }
    }

    /// Makes it full when its objects have this many bytes.
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// Makes it a target that refuses [`PutMode::Create`], as those do that cannot keep its promise.
    #[must_use]
    pub fn without_create_only(self) -> Self {
        Self { create_only: false, ..self }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectPath, Object>> {
        self.objects.lock().expect("no holder panics")
    }

    fn check_mode(&self, mode: PutMode) -> Result<(), BackupTargetError> {
        if mode == PutMode::Create && !self.create_only {
            let (target, operation) = (self.name(), "create an object only if it does not exist");
            return Err(BackupTargetError::Unsupported { target, operation });
        }
        Ok(())
    }

    fn store(&self, path: &ObjectPath, bytes: Bytes, mode: PutMode) -> Result<(), BackupTargetError> {
        let modified_at = self.clock.now();
        let mut objects = self.lock();
        if mode == PutMode::Create && objects.contains_key(path) {
            return Err(BackupTargetError::AlreadyExists { path: path.clone() });
        }
        let others = objects.iter().filter(|(other, _)| *other != path);
        let used: u64 = others.map(|(_, object)| object.bytes.len() as u64).sum();
        if bytes.len() as u64 > self.max_bytes.saturating_sub(used) {
            return Err(BackupTargetError::Full { path: path.clone() });
        }
        objects.insert(path.clone(), Object { bytes, modified_at });
        Ok(())
    }
}

#[async_trait]
impl BackupTarget for MemoryBackupTarget {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_create_only(self.create_only)
    }

    async fn put(&self, path: &ObjectPath, bytes: Bytes, mode: PutMode) -> Result<(), BackupTargetError> {
        check_put(path, &bytes)?;
        self.check_mode(mode)?;
        self.store(path, bytes, mode)
    }

    async fn upload(&self, path: &ObjectPath, mode: PutMode) -> Result<Box<dyn Upload>, BackupTargetError> {
        self.check_mode(mode)?;
        let (target, path) = (self.clone(), path.clone());
        Ok(Box::new(MemoryUpload { target, path, mode, written: BytesMut::new() }))
    }

    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, BackupTargetError> {
        Ok(self.lock().get(path).map(|object| info(path, object)))
    }

    async fn get(
        &self,
        path: &ObjectPath,
        range: Option<Range<u64>>,
    ) -> Result<Option<Bytes>, BackupTargetError> {
        let bytes = self.lock().get(path).map(|object| object.bytes.clone());
        Ok(bytes.map(|bytes| match range {
            Some(range) => part(&bytes, &range),
            None => bytes,
        }))
    }

    async fn list(
        &self,
        prefix: Option<&ObjectPath>,
        after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, BackupTargetError> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let objects = self.lock();
        let listed = objects.range((begin, Bound::Unbounded)).filter(|(path, _)| {
            prefix.is_none_or(|prefix| {
                path.as_str().strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'))
            })
        });
        Ok(listed.map(|(path, object)| info(path, object)).take(limit).collect())
    }

    async fn delete(&self, path: &ObjectPath) -> Result<bool, BackupTargetError> {
        Ok(self.lock().remove(path).is_some())
    }

    async fn checksum(&self, path: &ObjectPath) -> Result<Option<Sha256Digest>, BackupTargetError> {
        let bytes = self.get(path, None).await?;
        Ok(bytes.map(|bytes| Sha256Digest::of(&bytes)))
    }
}

fn info(path: &ObjectPath, object: &Object) -> ObjectInfo {
    ObjectInfo::new(path.clone(), object.bytes.len() as u64, object.modified_at)
}

fn part(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let within = |position: u64| usize::try_from(position).map_or(bytes.len(), |at| at.min(bytes.len()));
    let begin = within(range.start);
    bytes.slice(begin..within(range.end).max(begin))
}

#[derive(Debug)]
struct MemoryUpload {
    target: MemoryBackupTarget,
    path: ObjectPath,
    mode: PutMode,
    written: BytesMut,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BackupTargetError> {
        self.written.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), BackupTargetError> {
        self.target.store(&self.path, self.written.freeze(), self.mode)
    }

    async fn abort(self: Box<Self>) -> Result<(), BackupTargetError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Faulty, ManualClock, Subject};

    fn target(clock: &ManualClock) -> MemoryBackupTarget {
        MemoryBackupTarget::new(Arc::new(clock.clone()))
    }

    async fn memory() -> Option<Subject<dyn BackupTarget>> {
        let clock = ManualClock::new();
        Some(Subject::manual(Arc::new(target(&clock)), clock))
    }

    crate::backup_contract!(memory());

    mod of_limited_size {
        use super::*;

        const ROOM: u64 = 20 * 1024 * 1024;

        async fn limited() -> Option<Subject<dyn BackupTarget>> {
            let clock = ManualClock::new();
            let target: Arc<dyn BackupTarget> = Arc::new(target(&clock).with_max_bytes(ROOM));
            Some(Subject::manual(target, clock).with_room_for(ROOM))
        }

        crate::backup_contract!(limited());
    }

    mod without_create_only {
        use super::*;

        async fn plain() -> Option<Subject<dyn BackupTarget>> {
            let clock = ManualClock::new();
            Some(Subject::manual(Arc::new(target(&clock).without_create_only()), clock))
        }

        crate::backup_contract!(plain());
    }

    mod boxed {
        use super::*;

        async fn boxed() -> Option<Subject<dyn BackupTarget>> {
            let clock = ManualClock::new();
            let inner: Box<dyn BackupTarget> = Box::new(Faulty::new(target(&clock)));
            Some(Subject::manual(Arc::new(inner), clock))
        }

        crate::backup_contract!(boxed());
    }
}
