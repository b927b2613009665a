use chrono::DateTime;
use pganalytics_core::audit::{Actor, AuditEvent, Outcome};
use pganalytics_core::ids::EventId;
use uuid::Uuid;

/// The n-th event.
pub(crate) fn event(number: u32) -> AuditEvent {
    let at = DateTime::from_timestamp_micros(1_767_225_600_000_000 + i64::from(number)).unwrap();
    let id = EventId(Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0000 + u128::from(number)));
    AuditEvent::new(id, at, Actor::anonymous(), "test.event".parse().unwrap(), Outcome::Success)
}

pub(crate) fn events(numbers: std::ops::Range<u32>) -> Vec<AuditEvent> {
    numbers.map(event).collect()
}

/// An event whose texts are this.
pub(crate) fn saying(number: u32, text: &str) -> AuditEvent {
    let mut event = event(number);
    event.user_agent = Some(text.to_owned());
    event
}

pub(crate) fn parse_lines(bytes: &[u8]) -> Vec<AuditEvent> {
    std::str::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
