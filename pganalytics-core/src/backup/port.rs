use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::backup::ObjectPath;
use crate::error::{BackendError, port_error};

/// The largest object that `put` takes, in bytes; larger ones go through `upload`.
pub const PUT_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Objects by path, written whole.
///
/// # Contract
/// 1. `a_put_object_is_read_back`: bytes, size and checksum; an empty object is an object.
/// 2. `an_absent_object_is_none`: for `head`, `get` and `checksum`.
/// 3. `a_put_is_atomic`: no reader ever sees a part of an object, whether the put succeeds, fails or is killed.
/// 4. `create_has_one_winner`: of concurrent `Create` puts of one path exactly one succeeds, the others are `AlreadyExists`, and
///    the object is the winner's. Binds targets with [`Capabilities::create_only`]; the others refuse `Create` as `Unsupported`.
/// 5. `overwriting_replaces_the_whole_object`: nothing of a longer former object remains.
/// 6. `a_range_is_read`: `get` with a range yields exactly these bytes, cut at the end of the object; a range that begins at or
///    after the end, is empty or runs backwards yields an object's bytes all the same: none.
/// 7. `a_list_is_complete_and_ordered`: `list` yields every object under the prefix in byte order of the whole paths (`a-b` before
///    `a/b`), from after the given path, which need not exist, at most `limit`. Under the prefix `a` is `a/b`, but neither `ab/c`
///    nor `a` itself.
/// 8. `a_deleted_object_is_gone`: `true` if it was there; deleting an absent one is `false`. Of concurrent deletes more than one
///    may be told `true`.
/// 9. `an_upload_is_visible_when_finished`: and not before; in order of its writes. Until then a former object stays.
/// 10. `an_aborted_upload_leaves_nothing`: nor does a dropped one leave anything visible.
/// 11. `an_upload_can_be_create_only`: `finish` of an upload begun with `Create` is `AlreadyExists` if the path was taken by then,
///     and the object that took it stays. Where clause 4 does not bind, `upload` with `Create` is `Unsupported`.
/// 12. `the_checksum_is_of_the_stored_bytes`: `checksum` is SHA-256 over what a reader would get, computed or verified by the
///    backend at rest where it can, read back where it cannot.
/// 13. `an_oversized_put_is_refused`: over [`PUT_MAX_BYTES`] is `TooLarge`.
/// 14. `a_full_target_says_so`: `Full` from `put`, or from an upload's `write` or `finish`; the former object stays. Binds targets
///     that can be filled.
///
/// No path may be the beginning of another (`a` and `a/b`): a directory cannot hold both, and a target may refuse the second.
#[async_trait]
pub trait BackupTarget: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// What this target can do.
    fn capabilities(&self) -> Capabilities;

    /// Writes an object.
    async fn put(&self, path: &ObjectPath, bytes: Bytes, mode: PutMode) -> Result<(), BackupTargetError>;

    /// Begins to write a large object.
    async fn upload(&self, path: &ObjectPath, mode: PutMode) -> Result<Box<dyn Upload>, BackupTargetError>;

    /// Size and time of an object.
    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, BackupTargetError>;

    /// The bytes of an object, or of a part of it. Read large objects in ranges.
    async fn get(
        &self,
        path: &ObjectPath,
        range: Option<Range<u64>>,
    ) -> Result<Option<Bytes>, BackupTargetError>;

    /// Objects under a prefix, in order of their paths, after `after`.
    async fn list(
        &self,
        prefix: Option<&ObjectPath>,
        after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, BackupTargetError>;

    /// Removes an object; `true` if it was there.
    async fn delete(&self, path: &ObjectPath) -> Result<bool, BackupTargetError>;

    /// SHA-256 of an object.
    async fn checksum(&self, path: &ObjectPath) -> Result<Option<Sha256Digest>, BackupTargetError>;
}

/// A large object that is being written.
#[async_trait]
pub trait Upload: Debug + Send + 'static {
    /// Adds bytes.
    async fn write(&mut self, bytes: Bytes) -> Result<(), BackupTargetError>;

    /// Makes the object visible.
    async fn finish(self: Box<Self>) -> Result<(), BackupTargetError>;

    /// Gives it up and removes what was written.
    async fn abort(self: Box<Self>) -> Result<(), BackupTargetError>;
}

