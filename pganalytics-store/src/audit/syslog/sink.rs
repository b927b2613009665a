use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use pganalytics_core::audit::{AuditError, AuditEvent, AuditSink, Deduplication, Durability};
use pganalytics_core::error::BackendError;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::NAME;
use super::config::{SyslogConfig, SyslogConfigError};
use super::connection::{Connection, Connector};
use super::message::write_frame;

/// Events to a syslog server (RFC 5424) over TCP (RFC 6587, counted octets) or TLS (RFC 5425), all of them over one
/// connection.
///
/// Syslog has no acknowledgements, so that this is best effort: what was sent to a server that dies is lost. A connection that
/// was closed meanwhile is noticed before the next batch. A batch whose sending failed may have arrived in part; after a pause
/// that is the caller's, the next attempt connects again.
#[derive(Clone, Debug)]
pub struct SyslogAuditSink {
    config: Arc<SyslogConfig>,
    connector: Connector,
    /// Taken out while it is used: one on which a message was cut off is never used again.
    connection: Arc<Mutex<Option<Connection>>>,
}

impl SyslogAuditSink {
    /// A sink that connects when it has something to send.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: SyslogConfig) -> Result<Self, SyslogConfigError> {
        config.check()?;
        let connector = Connector::new(&config)?;
        Ok(Self { config: Arc::new(config), connector, connection: Arc::default() })
    }

    async fn send(&self, frames: &[u8]) -> io::Result<()> {
        let mut slot = self.connection.lock().await;
        let mut connection = match open(slot.take()).await {
            Some(connection) => connection,
            None => self.connector.connect().await?,
        };
        connection.send(frames).await?;
        *slot = Some(connection);
        Ok(())
    }
}

#[async_trait]
impl AuditSink for SyslogAuditSink {
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
        let mut frames = Vec::with_capacity(events.len() * 768);
        for event in events {
            write_frame(&mut frames, &self.config, event);
        }
        let deadline = self.config.deadline;
        let sent = timeout(deadline, self.send(&frames)).await;
        let sent = sent.unwrap_or_else(|_| {
            let message = format!("not sent within {deadline:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        });
        sent.map_err(|error| AuditError::Backend(BackendError::later(NAME, error)))
    }
}

async fn open(connection: Option<Connection>) -> Option<Connection> {
    let mut connection = connection?;
    connection.check().await.is_ok().then_some(connection)
}
