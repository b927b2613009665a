use std::error::Error;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use pganalytics_core::audit::{AuditError, AuditEvent, AuditSink};
use pganalytics_core::error::{BackendError, PortError, Retry};
use tokio::time::timeout;

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// So many of the first events were accepted or refused.
    pub(super) settled: usize,
    pub(super) accepted: usize,
    /// Refused for good: which, and why.
    pub(super) refused: Vec<(usize, String)>,
    /// Whether the sink itself named one of those, so that it is not the sink that is at fault.
    pub(super) named: bool,
    /// Why it ended before all were settled.
    pub(super) stopped: Option<AuditError>,
}

/// Hands events to a sink in their order. A part that it refuses for good as a whole is halved again and again, until the
/// events that it refuses are found.
pub(super) async fn deliver(sink: &dyn AuditSink, events: &[AuditEvent], deadline: Duration) -> Outcome {
    let mut outcome = Outcome::default();
    let mut parts = Vec::from([Range { start: 0, end: events.len() }]);
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        match append(sink, &events[part.clone()], deadline).await {
            Ok(()) => outcome.accepted += part.len(),
            Err(AuditError::PartlyRejected { positions, .. }) => outcome.reject(&part, &positions),
            Err(error) if error.retry() == Retry::Later => {
                outcome.stopped = Some(error);
                return outcome;
            }
            Err(error) if part.len() == 1 => outcome.refused.push((part.start, explain(&error))),
            Err(_) => {
                let middle = part.start + part.len() / 2;
                parts.extend([middle..part.end, part.start..middle]);
                continue;
            }
        }
        outcome.settled = part.end;
    }
    outcome
}

impl Outcome {
    fn reject(&mut self, part: &Range<usize>, positions: &[usize]) {
        let mut named: Vec<usize> = positions.iter().copied().filter(|at| *at < part.len()).collect();
        named.sort_unstable();
        named.dedup();
        self.accepted += part.len() - named.len();
        self.named |= !named.is_empty();
        self.refused
            .extend(named.into_iter().map(|at| (part.start + at, "the sink cannot store it".to_owned())));
    }
}

/// The error and what it came from, in one line.
pub(super) fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// One attempt, which ends in time and does not panic.
async fn append(sink: &dyn AuditSink, events: &[AuditEvent], deadline: Duration) -> Result<(), AuditError> {
    let attempt = AssertUnwindSafe(sink.append(events)).catch_unwind();
    let failed = match timeout(deadline, attempt).await {
        Ok(Ok(appended)) => return appended,
        Ok(Err(_)) => BackendError::never(sink.name(), "it panicked"),
        Err(_) => BackendError::later(sink.name(), format!("no answer within {deadline:?}")),
    };
    Err(AuditError::Backend(failed))
}
