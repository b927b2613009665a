//! Values sealed under data keys that lie in memory and are wrapped by keys in files.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pganalytics_core::clock::Clock;
use pganalytics_core::error::BackendError;
use pganalytics_core::keys::{
    BlindIndex, Ciphertext, DataKey, DataKeyId, DataKeyState, DataKeyStore, DataKeyVersion, FieldCipher,
    FieldCipherError, FieldRef, KeyContext, KeyError, KeyManager, KeyName, KeyVersion, MemoryDataKeyStore,
    OpenRequest, SealRequest, WrappedKey,
};
#[cfg(feature = "recovery")]
use pganalytics_core::keys::{DataKeyWrapping, NewDataKey};
use pganalytics_core::secret::SecretBytes;
use pganalytics_core::testing::field_cipher::FieldCipherFixture;
use pganalytics_core::testing::{Fault, Faulty, ManualClock, Subject};
use pganalytics_crypto::blind_index::{IndexRule, Normalisation};
use pganalytics_crypto::envelope::{
    Destruction, EnvelopeConfig, EnvelopeError, EnvelopeFieldCipher, OVERHEAD_BYTES, PurposeConfig,
    index_version, sealed_version,
};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

const FIELD: FieldRef = FieldRef { table: "users", column: "phone", purpose: "personal" };
const ROW: Uuid = Uuid::from_u128(7);
const VALUE: &[u8] = b"+49 30 1234567";

/// A key manager that counts how often it is asked, and takes its time.
#[derive(Debug)]
struct Counting<K>(K, Arc<AtomicUsize>);

impl<K> Counting<K> {
    async fn count(&self) -> &K {
        self.1.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        &self.0
    }
}

#[async_trait]
impl<K: KeyManager> KeyManager for Counting<K> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    async fn generate(&self, key: &KeyName, context: &KeyContext) -> Result<(DataKey, WrappedKey), KeyError> {
        self.count().await.generate(key, context).await
    }

    async fn wrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        data_key: &DataKey,
    ) -> Result<WrappedKey, KeyError> {
        self.count().await.wrap(key, context, data_key).await
    }

    async fn unwrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<DataKey, KeyError> {
        self.count().await.unwrap(key, context, wrapped).await
    }

    async fn rewrap(
        &self,
        key: &KeyName,
        context: &KeyContext,
        wrapped: &WrappedKey,
    ) -> Result<WrappedKey, KeyError> {
        self.count().await.rewrap(key, context, wrapped).await
    }

    async fn current_version(&self, key: &KeyName) -> Result<Option<KeyVersion>, KeyError> {
        self.count().await.current_version(key).await
    }
}

