use http::HeaderMap;
use http::header::AUTHORIZATION;

/// The token of an `Authorization: Bearer` header (RFC 6750, section 2.1; the scheme in any case, one space, no blanks in the
/// token). `None` if there is no such header, more than one, or one of another scheme.
pub fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    (scheme.eq_ignore_ascii_case("bearer") && is_token).then_some(token)
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
