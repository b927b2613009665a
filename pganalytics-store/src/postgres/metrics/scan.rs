//! Walks through JSON text without building values.
//!
//! The text is known to be well-formed (it comes out of a `RawValue`), so these functions only look for where
//! things begin and end. On text that is not, they stop early, but neither panic nor loop.

use std::borrow::Cow;
use std::ops::Range;

use super::entry::SkipReason;

/// The deepest nesting that an entry may have. PostgreSQL parses JSON recursively.
const MAX_DEPTH: usize = 64;

/// The longest text of a number. Far above what prints any 64-bit value, and below what `numeric` refuses.
const MAX_NUMBER_LEN: usize = 400;
const MAX_EXPONENT: u32 = 400;

/// Texts of decimals up to this length without an exponent are finite without being parsed.
const PLAIN_NUMBER_LEN: usize = 100;

/// What is wrong with a text, and the offset where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: SkipReason,
    pub(super) at: usize,
}

/// One `"key": value` of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member<'a> {
    pub(super) key: Cow<'a, str>,
    pub(super) value: Range<usize>,
}

/// Makes sure that PostgreSQL will take the text as jsonb once [`replace_escapes`] has been over it. Tells how
/// many escapes there are to replace.
pub(super) fn check(text: &str) -> Result<usize, Fault> {
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut unstorable) = (0, 0, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at, |_| unstorable += 1),
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(SkipReason::TooDeep.at(at));
                }
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let end = number_end(bytes, at);
                if !number_fits(&text[at..end]) {
                    return Err(SkipReason::NumberOutOfRange.at(at));
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    Ok(unstorable)
}

/// The text with U+FFFD for what PostgreSQL cannot store: U+0000 and halves of surrogate pairs. Both can only be
/// there as escapes, which have the length of their replacement.
pub(super) fn replace_escapes(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at = if byte == b'"' { string_end(bytes, at, |escape| found.push(escape)) } else { at + 1 };
    }
    let mut replaced = String::with_capacity(text.len());
    let mut done = 0;
    for escape in found {
        replaced.push_str(&text[done..escape]);
        replaced.push_str("\\ufffd");
        done = escape + 6;
    }
    replaced.push_str(&text[done..]);
    replaced
}

/// The members of the object at `object`; none when it is not an object.
pub(super) fn members(text: &str, object: Range<usize>) -> impl Iterator<Item = Member<'_>> {
    let bytes = text.as_bytes();
    let mut at = content_start(bytes, &object, b'{');
    std::iter::from_fn(move || {
        let key_start = skip_blank(bytes, at, object.end);
        if bytes.get(key_start) != Some(&b'"') || key_start >= object.end {
            return None;
        }
        let key_end = string_end(bytes, key_start, |_| ());
        let value_start = skip_blank(bytes, key_end, object.end);
        let value_end = value_end(bytes, value_start, object.end);
        at = value_end;
        Some(Member { key: unquote(&text[key_start..key_end]), value: value_start..value_end })
    })
}

/// The elements of the array at `array`; none when it is not an array.
pub(super) fn elements(text: &str, array: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let bytes = text.as_bytes();
    let mut at = content_start(bytes, &array, b'[');
    std::iter::from_fn(move || {
        let start = skip_blank(bytes, at, array.end);
        if start >= array.end || bytes[start] == b']' {
            return None;
        }
        let end = value_end(bytes, start, array.end);
        at = end;
        (end > start).then_some(start..end)
    })
}

/// The string that the quoted text stands for.
pub(super) fn unquote(quoted: &str) -> Cow<'_, str> {
    let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    if inner.contains('\\') {
        // An escape that stands for no character has been replaced before.
        Cow::Owned(serde_json::from_str(quoted).unwrap_or_default())
    } else {
        Cow::Borrowed(inner)
    }
}

/// Behind the string that begins at `start`. Calls `unstorable` with the offset of each escape that PostgreSQL
/// would refuse.
fn string_end(bytes: &[u8], start: usize, mut unstorable: impl FnMut(usize)) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' if bytes.get(at + 1) == Some(&b'u') => match escaped_unit(bytes, at) {
                Some(0xd800..=0xdbff) if matches!(escaped_unit(bytes, at + 6), Some(0xdc00..=0xdfff)) => {
                    at += 12
                }
                Some(0 | 0xd800..=0xdfff) => {
                    unstorable(at);
                    at += 6;
                }
                _ => at += 6,
            },
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The UTF-16 unit of the `\uXXXX` at `at`, if there is one.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let escape = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(escape).ok()?, 16).ok()
}

