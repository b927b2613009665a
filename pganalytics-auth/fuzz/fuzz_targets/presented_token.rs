//! Tokens of any text must be refused without a panic.

#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use pganalytics_auth::token::{ApiTokenText, LegacyCollectorVerifier};
use pganalytics_core::clock::SystemClock;
use pganalytics_core::secret::SecretString;

fn verifier() -> &'static LegacyCollectorVerifier {
    static VERIFIER: OnceLock<LegacyCollectorVerifier> = OnceLock::new();
    VERIFIER.get_or_init(|| {
        let secret = SecretString::new("a secret that the fuzzer does not find");
        LegacyCollectorVerifier::new(&secret, Arc::new(SystemClock)).expect("the secret is not empty")
    })
}

fuzz_target!(|token: &str| {
    assert!(verifier().verify_ignoring_expiry(token).is_err());
    if let Ok(parsed) = token.parse::<ApiTokenText>() {
        assert_eq!(parsed.expose(), token);
    }
});
