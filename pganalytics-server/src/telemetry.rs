//! Logs and metrics of the process.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::TryInitError;

use crate::config::{LogConfig, LogFormat};

/// Why logs or metrics could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The filter of the configuration cannot be read.
    #[error("`log.filter` is not a filter, like `info` or `warn,pganalytics_server=debug`")]
    Filter(#[source] ParseError),
    /// Something in this process has set up logging before.
    #[error("logging is set up already")]
    Installed(#[source] TryInitError),
    /// The metrics recorder cannot be set up.
    #[error("metrics cannot be set up")]
    Metrics(#[source] BuildError),
}

/// Sends logs to standard error.
///
/// # Errors
/// When the filter is wrong, or logging was set up before.
pub fn init_logs(config: &LogConfig) -> Result<(), TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt;

    let filter = EnvFilter::try_new(&config.filter).map_err(TelemetryError::Filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Human => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(ansi).finish().try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    }
    .map_err(TelemetryError::Installed)
}

/// Collects metrics for `/metrics`.
///
/// # Errors
/// When a recorder was set up before.
pub fn init_metrics() -> Result<PrometheusHandle, TelemetryError> {
    let buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    PrometheusBuilder::new()
        .set_buckets(&buckets)
        .and_then(|builder| builder.upkeep_timeout(Duration::from_secs(5)).install_recorder())
        .map_err(TelemetryError::Metrics)
}
