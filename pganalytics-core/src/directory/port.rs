use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::auth::ProviderId;
use crate::error::{BackendError, port_error};

/// A directory whose users are mirrored.
///
/// # Contract
/// 1. `a_full_scan_yields_every_entry_once`: a scan from `None` yields each entry once, page after page, then `Complete` with
///    the count of what it yielded.
/// 2. `a_scan_ends_complete_or_in_an_error`: a truncated answer (size limit, lost connection, referral) is `Err`, never
///    `Complete`: whoever is missing from a complete full scan loses access.
/// 3. `an_incremental_scan_yields_what_changed`: a scan from a watermark yields at least every entry that was added or changed
///    since the scan that yielded the watermark, removals as `Removed`; the last word on an entry counts. A directory that
///    cannot tell all of that yields no watermark.
/// 4. `an_expired_watermark_is_refused`: a watermark that the directory no longer knows, or never gave, is `WatermarkLost`, from
///    `scan` or from the first `next`; the caller scans in full.
/// 5. `an_entry_keeps_its_subject`: the subject is the directory's stable id (`objectGUID`, `entryUUID`): renaming or moving an
///    entry keeps it.
/// 6. `a_finished_scan_stays_finished`: after `Complete` or an error `next` is `Err(Finished)`.
/// 7. `an_empty_directory_is_complete`: with count 0. Whether that is believed is the caller's decision.
///
/// A scan is not a snapshot: an entry that changes while it runs may be seen in either form.
#[async_trait]
pub trait UserDirectory: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// The name in the configuration.
    fn id(&self) -> &ProviderId;

    /// Begins a scan: of everything, or of what changed since a watermark.
    async fn scan(&self, since: Option<&Watermark>) -> Result<Box<dyn DirectoryScan>, DirectoryError>;
}

/// A scan in progress.
#[async_trait]
pub trait DirectoryScan: Debug + Send + 'static {
    /// The next step.
    async fn next(&mut self) -> Result<ScanStep, DirectoryError>;
}

/// Where a later scan goes on from; opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermark(pub String);

/// A step of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScanStep {
    /// Some entries.
    Page(Vec<DirectoryEntry>),
    /// These subjects are gone (incremental scans alone).
    Removed(Vec<String>),
    /// That was everything.
    Complete {
        /// How many entries the scan yielded.
        count: u64,
        /// Where the next scan goes on; `None` where the directory offers no such thing.
        watermark: Option<Watermark>,
    },
}

/// A user in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectoryEntry {
    /// The stable id.
    pub subject: String,
    /// The name for sign-in.
    pub username: String,
    /// The mail address.
    pub email: Option<String>,
    /// The name for people.
    pub full_name: Option<String>,
    /// Whether the account may be used.
    pub is_enabled: bool,
    /// The groups, nested ones included.
    pub groups: BTreeSet<String>,
    /// Further attributes, by the names of the configuration.
    pub attributes: BTreeMap<String, Vec<String>>,
}

impl DirectoryEntry {
    /// An enabled entry without optional parts.
    pub fn new(subject: impl Into<String>, username: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            username: username.into(),
            email: None,
            full_name: None,
            is_enabled: true,
            groups: BTreeSet::new(),
            attributes: BTreeMap::new(),
        }
    }
}

/// Why a scan did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The directory stopped before everything was said.
    #[error("directory answered incompletely after {seen} entries: {reason}")]
    Truncated {
        /// Entries seen so far.
        seen: u64,
        /// What the directory said.
        reason: String,
    },
    /// The watermark is no longer known: scan in full.
    #[error("directory no longer knows the watermark")]
    WatermarkLost,
    /// The scan is over.
    #[error("scan is finished")]
    Finished,
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(DirectoryError);

macro_rules! forward_user_directory {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<D: UserDirectory + ?Sized> UserDirectory for $pointer<D> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            fn id(&self) -> &ProviderId {
                (**self).id()
            }

            async fn scan(
                &self,
                since: Option<&Watermark>,
            ) -> Result<Box<dyn DirectoryScan>, DirectoryError> {
                (**self).scan(since).await
            }
        }
    };
}
forward_user_directory!(Arc);
forward_user_directory!(Box);
