//! The contract of [`IdempotencyStore`], a function for each clause.
//!
//! The subject of a store that leases says so with [`Subject::leasing_for`]; where time really passes, its leases should be
//! short. Clauses hold up to three claims at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::idempotency::{
    Claim, Fingerprint, FreshClaim, IdempotencyError, IdempotencyKey, IdempotencyStore, StoredResponse,
};
use crate::testing::Subject;
use crate::testing::support::together;

/// Runs the contract of `IdempotencyStore` on the adapter that the expression yields (`async` →
/// `Option<Subject<dyn IdempotencyStore>>`).
#[macro_export]
macro_rules! idempotency_contract {
    ($subject:expr) => {
        $crate::contract_tests!(
            $crate::testing::idempotency,
            $subject,
            [
                an_unknown_key_is_fresh,
                a_completed_claim_is_replayed,
                another_fingerprint_is_a_mismatch,
                a_claimed_key_is_busy,
                an_abandoned_key_is_fresh_again,
                a_dropped_claim_frees_the_key,
                scopes_are_independent,
                a_response_is_forgotten_after_its_time,
                a_late_holder_cannot_complete,
                binary_bodies_are_replayed_verbatim,
                sweeping_removes_only_what_is_over,
            ]
        );
    };
}

type IdempotencySubject = Subject<dyn IdempotencyStore>;

const SHORT: Duration = Duration::from_millis(50);
const AFTER_SHORT: Duration = Duration::from_millis(60);
const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(10);

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::new("caller", text).unwrap()
}

fn fingerprint(text: &str) -> Fingerprint {
    Fingerprint::of([text.as_bytes()])
}

fn response(body: &str) -> StoredResponse {
    let headers = vec![("content-type".into(), Bytes::from("text/plain"))];
    StoredResponse::new(201, headers, Bytes::copy_from_slice(body.as_bytes()))
}

async fn claim(subject: &IdempotencySubject, key: &IdempotencyKey) -> Claim {
    subject.port.claim(key, &fingerprint("request")).await.unwrap()
}

async fn fresh(subject: &IdempotencySubject, key: &IdempotencyKey) -> Box<dyn FreshClaim> {
    match claim(subject, key).await {
        Claim::Fresh(claim) => claim,
        other => panic!("{key:?} should be fresh, is {other:?}"),
    }
}

async fn complete(subject: &IdempotencySubject, key: &IdempotencyKey, body: &str, ttl: Duration) {
    fresh(subject, key).await.complete(&response(body), ttl).await.unwrap();
}

async fn assert_replayed(subject: &IdempotencySubject, key: &IdempotencyKey, expected: &StoredResponse) {
    match claim(subject, key).await {
        Claim::Replay(stored) => assert_eq!(&stored, expected),
        other => panic!("{key:?} should be replayed, is {other:?}"),
    }
}

/// Clause 1.
pub async fn an_unknown_key_is_fresh(subject: IdempotencySubject) {
    let first = fresh(&subject, &key("one")).await;
    let second = fresh(&subject, &key("two")).await;
    second.complete(&response("two"), HOUR).await.unwrap();
    first.complete(&response("one"), HOUR).await.unwrap();
    assert_replayed(&subject, &key("one"), &response("one")).await;
    assert_replayed(&subject, &key("two"), &response("two")).await;
}

/// Clause 2.
pub async fn a_completed_claim_is_replayed(subject: IdempotencySubject) {
    complete(&subject, &key("key"), "answer", HOUR).await;
    for _ in 0..3 {
        assert_replayed(&subject, &key("key"), &response("answer")).await;
    }
    let failed = StoredResponse::new(422, Vec::new(), Bytes::from("{}"));
    fresh(&subject, &key("failed")).await.complete(&failed, HOUR).await.unwrap();
    assert_replayed(&subject, &key("failed"), &failed).await;
}

/// Clause 3.
pub async fn another_fingerprint_is_a_mismatch(subject: IdempotencySubject) {
    let claimed = fresh(&subject, &key("key")).await;
    let other = subject.port.claim(&key("key"), &fingerprint("other")).await.unwrap();
    assert!(matches!(other, Claim::Mismatch | Claim::Busy), "{other:?}");
    claimed.complete(&response("answer"), HOUR).await.unwrap();
    let other = subject.port.claim(&key("key"), &fingerprint("other")).await.unwrap();
    assert!(matches!(other, Claim::Mismatch), "{other:?}");
    assert_replayed(&subject, &key("key"), &response("answer")).await;
}

/// Clause 4.
pub async fn a_claimed_key_is_busy(subject: IdempotencySubject) {
    let claimed = fresh(&subject, &key("key")).await;
    let busy = tokio::time::timeout(PATIENCE, claim(&subject, &key("key"))).await;
    assert!(matches!(busy, Ok(Claim::Busy)), "{busy:?}");
    claimed.complete(&response("answer"), HOUR).await.unwrap();

    let claims = (0..16).map(|_| {
        let store = Arc::clone(&subject.port);
        async move { store.claim(&key("contended"), &fingerprint("request")).await.unwrap() }
    });
    // No claim is given up before all have been made.
    let claims = together(claims).await;
    let fresh = claims.iter().filter(|claim| matches!(claim, Claim::Fresh(_))).count();
    let busy = claims.iter().filter(|claim| matches!(claim, Claim::Busy)).count();
    assert_eq!((fresh, busy), (1, 15));
}

