//! The cookies of a browser's session.

use axum::http::HeaderMap;
use axum::http::header::{self, HeaderValue, InvalidHeaderValue};
use pganalytics_core::session::SessionToken;
use sha2::{Digest, Sha256};

/// The cookie that scripts read in order to repeat it in `X-CSRF-Token`.
pub const CSRF_COOKIE: &str = "csrf_token";

const SECURE_SESSION_COOKIE: &str = "__Host-pga_session";
const SESSION_COOKIE: &str = "pga_session";

/// How cookies are made: with `https` they are bound to this host and to TLS.
#[derive(Clone, Copy, Debug)]
pub struct Cookies {
    secure: bool,
}

impl Cookies {
    /// Cookies for a site with or without TLS.
    pub fn new(secure: bool) -> Self {
        Self { secure }
    }

    /// The session token that a request carries. Two cookies of that name are none: one of them was planted.
    pub fn session_token(self, headers: &HeaderMap) -> Option<SessionToken> {
        let mut found = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| *name == self.session_name());
        let (_, value) = found.next()?;
        if found.next().is_some() {
            return None;
        }
        value.parse().ok()
    }

    /// The headers that begin a session in a browser.
    ///
    /// # Errors
    /// Never for the values that this program makes.
    pub fn begin(
        self,
        token: &SessionToken,
        csrf: &str,
        max_age_seconds: u64,
    ) -> Result<[HeaderValue; 2], InvalidHeaderValue> {
        let secure = self.attributes();
        let name = self.session_name();
        Ok([
            format!(
                "{name}={}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age_seconds}{secure}",
                token.expose()
            )
            .parse()?,
            format!("{CSRF_COOKIE}={csrf}; Path=/; SameSite=Lax; Max-Age={max_age_seconds}{secure}")
                .parse()?,
        ])
    }

    /// The headers that end a session in a browser.
    ///
    /// # Errors
    /// Never for the values that this program makes.
    pub fn end(self) -> Result<[HeaderValue; 2], InvalidHeaderValue> {
        let secure = self.attributes();
        let name = self.session_name();
        Ok([
            format!("{name}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0{secure}").parse()?,
            format!("{CSRF_COOKIE}=; Path=/; SameSite=Lax; Max-Age=0{secure}").parse()?,
        ])
    }

    /// The name of the session cookie. `__Host-` keeps other hosts of the domain from setting it (RFC 6265bis, 4.1.3.2).
    pub fn session_name(self) -> &'static str {
        if self.secure { SECURE_SESSION_COOKIE } else { SESSION_COOKIE }
    }

    fn attributes(self) -> &'static str {
        if self.secure { "; Secure" } else { "" }
    }
}

/// What a client must repeat in `X-CSRF-Token`: derived from the session's secret, so that every server knows it and
/// no other site does.
pub fn csrf_token(token: &SessionToken) -> String {
    let digest =
        Sha256::new().chain_update("pganalytics csrf token v1:").chain_update(token.expose()).finalize();
    hex::encode(digest)
}

#[cfg(test)]
mod tests {
    use pganalytics_core::ids::UserId;
    use pganalytics_core::session::SessionId;
    use uuid::Uuid;

    use super::*;

    fn token() -> SessionToken {
        SessionToken::generate(SessionId::for_user(UserId(Uuid::nil()), Uuid::nil()))
    }

    fn request(cookies: &[String]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::COOKIE, cookie.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_session_cookie_is_read_back() {
        let (cookies, token) = (Cookies::new(true), token());
        let line = format!("a=b; __Host-pga_session={}; c=d", token.expose());
        assert_eq!(cookies.session_token(&request(&[line])), Some(token));
    }

    #[test]
    fn a_second_session_cookie_voids_both() {
        let cookies = Cookies::new(false);
        let both = [format!("pga_session={}", token().expose()), format!("pga_session={}", token().expose())];
        assert_eq!(cookies.session_token(&request(&both)), None);
        assert_eq!(cookies.session_token(&request(&[both.join("; ")])), None);
    }

    #[test]
    fn a_secure_site_ignores_the_cookie_without_prefix() {
        let line = format!("pga_session={}", token().expose());
        assert_eq!(Cookies::new(true).session_token(&request(&[line])), None);
    }
}
