use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::HMAC_SHA256;
use pganalytics_auth::token::{CollectorGrant, TokenRefusal};
use pganalytics_core::ids::CollectorId;
use pganalytics_core::session::Epoch;
use pganalytics_core::users::Role;
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Setup, grant};

#[tokio::test]
async fn an_issued_token_is_accepted_with_its_claims() {
    let setup = Setup::new();
    let issued = setup.access_issuer.issue(&grant()).await.unwrap();
    for _ in 0..2 {
        let claims = setup.access.verify(issued.text.expose()).await.unwrap();
        let expected = grant();
        assert_eq!((claims.user, claims.session), (expected.user, expected.session));
        assert_eq!((claims.role, claims.epoch), (Role::User, Epoch(3)));
        assert_eq!((claims.token_id, claims.expires_at), (issued.id, issued.expires_at));
        assert_eq!(claims.expires_at - claims.issued_at, chrono::TimeDelta::minutes(5));
    }
}

#[tokio::test]
async fn the_header_names_type_and_key() {
    let setup = Setup::new();
    let token = setup.access_token().await;
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    assert_eq!(header, json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "key-1"}));
}

#[tokio::test]
async fn two_tokens_have_different_ids() {
    let setup = Setup::new();
    let one = setup.access_issuer.issue(&grant()).await.unwrap();
    let two = setup.access_issuer.issue(&grant()).await.unwrap();
    assert_ne!(one.id, two.id);
    assert_ne!(one.text, two.text);
}

#[tokio::test]
async fn an_expired_token_is_refused_even_if_it_is_remembered() {
    let setup = Setup::new();
    let token = setup.access_token().await;
    setup.access.verify(&token).await.unwrap();
    setup.pass(300 + 59);
    setup.access.verify(&token).await.unwrap();
    assert!(setup.access.remembered(&token).is_some());
    setup.pass(1);
    assert!(setup.access.remembered(&token).is_none());
    assert_eq!(setup.refusal(&token).await, TokenRefusal::Expired);
    setup.pass(540);
    assert_eq!(setup.refusal(&token).await, TokenRefusal::Expired);
}

#[tokio::test]
async fn clocks_may_be_apart_by_a_minute_and_no_more() {
    let setup = Setup::new();
    for (claim, offset, expected) in [
        ("nbf", 60, None),
        ("nbf", 61, Some(TokenRefusal::NotYetValid)),
        ("nbf", 600, Some(TokenRefusal::NotYetValid)),
        ("iat", 60, None),
        ("iat", 61, Some(TokenRefusal::NotYetValid)),
        ("iat", 600, Some(TokenRefusal::NotYetValid)),
        ("exp", -59, None),
        ("exp", -60, Some(TokenRefusal::Expired)),
        ("exp", -600, Some(TokenRefusal::Expired)),
        ("exp", i64::MAX, Some(TokenRefusal::Claims)),
        ("exp", i64::MIN, Some(TokenRefusal::Claims)),
        // The last second that a time can have.
        ("exp", 8_210_266_876_799 - 1_767_225_600, None),
    ] {
        let mut claims = setup.claims();
        let now = claims["iat"].as_i64().unwrap();
        claims[claim] = now.saturating_add(offset).into();
        let token = setup.sign(&setup.header(), &claims);
        match expected {
            None => assert!(setup.access.verify(&token).await.is_ok(), "{claim} {offset}"),
            Some(expected) => assert_eq!(setup.refusal(&token).await, expected, "{claim} {offset}"),
        }
    }
}

#[tokio::test]
async fn every_changed_byte_is_refused() {
    let setup = Setup::new();
    let token = setup.access_token().await;
    setup.access.verify(&token).await.unwrap();
    for position in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(setup.access.verify(&changed).await.is_err(), "byte {position}");
        assert!(setup.access.verify(&token[..position]).await.is_err(), "cut to {position}");
    }
}

#[tokio::test]
async fn unsigned_tokens_are_refused() {
    let setup = Setup::new();
    let payload = URL_SAFE_NO_PAD.encode(setup.claims().to_string());
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({"alg": alg, "typ": "at+jwt", "kid": "key-1"}).to_string();
        let token = format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(header));
        assert_eq!(setup.refusal(&token).await, TokenRefusal::Algorithm, "{alg}");
    }
    let header = URL_SAFE_NO_PAD.encode(setup.header().to_string());
    assert_eq!(setup.refusal(&format!("{header}.{payload}.")).await, TokenRefusal::Signature);
}