/// A store, a folder of keys and a clock, to which any number of servers connect.
struct World {
    store: Arc<MemoryDataKeyStore>,
    clock: ManualClock,
    files: Arc<FileKeyManager>,
    asked: Arc<AtomicUsize>,
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new();
        let files = Arc::new(open_files(folder.path(), &clock));
        Self { store: Arc::default(), clock, files, asked: Arc::default(), folder }
    }

    fn manager(&self) -> Arc<dyn KeyManager> {
        Arc::new(Counting(Arc::clone(&self.files), Arc::clone(&self.asked)))
    }

    async fn connect_with(
        &self,
        manager: Arc<dyn KeyManager>,
        config: EnvelopeConfig,
    ) -> Result<EnvelopeFieldCipher, EnvelopeError> {
        EnvelopeFieldCipher::connect(self.store.clone(), manager, Arc::new(self.clock.clone()), config).await
    }

    async fn connect(&self) -> EnvelopeFieldCipher {
        self.connect_with(self.manager(), config()).await.unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn open_files(folder: &Path, clock: &ManualClock) -> FileKeyManager {
    let config = FileKeyManagerConfig::new(folder.join("keys")).creating([kek()]);
    FileKeyManager::open(&config, Arc::new(clock.clone())).unwrap()
}

fn kek() -> KeyName {
    "fields".parse().unwrap()
}

fn config() -> EnvelopeConfig {
    EnvelopeConfig::new(kek()).indexing("personal").indexing("secret")
}

fn id(purpose: &str, version: u32) -> DataKeyId {
    DataKeyId::new(purpose, DataKeyVersion(version))
}

async fn seal(cipher: &EnvelopeFieldCipher, value: &[u8]) -> Ciphertext {
    cipher.seal_batch(&[SealRequest { field: FIELD, row: ROW, value }]).await.unwrap().remove(0)
}

async fn open_at(
    cipher: &EnvelopeFieldCipher,
    field: FieldRef,
    row: Uuid,
    ciphertext: &Ciphertext,
) -> Result<SecretBytes, FieldCipherError> {
    cipher.open_batch(&[OpenRequest { field, row, ciphertext }]).await?.remove(0)
}

async fn open(cipher: &EnvelopeFieldCipher, sealed: &Ciphertext) -> Result<SecretBytes, FieldCipherError> {
    open_at(cipher, FIELD, ROW, sealed).await
}

fn assert_undecryptable(opened: Result<SecretBytes, FieldCipherError>) {
    assert!(matches!(opened, Err(FieldCipherError::Undecryptable { .. })), "{opened:?}");
}

fn version_of(sealed: &Ciphertext) -> u32 {
    sealed_version(&sealed.0).unwrap().0
}

async fn fixture() -> Option<FieldCipherFixture> {
    let world = World::new();
    let cipher = world.connect().await;
    // Connected while the service was there, and its keys have been wiped since.
    let outage = Faulty::new(world.manager());
    let config = config().keeping_unwrapped_for(Duration::ZERO);
    let away = Arc::new(outage);
    let unreachable = world.connect_with(away.clone(), config).await.unwrap();
    away.plan(vec![Fault::Fail; 1000]);
    let asked = Arc::clone(&world.asked);
    let subject = Subject::real_time(Arc::new(cipher) as Arc<dyn FieldCipher>).keeping(world);
    let fixture = FieldCipherFixture::new(subject, ["personal", "secret"])
        .counting(move || asked.load(Ordering::SeqCst))
        .with_unreachable(Arc::new(unreachable));
    Some(fixture)
}

mod contract {
    pganalytics_core::field_cipher_contract!(super::fixture());
}

#[tokio::test]
async fn moved_value_is_refused() {
    let world = World::new();
    let cipher = world.connect().await;
    let sealed = seal(&cipher, VALUE).await;
    let elsewhere = [
        (FieldRef { table: "teams", ..FIELD }, ROW),
        (FieldRef { column: "mail", ..FIELD }, ROW),
        (FieldRef { purpose: "secret", ..FIELD }, ROW),
        (FieldRef { table: "user", column: "sphone", ..FIELD }, ROW),
        (FIELD, Uuid::from_u128(8)),
    ];
    for (field, row) in elsewhere {
        assert_undecryptable(open_at(&cipher, field, row, &sealed).await);
    }
    assert_eq!(open(&cipher, &sealed).await.unwrap().expose(), VALUE);
}

#[tokio::test]
async fn wrong_key_is_refused_at_start() {
    let world = World::new();
    let sealed = seal(&world.connect().await, VALUE).await;
    let before = world.store.list().await.unwrap();

    let other = tempfile::tempdir().unwrap();
    let wrong = Arc::new(open_files(other.path(), &world.clock));
    let error = world.connect_with(wrong, config()).await.unwrap_err();
    assert!(matches!(&error, EnvelopeError::WrongKey { id: wrong, key, .. }
        if *wrong == id("personal", 1) && *key == kek()));
    let message = error.to_string();
    assert!(message.contains("personal version 1") && message.contains("`fields`"), "{message}");
    assert!(message.contains("give the server the key"), "{message}");

    let away = Faulty::new(world.manager());
    away.plan([Fault::Fail]);
    let error = world.connect_with(Arc::new(away), config()).await.unwrap_err();
    assert!(matches!(error, EnvelopeError::KeyServiceUnavailable { .. }), "an outage is no verdict: {error}");

    assert_eq!(world.store.list().await.unwrap(), before, "nothing was made or changed");
    assert_eq!(open(&world.connect().await, &sealed).await.unwrap().expose(), VALUE);
}

#[tokio::test]
async fn the_layout_is_as_documented() {
    let world = World::new();
    let cipher = world.connect().await;
    for value in [VALUE, b""] {
        let sealed = seal(&cipher, value).await;
        assert_eq!(sealed.0.len(), value.len() + OVERHEAD_BYTES);
        assert_eq!(sealed.0[..5], [1, 0, 0, 0, 1]);
    }
    assert_eq!(OVERHEAD_BYTES, 1 + 4 + 24 + 16 + 32);
}

#[tokio::test]
async fn no_two_values_have_the_same_nonce() {
    let cipher = World::new().connect().await;
    let requests = [SealRequest { field: FIELD, row: ROW, value: VALUE }; 100];
    let mut batches = Vec::new();
    for _ in 0..10 {
        batches.push(cipher.seal_batch(&requests).await.unwrap());
    }
    let nonces: BTreeSet<&[u8]> = batches.iter().flatten().map(|sealed| &sealed.0[5..29]).collect();
    assert_eq!(nonces.len(), 1000);
    let prefixes: BTreeSet<&[u8]> = nonces.iter().map(|nonce| &nonce[..12]).collect();
    assert_eq!(prefixes.len(), 10);
}

#[tokio::test]
async fn values_of_several_batches_are_opened_together() {
    let cipher = World::new().connect().await;
    let requests = [SealRequest { field: FIELD, row: ROW, value: VALUE }; 3];
    let first = cipher.seal_batch(&requests).await.unwrap();
    cipher.data_keys().rotate(FIELD.purpose).await.unwrap();
    let second = cipher.seal_batch(&requests).await.unwrap();
    // The second key with the first half of a nonce that belongs to the first one.
    let mixed = [&second[0].0[..5], &first[0].0[5..]].concat();
    let mixed = Ciphertext(Bytes::from(mixed));
    let all = [&first[0], &second[0], &first[1], &first[2], &mixed, &second[1], &second[2]];
    let to_open = all.map(|ciphertext| OpenRequest { field: FIELD, row: ROW, ciphertext });
    let opened = cipher.open_batch(&to_open).await.unwrap();
    for (opened, sealed) in opened.into_iter().zip(all) {
        if *sealed == mixed {
            assert_undecryptable(opened);
        } else {
            assert_eq!(opened.unwrap().expose(), VALUE);
        }
    }
}

#[tokio::test]
async fn servers_that_start_together_make_one_key_a_purpose() {
    let world = Arc::new(World::new());
    let starts = (0..8).map(|_| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.connect().await })
    });
    let ciphers: Vec<EnvelopeFieldCipher> =
        futures_of(starts.collect()).await.into_iter().map(Result::unwrap).collect();
    let listed = world.store.list().await.unwrap();
    let ids: Vec<DataKeyId> = listed.into_iter().map(|key| key.id).collect();
    let expected = ["personal", "personal.index", "secret", "secret.index"].map(|purpose| id(purpose, 1));
    assert_eq!(ids, expected);
    let sealed = seal(&ciphers[0], VALUE).await;
    for cipher in &ciphers {
        assert_eq!(open(cipher, &sealed).await.unwrap().expose(), VALUE);
    }
}

