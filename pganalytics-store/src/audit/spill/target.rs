use std::io;
use std::sync::Arc;

use pganalytics_core::audit::AuditSink;

/// A sink that gets events through a queue.
#[derive(Clone, Debug)]
pub struct FanOutTarget {
    pub(super) name: String,
    pub(super) sink: Arc<dyn AuditSink>,
    pub(super) max_backlog_bytes: Option<u64>,
}

/// What a queue knows of its sinks.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    /// Also the name of its cursors.
    pub(super) name: String,
    /// How far it may be behind before it misses events; a required sink has no such bound.
    pub(super) max_backlog_bytes: Option<u64>,
}

impl FanOutTarget {
    /// A sink that must get every event: nothing is deleted before. Its name is the sink's own.
    pub fn required(sink: Arc<dyn AuditSink>) -> Self {
        Self { name: sink.name().to_owned(), sink, max_backlog_bytes: None }
    }

    /// A sink that may miss events once more than so many bytes wait for it, which is then recorded (`audit.skipped`).
    pub fn optional(sink: Arc<dyn AuditSink>, max_backlog_bytes: u64) -> Self {
        Self { max_backlog_bytes: Some(max_backlog_bytes), ..Self::required(sink) }
    }

    /// Sets the name that tells it from other sinks of its kind, and by which its position is found again after a restart:
    /// lower-case letters, digits, `-` and `_`.
    #[must_use]
    pub fn with_name(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }
}

/// Checks the names, and yields what the queue needs to know.
pub(super) fn sinks(targets: &[FanOutTarget]) -> io::Result<Vec<Sink>> {
    let refuse = |message: String| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    for (index, target) in targets.iter().enumerate() {
        let name = &target.name;
        if name.is_empty() || name.len() > 40 || !name.bytes().all(allowed) {
            return refuse(format!("`{name}` is no name of a sink: 1 to 40 of a-z, 0-9, - and _"));
        }
        if targets[..index].iter().any(|other| other.name == *name) {
            return refuse(format!("two sinks are named `{name}`"));
        }
    }
    if targets.is_empty() {
        return refuse("there is no sink".to_owned());
    }
    let sink = |target: &FanOutTarget| Sink {
        name: target.name.clone(),
        max_backlog_bytes: target.max_backlog_bytes,
    };
    Ok(targets.iter().map(sink).collect())
}
