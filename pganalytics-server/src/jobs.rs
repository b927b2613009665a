//! What a server does besides answering requests.

use std::future::Future;
use std::time::Duration;

use pganalytics_store::postgres::StoreError;
use pganalytics_store::postgres::running_servers::{self, RunningServer};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// How often a server says that it is there.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);

/// A server that has been silent for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Sessions and stored replies are swept so often.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Background jobs that run until they are stopped.
#[derive(Debug)]
pub struct Background {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Starts the jobs of a server.
pub fn start(app: App) -> Background {
    let mut background = Background { stop: CancellationToken::new(), tasks: JoinSet::new() };
    background.every(HEARTBEAT_EVERY, "heartbeat", app.clone(), heartbeat);
    background.every(SWEEP_EVERY, "rate limits", app, sweep_rate_limits);
    background
}

impl Background {
    /// Stops the jobs and waits for what they are doing.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// Runs a job now and then again after each pause. A failure is logged, and the job goes on.
    fn every<F>(&mut self, pause: Duration, name: &'static str, app: App, job: fn(App) -> F)
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            loop {
                if let Err(error) = job(app.clone()).await {
                    tracing::warn!(job = name, error = %crate::api::error_chain(&error), "background job failed");
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => return,
                }
            }
        });
    }
}

async fn heartbeat(app: App) -> Result<(), StoreError> {
    let now = app.clock.now();
    let server = RunningServer {
        instance: app.instance,
        version: env!("CARGO_PKG_VERSION").into(),
        phase: app.lifecycle.phase().as_str().into(),
        started_at: app.started_at,
        heartbeat_at: now,
    };
    let mut transaction = app.database.begin().await?;
    running_servers::report(&mut transaction, &server).await?;
    running_servers::sweep(&mut transaction, now - SILENCE_MAX).await?;
    transaction.commit().await?;
    Ok(())
}

async fn sweep_rate_limits(app: App) -> Result<(), StoreError> {
    app.rate_limits.sweep();
    Ok(())
}
