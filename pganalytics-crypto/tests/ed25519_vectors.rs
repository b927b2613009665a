//! Ed25519 verification against the vectors of Project Wycheproof.
#![cfg(feature = "aws-lc")]

use pganalytics_crypto::ed25519::verify;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    number_of_tests: usize,
    test_groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    public_key: Key,
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Key {
    pk: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Test {
    tc_id: u32,
    comment: String,
    msg: String,
    sig: String,
    result: String,
}

#[test]
fn wycheproof_signatures_keep_their_verdicts() {
    let file: File = serde_json::from_str(include_str!("vectors/wycheproof/ed25519_test.json")).unwrap();
    let mut checked = 0;
    for group in &file.test_groups {
        let key = hex::decode(&group.public_key.pk).unwrap();
        for test in &group.tests {
            let [message, signature] = [&test.msg, &test.sig].map(|text| hex::decode(text).unwrap());
            let valid = test.result == "valid";
            assert_eq!(verify(&key, &message, &signature), valid, "{}: {}", test.tc_id, test.comment);
            checked += 1;
        }
    }
    assert_eq!(checked, file.number_of_tests);
}

#[test]
fn keys_of_a_wrong_length_verify_nothing() {
    for length in [0, 31, 33, 64] {
        assert!(!verify(&vec![1; length], b"message", &[0; 64]));
    }
}