async fn futures_of<T>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<Result<T, tokio::task::JoinError>> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await);
    }
    results
}

#[tokio::test]
async fn a_rotated_key_seals_and_the_old_one_still_opens() {
    let world = World::new();
    let (ours, theirs) = (world.connect().await, world.connect().await);
    let old = seal(&ours, VALUE).await;
    let index = ours.blind_indexes(&FIELD, VALUE).await.unwrap();
    assert_eq!(ours.data_keys().rotate("personal").await.unwrap(), Some(DataKeyVersion(2)));
    let new = seal(&ours, VALUE).await;
    assert_eq!((version_of(&old), version_of(&new)), (1, 2));
    let mark = ours.marks("personal").await.unwrap().sealed;
    assert!(new.0.starts_with(&mark) && !old.0.starts_with(&mark), "{mark:?}");
    for sealed in [&old, &new] {
        assert_eq!(open(&ours, sealed).await.unwrap().expose(), VALUE);
        assert_eq!(
            open(&theirs, sealed).await.unwrap().expose(),
            VALUE,
            "the other server finds the key out"
        );
    }
    assert_eq!(ours.blind_indexes(&FIELD, VALUE).await.unwrap(), index, "indexes have keys of their own");

    let error = ours.data_keys().rotate("undeclared").await.unwrap_err();
    assert!(matches!(error, EnvelopeError::UnknownPurpose { .. }));
}

