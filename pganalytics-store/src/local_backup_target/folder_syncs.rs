use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::folder::{Folder, FolderId};

/// Forces the names in folders to disk, once for all that wait: a sync covers whatever was there when it began.
#[derive(Debug, Default)]
pub(super) struct FolderSyncs {
    folders: Mutex<HashMap<FolderId, Syncs>>,
    ended: Condvar,
    /// Those whose own names are on disk. No folder is ever removed here, so each id stays that of one.
    named: Mutex<HashSet<FolderId>>,
}

/// Those of a folder, from the first caller to the last one.
#[derive(Debug, Default)]
struct Syncs {
    callers: usize,
    begun: u64,
    /// The last one that succeeded.
    succeeded: u64,
    running: bool,
}

impl FolderSyncs {
    /// Returns when the names that are in the folder now are on disk. It may block.
    pub(super) fn sync(&self, folder: &Folder) -> io::Result<()> {
        self.sync_with(folder.id()?, || folder.sync())
    }

    /// Returns when the name of a folder in its parent is on disk, whoever made it: another writer, of this process or not, may
    /// not have come to that yet. It may block.
    pub(super) fn sync_name(&self, folder: &Folder, parent: &Folder) -> io::Result<()> {
        self.sync_name_with(folder.id()?, || self.sync(parent))
    }

    #[cfg(test)]
    pub(super) fn has_synced_name(&self, folder: &Folder) -> bool {
        locked(&self.named).contains(&folder.id().expect("an open folder has an id"))
    }

    fn sync_name_with(&self, id: FolderId, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if !locked(&self.named).contains(&id) {
            sync()?;
            locked(&self.named).insert(id);
        }
        Ok(())
    }

    fn sync_with(&self, id: FolderId, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut folders = locked(&self.folders);
        let syncs = folders.entry(id).or_default();
        syncs.callers += 1;
        // The one that runs may have begun before the name was there.
        let wanted = syncs.begun + 1;
        let synced = loop {
            let syncs = folders.get_mut(&id).expect("callers keep it");
            if syncs.succeeded >= wanted {
                break Ok(());
            }
            if syncs.running {
                folders = self.ended.wait(folders).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            syncs.running = true;
            syncs.begun += 1;
            let number = syncs.begun;
            drop(folders);
            let synced = sync();
            folders = locked(&self.folders);
            let syncs = folders.get_mut(&id).expect("callers keep it");
            syncs.running = false;
            if synced.is_ok() {
                syncs.succeeded = number;
            }
            self.ended.notify_all();
            break synced;
        };
        let syncs = folders.get_mut(&id).expect("callers keep it");
        syncs.callers -= 1;
        if syncs.callers == 0 {
            folders.remove(&id);
        }
        synced
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const FOLDER: FolderId = FolderId { device: 1, inode: 2 };

    /// How many syncs it took when two callers come while the first one's runs, and what these two were told.
    fn beside(first: io::Result<()>) -> (usize, Vec<bool>) {
        let (syncs, count) = (FolderSyncs::default(), AtomicUsize::new(0));
        let ((began, has_begun), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
        let told = thread::scope(|scope| {
            let (syncs, count) = (&syncs, &count);
            scope.spawn(move || {
                let _ = syncs.sync_with(FOLDER, || {
                    count.fetch_add(1, Ordering::SeqCst);
                    began.send(()).unwrap();
                    may_go_on.recv().unwrap();
                    first
                });
            });
            has_begun.recv().unwrap();
            let counted = || {
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            };
            let others = [(); 2].map(|()| scope.spawn(move || syncs.sync_with(FOLDER, counted).is_ok()));
            while locked(&syncs.folders)[&FOLDER].callers < 3 {
                thread::yield_now();
            }
            go_on.send(()).unwrap();
            others.map(|other| other.join().unwrap()).to_vec()
        });
        assert!(locked(&syncs.folders).is_empty(), "nobody waits any more");
        (count.into_inner(), told)
    }

    #[test]
    fn those_who_come_while_one_runs_share_the_next() {
        assert_eq!(beside(Ok(())), (2, vec![true, true]));
    }

    #[test]
    fn failure_of_one_is_no_outcome_for_those_who_came_later() {
        assert_eq!(beside(Err(io::ErrorKind::Other.into())), (2, vec![true, true]));
    }

    #[test]
    fn whoever_comes_afterwards_has_one_of_their_own() {
        let (syncs, mut count) = (FolderSyncs::default(), 0);
        for _ in 0..3 {
            syncs
                .sync_with(FOLDER, || {
                    count += 1;
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(count, 3);
        syncs.sync_with(FOLDER, || Err(io::ErrorKind::Other.into())).unwrap_err();
        assert!(locked(&syncs.folders).is_empty());
    }

    #[test]
    fn name_of_a_folder_is_synced_until_it_was_once() {
        let (syncs, mut count) = (FolderSyncs::default(), 0);
        for outcome in [Err(io::ErrorKind::Other.into()), Ok(()), Ok(())] {
            let _ = syncs.sync_name_with(FOLDER, || {
                count += 1;
                outcome
            });
        }
        assert_eq!(count, 2, "after a failure once more, after a success never again");
    }
}
