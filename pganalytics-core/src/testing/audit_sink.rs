//! The contract of [`AuditSink`], a function for each clause.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::DateTime;
use futures::future::BoxFuture;
use serde_json::json;
use uuid::Uuid;

use crate::audit::{
    Actor, ActorKind, AuditError, AuditEvent, AuditSink, Deduplication, Durability, Outcome, Resource,
};
use crate::ids::{EventId, UserId};
use crate::session::SessionId;
use crate::testing::Subject;
use crate::testing::support::{skip, together};

/// Runs the contract of `AuditSink` on the adapter that the expression yields (`async` → `Option<AuditSinkFixture>`), a sink
/// without events.
#[macro_export]
macro_rules! audit_sink_contract {
    ($fixture:expr) => {
        $crate::contract_tests!(
            $crate::testing::audit_sink,
            $fixture,
            [
                a_batch_is_kept_in_order,
                an_empty_batch_is_nothing,
                a_batch_is_taken_whole_or_not_at_all,
                hostile_text_is_kept_harmless,
                concurrent_batches_are_all_kept,
                a_repeated_event_is_kept_once,
                acknowledged_events_survive_a_kill,
            ]
        );
    };
}

type Read = Box<dyn Fn(usize) -> BoxFuture<'static, Vec<AuditEvent>> + Send + Sync>;
type Fail = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;
type AppendAndKill = Box<dyn Fn(Vec<AuditEvent>) -> BoxFuture<'static, Vec<AuditEvent>> + Send + Sync>;

/// A sink under test, a way to read it back, and what else can be done to it.
pub struct AuditSinkFixture {
    subject: Subject<dyn AuditSink>,
    read: Read,
    fail: Option<Fail>,
    append_and_kill: Option<AppendAndKill>,
}

