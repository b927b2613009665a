//! The collector as a service: one half collects and spools, the other pushes and fetches the configuration. Neither
//! waits for the other.

use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::clock::Clock;
use pganalytics_core::random::{Random, RandomExt};
use tokio::select;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::assembly::{Assembly, Collector, StartError};
use super::client::ConfigText;
use super::config::CollectorConfig;
use super::identity::{StateFolder, StoredConfig};
use super::pass::Wanted;
use super::plan::Plan;
use super::pusher::{Drained, Pusher};
use super::remote_config::ParsedConfig;
use super::schedule::Schedule;

/// Longest time from the wish to stop to the end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Part of it for the last collection.
const LAST_COLLECTION_LIMIT: Duration = Duration::from_secs(4);

/// Rounds of pushes at the end, if the server answers at all.
const LAST_TRIES: usize = 3;

/// The schedule looks at the clock at least this often: it may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Wait after a configuration that could not be fetched, at most.
const PULL_RETRY: Duration = Duration::from_secs(60);

/// Collects and pushes until it is told to stop; then collects a last time, and pushes what it can within ten seconds.
/// The rest stays in the spool.
///
/// The process needs a default TLS provider (`CryptoProvider::install_default`) before.
///
/// # Errors
/// When the collector cannot start. Nothing that happens later ends it.
pub async fn run(
    config: CollectorConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    stop: CancellationToken,
) -> Result<(), StartError> {
    let assembly = Assembly::new(config, Arc::clone(&clock), Arc::clone(&random), false)?;
    tracing::info!(
        node = %assembly.node.id,
        server = %assembly.config.server.url,
        instances = assembly.config.instances.len(),
        spooled = assembly.shared.spool().status().batches,
        "started"
    );
    warn_of_odd_settings(&assembly.config);
    let known = Known {
        plan: assembly.plan,
        config_version: assembly.config_version,
        collector_id: assembly.pusher.collector_id(),
    };
    let (known, watched) = watch::channel(known);
    let spooled = Arc::new(Notify::new());
    let collecting = Collecting {
        collector: assembly.collector,
        known: watched,
        spooled: Arc::clone(&spooled),
        schedule: Schedule::new(assembly.node.id),
        clock,
        stop: stop.clone(),
    };
    let mut pushing = Pushing {
        pusher: assembly.pusher,
        known,
        state: assembly.state,
        config: assembly.config,
        stored_text: assembly.stored_config.map(|stored| stored.text),
        spooled,
        random,
        stop,
    };
    let (deadline, ()) = tokio::join!(collecting.run(), pushing.run());
    pushing.flush(deadline).await;
    Ok(())
}

/// What the pushing half learns and the collecting half goes by.
#[derive(Clone, Debug)]
struct Known {
    plan: Plan,
    config_version: Option<i64>,
    collector_id: String,
}

struct Collecting {
    collector: Collector,
    known: watch::Receiver<Known>,
    spooled: Arc<Notify>,
    schedule: Schedule,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
}

impl Collecting {
    /// Returns when everything has to be over.
    async fn run(mut self) -> Instant {
        loop {
            let known = self.known.borrow_and_update().clone();
            self.schedule.set(known.plan.intervals.clone());
            let due = self.schedule.take_due(self.clock.now());
            if !due.is_empty() {
                let wanted = known.plan.wanted(due);
                if let Some(deadline) = self.collect_unless_stopped(&wanted, &known).await {
                    return deadline;
                }
            }
            let wait = self.schedule.until_next(self.clock.now()).unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
            select! {
                () = sleep(wait) => {}
                changed = self.known.changed() => {
                    // The other half ends only when both do.
                    if changed.is_err() { self.stop.cancelled().await }
                }
                () = self.stop.cancelled() => {}
            }
            if self.stop.is_cancelled() {
                return self.collect_last().await;
            }
        }
    }

    /// A collection that is under way when the stop comes is the last one, if it ends soon.
    async fn collect_unless_stopped(&self, wanted: &Wanted, known: &Known) -> Option<Instant> {
        let collection = self.collect(wanted, known);
        tokio::pin!(collection);
        select! {
            () = &mut collection => None,
            () = self.stop.cancelled() => {
                let deadline = Instant::now() + STOP_LIMIT;
                if timeout(LAST_COLLECTION_LIMIT, collection).await.is_err() {
                    tracing::warn!("gave up the last collection");
                }
                Some(deadline)
            }
        }
    }

    async fn collect_last(&mut self) -> Instant {
        let deadline = Instant::now() + STOP_LIMIT;
        let known = self.known.borrow_and_update().clone();
        let wanted = known.plan.everything();
        if timeout(LAST_COLLECTION_LIMIT, self.collect(&wanted, &known)).await.is_err() {
            tracing::warn!("gave up the last collection");
        }
        deadline
    }

    async fn collect(&self, wanted: &Wanted, known: &Known) {
        match self.collector.collect(wanted, &known.collector_id, known.config_version).await {
            Ok(spooled) => {
                tracing::debug!(
                    entries = spooled.collected.entries.len(),
                    failures = spooled.collected.failures.len(),
                    bytes = spooled.bytes,
                    "collected"
                );
                self.spooled.notify_one();
            }
            Err(error) => tracing::error!(error = super::client::chain(&error), "what was collected is lost"),
        }
    }
}

struct Pushing {
    pusher: Pusher,
    known: watch::Sender<Known>,
    state: Arc<StateFolder>,
    config: CollectorConfig,
    stored_text: Option<String>,
    spooled: Arc<Notify>,
    random: Arc<dyn Random>,
    stop: CancellationToken,
}

