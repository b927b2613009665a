//! Encrypted objects over a target in memory.
#![cfg(feature = "stream")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use pganalytics_core::backup::{
    BackupTarget, BackupTargetError, MemoryBackupTarget, ObjectPath, PUT_MAX_BYTES, PutMode, Sha256Digest,
};
use pganalytics_core::error::{PortError, Retry};
use pganalytics_core::random::os_secret;
use pganalytics_core::testing::{Fault, Faulty, ManualClock, Subject};
use pganalytics_crypto::encrypted_backup_target::{BackupEncryption, EncryptedBackupTarget, HEADER_BYTES};
use pganalytics_crypto::env_key_manager::{EnvKeyManager, EnvKeyManagerConfig};
use pganalytics_crypto::recovery::RecoveryIdentity;
use proptest::prelude::*;

const KIB: usize = 1024;
const ROOM: u64 = 40 * 1024 * 1024;

type Inner = Arc<MemoryBackupTarget>;

fn path(text: &str) -> ObjectPath {
    text.parse().unwrap()
}

fn manager() -> EnvKeyManager {
    let key = STANDARD.encode(os_secret(32).expose());
    let variable = (OsString::from("KEY_BACKUPS_V1"), OsString::from(key));
    EnvKeyManager::new(&EnvKeyManagerConfig::new("KEY", ["backups".parse().unwrap()]), [variable]).unwrap()
}

fn managed(manager: impl pganalytics_core::keys::KeyManager) -> BackupEncryption {
    BackupEncryption::new(Arc::new(manager), "backups".parse().unwrap())
}

fn memory(clock: &ManualClock) -> Inner {
    Arc::new(MemoryBackupTarget::new(Arc::new(clock.clone())))
}

fn encrypted(inner: &Inner, encryption: BackupEncryption) -> EncryptedBackupTarget<Inner> {
    EncryptedBackupTarget::new(Arc::clone(inner), encryption, Arc::new(ManualClock::new()))
}

async fn put(target: &impl BackupTarget, at: &str, bytes: impl Into<Bytes>) {
    target.put(&path(at), bytes.into(), PutMode::Overwrite).await.unwrap();
}

