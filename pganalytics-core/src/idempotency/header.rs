use http::HeaderMap;
use http::header::HeaderName;
use sfv::{BareItem, Item, Parser};

/// The header with a client's key (draft-ietf-httpapi-idempotency-key-header, section 2).
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header that tells a stored response from one that was just made.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Why a request's key cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKeyHeader {
    /// Of several keys none can be relied upon.
    #[error("it is given more than once")]
    Repeated,
    /// It begins with a quote and is no String of RFC 9651.
    #[error("it is not a quoted string")]
    NotAString,
    /// It has no quotes, and characters that are only allowed within them.
    #[error(
        "without quotes it has only letters, digits and punctuation other than quotes, commas and semicolons"
    )]
    NotBare,
}

/// The key in a header: a String of structured fields (RFC 9651, section 3.3.3; parameters are ignored), as the draft has it,
/// or bare, as most clients send it. `None` if the header is absent.
///
/// # Errors
/// What is wrong with it; answer 400.
pub fn idempotency_key_in(
    headers: &HeaderMap,
    name: &HeaderName,
) -> Result<Option<String>, InvalidKeyHeader> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(InvalidKeyHeader::Repeated);
    }
    let text = value.as_bytes().trim_ascii();
    if text.starts_with(b"\"") {
        return match Parser::new(text).parse::<Item>() {
            Ok(Item { bare_item: BareItem::String(key), .. }) => Ok(Some(key.into())),
            _ => Err(InvalidKeyHeader::NotAString),
        };
    }
    let is_bare = text.iter().all(|byte| byte.is_ascii_graphic() && !b"\",;".contains(byte));
    match str::from_utf8(text) {
        Ok(key) if is_bare => Ok(Some(key.into())),
        _ => Err(InvalidKeyHeader::NotBare),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(values: &[&[u8]]) -> Result<Option<String>, InvalidKeyHeader> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).unwrap());
        }
        idempotency_key_in(&headers, &IDEMPOTENCY_KEY)
    }

    #[test]
    fn quoted_and_bare_keys_are_the_same() {
        for text in ["\"8e03978e-40d5\"", "8e03978e-40d5", " \"8e03978e-40d5\" ", "\"8e03978e-40d5\";p=1"] {
            assert_eq!(read(&[text.as_bytes()]), Ok(Some("8e03978e-40d5".into())), "{text}");
        }
        assert_eq!(read(&[br#""a\"b\\c""#]), Ok(Some(r#"a"b\c"#.into())));
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [r#"""#, r#""abc"#, r#""a"b""#, r#""a\x""#, r#""a", "b""#, "\"k\u{e9}\""] {
            assert_eq!(read(&[text.as_bytes()]), Err(InvalidKeyHeader::NotAString), "{text}");
        }
        for text in ["a, b", "a;b", "a b", "k\u{e9}", "a\"b"] {
            assert_eq!(read(&[text.as_bytes()]), Err(InvalidKeyHeader::NotBare), "{text}");
        }
        assert_eq!(read(&[b"\"a\"", b"\"b\""]), Err(InvalidKeyHeader::Repeated));
    }
}
