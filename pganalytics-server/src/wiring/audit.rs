//! Where events of requests go.

use std::error::Error;
use std::sync::Arc;

use pganalytics_core::audit::AuditSink;
use pganalytics_core::clock::Clock;
use pganalytics_core::random::Random;
use pganalytics_core::tlog::{NoteKeyKind, VerifierKey, VerifierKeys};
use pganalytics_store::audit::{
    FanOutAuditSink, FanOutTarget, FileAuditConfig, FileAuditSink, SpillConfig, SpillSync, StdoutAuditSink,
    SyslogAuditSink, SyslogConfig, SyslogTls,
};
use pganalytics_store::postgres::{Database, PostgresAuditSink};

use super::{WiringError, secret};
use crate::config::{AuditConfig, AuditFileConfig, AuditSinkConfig, AuditSync, AuditSyslogConfig};

/// The queue on disk before all sinks, which the database is the first of. `None` if requests are not recorded.
pub(super) async fn access_log(
    config: &AuditConfig,
    database: &Database,
    clock: &Arc<dyn Clock>,
    random: &Arc<dyn Random>,
) -> Result<Option<FanOutAuditSink>, WiringError> {
    if !config.requests {
        return Ok(None);
    }
    let first = FanOutTarget::required(Arc::new(PostgresAuditSink::new(database.clone())));
    let (config, clock, random) = (config.clone(), Arc::clone(clock), Arc::clone(random));
    // Files are opened, and those of servers that are gone are read.
    let opened = tokio::task::spawn_blocking(move || open(&config, first, clock, random));
    opened.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic())).map(Some)
}

fn open(
    config: &AuditConfig,
    first: FanOutTarget,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Result<FanOutAuditSink, WiringError> {
    let mut targets = vec![first];
    for sink in &config.sinks {
        targets.push(target(config, sink, &clock, &random)?);
    }
    let sync = match config.sync {
        AuditSync::Never => SpillSync::Never,
        AuditSync::EachAppend => SpillSync::EachAppend,
    };
    let spill = SpillConfig::new(&config.folder)
        .with_room(config.max_bytes.get(), config.segment_bytes.get())
        .with_sync(sync);
    FanOutAuditSink::open(spill, targets, clock, random).map_err(WiringError::AuditFolder)
}

fn target(
    config: &AuditConfig,
    sink: &AuditSinkConfig,
    clock: &Arc<dyn Clock>,
    random: &Arc<dyn Random>,
) -> Result<FanOutTarget, WiringError> {
    let (name, required, sink): (_, _, Arc<dyn AuditSink>) = match sink {
        AuditSinkConfig::File(file) => {
            let opened = FileAuditSink::open(file_config(file), Arc::clone(clock), &**random);
            let opened = opened.map_err(|error| refused(&file.name, error))?;
            (&file.name, file.required, Arc::new(opened))
        }
        AuditSinkConfig::Stdout(stdout) => (&stdout.name, stdout.required, Arc::new(StdoutAuditSink::new())),
        AuditSinkConfig::Syslog(server) => (&server.name, server.required, Arc::new(syslog(server)?)),
    };
    let target = match required {
        true => FanOutTarget::required(sink),
        false => FanOutTarget::optional(sink, config.optional_backlog_max_bytes.get()),
    };
    Ok(target.with_name(name))
}

fn file_config(config: &AuditFileConfig) -> FileAuditConfig {
    FileAuditConfig::new(&config.path)
        .with_max_bytes(config.max_bytes.get())
        .with_daily(config.daily)
        .with_keep(config.keep.as_usize())
}

fn syslog(config: &AuditSyslogConfig) -> Result<SyslogAuditSink, WiringError> {
    let refuse = |error: Box<dyn Error + Send + Sync>| refused(&config.name, error);
    let mut syslog = SyslogConfig::new(&config.server.host, config.server.port)
        .with_facility(u8::try_from(config.facility.get()).map_err(|error| refuse(error.into()))?)
        .with_structured_data_id(&config.structured_data_id);
    if let Some(hostname) = &config.hostname {
        syslog = syslog.with_hostname(hostname);
    }
    if config.tls {
        let mut tls = SyslogTls::new();
        if let Some(file) = &config.tls_authorities {
            tls = tls.with_authorities(std::fs::read(file).map_err(|error| refuse(error.into()))?);
        }
        match (&config.tls_certificate, &config.tls_key) {
            (None, None) => {}
            (Some(file), Some(key)) => {
                let certificate = std::fs::read(file).map_err(|error| refuse(error.into()))?;
                tls = tls.with_identity(certificate, secret("audit.sinks.tls_key", key)?);
            }
            _ => return Err(refuse("`tls_certificate` and `tls_key` go together".into())),
        }
        syslog = syslog.with_tls(tls);
    }
    SyslogAuditSink::new(syslog).map_err(|error| refuse(error.into()))
}

fn refused(name: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> WiringError {
    WiringError::AuditSink { name: name.to_owned(), source: source.into() }
}

/// The keys that sign orders to take something out of the log.
///
/// # Errors
/// When a text is no key that signs notes.
pub(super) fn order_keys(config: &AuditConfig) -> Result<VerifierKeys, WiringError> {
    let parse = |text: &String| match text.parse::<VerifierKey>() {
        Ok(key) if key.kind() == NoteKeyKind::Ed25519 => Ok(key),
        // What a witness signs is no order.
        Ok(_) => Err(WiringError::OrderKey { key: text.clone(), source: None }),
        Err(error) => Err(WiringError::OrderKey { key: text.clone(), source: Some(error) }),
    };
    let keys: Vec<VerifierKey> = config.order_keys.iter().map(parse).collect::<Result<_, _>>()?;
    VerifierKeys::new(keys).map_err(WiringError::AmbiguousOrderKeys)
}

/// Makes sure that the sinks can be made, without opening any, and that orders can be verified.
pub(super) fn check(config: &AuditConfig) -> Result<(), WiringError> {
    order_keys(config)?;
    for sink in config.sinks.iter().filter(|_| config.requests) {
        if let AuditSinkConfig::Syslog(server) = sink {
            syslog(server)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error_chain;

    fn checked(sink: &str) -> Result<(), WiringError> {
        let config = AuditConfig { sinks: vec![toml::from_str(sink).unwrap()], ..AuditConfig::default() };
        check(&config)
    }

    #[test]
    fn syslog_that_cannot_work_is_refused_by_its_name() {
        let syslog = "type = 'syslog'\nname = 'soc'\nserver = 'localhost:6514'\n";
        for (wrong, expected) in [
            ("tls_authorities = '/surely/not/there.pem'", "No such file"),
            ("tls_certificate = '/etc/hosts'", "go together"),
            ("structured_data_id = 'a b'", "structured_data_id"),
        ] {
            let refused = error_chain(&checked(&format!("{syslog}{wrong}")).unwrap_err());
            assert!(refused.contains("`soc`") && refused.contains(expected), "{refused}");
        }
        checked(&format!("{syslog}tls = false")).unwrap();
    }
}
