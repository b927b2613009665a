//! The contract of [`UserDirectory`], a function for each clause.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;

use crate::directory::{DirectoryError, DirectoryScan, ScanStep, UserDirectory, Watermark};
use crate::testing::support::skip;

/// Runs the contract of `UserDirectory` on the adapter that the expression yields (`async` → `Option<impl
/// UserDirectoryFixture>`).
#[macro_export]
macro_rules! user_directory_contract {
    ($fixture:expr) => {
        $crate::contract_tests!(
            $crate::testing::user_directory,
            $fixture,
            [
                a_full_scan_yields_every_entry_once,
                a_scan_ends_complete_or_in_an_error,
                an_incremental_scan_yields_what_changed,
                an_expired_watermark_is_refused,
                an_entry_keeps_its_subject,
                a_finished_scan_stays_finished,
                an_empty_directory_is_complete,
            ]
        );
    };
}

const ENTRIES: usize = 25;

/// A directory that is empty at first, and what can be done to it by other means than the port. Let its pages have ten entries
/// or so: suites add 25.
#[async_trait]
pub trait UserDirectoryFixture: Send + Sync + 'static {
    /// The adapter under test.
    fn directory(&self) -> Arc<dyn UserDirectory>;

    /// Adds a user; yields the stable id that the directory gave it.
    async fn add(&self, username: &str) -> String;

    /// Gives the user of that id another name, or moves it.
    async fn rename(&self, subject: &str, username: &str);

    /// Removes the user of that id.
    async fn remove(&self, subject: &str);

    /// Makes further scans stop short of 25 entries, as a size limit or a cut connection does. `false` where that cannot be
    /// done, which skips clause 2.
    async fn truncate(&self) -> bool;

    /// Makes the directory forget the watermarks that it gave. `false` where that cannot be done: clause 4 then tries one
    /// that was never given alone.
    async fn expire_watermarks(&self) -> bool;
}

/// What a scan said.
#[derive(Debug, Default)]
struct Scanned {
    usernames: BTreeMap<String, String>,
    entries: u64,
    removed: BTreeSet<String>,
    watermark: Option<Watermark>,
}

/// Reads a scan to its end; the last word on an entry counts.
async fn read(scan: &mut dyn DirectoryScan) -> Result<Scanned, DirectoryError> {
    let mut scanned = Scanned::default();
    loop {
        match scan.next().await? {
            ScanStep::Page(page) => {
                scanned.entries += page.len() as u64;
                for entry in page {
                    scanned.removed.remove(&entry.subject);
                    scanned.usernames.insert(entry.subject, entry.username);
                }
            }
            ScanStep::Removed(subjects) => {
                scanned.usernames.retain(|subject, _| !subjects.contains(subject));
                scanned.removed.extend(subjects);
            }
            ScanStep::Complete { count, watermark } => {
                assert_eq!(count, scanned.entries);
                scanned.watermark = watermark;
                return Ok(scanned);
            }
        }
    }
}

async fn scan(
    fixture: &impl UserDirectoryFixture,
    since: Option<&Watermark>,
) -> Result<Scanned, DirectoryError> {
    read(&mut *fixture.directory().scan(since).await?).await
}

async fn full_scan(fixture: &impl UserDirectoryFixture) -> Scanned {
    scan(fixture, None).await.expect("the directory can be read")
}

async fn add_many(fixture: &impl UserDirectoryFixture) -> BTreeMap<String, String> {
    let mut added = BTreeMap::new();
    for number in 0..ENTRIES {
        let username = format!("user-{number:02}");
        added.insert(fixture.add(&username).await, username);
    }
    assert_eq!(added.len(), ENTRIES, "every user has an id of its own");
    added
}

async fn assert_finished(scan: &mut dyn DirectoryScan) {
    for _ in 0..2 {
        let step = scan.next().await;
        assert!(matches!(step, Err(DirectoryError::Finished)), "{step:?}");
    }
}

/// Clause 1.
pub async fn a_full_scan_yields_every_entry_once(fixture: impl UserDirectoryFixture) {
    let added = add_many(&fixture).await;
    let scanned = full_scan(&fixture).await;
    assert_eq!(scanned.usernames, added);
    assert_eq!(scanned.entries, ENTRIES as u64);
    assert!(scanned.removed.is_empty());
}

