use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use pganalytics_core::audit::{AuditError, AuditEvent, AuditSink, Deduplication, Durability};

use super::blocking::{backend, blocking};
use super::json_line;

const NAME: &str = "stdout";

/// Events as lines of JSON on standard output, for a container's log collector.
///
/// What whoever reads them makes of them is not known, so that this is best effort. A reader that falls behind holds up
/// `append`.
#[derive(Clone)]
pub struct StdoutAuditSink {
    writer: Arc<Mutex<dyn Write + Send>>,
}

impl StdoutAuditSink {
    /// To standard output.
    pub fn new() -> Self {
        Self::with_writer(io::stdout())
    }

    /// To another writer.
    pub fn with_writer(writer: impl Write + Send + 'static) -> Self {
        Self { writer: Arc::new(Mutex::new(writer)) }
    }
}

impl Default for StdoutAuditSink {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for StdoutAuditSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdoutAuditSink").finish_non_exhaustive()
    }
}

#[async_trait]
impl AuditSink for StdoutAuditSink {
    fn name(&self) -> &'static str {
        NAME
    }

    fn durability(&self) -> Durability {
        Durability::BestEffort
    }

    fn deduplication(&self) -> Deduplication {
        Deduplication::None
    }

    async fn append(&self, events: &[AuditEvent]) -> Result<(), AuditError> {
        if events.is_empty() {
            return Ok(());
        }
        let lines = json_line::lines(events);
        let writer = Arc::clone(&self.writer);
        let written = blocking(move || {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.write_all(&lines)?;
            writer.flush()
        });
        written.await.map_err(|error| backend(NAME, error))
    }
}
