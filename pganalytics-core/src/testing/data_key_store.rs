//! The contract of [`DataKeyStore`], a function for each clause.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::keys::{
    DataKeyId, DataKeyState, DataKeyStore, DataKeyVersion, DataKeyWrapping, KeyName, KeyVersion, NewDataKey,
    StoredDataKey, WrappedKey,
};
use crate::testing::Subject;
use crate::testing::support::together;

/// Runs the contract of `DataKeyStore` on the adapter that the expression yields
/// (`async` → `Option<Subject<dyn DataKeyStore>>`), a store without keys.
#[macro_export]
macro_rules! data_key_store_contract {
    ($subject:expr) => {
        $crate::contract_tests!(
            $crate::testing::data_key_store,
            $subject,
            [
                an_added_key_is_listed,
                only_the_next_version_is_added,
                rivals_add_one_key,
                keys_are_listed_in_order,
                rewrapping_is_a_compare_and_swap,
                only_a_superseded_key_is_retired,
                only_a_retired_key_is_destroyed,
            ]
        );
    };
}

type StoreSubject = Subject<dyn DataKeyStore>;

const SECOND: Duration = Duration::from_secs(1);

fn id(purpose: &str, version: u32) -> DataKeyId {
    DataKeyId::new(purpose, DataKeyVersion(version))
}

fn wrapping(key: &str, blob: &[u8]) -> DataKeyWrapping {
    let key: KeyName = key.parse().expect("suites use valid names");
    DataKeyWrapping::new(key, WrappedKey { blob: Bytes::copy_from_slice(blob), version: None })
}

fn new_key(subject: &StoreSubject, purpose: &str, version: u32) -> NewDataKey {
    let blob = format!("{purpose} {version}");
    NewDataKey::new(id(purpose, version), wrapping("contract", blob.as_bytes()), subject.now())
}

async fn add(subject: &StoreSubject, purpose: &str, version: u32) -> StoredDataKey {
    let new = new_key(subject, purpose, version);
    assert!(subject.port.add(&new).await.unwrap(), "{} was not added", new.id);
    StoredDataKey::created(&new)
}

async fn listed(subject: &StoreSubject) -> Vec<StoredDataKey> {
    subject.port.list().await.unwrap()
}

/// Clause 1.
pub async fn an_added_key_is_listed(subject: StoreSubject) {
    assert_eq!(listed(&subject).await, []);
    let every_byte: Vec<u8> = (0..=255).collect();
    let wrapped = WrappedKey { blob: every_byte.clone().into(), version: Some(KeyVersion(u32::MAX)) };
    let key = "contract-key_1".parse().expect("suites use valid names");
    let recovery = every_byte.iter().rev().copied().collect();
    let full = NewDataKey::new(
        id("Purpose.of any, name", 1),
        DataKeyWrapping::new(key, wrapped).with_recovery(Some(recovery)),
        subject.now(),
    );
    let plain = NewDataKey::new(id("plain", 1), wrapping("contract", b""), subject.now() - SECOND);
    assert!(subject.port.add(&plain).await.unwrap());
    assert!(subject.port.add(&full).await.unwrap());
    assert_eq!(listed(&subject).await, [&full, &plain].map(StoredDataKey::created));
}

/// Clause 2.
pub async fn only_the_next_version_is_added(subject: StoreSubject) {
    let refuse = async |purpose: &str, version: u32| {
        let before = listed(&subject).await;
        let new = new_key(&subject, purpose, version);
        assert!(!subject.port.add(&new).await.unwrap(), "{} was added", new.id);
        assert_eq!(listed(&subject).await, before);
    };
    refuse("one", 0).await;
    refuse("one", 2).await;
    let first = add(&subject, "one", 1).await;
    for version in [0, 1, 3, u32::MAX] {
        refuse("one", version).await;
    }
    let second = add(&subject, "one", 2).await;
    let other = add(&subject, "ONE", 1).await;
    refuse("one", 1).await;
    refuse("one", 2).await;
    let first = first.in_state(DataKeyState::Superseded);
    assert_eq!(listed(&subject).await, [other.clone(), first.clone(), second.clone()]);

    let at = subject.now();
    assert!(subject.port.retire(&first.id, at).await.unwrap());
    assert!(subject.port.destroy(&first.id, at).await.unwrap());
    refuse("one", 1).await;
    let third = add(&subject, "one", 3).await;
    let destroyed = first.in_state(DataKeyState::Destroyed { at });
    let second = second.in_state(DataKeyState::Superseded);
    assert_eq!(listed(&subject).await, [other, destroyed, second, third]);
}

/// Clause 3.
pub async fn rivals_add_one_key(subject: StoreSubject) {
    for version in 1..=3 {
        let rivals = (0..8).map(|rival| {
            let wrapping = wrapping("contract", format!("rival {rival}").as_bytes());
            let new = NewDataKey::new(id("rivals", version), wrapping, subject.now());
            let store = Arc::clone(&subject.port);
            async move { store.add(&new).await.unwrap().then_some(new) }
        });
        let added: Vec<NewDataKey> = together(rivals).await.into_iter().flatten().collect();
        let [winner] = &added[..] else { panic!("{} keys of version {version} were added", added.len()) };
        assert_eq!(listed(&subject).await.last(), Some(&StoredDataKey::created(winner)));
    }
    assert_eq!(listed(&subject).await.len(), 3);
}