#[tokio::test]
async fn a_mac_under_the_public_key_is_refused() {
    let setup = Setup::new();
    let key = setup.signer.public_key();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", hex::encode(&key.bytes));
    for secret in [&key.bytes[..], URL_SAFE_NO_PAD.encode(&key.bytes).as_bytes(), pem.as_bytes(), b""] {
        for alg in ["HS256", "EdDSA"] {
            let header = json!({"alg": alg, "typ": "at+jwt", "kid": key.id}).to_string();
            let claims = setup.claims().to_string();
            let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            let mac = hmac::sign(&hmac::Key::new(HMAC_SHA256, secret), input.as_bytes());
            let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(mac.as_ref()));
            let expected = if alg == "EdDSA" { TokenRefusal::Signature } else { TokenRefusal::Algorithm };
            assert_eq!(setup.refusal(&token).await, expected);
        }
    }
}

#[tokio::test]
async fn a_missing_unknown_or_traversing_key_is_refused() {
    let setup = Setup::new();
    let mut header = setup.header();
    for kid in ["key-2", "", "KEY-1", "key-1 ", "../key-1", "../../../../dev/null", "key-1\0", "' OR 1=1 --"]
    {
        header["kid"] = kid.into();
        let token = setup.sign(&header, &setup.claims());
        assert_eq!(setup.refusal(&token).await, TokenRefusal::UnknownKey, "{kid}");
    }
    for kid in [json!(null), json!(1), json!(["key-1"])] {
        header["kid"] = kid;
        assert_eq!(setup.refusal(&setup.sign(&header, &setup.claims())).await, TokenRefusal::Malformed);
    }
    header.as_object_mut().unwrap().remove("kid");
    assert_eq!(setup.refusal(&setup.sign(&header, &setup.claims())).await, TokenRefusal::Malformed);
}

#[tokio::test]
async fn another_key_of_ours_does_not_verify_under_the_named_one() {
    let setup = Setup::new();
    let header = setup.header();
    setup.signer.add_key("key-2");
    let token = setup.sign(&header, &setup.claims());
    assert_eq!(setup.refusal(&token).await, TokenRefusal::Signature);
}

#[tokio::test]
async fn tokens_of_other_types_are_refused() {
    let setup = Setup::new();
    let mut header = setup.header();
    for typ in ["JWT", "jwt", "AT+JWT", "application/at+jwt", "collector+jwt", "at+jwt ", ""] {
        header["typ"] = typ.into();
        assert_eq!(setup.refusal(&setup.sign(&header, &setup.claims())).await, TokenRefusal::Type, "{typ}");
    }
    header.as_object_mut().unwrap().remove("typ");
    assert_eq!(setup.refusal(&setup.sign(&header, &setup.claims())).await, TokenRefusal::Type);

    let grant = CollectorGrant { collector: CollectorId(Uuid::from_u128(9)), epoch: Epoch(0) };
    let collector = setup.collector_issuer.issue(&grant).await.unwrap();
    assert_eq!(setup.refusal(collector.text.expose()).await, TokenRefusal::Type);
}

#[tokio::test]
async fn critical_and_key_bearing_headers_are_refused() {
    let setup = Setup::new();
    for (parameter, value) in [
        ("crit", json!(["exp"])),
        ("jwk", json!({"kty": "OKP"})),
        ("jku", json!("https://example.org/keys")),
        ("x5u", json!("https://example.org/cert")),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
    ] {
        let mut header = setup.header();
        header[parameter] = value;
        assert_eq!(
            setup.refusal(&setup.sign(&header, &setup.claims())).await,
            TokenRefusal::Malformed,
            "{parameter}"
        );
    }
}

#[tokio::test]
async fn foreign_issuers_and_audiences_are_refused() {
    let setup = Setup::new();
    for (claim, value, expected) in [
        ("iss", json!("https://pganalytics.example/"), TokenRefusal::Issuer),
        ("iss", json!(""), TokenRefusal::Issuer),
        ("aud", json!("another-api"), TokenRefusal::Audience),
        ("aud", json!(["pganalytics-api"]), TokenRefusal::Claims),
        ("aud", json!(null), TokenRefusal::Claims),
    ] {
        let mut claims = setup.claims();
        claims[claim] = value;
        let token = setup.sign(&setup.header(), &claims);
        assert_eq!(setup.refusal(&token).await, expected, "{claims}");
    }
}

#[tokio::test]
async fn missing_and_malformed_claims_are_refused() {
    let setup = Setup::new();
    for claim in ["iss", "aud", "sub", "sid", "jti", "iat", "nbf", "exp", "role", "epoch"] {
        for spoil in [None, Some(json!({})), Some(json!("\u{0}")), Some(json!(1.5))] {
            let mut claims = setup.claims();
            match spoil {
                None => drop(claims.as_object_mut().unwrap().remove(claim)),
                Some(value) => claims[claim] = value,
            }
            let refusal = setup.refusal(&setup.sign(&setup.header(), &claims)).await;
            let spoilt_text = matches!(refusal, TokenRefusal::Issuer | TokenRefusal::Audience);
            assert!(refusal == TokenRefusal::Claims || spoilt_text, "{claims}: {refusal:?}");
        }
    }
}