fn number_end(bytes: &[u8], start: usize) -> usize {
    let digits = bytes[start..].iter();
    start + digits.take_while(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')).count()
}

/// Whether the number is an `i64`, a `u64` or a finite `f64`, in a text that `numeric` takes.
fn number_fits(number: &str) -> bool {
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (number, None),
    };
    match exponent {
        None if !mantissa.contains('.') => number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok(),
        None if number.len() <= PLAIN_NUMBER_LEN => true,
        _ => {
            let exponent = exponent.unwrap_or("0").trim_start_matches(['+', '-']);
            number.len() <= MAX_NUMBER_LEN
                && exponent.parse().is_ok_and(|exponent: u32| exponent <= MAX_EXPONENT)
                && number.parse::<f64>().is_ok_and(f64::is_finite)
        }
    }
}

fn content_start(bytes: &[u8], container: &Range<usize>, bracket: u8) -> usize {
    let opens = bytes.get(container.start) == Some(&bracket) && container.start < container.end;
    if opens { container.start + 1 } else { container.end }
}

/// Behind blanks and the punctuation that separates values.
fn skip_blank(bytes: &[u8], start: usize, end: usize) -> usize {
    let blanks = bytes.get(start..end).unwrap_or_default().iter();
    start + blanks.take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':')).count()
}

/// Behind the value that begins at `start`.
fn value_end(bytes: &[u8], start: usize, end: usize) -> usize {
    let mut at = start;
    let mut depth = 0_usize;
    while at < end {
        match bytes[at] {
            b'"' => {
                at = string_end(bytes, at, |_| ());
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return if depth == 0 { at } else { at + 1 },
            b'}' | b']' => depth -= 1,
            b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return at,
            _ => (),
        }
        at += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Range<usize> {
        0..text.len()
    }

    #[test]
    fn members_are_found_between_blanks_and_in_strings_that_look_like_json() {
        let text = r#"{ "a" : 1 ,"b\n":"}\"{", "c":{"d":[1,{"e":2}]},"f":[ ],"g":null}"#;
        let found: Vec<(String, &str)> =
            members(text, whole(text)).map(|member| (member.key.into_owned(), &text[member.value])).collect();
        let expected =
            [("a", "1"), ("b\n", r#""}\"{""#), ("c", r#"{"d":[1,{"e":2}]}"#), ("f", "[ ]"), ("g", "null")];
        assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value)));
    }

    #[test]
    fn elements_are_found_whatever_they_are() {
        let text = r#"[ 1, -2.5e3 ,"a,b",[],{"x":[1,2]} , null]"#;
        let found: Vec<&str> = elements(text, whole(text)).map(|range| &text[range]).collect();
        assert_eq!(found, ["1", "-2.5e3", r#""a,b""#, "[]", r#"{"x":[1,2]}"#, "null"]);
        assert_eq!(elements("[]", 0..2).count(), 0);
        assert_eq!(elements("{}", 0..2).count(), 0);
    }

    #[test]
    fn escapes_that_postgresql_refuses_are_counted_and_replaced() {
        let text = r#"{"a\u0000":"\ud83d\ude00 \ud83d \ude00 \\u0000 \u0041"}"#;
        assert_eq!(check(text), Ok(3));
        let replaced = replace_escapes(text);
        assert_eq!(replaced, r#"{"a\ufffd":"\ud83d\ude00 \ufffd \ufffd \\u0000 \u0041"}"#);
        assert_eq!(check(&replaced), Ok(0));
    }

    #[test]
    fn numbers_fit_64_bits_or_are_named() {
        for fits in ["0", "-0", "-9223372036854775808", "18446744073709551615", "0.1", "-1.5e-308", "1E+2"] {
            assert_eq!(check(fits), Ok(0), "{fits}");
        }
        let (many_zeros, many_digits) = (format!("0.{}", "0".repeat(20_000)), "9".repeat(310) + ".0");
        for refused in
            ["18446744073709551616", "-9223372036854775809", "1e309", "1e-401", &many_zeros, &many_digits]
        {
            let fault = check(refused).unwrap_err();
            assert_eq!(fault.reason, SkipReason::NumberOutOfRange, "{refused}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(check(&nested(MAX_DEPTH)), Ok(0));
        assert_eq!(check(&nested(MAX_DEPTH + 1)), Err(SkipReason::TooDeep.at(MAX_DEPTH)));
    }
}
