//! Backups in a directory: the port's contract, and what only a directory can show.
#![cfg(feature = "local")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a helper of a test fails the test, and says why it is skipped"
)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pganalytics_core::backup::{BackupTarget, BackupTargetError, ObjectPath, PutMode};
use pganalytics_core::testing::Subject;
use pganalytics_store::LocalBackupTarget;
use pganalytics_testkit::{Child, wait_until};
use tempfile::TempDir;

const FOLDER: &str = "PGA_TEST_BACKUP_FOLDER";
const MIB: usize = 1024 * 1024;

fn path(text: &str) -> ObjectPath {
    text.parse().unwrap()
}

fn open() -> (TempDir, LocalBackupTarget) {
    let folder = tempfile::tempdir().unwrap();
    let target = LocalBackupTarget::open(folder.path().join("backups")).unwrap();
    (folder, target)
}

async fn put(target: &LocalBackupTarget, at: &str, bytes: impl Into<Bytes>) {
    target.put(&path(at), bytes.into(), PutMode::Overwrite).await.unwrap();
}

async fn listed(target: &LocalBackupTarget) -> Vec<String> {
    let objects = target.list(None, None, 1000).await.unwrap();
    objects.into_iter().map(|object| object.path.to_string()).collect()
}

/// Every file and folder under a path.
fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(all_files(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}

fn left_behind(folder: &Path) -> usize {
    fs::read_dir(folder.join("backups/.tmp")).unwrap().count()
}

mod contract {
    use super::*;

    async fn local() -> Option<Subject<dyn BackupTarget>> {
        let (folder, target) = open();
        Some(Subject::<dyn BackupTarget>::real_time(Arc::new(target)).keeping(folder))
    }

    pganalytics_core::backup_contract!(local());
}

mod contract_where_room_is_short {
    use super::*;

    const ROOM: u64 = 16 * MIB as u64;

    /// A file system of its own.
    struct Mount(TempDir);

    impl Drop for Mount {
        fn drop(&mut self) {
            run("umount", &["-l"], self.0.path());
        }
    }

    fn run(program: &str, arguments: &[&str], folder: &Path) -> bool {
        let mut command = Command::new(program);
        let command = command.args(arguments).arg(folder).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    async fn small() -> Option<Subject<dyn BackupTarget>> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={ROOM}");
        if !run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs"], folder.path()) {
            eprintln!("skipped: mounting a small file system is not allowed here");
            return None;
        }
        let mount = Mount(folder);
        let target = LocalBackupTarget::open(mount.0.path()).unwrap();
        let subject = Subject::<dyn BackupTarget>::real_time(Arc::new(target));
        Some(subject.with_room_for(ROOM).keeping(mount))
    }

    #[test]
    fn a_full_target_says_so() {
        use pganalytics_core::testing::{backup, run_clause};
        run_clause("a_full_target_says_so", small(), backup::a_full_target_says_so);
    }
}

#[tokio::test]
async fn files_and_folders_are_private() {
    let (folder, target) = open();
    put(&target, "a/b/c", "x").await;
    for file in all_files(folder.path()) {
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has {mode:o}", file.display());
    }
}

#[tokio::test]
async fn nothing_temporary_is_left_behind() {
    let (folder, target) = open();
    put(&target, "object", "x").await;
    target.put(&path("object"), Bytes::from("y"), PutMode::Create).await.unwrap_err();
    target.put(&path("object/under"), Bytes::from("y"), PutMode::Overwrite).await.unwrap_err();
    let mut upload = target.upload(&path("upload"), PutMode::Overwrite).await.unwrap();
    upload.write(vec![0; 3 * MIB].into()).await.unwrap();
    drop(upload);
    assert!(wait_until(Duration::from_secs(5), async || left_behind(folder.path()) == 0).await);
    assert_eq!(listed(&target).await, ["object"]);
}

#[tokio::test]
async fn links_lead_nowhere() {
    let (folder, target) = open();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "secret").unwrap();
    let root = folder.path().join("backups");
    symlink(&outside, root.join("folder")).unwrap();
    symlink(outside.join("file"), root.join("file")).unwrap();
    symlink("nowhere", root.join("broken")).unwrap();

    for at in ["folder/file", "file", "broken"] {
        assert_eq!(target.get(&path(at), None).await.unwrap(), None, "{at}");
        assert_eq!(target.head(&path(at)).await.unwrap(), None, "{at}");
        assert_eq!(target.checksum(&path(at)).await.unwrap(), None, "{at}");
    }
    assert!(!target.delete(&path("folder/file")).await.unwrap());
    assert_eq!(listed(&target).await, [""; 0]);
    let refused = target.put(&path("folder/new"), Bytes::from("x"), PutMode::Overwrite).await;
    assert!(matches!(refused, Err(BackupTargetError::Backend(_))), "{refused:?}");
    let refused = target.put(&path("broken"), Bytes::from("x"), PutMode::Create).await;
    assert!(matches!(refused, Err(BackupTargetError::AlreadyExists { .. })), "{refused:?}");
    // The link is replaced, not followed.
    put(&target, "file", "object").await;
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(listed(&target).await, ["file"]);
}

#[tokio::test]
async fn files_of_others_are_passed_over() {
    let (folder, target) = open();
    let root = folder.path().join("backups");
    fs::write(root.join("with space"), "x").unwrap();
    fs::write(root.join(".hidden"), "x").unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    let pipe = Command::new("mkfifo").arg(root.join("pipe")).status().unwrap();
    assert!(pipe.success());
    assert_eq!(target.get(&path("pipe"), None).await.unwrap(), None);
    assert_eq!(listed(&target).await, [""; 0]);
    put(&target, "mine", "x").await;
    assert_eq!(listed(&target).await, ["mine"]);
}

