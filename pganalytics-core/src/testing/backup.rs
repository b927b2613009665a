//! The contract of [`BackupTarget`], a function for each clause.
//!
//! The subject of a target that can be filled says so with [`Subject::with_room_for`], at least 16 MiB.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::backup::{
    BackupTarget, BackupTargetError, ObjectInfo, ObjectPath, PUT_MAX_BYTES, PutMode, Sha256Digest, Upload,
};
use crate::testing::Subject;
use crate::testing::support::{skip, together};

/// Runs the contract of `BackupTarget` on the adapter that the expression yields (`async` → `Option<Subject<dyn BackupTarget>>`).
#[macro_export]
macro_rules! backup_contract {
    ($subject:expr) => {
        $crate::contract_tests!(
            $crate::testing::backup,
            $subject,
            [
                a_put_object_is_read_back,
                an_absent_object_is_none,
                a_put_is_atomic,
                create_has_one_winner,
                overwriting_replaces_the_whole_object,
                a_range_is_read,
                a_list_is_complete_and_ordered,
                a_deleted_object_is_gone,
                an_upload_is_visible_when_finished,
                an_aborted_upload_leaves_nothing,
                an_upload_can_be_create_only,
                the_checksum_is_of_the_stored_bytes,
                an_oversized_put_is_refused,
                a_full_target_says_so,
            ]
        );
    };
}

type BackupSubject = Subject<dyn BackupTarget>;

const MIB: usize = 1024 * 1024;

fn path(text: &str) -> ObjectPath {
    text.parse().unwrap()
}

async fn put(subject: &BackupSubject, at: &str, bytes: impl Into<Bytes>) {
    subject.port.put(&path(at), bytes.into(), PutMode::Overwrite).await.unwrap();
}

async fn get(subject: &BackupSubject, at: &str) -> Option<Bytes> {
    subject.port.get(&path(at), None).await.unwrap()
}

async fn upload(subject: &BackupSubject, at: &str, mode: PutMode) -> Box<dyn Upload> {
    subject.port.upload(&path(at), mode).await.unwrap()
}

async fn assert_absent(subject: &BackupSubject, at: &str) {
    assert_eq!(subject.port.head(&path(at)).await.unwrap(), None);
    assert_eq!(get(subject, at).await, None);
    assert_eq!(subject.port.get(&path(at), Some(0..1)).await.unwrap(), None);
    assert_eq!(subject.port.checksum(&path(at)).await.unwrap(), None);
    let listed = subject.port.list(None, None, 1000).await.unwrap();
    assert!(listed.iter().all(|object| object.path != path(at)), "{listed:?}");
}

async fn assert_bytes(subject: &BackupSubject, at: &str, bytes: &[u8]) {
    assert!(get(subject, at).await.is_some_and(|stored| stored == bytes), "`{at}` has other bytes");
    let info = subject.port.head(&path(at)).await.unwrap().expect("the object is there");
    assert_eq!((info.path, info.size), (path(at), bytes.len() as u64));
}

async fn assert_stored(subject: &BackupSubject, at: &str, bytes: &[u8]) {
    assert_bytes(subject, at, bytes).await;
    let checksum = subject.port.checksum(&path(at)).await.unwrap();
    assert_eq!(checksum, Some(Sha256Digest::of(bytes)));
}

/// Clause 1.
pub async fn a_put_object_is_read_back(subject: BackupSubject) {
    let all: Bytes = (0..=255).collect::<Vec<u8>>().into();
    for (at, bytes) in [
        ("empty", Bytes::new()),
        ("wal/000000010000000000000001.zst", all),
        ("deep/er/a=b/c+d/E_F-g.h", Bytes::from("text")),
    ] {
        put(&subject, at, bytes.clone()).await;
        assert_stored(&subject, at, &bytes).await;
    }
    let longest = [["s"; 200].concat(), ["t"; 200].concat(), ["u"; 200].concat()].join("/");
    put(&subject, &longest, "long").await;
    assert_stored(&subject, &longest, b"long").await;
}

