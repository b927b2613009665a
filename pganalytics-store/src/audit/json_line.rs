use std::io;

use pganalytics_core::audit::AuditEvent;
use serde::Serialize;
use serde_json::ser::Formatter;

/// Writes one line of JSON, which no text in it can break, forge or show as something else on a terminal.
pub(super) fn write_line(out: &mut Vec<u8>, value: &impl Serialize) {
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, Harmless);
    value.serialize(&mut serializer).expect("every part of it is JSON, and memory takes it");
    out.push(b'\n');
}

/// The lines of a batch.
pub(super) fn lines(events: &[AuditEvent]) -> Vec<u8> {
    let mut out = Vec::with_capacity(events.len() * 512);
    for event in events {
        write_line(&mut out, event);
    }
    out
}

/// JSON on one line that also escapes what is not seen, or changes how the rest is seen.
struct Harmless;

impl Formatter for Harmless {
    /// What JSON itself demands to be escaped does not come this way.
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let highest = fragment.bytes().fold(0, u8::max);
        if highest < 0x7f {
            return writer.write_all(fragment.as_bytes());
        }
        let mut rest = fragment;
        while let Some((at, found)) = rest.char_indices().find(|(_, character)| misleads(*character)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in found.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + found.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Controls, line and paragraph separators, bidirectional and other invisible format characters.
pub(super) fn misleads(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> String {
        let mut out = Vec::new();
        write_line(&mut out, &[text]);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_not_seen_is_escaped() {
        assert_eq!(
            line("a\u{202e}b\u{7f}\u{9b}é\u{e0041}"),
            "[\"a\\u202eb\\u007f\\u009bé\\udb40\\udc41\"]\n"
        );
        assert_eq!(line("\n\u{1b}[2K\\\""), "[\"\\n\\u001b[2K\\\\\\\"\"]\n");
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_and_comes_back(text in any::<String>()) {
            let line = line(&text);
            prop_assert!(line.ends_with('\n') && !line.trim_end_matches('\n').contains(misleads));
            let [back]: [String; 1] = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(back, text);
        }
    }
}
