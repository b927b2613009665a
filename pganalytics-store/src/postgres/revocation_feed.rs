use std::sync::Arc;
use std::time::{Duration, Instant};

use pganalytics_core::error::BackendError;
use pganalytics_core::notifier::Notifier;
use pganalytics_core::revocation::{Freshness, RevocationListener};
use sqlx::PgConnection;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::database::Database;
use super::error::StoreError;
use super::revocations::{self, CHANNEL, RevocationMark};

/// Between two reads, so that a burst of notifications does not make a burst of reads.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// How long to wait after a subscription that failed.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(1);

/// Limits of a [`RevocationFeed`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RevocationFeedConfig {
    /// How often the table is read, whatever notifications say. Every 400 milliseconds unless told otherwise.
    pub poll: Duration,
    /// How old what is remembered may be when it is used: a second unless told otherwise. Longer than two polls, so that
    /// one may be late.
    pub bound: Duration,
    /// Rows are removed when everybody has been able to see them for so long: two minutes unless told otherwise. Servers
    /// that could not read for longer than `bound` forget everything, so that this may be any time that is much longer.
    pub keep: Duration,
}

impl Default for RevocationFeedConfig {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(400),
            bound: Duration::from_secs(1),
            keep: Duration::from_secs(120),
        }
    }
}

impl RevocationFeedConfig {
    /// Sets how often the table is read.
    #[must_use]
    pub fn with_poll(self, poll: Duration) -> Self {
        Self { poll, ..self }
    }

    /// Sets how old what is remembered may be when it is used.
    #[must_use]
    pub fn with_bound(self, bound: Duration) -> Self {
        Self { bound, ..self }
    }

    /// Sets for how long rows are kept.
    #[must_use]
    pub fn with_keep(self, keep: Duration) -> Self {
        Self { keep, ..self }
    }
}

/// Tells a listener what every server has revoked, and everybody whether that is current.
///
/// It reads the table `revocations` over a session of its own at the direct address, at each poll and whenever a
/// notification says that there is something. [`Freshness`] lasts for `bound` from the beginning of the last read that
/// succeeded: an answer from memory that is given while it is fresh is at most that old, whether notifications arrive or
/// not, and also when the server that revoked died with its commit. When reads fail for longer, or the process was
/// stopped, it is over, and everything is forgotten before it begins again.
///
/// The task ends when this is dropped, and so does the freshness.
#[derive(Debug)]
pub struct RevocationFeed {
    freshness: Freshness,
    tasks: [JoinHandle<()>; 2],
}

impl RevocationFeed {
    /// Starts reading, on a migrated database. The freshness, which has not begun yet, begins with the first read.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        database: Database,
        notifier: Arc<dyn Notifier>,
        listener: Arc<dyn RevocationListener>,
        freshness: Freshness,
        config: RevocationFeedConfig,
    ) -> Self {
        let wake = Arc::new(Notify::new());
        let reader = Reader {
            database,
            listener,
            config,
            freshness: freshness.clone(),
            wake: Arc::clone(&wake),
            connection: None,
            position: None,
            to_be_swept: None,
            is_failing: false,
        };
        let hearing = tokio::spawn(hear(notifier, wake));
        Self { freshness, tasks: [tokio::spawn(reader.run()), hearing] }
    }
}

impl Drop for RevocationFeed {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.freshness.end();
    }
}

struct Reader {
    database: Database,
    listener: Arc<dyn RevocationListener>,
    config: RevocationFeedConfig,
    freshness: Freshness,
    wake: Arc<Notify>,
    connection: Option<PgConnection>,
    /// Up to where everything was forgotten, and when that was read.
    position: Option<(RevocationMark, Instant)>,
    /// Is swept when it is old enough.
    to_be_swept: Option<(RevocationMark, Instant)>,
    is_failing: bool,
}

impl Reader {
    async fn run(mut self) {
        loop {
            let begun = Instant::now();
            match self.read_in_time().await {
                Ok(()) => self.is_failing = false,
                Err(error) => self.fail(&error),
            }
            sleep(MIN_INTERVAL).await;
            // Ends with the time or with a notification, which is all the same.
            let _ = timeout(self.config.poll.saturating_sub(begun.elapsed()), self.wake.notified()).await;
        }
    }

    async fn read_in_time(&mut self) -> Result<(), StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.database.direct().await?,
        };
        // A read that takes longer helps little: freshness counts from its beginning.
        match timeout(self.config.bound / 2, self.read(&mut connection)).await {
            Ok(read) => read?,
            Err(late) => return Err(BackendError::later("postgres", late).into()),
        }
        self.connection = Some(connection);
        Ok(())
    }

    async fn read(&mut self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let begun = Instant::now();
        let (mark, revoked) = match &self.position {
            None => (revocations::mark(connection).await?, None),
            Some((mark, at)) => {
                let since = revocations::since(connection, mark).await?;
                let is_complete = self.keeps(begun.duration_since(*at)) && self.keeps(since.mark.since(mark));
                (since.mark, since.revoked.filter(|_| is_complete))
            }
        };
        match &revoked {
            Some(revoked) => revoked.iter().for_each(|revoked| self.listener.forget(revoked)),
            None => self.listener.forget_everything(),
        }
        self.freshness.extend(begun + self.config.bound);
        self.position = Some((mark.clone(), begun));
        self.sweep(connection, mark, begun).await
    }

    /// Whether nothing that became visible in so much time has been swept. Both this process's clock and PostgreSQL's
    /// are asked: one of them stands still while its machine is suspended.
    fn keeps(&self, time: Duration) -> bool {
        time < self.config.keep / 2
    }

    async fn sweep(
        &mut self,
        connection: &mut PgConnection,
        mark: RevocationMark,
        now: Instant,
    ) -> Result<(), StoreError> {
        if let Some((old, at)) = &self.to_be_swept {
            if now.duration_since(*at) < self.config.keep {
                return Ok(());
            }
            revocations::sweep(connection, old).await?;
        }
        self.to_be_swept = Some((mark, now));
        Ok(())
    }

    fn fail(&mut self, error: &StoreError) {
        if !self.is_failing {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "revocations cannot be read: soon nothing is remembered"
            );
        }
        self.is_failing = true;
    }
}

/// Wakes the reader at each notification, and when one may have been missed.
async fn hear(notifier: Arc<dyn Notifier>, wake: Arc<Notify>) {
    loop {
        match notifier.subscribe(CHANNEL).await {
            Ok(mut subscription) => loop {
                subscription.next().await;
                wake.notify_one();
            },
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "revocations are only polled");
                sleep(SUBSCRIBE_AGAIN).await;
            }
        }
    }
}