async fn get(target: &impl BackupTarget, at: &str) -> Result<Bytes, BackupTargetError> {
    target.get(&path(at), None).await.map(|bytes| bytes.expect("the object is there"))
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

async fn over_memory() -> Option<Subject<dyn BackupTarget>> {
    let clock = ManualClock::new();
    let inner = MemoryBackupTarget::new(Arc::new(clock.clone())).with_max_bytes(ROOM);
    let encryption = managed(manager()).with_recipient(RecoveryIdentity::generate().to_recipient());
    let target = EncryptedBackupTarget::new(inner, encryption, Arc::new(clock.clone()));
    Some(Subject::manual(Arc::new(target) as Arc<dyn BackupTarget>, clock).with_room_for(ROOM))
}

mod contract {
    pganalytics_core::backup_contract!(super::over_memory());
}

mod contract_without_a_key_manager {
    use super::*;

    async fn recovering() -> Option<Subject<dyn BackupTarget>> {
        let clock = ManualClock::new();
        let inner = MemoryBackupTarget::new(Arc::new(clock.clone())).without_create_only();
        let encryption = BackupEncryption::recovering(RecoveryIdentity::generate());
        let target = EncryptedBackupTarget::new(inner, encryption, Arc::new(clock.clone()));
        Some(Subject::manual(Arc::new(target) as Arc<dyn BackupTarget>, clock))
    }

    pganalytics_core::backup_contract!(recovering());
}

#[tokio::test]
async fn the_inner_target_never_sees_the_content() {
    let inner = memory(&ManualClock::new());
    let target = encrypted(&inner, managed(manager()));
    put(&target, "put", "a text that is easy to recognise").await;
    let mut upload = target.upload(&path("upload"), PutMode::Overwrite).await.unwrap();
    upload.write(Bytes::from("a text that is easy to recognise")).await.unwrap();
    upload.finish().await.unwrap();
    for at in ["put", "upload"] {
        let stored = get(&inner, at).await.unwrap();
        assert!(!stored.windows(8).any(|part| part == b"easy to "));
        assert_eq!(stored.len(), HEADER_BYTES + 32 + 16);
    }
}

#[tokio::test]
async fn the_recovery_identity_alone_restores() {
    let (inner, identity) = (memory(&ManualClock::new()), RecoveryIdentity::generate());
    let target = encrypted(&inner, managed(manager()).with_recipient(identity.to_recipient()));
    let bytes = content(700 * KIB);
    put(&target, "object", bytes.clone()).await;
    let recovering = encrypted(&inner, BackupEncryption::recovering(identity));
    assert_eq!(get(&recovering, "object").await.unwrap(), bytes);
    let part = recovering.get(&path("object"), Some(600_000..600_010)).await.unwrap().unwrap();
    assert_eq!(part, bytes[600_000..600_010]);
}

#[tokio::test]
async fn the_age_library_opens_an_object() {
    let (inner, identity) = (memory(&ManualClock::new()), RecoveryIdentity::generate());
    let target = encrypted(&inner, managed(manager()).with_recipient(identity.to_recipient()));
    let age: age::x25519::Identity = identity.to_text().expose().parse().unwrap();
    for length in [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 300 * KIB] {
        let bytes = content(length);
        put(&target, "object", bytes.clone()).await;
        let stored = get(&inner, "object").await.unwrap();
        let decrypted = age::decrypt(&age, &stored).unwrap();
        assert!(decrypted == bytes, "{length} bytes");
    }
}

#[tokio::test]
async fn other_keys_open_nothing() {
    let inner = memory(&ManualClock::new());
    put(&encrypted(&inner, managed(manager())), "object", "content").await;
    for other in [managed(manager()), BackupEncryption::recovering(RecoveryIdentity::generate())] {
        let error = get(&encrypted(&inner, other), "object").await.unwrap_err();
        assert_eq!(error.retry(), Retry::Never, "{error:?}");
    }
}

#[tokio::test]
async fn every_changed_byte_is_refused() {
    let inner = memory(&ManualClock::new());
    let target = encrypted(&inner, managed(manager()));
    put(&target, "object", "some content").await;
    let stored = get(&inner, "object").await.unwrap();
    for position in 0..stored.len() {
        let mut changed = stored.to_vec();
        changed[position] ^= 1;
        put(&inner, "object", changed).await;
        let error = get(&target, "object").await.expect_err(&format!("byte {position}"));
        assert_eq!(error.retry(), Retry::Never);
    }
    for length in (0..stored.len()).step_by(7).chain([stored.len() - 1]) {
        put(&inner, "object", stored.slice(..length)).await;
        assert!(get(&target, "object").await.is_err(), "cut to {length}");
        assert!(target.get(&path("object"), Some(0..5)).await.is_err(), "a part of {length}");
        assert!(target.checksum(&path("object")).await.is_err());
        target.head(&path("object")).await.unwrap();
    }
    put(&inner, "object", [&stored[..], b"\0"].concat()).await;
    assert!(get(&target, "object").await.is_err());
}

#[tokio::test]
async fn a_large_object_that_was_cut_at_a_chunk_is_refused_at_its_end() {
    let inner = memory(&ManualClock::new());
    let target = encrypted(&inner, managed(manager()));
    put(&target, "object", content(20 * 64 * KIB)).await;
    let stored = get(&inner, "object").await.unwrap();
    put(&inner, "object", stored.slice(..stored.len() - (64 * KIB + 16))).await;
    let end = 19 * 64 * KIB as u64;
    assert_eq!(target.get(&path("object"), Some(0..10)).await.unwrap().unwrap().len(), 10);
    for range in [end - 10..end, end - 10..u64::MAX, end..end + 1] {
        let error = target.get(&path("object"), Some(range.clone())).await.expect_err(&format!("{range:?}"));
        assert_eq!(error.retry(), Retry::Never);
    }
    assert!(target.checksum(&path("object")).await.is_err());
}

#[tokio::test]
async fn a_part_of_a_large_object_is_read_alone() {
    let inner = memory(&ManualClock::new());
    let clock = Arc::new(ManualClock::new());
    let counted = Faulty::new(Arc::clone(&inner));
    let target = EncryptedBackupTarget::new(counted.clone(), managed(manager()), clock);
    let bytes = content(3 * 1024 * KIB + 5);
    put(&target, "object", bytes.clone()).await;
    let all = bytes.len();
    let chunk = 64 * KIB;
    let cases = [
        (0, 1),
        (chunk - 1, chunk + 1),
        (chunk, 2 * chunk),
        (5 * chunk + 7, 9 * chunk),
        (all - 3, all),
        (all - 3, all + 9),
        (0, all),
        (all, all + 1),
        (all + 100, all + 200),
    ];
    for (start, end) in cases {
        let before = counted.calls();
        let part = target.get(&path("object"), Some(start as u64..end as u64)).await.unwrap().unwrap();
        assert!(part == bytes[start.min(all)..end.min(all)], "{start}..{end}");
        assert_eq!(counted.calls() - before, 3, "the head, the header and the chunks");
    }
}

#[tokio::test]
async fn the_largest_put_fits_though_sealing_adds_to_it() {
    let target = encrypted(&memory(&ManualClock::new()), managed(manager()));
    let bytes = Bytes::from(vec![7; PUT_MAX_BYTES]);
    put(&target, "object", bytes.clone()).await;
    assert_eq!(target.head(&path("object")).await.unwrap().unwrap().size, PUT_MAX_BYTES as u64);
    assert_eq!(target.checksum(&path("object")).await.unwrap(), Some(Sha256Digest::of(&bytes)));
    let again = target.put(&path("object"), bytes, PutMode::Create).await.unwrap_err();
    assert!(matches!(again, BackupTargetError::AlreadyExists { .. }), "{again:?}");
}

#[tokio::test]
async fn the_key_manager_is_asked_once_an_hour_for_writing() {
    let (inner, clock) = (memory(&ManualClock::new()), ManualClock::new());
    let counted = Faulty::new(manager());
    let target = EncryptedBackupTarget::new(inner, managed(counted.clone()), Arc::new(clock.clone()));
    for at in ["a", "b", "c"] {
        put(&target, at, at).await;
    }
    assert_eq!(counted.calls(), 1);
    clock.advance(Duration::from_secs(3600));
    put(&target, "d", "d").await;
    assert_eq!(counted.calls(), 2);
    for at in ["a", "b", "c", "d"] {
        assert_eq!(get(&target, at).await.unwrap(), at);
    }
}

#[tokio::test]
async fn an_outage_of_the_key_manager_passes() {
    let inner = memory(&ManualClock::new());
    let away = Faulty::new(manager());
    let target = encrypted(&inner, managed(away.clone()));
    put(&target, "object", "content").await;
    away.plan([Fault::Fail]);
    assert_eq!(get(&target, "object").await.unwrap_err().retry(), Retry::Later);
    assert_eq!(get(&target, "object").await.unwrap(), "content");
    let fresh = encrypted(&inner, managed(away.clone()));
    away.plan([Fault::Fail]);
    let error = fresh.put(&path("other"), Bytes::from("x"), PutMode::Overwrite).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Later);
    assert_eq!(inner.get(&path("other"), None).await.unwrap(), None, "nothing is written in plain text");
}

