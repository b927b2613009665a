use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use pganalytics_core::audit::{AuditError, AuditEvent, AuditSink};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::error::Retry;
use pganalytics_core::random::OsRandom;
use pganalytics_core::testing::audit_sink::AuditSinkFixture;
use pganalytics_core::testing::{ManualClock, Subject};
use pganalytics_store::audit::{FileAuditConfig, FileAuditSink, FileSync};
use tempfile::TempDir;

use crate::child;
use crate::mount::SmallDisk;
use crate::samples::{event, events, parse_lines, saying};

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn open(path: &Path) -> FileAuditSink {
    FileAuditSink::open(FileAuditConfig::new(path), Arc::new(SystemClock), &OsRandom).unwrap()
}

fn open_at(config: FileAuditConfig, clock: &ManualClock) -> FileAuditSink {
    FileAuditSink::open(config, Arc::new(clock.clone()), &OsRandom).unwrap()
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log/audit.jsonl");
    (folder, path)
}

fn read(path: &Path) -> Vec<AuditEvent> {
    parse_lines(&fs::read(path).unwrap_or_default())
}

/// The finished files, the oldest first.
fn finished(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.extension().is_some_and(|number| number != "jsonl" && number != "lock"))
        .collect();
    files.sort_by_key(|file| file.extension().unwrap().to_owned());
    files
}

async fn in_a_file() -> Option<AuditSinkFixture> {
    let (folder, path) = folder();
    let subject = Subject::<dyn AuditSink>::real_time(Arc::new(open(&path))).keeping(folder);
    let killed = path.with_file_name("killed.jsonl");
    Some(AuditSinkFixture::new(subject, move |_| std::future::ready(read(&path))).with_kill(move |events| {
        child::append_and_kill("file", &killed, &events);
        std::future::ready(read(&killed))
    }))
}

pganalytics_core::audit_sink_contract!(in_a_file());

mod while_it_is_rotated {
    use super::*;

    async fn in_many_files() -> Option<AuditSinkFixture> {
        let (folder, path) = folder();
        let config = FileAuditConfig::new(&path).with_max_bytes(1000).with_keep(1000);
        let sink = open_at(config.with_sync(FileSync::Never), &ManualClock::new());
        let subject = Subject::<dyn AuditSink>::real_time(Arc::new(sink)).keeping(folder);
        let killed = path.with_file_name("killed.jsonl");
        let read_all = move |_| {
            let mut held: Vec<AuditEvent> = finished(&path).iter().flat_map(|file| read(file)).collect();
            held.extend(read(&path));
            std::future::ready(held)
        };
        Some(AuditSinkFixture::new(subject, read_all).with_kill(move |events| {
            child::append_and_kill("file", &killed, &events);
            std::future::ready(read(&killed))
        }))
    }

    pganalytics_core::audit_sink_contract!(in_many_files());
}

#[tokio::test]
async fn only_the_owner_reads_it() {
    let (folder, path) = folder();
    open(&path).append(&events(0..3)).await.unwrap();
    for path in [path, folder.path().join("log")] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has {mode:o}", path.display());
    }
}

#[tokio::test]
async fn full_files_are_finished_and_the_oldest_deleted() {
    let (_folder, path) = folder();
    let config = FileAuditConfig::new(&path).with_max_bytes(1000).with_keep(3);
    let sink = open_at(config, &ManualClock::new());
    for batch in events(0..60).chunks(2) {
        sink.append(batch).await.unwrap();
    }
    let files = finished(&path);
    assert_eq!(files.len(), 3);
    let held: Vec<AuditEvent> = files.iter().chain([&path]).flat_map(|file| read(file)).collect();
    assert_eq!(held, events(60 - u32::try_from(held.len()).unwrap()..60));
    for file in files {
        let length = fs::metadata(&file).unwrap().len();
        assert!((1..=1000).contains(&length), "{} bytes", length);
    }
}

#[tokio::test]
async fn each_day_has_its_file_and_a_clock_stepped_back_has_none() {
    let (_folder, path) = folder();
    let clock = ManualClock::new();
    let sink = open_at(FileAuditConfig::new(&path), &clock);
    for number in 0..3 {
        sink.append(&[event(number)]).await.unwrap();
        clock.advance(DAY);
    }
    clock.set(clock.now() - TimeDelta::days(30));
    sink.append(&[event(3)]).await.unwrap();
    let names: Vec<_> =
        finished(&path).iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["audit.jsonl.2026-01-01.000001", "audit.jsonl.2026-01-02.000002"]);
    assert_eq!(read(&path), events(2..4));
}

