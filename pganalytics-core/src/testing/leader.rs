//! The contract of [`Leader`], a function for each clause.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::ids::InstanceId;
use crate::leader::{Fence, Leader, LeaderError, Lease, ROLE_MAX_BYTES};
use crate::testing::Subject;
use crate::testing::support::together;

/// Runs the contract of `Leader` on the adapter that the expression yields (`async` → `Option<Subject<dyn Leader>>`).
#[macro_export]
macro_rules! leader_contract {
    ($subject:expr) => {
        $crate::contract_tests!(
            $crate::testing::leader,
            $subject,
            [
                one_of_many_acquires,
                a_held_role_is_not_given_away,
                acquiring_again_renews,
                an_ended_lease_is_given_to_another,
                fences_grow,
                renewing_moves_the_end,
                a_released_role_is_free_at_once,
                roles_are_independent,
                the_holder_is_known,
                an_invalid_role_is_refused,
            ]
        );
    };
}

type LeaderSubject = Subject<dyn Leader>;

const SHORT: Duration = Duration::from_millis(50);
const AFTER_SHORT: Duration = Duration::from_millis(60);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

const ANNA: InstanceId = InstanceId(Uuid::from_u128(1));
const BELA: InstanceId = InstanceId(Uuid::from_u128(2));

async fn acquire(subject: &LeaderSubject, role: &str, holder: InstanceId, ttl: Duration) -> Option<Lease> {
    subject.port.acquire(role, holder, ttl).await.unwrap()
}

async fn acquired(subject: &LeaderSubject, role: &str, holder: InstanceId, ttl: Duration) -> Lease {
    acquire(subject, role, holder, ttl).await.expect("the role is free")
}

/// Clause 1.
pub async fn one_of_many_acquires(subject: LeaderSubject) {
    let calls = (1..=16).map(|number| {
        let leader = Arc::clone(&subject.port);
        let holder = InstanceId(Uuid::from_u128(number));
        async move { leader.acquire("role", holder, MINUTE).await.unwrap() }
    });
    let leases: Vec<Lease> = together(calls).await.into_iter().flatten().collect();
    assert_eq!(leases.len(), 1, "{leases:?}");
    assert_eq!(subject.port.holder("role").await.unwrap().as_ref(), leases.first());
}

/// Clause 2.
pub async fn a_held_role_is_not_given_away(subject: LeaderSubject) {
    let lease = acquired(&subject, "role", ANNA, MINUTE).await;
    assert_eq!(lease.holder, ANNA);
    assert_eq!(acquire(&subject, "role", BELA, MINUTE).await, None);
    assert_eq!(subject.port.holder("role").await.unwrap(), Some(lease));
}

/// Clause 3.
pub async fn acquiring_again_renews(subject: LeaderSubject) {
    let first = acquired(&subject, "role", ANNA, MINUTE).await;
    let again = acquired(&subject, "role", ANNA, HOUR).await;
    assert_eq!((again.role.as_str(), again.holder, again.fence), ("role", ANNA, first.fence));
    assert!(again.expires_at > first.expires_at);
    assert_eq!(subject.port.holder("role").await.unwrap(), Some(again));
}

/// Clause 4.
pub async fn an_ended_lease_is_given_to_another(subject: LeaderSubject) {
    acquired(&subject, "role", ANNA, SHORT).await;
    subject.pass(AFTER_SHORT).await;
    let lease = acquired(&subject, "role", BELA, MINUTE).await;
    assert_eq!(lease.holder, BELA);
    assert_eq!(acquire(&subject, "role", ANNA, MINUTE).await, None);
}

/// Clause 5.
pub async fn fences_grow(subject: LeaderSubject) {
    let mut last = Fence(i64::MIN);
    for holder in [ANNA, ANNA, BELA] {
        let lease = acquired(&subject, "role", holder, MINUTE).await;
        assert!(lease.fence > last, "{:?} after {last:?}", lease.fence);
        last = lease.fence;
        subject.port.release(&lease).await.unwrap();
    }
    let ended = acquired(&subject, "role", ANNA, SHORT).await;
    assert!(ended.fence > last);
    subject.pass(AFTER_SHORT).await;
    assert!(acquired(&subject, "role", ANNA, MINUTE).await.fence > ended.fence);
}

