use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use pganalytics_core::error::Retry;
use pganalytics_store::postgres::{Compatibility, EncryptionPhase, Migrator};
use tokio::net::TcpListener;

use super::Failure;
use crate::app::App;
use crate::audit_drain::AuditDrain;
use crate::config::ServerConfig;
use crate::lifecycle::{Lifecycle, Phase};
use crate::{api, jobs, serve, telemetry, wiring};

/// How long to wait between two attempts to reach what the server needs.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Run the server.
///
/// It waits for the database and for the key service, not ready meanwhile, and refuses a schema that it does not understand and
/// keys that are not those of the database. SIGTERM makes readiness fail, then
/// stops after `http.drain_delay_seconds`, finishing what was begun; SIGINT stops at once in the same way.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Migrate the schema first, if it is not up to date.
    #[arg(long)]
    migrate: bool,
}

pub(super) async fn run(command: Serve, config: ServerConfig) -> Result<(), Failure> {
    telemetry::init_logs(&config.log).map_err(Failure::configuration)?;
    if command.migrate {
        super::migrate::up(&config).await?;
    }
    let lifecycle = Lifecycle::new();
    let process = wiring::Process {
        prometheus: telemetry::init_metrics().map_err(Failure::internal)?,
        lifecycle: lifecycle.clone(),
    };
    let listener = TcpListener::bind(config.http.listen).await.map_err(|error| {
        Failure::refused(format!("cannot listen on {} (http.listen): {error}", config.http.listen))
    })?;
    tokio::spawn(signals(lifecycle.clone(), config.http.drain_delay_seconds.as_duration()));
    let connected = Lifecycle::new();
    answer_probes(&listener, &config, connected.clone()).map_err(Failure::internal)?;
    let app = tokio::select! {
        app = connect(config, process) => app?,
        () = lifecycle.reached(Phase::Draining) => return Ok(()),
    };
    connected.advance(Phase::Stopping);
    if app.sealer.phase() != EncryptionPhase::Final {
        tracing::warn!("there are plain columns still: `pganalytics-api doctor` says what to do");
    }
    run_until_stopped(app, listener).await;
    Ok(())
}

/// Answers from the same socket until `connected` is stopping: a server that waits for the database or the key service lives,
/// and whoever restarts it for its silence would mend nothing.
fn answer_probes(listener: &TcpListener, config: &ServerConfig, connected: Lifecycle) -> io::Result<()> {
    let listener = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
    let listener = TcpListener::from_std(listener)?;
    let (http, limits) = (config.http.clone(), config.limits.clone());
    tokio::spawn(async move {
        serve::serve(listener, api::starting_router(), &connected, &http, &limits).await;
    });
    Ok(())
}

/// Serves until the lifecycle says to stop.
pub(crate) async fn run_until_stopped(app: App, listener: TcpListener) {
    let (router, _, _) = api::router(&app);
    let audit = AuditDrain::start(Arc::clone(&app)).await;
    let background = jobs::start(Arc::clone(&app));
    app.lifecycle.advance(Phase::Ready);
    match listener.local_addr() {
        Ok(address) => tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "ready"),
        Err(error) => tracing::warn!(%error, "ready, at an unknown address"),
    }
    serve::serve(listener, router, &app.lifecycle, &app.config.http, &app.config.limits).await;
    background.stop().await;
    audit.finish().await;
    jobs::sign_off(&app).await;
    tracing::info!("stopped");
}

/// Makes the services once the database answers and its schema fits. What an operator must mend ends the program; what
/// may pass is waited for.
async fn connect(config: ServerConfig, process: wiring::Process) -> Result<App, Failure> {
    let database = wiring::database(&config.database)?;
    loop {
        match Migrator::new().check_compatible(&database).await {
            Ok(Compatibility::Ready) => break,
            Ok(_) => {
                return Err(Failure::refused(
                    "the database's schema is behind this program: run `pganalytics-api migrate up`",
                ));
            }
            Err(error) if error.retry() == Retry::Later => {
                tracing::warn!(error = %api::error_chain(&error), "waiting for the database");
                tokio::time::sleep(RETRY_EVERY).await;
            }
            Err(error) => return Err(Failure::refused(error)),
        }
    }
    loop {
        match wiring::services(config.clone(), database.clone(), process.clone()).await {
            Err(error) if error.retry() == Retry::Later => {
                tracing::warn!(error = %api::error_chain(&error), "waiting for what the keys need");
                tokio::time::sleep(RETRY_EVERY).await;
            }
            made => return Ok(made?),
        }
    }
}

async fn signals(lifecycle: Lifecycle, drain_delay: Duration) {
    if let Err(error) = serve::drain_on_signal(lifecycle, drain_delay).await {
        tracing::error!(%error, "signals cannot be listened for");
    }
}
