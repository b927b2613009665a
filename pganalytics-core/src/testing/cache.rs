//! The contract of [`Cache`], a function for each clause.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cache::{Cache, CacheError, KEY_MAX_BYTES, SetOptions, SetOutcome, VALUE_MAX_BYTES};
use crate::testing::Subject;
use crate::testing::support::together;

/// Runs the contract of `Cache` on the adapter that the expression yields (`async` → `Option<Subject<dyn Cache>>`).
#[macro_export]
macro_rules! cache_contract {
    ($subject:expr) => {
        $crate::contract_tests!(
            $crate::testing::cache,
            $subject,
            [
                a_value_set_is_returned,
                an_absent_key_is_none,
                an_expired_entry_is_not_returned,
                a_set_replaces_value_and_ttl,
                set_if_absent_has_one_winner,
                compare_and_swap_needs_the_expected_value,
                concurrent_swaps_lose_no_update,
                delete_says_whether_something_was_there,
                compare_and_delete_spares_another_value,
                a_generation_is_stable_until_bumped,
                a_bumped_generation_is_new,
                groups_do_not_share_generations_with_keys,
                an_invalid_key_is_refused,
                a_value_over_the_limit_is_refused,
                binary_values_come_back_verbatim,
                a_zero_ttl_is_refused,
            ]
        );
    };
}

type CacheSubject = Subject<dyn Cache>;

const SHORT: Duration = Duration::from_millis(50);
const AFTER_SHORT: Duration = Duration::from_millis(60);

fn minute() -> SetOptions {
    SetOptions::expiring_in(Duration::from_secs(60))
}

/// Clause 1.
pub async fn a_value_set_is_returned(subject: CacheSubject) {
    let cache = &subject.port;
    for value in ["one", "two"] {
        assert_eq!(cache.set("key", Bytes::from(value), &minute()).await.unwrap(), SetOutcome::Stored);
        assert_eq!(cache.get("key").await.unwrap(), Some(Bytes::from(value)));
    }
}

/// Clause 2.
pub async fn an_absent_key_is_none(subject: CacheSubject) {
    assert_eq!(subject.port.get("never set").await.unwrap(), None);
}

/// Clause 3.
pub async fn an_expired_entry_is_not_returned(subject: CacheSubject) {
    let cache = &subject.port;
    cache.set("key", Bytes::from("old"), &SetOptions::expiring_in(SHORT)).await.unwrap();
    subject.pass(AFTER_SHORT).await;
    assert_eq!(cache.get("key").await.unwrap(), None);
    assert!(!cache.delete("key").await.unwrap());
    let swap = minute().if_equals("old");
    assert_eq!(cache.set("key", Bytes::from("new"), &swap).await.unwrap(), SetOutcome::ConditionFailed);
    assert_eq!(
        cache.set("key", Bytes::from("new"), &minute().if_absent()).await.unwrap(),
        SetOutcome::Stored
    );
}

/// Clause 4.
pub async fn a_set_replaces_value_and_ttl(subject: CacheSubject) {
    let cache = &subject.port;
    let short = SetOptions::expiring_in(SHORT);
    cache.set("lengthened", Bytes::from("short"), &short).await.unwrap();
    cache.set("lengthened", Bytes::from("long"), &minute()).await.unwrap();
    cache.set("shortened", Bytes::from("long"), &minute()).await.unwrap();
    cache.set("shortened", Bytes::from("short"), &short).await.unwrap();
    subject.pass(AFTER_SHORT).await;
    assert_eq!(cache.get("lengthened").await.unwrap(), Some(Bytes::from("long")));
    assert_eq!(cache.get("shortened").await.unwrap(), None);
}

/// Clause 5.
pub async fn set_if_absent_has_one_winner(subject: CacheSubject) {
    let sets =
        (0..16_u8).map(|index| {
            let cache = Arc::clone(&subject.port);
            async move {
                (index, cache.set("key", Bytes::from(vec![index]), &minute().if_absent()).await.unwrap())
            }
        });
    let winners: Vec<u8> = together(sets)
        .await
        .into_iter()
        .filter_map(|(index, outcome)| (outcome == SetOutcome::Stored).then_some(index))
        .collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(subject.port.get("key").await.unwrap(), Some(Bytes::from(winners)));
}

/// Clause 6.
pub async fn compare_and_swap_needs_the_expected_value(subject: CacheSubject) {
    let cache = &subject.port;
    let over_nothing = minute().if_equals("");
    assert_eq!(cache.set("key", Bytes::from("x"), &over_nothing).await.unwrap(), SetOutcome::ConditionFailed);
    cache.set("key", Bytes::from("one"), &minute()).await.unwrap();
    let stale = minute().if_equals("on");
    assert_eq!(cache.set("key", Bytes::from("two"), &stale).await.unwrap(), SetOutcome::ConditionFailed);
    assert_eq!(cache.get("key").await.unwrap(), Some(Bytes::from("one")));
    let current = minute().if_equals("one");
    assert_eq!(cache.set("key", Bytes::from("two"), &current).await.unwrap(), SetOutcome::Stored);
    assert_eq!(cache.get("key").await.unwrap(), Some(Bytes::from("two")));
}

/// Clause 7.
pub async fn concurrent_swaps_lose_no_update(subject: CacheSubject) {
    subject.port.set("counter", Bytes::from("0"), &minute()).await.unwrap();
    let callers = (0..8).map(|_| {
        let cache = Arc::clone(&subject.port);
        async move {
            for _ in 0..10 {
                increment(&*cache).await;
            }
        }
    });
    together(callers).await;
    assert_eq!(subject.port.get("counter").await.unwrap(), Some(Bytes::from("80")));
}