#[tokio::test]
async fn an_object_that_is_no_age_file_is_refused() {
    let inner = memory(&ManualClock::new());
    let target = encrypted(&inner, managed(manager()));
    for bytes in [Bytes::new(), Bytes::from("plain"), vec![b'x'; 10_000].into(), vec![0; 2_000_000].into()] {
        put(&inner, "plain", bytes).await;
        assert!(get(&target, "plain").await.is_err());
        assert!(target.get(&path("plain"), Some(0..10)).await.is_err());
        assert!(target.checksum(&path("plain")).await.is_err());
    }
}

#[tokio::test]
async fn more_recipients_than_the_header_holds_are_refused() {
    let inner = memory(&ManualClock::new());
    let with = |count: usize| {
        let encryption = BackupEncryption::recovering(RecoveryIdentity::generate());
        let more = RecoveryIdentity::generate().to_recipient();
        encrypted(
            &inner,
            (1..count).fold(encryption, |encryption, _| encryption.with_recipient(more.clone())),
        )
    };
    put(&with(20), "object", "x").await;
    let refused = with(100).put(&path("object"), Bytes::from("x"), PutMode::Overwrite).await.unwrap_err();
    assert_eq!(refused.retry(), Retry::Never);
}

#[test]
fn keys_are_never_printed() {
    let identity = RecoveryIdentity::generate();
    let secret = identity.to_text();
    let target = encrypted(&memory(&ManualClock::new()), BackupEncryption::recovering(identity));
    assert!(!format!("{target:?}").contains(&secret.expose()[16..30]));
}

#[tokio::test]
async fn a_range_may_end_within_the_last_chunk() {
    let target = encrypted(&memory(&ManualClock::new()), managed(manager()));
    // Long enough to be read in parts.
    let bytes = content(9 * 64 * 1024 + 7);
    target.put(&path("object"), Bytes::from(bytes.clone()), PutMode::Create).await.unwrap();
    let size = bytes.len() as u64;
    for (start, end) in
        [(0, size - 1), (size - 2, size - 1), (size - 7, size), (size - 8, size - 6), (size, size + 1)]
    {
        let part = target.get(&path("object"), Some(start..end)).await.unwrap().unwrap();
        let within = |at: u64| usize::try_from(at).unwrap().min(bytes.len());
        assert!(part == bytes[within(start)..within(end)], "{start}..{end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_writes_and_ranges_agree(
        writes in proptest::collection::vec(0_usize..200_000, 0..6),
        ranges in proptest::collection::vec((0_u64..1_000_000, 0_u64..1_000_000), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let target = encrypted(&memory(&ManualClock::new()), managed(manager()));
        runtime.block_on(async {
            let bytes = content(writes.iter().sum());
            let mut upload = target.upload(&path("object"), PutMode::Create).await.unwrap();
            let mut rest = &bytes[..];
            for length in &writes {
                let (next, after) = rest.split_at(*length);
                upload.write(Bytes::copy_from_slice(next)).await.unwrap();
                rest = after;
            }
            upload.finish().await.unwrap();
            assert!(get(&target, "object").await.unwrap() == bytes);
            let size = target.head(&path("object")).await.unwrap().unwrap().size;
            assert_eq!(size, bytes.len() as u64);
            for (start, end) in ranges {
                let part = target.get(&path("object"), Some(start..end)).await.unwrap().unwrap();
                let within = |at: u64| usize::try_from(at).unwrap().min(bytes.len());
                let expected = if start < end { &bytes[within(start)..within(end)] } else { &[] };
                assert!(part == expected, "{start}..{end}");
            }
        });
    }
}