impl Pushing {
    async fn run(&mut self) {
        let stop = self.stop.clone();
        // A push that is cut off is sent again with the same key.
        select! {
            () = self.push_for_ever() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn push_for_ever(&mut self) {
        let mut resume: Option<Instant> = None;
        let mut next_pull = self.config.server.accept_config.then(Instant::now);
        let mut pulled_for = self.known.borrow().config_version;
        loop {
            if next_pull.is_some_and(|at| at <= Instant::now()) {
                let wait = self.pull().await;
                next_pull = Some(Instant::now() + wait);
            }
            if resume.is_none_or(|at| at <= Instant::now()) {
                resume = self.drain().await.map(|wait| Instant::now() + wait);
            }
            // The server names the version of the configuration with each push: a new one is fetched at once.
            let named = self.pusher.named_config_version;
            if next_pull.is_some() && named.is_some() && named != pulled_for {
                pulled_for = named;
                if named != self.known.borrow().config_version {
                    next_pull = Some(Instant::now());
                    continue;
                }
            }
            select! {
                () = self.spooled.notified(), if resume.is_none() => {}
                () = until(resume) => {}
                () = until(next_pull) => {}
            }
        }
    }

    /// Pushes what there is. Returns how long to wait when that did not work.
    async fn drain(&mut self) -> Option<Duration> {
        let drained = self.pusher.drain().await;
        let id = self.pusher.collector_id();
        self.known.send_if_modified(|known| {
            let differs = known.collector_id != id;
            known.collector_id = id;
            differs
        });
        match drained {
            Drained::Empty => None,
            Drained::Wait { wait, reason } => {
                tracing::warn!(reason, wait_ms = wait.as_millis(), "cannot push, keeping the data");
                Some(wait)
            }
        }
    }

    /// Fetches the configuration. Returns how long to wait for the next time.
    async fn pull(&mut self) -> Duration {
        let interval = self.known.borrow().plan.config_pull;
        match self.pusher.pull_config().await {
            Ok(Some(text)) => {
                self.apply(&text);
                self.jittered(self.known.borrow().plan.config_pull)
            }
            Ok(None) => self.jittered(interval),
            Err(error) => {
                tracing::info!(%error, "the configuration could not be fetched, keeping the last one");
                self.jittered(interval.min(PULL_RETRY))
            }
        }
    }

    fn apply(&mut self, given: &ConfigText) {
        if self.stored_text.as_ref() != Some(&given.text) {
            let parsed = ParsedConfig::parse(&given.text);
            for key in &parsed.refused {
                tracing::warn!(key, "the server sets a key that has no effect here");
            }
            let plan = Plan::new(&self.config, &parsed.config);
            self.known.send_modify(|known| known.plan = plan);
            tracing::info!(version = given.version, "applied the server's configuration");
            self.stored_text = Some(given.text.clone());
            let stored = StoredConfig { version: given.version, text: given.text.clone() };
            if let Err(error) = self.state.store_config(&stored) {
                tracing::warn!(%error, "the configuration cannot be stored for the next start");
            }
        }
        self.known.send_if_modified(|known| {
            known.config_version = given.version;
            false
        });
    }

    /// Nine to eleven tenths of a time.
    fn jittered(&self, time: Duration) -> Duration {
        time.mul_f64(0.9 + 0.2 * self.random.next_fraction())
    }

    /// Pushes what is left, as long as there is time and the server answers.
    async fn flush(&mut self, deadline: Instant) {
        let flush = async {
            for _ in 0..LAST_TRIES {
                match self.drain().await {
                    None => return true,
                    Some(wait) => sleep(wait.min(Duration::from_secs(1))).await,
                }
            }
            false
        };
        if !timeout_at(deadline, flush).await.unwrap_or(false) {
            tracing::warn!("not everything could be pushed, the rest stays in the spool");
        }
    }
}

/// Waits for a moment, or for ever when there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn warn_of_odd_settings(config: &CollectorConfig) {
    if config.instances.is_empty() {
        tracing::warn!("no `[[instances]]` are configured: only this host is watched");
    }
    let url = &config.server.url;
    let is_local =
        url.host_str().is_some_and(|host| host == "localhost" || host.starts_with("127.") || host == "[::1]");
    if url.scheme() == "http" && !is_local {
        tracing::warn!("`server.url` is not https: tokens and statistics travel in the open");
    }
}

#[cfg(test)]
mod tests {
    use pganalytics_core::clock::SystemClock;
    use pganalytics_core::random::OsRandom;

    use super::*;

    #[tokio::test]
    async fn a_collector_runs_as_a_task_of_another_program_and_ends_with_it() {
        // Another test of this process may have been first.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let folder = tempfile::tempdir().unwrap();
        let mut config = CollectorConfig::default();
        config.server.url = "http://127.0.0.1:1".parse().unwrap();
        config.node.state_dir = folder.path().join("state");
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(config, Arc::new(SystemClock), Arc::new(OsRandom), stop.clone()));
        let spool = folder.path().join("state/spool");
        let spooled = async || {
            let files = std::fs::read_dir(&spool).into_iter().flatten();
            files
                .filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|kind| kind == "batch"))
                .count()
                > 0
        };
        assert!(pganalytics_testkit::wait_until(Duration::from_secs(20), spooled).await);
        stop.cancel();
        timeout(STOP_LIMIT + Duration::from_secs(5), running).await.unwrap().unwrap().unwrap();
    }
}
