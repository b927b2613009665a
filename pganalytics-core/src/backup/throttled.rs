use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::backup::{
    BackupTarget, BackupTargetError, Capabilities, ObjectInfo, ObjectPath, PutMode, Sha256Digest, Upload,
    check_put,
};

/// Moves at most so many bytes a second, written and read together, over whatever time; in a single second up to twice as
/// many (a token bucket that holds one second's worth).
///
/// Uploads go out in pieces of at most one second's worth. A `put` or `get` is one call of the target, whose bytes move at
/// once: the wait is before the one and after the other.
#[derive(Debug)]
pub struct ThrottledBackupTarget<T> {
    inner: T,
    bucket: Arc<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    bytes_per_second: u32,
    level: Mutex<Level>,
}

// Below zero when bytes were promised that have yet to drip in.
#[derive(Debug)]
struct Level {
    bytes: f64,
    at: Instant,
}

impl<T: BackupTarget> ThrottledBackupTarget<T> {
    /// Throttles a target.
    pub fn new(inner: T, bytes_per_second: NonZeroU32) -> Self {
        let bytes_per_second = bytes_per_second.get();
        let level = Mutex::new(Level { bytes: f64::from(bytes_per_second), at: Instant::now() });
        Self { inner, bucket: Arc::new(Bucket { bytes_per_second, level }) }
    }
}

impl Bucket {
    async fn take(&self, bytes: usize) {
        tokio::time::sleep(self.reserve(bytes)).await;
    }

    fn reserve(&self, bytes: usize) -> Duration {
        let rate = f64::from(self.bytes_per_second);
        let now = Instant::now();
        let mut level = self.level.lock().expect("no holder panics");
        let dripped = now.duration_since(level.at).as_secs_f64() * rate;
        level.bytes = (level.bytes + dripped).min(rate) - bytes as f64;
        level.at = now;
        Duration::from_secs_f64((-level.bytes / rate).max(0.0))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: BackupTarget> BackupTarget for ThrottledBackupTarget<T> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, path: &ObjectPath, bytes: Bytes, mode: PutMode) -> Result<(), BackupTargetError> {
        check_put(path, &bytes)?;
        self.bucket.take(bytes.len()).await;
        self.inner.put(path, bytes, mode).await
    }

    async fn upload(&self, path: &ObjectPath, mode: PutMode) -> Result<Box<dyn Upload>, BackupTargetError> {
        let inner = self.inner.upload(path, mode).await?;
        Ok(Box::new(ThrottledUpload { inner, bucket: Arc::clone(&self.bucket) }))
    }

    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, BackupTargetError> {
        self.inner.head(path).await
    }

    async fn get(
        &self,
        path: &ObjectPath,
        range: Option<Range<u64>>,
    ) -> Result<Option<Bytes>, BackupTargetError> {
        let bytes = self.inner.get(path, range).await?;
        self.bucket.take(bytes.as_ref().map_or(0, Bytes::len)).await;
        Ok(bytes)
    }

    async fn list(
        &self,
        prefix: Option<&ObjectPath>,
        after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, BackupTargetError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<bool, BackupTargetError> {
        self.inner.delete(path).await
    }

    async fn checksum(&self, path: &ObjectPath) -> Result<Option<Sha256Digest>, BackupTargetError> {
        self.inner.checksum(path).await
    }
}

#[derive(Debug)]
struct ThrottledUpload {
    inner: Box<dyn Upload>,
    bucket: Arc<Bucket>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Upload for ThrottledUpload {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), BackupTargetError> {
        let piece = usize::try_from(self.bucket.bytes_per_second).unwrap_or(usize::MAX);
        while !bytes.is_empty() {
            let next = bytes.split_to(piece.min(bytes.len()));
            self.bucket.take(next.len()).await;
            self.inner.write(next).await?;
        }
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), BackupTargetError> {
        self.inner.finish().await
    }

    async fn abort(self: Box<Self>) -> Result<(), BackupTargetError> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::MemoryBackupTarget;
    use crate::testing::{Faulty, ManualClock, Subject};

    async fn throttled() -> Option<Subject<dyn BackupTarget>> {
        let clock = ManualClock::new();
        let room = 20 * 1024 * 1024;
        let inner = MemoryBackupTarget::new(Arc::new(clock.clone())).with_max_bytes(room);
        let target: Arc<dyn BackupTarget> = Arc::new(ThrottledBackupTarget::new(inner, NonZeroU32::MAX));
        Some(Subject::manual(target, clock).with_room_for(room))
    }

    crate::backup_contract!(throttled());

    fn slow() -> ThrottledBackupTarget<Faulty<MemoryBackupTarget>> {
        let inner = Faulty::new(MemoryBackupTarget::new(Arc::new(ManualClock::new())));
        ThrottledBackupTarget::new(inner, NonZeroU32::new(1000).unwrap())
    }

    fn path(text: &str) -> ObjectPath {
        text.parse().unwrap()
    }

    async fn put(target: &ThrottledBackupTarget<Faulty<MemoryBackupTarget>>, at: &str, bytes: usize) {
        target.put(&path(at), vec![0; bytes].into(), PutMode::Overwrite).await.unwrap();
    }

    // The timer of tokio ticks in milliseconds.
    fn assert_took(begun: Instant, expected: Duration) {
        let took = begun.elapsed();
        assert!(took >= expected && took < expected + Duration::from_millis(20), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_seconds_worth_is_free_and_the_rest_takes_its_time() {
        let target = slow();
        let begun = Instant::now();
        put(&target, "a", 1000).await;
        assert_took(begun, Duration::ZERO);
        put(&target, "b", 500).await;
        assert_took(begun, Duration::from_millis(500));
        put(&target, "c", 3000).await;
        assert_took(begun, Duration::from_millis(3500));
        tokio::time::sleep(Duration::from_secs(100)).await;
        let begun = Instant::now();
        put(&target, "d", 2000).await;
        assert_took(begun, Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_callers_share_the_rate() {
        let target = slow();
        let begun = Instant::now();
        futures::join!(put(&target, "a", 2000), put(&target, "b", 2000), put(&target, "c", 2000));
        assert_took(begun, Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn reading_takes_its_time_too() {
        let target = slow();
        put(&target, "a", 1000).await;
        let begun = Instant::now();
        target.get(&path("a"), None).await.unwrap();
        assert_took(begun, Duration::from_secs(1));
        target.get(&path("a"), Some(0..500)).await.unwrap();
        assert_took(begun, Duration::from_millis(1500));
        target.get(&path("absent"), None).await.unwrap();
        assert_took(begun, Duration::from_millis(1500));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_goes_out_in_pieces() {
        let target = slow();
        let begun = Instant::now();
        let mut upload = target.upload(&path("a"), PutMode::Overwrite).await.unwrap();
        upload.write(vec![7; 3500].into()).await.unwrap();
        assert_took(begun, Duration::from_millis(2500));
        assert_eq!(target.inner.calls(), 5, "upload and four writes");
        upload.finish().await.unwrap();
        assert_eq!(target.inner.get(&path("a"), None).await.unwrap(), Some(Bytes::from(vec![7; 3500])));
    }
}
