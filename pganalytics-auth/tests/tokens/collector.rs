use std::time::Duration;

use pganalytics_auth::token::{CollectorGrant, TokenRefusal};
use pganalytics_core::ids::CollectorId;
use pganalytics_core::session::Epoch;
use uuid::Uuid;

use crate::support::{Setup, refusal};

fn grant() -> CollectorGrant {
    CollectorGrant { collector: CollectorId(Uuid::from_u128(9)), epoch: Epoch(4) }
}

async fn token(setup: &Setup) -> String {
    setup.collector_issuer.issue(&grant()).await.unwrap().text.expose().to_owned()
}

#[tokio::test]
async fn an_issued_token_is_accepted_for_a_day() {
    let setup = Setup::new();
    let token = token(&setup).await;
    let claims = setup.collector.verify(&token).await.unwrap();
    assert_eq!((claims.collector, claims.epoch), (grant().collector, grant().epoch));
    setup.pass(24 * 3600);
    assert!(setup.collector.verify(&token).await.is_ok());
    setup.pass(60);
    assert_eq!(refusal(setup.collector.verify(&token).await), TokenRefusal::Expired);
}

#[tokio::test]
async fn an_expired_token_is_genuine_for_renewal() {
    let setup = Setup::new();
    let token = token(&setup).await;
    let fresh = setup.collector.verify_ignoring_expiry(&token).await.unwrap();
    assert_eq!((fresh.claims.epoch, fresh.expired_for), (Epoch(4), None));
    setup.pass(24 * 3600 + 100);
    let aged = setup.collector.verify_ignoring_expiry(&token).await.unwrap();
    assert_eq!(aged.claims, fresh.claims);
    assert_eq!(aged.expired_for, Some(Duration::from_secs(100)));
    setup.pass(365 * 24 * 3600);
    assert!(setup.collector.verify_ignoring_expiry(&token).await.is_ok());
    assert!(setup.collector.remembered(&token).is_none(), "renewal lets nobody in elsewhere");
}

#[tokio::test]
async fn renewal_forgives_nothing_but_expiry() {
    let setup = Setup::new();
    let good = token(&setup).await;
    let mut changed = good.clone().into_bytes();
    let last = changed.len() - 10;
    changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    assert_eq!(refusal(setup.collector.verify_ignoring_expiry(&changed).await), TokenRefusal::Signature);

    let access = setup.access_token().await;
    assert_eq!(refusal(setup.collector.verify_ignoring_expiry(&access).await), TokenRefusal::Type);

    setup.clock.set(pganalytics_core::clock::Clock::now(&setup.clock) - Duration::from_secs(600));
    assert_eq!(refusal(setup.collector.verify_ignoring_expiry(&good).await), TokenRefusal::NotYetValid);
}

#[tokio::test]
async fn access_tokens_are_refused() {
    let setup = Setup::new();
    let access = setup.access_token().await;
    assert_eq!(refusal(setup.collector.verify(&access).await), TokenRefusal::Type);
}