#[tokio::test]
async fn folder_stays_the_same_when_its_path_is_replaced() {
    let (folder, target) = open();
    put(&target, "object", "first").await;
    fs::rename(folder.path().join("backups"), folder.path().join("moved")).unwrap();
    fs::create_dir(folder.path().join("backups")).unwrap();
    put(&target, "second", "x").await;
    assert_eq!(listed(&target).await, ["object", "second"]);
    assert!(folder.path().join("moved/second").exists());
}

/// Runs one test of this file in a process of its own.
fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(FOLDER, folder);
    command
}

#[tokio::test]
#[ignore = "the child of kill_in_the_middle_leaves_whole_objects"]
async fn write_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let target = LocalBackupTarget::open(folder).unwrap();
    let bytes = Bytes::from(vec![7; 4 * MIB]);
    for number in 0.. {
        let mut upload = target.upload(&path(&format!("upload/{number}")), PutMode::Create).await.unwrap();
        upload.write(bytes.clone()).await.unwrap();
        target.put(&path(&format!("put/{number}")), bytes.clone(), PutMode::Create).await.unwrap();
        target.put(&path("overwritten"), bytes.clone(), PutMode::Overwrite).await.unwrap();
        upload.finish().await.unwrap();
    }
}

#[tokio::test]
async fn kill_in_the_middle_leaves_whole_objects() {
    let (folder, target) = open();
    let root = folder.path().join("backups");
    let mut killed_in_the_middle = 0;
    for delay in 0..8 {
        let writer = Child::spawn("writer", child("write_until_killed", &root)).unwrap();
        let begun = wait_until(Duration::from_secs(20), async || left_behind(folder.path()) > 0).await;
        assert!(begun, "the child does not write: {}", writer.log());
        // Not a wait for anything: it is killed anywhere within its round.
        tokio::time::sleep(Duration::from_millis(delay * 3)).await;
        writer.kill_9().await;
        killed_in_the_middle += usize::from(left_behind(folder.path()) > 0);
        for object in target.list(None, None, 10_000).await.unwrap() {
            assert_eq!(object.size, 4 * MIB as u64, "{}", object.path);
            target.delete(&object.path).await.unwrap();
        }
        LocalBackupTarget::open(&root).unwrap();
        assert_eq!(left_behind(folder.path()), 0, "what the killed one left is removed");
    }
    assert!(killed_in_the_middle > 0);
}

#[tokio::test]
async fn opening_spares_what_others_are_writing() {
    let (folder, target) = open();
    let mut upload = target.upload(&path("object"), PutMode::Create).await.unwrap();
    upload.write(vec![1; 2 * MIB].into()).await.unwrap();
    LocalBackupTarget::open(folder.path().join("backups")).unwrap();
    upload.finish().await.unwrap();
    assert_eq!(target.head(&path("object")).await.unwrap().unwrap().size, 2 * MIB as u64);
}

#[tokio::test]
#[ignore = "the child of file_size_limit_is_a_full_target"]
async fn write_beyond_the_limit() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let target = LocalBackupTarget::open(folder).unwrap();
    put(&target, "object", "former").await;
    let large = Bytes::from(vec![1; 2 * MIB]);
    let refused = target.put(&path("object"), large.clone(), PutMode::Overwrite).await;
    assert!(matches!(refused, Err(BackupTargetError::Full { .. })), "{refused:?}");
    let mut upload = target.upload(&path("object"), PutMode::Overwrite).await.unwrap();
    let refused = upload.write(large).await;
    assert!(matches!(refused, Err(BackupTargetError::Full { .. })), "{refused:?}");
    assert!(matches!(upload.finish().await, Err(BackupTargetError::Backend(_))));
    assert_eq!(target.get(&path("object"), None).await.unwrap().unwrap(), "former");
}

#[test]
fn file_size_limit_is_a_full_target() {
    let folder = tempfile::tempdir().unwrap();
    let child = child("write_beyond_the_limit", folder.path());
    let mut limited = Command::new("sh");
    // The signal would kill the child where the error is wanted.
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\""]);
    limited.arg(child.get_program()).args(child.get_args()).env(FOLDER, folder.path());
    let output = limited.output().unwrap();
    assert!(ExitStatus::success(&output.status), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn folder_that_is_only_read_stays_as_it_is() {
    let (folder, target) = open();
    put(&target, "a/b", "kept").await;
    let copy = folder.path().join("copy");
    fs::create_dir_all(copy.join("a")).unwrap();
    fs::copy(folder.path().join("backups/a/b"), copy.join("a/b")).unwrap();
    let target = LocalBackupTarget::open_read_only(&copy).unwrap();
    assert_eq!(target.get(&path("a/b"), None).await.unwrap().unwrap(), "kept");
    assert_eq!(listed(&target).await, ["a/b"]);
    for mode in [PutMode::Create, PutMode::Overwrite] {
        target.put(&path("a/c"), "more".into(), mode).await.unwrap_err();
        target.upload(&path("a/c"), mode).await.unwrap_err();
    }
    target.delete(&path("a/b")).await.unwrap_err();
    assert_eq!(all_files(&copy), [copy.join("a/b"), copy.join("a")]);
    LocalBackupTarget::open_read_only(folder.path().join("missing")).unwrap_err();
    assert!(!folder.path().join("missing").exists());
}
