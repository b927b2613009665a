use http::HeaderMap;
use http::header::AUTHORIZATION;

/// The token of an `Authorization: Bearer` header (RFC 6750, section 2.1; the scheme in any case, one space, no blanks in the
/// token). `None` if there is no such header, more than one, or one of another scheme.
pub fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let value = value.as_bytes();
    let (scheme, token) = value.split_at(value.iter().position(|byte| *byte == b' ')?);
    let token = &token[1..];
    // Looks at every byte, which the compiler does many at a time.
    let is_graphic = token.iter().fold(true, |so_far, byte| so_far & byte.is_ascii_graphic());
    let is_token = !token.is_empty() && is_graphic && scheme.eq_ignore_ascii_case(b"bearer");
    if is_token { str::from_utf8(token).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        bearer_token(&headers).map(str::to_owned)
    }

    #[test]
    fn a_bearer_token_is_found() {
        assert_eq!(of(&["Bearer abc.DEF_-"]).as_deref(), Some("abc.DEF_-"));
        assert_eq!(of(&["bearer a"]).as_deref(), Some("a"));
    }

    #[test]
    fn anything_else_is_none() {
        for values in [
            &[][..],
            &["Bearer"],
            &["Bearer "],
            &["Bearer  a"],
            &["Bearer a "],
            &["Bearera"],
            &["Basic YTpi"],
            &["Bearer é"],
            &["Bearer a", "Bearer "],
            &[""],
        ] {
            assert_eq!(of(values), None, "{values:?}");
        }
    }
}
