//! The contract of [`SigningKeyStore`], a function for each clause.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::signing::{
    NewSigningKey, PublicKey, SignatureAlgorithm, SigningKeyId, SigningKeyStore, StoredSigningKey,
};
use crate::testing::Subject;
use crate::testing::support::together;

/// Runs the contract of `SigningKeyStore` on the adapter that the expression yields
/// (`async` → `Option<Subject<dyn SigningKeyStore>>`), a store without keys.
#[macro_export]
macro_rules! signing_key_store_contract {
    ($subject:expr) => {
        $crate::contract_tests!(
            $crate::testing::signing_key_store,
            $subject,
            [
                an_inserted_key_is_listed,
                the_first_insert_of_an_id_wins,
                a_first_key_is_made_once,
                a_key_has_one_successor,
                keys_are_listed_by_activation,
                retiring_sets_the_time_once,
                only_retired_keys_are_removed,
            ]
        );
    };
}

type KeySubject = Subject<dyn SigningKeyStore>;

const SECOND: Duration = Duration::from_secs(1);

fn new_key(subject: &KeySubject, id: &str) -> NewSigningKey {
    let public =
        PublicKey { id: key_id(id), algorithm: SignatureAlgorithm::Ed25519, bytes: (100..132).collect() };
    NewSigningKey::new(public, (0..=255).collect(), subject.now())
}

fn key_id(text: &str) -> SigningKeyId {
    text.parse().expect("suites use valid ids")
}

async fn listed_ids(store: &dyn SigningKeyStore) -> Vec<String> {
    let keys = store.list().await.unwrap();
    keys.into_iter().map(|key| key.public.id.as_str().to_owned()).collect()
}

/// Clause 1.
pub async fn an_inserted_key_is_listed(subject: KeySubject) {
    let store = &subject.port;
    assert_eq!(store.list().await.unwrap(), []);
    let first = new_key(&subject, "first");
    let empty = NewSigningKey {
        wrapped_private: Bytes::new(),
        activates_at: first.activates_at + SECOND,
        ..new_key(&subject, "A-z_0")
    };
    assert!(store.insert_first(&first).await.unwrap());
    assert!(store.insert(&empty).await.unwrap());
    let expected = [&first, &empty].map(StoredSigningKey::created);
    assert_eq!(store.list().await.unwrap(), expected);
}

/// Clause 2.
pub async fn the_first_insert_of_an_id_wins(subject: KeySubject) {
    let store = &subject.port;
    let first = new_key(&subject, "taken");
    assert!(store.insert(&first).await.unwrap());
    let second = NewSigningKey { wrapped_private: Bytes::from("other"), ..first.clone() };
    assert!(!store.insert(&second).await.unwrap());
    assert_eq!(store.list().await.unwrap(), [StoredSigningKey::created(&first)]);
    assert!(store.insert(&new_key(&subject, "TAKEN")).await.unwrap(), "ids are told apart by case");
}

/// Clause 3.
pub async fn a_first_key_is_made_once(subject: KeySubject) {
    let store = &subject.port;
    let rivals = (0..8).map(|rival| {
        let (store, new) = (Arc::clone(store), new_key(&subject, &format!("rival-{rival}")));
        async move { store.insert_first(&new).await.unwrap().then_some(new) }
    });
    let made: Vec<NewSigningKey> = together(rivals).await.into_iter().flatten().collect();
    let [first] = &made[..] else { panic!("{} first keys were made", made.len()) };
    assert_eq!(store.list().await.unwrap(), [StoredSigningKey::created(first)]);

    assert!(!store.insert_first(&new_key(&subject, "late")).await.unwrap());
    assert!(store.retire(&first.public.id, subject.now()).await.unwrap());
    assert!(!store.insert_first(first).await.unwrap(), "the id exists");
    assert!(store.insert_first(&new_key(&subject, "successor")).await.unwrap());
    assert!(!store.insert_first(&new_key(&subject, "late")).await.unwrap());
    assert_eq!(store.list().await.unwrap().len(), 2);
}

