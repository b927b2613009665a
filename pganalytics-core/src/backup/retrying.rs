use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::backup::{
    BackupTarget, BackupTargetError, Capabilities, ObjectInfo, ObjectPath, PutMode, Sha256Digest, Upload,
};
use crate::error::{PortError, Retry};
use crate::random::Random;
use crate::retry::{Attempts, RetryPolicy};

/// Makes calls again that failed in a way which may pass ([`Retry::Later`]).
///
/// A call whose reply was lost may have had its effect, so that the same call, made again, finds that:
/// - A `Create` put that finds its path taken after an attempt of its own compares the checksum: the same bytes count as its
///   own write. Two callers who create the same path with the same bytes may then both succeed.
/// - A `delete` says what its last attempt found: after a lost reply `false`, although the object was there.
/// - An upload is not resumed: a `write` that fails stays failed, and the upload has to begin anew. When the reply to `finish`
///   is lost, the checksum of what was written tells whether the object is there.
#[derive(Debug)]
pub struct RetryingBackupTarget<T> {
    inner: Arc<T>,
    policy: RetryPolicy,
    random: Arc<dyn Random>,
}

impl<T> Clone for RetryingBackupTarget<T> {
    fn clone(&self) -> Self {
        let (inner, random) = (Arc::clone(&self.inner), Arc::clone(&self.random));
        Self { inner, policy: self.policy, random }
    }
}

/// Makes the call until it succeeds or is not to be made again.
macro_rules! retry {
    ($self:ident, $call:expr) => {{
        let mut attempts = $self.attempts();
        loop {
            match $call.await {
                Err(error) if attempts.again(&error).await => {}
                result => return result,
            }
        }
    }};
}

impl<T: BackupTarget> RetryingBackupTarget<T> {
    /// Repeats the calls of a target by this policy.
    pub fn new(inner: T, policy: RetryPolicy, random: Arc<dyn Random>) -> Self {
        Self { inner: Arc::new(inner), policy, random }
    }

