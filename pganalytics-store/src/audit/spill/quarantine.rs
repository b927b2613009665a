use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use pganalytics_core::audit::AuditEvent;
use serde::Serialize;

use crate::audit::json_line::write_line;

/// Where the events go that one sink refuses: a file of this process, whose lines say why and hold the event.
#[derive(Clone, Debug)]
pub(super) struct Quarantine {
    pub(super) folder: PathBuf,
    pub(super) sink: String,
    /// Of this process.
    pub(super) instance: uuid::Uuid,
    /// For the files of all processes.
    pub(super) max_bytes: u64,
}

/// A line of the file.
#[derive(Debug, Serialize)]
pub(super) struct Entry<'a> {
    pub(super) quarantined_at: DateTime<Utc>,
    pub(super) reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) event: Option<&'a AuditEvent>,
    /// What stands there instead of an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
}

pub(super) fn lines(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut lines = Vec::new();
    for entry in entries {
        write_line(&mut lines, entry);
    }
    lines
}

impl Quarantine {
    /// Keeps the lines, all of them or none, on disk.
    pub(super) fn keep(&self, lines: &[u8]) -> io::Result<()> {
        let prefix = format!("{}.", self.sink);
        if size_of(&self.folder, &prefix)? + lines.len() as u64 > self.max_bytes {
            let message = format!("the quarantine of `{}` has room for {} bytes", self.sink, self.max_bytes);
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, message));
        }
        let path = self.folder.join(format!("{prefix}{}.jsonl", self.instance));
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let length = file.metadata()?.len();
        let kept = file.write_all(lines).and_then(|()| file.sync_all());
        if kept.is_err() {
            file.set_len(length)?;
        }
        kept
    }
}

fn size_of(folder: &Path, prefix: &str) -> io::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)) {
            size += entry.metadata()?.len();
        }
    }
    Ok(size)
}
