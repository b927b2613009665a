//! A recovery key pair from its ceremony to the day it is needed.
#![cfg(feature = "recovery")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use pganalytics_core::keys::{DataKey, KeyContext};
use pganalytics_core::secret::SecretString;
use pganalytics_crypto::recovery::{
    RecoveryError, RecoveryIdentity, RecoveryRecipient, RecoveryShare, ShareError, combine, combine_texts,
    split,
};
use proptest::prelude::*;

fn context(text: &str) -> KeyContext {
    KeyContext(text.into())
}

fn texts(shares: &[RecoveryShare]) -> Vec<String> {
    shares.iter().map(|share| share.to_text().expose().to_owned()).collect()
}

#[test]
fn a_wrapped_key_is_recovered() {
    let identity = RecoveryIdentity::generate();
    let pinned: RecoveryRecipient = identity.to_recipient().to_string().parse().unwrap();
    let key = DataKey::generate();
    for text in ["data_key/1", "", "名前"] {
        let wrapped = pinned.wrap(&context(text), &key).unwrap();
        assert!(identity.unwrap(&context(text), &wrapped).unwrap() == key);
        assert!(!wrapped.windows(8).any(|part| key.expose().windows(8).any(|secret| secret == part)));
    }
}

#[test]
fn another_context_or_key_is_refused() {
    let identity = RecoveryIdentity::generate();
    let wrapped = identity.to_recipient().wrap(&context("data_key/1"), &DataKey::generate()).unwrap();
    for other in ["data_key/2", "data_key/", "data_key/10", ""] {
        let error = identity.unwrap(&context(other), &wrapped).unwrap_err();
        assert_eq!(error, RecoveryError::Undecryptable, "{other}");
    }
    let another = RecoveryIdentity::generate();
    assert_eq!(another.unwrap(&context("data_key/1"), &wrapped).unwrap_err(), RecoveryError::Undecryptable);
}

#[test]
fn every_changed_byte_of_a_wrapped_key_is_refused() {
    let identity = RecoveryIdentity::generate();
    let wrapped = identity.to_recipient().wrap(&context("row"), &DataKey::generate()).unwrap();
    for position in 0..wrapped.len() {
        let mut changed = wrapped.to_vec();
        changed[position] ^= 1;
        let refused = identity.unwrap(&context("row"), &changed).unwrap_err();
        assert_eq!(refused, RecoveryError::Undecryptable, "byte {position}");
        let cut = identity.unwrap(&context("row"), &wrapped[..position]).unwrap_err();
        assert_eq!(cut, RecoveryError::Undecryptable, "cut to {position}");
    }
    let extended = [&wrapped[..], b"\0"].concat();
    assert_eq!(identity.unwrap(&context("row"), &extended).unwrap_err(), RecoveryError::Undecryptable);
    assert_eq!(identity.unwrap(&context("row"), &[0; 100_000]).unwrap_err(), RecoveryError::Undecryptable);
}

#[test]
fn a_context_that_is_too_long_is_refused() {
    let recipient = RecoveryIdentity::generate().to_recipient();
    let key = DataKey::generate();
    recipient.wrap(&context(&"x".repeat(16 * 1024)), &key).unwrap();
    let error = recipient.wrap(&context(&"x".repeat(16 * 1024 + 1)), &key).unwrap_err();
    assert_eq!(error, RecoveryError::LongContext { bytes: 16 * 1024 + 1 });
}

#[test]
fn a_longest_context_is_recovered() {
    let identity = RecoveryIdentity::generate();
    let (key, long) = (DataKey::generate(), context(&"x".repeat(16 * 1024)));
    let wrapped = identity.to_recipient().wrap(&long, &key).unwrap();
    assert!(identity.unwrap(&long, &wrapped).unwrap() == key);
}

#[test]
fn an_identity_survives_its_text_form() {
    let identity = RecoveryIdentity::generate();
    let text = identity.to_text();
    assert!(text.expose().starts_with("AGE-SECRET-KEY-1"));
    let read = RecoveryIdentity::parse(&SecretString::new(format!(" {}\n", text.expose()))).unwrap();
    assert_eq!(read.to_recipient(), identity.to_recipient());
    let printed = format!("{identity:?}");
    assert!(!printed.contains(&text.expose()[16..30]), "{printed}");
    let none = RecoveryIdentity::parse(&SecretString::new("AGE-SECRET-KEY-1QQQ")).unwrap_err();
    assert_eq!(none, RecoveryError::InvalidIdentity);
}

#[test]
fn points_of_small_order_are_no_recovery_key() {
    // 0, 1 and a point of order 8 (RFC 7748, section 6.1; https://cr.yp.to/ecdh.html#validate).
    let eight = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
    let one = format!("01{}", "00".repeat(31));
    for point in ["00".repeat(32), one, eight.into()] {
        let prefix = bech32::Hrp::parse("age").unwrap();
        let text = bech32::encode::<bech32::Bech32>(prefix, &hex::decode(point).unwrap()).unwrap();
        let error = text.parse::<RecoveryRecipient>().unwrap_err();
        assert_eq!(error, RecoveryError::InvalidRecipient { text });
    }
    assert!("age1qqq".parse::<RecoveryRecipient>().is_err());
}

