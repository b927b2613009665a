use std::net::SocketAddr;
use std::path::PathBuf;

use pganalytics_core::random::os_random;
use pganalytics_store::LocalPostgres;
use url::Url;

use super::database;
use super::folder::DataFolder;
use crate::cli::Failure;
use crate::collector::config::{CollectorConfig, InstanceSection};
use crate::config::{AuditLogConfig, Bounded, FileKeyManagerConfig, KeyManagerConfig, Seconds, ServerConfig};
use crate::secret_ref::SecretRef;

/// How often the collector looks: soon enough to watch, seldom enough for a laptop that runs for days.
const INTERVAL_SECONDS: u64 = 10;
const SLOW_INTERVAL_SECONDS: u64 = 60;

/// The configuration of the server, whose secrets are written into the folder.
pub(super) fn server(
    folder: &DataFolder,
    postgres: &LocalPostgres,
    address: SocketAddr,
) -> Result<ServerConfig, Failure> {
    let mut config = ServerConfig::default();
    config.http.listen = address;
    config.http.public_url = url_of(address)?;
    config.http.drain_delay_seconds = Seconds::new(0);
    config.http.shutdown_timeout_seconds = Seconds::new(5);
    config.database.url = SecretRef::File(folder.write("database-url", &database::server_url(postgres)?)?);
    let owner = folder.write("database-owner-url", &postgres.url_of(database::DATABASE))?;
    config.database.owner_url = Some(SecretRef::File(owner));
    config.keys = KeyManagerConfig::File(FileKeyManagerConfig {
        path: folder.join("keys"),
        ..FileKeyManagerConfig::default()
    });
    config.audit.folder = folder.join("audit");
    config.audit.log = Some(AuditLogConfig::local("localhost/audit", folder.join("audit-log")));
    config.collectors.registration_secret = Some(SecretRef::File(registration_secret(folder)?));
    config.collectors.offline_after_seconds = Seconds::new(60);
    config.metrics.thinning_seconds = Seconds::new(1);
    config.metrics.retention_days = Bounded::new(7);
    let text = toml::to_string_pretty(&config).map_err(Failure::internal)?;
    folder
        .write("server.toml", &format!("# Written anew at each start of `pganalytics-api dev`.\n{text}"))?;
    Ok(config)
}

/// Writes the configuration of the collector, which watches the server's own database, and says where it is.
pub(super) fn collector(
    folder: &DataFolder,
    postgres: &LocalPostgres,
    address: SocketAddr,
) -> Result<PathBuf, Failure> {
    let mut instance = InstanceSection::new("dev", database::collector_url(postgres)?);
    instance.log_file = Some(folder.postgres().join("postgres.log"));
    let mut config = CollectorConfig::for_instance(url_of(address)?, folder.join("collector"), instance)
        .map_err(Failure::internal)?;
    config.server.registration_secret = Some(SecretRef::File(registration_secret(folder)?));
    config.schedule.interval_seconds = INTERVAL_SECONDS;
    config.schedule.slow_interval_seconds = SLOW_INTERVAL_SECONDS;
    config.schedule.config_pull_seconds = SLOW_INTERVAL_SECONDS;
    let text = toml::to_string_pretty(&config).map_err(Failure::internal)?;
    folder.write("collector.toml", &format!("# Written anew at each start of `pganalytics-api dev`.\n{text}"))
}

fn registration_secret(folder: &DataFolder) -> Result<PathBuf, Failure> {
    let path = folder.join("registration-secret");
    if path.is_file() {
        return Ok(path);
    }
    let mut bytes = [0; 32];
    os_random(&mut bytes);
    folder.write("registration-secret", &hex::encode(bytes))
}

fn url_of(address: SocketAddr) -> Result<Url, Failure> {
    Url::parse(&format!("http://{address}/")).map_err(Failure::internal)
}