/// Clause 2.
pub async fn a_scan_ends_complete_or_in_an_error(fixture: impl UserDirectoryFixture) {
    add_many(&fixture).await;
    if !fixture.truncate().await {
        return skip("a_scan_ends_complete_or_in_an_error", "the fixture cannot cut a scan short");
    }
    // A directory that cannot be scanned at all has said so.
    let Ok(mut scan) = fixture.directory().scan(None).await else { return };
    match read(&mut *scan).await {
        Err(DirectoryError::Truncated { seen, .. }) => assert!(seen < ENTRIES as u64),
        Err(DirectoryError::Backend(_)) => {}
        other => panic!("a scan that was cut short ends in: {other:?}"),
    }
    assert_finished(&mut *scan).await;
}

/// Clause 3.
pub async fn an_incremental_scan_yields_what_changed(fixture: impl UserDirectoryFixture) {
    let kept = fixture.add("kept").await;
    let renamed = fixture.add("renamed").await;
    let removed = fixture.add("removed").await;
    let Some(first) = full_scan(&fixture).await.watermark else {
        return skip("an_incremental_scan_yields_what_changed", "the directory gives no watermarks");
    };
    fixture.rename(&renamed, "renamed-since").await;
    fixture.remove(&removed).await;
    let added = fixture.add("added").await;
    let fleeting = fixture.add("fleeting").await;
    fixture.remove(&fleeting).await;

    let scanned = scan(&fixture, Some(&first)).await.unwrap();
    assert_eq!(scanned.usernames.get(&renamed).map(String::as_str), Some("renamed-since"));
    assert_eq!(scanned.usernames.get(&added).map(String::as_str), Some("added"));
    assert!(scanned.removed.contains(&removed));
    for gone in [&removed, &fleeting] {
        assert!(!scanned.usernames.contains_key(gone), "{gone} is not there any more");
    }
    assert!(!scanned.removed.contains(&kept) && !scanned.removed.contains(&renamed));

    let second = scanned.watermark.expect("an incremental scan gives a watermark too");
    fixture.remove(&added).await;
    for (since, case) in [(&second, "from the second"), (&first, "from the first once more")] {
        let scanned = scan(&fixture, Some(since)).await.unwrap();
        assert!(scanned.removed.contains(&added), "{case}");
        assert!(!scanned.usernames.contains_key(&added), "{case}");
    }
}

/// Clause 4.
pub async fn an_expired_watermark_is_refused(fixture: impl UserDirectoryFixture) {
    fixture.add("user").await;
    let given = full_scan(&fixture).await.watermark;
    let expired = given.is_some() && fixture.expire_watermarks().await;
    if !expired {
        skip(
            "an_expired_watermark_is_refused",
            "no watermark was given or can expire: only a made up one is tried",
        );
    }
    let made_up = Watermark("made up by nobody".into());
    for watermark in given.filter(|_| expired).iter().chain([&made_up]) {
        let refused = scan(&fixture, Some(watermark)).await;
        assert!(matches!(refused, Err(DirectoryError::WatermarkLost)), "{watermark:?}: {refused:?}");
    }
    assert_eq!(full_scan(&fixture).await.entries, 1);
}

/// Clause 5.
pub async fn an_entry_keeps_its_subject(fixture: impl UserDirectoryFixture) {
    let subject = fixture.add("before").await;
    let other = fixture.add("other").await;
    fixture.rename(&subject, "after").await;
    // A name that became free again is somebody else's.
    let newcomer = fixture.add("before").await;
    assert_ne!(newcomer, subject);
    let expected = [(subject, "after"), (other, "other"), (newcomer, "before")];
    let expected: BTreeMap<String, String> =
        expected.into_iter().map(|(subject, name)| (subject, name.to_owned())).collect();
    assert_eq!(full_scan(&fixture).await.usernames, expected);
}

/// Clause 6.
pub async fn a_finished_scan_stays_finished(fixture: impl UserDirectoryFixture) {
    fixture.add("user").await;
    let mut scan = fixture.directory().scan(None).await.unwrap();
    read(&mut *scan).await.expect("the directory can be read");
    assert_finished(&mut *scan).await;
}

/// Clause 7.
pub async fn an_empty_directory_is_complete(fixture: impl UserDirectoryFixture) {
    let scanned = full_scan(&fixture).await;
    assert_eq!(scanned.entries, 0);
    assert!(scanned.removed.is_empty());
}