/// Clause 2.
pub async fn an_absent_object_is_none(subject: BackupSubject) {
    assert_absent(&subject, "never/put").await;
    put(&subject, "folder/object", "x").await;
    assert_absent(&subject, "folder/obj").await;
    // A folder is no object.
    assert_eq!(subject.port.head(&path("folder")).await.unwrap(), None);
    assert_eq!(get(&subject, "folder").await, None);
}

/// Clause 3. What a kill leaves behind only the adapter's own test can see.
pub async fn a_put_is_atomic(subject: BackupSubject) {
    let versions = [1, 2, 3].map(|number: u8| Bytes::from(vec![number; usize::from(number) * 20_000]));
    let checksums = versions.each_ref().map(|version| Sha256Digest::of(version));
    put(&subject, "object", versions[0].clone()).await;
    let writes = async |first: usize| {
        for round in 0..10 {
            put(&subject, "object", versions[(first + round) % 3].clone()).await;
        }
    };
    let reads = async || {
        for _ in 0..30 {
            let bytes = get(&subject, "object").await.expect("the object is always there");
            assert!(versions.contains(&bytes), "a reader sees {} bytes of a mixture", bytes.len());
            let checksum = subject.port.checksum(&path("object")).await.unwrap();
            assert!(checksum.is_some_and(|checksum| checksums.contains(&checksum)));
        }
    };
    futures::join!(writes(0), writes(1), reads(), reads());
    assert!(versions.contains(&get(&subject, "object").await.unwrap()));
}