#[tokio::test]
async fn numbers_go_on_after_a_restart() {
    let (_folder, path) = folder();
    let config = || FileAuditConfig::new(&path).with_max_bytes(1);
    for number in 0..4 {
        open_at(config(), &ManualClock::new()).append(&[event(number)]).await.unwrap();
    }
    let held: Vec<AuditEvent> = finished(&path).iter().flat_map(|file| read(file)).collect();
    assert_eq!(held, events(0..3));
}

#[tokio::test]
async fn a_torn_line_is_taken_out_and_told_of() {
    let (_folder, path) = folder();
    open(&path).append(&events(0..2)).await.unwrap();
    let whole = fs::read(&path).unwrap();
    let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for length in second + 1..whole.len() - 1 {
        fs::write(&path, &whole[..length]).unwrap();
        open(&path).append(&[event(2)]).await.unwrap();
        let held = read(&path);
        assert_eq!(held[0], event(0));
        assert_eq!(held[1].action.as_str(), "audit.torn");
        let reason = held[1].reason.clone().unwrap();
        assert!(reason.contains(&format!("{} bytes", length - second)), "{reason}");
        assert_eq!(held[2..], [event(2)]);
    }
}

#[tokio::test]
async fn a_line_without_its_end_is_completed() {
    let (_folder, path) = folder();
    open(&path).append(&events(0..2)).await.unwrap();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    open(&path).append(&[event(2)]).await.unwrap();
    assert_eq!(read(&path), events(0..3));
}

#[tokio::test]
async fn what_a_power_cut_left_is_closed_off() {
    let (_folder, path) = folder();
    fs::create_dir(path.parent().unwrap()).unwrap();
    File::create(&path)
        .unwrap()
        .write_all(&[vec![0; 100_000], b"\xff\xfe\x1b[2K".to_vec()].concat())
        .unwrap();
    open(&path).append(&[event(0)]).await.unwrap();
    let held = read(&path);
    assert_eq!(held[0].action.as_str(), "audit.torn");
    assert_eq!(held[1..], [event(0)]);
}

#[tokio::test]
async fn a_second_writer_is_refused() {
    let (_folder, path) = folder();
    let sink = open(&path);
    let second = FileAuditSink::open(FileAuditConfig::new(&path), Arc::new(SystemClock), &OsRandom);
    assert!(matches!(second, Err(AuditError::Backend(error)) if error.retry == Retry::Later));
    drop(sink);
    open(&path);
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_half_written() {
    let Some(disk) = SmallDisk::mount(64 * 1024) else { return };
    let path = disk.path().join("audit.jsonl");
    let sink = open(&path);
    let mut held = 0;
    let error = loop {
        match sink.append(&events(held..held + 10)).await {
            Ok(()) => held += 10,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AuditError::Backend(error) if error.retry == Retry::Later));
    assert!(held > 0);
    assert_eq!(read(&path), events(0..held));
    sink.append(&events(held..held + 10_000)).await.unwrap_err();
    assert_eq!(read(&path), events(0..held));
}

#[tokio::test]
async fn jq_reads_what_was_meant_to_fool_it() {
    let (_folder, path) = folder();
    let texts = ["\n{\"id\":1}\n", "\u{1b}[2J\u{9b}2J", "\u{202e}\u{2066}", "a\u{0}b", &"x".repeat(1 << 20)];
    let sink = open(&path);
    for (number, text) in (0..).zip(texts) {
        sink.append(&[saying(number, text)]).await.unwrap();
    }
    let bytes = fs::read(&path).unwrap();
    let on_screen = |character: char| character == '\n' || (' '..='~').contains(&character);
    assert!(std::str::from_utf8(&bytes).unwrap().chars().all(on_screen));
    let Ok(output) = Command::new("jq").args(["-c", ".user_agent"]).arg(&path).output() else {
        return eprintln!("skipped: `jq` is not installed");
    };
    let texts_of_jq: Vec<String> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    assert_eq!(texts_of_jq, texts);
}
