//! The contract of [`OneTimeStore`], a function for each clause.

use std::sync::Arc;
use std::time::Duration;

use crate::one_time::{ID_MAX_BYTES, OneTimeError, OneTimeStore, Seen};
use crate::testing::Subject;
use crate::testing::support::together;

/// Runs the contract of `OneTimeStore` on the adapter that the expression yields (`async` → `Option<Subject<dyn OneTimeStore>>`).
#[macro_export]
macro_rules! one_time_contract {
    ($subject:expr) => {
        $crate::contract_tests!(
            $crate::testing::one_time,
            $subject,
            [
                an_id_is_new_once,
                concurrent_callers_have_one_first,
                scopes_are_independent,
                an_id_is_forgotten_after_its_time,
                a_repeat_does_not_extend_the_time,
                a_time_in_the_past_is_refused,
                ids_are_compared_byte_by_byte,
                an_oversized_id_is_refused,
                sweeping_removes_only_what_is_over,
            ]
        );
    };
}

type OneTimeSubject = Subject<dyn OneTimeStore>;

const SHORT: Duration = Duration::from_millis(50);
const AFTER_SHORT: Duration = Duration::from_millis(60);
const HOUR: Duration = Duration::from_secs(3600);

async fn remember(subject: &OneTimeSubject, scope: &str, id: &str) -> Seen {
    subject.port.remember(scope, id, subject.now() + HOUR).await.unwrap()
}

/// Clause 1.
pub async fn an_id_is_new_once(subject: OneTimeSubject) {
    assert_eq!(remember(&subject, "scope", "id").await, Seen::First);
    for _ in 0..3 {
        assert_eq!(remember(&subject, "scope", "id").await, Seen::Again);
    }
    assert_eq!(remember(&subject, "scope", "other").await, Seen::First);
}

/// Clause 2.
pub async fn concurrent_callers_have_one_first(subject: OneTimeSubject) {
    let until = subject.now() + HOUR;
    let calls = (0..16).map(|_| {
        let store = Arc::clone(&subject.port);
        async move { store.remember("scope", "id", until).await.unwrap() }
    });
    let seen = together(calls).await;
    assert_eq!(seen.iter().filter(|seen| **seen == Seen::First).count(), 1);
}

/// Clause 3.
pub async fn scopes_are_independent(subject: OneTimeSubject) {
    for (scope, id) in [("a", "bc"), ("ab", "c"), ("", "abc"), ("a:", "bc"), ("a", ":bc"), ("b", "bc")] {
        assert_eq!(remember(&subject, scope, id).await, Seen::First, "{scope:?} {id:?}");
        assert_eq!(remember(&subject, scope, id).await, Seen::Again, "{scope:?} {id:?}");
    }
}

/// Clause 4.
pub async fn an_id_is_forgotten_after_its_time(subject: OneTimeSubject) {
    let id = remember_shortly(&subject, "id").await;
    assert_eq!(remember(&subject, "scope", "lasting").await, Seen::First);
    subject.pass(AFTER_SHORT).await;
    assert_eq!(remember(&subject, "scope", &id).await, Seen::First);
    assert_eq!(remember(&subject, "scope", "lasting").await, Seen::Again);
}

/// Clause 5.
pub async fn a_repeat_does_not_extend_the_time(subject: OneTimeSubject) {
    let id = remember_shortly(&subject, "id").await;
    subject.pass(AFTER_SHORT).await;
    assert_eq!(remember(&subject, "scope", &id).await, Seen::First);
}

// Remembers an id for a short time, and once more for a long one while that lasts.
async fn remember_shortly(subject: &OneTimeSubject, name: &str) -> String {
    let (id, first, again) = subject
        .within(SHORT, async |attempt| {
            let id = format!("{name} {attempt}");
            let first = subject.port.remember("scope", &id, subject.now() + SHORT).await;
            let again = subject.port.remember("scope", &id, subject.now() + HOUR).await;
            (id, first, again)
        })
        .await;
    assert_eq!((first.unwrap(), again.unwrap()), (Seen::First, Seen::Again));
    id
}

/// Clause 6.
pub async fn a_time_in_the_past_is_refused(subject: OneTimeSubject) {
    for until in [subject.now() - HOUR, subject.now()] {
        let refused = subject.port.remember("scope", "id", until).await;
        assert!(matches!(refused, Err(OneTimeError::AlreadyExpired { .. })), "{refused:?}");
    }
    assert_eq!(remember(&subject, "scope", "id").await, Seen::First);
}

/// Clause 7.
pub async fn ids_are_compared_byte_by_byte(subject: OneTimeSubject) {
    let long = "x".repeat(ID_MAX_BYTES - 1);
    let (long_a, long_b) = (format!("{long}a"), format!("{long}b"));
    // The last two are the same letter, composed and decomposed.
    let ids = ["id", "ID", " id", "id ", "id\0", "i\nd", "'; --", &long_a, &long_b, "\u{e9}", "e\u{301}"];
    for id in ids {
        assert_eq!(remember(&subject, "scope", id).await, Seen::First, "{id:?}");
    }
    for id in ids {
        assert_eq!(remember(&subject, "scope", id).await, Seen::Again, "{id:?}");
    }
}

/// Clause 8.
pub async fn an_oversized_id_is_refused(subject: OneTimeSubject) {
    for length in [0, ID_MAX_BYTES + 1] {
        let refused = subject.port.remember("scope", &"x".repeat(length), subject.now() + HOUR).await;
        assert!(matches!(refused, Err(OneTimeError::InvalidId { length: named }) if named == length));
    }
}

/// Clause 9.
pub async fn sweeping_removes_only_what_is_over(subject: OneTimeSubject) {
    for id in ["one", "two", "three"] {
        remember_shortly(&subject, id).await;
    }
    assert_eq!(remember(&subject, "scope", "lasting").await, Seen::First);
    subject.pass(AFTER_SHORT).await;
    let mut removed = 0;
    for limit in [2, 2, 2, 100] {
        let now = subject.port.sweep(limit).await.unwrap();
        assert!(now <= u64::from(limit), "{now} were removed, asked for were at most {limit}");
        removed += now;
    }
    assert!(removed >= 3, "{removed} were removed");
    assert_eq!(subject.port.sweep(100).await.unwrap(), 0);
    assert_eq!(remember(&subject, "scope", "lasting").await, Seen::Again);
}