/// Clause 6.
pub async fn renewing_moves_the_end(subject: LeaderSubject) {
    let (lease, renewed) = subject
        .within(SHORT, async |attempt| {
            let lease = acquired(&subject, &format!("role {attempt}"), ANNA, SHORT).await;
            let renewed = subject.port.renew(&lease, MINUTE).await.unwrap();
            (lease, renewed)
        })
        .await;
    let renewed = renewed.expect("the lease lasts");
    assert_eq!((renewed.holder, renewed.fence), (ANNA, lease.fence));
    assert!(renewed.expires_at > lease.expires_at);
    let ended = acquired(&subject, "ended", ANNA, SHORT).await;
    let taken = acquired(&subject, "taken", ANNA, SHORT).await;
    subject.pass(AFTER_SHORT).await;
    assert_eq!(subject.port.holder(&lease.role).await.unwrap(), Some(renewed));
    assert_eq!(subject.port.renew(&ended, MINUTE).await.unwrap(), None);
    let taker = acquired(&subject, "taken", BELA, MINUTE).await;
    assert_eq!(subject.port.renew(&taken, MINUTE).await.unwrap(), None);
    assert_eq!(subject.port.holder("taken").await.unwrap(), Some(taker));
}

/// Clause 7.
pub async fn a_released_role_is_free_at_once(subject: LeaderSubject) {
    let first = acquired(&subject, "role", ANNA, MINUTE).await;
    subject.port.release(&first).await.unwrap();
    assert_eq!(subject.port.renew(&first, MINUTE).await.unwrap(), None);
    let second = acquired(&subject, "role", BELA, MINUTE).await;
    subject.port.release(&first).await.unwrap();
    let forged = Lease::new("role", ANNA, second.fence, second.expires_at);
    subject.port.release(&forged).await.unwrap();
    assert_eq!(subject.port.holder("role").await.unwrap(), Some(second.clone()));
    subject.port.release(&second).await.unwrap();
    let third = acquired(&subject, "role", BELA, MINUTE).await;
    subject.port.release(&second).await.unwrap();
    assert_eq!(subject.port.holder("role").await.unwrap(), Some(third));
}

/// Clause 8.
pub async fn roles_are_independent(subject: LeaderSubject) {
    let one = acquired(&subject, "role", ANNA, MINUTE).await;
    let two = acquired(&subject, "Role", BELA, MINUTE).await;
    subject.port.release(&one).await.unwrap();
    assert_eq!(subject.port.holder("role").await.unwrap(), None);
    assert_eq!(subject.port.holder("Role").await.unwrap(), Some(two));
}

/// Clause 9.
pub async fn the_holder_is_known(subject: LeaderSubject) {
    assert_eq!(subject.port.holder("role").await.unwrap(), None);
    let lease = acquired(&subject, "role", ANNA, MINUTE).await;
    assert_eq!(subject.port.holder("role").await.unwrap(), Some(lease.clone()));
    subject.port.release(&lease).await.unwrap();
    assert_eq!(subject.port.holder("role").await.unwrap(), None);
    acquired(&subject, "role", BELA, SHORT).await;
    subject.pass(AFTER_SHORT).await;
    assert_eq!(subject.port.holder("role").await.unwrap(), None);
}

/// Clause 10.
pub async fn an_invalid_role_is_refused(subject: LeaderSubject) {
    for role in ["", "a\0b", "a\nb", "é", &"r".repeat(ROLE_MAX_BYTES + 1)] {
        let refused = subject.port.acquire(role, ANNA, MINUTE).await;
        assert!(matches!(refused, Err(LeaderError::InvalidRole { .. })), "{role:?}");
        let refused = subject.port.holder(role).await;
        assert!(matches!(refused, Err(LeaderError::InvalidRole { .. })), "{role:?}");
    }
    acquired(&subject, &"r".repeat(ROLE_MAX_BYTES), ANNA, MINUTE).await;
}
