use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::spawn_blocking;

type Result = std::result::Result<(), Arc<io::Error>>;

/// Forces what was written to disk, once for all that wait.
#[derive(Debug, Default)]
pub(super) struct GroupCommit {
    state: Mutex<State>,
    failed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// What those wait for who wrote since the last round began.
    round: Option<Round>,
    running: bool,
}

#[derive(Debug)]
struct Round {
    files: Vec<Arc<File>>,
    outcome: watch::Sender<Option<Result>>,
}

/// Something that was written and is not yet safe.
#[derive(Debug)]
pub(super) struct Ticket(watch::Receiver<Option<Result>>);

impl GroupCommit {
    /// Notes that these files were written. To be called in the order of writing.
    pub(super) fn note(&self, files: &[Arc<File>]) -> Ticket {
        let mut state = self.lock();
        let round =
            state.round.get_or_insert_with(|| Round { files: Vec::new(), outcome: watch::Sender::new(None) });
        for file in files {
            if !round.files.iter().any(|other| Arc::ptr_eq(other, file)) {
                round.files.push(Arc::clone(file));
            }
        }
        Ticket(round.outcome.subscribe())
    }

    /// Waits until what the ticket stands for is on disk.
    pub(super) async fn wait(self: &Arc<Self>, mut ticket: Ticket) -> Result {
        if self.begins() {
            let this = Arc::clone(self);
            spawn_blocking(move || this.work());
        }
        match ticket.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
            Err(_) => Err(Arc::new(io::Error::other("the runtime is shutting down"))),
        }
    }

    /// Whether a round failed since the last call. What the kernel could not write it forgets, so that later rounds on
    /// that file say nothing.
    pub(super) fn take_failure(&self) -> bool {
        self.failed.load(Ordering::Relaxed) && self.failed.swap(false, Ordering::Relaxed)
    }

    fn begins(&self) -> bool {
        !std::mem::replace(&mut self.lock().running, true)
    }

    fn work(&self) {
        while let Some(round) = self.next_round() {
            let synced = round.files.iter().try_for_each(|file| file.sync_all()).map_err(Arc::new);
            if synced.is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            round.outcome.send_replace(Some(synced));
        }
    }

    fn next_round(&self) -> Option<Round> {
        let mut state = self.lock();
        let round = state.round.take();
        state.running = round.is_some();
        round
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