    fn attempts(&self) -> Attempts<'_> {
        self.policy.begin(&*self.random)
    }

    async fn holds(&self, path: &ObjectPath, digest: Sha256Digest) -> Result<bool, BackupTargetError> {
        Ok(self.checksum(path).await? == Some(digest))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: BackupTarget> BackupTarget for RetryingBackupTarget<T> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, path: &ObjectPath, bytes: Bytes, mode: PutMode) -> Result<(), BackupTargetError> {
        let mut attempts = self.attempts();
        loop {
            match self.inner.put(path, bytes.clone(), mode).await {
                Err(BackupTargetError::AlreadyExists { .. })
                    if attempts.failed_before() && self.holds(path, Sha256Digest::of(&bytes)).await? =>
                {
                    return Ok(());
                }
                Err(error) if attempts.again(&error).await => {}
                result => return result,
            }
        }
    }

    async fn upload(&self, path: &ObjectPath, mode: PutMode) -> Result<Box<dyn Upload>, BackupTargetError> {
        let mut attempts = self.attempts();
        loop {
            match self.inner.upload(path, mode).await {
                Ok(inner) => {
                    let (target, path) = (self.clone(), path.clone());
                    return Ok(Box::new(RetryingUpload { inner, target, path, hash: Sha256::new() }));
                }
                Err(error) if attempts.again(&error).await => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, BackupTargetError> {
        retry!(self, self.inner.head(path))
    }

    async fn get(
        &self,
        path: &ObjectPath,
        range: Option<Range<u64>>,
    ) -> Result<Option<Bytes>, BackupTargetError> {
        retry!(self, self.inner.get(path, range.clone()))
    }

    async fn list(
        &self,
        prefix: Option<&ObjectPath>,
        after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, BackupTargetError> {
        retry!(self, self.inner.list(prefix, after, limit))
    }

    async fn delete(&self, path: &ObjectPath) -> Result<bool, BackupTargetError> {
        retry!(self, self.inner.delete(path))
    }

    async fn checksum(&self, path: &ObjectPath) -> Result<Option<Sha256Digest>, BackupTargetError> {
        retry!(self, self.inner.checksum(path))
    }
}

#[derive(Debug)]
struct RetryingUpload<T> {
    inner: Box<dyn Upload>,
    target: RetryingBackupTarget<T>,
    path: ObjectPath,
    hash: Sha256,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: BackupTarget> Upload for RetryingUpload<T> {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BackupTargetError> {
        self.hash.update(&bytes);
        self.inner.write(bytes).await
    }

    async fn finish(self: Box<Self>) -> Result<(), BackupTargetError> {
        let Err(error) = self.inner.finish().await else { return Ok(()) };
        if error.retry() == Retry::Later
            && self.target.holds(&self.path, Sha256Digest(self.hash.finalize().into())).await?
        {
            return Ok(());
        }
        Err(error)
    }

    async fn abort(self: Box<Self>) -> Result<(), BackupTargetError> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::MemoryBackupTarget;
    use crate::testing::{Fault, Faulty, ManualClock, SeededRandom, Subject};

    async fn retrying() -> Option<Subject<dyn BackupTarget>> {
        let clock = ManualClock::new();
        let inner = MemoryBackupTarget::new(Arc::new(clock.clone()));
        let random = Arc::new(SeededRandom::new(1));
        let target = RetryingBackupTarget::new(inner, RetryPolicy::default(), random);
        Some(Subject::manual(Arc::new(target), clock))
    }

    crate::backup_contract!(retrying());

    type Target = RetryingBackupTarget<Faulty<MemoryBackupTarget>>;

    fn target(faults: impl IntoIterator<Item = Fault>) -> Target {
        let inner = Faulty::new(MemoryBackupTarget::new(Arc::new(ManualClock::new())));
        inner.plan(faults);
        RetryingBackupTarget::new(inner, RetryPolicy::default(), Arc::new(SeededRandom::new(1)))
    }

    fn path() -> ObjectPath {
        "object".parse().unwrap()
    }

    async fn create(target: &Target, text: &'static str) -> Result<(), BackupTargetError> {
        target.put(&path(), Bytes::from(text), PutMode::Create).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_again() {
        let target = target([]);
        create(&target, "text").await.unwrap();
        let fail_twice = || target.inner.plan([Fault::Fail, Fault::LoseReply]);
        fail_twice();
        assert!(target.head(&path()).await.unwrap().is_some());
        fail_twice();
        assert!(target.get(&path(), None).await.unwrap().is_some());
        fail_twice();
        assert_eq!(target.list(None, None, 10).await.unwrap().len(), 1);
        fail_twice();
        assert!(target.checksum(&path()).await.unwrap().is_some());
        target.inner.plan([Fault::Fail; 2]);
        target.upload(&path(), PutMode::Overwrite).await.unwrap();
        target.inner.plan([Fault::Fail; 2]);
        assert!(target.delete(&path()).await.unwrap());
        assert_eq!(target.inner.calls(), 1 + 6 * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_come_to_an_end() {
        let target = target([Fault::Fail; 5]);
        let error = target.head(&path()).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Later);
        assert_eq!(target.inner.calls(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_pass_is_not_tried_again() {
        let target = target([]);
        create(&target, "text").await.unwrap();
        let refused = create(&target, "text").await;
        assert!(matches!(refused, Err(BackupTargetError::AlreadyExists { .. })), "{refused:?}");
        assert_eq!(target.inner.calls(), 2, "nor is there anything to compare");
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_whose_reply_was_lost_knows_its_own_object() {
        // The put, the put again, the checksum and the checksum again.
        let target = target([Fault::LoseReply, Fault::None, Fault::Fail]);
        create(&target, "mine").await.unwrap();
        assert_eq!(target.inner.calls(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_does_not_take_anothers_object_for_its_own() {
        let target = target([Fault::None, Fault::Fail]);
        create(&target, "theirs").await.unwrap();
        let refused = create(&target, "mine").await;
        assert!(matches!(refused, Err(BackupTargetError::AlreadyExists { .. })), "{refused:?}");
        assert_eq!(target.get(&path(), None).await.unwrap(), Some(Bytes::from("theirs")));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_whose_last_reply_was_lost_is_there() {
        for (fault, arrives) in [(Fault::LoseReply, true), (Fault::Fail, false)] {
            let target = target([Fault::None, Fault::None, Fault::None, fault]);
            let mut upload = target.upload(&path(), PutMode::Create).await.unwrap();
            upload.write(Bytes::from("one ")).await.unwrap();
            upload.write(Bytes::from("two")).await.unwrap();
            assert_eq!(upload.finish().await.is_ok(), arrives, "{fault:?}");
            assert_eq!(target.get(&path(), None).await.unwrap().is_some(), arrives);
        }
    }
}