/// Clause 4.
pub async fn keys_are_listed_in_order(subject: StoreSubject) {
    let mut expected = Vec::new();
    // Bytes, not letters, decide: languages sort these otherwise.
    for purpose in ["b", "a", "a.index", "a_b", "B", "a-b", "é", "f"] {
        for version in 1..=11 {
            add(&subject, purpose, version).await;
            expected.push(id(purpose, version));
        }
    }
    assert!(subject.port.retire(&id("a", 2), subject.now()).await.unwrap());
    assert!(subject.port.retire(&id("a", 3), subject.now()).await.unwrap());
    assert!(subject.port.destroy(&id("a", 3), subject.now()).await.unwrap());
    expected.sort();
    let ids: Vec<DataKeyId> = listed(&subject).await.into_iter().map(|key| key.id).collect();
    assert_eq!(ids, expected);
}

/// Clause 5.
pub async fn rewrapping_is_a_compare_and_swap(subject: StoreSubject) {
    let store = &subject.port;
    let first = add(&subject, "rewrapped", 1).await;
    let bystander = add(&subject, "bystander", 1).await;
    let from = first.wrapping.clone().expect("it was just added").wrapped;

    let rivals = (0..8).map(|rival| {
        let mut to = wrapping("another", format!("of rival {rival}").as_bytes());
        to.wrapped.version = Some(KeyVersion(7));
        to.recovery = Some(Bytes::from(format!("recovery {rival}")));
        let (store, id, from) = (Arc::clone(store), first.id.clone(), from.clone());
        async move { store.rewrap(&id, &from, &to).await.unwrap().then_some(to) }
    });
    let done: Vec<DataKeyWrapping> = together(rivals).await.into_iter().flatten().collect();
    let [to] = &done[..] else { panic!("{} rivals rewrapped", done.len()) };
    let mut rewrapped = first.clone();
    rewrapped.wrapping = Some(to.clone());
    assert_eq!(listed(&subject).await, [bystander.clone(), rewrapped.clone()]);

    let late = wrapping("late", b"late");
    assert!(!store.rewrap(&first.id, &from, &late).await.unwrap(), "it is wrapped otherwise by now");
    let hint = WrappedKey { version: None, ..to.wrapped.clone() };
    for unknown in [id("rewrapped", 2), id("unknown", 1), id("Rewrapped", 1)] {
        assert!(!store.rewrap(&unknown, &hint, &late).await.unwrap(), "{unknown} does not exist");
    }
    assert_eq!(listed(&subject).await, [bystander, rewrapped]);
    assert!(store.rewrap(&first.id, &hint, &late).await.unwrap(), "the blob decides, not the hint");

    add(&subject, "rewrapped", 2).await;
    let again = wrapping("again", b"again");
    assert!(store.retire(&first.id, subject.now()).await.unwrap());
    assert!(store.rewrap(&first.id, &late.wrapped, &again).await.unwrap(), "a retired key is rewrapped, too");
    assert!(store.destroy(&first.id, subject.now()).await.unwrap());
    let before = listed(&subject).await;
    assert!(!store.rewrap(&first.id, &again.wrapped, &late).await.unwrap(), "it is destroyed");
    assert_eq!(listed(&subject).await, before);
}

/// Clause 6.
pub async fn only_a_superseded_key_is_retired(subject: StoreSubject) {
    let store = &subject.port;
    let at = subject.now();
    let first = add(&subject, "retired", 1).await;
    assert!(!store.retire(&first.id, at).await.unwrap(), "it is active");
    assert!(!store.retire(&id("unknown", 1), at).await.unwrap());
    assert_eq!(listed(&subject).await, std::slice::from_ref(&first));

    let second = add(&subject, "retired", 2).await;
    assert!(store.retire(&first.id, at).await.unwrap());
    let retired = first.clone().in_state(DataKeyState::Retired { at });
    assert_eq!(listed(&subject).await, [retired.clone(), second.clone()]);
    assert!(!store.retire(&first.id, at + SECOND).await.unwrap(), "it is retired already");
    assert!(!store.retire(&second.id, at).await.unwrap(), "it is active");
    assert_eq!(listed(&subject).await, [retired, second]);
    assert!(store.destroy(&first.id, at).await.unwrap());
    assert!(!store.retire(&first.id, at + SECOND).await.unwrap(), "it is destroyed");
}

/// Clause 7.
pub async fn only_a_retired_key_is_destroyed(subject: StoreSubject) {
    let store = &subject.port;
    let at = subject.now();
    let mut new = new_key(&subject, "destroyed", 1);
    new.wrapping.recovery = Some(Bytes::from("recovery"));
    assert!(store.add(&new).await.unwrap());
    let first = StoredDataKey::created(&new);
    assert!(!store.destroy(&first.id, at).await.unwrap(), "it is active");
    let second = add(&subject, "destroyed", 2).await;
    assert!(!store.destroy(&first.id, at).await.unwrap(), "it is superseded, not retired");
    assert!(!store.destroy(&id("unknown", 1), at).await.unwrap());
    let superseded = first.clone().in_state(DataKeyState::Superseded);
    assert_eq!(listed(&subject).await, [superseded, second.clone()]);

    assert!(store.retire(&first.id, at).await.unwrap());
    let at = at + SECOND;
    assert!(store.destroy(&first.id, at).await.unwrap());
    let destroyed = first.clone().in_state(DataKeyState::Destroyed { at });
    assert_eq!(destroyed.wrapping, None);
    assert_eq!(listed(&subject).await, [destroyed.clone(), second.clone()]);
    assert!(!store.destroy(&first.id, at + SECOND).await.unwrap(), "it is destroyed already");
    assert_eq!(listed(&subject).await, [destroyed, second]);
}
