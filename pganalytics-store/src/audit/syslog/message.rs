use std::borrow::Cow;

use chrono::SecondsFormat;
use pganalytics_core::audit::{AuditEvent, Outcome};
use serde_json::json;

use super::config::SyslogConfig;
use crate::audit::json_line::{misleads, write_line};

/// The longest value in the structured data, in bytes before escaping.
const VALUE_MAX: usize = 64;

/// How far the texts of an event are shortened, in bytes each, until it fits.
const SHORTENED: [usize; 4] = [1024, 256, 64, 16];

/// The longest MSGID (RFC 5424, section 6).
const MESSAGE_ID_MAX: usize = 32;

/// Writes an event as a message of RFC 5424, framed by its length (RFC 6587, section 3.4.1).
///
/// The structured data is there to filter by; the whole event is the message, as JSON.
pub(super) fn write_frame(out: &mut Vec<u8>, config: &SyslogConfig, event: &AuditEvent) {
    let message = message(config, event);
    out.extend_from_slice(message.len().to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(&message);
}

fn message(config: &SyslogConfig, event: &AuditEvent) -> Vec<u8> {
    let header = header(config, event);
    let whole = compose(&header, &structured_data(config, event, None), &text(event));
    if whole.len() <= config.max_message_bytes {
        return whole;
    }
    let marked = structured_data(config, event, Some(whole.len()));
    for longest in SHORTENED {
        let shorter = compose(&header, &marked, &text(&shortened(event, longest)));
        if shorter.len() <= config.max_message_bytes {
            return shorter;
        }
    }
    compose(&header, &marked, "")
}

fn compose(header: &str, structured_data: &str, text: &str) -> Vec<u8> {
    let mut message = format!("{header} {structured_data}");
    if !text.is_empty() {
        message.push(' ');
        // What is not ASCII is announced as UTF-8 (section 6.4).
        if !text.is_ascii() {
            message.push('\u{feff}');
        }
        message.push_str(text);
    }
    message.into_bytes()
}

fn header(config: &SyslogConfig, event: &AuditEvent) -> String {
    let severity = match event.outcome {
        Outcome::Success => 6,
        Outcome::Denied => 4,
        _ => 3,
    };
    let action = event.action.as_str();
    format!(
        "<{}>1 {} {} {} {} {}",
        u32::from(config.facility) * 8 + severity,
        event.at.to_rfc3339_opts(SecondsFormat::Micros, true),
        config.hostname.as_deref().unwrap_or("-"),
        config.app_name,
        std::process::id(),
        &action[..action.len().min(MESSAGE_ID_MAX)],
    )
}

fn structured_data(config: &SyslogConfig, event: &AuditEvent, cut_from: Option<usize>) -> String {
    let mut element = format!("[{}", config.structured_data_id);
    let mut add = |name: &str, value: Option<Cow<'_, str>>| {
        if let Some(value) = value {
            element.push_str(&format!(" {name}=\""));
            push_value(&mut element, &value);
            element.push('"');
        }
    };
    add("id", Some(event.id.to_string().into()));
    add("action", Some(event.action.as_str().into()));
    add("outcome", Some(event.outcome.as_str().into()));
    add("actor", Some(event.actor.kind.as_str().into()));
    add("actorId", event.actor.id.as_deref().map(Into::into));
    add("actorName", event.actor.name.as_deref().map(Into::into));
    let resource = event.resource.as_ref();
    add("resource", resource.map(|resource| resource.kind.as_str().into()));
    add("resourceId", resource.and_then(|resource| resource.id.as_deref()).map(Into::into));
    add("address", event.address.map(|address| address.to_string().into()));
    add("requestId", event.request_id.as_deref().map(Into::into));
    add("truncatedFrom", cut_from.map(|bytes| bytes.to_string().into()));
    element.push(']');
    element
}

/// Escapes a value (section 6.3.3), after writing what is not seen as `\uXXXX`.
fn push_value(out: &mut String, value: &str) {
    let cut = value.floor_char_boundary(VALUE_MAX);
    for character in value[..cut].chars() {
        match character {
            '"' | '\\' | ']' => out.extend(['\\', character]),
            hidden if misleads(hidden) => {
                for unit in hidden.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\\\u{unit:04x}"));
                }
            }
            seen => out.push(seen),
        }
    }
    if cut < value.len() {
        out.push('…');
    }
}

/// The event as one line of JSON.
fn text(event: &AuditEvent) -> String {
    let mut line = Vec::new();
    write_line(&mut line, event);
    line.pop();
    String::from_utf8(line).expect("JSON is UTF-8")
}

/// The event with texts of so many bytes at most, and no word of what changed.
fn shortened(event: &AuditEvent, longest: usize) -> AuditEvent {
    let mut event = event.clone();
    let (mut kind, mut id) = (None, None);
    if let Some(resource) = &mut event.resource {
        kind = Some(&mut resource.kind);
        id = resource.id.as_mut();
    }
    let texts = [
        event.actor.id.as_mut(),
        event.actor.name.as_mut(),
        event.actor.role.as_mut(),
        kind,
        id,
        event.reason.as_mut(),
        event.request_id.as_mut(),
        event.user_agent.as_mut(),
        event.provider.as_mut(),
    ];
    for text in texts.into_iter().flatten() {
        shorten(text, longest);
    }
    if let Some(changes) = &mut event.changes {
        let bytes = changes.to_string().len();
        *changes = json!({ "truncated": { "before": null, "after": format!("[truncated {bytes} bytes]") } });
    }
    event
}