impl AuditSinkFixture {
    /// A sink, and how to read what it holds, in its order and parsed from its own format. A sink that delivers later is
    /// waited for, some seconds at most, until so many events are there.
    pub fn new<F>(subject: Subject<dyn AuditSink>, read: impl Fn(usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Vec<AuditEvent>> + Send + 'static,
    {
        let read: Read = Box::new(move |at_least| Box::pin(read(at_least)));
        Self { subject, read, fail: None, append_and_kill: None }
    }

    /// How to make the next `append`, and that one alone, fail: before, in the middle of or after its effect. Without it that
    /// part of clause 3 is skipped.
    #[must_use]
    pub fn with_failure<F>(self, fail: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { fail: Some(Box::new(move || Box::pin(fail()))), ..self }
    }

    /// Appends events in a process of its own, kills it (SIGKILL) as soon as `append` has returned, and yields what the sink
    /// holds then. A sink that declares itself durable must have it.
    #[must_use]
    pub fn with_kill<F>(self, append_and_kill: impl Fn(Vec<AuditEvent>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Vec<AuditEvent>> + Send + 'static,
    {
        Self { append_and_kill: Some(Box::new(move |events| Box::pin(append_and_kill(events)))), ..self }
    }

    fn sink(&self) -> &dyn AuditSink {
        &*self.subject.port
    }

    async fn append(&self, events: &[AuditEvent]) {
        self.sink().append(events).await.expect("the sink takes events");
    }

    async fn read(&self, at_least: usize) -> Vec<AuditEvent> {
        (self.read)(at_least).await
    }

    fn dedupes(&self) -> bool {
        self.sink().deduplication() == Deduplication::ByEventId
    }
}

/// The n-th event, without optional parts.
pub(crate) fn plain_event(number: u32) -> AuditEvent {
    let at =
        DateTime::from_timestamp_micros(1_767_225_600_000_001 + i64::from(number)).expect("it is a time");
    let id = EventId(Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0000 + u128::from(number)));
    let action = "contract.event".parse().expect("it is an action");
    AuditEvent::new(id, at, Actor::anonymous(), action, Outcome::Success)
}

/// The n-th event, with every part; its texts are `text`.
fn full_event(number: u32, text: &str) -> AuditEvent {
    let text = || text.to_owned();
    let user = UserId(Uuid::from_u128(7));
    let mut event = plain_event(number);
    event.actor =
        Actor { kind: ActorKind::User, id: Some(text()), name: Some(text()), role: Some("admin".into()) };
    event.resource = Some(Resource { kind: text(), id: Some(text()) });
    event.outcome = Outcome::Denied;
    event.reason = Some(text());
    event.changes = Some(json!({ text(): { "before": null, "after": [text(), 1, true] } }));
    event.request_id = Some(text());
    event.session = Some(SessionId::for_user(user, Uuid::from_u128(8)));
    event.address = Some("2001:db8::7".parse().expect("it is an address"));
    event.user_agent = Some(text());
    event.provider = Some(text());
    event
}

fn plain_events(numbers: std::ops::Range<u32>) -> Vec<AuditEvent> {
    numbers.map(plain_event).collect()
}

/// Clause 1.
pub async fn a_batch_is_kept_in_order(fixture: AuditSinkFixture) {
    let mut expected = plain_events(0..20);
    expected[3] = full_event(3, "a text");
    expected[5].address = "192.0.2.1".parse().ok();
    expected[6].resource = Some(Resource { kind: "user".into(), id: None });
    // Neither ids nor times tell the order.
    expected.swap(2, 9);
    expected.reverse();
    for batch in expected.chunks(6) {
        fixture.append(batch).await;
    }
    assert_eq!(fixture.read(expected.len()).await, expected);
}

/// Clause 2.
pub async fn an_empty_batch_is_nothing(fixture: AuditSinkFixture) {
    fixture.append(&[]).await;
    assert_eq!(fixture.read(0).await, []);
    let expected = plain_events(0..1);
    fixture.append(&expected).await;
    fixture.append(&[]).await;
    assert_eq!(fixture.read(1).await, expected);
}

/// Clause 3.
pub async fn a_batch_is_taken_whole_or_not_at_all(fixture: AuditSinkFixture) {
    let unstorable = full_event(1, "a\0b");
    let batch = [plain_event(0), unstorable, plain_event(2)];
    let kept = match fixture.sink().append(&batch).await {
        Ok(()) => batch.to_vec(),
        Err(AuditError::PartlyRejected { positions, total }) => {
            assert_eq!((positions, total), (vec![1], 3));
            vec![plain_event(0), plain_event(2)]
        }
        Err(error) => panic!("an event with U+0000 is neither kept nor rejected: {error:?}"),
    };
    assert_eq!(fixture.read(kept.len()).await, kept);

    let Some(fail) = &fixture.fail else {
        return skip("a_batch_is_taken_whole_or_not_at_all", "the fixture cannot make the sink fail");
    };
    let batch = plain_events(10..13);
    fail().await;
    let error = fixture.sink().append(&batch).await.expect_err("the sink fails");
    assert!(matches!(error, AuditError::Backend(_)), "{error:?}");
    let held = fixture.read(kept.len()).await;
    assert_eq!(held[..kept.len()], kept);
    if !fixture.dedupes() {
        assert!(held[kept.len()..].iter().all(|event| batch.contains(event)));
        return;
    }
    assert!(held.len() == kept.len() || held[kept.len()..] == batch, "a part is held: {held:?}");
    fixture.append(&batch).await;
    let expected = [kept, batch].concat();
    assert_eq!(fixture.read(expected.len()).await, expected);
}

/// Clause 4.
pub async fn hostile_text_is_kept_harmless(fixture: AuditSinkFixture) {
    let forged = serde_json::to_string(&plain_event(99)).expect("events are JSON");
    let texts = [
        format!("\n{forged}\n"),
        format!("\"}}\r\n{forged}"),
        "\n<134>1 2026-01-01T00:00:00Z host app - - - forged".into(),
        "200 <134>1 2026-01-01T00:00:00Z host app - - - forged".into(),
        "a\tb\\n\\tc\\\\.\n\\.\n".into(),
        "] [x@1 y=\"z\"]".into(),
        "\u{1}\u{1b}[2K\u{7f}\u{85}\u{9b}".into(),
        "\u{202e}desrever\u{2028}\u{2029}\u{feff}".into(),
        "'; DROP TABLE audit_events; --\"%_{},NULL".into(),
        "名前 🦀 é e\u{301}".into(),
        " ".into(),
        String::new(),
        "long ".repeat(800),
    ];
    let expected: Vec<AuditEvent> =
        (0..).zip(&texts).map(|(number, text)| full_event(number, text)).collect();
    fixture.append(&expected).await;
    let held = fixture.read(expected.len()).await;
    for (held, expected) in held.iter().zip(&expected) {
        assert_eq!(held, expected);
    }
    assert_eq!(held.len(), expected.len());
}

/// Clause 5.
pub async fn concurrent_batches_are_all_kept(fixture: AuditSinkFixture) {
    const CALLERS: u32 = 8;
    const EVENTS: u32 = 20;
    let callers = (0..CALLERS).map(|caller| {
        let sink = Arc::clone(&fixture.subject.port);
        async move {
            for batch in plain_events(caller * EVENTS..(caller + 1) * EVENTS).chunks(5) {
                sink.append(batch).await.expect("the sink takes events");
            }
        }
    });
    together(callers).await;
    let held = fixture.read((CALLERS * EVENTS) as usize).await;
    let mut by_caller: HashMap<u128, Vec<AuditEvent>> = HashMap::new();
    for event in held {
        let number = event.id.0.as_u128() - plain_event(0).id.0.as_u128();
        by_caller.entry(number / u128::from(EVENTS)).or_default().push(event);
    }
    for caller in 0..CALLERS {
        let held = by_caller.remove(&u128::from(caller)).unwrap_or_default();
        assert_eq!(held, plain_events(caller * EVENTS..(caller + 1) * EVENTS));
    }
}

/// Clause 6.
pub async fn a_repeated_event_is_kept_once(fixture: AuditSinkFixture) {
    if !fixture.dedupes() {
        return skip("a_repeated_event_is_kept_once", "the sink does not declare that it dedupes");
    }
    let first = plain_events(0..4);
    fixture.append(&first).await;
    fixture.append(&first).await;
    let mixed = [plain_event(4), plain_event(1), plain_event(5), plain_event(4), plain_event(3)];
    fixture.append(&mixed).await;
    let altered = full_event(2, "says something else");
    fixture.append(&[altered]).await;

    let repeating = (0..4).map(|_| {
        let sink = Arc::clone(&fixture.subject.port);
        async move { sink.append(&plain_events(4..7)).await.expect("the sink takes events") }
    });
    together(repeating).await;
    // In a sink that delivers later whatever came before this has arrived when it has.
    fixture.append(&[plain_event(7)]).await;
    assert_eq!(fixture.read(8).await, plain_events(0..8));
}

/// Clause 7.
pub async fn acknowledged_events_survive_a_kill(fixture: AuditSinkFixture) {
    if fixture.sink().durability() == Durability::BestEffort {
        return skip("acknowledged_events_survive_a_kill", "the sink does not declare that it is durable");
    }
    let append_and_kill = fixture.append_and_kill.as_ref();
    let append_and_kill = append_and_kill.expect("a sink that declares itself durable is killed to prove it");
    let expected = plain_events(0..50);
    assert_eq!(append_and_kill(expected.clone()).await, expected);
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::{BufRead, BufReader, Write};
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};
    use std::sync::Mutex;
    use std::time::Duration;

    use async_trait::async_trait;

    use super::*;
    use crate::error::BackendError;

    const LOG: &str = "PGA_TEST_AUDIT_LOG";
    const ACKNOWLEDGED: &str = "every event is acknowledged";

    /// A durable log of one event a line, which does not notice repeated events.
    #[derive(Debug)]
    struct LineLog {
        file: Mutex<File>,
        fails: Mutex<bool>,
    }

    impl LineLog {
        fn open(path: &Path) -> Self {
            let file = OpenOptions::new().create(true).append(true).open(path).unwrap();
            Self { file: Mutex::new(file), fails: Mutex::new(false) }
        }

        fn write(&self, events: &[AuditEvent]) -> std::io::Result<()> {
            let lines: Vec<String> =
                events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect();
            let mut file = self.file.lock().unwrap();
            file.write_all(lines.concat().as_bytes())?;
            file.sync_data()
        }
    }

    #[async_trait]
    impl AuditSink for LineLog {
        fn name(&self) -> &'static str {
            "lines"
        }

        fn durability(&self) -> Durability {
            Durability::Durable
        }

        fn deduplication(&self) -> Deduplication {
            Deduplication::None
        }

        async fn append(&self, events: &[AuditEvent]) -> Result<(), AuditError> {
            let fails = std::mem::take(&mut *self.fails.lock().unwrap());
            let taken = if fails { &events[..1] } else { events };
            self.write(taken).map_err(|error| AuditError::Backend(BackendError::later("lines", error)))?;
            if fails {
                return Err(AuditError::Backend(BackendError::later("lines", "the disk is full")));
            }
            Ok(())
        }
    }

    fn read(path: &Path) -> Vec<AuditEvent> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn append_and_kill(path: PathBuf, events: Vec<AuditEvent>) -> Vec<AuditEvent> {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "testing::audit_sink::tests::append_and_wait"])
            .env(LOG, &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        serde_json::to_writer(&mut stdin, &events).unwrap();
        drop(stdin);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let acknowledged = lines.any(|line| line.contains(ACKNOWLEDGED));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(acknowledged, "the other process could not append");
        read(&path)
    }

    #[tokio::test]
    #[ignore = "runs in a process of its own, which is killed"]
    async fn append_and_wait() {
        let events: Vec<AuditEvent> = serde_json::from_reader(std::io::stdin()).unwrap();
        let log = LineLog::open(Path::new(&std::env::var(LOG).unwrap()));
        log.append(&events).await.unwrap();
        println!("{ACKNOWLEDGED}");
        std::thread::sleep(Duration::from_secs(30));
        panic!("nobody killed it");
    }

    async fn lines() -> Option<AuditSinkFixture> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = Arc::new(LineLog::open(&path));
        let failing = Arc::clone(&log);
        let killed = path.clone();
        let subject = Subject::real_time(log as Arc<dyn AuditSink>).keeping(folder);
        let fixture = AuditSinkFixture::new(subject, move |_| std::future::ready(read(&path)))
            .with_failure(move || {
                *failing.fails.lock().unwrap() = true;
                std::future::ready(())
            })
            .with_kill(move |events| append_and_kill(killed.clone(), events));
        Some(fixture)
    }

    crate::audit_sink_contract!(lines());
}