#[tokio::test]
async fn of_two_rotations_at_once_one_wins() {
    let world = World::new();
    let ciphers = [world.connect().await, world.connect().await];
    let rotations = ciphers.iter().map(|cipher| {
        let keys = cipher.data_keys();
        tokio::spawn(async move { keys.rotate("secret").await.unwrap() })
    });
    let done = futures_of(rotations.collect()).await.into_iter().map(Result::unwrap);
    let mut done: Vec<Option<DataKeyVersion>> = done.collect();
    done.sort();
    let listed = world.store.list().await.unwrap();
    let newest = listed.iter().rfind(|key| key.id.purpose == "secret").unwrap().id.version;
    // Either they met, or the second one came after the first.
    assert!(
        (done == [None, Some(DataKeyVersion(2))] && newest == DataKeyVersion(2))
            || (done == [Some(DataKeyVersion(2)), Some(DataKeyVersion(3))] && newest == DataKeyVersion(3)),
        "{done:?}"
    );
}

#[tokio::test]
async fn a_retired_key_opens_nothing_and_is_destroyed_after_its_retention() {
    let world = World::new();
    let cipher = world.connect().await;
    let keys = cipher.data_keys();
    let old = seal(&cipher, VALUE).await;
    let first = id("personal", 1);
    assert!(!keys.retire(&first).await.unwrap(), "it is active");
    keys.rotate("personal").await.unwrap();
    let new = seal(&cipher, VALUE).await;
    assert_eq!(keys.destroy(&first, Duration::ZERO).await.unwrap(), Destruction::NotRetired);
    assert!(keys.retire(&first).await.unwrap());
    assert_undecryptable(open(&cipher, &old).await);
    assert_undecryptable(open(&world.connect().await, &old).await);
    assert_eq!(open(&cipher, &new).await.unwrap().expose(), VALUE);

    let day = Duration::from_secs(86_400);
    let until = world.clock.now() + day;
    assert_eq!(keys.destroy(&first, day).await.unwrap(), Destruction::TooEarly { until });
    world.clock.advance(day);
    assert_eq!(keys.destroy(&first, day).await.unwrap(), Destruction::Done);
    let status = keys.status().await.unwrap();
    let destroyed = status.keys.iter().find(|key| key.id == first).unwrap();
    assert!(matches!(destroyed.state, DataKeyState::Destroyed { .. }) && destroyed.wrapping.is_none());
    assert_undecryptable(open(&cipher, &old).await);
}

#[tokio::test]
async fn keys_below_the_pinned_version_are_refused() {
    let world = World::new();
    let cipher = world.connect().await;
    let old = seal(&cipher, VALUE).await;
    let pinned = PurposeConfig::default().from_version(DataKeyVersion(2));
    let config = || EnvelopeConfig::new(kek()).with_purpose("personal", pinned.clone());
    let error = world.connect_with(world.manager(), config()).await.unwrap_err();
    assert!(matches!(error, EnvelopeError::BelowMinimum { newest: Some(DataKeyVersion(1)), .. }), "{error}");

    cipher.data_keys().rotate("personal").await.unwrap();
    let strict = world.connect_with(world.manager(), config()).await.unwrap();
    assert_undecryptable(open(&strict, &old).await);
    let new = seal(&strict, VALUE).await;
    assert_eq!(open(&strict, &new).await.unwrap().expose(), VALUE);

    let empty = World::new();
    let error = empty.connect_with(empty.manager(), config()).await.unwrap_err();
    assert!(matches!(error, EnvelopeError::BelowMinimum { newest: None, .. }), "{error}");
    assert_eq!(empty.store.list().await.unwrap(), [], "no key was made in place of those that are missing");
}

#[tokio::test]
async fn rewrapping_follows_the_key_encryption_key() {
    let world = World::new();
    let cipher = world.connect().await;
    let sealed = seal(&cipher, VALUE).await;
    let before = world.store.list().await.unwrap();
    world.files.rotate(&kek()).await.unwrap();
    assert_eq!(cipher.data_keys().rewrap_all().await.unwrap(), 4);
    let status = cipher.data_keys().status().await.unwrap();
    assert_eq!(status.current, Some(KeyVersion(2)));
    for (old, new) in before.iter().zip(&status.keys) {
        let (old, new) = (old.wrapping.as_ref().unwrap(), new.wrapping.as_ref().unwrap());
        assert_ne!(old.wrapped.blob, new.wrapped.blob);
        assert_eq!(new.wrapped.version, Some(KeyVersion(2)));
    }
    assert_eq!(open(&world.connect().await, &sealed).await.unwrap().expose(), VALUE);
}

