//! The contract of [`KeyManager`], a function for each clause.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::error::{PortError, Retry};
use crate::keys::{
    DATA_KEY_BYTES, DataKey, KeyContext, KeyError, KeyManager, KeyName, KeyVersion, WrappedKey,
};
use crate::testing::Subject;
use crate::testing::support::{assert_not_printed, skip};

/// Runs the contract of `KeyManager` on the adapter that the expression yields (`async` → `Option<KeyManagerFixture>`).
#[macro_export]
macro_rules! key_manager_contract {
    ($fixture:expr) => {
        $crate::contract_tests!(
            $crate::testing::key_manager,
            $fixture,
            [
                a_generated_key_unwraps_to_itself,
                a_given_key_is_wrapped,
                two_wrappings_differ,
                the_context_must_match,
                the_key_name_must_match,
                every_changed_byte_is_refused,
                rewrapping_moves_to_the_current_version,
                an_unknown_key_is_named,
                the_wrapped_form_is_self_describing,
                data_keys_are_never_printed,
                an_outage_is_no_verdict,
            ]
        );
    };
}

/// A key manager under test, two keys that it has, and what else can be done to it.
pub struct KeyManagerFixture {
    subject: Subject<dyn KeyManager>,
    key: KeyName,
    other_key: KeyName,
    rotation: Option<BoxFuture<'static, Arc<dyn KeyManager>>>,
    unreachable: Option<Arc<dyn KeyManager>>,
}

impl KeyManagerFixture {
    /// A key manager and two keys that it has. It must have no key `no-such-key`.
    pub fn new(subject: Subject<dyn KeyManager>, keys: [KeyName; 2]) -> Self {
        let [key, other_key] = keys;
        Self { subject, key, other_key, rotation: None, unreachable: None }
    }

    /// How to give the first key a new version. It yields the manager that wraps under it, which is another one where a
    /// manager reads its keys only once. Without it clause 7 is tried without a rotation.
    #[must_use]
    pub fn with_rotation(self, rotation: impl Future<Output = Arc<dyn KeyManager>> + Send + 'static) -> Self {
        Self { rotation: Some(Box::pin(rotation)), ..self }
    }

    /// The same manager with nobody at the other end of the line. Without it, as of a manager that asks nobody, clause 11 is
    /// skipped.
    #[must_use]
    pub fn with_unreachable(self, manager: Arc<dyn KeyManager>) -> Self {
        Self { unreachable: Some(manager), ..self }
    }

    fn manager(&self) -> &dyn KeyManager {
        &*self.subject.port
    }

    async fn generate(&self) -> (DataKey, WrappedKey) {
        self.manager().generate(&self.key, &context("row/1")).await.expect("the key exists")
    }

    async fn unwrap(&self, wrapped: &WrappedKey) -> Result<DataKey, KeyError> {
        self.manager().unwrap(&self.key, &context("row/1"), wrapped).await
    }
}

fn context(text: &str) -> KeyContext {
    KeyContext(text.into())
}

fn assert_undecryptable<T>(result: Result<T, KeyError>, expected: &KeyName, case: &str) {
    match result {
        Err(KeyError::Undecryptable { key }) => assert_eq!(&key, expected),
        Err(error) => panic!("{case}: not undecryptable but: {error:?}"),
        Ok(_) => panic!("{case}: accepted"),
    }
}

fn assert_same_where_told(wrapped: Option<KeyVersion>, current: Option<KeyVersion>) {
    assert!(wrapped.is_none() || current.is_none() || wrapped == current, "{wrapped:?} under {current:?}");
}

/// Clause 1.
pub async fn a_generated_key_unwraps_to_itself(fixture: KeyManagerFixture) {
    let (data_key, wrapped) = fixture.generate().await;
    let (another, _) = fixture.generate().await;
    assert!(data_key != another, "a data key is fresh");
    assert!(data_key.expose() != [0; DATA_KEY_BYTES]);
    assert!(!wrapped.blob.windows(8).any(|part| data_key.expose().windows(8).any(|secret| secret == part)));
    for _ in 0..2 {
        assert!(fixture.unwrap(&wrapped).await.unwrap() == data_key);
    }
}

/// Clause 2.
pub async fn a_given_key_is_wrapped(fixture: KeyManagerFixture) {
    for bytes in [vec![0; DATA_KEY_BYTES], vec![255; DATA_KEY_BYTES], (0..32).collect()] {
        let data_key = DataKey::from_bytes(bytes).expect("32 bytes are a data key");
        let context = context("an import: \"quoted\", \0, 名前");
        let wrapped = fixture.manager().wrap(&fixture.key, &context, &data_key).await.unwrap();
        assert!(fixture.manager().unwrap(&fixture.key, &context, &wrapped).await.unwrap() == data_key);
    }
}