/// Whether an existing object is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// The object must not exist.
    Create,
    /// The object is replaced.
    Overwrite,
}

/// What a target can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// [`PutMode::Create`] is atomic.
    pub create_only: bool,
    /// Objects can be locked against deletion for a time.
    pub retention_lock: bool,
}

impl Capabilities {
    /// Says whether [`PutMode::Create`] is atomic.
    #[must_use]
    pub fn with_create_only(self, create_only: bool) -> Self {
        Self { create_only, ..self }
    }

    /// Says whether objects can be locked.
    #[must_use]
    pub fn with_retention_lock(self, retention_lock: bool) -> Self {
        Self { retention_lock, ..self }
    }
}

/// An object, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectInfo {
    /// Its path.
    pub path: ObjectPath,
    /// Its bytes.
    pub size: u64,
    /// When it was written, by the target's clock.
    pub modified_at: DateTime<Utc>,
}

impl ObjectInfo {
    /// All parts. For adapters.
    pub fn new(path: ObjectPath, size: u64, modified_at: DateTime<Utc>) -> Self {
        Self { path, size, modified_at }
    }
}

/// A SHA-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

impl Sha256Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// Why a target did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupTargetError {
    /// The object exists.
    #[error("object `{path}` exists")]
    AlreadyExists {
        /// The path.
        path: ObjectPath,
    },
    /// The object is too large for `put`.
    #[error("object `{path}` has {size} bytes, limit is {limit}")]
    TooLarge {
        /// The path.
        path: ObjectPath,
        /// Bytes of the object.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// There is no room for the object.
    #[error("no room for object `{path}`")]
    Full {
        /// The path.
        path: ObjectPath,
    },
    /// The target cannot do this.
    #[error("{target} cannot {operation}")]
    Unsupported {
        /// The target.
        target: &'static str,
        /// What was asked for.
        operation: &'static str,
    },
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(BackupTargetError);

/// The check of clause 13, for adapters.
///
/// # Errors
/// `TooLarge`.
pub fn check_put(path: &ObjectPath, bytes: &[u8]) -> Result<(), BackupTargetError> {
    if bytes.len() > PUT_MAX_BYTES {
        let (path, size) = (path.clone(), bytes.len());
        return Err(BackupTargetError::TooLarge { path, size, limit: PUT_MAX_BYTES });
    }
    Ok(())
}

macro_rules! forward_backup_target {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<T: BackupTarget + ?Sized> BackupTarget for $pointer<T> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            fn capabilities(&self) -> Capabilities {
                (**self).capabilities()
            }

            async fn put(
                &self,
                path: &ObjectPath,
                bytes: Bytes,
                mode: PutMode,
            ) -> Result<(), BackupTargetError> {
                (**self).put(path, bytes, mode).await
            }

            async fn upload(
                &self,
                path: &ObjectPath,
                mode: PutMode,
            ) -> Result<Box<dyn Upload>, BackupTargetError> {
                (**self).upload(path, mode).await
            }

            async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, BackupTargetError> {
                (**self).head(path).await
            }

            async fn get(
                &self,
                path: &ObjectPath,
                range: Option<Range<u64>>,
            ) -> Result<Option<Bytes>, BackupTargetError> {
                (**self).get(path, range).await
            }

            async fn list(
                &self,
                prefix: Option<&ObjectPath>,
                after: Option<&ObjectPath>,
                limit: usize,
            ) -> Result<Vec<ObjectInfo>, BackupTargetError> {
                (**self).list(prefix, after, limit).await
            }

            async fn delete(&self, path: &ObjectPath) -> Result<bool, BackupTargetError> {
                (**self).delete(path).await
            }

            async fn checksum(&self, path: &ObjectPath) -> Result<Option<Sha256Digest>, BackupTargetError> {
                (**self).checksum(path).await
            }
        }
    };
}
forward_backup_target!(Arc);
forward_backup_target!(Box);