#[cfg(feature = "recovery")]
#[tokio::test]
async fn data_keys_can_be_recovered_without_the_key_service() {
    use pganalytics_crypto::recovery::RecoveryIdentity;

    let world = World::new();
    let early = world.connect().await;
    let sealed = seal(&early, VALUE).await;
    assert!(
        world.store.list().await.unwrap().iter().all(|key| key.wrapping.as_ref().unwrap().recovery.is_none())
    );

    let identity = RecoveryIdentity::generate();
    let config = config().recoverable_by(Arc::new(identity.to_recipient()));
    let cipher = world.connect_with(world.manager(), config).await.unwrap();
    cipher.data_keys().rotate("personal").await.unwrap();
    assert_eq!(cipher.data_keys().rewrap_all().await.unwrap(), 5);

    // The key service is gone for good: another one takes over what the recovery key opens.
    let other = World::new();
    for stored in world.store.list().await.unwrap() {
        let recovery = stored.wrapping.unwrap().recovery.unwrap();
        let context = KeyContext(format!("data-key/{}/{}", stored.id.purpose, stored.id.version.0));
        let data_key = identity.unwrap(&context, &recovery).unwrap();
        let wrapped = other.files.wrap(&kek(), &context, &data_key).await.unwrap();
        let new = NewDataKey::new(stored.id, DataKeyWrapping::new(kek(), wrapped), stored.created_at);
        assert!(other.store.add(&new).await.unwrap());
    }
    assert_eq!(open(&other.connect().await, &sealed).await.unwrap().expose(), VALUE);
}