/// Clause 3.
pub async fn two_wrappings_differ(fixture: KeyManagerFixture) {
    let (data_key, wrapped) = fixture.generate().await;
    let again = fixture.manager().wrap(&fixture.key, &context("row/1"), &data_key).await.unwrap();
    let rewrapped = fixture.manager().rewrap(&fixture.key, &context("row/1"), &wrapped).await.unwrap();
    assert_ne!(again.blob, wrapped.blob);
    assert_ne!(rewrapped.blob, wrapped.blob);
}

/// Clause 4.
pub async fn the_context_must_match(fixture: KeyManagerFixture) {
    let (_, wrapped) = fixture.generate().await;
    for other in ["row/2", "row/", "row/1 ", "row/10", "Row/1", ""] {
        let unwrapped = fixture.manager().unwrap(&fixture.key, &context(other), &wrapped).await;
        assert_undecryptable(unwrapped, &fixture.key, other);
        let rewrapped = fixture.manager().rewrap(&fixture.key, &context(other), &wrapped).await;
        assert_undecryptable(rewrapped, &fixture.key, other);
    }
    let (_, without_context) = fixture.manager().generate(&fixture.key, &context("")).await.unwrap();
    assert_undecryptable(fixture.unwrap(&without_context).await, &fixture.key, "wrapped without a context");
}

/// Clause 5.
pub async fn the_key_name_must_match(fixture: KeyManagerFixture) {
    let (_, wrapped) = fixture.generate().await;
    let unwrapped = fixture.manager().unwrap(&fixture.other_key, &context("row/1"), &wrapped).await;
    assert_undecryptable(unwrapped, &fixture.other_key, "unwrap");
    let rewrapped = fixture.manager().rewrap(&fixture.other_key, &context("row/1"), &wrapped).await;
    assert_undecryptable(rewrapped, &fixture.other_key, "rewrap");
}

/// Clause 6.
pub async fn every_changed_byte_is_refused(fixture: KeyManagerFixture) {
    let (data_key, wrapped) = fixture.generate().await;
    let changed = |blob: Vec<u8>| WrappedKey { blob: Bytes::from(blob), version: wrapped.version };
    for position in 0..wrapped.blob.len() {
        for bit in [0, 7] {
            let mut blob = wrapped.blob.to_vec();
            blob[position] ^= 1 << bit;
            let case = format!("bit {bit} of byte {position}");
            assert_undecryptable(fixture.unwrap(&changed(blob)).await, &fixture.key, &case);
        }
        let cut = wrapped.blob[..position].to_vec();
        assert_undecryptable(
            fixture.unwrap(&changed(cut)).await,
            &fixture.key,
            &format!("cut to {position}"),
        );
    }
    let doubled = wrapped.blob.repeat(2);
    let extended = [&wrapped.blob[..], b"\0"].concat();
    let padded = [&wrapped.blob[..], b"="].concat();
    for blob in [doubled, extended, padded, vec![0; 100_000]] {
        let case = format!("{} bytes", blob.len());
        assert_undecryptable(fixture.unwrap(&changed(blob.clone())).await, &fixture.key, &case);
        let rewrapped = fixture.manager().rewrap(&fixture.key, &context("row/1"), &changed(blob)).await;
        assert_undecryptable(rewrapped, &fixture.key, &case);
    }
    assert!(fixture.unwrap(&wrapped).await.unwrap() == data_key);
}

/// Clause 7.
pub async fn rewrapping_moves_to_the_current_version(mut fixture: KeyManagerFixture) {
    let (data_key, old) = fixture.generate().await;
    let before = fixture.manager().current_version(&fixture.key).await.unwrap();
    assert_same_where_told(old.version, before);
    let rotated = fixture.rotation.is_some();
    match fixture.rotation.take() {
        Some(rotation) => fixture.subject.port = rotation.await,
        None => skip("rewrapping_moves_to_the_current_version", "the fixture cannot rotate: only rewrapped"),
    }
    let after = fixture.manager().current_version(&fixture.key).await.unwrap();
    assert!(before.is_none() || (after > before) == rotated, "{after:?} after {before:?}");

    let rewrapped = fixture.manager().rewrap(&fixture.key, &context("row/1"), &old).await.unwrap();
    assert_same_where_told(rewrapped.version, after);
    assert_ne!(rewrapped.blob, old.blob);
    for wrapped in [&old, &rewrapped] {
        assert!(fixture.unwrap(wrapped).await.unwrap() == data_key);
    }
    let (_, fresh) = fixture.generate().await;
    assert_same_where_told(fresh.version, after);
}