/// Clause 4.
pub async fn a_key_has_one_successor(subject: KeySubject) {
    let store = &subject.port;
    let (old, first) = (new_key(&subject, "old"), new_key(&subject, "first"));
    assert!(!store.insert_successor(&first, &old.public.id).await.unwrap(), "there is nothing to succeed");
    store.insert(&NewSigningKey { activates_at: old.activates_at - SECOND, ..old.clone() }).await.unwrap();
    store.insert(&first).await.unwrap();
    let retired = subject.now() - SECOND;
    store.retire(&old.public.id, retired).await.unwrap();

    let activates_at = first.activates_at + SECOND;
    let rivals = (0..8).map(|rival| {
        let new = NewSigningKey { activates_at, ..new_key(&subject, &format!("rival-{rival}")) };
        let (store, first) = (Arc::clone(store), first.public.id.clone());
        async move { store.insert_successor(&new, &first).await.unwrap().then_some(new) }
    });
    let made: Vec<NewSigningKey> = together(rivals).await.into_iter().flatten().collect();
    let [second] = &made[..] else { panic!("{} successors were made", made.len()) };
    for (taken, of) in [(&first, &second.public.id), (second, &second.public.id)] {
        assert!(!store.insert_successor(taken, of).await.unwrap(), "the id exists");
    }
    let late = new_key(&subject, "late");
    for of in [&old.public.id, &first.public.id, &late.public.id] {
        assert!(!store.insert_successor(&late, of).await.unwrap(), "{of} is not the newest");
    }
    let keys: Vec<_> =
        store.list().await.unwrap().into_iter().map(|key| (key.public.id, key.retired_at)).collect();
    let expected = [
        (old.public.id, Some(retired)),
        (first.public.id, Some(activates_at)),
        (second.public.id.clone(), None),
    ];
    assert_eq!(keys, expected);
}

/// Clause 5.
pub async fn keys_are_listed_by_activation(subject: KeySubject) {
    let store = &subject.port;
    for (id, after) in [("third", 3), ("first", 1), ("second", 2)] {
        let new = new_key(&subject, id);
        let new = NewSigningKey { activates_at: new.activates_at + SECOND * after, ..new };
        assert!(store.insert(&new).await.unwrap());
    }
    assert!(store.retire(&key_id("first"), subject.now()).await.unwrap());
    assert_eq!(listed_ids(&**store).await, ["first", "second", "third"]);
}

/// Clause 6.
pub async fn retiring_sets_the_time_once(subject: KeySubject) {
    let store = &subject.port;
    let new = new_key(&subject, "retired");
    store.insert(&new).await.unwrap();
    let at = subject.now();
    assert!(store.retire(&new.public.id, at).await.unwrap());
    assert!(!store.retire(&new.public.id, at + SECOND).await.unwrap());
    let expected = StoredSigningKey { retired_at: Some(at), ..StoredSigningKey::created(&new) };
    assert_eq!(store.list().await.unwrap(), [expected]);
    assert!(!store.retire(&key_id("unknown"), at).await.unwrap());
}

/// Clause 7.
pub async fn only_retired_keys_are_removed(subject: KeySubject) {
    let store = &subject.port;
    let before = subject.now();
    let retirements =
        [("earlier", Some(before - SECOND)), ("then", Some(before)), ("later", Some(before + SECOND))];
    for (id, retired_at) in retirements.into_iter().chain([("in-use", None)]) {
        store.insert(&new_key(&subject, id)).await.unwrap();
        if let Some(at) = retired_at {
            assert!(store.retire(&key_id(id), at).await.unwrap());
        }
    }
    assert_eq!(store.remove_retired(before).await.unwrap(), 2);
    assert_eq!(store.remove_retired(before).await.unwrap(), 0);
    let mut left = listed_ids(&**store).await;
    left.sort_unstable();
    assert_eq!(left, ["in-use", "later"]);
}
