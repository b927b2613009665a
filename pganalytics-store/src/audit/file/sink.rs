use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use pganalytics_core::audit::{AuditError, AuditEvent, AuditSink, Deduplication, Durability};
use pganalytics_core::clock::Clock;
use pganalytics_core::random::Random;

use super::config::FileAuditConfig;
use super::writer::Writer;
use crate::audit::blocking::{backend, blocking};
use crate::audit::json_line;

const NAME: &str = "file";

/// Events as lines of JSON in a file that only this user can read, finished by size and by day.
///
/// A batch is written whole: when the disk fills up under it, the file is cut back to where it was. A line that a crash or a
/// power cut left torn is taken out at the next start, which tells of it in an event of its own (`audit.torn`). No other
/// process may write the file meanwhile, which a lock beside it (`.lock`) sees to.
#[derive(Clone, Debug)]
pub struct FileAuditSink {
    writer: Arc<Mutex<Writer>>,
    clock: Arc<dyn Clock>,
}

impl FileAuditSink {
    /// Opens the file, and makes it and its folder if there is none. This may block.
    ///
    /// # Errors
    /// When the file cannot be made, opened, mended or written, or another process writes it.
    pub fn open(
        config: FileAuditConfig,
        clock: Arc<dyn Clock>,
        random: &dyn Random,
    ) -> Result<Self, AuditError> {
        let writer = Writer::open(config, &*clock, random).map_err(|error| backend(NAME, error))?;
        Ok(Self { writer: Arc::new(Mutex::new(writer)), clock })
    }
}

#[async_trait]
impl AuditSink for FileAuditSink {
    fn name(&self) -> &'static str {
        NAME
    }

    fn durability(&self) -> Durability {
        Durability::Durable
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
        let today = self.clock.now().date_naive();
        let written =
            blocking(move || writer.lock().unwrap_or_else(PoisonError::into_inner).append(&lines, today));
        written.await.map_err(|error| backend(NAME, error))
    }
}
