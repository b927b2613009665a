use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::audit::{AuditError, AuditEvent, AuditSink};
use pganalytics_core::error::{BackendError, Retry};
use pganalytics_core::secret::SecretString;
use pganalytics_core::testing::Subject;
use pganalytics_core::testing::audit_sink::AuditSinkFixture;
use pganalytics_store::audit::{SyslogAuditSink, SyslogConfig, SyslogTls};
use pganalytics_testkit::{Syslog, SyslogMessage, SyslogSecurity, syslog, wait_until};
use tokio::net::TcpListener;

use crate::samples::{event, events, saying};
use crate::spill::LIMIT;

fn config(server: &Syslog) -> SyslogConfig {
    SyslogConfig::new("127.0.0.1", server.port()).with_hostname("here").with_max_message_bytes(1 << 20)
}

fn with_tls(server: &Syslog) -> SyslogTls {
    SyslogTls::new().with_authorities(server.pem("ca.pem").unwrap())
}

fn with_identity(server: &Syslog) -> SyslogTls {
    let key = String::from_utf8(server.pem("client.key").unwrap()).unwrap();
    with_tls(server).with_identity(server.pem("client.pem").unwrap(), SecretString::new(key))
}

fn open(config: SyslogConfig) -> SyslogAuditSink {
    SyslogAuditSink::new(config).unwrap()
}

async fn received(server: &Syslog, at_least: usize) -> Vec<SyslogMessage> {
    wait_until(LIMIT, async || server.received().len() >= at_least).await;
    server.received()
}

fn parse(messages: &[SyslogMessage]) -> Vec<AuditEvent> {
    let json = |message: &SyslogMessage| message.text.trim_start_matches([' ', '\u{feff}']).to_owned();
    messages.iter().map(|message| serde_json::from_str(&json(message)).unwrap()).collect()
}

async fn fixture(
    security: SyslogSecurity,
    secure: impl FnOnce(&Syslog, SyslogConfig) -> SyslogConfig,
) -> Option<AuditSinkFixture> {
    let server = Arc::new(syslog(security).await?);
    let sink = open(secure(&server, config(&server)));
    let subject = Subject::<dyn AuditSink>::real_time(Arc::new(sink));
    Some(AuditSinkFixture::new(subject, move |at_least| {
        let server = Arc::clone(&server);
        async move { parse(&received(&server, at_least).await) }
    }))
}

mod over_tcp {
    use super::*;

    async fn plain() -> Option<AuditSinkFixture> {
        fixture(SyslogSecurity::None, |_, config| config).await
    }

    pganalytics_core::audit_sink_contract!(plain());
}

mod over_tls {
    use super::*;

    async fn tls() -> Option<AuditSinkFixture> {
        fixture(SyslogSecurity::Tls, |server, config| config.with_tls(with_tls(server))).await
    }

    pganalytics_core::audit_sink_contract!(tls());
}

#[tokio::test]
async fn the_server_understands_the_header() {
    let Some(server) = syslog(SyslogSecurity::None).await else { return };
    let hostile = saying(7, "\n<13>1 - forged \"]\\ \u{202e}é");
    open(config(&server).with_facility(10)).append(std::slice::from_ref(&hostile)).await.unwrap();
    let messages = received(&server, 1).await;
    let [message] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!((message.facility, message.severity), (10, 6));
    assert_eq!(message.timestamp, "2026-01-01T00:00:00.000007Z");
    assert_eq!((message.hostname.as_str(), message.app_name.as_str()), ("here", "pganalytics"));
    assert_eq!(message.process_id, std::process::id().to_string());
    assert_eq!(message.message_id, "test.event");
    assert!(message.structured_data.starts_with(&format!("[pganalytics@32473 id=\"{}\"", hostile.id)));
    assert_eq!(parse(&messages), [hostile]);
}

#[tokio::test]
async fn what_is_too_large_arrives_shortened() {
    let Some(server) = syslog(SyslogSecurity::None).await else { return };
    let large = saying(1, &"x".repeat(1 << 20));
    open(config(&server).with_max_message_bytes(4096)).append(&[large, event(2)]).await.unwrap();
    let messages = received(&server, 2).await;
    assert!(messages[0].structured_data.contains("truncatedFrom=\"10"));
    let held = parse(&messages);
    assert!(held[0].user_agent.as_ref().unwrap().contains("…[truncated 104"));
    assert_eq!(held[1], event(2));
}

#[tokio::test]
async fn a_connection_that_died_is_noticed_before_the_next_batch() {
    let Some(mut server) = syslog(SyslogSecurity::Tls).await else { return };
    let sink = open(config(&server).with_tls(with_tls(&server)));
    sink.append(&[event(0)]).await.unwrap();
    assert_eq!(received(&server, 1).await.len(), 1);
    server.restart().await;
    sink.append(&[event(1)]).await.unwrap();
    assert_eq!(parse(&received(&server, 2).await), events(0..2));
}

#[tokio::test]
async fn a_server_that_is_away_is_an_error_until_it_is_back() {
    let Some(mut server) = syslog(SyslogSecurity::None).await else { return };
    let sink = open(config(&server));
    sink.append(&[event(0)]).await.unwrap();
    assert_eq!(received(&server, 1).await.len(), 1);
    server.process().kill_9().await;
    let error = sink.append(&[event(1)]).await.unwrap_err();
    assert!(is_later(error));
    server.restart().await;
    sink.append(&[event(1)]).await.unwrap();
    assert_eq!(parse(&received(&server, 2).await), events(0..2));
}

#[tokio::test]
async fn certificates_are_checked() {
    let Some(server) = syslog(SyslogSecurity::MutualTls).await else { return };
    let Some(other) = syslog(SyslogSecurity::Tls).await else { return };
    let good = open(config(&server).with_tls(with_identity(&server)));
    good.append(&[event(0)]).await.unwrap();
    assert_eq!(parse(&received(&server, 1).await), [event(0)]);

    let wrong = with_identity(&server).with_server_name("elsewhere");
    for tls in [with_tls(&other), wrong] {
        let error = open(config(&server).with_tls(tls)).append(&[event(1)]).await.unwrap_err();
        assert!(is_later(error));
    }
    let stranger = open(config(&server).with_tls(with_tls(&server)));
    assert!(is_later(stranger.append(&[event(1)]).await.unwrap_err()));
    assert_eq!(server.received().len(), 1);
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_in_time() {
    // It takes connections, and never reads.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let deadline = Duration::from_millis(200);
    let hanging =
        SyslogConfig::new("127.0.0.1", port).with_max_message_bytes(1 << 25).with_deadline(deadline);
    let large = vec![saying(0, &"x".repeat(1 << 24)); 2];
    assert!(is_later(open(hanging.clone()).append(&large).await.unwrap_err()));
    let tls = SyslogTls::new().with_server_name("localhost");
    assert!(is_later(open(hanging.with_tls(tls)).append(&[event(0)]).await.unwrap_err()));
}

#[test]
fn bad_certificates_are_refused_at_once() {
    let with = |tls| SyslogAuditSink::new(SyslogConfig::new("localhost", 1).with_tls(tls));
    assert_eq!(with(SyslogTls::new().with_authorities("nothing")).unwrap_err().setting, "tls");
    let identity = SyslogTls::new().with_identity("nothing", SecretString::new("secret key"));
    assert!(!format!("{identity:?}").contains("secret key"));
    assert_eq!(with(identity).unwrap_err().setting, "tls");
}

fn is_later(error: AuditError) -> bool {
    matches!(error, AuditError::Backend(BackendError { retry: Retry::Later, .. }))
}