/// Clause 5.
pub async fn an_abandoned_key_is_fresh_again(subject: IdempotencySubject) {
    fresh(&subject, &key("key")).await.abandon().await.unwrap();
    let other = subject.port.claim(&key("key"), &fingerprint("other")).await.unwrap();
    let Claim::Fresh(other) = other else { panic!("nothing is left of the first claim, but {other:?}") };
    other.abandon().await.unwrap();
    complete(&subject, &key("key"), "answer", HOUR).await;
    assert_replayed(&subject, &key("key"), &response("answer")).await;
}

/// Clause 6.
pub async fn a_dropped_claim_frees_the_key(subject: IdempotencySubject) {
    drop(fresh(&subject, &key("key")).await);
    if let Some(lease) = subject.lease() {
        subject.pass(lease).await;
    }
    let freed = async {
        loop {
            match subject.port.claim(&key("key"), &fingerprint("other")).await.unwrap() {
                Claim::Fresh(claim) => return claim,
                Claim::Busy | Claim::Mismatch => tokio::time::sleep(Duration::from_millis(2)).await,
                Claim::Replay(response) => panic!("nothing was completed, but {response:?}"),
            }
        }
    };
    let claim = tokio::time::timeout(PATIENCE, freed).await.expect("the key is freed");
    claim.complete(&response("answer"), HOUR).await.unwrap();
}

/// Clause 7.
pub async fn scopes_are_independent(subject: IdempotencySubject) {
    let keys = [("a", "bc"), ("ab", "c"), ("", "abc"), ("a:", "bc"), ("a", ":bc"), ("A", "bc"), ("a", "BC")];
    for (scope, text) in keys {
        let key = IdempotencyKey::new(scope, text).unwrap();
        complete(&subject, &key, &format!("{scope}/{text}"), HOUR).await;
    }
    for (scope, text) in keys {
        let key = IdempotencyKey::new(scope, text).unwrap();
        assert_replayed(&subject, &key, &response(&format!("{scope}/{text}"))).await;
    }
}

/// Clause 8.
pub async fn a_response_is_forgotten_after_its_time(subject: IdempotencySubject) {
    complete(&subject, &key("short"), "short", SHORT).await;
    complete(&subject, &key("long"), "long", HOUR).await;
    subject.pass(AFTER_SHORT).await;
    let again = subject.port.claim(&key("short"), &fingerprint("other")).await.unwrap();
    let Claim::Fresh(again) = again else { panic!("the response is over, but {again:?}") };
    again.complete(&response("again"), HOUR).await.unwrap();
    assert_replayed(&subject, &key("long"), &response("long")).await;
}

/// Clause 9.
pub async fn a_late_holder_cannot_complete(subject: IdempotencySubject) {
    let late = fresh(&subject, &key("key")).await;
    let dropped = fresh(&subject, &key("dropped")).await;
    let Some(lease) = subject.lease() else {
        subject.pass(AFTER_SHORT).await;
        assert!(matches!(claim(&subject, &key("key")).await, Claim::Busy));
        late.complete(&response("late"), HOUR).await.unwrap();
        return assert_replayed(&subject, &key("key"), &response("late")).await;
    };
    subject.pass(lease + Duration::from_millis(10)).await;
    let current = fresh(&subject, &key("key")).await;
    let _kept = fresh(&subject, &key("dropped")).await;
    drop(dropped);
    assert!(matches!(claim(&subject, &key("dropped")).await, Claim::Busy));
    let lost = late.complete(&response("late"), HOUR).await;
    assert!(matches!(lost, Err(IdempotencyError::Lost)), "{lost:?}");
    assert!(matches!(claim(&subject, &key("key")).await, Claim::Busy));
    current.complete(&response("current"), HOUR).await.unwrap();
    assert_replayed(&subject, &key("key"), &response("current")).await;
}

/// Clause 10.
pub async fn binary_bodies_are_replayed_verbatim(subject: IdempotencySubject) {
    let allowed = [b'\t'].into_iter().chain(b' '..=b'~').chain(0x80..=0xff).collect::<Vec<u8>>();
    let headers = [("x-z", Bytes::from(allowed)), ("set-cookie", "b".into()), ("set-cookie", "a".into())];
    let headers = headers.map(|(name, value)| (name.to_owned(), value));
    for body in [Bytes::new(), (0..=255).collect::<Vec<u8>>().into(), vec![0; 100_000].into()] {
        let key = key(&format!("{} bytes '\"\\", body.len()));
        let response = StoredResponse::new(200, headers.to_vec(), body);
        fresh(&subject, &key).await.complete(&response, HOUR).await.unwrap();
        assert_replayed(&subject, &key, &response).await;
    }
}

/// Clause 11.
pub async fn sweeping_removes_only_what_is_over(subject: IdempotencySubject) {
    for text in ["one", "two", "three"] {
        complete(&subject, &key(text), text, SHORT).await;
    }
    complete(&subject, &key("lasting"), "lasting", HOUR).await;
    let claimed = fresh(&subject, &key("claimed")).await;
    subject.pass(AFTER_SHORT).await;
    let mut sum = 0;
    loop {
        let removed = subject.port.sweep(2).await.unwrap();
        assert!(removed <= 2, "{removed} were removed, asked for were at most 2");
        sum += removed;
        assert!(sum <= 3, "{sum} of 3 were removed");
        if removed == 0 {
            break;
        }
    }
    assert_replayed(&subject, &key("lasting"), &response("lasting")).await;
    claimed.complete(&response("claimed"), HOUR).await.unwrap();
    assert_replayed(&subject, &key("claimed"), &response("claimed")).await;
}