async fn increment(cache: &dyn Cache) {
    loop {
        let current = cache.get("counter").await.unwrap().expect("nothing is evicted here");
        let number: u32 = std::str::from_utf8(&current).unwrap().parse().unwrap();
        let swap = minute().if_equals(current);
        let next = Bytes::from((number + 1).to_string());
        if cache.set("counter", next, &swap).await.unwrap() == SetOutcome::Stored {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Clause 8.
pub async fn delete_says_whether_something_was_there(subject: CacheSubject) {
    let cache = &subject.port;
    assert!(!cache.delete("key").await.unwrap());
    cache.set("key", Bytes::from("value"), &minute()).await.unwrap();
    assert!(cache.delete("key").await.unwrap());
    assert_eq!(cache.get("key").await.unwrap(), None);
}

/// Clause 9.
pub async fn compare_and_delete_spares_another_value(subject: CacheSubject) {
    let cache = &subject.port;
    assert!(!cache.compare_and_delete("key", b"").await.unwrap());
    cache.set("key", Bytes::from("mine"), &minute()).await.unwrap();
    assert!(!cache.compare_and_delete("key", b"yours").await.unwrap());
    assert_eq!(cache.get("key").await.unwrap(), Some(Bytes::from("mine")));
    assert!(cache.compare_and_delete("key", b"mine").await.unwrap());
    assert_eq!(cache.get("key").await.unwrap(), None);
}

/// Clause 10.
pub async fn a_generation_is_stable_until_bumped(subject: CacheSubject) {
    let cache = &subject.port;
    let first = cache.generation("group").await.unwrap();
    assert_eq!(cache.generation("group").await.unwrap(), first);
    let bumped = cache.bump_generation("group").await.unwrap();
    assert_eq!(cache.generation("group").await.unwrap(), bumped);
}

/// Clause 11.
pub async fn a_bumped_generation_is_new(subject: CacheSubject) {
    let cache = &subject.port;
    let mut seen = HashSet::from([cache.generation("group").await.unwrap()]);
    for _ in 0..100 {
        assert!(seen.insert(cache.bump_generation("group").await.unwrap()));
    }
    assert!(!seen.contains(&cache.generation("other group").await.unwrap()));
}

/// Clause 12.
pub async fn groups_do_not_share_generations_with_keys(subject: CacheSubject) {
    let cache = &subject.port;
    let generation = cache.generation("name").await.unwrap();
    assert_eq!(cache.get("name").await.unwrap(), None);
    cache.set("name", Bytes::from("value"), &minute()).await.unwrap();
    assert_eq!(cache.generation("name").await.unwrap(), generation);
    cache.delete("name").await.unwrap();
    assert_eq!(cache.generation("name").await.unwrap(), generation);
}

/// Clause 13.
pub async fn an_invalid_key_is_refused(subject: CacheSubject) {
    let cache = &subject.port;
    for key in ["", "a\nb", "a\0b", "\u{85}", &"k".repeat(KEY_MAX_BYTES + 1)] {
        let results = [
            cache.get(key).await.err(),
            cache.set(key, Bytes::new(), &minute()).await.err(),
            cache.delete(key).await.err(),
            cache.compare_and_delete(key, b"").await.err(),
            cache.generation(key).await.err(),
            cache.bump_generation(key).await.err(),
        ];
        let refused = |error: &Option<CacheError>| matches!(error, Some(CacheError::InvalidKey { .. }));
        assert!(results.iter().all(refused), "{key:?}: {results:?}");
    }
    let longest = "k".repeat(KEY_MAX_BYTES - 1);
    let keys = [format!("{longest}a"), format!("{longest}b"), " ".into(), "#".into(), "{}*?[a]\\é".into()];
    for key in &keys {
        cache.set(key, Bytes::copy_from_slice(key.as_bytes()), &minute()).await.unwrap();
        cache.generation(key).await.unwrap();
    }
    for key in &keys {
        assert_eq!(cache.get(key).await.unwrap(), Some(Bytes::copy_from_slice(key.as_bytes())));
        assert!(cache.delete(key).await.unwrap());
    }
}

/// Clause 14.
pub async fn a_value_over_the_limit_is_refused(subject: CacheSubject) {
    let cache = &subject.port;
    cache.set("key", Bytes::from("old"), &minute()).await.unwrap();
    let error = cache.set("key", vec![0; VALUE_MAX_BYTES + 1].into(), &minute()).await.unwrap_err();
    assert!(
        matches!(&error, CacheError::ValueTooLarge { key, size, limit } if key == "key" && size > limit),
        "{error:?}"
    );
    assert_eq!(cache.get("key").await.unwrap(), Some(Bytes::from("old")));
}

/// Clause 15.
pub async fn binary_values_come_back_verbatim(subject: CacheSubject) {
    let cache = &subject.port;
    for value in [Bytes::new(), (0..=255).collect::<Vec<u8>>().into(), Bytes::from("\r\n$-1\r\n")] {
        cache.set("schlüssel {a} b:c*", value.clone(), &minute()).await.unwrap();
        assert_eq!(cache.get("schlüssel {a} b:c*").await.unwrap(), Some(value));
    }
}

/// Clause 16.
pub async fn a_zero_ttl_is_refused(subject: CacheSubject) {
    let options = SetOptions::expiring_in(Duration::from_micros(999));
    let refused = subject.port.set("key", Bytes::new(), &options).await;
    assert!(matches!(refused, Err(CacheError::InvalidTtl { .. })));
}
