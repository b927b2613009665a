//! Sinks to stand behind a spill.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pganalytics_core::audit::{
    AuditError, AuditEvent, AuditSink, Deduplication, Durability, MemoryAuditSink,
};
use pganalytics_core::error::BackendError;
use pganalytics_testkit::wait_until;

/// A sink that processes share: a file for each event, under its id.
#[derive(Debug)]
pub(crate) struct FolderSink(PathBuf);

impl FolderSink {
    pub(crate) fn open(folder: &Path) -> Arc<Self> {
        fs::create_dir_all(folder).unwrap();
        Arc::new(Self(folder.to_owned()))
    }

    /// What it holds, in no order.
    pub(crate) fn events(&self) -> Vec<AuditEvent> {
        let files = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        let whole = files.filter(|file| file.extension().is_none());
        whole.map(|file| serde_json::from_slice(&fs::read(file).unwrap()).unwrap()).collect()
    }

    fn keep(&self, event: &AuditEvent) -> std::io::Result<()> {
        let path = self.0.join(event.id.to_string());
        if path.exists() {
            return Ok(());
        }
        let written = path.with_extension(std::process::id().to_string());
        fs::write(&written, serde_json::to_vec(event)?)?;
        fs::rename(&written, &path)
    }
}

#[async_trait]
impl AuditSink for FolderSink {
    fn name(&self) -> &'static str {
        "folder"
    }

    fn durability(&self) -> Durability {
        Durability::Durable
    }

    fn deduplication(&self) -> Deduplication {
        Deduplication::ByEventId
    }

    async fn append(&self, events: &[AuditEvent]) -> Result<(), AuditError> {
        let kept = events.iter().try_for_each(|event| self.keep(event));
        kept.map_err(|error| AuditError::Backend(BackendError::later("folder", error)))
    }
}

/// How a [`Picky`] sink treats what it does not like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It names the events.
    Names,
    /// It refuses the batch for good.
    Refuses,
    /// It panics.
    Panics,
    /// It is away.
    Away,
    /// It does not answer.
    Hangs,
}

/// A sink that does not like some events.
#[derive(Debug)]
pub(crate) struct Picky {
    pub(crate) kept: MemoryAuditSink,
    state: Mutex<(Manner, HashSet<AuditEventId>)>,
    calls: Mutex<usize>,
}

type AuditEventId = pganalytics_core::ids::EventId;

impl Picky {
    pub(crate) fn new(manner: Manner, disliked: &[AuditEvent]) -> Arc<Self> {
        let ids = disliked.iter().map(|event| event.id).collect();
        let kept = MemoryAuditSink::new(1_000_000);
        Arc::new(Self { kept, state: Mutex::new((manner, ids)), calls: Mutex::default() })
    }

    /// From now on it likes everything.
    pub(crate) fn relent(&self) {
        self.state.lock().unwrap().1.clear();
    }

    pub(crate) fn calls(&self) -> usize {
        *self.calls.lock().unwrap()
    }
}

#[async_trait]
impl AuditSink for Picky {
    fn name(&self) -> &'static str {
        "picky"
    }

    fn durability(&self) -> Durability {
        Durability::BestEffort
    }

    fn deduplication(&self) -> Deduplication {
        Deduplication::ByEventId
    }

    async fn append(&self, events: &[AuditEvent]) -> Result<(), AuditError> {
        *self.calls.lock().unwrap() += 1;
        let (manner, positions): (Manner, Vec<usize>) = {
            let state = self.state.lock().unwrap();
            let disliked = (0..events.len()).filter(|at| state.1.contains(&events[*at].id));
            (state.0, disliked.collect())
        };
        if positions.is_empty() {
            return self.kept.append(events).await;
        }
        match manner {
            Manner::Names => {
                let liked = (0..events.len()).filter(|at| !positions.contains(at));
                self.kept.append(&liked.map(|at| events[at].clone()).collect::<Vec<_>>()).await?;
                Err(AuditError::PartlyRejected { positions, total: events.len() })
            }
            Manner::Refuses => Err(AuditError::Backend(BackendError::never("picky", "a bad value"))),
            Manner::Away => Err(AuditError::Backend(BackendError::later("picky", "nobody there"))),
            Manner::Panics => panic!("a bad value"),
            Manner::Hangs => std::future::pending().await,
        }
    }
}

/// Waits until a sink in memory holds so many events, and yields them.
pub(crate) async fn delivered(sink: &MemoryAuditSink, at_least: usize) -> Vec<AuditEvent> {
    wait_until(Duration::from_secs(20), async || sink.events().len() >= at_least).await;
    sink.events()
}