/// Clause 4.
pub async fn create_has_one_winner(subject: BackupSubject) {
    if !subject.port.capabilities().create_only {
        let refused = subject.port.put(&path("object"), Bytes::new(), PutMode::Create).await;
        assert!(matches!(refused, Err(BackupTargetError::Unsupported { .. })), "{refused:?}");
        return assert_absent(&subject, "object").await;
    }
    let puts = (0..16_u8).map(|number| {
        let target = Arc::clone(&subject.port);
        let bytes = Bytes::from(vec![number; 1000]);
        async move { (bytes.clone(), target.put(&path("object"), bytes, PutMode::Create).await) }
    });
    let mut winners = Vec::new();
    for (bytes, result) in together(puts).await {
        match result {
            Ok(()) => winners.push(bytes),
            Err(BackupTargetError::AlreadyExists { path: named }) => assert_eq!(named, path("object")),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_stored(&subject, "object", &winners[0]).await;
    assert!(subject.port.delete(&path("object")).await.unwrap());
    subject.port.put(&path("object"), Bytes::from("again"), PutMode::Create).await.unwrap();
    assert_stored(&subject, "object", b"again").await;
}

/// Clause 5.
pub async fn overwriting_replaces_the_whole_object(subject: BackupSubject) {
    for text in ["a long first object", "short", "", "longer again"] {
        put(&subject, "object", text).await;
        assert_stored(&subject, "object", text.as_bytes()).await;
    }
}

/// Clause 6.
pub async fn a_range_is_read(subject: BackupSubject) {
    put(&subject, "object", "0123456789").await;
    put(&subject, "empty", "").await;
    let read = async |at: &str, start: u64, end: u64| {
        subject.port.get(&path(at), Some(Range { start, end })).await.unwrap().expect("the object is there")
    };
    for (start, end, expected) in [
        (0, 10, "0123456789"),
        (0, 1, "0"),
        (3, 6, "345"),
        (9, 10, "9"),
        (7, 1000, "789"),
        (0, u64::MAX, "0123456789"),
        (10, 20, ""),
        (11, u64::MAX, ""),
        (4, 4, ""),
        (6, 3, ""),
    ] {
        assert_eq!(read("object", start, end).await, expected, "{start}..{end}");
    }
    assert_eq!(read("empty", 0, 1).await, "");
    assert_eq!(subject.port.get(&path("absent"), Some(0..1)).await.unwrap(), None);
}

/// Clause 7.
pub async fn a_list_is_complete_and_ordered(subject: BackupSubject) {
    let expected = ["a+b", "a-b/c", "a.b", "a/B", "a/b/c", "a/b0", "a/c", "a0", "a=b", "ab/c"];
    for at in expected.iter().rev() {
        put(&subject, at, *at).await;
    }
    let list = async |prefix: Option<&str>, after: Option<&str>, limit: usize| {
        let (prefix, after) = (prefix.map(path), after.map(path));
        let objects = subject.port.list(prefix.as_ref(), after.as_ref(), limit).await.unwrap();
        assert!(objects.iter().all(|object| object.size == object.path.as_str().len() as u64));
        objects.into_iter().map(|ObjectInfo { path, .. }| path.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(list(None, None, 1000).await, expected);
    assert_eq!(list(Some("a"), None, 1000).await, ["a/B", "a/b/c", "a/b0", "a/c"]);
    assert_eq!(list(Some("a/b"), None, 1000).await, ["a/b/c"]);
    assert_eq!(list(Some("a/b0"), None, 1000).await, [""; 0], "an object is not under itself");
    assert_eq!(list(Some("absent"), None, 1000).await, [""; 0]);
    assert_eq!(list(None, None, 0).await, [""; 0]);
    assert_eq!(list(None, Some("a/b"), 3).await, ["a/b/c", "a/b0", "a/c"]);
    assert_eq!(list(Some("a"), Some("a/b/c"), 1).await, ["a/b0"]);
    assert_eq!(list(Some("a"), Some("a+"), 1).await, ["a/B"], "from before the prefix");
    assert_eq!(list(Some("a"), Some("a0"), 10).await, [""; 0], "from behind the prefix");
    assert_eq!(list(None, Some("zzz"), 10).await, [""; 0]);
    for limit in [1, 3] {
        let mut paged: Vec<String> = Vec::new();
        loop {
            let page = list(None, paged.last().map(String::as_str), limit).await;
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, expected, "in pages of {limit}");
    }
}

/// Clause 8.
pub async fn a_deleted_object_is_gone(subject: BackupSubject) {
    assert!(!subject.port.delete(&path("a/b")).await.unwrap());
    put(&subject, "a/b", "x").await;
    put(&subject, "a/c", "y").await;
    assert!(subject.port.delete(&path("a/b")).await.unwrap());
    assert_absent(&subject, "a/b").await;
    assert!(!subject.port.delete(&path("a/b")).await.unwrap());
    assert_stored(&subject, "a/c", b"y").await;
}

/// Clause 9.
pub async fn an_upload_is_visible_when_finished(subject: BackupSubject) {
    let parts = [1, 2, 3].map(|number| Bytes::from(vec![number; 2 * MIB + usize::from(number)]));
    let mut writing = upload(&subject, "object", PutMode::Overwrite).await;
    for part in &parts {
        writing.write(part.clone()).await.unwrap();
        writing.write(Bytes::new()).await.unwrap();
        assert_absent(&subject, "object").await;
    }
    writing.finish().await.unwrap();
    assert_bytes(&subject, "object", &parts.concat()).await;

    let mut writing = upload(&subject, "object", PutMode::Overwrite).await;
    writing.write(Bytes::from("short")).await.unwrap();
    assert_bytes(&subject, "object", &parts.concat()).await;
    writing.finish().await.unwrap();
    assert_stored(&subject, "object", b"short").await;

    upload(&subject, "empty", PutMode::Overwrite).await.finish().await.unwrap();
    assert_stored(&subject, "empty", b"").await;
}

/// Clause 10.
pub async fn an_aborted_upload_leaves_nothing(subject: BackupSubject) {
    put(&subject, "former", "former").await;
    for at in ["object", "former"] {
        let mut aborted = upload(&subject, at, PutMode::Overwrite).await;
        aborted.write(vec![1; MIB].into()).await.unwrap();
        aborted.abort().await.unwrap();
        let mut dropped = upload(&subject, at, PutMode::Overwrite).await;
        dropped.write(vec![2; MIB].into()).await.unwrap();
        drop(dropped);
    }
    assert_absent(&subject, "object").await;
    assert_stored(&subject, "former", b"former").await;
    let mut again = upload(&subject, "object", PutMode::Overwrite).await;
    again.write(Bytes::from("again")).await.unwrap();
    again.finish().await.unwrap();
    assert_stored(&subject, "object", b"again").await;
}

/// Clause 11.
pub async fn an_upload_can_be_create_only(subject: BackupSubject) {
    if !subject.port.capabilities().create_only {
        let refused = subject.port.upload(&path("object"), PutMode::Create).await.map(drop);
        assert!(matches!(refused, Err(BackupTargetError::Unsupported { .. })), "{refused:?}");
        return;
    }
    let mut first = upload(&subject, "object", PutMode::Create).await;
    let mut second = upload(&subject, "object", PutMode::Create).await;
    first.write(Bytes::from("first")).await.unwrap();
    second.write(Bytes::from("second")).await.unwrap();
    second.finish().await.unwrap();
    let refused = first.finish().await;
    assert!(matches!(refused, Err(BackupTargetError::AlreadyExists { .. })), "{refused:?}");
    assert_stored(&subject, "object", b"second").await;
}

/// Clause 12.
pub async fn the_checksum_is_of_the_stored_bytes(subject: BackupSubject) {
    // FIPS 180-2, appendix B.1.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    put(&subject, "abc", "abc").await;
    let checksum = subject.port.checksum(&path("abc")).await.unwrap().unwrap();
    assert_eq!(hex::encode(checksum.0), abc);
    let large = Bytes::from(vec![7; 6 * MIB + 1]);
    let mut writing = upload(&subject, "large", PutMode::Overwrite).await;
    for part in large.chunks(1_000_000) {
        writing.write(Bytes::copy_from_slice(part)).await.unwrap();
    }
    writing.finish().await.unwrap();
    let checksum = subject.port.checksum(&path("large")).await.unwrap();
    assert_eq!(checksum, Some(Sha256Digest::of(&large)));
}

/// Clause 13.
pub async fn an_oversized_put_is_refused(subject: BackupSubject) {
    put(&subject, "object", "former").await;
    let refused =
        subject.port.put(&path("object"), vec![0; PUT_MAX_BYTES + 1].into(), PutMode::Overwrite).await;
    assert!(
        matches!(refused, Err(BackupTargetError::TooLarge { size, limit, .. }) if size > limit),
        "{refused:?}"
    );
    assert_stored(&subject, "object", b"former").await;
}

/// Clause 14.
pub async fn a_full_target_says_so(subject: BackupSubject) {
    let Some(room) = subject.room() else {
        return skip("a_full_target_says_so", "it is not known how much fills the target");
    };
    let room = usize::try_from(room).unwrap();
    put(&subject, "object", "former").await;
    if room < PUT_MAX_BYTES {
        let refused = subject.port.put(&path("object"), vec![1; room + 1].into(), PutMode::Overwrite).await;
        assert!(matches!(refused, Err(BackupTargetError::Full { .. })), "{refused:?}");
        assert_stored(&subject, "object", b"former").await;
    }
    let refused = overfill(upload(&subject, "object", PutMode::Overwrite).await, room).await;
    assert!(matches!(refused, Err(BackupTargetError::Full { .. })), "{refused:?}");
    assert_stored(&subject, "object", b"former").await;
    put(&subject, "small", "there is room for little things").await;
}

async fn overfill(mut upload: Box<dyn Upload>, room: usize) -> Result<(), BackupTargetError> {
    for _ in 0..=room / MIB {
        upload.write(vec![1; MIB].into()).await?;
    }
    upload.finish().await
}