fn shorten(text: &mut String, longest: usize) {
    let end = text.floor_char_boundary(longest);
    let cut = text.len() - end;
    if cut > 0 {
        text.truncate(end);
        text.push_str(&format!("…[truncated {cut} bytes]"));
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use pganalytics_core::audit::{Actor, ActorKind, Resource};
    use pganalytics_core::ids::EventId;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn config() -> SyslogConfig {
        SyslogConfig::new("localhost", 601).with_hostname("host-1").with_app_name("app")
    }

    fn event(text: &str) -> AuditEvent {
        let at = DateTime::from_timestamp_micros(1_767_225_600_000_000).unwrap();
        let actor =
            Actor { kind: ActorKind::User, id: Some("7".into()), name: Some(text.into()), role: None };
        let action = "user.role.update".parse().unwrap();
        let mut event = AuditEvent::new(EventId(Uuid::from_u128(1)), at, actor, action, Outcome::Denied);
        event.resource = Some(Resource::new("user", 9));
        event.changes = Some(json!({ "role": { "before": "viewer", "after": text } }));
        event
    }

    fn written(config: &SyslogConfig, event: &AuditEvent) -> String {
        let mut out = Vec::new();
        write_frame(&mut out, config, event);
        let frame = String::from_utf8(out).unwrap();
        let (length, message) = frame.split_once(' ').unwrap();
        assert_eq!(length.parse(), Ok(message.len()));
        message.to_owned()
    }

    #[test]
    fn the_parts_stand_where_the_rfc_wants_them() {
        let message = written(&config(), &event("é\"\\]\n\u{202e}"));
        let process = std::process::id();
        let begin = format!(
            "<108>1 2026-01-01T00:00:00.000000Z host-1 app {process} user.role.update \
             [pganalytics@32473 id=\"00000000-0000-0000-0000-000000000001\" action=\"user.role.update\" \
             outcome=\"denied\" actor=\"user\" actorId=\"7\" actorName=\"é\\\"\\\\\\]\\\\u000a\\\\u202e\" \
             resource=\"user\" resourceId=\"9\"] \u{feff}{{\"id\""
        );
        assert!(message.starts_with(&begin), "{message}\n{begin}");
    }

    #[test]
    fn ascii_is_not_announced() {
        assert!(!written(&config(), &event("plain")).contains('\u{feff}'));
    }

    #[test]
    fn a_long_action_is_whole_in_the_structured_data() {
        let mut long = event("x");
        long.action = format!("a.{}", "b".repeat(90)).parse().unwrap();
        let message = written(&config(), &long);
        assert_eq!(message.split(' ').nth(5).unwrap().len(), 32);
        assert!(message.contains(&format!("\"action\":\"{}\"", long.action)));
    }

    #[test]
    fn what_is_too_large_is_shortened_and_says_so() {
        let large = event(&"🦀x".repeat(100_000));
        for size in [1024, 2048, 8192] {
            let message = written(&config().with_max_message_bytes(size), &large);
            assert!(message.len() <= size);
            assert!(message.contains("truncatedFrom=\""));
            let json = message.split_once("] ").map(|(_, text)| text.trim_start_matches('\u{feff}'));
            let read: AuditEvent = serde_json::from_str(json.unwrap()).unwrap();
            assert_eq!(read.id, large.id);
            assert!(read.actor.name.unwrap().contains("…[truncated"));
            assert!(read.changes.unwrap().to_string().contains("[truncated 5"));
        }
    }

    #[test]
    fn settings_that_break_the_header_are_refused() {
        assert!(config().check().is_ok());
        for broken in [
            config().with_hostname("a b"),
            config().with_hostname(""),
            config().with_app_name("x".repeat(49)),
            config().with_app_name("é"),
            config().with_structured_data_id("a=b"),
            config().with_facility(24),
            config().with_max_message_bytes(1023),
        ] {
            assert!(broken.check().is_err(), "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_message(text in any::<String>(), size in 1024_usize..3000) {
            let event = event(&text);
            let message = written(&config().with_max_message_bytes(size), &event);
            prop_assert!(message.len() <= size);
            let after_mark = message.replace('\u{feff}', "");
            prop_assert!(!after_mark.contains(misleads));
            // The first `]` that is not escaped ends the structured data.
            let mut escaped = false;
            let end = message.char_indices().find(|(_, character)| {
                let ends = *character == ']' && !escaped;
                escaped = *character == '\\' && !escaped;
                ends
            });
            let rest = &message[end.unwrap().0 + 2..];
            let read: AuditEvent = serde_json::from_str(rest.trim_start_matches('\u{feff}')).unwrap();
            prop_assert_eq!(read.id, event.id);
        }
    }
}
