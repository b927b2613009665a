use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;

use crate::auth::ProviderId;
use crate::directory::{DirectoryEntry, DirectoryError, DirectoryScan, ScanStep, UserDirectory, Watermark};

const PAGE_SIZE: NonZeroUsize = NonZeroUsize::new(100).expect("100 is not zero");

/// A directory in this process that tests and demos can change, cut short and make forgetful.
#[derive(Debug)]
pub struct MemoryUserDirectory {
    id: ProviderId,
    page_size: NonZeroUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Each with the number of its last change; `None` for one that was removed.
    entries: BTreeMap<String, (u64, Option<DirectoryEntry>)>,
    changes: u64,
    /// Watermarks of earlier eras are no longer known.
    era: u64,
    truncated_after: Option<usize>,
}

impl MemoryUserDirectory {
    /// An empty directory.
    pub fn new(id: ProviderId) -> Self {
        Self { id, page_size: PAGE_SIZE, state: Mutex::default() }
    }

    /// Sets how many entries a page has at most, 100 unless told otherwise.
    #[must_use]
    pub fn with_page_size(self, page_size: NonZeroUsize) -> Self {
        Self { page_size, ..self }
    }

    /// Adds an entry, or replaces the one of the same subject.
    pub fn put(&self, entry: DirectoryEntry) {
        let mut state = self.lock();
        state.changes += 1;
        let change = state.changes;
        state.entries.insert(entry.subject.clone(), (change, Some(entry)));
    }

    /// Removes an entry; `false` if there is none of that subject.
    pub fn remove(&self, subject: &str) -> bool {
        let mut state = self.lock();
        let change = state.changes + 1;
        let Some(entry @ (_, Some(_))) = state.entries.get_mut(subject) else { return false };
        *entry = (change, None);
        state.changes = change;
        true
    }

    /// Lets scans that begin from now on fail after so many entries, as at a size limit; `None` for never.
    pub fn truncate_after(&self, entries: Option<usize>) {
        self.lock().truncated_after = entries;
    }

    /// Forgets every watermark that was given so far, and what was removed.
    pub fn expire_watermarks(&self) {
        let mut state = self.lock();
        state.era += 1;
        state.entries.retain(|_, (_, entry)| entry.is_some());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl State {
    fn watermark(&self) -> Watermark {
        Watermark(format!("{}:{}", self.era, self.changes))
    }

    /// The number of the last change that the watermark covers.
    fn change_of(&self, watermark: &Watermark) -> Option<u64> {
        let (era, change) = watermark.0.split_once(':')?;
        let change = change.parse().ok().filter(|change| *change <= self.changes)?;
        (era.parse() == Ok(self.era)).then_some(change)
    }

    fn steps(
        &self,
        since: Option<u64>,
        page_size: NonZeroUsize,
    ) -> VecDeque<Result<ScanStep, DirectoryError>> {
        let changed = || self.entries.iter().filter(|(_, (change, _))| *change > since.unwrap_or(0));
        let mut present: Vec<DirectoryEntry> =
            changed().filter_map(|(_, (_, entry))| entry.clone()).collect();
        let limit = self.truncated_after.filter(|limit| *limit < present.len());
        present.truncate(limit.unwrap_or(usize::MAX));
        let count = present.len() as u64;
        let pages = present.chunks(page_size.get()).map(|page| Ok(ScanStep::Page(page.to_vec())));
        let mut steps: VecDeque<_> = pages.collect();
        if limit.is_some() {
            let reason = "size limit exceeded".into();
            steps.push_back(Err(DirectoryError::Truncated { seen: count, reason }));
            return steps;
        }
        let removed: Vec<String> = changed()
            .filter(|(_, (_, entry))| since.is_some() && entry.is_none())
            .map(|(subject, _)| subject.clone())
            .collect();
        if !removed.is_empty() {
            steps.push_back(Ok(ScanStep::Removed(removed)));
        }
        steps.push_back(Ok(ScanStep::Complete { count, watermark: Some(self.watermark()) }));
        steps
    }
}

#[async_trait]
impl UserDirectory for MemoryUserDirectory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn id(&self) -> &ProviderId {
        &self.id
    }

    async fn scan(&self, since: Option<&Watermark>) -> Result<Box<dyn DirectoryScan>, DirectoryError> {
        let state = self.lock();
        let since = match since {
            Some(watermark) => Some(state.change_of(watermark).ok_or(DirectoryError::WatermarkLost)?),
            None => None,
        };
        Ok(Box::new(MemoryScan { steps: state.steps(since, self.page_size) }))
    }
}

/// What a scan will say: all of it is known when it begins.
#[derive(Debug)]
struct MemoryScan {
    steps: VecDeque<Result<ScanStep, DirectoryError>>,
}

#[async_trait]
impl DirectoryScan for MemoryScan {
    async fn next(&mut self) -> Result<ScanStep, DirectoryError> {
        self.steps.pop_front().unwrap_or(Err(DirectoryError::Finished))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::testing::Faulty;
    use crate::testing::user_directory::UserDirectoryFixture;

    #[derive(Debug)]
    struct Fixture {
        directory: Arc<MemoryUserDirectory>,
        last_id: AtomicUsize,
    }

    #[async_trait]
    impl UserDirectoryFixture for Fixture {
        fn directory(&self) -> Arc<dyn UserDirectory> {
            Arc::new(Faulty::new(Box::new(Arc::clone(&self.directory))))
        }

        async fn add(&self, username: &str) -> String {
            let subject = self.last_id.fetch_add(1, Ordering::SeqCst).to_string();
            self.directory.put(DirectoryEntry::new(&subject, username));
            subject
        }

        async fn rename(&self, subject: &str, username: &str) {
            self.directory.put(DirectoryEntry::new(subject, username));
        }

        async fn remove(&self, subject: &str) {
            assert!(self.directory.remove(subject));
        }

        async fn truncate(&self) -> bool {
            self.directory.truncate_after(Some(12));
            true
        }

        async fn expire_watermarks(&self) -> bool {
            self.directory.expire_watermarks();
            true
        }
    }

    async fn memory() -> Option<Fixture> {
        let directory = MemoryUserDirectory::new(ProviderId("memory".into()));
        let directory = directory.with_page_size(NonZeroUsize::new(10).unwrap());
        Some(Fixture { directory: Arc::new(directory), last_id: AtomicUsize::new(1) })
    }

    crate::user_directory_contract!(memory());

    #[tokio::test]
    async fn a_removal_is_told_from_the_watermark_of_an_empty_directory() {
        let directory = MemoryUserDirectory::new(ProviderId("memory".into()));
        let watermark = directory.lock().watermark();
        directory.put(DirectoryEntry::new("1", "fleeting"));
        assert!(directory.remove("1"));
        assert!(!directory.remove("1"));
        let mut scan = directory.scan(Some(&watermark)).await.unwrap();
        assert_eq!(scan.next().await.unwrap(), ScanStep::Removed(vec!["1".into()]));
    }
}
