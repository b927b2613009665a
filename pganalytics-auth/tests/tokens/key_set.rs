use std::sync::Arc;
use std::sync::atomic::Ordering;

use pganalytics_auth::token::{TokenError, TokenRefusal};
use pganalytics_core::error::Retry;
use serde_json::json;

use crate::support::Setup;

fn asked(setup: &Setup) -> usize {
    setup.signer.asked.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_new_key_is_learnt_when_its_first_token_comes() {
    let setup = Setup::new();
    setup.access.verify(&setup.access_token().await).await.unwrap();
    setup.signer.add_key("key-2");
    setup.pass(10);
    setup.access.verify(&setup.access_token().await).await.unwrap();
    assert_eq!(asked(&setup), 2);
}

#[tokio::test]
async fn unknown_keys_do_not_make_the_signer_busy() {
    let setup = Setup::new();
    for number in 0..100 {
        let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": format!("unknown-{number}")});
        let token = setup.sign(&header, &setup.claims());
        assert_eq!(setup.refusal(&token).await, TokenRefusal::UnknownKey);
    }
    assert_eq!(asked(&setup), 1);
    setup.pass(5);
    setup.refusal(&setup.sign(&json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "x"}), &setup.claims())).await;
    assert_eq!(asked(&setup), 2);
}

#[tokio::test]
async fn many_first_tokens_ask_the_signer_once() {
    let setup = Arc::new(Setup::new());
    let token = setup.access_token().await;
    let verifications: Vec<_> = (0..50)
        .map(|_| {
            let (setup, token) = (setup.clone(), token.clone());
            tokio::spawn(async move { setup.access.verify(&token).await.is_ok() })
        })
        .collect();
    for verification in verifications {
        assert!(verification.await.unwrap());
    }
    assert_eq!(asked(&setup), 1);
}

#[tokio::test]
async fn tokens_of_a_removed_key_are_forgotten_within_a_minute() {
    let setup = Setup::new();
    let token = setup.access_token().await;
    setup.access.verify(&token).await.unwrap();
    setup.signer.add_key("key-2");
    setup.signer.remove_key("key-1");
    setup.pass(59);
    assert!(setup.access.remembered(&token).is_some());
    setup.pass(1);
    assert_eq!(setup.refusal(&token).await, TokenRefusal::UnknownKey);
    assert!(setup.access.remembered(&token).is_none());
}

#[tokio::test]
async fn tokens_stay_remembered_when_a_key_is_added() {
    let setup = Setup::new();
    let token = setup.access_token().await;
    setup.access.verify(&token).await.unwrap();
    setup.signer.add_key("key-2");
    setup.pass(60);
    assert!(setup.access.remembered(&token).is_none(), "the keys are to be read again first");
    setup.access.verify(&token).await.unwrap();
    assert!(setup.access.remembered(&token).is_some());
}

#[tokio::test]
async fn an_outage_is_no_verdict() {
    let setup = Setup::new();
    let token = setup.access_token().await;
    setup.signer.unreachable.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let error = setup.access.verify(&token).await.unwrap_err();
        assert!(matches!(error, TokenError::Keys(_)), "{error:?}");
        assert_eq!(error.retry(), Retry::Later);
    }
    assert_eq!(asked(&setup), 1, "a signer that is away is not asked by every request");
    setup.signer.unreachable.store(false, Ordering::SeqCst);
    setup.pass(5);
    setup.access.verify(&token).await.unwrap();
}

#[tokio::test]
async fn known_keys_are_used_through_a_short_outage() {
    let setup = Setup::new();
    setup.access.verify(&setup.access_token().await).await.unwrap();
    let tokens = [setup.access_token().await, setup.access_token().await];
    setup.signer.unreachable.store(true, Ordering::SeqCst);
    setup.pass(120);
    for token in &tokens {
        setup.access.verify(token).await.unwrap();
    }
    assert_eq!(asked(&setup), 2);
    let unknown = setup.sign(&json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "new"}), &setup.claims());
    assert!(
        matches!(setup.access.verify(&unknown).await, Err(TokenError::Keys(_))),
        "it may well be a new key"
    );
    setup.pass(480);
    let old_keys = setup.sign(&setup.header(), &setup.claims());
    assert!(matches!(setup.access.verify(&old_keys).await, Err(TokenError::Keys(_))));
}

#[tokio::test]
async fn the_key_set_document_shows_public_keys_alone() {
    let setup = Setup::new();
    setup.signer.add_key("key-2");
    let document = serde_json::to_value(setup.keys.jwks().await.unwrap()).unwrap();
    let keys = document["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    for key in keys {
        let mut members: Vec<_> = key.as_object().unwrap().keys().map(String::as_str).collect();
        members.sort_unstable();
        assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x"]);
        assert_eq!(
            (&key["kty"], &key["crv"], &key["alg"]),
            (&json!("OKP"), &json!("Ed25519"), &json!("EdDSA"))
        );
        assert_eq!(key["x"].as_str().unwrap().len(), 43);
    }
}
