use std::io::{ErrorKind, IsTerminal, stdout};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use clap::Args;
use pganalytics_core::users::{Role, Username};
use pganalytics_store::LocalPostgres;
use pganalytics_store::postgres::users;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::collector::ChildCollector;
use super::folder::DataFolder;
use super::steps::Step;
use super::{database, settings};
use crate::cli::{Failure, migrate, print, serve, user};
use crate::config::{LogConfig, LogFormat, ServerConfig};
use crate::lifecycle::{Lifecycle, Phase};
use crate::{telemetry, wiring};

const ADMIN: &str = "admin";

/// Run server, collector and a private PostgreSQL, for looking at it and for working on it.
///
/// Needs nothing but PostgreSQL's programs on this machine. Makes its database, its keys and an administrator in the
/// data folder, and finds them there the next time. Ctrl-C ends everything. For this machine alone: it listens on
/// 127.0.0.1, without TLS.
#[derive(Debug, Args)]
pub(in crate::cli) struct Dev {
    /// Where everything is kept. If left out: $XDG_DATA_HOME/pganalytics or ~/.local/share/pganalytics; for root
    /// /var/lib/pganalytics/dev, since PostgreSQL, which then runs as another user, cannot reach root's home.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// The port to listen on; 0 for a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Start no collector.
    #[arg(long)]
    no_collector: bool,
    /// Open no browser.
    #[arg(long)]
    no_open: bool,
    /// What the server logs, such as `info` or `warn,pganalytics_server=debug`.
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

pub(in crate::cli) async fn run(command: Dev) -> Result<(), Failure> {
    let began = Instant::now();
    let log = LogConfig { format: LogFormat::Human, filter: command.log.clone() };
    telemetry::init_logs(&log).map_err(Failure::configuration)?;
    let stop = stop_on_signal()?;
    let folder = DataFolder::open(command.data.as_deref())?;
    let listener = listen(command.port).await?;
    print(format_args!("data: {}", folder.path().display()));
    // Not cut short by a signal: whoever starts a server has to see its end.
    let postgres = database::start(&folder).await?;
    let development = Development { command, folder, postgres: &postgres, stop, began };
    let outcome = development.run(listener).await;
    let stopped = postgres.stop().await.map_err(Failure::internal);
    outcome.and(stopped)?;
    print("stopped");
    Ok(())
}

/// What runs on a private PostgreSQL.
#[derive(Debug)]
struct Development<'a> {
    command: Dev,
    folder: DataFolder,
    postgres: &'a LocalPostgres,
    stop: CancellationToken,
    began: Instant,
}

impl Development<'_> {
    async fn run(&self, listener: TcpListener) -> Result<(), Failure> {
        let address = listener.local_addr().map_err(Failure::internal)?;
        let config = settings::server(&self.folder, self.postgres, address)?;
        self.migrate(&config).await?;
        wiring::create_keys(&config.keys).await?;
        self.ensure_admin(&config).await?;
        let lifecycle = Lifecycle::new();
        let process = wiring::Process {
            prometheus: telemetry::init_metrics().map_err(Failure::internal)?,
            lifecycle: lifecycle.clone(),
        };
        let database = wiring::database(&config.database)?;
        let app = wiring::services(config, database, process).await?;
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let documentation = format!("http://{address}/api/v1/docs/");
        print(format_args!("API: {documentation}"));
        if !self.command.no_open {
            open_browser(&documentation).await;
        }
        let (served, collected) = tokio::join!(serve::run_until_stopped(app, listener), async {
            let outcome = self.collect(address).await;
            lifecycle.advance(Phase::Stopping);
            outcome
        });
        let () = served;
        collected
    }

    async fn migrate(&self, config: &ServerConfig) -> Result<(), Failure> {
        let step = Step::begin("migrating the schema");
        migrate::up(config).await?;
        database::make_roles(self.postgres).await?;
        step.done("the schema is up to date");
        Ok(())
    }

    async fn ensure_admin(&self, config: &ServerConfig) -> Result<(), Failure> {
        let database = wiring::database(&config.database)?;
        let count = {
            let mut connection = database.read().await?;
            users::count(&mut connection).await?
        };
        if count > 0 {
            print(format_args!(
                "`{ADMIN}` was made at the first start; for a new password:\n  {} user reset-password {ADMIN}",
                self.program()
            ));
            return Ok(());
        }
        let name: Username = ADMIN.parse().map_err(Failure::internal)?;
        let (_, password) = user::make(&database, config, name, Role::Admin, None).await?;
        print(format_args!(
            "sign in as `{ADMIN}` with this password, which is shown only now and kept nowhere:"
        ));
        print(format_args!("  {}", password.expose()));
        Ok(())
    }

    /// Runs the collector until it is time to stop.
    async fn collect(&self, address: SocketAddr) -> Result<(), Failure> {
        if self.command.no_collector {
            print("Ctrl-C stops everything");
            self.stop.cancelled().await;
            return Ok(());
        }
        let configuration = settings::collector(&self.folder, self.postgres, address)?;
        let mut collector = ChildCollector::spawn(&self.folder, &configuration)?;
        print(format_args!(
            "a collector watches this database; what it says is in {}",
            collector.log().display()
        ));
        print("Ctrl-C stops everything");
        let announced = self.announce_first_metrics();
        tokio::select! {
            () = self.stop.cancelled() => {}
            ended = collector.ended() => {
                let log = collector.log().display();
                print(format_args!("the collector has ended by itself ({}), see {log}", ended?));
                self.stop.cancelled().await;
            }
            () = async { tokio::join!(announced, std::future::pending()).1 } => {}
        }
        let step = Step::begin("stopping");
        collector.stop().await?;
        drop(step);
        Ok(())
    }

    async fn announce_first_metrics(&self) {
        let stored = async { database::first_metrics(database::server_url(self.postgres)?).await };
        match stored.await {
            Ok(()) => print(format_args!(
                "the first metrics are there, {:.1} s after the start; look at them:\n  {} status",
                self.began.elapsed().as_secs_f64(),
                self.program()
            )),
            Err(error) => tracing::warn!(%error, "it is not known when the first metrics come"),
        }
    }

    /// How to call this program again for this server.
    fn program(&self) -> String {
        let program = std::env::args().next().unwrap_or_else(|| "pganalytics-api".into());
        format!("{program} --config {}", shown(&self.folder.configuration()))
    }
}

fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = text.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-+".contains(letter));
    if is_plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

async fn listen(port: u16) -> Result<TcpListener, Failure> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => Failure::refused(format!(
            "port {port} is in use by another program: stop that, or choose another one with --port (0 for a free one)"
        )),
        _ => Failure::refused(format!("cannot listen on 127.0.0.1:{port}: {error}")),
    })
}

/// The first signal of either kind asks for an orderly stop. Everything that is awaited then is bounded in time.
fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::internal)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(Failure::internal)?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}

/// Shows the page to whoever sits in front of this. That there is no browser is not worth a word.
async fn open_browser(url: &str) {
    let has_display = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|set| !set.is_empty()));
    if !has_display || !stdout().is_terminal() {
        return;
    }
    let mut command = Command::new("xdg-open");
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Ok(mut browser) = command.process_group(0).spawn() {
        tokio::spawn(async move { browser.wait().await });
    }
}