/// Clause 8.
pub async fn an_unknown_key_is_named(fixture: KeyManagerFixture) {
    fn assert_unknown<T>(result: Result<T, KeyError>, method: &str) {
        match result {
            Err(KeyError::UnknownKey { key, .. }) => assert_eq!(key.as_str(), "no-such-key"),
            Err(error) => panic!("{method}: not an unknown key but: {error:?}"),
            Ok(_) => panic!("{method}: accepted"),
        }
    }
    let (data_key, wrapped) = fixture.generate().await;
    let unknown: KeyName = "no-such-key".parse().expect("it is a name");
    let manager = fixture.manager();
    // Twice, since a service may make a key that it is asked to wrap with.
    for _ in 0..2 {
        assert_unknown(manager.generate(&unknown, &context("row/1")).await, "generate");
        assert_unknown(manager.wrap(&unknown, &context("row/1"), &data_key).await, "wrap");
        assert_unknown(manager.unwrap(&unknown, &context("row/1"), &wrapped).await, "unwrap");
        assert_unknown(manager.rewrap(&unknown, &context("row/1"), &wrapped).await, "rewrap");
        assert_unknown(manager.current_version(&unknown).await, "current_version");
    }
}

/// Clause 9.
pub async fn the_wrapped_form_is_self_describing(fixture: KeyManagerFixture) {
    let (data_key, wrapped) = fixture.generate().await;
    for version in [None, Some(KeyVersion(0)), Some(KeyVersion(u32::MAX))] {
        let hinted = WrappedKey { blob: wrapped.blob.clone(), version };
        assert!(fixture.unwrap(&hinted).await.unwrap() == data_key, "{version:?}");
        let rewrapped = fixture.manager().rewrap(&fixture.key, &context("row/1"), &hinted).await.unwrap();
        assert!(fixture.unwrap(&rewrapped).await.unwrap() == data_key, "{version:?}");
    }
}

/// Clause 10.
pub async fn data_keys_are_never_printed(fixture: KeyManagerFixture) {
    let (data_key, wrapped) = fixture.generate().await;
    let unwrapped = fixture.unwrap(&wrapped).await.unwrap();
    for printed in [&data_key as &dyn std::fmt::Debug, &unwrapped, &wrapped, &fixture.subject.port] {
        assert_not_printed(printed, data_key.expose());
    }
}

/// Clause 11.
pub async fn an_outage_is_no_verdict(fixture: KeyManagerFixture) {
    fn assert_outage<T>(result: Result<T, KeyError>, method: &str) {
        match result {
            Err(error @ KeyError::Backend(_)) => assert_eq!(error.retry(), Retry::Later, "{method}"),
            Err(error) => panic!("{method}: not an outage but: {error:?}"),
            Ok(_) => panic!("{method}: succeeded with nobody to ask"),
        }
    }
    let Some(unreachable) = &fixture.unreachable else {
        return skip("an_outage_is_no_verdict", "the fixture has no unreachable manager");
    };
    let (data_key, wrapped) = fixture.generate().await;
    let key = &fixture.key;
    assert_outage(unreachable.generate(key, &context("row/1")).await, "generate");
    assert_outage(unreachable.wrap(key, &context("row/1"), &data_key).await, "wrap");
    assert_outage(unreachable.unwrap(key, &context("row/1"), &wrapped).await, "unwrap");
    assert_outage(unreachable.rewrap(key, &context("row/1"), &wrapped).await, "rewrap");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::doubles::KeyVault;
    use crate::testing::{Fault, Faulty};

    async fn vault() -> Option<KeyManagerFixture> {
        let keys: [KeyName; 2] = ["first", "second"].map(|name| name.parse().unwrap());
        let vault = Arc::new(KeyVault::with_keys(&keys));
        let boxed = Faulty::new(Box::new(Arc::clone(&vault)));
        let away = Faulty::new(Arc::clone(&vault));
        away.plan([Fault::Fail; 4]);
        let (rotated, key) = (Arc::clone(&vault), keys[0].clone());
        let rotation = async move {
            rotated.rotate(&key);
            rotated as Arc<dyn KeyManager>
        };
        let subject = Subject::real_time(Arc::new(boxed) as Arc<dyn KeyManager>);
        Some(KeyManagerFixture::new(subject, keys).with_rotation(rotation).with_unreachable(Arc::new(away)))
    }

    crate::key_manager_contract!(vault());

    async fn unrotatable() -> Option<KeyManagerFixture> {
        let keys: [KeyName; 2] = ["first", "second"].map(|name| name.parse().unwrap());
        let subject = Subject::real_time(Arc::new(KeyVault::with_keys(&keys)) as Arc<dyn KeyManager>);
        Some(KeyManagerFixture::new(subject, keys))
    }

    #[tokio::test]
    async fn a_manager_that_cannot_be_rotated_still_rewraps() {
        super::rewrapping_moves_to_the_current_version(unrotatable().await.unwrap()).await;
    }
}