#[test]
fn any_k_of_n_shares_give_the_identity_back() {
    let identity = RecoveryIdentity::generate();
    let pinned = identity.to_recipient();
    let shares = split(&identity, 3, 5).unwrap();
    assert_eq!(shares.iter().map(RecoveryShare::number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    for first in 0..5 {
        for second in (0..5).filter(|second| *second != first) {
            for third in (0..5).filter(|third| *third != first && *third != second) {
                let chosen = [first, second, third].map(|index| shares[index].clone());
                let combined = combine_texts(&texts(&chosen), &pinned).unwrap();
                assert_eq!(combined.to_text(), identity.to_text());
            }
        }
    }
    assert_eq!(combine(&shares, &pinned).unwrap().to_text(), identity.to_text());
}

#[test]
fn fewer_shares_than_needed_do_not_combine() {
    let identity = RecoveryIdentity::generate();
    let shares = split(&identity, 3, 5).unwrap();
    let error = combine(&shares[..2], &identity.to_recipient()).unwrap_err();
    assert_eq!(error, RecoveryError::TooFewShares { given: 2, needed: 3 });
    assert_eq!(error.to_string(), "2 of 3 shares given");
    let none = combine(&[], &identity.to_recipient()).unwrap_err();
    assert_eq!(none, RecoveryError::TooFewShares { given: 0, needed: 2 });
}

#[test]
fn shares_that_lie_about_their_threshold_give_another_key() {
    let identity = RecoveryIdentity::generate();
    let pinned = identity.to_recipient();
    let shares = split(&identity, 3, 5).unwrap();
    let lied: Vec<String> = texts(&shares[..2]).iter().map(|text| with_threshold_two(text)).collect();
    let error = combine_texts(&lied, &pinned).unwrap_err();
    assert_eq!(error, RecoveryError::AnotherKey { pinned: pinned.to_string() });
}

fn with_threshold_two(text: &str) -> String {
    let (prefix, mut bytes) = bech32::decode(&text.replace('-', "")).unwrap();
    bytes[1] = 2;
    bech32::encode::<bech32::Bech32m>(prefix, &bytes).unwrap()
}

#[test]
fn which_share_is_wrong_is_said() {
    let identity = RecoveryIdentity::generate();
    let pinned = identity.to_recipient();
    let (shares, others) = (split(&identity, 2, 3).unwrap(), split(&identity, 2, 3).unwrap());
    let mixed = combine(&[shares[0].clone(), others[1].clone()], &pinned).unwrap_err();
    assert_eq!(mixed, RecoveryError::AnotherSet { position: 2 });
    let twice = combine(&[shares[1].clone(), shares[1].clone()], &pinned).unwrap_err();
    assert_eq!(twice, RecoveryError::Duplicate { first: 1, second: 2, number: 2 });

    let mut typed = texts(&shares);
    let last = typed[2].pop().unwrap();
    typed[2].push(if last == 'Q' { 'P' } else { 'Q' });
    let mistyped = combine_texts(&typed, &pinned).unwrap_err();
    assert_eq!(mistyped, RecoveryError::Share { position: 3, source: ShareError::Mistyped });
}

#[test]
fn shares_of_another_identity_are_told_by_the_pinned_key() {
    let shares = split(&RecoveryIdentity::generate(), 2, 2).unwrap();
    let pinned = RecoveryIdentity::generate().to_recipient();
    let error = combine(&shares, &pinned).unwrap_err();
    assert_eq!(error, RecoveryError::AnotherKey { pinned: pinned.to_string() });
}

#[test]
fn impossible_splits_are_refused() {
    let identity = RecoveryIdentity::generate();
    for (threshold, shares) in [(0, 0), (0, 3), (1, 1), (1, 3), (4, 3)] {
        let error = split(&identity, threshold, shares).unwrap_err();
        assert_eq!(error, RecoveryError::ImpossibleSplit { threshold, shares });
    }
    assert_eq!(split(&identity, 255, 255).unwrap().len(), 255);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_split_is_combined_by_any_of_its_shares((threshold, shares) in (2_u8..12).prop_flat_map(|n| (2..=n, Just(n))), skip: usize) {
        let identity = RecoveryIdentity::generate();
        let mut all = split(&identity, threshold, shares).unwrap();
        all.rotate_left(skip % usize::from(shares));
        all.truncate(usize::from(threshold));
        let combined = combine(&all, &identity.to_recipient()).unwrap();
        prop_assert_eq!(combined.to_text(), identity.to_text());
        all.pop();
        prop_assert!(combine(&all, &identity.to_recipient()).is_err());
    }

    #[test]
    fn any_bytes_are_undecryptable(bytes in proptest::collection::vec(any::<u8>(), 0..400), header: bool) {
        let identity = RecoveryIdentity::generate();
        let wrapped = if header { [b"age-encryption.org/v1\n-> X25519 ", &bytes[..]].concat() } else { bytes };
        prop_assert_eq!(identity.unwrap(&context("row"), &wrapped).unwrap_err(), RecoveryError::Undecryptable);
    }
}