#[tokio::test]
async fn an_unwrapped_key_is_wiped_when_its_time_is_over() {
    let world = World::new();
    let cipher = world.connect().await;
    let keys = cipher.data_keys();
    assert_eq!(keys.status().await.unwrap().unwrapped, 4);
    world.clock.advance(Duration::from_secs(15 * 60 - 1));
    let sealed = seal(&cipher, VALUE).await;
    world.clock.advance(Duration::from_secs(2));
    let deadline = Instant::now() + Duration::from_secs(20);
    while keys.status().await.unwrap().unwrapped > 0 {
        assert!(Instant::now() < deadline, "unwrapped keys still lie in memory");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = world.asked();
    assert_eq!(open(&cipher, &sealed).await.unwrap().expose(), VALUE);
    assert_eq!(world.asked() - before, 1, "it is unwrapped anew");
}

#[tokio::test]
async fn those_who_wait_for_a_key_share_one_call() {
    let world = World::new();
    let cipher = world.connect().await;
    let sealed = Arc::new(seal(&cipher, VALUE).await);
    world.clock.advance(Duration::from_secs(3600));
    let before = world.asked();
    let opening = (0..32).map(|_| {
        let (cipher, sealed) = (cipher.clone(), Arc::clone(&sealed));
        tokio::spawn(async move { open(&cipher, &sealed).await.unwrap() })
    });
    for value in futures_of(opening.collect()).await {
        assert_eq!(value.unwrap().expose(), VALUE);
    }
    assert_eq!(world.asked() - before, 1);
}

#[tokio::test]
async fn an_outage_outlasts_no_key_that_is_in_memory() {
    let world = World::new();
    let service = Arc::new(Faulty::new(world.manager()));
    let cipher = world.connect_with(service.clone(), config()).await.unwrap();
    let sealed = seal(&cipher, VALUE).await;
    service.plan([Fault::Fail]);
    assert_eq!(open(&cipher, &sealed).await.unwrap().expose(), VALUE, "the service is not asked");
    world.clock.advance(Duration::from_secs(3600));
    let opened = open(&cipher, &sealed).await;
    assert!(matches!(opened, Err(FieldCipherError::KeyUnavailable { .. })), "{opened:?}");
    assert_eq!(open(&cipher, &sealed).await.unwrap().expose(), VALUE, "the service is back");
}

#[tokio::test]
async fn indexes_of_two_versions_live_side_by_side() {
    let world = World::new();
    let cipher = world.connect().await;
    let before = cipher.blind_indexes(&FIELD, VALUE).await.unwrap();
    let marks = cipher.marks("personal").await.unwrap();
    cipher.data_keys().rotate("personal.index").await.unwrap();
    let after = cipher.blind_indexes(&FIELD, VALUE).await.unwrap();
    let marks_after = cipher.marks("personal").await.unwrap();
    assert_eq!(marks_after.sealed, marks.sealed, "the key of the values is the same");
    assert!(!before[0].0.starts_with(marks_after.index.as_ref().unwrap()), "{marks_after:?}");
    assert_eq!(index_version(&after[0].0), Some(DataKeyVersion(2)));
    assert_eq!(after[1..], before, "the newest comes first");
    assert_eq!((&after[0].0[..4], &after[1].0[..4]), (&[0, 0, 0, 2][..], &[0, 0, 0, 1][..]));
    assert_eq!(after[0].0.len(), 36);
    assert_ne!(after[0].0[4..], after[1].0[4..]);
}

#[tokio::test]
async fn an_index_follows_the_rule_of_its_column() {
    let world = World::new();
    let rule = IndexRule::new(Normalisation::TrimmedLowercase).truncated_to(8);
    let cipher = world.connect_with(world.manager(), config().with_index(&FIELD, rule)).await.unwrap();
    let index = async |value: &str| -> BlindIndex {
        cipher.blind_indexes(&FIELD, value.as_bytes()).await.unwrap().remove(0)
    };
    let expected = index("ÄNNE@example.org").await;
    assert_eq!(expected.0.len(), 4 + 8);
    assert_eq!(index(" änne@Example.org\n").await, expected);
    assert_ne!(index("anne@example.org").await, expected);
    let other = FieldRef { column: "mail", ..FIELD };
    let exact = cipher.blind_indexes(&other, b"A").await.unwrap();
    assert_ne!(exact, cipher.blind_indexes(&other, b"a").await.unwrap());
}

#[tokio::test]
async fn a_purpose_without_index_keys_has_no_index() {
    let world = World::new();
    let config = EnvelopeConfig::new(kek()).sealing("personal");
    let cipher = world.connect_with(world.manager(), config).await.unwrap();
    let refused = cipher.blind_indexes(&FIELD, VALUE).await;
    assert!(matches!(refused, Err(FieldCipherError::Backend(BackendError { .. }))), "{refused:?}");
    let field = FieldRef { purpose: "secret", ..FIELD };
    let refused = cipher.seal_batch(&[SealRequest { field, row: ROW, value: VALUE }]).await;
    assert!(matches!(refused, Err(FieldCipherError::Backend(BackendError { .. }))), "{refused:?}");
}

#[tokio::test]
async fn nothing_secret_is_printed() {
    let world = World::new();
    let cipher = world.connect().await;
    let printed = format!(
        "{cipher:?} {:?} {:?}",
        cipher.data_keys(),
        SealRequest { field: FIELD, row: ROW, value: VALUE }
    );
    assert!(!printed.contains("1234567") && !printed.contains("Aes256"), "{printed}");
    assert!(world.folder.path().exists());
}

proptest! {
    #[test]
    fn any_value_comes_back(
        values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..12),
        rows in proptest::collection::vec(any::<u128>(), 12),
    ) {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let cipher = World::new().connect().await;
            let place = |index: usize| {
                let purpose = ["personal", "secret"][index % 2];
                (FieldRef { purpose, ..FIELD }, Uuid::from_u128(rows[index]))
            };
            let requests = values.iter().enumerate().map(|(index, value)| {
                let (field, row) = place(index);
                SealRequest { field, row, value }
            });
            let sealed = cipher.seal_batch(&requests.collect::<Vec<_>>()).await.unwrap();
            let requests = sealed.iter().enumerate().map(|(index, ciphertext)| {
                let (field, row) = place(index);
                OpenRequest { field, row, ciphertext }
            });
            let opened = cipher.open_batch(&requests.collect::<Vec<_>>()).await.unwrap();
            let opened: Vec<Vec<u8>> = opened.into_iter().map(|value| value.unwrap().expose().to_vec()).collect();
            assert_eq!(opened, values);
        });
    }

    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), own_version: bool) {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let cipher = World::new().connect().await;
            let header: &[u8] = if own_version { &[1, 0, 0, 0, 1] } else { &[] };
            let garbage = Ciphertext(Bytes::from([header, &bytes].concat()));
            assert_undecryptable(open(&cipher, &garbage).await);
        });
    }
}
