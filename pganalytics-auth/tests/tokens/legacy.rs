use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use pganalytics_auth::token::{EmptyLegacySecret, LegacyCollectorVerifier, TokenRefusal};
use pganalytics_core::clock::Clock;
use pganalytics_core::secret::SecretString;
use pganalytics_core::testing::ManualClock;
use serde_json::{Value, json};

const SECRET: &str = "the secret of the old installation";
const COLLECTOR: &str = "0192a1b2-0000-7000-8000-000000000001";

struct Legacy {
    verifier: LegacyCollectorVerifier,
    clock: ManualClock,
}

impl Legacy {
    fn new() -> Self {
        let clock = ManualClock::new();
        let verifier =
            LegacyCollectorVerifier::new(&SecretString::new(SECRET), Arc::new(clock.clone())).unwrap();
        Self { verifier, clock }
    }

    fn claims(&self) -> Value {
        let now = self.clock.now().timestamp();
        json!({
            "collector_id": COLLECTOR, "hostname": "db1", "type": "access",
            "sub": format!("collector:{COLLECTOR}"), "iat": now, "nbf": now, "exp": now + 1800
        })
    }

    fn refusal(&self, token: &str) -> TokenRefusal {
        let refusal = self.verifier.verify_ignoring_expiry(token).unwrap_err();
        assert_eq!(self.verifier.verify(token), Err(refusal));
        refusal
    }
}

fn header() -> Value {
    json!({"alg": "HS256", "typ": "JWT"})
}

fn sign(secret: &str, header: &Value, claims: &Value) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let input = format!("{header}.{claims}");
    let mac = hmac::sign(&hmac::Key::new(HMAC_SHA256, secret.as_bytes()), input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(mac.as_ref()))
}

#[test]
fn a_token_of_the_old_installation_is_accepted() {
    let legacy = Legacy::new();
    let claims = legacy.verifier.verify(&sign(SECRET, &header(), &legacy.claims())).unwrap();
    assert_eq!(claims.collector.to_string(), COLLECTOR);
    assert_eq!(claims.hostname.as_deref(), Some("db1"));
    assert_eq!(claims.expired_for, None);
}

#[test]
fn an_expired_token_is_genuine_for_renewal_alone() {
    let legacy = Legacy::new();
    let token = sign(SECRET, &header(), &legacy.claims());
    legacy.clock.advance(Duration::from_secs(1800 + 60));
    assert_eq!(legacy.verifier.verify(&token), Err(TokenRefusal::Expired));
    let claims = legacy.verifier.verify_ignoring_expiry(&token).unwrap();
    assert_eq!(claims.expired_for, Some(Duration::from_secs(60)));
}

#[test]
fn an_empty_secret_is_refused() {
    for secret in ["", " ", "\n"] {
        let verifier = LegacyCollectorVerifier::new(&SecretString::new(secret), Arc::new(ManualClock::new()));
        assert_eq!(verifier.unwrap_err(), EmptyLegacySecret);
    }
}

#[test]
fn tokens_that_collectors_make_for_themselves_are_refused() {
    let legacy = Legacy::new();
    let now = legacy.clock.now().timestamp();
    let claims = json!({
        "iss": "pganalytics-collector", "sub": "collector-001", "iat": now, "exp": now + 3600,
        "collector_id": "collector-001", "jti": "1"
    });
    // In the field: ordinary base64 with padding, and an empty key.
    let [header_part, claims_part] = [header(), claims.clone()].map(|part| STANDARD.encode(part.to_string()));
    let input = format!("{header_part}.{claims_part}");
    let mac = hmac::sign(&hmac::Key::new(HMAC_SHA256, b""), input.as_bytes());
    let in_the_field = format!("{input}.{}", STANDARD.encode(mac.as_ref()));
    assert_eq!(legacy.refusal(&in_the_field), TokenRefusal::Malformed);
    assert_eq!(legacy.refusal(&sign("", &header(), &claims)), TokenRefusal::Signature);
    assert_eq!(legacy.refusal(&sign("", &header(), &legacy.claims())), TokenRefusal::Signature);
    // Even under the right secret it names no collector.
    assert_eq!(legacy.refusal(&sign(SECRET, &header(), &claims)), TokenRefusal::Claims);
}

#[test]
fn tokens_of_users_are_refused() {
    let legacy = Legacy::new();
    let now = legacy.clock.now().timestamp();
    let user = json!({
        "user_id": 1, "username": "admin", "email": "a@example.org", "role": "admin", "type": "access",
        "sub": "user:1", "iat": now, "nbf": now, "exp": now + 900
    });
    assert_eq!(legacy.refusal(&sign(SECRET, &header(), &user)), TokenRefusal::Claims);
    for (claim, value) in [
        ("user_id", json!(1)),
        ("type", json!("refresh")),
        ("sub", json!("user:1")),
        ("sub", json!("collector:0192a1b2-0000-7000-8000-000000000002")),
        ("sub", json!(COLLECTOR)),
    ] {
        let mut claims = legacy.claims();
        claims[claim] = value;
        assert_eq!(legacy.refusal(&sign(SECRET, &header(), &claims)), TokenRefusal::Type, "{claims}");
    }
}

#[test]
fn other_algorithms_and_headers_are_refused() {
    let legacy = Legacy::new();
    for alg in ["none", "HS384", "HS512", "RS256", "EdDSA", ""] {
        let token = sign(SECRET, &json!({"alg": alg, "typ": "JWT"}), &legacy.claims());
        assert_eq!(legacy.refusal(&token), TokenRefusal::Algorithm, "{alg}");
    }
    let unsigned = sign(SECRET, &json!({"alg": "none"}), &legacy.claims());
    let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
    assert_eq!(legacy.refusal(&unsigned), TokenRefusal::Algorithm);
    let token = sign(SECRET, &json!({"alg": "HS256", "typ": "at+jwt"}), &legacy.claims());
    assert_eq!(legacy.refusal(&token), TokenRefusal::Type);
    let token = sign(SECRET, &json!({"alg": "HS256", "crit": ["exp"]}), &legacy.claims());
    assert_eq!(legacy.refusal(&token), TokenRefusal::Malformed);
    let cut = sign(SECRET, &header(), &legacy.claims());
    let cut = format!("{}.", cut.rsplit_once('.').unwrap().0);
    assert_eq!(legacy.refusal(&cut), TokenRefusal::Signature);
}

#[test]
fn tokens_from_the_future_and_malformed_times_are_refused() {
    let legacy = Legacy::new();
    let now = legacy.clock.now().timestamp();
    for (claim, value, expected) in [
        ("nbf", json!(now + 61), TokenRefusal::NotYetValid),
        ("iat", json!(now + 61), TokenRefusal::NotYetValid),
        ("exp", json!(i64::MAX), TokenRefusal::Claims),
        ("exp", json!("soon"), TokenRefusal::Claims),
        ("collector_id", json!("collector-001"), TokenRefusal::Claims),
    ] {
        let mut claims = legacy.claims();
        claims[claim] = value;
        assert_eq!(legacy.refusal(&sign(SECRET, &header(), &claims)), expected, "{claims}");
    }
}

#[test]
fn the_secret_is_not_printed() {
    assert!(!format!("{:?}", Legacy::new().verifier).contains(SECRET));
}
