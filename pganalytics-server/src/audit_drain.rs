//! What brings events of requests from the disk to their sinks, as long as the server runs.

use std::time::Duration;

use pganalytics_core::audit::{Actor, AuditEvent, AuditSink, Outcome, Resource};
use pganalytics_core::ids::EventId;
use pganalytics_store::audit::FanOutAuditSink;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::api::error_chain;
use crate::app::App;

/// How long a server that stops waits until the required sinks have everything. What they miss is on disk, for whoever opens
/// the folder next.
const LAST_DELIVERY: Duration = Duration::from_secs(5);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Delivers events until it is finished. Dropping it ends it at once.
#[derive(Debug)]
pub struct AuditDrain {
    app: App,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    sink: FanOutAuditSink,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl AuditDrain {
    /// Starts to deliver, and records that the server starts. That shows at once whether anything can be recorded.
    pub async fn start(app: App) -> Self {
        let running = app.audit.clone().map(|sink| {
            let stop = CancellationToken::new();
            let (draining, stopped) = (sink.clone(), stop.clone());
            let task = tokio::spawn(async move { draining.run(stopped.cancelled()).await });
            Running { sink, stop, task: AbortOnDropHandle::new(task) }
        });
        let drain = Self { app, running };
        drain.record("server.start").await;
        drain
    }

    /// Records that the server stops, and stops once everything is delivered, or after five seconds. To be called after the
    /// last request.
    pub async fn finish(self) {
        self.record("server.stop").await;
        let Some(Running { sink, stop, task }) = self.running else { return };
        let end = Instant::now() + LAST_DELIVERY;
        while Instant::now() < end && has_backlog(&sink) {
            sleep(LOOK_EVERY).await;
        }
        stop.cancel();
        if let Err(error) = task.await {
            tracing::error!(%error, "the delivery of audit events has failed");
        }
    }

    async fn record(&self, action: &str) {
        let Some(Running { sink, .. }) = &self.running else { return };
        let app = &self.app;
        let id = EventId::generate(&*app.clock, &*app.random);
        let action = action.parse().expect("it is dotted lower-case words");
        let actor = Actor::system("server");
        let mut event = AuditEvent::new(id, app.clock.now(), actor, action, Outcome::Success);
        event.resource = Some(Resource::new("server", app.instance));
        event.changes = Some(json!({ "version": env!("CARGO_PKG_VERSION") }));
        if let Err(error) = sink.append(&[event]).await {
            tracing::error!(error = %error_chain(&error), "nothing can be recorded in the audit log");
        }
    }
}

fn has_backlog(sink: &FanOutAuditSink) -> bool {
    let status = sink.status();
    status.sinks.iter().any(|sink| sink.required && sink.backlog_events > 0)
}
