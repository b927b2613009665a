//! Texts must be refused as shares without a panic, or be shares that are printed as they were typed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pganalytics_crypto::recovery::RecoveryShare;

fuzz_target!(|typed: &str| {
    let Ok(share) = RecoveryShare::parse(typed) else { return };
    let printed = share.to_text();
    let again = RecoveryShare::parse(printed.expose()).expect("what is printed is read");
    assert_eq!(again.to_text(), printed);
    assert!(share.threshold() >= 2 && (1..=share.shares()).contains(&share.number()));
});