#[tokio::test]
async fn repeated_claims_are_refused() {
    let setup = Setup::new();
    let claims = setup.claims().to_string();
    for repeated in
        [r#""sub":"00000000-0000-0000-0000-000000000001""#, r#""role":"admin""#, r#""exp":99999999999"#]
    {
        for doubled in [
            format!("{{{repeated},{}", &claims[1..]),
            format!("{},{repeated}}}", &claims[..claims.len() - 1]),
        ] {
            let token = setup.signer.sign_raw(&setup.header().to_string(), &doubled);
            assert_eq!(setup.refusal(&token).await, TokenRefusal::Claims, "{doubled}");
        }
    }
}

#[tokio::test]
async fn claims_of_a_newer_server_are_accepted() {
    let setup = Setup::new();
    let mut claims = setup.claims();
    claims["amr"] = json!(["pwd"]);
    assert!(setup.access.verify(&setup.sign(&setup.header(), &claims)).await.is_ok());
}

#[tokio::test]
async fn oversized_tokens_are_refused_before_the_signature() {
    let setup = Setup::new();
    let mut claims = setup.claims();
    claims["padding"] = "x".repeat(8192).into();
    let token = setup.sign(&setup.header(), &claims);
    assert_eq!(setup.refusal(&token).await, TokenRefusal::Malformed);
    assert_eq!(setup.refusal(&"a".repeat(10_000_000)).await, TokenRefusal::Malformed);
    claims["padding"] = "x".repeat(4096).into();
    assert!(setup.access.verify(&setup.sign(&setup.header(), &claims)).await.is_ok());
}

#[tokio::test]
async fn deeply_nested_claims_are_refused() {
    let setup = Setup::new();
    let nested = format!(r#"{{"x":{}{}}}"#, "[".repeat(2900), "]".repeat(2900));
    let token = setup.signer.sign_raw(&setup.header().to_string(), &nested);
    assert_eq!(setup.refusal(&token).await, TokenRefusal::Claims);
}

#[tokio::test]
async fn foreign_web_signatures_are_refused() {
    let setup = Setup::new();
    let mut checked = 0;
    for file in [
        include_str!("../vectors/jws/json_web_signature_test.json"),
        include_str!("../vectors/jws/json_web_key_test.json"),
        include_str!("../vectors/jws/json_web_crypto_test.json"),
    ] {
        let file: Value = serde_json::from_str(file).unwrap();
        for group in file["testGroups"].as_array().unwrap() {
            for test in group["tests"].as_array().unwrap() {
                // Some are encrypted, some in the JSON serialisation.
                let token = [&test["jws"], &test["jwe"]].into_iter().find(|token| !token.is_null()).unwrap();
                let token = token.as_str().map_or_else(|| token.to_string(), str::to_owned);
                assert!(setup.access.verify(&token).await.is_err(), "{test}");
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 239 + 22 + 44);
}

#[tokio::test]
async fn good_signatures_of_other_algorithms_and_forms_are_refused() {
    let setup = Setup::new();
    for (file, expected) in [
        (include_str!("../vectors/jws/jws-4_1.rsa_v15_signature.json"), TokenRefusal::Algorithm),
        (include_str!("../vectors/jws/jws-4_3.ecdsa_signature.json"), TokenRefusal::Algorithm),
        (
            include_str!("../vectors/jws/jws-4_5.signature_with_detached_content.json"),
            TokenRefusal::Algorithm,
        ),
        (include_str!("../vectors/jws/curve25519-jws.json"), TokenRefusal::Type),
    ] {
        let example: Value = serde_json::from_str(file).unwrap();
        assert_eq!(setup.refusal(example["output"]["compact"].as_str().unwrap()).await, expected);
        // A compact token is not taken from its other serialisations.
        let output = example["output"].to_string();
        assert_eq!(setup.refusal(&output).await, TokenRefusal::Malformed);
    }
}

proptest! {
    #[test]
    fn any_text_is_refused(text in "\\PC{0,300}", header in "\\PC{0,60}", payload in "\\PC{0,200}") {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let setup = Setup::new();
            assert!(setup.access.verify(&text).await.is_err());
            assert!(setup.access.verify(&setup.signer.sign_raw(&header, &payload)).await.is_err());
            assert!(setup.access.verify(&setup.signer.sign_raw(&setup.header().to_string(), &payload)).await.is_err());
        });
    }
}
