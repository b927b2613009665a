//! Whether the server is starting, serving or going down.

use std::sync::Arc;

use tokio::sync::watch;

/// Where a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Waiting for what it needs.
    Starting,
    /// Serving.
    Ready,
    /// Still serving, but no longer to be sent anything new.
    Draining,
    /// Finishing what was begun.
    Stopping,
}

impl Phase {
    /// The name in health answers and in the table of running servers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

/// The phase of this server, for everybody to read and to wait for.
#[derive(Clone, Debug)]
pub struct Lifecycle(Arc<watch::Sender<Phase>>);

impl Lifecycle {
    /// A server that is starting.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Starting)))
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Goes on to a later phase; an earlier one is ignored.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let later = phase > *current;
            *current = (*current).max(phase);
            later
        });
    }

    /// Waits until the phase has been reached.
    pub async fn reached(&self, phase: Phase) {
        let mut receiver = self.0.subscribe();
        // The sender lives as long as this.
        let _ = receiver.wait_for(|current| *current >= phase).await;
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}
