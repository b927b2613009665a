use std::io;
use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::audit::AuditSink;
use pganalytics_core::random::RandomExt;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::bisect::{self, Outcome, explain};
use super::quarantine::{self, Entry, Quarantine};
use super::queue::Queue;
use super::reader::{Batch, Reader};
use super::shared::Spill;
use super::status::SinkState;
use crate::audit::blocking::blocking;

/// So long a call of the sink may still take once the drain is to stop.
const STOPPING: Duration = Duration::from_secs(5);

/// The most events of a batch while the sink refuses each of them.
const DOUBTFUL: usize = 16;

/// Takes events from the queues to one sink.
pub(super) struct Drain {
    spill: Arc<Spill>,
    index: usize,
    sink: Arc<dyn AuditSink>,
    quarantine: Quarantine,
    reader: Reader,
    failures: u32,
    /// Since when the sink refuses every event for good.
    refusing: Option<Instant>,
}

/// What to do after a step.
enum Next {
    /// There is more.
    Step,
    /// There are a few events, which wait for others.
    Gather,
    /// The sink is to have a rest.
    After(Duration),
    /// There is nothing.
    Wait,
}

impl Drain {
    pub(super) fn new(spill: &Arc<Spill>, index: usize, sink: Arc<dyn AuditSink>) -> Self {
        let quarantine = Quarantine {
            folder: spill.folder.quarantine(),
            sink: spill.sinks[index].name.clone(),
            instance: spill.instance,
            max_bytes: spill.config.quarantine_max_bytes,
        };
        let spill = Arc::clone(spill);
        Self { spill, index, sink, quarantine, reader: Reader::default(), failures: 0, refusing: None }
    }

    /// Delivers until it is stopped; a call of the sink that has begun has some seconds to finish.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let stepped = tokio::select! {
                biased;
                stepped = self.step() => stepped,
                () = stop_is_overdue(&stop) => return,
            };
            let next = stepped.unwrap_or_else(|reason| Next::After(self.fail(reason)));
            let (spill, index) = (&self.spill, self.index);
            let pause = async {
                match next {
                    Next::Step => {}
                    Next::Gather => spill.gathered().await,
                    Next::After(pause) => sleep(pause).await,
                    Next::Wait => {
                        spill.woken(index).await;
                        spill.gathered().await;
                    }
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = pause => {}
            }
        }
    }

    /// Delivers a batch, or says why it cannot.
    async fn step(&mut self) -> Result<Next, String> {
        let queues = self.spill.queues();
        for queue in queues {
            let batch = self.read(&queue).await.map_err(|error| explain(&error))?;
            let Some(batch) = batch else { continue };
            self.deliver(&queue, batch).await?;
            let waiting = self.spill.backlog(self.index).events;
            return Ok(match waiting {
                0 => Next::Wait,
                many if self.spill.config.is_enough(many) => Next::Step,
                _ => Next::Gather,
            });
        }
        Ok(Next::Wait)
    }

    async fn read(&mut self, queue: &Arc<Queue>) -> io::Result<Option<Batch>> {
        let limit = if self.refusing.is_some() { DOUBTFUL } else { usize::MAX };
        let limit = self.spill.config.batch.min(limit);
        let (queue, index, mut reader) = (Arc::clone(queue), self.index, std::mem::take(&mut self.reader));
        let (reader, batch) = blocking(move || {
            let batch = reader.read(&queue, index, limit)?;
            Ok((reader, batch))
        })
        .await?;
        self.reader = reader;
        Ok(batch)
    }

    async fn deliver(&mut self, queue: &Queue, batch: Batch) -> Result<(), String> {
        self.state().take_in_hand(batch.oldest());
        let outcome = bisect::deliver(&*self.sink, &batch.events, self.spill.config.deadline).await;
        self.believe(&outcome)?;
        self.keep_refused(&batch, &outcome).await.map_err(|error| explain(&error))?;
        queue.advance(self.index, batch.position_after(outcome.settled));
        let refused = outcome.refused.len() + batch.unreadable.len();
        self.state().settle(outcome.accepted as u64, refused as u64);
        if self.spill.reclaim() {
            self.spill.report_dropped();
        }
        match outcome.stopped {
            Some(error) => Err(explain(&error)),
            None => {
                self.failures = 0;
                self.state().succeed();
                Ok(())
            }
        }
    }

    /// A sink that accepts nothing at all is not to be believed at once that each event is at fault.
    fn believe(&mut self, outcome: &Outcome) -> Result<(), String> {
        let Some((_, reason)) = outcome.refused.first() else {
            if outcome.accepted > 0 {
                self.refusing = None;
            }
            return Ok(());
        };
        if outcome.accepted > 0 || outcome.named {
            self.refusing = None;
            return Ok(());
        }
        let since = *self.refusing.get_or_insert_with(Instant::now);
        if since.elapsed() < self.spill.config.patience {
            return Err(format!("it refuses every event: {reason}"));
        }
        // These are given up, the next ones have the same time.
        self.refusing = Some(Instant::now());
        Ok(())
    }

    async fn keep_refused(&self, batch: &Batch, outcome: &Outcome) -> io::Result<()> {
        if outcome.refused.is_empty() && batch.unreadable.is_empty() {
            return Ok(());
        }
        let quarantined_at = self.spill.clock.now();
        let unreadable = batch.unreadable.iter().map(|line| {
            let text = Some(String::from_utf8_lossy(line).into_owned());
            Entry { quarantined_at, reason: "it is no event that this version knows", event: None, text }
        });
        let refused = outcome.refused.iter().map(|(position, reason)| {
            let event = Some(&batch.events[*position]);
            Entry { quarantined_at, reason, event, text: None }
        });
        let entries: Vec<Entry<'_>> = unreadable.chain(refused).collect();
        tracing::error!(sink = self.quarantine.sink, events = entries.len(), "audit events are quarantined");
        let (quarantine, lines) = (self.quarantine.clone(), quarantine::lines(&entries));
        blocking(move || quarantine.keep(&lines)).await
    }

    /// Notes a failure, and says how long to wait.
    fn fail(&mut self, reason: String) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let sink = &self.spill.sinks[self.index].name;
        tracing::warn!(sink, failures = self.failures, reason, "audit events are not delivered");
        self.state().fail(reason);
        let config = &self.spill.config;
        let doublings = (self.failures - 1).min(31);
        let pause = config.backoff.saturating_mul(1 << doublings).min(config.max_backoff);
        pause.mul_f64(1.0 - self.spill.random.next_fraction() / 2.0)
    }

    fn state(&self) -> &SinkState {
        &self.spill.states[self.index]
    }
}

async fn stop_is_overdue(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(STOPPING).await;
}
